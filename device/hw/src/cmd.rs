// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! The payloads of admin commands: one request type and one response type for each opcode that has them.
//!
//! Numbers of objects (`pdn`, `cqn`, ...) are the device's; the driver passes `cookie`s, which come back in events and
//! completions and which the device never interprets.

use crate::admin::PAYLOAD;
use crate::flow::{FlowFields, FlowType};
use crate::id::{Cqn, Eqn, Gid, Key, Pdn, Qpn, Srqn};
use crate::layout::assert_layout;
use crate::mw::MwType;
use crate::qp::{QpAttrs, QpType};
use crate::ring::PageList;
use crate::srq::SrqType;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! payload {
    ($(#[$m:meta])* pub struct $name:ident: $size:literal { $($(#[$fm:meta])* pub $field:ident: $t:ty,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fm])* pub $field: $t,)* }
        assert_layout!($name, $size);
        const _: () = assert!($size <= PAYLOAD);
    };
}

payload! {
    /// Request of every DESTROY and QUERY: the object's number.
    pub struct HandleReq: 8 {
        /// The number: PDN, doorbell page index, EQN, CQN, QPN; for memory regions the index of the key.
        pub handle: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of every CREATE: the new object's number.
    pub struct HandleRsp: 8 {
        /// The number.
        pub handle: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_DEVICE: limits, each the most that a driver can have.
    pub struct QueryDeviceRsp: 168 {
        /// Node GUID, 8 bytes in network order.
        pub node_guid: [u8; 8],
        /// Version of the device's implementation, zero-terminated ASCII.
        pub fw_version: [u8; 32],
        /// Protection domains.
        pub max_pd: u32,
        /// Memory regions.
        pub max_mr: u32,
        /// Largest memory region in bytes.
        pub max_mr_size: u64,
        /// Supported page sizes: bit `n` for `1 << n` bytes.
        pub page_size_cap: u64,
        /// Queue pairs.
        pub max_qp: u32,
        /// Entries of a send or receive queue.
        pub max_qp_wr: u32,
        /// Completion queues.
        pub max_cq: u32,
        /// Entries of a completion queue.
        pub max_cqe: u32,
        /// Event queues.
        pub max_eq: u32,
        /// Doorbell pages.
        pub max_doorbell: u32,
        /// Scatter/gather elements of an entry.
        pub max_sge: u32,
        /// Inline bytes of an entry.
        pub max_inline: u32,
        /// Outstanding READs and atomics of a queue pair, as target.
        pub max_qp_rd_atom: u32,
        /// Outstanding READs and atomics of a queue pair, as initiator.
        pub max_qp_init_rd_atom: u32,
        /// Bit `n`: queue pair type `n` ([`QpType`]) is offered.
        pub qp_types: u32,
        /// Entries of the GID table.
        pub gid_table_len: u32,
        /// Entries of the P_Key table.
        pub pkey_table_len: u32,
        /// Ports.
        pub ports: u32,
        /// MSI-X vectors.
        pub vectors: u32,
        /// Local acknowledge delay, coded as 4.096 us * 2^n.
        pub local_ack_delay: u32,
        /// Bit `n`: send opcode `n` ([`crate::wqe::SendOpcode`]) is offered on RC queue pairs and XRC initiators.
        pub rc_opcodes: u32,
        /// Longest message in bytes, low 32 bits.
        pub max_msg: u32,
        /// Frequency of completion timestamps in kHz.
        pub timestamp_khz: u32,
        /// Shared receive queues.
        pub max_srq: u32,
        /// XRC domains.
        pub max_xrcd: u32,
        /// Counter sets.
        pub max_counter_sets: u32,
        /// Flow rules.
        pub max_flow: u32,
        /// Different pairs of priority and masks among the flow rules.
        pub max_flow_groups: u32,
        /// Elements of a region that work requests register ([`MR_FAST`]).
        pub max_fast_elements: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_PORT.
    pub struct QueryPortRsp: 32 {
        /// [`crate::regs::PORT_DOWN`] or [`crate::regs::PORT_ACTIVE`].
        pub state: u32,
        /// Largest MTU code.
        pub max_mtu: u8,
        /// Active MTU code.
        pub active_mtu: u8,
        /// Zero.
        pub reserved0: u16,
        /// MAC address.
        pub mac: [u8; 6],
        /// The P_Key of index 0.
        pub pkey: u16,
        /// Speed in units of Mbit/s as the port reports it; 0: unlimited by anything but memory.
        pub speed_mbps: u32,
        /// Packets of another partition that came: counter `pkey_violations`, modulo 2^32.
        pub pkey_violations: u32,
        /// Datagrams with another Q_Key that came: counter `qkey_violations`, modulo 2^32.
        pub qkey_violations: u32,
        /// Zero.
        pub reserved1: u32,
    }
}

payload! {
    /// Request of MODIFY_PORT.
    pub struct ModifyPortReq: 8 {
        /// [`crate::regs::PORT_DOWN`] or [`crate::regs::PORT_ACTIVE`].
        pub state: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Request of SET_GID. A zero GID empties the entry. Entry 0 always holds the link-local GID of the port's MAC
    /// address and cannot be written.
    pub struct SetGidReq: 24 {
        /// Index in the table.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
        /// The GID.
        pub gid: Gid,
    }
}

payload! {
    /// Request of QUERY_GID.
    pub struct QueryGidReq: 8 {
        /// Index in the table.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_GID.
    pub struct QueryGidRsp: 16 {
        /// The GID; zero if the entry is empty.
        pub gid: Gid,
    }
}

payload! {
    /// Response of QUERY_CLOCK.
    pub struct QueryClockRsp: 8 {
        /// The clock of [`crate::cqe::Cqe::timestamp`] and [`crate::eqe::Eqe::timestamp`], as the command is executed.
        pub clock: u64,
    }
}

/// Names of the port's counters, by number.
pub const COUNTERS: [&str; 41] = [
    "sent_msgs",
    "rcvd_msgs",
    "sent_bytes",
    "rcvd_bytes",
    "sent_reads",
    "rcvd_rnr_err",
    "send_rnr_err",
    "ack_timeouts",
    "retry_exceeded_err",
    "retry_rnr_exceeded_err",
    "completion_err",
    "access_err",
    "invalid_req_err",
    "flushed_wrs",
    "doorbells_trapped",
    "cq_overruns",
    "dropped_unreachable",
    "dropped_no_qp",
    "dropped_no_receive",
    "dropped_length",
    "qkey_violations",
    "sent_too_long",
    "sent_pkts",
    "rcvd_pkts",
    "retransmitted_pkts",
    "duplicate_request",
    "out_of_seq_request",
    "rcvd_seq_err",
    "icrc_errors",
    "dropped_malformed",
    "sent_frames",
    "rcvd_frames",
    "dropped_no_rule",
    "dropped_by_rule",
    "ack_deferred",
    "completer_retry_err",
    "send_err",
    "link_downed",
    "rdma_sends",
    "rdma_recvs",
    "pkey_violations",
];

/// Counters in one response.
pub const COUNTERS_AT_ONCE: usize = 30;

payload! {
    /// Request of QUERY_COUNTERS.
    pub struct QueryCountersReq: 8 {
        /// The number of the first.
        pub first: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_COUNTERS.
    pub struct QueryCountersRsp: 240 {
        /// Values since the device started, in the order of [`COUNTERS`] from the first that was asked for on; zeros behind the
        /// last that there is.
        pub values: [u64; COUNTERS_AT_ONCE],
    }
}

payload! {
    /// Request of DUMP.
    pub struct DumpReq: 32 {
        /// The buffer for the text: a page list of `len` bytes.
        pub pages: PageList,
        /// Length of the buffer in bytes.
        pub len: u64,
        /// Which objects: 0 all; otherwise one of the object groups, `DUMP_*`.
        pub select: u32,
        /// The object's number when `select` is not 0; `u32::MAX`: all of that group.
        pub number: u32,
    }
}
/// [`DumpReq::select`]: everything.
pub const DUMP_ALL: u32 = 0;
/// [`DumpReq::select`]: queue pairs.
pub const DUMP_QP: u32 = 1;
/// [`DumpReq::select`]: completion queues.
pub const DUMP_CQ: u32 = 2;
/// [`DumpReq::select`]: memory regions.
pub const DUMP_MR: u32 = 3;
/// [`DumpReq::select`]: shared receive queues.
pub const DUMP_SRQ: u32 = 4;

payload! {
    /// Response of DUMP.
    pub struct DumpRsp: 8 {
        /// Bytes written: UTF-8 JSON text, no terminator.
        pub len: u64,
    }
}

payload! {
    /// Request of CREATE_DOORBELL.
    pub struct CreateDoorbellReq: 8 {
        /// DMA address of the page in guest memory ([`crate::doorbell::DoorbellPage`]), 4 KiB aligned. The response's
        /// handle is the page's index in BAR 2.
        pub addr: u64,
    }
}

payload! {
    /// Request of CREATE_EQ.
    pub struct CreateEqReq: 32 {
        /// The ring: entries of 32 bytes, zeroed by the driver.
        pub ring: PageList,
        /// log2 of the number of entries.
        pub log_entries: u8,
        /// Non-zero: asynchronous events that belong to no other queue come here. At most one queue has this.
        pub async_default: u8,
        /// MSI-X vector.
        pub vector: u16,
        /// Zero.
        pub reserved: [u32; 3],
    }
}

payload! {
    /// Request of CREATE_CQ.
    pub struct CreateCqReq: 48 {
        /// The ring: entries of 64 bytes, of a counter of 8, zeroed by the driver.
        pub ring: PageList,
        /// DMA address of the [`crate::cqe::CqRecord`], 64-byte aligned; of a counter's [`crate::cqe::CounterRecord`], 128-byte
        /// aligned.
        pub record: u64,
        /// Returned in events.
        pub cookie: u64,
        /// The event queue for completions and errors.
        pub eqn: Eqn,
        /// log2 of the number of entries.
        pub log_entries: u8,
        /// [`CQ_COUNTER`] or 0.
        pub flags: u8,
        /// Zero.
        pub reserved: [u8; 10],
    }
}
/// [`CreateCqReq::flags`]: a completion counter. What would be an entry is counted instead, in the record. Entry `n` of the ring is
/// where the device says how far a queue pair has been consumed, one whose cookie is `n` modulo the number of entries: in the lower
/// 32 bits [`crate::cqe::Cqe::consumed`] of its last counted send, in the upper 32 that of its last receive. It is written before
/// the count. A receive from a shared receive queue that an XRC request named says nothing there. MODIFY_CQ does not move a counter.
pub const CQ_COUNTER: u8 = 1 << 0;

payload! {
    /// Request of MODIFY_CQ.
    pub struct ModifyCqReq: 56 {
        /// The queue.
        pub cqn: Cqn,
        /// What changes ([`crate::cqe::modify`]).
        pub mask: u32,
        /// Entries that an armed queue waits for before its event: 1, it does not wait; 0, their number does not matter. At most
        /// [`crate::cqe::MAX_MODERATION`].
        pub count: u32,
        /// Microseconds that an armed queue waits at most, from its first entry on; 0: for ever, or, if it does not wait for a
        /// count either, not at all. At most [`crate::cqe::MAX_MODERATION`].
        pub period_us: u32,
        /// The new ring, zeroed by the driver.
        pub ring: PageList,
        /// The new record, zeroed by the driver.
        pub record: u64,
        /// log2 of the new number of entries: not fewer than are unconsumed.
        pub log_entries: u8,
        /// Zero.
        pub reserved: [u8; 15],
    }
}

payload! {
    /// Response of MODIFY_CQ.
    pub struct ModifyCqRsp: 8 {
        /// With a new ring: entries that the driver had not consumed. They stand at its beginning, in their order; both
        /// counters begin there anew: the driver's at zero, the device's at this number. A queue that was armed is still.
        pub carried: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_CQ.
    pub struct QueryCqRsp: 32 {
        /// Entries.
        pub entries: u32,
        /// The device's producer counter.
        pub producer: u32,
        /// The driver's consumer counter as last read.
        pub consumer: u32,
        /// Non-zero: overflowed.
        pub overrun: u32,
        /// Queue pairs that complete here, counted once for sends and once for receives, and XRC shared receive queues.
        pub users: u32,
        /// Events sent.
        pub events: u32,
        /// As in [`ModifyCqReq`].
        pub moderation_count: u32,
        /// As in [`ModifyCqReq`].
        pub moderation_us: u32,
    }
}

payload! {
    /// Request of CREATE_MR.
    pub struct CreateMrReq: 56 {
        /// The pages.
        pub pages: PageList,
        /// Address of the region's first byte in its own address space (0 with ZERO_BASED).
        pub iova: u64,
        /// Length in bytes.
        pub len: u64,
        /// Offset of the first byte in the first page.
        pub first_offset: u64,
        /// The protection domain.
        pub pdn: Pdn,
        /// Access rights ([`crate::qp::access`]).
        pub access: u32,
        /// [`MR_DMA`], [`MR_FAST`] or 0.
        pub flags: u32,
        /// Zero.
        pub reserved: u32,
    }
}
/// [`CreateMrReq::flags`]: all DMA addresses, each under itself. `pages`, `iova`, `len` and `first_offset` are zero, and
/// `access` is local. Whoever has its L_Key has everything, so it belongs in a protection domain that no process can use.
pub const MR_DMA: u32 = 1 << 0;
/// [`CreateMrReq::flags`]: none yet, the send opcode FAST_REGISTER gives it some. `len` is the number of elements that it may
/// consist of; `pages`, `iova`, `first_offset` and `access` are zero. The response's keys have the region's index, and are
/// valid when a FAST_REGISTER has said so.
pub const MR_FAST: u32 = 1 << 1;

payload! {
    /// Request of MODIFY_MR: what `mask` names is as in [`CreateMrReq`], the rest stays.
    pub struct ModifyMrReq: 64 {
        /// With [`mr_modify::TRANSLATION`]: the pages.
        pub pages: PageList,
        /// With [`mr_modify::TRANSLATION`]: address of the first byte.
        pub iova: u64,
        /// With [`mr_modify::TRANSLATION`]: length in bytes.
        pub len: u64,
        /// With [`mr_modify::TRANSLATION`]: offset of the first byte in the first page.
        pub first_offset: u64,
        /// The region: its key's index.
        pub index: u32,
        /// [`mr_modify`].
        pub mask: u32,
        /// With [`mr_modify::PD`]: the protection domain.
        pub pdn: Pdn,
        /// With [`mr_modify::ACCESS`]: access rights.
        pub access: u32,
        /// Zero.
        pub reserved: u64,
    }
}

/// Bits of [`ModifyMrReq::mask`], with the values of `enum ibv_rereg_mr_flags`.
pub mod mr_modify {
    /// The memory.
    pub const TRANSLATION: u32 = 1 << 0;
    /// The protection domain.
    pub const PD: u32 = 1 << 1;
    /// The access rights.
    pub const ACCESS: u32 = 1 << 2;
    /// All bits.
    pub const ALL: u32 = TRANSLATION | PD | ACCESS;
}

payload! {
    /// Response of CREATE_MR and of MODIFY_MR.
    pub struct CreateMrRsp: 16 {
        /// L_Key. Its index ([`Key::index`]) is the region's number.
        pub lkey: Key,
        /// R_Key; 0 if the region grants no remote access.
        pub rkey: Key,
        /// Zero.
        pub reserved: u64,
    }
}

payload! {
    /// Response of QUERY_MR.
    pub struct QueryMrRsp: 40 {
        /// Address of the first byte.
        pub iova: u64,
        /// Length in bytes.
        pub len: u64,
        /// L_Key.
        pub lkey: Key,
        /// R_Key; 0 if none.
        pub rkey: Key,
        /// The protection domain.
        pub pdn: Pdn,
        /// Access rights.
        pub access: u32,
        /// Page size: log2.
        pub page_shift: u32,
        /// Number of pages.
        pub pages: u32,
    }
}

payload! {
    /// Request of CREATE_MW.
    pub struct CreateMwReq: 8 {
        /// The protection domain.
        pub pdn: Pdn,
        /// Type.
        pub mw_type: MwType,
        /// Zero.
        pub reserved: [u8; 3],
    }
}

payload! {
    /// Response of CREATE_MW and of BIND_MW.
    pub struct CreateMwRsp: 8 {
        /// The R_Key. Its index ([`Key::index`]) is the window's number and stays; its tag changes with each bind.
        pub rkey: Key,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Request of BIND_MW: a window of type 1 and the part of a region that it is bound to from now on.
    pub struct BindMwReq: 40 {
        /// Address of the part in the region's own address space.
        pub addr: u64,
        /// Length in bytes; 0 unbinds.
        pub len: u64,
        /// The window: its key's index.
        pub index: u32,
        /// L_Key of the region.
        pub lkey: Key,
        /// Remote rights that the window grants ([`crate::qp::access`]).
        pub access: u32,
        /// Zero.
        pub reserved: [u32; 2],
        /// Zero.
        pub reserved1: u32,
    }
}

payload! {
    /// Response of QUERY_MW.
    pub struct QueryMwRsp: 48 {
        /// Bound: address of its first byte, as peers name it.
        pub iova: u64,
        /// Bound: length in bytes.
        pub len: u64,
        /// The R_Key that it has, or had last.
        pub rkey: Key,
        /// Bound: rights.
        pub access: u32,
        /// The protection domain.
        pub pdn: Pdn,
        /// Type 2, bound: the queue pair.
        pub qpn: Qpn,
        /// Type.
        pub mw_type: MwType,
        /// Non-zero: bound.
        pub bound: u8,
        /// Zero.
        pub reserved: [u8; 6],
        /// Zero.
        pub reserved1: u64,
    }
}

payload! {
    /// Request of CREATE_SRQ.
    pub struct CreateSrqReq: 64 {
        /// The ring: receive entries, zeroed by the driver.
        pub ring: PageList,
        /// DMA address of the [`crate::srq::SrqRecord`], 64-byte aligned, zeroed by the driver.
        pub record: u64,
        /// Returned in events.
        pub cookie: u64,
        /// The protection domain that the elements of its entries belong to; XRC: and the memory that requests to it name.
        pub pdn: Pdn,
        /// The event queue for its events.
        pub eqn: Eqn,
        /// XRC: completion queue of its receives. Otherwise zero.
        pub cqn: Cqn,
        /// XRC: its domain. Otherwise zero.
        pub xrcdn: u32,
        /// As in [`ModifySrqReq`]; 0 for none.
        pub limit: u32,
        /// Type.
        pub srq_type: SrqType,
        /// log2 of the number of entries.
        pub log_entries: u8,
        /// log2 of the stride in bytes.
        pub log_stride: u8,
        /// Most elements of an entry.
        pub max_sge: u8,
        /// Zero.
        pub reserved: u64,
    }
}

payload! {
    /// Request of MODIFY_SRQ.
    pub struct ModifySrqReq: 48 {
        /// The queue.
        pub srqn: Srqn,
        /// What changes ([`crate::srq::modify`]).
        pub mask: u32,
        /// Fewer posted entries than this raise SRQ_LIMIT_REACHED, once; if there are fewer already, at once. At most
        /// the number of entries; 0: never.
        pub limit: u32,
        /// log2 of the new number of entries: not fewer than are posted.
        pub log_entries: u8,
        /// Zero.
        pub reserved0: [u8; 3],
        /// The new ring, with the same stride, zeroed by the driver.
        pub ring: PageList,
        /// The new record, zeroed by the driver.
        pub record: u64,
        /// Zero.
        pub reserved1: u64,
    }
}

payload! {
    /// Response of MODIFY_SRQ.
    pub struct ModifySrqRsp: 8 {
        /// With a new ring: entries that were posted and not consumed. They stand at its beginning, in their order; both
        /// counters begin there anew: the device's at zero, the driver's at this number.
        pub posted: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_SRQ.
    pub struct QuerySrqRsp: 48 {
        /// Entries.
        pub entries: u32,
        /// The limit that is armed; 0 for none.
        pub limit: u32,
        /// The device's consumer counter.
        pub consumer: u32,
        /// Queue pairs on it; 0 with an XRC queue, which no queue pair holds.
        pub users: u32,
        /// The protection domain.
        pub pdn: Pdn,
        /// XRC: completion queue.
        pub cqn: Cqn,
        /// XRC: domain.
        pub xrcdn: u32,
        /// Type.
        pub srq_type: SrqType,
        /// Most elements of an entry.
        pub max_sge: u8,
        /// Non-zero: it failed.
        pub failed: u8,
        /// Zero.
        pub reserved0: u8,
        /// Zero.
        pub reserved: [u32; 4],
    }
}

payload! {
    /// Request of CREATE_QP.
    ///
    /// An XRC initiator has no receive side: `rq`, `recv_cqn` and `srqn` are zero. An XRC target has no queue at all and sends
    /// nothing: beside `cookie`, `qp_type`, `eqn` and `xrcdn` everything is zero. No other type has an `xrcdn`.
    pub struct CreateQpReq: 216 {
        /// Send ring, zeroed by the driver.
        pub sq: PageList,
        /// Receive ring, zeroed by the driver; all zero with a shared receive queue.
        pub rq: PageList,
        /// Returned in completions and events.
        pub cookie: u64,
        /// The protection domain.
        pub pdn: Pdn,
        /// Completion queue of sends.
        pub send_cqn: Cqn,
        /// Completion queue of receives.
        pub recv_cqn: Cqn,
        /// Shared receive queue; 0 for none.
        pub srqn: Srqn,
        /// The doorbell page.
        pub doorbell: u32,
        /// The slot in the doorbell page.
        pub slot: u16,
        /// Type.
        pub qp_type: QpType,
        /// [`QP_SIGNAL_ALL`].
        pub flags: u8,
        /// log2 of the number of send entries.
        pub sq_log_entries: u8,
        /// log2 of the send stride in bytes.
        pub sq_log_stride: u8,
        /// log2 of the number of receive entries.
        pub rq_log_entries: u8,
        /// log2 of the receive stride in bytes.
        pub rq_log_stride: u8,
        /// Most elements of a send entry.
        pub max_send_sge: u8,
        /// Most elements of a receive entry.
        pub max_recv_sge: u8,
        /// Most inline bytes of a send entry.
        pub max_inline: u16,
        /// The event queue for this queue pair's asynchronous events.
        pub eqn: Eqn,
        /// XRC target: its domain.
        pub xrcdn: u32,
        /// Zero.
        pub reserved: [u32; 4],
        /// Which attributes count ([`crate::qp::attr`]): zero for a queue pair in RESET, or what MODIFY_QP takes to move it from
        /// there. If that fails there is no queue pair. With [`crate::regs::CAP_ADMIN_LINK`].
        pub mask: u32,
        /// Zero.
        pub reserved2: u32,
        /// The attributes.
        pub attrs: QpAttrs,
    }
}
/// [`CreateQpReq::flags`]: every send completes with an entry, whatever its flags say.
pub const QP_SIGNAL_ALL: u8 = 1 << 0;

payload! {
    /// Request of MODIFY_QP.
    pub struct ModifyQpReq: 120 {
        /// The queue pair.
        pub qpn: Qpn,
        /// Which attributes count ([`crate::qp::attr`]).
        pub mask: u32,
        /// The attributes.
        pub attrs: QpAttrs,
    }
}

payload! {
    /// Response of QUERY_QP.
    pub struct QueryQpRsp: 160 {
        /// The attributes; `state` is the present state, PSNs are the next ones.
        pub attrs: QpAttrs,
        /// The protection domain.
        pub pdn: Pdn,
        /// Completion queue of sends.
        pub send_cqn: Cqn,
        /// Completion queue of receives.
        pub recv_cqn: Cqn,
        /// Type.
        pub qp_type: QpType,
        /// [`QP_SIGNAL_ALL`].
        pub flags: u8,
        /// Most inline bytes of a send entry.
        pub max_inline: u16,
        /// The device's consumer counter of the send queue.
        pub sq_consumer: u32,
        /// The device's consumer counter of the receive queue.
        pub rq_consumer: u32,
        /// log2 of the number of send entries.
        pub sq_log_entries: u8,
        /// log2 of the number of receive entries.
        pub rq_log_entries: u8,
        /// Most elements of a send entry.
        pub max_send_sge: u8,
        /// Most elements of a receive entry.
        pub max_recv_sge: u8,
        /// Shared receive queue; 0 for none.
        pub srqn: Srqn,
        /// XRC target: its domain; otherwise 0.
        pub xrcdn: u32,
        /// Zero.
        pub reserved: [u32; 3],
    }
}

payload! {
    /// Request of ATTACH_MCAST and DETACH_MCAST.
    pub struct McastReq: 24 {
        /// The queue pair, of type UD.
        pub qpn: Qpn,
        /// Zero.
        pub reserved: u32,
        /// The group ([`Gid::is_multicast`]).
        pub gid: Gid,
    }
}

payload! {
    /// Request of CREATE_FLOW.
    pub struct CreateFlowReq: 160 {
        /// The queue pair, of type RAW; 0 with [`crate::flow::flags::DROP`].
        pub qpn: Qpn,
        /// Type NORMAL: lower numbers first. Otherwise zero.
        pub priority: u16,
        /// Type.
        pub flow_type: FlowType,
        /// [`crate::flow::flags`].
        pub flags: u8,
        /// With [`crate::flow::flags::TAG`]: what receives by this rule carry, at most [`crate::flow::MAX_TAG`].
        pub tag: u32,
        /// Port, from 1.
        pub port: u32,
        /// Type NORMAL: what the fields must be. Otherwise zero.
        pub value: FlowFields,
        /// Which of their bits count.
        pub mask: FlowFields,
        /// Zero.
        pub reserved: [u32; 4],
    }
}

payload! {
    /// Response of QUERY_FLOW.
    pub struct QueryFlowRsp: 160 {
        /// As in [`CreateFlowReq`].
        pub qpn: Qpn,
        /// As in [`CreateFlowReq`].
        pub priority: u16,
        /// As in [`CreateFlowReq`].
        pub flow_type: FlowType,
        /// As in [`CreateFlowReq`].
        pub flags: u8,
        /// As in [`CreateFlowReq`].
        pub tag: u32,
        /// Zero.
        pub reserved: u32,
        /// As in [`CreateFlowReq`].
        pub value: FlowFields,
        /// As in [`CreateFlowReq`].
        pub mask: FlowFields,
        /// Frames that it has matched.
        pub frames: u64,
        /// Bytes of these.
        pub bytes: u64,
    }
}

/// Names of a counter set's counters, by position: messages and bytes of the queue pairs bound to it, work requests that ended in
/// an error of their own, and those that were flushed.
pub const SET_COUNTERS: [&str; 6] = [
    "sent_msgs",
    "rcvd_msgs",
    "sent_bytes",
    "rcvd_bytes",
    "completion_err",
    "flushed_wrs",
];

payload! {
    /// Response of QUERY_COUNTER.
    pub struct QueryCounterRsp: 64 {
        /// Values, in the order of [`SET_COUNTERS`].
        pub values: [u64; 6],
        /// Queue pairs that are bound to it.
        pub members: u32,
        /// Zero.
        pub reserved: [u32; 3],
    }
}

payload! {
    /// Request of BIND_COUNTER.
    pub struct BindCounterReq: 8 {
        /// The queue pair.
        pub qpn: Qpn,
        /// The counter set; 0 for none.
        pub counter: u32,
    }
}
