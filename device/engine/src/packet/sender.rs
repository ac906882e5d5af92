// SPDX-License-Identifier: MIT OR Apache-2.0
//! RC requester: messages in flight, what is sent next, retries and timers.
//!
//! What is sent are PSNs, in order, from the oldest that is not acknowledged: a retry is nothing but to begin there again.
//! A packet is made anew each time, out of the message that its PSN falls into, so nothing is kept for it.

use super::codec::Extended;
use super::outbox::mtu;
use crate::counters::Counter;
use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::limits::TURN;
use crate::mr::KeyFault;
use crate::mw;
use crate::qp::local::{check_own, local_protection};
use crate::qp::message::{BadRequest, Message, Operation, Tail};
use crate::qp::requester::{self, Taken, Turn};
use crate::qp::sg::{self, Stretches};
use crate::qp::transport::response_timeout;
use crate::qp::{flush, pace, Qp, Wait};
use crate::schedule::QpRef;
use crate::Budget;
use std::collections::VecDeque;
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::Psn;
use verbena_hw::qp::{QpState, QpType};
use verbena_hw::wire::{AtomicEth, Bth, Feth, ImmDt, PacketOpcode, Reth};
use verbena_hw::wqe::{flush as flush_args, send_flags, FlushArgs};

/// PSNs that may be in flight when another packet is sent.
const WINDOW: u32 = 128;
/// Messages that may be in flight.
const MESSAGES: usize = 64;
/// Every packet whose PSN is the last of so many asks for an acknowledgement, and the last one of a message: a window has
/// several of them.
const ACK_EVERY: u32 = 32;
/// PSNs in flight are told from old ones while they are at most half of all (IBA vol. 1, 9.7.2).
const HALF: u32 = 1 << 23;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// Messages that were fetched and are not complete, in order.
    pub(crate) queue: VecDeque<Box<Message>>,
    /// The oldest PSN that is not acknowledged.
    pub(crate) oldest: Psn,
    /// PSNs from there on that were sent since the last retry: where the next packet begins.
    pub(crate) sent: u32,
    /// PSNs from there on that were ever sent.
    pub(crate) high: u32,
    /// The message in the queue that the next packet is of; its length, if there is none.
    next: usize,
    /// What is to happen to a message in the queue, instead of sending it, when it is the first.
    hold: Option<(Psn, Hold)>,
    /// An answer was found missing, and asked for again.
    pub(super) recovering: bool,
}

/// Why a message is not sent.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// It cannot be.
    Bad(BadRequest),
    /// The device itself executes it.
    Local,
}

impl Sender {
    /// Begins again with what is oldest.
    fn rewind(&mut self) {
        (self.sent, self.next) = (0, 0);
    }

    /// The PSN is one that was sent and is not acknowledged: how far it is from the oldest.
    pub(super) fn in_flight(&self, psn: Psn) -> Option<u32> {
        let offset = psn.add(Psn::MASK + 1 - self.oldest.get()).get();
        (offset < self.high).then_some(offset)
    }

    /// Everything up to `offset` PSNs from the oldest is acknowledged.
    pub(super) fn advance(&mut self, offset: u32) {
        self.oldest = self.oldest.add(offset);
        self.high -= offset;
        // A retry that has not come so far goes on from here, which is in the first message or where that ends.
        self.sent = self.sent.saturating_sub(offset);
        self.recovering = false;
    }

    /// Takes the first message off.
    pub(super) fn pop(&mut self) -> Option<Box<Message>> {
        let message = self.queue.pop_front()?;
        self.next = self.next.saturating_sub(1);
        if self.hold.is_some_and(|(psn, _)| psn == message.psn) {
            self.hold = None;
        }
        Some(message)
    }

    /// The first message is one whose packets have all been acknowledged.
    pub(super) fn first_ends(&self) -> Option<u32> {
        let message = self.queue.front()?;
        Some(
            message
                .psn
                .add(message.packets)
                .add(Psn::MASK + 1 - self.oldest.get())
                .get(),
        )
    }
}

/// Whether the operation has an answer of its own, so that an acknowledgement is not enough.
pub(super) fn is_answered(operation: Operation) -> bool {
    !matches!(operation, Operation::Send | Operation::Write)
}

/// The queue pair's sender.
pub(super) fn sender(hca: &mut Hca, at: QpRef) -> Option<&mut Sender> {
    let qp = hca.qps.get_mut(at.qpn.get())?;
    qp.wire.as_mut().map(|wire| &mut wire.sender)
}

/// Gives the queue pair its turn: what it owes as a responder, then its send queue.
#[inline(never)]
pub(crate) fn turn<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    if hca.regs.is_fatal() {
        return Turn::Idle;
    }
    let answers = hca.answer(cx, at.qpn, budget);
    let sends = sends(hca, cx, at, budget);
    if answers == Turn::More {
        answers
    } else {
        sends
    }
}

fn sends<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    for _ in 0..TURN {
        let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
            return Turn::Idle;
        };
        let idle = qp.wire.as_ref().is_none_or(|wire| wire.sender.queue.is_empty());
        match qp.state {
            QpState::RTS => {}
            QpState::SQD if !idle => {}
            QpState::SQD => {
                requester::drained(hca, cx, at);
                return Turn::Idle;
            }
            QpState::ERR => return flush::turn(hca, cx, at.qpn, budget),
            _ => return Turn::Idle,
        }
        if !step(hca, cx, at, budget) {
            return Turn::Idle;
        }
        budget.operations = budget.operations.saturating_sub(1);
        if budget.is_spent() {
            break;
        }
    }
    Turn::More
}

/// Does the next thing that there is to do in the send queue. `false`: nothing, until something happens.
fn step<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> bool {
    if settle(hca, cx, at) {
        return true;
    }
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return false;
    };
    let (state, depth) = (qp.state, qp.attrs.max_rd_atomic);
    let Some(sender) = qp.wire.as_ref().map(|wire| &wire.sender) else {
        return false;
    };
    if qp.wait == Wait::Rnr || sender.sent >= WINDOW {
        return false;
    }
    if sender.next == sender.queue.len() {
        let takes = state == QpState::RTS && sender.hold.is_none() && sender.queue.len() < MESSAGES;
        return takes && fetch(hca, cx, at);
    }
    if !sender.may_send(depth) {
        return false;
    }
    if qp.pace.is_some()
        && hca
            .qps
            .get_mut(at.qpn.get())
            .is_some_and(|qp| pace::holds(cx, at.hca, qp))
    {
        return false;
    }
    transmit(hca, cx, at, budget);
    true
}

impl Sender {
    /// Whether the next packet may be sent now.
    fn may_send(&self, depth: u8) -> bool {
        let message = &self.queue[self.next];
        if self.hold.is_some_and(|(psn, _)| psn == message.psn) {
            return false;
        }
        let begins = self.sent == self.high && message.psn == self.oldest.add(self.sent);
        if !begins {
            return true;
        }
        let before = self.queue.iter().take(self.next);
        let answers = before.filter(|message| is_answered(message.operation)).count();
        if answers > 0 && message.header.flags & send_flags::FENCE != 0 {
            return false;
        }
        let fits = !is_answered(message.operation) || answers < usize::from(depth);
        fits && self.high + message.packets <= HALF
    }
}

/// Ends the first message, if it is one that is not sent.
fn settle<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) -> bool {
    let Some(sender) = sender(hca, at) else {
        return false;
    };
    let (Some((psn, hold)), Some(first)) = (sender.hold, sender.queue.front()) else {
        return false;
    };
    if first.psn != psn {
        return false;
    }
    let Some(message) = sender.pop() else {
        return false;
    };
    match hold {
        Hold::Bad(bad) => requester::fail(hca, cx, at, &message, bad),
        Hold::Local => mw::work::execute(hca, cx, at, &message),
    }
    cx.pool.give_message(message);
    true
}

/// Takes the next message out of the ring. `false`: there is none.
fn fetch<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) -> bool {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return false;
    };
    let psn = qp.req.psn;
    let ahead = qp.wire.as_ref().map_or(0, |wire| wire.sender.queue.len());
    let (mut message, hold) = match requester::fetch(hca, cx, at, ahead as u32) {
        Taken::Empty => return false,
        Taken::Message(message) => (message, None),
        Taken::Bad(message, bad) => (message, Some(Hold::Bad(bad))),
        Taken::Local(message) => (message, Some(Hold::Local)),
    };
    let Some(sender) = sender(hca, at) else {
        cx.pool.give_message(message);
        return false;
    };
    if hold.is_some() {
        (message.psn, message.packets) = (psn, 0);
    }
    if sender.queue.is_empty() {
        debug_assert_eq!((sender.sent, sender.high), (0, 0));
        sender.oldest = psn;
    }
    sender.hold = hold.map(|hold| (psn, hold));
    sender.queue.push_back(message);
    true
}

/// A request packet.
struct Outgoing {
    /// `None`: nothing leaves the port.
    bytes: Option<Vec<u8>>,
    /// PSNs that it takes: those of its answer, for a READ.
    psns: u32,
    /// It is the last one of its message.
    ends: bool,
    /// Bytes of data.
    len: u64,
}

/// Sends the next packet.
fn transmit<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) {
    let Some((qp, sender)) = hca
        .qps
        .get(at.qpn.get())
        .and_then(|qp| qp.wire.as_ref().map(|wire| (qp, &wire.sender)))
    else {
        return;
    };
    let message = &sender.queue[sender.next];
    let begin = message.psn;
    let index = sender.oldest.add(sender.sent).add(Psn::MASK + 1 - begin.get()).get();
    let made = outgoing(hca, cx.env, qp, message, index);
    let id = hca.id;
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return;
    };
    let Some(sender) = qp.wire.as_mut().map(|wire| &mut wire.sender) else {
        return;
    };
    let packet = match made {
        Ok(packet) => packet,
        Err(bad) => {
            sender.hold = Some((begin, Hold::Bad(bad)));
            return;
        }
    };
    let again = sender.sent < sender.high;
    sender.sent += packet.psns;
    sender.high = sender.high.max(sender.sent);
    sender.next += usize::from(packet.ends);
    if qp.wait == Wait::Nothing {
        let deadline = response_timeout(qp.attrs.timeout).map(|after| cx.now + after);
        cx.schedule.wait(id, qp, Wait::Response, deadline);
    }
    pace::sent(cx.now, qp, packet.len, 1);
    budget.bytes = budget.bytes.saturating_sub(packet.len);
    if again {
        hca.counters.count(Counter::RetransmittedPkts);
    }
    hca.send(cx, packet.bytes);
}

/// Makes packet `index` of an RC message.
fn outgoing<E: Env>(hca: &Hca, env: &E, qp: &Qp, message: &Message, index: u32) -> Result<Outgoing, BadRequest> {
    if index == 0 {
        // The first packet answers for the whole message, so that a bad one sends nothing.
        check_own(hca, qp.pdn, message, message.len)?;
    }
    if matches!(message.operation, Operation::Send | Operation::Write) {
        return data_packet(hca, env, qp, message, index);
    }
    let header = &message.header;
    let before = u64::from(index) * mtu(qp) as u64;
    let reth = |len: u64| Reth {
        addr: header.remote_addr.wrapping_add(before).into(),
        rkey: header.rkey.0.into(),
        // At most 2^31: `Message::check`.
        len: (len as u32).into(),
    };
    let mut ext = Extended::default();
    let (mut value, mut len, mut psns) = ([0; 8], 0, 1);
    ext.xrc = message.srqn.unwrap_or_default().into();
    let opcode = match message.operation {
        Operation::Read => {
            ext.reth = reth(message.len - before);
            psns = message.packets - index;
            PacketOpcode::RC_READ_REQUEST
        }
        Operation::CompareSwap | Operation::FetchAdd => {
            let args = message.atomic;
            let swaps = message.operation == Operation::CompareSwap;
            ext.atomic = AtomicEth {
                addr: header.remote_addr.into(),
                rkey: header.rkey.0.into(),
                swap_add: if swaps { args.swap } else { args.compare_add }.into(),
                compare: if swaps { args.compare_add } else { 0 }.into(),
            };
            if swaps {
                PacketOpcode::RC_COMPARE_SWAP
            } else {
                PacketOpcode::RC_FETCH_ADD
            }
        }
        Operation::AtomicWrite => {
            ext.reth = reth(8);
            len = 8;
            source(hca, env, qp, message, 0, &mut value).map_err(local_protection)?;
            PacketOpcode::RC_ATOMIC_WRITE
        }
        _ => {
            let args: FlushArgs = zerocopy::transmute!(message.atomic);
            ext.feth = Feth::new(args.placement, args.level);
            let whole = args.level == flush_args::REGION;
            ext.reth = reth(if whole { 0 } else { args.len });
            PacketOpcode::RC_FLUSH
        }
    };
    let mut bth = Bth::new(opcode, qp.attrs.dest_qpn, message.psn.add(index));
    bth.psn = (bth.psn.get() | Bth::ACK_REQUEST).into();
    let fill = |to: &mut [u8]| {
        to.copy_from_slice(&value[..to.len()]);
        Ok::<_, core::convert::Infallible>(())
    };
    let Ok(bytes) = hca.encode(qp, bth, &ext, len, fill);
    Ok(Outgoing {
        bytes,
        psns,
        ends: true,
        len: len as u64,
    })
}

/// Makes packet `index` of a SEND or a WRITE.
fn data_packet<E: Env>(hca: &Hca, env: &E, qp: &Qp, message: &Message, index: u32) -> Result<Outgoing, BadRequest> {
    let (bth, ext, before, len) = data_head(qp, message, index);
    let fill = |to: &mut [u8]| source(hca, env, qp, message, before, to);
    let bytes = hca
        .encode(qp, bth, &ext, len as usize, fill)
        .map_err(local_protection)?;
    Ok(Outgoing {
        bytes,
        psns: 1,
        ends: index + 1 == message.packets,
        len,
    })
}

/// The headers of packet `index` of a SEND or a WRITE, where its data begins in the message, and how long that is.
pub(super) fn data_head(qp: &Qp, message: &Message, index: u32) -> (Bth, Extended, u64, u64) {
    let mtu = mtu(qp) as u64;
    let before = u64::from(index) * mtu;
    let len = (message.len - before).min(mtu);
    let (first, last) = (index == 0, index + 1 == message.packets);
    let write = message.operation == Operation::Write;
    let tail = if last { message.tail() } else { Tail::Nothing };
    let mut ext = Extended::default();
    match tail {
        Tail::Nothing => {}
        Tail::Imm(imm) => {
            ext.imm = ImmDt {
                data: imm.to_le_bytes(),
            }
        }
        Tail::Invalidate(key) => ext.ieth = key.into(),
    }
    if write {
        ext.reth = Reth {
            addr: message.header.remote_addr.into(),
            rkey: message.header.rkey.0.into(),
            len: (message.len as u32).into(),
        };
    }
    ext.xrc = message.srqn.unwrap_or_default().into();
    let opcode = data_opcode(write, first, last, tail);
    let psn = message.psn.add(index);
    let mut bth = Bth::new(opcode, qp.attrs.dest_qpn, psn);
    // A limited queue may be slower than the peer's acknowledgement of a whole window is awaited.
    let asks = last || psn.get() % ACK_EVERY == ACK_EVERY - 1 || qp.pace.is_some();
    if qp.kind != QpType::UC && asks {
        bth.psn = (psn.get() | Bth::ACK_REQUEST).into();
    }
    if last && message.header.flags & send_flags::SOLICITED != 0 {
        bth.flags |= Bth::SOLICITED;
    }
    (bth, ext, before, len)
}

fn data_opcode(write: bool, first: bool, last: bool, tail: Tail) -> PacketOpcode {
    use PacketOpcode as P;
    match (write, first, last, tail) {
        (false, true, false, _) => P::RC_SEND_FIRST,
        (false, false, false, _) => P::RC_SEND_MIDDLE,
        (false, false, true, Tail::Nothing) => P::RC_SEND_LAST,
        (false, false, true, Tail::Imm(_)) => P::RC_SEND_LAST_WITH_IMM,
        (false, false, true, Tail::Invalidate(_)) => P::RC_SEND_LAST_WITH_INVALIDATE,
        (false, true, true, Tail::Nothing) => P::RC_SEND_ONLY,
        (false, true, true, Tail::Imm(_)) => P::RC_SEND_ONLY_WITH_IMM,
        (false, true, true, Tail::Invalidate(_)) => P::RC_SEND_ONLY_WITH_INVALIDATE,
        (true, true, false, _) => P::RC_WRITE_FIRST,
        (true, false, false, _) => P::RC_WRITE_MIDDLE,
        (true, false, true, Tail::Nothing) => P::RC_WRITE_LAST,
        (true, false, true, _) => P::RC_WRITE_LAST_WITH_IMM,
        (true, true, true, Tail::Nothing) => P::RC_WRITE_ONLY,
        (true, true, true, _) => P::RC_WRITE_ONLY_WITH_IMM,
    }
}

/// Reads bytes of a message's own data.
pub(super) fn source<E: Env>(
    hca: &Hca,
    env: &E,
    qp: &Qp,
    message: &Message,
    before: u64,
    to: &mut [u8],
) -> Result<(), KeyFault> {
    if let Some(bytes) = message.inline() {
        let before = before as usize;
        to.copy_from_slice(&bytes[before..before + to.len()]);
        return Ok(());
    }
    let from = Stretches::list(&hca.mrs, qp.pdn, message.elements(), before, 0);
    sg::load(env.ram(hca.id), from, to)
}

/// What was sent is sent once more, or has been too often.
pub(super) fn retry<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    match requester::spend_retry(hca, at) {
        Ok(()) => begin_again(hca, cx, at),
        Err(bad) => fail_first(hca, cx, at, bad),
    }
}

/// Sends from the oldest PSN on.
pub(super) fn begin_again<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    if let Some(sender) = sender(hca, at) {
        sender.rewind();
    }
    rearm(hca, cx, at);
}

/// Ends the first message in an error.
pub(super) fn fail_first<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, bad: BadRequest) {
    if let Some(message) = sender(hca, at).and_then(Sender::pop) {
        requester::fail(hca, cx, at, &message, bad);
        cx.pool.give_message(message);
    }
}

/// Starts the timer anew if anything is in flight, and gives the queue pair a turn: something has happened.
pub(super) fn rearm<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    let id = hca.id;
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return;
    };
    if !matches!(qp.state, QpState::RTS | QpState::SQD) {
        return;
    }
    let in_flight = qp.wire.as_ref().is_some_and(|wire| wire.sender.high > 0);
    match qp.wait {
        Wait::Nothing | Wait::Response if in_flight => {
            let deadline = response_timeout(qp.attrs.timeout).map(|after| cx.now + after);
            cx.schedule.wait(id, qp, Wait::Response, deadline);
        }
        Wait::Response => cx.schedule.disarm(id, qp),
        _ => {}
    }
    cx.schedule.activate(id, qp);
}

/// The queue pair's timer has expired, and told why.
pub(crate) fn expired<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, why: Wait) {
    match why {
        Wait::Rnr => begin_again(hca, cx, at),
        // What a rate limit has not let go again yet cannot have been answered. The time begins when it leaves.
        Wait::Response if sender(hca, at).is_some_and(|sender| sender.sent == 0) && pace::is_held(hca, at.qpn) => {}
        Wait::Response => {
            hca.counters.count(Counter::AckTimeouts);
            retry(hca, cx, at);
        }
        Wait::Nothing | Wait::Rescan => {}
    }
}

/// A PSN error of the peer's, or none of ours: the message ends so.
pub(super) fn bad_response() -> BadRequest {
    BadRequest {
        status: Status::BAD_RESP_ERR,
        reason: vendor::NONE,
    }
}
