// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes over the link when packets are lost, late, doubled or broken, one at a time.

use core::time::Duration;
use verbena_engine::inspect::Stage;
use verbena_engine::testing::{Fate, Faults, NetPair, SendWr};
use verbena_hw::admin::Opcode as Admin;
use verbena_hw::cqe::Status;
use verbena_hw::id::Psn;
use verbena_hw::qp::{access, attr, QpAttrs, QpState};
use verbena_hw::wire::PacketOpcode as P;
use verbena_hw::wqe::{flush, FlushArgs};

/// The transport timeout of the usual attributes: 4.096 us * 2^14.
const TIMEOUT: Duration = Duration::from_nanos(4096 << 14);

/// The PSN that is `n` behind the first of a's.
fn psn(n: u32) -> u32 {
    Psn::truncate(0xff_fffe).add(n).get()
}

fn counter(pair: &mut NetPair, name: &str) -> (u64, u64) {
    let a = pair.a.guest.counter(&mut pair.net.a, name);
    (a, pair.b.guest.counter(&mut pair.net.b, name))
}

/// Posts a SEND of `len` bytes that has a receive.
fn send(pair: &mut NetPair, wr_id: u64, len: u32) {
    pair.b.post_recv(&mut pair.net.b, 100 + wr_id, 0x8000, 8192);
    let wr = SendWr::send(wr_id, &[pair.a.sge(0, len)]);
    pair.a.post(&mut pair.net.a, wr);
}

/// That a's messages 1 to `n` have succeeded, and nothing else has happened.
fn succeeded(pair: &mut NetPair, n: u64) {
    for wr_id in 1..=n {
        let cqe = pair.a.completion(&pair.net.a);
        assert_eq!((cqe.wr_id, Status(cqe.status)), (wr_id, Status::SUCCESS));
    }
    pair.a.nothing(&pair.net.a);
}

#[test]
fn h10_packet_a_gap_is_told_once_and_sent_again_at_once() {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(P::RC_SEND_MIDDLE, Fate::Lost)];
    send(&mut pair, 1, 5000);
    pair.net.run();
    let nak = (P::RC_ACKNOWLEDGE, psn(1));
    let seen = pair.seen();
    let at = seen
        .iter()
        .position(|packet| *packet == nak)
        .expect("a NAK of the second packet");
    assert_eq!(seen.iter().filter(|packet| **packet == nak).count(), 1, "{seen:?}");
    assert_eq!(seen[at + 1], (P::RC_SEND_MIDDLE, psn(1)));
    succeeded(&mut pair, 1);
    assert_eq!(pair.b.completion(&pair.net.b).byte_len, 5000);
    pair.b.nothing(&pair.net.b);
    assert_eq!(counter(&mut pair, "rcvd_seq_err"), (1, 0));
    assert_eq!(counter(&mut pair, "out_of_seq_request"), (0, 3));
    assert_eq!(counter(&mut pair, "retransmitted_pkts"), (4, 0));
    assert_eq!(counter(&mut pair, "ack_timeouts"), (0, 0));
}

#[test]
fn h10_packet_what_is_lost_at_the_end_is_sent_again_after_the_timeout() {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(P::RC_SEND_LAST, Fate::Lost)];
    send(&mut pair, 1, 2000);
    pair.net.advance(TIMEOUT - Duration::from_nanos(1));
    assert_eq!(pair.seen().len(), 2);
    pair.a.nothing(&pair.net.a);
    pair.net.advance(Duration::from_nanos(1));
    // From the oldest on that is not acknowledged, which is all of it: the first packet asked for nothing.
    let again = [
        (P::RC_SEND_FIRST, psn(0)),
        (P::RC_SEND_LAST, psn(1)),
        (P::RC_ACKNOWLEDGE, psn(1)),
    ];
    let seen = pair.seen();
    assert!(again.iter().all(|packet| seen.contains(packet)), "{seen:?}");
    succeeded(&mut pair, 1);
    assert_eq!(pair.b.completion(&pair.net.b).byte_len, 2000);
    pair.b.nothing(&pair.net.b);
    assert_eq!(counter(&mut pair, "ack_timeouts"), (1, 0));
}

#[test]
fn h10_packet_a_lost_acknowledgement_does_not_deliver_twice() {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(P::RC_ACKNOWLEDGE, Fate::Lost)];
    send(&mut pair, 1, 10);
    pair.net.run();
    assert_eq!(pair.b.completion(&pair.net.b).wr_id, 101);
    pair.b.post_recv(&mut pair.net.b, 50, 0, 64);
    pair.a.nothing(&pair.net.a);
    pair.net.advance(TIMEOUT);
    succeeded(&mut pair, 1);
    pair.b.nothing(&pair.net.b);
    assert_eq!(counter(&mut pair, "duplicate_request"), (0, 1));
}

#[test]
fn h10_packet_a_lost_acknowledgement_is_made_good_by_a_later_one() {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(P::RC_ACKNOWLEDGE, Fate::Lost)];
    send(&mut pair, 1, 10);
    pair.net.run();
    send(&mut pair, 2, 10);
    pair.net.run();
    succeeded(&mut pair, 2);
    assert_eq!(counter(&mut pair, "retransmitted_pkts"), (0, 0));
}

#[test]
fn h10_packet_a_read_goes_on_where_its_answer_was_lost() {
    let mut pair = NetPair::connected();
    let data: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
    pair.b.fill(&mut pair.net.b, 0, &data);
    pair.net.link.fates = vec![(P::RC_READ_RESPONSE_MIDDLE, Fate::Lost)];
    let wr = SendWr::read(1, &[pair.a.sge(0, 5000)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(&mut pair.net.a, wr);
    pair.net.run();
    let asked: Vec<_> = pair
        .seen()
        .into_iter()
        .filter(|(opcode, _)| *opcode == P::RC_READ_REQUEST)
        .collect();
    assert_eq!(asked, [(P::RC_READ_REQUEST, psn(0)), (P::RC_READ_REQUEST, psn(1))]);
    succeeded(&mut pair, 1);
    assert_eq!(pair.a.bytes(&pair.net.a, 0, 5000), data);
}

#[test]
fn h10_packet_an_atomic_is_executed_once_however_often_it_is_asked_for() {
    let mut pair = NetPair::connected();
    pair.b.fill(&mut pair.net.b, 0, &7u64.to_le_bytes());
    pair.net.link.fates = vec![
        (P::RC_ATOMIC_ACKNOWLEDGE, Fate::Lost),
        (P::RC_ATOMIC_ACKNOWLEDGE, Fate::Lost),
        (P::RC_FETCH_ADD, Fate::Twice(Duration::from_micros(1))),
    ];
    let wr = SendWr::fetch_add(1, pair.a.sge(0, 8), pair.b.addr(0), pair.b.rkey(), 5);
    pair.a.post(&mut pair.net.a, wr);
    pair.net.advance(2 * TIMEOUT);
    succeeded(&mut pair, 1);
    assert_eq!(pair.b.bytes(&pair.net.b, 0, 8), 12u64.to_le_bytes());
    assert_eq!(pair.a.bytes(&pair.net.a, 0, 8), 7u64.to_le_bytes());
}

#[test]
fn h10_packet_an_atomic_write_does_not_undo_what_came_after_it() {
    let mut pair = NetPair::connected();
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    pair.a.fill(&mut pair.net.a, 0, b"firstone");
    pair.net.link.fates = vec![(P::RC_READ_RESPONSE_ONLY, Fate::Lost)];
    pair.a.post(
        &mut pair.net.a,
        SendWr::atomic_write(1, &[pair.a.sge(0, 8)], there, rkey),
    );
    pair.net.run();
    assert_eq!(pair.b.bytes(&pair.net.b, 0, 8), b"firstone");
    pair.b.fill(&mut pair.net.b, 0, b"later on");
    pair.net.advance(TIMEOUT);
    succeeded(&mut pair, 1);
    assert_eq!(pair.b.bytes(&pair.net.b, 0, 8), b"later on");
}

#[test]
fn h10_packet_a_lost_answer_to_a_flush_is_given_again() {
    let mut pair = NetPair::connected();
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::FLUSH_GLOBAL;
    let at = pair.b.addr(0);
    let mr = pair.b.guest.mr(&mut pair.net.b, at, 4096, rights).expect("a region");
    pair.net.link.fates = vec![(P::RC_READ_RESPONSE_ONLY, Fate::Lost)];
    let args = FlushArgs {
        len: 64,
        placement: flush::GLOBAL,
        level: flush::RANGE,
    };
    pair.a.post(&mut pair.net.a, SendWr::flush(1, at, mr.rkey, args));
    pair.net.advance(TIMEOUT);
    succeeded(&mut pair, 1);
}

#[test]
fn h10_packet_an_acknowledgement_behind_a_missing_answer_asks_for_it_again() {
    let mut pair = NetPair::connected();
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    pair.net.link.fates = vec![(P::RC_ATOMIC_ACKNOWLEDGE, Fate::Lost)];
    pair.a
        .qp
        .post_quietly(&pair.net.a, SendWr::fetch_add(1, pair.a.sge(0, 8), there, rkey, 1));
    pair.a.post(&mut pair.net.a, SendWr::write(2, &[], there, rkey));
    pair.net.run();
    // Without a timeout.
    succeeded(&mut pair, 2);
    assert_eq!(counter(&mut pair, "ack_timeouts"), (0, 0));
    assert_eq!(pair.b.bytes(&pair.net.b, 0, 8), 1u64.to_le_bytes());
}

#[test]
fn h10_packet_silence_ends_in_retry_exceeded() {
    let mut pair = NetPair::connected();
    pair.net.link.faults = Faults {
        lose: 1000,
        ..Faults::default()
    };
    send(&mut pair, 1, 10);
    pair.a.post(&mut pair.net.a, SendWr::send(2, &[]));
    pair.net.advance(4 * TIMEOUT - Duration::from_nanos(1));
    pair.a.nothing(&pair.net.a);
    pair.net.advance(Duration::from_nanos(1));
    let ends = pair.a.cq.drain(&pair.net.a);
    let ends: Vec<_> = ends.iter().map(|cqe| (cqe.wr_id, Status(cqe.status))).collect();
    assert_eq!(ends, [(1, Status::RETRY_EXC_ERR), (2, Status::WR_FLUSH_ERR)]);
    assert_eq!(pair.a.guest.state(&mut pair.net.a, pair.a.qp.qpn), QpState::ERR);
    assert_eq!(counter(&mut pair, "retry_exceeded_err"), (1, 0));
    assert_eq!(counter(&mut pair, "ack_timeouts"), (4, 0));
}

#[test]
fn h15_packet_the_dump_shows_what_is_under_way() {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(P::RC_ACKNOWLEDGE, Fate::Lost)];
    let (there, rkey) = (pair.b.addr(0), pair.b.rkey());
    pair.a
        .post(&mut pair.net.a, SendWr::read(1, &[pair.a.sge(0, 8)], there, rkey));
    pair.net.run();
    send(&mut pair, 2, 2000);
    pair.net.run();
    let qp = |dump: verbena_engine::Dump| dump.hcas[0].qps[0].packets.clone().expect("a connection over packets");
    let now = pair.net.now();
    let (a, b) = (
        qp(pair.net.a.engine.dump(None, now, &pair.net.a.env)),
        qp(pair.net.b.engine.dump(None, now, &pair.net.b.env)),
    );
    assert_eq!((a.messages, a.oldest_psn, a.sent, a.ever_sent), (1, psn(1), 2, 2));
    assert_eq!((b.messages, b.answers), (0, 1));

    // The SEND is taken and not acknowledged; one more is posted, and nobody has told the device.
    pair.a.qp.post_quietly(&pair.net.a, SendWr::send(3, &[]));
    let (hca, qpn) = (pair.a.guest.hca, pair.a.qp.qpn.get());
    let report = pair.net.a.engine.inspect_qp(hca, qpn, 8, now, &pair.net.a.env);
    let sends = report.expect("the queue pair is there").sends;
    let stages: Vec<_> = sends.iter().map(|entry| (entry.wr_id, entry.stage)).collect();
    assert_eq!(stages, [(1, Stage::Done), (2, Stage::InFlight), (3, Stage::Posted)]);
}

#[test]
fn h10_packet_progress_gives_the_retries_back() {
    let mut pair = NetPair::connected();
    pair.net.link.faults.lose = 0;
    for wr_id in 1..=6 {
        // Three times in a row, which is all that there are, for each.
        pair.net.link.fates = vec![(P::RC_SEND_ONLY, Fate::Lost); 3];
        send(&mut pair, wr_id, 10);
        pair.net.advance(3 * TIMEOUT);
    }
    succeeded(&mut pair, 6);
}

#[test]
fn h10_packet_a_broken_packet_is_dropped_and_counted() {
    for bit in [4, 8 * 20, 8 * 53 + 3, 8 * 58, 8 * 60 + 5, 8 * 64 + 1, 8 * 75 + 7] {
        let mut pair = NetPair::connected();
        pair.a.fill(&mut pair.net.a, 0, b"0123456789ab");
        pair.net.link.fates = vec![(P::RC_SEND_ONLY, Fate::Turned(bit))];
        send(&mut pair, 1, 12);
        pair.net.run();
        pair.b.nothing(&pair.net.b);
        pair.net.advance(TIMEOUT);
        succeeded(&mut pair, 1);
        assert_eq!(pair.b.bytes(&pair.net.b, 0x8000, 12), b"0123456789ab");
        // What is not IP is for nobody.
        let expected = if bit == 4 { 0 } else { 1 };
        let dropped = counter(&mut pair, "icrc_errors").1 + counter(&mut pair, "dropped_malformed").1;
        assert_eq!(dropped, expected, "bit {bit}");
    }
}

#[test]
fn h10_packet_an_overtaken_packet_is_not_missed_for_long() {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(P::RC_SEND_MIDDLE, Fate::Late(Duration::from_micros(5)))];
    send(&mut pair, 1, 3000);
    send(&mut pair, 2, 30);
    pair.net.advance(Duration::from_micros(10));
    succeeded(&mut pair, 2);
    assert_eq!(pair.b.completion(&pair.net.b).byte_len, 3000);
    assert_eq!(pair.b.completion(&pair.net.b).byte_len, 30);
    pair.b.nothing(&pair.net.b);
}

#[test]
fn h10_packet_an_echo_of_a_read_is_harmless_when_its_region_is_gone() {
    let mut pair = NetPair::connected();
    let at = pair.b.addr(0);
    let mr = pair
        .b
        .guest
        .mr(&mut pair.net.b, at, 4096, access::REMOTE_READ)
        .expect("a region");
    let late = Duration::from_millis(1);
    pair.net.link.fates = vec![(P::RC_READ_REQUEST, Fate::Twice(late))];
    pair.a
        .post(&mut pair.net.a, SendWr::read(1, &[pair.a.sge(0, 8)], at, mr.rkey));
    pair.net.run();
    succeeded(&mut pair, 1);
    pair.b
        .guest
        .destroy(&mut pair.net.b, Admin::DESTROY_MR, mr.rkey.index())
        .expect("nobody uses it");
    pair.net.advance(late);
    assert_eq!(counter(&mut pair, "duplicate_request"), (0, 1));
    assert_eq!(pair.b.guest.state(&mut pair.net.b, pair.b.qp.qpn), QpState::RTS);
    send(&mut pair, 1, 10);
    pair.net.run();
    succeeded(&mut pair, 1);
}

#[test]
fn h10_packet_a_receiver_that_goes_after_its_completion_has_acknowledged() {
    let mut pair = NetPair::connected();
    send(&mut pair, 1, 10);
    // The request leaves a and arrives at b, and b's driver is faster than b's next turn.
    pair.net.a.poll();
    while let Some(packet) = pair.net.a.engine.transmit() {
        pair.net
            .b
            .engine
            .receive(&packet.bytes, pair.net.b.now, &pair.net.b.env);
    }
    assert_eq!(pair.b.completion(&pair.net.b).wr_id, 101);
    pair.b
        .guest
        .destroy(&mut pair.net.b, Admin::DESTROY_QP, pair.b.qp.qpn.get())
        .expect("nobody uses it");
    pair.net.run();
    succeeded(&mut pair, 1);
}

#[test]
fn h04_packet_what_a_rate_limit_holds_back_does_not_time_out() {
    let mut pair = NetPair::connected();
    // A byte a millisecond: a packet of these takes as long as many timeouts.
    let slow = QpAttrs {
        rate_limit: 8,
        max_burst: 1000,
        typical_packet: 1000,
        ..QpAttrs::default()
    };
    let qpn = pair.a.qp.qpn;
    pair.a
        .guest
        .modify(&mut pair.net.a, qpn, attr::RATE_LIMIT, slow)
        .expect("a limit");
    pair.net.link.fates = vec![(P::RC_SEND_ONLY, Fate::Lost)];
    send(&mut pair, 1, 1000);
    send(&mut pair, 2, 1000);
    pair.net.advance(Duration::from_millis(999));
    assert_eq!(pair.seen(), [(P::RC_SEND_ONLY, psn(0))]);
    pair.net.advance(Duration::from_secs(1));
    assert_eq!(counter(&mut pair, "ack_timeouts"), (1, 0));
    let cqe = pair.a.completion(&pair.net.a);
    assert_eq!((cqe.wr_id, Status(cqe.status)), (1, Status::SUCCESS));
    pair.a.nothing(&pair.net.a);
    pair.net.advance(Duration::from_millis(1));
    assert_eq!(pair.a.completion(&pair.net.a).wr_id, 2);
}
