// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Numbers as types, so that a QP number cannot stand where a CQ number is meant.

use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! id24 {
    ($(#[$m:meta])* $name:ident) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $name(u32);

        impl $name {
            /// The largest value: these numbers are 24 bits wide (IBA vol. 1, 9.2).
            pub const MAX: u32 = 0x00ff_ffff;

            /// The number, or `None` if `value` needs more than 24 bits.
            pub const fn new(value: u32) -> Option<Self> {
                if value <= Self::MAX { Some(Self(value)) } else { None }
            }

            /// The number with everything above its 24 bits cut off.
            pub const fn truncate(value: u32) -> Self {
                Self(value & Self::MAX)
            }

            /// The number as an integer.
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

id24! {
    /// A queue pair number. 0 and 1 are the management QPs (SMI, GSI) of IBA; RC QPs start at 2 or above.
    Qpn
}
impl Qpn {
    /// The general services interface of every port (IBA vol. 1, 3.5.3): where management datagrams go.
    pub const GSI: Self = Self(1);
    /// The destination of every multicast message (IBA vol. 1, 10.5.1).
    pub const MULTICAST: Self = Self(Self::MAX);
}

id24! {
    /// A completion queue number.
    Cqn
}
id24! {
    /// A shared receive queue number.
    Srqn
}

/// A packet sequence number: 24 bits, ordered modulo 2^24 (IBA vol. 1, 9.7.1).
///
/// # Examples
///
/// ```
/// use verbena_hw::id::Psn;
/// let last = Psn::truncate(0xff_ffff);
/// assert!(last.add(1).distance(last) > 0);
/// assert_eq!(last.add(1).get(), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Psn(u32);

impl Psn {
    /// The mask of the 24 bits.
    pub const MASK: u32 = 0x00ff_ffff;

    /// The PSN, or `None` if `value` needs more than 24 bits.
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MASK {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The PSN in the low 24 bits of `value`.
    pub const fn truncate(value: u32) -> Self {
        Self(value & Self::MASK)
    }

    /// The PSN as an integer.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// This PSN advanced by `n`, modulo 2^24.
    #[must_use]
    pub const fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n) & Self::MASK)
    }

    /// How far this PSN is ahead of `other` in the circle: negative when it is behind.
    pub const fn distance(self, other: Self) -> i32 {
        // Shifted to the top of the word, the 24-bit circle becomes the word's own.
        ((self.0.wrapping_sub(other.0) << 8) as i32) >> 8
    }
}

/// A memory key: an L_Key or an R_Key. Which of the two is said by the field that holds it.
///
/// The upper 24 bits name the entry in the device's key table, the lower 8 are the key's tag, which changes with each
/// registration (IBA vol. 1, 10.6.3.3: the consumer-owned part of a fast-register key is these 8 bits).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Key(pub u32);

impl Key {
    /// Puts a key together from its table index (24 bits) and its tag.
    ///
    /// # Panics
    ///
    /// If `index` needs more than 24 bits: the device makes the index, so that would be its own bug.
    pub const fn from_parts(index: u32, tag: u8) -> Self {
        assert!(index <= 0x00ff_ffff);
        Self(index << 8 | tag as u32)
    }

    /// The index in the key table.
    pub const fn index(self) -> u32 {
        self.0 >> 8
    }

    /// The tag.
    pub const fn tag(self) -> u8 {
        self.0 as u8
    }
}

impl core::fmt::Display for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// A protection domain's number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Pdn(pub u32);

/// An event queue's number: also the index of its register in [`crate::regs::EQ_DB`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Eqn(pub u32);

/// A GID: 128 bits in network order; for RoCEv2 an IPv6 address or an IPv4-mapped one (IBA annex A17).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// The link-local GID of a MAC address: `fe80::/64` with the modified EUI-64 (RFC 4291, appendix A).
    pub const fn link_local(mac: [u8; 6]) -> Self {
        Self([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            mac[0] ^ 2,
            mac[1],
            mac[2],
            0xff,
            0xfe,
            mac[3],
            mac[4],
            mac[5],
        ])
    }

    /// The MAC address that a link-local GID was derived from.
    pub const fn mac(&self) -> Option<[u8; 6]> {
        match self.0 {
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => Some([a ^ 2, b, c, d, e, f]),
            _ => None,
        }
    }

    /// The GID of an IPv4 address: `::ffff:a.b.c.d`.
    pub const fn from_ipv4(ip: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3]])
    }

    /// The IPv4 address of an IPv4-mapped GID.
    pub const fn ipv4(&self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// Whether it names a group: an IPv6 multicast address, or an IPv4-mapped one.
    pub const fn is_multicast(&self) -> bool {
        match self.ipv4() {
            Some(ip) => ip[0] >> 4 == 0xe,
            None => self.0[0] == 0xff,
        }
    }

    /// Whether every bit is zero: an empty entry of the GID table.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl core::fmt::Display for Gid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::net::Ipv6Addr::from(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psn_order_is_modular() {
        let a = Psn::truncate(0xff_fffe);
        assert_eq!(a.add(3).get(), 1);
        assert_eq!(a.add(3).distance(a), 3);
        assert_eq!(a.distance(a.add(3)), -3);
        assert_eq!(Psn::truncate(0x80_0000).distance(Psn::truncate(0)), -0x80_0000);
        assert_eq!(Psn::truncate(0x7f_ffff).distance(Psn::truncate(0)), 0x7f_ffff);
    }

    #[test]
    fn ids_refuse_a_25th_bit() {
        assert!(Qpn::new(0x100_0000).is_none());
        assert!(Psn::new(0x100_0000).is_none());
        assert_eq!(Qpn::new(0xff_ffff).map(Qpn::get), Some(0xff_ffff));
    }

    #[test]
    fn link_local_gid_is_modified_eui64() {
        let gid = Gid::link_local([0x02, 0x56, 0x42, 0x00, 0x00, 0x07]);
        assert_eq!(gid.0[8..], [0x00, 0x56, 0x42, 0xff, 0xfe, 0x00, 0x00, 0x07]);
        assert_eq!(gid.mac(), Some([0x02, 0x56, 0x42, 0x00, 0x00, 0x07]));
        assert_eq!(Gid::from_ipv4([10, 0, 0, 1]).mac(), None);
    }

    #[test]
    fn h09_groups_are_told_from_ports() {
        assert!(Gid::from_ipv4([224, 0, 0, 251]).is_multicast());
        assert!(Gid::from_ipv4([239, 255, 255, 255]).is_multicast());
        assert!(!Gid::from_ipv4([240, 0, 0, 1]).is_multicast());
        assert!(!Gid::from_ipv4([192, 168, 0, 1]).is_multicast());
        let mut gid = Gid::link_local([2, 0, 0, 0, 0, 1]);
        assert!(!gid.is_multicast());
        gid.0[0] = 0xff;
        assert!(gid.is_multicast());
        assert_eq!(Gid::from_ipv4([10, 0, 0, 1]).ipv4(), Some([10, 0, 0, 1]));
        assert_eq!(gid.ipv4(), None);
    }

    #[test]
    fn key_parts_come_back() {
        let k = Key::from_parts(0xabcdef, 0x12);
        assert_eq!((k.index(), k.tag()), (0xabcdef, 0x12));
    }
}
