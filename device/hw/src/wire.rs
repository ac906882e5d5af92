// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Packets: the transport's headers, as they stand behind an IP and a UDP header on the wire (IBA vol. 1, chapter 9, and
//! annex A17, RoCEv2).
//!
//! A packet is a [`Bth`], the extended headers that its opcode has, data padded to four bytes, and [`ICRC`] bytes of
//! invariant CRC. Here, unlike everywhere else, integers are in network order; their types say so.

use crate::grh;
use crate::id::{Key, Psn, Qpn, Srqn};
use crate::layout::{assert_layout, open_enum};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// UDP destination port of RoCEv2 (IBA annex A17).
pub const UDP_PORT: u16 = 4791;
/// Bytes of the invariant CRC, which stands at the end and is in little-endian order.
pub const ICRC: usize = 4;
/// The P_Key of the default partition, its full members'.
pub const DEFAULT_PKEY: u16 = 0xffff;
/// The part of a P_Key that two members of a partition have in common: without the bit of full membership.
pub const PKEY_PARTITION: u16 = 0x7fff;

open_enum! {
    /// What a packet is: the transport service in the three bits at the top, the operation below (IBA vol. 1, 9.2.1).
    pub struct PacketOpcode(u8) {
        /// RC: a SEND of several packets begins.
        RC_SEND_FIRST = 0x00,
        /// RC: it goes on.
        RC_SEND_MIDDLE = 0x01,
        /// RC: it ends.
        RC_SEND_LAST = 0x02,
        /// RC: it ends, with [`ImmDt`].
        RC_SEND_LAST_WITH_IMM = 0x03,
        /// RC: a SEND in one packet.
        RC_SEND_ONLY = 0x04,
        /// RC: a SEND in one packet, with [`ImmDt`].
        RC_SEND_ONLY_WITH_IMM = 0x05,
        /// RC: a WRITE of several packets begins: [`Reth`].
        RC_WRITE_FIRST = 0x06,
        /// RC: it goes on.
        RC_WRITE_MIDDLE = 0x07,
        /// RC: it ends.
        RC_WRITE_LAST = 0x08,
        /// RC: it ends, with [`ImmDt`].
        RC_WRITE_LAST_WITH_IMM = 0x09,
        /// RC: a WRITE in one packet: [`Reth`].
        RC_WRITE_ONLY = 0x0a,
        /// RC: a WRITE in one packet: [`Reth`], [`ImmDt`].
        RC_WRITE_ONLY_WITH_IMM = 0x0b,
        /// RC: a READ: [`Reth`].
        RC_READ_REQUEST = 0x0c,
        /// RC: the answer to a READ begins: [`Aeth`].
        RC_READ_RESPONSE_FIRST = 0x0d,
        /// RC: it goes on.
        RC_READ_RESPONSE_MIDDLE = 0x0e,
        /// RC: it ends: [`Aeth`].
        RC_READ_RESPONSE_LAST = 0x0f,
        /// RC: the answer to a READ in one packet: [`Aeth`]. Without data, the answer to FLUSH and ATOMIC WRITE.
        RC_READ_RESPONSE_ONLY = 0x10,
        /// RC: an acknowledgement, or a negative one: [`Aeth`].
        RC_ACKNOWLEDGE = 0x11,
        /// RC: the answer to an atomic: [`Aeth`], [`AtomicAckEth`].
        RC_ATOMIC_ACKNOWLEDGE = 0x12,
        /// RC: compare and swap: [`AtomicEth`].
        RC_COMPARE_SWAP = 0x13,
        /// RC: fetch and add: [`AtomicEth`].
        RC_FETCH_ADD = 0x14,
        /// RC: a SEND of several packets ends, with [`Ieth`].
        RC_SEND_LAST_WITH_INVALIDATE = 0x16,
        /// RC: a SEND in one packet, with [`Ieth`].
        RC_SEND_ONLY_WITH_INVALIDATE = 0x17,
        /// RC: a FLUSH: [`Feth`], [`Reth`].
        RC_FLUSH = 0x1c,
        /// RC: an ATOMIC WRITE: [`Reth`], 8 bytes.
        RC_ATOMIC_WRITE = 0x1d,
        /// UC: as the one of RC.
        UC_SEND_FIRST = 0x20,
        /// UC: as the one of RC.
        UC_SEND_MIDDLE = 0x21,
        /// UC: as the one of RC.
        UC_SEND_LAST = 0x22,
        /// UC: as the one of RC.
        UC_SEND_LAST_WITH_IMM = 0x23,
        /// UC: as the one of RC.
        UC_SEND_ONLY = 0x24,
        /// UC: as the one of RC.
        UC_SEND_ONLY_WITH_IMM = 0x25,
        /// UC: as the one of RC.
        UC_WRITE_FIRST = 0x26,
        /// UC: as the one of RC.
        UC_WRITE_MIDDLE = 0x27,
        /// UC: as the one of RC.
        UC_WRITE_LAST = 0x28,
        /// UC: as the one of RC.
        UC_WRITE_LAST_WITH_IMM = 0x29,
        /// UC: as the one of RC.
        UC_WRITE_ONLY = 0x2a,
        /// UC: as the one of RC.
        UC_WRITE_ONLY_WITH_IMM = 0x2b,
        /// UD: a datagram: [`Deth`].
        UD_SEND_ONLY = 0x64,
        /// UD: a datagram: [`Deth`], [`ImmDt`].
        UD_SEND_ONLY_WITH_IMM = 0x65,
        /// A congestion notification (IBA annex A17.9).
        CNP = 0x81,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_FIRST = 0xa0,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_MIDDLE = 0xa1,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_LAST = 0xa2,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_LAST_WITH_IMM = 0xa3,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_ONLY = 0xa4,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_ONLY_WITH_IMM = 0xa5,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_WRITE_FIRST = 0xa6,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_WRITE_MIDDLE = 0xa7,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_WRITE_LAST = 0xa8,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_WRITE_LAST_WITH_IMM = 0xa9,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_WRITE_ONLY = 0xaa,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_WRITE_ONLY_WITH_IMM = 0xab,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_READ_REQUEST = 0xac,
        /// XRC: as the one of RC.
        XRC_READ_RESPONSE_FIRST = 0xad,
        /// XRC: as the one of RC.
        XRC_READ_RESPONSE_MIDDLE = 0xae,
        /// XRC: as the one of RC.
        XRC_READ_RESPONSE_LAST = 0xaf,
        /// XRC: as the one of RC.
        XRC_READ_RESPONSE_ONLY = 0xb0,
        /// XRC: as the one of RC.
        XRC_ACKNOWLEDGE = 0xb1,
        /// XRC: as the one of RC.
        XRC_ATOMIC_ACKNOWLEDGE = 0xb2,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_COMPARE_SWAP = 0xb3,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_FETCH_ADD = 0xb4,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_LAST_WITH_INVALIDATE = 0xb6,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_SEND_ONLY_WITH_INVALIDATE = 0xb7,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_FLUSH = 0xbc,
        /// XRC: as the one of RC, behind an [`XrcEth`].
        XRC_ATOMIC_WRITE = 0xbd,
    }
}

impl PacketOpcode {
    /// The transport service of RC.
    pub const RC: u8 = 0;
    /// The transport service of UC.
    pub const UC: u8 = 1;
    /// The transport service of UD.
    pub const UD: u8 = 3;
    /// The transport service of XRC (IBA annex A14).
    pub const XRC: u8 = 5;

    /// The transport service.
    pub const fn service(self) -> u8 {
        self.0 >> 5
    }

    /// The same operation of another transport service, if that has it.
    #[must_use]
    pub const fn of_service(self, service: u8) -> Self {
        Self(self.0 & 0x1f | service << 5)
    }
}

/// The base transport header (IBA vol. 1, 9.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Bth {
    /// A [`PacketOpcode`].
    pub opcode: u8,
    /// [`Bth::SOLICITED`], [`Bth::MIGRATED`], the bytes of padding in the bits of [`Bth::PAD`], and a version, which is 0.
    pub flags: u8,
    /// P_Key.
    pub pkey: U16,
    /// The destination's number in the lower 24 bits; above it [`Bth::FECN`], [`Bth::BECN`] and 6 bits of zero.
    pub qpn: U32,
    /// The PSN in the lower 24 bits; above it [`Bth::ACK_REQUEST`] and 7 bits of zero.
    pub psn: U32,
}
assert_layout!(Bth, 12, opcode @ 0, flags @ 1, pkey @ 2, qpn @ 4, psn @ 8);

impl Bth {
    /// `flags`: the receiver's completion is a solicited one.
    pub const SOLICITED: u8 = 1 << 7;
    /// `flags`: the path is the one that the connection has settled on.
    pub const MIGRATED: u8 = 1 << 6;
    /// `flags`: bits of the number of bytes by which the data was padded to a multiple of four.
    pub const PAD: u8 = 3 << 4;
    /// `flags`: bits of the version of the transport headers.
    pub const VERSION: u8 = 0xf;
    /// `qpn`: the packet has met congestion.
    pub const FECN: u32 = 1 << 31;
    /// `qpn`: the packet is to tell a sender of congestion.
    pub const BECN: u32 = 1 << 30;
    /// `psn`: the sender asks for an acknowledgement.
    pub const ACK_REQUEST: u32 = 1 << 31;

    /// A header with a path that has settled and the default partition's P_Key.
    pub const fn new(opcode: PacketOpcode, qpn: Qpn, psn: Psn) -> Self {
        Self {
            opcode: opcode.0,
            flags: Self::MIGRATED,
            pkey: U16::new(DEFAULT_PKEY),
            qpn: U32::new(qpn.get()),
            psn: U32::new(psn.get()),
        }
    }

    /// What the packet is.
    pub const fn opcode(&self) -> PacketOpcode {
        PacketOpcode(self.opcode)
    }

    /// The destination.
    pub const fn qpn(&self) -> Qpn {
        Qpn::truncate(self.qpn.get())
    }

    /// The sequence number.
    pub const fn psn(&self) -> Psn {
        Psn::truncate(self.psn.get())
    }

    /// Bytes of padding behind the data.
    pub const fn pad(&self) -> usize {
        ((self.flags & Self::PAD) >> 4) as usize
    }

    /// Whether an acknowledgement is asked for.
    pub const fn asks_ack(&self) -> bool {
        self.psn.get() & Self::ACK_REQUEST != 0
    }
}

/// The XRC extended transport header, of every request of that service (IBA annex A14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XrcEth {
    /// The number of the responder's shared receive queue in the lower 24 bits, zero above.
    pub srqn: U32,
}
assert_layout!(XrcEth, 4, srqn @ 0);

impl XrcEth {
    /// The shared receive queue.
    pub const fn srqn(&self) -> Srqn {
        Srqn::truncate(self.srqn.get())
    }
}

impl From<Srqn> for XrcEth {
    fn from(srqn: Srqn) -> Self {
        Self {
            srqn: U32::new(srqn.get()),
        }
    }
}

/// The RDMA extended transport header (IBA vol. 1, 9.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Reth {
    /// The target's address.
    pub addr: U64,
    /// R_Key.
    pub rkey: U32,
    /// Bytes of the whole message.
    pub len: U32,
}
assert_layout!(Reth, 16, addr @ 0, rkey @ 8, len @ 12);

/// The atomic extended transport header (IBA vol. 1, 9.3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AtomicEth {
    /// The target's address.
    pub addr: U64,
    /// R_Key.
    pub rkey: U32,
    /// Compare and swap: the value to store. Fetch and add: the value to add.
    pub swap_add: U64,
    /// Compare and swap: the value to compare with.
    pub compare: U64,
}
assert_layout!(AtomicEth, 28, addr @ 0, rkey @ 8, swap_add @ 12, compare @ 20);

/// The acknowledgement extended transport header (IBA vol. 1, 9.3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Aeth {
    /// The kind in the bits of [`Aeth::KIND`]; below it credits, an RNR timer's code or the code of a NAK.
    pub syndrome: u8,
    /// Message sequence number: requests completed, modulo 2^24.
    pub msn: [u8; 3],
}
assert_layout!(Aeth, 4, syndrome @ 0, msn @ 1);

impl Aeth {
    /// Bits of the kind.
    pub const KIND: u8 = 7 << 5;
    /// Bits of the value.
    pub const VALUE: u8 = 0x1f;
    /// Kind: acknowledged. The value is the credits.
    pub const ACK: u8 = 0 << 5;
    /// Kind: no receive is there. The value is the code of the time to wait.
    pub const RNR_NAK: u8 = 1 << 5;
    /// Kind: not executed. The value says why.
    pub const NAK: u8 = 3 << 5;
    /// Value of an acknowledgement: end-to-end credits are not in use (IBA vol. 1, 9.7.7.2).
    pub const NO_CREDITS: u8 = 0x1f;
    /// Value of a NAK: PSN sequence error.
    pub const NAK_SEQUENCE: u8 = 0;
    /// Value of a NAK: invalid request.
    pub const NAK_INVALID_REQUEST: u8 = 1;
    /// Value of a NAK: remote access error.
    pub const NAK_REMOTE_ACCESS: u8 = 2;
    /// Value of a NAK: remote operational error.
    pub const NAK_REMOTE_OPERATION: u8 = 3;

    /// A header with the lower 24 bits of `msn`.
    pub const fn new(syndrome: u8, msn: u32) -> Self {
        let [_, a, b, c] = msn.to_be_bytes();
        Self {
            syndrome,
            msn: [a, b, c],
        }
    }
}

/// The header of an atomic's result (IBA vol. 1, 9.3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AtomicAckEth {
    /// The value that the target had before.
    pub original: U64,
}
assert_layout!(AtomicAckEth, 8, original @ 0);

/// The datagram extended transport header (IBA vol. 1, 9.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Deth {
    /// Q_Key.
    pub qkey: U32,
    /// The sender's number in the lower 24 bits, zero above.
    pub src_qpn: U32,
}
assert_layout!(Deth, 8, qkey @ 0, src_qpn @ 4);

/// Immediate data (IBA vol. 1, 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ImmDt {
    /// The bytes as the verbs have them, which is in network order.
    pub data: [u8; 4],
}
assert_layout!(ImmDt, 4, data @ 0);

/// The header of an invalidation (IBA vol. 1, 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ieth {
    /// The R_Key that is not to be valid any more.
    pub rkey: U32,
}
assert_layout!(Ieth, 4, rkey @ 0);

/// The FLUSH extended transport header (IBA annex A19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Feth {
    /// The placement in the lower 4 bits, the level in the 2 bits above, zero above that. The numbers are those of
    /// `wqe::flush`.
    pub bits: U32,
}
assert_layout!(Feth, 4, bits @ 0);

impl Feth {
    /// A header; of placement and level count the bits that it has room for.
    pub const fn new(placement: u32, level: u32) -> Self {
        Self {
            bits: U32::new(placement & 0xf | (level & 3) << 4),
        }
    }

    /// Where the data is to be.
    pub const fn placement(&self) -> u32 {
        self.bits.get() & 0xf
    }

    /// How much of it.
    pub const fn level(&self) -> u32 {
        self.bits.get() >> 4 & 3
    }
}

/// The header of UDP (RFC 768).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source port: what tells the flows of two hosts apart.
    pub source: U16,
    /// Destination port: [`UDP_PORT`].
    pub destination: U16,
    /// Bytes of this header and everything behind it.
    pub length: U16,
    /// Checksum; 0: none, which RoCEv2 allows because it has the ICRC (IBA annex A17).
    pub checksum: U16,
}
assert_layout!(Udp, 8, source @ 0, destination @ 2, length @ 4, checksum @ 6);

impl From<Key> for Ieth {
    fn from(key: Key) -> Self {
        Self { rkey: U32::new(key.0) }
    }
}

/// What the invariant CRC covers ahead of a packet's extended headers (IBA annex A17): eight bytes of ones where InfiniBand
/// has its local route header, then the IP, UDP and base transport headers, with ones in every field that may change on the
/// way. The rest of the packet follows as it is. The CRC is Ethernet's (IEEE 802.3, 3.2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invariant {
    bytes: [u8; Self::LOCAL_ROUTE + Self::MOST],
    len: usize,
}

impl Invariant {
    const LOCAL_ROUTE: usize = 8;
    const MOST: usize = grh::LEN + size_of::<Udp>() + size_of::<Bth>();

    /// Of a packet whose IP header has `ip` bytes: 20 or 40.
    ///
    /// # Panics
    ///
    /// If the packet is shorter than its headers, which who makes or takes apart a packet knows.
    pub fn of(ip: usize, packet: &[u8]) -> Self {
        let headers = ip + size_of::<Udp>() + size_of::<Bth>();
        let mut bytes = [0xff; Self::LOCAL_ROUTE + Self::MOST];
        bytes[Self::LOCAL_ROUTE..Self::LOCAL_ROUTE + headers].copy_from_slice(&packet[..headers]);
        let header = &mut bytes[Self::LOCAL_ROUTE..];
        if ip == grh::LEN {
            // Traffic class, flow label, hop limit.
            header[0] |= 0xf;
            header[1..4].fill(0xff);
            header[7] = 0xff;
        } else {
            // Type of service, time to live, checksum.
            header[1] = 0xff;
            header[8] = 0xff;
            header[10..12].fill(0xff);
        }
        // UDP's checksum.
        header[ip + 6..ip + 8].fill(0xff);
        // FECN, BECN, and the bits beside them.
        header[ip + size_of::<Udp>() + 4] = 0xff;
        Self {
            bytes,
            len: Self::LOCAL_ROUTE + headers,
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How many bytes of the packet they stand for.
    pub fn headers(&self) -> usize {
        self.len - Self::LOCAL_ROUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromBytes, IntoBytes};

    #[test]
    fn h13_a_base_transport_header_has_its_bytes_where_the_specification_has_them() {
        // The one of a packet on a wire: UC SEND ONLY, path settled, 2 bytes of padding, to QP 211, PSN 13571856.
        let bytes = [0x24, 0x60, 0xff, 0xff, 0, 0, 0, 0xd3, 0, 0xcf, 0x17, 0x10];
        let mut bth = Bth::new(
            PacketOpcode::UC_SEND_ONLY,
            Qpn::truncate(211),
            Psn::truncate(13_571_856),
        );
        bth.flags |= 2 << 4;
        assert_eq!(bth.as_bytes(), bytes);
        assert_eq!((bth.pad(), bth.asks_ack()), (2, false));
        let back = Bth::read_from_bytes(&bytes[..]).unwrap();
        assert_eq!((back.qpn().get(), back.psn().get()), (211, 13_571_856));
        assert_eq!(back.opcode().service(), PacketOpcode::UC);
    }

    #[test]
    fn h13_bits_beside_a_number_are_not_the_number() {
        let bytes = [0x11, 0x80, 0x7f, 0xff, 0xc0, 1, 2, 3, 0x80, 0xff, 0xff, 0xff];
        let bth = Bth::read_from_bytes(&bytes[..]).unwrap();
        assert_eq!((bth.qpn().get(), bth.psn().get()), (0x1_0203, 0xff_ffff));
        assert!(bth.asks_ack());
        assert_eq!(bth.flags & Bth::SOLICITED, Bth::SOLICITED);
        assert_eq!(bth.qpn.get() & (Bth::FECN | Bth::BECN), Bth::FECN | Bth::BECN);
    }

    #[test]
    fn h13_extended_headers_are_in_network_order() {
        let reth = Reth {
            addr: U64::new(0x0102_0304_0506_0708),
            rkey: U32::new(0x090a_0b0c),
            len: U32::new(0x0d0e_0f10),
        };
        assert_eq!(reth.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(Aeth::new(Aeth::NAK | 2, 0x1_0203).as_bytes(), [0x62, 1, 2, 3]);
        assert_eq!(Ieth::from(Key(0x0102_0304)).as_bytes(), [1, 2, 3, 4]);
        let feth = Feth::new(crate::wqe::flush::GLOBAL, crate::wqe::flush::REGION);
        assert_eq!(feth.as_bytes(), [0, 0, 0, 0x11]);
        assert_eq!((feth.placement(), feth.level()), (1, 1));
    }

    #[test]
    fn h13_services_are_the_upper_three_bits() {
        for (opcode, name) in PacketOpcode::ALL {
            let service = match name.as_bytes() {
                [b'R', b'C', ..] => PacketOpcode::RC,
                [b'U', b'C', ..] => PacketOpcode::UC,
                [b'U', b'D', ..] => PacketOpcode::UD,
                [b'X', b'R', b'C', ..] => PacketOpcode::XRC,
                _ => 4,
            };
            assert_eq!(opcode.service(), service, "{name}");
            // The operations of RC and XRC have the same lower bits (IBA annex A14).
            if let Some(operation) = name.strip_prefix("XRC_") {
                let rc = PacketOpcode::ALL
                    .iter()
                    .find(|(_, name)| name.strip_prefix("RC_") == Some(operation));
                assert_eq!(
                    rc.map(|(rc, _)| rc.of_service(PacketOpcode::XRC)),
                    Some(*opcode),
                    "{name}"
                );
            }
        }
    }
}
