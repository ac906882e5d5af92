// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flow rules: which Ethernet frames a raw queue pair receives.

use crate::context::MESSAGE;
use crate::error::Result;
use crate::object::Object;
use crate::Context;
use rdma_uapi::class::flow::{self, flag, kind, FlowFields};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::fmt;
use std::net::IpAddr;
use verbena_hw::flow::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// What a rule takes: [`crate::RawQp::steer`] brings it to a queue pair, [`Context::drop_frames`] drops it.
///
/// Each method narrows it. A rule of type NORMAL that nothing narrows takes every frame.
///
/// ```
/// use verbena::Flow;
/// let dns = Flow::new().dst_ip("10.0.0.0".parse()?, 8).udp().dst_port(53).priority(1).tag(7);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a description of a rule does nothing"]
pub struct Flow {
    kind: u32,
    priority: u16,
    flags: u32,
    tag: Option<u32>,
    value: FlowFields,
    mask: FlowFields,
}

impl Default for Flow {
    fn default() -> Self {
        Self::of(kind::NORMAL)
    }
}

impl Flow {
    const fn of(kind: u32) -> Self {
        // Neither type has a Default that is const.
        const NOTHING: FlowFields = FlowFields {
            dmac: [0; 6],
            smac: [0; 6],
            ethertype: [0; 2],
            vlan: [0; 2],
            src_ip: [0; 16],
            dst_ip: [0; 16],
            flow_label: [0; 4],
            src_port: [0; 2],
            dst_port: [0; 2],
            ip_version: 0,
            protocol: 0,
            traffic_class: 0,
            hop_limit: 0,
            ip_flags: 0,
            tagged: 0,
            reserved: [0; 2],
        };
        Self {
            kind,
            priority: 0,
            flags: 0,
            tag: None,
            value: NOTHING,
            mask: NOTHING,
        }
    }

    /// Frames that match, of the first priority that has a rule which does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Frames that no other rule takes.
    pub fn all_default() -> Self {
        Self::of(kind::ALL_DEFAULT)
    }

    /// Frames to groups that no other rule takes.
    pub fn multicast_default() -> Self {
        Self::of(kind::MULTICAST_DEFAULT)
    }

    /// A copy of every frame, whoever else takes it.
    pub fn sniffer() -> Self {
        Self::of(kind::SNIFFER)
    }

    /// Lower numbers come first.
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Rules of lower priority see the frames as well.
    pub fn dont_trap(mut self) -> Self {
        self.flags |= flag::DONT_TRAP;
        self
    }

    /// Also frames to groups that the port itself sends; of a sniffer, all that it sends.
    pub fn loopback(mut self) -> Self {
        self.flags |= flag::ALLOW_LOOP_BACK;
        self
    }

    /// What completions of receives by it carry ([`crate::Completion::flow_tag`]), 24 bits.
    pub fn tag(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Frames to this MAC address.
    pub fn dst_mac(mut self, mac: [u8; 6]) -> Self {
        (self.value.dmac, self.mask.dmac) = (mac, [0xff; 6]);
        self
    }

    /// Frames from this MAC address.
    pub fn src_mac(mut self, mac: [u8; 6]) -> Self {
        (self.value.smac, self.mask.smac) = (mac, [0xff; 6]);
        self
    }

    /// Frames of this EtherType, behind a VLAN tag if there is one.
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        (self.value.ethertype, self.mask.ethertype) = (ethertype.to_be_bytes(), [0xff; 2]);
        self
    }

    /// Frames of this VLAN, 12 bits, of whatever priority.
    pub fn vlan(mut self, id: u16) -> Self {
        (self.value.vlan, self.mask.vlan) = ((id & 0xfff).to_be_bytes(), [0x0f, 0xff]);
        self
    }

    /// Frames with a VLAN tag, or without one.
    pub fn tagged(mut self, yes: bool) -> Self {
        (self.value.tagged, self.mask.tagged) = (yes.into(), 0xff);
        self
    }

    /// Frames with an IPv4 header.
    pub fn ipv4(mut self) -> Self {
        (self.value.ip_version, self.mask.ip_version) = (4, 0xff);
        self.ethertype(u16::from_be_bytes(ETHERTYPE_IPV4))
    }

    /// Frames with an IPv6 header.
    pub fn ipv6(mut self) -> Self {
        (self.value.ip_version, self.mask.ip_version) = (6, 0xff);
        self.ethertype(u16::from_be_bytes(ETHERTYPE_IPV6))
    }

    fn ip(self, address: IpAddr) -> Self {
        if address.is_ipv4() {
            self.ipv4()
        } else {
            self.ipv6()
        }
    }

    /// Frames from an address whose first `prefix` bits are these; with them, of its IP version.
    pub fn src_ip(mut self, address: IpAddr, prefix: u8) -> Self {
        (self.value.src_ip, self.mask.src_ip) = network(address, prefix);
        self.ip(address)
    }

    /// Frames to an address whose first `prefix` bits are these; with them, of its IP version.
    pub fn dst_ip(mut self, address: IpAddr, prefix: u8) -> Self {
        (self.value.dst_ip, self.mask.dst_ip) = network(address, prefix);
        self.ip(address)
    }

    /// Packets of this protocol, by its number. The IP version has to be chosen as well.
    pub fn protocol(mut self, protocol: u8) -> Self {
        (self.value.protocol, self.mask.protocol) = (protocol, 0xff);
        self
    }

    /// TCP. The IP version has to be chosen as well.
    pub fn tcp(self) -> Self {
        self.protocol(PROTOCOL_TCP)
    }

    /// UDP. The IP version has to be chosen as well.
    pub fn udp(self) -> Self {
        self.protocol(PROTOCOL_UDP)
    }

    /// From this port. The protocol has to be chosen as well.
    pub fn src_port(mut self, port: u16) -> Self {
        (self.value.src_port, self.mask.src_port) = (port.to_be_bytes(), [0xff; 2]);
        self
    }

    /// To this port. The protocol has to be chosen as well.
    pub fn dst_port(mut self, port: u16) -> Self {
        (self.value.dst_port, self.mask.dst_port) = (port.to_be_bytes(), [0xff; 2]);
        self
    }

    /// What the fields must be and which of their bits count, for what the other methods cannot say; they are forgotten.
    pub fn matching(mut self, value: FlowFields, mask: FlowFields) -> Self {
        (self.value, self.mask) = (value, mask);
        self
    }

    /// Makes the rule.
    pub(crate) fn create(&self, context: &Context, qp: Option<ObjectId>) -> Result<Object> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::FLOW, 0);
        let drop = if qp.is_none() { flag::DROP } else { 0 };
        message
            .put_some(flow::QP, qp)
            .put(flow::PORT, &1)
            .put(flow::TYPE, &self.kind)
            .put(flow::PRIORITY, &u32::from(self.priority))
            .put(flow::FLAGS, &(self.flags | drop))
            .put_some(flow::TAG, self.tag)
            .put(flow::MATCH, &self.value)
            .put(flow::MASK, &self.mask);
        let answer = context.call("make a flow rule", method::CREATE, message)?;
        Ok(Object::new(
            context,
            class::FLOW,
            answer.object(),
            "take a flow rule away",
        ))
    }
}

/// An address and the mask of its first `prefix` bits, as many as it has at most.
fn network(address: IpAddr, prefix: u8) -> ([u8; 16], [u8; 16]) {
    let (mut value, mut mask) = ([0; 16], [0; 16]);
    let len = match address {
        IpAddr::V4(address) => {
            value[..4].copy_from_slice(&address.octets());
            4
        }
        IpAddr::V6(address) => {
            value = address.octets();
            16
        }
    };
    let bits = u32::from(prefix).min(len * 8);
    for (byte, (value, mask)) in (0..len).zip(value.iter_mut().zip(&mut mask)) {
        let of_it = bits.saturating_sub(byte * 8).min(8);
        *mask = (0xff00u16 >> of_it) as u8;
        *value &= *mask;
    }
    (value, mask)
}

/// What a rule has matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Frames.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// Asks what a rule has matched.
pub(crate) fn counts(object: &Object) -> Result<FlowCounts> {
    const DOING: &str = "query a flow rule";
    let mut words = [0; MESSAGE];
    let mut message = Builder::new(&mut words, class::FLOW, object.id().0);
    message.ask(flow::FRAMES).ask(flow::BYTES);
    let answer = object.context().call(DOING, method::QUERY, message)?;
    Ok(FlowCounts {
        frames: answer.expect(DOING, flow::FRAMES)?,
        bytes: answer.expect(DOING, flow::BYTES)?,
    })
}

/// A rule that drops frames, as long as it is not dropped itself.
pub struct DropRule(Object);

impl DropRule {
    pub(crate) fn new(context: &Context, flow: &Flow) -> Result<Self> {
        flow.create(context, None).map(Self)
    }

    /// What it has matched.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn counts(&self) -> Result<FlowCounts> {
        counts(&self.0)
    }

    /// Takes it away. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(self) -> Result<()> {
        self.0.destroy()
    }
}

impl fmt::Debug for DropRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DropRule({})", self.0.id().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u08_flow_networks_have_the_bits_of_their_prefix() {
        let v4 = |prefix| network("192.168.255.255".parse().unwrap(), prefix);
        assert_eq!(v4(0), ([0; 16], [0; 16]));
        assert_eq!(v4(20).0[..4], [192, 168, 240, 0]);
        assert_eq!(v4(20).1[..5], [255, 255, 240, 0, 0]);
        assert_eq!(v4(32).1[..5], [255, 255, 255, 255, 0]);
        assert_eq!(v4(200), v4(32), "an address has no more");
        let (value, mask) = network("ff02::1:2".parse().unwrap(), 121);
        assert_eq!((value[13..].to_vec(), mask[15]), (vec![1, 0, 0], 0x80));
    }
}
