// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state machine of a reliable connected queue pair: transitions, their attributes, and what each state does (H4).

use super::kit::{check_eq, quiet, Layout, Outcome, PASS};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{Link, Spec};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::qp as attr;
use rdma_uapi::{Errno, Reason};
use std::time::Instant;
use verbena::{Access, ConnectOptions, Context, Endpoint, EventKind, PostError, QpAttr, QpState, RcQp, RecvWr, SendWr};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("h04_from_reset_to_rts_step_by_step", step_by_step),
    Case::single("h04_a_transition_lacks_a_required_attribute", missing_attributes),
    Case::single("h04_a_transition_forbids_an_attribute", forbidden_attributes),
    Case::single("h04_transitions_that_do_not_exist", no_such_transition),
    Case::single("h04_values_out_of_range", bad_values),
    Case::single("h04_the_state_that_the_caller_believes_in", current_state),
    Case::single("h04_posting_needs_the_right_state", posting),
    Case::single("h04_receives_posted_before_rts_are_used", early_receives),
    Case::single("h04_sqd_holds_sends_back_and_tells_when_drained", sqd),
    Case::single("h04_error_flushes_in_order", error_flushes),
    Case::single("h04_reset_forgets_and_the_queue_pair_serves_again", reset_and_again),
    Case::pair("h04_both_sides_reset_and_connect_again", reconnect),
    Case::single("h04_every_state_can_be_left_for_reset_and_error", ways_out),
    Case::single("h04_mtus_on_both_sides", mtus),
];

/// A queue pair of its own, in RESET.
fn new_qp(fixture: &Fixture) -> Result<Link> {
    Link::new(&fixture.open()?, &Spec::default())
}

/// The attributes that lead to INIT.
fn to_init() -> QpAttr {
    QpAttr::to(QpState::INIT)
        .port(1)
        .pkey_index(0)
        .access(Access::ALL_REMOTE)
}

/// The attributes that lead on to RTR.
fn to_rtr(peer: &Endpoint) -> QpAttr {
    QpAttr::to(QpState::RTR)
        .path(verbena::path_to(peer.gid, 0))
        .path_mtu(1024)
        .dest_qpn(peer.qpn.get())
        .rq_psn(peer.psn.get())
        .max_dest_rd_atomic(4)
        .min_rnr_timer(12)
}

/// The attributes that lead on to RTS.
fn to_rts(qp: &RcQp) -> QpAttr {
    QpAttr::to(QpState::RTS)
        .timeout(14)
        .retry_cnt(7)
        .rnr_retry(7)
        .sq_psn(qp.psn())
        .max_rd_atomic(4)
}

/// Takes it to `state`, connected with itself.
fn go(qp: &mut RcQp, state: QpState) -> Result<()> {
    let here = qp.endpoint()?;
    let steps = [to_init(), to_rtr(&here), to_rts(qp), QpAttr::to(QpState::SQD)];
    let count = match state {
        QpState::ERR => {
            qp.set_error()?;
            return Ok(());
        }
        state => usize::from(state.0),
    };
    for step in &steps[..count] {
        qp.modify(step)?;
    }
    Ok(())
}

/// Fails unless the change is refused for this reason, naming that attribute, and the state has stayed.
fn refuses(qp: &mut RcQp, change: &QpAttr, how: (Reason, u16), what: &str) -> Result<()> {
    let before = qp.query()?;
    let Err(error) = qp.modify(change) else {
        bail!("{what} was accepted")
    };
    let failure = error
        .failure()
        .with_context(|| format!("{what}: no answer of the device, but: {error}"))?;
    let got = (failure.errno, failure.reason, failure.attr);
    check_eq!(got, (Errno::EINVAL, how.0, how.1), "{what}: errno, reason, attribute");
    check_eq!(qp.query()?, before, "{what}: state and attributes after it");
    Ok(())
}

fn step_by_step(fixture: &Fixture) -> Outcome {
    let mut link = new_qp(fixture)?;
    let qp = &mut link.qp;
    let here = qp.endpoint()?;
    check_eq!(qp.query()?.state, QpState::RESET, "the state of a new queue pair");
    qp.modify(&to_init())?;
    let info = qp.query()?;
    check_eq!(
        (info.state, info.port, info.pkey_index),
        (QpState::INIT, 1, 0),
        "state, port, P_Key index"
    );
    check_eq!(info.access, Access::ALL_REMOTE, "access");
    qp.modify(&QpAttr::to(QpState::INIT).access(Access::REMOTE_READ))?;
    check_eq!(qp.query()?.access, Access::REMOTE_READ, "access after INIT to INIT");
    qp.modify(&to_rtr(&here))?;
    let info = qp.query()?;
    check_eq!(info.state, QpState::RTR, "the state");
    check_eq!(
        (info.dest_qpn, info.rq_psn),
        (here.qpn.get(), here.psn.get()),
        "peer and its PSN"
    );
    check_eq!(
        (info.path_mtu, info.max_dest_rd_atomic, info.min_rnr_timer),
        (1024, 4, 12),
        "MTU, READs, RNR timer"
    );
    check_eq!((info.path.dgid, info.path.sgid_index), (here.gid.0, 0), "the path");
    qp.modify(&to_rts(qp))?;
    let info = qp.query()?;
    check_eq!((info.state, info.sq_psn), (QpState::RTS, qp.psn()), "state and PSN");
    check_eq!(
        (info.timeout, info.retry_cnt, info.rnr_retry, info.max_rd_atomic),
        (14, 7, 7, 4),
        "timers and counters"
    );
    qp.modify(
        &QpAttr::new()
            .min_rnr_timer(3)
            .access(Access::REMOTE_WRITE | Access::LOCAL_WRITE),
    )?;
    let info = qp.query()?;
    check_eq!(
        (info.state, info.min_rnr_timer),
        (QpState::RTS, 3),
        "state and RNR timer after a change in RTS"
    );
    PASS
}

fn missing_attributes(fixture: &Fixture) -> Outcome {
    let mut link = new_qp(fixture)?;
    let qp = &mut link.qp;
    let here = qp.endpoint()?;
    let init = || QpAttr::to(QpState::INIT);
    for (change, missing) in [
        (init().pkey_index(0).access(Access::empty()), attr::PORT.id()),
        (init().port(1).access(Access::empty()), attr::PKEY_INDEX.id()),
        (init().port(1).pkey_index(0), attr::ACCESS.id()),
    ] {
        refuses(qp, &change, (Reason::MISSING, missing), "RESET to INIT")?;
    }
    qp.modify(&to_init())?;
    let rtr = || QpAttr::to(QpState::RTR);
    let path = verbena::path_to(here.gid, 0);
    for (change, missing) in [
        (
            rtr()
                .path_mtu(1024)
                .dest_qpn(2)
                .rq_psn(0)
                .max_dest_rd_atomic(1)
                .min_rnr_timer(1),
            attr::PATH.id(),
        ),
        (
            rtr()
                .path(path)
                .dest_qpn(2)
                .rq_psn(0)
                .max_dest_rd_atomic(1)
                .min_rnr_timer(1),
            attr::PATH_MTU.id(),
        ),
        (
            rtr()
                .path(path)
                .path_mtu(1024)
                .rq_psn(0)
                .max_dest_rd_atomic(1)
                .min_rnr_timer(1),
            attr::DEST_QPN.id(),
        ),
        (
            rtr()
                .path(path)
                .path_mtu(1024)
                .dest_qpn(2)
                .max_dest_rd_atomic(1)
                .min_rnr_timer(1),
            attr::RQ_PSN.id(),
        ),
        (
            rtr().path(path).path_mtu(1024).dest_qpn(2).rq_psn(0).min_rnr_timer(1),
            attr::MAX_DEST_RD_ATOMIC.id(),
        ),
        (
            rtr()
                .path(path)
                .path_mtu(1024)
                .dest_qpn(2)
                .rq_psn(0)
                .max_dest_rd_atomic(1),
            attr::MIN_RNR_TIMER.id(),
        ),
    ] {
        refuses(qp, &change, (Reason::MISSING, missing), "INIT to RTR")?;
    }
    qp.modify(&to_rtr(&here))?;
    let rts = || QpAttr::to(QpState::RTS);
    for (change, missing) in [
        (
            rts().retry_cnt(1).rnr_retry(1).sq_psn(0).max_rd_atomic(1),
            attr::TIMEOUT.id(),
        ),
        (
            rts().timeout(1).rnr_retry(1).sq_psn(0).max_rd_atomic(1),
            attr::RETRY_CNT.id(),
        ),
        (
            rts().timeout(1).retry_cnt(1).sq_psn(0).max_rd_atomic(1),
            attr::RNR_RETRY.id(),
        ),
        (
            rts().timeout(1).retry_cnt(1).rnr_retry(1).max_rd_atomic(1),
            attr::SQ_PSN.id(),
        ),
        (
            rts().timeout(1).retry_cnt(1).rnr_retry(1).sq_psn(0),
            attr::MAX_RD_ATOMIC.id(),
        ),
    ] {
        refuses(qp, &change, (Reason::MISSING, missing), "RTR to RTS")?;
    }
    qp.modify(&to_rts(qp))?;
    check_eq!(qp.query()?.state, QpState::RTS, "the state after all the attempts");
    PASS
}

fn forbidden_attributes(fixture: &Fixture) -> Outcome {
    let mut link = new_qp(fixture)?;
    let qp = &mut link.qp;
    let here = qp.endpoint()?;
    let how = |id| (Reason::NOT_ALLOWED, id);
    refuses(
        qp,
        &to_init().timeout(3),
        how(attr::TIMEOUT.id()),
        "a timeout in RESET to INIT",
    )?;
    refuses(
        qp,
        &to_init().dest_qpn(3),
        how(attr::DEST_QPN.id()),
        "a peer in RESET to INIT",
    )?;
    qp.modify(&to_init())?;
    refuses(
        qp,
        &to_rtr(&here).sq_psn(3),
        how(attr::SQ_PSN.id()),
        "the send PSN in INIT to RTR",
    )?;
    refuses(
        qp,
        &to_rtr(&here).port(1),
        how(attr::PORT.id()),
        "the port in INIT to RTR",
    )?;
    qp.modify(&to_rtr(&here))?;
    refuses(
        qp,
        &to_rts(qp).rq_psn(3),
        how(attr::RQ_PSN.id()),
        "the receive PSN in RTR to RTS",
    )?;
    qp.modify(&to_rts(qp))?;
    refuses(
        qp,
        &QpAttr::new().dest_qpn(3),
        how(attr::DEST_QPN.id()),
        "another peer in RTS",
    )?;
    refuses(
        qp,
        &QpAttr::to(QpState::SQD).timeout(3),
        how(attr::TIMEOUT.id()),
        "a timeout in RTS to SQD",
    )?;
    refuses(
        qp,
        &QpAttr::to(QpState::ERR).timeout(3),
        how(attr::TIMEOUT.id()),
        "a timeout in RTS to ERR",
    )?;
    PASS
}

fn no_such_transition(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    // From where, and what does not follow.
    let table: &[(QpState, &[QpState])] = &[
        (
            QpState::RESET,
            &[QpState::RTR, QpState::RTS, QpState::SQD, QpState::SQE],
        ),
        (QpState::INIT, &[QpState::RTS, QpState::SQD, QpState::SQE]),
        (QpState::RTR, &[QpState::INIT, QpState::RTR, QpState::SQD, QpState::SQE]),
        (QpState::RTS, &[QpState::INIT, QpState::RTR, QpState::SQE]),
        (QpState::SQD, &[QpState::INIT, QpState::RTR, QpState::SQE]),
        (
            QpState::ERR,
            &[QpState::INIT, QpState::RTR, QpState::RTS, QpState::SQD, QpState::SQE],
        ),
    ];
    for &(from, tos) in table {
        let mut link = Link::new(&ctx, &Spec::default())?;
        go(&mut link.qp, from)?;
        for &to in tos {
            let what = format!("{from} to {to}");
            refuses(
                &mut link.qp,
                &QpAttr::to(to),
                (Reason::BAD_STATE, attr::STATE.id()),
                &what,
            )?;
        }
    }
    let mut link = Link::new(&ctx, &Spec::default())?;
    let how = (Reason::OUT_OF_RANGE, attr::STATE.id());
    refuses(
        &mut link.qp,
        &QpAttr::to(QpState(7)),
        how,
        "a state that does not exist",
    )?;
    PASS
}

fn bad_values(fixture: &Fixture) -> Outcome {
    let mut link = new_qp(fixture)?;
    let qp = &mut link.qp;
    let here = qp.endpoint()?;
    let how = |id| (Reason::OUT_OF_RANGE, id);
    for port in [0, 2, 255, 256] {
        refuses(qp, &to_init().port(port), how(attr::PORT.id()), &format!("port {port}"))?;
    }
    refuses(qp, &to_init().pkey_index(1), how(attr::PKEY_INDEX.id()), "P_Key 1")?;
    let strange = Access::from_bits_retain(1 << 9);
    refuses(
        qp,
        &to_init().access(strange),
        how(attr::ACCESS.id()),
        "a right that does not exist",
    )?;
    qp.modify(&to_init())?;
    for mtu in [0, 1, 255, 1500, 4097, 8192] {
        refuses(
            qp,
            &to_rtr(&here).path_mtu(mtu),
            how(attr::PATH_MTU.id()),
            &format!("MTU {mtu}"),
        )?;
    }
    refuses(
        qp,
        &to_rtr(&here).dest_qpn(1 << 24),
        how(attr::DEST_QPN.id()),
        "a QPN of 25 bits",
    )?;
    refuses(
        qp,
        &to_rtr(&here).rq_psn(1 << 24),
        how(attr::RQ_PSN.id()),
        "a PSN of 25 bits",
    )?;
    refuses(
        qp,
        &to_rtr(&here).min_rnr_timer(32),
        how(attr::MIN_RNR_TIMER.id()),
        "RNR timer 32",
    )?;
    refuses(
        qp,
        &to_rtr(&here).max_dest_rd_atomic(255),
        how(attr::MAX_DEST_RD_ATOMIC.id()),
        "255 READs",
    )?;
    for index in [200, 256, 65_535] {
        let path = verbena::path_to(here.gid, index);
        refuses(
            qp,
            &to_rtr(&here).path(path),
            how(attr::PATH.id()),
            &format!("GID index {index}"),
        )?;
    }
    let path = attr::Path {
        flow_label: 1 << 20,
        ..verbena::path_to(here.gid, 0)
    };
    refuses(
        qp,
        &to_rtr(&here).path(path),
        how(attr::PATH.id()),
        "a flow label of 21 bits",
    )?;
    let path = attr::Path {
        dgid: [0; 16],
        ..verbena::path_to(here.gid, 0)
    };
    refuses(qp, &to_rtr(&here).path(path), how(attr::PATH.id()), "a path to nowhere")?;
    qp.modify(&to_rtr(&here))?;
    refuses(qp, &to_rts(qp).timeout(32), how(attr::TIMEOUT.id()), "timeout 32")?;
    refuses(qp, &to_rts(qp).retry_cnt(8), how(attr::RETRY_CNT.id()), "8 retries")?;
    refuses(qp, &to_rts(qp).rnr_retry(8), how(attr::RNR_RETRY.id()), "8 RNR retries")?;
    refuses(
        qp,
        &to_rts(qp).sq_psn(1 << 24),
        how(attr::SQ_PSN.id()),
        "a PSN of 25 bits",
    )?;
    qp.modify(&to_rts(qp))?;
    PASS
}

fn current_state(fixture: &Fixture) -> Outcome {
    let mut link = new_qp(fixture)?;
    go(&mut link.qp, QpState::RTS)?;
    let how = (Reason::BAD_STATE, attr::STATE.id());
    let wrong = QpAttr::to(QpState::RTS).current_state(QpState::SQD).min_rnr_timer(9);
    refuses(&mut link.qp, &wrong, how, "a change for SQD, in RTS")?;
    link.qp
        .modify(&QpAttr::to(QpState::RTS).current_state(QpState::RTS).min_rnr_timer(9))?;
    check_eq!(link.qp.query()?.min_rnr_timer, 9, "the RNR timer");
    PASS
}

fn posting(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for (state, sends, receives) in [
        (QpState::RESET, false, false),
        (QpState::INIT, false, true),
        (QpState::RTR, false, true),
        (QpState::RTS, true, true),
        (QpState::SQD, true, true),
        (QpState::ERR, true, true),
    ] {
        let mut link = Link::new(&ctx, &Spec::default())?;
        go(&mut link.qp, state)?;
        let expected = |yes: bool| if yes { Ok(()) } else { Err(PostError::WrongState) };
        check_eq!(
            link.qp.post_recv(&RecvWr::new(&[])),
            expected(receives),
            "a receive in {state}"
        );
        check_eq!(
            link.qp.post_send(&SendWr::send().inline(b"x")),
            expected(sends),
            "a send in {state}"
        );
    }
    PASS
}

fn early_receives(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let spec = Spec::default();
    let (mut a, mut b) = (Link::new(&ctx, &spec)?, Link::new(&ctx, &spec)?);
    let region = b.region(4096, Access::LOCAL_WRITE)?;
    b.qp.init()?;
    b.qp.post_recv(&RecvWr::new(&[region.sge(..8)]).wr_id(1))?;
    let (here, there) = (a.qp.endpoint()?, b.qp.endpoint()?);
    b.qp.modify(&to_rtr(&here))?;
    b.qp.post_recv(&RecvWr::new(&[region.sge(8..16)]).wr_id(2))?;
    a.qp.connect_with(
        &there,
        &ConnectOptions {
            mtu: Some(1024),
            ..ConnectOptions::default()
        },
    )?;
    // The receiver is in RTR only: that is enough to receive.
    for n in 1..=2u64 {
        a.qp.post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled())?;
        a.sent_well()?;
        check_eq!(b.received_well()?.wr_id, n, "the order of receives");
        check_eq!(region.buffer().load_u64((n as usize - 1) * 8), n, "what came");
    }
    let rts = to_rts(&b.qp);
    b.qp.modify(&rts)?;
    PASS
}

fn sqd(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let events = ctx.create_event_queue()?;
    events.associate_qp(&a.qp, 77)?;
    a.qp.modify(&QpAttr::to(QpState::SQD).sqd_notify(true))?;
    let event = events
        .next_event(Some(crate::link::SOON))?
        .context("no event that the queue has drained")?;
    check_eq!(
        (event.kind, event.cookie),
        (EventKind::SqDrained, 77),
        "the event and its cookie"
    );
    check_eq!(a.qp.query()?.state, QpState::SQD, "the state");
    for n in 0..3u8 {
        b.qp.post_recv(&RecvWr::new(&[]).wr_id(n.into()))?;
        a.qp.post_send(&SendWr::send().wr_id(n.into()).signaled())?;
    }
    quiet(&mut a.send_cq, "sends in SQD")?;
    // It still receives.
    a.qp.post_recv(&RecvWr::new(&[]))?;
    b.qp.post_send(&SendWr::send().signaled())?;
    b.sent_well()?;
    a.received_well()?;
    a.qp.modify(&QpAttr::to(QpState::RTS))?;
    for n in 0..3 {
        check_eq!(a.sent_well()?.wr_id, n, "the order of sends");
        check_eq!(b.received_well()?.wr_id, n, "the order of receives");
    }
    PASS
}

fn error_flushes(fixture: &Fixture) -> Outcome {
    const COUNT: u64 = 20;
    let ctx = fixture.open()?;
    // Nobody receives, and the receiver is waited for without end: the sends stay outstanding.
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    for n in 0..COUNT {
        a.qp.post_recv(&RecvWr::new(&[]).wr_id(100 + n))?;
        // Unsignalled ones are flushed like the others.
        let wr = SendWr::send().wr_id(n);
        a.qp.post_send(&if n % 2 == 0 { wr.signaled() } else { wr })?;
    }
    quiet(&mut a.send_cq, "sends that nobody receives")?;
    a.qp.set_error()?;
    for n in 0..COUNT {
        let (sent, received) = (a.sent()?, a.received()?);
        check_eq!((sent.wr_id, sent.status), (n, Status::WR_FLUSH_ERR), "send {n}");
        check_eq!(
            (received.wr_id, received.status),
            (100 + n, Status::WR_FLUSH_ERR),
            "receive {n}"
        );
        check_eq!(
            (sent.recv, received.recv),
            (false, true),
            "which of them is the receive"
        );
    }
    // What is posted later is flushed as well.
    a.qp.post_recv(&RecvWr::new(&[]).wr_id(300))?;
    a.qp.post_send(&SendWr::send().wr_id(200).signaled())?;
    check_eq!(
        (a.sent()?.wr_id, a.received()?.wr_id),
        (200, 300),
        "what was posted in the error state"
    );
    quiet(&mut a.send_cq, "everything has been flushed")?;
    check_eq!(b.qp.query()?.state, QpState::RTS, "the peer's state");
    PASS
}

fn reset_and_again(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let spec = Spec {
        send_depth: 8,
        recv_depth: 8,
        entries: 32,
        ..Spec::default()
    };
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &spec)?;
    for round in 0..5u64 {
        // So many that the rings stand elsewhere each time, and some completions are left behind.
        for n in 0..3 + round {
            b.qp.post_recv(&RecvWr::new(&[]).wr_id(n))?;
            a.qp.post_send(&SendWr::send().wr_id(n).signaled())?;
        }
        for _ in 0..2 {
            a.sent_well()?;
            b.received_well()?;
        }
        for link in [&mut a, &mut b] {
            let Link {
                qp, send_cq, recv_cq, ..
            } = link;
            qp.reset(&mut [send_cq, recv_cq])?;
            check_eq!(qp.query()?.state, QpState::RESET, "the state after RESET");
            check_eq!(
                (qp.send_outstanding(), qp.recv_outstanding()),
                (0, 0),
                "outstanding after RESET"
            );
        }
        quiet(&mut a.send_cq, "completions from before RESET")?;
        quiet(&mut b.recv_cq, "completions from before RESET")?;
        Link::join(&mut a, &mut b, &spec)?;
    }
    // As good as new: a full ring of messages, twice.
    for n in 0..16u8 {
        b.qp.post_recv(&RecvWr::new(&[]).wr_id(n.into()))?;
        a.qp.post_send(&SendWr::send_imm(n.into()).signaled())?;
        a.sent_well()?;
        let got = b.received_well()?;
        check_eq!((got.wr_id, got.imm), (n.into(), Some(n.into())), "message {n}");
    }
    PASS
}

fn reconnect(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let spec = Spec::default();
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(8192, Access::ALL_REMOTE)?;
    for round in 0..4 {
        let layout = Layout::whole(99, 5000);
        match side {
            Side::Left => {
                layout.put(&region, round);
                wire.barrier("prepared")?;
                link.qp
                    .post_send(&SendWr::send().sges(&layout.sges(&region)).signaled())?;
                link.sent_well()?;
                // Left behind when the queue pair is reset.
                link.qp.post_send(&SendWr::send().inline(b"lost"))?;
            }
            Side::Right => {
                layout.clear(&region);
                link.qp.post_recv(&RecvWr::new(&layout.sges(&region)))?;
                wire.barrier("prepared")?;
                link.received_well()?;
                layout
                    .verify(&region, 5000, round)
                    .with_context(|| format!("round {round}"))?;
            }
        }
        wire.barrier("done")?;
        let Link {
            qp, send_cq, recv_cq, ..
        } = &mut link;
        qp.reset(&mut [send_cq, recv_cq])?;
        wire.barrier("reset")?;
        link.connect_over(wire, &spec)?;
    }
    PASS
}

fn ways_out(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let states = [
        QpState::RESET,
        QpState::INIT,
        QpState::RTR,
        QpState::RTS,
        QpState::SQD,
        QpState::ERR,
    ];
    for state in states {
        let mut link = Link::new(&ctx, &Spec::default())?;
        go(&mut link.qp, state)?;
        let Link {
            qp, send_cq, recv_cq, ..
        } = &mut link;
        qp.reset(&mut [send_cq, recv_cq])
            .with_context(|| format!("{state} to RESET"))?;
        check_eq!(qp.query()?.state, QpState::RESET, "the state after {state} to RESET");
        go(qp, state)?;
        qp.set_error().with_context(|| format!("{state} to ERR"))?;
        check_eq!(qp.query()?.state, QpState::ERR, "the state after {state} to ERR");
    }
    PASS
}

fn mtus(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for mtu in [256, 512, 1024, 2048, 4096] {
        let connect = ConnectOptions {
            mtu: Some(mtu),
            ..ConnectOptions::default()
        };
        let (mut a, b) = Link::pair(
            &ctx,
            &ctx,
            &Spec {
                connect,
                ..Spec::default()
            },
        )?;
        let (from, to) = (
            a.region(20_000, Access::LOCAL_WRITE)?,
            b.region(20_000, Access::ALL_REMOTE)?,
        );
        let (source, sink) = (Layout::whole(1, 10_001), Layout::whole(4095, 10_001));
        let begun = Instant::now();
        source.put(&from, u64::from(mtu));
        sink.clear(&to);
        a.qp.post_send(&SendWr::write(to.remote(4095)).sges(&source.sges(&from)).signaled())?;
        a.sent_well().with_context(|| format!("MTU {mtu}"))?;
        sink.verify(&to, 10_001, u64::from(mtu))?;
        ensure!(begun.elapsed() < crate::link::SOON, "it took {:?}", begun.elapsed());
    }
    PASS
}
