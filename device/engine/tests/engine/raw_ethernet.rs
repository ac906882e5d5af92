// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4: raw Ethernet queue pairs, and the flow rules that steer frames to them.

use verbena_engine::testing::{attrs, End, Failed, Guest, QpShape, RecvWr, SendWr, World};
use verbena_hw::admin::{Opcode, Status as Refused};
use verbena_hw::cmd::{CreateFlowReq, ModifyPortReq, QueryFlowRsp};
use verbena_hw::cqe::{flags as cqe_flags, vendor, Cqe, Opcode as Of, Status};
use verbena_hw::flow::{flags, found, max_frame, FlowFields, FlowType};
use verbena_hw::id::{Key, Qpn};
use verbena_hw::qp::{access, attr, QpAttrs, QpState, QpType};
use verbena_hw::regs;
use verbena_hw::wqe::SendOpcode;
use zerocopy::FromZeros;

/// Local experimental EtherType 1 (IEEE 802).
const TYPE: [u8; 2] = [0x88, 0xb5];
const BROADCAST: [u8; 6] = [0xff; 6];
const GROUP: [u8; 6] = [0x01, 0, 0x5e, 1, 2, 3];

/// Another raw queue pair of a guest, in RTS, with a completion queue of its own.
fn another(w: &mut World, guest: &mut Guest) -> (verbena_engine::testing::Cq, verbena_engine::testing::Qp) {
    let cq = guest.cq(w, 8);
    let mut req = guest.qp_request(w, &cq, &cq, QpShape::default());
    req.qp_type = QpType::RAW;
    let qp = guest.create_qp(w, &req).expect("a queue pair");
    for (mask, attrs) in attrs::raw() {
        guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
    }
    (cq, qp)
}

/// A guest with a raw queue pair in RTS and a buffer.
fn end(w: &mut World) -> End {
    let mut guest = Guest::start(w, 16 << 20);
    let (cq, qp) = another(w, &mut guest);
    let buffer = w.ram_mut(guest.hca).alloc(1 << 20);
    let mr = guest.mr(w, buffer, 1 << 20, access::LOCAL_WRITE).expect("a region");
    End { guest, cq, qp, mr }
}

fn two() -> (World, End, End) {
    let mut w = World::new(1);
    let (a, b) = (end(&mut w), end(&mut w));
    (w, a, b)
}

fn mac(w: &World, end: &End) -> [u8; 6] {
    w.mac(end.guest.hca)
}

fn frame(to: [u8; 6], from: [u8; 6], ethertype: [u8; 2], data: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(ethertype);
    frame.extend(data);
    frame
}

/// A rule for everything, to a queue pair.
fn all(flow_type: FlowType, qpn: Qpn) -> CreateFlowReq {
    CreateFlowReq {
        qpn,
        flow_type,
        port: 1,
        ..CreateFlowReq::new_zeroed()
    }
}

/// A rule for frames to a MAC address.
fn to_mac(dmac: [u8; 6], qpn: Qpn) -> CreateFlowReq {
    let mut req = all(FlowType::NORMAL, qpn);
    (req.value.dmac, req.mask.dmac) = (dmac, [0xff; 6]);
    req
}

fn rule(w: &mut World, guest: &mut Guest, req: CreateFlowReq) -> u32 {
    guest.create(w, Opcode::CREATE_FLOW, &req).expect("a rule")
}

fn refused(w: &mut World, guest: &mut Guest, req: CreateFlowReq) -> Failed {
    guest.create(w, Opcode::CREATE_FLOW, &req).expect_err("no rule")
}

/// Sends a frame out of `a`'s buffer; its completion.
fn send(w: &mut World, a: &mut End, frame: &[u8]) -> Cqe {
    a.fill(w, 0, frame);
    let wr = SendWr::send(1, &[a.sge(0, frame.len() as u32)]);
    a.post(w, wr);
    w.run();
    a.completion(w)
}

/// Sends a frame, which must be right.
fn sent(w: &mut World, a: &mut End, frame: &[u8]) {
    assert_eq!(send(w, a, frame).status, 0);
}

fn got(w: &World, b: &mut End) -> Option<Cqe> {
    b.cq.poll(w)
}

#[test]
fn h04_raw_a_frame_arrives_whole_and_says_what_is_in_it() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    let mut req = to_mac(bm, b.qp.qpn);
    (req.flags, req.tag) = (flags::TAG, 0xabcdef);
    rule(&mut w, &mut b.guest, req);
    b.post_recv(&mut w, 50, 1000, 2000);
    let mut packet = vec![
        0xa0, 5, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    packet.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let bytes = frame(bm, am, [0x81, 0], &packet);
    let sent = send(&mut w, &mut a, &bytes);
    assert_eq!((sent.status, sent.opcode, sent.wr_id), (0, Of::SEND.0, 1));
    let got = b.completion(&w);
    assert_eq!((got.status, got.opcode, got.wr_id), (0, Of::RECV.0, 50));
    assert_eq!(got.flags, cqe_flags::RECV | cqe_flags::TAG);
    assert_eq!((got.byte_len, got.imm), (bytes.len() as u32, 0xabcdef));
    assert_eq!((got.smac, got.vlan), (am, 5));
    assert_eq!(got.pkey_index, found::VLAN | found::IPV4 | found::UDP);
    assert_eq!(got.qpn, b.qp.qpn);
    assert_eq!(b.bytes(&w, 1000, bytes.len()), bytes);
    b.nothing(&w);
    assert_eq!(a.guest.counter(&mut w, "sent_frames"), 1);
    assert_eq!(a.guest.counter(&mut w, "sent_bytes"), bytes.len() as u64);
    assert_eq!(b.guest.counter(&mut w, "rcvd_frames"), 1);
}

#[test]
fn h04_raw_a_frame_is_inline_or_of_several_elements() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut b.guest, to_mac(bm, b.qp.qpn));
    let bytes = frame(bm, am, TYPE, b"in three pieces");
    for round in 0..2 {
        let sges = [b.sge(0, 5), b.sge(100, 1), b.sge(200, 500)];
        b.qp.post_recv(&w, RecvWr::new(round, &sges));
        let wr = match round {
            0 => SendWr::send(1, &[]).inline(&bytes),
            _ => {
                a.fill(&mut w, 0, &bytes[..9]);
                a.fill(&mut w, 5000, &bytes[9..]);
                SendWr::send(1, &[a.sge(0, 9), a.sge(5000, bytes.len() as u32 - 9)])
            }
        };
        a.post(&mut w, wr);
        w.run();
        assert_eq!(a.completion(&w).status, 0);
        assert_eq!(b.completion(&w).byte_len, bytes.len() as u32);
        let arrived = [
            b.bytes(&w, 0, 5),
            b.bytes(&w, 100, 1),
            b.bytes(&w, 200, bytes.len() - 6),
        ]
        .concat();
        assert_eq!(arrived, bytes);
    }
}

#[test]
fn h04_raw_lengths_end_where_the_port_does() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut b.guest, to_mac(bm, b.qp.qpn));
    let most = max_frame(4096);
    for (len, tag, status, reason) in [
        (14, false, Status::SUCCESS, 0),
        (13, false, Status::LOC_LEN_ERR, vendor::FRAME_LEN),
        (0, false, Status::LOC_LEN_ERR, vendor::FRAME_LEN),
        (most - 4, false, Status::SUCCESS, 0),
        (most - 3, false, Status::LOC_LEN_ERR, vendor::MESSAGE_LEN),
        (most, true, Status::SUCCESS, 0),
        (most + 1, true, Status::LOC_LEN_ERR, vendor::MESSAGE_LEN),
        (1 << 20, true, Status::LOC_LEN_ERR, vendor::MESSAGE_LEN),
    ] {
        b.post_recv(&mut w, 1, 0, 8192);
        let ethertype = if tag { [0x81, 0] } else { TYPE };
        let mut bytes = frame(bm, am, ethertype, &vec![7; 5000]);
        bytes.truncate(8192);
        a.fill(&mut w, 0, &bytes);
        let wr = SendWr::send(1, &[a.sge(0, len as u32)]);
        a.post(&mut w, wr);
        w.run();
        let cqe = a.completion(&w);
        assert_eq!((Status(cqe.status), cqe.vendor_err), (status, reason), "{len}");
        assert_eq!(got(&w, &mut b).is_some(), status == Status::SUCCESS, "{len}");
        if status != Status::SUCCESS {
            assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::SQE);
            a.guest
                .modify_state(&mut w, a.qp.qpn, QpState::RTS)
                .expect("SQE is left so");
        }
    }
}

#[test]
fn h14_raw_nobody_sends_in_the_name_of_another() {
    let (mut w, mut a, mut b) = two();
    let bm = mac(&w, &b);
    rule(&mut w, &mut b.guest, all(FlowType::SNIFFER, b.qp.qpn));
    b.post_recv(&mut w, 1, 0, 200);
    let cqe = send(&mut w, &mut a, &frame(bm, [2, 0, 0, 0, 0, 9], TYPE, b"who"));
    assert_eq!(
        (Status(cqe.status), cqe.vendor_err),
        (Status::LOC_QP_OP_ERR, vendor::FOREIGN_MAC)
    );
    b.nothing(&w);
    assert_eq!(a.guest.counter(&mut w, "sent_frames"), 0);
}

#[test]
fn h14_raw_what_is_for_one_guest_no_other_sees() {
    let mut w = World::new(1);
    let (mut a, mut b, mut c) = (end(&mut w), end(&mut w), end(&mut w));
    for end in [&mut b, &mut c] {
        rule(&mut w, &mut end.guest, all(FlowType::SNIFFER, end.qp.qpn));
        rule(&mut w, &mut end.guest, all(FlowType::ALL_DEFAULT, end.qp.qpn));
        end.post_recv(&mut w, 1, 0, 200);
    }
    let bytes = frame(mac(&w, &b), mac(&w, &a), TYPE, b"to b");
    sent(&mut w, &mut a, &bytes);
    assert!(got(&w, &mut b).is_some());
    c.nothing(&w);
    // An address that nobody has is nobody's, even if a guest has put the GID that is derived from it into its table.
    let nobody = [2, 9, 9, 9, 9, 9];
    let gid = verbena_hw::cmd::SetGidReq {
        index: 1,
        reserved: 0,
        gid: verbena_hw::id::Gid::link_local(nobody),
    };
    c.guest
        .command::<[u8; 0]>(&mut w, Opcode::SET_GID, &gid)
        .expect("a GID");
    let bytes = frame(nobody, mac(&w, &a), TYPE, b"to nobody");
    sent(&mut w, &mut a, &bytes);
    c.nothing(&w);
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), 1);
}

#[test]
fn h04_raw_groups_reach_every_other_port_and_ones_own_if_its_rules_ask() {
    let mut w = World::new(1);
    let (mut a, mut b, mut c) = (end(&mut w), end(&mut w), end(&mut w));
    let am = mac(&w, &a);
    rule(&mut w, &mut b.guest, to_mac(GROUP, b.qp.qpn));
    rule(&mut w, &mut c.guest, all(FlowType::MULTICAST_DEFAULT, c.qp.qpn));
    rule(&mut w, &mut a.guest, to_mac(GROUP, a.qp.qpn));
    for end in [&mut a, &mut b, &mut c] {
        for wr_id in 0..4 {
            end.post_recv(&mut w, wr_id, 100, 200);
        }
    }
    sent(&mut w, &mut a, &frame(GROUP, am, TYPE, b"group"));
    assert!(got(&w, &mut b).is_some() && got(&w, &mut c).is_some());
    a.nothing(&w);
    sent(&mut w, &mut a, &frame(BROADCAST, am, TYPE, b"all"));
    assert!(got(&w, &mut b).is_none() && got(&w, &mut c).is_some());
    assert_eq!(b.guest.counter(&mut w, "dropped_no_rule"), 1);
    // One that asks for what its own port sends.
    let mut own = to_mac(BROADCAST, a.qp.qpn);
    own.flags = flags::LOOPBACK;
    rule(&mut w, &mut a.guest, own);
    a.post(&mut w, SendWr::send(9, &[]).inline(&frame(BROADCAST, am, TYPE, b"all")));
    w.run();
    let both = a.cq.drain(&w);
    assert_eq!(both.len(), 2, "sent and received");
    assert!(both.iter().any(|cqe| cqe.flags & cqe_flags::RECV != 0));
}

#[test]
fn h04_raw_a_frame_to_oneself_comes_back_to_ones_own_rules() {
    let mut w = World::new(1);
    let mut a = end(&mut w);
    let am = mac(&w, &a);
    let (mut other_cq, mut other) = another(&mut w, &mut a.guest);
    rule(&mut w, &mut a.guest, to_mac(am, other.qpn));
    let recv = RecvWr::new(5, &[a.sge(100, 200)]);
    other.post_recv(&w, recv);
    sent(&mut w, &mut a, &frame(am, am, TYPE, b"myself"));
    assert_eq!(other_cq.poll(&w).map(|cqe| cqe.wr_id), Some(5));
    assert_eq!(a.bytes(&w, 114, 6), b"myself");
}

#[test]
fn h04_raw_priorities_defaults_sniffers_and_drops() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    let mut others: Vec<_> = (0..3).map(|_| another(&mut w, &mut b.guest)).collect();
    let region = b.sge(0, 200);
    for (_, qp) in &mut others {
        for wr_id in 0..32 {
            qp.post_recv(&w, RecvWr::new(wr_id, &[region]));
        }
    }
    let [first, second, third] = [0, 1, 2].map(|i: usize| others[i].1.qpn);
    let mut who = |w: &mut World, to: [u8; 6], ethertype: [u8; 2]| {
        sent(w, &mut a, &frame(to, am, ethertype, b""));
        let got = others.iter_mut().map(|(cq, _)| cq.drain(w).len());
        <[usize; 3]>::try_from(got.collect::<Vec<_>>()).expect("three of them")
    };
    let of_type = |priority, flags, qpn| {
        let mut req = all(FlowType::NORMAL, qpn);
        (req.priority, req.flags) = (priority, flags);
        (req.value.ethertype, req.mask.ethertype) = (TYPE, [0xff; 2]);
        req
    };
    assert_eq!(who(&mut w, bm, TYPE), [0, 0, 0]);
    assert_eq!(b.guest.counter(&mut w, "dropped_no_rule"), 1);
    rule(&mut w, &mut b.guest, all(FlowType::ALL_DEFAULT, third));
    assert_eq!(who(&mut w, bm, TYPE), [0, 0, 1]);
    rule(&mut w, &mut b.guest, of_type(5, 0, second));
    assert_eq!(who(&mut w, bm, TYPE), [0, 1, 0]);
    let passing = rule(&mut w, &mut b.guest, of_type(2, flags::DONT_TRAP, first));
    assert_eq!(who(&mut w, bm, TYPE), [1, 1, 0], "the first lets it pass");
    b.guest.destroy(&mut w, Opcode::DESTROY_FLOW, passing).expect("gone");
    let keeping = rule(&mut w, &mut b.guest, of_type(2, 0, first));
    assert_eq!(who(&mut w, bm, TYPE), [1, 0, 0]);
    assert_eq!(who(&mut w, bm, [0x88, 0xb6]), [0, 0, 1], "another EtherType");
    rule(&mut w, &mut b.guest, of_type(2, 0, third));
    assert_eq!(who(&mut w, bm, TYPE), [1, 0, 1], "both of the same priority");
    let dropping = rule(&mut w, &mut b.guest, of_type(1, flags::DROP, Qpn::default()));
    assert_eq!(who(&mut w, bm, TYPE), [0, 0, 0]);
    assert_eq!(b.guest.counter(&mut w, "dropped_by_rule"), 1);
    rule(&mut w, &mut b.guest, all(FlowType::SNIFFER, second));
    assert_eq!(who(&mut w, bm, TYPE), [0, 1, 0], "a sniffer sees also what is dropped");
    assert_eq!(who(&mut w, bm, [0x88, 0xb6]), [0, 1, 1]);
    rule(&mut w, &mut b.guest, all(FlowType::MULTICAST_DEFAULT, first));
    assert_eq!(
        who(&mut w, GROUP, [0x88, 0xb6]),
        [1, 1, 0],
        "a group's frames have a default of their own"
    );
    assert_eq!(who(&mut w, bm, [0x88, 0xb6]), [0, 1, 1]);
    for number in [dropping, keeping] {
        let state: QueryFlowRsp = b.guest.about(&mut w, Opcode::QUERY_FLOW, number).expect("a rule");
        assert_eq!((state.frames, state.bytes), (2, 28));
    }
}

#[test]
fn h04_raw_nothing_waits_for_a_receive_and_nobody_breaks_one_that_is_too_short() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut b.guest, to_mac(bm, b.qp.qpn));
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"early"));
    assert_eq!(b.guest.counter(&mut w, "dropped_no_receive"), 1);
    b.post_recv(&mut w, 7, 0, 20);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"too long"));
    assert_eq!(b.guest.counter(&mut w, "dropped_length"), 1);
    b.nothing(&w);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"fits"));
    assert_eq!(b.completion(&w).wr_id, 7, "the same receive");
    assert_eq!(b.bytes(&w, 14, 4), b"fits");
    // Its own faults end it.
    let unknown = RecvWr::new(
        8,
        &[verbena_hw::wqe::Sge {
            addr: 0,
            len: 100,
            lkey: Key(0x00de_ad00),
        }],
    );
    b.qp.post_recv(&w, unknown);
    b.post_recv(&mut w, 9, 0, 100);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"no key"));
    let failed = b.completion(&w);
    assert_eq!((failed.wr_id, Status(failed.status)), (8, Status::LOC_PROT_ERR));
    assert_eq!(Status(b.completion(&w).status), Status::WR_FLUSH_ERR);
    assert_eq!(b.guest.state(&mut w, b.qp.qpn), QpState::ERR);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"gone"));
    assert_eq!(b.guest.counter(&mut w, "dropped_no_qp"), 1);
}

#[test]
fn h04_raw_a_receive_that_was_too_short_is_flushed_like_any_other() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut b.guest, to_mac(bm, b.qp.qpn));
    b.post_recv(&mut w, 7, 0, 14);
    b.post_recv(&mut w, 8, 0, 14);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"long"));
    b.guest.modify_state(&mut w, b.qp.qpn, QpState::ERR).expect("ERR");
    w.run();
    let flushed: Vec<_> = b.cq.drain(&w).iter().map(|cqe| (cqe.wr_id, cqe.status)).collect();
    assert_eq!(flushed, [(7, Status::WR_FLUSH_ERR.0), (8, Status::WR_FLUSH_ERR.0)]);
}

#[test]
fn h04_raw_a_port_that_is_down_carries_nothing() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut b.guest, all(FlowType::ALL_DEFAULT, b.qp.qpn));
    b.post_recv(&mut w, 1, 0, 200);
    let port = |state| ModifyPortReq { state, reserved: 0 };
    for down in [true, false] {
        let end = if down { &mut b } else { &mut a };
        end.guest
            .command::<[u8; 0]>(&mut w, Opcode::MODIFY_PORT, &port(regs::PORT_DOWN))
            .expect("down");
        for to in [bm, BROADCAST] {
            sent(&mut w, &mut a, &frame(to, am, TYPE, b"x"));
            b.nothing(&w);
        }
        let end = if down { &mut b } else { &mut a };
        end.guest
            .command::<[u8; 0]>(&mut w, Opcode::MODIFY_PORT, &port(regs::PORT_ACTIVE))
            .expect("up");
    }
    // To b while b was down; both while a was down. A group of nobody is no loss.
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), 3);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"x"));
    assert!(got(&w, &mut b).is_some());
}

#[test]
fn h04_raw_bad_work_requests_stop_the_send_queue_alone() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut a.guest, to_mac(am, a.qp.qpn));
    a.post_recv(&mut w, 50, 4096, 200);
    let good = a.sge(0, 100);
    let mut write = SendWr::write(1, &[good], a.addr(0), Key(0));
    write.header.opcode = SendOpcode::WRITE.0;
    let unknown = verbena_hw::wqe::Sge {
        lkey: Key(0x00de_ad00),
        ..good
    };
    a.fill(&mut w, 0, &frame(bm, am, TYPE, &[0; 86]));
    for (wr, status, reason) in [
        (write, Status::LOC_QP_OP_ERR, vendor::OPCODE),
        (SendWr::send(1, &[good]).imm(5), Status::LOC_QP_OP_ERR, vendor::OPCODE),
        (
            SendWr::local_invalidate(1, Key(1)),
            Status::LOC_QP_OP_ERR,
            vendor::OPCODE,
        ),
        (
            SendWr::send(1, &[good]).flags(0x80),
            Status::LOC_QP_OP_ERR,
            vendor::FLAGS,
        ),
        (SendWr::send(1, &[unknown]), Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN),
    ] {
        a.post(&mut w, wr);
        a.post(&mut w, SendWr::send(2, &[good]));
        w.run();
        let (bad, behind) = (a.completion(&w), a.completion(&w));
        assert_eq!((Status(bad.status), bad.vendor_err), (status, reason));
        assert_eq!((behind.wr_id, Status(behind.status)), (2, Status::WR_FLUSH_ERR));
        a.guest.modify_state(&mut w, a.qp.qpn, QpState::RTS).expect("RTS again");
    }
    // Receives have gone on.
    let bytes = frame(am, mac(&w, &b), TYPE, b"hello");
    sent(&mut w, &mut b, &bytes);
    assert_eq!(a.completion(&w).wr_id, 50);
}

#[test]
fn h04_raw_the_send_queue_drains_and_says_so() {
    use verbena_hw::qp::{attr, QpAttrs};
    let (mut w, mut a, b) = two();
    let attrs = QpAttrs {
        state: QpState::SQD.0,
        en_sqd_async_notify: 1,
        ..QpAttrs::default()
    };
    a.guest
        .modify(&mut w, a.qp.qpn, attr::STATE | attr::EN_SQD_ASYNC_NOTIFY, attrs)
        .expect("SQD");
    w.run();
    let events = a.guest.events(&mut w);
    assert!(events
        .iter()
        .any(|eqe| eqe.event == verbena_hw::eqe::Event::SQ_DRAINED.0));
    let bytes = frame(mac(&w, &b), mac(&w, &a), TYPE, b"later");
    a.post(&mut w, SendWr::send(1, &[]).inline(&bytes));
    w.run();
    a.nothing(&w);
    a.guest.modify_state(&mut w, a.qp.qpn, QpState::RTS).expect("RTS");
    w.run();
    assert_eq!(a.completion(&w).status, 0);
}

#[test]
fn h04_raw_receives_come_from_a_shared_queue_too() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    let req = b.guest.srq_request(&mut w, 4);
    let mut srq = b.guest.create_srq(&mut w, &req).expect("a shared receive queue");
    let mut req = b.guest.qp_request(&mut w, &b.cq, &b.cq, QpShape::default());
    (req.qp_type, req.srqn, req.rq) = (QpType::RAW, srq.srqn, Default::default());
    (req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = (0, 0, 0);
    let qp = b.guest.create_qp(&mut w, &req).expect("a queue pair");
    for (mask, attrs) in attrs::raw() {
        b.guest.modify(&mut w, qp.qpn, mask, attrs).expect("a transition");
    }
    rule(&mut w, &mut b.guest, to_mac(bm, qp.qpn));
    let short = RecvWr::new(3, &[b.sge(0, 16)]);
    srq.post(&w, short);
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"too long"));
    sent(&mut w, &mut a, &frame(bm, am, TYPE, b"ok"));
    assert_eq!(b.completion(&w).wr_id, 3);
    assert_eq!(b.bytes(&w, 14, 2), b"ok");
}

#[test]
fn h04_raw_rules_are_checked_field_by_field() {
    let (mut w, mut a, _) = two();
    let qpn = a.qp.qpn;
    let good = to_mac(GROUP, qpn);
    type Spoil = fn(&mut CreateFlowReq);
    let bad: [(Spoil, Refused, u32); 14] = [
        (|r| r.flow_type = FlowType(4), Refused::BAD_FIELD, 6),
        (|r| r.flags = 0x80, Refused::BAD_FIELD, 7),
        (|r| r.tag = 1, Refused::BAD_FIELD, 8),
        (|r| (r.flags, r.tag) = (flags::TAG, 1 << 24), Refused::BAD_FIELD, 8),
        (|r| r.port = 2, Refused::BAD_FIELD, 12),
        (|r| r.qpn = Qpn::truncate(0), Refused::NO_SUCH_OBJECT, 0),
        (|r| r.flags = flags::DROP, Refused::BAD_FIELD, 0),
        (|r| r.reserved[3] = 1, Refused::RESERVED_FIELD, 144),
        (|r| r.flow_type = FlowType::SNIFFER, Refused::BAD_MATCH, 16),
        (
            |r| {
                (r.flow_type, r.priority) = (FlowType::SNIFFER, 1);
                (r.value, r.mask) = (FlowFields::default(), FlowFields::default());
            },
            Refused::BAD_FIELD,
            4,
        ),
        (|r| r.mask.dst_port = [1; 2], Refused::BAD_MATCH, 80 + 54),
        (|r| r.mask.reserved[1] = 1, Refused::BAD_MATCH, 80 + 62),
        (|r| r.value.hop_limit = 1, Refused::BAD_MATCH, 80 + 59),
        (
            |r| {
                (r.flow_type, r.flags) = (FlowType::SNIFFER, flags::DONT_TRAP);
                (r.value, r.mask) = (FlowFields::default(), FlowFields::default());
            },
            Refused::BAD_FIELD,
            7,
        ),
    ];
    for (i, (spoil, status, detail)) in bad.into_iter().enumerate() {
        let mut req = good;
        spoil(&mut req);
        assert_eq!(refused(&mut w, &mut a.guest, req), Failed { status, detail }, "{i}");
    }
    // Queue pairs of other types take no frames.
    let cq = a.guest.cq(&mut w, 4);
    let req = a.guest.qp_request(&mut w, &cq, &cq, QpShape::default());
    let rc = a.guest.create_qp(&mut w, &req).expect("a queue pair");
    let failed = refused(&mut w, &mut a.guest, to_mac(GROUP, rc.qpn));
    assert_eq!((failed.status, failed.detail), (Refused::BAD_FIELD, 0));
}

#[test]
fn h04_raw_a_rule_holds_its_queue_pair_and_is_there_once() {
    let (mut w, mut a, _) = two();
    let qpn = a.qp.qpn;
    let number = rule(&mut w, &mut a.guest, to_mac(GROUP, qpn));
    let twin = refused(&mut w, &mut a.guest, to_mac(GROUP, qpn));
    assert_eq!((twin.status, twin.detail), (Refused::DUPLICATE_FLOW, number));
    let held = a
        .guest
        .destroy(&mut w, Opcode::DESTROY_QP, qpn.get())
        .expect_err("in use");
    assert_eq!((held.status, held.detail), (Refused::IN_USE, 1));
    let state: QueryFlowRsp = a.guest.about(&mut w, Opcode::QUERY_FLOW, number).expect("a rule");
    assert_eq!((state.qpn, state.value.dmac, state.frames), (qpn, GROUP, 0));
    a.guest.destroy(&mut w, Opcode::DESTROY_FLOW, number).expect("gone");
    let gone = a
        .guest
        .destroy(&mut w, Opcode::DESTROY_FLOW, number)
        .expect_err("not there");
    assert_eq!(gone.status, Refused::NO_SUCH_OBJECT);
    a.guest.destroy(&mut w, Opcode::DESTROY_QP, qpn.get()).expect("free");
}

#[test]
fn h14_raw_a_rule_cannot_lead_to_another_guests_queue_pair() {
    let (mut w, mut a, mut b) = two();
    // The same number, or none: whatever it is, it is this guest's own.
    let number = rule(&mut w, &mut a.guest, all(FlowType::ALL_DEFAULT, b.qp.qpn));
    let state: QueryFlowRsp = a.guest.about(&mut w, Opcode::QUERY_FLOW, number).expect("a rule");
    assert_eq!(state.qpn, a.qp.qpn);
    assert!(b.guest.destroy(&mut w, Opcode::DESTROY_FLOW, number).is_err());
    // A reset takes the rules along.
    w.engine.reset_hca(a.guest.hca);
    let dump = w.engine.dump(Some(a.guest.hca), w.now, &w.env);
    assert_eq!(dump.hcas[0].objects.flows, 0);
    b.post_recv(&mut w, 1, 0, 100);
}

#[test]
fn h15_raw_the_dump_shows_rules_and_what_they_have_matched() {
    let (mut w, mut a, mut b) = two();
    let (am, bm) = (mac(&w, &a), mac(&w, &b));
    let mut req = to_mac(bm, b.qp.qpn);
    (req.value.ip_version, req.mask.ip_version) = (4, 0xff);
    req.value.dst_ip[..4].copy_from_slice(&[10, 0, 0, 0]);
    req.mask.dst_ip[0] = 0xff;
    (req.value.protocol, req.mask.protocol) = (17, 0xff);
    (req.value.dst_port, req.mask.dst_port) = ([0, 53], [0xff; 2]);
    (req.flags, req.tag, req.priority) = (flags::TAG | flags::DONT_TRAP, 7, 3);
    let number = rule(&mut w, &mut b.guest, req);
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 9, 9, 9];
    packet.extend([0, 1, 0, 53]);
    let bytes = frame(bm, am, [8, 0], &packet);
    sent(&mut w, &mut a, &bytes);
    let dump = w.engine.dump(Some(b.guest.hca), w.now, &w.env);
    let text = dump.to_string();
    let line = format!(
        "flow {number:#x} NORMAL priority 3 dmac=02:56:42:00:00:02 ip_version=4 \
         dst_ip=10.0.0.0/0xff000000 protocol=17 dst_port=53 -> QP {:#x} tag 0x7 DONT_TRAP, 1 frames, 38 bytes",
        b.qp.qpn.get()
    );
    assert!(text.contains(&line), "{text}");
    let report = w.engine.inspect_qp(b.guest.hca, b.qp.qpn.get(), 4, w.now, &w.env);
    let report = report.expect("the queue pair").to_string();
    assert!(report.contains(&line), "{report}");
    let json = serde_json::to_value(&dump).expect("JSON");
    assert_eq!(json["hcas"][0]["flows"][0]["matches"][0][0], "dmac");
    assert_eq!(json["hcas"][0]["objects"]["flows"], 1);
}

#[test]
fn h04_frames_have_a_pace() {
    let (mut w, mut a, mut b) = two();
    let (from, to) = (mac(&w, &a), mac(&w, &b));
    rule(&mut w, &mut b.guest, to_mac(to, b.qp.qpn));
    // A byte a microsecond, a frame of 1000 at a time.
    let slow = QpAttrs {
        rate_limit: 8000,
        max_burst: 1000,
        typical_packet: 1000,
        ..QpAttrs::default()
    };
    a.guest
        .modify(&mut w, a.qp.qpn, attr::RATE_LIMIT, slow)
        .expect("a limit");
    a.fill(&mut w, 0, &frame(to, from, [0x88, 0xb5], &[7; 986]));
    for i in 0..20 {
        b.post_recv(&mut w, i, 0, 1000);
        a.post(&mut w, SendWr::send(i, &[a.sge(0, 1000)]));
    }
    w.run();
    for ms in 0..20 {
        assert_eq!(b.cq.drain(&w).len(), 1, "at {ms} ms");
        w.advance(core::time::Duration::from_millis(1));
    }
    assert_eq!(a.cq.drain(&w).len(), 20);
}
