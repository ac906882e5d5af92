// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion counters (U8, H7): they stand where completion queues can, and are read without a call.

use super::kit::{check_eq, refused, Outcome, PASS, QUIET};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{good, next, Region, SOON};
use anyhow::{anyhow, bail, ensure, Context as _, Result};
use rdma_uapi::class::{self, counter};
use rdma_uapi::wire::method;
use rdma_uapi::Errno;
use std::time::Instant;
use verbena::{
    Access, CompletionCounter, Context, EventKind, PostError, ProtectionDomain, QpState, RcQp, RecvWr, Remote, SendWr,
    SharedReceiveQueue, UcQp, XrcDomain, XrcInitiator, XrcTarget,
};

pub const CASES: &[Case] = &[
    Case::single("u08_completion_counters_stand_where_queues_can", counted),
    Case::single("u08_a_completion_counter_counts_for_many_queue_pairs", many),
    Case::single("u08_a_completion_counter_stands_beside_a_queue", beside_queue),
    Case::single("u08_a_completion_counter_counts_for_xrc", xrc),
    Case::single("u08_a_completion_counter_counts_failures_apart", failures),
    Case::single("u08_a_completion_counter_is_an_object", object),
    Case::single("u09_a_completion_counter_reports_its_threshold", threshold),
];

/// Entries of each ring: few, so that a test goes around them.
const DEPTH: u32 = 16;

/// Two connected queue pairs of one device, whose completions are counted.
struct Two {
    a: RcQp,
    b: RcQp,
    sends: CompletionCounter,
    receives: CompletionCounter,
    region: Region,
    pd: ProtectionDomain,
}

impl Two {
    fn new(ctx: &Context) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        let sends = CompletionCounter::new(ctx, 8, None)?;
        let receives = CompletionCounter::new(ctx, 8, None)?;
        let (a, b) = Self::pair(&pd, &sends, &receives)?;
        let region = Region::new(&pd, 1 << 16, Access::LOCAL_WRITE | Access::ALL_REMOTE)?;
        Ok(Self {
            a,
            b,
            sends,
            receives,
            region,
            pd,
        })
    }

    fn pair(pd: &ProtectionDomain, sends: &CompletionCounter, receives: &CompletionCounter) -> Result<(RcQp, RcQp)> {
        let make = || {
            let builder = RcQp::counted(pd, sends, receives);
            builder.send_depth(DEPTH).recv_depth(DEPTH).build()
        };
        let (mut a, mut b) = (make()?, make()?);
        a.connect(&b.endpoint()?)?;
        b.connect(&a.endpoint()?)?;
        Ok((a, b))
    }
}

/// Waits until so many have been counted.
fn reached(counter: &CompletionCounter, succeeded: u64, failed: u64) -> Result<()> {
    let begun = Instant::now();
    while (counter.succeeded(), counter.failed()) != (succeeded, failed) {
        if begun.elapsed() > SOON {
            let counted = (counter.succeeded(), counter.failed());
            bail!("{counted:?} counted instead of {:?}", (succeeded, failed));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Posts when there is room: nobody polls, so the device alone says when.
fn patiently(mut post: impl FnMut() -> Result<(), PostError>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match post() {
            Err(PostError::QueueFull) if begun.elapsed() < SOON => std::thread::yield_now(),
            posted => return Ok(posted?),
        }
    }
}

fn counted(fixture: &Fixture) -> Outcome {
    const MESSAGES: u64 = 1000;
    let ctx = fixture.open()?;
    let mut two = Two::new(&ctx)?;
    for n in 0..MESSAGES {
        let at = 32768 + n as usize % DEPTH as usize * 8;
        let sges = [two.region.sge(at..at + 8)];
        patiently(|| two.b.post_recv(&RecvWr::new(&sges)))?;
        patiently(|| two.a.post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled()))?;
        if n % 100 == 0 {
            // Whoever sees it counted sees its data.
            reached(&two.receives, n + 1, 0)?;
            check_eq!(two.region.buffer().to_vec(at, 8), n.to_le_bytes(), "message {n}");
        }
    }
    reached(&two.receives, MESSAGES, 0)?;
    reached(&two.sends, MESSAGES, 0)?;
    // One that asks for no completion is not counted, but the next says that it is over.
    for _ in 0..10 * DEPTH {
        let to = two.region.remote(0);
        let sges = [two.region.sge(512..520)];
        patiently(|| two.a.post_send(&SendWr::write(to).sges(&sges)))?;
        patiently(|| two.a.post_send(&SendWr::write(to).sges(&sges).signaled()))?;
    }
    reached(&two.sends, MESSAGES + 10 * u64::from(DEPTH), 0)?;
    check_eq!(
        two.receives.succeeded(),
        MESSAGES,
        "what WRITEs complete at their target"
    );

    // RESET begins anew; what was counted stays.
    two.a.reset(&mut [])?;
    two.b.reset(&mut [])?;
    two.a.connect(&two.b.endpoint()?)?;
    two.b.connect(&two.a.endpoint()?)?;
    let before = two.sends.succeeded();
    for n in 0..2 * u64::from(DEPTH) {
        let sges = [two.region.sge(0..8)];
        patiently(|| two.b.post_recv(&RecvWr::new(&sges)))?;
        patiently(|| two.a.post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled()))?;
    }
    reached(&two.sends, before + 2 * u64::from(DEPTH), 0)?;
    PASS
}

fn many(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let two = Two::new(&ctx)?;
    let mut pairs = Vec::new();
    for _ in 0..3 {
        pairs.push(Two::pair(&two.pd, &two.sends, &two.receives)?);
    }
    let sges = [two.region.sge(0..8)];
    for n in 0..100u64 {
        for (a, b) in &mut pairs {
            patiently(|| b.post_recv(&RecvWr::new(&sges)))?;
            patiently(|| a.post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled()))?;
        }
    }
    reached(&two.receives, 300, 0)?;
    reached(&two.sends, 300, 0)?;
    // The ninth queue pair of the context has no place in counters for eight.
    let cq = ctx.create_cq(16)?;
    let mut others = Vec::new();
    let refused = loop {
        match RcQp::counted(&two.pd, &two.sends, &two.receives).build() {
            Ok(other) if others.len() < 64 => others.push(other),
            Ok(_) => bail!("more queue pairs than places"),
            Err(error) => break error,
        }
    };
    ensure!(
        matches!(refused, verbena::Error::Argument(_)),
        "a queue pair too many: {refused}"
    );
    check_eq!(
        others.len() as u32 + 8,
        two.sends.queue_pairs(),
        "queue pairs that have a place"
    );
    RcQp::builder(&two.pd, &cq, &cq).build()?;
    PASS
}

fn beside_queue(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, mut cq) = (ctx.alloc_pd()?, ctx.create_cq(64)?);
    let counter = CompletionCounter::new(&ctx, 8, None)?;
    let mut a = UcQp::builder(&pd, &cq, &cq).count_sends(&counter).build()?;
    let mut b = UcQp::builder(&pd, &cq, &cq).count_receives(&counter).build()?;
    a.connect(&b.endpoint()?)?;
    b.connect(&a.endpoint()?)?;
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE)?;
    let sges = [region.sge(0..8)];
    for n in 1..=200u64 {
        patiently(|| b.post_recv(&RecvWr::new(&sges)))?;
        patiently(|| a.post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled()))?;
        // One counts for the send and one for the receive.
        reached(&counter, 2 * n, 0)?;
    }
    let sges = [region.sge(8..16)];
    a.post_recv(&RecvWr::new(&sges).wr_id(1))?;
    b.post_send(&SendWr::send().inline(b"to queue").signaled().wr_id(2))?;
    let mut ids = [good(next(&mut cq)?)?.wr_id, good(next(&mut cq)?)?.wr_id];
    ids.sort_unstable();
    check_eq!(ids, [1, 2], "what completes to the queue");
    check_eq!(counter.succeeded(), 400, "what is counted beside");
    PASS
}

fn xrc(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, domain) = (ctx.alloc_pd()?, XrcDomain::new(&ctx)?);
    let (sends, receives) = (
        CompletionCounter::new(&ctx, 8, None)?,
        CompletionCounter::new(&ctx, 8, None)?,
    );
    let builder = SharedReceiveQueue::builder(&pd).depth(DEPTH);
    let mut srq = builder.xrc_counted(&domain, &receives).build()?;
    let cq = ctx.create_cq(16)?;
    let mut target = XrcTarget::builder(&domain).build()?;
    let mut initiator = XrcInitiator::initiator(&pd, &cq).count_sends(&sends).build()?;
    target.connect(&initiator.endpoint()?)?;
    initiator.connect(&target.endpoint()?)?;
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE)?;
    for n in 1..=100u64 {
        patiently(|| srq.post(&RecvWr::new(&[region.sge(0..8)])))?;
        let srqn = srq.srqn();
        patiently(|| initiator.post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled(), srqn))?;
        reached(&receives, n, 0)?;
        check_eq!(region.buffer().to_vec(0, 8), n.to_le_bytes(), "message {n}");
    }
    reached(&sends, 100, 0)?;
    PASS
}

fn failures(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut two = Two::new(&ctx)?;
    let sges = [two.region.sge(0..8)];
    for _ in 0..3 {
        two.b.post_recv(&RecvWr::new(&sges))?;
    }
    two.a
        .post_send(&SendWr::write(Remote::default()).sges(&sges).signaled())?;
    two.a.post_send(&SendWr::send().sges(&sges).signaled())?;
    reached(&two.sends, 0, 2)?;
    reached(&two.receives, 0, 3)?;
    check_eq!(two.a.query()?.state, QpState::ERR, "the state");
    PASS
}

fn object(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for queue_pairs in [0, (1 << 16) + 1] {
        let counter = CompletionCounter::new(&ctx, queue_pairs, None);
        refused(counter, Errno::EINVAL, "a number of queue pairs")?;
    }
    let failed = |failure: rdma_uapi::Failure| anyhow!("{failure}");
    let made = Message::new(class::COUNTER, 0, |m| {
        m.put(counter::QUEUE_PAIRS, &100);
        m.ask(counter::CQN);
    });
    let id = made.call(&ctx, method::CREATE).map_err(failed)?.object();
    let asked = Message::new(class::COUNTER, id, |m| {
        m.ask(counter::QUEUE_PAIRS).ask(counter::SUCCEEDED).ask(counter::FAILED);
    });
    let answer = asked.call(&ctx, method::QUERY).map_err(failed)?;
    let said = answer.reply();
    let said = (
        said.get(counter::QUEUE_PAIRS),
        said.get(counter::SUCCEEDED),
        said.get(counter::FAILED),
    );
    check_eq!(said, (Some(128), Some(0), Some(0)), "what a new counter says");
    // Neither resized nor moderated.
    let modify = Message::new(class::COUNTER, id, |_| {}).call(&ctx, method::MODIFY);
    check_eq!(
        modify.err().map(|failure| failure.errno),
        Some(Errno::EOPNOTSUPP),
        "MODIFY of a counter"
    );
    // A queue is no counter.
    let queue = Message::new(class::CQ, id, |_| {}).call(&ctx, method::QUERY);
    check_eq!(
        queue.err().map(|failure| failure.errno),
        Some(Errno::EINVAL),
        "a counter as a queue"
    );

    let two = Two::new(&ctx)?;
    let Two { a, b, sends, .. } = two;
    refused(sends.destroy(), Errno::EBUSY, "a counter that queue pairs have")?;
    a.destroy()?;
    b.destroy()?;
    PASS
}

fn threshold(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let pd = ctx.alloc_pd()?;
    let sends = CompletionCounter::new(&ctx, 8, None)?;
    let receives = CompletionCounter::new(&ctx, 8, Some((&events, 77)))?;
    let (mut a, mut b) = Two::pair(&pd, &sends, &receives)?;
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE)?;
    let sges = [region.sge(0..8)];
    let mut message = |a: &mut RcQp| -> Result<()> {
        b.post_recv(&RecvWr::new(&sges))?;
        a.post_send(&SendWr::send().inline(b"a number").signaled())?;
        Ok(())
    };
    ensure!(receives.arm(5, 0), "it is over before it began");
    for _ in 0..4 {
        message(&mut a)?;
    }
    reached(&receives, 4, 0)?;
    check_eq!(events.next_event(Some(QUIET))?, None, "an event at 4 of 5");
    message(&mut a)?;
    let event = events.next_event(Some(SOON))?.context("no event at 5 of 5")?;
    check_eq!(
        (event.kind, event.class, event.cookie, event.count),
        (EventKind::Completion, class::COUNTER, 77, 1),
        "the event"
    );
    check_eq!(receives.succeeded(), 5, "what is counted then");
    ensure!(!receives.arm(5, 0), "what is over is waited for");
    // Failures are told whatever the threshold.
    ensure!(receives.arm(1000, 0), "a thousand are there");
    // That it was armed before for what was over is told at most once.
    b.post_recv(&RecvWr::new(&sges))?;
    b.set_error()?;
    reached(&receives, 5, 1)?;
    events.next_event(Some(SOON))?.context("no event of a failure")?;
    check_eq!(events.next_event(Some(QUIET))?, None, "one event too many");
    PASS
}
