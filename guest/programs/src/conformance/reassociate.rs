// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any object that reports can be associated with another event queue at any time (U9). One case a class, and one that
//! asks the device which classes report.

use super::kit::{check_eq, Outcome, PASS, QUIET};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{good, next, Region, SOON};
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::class;
use rdma_uapi::listing;
use rdma_uapi::schema::class_flags;
use rdma_uapi::wire::method;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::collections::BTreeSet;
use verbena::{
    Access, CmAddr, CmId, CmOptions, CompletionCounter, Context, EventKind, EventQueue, MadClient, MadOptions, MadTo,
    RcQp, RecvWr, SendWr, SharedReceiveQueue, TraceOptions, Tracer, XrcDomain, XrcInitiator, XrcTarget,
};

pub const CASES: &[Case] = &[
    Case::single("u09_every_class_that_reports_has_a_test_of_re_association", every_class),
    Case::single("u09_a_completion_counter_is_re_associated", counter),
    Case::single("u09_an_xrc_initiator_is_re_associated", initiator),
    Case::single("u09_an_xrc_target_is_re_associated", target),
    Case::single("u09_a_communication_id_is_re_associated", communication_id),
    Case::single("u09_a_mad_client_is_re_associated", mad_client),
    Case::single("u09_an_observer_is_re_associated", observer),
];

/// The classes that report, each with the case that moves one from queue to queue.
const MOVED: &[(u16, &str)] = &[
    (
        class::DEVICE,
        "rdma-uapi: u09_any_object_can_be_associated_and_re_associated",
    ),
    (class::PORT, "h12_ports_and_devices_can_be_associated"),
    (class::CQ, "h12_associated_with_another_queue"),
    (class::SRQ, "u09_events_of_a_shared_queue_go_where_it_is_associated"),
    (class::QP_RC, "u09_queue_pairs_of_every_type_are_re_associated"),
    (class::QP_UC, "u09_queue_pairs_of_every_type_are_re_associated"),
    (class::QP_UD, "u09_queue_pairs_of_every_type_are_re_associated"),
    (class::QP_RAW, "u09_queue_pairs_of_every_type_are_re_associated"),
    (class::QP_XRC_INI, "u09_an_xrc_initiator_is_re_associated"),
    (class::QP_XRC_TGT, "u09_an_xrc_target_is_re_associated"),
    (class::COUNTER, "u09_a_completion_counter_is_re_associated"),
    (class::CM_ID, "u09_a_communication_id_is_re_associated"),
    (class::MAD, "u09_a_mad_client_is_re_associated"),
    (class::TRACE, "u09_an_observer_is_re_associated"),
];

/// No class that reports is without its case, and no case is named that there is not.
fn every_class(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let listing = ctx.interface()?.records;
    let reporting: BTreeSet<u16> = listing
        .iter()
        .filter(|record| record.kind == listing::kind::CLASS && record.flags & class_flags::EVENTS != 0)
        .map(|record| record.id)
        .collect();
    let moved: BTreeSet<u16> = MOVED.iter().map(|(class, _)| *class).collect();
    check_eq!(moved, reporting, "classes that are moved, and classes that report");
    for (class, name) in MOVED {
        let there = super::CASES.iter().any(|case| case.name == *name);
        ensure!(
            there || name.starts_with("rdma-uapi: "),
            "class {class}: there is no case {name}"
        );
    }
    PASS
}

/// Where an object reports, one after the other.
struct Queues {
    first: EventQueue,
    second: EventQueue,
}

impl Queues {
    fn new(ctx: &Context) -> Result<Self> {
        Ok(Self {
            first: ctx.create_event_queue()?,
            second: ctx.create_event_queue()?,
        })
    }

    /// Waits until the first has an event, and leaves it there.
    fn unread(&self) -> Result<()> {
        let mut fds = [PollFd::new(&self.first, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec::try_from(SOON)?))?;
        check_eq!(ready, 1, "queues that have an event");
        Ok(())
    }

    /// What was not read in the first is gone, and nothing comes there.
    fn moved(&self) -> Result<()> {
        let event = self.first.next_event(Some(QUIET))?;
        ensure!(event.is_none(), "where it reported before: {event:?}");
        Ok(())
    }

    /// The event has come to the second, with its cookie, and to nobody else.
    fn reported(&self, kind: EventKind, class: u16, cookie: u64) -> Result<()> {
        let event = self
            .second
            .next_event(Some(SOON))?
            .context("no event where it reports")?;
        check_eq!(
            (event.kind, event.class, event.cookie),
            (kind, class, cookie),
            "the event"
        );
        self.moved()
    }
}

fn counter(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, cq, queues) = (ctx.alloc_pd()?, ctx.create_cq(16)?, Queues::new(&ctx)?);
    let counter = CompletionCounter::new(&ctx, 16, Some((&queues.first, 1)))?;
    let mut qp = RcQp::builder(&pd, &cq, &cq).count_sends(&counter).build()?;
    let here = qp.endpoint()?;
    qp.connect(&here)?;
    let region = Region::new(&pd, 4096, Access::LOCAL_WRITE | Access::ALL_REMOTE)?;
    let write = SendWr::write(region.remote(0)).inline(b"8 bytes.").signaled();
    ensure!(counter.arm(1, 0), "counted before anything was sent");
    qp.post_send(&write)?;
    queues.unread()?;
    queues.second.associate_counter(&counter, 2)?;
    queues.moved()?;
    ensure!(counter.arm(2, 0), "counted before it was sent");
    qp.post_send(&write)?;
    queues.reported(EventKind::Completion, class::COUNTER, 2)?;
    queues.second.dissociate_counter(&counter)?;
    ensure!(counter.arm(3, 0), "counted before it was sent");
    qp.post_send(&write)?;
    let event = queues.second.next_event(Some(QUIET))?;
    ensure!(event.is_none(), "associated with none: {event:?}");
    PASS
}

/// Two completions in a queue for one: it breaks, and the initiator with it.
fn initiator(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, cq, queues) = (ctx.alloc_pd()?, ctx.create_cq(1)?, Queues::new(&ctx)?);
    let domain = XrcDomain::new(&ctx)?;
    let received = ctx.create_cq(16)?;
    let mut srq = SharedReceiveQueue::builder(&pd)
        .depth(16)
        .xrc(&domain, &received)
        .build()?;
    let mut target = XrcTarget::builder(&domain).build()?;
    let mut initiator = XrcInitiator::initiator(&pd, &cq).events(&queues.first, 1).build()?;
    target.connect(&initiator.endpoint()?)?;
    initiator.connect(&target.endpoint()?)?;
    queues.second.associate_qp(&initiator, 2)?;
    for _ in 0..2 {
        srq.post(&RecvWr::new(&[]))?;
        initiator.post_send(&SendWr::send().signaled(), srq.srqn())?;
    }
    queues.reported(EventKind::QpFatal, class::QP_XRC_INI, 2)?;
    PASS
}

/// A message longer than the receive: the target fails.
fn target(fixture: &Fixture) -> Outcome {
    for associated in [true, false] {
        let ctx = fixture.open()?;
        let (pd, mut cq, queues) = (ctx.alloc_pd()?, ctx.create_cq(16)?, Queues::new(&ctx)?);
        let domain = XrcDomain::new(&ctx)?;
        let mut received = ctx.create_cq(16)?;
        let mut srq = SharedReceiveQueue::builder(&pd)
            .depth(16)
            .xrc(&domain, &received)
            .build()?;
        let mut target = XrcTarget::builder(&domain).events(&queues.first, 1).build()?;
        let mut initiator = XrcInitiator::initiator(&pd, &cq).build()?;
        target.connect(&initiator.endpoint()?)?;
        initiator.connect(&target.endpoint()?)?;
        queues.second.associate_target(&target, 2)?;
        if !associated {
            queues.second.dissociate_target(&target)?;
        }
        srq.post(&RecvWr::new(&[]))?;
        initiator.post_send(&SendWr::send().inline(b"no room").signaled(), srq.srqn())?;
        ensure!(good(next(&mut cq)?).is_err(), "a message without room was sent");
        ensure!(good(next(&mut received)?).is_err(), "it was received");
        if associated {
            queues.reported(EventKind::LastWqeReached, class::QP_XRC_TGT, 2)?;
        } else {
            let event = queues.second.next_event(Some(QUIET))?;
            ensure!(event.is_none(), "associated with none: {event:?}");
        }
    }
    PASS
}

/// A port that nobody listens at: the answer is an event.
fn communication_id(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, cq, queues) = (ctx.alloc_pd()?, ctx.create_cq(16)?, Queues::new(&ctx)?);
    let nobody = CmAddr::new(ctx.gid(1, 0)?, 60_999);
    let mut qp = RcQp::builder(&pd, &cq, &cq).build()?;
    let id = CmId::new(&ctx, &queues.first, 1)?;
    id.connect(&mut qp, nobody, &CmOptions::default())?;
    queues.unread()?;
    // The refusal that nobody has read goes with the association.
    id.report_to(&queues.second, 2)?;
    queues.moved()?;
    let mut qp = RcQp::builder(&pd, &cq, &cq).build()?;
    let id = CmId::new(&ctx, &queues.first, 3)?;
    id.report_to(&queues.second, 4)?;
    id.connect(&mut qp, nobody, &CmOptions::default())?;
    queues.reported(EventKind::CmRejected, class::CM_ID, 4)?;
    PASS
}

fn mad_client(fixture: &Fixture) -> Outcome {
    /// A class of applications' (IBA vol. 1, 13.4.4) that no other case uses.
    const CLASS: u8 = 0x1d;
    const GET: u8 = 1;
    let ctx = fixture.open()?;
    let (gid, queues) = (ctx.gid(1, 0)?, Queues::new(&ctx)?);
    let options = MadOptions {
        methods: vec![GET],
        ..MadOptions::default()
    };
    let mut server = MadClient::new(&ctx, CLASS, &options)?;
    let asker = MadClient::new(&ctx, CLASS, &MadOptions::default())?;
    let send = |n| {
        let mut datagram = vec![0; 64];
        datagram[..4].copy_from_slice(&[1, CLASS, 1, GET]);
        datagram[15] = n;
        asker.send(MadTo::gid(gid), &datagram)
    };
    server.report_to(&queues.first, 1)?;
    send(1)?;
    queues.unread()?;
    server.report_to(&queues.second, 2)?;
    queues.moved()?;
    send(2)?;
    queues.reported(EventKind::Datagrams, class::MAD, 2)?;
    // The event went, its datagram did not.
    for n in 1..=2 {
        let got = server.next(SOON)?.with_context(|| format!("datagram {n} is lost"))?;
        check_eq!(got.datagram[15], n, "which datagram");
    }
    PASS
}

fn observer(fixture: &Fixture) -> Outcome {
    let (ctx, observed) = (fixture.open()?, fixture.open()?);
    let queues = Queues::new(&ctx)?;
    let options = TraceOptions {
        process: Some(std::process::id()),
        ..TraceOptions::default()
    };
    let mut tracer = Tracer::new(&ctx, &options)?;
    let call = || {
        Message::new(class::PD, 0, |_| {})
            .call(&observed, method::CREATE)
            .map(|_| ())
    };
    tracer.report_to(&queues.first, 1)?;
    call()?;
    queues.unread()?;
    tracer.report_to(&queues.second, 2)?;
    queues.moved()?;
    let (records, _) = tracer.read()?;
    check_eq!(records.len(), 1, "the record stays, its event went");
    call()?;
    queues.reported(EventKind::Other(class::event_queue::kind::TRACE), class::TRACE, 2)?;
    PASS
}
