// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs in a guest, and natively beside the device: the conformance suite, and the programs that people type.
//!
//! Nothing here knows how it is attached: that is a word on the command line, see [`verbena::Attachment`].
#![deny(unsafe_code)] // Only conformance::raw (bad messages are what a safe interface cannot say), connections::libibverbs, function, kernel_cm::verbs, program::{mappings, pipe}, and rdma_cm's two ends need it.

pub mod conformance;
pub mod connections;
pub mod function;
pub mod harness;
pub mod kernel_cm;
pub mod link;
pub mod pattern;
pub mod perf;
pub mod program;
pub mod rdma_cm;
pub mod trace;
