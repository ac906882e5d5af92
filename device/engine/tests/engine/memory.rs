// SPDX-License-Identifier: MIT OR Apache-2.0
//! H6: regions of every page size, in any order of pages, at any address.

use crate::way;
use verbena_engine::testing::{Mr, Pair, SendWr, RAM_BASE};
use verbena_hw::cmd::CreateMrReq;
use verbena_hw::cqe::Status;
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::Sge;

const RIGHTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;

/// Registers the pages, in this order, as one region of b's.
fn from_pages(pair: &mut Pair, pages: &[u64], shift: u8, first_offset: u64, iova: u64, len: u64, rights: u32) -> Mr {
    let w = &mut pair.world;
    let list = w.ram_mut(pair.b.guest.hca).alloc(pages.len() * 8);
    let entries: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    w.ram(pair.b.guest.hca).write(list, &entries);
    let req = CreateMrReq {
        pages: PageList {
            page_shift: shift,
            ..PageList::indirect(list, pages.len() as u32)
        },
        iova,
        len,
        first_offset,
        pdn: pair.b.guest.pdn,
        access: rights,
        flags: 0,
        reserved: 0,
    };
    pair.b.guest.register(w, &req).expect("a region")
}

#[test]
fn h06_pages_in_any_order() {
    let mut pair = way::connected();
    let base = pair.world.ram_mut(pair.b.guest.hca).alloc(64 * 4096);
    // Reversed, with two that happen to be adjacent, and one page twice.
    let order: Vec<u64> = [9, 8, 20, 21, 22, 3, 0, 40, 3, 41].map(|i| base + i * 4096).to_vec();
    let mr = from_pages(&mut pair, &order, 12, 100, 0x1234_5064, 9 * 4096, RIGHTS);
    let w = &mut pair.world;
    let data: Vec<u8> = (0..9u32 * 4096).map(|i| ((i * 7) >> 5) as u8).collect();
    pair.a.fill(w, 0, &data);
    // Without the page that is there twice, which would be overwritten.
    let upto = 8 * 4096 - 100;
    let wr = SendWr::write(1, &[pair.a.sge(0, upto)], mr.addr, mr.rkey);
    pair.a.post(w, wr);
    let wr = SendWr::read(2, &[pair.a.sge(1 << 20, upto)], mr.addr, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.cq.drain(w).iter().map(|c| c.status).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(pair.a.bytes(w, 1 << 20, upto as usize), data[..upto as usize]);
    // And in memory they are where the list says.
    let ram = w.ram(pair.b.guest.hca);
    let mut at = 0;
    for (i, page) in order[..8].iter().enumerate() {
        let (skip, n) = if i == 0 { (100, 3996) } else { (0, 4096) };
        assert_eq!(ram.read(page + skip, n), data[at..at + n], "page {i}");
        at += n;
    }
}

#[test]
fn h06_large_pages() {
    for (shift, size) in [(21u8, 2u64 << 20), (30, 1 << 30)] {
        let mut pair = way::connected();
        let hca = pair.b.guest.hca;
        // Two of them, far apart. (Memory that is never touched costs nothing.)
        let pages = [8 * size, 4 * size];
        for page in pages {
            pair.world.ram_mut(hca).map(page, size as usize, true);
        }
        let mr = from_pages(&mut pair, &pages, shift, size - 10, 0, 20, RIGHTS | access::ZERO_BASED);
        let w = &mut pair.world;
        pair.a.fill(w, 0, b"0123456789abcdefghij");
        let wr = SendWr::write(1, &[pair.a.sge(0, 20)], 0, mr.rkey);
        pair.a.post(w, wr);
        w.run();
        assert_eq!(pair.a.completion(w).status, 0);
        assert_eq!(w.ram(hca).read(pages[0] + size - 10, 10), b"0123456789");
        assert_eq!(w.ram(hca).read(pages[1], 10), b"abcdefghij");
    }
}

#[test]
fn h06_a_region_over_several_mappings() {
    // One contiguous region, whose memory is two mappings that are adjacent only in DMA addresses.
    let mut pair = way::connected();
    let hca = pair.b.guest.hca;
    let w = &mut pair.world;
    for at in [0x9000_0000, 0x9000_2000] {
        w.ram_mut(hca).map(at, 8192, true);
    }
    let mr = pair.b.guest.mr(w, 0x9000_0000, 16384, RIGHTS).expect("a region");
    let data: Vec<u8> = (0..16384u32).map(|i| (i / 3) as u8).collect();
    pair.a.fill(w, 0, &data);
    let wr = SendWr::write(1, &[pair.a.sge(0, 16384)], mr.addr, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(w.ram(hca).read(0x9000_0000, 16384), data);
}

#[test]
fn h06_zero_based_addresses() {
    let mut pair = way::connected();
    let page = pair.world.ram_mut(pair.b.guest.hca).alloc(4096);
    let mr = from_pages(&mut pair, &[page], 12, 16, 0, 100, RIGHTS | access::ZERO_BASED);
    let w = &mut pair.world;
    pair.a.fill(w, 0, b"zero");
    let wr = SendWr::write(1, &[pair.a.sge(0, 4)], 96, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(w.ram(pair.b.guest.hca).read(page + 112, 4), b"zero");
    let wr = SendWr::write(2, &[pair.a.sge(0, 4)], 97, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_a_region_at_the_end_of_the_address_space() {
    let mut pair = way::connected();
    let page = pair.world.ram_mut(pair.b.guest.hca).alloc(4096);
    let iova = u64::MAX - 4095;
    let mr = from_pages(&mut pair, &[page], 12, 0, iova, 4096, RIGHTS);
    let w = &mut pair.world;
    pair.a.fill(w, 0, b"end");
    let wr = SendWr::write(1, &[pair.a.sge(0, 3)], u64::MAX - 2, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(w.ram(pair.b.guest.hca).read(page + 4093, 3), b"end");
    let wr = SendWr::write(2, &[pair.a.sge(0, 4)], u64::MAX - 2, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::REM_ACCESS_ERR);
}

#[test]
fn h06_read_only_memory_can_be_registered_for_reading_only() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let hca = pair.b.guest.hca;
    w.ram_mut(hca).map(0x9000_0000, 4096, false);
    assert!(pair.b.guest.mr(w, 0x9000_0000, 4096, RIGHTS).is_err());
    let mr = pair
        .b
        .guest
        .mr(w, 0x9000_0000, 4096, access::REMOTE_READ)
        .expect("a region");
    let wr = SendWr::read(1, &[pair.a.sge(0, 64)], mr.addr, mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
}

#[test]
fn h06_a_key_dies_with_its_region() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let at = w.ram_mut(pair.a.guest.hca).alloc(4096);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let mr = pair.a.guest.mr(w, at, 4096, RIGHTS).expect("a region");
        assert_eq!(mr.lkey, mr.rkey);
        assert!(seen.insert(mr.lkey), "no key comes again soon");
        pair.a
            .guest
            .destroy(w, verbena_hw::admin::Opcode::DESTROY_MR, mr.lkey.index())
            .expect("gone");
    }
    let stale = Sge {
        addr: at,
        len: 8,
        lkey: *seen.iter().next().expect("a key"),
    };
    pair.a
        .post(w, SendWr::write(1, &[stale], pair.b.addr(0), pair.b.rkey()));
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::LOC_PROT_ERR);
}

#[test]
fn h06_a_region_without_remote_rights_has_no_rkey() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let mr = pair
        .a
        .guest
        .mr(w, RAM_BASE, 4096, access::LOCAL_WRITE)
        .expect("a region");
    assert_ne!(mr.lkey.0, 0);
    assert_eq!(mr.rkey.0, 0);
}

#[test]
fn h06_rings_on_scattered_pages() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    // A send ring of 64 KiB on pages in reverse order.
    let base = w.ram_mut(hca).alloc(16 * 4096);
    let list = w.ram_mut(hca).alloc(4096);
    for i in 0..16u64 {
        w.ram(hca).write(list + i * 8, &(base + (15 - i) * 4096).to_le_bytes());
    }
    let g = &mut pair.a.guest;
    let mut req = g.qp_request(w, &pair.a.cq, &pair.a.cq, Default::default());
    req.sq = PageList::indirect(list, 16);
    let scattered = g.create_qp(w, &req).expect("a queue pair");
    let mut contiguous = core::mem::replace(&mut pair.a.qp, scattered);
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    let (to_a, qpn_b) = ((pair.a.guest.gid(), pair.a.qp.qpn), pair.b.qp.qpn);
    pair.a.connect(w, to_b, (1, 1), |_| {});
    pair.b
        .guest
        .modify_state(w, qpn_b, verbena_hw::qp::QpState::RESET)
        .expect("reset");
    pair.b.connect(w, to_a, (1, 1), |_| {});
    // Post into a contiguous image, then lay its pages out as the list says.
    contiguous.sq = w.ram_mut(hca).alloc(16 * 4096);
    for i in 0..64 {
        let wr = SendWr::write(i, &[], pair.b.addr(8 * i), pair.b.rkey()).inline(&i.to_le_bytes());
        contiguous.post_quietly(w, wr);
    }
    for i in 0..16u64 {
        let page = w.ram(hca).read(contiguous.sq + i * 4096, 4096);
        w.ram(hca).write(base + (15 - i) * 4096, &page);
    }
    pair.a.qp.ring(w);
    w.run();
    assert_eq!(pair.a.cq.drain(w).len(), 64);
    for i in 0..64u64 {
        assert_eq!(pair.b.bytes(w, 8 * i, 8), i.to_le_bytes());
    }
}
