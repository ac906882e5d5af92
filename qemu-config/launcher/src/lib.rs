// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests with an HCA in them, from nothing: what `cargo xtask` and the end-to-end tests stand on.
//!
//! - [`setup`] makes what has to exist before a guest can boot, once, in the user's cache;
//! - [`build`] makes what depends on the checkout: programs and the kernel module;
//! - [`hca`] runs `verbena-hca`, [`guest`] runs QEMU and talks to the agent in it;
//! - [`session`] and [`process`] see to it that nothing outlives us.
//!
//! This room starts processes and knows QEMU, Debian and cargo. It knows nothing of RDMA: what a test does in a guest
//! is the test's business.
#![warn(missing_docs)]

pub mod archive;
pub mod build;
pub mod console;
pub mod cpio;
pub mod graph;
pub mod guest;
pub mod hca;
pub mod image;
pub mod kernel;
pub mod key;
pub mod mirror;
pub mod payload;
pub mod process;
pub mod profile;
pub mod progress;
pub mod qemu;
pub mod session;
pub mod setup;
mod tool;
pub mod tree;
pub mod ucx;
pub mod valgrind;

pub use build::Checkout;
pub use guest::{Finished, Guest, GuestConfig, Program, Running};
pub use hca::{Hca, HcaConfig};
pub use payload::Payload;
pub use profile::Scenario;
pub use progress::Progress;
pub use session::Session;
pub use setup::{prepare, Environment, Options};
