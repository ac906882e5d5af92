// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches of what is neither a completion queue nor a queue pair with queues: counters, XRC domains and targets; and batches
//! that end things (U16).

use super::kit::{check_eq, dump, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{good, next, Region, SOON};
use crate::pattern;
use anyhow::{bail, ensure, Result};
use rdma_uapi::Errno;
use std::time::Instant;
use verbena::{
    Access, Batch, CompletionCounter, CompletionQueue, ConnectOptions, Context, EventKind, Gid, OnFailure,
    ProtectionDomain, QpState, RcQp, RecvWr, SendWr, SharedReceiveQueue, UdQp, XrcInitiator, XrcTarget,
};

pub const CASES: &[Case] = &[
    Case::single("u16_a_batch_makes_connects_and_destroys_xrc_targets", xrc),
    Case::single("u16_a_batch_makes_counters_and_what_they_count_for", counters),
    Case::single("u16_a_counter_of_a_batch_that_is_too_small_says_so", small_counter),
    Case::single("u16_a_batch_of_targets_and_counters_is_undone", undone),
    Case::single("u16_destroys_stop_at_one_that_is_refused", stopped),
    Case::single("u16_destroys_go_on_behind_one_that_is_refused", continued),
    Case::single("u16_a_thousand_objects_end_in_the_order_of_their_batch", thousand),
];

/// A group that nobody else is in.
const GROUP: Gid = Gid([0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xba, 0x7c, 0xed, 1]);

/// Objects of the context, by class and id.
fn objects(ctx: &Context) -> Result<Vec<(u16, u32)>> {
    Ok(ctx
        .objects()?
        .iter()
        .map(|object| (object.class, object.object.0))
        .collect())
}

fn xrc(fixture: &Fixture) -> Outcome {
    const PAIRS: usize = 40;
    let ctx = fixture.open()?;
    let (pd, mut cq, mut received) = (ctx.alloc_pd()?, ctx.create_cq(256)?, ctx.create_cq(256)?);
    let events = ctx.create_event_queue()?;
    let before = objects(&ctx)?;
    let mut batch = Batch::new(&ctx);
    let domain = batch.create_xrcd();
    let mut tickets = Vec::new();
    for n in 0..PAIRS as u64 {
        tickets.push((
            batch.create_xrc_target(XrcTarget::batched(domain).events(&events, n)),
            batch.create_qp(XrcInitiator::batched(&pd, &cq, &cq).send_depth(4)),
        ));
    }
    let mut done = batch.run(OnFailure::Undo)?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, 1 + 2 * PAIRS),
        "chains, and commands"
    );
    let domain = done.take(domain)?;
    let mut pairs = Vec::new();
    for (target, initiator) in tickets {
        pairs.push((done.take(target)?, done.take(initiator)?));
    }

    let (gid, options) = (ctx.gid(1, 0)?, ConnectOptions::default());
    let mut batch = Batch::new(&ctx);
    for (target, initiator) in &mut pairs {
        let (to_target, to_initiator) = (target.endpoint()?, initiator.endpoint_with(gid));
        batch.connect(target, &to_initiator, &options)?;
        batch.connect(initiator, &to_target, &options)?;
    }
    batch.run(OnFailure::Stop)?.all()?;
    let mut srq = SharedReceiveQueue::builder(&pd)
        .depth(64)
        .xrc(&domain, &received)
        .build()?;
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE)?;
    for (n, (target, initiator)) in pairs.iter_mut().enumerate() {
        check_eq!(
            (target.state(), target.query()?.state, target.query()?.dest_qpn),
            (QpState::RTS, QpState::RTS, initiator.qpn()),
            "states and peer of target {n}"
        );
        srq.post(&RecvWr::new(&[region.sge(8 * n..8 * n + 8)]).wr_id(n as u64))?;
        let data = (n as u64 + 1).to_le_bytes();
        initiator.post_send(&SendWr::send().inline(&data).signaled(), srq.srqn())?;
        good(next(&mut cq)?)?;
        let got = good(next(&mut received)?)?;
        check_eq!((got.wr_id, got.qpn), (n as u64, target.qpn()), "receive {n}");
        check_eq!(region.buffer().to_vec(8 * n, 8), data, "message {n}");
    }
    srq.destroy()?;
    let mut batch = Batch::new(&ctx);
    for (target, initiator) in pairs {
        batch.destroy(target);
        batch.destroy(initiator);
    }
    batch.destroy(domain);
    let mut done = batch.run(OnFailure::Stop)?;
    done.all()?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, 1 + 2 * PAIRS),
        "chains, and objects ended"
    );
    drop((done, region));
    // The driver's own, such as the doorbell page that the queue pairs were on, may stay.
    let left: Vec<_> = objects(&ctx)?
        .into_iter()
        .filter(|object| !before.contains(object) && object.0 & 0x8000 == 0)
        .collect();
    check_eq!(left, [], "what is left");
    PASS
}

/// Waits until so many have been counted.
fn reached(counter: &CompletionCounter, succeeded: u64) -> Result<()> {
    let begun = Instant::now();
    while counter.succeeded() < succeeded && begun.elapsed() < SOON {
        std::thread::yield_now();
    }
    check_eq!(
        (counter.succeeded(), counter.failed()),
        (succeeded, 0),
        "what was counted"
    );
    Ok(())
}

fn counters(fixture: &Fixture) -> Outcome {
    const PAIRS: usize = 8;
    let ctx = fixture.open()?;
    let (pd, events) = (ctx.alloc_pd()?, ctx.create_event_queue()?);
    // One that is there already, beside those of the batch.
    let there = CompletionCounter::new(&ctx, 64, None)?;
    let mut batch = Batch::new(&ctx);
    let sends = batch.create_counter(64, Some((&events, 77)));
    let receives = batch.create_counter(64, None);
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    let tickets: Vec<_> = (0..PAIRS)
        .map(|_| {
            let a = RcQp::batched(&pd, cq, cq).count_sends(sends).count_receives(&there);
            let b = RcQp::batched(&pd, cq, cq).count_receives(receives);
            [batch.create_qp(a), batch.create_qp(b)]
        })
        .collect();
    let mut done = batch.run(OnFailure::Undo)?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, 3 + 2 * PAIRS),
        "chains, and commands"
    );
    let (sends, receives, mut cq) = (done.take(sends)?, done.take(receives)?, done.take(cq)?);
    let mut qps = Vec::new();
    for [a, b] in tickets {
        qps.push([done.take(a)?, done.take(b)?]);
    }
    let (gid, options) = (ctx.gid(1, 0)?, ConnectOptions::default());
    let mut batch = Batch::new(&ctx);
    for [a, b] in &mut qps {
        let (to_a, to_b) = (a.endpoint_with(gid), b.endpoint_with(gid));
        batch.connect(a, &to_b, &options)?;
        batch.connect(b, &to_a, &options)?;
    }
    batch.run(OnFailure::Stop)?.all()?;

    ensure!(sends.arm(PAIRS as u64 * 3, 0), "counted before anything was sent");
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE)?;
    pattern::fill_buffer(region.buffer(), 0, 8, 0, 3);
    for [a, b] in &mut qps {
        for _ in 0..3 {
            b.post_recv(&RecvWr::new(&[region.sge(2048..2056)]))?;
            a.post_send(&SendWr::send().sges(&[region.sge(..8)]).signaled())?;
        }
    }
    reached(&sends, PAIRS as u64 * 3)?;
    reached(&receives, PAIRS as u64 * 3)?;
    let wrong = pattern::difference_in_buffer(region.buffer(), 2048, 8, 0, 3);
    check_eq!(wrong, None, "the first byte that did not arrive");
    let event = events.next_event(Some(SOON))?;
    check_eq!(
        event.map(|event| (event.kind, event.cookie)),
        Some((EventKind::Completion, 77)),
        "the counter's event"
    );
    // Back the other way, to the counter that was there, from sends that complete to a queue.
    for [a, b] in &mut qps {
        a.post_recv(&RecvWr::new(&[region.sge(2048..2056)]))?;
        b.post_send(&SendWr::send().sges(&[region.sge(..8)]).signaled())?;
        good(next(&mut cq)?)?;
    }
    reached(&there, PAIRS as u64)?;

    let mut batch = Batch::new(&ctx);
    for [a, b] in qps {
        batch.destroy(a);
        batch.destroy(b);
    }
    batch.destroy(sends);
    batch.destroy(receives);
    batch.destroy(there);
    batch.destroy(cq);
    let mut done = batch.run(OnFailure::Stop)?;
    done.all()?;
    check_eq!(done.executed(), 2 * PAIRS + 4, "objects ended");
    PASS
}

fn small_counter(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    // They take the places that such a counter has.
    let room = CompletionCounter::new(&ctx, 1, None)?.queue_pairs();
    let small = || RcQp::builder(&pd, &cq, &cq).send_depth(4).recv_depth(4).build();
    let others: Vec<_> = (0..room).map(|_| small()).collect::<Result<_, _>>()?;
    let mut batch = Batch::new(&ctx);
    let counter = batch.create_counter(1, None);
    let counted = batch.create_qp(RcQp::batched(&pd, &cq, &cq).count_sends(counter));
    let plain = batch.create_qp(RcQp::batched(&pd, &cq, &cq));
    let mut done = batch.run(OnFailure::Continue)?;
    match done.take(counted) {
        Err(error) => ensure!(error.to_string().contains("no room"), "{error}"),
        Ok(_) => bail!("a counter counts for more queue pairs than it has places"),
    }
    check_eq!(done.take(plain)?.query()?.state, QpState::RESET, "what came after it");
    // The queue pair is gone: nothing keeps the counter.
    done.take(counter)?.destroy()?;
    drop(others);
    PASS
}

fn undone(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    // The doorbell page, which stays.
    drop(RcQp::builder(&pd, &cq, &cq).build()?);
    let before = objects(&ctx)?;
    let mut batch = Batch::new(&ctx);
    let domain = batch.create_xrcd();
    let counter = batch.create_counter(64, None);
    for _ in 0..20 {
        batch.create_xrc_target(XrcTarget::batched(domain));
        batch.create_qp(RcQp::batched(&pd, &cq, &cq).count_sends(counter));
    }
    batch.create_qp(RcQp::batched(&pd, &cq, &cq).send_depth(1 << 30));
    refused(batch.run(OnFailure::Undo), Errno::EINVAL, "an impossible queue pair")?;
    check_eq!(objects(&ctx)?, before, "what is left");
    pd.destroy()?;
    cq.destroy()?;
    PASS
}

/// Datagram queue pairs, of which the one in the middle is in a group and so in use.
fn in_use_in_the_middle(pd: &ProtectionDomain, cq: &CompletionQueue, count: usize) -> Result<Vec<UdQp>> {
    let mut batch = Batch::new(pd.context());
    let tickets: Vec<_> = (0..count)
        .map(|_| batch.create_qp(UdQp::batched(pd, cq, cq).send_depth(4).recv_depth(4)))
        .collect();
    let mut done = batch.run(OnFailure::Undo)?;
    let qps: Result<Vec<_>, _> = tickets.into_iter().map(|ticket| done.take(ticket)).collect();
    let mut qps = qps?;
    qps[count / 2].attach(GROUP)?;
    Ok(qps)
}

fn stopped(fixture: &Fixture) -> Outcome {
    ending(fixture, OnFailure::Stop)
}

fn continued(fixture: &Fixture) -> Outcome {
    ending(fixture, OnFailure::Continue)
}

/// More than are under way together, with one in the middle that is not ended.
fn ending(fixture: &Fixture, on_failure: OnFailure) -> Outcome {
    const COUNT: usize = 100;
    let ctx = fixture.open()?;
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let qps = in_use_in_the_middle(&pd, &cq, COUNT)?;
    let numbers: Vec<_> = qps.iter().map(verbena::UdQp::qpn).collect();
    let mut batch = Batch::new(&ctx);
    let tickets: Vec<_> = qps.into_iter().map(|qp| batch.destroy(qp)).collect();
    let mut done = batch.run(on_failure)?;
    let there = dump(&ctx)?;
    let middle = COUNT / 2;
    for (n, ticket) in tickets.into_iter().enumerate() {
        let expected = match n.cmp(&middle) {
            std::cmp::Ordering::Equal => Some(Errno::EBUSY),
            std::cmp::Ordering::Greater if on_failure == OnFailure::Stop => Some(Errno::ECANCELED),
            _ => None,
        };
        let ended = done.take(ticket);
        match expected {
            None => ended?,
            Some(errno) => refused(ended, errno, "a queue pair in use, or what comes after it")?,
        }
        // One whose DESTROY did not succeed was dropped after the batch, which ends it with its membership.
        check_eq!(there.has_qp(numbers[n]), false, "whether the device has queue pair {n}");
    }
    cq.destroy()?;
    pd.destroy()?;
    PASS
}

/// Regions, queue pairs, queues and domains, each before what it stands on: one call.
fn thousand(fixture: &Fixture) -> Outcome {
    const EACH: usize = 200;
    let ctx = fixture.open()?;
    let buffer = ctx.alloc_buffer(4096)?;
    let before = dump(&ctx)?.counts();
    let mut batch = Batch::new(&ctx);
    let tickets: Vec<_> = (0..EACH)
        .map(|_| {
            let pd = batch.alloc_pd();
            let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(8));
            let mr = batch.register(pd, &buffer, Access::LOCAL_WRITE);
            let qps = [0; 2].map(|_| batch.create_qp(RcQp::batched(pd, cq, cq).send_depth(4).recv_depth(4)));
            (pd, cq, mr, qps)
        })
        .collect();
    let mut done = batch.run(OnFailure::Undo)?;
    let mut batch = Batch::new(&ctx);
    let mut domains = Vec::new();
    for (pd, cq, mr, [a, b]) in tickets {
        batch.destroy(done.take(a)?);
        batch.destroy(done.take(mr)?);
        batch.destroy(done.take(b)?);
        batch.destroy(done.take(cq)?);
        domains.push(done.take(pd)?);
    }
    for pd in domains {
        batch.destroy(pd);
    }
    let mut done = batch.run(OnFailure::Stop)?;
    done.all()?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, 5 * EACH),
        "chains, and objects ended"
    );
    let after = dump(&ctx)?.counts();
    ensure!(
        after
            .iter()
            .zip(before)
            .all(|(after, before)| *after <= before + EACH / 4),
        "{before:?} objects of the device before, {after:?} after"
    );
    PASS
}
