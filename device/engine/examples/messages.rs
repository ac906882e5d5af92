// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one message costs the device, for a counter of instructions: batches of RDMA WRITEs of 8 bytes, 32 unless a second
//! argument says otherwise, one completion a batch. Everything that the device does is in `device`. A third argument says how:
//!
//! - `loan`, if there is none: the queue is watched, and the worker has it on loan;
//! - `alone`: the same, where there is a second worker that has nothing to do, and a second connection;
//! - `beside`: the second worker does as much for the second connection;
//! - `poll`: the engine is whole, and is rung for.
//!
//!     valgrind --tool=callgrind --toggle-collect='messages::device' target/release/examples/messages 1000

use verbena_engine::testing::{End, Pair, SendWr, World};

/// What serves the queues.
#[derive(Clone, Copy)]
enum How {
    Loans(usize),
    Poll,
}

#[inline(never)]
fn device(world: &mut World, how: How) {
    match how {
        How::Loans(workers) => (0..workers).for_each(|worker| assert!(world.run_loan(worker).worked)),
        How::Poll => while world.engine.poll(world.now, world.budget, &world.env).did_work {},
    }
}

fn post(world: &World, from: &mut End, to: &End, batch: u64) {
    for n in 1..=batch {
        let wr = SendWr::write(n, &[from.sge(0, 8)], to.addr(0), to.rkey());
        let wr = if n == batch { wr } else { wr.unsignaled() };
        from.qp.post_quietly(world, wr);
    }
    from.qp.ring(world);
}

fn main() {
    let mut args = std::env::args().skip(1);
    let batches: u64 = args
        .next()
        .and_then(|text| text.parse().ok())
        .expect("the number of batches");
    let batch: u64 = args
        .next()
        .map_or(32, |text| text.parse().expect("messages of a batch"));
    let (how, busy, workers) = match args.next().as_deref() {
        None | Some("loan") => (How::Loans(1), 1, 1),
        Some("alone") => (How::Loans(1), 1, 2),
        Some("beside") => (How::Loans(2), 2, 2),
        Some("poll") => (How::Poll, 1, 1),
        Some(other) => panic!("{other}: loan, alone, beside or poll"),
    };
    let mut world = World::for_workers(1, workers);
    let mut connections = Vec::new();
    for n in 0..workers {
        let Pair { world: back, a, b } = Pair::within(world, Default::default(), 8, |_| {});
        world = back;
        // The guests' pages go to the workers in turn: of each connection another end sends.
        connections.push(if n % 2 == 0 { (a, b) } else { (b, a) });
    }
    connections.truncate(busy);
    for n in 0..=batches {
        for (from, to) in &mut connections {
            post(&world, from, to, batch);
            if let How::Poll = how {
                from.qp.ring_always(&world);
            }
        }
        match how {
            // Its first work gives a queue its seat.
            How::Loans(_) if n == 0 => {
                world.run();
                world.lend();
            }
            _ => device(&mut world, how),
        }
        for (from, _) in &mut connections {
            assert_eq!(from.completion(&world).wr_id, batch);
        }
    }
}
