// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state machine of a reliable connected queue pair: transitions and their attributes (H4).

use super::kit::{check_eq, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Spec};
use anyhow::{bail, Context as _, Result};
use rdma_uapi::class::qp as attr;
use rdma_uapi::{Errno, Reason};
use verbena::{Access, Endpoint, QpAttr, QpState, RcQp};

pub const CASES: &[Case] = &[
    Case::single("h04_from_reset_to_rts_step_by_step", step_by_step),
    Case::single("u15_one_modify_goes_from_a_known_state_to_rts", all_the_way),
    Case::single("h04_a_transition_lacks_a_required_attribute", missing_attributes),
    Case::single("h04_a_transition_forbids_an_attribute", forbidden_attributes),
    Case::single("h04_transitions_that_do_not_exist", no_such_transition),
    Case::single("h04_values_out_of_range", bad_values),
    Case::single("h04_the_state_that_the_caller_believes_in", current_state),
    Case::single("h04_every_state_can_be_left_for_reset_and_error", ways_out),
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
pub(super) fn to_rtr(peer: &Endpoint) -> QpAttr {
    QpAttr::to(QpState::RTR)
        .path(verbena::path_to(peer.gid, 0))
        .path_mtu(1024)
        .dest_qpn(peer.qpn.get())
        .rq_psn(peer.psn.get())
        .max_dest_rd_atomic(4)
        .min_rnr_timer(12)
}

/// The attributes that lead on to RTS.
pub(super) fn to_rts(qp: &RcQp) -> QpAttr {
    QpAttr::to(QpState::RTS)
        .timeout(14)
        .retry_cnt(7)
        .rnr_retry(7)
        .sq_psn(qp.psn())
        .max_rd_atomic(4)
}

/// From RESET and from INIT in one call, or not at all.
fn all_the_way(fixture: &Fixture) -> Outcome {
    let mut link = new_qp(fixture)?;
    let here = link.qp.endpoint()?;
    let last = |qp: &RcQp, from| {
        to_rts(qp)
            .current_state(from)
            .path(verbena::path_to(here.gid, 0))
            .path_mtu(1024)
            .dest_qpn(here.qpn.get())
            .rq_psn(here.psn.get())
            .max_dest_rd_atomic(4)
            .min_rnr_timer(12)
    };
    let all = |qp: &RcQp, from| last(qp, from).port(1).pkey_index(0).access(Access::ALL_REMOTE);
    for (attributes, what) in [
        (last(&link.qp, QpState::RESET), "without what INIT needs"),
        (all(&link.qp, QpState::INIT), "from another state"),
        (all(&link.qp, QpState::RESET).path_mtu(100), "with a bad value"),
    ] {
        refused(link.qp.modify(&attributes), Errno::EINVAL, what)?;
        check_eq!(link.qp.query()?.state, QpState::RESET, "the state, {what}");
    }
    let attributes = all(&link.qp, QpState::RESET);
    link.qp.modify(&attributes)?;
    check_eq!(link.qp.query()?.state, QpState::RTS, "the state after one call");
    let mut link = new_qp(fixture)?;
    link.qp.init()?;
    let attributes = last(&link.qp, QpState::INIT);
    link.qp.modify(&attributes)?;
    let info = link.qp.query()?;
    check_eq!(
        (info.state, info.dest_qpn, info.timeout),
        (QpState::RTS, here.qpn.get(), 14),
        "state, peer and timeout from INIT"
    );
    PASS
}

/// Takes it to `state`, connected with itself.
pub(super) fn go(qp: &mut RcQp, state: QpState) -> Result<()> {
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
