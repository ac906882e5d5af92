// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4: the state machine, its attributes, and what each state lets through.

use crate::way;
use verbena_engine::testing::{attrs, End, Failed, Guest, QpShape, SendWr, World};
use verbena_hw::admin::Status;
use verbena_hw::cmd::ModifyQpReq;
use verbena_hw::eqe::Event;
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::qp::{attr, transition, Path, QpAttrs, QpState, QpType};

const STATES: [QpState; 7] = [
    QpState::RESET,
    QpState::INIT,
    QpState::RTR,
    QpState::RTS,
    QpState::SQD,
    QpState::SQE,
    QpState::ERR,
];

fn failed(status: Status, detail: u32) -> Result<(), Failed> {
    Err(Failed { status, detail })
}

/// Every attribute, with a good value.
fn all_attrs(guest: &Guest, dest: Qpn) -> QpAttrs {
    QpAttrs {
        path_mtu: 3,
        timeout: 14,
        retry_cnt: 7,
        rnr_retry: 7,
        min_rnr_timer: 12,
        max_rd_atomic: 1,
        max_dest_rd_atomic: 1,
        dest_qpn: dest,
        path: Path {
            dgid: guest.gid(),
            port: 1,
            ..Path::default()
        },
        ..QpAttrs::default()
    }
}

/// Takes a fresh queue pair to a state; SQE cannot be reached by an RC queue pair.
fn in_state(w: &mut World, end: &mut End, state: QpState) {
    let qpn = end.qp.qpn;
    let path: &[QpState] = match state {
        QpState::RESET => &[],
        QpState::INIT => &[QpState::INIT],
        QpState::RTR => &[QpState::INIT, QpState::RTR],
        QpState::RTS => &[QpState::INIT, QpState::RTR, QpState::RTS],
        QpState::SQD => &[QpState::INIT, QpState::RTR, QpState::RTS, QpState::SQD],
        _ => &[QpState::ERR],
    };
    end.guest
        .modify_state(w, qpn, QpState::RESET)
        .expect("every state resets");
    let mut from = QpState::RESET;
    for &to in path {
        let needed = transition(QpType::RC, from, to).expect("a path").required;
        let attrs = QpAttrs {
            state: to.0,
            ..all_attrs(&end.guest, qpn)
        };
        end.guest
            .modify(w, qpn, needed | attr::STATE, attrs)
            .expect("a transition");
        from = to;
    }
    assert_eq!(end.guest.state(w, qpn), state);
}

#[test]
fn h04_every_transition_and_every_attribute_mask() {
    let mut w = way::world(1);
    let mut end = End::new(&mut w, QpShape::default(), 4);
    let qpn = end.qp.qpn;
    for from in STATES {
        if from == QpState::SQE {
            continue;
        }
        for to in STATES {
            in_state(&mut w, &mut end, from);
            let attrs = QpAttrs {
                state: to.0,
                cur_state: from.0,
                ..all_attrs(&end.guest, qpn)
            };
            let go = |end: &mut End, w: &mut World, mask| end.guest.modify(w, qpn, mask | attr::STATE, attrs);
            let Some(t) = transition(QpType::RC, from, to) else {
                let bad = u32::from(from.0) | u32::from(to.0) << 8;
                assert_eq!(
                    go(&mut end, &mut w, 0),
                    failed(Status::BAD_TRANSITION, bad),
                    "{from} {to}"
                );
                assert_eq!(end.guest.state(&mut w, qpn), from, "a failure changes nothing");
                continue;
            };
            // Each required attribute left out, each foreign one put in.
            for bit in (0..21).map(|i| 1 << i) {
                if bit == attr::STATE || bit == attr::CUR_STATE {
                    continue;
                }
                if t.required & bit != 0 {
                    let r = go(&mut end, &mut w, t.required & !bit);
                    assert_eq!(r, failed(Status::MISSING_ATTRIBUTE, bit), "{from} {to}");
                } else if t.optional & bit == 0 {
                    let r = go(&mut end, &mut w, t.required | bit);
                    assert_eq!(r, failed(Status::FORBIDDEN_ATTRIBUTE, bit), "{from} {to}");
                }
                assert_eq!(end.guest.state(&mut w, qpn), from);
            }
            // All that may be there.
            let r = go(&mut end, &mut w, t.required | t.optional | attr::CUR_STATE);
            assert_eq!(r, Ok(()), "{from} {to}");
            assert_eq!(end.guest.state(&mut w, qpn), to);
        }
    }
}

#[test]
fn h04_unknown_bits_and_states() {
    let mut w = way::world(1);
    let mut end = End::new(&mut w, QpShape::default(), 4);
    let qpn = end.qp.qpn;
    let r = end.guest.modify(
        &mut w,
        qpn,
        attr::STATE,
        QpAttrs {
            state: 9,
            ..Default::default()
        },
    );
    assert_eq!(r, failed(Status::BAD_TRANSITION, 9 << 8));
    let (mask, a) = attrs::init();
    let r = end.guest.modify(&mut w, qpn, mask | 1 << 31, a);
    assert_eq!(r, failed(Status::FORBIDDEN_ATTRIBUTE, 1 << 31));
    let wrong = QpAttrs { cur_state: 3, ..a };
    let r = end.guest.modify(&mut w, qpn, mask | attr::CUR_STATE, wrong);
    assert_eq!(r, failed(Status::BAD_TRANSITION, 1 << 8));
    let r = end.guest.modify(&mut w, Qpn::truncate(0xabcdef), mask, a);
    assert_eq!(r, failed(Status::NO_SUCH_OBJECT, 0));
}

#[test]
fn h04_every_attribute_value_is_checked() {
    macro_rules! at {
        ($field:ident) => {
            (core::mem::offset_of!(ModifyQpReq, attrs) + core::mem::offset_of!(QpAttrs, $field)) as u32
        };
        (path.$field:ident) => {
            at!(path) + core::mem::offset_of!(Path, $field) as u32
        };
    }
    let mut w = way::world(1);
    let mut end = End::new(&mut w, QpShape::default(), 4);
    let qpn = end.qp.qpn;
    type Case = (QpState, fn(&mut QpAttrs), Status, u32);
    let raw = |psn: u32| -> Psn { zerocopy::transmute!(psn) };
    assert_eq!(raw(1 << 24).get(), 1 << 24);
    use QpState as Q;
    use Status as S;
    let cases: [Case; 20] = [
        (Q::INIT, |a| a.pkey_index = 1, S::BAD_FIELD, at!(pkey_index)),
        (Q::INIT, |a| a.path.port = 0, S::BAD_FIELD, at!(path.port)),
        (Q::INIT, |a| a.path.port = 2, S::BAD_FIELD, at!(path.port)),
        (Q::INIT, |a| a.access = 1 << 4, S::BAD_FIELD, at!(access)),
        (Q::INIT, |a| a.reserved[2] = 1, S::RESERVED_FIELD, at!(reserved)),
        (Q::INIT, |a| a.reserved2 = 1, S::RESERVED_FIELD, at!(reserved2)),
        (Q::RTR, |a| a.path_mtu = 0, S::BAD_FIELD, at!(path_mtu)),
        (Q::RTR, |a| a.path_mtu = 6, S::BAD_FIELD, at!(path_mtu)),
        (Q::RTR, |a| a.min_rnr_timer = 32, S::BAD_FIELD, at!(min_rnr_timer)),
        (
            Q::RTR,
            |a| a.max_dest_rd_atomic = 129,
            S::BAD_FIELD,
            at!(max_dest_rd_atomic),
        ),
        (
            Q::RTR,
            |a| a.dest_qpn = zerocopy::transmute!(1u32 << 24),
            S::BAD_FIELD,
            at!(dest_qpn),
        ),
        (
            Q::RTR,
            |a| a.rq_psn = zerocopy::transmute!(1u32 << 24),
            S::BAD_FIELD,
            at!(rq_psn),
        ),
        (Q::RTR, |a| a.path.dgid = Gid::default(), S::BAD_FIELD, at!(path.dgid)),
        (
            Q::RTR,
            |a| a.path.flow_label = 1 << 20,
            S::BAD_FIELD,
            at!(path.flow_label),
        ),
        (Q::RTR, |a| a.path.sgid_index = 1, S::BAD_GID_INDEX, 1),
        (Q::RTR, |a| a.path.sgid_index = 255, S::BAD_GID_INDEX, 255),
        (Q::RTS, |a| a.timeout = 32, S::BAD_FIELD, at!(timeout)),
        (Q::RTS, |a| a.retry_cnt = 8, S::BAD_FIELD, at!(retry_cnt)),
        (Q::RTS, |a| a.rnr_retry = 8, S::BAD_FIELD, at!(rnr_retry)),
        (Q::RTS, |a| a.max_rd_atomic = 200, S::BAD_FIELD, at!(max_rd_atomic)),
    ];
    for (to, spoil, status, detail) in cases {
        let from = QpState(to.0 - 1);
        in_state(&mut w, &mut end, from);
        let mut a = QpAttrs {
            state: to.0,
            ..all_attrs(&end.guest, qpn)
        };
        spoil(&mut a);
        let mask = transition(QpType::RC, from, to).expect("a step").required | attr::STATE;
        assert_eq!(end.guest.modify(&mut w, qpn, mask, a), failed(status, detail), "{to}");
        assert_eq!(end.guest.state(&mut w, qpn), from);
    }
}

/// One command from a state that is named to any later one up to RTS: all of the way or nothing.
#[test]
fn h04_who_says_where_it_begins_goes_all_the_way() {
    let mut w = way::world(1);
    let mut end = End::new(&mut w, QpShape::default(), 4);
    let qpn = end.qp.qpn;
    let along = [QpState::RESET, QpState::INIT, QpState::RTR, QpState::RTS];
    for (n, &from) in along.iter().enumerate() {
        for &to in &along[n + 1..] {
            let needed = verbena_hw::qp::way(QpType::RC, from, to).expect("a way").required;
            let mask = needed | attr::STATE | attr::CUR_STATE;
            let a = QpAttrs {
                state: to.0,
                cur_state: from.0,
                ..all_attrs(&end.guest, qpn)
            };
            in_state(&mut w, &mut end, from);
            // Of any attribute that is missing, or of a bad value, nothing is done.
            let missing = needed & needed.wrapping_neg();
            let without = end.guest.modify(&mut w, qpn, mask & !missing, a);
            assert_eq!(without, failed(Status::MISSING_ATTRIBUTE, missing));
            let unknown = QpAttrs { access: 1 << 31, ..a };
            let spoilt = end.guest.modify(&mut w, qpn, mask | attr::ACCESS_FLAGS, unknown);
            assert!(spoilt.is_err(), "{from} -> {to}");
            assert_eq!(end.guest.state(&mut w, qpn), from, "{from} -> {to}");
            end.guest.modify(&mut w, qpn, mask, a).expect("all the way");
            assert_eq!(end.guest.state(&mut w, qpn), to);
            // Not from anywhere else.
            let again = end.guest.modify(&mut w, qpn, mask, a).map_err(|failed| failed.status);
            assert_eq!(again, Err(Status::BAD_TRANSITION), "{from} -> {to}");
        }
    }
}

#[test]
fn h04_query_returns_what_was_set() {
    let mut pair = way::connected();
    let (w, a) = (&mut pair.world, &mut pair.a);
    let rsp = a.guest.query_qp(w, a.qp.qpn);
    assert_eq!(QpState(rsp.attrs.state), QpState::RTS);
    assert_eq!(rsp.attrs.dest_qpn, pair.b.qp.qpn);
    assert_eq!(rsp.attrs.path.dgid, pair.b.guest.gid());
    assert_eq!(
        (rsp.attrs.timeout, rsp.attrs.retry_cnt, rsp.attrs.rnr_retry),
        (14, 3, 3)
    );
    assert_eq!((rsp.attrs.sq_psn.get(), rsp.attrs.rq_psn.get()), (0xff_fffe, 0x12));
    assert_eq!((rsp.pdn, rsp.send_cqn, rsp.recv_cqn), (a.guest.pdn, a.cq.cqn, a.cq.cqn));
    assert_eq!((rsp.sq_log_entries, rsp.max_send_sge, rsp.max_inline), (6, 32, 512));
}

#[test]
fn h04_work_posted_before_rts_waits_for_it() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let qpn = pair.a.qp.qpn;
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    pair.a.guest.modify_state(w, qpn, QpState::RESET).expect("reset");
    pair.a.qp.rewind(w);
    for (mask, a) in [attrs::init(), attrs::rtr(to_b.0, to_b.1, 0x12)] {
        pair.a.guest.modify(w, qpn, mask, a).expect("a transition");
    }
    pair.b.post_recv(w, 5, 0, 8);
    pair.a.post(w, SendWr::send(1, &[]));
    w.run();
    pair.b.nothing(w);
    let (mask, a) = attrs::rts(0xff_fffe);
    pair.a.guest.modify(w, qpn, mask, a).expect("a transition");
    w.run();
    assert_eq!(pair.b.completion(w).wr_id, 5);
}

#[test]
fn h04_sqd_finishes_what_is_in_flight_and_says_so() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let qpn = pair.a.qp.qpn;
    // A message waits for its peer; another is posted when it is too late.
    pair.a.post(w, SendWr::send(1, &[]));
    w.run();
    let drain = QpAttrs {
        state: QpState::SQD.0,
        en_sqd_async_notify: 1,
        ..QpAttrs::default()
    };
    let mask = attr::STATE | attr::EN_SQD_ASYNC_NOTIFY;
    pair.a.guest.modify(w, qpn, mask, drain).expect("a transition");
    pair.a.post(w, SendWr::send(2, &[]));
    w.run();
    assert_eq!(pair.a.guest.events(w).len(), 0, "not drained yet");
    for i in 0..2 {
        pair.b.post_recv(w, i, 0, 8);
    }
    w.advance(core::time::Duration::from_millis(1));
    assert_eq!(pair.a.completion(w).wr_id, 1);
    pair.a.nothing(w);
    let events = pair.a.guest.events(w);
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].event, events[0].number), (Event::SQ_DRAINED.0, qpn.get()));
    assert_eq!(events[0].cookie, pair.a.qp.cookie);
    // Requests of the peer are served meanwhile.
    pair.a.post_recv(w, 9, 0, 8);
    pair.b.post(w, SendWr::send(10, &[]));
    w.run();
    assert_eq!(pair.b.completion(w).wr_id, 0);
    assert_eq!(pair.b.completion(w).wr_id, 10);
    assert_eq!(pair.a.completion(w).wr_id, 9);
    // Back in RTS the rest goes out.
    pair.a.guest.modify_state(w, qpn, QpState::RTS).expect("a transition");
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 2);
}
