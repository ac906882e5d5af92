// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Flow rules.

use crate::driver::{end, Handling, Payload};
use crate::platform::Platform;
use crate::{CommandError, Verbena};
use core::mem::offset_of;
use rdma_uapi::class::flow::{self, flag, kind, FlowFields};
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Failure, Reason};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{CreateFlowReq, HandleReq, HandleRsp, QueryFlowRsp};
use verbena_hw::flow::{self as device, FlowType};
use verbena_hw::id::Qpn;

/// A flow rule.
pub struct Flow {
    number: u32,
    qp: Option<ObjectId>,
}

/// The flags on both sides.
const FLAGS: [(u32, u8); 3] = [
    (flag::ALLOW_LOOP_BACK, device::flags::LOOPBACK),
    (flag::DONT_TRAP, device::flags::DONT_TRAP),
    (flag::DROP, device::flags::DROP),
];

/// Copies every field of one of the two structures into the other.
macro_rules! fields {
    ($from:expr => $to:path) => {{
        let from = $from;
        $to {
            dmac: from.dmac,
            smac: from.smac,
            ethertype: from.ethertype,
            vlan: from.vlan,
            src_ip: from.src_ip,
            dst_ip: from.dst_ip,
            flow_label: from.flow_label,
            src_port: from.src_port,
            dst_port: from.dst_port,
            ip_version: from.ip_version,
            protocol: from.protocol,
            traffic_class: from.traffic_class,
            hop_limit: from.hop_limit,
            ip_flags: from.ip_flags,
            tagged: from.tagged,
            reserved: from.reserved,
        }
    }};
}

/// A number that fits the device's field, or the failure that names its attribute.
macro_rules! within {
    ($call:ident, $attr:expr, $most:expr) => {
        match $call.get($attr)? {
            Some(value) if value > u32::from($most) => return Err($call.out_of_range($attr)),
            value => value,
        }
    };
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let queue_pair = call.object_at(flow::QP)?;
    let given = call.get(flow::FLAGS)?.unwrap_or(0);
    if given & !flag::ALL != 0 {
        return Err(call.fail(flow::FLAGS, Errno::EINVAL, Reason::UNKNOWN_FLAG));
    }
    let drops = given & flag::DROP != 0;
    let qpn = match queue_pair.as_ref().map(|qp| qp.payload()) {
        Some(_) if drops => return Err(call.fail(flow::QP, Errno::EINVAL, Reason::CONFLICT)),
        Some(Some(Payload::Qp(qp))) => qp.qpn,
        Some(_) => unreachable!("the attribute takes queue pairs only"),
        None if drops => Qpn::default(),
        None => return Err(call.fail(flow::QP, Errno::EINVAL, Reason::MISSING)),
    };
    let flow_type = within!(call, flow::TYPE, kind::SNIFFER).unwrap_or(kind::NORMAL);
    let tag = within!(call, flow::TAG, device::MAX_TAG);
    let mut flags = FLAGS
        .iter()
        .filter(|(ours, _)| given & ours != 0)
        .fold(0, |all, (_, theirs)| all | theirs);
    if tag.is_some() {
        flags |= device::flags::TAG;
    }
    let request = CreateFlowReq {
        qpn,
        // Within 16 and 8 bits, as checked.
        priority: within!(call, flow::PRIORITY, device::MAX_PRIORITY).unwrap_or(0) as u16,
        flow_type: FlowType(flow_type as u8),
        flags,
        tag: tag.unwrap_or(0),
        port: call.require(flow::PORT)?,
        value: fields!(call.get(flow::MATCH)?.unwrap_or_default() => device::FlowFields),
        mask: fields!(call.get(flow::MASK)?.unwrap_or_default() => device::FlowFields),
        reserved: [0; 4],
    };
    let reservation = call.reserve()?;
    let response: HandleRsp = call
        .device()
        .command(Opcode::CREATE_FLOW, &request)
        .map_err(|error| failure(call, error))?;
    let rule = Flow {
        number: response.handle,
        qp: queue_pair.as_ref().map(|qp| qp.id()),
    };
    match &queue_pair {
        Some(qp) => call.publish(reservation, Some(Payload::Flow(rule)), &[qp]),
        None => call.publish(reservation, Some(Payload::Flow(rule)), &[]),
    };
    Ok(())
}

/// What the device's refusal of a rule means, with the attribute's name.
fn failure<P: Platform>(call: &Handling<'_, P>, error: CommandError) -> Failure {
    let CommandError::Refused { status, detail, .. } = error else {
        return error.into();
    };
    let (value, mask) = (offset_of!(CreateFlowReq, value), offset_of!(CreateFlowReq, mask));
    let at = detail as usize;
    match status {
        // The offset in the structure says which field.
        Status::BAD_MATCH if at >= mask => call.out_of_range(flow::MASK).detail((at - mask) as u16),
        Status::BAD_MATCH if at >= value => call.out_of_range(flow::MATCH).detail((at - value) as u16),
        Status::DUPLICATE_FLOW => Failure::new(Errno::EEXIST, Reason::IN_USE),
        Status::BAD_FIELD if at == offset_of!(CreateFlowReq, port) => call.out_of_range(flow::PORT),
        Status::BAD_FIELD if at == offset_of!(CreateFlowReq, flags) => {
            call.fail(flow::FLAGS, Errno::EINVAL, Reason::NOT_ALLOWED)
        }
        Status::BAD_FIELD if at == offset_of!(CreateFlowReq, priority) => {
            call.fail(flow::PRIORITY, Errno::EINVAL, Reason::NOT_ALLOWED)
        }
        _ => error.into(),
    }
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Flow(rule) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let qp = rule.qp;
    let request = HandleReq {
        handle: rule.number,
        reserved: 0,
    };
    let state: QueryFlowRsp = call.device().command(Opcode::QUERY_FLOW, &request)?;
    if let Some(qp) = qp {
        call.put(flow::QP, &qp)?;
    }
    let flags = FLAGS
        .iter()
        .filter(|(_, theirs)| state.flags & theirs != 0)
        .fold(0, |all, (ours, _)| all | ours);
    // The only one.
    call.put(flow::PORT, &1)?;
    call.put(flow::TYPE, &u32::from(state.flow_type.0))?;
    call.put(flow::PRIORITY, &u32::from(state.priority))?;
    call.put(flow::FLAGS, &flags)?;
    if state.flags & device::flags::TAG != 0 {
        call.put(flow::TAG, &state.tag)?;
    }
    call.put(flow::MATCH, &fields!(state.value => FlowFields))?;
    call.put(flow::MASK, &fields!(state.mask => FlowFields))?;
    call.put(flow::FRAMES, &state.frames)?;
    call.put(flow::BYTES, &state.bytes)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Flow(rule)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    Ok(end(ending, Opcode::DESTROY_FLOW, rule.number)?)
}
