// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one message costs the device, for a counter of instructions: batches of 32 RDMA WRITEs of 8 bytes, one doorbell and
//! one completion a batch. Everything that the device does is in `device`.
//!
//!     valgrind --tool=callgrind --toggle-collect='messages::device' target/release/examples/messages 1000

use verbena_engine::testing::{Pair, SendWr, World};

/// Messages of a batch.
const BATCH: u64 = 32;

#[inline(never)]
fn device(world: &mut World) {
    world.run();
}

fn main() {
    let batches: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("the number of batches");
    let mut pair = Pair::connected();
    let (sge, remote, rkey) = (pair.a.sge(0, 8), pair.b.addr(0), pair.b.rkey());
    for _ in 0..batches {
        for n in 1..=BATCH {
            let wr = SendWr::write(n, &[sge], remote, rkey);
            let wr = if n == BATCH { wr } else { wr.unsignaled() };
            pair.a.qp.post_quietly(&pair.world, wr);
        }
        pair.a.qp.ring(&pair.world);
        device(&mut pair.world);
        assert_eq!(pair.a.completion(&pair.world).wr_id, BATCH);
    }
}
