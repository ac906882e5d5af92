// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4 and H8: XRC, one connection to the shared receive queues of a domain.

use crate::way;
use core::mem::offset_of;
use core::time::Duration;
use verbena_engine::testing::{attrs, Cq, Failed, Mr, Pair, Qp, QpShape, RecvWr, SendWr, Srq, World};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{CreateQpReq, CreateSrqReq, QueryDeviceRsp, QueryQpRsp, QuerySrqRsp};
use verbena_hw::cqe::{flags, vendor, Opcode, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Cqn, Pdn, Qpn, Srqn};
use verbena_hw::qp::{access, attr, QpAttrs, QpState, QpType};
use verbena_hw::ring::PageList;
use verbena_hw::srq::SrqType;
use verbena_hw::wqe::{flush, BindArgs, FlushArgs, SendOpcode, Sge};

/// Bytes of the memory that belongs to one shared receive queue's domain.
const MEMORY: u64 = 2 << 20;

/// A shared receive queue with what its owner has.
struct Receiver {
    srq: Srq,
    cq: Cq,
    mr: Mr,
}

impl Receiver {
    /// Of a protection domain of its own.
    fn new(pair: &mut Pair, xrcdn: u32, cookie: u64) -> Self {
        let (w, guest) = (&mut pair.world, &mut pair.b.guest);
        let cq = guest.cq(w, 5);
        let pdn = guest
            .create(w, Admin::CREATE_PD, &[0u8; 0])
            .expect("a protection domain");
        let shared = core::mem::replace(&mut guest.pdn, Pdn(pdn));
        let mut req = guest.xrc_srq_request(w, 3, xrcdn, &cq);
        req.cookie = cookie;
        let srq = guest.create_srq(w, &req).expect("an XRC shared receive queue");
        let at = w.ram_mut(guest.hca).alloc(MEMORY as usize);
        let rights = access::MR_ALL & !(access::MW_BIND | access::ZERO_BASED);
        let mr = guest.mr(w, at, MEMORY, rights).expect("a region");
        guest.pdn = shared;
        Self { srq, cq, mr }
    }

    fn receive(&mut self, w: &World, wr_id: u64, offset: u64, len: u32) {
        let sge = Sge {
            addr: self.mr.addr + offset,
            len,
            lkey: self.mr.lkey,
        };
        self.srq.post(w, RecvWr::new(wr_id, &[sge]));
    }
}

/// An initiator at a, a target at b with two shared receive queues in its domain.
struct Xrc {
    pair: Pair,
    initiator: Qp,
    target: Qpn,
    xrcdn: u32,
    receivers: [Receiver; 2],
}

/// What a target's work requests have: stride and elements.
const SHAPE: QpShape = QpShape {
    sq_log: 6,
    rq_log: 0,
    sq_log_stride: 9,
    rq_log_stride: 5,
    max_sge: 3,
    max_inline: 256,
};

impl Xrc {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(tune: impl Fn(&mut QpAttrs)) -> Self {
        let mut pair = way::connected();
        let xrcdn = pair.b.guest.xrcd(&mut pair.world);
        let receivers = [0x50, 0x51].map(|cookie| Receiver::new(&mut pair, xrcdn, cookie));
        let w = &mut pair.world;
        let req = pair.a.guest.initiator_request(w, &pair.a.cq, SHAPE);
        let initiator = pair.a.guest.create_qp(w, &req).expect("an initiator");
        let req = pair.b.guest.target_request(xrcdn);
        let target = pair.b.guest.create_qp(w, &req).expect("a target").qpn;
        let mut xrc = Self {
            pair,
            initiator,
            target,
            xrcdn,
            receivers,
        };
        xrc.connect(tune);
        xrc
    }

    fn connect(&mut self, tune: impl Fn(&mut QpAttrs)) {
        let w = &mut self.pair.world;
        let (a, b) = (&mut self.pair.a.guest, &mut self.pair.b.guest);
        let to_b = attrs::connection(QpType::XRC_INI, b.gid(), self.target, (0xff_fffe, 7));
        let to_a = attrs::connection(QpType::XRC_TGT, a.gid(), self.initiator.qpn, (7, 0xff_fffe));
        for (guest, qpn, steps) in [(a, self.initiator.qpn, to_b), (b, self.target, to_a)] {
            for (mask, mut attrs) in steps {
                tune(&mut attrs);
                guest.modify(w, qpn, mask, attrs).expect("a transition");
            }
        }
        self.pair.b.guest.events(w);
    }

    fn srqn(&self, n: usize) -> Srqn {
        self.receivers[n].srq.srqn
    }

    /// Posts to a shared receive queue, and rings.
    fn post(&mut self, srqn: Srqn, wr: SendWr) {
        self.initiator.post(&self.pair.world, wr.srq(srqn));
    }

    /// Posts to a shared receive queue, and lets the world come to rest.
    fn send(&mut self, srqn: Srqn, wr: SendWr) {
        self.post(srqn, wr);
        self.pair.world.run();
    }

    /// How the initiator's next work request has ended.
    fn sent(&mut self) -> (u64, Status) {
        let cqe = self.pair.a.completion(&self.pair.world);
        assert_eq!((cqe.qpn, cqe.flags & flags::XRC), (self.initiator.qpn, 0));
        (cqe.wr_id, Status(cqe.status))
    }

    fn events(&mut self) -> Vec<(Event, u32, u64)> {
        let events = self.pair.b.guest.events(&mut self.pair.world);
        events.iter().map(|e| (Event(e.event), e.number, e.data)).collect()
    }

    fn target_state(&mut self) -> QpState {
        self.pair.b.guest.state(&mut self.pair.world, self.target)
    }
}

#[test]
fn h04_xrc_one_connection_reaches_every_shared_receive_queue_of_a_domain() {
    let mut x = Xrc::new();
    let w = &x.pair.world;
    for (n, receiver) in x.receivers.iter_mut().enumerate() {
        for i in 0..3 {
            receiver.receive(w, 10 * n as u64 + i, 64 * i, 64);
        }
    }
    for (wr_id, n) in [(1, 0), (2, 1), (3, 1), (4, 0)] {
        let data = 0x1000 + wr_id;
        let wr = SendWr::send(wr_id, &[]).inline(&u64::to_le_bytes(data));
        x.send(x.srqn(n), wr);
        assert_eq!(x.sent(), (wr_id, Status::SUCCESS));
        let (w, target) = (&x.pair.world, x.target);
        let receiver = &mut x.receivers[n];
        let got = receiver.cq.poll(w).expect("its own completion queue has it");
        assert_eq!((got.status, got.opcode, got.byte_len), (0, Opcode::RECV.0, 8));
        assert_eq!(got.flags, flags::RECV | flags::XRC);
        assert_eq!((got.qpn, got.src_qpn), (target, x.initiator.qpn));
        assert_eq!(got.cookie, 0x50 + n as u64, "the shared receive queue's");
        assert_eq!(got.wr_id / 10, n as u64);
        let at = receiver.mr.addr + got.wr_id % 10 * 64;
        assert_eq!(w.ram(x.pair.b.guest.hca).read_u64(at), data);
    }
    let w = &x.pair.world;
    assert_eq!([0, 1].map(|n| x.receivers[n].srq.consumer(w)), [2, 2]);
    assert!(x.receivers.iter_mut().all(|r| r.cq.poll(w).is_none()));
    x.pair.b.nothing(w);
}

#[test]
fn h05_xrc_has_the_operations_of_rc() {
    let mut x = Xrc::new();
    let (srqn, hca) = (x.srqn(0), x.pair.b.guest.hca);
    let (at, rkey) = (x.receivers[0].mr.addr, x.receivers[0].mr.rkey);
    x.pair.a.fill(&mut x.pair.world, 0, &[7; 4096]);
    let (long, eight) = (x.pair.a.sge(0, 4000), x.pair.a.sge(4096, 8));
    let all = FlushArgs {
        len: 4000,
        placement: flush::GLOBAL,
        level: flush::RANGE,
    };
    x.receivers[0].receive(&x.pair.world, 50, 8192, 4096);
    x.receivers[0].receive(&x.pair.world, 51, 8192, 4096);
    let cut = [x.pair.a.sge(0, 1500), x.pair.a.sge(1500, 1500), x.pair.a.sge(3000, 7)];
    for (wr_id, wr) in [
        SendWr::write(0, &[long], at, rkey),
        SendWr::flush(1, at, rkey, all),
        SendWr::fetch_add(2, eight, at, rkey, 1),
        SendWr::compare_swap(3, eight, at, rkey, 0x0707_0707_0707_0708, 5),
        SendWr::atomic_write(4, &[eight], at + 8, rkey),
        SendWr::read(5, &[x.pair.a.sge(8192, 4000)], at, rkey),
        SendWr::send(6, &cut).imm(9),
        SendWr::write(7, &[long], at + 4096, rkey).imm(10),
    ]
    .into_iter()
    .enumerate()
    {
        x.send(srqn, wr);
        assert_eq!(x.sent(), (wr_id as u64, Status::SUCCESS));
    }
    let w = &x.pair.world;
    assert_eq!(w.ram(hca).read_u64(at), 5, "added to, then compared and swapped");
    assert_eq!(w.ram(hca).read(at + 16, 3984), vec![7; 3984]);
    let read = x.pair.a.bytes(w, 8192, 4000);
    assert_eq!(
        read[..16],
        [5u64.to_le_bytes(), 0x0707_0707_0707_0708u64.to_le_bytes()].concat()
    );
    assert_eq!(w.ram(hca).read(at + 8192, 3007), vec![7; 3007]);
    let received = x.receivers[0].cq.drain(w);
    let shown: Vec<_> = received
        .iter()
        .map(|c| (c.wr_id, Opcode(c.opcode), c.imm, c.byte_len))
        .collect();
    assert_eq!(
        shown,
        [(50, Opcode::RECV, 9, 3007), (51, Opcode::RECV_RDMA_WITH_IMM, 10, 4000)]
    );
}

#[test]
fn h05_xrc_initiators_bind_windows_and_invalidate_their_own_keys() {
    let mut x = Xrc::new();
    let w = &mut x.pair.world;
    let a = &mut x.pair.a;
    let rights = access::LOCAL_WRITE | access::MW_BIND | access::REMOTE_READ;
    let mr = a.guest.mr(w, a.mr.addr, 4096, rights).expect("a region");
    let req = verbena_hw::cmd::CreateMwReq {
        pdn: a.guest.pdn,
        mw_type: verbena_hw::mw::MwType::TYPE_2,
        reserved: [0; 3],
    };
    let mw: verbena_hw::cmd::CreateMwRsp = a.guest.command(w, Admin::CREATE_MW, &req).expect("a window");
    let args = BindArgs {
        len: 64,
        lkey: mr.lkey,
        access: access::REMOTE_READ,
    };
    // What the entry says of a shared receive queue does not matter to what nobody else hears of.
    x.send(Srqn::default(), SendWr::bind(1, mw.rkey, a_addr(&x), args));
    assert_eq!(x.sent(), (1, Status::SUCCESS));
    x.send(x.srqn(0), SendWr::local_invalidate(2, mw.rkey));
    assert_eq!(x.sent(), (2, Status::SUCCESS));
}

fn a_addr(x: &Xrc) -> u64 {
    x.pair.a.mr.addr
}

#[test]
fn h14_xrc_keys_are_those_of_the_named_queues_protection_domain() {
    let mut x = Xrc::new();
    let (at, rkey) = (x.receivers[1].mr.addr, x.receivers[1].mr.rkey);
    let eight = x.pair.a.sge(0, 8);
    for wr in [
        SendWr::write(1, &[eight], at, rkey),
        SendWr::read(2, &[eight], at, rkey),
    ] {
        let wr_id = wr.header.wr_id;
        x.send(x.srqn(1), wr);
        assert_eq!(x.sent(), (wr_id, Status::SUCCESS));
    }
    // The same key, for the other queue.
    x.send(x.srqn(0), SendWr::write(3, &[eight], at, rkey));
    assert_eq!(x.sent(), (3, Status::REM_ACCESS_ERR));
    let reason = u64::from(vendor::KEY_PD);
    assert!(x.events().contains(&(Event::QP_ACCESS_ERR, x.target.get(), reason)));
}

/// Refuses a request to a queue, with the target's end and nothing else.
fn is_refused(x: &mut Xrc, srqn: Srqn, wr: SendWr) {
    let wr_id = wr.header.wr_id;
    x.send(srqn, wr);
    assert_eq!(x.sent(), (wr_id, Status::REM_INV_REQ_ERR));
    let (target, reason) = (x.target.get(), u64::from(vendor::XRC_SRQ));
    let told = x.events();
    assert!(told.contains(&(Event::QP_ACCESS_ERR, target, reason)), "{told:?}");
    assert_eq!(x.target_state(), QpState::ERR);
}

#[test]
fn h14_xrc_queues_outside_the_targets_domain_are_not_reached() {
    // One of another domain, one of no domain, one that is not there.
    for case in 0..3 {
        let mut x = Xrc::new();
        let (srqn, mut other) = match case {
            0 => {
                let xrcdn = x.pair.b.guest.xrcd(&mut x.pair.world);
                let other = Receiver::new(&mut x.pair, xrcdn, 0);
                (other.srq.srqn, Some(other))
            }
            1 => {
                let req = x.pair.b.guest.srq_request(&mut x.pair.world, 3);
                let basic = x.pair.b.guest.create_srq(&mut x.pair.world, &req).expect("a queue");
                (basic.srqn, None)
            }
            _ => (Srqn::truncate(0xfe_0000), None),
        };
        if let Some(other) = &mut other {
            other.receive(&x.pair.world, 1, 0, 64);
        }
        is_refused(&mut x, srqn, SendWr::send(1, &[]).inline(&[1; 8]));
        if let Some(other) = &mut other {
            assert_eq!(other.srq.consumer(&x.pair.world), 0, "its receive is still there");
            assert_eq!(other.cq.poll(&x.pair.world), None);
        }
    }
}

#[test]
fn h14_xrc_requests_without_receives_name_a_queue_all_the_same() {
    let mut x = Xrc::new();
    let eight = x.pair.a.sge(0, 8);
    let (at, rkey) = (x.receivers[0].mr.addr, x.receivers[0].mr.rkey);
    is_refused(&mut x, Srqn::default(), SendWr::write(1, &[eight], at, rkey));
    assert_eq!(x.pair.world.ram(x.pair.b.guest.hca).read_u64(at), 0);
}

#[test]
fn h08_xrc_sender_waits_until_the_named_queue_has_a_receive() {
    let mut x = Xrc::new();
    // The other queue's receives do not help.
    x.receivers[1].receive(&x.pair.world, 9, 0, 64);
    x.send(x.srqn(0), SendWr::send(1, &[]).inline(b"patience"));
    x.pair.a.nothing(&x.pair.world);
    x.receivers[0].receive(&x.pair.world, 3, 0, 64);
    x.pair.world.advance(Duration::from_millis(2));
    assert_eq!(x.sent(), (1, Status::SUCCESS));
    assert_eq!(x.receivers[0].cq.poll(&x.pair.world).map(|c| c.wr_id), Some(3));
    assert_eq!(x.receivers[1].srq.consumer(&x.pair.world), 0);
    assert_eq!(x.pair.a.guest.counter(&mut x.pair.world, "rcvd_rnr_err"), 1);
}

#[test]
fn h08_xrc_srq_limit_event_tells_its_owner() {
    let mut x = Xrc::new();
    for i in 0..3 {
        x.receivers[1].receive(&x.pair.world, i, 0, 64);
    }
    let req = verbena_hw::cmd::ModifySrqReq {
        srqn: x.srqn(1),
        mask: verbena_hw::srq::modify::LIMIT,
        limit: 2,
        log_entries: 0,
        reserved0: [0; 3],
        ring: PageList::default(),
        record: 0,
        reserved1: 0,
    };
    let _: [u8; 0] = x
        .pair
        .b
        .guest
        .command(&mut x.pair.world, Admin::MODIFY_SRQ, &req)
        .expect("armed");
    x.send(x.srqn(1), SendWr::send(1, &[]).inline(b"first"));
    assert_eq!(x.events(), []);
    x.send(x.srqn(1), SendWr::send(2, &[]).inline(b"second"));
    let events = x.pair.b.guest.events(&mut x.pair.world);
    let told: Vec<_> = events.iter().map(|e| (Event(e.event), e.number, e.cookie)).collect();
    assert_eq!(told, [(Event::SRQ_LIMIT_REACHED, x.srqn(1).get(), 0x51)]);
}

#[test]
fn h10_xrc_receive_that_cannot_take_its_message_completes_in_the_queues_own_queue() {
    let mut x = Xrc::new();
    x.receivers[0].receive(&x.pair.world, 4, 0, 16);
    let wr = SendWr::send(1, &[x.pair.a.sge(0, 17)]);
    x.send(x.srqn(0), wr);
    assert_eq!(x.sent(), (1, Status::REM_INV_REQ_ERR));
    let got = x.receivers[0].cq.poll(&x.pair.world).expect("a completion");
    assert_eq!((got.wr_id, Status(got.status)), (4, Status::LOC_LEN_ERR));
    assert_eq!((got.cookie, got.qpn), (0x50, x.target));
    assert!(x.events().contains(&(Event::LAST_WQE_REACHED, x.target.get(), 0)));
}

/// A message of a megabyte to the first queue, which has arrived in part.
fn half_arrived() -> Xrc {
    let mut x = Xrc::new();
    x.receivers[0].receive(&x.pair.world, 4, 0, 1 << 20);
    let wr = SendWr::send(1, &[x.pair.a.sge(0, 1 << 20)]);
    x.post(x.srqn(0), wr);
    while x.receivers[0].srq.consumer(&x.pair.world) == 0 {
        x.pair.world.poll();
    }
    x
}

#[test]
fn h10_xrc_receive_in_use_is_flushed_to_its_queue_when_the_target_fails() {
    let mut x = half_arrived();
    x.pair
        .b
        .guest
        .modify_state(&mut x.pair.world, x.target, QpState::ERR)
        .expect("it fails");
    x.pair.world.advance(Duration::from_secs(2));
    let got = x.receivers[0].cq.poll(&x.pair.world).expect("a completion");
    assert_eq!((got.wr_id, Status(got.status)), (4, Status::WR_FLUSH_ERR));
    assert_eq!((got.cookie, got.flags), (0x50, flags::RECV | flags::XRC));
    assert_eq!(x.events(), [(Event::LAST_WQE_REACHED, x.target.get(), 0)]);
    assert_eq!(x.sent(), (1, Status::RETRY_EXC_ERR), "a target in ERR is silent");
}

#[test]
fn h08_xrc_srq_that_goes_while_a_message_arrives_ends_the_connection() {
    let mut x = half_arrived();
    let srqn = x.srqn(0).get();
    x.pair
        .b
        .guest
        .destroy(&mut x.pair.world, Admin::DESTROY_SRQ, srqn)
        .expect("no queue pair holds it");
    x.pair.world.run();
    assert_eq!(x.sent(), (1, Status::REM_INV_REQ_ERR));
    assert_eq!(x.receivers[0].cq.poll(&x.pair.world), None, "it has nobody to tell");
    assert_eq!(x.target_state(), QpState::ERR);
    // Nothing holds what it completed into any more.
    let cqn = x.receivers[0].cq.cqn.get();
    x.pair
        .b
        .guest
        .destroy(&mut x.pair.world, Admin::DESTROY_CQ, cqn)
        .expect("nobody completes there");
}

#[test]
fn h08_xrc_objects_in_use_are_not_destroyed() {
    let mut x = Xrc::new();
    let (xrcdn, target) = (x.xrcdn, x.target.get());
    let in_use = |detail| {
        Err(Failed {
            status: AdminStatus::IN_USE,
            detail,
        })
    };
    let guest = &mut x.pair.b.guest;
    let w = &mut x.pair.world;
    // Two shared receive queues and a target.
    assert_eq!(guest.destroy(w, Admin::DESTROY_XRCD, xrcdn), in_use(3));
    for receiver in &x.receivers {
        let cqn = receiver.cq.cqn.get();
        assert_eq!(guest.destroy(w, Admin::DESTROY_CQ, cqn), in_use(1));
        guest
            .destroy(w, Admin::DESTROY_SRQ, receiver.srq.srqn.get())
            .expect("no queue pair holds it");
        guest.destroy(w, Admin::DESTROY_CQ, cqn).expect("unused now");
    }
    assert_eq!(guest.destroy(w, Admin::DESTROY_XRCD, xrcdn), in_use(1));
    guest.destroy(w, Admin::DESTROY_QP, target).expect("a target");
    guest.destroy(w, Admin::DESTROY_XRCD, xrcdn).expect("unused now");
    let gone = guest.destroy(w, Admin::DESTROY_XRCD, xrcdn);
    assert_eq!(gone.map_err(|f| f.status), Err(AdminStatus::NO_SUCH_OBJECT));
}

#[test]
fn h04_xrc_queue_pairs_have_only_what_makes_sense() {
    let mut x = Xrc::new();
    let w = &mut x.pair.world;
    let (xrcdn, cqn) = (x.xrcdn, x.pair.b.cq.cqn);
    let guest = &mut x.pair.b.guest;
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateQpReq, $field) as u32
        };
    }
    type Spoil = fn(&mut CreateQpReq);
    let target = guest.target_request(xrcdn);
    let spoils: [(Spoil, AdminStatus, u32); 8] = [
        (|r| r.sq.addr = 4096, AdminStatus::BAD_FIELD, at!(sq)),
        (|r| r.rq.addr = 4096, AdminStatus::BAD_FIELD, at!(rq)),
        (|r| r.pdn = Pdn(0x2_0000), AdminStatus::BAD_FIELD, at!(pdn)),
        (
            |r| r.send_cqn = Cqn::truncate(0x2_0000),
            AdminStatus::BAD_FIELD,
            at!(send_cqn),
        ),
        (|r| r.max_inline = 1, AdminStatus::BAD_FIELD, at!(max_inline)),
        (|r| r.slot = 1, AdminStatus::BAD_FIELD, at!(slot)),
        (|r| r.xrcdn = 0, AdminStatus::NO_SUCH_OBJECT, at!(xrcdn)),
        (|r| r.reserved[0] = 1, AdminStatus::RESERVED_FIELD, at!(reserved)),
    ];
    for (spoil, status, detail) in spoils {
        let mut req = target;
        spoil(&mut req);
        assert_eq!(guest.create_qp(w, &req).err(), Some(Failed { status, detail }));
    }
    let cq = guest.cq(w, 4);
    let initiator = guest.initiator_request(w, &cq, SHAPE);
    let spoils: [(Spoil, u32); 4] = [
        (|r| r.rq = r.sq, at!(rq)),
        (|r| r.srqn = Srqn::truncate(0x2_0000), at!(srqn)),
        (|r| r.xrcdn = 0x2_0000, at!(xrcdn)),
        // Sixteen bytes less than RC's entries have.
        (|r| r.max_inline = (1 << r.sq_log_stride) - 32, at!(max_inline)),
    ];
    for (spoil, detail) in spoils {
        let mut req = initiator;
        spoil(&mut req);
        let status = AdminStatus::BAD_FIELD;
        assert_eq!(guest.create_qp(w, &req).err(), Some(Failed { status, detail }));
    }
    let mut req = initiator;
    req.recv_cqn = cqn;
    let failed = guest.create_qp(w, &req).err().expect("it receives nothing");
    assert_eq!((failed.status, failed.detail), (AdminStatus::BAD_FIELD, at!(recv_cqn)));
}

#[test]
fn h08_xrc_shared_receive_queues_have_a_domain_and_a_completion_queue() {
    let mut x = Xrc::new();
    let w = &mut x.pair.world;
    let (xrcdn, guest) = (x.xrcdn, &mut x.pair.b.guest);
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateSrqReq, $field) as u32
        };
    }
    let cq = guest.cq(w, 4);
    let good = guest.xrc_srq_request(w, 3, xrcdn, &cq);
    type Spoil = fn(&mut CreateSrqReq);
    let spoils: [(Spoil, AdminStatus, u32); 5] = [
        (|r| r.cqn = Cqn::default(), AdminStatus::NO_SUCH_OBJECT, at!(cqn)),
        (|r| r.xrcdn = 0, AdminStatus::NO_SUCH_OBJECT, at!(xrcdn)),
        (|r| r.srq_type = SrqType::BASIC, AdminStatus::BAD_FIELD, at!(cqn)),
        (|r| r.srq_type = SrqType(2), AdminStatus::BAD_FIELD, at!(srq_type)),
        (
            |r| (r.srq_type, r.cqn) = (SrqType::BASIC, Cqn::default()),
            AdminStatus::BAD_FIELD,
            at!(xrcdn),
        ),
    ];
    for (spoil, status, detail) in spoils {
        let mut req = good;
        spoil(&mut req);
        assert_eq!(guest.create_srq(w, &req).err(), Some(Failed { status, detail }));
    }
    let srq = guest.create_srq(w, &good).expect("a queue");
    let rsp: QuerySrqRsp = guest.about(w, Admin::QUERY_SRQ, srq.srqn.get()).expect("a queue");
    assert_eq!(
        (rsp.srq_type, rsp.xrcdn, rsp.cqn, rsp.users),
        (SrqType::XRC, xrcdn, cq.cqn, 0)
    );
    // No queue pair stands on it: it is named.
    let other = guest.cq(w, 4);
    let mut req = guest.qp_request(w, &other, &other, QpShape::default());
    (req.rq, req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = Default::default();
    req.srqn = srq.srqn;
    let failed = guest.create_qp(w, &req).err().expect("of another type");
    assert_eq!(
        (failed.status, failed.detail),
        (AdminStatus::BAD_FIELD, offset_of!(CreateQpReq, srqn) as u32)
    );
}

#[test]
fn h04_xrc_transitions_take_the_attributes_of_each_side() {
    let mut x = Xrc::new();
    let (initiator, target) = (x.initiator.qpn, x.target);
    let rsp: QueryQpRsp = x.pair.b.guest.query_qp(&mut x.pair.world, target);
    assert_eq!((rsp.qp_type, rsp.xrcdn), (QpType::XRC_TGT, x.xrcdn));
    assert_eq!((rsp.send_cqn, rsp.recv_cqn), (Cqn::default(), Cqn::default()));
    let (a, b) = (&mut x.pair.a.guest, &mut x.pair.b.guest);
    let w = &mut x.pair.world;
    for (guest, qpn) in [(&mut *a, initiator), (&mut *b, target)] {
        guest.modify_state(w, qpn, QpState::RESET).expect("the beginning");
        let (mask, attrs) = attrs::init();
        guest.modify(w, qpn, mask, attrs).expect("INIT");
    }
    let rtr = attr::AV | attr::PATH_MTU | attr::DEST_QPN | attr::RQ_PSN;
    let (_, attrs) = attrs::rtr(b.gid(), target, 1);
    // An initiator answers nothing, so it has none of what an answerer has.
    let both = rtr | attr::STATE | attr::MAX_DEST_RD_ATOMIC | attr::MIN_RNR_TIMER;
    let failed = a.modify(w, initiator, both, attrs).expect_err("not its own");
    let not_its_own = attr::MAX_DEST_RD_ATOMIC | attr::MIN_RNR_TIMER;
    assert_eq!(
        (failed.status, failed.detail),
        (AdminStatus::FORBIDDEN_ATTRIBUTE, not_its_own)
    );
    a.modify(w, initiator, rtr | attr::STATE, attrs).expect("RTR");
    let (_, attrs) = attrs::rtr(a.gid(), initiator, 1);
    let failed = b
        .modify(w, target, rtr | attr::STATE, attrs)
        .expect_err("an answerer has them");
    assert_eq!(
        (failed.status, failed.detail),
        (AdminStatus::MISSING_ATTRIBUTE, not_its_own)
    );
    b.modify(w, target, both, attrs).expect("RTR");
    let (mask, attrs) = attrs::rts(1);
    let failed = b.modify(w, target, mask, attrs).expect_err("a target does not send");
    assert_eq!(failed.status, AdminStatus::FORBIDDEN_ATTRIBUTE);
    b.modify(w, target, attr::STATE | attr::SQ_PSN | attr::TIMEOUT, attrs)
        .expect("RTS");
    // Nothing is to be drained, which it says.
    let drain = QpAttrs {
        state: QpState::SQD.0,
        en_sqd_async_notify: 1,
        ..QpAttrs::default()
    };
    b.modify(w, target, attr::STATE | attr::EN_SQD_ASYNC_NOTIFY, drain)
        .expect("SQD");
    x.pair.world.run();
    assert_eq!(x.events(), [(Event::SQ_DRAINED, target.get(), 0)]);
}

#[test]
fn h04_xrc_is_connected_to_its_own_kind_only() {
    let mut x = Xrc::with(|attrs| attrs.retry_cnt = 0);
    // a's RC queue pair tries to talk to the target, which names it.
    let w = &mut x.pair.world;
    let sqd = QpState::SQD;
    let to_rc = attrs::rtr(x.pair.a.guest.gid(), x.pair.a.qp.qpn, 1).1;
    x.pair
        .b
        .guest
        .modify_state(w, x.target, QpState::RESET)
        .expect("the beginning");
    let steps = attrs::connection(QpType::XRC_TGT, to_rc.path.dgid, to_rc.dest_qpn, (1, 1));
    for (mask, attrs) in steps {
        x.pair.b.guest.modify(w, x.target, mask, attrs).expect("a transition");
    }
    x.pair
        .a
        .guest
        .modify_state(w, x.pair.a.qp.qpn, QpState::RESET)
        .expect("the beginning");
    x.pair.a.qp.rewind(w);
    let steps = attrs::connection(QpType::RC, x.pair.b.guest.gid(), x.target, (1, 1));
    for (mask, mut attrs) in steps {
        attrs.retry_cnt = 0;
        x.pair
            .a
            .guest
            .modify(w, x.pair.a.qp.qpn, mask, attrs)
            .expect("a transition");
    }
    assert_ne!(x.pair.a.guest.state(w, x.pair.a.qp.qpn), sqd);
    x.receivers[0].receive(w, 1, 0, 64);
    let wr = SendWr::send(1, &[]).inline(b"of RC");
    x.pair.a.post(w, wr);
    x.pair.world.advance(Duration::from_secs(1));
    let cqe = x.pair.a.completion(&x.pair.world);
    assert_eq!(Status(cqe.status), Status::RETRY_EXC_ERR);
    assert_eq!(x.receivers[0].srq.consumer(&x.pair.world), 0);
}

#[test]
fn h04_xrc_initiator_checks_its_entries_as_rc_does() {
    for (spoil, status, reason) in [
        (
            (|wr| wr.header.opcode = 99) as fn(&mut SendWr),
            Status::LOC_QP_OP_ERR,
            vendor::OPCODE,
        ),
        (|wr| wr.header.num_sge = 4, Status::LOC_QP_OP_ERR, vendor::SGE_COUNT),
        (
            |wr| wr.header.opcode = SendOpcode::FETCH_ADD.0,
            Status::LOC_LEN_ERR,
            vendor::ATOMIC_OPERAND,
        ),
    ] {
        let mut x = Xrc::new();
        let mut wr = SendWr::send(1, &[x.pair.a.sge(0, 64)]);
        spoil(&mut wr);
        x.send(x.srqn(0), wr);
        let cqe = x.pair.a.completion(&x.pair.world);
        assert_eq!((Status(cqe.status), cqe.vendor_err), (status, reason));
        x.send(x.srqn(0), SendWr::send(2, &[]));
        assert_eq!(x.sent(), (2, Status::WR_FLUSH_ERR));
    }
}

#[test]
fn h15_xrc_objects_are_shown() {
    let mut x = Xrc::new();
    x.receivers[0].receive(&x.pair.world, 1, 0, 64);
    x.receivers[0].receive(&x.pair.world, 2, 0, 64);
    x.send(x.srqn(0), SendWr::send(1, &[]).inline(b"seen"));
    let w = &mut x.pair.world;
    let dump = w.engine.dump(Some(x.pair.b.guest.hca), w.now, &w.env);
    let json = serde_json::to_value(&dump.hcas[0]).expect("JSON");
    assert_eq!(json["objects"]["xrcds"], 1);
    let domain = &json["xrcds"][0];
    assert_eq!(domain["xrcdn"], x.xrcdn);
    assert_eq!((&domain["srqs"], &domain["targets"]), (&2.into(), &1.into()));
    let target = json["qps"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|qp| qp["qpn"] == x.target.get());
    let target = target.expect("the target");
    assert_eq!(
        (&target["type"], &target["xrcdn"]),
        (&"XRC_TGT".into(), &x.xrcdn.into())
    );
    assert!(target["sq"].is_null() && target["rq"].is_null());
    let srq = &json["srqs"][0];
    assert_eq!(
        (&srq["xrcdn"], &srq["cqn"]),
        (&x.xrcdn.into(), &x.receivers[0].cq.cqn.get().into())
    );
    assert!(dump.to_string().contains("XRC domain"), "{dump}");

    let report = w
        .engine
        .inspect_qp(x.pair.b.guest.hca, x.target.get(), 8, w.now, &w.env);
    let report = report.expect("the target");
    assert!(report.send_cq.is_none());
    assert_eq!(report.receives.len(), 2, "one consumed, one posted");
    let seen = &report.recv_cq.as_ref().expect("the shared receive queue's").entries;
    assert_eq!((seen.len(), seen[0].wr_id), (1, 1));
    assert!(report.to_string().contains("target of XRC domain"), "{report}");
    let report = w
        .engine
        .inspect_qp(x.pair.a.guest.hca, x.initiator.qpn.get(), 8, w.now, &w.env);
    let report = report.expect("the initiator");
    assert_eq!(report.sends[0].srqn, Some(x.receivers[0].srq.srqn.get()));
    assert!(report.to_string().contains(" to SRQ "), "{report}");
    let device: QueryDeviceRsp = x
        .pair
        .b
        .guest
        .command(w, Admin::QUERY_DEVICE, &[0u8; 0])
        .expect("limits");
    assert_eq!(device.qp_types >> QpType::XRC_INI.0 & 3, 3);
    assert!(device.max_xrcd >= 1 << 16);
}
