// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! CM_ID: one end of a connection, or a listener for them.
//!
//! Connecting is one call on each side: CONNECT or ACCEPT names the queue pair, and the driver exchanges what the peer must
//! know and moves the queue pair through its states. Meanwhile, and as long as they are connected, MODIFY of that queue
//! pair is EBUSY but for its state ERR: the path is what both sides have agreed on.
//!
//! Everything that takes time is told by an event ([`event_queue::kind`](super::event_queue::kind), from CM on) on the queue
//! that the object reports to. A listener's new connection is an object of its own, which reports where the listener
//! does; its id is the data of the listener's CONNECT_REQUEST.
//!
//! On a device's own file an id is that device's. On the system-wide node it is no device's until it is bound to an address,
//! connects, or is made by a request; one that is bound to all addresses is on every device, also on those that come. A
//! queue pair is an object of a device's file, so there CONNECT and ACCEPT name that file, too: [`DEVICE_FD`]. A host may serve
//! ids also on devices of others, whose queue pairs have numbers instead.

use super::{ASYNC_EVENTS, COOKIE, EVENT_QUEUE_OF};
use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

payload! {
    /// An address and a port (port space TCP of the RDMA IP CM service).
    pub struct CmAddress (24) {
        /// The GID: an IPv6 address, or an IPv4 one mapped into it. Zero in BIND: any of the port's.
        gid: [u8; 16],
        /// The port. Zero in BIND: any that is free.
        port: u16,
        /// Zero.
        reserved: [u8; 6],
    }

    /// How a connection is to be, or is.
    pub struct CmParams (32) {
        /// The path MTU, bytes; zero: the port's.
        path_mtu: u32,
        /// What the peer may do at the queue pair: [`super::mr::access`].
        access: u32,
        /// The flow label, 20 bits.
        flow_label: u32,
        /// READs and atomics that the queue pair executes for the peer at a time.
        responder_resources: u8,
        /// READs and atomics that the queue pair may have outstanding.
        initiator_depth: u8,
        /// Transport retries, 0 to 7, of either queue pair.
        retry_count: u8,
        /// RNR retries, 0 to 7, of either queue pair; 7 is for ever.
        rnr_retry_count: u8,
        /// Local ACK timeout of either queue pair: 4.096 us * 2^n.
        ack_timeout: u8,
        /// How long the queue pair makes its peer wait after receiver not ready, as the transport encodes it.
        min_rnr_timer: u8,
        /// How long either side's CM waits before it repeats a message: 4.096 us * 2^n, n at most 22.
        response_timeout: u8,
        /// How often a message is repeated, 0 to 15.
        max_cm_retries: u8,
        /// The traffic class of the path.
        traffic_class: u8,
        /// The hop limit of the path.
        hop_limit: u8,
        /// Zero.
        reserved: [u8; 10],
    }
}

/// [`STATE`].
pub mod state {
    /// New.
    pub const IDLE: u32 = 0;
    /// It has a port.
    pub const BOUND: u32 = 1;
    /// It takes connections.
    pub const LISTENING: u32 = 2;
    /// The peer has been asked.
    pub const CONNECTING: u32 = 3;
    /// A peer asks: ACCEPT or REJECT it.
    pub const REQUESTED: u32 = 4;
    /// Accepted; the peer has not confirmed yet.
    pub const ACCEPTED: u32 = 5;
    /// Connected.
    pub const ESTABLISHED: u32 = 6;
    /// The peer has been told that it is over.
    pub const DISCONNECTING: u32 = 7;
    /// It is over; packets may still be on their way.
    pub const TIMEWAIT: u32 = 8;
    /// It is over, or never was.
    pub const CLOSED: u32 = 9;
}

/// Private data that CONNECT takes, in bytes: what the RDMA IP CM service leaves of a REQ's.
pub const CONNECT_PRIVATE_DATA: usize = 56;
/// Private data that ACCEPT takes, in bytes.
pub const ACCEPT_PRIVATE_DATA: usize = 196;
/// Private data that REJECT takes, in bytes.
pub const REJECT_PRIVATE_DATA: usize = 148;

/// Ours.
pub const LOCAL: Attr<CmAddress> = Attr::new(1, "local");
/// The peer's.
pub const PEER: Attr<CmAddress> = Attr::new(2, "peer");
/// The queue pair to connect, in RESET or INIT.
pub const QP: Attr<ObjectId> = Attr::object(3, "qp", &[super::QP_RC]);
/// How to connect it. Without it, as the driver thinks best. What QUERY answers is what both sides have agreed on.
pub const PARAMS: Attr<CmParams> = Attr::new(4, "params");
/// For the peer's application; what QUERY answers is from there.
pub const PRIVATE_DATA: Attr<[u8]> = Attr::array(5, "private_data");
/// Connections that may wait for ACCEPT or REJECT. More are refused.
pub const BACKLOG: Attr<u32> = Attr::new(6, "backlog");
/// Why a connection was refused: as in a REJ of the InfiniBand CM (IBA vol. 1, table 109). Without it 28: the consumer's.
pub const REASON: Attr<u32> = Attr::new(7, "reason");
/// The [`state`].
pub const STATE: Attr<u32> = Attr::new(8, "state");
/// The peer's queue pair.
pub const PEER_QPN: Attr<u32> = Attr::new(9, "peer_qpn");

/// On the system-wide node, and only there, where it must be: a descriptor of the device's file that [`QP`] is an object of. EXDEV
/// if the id is on another device. If it is a file of another driver's that the host serves, [`QP`] is the queue pair's number.
pub const DEVICE_FD: Attr<u32> = Attr::new(10, "device_fd");
/// On the system-wide node: the device that the id is on, by its number in the list of devices. Not answered while it is on
/// none, or on all.
pub const DEVICE: Attr<u64> = Attr::new(11, "device");

/// BIND: takes a port.
pub const BIND: u8 = method::CLASS;
/// LISTEN: takes connections from now on, on an object that is bound and reports to an event queue.
pub const LISTEN: u8 = method::CLASS + 1;
/// CONNECT: asks a peer. ESTABLISHED, REJECTED, UNREACHABLE or CONNECT_ERROR follows.
pub const CONNECT: u8 = method::CLASS + 2;
/// ACCEPT: answers a peer. ESTABLISHED, or one of the others, follows.
pub const ACCEPT: u8 = method::CLASS + 3;
/// REJECT: refuses a peer.
pub const REJECT: u8 = method::CLASS + 4;
/// DISCONNECT: moves the queue pair to ERR and tells the peer. DISCONNECTED follows on both sides, later TIMEWAIT_EXIT.
pub const DISCONNECT: u8 = method::CLASS + 5;

const fn on_object(number: u8, name: &'static str, attrs: &'static [crate::schema::AttrSchema]) -> MethodSchema {
    MethodSchema {
        number,
        name,
        target: Target::Object,
        access: Access::Any,
        attrs,
    }
}

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::CM_ID,
    name: "cm_id",
    flags: class_flags::EVENTS | class_flags::GLOBAL,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[EVENT_QUEUE_OF.input(), COOKIE.input()],
        },
        on_object(
            method::QUERY,
            "query",
            &[
                LOCAL.output(),
                PEER.output(),
                PARAMS.output(),
                PRIVATE_DATA.output(),
                REASON.output(),
                STATE.output(),
                PEER_QPN.output(),
                DEVICE.output(),
            ],
        ),
        on_object(method::DESTROY, "destroy", &[ASYNC_EVENTS.output()]),
        on_object(BIND, "bind", &[LOCAL.in_out()]),
        on_object(LISTEN, "listen", &[BACKLOG.required()]),
        on_object(
            CONNECT,
            "connect",
            &[
                PEER.required(),
                QP.required(),
                PARAMS.input(),
                PRIVATE_DATA.input(),
                LOCAL.output(),
                DEVICE_FD.input(),
            ],
        ),
        on_object(
            ACCEPT,
            "accept",
            &[QP.required(), PARAMS.input(), PRIVATE_DATA.input(), DEVICE_FD.input()],
        ),
        on_object(REJECT, "reject", &[REASON.input(), PRIVATE_DATA.input()]),
        on_object(DISCONNECT, "disconnect", &[]),
    ],
};
