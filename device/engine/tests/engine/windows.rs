// SPDX-License-Identifier: MIT OR Apache-2.0
//! H5 and H6: memory windows of both types, invalidation from either side, atomic writes and flushes.

use crate::way;
use verbena_engine::testing::{Failed, Mr, Pair, SendWr};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{BindMwReq, CreateMwReq, CreateMwRsp, QueryMwRsp};
use verbena_hw::cqe::{flags, vendor, Opcode, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Key, Pdn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::{access, QpState};
use verbena_hw::wqe::{flush, BindArgs, FlushArgs};

const BINDABLE: u32 = access::LOCAL_WRITE | access::MW_BIND;

/// b has a region that windows may be bound to, and grants nothing by itself.
struct Bound {
    pair: Pair,
    mr: Mr,
}

impl Bound {
    fn new() -> Self {
        Self::with(BINDABLE)
    }

    fn with(rights: u32) -> Self {
        let mut pair = way::connected();
        let w = &mut pair.world;
        let place = w.ram_mut(pair.b.guest.hca).alloc(16 << 10);
        let mr = pair.b.guest.mr(w, place, 16 << 10, rights).expect("a region");
        Self { pair, mr }
    }

    fn window(&mut self, mw_type: MwType) -> Key {
        let req = CreateMwReq {
            pdn: self.pair.b.guest.pdn,
            mw_type,
            reserved: [0; 3],
        };
        let rsp: CreateMwRsp = self
            .pair
            .b
            .guest
            .command(&mut self.pair.world, Admin::CREATE_MW, &req)
            .expect("a window");
        rsp.rkey
    }

    fn args(&self, len: u64, rights: u32) -> BindArgs {
        BindArgs {
            len,
            lkey: self.mr.lkey,
            access: rights,
        }
    }

    /// b posts a work request; how it ends.
    fn own(&mut self, wr: SendWr) -> (Status, u32, u8) {
        self.pair.b.post(&mut self.pair.world, wr);
        self.pair.world.run();
        let cqe = self.pair.b.completion(&self.pair.world);
        (Status(cqe.status), cqe.vendor_err, cqe.opcode)
    }

    fn bind(&mut self, key: Key, offset: u64, len: u64, rights: u32) {
        let wr = SendWr::bind(1, key, self.mr.addr + offset, self.args(len, rights));
        assert_eq!(self.own(wr), (Status::SUCCESS, 0, Opcode::BIND_MW.0));
    }

    /// a writes eight bytes; how that ends.
    fn write(&mut self, addr: u64, key: Key) -> Status {
        let wr = SendWr::write(2, &[], addr, key).inline(b"windowed");
        self.pair.a.post(&mut self.pair.world, wr);
        self.pair.world.run();
        Status(self.pair.a.completion(&self.pair.world).status)
    }

    fn bind_by_command(&mut self, key: Key, len: u64, rights: u32) -> Result<Key, Failed> {
        let req = BindMwReq {
            addr: self.mr.addr + 64,
            len,
            index: key.index(),
            lkey: self.mr.lkey,
            access: rights,
            reserved: [0; 2],
            reserved1: 0,
        };
        let rsp: Result<CreateMwRsp, _> = self.pair.b.guest.command(&mut self.pair.world, Admin::BIND_MW, &req);
        rsp.map(|rsp| rsp.rkey)
    }

    fn query(&mut self, key: Key) -> QueryMwRsp {
        self.pair
            .b
            .guest
            .about(&mut self.pair.world, Admin::QUERY_MW, key.index())
            .expect("a window")
    }

    fn destroy(&mut self, opcode: Admin, handle: u32) -> Result<(), Failed> {
        self.pair.b.guest.destroy(&mut self.pair.world, opcode, handle)
    }
}

/// The same index with another tag.
fn next(key: Key) -> Key {
    Key::from_parts(key.index(), key.tag().wrapping_add(1))
}

#[test]
fn h06_a_window_of_type_2_opens_its_part_and_nothing_else() {
    let mut b = Bound::new();
    let key = next(b.window(MwType::TYPE_2));
    b.bind(key, 4096, 100, access::REMOTE_WRITE);
    let q = b.query(key);
    assert_eq!((q.bound, q.len, q.rkey, q.qpn), (1, 100, key, b.pair.b.qp.qpn));
    let at = b.mr.addr + 4096;
    assert_eq!(b.write(at, key), Status::SUCCESS);
    assert_eq!(b.write(at + 92, key), Status::SUCCESS);
    assert_eq!(b.pair.world.ram(b.pair.b.guest.hca).read(at + 92, 8), b"windowed");
    for (addr, reason) in [(at + 93, vendor::KEY_RANGE), (at - 1, vendor::KEY_RANGE)] {
        let mut b = Bound::new();
        let key = next(b.window(MwType::TYPE_2));
        b.bind(key, 4096, 100, access::REMOTE_WRITE);
        assert_eq!(b.write(addr, key), Status::REM_ACCESS_ERR);
        let events = b.pair.b.guest.events(&mut b.pair.world);
        let last = events.last().expect("an event");
        assert_eq!((Event(last.event), last.data), (Event::QP_ACCESS_ERR, reason.into()));
    }
}

#[test]
fn h06_a_window_grants_only_what_it_was_bound_with() {
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_2);
    b.bind(key, 0, 100, access::REMOTE_READ);
    assert_eq!(b.write(b.mr.addr, key), Status::REM_ACCESS_ERR);
    // Nor is its key one that its owner's elements may name.
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_1);
    let key = b.bind_by_command(key, 4096, access::REMOTE_READ).expect("bound");
    let sge = verbena_hw::wqe::Sge {
        addr: b.mr.addr + 64,
        len: 8,
        lkey: key,
    };
    let (status, reason, _) = b.own(SendWr::send(3, &[sge]));
    assert_eq!((status, reason), (Status::LOC_PROT_ERR, vendor::KEY_ACCESS));
}

#[test]
fn h06_a_zero_based_window_counts_from_its_own_beginning() {
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_2);
    b.bind(key, 5000, 16, access::REMOTE_WRITE | access::ZERO_BASED);
    assert_eq!(b.write(8, key), Status::SUCCESS);
    let at = b.mr.addr + 5008;
    assert_eq!(b.pair.world.ram(b.pair.b.guest.hca).read(at, 8), b"windowed");
    assert_eq!(b.write(9, key), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_a_window_is_its_queue_pairs_alone() {
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_2);
    // Bound by another queue pair of b's: a's peer is not that one.
    let w = &mut b.pair.world;
    let req = b
        .pair
        .b
        .guest
        .qp_request(w, &b.pair.b.cq, &b.pair.b.cq, Default::default());
    let mut other = b.pair.b.guest.create_qp(w, &req).expect("a queue pair");
    let steps = [
        verbena_engine::testing::attrs::init(),
        verbena_engine::testing::attrs::rtr(b.pair.a.guest.gid(), b.pair.a.qp.qpn, 1),
        verbena_engine::testing::attrs::rts(1),
    ];
    for (mask, attrs) in steps {
        b.pair.b.guest.modify(w, other.qpn, mask, attrs).expect("a transition");
    }
    let args = BindArgs {
        len: 100,
        lkey: b.mr.lkey,
        access: access::REMOTE_WRITE,
    };
    other.post(w, SendWr::bind(1, key, b.mr.addr, args));
    w.run();
    assert_eq!(b.pair.b.completion(w).status, 0);
    // It cannot be invalidated, nor used, through the one that is connected.
    let (status, reason, _) = {
        let mut c = Bound::new();
        let unbound = c.window(MwType::TYPE_2);
        c.own(SendWr::local_invalidate(5, unbound))
    };
    assert_eq!((status, reason), (Status::LOC_QP_OP_ERR, vendor::KEY_UNKNOWN));
    assert_eq!(b.write(b.mr.addr, key), Status::REM_ACCESS_ERR);
    let events = b.pair.b.guest.events(&mut b.pair.world);
    assert_eq!(events.last().map(|e| e.data), Some(vendor::KEY_QP.into()));
    // When its queue pair goes, it is unbound.
    b.destroy(Admin::DESTROY_QP, other.qpn.get()).expect("destroyed");
    assert_eq!(b.query(key).bound, 0);
    let index = b.mr.lkey.index();
    b.destroy(Admin::DESTROY_MR, index).expect("nothing is bound to it");
}

#[test]
fn h05_local_invalidate_ends_a_window() {
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_2);
    b.bind(key, 0, 100, access::REMOTE_WRITE);
    assert_eq!(b.write(b.mr.addr, key), Status::SUCCESS);
    // Bound twice it is not; invalidated it is, and can be bound again with another tag.
    let result = b.own(SendWr::local_invalidate(3, key));
    assert_eq!(result, (Status::SUCCESS, 0, Opcode::LOCAL_INV.0));
    assert_eq!(b.query(key).bound, 0);
    b.bind(next(key), 0, 100, access::REMOTE_WRITE);
    assert_eq!(b.write(b.mr.addr, next(key)), Status::SUCCESS);
    assert_eq!(
        b.write(b.mr.addr, key),
        Status::REM_ACCESS_ERR,
        "the old key is nothing"
    );
}

#[test]
fn h05_local_invalidate_and_bind_refuse_what_makes_no_sense() {
    type Make = fn(&mut Bound) -> SendWr;
    let bind = Status::MW_BIND_ERR;
    let cases: [(Make, Status, u32); 12] = [
        (
            |b| SendWr::local_invalidate(1, b.mr.lkey),
            Status::LOC_QP_OP_ERR,
            vendor::NOT_INVALIDATABLE,
        ),
        (
            |_| SendWr::local_invalidate(1, Key(0x1234_5600)),
            Status::LOC_QP_OP_ERR,
            vendor::KEY_UNKNOWN,
        ),
        (
            |b| {
                let key = b.window(MwType::TYPE_1);
                let key = b.bind_by_command(key, 8, access::REMOTE_READ).expect("bound");
                SendWr::local_invalidate(1, key)
            },
            Status::LOC_QP_OP_ERR,
            vendor::NOT_INVALIDATABLE,
        ),
        (
            |b| SendWr::bind(1, b.mr.lkey, b.mr.addr, b.args(8, 0)),
            bind,
            vendor::KEY_UNKNOWN,
        ),
        (
            |b| {
                let key = b.window(MwType::TYPE_1);
                SendWr::bind(1, key, b.mr.addr, b.args(8, 0))
            },
            bind,
            vendor::WINDOW_STATE,
        ),
        (
            |b| {
                let key = b.window(MwType::TYPE_2);
                b.bind(key, 0, 8, access::REMOTE_READ);
                SendWr::bind(1, next(key), b.mr.addr, b.args(8, 0))
            },
            bind,
            vendor::WINDOW_STATE,
        ),
        (
            |b| {
                let key = b.window(MwType::TYPE_2);
                SendWr::bind(1, key, b.mr.addr, b.args(0, access::REMOTE_READ))
            },
            bind,
            vendor::WINDOW_STATE,
        ),
        (
            |b| {
                let key = b.window(MwType::TYPE_2);
                SendWr::bind(1, key, b.mr.addr + 1, b.args(16 << 10, access::REMOTE_READ))
            },
            bind,
            vendor::KEY_RANGE,
        ),
        (
            |b| {
                let key = b.window(MwType::TYPE_2);
                SendWr::bind(1, key, b.mr.addr, b.args(8, access::LOCAL_WRITE))
            },
            bind,
            vendor::KEY_ACCESS,
        ),
        (
            // The plain buffer has no MW_BIND.
            |b| {
                let key = b.window(MwType::TYPE_2);
                let args = BindArgs {
                    lkey: b.pair.b.mr.lkey,
                    ..b.args(8, access::REMOTE_READ)
                };
                SendWr::bind(1, key, b.pair.b.addr(0), args)
            },
            bind,
            vendor::KEY_ACCESS,
        ),
        (
            |b| {
                let own = core::mem::replace(&mut b.pair.b.guest.pdn, Pdn(0));
                let pdn = b.pair.b.guest.create(&mut b.pair.world, Admin::CREATE_PD, &[0u8; 0]);
                b.pair.b.guest.pdn = Pdn(pdn.expect("a domain"));
                let key = b.window(MwType::TYPE_2);
                b.pair.b.guest.pdn = own;
                SendWr::bind(1, key, b.mr.addr, b.args(8, access::REMOTE_READ))
            },
            bind,
            vendor::KEY_PD,
        ),
        (
            |b| SendWr::local_invalidate(1, b.mr.lkey).inline(&[1; 8]),
            Status::LOC_QP_OP_ERR,
            vendor::FLAGS,
        ),
    ];
    for (n, (make, status, reason)) in cases.into_iter().enumerate() {
        let mut b = Bound::new();
        let wr = make(&mut b);
        let (got, why, _) = b.own(wr);
        assert_eq!((got, why), (status, reason), "case {n}");
        let qpn = b.pair.b.qp.qpn;
        assert_eq!(b.pair.b.guest.state(&mut b.pair.world, qpn), QpState::ERR);
    }
    // Who lets peers write must be able to write itself.
    let mut b = Bound::with(access::MW_BIND);
    let key = b.window(MwType::TYPE_2);
    let wr = SendWr::bind(1, key, b.mr.addr, b.args(8, access::REMOTE_WRITE));
    assert_eq!(b.own(wr).0, Status::MW_BIND_ERR);
}

#[test]
fn h05_send_with_invalidate_ends_the_receivers_window() {
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_2);
    b.bind(key, 0, 100, access::REMOTE_WRITE);
    let (pair, w) = (&mut b.pair.b, &mut b.pair.world);
    pair.post_recv(w, 7, 0, 64);
    pair.post_recv(w, 8, 64, 64);
    b.pair
        .a
        .post(w, SendWr::send_invalidate(1, &[], key).inline(b"the end"));
    w.run();
    assert_eq!(b.pair.a.completion(w).status, 0);
    let got = b.pair.b.completion(w);
    assert_eq!((got.status, got.wr_id, got.byte_len), (0, 7, 7));
    assert_eq!((got.flags, got.imm), (flags::RECV | flags::INVALIDATED, key.0));
    assert_eq!(b.query(key).bound, 0);
    // A second time there is nothing to invalidate: both sides are told.
    let w = &mut b.pair.world;
    b.pair.a.post(w, SendWr::send_invalidate(2, &[], key));
    w.run();
    assert_eq!(Status(b.pair.a.completion(w).status), Status::REM_INV_REQ_ERR);
    let got = b.pair.b.completion(w);
    assert_eq!((Status(got.status), got.wr_id), (Status::REM_INV_REQ_ERR, 8));
    assert_eq!(got.vendor_err, vendor::KEY_UNKNOWN);
    let qpn = b.pair.b.qp.qpn;
    assert_eq!(b.pair.b.guest.state(w, qpn), QpState::ERR);
}

#[test]
fn h06_a_window_of_type_1_is_bound_by_command_again_and_again() {
    let mut b = Bound::new();
    let first = b.window(MwType::TYPE_1);
    let key = b.bind_by_command(first, 16, access::REMOTE_WRITE).expect("bound");
    assert_eq!(key.index(), first.index());
    assert_ne!(key, first);
    assert_eq!(b.write(b.mr.addr + 64, key), Status::SUCCESS);
    let again = b.bind_by_command(key, 8, access::REMOTE_WRITE).expect("bound again");
    assert_ne!(again, key);
    assert_eq!(b.write(b.mr.addr + 64, again), Status::SUCCESS);
    let index = b.mr.lkey.index();
    let used = b.destroy(Admin::DESTROY_MR, index).expect_err("a window is bound");
    assert_eq!((used.status, used.detail), (AdminStatus::IN_USE, 1));
    let refused = b
        .bind_by_command(again, 8, access::REMOTE_WRITE | access::ZERO_BASED)
        .expect_err("o10-36.2.2");
    assert_eq!(refused.status, AdminStatus::BIND_REFUSED);
    assert_eq!(b.query(again).rkey, again, "it is what it was");
    // Without length it is unbound.
    b.bind_by_command(again, 0, 0).expect("unbound");
    assert_eq!(b.query(again).bound, 0);
    b.destroy(Admin::DESTROY_MR, index).expect("nothing is bound");
    assert_eq!(b.write(0, again), Status::REM_ACCESS_ERR);
    b.destroy(Admin::DESTROY_MW, again.index()).expect("destroyed");
    let gone = b.destroy(Admin::DESTROY_MW, again.index()).expect_err("gone");
    assert_eq!(gone.status, AdminStatus::NO_SUCH_OBJECT);
}

#[test]
fn h06_revoking_a_region_takes_its_windows_along() {
    let mut b = Bound::new();
    let key = b.window(MwType::TYPE_2);
    b.bind(key, 0, 100, access::REMOTE_WRITE);
    let index = b.mr.lkey.index();
    let window = b.destroy(Admin::DESTROY_MR, key.index()).expect_err("it is no region");
    assert_eq!(window.status, AdminStatus::NO_SUCH_OBJECT);
    b.destroy(Admin::REVOKE_MR, index).expect("revoked");
    assert_eq!(b.query(key).bound, 0);
    assert_eq!(b.write(b.mr.addr, key), Status::REM_ACCESS_ERR);
}

#[test]
fn h05_atomic_write_stores_eight_bytes_at_once() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.fill(w, 100, &0x1122_3344_5566_7788u64.to_le_bytes());
    let (addr, rkey) = (pair.b.addr(64), pair.b.rkey());
    pair.a
        .post(w, SendWr::atomic_write(1, &[pair.a.sge(100, 8)], addr, rkey));
    w.run();
    let cqe = pair.a.completion(w);
    assert_eq!((cqe.status, cqe.opcode), (0, Opcode::ATOMIC_WRITE.0));
    assert_eq!(pair.b.bytes(w, 64, 8), 0x1122_3344_5566_7788u64.to_le_bytes());
    // Inline, and from two elements.
    pair.a
        .post(w, SendWr::atomic_write(2, &[], addr + 8, rkey).inline(b"8 bytes!"));
    let halves = [pair.a.sge(104, 4), pair.a.sge(100, 4)];
    pair.a.post(w, SendWr::atomic_write(3, &halves, addr + 16, rkey));
    w.run();
    assert_eq!(pair.a.cq.drain(w).iter().map(|c| c.status).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(pair.b.bytes(w, 72, 8), b"8 bytes!");
    assert_eq!(pair.b.bytes(w, 80, 8), 0x5566_7788_1122_3344u64.to_le_bytes());
    pair.a
        .post(w, SendWr::atomic_write(4, &[pair.a.sge(0, 8)], addr + 4, rkey));
    w.run();
    assert_eq!(
        Status(pair.a.completion(w).status),
        Status::REM_INV_REQ_ERR,
        "not aligned"
    );
    let mut pair = way::connected();
    let wr = SendWr::atomic_write(5, &[pair.a.sge(0, 7)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(&mut pair.world, wr);
    pair.world.run();
    assert_eq!(Status(pair.a.completion(&pair.world).status), Status::LOC_LEN_ERR);
}

#[test]
fn h05_flush_needs_the_right_and_the_range() {
    let global = |len, level| FlushArgs {
        len,
        placement: flush::GLOBAL,
        level,
    };
    let run = |rights: u32, args: FlushArgs| {
        let mut b = Bound::with(rights);
        let wr = SendWr::flush(1, b.mr.addr, b.mr.rkey, args);
        b.pair.a.post(&mut b.pair.world, wr);
        b.pair.world.run();
        let cqe = b.pair.a.completion(&b.pair.world);
        (Status(cqe.status), cqe.opcode, cqe.vendor_err)
    };
    const GRANTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::FLUSH_GLOBAL;
    let done = (Status::SUCCESS, Opcode::FLUSH.0, 0);
    assert_eq!(run(GRANTS, global(16 << 10, flush::RANGE)), done);
    assert_eq!(run(GRANTS, global(0, flush::REGION)), done);
    assert_eq!(run(GRANTS, global(0, flush::RANGE)), done);
    let denied = Status::REM_ACCESS_ERR;
    assert_eq!(run(GRANTS, global((16 << 10) + 1, flush::RANGE)).0, denied);
    assert_eq!(run(GRANTS & !access::FLUSH_GLOBAL, global(8, flush::RANGE)).0, denied);
    assert_eq!(run(GRANTS & !access::FLUSH_GLOBAL, global(0, flush::REGION)).0, denied);
    // Persistent memory there is none: no queue pair has the right.
    let persistent = FlushArgs {
        placement: flush::PERSISTENT,
        ..global(8, flush::RANGE)
    };
    assert_eq!(run(GRANTS, persistent).0, Status::REM_INV_REQ_ERR);
    for args in [
        FlushArgs {
            placement: 0,
            ..global(8, flush::RANGE)
        },
        FlushArgs {
            placement: 4,
            ..global(8, flush::RANGE)
        },
        global(8, 2),
    ] {
        let (status, _, reason) = run(GRANTS, args);
        assert_eq!((status, reason), (Status::LOC_QP_OP_ERR, vendor::FLUSH_OPERAND));
    }
}
