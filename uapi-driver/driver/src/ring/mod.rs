// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fast path: work requests into rings, completions out of them. No system call, no lock, no allocation.

pub(crate) mod complete;
pub(crate) mod memory;
pub(crate) mod place;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod shared;
pub(crate) mod table;
pub(crate) mod work;
