// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about XRC domains, and about the targets in them.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::{created, is_of_qp, new_qp, HANDLE};
use crate::admin::{eq, Failure, Reply};
use crate::hca::Hca;
use crate::qp::xrc::Xrcd;
use crate::qp::Qp;
use crate::ring::Ring;
use core::mem::offset_of;
use verbena_hw::cmd::{CreateQpReq, HandleReq, QueryXrcdRsp};
use verbena_hw::id::{Cqn, Pdn, Srqn};
use verbena_hw::ring::PageList;

/// CREATE_XRCD.
pub(crate) fn create(hca: &mut Hca) -> Result<Reply, Failure> {
    if !hca.xrcds.has_room() {
        return Err(Failure::limit(hca.xrcds.limit()));
    }
    Ok(created(hca.xrcds.insert_with(|_| Xrcd::default())))
}

/// DESTROY_XRCD.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let xrcd = hca.xrcds.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    if xrcd.users() > 0 {
        return Err(Failure::in_use(xrcd.users()));
    }
    hca.xrcds.remove(req.handle);
    Ok(Reply::empty())
}

/// QUERY_XRCD.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let xrcd = hca.xrcds.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryXrcdRsp {
        srqs: xrcd.srqs,
        targets: xrcd.targets,
        reserved: [0; 2],
    }))
}

/// CREATE_QP of an XRC target, in RESET: its number.
pub(crate) fn create_target(hca: &mut Hca, req: &CreateQpReq) -> Result<u32, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateQpReq, $field) as u32
        };
    }
    if req.reserved != [0; 4] {
        return Err(Failure::reserved(at!(reserved)));
    }
    // It has no queue, so nothing of what queues need.
    for (good, offset) in [
        (req.sq == PageList::default(), at!(sq)),
        (req.rq == PageList::default(), at!(rq)),
        (req.pdn == Pdn::default(), at!(pdn)),
        (req.send_cqn == Cqn::default(), at!(send_cqn)),
        (req.recv_cqn == Cqn::default(), at!(recv_cqn)),
        (req.srqn == Srqn::default(), at!(srqn)),
        (req.doorbell == 0, at!(doorbell)),
        (req.slot == 0, at!(slot)),
        (req.flags == 0, at!(flags)),
        (req.sq_log_entries == 0, at!(sq_log_entries)),
        (req.sq_log_stride == 0, at!(sq_log_stride)),
        (req.rq_log_entries == 0, at!(rq_log_entries)),
        (req.rq_log_stride == 0, at!(rq_log_stride)),
        (req.max_send_sge == 0, at!(max_send_sge)),
        (req.max_recv_sge == 0, at!(max_recv_sge)),
        (req.max_inline == 0, at!(max_inline)),
    ] {
        if !good {
            return Err(Failure::bad_field(offset));
        }
    }
    if hca.xrcds.get(req.xrcdn).is_none() {
        return Err(Failure::no_such_object(at!(xrcdn)));
    }
    if hca.eq(req.eqn).is_none() {
        return Err(Failure::no_such_object(at!(eqn)));
    }
    if !hca.qps.has_room() {
        return Err(Failure::limit(hca.qps.limit()));
    }
    if let Some(xrcd) = hca.xrcds.get_mut(req.xrcdn) {
        xrcd.targets += 1;
    }
    if let Some(eq) = hca.eq_mut(req.eqn) {
        eq.users += 1;
    }
    Ok(hca.qps.insert_with(|number| new_qp(req, number, Ring::none(), None)))
}

/// DESTROY_QP of an XRC target, which is out of the table already.
pub(crate) fn release_target(hca: &mut Hca, qp: &Qp) {
    if let Some(xrcd) = hca.xrcds.get_mut(qp.xrc.xrcdn) {
        xrcd.targets -= 1;
    }
    eq::release(hca, qp.eqn, |eqe| is_of_qp(eqe, qp.qpn.get()));
}
