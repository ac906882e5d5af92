// SPDX-License-Identifier: MIT OR Apache-2.0
//! RC requester: acknowledgements, negative ones, and answers.
//!
//! Whatever comes back also acknowledges everything before it. If that includes an operation whose own answer has not
//! come, the answer was lost, and is asked for again: what IBA calls an implied NAK.

use super::codec::Packet;
use super::outbox::mtu;
use super::sender::{self, bad_response, fail_first, is_answered, rearm, retry, sender};
use crate::counters::Counter;
use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::qp::local::{local_protection, own_rights};
use crate::qp::message::{BadRequest, Operation};
use crate::qp::requester;
use crate::qp::sg::{self, Stretches};
use crate::qp::transport::Nak;
use crate::qp::Wait;
use crate::schedule::QpRef;
use verbena_hw::cqe::vendor;
use verbena_hw::id::Psn;
use verbena_hw::qp::QpState;
use verbena_hw::wire::{Aeth, PacketOpcode};

/// A response has come to the queue pair.
pub(super) fn response<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, packet: &Packet<'_>) {
    if !sends(hca, at) {
        return;
    }
    let psn = packet.head.bth.psn();
    // What is not in flight is an echo: of something that was answered before.
    let Some(offset) = sender(hca, at).and_then(|sender| sender.in_flight(psn)) else {
        return;
    };
    match packet.opcode() {
        PacketOpcode::RC_ACKNOWLEDGE => {
            let aeth = packet.head.ext.aeth;
            let value = aeth.syndrome & Aeth::VALUE;
            match aeth.syndrome & Aeth::KIND {
                Aeth::ACK => acknowledged(hca, cx, at, offset + 1),
                Aeth::RNR_NAK => not_ready(hca, cx, at, offset, value),
                Aeth::NAK => refused(hca, cx, at, offset, value),
                // Reserved.
                _ => {}
            }
        }
        _ => answered(hca, cx, at, offset, packet),
    }
}

/// Whether anything that comes back means something in the queue pair's state.
fn sends(hca: &Hca, at: QpRef) -> bool {
    hca.qps
        .get(at.qpn.get())
        .is_some_and(|qp| matches!(qp.state, QpState::RTS | QpState::SQD))
}

/// Everything before `offset` PSNs from the oldest was executed.
fn acknowledged<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, offset: u32) {
    if complete(hca, cx, at, offset) {
        rearm(hca, cx, at);
    } else {
        missing(hca, cx, at);
    }
}

/// Completes what `offset` PSNs from the oldest acknowledge. `false`: an answer is missing there.
fn complete<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, mut offset: u32) -> bool {
    while offset > 0 {
        // A completion queue that is full ends the queue pair in the middle.
        if !sends(hca, at) {
            return true;
        }
        let Some(sender) = sender(hca, at) else {
            return true;
        };
        let (Some(first), Some(end)) = (sender.queue.front(), sender.first_ends()) else {
            return true;
        };
        if is_answered(first.operation) {
            return first.packets == 0;
        }
        let step = end.min(offset);
        sender.advance(step);
        offset -= step;
        if step == end {
            finish(hca, cx, at);
        }
        requester::progress(hca, at);
    }
    true
}

/// Completes the first message.
fn finish<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    if let Some(message) = sender(hca, at).and_then(sender::Sender::pop) {
        requester::succeed(hca, cx, at, &message);
        cx.pool.give_message(message);
    }
}

/// Asks for the oldest answer again, once until something comes.
fn missing<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    if let Some(sender) = sender(hca, at) {
        if core::mem::replace(&mut sender.recovering, true) {
            return;
        }
        retry(hca, cx, at);
    }
}

/// The peer has no receive for the request `offset` PSNs from the oldest.
fn not_ready<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, offset: u32, code: u8) {
    // Waiting already: it was told twice.
    if hca.qps.get(at.qpn.get()).is_some_and(|qp| qp.wait == Wait::Rnr) {
        return;
    }
    if !complete(hca, cx, at, offset) {
        return missing(hca, cx, at);
    }
    if !sends(hca, at) {
        return;
    }
    if let Err(bad) = requester::rnr_begins(hca, cx, at, code) {
        fail_first(hca, cx, at, bad);
    }
}

/// The peer has not executed the request `offset` PSNs from the oldest.
fn refused<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, offset: u32, code: u8) {
    let nak = match code {
        Aeth::NAK_SEQUENCE => Nak::Sequence,
        Aeth::NAK_INVALID_REQUEST => Nak::InvalidRequest,
        Aeth::NAK_REMOTE_ACCESS => Nak::RemoteAccess,
        Aeth::NAK_REMOTE_OPERATION => Nak::RemoteOperation,
        _ => return,
    };
    if nak == Nak::Sequence {
        hca.counters.count(Counter::RcvdSeqErr);
        // It waits already, and sends from there on when that is over.
        if hca.qps.get(at.qpn.get()).is_some_and(|qp| qp.wait == Wait::Rnr) {
            return;
        }
    }
    if !complete(hca, cx, at, offset) {
        return missing(hca, cx, at);
    }
    if !sends(hca, at) {
        return;
    }
    match nak.status() {
        None => retry(hca, cx, at),
        Some(status) => {
            let reason = vendor::NONE;
            fail_first(hca, cx, at, BadRequest { status, reason });
        }
    }
}

/// The answer of the operation `offset` PSNs from the oldest, or a part of it.
fn answered<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, offset: u32, packet: &Packet<'_>) {
    if !complete(hca, cx, at, offset) {
        return missing(hca, cx, at);
    }
    if !sends(hca, at) {
        return;
    }
    match take(hca, cx, at, packet) {
        Ok(Part::Last) => {
            advance(hca, at);
            finish(hca, cx, at);
        }
        Ok(Part::Other) => advance(hca, at),
        Ok(Part::Foreign) => {}
        Err(bad) => return fail_first(hca, cx, at, bad),
    }
    rearm(hca, cx, at);
}

fn advance(hca: &mut Hca, at: QpRef) {
    if let Some(sender) = sender(hca, at) {
        sender.advance(1);
    }
    requester::progress(hca, at);
}

/// Which part of an answer a packet is.
enum Part {
    /// The message is complete with it.
    Last,
    Other,
    /// Of none.
    Foreign,
}

/// Stores what the first message is answered with.
fn take<E: Env>(hca: &Hca, cx: &Cx<'_, E>, at: QpRef, packet: &Packet<'_>) -> Result<Part, BadRequest> {
    let Some((qp, first)) = hca
        .qps
        .get(at.qpn.get())
        .and_then(|qp| qp.wire.as_ref()?.sender.queue.front().map(|first| (qp, first)))
    else {
        return Ok(Part::Foreign);
    };
    let index = packet.head.bth.psn().add(Psn::MASK + 1 - first.psn.get()).get();
    if index >= first.packets {
        return Ok(Part::Foreign);
    }
    let place = |before| {
        let rights = own_rights(first.operation);
        Stretches::list(&hca.mrs, qp.pdn, first.elements(), before, rights)
    };
    let ram = cx.env.ram(hca.id);
    match (first.operation, packet.opcode()) {
        (Operation::CompareSwap | Operation::FetchAdd, PacketOpcode::RC_ATOMIC_ACKNOWLEDGE) => {
            let before = packet.head.ext.original.original.get();
            sg::store(ram, place(0), &before.to_le_bytes()).map_err(local_protection)?;
            Ok(Part::Last)
        }
        (Operation::Flush | Operation::AtomicWrite, PacketOpcode::RC_READ_RESPONSE_ONLY) => Ok(Part::Last),
        (
            Operation::Read,
            opcode @ (PacketOpcode::RC_READ_RESPONSE_FIRST
            | PacketOpcode::RC_READ_RESPONSE_MIDDLE
            | PacketOpcode::RC_READ_RESPONSE_LAST
            | PacketOpcode::RC_READ_RESPONSE_ONLY),
        ) => {
            let mtu = mtu(qp) as u64;
            let before = u64::from(index) * mtu;
            let last = index + 1 == first.packets;
            let ends = matches!(
                opcode,
                PacketOpcode::RC_READ_RESPONSE_LAST | PacketOpcode::RC_READ_RESPONSE_ONLY
            );
            if ends != last || packet.data.len() as u64 != (first.len - before).min(mtu) {
                return Err(bad_response());
            }
            sg::store(ram, place(before), packet.data).map_err(local_protection)?;
            Ok(if last { Part::Last } else { Part::Other })
        }
        _ => Ok(Part::Foreign),
    }
}
