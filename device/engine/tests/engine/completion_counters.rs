// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion counters: completion queues that count instead of writing entries.

use verbena_engine::testing::{Failed, Guest, Pair, SendWr, World};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{CreateCqReq, ModifyCqReq, CQ_COUNTER};
use verbena_hw::cqe::{modify, CounterRecord};
use verbena_hw::eqe::Event;
use verbena_hw::id::Cqn;
use verbena_hw::qp::QpState;
use verbena_hw::ring::PageList;
use zerocopy::FromZeros;

/// Places of a counter.
const PLACES: u64 = 512;

/// A counter, and where its memory is.
struct Counter {
    cqn: Cqn,
    places: u64,
    record: u64,
    arms: u32,
}

fn request(guest: &Guest, w: &mut World) -> CreateCqReq {
    let places = w.ram_mut(guest.hca).alloc(4096);
    let record = w.ram_mut(guest.hca).alloc(4096);
    CreateCqReq {
        ring: PageList::direct(places, 8 * PLACES),
        record,
        cookie: 0xc1,
        eqn: guest.eqn,
        log_entries: PLACES.trailing_zeros() as u8,
        flags: CQ_COUNTER,
        reserved: [0; 10],
    }
}

impl Counter {
    fn new(guest: &mut Guest, w: &mut World) -> Self {
        let req = request(guest, w);
        let cqn = guest.create(w, Opcode::CREATE_CQ, &req).expect("a counter");
        Self {
            cqn: Cqn::truncate(cqn),
            places: req.ring.addr,
            record: req.record,
            arms: 0,
        }
    }

    fn word(&self, guest: &Guest, w: &World, at: u64) -> u64 {
        let bytes = w.ram(guest.hca).read(at, 8);
        u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
    }

    /// What has succeeded, and what has failed.
    fn read(&self, guest: &Guest, w: &World) -> (u64, u64) {
        let at = |offset: usize| self.word(guest, w, self.record + offset as u64);
        (
            at(core::mem::offset_of!(CounterRecord, succeeded)),
            at(core::mem::offset_of!(CounterRecord, failed)),
        )
    }

    /// How far the send queue, and the receive queue, of the queue pair with this cookie are consumed.
    fn consumed(&self, guest: &Guest, w: &World, cookie: u64) -> (u32, u32) {
        let word = self.word(guest, w, self.places + 8 * (cookie % PLACES));
        (word as u32, (word >> 32) as u32)
    }

    fn arm(&mut self, guest: &Guest, w: &World, threshold: u64, seen: u64) {
        self.arms += 1;
        let ram = w.ram(guest.hca);
        let at = |offset: usize| self.record + offset as u64;
        ram.write(
            at(core::mem::offset_of!(CounterRecord, threshold)),
            &threshold.to_le_bytes(),
        );
        ram.write(at(core::mem::offset_of!(CounterRecord, seen)), &seen.to_le_bytes());
        let arm = self.arms << 2 | CounterRecord::ARM_COUNT;
        ram.write(at(core::mem::offset_of!(CounterRecord, arm)), &arm.to_le_bytes());
    }
}

const COOKIE: u64 = 0x7_0000_0000 + PLACES + 5;

/// A pair whose queues complete to counters: a's sends to the first, b's receives to the second.
fn counted() -> (Pair, Counter, Counter) {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let sent = Counter::new(&mut pair.a.guest, w);
    let received = Counter::new(&mut pair.b.guest, w);
    for (end, counter) in [(&mut pair.a, &sent), (&mut pair.b, &received)] {
        let mut req = end.guest.qp_request(w, &end.cq, &end.cq, Default::default());
        (req.send_cqn, req.recv_cqn, req.cookie) = (counter.cqn, counter.cqn, COOKIE);
        end.qp = end.guest.create_qp(w, &req).expect("a queue pair");
    }
    let (to_b, to_a) = ((pair.b.guest.gid(), pair.b.qp.qpn), (pair.a.guest.gid(), pair.a.qp.qpn));
    pair.a.connect(w, to_b, (1, 1), |_| {});
    pair.b.connect(w, to_a, (1, 1), |_| {});
    (pair, sent, received)
}

/// Counter events of b since the last call.
fn told(pair: &mut Pair, counter: &Counter) -> usize {
    let events = pair.b.guest.events(&mut pair.world);
    for event in &events {
        let told = (Event(event.event), event.number, event.cookie);
        assert_eq!(told, (Event::COMPLETION, counter.cqn.get(), 0xc1));
    }
    events.len()
}

#[test]
fn h07_a_completion_counter_counts_what_would_be_entries() {
    let (mut pair, sent, received) = counted();
    let w = &mut pair.world;
    // More than any ring holds: a counter does not overflow.
    for i in 0..100 {
        pair.b.post_recv(w, i, 0, 8);
        pair.a.post(w, SendWr::send(i, &[]));
        pair.a
            .post(w, SendWr::write(i, &[], pair.b.addr(0), pair.b.rkey()).unsignaled());
        w.run();
        let now = (i + 1, 0);
        assert_eq!(
            (sent.read(&pair.a.guest, w), received.read(&pair.b.guest, w)),
            (now, now)
        );
    }
    // What is not signaled is not counted, but the next that is says that it is consumed.
    assert_eq!(sent.consumed(&pair.a.guest, w, COOKIE), (199, 0));
    assert_eq!(received.consumed(&pair.b.guest, w, COOKIE), (0, 100));
    assert!(pair.a.cq.poll(w).is_none() && pair.b.cq.poll(w).is_none(), "an entry");
}

#[test]
fn h07_a_completion_counter_counts_failures_apart() {
    let (mut pair, sent, received) = counted();
    let w = &mut pair.world;
    pair.b.post_recv(w, 1, 0, 8);
    pair.b.post_recv(w, 2, 0, 8);
    pair.a.post(
        w,
        SendWr::write(1, &[pair.a.sge(0, 8)], pair.b.addr(0), Default::default()),
    );
    pair.a.post(w, SendWr::send(2, &[]));
    w.run();
    assert_eq!(
        sent.read(&pair.a.guest, w),
        (0, 2),
        "the WRITE without a key, and what it flushes"
    );
    assert_eq!(received.read(&pair.b.guest, w), (0, 2), "the receives that are flushed");
    assert_eq!(received.consumed(&pair.b.guest, w, COOKIE), (0, 2));
}

#[test]
fn h07_a_completion_counter_tells_at_its_threshold_and_of_failures() {
    let (mut pair, _, mut received) = counted();
    let message = |pair: &mut Pair| {
        let w = &mut pair.world;
        pair.b.post_recv(w, 1, 0, 8);
        pair.a.post(w, SendWr::send(1, &[]));
        w.run();
    };
    message(&mut pair);
    assert_eq!(told(&mut pair, &received), 0, "nobody has asked");
    received.arm(&pair.b.guest, &pair.world, 4, 0);
    for n in 2..4 {
        message(&mut pair);
        assert_eq!(told(&mut pair, &received), 0, "{n} of 4");
    }
    message(&mut pair);
    assert_eq!(told(&mut pair, &received), 1, "4 of 4");
    message(&mut pair);
    assert_eq!(told(&mut pair, &received), 0, "once");
    // A threshold that is over is told at the next.
    received.arm(&pair.b.guest, &pair.world, 4, 0);
    message(&mut pair);
    assert_eq!(told(&mut pair, &received), 1, "more than 4");
    received.arm(&pair.b.guest, &pair.world, u64::MAX, 0);
    message(&mut pair);
    assert_eq!(told(&mut pair, &received), 0, "7 of many");
    let (w, qpn) = (&mut pair.world, pair.b.qp.qpn);
    pair.b.post_recv(w, 4, 0, 8);
    pair.b.guest.modify_state(w, qpn, QpState::ERR).expect("a transition");
    w.run();
    assert_eq!(told(&mut pair, &received), 1, "a failure");
    // One that is known is not told again.
    received.arm(&pair.b.guest, &pair.world, u64::MAX, 1);
    assert_eq!(told(&mut pair, &received), 0);
    assert_eq!(received.read(&pair.b.guest, &pair.world), (7, 1));
}

#[test]
fn h07_a_completion_counter_is_neither_moved_nor_made_wrongly() {
    let mut pair = Pair::connected();
    let (w, g) = (&mut pair.world, &mut pair.a.guest);
    let good = request(g, w);
    let refused = |g: &mut Guest, w: &mut World, req: CreateCqReq| match g.create(w, Opcode::CREATE_CQ, &req) {
        Err(Failed { status, detail }) => (status, detail as usize),
        Ok(_) => panic!("it was taken"),
    };
    let flags = CreateCqReq { flags: 2, ..good };
    let at = core::mem::offset_of!(CreateCqReq, flags);
    assert_eq!(refused(g, w, flags), (Status::BAD_FIELD, at));
    // The record of a queue would do at 64.
    let record = CreateCqReq {
        record: good.record + 64,
        ..good
    };
    let at = core::mem::offset_of!(CreateCqReq, record);
    assert_eq!(refused(g, w, record), (Status::BAD_ADDRESS, at));
    let cqn = g.create(w, Opcode::CREATE_CQ, &good).expect("a counter");
    let moderate = ModifyCqReq {
        cqn: Cqn::truncate(cqn),
        mask: modify::MODERATION,
        ..ModifyCqReq::new_zeroed()
    };
    let moved = g.command(w, Opcode::MODIFY_CQ, &moderate).map(|_: ()| ());
    assert_eq!(moved.map_err(|failed| failed.status), Err(Status::BAD_FIELD));
}

#[test]
fn h07_a_completion_counter_that_vanishes_is_an_event_and_an_error() {
    let (mut pair, sent, _) = counted();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    w.ram_mut(hca).map(0x9000_0000, 4096, true);
    let mut req = request(&pair.a.guest, w);
    req.ring = PageList::direct(0x9000_0000, 4096);
    let cqn = pair.a.guest.create(w, Opcode::CREATE_CQ, &req).expect("a counter");
    pair.complete_sends_in(Cqn::truncate(cqn));
    let w = &mut pair.world;
    w.ram_mut(hca).unmap(0x9000_0000);
    pair.a.post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    w.run();
    let events: Vec<_> = pair.a.guest.events(w).iter().map(|e| Event(e.event)).collect();
    assert_eq!(events, [Event::CQ_ERR, Event::QP_FATAL]);
    assert_eq!(sent.read(&pair.a.guest, w), (0, 0), "another counter's");
}
