// SPDX-License-Identifier: MIT OR Apache-2.0
//! H11: what a port counts of its own side, whatever the way to the peer is.

use crate::datagrams;
use crate::way;
use core::time::Duration;
use verbena_engine::testing::{attrs, Guest, SendWr, World};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::ModifyPortReq;
use verbena_hw::cqe::Status;
use verbena_hw::regs;

fn switch(w: &mut World, guest: &mut Guest, state: u32) {
    let req = ModifyPortReq { state, reserved: 0 };
    guest.command::<[u8; 0]>(w, Opcode::MODIFY_PORT, &req).expect("a state");
}

#[test]
fn h11_sends_and_receives_are_counted_apart_from_messages() {
    let mut pair = way::connected();
    let (w, a, b) = (&mut pair.world, &mut pair.a, &mut pair.b);
    for n in 0..5 {
        b.post_recv(w, n, 0x8000, 4096);
    }
    // As soon as one is done alone, and several at once; short and long.
    for len in [0, 8, 3000] {
        a.post(w, SendWr::send(1, &[a.sge(0, len)]));
        w.run();
    }
    a.qp.post_quietly(w, SendWr::send(2, &[a.sge(0, 16)]));
    a.qp.post_quietly(w, SendWr::write(3, &[a.sge(0, 16)], b.addr(0), b.rkey()));
    a.qp.post_quietly(w, SendWr::write(4, &[a.sge(0, 16)], b.addr(0), b.rkey()).imm(7));
    a.post(w, SendWr::read(5, &[a.sge(0, 16)], b.addr(0), b.rkey()));
    w.run();
    assert!(a.cq.drain(w).iter().all(|cqe| cqe.status == 0));
    assert_eq!(b.cq.drain(w).len(), 5);
    let of =
        |guest: &mut Guest, w: &mut World| ["sent_msgs", "rdma_sends", "rdma_recvs"].map(|name| guest.counter(w, name));
    assert_eq!(of(&mut a.guest, w), [7, 4, 0]);
    assert_eq!(of(&mut b.guest, w), [0, 0, 5]);
}

#[test]
fn h11_datagrams_are_sends_too() {
    let mut w = way::world(1);
    let (mut a, mut b) = (datagrams::end(&mut w), datagrams::end(&mut w));
    b.post_recv(&mut w, 1, 0, 200);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 8)]).to(datagrams::to(&b)));
    w.run();
    assert_eq!(a.guest.counter(&mut w, "rdma_sends"), 1);
    assert_eq!(b.guest.counter(&mut w, "rdma_recvs"), 1);
}

#[test]
fn h11_what_cannot_leave_is_an_error_of_sending_and_what_does_not_come_is_none() {
    // Whose port is off: the sender's, the receiver's.
    for (own, expected) in [(true, true), (false, false)] {
        let mut pair = way::connected();
        let (w, a, b) = (&mut pair.world, &mut pair.a, &mut pair.b);
        let off = if own { &mut a.guest } else { &mut b.guest };
        switch(w, off, regs::PORT_DOWN);
        switch(w, off, regs::PORT_DOWN);
        assert_eq!(off.counter(w, "link_downed"), 1, "once, however often it is told");
        a.post(w, SendWr::send(1, &[a.sge(0, 8)]));
        w.advance(Duration::from_secs(2));
        assert_eq!(Status(a.completion(w).status), Status::RETRY_EXC_ERR);
        assert_eq!(a.guest.counter(w, "send_err") > 0, expected, "own port: {own}");
        assert_eq!(b.guest.counter(w, "send_err"), 0);
        assert_eq!(a.guest.counter(w, "retry_exceeded_err"), 1);
        let allowed = attrs::rts(0).1.retry_cnt;
        assert_eq!(a.guest.counter(w, "completer_retry_err"), u64::from(allowed));
    }
    let mut w = way::world(1);
    let (mut a, b) = (datagrams::end(&mut w), datagrams::end(&mut w));
    switch(&mut w, &mut a.guest, regs::PORT_DOWN);
    a.post(&mut w, SendWr::send(1, &[a.sge(0, 8)]).to(datagrams::to(&b)));
    w.run();
    assert_eq!(a.completion(&w).status, 0, "a datagram is gone when it is sent");
    assert_eq!(a.guest.counter(&mut w, "send_err"), 1);
}
