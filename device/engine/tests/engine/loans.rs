// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs on loan to workers: who gets what, and that nothing is different for it.

use verbena_engine::testing::{End, Pair, Qp, QpShape, SendWr, World};
use verbena_hw::cqe::{CqRecord, Status};
use verbena_hw::doorbell::WATCH_SEATS;
use verbena_hw::eqe::Event;
use verbena_hw::qp::{attr, QpAttrs};

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
    end.qp.is_watched(w)
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

/// What there is to do, by the engine whole.
fn whole(w: &mut World) {
    while w.engine.poll(w.now, w.budget, &w.env).did_work {}
}

/// A WRITE on each connection. Answers whether worker 0 has executed them all with its loan alone; in the end they are.
fn round(w: &mut World, crowd: &mut [(End, End)], id: u64) -> bool {
    w.lend();
    crowd.iter_mut().for_each(|(a, b)| write(w, a, b, id));
    w.run_loan(0);
    let mut late = Vec::new();
    for (a, _) in crowd {
        match a.cq.poll(w) {
            Some(cqe) => assert_eq!(cqe.wr_id, id),
            None => late.push(a),
        }
    }
    let all = late.is_empty();
    w.recall();
    whole(w);
    late.into_iter().for_each(|a| assert_eq!(a.completion(w).wr_id, id));
    all
}

/// Connections whose sending ends, twelve of guests with even numbers, have pages of worker 0 of two: four of them are
/// watched, the others rung for.
fn crowd() -> (World, Vec<(End, End)>) {
    let mut world = World::for_workers(1, 2);
    let mut crowd = Vec::new();
    for _ in 0..12 {
        let Pair { world: back, mut a, b } = Pair::within(world, Default::default(), 8, |_| {});
        world = back;
        write(&world, &mut a, &b, 1);
        world.run();
        assert_eq!(a.completion(&world).wr_id, 1);
        crowd.push((a, b));
    }
    assert_eq!(crowd.iter().filter(|(a, _)| watched(a, &world)).count(), WATCH_SEATS);
    // Those that are rung for had nothing to do while the others were connected, and are left out at first.
    let mut rounds = 0;
    while !round(&mut world, &mut crowd, 1) {
        rounds += 1;
    }
    assert!(rounds < 300, "{rounds} rounds");
    (world, crowd)
}

#[test]
fn p03_what_is_rung_for_needs_the_loan_only() {
    let (mut w, mut crowd) = crowd();
    w.lend();
    for id in 2..50 {
        for (a, b) in &mut crowd {
            w.ram(a.guest.hca).write(a.addr(0), &[id as u8; 8]);
            write(&w, a, b, id);
        }
        assert!(w.run_loan(0).worked);
        for (a, b) in &mut crowd {
            assert_eq!(a.completion(&w).wr_id, id);
            assert_eq!(b.bytes(&w, 0, 8), [id as u8; 8]);
        }
    }
    w.recall();
    let counters = crowd.iter_mut().flat_map(|(a, b)| {
        let sent = a.guest.counter(&mut w, "sent_msgs");
        [sent, b.guest.counter(&mut w, "rcvd_msgs")]
    });
    let counters: Vec<_> = counters.collect();
    assert!(
        counters[0] > 48 && counters.iter().all(|&n| n == counters[0]),
        "{counters:?}"
    );
}

#[test]
fn p03_more_than_a_turn_that_was_rung_for_once_is_executed_whole() {
    let (mut w, mut crowd) = crowd();
    let (a, b) = crowd.iter_mut().find(|(a, _)| !watched(a, &w)).expect("most are not");
    w.lend();
    for id in 2..60 {
        let wr = SendWr::write(id, &[a.sge(0, 8)], b.addr(0), b.rkey());
        a.qp.post_quietly(&w, wr);
    }
    a.qp.ring(&w);
    let ran = w.run_loan(0);
    assert!(ran.worked && ran.idle);
    for id in 2..60 {
        assert_eq!(a.completion(&w).wr_id, id);
    }
    // What is left when the loan ends too early goes on all the same.
    for id in 60..120 {
        let wr = SendWr::write(id, &[a.sge(0, 8)], b.addr(0), b.rkey());
        a.qp.post_quietly(&w, wr);
    }
    a.qp.ring(&w);
    w.interrupt_loan(0);
    w.recall();
    w.run();
    for id in 60..120 {
        assert_eq!(a.completion(&w).wr_id, id);
    }
}

#[test]
fn p03_the_ring_of_a_queue_that_is_not_on_loan_is_not_lost() {
    let (world, mut crowd) = crowd();
    let Pair { world: mut w, mut a, b } = Pair::within(world, Default::default(), 8, |_| {});
    w.lend();
    write(&w, &mut a, &b, 2);
    let (member, peer) = crowd.iter_mut().find(|(a, _)| !watched(a, &w)).expect("most are not");
    write(&w, member, peer, 2);
    let ran = w.run_loan(0);
    assert!(!ran.idle);
    a.nothing(&w);
    w.recall();
    w.run();
    assert_eq!(a.completion(&w).wr_id, 2);
    assert_eq!(member.completion(&w).wr_id, 2);
}

/// The ends of ten connections write at any moment between two turns of two workers, each for a while and then not for longer: a
/// queue that is in nobody's loan for its own sake is in one worker's for its peer's, and rings at the other.
#[test]
fn p03_the_ring_of_a_queue_that_is_on_loan_to_another_worker_is_not_lost() {
    for seed in 1..=40u64 {
        let mut random = seed;
        let mut dice = |sides: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % sides
        };
        let mut w = World::for_workers(1, 2);
        let mut ends = Vec::new();
        for _ in 0..10 {
            let Pair { world, a, b } = Pair::within(w, Default::default(), 8, |_| {});
            w = world;
            ends.extend([a, b]);
        }
        let mut under_way = [0u64; 20];
        let mut busy = 0;
        for round in 0..600 {
            if round % 40 == 0 {
                busy = dice(1 << 20);
            }
            w.lend();
            for worker in [0, 1] {
                for _ in 0..dice(12) {
                    let n = dice(20) as usize;
                    if busy >> n & 1 == 0 {
                        continue;
                    }
                    let (low, high) = ends.split_at_mut(n | 1);
                    let (own, peer) = match n & 1 {
                        0 => (&mut low[n], &mut high[0]),
                        _ => (&mut high[0], &mut low[n - 1]),
                    };
                    if under_way[n] < 8 {
                        write(&w, own, peer, 7);
                        under_way[n] += 1;
                    }
                }
                w.run_loan(worker);
            }
            w.recall();
            whole(&mut w);
            for (end, under_way) in ends.iter_mut().zip(&mut under_way) {
                *under_way -= std::iter::from_fn(|| end.cq.poll(&w)).count() as u64;
            }
            assert_eq!(under_way, [0; 20], "seed {seed}, round {round}: messages that stay");
        }
    }
}

/// Whether the WRITEs of a queue, so many that the whole loan is worth it, were executed by worker 0 with its loan alone.
fn is_on_loan(w: &mut World, (a, b): (&mut End, &End)) -> bool {
    w.lend();
    for id in 0..16 {
        write(w, a, b, id);
    }
    w.run_loan(0);
    let first = a.cq.poll(w);
    w.recall();
    whole(w);
    for id in u64::from(first.is_some())..16 {
        assert_eq!(a.completion(w).wr_id, id);
    }
    first.is_some()
}

#[test]
fn p03_a_member_whose_next_message_is_not_ordinary_stays_at_home_for_a_while() {
    let (mut w, mut crowd) = crowd();
    let (a, b) = crowd.iter_mut().find(|(a, _)| !watched(a, &w)).expect("most are not");
    assert!(is_on_loan(&mut w, (a, b)));
    w.lend();
    a.qp.post(&w, SendWr::read(1, &[a.sge(8, 8)], b.addr(0), b.rkey()));
    w.run_loan(0);
    a.nothing(&w);
    w.recall();
    whole(&mut w);
    assert_eq!(a.completion(&w).wr_id, 1);
    let away = (0..100).take_while(|_| !is_on_loan(&mut w, (a, b))).count();
    assert!((16..64).contains(&away), "{away} turns");
}

#[test]
fn p03_queues_that_have_fallen_silent_make_room_in_the_loan() {
    // More than a loan takes, all of one worker's page, and as many again that are busy later.
    const MANY: usize = 100;
    const LATER: usize = 20;
    let shape = QpShape {
        sq_log: 3,
        rq_log: 3,
        sq_log_stride: 7,
        rq_log_stride: 7,
        max_sge: 1,
        max_inline: 0,
    };
    let Pair {
        world: mut w,
        mut a,
        mut b,
    } = Pair::within(World::for_workers(1, 2), shape, 8, |_| {});
    let mut queues: Vec<_> = (0..MANY)
        .map(|_| Pair::reconnect(&mut w, &mut a, &mut b, shape).0)
        .collect();
    let (silent, busy) = queues.split_at_mut(MANY - LATER);
    let send = |w: &World, qp: &mut Qp, a: &End| {
        let wr = SendWr::write(1, &[a.sge(0, 8)], b.addr(0), b.rkey());
        qp.post(w, wr);
    };
    for qp in silent {
        send(&w, qp, &a);
        whole(&mut w);
        a.completion(&w);
    }
    let alone = (0..10_000).position(|_| {
        w.lend();
        busy.iter_mut().for_each(|qp| send(&w, qp, &a));
        w.run_loan(0);
        let early = std::iter::from_fn(|| a.cq.poll(&w)).count();
        w.recall();
        whole(&mut w);
        let late = std::iter::from_fn(|| a.cq.poll(&w)).count();
        assert_eq!(early + late, LATER);
        late == 0
    });
    assert!(alone.is_some(), "they are never all on loan");
}

#[test]
fn p03_who_is_busier_takes_the_seat_of_a_watched_queue() {
    let (mut w, mut crowd) = crowd();
    let (busy, idle): (Vec<_>, Vec<_>) = (0..12).partition(|&i| !watched(&crowd[i].0, &w));
    for id in 2..1000 {
        for &i in &busy[..2] {
            let (a, b) = &mut crowd[i];
            write(&w, a, b, id);
        }
        w.poll();
        for &i in &busy[..2] {
            assert_eq!(crowd[i].0.completion(&w).wr_id, id);
        }
    }
    assert!(busy[..2].iter().all(|&i| watched(&crowd[i].0, &w)));
    assert!(idle.iter().any(|&i| !watched(&crowd[i].0, &w)));
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

#[test]
fn h04_a_queue_with_a_rate_limit_stays_at_home() {
    let (mut w, mut a, b) = busy(World::new(1));
    let slow = QpAttrs {
        rate_limit: 1_000_000,
        ..QpAttrs::default()
    };
    a.guest
        .modify(&mut w, a.qp.qpn, attr::RATE_LIMIT, slow)
        .expect("a limit");
    write(&w, &mut a, &b, 2);
    w.lend();
    assert!(!w.run_loan(0).worked);
    a.nothing(&w);
    w.recall();
    w.run();
    assert_eq!(a.completion(&w).wr_id, 2);
    assert!(!watched(&a, &w));
    // Without it, as before.
    a.guest
        .modify(&mut w, a.qp.qpn, attr::RATE_LIMIT, QpAttrs::default())
        .expect("none");
    write(&w, &mut a, &b, 3);
    w.run();
    assert_eq!(a.completion(&w).wr_id, 3);
    w.lend();
    write(&w, &mut a, &b, 4);
    assert!(w.run_loan(0).worked);
    w.recall();
    assert_eq!(a.completion(&w).wr_id, 4);
}
