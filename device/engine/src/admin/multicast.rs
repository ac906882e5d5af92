// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about multicast groups.

use crate::admin::{Failure, Reply};
use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::limits;
use crate::multicast::AttachFault;
use crate::schedule::QpRef;
use core::mem::offset_of;
use verbena_hw::cmd::{McastReq, QueryMcastRsp};
use verbena_hw::qp::QpType;

const QPN: u32 = offset_of!(McastReq, qpn) as u32;
const GID: u32 = offset_of!(McastReq, gid) as u32;

/// The queue pair that a request names.
fn checked(hca: &Hca, req: &McastReq) -> Result<QpRef, Failure> {
    if req.reserved != 0 {
        return Err(Failure::reserved(offset_of!(McastReq, reserved) as u32));
    }
    if !req.gid.is_multicast() {
        return Err(Failure::bad_field(GID));
    }
    let qp = hca.qps.get(req.qpn.get()).ok_or(Failure::no_such_object(QPN))?;
    if qp.kind != QpType::UD {
        return Err(Failure::bad_field(QPN));
    }
    Ok(QpRef {
        hca: hca.id,
        qpn: req.qpn,
    })
}

/// ATTACH_MCAST.
pub(crate) fn attach<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &McastReq) -> Result<Reply, Failure> {
    let member = checked(hca, req)?;
    if hca.memberships == limits::MEMBERSHIPS {
        return Err(Failure::limit(limits::MEMBERSHIPS));
    }
    cx.fabric.groups.attach(req.gid, member).map_err(|fault| match fault {
        AttachFault::Member => Failure::bad_field(GID),
        AttachFault::Full => Failure::limit(limits::GROUP as u32),
    })?;
    hca.memberships += 1;
    if let Some(qp) = hca.qps.get_mut(req.qpn.get()) {
        qp.groups += 1;
    }
    Ok(Reply::empty())
}

/// DETACH_MCAST.
pub(crate) fn detach<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &McastReq) -> Result<Reply, Failure> {
    let member = checked(hca, req)?;
    if !cx.fabric.groups.detach(&req.gid, member) {
        return Err(Failure::no_such_object(GID));
    }
    hca.memberships -= 1;
    if let Some(qp) = hca.qps.get_mut(req.qpn.get()) {
        qp.groups -= 1;
    }
    Ok(Reply::empty())
}

/// QUERY_MCAST.
pub(crate) fn query<E: Env>(hca: &Hca, cx: &Cx<'_, E>, req: &McastReq) -> Result<Reply, Failure> {
    let member = checked(hca, req)?;
    let members = cx.fabric.groups.members(&req.gid);
    if !members.contains(&member) {
        return Err(Failure::no_such_object(GID));
    }
    // Who else listens on the fabric is nobody's business here.
    let own = members.iter().filter(|qp| qp.hca == hca.id).count();
    Ok(Reply::new(&QueryMcastRsp {
        members: own as u32,
        reserved: 0,
    }))
}
