// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs in a guest, and natively beside the device: the conformance suite, and the programs that people type.
//!
//! Nothing here knows how it is attached: that is a word on the command line, see [`verbena::Attachment`].
#![forbid(unsafe_code)]

pub mod conformance;
pub mod harness;
pub mod pattern;
