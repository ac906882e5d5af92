// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one message costs the device, for a counter of instructions: batches of RDMA WRITEs of 8 bytes, 32 unless a second
//! argument says otherwise, one doorbell and one completion a batch. Everything that the device does is in `device`.
//!
//!     valgrind --tool=callgrind --toggle-collect='messages::device' target/release/examples/messages 1000

use verbena_engine::testing::{Pair, SendWr, World};

#[inline(never)]
fn device(world: &mut World) {
    world.run();
}

fn main() {
    let batches: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("the number of batches");
    let batch: u64 = std::env::args()
        .nth(2)
        .map_or(32, |text| text.parse().expect("messages of a batch"));
    let mut pair = Pair::connected();
    let (sge, remote, rkey) = (pair.a.sge(0, 8), pair.b.addr(0), pair.b.rkey());
    for _ in 0..batches {
        for n in 1..=batch {
            let wr = SendWr::write(n, &[sge], remote, rkey);
            let wr = if n == batch { wr } else { wr.unsignaled() };
            pair.a.qp.post_quietly(&pair.world, wr);
        }
        pair.a.qp.ring(&pair.world);
        device(&mut pair.world);
        assert_eq!(pair.a.completion(&pair.world).wr_id, batch);
    }
}
