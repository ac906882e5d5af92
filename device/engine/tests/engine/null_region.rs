// SPDX-License-Identifier: MIT OR Apache-2.0
//! H6: a region that reads as zeros and forgets what is written to it.

use crate::datagrams;
use crate::way;
use verbena_engine::testing::{Failed, Guest, Pair, RecvWr, SendWr, World};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{mr_modify, CreateMrReq, CreateMrRsp, CreateMwReq, CreateMwRsp, ModifyMrReq, QueryMrRsp};
use verbena_hw::cmd::{MR_FAST, MR_NULL};
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::{Key, Pdn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{BindArgs, Sge};
use zerocopy::FromZeros;

fn request(pdn: Pdn, flags: u32) -> CreateMrReq {
    CreateMrReq {
        pdn,
        flags,
        ..CreateMrReq::new_zeroed()
    }
}

fn null(guest: &mut Guest, w: &mut World) -> Key {
    let mr = guest.register(w, &request(guest.pdn, MR_NULL)).expect("a null region");
    assert_ne!(mr.lkey.0, 0);
    assert_eq!(mr.rkey.0, 0, "peers cannot name it");
    mr.lkey
}

fn sge(lkey: Key, addr: u64, len: u32) -> Sge {
    Sge { addr, len, lkey }
}

/// One message of a's, which must end well.
fn well(pair: &mut Pair, wr: SendWr) {
    let w = &mut pair.world;
    pair.a.post(w, wr);
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::SUCCESS);
}

#[test]
fn h06_what_a_null_region_gives_is_zero() {
    let mut pair = way::connected();
    let key = null(&mut pair.a.guest, &mut pair.world);
    // Short ones, one of several packets, one longer than the device copies at once.
    for len in [1, 8, 9, 100, 5000, 300_000] {
        pair.b.fill(&mut pair.world, 0, &vec![0xa5; len + 20]);
        let (addr, rkey) = (pair.b.addr(10), pair.b.rkey());
        // Which bytes of it is all the same.
        well(
            &mut pair,
            SendWr::write(1, &[sge(key, 0xdead_0000, len as u32)], addr, rkey),
        );
        let bytes = pair.b.bytes(&pair.world, 0, len + 20);
        assert_eq!(bytes[..10], [0xa5; 10]);
        assert!(bytes[10..10 + len].iter().all(|&b| b == 0), "{len} bytes");
        assert_eq!(bytes[10 + len..], [0xa5; 10]);
    }
    // Between memory, in a SEND.
    pair.a.fill(&mut pair.world, 0, b"headtail");
    pair.b.fill(&mut pair.world, 0, &[0xa5; 64]);
    pair.b.post_recv(&mut pair.world, 7, 0, 64);
    let parts = [pair.a.sge(0, 4), sge(key, 0, 6), pair.a.sge(4, 4)];
    well(&mut pair, SendWr::send(2, &parts));
    let received = pair.b.completion(&pair.world);
    assert_eq!((Status(received.status), received.byte_len), (Status::SUCCESS, 14));
    assert_eq!(pair.b.bytes(&pair.world, 0, 14), b"head\0\0\0\0\0\0tail");
}

#[test]
fn h06_what_a_null_region_takes_is_gone() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let (own, theirs) = (null(&mut pair.a.guest, w), null(&mut pair.b.guest, w));
    let data: Vec<u8> = (0..9000u32).map(|i| i as u8).collect();
    pair.a.fill(w, 0, &data);
    pair.b.fill(w, 0, &data);

    // A receive that wants the middle alone.
    let parts = [
        sge(theirs, 1 << 40, 3000),
        pair.b.sge(20_000, 3000),
        sge(theirs, 0, 3000),
    ];
    pair.b.qp.post_recv(w, RecvWr::new(1, &parts));
    let all = SendWr::send(2, &[pair.a.sge(0, 9000)]);
    well(&mut pair, all);
    assert_eq!(pair.b.completion(&pair.world).byte_len, 9000);
    assert_eq!(pair.b.bytes(&pair.world, 20_000, 3000), data[3000..6000]);

    // A READ likewise, and one that wants nothing at all.
    let (addr, rkey) = (pair.b.addr(0), pair.b.rkey());
    let parts = [sge(own, 0, 4000), pair.a.sge(20_000, 5000)];
    well(&mut pair, SendWr::read(3, &parts, addr, rkey));
    assert_eq!(pair.a.bytes(&pair.world, 20_000, 5000), data[4000..]);
    well(&mut pair, SendWr::read(4, &[sge(own, 5, 9000)], addr, rkey));

    // The addition counts, its result does not.
    pair.b.fill(&mut pair.world, 0, &5u64.to_le_bytes());
    well(&mut pair, SendWr::fetch_add(5, sge(own, 0, 8), addr, rkey, 2));
    assert_eq!(pair.b.bytes(&pair.world, 0, 8), 7u64.to_le_bytes());
    // An atomic write of zeros.
    well(&mut pair, SendWr::atomic_write(6, &[sge(own, 0, 8)], addr, rkey));
    assert_eq!(pair.b.bytes(&pair.world, 0, 8), [0; 8]);

    // From one to the other.
    let w = &mut pair.world;
    pair.b.qp.post_recv(w, RecvWr::new(7, &[sge(theirs, 0, 64)]));
    well(&mut pair, SendWr::send(8, &[sge(own, 0, 64)]));
    assert_eq!(pair.b.completion(&pair.world).byte_len, 64);
}

#[test]
fn h06_datagrams_know_null_regions() {
    let mut w = way::world(1);
    let (mut a, mut b) = (datagrams::end(&mut w), datagrams::end(&mut w));
    let (own, theirs) = (null(&mut a.guest, &mut w), null(&mut b.guest, &mut w));
    a.fill(&mut w, 0, b"data");
    b.fill(&mut w, 0, &[0xa5; 100]);
    // Who does not want the GRH has it put nowhere.
    let parts = [sge(theirs, 0, datagrams::GRH as u32), b.sge(0, 60)];
    b.qp.post_recv(&w, RecvWr::new(1, &parts));
    a.post(
        &mut w,
        SendWr::send(2, &[a.sge(0, 4), sge(own, 0, 4)]).to(datagrams::to(&b)),
    );
    w.run();
    assert_eq!(Status(a.completion(&w).status), Status::SUCCESS);
    assert_eq!(b.completion(&w).byte_len, datagrams::GRH as u32 + 8);
    assert_eq!(b.bytes(&w, 0, 9), b"data\0\0\0\0\xa5");
}

#[test]
fn h06_a_null_region_ends_like_any_other() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let guest = &mut pair.a.guest;
    let key = null(guest, w);
    let now: QueryMrRsp = guest.about(w, Admin::QUERY_MR, key.index()).expect("its state");
    assert_eq!((now.lkey, now.rkey, now.iova, now.len), (key, Key(0), 0, u64::MAX));
    assert_eq!((now.access, now.pages, now.pdn), (access::LOCAL_WRITE, 0, guest.pdn));
    let (addr, rkey) = (pair.b.addr(0), pair.b.rkey());
    guest.destroy(w, Admin::DESTROY_MR, key.index()).expect("gone");
    pair.a.post(w, SendWr::write(1, &[sge(key, 0, 8)], addr, rkey));
    w.run();
    let cqe = pair.a.completion(w);
    assert_eq!(
        (Status(cqe.status), cqe.vendor_err),
        (Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN)
    );
}

/// How a WRITE of a's that names `from` ends.
fn write_from(pair: &mut Pair, from: Sge, rkey: Key) -> (Status, u32) {
    let w = &mut pair.world;
    let addr = pair.b.addr(0);
    pair.a.post(w, SendWr::write(1, &[from], addr, rkey));
    w.run();
    let cqe = pair.a.completion(w);
    (Status(cqe.status), cqe.vendor_err)
}

#[test]
fn h06_a_null_region_is_its_domains_alone_and_no_peers() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let other = pair
        .a
        .guest
        .create(w, Admin::CREATE_PD, &[0u8; 0])
        .expect("another domain");
    let foreign = pair
        .a
        .guest
        .register(w, &request(Pdn(other), MR_NULL))
        .expect("a null region")
        .lkey;
    let refused = pair.a.guest.destroy(w, Admin::DESTROY_PD, other).unwrap_err();
    assert_eq!(refused.status, AdminStatus::IN_USE);
    let rkey = pair.b.rkey();
    let found = write_from(&mut pair, sge(foreign, 0, 8), rkey);
    assert_eq!(found, (Status::LOC_PROT_ERR, vendor::KEY_PD));

    let mut pair = way::connected();
    let theirs = null(&mut pair.b.guest, &mut pair.world);
    let own = pair.a.sge(0, 8);
    // The requester is told no more than that it may not.
    assert_eq!(write_from(&mut pair, own, theirs).0, Status::REM_ACCESS_ERR);

    let mut pair = way::connected();
    let key = null(&mut pair.a.guest, &mut pair.world);
    let rkey = pair.b.rkey();
    let found = write_from(&mut pair, sge(key, u64::MAX - 4, 8), rkey);
    assert_eq!(found, (Status::LOC_PROT_ERR, vendor::KEY_RANGE));
}

#[test]
fn h06_nothing_stands_on_a_null_region() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let guest = &mut pair.a.guest;
    let key = null(guest, w);
    let window: CreateMwRsp = guest
        .command(
            w,
            Admin::CREATE_MW,
            &CreateMwReq {
                pdn: guest.pdn,
                mw_type: MwType::TYPE_2,
                ..CreateMwReq::new_zeroed()
            },
        )
        .expect("a window");
    let args = BindArgs {
        lkey: key,
        access: access::REMOTE_READ,
        len: 8,
    };
    pair.a.post(w, SendWr::bind(1, window.rkey, 0, args));
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::MW_BIND_ERR);

    let mut pair = way::connected();
    let w = &mut pair.world;
    let guest = &mut pair.a.guest;
    let key = null(guest, w);
    let fast = CreateMrReq {
        len: 1,
        ..request(guest.pdn, MR_FAST)
    };
    let fast: CreateMrRsp = guest.command(w, Admin::CREATE_MR, &fast).expect("a region");
    let next = Key::from_parts(fast.lkey.index(), fast.lkey.tag().wrapping_add(1));
    let wr = SendWr::register(1, next, 0x1000, access::LOCAL_WRITE, &[sge(key, 0, 4096)]);
    pair.a.post(w, wr);
    w.run();
    let cqe = pair.a.completion(w);
    assert_ne!(Status(cqe.status), Status::SUCCESS);
    assert_eq!(cqe.vendor_err, vendor::KEY_ACCESS);

    let refused = pair
        .a
        .guest
        .command::<CreateMrRsp>(
            w,
            Admin::MODIFY_MR,
            &ModifyMrReq {
                index: key.index(),
                mask: mr_modify::ACCESS,
                access: access::LOCAL_WRITE,
                ..ModifyMrReq::new_zeroed()
            },
        )
        .unwrap_err();
    assert_eq!(refused.status, AdminStatus::BAD_FIELD);
}

#[test]
fn h06_a_null_region_has_neither_place_nor_rights() {
    let mut w = way::world(1);
    let mut guest = Guest::start(&mut w, 16 << 20);
    let good = request(guest.pdn, MR_NULL);
    for bad in [
        CreateMrReq {
            pages: PageList::direct(0x1000, 4096),
            ..good
        },
        CreateMrReq { iova: 1, ..good },
        CreateMrReq { len: 4096, ..good },
        CreateMrReq {
            first_offset: 1,
            ..good
        },
        CreateMrReq {
            access: access::LOCAL_WRITE,
            ..good
        },
        CreateMrReq {
            flags: MR_NULL | MR_FAST,
            ..good
        },
    ] {
        let Failed { status, .. } = guest.register(&mut w, &bad).expect_err("refused");
        assert_eq!(status, AdminStatus::BAD_FIELD, "{bad:?}");
    }
    guest.register(&mut w, &good).expect("a null region");
}
