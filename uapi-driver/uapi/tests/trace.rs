// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Observers of calls: U25.

mod support;

use rdma_uapi::class::trace::{self, flag, RecordHead};
use rdma_uapi::class::{self, event_queue as eq, interface, EVENT_QUEUE_OF};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::schema::Access;
use rdma_uapi::wire::{self, method};
use rdma_uapi::{Errno, Reason};
use support::verbs::{Process, Verbs};
use zerocopy::{FromBytes, IntoBytes};

/// Somebody who observes, and somebody who is observed.
fn both() -> (Process, Process) {
    let observer = Process::new(Default::default());
    observer.bench.allow(Access::SysAdmin);
    let observed = observer.other();
    (observer, observed)
}

fn observe(p: &Process, fill: impl FnOnce(&mut Builder<'_>)) -> u32 {
    p.call(method::CREATE, class::TRACE, 0, fill).unwrap().object()
}

/// The records that wait, and how many were lost.
fn read(p: &Process, tracer: u32) -> (Vec<(RecordHead, Vec<u8>)>, u64) {
    read_into(p, tracer, p.bench.map(&vec![0; 1 << 20]), 1 << 20)
}

/// The same, into memory that is there.
fn read_into(p: &Process, tracer: u32, room: u64, length: u64) -> (Vec<(RecordHead, Vec<u8>)>, u64) {
    let sent = p
        .call(trace::READ, class::TRACE, tracer, |m| {
            m.by_pointer(trace::RECORDS, room, length).ask(trace::LOST);
        })
        .unwrap();
    let written = sent.reply().answered(trace::RECORDS.id()).unwrap().written as usize;
    let bytes = &p.bench.read(room)[..written];
    let mut records = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (head, _) = RecordHead::read_from_prefix(rest).unwrap();
        let (record, more) = rest.split_at(head.length as usize);
        records.push((head, record[size_of::<RecordHead>()..].to_vec()));
        rest = more;
    }
    (records, sent.reply().get(trace::LOST).unwrap())
}

fn pd(p: &Process) -> u32 {
    p.call(method::CREATE, class::PD, 0, |_| {}).unwrap().object()
}

#[test]
fn u25_an_observer_sees_who_called_what_with_which_result_and_answer() {
    let (observer, observed) = both();
    let tracer = observe(&observer, |_| {});
    observed.bench.become_process(7);
    let made = pd(&observed);
    let failure = observed
        .call(method::QUERY, class::PD, 77, |_| {})
        .map(|_| ())
        .unwrap_err();

    let (records, lost) = read(&observer, tracer);
    assert_eq!((records.len(), lost), (2, 0));
    let (head, message) = &records[0];
    assert_eq!(
        (head.process, head.method, head.errno, head.flags),
        (7, method::CREATE.into(), 0, 0)
    );
    assert_eq!((head.context, head.duration), (observed.context.number(), 1));
    assert_eq!(Reply::new(message).header().class, class::PD);
    assert_eq!(Reply::new(message).object(), made, "the message as it came back");
    let (head, message) = &records[1];
    assert_eq!(head.errno, failure.errno.0);
    assert_eq!(Reply::new(message).failure(failure.errno), failure);
    assert!(read(&observer, tracer).0.is_empty(), "a record is read once");
}

#[test]
fn u25_an_observer_does_not_see_itself_nor_processes_that_it_did_not_ask_for() {
    let (observer, observed) = both();
    let everybody = observe(&observer, |_| {});
    let one = observe(&observer, |m| {
        m.put(trace::PROCESS, &9);
    });
    pd(&observer);
    observed.bench.become_process(8);
    pd(&observed);
    observed.bench.become_process(9);
    pd(&observed);
    let processes = |tracer| -> Vec<u32> { read(&observer, tracer).0.iter().map(|(head, _)| head.process).collect() };
    assert_eq!(processes(everybody), [8, 9]);
    assert_eq!(processes(one), [9]);
    observer.call(method::DESTROY, class::TRACE, everybody, |_| {}).unwrap();
    pd(&observed);
    assert_eq!(processes(one), [9]);
}

#[test]
fn u25_with_its_children_a_processs_descendants_are_observed_and_nobody_else() {
    let (observer, observed) = both();
    let bench = &observer.bench;
    for (child, parent) in [(10, 9), (11, 10), (9, 1), (20, 1)] {
        bench.adopt(child, parent);
    }
    let alone = observe(&observer, |m| {
        m.put(trace::PROCESS, &9);
    });
    let family = observe(&observer, |m| {
        m.put(trace::PROCESS, &9).put(trace::CHILDREN, &1);
    });
    let everybody = [20, 11, 9, 10, 1, 30];
    let seen = |tracer| -> Vec<u32> {
        for process in everybody {
            bench.become_process(process);
            pd(&observed);
        }
        read(&observer, tracer).0.iter().map(|(head, _)| head.process).collect()
    };
    assert_eq!(seen(family), [11, 9, 10]);
    // Its parent ends, and it is somebody else's child.
    bench.adopt(10, 1);
    assert_eq!(seen(family), [9]);
    assert_eq!(read(&observer, alone).0.len(), 2);
    for (tracer, children) in [(alone, 0), (family, 1)] {
        let asked = observer.call(method::QUERY, class::TRACE, tracer, |m| {
            m.ask(trace::CHILDREN).ask(trace::PROCESS);
        });
        let asked = asked.unwrap();
        assert_eq!(asked.reply().get(trace::CHILDREN), Some(children));
        assert_eq!(asked.reply().get(trace::PROCESS), Some(9));
    }
    let of_nobody = observer.call(method::CREATE, class::TRACE, 0, |m| {
        m.put(trace::CHILDREN, &1);
    });
    let refused = of_nobody.map(|_| ()).unwrap_err();
    assert_eq!((refused.reason, refused.attr), (Reason::MISSING, trace::PROCESS.id()));
}

/// A READ into memory that ends before what is said to be its end.
#[test]
fn u25_records_that_could_not_be_given_are_there_for_the_next_call() {
    let (observer, observed) = both();
    let tracer = observe(&observer, |m| {
        m.put(trace::CAPACITY, &trace::MIN_CAPACITY);
    });
    let room = observer.bench.map(&[0; 64]);
    let faults = || {
        let sent = observer.call(trace::READ, class::TRACE, tracer, |m| {
            m.by_pointer(trace::RECORDS, room, 1 << 20).ask(trace::LOST);
        });
        let refused = sent.map(|_| ()).unwrap_err();
        assert_eq!((refused.errno, refused.reason), (Errno::EFAULT, Reason::BAD_POINTER));
    };
    let made: Vec<u32> = (0..5).map(|_| pd(&observed)).collect();
    faults();
    let later = pd(&observed);
    faults();
    let (records, lost) = read(&observer, tracer);
    let seen: Vec<u32> = records
        .iter()
        .map(|(_, message)| Reply::new(message).object())
        .collect();
    assert_eq!((seen, lost), ([made, vec![later]].concat(), 0), "all of them, in order");

    // Round the ring's end as well: every place that a record can have.
    let each = size_of::<RecordHead>() + wire::HEADER;
    let sound = observer.bench.map(&[0; 4096]);
    let read = || read_into(&observer, tracer, sound, 4096);
    for _ in 0..trace::MIN_CAPACITY as usize / each / 2 + 1 {
        let made = pd(&observed);
        faults();
        let (records, lost) = read();
        assert_eq!((records.len(), lost), (1, 0));
        assert_eq!(Reply::new(&records[0].1).object(), made);
        observed.call(method::DESTROY, class::PD, made, |_| {}).unwrap();
        faults();
        assert_eq!(read().0.len(), 1);
    }
}

#[test]
fn u25_what_was_given_before_the_memory_ended_is_not_given_again() {
    let (observer, observed) = both();
    let tracer = observe(&observer, |m| {
        m.put(trace::CAPACITY, &(1 << 20));
    });
    const CALLS: usize = 2000;
    for _ in 0..CALLS {
        observed.call(method::QUERY, class::INTERFACE, 0, |_| {}).unwrap();
    }
    // Room for the first piece that is moved, and half of the second.
    let room = observer.bench.map(&[0; 100_000]);
    let read_there = || {
        let sent = observer.call(trace::READ, class::TRACE, tracer, |m| {
            m.by_pointer(trace::RECORDS, room, 1 << 20)
                .ask(trace::LOST)
                .ask(trace::PENDING);
        });
        let sent = sent.unwrap();
        let reply = sent.reply();
        let written = reply.answered(trace::RECORDS.id()).unwrap().written as usize;
        let each = size_of::<RecordHead>() + wire::HEADER;
        assert_eq!((written % each, reply.get(trace::LOST)), (0, Some(0)));
        (written / each, reply.get(trace::PENDING).unwrap() as usize)
    };
    let (first, pending) = read_there();
    assert!(first > 0 && first < CALLS, "{first}");
    assert_eq!(first + pending, CALLS);
    observer.bench.grow(room, 1 << 20);
    assert_eq!(read_there(), (pending, 0));
}

#[test]
fn u25_records_that_find_no_room_are_lost_and_counted() {
    let (observer, observed) = both();
    let tracer = observe(&observer, |m| {
        m.put(trace::CAPACITY, &trace::MIN_CAPACITY);
    });
    let each = size_of::<RecordHead>() + wire::HEADER;
    let fit = trace::MIN_CAPACITY as usize / each;
    for _ in 0..fit + 5 {
        observed.call(method::QUERY, class::INTERFACE, 0, |_| {}).unwrap();
    }
    let (records, lost) = read(&observer, tracer);
    assert_eq!((records.len(), lost), (fit, 5));
    // The ring goes on, round its end.
    for _ in 0..fit {
        pd(&observed);
    }
    let (records, lost) = read(&observer, tracer);
    assert_eq!((records.len(), lost), (fit, 0));
    assert!(records
        .iter()
        .all(|(_, message)| Reply::new(message).header().class == class::PD));
}

#[test]
fn u25_long_messages_are_kept_as_far_as_was_asked() {
    let (observer, observed) = both();
    let tracer = observe(&observer, |m| {
        m.put(trace::SNAP, &32);
    });
    let long = vec![0u8; 400];
    let _ = observed.call(method::QUERY, class::PD, 77, |m| {
        m.optional()
            .put_array(rdma_uapi::schema::Attr::<[u8]>::array(40, "unknown"), &long);
    });
    let (records, _) = read(&observer, tracer);
    let (head, message) = &records[0];
    assert_eq!((head.message, message.len()), (24 + 408, 32));
    assert_eq!(head.length as usize, size_of::<RecordHead>() + 32);
}

#[test]
fn u25_a_chains_commands_are_shown_before_the_chain() {
    let (observer, observed) = both();
    let tracer = observe(&observer, |_| {});
    let mut buffer = [0u64; 8];
    let message = Builder::new(&mut buffer, class::PD, 0).finish().unwrap().to_vec();
    let at = observed.bench.map(&message);
    let command = interface::Command {
        message: at,
        method: method::CREATE.into(),
        ..Default::default()
    };
    observed
        .call(method::EXECUTE, class::INTERFACE, 0, |m| {
            m.put_array(interface::COMMANDS, &[command]);
        })
        .unwrap();
    let (records, _) = read(&observer, tracer);
    let seen: Vec<_> = records.iter().map(|(head, _)| (head.method, head.flags)).collect();
    assert_eq!(
        seen,
        [(method::CREATE.into(), flag::IN_CHAIN), (method::EXECUTE.into(), 0)]
    );
}

#[test]
fn u25_observing_takes_a_privilege() {
    let p = Process::new(Default::default());
    let refused = p.call(method::CREATE, class::TRACE, 0, |_| {}).map(|_| ()).unwrap_err();
    assert_eq!((refused.errno, refused.reason), (Errno::EPERM, Reason::NOT_PERMITTED));
}

#[test]
fn u25_an_event_says_that_there_are_records_again() {
    let (observer, observed) = both();
    let queue = observer
        .call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
            m.ask(eq::ID);
        })
        .unwrap();
    let id = queue.reply().get(eq::ID).unwrap();
    let tracer = observe(&observer, |m| {
        m.put(EVENT_QUEUE_OF, &id);
    });
    let events = || {
        let mut events = [eq::Event::default(); 8];
        let fd = observer.bench.fd::<Verbs>(queue.object());
        let n = fd.queue().take(&mut events);
        events[..n]
            .iter()
            .map(|event| (event.kind, event.object))
            .collect::<Vec<_>>()
    };
    assert!(events().is_empty());
    pd(&observed);
    pd(&observed);
    assert_eq!(events(), [(eq::kind::TRACE, tracer)], "one for both");
    read(&observer, tracer);
    pd(&observed);
    assert_eq!(events(), [(eq::kind::TRACE, tracer)]);
}

#[test]
fn u25_an_observer_that_closes_its_file_observes_no_more() {
    let (observer, observed) = both();
    observe(&observer, |_| {});
    observer.close();
    pd(&observed);
    let second = observer.other();
    let tracer = observe(&second, |_| {});
    pd(&observed);
    assert_eq!(read(&second, tracer).0.len(), 1);
    observed.close();
    second.close();
}

#[test]
fn u25_what_an_observer_asks_for_is_checked() {
    let (observer, _) = both();
    for (capacity, snap) in [
        (0, 64),
        (trace::MIN_CAPACITY - 8, 64),
        (trace::MAX_CAPACITY + 8, 64),
        (1 << 18, 16),
    ] {
        let refused = observer.call(method::CREATE, class::TRACE, 0, |m| {
            m.put(trace::CAPACITY, &capacity).put(trace::SNAP, &snap);
        });
        let refused = refused.map(|_| ()).unwrap_err();
        assert_eq!(refused.reason, Reason::OUT_OF_RANGE, "{capacity} {snap}");
    }
    let bytes = trace::RecordHead::default();
    assert_eq!(bytes.as_bytes().len() % 8, 0);
}
