// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about counter sets.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::{created, HANDLE};
use crate::admin::{Failure, Reply};
use crate::counter_set::CounterSet;
use crate::hca::Hca;
use core::mem::offset_of;
use verbena_hw::cmd::{BindCounterReq, HandleReq, QueryCounterRsp};

/// CREATE_COUNTER.
pub(crate) fn create(hca: &mut Hca) -> Result<Reply, Failure> {
    let sets = &mut hca.counter_sets.sets;
    if !sets.has_room() {
        return Err(Failure::limit(sets.limit()));
    }
    Ok(created(sets.insert_with(|_| CounterSet::default())))
}

/// DESTROY_COUNTER.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let set = hca.counter_sets.sets.get(req.handle);
    if set.ok_or(Failure::no_such_object(HANDLE))?.members > 0 {
        let bound = hca.qps.iter().filter(|(_, qp)| qp.counter_set == req.handle);
        let bound: Vec<u32> = bound.map(|(qpn, _)| qpn).collect();
        for qpn in bound {
            if let Some(qp) = hca.qps.get_mut(qpn) {
                qp.counter_set = 0;
                hca.counter_sets.moved(req.handle, 0);
            }
        }
    }
    hca.counter_sets.sets.remove(req.handle);
    Ok(Reply::empty())
}

/// QUERY_COUNTER.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let set = hca.counter_sets.sets.get(req.handle);
    let set = set.ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryCounterRsp {
        values: set.values,
        members: set.members,
        reserved: [0; 3],
    }))
}

/// BIND_COUNTER.
pub(crate) fn bind(hca: &mut Hca, req: &BindCounterReq) -> Result<Reply, Failure> {
    if req.counter != 0 && hca.counter_sets.sets.get(req.counter).is_none() {
        return Err(Failure::no_such_object(offset_of!(BindCounterReq, counter) as u32));
    }
    let qp = hca.qps.get_mut(req.qpn.get());
    let qp = qp.ok_or(Failure::no_such_object(offset_of!(BindCounterReq, qpn) as u32))?;
    let before = core::mem::replace(&mut qp.counter_set, req.counter);
    hca.counter_sets.moved(before, req.counter);
    Ok(Reply::empty())
}
