// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one message costs the device, for a counter of instructions: batches of RDMA WRITEs of 8 bytes, 32 unless a second
//! argument says otherwise, one completion a batch. Everything that the device does is in `device`. A third argument says how:
//!
//! - `loan`, if there is none: the queue is watched, and the worker has it on loan;
//! - `alone`: the same, where there is a second worker that has nothing to do, and a second connection;
//! - `beside`: the second worker does as much for the second connection;
//! - `rung-alone`, `rung-beside`: as these, for queues that are rung for, because each worker watches others already;
//! - `poll`: the engine is whole, and is rung for;
//! - `turns`: the same, with one message on each of 32 queue pairs in the place of a batch.
//!
//!     valgrind --tool=callgrind --toggle-collect='messages::device' target/release/examples/messages 1000

use verbena_engine::testing::{End, Pair, Qp, QpShape, SendWr, World};
use verbena_hw::doorbell::WATCH_SEATS;

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

/// A connection, and others of the same guests: the queue pairs of the end that sends.
struct Connection {
    from: End,
    to: End,
    others: Vec<Qp>,
}

impl Connection {
    /// Posts one message on each queue pair, the connection's own last.
    fn post_on_all(&mut self, world: &World) {
        for i in 0..self.others.len() {
            core::mem::swap(&mut self.from.qp, &mut self.others[i]);
            post(world, &mut self.from, &self.to, 1);
            core::mem::swap(&mut self.from.qp, &mut self.others[i]);
        }
        post(world, &mut self.from, &self.to, 1);
    }

    fn completions(&mut self, world: &World) -> usize {
        std::iter::from_fn(|| self.from.cq.poll(world)).count()
    }
}

/// Has the engine see that all these queues are busy, and lend what it can.
fn settle(world: &mut World, connections: &mut [Connection]) {
    loop {
        world.lend();
        let mut left = 0;
        for connection in &mut *connections {
            connection.post_on_all(world);
            left += connection.others.len() + 1;
        }
        world.run_loans(false);
        left -= connections.iter_mut().map(|c| c.completions(world)).sum::<usize>();
        if left == 0 {
            return;
        }
        world.recall();
        while world.engine.poll(world.now, world.budget, &world.env).did_work {}
        left -= connections.iter_mut().map(|c| c.completions(world)).sum::<usize>();
        assert_eq!(left, 0);
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

/// Queue pairs that have a message each, in `turns`.
const TURNS: usize = 32;

/// A message on each queue pair, round by round.
fn in_turn(world: &mut World, connection: &mut Connection, rounds: u64) {
    for _ in 0..rounds {
        connection.post_on_all(world);
        world.recall();
        device(world, How::Poll);
        assert_eq!(connection.completions(world), TURNS);
    }
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
    // How, the connections that are busy, the workers, and the queue pairs beside each connection's own.
    let (how, busy, workers, beside) = match args.next().as_deref() {
        None | Some("loan") => (How::Loans(1), 1, 1, 0),
        Some("alone") => (How::Loans(1), 1, 2, 0),
        Some("beside") => (How::Loans(2), 2, 2, 0),
        Some("rung-alone") => (How::Loans(1), 1, 2, WATCH_SEATS),
        Some("rung-beside") => (How::Loans(2), 2, 2, WATCH_SEATS),
        Some("poll") => (How::Poll, 1, 1, 0),
        Some("turns") => (How::Poll, 1, 1, TURNS - 1),
        Some(other) => panic!("{other}: loan, alone, beside, rung-alone, rung-beside, poll or turns"),
    };
    let rung = beside == WATCH_SEATS;
    let mut world = World::for_workers(1, workers);
    let mut connections = Vec::new();
    for n in 0..workers {
        let Pair { world: back, a, b } = Pair::within(world, Default::default(), 8, |_| {});
        world = back;
        // The guests' pages go to the workers in turn: of each connection another end sends.
        let (mut from, mut to) = if n % 2 == 0 { (a, b) } else { (b, a) };
        let others = (0..beside).map(|_| {
            // The first ones to be busy are those that will be watched.
            world.run();
            let (mine, _) = Pair::reconnect(&mut world, &mut from, &mut to, QpShape::default());
            mine
        });
        let others = others.collect();
        connections.push(Connection { from, to, others });
    }
    if beside == TURNS - 1 {
        return in_turn(&mut world, &mut connections[0], batches);
    }
    settle(&mut world, &mut connections);
    for connection in &connections {
        assert_eq!(connection.from.qp.is_watched(&world), !rung);
    }
    connections.truncate(busy);
    for _ in 0..batches {
        for Connection { from, to, .. } in &mut connections {
            post(&world, from, to, batch);
            if let How::Poll = how {
                from.qp.ring_always(&world);
            }
        }
        if let How::Poll = how {
            world.recall();
        }
        device(&mut world, how);
        for connection in &mut connections {
            assert_eq!(connection.from.completion(&world).wr_id, batch);
        }
    }
}
