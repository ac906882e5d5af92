// SPDX-License-Identifier: MIT OR Apache-2.0
//! What belongs to one context is nothing to another: ids, keys, queue pair numbers, doorbells (H14).

use super::kit::{check_eq, quiet, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{Link, Region, Spec};
use anyhow::{bail, ensure, Context as _};
use rdma_uapi::class::{self, mr, qp};
use rdma_uapi::wire::{self, method, ObjectId};
use rdma_uapi::{Errno, Reason};
use verbena::{Access, ConnectOptions, QpAttr, QpState, RecvWr, Remote, SendWr};
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::Key;

pub const CASES: &[Case] = &[
    Case::single("h14_object_ids_of_another_context", object_ids),
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
        .collect::<Result<_, _>>()?;
    let keys: Vec<Key> = regions.iter().map(|r| r.lkey()).collect();
    let steps: std::collections::HashSet<u32> = keys
        .windows(2)
        .map(|pair| pair[1].index().wrapping_sub(pair[0].index()))
        .collect();
    ensure!(steps.len() > 8, "the keys follow each other in steps of {steps:?}");
    let tags: std::collections::HashSet<u8> = keys.iter().map(|key| key.tag()).collect();
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
