// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that are sent together: of a link, none is executed behind one that failed; and a queue pair that is made on its
//! way.

use verbena_engine::testing::{attrs, Guest, QpShape, World};
use verbena_hw::admin::{Command, Opcode, Status, LINKS, LINK_BEGIN};
use verbena_hw::cmd::*;
use verbena_hw::id::{Cqn, Qpn};
use verbena_hw::qp::{attr, QpAttrs, QpState};
use zerocopy::{FromZeros, IntoBytes};

fn guest() -> (World, Guest) {
    let mut w = World::new(1);
    let guest = Guest::start(&mut w, 4 << 20);
    (w, guest)
}

/// A command that succeeds, or one that fails.
fn command(id: u16, good: bool, link: u8, flags: u8) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = if good { Opcode::NOP } else { Opcode(0x7777) };
    (command.id, command.link, command.flags) = (id, link, flags);
    command
}

fn statuses(w: &mut World, g: &mut Guest) -> Vec<(u16, Status)> {
    w.run();
    std::iter::from_fn(|| g.reap(w)).map(|c| (c.id, c.status)).collect()
}

#[test]
fn h03_behind_a_failure_nothing_of_its_link_is_executed() {
    let (mut w, mut g) = guest();
    for command in [
        command(1, true, 5, LINK_BEGIN),
        command(2, false, 5, 0),
        command(3, true, 5, 0),
        // Neither another link nor none is concerned.
        command(4, true, LINKS, LINK_BEGIN),
        command(5, true, 0, 0),
        command(6, false, 5, 0),
        // Begun anew.
        command(7, true, 5, LINK_BEGIN),
        command(8, true, 5, 0),
    ] {
        g.submit_raw(&mut w, &command);
    }
    let expected = [
        (1, Status::OK),
        (2, Status::BAD_OPCODE),
        (3, Status::CANCELED),
        (4, Status::OK),
        (5, Status::OK),
        (6, Status::CANCELED),
        (7, Status::OK),
        (8, Status::OK),
    ];
    assert_eq!(statuses(&mut w, &mut g), expected);
}

#[test]
fn h03_a_link_remembers_its_failure_when_everything_was_answered() {
    let (mut w, mut g) = guest();
    g.submit_raw(&mut w, &command(1, false, 1, LINK_BEGIN));
    assert_eq!(statuses(&mut w, &mut g), [(1, Status::BAD_OPCODE)]);
    g.submit_raw(&mut w, &command(2, true, 1, 0));
    assert_eq!(statuses(&mut w, &mut g), [(2, Status::CANCELED)]);
}

#[test]
fn h03_what_no_link_is_or_may_contain_is_refused() {
    let (mut w, mut g) = guest();
    g.submit_raw(&mut w, &command(1, true, LINKS + 1, 0));
    // Nothing begins without a link, and no other flag is known.
    g.submit_raw(&mut w, &command(2, true, 0, LINK_BEGIN));
    g.submit_raw(&mut w, &command(3, true, 1, 2));
    let mut slow = command(4, true, 2, LINK_BEGIN);
    slow.opcode = Opcode::CREATE_MR;
    g.submit_raw(&mut w, &slow);
    let expected = [
        (1, Status::BAD_FIELD),
        (2, Status::RESERVED_FIELD),
        (3, Status::RESERVED_FIELD),
        (4, Status::BAD_FIELD),
    ];
    assert_eq!(statuses(&mut w, &mut g), expected);
}

/// The way from RESET to RTS as one mask and one set of attributes.
fn to_rts(g: &Guest, peer: Qpn) -> (u32, QpAttrs) {
    let (init, rtr, rts) = (attrs::init(), attrs::rtr(g.gid(), peer, 1), attrs::rts(1));
    let attrs = QpAttrs {
        access: init.1.access,
        timeout: rts.1.timeout,
        retry_cnt: rts.1.retry_cnt,
        rnr_retry: rts.1.rnr_retry,
        sq_psn: rts.1.sq_psn,
        max_rd_atomic: rts.1.max_rd_atomic,
        state: QpState::RTS.0,
        path: verbena_hw::qp::Path { port: 1, ..rtr.1.path },
        ..rtr.1
    };
    (init.0 | rtr.0 | rts.0, attrs)
}

#[test]
fn h04_a_queue_pair_is_made_in_rts() {
    let (mut w, mut g) = guest();
    let cq = g.cq(&mut w, 4);
    let mut request = g.qp_request(&mut w, &cq, &cq, QpShape::default());
    (request.mask, request.attrs) = to_rts(&g, Qpn::truncate(99));
    let qp = g.create_qp(&mut w, &request).expect("a queue pair");
    let query = HandleReq {
        handle: qp.qpn.get(),
        reserved: 0,
    };
    let state: QueryQpRsp = g.command(&mut w, Opcode::QUERY_QP, &query).expect("its state");
    assert_eq!(QpState(state.attrs.state), QpState::RTS);
    assert_eq!(state.attrs.dest_qpn, Qpn::truncate(99));
}

#[test]
fn h04_what_cannot_go_its_way_is_not_made() {
    let (mut w, mut g) = guest();
    let cq = g.cq(&mut w, 4);
    let good = {
        let mut request = g.qp_request(&mut w, &cq, &cq, QpShape::default());
        (request.mask, request.attrs) = to_rts(&g, Qpn::truncate(99));
        request
    };
    let at = |field: usize| (std::mem::offset_of!(CreateQpReq, attrs) + field) as u32;
    type Spoil = fn(&mut CreateQpReq);
    let cases: [(Spoil, Status, u32); 5] = [
        (
            |r| r.attrs.timeout = 32,
            Status::BAD_FIELD,
            at(std::mem::offset_of!(QpAttrs, timeout)),
        ),
        (|r| r.mask &= !attr::TIMEOUT, Status::MISSING_ATTRIBUTE, attr::TIMEOUT),
        (|r| r.mask |= attr::QKEY, Status::FORBIDDEN_ATTRIBUTE, attr::QKEY),
        (
            |r| r.reserved2 = 1,
            Status::RESERVED_FIELD,
            std::mem::offset_of!(CreateQpReq, reserved2) as u32,
        ),
        (|r| r.mask = 0, Status::RESERVED_FIELD, at(0)),
    ];
    for (spoil, status, detail) in cases {
        let mut request = good;
        spoil(&mut request);
        let failure = g.create_qp(&mut w, &request).map(|_| ()).expect_err("it is refused");
        assert_eq!((failure.status, failure.detail), (status, detail));
    }
    let dump = w.engine.dump(Some(g.hca), w.now, &w.env);
    assert_eq!(dump.hcas[0].objects.qps, 0, "none of them is left");
    // Nor do its slot and its queues stay in use.
    g.create_qp(&mut w, &good).expect("the same, unspoilt");
}

#[test]
fn h03_a_queue_pair_behind_a_failure_is_not_made() {
    let (mut w, mut g) = guest();
    let cq = g.cq(&mut w, 4);
    for (id, cqn) in [(1, cq.cqn), (2, Cqn::truncate(77)), (3, cq.cqn)] {
        let mut request = g.qp_request(&mut w, &cq, &cq, QpShape::default());
        request.send_cqn = cqn;
        let mut command = command(id, true, 9, if id == 1 { LINK_BEGIN } else { 0 });
        command.opcode = Opcode::CREATE_QP;
        command.payload[..size_of::<CreateQpReq>()].copy_from_slice(request.as_bytes());
        g.submit_raw(&mut w, &command);
    }
    let expected = [(1, Status::OK), (2, Status::NO_SUCH_OBJECT), (3, Status::CANCELED)];
    assert_eq!(statuses(&mut w, &mut g), expected);
    let dump = w.engine.dump(Some(g.hca), w.now, &w.env);
    assert_eq!(dump.hcas[0].objects.qps, 1);
}
