// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Work queue entries.
//!
//! A queue's entries have one size, its *stride*, chosen when the queue pair is created: large enough for the most
//! scatter/gather elements or inline bytes that its owner wants. A fixed stride means that the owner byte of an entry
//! is never overlaid by another entry's data, so the phase rule of [`crate::ring`] holds without stamping.
//!
//! A send entry is a [`SendHeader`], then for XRC an [`XrcArgs`], then for atomics an [`AtomicArgs`], for BIND_MW a
//! [`BindArgs`], for FLUSH a [`FlushArgs`], for UD a [`UdArgs`], then either `num_sge`
//! [`Sge`]s or `inline_len` bytes. A raw frame ([`crate::flow`]) needs nothing but these. A receive entry is a [`RecvHeader`] and its [`Sge`]s.

use crate::id::{Key, Qpn, Srqn};
use crate::layout::{assert_layout, open_enum};
use crate::qp::{Path, QpType};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Smallest stride of a send queue: log2 of bytes.
pub const SEND_MIN_LOG_STRIDE: u8 = 6;
/// Smallest stride of a receive queue: log2 of bytes.
pub const RECV_MIN_LOG_STRIDE: u8 = 5;
/// Largest stride: log2 of bytes. 1024 holds 32 elements or 512 inline bytes with every header.
pub const MAX_LOG_STRIDE: u8 = 10;
/// Largest number of entries of a queue: log2.
pub const MAX_LOG_ENTRIES: u8 = 15;
/// Most scatter/gather elements of an entry.
pub const MAX_SGE: u8 = 32;
/// Most elements of a region that a work request registers, by FAST_REGISTER_LIST.
pub const MAX_FAST_ELEMENTS: u32 = 512;
/// Most inline bytes of an entry.
pub const MAX_INLINE: u16 = 512;
/// Longest message in bytes (IBA vol. 1, 9.7.7: 2^31).
pub const MAX_MESSAGE: u64 = 1 << 31;

open_enum! {
    /// What a send entry asks for.
    pub struct SendOpcode(u8) {
        /// RDMA WRITE.
        WRITE = 0,
        /// RDMA WRITE with immediate data.
        WRITE_WITH_IMM = 1,
        /// SEND.
        SEND = 2,
        /// SEND with immediate data.
        SEND_WITH_IMM = 3,
        /// RDMA READ.
        READ = 4,
        /// Atomic compare and swap.
        COMPARE_SWAP = 5,
        /// Atomic fetch and add.
        FETCH_ADD = 6,
        /// Invalidate a key of this side: the one in `imm`.
        LOCAL_INVALIDATE = 7,
        /// Bind a memory window of type 2 to `remote_addr` and what follows of a region: [`BindArgs`]. `rkey` is the key
        /// that it will have: its index, and a tag of the poster's choice.
        BIND_MW = 8,
        /// SEND with invalidation of a key of the peer.
        SEND_WITH_INVALIDATE = 9,
        /// Give memory to a region that has none ([`crate::cmd::MR_FAST`]): what the elements name, which are parts of regions of
        /// the same protection domain. `rkey` is the key that it will have: its index, and a tag of the poster's choice;
        /// `remote_addr` the address of its first byte (0 with ZERO_BASED), `imm` its rights ([`crate::qp::access`]).
        FAST_REGISTER = 10,
        /// Make earlier WRITEs visible or persistent at the peer: [`FlushArgs`].
        FLUSH = 11,
        /// Atomic write of 8 bytes, all at once, after everything before it is visible.
        ATOMIC_WRITE = 12,
        /// As FAST_REGISTER, for up to [`MAX_FAST_ELEMENTS`]: the entry's own elements name memory that holds the region's, one
        /// [`Sge`] behind the other. It is read once, when the entry is executed.
        FAST_REGISTER_LIST = 13,
    }
}

/// Flags of a send entry.
pub mod send_flags {
    /// Starts after all earlier READs and atomics of this queue have completed.
    pub const FENCE: u8 = 1 << 0;
    /// Writes a completion also when it succeeds.
    pub const SIGNALED: u8 = 1 << 1;
    /// The peer's completion counts as solicited.
    pub const SOLICITED: u8 = 1 << 2;
    /// The data follows the headers instead of scatter/gather elements.
    pub const INLINE: u8 = 1 << 3;
    /// All flags.
    pub const ALL: u8 = FENCE | SIGNALED | SOLICITED | INLINE;
}

/// The beginning of every send entry. Word 0 is written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendHeader {
    /// Phase bit.
    pub owner: u8,
    /// A [`SendOpcode`].
    pub opcode: u8,
    /// [`send_flags`].
    pub flags: u8,
    /// Number of scatter/gather elements; 0 with inline data.
    pub num_sge: u8,
    /// Immediate data in network order, or the R_Key to invalidate.
    pub imm: u32,
    /// The work request's id, returned in its completion.
    pub wr_id: u64,
    /// Remote address of WRITE, READ and atomics.
    pub remote_addr: u64,
    /// R_Key of WRITE, READ and atomics.
    pub rkey: Key,
    /// Inline data's length in bytes; 0 without inline data.
    pub inline_len: u32,
}
assert_layout!(SendHeader, 32, owner @ 0, opcode @ 1, flags @ 2, num_sge @ 3, imm @ 4, wr_id @ 8, remote_addr @ 16, rkey @ 24, inline_len @ 28);

/// Operands of an atomic operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AtomicArgs {
    /// COMPARE_SWAP: the value to compare with. FETCH_ADD: the value to add.
    pub compare_add: u64,
    /// COMPARE_SWAP: the value to store.
    pub swap: u64,
}
assert_layout!(AtomicArgs, 16);

/// Operands of BIND_MW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindArgs {
    /// Bytes of the window.
    pub len: u64,
    /// L_Key of the region that it is bound to.
    pub lkey: Key,
    /// What the window grants ([`crate::qp::access`]): remote rights, ZERO_BASED, FLUSH_GLOBAL.
    pub access: u32,
}
assert_layout!(BindArgs, 16, len @ 0, lkey @ 8, access @ 12);

/// Operands of FLUSH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlushArgs {
    /// Bytes from `remote_addr` on, with [`flush::RANGE`].
    pub len: u64,
    /// [`flush::GLOBAL`], [`flush::PERSISTENT`], or both.
    pub placement: u32,
    /// [`flush::RANGE`] or [`flush::REGION`].
    pub level: u32,
}
assert_layout!(FlushArgs, 16, len @ 0, placement @ 8, level @ 12);

/// What a FLUSH asks for, with the numbers of Linux's `enum ib_flush_type` and `enum ib_flush_level`.
pub mod flush {
    /// Placement: visible to everything that can access the memory.
    pub const GLOBAL: u32 = 1 << 0;
    /// Placement: survives the loss of power.
    pub const PERSISTENT: u32 = 1 << 1;
    /// Level: the range.
    pub const RANGE: u32 = 0;
    /// Level: the whole region, whatever the range says.
    pub const REGION: u32 = 1;
}

/// What every entry of an XRC initiator has behind its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XrcArgs {
    /// The peer's shared receive queue: whose receives the message takes and whose protection domain its keys are of. Not looked
    /// at by what this side executes itself.
    pub srqn: Srqn,
    /// Zero.
    pub reserved: [u32; 3],
}
assert_layout!(XrcArgs, 16, srqn @ 0);

/// Destination of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UdArgs {
    /// The path.
    pub path: Path,
    /// The destination's QP.
    pub dest_qpn: Qpn,
    /// The Q_Key to send with.
    pub qkey: u32,
    /// Zero.
    pub reserved: u64,
}
assert_layout!(UdArgs, 64, path @ 0, dest_qpn @ 48, qkey @ 52);

/// The beginning of every receive entry. Word 0 is written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecvHeader {
    /// Phase bit.
    pub owner: u8,
    /// Zero.
    pub reserved0: [u8; 2],
    /// Number of scatter/gather elements.
    pub num_sge: u8,
    /// Zero.
    pub reserved1: u32,
    /// The work request's id, returned in its completion.
    pub wr_id: u64,
}
assert_layout!(RecvHeader, 16, owner @ 0, num_sge @ 3, wr_id @ 8);

/// A scatter/gather element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sge {
    /// Address in the region's own address space.
    pub addr: u64,
    /// Length in bytes; 0 is 0 (not 2^31).
    pub len: u32,
    /// L_Key of the region.
    pub lkey: Key,
}
assert_layout!(Sge, 16, addr @ 0, len @ 8, lkey @ 12);

/// Bytes that every send entry of a queue pair of this type has before its operands, elements and inline data: its header, and
/// behind it [`UdArgs`] or [`XrcArgs`].
pub const fn send_head(kind: QpType) -> usize {
    size_of::<SendHeader>()
        + match kind {
            QpType::UD | QpType::GSI => size_of::<UdArgs>(),
            QpType::XRC_INI => size_of::<XrcArgs>(),
            _ => 0,
        }
}

/// The smallest log2 stride of a send queue of this type whose entries hold `max_sge` elements and `max_inline` bytes, and the
/// operands of any operation that the type has; `None` if beyond [`MAX_LOG_STRIDE`].
///
/// An RC entry holds two elements or 32 inline bytes in 64 bytes: only atomics need the operand block, and those have
/// one element.
pub fn send_log_stride(kind: QpType, max_sge: u8, max_inline: u16) -> Option<u8> {
    let head = send_head(kind) as u32;
    let atomics = match kind {
        QpType::UD | QpType::GSI => 0,
        _ => head + 16 + 16,
    };
    let bytes = (head + 16 * max_sge as u32).max(head + max_inline as u32).max(atomics);
    log_stride(bytes, SEND_MIN_LOG_STRIDE)
}

/// The smallest log2 stride of a receive queue whose entries hold `max_sge` elements; `None` if beyond
/// [`MAX_LOG_STRIDE`].
pub fn recv_log_stride(max_sge: u8) -> Option<u8> {
    log_stride(16 + 16 * max_sge as u32, RECV_MIN_LOG_STRIDE)
}

fn log_stride(bytes: u32, min: u8) -> Option<u8> {
    let log = (bytes.next_power_of_two().trailing_zeros() as u8).max(min);
    (log <= MAX_LOG_STRIDE).then_some(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h04_strides_hold_what_the_limits_promise() {
        assert_eq!(send_log_stride(QpType::RC, 2, 32), Some(6));
        assert_eq!(send_log_stride(QpType::RC, 3, 0), Some(7));
        // An atomic's operands and its element, behind the number of the shared receive queue.
        assert_eq!(send_log_stride(QpType::XRC_INI, 1, 0), Some(7));
        for kind in [QpType::RC, QpType::UD, QpType::XRC_INI] {
            assert_eq!(send_log_stride(kind, MAX_SGE, MAX_INLINE), Some(10));
        }
        assert_eq!(recv_log_stride(1), Some(5));
        assert_eq!(recv_log_stride(MAX_SGE), Some(10));
        assert_eq!(send_log_stride(QpType::RC, 64, 0), None);
    }
}
