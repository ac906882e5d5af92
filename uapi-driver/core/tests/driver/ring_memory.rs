// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory that the rings of many queues share.

use crate::bench::client::{App, Parts};
use crate::bench::scripted::Scripted;
use crate::bench::{Bench, Memory};
use rdma_uapi::class::{self, srq};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Context, Errno, Failure, Reason};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use verbena_core::platform::Dma;
use verbena_core::schema::{self, RingMemoryMap, RING_GRAIN_LEAST, RING_MEMORY, RING_MEMORY_CLASS, RING_MEMORY_MAX};
use verbena_core::{layout, mmap, MmapTarget};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{CreateCqReq, CreateQpReq, CreateSrqReq};
use zerocopy::FromBytes;

const PAGE: u64 = 4096;

fn app() -> App {
    App::start(Bench::new(Scripted::default()))
}

fn of(memory: u32) -> impl Fn(&mut Builder<'_>) {
    move |m| {
        m.put(RING_MEMORY, &ObjectId(memory));
    }
}

fn map(app: &App, offset: u64, length: u64) -> Result<(Arc<Memory>, u64), Failure> {
    match mmap(&app.context, offset, length)? {
        MmapTarget::Memory { memory, offset } => Ok((memory, offset)),
        MmapTarget::Register(_) => panic!("memory was asked for"),
    }
}

/// The last command that the device saw, which is this one.
fn asked<T: FromBytes>(app: &App, opcode: Opcode) -> T {
    let seen = app.bench.model::<Scripted>().seen();
    let command = seen.iter().rev().find(|command| command.opcode == opcode).unwrap();
    T::read_from_prefix(&command.payload).unwrap().0
}

fn refused(failure: Failure) -> (Errno, Reason, u16) {
    (failure.errno, failure.reason, failure.attr)
}

fn full() -> (Errno, Reason, u16) {
    (Errno::ENOSPC, Reason::OUT_OF_RANGE, RING_MEMORY.id())
}

#[test]
fn u10_rings_of_many_queues_lie_apart_in_one_memory() {
    let app = app();
    let parts = app.parts();
    let (memory, whole) = app.ring_memory(10 * PAGE).unwrap();
    let (all, at) = map(&app, whole.mmap_offset, whole.mmap_length).unwrap();
    assert_eq!((at, all.len() as u64), (0, 10 * PAGE));
    let mut places = Vec::new();
    let (_, _, rings) = app.qp(&parts, of(memory)).unwrap();
    let request: CreateQpReq = asked(&app, Opcode::CREATE_QP);
    let at = rings.mmap_offset - whole.mmap_offset;
    assert_eq!(request.sq.addr, all.addr() + at);
    assert_eq!(request.rq.addr, all.addr() + at + rings.recv_offset);
    places.push((at, rings.mmap_length));
    let (_, _, ring) = app.cq(64, of(memory)).unwrap();
    let request: CreateCqReq = asked(&app, Opcode::CREATE_CQ);
    let at = ring.mmap_offset - whole.mmap_offset;
    assert_eq!(request.ring.addr, all.addr() + at);
    assert_eq!(request.record, all.addr() + at + ring.record_offset);
    places.push((at, ring.mmap_length));
    let answer = app.call(method::CREATE, class::SRQ, 0, |m| {
        m.put(srq::PD, &ObjectId(parts.pd)).put(srq::MAX_WR, &16);
        m.ask(schema::SRQ_RING);
        of(memory)(m);
    });
    let ring = answer.unwrap().reply().get(schema::SRQ_RING).unwrap();
    let request: CreateSrqReq = asked(&app, Opcode::CREATE_SRQ);
    let at = ring.mmap_offset - whole.mmap_offset;
    assert_eq!(request.ring.addr, all.addr() + at);
    assert_eq!(request.record, all.addr() + at + ring.record_offset);
    places.push((at, ring.mmap_length));

    places.sort();
    for two in places.windows(2) {
        assert!(two[0].0 + two[0].1 <= two[1].0, "{places:?}");
    }
    for (at, length) in places {
        assert_eq!((at % PAGE, length % PAGE), (0, 0));
        assert!(at + length <= 10 * PAGE);
        // A program that does not know of the memory maps the queue's part of it.
        let (part, offset) = map(&app, whole.mmap_offset + at, length).unwrap();
        assert_eq!((part.addr(), offset), (all.addr(), at));
    }
}

#[test]
fn u10_a_program_knows_beforehand_what_a_queue_takes() {
    let app = app();
    let parts = app.parts();
    let caps = crate::bench::client::CAPS;
    let bytes = layout::qp_bytes(class::QP_RC, &caps, false).unwrap() + layout::cq_bytes(100).unwrap();
    let (memory, _) = app.ring_memory(bytes).unwrap();
    let (_, _, rings) = app.qp(&parts, of(memory)).unwrap();
    let (_, _, ring) = app.cq(100, of(memory)).unwrap();
    assert_eq!(rings.mmap_length + ring.mmap_length, bytes);
    assert_eq!(app.qp(&parts, of(memory)).map(drop).map_err(refused), Err(full()));
    assert_eq!(app.cq(1, of(memory)).map(drop).map_err(refused), Err(full()));
    assert_eq!(layout::cq_bytes(u32::MAX), None);
    assert_eq!(layout::qp_bytes(class::PD, &caps, false), None);
}

/// A ring memory of the least grain.
fn packed(app: &App, length: u64) -> Result<(u32, RingMemoryMap), Failure> {
    let answer = app.call(method::CREATE, RING_MEMORY_CLASS, 0, |m| {
        m.put(schema::RING_MEMORY_LENGTH, &length);
        m.put(schema::RING_GRAIN, &RING_GRAIN_LEAST)
            .ask(schema::RING_MEMORY_MAP);
    })?;
    Ok((answer.object(), answer.reply().get(schema::RING_MEMORY_MAP).unwrap()))
}

fn least_grain(app: &App) -> u32 {
    let answer = app.call(method::QUERY, class::DEVICE, 0, |m| {
        m.ask(schema::RING_GRAIN);
    });
    answer.unwrap().reply().get(schema::RING_GRAIN).unwrap()
}

#[test]
fn u10_packed_queue_pairs_share_pages_and_leave_zeros_in_their_own_grains_alone() {
    let app = App::start(Bench::new(Scripted::packing()));
    let parts = app.parts();
    assert_eq!(least_grain(&app), RING_GRAIN_LEAST);
    let caps = crate::bench::client::CAPS;
    let (align, bytes) = layout::packed_qp(class::QP_RC, &caps, false).unwrap();
    assert!(bytes < PAGE && bytes % 512 == 0, "{bytes}");
    let (memory, whole) = packed(&app, 2 * PAGE).unwrap();
    let (all, _) = map(&app, whole.mmap_offset, whole.mmap_length).unwrap();
    // A completion queue has whole pages, whatever is before it.
    let (first, _, one) = app.qp(&parts, of(memory)).unwrap();
    let (cq, _, ring) = app.cq(16, of(memory)).unwrap();
    assert_eq!((ring.mmap_offset - whole.mmap_offset, ring.mmap_length), (PAGE, PAGE));
    let mut qps = vec![(first, one)];
    while let Ok((qp, _, rings)) = app.qp(&parts, of(memory)) {
        qps.push((qp, rings));
    }
    assert_eq!(qps.len() as u64, PAGE / bytes.next_multiple_of(align));
    let stretches: Vec<_> = qps
        .iter()
        .map(|(_, rings)| rings.mmap_offset - whole.mmap_offset)
        .collect();
    assert!(
        stretches.windows(2).all(|pair| pair[1] >= pair[0] + bytes),
        "{stretches:?}"
    );
    assert!(qps
        .iter()
        .all(|(_, rings)| rings.mmap_length == bytes && rings.recv_offset < bytes));
    // The device is told where they are, both of them.
    let seen = app.bench.model::<Scripted>().seen();
    let made = seen.iter().filter(|command| command.opcode == Opcode::CREATE_QP);
    for (command, at) in made.zip(&stretches) {
        let request = CreateQpReq::read_from_prefix(&command.payload).unwrap().0;
        assert_eq!(request.sq.addr, all.addr() + at);
        assert_eq!(request.rq.addr, all.addr() + at + qps[0].1.recv_offset);
    }
    all.words().iter().for_each(|word| word.store(7, Ordering::Relaxed));
    app.destroy(class::QP_RC, qps[1].0).unwrap();
    let gone = stretches[1]..stretches[1] + bytes;
    for at in (0..whole.mmap_length).step_by(8) {
        let value = all.words()[at as usize / 8].load(Ordering::Relaxed);
        assert_eq!(value, if gone.contains(&at) { 0 } else { 7 }, "at {at}");
    }
    let (_, _, again) = app.qp(&parts, of(memory)).unwrap();
    assert_eq!(again.mmap_offset, qps[1].1.mmap_offset);
    app.destroy(class::CQ, cq).unwrap();
}

#[test]
fn u10_a_device_that_wants_pages_gets_pages() {
    let app = app();
    assert_eq!(u64::from(least_grain(&app)), PAGE);
    let failure = packed(&app, PAGE).map(drop).unwrap_err();
    assert_eq!(
        refused(failure),
        (Errno::EINVAL, Reason::OUT_OF_RANGE, schema::RING_GRAIN.id())
    );
}

#[test]
fn u10_what_a_queue_leaves_is_zero_and_serves_the_next() {
    let app = app();
    let parts = app.parts();
    let (memory, whole) = app.ring_memory(4 * PAGE).unwrap();
    let (all, _) = map(&app, whole.mmap_offset, whole.mmap_length).unwrap();
    let (first, _, _) = app.qp(&parts, of(memory)).unwrap();
    let (second, _, kept) = app.qp(&parts, of(memory)).unwrap();
    all.words().iter().for_each(|word| word.store(7, Ordering::Relaxed));
    app.destroy(class::QP_RC, first).unwrap();
    let value = |at: u64| all.words()[at as usize / 8].load(Ordering::Relaxed);
    let begin = kept.mmap_offset - whole.mmap_offset;
    for at in (0..whole.mmap_length).step_by(8) {
        let inside = (begin..begin + kept.mmap_length).contains(&at);
        assert_eq!(value(at), if inside { 7 } else { 0 }, "at {at}");
    }
    let (third, _, rings) = app.qp(&parts, of(memory)).unwrap();
    assert_ne!(rings.mmap_offset, kept.mmap_offset);
    app.destroy(class::QP_RC, second).unwrap();
    app.destroy(class::QP_RC, third).unwrap();
    app.destroy(RING_MEMORY_CLASS, memory).unwrap();
}

#[test]
fn u13_a_memory_with_queues_in_it_stays_and_a_failed_queue_takes_none_of_it() {
    let app = app();
    let parts = app.parts();
    let before = app.bench.0.ram.used();
    let (memory, whole) = app.ring_memory(2 * PAGE).unwrap();
    assert_eq!(app.bench.0.ram.used(), before + 2);
    for _ in 0..3 {
        app.bench
            .model::<Scripted>()
            .refuse(Opcode::CREATE_QP, Status::LIMIT, 0);
        let failure = app.qp(&parts, of(memory)).map(drop).unwrap_err();
        assert_eq!(failure.reason, Reason::DEVICE);
    }
    let (qp, _, _) = app.qp(&parts, of(memory)).unwrap();
    let failure = app.destroy(RING_MEMORY_CLASS, memory).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EBUSY, Reason::IN_USE, 1)
    );
    // The queue goes, then the memory; a mapping of it outlives both.
    let (mapped, _) = map(&app, whole.mmap_offset, PAGE).unwrap();
    app.destroy(class::QP_RC, qp).unwrap();
    app.destroy(RING_MEMORY_CLASS, memory).unwrap();
    assert_eq!(app.bench.0.ram.used(), before + 2);
    drop(mapped);
    assert_eq!(app.bench.0.ram.used(), before);
    // What a program leaves behind goes in the order of its dependencies.
    let (memory, _) = app.ring_memory(2 * PAGE).unwrap();
    app.qp(&parts, of(memory)).unwrap();
    Context::close(&app.context);
    let left: Vec<_> = app.bench.model::<Scripted>().seen_opcodes();
    assert!(left.contains(&Opcode::DESTROY_QP), "{left:?}");
}

#[test]
fn h14_a_memory_is_its_contexts_own_and_only_whole_pages_of_it_are_mapped() {
    let app = app();
    let other = app.another();
    let parts: Parts = other.parts();
    let (memory, whole) = app.ring_memory(3 * PAGE).unwrap();
    let failure = other.qp(&parts, of(memory)).map(drop).unwrap_err();
    assert!(
        matches!(failure.reason, Reason::NO_OBJECT | Reason::WRONG_CLASS),
        "{failure:?}"
    );
    let error = |context: &App, offset, length| map(context, offset, length).map(drop).unwrap_err().errno;
    assert_eq!(error(&other, whole.mmap_offset, 3 * PAGE), Errno::EINVAL);
    for (offset, length) in [
        (0, 4 * PAGE),
        (PAGE, 3 * PAGE),
        (3 * PAGE, PAGE),
        (8, PAGE),
        (0, 0),
        (0, 8),
        (PAGE, u64::MAX),
    ] {
        assert_eq!(
            error(&app, whole.mmap_offset + offset, length),
            Errno::EINVAL,
            "{length} at {offset}"
        );
    }
    // A queue that lies in it is reached through it alone.
    let own = app.parts();
    let (qp, _, rings) = app.qp(&own, of(memory)).unwrap();
    assert_eq!(error(&app, u64::from(qp) << 32, rings.mmap_length), Errno::EINVAL);
    // Another class is no memory.
    let failure = app.qp(&own, of(own.pd)).map(drop).unwrap_err();
    assert_eq!(refused(failure), (Errno::EINVAL, Reason::WRONG_CLASS, RING_MEMORY.id()));
    for length in [0, RING_MEMORY_MAX + 1, u64::MAX] {
        let failure = app.ring_memory(length).map(drop).unwrap_err();
        assert_eq!(failure.reason, Reason::OUT_OF_RANGE, "{length}");
    }
    verbena_core::remove(&app.device);
    assert_eq!(error(&app, whole.mmap_offset, PAGE), Errno::ENODEV);
    app.destroy(class::QP_RC, qp).unwrap();
    app.destroy(RING_MEMORY_CLASS, memory).unwrap();
}
