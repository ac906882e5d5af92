// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memberships in multicast groups.

use crate::driver::{end_with, Handling, Payload};
use crate::platform::Platform;
use crate::Verbena;
use rdma_uapi::class::mcast::{GID, MEMBERS, QP};
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Reason};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{McastReq, QueryMcastRsp};
use verbena_hw::id::{Gid, Qpn};

/// A membership.
pub struct Membership {
    qpn: Qpn,
    gid: Gid,
    qp: ObjectId,
}

impl Membership {
    fn request(&self) -> McastReq {
        McastReq {
            qpn: self.qpn,
            reserved: 0,
            gid: self.gid,
        }
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let queue_pair = call.require_object(QP)?;
    let Some(Payload::Qp(qp)) = queue_pair.payload() else {
        unreachable!("the attribute takes queue pairs only")
    };
    let gid = Gid(call.require(GID)?);
    if !gid.is_multicast() {
        return Err(call.out_of_range(GID));
    }
    let membership = Membership {
        qpn: qp.qpn,
        gid,
        qp: queue_pair.id(),
    };
    let reservation = call.reserve()?;
    let request = membership.request();
    let attached: Result<(), _> = call.device().command(Opcode::ATTACH_MCAST, &request);
    attached.map_err(|error| {
        // The rest has been checked: it is a member already.
        if error.is(Status::BAD_FIELD) {
            call.fail(GID, Errno::EEXIST, Reason::IN_USE)
        } else {
            error.into()
        }
    })?;
    call.publish(reservation, Some(Payload::Mcast(membership)), &[&queue_pair]);
    Ok(())
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Mcast(membership) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (qp, gid, request) = (membership.qp, membership.gid.0, membership.request());
    if call.has(MEMBERS) {
        let state: QueryMcastRsp = call.device().command(Opcode::QUERY_MCAST, &request)?;
        call.put(MEMBERS, &state.members)?;
    }
    call.put(QP, &qp)?;
    call.put(GID, &gid)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Mcast(membership)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    Ok(end_with(ending, Opcode::DETACH_MCAST, &membership.request())?)
}
