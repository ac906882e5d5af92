// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What every object gets from the core: U3, U13, U15.

mod support;

use rdma_uapi::class::{self, cq, event_queue as eq, qp};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::{self, method, ObjectId};
use rdma_uapi::{Cause, Context, Device, Errno, Reason};
use std::sync::atomic::{AtomicBool, Ordering};
use support::verbs::{Process, State};

fn process() -> Process {
    Process::new(State::default())
}

#[test]
fn u13_ids_belong_to_their_context() {
    let p = process();
    let q = p.other();
    let pd = p.pd();
    let failure = q.call(method::QUERY, class::PD, pd, |_| {}).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::ENOENT, Reason::NO_OBJECT));
    assert_eq!(q.mr(pd, 4096).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(q.pd(), pd, "each context counts for itself");
}

#[test]
fn u13_a_stale_id_finds_nothing() {
    let p = process();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let pd = p.pd();
        assert!(
            seen.insert(pd),
            "an id comes back only after the slot's two thousand uses"
        );
        assert_eq!(pd & ObjectId::CHAIN, 0);
        p.destroy(class::PD, pd).unwrap();
    }
    for stale in seen {
        assert_eq!(p.destroy(class::PD, stale).unwrap_err().errno, Errno::ENOENT);
    }
    for never in [0, 1 << 20, 77, u32::MAX, ObjectId::CHAIN | 1] {
        assert_eq!(
            p.destroy(class::PD, never).unwrap_err().errno,
            Errno::ENOENT,
            "{never:#x}"
        );
    }
}

#[test]
fn u13_lookup_is_typed_and_names_the_class() {
    let p = process();
    let (pd, cq) = (p.pd(), p.cq());
    let failure = p.call(method::QUERY, class::PD, cq, |_| {}).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::WRONG_CLASS));
    assert_eq!((failure.attr, failure.detail), (wire::FIELD_OBJECT, class::CQ));
    let failure = p
        .call(method::CREATE, class::QP_RC, 0, |m| {
            m.put(qp::PD, &ObjectId(pd))
                .put(qp::SEND_CQ, &ObjectId(cq))
                .put(qp::RECV_CQ, &ObjectId(pd));
        })
        .unwrap_err();
    assert_eq!((failure.attr, failure.detail), (qp::RECV_CQ.id(), class::PD));
    p.destroy(class::PD, pd).unwrap();
    p.destroy(class::CQ, cq).unwrap();
}

#[test]
fn u13_what_is_in_use_cannot_be_destroyed() {
    let p = process();
    let (pd, cq) = (p.pd(), p.cq());
    let mr = p.mr(pd, 4096).unwrap();
    let qp = p.qp(pd, cq);
    let failure = p.destroy(class::PD, pd).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EBUSY, Reason::IN_USE, 2)
    );
    // The queue pair uses the queue twice.
    let failure = p.destroy(class::CQ, cq).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EBUSY, Reason::IN_USE, 2)
    );
    p.destroy(class::QP_RC, qp).unwrap();
    p.destroy(class::CQ, cq).unwrap();
    assert_eq!(p.destroy(class::PD, pd).unwrap_err().detail, 1);
    p.destroy(class::MR, mr).unwrap();
    p.destroy(class::PD, pd).unwrap();
    assert!(p.context.store().is_empty());
}

#[test]
fn u13_destroy_beside_a_call_in_flight_is_busy_and_unrelated_calls_run() {
    let p = process();
    let pd = p.pd();
    let other = p.pd();
    let state = p.device.state();
    state.hold.store(true, Ordering::Relaxed);
    std::thread::scope(|threads| {
        let query = threads.spawn(|| p.call(method::QUERY, class::PD, pd, |_| {}));
        while state.waiting.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let failure = p.destroy(class::PD, pd).unwrap_err();
        assert_eq!((failure.errno, failure.reason), (Errno::EBUSY, Reason::BUSY));
        p.destroy(class::PD, other).unwrap();
        p.mr(pd, 64).expect("an object in a call can be used by another");
        state.hold.store(false, Ordering::Relaxed);
        query.join().unwrap().unwrap();
    });
}

#[test]
fn u13_a_failed_destroy_leaves_the_object() {
    let p = process();
    let pd = p.pd();
    p.device.state().refuse.store(true, Ordering::Relaxed);
    let failure = p.destroy(class::PD, pd).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EIO, Reason::DEVICE, 0x42)
    );
    p.call(method::QUERY, class::PD, pd, |_| {}).expect("it lives on");
    p.destroy(class::PD, pd).unwrap();
}

#[test]
fn u13_closing_ends_everything_in_dependency_order() {
    let p = process();
    // Slots are used again, so that the order of ids is not the order of creation.
    let spare: Vec<u32> = (0..8).map(|_| p.pd()).collect();
    let pd = p.pd();
    for spare in spare {
        p.destroy(class::PD, spare).unwrap();
    }
    let cq = p.cq();
    let mr = p.mr(pd, 4096).unwrap();
    let qps = [p.qp(pd, cq), p.qp(pd, cq)];
    p.device.state().ended.lock().unwrap().clear();
    p.close();
    let ended = p.device.state().ended.lock().unwrap().clone();
    assert_eq!(ended.len(), 5);
    let place = |id| ended.iter().position(|e| e.1 == id).expect("it ended");
    assert!(ended.iter().all(|e| e.2 == Cause::Close));
    for user in [mr, qps[0], qps[1]] {
        assert!(
            place(user) < place(pd),
            "what depends on the PD ends before it: {ended:?}"
        );
    }
    assert!(place(qps[0]) < place(cq) && place(qps[1]) < place(cq));
    assert_eq!(p.device.state().closed.load(Ordering::Relaxed), 1);
    assert_eq!(p.device.contexts(), 0);
    p.close();
    assert_eq!(p.device.state().closed.load(Ordering::Relaxed), 1, "once");
    assert_eq!(
        p.call(method::CREATE, class::PD, 0, |_| {}).unwrap_err().errno,
        Errno::ENODEV
    );
}

#[test]
fn u13_an_error_at_teardown_is_logged_and_goes_on() {
    let p = process();
    let pd = p.pd();
    p.mr(pd, 4096).unwrap();
    p.device.state().refuse.store(true, Ordering::Relaxed);
    p.close();
    assert_eq!(
        p.device.state().ended.lock().unwrap().len(),
        1,
        "the one that did not fail"
    );
    assert!(p.context.store().is_empty());
    let log = p.bench.log_lines();
    assert_eq!(log.len(), 1);
    assert!(
        log[0].contains("did not end well") && log[0].contains("0x42"),
        "{log:?}"
    );
    assert_eq!(p.bench.pinned(), 0);
}

#[test]
fn u13_pinned_memory_is_accounted_for_and_given_back() {
    let p = process();
    let pd = p.pd();
    let mr = p.mr(pd, support::MEMLOCK - 100).unwrap();
    let failure = p.mr(pd, 101).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::ENOMEM, Reason::MEMLOCK));
    p.mr(pd, 100).unwrap();
    p.destroy(class::MR, mr).unwrap();
    assert_eq!(p.bench.pinned(), 100);
    p.close();
    assert_eq!(p.bench.pinned(), 0);
}

#[test]
fn u13_a_queue_without_a_descriptor_is_undone() {
    let p = process();
    let before = p.context.store().len();
    p.bench.no_more_fds();
    let failure = p.call(method::CREATE_FD, class::EVENT_QUEUE, 0, |_| {}).unwrap_err();
    assert_eq!(failure.errno, Errno::EMFILE);
    assert_eq!(
        p.context.store().len(),
        before,
        "the queue without a descriptor is gone"
    );
}

#[test]
fn u13_hot_removal() {
    let p = process();
    let (fd, _) = p.queue();
    let (pd, cq) = (p.pd(), p.cq());
    let qp = p.qp(pd, cq);
    let state = p.device.state();
    state.hold.store(true, Ordering::Relaxed);
    let removed = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let query = threads.spawn(|| p.call(method::QUERY, class::PD, pd, |_| {}));
        while state.waiting.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let remove = threads.spawn(|| {
            p.device.remove();
            removed.store(true, Ordering::Relaxed);
        });
        while !p.device.is_removed() {
            std::thread::yield_now();
        }
        // New calls are refused while the old one still runs, and the removal waits for that one.
        while p.call(method::QUERY, class::CQ, cq, |_| {}).is_ok() {
            std::thread::yield_now();
        }
        assert!(!removed.load(Ordering::Relaxed));
        state.hold.store(false, Ordering::Relaxed);
        query.join().unwrap().expect("a call that was in flight ends normally");
        remove.join().unwrap();
    });
    let failure = p.call(method::QUERY, class::PD, pd, |_| {}).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::ENODEV, Reason::DEVICE_GONE));
    let failure = p.call_fd(fd, eq::READ_EVENTS, class::EVENT_QUEUE, |_| {}).unwrap_err();
    assert_eq!(failure.errno, Errno::ENODEV);
    assert!(Device::open(&p.device, ()).is_err_and(|failure| failure.errno == Errno::ENODEV));

    // The queue says so, then nothing more.
    let queue = p.bench.fd::<support::verbs::Verbs>(fd);
    let mut events = [eq::Event::default(); 4];
    assert_eq!(queue.queue().take(&mut events), 1);
    assert_eq!(events[0].kind, eq::kind::DEVICE_GONE);
    assert_eq!(queue.queue().read(&mut [0; 64]), Err(Errno::ENODEV));
    drop(queue);

    assert!(
        state.ended.lock().unwrap().is_empty(),
        "objects stay until their owner destroys them or closes"
    );
    // A program takes down what it has as it always does, in the order that it always has to keep.
    let failure = p.destroy(class::CQ, pd).unwrap_err();
    assert_eq!(failure.reason, Reason::WRONG_CLASS);
    let failure = p.destroy(class::PD, pd).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EBUSY, Reason::IN_USE));
    p.destroy(class::QP_RC, qp).unwrap();
    p.destroy(class::PD, pd).unwrap();
    assert_eq!(p.destroy(class::PD, pd).unwrap_err().errno, Errno::ENOENT);
    p.close();
    let ended = state.ended.lock().unwrap();
    assert_eq!(ended.len(), 3);
    assert!(
        ended.iter().all(|e| e.2 == Cause::Removed),
        "and no hardware is touched: {ended:?}"
    );
    assert_eq!(
        p.destroy(class::CQ, cq).unwrap_err().errno,
        Errno::ENODEV,
        "it is closed"
    );
    p.bench.close_fd(fd);
}

#[test]
fn u13_many_threads_create_use_and_destroy_the_same_objects() {
    let p = process();
    let pd = p.pd();
    let cq = p.cq();
    // Whatever the threads do, the PD is in use.
    p.mr(pd, 4096).unwrap();
    let shared: Vec<std::sync::atomic::AtomicU32> = (0..4).map(|_| Default::default()).collect();
    let (mut done, mut refused) = (0, 0);
    std::thread::scope(|threads| {
        let workers: Vec<_> = (0..4u32)
            .map(|seed| {
                let (p, shared) = (&p, &shared);
                threads.spawn(move || {
                    let mut random = seed + 1;
                    let (mut done, mut refused) = (0u32, 0u32);
                    for _ in 0..3000 {
                        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let place = &shared[(random >> 8) as usize % 4];
                        let id = place.load(Ordering::Relaxed);
                        let result = match random >> 28 {
                            0..=3 => {
                                let mine = p.qp(pd, cq);
                                match place.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed) {
                                    Ok(_) => Ok(()),
                                    Err(_) => p.destroy(class::QP_RC, mine),
                                }
                            }
                            4..=6 => p.destroy(class::QP_RC, id).map(|()| {
                                let _ = place.compare_exchange(id, 0, Ordering::Relaxed, Ordering::Relaxed);
                            }),
                            7..=8 => p.destroy(class::PD, pd),
                            _ => p
                                .call(method::QUERY, class::QP_RC, id, |m| {
                                    m.ask(qp::STATE);
                                })
                                .map(|_| ()),
                        };
                        match result {
                            Ok(()) => done += 1,
                            Err(failure) => {
                                assert!([Errno::EBUSY, Errno::ENOENT].contains(&failure.errno), "{failure}");
                                refused += 1;
                                if failure.errno == Errno::ENOENT {
                                    let _ = place.compare_exchange(id, 0, Ordering::Relaxed, Ordering::Relaxed);
                                }
                            }
                        }
                    }
                    (done, refused)
                })
            })
            .collect();
        for worker in workers {
            let (d, r) = worker.join().expect("no thread panics");
            done += d;
            refused += r;
        }
    });
    assert!(done > 1000 && refused > 100, "{done} done, {refused} refused");
    p.close();
    assert!(p.context.store().is_empty());
    let ended = p.device.state().ended.lock().unwrap();
    assert_eq!(ended.iter().filter(|e| e.0 == class::PD).count(), 1, "the PD, once");
    let mut qps: Vec<u32> = ended.iter().filter(|e| e.0 == class::QP_RC).map(|e| e.1).collect();
    qps.sort_unstable();
    let count = qps.len();
    qps.dedup();
    assert!(count - qps.len() < count / 8, "ids are used again rarely");
}

#[test]
fn u15_one_call_makes_a_queue_pair_that_is_ready() {
    let p = process();
    let (pd, cq) = (p.pd(), p.cq());
    let create = |with_path: bool| {
        p.call(method::CREATE, class::QP_RC, 0, |m| {
            m.put(qp::PD, &ObjectId(pd))
                .put(qp::SEND_CQ, &ObjectId(cq))
                .put(qp::RECV_CQ, &ObjectId(cq));
            m.put(qp::STATE, &qp::state::RTS)
                .put(qp::DEST_QPN, &0x123)
                .put(qp::SQ_PSN, &7)
                .put(qp::RQ_PSN, &8);
            m.put(qp::PATH_MTU, &1024)
                .put(qp::TIMEOUT, &14)
                .put(qp::RETRY_CNT, &7)
                .put(qp::RNR_RETRY, &7);
            if with_path {
                m.put(
                    qp::PATH,
                    &qp::Path {
                        dgid: [0xfe; 16],
                        hop_limit: 64,
                        ..Default::default()
                    },
                );
            }
        })
    };
    let qp = create(true).unwrap().object();
    let sent = p.call(method::QUERY, class::QP_RC, qp, |m| {
        m.ask(qp::STATE).ask(qp::DEST_QPN);
    });
    let sent = sent.unwrap();
    assert_eq!(
        (sent.reply().get(qp::STATE), sent.reply().get(qp::DEST_QPN)),
        (Some(3), Some(0x123))
    );

    let failure = create(false).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.attr),
        (Errno::EINVAL, Reason::MISSING, qp::PATH.id())
    );
    assert_eq!(p.context.store().len(), 3, "and nothing was made");
}

#[test]
fn u15_modify_takes_only_what_the_transition_needs() {
    let p = process();
    let qp = p.qp(p.pd(), p.cq());
    let modify = |state: u32| {
        p.call(method::MODIFY, class::QP_RC, qp, |m| {
            m.put(qp::STATE, &state);
        })
    };
    modify(qp::state::INIT).unwrap();
    assert_eq!(modify(qp::state::RTR).unwrap_err().attr, qp::DEST_QPN.id());
    let failure = modify(99).unwrap_err();
    assert_eq!(
        (failure.attr, failure.offset, failure.reason),
        (qp::STATE.id(), 24, Reason::OUT_OF_RANGE)
    );
    let failure = p
        .call(method::MODIFY, class::QP_RC, qp, |m| {
            m.put(cq::COMP_VECTOR, &0).put(qp::PD, &ObjectId(1));
        })
        .unwrap_err();
    assert_eq!(
        failure.reason,
        Reason::UNKNOWN_ATTR,
        "what only CREATE takes is unknown here"
    );
}

#[test]
fn u03_a_descriptors_calls_go_to_the_descriptor() {
    let p = process();
    let (fd, id) = p.queue();
    // Same format, object id 0.
    let sent = p.call_fd(fd, method::QUERY, class::EVENT_QUEUE, |m| {
        m.ask(eq::CAPACITY).ask(eq::ID).ask(eq::PENDING);
    });
    let sent = sent.unwrap();
    assert_eq!(sent.reply().get(eq::CAPACITY), Some(16));
    assert_eq!(
        (sent.reply().get(eq::ID), sent.reply().get(eq::PENDING)),
        (Some(id), Some(0))
    );
    // Not to the device's file, under whatever id; and not the other way round.
    for object in [0, id.0, fd] {
        let failure = p.call(method::QUERY, class::EVENT_QUEUE, object, |_| {}).unwrap_err();
        assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::WRONG_FD));
    }
    for (number, class) in [
        (method::CREATE, class::PD),
        (method::QUERY, class::INTERFACE),
        (method::CREATE_FD, class::EVENT_QUEUE),
    ] {
        assert_eq!(
            p.call_fd(fd, number, class, |_| {}).unwrap_err().reason,
            Reason::WRONG_FD
        );
    }
    assert_eq!(
        p.call(method::DESTROY, class::EVENT_QUEUE, id.0, |_| {})
            .unwrap_err()
            .errno,
        Errno::EOPNOTSUPP
    );
    p.bench.close_fd(fd);
    assert!(p.context.store().is_empty(), "closing the descriptor is what ends it");
}

#[test]
fn u12_what_the_caller_cannot_be_told_of_is_destroyed_again() {
    let p = process();
    let create = || {
        let mut buffer = [0u64; 8];
        Builder::new(&mut buffer, class::PD, 0).finish().unwrap().to_vec()
    };
    let mut given = 0;
    let mut nowhere = |message: &[u8]| {
        given += 1;
        assert_eq!(p.context.store().len(), 1, "it is there until then");
        assert_ne!(Reply::new(message).object(), 0);
        Err(Errno::EFAULT)
    };
    let result = Context::dispatch_and(&p.context, method::CREATE.into(), &mut create(), &mut nowhere);
    assert_eq!((result, given), (Err(Errno::EFAULT), 1));
    assert!(p.context.store().is_empty(), "nobody knows its id");
    assert_eq!(p.device.state().ended.lock().unwrap().len(), 1);

    // A failure is given back as well, once; what it says counts less than that it could not be said.
    let mut wrong = create();
    wrong[8] = 1;
    let mut given = Vec::new();
    let mut keep = |message: &[u8]| {
        given.push(message.to_vec());
        Ok(())
    };
    let result = Context::dispatch_and(&p.context, method::CREATE.into(), &mut wrong, &mut keep);
    assert_eq!((result, given.len()), (Err(Errno::EINVAL), 1));
    assert_eq!(
        Reply::new(&given[0]).failure(Errno::EINVAL).reason,
        Reason::UNKNOWN_FLAG
    );
    wrong[16..24].fill(0);
    let result = Context::dispatch_and(&p.context, method::CREATE.into(), &mut wrong, &mut |_| {
        Err(Errno::EFAULT)
    });
    assert_eq!(result, Err(Errno::EFAULT));

    // What is no creation has been executed.
    let pd = p.pd();
    let mut buffer = [0u64; 8];
    let destroy = Builder::new(&mut buffer, class::PD, pd).finish().unwrap();
    let result = Context::dispatch_and(&p.context, method::DESTROY.into(), destroy, &mut |_| Err(Errno::EFAULT));
    assert_eq!(result, Err(Errno::EFAULT));
    assert!(p.context.store().is_empty());
}
