// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a context has and what it costs, as the object model tells it (U7, U13, U14).

use super::kit::{check_eq, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Spec};
use anyhow::{ensure, Context as _};
use rdma_uapi::class;
use std::collections::BTreeMap;
use verbena::{EventQueue, ObjectInfo};

pub const CASES: &[Case] = &[
    Case::single("u07_a_context_lists_its_objects", lists_objects),
    Case::single("u14_a_queue_pair_is_light_and_every_object_has_its_price", prices),
    Case::single("u13_the_limit_of_objects_is_told", limit),
];

fn lists_objects(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    check_eq!(ctx.objects()?, [], "the objects of a fresh context");
    let pd = ctx.alloc_pd()?;
    let buffer = ctx.alloc_buffer(4096)?;
    let mr = pd.register(&buffer, verbena::Access::LOCAL_WRITE)?;
    let events = EventQueue::with_capacity(&ctx, 4)?;
    let objects = ctx.objects()?;
    let classes: Vec<_> = objects.iter().map(|object| object.class).collect();
    check_eq!(classes, [class::PD, class::MR, class::EVENT_QUEUE], "their classes");
    check_eq!(objects[2].object, events.id(), "the queue's id");
    check_eq!(objects[0].dependents, 1, "what depends on the protection domain");
    // A context sees its own.
    check_eq!(fixture.open()?.objects()?, [], "another context's objects");
    drop((mr, events));
    let left: Vec<_> = ctx.objects()?.iter().map(|object| object.class).collect();
    check_eq!(left, [class::PD], "what is left");
    PASS
}

fn prices(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (empty, _) = ctx.account()?;
    let link = Link::new(&ctx, &Spec::default())?;
    let objects = ctx.objects()?;
    let by_class: BTreeMap<u16, &ObjectInfo> = objects.iter().map(|object| (object.class, object)).collect();
    let qp = by_class.get(&class::QP_RC).context("the queue pair is not listed")?;
    ensure!(
        (64..=512).contains(&qp.bytes),
        "a queue pair takes {} bytes beside its rings",
        qp.bytes
    );
    ensure!(qp.shared >= 8192, "its rings are {} bytes", qp.shared);
    let cq = by_class.get(&class::CQ).context("the completion queue is not listed")?;
    ensure!(cq.shared >= 4096 && cq.bytes <= 512, "a completion queue is {cq:?}");
    for object in &objects {
        ensure!(object.bytes >= 64 && object.reserved == 0, "{object:?} costs nothing");
    }
    let sum: u64 = objects.iter().map(|object| u64::from(object.bytes)).sum();
    let (full, _) = ctx.account()?;
    ensure!(
        full >= empty + sum,
        "{} objects of {sum} bytes, and the context went from {empty} to {full}",
        objects.len()
    );
    drop(link);
    let (after, _) = ctx.account()?;
    ensure!(
        after < full,
        "the context takes {after} bytes when its objects are gone"
    );
    PASS
}

fn limit(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (_, most) = ctx.account()?;
    ensure!(most > 0 && most < 1 << 20, "a context may have {most} objects");
    PASS
}
