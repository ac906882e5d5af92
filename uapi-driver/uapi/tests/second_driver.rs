// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A second, quite different driver plugs into the same core: U12, and through it U10, U11, U23.

mod support;

use rdma_uapi::class::{self, event_queue as eq, COOKIE, EVENT_QUEUE_OF};
use rdma_uapi::schema::Access;
use rdma_uapi::wire::{self, method, ObjectId};
use rdma_uapi::{Errno, Failure, Reason};
use support::abacus::{self, Abacus, ADD, AMOUNTS, FORGE, FRAME, LIMIT, TALLY, VALUE};
use zerocopy::IntoBytes;

type Process = support::Process<Abacus>;

fn process() -> Process {
    Process::new(abacus::State::default())
}

fn frame(p: &Process) -> Result<u32, Failure> {
    p.call(method::CREATE, class::PD, 0, |_| {}).map(|sent| sent.object())
}

fn tally(p: &Process, frame: u32) -> u32 {
    let sent = p.call(method::CREATE, TALLY, 0, |m| {
        m.put(FRAME, &ObjectId(frame));
    });
    sent.expect("a tally").object()
}

fn add(p: &Process, tally: u32, amounts: &[u64]) -> u64 {
    let sent = p.call(ADD, TALLY, tally, |m| {
        m.put_array(AMOUNTS, amounts).ask(VALUE);
    });
    sent.expect("it adds").reply().get(VALUE).expect("it answers")
}

#[test]
fn u12_a_driver_without_queue_pairs() {
    let p = process();
    let tally = tally(&p, frame(&p).unwrap());
    assert_eq!(add(&p, tally, &[1, 20, 300]), 321);
    assert_eq!(add(&p, tally, &[]), 321);
    let amounts: Vec<u64> = (0..10_000).collect();
    let addr = p.bench.map(amounts.as_bytes());
    let sent = p.call(ADD, TALLY, tally, |m| {
        m.by_pointer(AMOUNTS, addr, 80_000).ask(VALUE);
    });
    assert_eq!(sent.unwrap().reply().get(VALUE), Some(321 + 49_995_000));
    let sent = p.call(method::QUERY, TALLY, tally, |m| {
        m.ask(abacus::BEADS);
    });
    let beads = sent.unwrap().reply().get(abacus::BEADS).unwrap();
    assert_eq!(beads.wires, [1, 2, 3, 5, 9, 9, 9, 4, 0, 0, 0, 0]);
    for class in [class::QP_RC, class::CQ, class::MR, class::PORT] {
        assert_eq!(
            p.call(method::CREATE, class, 0, |_| {}).unwrap_err().errno,
            Errno::EOPNOTSUPP
        );
    }
}

#[test]
fn u12_its_objects_get_the_core_services() {
    let p = process();
    let frame = frame(&p).unwrap();
    let made: Vec<u32> = (0..3).map(|_| tally(&p, frame)).collect();
    let failure = p.call(method::DESTROY, class::PD, frame, |_| {}).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EBUSY, Reason::IN_USE, 3)
    );
    let failure = p.call(method::DESTROY, TALLY, frame, |_| {}).unwrap_err();
    assert_eq!((failure.reason, failure.detail), (Reason::WRONG_CLASS, class::PD));
    for tally in made {
        p.call(method::DESTROY, TALLY, tally, |_| {}).unwrap();
    }
    p.call(method::DESTROY, class::PD, frame, |_| {}).unwrap();
    assert!(p.context.store().is_empty());
}

#[test]
fn u11_a_replaced_handler_can_be_called_by_the_one_that_replaced_it() {
    let p = process();
    let frames: Vec<u32> = (0..4).map(|_| frame(&p).unwrap()).collect();
    let failure = frame(&p).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::ENOSPC, Reason::DEVICE, 4)
    );
    p.call(method::DESTROY, class::PD, frames[2], |_| {}).unwrap();
    frame(&p).expect("the driver's release gave the frame back");
    assert_eq!(p.context.store().len(), 4, "the common handler made the objects");
}

#[test]
fn u11_what_the_driver_removes_is_not_there() {
    let p = process();
    let frame = frame(&p).unwrap();
    let failure = p.call(method::QUERY, class::PD, frame, |_| {}).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EOPNOTSUPP, Reason::NO_METHOD));
}

#[test]
fn u10_driver_attributes_accompany_a_common_method() {
    let p = process();
    let sent = p.call(method::CREATE, class::PD, 0, |m| {
        m.put(abacus::WOOD, &1).ask(abacus::FRAME_NUMBER);
    });
    assert_eq!(sent.unwrap().reply().get(abacus::FRAME_NUMBER), Some(0));
    let failure = p
        .call(method::CREATE, class::PD, 0, |m| {
            m.put(abacus::WOOD, &9);
        })
        .unwrap_err();
    assert_eq!(
        (failure.attr, failure.reason),
        (abacus::WOOD.id(), Reason::OUT_OF_RANGE)
    );
    let failure = p
        .call(method::QUERY, class::DEVICE, 0, |m| {
            m.put(abacus::WOOD, &1);
        })
        .unwrap_err();
    assert_eq!(failure.reason, Reason::UNKNOWN_ATTR, "only where the driver added it");
}

#[test]
fn u10_another_drivers_class_and_attributes_are_refused() {
    let p = process();
    let theirs = wire::driver_class(support::verbs::ID, 0);
    let failure = p.call(method::CREATE, theirs, 0, |_| {}).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.attr),
        (Errno::EOPNOTSUPP, Reason::OTHER_DRIVER, wire::FIELD_CLASS)
    );
    let attr = rdma_uapi::schema::Attr::<u32>::new(wire::driver_attr(support::verbs::ID, 0), "theirs");
    let failure = p
        .call(method::CREATE, class::PD, 0, |m| {
            m.put(attr, &1);
        })
        .unwrap_err();
    assert_eq!((failure.reason, failure.attr), (Reason::UNKNOWN_ATTR, attr.id()));
    let verbs = support::verbs::Process::new(Default::default());
    assert_eq!(
        verbs.call(method::CREATE, TALLY, 0, |_| {}).unwrap_err().reason,
        Reason::OTHER_DRIVER
    );
}

#[test]
fn u12_its_objects_report_to_event_queues() {
    let p = process();
    let sent = p.call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
        m.ask(eq::ID);
    });
    let sent = sent.unwrap();
    let (fd, queue) = (sent.object(), sent.reply().get(eq::ID).unwrap());
    let frame = frame(&p).unwrap();
    let sent = p.call(method::CREATE, TALLY, 0, |m| {
        m.put(FRAME, &ObjectId(frame))
            .put(LIMIT, &10)
            .put(EVENT_QUEUE_OF, &queue)
            .put(COOKIE, &0xbead);
    });
    let tally = sent.unwrap().object();
    add(&p, tally, &[9]);
    assert_eq!(p.bench.fd::<Abacus>(fd).queue().pending(), 0);
    add(&p, tally, &[1]);
    add(&p, tally, &[1]);
    let mut events = [eq::Event::default(); 4];
    assert_eq!(
        p.bench.fd::<Abacus>(fd).queue().take(&mut events),
        1,
        "only passing the limit is reported"
    );
    let event = events[0];
    assert_eq!(
        (event.class, event.object, event.cookie, event.data),
        (TALLY, tally, 0xbead, 10)
    );
}

#[test]
fn u23_a_method_says_what_its_caller_needs() {
    let p = process();
    let tally = tally(&p, frame(&p).unwrap());
    let forge = |p: &Process| {
        p.call(FORGE, TALLY, tally, |m| {
            m.put(VALUE, &7);
        })
    };
    let failure = forge(&p).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EPERM, Reason::NOT_PERMITTED));
    p.bench.allow(Access::NetRaw);
    assert_eq!(
        forge(&p).unwrap_err().errno,
        Errno::EPERM,
        "another permission does not do"
    );
    p.bench.allow(Access::NetAdmin);
    forge(&p).unwrap();
    assert_eq!(add(&p, tally, &[0]), 7);
}

#[test]
fn u13_a_context_has_a_limit_of_objects() {
    let p = process();
    let frame = frame(&p).unwrap();
    for _ in 1..64 {
        tally(&p, frame);
    }
    let failure = p
        .call(method::CREATE, TALLY, 0, |m| {
            m.put(FRAME, &ObjectId(frame));
        })
        .unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::ENOSPC, Reason::TOO_MANY_OBJECTS)
    );
    let other = p.other();
    let frame = self::frame(&other).unwrap();
    tally(&other, frame);
}

#[test]
fn u13_a_creation_that_cannot_be_answered_is_undone() {
    let p = process();
    let frame = frame(&p).unwrap();
    let create = |addr| {
        p.call(method::CREATE, TALLY, 0, |m| {
            m.put(FRAME, &ObjectId(frame)).by_pointer(abacus::BEADS, addr, 16);
        })
    };
    // The tally exists already when its answer turns out to have nowhere to go.
    let failure = create(0x10).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.attr),
        (Errno::EFAULT, Reason::BAD_POINTER, abacus::BEADS.id())
    );
    assert_eq!(p.context.store().len(), 1);
    p.call(method::DESTROY, class::PD, frame, |_| {})
        .expect("nothing depends on the frame");
    let frame = self::frame(&p).unwrap();
    let addr = p.bench.map(&[0xff; 16]);
    let sent = p.call(method::CREATE, TALLY, 0, |m| {
        m.put(FRAME, &ObjectId(frame)).by_pointer(abacus::BEADS, addr, 16);
    });
    sent.unwrap();
    assert_eq!(p.bench.read(addr), [0; 16]);
}
