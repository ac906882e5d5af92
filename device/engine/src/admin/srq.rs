// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about shared receive queues.

use crate::admin::memory::{handle_reserved, page_failure};
use crate::admin::objects::{count_cq, created, ring, HANDLE};
use crate::admin::{eq, pd, Failure, Reply};
use crate::env::{Dma, Env};
use crate::hca::{Cx, Hca, InPd};
use crate::pages::PageFault;
use crate::ram;
use crate::srq::{MoveFault, Srq};
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{CreateSrqReq, HandleReq, ModifySrqReq, ModifySrqRsp, QuerySrqRsp};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Cqn, Srqn};
use verbena_hw::srq::{modify, SrqRecord, SrqType};
use verbena_hw::wqe::{RecvHeader, Sge, MAX_LOG_ENTRIES, MAX_LOG_STRIDE, MAX_SGE, RECV_MIN_LOG_STRIDE};

fn field(good: bool, offset: u32) -> Result<(), Failure> {
    if good {
        Ok(())
    } else {
        Err(Failure::bad_field(offset))
    }
}

fn check_record<E: Env>(hca: &Hca, cx: &Cx<'_, E>, record: u64, offset: u32) -> Result<(), Failure> {
    let mapped = ram::whole(cx.env.ram(hca.id), record, size_of::<SrqRecord>(), Dma::Write).is_ok();
    if record % 64 != 0 || !mapped {
        return Err(Failure::bad_address(offset));
    }
    Ok(())
}

/// CREATE_SRQ.
pub(crate) fn create<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateSrqReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateSrqReq, $field) as u32
        };
    }
    if req.reserved != 0 {
        return Err(Failure::reserved(at!(reserved)));
    }
    let xrc = req.srq_type == SrqType::XRC;
    field(xrc || req.srq_type == SrqType::BASIC, at!(srq_type))?;
    field(xrc || req.cqn == Cqn::default(), at!(cqn))?;
    field(xrc || req.xrcdn == 0, at!(xrcdn))?;
    field(req.log_entries <= MAX_LOG_ENTRIES, at!(log_entries))?;
    field(
        (RECV_MIN_LOG_STRIDE..=MAX_LOG_STRIDE).contains(&req.log_stride),
        at!(log_stride),
    )?;
    let entry = size_of::<RecvHeader>() + usize::from(req.max_sge) * size_of::<Sge>();
    field(req.max_sge <= MAX_SGE && entry <= 1 << req.log_stride, at!(max_sge))?;
    field(req.limit <= 1 << req.log_entries, at!(limit))?;
    if hca.pds.get(req.pdn.0).is_none() {
        return Err(Failure::no_such_object(at!(pdn)));
    }
    if hca.eq(req.eqn).is_none() {
        return Err(Failure::no_such_object(at!(eqn)));
    }
    if xrc && hca.cqs.get(req.cqn.get()).is_none() {
        return Err(Failure::no_such_object(at!(cqn)));
    }
    if xrc && hca.xrcds.get(req.xrcdn).is_none() {
        return Err(Failure::no_such_object(at!(xrcdn)));
    }
    check_record(hca, cx, req.record, at!(record))?;
    if !hca.srqs.has_room() {
        return Err(Failure::limit(hca.srqs.limit()));
    }
    let stride = 1 << req.log_stride;
    let ring = ring(hca, cx, req.ring, req.log_entries, stride, Dma::Read, 0, at!(ring))?;

    hca.extents += ring.cost();
    if let Some(pd) = hca.pds.get_mut(req.pdn.0) {
        pd.enter(InPd::Srq);
    }
    if let Some(eq) = hca.eq_mut(req.eqn) {
        eq.users += 1;
    }
    count_cq(hca, req.cqn, 1);
    if let Some(xrcd) = hca.xrcds.get_mut(req.xrcdn) {
        xrcd.srqs += 1;
    }
    let number = hca.srqs.insert_with(|_| {
        Box::new(Srq {
            ring,
            record: req.record,
            cookie: req.cookie,
            pdn: req.pdn,
            eqn: req.eqn,
            cqn: req.cqn,
            xrcdn: req.xrcdn,
            max_sge: req.max_sge,
            limit: req.limit,
            consumer: 0,
            failed: false,
            users: 0,
        })
    });
    hca.check_limit(cx, Srqn::truncate(number));
    Ok(created(number))
}

/// MODIFY_SRQ. The request is checked, and the ring moved, before the limit is armed.
pub(crate) fn modify<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &ModifySrqReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(ModifySrqReq, $field) as u32
        };
    }
    if req.reserved0 != [0; 3] {
        return Err(Failure::reserved(at!(reserved0)));
    }
    if req.reserved1 != 0 {
        return Err(Failure::reserved(at!(reserved1)));
    }
    field(req.mask & !modify::ALL == 0, at!(mask))?;
    let srq = hca.srqs.get(req.srqn.get()).ok_or(Failure::no_such_object(at!(srqn)))?;
    if srq.failed {
        return Err(Failure {
            status: Status::QUEUE_FAILED,
            detail: 0,
        });
    }
    let moves = req.mask & modify::RING != 0;
    let entries = if moves {
        field(req.log_entries <= MAX_LOG_ENTRIES, at!(log_entries))?;
        1 << req.log_entries
    } else {
        srq.ring.entries()
    };
    // A limit that stays armed must fit the new ring too.
    let limit = if req.mask & modify::LIMIT != 0 {
        req.limit
    } else {
        srq.limit
    };
    field(limit <= entries, at!(limit))?;
    let (stride, old_cost) = (srq.ring.stride(), srq.ring.cost());
    let mut posted = 0;
    if moves {
        check_record(hca, cx, req.record, at!(record))?;
        let ring = ring(hca, cx, req.ring, req.log_entries, stride, Dma::Write, 0, at!(ring))?;
        let cost = ring.cost();
        let ram = cx.env.ram(hca.id);
        let Some(srq) = hca.srqs.get_mut(req.srqn.get()) else {
            return Err(Failure::no_such_object(at!(srqn)));
        };
        posted = srq.move_to(ram, ring, req.record).map_err(|fault| match fault {
            MoveFault::TooSmall => Failure::bad_field(at!(log_entries)),
            MoveFault::Unreachable => page_failure(PageFault::Unreachable, at!(ring)),
        })?;
        hca.extents = hca.extents - old_cost + cost;
    }
    if let Some(srq) = hca.srqs.get_mut(req.srqn.get()) {
        srq.limit = limit;
    }
    hca.check_limit(cx, req.srqn);
    Ok(Reply::new(&ModifySrqRsp { posted, reserved: 0 }))
}

/// DESTROY_SRQ.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let srq = hca.srqs.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    if srq.users > 0 {
        return Err(Failure::in_use(srq.users));
    }
    let (eqn, pdn, cost) = (srq.eqn, srq.pdn, srq.ring.cost());
    let (cqn, xrcdn) = (srq.cqn, srq.xrcdn);
    hca.srqs.remove(req.handle);
    hca.extents -= cost;
    pd::release(hca, pdn, InPd::Srq);
    count_cq(hca, cqn, -1);
    if let Some(xrcd) = hca.xrcds.get_mut(xrcdn) {
        xrcd.srqs -= 1;
    }
    eq::release(hca, eqn, |eqe| {
        matches!(Event(eqe.event), Event::SRQ_ERR | Event::SRQ_LIMIT_REACHED) && eqe.number == req.handle
    });
    Ok(Reply::empty())
}

/// QUERY_SRQ.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let srq = hca.srqs.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QuerySrqRsp {
        entries: srq.ring.entries(),
        limit: srq.limit,
        consumer: srq.consumer,
        users: srq.users,
        pdn: srq.pdn,
        cqn: srq.cqn,
        xrcdn: srq.xrcdn,
        srq_type: if srq.xrcdn == 0 { SrqType::BASIC } else { SrqType::XRC },
        max_sge: srq.max_sge,
        failed: srq.failed.into(),
        reserved0: 0,
        reserved: [0; 4],
    }))
}
