// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What a process may map.

use crate::bench::client::App;
use crate::bench::scripted::Scripted;
use crate::bench::Bench;
use rdma_uapi::{class, Context, Errno, Reason};
use verbena_core::platform::Dma;
use verbena_core::{mmap, schema, MmapTarget};
use verbena_hw::doorbell::PAGE_SIZE;

fn app() -> App {
    App::start(Bench::new(Scripted::default()))
}

#[test]
fn u10_rings_and_both_faces_of_a_doorbell_are_mappable() {
    let app = app();
    let parts = app.parts();
    let (_, maps) = app.doorbell();
    let (_, _, ring) = app.cq(64, |_| {}).unwrap();
    let (_, _, rings) = app.qp(&parts, |_| {}).unwrap();
    for (offset, length) in [
        (ring.mmap_offset, ring.mmap_length),
        (rings.mmap_offset, rings.mmap_length),
        (maps.page_offset, PAGE_SIZE),
    ] {
        match mmap(&app.context, offset, length).unwrap() {
            MmapTarget::Memory { memory, offset } => assert_eq!((offset, memory.len() as u64), (0, length)),
            MmapTarget::Register(_) => panic!("memory was asked for"),
        }
    }
    match mmap(&app.context, maps.register_offset, PAGE_SIZE).unwrap() {
        MmapTarget::Register(register) => {
            assert_eq!(register.page(), maps.index);
            assert_eq!(register.bar_offset(), u64::from(maps.index) * PAGE_SIZE);
        }
        MmapTarget::Memory { .. } => panic!("the register was asked for"),
    };
}

#[test]
fn h14_nothing_else_is_mappable() {
    let app = app();
    let other = app.another();
    let (cq, _, ring) = app.cq(64, |_| {}).unwrap();
    let refused = |context: &_, offset, length| match mmap(context, offset, length) {
        Ok(_) => panic!("{length} bytes at {offset:#x} were mapped"),
        Err(failure) => failure.errno,
    };
    let length = ring.mmap_length;
    assert_eq!(
        refused(&other.context, ring.mmap_offset, length),
        Errno::EINVAL,
        "another context's"
    );
    for offset in [
        0,
        1 << 63,
        u64::MAX,
        u64::from(app.pd()) << 32,
        ring.mmap_offset + 4096,
        ring.mmap_offset | 1 << 31,
    ] {
        assert_eq!(refused(&app.context, offset, length), Errno::EINVAL, "{offset:#x}");
    }
    for wrong in [0, length - 4096, length + 4096, u64::MAX] {
        assert_eq!(
            refused(&app.context, ring.mmap_offset, wrong),
            Errno::EINVAL,
            "{wrong} bytes"
        );
    }
    app.destroy(class::CQ, cq).unwrap();
    assert_eq!(
        refused(&app.context, ring.mmap_offset, length),
        Errno::EINVAL,
        "a destroyed object's"
    );
    verbena_core::remove(&app.device);
    assert_eq!(refused(&app.context, ring.mmap_offset, length), Errno::ENODEV);
}

#[test]
fn u13_mapped_memory_outlives_its_object() {
    let app = app();
    let before = app.bench.0.ram.used();
    let (cq, _, ring) = app.cq(64, |_| {}).unwrap();
    let Ok(MmapTarget::Memory { memory, .. }) = mmap(&app.context, ring.mmap_offset, ring.mmap_length) else {
        panic!("memory was asked for")
    };
    app.destroy(class::CQ, cq).unwrap();
    assert_eq!(app.bench.0.ram.used(), before + 2, "the mapping still has it");
    drop(memory);
    assert_eq!(app.bench.0.ram.used(), before);
}

#[test]
fn h14_a_doorbell_whose_register_is_mapped_stays() {
    let app = app();
    let (doorbell, maps) = app.doorbell();
    let mapping = mmap(&app.context, maps.register_offset, PAGE_SIZE).unwrap();
    let copy = mapping.clone();
    drop(mapping);
    let failure = app.destroy(schema::DOORBELL_CLASS, doorbell).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EBUSY, Reason::IN_USE));
    drop(copy);
    app.destroy(schema::DOORBELL_CLASS, doorbell).unwrap();
    Context::close(&app.context);
}
