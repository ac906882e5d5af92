// SPDX-License-Identifier: MIT OR Apache-2.0
//! UC and datagrams from engine to engine, and what becomes of them when a packet is lost.

use crate::{datagrams, multicast, unreliable};
use core::time::Duration;
use verbena_engine::testing::{End, Fate, Net, SendWr};
use verbena_hw::cqe::flags;
use verbena_hw::wire::PacketOpcode as P;

fn opcodes(net: &mut Net) -> Vec<P> {
    let seen = net.link.seen.replace(Vec::new()).unwrap_or_default();
    seen.into_iter().map(|packet| packet.opcode).collect()
}

/// Two ends of an unreliable connection, each of an engine of its own.
fn connection() -> (Net, End, End) {
    let mut net = Net::new(1);
    let (mut a, mut b) = (unreliable::end(&mut net.a), unreliable::end(&mut net.b));
    let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
    unreliable::connect(&mut net.a, &mut a, to_b, |_| {});
    unreliable::connect(&mut net.b, &mut b, to_a, |_| {});
    net.link.seen = Some(Vec::new());
    (net, a, b)
}

#[test]
fn h04_packet_an_unreliable_message_has_its_own_opcodes_and_no_answer() {
    let (mut net, mut a, mut b) = connection();
    b.post_recv(&mut net.b, 50, 0, 4096);
    b.post_recv(&mut net.b, 51, 0, 4096);
    a.fill(&mut net.a, 0, &[7; 2500]);
    a.post(&mut net.a, SendWr::send(1, &[a.sge(0, 2500)]));
    a.post(
        &mut net.a,
        SendWr::write(2, &[a.sge(0, 1025)], b.addr(0x8000), b.rkey()).imm(9),
    );
    net.run();
    let send = [P::UC_SEND_FIRST, P::UC_SEND_MIDDLE, P::UC_SEND_LAST];
    let write = [P::UC_WRITE_FIRST, P::UC_WRITE_LAST_WITH_IMM];
    assert_eq!(opcodes(&mut net), [&send[..], &write].concat());
    assert_eq!((a.completion(&net.a).wr_id, a.completion(&net.a).wr_id), (1, 2));
    assert_eq!(b.completion(&net.b).byte_len, 2500);
    let written = b.completion(&net.b);
    assert_eq!((written.wr_id, written.byte_len, written.imm), (51, 1025, 9));
    assert_eq!(b.bytes(&net.b, 0x8000, 1025), [7; 1025]);
}

#[test]
fn h04_packet_an_unreliable_message_that_loses_a_packet_does_not_arrive() {
    for lost in [P::UC_SEND_FIRST, P::UC_SEND_MIDDLE, P::UC_SEND_LAST] {
        let (mut net, mut a, mut b) = connection();
        b.post_recv(&mut net.b, 50, 0, 4096);
        net.link.fates = vec![(lost, Fate::Lost)];
        for wr_id in 1..=2 {
            a.fill(&mut net.a, 0, &[wr_id as u8; 2500]);
            a.post(&mut net.a, SendWr::send(wr_id, &[a.sge(0, 2500)]));
            net.run();
            assert_eq!(a.completion(&net.a).status, 0, "it has left");
        }
        // The receive is the next message's.
        let got = b.completion(&net.b);
        assert_eq!((got.wr_id, got.status, got.byte_len), (50, 0, 2500), "{lost}");
        b.nothing(&net.b);
        assert_eq!(b.bytes(&net.b, 0, 2500), [2; 2500]);
    }
}

#[test]
fn h04_packet_an_unreliable_write_that_loses_a_packet_leaves_the_next_one_alone() {
    let (mut net, mut a, mut b) = connection();
    net.link.fates = vec![(P::UC_WRITE_MIDDLE, Fate::Lost)];
    b.post_recv(&mut net.b, 50, 0, 64);
    let write = SendWr::write(1, &[a.sge(0, 3000)], b.addr(0), b.rkey());
    a.post(&mut net.a, write.clone().imm(1));
    a.post(&mut net.a, write.imm(2));
    net.run();
    assert_eq!(b.completion(&net.b).imm, 2);
    b.nothing(&net.b);
}

#[test]
fn h09_packet_a_datagram_goes_from_engine_to_engine_and_its_answer_back() {
    let mut net = Net::new(1);
    let (mut a, mut b) = (datagrams::end(&mut net.a), datagrams::end(&mut net.b));
    net.link.seen = Some(Vec::new());
    a.fill(&mut net.a, 0, b"question");
    b.fill(&mut net.b, 0, b"answer!!");
    a.post_recv(&mut net.a, 50, 0x1000, 100);
    b.post_recv(&mut net.b, 50, 0x1000, 100);
    a.post(&mut net.a, SendWr::send(1, &[a.sge(0, 8)]).imm(5).to(datagrams::to(&b)));
    net.run();
    let got = b.completion(&net.b);
    assert_eq!((got.byte_len, got.imm, got.src_qpn), (48, 5, a.qp.qpn));
    assert_eq!(got.flags, flags::RECV | flags::GRH | flags::IMM);
    assert_eq!(b.bytes(&net.b, 0x1028, 8), b"question");
    b.post(&mut net.b, SendWr::send(2, &[b.sge(0, 8)]).to(datagrams::to(&a)));
    net.run();
    assert_eq!(a.completion(&net.a).wr_id, 1);
    assert_eq!(a.completion(&net.a).src_qpn, b.qp.qpn);
    assert_eq!(a.bytes(&net.a, 0x1028, 8), b"answer!!");
    assert_eq!(opcodes(&mut net), [P::UD_SEND_ONLY_WITH_IMM, P::UD_SEND_ONLY]);
}

#[test]
fn h09_packet_a_multicast_is_one_packet_to_members_elsewhere_and_a_copy_to_those_here() {
    let mut net = Net::new(1);
    let (mut a, mut here) = (datagrams::end(&mut net.a), datagrams::end(&mut net.a));
    let mut there = [datagrams::end(&mut net.b), datagrams::end(&mut net.b)];
    let mut nobody = datagrams::end(&mut net.b);
    net.link.seen = Some(Vec::new());
    multicast::attach(&mut net.a, &mut here);
    here.post_recv(&mut net.a, 50, 0, 100);
    for end in &mut there {
        multicast::attach(&mut net.b, end);
        end.post_recv(&mut net.b, 50, 0, 100);
    }
    nobody.post_recv(&mut net.b, 50, 0, 100);
    net.link.fates = vec![(P::UD_SEND_ONLY, Fate::Late(Duration::from_micros(3)))];
    a.post(&mut net.a, SendWr::send(1, &[a.sge(0, 8)]).to(multicast::group()));
    net.run();
    assert_eq!(here.completion(&net.a).src_qpn, a.qp.qpn);
    assert_eq!(there[0].cq.poll(&net.b), None);
    net.advance(Duration::from_micros(3));
    for end in &mut there {
        assert_eq!(end.completion(&net.b).src_qpn, a.qp.qpn);
    }
    nobody.nothing(&net.b);
    here.nothing(&net.a);
    assert_eq!(opcodes(&mut net), [P::UD_SEND_ONLY]);
}
