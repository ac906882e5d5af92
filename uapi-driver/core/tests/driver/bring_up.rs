// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! From reset to a working device, and what is said when that fails.

use crate::bench::client::App;
use crate::bench::scripted::{Fault, Scripted};
use crate::bench::Bench;
use rdma_uapi::class::{self, device, event_queue};
use rdma_uapi::wire::method;
use rdma_uapi::{Context, Errno, Reason};
use std::time::Duration;
use verbena_core::{Hardware, StartError};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::regs;

fn start(fault: Fault) -> (StartError, Bench) {
    let bench = Bench::new(Scripted::faulty(fault)).patience(Duration::from_millis(300));
    match Hardware::start(bench.clone()) {
        Ok(_) => panic!("{fault:?}: the device came up"),
        Err(error) => {
            assert_eq!(bench.0.ram.used(), 0, "{fault:?}: memory is left");
            (error, bench)
        }
    }
}

#[test]
fn h02_a_device_comes_up_and_goes_down() {
    let app = App::start(Bench::new(Scripted::default()));
    assert!(!app.device.state().is_gone());
    let opcodes = app.bench.model::<Scripted>().seen_opcodes();
    assert_eq!(opcodes[0], Opcode::QUERY_DEVICE);
    // One for asynchronous events, and of six vectors four are left for completions.
    assert_eq!(opcodes[1..], [Opcode::CREATE_EQ; 5]);
    assert_eq!(app.device.state().completion_vectors(), 4);
    let bench = app.bench.clone();
    Context::close(&app.context);
    app.device.state().stop();
    drop(app);
    assert_eq!(bench.0.ram.used(), 0);
    assert!(
        bench.0.log.lock().unwrap().is_empty(),
        "an orderly end is nothing to log"
    );
}

#[test]
fn h02_memory_that_is_not_shared_is_named() {
    let (error, _) = start(Fault::NotShared);
    assert_eq!(error, StartError::MemoryNotShared);
    assert!(error.to_string().contains("share=on"), "{error}");
}

#[test]
fn h02_memory_that_is_not_mapped_is_named() {
    let (error, _) = start(Fault::Unreachable);
    assert_eq!(error, StartError::MemoryUnreachable(crate::bench::BASE));
}

#[test]
fn h02_another_device_is_refused() {
    let (error, bench) = start(Fault::Magic(0x1af4_1000));
    assert_eq!(error, StartError::NotVerbena(0x1af4_1000));
    assert_eq!(error.errno(), Errno::ENODEV);
    assert_eq!(
        bench.model::<Scripted>().written(regs::CTRL),
        None,
        "nothing is written to a foreign device"
    );
}

#[test]
fn h02_another_version_is_refused_by_major_only() {
    let (error, _) = start(Fault::Version(2 << 16 | 7));
    assert_eq!(error, StartError::Version(2 << 16 | 7));
    assert_eq!(
        error.to_string(),
        "the device's programming interface is version 2.7, this driver needs 1.x"
    );
    let newer = Bench::new(Scripted::faulty(Fault::Version(regs::VERSION_VALUE + 1)));
    assert!(Hardware::start(newer).is_ok(), "a higher minor version only adds");
}

#[test]
fn h02_a_device_that_is_gone_is_not_mistaken_for_another() {
    assert_eq!(start(Fault::Gone).0, StartError::Gone);
}

#[test]
fn h03_a_refused_admin_queue_says_why() {
    let (error, _) = start(Fault::RefusesEnable(regs::HEALTH_AQ_CONFIG));
    assert_eq!(error, StartError::NotEnabled(regs::HEALTH_AQ_CONFIG));
}

#[test]
fn h03_a_device_that_completes_nothing_is_given_up() {
    let (error, bench) = start(Fault::Mute);
    assert_eq!(error, StartError::Gone);
    assert!(bench.logged("not completed"));
}

#[test]
fn h02_bring_up_gives_back_what_it_took_when_it_fails_half_way() {
    for opcode in [Opcode::QUERY_DEVICE, Opcode::CREATE_EQ] {
        let device = Scripted::default();
        device.refuse(opcode, Status::LIMIT, 0);
        let bench = Bench::new(device);
        let error = Hardware::start(bench.clone()).err().expect("a command failed");
        assert_eq!(error.errno(), Errno::ENOSPC);
        assert_eq!(bench.0.ram.used(), 0);
        assert_eq!(
            bench.model::<Scripted>().read_status(),
            regs::STATUS_READY,
            "the device was reset"
        );
    }
    for allocations in 0..8 {
        let bench = Bench::new(Scripted::default());
        bench
            .0
            .allocations_left
            .store(allocations, std::sync::atomic::Ordering::Relaxed);
        let error = Hardware::start(bench.clone())
            .err()
            .expect("there was not enough memory");
        assert_eq!(error, StartError::NoMemory(Errno::ENOMEM));
        assert_eq!(bench.0.ram.used(), 0);
    }
}

#[test]
fn u13_hot_removal_ends_calls_and_tells_event_queues() {
    let app = App::start(Bench::new(Scripted::default()));
    let (_, fd) = app.event_queue();
    let pd = app.pd();
    app.bench.model::<Scripted>().set(Fault::Gone);
    verbena_core::remove(&app.device);

    let failure = app.call(method::QUERY, class::PD, pd, |_| {}).map(drop).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::ENODEV, Reason::DEVICE_GONE));
    app.destroy(class::PD, pd).expect("a program's teardown goes on");
    assert_eq!(
        app.next_event(fd).expect("an event").kind,
        event_queue::kind::DEVICE_GONE
    );
    assert!(rdma_uapi::Device::open(&app.device, ()).is_err());
    Context::close(&app.context);
    assert!(app.context.store().is_empty());
}

#[test]
fn u13_a_dead_device_is_noticed_by_the_next_call_and_reported_once() {
    let app = App::start(Bench::new(Scripted::default()));
    let pd = app.pd();
    app.bench.model::<Scripted>().set(Fault::Gone);
    let failure = app.call(method::CREATE, class::PD, 0, |_| {}).map(drop).unwrap_err();
    assert_eq!(failure.errno, Errno::ENODEV);
    app.destroy(class::PD, pd).expect("a program's teardown goes on");
    assert!(app.bench.logged("all ones"));
    assert_eq!(app.bench.0.died.load(std::sync::atomic::Ordering::Relaxed), 1);
    // What needs no hardware still answers; nothing waits.
    let driver = app
        .call(method::QUERY, class::DEVICE, 0, |m| {
            m.ask(device::DRIVER_ID);
        })
        .unwrap();
    assert_eq!(driver.reply().get(device::DRIVER_ID), Some(1));
    Context::close(&app.context);
    assert!(app.context.store().is_empty());
}

#[test]
fn h03_a_device_that_stops_says_why() {
    let app = App::start(Bench::new(Scripted::default()));
    app.bench.model::<Scripted>().set(Fault::Fatal);
    let failure = app.call(method::CREATE, class::PD, 0, |_| {}).map(drop).unwrap_err();
    assert_eq!(failure.errno, Errno::ENODEV);
    assert!(app.bench.logged("it stopped, health 1: the device is dead"));
}

#[test]
fn h03_a_completion_nobody_waits_for_is_the_end_of_the_device() {
    let app = App::start(Bench::new(Scripted::default()));
    app.bench.model::<Scripted>().set(Fault::Confused);
    let failure = app.call(method::CREATE, class::PD, 0, |_| {}).map(drop).unwrap_err();
    assert_eq!(failure.errno, Errno::ENODEV);
    assert!(app.bench.logged("which nobody sent"));
}
