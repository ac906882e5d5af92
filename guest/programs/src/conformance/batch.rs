// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches: many calls in one, through the driver's builder (U16).

use super::kit::{check_eq, dump, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Region, SOON};
use crate::pattern;
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::class::interface::MAX_COMMANDS;
use rdma_uapi::class::{self};
use rdma_uapi::wire::{driver_class, DriverId};
use rdma_uapi::Errno;
use verbena::{
    path_to, Access, AddressHandle, Batch, CompletionQueue, ConnectOptions, Context, Endpoint, Error, ObjectInfo,
    OnFailure, ProtectionDomain, Psn, QpAttr, QpState, Qpn, RcQp, RecvWr, SendWr, Ticket, UcQp, UdQp, XrcInitiator,
    GRH_LEN,
};

pub const CASES: &[Case] = &[
    Case::single("u16_a_thousand_queue_pairs_from_nothing_to_rts_in_two_calls", thousand),
    Case::single("u14_rings_of_a_batch_share_memory_and_give_it_back", shared_rings),
    Case::single("u16_a_batch_of_all_or_nothing_is_undone", undone),
    Case::single("u16_a_batch_stops_at_the_first_failure", stops),
    Case::single("u16_a_batch_continues_after_failures", continues),
    Case::single("u16_a_batch_longer_than_a_chain_goes_in_several", long),
    Case::single("u15_a_batch_makes_queue_pairs_that_are_connected", connected_at_once),
    Case::single(
        "u16_a_batch_makes_connects_and_destroys_queue_pairs_of_every_type",
        every_type,
    ),
];

/// A queue pair that no device can make: more entries than any queue has.
fn impossible(
    pd: Ticket<ProtectionDomain>,
    cq: Ticket<CompletionQueue>,
) -> verbena::QpBuilder<'static, verbena::Batched> {
    small(pd, cq).send_depth(1 << 30)
}

fn small(pd: Ticket<ProtectionDomain>, cq: Ticket<CompletionQueue>) -> verbena::QpBuilder<'static, verbena::Batched> {
    RcQp::batched(pd, cq, cq).send_depth(8).recv_depth(8)
}

/// A message of 64 bytes from one queue pair to the other arrives.
fn carries(pd: &ProtectionDomain, cq: &mut CompletionQueue, from: &mut RcQp, to: &mut RcQp) -> Result<()> {
    let region = Region::new(pd, 4096, Access::ALL_REMOTE)?;
    pattern::fill_buffer(region.buffer(), 0, 64, 0, 7);
    to.post_recv(&RecvWr::new(&[region.sge(2048..2112)]).wr_id(1))?;
    from.post_send(&SendWr::send().sges(&[region.sge(..64)]).wr_id(2).signaled())?;
    for _ in 0..2 {
        let completion = cq.poll_timeout(SOON)?.context("nothing completes")?;
        completion.ok()?;
    }
    let wrong = pattern::difference_in_buffer(region.buffer(), 2048, 64, 0, 7);
    check_eq!(wrong, None, "the first byte that did not arrive");
    Ok(())
}

fn thousand(fixture: &Fixture) -> Outcome {
    const QPS: usize = 1000;
    let ctx = fixture.open()?;
    let mut batch = Batch::new(&ctx);
    let pd = batch.alloc_pd();
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    let tickets: Vec<_> = (0..QPS).map(|_| batch.create_qp(small(pd, cq))).collect();
    let mut done = batch.run(OnFailure::Undo)?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, QPS + 2),
        "chains, and commands executed"
    );
    let mut qps = Vec::new();
    for ticket in tickets {
        qps.push(done.take(ticket)?);
    }
    let (pd, mut cq) = (done.take(pd)?, done.take(cq)?);

    let gid = ctx.gid(1, 0)?;
    let options = ConnectOptions::default();
    let mut batch = Batch::new(&ctx);
    for pair in qps.chunks_exact_mut(2) {
        let [left, right] = pair else {
            unreachable!("chunks of two")
        };
        let (to_left, to_right) = (left.endpoint_with(gid), right.endpoint_with(gid));
        batch.connect(left, &to_right, &options)?;
        batch.connect(right, &to_left, &options)?;
    }
    let mut done = batch.run(OnFailure::Stop)?;
    done.all()?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, QPS),
        "chains, and commands executed"
    );
    for qp in &qps {
        check_eq!(qp.state(), QpState::RTS, "a queue pair's state as the driver knows it");
    }
    let last = qps.last().context("there are a thousand")?;
    check_eq!(last.query()?.state, QpState::RTS, "its state as the device knows it");
    let (left, right) = qps.split_at_mut(1);
    carries(&pd, &mut cq, &mut left[0], &mut right[0])?;

    let mut batch = Batch::new(&ctx);
    for qp in qps {
        batch.destroy(qp);
    }
    batch.destroy(cq);
    batch.destroy(pd);
    let mut done = batch.run(OnFailure::Stop)?;
    done.all()?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, QPS + 2),
        "chains, and objects destroyed"
    );
    PASS
}

/// The context's first queue pair, and its ring memories.
fn rings(ctx: &Context) -> Result<(Option<ObjectInfo>, Vec<ObjectInfo>)> {
    let memory = driver_class(DriverId(1), 2);
    let objects = ctx.objects()?;
    let qp = objects.iter().find(|object| object.class == class::QP_RC).copied();
    Ok((
        qp,
        objects.into_iter().filter(|object| object.class == memory).collect(),
    ))
}

fn shared_rings(fixture: &Fixture) -> Outcome {
    const QPS: usize = 100;
    // Eight entries of 64 bytes and eight of 32. Several share a page.
    const RINGS: u64 = 8 * 64 + 8 * 32;
    let ctx = fixture.open()?;
    let (pd, mut cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let own = RcQp::builder(&pd, &cq, &cq).send_depth(8).recv_depth(8).build()?;
    let (alone, memories) = rings(&ctx)?;
    let alone = alone.context("the queue pair is not listed")?;
    ensure!(
        alone.shared >= 8192 && memories.is_empty(),
        "a single queue pair: {alone:?}, {memories:?}"
    );
    own.destroy()?;

    let mut batch = Batch::new(&ctx);
    let tickets: Vec<_> = (0..QPS)
        .map(|_| batch.create_qp(RcQp::builder(&pd, &cq, &cq).send_depth(8).recv_depth(8)))
        .collect();
    let mut done = batch.run(OnFailure::Undo)?;
    check_eq!(
        (done.calls(), done.executed()),
        (1, QPS),
        "chains, and commands executed"
    );
    let mut qps = Vec::new();
    for ticket in tickets {
        qps.push(done.take(ticket)?);
    }
    let (one, memories) = rings(&ctx)?;
    let one = one.context("no queue pair is listed")?;
    ensure!(
        (64..=512).contains(&one.bytes) && one.shared == 0,
        "a queue pair takes {one:?} beside its rings"
    );
    let bytes: u64 = memories.iter().map(|memory| memory.shared).sum();
    ensure!(
        (1..=4).contains(&memories.len()) && (QPS as u64 * RINGS..QPS as u64 * 4096).contains(&bytes),
        "{memories:?} for {QPS} queue pairs"
    );
    // The first of one memory and the last of another carry messages: they have rings, and each its own.
    let gid = ctx.gid(1, 0)?;
    let [left, .., right] = &mut qps[..] else {
        anyhow::bail!("there are {QPS}")
    };
    let (to_left, to_right) = (left.endpoint_with(gid), right.endpoint_with(gid));
    left.connect(&to_right)?;
    right.connect(&to_left)?;
    carries(&pd, &mut cq, left, right)?;

    // A memory goes with the last queue in it.
    let mut batch = Batch::new(&ctx);
    for qp in qps.drain(1..) {
        batch.destroy(qp);
    }
    batch.run(OnFailure::Stop)?.all()?;
    check_eq!(rings(&ctx)?.1.len(), 1, "ring memories while one queue pair is left");
    drop(qps);
    check_eq!(rings(&ctx)?, (None, Vec::new()), "what is left");
    PASS
}

fn undone(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    // What is in the dump belongs to everybody, so names are looked for, not numbers of them.
    let pd = ctx.alloc_pd()?;
    let mut batch = Batch::new(&ctx);
    let buffer = ctx.alloc_buffer(4096)?;
    batch.register(&pd, &buffer, Access::LOCAL_WRITE);
    let inner = batch.alloc_pd();
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    for _ in 0..5 {
        batch.create_qp(small(inner, cq));
    }
    batch.create_qp(impossible(inner, cq));
    batch.create_qp(small(inner, cq));
    let error = match batch.run(OnFailure::Undo) {
        Ok(done) => anyhow::bail!("an impossible queue pair was made: {done:?}"),
        Err(error) => error,
    };
    let Error::Undone { command, of, .. } = error else {
        anyhow::bail!("another error: {error}");
    };
    check_eq!(
        (command, of),
        (8, 10),
        "the command that failed, and how many there were"
    );
    check_eq!(error.errno(), Some(Errno::EINVAL), "the errno");
    ensure!(
        error.to_string().contains("attribute caps"),
        "the sentence does not name it: {error}"
    );
    // Its region is gone: nothing is on the protection domain any more.
    pd.destroy().context("a protection domain whose region was undone")?;
    // And what could not be undone is refused before it is done.
    let keep = ctx.alloc_pd()?;
    let mut batch = Batch::new(&ctx);
    batch.destroy(keep);
    refused(
        batch.run(OnFailure::Undo),
        Errno::EINVAL,
        "destroying what the batch did not make",
    )?;
    PASS
}

fn stops(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut batch = Batch::new(&ctx);
    let pd = batch.alloc_pd();
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    let first = batch.create_qp(small(pd, cq));
    let bad = batch.create_qp(impossible(pd, cq));
    let after = batch.create_qp(small(pd, cq));
    let mut done = batch.run(OnFailure::Stop)?;
    check_eq!(done.executed(), 4, "commands executed");
    ensure!(
        done.succeeded(first) && !done.succeeded(bad) && !done.succeeded(after),
        "{done:?}"
    );
    let made = done.take(first)?;
    check_eq!(made.query()?.state, QpState::RESET, "what was made before stays");
    refused(done.take(bad), Errno::EINVAL, "an impossible queue pair")?;
    refused(done.take(after), Errno::ECANCELED, "what comes after it")?;
    PASS
}

fn continues(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut batch = Batch::new(&ctx);
    let pd = batch.alloc_pd();
    let no_cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(1 << 30));
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    let orphan = batch.create_qp(small(pd, no_cq));
    let qp = batch.create_qp(small(pd, cq));
    let moved = batch.modify(
        orphan,
        QpAttr::to(QpState::INIT)
            .port(1)
            .pkey_index(0)
            .access(Access::LOCAL_WRITE),
    )?;
    let mut done = batch.run(OnFailure::Continue)?;
    check_eq!(done.executed(), 6, "commands executed");
    refused(done.take(no_cq), Errno::EINVAL, "an impossible completion queue")?;
    refused(done.take(orphan), Errno::EINVAL, "a queue pair on it")?;
    refused(done.take(moved), Errno::EINVAL, "a change of that queue pair")?;
    done.take(qp)?.query()?;
    PASS
}

fn long(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut batch = Batch::new(&ctx);
    let pd = batch.alloc_pd();
    // The chain ends between what a queue pair stands on and the queue pair.
    for _ in 0..MAX_COMMANDS - 1 {
        let created = batch.alloc_pd();
        let _ = created;
    }
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    let qp = batch.create_qp(small(pd, cq));
    let init = batch.modify(
        qp,
        QpAttr::to(QpState::INIT)
            .port(1)
            .pkey_index(0)
            .access(Access::LOCAL_WRITE),
    )?;
    let mut done = batch.run(OnFailure::Stop)?;
    check_eq!(
        (done.calls(), done.executed()),
        (2, MAX_COMMANDS + 3),
        "chains, and commands executed"
    );
    done.take(init)?;
    let qp = done.take(qp)?;
    check_eq!(
        (qp.state(), qp.query()?.state),
        (QpState::INIT, QpState::INIT),
        "the states of the queue pair"
    );
    check_eq!(
        dump(&ctx)?.has_qp(qp.qpn()),
        true,
        "whether the device has the queue pair"
    );
    PASS
}

/// A queue pair whose peer is known already: one command makes it and connects it.
fn connected_at_once(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, mut cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let mut peer = RcQp::builder(&pd, &cq, &cq).build()?;
    let gid = ctx.gid(1, 0)?;
    let to_peer = connected_to(&peer, gid, &ctx)?;
    let mut batch = Batch::new(&ctx);
    let ticket = batch.create_qp(RcQp::builder(&pd, &cq, &cq).attributes(to_peer));
    let mut qp = batch.run(OnFailure::Undo)?.take(ticket)?;
    check_eq!(
        (qp.state(), qp.query()?.state, qp.psn()),
        (QpState::RTS, QpState::RTS, 77),
        "state and PSN"
    );

    let mut batch = Batch::new(&ctx);
    batch.connect(&mut peer, &qp.endpoint_with(gid), &ConnectOptions::default())?;
    batch.run(OnFailure::Stop)?.all()?;
    carries(&pd, &mut cq, &mut qp, &mut peer)?;
    PASS
}

/// Everything that it takes from RESET to RTS, towards `peer`.
fn connected_to(peer: &RcQp, gid: verbena::Gid, ctx: &Context) -> Result<QpAttr> {
    let device = ctx.device()?;
    Ok(QpAttr::to(QpState::RTS)
        .port(1)
        .pkey_index(0)
        .access(Access::ALL_REMOTE)
        .path(path_to(gid, 0))
        .path_mtu(ctx.port(1)?.attrs.active_mtu)
        .dest_qpn(peer.qpn())
        .rq_psn(peer.psn())
        .max_dest_rd_atomic(device.max_qp_rd_atom.min(16))
        .min_rnr_timer(1)
        .timeout(14)
        .retry_cnt(7)
        .rnr_retry(7)
        .sq_psn(77)
        .max_rd_atomic(device.max_qp_init_rd_atom.min(16)))
}

/// Unreliable connections, datagrams, XRC initiators and reliable connections, made, connected and destroyed together.
fn every_type(fixture: &Fixture) -> Outcome {
    const QKEY: u32 = 0x1234;
    let ctx = fixture.open()?;
    let (pd, mut cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let ready = QpAttr::to(QpState::RTS).port(1).pkey_index(0).qkey(QKEY).sq_psn(1);
    let mut batch = Batch::new(&ctx);
    let unreliable = [0; 2].map(|_| batch.create_qp(UcQp::batched(&pd, &cq, &cq)));
    let datagrams = [0; 2].map(|_| batch.create_qp(UdQp::batched(&pd, &cq, &cq).attributes(ready.clone())));
    let initiator = batch.create_qp(XrcInitiator::batched(&pd, &cq, &cq));
    // One that is connected in the batch that makes it.
    let reliable = batch.create_qp(RcQp::batched(&pd, &cq, &cq));
    let gid = ctx.gid(1, 0)?;
    let peer = Endpoint {
        gid,
        qpn: Qpn::truncate(0x00ff_fff0),
        psn: Psn::truncate(5),
    };
    let options = ConnectOptions::default();
    let connected = batch.connect(reliable, &peer, &options)?;
    ensure!(
        batch.connect(datagrams[0], &peer, &options).is_err(),
        "a datagram queue pair has no peer"
    );
    let mut done = batch.run(OnFailure::Undo)?;
    done.take(connected)?;
    let [mut a, mut b] = [done.take(unreliable[0])?, done.take(unreliable[1])?];
    let [mut c, mut d] = [done.take(datagrams[0])?, done.take(datagrams[1])?];
    let (mut initiator, reliable) = (done.take(initiator)?, done.take(reliable)?);
    check_eq!(reliable.query()?.state, QpState::RTS, "the reliable one's state");
    check_eq!(
        (c.state(), d.state()),
        (QpState::RTS, QpState::RTS),
        "the datagrams' states"
    );

    let (to_a, to_b) = (a.endpoint_with(gid), b.endpoint_with(gid));
    let mut batch = Batch::new(&ctx);
    batch.connect(&mut a, &to_b, &options)?;
    batch.connect(&mut b, &to_a, &options)?;
    batch.connect(&mut initiator, &peer, &options)?;
    batch.modify(&mut d, QpAttr::to(QpState::RTS).qkey(QKEY + 1))?;
    batch.run(OnFailure::Stop)?.all()?;
    check_eq!(initiator.query()?.dest_qpn, 0x00ff_fff0, "the initiator's peer");
    check_eq!(d.query()?.qkey, QKEY + 1, "the Q_Key that MODIFY gave");

    let region = Region::new(&pd, 4096, Access::ALL_REMOTE)?;
    pattern::fill_buffer(region.buffer(), 0, 64, 0, 7);
    b.post_recv(&RecvWr::new(&[region.sge(1024..1088)]).wr_id(1))?;
    a.post_send(&SendWr::send().sges(&[region.sge(..64)]).wr_id(2).signaled())?;
    d.post_recv(&RecvWr::new(&[region.sge(2048..2048 + 64 + GRH_LEN)]).wr_id(3))?;
    let to_d = AddressHandle::to(gid)?.qp(d.qpn(), QKEY + 1);
    c.post_send(&SendWr::send().sges(&[region.sge(..64)]).wr_id(4).signaled(), &to_d)?;
    for _ in 0..4 {
        let completion = cq.poll_timeout(SOON)?.context("nothing completes")?;
        completion.ok()?;
    }
    for at in [1024, 2048 + GRH_LEN] {
        let wrong = pattern::difference_in_buffer(region.buffer(), at, 64, 0, 7);
        check_eq!(wrong, None, "the first byte that did not arrive");
    }

    let mut batch = Batch::new(&ctx);
    let tickets = [
        batch.destroy(a),
        batch.destroy(b),
        batch.destroy(c),
        batch.destroy(d),
        batch.destroy(initiator),
        batch.destroy(reliable),
    ];
    let mut done = batch.run(OnFailure::Stop)?;
    for ticket in tickets {
        done.take(ticket)?;
    }
    cq.destroy()?;
    PASS
}
