// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4: send queues with a rate limit. At 8,000 kbit/s a byte takes a microsecond.

use crate::datagrams;
use crate::way;
use core::mem::offset_of;
use core::time::Duration;
use verbena_engine::testing::{attrs, End, Failed, Pair, QpShape, RecvWr, SendWr, World};
use verbena_hw::admin::{Opcode as Admin, Status as Refused};
use verbena_hw::cmd::{ModifyQpReq, QueryDeviceRsp};
use verbena_hw::eqe::Event;
use verbena_hw::qp::{attr, transition, QpAttrs, QpState, QpType, RATE_LIMIT_MAX};

const KBPS: u32 = 8_000;
const BURST: u32 = 16 << 10;
/// The path MTU of the connections.
const PACKET: u16 = 1024;
const MS: Duration = Duration::from_millis(1);

fn limited(rate_limit: u32, max_burst: u32, typical_packet: u16) -> QpAttrs {
    QpAttrs {
        rate_limit,
        max_burst,
        typical_packet,
        ..QpAttrs::default()
    }
}

fn set(w: &mut World, end: &mut End, attrs: QpAttrs) -> Result<(), Failed> {
    end.guest.modify(w, end.qp.qpn, attr::RATE_LIMIT, attrs)
}

fn slow(w: &mut World, end: &mut End) {
    set(w, end, limited(KBPS, BURST, PACKET)).expect("a limit");
}

/// Of so many bytes at the beginning of b's buffer, those that have arrived.
fn arrived(w: &World, b: &End, len: usize) -> usize {
    let bytes = b.bytes(w, 0, len);
    bytes.iter().position(|&byte| byte != 0xa5).unwrap_or(len)
}

/// Lets `len` bytes come that a has posted, and holds them against the rate, each millisecond.
fn watch(w: &mut World, b: &End, len: usize) {
    let mut ms = 0;
    w.run();
    loop {
        let found = arrived(w, b, len);
        let most = BURST as usize + 1000 * ms;
        assert!(found <= most.min(len), "{found} bytes after {ms} ms");
        assert!(
            found + 2 * usize::from(PACKET) >= most.min(len),
            "only {found} bytes after {ms} ms"
        );
        if found == len {
            return;
        }
        w.advance(MS);
        ms += 1;
    }
}

#[test]
fn h04_a_limited_queue_keeps_its_pace_within_and_between_messages() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    slow(w, &mut pair.a);
    pair.a.fill(w, 0, &vec![0xa5; 200_000]);
    // One of many packets.
    pair.b.fill(w, 0, &vec![0; 200_000]);
    let wr = SendWr::write(1, &[pair.a.sge(0, 100_000)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    watch(w, &pair.b, 100_000);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(pair.a.guest.counter(w, "ack_timeouts"), 0);
    // Many of one packet, when it has come to rest again.
    w.advance(100 * MS);
    pair.b.fill(w, 0, &vec![0; 200_000]);
    for i in 0..60 {
        let wr = SendWr::write(i, &[pair.a.sge(0, 1000)], pair.b.addr(1000 * i), pair.b.rkey());
        pair.a.post(w, wr);
    }
    watch(w, &pair.b, 60_000);
    w.run();
    assert_eq!(pair.a.cq.drain(w).len(), 60);
}

#[test]
fn h04_who_has_no_limit_does_not_wait_for_who_has() {
    let Pair {
        mut world,
        mut a,
        mut b,
    } = way::connected();
    let w = &mut world;
    let (mut other_a, mut other_b) = (End::new(w, QpShape::default(), 8), End::new(w, QpShape::default(), 8));
    let (to_a, to_b) = (
        (other_a.guest.gid(), other_a.qp.qpn),
        (other_b.guest.gid(), other_b.qp.qpn),
    );
    other_a.connect(w, to_b, (1, 1), |_| {});
    other_b.connect(w, to_a, (1, 1), |_| {});
    slow(w, &mut a);
    for (from, to) in [(&mut a, &b), (&mut other_a, &other_b)] {
        let wr = SendWr::write(1, &[from.sge(0, 1 << 20)], to.addr(0), to.rkey());
        from.post(w, wr);
    }
    // The way back is not limited either.
    b.post(w, SendWr::write(2, &[b.sge(0, 1 << 20)], a.addr(1 << 20), a.rkey()));
    w.run();
    a.nothing(w);
    assert_eq!(other_a.completion(w).status, 0);
    assert_eq!(b.completion(w).wr_id, 2);
    w.advance(1033 * MS);
    assert_eq!(a.completion(w).status, 0);
}

#[test]
fn h04_packets_without_data_count_as_the_shortest_frame() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    // 64 bytes a millisecond, one at a time. READs and their like are small, whatever comes back.
    set(w, &mut pair.a, limited(512, 64, 64)).expect("a limit");
    let (addr, rkey) = (pair.b.addr(0), pair.b.rkey());
    for i in 0..30 {
        pair.a.post(w, SendWr::write(2 * i, &[], addr, rkey));
        let read = SendWr::read(2 * i + 1, &[pair.a.sge(0, 8000)], addr, rkey);
        pair.a.post(w, read);
    }
    w.advance(58 * MS);
    assert_eq!(pair.a.cq.drain(w).len(), 59);
    pair.a.nothing(w);
    w.advance(MS);
    assert_eq!(pair.a.completion(w).wr_id, 59);
}

#[test]
fn h04_a_limit_can_be_changed_and_taken_away_while_it_holds() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    set(w, &mut pair.a, limited(1, 0, 0)).expect("the slowest");
    pair.a.fill(w, 0, &vec![0xa5; 200_000]);
    let wr = SendWr::write(1, &[pair.a.sge(0, 200_000)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.advance(100 * MS);
    // What is left to the device: sixteen of the port's packets, less what the last of them would need.
    let before = arrived(w, &pair.b, 200_000);
    assert!((15 * 4096..=16 * 4096).contains(&before), "{before}");
    slow(w, &mut pair.a);
    w.advance(MS);
    let more = arrived(w, &pair.b, 200_000) - before;
    let most = BURST as usize + 1000;
    assert!((most - usize::from(PACKET)..=most).contains(&more), "{more}");
    set(w, &mut pair.a, limited(0, 0, 0)).expect("no limit");
    w.run();
    assert_eq!(arrived(w, &pair.b, 200_000), 200_000);
    assert_eq!(pair.a.completion(w).status, 0);
}

#[test]
fn h04_a_limited_queue_drains_flushes_and_is_reset() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let qpn = pair.a.qp.qpn;
    slow(w, &mut pair.a);
    let write = |pair: &Pair, id| SendWr::write(id, &[pair.a.sge(0, 30_000)], pair.b.addr(0), pair.b.rkey());
    let (first, second) = (write(&pair, 1), write(&pair, 2));
    let w = &mut pair.world;
    pair.a.post(w, first);
    w.run();
    let sqd = QpAttrs {
        state: QpState::SQD.0,
        en_sqd_async_notify: 1,
        ..QpAttrs::default()
    };
    pair.a
        .guest
        .modify(w, qpn, attr::STATE | attr::EN_SQD_ASYNC_NOTIFY, sqd)
        .expect("SQD");
    w.advance(5 * MS);
    pair.a.nothing(w);
    assert!(pair.a.guest.events(w).is_empty(), "it is under way");
    w.advance(10 * MS);
    assert_eq!(pair.a.completion(w).wr_id, 1);
    assert_eq!(Event(pair.a.guest.events(w)[0].event), Event::SQ_DRAINED);
    let rts = QpAttrs {
        state: QpState::RTS.0,
        ..limited(KBPS, 2000, PACKET)
    };
    pair.a
        .guest
        .modify(w, qpn, attr::STATE | attr::RATE_LIMIT, rts)
        .expect("RTS");
    pair.a.post(w, second);
    w.run();
    pair.a.guest.modify_state(w, qpn, QpState::ERR).expect("ERR");
    w.run();
    assert_eq!(pair.a.completion(w).status, verbena_hw::cqe::Status::WR_FLUSH_ERR.0);
    pair.a.guest.modify_state(w, qpn, QpState::RESET).expect("RESET");
    assert_eq!(pair.a.guest.query_qp(w, qpn).attrs.rate_limit, 0);
    // Nobody waits for anything any more.
    assert_eq!(w.poll().next_deadline, None);
}

#[test]
fn h04_datagrams_have_a_pace() {
    let mut w = way::world(1);
    let (mut a, mut b) = (datagrams::end(&mut w), datagrams::end(&mut w));
    set(&mut w, &mut a, limited(KBPS, 2000, 1000)).expect("a limit");
    for i in 0..40 {
        b.qp.post_recv(&w, RecvWr::new(i, &[b.sge(0, 2000)]));
        a.post(&mut w, SendWr::send(i, &[a.sge(0, 1000)]).to(datagrams::to(&b)));
    }
    w.run();
    for ms in 0..=38 {
        assert_eq!(b.cq.drain(&w).len(), if ms == 0 { 2 } else { 1 }, "at {ms} ms");
        w.advance(MS);
    }
    b.nothing(&w);
    assert_eq!(a.cq.drain(&w).len(), 40);
}

#[test]
fn h04_unreliable_connections_have_a_pace() {
    let mut w = way::world(1);
    let mut ends = [(); 2].map(|()| {
        let mut end = End::new(&mut w, QpShape::default(), 8);
        let mut req = end.guest.qp_request(&mut w, &end.cq, &end.cq, QpShape::default());
        req.qp_type = QpType::UC;
        end.qp = end.guest.create_qp(&mut w, &req).expect("a queue pair");
        end
    });
    let places = ends.each_ref().map(|end| (end.guest.gid(), end.qp.qpn));
    for (end, (gid, qpn)) in ends.iter_mut().zip([places[1], places[0]]) {
        for (mask, attrs) in attrs::connection(QpType::UC, gid, qpn, (1, 1)) {
            end.guest.modify(&mut w, end.qp.qpn, mask, attrs).expect("a transition");
        }
    }
    let [mut a, b] = ends;
    slow(&mut w, &mut a);
    a.fill(&mut w, 0, &vec![0xa5; 100_000]);
    a.post(&mut w, SendWr::write(1, &[a.sge(0, 100_000)], b.addr(0), b.rkey()));
    watch(&mut w, &b, 100_000);
    w.run();
    assert_eq!(a.completion(&w).status, 0);
}

#[test]
fn h04_a_limit_is_checked_and_given_back() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let a = &mut pair.a;
    let qpn = a.qp.qpn;
    let device: QueryDeviceRsp = a.guest.command(w, Admin::QUERY_DEVICE, &[0u8; 0]).expect("a device");
    assert_eq!((device.rate_limit_min, device.rate_limit_max), (1, RATE_LIMIT_MAX));
    assert_eq!(a.guest.query_qp(w, qpn).attrs.rate_limit, 0);
    set(w, a, limited(RATE_LIMIT_MAX, 123, 45)).expect("the greatest");
    let now = a.guest.query_qp(w, qpn).attrs;
    assert_eq!(
        (now.rate_limit, now.max_burst, now.typical_packet),
        (RATE_LIMIT_MAX, 123, 45)
    );
    let refused = set(w, a, limited(RATE_LIMIT_MAX + 1, 0, 0)).unwrap_err();
    let at = offset_of!(ModifyQpReq, attrs) + offset_of!(QpAttrs, rate_limit);
    assert_eq!((refused.status, refused.detail), (Refused::BAD_FIELD, at as u32));
    assert_eq!(a.guest.query_qp(w, qpn).attrs.rate_limit, RATE_LIMIT_MAX);
    for kind in [
        QpType::RC,
        QpType::UC,
        QpType::UD,
        QpType::RAW,
        QpType::XRC_INI,
        QpType::XRC_TGT,
        QpType::GSI,
    ] {
        let sends = !matches!(kind, QpType::XRC_TGT | QpType::GSI);
        for (from, to, may) in [
            (QpState::RESET, QpState::INIT, false),
            (QpState::INIT, QpState::RTR, false),
            (QpState::RTR, QpState::RTS, sends),
            (QpState::RTS, QpState::RTS, sends),
            (QpState::SQD, QpState::RTS, sends),
        ] {
            let taken = transition(kind, from, to).map_or(0, |taken| taken.optional);
            assert_eq!(taken & attr::RATE_LIMIT != 0, may, "{kind}: {from} -> {to}");
        }
    }
}
