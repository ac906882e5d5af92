// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! The global route header: the 40 bytes at the beginning of every receive that a datagram arrives in.
//!
//! With RoCEv2 it is the packet's IP header (IBA vol. 1, annex A17.4.3): an IPv6 header whole, or, between two
//! IPv4-mapped GIDs, 20 bytes of zeros and then the IPv4 header. Both are in network order. What follows in the packet
//! is UDP, so that is what their protocol fields say.

use crate::id::Gid;
use crate::layout::assert_layout;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the header.
pub const LEN: usize = 40;
/// Protocol number of UDP.
const UDP: u8 = 17;
/// Bytes of a datagram's packet behind the IP header but for its payload: UDP 8, BTH 12, DETH 8, ICRC 4.
const OVERHEAD: u16 = 8 + 12 + 8 + 4;
/// Bytes of the immediate data's header.
const IMMEDIATE: u16 = 4;
/// Where the IPv4 header begins.
const IPV4: usize = 20;

/// The header's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Grh(pub [u8; LEN]);
assert_layout!(Grh, LEN);

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The sender.
    pub sgid: Gid,
    /// Whom it was sent to: one of the port's GIDs, or a group's.
    pub dgid: Gid,
    /// Flow label, 20 bits; 0 over IPv4.
    pub flow_label: u32,
    /// Traffic class.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

impl Grh {
    /// The header of a packet with `payload` bytes of data, at most 4096, with or without immediate data.
    pub fn new(route: &Route, payload: u16, immediate: bool) -> Self {
        // Packets are padded to 4 bytes.
        Self::of(
            route,
            payload.next_multiple_of(4) + OVERHEAD + if immediate { IMMEDIATE } else { 0 },
        )
    }

    /// The header of a packet with `length` bytes behind it, from the UDP header on.
    pub fn of(route: &Route, length: u16) -> Self {
        match (route.sgid.ipv4(), route.dgid.ipv4()) {
            (Some(source), Some(destination)) => Self::ipv4(route, length, source, destination),
            _ => Self::ipv6(route, length),
        }
    }

    fn ipv6(route: &Route, length: u16) -> Self {
        let mut bytes = [0; LEN];
        let word = 6 << 28 | u32::from(route.traffic_class) << 20 | route.flow_label & 0xf_ffff;
        bytes[..4].copy_from_slice(&word.to_be_bytes());
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes[6] = UDP;
        bytes[7] = route.hop_limit;
        bytes[8..24].copy_from_slice(&route.sgid.0);
        bytes[24..].copy_from_slice(&route.dgid.0);
        Self(bytes)
    }

    fn ipv4(route: &Route, length: u16, source: [u8; 4], destination: [u8; 4]) -> Self {
        let mut bytes = [0; LEN];
        let header = &mut bytes[IPV4..];
        header[0] = 0x45;
        header[1] = route.traffic_class;
        header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
        // Do not fragment.
        header[6] = 0x40;
        header[8] = route.hop_limit;
        header[9] = UDP;
        header[12..16].copy_from_slice(&source);
        header[16..].copy_from_slice(&destination);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        Self(bytes)
    }

    /// The part of it that is on the wire: 20 bytes between IPv4-mapped GIDs, otherwise all.
    pub fn on_the_wire(&self) -> &[u8] {
        let ipv4 = self.0[IPV4] == 0x45 && self.0[0] >> 4 != 6;
        &self.0[if ipv4 { IPV4 } else { 0 }..]
    }

    /// What it says; `None` if it is neither kind of header.
    pub fn route(&self) -> Option<Route> {
        let bytes = &self.0;
        let gid = |at: usize| {
            let mut gid = [0; 16];
            gid.copy_from_slice(&bytes[at..at + 16]);
            Gid(gid)
        };
        let ip = |at: usize| Gid::from_ipv4([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // The order matters: what stands before an IPv4 header is not promised to be zero, and might look like
        // anything, but it has no valid checksum by chance more often than one time in 65536.
        if bytes[IPV4] == 0x45 && checksum(&bytes[IPV4..]) == 0 {
            return Some(Route {
                sgid: ip(32),
                dgid: ip(36),
                flow_label: 0,
                traffic_class: bytes[21],
                hop_limit: bytes[28],
            });
        }
        let word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        (word >> 28 == 6).then(|| Route {
            sgid: gid(8),
            dgid: gid(24),
            flow_label: word & 0xf_ffff,
            traffic_class: (word >> 20) as u8,
            hop_limit: bytes[7],
        })
    }
}

/// The checksum of an IPv4 header (RFC 791): 0 over a header that has a right one in it.
fn checksum(header: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in header.chunks_exact(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h09_an_ipv6_header_says_the_route() {
        let route = Route {
            sgid: Gid::link_local([2, 0, 0, 0, 0, 1]),
            dgid: Gid::link_local([2, 0, 0, 0, 0, 2]),
            flow_label: 0xa_bcde,
            traffic_class: 0x12,
            hop_limit: 64,
        };
        let grh = Grh::new(&route, 5, true);
        assert_eq!(grh.0[..8], [0x61, 0x2a, 0xbc, 0xde, 0, 8 + 36, 17, 64]);
        assert_eq!(grh.0[8..24], route.sgid.0);
        assert_eq!(grh.route(), Some(route));
    }

    #[test]
    fn h09_an_ipv4_header_stands_in_the_second_half() {
        let route = Route {
            sgid: Gid::from_ipv4([192, 168, 0, 1]),
            dgid: Gid::from_ipv4([192, 168, 0, 199]),
            flow_label: 0,
            traffic_class: 0,
            hop_limit: 64,
        };
        let grh = Grh::new(&route, 256, false);
        assert_eq!(grh.0[..20], [0; 20]);
        // 20 + 32 + 256 bytes, do not fragment, TTL 64, UDP. The checksum is that of the often printed header of 0x73
        // bytes between these addresses, 0xb861, less the difference of the lengths.
        let header = [
            0x45, 0, 1, 0x34, 0, 0, 0x40, 0, 64, 17, 0xb7, 0xa0, 192, 168, 0, 1, 192, 168, 0, 199,
        ];
        assert_eq!(grh.0[20..], header);
        assert_eq!(grh.route(), Some(route));
    }

    #[test]
    fn h09_other_bytes_are_no_header() {
        assert_eq!(Grh([0; LEN]).route(), None);
        let mut bytes = [0; LEN];
        bytes[20] = 0x45;
        assert_eq!(Grh(bytes).route(), None);
    }
}
