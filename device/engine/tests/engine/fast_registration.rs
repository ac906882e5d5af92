// SPDX-License-Identifier: MIT OR Apache-2.0
//! H5 and H6: regions that work requests register and invalidate.

use verbena_engine::testing::{End, Failed, Mr, Pair, Qp, QpShape, SendWr, World};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{CreateMrReq, CreateMwReq, CreateMwRsp, QueryDeviceRsp, QueryMrRsp, QueryMwRsp, MR_DMA, MR_FAST};
use verbena_hw::cqe::{flags, vendor, Opcode, Status};
use verbena_hw::id::{Key, Pdn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{send_flags, BindArgs, Sge, MAX_FAST_ELEMENTS};
use zerocopy::IntoBytes;

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

/// Two queue pairs of one guest, connected with each other.
fn looped(w: &mut World, end: &mut End) -> [Qp; 2] {
    let mut qps = [(); 2].map(|()| {
        let req = end.guest.qp_request(w, &end.cq, &end.cq, QpShape::default());
        end.guest.create_qp(w, &req).expect("a queue pair")
    });
    let gid = end.guest.gid();
    for i in 0..2 {
        let to = qps[1 - i].qpn;
        core::mem::swap(&mut end.qp, &mut qps[i]);
        end.connect(w, (gid, to), (1, 1), |_| {});
        core::mem::swap(&mut end.qp, &mut qps[i]);
    }
    qps
}

#[test]
fn h06_an_invalidation_between_two_turns_counts_for_the_second() {
    let mut t = Fast::new();
    let key = t.next_key();
    t.register(key);
    let (w, end) = (&mut t.pair.world, &mut t.pair.b);
    let [mut first, mut owner] = looped(w, end);
    let [mut second, _peer] = looped(w, end);
    // All have a message when the device looks, and get their turns in the order of their slots.
    first.post(w, SendWr::write(1, &[], AT, key).inline(b"1"));
    owner.post(w, SendWr::local_invalidate(2, key));
    second.post(w, SendWr::write(3, &[], AT, key).inline(b"3"));
    w.run();
    let ended: Vec<_> = std::iter::from_fn(|| end.cq.poll(w))
        .map(|cqe| (cqe.wr_id, Status(cqe.status)))
        .collect();
    let (good, refused) = (Status::SUCCESS, Status::REM_ACCESS_ERR);
    assert_eq!(ended[..3], [(1, good), (2, good), (3, refused)]);
    assert_eq!(t.bytes(5000, 1), b"1");
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
    let cases: [(Spoil, u32); 8] = [
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

impl Fast {
    /// b gets another region, of up to so many elements, and 64 KiB that are where its elements come from.
    fn many(&mut self, most: u32) -> (Key, Mr) {
        let (guest, w) = (&mut self.pair.b.guest, &mut self.pair.world);
        let key = guest
            .register(w, &empty(guest.pdn, most.into()))
            .expect("a region")
            .lkey;
        let place = w.ram_mut(guest.hca).alloc(64 << 10);
        let list = guest.mr(w, place, 64 << 10, 0).expect("memory of the list");
        (key, list)
    }

    /// Writes elements into such memory, and says where they are.
    fn list(&self, list: &Mr, elements: &[Sge]) -> Sge {
        let ram = self.pair.world.ram(self.pair.b.guest.hca);
        ram.write(list.addr, elements.as_bytes());
        Sge {
            addr: list.addr,
            len: size_of_val(elements) as u32,
            lkey: list.lkey,
        }
    }
}

#[test]
fn h06_a_region_consists_of_hundreds_of_elements() {
    let mut t = Fast::new();
    let (key, list) = t.many(MAX_FAST_ELEMENTS);
    // 32 bytes of every 32, backwards: 512 stretches.
    let parts: Vec<_> = (0..512).rev().map(|n| t.memory(n * 32, 32)).collect();
    let at = t.list(&list, &parts);
    // The list itself in two elements, the joint inside an element of the region.
    let halves = [
        Sge { len: 1000, ..at },
        Sge {
            addr: at.addr + 1000,
            len: at.len - 1000,
            ..at
        },
    ];
    let wr = SendWr::register_list(1, key, AT, RIGHTS, &halves);
    assert_eq!(t.own(wr), (Status::SUCCESS, 0, Opcode::REG_MR.0));
    // What becomes of the list then makes no difference.
    t.list(&list, &[Sge::default(); 512]);
    let data: Vec<u8> = (0..480).map(|i| i as u8).collect();
    assert_eq!(t.write(AT + 16, key, &data), Status::SUCCESS);
    for i in (0..480).step_by(16) {
        let offset = 16 + i as u64;
        let place = (511 - offset / 32) * 32 + offset % 32;
        assert_eq!(t.bytes(place, 16), data[i..i + 16], "bytes from {i} on");
    }
    assert_eq!(t.write(AT + (16 << 10) - 8, key, b"the last"), Status::SUCCESS);
    assert_eq!(t.bytes(24, 8), b"the last");
    let in_use = t.command(Admin::DESTROY_MR, t.mr.lkey).expect_err("512 parts of it");
    assert_eq!((in_use.status, in_use.detail), (AdminStatus::IN_USE, 512));
    assert_eq!(t.own(SendWr::local_invalidate(2, key)).0, Status::SUCCESS);
    t.command(Admin::DESTROY_MR, t.mr.lkey).expect("nothing stands on it");
    t.command(Admin::DESTROY_MR, list.lkey).expect("nor on the list");
}

#[test]
fn h06_a_list_of_elements_is_checked_like_elements() {
    type Spoil = fn(&mut Fast, Key, &Mr) -> SendWr;
    const OPERATION: Status = Status::LOC_QP_OP_ERR;
    let cases: [(Spoil, Status, u32); 9] = [
        (
            |t, key, list| SendWr::register_list(1, key, AT, RIGHTS, &[t.list(list, &[t.memory(0, 8); 41])]),
            OPERATION,
            vendor::SGE_COUNT,
        ),
        (
            |_, key, list| {
                let too_many = Sge {
                    addr: list.addr,
                    len: 16 * (MAX_FAST_ELEMENTS + 1),
                    lkey: list.lkey,
                };
                SendWr::register_list(1, key, AT, RIGHTS, &[too_many])
            },
            OPERATION,
            vendor::SGE_COUNT,
        ),
        (
            |t, key, list| {
                let at = t.list(list, &[t.memory(0, 8); 2]);
                SendWr::register_list(1, key, AT, RIGHTS, &[Sge { len: 31, ..at }])
            },
            Status::LOC_LEN_ERR,
            vendor::MESSAGE_LEN,
        ),
        (
            |t, key, list| {
                let at = t.list(list, &[t.memory(0, 8)]);
                let lkey = Key(at.lkey.0 ^ 0x55);
                SendWr::register_list(1, key, AT, RIGHTS, &[Sge { lkey, ..at }])
            },
            Status::LOC_PROT_ERR,
            vendor::KEY_UNKNOWN,
        ),
        (
            |t, key, list| {
                let at = t.list(list, &[t.memory(0, 8)]);
                let addr = list.addr + list.len - 8;
                SendWr::register_list(1, key, AT, RIGHTS, &[Sge { addr, ..at }])
            },
            Status::LOC_PROT_ERR,
            vendor::KEY_RANGE,
        ),
        (
            |_, key, _| SendWr::register_list(1, key, AT, RIGHTS, &[]),
            OPERATION,
            vendor::KEY_RANGE,
        ),
        (
            // The last of many is not memory of its own.
            |t, key, list| {
                let mut parts = [t.memory(0, 8); 40];
                parts[39].lkey = Key(1);
                SendWr::register_list(1, key, AT, RIGHTS, &[t.list(list, &parts)])
            },
            OPERATION,
            vendor::KEY_UNKNOWN,
        ),
        (
            // Nor are other regions of the kind, nor itself.
            |t, key, list| {
                let part = Sge {
                    lkey: key,
                    ..t.memory(0, 8)
                };
                SendWr::register_list(1, key, AT, RIGHTS, &[t.list(list, &[part])])
            },
            OPERATION,
            vendor::KEY_UNKNOWN,
        ),
        (
            |t, key, list| {
                let part = t.list(list, &[t.memory(0, 8)]);
                SendWr::register_list(1, key, AT, RIGHTS, &[part]).inline(b"inline is no list")
            },
            OPERATION,
            vendor::FLAGS,
        ),
    ];
    for (i, (spoil, status, reason)) in cases.into_iter().enumerate() {
        let mut t = Fast::new();
        let (key, list) = t.many(40);
        let wr = spoil(&mut t, key, &list);
        let (got, why, _) = t.own(wr);
        assert_eq!((got, why), (status, reason), "case {i}");
        t.command(Admin::DESTROY_MR, t.mr.lkey).expect("nothing stands on it");
    }
    // Memory of the list that has gone from the device.
    let mut t = Fast::new();
    let (key, list) = t.many(40);
    let at = t.list(&list, &[t.memory(0, 8)]);
    t.command(Admin::REVOKE_MR, list.lkey).expect("revoked");
    let (status, reason, _) = t.own(SendWr::register_list(1, key, AT, RIGHTS, &[at]));
    assert_eq!((status, reason), (Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN));
}

#[test]
fn h06_a_region_has_no_more_elements_than_the_device_says() {
    let mut t = Fast::new();
    let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
    let device: QueryDeviceRsp = guest.command(w, Admin::QUERY_DEVICE, &[0u8; 0]).expect("a device");
    assert_eq!(device.max_fast_elements, MAX_FAST_ELEMENTS);
    assert!(device.max_fast_elements >= 256, "what other adapters have");
    for elements in [0, u64::from(MAX_FAST_ELEMENTS) + 1, u64::MAX] {
        let refused = guest.register(w, &empty(guest.pdn, elements)).expect_err("refused");
        let at = core::mem::offset_of!(CreateMrReq, len) as u32;
        assert_eq!((refused.status, refused.detail), (AdminStatus::BAD_FIELD, at));
    }
}

#[test]
fn h06_windows_are_bound_to_a_region_that_a_work_request_registered() {
    let bound = || {
        let mut t = Fast::new();
        let (key, w) = (t.next_key(), &mut t.pair.world);
        let req = CreateMwReq {
            pdn: t.pair.b.guest.pdn,
            mw_type: MwType::TYPE_2,
            reserved: [0; 3],
        };
        let rsp: CreateMwRsp = t.pair.b.guest.command(w, Admin::CREATE_MW, &req).expect("a window");
        let parts = [t.memory(5000, 100), t.memory(10, 60)];
        let rights = access::LOCAL_WRITE | access::MW_BIND;
        let wr = SendWr::register(1, key, AT, rights, &parts);
        assert_eq!(t.own(wr).0, Status::SUCCESS);
        let args = BindArgs {
            len: 50,
            lkey: key,
            access: access::REMOTE_WRITE,
        };
        let wr = SendWr::bind(2, rsp.rkey, AT + 80, args);
        assert_eq!(t.own(wr).0, Status::SUCCESS);
        (t, key, rsp.rkey)
    };
    // Over the joint of the two parts.
    let (mut t, key, window) = bound();
    assert_eq!(t.write(AT + 98, window, b"abcd"), Status::SUCCESS);
    assert_eq!((t.bytes(5098, 2), t.bytes(10, 2)), (b"ab".to_vec(), b"cd".to_vec()));
    // The region's key stays while the window is bound, whoever wants it gone.
    let (status, reason, _) = t.own(SendWr::local_invalidate(3, key));
    assert_eq!((status, reason), (Status::LOC_QP_OP_ERR, vendor::REGION_STATE));
    let in_use = t.command(Admin::DESTROY_MR, key).expect_err("a window is bound");
    assert_eq!((in_use.status, in_use.detail), (AdminStatus::IN_USE, 1));
    let (mut t, key, window) = bound();
    t.pair.b.post_recv(&mut t.pair.world, 9, 0, 64);
    t.pair.a.post(&mut t.pair.world, SendWr::send_invalidate(1, &[], key));
    t.pair.world.run();
    let got = t.pair.a.completion(&t.pair.world);
    assert_eq!(Status(got.status), Status::REM_INV_REQ_ERR);
    let got = t.pair.b.completion(&t.pair.world);
    assert_eq!(got.vendor_err, vendor::REGION_STATE);
    assert_eq!(t.command(Admin::DESTROY_MW, window), Ok(()));
    t.command(Admin::DESTROY_MR, key).expect("nothing is bound to it");
    // Window, region, memory: in this order.
    let (mut t, key, window) = bound();
    assert_eq!(t.own(SendWr::local_invalidate(3, window)).0, Status::SUCCESS);
    assert_eq!(t.own(SendWr::local_invalidate(4, key)).0, Status::SUCCESS);
    // Memory that is taken away takes along what stands on it, and what stands on that.
    let (mut t, key, window) = bound();
    t.command(Admin::REVOKE_MR, t.mr.lkey).expect("revoked");
    let query: QueryMwRsp = {
        let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
        guest.about(w, Admin::QUERY_MW, window.index()).expect("a window")
    };
    assert_eq!(query.bound, 0);
    t.command(Admin::DESTROY_MR, key).expect("nothing is bound to it");
    assert_eq!(t.write(AT + 98, window, b"gone"), Status::REM_ACCESS_ERR);
    // Rights that the region does not give its windows.
    let mut t = Fast::new();
    let key = t.next_key();
    t.register(key);
    let args = BindArgs {
        len: 8,
        lkey: key,
        access: access::REMOTE_READ,
    };
    let (guest, w) = (&mut t.pair.b.guest, &mut t.pair.world);
    let req = CreateMwReq {
        pdn: guest.pdn,
        mw_type: MwType::TYPE_2,
        reserved: [0; 3],
    };
    let window: CreateMwRsp = guest.command(w, Admin::CREATE_MW, &req).expect("a window");
    let (status, reason, _) = t.own(SendWr::bind(5, window.rkey, AT, args));
    assert_eq!((status, reason), (Status::MW_BIND_ERR, vendor::KEY_ACCESS));
}
