// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flow rules in a dump.

use super::Select;
use crate::flow::Rule;
use crate::hca::Hca;
use core::fmt::{self, Display, Formatter};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use serde::Serialize;
use verbena_hw::flow::{flags, FlowFields};
use zerocopy::IntoBytes;

/// A flow rule.
#[derive(Clone, Debug, Serialize)]
pub struct FlowDump {
    /// Its number.
    pub number: u32,
    /// Type.
    #[serde(rename = "type")]
    pub flow_type: &'static str,
    /// Priority: lower numbers first.
    pub priority: u16,
    /// The queue pair that it leads to; 0: none, it drops.
    pub qpn: u32,
    /// Flags by name.
    pub flags: Vec<&'static str>,
    /// What receives by it carry, if anything.
    pub tag: Option<u32>,
    /// What it compares: fields and their values, with a mask where not all of the field counts.
    pub matches: Vec<(&'static str, String)>,
    /// Frames that it has matched.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
}

impl FlowDump {
    pub(crate) fn new(number: u32, rule: &Rule) -> Self {
        let names = [
            (flags::DONT_TRAP, "DONT_TRAP"),
            (flags::DROP, "DROP"),
            (flags::LOOPBACK, "LOOPBACK"),
            (flags::TAG, "TAG"),
        ];
        let named = names.into_iter().filter(|(bit, _)| rule.flags & bit != 0);
        Self {
            number,
            flow_type: rule.flow_type.name().unwrap_or("unknown"),
            priority: rule.priority,
            qpn: rule.qpn.map_or(0, |qpn| qpn.get()),
            flags: named.map(|(_, name)| name).collect(),
            tag: (rule.flags & flags::TAG != 0).then_some(rule.tag),
            matches: matches(&rule.value, &rule.mask),
            frames: rule.frames,
            bytes: rule.bytes,
        }
    }
}

/// The selected ones: all, or those that lead to a selected queue pair.
pub(super) fn flows(hca: &Hca, select: Select) -> Vec<FlowDump> {
    let shown = |rule: &Rule| match select {
        Select::All | Select::Qp(u32::MAX) => true,
        Select::Qp(qpn) => rule.qpn.is_some_and(|to| to.get() == qpn),
        _ => false,
    };
    let rules = hca.flows.iter().filter(|(_, rule)| shown(rule));
    rules.map(|(number, rule)| FlowDump::new(number, rule)).collect()
}

/// Those that lead to a queue pair.
pub(crate) fn flows_to(hca: &Hca, qpn: u32) -> Vec<FlowDump> {
    flows(hca, Select::Qp(qpn))
}

/// How a field's bytes are shown.
type Show = fn(&[u8]) -> String;

fn mac(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn number(bytes: &[u8]) -> String {
    bytes.iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte)).to_string()
}

fn ipv4(bytes: &[u8]) -> String {
    let address: Option<[u8; 4]> = bytes.get(..4).and_then(|bytes| bytes.try_into().ok());
    address.map_or_else(String::new, |address| IpAddr::V4(Ipv4Addr::from(address)).to_string())
}

fn ipv6(bytes: &[u8]) -> String {
    let address: Option<[u8; 16]> = bytes.try_into().ok();
    address.map_or_else(String::new, |address| IpAddr::V6(Ipv6Addr::from(address)).to_string())
}

fn matches(value: &FlowFields, mask: &FlowFields) -> Vec<(&'static str, String)> {
    let ip: Show = if value.ip_version == 4 { ipv4 } else { ipv6 };
    let mut shown = Vec::new();
    macro_rules! fields {
        ($($field:ident: $show:expr, $all:expr;)*) => {
            $(if mask.$field != FlowFields::default().$field {
                let (show, all): (Show, &[u8]) = ($show, &$all);
                let text = show(value.$field.as_bytes());
                let mask = &mask.$field.as_bytes()[..all.len()];
                let text = if mask == all { text } else { format!("{text}/{}", hex(mask)) };
                shown.push((stringify!($field), text));
            })*
        };
    }
    let address = if value.ip_version == 4 { 4 } else { 16 };
    fields! {
        dmac: mac, [0xff; 6];
        smac: mac, [0xff; 6];
        ethertype: hex, [0xff; 2];
        tagged: number, [0xff];
        vlan: number, [0xff; 2];
        ip_version: number, [0xff];
        src_ip: ip, [0xff; 16][..address];
        dst_ip: ip, [0xff; 16][..address];
        protocol: number, [0xff];
        traffic_class: number, [0xff];
        hop_limit: number, [0xff];
        ip_flags: number, [0x07];
        flow_label: hex, [0x0f, 0xff, 0xff, 0xff];
        src_port: number, [0xff; 2];
        dst_port: number, [0xff; 2];
    }
    shown
}

impl Display for FlowDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flow {:#x} {} priority {}",
            self.number, self.flow_type, self.priority
        )?;
        for (field, value) in &self.matches {
            write!(f, " {field}={value}")?;
        }
        match self.qpn {
            0 => write!(f, " -> nowhere")?,
            qpn => write!(f, " -> QP {qpn:#x}")?,
        }
        if let Some(tag) = self.tag {
            write!(f, " tag {tag:#x}")?;
        }
        for flag in self.flags.iter().filter(|&&flag| flag != "TAG") {
            write!(f, " {flag}")?;
        }
        write!(f, ", {} frames, {} bytes", self.frames, self.bytes)
    }
}
