// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs on loan to workers: who gets what, and that nothing is different for it.

use verbena_engine::testing::{End, Pair, SendWr, World};
use verbena_hw::cqe::{CqRecord, Status};
use verbena_hw::doorbell::{is_watched, WATCHED};
use verbena_hw::eqe::Event;

/// A WRITE of 8 bytes from one end to the other. The queue may be watched, and if it is not the doorbell is rung.
fn write(w: &World, from: &mut End, to: &End, id: u64) {
    let wr = SendWr::write(id, &[from.sge(0, 8)], to.addr(0), to.rkey());
    from.qp.post(w, wr);
}

/// A connection in a world that has others; both ends' queues are watched.
fn busy(world: World) -> (World, End, End) {
    let Pair {
        mut world,
        mut a,
        mut b,
    } = Pair::within(world, Default::default(), 8, |_| {});
    write(&world, &mut a, &b, 1);
    write(&world, &mut b, &a, 1);
    world.run();
    for end in [&mut a, &mut b] {
        assert_eq!(end.completion(&world).wr_id, 1);
        assert!(watched(end, &world));
    }
    (world, a, b)
}

fn watched(end: &End, w: &World) -> bool {
    let word = w.ram(end.guest.hca).read_u64(end.guest.doorbell_page + WATCHED as u64);
    is_watched(word, end.qp.slot)
}

#[test]
fn p01_a_message_of_a_watched_queue_needs_the_loan_only() {
    let (mut w, mut a, b) = busy(World::new(1));
    w.lend();
    for id in 2..100 {
        w.ram(a.guest.hca).write(a.addr(0), &[id as u8; 8]);
        write(&w, &mut a, &b, id);
        assert!(w.run_loan(0).worked);
        assert_eq!(a.completion(&w).wr_id, id);
        assert_eq!(b.bytes(&w, 0, 8), [id as u8; 8]);
    }
    assert!(!w.run_loan(0).worked);
    w.recall();
    assert_eq!(a.guest.counter(&mut w, "sent_msgs"), 99);
    assert_eq!(a.guest.counter(&mut w, "rcvd_msgs"), 1);
}

#[test]
fn p01_a_message_that_is_not_ordinary_goes_back() {
    let (mut w, mut a, b) = busy(World::new(1));
    w.lend();
    write(&w, &mut a, &b, 2);
    let mut foreign = a.sge(0, 8);
    foreign.lkey.0 ^= 1;
    a.qp.post(&w, SendWr::write(3, &[foreign], b.addr(0), b.rkey()));
    assert!(w.run_loan(0).worked, "the first of them is");
    assert_eq!(a.completion(&w).wr_id, 2);
    a.nothing(&w);
    w.recall();
    w.run();
    let failed = a.completion(&w);
    assert_eq!((failed.wr_id, Status(failed.status)), (3, Status::LOC_PROT_ERR));
}

#[test]
fn h12_an_event_that_was_asked_for_is_raised_when_the_engine_is_whole() {
    let (mut w, mut a, b) = busy(World::new(1));
    a.cq.arm(&w, CqRecord::ARM_ANY);
    w.lend();
    write(&w, &mut a, &b, 2);
    assert!(w.run_loan(0).worked);
    w.recall();
    let events = a.guest.events(&mut w);
    assert_eq!(events.len(), 1);
    assert_eq!(Event(events[0].event), Event::COMPLETION);
}

#[test]
fn h02_a_doorbell_or_a_command_ends_the_turn_of_a_worker() {
    let (mut w, mut a, b) = busy(World::new(1));
    w.lend();
    // One more queue pair of the same guest rings.
    let other = a.guest.doorbell_page + verbena_hw::doorbell::SUMMARY as u64;
    w.ram(a.guest.hca).write(other, &1u64.to_le_bytes());
    write(&w, &mut a, &b, 2);
    let ran = w.run_loan(0);
    assert!(!ran.worked && !ran.idle, "there is something for the engine first");
    w.recall();
    w.run();
    assert_eq!(a.completion(&w).wr_id, 2);
}

#[test]
#[should_panic(expected = "on loan")]
fn an_engine_that_is_not_whole_does_nothing() {
    let (mut w, ..) = busy(World::new(1));
    w.lend();
    w.engine.poll(w.now, w.budget, &w.env);
}

/// Two connections between four guests, at the workers that their pages lead to.
fn two_workers() -> (World, [(End, End); 2]) {
    let (world, a, b) = busy(World::for_workers(1, 2));
    let (mut world, c, d) = busy(world);
    // Both connections had one page at each worker: the first loan brought the second of each to the first's worker.
    world.lend();
    world.recall();
    (world, [(a, b), (c, d)])
}

#[test]
fn p03_both_directions_of_a_connection_are_one_workers() {
    let (mut w, mut pairs) = two_workers();
    w.lend();
    for (a, b) in &mut pairs {
        write(&w, a, b, 2);
        write(&w, b, a, 2);
    }
    let before = w.run_loan(0).worked;
    assert!(before | w.run_loan(1).worked);
    w.recall();
    for (a, b) in &mut pairs {
        assert_eq!((a.completion(&w).wr_id, b.completion(&w).wr_id), (2, 2));
    }
}

#[test]
fn p03_two_workers_work_at_once_on_what_has_nothing_in_common() {
    // Guests 0 and 2 have pages of worker 0, guests 1 and 3 of worker 1: only one end of each connection sends, so that each
    // worker gets one.
    let Pair { world, mut a, b } = Pair::within(World::for_workers(1, 2), Default::default(), 8, |_| {});
    let Pair {
        mut world,
        a: c,
        b: mut d,
    } = Pair::within(world, Default::default(), 8, |_| {});
    write(&world, &mut a, &b, 1);
    write(&world, &mut d, &c, 1);
    world.run();
    a.completion(&world);
    d.completion(&world);
    for id in 2..200 {
        world.lend();
        write(&world, &mut a, &b, id);
        write(&world, &mut d, &c, id);
        let ran = world.run_loans(true);
        assert!(ran.iter().all(|(ran, _)| ran.worked && ran.idle), "{ran:?}");
        world.recall();
        assert_eq!((a.completion(&world).wr_id, d.completion(&world).wr_id), (id, id));
    }
}

#[test]
fn p09_the_queues_of_a_worker_that_sleeps_are_not_watched() {
    let Pair {
        mut world,
        mut a,
        mut b,
    } = Pair::within(World::for_workers(1, 2), Default::default(), 8, |_| {});
    let w = &mut world;
    assert!(w.engine.prepare_sleep(1, &w.env));
    assert_eq!(
        (a.guest.kick(w), b.guest.kick(w)),
        (0, 1),
        "each has a page of its own worker"
    );
    // The other worker polls, and finds both.
    write(w, &mut a, &b, 1);
    write(w, &mut b, &a, 1);
    w.run();
    assert_eq!((a.completion(w).wr_id, b.completion(w).wr_id), (1, 1));
    assert!(watched(&a, w));
    assert!(!watched(&b, w), "nobody would look");
    assert_eq!(b.guest.kick(w), 1);
    w.engine.wake(1, &w.env);
    assert_eq!(b.guest.kick(w), 0);
}

#[test]
fn p09_a_page_that_appears_while_its_worker_sleeps_says_so() {
    let mut w = World::for_workers(1, 2);
    let first = End::new(&mut w, Default::default(), 4);
    assert!(w.engine.prepare_sleep(1, &w.env));
    let second = End::new(&mut w, Default::default(), 4);
    assert_eq!((first.guest.kick(&w), second.guest.kick(&w)), (0, 1));
    second.qp.ring_register(&mut w);
    assert_eq!(w.engine.take_stirred(), Some(1));
    assert_eq!(w.engine.take_stirred(), None);
}
