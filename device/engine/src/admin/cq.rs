// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing a completion queue: when it tells, and where it is.

use crate::admin::memory::page_failure;
use crate::admin::objects::ring;
use crate::admin::{Failure, Reply};
use crate::cq::{Moderation, MoveFault};
use crate::env::{Dma, Env};
use crate::hca::{Cx, Hca};
use crate::pages::PageFault;
use crate::ram;
use core::mem::offset_of;
use core::time::Duration;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{ModifyCqReq, ModifyCqRsp};
use verbena_hw::cqe::{modify as change, CqRecord, Cqe, MAX_LOG_ENTRIES, MAX_MODERATION};

/// MODIFY_CQ. The queue moves before its events are moderated; a held event that need not wait any more goes out.
pub(crate) fn modify<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &ModifyCqReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(ModifyCqReq, $field) as u32
        };
    }
    if req.reserved != [0; 15] {
        return Err(Failure::reserved(at!(reserved)));
    }
    if req.mask & !change::ALL != 0 {
        return Err(Failure::bad_field(at!(mask)));
    }
    for (value, offset) in [(req.count, at!(count)), (req.period_us, at!(period_us))] {
        if value > MAX_MODERATION {
            return Err(Failure::bad_field(offset));
        }
    }
    let cqn = req.cqn.get();
    let cq = hca.cqs.get(cqn).ok_or(Failure::no_such_object(at!(cqn)))?;
    if cq.counts.is_some() {
        return Err(Failure::bad_field(at!(cqn)));
    }
    if cq.failed.is_some() {
        return Err(Failure {
            status: Status::QUEUE_FAILED,
            detail: 0,
        });
    }
    let mut carried = 0;
    if req.mask & change::RING != 0 {
        if req.log_entries > MAX_LOG_ENTRIES {
            return Err(Failure::bad_field(at!(log_entries)));
        }
        let mapped = ram::whole(cx.env.ram(hca.id), req.record, size_of::<CqRecord>(), Dma::Write).is_ok();
        if req.record % 64 != 0 || !mapped {
            return Err(Failure::bad_address(at!(record)));
        }
        let old_cost = cq.ring.cost();
        let entry = size_of::<Cqe>();
        let ring = ring(hca, cx, req.ring, req.log_entries, entry, Dma::Write, 0, at!(ring))?;
        let cost = ring.cost();
        let ram = cx.env.ram(hca.id);
        let cq = hca.cqs.get_mut(cqn).ok_or(Failure::no_such_object(at!(cqn)))?;
        carried = cq.move_to(ram, ring, req.record).map_err(|fault| match fault {
            MoveFault::TooSmall => Failure::bad_field(at!(log_entries)),
            MoveFault::Unreachable => page_failure(PageFault::Unreachable, at!(ring)),
        })?;
        hca.extents = hca.extents - old_cost + cost;
    }
    if req.mask & change::MODERATION != 0 {
        if let Some(cq) = hca.cqs.get_mut(cqn) {
            cq.moderation = Moderation {
                count: req.count,
                period: Duration::from_micros(req.period_us.into()),
            };
        }
        // Whoever held it back by other rules would hold it for ever.
        hca.release_event(cx, cqn);
    }
    Ok(Reply::new(&ModifyCqRsp { carried, reserved: 0 }))
}
