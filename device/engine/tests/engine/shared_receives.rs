// SPDX-License-Identifier: MIT OR Apache-2.0
//! H8: receives that queue pairs share.

use crate::way;
use core::time::Duration;
use verbena_engine::testing::{attrs, Failed, Pair, Qp, RecvWr, SendWr, Srq, World};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{CreateSrqReq, ModifySrqReq, ModifySrqRsp, QuerySrqRsp};
use verbena_hw::cqe::{flags, vendor, Opcode, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Cqn, Eqn, Pdn, Qpn, Srqn};
use verbena_hw::qp::{access, QpState};
use verbena_hw::ring::PageList;
use verbena_hw::srq::{modify, SrqType};

/// Two senders at a, each connected to a queue pair of b; b's two share their receives.
struct Shared {
    pair: Pair,
    srq: Srq,
    senders: [Qp; 2],
    receivers: [Qp; 2],
}

impl Shared {
    fn new(log: u8) -> Self {
        Self::with(way::connected(), log, |_| {})
    }

    fn with(mut pair: Pair, log: u8, tune: impl Fn(&mut CreateSrqReq)) -> Self {
        let w = &mut pair.world;
        let mut req = pair.b.guest.srq_request(w, log);
        tune(&mut req);
        let srq = pair.b.guest.create_srq(w, &req).expect("a shared receive queue");
        let mut connected = || {
            let req = pair.a.guest.qp_request(w, &pair.a.cq, &pair.a.cq, Default::default());
            let sender = pair.a.guest.create_qp(w, &req).expect("a queue pair");
            let mut req = pair.b.guest.qp_request(w, &pair.b.cq, &pair.b.cq, Default::default());
            req.rq = PageList::default();
            (req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = (0, 0, 0);
            req.srqn = srq.srqn;
            let receiver = pair.b.guest.create_qp(w, &req).expect("a queue pair");
            let (to_a, to_b) = ((pair.a.guest.gid(), sender.qpn), (pair.b.guest.gid(), receiver.qpn));
            for (guest, own, (gid, peer)) in [
                (&mut pair.a.guest, sender.qpn, to_b),
                (&mut pair.b.guest, receiver.qpn, to_a),
            ] {
                for (mask, attrs) in [attrs::init(), attrs::rtr(gid, peer, 7), attrs::rts(7)] {
                    guest.modify(w, own, mask, attrs).expect("a transition");
                }
            }
            (sender, receiver)
        };
        let (s0, r0) = connected();
        let (s1, r1) = connected();
        pair.b.guest.events(w);
        Self {
            pair,
            srq,
            senders: [s0, s1],
            receivers: [r0, r1],
        }
    }

    /// Posts a receive of 64 bytes at 64 times its number.
    fn receive(&mut self, wr_id: u64) {
        let wr = RecvWr::new(wr_id, &[self.pair.b.sge(wr_id * 64, 64)]);
        self.srq.post(&self.pair.world, wr);
    }

    /// Sends eight bytes through a sender, which must not fail before the world rests.
    fn send(&mut self, sender: usize, wr_id: u64, data: u64) {
        let wr = SendWr::send(wr_id, &[]).inline(&data.to_le_bytes());
        self.senders[sender].post(&self.pair.world, wr);
        self.pair.world.run();
    }

    fn modify(&mut self, req: ModifySrqReq) -> Result<ModifySrqRsp, Failed> {
        self.pair.b.guest.command(&mut self.pair.world, Admin::MODIFY_SRQ, &req)
    }

    fn limit(&mut self, limit: u32) -> Result<ModifySrqRsp, Failed> {
        self.modify(ModifySrqReq {
            mask: modify::LIMIT,
            limit,
            ..nothing(self.srq.srqn)
        })
    }

    /// Moves the queue to a new ring; the owner's view follows.
    fn resize(&mut self, log: u8) -> Result<u32, Failed> {
        let fresh = self.pair.b.guest.srq_request(&mut self.pair.world, log);
        let rsp = self.modify(ModifySrqReq {
            mask: modify::RING,
            log_entries: log,
            ring: fresh.ring,
            record: fresh.record,
            ..nothing(self.srq.srqn)
        })?;
        (self.srq.ring, self.srq.record, self.srq.log) = (fresh.ring.addr, fresh.record, log);
        self.srq.producer = rsp.posted;
        Ok(rsp.posted)
    }

    fn query(&mut self) -> QuerySrqRsp {
        let srqn = self.srq.srqn.get();
        self.pair
            .b
            .guest
            .about(&mut self.pair.world, Admin::QUERY_SRQ, srqn)
            .expect("a shared receive queue")
    }

    fn events(&mut self) -> Vec<(Event, u32, u64)> {
        let events = self.pair.b.guest.events(&mut self.pair.world);
        events.iter().map(|e| (Event(e.event), e.number, e.cookie)).collect()
    }

    fn world(&mut self) -> &mut World {
        &mut self.pair.world
    }
}

fn nothing(srqn: Srqn) -> ModifySrqReq {
    ModifySrqReq {
        srqn,
        mask: 0,
        limit: 0,
        log_entries: 0,
        reserved0: [0; 3],
        ring: PageList::default(),
        record: 0,
        reserved1: 0,
    }
}

#[test]
fn h08_srq_entries_go_to_whoever_needs_one_in_the_order_of_the_ring() {
    let mut s = Shared::new(2);
    // Three passes over the ring of four.
    for pass in 0..3u64 {
        for i in 0..4 {
            s.receive(4 * pass + i);
        }
        for (i, sender) in [0, 1, 1, 0].into_iter().enumerate() {
            let wr_id = 4 * pass + i as u64;
            s.send(sender, wr_id, 0x1000 + wr_id);
            assert_eq!(s.pair.a.completion(&s.pair.world).status, 0);
            let got = s.pair.b.completion(&s.pair.world);
            assert_eq!((got.status, got.wr_id, got.byte_len), (0, wr_id, 8));
            assert_eq!((got.opcode, got.flags), (Opcode::RECV.0, flags::RECV));
            assert_eq!(
                (got.qpn, got.cookie),
                (s.receivers[sender].qpn, s.receivers[sender].cookie)
            );
            assert_eq!(
                s.srq.consumer(&s.pair.world),
                wr_id as u32 + 1,
                "its place is free at once"
            );
            assert_eq!(
                s.pair.b.bytes(&s.pair.world, wr_id * 64, 8),
                (0x1000 + wr_id).to_le_bytes()
            );
        }
    }
    let q = s.query();
    assert_eq!((q.entries, q.consumer, q.users, q.max_sge, q.failed), (4, 12, 2, 3, 0));
}

#[test]
fn h08_srq_gives_a_receive_to_a_write_with_immediate_data() {
    let mut s = Shared::new(2);
    s.receive(0);
    let wr = SendWr::write(5, &[], s.pair.b.addr(0), s.pair.b.rkey())
        .inline(b"written!")
        .imm(77);
    s.senders[1].post(&s.pair.world, wr);
    s.world().run();
    assert_eq!(s.pair.a.completion(&s.pair.world).status, 0);
    let got = s.pair.b.completion(&s.pair.world);
    assert_eq!((got.wr_id, got.opcode, got.imm), (0, Opcode::RECV_RDMA_WITH_IMM.0, 77));
    assert_eq!(s.srq.consumer(&s.pair.world), 1);
}

#[test]
fn h08_a_sender_waits_until_the_shared_queue_has_a_receive() {
    let mut s = Shared::new(2);
    s.send(0, 1, 1);
    s.pair.a.nothing(&s.pair.world);
    // Posting rings nothing: the sender comes again by its RNR timer.
    s.receive(3);
    s.world().advance(Duration::from_millis(1));
    assert_eq!(s.pair.a.completion(&s.pair.world).status, 0);
    assert_eq!(s.pair.b.completion(&s.pair.world).wr_id, 3);
    assert_eq!(s.pair.a.guest.counter(&mut s.pair.world, "rcvd_rnr_err"), 1);
}

#[test]
fn h08_srq_limit_event_comes_once_each_time_it_is_armed() {
    let mut s = Shared::new(3);
    for i in 0..6 {
        s.receive(i);
    }
    s.limit(5).expect("armed");
    assert_eq!(s.events(), [], "six are posted");
    s.send(0, 0, 0);
    assert_eq!(s.events(), [], "five are not fewer than five");
    assert_eq!(s.query().limit, 5);
    s.send(1, 1, 0);
    let limit = (Event::SRQ_LIMIT_REACHED, s.srq.srqn.get(), 0x5_0000);
    assert_eq!(s.events(), [limit]);
    assert_eq!(s.query().limit, 0, "disarmed");
    s.send(1, 2, 0);
    assert_eq!(s.events(), []);
    // Three are posted: armed above that, it comes at once.
    s.limit(4).expect("armed");
    assert_eq!(s.events(), [limit]);
    s.limit(3).expect("armed");
    s.limit(0).expect("disarmed");
    s.send(0, 3, 0);
    assert_eq!(s.events(), []);
    // The whole ring as the limit.
    for i in 6..12 {
        s.receive(i);
    }
    s.limit(8).expect("armed");
    assert_eq!(s.events(), []);
    s.send(0, 4, 0);
    assert_eq!(s.events(), [limit]);
}

#[test]
fn h08_srq_resize_carries_what_is_posted() {
    let mut s = Shared::new(2);
    for i in 0..3 {
        s.receive(i);
    }
    s.send(0, 0, 0);
    s.receive(3);
    s.receive(4);
    // One to four are posted, over the end of the ring.
    assert_eq!(s.resize(4), Ok(4));
    assert_eq!((s.query().entries, s.query().consumer), (16, 0));
    for i in 5..17 {
        s.receive(i);
    }
    for i in 1..17 {
        s.send(i as usize % 2, i, i);
        assert_eq!(s.pair.b.cq.drain(&s.pair.world).last().map(|cqe| cqe.wr_id), Some(i));
    }
    s.send(0, 17, 0);
    assert_eq!(s.pair.b.cq.poll(&s.pair.world), None, "nothing is posted");
    // And smaller again, with a message that waits meanwhile.
    assert_eq!(s.resize(0), Ok(0));
    s.receive(20);
    s.world().advance(Duration::from_millis(1));
    assert_eq!(s.pair.b.completion(&s.pair.world).wr_id, 20);
    let cost = s.query();
    assert_eq!((cost.entries, cost.consumer), (1, 1));
}

#[test]
fn h08_srq_resize_below_what_is_posted_changes_nothing() {
    let mut s = Shared::new(2);
    for i in 0..3 {
        s.receive(i);
    }
    let refused = s.resize(1).expect_err("three do not fit two");
    assert_eq!(refused.status, AdminStatus::BAD_FIELD);
    assert_eq!(refused.detail, core::mem::offset_of!(ModifySrqReq, log_entries) as u32);
    s.limit(2).expect("armed");
    let refused = s.resize(0).expect_err("the limit does not fit");
    assert_eq!(refused.detail, core::mem::offset_of!(ModifySrqReq, limit) as u32);
    for i in 0..3 {
        s.send(0, i, 0);
        assert_eq!(s.pair.b.completion(&s.pair.world).wr_id, i);
    }
}

#[test]
fn h08_last_wqe_reached_when_a_queue_pair_with_shared_receives_fails() {
    let mut s = Shared::new(2);
    s.receive(0);
    s.receive(1);
    let qpn = s.receivers[0].qpn;
    s.pair
        .b
        .guest
        .modify_state(&mut s.pair.world, qpn, QpState::ERR)
        .expect("to ERR");
    s.world().run();
    let last = (Event::LAST_WQE_REACHED, qpn.get(), s.receivers[0].cookie);
    assert_eq!(s.events(), [last]);
    s.pair.b.nothing(&s.pair.world);
    s.world().advance(Duration::from_secs(5));
    assert_eq!(s.events(), [], "once");
    // What is posted is the other's.
    s.send(1, 9, 0);
    assert_eq!(s.pair.b.completion(&s.pair.world).wr_id, 0);
    // After RESET and another error it comes again.
    for state in [QpState::RESET, QpState::ERR] {
        s.pair
            .b
            .guest
            .modify_state(&mut s.pair.world, qpn, state)
            .expect("a transition");
    }
    s.world().run();
    assert_eq!(s.events(), [last]);
}

#[test]
fn h08_last_wqe_reached_comes_after_the_receive_that_was_being_filled() {
    let mut s = Shared::new(2);
    let big = RecvWr::new(5, &[s.pair.b.sge(0, 1 << 20)]);
    s.srq.post(&s.pair.world, big);
    let wr = SendWr::send(1, &[s.pair.a.sge(0, 1 << 20)]);
    s.senders[0].post(&s.pair.world, wr);
    // One slice of the message, then the receiver is moved to ERR.
    s.pair.world.poll();
    assert_eq!(s.srq.consumer(&s.pair.world), 1);
    let qpn = s.receivers[0].qpn;
    s.pair
        .b
        .guest
        .modify_state(&mut s.pair.world, qpn, QpState::ERR)
        .expect("to ERR");
    s.world().run();
    let flushed = s.pair.b.completion(&s.pair.world);
    assert_eq!((flushed.wr_id, flushed.status), (5, Status::WR_FLUSH_ERR.0));
    assert_eq!(
        s.events(),
        [(Event::LAST_WQE_REACHED, qpn.get(), s.receivers[0].cookie)]
    );
}

#[test]
fn h08_srq_error_event_when_its_ring_is_not_there_any_more() {
    let mut pair = way::connected();
    let hca = pair.b.guest.hca;
    const APART: u64 = 0x4000_0000;
    pair.world.ram_mut(hca).map(APART, 4096, true);
    let mut s = Shared::with(pair, 2, |req| req.ring = PageList::direct(APART, 4096));
    s.receive(0);
    s.world().ram_mut(hca).unmap(APART);
    let srqn = s.srq.srqn.get();
    let of = |s: &Shared, i: usize, event| (event, s.receivers[i].qpn.get(), s.receivers[i].cookie);
    s.send(0, 1, 0);
    assert_eq!(Status(s.pair.a.completion(&s.pair.world).status), Status::REM_OP_ERR);
    let events = s.events();
    let expected = [
        (Event::SRQ_ERR, srqn, 0x5_0000),
        of(&s, 0, Event::QP_FATAL),
        of(&s, 0, Event::LAST_WQE_REACHED),
    ];
    assert_eq!(events, expected);
    // The other one finds the queue failed, which has been said.
    s.send(1, 2, 0);
    assert_eq!(Status(s.pair.a.completion(&s.pair.world).status), Status::REM_OP_ERR);
    assert_eq!(
        s.events(),
        [of(&s, 1, Event::QP_FATAL), of(&s, 1, Event::LAST_WQE_REACHED)]
    );
    assert_eq!(s.query().failed, 1);
    let refused = s.limit(1).expect_err("it has failed");
    assert_eq!(refused.status, AdminStatus::QUEUE_FAILED);
}

#[test]
fn h08_a_malformed_shared_receive_fails_the_queue_pair_that_gets_it() {
    let mut s = Shared::new(2);
    let mut wr = RecvWr::new(8, &[]);
    wr.header.num_sge = 4;
    s.srq.post(&s.pair.world, wr);
    s.receive(1);
    s.send(0, 1, 0);
    let bad = s.pair.b.completion(&s.pair.world);
    assert_eq!((bad.wr_id, Status(bad.status)), (8, Status::LOC_QP_OP_ERR));
    assert_eq!((bad.vendor_err, bad.qpn), (vendor::SGE_COUNT, s.receivers[0].qpn));
    assert_eq!(Status(s.pair.a.completion(&s.pair.world).status), Status::REM_OP_ERR);
    s.send(1, 2, 0);
    assert_eq!(s.pair.b.completion(&s.pair.world).wr_id, 1, "the queue goes on");
}

#[test]
fn h08_elements_of_shared_receives_belong_to_the_queues_protection_domain() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let other = Pdn(pair.b.guest.create(w, Admin::CREATE_PD, &[0u8; 0]).expect("a domain"));
    let mut s = Shared::with(pair, 2, |req| req.pdn = other);
    // The buffer is registered in the queue pairs' domain, which does not help.
    s.receive(0);
    s.send(0, 1, 0);
    let bad = s.pair.b.completion(&s.pair.world);
    assert_eq!(
        (Status(bad.status), bad.vendor_err),
        (Status::LOC_PROT_ERR, vendor::KEY_PD)
    );
    // Memory of the queue's domain does.
    let place = s.pair.world.ram_mut(s.pair.b.guest.hca).alloc(4096);
    let own = core::mem::replace(&mut s.pair.b.guest.pdn, other);
    let mr = s
        .pair
        .b
        .guest
        .mr(&mut s.pair.world, place, 4096, access::LOCAL_WRITE)
        .expect("a region");
    s.pair.b.guest.pdn = own;
    let sge = verbena_hw::wqe::Sge {
        addr: place,
        len: 8,
        lkey: mr.lkey,
    };
    s.srq.post(&s.pair.world, RecvWr::new(2, &[sge]));
    s.send(1, 2, 0xfeed);
    assert_eq!(s.pair.b.completion(&s.pair.world).status, 0);
    assert_eq!(s.pair.world.ram(s.pair.b.guest.hca).read_u64(place), 0xfeed);
}

#[test]
fn h08_srq_create_and_destroy_have_rules() {
    let mut s = Shared::new(2);
    let srqn = s.srq.srqn.get();
    let w = &mut s.pair.world;
    let guest = &mut s.pair.b.guest;
    let destroy =
        |guest: &mut verbena_engine::testing::Guest, w: &mut World| guest.destroy(w, Admin::DESTROY_SRQ, srqn);
    let used = destroy(guest, w).expect_err("two queue pairs are on it");
    assert_eq!((used.status, used.detail), (AdminStatus::IN_USE, 2));
    // Each field that says something impossible, and where.
    type Spoil = fn(&mut CreateSrqReq);
    let cases: [(Spoil, AdminStatus, usize); 14] = [
        (
            |r| r.srq_type = SrqType(2),
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, srq_type),
        ),
        (
            |r| r.cqn = Cqn::truncate(1),
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, cqn),
        ),
        (
            |r| r.xrcdn = 1,
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, xrcdn),
        ),
        (
            |r| r.log_entries = 16,
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, log_entries),
        ),
        (
            |r| r.log_stride = 4,
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, log_stride),
        ),
        (
            |r| r.log_stride = 11,
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, log_stride),
        ),
        (
            |r| r.max_sge = 4,
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, max_sge),
        ),
        (
            |r| r.limit = 5,
            AdminStatus::BAD_FIELD,
            core::mem::offset_of!(CreateSrqReq, limit),
        ),
        (
            |r| r.pdn = Pdn(99),
            AdminStatus::NO_SUCH_OBJECT,
            core::mem::offset_of!(CreateSrqReq, pdn),
        ),
        (
            |r| r.eqn = Eqn(9),
            AdminStatus::NO_SUCH_OBJECT,
            core::mem::offset_of!(CreateSrqReq, eqn),
        ),
        (
            |r| r.record += 4,
            AdminStatus::BAD_ADDRESS,
            core::mem::offset_of!(CreateSrqReq, record),
        ),
        (
            |r| r.record = 0,
            AdminStatus::BAD_ADDRESS,
            core::mem::offset_of!(CreateSrqReq, record),
        ),
        (
            |r| r.ring.count = 0,
            AdminStatus::BAD_PAGE_LIST,
            core::mem::offset_of!(CreateSrqReq, ring),
        ),
        (
            |r| r.reserved = 1,
            AdminStatus::RESERVED_FIELD,
            core::mem::offset_of!(CreateSrqReq, reserved),
        ),
    ];
    for (spoil, status, at) in cases {
        let mut req = guest.srq_request(w, 2);
        spoil(&mut req);
        let Err(refused) = guest.create_srq(w, &req) else {
            panic!("{status} is expected");
        };
        assert_eq!((refused.status, refused.detail), (status, at as u32));
    }
    // A queue pair has its own receives or shared ones, and those exist.
    for (srqn, status) in [
        (s.srq.srqn, AdminStatus::BAD_FIELD),
        (Srqn::truncate(1), AdminStatus::BAD_FIELD),
    ] {
        let mut req = guest.qp_request(w, &s.pair.b.cq, &s.pair.b.cq, Default::default());
        req.srqn = srqn;
        let Err(refused) = guest.create_qp(w, &req) else {
            panic!("both kinds of receives");
        };
        assert_eq!(refused.status, status);
    }
    let mut req = guest.qp_request(w, &s.pair.b.cq, &s.pair.b.cq, Default::default());
    req.rq = PageList::default();
    (req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = (0, 0, 0);
    req.srqn = Srqn::truncate(srqn ^ 1);
    let Err(refused) = guest.create_qp(w, &req) else {
        panic!("there is no such queue");
    };
    assert_eq!(refused.status, AdminStatus::NO_SUCH_OBJECT);
    // Gone with the last queue pair.
    let own: Vec<Qpn> = s.receivers.iter().map(|qp| qp.qpn).collect();
    for qpn in own {
        assert_eq!(guest.query_qp(w, qpn).srqn.get(), srqn);
        guest.destroy(w, Admin::DESTROY_QP, qpn.get()).expect("destroyed");
    }
    destroy(guest, w).expect("nobody is on it");
    let gone = destroy(guest, w).expect_err("it is gone");
    assert_eq!(gone.status, AdminStatus::NO_SUCH_OBJECT);
}
