// SPDX-License-Identifier: MIT OR Apache-2.0
//! H9: datagrams, and the general services interface, which is QP 1.

use crate::way;
use proptest::prelude::*;
use verbena_engine::testing::{attrs, End, Guest, QpShape, RecvWr, SendWr, World};
use verbena_hw::admin::{Opcode, Status as Refused};
use verbena_hw::cmd::{ModifyPortReq, SetGidReq};
use verbena_hw::cqe::{flags, vendor, Cqe, Opcode as Of, Status};
use verbena_hw::eqe::Event;
use verbena_hw::grh::{self, Grh, Route};
use verbena_hw::id::{Gid, Key, Qpn};
use verbena_hw::qp::{access, attr, Path, QpAttrs, QpState, QpType, GSI_QKEY};
use verbena_hw::regs;
use verbena_hw::wqe::{send_flags, SendOpcode, UdArgs};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const QKEY: u32 = 0x1234_5678;
pub(crate) const GRH: u64 = grh::LEN as u64;

/// A guest with a queue pair of this type in RTS, a completion queue and a buffer.
pub(crate) fn end_with(w: &mut World, kind: QpType, qkey: u32) -> End {
    let mut guest = Guest::start(w, 16 << 20);
    let cq = guest.cq(w, 8);
    let mut req = guest.qp_request(w, &cq, &cq, QpShape::default());
    req.qp_type = kind;
    (req.max_send_sge, req.max_inline) = (8, 512);
    let qp = guest.create_qp(w, &req).expect("a queue pair");
    let buffer = w.ram_mut(guest.hca).alloc(1 << 20);
    let mr = guest.mr(w, buffer, 1 << 20, access::LOCAL_WRITE).expect("a region");
    for (mask, attrs) in attrs::datagram(kind, qkey) {
        guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
    }
    End { guest, cq, qp, mr }
}

pub(crate) fn end(w: &mut World) -> End {
    end_with(w, QpType::UD, QKEY)
}

fn two() -> (World, End, End) {
    let mut w = way::world(1);
    let (a, b) = (end(&mut w), end(&mut w));
    (w, a, b)
}

/// Where a work request has to go to reach a queue pair.
pub(crate) fn address(gid: Gid, qpn: Qpn) -> UdArgs {
    UdArgs {
        path: Path {
            dgid: gid,
            hop_limit: 64,
            port: 1,
            vlan: 0xffff,
            ..Path::default()
        },
        dest_qpn: qpn,
        qkey: QKEY,
        reserved: 0,
    }
}

pub(crate) fn to(end: &End) -> UdArgs {
    address(end.guest.gid(), end.qp.qpn)
}

/// Sends 8 bytes of `a`'s buffer; its completion.
fn send(w: &mut World, a: &mut End, args: UdArgs) -> Cqe {
    a.post(w, SendWr::send(1, &[a.sge(0, 8)]).to(args));
    w.run();
    a.completion(w)
}

fn grh_at(w: &World, end: &End, offset: u64) -> Grh {
    Grh::read_from_bytes(&end.bytes(w, offset, grh::LEN)).expect("40 bytes")
}

#[test]
fn h09_a_datagram_arrives_behind_its_grh_and_says_who_sent_it() {
    let (mut w, mut a, mut b) = two();
    a.fill(&mut w, 0, b"datagram");
    b.post_recv(&mut w, 50, 1000, 200);
    let mut args = to(&b);
    args.path.flow_label = 0xbeef;
    args.path.traffic_class = 0x20;
    args.path.sl = 3;
    let sent = send(&mut w, &mut a, args);
    assert_eq!((sent.status, sent.opcode, sent.flags), (0, Of::SEND.0, 0));
    let got = b.completion(&w);
    assert_eq!((got.status, got.opcode, got.wr_id), (0, Of::RECV.0, 50));
    assert_eq!(got.flags, flags::RECV | flags::GRH);
    assert_eq!(got.byte_len, 48);
    assert_eq!(got.src_qpn, a.qp.qpn);
    assert_eq!((got.pkey_index, got.sl, got.vlan), (0, way::either(3, 0), 0xffff));
    assert_eq!(got.smac, [0x02, 0x56, 0x42, 0, 0, 1]);
    assert_eq!(b.bytes(&w, 1000 + GRH, 8), b"datagram");
    let route = Route {
        sgid: a.guest.gid(),
        dgid: b.guest.gid(),
        flow_label: 0xbeef,
        traffic_class: 0x20,
        hop_limit: 64,
    };
    let grh = grh_at(&w, &b, 1000);
    assert_eq!(grh.route(), Some(route));
    // UDP, BTH, DETH, 8 bytes, ICRC.
    assert_eq!(grh.0[4..6], [0, 8 + 12 + 8 + 8 + 4]);
    // The answer needs nothing but what arrived.
    a.post_recv(&mut w, 60, 0, 200);
    send(&mut w, &mut b, address(route.sgid, got.src_qpn));
    assert_eq!(a.completion(&w).wr_id, 60);
}

#[test]
fn h09_between_ipv4_gids_the_grh_ends_in_an_ipv4_header() {
    let (mut w, mut a, mut b) = two();
    for (end, last) in [(&mut a, 1), (&mut b, 2)] {
        let req = SetGidReq {
            index: 1,
            reserved: 0,
            gid: Gid::from_ipv4([10, 0, 0, last]),
        };
        end.guest
            .command::<[u8; 0]>(&mut w, Opcode::SET_GID, &req)
            .expect("a free GID");
    }
    b.post_recv(&mut w, 50, 0, 200);
    let mut args = address(Gid::from_ipv4([10, 0, 0, 2]), b.qp.qpn);
    args.path.sgid_index = 1;
    send(&mut w, &mut a, args);
    assert_eq!(b.completion(&w).byte_len, 48);
    let grh = grh_at(&w, &b, 0);
    assert_eq!(grh.0[..20], [0; 20]);
    assert_eq!(grh.0[20], 0x45);
    let route = grh.route().expect("a header");
    assert_eq!(route.sgid, Gid::from_ipv4([10, 0, 0, 1]));
    assert_eq!(route.dgid, Gid::from_ipv4([10, 0, 0, 2]));
}

#[test]
fn h09_data_of_every_kind_of_work_request_arrives() {
    let (mut w, mut a, mut b) = two();
    let data: Vec<u8> = (0..=255).cycle().take(4096).collect();
    a.fill(&mut w, 0, &data);
    // Gathered, scattered with the boundary inside the GRH, inline, and nothing at all.
    let gathered = [a.sge(100, 7), a.sge(0, 0), a.sge(50, 3)];
    let scattered = [b.sge(0, 30), b.sge(500, 12), b.sge(600, 100)];
    b.qp.post_recv(&w, RecvWr::new(50, &scattered));
    a.post(&mut w, SendWr::send(1, &gathered).to(to(&b)));
    w.run();
    assert_eq!(b.completion(&w).byte_len, 50);
    let mut bytes = b.bytes(&w, 510, 2);
    bytes.extend(b.bytes(&w, 600, 8));
    assert_eq!(bytes, [&data[100..107], &data[50..53]].concat());
    b.post_recv(&mut w, 51, 1000, 4096 + 40);
    a.post(&mut w, SendWr::send(2, &[]).inline(&data[..512]).to(to(&b)).imm(0x0102));
    w.run();
    let got = b.completion(&w);
    assert_eq!((got.byte_len, got.imm), (552, 0x0102));
    assert_eq!(got.flags, flags::RECV | flags::GRH | flags::IMM);
    assert_eq!(b.bytes(&w, 1040, 512), data[..512]);
    b.post_recv(&mut w, 52, 1000, 40);
    a.post(
        &mut w,
        SendWr::send(3, &[])
            .to(to(&b))
            .flags(send_flags::SOLICITED)
            .unsignaled(),
    );
    w.run();
    let got = b.completion(&w);
    assert_eq!(
        (got.byte_len, got.flags),
        (40, flags::RECV | flags::GRH | flags::SOLICITED)
    );
    assert_eq!(a.cq.drain(&w).len(), 2, "the third asked for no completion");
}

#[test]
fn h09_the_q_key_decides() {
    let (mut w, mut a, mut b) = two();
    let dropped = |w: &mut World, b: &mut End| b.guest.counter(w, "qkey_violations");
    b.post_recv(&mut w, 50, 0, 200);
    let mut args = to(&b);
    args.qkey ^= 1;
    assert_eq!(send(&mut w, &mut a, args).status, 0, "the sender does not hear of it");
    b.nothing(&w);
    assert_eq!(dropped(&mut w, &mut b), 1);
    // With the high bit the queue pair's own is sent, whatever else the request says.
    args.qkey = 1 << 31 | 0x777;
    send(&mut w, &mut a, args);
    assert_eq!(b.completion(&w).wr_id, 50);
    // Which may be another than the receiver's.
    let change = QpAttrs {
        qkey: 5,
        ..QpAttrs::default()
    };
    a.guest.modify(&mut w, a.qp.qpn, attr::QKEY, change).expect("in RTS");
    b.post_recv(&mut w, 51, 0, 200);
    send(&mut w, &mut a, args);
    b.nothing(&w);
    assert_eq!(dropped(&mut w, &mut b), 2);
    send(&mut w, &mut a, to(&b));
    assert_eq!(b.completion(&w).wr_id, 51);
}

#[test]
fn h09_a_datagram_is_no_longer_than_the_mtu() {
    let (mut w, mut a, mut b) = two();
    for wr_id in [50, 51] {
        b.post_recv(&mut w, wr_id, 0, 8192);
    }
    for (len, arrives) in [(4096, true), (4097, false), (u32::MAX, false)] {
        let sges = if len == u32::MAX {
            vec![a.sge(0, len); 8]
        } else {
            vec![a.sge(0, len)]
        };
        a.post(&mut w, SendWr::send(1, &sges).to(to(&b)));
        w.run();
        assert_eq!(a.completion(&w).status, 0, "{len}");
        assert_eq!(b.cq.poll(&w).map(|cqe| cqe.byte_len), arrives.then_some(4136));
    }
    assert_eq!(a.guest.counter(&mut w, "sent_too_long"), 2);
    assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::RTS);
}

#[test]
fn h09_what_cannot_be_delivered_is_dropped_and_counted() {
    let (mut w, mut a, mut b) = two();
    let good = to(&b);
    // No receive.
    assert_eq!(send(&mut w, &mut a, good).status, 0);
    assert_eq!(b.guest.counter(&mut w, "dropped_no_receive"), 1);
    b.post_recv(&mut w, 50, 0, 200);
    // Nobody has the GID; a group that nobody has joined.
    for gid in [Gid::from_ipv4([9, 9, 9, 9]), Gid::from_ipv4([224, 0, 0, 9])] {
        assert_eq!(send(&mut w, &mut a, address(gid, b.qp.qpn)).status, 0);
    }
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), way::either(2, 0));
    // No such queue pair, one of another type, one that does not receive yet.
    let cq = b.guest.cq(&mut w, 4);
    let req = b.guest.qp_request(&mut w, &cq, &cq, QpShape::default());
    let rc = b.guest.create_qp(&mut w, &req).expect("a queue pair");
    let mut req = b.guest.qp_request(&mut w, &cq, &cq, QpShape::default());
    (req.qp_type, req.max_send_sge) = (QpType::UD, 4);
    let early = b.guest.create_qp(&mut w, &req).expect("a queue pair");
    let (mask, init) = attrs::datagram(QpType::UD, QKEY)[0];
    b.guest.modify(&mut w, early.qpn, mask, init).expect("INIT");
    let others = [
        rc.qpn,
        early.qpn,
        Qpn::truncate(0),
        Qpn::GSI,
        Qpn::truncate(77),
        Qpn::MULTICAST,
    ];
    for qpn in others {
        assert_eq!(send(&mut w, &mut a, address(b.guest.gid(), qpn)).status, 0);
    }
    assert_eq!(b.guest.counter(&mut w, "dropped_no_qp"), others.len() as u64);
    // The receiver's port is down, then the sender's.
    for side in 0..2 {
        for (state, before) in [(regs::PORT_DOWN, true), (regs::PORT_ACTIVE, false)] {
            let req = ModifyPortReq { state, reserved: 0 };
            let guest = if side == 0 { &mut b.guest } else { &mut a.guest };
            guest
                .command::<[u8; 0]>(&mut w, Opcode::MODIFY_PORT, &req)
                .expect("a state");
            if before {
                assert_eq!(send(&mut w, &mut a, good).status, 0);
            }
        }
    }
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), way::either(4, 1));
    b.nothing(&w);
    send(&mut w, &mut a, good);
    assert_eq!(b.completion(&w).wr_id, 50, "the receive was not used up");
}

/// A send that fails on its own side.
fn local_error(status: Status, reason: u32, make: impl Fn(&mut World, &mut End, UdArgs) -> SendWr) {
    let (mut w, mut a, mut b) = two();
    let args = to(&b);
    b.post_recv(&mut w, 50, 0, 200);
    let wr = make(&mut w, &mut a, args);
    a.qp.post_quietly(&w, wr.unsignaled());
    a.post(&mut w, SendWr::send(2, &[]).to(args).unsignaled());
    w.run();
    let failed = a.completion(&w);
    assert_eq!((Status(failed.status), failed.vendor_err), (status, reason));
    assert_eq!((failed.wr_id, failed.flags), (1, 0));
    let flushed = a.completion(&w);
    assert_eq!((flushed.wr_id, flushed.status), (2, Status::WR_FLUSH_ERR.0));
    b.nothing(&w);
    assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::SQE);
    // What is posted in SQE is flushed; what arrives arrives.
    a.post(&mut w, SendWr::send(3, &[]).to(args).unsignaled());
    a.post_recv(&mut w, 60, 0, 200);
    assert_eq!(send(&mut w, &mut b, to(&a)).status, 0);
    let seen: Vec<_> = a.cq.drain(&w).iter().map(|cqe| (cqe.wr_id, cqe.status)).collect();
    assert!(
        seen.contains(&(3, Status::WR_FLUSH_ERR.0)) && seen.contains(&(60, 0)),
        "{seen:?}"
    );
    // And on with it.
    a.guest
        .modify_state(&mut w, a.qp.qpn, QpState::RTS)
        .expect("from SQE to RTS");
    assert_eq!(send(&mut w, &mut a, args).status, 0);
    assert_eq!(b.completion(&w).wr_id, 50);
    assert_eq!(a.guest.events(&mut w).len(), 0, "its completions say it all");
}

#[test]
fn h10_a_datagram_that_makes_no_sense_puts_the_send_queue_into_sqe() {
    let operation = Status::LOC_QP_OP_ERR;
    for opcode in [
        SendOpcode::WRITE,
        SendOpcode::READ,
        SendOpcode::FETCH_ADD,
        SendOpcode::LOCAL_INVALIDATE,
        SendOpcode::SEND_WITH_INVALIDATE,
        SendOpcode(99),
    ] {
        local_error(operation, vendor::OPCODE, |_, a, args| {
            let mut wr = SendWr::send(1, &[a.sge(0, 8)]).to(args);
            wr.header.opcode = opcode.0;
            wr
        });
    }
    let spoilt = |reason, spoil: fn(&mut UdArgs)| {
        local_error(operation, reason, |_, a, mut args| {
            spoil(&mut args);
            SendWr::send(1, &[a.sge(0, 8)]).to(args)
        });
    };
    spoilt(vendor::ADDRESS, |args| args.path.sgid_index = 7);
    spoilt(vendor::ADDRESS, |args| args.path.sgid_index = 255);
    spoilt(vendor::ADDRESS, |args| args.path.dgid = Gid::default());
    spoilt(vendor::ADDRESS, |args| args.path.port = 2);
    spoilt(vendor::ADDRESS, |args| args.path.sl = 16);
    spoilt(vendor::ADDRESS, |args| args.path.flow_label = 1 << 20);
    spoilt(vendor::ADDRESS, |args| args.path.reserved2 = 1);
    spoilt(vendor::ADDRESS, |args| args.reserved = 1);
    local_error(operation, vendor::SGE_COUNT, |_, a, args| {
        SendWr::send(1, &[a.sge(0, 8); 9]).to(args)
    });
    local_error(operation, vendor::FLAGS, |_, a, args| {
        SendWr::send(1, &[a.sge(0, 8)]).to(args).flags(1 << 7)
    });
    local_error(Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN, |_, a, args| {
        let mut sge = a.sge(0, 8);
        sge.lkey = Key(sge.lkey.0 ^ 1);
        SendWr::send(1, &[sge]).to(args)
    });
}

#[test]
fn h14_memory_that_a_sender_takes_away_is_no_fault_of_the_receiver() {
    const SECOND: u64 = 0x4000_0000;
    local_error(Status::LOC_PROT_ERR, vendor::UNREACHABLE, |w, a, args| {
        w.ram_mut(a.guest.hca).map(SECOND, 8192, true);
        let mr = a.guest.mr(w, SECOND, 8192, 0).expect("a region");
        w.ram_mut(a.guest.hca).unmap(SECOND);
        let good = a.sge(0, 8);
        let gone = verbena_hw::wqe::Sge {
            addr: SECOND,
            len: 8,
            lkey: mr.lkey,
        };
        SendWr::send(1, &[good, gone]).to(args)
    });
}

/// A receive that cannot take a message of 8 bytes: it ends in an error, and its queue pair too. The sender is not told.
fn bad_receive(status: Status, reason: u32, make: impl Fn(&mut World, &mut End) -> RecvWr) {
    let (mut w, mut a, mut b) = two();
    let wr = make(&mut w, &mut b);
    b.qp.post_recv(&w, wr);
    b.post_recv(&mut w, 51, 0, 200);
    assert_eq!(send(&mut w, &mut a, to(&b)).status, 0);
    let failed = b.completion(&w);
    assert_eq!((Status(failed.status), failed.vendor_err), (status, reason));
    assert_eq!((failed.wr_id, failed.flags), (50, flags::RECV));
    let flushed = b.completion(&w);
    assert_eq!((flushed.wr_id, flushed.status), (51, Status::WR_FLUSH_ERR.0));
    assert_eq!(b.guest.state(&mut w, b.qp.qpn), QpState::ERR);
    assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::RTS);
    assert_eq!(b.guest.events(&mut w).len(), 0);
}

#[test]
fn h10_a_receive_that_cannot_take_a_datagram_ends_its_queue_pair() {
    bad_receive(Status::LOC_LEN_ERR, vendor::RECV_TOO_SHORT, |_, b| {
        RecvWr::new(50, &[b.sge(0, 47)])
    });
    bad_receive(Status::LOC_LEN_ERR, vendor::RECV_TOO_SHORT, |_, _| RecvWr::new(50, &[]));
    bad_receive(Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN, |_, b| {
        let mut sge = b.sge(0, 100);
        sge.lkey = Key(sge.lkey.0 ^ 1);
        RecvWr::new(50, &[sge])
    });
    bad_receive(Status::LOC_PROT_ERR, vendor::KEY_ACCESS, |w, b| {
        let at = w.ram_mut(b.guest.hca).alloc(4096);
        let mr = b.guest.mr(w, at, 4096, 0).expect("a region");
        let sge = verbena_hw::wqe::Sge {
            addr: at,
            len: 100,
            lkey: mr.lkey,
        };
        RecvWr::new(50, &[sge])
    });
    bad_receive(Status::LOC_QP_OP_ERR, vendor::SGE_COUNT, |_, _| {
        let mut wr = RecvWr::new(50, &[]);
        wr.header.num_sge = 33;
        wr
    });
}

#[test]
fn h09_a_queue_pair_can_write_to_itself() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    a.fill(&mut w, 0, b"to me!");
    a.post_recv(&mut w, 50, 100, 100);
    let args = to(&a);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 6)]).to(args));
    w.run();
    // By a copy it has arrived before it is sent, and the receive comes first.
    assert_eq!(a.completion(&w).wr_id, way::either(50, 1));
    assert_eq!(a.completion(&w).wr_id, way::either(1, 50));
    assert_eq!(a.bytes(&w, 140, 6), b"to me!");
    // Its own bad receive ends it while it sends.
    a.post_recv(&mut w, 51, 100, 10);
    a.post(&mut w, SendWr::send(2, &[a.sge(0, 6)]).to(args));
    w.run();
    let seen: Vec<_> = a.cq.drain(&w).iter().map(|cqe| (cqe.wr_id, cqe.status)).collect();
    let (received, sent) = ((51, Status::LOC_LEN_ERR.0), (2, 0));
    assert_eq!(seen, way::either([received, sent], [sent, received]));
    assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::ERR);
}

#[test]
fn h04_a_datagram_queue_pair_drains_and_goes_on() {
    let (mut w, mut a, mut b) = two();
    let notify = QpAttrs {
        state: QpState::SQD.0,
        en_sqd_async_notify: 1,
        ..QpAttrs::default()
    };
    let mask = attr::STATE | attr::EN_SQD_ASYNC_NOTIFY;
    a.guest.modify(&mut w, a.qp.qpn, mask, notify).expect("SQD");
    w.run();
    let events = a.guest.events(&mut w);
    assert_eq!(events.len(), 1);
    assert_eq!(Event(events[0].event), Event::SQ_DRAINED);
    b.post_recv(&mut w, 50, 0, 100);
    let args = to(&b);
    a.post(&mut w, SendWr::send(1, &[]).to(args));
    w.run();
    a.nothing(&w);
    // It still receives.
    a.post_recv(&mut w, 60, 0, 100);
    let back = to(&a);
    send(&mut w, &mut b, back);
    assert_eq!(a.completion(&w).wr_id, 60);
    a.guest.modify_state(&mut w, a.qp.qpn, QpState::RTS).expect("RTS");
    w.run();
    assert_eq!((a.completion(&w).wr_id, b.completion(&w).wr_id), (1, 50));
}

#[test]
fn h04_the_state_machine_of_datagrams_takes_no_attributes_of_connections() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    for bit in [
        attr::AV,
        attr::DEST_QPN,
        attr::RQ_PSN,
        attr::ACCESS_FLAGS,
        attr::TIMEOUT,
        attr::PORT,
    ] {
        let failed = a.guest.modify(&mut w, a.qp.qpn, bit, QpAttrs::default()).unwrap_err();
        assert_eq!((failed.status, failed.detail), (Refused::FORBIDDEN_ATTRIBUTE, bit));
    }
    a.guest
        .modify_state(&mut w, a.qp.qpn, QpState::RESET)
        .expect("RESET from anywhere");
    let (mask, init) = attrs::datagram(QpType::UD, 1)[0];
    let failed = a.guest.modify(&mut w, a.qp.qpn, mask & !attr::QKEY, init).unwrap_err();
    assert_eq!((failed.status, failed.detail), (Refused::MISSING_ATTRIBUTE, attr::QKEY));
    a.guest.modify(&mut w, a.qp.qpn, mask, init).expect("INIT");
    assert_eq!(a.guest.query_qp(&mut w, a.qp.qpn).attrs.qkey, 1);
    assert_eq!(a.guest.query_qp(&mut w, a.qp.qpn).qp_type, QpType::UD);
}

#[test]
fn h04_a_stride_too_short_for_a_destination_is_refused() {
    let mut w = way::world(1);
    let mut guest = Guest::start(&mut w, 1 << 20);
    let cq = guest.cq(&mut w, 4);
    let shape = QpShape {
        sq_log_stride: 6,
        max_sge: 0,
        max_inline: 0,
        ..QpShape::default()
    };
    let mut req = guest.qp_request(&mut w, &cq, &cq, shape);
    guest.create_qp(&mut w, &req).expect("a connection's fits");
    req.qp_type = QpType::UD;
    req.slot += 1;
    let Err(failed) = guest.create_qp(&mut w, &req) else {
        panic!("96 bytes of headers do not fit 64")
    };
    let at = core::mem::offset_of!(verbena_hw::cmd::CreateQpReq, sq_log_stride) as u32;
    assert_eq!((failed.status, failed.detail), (Refused::BAD_FIELD, at));
}

/// A management datagram's worth of a buffer.
const MAD: u32 = 256;

#[test]
fn h04_the_general_services_interface_is_queue_pair_1_on_the_fabric() {
    let mut w = way::world(1);
    let mut a = end_with(&mut w, QpType::GSI, GSI_QKEY);
    let mut b = end_with(&mut w, QpType::GSI, GSI_QKEY);
    assert_eq!(b.guest.query_qp(&mut w, b.qp.qpn).qp_type, QpType::GSI);
    b.post_recv(&mut w, 50, 0, MAD + 40);
    let args = UdArgs {
        qkey: GSI_QKEY,
        ..address(b.guest.gid(), Qpn::GSI)
    };
    a.post(&mut w, SendWr::send(1, &[a.sge(0, MAD)]).to(args));
    w.run();
    assert_eq!(a.completion(&w).status, 0);
    let got = b.completion(&w);
    assert_eq!((got.src_qpn, got.qpn, got.byte_len), (Qpn::GSI, b.qp.qpn, MAD + 40));
    // The number that commands use is none on the fabric.
    b.post_recv(&mut w, 51, 0, MAD + 40);
    let behind = UdArgs {
        dest_qpn: b.qp.qpn,
        ..args
    };
    a.post(&mut w, SendWr::send(2, &[a.sge(0, MAD)]).to(behind));
    w.run();
    b.nothing(&w);
    assert_eq!(b.guest.counter(&mut w, "dropped_no_qp"), 1);
    // Nothing but management datagrams gets in, so a receive of that size is always long enough.
    for len in [0, 255, 257, 4096] {
        a.post(&mut w, SendWr::send(3, &[a.sge(0, len)]).to(args));
        w.run();
        b.nothing(&w);
    }
    assert_eq!(b.guest.counter(&mut w, "dropped_length"), 4);
    // A plain queue pair's wrong key does not either.
    let mut c = end(&mut w);
    c.post(
        &mut w,
        SendWr::send(4, &[c.sge(0, MAD)]).to(UdArgs { qkey: QKEY, ..args }),
    );
    w.run();
    b.nothing(&w);
    assert_eq!(b.guest.counter(&mut w, "qkey_violations"), 1);
}

#[test]
fn h04_an_hca_has_one_general_services_interface() {
    let mut w = way::world(1);
    let mut a = end_with(&mut w, QpType::GSI, GSI_QKEY);
    let cq = a.guest.cq(&mut w, 4);
    let mut req = a.guest.qp_request(&mut w, &cq, &cq, QpShape::default());
    (req.qp_type, req.max_send_sge, req.max_inline) = (QpType::GSI, 8, 0);
    let Err(failed) = a.guest.create_qp(&mut w, &req) else {
        panic!("there is one already")
    };
    assert_eq!((failed.status, failed.detail), (Refused::LIMIT, 1));
    a.guest
        .destroy(&mut w, Opcode::DESTROY_QP, a.qp.qpn.get())
        .expect("gone");
    let again = a.guest.create_qp(&mut w, &req).expect("the place is free");
    // Its Q_Key is no choice.
    let (mask, mut init) = attrs::datagram(QpType::GSI, 0x8001_0001)[0];
    assert!(a.guest.modify(&mut w, again.qpn, mask, init).is_err());
    init.qkey = GSI_QKEY;
    a.guest.modify(&mut w, again.qpn, mask, init).expect("INIT");
}

#[test]
fn h12_whoever_waits_for_a_datagram_is_told() {
    let (mut w, mut a, mut b) = two();
    b.post_recv(&mut w, 50, 0, 100);
    b.cq.arm(&w, verbena_hw::cqe::CqRecord::ARM_ANY);
    send(&mut w, &mut a, to(&b));
    let events = b.guest.events(&mut w);
    assert_eq!(events.len(), 1);
    assert_eq!(Event(events[0].event), Event::COMPLETION);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn h14_spoilt_datagrams_harm_nobody(
        entries in prop::collection::vec(
            (prop::collection::vec((any::<u8>(), any::<u8>()), 0..6), 0u8..4, any::<bool>()),
            1..40,
        ),
    ) {
        let (mut w, mut a, mut b) = two();
        let mut evil = end_with(&mut w, QpType::UD, 1);
        let group = Gid::from_ipv4([224, 0, 0, 1]);
        for (i, (spoils, kind, own)) in entries.iter().enumerate() {
            evil.post_recv(&mut w, 70, 0, 100);
            let args = if *own { to(&evil) } else { UdArgs { qkey: 1, ..to(&b) } };
            let mut wr = match kind {
                0 => SendWr::send(1, &[evil.sge(0, 60)]).to(args),
                1 => SendWr::send(1, &[evil.sge(0, 30); 8]).to(args),
                2 => SendWr::send(1, &[]).inline(&[7; 512]).to(args).imm(1),
                _ => SendWr::send(1, &[evil.sge(0, 8)]).to(address(group, Qpn::MULTICAST)),
            };
            let mut bytes = [0u8; 96];
            bytes[..32].copy_from_slice(wr.header.as_bytes());
            bytes[32..].copy_from_slice(args.as_bytes());
            for (at, byte) in spoils {
                bytes[usize::from(*at) % 96] = *byte;
            }
            wr.header = FromBytes::read_from_bytes(&bytes[..32]).expect("32 bytes");
            wr.to = Some(UdArgs::read_from_bytes(&bytes[32..]).expect("64 bytes"));
            evil.post(&mut w, wr);
            w.run();
            evil.cq.drain(&w);
            // Back on its feet, whatever state it is in.
            let _ = evil.guest.modify_state(&mut w, evil.qp.qpn, QpState::RTS);
            // Meanwhile two others talk.
            let id = 1000 + i as u64;
            b.post_recv(&mut w, id, 0, 200);
            let args = to(&b);
            prop_assert_eq!(send(&mut w, &mut a, args).status, 0);
            prop_assert_eq!(b.completion(&w).wr_id, id);
        }
    }
}
