// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conversations over packets: those of `tests/engine` that are about connections, word for word, and those that only
//! packets have.

mod answered;
mod counted;
#[path = "../engine/counter_sets.rs"]
mod counter_sets;
#[path = "../engine/datagrams.rs"]
mod datagrams;
#[path = "../engine/errors.rs"]
mod errors;
#[path = "../engine/every_operation.rs"]
mod every_operation;
mod hostile;
#[path = "../engine/isolation.rs"]
mod isolation;
mod loss;
#[path = "../engine/memory.rs"]
mod memory;
#[path = "../engine/multicast.rs"]
mod multicast;
#[path = "../engine/null_region.rs"]
mod null_region;
#[path = "../engine/operations.rs"]
mod operations;
mod partitions;
#[path = "../engine/port_counters.rs"]
mod port_counters;
#[path = "../engine/rate_limit.rs"]
mod rate_limit;
#[path = "../engine/reached.rs"]
mod reached;
#[path = "../engine/rights.rs"]
mod rights;
mod scripts;
#[path = "../engine/shared_receives.rs"]
mod shared_receives;
#[path = "../engine/state_machine.rs"]
mod state_machine;
mod unacknowledged;
#[path = "../engine/unreliable.rs"]
mod unreliable;
#[path = "../engine/windows.rs"]
mod windows;
mod wire;
#[path = "../engine/xrc.rs"]
mod xrc;

/// How the HCAs of these tests reach each other: by packets, over a link without faults.
mod way {
    use verbena_engine::testing::{Pair, QpShape, World};
    use verbena_hw::qp::QpAttrs;

    pub fn world(seed: u64) -> World {
        World::over_packets(seed)
    }

    /// What is expected where the two differ: a sender of packets does not know who is there, and the service level is not
    /// in what is behind the Ethernet header.
    pub fn either<T>(_by_copy: T, by_packets: T) -> T {
        by_packets
    }

    pub fn connected() -> Pair {
        pair(QpShape::default(), 8, |_| {})
    }

    pub fn pair(shape: QpShape, cq_log: u8, tune: impl Fn(&mut QpAttrs)) -> Pair {
        Pair::within(world(1), shape, cq_log, tune)
    }
}
