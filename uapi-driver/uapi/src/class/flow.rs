// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! FLOW: a rule that steers Ethernet frames of a port to a raw queue pair. It begins with CREATE and ends with DESTROY.
//!
//! What `ibv_create_flow` says by a list of specifications is one structure here, twice: what the fields of a frame must be,
//! and which of their bits count. A specification of a protocol without any bits that count is `ethertype`, `ip_version` or
//! `protocol`.

use crate::payload;
use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

payload! {
    /// Fields of a frame's headers, in network order where one has more than one byte. A frame that lacks a header matches no
    /// rule for which bits of that header's fields count. Who compares fields of the IP header says which `ip_version`, who
    /// compares ports says which `protocol`.
    pub struct FlowFields (64) {
        /// Destination MAC address.
        dmac: [u8; 6],
        /// Source MAC address.
        smac: [u8; 6],
        /// EtherType, behind the VLAN tag if there is one.
        ethertype: [u8; 2],
        /// VLAN tag: priority, DEI, and in the lower 12 bits the id.
        vlan: [u8; 2],
        /// Source IP address: 4 bytes, then zeros, or 16.
        src_ip: [u8; 16],
        /// Destination IP address: 4 bytes, then zeros, or 16.
        dst_ip: [u8; 16],
        /// IPv6: flow label, 20 bits.
        flow_label: [u8; 4],
        /// Source port of TCP or UDP.
        src_port: [u8; 2],
        /// Destination port of TCP or UDP.
        dst_port: [u8; 2],
        /// Which IP header the frame has: 4, 6, or 0 for none.
        ip_version: u8,
        /// IPv4: protocol; IPv6: next header.
        protocol: u8,
        /// IPv4: type of service; IPv6: traffic class.
        traffic_class: u8,
        /// IPv4: time to live; IPv6: hop limit.
        hop_limit: u8,
        /// IPv4: the three flags, in the lower bits.
        ip_flags: u8,
        /// 1: the frame has a VLAN tag; 0: it has none.
        tagged: u8,
        /// Zero.
        reserved: [u8; 2],
    }
}

/// [`TYPE`], with the numbers of `enum ibv_flow_attr_type`.
pub mod kind {
    /// Frames that match.
    pub const NORMAL: u32 = 0;
    /// Frames that no other rule takes.
    pub const ALL_DEFAULT: u32 = 1;
    /// Frames to groups that no other rule takes.
    pub const MULTICAST_DEFAULT: u32 = 2;
    /// A copy of every frame.
    pub const SNIFFER: u32 = 3;
}

/// [`FLAGS`]; the first two with the values of `enum ibv_flow_flags`.
pub mod flag {
    /// Also frames to groups that the port itself sends; of a sniffer, all that it sends.
    pub const ALLOW_LOOP_BACK: u32 = 1 << 0;
    /// Frames that match are seen by rules of lower priority as well.
    pub const DONT_TRAP: u32 = 1 << 1;
    /// Frames that match are dropped: there is no queue pair.
    pub const DROP: u32 = 1 << 16;
    /// All that are known.
    pub const ALL: u32 = ALLOW_LOOP_BACK | DONT_TRAP | DROP;
}

/// Where the frames go: required, but with [`flag::DROP`]. It stays as long as the rule is.
pub const QP: Attr<ObjectId> = Attr::object(1, "qp", &[super::QP_RAW]);
/// The port, from 1.
pub const PORT: Attr<u32> = Attr::new(2, "port");
/// A [`kind`]; NORMAL if it is not given.
pub const TYPE: Attr<u32> = Attr::new(3, "type");
/// Of type NORMAL: lower numbers first, 0 to 65535. All rules of the first priority that match have a copy.
pub const PRIORITY: Attr<u32> = Attr::new(4, "priority");
/// [`flag`]s.
pub const FLAGS: Attr<u32> = Attr::new(5, "flags");
/// What completions of receives by this rule carry, 24 bits.
pub const TAG: Attr<u32> = Attr::new(6, "tag");
/// Of type NORMAL: what the fields must be; zero where no bit counts.
pub const MATCH: Attr<FlowFields> = Attr::new(7, "match");
/// Of type NORMAL: which bits count.
pub const MASK: Attr<FlowFields> = Attr::new(8, "mask");
/// Frames that it has matched.
pub const FRAMES: Attr<u64> = Attr::new(9, "frames");
/// Bytes of these.
pub const BYTES: Attr<u64> = Attr::new(10, "bytes");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::FLOW,
    name: "flow",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::NetRaw,
            attrs: &[
                QP.input(),
                PORT.required(),
                TYPE.input(),
                PRIORITY.input(),
                FLAGS.input(),
                TAG.input(),
                MATCH.input(),
                MASK.input(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                QP.output(),
                PORT.output(),
                TYPE.output(),
                PRIORITY.output(),
                FLAGS.output(),
                TAG.output(),
                MATCH.output(),
                MASK.output(),
                FRAMES.output(),
                BYTES.output(),
            ],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[],
        },
    ],
};
