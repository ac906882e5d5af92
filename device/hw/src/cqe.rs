// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Completion queue entries, and the record by which a completion queue is consumed and armed.

use crate::id::Qpn;
use crate::layout::{assert_layout, named, open_enum};
use core::sync::atomic::{AtomicU32, AtomicU64};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest number of entries of a completion queue: log2.
pub const MAX_LOG_ENTRIES: u8 = 22;

open_enum! {
    /// How a work request ended, with the numbers of `enum ibv_wc_status` (IBA vol. 1, 11.6.2).
    pub struct Status(u8) {
        /// Success.
        SUCCESS = 0,
        /// Local length error.
        LOC_LEN_ERR = 1,
        /// Local QP operation error.
        LOC_QP_OP_ERR = 2,
        /// Local EE context operation error (never: reliable datagram is not offered).
        LOC_EEC_OP_ERR = 3,
        /// Local protection error.
        LOC_PROT_ERR = 4,
        /// Flushed, because the queue pair is in the error state.
        WR_FLUSH_ERR = 5,
        /// Memory window bind error.
        MW_BIND_ERR = 6,
        /// Bad response.
        BAD_RESP_ERR = 7,
        /// Local access error.
        LOC_ACCESS_ERR = 8,
        /// Remote invalid request.
        REM_INV_REQ_ERR = 9,
        /// Remote access error.
        REM_ACCESS_ERR = 10,
        /// Remote operation error.
        REM_OP_ERR = 11,
        /// Transport retry counter exceeded.
        RETRY_EXC_ERR = 12,
        /// RNR retry counter exceeded.
        RNR_RETRY_EXC_ERR = 13,
        /// Remote aborted.
        REM_ABORT_ERR = 16,
        /// Fatal error.
        FATAL_ERR = 19,
        /// Response timeout.
        RESP_TIMEOUT_ERR = 20,
        /// General error.
        GENERAL_ERR = 21,
    }
}

open_enum! {
    /// What a completion is of. Meaningless unless the status is SUCCESS.
    pub struct Opcode(u8) {
        /// A SEND of any kind.
        SEND = 0,
        /// An RDMA WRITE of either kind.
        RDMA_WRITE = 1,
        /// An RDMA READ.
        RDMA_READ = 2,
        /// A compare and swap.
        COMP_SWAP = 3,
        /// A fetch and add.
        FETCH_ADD = 4,
        /// A memory window bind.
        BIND_MW = 5,
        /// A local invalidate.
        LOCAL_INV = 6,
        /// A fast registration.
        REG_MR = 7,
        /// A flush.
        FLUSH = 8,
        /// An atomic write.
        ATOMIC_WRITE = 9,
        /// A receive, of a SEND.
        RECV = 128,
        /// A receive, of an RDMA WRITE with immediate data.
        RECV_RDMA_WITH_IMM = 129,
    }
}

/// Flags of a completion.
pub mod flags {
    /// The work request was a receive. Also set with errors, where the opcode says nothing.
    pub const RECV: u8 = 1 << 0;
    /// `imm` holds immediate data.
    pub const IMM: u8 = 1 << 1;
    /// `imm` holds the R_Key that the message invalidated.
    pub const INVALIDATED: u8 = 1 << 2;
    /// The receive buffer begins with a 40-byte GRH.
    pub const GRH: u8 = 1 << 3;
    /// The peer asked for a solicited event.
    pub const SOLICITED: u8 = 1 << 4;
    /// `imm` holds the tag of the flow rule that steered the frame here.
    pub const TAG: u8 = 1 << 5;
    /// The receive was one of an XRC shared receive queue, whose cookie this is.
    pub const XRC: u8 = 1 << 6;
}

/// A completion queue entry: one cache line. Word 0 is written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cqe {
    /// Phase bit.
    pub owner: u8,
    /// An [`Opcode`].
    pub opcode: u8,
    /// A [`Status`].
    pub status: u8,
    /// [`flags`].
    pub flags: u8,
    /// The queue pair of the work request; of an XRC shared receive queue's receive, the target that it came to.
    pub qpn: Qpn,
    /// The work request's id.
    pub wr_id: u64,
    /// Bytes received, or read by a READ or an atomic.
    pub byte_len: u32,
    /// Immediate data in network order, or the invalidated key, or a flow rule's tag.
    pub imm: u32,
    /// The queue's consumer counter after this work request: every entry before it is free again.
    pub consumed: u32,
    /// With an error: the device's own reason, see [`vendor`].
    pub vendor_err: u32,
    /// When the completion was written, in nanoseconds of the device's clock.
    pub timestamp: u64,
    /// Datagrams, and receives of an XRC shared receive queue: the sender's QP.
    pub src_qpn: Qpn,
    /// Datagrams: P_Key index. Frames: the headers that were found ([`crate::flow::found`]).
    pub pkey_index: u16,
    /// Datagrams: service level.
    pub sl: u8,
    /// Zero.
    pub reserved0: u8,
    /// Datagrams, frames: the sender's MAC address.
    pub smac: [u8; 6],
    /// Datagrams, frames: VLAN id, or 0xffff.
    pub vlan: u16,
    /// The cookie that the queue pair was created with: a driver finds its QP by it without a search. With
    /// [`flags::XRC`], the shared receive queue's.
    pub cookie: u64,
}
assert_layout!(Cqe, 64, owner @ 0, opcode @ 1, status @ 2, flags @ 3, qpn @ 4, wr_id @ 8, byte_len @ 16, imm @ 20,
    consumed @ 24, vendor_err @ 28, timestamp @ 32, src_qpn @ 40, pkey_index @ 44, sl @ 46, smac @ 48, vlan @ 54, cookie @ 56);

named! {
    /// Why the device completed a work request with an error: finer than the IBA status.
    pub mod vendor {
        /// No finer reason.
        pub const NONE: u32 = 0;
        /// The WQE's opcode is not one the queue's type has.
        pub const OPCODE: u32 = 1;
        /// The WQE's flags are not allowed.
        pub const FLAGS: u32 = 2;
        /// The WQE has more elements than its stride holds, or than the queue was created for.
        pub const SGE_COUNT: u32 = 3;
        /// The WQE has more inline data than its stride holds, or than the queue was created for.
        pub const INLINE_LEN: u32 = 4;
        /// No region has the key.
        pub const KEY_UNKNOWN: u32 = 5;
        /// The region belongs to another protection domain.
        pub const KEY_PD: u32 = 6;
        /// The range is not inside the region.
        pub const KEY_RANGE: u32 = 7;
        /// The region does not grant the access.
        pub const KEY_ACCESS: u32 = 8;
        /// The region's memory is not mapped for the device any more.
        pub const UNREACHABLE: u32 = 9;
        /// The queue pair's access rights do not allow the operation.
        pub const QP_ACCESS: u32 = 10;
        /// The receive buffer is shorter than the message.
        pub const RECV_TOO_SHORT: u32 = 11;
        /// The message is longer than the port allows.
        pub const MESSAGE_LEN: u32 = 12;
        /// An atomic operand is not 8 bytes long, or not aligned.
        pub const ATOMIC_OPERAND: u32 = 13;
        /// The peer allows fewer outstanding READs or atomics.
        pub const RD_ATOMIC: u32 = 14;
        /// The queue's ring is not mapped for the device any more.
        pub const RING_UNREACHABLE: u32 = 15;

        /// A datagram's address vector, or its destination, is malformed or names a GID table entry that is empty.
        pub const ADDRESS: u32 = 32;
        /// A window is bound already, or is of the type that is bound otherwise.
        pub const WINDOW_STATE: u32 = 33;
        /// The key is a window's that another queue pair has bound.
        pub const KEY_QP: u32 = 34;
        /// The key is none that a work request may invalidate.
        pub const NOT_INVALIDATABLE: u32 = 35;
        /// A FLUSH asks for a placement or a level that there is not.
        pub const FLUSH_OPERAND: u32 = 36;
        /// A region that work requests register is registered already, or is to be invalidated while windows are bound to it, or
        /// the device has no memory for so many stretches.
        pub const REGION_STATE: u32 = 37;
        /// A request names no shared receive queue of its XRC target's domain, or another one than its message's first packet.
        pub const XRC_SRQ: u32 = 38;

        /// A frame's source is not the port's MAC address.
        pub const FOREIGN_MAC: u32 = 48;
        /// A frame is shorter than its header.
        pub const FRAME_LEN: u32 = 49;
    }
}

/// Largest count, and largest period in microseconds, of a queue's moderation: what `struct ibv_moderate_cq` can say.
pub const MAX_MODERATION: u32 = u16::MAX as u32;

/// Bits of [`crate::cmd::ModifyCqReq::mask`].
pub mod modify {
    /// `count` and `period_us`.
    pub const MODERATION: u32 = 1 << 0;
    /// `ring`, `record` and `log_entries`: the queue moves there.
    pub const RING: u32 = 1 << 1;
    /// All bits.
    pub const ALL: u32 = MODERATION | RING;
}

/// The record of a completion queue, 64 bytes in guest memory, written by the driver alone.
///
/// The device compares `arm` with what it last acted on after it has written entries: if `arm` is new and asks for the
/// kind of entry written, it sends one event and remembers the value. Both sides have a full fence between their store
/// (the driver's `arm`, the device's entry) and their load (the driver's poll, the device's look at `arm`), so that an
/// entry which the driver's last poll did not see raises the event.
#[derive(Debug, Default, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct CqRecord {
    /// The driver's consumer counter: the device writes at most `size` entries ahead of it.
    pub consumer: AtomicU32,
    /// Zero or a request to be told: `sequence << 2 | kind`, where `sequence` differs from the last request's and
    /// `kind` is one of [`CqRecord::ARM_ANY`], [`CqRecord::ARM_SOLICITED`].
    pub arm: AtomicU32,
    /// Zero.
    pub reserved: [u32; 14],
}
assert_layout!(CqRecord, 64, consumer @ 0, arm @ 4);

/// The record of a completion counter, 128 bytes in guest memory: the first half is written by the driver alone, the second by the
/// device alone.
///
/// `arm` is as in [`CqRecord`], and has one kind more: [`CounterRecord::ARM_COUNT`] asks for an event when at least `threshold`
/// completions have succeeded, or when not as many as `seen` have failed. The driver writes both before `arm`, and looks at the
/// counters after its full fence: of what was counted before, nobody is told.
#[derive(Debug, Default, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct CounterRecord {
    /// Zero.
    pub reserved: u32,
    /// Zero or a request to be told.
    pub arm: AtomicU32,
    /// With [`CounterRecord::ARM_COUNT`]: as many as shall have succeeded.
    pub threshold: AtomicU64,
    /// With [`CounterRecord::ARM_COUNT`]: failures that the driver knows of.
    pub seen: AtomicU64,
    /// Zero.
    pub reserved1: [u64; 5],
    /// Completions that succeeded.
    pub succeeded: AtomicU64,
    /// Completions that failed, those of flushed work requests included.
    pub failed: AtomicU64,
    /// Zero.
    pub reserved2: [u64; 6],
}
assert_layout!(CounterRecord, 128, arm @ 4, threshold @ 8, seen @ 16, succeeded @ 64, failed @ 72);

impl CounterRecord {
    /// A kind of request to be told: by the counters' values.
    pub const ARM_COUNT: u32 = 3;
}

impl CqRecord {
    /// Mask of the kind.
    pub const ARM_KIND: u32 = 3;
    /// An event at the next entry.
    pub const ARM_ANY: u32 = 1;
    /// An event at the next entry that is solicited or an error.
    pub const ARM_SOLICITED: u32 = 2;
}
