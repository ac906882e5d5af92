// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Event queues: U9.

mod support;

use rdma_uapi::class::{self, cq, event_queue as eq, ASYNC_EVENTS, COMPLETION_EVENTS, COOKIE, EVENT_QUEUE_OF};
use rdma_uapi::sys::Arc;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Errno, Failure, Object, Reason};
use std::sync::atomic::{AtomicU64, Ordering};
use support::verbs::{Process, State, Verbs};
use zerocopy::{FromBytes, IntoBytes};

fn process() -> Process {
    Process::new(State::default())
}

fn cq_reporting_to(p: &Process, queue: ObjectId, cookie: u64) -> u32 {
    p.call(method::CREATE, class::CQ, 0, |m| {
        m.put(cq::CQE, &16).put(EVENT_QUEUE_OF, &queue).put(COOKIE, &cookie);
    })
    .expect("a CQ")
    .object()
}

/// What an interrupt finds by the queue's number.
fn interrupt(p: &Process, cq: u32) -> Arc<Object<Verbs>> {
    let cqs = p.device.state().cqs.lock().unwrap();
    cqs.iter()
        .find(|object| object.id().0 == cq)
        .expect("the CQ is known")
        .clone()
}

fn complete(p: &Process, cq: u32) {
    interrupt(p, cq).post(eq::kind::COMPLETION, 0);
}

fn read(p: &Process, fd: u32) -> Vec<eq::Event> {
    let mut events = [eq::Event::default(); 64];
    let n = p.bench.fd::<Verbs>(fd).queue().take(&mut events);
    events[..n].to_vec()
}

fn change(p: &Process, fd: u32, on: bool, what: &[(u16, u32, u64)]) -> Result<(), Failure> {
    let what: Vec<_> = what
        .iter()
        .map(|&(class, object, cookie)| eq::Association {
            class,
            object: ObjectId(object),
            cookie,
            ..Default::default()
        })
        .collect();
    let attr = if on { eq::ASSOCIATE } else { eq::DISSOCIATE };
    p.call_fd(fd, method::MODIFY, class::EVENT_QUEUE, |m| {
        m.put_array(attr, &what);
    })
    .map(|_| ())
}

#[test]
fn u09_a_completion_reaches_the_queue_named_at_creation() {
    let p = process();
    let (fd, queue) = p.queue();
    let cq = cq_reporting_to(&p, queue, 0xfeed);
    let object = p.bench.fd::<Verbs>(fd);
    assert_eq!(object.queue().read(&mut [0; 32]), Err(Errno::EAGAIN), "nothing yet");
    let rung = object.queue().wait().rung();
    complete(&p, cq);
    assert_eq!(object.queue().wait().rung(), rung + 1, "readers are woken");

    let mut bytes = [0u8; 100];
    assert_eq!(
        object.queue().read(&mut bytes[..31]),
        Err(Errno::EINVAL),
        "not even one event fits"
    );
    assert_eq!(object.queue().read(&mut bytes), Ok(32));
    let event = eq::Event::read_from_bytes(&bytes[..32]).unwrap();
    assert_eq!(
        (event.kind, event.class, event.object),
        (eq::kind::COMPLETION, class::CQ, cq)
    );
    assert_eq!((event.cookie, event.count), (0xfeed, 1));
    assert_eq!(object.queue().read(&mut bytes), Err(Errno::EAGAIN));
}

#[test]
fn u09_an_unread_completion_absorbs_the_next() {
    let p = process();
    let (fd, queue) = p.queue();
    let (a, b) = (cq_reporting_to(&p, queue, 1), cq_reporting_to(&p, queue, 2));
    for _ in 0..1000 {
        complete(&p, a);
        complete(&p, b);
    }
    let events = read(&p, fd);
    assert_eq!(
        events.iter().map(|e| (e.cookie, e.count)).collect::<Vec<_>>(),
        [(1, 1000), (2, 1000)]
    );
    complete(&p, a);
    assert_eq!(read(&p, fd).len(), 1, "one that was read absorbs nothing");

    // After another object's events were taken out of the middle, the right one still absorbs.
    complete(&p, b);
    complete(&p, a);
    p.destroy(class::CQ, b).unwrap();
    complete(&p, a);
    let events = read(&p, fd);
    assert_eq!(events.iter().map(|e| (e.cookie, e.count)).collect::<Vec<_>>(), [(1, 2)]);
}

#[test]
fn u09_no_event_of_a_destroyed_object_is_delivered() {
    let p = process();
    let (fd, queue) = p.queue();
    let (a, b) = (cq_reporting_to(&p, queue, 1), cq_reporting_to(&p, queue, 2));
    let late = interrupt(&p, a);
    complete(&p, a);
    complete(&p, b);
    late.post(eq::kind::CQ_ERROR, 5);
    p.destroy(class::CQ, a).unwrap();
    // An interrupt that had found the object before it was destroyed.
    late.post(eq::kind::COMPLETION, 0);
    late.post(eq::kind::CQ_ERROR, 5);
    assert_eq!(read(&p, fd).iter().map(|e| e.cookie).collect::<Vec<_>>(), [2]);
}

#[test]
fn u09_any_object_can_be_associated_and_re_associated() {
    let p = process();
    let (first, _) = p.queue();
    let (second, _) = p.queue();
    let (pd, cq) = (p.pd(), p.cq());
    let qp = p.qp(pd, cq);
    complete(&p, cq);
    assert!(read(&p, first).is_empty(), "associated with nothing: nothing");

    change(
        &p,
        first,
        true,
        &[
            (class::CQ, cq, 1),
            (class::QP_RC, qp, 2),
            (class::DEVICE, 0, 3),
            (class::PORT, 2, 4),
        ],
    )
    .unwrap();
    complete(&p, cq);
    p.context
        .store()
        .get(ObjectId(qp))
        .unwrap()
        .post(eq::kind::COMM_ESTABLISHED, 9);
    p.device.post(class::PORT, 1, eq::kind::PORT_ACTIVE, 0);
    p.device.post(class::PORT, 2, eq::kind::PORT_ERROR, 0);
    p.device.post(class::DEVICE, 0, eq::kind::DEVICE_FATAL, 0);
    let got: Vec<_> = read(&p, first).iter().map(|e| (e.cookie, e.kind, e.object)).collect();
    assert_eq!(
        got,
        [
            (1, eq::kind::COMPLETION, cq),
            (2, eq::kind::COMM_ESTABLISHED, qp),
            (4, eq::kind::PORT_ERROR, 2),
            (3, eq::kind::DEVICE_FATAL, 0)
        ]
    );

    // To another queue: what was reported and not read goes, new events come there.
    complete(&p, cq);
    p.device.post(class::PORT, 2, eq::kind::PORT_ACTIVE, 0);
    change(&p, second, true, &[(class::CQ, cq, 5), (class::PORT, 2, 6)]).unwrap();
    assert!(read(&p, first).is_empty());
    complete(&p, cq);
    p.device.post(class::PORT, 2, eq::kind::GID_CHANGE, 0);
    assert_eq!(read(&p, second).iter().map(|e| e.cookie).collect::<Vec<_>>(), [5, 6]);

    // Only the queue that has it can let it go.
    change(&p, first, false, &[(class::CQ, cq, 0), (class::PORT, 2, 0)]).unwrap();
    complete(&p, cq);
    assert_eq!(read(&p, second).len(), 1);
    change(&p, second, false, &[(class::CQ, cq, 0), (class::PORT, 2, 0)]).unwrap();
    complete(&p, cq);
    p.device.post(class::PORT, 2, eq::kind::GID_CHANGE, 0);
    assert!(read(&p, second).is_empty());
}

#[test]
fn u09_what_cannot_be_associated_is_named() {
    let p = process();
    let (fd, queue) = p.queue();
    let (pd, cq) = (p.pd(), p.cq());
    for (what, errno, reason) in [
        ((class::PD, pd), Errno::EOPNOTSUPP, Reason::UNSUPPORTED),
        ((class::EVENT_QUEUE, queue.0), Errno::EOPNOTSUPP, Reason::UNSUPPORTED),
        ((class::QP_RC, cq), Errno::EINVAL, Reason::WRONG_CLASS),
        ((class::CQ, 0x7777), Errno::ENOENT, Reason::NO_OBJECT),
        ((class::PORT, 0), Errno::ENOENT, Reason::NO_OBJECT),
        ((class::PORT, 3), Errno::ENOENT, Reason::NO_OBJECT),
        ((class::DEVICE, 1), Errno::ENOENT, Reason::NO_OBJECT),
    ] {
        let failure = change(&p, fd, true, &[(class::CQ, cq, 0), (what.0, what.1, 0)]).unwrap_err();
        assert_eq!((failure.errno, failure.reason), (errno, reason), "{what:?}");
        assert_eq!(
            (failure.attr, failure.offset, failure.detail),
            (eq::ASSOCIATE.id(), 24, 1),
            "the second one"
        );
    }
    let failure = p
        .call_fd(fd, method::MODIFY, class::EVENT_QUEUE, |m| {
            m.put_array(
                rdma_uapi::schema::Attr::<[u8]>::array(eq::ASSOCIATE.id(), "associate"),
                &[0; 23],
            );
        })
        .unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::NOT_WHOLE));
    let failure = p
        .call(method::CREATE, class::CQ, 0, |m| {
            m.put(cq::CQE, &16).put(EVENT_QUEUE_OF, &ObjectId(pd));
        })
        .unwrap_err();
    assert_eq!(
        (failure.attr, failure.reason, failure.detail),
        (EVENT_QUEUE_OF.id(), Reason::WRONG_CLASS, class::PD)
    );
}

#[test]
fn u09_read_events_takes_many_at_once() {
    let p = process();
    let (fd, queue) = p.queue();
    let cqs: Vec<u32> = (0..10).map(|n| cq_reporting_to(&p, queue, n)).collect();
    for &cq in &cqs {
        complete(&p, cq);
    }
    let sent = p.call_fd(fd, eq::READ_EVENTS, class::EVENT_QUEUE, |m| {
        m.ask_array(eq::EVENTS, 4).ask(eq::PENDING);
    });
    let sent = sent.unwrap();
    let cookies = |events: Vec<eq::Event>| events.iter().map(|e| e.cookie).collect::<Vec<_>>();
    assert_eq!(cookies(sent.reply().array(eq::EVENTS).collect()), [0, 1, 2, 3]);
    assert_eq!(sent.reply().get(eq::PENDING), Some(6));
    let addr = p.bench.map(&[0; 32 * 100]);
    let sent = p.call_fd(fd, eq::READ_EVENTS, class::EVENT_QUEUE, |m| {
        m.by_pointer(eq::EVENTS, addr, 3200);
    });
    assert_eq!(sent.unwrap().reply().answered(eq::EVENTS.id()).unwrap().written, 6 * 32);
    let last = eq::Event::read_from_bytes(&p.bench.read(addr)[160..192]).unwrap();
    assert_eq!(last.cookie, 9);
    let sent = p.call_fd(fd, eq::READ_EVENTS, class::EVENT_QUEUE, |m| {
        m.ask_array(eq::EVENTS, 4);
    });
    assert_eq!(sent.unwrap().reply().array(eq::EVENTS).count(), 0, "none is no error");
}

#[test]
fn u09_thousands_of_objects_on_one_queue() {
    let p = process();
    let sent = p.call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
        m.put(eq::CAPACITY, &4096).ask(eq::ID);
    });
    let sent = sent.unwrap();
    let (fd, queue) = (sent.object(), sent.reply().get(eq::ID).unwrap());
    let cqs: Vec<u32> = (0..4096).map(|n| cq_reporting_to(&p, queue, n)).collect();
    let objects = p.device.state().cqs.lock().unwrap().iter().cloned().collect::<Vec<_>>();
    for _ in 0..3 {
        for object in &objects {
            object.post(eq::kind::COMPLETION, 0);
        }
    }
    let mut seen = 0;
    loop {
        let events = read(&p, fd);
        if events.is_empty() {
            break;
        }
        for event in events {
            assert_eq!((event.object, event.count), (cqs[event.cookie as usize], 3));
            seen += 1;
        }
    }
    assert_eq!(seen, 4096, "every queue once, none lost");
}

#[test]
fn u09_a_full_queue_says_how_many_it_lost() {
    let p = process();
    let (fd, queue) = p.queue();
    let object = interrupt(&p, cq_reporting_to(&p, queue, 1));
    // News of their own, which are not counted together: 16 are the capacity, 2 the room of a CQ.
    for n in 0..22 {
        object.post(eq::kind::DEVICE_ADDED, n);
    }
    let events = read(&p, fd);
    assert_eq!(events.len(), 19);
    assert_eq!(
        events[..18].iter().map(|e| e.data).collect::<Vec<_>>(),
        (0..18).collect::<Vec<_>>()
    );
    assert_eq!((events[18].kind, events[18].data), (eq::kind::LOST, 4));
    object.post(eq::kind::DEVICE_ADDED, 99);
    assert_eq!(read(&p, fd).len(), 1, "and goes on");

    for n in 0..20 {
        object.post(eq::kind::DEVICE_ADDED, n);
    }
    p.device.remove();
    let events = read(&p, fd);
    let last: Vec<_> = events[events.len() - 2..].iter().map(|e| (e.kind, e.data)).collect();
    assert_eq!(
        last,
        [(eq::kind::LOST, 2), (eq::kind::DEVICE_GONE, 0)],
        "the last word is the last"
    );
}

#[test]
fn u09_completion_and_asynchronous_events_are_never_lost() {
    let p = process();
    let sent = p.call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
        m.put(eq::CAPACITY, &1).ask(eq::ID);
    });
    let sent = sent.unwrap();
    let (fd, queue) = (sent.object(), sent.reply().get(eq::ID).unwrap());
    let cqs: Vec<_> = (0..500).map(|n| cq_reporting_to(&p, queue, n)).collect();
    let pd = p.pd();
    let qps: Vec<_> = (0..100).map(|_| p.qp(pd, cqs[0])).collect();
    let qps_too: Vec<_> = qps.iter().map(|&qp| (class::QP_RC, qp, 0)).collect();
    change(&p, fd, true, &qps_too).unwrap();
    change(
        &p,
        fd,
        true,
        &[(class::DEVICE, 0, 0), (class::PORT, 1, 0), (class::PORT, 2, 0)],
    )
    .unwrap();

    use eq::kind::*;
    let of_qps = [
        QP_FATAL,
        QP_REQUEST_ERROR,
        QP_ACCESS_ERROR,
        COMM_ESTABLISHED,
        SQ_DRAINED,
        PATH_MIGRATED,
        PATH_MIGRATION_ERROR,
        QP_LAST_WQE_REACHED,
    ];
    let of_ports = [
        PORT_ACTIVE,
        PORT_ERROR,
        LID_CHANGE,
        PKEY_CHANGE,
        SM_CHANGE,
        CLIENT_REREGISTER,
        GID_CHANGE,
    ];
    for _ in 0..3 {
        for &cq in &cqs {
            complete(&p, cq);
            interrupt(&p, cq).post(CQ_ERROR, 0);
        }
        for &qp in &qps {
            let qp = p.context.store().get(ObjectId(qp)).unwrap();
            of_qps.iter().for_each(|&kind| qp.post(kind, 0));
        }
        for port in [1, 2] {
            of_ports
                .iter()
                .for_each(|&kind| p.device.post(class::PORT, port, kind, 0));
        }
        p.device.post(class::DEVICE, 0, DEVICE_FATAL, 0);
    }
    let mut seen = std::collections::BTreeMap::new();
    loop {
        let events = read(&p, fd);
        if events.is_empty() {
            break;
        }
        for event in events {
            assert_eq!((event.count, event.reserved), (3, 0), "{event:?}");
            let twice = seen.insert((event.class, event.object, event.kind), ());
            assert!(twice.is_none(), "{event:?} is there twice");
        }
    }
    assert_eq!(seen.len(), 2 * 500 + 8 * 100 + 7 * 2 + 1);
}

#[test]
fn u09_the_last_of_an_objects_asynchronous_events_is_read_last() {
    let p = process();
    let (fd, queue) = p.queue();
    let cq = cq_reporting_to(&p, queue, 7);
    change(&p, fd, true, &[(class::PORT, 1, 1)]).unwrap();
    p.device.post(class::PORT, 1, eq::kind::PORT_ERROR, 10);
    complete(&p, cq);
    p.device.post(class::PORT, 1, eq::kind::PORT_ACTIVE, 11);
    p.device.post(class::PORT, 1, eq::kind::PORT_ERROR, 12);
    complete(&p, cq);
    let got: Vec<_> = read(&p, fd).iter().map(|e| (e.kind, e.data, e.count)).collect();
    assert_eq!(
        got,
        [
            (eq::kind::COMPLETION, 0, 2),
            (eq::kind::PORT_ACTIVE, 11, 1),
            (eq::kind::PORT_ERROR, 12, 2)
        ]
    );
}

#[test]
fn u09_destroy_answers_how_many_events_the_program_was_given() {
    let p = process();
    let ((first, queue), (second, _)) = (p.queue(), p.queue());
    let cq = cq_reporting_to(&p, queue, 1);
    for _ in 0..3 {
        complete(&p, cq);
        complete(&p, cq);
        assert_eq!(read(&p, first).len(), 1);
    }
    interrupt(&p, cq).post(eq::kind::CQ_ERROR, 0);
    assert_eq!(read(&p, first).len(), 1);
    // What it is given elsewhere counts as well, what it never reads does not.
    change(&p, second, true, &[(class::CQ, cq, 1)]).unwrap();
    complete(&p, cq);
    assert_eq!(read(&p, second).len(), 1);
    complete(&p, cq);
    let sent = p.call(method::DESTROY, class::CQ, cq, |m| {
        m.ask(COMPLETION_EVENTS).ask(ASYNC_EVENTS);
    });
    let sent = sent.unwrap();
    let given = (sent.reply().get(COMPLETION_EVENTS), sent.reply().get(ASYNC_EVENTS));
    assert_eq!(given, (Some(4), Some(1)));
    assert!(read(&p, second).is_empty());

    let pd = p.pd();
    let qp = p.qp(pd, p.cq());
    let sent = p.call(method::DESTROY, class::QP_RC, qp, |m| {
        m.ask(ASYNC_EVENTS);
    });
    assert_eq!(
        sent.unwrap().reply().get(ASYNC_EVENTS),
        Some(0),
        "it never reported to any queue"
    );
}

#[test]
fn u09_every_event_reaches_exactly_one_of_several_readers() {
    const POSTS: u64 = 20_000;
    let p = process();
    let (fd, queue) = p.queue();
    let cqs: Vec<_> = (0..8).map(|n| interrupt(&p, cq_reporting_to(&p, queue, n))).collect();
    let (counted, reads) = (AtomicU64::new(0), AtomicU64::new(0));
    let posting = AtomicU64::new(2);
    std::thread::scope(|threads| {
        for half in cqs.chunks(4) {
            let posting = &posting;
            threads.spawn(move || {
                for n in 0..POSTS {
                    half[n as usize % 4].post(eq::kind::COMPLETION, 0);
                }
                posting.fetch_sub(1, Ordering::Release);
            });
        }
        for _ in 0..3 {
            threads.spawn(|| {
                let object = p.bench.fd::<Verbs>(fd);
                let mut events = [eq::Event::default(); 3];
                loop {
                    // In this order: what was posted before the end was noticed is still read.
                    let over = posting.load(Ordering::Acquire) == 0;
                    let n = object.queue().take(&mut events);
                    for event in &events[..n] {
                        counted.fetch_add(event.count.into(), Ordering::Relaxed);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    if over && n == 0 {
                        break;
                    }
                }
            });
        }
    });
    assert_eq!(
        counted.load(Ordering::Relaxed),
        2 * POSTS,
        "no wake-up is missed, none is told twice"
    );
    let given: u64 = cqs
        .iter()
        .map(|cq| {
            let sent = p.call(method::DESTROY, class::CQ, cq.id().0, |m| {
                m.ask(COMPLETION_EVENTS);
            });
            u64::from(sent.unwrap().reply().get(COMPLETION_EVENTS).unwrap())
        })
        .sum();
    assert_eq!(given, reads.load(Ordering::Relaxed));
}

#[test]
fn u09_room_that_is_given_back_is_used_again() {
    let p = process();
    let (fd, _) = p.queue();
    let cq = p.cq();
    let bytes = || p.bench.fd::<Verbs>(fd).queue().bytes();
    change(&p, fd, true, &[(class::CQ, cq, 0)]).unwrap();
    let before = bytes();
    for n in 0..10_000 {
        complete(&p, cq);
        change(&p, fd, n % 2 == 0, &[(class::CQ, cq, n)]).unwrap();
    }
    assert!(bytes() <= 2 * before, "{before} bytes became {}", bytes());
}

#[test]
fn u09_closing_the_descriptor_or_the_context_ends_the_queue() {
    let p = process();
    let (fd, queue) = p.queue();
    let cq = cq_reporting_to(&p, queue, 1);
    p.bench.close_fd(fd);
    complete(&p, cq);
    p.destroy(class::CQ, cq).expect("the object outlives the queue");

    let (fd, queue) = p.queue();
    let cq = cq_reporting_to(&p, queue, 1);
    change(&p, fd, true, &[(class::DEVICE, 0, 2)]).unwrap();
    complete(&p, cq);
    p.close();
    let object = p.bench.fd::<Verbs>(fd);
    assert!(object.queue().ended());
    assert_eq!(
        object.queue().read(&mut [0; 32]),
        Err(Errno::ENODEV),
        "its objects are gone, and their events"
    );
    drop(object);
    p.bench.close_fd(fd);
}

#[test]
fn u09_events_are_a_fixed_format() {
    let event = eq::Event {
        kind: 1,
        class: 8,
        object: 0x0403_0201,
        cookie: 7,
        data: 9,
        count: 2,
        reserved: 0,
    };
    let bytes = event.as_bytes();
    assert_eq!((bytes.len(), &bytes[..8]), (32, &[1, 0, 8, 0, 1, 2, 3, 4][..]));
    assert_eq!((bytes[8], bytes[16], bytes[24]), (7, 9, 2));
    for capacity in [0, eq::MAX_CAPACITY + 1, u32::MAX] {
        let p = process();
        let failure = p
            .call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
                m.put(eq::CAPACITY, &capacity);
            })
            .unwrap_err();
        assert_eq!(
            (failure.attr, failure.reason),
            (eq::CAPACITY.id(), Reason::OUT_OF_RANGE)
        );
    }
}

#[test]
fn u09_a_descriptor_and_its_context_can_be_closed_at_the_same_time() {
    for _ in 0..300 {
        let p = process();
        let (fd, queue) = p.queue();
        let cq = cq_reporting_to(&p, queue, 1);
        std::thread::scope(|threads| {
            threads.spawn(|| p.close());
            threads.spawn(|| p.bench.close_fd(fd));
            threads.spawn(|| {
                // Calls that use the queue meanwhile: they work or find it, or the context, gone.
                for _ in 0..20 {
                    let _ = p.call(method::CREATE, class::CQ, 0, |m| {
                        m.put(cq::CQE, &16).put(EVENT_QUEUE_OF, &queue);
                    });
                }
            });
        });
        assert_eq!(p.destroy(class::CQ, cq).unwrap_err().errno, Errno::ENODEV);
        assert!(p.context.store().is_empty());
    }
}
