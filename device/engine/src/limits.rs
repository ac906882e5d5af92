// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much of everything an HCA has: what QUERY_DEVICE tells and the commands enforce.

use crate::table::MAX_SLOTS;
use verbena_hw::qp::QpType;
use verbena_hw::wqe;

/// Protection domains.
pub(crate) const PDS: u32 = 1 << 16;
/// Memory regions.
pub(crate) const MRS: u32 = 1 << 20;
/// Largest memory region.
pub(crate) const MR_SIZE: u64 = 1 << 46;
/// Queue pairs.
pub(crate) const QPS: u32 = MAX_SLOTS;
/// Shared receive queues.
pub(crate) const SRQS: u32 = MAX_SLOTS;
/// XRC domains.
pub(crate) const XRCDS: u32 = 1 << 16;
/// Types of queue pairs: bit `n` for type `n`.
pub(crate) const QP_TYPES: u32 = 1 << QpType::RC.0
    | 1 << QpType::UC.0
    | 1 << QpType::UD.0
    | 1 << QpType::GSI.0
    | 1 << QpType::RAW.0
    | 1 << QpType::XRC_INI.0
    | 1 << QpType::XRC_TGT.0;
/// Queue pairs attached to one multicast group: one datagram is copied so many times at most.
pub(crate) const GROUP: usize = 1024;
/// Memberships in multicast groups of the queue pairs of one HCA.
pub(crate) const MEMBERSHIPS: u32 = 1 << 16;
/// Counter sets.
pub(crate) const COUNTER_SETS: u32 = 1 << 16;
/// Flow rules.
pub(crate) const FLOWS: u32 = 1 << 16;
/// Different pairs of priority and masks among them: look-ups that a frame costs at most.
pub(crate) const FLOW_GROUPS: usize = 64;
/// Completion queues.
pub(crate) const CQS: u32 = MAX_SLOTS;
/// Entries of a send or receive queue.
pub(crate) const QP_ENTRIES: u32 = 1 << wqe::MAX_LOG_ENTRIES;
/// READs and atomics that a queue pair may have outstanding, on either side.
pub(crate) const RD_ATOMIC: u8 = 128;
/// Entries of the GID table.
pub(crate) const GIDS: usize = 32;
/// Stretches of memory that all rings and regions of one HCA together may consist of: at 16 bytes each, a quarter of
/// a gigabyte of the server's memory. The page lists that name them are the guest's and cost it next to nothing.
pub(crate) const EXTENTS: usize = 1 << 24;
/// Bytes that one turn of a queue pair copies at most, a multiple of every MTU: others get their turn in between.
pub(crate) const SLICE: u64 = 256 << 10;
/// Messages that one turn of a queue pair executes at most.
pub(crate) const TURN: u32 = 32;

/// Turns of queue pairs, and bytes moved in them, after which whoever has armed a completion queue is told. The look at what is
/// armed follows a fence, which waits for all that was written before: after every turn, that took as long as a message.
pub(crate) const NOTIFY_TURNS: u32 = 16;
/// See [`NOTIFY_TURNS`]: a few microseconds of copying.
pub(crate) const NOTIFY_BYTES: u64 = 64 << 10;
/// Largest buffer of a DUMP: its page list is read in one go.
pub(crate) const DUMP_SIZE: u64 = 256 << 20;
/// Commands that one HCA executes in a poll at most; a step of a registration counts as
/// [`REGISTRATION_STEP`].
pub(crate) const ADMIN_TURN: u32 = 2 * REGISTRATION_STEP;
/// What reading a few thousand pages of a page list counts as.
pub(crate) const REGISTRATION_STEP: u32 = 64;
