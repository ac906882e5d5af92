// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! XRC targets: queue pairs without queues, so without memory, doorbell and completion queues.

use crate::driver::{end, Handling, Payload};
use crate::events::delist_and;
use crate::numbers::Kind;
use crate::platform::Platform;
use crate::qp::transition;
use crate::qp_attrs::{self, Given};
use crate::Verbena;
use rdma_uapi::class::qp;
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::Ending;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateQpReq, HandleReq, HandleRsp, ModifyQpReq, QueryQpRsp};
use verbena_hw::id::Qpn;
use verbena_hw::qp::{attr, QpState, QpType};
use zerocopy::FromZeros;

/// A target.
pub struct Target {
    qpn: Qpn,
    xrcd: ObjectId,
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let xrcd = call.require_object(qp::XRCD)?;
    let Some(Payload::Xrcd(domain)) = xrcd.payload() else {
        unreachable!("the attribute takes XRC domains only")
    };
    let given = Given::read(call)?;
    qp_attrs::check_way(call, QpType::XRC_TGT, &given)?;
    let reservation = call.reserve()?;
    let request = CreateQpReq {
        qp_type: QpType::XRC_TGT,
        eqn: hardware.events[0].eqn,
        xrcdn: domain.xrcdn,
        ..CreateQpReq::new_zeroed()
    };
    let response: HandleRsp = hardware.command(Opcode::CREATE_QP, &request)?;
    let qpn = Qpn::truncate(response.handle);
    let target = Target { qpn, xrcd: xrcd.id() };
    let object = call.publish(reservation, Some(Payload::Target(target)), &[&xrcd]);
    // From here on the dispatcher ends the target if anything fails.
    hardware.enlist(Kind::Qp, response.handle, object)?;
    if given.attrs.state != QpState::RESET.0 {
        // All the way in one command.
        let mut attrs = given.attrs;
        attrs.cur_state = QpState::RESET.0;
        let mask = given.mask | attr::CUR_STATE;
        transition(call, &ModifyQpReq { qpn, mask, attrs })?;
    }
    call.put(qp::QPN, &qpn.get())
}

pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Target(target) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let given = Given::read(call)?;
    let request = ModifyQpReq {
        qpn: target.qpn,
        mask: given.mask,
        attrs: given.attrs,
    };
    transition(call, &request)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Target(target) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (qpn, xrcd) = (target.qpn, target.xrcd);
    let request = HandleReq {
        handle: qpn.get(),
        reserved: 0,
    };
    let state: QueryQpRsp = call.device().command(Opcode::QUERY_QP, &request)?;
    call.put(qp::XRCD, &xrcd)?;
    call.put(qp::QPN, &qpn.get())?;
    qp_attrs::answer(call, &state.attrs)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Target(target)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let qpn = target.qpn.get();
    Ok(delist_and(ending.context.device(), Kind::Qp, qpn, || {
        end(ending, Opcode::DESTROY_QP, qpn)
    })?)
}
