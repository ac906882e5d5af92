// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Shared receive queues: a ring of receive entries ([`crate::wqe::RecvHeader`]) that many queue pairs consume from.
//!
//! Posting is as on a queue pair's own ring: the entry, then its word 0; no doorbell. Entries are consumed in the order of
//! the ring, whatever queue pair consumes them, and an entry is free again as soon as it is consumed, which the device
//! says in the queue's [`SrqRecord`]: completions of several queue pairs are polled in no common order, so they cannot
//! tell it.

use crate::layout::{assert_layout, open_enum};
use core::sync::atomic::AtomicU32;
use zerocopy_derive::{FromBytes, IntoBytes, KnownLayout};

open_enum! {
    /// A shared receive queue's type, with the numbers of `enum ibv_srq_type`.
    pub struct SrqType(u8) {
        /// Shared by queue pairs that complete wherever each of them does.
        BASIC = 0,
        /// Named by the peer in each message (XRC): has an XRC domain and a completion queue of its own.
        XRC = 1,
    }
}

/// The record of a shared receive queue, 64 bytes in guest memory, written by the device alone.
#[derive(Debug, Default, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct SrqRecord {
    /// The device's consumer counter: every entry before it is free. Written with *release* ordering after the entry has
    /// been read.
    pub consumer: AtomicU32,
    /// Zero.
    pub reserved: [u32; 15],
}
assert_layout!(SrqRecord, 64, consumer @ 0);

/// Bits of [`crate::cmd::ModifySrqReq::mask`].
pub mod modify {
    /// `limit`: an event when fewer entries than this are posted, once; 0 disarms.
    pub const LIMIT: u32 = 1 << 0;
    /// `ring`, `record` and `log_entries`: the queue moves there.
    pub const RING: u32 = 1 << 1;
    /// All bits.
    pub const ALL: u32 = LIMIT | RING;
}
