// SPDX-License-Identifier: MIT OR Apache-2.0
//! H11: every counter of the port is moved here on purpose: one that is added to the format fails this until it has a scenario.

use crate::{datagrams, way};
use core::time::Duration;
use std::collections::BTreeSet;
use verbena_engine::testing::{attrs, seal, End, Fate, Guest, NetPair, Pair, QpShape, RecvWr, SendWr, World};
use verbena_hw::admin::Opcode as Admin;
use verbena_hw::cmd::{CreateFlowReq, ModifyPortReq, COUNTERS};
use verbena_hw::flow::{flags, FlowType};
use verbena_hw::id::{Gid, Key, Qpn};
use verbena_hw::qp::{access, QpState, QpType, GSI_QKEY};
use verbena_hw::regs;
use verbena_hw::wire::PacketOpcode as P;
use zerocopy::FromZeros;

/// A counter, and what makes it count; its value then.
type Moved = (&'static str, fn(&str) -> u64);

/// Longer than a transport timeout of the usual attributes, and than all of them.
const TIMEOUT: Duration = Duration::from_millis(70);
const FOR_GOOD: Duration = Duration::from_secs(2);

const MOVED: &[Moved] = &[
    ("sent_msgs", |name| at_a(name, write)),
    ("rcvd_msgs", |name| at_b(name, write)),
    ("sent_bytes", |name| at_a(name, write)),
    ("rcvd_bytes", |name| at_b(name, write)),
    ("sent_reads", |name| {
        at_a(name, |pair| {
            let (addr, rkey) = (pair.b.addr(0), pair.b.rkey());
            SendWr::read(1, &[pair.a.sge(0, 8)], addr, rkey)
        })
    }),
    ("rcvd_rnr_err", |name| at_a(name, unexpected)),
    ("send_rnr_err", |name| at_b(name, unexpected)),
    ("ack_timeouts", |name| faulty(name, true, P::RC_SEND_LAST, Fate::Lost)),
    ("retry_exceeded_err", |name| at_a(name, to_nobody)),
    ("retry_rnr_exceeded_err", |name| at_a(name, unexpected)),
    ("completion_err", |name| at_a(name, wrong_key)),
    ("access_err", |name| at_b(name, wrong_key)),
    ("invalid_req_err", |name| {
        at_b(name, |pair| {
            SendWr::fetch_add(1, pair.a.sge(0, 8), pair.b.addr(4), pair.b.rkey(), 1)
        })
    }),
    ("flushed_wrs", |name| {
        at_a(name, |pair| {
            let qpn = pair.a.qp.qpn;
            let failed = pair.a.guest.modify_state(&mut pair.world, qpn, QpState::ERR);
            failed.expect("ERR");
            write(pair)
        })
    }),
    ("doorbells_trapped", |name| {
        let mut pair = way::connected();
        pair.a.qp.ring_register(&mut pair.world);
        pair.a.guest.counter(&mut pair.world, name)
    }),
    ("cq_overruns", |name| {
        let mut pair = way::pair(QpShape::default(), 1, |_| {});
        for _ in 0..3 {
            let wr = write(&mut pair);
            pair.a.post(&mut pair.world, wr);
        }
        pair.world.run();
        pair.a.guest.counter(&mut pair.world, name)
    }),
    ("dropped_unreachable", |name| {
        datagram(
            World::new(1),
            name,
            true,
            |args| args.path.dgid = Gid::link_local([2; 6]),
            8,
        )
    }),
    ("dropped_no_qp", |name| {
        datagram(
            way::world(1),
            name,
            false,
            |args| args.dest_qpn = Qpn::truncate(0x1234),
            8,
        )
    }),
    ("dropped_no_receive", |name| {
        datagram(way::world(1), name, false, |_| {}, 8)
    }),
    ("dropped_length", |name| {
        let mut w = way::world(1);
        let mut ends = [(); 2].map(|()| datagrams::end_with(&mut w, QpType::GSI, GSI_QKEY));
        let [a, b] = &mut ends;
        let mut args = datagrams::address(b.guest.gid(), Qpn::GSI);
        args.qkey = GSI_QKEY;
        // A management datagram has 256 bytes.
        a.post(&mut w, SendWr::send(1, &[a.sge(0, 255)]).to(args));
        w.run();
        b.guest.counter(&mut w, name)
    }),
    ("qkey_violations", |name| {
        datagram(way::world(1), name, false, |args| args.qkey = 1, 8)
    }),
    ("sent_too_long", |name| {
        datagram(way::world(1), name, true, |_| {}, 5000)
    }),
    ("sent_pkts", |name| at_a(name, write)),
    ("rcvd_pkts", |name| at_b(name, write)),
    ("retransmitted_pkts", |name| {
        faulty(name, true, P::RC_SEND_LAST, Fate::Lost)
    }),
    ("duplicate_request", |name| {
        faulty(name, false, P::RC_SEND_LAST, Fate::Twice(Duration::from_micros(9)))
    }),
    ("out_of_seq_request", |name| {
        faulty(name, false, P::RC_SEND_FIRST, Fate::Lost)
    }),
    ("rcvd_seq_err", |name| faulty(name, true, P::RC_SEND_FIRST, Fate::Lost)),
    ("icrc_errors", |name| {
        faulty(name, false, P::RC_SEND_LAST, Fate::Turned(8 * 70))
    }),
    ("dropped_malformed", |name| {
        altered(name, |bytes| bytes[48] = P::RC_SEND_LAST.0 | 0x1f)
    }),
    ("sent_frames", |name| frame(name, true, None)),
    ("rcvd_frames", |name| frame(name, false, Some(0))),
    ("dropped_no_rule", |name| frame(name, false, None)),
    ("dropped_by_rule", |name| frame(name, false, Some(flags::DROP))),
    ("ack_deferred", |name| {
        let mut pair = way::connected();
        for n in 0..3 {
            pair.b.post_recv(&mut pair.world, n, 0, 64);
            let wr = SendWr::send(n, &[pair.a.sge(0, 8)]);
            pair.a.qp.post_quietly(&pair.world, wr);
        }
        pair.a.qp.ring(&pair.world);
        pair.world.run();
        assert_eq!(pair.a.cq.drain(&pair.world).len(), 3);
        pair.b.guest.counter(&mut pair.world, name)
    }),
    ("completer_retry_err", |name| at_a(name, to_nobody)),
    ("send_err", |name| at_a(name, off)),
    ("link_downed", |name| at_a(name, off)),
    ("rdma_sends", |name| at_a(name, expected)),
    ("rdma_recvs", |name| at_b(name, expected)),
    ("pkey_violations", |name| {
        altered(name, |bytes| bytes[50..52].copy_from_slice(&[0x80, 1]))
    }),
];

fn write(pair: &mut Pair) -> SendWr {
    SendWr::write(1, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey())
}

fn wrong_key(pair: &mut Pair) -> SendWr {
    SendWr::write(1, &[pair.a.sge(0, 8)], pair.b.addr(0), Key(pair.b.rkey().0 ^ 0x55))
}

fn unexpected(pair: &mut Pair) -> SendWr {
    SendWr::send(1, &[pair.a.sge(0, 8)])
}

fn expected(pair: &mut Pair) -> SendWr {
    pair.b.post_recv(&mut pair.world, 1, 0, 64);
    unexpected(pair)
}

fn to_nobody(pair: &mut Pair) -> SendWr {
    let qpn = pair.b.qp.qpn.get();
    let gone = pair.b.guest.destroy(&mut pair.world, Admin::DESTROY_QP, qpn);
    gone.expect("gone");
    write(pair)
}

fn off(pair: &mut Pair) -> SendWr {
    let req = ModifyPortReq {
        state: regs::PORT_DOWN,
        reserved: 0,
    };
    let done = pair
        .a
        .guest
        .command::<[u8; 0]>(&mut pair.world, Admin::MODIFY_PORT, &req);
    done.expect("off");
    write(pair)
}

fn done(make: fn(&mut Pair) -> SendWr) -> Pair {
    let mut pair = way::connected();
    let wr = make(&mut pair);
    pair.a.post(&mut pair.world, wr);
    pair.world.advance(FOR_GOOD);
    pair
}

fn at_a(name: &str, make: fn(&mut Pair) -> SendWr) -> u64 {
    let mut pair = done(make);
    pair.a.guest.counter(&mut pair.world, name)
}

fn at_b(name: &str, make: fn(&mut Pair) -> SendWr) -> u64 {
    let mut pair = done(make);
    pair.b.guest.counter(&mut pair.world, name)
}

/// a's SEND of two packets meets a link with a fault; what a or b counts.
fn faulty(name: &str, a: bool, opcode: P, fate: Fate) -> u64 {
    let mut pair = NetPair::connected();
    pair.net.link.fates = vec![(opcode, fate)];
    pair.b.post_recv(&mut pair.net.b, 1, 0x8000, 4096);
    let wr = SendWr::send(1, &[pair.a.sge(0, 2000)]);
    pair.a.post(&mut pair.net.a, wr);
    pair.net.advance(TIMEOUT);
    assert_eq!(pair.a.completion(&pair.net.a).status, 0, "it arrives all the same");
    if a {
        pair.a.guest.counter(&mut pair.net.a, name)
    } else {
        pair.b.guest.counter(&mut pair.net.b, name)
    }
}

/// What b counts of a's packet that was changed on its way, with an ICRC that is right again.
fn altered(name: &str, change: fn(&mut [u8])) -> u64 {
    let mut pair = NetPair::connected();
    let wr = SendWr::send(1, &[pair.a.sge(0, 8)]);
    pair.a.post(&mut pair.net.a, wr);
    pair.net.a.run();
    let mut bytes = pair.net.a.engine.transmit().expect("a packet").bytes;
    change(&mut bytes);
    seal(&mut bytes);
    let w = &mut pair.net.b;
    w.engine.receive(&bytes, w.now, &w.env);
    pair.b.guest.counter(w, name)
}

/// What a datagram makes its sender or its receiver count.
fn datagram(mut w: World, name: &str, sender: bool, spoil: fn(&mut verbena_hw::wqe::UdArgs), len: u32) -> u64 {
    let (mut a, mut b) = (datagrams::end(&mut w), datagrams::end(&mut w));
    let mut args = datagrams::to(&b);
    spoil(&mut args);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, len)]).to(args));
    w.run();
    let guest = if sender { &mut a.guest } else { &mut b.guest };
    guest.counter(&mut w, name)
}

/// A guest with a raw Ethernet queue pair.
fn raw(w: &mut World) -> End {
    let mut guest = Guest::start(w, 4 << 20);
    let cq = guest.cq(w, 4);
    let mut req = guest.qp_request(w, &cq, &cq, QpShape::default());
    req.qp_type = QpType::RAW;
    let qp = guest.create_qp(w, &req).expect("a queue pair");
    for (mask, attrs) in attrs::raw() {
        guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
    }
    let buffer = w.ram_mut(guest.hca).alloc(1 << 16);
    let mr = guest.mr(w, buffer, 1 << 16, access::LOCAL_WRITE).expect("a region");
    End { guest, cq, qp, mr }
}

/// What a frame makes its sender or its receiver count, which has a rule with these flags.
fn frame(name: &str, sender: bool, rule: Option<u8>) -> u64 {
    let mut w = World::new(1);
    let (mut a, mut b) = (raw(&mut w), raw(&mut w));
    if let Some(flags) = rule {
        let drops = flags & flags::DROP != 0;
        let mut req = CreateFlowReq {
            qpn: if drops { Qpn::truncate(0) } else { b.qp.qpn },
            flow_type: FlowType::NORMAL,
            port: 1,
            flags,
            ..CreateFlowReq::new_zeroed()
        };
        (req.value.ethertype, req.mask.ethertype) = ([0x88, 0xb5], [0xff; 2]);
        b.guest.create(&mut w, Admin::CREATE_FLOW, &req).expect("a rule");
    }
    let sge = b.sge(0, 2000);
    b.qp.post_recv(&w, RecvWr::new(1, &[sge]));
    let bytes = [&w.mac(b.guest.hca)[..], &w.mac(a.guest.hca), &[0x88, 0xb5], &[7; 50]].concat();
    a.fill(&mut w, 0, &bytes);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, bytes.len() as u32)]));
    w.run();
    let guest = if sender { &mut a.guest } else { &mut b.guest };
    guest.counter(&mut w, name)
}

#[test]
fn h11_every_counter_is_moved_on_purpose() {
    for (name, moved) in MOVED {
        assert!(moved(name) > 0, "{name}");
    }
    let moved: BTreeSet<_> = MOVED.iter().map(|row| row.0).collect();
    assert_eq!(moved, COUNTERS.into_iter().collect(), "a counter is not moved");
}

#[test]
fn h11_the_port_has_the_counters_of_rxe_under_their_names() {
    // `rdma statistic show` for rxe (Linux, drivers/infiniband/sw/rxe/rxe_hw_counters.c).
    for name in [
        "sent_pkts",
        "rcvd_pkts",
        "duplicate_request",
        "out_of_seq_request",
        "rcvd_rnr_err",
        "send_rnr_err",
        "rcvd_seq_err",
        "ack_deferred",
        "retry_exceeded_err",
        "retry_rnr_exceeded_err",
        "completer_retry_err",
        "send_err",
        "link_downed",
        "rdma_sends",
        "rdma_recvs",
    ] {
        assert!(COUNTERS.contains(&name), "{name}");
    }
}
