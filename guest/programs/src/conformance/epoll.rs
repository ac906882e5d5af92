// SPDX-License-Identifier: MIT OR Apache-2.0
//! Event queues where programs really wait for them: in epoll, level and edge triggered, many queues in one, several
//! readers on one queue (U9).

use super::events::Loopback;
use super::kit::{check_eq, Outcome, PASS, QUIET};
use crate::harness::{Case, Fixture};
use crate::link::SOON;
use anyhow::{bail, ensure, Context as _, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::Timespec;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use verbena::{ArmKind, CompletionQueue, Context, EventKind, EventQueue, RcQp, RecvWr, SendWr};

pub const CASES: &[Case] = &[
    Case::single("u09_epoll_level_triggered_until_it_is_read", level),
    Case::single("u09_epoll_edge_triggered_once_for_every_news", edge),
    Case::single("u09_epoll_of_many_queues", many_queues),
    Case::single("u09_a_closed_queue_leaves_the_epoll", closed),
    Case::single("u09_several_readers_share_the_events", several_readers),
    Case::single("u09_more_objects_than_capacity_lose_nothing", more_than_capacity),
];

/// An epoll of some descriptors.
struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    fn add(&self, fd: impl AsFd, name: u64, flags: EventFlags) -> Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(name), flags)?)
    }

    /// The names of the descriptors that are ready within `timeout`, sorted.
    fn wait(&self, timeout: Duration) -> Result<Vec<u64>> {
        let mut ready = Vec::with_capacity(256);
        let timeout = Timespec::try_from(timeout)?;
        epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut ready), Some(&timeout))?;
        let mut names: Vec<_> = ready.iter().map(|event: &epoll::Event| event.data.u64()).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// A completion that is reported.
fn report(lo: &mut Loopback) -> Result<()> {
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    lo.completion()
}

fn level(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    let epoll = Epoll::new()?;
    epoll.add(&lo.events, 7, EventFlags::IN)?;
    check_eq!(
        epoll.wait(Duration::ZERO)?,
        [0u64; 0],
        "who is ready when nothing happened"
    );
    for round in 0..3 {
        report(&mut lo)?;
        check_eq!(epoll.wait(SOON)?, [7], "who is ready in round {round}");
        check_eq!(epoll.wait(Duration::ZERO)?, [7], "who still is, unread");
        ensure!(lo.events.try_next()?.is_some(), "ready, but without an event");
        check_eq!(epoll.wait(Duration::ZERO)?, [0u64; 0], "who is ready when all is read");
    }
    PASS
}

fn edge(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut lo, mut other) = (Loopback::new(&ctx)?, Loopback::new(&ctx)?);
    lo.events.associate_cq(&other.cq, 1)?;
    let epoll = Epoll::new()?;
    epoll.add(&lo.events, 7, EventFlags::IN | EventFlags::ET)?;
    report(&mut lo)?;
    check_eq!(epoll.wait(SOON)?, [7], "who is ready");
    check_eq!(epoll.wait(QUIET)?, [0u64; 0], "who is ready again without news");
    // News while something is unread is an edge as well.
    report(&mut other)?;
    check_eq!(epoll.wait(SOON)?, [7], "who is ready with the news of another");
    while lo.events.try_next()?.is_some() {}
    // The contract of edges: after everything was read, the next event wakes.
    for _ in 0..50 {
        while !epoll.wait(Duration::ZERO)?.is_empty() {}
        report(&mut lo)?;
        check_eq!(epoll.wait(SOON)?, [7], "who is ready after all was read");
        while lo.events.try_next()?.is_some() {}
    }
    PASS
}

fn many_queues(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let epoll = Epoll::new()?;
    let mut all = Vec::new();
    for n in 0..40 {
        let lo = Loopback::new(&ctx)?;
        epoll.add(&lo.events, n, EventFlags::IN)?;
        all.push(lo);
    }
    let chosen = [3, 17, 39];
    for n in chosen {
        report(&mut all[n])?;
    }
    let deadline = Instant::now() + SOON;
    let expected: Vec<u64> = chosen.iter().map(|&n| n as u64).collect();
    while epoll.wait(SOON)? != expected {
        ensure!(Instant::now() < deadline, "not exactly these are ready: {expected:?}");
    }
    PASS
}

fn closed(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let lo = Loopback::new(&ctx)?;
    let epoll = Epoll::new()?;
    let events = ctx.create_event_queue()?;
    epoll.add(&events, 1, EventFlags::IN)?;
    epoll.add(&lo.events, 2, EventFlags::IN)?;
    events.associate_cq(&lo.cq, 5)?;
    let Loopback {
        mut qp,
        mut cq,
        events: old,
    } = lo;
    cq.arm(ArmKind::Any);
    qp.post_recv(&RecvWr::new(&[]))?;
    qp.post_send(&SendWr::send())?;
    check_eq!(epoll.wait(SOON)?, [1], "who is ready");
    drop(events);
    check_eq!(
        epoll.wait(Duration::ZERO)?,
        [0u64; 0],
        "who is ready after the queue was closed"
    );
    // The object lives on, and reports where it is told to.
    old.associate_cq(&cq, 6)?;
    crate::link::next(&mut cq)?;
    cq.arm(ArmKind::Any);
    qp.post_recv(&RecvWr::new(&[]))?;
    qp.post_send(&SendWr::send())?;
    check_eq!(epoll.wait(SOON)?, [2], "who is ready when it reports elsewhere");
    check_eq!(old.try_next()?.map(|event| event.cookie), Some(6), "its cookie");
    PASS
}

fn several_readers(fixture: &Fixture) -> Outcome {
    const ROUNDS: u32 = 60;
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    let read = AtomicU32::new(0);
    let over = AtomicU32::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let mut readers = Vec::new();
        for _ in 0..3 {
            let (events, read, over) = (lo.events.clone(), &read, &over);
            readers.push(scope.spawn(move || -> Result<()> {
                while over.load(Ordering::Acquire) == 0 {
                    if let Some(event) = events.next_event(Some(Duration::from_millis(20)))? {
                        ensure!(event.kind == EventKind::Completion, "{event:?}");
                        read.fetch_add(event.count, Ordering::Release);
                    }
                }
                Ok(())
            }));
        }
        let posted = (|| {
            for n in 1..=ROUNDS {
                report(&mut lo)?;
                let deadline = Instant::now() + SOON;
                while read.load(Ordering::Acquire) < n {
                    ensure!(Instant::now() < deadline, "event {n} reached no reader");
                    std::thread::yield_now();
                }
                check_eq!(read.load(Ordering::Acquire), n, "events read after as many");
                if n % 25 == 0 {
                    // Its sends are not signalled, so their places do not become free.
                    let fresh = Loopback::new(&ctx)?;
                    lo.events.associate_cq(&fresh.cq, 0)?;
                    (lo.qp, lo.cq) = (fresh.qp, fresh.cq);
                }
            }
            Ok(())
        })();
        over.store(1, Ordering::Release);
        for reader in readers {
            reader.join().expect("it does not panic")?;
        }
        posted
    })?;
    PASS
}

/// A queue pair that is connected with itself, reporting its receives.
fn looped(ctx: &Context, events: &EventQueue, cookie: u64) -> Result<(RcQp, CompletionQueue)> {
    let cq = CompletionQueue::builder(ctx)
        .entries(4)
        .events(events, cookie)
        .build()?;
    let mut qp = RcQp::builder(&ctx.alloc_pd()?, &cq, &cq).build()?;
    let here = qp.endpoint()?;
    qp.connect(&here)?;
    Ok((qp, cq))
}

fn more_than_capacity(fixture: &Fixture) -> Outcome {
    const OBJECTS: u64 = 100;
    let ctx = fixture.open()?;
    let events = EventQueue::with_capacity(&ctx, 1)?;
    let mut all = Vec::new();
    for cookie in 0..OBJECTS {
        let (mut qp, mut cq) = looped(&ctx, &events, cookie)?;
        cq.arm(ArmKind::Any);
        qp.post_recv(&RecvWr::new(&[]))?;
        qp.post_send(&SendWr::send())?;
        all.push((qp, cq));
    }
    let mut seen = BTreeMap::new();
    while seen.len() < OBJECTS as usize {
        let event = events
            .next_event(Some(SOON))?
            .with_context(|| format!("{} of {OBJECTS} objects reported", seen.len()))?;
        if event.kind != EventKind::Completion {
            bail!("{event:?}");
        }
        ensure!(seen.insert(event.cookie, ()).is_none(), "object {} twice", event.cookie);
    }
    check_eq!(events.try_next()?, None, "what comes after the last");
    PASS
}
