// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about event queues.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::{created, ring, HANDLE};
use crate::admin::{Failure, Reply};
use crate::env::{Dma, Env};
use crate::eq::Eq;
use crate::hca::{Cx, Hca};
use core::mem::offset_of;
use verbena_hw::cmd::{CreateEqReq, HandleReq, QueryEqRsp};
use verbena_hw::eqe::{self, Eqe};
use verbena_hw::id::Eqn;
use verbena_hw::pci::MSIX_VECTORS;
use verbena_hw::regs::EVENT_QUEUES;

/// CREATE_EQ.
pub(crate) fn create<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateEqReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateEqReq, $field) as u32
        };
    }
    if req.reserved != [0; 3] {
        return Err(Failure::reserved(at!(reserved)));
    }
    if req.log_entries > eqe::MAX_LOG_ENTRIES {
        return Err(Failure::bad_field(at!(log_entries)));
    }
    if req.vector >= MSIX_VECTORS {
        return Err(Failure::bad_field(at!(vector)));
    }
    let async_default = req.async_default != 0;
    if async_default && hca.eqs.iter().flatten().any(|eq| eq.async_default) {
        return Err(Failure::bad_field(at!(async_default)));
    }
    let Some(eqn) = hca.eqs.iter().position(Option::is_none) else {
        return Err(Failure::limit(EVENT_QUEUES));
    };
    let ring = ring(
        hca,
        cx,
        req.ring,
        req.log_entries,
        size_of::<Eqe>(),
        Dma::Write,
        0,
        at!(ring),
    )?;
    hca.extents += ring.cost();
    hca.eqs[eqn] = Some(Box::new(Eq::new(ring, req.vector, async_default)));
    Ok(created(eqn as u32))
}

/// DESTROY_EQ.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let eq = hca.eq(Eqn(req.handle)).ok_or(Failure::no_such_object(HANDLE))?;
    if eq.users > 0 {
        return Err(Failure::in_use(eq.users));
    }
    hca.extents -= eq.ring.cost();
    hca.eqs[req.handle as usize] = None;
    Ok(Reply::empty())
}

/// QUERY_EQ.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let eq = hca.eq(Eqn(req.handle)).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryEqRsp {
        raised: eq.raised,
        entries: eq.ring.entries(),
        producer: eq.producer,
        consumer: eq.consumer,
        // One event of each kind and object at most.
        waiting: eq.backlog_len() as u32,
        users: eq.users,
        vector: eq.vector,
        armed: eq.armed.into(),
        async_default: eq.async_default.into(),
        reserved: [0; 4],
    }))
}

/// An object no longer uses its event queue, and its events that still wait there are void.
pub(crate) fn release(hca: &mut Hca, eqn: Eqn, its_own: impl Fn(&Eqe) -> bool) {
    if let Some(eq) = hca.eq_mut(eqn) {
        eq.users -= 1;
        eq.forget(its_own);
    }
}
