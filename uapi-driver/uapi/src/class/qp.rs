// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! QP_*: queue pairs, one class a transport, each with only the attributes that make sense for it.
//!
//! CREATE takes what MODIFY takes, so that one call makes a queue pair that is ready.

use super::{ASYNC_EVENTS, COOKIE, EVENT_QUEUE_OF};
use crate::payload;
use crate::schema::{class_flags, Access, Attr, AttrSchema, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

payload! {
    /// Sizes of a queue pair: at least so much is asked for, what it has is answered.
    pub struct QpCaps (24) {
        /// Work requests on the send queue.
        max_send_wr: u32,
        /// Work requests on the receive queue.
        max_recv_wr: u32,
        /// Scatter/gather entries of a send.
        max_send_sge: u32,
        /// Scatter/gather entries of a receive.
        max_recv_sge: u32,
        /// Inline data, bytes.
        max_inline: u32,
        /// Zero.
        reserved: u32,
    }

    /// The path to the peer, by GIDs (RoCE: there is no LID).
    pub struct Path (32) {
        /// The peer's GID.
        dgid: [u8; 16],
        /// The flow label, 20 bits.
        flow_label: u32,
        /// Our entry in the port's GID table.
        sgid_index: u16,
        /// The hop limit.
        hop_limit: u8,
        /// The traffic class.
        traffic_class: u8,
        /// The service level.
        sl: u8,
        /// Zero.
        reserved: [u8; 7],
    }
}

/// [`STATE`]; numbers as in libibverbs.
pub mod state {
    /// Reset.
    pub const RESET: u32 = 0;
    /// Initialized.
    pub const INIT: u32 = 1;
    /// Ready to receive.
    pub const RTR: u32 = 2;
    /// Ready to send.
    pub const RTS: u32 = 3;
    /// Send queue drained.
    pub const SQD: u32 = 4;
    /// Send queue error.
    pub const SQE: u32 = 5;
    /// Error.
    pub const ERR: u32 = 6;
}

/// [`FLAGS`].
pub mod flag {
    /// Every send makes a completion, not only those that ask for one.
    pub const SIGNAL_ALL: u32 = 1;
    /// All that are known.
    pub const ALL: u32 = SIGNAL_ALL;
}

/// The protection domain.
pub const PD: Attr<ObjectId> = Attr::object(1, "pd", &[super::PD]);
/// Where sends complete; a counter can stand here too.
pub const SEND_CQ: Attr<ObjectId> = Attr::object(2, "send_cq", &[super::CQ, super::COUNTER]);
/// Where receives complete; a counter can stand here too.
pub const RECV_CQ: Attr<ObjectId> = Attr::object(3, "recv_cq", &[super::CQ, super::COUNTER]);
/// The shared receive queue, instead of a receive queue of its own.
pub const SRQ: Attr<ObjectId> = Attr::object(4, "srq", &[super::SRQ]);
/// The sizes.
pub const CAPS: Attr<QpCaps> = Attr::new(5, "caps");
/// [`flag`]s.
pub const FLAGS: Attr<u32> = Attr::new(6, "flags");
/// The queue pair number.
pub const QPN: Attr<u32> = Attr::new(7, "qpn");
/// The XRC domain: the shared receive queues that requests to the target can name.
pub const XRCD: Attr<ObjectId> = Attr::object(8, "xrcd", &[super::XRCD]);
/// The number of a target of the domain, whatever context has made it: the new object is that target, too. It lives until the
/// last object of it is destroyed; its events go to each. No attribute of a transition goes with it.
pub const OPEN: Attr<u32> = Attr::new(9, "open");

/// The [`state`] to go to. A create may name any state up to RTS; the queue pair passes the ones before.
pub const STATE: Attr<u32> = Attr::new(16, "state");
/// The state that the caller believes it is in. Who says it may go on from RESET or INIT to any later state up to RTS, with the
/// attributes of all transitions on the way: either all of them are made or none.
pub const CURRENT_STATE: Attr<u32> = Attr::new(17, "current_state");
/// The port, from 1.
pub const PORT: Attr<u32> = Attr::new(18, "port");
/// Entry in the port's P_Key table.
pub const PKEY_INDEX: Attr<u32> = Attr::new(19, "pkey_index");
/// What a peer may do: [`super::mr::access`].
pub const ACCESS: Attr<u32> = Attr::new(20, "access");
/// The path to the peer.
pub const PATH: Attr<Path> = Attr::new(21, "path");
/// The peer's queue pair number.
pub const DEST_QPN: Attr<u32> = Attr::new(22, "dest_qpn");
/// First packet sequence number to send.
pub const SQ_PSN: Attr<u32> = Attr::new(23, "sq_psn");
/// First packet sequence number to receive.
pub const RQ_PSN: Attr<u32> = Attr::new(24, "rq_psn");
/// Path MTU, bytes.
pub const PATH_MTU: Attr<u32> = Attr::new(25, "path_mtu");
/// Local ACK timeout: 4.096 us * 2^n, 0 is for ever.
pub const TIMEOUT: Attr<u32> = Attr::new(26, "timeout");
/// Retries after a timeout.
pub const RETRY_CNT: Attr<u32> = Attr::new(27, "retry_cnt");
/// Retries after receiver not ready; 7 is for ever.
pub const RNR_RETRY: Attr<u32> = Attr::new(28, "rnr_retry");
/// How long a peer waits after receiver not ready, as the transport encodes it.
pub const MIN_RNR_TIMER: Attr<u32> = Attr::new(29, "min_rnr_timer");
/// RDMA READs and atomics outstanding as initiator.
pub const MAX_RD_ATOMIC: Attr<u32> = Attr::new(30, "max_rd_atomic");
/// RDMA READs and atomics outstanding as target.
pub const MAX_DEST_RD_ATOMIC: Attr<u32> = Attr::new(31, "max_dest_rd_atomic");
/// Ask for an event when the send queue is drained.
pub const SQD_NOTIFY: Attr<u32> = Attr::new(32, "sqd_notify");
/// The alternate path.
pub const ALT_PATH: Attr<Path> = Attr::new(33, "alt_path");
/// The alternate port.
pub const ALT_PORT: Attr<u32> = Attr::new(34, "alt_port");
/// The alternate P_Key index.
pub const ALT_PKEY_INDEX: Attr<u32> = Attr::new(35, "alt_pkey_index");
/// The alternate timeout.
pub const ALT_TIMEOUT: Attr<u32> = Attr::new(36, "alt_timeout");
/// Path migration: 0 migrated, 1 rearm, 2 armed.
pub const PATH_MIG_STATE: Attr<u32> = Attr::new(37, "path_mig_state");
/// The most that the send queue sends, kbit/s; 0: there is no limit. A limit is between `qp_rate_limit_min` and `qp_rate_limit_max`
/// of the device. It counts packets' data, of each 64 bytes at least, and what is sent again as often; of a READ, the request.
pub const RATE_LIMIT: Attr<u32> = Attr::new(38, "rate_limit");
/// Whether the send queue is draining.
pub const SQ_DRAINING: Attr<u32> = Attr::new(39, "sq_draining");

/// The Q_Key: what a datagram must have to be received.
pub const QKEY: Attr<u32> = Attr::new(40, "qkey");
/// With `rate_limit`: bytes that may be sent at once after a rest; 0, and without it: the device's choice.
pub const MAX_BURST: Attr<u32> = Attr::new(41, "max_burst");
/// With `rate_limit`: bytes of data that packets have as a rule, up to 65,535: a burst has room for one. 0, and without it: the
/// port's MTU.
pub const TYPICAL_PACKET: Attr<u32> = Attr::new(42, "typical_packet");

const RC_MODIFY: &[AttrSchema] = &[
    STATE.input(),
    CURRENT_STATE.input(),
    PORT.input(),
    PKEY_INDEX.input(),
    ACCESS.input(),
    PATH.input(),
    DEST_QPN.input(),
    SQ_PSN.input(),
    RQ_PSN.input(),
    PATH_MTU.input(),
    TIMEOUT.input(),
    RETRY_CNT.input(),
    RNR_RETRY.input(),
    MIN_RNR_TIMER.input(),
    MAX_RD_ATOMIC.input(),
    MAX_DEST_RD_ATOMIC.input(),
    SQD_NOTIFY.input(),
    ALT_PATH.input(),
    ALT_PORT.input(),
    ALT_PKEY_INDEX.input(),
    ALT_TIMEOUT.input(),
    PATH_MIG_STATE.input(),
    RATE_LIMIT.input(),
    MAX_BURST.input(),
    TYPICAL_PACKET.input(),
];

const RC_QUERY: &[AttrSchema] = &[
    PD.output(),
    SEND_CQ.output(),
    RECV_CQ.output(),
    SRQ.output(),
    CAPS.output(),
    FLAGS.output(),
    QPN.output(),
    STATE.output(),
    PORT.output(),
    PKEY_INDEX.output(),
    ACCESS.output(),
    PATH.output(),
    DEST_QPN.output(),
    SQ_PSN.output(),
    RQ_PSN.output(),
    PATH_MTU.output(),
    TIMEOUT.output(),
    RETRY_CNT.output(),
    RNR_RETRY.output(),
    MIN_RNR_TIMER.output(),
    MAX_RD_ATOMIC.output(),
    MAX_DEST_RD_ATOMIC.output(),
    SQ_DRAINING.output(),
    ALT_PATH.output(),
    ALT_PORT.output(),
    ALT_PKEY_INDEX.output(),
    ALT_TIMEOUT.output(),
    PATH_MIG_STATE.output(),
    RATE_LIMIT.output(),
    MAX_BURST.output(),
    TYPICAL_PACKET.output(),
];

const UD_MODIFY: &[AttrSchema] = &[
    STATE.input(),
    CURRENT_STATE.input(),
    PORT.input(),
    PKEY_INDEX.input(),
    // The upper half is for those who may speak for the system (a controlled Q_Key; Linux asks the same).
    QKEY.input().needs_if(Access::NetRaw, 32),
    SQ_PSN.input(),
    SQD_NOTIFY.input(),
    RATE_LIMIT.input(),
    MAX_BURST.input(),
    TYPICAL_PACKET.input(),
];

const UD_QUERY: &[AttrSchema] = &[
    PD.output(),
    SEND_CQ.output(),
    RECV_CQ.output(),
    SRQ.output(),
    CAPS.output(),
    FLAGS.output(),
    QPN.output(),
    STATE.output(),
    PORT.output(),
    PKEY_INDEX.output(),
    SQ_PSN.output(),
    QKEY.output(),
    SQ_DRAINING.output(),
    RATE_LIMIT.output(),
    MAX_BURST.output(),
    TYPICAL_PACKET.output(),
];

const RAW_MODIFY: &[AttrSchema] = &[
    STATE.input(),
    CURRENT_STATE.input(),
    PORT.input(),
    SQD_NOTIFY.input(),
    RATE_LIMIT.input(),
    MAX_BURST.input(),
    TYPICAL_PACKET.input(),
];

const RAW_QUERY: &[AttrSchema] = &[
    PD.output(),
    SEND_CQ.output(),
    RECV_CQ.output(),
    SRQ.output(),
    CAPS.output(),
    FLAGS.output(),
    QPN.output(),
    STATE.output(),
    PORT.output(),
    SQ_DRAINING.output(),
    RATE_LIMIT.output(),
    MAX_BURST.output(),
    TYPICAL_PACKET.output(),
];

const UC_MODIFY: &[AttrSchema] = &[
    STATE.input(),
    CURRENT_STATE.input(),
    PORT.input(),
    PKEY_INDEX.input(),
    ACCESS.input(),
    PATH.input(),
    DEST_QPN.input(),
    SQ_PSN.input(),
    RQ_PSN.input(),
    PATH_MTU.input(),
    SQD_NOTIFY.input(),
    RATE_LIMIT.input(),
    MAX_BURST.input(),
    TYPICAL_PACKET.input(),
];

const UC_QUERY: &[AttrSchema] = &[
    PD.output(),
    SEND_CQ.output(),
    RECV_CQ.output(),
    SRQ.output(),
    CAPS.output(),
    FLAGS.output(),
    QPN.output(),
    STATE.output(),
    PORT.output(),
    PKEY_INDEX.output(),
    ACCESS.output(),
    PATH.output(),
    DEST_QPN.output(),
    SQ_PSN.output(),
    RQ_PSN.output(),
    PATH_MTU.output(),
    SQ_DRAINING.output(),
    RATE_LIMIT.output(),
    MAX_BURST.output(),
    TYPICAL_PACKET.output(),
];

const XRC_INI_MODIFY: &[AttrSchema] = &[
    STATE.input(),
    CURRENT_STATE.input(),
    PORT.input(),
    PKEY_INDEX.input(),
    ACCESS.input(),
    PATH.input(),
    DEST_QPN.input(),
    SQ_PSN.input(),
    RQ_PSN.input(),
    PATH_MTU.input(),
    TIMEOUT.input(),
    RETRY_CNT.input(),
    RNR_RETRY.input(),
    MAX_RD_ATOMIC.input(),
    SQD_NOTIFY.input(),
    RATE_LIMIT.input(),
    MAX_BURST.input(),
    TYPICAL_PACKET.input(),
];

const XRC_INI_QUERY: &[AttrSchema] = &[
    PD.output(),
    SEND_CQ.output(),
    CAPS.output(),
    FLAGS.output(),
    QPN.output(),
    STATE.output(),
    PORT.output(),
    PKEY_INDEX.output(),
    ACCESS.output(),
    PATH.output(),
    DEST_QPN.output(),
    SQ_PSN.output(),
    RQ_PSN.output(),
    PATH_MTU.output(),
    TIMEOUT.output(),
    RETRY_CNT.output(),
    RNR_RETRY.output(),
    MAX_RD_ATOMIC.output(),
    SQ_DRAINING.output(),
    RATE_LIMIT.output(),
    MAX_BURST.output(),
    TYPICAL_PACKET.output(),
];

const XRC_TGT_MODIFY: &[AttrSchema] = &[
    STATE.input(),
    CURRENT_STATE.input(),
    PORT.input(),
    PKEY_INDEX.input(),
    ACCESS.input(),
    PATH.input(),
    DEST_QPN.input(),
    SQ_PSN.input(),
    RQ_PSN.input(),
    PATH_MTU.input(),
    TIMEOUT.input(),
    MIN_RNR_TIMER.input(),
    MAX_DEST_RD_ATOMIC.input(),
    SQD_NOTIFY.input(),
];

const XRC_TGT_QUERY: &[AttrSchema] = &[
    XRCD.output(),
    QPN.output(),
    STATE.output(),
    PORT.output(),
    PKEY_INDEX.output(),
    ACCESS.output(),
    PATH.output(),
    DEST_QPN.output(),
    SQ_PSN.output(),
    RQ_PSN.output(),
    PATH_MTU.output(),
    TIMEOUT.output(),
    MIN_RNR_TIMER.output(),
    MAX_DEST_RD_ATOMIC.output(),
];

/// What a new XRC initiator is made of: it receives nothing.
const XRC_INI_CREATE: &[AttrSchema] = &[
    PD.required(),
    SEND_CQ.required(),
    CAPS.in_out(),
    FLAGS.input(),
    QPN.output(),
    EVENT_QUEUE_OF.input(),
    COOKIE.input(),
];

/// What a new XRC target is made of: it has no queue, and the protection domain of whatever shared receive queue a request names.
const XRC_TGT_CREATE: &[AttrSchema] = &[
    XRCD.required(),
    OPEN.input(),
    QPN.output(),
    EVENT_QUEUE_OF.input(),
    COOKIE.input(),
];

/// What a new queue pair with two queues is made of.
const CREATE_ONLY: &[AttrSchema] = &[
    PD.required(),
    SEND_CQ.required(),
    RECV_CQ.required(),
    SRQ.input(),
    CAPS.in_out(),
    FLAGS.input(),
    QPN.output(),
    EVENT_QUEUE_OF.input(),
    COOKIE.input(),
];

/// A class: what CREATE alone takes, what MODIFY takes, which CREATE takes too, what QUERY answers, and what CREATE needs.
macro_rules! class {
    ($(#[$doc:meta])* $name:ident, $id:ident, $text:literal, $create:ident, $modify:ident, $query:ident, $access:ident) => {
        $(#[$doc])*
        pub static $name: ClassSchema = ClassSchema {
            id: super::$id,
            name: $text,
            flags: class_flags::EVENTS,
            methods: &[
                MethodSchema {
                    number: method::CREATE,
                    name: "create",
                    target: Target::New,
                    access: Access::$access,
                    attrs: &joined::<{ $create.len() + $modify.len() }>($create, $modify),
                },
                MethodSchema {
                    number: method::QUERY,
                    name: "query",
                    target: Target::Object,
                    access: Access::Any,
                    attrs: $query,
                },
                MethodSchema {
                    number: method::MODIFY,
                    name: "modify",
                    target: Target::Object,
                    access: Access::Any,
                    attrs: $modify,
                },
                MethodSchema {
                    number: method::DESTROY,
                    name: "destroy",
                    target: Target::Object,
                    access: Access::Any,
                    attrs: &[ASYNC_EVENTS.output()],
                },
            ],
        };
    };
}

class! {
    /// QP_RC: reliable connected.
    RC, QP_RC, "qp_rc", CREATE_ONLY, RC_MODIFY, RC_QUERY, Any
}
class! {
    /// QP_UC: unreliable connected.
    UC, QP_UC, "qp_uc", CREATE_ONLY, UC_MODIFY, UC_QUERY, Any
}
class! {
    /// QP_UD: unreliable datagram.
    UD, QP_UD, "qp_ud", CREATE_ONLY, UD_MODIFY, UD_QUERY, Any
}
class! {
    /// QP_RAW: raw Ethernet. Whoever has one sees and says what no address handle would let it.
    RAW, QP_RAW, "qp_raw", CREATE_ONLY, RAW_MODIFY, RAW_QUERY, NetRaw
}
class! {
    /// QP_XRC_INI: XRC initiator, which sends to any shared receive queue of its peer's domain.
    XRC_INI, QP_XRC_INI, "qp_xrc_ini", XRC_INI_CREATE, XRC_INI_MODIFY, XRC_INI_QUERY, Any
}
class! {
    /// QP_XRC_TGT: XRC target, the other end of an initiator.
    XRC_TGT, QP_XRC_TGT, "qp_xrc_tgt", XRC_TGT_CREATE, XRC_TGT_MODIFY, XRC_TGT_QUERY, Any
}

/// Two lists of attributes as one.
const fn joined<const N: usize>(a: &[AttrSchema], b: &[AttrSchema]) -> [AttrSchema; N] {
    assert!(a.len() + b.len() == N);
    let mut all = [a[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < a.len() { a[i] } else { b[i - a.len()] };
        i += 1;
    }
    all
}
