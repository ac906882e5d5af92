// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues that change: another size, fewer events; and the clock of their timestamps (H7).

use super::kit::{check_eq, refused, Outcome, PASS, QUIET};
use crate::harness::{Case, Fixture};
use crate::link::{good, next, Link, Spec, SOON};
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::Errno;
use std::time::{Duration, Instant};
use verbena::{ArmKind, CompletionQueue, Context, EventKind, EventQueue, Moderation, RcQp, SendWr};

pub const CASES: &[Case] = &[
    Case::single("h07_a_resized_queue_keeps_what_waits_in_it", keeps),
    Case::single("h07_a_queue_is_not_made_smaller_than_what_waits_in_it", too_small),
    Case::single("h07_a_queue_is_resized_under_traffic", under_traffic),
    Case::single("h07_a_resized_queue_is_as_armed_as_it_was", armed),
    Case::single("h07_moderation_waits_for_the_count", count),
    Case::single("h07_moderation_waits_no_longer_than_the_period", period),
    Case::single("h07_moderation_is_answered_and_has_limits", limits),
    Case::single("h07_the_clock_is_that_of_the_timestamps", clock),
];

/// A queue pair connected with itself, and the queue of its sends, which reports to an event queue.
struct Own {
    cq: CompletionQueue,
    events: EventQueue,
    qp: RcQp,
    posted: u64,
}

impl Own {
    fn new(ctx: &Context, entries: u32) -> Result<Self> {
        let events = ctx.create_event_queue()?;
        let cq = CompletionQueue::builder(ctx)
            .entries(entries)
            .events(&events, 7)
            .build()?;
        let recv_cq = ctx.create_cq(1)?;
        let pd = ctx.alloc_pd()?;
        let mut qp = RcQp::builder(&pd, &cq, &recv_cq).send_depth(1024).build()?;
        let here = qp.endpoint()?;
        qp.connect(&here)?;
        Ok(Self {
            cq,
            events,
            qp,
            posted: 0,
        })
    }

    /// Posts `count` sends, numbered on, and waits until the last of them has completed.
    fn complete(&mut self, count: u64) -> Result<()> {
        let before = self.written()?;
        self.post(count)?;
        let begun = Instant::now();
        while u64::from(self.written()?.wrapping_sub(before)) < count {
            ensure!(begun.elapsed() < SOON, "the sends do not complete");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn post(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.qp
                .post_send(&SendWr::write(Default::default()).wr_id(self.posted).signaled())?;
            self.posted += 1;
        }
        Ok(())
    }

    /// Completions that the device has written since the queue's ring is where it is.
    fn written(&self) -> Result<u32> {
        let dump: serde_json::Value = serde_json::from_str(&self.cq.context().dump()?)?;
        let cqs = dump["cqs"].as_array().context("a dump without completion queues")?;
        let cq = cqs
            .iter()
            .find(|cq| cq["cqn"].as_u64() == Some(self.cq.cqn().into()))
            .context("a dump without the queue")?;
        let producer = cq["producer"].as_u64().context("a queue without a counter")?;
        Ok(producer as u32)
    }

    /// The next events' count, all of the queue.
    fn event(&self) -> Result<()> {
        let event = self.events.next_event(Some(SOON))?.context("no event")?;
        check_eq!(
            (event.kind, event.cookie, event.count),
            (EventKind::Completion, 7, 1),
            "the event"
        );
        Ok(())
    }

    fn no_event(&self, why: &str) -> Result<()> {
        check_eq!(self.events.next_event(Some(QUIET))?, None, "an event although {why}");
        Ok(())
    }
}

fn keeps(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Own::new(&ctx, 8)?;
    let mut expected = 0;
    // Around the ring's end, with nothing, some, and everything full.
    for (posted, taken, entries) in [
        (5, 3, 16),
        (14, 0, 64),
        (40, 50, 8),
        (2, 0, 1000),
        (500, 507, 1),
        (0, 1, 4),
    ] {
        own.complete(posted)?;
        for _ in 0..taken {
            check_eq!(good(next(&mut own.cq)?)?.wr_id, expected, "the next completion");
            expected += 1;
        }
        own.cq.resize(entries)?;
        ensure!(own.cq.entries() >= entries, "{:?} instead of {entries}", own.cq);
    }
    for wr_id in expected..own.posted {
        check_eq!(good(next(&mut own.cq)?)?.wr_id, wr_id, "the next completion");
    }
    check_eq!(own.cq.is_ready(), false, "whether more waits than was sent");
    PASS
}

fn too_small(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Own::new(&ctx, 16)?;
    own.complete(5)?;
    refused(own.cq.resize(4), Errno::EBUSY, "four entries for five completions")?;
    refused(own.cq.resize(0), Errno::EINVAL, "no entries")?;
    let most = ctx.device()?.max_cqe;
    refused(
        own.cq.resize(most + 1),
        Errno::EINVAL,
        "more entries than the device has",
    )?;
    check_eq!(own.cq.entries(), 16, "entries after refusals");
    check_eq!(good(next(&mut own.cq)?)?.wr_id, 0, "the first completion");
    own.cq.resize(4)?;
    for n in 1..5 {
        check_eq!(good(next(&mut own.cq)?)?.wr_id, n, "the next completion");
    }
    PASS
}

fn under_traffic(fixture: &Fixture) -> Outcome {
    const ROUNDS: u64 = 200;
    const EACH: u64 = 20;
    let ctx = fixture.open()?;
    let mut own = Own::new(&ctx, 64)?;
    let mut expected = 0;
    for round in 0..ROUNDS {
        own.post(EACH)?;
        // In the middle of them, wherever the device is.
        own.cq.resize(if round % 2 == 0 { 128 } else { 64 })?;
        // Some stay for the next round.
        while expected + EACH / 2 < own.posted {
            check_eq!(good(next(&mut own.cq)?)?.wr_id, expected, "the next completion");
            expected += 1;
        }
    }
    while expected < own.posted {
        check_eq!(good(next(&mut own.cq)?)?.wr_id, expected, "the next completion");
        expected += 1;
    }
    PASS
}

fn armed(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Own::new(&ctx, 8)?;
    own.cq.arm(ArmKind::Any);
    own.cq.resize(32)?;
    own.complete(1)?;
    own.event()?;
    own.cq.resize(8)?;
    own.complete(1)?;
    own.no_event("it was armed once")?;
    own.cq.arm(ArmKind::Any);
    own.complete(1)?;
    own.event()?;
    PASS
}

fn count(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut own = Own::new(&ctx, 64)?;
    own.cq.moderate(Moderation {
        count: 4,
        period: Duration::ZERO,
    })?;
    own.cq.arm(ArmKind::Any);
    own.complete(3)?;
    own.no_event("three completions are fewer than four")?;
    own.complete(1)?;
    own.event()?;
    // The next arming counts anew. What waits comes when nothing is to be waited for any more.
    own.cq.arm(ArmKind::Any);
    own.complete(2)?;
    own.no_event("two completions are fewer than four")?;
    own.cq.moderate(Moderation::default())?;
    own.event()?;
    own.cq.arm(ArmKind::Any);
    own.complete(1)?;
    own.event()?;
    PASS
}

fn period(fixture: &Fixture) -> Outcome {
    const PERIOD: Duration = Duration::from_millis(60);
    let ctx = fixture.open()?;
    let mut own = Own::new(&ctx, 64)?;
    own.cq.moderate(Moderation {
        count: 60,
        period: PERIOD,
    })?;
    let ticks = |from: u64, to: u64| Duration::from_nanos(to - from);
    check_eq!(ctx.device()?.hca_core_clock, 1_000_000, "kHz of the clock");
    own.cq.arm(ArmKind::Any);
    own.complete(1)?;
    own.event()?;
    let told = ctx.clock()?;
    let written = good(next(&mut own.cq)?)?.timestamp;
    ensure!(
        ticks(written, told) >= PERIOD,
        "the event came {:?} after the completion",
        ticks(written, told)
    );
    // The count may come first.
    own.cq.moderate(Moderation {
        count: 3,
        period: Duration::from_millis(65),
    })?;
    own.cq.arm(ArmKind::Any);
    own.complete(3)?;
    own.event()?;
    own.no_event("one arming is one event")?;
    PASS
}

fn limits(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let device = ctx.device()?;
    ensure!(
        device.max_moderation_count > 1 && device.max_moderation_period > 0,
        "no moderation: {device:?}"
    );
    let cq = ctx.create_cq(16)?;
    check_eq!(cq.moderation()?, Moderation::default(), "a new queue's moderation");
    let most = Moderation {
        count: device.max_moderation_count,
        period: Duration::from_micros(device.max_moderation_period.into()),
    };
    cq.moderate(most)?;
    check_eq!(cq.moderation()?, most, "the moderation");
    let count = most.count + 1;
    refused(
        cq.moderate(Moderation { count, ..most }),
        Errno::EINVAL,
        "a larger count",
    )?;
    let period = most.period + Duration::from_micros(1);
    refused(
        cq.moderate(Moderation { period, ..most }),
        Errno::EINVAL,
        "a longer period",
    )?;
    check_eq!(cq.moderation()?, most, "the moderation after refusals");
    PASS
}

fn clock(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, _b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    for _ in 0..10 {
        let before = ctx.clock()?;
        a.qp.post_send(&SendWr::write(Default::default()).signaled())?;
        let written = a.sent_well()?.timestamp;
        let after = ctx.clock()?;
        ensure!(
            before <= written && written <= after,
            "written at {written}, between {before} and {after}"
        );
    }
    // It is as fast as it says.
    let (begun, before) = (Instant::now(), ctx.clock()?);
    std::thread::sleep(Duration::from_millis(200));
    let ticks = ctx.clock()? - before;
    let elapsed = begun.elapsed();
    let millis = ticks / ctx.device()?.hca_core_clock;
    ensure!(
        (150..=2 * elapsed.as_millis() as u64).contains(&millis),
        "{millis} ms by the device's clock in {elapsed:?}"
    );
    PASS
}
