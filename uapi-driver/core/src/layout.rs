// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! How much memory a queue takes: for a program that makes ring memory for many.

use crate::platform::PAGE;
use crate::{cq, qp};
use rdma_uapi::class::qp::QpCaps;

/// Bytes of ring memory that a queue pair of `class` with these sizes takes, its receives from a shared queue if
/// `shared`; `None` if no device has such a queue pair.
pub fn qp_bytes(class: u16, caps: &QpCaps, shared: bool) -> Option<u64> {
    qp::bytes(class, caps, shared)?.checked_next_multiple_of(PAGE)
}

/// Bytes of ring memory that a completion queue of at least `entries` entries takes; `None` if no device has such a queue.
pub fn cq_bytes(entries: u32) -> Option<u64> {
    cq::bytes(entries)?.checked_next_multiple_of(PAGE)
}
