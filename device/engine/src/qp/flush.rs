// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of outstanding work in ERR: everything posted completes as flushed, in order, whether posted before the error
//! or after it (IBA vol. 1, 10.3.1.8).
//!
//! Send entries that come later ring a doorbell. Receive entries do not, so a queue pair in ERR looks at its receive queue
//! again when its driver rings (a driver that knows of the error does) and, for those that were posted before the driver
//! knew, by a timer that slows down to a look a second.

use crate::env::Env;
use crate::hca::{Cx, Hca, Side};
use crate::qp::requester::Turn;
use crate::qp::{Arriving, Wait};
use crate::Budget;
use core::time::Duration;
use verbena_hw::cqe::{vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Qpn, Srqn};
use verbena_hw::qp::QpType;

/// Between the first looks at the receive queue; each further wait is twice as long, to a second.
const FIRST_RESCAN: Duration = Duration::from_millis(1);
const RESCAN_DOUBLINGS: u8 = 10;

fn flushed(wr_id: u64) -> Cqe {
    Cqe {
        status: Status::WR_FLUSH_ERR.0,
        wr_id,
        ..Cqe::default()
    }
}

/// Flushes as much as the budget allows.
pub(crate) fn turn<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, budget: &mut Budget) -> Turn {
    while let Some((side, wr_id)) = next_send(hca, cx, qpn).or_else(|| next_receive(hca, cx, qpn)) {
        hca.complete(cx, qpn, side, flushed(wr_id));
        budget.operations = budget.operations.saturating_sub(1);
        if budget.is_spent() {
            return Turn::More;
        }
    }
    last_wqe(hca, cx, qpn);
    let id = hca.id;
    if let Some(qp) = hca.qps.get_mut(qpn.get()) {
        if qp.rq.is_some() && qp.wait == Wait::Nothing {
            let wait = FIRST_RESCAN * (1 << qp.rescans.min(RESCAN_DOUBLINGS));
            qp.rescans = qp.rescans.saturating_add(1);
            cx.schedule.wait(id, qp, Wait::Rescan, Some(cx.now + wait));
        }
    }
    Turn::Idle
}

/// Says, once, that a queue pair in ERR has no more to do with the receives of shared receive queues (IBA vol. 1,
/// 11.6.3.2): all that it had consumed are completed, and it consumes no others.
fn last_wqe<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn) {
    let Some(qp) = hca.qps.get_mut(qpn.get()) else {
        return;
    };
    let shared = qp.srqn != Srqn::default() || qp.kind == QpType::XRC_TGT;
    if shared && !core::mem::replace(&mut qp.last_wqe, true) {
        hca.raise_qp(cx, qpn, Event::LAST_WQE_REACHED, vendor::NONE);
    }
}

/// In SQE: flushes sends as far as the budget allows. Receives go on as ever (IBA vol. 1, 10.3.1.7).
pub(crate) fn sends<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, budget: &mut Budget) -> Turn {
    while let Some((side, wr_id)) = next_send(hca, cx, qpn) {
        hca.complete(cx, qpn, side, flushed(wr_id));
        budget.operations = budget.operations.saturating_sub(1);
        if budget.is_spent() {
            return Turn::More;
        }
    }
    Turn::Idle
}

/// Takes the next outstanding send.
fn next_send<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn) -> Option<(Side, u64)> {
    let ram = cx.env.ram(hca.id);
    let qp = hca.qps.get_mut(qpn.get())?;
    if let Some(message) = qp.req.current.take() {
        let wr_id = message.header.wr_id;
        cx.pool.give_message(message);
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        return Some((Side::Send, wr_id));
    }
    if let Some(message) = qp.wire.as_mut().and_then(|wire| wire.sender.queue.pop_front()) {
        let wr_id = message.header.wr_id;
        cx.pool.give_message(message);
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        return Some((Side::Send, wr_id));
    }
    if qp.kind == QpType::XRC_TGT {
        return None;
    }
    let mut message = cx.pool.message();
    // A ring that is not mapped any more has nothing to flush; the error that it caused has been told.
    let posted = message.fetch(ram, (&qp.sq, qp.kind), qp.req.consumer);
    let wr_id = message.header.wr_id;
    cx.pool.give_message(message);
    if posted == Ok(true) {
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        return Some((Side::Send, wr_id));
    }
    None
}

/// Takes the next outstanding receive.
fn next_receive<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn) -> Option<(Side, u64)> {
    let ram = cx.env.ram(hca.id);
    let qp = hca.qps.get_mut(qpn.get())?;
    match core::mem::take(&mut qp.resp.arriving) {
        // These were taken off the receive queue when the message began to arrive.
        Arriving::Send(receive) => {
            let wr_id = receive.wr_id;
            cx.pool.give_receive(receive);
            return Some((Side::Recv, wr_id));
        }
        Arriving::Write(Some(wr_id)) => return Some((Side::Recv, wr_id)),
        Arriving::Write(None) | Arriving::Nothing => {}
    }
    if let Some(receive) = qp.resp.spare.take() {
        let wr_id = receive.wr_id;
        cx.pool.give_receive(receive);
        return Some((Side::Recv, wr_id));
    }
    let rq = qp.rq.as_ref()?;
    let mut receive = cx.pool.receive();
    let posted = receive.fetch(ram, rq, qp.resp.consumer, qp.max_recv_sge);
    let wr_id = receive.wr_id;
    cx.pool.give_receive(receive);
    // A malformed one is flushed like any other.
    if matches!(posted, Ok(Ok(true) | Err(_))) {
        qp.resp.consumer = qp.resp.consumer.wrapping_add(1);
        return Some((Side::Recv, wr_id));
    }
    None
}
