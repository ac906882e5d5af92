// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Raw Ethernet: frames, and the rules that steer them to queue pairs.
//!
//! A queue pair of type RAW sends whole frames, from the destination MAC address to the last byte of payload (no preamble,
//! no check sequence): a send entry is a [`crate::wqe::SendHeader`] with the opcode SEND, then elements or inline data. It
//! receives what the port's rules steer to it.
//!
//! A frame that a queue pair sends must carry the port's own MAC address as its source: a guest cannot speak for another.
//! It goes, by its destination, to the port with that MAC address, its own among them, or, if the address is a group's
//! (bit 0 of the first byte), to every other port. No other address leads anywhere. Packets of the RDMA transport are no
//! frames in this sense: they never meet a rule, so no rule sees or diverts them, and no frame, whatever it holds, reaches the
//! transport.
//!
//! At a port, in this order:
//!
//! 1. every rule of type SNIFFER has a copy;
//! 2. rules of type NORMAL, by priority, the lowest number first: all of the first priority that has a rule which
//!    matches have a copy each. If all of these have [`flags::DONT_TRAP`], the next priorities follow;
//! 3. if no rule without that flag has matched: of a group's frame every rule of type MULTICAST_DEFAULT has a copy; if there
//!    is none, and of any other frame, every rule of type ALL_DEFAULT.
//!
//! A queue pair that several of these rules lead to has one copy, and a frame is copied to at most [`MAX_COPIES`] queue pairs
//! of a port. Nothing waits for a receive: a copy for which none is posted, or only one that is too short, is dropped and
//! counted, and the receive that was too short stays posted. Rules see frames that come to the port; those that it sends to
//! others are seen only by rules with [`flags::LOOPBACK`].

use crate::layout::{assert_layout, open_enum};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a frame's header without tags: the shortest frame.
pub const HEADER: usize = 14;
/// Bytes of a VLAN tag (IEEE 802.1Q).
pub const TAG: usize = 4;
/// Bytes that a port with an MTU of `mtu` carries at most: one tag is not counted against the MTU.
pub const fn max_frame(mtu: u32) -> usize {
    HEADER + TAG + mtu as usize
}

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// EtherType of a VLAN tag.
pub const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// Queue pairs of a port that a frame is copied to at most.
pub const MAX_COPIES: usize = 256;

open_enum! {
    /// A rule's type, with the numbers of `enum ibv_flow_attr_type`.
    pub struct FlowType(u8) {
        /// Frames that match.
        NORMAL = 0,
        /// Frames that no other rule takes.
        ALL_DEFAULT = 1,
        /// Frames to groups that no other rule takes.
        MULTICAST_DEFAULT = 2,
        /// A copy of every frame.
        SNIFFER = 3,
    }
}

/// Flags of a rule.
pub mod flags {
    /// Type NORMAL: frames that match are seen by rules of lower priority as well.
    pub const DONT_TRAP: u8 = 1 << 0;
    /// Frames that match are dropped: the rule has no queue pair.
    pub const DROP: u8 = 1 << 1;
    /// The rule also sees frames to groups that its own port sends; of type SNIFFER, all that it sends.
    pub const LOOPBACK: u8 = 1 << 2;
    /// Receives by this rule carry its tag.
    pub const TAG: u8 = 1 << 3;
    /// All flags.
    pub const ALL: u8 = DONT_TRAP | DROP | LOOPBACK | TAG;
}

/// Lowest priority: largest number.
pub const MAX_PRIORITY: u16 = 0xffff;
/// Largest tag: 24 bits.
pub const MAX_TAG: u32 = 0x00ff_ffff;

/// What a rule compares, in network order where a field has more than one byte. Of a rule there are two: values, and masks,
/// whose set bits count. A frame that lacks a header matches no rule with set bits in that header's fields. A rule that
/// compares a field of the IP header says which `ip_version`, one that compares ports says which `protocol`. 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowFields {
    /// Destination MAC address.
    pub dmac: [u8; 6],
    /// Source MAC address.
    pub smac: [u8; 6],
    /// EtherType, behind the VLAN tag if there is one.
    pub ethertype: [u8; 2],
    /// VLAN tag: priority, DEI, and in the lower 12 bits the id.
    pub vlan: [u8; 2],
    /// Source IP address: 4 bytes, then zeros, or 16.
    pub src_ip: [u8; 16],
    /// Destination IP address: 4 bytes, then zeros, or 16.
    pub dst_ip: [u8; 16],
    /// IPv6: flow label, 20 bits.
    pub flow_label: [u8; 4],
    /// Source port of TCP or UDP. A fragment other than the first has none.
    pub src_port: [u8; 2],
    /// Destination port of TCP or UDP.
    pub dst_port: [u8; 2],
    /// Which IP header the frame has: 4, 6, or 0 for none. All of its bits count, or none.
    pub ip_version: u8,
    /// IPv4: protocol; IPv6: next header of the IPv6 header itself.
    pub protocol: u8,
    /// IPv4: type of service; IPv6: traffic class.
    pub traffic_class: u8,
    /// IPv4: time to live; IPv6: hop limit.
    pub hop_limit: u8,
    /// IPv4: the three flags, in the lower bits.
    pub ip_flags: u8,
    /// 1: the frame has a VLAN tag; 0: it has none. All of its bits count, or none.
    pub tagged: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
assert_layout!(FlowFields, 64, dmac @ 0, smac @ 6, ethertype @ 12, vlan @ 14, src_ip @ 16, dst_ip @ 32, flow_label @ 48,
    src_port @ 52, dst_port @ 54, ip_version @ 56, protocol @ 57, traffic_class @ 58, hop_limit @ 59, ip_flags @ 60, tagged @ 61);

/// The headers that the device found in a frame, in a receive's completion ([`crate::cqe::Cqe::pkey_index`]).
pub mod found {
    /// A VLAN tag.
    pub const VLAN: u16 = 1 << 0;
    /// IPv4.
    pub const IPV4: u16 = 1 << 1;
    /// IPv6.
    pub const IPV6: u16 = 1 << 2;
    /// TCP.
    pub const TCP: u16 = 1 << 3;
    /// UDP.
    pub const UDP: u16 = 1 << 4;
    /// A fragment of an IPv4 packet.
    pub const FRAGMENT: u16 = 1 << 5;
}
