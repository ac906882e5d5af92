// SPDX-License-Identifier: MIT OR Apache-2.0
//! An Ethernet frame's headers, as far as flow rules compare them.
//!
//! The bytes are a guest's and may be anything: a header that is not whole, or contradicts itself, is not there.

use verbena_hw::flow::{
    found, FlowFields, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, HEADER, PROTOCOL_TCP, PROTOCOL_UDP, TAG,
};

/// A frame of at least [`HEADER`] bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) bytes: &'a [u8],
    /// What its headers say; zero where there is none.
    pub(crate) fields: FlowFields,
    /// The bits of `fields` that its headers have.
    pub(crate) present: FlowFields,
    /// [`found`].
    pub(crate) found: u16,
}

/// The bits of a flow label.
pub(crate) const FLOW_LABEL: [u8; 4] = [0x0f, 0xff, 0xff, 0xff];
/// The bits of an IPv4 header's flags, moved down.
pub(crate) const IP_FLAGS: u8 = 0x07;
/// More fragments follow: the lowest of the three flags.
const MORE_FRAGMENTS: u8 = 0x01;

/// `N` bytes at `at`, if they are there.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl<'a> Frame<'a> {
    /// `None`: shorter than a header.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut frame = Self {
            bytes,
            fields: FlowFields {
                dmac: field(bytes, 0)?,
                smac: field(bytes, 6)?,
                ethertype: field(bytes, 12)?,
                ..FlowFields::default()
            },
            present: FlowFields {
                dmac: [0xff; 6],
                smac: [0xff; 6],
                ethertype: [0xff; 2],
                ip_version: 0xff,
                tagged: 0xff,
                ..FlowFields::default()
            },
            found: 0,
        };
        let mut at = HEADER;
        if frame.fields.ethertype == ETHERTYPE_VLAN {
            // Cut off within its tag, it has none.
            if let (Some(vlan), Some(ethertype)) = (field(bytes, HEADER), field(bytes, HEADER + 2)) {
                (frame.fields.vlan, frame.present.vlan) = (vlan, [0xff; 2]);
                frame.fields.ethertype = ethertype;
                frame.fields.tagged = 1;
                frame.found |= found::VLAN;
                at += TAG;
            }
        }
        match frame.fields.ethertype {
            ETHERTYPE_IPV4 => frame.ipv4(bytes.get(at..).unwrap_or_default()),
            ETHERTYPE_IPV6 => frame.ipv6(bytes.get(at..).unwrap_or_default()),
            _ => {}
        }
        Some(frame)
    }

    fn ipv4(&mut self, packet: &[u8]) {
        let Some(header) = packet.get(..20) else {
            return;
        };
        let len = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || len < 20 || packet.len() < len {
            return;
        }
        let (fields, present) = (&mut self.fields, &mut self.present);
        self.found |= found::IPV4;
        fields.ip_version = 4;
        fields.src_ip[..4].copy_from_slice(&header[12..16]);
        fields.dst_ip[..4].copy_from_slice(&header[16..20]);
        for address in [&mut present.src_ip, &mut present.dst_ip] {
            address[..4].fill(0xff);
        }
        (fields.traffic_class, present.traffic_class) = (header[1], 0xff);
        (fields.hop_limit, present.hop_limit) = (header[8], 0xff);
        (fields.protocol, present.protocol) = (header[9], 0xff);
        (fields.ip_flags, present.ip_flags) = (header[6] >> 5, IP_FLAGS);
        let offset = u16::from_be_bytes([header[6] & 0x1f, header[7]]);
        if offset != 0 || fields.ip_flags & MORE_FRAGMENTS != 0 {
            self.found |= found::FRAGMENT;
        }
        if offset == 0 {
            self.ports(&packet[len..]);
        }
    }

    fn ipv6(&mut self, packet: &[u8]) {
        let Some(header) = packet.get(..40) else {
            return;
        };
        if header[0] >> 4 != 6 {
            return;
        }
        let (fields, present) = (&mut self.fields, &mut self.present);
        self.found |= found::IPV6;
        fields.ip_version = 6;
        fields.src_ip.copy_from_slice(&header[8..24]);
        fields.dst_ip.copy_from_slice(&header[24..40]);
        (present.src_ip, present.dst_ip) = ([0xff; 16], [0xff; 16]);
        (fields.traffic_class, present.traffic_class) = (header[0] << 4 | header[1] >> 4, 0xff);
        fields.flow_label = [0, header[1] & 0xf, header[2], header[3]];
        present.flow_label = FLOW_LABEL;
        (fields.protocol, present.protocol) = (header[6], 0xff);
        (fields.hop_limit, present.hop_limit) = (header[7], 0xff);
        self.ports(&packet[40..]);
    }

    fn ports(&mut self, segment: &[u8]) {
        let which = match self.fields.protocol {
            PROTOCOL_TCP => found::TCP,
            PROTOCOL_UDP => found::UDP,
            _ => return,
        };
        if let (Some(source), Some(destination)) = (field(segment, 0), field(segment, 2)) {
            self.found |= which;
            (self.fields.src_port, self.present.src_port) = (source, [0xff; 2]);
            (self.fields.dst_port, self.present.dst_port) = (destination, [0xff; 2]);
        }
    }

    /// Whether it goes to a group.
    pub(crate) fn is_to_group(&self) -> bool {
        self.fields.dmac[0] & 1 != 0
    }

    /// Its VLAN's id.
    pub(crate) fn vlan(&self) -> Option<u16> {
        (self.found & found::VLAN != 0).then(|| u16::from_be_bytes(self.fields.vlan) & 0xfff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        bytes.extend(ethertype);
        bytes.extend(rest);
        bytes
    }

    /// An IPv4 header of 24 bytes, UDP, and 8 bytes.
    fn ipv4() -> Vec<u8> {
        let mut packet = vec![
            0x46, 0x20, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0,
        ];
        packet.extend([0x12, 0x34, 0x56, 0x78, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn h04_raw_headers_are_found_behind_a_tag_and_options() {
        let mut rest = vec![0xa0, 0x05, 0x08, 0x00];
        rest.extend(ipv4());
        let bytes = frame(ETHERTYPE_VLAN, &rest);
        let frame = Frame::parse(&bytes).unwrap();
        let f = frame.fields;
        assert_eq!(frame.found, found::VLAN | found::IPV4 | found::UDP);
        assert_eq!((frame.vlan(), f.vlan, f.tagged), (Some(5), [0xa0, 5], 1));
        assert_eq!((f.ethertype, f.ip_version, f.protocol), (ETHERTYPE_IPV4, 4, 17));
        assert_eq!(
            (&f.src_ip[..4], &f.dst_ip[..4]),
            (&[10, 0, 0, 1][..], &[10, 0, 0, 2][..])
        );
        assert_eq!((f.src_port, f.dst_port), ([0x12, 0x34], [0x56, 0x78]));
        assert_eq!((f.traffic_class, f.hop_limit, f.ip_flags), (0x20, 64, 2));
    }

    #[test]
    fn h04_raw_ipv6_fields_are_where_rfc_8200_has_them() {
        let mut packet = vec![0x6a, 0xbc, 0xde, 0xf0, 0, 4, 6, 255];
        packet.extend([0x11; 16]);
        packet.extend([0x22; 16]);
        packet.extend([0, 80, 0, 81]);
        let bytes = frame(ETHERTYPE_IPV6, &packet);
        let frame = Frame::parse(&bytes).unwrap();
        let f = frame.fields;
        assert_eq!(frame.found, found::IPV6 | found::TCP);
        assert_eq!((f.traffic_class, f.flow_label), (0xab, [0, 0xc, 0xde, 0xf0]));
        assert_eq!((f.src_ip, f.dst_ip), ([0x11; 16], [0x22; 16]));
        assert_eq!((f.protocol, f.hop_limit, f.dst_port), (6, 255, [0, 81]));
        assert_eq!(frame.vlan(), None);
    }

    #[test]
    fn h04_raw_a_later_fragment_has_no_ports() {
        let mut packet = ipv4();
        packet[6..8].copy_from_slice(&[0x20, 0]);
        let first = frame(ETHERTYPE_IPV4, &packet);
        let first = Frame::parse(&first).unwrap();
        assert_eq!(first.found, found::IPV4 | found::UDP | found::FRAGMENT);
        packet[6..8].copy_from_slice(&[0, 1]);
        let later = frame(ETHERTYPE_IPV4, &packet);
        let later = Frame::parse(&later).unwrap();
        assert_eq!(later.found, found::IPV4 | found::FRAGMENT);
        assert_eq!((later.present.dst_port, later.fields.dst_port), ([0; 2], [0; 2]));
    }

    #[test]
    fn h04_raw_a_header_that_is_cut_off_is_not_there() {
        let whole = frame(ETHERTYPE_IPV4, &ipv4());
        for len in 0..whole.len() {
            let frame = Frame::parse(&whole[..len]);
            let found = match len {
                0..14 => {
                    assert!(frame.is_none());
                    continue;
                }
                14..38 => 0,
                38..42 => found::IPV4,
                _ => found::IPV4 | found::UDP,
            };
            assert_eq!(frame.unwrap().found, found, "{len}");
        }
        let tag = frame(ETHERTYPE_VLAN, &[0, 5, 8]);
        assert_eq!(Frame::parse(&tag).unwrap().found, 0);
    }

    proptest! {
        #[test]
        fn h04_raw_any_bytes_are_parsed_and_absent_fields_are_zero(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            tag in any::<bool>(),
            ethertype in prop_oneof![Just(ETHERTYPE_IPV4), Just(ETHERTYPE_IPV6), any::<[u8; 2]>()],
            nibble in any::<u8>(),
        ) {
            let mut put = |at: usize, value: &[u8]| {
                if let Some(place) = bytes.get_mut(at..at + value.len()) {
                    place.copy_from_slice(value);
                }
            };
            let at = if tag { put(12, &ETHERTYPE_VLAN); 16 } else { 12 };
            put(at, &ethertype);
            put(at + 2, &[if ethertype == ETHERTYPE_IPV6 { 0x60 } else { 0x45 + nibble % 4 }]);
            let frame = Frame::parse(&bytes);
            prop_assert_eq!(frame.is_some(), bytes.len() >= HEADER);
            if let Some(frame) = frame {
                use zerocopy::IntoBytes;
                for (value, present) in frame.fields.as_bytes().iter().zip(frame.present.as_bytes()) {
                    prop_assert_eq!(value & !present, 0);
                }
            }
        }
    }
}
