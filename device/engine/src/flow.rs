// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flow rules of one port: which queue pairs have a copy of a frame ([`verbena_hw::flow`]).
//!
//! Rules of type NORMAL with the same priority and the same masks are one group, looked up by the masked fields: a frame costs
//! one look-up a group, however many rules there are. The number of groups is limited, and with it what a frame costs.

use crate::frame::{Frame, FLOW_LABEL, IP_FLAGS};
use crate::limits;
use crate::table::Table;
use core::mem::offset_of;
use std::collections::HashMap;
use verbena_hw::flow::{flags, FlowFields, FlowType, MAX_COPIES, PROTOCOL_TCP, PROTOCOL_UDP};
use verbena_hw::id::Qpn;
use zerocopy::{transmute, IntoBytes};

/// [`FlowFields`], eight bytes at a time.
type Words = [u64; size_of::<FlowFields>() / 8];

fn words(fields: &FlowFields) -> Words {
    transmute!(*fields)
}

fn masked(fields: &Words, mask: &Words) -> Words {
    core::array::from_fn(|i| fields[i] & mask[i])
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) flow_type: FlowType,
    pub(crate) priority: u16,
    /// [`flags`].
    pub(crate) flags: u8,
    pub(crate) tag: u32,
    /// `None`: it drops.
    pub(crate) qpn: Option<Qpn>,
    pub(crate) value: FlowFields,
    pub(crate) mask: FlowFields,
    /// What it has matched.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

impl Rule {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// How a port sees a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It comes to the port.
    Coming,
    /// The port sends it to a group.
    SentToGroup,
    /// The port sends it to one other port, or to none.
    Sent,
}

/// A queue pair that has a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) qpn: Qpn,
    pub(crate) tag: Option<u32>,
}

/// What the rules say of a frame beside who has a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// A rule that drops matched.
    pub(crate) dropped: bool,
}

/// Why a rule cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleFault {
    /// It is there already, under this number.
    Duplicate(u32),
    /// There are as many rules as there can be, or as many alike, or as many groups.
    Limit(u32),
}

struct Group {
    priority: u16,
    mask: Words,
    rules: HashMap<Words, Vec<u32>>,
}

/// The rules of a port.
pub(crate) struct FlowTable {
    rules: Table<Box<Rule>>,
    /// By priority.
    groups: Vec<Group>,
    all_default: Vec<u32>,
    multicast_default: Vec<u32>,
    sniffers: Vec<u32>,
}

impl FlowTable {
    pub(crate) fn new() -> Self {
        Self {
            rules: Table::new(limits::FLOWS),
            groups: Vec::new(),
            all_default: Vec::new(),
            multicast_default: Vec::new(),
            sniffers: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Rule> {
        self.rules.get(number).map(|rule| &**rule)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Rule)> {
        self.rules.iter().map(|(number, rule)| (number, &**rule))
    }

    /// Those of the rule's type, or of its group and value.
    fn alike(&self, rule: &Rule) -> &[u32] {
        match rule.flow_type {
            FlowType::ALL_DEFAULT => &self.all_default,
            FlowType::MULTICAST_DEFAULT => &self.multicast_default,
            FlowType::SNIFFER => &self.sniffers,
            _ => {
                let group = self.group(rule.priority, &words(&rule.mask));
                let rules = group.and_then(|at| self.groups[at].rules.get(&words(&rule.value)));
                rules.map_or(&[], Vec::as_slice)
            }
        }
    }

    fn group(&self, priority: u16, mask: &Words) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.priority == priority && group.mask == *mask)
    }

    /// Adds a rule, which has been checked.
    pub(crate) fn insert(&mut self, rule: Rule) -> Result<u32, RuleFault> {
        let alike = self.alike(&rule);
        if let Some(&twin) = alike.iter().find(|&&n| self.get(n).is_some_and(|r| r.qpn == rule.qpn)) {
            return Err(RuleFault::Duplicate(twin));
        }
        if alike.len() == MAX_COPIES {
            return Err(RuleFault::Limit(MAX_COPIES as u32));
        }
        if !self.rules.has_room() {
            return Err(RuleFault::Limit(self.rules.limit()));
        }
        let (mask, value) = (words(&rule.mask), words(&rule.value));
        let list = match rule.flow_type {
            FlowType::ALL_DEFAULT => &mut self.all_default,
            FlowType::MULTICAST_DEFAULT => &mut self.multicast_default,
            FlowType::SNIFFER => &mut self.sniffers,
            _ => {
                let at = match self.group(rule.priority, &mask) {
                    Some(at) => at,
                    None if self.groups.len() == limits::FLOW_GROUPS => {
                        return Err(RuleFault::Limit(limits::FLOW_GROUPS as u32));
                    }
                    None => {
                        let at = self.groups.partition_point(|group| group.priority <= rule.priority);
                        let group = Group {
                            priority: rule.priority,
                            mask,
                            rules: HashMap::new(),
                        };
                        self.groups.insert(at, group);
                        at
                    }
                };
                self.groups[at].rules.entry(value).or_default()
            }
        };
        let number = self.rules.insert_with(|_| Box::new(rule));
        list.push(number);
        Ok(number)
    }

    /// Takes a rule away.
    pub(crate) fn remove(&mut self, number: u32) -> Option<Rule> {
        let rule = *self.rules.remove(number)?;
        let others = |list: &mut Vec<u32>| list.retain(|&other| other != number);
        match rule.flow_type {
            FlowType::ALL_DEFAULT => others(&mut self.all_default),
            FlowType::MULTICAST_DEFAULT => others(&mut self.multicast_default),
            FlowType::SNIFFER => others(&mut self.sniffers),
            _ => {
                let at = self
                    .group(rule.priority, &words(&rule.mask))
                    .expect("a rule's group is there as long as the rule is");
                let rules = &mut self.groups[at].rules;
                let value = words(&rule.value);
                if let Some(list) = rules.get_mut(&value) {
                    others(list);
                    if list.is_empty() {
                        rules.remove(&value);
                    }
                }
                if rules.is_empty() {
                    self.groups.remove(at);
                }
            }
        }
        Some(rule)
    }

    /// Adds those who have a copy to `to`, and counts.
    pub(crate) fn steer(&mut self, frame: &Frame<'_>, seen: Seen, to: &mut Vec<Copy>) -> Verdict {
        let mut taker = Taker {
            rules: &mut self.rules,
            seen,
            len: frame.bytes.len() as u64,
            to,
            verdict: Verdict::default(),
        };
        taker.take(&self.sniffers);
        if seen == Seen::Sent {
            return taker.verdict;
        }
        let (fields, present) = (words(&frame.fields), words(&frame.present));
        let mut trapped = false;
        let mut rest = &self.groups[..];
        while let (false, Some(first)) = (trapped, rest.first()) {
            let level = rest.partition_point(|group| group.priority == first.priority);
            let (now, later) = rest.split_at(level);
            for group in now {
                // A field that the frame has not got equals nothing.
                if masked(&present, &group.mask) == group.mask {
                    if let Some(rules) = group.rules.get(&masked(&fields, &group.mask)) {
                        trapped |= taker.take(rules);
                    }
                }
            }
            rest = later;
        }
        if !trapped && frame.is_to_group() {
            trapped = taker.take(&self.multicast_default);
        }
        if !trapped {
            taker.take(&self.all_default);
        }
        taker.verdict
    }
}

/// Takes a frame for rules that match.
struct Taker<'a> {
    rules: &'a mut Table<Box<Rule>>,
    seen: Seen,
    len: u64,
    to: &'a mut Vec<Copy>,
    verdict: Verdict,
}

impl Taker<'_> {
    /// All of `list` match, as far as they see the frame. Answers whether one of them keeps it from those that come later.
    fn take(&mut self, list: &[u32]) -> bool {
        let mut trapped = false;
        for &number in list {
            let Some(rule) = self.rules.get_mut(number) else {
                debug_assert!(false, "a list has a rule that is gone");
                continue;
            };
            if self.seen != Seen::Coming && !rule.has(flags::LOOPBACK) {
                continue;
            }
            rule.frames += 1;
            rule.bytes += self.len;
            trapped |= !rule.has(flags::DONT_TRAP);
            let Some(qpn) = rule.qpn else {
                self.verdict.dropped = true;
                continue;
            };
            if self.to.len() < MAX_COPIES && !self.to.iter().any(|copy| copy.qpn == qpn) {
                let tag = rule.has(flags::TAG).then_some(rule.tag);
                self.to.push(Copy { qpn, tag });
            }
        }
        trapped
    }
}

/// Checks what a rule compares.
///
/// # Errors
///
/// The offset in [`FlowFields`] of the field that is wrong.
pub(crate) fn check_match(value: &FlowFields, mask: &FlowFields) -> Result<(), u32> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(FlowFields, $field) as u32
        };
    }
    let bytes = value.as_bytes().iter().zip(mask.as_bytes());
    if let Some(outside) = bytes.into_iter().position(|(value, mask)| value & !mask != 0) {
        return Err(outside as u32);
    }
    let field = |good: bool, at: u32| if good { Ok(()) } else { Err(at) };
    field(mask.reserved == [0; 2], at!(reserved))?;
    field(
        mask.flow_label
            .iter()
            .zip(FLOW_LABEL)
            .all(|(mask, all)| mask & !all == 0),
        at!(flow_label),
    )?;
    field(mask.ip_flags & !IP_FLAGS == 0, at!(ip_flags))?;
    let whole = |mask: u8| mask == 0 || mask == 0xff;
    field(whole(mask.tagged) && value.tagged < 2, at!(tagged))?;
    field(
        whole(mask.ip_version) && matches!(value.ip_version, 0 | 4 | 6),
        at!(ip_version),
    )?;
    // 0 where the mask does not say that it counts, too.
    let ip = value.ip_version;
    let none = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    for (address, at) in [(&mask.src_ip, at!(src_ip)), (&mask.dst_ip, at!(dst_ip))] {
        field(ip != 0 || none(address), at)?;
        field(ip != 4 || none(&address[4..]), at)?;
    }
    for (mask, at) in [
        (mask.protocol, at!(protocol)),
        (mask.traffic_class, at!(traffic_class)),
        (mask.hop_limit, at!(hop_limit)),
    ] {
        field(ip != 0 || mask == 0, at)?;
    }
    field(ip == 6 || none(&mask.flow_label), at!(flow_label))?;
    field(ip == 4 || mask.ip_flags == 0, at!(ip_flags))?;
    let has_ports = mask.protocol == 0xff && matches!(value.protocol, PROTOCOL_TCP | PROTOCOL_UDP);
    field(has_ports || none(&mask.src_port), at!(src_port))?;
    field(has_ports || none(&mask.dst_port), at!(dst_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(flow_type: FlowType, qpn: u32) -> Rule {
        Rule {
            flow_type,
            priority: 0,
            flags: 0,
            tag: 0,
            qpn: Some(Qpn::truncate(qpn)),
            value: FlowFields::default(),
            mask: FlowFields::default(),
            frames: 0,
            bytes: 0,
        }
    }

    /// What the format's documentation says, rule by rule and bit by bit.
    fn reference(rules: &[Rule], frame: &Frame<'_>, seen: Seen) -> (Vec<Qpn>, bool) {
        let bit = |fields: &FlowFields, i: usize| fields.as_bytes()[i / 8] >> (i % 8) & 1 == 1;
        let sees = |rule: &&Rule| seen == Seen::Coming || rule.flags & flags::LOOPBACK != 0;
        let equal = |rule: &&Rule| {
            (0..512).all(|i| {
                !bit(&rule.mask, i) || (bit(&frame.present, i) && bit(&frame.fields, i) == bit(&rule.value, i))
            })
        };
        let of = |kind: FlowType| rules.iter().filter(sees).filter(move |rule| rule.flow_type == kind);
        let mut taken: Vec<&Rule> = of(FlowType::SNIFFER).collect();
        if seen != Seen::Sent {
            let mut matching: Vec<&Rule> = of(FlowType::NORMAL).filter(equal).collect();
            matching.sort_by_key(|rule| rule.priority);
            let stop = matching.iter().find(|rule| rule.flags & flags::DONT_TRAP == 0);
            let last = stop.map(|rule| rule.priority);
            taken.extend(
                matching
                    .iter()
                    .filter(|rule| last.is_none_or(|last| rule.priority <= last)),
            );
            if stop.is_none() {
                let mut defaults: Vec<&Rule> = Vec::new();
                if frame.bytes[0] & 1 == 1 {
                    defaults.extend(of(FlowType::MULTICAST_DEFAULT));
                }
                if defaults.is_empty() {
                    defaults.extend(of(FlowType::ALL_DEFAULT));
                }
                taken.extend(defaults);
            }
        }
        let mut qpns: Vec<Qpn> = taken.iter().filter_map(|rule| rule.qpn).collect();
        qpns.sort();
        qpns.dedup();
        (qpns, taken.iter().any(|rule| rule.qpn.is_none()))
    }

    /// Frames and rules of a small world, in which they meet.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let mac = || {
            prop_oneof![
                Just([2u8, 0, 0, 0, 0, 1]),
                Just([2, 0, 0, 0, 0, 2]),
                Just([3, 0, 0, 0, 0, 1])
            ]
        };
        let tag = proptest::option::of(0u8..3);
        (mac(), mac(), tag, 0u8..4, 0u8..3, 0u8..3, 0u8..2).prop_map(|(dmac, smac, tag, kind, a, b, fragment)| {
            let mut bytes = [dmac, smac].concat();
            if let Some(id) = tag {
                bytes.extend([0x81, 0, 0, id]);
            }
            match kind {
                0 => bytes.extend([0x88, 0xb5, a, b]),
                1 | 2 => {
                    let protocol = [1, PROTOCOL_TCP, PROTOCOL_UDP][usize::from(b)];
                    bytes.extend([8, 0, 0x45, a, 0, 24, 0, 0, 0, fragment, 64, protocol, 0, 0]);
                    bytes.extend([10, 0, 0, a, 10, 0, 0, b, 0, a, 0, b]);
                }
                _ => {
                    bytes.extend([0x86, 0xdd, 0x60, 0, 0, a, 0, 4, PROTOCOL_UDP, 64]);
                    bytes.extend([a; 16]);
                    bytes.extend([b; 16]);
                    bytes.extend([0, b, 0, a]);
                }
            }
            bytes
        })
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![
            6 => Just(FlowType::NORMAL),
            1 => Just(FlowType::ALL_DEFAULT),
            1 => Just(FlowType::MULTICAST_DEFAULT),
            1 => Just(FlowType::SNIFFER),
        ];
        let which = (any::<u16>(), any::<u16>(), any::<u16>());
        let flag = prop_oneof![3 => Just(0), 1 => Just(flags::DONT_TRAP), 1 => Just(flags::LOOPBACK)];
        (kind, 0u16..4, flag, 0u32..5, which, bytes()).prop_map(|(kind, priority, flag, qpn, which, like)| {
            let mut rule = rule(kind, qpn + 2);
            rule.flags = flag;
            if qpn == 4 {
                (rule.qpn, rule.flags) = (None, flag | flags::DROP);
            }
            if kind != FlowType::NORMAL {
                rule.flags &= !flags::DONT_TRAP;
                return rule;
            }
            rule.priority = priority;
            // Some of the fields of some frame, so that frames match.
            let frame = Frame::parse(&like).unwrap();
            let (a, b, c) = which;
            let pick = |i: u16| a & b & 1 << i != 0 || c & a & 1 << i != 0;
            macro_rules! take {
                ($($i:literal $field:ident,)*) => {
                    $(if pick($i) {
                        rule.mask.$field = frame.present.$field;
                        rule.value.$field = frame.fields.$field;
                    })*
                };
            }
            take! {
                0 dmac, 1 smac, 2 ethertype, 3 vlan, 4 src_ip, 5 dst_ip, 6 src_port, 7 dst_port, 8 ip_version, 9 protocol,
                10 traffic_class, 11 hop_limit, 12 ip_flags, 13 tagged, 14 flow_label,
            }
            if pick(15) {
                // A part of a field.
                rule.mask.dst_ip[3] &= 0xfe;
                rule.value.dst_ip[3] &= 0xfe;
                rule.mask.dmac = [1, 0, 0, 0, 0, 0];
                rule.value.dmac = [like[0] & 1, 0, 0, 0, 0, 0];
            }
            rule
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn h04_raw_frames_go_where_a_matcher_written_otherwise_sends_them(
            given in proptest::collection::vec(rules(), 0..24),
            gone in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
            frames in proptest::collection::vec(bytes(), 1..12),
        ) {
            let mut table = FlowTable::new();
            let mut model: Vec<(u32, Rule)> = Vec::new();
            for rule in given {
                let same = |other: &Rule| {
                    (other.flow_type, other.priority, other.qpn) == (rule.flow_type, rule.priority, rule.qpn)
                        && (other.value, other.mask) == (rule.value, rule.mask)
                };
                let twin = model.iter().find(|(_, other)| same(other)).map(|(number, _)| *number);
                match table.insert(rule.clone()) {
                    Ok(number) => {
                        prop_assert_eq!(twin, None);
                        model.push((number, rule));
                    }
                    Err(fault) => prop_assert_eq!(twin.map(RuleFault::Duplicate), Some(fault)),
                }
            }
            for index in gone {
                if !model.is_empty() {
                    let (number, rule) = model.remove(index.index(model.len()));
                    prop_assert_eq!(table.remove(number), Some(rule));
                    prop_assert_eq!(table.remove(number), None);
                }
            }
            let rules: Vec<Rule> = model.iter().map(|(_, rule)| rule.clone()).collect();
            for bytes in &frames {
                let frame = Frame::parse(bytes).unwrap();
                for seen in [Seen::Coming, Seen::SentToGroup, Seen::Sent] {
                    let mut table_says = Vec::new();
                    let mut again = FlowTable::new();
                    // Counting must not change where frames go, and a table made anew says the same.
                    for rule in &rules {
                        again.insert(rule.clone()).unwrap();
                    }
                    let verdict = table.steer(&frame, seen, &mut table_says);
                    let mut made_anew = Vec::new();
                    prop_assert_eq!(again.steer(&frame, seen, &mut made_anew), verdict);
                    let mut qpns: Vec<Qpn> = table_says.iter().map(|copy| copy.qpn).collect();
                    qpns.sort();
                    prop_assert_eq!((qpns, verdict.dropped), reference(&rules, &frame, seen));
                }
            }
            for (number, _) in model {
                prop_assert!(table.remove(number).is_some());
            }
            prop_assert!(table.groups.is_empty() && table.len() == 0, "nothing is left behind");
        }
    }

    #[test]
    fn h04_raw_a_rule_counts_what_it_matches() {
        let mut table = FlowTable::new();
        let number = table.insert(rule(FlowType::SNIFFER, 5)).unwrap();
        let bytes = [0; 60];
        let frame = Frame::parse(&bytes).unwrap();
        for _ in 0..3 {
            table.steer(&frame, Seen::Coming, &mut Vec::new());
        }
        table.steer(&frame, Seen::Sent, &mut Vec::new());
        let rule = table.get(number).unwrap();
        assert_eq!((rule.frames, rule.bytes), (3, 180));
    }

    #[test]
    fn h04_raw_rules_are_limited_in_number_and_in_what_a_frame_costs() {
        let mut table = FlowTable::new();
        for priority in 0..limits::FLOW_GROUPS as u16 {
            let mut rule = rule(FlowType::NORMAL, 5);
            rule.priority = priority;
            table.insert(rule).unwrap();
        }
        let mut another = rule(FlowType::NORMAL, 5);
        another.priority = 1000;
        let limit = RuleFault::Limit(limits::FLOW_GROUPS as u32);
        assert_eq!(table.insert(another), Err(limit));
        // Of a group that is there, there may be more.
        assert!(table.insert(rule(FlowType::NORMAL, 6)).is_ok());
        for qpn in 0..MAX_COPIES as u32 {
            table.insert(rule(FlowType::SNIFFER, 100 + qpn)).unwrap();
        }
        let limit = RuleFault::Limit(MAX_COPIES as u32);
        assert_eq!(table.insert(rule(FlowType::SNIFFER, 5)), Err(limit));
        let mut to = Vec::new();
        table.steer(&Frame::parse(&[0; 14]).unwrap(), Seen::Coming, &mut to);
        assert_eq!(to.len(), MAX_COPIES, "and no more");
    }

    #[test]
    fn h04_raw_what_cannot_be_compared_is_named() {
        let (mut value, mut mask) = (FlowFields::default(), FlowFields::default());
        assert_eq!(check_match(&value, &mask), Ok(()));
        mask.dst_port = [0xff; 2];
        assert_eq!(check_match(&value, &mask), Err(54), "ports of what");
        (value.protocol, mask.protocol) = (PROTOCOL_UDP, 0xff);
        assert_eq!(check_match(&value, &mask), Err(57), "of which IP");
        (value.ip_version, mask.ip_version) = (4, 0xff);
        assert_eq!(check_match(&value, &mask), Ok(()));
        mask.src_ip[4] = 1;
        assert_eq!(check_match(&value, &mask), Err(16), "IPv4 addresses have 4 bytes");
        value.ip_version = 6;
        assert_eq!(check_match(&value, &mask), Ok(()));
        mask.ip_flags = 1;
        assert_eq!(check_match(&value, &mask), Err(60), "IPv6 has no such flags");
        mask.ip_flags = 0;
        mask.flow_label = [0x10, 0, 0, 0];
        assert_eq!(check_match(&value, &mask), Err(48));
        mask.flow_label = [0; 4];
        value.smac[2] = 1;
        assert_eq!(check_match(&value, &mask), Err(8), "a value that does not count");
    }
}
