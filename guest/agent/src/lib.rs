// SPDX-License-Identifier: MIT OR Apache-2.0
//! The line between the launcher and a guest: both of its ends, and what travels on it.
//!
//! In the guest, the `verbena-agent` binary is the last thing init starts. It reads JSON lines from a virtio-serial
//! port and starts programs, signals them, moves files and powers the guest off. On the host, [`Client`] is the other
//! end. Both are here so that there is one definition of the messages, and so that the tests run them against each
//! other over a socket pair, without a guest.
//!
//! This room knows nothing of RDMA, of QEMU or of where the bytes come from.
#![warn(missing_docs)]

mod client;
mod process;
pub mod protocol;
mod server;

pub use client::{CallError, Client};
pub use server::{serve, Power};
