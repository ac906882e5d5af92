// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! How much memory a queue takes: for a program that makes ring memory for many.

use crate::platform::PAGE;
use crate::schema::RING_GRAIN_LEAST;
use crate::{cq, qp};
use rdma_uapi::class::qp::QpCaps;

/// Bytes of ring memory that a queue pair of `class` with these sizes takes, its receives from a shared queue if
/// `shared`; `None` if no device has such a queue pair.
pub fn qp_bytes(class: u16, caps: &QpCaps, shared: bool) -> Option<u64> {
    qp::bytes(class, caps, shared)?.checked_next_multiple_of(PAGE)
}

/// Where the same may begin, and its bytes, in a ring memory of the grain [`RING_GRAIN_LEAST`].
pub fn packed_qp(class: u16, caps: &QpCaps, shared: bool) -> Option<(u64, u64)> {
    let (bytes, align) = qp::packed(class, caps, shared)?;
    let grain = u64::from(RING_GRAIN_LEAST);
    Some((align.max(grain), bytes.checked_next_multiple_of(grain)?))
}

/// Bytes of ring memory that a completion queue of at least `entries` entries takes; `None` if no device has such a queue.
pub fn cq_bytes(entries: u32) -> Option<u64> {
    cq::bytes(entries)?.checked_next_multiple_of(PAGE)
}
