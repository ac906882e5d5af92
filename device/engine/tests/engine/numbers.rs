// SPDX-License-Identifier: MIT OR Apache-2.0
//! H3 and H14: numbers that name nothing any more, or something of another guest's, in every command that takes one; and
//! another guest's memory.

use verbena_engine::testing::{End, Failed, Guest, QpShape, SendWr, World};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::*;
use verbena_hw::cqe::{vendor, Status as CqeStatus};
use verbena_hw::id::{Cqn, Eqn, Gid, Pdn, Qpn, Srqn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::{access, QpType};
use verbena_hw::regs;
use verbena_hw::ring::PageList;
use zerocopy::{FromZeros, Immutable, IntoBytes};

fn failed<T>(status: Status, detail: usize) -> Result<T, Failed> {
    Err(Failed {
        status,
        detail: detail as u32,
    })
}

/// What a guest has made: which object, the commands that ask about it and end it, and its number.
type Made = (&'static str, [Opcode; 2], u32);

/// One object of each kind, so that other numbers are used than a fresh guest's.
fn one_of_each(w: &mut World, end: &mut End, extra: u32) -> Vec<Made> {
    let hca = end.guest.hca;
    let g = &mut end.guest;
    let mut made = Vec::new();
    for round in 0..=extra {
        let keep = round == extra;
        let mut add = |kind, opcodes, handle| {
            if keep {
                made.push((kind, opcodes, handle));
            }
        };
        let pdn = g.create(w, Opcode::CREATE_PD, &[0u8; 0]).expect("a domain");
        add("domain", [Opcode::QUERY_PD, Opcode::DESTROY_PD], pdn);
        let xrcdn = g.xrcd(w);
        let of_xrcd = [Opcode::QUERY_XRCD, Opcode::DESTROY_XRCD];
        add("XRC domain", of_xrcd, xrcdn);
        let addr = w.ram_mut(hca).alloc(4096);
        let page = g
            .create(w, Opcode::CREATE_DOORBELL, &CreateDoorbellReq { addr })
            .expect("a page");
        let of_page = [Opcode::QUERY_DOORBELL, Opcode::DESTROY_DOORBELL];
        add("doorbell page", of_page, page);
        let req = CreateEqReq {
            ring: PageList::direct(addr, 4096),
            log_entries: 7,
            async_default: 0,
            vector: 3,
            reserved: [0; 3],
        };
        let eqn = g.create(w, Opcode::CREATE_EQ, &req).expect("a queue");
        add("event queue", [Opcode::QUERY_EQ, Opcode::DESTROY_EQ], eqn);
        let cq = g.cq(w, 4);
        add("completion queue", [Opcode::QUERY_CQ, Opcode::DESTROY_CQ], cq.cqn.get());
        let mr = g.mr(w, addr, 4096, access::LOCAL_WRITE).expect("a region");
        add("region", [Opcode::QUERY_MR, Opcode::DESTROY_MR], mr.lkey.index());
        let req = CreateMwReq {
            pdn: g.pdn,
            mw_type: MwType::TYPE_1,
            reserved: [0; 3],
        };
        let mw: CreateMwRsp = g.command(w, Opcode::CREATE_MW, &req).expect("a window");
        add("window", [Opcode::QUERY_MW, Opcode::DESTROY_MW], mw.rkey.index());
        let req = g.srq_request(w, 3);
        let srq = g.create_srq(w, &req).expect("a queue");
        let of_srq = [Opcode::QUERY_SRQ, Opcode::DESTROY_SRQ];
        add("shared receive queue", of_srq, srq.srqn.get());
        let mut req = g.qp_request(w, &cq, &cq, QpShape::default());
        req.qp_type = QpType::RAW;
        let qp = g.create_qp(w, &req).expect("a queue pair");
        add("queue pair", [Opcode::QUERY_QP, Opcode::DESTROY_QP], qp.qpn.get());
        let mut req = CreateFlowReq {
            qpn: qp.qpn,
            port: 1,
            flow_type: verbena_hw::flow::FlowType::NORMAL,
            priority: round as u16,
            ..CreateFlowReq::new_zeroed()
        };
        (req.value.dmac, req.mask.dmac) = ([2, 0, 0, 0, 0, 1], [0xff; 6]);
        let flow = g.create(w, Opcode::CREATE_FLOW, &req).expect("a rule");
        add("flow rule", [Opcode::QUERY_FLOW, Opcode::DESTROY_FLOW], flow);
        let set = g.create(w, Opcode::CREATE_COUNTER, &[0u8; 0]).expect("a set");
        add("counter set", [Opcode::QUERY_COUNTER, Opcode::DESTROY_COUNTER], set);
    }
    made
}

#[test]
fn h14_numbers_of_every_kind_of_object_of_another_guest_name_nothing() {
    let mut w = World::new(1);
    let shape = QpShape::default();
    let (mut owner, mut other) = (End::new(&mut w, shape, 4), End::new(&mut w, shape, 4));
    let made = one_of_each(&mut w, &mut owner, 3);
    assert_eq!(made.len(), 11);
    for (kind, opcodes, handle) in &made {
        for opcode in opcodes {
            let r = other.guest.destroy(&mut w, *opcode, *handle);
            assert_eq!(r, failed(Status::NO_SUCH_OBJECT, 0), "{kind}: {opcode} {handle:#x}");
        }
    }
    // Nothing of it has touched the owner's.
    for (kind, [query, _], handle) in &made {
        assert_eq!(owner.guest.destroy(&mut w, *query, *handle), Ok(()), "{kind}");
    }
}

#[test]
fn h03_a_number_that_names_nothing_a_spoiled_request_and_an_object_that_is_gone() {
    let mut w = World::new(1);
    let mut end = End::new(&mut w, QpShape::default(), 4);
    let made = one_of_each(&mut w, &mut end, 0);
    let g = &mut end.guest;
    let w = &mut w;
    for (kind, opcodes, handle) in made.iter().rev() {
        for opcode in opcodes {
            for wrong in [handle + 0x1000, 0x00ff_ffff, u32::MAX] {
                let r = g.destroy(w, *opcode, wrong);
                assert_eq!(r, failed(Status::NO_SUCH_OBJECT, 0), "{kind}: {opcode} {wrong:#x}");
            }
            let req = HandleReq {
                handle: *handle,
                reserved: 1,
            };
            let r = g.command::<[u8; 0]>(w, *opcode, &req).map(drop);
            assert_eq!(r, failed(Status::RESERVED_FIELD, 4), "{kind}: {opcode}");
            let mut behind = [0u8; 9];
            behind[..4].copy_from_slice(&handle.to_le_bytes());
            behind[8] = 1;
            let r = g.command::<[u8; 0]>(w, *opcode, &behind).map(drop);
            assert_eq!(r, failed(Status::RESERVED_FIELD, 8), "{kind}: {opcode}");
        }
        let [query, destroy] = *opcodes;
        assert_eq!(g.destroy(w, query, *handle), Ok(()), "{kind}");
        assert_eq!(g.destroy(w, destroy, *handle), Ok(()), "{kind}");
        assert_eq!(
            g.destroy(w, query, *handle),
            failed(Status::NO_SUCH_OBJECT, 0),
            "{kind}: gone"
        );
    }
    // The queue doorbell of an event queue that is gone is ignored, and counted.
    let before = w.read_reg(g.hca, regs::ACCESS_ERRORS, 4);
    w.write_reg(g.hca, regs::eq_db(63), 4, 0);
    assert_eq!(w.read_reg(g.hca, regs::ACCESS_ERRORS, 4), before + 1);
}

/// A request, and where the number in it is that is somebody else's.
fn refused(w: &mut World, g: &mut Guest, opcode: Opcode, request: &(impl IntoBytes + Immutable), at: usize) {
    let r = g.command::<[u8; 0]>(w, opcode, request).map(drop);
    assert_eq!(r, failed(Status::NO_SUCH_OBJECT, at), "{opcode}, the field at {at}");
}

macro_rules! at {
    ($t:ty, $f:ident) => {
        core::mem::offset_of!($t, $f)
    };
}

#[test]
fn h14_requests_that_name_objects_of_another_guest_are_refused() {
    let mut w = World::new(1);
    let w = &mut w;
    let shape = QpShape::default();
    let (mut owner, mut other) = (End::new(w, shape, 4), End::new(w, shape, 4));
    let made = one_of_each(w, &mut owner, 3);
    let number = |kind: &str| {
        let found = made.iter().find(|made| made.0 == kind);
        found.expect("it was made").2
    };
    let (pdn, eqn) = (Pdn(number("domain")), Eqn(number("event queue")));
    let cqn = Cqn::truncate(number("completion queue"));
    let srqn = Srqn::truncate(number("shared receive queue"));
    let qpn = Qpn::truncate(number("queue pair"));
    let (xrcdn, page) = (number("XRC domain"), number("doorbell page"));
    let (region, window) = (number("region"), number("window"));
    let lkey = owner.mr.lkey;

    let (g, cq) = (&mut other.guest, &other.cq);
    let good = g.qp_request(w, cq, cq, shape);
    for (request, at) in [
        (CreateQpReq { pdn, ..good }, at!(CreateQpReq, pdn)),
        (CreateQpReq { send_cqn: cqn, ..good }, at!(CreateQpReq, send_cqn)),
        (CreateQpReq { recv_cqn: cqn, ..good }, at!(CreateQpReq, recv_cqn)),
        (CreateQpReq { eqn, ..good }, at!(CreateQpReq, eqn)),
        (CreateQpReq { doorbell: page, ..good }, at!(CreateQpReq, doorbell)),
        (g.target_request(xrcdn), at!(CreateQpReq, xrcdn)),
        (
            CreateQpReq {
                srqn,
                rq: PageList::default(),
                rq_log_entries: 0,
                rq_log_stride: 0,
                max_recv_sge: 0,
                ..good
            },
            at!(CreateQpReq, srqn),
        ),
    ] {
        refused(w, g, Opcode::CREATE_QP, &request, at);
    }
    let good = g.srq_request(w, 3);
    let own_xrcd = g.xrcd(w);
    let xrc = g.xrc_srq_request(w, 3, own_xrcd, cq);
    for (request, at) in [
        (CreateSrqReq { pdn, ..good }, at!(CreateSrqReq, pdn)),
        (CreateSrqReq { eqn, ..good }, at!(CreateSrqReq, eqn)),
        (CreateSrqReq { cqn, ..xrc }, at!(CreateSrqReq, cqn)),
        (CreateSrqReq { xrcdn, ..xrc }, at!(CreateSrqReq, xrcdn)),
    ] {
        refused(w, g, Opcode::CREATE_SRQ, &request, at);
    }
    let memory = w.ram_mut(g.hca).alloc(4096);
    let ring = PageList::direct(memory, 4096);
    let request = CreateCqReq {
        ring,
        record: memory,
        eqn,
        log_entries: 4,
        ..CreateCqReq::new_zeroed()
    };
    refused(w, g, Opcode::CREATE_CQ, &request, at!(CreateCqReq, eqn));
    let request = ModifyCqReq {
        cqn,
        ..ModifyCqReq::new_zeroed()
    };
    refused(w, g, Opcode::MODIFY_CQ, &request, at!(ModifyCqReq, cqn));
    let request = ModifySrqReq {
        srqn,
        ..ModifySrqReq::new_zeroed()
    };
    refused(w, g, Opcode::MODIFY_SRQ, &request, at!(ModifySrqReq, srqn));
    let request = ModifyQpReq {
        qpn,
        mask: 1,
        ..ModifyQpReq::new_zeroed()
    };
    refused(w, g, Opcode::MODIFY_QP, &request, at!(ModifyQpReq, qpn));
    let request = CreateMrReq {
        pages: ring,
        iova: memory,
        len: 4096,
        pdn,
        access: access::LOCAL_WRITE,
        ..CreateMrReq::new_zeroed()
    };
    refused(w, g, Opcode::CREATE_MR, &request, at!(CreateMrReq, pdn));
    let mut request = ModifyMrReq {
        index: region,
        mask: mr_modify::ACCESS,
        access: access::LOCAL_WRITE,
        ..ModifyMrReq::new_zeroed()
    };
    refused(w, g, Opcode::MODIFY_MR, &request, at!(ModifyMrReq, index));
    (request.index, request.mask, request.pdn) = (other.mr.lkey.index(), mr_modify::PD, pdn);
    refused(w, g, Opcode::MODIFY_MR, &request, at!(ModifyMrReq, pdn));
    refused(
        w,
        g,
        Opcode::REVOKE_MR,
        &HandleReq {
            handle: region,
            reserved: 0,
        },
        0,
    );
    let request = CreateMwReq {
        pdn,
        mw_type: MwType::TYPE_1,
        reserved: [0; 3],
    };
    refused(w, g, Opcode::CREATE_MW, &request, at!(CreateMwReq, pdn));
    let mut request = BindMwReq {
        addr: owner.mr.addr,
        len: 8,
        index: window,
        lkey,
        access: access::REMOTE_READ,
        ..BindMwReq::new_zeroed()
    };
    refused(w, g, Opcode::BIND_MW, &request, 0);
    // An own window on somebody else's region.
    let own = CreateMwReq {
        pdn: g.pdn,
        mw_type: MwType::TYPE_1,
        reserved: [0; 3],
    };
    let own: CreateMwRsp = g.command(w, Opcode::CREATE_MW, &own).expect("a window");
    request.index = own.rkey.index();
    let r = g.command::<[u8; 0]>(w, Opcode::BIND_MW, &request).map(drop);
    assert_eq!(r, failed(Status::BIND_REFUSED, vendor::KEY_UNKNOWN as usize));
    let gid = Gid::from_ipv4([239, 1, 2, 3]);
    for opcode in [Opcode::ATTACH_MCAST, Opcode::DETACH_MCAST, Opcode::QUERY_MCAST] {
        let request = McastReq { qpn, reserved: 0, gid };
        refused(w, g, opcode, &request, at!(McastReq, qpn));
    }
    let request = CreateFlowReq {
        qpn,
        port: 1,
        flow_type: verbena_hw::flow::FlowType::NORMAL,
        ..CreateFlowReq::new_zeroed()
    };
    refused(w, g, Opcode::CREATE_FLOW, &request, at!(CreateFlowReq, qpn));
    let mut request = BindCounterReq { qpn, counter: 0 };
    refused(w, g, Opcode::BIND_COUNTER, &request, at!(BindCounterReq, qpn));
    (request.qpn, request.counter) = (other.qp.qpn, number("counter set"));
    refused(w, g, Opcode::BIND_COUNTER, &request, at!(BindCounterReq, counter));
    for (select, number) in [
        (DUMP_QP, qpn.get()),
        (DUMP_CQ, cqn.get()),
        (DUMP_MR, region),
        (DUMP_SRQ, srqn.get()),
    ] {
        let request = DumpReq {
            pages: ring,
            len: 4096,
            select,
            number,
        };
        refused(w, g, Opcode::DUMP, &request, at!(DumpReq, number));
    }
    // Nothing of it has touched the owner's.
    for (kind, [query, _], handle) in &made {
        assert_eq!(owner.guest.destroy(w, *query, *handle), Ok(()), "{kind}");
    }
}

#[test]
fn h14_memory_of_another_guest_is_not_there() {
    let mut w = World::new(1);
    let w = &mut w;
    let shape = QpShape::default();
    let (owner, mut other) = (End::new(w, shape, 4), End::new(w, shape, 4));
    // Where only the owner has memory.
    const THERE: u64 = 0xb000_0000;
    w.ram_mut(owner.guest.hca).map(THERE, 1 << 16, true);
    w.ram(owner.guest.hca).write(THERE, &[0x5a; 4096]);
    let g = &mut other.guest;
    let list = w.ram_mut(g.hca).alloc(4096);
    w.ram(g.hca).write(list, &THERE.to_le_bytes());
    let unreachable = |w: &mut World, g: &mut Guest, opcode, request: &CreateMrReq| {
        let r = g.command::<[u8; 0]>(w, opcode, request).map(drop);
        assert_eq!(r, failed(Status::BAD_ADDRESS, at!(CreateMrReq, pages)));
    };
    for pages in [
        PageList::direct(THERE, 4096),
        PageList::indirect(list, 1),
        // The list itself.
        PageList::indirect(THERE, 1),
    ] {
        let request = CreateMrReq {
            pages,
            iova: 0,
            len: 4096,
            pdn: g.pdn,
            access: access::LOCAL_WRITE,
            ..CreateMrReq::new_zeroed()
        };
        unreachable(w, g, Opcode::CREATE_MR, &request);
        let request = CreateEqReq {
            ring: pages,
            log_entries: 7,
            vector: 3,
            ..CreateEqReq::new_zeroed()
        };
        let r = g.create(w, Opcode::CREATE_EQ, &request);
        assert_eq!(r, failed(Status::BAD_ADDRESS, at!(CreateEqReq, ring)));
        let request = DumpReq {
            pages,
            len: 4096,
            select: DUMP_ALL,
            number: 0,
        };
        let r = g.command::<[u8; 0]>(w, Opcode::DUMP, &request).map(drop);
        assert_eq!(r, failed(Status::BAD_ADDRESS, at!(DumpReq, pages)));
    }
    let r = g.create(w, Opcode::CREATE_DOORBELL, &CreateDoorbellReq { addr: THERE });
    assert_eq!(r, failed(Status::BAD_ADDRESS, 0));
    // All memory of one's own is not the others'.
    let request = CreateMrReq {
        pdn: g.pdn,
        flags: MR_DMA,
        access: access::LOCAL_WRITE,
        ..CreateMrReq::new_zeroed()
    };
    let all = g.register(w, &request).expect("all DMA addresses");
    let itself = (g.gid(), other.qp.qpn);
    other.connect(w, itself, (0, 0), |_| {});
    let part = verbena_hw::wqe::Sge {
        addr: THERE,
        len: 8,
        lkey: all.lkey,
    };
    let (addr, rkey) = (other.addr(0), other.rkey());
    other.post(w, SendWr::write(1, &[part], addr, rkey));
    w.run();
    let done = other.completion(w);
    assert_eq!(
        (CqeStatus(done.status), done.vendor_err),
        (CqeStatus::LOC_PROT_ERR, vendor::UNREACHABLE)
    );
    assert_eq!(w.ram(owner.guest.hca).read(THERE, 4096), [0x5a; 4096]);
}
