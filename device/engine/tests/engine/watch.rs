// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send queues that the device watches: they need no doorbell, and none is forgotten.

use verbena_engine::testing::{End, Pair, SendWr, World};
use verbena_hw::admin::Opcode;
use verbena_hw::doorbell::{is_watched, WATCHED, WATCH_SEATS};
use verbena_hw::qp::QpState;

/// Whether the end's doorbell page says that its queue is watched.
fn watched(end: &End, w: &World) -> bool {
    let word = w.ram(end.guest.hca).read_u64(end.guest.doorbell_page + WATCHED as u64);
    is_watched(word, end.qp.slot)
}

/// A connection whose first end's queue is watched.
fn seated() -> Pair {
    let mut pair = Pair::connected();
    post(&mut pair, 1, true);
    pair.world.run();
    assert_eq!(pair.a.completion(&pair.world).wr_id, 1);
    assert!(watched(&pair.a, &pair.world));
    pair
}

fn post(pair: &mut Pair, id: u64, ring: bool) {
    let wr = SendWr::write(id, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
    pair.a.qp.post_quietly(&pair.world, wr);
    if ring {
        pair.a.qp.ring(&pair.world);
    }
}

#[test]
fn h02_a_queue_that_was_emptied_needs_no_doorbell() {
    let mut pair = seated();
    assert!(!watched(&pair.b, &pair.world), "it has never sent anything");
    for id in 2..10 {
        assert!(!pair.world.engine.has_work(0, &pair.world.env));
        post(&mut pair, id, false);
        assert!(pair.world.engine.has_work(0, &pair.world.env));
        pair.world.run();
        assert_eq!(pair.a.completion(&pair.world).wr_id, id);
    }
}

#[test]
fn h02_a_queue_that_nobody_watches_needs_a_doorbell() {
    let mut pair = Pair::connected();
    pair.world.run();
    post(&mut pair, 1, false);
    assert!(!pair.world.engine.has_work(0, &pair.world.env));
    pair.world.run();
    pair.a.nothing(&pair.world);
    pair.a.qp.ring(&pair.world);
    pair.world.run();
    assert_eq!(pair.a.completion(&pair.world).wr_id, 1);
}

#[test]
fn h02_a_device_that_sleeps_watches_nothing_and_looks_once_more() {
    let mut pair = seated();
    let w = &mut pair.world;
    assert!(w.engine.prepare_sleep(0, &w.env));
    assert!(!watched(&pair.a, w));
    w.engine.wake(0, &w.env);

    let mut pair = seated();
    post(&mut pair, 2, false);
    let w = &mut pair.world;
    assert!(!w.engine.prepare_sleep(0, &w.env), "the last look finds it");
    assert!(!watched(&pair.a, w));
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 2);
}

#[test]
fn h02_a_queue_that_has_to_wait_is_not_watched() {
    let mut pair = seated();
    pair.a.qp.post_quietly(&pair.world, SendWr::send(2, &[]));
    pair.world.run();
    assert!(!watched(&pair.a, &pair.world), "its peer has no receive");
    let w = &mut pair.world;
    assert!(w.engine.prepare_sleep(0, &w.env), "it keeps nobody awake");
}

#[test]
fn h02_a_queue_pair_that_is_gone_is_not_watched() {
    let mut pair = seated();
    let qpn = pair.a.qp.qpn;
    let destroyed = pair.a.guest.destroy(&mut pair.world, Opcode::DESTROY_QP, qpn.get());
    assert!(destroyed.is_ok());
    pair.world.run();
    assert!(!watched(&pair.a, &pair.world));
}

#[test]
fn h04_a_watched_queue_is_flushed_in_err() {
    let mut pair = seated();
    let qpn = pair.a.qp.qpn;
    let modified = pair.a.guest.modify_state(&mut pair.world, qpn, QpState::ERR);
    assert!(modified.is_ok());
    post(&mut pair, 2, true);
    pair.world.run();
    assert_eq!(pair.a.completion(&pair.world).wr_id, 2);
    assert!(!watched(&pair.a, &pair.world));
}

#[test]
fn h02_seats_go_to_those_who_use_them() {
    let mut world = World::new(1);
    let mut pairs = Vec::new();
    for _ in 0..WATCH_SEATS + 1 {
        let mut pair = Pair::within(world, Default::default(), 8, |_| {});
        post(&mut pair, 1, true);
        pair.world.run();
        pair.a.completion(&pair.world);
        world = pair.world;
        pairs.push((pair.a, pair.b));
    }
    let seats = |pairs: &[(End, End)], w: &World| pairs.iter().map(|(a, _)| watched(a, w)).collect::<Vec<_>>();
    let mut expected = vec![true; WATCH_SEATS];
    expected.push(false);
    assert_eq!(seats(&pairs, &world), expected, "first come, first served");
    // The one without a seat and the first one go on; the others have had their time.
    for _ in 0..300 {
        for at in [WATCH_SEATS, 0] {
            let (a, b) = &mut pairs[at];
            let wr = SendWr::write(2, &[a.sge(0, 8)], b.addr(0), b.rkey());
            a.qp.post(&world, wr);
            world.run();
            assert_eq!(a.completion(&world).wr_id, 2);
        }
    }
    let seats = seats(&pairs, &world);
    assert!(seats[0] && seats[WATCH_SEATS], "{seats:?}");
    assert_eq!(seats.iter().filter(|seat| **seat).count(), WATCH_SEATS, "{seats:?}");
}
