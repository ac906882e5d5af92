// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets as bytes: from the IP header to the invariant CRC.

use verbena_hw::grh::{self, Grh, Route};
use verbena_hw::wire::{
    Aeth, AtomicAckEth, AtomicEth, Bth, Deth, Feth, Ieth, ImmDt, Invariant, PacketOpcode, Reth, Udp, XrcEth, ICRC,
    UDP_PORT,
};
use zerocopy::{FromBytes, IntoBytes};

/// Extended headers, a bit each, in the order in which they stand in a packet.
pub(super) mod header {
    pub(crate) const XRC: u16 = 1 << 0;
    pub(crate) const DETH: u16 = 1 << 1;
    pub(crate) const FETH: u16 = 1 << 2;
    pub(crate) const RETH: u16 = 1 << 3;
    pub(crate) const ATOMIC: u16 = 1 << 4;
    pub(crate) const AETH: u16 = 1 << 5;
    pub(crate) const ORIGINAL: u16 = 1 << 6;
    pub(crate) const IMM: u16 = 1 << 7;
    pub(crate) const IETH: u16 = 1 << 8;
}

/// The extended headers that an opcode has; `None`: no such opcode.
pub(super) fn headers(opcode: PacketOpcode) -> Option<u16> {
    use header::*;
    use PacketOpcode as P;
    if opcode.service() == P::XRC {
        let of_rc = opcode.of_service(P::RC);
        // Its requests have one header more, its responses are RC's.
        return headers(of_rc).map(|set| if is_response(of_rc) { set } else { set | XRC });
    }
    Some(match opcode {
        P::RC_SEND_FIRST | P::RC_SEND_MIDDLE | P::RC_SEND_LAST | P::RC_SEND_ONLY => 0,
        P::UC_SEND_FIRST | P::UC_SEND_MIDDLE | P::UC_SEND_LAST | P::UC_SEND_ONLY => 0,
        P::RC_WRITE_MIDDLE | P::RC_WRITE_LAST | P::UC_WRITE_MIDDLE | P::UC_WRITE_LAST => 0,
        P::RC_SEND_LAST_WITH_IMM | P::RC_SEND_ONLY_WITH_IMM | P::RC_WRITE_LAST_WITH_IMM => IMM,
        P::UC_SEND_LAST_WITH_IMM | P::UC_SEND_ONLY_WITH_IMM | P::UC_WRITE_LAST_WITH_IMM => IMM,
        P::RC_SEND_LAST_WITH_INVALIDATE | P::RC_SEND_ONLY_WITH_INVALIDATE => IETH,
        P::RC_WRITE_FIRST | P::RC_WRITE_ONLY | P::UC_WRITE_FIRST | P::UC_WRITE_ONLY => RETH,
        P::RC_WRITE_ONLY_WITH_IMM | P::UC_WRITE_ONLY_WITH_IMM => RETH | IMM,
        P::RC_READ_REQUEST | P::RC_ATOMIC_WRITE => RETH,
        P::RC_READ_RESPONSE_MIDDLE => 0,
        P::RC_READ_RESPONSE_FIRST | P::RC_READ_RESPONSE_LAST | P::RC_READ_RESPONSE_ONLY | P::RC_ACKNOWLEDGE => AETH,
        P::RC_ATOMIC_ACKNOWLEDGE => AETH | ORIGINAL,
        P::RC_COMPARE_SWAP | P::RC_FETCH_ADD => ATOMIC,
        P::RC_FLUSH => FETH | RETH,
        P::UD_SEND_ONLY => DETH,
        P::UD_SEND_ONLY_WITH_IMM => DETH | IMM,
        _ => return None,
    })
}

/// Whether an opcode of RC answers a request.
pub(super) fn is_response(opcode: PacketOpcode) -> bool {
    matches!(
        opcode,
        PacketOpcode::RC_ACKNOWLEDGE
            | PacketOpcode::RC_ATOMIC_ACKNOWLEDGE
            | PacketOpcode::RC_READ_RESPONSE_FIRST
            | PacketOpcode::RC_READ_RESPONSE_MIDDLE
            | PacketOpcode::RC_READ_RESPONSE_LAST
            | PacketOpcode::RC_READ_RESPONSE_ONLY
    )
}

/// The extended headers. Which of them count, the opcode says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) xrc: XrcEth,
    pub(super) deth: Deth,
    pub(super) feth: Feth,
    pub(super) reth: Reth,
    pub(super) atomic: AtomicEth,
    pub(super) aeth: Aeth,
    pub(super) original: AtomicAckEth,
    pub(super) imm: ImmDt,
    pub(super) ieth: Ieth,
}

/// Applies a macro to every header with its bit, in the order of the packet.
macro_rules! each {
    ($what:ident, $set:expr, $ext:expr) => {
        $what!($set, header::XRC, $ext.xrc);
        $what!($set, header::DETH, $ext.deth);
        $what!($set, header::FETH, $ext.feth);
        $what!($set, header::RETH, $ext.reth);
        $what!($set, header::ATOMIC, $ext.atomic);
        $what!($set, header::AETH, $ext.aeth);
        $what!($set, header::ORIGINAL, $ext.original);
        $what!($set, header::IMM, $ext.imm);
        $what!($set, header::IETH, $ext.ieth);
    };
}

/// Everything of a packet but its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) route: Route,
    /// UDP source port.
    pub(super) port: u16,
    pub(super) bth: Bth,
    pub(super) ext: Extended,
}

/// Makes a packet whose `len` bytes of data `fill` writes.
///
/// # Errors
///
/// Those of `fill`.
///
/// # Panics
///
/// If the opcode is not one that this device sends, or the data is longer than any MTU: our own bugs.
pub(super) fn encode<E>(head: &Head, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Vec<u8>, E> {
    let set = headers(head.bth.opcode()).expect("the opcode of a packet that this device sends");
    assert!(len <= 4096);
    let mut bth = head.bth;
    let padded = len.next_multiple_of(4);
    bth.flags = bth.flags & !Bth::PAD | ((padded - len) as u8) << 4;
    let mut extended = [0; 64];
    let mut end = 0;
    macro_rules! put {
        ($set:expr, $bit:expr, $header:expr) => {
            if $set & $bit != 0 {
                let bytes = $header.as_bytes();
                extended[end..end + bytes.len()].copy_from_slice(bytes);
                end += bytes.len();
            }
        };
    }
    each!(put, set, head.ext);
    let behind_ip = size_of::<Udp>() + size_of::<Bth>() + end + padded + ICRC;
    let ip = Grh::of(&head.route, behind_ip as u16);
    let ip = ip.on_the_wire();
    let udp = Udp {
        source: head.port.into(),
        destination: UDP_PORT.into(),
        length: (behind_ip as u16).into(),
        checksum: 0.into(),
    };
    let mut bytes = Vec::with_capacity(ip.len() + behind_ip);
    bytes.extend_from_slice(ip);
    bytes.extend_from_slice(udp.as_bytes());
    bytes.extend_from_slice(bth.as_bytes());
    bytes.extend_from_slice(&extended[..end]);
    let data = bytes.len();
    bytes.resize(data + padded, 0);
    fill(&mut bytes[data..data + len])?;
    let crc = icrc(ip.len(), &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// A packet that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) head: Head,
    pub(super) data: &'a [u8],
    /// Its IP header.
    pub(super) ip: Grh,
    /// The packet as it came, but for what follows it.
    pub(super) bytes: &'a [u8],
}

impl Packet<'_> {
    /// Whether its invariant CRC is right.
    pub(super) fn is_intact(&self) -> bool {
        let (covered, crc) = self.bytes.split_at(self.bytes.len() - ICRC);
        icrc(self.ip.on_the_wire().len(), covered).to_le_bytes() == crc
    }

    /// The transport service.
    pub(super) fn service(&self) -> u8 {
        self.head.bth.opcode().service()
    }

    /// What the packet is; of XRC's packets, what it would be in RC.
    pub(super) fn opcode(&self) -> PacketOpcode {
        match self.head.bth.opcode() {
            opcode if opcode.service() == PacketOpcode::XRC => opcode.of_service(PacketOpcode::RC),
            opcode => opcode,
        }
    }
}

/// Bytes that are no packet of RoCEv2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Its IP or UDP header is not, so it may be anything.
    Foreign,
    /// What is behind them is not: it was for this GID.
    Transport(Route),
}

/// Takes a packet apart. Its ICRC is not checked.
pub(super) fn decode(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (ip, behind) = internet(bytes).ok_or(Malformed::Foreign)?;
    let route = ip.route().ok_or(Malformed::Foreign)?;
    let bytes = &bytes[..ip.on_the_wire().len() + behind.len()];
    let (udp, rest) = Udp::read_from_prefix(behind).map_err(|_| Malformed::Foreign)?;
    if udp.destination.get() != UDP_PORT || usize::from(udp.length.get()) != behind.len() {
        return Err(Malformed::Foreign);
    }
    let malformed = Malformed::Transport(route);
    let (bth, mut rest) = Bth::read_from_prefix(rest).map_err(|_| malformed)?;
    let set = headers(bth.opcode()).ok_or(malformed)?;
    if bth.flags & Bth::VERSION != 0 || bytes.len() % 4 != 0 {
        return Err(malformed);
    }
    let mut ext = Extended::default();
    macro_rules! take {
        ($set:expr, $bit:expr, $header:expr) => {
            if $set & $bit != 0 {
                ($header, rest) = FromBytes::read_from_prefix(rest).map_err(|_| malformed)?;
            }
        };
    }
    each!(take, set, ext);
    let len = rest.len().checked_sub(bth.pad() + ICRC).ok_or(malformed)?;
    Ok(Packet {
        head: Head {
            route,
            port: udp.source.get(),
            bth,
            ext,
        },
        data: &rest[..len],
        ip,
        bytes,
    })
}

/// The IP header, and what is behind it.
fn internet(bytes: &[u8]) -> Option<(Grh, &[u8])> {
    const UDP: u8 = 17;
    let mut ip = Grh([0; grh::LEN]);
    let (protocol, len, header) = match bytes.first()? >> 4 {
        6 => {
            let (header, _) = bytes.split_first_chunk::<40>()?;
            ip.0.copy_from_slice(header);
            let len = u16::from_be_bytes([header[4], header[5]]);
            (header[6], usize::from(len), 40)
        }
        4 => {
            let (header, _) = bytes.split_first_chunk::<20>()?;
            ip.0[20..].copy_from_slice(header);
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
            // Options and fragments are not what RoCEv2 sends.
            if header[0] != 0x45 || fragment != 0 {
                return None;
            }
            let len = u16::from_be_bytes([header[2], header[3]]);
            (header[9], usize::from(len).checked_sub(20)?, 20)
        }
        _ => return None,
    };
    let behind = bytes.get(header..header + len)?;
    (protocol == UDP).then_some((ip, behind))
}

/// The invariant CRC of a packet whose IP header has `ip` bytes (IBA annex A17).
pub(crate) fn icrc(ip: usize, packet: &[u8]) -> u32 {
    let masked = Invariant::of(ip, packet);
    let mut crc = crc32fast::Hasher::new();
    crc.update(masked.as_bytes());
    crc.update(&packet[masked.headers()..]);
    crc.finalize()
}

/// The UDP source port of a flow: from its label if it has one, otherwise from who talks to whom.
pub(super) fn source_port(flow_label: u32, own: u32, peer: u32) -> u16 {
    let label = if flow_label != 0 {
        flow_label
    } else {
        (own ^ peer.rotate_left(12)).wrapping_mul(0x9e37_79b1) >> 12
    };
    // The dynamic ports, as IBA annex A17 suggests.
    0xc000 | ((label ^ label >> 14) & 0x3fff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use verbena_hw::id::{Gid, Psn, Qpn};

    /// Hexadecimal digits as bytes.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn h13_the_icrc_of_a_packet_that_others_computed() {
        // A UC SEND between two ports of an adapter of Mellanox's, as it is in Scapy's tests.
        let packet = hex("4501 0040 0478 4000 4011 b4d5 c0a8 0007 c0a8 0007
             c000 12b7 002c aca2  2460 ffff 0000 00d3 00cf 1710
             4630 818b e289 35d9 0e9a 9550 5401 be88 5e50 0000");
        assert_eq!(icrc(20, &packet), u32::from_le_bytes([0x78, 0xf3, 0x53, 0xf3]));
    }

    #[test]
    fn h13_the_icrc_of_a_packet_that_an_adapter_sent() {
        // A congestion notification of a ConnectX-4 Lx, from the same collection.
        let packet = hex("45c2 003c 718c 4000 4011 9161 0a00 1101 0a00 1201 0000 12b7 0028 0000
             8100 ffff 4000 0118 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000");
        assert_eq!(icrc(20, &packet), u32::from_le_bytes([0x82, 0xfd, 0x00, 0x2a]));
    }

    fn route(ipv4: bool) -> Route {
        let gid = |n| match ipv4 {
            true => Gid::from_ipv4([192, 168, 0, n]),
            false => Gid::link_local([2, 0, 0, 0, 0, n]),
        };
        Route {
            sgid: gid(7),
            dgid: gid(9),
            flow_label: 0,
            traffic_class: 5,
            hop_limit: 64,
        }
    }

    fn packet(ipv4: bool, opcode: PacketOpcode, ext: &Extended, data: &[u8]) -> Vec<u8> {
        let head = Head {
            route: route(ipv4),
            port: 0xc123,
            bth: Bth::new(opcode, Qpn::truncate(0x12_3456), Psn::truncate(0xab_cdef)),
            ext: *ext,
        };
        let fill = |to: &mut [u8]| {
            to.copy_from_slice(data);
            Ok::<_, ()>(())
        };
        encode(&head, data.len(), fill).unwrap()
    }

    #[test]
    fn h13_what_may_change_on_the_way_is_not_covered_by_the_icrc() {
        for ipv4 in [true, false] {
            let sent = packet(ipv4, PacketOpcode::RC_SEND_ONLY, &Extended::default(), b"data");
            let ip = if ipv4 { 20 } else { 40 };
            for at in 0..sent.len() * 8 {
                let mut seen = sent.clone();
                seen[at / 8] ^= 1 << (at % 8);
                let variant = match (ipv4, at / 8) {
                    (true, 1 | 8 | 10 | 11) => true,
                    (false, 0) => at % 8 < 4,
                    (false, 1..=3 | 7) => true,
                    (_, byte) => byte == ip + 6 || byte == ip + 7 || byte == ip + 8 + 4,
                };
                let intact = icrc(ip, &seen[..seen.len() - 4]) == icrc(ip, &sent[..sent.len() - 4]);
                assert_eq!(intact, variant || at / 8 >= sent.len() - 4, "bit {at}");
            }
        }
    }

    fn extended() -> impl Strategy<Value = Extended> {
        prop::array::uniform32(any::<u8>()).prop_flat_map(|a| {
            prop::array::uniform32(any::<u8>()).prop_map(move |b| {
                let mut bytes = [a, b].concat();
                bytes.extend(a.map(|x| !x));
                bytes.extend(b);
                let mut rest = &bytes[..];
                let mut ext = Extended::default();
                macro_rules! draw {
                    ($set:expr, $bit:expr, $header:expr) => {
                        let _ = ($set, $bit);
                        ($header, rest) = FromBytes::read_from_prefix(rest).unwrap();
                    };
                }
                each!(draw, 0, ext);
                let _ = rest;
                ext
            })
        })
    }

    proptest! {
        #[test]
        fn h13_a_packet_is_read_as_it_was_written(
            which in 0..PacketOpcode::ALL.len(),
            ipv4: bool,
            ext in extended(),
            data in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let (opcode, _) = PacketOpcode::ALL[which];
            let Some(set) = headers(opcode) else {
                return Ok(());
            };
            let bytes = packet(ipv4, opcode, &ext, &data);
            let back = decode(&bytes).unwrap();
            prop_assert!(back.is_intact());
            prop_assert_eq!(back.head.route, route(ipv4));
            prop_assert_eq!((back.head.bth.opcode(), back.head.port), (opcode, 0xc123));
            prop_assert_eq!(back.data, &data[..]);
            macro_rules! same {
                ($set:expr, $bit:expr, $header:expr) => {
                    if $set & $bit != 0 {
                        prop_assert_eq!($header.0.as_bytes(), $header.1.as_bytes());
                    }
                };
            }
            struct Both { xrc: (XrcEth, XrcEth), deth: (Deth, Deth), feth: (Feth, Feth), reth: (Reth, Reth), atomic: (AtomicEth, AtomicEth),
                aeth: (Aeth, Aeth), original: (AtomicAckEth, AtomicAckEth), imm: (ImmDt, ImmDt), ieth: (Ieth, Ieth) }
            let (x, y) = (back.head.ext, ext);
            let both = Both { xrc: (x.xrc, y.xrc), deth: (x.deth, y.deth), feth: (x.feth, y.feth), reth: (x.reth, y.reth),
                atomic: (x.atomic, y.atomic), aeth: (x.aeth, y.aeth), original: (x.original, y.original),
                imm: (x.imm, y.imm), ieth: (x.ieth, y.ieth) };
            each!(same, set, both);
        }

        #[test]
        fn h13_any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), ipv4: bool, len: u16) {
            // As they are, and behind headers that lead to the transport's.
            let _ = decode(&bytes);
            let ip = Grh::of(&route(ipv4), bytes.len() as u16 + 8);
            let udp = Udp {
                source: 1.into(),
                destination: UDP_PORT.into(),
                length: if len % 8 == 0 { len } else { bytes.len() as u16 + 8 }.into(),
                checksum: 0.into(),
            };
            let mut whole = [ip.on_the_wire(), udp.as_bytes()].concat();
            whole.append(&mut bytes);
            if let Ok(packet) = decode(&whole) {
                let _ = packet.is_intact();
            }
        }
    }
}
