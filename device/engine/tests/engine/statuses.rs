// SPDX-License-Identifier: MIT OR Apache-2.0
//! H3: every status of a command that the format names is produced here on purpose: a name that is added to the format fails
//! this until it has a scenario.

use std::collections::BTreeSet;
use verbena_engine::testing::{attrs, Failed, Guest, Pair, QpShape, World};
use verbena_hw::admin::{Command, Opcode, Status, LINK_BEGIN};
use verbena_hw::cmd::*;
use verbena_hw::flow::FlowType;
use verbena_hw::qp::{access, attr, QpAttrs, QpState, QpType};
use verbena_hw::ring::PageList;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// A status, and a command that ends so.
type Ending = (Status, fn(&mut World, &mut Guest) -> Result<(), Failed>);

const STATUSES: &[Ending] = &[
    (Status::OK, |w, g| send(w, g, Opcode::NOP, &[0u8; 0])),
    (Status::BAD_OPCODE, |w, g| send(w, g, Opcode(0x7777), &[0u8; 0])),
    (Status::BAD_FIELD, |w, g| {
        let req = ModifyPortReq { state: 2, reserved: 0 };
        send(w, g, Opcode::MODIFY_PORT, &req)
    }),
    (Status::RESERVED_FIELD, |w, g| {
        let req = QueryGidReq { index: 0, reserved: 1 };
        send(w, g, Opcode::QUERY_GID, &req)
    }),
    (Status::NO_SUCH_OBJECT, |w, g| g.destroy(w, Opcode::DESTROY_CQ, 0x1234)),
    (Status::IN_USE, |w, g| {
        g.cq(w, 4);
        let eqn = g.eqn.0;
        g.destroy(w, Opcode::DESTROY_EQ, eqn)
    }),
    (Status::LIMIT, |w, g| {
        let addr = w.ram_mut(g.hca).alloc(4096);
        let req = CreateDoorbellReq { addr };
        let mut made = || send(w, g, Opcode::CREATE_DOORBELL, &req);
        (0..10_000).find_map(|_| made().err()).map_or(Ok(()), Err)
    }),
    (Status::BAD_ADDRESS, |w, g| {
        send(w, g, Opcode::CREATE_DOORBELL, &CreateDoorbellReq { addr: 8 })
    }),
    (Status::BAD_PAGE_LIST, |w, g| {
        let mut req = region(w, g);
        req.pages.count = 0;
        send(w, g, Opcode::CREATE_MR, &req)
    }),
    (Status::BAD_TRANSITION, |w, g| {
        modify(w, g, attr::STATE, |a| a.state = QpState::RTS.0)
    }),
    (Status::MISSING_ATTRIBUTE, |w, g| {
        modify(w, g, attr::STATE, |a| a.state = QpState::INIT.0)
    }),
    (Status::FORBIDDEN_ATTRIBUTE, |w, g| {
        let (mask, init) = attrs::init();
        modify(w, g, mask | attr::SQ_PSN, |a| *a = init)
    }),
    (Status::SLOT_TAKEN, |w, g| {
        let cq = g.cq(w, 4);
        let req = g.qp_request(w, &cq, &cq, QpShape::default());
        g.create_qp(w, &req)?;
        g.create_qp(w, &req).map(drop)
    }),
    (Status::BUFFER_TOO_SMALL, |w, g| {
        let at = w.ram_mut(g.hca).alloc(4096);
        let req = DumpReq {
            pages: PageList::direct(at, 4096),
            len: 16,
            select: DUMP_ALL,
            number: 0,
        };
        send(w, g, Opcode::DUMP, &req)
    }),
    (Status::DUPLICATE_GID, |w, g| {
        let req = SetGidReq {
            index: 1,
            reserved: 0,
            gid: g.gid(),
        };
        send(w, g, Opcode::SET_GID, &req)
    }),
    (Status::BAD_GID_INDEX, |w, g| {
        let cq = g.cq(w, 4);
        let req = g.qp_request(w, &cq, &cq, QpShape::default());
        let qp = g.create_qp(w, &req)?;
        let (mask, init) = attrs::init();
        g.modify(w, qp.qpn, mask, init)?;
        let (mask, mut rtr) = attrs::rtr(g.gid(), qp.qpn, 0);
        rtr.path.sgid_index = 7;
        g.modify(w, qp.qpn, mask, rtr)
    }),
    (Status::QUEUE_FAILED, moderate_a_failed_queue),
    (Status::BIND_REFUSED, |w, g| {
        let req = region(w, g);
        let mr = g.register(w, &req)?;
        let window = CreateMwReq {
            pdn: g.pdn,
            mw_type: verbena_hw::mw::MwType::TYPE_1,
            ..CreateMwReq::new_zeroed()
        };
        let window: CreateMwRsp = g.command(w, Opcode::CREATE_MW, &window)?;
        let req = BindMwReq {
            addr: mr.addr,
            len: 8,
            index: window.rkey.index(),
            // The region does not let windows be bound.
            lkey: mr.lkey,
            access: access::REMOTE_READ,
            ..BindMwReq::new_zeroed()
        };
        send(w, g, Opcode::BIND_MW, &req)
    }),
    (Status::CANCELED, |w, g| {
        let linked = |id, opcode, flags| {
            let mut command = Command::new_zeroed();
            (command.opcode, command.id) = (opcode, id);
            (command.link, command.flags) = (1, flags);
            command
        };
        g.submit_raw(w, &linked(1, Opcode(0x7777), LINK_BEGIN));
        g.submit_raw(w, &linked(2, Opcode::NOP, 0));
        w.run();
        let answers: Vec<_> = core::iter::from_fn(|| g.reap(w)).collect();
        let last = answers.iter().find(|answer| answer.id == 2).expect("an answer");
        Err(Failed {
            status: last.status,
            detail: last.detail,
        })
    }),
    (Status::BAD_MATCH, |w, g| {
        let mut req = rule(w, g)?;
        req.value.hop_limit = 1;
        send(w, g, Opcode::CREATE_FLOW, &req)
    }),
    (Status::DUPLICATE_FLOW, |w, g| {
        let req = rule(w, g)?;
        send(w, g, Opcode::CREATE_FLOW, &req)?;
        send(w, g, Opcode::CREATE_FLOW, &req)
    }),
];

fn send(w: &mut World, g: &mut Guest, opcode: Opcode, req: &(impl IntoBytes + Immutable)) -> Result<(), Failed> {
    g.command::<[u8; 0]>(w, opcode, req).map(drop)
}

/// A region of a page, as it is asked for.
fn region(w: &mut World, g: &Guest) -> CreateMrReq {
    let at = w.ram_mut(g.hca).alloc(4096);
    CreateMrReq {
        pages: PageList::direct(at, 4096),
        iova: at,
        len: 4096,
        first_offset: 0,
        pdn: g.pdn,
        access: access::LOCAL_WRITE,
        flags: 0,
        reserved: 0,
    }
}

/// Changes a new queue pair, which is in RESET.
fn modify(w: &mut World, g: &mut Guest, mask: u32, tune: impl Fn(&mut QpAttrs)) -> Result<(), Failed> {
    let cq = g.cq(w, 4);
    let req = g.qp_request(w, &cq, &cq, QpShape::default());
    let qp = g.create_qp(w, &req)?;
    let mut attrs = QpAttrs::default();
    tune(&mut attrs);
    g.modify(w, qp.qpn, mask, attrs)
}

/// A rule for a queue pair of its own.
fn rule(w: &mut World, g: &mut Guest) -> Result<CreateFlowReq, Failed> {
    let cq = g.cq(w, 4);
    let mut req = g.qp_request(w, &cq, &cq, QpShape::default());
    req.qp_type = QpType::RAW;
    let qp = g.create_qp(w, &req)?;
    let mut rule = CreateFlowReq {
        qpn: qp.qpn,
        flow_type: FlowType::NORMAL,
        port: 1,
        ..CreateFlowReq::new_zeroed()
    };
    (rule.value.dmac, rule.mask.dmac) = ([2, 0, 0, 0, 0, 1], [0xff; 6]);
    Ok(rule)
}

/// A completion queue of two entries gets three.
fn moderate_a_failed_queue(_: &mut World, _: &mut Guest) -> Result<(), Failed> {
    let mut pair = Pair::with(QpShape::default(), 1, |_| {});
    for n in 0..3 {
        let wr = verbena_engine::testing::SendWr::write(n, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
        pair.a.post(&mut pair.world, wr);
    }
    pair.world.run();
    let req = ModifyCqReq {
        cqn: pair.a.cq.cqn,
        mask: verbena_hw::cqe::modify::MODERATION,
        count: 2,
        period_us: 1,
        ..ModifyCqReq::new_zeroed()
    };
    send(&mut pair.world, &mut pair.a.guest, Opcode::MODIFY_CQ, &req)
}

#[test]
fn h03_every_command_status_is_produced_on_purpose() {
    for (status, produce) in STATUSES {
        let mut w = World::new(1);
        let mut g = Guest::start(&mut w, 4 << 20);
        let ended = produce(&mut w, &mut g).map_or_else(|failed| failed.status, |()| Status::OK);
        assert_eq!(ended, *status);
    }
    let reached: BTreeSet<_> = STATUSES.iter().map(|row| row.0).collect();
    let all: BTreeSet<_> = Status::ALL.iter().map(|known| known.0).collect();
    assert_eq!(reached, all, "a status is not produced");
}
