// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections by address and port, between HCAs of one server (U18).

use crate::common::{Device, Side, LONG};
use std::time::Duration;
use verbena::{
    cm_params, cm_state, CmAddr, CmId, CmOptions, ConnectError, Connection, Context, Error, EventKind, Listener,
    QpState, RecvWr, SendWr,
};

const PORT: u16 = 7471;

fn address(context: &Context) -> CmAddr {
    CmAddr::new(context.gid(1, 0).unwrap(), PORT)
}

/// A connection from `left` to `right`, with everything on both sides.
fn connected(left: &Context, right: &Context) -> ((Side, Connection), (Side, Connection)) {
    let listener = Listener::bind(right, CmAddr::any(PORT), 4).unwrap();
    let to = address(right);
    std::thread::scope(|scope| {
        let active = scope.spawn(move || {
            let mut side = Side::new(left, 16);
            let options = CmOptions::new().private_data(b"ahoy");
            let connection = Connection::connect(&mut side.qp, to, &options, LONG).unwrap();
            (side, connection)
        });
        let incoming = listener.next(LONG).unwrap().expect("a request");
        assert_eq!(incoming.info().state, cm_state::REQUESTED);
        assert_eq!(incoming.info().private_data[..4], *b"ahoy");
        assert_eq!(incoming.info().peer.gid, left.gid(1, 0).unwrap());
        let mut side = Side::new(right, 16);
        let options = CmOptions::new().private_data(b"welcome");
        let connection = incoming.accept(&mut side.qp, &options, LONG).unwrap();
        (active.join().unwrap(), (side, connection))
    })
}

fn hello(from: &mut Side, to: &mut Side) {
    let buffer = to.context.alloc_buffer(64).unwrap();
    let region = to.pd.register(&buffer, verbena::Access::LOCAL_WRITE).unwrap();
    to.qp.post_recv(&RecvWr::new(&[region.sge(..)]).wr_id(7)).unwrap();
    from.qp
        .post_send(&SendWr::send().inline(b"hello").wr_id(8).signaled())
        .unwrap();
    for (side, wr_id) in [(from, 8), (to, 7)] {
        let completion = side.complete();
        completion.ok().unwrap();
        assert_eq!(completion.wr_id, wr_id);
    }
    assert_eq!(buffer.to_vec(0, 5), b"hello");
}

#[test]
fn u18_one_call_a_side_connects_two_hcas_and_one_disconnects_them() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let ((mut left, out), (mut right, into)) = connected(&a, &b);
    assert_eq!(left.qp.query().unwrap().state, QpState::RTS);
    assert_eq!(out.id().query().unwrap().private_data[..7], *b"welcome");
    hello(&mut left, &mut right);
    hello(&mut right, &mut left);

    into.disconnect().unwrap();
    assert_eq!(right.qp.query().unwrap().state, QpState::ERR);
    assert!(out.wait_disconnected(LONG).unwrap());
    assert!(into.wait_disconnected(LONG).unwrap());
    assert_eq!(left.qp.query().unwrap().state, QpState::ERR);
}

#[test]
fn u18_an_hca_connects_to_itself_in_one_context() {
    let device = Device::new(1);
    let context = device.open(0);
    let ((mut left, out), (mut right, _into)) = connected(&context, &context);
    hello(&mut left, &mut right);
    drop(_into);
    assert!(out.wait_disconnected(LONG).unwrap());
}

#[test]
fn u18_nobody_listens_and_the_application_refuses() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let mut side = Side::new(&a, 4);
    // The other HCA answers only when it has somebody who uses its QP 1.
    let listener = Listener::bind(&b, CmAddr::any(PORT), 4).unwrap();
    let elsewhere = CmAddr::new(b.gid(1, 0).unwrap(), PORT + 1);
    match Connection::connect(&mut side.qp, elsewhere, &CmOptions::new(), LONG).map(|_| ()) {
        Err(Error::Connect(ConnectError::Rejected { reason: 8, .. })) => {}
        other => panic!("{other:?}"),
    }
    side.qp.reset(&mut [&mut side.cq]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let incoming = listener.next(LONG).unwrap().expect("a request");
            incoming.reject(b"not today").unwrap();
        });
        match Connection::connect(&mut side.qp, address(&b), &CmOptions::new(), LONG).map(|_| ()) {
            Err(Error::Connect(ConnectError::Rejected {
                reason: 28,
                private_data,
            })) => assert_eq!(private_data[..9], *b"not today"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn u18_a_peer_that_is_not_there_is_unreachable_after_the_retries() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let mut side = Side::new(&a, 4);
    let mut params = cm_params();
    // 4.2 ms, four times.
    (params.response_timeout, params.max_cm_retries) = (10, 3);
    let begun = std::time::Instant::now();
    let options = CmOptions::new().params(params);
    match Connection::connect(&mut side.qp, address(&b), &options, LONG).map(|_| ()) {
        Err(Error::Connect(ConnectError::Unreachable)) => {}
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() >= Duration::from_micros(4 * 4194));
    assert_eq!(side.qp.query().unwrap().state, QpState::ERR);
}

#[test]
fn u18_nobody_else_moves_a_queue_pair_that_is_being_connected() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let events = a.create_event_queue().unwrap();
    let id = CmId::new(&a, &events, 5).unwrap();
    let mut side = Side::new(&a, 4);
    id.connect(&mut side.qp, address(&b), &CmOptions::new()).unwrap();
    assert_eq!(side.qp.state(), QpState::INIT);
    let tampered = side.qp.connect(&side.qp.endpoint().unwrap());
    assert_eq!(tampered.unwrap_err().errno(), Some(verbena::Errno::EBUSY));
    let second = CmId::new(&a, &events, 6).unwrap();
    let taken = second.connect(&mut side.qp, address(&b), &CmOptions::new());
    assert_eq!(taken.unwrap_err().errno(), Some(verbena::Errno::EBUSY));
    drop(id);
    assert_eq!(side.qp.query().unwrap().state, QpState::ERR);
    side.qp.reset(&mut [&mut side.cq]).unwrap();
    side.qp.init().unwrap();
}

#[test]
fn u18_the_backlog_refuses_and_a_listener_that_goes_refuses_who_waits() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let listener = Listener::bind(&b, CmAddr::any(PORT), 2).unwrap();
    let events = a.create_event_queue().unwrap();
    let mut sides: Vec<Side> = (0..3).map(|_| Side::new(&a, 4)).collect();
    let mut ids = Vec::new();
    for (n, side) in sides.iter_mut().enumerate() {
        let id = CmId::new(&a, &events, n as u64).unwrap();
        id.connect(&mut side.qp, address(&b), &CmOptions::new()).unwrap();
        ids.push(id);
    }
    let event = events.next_event(Some(LONG)).unwrap().expect("a refusal");
    assert_eq!((event.kind, event.cookie, event.data), (EventKind::CmRejected, 2, 3));
    drop(listener);
    let mut refused: Vec<u64> = (0..2)
        .map(|_| {
            let event = events.next_event(Some(LONG)).unwrap().expect("a refusal");
            assert_eq!(event.kind, EventKind::CmRejected);
            event.cookie
        })
        .collect();
    refused.sort_unstable();
    assert_eq!(refused, [0, 1]);
}

#[test]
fn u18_ports_are_one_listeners_and_free_again() {
    let device = Device::new(1);
    let context = device.open(0);
    let first = Listener::bind(&context, CmAddr::any(0), 1).unwrap();
    assert!(first.address().port >= 49152);
    let taken = Listener::bind(&context, CmAddr::any(first.address().port), 1).map(|_| ());
    assert_eq!(taken.unwrap_err().errno(), Some(verbena::Errno::EADDRINUSE));
    let port = first.address().port;
    drop(first);
    Listener::bind(&context, CmAddr::any(port), 1).unwrap();
    let foreign = CmAddr::new(verbena::Gid::from_ipv4([192, 0, 2, 1]), PORT);
    let not_ours = Listener::bind(&context, foreign, 1).map(|_| ());
    assert_eq!(not_ours.unwrap_err().errno(), Some(verbena::Errno::EADDRNOTAVAIL));
}

#[test]
fn u18_a_context_that_closes_disconnects() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let ((left, out), right) = connected(&a, &b);
    // Another context keeps the attachment, so that the news can be told.
    let _keep = device.open(1);
    drop(right);
    drop(b);
    assert!(out.wait_disconnected(LONG).unwrap());
    drop(left);
}

#[test]
fn u18_a_queue_pair_that_is_destroyed_ends_its_connection() {
    let device = Device::new(2);
    let (a, b) = (device.open(0), device.open(1));
    let ((left, out), (_right, into)) = connected(&a, &b);
    drop(left);
    assert!(into.wait_disconnected(LONG).unwrap());
    assert!(out.wait_disconnected(LONG).unwrap());
}
