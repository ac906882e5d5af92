// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raw Ethernet queue pairs (H4) and flow rules (U8).

use super::kit::{check_eq, quiet, refused, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, next, Region, SOON};
use anyhow::{anyhow, bail, ensure, Context as _, Result};
use rdma_uapi::class::flow::{self, FlowFields};
use rdma_uapi::class::{self};
use rdma_uapi::wire::method;
use rdma_uapi::Errno;
use std::net::IpAddr;
use std::time::Instant;
use verbena::{
    Access, Completion, CompletionQueue, Context, Flow, FlowCounts, QpAttr, QpState, RawQp, RecvWr, SendWr, WcOpcode,
    WcStatus, WorkCompletion,
};
use verbena_hw::cqe::vendor;
use verbena_hw::flow::{found, max_frame};

pub const CASES: &[Case] = &[
    Case::pair(
        "h04_raw_a_frame_crosses_to_the_other_port_and_is_answered",
        conversation,
    ),
    Case::pair("h04_raw_a_frame_to_a_group_crosses_to_the_other_port", group),
    Case::single("h04_raw_frames_of_every_length_the_port_allows", lengths),
    Case::single("h04_raw_nobody_sends_in_the_name_of_another_port", foreign),
    Case::single("h04_raw_nothing_waits_for_a_receive", no_receive),
    Case::single("h04_raw_priorities_defaults_and_sniffers", priorities),
    Case::single("h04_raw_networks_protocols_and_ports_are_compared", packets),
    Case::single("h04_raw_a_queue_pair_has_no_attributes_of_a_connection", state_machine),
    Case::single("u08_flow_rules_are_objects_and_keep_their_queue_pair", rule_object),
    Case::single("u08_flow_what_cannot_be_compared_is_named", bad_rules),
    Case::single("u08_flow_frames_can_be_dropped", drops),
];

/// Local experimental EtherTypes (IEEE 802), one for each side: on one device both have the same MAC address.
const TYPES: [u16; 2] = [0x88b5, 0x88b6];
const GROUP: [u8; 6] = [0x01, 0x00, 0x5e, 0x40, 0x41, 0x42];
const HEADER: usize = 14;

/// A raw queue pair that is ready, with what it stands on.
struct Port {
    qp: RawQp,
    send_cq: CompletionQueue,
    recv_cq: CompletionQueue,
    region: Region,
    mac: [u8; 6],
}

impl Port {
    fn new(ctx: &Context) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        let (send_cq, recv_cq) = (ctx.create_cq(256)?, ctx.create_cq(256)?);
        let mut qp = RawQp::builder(&pd, &send_cq, &recv_cq).max_inline(512).build()?;
        qp.make_ready()?;
        let region = Region::new(&pd, 1 << 16, Access::LOCAL_WRITE)?;
        Ok(Self {
            qp,
            send_cq,
            recv_cq,
            region,
            mac: ctx.mac(1)?,
        })
    }

    fn receive_at(&mut self, offset: usize, len: usize) -> Result<()> {
        let sge = self.region.sge(offset..offset + len);
        Ok(self.qp.post_recv(&RecvWr::new(&[sge]).wr_id(offset as u64))?)
    }

    /// Sends a frame, and answers how that ended.
    fn send(&mut self, frame: &[u8]) -> Result<WorkCompletion> {
        // The last quarter, where nothing is received.
        let at = self.region.buffer().len() / 4 * 3;
        self.region.buffer().write_at(at, frame);
        let sge = [self.region.sge(at..at + frame.len())];
        self.qp.post_send(&SendWr::send().sges(&sge).signaled())?;
        next(&mut self.send_cq).context("waiting for the completion of a frame")
    }

    /// Sends a frame, which is right.
    fn sent(&mut self, frame: &[u8]) -> Result<()> {
        let done = good(self.send(frame)?)?;
        check_eq!(done.opcode, WcOpcode::SEND, "what was sent");
        Ok(())
    }

    fn received(&mut self) -> Result<WorkCompletion> {
        good(next(&mut self.recv_cq).context("waiting for a frame")?)
    }

    /// Looks at the completion of the next frame, in place: more is in it than in a copy.
    fn arrived(&mut self, look: impl FnOnce(&Completion<'_>) -> Result<()>) -> Result<()> {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if let Some(completion) = self.recv_cq.poll() {
                return look(&completion);
            }
            std::thread::yield_now();
        }
        bail!("no frame has arrived")
    }

    /// That the frame has arrived here, in the oldest receive.
    fn has(&mut self, frame: &[u8]) -> Result<()> {
        let got = self.received()?;
        check_eq!(got.byte_len as usize, frame.len(), "bytes of the frame");
        let there = self.region.buffer().to_vec(got.wr_id as usize, frame.len());
        ensure!(there == frame, "the frame's bytes are not those that were sent");
        Ok(())
    }
}

fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, data: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &ethertype.to_be_bytes()[..], data].concat()
}

fn counter(ctx: &Context, name: &str) -> Result<u64> {
    let counters = ctx.port(1)?.counters;
    let found = counters.iter().find(|(known, _)| known == name);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| anyhow!("no counter {name}"))
}

fn conversation(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut own = Port::new(ctx)?;
    let [mine, theirs] = match side {
        Side::Left => TYPES,
        Side::Right => [TYPES[1], TYPES[0]],
    };
    own.qp
        .steer(&Flow::new().dst_mac(own.mac).ethertype(mine).tag(0x00c0_ffee))?;
    own.receive_at(0, 4096)?;
    let peer: [u8; 6] = wire.exchange(&own.mac)?;
    let (question, answer) = (b"who has this address?".as_slice(), b"I have".as_slice());
    if side == Side::Left {
        own.sent(&frame(peer, own.mac, theirs, question))?;
    }
    let (text, from) = if side == Side::Left {
        (answer, peer)
    } else {
        (question, peer)
    };
    own.arrived(|completion| {
        check_eq!(completion.status(), WcStatus::SUCCESS, "how it ended");
        check_eq!(completion.byte_len() as usize, HEADER + text.len(), "bytes");
        check_eq!(completion.flow_tag(), Some(0x00c0_ffee), "its rule's tag");
        check_eq!(completion.src_mac(), from, "the sender's address");
        check_eq!((completion.vlan(), completion.headers()), (None, 0), "its headers");
        ensure!(completion.is_recv() && !completion.has_grh(), "a frame has no GRH");
        Ok(())
    })?;
    let expected = frame(own.mac, from, mine, text);
    check_eq!(own.region.buffer().to_vec(0, expected.len()), expected, "the frame");
    if side == Side::Right {
        own.sent(&frame(peer, own.mac, theirs, answer))?;
    }
    wire.exchange(&())?;
    PASS
}

fn group(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut own = Port::new(ctx)?;
    // On one device both sides are one port: loopback makes that no difference.
    own.qp
        .steer(&Flow::new().dst_mac(GROUP).ethertype(TYPES[0]).loopback())?;
    own.qp
        .steer(&Flow::new().dst_mac([0xff; 6]).ethertype(TYPES[0]).loopback())?;
    for n in 0..4 {
        own.receive_at(n * 4096, 4096)?;
    }
    let peer: [u8; 6] = wire.exchange(&own.mac)?;
    let from = if side == Side::Left { own.mac } else { peer };
    let frames = [GROUP, [0xff; 6]].map(|to| frame(to, from, TYPES[0], b"everybody"));
    if side == Side::Left {
        for frame in &frames {
            own.sent(frame)?;
        }
    }
    // Whoever sends hears itself, as it has asked.
    for frame in &frames {
        own.has(frame)?;
    }
    quiet(&mut own.recv_cq, "a third frame")?;
    wire.exchange(&())?;
    PASS
}

fn lengths(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    own.qp.steer(&Flow::all_default())?;
    let mac = own.mac;
    let most = max_frame(ctx.port(1)?.attrs.active_mtu);
    for len in [HEADER, 15, 60, 64, 1500, most - 5, most - 4] {
        own.receive_at(0, 8192)?;
        let data: Vec<u8> = (HEADER..len).map(|i| i as u8).collect();
        let bytes = frame(mac, mac, TYPES[0], &data);
        own.sent(&bytes)?;
        own.has(&bytes)?;
    }
    // A VLAN's tag comes on top.
    own.receive_at(0, 8192)?;
    let mut tagged = frame(mac, mac, 0x8100, &[0x20, 0x07, 0x88, 0xb5]);
    tagged.resize(most, 0x77);
    own.sent(&tagged)?;
    own.arrived(|completion| {
        check_eq!(completion.byte_len() as usize, most, "bytes");
        check_eq!(
            (completion.vlan(), completion.headers()),
            (Some(7), found::VLAN),
            "its tag"
        );
        Ok(())
    })?;
    for (len, reason) in [
        (0, vendor::FRAME_LEN),
        (HEADER - 1, vendor::FRAME_LEN),
        (most - 3, vendor::MESSAGE_LEN),
        (most + 1, vendor::MESSAGE_LEN),
        (16000, vendor::MESSAGE_LEN),
    ] {
        let mut bytes = frame(mac, mac, TYPES[0], &[]);
        bytes.resize(len, 0);
        let failed = own.send(&bytes)?;
        check_eq!(
            (failed.status, failed.vendor_err),
            (WcStatus::LOC_LEN_ERR, reason),
            "{len} bytes"
        );
        check_eq!(own.qp.update_state()?, QpState::SQE, "the send queue stops");
        own.qp.modify(&QpAttr::to(QpState::RTS))?;
    }
    quiet(&mut own.recv_cq, "a frame that cannot be")?;
    PASS
}

fn foreign(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    own.qp.steer(&Flow::sniffer().loopback())?;
    own.receive_at(0, 4096)?;
    let mut other = own.mac;
    other[5] ^= 0x80;
    let failed = own.send(&frame(own.mac, other, TYPES[0], b"not me"))?;
    check_eq!(
        (failed.status, failed.vendor_err),
        (WcStatus::LOC_QP_OP_ERR, vendor::FOREIGN_MAC),
        "another's address"
    );
    quiet(&mut own.recv_cq, "a frame that was not sent")?;
    PASS
}

fn no_receive(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    own.qp.steer(&Flow::new().dst_mac(own.mac))?;
    let mac = own.mac;
    let before = counter(&ctx, "dropped_no_receive")?;
    own.sent(&frame(mac, mac, TYPES[0], b"early"))?;
    check_eq!(
        counter(&ctx, "dropped_no_receive")?,
        before + 1,
        "dropped for want of a receive"
    );
    // One that is too short stays for the next frame.
    let before = counter(&ctx, "dropped_length")?;
    own.receive_at(0, HEADER + 4)?;
    own.sent(&frame(mac, mac, TYPES[0], b"too long"))?;
    check_eq!(counter(&ctx, "dropped_length")?, before + 1, "dropped for its length");
    let fits = frame(mac, mac, TYPES[0], b"fits");
    own.sent(&fits)?;
    own.has(&fits)?;
    // Nobody has this address.
    let before = counter(&ctx, "dropped_unreachable")?;
    own.sent(&frame([2, 0xee, 0xee, 0xee, 0xee, 0xee], mac, TYPES[0], b"anybody?"))?;
    check_eq!(
        counter(&ctx, "dropped_unreachable")?,
        before + 1,
        "an address that nobody has"
    );
    PASS
}

fn priorities(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Port::new(&ctx)?, Port::new(&ctx)?);
    let mac = a.mac;
    for port in [&mut a, &mut b] {
        for n in 0..10 {
            port.receive_at(n * 128, 128)?;
        }
    }
    let bytes = frame(mac, mac, TYPES[0], b"whose?");
    let whose = |a: &mut Port, b: &mut Port, expected: [bool; 2], what: &str| -> Result<()> {
        a.sent(&bytes)?;
        for (port, expected) in [(a, expected[0]), (b, expected[1])] {
            // The frame has been delivered before its sender was told that it has left.
            let got = port.recv_cq.poll().map(|completion| completion.status());
            check_eq!(got, expected.then_some(WcStatus::SUCCESS), "{what}");
        }
        Ok(())
    };
    whose(&mut a, &mut b, [false, false], "without rules")?;
    let default = b.qp.steer(&Flow::all_default())?;
    whose(&mut a, &mut b, [false, true], "by default")?;
    a.qp.steer(&Flow::new().ethertype(TYPES[0]).priority(4))?;
    whose(&mut a, &mut b, [true, false], "a rule before the default")?;
    let first = b.qp.steer(&Flow::new().ethertype(TYPES[0]).priority(3).dont_trap())?;
    whose(&mut a, &mut b, [true, true], "one that lets it pass")?;
    b.qp.unsteer(first)?;
    let same = b.qp.steer(&Flow::new().dst_mac(mac).priority(4))?;
    whose(&mut a, &mut b, [true, true], "two of the same priority")?;
    b.qp.unsteer(same)?;
    let only = b.qp.steer(&Flow::new().dst_mac(mac).priority(2))?;
    whose(&mut a, &mut b, [false, true], "one before the other")?;
    b.qp.unsteer(only)?;
    b.qp.unsteer(default)?;
    b.qp.steer(&Flow::sniffer())?;
    whose(&mut a, &mut b, [true, true], "a sniffer beside it")?;
    PASS
}

/// An IPv4 packet with the first 8 bytes of UDP or TCP.
fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet.extend(ports[0].to_be_bytes());
    packet.extend(ports[1].to_be_bytes());
    packet.extend([0, 8, 0, 0]);
    packet
}

fn packets(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    let mac = own.mac;
    let net: IpAddr = "10.7.0.0".parse()?;
    let rule = own.qp.steer(&Flow::new().dst_ip(net, 16).udp().dst_port(4242))?;
    let mut expected = FlowCounts::default();
    for (protocol, to, port, here) in [
        (17, [10, 7, 1, 2], 4242, true),
        (17, [10, 8, 1, 2], 4242, false),
        (6, [10, 7, 1, 2], 4242, false),
        (17, [10, 7, 1, 2], 4243, false),
    ] {
        own.receive_at(0, 128)?;
        let packet = ipv4(protocol, [10, 7, 0, 1], to, [1000, port]);
        let bytes = frame(mac, mac, 0x0800, &packet);
        own.sent(&bytes)?;
        let got = own.recv_cq.poll();
        check_eq!(got.is_some(), here, "protocol {protocol}, to {to:?} port {port}");
        if let Some(completion) = got {
            check_eq!(completion.headers(), found::IPV4 | found::UDP, "its headers");
            expected.frames += 1;
            expected.bytes += bytes.len() as u64;
        }
    }
    check_eq!(own.qp.rule_counts(rule)?, expected, "what the rule has matched");
    own.qp.unsteer(rule)?;
    // IPv6: by its addresses, all of their bits.
    let to: IpAddr = "fd00::7".parse()?;
    own.qp.steer(&Flow::new().dst_ip(to, 128).tcp().src_port(80))?;
    let mut packet = vec![0x60, 0, 0, 0, 0, 4, 6, 64];
    packet.extend([0xfd; 16]);
    packet.extend("fd00::7".parse::<std::net::Ipv6Addr>()?.octets());
    packet.extend([0, 80, 0, 81]);
    let bytes = frame(mac, mac, 0x86dd, &packet);
    own.sent(&bytes)?;
    own.has(&bytes)?;
    PASS
}

fn state_machine(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let cq = ctx.create_cq(16)?;
    let mut qp = RawQp::builder(&pd, &cq, &cq).build()?;
    refused(
        qp.modify(&QpAttr::to(QpState::INIT)),
        Errno::EINVAL,
        "INIT without a port",
    )?;
    refused(
        qp.modify(&QpAttr::to(QpState::INIT).port(1).qkey(1)),
        Errno::EOPNOTSUPP,
        "a Q_Key",
    )?;
    refused(qp.modify(&QpAttr::to(QpState::RTR)), Errno::EINVAL, "RTR before INIT")?;
    qp.make_ready()?;
    let state = qp.query()?;
    check_eq!((state.state, state.port), (QpState::RTS, 1), "where it is");
    qp.modify(&QpAttr::to(QpState::SQD))?;
    qp.modify(&QpAttr::to(QpState::RTS))?;
    qp.set_error()?;
    check_eq!(qp.update_state()?, QpState::ERR, "the end");
    // All the way in the one call that makes it.
    let ready = RawQp::builder(&pd, &cq, &cq)
        .attributes(QpAttr::to(QpState::RTS).port(1))
        .build()?;
    check_eq!(ready.query()?.state, QpState::RTS, "a queue pair made ready");
    PASS
}

fn rule_object(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    let flow = Flow::new().dst_mac(GROUP).vlan(9).priority(7).tag(5).dont_trap();
    let rule = own.qp.steer(&flow)?;
    refused(own.qp.steer(&flow), Errno::EEXIST, "the same rule again")?;
    let mut found = None;
    for id in (1..64).rev() {
        let query = Message::new(class::FLOW, id, |m| {
            m.ask(flow::QP).ask(flow::TYPE).ask(flow::PRIORITY).ask(flow::FLAGS);
            m.ask(flow::TAG).ask(flow::MATCH).ask(flow::MASK).ask(flow::FRAMES);
        });
        if let Ok(answer) = query.call(&ctx, method::QUERY) {
            let reply = answer.reply();
            check_eq!(reply.get(flow::TYPE), Some(flow::kind::NORMAL), "type");
            check_eq!(reply.get(flow::PRIORITY), Some(7), "priority");
            check_eq!(reply.get(flow::FLAGS), Some(flow::flag::DONT_TRAP), "flags");
            check_eq!(reply.get(flow::TAG), Some(5), "tag");
            check_eq!(reply.get(flow::FRAMES), Some(0), "frames");
            let (value, mask): (Option<FlowFields>, Option<FlowFields>) =
                (reply.get(flow::MATCH), reply.get(flow::MASK));
            let (value, mask) = (value.context("no match")?, mask.context("no mask")?);
            check_eq!((value.dmac, value.vlan), (GROUP, [0, 9]), "match");
            check_eq!(
                (mask.dmac, mask.vlan, mask.smac),
                ([0xff; 6], [0x0f, 0xff], [0; 6]),
                "mask"
            );
            found = reply.get(flow::QP);
            break;
        }
    }
    let qp = found.context("no object of class FLOW")?;
    match Message::new(class::QP_RAW, qp.0, |_| {}).call(&ctx, method::DESTROY) {
        Err(failure) => check_eq!(failure.errno, Errno::EBUSY, "destroying a queue pair with a rule"),
        Ok(_) => bail!("a queue pair was destroyed that a rule leads to"),
    }
    own.qp.unsteer(rule)?;
    own.qp.steer(&flow)?;
    // With its rules.
    own.qp.destroy()?;
    PASS
}

fn bad_rules(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    for (flow, what) in [
        (Flow::new().dst_port(80), "a port of no protocol"),
        (Flow::new().ipv4().dst_port(80), "a port of any protocol"),
        (Flow::new().udp(), "a protocol of no IP version"),
        (Flow::sniffer().dst_mac(GROUP), "a sniffer with a match"),
        (Flow::all_default().priority(1), "a default with a priority"),
        (Flow::new().tag(1 << 24), "a tag of 25 bits"),
    ] {
        refused(own.qp.steer(&flow), Errno::EINVAL, what)?;
    }
    let value = FlowFields {
        hop_limit: 1,
        ..FlowFields::default()
    };
    refused(
        own.qp.steer(&Flow::new().matching(value, FlowFields::default())),
        Errno::EINVAL,
        "a value that does not count",
    )?;
    let nowhere = Message::new(class::FLOW, 0, |m| {
        m.put(flow::PORT, &1);
    });
    match nowhere.call(&ctx, method::CREATE) {
        Err(failure) => check_eq!(
            (failure.errno, failure.attr),
            (Errno::EINVAL, flow::QP.id()),
            "a rule to nowhere"
        ),
        Ok(_) => bail!("a rule to nowhere was made"),
    }
    PASS
}

fn drops(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Port::new(&ctx)?;
    let mac = own.mac;
    own.qp.steer(&Flow::new().dst_mac(mac).priority(1))?;
    let rule = ctx.drop_frames(&Flow::new().ethertype(TYPES[1]))?;
    own.receive_at(0, 128)?;
    let before = counter(&ctx, "dropped_by_rule")?;
    own.sent(&frame(mac, mac, TYPES[1], b"unwanted"))?;
    check_eq!(counter(&ctx, "dropped_by_rule")?, before + 1, "dropped by the rule");
    check_eq!(rule.counts()?.frames, 1, "what it has matched");
    let wanted = frame(mac, mac, TYPES[0], b"wanted");
    own.sent(&wanted)?;
    own.has(&wanted)?;
    rule.destroy()?;
    own.receive_at(0, 128)?;
    let unwanted = frame(mac, mac, TYPES[1], b"unwanted no more");
    own.sent(&unwanted)?;
    own.has(&unwanted)?;
    PASS
}
