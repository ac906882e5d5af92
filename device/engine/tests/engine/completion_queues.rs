// SPDX-License-Identifier: MIT OR Apache-2.0
//! H7: arming, overflow, and what a failed completion queue means to its queue pairs.

use core::time::Duration;
use verbena_engine::testing::{Failed, Pair, SendWr};
use verbena_hw::admin::{Opcode, Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{ModifyCqReq, ModifyCqRsp, QueryCqRsp};
use verbena_hw::cqe::{modify as cqe_modify, CqRecord, Status};
use verbena_hw::eqe::Event;
use verbena_hw::qp::QpState;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::send_flags;

fn post(pair: &mut Pair, wr_id: u64, solicited: bool) {
    let w = &mut pair.world;
    pair.b.post_recv(w, wr_id, 0, 8);
    let wr = SendWr::send(wr_id, &[]).unsignaled();
    let wr = if solicited { wr.flags(send_flags::SOLICITED) } else { wr };
    pair.a.post(w, wr);
    w.run();
}

/// Completion events of b's queue since the last call.
fn told(pair: &mut Pair) -> usize {
    let events = pair.b.guest.events(&mut pair.world);
    for event in &events {
        assert_eq!(Event(event.event), Event::COMPLETION);
        assert_eq!((event.number, event.cookie), (pair.b.cq.cqn.get(), 0xc0));
    }
    events.len()
}

#[test]
fn h07_nobody_is_told_who_has_not_asked() {
    let mut pair = Pair::connected();
    post(&mut pair, 1, true);
    assert_eq!(told(&mut pair), 0);
}

#[test]
fn h07_armed_for_any_tells_once() {
    let mut pair = Pair::connected();
    pair.b.cq.arm(&pair.world, CqRecord::ARM_ANY);
    post(&mut pair, 1, false);
    assert_eq!(told(&mut pair), 1);
    post(&mut pair, 2, false);
    assert_eq!(told(&mut pair), 0, "once");
    pair.b.cq.arm(&pair.world, CqRecord::ARM_ANY);
    post(&mut pair, 3, false);
    assert_eq!(told(&mut pair), 1);
}

#[test]
fn h07_armed_for_solicited_waits_for_one_or_for_an_error() {
    let mut pair = Pair::connected();
    pair.b.cq.arm(&pair.world, CqRecord::ARM_SOLICITED);
    post(&mut pair, 1, false);
    assert_eq!(told(&mut pair), 0);
    post(&mut pair, 2, true);
    assert_eq!(told(&mut pair), 1);
    pair.b.cq.arm(&pair.world, CqRecord::ARM_SOLICITED);
    post(&mut pair, 3, false);
    assert_eq!(told(&mut pair), 0);
    let (w, qpn) = (&mut pair.world, pair.b.qp.qpn);
    pair.b.post_recv(w, 4, 0, 8);
    pair.b.guest.modify_state(w, qpn, QpState::ERR).expect("a transition");
    w.run();
    assert_eq!(told(&mut pair), 1, "a flush is an error");
}

#[test]
fn h07_a_batch_raises_one_event() {
    let mut pair = Pair::connected();
    pair.b.cq.arm(&pair.world, CqRecord::ARM_ANY);
    let w = &mut pair.world;
    for i in 0..10 {
        pair.b.post_recv(w, i, 0, 8);
        pair.a.qp.post_quietly(w, SendWr::send(i, &[]).unsignaled());
    }
    pair.a.qp.ring(w);
    w.run();
    assert_eq!(told(&mut pair), 1);
    assert_eq!(pair.b.cq.drain(&pair.world).len(), 10);
}

#[test]
fn h07_the_interrupt_comes_when_the_event_queue_is_armed() {
    let mut pair = Pair::connected();
    let hca = pair.b.guest.hca;
    pair.b.cq.arm(&pair.world, CqRecord::ARM_ANY);
    pair.b.guest.arm_events(&mut pair.world);
    post(&mut pair, 1, false);
    assert_eq!(pair.world.take_interrupts(hca, 1), 1);
    assert_eq!(told(&mut pair), 1);
}

#[test]
fn h07_overflow_is_an_event_and_an_error_and_never_silent() {
    let mut pair = Pair::with(Default::default(), 2, |_| {});
    let w = &mut pair.world;
    for i in 0..6 {
        let wr = SendWr::write(i, &[], pair.b.addr(0), pair.b.rkey());
        pair.a.qp.post_quietly(w, wr);
    }
    pair.a.qp.ring(w);
    w.run();
    let events: Vec<_> = pair
        .a
        .guest
        .events(w)
        .iter()
        .map(|e| (Event(e.event), e.number))
        .collect();
    assert_eq!(
        events,
        [
            (Event::CQ_ERR, pair.a.cq.cqn.get()),
            (Event::QP_FATAL, pair.a.qp.qpn.get())
        ]
    );
    assert_eq!(pair.a.guest.state(w, pair.a.qp.qpn), QpState::ERR);
    assert_eq!(pair.a.guest.counter(w, "cq_overruns"), 1);
    let rsp: QueryCqRsp = pair
        .a
        .guest
        .about(w, Opcode::QUERY_CQ, pair.a.cq.cqn.get())
        .expect("the queue");
    assert_eq!((rsp.entries, rsp.producer, rsp.consumer), (4, 4, 0));
    assert_ne!(rsp.overrun, 0);
    // What was there before is still there, and nothing comes after it.
    let ids: Vec<_> = pair.a.cq.drain(w).iter().map(|c| c.wr_id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    w.run();
    pair.a.nothing(w);
}

#[test]
fn h07_a_full_queue_that_is_consumed_in_time_goes_on() {
    let mut pair = Pair::with(Default::default(), 2, |_| {});
    let w = &mut pair.world;
    for i in 0..100 {
        for j in 0..4 {
            let wr = SendWr::write(i * 4 + j, &[], pair.b.addr(0), pair.b.rkey());
            pair.a.post(w, wr);
        }
        w.run();
        let ids: Vec<_> = pair.a.cq.drain(w).iter().map(|c| c.wr_id).collect();
        assert_eq!(ids, (i * 4..i * 4 + 4).collect::<Vec<_>>());
    }
}

#[test]
fn h07_a_consumer_counter_from_nowhere_makes_no_room() {
    let mut pair = Pair::with(Default::default(), 2, |_| {});
    let w = &mut pair.world;
    let at = pair.a.cq.record;
    w.ram(pair.a.guest.hca).write(at, &0x8000_0000u32.to_le_bytes());
    for i in 0..5 {
        let wr = SendWr::write(i, &[], pair.b.addr(0), pair.b.rkey());
        pair.a.qp.post_quietly(w, wr);
    }
    pair.a.qp.ring(w);
    w.run();
    assert_eq!(pair.a.guest.state(w, pair.a.qp.qpn), QpState::ERR);
}

#[test]
fn h07_a_ring_that_vanishes_is_an_event_and_an_error() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    w.ram_mut(hca).map(0x9000_0000, 4096, true);
    let g = &mut pair.a.guest;
    let req = verbena_hw::cmd::CreateCqReq {
        ring: verbena_hw::ring::PageList::direct(0x9000_0000, 4096),
        record: pair.a.cq.record,
        cookie: 5,
        eqn: g.eqn,
        log_entries: 6,
        flags: 0,
        reserved: [0; 10],
    };
    let cqn = g.create(w, Opcode::CREATE_CQ, &req).expect("a queue");
    pair.complete_sends_in(verbena_hw::id::Cqn::truncate(cqn));
    let w = &mut pair.world;
    w.ram_mut(hca).unmap(0x9000_0000);
    pair.a.post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    w.run();
    let events: Vec<_> = pair.a.guest.events(w).iter().map(|e| Event(e.event)).collect();
    assert_eq!(events, [Event::CQ_ERR, Event::QP_FATAL]);
}

#[test]
fn h07_timestamps_are_the_device_clock() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    w.advance(core::time::Duration::from_micros(777));
    let now = w.now.as_nanos();
    pair.a.post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    w.run();
    let cqe = pair.a.completion(w);
    assert_eq!((cqe.timestamp, cqe.status), (now, Status::SUCCESS.0));
}

fn modify_cq(pair: &mut Pair, req: ModifyCqReq) -> Result<ModifyCqRsp, Failed> {
    pair.a.guest.command(&mut pair.world, Admin::MODIFY_CQ, &req)
}

fn unchanged(pair: &Pair) -> ModifyCqReq {
    ModifyCqReq {
        cqn: pair.a.cq.cqn,
        mask: 0,
        count: 0,
        period_us: 0,
        ring: PageList::default(),
        record: 0,
        log_entries: 0,
        reserved: [0; 15],
    }
}

/// Moves a's queue to a ring of `1 << log` entries, and a with it.
fn resize(pair: &mut Pair, log: u8) -> Result<u32, Failed> {
    let hca = pair.a.guest.hca;
    let ring = pair.world.ram_mut(hca).alloc(64 << log);
    let record = pair.world.ram_mut(hca).alloc(64);
    let req = ModifyCqReq {
        mask: cqe_modify::RING,
        ring: PageList::direct(ring, 64 << log),
        record,
        log_entries: log,
        ..unchanged(pair)
    };
    let rsp = modify_cq(pair, req)?;
    pair.a.cq.moved(ring, record, log);
    Ok(rsp.carried)
}

fn send_some(pair: &mut Pair, ids: core::ops::Range<u64>) {
    for wr_id in ids {
        pair.b.post_recv(&mut pair.world, wr_id, 0, 8);
        pair.a.post(&mut pair.world, SendWr::send(wr_id, &[]));
    }
    pair.world.run();
}

#[test]
fn h07_resize_carries_what_is_not_consumed() {
    let mut pair = Pair::connected();
    assert_eq!(resize(&mut pair, 2), Ok(0));
    send_some(&mut pair, 0..3);
    assert_eq!(pair.a.completion(&pair.world).wr_id, 0);
    send_some(&mut pair, 3..5);
    // One to four wait, over the end of the ring of four.
    assert_eq!(resize(&mut pair, 1).map_err(|f| f.status), Err(AdminStatus::BAD_FIELD));
    assert_eq!(resize(&mut pair, 5), Ok(4));
    send_some(&mut pair, 5..33);
    for wr_id in 1..33 {
        assert_eq!(pair.a.completion(&pair.world).wr_id, wr_id);
    }
    pair.a.nothing(&pair.world);
    assert_eq!(resize(&mut pair, 0), Ok(0));
    send_some(&mut pair, 40..41);
    assert_eq!(pair.a.completion(&pair.world).wr_id, 40);
    // The smaller ring is really smaller: two at once overflow it.
    send_some(&mut pair, 41..43);
    let events = pair.a.guest.events(&mut pair.world);
    assert!(events.iter().any(|e| Event(e.event) == Event::CQ_ERR));
    let refused = resize(&mut pair, 3).map_err(|f| f.status);
    assert_eq!(refused, Err(AdminStatus::QUEUE_FAILED));
}

#[test]
fn h07_a_resized_queue_is_as_armed_as_it_was() {
    let mut pair = Pair::connected();
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    assert_eq!(resize(&mut pair, 4), Ok(0));
    send_some(&mut pair, 0..1);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1);
    // And no more than that.
    assert_eq!(resize(&mut pair, 5), Ok(1));
    send_some(&mut pair, 1..2);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 0);
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    send_some(&mut pair, 2..3);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1);
}

fn moderate(pair: &mut Pair, count: u32, period_us: u32) {
    let req = ModifyCqReq {
        mask: cqe_modify::MODERATION,
        count,
        period_us,
        ..unchanged(pair)
    };
    modify_cq(pair, req).expect("moderated");
}

#[test]
fn h07_moderation_waits_for_the_count() {
    let mut pair = Pair::connected();
    moderate(&mut pair, 4, 0);
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    send_some(&mut pair, 0..3);
    pair.world.advance(Duration::from_secs(1));
    assert_eq!(
        pair.a.guest.events(&mut pair.world).len(),
        0,
        "three are fewer than four"
    );
    send_some(&mut pair, 3..4);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1);
    send_some(&mut pair, 4..20);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 0, "one arming, one event");
    // The next arming counts anew; taking the rule back lets the held event go.
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    send_some(&mut pair, 20..22);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 0);
    moderate(&mut pair, 0, 0);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1);
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    send_some(&mut pair, 22..23);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1, "at once again");
}

#[test]
fn h07_moderation_waits_no_longer_than_the_period() {
    let mut pair = Pair::connected();
    moderate(&mut pair, 10, 50);
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    send_some(&mut pair, 0..2);
    pair.world.advance(Duration::from_micros(30));
    send_some(&mut pair, 2..3);
    pair.world.advance(Duration::from_micros(19));
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 0, "49 us after the first");
    pair.world.advance(Duration::from_micros(1));
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1);
    pair.world.advance(Duration::from_secs(1));
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 0);
    // The count may come first, and then no timer is left.
    pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
    send_some(&mut pair, 3..14);
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 1);
    pair.world.advance(Duration::from_secs(1));
    assert_eq!(pair.a.guest.events(&mut pair.world).len(), 0);
    // A queue that is destroyed while its event waits leaves no timer behind.
    let cq = pair.a.guest.cq(&mut pair.world, 2);
    let cqn = cq.cqn.get();
    pair.a
        .guest
        .destroy(&mut pair.world, Admin::DESTROY_CQ, cqn)
        .expect("destroyed");
    assert_eq!(pair.world.poll().next_deadline, None);
}
