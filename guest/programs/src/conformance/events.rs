// SPDX-License-Identifier: MIT OR Apache-2.0
//! Event queues: what arrives there, when, with which cookie, and what must not arrive (H12, and the event queues of the
//! object model).

use super::kit::{check_eq, refused, Outcome, PASS, QUIET};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, Link, Region, Spec, SOON};
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::class;
use rdma_uapi::Errno;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::time::{Duration, Instant};
use verbena::{
    Access, AddressHandle, ArmKind, CompletionQueue, ConnectOptions, Context, Event, EventKind, EventQueue, Qp,
    QpState, RawQp, RcQp, RecvWr, Remote, SendWr, Transport, UcQp, UdQp,
};

pub const CASES: &[Case] = &[
    Case::single("h12_armed_for_any_completion", armed_any),
    Case::single("h12_armed_for_solicited_ones_only", armed_solicited),
    Case::single("h12_an_error_counts_as_solicited", error_is_solicited),
    Case::single("h12_one_arming_one_event", one_event),
    Case::single("h12_what_came_before_the_arming_raises_none_or_is_polled", arm_after),
    Case::single("h12_a_descriptor_to_poll", descriptor),
    Case::pair("h12_sleeping_for_every_message", sleeping),
    Case::single("h12_queue_pair_errors_are_events", qp_errors),
    Case::single("h12_communication_established", established),
    Case::single("h12_associated_with_another_queue", reassociated),
    Case::single("h12_associated_with_none", dissociated),
    Case::single("u09_queue_pairs_of_every_type_are_re_associated", every_type),
    Case::single("h12_no_event_of_what_is_destroyed", after_destroy),
    Case::single("h12_many_events_at_once", many_at_once),
    Case::single("h12_equal_completion_events_are_counted_together", coalesced),
    Case::single("h12_waiting_has_an_end", waiting_ends),
    Case::single("h12_ports_and_devices_can_be_associated", port_and_device),
    Case::single("h12_every_completion_vector_works", vectors),
];

/// A queue pair that is connected with itself, its completions, and where they are reported.
pub(super) struct Loopback {
    pub(super) qp: RcQp,
    pub(super) cq: CompletionQueue,
    pub(super) events: EventQueue,
}

/// The cookie of the completion queue.
const COOKIE: u64 = 0xfeed_0000_0000_c0de;

impl Loopback {
    pub(super) fn new(ctx: &Context) -> Result<Self> {
        let events = ctx.create_event_queue()?;
        let cq = CompletionQueue::builder(ctx)
            .entries(64)
            .events(&events, COOKIE)
            .build()?;
        let mut qp = RcQp::builder(&ctx.alloc_pd()?, &cq, &cq).build()?;
        let here = qp.endpoint()?;
        qp.connect_with(
            &here,
            &ConnectOptions {
                rnr_retry: 0,
                ..ConnectOptions::default()
            },
        )?;
        Ok(Self { qp, cq, events })
    }

    /// A send to itself.
    pub(super) fn message(&mut self, solicited: bool) -> Result<()> {
        self.qp.post_recv(&RecvWr::new(&[]))?;
        let wr = SendWr::send();
        Ok(self.qp.post_send(&if solicited { wr.solicited() } else { wr })?)
    }

    /// The completion of the receive of the next message.
    pub(super) fn completion(&mut self) -> Result<()> {
        good(crate::link::next(&mut self.cq)?)?;
        Ok(())
    }
}

/// The next event, which must come.
fn next(events: &EventQueue, what: &str) -> Result<Event> {
    events
        .next_event(Some(SOON))?
        .with_context(|| format!("no event: {what}"))
}

/// Fails if an event comes.
fn none(events: &EventQueue, what: &str) -> Result<()> {
    match events.next_event(Some(QUIET))? {
        None => Ok(()),
        Some(event) => anyhow::bail!("{what}: nothing should be reported, but {event:?} was"),
    }
}

/// The event is a completion's.
fn completion_event(event: Event) -> Result<()> {
    check_eq!(
        (event.kind, event.class, event.cookie),
        (EventKind::Completion, class::CQ, COOKIE),
        "kind, class, cookie"
    );
    ensure!(event.count >= 1 && event.object != 0, "{event:?} is of nothing");
    Ok(())
}

fn armed_any(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    lo.message(false)?;
    lo.completion()?;
    none(&lo.events, "a completion of a queue that is not armed")?;
    for _ in 0..3 {
        lo.cq.arm(ArmKind::Any);
        ensure!(lo.cq.poll().is_none(), "a completion too many");
        lo.message(false)?;
        completion_event(next(&lo.events, "the queue was armed")?)?;
        lo.completion()?;
    }
    PASS
}

fn armed_solicited(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    lo.cq.arm(ArmKind::Solicited);
    lo.message(false)?;
    lo.completion()?;
    none(&lo.events, "an unsolicited completion")?;
    lo.message(true)?;
    completion_event(next(&lo.events, "a solicited completion")?)?;
    let done = crate::link::next(&mut lo.cq)?;
    check_eq!(
        (done.solicited, done.recv),
        (true, true),
        "whether the completion is solicited, and a receive"
    );
    PASS
}

fn error_is_solicited(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    lo.cq.arm(ArmKind::Solicited);
    lo.qp
        .post_send(&SendWr::write(Remote { addr: 1, rkey: 1 }).inline(b"bad"))?;
    completion_event(next(&lo.events, "a completion with an error")?)?;
    ensure!(!crate::link::next(&mut lo.cq)?.is_success(), "it succeeded");
    PASS
}

fn one_event(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    completion_event(next(&lo.events, "the queue was armed")?)?;
    lo.message(true)?;
    lo.completion()?;
    lo.completion()?;
    none(&lo.events, "a completion after the one that was armed for")?;
    PASS
}

fn arm_after(fixture: &Fixture) -> Outcome {
    // The race that must not be lost, many times: either the poll after arming sees the completion, or an event comes.
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    for n in 0..200u32 {
        if n % 50 == 49 {
            // Its sends are not signalled, so their places do not become free.
            lo = Loopback::new(&ctx)?;
        }
        lo.message(false)?;
        // Sometimes the message wins, sometimes the arming.
        for _ in 0..(n * 37) % 4000 {
            std::hint::spin_loop();
        }
        lo.cq.arm(ArmKind::Any);
        if lo.cq.poll().is_none() {
            completion_event(next(&lo.events, &format!("round {n}"))?)?;
            lo.completion()?;
        }
    }
    PASS
}

/// Whether the descriptor is readable within `timeout`.
fn readable(events: &EventQueue, timeout: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(timeout)?;
    let mut fds = [PollFd::new(events, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&timeout))?;
    Ok(ready == 1 && fds[0].revents().contains(PollFlags::IN))
}

fn descriptor(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    check_eq!(
        readable(&lo.events, Duration::ZERO)?,
        false,
        "whether a queue without events is readable"
    );
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    check_eq!(
        readable(&lo.events, SOON)?,
        true,
        "whether a queue with an event is readable"
    );
    check_eq!(readable(&lo.events, Duration::ZERO)?, true, "whether it still is");
    completion_event(lo.events.try_next()?.context("readable, but without an event")?)?;
    check_eq!(
        readable(&lo.events, Duration::ZERO)?,
        false,
        "whether it is after the event was read"
    );
    lo.completion()?;
    // A thread that sleeps is woken.
    lo.cq.arm(ArmKind::Any);
    std::thread::scope(|scope| -> Result<()> {
        let events = lo.events.clone();
        let sleeper = scope.spawn(move || readable(&events, SOON));
        std::thread::sleep(Duration::from_millis(50));
        lo.message(false)?;
        check_eq!(
            sleeper.join().expect("it does not panic")?,
            true,
            "whether the sleeper was woken"
        );
        Ok(())
    })?;
    PASS
}

fn sleeping(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const COUNT: u32 = 30;
    let spec = Spec::default();
    let events = ctx.create_event_queue()?;
    let mut link = Link::new(ctx, &spec)?;
    events.associate_cq(&link.recv_cq, 9)?;
    link.connect_over(wire, &spec)?;
    let wait = |link: &mut Link, n: u32| -> Result<()> {
        let done = link
            .recv_cq
            .wait(&events, Some(SOON))?
            .with_context(|| format!("message {n} did not come"))?;
        check_eq!(good(done)?.imm, Some(n), "the message");
        Ok(())
    };
    for n in 0..COUNT {
        link.qp.post_recv(&RecvWr::new(&[]))?;
        if n == 0 {
            wire.barrier("prepared")?;
        }
        match side {
            Side::Left => {
                link.qp.post_send(&SendWr::send_imm(n).signaled())?;
                link.sent_well()?;
                wait(&mut link, n)?;
            }
            Side::Right => {
                wait(&mut link, n)?;
                link.qp.post_send(&SendWr::send_imm(n).signaled())?;
                link.sent_well()?;
            }
        }
    }
    wire.barrier("done")?;
    PASS
}

fn qp_errors(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    events.associate_qp(&a.qp, 1)?;
    events.associate_qp(&b.qp, 2)?;
    a.qp.post_send(&SendWr::write(Remote { addr: 1, rkey: 1 }).inline(b"bad"))?;
    // The completion tells the requester; the event tells the responder.
    ensure!(!a.sent()?.is_success(), "it succeeded");
    let event = next(&events, "an access violation")?;
    check_eq!(
        (event.kind, event.class, event.cookie),
        (EventKind::QpAccessError, class::QP_RC, 2),
        "kind, class, cookie"
    );
    none(&events, "the requester's own error")?;
    PASS
}

/// Two send completions in a queue for one: it breaks, and the queue pair with it.
fn every_type(fixture: &Fixture) -> Outcome {
    fn broken<T: Transport>(
        ctx: &Context,
        class: u16,
        qp: &mut Qp<T>,
        mut send: impl FnMut(&mut Qp<T>) -> Result<()>,
    ) -> Result<()> {
        let (first, second) = (ctx.create_event_queue()?, ctx.create_event_queue()?);
        first.associate_qp(qp, 1)?;
        second.associate_qp(qp, 2)?;
        for _ in 0..2 {
            send(qp)?;
        }
        let event = next(&second, "a queue pair that broke")?;
        check_eq!(
            (event.kind, event.class, event.object, event.cookie),
            (EventKind::QpFatal, class, qp.id().0, 2),
            "the event"
        );
        none(&first, "where it reported before")
    }
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let small = || ctx.create_cq(1);
    let nothing = SendWr::send().signaled();

    let cq = small()?;
    let mut qp = UdQp::builder(&pd, &cq, &cq).build()?;
    qp.make_ready(7)?;
    let to = AddressHandle::to(ctx.gid(1, 0)?)?.qp(qp.qpn(), 7);
    broken(&ctx, class::QP_UD, &mut qp, |qp| Ok(qp.post_send(&nothing, &to)?))?;

    let cq = small()?;
    let mut qp = UcQp::builder(&pd, &cq, &cq).build()?;
    let here = qp.endpoint()?;
    qp.connect(&here)?;
    broken(&ctx, class::QP_UC, &mut qp, |qp| Ok(qp.post_send(&nothing)?))?;

    let cq = small()?;
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE | Access::ALL_REMOTE)?;
    let mut qp = RcQp::builder(&pd, &cq, &cq).build()?;
    let here = qp.endpoint()?;
    qp.connect(&here)?;
    let write = SendWr::write(region.remote(0)).inline(b"8 bytes.").signaled();
    broken(&ctx, class::QP_RC, &mut qp, |qp| Ok(qp.post_send(&write)?))?;

    let cq = small()?;
    let mut qp = RawQp::builder(&pd, &cq, &cq).build()?;
    qp.make_ready()?;
    let mut frame = vec![0; 64];
    frame[6..12].copy_from_slice(&ctx.mac(1)?);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    region.buffer().write_at(0, &frame);
    let sges = [region.sge(0..64)];
    let frame = SendWr::send().sges(&sges).signaled();
    broken(&ctx, class::QP_RAW, &mut qp, |qp| Ok(qp.post_send(&frame)?))?;
    PASS
}

fn established(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let spec = Spec::default();
    let events = ctx.create_event_queue()?;
    let (mut a, mut b) = (Link::new(&ctx, &spec)?, Link::new(&ctx, &spec)?);
    events.associate_qp(&b.qp, 4)?;
    let (here, there) = (a.qp.endpoint()?, b.qp.endpoint()?);
    b.qp.init()?;
    let mtu = ctx.port(1)?.attrs.active_mtu;
    let rtr = verbena::QpAttr::to(QpState::RTR)
        .path(verbena::path_to(here.gid, 0))
        .path_mtu(mtu);
    let rtr = rtr
        .dest_qpn(here.qpn.get())
        .rq_psn(here.psn.get())
        .max_dest_rd_atomic(1)
        .min_rnr_timer(1);
    b.qp.modify(&rtr)?;
    a.qp.connect(&there)?;
    b.qp.post_recv(&RecvWr::new(&[]))?;
    none(&events, "a queue pair to which nobody has sent")?;
    a.qp.post_send(&SendWr::send().signaled())?;
    a.sent_well()?;
    let event = next(&events, "the first message in RTR")?;
    check_eq!(
        (event.kind, event.cookie),
        (EventKind::CommEstablished, 4),
        "the event and its cookie"
    );
    PASS
}

fn reassociated(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    let other = ctx.create_event_queue()?;
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    // Not read yet when it is associated anew: it is not delivered to the old queue any more.
    std::thread::sleep(QUIET);
    other.associate_cq(&lo.cq, 123)?;
    check_eq!(lo.events.try_next()?, None, "an event in the old queue");
    lo.completion()?;
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    let event = next(&other, "the queue that it was associated with")?;
    check_eq!(
        (event.kind, event.cookie),
        (EventKind::Completion, 123),
        "the event and its new cookie"
    );
    none(&lo.events, "the queue that it was associated with before")?;
    PASS
}

fn dissociated(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    lo.events.dissociate_cq(&lo.cq)?;
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    lo.completion()?;
    none(&lo.events, "a queue that reports to none")?;
    // From a queue that it does not report to, nothing is taken.
    let other = ctx.create_event_queue()?;
    other.associate_cq(&lo.cq, 8)?;
    lo.events.dissociate_cq(&lo.cq)?;
    lo.cq.arm(ArmKind::Any);
    lo.message(false)?;
    check_eq!(next(&other, "the queue that it reports to")?.cookie, 8, "the cookie");
    PASS
}

fn after_destroy(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    for round in 0..20 {
        let cq = CompletionQueue::builder(&ctx)
            .entries(16)
            .events(&events, round)
            .build()?;
        let mut cq = cq;
        let mut qp = RcQp::builder(&ctx.alloc_pd()?, &cq, &cq)
            .events(&events, 1000 + round)
            .build()?;
        let here = qp.endpoint()?;
        qp.connect(&here)?;
        cq.arm(ArmKind::Any);
        qp.post_send(&SendWr::write(Remote { addr: 1, rkey: 1 }).inline(b"bad"))?;
        if round % 2 == 0 {
            // The events are there, and unread.
            check_eq!(readable(&events, SOON)?, true, "whether there are events");
        }
        qp.destroy()?;
        cq.destroy()?;
        // Destroyed: from here on not one of them is delivered.
        check_eq!(events.try_next()?, None, "an event of round {round} after DESTROY");
    }
    none(&events, "events of what is destroyed")?;
    PASS
}

fn many_at_once(fixture: &Fixture) -> Outcome {
    const COUNT: u64 = 12;
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let mut all = Vec::new();
    for n in 0..COUNT {
        let mut lo = Loopback::new(&ctx)?;
        events.associate_cq(&lo.cq, n)?;
        lo.cq.arm(ArmKind::Any);
        lo.message(false)?;
        lo.completion()?;
        all.push(lo);
    }
    let begun = Instant::now();
    let mut cookies = Vec::new();
    while cookies.len() < COUNT as usize {
        ensure!(begun.elapsed() < SOON, "only {} events of {COUNT}", cookies.len());
        // Five at most, whatever waits.
        let some = events.read_events(5)?;
        ensure!(some.len() <= 5, "{} events instead of at most 5", some.len());
        cookies.extend(some.iter().map(|event| event.cookie));
    }
    cookies.sort_unstable();
    check_eq!(cookies, (0..COUNT).collect::<Vec<_>>(), "the cookies of the events");
    check_eq!(events.read_events(5)?.len(), 0, "further events");
    PASS
}

fn coalesced(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    for _ in 0..5 {
        lo.cq.arm(ArmKind::Any);
        lo.message(false)?;
        lo.completion()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    let mut count = 0;
    while count < 5 {
        ensure!(
            begun.elapsed() < SOON,
            "events stand for {count} completions instead of 5"
        );
        for event in lo.events.read_events(16)? {
            completion_event(event)?;
            count += event.count;
        }
    }
    check_eq!(count, 5, "what the events stand for");
    PASS
}

fn waiting_ends(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut lo = Loopback::new(&ctx)?;
    let begun = Instant::now();
    check_eq!(lo.events.next_event(Some(Duration::from_millis(60)))?, None, "an event");
    ensure!(
        begun.elapsed() >= Duration::from_millis(55),
        "it waited for {:?} only",
        begun.elapsed()
    );
    ensure!(
        lo.cq.wait(&lo.events, Some(Duration::from_millis(30)))?.is_none(),
        "a completion of nothing"
    );
    check_eq!(lo.events.try_next()?, None, "an event");
    PASS
}

fn port_and_device(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    events.associate_device(1)?;
    events.associate_port(1, 2)?;
    events.associate_port(1, 3).context("once more")?;
    refused(events.associate_port(2, 4), Errno::ENOENT, "a port that is not there")?;
    refused(events.associate_port(0, 4), Errno::ENOENT, "port 0")?;
    // Nothing has happened to either.
    check_eq!(events.try_next()?, None, "an event");
    PASS
}

fn vectors(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let pd = ctx.alloc_pd()?;
    let region = crate::link::Region::new(&pd, 64, Access::ALL_REMOTE)?;
    let count = ctx.device()?.comp_vectors;
    for vector in 0..count {
        let cookie = u64::from(vector) + 50;
        let mut cq = CompletionQueue::builder(&ctx)
            .entries(8)
            .vector(vector)
            .events(&events, cookie)
            .build()?;
        let mut qp = RcQp::builder(&pd, &cq, &cq).build()?;
        let here = qp.endpoint()?;
        qp.connect(&here)?;
        cq.arm(ArmKind::Any);
        qp.post_send(&SendWr::write(region.remote(0)).inline(b"vector").signaled())?;
        check_eq!(
            next(&events, &format!("vector {vector} of {count}"))?.cookie,
            cookie,
            "the cookie"
        );
        good(crate::link::next(&mut cq)?)?;
    }
    refused(
        CompletionQueue::builder(&ctx).vector(count).build(),
        Errno::EINVAL,
        "a vector that is not there",
    )?;
    PASS
}
