// SPDX-License-Identifier: MIT OR Apache-2.0
//! RC responder: the sequence of requests, duplicates, and answers.
//!
//! A request in sequence goes the way of every request: [`Hca::accept`], its data, [`Hca::executed`]. What comes twice is
//! acknowledged or answered again and never executed again; for READs, atomics and what else has an answer of its own, the
//! last ones are remembered for that, as many as the queue pair allows its peer to have outstanding (IBA vol. 1, 9.7.5.1.3).

use super::codec::{self, Extended, Packet};
use super::outbox::mtu;
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::mr::KeyFault;
use crate::qp::local::perform;
use crate::qp::message::{Operation, Tail};
use crate::qp::requester::Turn;
use crate::qp::responder::{receive_protection, Fault, Target};
use crate::qp::sg::{self, Stretches};
use crate::qp::transport::{packets, Nak, Outcome, Request};
use crate::qp::Arriving;
use crate::schedule::QpRef;
use crate::Budget;
use std::collections::VecDeque;
use verbena_hw::cqe::vendor;
use verbena_hw::id::{Key, Pdn, Psn, Qpn};
use verbena_hw::qp::{access, QpState};
use verbena_hw::wire::{Aeth, AtomicAckEth, Bth, PacketOpcode};
use verbena_hw::wqe::{AtomicArgs, FlushArgs, MAX_MESSAGE};

/// Requests that may wait while an answer takes long. What comes then is lost, and sent again.
const INBOX: usize = 256;
/// Packets of an answer that are sent at once.
const RUN: u32 = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The peer has been told that a request is missing, or that there is no receive: it is told no more until it
    /// sends what is expected.
    waits: bool,
    /// An acknowledgement is to be sent.
    due: bool,
    /// The WRITE that is arriving.
    pub(super) write: Write,
    /// What has been answered last.
    answered: VecDeque<Answered>,
    /// The answer to a READ that is being sent.
    reply: Option<Reply>,
    /// Requests that came since it began.
    inbox: VecDeque<Vec<u8>>,
}

/// A WRITE of several packets: what its first one said, and how far it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Write {
    addr: u64,
    rkey: Key,
    total: u64,
    done: u64,
}

/// A request that had an answer of its own.
#[derive(Clone, Copy, Debug)]
struct Answered {
    psn: Psn,
    packets: u32,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Out of the memory of this protection domain.
    Read { pdn: Pdn, addr: u64, rkey: Key, len: u64 },
    /// With the value that was there before.
    Atomic(u64),
    /// Without data.
    Done,
}

/// What is left to send of the answer to a READ.
#[derive(Clone, Copy, Debug)]
struct Reply {
    psn: Psn,
    pdn: Pdn,
    addr: u64,
    rkey: Key,
    left: u64,
    first: bool,
    /// The READ has been answered before.
    again: bool,
}

impl Answers {
    /// Answers that are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.answered.len()
    }
}

fn answers(hca: &mut Hca, qpn: Qpn) -> Option<&mut Answers> {
    let qp = hca.qps.get_mut(qpn.get())?;
    qp.wire.as_mut().map(|wire| &mut wire.answers)
}

fn receives(hca: &Hca, qpn: Qpn) -> bool {
    let qp = hca.qps.get(qpn.get());
    qp.is_some_and(|qp| matches!(qp.state, QpState::RTR | QpState::RTS | QpState::SQD))
}

/// Sends the acknowledgements that are due. Before anything can happen to a queue pair whose peer's messages have been
/// completed here.
pub(crate) fn pay<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>) {
    for at in cx.outbox.take_dues() {
        let Some(hca) = hcas.get_mut(at.hca) else {
            continue;
        };
        let due = answers(hca, at.qpn).is_some_and(|answers| core::mem::take(&mut answers.due));
        if due {
            hca.acknowledge(cx, at.qpn);
        }
    }
}

/// A request has come to the queue pair.
pub(super) fn request<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, packet: &Packet<'_>) {
    if !receives(hca, qpn) {
        return;
    }
    let Some(answers) = answers(hca, qpn) else {
        return;
    };
    if answers.reply.is_some() {
        // One after the other, as they came.
        if answers.inbox.len() < INBOX {
            answers.inbox.push_back(packet.bytes.to_vec());
        }
        return;
    }
    let waits = core::mem::replace(&mut answers.waits, true);
    let Some(expected) = hca.qps.get(qpn.get()).map(|qp| qp.resp.psn) else {
        return;
    };
    let psn = packet.head.bth.psn();
    let ahead = psn.distance(expected);
    if ahead > 0 {
        hca.counters.count(Counter::OutOfSeqRequest);
        if !waits {
            hca.nak(cx, qpn, expected, Nak::Sequence);
        }
        return;
    }
    let Some(answers) = self::answers(hca, qpn) else {
        return;
    };
    if ahead < 0 {
        answers.waits = waits;
        hca.counters.count(Counter::DuplicateRequest);
        duplicate(hca, cx, qpn, packet);
        return;
    }
    answers.waits = false;
    match execute(hca, cx, qpn, packet) {
        Outcome::Ack(_) => {
            if packet.head.bth.asks_ack() {
                hca.owe(cx, qpn);
            }
        }
        Outcome::Rnr(code) => {
            if let Some(answers) = self::answers(hca, qpn) {
                answers.waits = true;
            }
            hca.respond(cx, qpn, psn, Aeth::RNR_NAK | code & Aeth::VALUE);
        }
        Outcome::Nak(nak) => hca.nak(cx, qpn, psn, nak),
        Outcome::Silence => {}
    }
}

/// Answers a request that has been executed before.
fn duplicate<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, packet: &Packet<'_>) {
    let opcode = packet.opcode();
    let psn = packet.head.bth.psn();
    let own = match operation(opcode) {
        Some((Operation::Send | Operation::Write, ..)) => {
            hca.owe(cx, qpn);
            return;
        }
        Some((operation, ..)) => operation,
        None => return,
    };
    let Some(qp) = hca.qps.get(qpn.get()) else {
        return;
    };
    let mtu = mtu(qp) as u64;
    let Some(wire) = qp.wire.as_ref() else {
        return;
    };
    let found = wire.answers.answered.iter().find_map(|answered| {
        let index = psn.add(Psn::MASK + 1 - answered.psn.get()).get();
        (index < answered.packets).then_some((index, answered.answer))
    });
    match (own, found) {
        (Operation::Read, Some((index, Answer::Read { pdn, addr, rkey, len }))) => {
            // The rest of the same READ, from one of its packets on, and nothing else.
            let reth = packet.head.ext.reth;
            let before = u64::from(index) * mtu;
            let same = reth.addr.get() == addr.wrapping_add(before)
                && reth.rkey.get() == rkey.0
                && u64::from(reth.len.get()) == len - before;
            if same {
                let reply = Reply {
                    psn,
                    pdn,
                    addr: reth.addr.get(),
                    rkey,
                    left: len - before,
                    first: true,
                    again: true,
                };
                begin(hca, cx, qpn, reply);
            }
        }
        (Operation::CompareSwap | Operation::FetchAdd, Some((0, Answer::Atomic(before)))) => {
            hca.respond_atomic(cx, qpn, psn, before);
        }
        (Operation::AtomicWrite | Operation::Flush, Some((0, Answer::Done))) => {
            hca.respond_done(cx, qpn, psn);
        }
        // Too old to be remembered, or never asked: whoever sends it is not waiting for it.
        _ => {}
    }
}

/// The operation of a request, and whether the packet is its first and its last; `None`: it is no request.
pub(super) fn operation(opcode: PacketOpcode) -> Option<(Operation, bool, bool)> {
    use Operation::{AtomicWrite, CompareSwap, FetchAdd, Flush, Read, Send, Write};
    use PacketOpcode as P;
    Some(match opcode {
        P::RC_SEND_FIRST | P::UC_SEND_FIRST => (Send, true, false),
        P::RC_SEND_MIDDLE | P::UC_SEND_MIDDLE => (Send, false, false),
        P::RC_SEND_LAST | P::RC_SEND_LAST_WITH_IMM | P::RC_SEND_LAST_WITH_INVALIDATE => (Send, false, true),
        P::UC_SEND_LAST | P::UC_SEND_LAST_WITH_IMM => (Send, false, true),
        P::RC_SEND_ONLY | P::RC_SEND_ONLY_WITH_IMM | P::RC_SEND_ONLY_WITH_INVALIDATE => (Send, true, true),
        P::UC_SEND_ONLY | P::UC_SEND_ONLY_WITH_IMM => (Send, true, true),
        P::RC_WRITE_FIRST | P::UC_WRITE_FIRST => (Write, true, false),
        P::RC_WRITE_MIDDLE | P::UC_WRITE_MIDDLE => (Write, false, false),
        P::RC_WRITE_LAST | P::RC_WRITE_LAST_WITH_IMM => (Write, false, true),
        P::UC_WRITE_LAST | P::UC_WRITE_LAST_WITH_IMM => (Write, false, true),
        P::RC_WRITE_ONLY | P::RC_WRITE_ONLY_WITH_IMM => (Write, true, true),
        P::UC_WRITE_ONLY | P::UC_WRITE_ONLY_WITH_IMM => (Write, true, true),
        P::RC_READ_REQUEST => (Read, true, true),
        P::RC_COMPARE_SWAP => (CompareSwap, true, true),
        P::RC_FETCH_ADD => (FetchAdd, true, true),
        P::RC_ATOMIC_WRITE => (AtomicWrite, true, true),
        P::RC_FLUSH => (Flush, true, true),
        _ => return None,
    })
}

/// A data packet as a request, and the state of the WRITE that it is of; `None`: its length is not that of such a packet,
/// or not what its WRITE has left.
pub(super) fn data_request(request: Request, packet: &Packet<'_>, own: u32, write: Write) -> Option<(Request, Write)> {
    let len = packet.data.len() as u64;
    let full = u64::from(own);
    let lengths = match (request.first, request.last) {
        (_, false) => len == full,
        (false, true) => (1..=full).contains(&len),
        (true, true) => len <= full,
    };
    let mut request = Request {
        len,
        total: len,
        ..request
    };
    if request.operation != Operation::Write {
        return lengths.then_some((request, write));
    }
    let reth = packet.head.ext.reth;
    let mut write = match request.first {
        true => Write {
            addr: reth.addr.get(),
            rkey: Key(reth.rkey.get()),
            total: reth.len.get().into(),
            done: 0,
        },
        false => write,
    };
    (request.addr, request.rkey) = (write.addr.wrapping_add(write.done), write.rkey);
    request.total = write.total;
    write.done += len;
    let fits = write.done < write.total || request.last && write.done == write.total;
    (lengths && fits && (!request.last || write.done == write.total) && write.total <= MAX_MESSAGE)
        .then_some((request, write))
}

/// What a packet asks for, as the responder takes it; the lengths of its data are [`data_request`]'s.
pub(super) fn plain_request(packet: &Packet<'_>, mtu: u32) -> Option<Request> {
    let (operation, first, last) = operation(packet.opcode())?;
    let (bth, ext) = (&packet.head.bth, &packet.head.ext);
    let tail = match packet.opcode() {
        PacketOpcode::RC_SEND_LAST_WITH_INVALIDATE | PacketOpcode::RC_SEND_ONLY_WITH_INVALIDATE => {
            Tail::Invalidate(Key(ext.ieth.rkey.get()))
        }
        opcode if codec::headers(opcode).is_some_and(|set| set & codec::header::IMM != 0) => {
            Tail::Imm(u32::from_le_bytes(ext.imm.data))
        }
        _ => Tail::Nothing,
    };
    Some(Request {
        operation,
        psn: bth.psn(),
        packets: 1,
        mtu,
        first,
        last,
        addr: ext.reth.addr.get(),
        rkey: Key(ext.reth.rkey.get()),
        len: 0,
        total: 0,
        tail,
        solicited: bth.flags & Bth::SOLICITED != 0,
        atomic: AtomicArgs::default(),
    })
}

/// Executes a request that is in sequence.
fn execute<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, packet: &Packet<'_>) -> Outcome {
    let Some((mtu, write)) = hca
        .qps
        .get(qpn.get())
        .and_then(|qp| Some((mtu(qp) as u32, qp.wire.as_ref()?.answers.write)))
    else {
        return Outcome::Silence;
    };
    let Some(mut request) = plain_request(packet, mtu) else {
        return Outcome::Silence;
    };
    let ext = &packet.head.ext;
    let len = u64::from(ext.reth.len.get());
    let mut state = write;
    let sound = match request.operation {
        Operation::Send | Operation::Write => match data_request(request, packet, mtu, write) {
            Some(data) => {
                (request, state) = data;
                true
            }
            None => false,
        },
        Operation::Read => {
            (request.len, request.total) = (len, len);
            request.packets = packets(len.min(MAX_MESSAGE), mtu);
            len <= MAX_MESSAGE
        }
        Operation::CompareSwap | Operation::FetchAdd => {
            let atomic = ext.atomic;
            (request.addr, request.rkey) = (atomic.addr.get(), Key(atomic.rkey.get()));
            let (swap_add, compare) = (atomic.swap_add.get(), atomic.compare.get());
            let (compare_add, swap) = match request.operation {
                Operation::CompareSwap => (compare, swap_add),
                _ => (swap_add, 0),
            };
            request.atomic = AtomicArgs { compare_add, swap };
            (request.len, request.total) = (8, 8);
            true
        }
        Operation::AtomicWrite => {
            (request.len, request.total) = (8, 8);
            match packet.data.try_into() {
                Ok(value) => {
                    request.atomic.swap = u64::from_le_bytes(value);
                    len == 8
                }
                Err(_) => false,
            }
        }
        _ => {
            let args = FlushArgs {
                len,
                placement: ext.feth.placement(),
                level: ext.feth.level(),
            };
            request.atomic = zerocopy::transmute!(args);
            true
        }
    };
    if !sound {
        return hca.refuse(cx, qpn, Fault::InvalidRequest(vendor::MESSAGE_LEN));
    }
    let accepted = if packet.service() == PacketOpcode::XRC {
        hca.accept_named(cx, qpn, &request, packet.head.ext.xrc.srqn())
    } else {
        hca.accept(cx, qpn, &request)
    };
    let target = match accepted {
        Ok(target) => target,
        Err(outcome) => return outcome,
    };
    match request.operation {
        Operation::Send | Operation::Write => {
            if let Err(fault) = hca.store(cx, qpn, target, &request, packet.data) {
                let fault = match request.operation {
                    Operation::Send => receive_protection(fault.0),
                    _ => Fault::Unreachable(fault.0),
                };
                return hca.refuse(cx, qpn, fault);
            }
            if request.operation == Operation::Send {
                request.total += hca.arrived(qpn);
            }
            if let Some(answers) = answers(hca, qpn) {
                answers.write = state;
            }
            hca.executed(cx, qpn, &request)
        }
        Operation::Read => {
            let outcome = hca.executed(cx, qpn, &request);
            let (addr, rkey) = (request.addr, request.rkey);
            let pdn = hca.qps.get(qpn.get()).map(|qp| qp.pdn).unwrap_or_default();
            hca.remember(qpn, &request, Answer::Read { pdn, addr, rkey, len });
            let reply = Reply {
                psn: request.psn,
                pdn,
                addr,
                rkey,
                left: len,
                first: true,
                again: false,
            };
            begin(hca, cx, qpn, reply);
            silence(outcome)
        }
        Operation::Flush => {
            let outcome = hca.executed(cx, qpn, &request);
            hca.remember(qpn, &request, Answer::Done);
            hca.respond_done(cx, qpn, request.psn);
            silence(outcome)
        }
        _ => {
            let Target::At(addr) = target else {
                return hca.refuse(cx, qpn, Fault::InvalidRequest(vendor::ATOMIC_OPERAND));
            };
            match perform(cx.env.ram(hca.id), addr, request.operation, request.atomic) {
                Ok(before) => {
                    let outcome = hca.executed(cx, qpn, &request);
                    if request.operation == Operation::AtomicWrite {
                        hca.remember(qpn, &request, Answer::Done);
                        hca.respond_done(cx, qpn, request.psn);
                    } else {
                        hca.remember(qpn, &request, Answer::Atomic(before));
                        hca.respond_atomic(cx, qpn, request.psn, before);
                    }
                    silence(outcome)
                }
                Err(fault) => hca.refuse(cx, qpn, Fault::Unreachable(fault.0)),
            }
        }
    }
}

/// An operation that has an answer of its own is not acknowledged beside.
fn silence(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Ack(_) => Outcome::Silence,
        other => other,
    }
}

/// Begins an answer to a READ.
fn begin<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, reply: Reply) {
    if let Some(answers) = answers(hca, qpn) {
        answers.reply = Some(reply);
        hca.reply(cx, qpn);
    }
    // What is left of it is sent in the queue pair's turns.
    let id = hca.id;
    if let Some(qp) = hca.qps.get_mut(qpn.get()) {
        cx.schedule.activate(id, qp);
    }
}

impl Hca {
    /// Stores a data packet's data.
    pub(super) fn store<E: Env>(
        &self,
        cx: &Cx<'_, E>,
        qpn: Qpn,
        target: Target,
        request: &Request,
        data: &[u8],
    ) -> Result<(), KeyFault> {
        if data.is_empty() {
            return Ok(());
        }
        let to = self.stretches(qpn, target, request)?;
        sg::store(cx.env.ram(self.id), to, data)
    }

    /// Bytes of the SEND that is arriving which came before.
    pub(super) fn arrived(&self, qpn: Qpn) -> u64 {
        match self.qps.get(qpn.get()).map(|qp| &qp.resp.arriving) {
            Some(Arriving::Send(receive)) => receive.offset,
            _ => 0,
        }
    }

    /// Remembers an answer, and forgets what the peer cannot ask for again.
    fn remember(&mut self, qpn: Qpn, request: &Request, answer: Answer) {
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return;
        };
        let depth = usize::from(qp.attrs.max_dest_rd_atomic.max(1));
        let Some(wire) = qp.wire.as_mut() else {
            return;
        };
        let answered = &mut wire.answers.answered;
        answered.truncate(depth.saturating_sub(1));
        answered.push_front(Answered {
            psn: request.psn,
            packets: request.packets,
            answer,
        });
    }

    /// Lets an acknowledgement be sent with the next poll.
    fn owe<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) {
        let id = self.id;
        if let Some(answers) = answers(self, qpn) {
            if core::mem::replace(&mut answers.due, true) {
                self.counters.count(Counter::AckDeferred);
            } else {
                cx.outbox.owes(QpRef { hca: id, qpn });
            }
        }
    }

    /// Acknowledges everything that was executed.
    fn acknowledge<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) {
        if let Some(last) = self.qps.get(qpn.get()).map(|qp| qp.resp.psn.add(Psn::MASK)) {
            self.respond(cx, qpn, last, Aeth::ACK | Aeth::NO_CREDITS);
        }
    }

    fn nak<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, psn: Psn, nak: Nak) {
        let code = match nak {
            Nak::Sequence => Aeth::NAK_SEQUENCE,
            Nak::InvalidRequest => Aeth::NAK_INVALID_REQUEST,
            Nak::RemoteAccess => Aeth::NAK_REMOTE_ACCESS,
            Nak::RemoteOperation => Aeth::NAK_REMOTE_OPERATION,
        };
        self.respond(cx, qpn, psn, Aeth::NAK | code);
    }

    fn respond<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, psn: Psn, syndrome: u8) {
        self.answer_with(cx, qpn, psn, PacketOpcode::RC_ACKNOWLEDGE, syndrome, 0);
    }

    fn respond_atomic<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, psn: Psn, before: u64) {
        let syndrome = Aeth::ACK | Aeth::NO_CREDITS;
        self.answer_with(cx, qpn, psn, PacketOpcode::RC_ATOMIC_ACKNOWLEDGE, syndrome, before);
    }

    fn respond_done<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, psn: Psn) {
        let syndrome = Aeth::ACK | Aeth::NO_CREDITS;
        self.answer_with(cx, qpn, psn, PacketOpcode::RC_READ_RESPONSE_ONLY, syndrome, 0);
    }

    /// Sends a response without data.
    fn answer_with<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        qpn: Qpn,
        psn: Psn,
        opcode: PacketOpcode,
        syndrome: u8,
        before: u64,
    ) {
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return;
        };
        let ext = Extended {
            aeth: Aeth::new(syndrome, qp.resp.msn),
            original: AtomicAckEth {
                original: before.into(),
            },
            ..Extended::default()
        };
        let bth = Bth::new(opcode, qp.attrs.dest_qpn, psn);
        self.send_head(cx, qpn, bth, &ext);
    }

    /// Sends the next packets of the answer to a READ.
    fn reply<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) -> u64 {
        let mut sent = 0;
        for _ in 0..RUN {
            let Some(reply) = answers(self, qpn).and_then(|answers| answers.reply) else {
                return sent;
            };
            match self.reply_packet(cx, qpn, &reply) {
                Ok((bytes, next)) => {
                    sent += reply.left - next.map_or(0, |next| next.left);
                    if let Some(answers) = answers(self, qpn) {
                        answers.reply = next;
                    }
                    self.send(cx, bytes);
                }
                Err(fault) => {
                    if let Some(answers) = answers(self, qpn) {
                        answers.reply = None;
                    }
                    // Of one that was answered before, nobody may be waiting for the answer any more, and the region
                    // may be gone for good reason.
                    if !reply.again {
                        if let Outcome::Nak(nak) = self.refuse(cx, qpn, fault) {
                            self.nak(cx, qpn, reply.psn, nak);
                        }
                    }
                    return sent;
                }
            }
        }
        sent
    }

    /// Makes the next packet of an answer, and says what is left then.
    fn reply_packet<E: Env>(
        &self,
        cx: &Cx<'_, E>,
        qpn: Qpn,
        reply: &Reply,
    ) -> Result<(Option<Vec<u8>>, Option<Reply>), Fault> {
        let Some(qp) = self.qps.get(qpn.get()) else {
            return Ok((None, None));
        };
        let len = reply.left.min(mtu(qp) as u64);
        let last = len == reply.left;
        let opcode = match (reply.first, last) {
            (true, true) => PacketOpcode::RC_READ_RESPONSE_ONLY,
            (true, false) => PacketOpcode::RC_READ_RESPONSE_FIRST,
            (false, false) => PacketOpcode::RC_READ_RESPONSE_MIDDLE,
            (false, true) => PacketOpcode::RC_READ_RESPONSE_LAST,
        };
        let from = if len == 0 {
            Stretches::One { addr: 0, left: 0 }
        } else {
            let range = self
                .mrs
                .check_remote(reply.rkey, (qpn, reply.pdn), reply.addr, len, access::REMOTE_READ)
                .map_err(|fault| Fault::Access(fault.0))?;
            Stretches::Range(range)
        };
        let ext = Extended {
            aeth: Aeth::new(Aeth::ACK | Aeth::NO_CREDITS, qp.resp.msn),
            ..Extended::default()
        };
        let bth = Bth::new(opcode, qp.attrs.dest_qpn, reply.psn);
        let bytes = self
            .encode(qp, bth, &ext, len as usize, |to| {
                sg::load(cx.env.ram(self.id), from, to)
            })
            .map_err(|fault: KeyFault| Fault::Unreachable(fault.0))?;
        let next = Reply {
            psn: reply.psn.add(1),
            addr: reply.addr.wrapping_add(len),
            left: reply.left - len,
            first: false,
            ..*reply
        };
        Ok((bytes, (!last).then_some(next)))
    }

    /// Goes on with an answer that takes long, and with what came meanwhile.
    pub(crate) fn answer<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, budget: &mut Budget) -> Turn {
        loop {
            let open = receives(self, qpn);
            let Some(answers) = answers(self, qpn) else {
                return Turn::Idle;
            };
            if !open {
                answers.reply = None;
                answers.inbox.clear();
                return Turn::Idle;
            }
            if answers.reply.is_some() {
                let sent = self.reply(cx, qpn);
                budget.bytes = budget.bytes.saturating_sub(sent);
                // Others get their turn in between.
                if self::answers(self, qpn).is_some_and(|answers| answers.reply.is_some()) {
                    return Turn::More;
                }
                continue;
            }
            let Some(bytes) = answers.inbox.pop_front() else {
                return Turn::Idle;
            };
            if let Ok(packet) = codec::decode(&bytes) {
                request(self, cx, qpn, &packet);
            }
            budget.operations = budget.operations.saturating_sub(1);
            if budget.is_spent() {
                return Turn::More;
            }
        }
    }
}
