// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! MAD: a client of a management class: what sends management datagrams on QP 1 and is given those that are for it. What
//! umad's agents are.
//!
//! SEND sends one. A request whose answer is awaited ([`TIMEOUT`]) is sent again when its time is over, [`RETRIES`] times; either
//! the answer arrives, or, once, the request comes back as [`status::TIMED_OUT`]. So that answers find who asked, the upper half of
//! a request's transaction id is the client's own number ([`TID_HIGH`]), whatever the program wrote there; the lower half
//! is the program's.
//!
//! CREATE names the methods that the client serves. A request of such a method and of the client's class and version that arrives
//! is the client's. One method has one client: a second is EBUSY.
//!
//! RECEIVE takes what has arrived. With an event queue, a MAD event says that there is something. For everything that is awaited
//! there is room; a request that finds none is dropped, and counted ([`LOST`]): requests are repeated.

use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

payload! {
    /// Methods of a management class, a bit each.
    pub struct MadMethods (16) {
        /// Methods 0 to 63.
        low: u64,
        /// Methods 64 to 127.
        high: u64,
    }

    /// What RECEIVE gives.
    pub struct MadReceived (304) {
        /// The other side's GID: who sent it; of a request that comes back, to whom it was sent.
        gid: [u8; 16],
        /// Ours.
        local_gid: [u8; 16],
        /// The other side's queue pair.
        qpn: u32,
        /// The flow label, 20 bits.
        flow_label: u32,
        /// Our entry in the port's GID table; 0xffff if the GID is not in it any more.
        sgid_index: u16,
        /// [`status`].
        status: u16,
        /// The hop limit.
        hop_limit: u8,
        /// The traffic class.
        traffic_class: u8,
        /// Zero.
        reserved: [u8; 2],
        /// The datagram.
        datagram: [u8; 256],
    }
}

/// [`MadReceived::status`].
pub mod status {
    /// A request that the client serves.
    pub const REQUEST: u16 = 0;
    /// The answer to a request that the client sent.
    pub const RESPONSE: u16 = 1;
    /// A request that the client sent and nobody has answered: it comes back.
    pub const TIMED_OUT: u16 = 2;
}

/// Bytes of a datagram. A shorter one is filled up with zeros.
pub const DATAGRAM_BYTES: usize = 256;
/// Bytes of the header that all have.
pub const HEADER_BYTES: usize = 24;

/// The management class: 3 to 0x80 but 7, the communication manager's own.
pub const MGMT_CLASS: Attr<u32> = Attr::new(1, "mgmt_class");
/// The version of the class; without it, 1.
pub const CLASS_VERSION: Attr<u32> = Attr::new(2, "class_version");
/// The methods whose requests the client serves; without it, none: it only asks.
pub const METHODS: Attr<MadMethods> = Attr::new(3, "methods");
/// Of a vendor's class (0x30 to 0x4f): which vendor's, 24 bits, not 0.
pub const OUI: Attr<u32> = Attr::new(4, "oui");
/// Datagrams that may wait, awaited ones included; without it, [`DEFAULT_CAPACITY`].
pub const CAPACITY: Attr<u32> = Attr::new(5, "capacity");
/// The upper half of the transaction ids of the client's requests.
pub const TID_HIGH: Attr<u32> = Attr::new(6, "tid_high");
/// Where to: an address handle.
pub const AH: Attr<ObjectId> = Attr::object(7, "ah", &[super::AH]);
/// Where to: a path.
pub const PATH: Attr<super::qp::Path> = Attr::new(8, "path");
/// To which queue pair; without it, 1.
pub const QPN: Attr<u32> = Attr::new(9, "qpn");
/// With which Q_Key; without it, QP 1's.
pub const QKEY: Attr<u32> = Attr::new(10, "qkey");
/// How long an answer is awaited, in milliseconds, each time; without it, or with 0, none is.
pub const TIMEOUT: Attr<u32> = Attr::new(11, "timeout");
/// How often a request is sent again.
pub const RETRIES: Attr<u32> = Attr::new(12, "retries");
/// The datagram, from its header on.
pub const DATAGRAM: Attr<[u8]> = Attr::array(13, "datagram");
/// The transaction id that it is sent with: as a number, the first byte of the header's field highest.
pub const TID: Attr<u64> = Attr::new(14, "tid");
/// What has arrived, oldest first: as many as there are and fit.
pub const RECEIVED: Attr<[MadReceived]> = Attr::array(15, "received");
/// Requests that were dropped since this was last asked for.
pub const LOST: Attr<u64> = Attr::new(16, "lost");
/// Datagrams waiting.
pub const PENDING: Attr<u32> = Attr::new(17, "pending");
/// Requests whose answers are awaited.
pub const AWAITED: Attr<u32> = Attr::new(18, "awaited");

/// SEND: sends a datagram. To an address handle, or to a path.
pub const SEND: u8 = method::CLASS;
/// RECEIVE: takes datagrams; never waits.
pub const RECEIVE: u8 = method::CLASS + 1;

/// Datagrams that may wait unless asked otherwise.
pub const DEFAULT_CAPACITY: u32 = 64;
/// The most that may be asked for.
pub const MAX_CAPACITY: u32 = 4096;
/// The longest that an answer may be awaited.
pub const MAX_TIMEOUT: u32 = 600_000;
/// The most retries.
pub const MAX_RETRIES: u32 = 255;

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::MAD,
    name: "mad",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::NetAdmin,
            attrs: &[
                MGMT_CLASS.required(),
                CLASS_VERSION.input(),
                METHODS.input(),
                OUI.input(),
                CAPACITY.in_out(),
                TID_HIGH.output(),
                super::EVENT_QUEUE_OF.input(),
                super::COOKIE.input(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                MGMT_CLASS.output(),
                CLASS_VERSION.output(),
                METHODS.output(),
                OUI.output(),
                CAPACITY.output(),
                TID_HIGH.output(),
                PENDING.output(),
                AWAITED.output(),
            ],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[],
        },
        MethodSchema {
            number: SEND,
            name: "send",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                AH.input(),
                PATH.input(),
                QPN.input(),
                QKEY.input(),
                TIMEOUT.input(),
                RETRIES.input(),
                DATAGRAM.required(),
                TID.output(),
            ],
        },
        MethodSchema {
            number: RECEIVE,
            name: "receive",
            target: Target::Object,
            access: Access::Any,
            attrs: &[RECEIVED.output().by_pointer(), LOST.output(), PENDING.output()],
        },
    ],
};
