// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raw Ethernet: both ends of a frame ([`verbena_hw::flow`]).
//!
//! A frame is copied twice: out of its sender's memory, so that the bytes which were checked and steered by are the bytes that
//! arrive, whatever the sender does to its memory meanwhile; and into each receive.

use crate::counter_set::Tally;
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::{Env, HcaId};
use crate::flow::{Copy, Seen};
use crate::frame::Frame;
use crate::hca::{Cx, Hca, Side, MTU};
use crate::limits::TURN;
use crate::qp::datagram;
use crate::qp::message::{BadRequest, Message, Receive, SendLimits, Unsent};
use crate::qp::requester::{self, Turn};
use crate::qp::responder::{receive_protection, Refusal};
use crate::qp::sg::{self, Stretches};
use crate::qp::{flush, pace, Arriving, Qp};
use crate::schedule::QpRef;
use crate::Budget;
use verbena_hw::cqe::{self, vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::flow::{max_frame, HEADER, TAG};
use verbena_hw::id::{Gid, Qpn};
use verbena_hw::qp::{access, QpState};
use verbena_hw::wqe::SendOpcode;

/// Bytes of the longest frame, with a tag.
const MAX_FRAME: usize = match MTU.bytes() {
    Some(mtu) => max_frame(mtu),
    None => panic!("the port's MTU has a meaning"),
};

/// Gives the queue pair its turn.
#[inline(never)]
pub(crate) fn turn<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    let turn = sends(hcas, cx, at, budget);
    // Any of them may have received.
    for hca in hcas.iter_mut() {
        hca.notify(cx);
    }
    turn
}

fn sends<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    let mut buffer = [0; MAX_FRAME];
    let mut to = Vec::new();
    for _ in 0..TURN {
        let Some(hca) = hcas.get_mut(at.hca) else {
            return Turn::Idle;
        };
        if hca.regs.is_fatal() {
            return Turn::Idle;
        }
        let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
            return Turn::Idle;
        };
        match qp.state {
            QpState::RTS => {}
            QpState::SQD => {
                requester::drained(hca, cx, at);
                return Turn::Idle;
            }
            QpState::SQE => return flush::sends(hca, cx, at.qpn, budget),
            QpState::ERR => return flush::turn(hca, cx, at.qpn, budget),
            _ => return Turn::Idle,
        }
        if pace::holds(cx, at.hca, qp) {
            return Turn::Idle;
        }
        let mut message = cx.pool.message();
        match message.fetch(cx.env.ram(at.hca), (&qp.sq, qp.kind), qp.req.consumer) {
            Ok(true) => qp.req.consumer = qp.req.consumer.wrapping_add(1),
            none => {
                cx.pool.give_message(message);
                if none.is_err() {
                    // There is no work request to complete: an event tells.
                    hca.enter_error(cx, at.qpn);
                    hca.raise_qp(cx, at.qpn, Event::QP_FATAL, vendor::RING_UNREACHABLE);
                }
                return Turn::Idle;
            }
        }
        let mut copies = 0;
        let sent = load(hca, cx, at.qpn, &mut message, &mut buffer).map(|frame| {
            copies = carry(hcas, cx, at.hca, &frame, &mut to);
            pace::sent_by(hcas, cx.now, at, message.len, 1);
        });
        complete(hcas, cx, at, &message, sent);
        // Each look at a port's rules counts as well.
        budget.operations = budget.operations.saturating_sub(1 + copies);
        budget.bytes = budget.bytes.saturating_sub(message.len * u64::from(1 + copies));
        cx.pool.give_message(message);
        if budget.is_spent() {
            break;
        }
    }
    Turn::More
}

/// Checks a work request and copies its frame.
fn load<'a, E: Env>(
    hca: &Hca,
    cx: &Cx<'_, E>,
    qpn: Qpn,
    message: &mut Message,
    buffer: &'a mut [u8; MAX_FRAME],
) -> Result<Frame<'a>, BadRequest> {
    let qp = hca.qps.get(qpn.get()).ok_or(BadRequest::operation(vendor::NONE))?;
    message.len = 0;
    if message.header.opcode != SendOpcode::SEND.0 {
        return Err(BadRequest::operation(vendor::OPCODE));
    }
    let limits = SendLimits {
        max_sge: qp.max_send_sge,
        max_inline: qp.max_inline,
        rd_atomic: 0,
    };
    message.check(limits).map_err(|unsent| match unsent {
        Unsent::Bad(bad) => bad,
        Unsent::Local => BadRequest::operation(vendor::OPCODE),
    })?;
    let length = |reason| BadRequest {
        status: Status::LOC_LEN_ERR,
        reason,
    };
    if message.len < HEADER as u64 {
        return Err(length(vendor::FRAME_LEN));
    }
    let Some(bytes) = buffer.get_mut(..message.len as usize) else {
        return Err(length(vendor::MESSAGE_LEN));
    };
    match message.inline() {
        Some(data) => bytes.copy_from_slice(data),
        None => {
            let source = Stretches::list(&hca.mrs, qp.pdn, message.elements(), 0, 0);
            sg::check(&hca.mrs, qp.pdn, message.elements(), 0, message.len, 0)
                .and_then(|_| sg::load(cx.env.ram(hca.id), source, bytes))
                .map_err(|fault| BadRequest {
                    status: Status::LOC_PROT_ERR,
                    reason: fault.0,
                })?;
        }
    }
    let frame = Frame::parse(bytes).ok_or(length(vendor::FRAME_LEN))?;
    if bytes.len() > MAX_FRAME - TAG && frame.vlan().is_none() {
        return Err(length(vendor::MESSAGE_LEN));
    }
    if frame.fields.smac != hca.config.mac {
        return Err(BadRequest::operation(vendor::FOREIGN_MAC));
    }
    Ok(frame)
}

/// Completes a work request.
fn complete<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, message: &Message, sent: Result<(), BadRequest>) {
    let Some(hca) = hcas.get_mut(at.hca) else {
        return;
    };
    if datagram::complete(hca, cx, at, message, sent) {
        hca.counters.count(Counter::SentFrames);
    }
}

/// Carries a frame from a port to where it goes. Answers how many ports' rules and receives that concerned.
fn carry<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, from: HcaId, frame: &Frame<'_>, to: &mut Vec<Copy>) -> u32 {
    let Some(hca) = hcas.get_mut(from) else {
        return 0;
    };
    if !hca.port_is_active() {
        hca.counters.count(Counter::SendErr);
        hca.counters.count(Counter::DroppedUnreachable);
        return 0;
    }
    if frame.is_to_group() {
        let ports = hcas.iter_mut().filter(|hca| hca.port_is_active());
        return ports
            .map(|hca| {
                let seen = if hca.id == from {
                    Seen::SentToGroup
                } else {
                    Seen::Coming
                };
                hca.arrive(cx, frame, seen, to)
            })
            .sum();
    }
    // The GID that is derived from a MAC address is in the table of whoever has that address; one that nobody has may be
    // anybody's.
    let owner = cx.fabric.owner(&Gid::link_local(frame.fields.dmac));
    let owner = owner.filter(|&id| {
        hcas.get(id)
            .is_some_and(|hca| hca.config.mac == frame.fields.dmac && hca.port_is_active())
    });
    let mut copies = 0;
    if owner != Some(from) {
        if let Some(hca) = hcas.get_mut(from) {
            copies += hca.arrive(cx, frame, Seen::Sent, to);
            if owner.is_none() {
                hca.counters.count(Counter::DroppedUnreachable);
            }
        }
    }
    if let Some(hca) = owner.and_then(|id| hcas.get_mut(id)) {
        copies += hca.arrive(cx, frame, Seen::Coming, to);
    }
    copies
}

/// Whether a queue pair takes frames.
fn receives(qp: &Qp) -> bool {
    matches!(qp.state, QpState::RTR | QpState::RTS | QpState::SQD | QpState::SQE)
}

impl Hca {
    /// The port sees a frame. Answers how much work that was.
    fn arrive<E: Env>(&mut self, cx: &mut Cx<'_, E>, frame: &Frame<'_>, seen: Seen, to: &mut Vec<Copy>) -> u32 {
        if self.flows.len() == 0 {
            if seen == Seen::Coming {
                self.counters.count(Counter::DroppedNoRule);
            }
            return 0;
        }
        to.clear();
        let verdict = self.flows.steer(frame, seen, to);
        if verdict.dropped {
            self.counters.count(Counter::DroppedByRule);
        } else if to.is_empty() && seen == Seen::Coming {
            self.counters.count(Counter::DroppedNoRule);
        }
        for copy in &*to {
            self.receive_frame(cx, copy, frame);
        }
        1 + to.len() as u32
    }

    /// Receives a copy of a frame.
    fn receive_frame<E: Env>(&mut self, cx: &mut Cx<'_, E>, copy: &Copy, frame: &Frame<'_>) {
        let qpn = copy.qpn;
        let Some(qp) = self.qps.get_mut(qpn.get()).filter(|qp| receives(qp)) else {
            self.counters.count(Counter::DroppedNoQp);
            return;
        };
        let receive = match qp.resp.spare.take() {
            Some(receive) => receive,
            None => match self.take_receive(cx, qpn) {
                Ok(receive) => receive,
                Err(Refusal::NotReady) => {
                    self.counters.count(Counter::DroppedNoReceive);
                    return;
                }
                Err(Refusal::Fault(fault)) => {
                    // The sender hears nothing of it.
                    let _ = self.refuse(cx, qpn, fault);
                    return;
                }
            },
        };
        let len = frame.bytes.len() as u64;
        if len > receive.room {
            self.counters.count(Counter::DroppedLength);
            if let Some(qp) = self.qps.get_mut(qpn.get()) {
                // For the next one: whoever sends a frame that is too long breaks nothing.
                qp.resp.spare = Some(receive);
            }
            return;
        }
        let rights = access::LOCAL_WRITE;
        let target = Stretches::list(&self.mrs, receive.pdn, receive.elements(), 0, rights);
        let stored = sg::check(&self.mrs, receive.pdn, receive.elements(), 0, len, rights)
            .and_then(|_| sg::store(cx.env.ram(self.id), target, frame.bytes));
        if let Err(fault) = stored {
            if let Some(qp) = self.qps.get_mut(qpn.get()) {
                qp.resp.arriving = Arriving::Send(receive);
            }
            let _ = self.refuse(cx, qpn, receive_protection(fault.0));
            return;
        }
        self.received_frame(cx, copy, frame, &receive);
        cx.pool.give_receive(receive);
    }

    /// Completes the receive of a frame.
    fn received_frame<E: Env>(&mut self, cx: &mut Cx<'_, E>, copy: &Copy, frame: &Frame<'_>, receive: &Receive) {
        self.counters.count(Counter::RcvdFrames);
        self.counters.add(Counter::RcvdBytes, frame.bytes.len() as u64);
        self.tally(copy.qpn, Tally::RcvdMsgs, 1);
        self.tally(copy.qpn, Tally::RcvdBytes, frame.bytes.len() as u64);
        let cqe = Cqe {
            opcode: cqe::Opcode::RECV.0,
            flags: if copy.tag.is_some() { cqe::flags::TAG } else { 0 },
            wr_id: receive.wr_id,
            byte_len: frame.bytes.len() as u32,
            imm: copy.tag.unwrap_or(0),
            pkey_index: frame.found,
            smac: frame.fields.smac,
            vlan: frame.vlan().unwrap_or(0xffff),
            ..Cqe::default()
        };
        self.complete(cx, copy.qpn, Side::Recv, cqe);
    }
}
