// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What objects are said to take is what they take: U14. An allocator counts.

mod support;

use rdma_uapi::class::{self, cq, interface, EVENT_QUEUE_OF};
use rdma_uapi::wire::{method, ObjectId};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::verbs::{Process, State};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator's; the counter is an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn said(p: &Process) -> u64 {
    let sent = p.call(method::QUERY, class::INTERFACE, 0, |m| {
        m.ask(interface::CONTEXT_BYTES);
    });
    sent.unwrap().reply().get(interface::CONTEXT_BYTES).unwrap()
}

/// One test, so that nobody else allocates meanwhile.
#[test]
fn u14_what_objects_are_said_to_take_is_what_they_take() {
    const COUNT: usize = 2000;
    let p = Process::new(State::default());
    let (_, queue) = p.queue();
    let measure = |what: &str, make: &dyn Fn()| {
        let (taken, told) = (BYTES.load(Ordering::Relaxed), said(&p));
        for _ in 0..COUNT {
            make();
        }
        let taken = (BYTES.load(Ordering::Relaxed) - taken) as f64 / COUNT as f64;
        let told = (said(&p) - told) as f64 / COUNT as f64;
        println!("{what}: {told:.0} bytes said, {taken:.0} taken");
        // Lists grow by doubling: what is taken may be ahead of what is used, or still have room from before.
        assert!(
            (told * 0.7..told * 1.5).contains(&taken),
            "{what}: {told:.0} bytes said, {taken:.0} taken"
        );
    };
    measure("a PD", &|| {
        p.pd();
    });
    measure("a CQ that reports to a queue", &|| {
        let sent = p.call(method::CREATE, class::CQ, 0, |m| {
            m.put(cq::CQE, &16).put(EVENT_QUEUE_OF, &queue);
        });
        sent.unwrap();
    });
    let (pd, cq) = (p.pd(), p.cq());
    measure("a QP", &|| {
        p.qp(pd, cq);
    });

    let sent = p.call(method::QUERY, class::INTERFACE, 0, |m| {
        m.ask_array(interface::OBJECTS, 3);
    });
    let sent = sent.unwrap();
    let first: Vec<interface::ObjectInfo> = sent.reply().array(interface::OBJECTS).collect();
    assert_eq!(first[0].object, queue);
    assert_eq!((first[0].class, first[1].class), (class::EVENT_QUEUE, class::PD));
    assert!(sent.reply().answered(interface::OBJECTS.id()).unwrap().truncated);

    let (taken, told) = (BYTES.load(Ordering::Relaxed), said(&p));
    let ids = p.context.store();
    let mut all = Vec::new();
    ids.each(|object| all.push((object.class(), object.id())));
    all.retain(|(class, _)| *class != class::EVENT_QUEUE);
    for (class, ObjectId(id)) in all.into_iter().rev() {
        p.destroy(class, id).unwrap();
    }
    assert!(BYTES.load(Ordering::Relaxed) < taken && said(&p) < told / 2);
    p.close();
    assert!(p.context.store().is_empty());
}
