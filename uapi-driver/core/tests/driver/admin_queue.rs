// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The admin queue: many commands at once, in any order, whoever looks first.

use crate::bench::client::App;
use crate::bench::scripted::{Fault, Scripted};
use crate::bench::Bench;
use rdma_uapi::class::{self, pd};
use rdma_uapi::wire::method;
use rdma_uapi::{Errno, Reason};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use verbena_hw::admin::{Opcode, Status};

fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not come to pass");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn h03_commands_in_flight_complete_in_any_order() {
    const THREADS: usize = 40;
    let app = App::start(Bench::new(Scripted::default()));
    let device = app.bench.model::<Scripted>();
    device.hold();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let answer = app
                        .call(method::CREATE, class::PD, 0, |m| {
                            m.ask(pd::PDN);
                        })
                        .unwrap();
                    (answer.object(), answer.reply().get(pd::PDN).unwrap())
                })
            })
            .collect();
        until(|| device.held() == THREADS);
        device.release(&app.bench.0.ram);
        let mut pdns = HashSet::new();
        for thread in threads {
            let (object, pdn) = thread.join().unwrap();
            assert!(pdns.insert(pdn), "two commands got one response");
            let answer = app
                .call(method::QUERY, class::PD, object, |m| {
                    m.ask(pd::PDN);
                })
                .unwrap();
            assert_eq!(answer.reply().get(pd::PDN), Some(pdn));
        }
    });
}

#[test]
fn h03_more_callers_than_slots_wait_their_turn() {
    const THREADS: usize = 100;
    let app = App::start(Bench::new(Scripted::default()));
    let device = app.bench.model::<Scripted>();
    device.hold();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| app.pd())).collect();
        until(|| device.held() == 64);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(device.held(), 64, "no more are in flight than there are slots");
        device.release(&app.bench.0.ram);
        let objects: HashSet<u32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(objects.len(), THREADS);
    });
}

#[test]
fn h03_completions_are_acknowledged_a_ring_at_a_time() {
    let app = App::start(Bench::new(Scripted::default()));
    let device = app.bench.model::<Scripted>();
    device.acknowledged();
    for _ in 0..480 {
        let pd = app.pd();
        app.destroy(class::PD, pd).unwrap();
    }
    // What a ring of 256 holds beside the 64 that may be in flight.
    assert_eq!(device.acknowledged(), 960 / 192);
}

#[test]
fn h03_the_rings_go_round_with_interrupts_and_without() {
    let app = App::start(Bench::new(Scripted::default()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Interrupts at any time, expected or not, beside waiters that look for themselves.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                verbena_core::interrupt(&app.device, 0);
                std::thread::yield_now();
            }
        });
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let pd = app.pd();
                        app.destroy(class::PD, pd).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert!(!app.device.state().is_gone());
}

#[test]
fn u13_waiting_commands_end_when_the_device_goes() {
    let app = App::start(Bench::new(Scripted::default()));
    let device = app.bench.model::<Scripted>();
    device.hold();
    std::thread::scope(|scope| {
        let create = || app.call(method::CREATE, class::PD, 0, |_| {}).map(drop);
        // More than there are slots: those that wait for one end too.
        let threads: Vec<_> = (0..80).map(|_| scope.spawn(create)).collect();
        until(|| device.held() == 64);
        device.set(Fault::Gone);
        verbena_core::remove(&app.device);
        for thread in threads {
            let failure = thread.join().unwrap().unwrap_err();
            assert_eq!(failure.errno, Errno::ENODEV);
        }
    });
    assert!(app.context.store().is_empty());
}

#[test]
fn h03_a_missed_deadline_resets_the_device() {
    let app = App::start(Bench::new(Scripted::default()).patience(Duration::from_millis(300)));
    let device = app.bench.model::<Scripted>();
    device.set(Fault::Mute);
    let start = Instant::now();
    let failure = app.call(method::CREATE, class::PD, 0, |_| {}).map(drop).unwrap_err();
    assert_eq!(failure.errno, Errno::ENODEV);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(app.bench.0.died.load(Ordering::Relaxed), 1);
    assert_eq!(
        device.read_status(),
        verbena_hw::regs::STATUS_READY,
        "it may not touch memory any more"
    );
}

#[test]
fn h03_each_status_has_its_errno() {
    let app = App::start(Bench::new(Scripted::default()));
    let device = app.bench.model::<Scripted>();
    for (status, errno) in [
        (Status::BAD_OPCODE, Errno::EOPNOTSUPP),
        (Status::BAD_FIELD, Errno::EINVAL),
        (Status::LIMIT, Errno::ENOSPC),
        (Status::NO_SUCH_OBJECT, Errno::ENOENT),
        (Status::BAD_ADDRESS, Errno::EFAULT),
        (Status(0x777), Errno::EIO),
    ] {
        device.refuse(Opcode::CREATE_PD, status, 0);
        let failure = app.call(method::CREATE, class::PD, 0, |_| {}).map(drop).unwrap_err();
        assert_eq!(
            (failure.errno, failure.reason, failure.detail),
            (errno, Reason::DEVICE, status.0),
            "{status}"
        );
    }
    assert!(app.context.store().is_empty(), "what failed left no object");
}
