// SPDX-License-Identifier: MIT OR Apache-2.0
//! H10: every completion status and every event that the format names is produced here on purpose, or is one that no service of
//! the device has: a name that is added to the format fails this until it has a scenario.
//!
//! By copy and over packets alike, but for the response that is wrong: only a packet can be.

use crate::way;
use core::time::Duration;
use std::collections::BTreeSet;
use verbena_engine::testing::{attrs, Guest, Pair, RecvWr, SendWr, World};
use verbena_hw::admin::Opcode as Admin;
use verbena_hw::cmd::{ModifyPortReq, ModifySrqReq, SetGidReq};
use verbena_hw::cqe::{CqRecord, Status};
use verbena_hw::eqe::{Eqe, Event};
use verbena_hw::id::{Gid, Key};
use verbena_hw::qp::{access, attr, QpAttrs, QpState};
use verbena_hw::regs;
use verbena_hw::ring::PageList;
use verbena_hw::srq;
use verbena_hw::wqe::{BindArgs, Sge};
use zerocopy::FromZeros;

/// A status, and what makes a work request end so.
type Ending = (Status, fn() -> Status);
/// An event, and what makes a guest be told.
type Telling = (Event, fn() -> Vec<Eqe>);

/// Statuses of services that the device does not have, and of faults that it does not tell from others.
const UNUSED: &[(Status, &str)] = &[
    (Status::LOC_EEC_OP_ERR, "of reliable datagrams"),
    (Status::REM_ABORT_ERR, "of reliable datagrams"),
    (Status::RESP_TIMEOUT_ERR, "of reliable datagrams"),
    (
        Status::LOC_ACCESS_ERR,
        "a receive that may not be written is LOC_PROT_ERR",
    ),
    (Status::FATAL_ERR, "a failed device completes nothing: DEVICE_FATAL"),
    (Status::GENERAL_ERR, "every other error has a name"),
];

/// Each status, and a work request that ends so.
const STATUSES: &[Ending] = &[
    (Status::SUCCESS, || ended(|pair| write(pair, 64))),
    (Status::LOC_LEN_ERR, || {
        ended(|pair| SendWr::fetch_add(1, pair.a.sge(0, 4), pair.b.addr(0), pair.b.rkey(), 1))
    }),
    (Status::LOC_QP_OP_ERR, || {
        ended(|_| {
            let mut wr = SendWr::send(1, &[]);
            wr.header.opcode = 99;
            wr
        })
    }),
    (Status::LOC_PROT_ERR, || {
        ended(|pair| {
            let lkey = Key(pair.a.mr.lkey.0 ^ 0x55);
            SendWr::send(
                1,
                &[Sge {
                    lkey,
                    ..pair.a.sge(0, 8)
                }],
            )
        })
    }),
    (Status::WR_FLUSH_ERR, || {
        let mut pair = way::connected();
        let (w, qpn) = (&mut pair.world, pair.a.qp.qpn);
        pair.a.guest.modify_state(w, qpn, QpState::ERR).expect("ERR");
        pair.a.post(w, SendWr::send(1, &[]));
        w.run();
        Status(pair.a.completion(w).status)
    }),
    (Status::MW_BIND_ERR, || {
        ended(|pair| {
            let args = BindArgs {
                len: 8,
                lkey: pair.a.mr.lkey,
                access: access::REMOTE_READ,
            };
            SendWr::bind(1, pair.a.mr.lkey, pair.a.addr(0), args)
        })
    }),
    (Status::REM_INV_REQ_ERR, || {
        ended(|pair| SendWr::fetch_add(1, pair.a.sge(0, 8), pair.b.addr(4), pair.b.rkey(), 1))
    }),
    (Status::REM_ACCESS_ERR, || {
        ended(|pair| SendWr::write(1, &[pair.a.sge(0, 8)], pair.b.addr(0), Key(pair.b.rkey().0 ^ 0x55)))
    }),
    (Status::REM_OP_ERR, || {
        ended(|pair| {
            let lkey = Key(7);
            let sge = Sge {
                lkey,
                ..pair.b.sge(0, 64)
            };
            pair.b.qp.post_recv(&pair.world, RecvWr::new(1, &[sge]));
            SendWr::send(1, &[pair.a.sge(0, 64)])
        })
    }),
    (Status::RETRY_EXC_ERR, || {
        ended(|pair| {
            let qpn = pair.b.qp.qpn.get();
            let gone = pair.b.guest.destroy(&mut pair.world, Admin::DESTROY_QP, qpn);
            gone.expect("gone");
            write(pair, 64)
        })
    }),
    (Status::RNR_RETRY_EXC_ERR, || ended(|_| SendWr::send(1, &[]))),
];

/// Each event, and what happens at a guest that it is told.
const EVENTS: &[Telling] = &[
    (Event::COMPLETION, || {
        let mut pair = way::connected();
        pair.a.cq.arm(&pair.world, CqRecord::ARM_ANY);
        let wr = write(&pair, 64);
        pair.a.post(&mut pair.world, wr);
        pair.world.run();
        pair.a.guest.events(&mut pair.world)
    }),
    (Event::CQ_ERR, || {
        let mut pair = way::pair(Default::default(), 2, |_| {});
        for _ in 0..5 {
            let wr = write(&pair, 64);
            pair.a.post(&mut pair.world, wr);
        }
        pair.world.run();
        pair.a.guest.events(&mut pair.world)
    }),
    (Event::QP_FATAL, || {
        let mut pair = way::connected();
        let w = &mut pair.world;
        w.ram_mut(pair.a.guest.hca).map(APART, 1 << 16, true);
        let mut req = pair.a.guest.qp_request(w, &pair.a.cq, &pair.a.cq, Default::default());
        req.sq.addr = APART;
        pair.a.qp = pair.a.guest.create_qp(w, &req).expect("a queue pair");
        let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
        pair.a.connect(w, to_b, (1, 1), |_| {});
        w.ram_mut(pair.a.guest.hca).unmap(APART);
        pair.a.qp.ring(w);
        w.run();
        pair.a.guest.events(w)
    }),
    (Event::QP_REQ_ERR, || {
        at_the_peer(|pair| SendWr::fetch_add(1, pair.a.sge(0, 8), pair.b.addr(4), pair.b.rkey(), 1))
    }),
    (Event::QP_ACCESS_ERR, || {
        at_the_peer(|pair| SendWr::write(1, &[pair.a.sge(0, 8)], pair.b.addr(0), Key(pair.b.rkey().0 ^ 0x55)))
    }),
    (Event::COMM_EST, || {
        let mut pair = way::connected();
        let (w, qpn) = (&mut pair.world, pair.b.qp.qpn);
        pair.b.guest.modify_state(w, qpn, QpState::RESET).expect("RESET");
        for (mask, attrs) in [attrs::init(), attrs::rtr(pair.a.guest.gid(), pair.a.qp.qpn, 0xff_fffe)] {
            pair.b.guest.modify(w, qpn, mask, attrs).expect("a transition");
        }
        let wr = write(&pair, 64);
        pair.a.post(&mut pair.world, wr);
        pair.world.run();
        pair.b.guest.events(&mut pair.world)
    }),
    (Event::SQ_DRAINED, || {
        let mut pair = way::connected();
        let drain = QpAttrs {
            state: QpState::SQD.0,
            en_sqd_async_notify: 1,
            ..QpAttrs::default()
        };
        let (w, mask) = (&mut pair.world, attr::STATE | attr::EN_SQD_ASYNC_NOTIFY);
        pair.a.guest.modify(w, pair.a.qp.qpn, mask, drain).expect("SQD");
        w.run();
        pair.a.guest.events(w)
    }),
    (Event::LAST_WQE_REACHED, || {
        let (mut w, mut guest, _) = shared();
        let qpn = guest.1;
        guest.0.modify_state(&mut w, qpn, QpState::ERR).expect("ERR");
        w.run();
        guest.0.events(&mut w)
    }),
    (Event::SRQ_ERR, || {
        let mut pair = way::connected();
        let (w, b) = (&mut pair.world, &mut pair.b);
        w.ram_mut(b.guest.hca).map(APART, 4096, true);
        let mut req = b.guest.srq_request(w, 2);
        req.ring = PageList::direct(APART, 4096);
        let srq = b.guest.create_srq(w, &req).expect("a queue");
        let mut req = b.guest.qp_request(w, &b.cq, &b.cq, Default::default());
        (req.rq, req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = Default::default();
        req.srqn = srq.srqn;
        b.qp = b.guest.create_qp(w, &req).expect("a queue pair");
        let (to_a, to_b) = ((pair.a.guest.gid(), pair.a.qp.qpn), (b.guest.gid(), b.qp.qpn));
        b.connect(w, to_a, (1, 1), |_| {});
        pair.a.guest.modify_state(w, to_a.1, QpState::RESET).expect("RESET");
        pair.a.connect(w, to_b, (1, 1), |_| {});
        w.ram_mut(pair.b.guest.hca).unmap(APART);
        pair.a.post(w, SendWr::send(1, &[]));
        w.run();
        pair.b.guest.events(w)
    }),
    (Event::SRQ_LIMIT_REACHED, || {
        let (mut w, mut guest, srqn) = shared();
        let req = ModifySrqReq {
            srqn,
            mask: srq::modify::LIMIT,
            limit: 1,
            ..ModifySrqReq::new_zeroed()
        };
        let armed: Result<[u8; 0], _> = guest.0.command(&mut w, Admin::MODIFY_SRQ, &req);
        armed.expect("a limit above what is posted");
        w.run();
        guest.0.events(&mut w)
    }),
    (Event::PORT_ERR, || port(&[regs::PORT_DOWN])),
    (Event::PORT_ACTIVE, || port(&[regs::PORT_DOWN, regs::PORT_ACTIVE])),
    (Event::GID_CHANGE, || {
        let (mut w, mut guest) = alone();
        let req = SetGidReq {
            index: 1,
            gid: Gid::link_local([2, 0, 0, 0, 0, 99]),
            ..SetGidReq::new_zeroed()
        };
        let set: Result<[u8; 0], _> = guest.command(&mut w, Admin::SET_GID, &req);
        set.expect("an empty entry");
        w.run();
        guest.events(&mut w)
    }),
    (Event::DEVICE_FATAL, || {
        let (mut w, mut guest) = alone();
        w.write_reg(guest.hca, regs::ASQ_TAIL, 4, 1000);
        w.run();
        guest.events(&mut w)
    }),
];

/// Memory that goes.
const APART: u64 = 0x9000_0000;

fn write(pair: &Pair, len: u32) -> SendWr {
    SendWr::write(1, &[pair.a.sge(0, len)], pair.b.addr(0), pair.b.rkey())
}

/// How a's work request ends.
fn ended(make: impl Fn(&mut Pair) -> SendWr) -> Status {
    let mut pair = way::connected();
    let wr = make(&mut pair);
    pair.a.post(&mut pair.world, wr);
    pair.world.advance(Duration::from_secs(2));
    Status(pair.a.completion(&pair.world).status)
}

/// What b is told of a's work request.
fn at_the_peer(make: impl Fn(&mut Pair) -> SendWr) -> Vec<Eqe> {
    let mut pair = way::connected();
    let wr = make(&mut pair);
    pair.a.post(&mut pair.world, wr);
    pair.world.run();
    pair.b.guest.events(&mut pair.world)
}

fn alone() -> (World, Guest) {
    let mut w = way::world(1);
    let guest = Guest::start(&mut w, 4 << 20);
    (w, guest)
}

/// A guest with a queue pair on a shared receive queue.
fn shared() -> (World, (Guest, verbena_hw::id::Qpn), verbena_hw::id::Srqn) {
    let (mut w, mut guest) = alone();
    let cq = guest.cq(&mut w, 4);
    let req = guest.srq_request(&mut w, 2);
    let srq = guest.create_srq(&mut w, &req).expect("a queue");
    let mut req = guest.qp_request(&mut w, &cq, &cq, Default::default());
    (req.rq, req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = Default::default();
    req.srqn = srq.srqn;
    let qp = guest.create_qp(&mut w, &req).expect("a queue pair");
    let gid = guest.gid();
    for (mask, attrs) in [attrs::init(), attrs::rtr(gid, qp.qpn, 1)] {
        guest.modify(&mut w, qp.qpn, mask, attrs).expect("a transition");
    }
    (w, (guest, qp.qpn), srq.srqn)
}

/// The port is switched; what its guest is told.
fn port(states: &[u32]) -> Vec<Eqe> {
    let (mut w, mut guest) = alone();
    for &state in states {
        let req = ModifyPortReq { state, reserved: 0 };
        let switched: Result<[u8; 0], _> = guest.command(&mut w, Admin::MODIFY_PORT, &req);
        switched.expect("a state");
    }
    w.run();
    guest.events(&mut w)
}

#[test]
fn h10_every_completion_status_is_produced_on_purpose() {
    for (status, produce) in STATUSES {
        assert_eq!(produce(), *status);
    }
    let mut reached: BTreeSet<_> = STATUSES.iter().map(|row| row.0).collect();
    // Over packets `h10_packet_a_response_of_a_wrong_length` has it; by copy nobody can respond wrongly.
    reached.insert(Status::BAD_RESP_ERR);
    let unused: BTreeSet<_> = UNUSED.iter().map(|row| row.0).collect();
    assert_eq!(reached.intersection(&unused).next(), None);
    let all: BTreeSet<_> = Status::ALL.iter().map(|known| known.0).collect();
    let named: BTreeSet<_> = reached.union(&unused).copied().collect();
    assert_eq!(named, all, "a status is neither produced nor said to be unused");
}

#[test]
fn h10_every_event_is_produced_on_purpose() {
    for (event, produce) in EVENTS {
        let told = produce();
        let found = told.iter().any(|eqe| Event(eqe.event) == *event);
        assert!(found, "{event}: {told:?}");
    }
    let reached: BTreeSet<_> = EVENTS.iter().map(|row| row.0).collect();
    let all: BTreeSet<_> = Event::ALL.iter().map(|known| known.0).collect();
    assert_eq!(reached, all, "an event is not produced");
}
