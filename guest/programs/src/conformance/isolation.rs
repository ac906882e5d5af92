// SPDX-License-Identifier: MIT OR Apache-2.0
//! What belongs to one context is nothing to another: ids, keys, queue pair numbers, doorbells (H14).

use super::kit::{check_eq, quiet, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{Link, Region, Spec};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::{self, mr, qp};
use rdma_uapi::wire::{self, method, ObjectId};
use rdma_uapi::{Errno, Reason};
use std::collections::HashSet;
use verbena::{
    Access, CmId, CompletionCounter, ConnectOptions, Context, Flow, Gid, QpAttr, QpState, RawQp, RcQp, RecvWr, Remote,
    SendWr, SharedReceiveQueue, UcQp, UdQp, WindowType, XrcDomain, XrcInitiator, XrcTarget,
};
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::Key;

pub const CASES: &[Case] = &[
    Case::single("h14_object_ids_of_another_context", object_ids),
    Case::single("h14_an_object_of_any_class_is_nothing_to_another_context", every_class),
    Case::single("h14_objects_of_another_context_as_parents", parents),
    Case::single("h14_local_keys_of_another_context", local_keys),
    Case::single("h14_remote_keys_of_another_context", remote_keys),
    Case::single("h14_keys_cannot_be_guessed_from_a_neighbour", neighbouring_keys),
    Case::single("h14_a_queue_pair_that_was_not_asked", uninvited),
    Case::single("h14_an_error_of_one_context_does_not_reach_another", errors_stay),
    Case::single("h14_the_end_of_one_context_does_not_disturb_another", end_stays),
];

fn impatient() -> ConnectOptions {
    ConnectOptions {
        timeout: 9,
        retry_cnt: 1,
        rnr_retry: 1,
        ..ConnectOptions::default()
    }
}

fn object_ids(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let how = (Errno::ENOENT, Reason::NO_OBJECT);
    for _ in 0..8 {
        let id = Message::new(class::PD, 0, |_| {}).call(&mine, method::CREATE)?.object();
        for number in [method::QUERY, method::DESTROY] {
            let message = Message::new(class::PD, id, |_| {});
            message.refused(&theirs, number, how, (wire::FIELD_OBJECT, 4), "somebody else's domain")?;
        }
        Message::new(class::PD, id, |_| {})
            .call(&mine, method::QUERY)
            .context("the owner's own call")?;
    }
    PASS
}

/// Everything that a program can make of a device, once, alive as long as the answer is.
fn everything(ctx: &Context) -> Result<Vec<Box<dyn std::any::Any>>> {
    let (pd, cq, events) = (ctx.alloc_pd()?, ctx.create_cq(16)?, ctx.create_event_queue()?);
    let mut all: Vec<Box<dyn std::any::Any>> = Vec::new();
    let domain = XrcDomain::new(ctx)?;
    all.push(Box::new(XrcTarget::builder(&domain).build()?));
    all.push(Box::new(XrcInitiator::initiator(&pd, &cq).build()?));
    let srq = SharedReceiveQueue::builder(&pd).depth(16);
    all.push(Box::new(srq.xrc(&domain, &cq).build()?));
    all.push(Box::new(domain));
    all.push(Box::new(Region::new(&pd, 4096, Access::ALL_REMOTE)?));
    all.push(Box::new(pd.alloc_window(WindowType::Type2)?));
    all.push(Box::new(ctx.create_counter_set()?));
    all.push(Box::new(CompletionCounter::new(ctx, 4, None)?));
    all.push(Box::new(CmId::new(ctx, &events, 1)?));
    all.push(Box::new(RcQp::builder(&pd, &cq, &cq).build()?));
    all.push(Box::new(UcQp::builder(&pd, &cq, &cq).build()?));
    let mut datagrams = UdQp::builder(&pd, &cq, &cq).build()?;
    let mut group = Gid::default();
    (group.0[0], group.0[1], group.0[15]) = (0xff, 0x0e, 0x14);
    datagrams.attach(group)?;
    all.push(Box::new(datagrams));
    let mut frames = RawQp::builder(&pd, &cq, &cq).build()?;
    frames.steer(&Flow::new().ethertype(0x88b6))?;
    all.push(Box::new(frames));
    all.push(Box::new((pd, cq, events)));
    Ok(all)
}

fn every_class(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let all = everything(&mine)?;
    let objects = mine.objects()?;
    let classes: HashSet<u16> = objects.iter().map(|object| object.class).collect();
    for class in [
        class::PD,
        class::MR,
        class::MW,
        class::CQ,
        class::SRQ,
        class::XRCD,
        class::FLOW,
        class::MCAST,
        class::COUNTER,
        class::COUNTER_SET,
        class::QP_RC,
        class::QP_UC,
        class::QP_UD,
        class::QP_XRC_INI,
        class::QP_XRC_TGT,
        class::QP_RAW,
        class::EVENT_QUEUE,
        class::CM_ID,
    ] {
        ensure!(classes.contains(&class), "the cases of class {class} are missing");
    }
    ensure!(
        classes.iter().any(|class| class & wire::CLASS_DRIVER != 0),
        "no doorbell page among {classes:?}"
    );
    for object in &objects {
        for number in [method::QUERY, method::MODIFY, method::DESTROY] {
            let message = Message::new(object.class, object.object.0, |_| {});
            let Err(failure) = message.call(&theirs, number) else {
                bail!(
                    "method {number} of class {:#x} took another context's object",
                    object.class
                )
            };
            // An event queue is asked by its own descriptor; a MODIFY that says nothing, or is not there, is refused for that.
            let own_words = number == method::MODIFY || object.class == class::EVENT_QUEUE;
            let no_object = (failure.errno, failure.reason) == (Errno::ENOENT, Reason::NO_OBJECT);
            ensure!(
                no_object || own_words,
                "method {number} of class {:#x}: {failure}",
                object.class
            );
        }
    }
    let alive: Vec<_> = mine.objects()?.iter().map(|object| object.object).collect();
    for object in &objects {
        ensure!(alive.contains(&object.object), "{object:?} is gone");
    }
    drop(all);
    PASS
}

fn parents(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let pd = Message::new(class::PD, 0, |_| {}).call(&mine, method::CREATE)?.object();
    let memory = theirs.alloc_buffer(4096)?;
    let mut message = Message::new(class::MR, 0, |m| {
        m.put(mr::ADDR, &memory.addr())
            .put(mr::LENGTH, &4096)
            .put(mr::ACCESS, &1);
    });
    let at = message.mandatory(mr::PD.id(), &pd.to_le_bytes());
    let how = (Errno::ENOENT, Reason::NO_OBJECT);
    message.refused(
        &theirs,
        method::CREATE,
        how,
        (mr::PD.id(), at),
        "memory in somebody else's domain",
    )?;
    let mut message = Message::new(class::QP_RC, 0, |m| {
        m.put(qp::SEND_CQ, &ObjectId(pd)).put(qp::RECV_CQ, &ObjectId(pd));
    });
    message.mandatory(qp::PD.id(), &pd.to_le_bytes());
    match message.call(&theirs, method::CREATE) {
        Ok(_) => bail!("a queue pair was made of somebody else's objects"),
        Err(failure) => ensure!(matches!(failure.errno, Errno::ENOENT | Errno::EINVAL), "{failure}"),
    }
    PASS
}

fn local_keys(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let secret = Region::new(&mine.alloc_pd()?, 4096, Access::ALL_REMOTE)?;
    secret.buffer().fill(0, 4096, 0x5e);
    let (mut a, b) = Link::pair(
        &theirs,
        &theirs,
        &Spec {
            connect: impatient(),
            ..Spec::default()
        },
    )?;
    let sink = b.region(4096, Access::ALL_REMOTE)?;
    a.qp.post_send(&SendWr::write(sink.remote(0)).sges(&[secret.sge(..64)]).signaled())?;
    let done = a.sent()?;
    check_eq!(done.status, Status::LOC_PROT_ERR, "sending what is somebody else's");
    check_eq!(
        sink.buffer().find_mismatch(0, 4096, |_| 0),
        None,
        "the first byte that came"
    );
    // The other way: receiving into somebody else's memory.
    let (mut a, mut b) = Link::pair(
        &theirs,
        &theirs,
        &Spec {
            connect: impatient(),
            ..Spec::default()
        },
    )?;
    b.qp.post_recv(&RecvWr::new(&[secret.sge(..64)]))?;
    a.qp.post_send(&SendWr::send().inline(b"overwritten").signaled())?;
    check_eq!(
        b.received()?.status,
        Status::LOC_PROT_ERR,
        "receiving into what is somebody else's"
    );
    check_eq!(
        secret.buffer().find_mismatch(0, 4096, |_| 0x5e),
        None,
        "the first byte that was overwritten"
    );
    PASS
}

fn remote_keys(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let secret = Region::new(&mine.alloc_pd()?, 4096, Access::ALL_REMOTE)?;
    secret.buffer().fill(0, 4096, 0x5e);
    for read in [false, true] {
        // Connected with a queue pair of its own, whose domain is not the region's.
        let (mut a, b) = Link::pair(
            &theirs,
            &theirs,
            &Spec {
                connect: impatient(),
                ..Spec::default()
            },
        )?;
        let own = a.region(4096, Access::LOCAL_WRITE)?;
        let wr = if read {
            SendWr::read(secret.remote(0))
        } else {
            SendWr::write(secret.remote(0))
        };
        a.qp.post_send(&wr.sges(&[own.sge(..64)]).signaled())?;
        check_eq!(a.sent()?.status, Status::REM_ACCESS_ERR, "using somebody else's key");
        check_eq!(
            own.buffer().find_mismatch(0, 4096, |_| 0),
            None,
            "the first byte that came"
        );
        drop(b);
    }
    check_eq!(
        secret.buffer().find_mismatch(0, 4096, |_| 0x5e),
        None,
        "the first byte that was overwritten"
    );
    PASS
}

fn neighbouring_keys(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let regions: Vec<Region> = (0..16)
        .map(|_| Region::new(&pd, 64, Access::ALL_REMOTE))
        .collect::<Result<_>>()?;
    let keys: Vec<Key> = regions.iter().map(|r| r.lkey()).collect();
    let steps: HashSet<u32> = keys
        .windows(2)
        .map(|pair| pair[1].index().wrapping_sub(pair[0].index()))
        .collect();
    ensure!(steps.len() > 8, "the keys follow each other in steps of {steps:?}");
    let tags: HashSet<u8> = keys.iter().map(|key| key.tag()).collect();
    ensure!(tags.len() > 4, "the keys' tags are {tags:?}");
    // Around each key there is nothing, but what happens to be another of these.
    for &key in keys.iter().take(3) {
        for guess in [
            key.0 ^ 1,
            key.0 ^ 0x80,
            key.0.wrapping_add(0x100),
            key.0.wrapping_sub(0x100),
        ] {
            if keys.contains(&Key(guess)) {
                continue;
            }
            let (mut a, _b) = Link::pair(
                &ctx,
                &ctx,
                &Spec {
                    connect: impatient(),
                    ..Spec::default()
                },
            )?;
            let at = Remote {
                addr: regions[0].addr(),
                rkey: guess,
            };
            a.qp.post_send(&SendWr::write(at).inline(b"guess"))?;
            check_eq!(a.sent()?.status, Status::REM_ACCESS_ERR, "the guess {guess:#x}");
        }
    }
    PASS
}

fn uninvited(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let (mut a, mut b) = Link::pair(&mine, &mine, &Spec::default())?;
    let region = b.region(4096, Access::ALL_REMOTE)?;
    b.qp.post_recv(&RecvWr::new(&[region.sge(..64)]).wr_id(1))?;
    // A stranger that knows everything there is to know, but is not whom b is connected with.
    for op in 0..3 {
        let mut stranger = Link::new(&theirs, &Spec::default())?;
        let target = b.qp.endpoint()?;
        stranger.qp.init()?;
        let mtu = theirs.port(1)?.attrs.active_mtu;
        let rtr = QpAttr::to(QpState::RTR)
            .path(verbena::path_to(target.gid, 0))
            .path_mtu(mtu);
        let rtr = rtr.dest_qpn(target.qpn.get()).rq_psn(target.psn.get());
        stranger.qp.modify(&rtr.max_dest_rd_atomic(1).min_rnr_timer(1))?;
        // The very sequence number that comes next.
        let rts = QpAttr::to(QpState::RTS)
            .sq_psn(a.qp.psn())
            .timeout(9)
            .retry_cnt(1)
            .rnr_retry(1);
        stranger.qp.modify(&rts.max_rd_atomic(1))?;
        let own = stranger.region(64, Access::LOCAL_WRITE)?;
        let wr = match op {
            0 => SendWr::send(),
            1 => SendWr::write(region.remote(0)),
            _ => SendWr::read(region.remote(0)),
        };
        stranger.qp.post_send(&wr.sges(&[own.sge(..)]).signaled())?;
        check_eq!(
            stranger.sent()?.status,
            Status::RETRY_EXC_ERR,
            "what the stranger hears"
        );
    }
    quiet(&mut b.recv_cq, "messages of a stranger")?;
    check_eq!(b.qp.query()?.state, QpState::RTS, "the victim's state");
    // The sequence has not moved either: the real peer gets through.
    a.qp.post_send(&SendWr::send().inline(b"it is me").signaled())?;
    a.sent_well()?;
    check_eq!(b.received_well()?.wr_id, 1, "the receive");
    check_eq!(region.buffer().to_vec(0, 8), b"it is me".to_vec(), "what came");
    PASS
}

fn errors_stay(fixture: &Fixture) -> Outcome {
    let (mine, theirs) = (fixture.open()?, fixture.open()?);
    let (mut a, mut b) = Link::pair(&mine, &mine, &Spec::default())?;
    let events = mine.create_event_queue()?;
    events.associate_device(1)?;
    events.associate_qp(&a.qp, 2)?;
    events.associate_qp(&b.qp, 3)?;
    for _ in 0..10 {
        let (mut c, d) = Link::pair(&theirs, &theirs, &Spec::default())?;
        c.qp.post_send(&SendWr::write(Remote { addr: 1, rkey: 2 }).inline(b"bad"))?;
        let done = c.sent()?;
        check_eq!(
            (done.status, done.vendor_err),
            (Status::REM_ACCESS_ERR, vendor::NONE),
            "status and reason"
        );
        drop(d);
        b.qp.post_recv(&RecvWr::new(&[]))?;
        a.qp.post_send(&SendWr::send().signaled())?;
        a.sent_well()?;
        b.received_well()?;
    }
    check_eq!(events.try_next()?, None, "an event of somebody else's error");
    PASS
}

fn end_stays(fixture: &Fixture) -> Outcome {
    let mine = fixture.open()?;
    let (mut a, mut b) = Link::pair(&mine, &mine, &Spec::default())?;
    for round in 0..5 {
        let theirs = fixture.open()?;
        let (mut c, d) = Link::pair(&theirs, &theirs, &Spec::default())?;
        let region = d.region(4096, Access::ALL_REMOTE)?;
        for _ in 0..20 {
            c.qp.post_send(&SendWr::write(region.remote(0)).inline(b"on the way"))?;
        }
        // With work under way.
        drop((c, d, region, theirs));
        b.qp.post_recv(&RecvWr::new(&[]).wr_id(round))?;
        a.qp.post_send(&SendWr::send().signaled())?;
        a.sent_well().with_context(|| format!("round {round}"))?;
        check_eq!(b.received_well()?.wr_id, round, "the receive");
    }
    PASS
}
