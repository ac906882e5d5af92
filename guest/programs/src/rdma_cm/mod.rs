// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our connection manager and a kernel's rdma_cm, talking (U18).
//!
//! Ours is crate `rdma-cm` on the real clock, the state machine that the driver's core runs on Verbena's QP 1. Its datagrams
//! travel as RoCEv2 packets through a packet socket on one end of a veth pair. On the other end sits rdma_rxe, and behind it
//! the kernel's ib_cm and rdma_cm, which a program uses through `/dev/infiniband/rdma_cm`. Both are driven by one thread,
//! so a case reads as what is said, in its order.
//!
//! No queue pair is behind either side: to a connection manager it is a number. What is on a queue pair's way through its
//! states is shown where Verbena's own sides connect (`conformance::cm`).

mod carrier;
mod cases;
mod ours;
pub(crate) mod theirs;
mod world;

pub use cases::CASES;
pub use world::{Place, World};

/// One conversation.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is said; an error is what was not as expected.
    pub run: fn(&mut World) -> anyhow::Result<()>,
}
