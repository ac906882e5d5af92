// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server as its clients meet it: in this process, on sockets of its own, in milliseconds.

mod attach;
mod common;
mod control;
#[path = "../patience/mod.rs"]
mod patience;
mod protocol;
