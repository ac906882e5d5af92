// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether two workers are in each other's way: two connections that have nothing in common, each one's send queue full of
//! RDMA WRITEs of 8 bytes, executed by one worker after the other, and by both at once. Prints a line for each repetition:
//! nanoseconds that the slower of the two took, alone and beside the other.
//!
//!     target/release/examples/workers 20

use verbena_engine::testing::{End, Pair, QpShape, SendWr, World};

/// log2 of the messages of a queue.
const LOG: u8 = 12;

fn fill(world: &World, from: &mut End, to: &End) {
    for n in 1..1 << LOG {
        let wr = SendWr::write(n, &[from.sge(0, 8)], to.addr(0), to.rkey()).unsignaled();
        from.qp.post_quietly(world, wr);
    }
    from.qp
        .post(world, SendWr::write(0, &[from.sge(0, 8)], to.addr(0), to.rkey()));
}

fn main() {
    let repetitions: u32 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("the number of repetitions");
    let shape = QpShape {
        sq_log: LOG,
        ..QpShape::default()
    };
    let Pair { world, mut a, b } = Pair::within(World::for_workers(1, 2), shape, 4, |_| {});
    let Pair {
        mut world,
        a: c,
        b: mut d,
    } = Pair::within(world, shape, 4, |_| {});
    for _ in 0..=repetitions {
        let [alone, beside] = [false, true].map(|at_once| {
            fill(&world, &mut a, &b);
            fill(&world, &mut d, &c);
            world.lend();
            let ran = world.run_loans(at_once);
            world.recall();
            world.run();
            assert_eq!((a.completion(&world).wr_id, d.completion(&world).wr_id), (0, 0));
            let slower = ran.into_iter().map(|(_, took)| took).max();
            slower.unwrap_or_default().as_nanos()
        });
        println!("{alone} {beside}");
    }
}
