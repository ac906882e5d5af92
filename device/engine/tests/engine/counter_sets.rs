// SPDX-License-Identifier: MIT OR Apache-2.0
//! H11: counter sets, which count what the queue pairs bound to them do.

use crate::datagrams;
use crate::way;
use verbena_engine::testing::{Failed, Guest, Pair, QpShape, SendWr, World};
use verbena_hw::admin::{Opcode, Status as Refused};
use verbena_hw::cmd::{BindCounterReq, QueryCounterRsp, SET_COUNTERS};
use verbena_hw::id::{Key, Qpn};
use verbena_hw::qp::QpState;

fn set(w: &mut World, guest: &mut Guest) -> u32 {
    guest.create(w, Opcode::CREATE_COUNTER, &[0u8; 0]).expect("a set")
}

fn bind(w: &mut World, guest: &mut Guest, qpn: Qpn, counter: u32) -> Result<(), Failed> {
    let req = BindCounterReq { qpn, counter };
    guest.command::<[u8; 0]>(w, Opcode::BIND_COUNTER, &req).map(|_| ())
}

/// The counters that are not zero, by name.
fn counts(w: &mut World, guest: &mut Guest, counter: u32) -> Vec<(&'static str, u64)> {
    let rsp: QueryCounterRsp = guest.about(w, Opcode::QUERY_COUNTER, counter).expect("a set");
    let named = SET_COUNTERS.into_iter().zip(rsp.values);
    named.filter(|(_, value)| *value != 0).collect()
}

#[test]
fn h11_a_set_counts_what_its_queue_pair_does_and_nothing_else() {
    let Pair {
        world: mut w,
        mut a,
        mut b,
    } = way::connected();
    let (here, there) = (set(&mut w, &mut a.guest), set(&mut w, &mut b.guest));
    a.post(&mut w, SendWr::write(1, &[a.sge(0, 1000)], b.addr(0), b.rkey()));
    w.run();
    bind(&mut w, &mut a.guest, a.qp.qpn, here).expect("bound");
    bind(&mut w, &mut b.guest, b.qp.qpn, there).expect("bound");
    assert_eq!(counts(&mut w, &mut a.guest, here), [], "what was before does not count");
    b.post_recv(&mut w, 7, 0, 4096);
    a.post(&mut w, SendWr::send(2, &[a.sge(0, 100)]));
    a.post(
        &mut w,
        SendWr::write(3, &[a.sge(0, 11), a.sge(100, 22)], b.addr(0), b.rkey()),
    );
    a.post(
        &mut w,
        SendWr::read(4, &[a.sge(0, 500)], b.addr(0), b.rkey()).unsignaled(),
    );
    a.post(&mut w, SendWr::write(5, &[], b.addr(0), b.rkey()).inline(b"inline"));
    w.run();
    assert_eq!(a.cq.drain(&w).len(), 4);
    let sent = [("sent_msgs", 4), ("sent_bytes", 139)];
    assert_eq!(counts(&mut w, &mut a.guest, here), sent);
    let received = [("rcvd_msgs", 4), ("rcvd_bytes", 139)];
    assert_eq!(counts(&mut w, &mut b.guest, there), received);
    // Unbound it counts no more.
    bind(&mut w, &mut a.guest, a.qp.qpn, 0).expect("unbound");
    a.post(&mut w, SendWr::write(6, &[a.sge(0, 1000)], b.addr(0), b.rkey()));
    w.run();
    assert_eq!(counts(&mut w, &mut a.guest, here), sent);
    assert_eq!(
        counts(&mut w, &mut b.guest, there),
        [("rcvd_msgs", 5), ("rcvd_bytes", 1139)]
    );
}

#[test]
fn h11_a_set_counts_errors_and_what_they_flush() {
    let Pair { world: mut w, mut a, b } = way::connected();
    let errors = set(&mut w, &mut a.guest);
    bind(&mut w, &mut a.guest, a.qp.qpn, errors).expect("bound");
    a.post_recv(&mut w, 1, 0, 64);
    a.post(&mut w, SendWr::write(2, &[a.sge(0, 8)], b.addr(0), Key(0x00de_ad00)));
    a.post(&mut w, SendWr::write(3, &[a.sge(0, 8)], b.addr(0), b.rkey()));
    w.run();
    assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::ERR);
    let expected = [("completion_err", 1), ("flushed_wrs", 2)];
    assert_eq!(counts(&mut w, &mut a.guest, errors), expected);
}

#[test]
fn h11_several_queue_pairs_count_into_one_set() {
    let mut w = way::world(1);
    let (mut a, mut b) = (datagrams::end(&mut w), datagrams::end(&mut w));
    let both = set(&mut w, &mut a.guest);
    let mut req = a.guest.qp_request(&mut w, &a.cq, &a.cq, QpShape::default());
    req.qp_type = verbena_hw::qp::QpType::UC;
    let other = a.guest.create_qp(&mut w, &req).expect("a queue pair");
    for qpn in [a.qp.qpn, other.qpn] {
        bind(&mut w, &mut a.guest, qpn, both).expect("bound");
    }
    let rsp: QueryCounterRsp = a.guest.about(&mut w, Opcode::QUERY_COUNTER, both).expect("a set");
    assert_eq!(rsp.members, 2);
    let (to_a, to_b) = (datagrams::to(&a), datagrams::to(&b));
    a.post_recv(&mut w, 1, 0, 200);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 8)]).to(to_b));
    b.post(&mut w, SendWr::send(1, &[b.sge(0, 9)]).to(to_a));
    w.run();
    let expected = [("sent_msgs", 1), ("rcvd_msgs", 1), ("sent_bytes", 8), ("rcvd_bytes", 9)];
    assert_eq!(counts(&mut w, &mut a.guest, both), expected);
}

#[test]
fn h11_a_set_goes_without_its_queue_pairs_and_they_without_it() {
    let Pair { world: mut w, mut a, b } = way::connected();
    let (first, second) = (set(&mut w, &mut a.guest), set(&mut w, &mut a.guest));
    bind(&mut w, &mut a.guest, a.qp.qpn, first).expect("bound");
    let dump = w.engine.dump(Some(a.guest.hca), w.now, &w.env);
    assert_eq!(dump.hcas[0].objects.counter_sets, 2);
    assert!(dump
        .to_string()
        .contains(&format!("counter set {first:#x}, 1 queue pairs: sent_msgs 0")));
    // To another set is one step.
    bind(&mut w, &mut a.guest, a.qp.qpn, second).expect("bound");
    a.guest.destroy(&mut w, Opcode::DESTROY_COUNTER, first).expect("free");
    a.guest
        .destroy(&mut w, Opcode::DESTROY_COUNTER, second)
        .expect("with its member");
    a.post(&mut w, SendWr::write(1, &[a.sge(0, 8)], b.addr(0), b.rkey()));
    w.run();
    assert_eq!(a.completion(&w).status, 0);
    let second = set(&mut w, &mut a.guest);
    bind(&mut w, &mut a.guest, a.qp.qpn, second).expect("bound");
    assert_eq!(counts(&mut w, &mut a.guest, second), [], "a new one");
    a.guest
        .destroy(&mut w, Opcode::DESTROY_QP, a.qp.qpn.get())
        .expect("gone");
    let rsp: QueryCounterRsp = a.guest.about(&mut w, Opcode::QUERY_COUNTER, second).expect("a set");
    assert_eq!(rsp.members, 0);
    a.guest.destroy(&mut w, Opcode::DESTROY_COUNTER, second).expect("free");
    for (qpn, counter, offset) in [(a.qp.qpn, 0, 0), (Qpn::truncate(1), 0, 0), (a.qp.qpn, second, 4)] {
        let failed = bind(&mut w, &mut a.guest, qpn, counter).expect_err("not there");
        assert_eq!((failed.status, failed.detail), (Refused::NO_SUCH_OBJECT, offset));
    }
}
