// SPDX-License-Identifier: MIT OR Apache-2.0
//! H11: the P_Key table, and packets of other partitions.

use core::time::Duration;
use verbena_engine::testing::{attrs, seal, Failed, Guest, NetPair, QpShape, SendWr, World};
use verbena_hw::admin::{Opcode as Admin, Status as Refused};
use verbena_hw::cmd::{ModifyQpReq, QueryDeviceRsp, QueryPortRsp};
use verbena_hw::cqe::Status;
use verbena_hw::qp::{attr, QpAttrs, QpState, QpType};

/// Where the P_Key of a packet is: behind an IPv6 header, a UDP header, and half a word.
const PKEY: usize = 40 + 8 + 2;

fn violations(w: &mut World, guest: &mut Guest) -> u32 {
    let port: QueryPortRsp = guest.command(w, Admin::QUERY_PORT, &[0u8; 0]).expect("the port");
    let counted = guest.counter(w, "pkey_violations");
    assert_eq!(u64::from(port.pkey_violations), counted, "the port and its counter");
    port.pkey_violations
}

#[test]
fn h11_the_p_key_table_is_the_default_partition() {
    let mut w = World::new(1);
    let mut guest = Guest::start(&mut w, 4 << 20);
    let device: QueryDeviceRsp = guest
        .command(&mut w, Admin::QUERY_DEVICE, &[0u8; 0])
        .expect("the device");
    let port: QueryPortRsp = guest.command(&mut w, Admin::QUERY_PORT, &[0u8; 0]).expect("the port");
    assert_eq!((device.pkey_table_len, port.pkey, port.pkey_violations), (1, 0xffff, 0));
}

#[test]
fn h11_an_index_beyond_the_p_key_table_is_refused() {
    let mut w = World::new(1);
    let mut guest = Guest::start(&mut w, 4 << 20);
    let cq = guest.cq(&mut w, 4);
    let refused = Err(Failed {
        status: Refused::BAD_FIELD,
        detail: (core::mem::offset_of!(ModifyQpReq, attrs) + core::mem::offset_of!(QpAttrs, pkey_index)) as u32,
    });
    for kind in [QpType::RC, QpType::UC, QpType::UD] {
        let mut req = guest.qp_request(&mut w, &cq, &cq, QpShape::default());
        req.qp_type = kind;
        let qp = guest.create_qp(&mut w, &req).expect("a queue pair");
        let gid = guest.gid();
        let steps = match kind {
            QpType::UD => attrs::datagram(kind, 1),
            _ => attrs::connection(kind, gid, qp.qpn, (0, 0)),
        };
        // To INIT, where it is required, and to RTR, where it is allowed.
        for (mask, step) in &steps[..2] {
            for pkey_index in [1, 0x8000, u16::MAX] {
                let wrong = QpAttrs { pkey_index, ..*step };
                let mask = mask | attr::PKEY_INDEX;
                assert_eq!(
                    guest.modify(&mut w, qp.qpn, mask, wrong),
                    refused,
                    "{kind} {pkey_index}"
                );
            }
            guest.modify(&mut w, qp.qpn, *mask, *step).expect("the right index");
        }
        let (mask, step) = steps[2];
        guest.modify(&mut w, qp.qpn, mask, step).expect("RTS");
        guest.modify_state(&mut w, qp.qpn, QpState::SQD).expect("SQD");
        let wrong = QpAttrs {
            state: QpState::SQD.0,
            pkey_index: 1,
            ..QpAttrs::default()
        };
        if kind != QpType::UC {
            let mask = attr::STATE | attr::PKEY_INDEX;
            assert_eq!(guest.modify(&mut w, qp.qpn, mask, wrong), refused, "{kind} in SQD");
        }
    }
}

/// Brings what a sends to b, with another P_Key.
fn bring(pair: &mut NetPair, pkey: u16) {
    pair.net.a.run();
    let w = &mut pair.net.b;
    while let Some(packet) = pair.net.a.engine.transmit() {
        let mut bytes = packet.bytes;
        assert_eq!(bytes[PKEY..PKEY + 2], [0xff, 0xff], "the P_Key of what is sent");
        bytes[PKEY..PKEY + 2].copy_from_slice(&pkey.to_be_bytes());
        seal(&mut bytes);
        w.engine.receive(&bytes, w.now, &w.env);
    }
    w.run();
}

#[test]
fn h11_packet_a_request_of_another_partition_is_dropped_and_counted() {
    // Nobody's, another partition's full and limited members'.
    for (n, pkey) in [0x0000, 0x8001, 0x7ffe].into_iter().enumerate() {
        let mut pair = NetPair::connected();
        pair.b.post_recv(&mut pair.net.b, 50, 4096, 64);
        pair.a.fill(&mut pair.net.a, 0, b"partition");
        pair.a.post(&mut pair.net.a, SendWr::send(1, &[pair.a.sge(0, 9)]));
        bring(&mut pair, pkey);
        assert_eq!(violations(&mut pair.net.b, &mut pair.b.guest), 1, "{n}");
        assert_eq!(violations(&mut pair.net.a, &mut pair.a.guest), 0, "{n}");
        pair.b.nothing(&pair.net.b);
        assert!(pair.net.b.engine.transmit().is_none(), "it was answered");
        assert_eq!(pair.b.bytes(&pair.net.b, 4096, 9), [0; 9]);
        // As if it had been lost: it comes again, of the right partition.
        pair.net.b.now = pair.net.a.now;
        pair.net.advance(Duration::from_millis(100));
        let sent = pair.a.completion(&pair.net.a);
        assert_eq!((sent.wr_id, Status(sent.status)), (1, Status::SUCCESS));
        assert_eq!(pair.b.completion(&pair.net.b).wr_id, 50);
        assert_eq!(pair.b.bytes(&pair.net.b, 4096, 9), b"partition");
    }
}

#[test]
fn h11_packet_limited_members_of_the_partition_reach_its_full_members() {
    let mut pair = NetPair::connected();
    pair.b.post_recv(&mut pair.net.b, 50, 4096, 64);
    pair.a.post(&mut pair.net.a, SendWr::send(1, &[pair.a.sge(0, 9)]));
    bring(&mut pair, 0x7fff);
    assert_eq!(pair.b.completion(&pair.net.b).wr_id, 50);
    assert_eq!(violations(&mut pair.net.b, &mut pair.b.guest), 0);
}

#[test]
fn h11_packet_an_answer_of_another_partition_is_dropped_and_counted() {
    let mut pair = NetPair::connected();
    let wr = SendWr::write(1, &[pair.a.sge(0, 9)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(&mut pair.net.a, wr);
    bring(&mut pair, 0xffff);
    let packet = pair.net.b.engine.transmit().expect("an acknowledgement");
    let mut bytes = packet.bytes;
    bytes[PKEY..PKEY + 2].copy_from_slice(&[0x12, 0x34]);
    seal(&mut bytes);
    let w = &mut pair.net.a;
    w.engine.receive(&bytes, w.now, &w.env);
    w.run();
    pair.a.nothing(&pair.net.a);
    assert_eq!(violations(&mut pair.net.a, &mut pair.a.guest), 1);
}

#[test]
fn h11_packet_a_datagram_of_another_partition_is_dropped_and_counted() {
    let mut net = verbena_engine::testing::Net::new(1);
    let mut a = crate::datagrams::end(&mut net.a);
    let mut b = crate::datagrams::end(&mut net.b);
    b.post_recv(&mut net.b, 50, 0, 200);
    a.post(&mut net.a, SendWr::send(1, &[a.sge(0, 8)]).to(crate::datagrams::to(&b)));
    net.a.run();
    assert_eq!(a.completion(&net.a).status, 0, "who sends does not hear of it");
    let mut bytes = net.a.engine.transmit().expect("a datagram").bytes;
    let good = bytes.clone();
    bytes[PKEY..PKEY + 2].copy_from_slice(&[0x80, 0x01]);
    seal(&mut bytes);
    let w = &mut net.b;
    w.engine.receive(&bytes, w.now, &w.env);
    w.run();
    b.nothing(w);
    assert_eq!(violations(w, &mut b.guest), 1);
    assert_eq!(b.guest.counter(w, "qkey_violations"), 0, "the Q_Key was not looked at");
    w.engine.receive(&good, w.now, &w.env);
    w.run();
    let got = b.completion(w);
    assert_eq!((got.wr_id, got.pkey_index), (50, 0));
    assert_eq!(violations(w, &mut b.guest), 1);
}
