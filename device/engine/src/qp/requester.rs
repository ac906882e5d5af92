// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requester: a queue pair's turn at its send queue.
//!
//! One message is in flight at a time: a local request is answered in the call that makes it, so there is nothing to
//! gain from more. A fence is thereby always kept.

use crate::counter_set::Tally;
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::Env;
use crate::hca::{Cx, Hca, Side};
use crate::limits::{SLICE, TURN};
use crate::mw;
use crate::packet::sender;
use crate::qp::message::{BadRequest, Message, Operation, SendLimits, Tail, Unsent};
use crate::qp::transport::{packets, response_timeout, rnr_time, Nak, Outcome, Request};
use crate::qp::{express, flush, local, pace, Qp, Wait};
use crate::schedule::QpRef;
use crate::Budget;
use verbena_hw::cqe::{vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::qp::{Mtu, QpState};
use verbena_hw::wqe::send_flags;

/// RNR retry count that means: for ever (IBA vol. 1, 9.7.5.2.8).
const RNR_FOREVER: u8 = 7;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more to do until something happens.
    Idle,
    /// There is more: the queue pair wants another turn.
    More,
}

/// What becomes of the message after one run of it.
enum Next {
    /// The message is complete, one way or the other.
    Done,
    /// Its next run.
    Run,
    /// It waits for a timer.
    Wait,
}

/// Gives the queue pair its turn.
#[inline]
pub(crate) fn turn<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    let mut left = TURN;
    // Not each of a row of messages that are none of its is offered to the short way.
    let mut refusals = 0;
    while left > 0 {
        if refusals < 2 {
            let before = left;
            match express::run(hcas, cx, at, &mut left, budget) {
                express::End::Empty => return Turn::Idle,
                express::End::Spent => break,
                express::End::Other if before == left => refusals += 1,
                express::End::Other => {}
            }
        }
        left = left.saturating_sub(1);
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
                drained(hca, cx, at);
                return Turn::Idle;
            }
            QpState::ERR => return flush::turn(hca, cx, at.qpn, budget),
            _ => return Turn::Idle,
        }
        if qp.wait != Wait::Nothing || pace::holds(cx, at.hca, qp) {
            return Turn::Idle;
        }
        let (message, next) = match take(hca, cx, at) {
            Taken::Empty => return Turn::Idle,
            Taken::Bad(message, bad) => {
                fail(hca, cx, at, &message, bad);
                (message, Next::Done)
            }
            Taken::Local(message) => {
                mw::work::execute(hca, cx, at, &message);
                (message, Next::Done)
            }
            Taken::Message(mut message) => {
                let next = run(hcas, cx, at, &mut message, budget);
                (message, next)
            }
        };
        budget.operations = budget.operations.saturating_sub(1);
        match next {
            Next::Done => cx.pool.give_message(message),
            Next::Run | Next::Wait => {
                let Some(qp) = hcas.qp_mut(at) else {
                    return Turn::Idle;
                };
                qp.req.current = Some(message);
                // A long message gives way after each slice.
                return match next {
                    Next::Run => Turn::More,
                    _ => Turn::Idle,
                };
            }
        }
        if budget.is_spent() {
            break;
        }
    }
    Turn::More
}

/// What comes next in the send queue.
pub(crate) enum Taken {
    Empty,
    Message(Box<Message>),
    Bad(Box<Message>, BadRequest),
    /// The device itself executes it.
    Local(Box<Message>),
}

#[inline]
fn take<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) -> Taken {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return Taken::Empty;
    };
    if let Some(message) = qp.req.current.take() {
        return Taken::Message(message);
    }
    fetch(hca, cx, at, 0)
}

/// Takes the next entry out of the send queue, and a place in the sequence for it. `ahead`: messages that were taken
/// before and are not complete.
#[inline]
pub(crate) fn fetch<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, ahead: u32) -> Taken {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return Taken::Empty;
    };
    let mut message = cx.pool.message();
    match message.fetch(
        cx.env.ram(at.hca),
        (&qp.sq, qp.kind),
        qp.req.consumer.wrapping_add(ahead),
    ) {
        Ok(true) => {}
        Ok(false) => {
            cx.pool.give_message(message);
            return Taken::Empty;
        }
        Err(_) => {
            cx.pool.give_message(message);
            // There is no work request to complete: an event tells.
            hca.enter_error(cx, at.qpn);
            hca.raise_qp(cx, at.qpn, Event::QP_FATAL, vendor::RING_UNREACHABLE);
            return Taken::Empty;
        }
    }
    let limits = SendLimits {
        max_sge: qp.max_send_sge,
        max_inline: qp.max_inline,
        rd_atomic: qp.attrs.max_rd_atomic,
    };
    match message.check(limits) {
        Ok(()) => {}
        Err(Unsent::Bad(bad)) => return Taken::Bad(message, bad),
        Err(Unsent::Local) => return Taken::Local(message),
    }
    message.psn = qp.req.psn;
    message.packets = packets(message.len, mtu(qp));
    qp.req.psn = message.psn.add(message.packets);
    if ahead == 0 {
        (qp.req.retries_left, qp.req.rnr_left) = (qp.attrs.retry_cnt, qp.attrs.rnr_retry);
    }
    Taken::Message(message)
}

fn mtu(qp: &Qp) -> u32 {
    // RTR took only codes with a meaning, and a send queue runs only after RTR.
    Mtu(qp.attrs.path_mtu).bytes().unwrap_or(256)
}

/// Sends the next run of the message.
#[inline]
fn run<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, message: &mut Message, budget: &mut Budget) -> Next {
    let Some(qp) = hcas.qp_mut(at) else {
        return Next::Done;
    };
    let (mtu, pdn) = (mtu(qp), qp.pdn);
    let left = message.len - message.offset;
    let slice = match message.operation {
        // What comes back is for its sender to pace.
        Operation::Read => SLICE,
        _ => qp.slice(cx.now),
    };
    let len = left.min(slice);
    let last = len == left;
    // A slice is a multiple of the MTU, so the packets before this run are full.
    let sent = (message.offset / u64::from(mtu)) as u32;
    let request = Request {
        operation: message.operation,
        psn: message.psn.add(sent),
        packets: packets(len, mtu),
        mtu,
        first: message.offset == 0 || matches!(message.operation, Operation::Read),
        last,
        addr: message.header.remote_addr.wrapping_add(message.offset),
        rkey: message.header.rkey,
        len,
        total: if matches!(message.operation, Operation::Read) {
            left
        } else {
            message.len
        },
        tail: if last { message.tail() } else { Tail::Nothing },
        solicited: message.header.flags & send_flags::SOLICITED != 0,
        atomic: message.atomic,
    };
    let outcome = local::deliver(hcas, cx, at, pdn, message, &request);
    match message.operation {
        Operation::Read => pace::sent_by(hcas, cx.now, at, 0, 1),
        _ => pace::sent_by(hcas, cx.now, at, len, request.packets),
    }
    budget.bytes = budget.bytes.saturating_sub(len);
    let Some(hca) = hcas.get_mut(at.hca) else {
        return Next::Done;
    };
    match outcome {
        Err(bad) => {
            fail(hca, cx, at, message, bad);
            Next::Done
        }
        Ok(Outcome::Ack(psn)) => {
            if psn != request.psn.add(request.packets - 1) {
                // It acknowledges what this side never sent: the two sides disagree about the sequence.
                return timeout_begins(hca, cx, at);
            }
            message.offset += len;
            if last {
                succeed(hca, cx, at, message);
                return Next::Done;
            }
            progress(hca, at);
            Next::Run
        }
        Ok(Outcome::Rnr(code)) => not_ready(hca, cx, at, message, code),
        Ok(Outcome::Nak(Nak::Sequence)) => retry(hca, cx, at, message),
        Ok(Outcome::Nak(nak)) => {
            let status = nak.status().unwrap_or(Status::FATAL_ERR);
            let bad = BadRequest {
                status,
                reason: vendor::NONE,
            };
            fail(hca, cx, at, message, bad);
            Next::Done
        }
        Ok(Outcome::Silence) => timeout_begins(hca, cx, at),
    }
}

/// Something was acknowledged: the retry counters begin anew (IBA vol. 1, 9.9.2.1).
pub(crate) fn progress(hca: &mut Hca, at: QpRef) {
    if let Some(qp) = hca.qps.get_mut(at.qpn.get()) {
        (qp.req.retries_left, qp.req.rnr_left) = (qp.attrs.retry_cnt, qp.attrs.rnr_retry);
    }
}

#[inline]
pub(crate) fn succeed<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, message: &Message) {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return;
    };
    qp.req.consumer = qp.req.consumer.wrapping_add(1);
    let signaled = qp.signal_all || message.is_signaled();
    hca.counters.count(Counter::SentMsgs);
    let fetched = match message.operation {
        Operation::Send => {
            hca.counters.count(Counter::RdmaSends);
            hca.counters.add(Counter::SentBytes, message.len);
            0
        }
        Operation::Write => {
            hca.counters.add(Counter::SentBytes, message.len);
            0
        }
        Operation::Read => {
            hca.counters.count(Counter::SentReads);
            message.len as u32
        }
        Operation::CompareSwap | Operation::FetchAdd => 8,
        Operation::AtomicWrite => {
            hca.counters.add(Counter::SentBytes, message.len);
            0
        }
        Operation::Flush | Operation::LocalInvalidate | Operation::BindWindow | Operation::FastRegister => 0,
    };
    hca.tally(at.qpn, Tally::SentMsgs, 1);
    if matches!(
        message.operation,
        Operation::Send | Operation::Write | Operation::AtomicWrite
    ) {
        hca.tally(at.qpn, Tally::SentBytes, message.len);
    }
    if signaled {
        let cqe = Cqe {
            opcode: message.operation.completion().0,
            wr_id: message.header.wr_id,
            byte_len: fetched,
            ..Cqe::default()
        };
        hca.complete(cx, at.qpn, Side::Send, cqe);
    }
}

/// Ends the message, and with it the queue pair, in an error.
pub(crate) fn fail<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, message: &Message, bad: BadRequest) {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return;
    };
    if qp.state == QpState::ERR {
        // The queue pair failed while the message was under way, through its own responder: it flushes this one.
        let mut copy = cx.pool.message();
        copy.header = message.header;
        qp.req.current = Some(copy);
        return;
    }
    qp.req.consumer = qp.req.consumer.wrapping_add(1);
    let cqe = Cqe {
        status: bad.status.0,
        wr_id: message.header.wr_id,
        vendor_err: bad.reason,
        ..Cqe::default()
    };
    hca.complete(cx, at.qpn, Side::Send, cqe);
    hca.enter_error(cx, at.qpn);
}

/// The peer has no receive: the message waits as long as the peer asks, or has waited too often.
fn not_ready<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, message: &Message, code: u8) -> Next {
    match rnr_begins(hca, cx, at, code) {
        Ok(()) => Next::Wait,
        Err(bad) => {
            fail(hca, cx, at, message, bad);
            Next::Done
        }
    }
}

/// Lets the send queue wait for the time that the peer asks for.
///
/// # Errors
///
/// It has waited too often: how the work request ends.
pub(crate) fn rnr_begins<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, code: u8) -> Result<(), BadRequest> {
    hca.counters.count(Counter::RcvdRnrErr);
    let id = hca.id;
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return Ok(());
    };
    if qp.req.rnr_left == 0 {
        hca.counters.count(Counter::RetryRnrExceededErr);
        return Err(BadRequest {
            status: Status::RNR_RETRY_EXC_ERR,
            reason: vendor::NONE,
        });
    }
    if qp.req.rnr_left != RNR_FOREVER {
        qp.req.rnr_left -= 1;
    }
    cx.schedule.wait(id, qp, Wait::Rnr, Some(cx.now + rnr_time(code)));
    Ok(())
}

/// Nothing came back: the message waits for its transport timeout.
fn timeout_begins<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) -> Next {
    let id = hca.id;
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return Next::Done;
    };
    let deadline = response_timeout(qp.attrs.timeout).map(|after| cx.now + after);
    cx.schedule.wait(id, qp, Wait::Response, deadline);
    Next::Wait
}

/// The message is sent once more, or has been too often.
fn retry<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, message: &Message) -> Next {
    match spend_retry(hca, at) {
        Ok(()) => Next::Run,
        Err(bad) => {
            fail(hca, cx, at, message, bad);
            Next::Done
        }
    }
}

/// Takes one of the transport retries.
///
/// # Errors
///
/// There is none left: how the work request ends.
pub(crate) fn spend_retry(hca: &mut Hca, at: QpRef) -> Result<(), BadRequest> {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return Ok(());
    };
    if qp.req.retries_left > 0 {
        qp.req.retries_left -= 1;
        hca.counters.count(Counter::CompleterRetryErr);
        return Ok(());
    }
    hca.counters.count(Counter::RetryExceededErr);
    Err(BadRequest {
        status: Status::RETRY_EXC_ERR,
        reason: vendor::NONE,
    })
}

/// The queue pair's timer has expired.
pub(crate) fn expired<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    let id = hca.id;
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return;
    };
    let why = qp.wait;
    cx.schedule.disarm(id, qp);
    cx.schedule.activate(id, qp);
    if qp.wire.is_some() {
        return sender::expired(hca, cx, at, why);
    }
    if why != Wait::Response {
        return;
    }
    hca.counters.count(Counter::AckTimeouts);
    let Some(message) = qp.req.current.take() else {
        return;
    };
    match retry(hca, cx, at, &message) {
        Next::Done => cx.pool.give_message(message),
        Next::Run | Next::Wait => {
            if let Some(qp) = hca.qps.get_mut(at.qpn.get()) {
                qp.req.current = Some(message);
            }
        }
    }
}

/// The send queue has come to rest in SQD.
pub(crate) fn drained<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef) {
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return;
    };
    if core::mem::take(&mut qp.req.notify_drained) {
        hca.raise_qp(cx, at.qpn, Event::SQ_DRAINED, vendor::NONE);
    }
}
