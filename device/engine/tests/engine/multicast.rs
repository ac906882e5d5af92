// SPDX-License-Identifier: MIT OR Apache-2.0
//! H9: multicast. One datagram, a copy for every queue pair that is attached to its group.

use crate::datagrams::{address, end, end_with, to, GRH, QKEY};
use crate::way;
use verbena_engine::testing::{attrs, End, Failed, Guest, QpShape, SendWr, World};
use verbena_hw::admin::{Opcode, Status as Refused};
use verbena_hw::cmd::{McastReq, ModifyPortReq};
use verbena_hw::cqe::flags;
use verbena_hw::grh::Grh;
use verbena_hw::id::{Gid, Qpn};
use verbena_hw::qp::{QpState, QpType, GSI_QKEY};
use verbena_hw::regs;
use verbena_hw::wqe::UdArgs;
use zerocopy::FromBytes;

const GROUP: Gid = Gid::from_ipv4([239, 1, 2, 3]);

fn command(w: &mut World, guest: &mut Guest, opcode: Opcode, qpn: Qpn, gid: Gid) -> Result<(), Failed> {
    let req = McastReq { qpn, reserved: 0, gid };
    guest.command::<[u8; 0]>(w, opcode, &req).map(|_| ())
}

pub(crate) fn attach(w: &mut World, end: &mut End) {
    command(w, &mut end.guest, Opcode::ATTACH_MCAST, end.qp.qpn, GROUP).expect("a member");
}

fn detach(w: &mut World, end: &mut End) {
    command(w, &mut end.guest, Opcode::DETACH_MCAST, end.qp.qpn, GROUP).expect("no member any more");
}

/// Everybody in the group.
pub(crate) fn group() -> UdArgs {
    address(GROUP, Qpn::MULTICAST)
}

/// `a` sends 8 bytes to the group; who of the others has received it, by position.
fn cast(w: &mut World, a: &mut End, others: &mut [&mut End]) -> Vec<usize> {
    a.post(w, SendWr::send(1, &[a.sge(0, 8)]).to(group()));
    w.run();
    let received = others.iter_mut().enumerate();
    let received = received.filter_map(|(i, end)| end.cq.poll(w).map(|cqe| (i, cqe)));
    received
        .map(|(i, cqe)| {
            assert_eq!((cqe.status, cqe.byte_len, cqe.src_qpn), (0, 48, a.qp.qpn));
            assert_eq!(cqe.flags, flags::RECV | flags::GRH);
            i
        })
        .collect()
}

#[test]
fn h09_a_multicast_reaches_every_member_on_every_hca_and_nobody_else() {
    let mut w = way::world(1);
    let (mut a, mut b, mut c, mut d) = (end(&mut w), end(&mut w), end(&mut w), end(&mut w));
    a.fill(&mut w, 0, b"everyone");
    for end in [&mut b, &mut c] {
        attach(&mut w, end);
    }
    for end in [&mut b, &mut c, &mut d] {
        end.post_recv(&mut w, 50, 100, 200);
    }
    assert_eq!(cast(&mut w, &mut a, &mut [&mut b, &mut c, &mut d]), [0, 1]);
    assert_eq!(a.completion(&w).status, 0, "one completion, however many copies");
    a.nothing(&w);
    for end in [&b, &c] {
        assert_eq!(end.bytes(&w, 100 + GRH, 8), b"everyone");
        let grh = Grh::read_from_bytes(&end.bytes(&w, 100, 40)).expect("40 bytes");
        let route = grh.route().expect("a header");
        assert_eq!((route.sgid, route.dgid), (a.guest.gid(), GROUP));
    }
    assert_eq!(a.guest.counter(&mut w, "sent_msgs"), 1);
    // The way back is unicast.
    detach(&mut w, &mut b);
    c.post_recv(&mut w, 51, 100, 200);
    b.post_recv(&mut w, 51, 100, 200);
    assert_eq!(cast(&mut w, &mut a, &mut [&mut b, &mut c, &mut d]), [1]);
    let back = to(&d);
    d.post(&mut w, SendWr::send(2, &[]).to(back));
    w.run();
    let receive = way::either(50, 2);
    assert_eq!(d.completion(&w).wr_id, receive, "its own receive is still there");
}

#[test]
fn h09_the_sender_gets_a_copy_if_it_is_a_member() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    a.post_recv(&mut w, 50, 0, 200);
    a.post(&mut w, SendWr::send(1, &[]).to(group()));
    w.run();
    assert_eq!(a.completion(&w).wr_id, 1);
    a.nothing(&w);
    assert_eq!(
        a.guest.counter(&mut w, "dropped_unreachable"),
        way::either(1, 0),
        "the group has no members"
    );
    attach(&mut w, &mut a);
    a.post(&mut w, SendWr::send(2, &[]).to(group()));
    w.run();
    let order = way::either((50, 2), (2, 50));
    assert_eq!((a.completion(&w).wr_id, a.completion(&w).wr_id), order);
}

#[test]
fn h09_each_copy_has_its_own_fate() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    let mut good = end(&mut w);
    let mut deaf = end(&mut w);
    let mut other_key = end_with(&mut w, QpType::UD, QKEY + 1);
    let mut short = end(&mut w);
    let mut down = end(&mut w);
    for end in [&mut short, &mut deaf, &mut other_key, &mut down, &mut good] {
        attach(&mut w, end);
    }
    for end in [&mut good, &mut other_key, &mut down] {
        end.post_recv(&mut w, 50, 0, 200);
    }
    short.post_recv(&mut w, 50, 0, 47);
    let req = ModifyPortReq {
        state: regs::PORT_DOWN,
        reserved: 0,
    };
    down.guest
        .command::<[u8; 0]>(&mut w, Opcode::MODIFY_PORT, &req)
        .expect("down");
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 8)]).to(group()));
    w.run();
    assert_eq!(a.completion(&w).status, 0);
    assert_eq!(good.completion(&w).byte_len, 48);
    assert_eq!(deaf.guest.counter(&mut w, "dropped_no_receive"), 1);
    assert_eq!(other_key.guest.counter(&mut w, "qkey_violations"), 1);
    assert_ne!(short.completion(&w).status, 0);
    assert_eq!(short.guest.state(&mut w, short.qp.qpn), QpState::ERR);
    down.nothing(&w);
    // One that is in ERR is a member still, and no obstacle.
    good.post_recv(&mut w, 51, 0, 200);
    a.post(&mut w, SendWr::send(2, &[a.sge(0, 8)]).to(group()));
    w.run();
    assert_eq!(good.completion(&w).wr_id, 51);
}

#[test]
fn h09_a_group_is_addressed_by_the_multicast_number_alone() {
    let mut w = way::world(1);
    let (mut a, mut b) = (end(&mut w), end(&mut w));
    attach(&mut w, &mut b);
    b.post_recv(&mut w, 50, 0, 200);
    let args = address(GROUP, b.qp.qpn);
    a.post(&mut w, SendWr::send(1, &[]).to(args));
    w.run();
    b.nothing(&w);
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), way::either(1, 0));
}

#[test]
fn h03_attaching_fails_for_its_own_reasons() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    let (qpn, guest) = (a.qp.qpn, &mut a.guest);
    let mut refused = |w: &mut World, opcode, qpn, gid| {
        let failed = command(w, guest, opcode, qpn, gid).unwrap_err();
        (failed.status, failed.detail)
    };
    let (attach, detach) = (Opcode::ATTACH_MCAST, Opcode::DETACH_MCAST);
    let unicast = Gid::from_ipv4([10, 0, 0, 1]);
    assert_eq!(refused(&mut w, attach, qpn, unicast), (Refused::BAD_FIELD, 8));
    assert_eq!(
        refused(&mut w, attach, Qpn::truncate(7), GROUP),
        (Refused::NO_SUCH_OBJECT, 0)
    );
    assert_eq!(refused(&mut w, detach, qpn, GROUP), (Refused::NO_SUCH_OBJECT, 8));
    command(&mut w, &mut a.guest, attach, qpn, GROUP).expect("a member");
    let again = command(&mut w, &mut a.guest, attach, qpn, GROUP).unwrap_err();
    assert_eq!((again.status, again.detail), (Refused::BAD_FIELD, 8));
    // A member cannot be destroyed; RESET does not end its membership.
    let held = a.guest.destroy(&mut w, Opcode::DESTROY_QP, qpn.get()).unwrap_err();
    assert_eq!((held.status, held.detail), (Refused::IN_USE, 1));
    a.guest.modify_state(&mut w, qpn, QpState::RESET).expect("RESET");
    command(&mut w, &mut a.guest, detach, qpn, GROUP).expect("no member any more");
    a.guest.destroy(&mut w, Opcode::DESTROY_QP, qpn.get()).expect("gone");
    // Only UD.
    let mut gsi = end_with(&mut w, QpType::GSI, GSI_QKEY);
    let refused = command(&mut w, &mut gsi.guest, attach, gsi.qp.qpn, GROUP).unwrap_err();
    assert_eq!((refused.status, refused.detail), (Refused::BAD_FIELD, 0));
}

#[test]
fn h14_a_group_ends_with_its_members_and_is_limited() {
    let mut w = way::world(1);
    let mut a = end(&mut w);
    let mut b = end(&mut w);
    attach(&mut w, &mut b);
    // The guest is gone, its HCA reset: nobody is in the group any more.
    w.engine.reset_hca(b.guest.hca);
    a.post(&mut w, SendWr::send(1, &[]).to(group()));
    w.run();
    assert_eq!(a.guest.counter(&mut w, "dropped_unreachable"), way::either(1, 0));
    // The largest group: one datagram, 1024 copies, and no member more.
    let mut guest = Guest::start(&mut w, 64 << 20);
    let cq = guest.cq(&mut w, 12);
    let shape = QpShape {
        sq_log: 0,
        rq_log: 0,
        sq_log_stride: 7,
        rq_log_stride: 5,
        max_sge: 1,
        max_inline: 0,
    };
    for i in 0..=1024 {
        let mut req = guest.qp_request(&mut w, &cq, &cq, shape);
        req.qp_type = QpType::UD;
        let qp = guest.create_qp(&mut w, &req).expect("a queue pair");
        for (mask, attrs) in attrs::datagram(QpType::UD, QKEY) {
            guest.modify(&mut w, qp.qpn, mask, attrs).expect("a transition");
        }
        match command(&mut w, &mut guest, Opcode::ATTACH_MCAST, qp.qpn, GROUP) {
            Ok(()) => assert!(i < 1024),
            Err(failed) => {
                assert_eq!(i, 1024);
                assert_eq!((failed.status, failed.detail), (Refused::LIMIT, 1024));
            }
        }
    }
    a.post(&mut w, SendWr::send(2, &[]).to(group()));
    w.run();
    assert_eq!(guest.counter(&mut w, "dropped_no_receive"), 1024);
}
