// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The CM's datagrams (IBA vol. 1, 12.6): each 256 bytes, a common header and a body; integers in network order.
//!
//! Any 256 bytes are a value of every type here. Reserved fields are sent as zero and not looked at.

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::FromZeros;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a management datagram.
pub const SIZE: usize = 256;

/// [`Header::base_version`].
pub const BASE_VERSION: u8 = 1;
/// [`Header::class`]: communication management (IBA vol. 1, table 112 of chapter 13).
pub const CLASS: u8 = 7;
/// [`Header::class_version`] of the CM.
pub const CLASS_VERSION: u8 = 2;
/// [`Header::method`]: Send; the CM has no other.
pub const METHOD_SEND: u8 = 3;

/// A 24-bit number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct U24([u8; 3]);

impl U24 {
    /// The low 24 bits of `value`.
    pub const fn new(value: u32) -> Self {
        let [_, a, b, c] = value.to_be_bytes();
        U24([a, b, c])
    }

    /// As an integer.
    pub const fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }
}

/// Any management datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Mad {
    /// The header.
    pub header: Header,
    /// The rest, as the class and the attribute say.
    pub body: [u8; SIZE - 24],
}

/// The header of every management datagram (IBA vol. 1, 13.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`BASE_VERSION`].
    pub base_version: u8,
    /// The management class: [`CLASS`].
    pub class: u8,
    /// [`CLASS_VERSION`].
    pub class_version: u8,
    /// [`METHOD_SEND`].
    pub method: u8,
    /// Zero.
    pub status: U16,
    /// Zero.
    pub class_specific: U16,
    /// The transaction; an answer has that of the question.
    pub transaction: U64,
    /// Which message it is: an [`Attribute`].
    pub attribute: U16,
    /// Zero.
    pub reserved: U16,
    /// Zero.
    pub modifier: U32,
}

/// [`Header::attribute`] (IBA vol. 1, table 105).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute(pub u16);

impl Attribute {
    /// Request for communication.
    pub const REQ: Self = Self(0x10);
    /// Message receipt acknowledgment.
    pub const MRA: Self = Self(0x11);
    /// Reject.
    pub const REJ: Self = Self(0x12);
    /// Reply to a request.
    pub const REP: Self = Self(0x13);
    /// Ready to use.
    pub const RTU: Self = Self(0x14);
    /// Disconnection request.
    pub const DREQ: Self = Self(0x15);
    /// Disconnection reply.
    pub const DREP: Self = Self(0x16);
}

/// A path in a REQ. 44 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PathInfo {
    /// LID of the active side's port; on RoCE [`PERMISSIVE_LID`].
    pub local_lid: U16,
    /// LID of the passive side's port; on RoCE [`PERMISSIVE_LID`].
    pub remote_lid: U16,
    /// GID of the active side's port.
    pub local_gid: [u8; 16],
    /// GID of the passive side's port.
    pub remote_gid: [u8; 16],
    /// The flow label in the upper 20 of the 24 bits.
    pub flow_label: U24,
    /// The packet rate in the lower 6 bits.
    pub rate: u8,
    /// The traffic class.
    pub traffic_class: u8,
    /// The hop limit.
    pub hop_limit: u8,
    /// Service level in the upper 4 bits, then whether the path stays in the subnet.
    pub sl: u8,
    /// In the upper 5 bits.
    pub ack_timeout_bits: u8,
}

/// A LID that says: go by the GIDs.
pub const PERMISSIVE_LID: u16 = 0xffff;

macro_rules! messages {
    ($($(#[$m:meta])* $name:ident ($attribute:ident) { $($(#[$fm:meta])* $field:ident: $t:ty,)* })*) => { $(
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name {
            /// The header.
            pub header: Header,
            /// The sender's communication id.
            pub local_comm_id: U32,
            $($(#[$fm])* pub $field: $t,)*
        }
        const _: () = assert!(size_of::<$name>() == SIZE);

        impl $name {
            /// Private data that fits, in bytes.
            pub const PRIVATE_DATA: usize = size_of::<$name>() - core::mem::offset_of!($name, private_data);

            /// One with its header filled in and zeros everywhere else.
            pub fn new(transaction: u64, local_comm_id: u32) -> Self {
                let mut message = Self::new_zeroed();
                message.header = Header {
                    base_version: BASE_VERSION,
                    class: CLASS,
                    class_version: CLASS_VERSION,
                    method: METHOD_SEND,
                    transaction: transaction.into(),
                    attribute: Attribute::$attribute.0.into(),
                    ..Header::default()
                };
                message.local_comm_id = local_comm_id.into();
                message
            }

            /// As any datagram.
            pub fn mad(&self) -> Mad {
                zerocopy::transmute!(*self)
            }

            /// What the datagram says, if it is such a message.
            pub fn of(mad: &Mad) -> &Self {
                zerocopy::transmute_ref!(mad)
            }
        }
    )* };
}

messages! {
    /// Request for communication (table 106).
    Req (REQ) {
        /// Zero.
        reserved0: U32,
        /// Whom it is for.
        service_id: U64,
        /// GUID of the sender's HCA.
        ca_guid: [u8; 8],
        /// Zero.
        reserved1: U32,
        /// Q_Key of the sender's queue pair, for datagrams.
        qkey: U32,
        /// The sender's queue pair.
        qpn: U24,
        /// READs and atomics that the sender's queue pair executes at a time.
        responder_resources: u8,
        /// End-to-end context.
        eecn: U24,
        /// READs and atomics that the sender wants to have outstanding.
        initiator_depth: u8,
        /// End-to-end context.
        remote_eecn: U24,
        /// See the accessors.
        bits43: u8,
        /// First PSN that the sender sends.
        psn: U24,
        /// See the accessors.
        bits47: u8,
        /// The partition.
        pkey: U16,
        /// See the accessors.
        bits50: u8,
        /// See the accessors.
        bits51: u8,
        /// The path.
        primary: PathInfo,
        /// The path to migrate to.
        alternate: PathInfo,
        /// The consumer's.
        private_data: [u8; 92],
    }

    /// Message receipt acknowledgment (table 107).
    Mra (MRA) {
        /// The receiver's communication id.
        remote_comm_id: U32,
        /// See the accessors.
        bits8: u8,
        /// See the accessors.
        bits9: u8,
        /// The consumer's.
        private_data: [u8; 222],
    }

    /// Reject (table 108).
    Rej (REJ) {
        /// The receiver's communication id; zero if the sender never learnt it.
        remote_comm_id: U32,
        /// See the accessors.
        bits8: u8,
        /// See the accessors.
        bits9: u8,
        /// Why: a [`RejectReason`].
        reason: U16,
        /// Additional rejection information.
        ari: [u8; 72],
        /// The consumer's.
        private_data: [u8; 148],
    }

    /// Reply to a request for communication (table 110).
    Rep (REP) {
        /// The receiver's communication id.
        remote_comm_id: U32,
        /// Q_Key of the sender's queue pair, for datagrams.
        qkey: U32,
        /// The sender's queue pair.
        qpn: U24,
        /// Zero.
        reserved0: u8,
        /// End-to-end context.
        eecn: U24,
        /// Zero.
        reserved1: u8,
        /// First PSN that the sender sends.
        psn: U24,
        /// Zero.
        reserved2: u8,
        /// READs and atomics that the sender's queue pair executes at a time.
        responder_resources: u8,
        /// READs and atomics that the sender will have outstanding.
        initiator_depth: u8,
        /// See the accessors.
        bits26: u8,
        /// See the accessors.
        bits27: u8,
        /// GUID of the sender's HCA.
        ca_guid: [u8; 8],
        /// The consumer's.
        private_data: [u8; 196],
    }

    /// Ready to use (table 111).
    Rtu (RTU) {
        /// The receiver's communication id.
        remote_comm_id: U32,
        /// The consumer's.
        private_data: [u8; 224],
    }

    /// Disconnection request (table 112).
    Dreq (DREQ) {
        /// The receiver's communication id.
        remote_comm_id: U32,
        /// The receiver's queue pair.
        remote_qpn: U24,
        /// Zero.
        reserved0: u8,
        /// The consumer's.
        private_data: [u8; 220],
    }

    /// Disconnection reply (table 113).
    Drep (DREP) {
        /// The receiver's communication id.
        remote_comm_id: U32,
        /// The consumer's.
        private_data: [u8; 224],
    }
}

macro_rules! at {
    ($($message:ident . $field:ident @ $offset:literal)*) => { $(
        const _: () = assert!(core::mem::offset_of!($message, $field) == size_of::<Header>() + $offset);
    )* };
}

at! {
    Req.service_id @ 8 Req.ca_guid @ 16 Req.qkey @ 28 Req.qpn @ 32 Req.responder_resources @ 35
    Req.initiator_depth @ 39 Req.bits43 @ 43 Req.psn @ 44 Req.bits47 @ 47 Req.pkey @ 48 Req.bits50 @ 50
    Req.bits51 @ 51 Req.primary @ 52 Req.alternate @ 96 Req.private_data @ 140
    Mra.remote_comm_id @ 4 Mra.bits8 @ 8 Mra.bits9 @ 9 Mra.private_data @ 10
    Rej.remote_comm_id @ 4 Rej.bits8 @ 8 Rej.bits9 @ 9 Rej.reason @ 10 Rej.ari @ 12 Rej.private_data @ 84
    Rep.remote_comm_id @ 4 Rep.qkey @ 8 Rep.qpn @ 12 Rep.eecn @ 16 Rep.psn @ 20 Rep.responder_resources @ 24
    Rep.initiator_depth @ 25 Rep.bits26 @ 26 Rep.bits27 @ 27 Rep.ca_guid @ 28 Rep.private_data @ 36
    Rtu.remote_comm_id @ 4 Rtu.private_data @ 8
    Dreq.remote_comm_id @ 4 Dreq.remote_qpn @ 8 Dreq.private_data @ 12
    Drep.remote_comm_id @ 4 Drep.private_data @ 8
}
const _: () = assert!(size_of::<Header>() == 24 && size_of::<Mad>() == SIZE && size_of::<PathInfo>() == 44);

macro_rules! bits {
    ($($t:ident . $field:ident [$shift:literal; $width:literal] { $(#[$m:meta])* $get:ident, $set:ident })*) => { $(
        impl $t {
            $(#[$m])*
            pub const fn $get(&self) -> u8 {
                self.$field >> $shift & ((1 << $width) - 1)
            }

            /// Sets it; bits beyond its width do not count.
            pub fn $set(&mut self, value: u8) {
                const MASK: u8 = (1 << $width) - 1;
                self.$field = self.$field & !(MASK << $shift) | (value & MASK) << $shift;
            }
        }
    )* };
}

bits! {
    Req.bits43[3; 5] {
        /// How soon the passive side's CM shall answer, coded ([`crate::timeout`]).
        remote_response_timeout, set_remote_response_timeout
    }
    Req.bits43[1; 2] {
        /// The transport: 0 RC, 1 UC, 2 RD, 3 see the extended type.
        transport, set_transport
    }
    Req.bits43[0; 1] {
        /// End-to-end flow control.
        flow_control, set_flow_control
    }
    Req.bits47[3; 5] {
        /// How soon the sender's CM answers, coded ([`crate::timeout`]).
        local_response_timeout, set_local_response_timeout
    }
    Req.bits47[0; 3] {
        /// Transport retries of the passive side's queue pair.
        retry_count, set_retry_count
    }
    Req.bits50[4; 4] {
        /// The path MTU: 1 to 5 for 256 to 4096 bytes.
        mtu, set_mtu
    }
    Req.bits50[0; 3] {
        /// RNR retries of the passive side's queue pair.
        rnr_retry_count, set_rnr_retry_count
    }
    Req.bits51[4; 4] {
        /// How often either side repeats a message.
        max_cm_retries, set_max_cm_retries
    }
    Req.bits51[3; 1] {
        /// Whether the sender's queue pair has a shared receive queue.
        srq, set_srq
    }
    Req.bits51[0; 3] {
        /// The transport if [`Req::transport`] is 3.
        extended_transport, set_extended_transport
    }
    PathInfo.sl[3; 1] {
        /// Whether the path stays in the subnet.
        subnet_local, set_subnet_local
    }
    PathInfo.ack_timeout_bits[3; 5] {
        /// Local ACK timeout for the passive side's queue pair, coded ([`crate::timeout`]).
        ack_timeout, set_ack_timeout
    }
    Mra.bits8[6; 2] {
        /// The kind of message that this one answers.
        answered, set_answered
    }
    Mra.bits9[3; 5] {
        /// How long the sender needs, coded ([`crate::timeout`]).
        service_timeout, set_service_timeout
    }
    Rej.bits8[6; 2] {
        /// The kind of message that this one answers.
        answered, set_answered
    }
    Rej.bits9[1; 7] {
        /// Bytes of [`Rej::ari`] that count.
        ari_length, set_ari_length
    }
    Rep.bits26[3; 5] {
        /// The sender's delay of acknowledgments, coded ([`crate::timeout`]).
        target_ack_delay, set_target_ack_delay
    }
    Rep.bits26[1; 2] {
        /// What became of the alternate path: 1 is not supported.
        failover, set_failover
    }
    Rep.bits26[0; 1] {
        /// End-to-end flow control.
        flow_control, set_flow_control
    }
    Rep.bits27[5; 3] {
        /// RNR retries of the active side's queue pair.
        rnr_retry_count, set_rnr_retry_count
    }
    Rep.bits27[4; 1] {
        /// Whether the sender's queue pair has a shared receive queue.
        srq, set_srq
    }
}

/// What an MRA or REJ answers.
pub mod answered {
    /// A REQ.
    pub const REQ: u8 = 0;
    /// A REP.
    pub const REP: u8 = 1;
    /// In a REJ: no message in particular, as when time is up.
    pub const NONE: u8 = 2;
}

/// Why a REJ (IBA vol. 1, table 109).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectReason(pub u16);

macro_rules! reasons {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl RejectReason {
            $(#[doc = concat!("It means: ", $text, ".")] pub const $name: Self = Self($value);)*

            /// What it means.
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "reason unknown",
                }
            }
        }
    };
}

reasons! {
    NO_QP = 1, "no queue pair available";
    NO_EEC = 2, "no end-to-end context available";
    NO_RESOURCES = 3, "no resources available";
    TIMEOUT = 4, "the other side did not answer in time";
    UNSUPPORTED = 5, "the request is not supported";
    INVALID_COMM_ID = 6, "no connection has this communication id";
    INVALID_COMM_INSTANCE = 7, "the communication id means another connection";
    INVALID_SERVICE_ID = 8, "nobody listens there";
    INVALID_TRANSPORT = 9, "the listener does not take this transport";
    STALE_CONNECTION = 10, "the queue pair still has an earlier connection";
    NO_RDC = 11, "no reliable datagram channel";
    INVALID_GID = 12, "the primary path's GID is not accepted";
    INVALID_LID = 13, "the primary path's LID is not accepted";
    INVALID_SL = 14, "the primary path's service level is not accepted";
    INVALID_TRAFFIC_CLASS = 15, "the primary path's traffic class is not accepted";
    INVALID_HOP_LIMIT = 16, "the primary path's hop limit is not accepted";
    INVALID_RATE = 17, "the primary path's packet rate is not accepted";
    INVALID_ALTERNATE_GID = 18, "the alternate path's GID is not accepted";
    INVALID_ALTERNATE_LID = 19, "the alternate path's LID is not accepted";
    INVALID_ALTERNATE_SL = 20, "the alternate path's service level is not accepted";
    INVALID_ALTERNATE_TRAFFIC_CLASS = 21, "the alternate path's traffic class is not accepted";
    INVALID_ALTERNATE_HOP_LIMIT = 22, "the alternate path's hop limit is not accepted";
    INVALID_ALTERNATE_RATE = 23, "the alternate path's packet rate is not accepted";
    CM_REDIRECT = 24, "another port's CM is responsible";
    PORT_REDIRECT = 25, "another port is to be used";
    INVALID_MTU = 26, "the path MTU is not accepted";
    INSUFFICIENT_RESPONDER_RESOURCES = 27, "not enough responder resources";
    CONSUMER = 28, "the application refused";
    INVALID_RNR_RETRY = 29, "the RNR retry count is not accepted";
    DUPLICATE_COMM_ID = 30, "the communication id is in use for another connection";
    INVALID_CLASS_VERSION = 31, "the class version is not supported";
    INVALID_FLOW_LABEL = 32, "the primary path's flow label is not accepted";
    INVALID_ALTERNATE_FLOW_LABEL = 33, "the alternate path's flow label is not accepted";
    VENDOR_OPTION = 35, "a vendor's option is not supported";
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn u18_a_request_is_on_the_wire_where_the_specification_has_it() {
        let mut req = Req::new(0x1122_3344_5566_7788, 0xaabb_ccdd);
        req.service_id = 0x0106_1234.into();
        req.qpn = U24::new(0x01_0203);
        req.responder_resources = 4;
        req.initiator_depth = 5;
        req.set_remote_response_timeout(20);
        req.set_flow_control(1);
        req.psn = U24::new(0xab_cdef);
        req.set_local_response_timeout(18);
        req.set_retry_count(7);
        req.pkey = 0xffff.into();
        req.set_mtu(3);
        req.set_rnr_retry_count(6);
        req.set_max_cm_retries(15);
        req.primary.set_ack_timeout(14);
        req.private_data[91] = 0x99;
        let mad = req.mad();
        let bytes = mad.as_bytes();
        assert_eq!(bytes[..4], [1, 7, 2, 3]);
        assert_eq!(bytes[8..16], 0x1122_3344_5566_7788u64.to_be_bytes());
        assert_eq!(bytes[16..18], [0, 0x10]);
        assert_eq!(bytes[24..28], [0xaa, 0xbb, 0xcc, 0xdd]);
        assert_eq!(bytes[32..40], [0, 0, 0, 0, 1, 6, 0x12, 0x34]);
        assert_eq!(bytes[56..60], [1, 2, 3, 4]);
        assert_eq!(bytes[63], 5);
        assert_eq!(bytes[67], 20 << 3 | 1);
        assert_eq!(bytes[68..72], [0xab, 0xcd, 0xef, 18 << 3 | 7]);
        assert_eq!(bytes[72..76], [0xff, 0xff, 3 << 4 | 6, 15 << 4]);
        assert_eq!(bytes[24 + 95], 14 << 3);
        assert_eq!(bytes[255], 0x99);
        assert_eq!(Req::of(&mad), &req);
    }

    #[test]
    fn u18_private_data_has_the_sizes_of_the_specification() {
        let sizes = [
            Req::PRIVATE_DATA,
            Mra::PRIVATE_DATA,
            Rej::PRIVATE_DATA,
            Rep::PRIVATE_DATA,
            Rtu::PRIVATE_DATA,
            Dreq::PRIVATE_DATA,
            Drep::PRIVATE_DATA,
        ];
        assert_eq!(sizes, [92, 222, 148, 196, 224, 220, 224]);
    }

    #[test]
    fn u18_fields_that_share_a_byte_do_not_disturb_each_other() {
        let mut rep = Rep::new(0, 0);
        rep.set_target_ack_delay(31);
        rep.set_failover(1);
        rep.set_flow_control(1);
        assert_eq!(rep.bits26, 0xfb);
        rep.set_failover(0);
        assert_eq!((rep.target_ack_delay(), rep.failover(), rep.flow_control()), (31, 0, 1));
        rep.set_rnr_retry_count(0xff);
        assert_eq!((rep.rnr_retry_count(), rep.srq()), (7, 0));
    }
}
