// SPDX-License-Identifier: MIT OR Apache-2.0
//! H12: arming, the backlog, and counters from nowhere.

use verbena_engine::testing::{Pair, SendWr, World};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateCqReq, CreateEqReq};
use verbena_hw::cqe::CqRecord;
use verbena_hw::eqe::{Eqe, Event};
use verbena_hw::id::{Cqn, Eqn};
use verbena_hw::regs;
use verbena_hw::ring::{phase, slot, PageList};
use zerocopy::FromBytes;

/// A small event queue on vector 5, with `n` completion queues on it.
struct Small {
    eqn: u32,
    ring: u64,
    consumer: u32,
    cqs: Vec<verbena_engine::testing::Qp>,
    records: Vec<u64>,
    numbers: Vec<u32>,
    arms: u32,
}

const LOG: u8 = 1;

impl Small {
    /// Each completion queue gets a queue pair that is connected to itself.
    fn new(pair: &mut Pair, n: usize) -> Self {
        let w = &mut pair.world;
        let hca = pair.a.guest.hca;
        let ring = w.ram_mut(hca).alloc(4096);
        let req = CreateEqReq {
            ring: PageList::direct(ring, 4096),
            log_entries: LOG,
            async_default: 0,
            vector: 5,
            reserved: [0; 3],
        };
        let eqn = pair.a.guest.create(w, Opcode::CREATE_EQ, &req).expect("a queue");
        let (mut cqs, mut records, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            let ring = w.ram_mut(hca).alloc(4096);
            let record = w.ram_mut(hca).alloc(64);
            let req = CreateCqReq {
                ring: PageList::direct(ring, 4096),
                record,
                cookie: 1,
                eqn: Eqn(eqn),
                log_entries: 6,
                flags: 0,
                reserved: [0; 10],
            };
            let g = &mut pair.a.guest;
            let cqn = g.create(w, Opcode::CREATE_CQ, &req).expect("a queue");
            let mut req = g.qp_request(w, &pair.a.cq, &pair.a.cq, Default::default());
            req.send_cqn = Cqn::truncate(cqn);
            let qp = g.create_qp(w, &req).expect("a queue pair");
            let itself = (g.gid(), qp.qpn);
            let old = core::mem::replace(&mut pair.a.qp, qp);
            pair.a.connect(w, itself, (1, 1), |_| {});
            cqs.push(core::mem::replace(&mut pair.a.qp, old));
            records.push(record);
            numbers.push(cqn);
        }
        Self {
            eqn,
            ring,
            consumer: 0,
            cqs,
            records,
            numbers,
            arms: 0,
        }
    }

    /// Arms completion queue `i` and makes it complete something.
    fn complete(&mut self, pair: &mut Pair, i: usize) {
        self.arms += 1;
        let arm = self.arms << 2 | CqRecord::ARM_ANY;
        let w = &mut pair.world;
        w.ram(pair.a.guest.hca).write(self.records[i] + 4, &arm.to_le_bytes());
        let wr = SendWr::write(1, &[], pair.a.addr(0), pair.a.rkey());
        self.cqs[i].post(w, wr);
        w.run();
    }

    fn doorbell(&mut self, w: &mut World, hca: verbena_engine::HcaId, arm: bool) {
        let value = self.consumer & !regs::EQ_DB_ARM | u32::from(arm) << 31;
        w.write_reg(hca, regs::eq_db(self.eqn), 4, value.into());
    }

    fn next(&mut self, w: &World, hca: verbena_engine::HcaId) -> Option<u32> {
        let at = self.ring + 32 * u64::from(slot(self.consumer, LOG));
        let eqe = Eqe::read_from_bytes(&w.ram(hca).read(at, 32)).expect("32 bytes");
        if eqe.owner & 1 != phase(self.consumer, LOG) {
            return None;
        }
        assert_eq!(Event(eqe.event), Event::COMPLETION);
        self.consumer += 1;
        Some(eqe.number)
    }
}

#[test]
fn h12_events_that_find_the_ring_full_wait_and_come_in_order() {
    let mut pair = Pair::connected();
    let hca = pair.a.guest.hca;
    let mut small = Small::new(&mut pair, 7);
    for i in 0..7 {
        small.complete(&mut pair, i);
    }
    let mut seen = Vec::new();
    for _ in 0..20 {
        while let Some(number) = small.next(&pair.world, hca) {
            seen.push(number);
        }
        small.doorbell(&mut pair.world, hca, false);
    }
    assert_eq!(seen, small.numbers);
}

#[test]
fn h12_an_event_that_already_waits_is_not_queued_again() {
    let mut pair = Pair::connected();
    let hca = pair.a.guest.hca;
    let mut small = Small::new(&mut pair, 3);
    // The first two fill the ring, the third one waits, however often it comes.
    for i in [0, 1, 2, 2, 2, 2] {
        small.complete(&mut pair, i);
    }
    let dump = pair.world.engine.dump(Some(hca), pair.world.now, &pair.world.env);
    let eq = dump.hcas[0]
        .eqs
        .iter()
        .find(|eq| eq.eqn == small.eqn)
        .expect("the queue");
    assert_eq!((eq.backlog, eq.raised), (1, 6));
}

#[test]
fn h12_events_of_a_destroyed_queue_wait_no_more() {
    let mut pair = Pair::connected();
    let hca = pair.a.guest.hca;
    let mut small = Small::new(&mut pair, 3);
    for i in 0..3 {
        small.complete(&mut pair, i);
    }
    let w = &mut pair.world;
    let g = &mut pair.a.guest;
    g.destroy(w, Opcode::DESTROY_QP, small.cqs[2].qpn.get()).expect("gone");
    g.destroy(w, Opcode::DESTROY_CQ, small.numbers[2]).expect("gone");
    let mut seen = Vec::new();
    for _ in 0..3 {
        while let Some(number) = small.next(&pair.world, hca) {
            seen.push(number);
        }
        small.doorbell(&mut pair.world, hca, false);
    }
    assert_eq!(seen, small.numbers[..2]);
}

#[test]
fn h12_arming_signals_once_and_at_once_if_something_is_there() {
    let mut pair = Pair::connected();
    let hca = pair.a.guest.hca;
    let mut small = Small::new(&mut pair, 1);
    let fired = |pair: &Pair| pair.world.take_interrupts(hca, 5);
    small.complete(&mut pair, 0);
    assert_eq!(fired(&pair), 0, "not armed");
    small.doorbell(&mut pair.world, hca, true);
    assert_eq!(fired(&pair), 1, "an event was there");
    assert!(small.next(&pair.world, hca).is_some());
    small.doorbell(&mut pair.world, hca, true);
    assert_eq!(fired(&pair), 0, "nothing is there");
    small.complete(&mut pair, 0);
    assert_eq!(fired(&pair), 1);
    small.complete(&mut pair, 0);
    assert_eq!(fired(&pair), 0, "once an arming");
}

#[test]
fn h12_a_consumer_counter_from_nowhere_is_ignored() {
    let mut pair = Pair::connected();
    let hca = pair.a.guest.hca;
    let mut small = Small::new(&mut pair, 1);
    small.complete(&mut pair, 0);
    let w = &mut pair.world;
    for value in [2, 1000, 0x7fff_ffff] {
        w.write_reg(hca, regs::eq_db(small.eqn), 4, value);
    }
    w.write_reg(hca, regs::eq_db(63), 4, 0);
    assert_eq!(w.read_reg(hca, regs::ACCESS_ERRORS, 4), 4);
    assert!(small.next(&pair.world, hca).is_some());
}

#[test]
fn h12_an_event_ring_that_vanishes_is_fatal() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    w.ram_mut(hca).map(0x9000_0000, 4096, true);
    let req = CreateEqReq {
        ring: PageList::direct(0x9000_0000, 4096),
        log_entries: 4,
        async_default: 0,
        vector: 5,
        reserved: [0; 3],
    };
    let g = &mut pair.a.guest;
    let eqn = g.create(w, Opcode::CREATE_EQ, &req).expect("a queue");
    let mut req = g.qp_request(w, &pair.a.cq, &pair.a.cq, Default::default());
    req.eqn = Eqn(eqn);
    let qp = g.create_qp(w, &req).expect("a queue pair");
    let itself = (g.gid(), qp.qpn);
    pair.a.qp = qp;
    pair.a.connect(w, itself, (1, 1), |_| {});
    w.ram_mut(hca).unmap(0x9000_0000);
    w.take_interrupts(hca, 0);
    // A bad key of the peer (itself) is an event.
    let wr = SendWr::write(1, &[pair.a.sge(0, 8)], 0, verbena_hw::id::Key(1));
    pair.a.post(w, wr);
    w.run();
    let health = w.read_reg(hca, regs::HEALTH, 4);
    assert_eq!(health, u64::from(regs::HEALTH_EQ_UNREACHABLE));
    assert_eq!(w.take_interrupts(hca, 0), 1);
}
