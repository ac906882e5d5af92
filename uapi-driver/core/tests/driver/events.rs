// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! From an event queue entry to an event of an object, and not to anybody else's.

use crate::bench::client::App;
use crate::bench::scripted::Scripted;
use crate::bench::Bench;
use rdma_uapi::class::event_queue::kind;
use rdma_uapi::class::{self, COOKIE, EVENT_QUEUE_OF};
use rdma_uapi::wire::ObjectId;
use verbena_core::schema::CQE_COOKIE;
use verbena_hw::eqe::{Eqe, Event};
use verbena_hw::regs;

fn app() -> App {
    App::start(Bench::new(Scripted::default()))
}

/// The device raises an event and its interrupt.
fn raise(app: &App, eqn: u32, vector: u16, eqe: Eqe) {
    app.bench.model::<Scripted>().event(&app.bench.0.ram, eqn, eqe);
    verbena_core::interrupt(&app.device, vector);
}

fn completion(cqn: u32) -> Eqe {
    Eqe {
        event: Event::COMPLETION.0,
        number: cqn,
        ..Eqe::default()
    }
}

#[test]
fn u09_a_completion_event_reaches_the_queue_that_the_cq_reports_to() {
    let app = app();
    let (queue, fd) = app.event_queue();
    let (object, cqn, _) = app
        .cq(16, |m| {
            m.put(EVENT_QUEUE_OF, &ObjectId(queue)).put(COOKIE, &0xabc);
        })
        .unwrap();
    let (_, silent, _) = app.cq(16, |_| {}).unwrap();

    // Completion vector 0 is event queue 1 on MSI-X vector 2.
    raise(&app, 1, 2, completion(silent));
    assert_eq!(app.next_event(fd), None, "a queue that reports nowhere");
    raise(&app, 1, 3, completion(cqn));
    assert_eq!(
        app.next_event(fd),
        None,
        "the interrupt of another vector looks elsewhere"
    );
    verbena_core::interrupt(&app.device, 2);
    let event = app.next_event(fd).expect("an event");
    assert_eq!(
        (event.kind, event.class, event.object),
        (kind::COMPLETION, class::CQ, object)
    );
    assert_eq!((event.cookie, event.count), (0xabc, 1));
    // Two entries were consumed, and the next one shall interrupt again.
    let doorbell = app.bench.model::<Scripted>().written(regs::eq_db(1)).unwrap() as u32;
    assert_eq!(doorbell, 2 | regs::EQ_DB_ARM);
}

#[test]
fn u09_device_numbers_of_different_kinds_do_not_mix() {
    let app = app();
    let (queue, fd) = app.event_queue();
    let parts = app.parts();
    let (object, qpn, _) = app
        .qp(&parts, |m| {
            m.put(EVENT_QUEUE_OF, &ObjectId(queue))
                .put(COOKIE, &7)
                .put(CQE_COOKIE, &99);
        })
        .unwrap();
    // A CQ with the QP's number does not exist.
    raise(
        &app,
        0,
        1,
        Eqe {
            event: Event::CQ_ERR.0,
            number: qpn,
            cookie: 99,
            ..Eqe::default()
        },
    );
    assert_eq!(app.next_event(fd), None);
    raise(
        &app,
        0,
        1,
        Eqe {
            event: Event::QP_FATAL.0,
            number: qpn,
            cookie: 99,
            data: 5,
            ..Eqe::default()
        },
    );
    let event = app.next_event(fd).expect("an event");
    assert_eq!(
        (event.kind, event.class, event.object),
        (kind::QP_FATAL, class::QP_RC, object)
    );
    assert_eq!((event.cookie, event.data), (7, 5));
}

#[test]
fn u09_an_entry_of_an_earlier_object_with_the_number_is_nobodys() {
    let app = app();
    let (queue, fd) = app.event_queue();
    let parts = app.parts();
    let (_, qpn, _) = app
        .qp(&parts, |m| {
            m.put(EVENT_QUEUE_OF, &ObjectId(queue)).put(CQE_COOKIE, &2);
        })
        .unwrap();
    raise(
        &app,
        0,
        1,
        Eqe {
            event: Event::COMM_EST.0,
            number: qpn,
            cookie: 1,
            ..Eqe::default()
        },
    );
    assert_eq!(app.next_event(fd), None);
}

#[test]
fn u09_no_event_of_a_destroyed_object_is_delivered() {
    let app = app();
    let (queue, fd) = app.event_queue();
    let report = |m: &mut rdma_uapi::client::Builder<'_>| {
        m.put(EVENT_QUEUE_OF, &ObjectId(queue));
    };
    let (object, cqn, _) = app.cq(16, report).unwrap();
    // One that was delivered and not read, one that waits in the ring, one that comes later.
    raise(&app, 1, 2, completion(cqn));
    app.bench
        .model::<Scripted>()
        .event(&app.bench.0.ram, 1, completion(cqn));
    app.destroy(class::CQ, object).unwrap();
    let told = app.bench.model::<Scripted>().written(regs::eq_db(1)).unwrap() as u32;
    assert_eq!(
        told & !regs::EQ_DB_ARM,
        2,
        "the waiting entry was consumed before the number can be reused"
    );
    raise(&app, 1, 2, completion(cqn));
    assert_eq!(app.next_event(fd), None);
}

#[test]
fn u09_port_and_device_events_reach_every_context_that_asked() {
    let app = app();
    let other = app.another();
    let ((_, fd), (_, other_fd)) = (app.event_queue(), other.event_queue());
    app.associate(fd, class::PORT, 1, 11).unwrap();
    other.associate(other_fd, class::PORT, 1, 22).unwrap();
    other.associate(other_fd, class::DEVICE, 0, 33).unwrap();
    raise(
        &app,
        0,
        1,
        Eqe {
            event: Event::PORT_ERR.0,
            number: 1,
            ..Eqe::default()
        },
    );
    raise(
        &app,
        0,
        1,
        Eqe {
            event: Event::DEVICE_FATAL.0,
            ..Eqe::default()
        },
    );
    raise(
        &app,
        0,
        1,
        Eqe {
            event: 0xee,
            number: 1,
            ..Eqe::default()
        },
    );
    let event = app.next_event(fd).expect("an event");
    assert_eq!((event.kind, event.object, event.cookie), (kind::PORT_ERROR, 1, 11));
    assert_eq!(app.next_event(fd), None);
    assert_eq!(other.next_event(other_fd).expect("an event").cookie, 22);
    let event = other.next_event(other_fd).expect("an event");
    assert_eq!((event.kind, event.cookie), (kind::DEVICE_FATAL, 33));
    assert_eq!(
        other.next_event(other_fd),
        None,
        "an event that nobody knows is nobody's"
    );
}

#[test]
fn h12_the_event_ring_goes_round() {
    let app = app();
    let (queue, fd) = app.event_queue();
    let (_, cqn, _) = app
        .cq(16, |m| {
            m.put(EVENT_QUEUE_OF, &ObjectId(queue));
        })
        .unwrap();
    for _ in 0..1000 {
        raise(&app, 1, 2, completion(cqn));
        assert_eq!(app.next_event(fd).expect("an event").kind, kind::COMPLETION);
    }
}
