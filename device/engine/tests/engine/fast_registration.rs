// SPDX-License-Identifier: MIT OR Apache-2.0
//! H5 and H6: regions that work requests register and invalidate.

use verbena_engine::testing::{Failed, Mr, Pair, SendWr};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{CreateMrReq, QueryMrRsp, MR_DMA, MR_FAST};
use verbena_hw::cqe::{flags, vendor, Opcode, Status};
use verbena_hw::id::{Key, Pdn};
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{send_flags, Sge};

const RIGHTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;
const AT: u64 = 0x7000_0000;

fn empty(pdn: Pdn, elements: u64) -> CreateMrReq {
    CreateMrReq {
        pages: PageList::default(),
        iova: 0,
        len: elements,
        first_offset: 0,
        pdn,
        access: 0,
        flags: MR_FAST,
        reserved: 0,
    }
}

/// b has memory, which peers may not touch, and a region without memory.
struct Fast {
    pair: Pair,
    mr: Mr,
    key: Key,
}

impl Fast {
    fn new() -> Self {
        Self::with(access::LOCAL_WRITE)
    }

    fn with(rights: u32) -> Self {
        let mut pair = Pair::connected();
        let w = &mut pair.world;
        let place = w.ram_mut(pair.b.guest.hca).alloc(16 << 10);
        let mr = pair.b.guest.mr(w, place, 16 << 10, rights).expect("memory");
        let pdn = pair.b.guest.pdn;
        let key = pair.b.guest.register(w, &empty(pdn, 2)).expect("a region").lkey;
        Self { pair, mr, key }
    }

    fn memory(&self, offset: u64, len: u32) -> Sge {
        Sge {
            addr: self.mr.addr + offset,
            len,
            lkey: self.mr.lkey,
        }
    }

    fn next_key(&self) -> Key {
        Key::from_parts(self.key.index(), self.key.tag().wrapping_add(1))
    }

    /// b posts a work request; how it ends.
    fn own(&mut self, wr: SendWr) -> (Status, u32, u8) {
        self.pair.b.post(&mut self.pair.world, wr);
        self.pair.world.run();
        let cqe = self.pair.b.completion(&self.pair.world);
        (Status(cqe.status), cqe.vendor_err, cqe.opcode)
    }

    /// b registers two parts, the later one first: 100 bytes from 5000 on, 60 from 10 on.
    fn register(&mut self, key: Key) {
        let parts = [self.memory(5000, 100), self.memory(10, 60)];
        let wr = SendWr::register(1, key, AT, RIGHTS, &parts);
        assert_eq!(self.own(wr), (Status::SUCCESS, 0, Opcode::REG_MR.0));
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        self.pair
            .world
            .ram(self.pair.b.guest.hca)
            .read(self.mr.addr + offset, len)
    }

    /// a writes; how that ends.
    fn write(&mut self, addr: u64, key: Key, data: &[u8]) -> Status {
        let wr = SendWr::write(2, &[], addr, key).inline(data);
        self.pair.a.post(&mut self.pair.world, wr);
        self.pair.world.run();
        Status(self.pair.a.completion(&self.pair.world).status)
    }

    fn command(&mut self, opcode: Admin, key: Key) -> Result<(), Failed> {
        self.pair.b.guest.destroy(&mut self.pair.world, opcode, key.index())
    }
}

#[test]
fn h06_a_work_request_gives_a_region_its_memory() {
    let mut t = Fast::new();
    let key = t.next_key();
    t.register(key);
    // Over the joint.
    assert_eq!(t.write(AT + 98, key, b"abcd"), Status::SUCCESS);
    assert_eq!(t.bytes(5098, 2), b"ab");
    assert_eq!(t.bytes(10, 2), b"cd");
    // It is its owner's as well.
    let own = Sge {
        addr: AT + 99,
        len: 2,
        lkey: key,
    };
    let (there, rkey) = (t.pair.a.addr(0), t.pair.a.rkey());
    assert_eq!(t.own(SendWr::write(3, &[own], there, rkey)).0, Status::SUCCESS);
    assert_eq!(t.pair.a.bytes(&t.pair.world, 0, 2), b"bc");
    let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
    let rsp: QueryMrRsp = guest.about(w, Admin::QUERY_MR, key.index()).expect("the region");
    assert_eq!((rsp.iova, rsp.len, rsp.lkey, rsp.rkey), (AT, 160, key, key));
    assert_eq!(
        t.write(AT + 157, key, b"abcd"),
        Status::REM_ACCESS_ERR,
        "beyond its end"
    );
}

#[test]
fn h06_a_region_without_memory_opens_nothing() {
    let mut t = Fast::new();
    let key = t.key;
    assert_eq!(t.write(0, key, b""), Status::SUCCESS, "nothing needs no key");
    assert_eq!(t.write(0, key, b"x"), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_a_region_is_registered_again_after_an_invalidation() {
    let mut t = Fast::new();
    let first = t.next_key();
    t.register(first);
    assert_eq!(
        t.own(SendWr::local_invalidate(2, first)),
        (Status::SUCCESS, 0, Opcode::LOCAL_INV.0)
    );
    let second = Key::from_parts(first.index(), 0x5a);
    t.register(second);
    assert_eq!(t.write(AT, second, b"new"), Status::SUCCESS);
    assert_eq!(t.write(AT, first, b"old"), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_a_valid_region_is_not_registered_again() {
    let mut t = Fast::new();
    let key = t.next_key();
    t.register(key);
    let wr = SendWr::register(4, key, 0, RIGHTS, &[t.memory(0, 8)]);
    let (status, reason, _) = t.own(wr);
    assert_eq!((status, reason), (Status::LOC_QP_OP_ERR, vendor::REGION_STATE));
    // And an invalid one not invalidated.
    let mut t = Fast::new();
    let (status, reason, _) = t.own(SendWr::local_invalidate(1, t.key));
    assert_eq!((status, reason), (Status::LOC_QP_OP_ERR, vendor::KEY_UNKNOWN));
}

#[test]
fn h05_the_peer_invalidates_with_its_send() {
    let mut t = Fast::new();
    let key = t.next_key();
    t.register(key);
    t.pair.b.post_recv(&mut t.pair.world, 9, 0, 64);
    t.pair.a.post(&mut t.pair.world, SendWr::send_invalidate(1, &[], key));
    t.pair.world.run();
    assert_eq!(t.pair.a.completion(&t.pair.world).status, 0);
    let cqe = t.pair.b.completion(&t.pair.world);
    assert_eq!((cqe.status, cqe.imm), (0, key.0));
    assert_ne!(cqe.flags & flags::INVALIDATED, 0);
    t.register(Key::from_parts(key.index(), 1));
    assert_eq!(t.write(AT, key, b"old"), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_memory_under_a_valid_region_stays() {
    let mut t = Fast::new();
    let (key, memory) = (t.next_key(), t.mr.lkey);
    t.register(key);
    let in_use = t.command(Admin::DESTROY_MR, memory).map_err(|f| (f.status, f.detail));
    // Each of its two elements counts.
    assert_eq!(in_use, Err((AdminStatus::IN_USE, 2)));
    assert_eq!(t.own(SendWr::local_invalidate(2, key)).0, Status::SUCCESS);
    t.command(Admin::DESTROY_MR, memory).expect("nothing stands on it");

    let mut t = Fast::new();
    let (key, memory) = (t.next_key(), t.mr.lkey);
    t.register(key);
    t.command(Admin::DESTROY_MR, key).expect("valid regions are destroyed");
    t.command(Admin::DESTROY_MR, memory).expect("nothing stands on it");

    let mut t = Fast::new();
    let (key, memory) = (t.next_key(), t.mr.lkey);
    t.register(key);
    t.command(Admin::REVOKE_MR, memory)
        .expect("taken away with what stands on it");
    assert_eq!(t.write(AT, key, b"gone"), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_what_cannot_be_registered_says_why() {
    type Spoil = fn(&mut Fast) -> SendWr;
    let cases: [(Spoil, u32); 9] = [
        (|t| SendWr::register(1, t.key, AT, RIGHTS, &[]), vendor::KEY_RANGE),
        (
            |t| SendWr::register(1, t.key, u64::MAX, RIGHTS, &[t.memory(0, 8)]),
            vendor::KEY_RANGE,
        ),
        (
            |t| SendWr::register(1, t.key, 1, RIGHTS | access::ZERO_BASED, &[t.memory(0, 8)]),
            vendor::KEY_RANGE,
        ),
        (
            |t| SendWr::register(1, t.key, AT, RIGHTS, &[t.memory((16 << 10) - 8, 9)]),
            vendor::KEY_RANGE,
        ),
        (
            |t| SendWr::register(1, t.key, AT, access::REMOTE_WRITE, &[t.memory(0, 8)]),
            vendor::KEY_ACCESS,
        ),
        (
            |t| SendWr::register(1, t.key, AT, RIGHTS | access::MW_BIND, &[t.memory(0, 8)]),
            vendor::KEY_ACCESS,
        ),
        (
            |t| SendWr::register(1, t.mr.lkey, AT, RIGHTS, &[t.memory(0, 8)]),
            vendor::KEY_UNKNOWN,
        ),
        (
            |t| {
                let part = t.memory(0, 8);
                SendWr::register(1, t.key, AT, RIGHTS, &[part, part, part])
            },
            vendor::SGE_COUNT,
        ),
        (
            |t| {
                let mut wr = SendWr::register(1, t.key, AT, RIGHTS, &[]).inline(b"12345678");
                wr.header.flags |= send_flags::INLINE;
                wr
            },
            vendor::FLAGS,
        ),
    ];
    for (i, (spoil, reason)) in cases.into_iter().enumerate() {
        let mut t = Fast::new();
        let wr = spoil(&mut t);
        let (status, got, _) = t.own(wr);
        assert_eq!((status, got), (Status::LOC_QP_OP_ERR, reason), "case {i}");
        t.command(Admin::DESTROY_MR, t.mr.lkey).expect("nothing stands on it");
    }
}

#[test]
fn h06_a_region_gives_no_more_than_its_memory_has() {
    let mut t = Fast::with(0);
    let wr = SendWr::register(1, t.key, AT, RIGHTS, &[t.memory(0, 8)]);
    let (status, reason, _) = t.own(wr);
    assert_eq!(
        (status, reason),
        (Status::LOC_QP_OP_ERR, vendor::KEY_ACCESS),
        "it is not writable"
    );
    let mut t = Fast::with(0);
    let key = t.next_key();
    let wr = SendWr::register(1, key, AT, access::REMOTE_READ, &[t.memory(0, 8)]);
    assert_eq!(t.own(wr).0, Status::SUCCESS);
    assert_eq!(t.write(AT, key, b"x"), Status::REM_ACCESS_ERR);
}

#[test]
fn h14_memory_and_regions_of_another_domain_are_out_of_reach() {
    let mut t = Fast::new();
    let other = t
        .pair
        .b
        .guest
        .create(&mut t.pair.world, Admin::CREATE_PD, &[0u8; 0])
        .expect("a domain");
    let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
    let foreign = guest.register(w, &empty(Pdn(other), 2)).expect("a region").lkey;
    let wr = SendWr::register(1, foreign, AT, RIGHTS, &[t.memory(0, 8)]);
    assert_eq!(t.own(wr).1, vendor::KEY_PD, "a region of another domain");

    let mut t = Fast::new();
    let other = t
        .pair
        .b
        .guest
        .create(&mut t.pair.world, Admin::CREATE_PD, &[0u8; 0])
        .expect("a domain");
    let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
    let all = CreateMrReq {
        len: 0,
        access: access::LOCAL_WRITE,
        flags: MR_DMA,
        ..empty(Pdn(other), 0)
    };
    let all = guest.register(w, &all).expect("all memory").lkey;
    let sge = Sge {
        addr: t.mr.addr,
        len: 8,
        lkey: all,
    };
    let wr = SendWr::register(1, t.key, AT, RIGHTS, &[sge]);
    assert_eq!(t.own(wr).1, vendor::KEY_PD, "addresses of the bus");
}

#[test]
fn h06_addresses_of_the_bus_are_for_who_has_all_memory() {
    let mut t = Fast::new();
    let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
    let all = CreateMrReq {
        len: 0,
        access: access::LOCAL_WRITE,
        flags: MR_DMA,
        ..empty(guest.pdn, 0)
    };
    let all = guest.register(w, &all).expect("all memory").lkey;
    let page = |offset| Sge {
        addr: t.mr.addr + offset,
        len: 4096,
        lkey: all,
    };
    let pages = [page(4096), page(0)];
    let key = t.next_key();
    assert_eq!(t.own(SendWr::register(1, key, AT, RIGHTS, &pages)).0, Status::SUCCESS);
    assert_eq!(t.write(AT + 4094, key, b"page"), Status::SUCCESS);
    assert_eq!(t.bytes(8190, 2), b"pa");
    assert_eq!(t.bytes(0, 2), b"ge");
}
