// SPDX-License-Identifier: MIT OR Apache-2.0
//! H3: the state of the objects that others stand on, by QUERY: what is in a domain, how far an event queue is, who uses a
//! doorbell page, who else is in a multicast group.

use verbena_engine::testing::{Failed, Guest, Pair, QpShape, SendWr, World};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::*;
use verbena_hw::id::{Gid, Pdn, Qpn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::{access, QpType};
use verbena_hw::ring::PageList;
use zerocopy::FromZeros;

fn guest() -> (World, Guest) {
    let mut w = World::new(1);
    let guest = Guest::start(&mut w, 16 << 20);
    (w, guest)
}

fn failed<T>(status: Status, detail: usize) -> Result<T, Failed> {
    Err(Failed {
        status,
        detail: detail as u32,
    })
}

/// Queue pairs, shared receive queues, regions, windows.
fn domain(w: &mut World, g: &mut Guest, pdn: Pdn) -> [u32; 4] {
    let rsp: QueryPdRsp = g.about(w, Opcode::QUERY_PD, pdn.0).expect("a domain");
    assert_eq!(rsp.reserved, [0; 4]);
    [rsp.qps, rsp.srqs, rsp.mrs, rsp.mws]
}

#[test]
fn h03_a_protection_domain_tells_what_is_in_it() {
    let (mut w, mut g) = guest();
    let (w, g) = (&mut w, &mut g);
    let pdn = g.pdn;
    assert_eq!(domain(w, g, pdn), [0; 4]);
    let cq = g.cq(w, 4);
    let req = g.qp_request(w, &cq, &cq, QpShape::default());
    let qp = g.create_qp(w, &req).expect("a queue pair");
    assert_eq!(domain(w, g, pdn), [1, 0, 0, 0]);
    let req = g.srq_request(w, 3);
    let srq = g.create_srq(w, &req).expect("a queue");
    assert_eq!(domain(w, g, pdn), [1, 1, 0, 0]);
    let at = w.ram_mut(g.hca).alloc(4096);
    let mr = g.mr(w, at, 4096, access::LOCAL_WRITE).expect("a region");
    let fast = CreateMrReq {
        len: 4,
        pdn,
        flags: MR_FAST,
        ..CreateMrReq::new_zeroed()
    };
    let fast = g.register(w, &fast).expect("a region of none yet");
    assert_eq!(domain(w, g, pdn), [1, 1, 2, 0]);
    let req = CreateMwReq {
        pdn,
        mw_type: MwType::TYPE_2,
        reserved: [0; 3],
    };
    let mw: CreateMwRsp = g.command(w, Opcode::CREATE_MW, &req).expect("a window");
    assert_eq!(domain(w, g, pdn), [1, 1, 2, 1]);
    // As many as IN_USE says.
    assert_eq!(g.destroy(w, Opcode::DESTROY_PD, pdn.0), failed(Status::IN_USE, 5));
    // A region that moves is counted where it is.
    let other = Pdn(g.create(w, Opcode::CREATE_PD, &[0u8; 0]).expect("another"));
    let req = ModifyMrReq {
        index: mr.lkey.index(),
        mask: mr_modify::PD,
        pdn: other,
        ..ModifyMrReq::new_zeroed()
    };
    let moved: CreateMrRsp = g.command(w, Opcode::MODIFY_MR, &req).expect("moved");
    assert_eq!(domain(w, g, pdn), [1, 1, 1, 1]);
    assert_eq!(domain(w, g, other), [0, 0, 1, 0]);
    for (opcode, handle) in [
        (Opcode::DESTROY_QP, qp.qpn.get()),
        (Opcode::DESTROY_SRQ, srq.srqn.get()),
        (Opcode::DESTROY_MR, fast.lkey.index()),
        (Opcode::DESTROY_MR, moved.lkey.index()),
        (Opcode::DESTROY_MW, mw.rkey.index()),
    ] {
        g.destroy(w, opcode, handle).expect("gone");
    }
    assert_eq!((domain(w, g, pdn), domain(w, g, other)), ([0; 4], [0; 4]));
}

#[test]
fn h03_a_registration_under_way_is_in_its_domain() {
    let (mut w, mut g) = guest();
    let count = 1u32 << 18;
    let list = w.ram_mut(g.hca).alloc(count as usize * 8);
    let page = w.ram_mut(g.hca).alloc(4096);
    let entries: Vec<u8> = (0..count).flat_map(|_| page.to_le_bytes()).collect();
    w.ram(g.hca).write(list, &entries);
    let req = CreateMrReq {
        pages: PageList::indirect(list, count),
        len: u64::from(count) * 4096,
        pdn: g.pdn,
        ..CreateMrReq::new_zeroed()
    };
    let query = HandleReq {
        handle: g.pdn.0,
        reserved: 0,
    };
    g.submit(&mut w, Opcode::CREATE_MR, &req, 1);
    g.submit(&mut w, Opcode::QUERY_PD, &query, 2);
    w.run();
    let answer = g.reap(&mut w).expect("the domain's");
    assert_eq!((answer.id, answer.payload[8]), (2, 1), "one region, on its way");
    let answer = g.reap(&mut w).expect("the region's");
    assert_eq!((answer.id, answer.status), (1, Status::OK));
}

#[test]
fn h03_an_xrc_domain_tells_what_is_in_it() {
    let (mut w, mut g) = guest();
    let (w, g) = (&mut w, &mut g);
    let xrcdn = g.xrcd(w);
    let query = |w: &mut World, g: &mut Guest| {
        let rsp: QueryXrcdRsp = g.about(w, Opcode::QUERY_XRCD, xrcdn).expect("a domain");
        (rsp.srqs, rsp.targets)
    };
    assert_eq!(query(w, g), (0, 0));
    let cq = g.cq(w, 4);
    let req = g.xrc_srq_request(w, 3, xrcdn, &cq);
    let srq = g.create_srq(w, &req).expect("a queue");
    // Of no domain.
    let req = g.srq_request(w, 3);
    g.create_srq(w, &req).expect("a basic queue");
    let targets = [0, 1].map(|_| g.create_qp(w, &g.target_request(xrcdn)).expect("a target").qpn);
    assert_eq!(query(w, g), (1, 2));
    assert_eq!(g.destroy(w, Opcode::DESTROY_XRCD, xrcdn), failed(Status::IN_USE, 3));
    g.destroy(w, Opcode::DESTROY_SRQ, srq.srqn.get()).expect("gone");
    assert_eq!(query(w, g), (0, 2));
    for qpn in targets {
        g.destroy(w, Opcode::DESTROY_QP, qpn.get()).expect("gone");
    }
    assert_eq!(query(w, g), (0, 0));
}

#[test]
fn h03_an_event_queue_tells_how_far_it_is() {
    let (mut w, mut g) = guest();
    let (w, g) = (&mut w, &mut g);
    let query =
        |w: &mut World, g: &mut Guest, eqn| g.about::<QueryEqRsp>(w, Opcode::QUERY_EQ, eqn).expect("an event queue");
    let ring = w.ram_mut(g.hca).alloc(4096);
    let req = CreateEqReq {
        ring: PageList::direct(ring, 4096),
        log_entries: 7,
        async_default: 0,
        vector: 9,
        reserved: [0; 3],
    };
    let other = g.create(w, Opcode::CREATE_EQ, &req).expect("another");
    let new = QueryEqRsp {
        entries: 128,
        vector: 9,
        ..QueryEqRsp::new_zeroed()
    };
    assert_eq!(query(w, g, other), new);
    let own = query(w, g, g.eqn.0);
    assert_eq!((own.async_default, own.vector, own.armed, own.users), (1, 1, 0, 0));
    g.arm_events(w);
    g.cq(w, 4);
    let own = query(w, g, g.eqn.0);
    assert_eq!((own.armed, own.users, own.raised), (1, 1, 0));
    // More changes of the GID table than the ring has room for: those that wait are one, they say the same.
    let entries = own.entries;
    for n in 0..entries + 3 {
        let req = SetGidReq {
            index: 1,
            reserved: 0,
            gid: Gid::from_ipv4([10, 0, (n >> 8) as u8, n as u8]),
        };
        g.command::<[u8; 0]>(w, Opcode::SET_GID, &req).expect("set");
    }
    let own = query(w, g, g.eqn.0);
    assert_eq!((own.armed, own.producer, own.consumer), (0, entries, 0));
    assert_eq!((own.waiting, own.raised), (1, u64::from(entries) + 3));
    assert_eq!(g.events(w).len() as u32, entries + 1);
    let own = query(w, g, g.eqn.0);
    assert_eq!((own.waiting, own.producer, own.consumer), (0, entries + 1, entries + 1));
    // The same as the dump says.
    let dump = w.engine.dump(Some(g.hca), w.now, &w.env);
    assert_eq!(dump.hcas[0].eqs[0].raised, own.raised);
    assert_eq!(query(w, g, other), new, "and the other one has had none");
}

#[test]
fn h03_a_doorbell_page_tells_who_uses_it() {
    let mut pair = Pair::connected();
    let (page, index) = (pair.a.guest.doorbell_page, pair.a.guest.doorbell);
    let query = |pair: &mut Pair| {
        let rsp: QueryDoorbellRsp = pair
            .a
            .guest
            .about(&mut pair.world, Opcode::QUERY_DOORBELL, index)
            .expect("a page");
        assert_eq!(rsp.addr, page);
        (rsp.users, rsp.watched)
    };
    assert_eq!(query(&mut pair), (1, 0));
    // A queue that was busy is watched.
    let wr = SendWr::write(1, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(&mut pair.world, wr);
    pair.world.run();
    assert_eq!(query(&mut pair), (1, 1));
    let qpn = pair.a.qp.qpn.get();
    let (w, g) = (&mut pair.world, &mut pair.a.guest);
    g.destroy(w, Opcode::DESTROY_QP, qpn).expect("gone");
    assert_eq!(query(&mut pair), (0, 0));
}

#[test]
fn h03_an_attachment_tells_who_else_of_the_hca_is_in_the_group() {
    let mut w = World::new(1);
    let (mut g, mut stranger) = (Guest::start(&mut w, 4 << 20), Guest::start(&mut w, 4 << 20));
    let w = &mut w;
    let datagram = |w: &mut World, g: &mut Guest| {
        let cq = g.cq(w, 4);
        let mut req = g.qp_request(w, &cq, &cq, QpShape::default());
        req.qp_type = QpType::UD;
        g.create_qp(w, &req).expect("a queue pair").qpn
    };
    let (a, b, c) = (datagram(w, &mut g), datagram(w, &mut g), datagram(w, &mut stranger));
    let gid = Gid::from_ipv4([239, 1, 2, 3]);
    let request = |qpn| McastReq { qpn, reserved: 0, gid };
    for (g, qpn) in [(&mut g, a), (&mut stranger, c)] {
        g.command::<[u8; 0]>(w, Opcode::ATTACH_MCAST, &request(qpn))
            .expect("in");
    }
    let query = |w: &mut World, g: &mut Guest, qpn: Qpn| {
        g.command::<QueryMcastRsp>(w, Opcode::QUERY_MCAST, &request(qpn))
            .map(|rsp| rsp.members)
    };
    // Another guest's members are not counted: what it listens to is its business.
    assert_eq!(query(w, &mut g, a), Ok(1));
    let gid_at = core::mem::offset_of!(McastReq, gid);
    assert_eq!(query(w, &mut g, b), failed(Status::NO_SUCH_OBJECT, gid_at));
    g.command::<[u8; 0]>(w, Opcode::ATTACH_MCAST, &request(b)).expect("in");
    assert_eq!(query(w, &mut g, b), Ok(2));
    g.command::<[u8; 0]>(w, Opcode::DETACH_MCAST, &request(a)).expect("out");
    assert_eq!(query(w, &mut g, a), failed(Status::NO_SUCH_OBJECT, gid_at));
    assert_eq!((query(w, &mut g, b), query(w, &mut stranger, c)), (Ok(1), Ok(1)));
    let nobody = query(w, &mut g, Qpn::truncate(0x00ff_ffff));
    assert_eq!(nobody, failed(Status::NO_SUCH_OBJECT, 0));
}
