// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the device says of the objects that others stand on: who is in a domain or a group, who rings at a doorbell page, how far
//! the event queues are (H3).

use super::kit::{check_eq, Outcome, PASS};
use super::xrc::Scratch;
use crate::harness::{Case, Fixture};
use crate::link::{next, Link, Region, Spec};
use anyhow::{ensure, Result};
use rdma_uapi::class;
use std::time::Duration;
use verbena::{
    Access, ArmKind, CompletionQueue, Context, DoorbellUse, EventRingState, Gid, OpenXrc, PdMembers, RecvWr, SendWr,
    SharedReceiveQueue, UdQp, WindowType, XrcDomain, XrcTarget, XrcdMembers,
};

pub const CASES: &[Case] = &[
    Case::single("h03_a_protection_domain_tells_what_is_in_it", protection_domain),
    Case::single("h03_an_xrc_domain_tells_what_all_contexts_have_in_it", xrc_domain),
    Case::single("h03_a_multicast_group_tells_how_many_are_in_it", group),
    Case::single("h03_a_doorbell_page_tells_how_many_ring_there", doorbell),
    Case::single("h03_event_queues_tell_how_far_they_are", event_rings),
];

fn protection_domain(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, other) = (ctx.alloc_pd()?, ctx.alloc_pd()?);
    let mut expected = PdMembers::default();
    check_eq!(pd.members()?, expected, "what is in a new domain");
    let srq = SharedReceiveQueue::builder(&pd).depth(16).build()?;
    expected.srqs = 1;
    check_eq!(pd.members()?, expected, "with a shared receive queue");
    let regions = [
        Region::new(&pd, 4096, Access::LOCAL_WRITE)?,
        Region::new(&pd, 8192, Access::ALL_REMOTE)?,
    ];
    let fast = pd.alloc_fast_region(4)?;
    expected.regions = 3;
    check_eq!(pd.members()?, expected, "with three regions");
    let window = pd.alloc_window(WindowType::Type2)?;
    expected.windows = 1;
    check_eq!(pd.members()?, expected, "with a window");
    let [moves, stays] = regions;
    let mut moves = moves.into_registration();
    moves.reregister().pd(&other).apply()?;
    expected.regions = 2;
    check_eq!(pd.members()?, expected, "when a region has moved");
    check_eq!(other.members()?.regions, 1, "regions where it has moved to");
    let cq = ctx.create_cq(16)?;
    let qps = (0..3)
        .map(|_| UdQp::builder(&pd, &cq, &cq).build())
        .collect::<verbena::Result<Vec<_>>>()?;
    expected.queue_pairs = 3;
    check_eq!(pd.members()?, expected, "with three queue pairs");
    drop((srq, fast, window, stays, qps));
    check_eq!(pd.members()?, PdMembers::default(), "when they have gone");
    moves.deregister()?;
    pd.destroy()?;
    other.destroy()?;
    PASS
}

fn xrc_domain(fixture: &Fixture) -> Outcome {
    let (one, two) = (fixture.open()?, fixture.open()?);
    let file = Scratch::new("xrc-members")?;
    let mine = XrcDomain::open(&one, file.open()?, OpenXrc::CreateNew)?;
    let theirs = XrcDomain::open(&two, file.open()?, OpenXrc::Existing)?;
    let members = |srqs, targets| XrcdMembers { srqs, targets };
    check_eq!(mine.members()?, members(0, 0), "what is in a new domain");
    let queue = |ctx: &Context, domain: &XrcDomain| -> Result<(SharedReceiveQueue, CompletionQueue)> {
        let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
        let srq = SharedReceiveQueue::builder(&pd).depth(16).xrc(domain, &cq).build()?;
        Ok((srq, cq))
    };
    let (first, second) = (queue(&one, &mine)?, queue(&two, &theirs)?);
    let target = XrcTarget::builder(&mine).build()?;
    let opened = XrcTarget::builder(&theirs).open(target.qpn())?;
    for (domain, whose) in [(&mine, "its maker"), (&theirs, "the other context")] {
        check_eq!(domain.members()?, members(2, 1), "what {whose} is told");
    }
    drop((first, target));
    check_eq!(
        theirs.members()?,
        members(1, 1),
        "while the other context has the target"
    );
    drop((second, opened));
    check_eq!(theirs.members()?, members(0, 0), "when all has gone");
    PASS
}

fn group(fixture: &Fixture) -> Outcome {
    let (one, two) = (fixture.open()?, fixture.open()?);
    let make = |ctx: &Context| -> Result<UdQp> {
        let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
        Ok(UdQp::builder(&pd, &cq, &cq).build()?)
    };
    let (mut a, mut b) = (make(&one)?, make(&two)?);
    let mut gid = Gid::default();
    (gid.0[0], gid.0[1], gid.0[15]) = (0xff, 0x0e, 0x71);
    ensure!(a.members(gid).is_err(), "who is in no group is told of it");
    a.attach(gid)?;
    check_eq!(a.members(gid)?, 1, "members");
    b.attach(gid)?;
    check_eq!((a.members(gid)?, b.members(gid)?), (2, 2), "members with another's");
    a.detach(gid)?;
    ensure!(a.members(gid).is_err(), "who has left the group is told of it");
    check_eq!(b.members(gid)?, 1, "members that are left");
    PASS
}

fn doorbell(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    check_eq!(ctx.doorbell_use()?, [], "doorbell pages of a new context");
    let taken = |ctx: &Context| -> Result<DoorbellUse> {
        let pages = ctx.doorbell_use()?;
        check_eq!(pages.len(), 1, "doorbell pages");
        Ok(pages[0])
    };
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    check_eq!(taken(&ctx)?.slots, 2, "slots");
    let third = Link::new(&ctx, &Spec::default())?;
    check_eq!(taken(&ctx)?.slots, 3, "slots with one more queue pair");
    drop(third);
    let now = taken(&ctx)?;
    check_eq!(now.slots, 2, "slots when it has gone");
    ensure!(now.watched <= now.slots, "{} of {} are watched", now.watched, now.slots);
    b.qp.post_recv(&RecvWr::new(&[]))?;
    a.qp.post_send(&SendWr::send().signaled())?;
    a.sent_well()?;
    b.received_well()?;
    PASS
}

/// Event queue of completion vector 0.
fn first_ring(ctx: &Context) -> Result<EventRingState> {
    let rings = ctx.event_rings()?;
    check_eq!(
        rings.len() as u32,
        ctx.device()?.comp_vectors + 1,
        "event queues: one for each vector, one for the rest"
    );
    for (number, ring) in rings.iter().enumerate() {
        check_eq!(ring.eqn as usize, number, "a number");
        ensure!(
            ring.entries > 0 && ring.producer.wrapping_sub(ring.consumer) << 1 >> 1 <= ring.entries,
            "{ring:?}"
        );
    }
    Ok(rings[1])
}

fn event_rings(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let before = first_ring(&ctx)?;
    let mut cq = CompletionQueue::builder(&ctx)
        .entries(16)
        .vector(0)
        .events(&events, 7)
        .build()?;
    check_eq!(first_ring(&ctx)?.users, before.users + 1, "who report there");
    let pd = ctx.alloc_pd()?;
    let mut qp = verbena::RcQp::builder(&pd, &cq, &cq).build()?;
    let itself = qp.endpoint()?;
    qp.connect(&itself)?;
    for round in 0..3 {
        cq.arm(ArmKind::Any);
        qp.post_recv(&RecvWr::new(&[]))?;
        qp.post_send(&SendWr::send().signaled())?;
        // Nobody polls before the event has come.
        let event = events.next_event(Some(Duration::from_secs(10)))?;
        check_eq!(event.map(|event| event.cookie), Some(7), "the event of round {round}");
        for _ in 0..2 {
            next(&mut cq)?;
        }
    }
    let after = first_ring(&ctx)?;
    ensure!(
        after.raised >= before.raised + 3,
        "too few events: {before:?}, {after:?}"
    );
    check_eq!(after.waiting, 0, "events that wait for room");
    drop(qp);
    cq.destroy()?;
    check_eq!(first_ring(&ctx)?.users, before.users, "who report there afterwards");
    // It is the queue's state, not its objects': the class of event queues of the object model has another one.
    check_eq!(
        ctx.objects()?.iter().filter(|o| o.class == class::EVENT_QUEUE).count(),
        1,
        "event queues of the context"
    );
    PASS
}
