// SPDX-License-Identifier: MIT OR Apache-2.0
//! UC: both ends of a connection without acknowledgements.
//!
//! A message is complete when it has left (IBA vol. 1, 9.8.2). At the other end it arrives whole or not at all: one that
//! cannot go on is dropped and counted, its receive waits for the next one, and the sequence begins anew with the next
//! message's first packet. What is wrong on the sender's own side puts its send queue into SQE.

use crate::counter_set::Tally;
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::Env;
use crate::hca::{Cx, Hca, Side};
use crate::limits::TURN;
use crate::mr::KeyFault;
use crate::mw::work;
use crate::packet;
use crate::qp::message::{BadRequest, Message, Operation, Receive, SendLimits, Tail, Unsent};
use crate::qp::requester::{self, Turn};
use crate::qp::responder::{receive_protection, Fault, Refusal, Target};
use crate::qp::sg::{self, CopyFault, Stretches};
use crate::qp::transport::{packets, Nak, Request};
use crate::qp::{flush, local, pace, Arriving, Responder};
use crate::schedule::QpRef;
use crate::Budget;
use verbena_hw::cqe::{self, vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Pdn, Qpn};
use verbena_hw::qp::{access, Mtu, QpState};
use verbena_hw::wqe::{send_flags, AtomicArgs, SendOpcode};

/// Gives the queue pair its turn.
#[inline(never)]
pub(crate) fn turn<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
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
            QpState::SQD if qp.req.current.is_some() => {}
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
        let Some((mut message, checked)) = take(hca, cx, at) else {
            return Turn::Idle;
        };
        let sent = checked.and_then(|does| match does {
            Does::Send => send(hcas, cx, at, &mut message, budget),
            Does::Locally => locally(hcas, cx, at, &message),
        });
        budget.operations = budget.operations.saturating_sub(1);
        let Some(hca) = hcas.get_mut(at.hca) else {
            return Turn::Idle;
        };
        match sent {
            Ok(false) => {
                // A long message gives way after each run.
                if let Some(qp) = hca.qps.get_mut(at.qpn.get()) {
                    qp.req.current = Some(message);
                }
                return Turn::More;
            }
            Ok(true) if message.packets == 0 => work::done(hca, cx, at, &message),
            Ok(true) => hca.sent(cx, at.qpn, &message),
            Err(bad) => hca.send_failed(cx, at.qpn, &message, bad),
        }
        cx.pool.give_message(message);
        if budget.is_spent() {
            break;
        }
    }
    Turn::More
}

/// What a work request does.
enum Does {
    Send,
    /// It is about this side's own keys, and takes no packet.
    Locally,
}

/// Executes a work request that nobody but the device takes part in.
fn locally<E: Env>(hcas: &mut Hcas, cx: &Cx<'_, E>, at: QpRef, message: &Message) -> Result<bool, BadRequest> {
    match hcas.get_mut(at.hca) {
        Some(hca) => work::perform(hca, cx, at, message).map(|()| true),
        None => Ok(true),
    }
}

/// The message in flight, or the next one, and what it does, if it can be executed.
fn take<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) -> Option<(Box<Message>, Result<Does, BadRequest>)> {
    let qp = hca.qps.get_mut(at.qpn.get())?;
    if let Some(message) = qp.req.current.take() {
        return Some((message, Ok(Does::Send)));
    }
    let mut message = cx.pool.message();
    let fetched = message.fetch(cx.env.ram(at.hca), (&qp.sq, qp.kind), qp.req.consumer);
    if fetched != Ok(true) {
        cx.pool.give_message(message);
        if fetched.is_err() {
            // There is no work request to complete: an event tells.
            hca.enter_error(cx, at.qpn);
            hca.raise_qp(cx, at.qpn, Event::QP_FATAL, vendor::RING_UNREACHABLE);
        }
        return None;
    }
    let known = matches!(
        SendOpcode(message.header.opcode),
        SendOpcode::SEND
            | SendOpcode::SEND_WITH_IMM
            | SendOpcode::WRITE
            | SendOpcode::WRITE_WITH_IMM
            | SendOpcode::LOCAL_INVALIDATE
            | SendOpcode::BIND_MW
            | SendOpcode::FAST_REGISTER
            | SendOpcode::FAST_REGISTER_LIST
    );
    let limits = SendLimits {
        max_sge: qp.max_send_sge,
        max_inline: qp.max_inline,
        rd_atomic: 0,
    };
    let checked = match known.then(|| message.check(limits)) {
        Some(Ok(())) => Ok(Does::Send),
        Some(Err(Unsent::Bad(bad))) => Err(bad),
        Some(Err(Unsent::Local)) => Ok(Does::Locally),
        None => Err(BadRequest::operation(vendor::OPCODE)),
    };
    message.psn = qp.req.psn;
    message.packets = match checked {
        Ok(Does::Locally) => 0,
        _ => packets(message.len, mtu(qp.attrs.path_mtu)),
    };
    Some((message, checked))
}

fn mtu(code: u8) -> u32 {
    // RTR took only codes with a meaning, and neither queue runs before.
    Mtu(code).bytes().unwrap_or(256)
}

/// Sends the next run of the message. `Ok(true)`: it was the last.
///
/// # Errors
///
/// What is wrong on the sender's own side.
fn send<E: Env>(
    hcas: &mut Hcas,
    cx: &mut Cx<'_, E>,
    at: QpRef,
    message: &mut Message,
    budget: &mut Budget,
) -> Result<bool, BadRequest> {
    let Some(hca) = hcas.get_mut(at.hca) else {
        return Ok(true);
    };
    let Some(qp) = hca.qps.get(at.qpn.get()) else {
        return Ok(true);
    };
    let (pdn, mtu) = (qp.pdn, mtu(qp.attrs.path_mtu));
    let left = message.len - message.offset;
    let len = left.min(qp.slice(cx.now));
    let last = len == left;
    let request = Request {
        operation: message.operation,
        // A slice is a multiple of the MTU, so the packets before this run are full.
        psn: message.psn.add((message.offset / u64::from(mtu)) as u32),
        packets: packets(len, mtu),
        mtu,
        first: message.offset == 0,
        last,
        addr: message.header.remote_addr.wrapping_add(message.offset),
        rkey: message.header.rkey,
        len,
        total: message.len,
        tail: if last { message.tail() } else { Tail::Nothing },
        solicited: message.header.flags & send_flags::SOLICITED != 0,
        atomic: AtomicArgs::default(),
    };
    if message.inline().is_none() {
        // The first run answers for the keys of the whole message, each for its own memory: what is wrong here is not to
        // become the receiver's fault.
        let checked = if request.first { message.len } else { len };
        let source = Stretches::list(&hca.mrs, pdn, message.elements(), message.offset, 0);
        sg::check(&hca.mrs, pdn, message.elements(), message.offset, checked, 0)
            .and_then(|_| sg::reachable(cx.env.ram(at.hca), source, len))
            .map_err(|fault| BadRequest {
                status: Status::LOC_PROT_ERR,
                reason: fault.0,
            })?;
    }
    pace::sent_by(hcas, cx.now, at, len, request.packets);
    let over_packets = hcas.qp_mut(at).is_some_and(|qp| qp.wire.is_some());
    if over_packets {
        packet::unreliable::send(hcas, cx, at, message, &request);
        message.offset += len;
        budget.bytes = budget.bytes.saturating_sub(len);
        return Ok(last);
    }
    match local::find_peer(hcas, cx, at) {
        Some(peer) => deliver(hcas, cx, at, pdn, peer, message, &request),
        None => {
            local::count_unsent(hcas, at);
            if let Some(hca) = hcas.get_mut(at.hca).filter(|_| request.first) {
                hca.counters.count(Counter::DroppedUnreachable);
            }
        }
    }
    message.offset += len;
    budget.bytes = budget.bytes.saturating_sub(len);
    Ok(last)
}

/// Brings a run to the peer, if the peer takes it.
fn deliver<E: Env>(
    hcas: &mut Hcas,
    cx: &mut Cx<'_, E>,
    at: QpRef,
    pdn: Pdn,
    peer: QpRef,
    message: &Message,
    request: &Request,
) {
    let Some(hca) = hcas.get_mut(peer.hca) else {
        return;
    };
    let Some(target) = hca.accept_run(cx, peer.qpn, request) else {
        return;
    };
    let moved = if request.len == 0 {
        Ok(())
    } else {
        transfer(hcas, cx, at, pdn, peer, message, (target, request))
    };
    let Some(hca) = hcas.get_mut(peer.hca) else {
        return;
    };
    hca.run_moved(cx, peer.qpn, request, moved);
}

/// Copies a run's data. A fault is the peer's: its own side was checked.
fn transfer<E: Env>(
    hcas: &Hcas,
    cx: &Cx<'_, E>,
    at: QpRef,
    pdn: Pdn,
    peer: QpRef,
    message: &Message,
    (target, request): (Target, &Request),
) -> Result<(), KeyFault> {
    let (Some(here), Some(there)) = (hcas.get(at.hca), hcas.get(peer.hca)) else {
        return Ok(());
    };
    let target = there.stretches(peer.qpn, target, request)?;
    let (own_ram, peer_ram) = (cx.env.ram(at.hca), cx.env.ram(peer.hca));
    if let Some(bytes) = message.inline() {
        return sg::store(peer_ram, target, bytes);
    }
    let source = Stretches::list(&here.mrs, pdn, message.elements(), message.offset, 0);
    match sg::copy(own_ram, source, peer_ram, target, request.len, request.last) {
        Ok(()) => Ok(()),
        Err(CopyFault::Destination(fault)) => Err(fault),
        Err(CopyFault::Source(fault)) => unreachable!("`send` found all of it mapped: {fault:?}"),
    }
}

impl Responder {
    /// Drops the message that is arriving. Its receive is the next message's.
    pub(crate) fn abandon(&mut self) {
        if let Arriving::Send(mut receive) = core::mem::take(&mut self.arriving) {
            receive.offset = 0;
            self.spare = Some(receive);
        }
    }
}

impl Hca {
    /// The message has left.
    fn sent<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, message: &Message) {
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return;
        };
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        qp.req.psn = message.psn.add(message.packets);
        let signaled = qp.signal_all || message.is_signaled();
        self.counters.count(Counter::SentMsgs);
        if message.operation == Operation::Send {
            self.counters.count(Counter::RdmaSends);
        }
        self.counters.add(Counter::SentBytes, message.len);
        self.tally(qpn, Tally::SentMsgs, 1);
        self.tally(qpn, Tally::SentBytes, message.len);
        if signaled {
            let cqe = Cqe {
                opcode: message.operation.completion().0,
                wr_id: message.header.wr_id,
                ..Cqe::default()
            };
            self.complete(cx, qpn, Side::Send, cqe);
        }
    }

    /// The message cannot be sent, or not to its end.
    fn send_failed<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, message: &Message, bad: BadRequest) {
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return;
        };
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        qp.req.psn = message.psn.add(message.packets);
        let cqe = Cqe {
            status: bad.status.0,
            wr_id: message.header.wr_id,
            vendor_err: bad.reason,
            ..Cqe::default()
        };
        self.complete(cx, qpn, Side::Send, cqe);
        if self.qps.get(qpn.get()).is_some_and(|qp| qp.state != QpState::ERR) {
            self.enter_send_error(cx, qpn);
        }
    }

    /// Decides about a run that has come to the queue pair `qpn`: where its data goes, if it is to be executed; if not, it
    /// is dropped, and the rest of its message with it.
    pub(crate) fn accept_run<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, request: &Request) -> Option<Target> {
        match self.admit(cx, qpn, request) {
            Ok(target) => Some(target),
            Err(why) => {
                if let Some(counter) = why {
                    self.counters.count(counter);
                }
                if let Some(qp) = self.qps.get_mut(qpn.get()) {
                    qp.resp.abandon();
                }
                None
            }
        }
    }

    /// The data of an accepted run has been moved, or could not be.
    pub(crate) fn run_moved<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        qpn: Qpn,
        request: &Request,
        moved: Result<(), KeyFault>,
    ) {
        match moved {
            Ok(()) => self.run_executed(cx, qpn, request),
            Err(fault) => {
                // The sender hears nothing of it.
                let _ = match request.operation {
                    Operation::Send => self.refuse(cx, qpn, receive_protection(fault.0)),
                    _ => self.refuse(cx, qpn, Fault::Unreachable(fault.0)),
                };
            }
        }
    }

    /// # Errors
    ///
    /// The run is dropped: what that counts as; nothing, if that has been counted already.
    fn admit<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, run: &Request) -> Result<Target, Option<Counter>> {
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return Err(Some(Counter::DroppedNoQp));
        };
        if !matches!(qp.state, QpState::RTR | QpState::RTS | QpState::SQD | QpState::SQE) {
            return Err(run.first.then_some(Counter::DroppedNoQp));
        }
        if run.first {
            qp.resp.abandon();
            qp.resp.psn = run.psn;
        } else if qp.resp.psn != run.psn || matches!(qp.resp.arriving, Arriving::Nothing) {
            return Err(None);
        }
        // Packets of a length that this side's MTU does not allow.
        let own = mtu(qp.attrs.path_mtu);
        let whole = run.first && run.last;
        if run.mtu != own && (run.packets > 1 || run.len > u64::from(own) || !whole) {
            return Err(Some(Counter::DroppedLength));
        }
        let (pdn, rights) = (qp.pdn, qp.attrs.access);
        if qp.state == QpState::RTR && !qp.resp.established {
            self.established(cx, qpn);
        }
        let len = if run.first { run.total } else { run.len };
        if run.operation == Operation::Send {
            return self.admit_send(cx, qpn, run, len);
        }
        if rights & access::REMOTE_WRITE == 0 {
            return Err(Some(Counter::AccessErr));
        }
        if len > 0 {
            let checked = self
                .mrs
                .check_remote(run.rkey, (qpn, pdn), run.addr, len, access::REMOTE_WRITE)
                .is_ok();
            if !checked {
                return Err(Some(Counter::AccessErr));
            }
        }
        let mut wr_id = None;
        if run.last && run.tail != Tail::Nothing {
            let receive = self.next_receive(cx, qpn)?;
            wr_id = Some(receive.wr_id);
            cx.pool.give_receive(receive);
        }
        if let Some(qp) = self.qps.get_mut(qpn.get()) {
            qp.resp.arriving = Arriving::Write(wr_id);
        }
        Ok(Target::Region)
    }

    fn admit_send<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        qpn: Qpn,
        run: &Request,
        len: u64,
    ) -> Result<Target, Option<Counter>> {
        if run.first {
            let receive = self.next_receive(cx, qpn)?;
            if let Some(qp) = self.qps.get_mut(qpn.get()) {
                qp.resp.arriving = Arriving::Send(receive);
            }
        }
        let Some(Arriving::Send(receive)) = self.qps.get(qpn.get()).map(|qp| &qp.resp.arriving) else {
            return Err(None);
        };
        let fault = if len > receive.room - receive.offset {
            Some(Fault::Receive {
                status: Status::LOC_LEN_ERR,
                reason: vendor::RECV_TOO_SHORT,
                nak: Nak::InvalidRequest,
            })
        } else {
            let list = receive.elements();
            sg::check(&self.mrs, receive.pdn, list, receive.offset, len, access::LOCAL_WRITE)
                .err()
                .map(|fault| receive_protection(fault.0))
        };
        match fault {
            None => Ok(Target::Receive),
            Some(fault) => {
                // The receiver's own fault, of which the sender hears nothing.
                let _ = self.refuse(cx, qpn, fault);
                Err(None)
            }
        }
    }

    /// The receive of a message that was dropped, or the next one of the queue.
    fn next_receive<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) -> Result<Box<Receive>, Option<Counter>> {
        let spare = self.qps.get_mut(qpn.get()).and_then(|qp| qp.resp.spare.take());
        if let Some(receive) = spare {
            return Ok(receive);
        }
        self.take_receive(cx, qpn).map_err(|refusal| match refusal {
            Refusal::NotReady => Some(Counter::DroppedNoReceive),
            Refusal::Fault(fault) => {
                let _ = self.refuse(cx, qpn, fault);
                None
            }
        })
    }

    /// The data of an accepted run has been moved.
    fn run_executed<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, run: &Request) {
        self.tally_received(qpn, run);
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return;
        };
        qp.resp.psn = qp.resp.psn.add(run.packets);
        self.counters.add(Counter::RcvdBytes, run.len);
        if !run.last {
            if let Arriving::Send(receive) = &mut qp.resp.arriving {
                receive.offset += run.len;
            }
            return;
        }
        self.counters.count(Counter::RcvdMsgs);
        let (wr_id, opcode) = match core::mem::take(&mut qp.resp.arriving) {
            Arriving::Send(receive) => {
                let wr_id = receive.wr_id;
                cx.pool.give_receive(receive);
                (wr_id, cqe::Opcode::RECV)
            }
            Arriving::Write(Some(wr_id)) => (wr_id, cqe::Opcode::RECV_RDMA_WITH_IMM),
            Arriving::Write(None) | Arriving::Nothing => return,
        };
        let (mut flags, imm) = match run.tail {
            Tail::Imm(imm) => (cqe::flags::IMM, imm),
            _ => (0, 0),
        };
        if run.solicited {
            flags |= cqe::flags::SOLICITED;
        }
        let cqe = Cqe {
            opcode: opcode.0,
            flags,
            wr_id,
            byte_len: run.total as u32,
            imm,
            ..Cqe::default()
        };
        self.complete(cx, qpn, Side::Recv, cqe);
    }
}
