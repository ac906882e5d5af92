// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! The admin queue: 256-byte commands in, 256-byte completions out, many in flight, completed in any order.
//!
//! The driver writes a [`Command`] into the submission ring at its producer counter and then writes the counter to
//! `ASQ_TAIL`. The device copies the entry once, executes it, writes a [`Completion`] with the command's `id` into the
//! completion ring (phase rule of [`crate::ring`]) and signals MSI-X vector 0. A driver has at most as many commands
//! outstanding as the ring has entries.
//!
//! With a record in memory ([`AdminRecord`]) neither side needs more than memory while both are awake: the driver stores
//! its counter in the record and writes the register only if the device says that it sleeps; the device signals the vector
//! only if the driver says that somebody sleeps. Who announces its sleep looks once more afterwards, and both sides have a
//! full fence between their own store and their look, so one of the two sees the other's.

use crate::layout::{assert_layout, open_enum};
use core::sync::atomic::AtomicU64;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a command's and of a completion's payload in bytes.
pub const PAYLOAD: usize = 240;

/// The record of the admin queue in guest memory, zeroed by the driver before it enables the queue.
#[derive(Debug, Default, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct AdminRecord {
    /// The device's: 1 while it sleeps and `ASQ_TAIL` must be written as well, else 0.
    pub kick: AtomicU64,
    /// Zero: the next word is on another cache line.
    pub reserved0: [u64; 7],
    /// The driver's: the free-running producer counter, modulo 2^32, as in `ASQ_TAIL`.
    pub tail: AtomicU64,
    /// The driver's: how many sleep until a completion signals the vector.
    pub sleeping: AtomicU64,
    /// Zero.
    pub reserved1: [u64; 6],
}
assert_layout!(AdminRecord, 128, kick @ 0, tail @ 64, sleeping @ 72);

/// An entry of the admin submission queue.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Command {
    /// What to do.
    pub opcode: Opcode,
    /// Chosen by the driver, returned in the completion; unique among its outstanding commands.
    pub id: u16,
    /// The link that it belongs to, 1 to [`LINKS`], or 0: none. With [`crate::regs::CAP_ADMIN_LINK`].
    pub link: u8,
    /// [`LINK_BEGIN`].
    pub flags: u8,
    /// Zero.
    pub reserved0: u16,
    /// Zero.
    pub reserved1: u64,
    /// The request type of the opcode ([`crate::cmd`]), the rest zero.
    pub payload: [u8; PAYLOAD],
}
assert_layout!(Command, 256, opcode @ 0, id @ 2, link @ 4, flags @ 5, payload @ 16);

/// Links that there are: what commands are sent together for, so that the first that fails is the last that is executed.
///
/// Commands are executed in the order of the ring. Of a link's commands, those behind one that failed are not executed and
/// complete with [`Status::CANCELED`], until one with [`LINK_BEGIN`] begins the link anew. Commands without a link, and of
/// other links, are not concerned. A command that takes the device more than a moment (CREATE_MR, MODIFY_MR) cannot be
/// linked: BAD_FIELD.
pub const LINKS: u8 = 63;

/// [`Command::flags`]: the link begins with this command, whatever became of those before it.
pub const LINK_BEGIN: u8 = 1 << 0;

/// An entry of the admin completion queue. Word 0 (the first 8 bytes) is written last.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Completion {
    /// Phase bit of the ring ([`crate::ring::OWNER_PHASE`]).
    pub owner: u8,
    /// Zero.
    pub reserved0: u8,
    /// The command's id.
    pub id: u16,
    /// How it ended.
    pub status: Status,
    /// Low 16 bits of the device's consumer counter of the submission queue.
    pub sq_head: u16,
    /// With a failure: what was wrong, as the status says (usually the offset of the offending field in the request).
    pub detail: u32,
    /// Zero.
    pub reserved1: u32,
    /// The response type of the opcode ([`crate::cmd`]); zero where there is none and on failure.
    pub payload: [u8; PAYLOAD],
}
assert_layout!(Completion, 256, owner @ 0, id @ 2, status @ 4, sq_head @ 6, detail @ 8, payload @ 16);

open_enum! {
    /// An admin command.
    pub struct Opcode(u16) {
        /// Does nothing, successfully.
        NOP = 0x00,
        /// Device capabilities and limits: [`crate::cmd::QueryDeviceRsp`].
        QUERY_DEVICE = 0x01,
        /// State of the port: [`crate::cmd::QueryPortRsp`].
        QUERY_PORT = 0x02,
        /// Sets the port's administrative state: [`crate::cmd::ModifyPortReq`].
        MODIFY_PORT = 0x03,
        /// Writes an entry of the GID table: [`crate::cmd::SetGidReq`].
        SET_GID = 0x04,
        /// Reads an entry of the GID table: [`crate::cmd::QueryGidReq`].
        QUERY_GID = 0x05,
        /// Reads the port's counters: [`crate::cmd::QueryCountersReq`], [`crate::cmd::QueryCountersRsp`].
        QUERY_COUNTERS = 0x06,
        /// Writes the device's state as JSON text into memory: [`crate::cmd::DumpReq`].
        DUMP = 0x07,
        /// Reads the clock of timestamps: [`crate::cmd::QueryClockRsp`].
        QUERY_CLOCK = 0x08,

        /// Allocates a protection domain: [`crate::cmd::HandleRsp`].
        CREATE_PD = 0x10,
        /// Frees a protection domain: [`crate::cmd::HandleReq`].
        DESTROY_PD = 0x11,
        /// What is in a protection domain: [`crate::cmd::QueryPdRsp`].
        QUERY_PD = 0x16,
        /// Allocates an XRC domain: [`crate::cmd::HandleRsp`].
        CREATE_XRCD = 0x12,
        /// Frees an XRC domain. Its shared receive queues and queue pairs must be destroyed first: [`crate::cmd::HandleReq`].
        DESTROY_XRCD = 0x13,
        /// What is in an XRC domain: [`crate::cmd::QueryXrcdRsp`].
        QUERY_XRCD = 0x17,

        /// Attaches a doorbell page: [`crate::cmd::CreateDoorbellReq`].
        CREATE_DOORBELL = 0x14,
        /// Detaches a doorbell page: [`crate::cmd::HandleReq`].
        DESTROY_DOORBELL = 0x15,
        /// How a doorbell page is used: [`crate::cmd::QueryDoorbellRsp`].
        QUERY_DOORBELL = 0x1c,

        /// Creates an event queue: [`crate::cmd::CreateEqReq`].
        CREATE_EQ = 0x18,
        /// Destroys an event queue: [`crate::cmd::HandleReq`].
        DESTROY_EQ = 0x19,
        /// State of an event queue: [`crate::cmd::QueryEqRsp`].
        QUERY_EQ = 0x1a,

        /// Creates a completion queue: [`crate::cmd::CreateCqReq`].
        CREATE_CQ = 0x20,
        /// Destroys a completion queue: [`crate::cmd::HandleReq`].
        DESTROY_CQ = 0x21,
        /// State of a completion queue: [`crate::cmd::QueryCqRsp`].
        QUERY_CQ = 0x22,
        /// Moderates a completion queue's events, or moves it to another ring: [`crate::cmd::ModifyCqReq`].
        MODIFY_CQ = 0x23,

        /// Registers memory: [`crate::cmd::CreateMrReq`].
        CREATE_MR = 0x28,
        /// Deregisters memory, by key index: [`crate::cmd::HandleReq`]. When it has completed, the device touches the
        /// region no more.
        DESTROY_MR = 0x29,
        /// State of a memory region: [`crate::cmd::QueryMrRsp`].
        QUERY_MR = 0x2a,

        /// Takes everything away that stands on a memory region, and then the region: as DESTROY_MR, which answers
        /// IN_USE. For a driver whose client is gone. [`crate::cmd::HandleReq`].
        REVOKE_MR = 0x2b,

        /// Registers a region anew, in part or entirely: [`crate::cmd::ModifyMrReq`]. It has other keys then, and nothing may
        /// stand on it. If the command fails, the region is what it was.
        MODIFY_MR = 0x40,

        /// Creates a shared receive queue: [`crate::cmd::CreateSrqReq`].
        CREATE_SRQ = 0x2c,
        /// Destroys a shared receive queue. Queue pairs on it must be destroyed first.
        DESTROY_SRQ = 0x2d,
        /// Arms the limit event, or moves the queue to another ring: [`crate::cmd::ModifySrqReq`].
        MODIFY_SRQ = 0x2e,
        /// State of a shared receive queue: [`crate::cmd::QuerySrqRsp`].
        QUERY_SRQ = 0x2f,

        /// Makes a memory window, unbound: [`crate::cmd::CreateMwReq`].
        CREATE_MW = 0x3c,
        /// Unbinds a memory window and frees its key, by key index: [`crate::cmd::HandleReq`].
        DESTROY_MW = 0x3d,
        /// Binds a memory window of type 1: [`crate::cmd::BindMwReq`].
        BIND_MW = 0x3e,
        /// State of a memory window: [`crate::cmd::QueryMwRsp`].
        QUERY_MW = 0x3f,

        /// Creates a queue pair, in RESET or on its way from there: [`crate::cmd::CreateQpReq`].
        CREATE_QP = 0x30,
        /// Destroys a queue pair. When it has completed, the device touches its rings no more and writes no more
        /// completions for it.
        DESTROY_QP = 0x31,
        /// Moves a queue pair through its states: [`crate::cmd::ModifyQpReq`].
        MODIFY_QP = 0x32,
        /// State and attributes of a queue pair: [`crate::cmd::QueryQpRsp`].
        QUERY_QP = 0x33,

        /// Attaches a datagram queue pair to a multicast group: [`crate::cmd::McastReq`]. It receives what any queue pair of
        /// the fabric sends there, itself included.
        ATTACH_MCAST = 0x50,
        /// Detaches it: [`crate::cmd::McastReq`].
        DETACH_MCAST = 0x51,
        /// An attachment: [`crate::cmd::McastReq`], [`crate::cmd::QueryMcastRsp`].
        QUERY_MCAST = 0x52,

        /// Makes a flow rule: [`crate::cmd::CreateFlowReq`].
        CREATE_FLOW = 0x58,
        /// Takes a flow rule away: [`crate::cmd::HandleReq`]. Its queue pair receives nothing by it any more.
        DESTROY_FLOW = 0x59,
        /// A flow rule, and what it has matched: [`crate::cmd::QueryFlowRsp`].
        QUERY_FLOW = 0x5a,

        /// Makes a counter set, all zero: [`crate::cmd::HandleRsp`].
        CREATE_COUNTER = 0x5c,
        /// Destroys a counter set. Queue pairs that are bound to it are not any more.
        DESTROY_COUNTER = 0x5d,
        /// The values of a counter set: [`crate::cmd::QueryCounterRsp`].
        QUERY_COUNTER = 0x5e,
        /// Binds a queue pair to a counter set, or to none: [`crate::cmd::BindCounterReq`]. It leaves the one that it was
        /// bound to.
        BIND_COUNTER = 0x5f,
    }
}

open_enum! {
    /// How an admin command ended.
    pub struct Status(u16) {
        /// Done.
        OK = 0,
        /// The opcode is not known or not offered. `detail`: the opcode.
        BAD_OPCODE = 1,
        /// A field has a value that is not allowed. `detail`: its offset in the request.
        BAD_FIELD = 2,
        /// A reserved field is not zero. `detail`: its offset in the request.
        RESERVED_FIELD = 3,
        /// No object has this number. `detail`: the offset of the field that names it.
        NO_SUCH_OBJECT = 4,
        /// Other objects depend on this one. `detail`: how many.
        IN_USE = 5,
        /// The device has no room for another object of this kind. `detail`: the limit.
        LIMIT = 6,
        /// A DMA address is not mapped or not aligned. `detail`: the offset of the field that holds it.
        BAD_ADDRESS = 7,
        /// A page list is malformed or does not cover the length. `detail`: its offset in the request.
        BAD_PAGE_LIST = 8,
        /// The queue pair's state does not allow this transition. `detail`: current state, requested state << 8.
        BAD_TRANSITION = 9,
        /// An attribute that the transition requires is missing. `detail`: the missing bits of the mask.
        MISSING_ATTRIBUTE = 10,
        /// An attribute is not allowed in the transition. `detail`: the offending bits of the mask.
        FORBIDDEN_ATTRIBUTE = 11,
        /// The doorbell slot is taken. `detail`: the slot.
        SLOT_TAKEN = 13,
        /// The buffer for the result is too small. `detail`: the length it needs in bytes.
        BUFFER_TOO_SMALL = 14,
        /// The GID is already in the table, or belongs to another HCA of the fabric. `detail`: the index, if its own.
        DUPLICATE_GID = 15,
        /// The attribute has no such GID table entry, or it is empty. `detail`: the index.
        BAD_GID_INDEX = 16,
        /// The queue has failed: it can only be queried and destroyed.
        QUEUE_FAILED = 17,
        /// The window cannot be bound as asked. `detail`: the [`crate::cqe::vendor`] reason.
        BIND_REFUSED = 18,
        /// An earlier command of its link failed: this one has not been executed ([`LINKS`]).
        CANCELED = 31,

        /// A flow rule compares what it cannot: a value outside its mask, a port without a protocol that has some, an address
        /// without an IP version. `detail`: the offset of the field in the request.
        BAD_MATCH = 32,
        /// There is such a flow rule already: of the same type and priority, with the same match, for the same queue pair.
        /// `detail`: its number.
        DUPLICATE_FLOW = 33,
    }
}
