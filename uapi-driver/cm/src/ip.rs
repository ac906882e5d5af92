// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The RDMA IP CM service (IBA annex A11): ports as service ids, and the header with addresses that a REQ's private data
//! begins with. What every `rdma_cm` peer speaks.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The service ids of port space TCP (A11.2): this, and the port.
pub const SERVICE_TCP: u64 = 0x0000_0000_0106_0000;

/// The service id of a port.
pub const fn service(port: u16) -> u64 {
    SERVICE_TCP | port as u64
}

/// The port of a service id, if it is one of port space TCP.
pub const fn port(service: u64) -> Option<u16> {
    if service & !0xffff == SERVICE_TCP {
        Some(service as u16)
    } else {
        None
    }
}

/// An IPv6 address, or an IPv4 one mapped into it: the GID of RoCEv2.
pub type Address = [u8; 16];

/// The header (A11.3). 36 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Major version in the upper, minor in the lower 4 bits: both zero.
    version: u8,
    /// 4 or 6 in the upper 4 bits.
    family: u8,
    /// The active side's port.
    pub port: U16,
    /// The active side's address; an IPv4 one in the last 4 bytes.
    source: Address,
    /// The passive side's address; likewise.
    destination: Address,
}
const _: () = assert!(size_of::<Header>() == 36);

/// Private data that is left for the application in a REQ, in bytes.
pub const PRIVATE_DATA: usize = crate::mad::Req::PRIVATE_DATA - size_of::<Header>();

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

fn is_mapped(address: &Address) -> bool {
    address[..12] == MAPPED
}

impl Header {
    /// From one address and port to another address. Both are IPv4 if both are mapped ones.
    pub fn new(source: &Address, port: u16, destination: &Address) -> Self {
        let v4 = is_mapped(source) && is_mapped(destination);
        let plain = |address: &Address| {
            let mut plain = *address;
            if v4 {
                plain[..12].fill(0);
            }
            plain
        };
        Header {
            version: 0,
            family: if v4 { 4 << 4 } else { 6 << 4 },
            port: port.into(),
            source: plain(source),
            destination: plain(destination),
        }
    }

    /// The header at the beginning of a REQ's private data, and the application's data behind it; `None` if there is
    /// none that is understood.
    pub fn split(private_data: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = Header::read_from_prefix(private_data).ok()?;
        (header.version == 0 && matches!(header.family >> 4, 4 | 6)).then_some((header, rest))
    }

    fn whole(&self, address: &Address) -> Address {
        let mut whole = *address;
        if self.family >> 4 == 4 {
            whole[..12].copy_from_slice(&MAPPED);
        }
        whole
    }

    /// The active side's address.
    pub fn source(&self) -> Address {
        self.whole(&self.source)
    }

    /// The passive side's address.
    pub fn destination(&self) -> Address {
        self.whole(&self.destination)
    }

    /// The header and the application's data, as a REQ's private data; `None` if there are more than [`PRIVATE_DATA`]
    /// bytes.
    pub fn with(&self, data: &[u8]) -> Option<[u8; crate::mad::Req::PRIVATE_DATA]> {
        let mut whole = [0; crate::mad::Req::PRIVATE_DATA];
        whole[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        whole[size_of::<Self>()..].get_mut(..data.len())?.copy_from_slice(data);
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    const B: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2];
    const LOCAL: Address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x56, 0x42, 0xff, 0xfe, 0, 0, 7];

    #[test]
    fn u18_a_port_is_a_service_id_of_the_tcp_port_space() {
        assert_eq!(service(0x1234), 0x0106_1234);
        assert_eq!(port(service(7471)), Some(7471));
        assert_eq!(port(0x0106_0000 + 0x1_0000), None);
        assert_eq!(port(7471), None);
    }

    #[test]
    fn u18_ipv4_addresses_stand_in_the_last_four_bytes() {
        let header = Header::new(&A, 0x1122, &B);
        let bytes = header.as_bytes();
        assert_eq!(bytes[..4], [0, 0x40, 0x11, 0x22]);
        assert_eq!(bytes[4..20], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        assert_eq!(bytes[32..36], [10, 0, 0, 2]);
        assert_eq!((header.source(), header.destination()), (A, B));
    }

    #[test]
    fn u18_a_link_local_peer_makes_both_addresses_ipv6() {
        let header = Header::new(&LOCAL, 1, &A);
        assert_eq!(header.as_bytes()[1], 0x60);
        assert_eq!((header.source(), header.destination()), (LOCAL, A));
    }

    #[test]
    fn u18_data_behind_the_header_comes_back_and_too_much_does_not_go() {
        let data = [7; PRIVATE_DATA];
        let whole = Header::new(&A, 9, &B).with(&data).unwrap();
        let (header, rest) = Header::split(&whole).unwrap();
        assert_eq!((header.port.get(), rest), (9, &data[..]));
        assert!(header.with(&[0; PRIVATE_DATA + 1]).is_none());
        assert!(Header::split(&[0; 92]).is_none(), "no family");
        let mut later = whole;
        later[0] = 0x10;
        assert!(Header::split(&later).is_none(), "a version that nobody knows");
    }
}
