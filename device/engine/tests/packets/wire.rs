// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes over the link when nothing goes wrong there, and when a peer has no receive.

use core::time::Duration;
use verbena_engine::testing::{NetPair, SendWr};
use verbena_hw::cqe::Status;
use verbena_hw::id::{Key, Psn};
use verbena_hw::qp::Mtu;
use verbena_hw::wire::PacketOpcode as P;
use verbena_hw::wqe::{flush, send_flags, FlushArgs};

const FIRST: u32 = 0xff_fffe;

/// The PSN that is `n` behind the first of a's.
fn psn(n: u32) -> u32 {
    Psn::truncate(FIRST).add(n).get()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn h05_packet_a_send_is_cut_at_the_mtu_and_acknowledged_once() {
    let mut pair = NetPair::connected();
    let data = pattern(2500);
    pair.a.fill(&mut pair.net.a, 0, &data);
    pair.b.post_recv(&mut pair.net.b, 50, 4096, 4096);
    let wr = SendWr::send(1, &[pair.a.sge(0, 2500)]).flags(send_flags::SOLICITED);
    pair.a.post(&mut pair.net.a, wr);
    pair.net.run();
    let seen = pair.net.link.seen.clone().unwrap();
    let sizes: Vec<_> = seen.iter().map(|packet| packet.len).collect();
    // IPv6 40, UDP 8, BTH 12, ICRC 4; the acknowledgement has an AETH of 4.
    assert_eq!(sizes, [64 + 1024, 64 + 1024, 64 + 452, 64 + 4]);
    let acked = (P::RC_ACKNOWLEDGE, psn(2));
    let sends = [
        (P::RC_SEND_FIRST, psn(0)),
        (P::RC_SEND_MIDDLE, psn(1)),
        (P::RC_SEND_LAST, psn(2)),
        acked,
    ];
    assert_eq!(pair.seen(), sends);
    assert_eq!(pair.b.bytes(&pair.net.b, 4096, 2500), data);
    let received = pair.b.completion(&pair.net.b);
    assert_eq!((received.wr_id, received.byte_len), (50, 2500));
    assert_eq!(pair.a.completion(&pair.net.a).wr_id, 1);
}

#[test]
fn h05_packet_lengths_around_the_mtu() {
    for mtu in [Mtu::B256, Mtu::B512, Mtu::B1024, Mtu::B2048, Mtu::B4096] {
        let bytes = mtu.bytes().unwrap();
        let mut pair = NetPair::with(|attrs| attrs.path_mtu = mtu.0);
        let data = pattern(3 * 4096 + 1);
        pair.a.fill(&mut pair.net.a, 0, &data);
        let around = [
            0,
            1,
            3,
            bytes - 1,
            bytes,
            bytes + 1,
            2 * bytes - 1,
            2 * bytes,
            2 * bytes + 1,
            3 * bytes,
        ];
        for (i, len) in around.into_iter().enumerate() {
            let (wr_id, packets) = (i as u64, len.div_ceil(bytes).max(1) as usize);
            let there = pair.b.addr(0x10_0000);
            pair.a.post(
                &mut pair.net.a,
                SendWr::write(wr_id, &[pair.a.sge(0, len)], there, pair.b.rkey()),
            );
            let back = pair.a.sge(0x8000, len);
            pair.a.post(
                &mut pair.net.a,
                SendWr::read(wr_id, &[back], there, pair.b.rkey()).flags(send_flags::FENCE),
            );
            pair.net.run();
            for _ in 0..2 {
                let cqe = pair.a.completion(&pair.net.a);
                assert_eq!((cqe.wr_id, cqe.status), (wr_id, 0));
            }
            assert_eq!(pair.b.bytes(&pair.net.b, 0x10_0000, len as usize), data[..len as usize]);
            assert_eq!(pair.a.bytes(&pair.net.a, 0x8000, len as usize), data[..len as usize]);
            let seen = pair.seen();
            let count = |which: &[P]| seen.iter().filter(|(opcode, _)| which.contains(opcode)).count();
            assert_eq!(
                count(&[
                    P::RC_WRITE_ONLY,
                    P::RC_WRITE_FIRST,
                    P::RC_WRITE_MIDDLE,
                    P::RC_WRITE_LAST
                ]),
                packets
            );
            let answers = [
                P::RC_READ_RESPONSE_ONLY,
                P::RC_READ_RESPONSE_FIRST,
                P::RC_READ_RESPONSE_MIDDLE,
                P::RC_READ_RESPONSE_LAST,
            ];
            assert_eq!(count(&answers), packets);
        }
    }
}

#[test]
fn h05_packet_every_operation_has_its_opcodes() {
    let mut pair = NetPair::connected();
    for i in 0..4 {
        pair.b.post_recv(&mut pair.net.b, i, 0x1000, 4096);
    }
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    let all = FlushArgs {
        len: 8,
        placement: flush::GLOBAL,
        level: flush::RANGE,
    };
    let (sge, eight) = (pair.a.sge(0, 1500), pair.a.sge(0, 8));
    let mut mine = |wr| {
        pair.a.post(&mut pair.net.a, wr);
        pair.net.run();
        let opcodes: Vec<_> = pair.seen().into_iter().map(|(opcode, _)| opcode).collect();
        let status = Status(pair.a.completion(&pair.net.a).status);
        (opcodes, status)
    };
    let done = |opcodes: &[P]| (opcodes.to_vec(), Status::SUCCESS);
    let ack = P::RC_ACKNOWLEDGE;
    assert_eq!(
        mine(SendWr::send(1, &[sge]).imm(7)),
        done(&[P::RC_SEND_FIRST, P::RC_SEND_LAST_WITH_IMM, ack])
    );
    assert_eq!(
        mine(SendWr::send(1, &[eight]).imm(7)),
        done(&[P::RC_SEND_ONLY_WITH_IMM, ack])
    );
    assert_eq!(
        mine(SendWr::write(1, &[sge], there, rkey).imm(7)),
        done(&[P::RC_WRITE_FIRST, P::RC_WRITE_LAST_WITH_IMM, ack])
    );
    assert_eq!(
        mine(SendWr::write(1, &[], there, rkey).imm(7)),
        done(&[P::RC_WRITE_ONLY_WITH_IMM, ack])
    );
    assert_eq!(
        mine(SendWr::compare_swap(1, eight, there, rkey, 0, 1)),
        done(&[P::RC_COMPARE_SWAP, P::RC_ATOMIC_ACKNOWLEDGE])
    );
    assert_eq!(
        mine(SendWr::fetch_add(1, eight, there, rkey, 1)),
        done(&[P::RC_FETCH_ADD, P::RC_ATOMIC_ACKNOWLEDGE])
    );
    assert_eq!(
        mine(SendWr::atomic_write(1, &[eight], there, rkey)),
        done(&[P::RC_ATOMIC_WRITE, P::RC_READ_RESPONSE_ONLY])
    );
    // The region has not the right; that it was understood is what counts here.
    let (opcodes, status) = mine(SendWr::flush(1, there, rkey, all));
    assert_eq!((opcodes, status), (vec![P::RC_FLUSH, ack], Status::REM_ACCESS_ERR));
}

#[test]
fn h05_packet_many_messages_are_acknowledged_together_and_complete_in_order() {
    let mut pair = NetPair::connected();
    for i in 0..30 {
        pair.b.post_recv(&mut pair.net.b, i, 0, 64);
        pair.a
            .qp
            .post_quietly(&pair.net.a, SendWr::send(i, &[pair.a.sge(0, 8)]));
    }
    pair.a.qp.ring(&pair.net.a);
    pair.net.run();
    let seen = pair.seen();
    let acks = seen.iter().filter(|(opcode, _)| *opcode == P::RC_ACKNOWLEDGE).count();
    assert_eq!(seen.len() - acks, 30);
    assert!(acks <= 2, "{acks} acknowledgements");
    for i in 0..30 {
        assert_eq!(pair.a.completion(&pair.net.a).wr_id, i);
        assert_eq!(pair.b.completion(&pair.net.b).wr_id, i);
    }
}

#[test]
fn h05_packet_a_fence_waits_for_the_answer_and_nothing_else_does() {
    for fenced in [false, true] {
        let mut pair = NetPair::connected();
        let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
        let flags = if fenced { send_flags::FENCE } else { 0 };
        pair.a
            .qp
            .post_quietly(&pair.net.a, SendWr::read(1, &[pair.a.sge(0, 3000)], there, rkey));
        let write = SendWr::write(2, &[pair.a.sge(0, 8)], there, rkey).flags(flags);
        pair.a.post(&mut pair.net.a, write);
        pair.net.run();
        let opcodes: Vec<_> = pair.seen().into_iter().map(|(opcode, _)| opcode).collect();
        let at = |opcode| opcodes.iter().position(|seen| *seen == opcode).unwrap();
        assert_eq!(
            at(P::RC_WRITE_ONLY) > at(P::RC_READ_RESPONSE_LAST),
            fenced,
            "{opcodes:?}"
        );
        assert_eq!(pair.a.completion(&pair.net.a).wr_id, 1);
        assert_eq!(pair.a.completion(&pair.net.a).wr_id, 2);
    }
}

#[test]
fn h05_packet_no_more_reads_are_in_flight_than_both_sides_agreed() {
    let mut pair = NetPair::with(|attrs| attrs.max_rd_atomic = 2);
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    for i in 0..8 {
        pair.a
            .qp
            .post_quietly(&pair.net.a, SendWr::read(i, &[pair.a.sge(0, 8)], there, rkey));
    }
    pair.a.qp.ring(&pair.net.a);
    pair.net.run();
    let mut open = 0i32;
    for (opcode, _) in pair.seen() {
        open += if opcode == P::RC_READ_REQUEST { 1 } else { -1 };
        assert!((0..=2).contains(&open), "{open} READs in flight");
    }
    assert_eq!(pair.a.cq.drain(&pair.net.a).len(), 8);
}

#[test]
fn h05_packet_a_long_read_is_answered_in_order_with_what_comes_behind_it() {
    let mut pair = NetPair::connected();
    let data = pattern(1 << 20);
    pair.b.fill(&mut pair.net.b, 0, &data);
    let rkey = pair.b.rkey();
    pair.b.post_recv(&mut pair.net.b, 50, 0x10_0000, 64);
    let read = SendWr::read(1, &[pair.a.sge(0, 1 << 20)], pair.b.addr(0), rkey);
    pair.a.qp.post_quietly(&pair.net.a, read);
    // It overwrites what is being read: executed in order, the READ has the old bytes.
    let write = SendWr::write(2, &[pair.a.sge(0x18_0000, 4096)], pair.b.addr(0xf_0000), rkey);
    pair.a.qp.post_quietly(&pair.net.a, write);
    pair.a.post(&mut pair.net.a, SendWr::send(3, &[]));
    pair.net.run();
    for wr_id in 1..=3 {
        let cqe = pair.a.completion(&pair.net.a);
        assert_eq!((cqe.wr_id, cqe.status), (wr_id, 0));
    }
    assert_eq!(pair.a.bytes(&pair.net.a, 0, 1 << 20), data);
    assert_eq!(pair.b.bytes(&pair.net.b, 0xf_0000, 4096), [0; 4096]);
    assert_eq!(pair.b.completion(&pair.net.b).wr_id, 50);
    assert_eq!(pair.a.guest.counter(&mut pair.net.a, "ack_timeouts"), 0);
}

#[test]
fn h10_packet_a_peer_without_receives_is_asked_again_after_its_time() {
    let mut pair = NetPair::connected();
    pair.a.post(&mut pair.net.a, SendWr::send(1, &[pair.a.sge(0, 2000)]));
    pair.a.post(&mut pair.net.a, SendWr::send(2, &[]));
    pair.net.run();
    // The code 12 stands for 640 us. What was sent behind is dropped without a word.
    let acks = |pair: &mut NetPair| {
        let seen = pair.seen();
        seen.into_iter()
            .filter(|(opcode, _)| *opcode == P::RC_ACKNOWLEDGE)
            .collect::<Vec<_>>()
    };
    assert_eq!(acks(&mut pair), [(P::RC_ACKNOWLEDGE, psn(0))]);
    pair.net.advance(Duration::from_micros(639));
    assert_eq!(pair.seen(), []);
    pair.b.post_recv(&mut pair.net.b, 50, 0, 4096);
    pair.b.post_recv(&mut pair.net.b, 51, 0, 4096);
    pair.net.advance(Duration::from_micros(1));
    assert_eq!(acks(&mut pair), [(P::RC_ACKNOWLEDGE, psn(2))]);
    assert_eq!(pair.a.completion(&pair.net.a).wr_id, 1);
    assert_eq!(pair.a.completion(&pair.net.a).wr_id, 2);
    assert_eq!(pair.b.guest.counter(&mut pair.net.b, "send_rnr_err"), 1);
    assert_eq!(pair.a.guest.counter(&mut pair.net.a, "rcvd_rnr_err"), 1);
    assert_eq!(pair.a.guest.counter(&mut pair.net.a, "retransmitted_pkts"), 3);
}

#[test]
fn h10_packet_a_refused_request_ends_what_is_behind_it_and_nothing_before() {
    let mut pair = NetPair::connected();
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    pair.a.fill(&mut pair.net.a, 0, b"good");
    let sge = pair.a.sge(0, 4);
    let good = |wr_id, at| SendWr::write(wr_id, &[sge], there + at, rkey);
    pair.a.qp.post_quietly(&pair.net.a, good(1, 0));
    pair.a
        .qp
        .post_quietly(&pair.net.a, SendWr::write(2, &[sge], there, Key(rkey.0 ^ 1)));
    pair.a.post(&mut pair.net.a, good(3, 8));
    pair.net.run();
    let ends: Vec<_> = pair
        .a
        .cq
        .drain(&pair.net.a)
        .iter()
        .map(|cqe| (cqe.wr_id, Status(cqe.status)))
        .collect();
    assert_eq!(
        ends,
        [
            (1, Status::SUCCESS),
            (2, Status::REM_ACCESS_ERR),
            (3, Status::WR_FLUSH_ERR)
        ]
    );
    assert_eq!(pair.b.bytes(&pair.net.b, 0, 12), b"good\0\0\0\0\0\0\0\0");
}

#[test]
fn h10_packet_a_bad_entry_waits_for_those_before_it() {
    let mut pair = NetPair::connected();
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    let mut foreign = pair.a.sge(0, 8);
    foreign.lkey = Key(foreign.lkey.0 ^ 1);
    pair.a
        .qp
        .post_quietly(&pair.net.a, SendWr::read(1, &[pair.a.sge(0, 3000)], there, rkey));
    pair.a
        .qp
        .post_quietly(&pair.net.a, SendWr::write(2, &[foreign], there, rkey));
    pair.a.post(&mut pair.net.a, SendWr::write(3, &[], there, rkey));
    pair.net.run();
    let ends: Vec<_> = pair
        .a
        .cq
        .drain(&pair.net.a)
        .iter()
        .map(|cqe| (cqe.wr_id, Status(cqe.status)))
        .collect();
    assert_eq!(
        ends,
        [
            (1, Status::SUCCESS),
            (2, Status::LOC_PROT_ERR),
            (3, Status::WR_FLUSH_ERR)
        ]
    );
    assert!(
        pair.seen().iter().all(|(opcode, _)| *opcode != P::RC_WRITE_ONLY),
        "none of them left"
    );
}
