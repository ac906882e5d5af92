// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Commands about queues, and what they ring by and report to.

use crate::admin::PAYLOAD;
use crate::id::{Cqn, Eqn, Pdn, Qpn, Srqn};
use crate::layout::assert_layout;
use crate::qp::{QpAttrs, QpType};
use crate::ring::PageList;
use crate::srq::SrqType;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

payload! {
    /// Request of CREATE_DOORBELL.
    pub struct CreateDoorbellReq: 8 {
        /// DMA address of the page in guest memory ([`crate::doorbell::DoorbellPage`]), 4 KiB aligned. The response's
        /// handle is the page's index in BAR 2.
        pub addr: u64,
    }
}

payload! {
    /// Response of QUERY_DOORBELL.
    pub struct QueryDoorbellRsp: 32 {
        /// DMA address of the page in guest memory.
        pub addr: u64,
        /// Slots that queue pairs have. The page can be detached when there is none.
        pub users: u32,
        /// Of these, slots whose queues the device looks at without being rung for ([`crate::doorbell::DoorbellPage`]).
        pub watched: u32,
        /// Zero.
        pub reserved: [u32; 4],
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
    /// Response of QUERY_EQ.
    pub struct QueryEqRsp: 48 {
        /// Events raised, also those that wait.
        pub raised: u64,
        /// Entries.
        pub entries: u32,
        /// The device's producer counter.
        pub producer: u32,
        /// The driver's consumer counter, modulo 2^31, as last written to [`crate::regs::EQ_DB`].
        pub consumer: u32,
        /// Events that wait until the ring has room.
        pub waiting: u32,
        /// Queue pairs, completion queues and shared receive queues that report here.
        pub users: u32,
        /// MSI-X vector.
        pub vector: u16,
        /// Non-zero: armed, the next event signals the vector.
        pub armed: u8,
        /// As in [`CreateEqReq`].
        pub async_default: u8,
        /// Zero.
        pub reserved: [u32; 4],
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
    /// Response of QUERY_XRCD: what is in it. It can be destroyed when there is nothing.
    pub struct QueryXrcdRsp: 16 {
        /// Shared receive queues.
        pub srqs: u32,
        /// XRC targets.
        pub targets: u32,
        /// Zero.
        pub reserved: [u32; 2],
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
