// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4: unreliable connections: whole messages or none, and nobody is told.

use crate::way;
use verbena_engine::testing::{attrs, End, Guest, QpShape, SendWr, World};
use verbena_engine::Budget;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::ModifyPortReq;
use verbena_hw::cqe::{flags, vendor, Opcode as Of, Status};
use verbena_hw::id::{Gid, Key, Qpn};
use verbena_hw::qp::{access, attr, QpAttrs, QpState, QpType};
use verbena_hw::regs;
use verbena_hw::wqe::SendOpcode;

pub(crate) fn end(w: &mut World) -> End {
    let mut guest = Guest::start(w, 16 << 20);
    let cq = guest.cq(w, 8);
    let mut req = guest.qp_request(w, &cq, &cq, QpShape::default());
    req.qp_type = QpType::UC;
    let qp = guest.create_qp(w, &req).expect("a queue pair");
    let buffer = w.ram_mut(guest.hca).alloc(2 << 20);
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE;
    let mr = guest.mr(w, buffer, 2 << 20, rights).expect("a region");
    End { guest, cq, qp, mr }
}

pub(crate) const RTR: u32 = attr::STATE | attr::AV | attr::PATH_MTU | attr::DEST_QPN | attr::RQ_PSN;

pub(crate) fn connect(w: &mut World, end: &mut End, peer: (Gid, Qpn), tune: impl Fn(&mut QpAttrs)) {
    let (mask, init) = attrs::init();
    let (_, rtr) = attrs::rtr(peer.0, peer.1, 77);
    let (_, rts) = attrs::rts(0xff_fffe);
    for (mask, mut attrs) in [(mask, init), (RTR, rtr), (attr::STATE | attr::SQ_PSN, rts)] {
        tune(&mut attrs);
        end.guest.modify(w, end.qp.qpn, mask, attrs).expect("a transition");
    }
}

/// Two ends, connected. Each side's first PSN is not what the other expects, which does not matter.
fn pair() -> (World, End, End) {
    let mut w = way::world(1);
    let (mut a, mut b) = (end(&mut w), end(&mut w));
    let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
    connect(&mut w, &mut a, to_b, |_| {});
    connect(&mut w, &mut b, to_a, |_| {});
    (w, a, b)
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256 + salt) as u8).collect()
}

#[test]
fn h04_sends_and_writes_of_every_length_arrive_over_an_unreliable_connection() {
    let (mut w, mut a, mut b) = pair();
    for (n, len) in [0, 1, 1024, 1025, 256 << 10, 1 << 20].into_iter().enumerate() {
        let data = pattern(len, n);
        a.fill(&mut w, 0, &data);
        b.post_recv(&mut w, 50, 0, 1 << 20);
        a.post(&mut w, SendWr::send(1, &[a.sge(0, len as u32)]));
        w.run();
        assert_eq!((a.completion(&w).status, a.cq.poll(&w)), (0, None));
        let got = b.completion(&w);
        assert_eq!((got.status, got.opcode, got.byte_len), (0, Of::RECV.0, len as u32));
        assert_eq!(b.bytes(&w, 0, len), data);

        a.post(
            &mut w,
            SendWr::write(2, &[a.sge(0, len as u32)], b.addr(1 << 20), b.rkey()),
        );
        w.run();
        assert_eq!(a.completion(&w).opcode, Of::RDMA_WRITE.0);
        b.nothing(&w);
        assert_eq!(b.bytes(&w, 1 << 20, len), data);

        b.post_recv(&mut w, 51, 0, 0);
        let wr = SendWr::write(3, &[a.sge(0, len as u32)], b.addr(1 << 20), b.rkey());
        a.post(&mut w, wr.imm(9).unsignaled());
        w.run();
        let got = b.completion(&w);
        assert_eq!((got.wr_id, got.opcode), (51, Of::RECV_RDMA_WITH_IMM.0));
        assert_eq!((got.flags, got.imm), (flags::RECV | flags::IMM, 9));
    }
    let inline = pattern(100, 3);
    b.post_recv(&mut w, 52, 0, 100);
    a.post(&mut w, SendWr::send(4, &[]).inline(&inline));
    w.run();
    assert_eq!(b.completion(&w).byte_len, 100);
    assert_eq!(b.bytes(&w, 0, 100), inline);
}

#[test]
fn h04_what_an_unreliable_connection_cannot_deliver_is_dropped_and_the_next_message_arrives() {
    let (mut w, mut a, mut b) = pair();
    let counted = |w: &mut World, end: &mut End, name| end.guest.counter(w, name);
    // No receive: for a SEND, and for the immediate data of a WRITE.
    let write = |a: &End, b: &End| SendWr::write(1, &[a.sge(0, 8)], b.addr(0), b.rkey());
    for wr in [SendWr::send(1, &[a.sge(0, 8)]), write(&a, &b).imm(1)] {
        a.post(&mut w, wr);
        w.run();
        assert_eq!(a.completion(&w).status, 0, "it has left, and that is all");
    }
    assert_eq!(counted(&mut w, &mut b, "dropped_no_receive"), 2);
    // Keys and rights that are not given.
    let mut bad_key = write(&a, &b);
    bad_key.header.rkey = Key(bad_key.header.rkey.0 ^ 1);
    let mut bad_range = write(&a, &b);
    bad_range.header.remote_addr = b.addr(b.mr.len);
    for wr in [bad_key, bad_range] {
        a.post(&mut w, wr);
        w.run();
        assert_eq!(a.completion(&w).status, 0);
    }
    let none = QpAttrs {
        access: 0,
        ..QpAttrs::default()
    };
    b.guest
        .modify(&mut w, b.qp.qpn, attr::ACCESS_FLAGS, none)
        .expect("in RTS");
    let wr = write(&a, &b);
    a.post(&mut w, wr);
    w.run();
    assert_eq!(counted(&mut w, &mut b, "access_err"), 3);
    assert_eq!(a.completion(&w).status, 0);
    // The peer's port is down.
    for (state, arrives) in [(regs::PORT_DOWN, false), (regs::PORT_ACTIVE, true)] {
        let req = ModifyPortReq { state, reserved: 0 };
        b.guest
            .command::<[u8; 0]>(&mut w, Opcode::MODIFY_PORT, &req)
            .expect("a state");
        b.post_recv(&mut w, 50, 0, 8);
        a.post(&mut w, SendWr::send(2, &[a.sge(0, 8)]));
        w.run();
        assert_eq!(a.completion(&w).status, 0);
        assert_eq!(b.cq.poll(&w).is_some(), arrives);
    }
    assert_eq!(counted(&mut w, &mut a, "dropped_unreachable"), way::either(1, 0));
    for end in [&mut a, &mut b] {
        assert_eq!(end.guest.state(&mut w, end.qp.qpn), QpState::RTS);
    }
}

#[test]
fn h04_the_receive_of_a_message_that_was_cut_off_is_the_next_ones() {
    let (mut w, mut a, mut b) = pair();
    b.post_recv(&mut w, 50, 0, 1 << 20);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 1 << 20)]));
    // One run of the message, then its sender is reset.
    w.budget = Budget {
        operations: 1,
        bytes: 1,
    };
    w.poll();
    b.nothing(&w);
    w.budget = Budget::default();
    let qpn = a.qp.qpn;
    a.guest.modify_state(&mut w, qpn, QpState::RESET).expect("RESET");
    a.qp.rewind(&w);
    let to_b = (b.guest.gid(), b.qp.qpn);
    connect(&mut w, &mut a, to_b, |_| {});
    w.run();
    b.nothing(&w);
    // A WRITE in between needs no receive, and leaves it alone.
    a.post(&mut w, SendWr::write(2, &[a.sge(0, 8)], b.addr(1 << 20), b.rkey()));
    a.fill(&mut w, 0, b"again");
    a.post(&mut w, SendWr::send(3, &[a.sge(0, 5)]));
    w.run();
    let got = b.completion(&w);
    assert_eq!((got.wr_id, got.byte_len, got.status), (50, 5, 0));
    assert_eq!(b.bytes(&w, 0, 5), b"again");
    assert_eq!(b.guest.query_qp(&mut w, b.qp.qpn).rq_consumer, 1);
    // In ERR it is flushed like any other.
    b.post_recv(&mut w, 51, 0, 1 << 20);
    a.post(&mut w, SendWr::send(4, &[a.sge(0, 1 << 20)]));
    w.budget = Budget {
        operations: 1,
        bytes: 1,
    };
    w.poll();
    w.budget = Budget::default();
    let qpn = a.qp.qpn;
    a.guest.modify_state(&mut w, qpn, QpState::ERR).expect("ERR");
    let qpn = b.qp.qpn;
    b.guest.modify_state(&mut w, qpn, QpState::ERR).expect("ERR");
    w.run();
    let flushed = b.completion(&w);
    assert_eq!((flushed.wr_id, flushed.status), (51, Status::WR_FLUSH_ERR.0));
}

#[test]
fn h10_a_local_error_of_an_unreliable_connection_puts_its_send_queue_into_sqe() {
    let (mut w, mut a, mut b) = pair();
    let mut no_key = a.sge(0, 8);
    no_key.lkey = Key(no_key.lkey.0 ^ 1);
    let read = SendWr::read(1, &[a.sge(0, 8)], b.addr(0), b.rkey());
    let mut invalidate = SendWr::send(1, &[]);
    invalidate.header.opcode = SendOpcode::SEND_WITH_INVALIDATE.0;
    let mut unknown = SendWr::send(1, &[]);
    unknown.header.opcode = 99;
    let operation = (Status::LOC_QP_OP_ERR, vendor::OPCODE);
    for (wr, (status, reason)) in [
        (read, operation),
        (invalidate, operation),
        (unknown, operation),
        (SendWr::send(1, &[no_key]), (Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN)),
    ] {
        b.post_recv(&mut w, 50, 0, 100);
        a.qp.post_quietly(&w, wr.unsignaled());
        a.post(&mut w, SendWr::send(2, &[]).unsignaled());
        w.run();
        let failed = a.completion(&w);
        assert_eq!((Status(failed.status), failed.vendor_err), (status, reason));
        assert_eq!(a.completion(&w).status, Status::WR_FLUSH_ERR.0);
        assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::SQE);
        b.nothing(&w);
        // It still receives, and goes on when it is told to.
        a.post_recv(&mut w, 60, 0, 100);
        b.post(&mut w, SendWr::send(3, &[]));
        w.run();
        assert_eq!((a.completion(&w).wr_id, b.completion(&w).wr_id), (60, 3));
        let qpn = a.qp.qpn;
        a.guest.modify_state(&mut w, qpn, QpState::RTS).expect("from SQE");
        a.post(&mut w, SendWr::send(4, &[]));
        w.run();
        assert_eq!((a.completion(&w).wr_id, b.completion(&w).wr_id), (4, 50));
    }
}

#[test]
fn h10_a_receive_that_is_too_short_ends_the_receivers_side_alone() {
    let (mut w, mut a, mut b) = pair();
    b.post_recv(&mut w, 50, 0, 7);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 8)]));
    w.run();
    assert_eq!(a.completion(&w).status, 0);
    let failed = b.completion(&w);
    assert_eq!((failed.wr_id, Status(failed.status)), (50, Status::LOC_LEN_ERR));
    assert_eq!(b.guest.state(&mut w, b.qp.qpn), QpState::ERR);
    assert_eq!(a.guest.state(&mut w, a.qp.qpn), QpState::RTS);
}

#[test]
fn h14_an_unreliable_and_a_reliable_queue_pair_never_meet() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    let mut rc = End::new(&mut w, QpShape::default(), 8);
    let to_rc = (rc.guest.gid(), rc.qp.qpn);
    connect(&mut w, &mut a, to_rc, |_| {});
    let to_a = (a.guest.gid(), a.qp.qpn);
    rc.connect(&mut w, to_a, (0xff_fffe, 0xff_fffe), |attrs| attrs.timeout = 0);
    rc.post_recv(&mut w, 50, 0, 100);
    a.post_recv(&mut w, 50, 0, 100);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 8)]));
    rc.post(&mut w, SendWr::send(1, &[rc.sge(0, 8)]));
    w.run();
    assert_eq!(a.completion(&w).wr_id, 1);
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), way::either(1, 0));
    a.nothing(&w);
    rc.nothing(&w);
}

#[test]
fn h05_an_unreliable_connection_binds_windows_registers_and_invalidates() {
    use verbena_hw::cmd::{CreateMrReq, CreateMwReq, CreateMwRsp, MR_FAST};
    use verbena_hw::mw::MwType;
    use verbena_hw::wqe::BindArgs;
    use zerocopy::FromZeros;

    let (mut w, mut a, mut b) = pair();
    let place = w.ram_mut(b.guest.hca).alloc(8192);
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::MW_BIND;
    let region = b.guest.mr(&mut w, place, 8192, rights).expect("a region");
    let req = CreateMwReq {
        pdn: b.guest.pdn,
        mw_type: MwType::TYPE_2,
        reserved: [0; 3],
    };
    let mw: CreateMwRsp = b.guest.command(&mut w, Opcode::CREATE_MW, &req).expect("a window");
    let window = Key::from_parts(mw.rkey.index(), 0x42);
    let args = BindArgs {
        len: 64,
        lkey: region.lkey,
        access: access::REMOTE_WRITE,
    };
    let req = CreateMrReq {
        len: 1,
        pdn: b.guest.pdn,
        flags: MR_FAST,
        ..CreateMrReq::new_zeroed()
    };
    let fast = b.guest.register(&mut w, &req).expect("a region").lkey;
    let fast = Key::from_parts(fast.index(), 0x43);
    b.post(&mut w, SendWr::bind(1, window, place + 4096, args));
    let part = verbena_hw::wqe::Sge {
        addr: place,
        len: 64,
        lkey: region.lkey,
    };
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE;
    b.post(&mut w, SendWr::register(2, fast, 0x7000, rights, &[part]));
    w.run();
    for (id, opcode) in [(1, Of::BIND_MW), (2, Of::REG_MR)] {
        let done = b.completion(&w);
        assert_eq!((done.status, done.wr_id, done.opcode), (0, id, opcode.0));
    }
    let dropped = |w: &mut World, b: &mut End| b.guest.counter(w, "access_err");
    let write = |w: &mut World, a: &mut End, addr, key, data: &[u8]| {
        a.post(w, SendWr::write(9, &[], addr, key).inline(data));
        w.run();
        assert_eq!(a.completion(w).status, 0);
    };
    let there = |w: &World, b: &End, at| w.ram(b.guest.hca).read(at, 8);
    write(&mut w, &mut a, place + 4096, window, b"windowed");
    write(&mut w, &mut a, 0x7000, fast, b"register");
    assert_eq!(there(&w, &b, place + 4096), b"windowed");
    assert_eq!(there(&w, &b, place), b"register");
    assert_eq!(dropped(&mut w, &mut b), 0);
    // Outside the window, and through keys that have been taken back.
    write(&mut w, &mut a, place + 4096 + 60, window, b"too far!");
    for key in [window, fast] {
        b.post(&mut w, SendWr::local_invalidate(3, key));
        w.run();
        let done = b.completion(&w);
        assert_eq!((done.status, done.opcode), (0, Of::LOCAL_INV.0));
    }
    write(&mut w, &mut a, place + 4096, window, b"too late");
    write(&mut w, &mut a, 0x7000, fast, b"too late");
    assert_eq!(dropped(&mut w, &mut b), 3);
    assert_eq!(there(&w, &b, place + 4096), b"windowed");
    assert_eq!(there(&w, &b, place), b"register");
    // What cannot be bound stops the send queue, not the connection; no packet was used up by any of it.
    let psn = b.guest.query_qp(&mut w, b.qp.qpn).attrs.sq_psn;
    b.post(&mut w, SendWr::bind(4, window, place + 8190, args));
    w.run();
    let done = b.completion(&w);
    assert_eq!((Status(done.status), done.wr_id), (Status::MW_BIND_ERR, 4));
    let state = b.guest.query_qp(&mut w, b.qp.qpn).attrs;
    assert_eq!((QpState(state.state), state.sq_psn), (QpState::SQE, psn));
    assert_eq!(psn.get(), 0xff_fffe, "the first one");
    // SQE still receives.
    write(&mut w, &mut a, place, region.rkey, b"received");
    assert_eq!(there(&w, &b, place), b"received");
}
