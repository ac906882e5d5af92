// SPDX-License-Identifier: MIT OR Apache-2.0
//! Class CM_ID on devices whose QP 1 is the kernel's, served by its rdma_cm (U18): ids of the system-wide node connect queue pairs
//! that libibverbs made.
//!
//! Both sides are on one device, which sends to itself; who else takes part says the case: the kernel's `rdma_cm` device, a
//! Verbena HCA, a process that is killed.

mod cases;
pub mod verbs;
mod world;

pub use cases::{hold, CASES};
pub use world::{Place, World};

/// One story.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What happens; an error is what was not as expected.
    pub run: fn(&World) -> anyhow::Result<()>,
}
