// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conversations with the engine: a driver, its guest's memory, and a clock that only the test advances.

mod admin_queue;
mod completion_counters;
mod completion_queues;
mod counter_sets;
mod datagrams;
mod dump;
mod errors;
mod event_queues;
mod every_operation;
mod fast_registration;
mod hostile;
mod inspect;
mod isolation;
mod links;
mod loans;
mod memory;
mod multicast;
mod null_region;
mod numbers;
mod operations;
mod port_counters;
mod queries;
mod rate_limit;
mod raw_ethernet;
mod reached;
mod registers;
mod reregistration;
mod rights;
mod scale;
mod shared_receives;
mod sleep;
mod state_machine;
mod statuses;
mod transitions;
mod unreliable;
mod watch;
mod windows;
mod xrc;

/// How the HCAs of these tests reach each other: by a single copy. `tests/packets` has the other way.
mod way {
    use verbena_engine::testing::{Pair, QpShape, World};
    use verbena_hw::qp::QpAttrs;

    pub fn world(seed: u64) -> World {
        World::new(seed)
    }

    /// What is expected where the two differ: a sender of packets does not know who is there, and the service level is not
    /// in what is behind the Ethernet header.
    pub fn either<T>(by_copy: T, _by_packets: T) -> T {
        by_copy
    }

    pub fn connected() -> Pair {
        Pair::connected()
    }

    pub fn pair(shape: QpShape, cq_log: u8, tune: impl Fn(&mut QpAttrs)) -> Pair {
        Pair::with(shape, cq_log, tune)
    }
}
