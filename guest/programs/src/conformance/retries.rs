// SPDX-License-Identifier: MIT OR Apache-2.0
//! Peers that are not ready, gone, or were never there; and what becomes of the work behind a failure (H10).

use super::errors::{failed, impatient, until_error};
use super::kit::{check_eq, quiet, Outcome, PASS};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{Link, Spec, Window};
use anyhow::ensure;
use std::time::{Duration, Instant};
use verbena::{Access, Context, QpState, RecvWr, Remote, SendWr};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::pair("h10_rnr_retry_exceeded", rnr_retry_exceeded),
    Case::pair("h10_rnr_is_waited_for", rnr_waits),
    Case::pair(
        "h10_transport_retry_exceeded_by_a_peer_that_was_destroyed",
        peer_destroyed,
    ),
    Case::single("h10_transport_retry_exceeded_by_a_peer_that_never_was", peer_never_was),
    Case::pair("h10_transport_retry_exceeded_by_a_peer_in_error", peer_in_error),
    Case::pair("h10_work_behind_a_failure_is_flushed_in_order", flush_order),
    Case::pair("h10_after_an_error_the_queue_pair_can_be_used_again", use_again),
];

fn rnr_retry_exceeded(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    match side {
        Side::Left => {
            link.qp.post_send(&SendWr::send().wr_id(1).inline(b"nobody is ready"))?;
            link.qp.post_send(&SendWr::send().wr_id(2))?;
            failed(link.sent()?, 1, Status::RNR_RETRY_EXC_ERR)?;
            failed(link.sent()?, 2, Status::WR_FLUSH_ERR)?;
            until_error(&link.qp)?;
            wire.barrier("failed")?;
        }
        Side::Right => {
            wire.barrier("failed")?;
            check_eq!(
                link.qp.query()?.state,
                QpState::RTS,
                "the state of the side that was not ready"
            );
            quiet(&mut link.recv_cq, "a queue pair without receives")?;
        }
    }
    PASS
}

fn rnr_waits(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut spec = Spec::default();
    // For ever; asked again every 10 ms.
    (spec.connect.rnr_retry, spec.connect.min_rnr_timer) = (7, 20);
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(4096, Access::LOCAL_WRITE)?;
    match side {
        Side::Left => {
            link.qp
                .post_send(&SendWr::send().wr_id(1).inline(b"patience").signaled())?;
            quiet(&mut link.send_cq, "a send that nobody receives")?;
            wire.barrier("waiting")?;
            link.sent_well()?;
        }
        Side::Right => {
            wire.barrier("waiting")?;
            link.qp.post_recv(&RecvWr::new(&[region.sge(..8)]))?;
            link.received_well()?;
            check_eq!(region.buffer().to_vec(0, 8), b"patience".to_vec(), "what came");
        }
    }
    wire.barrier("done")?;
    PASS
}

fn peer_destroyed(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    match side {
        Side::Left => {
            wire.barrier("destroyed")?;
            let begun = Instant::now();
            link.qp.post_send(&SendWr::send().wr_id(1).signaled())?;
            link.qp.post_send(&SendWr::send().wr_id(2))?;
            failed(link.sent()?, 1, Status::RETRY_EXC_ERR)?;
            // Three times 4.2 ms; far below the default patience of half a second.
            ensure!(
                begun.elapsed() >= Duration::from_millis(8),
                "it gave up after {:?}",
                begun.elapsed()
            );
            failed(link.sent()?, 2, Status::WR_FLUSH_ERR)?;
            until_error(&link.qp)?;
        }
        Side::Right => {
            link.qp.destroy()?;
            wire.barrier("destroyed")?;
        }
    }
    wire.barrier("done")?;
    PASS
}

fn peer_never_was(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for op in [
        SendWr::send(),
        SendWr::write(Default::default()),
        SendWr::read(Default::default()),
    ] {
        let mut link = Link::new(&ctx, &Spec::default())?;
        let mut nobody = link.qp.endpoint()?;
        nobody.qpn = verbena_hw::id::Qpn::truncate(nobody.qpn.get() ^ 0x40_0000);
        link.qp.connect_with(&nobody, &impatient().connect)?;
        link.qp.post_send(&op.wr_id(1).signaled())?;
        failed(link.sent()?, 1, Status::RETRY_EXC_ERR)?;
        until_error(&link.qp)?;
    }
    // A GID that nobody has.
    let mut link = Link::new(&ctx, &Spec::default())?;
    let mut nobody = link.qp.endpoint()?;
    nobody.gid.0[15] ^= 0xff;
    nobody.gid.0[10] ^= 0x5a;
    link.qp.connect_with(&nobody, &impatient().connect)?;
    link.qp.post_send(&SendWr::send().wr_id(2).signaled())?;
    failed(link.sent()?, 2, Status::RETRY_EXC_ERR)?;
    PASS
}

fn peer_in_error(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    match side {
        Side::Left => {
            wire.barrier("in error")?;
            link.qp.post_send(&SendWr::send().wr_id(1).signaled())?;
            failed(link.sent()?, 1, Status::RETRY_EXC_ERR)?;
            wire.barrier("failed")?;
        }
        Side::Right => {
            link.qp.post_recv(&RecvWr::new(&[]).wr_id(3))?;
            link.qp.set_error()?;
            wire.barrier("in error")?;
            wire.barrier("failed")?;
            failed(link.received()?, 3, Status::WR_FLUSH_ERR)?;
        }
    }
    PASS
}

fn flush_order(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const GOOD: u64 = 5;
    const BEHIND: u64 = 15;
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let region = link.region(4096, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    match side {
        Side::Left => {
            for n in 0..10 {
                link.qp.post_recv(&RecvWr::new(&[]).wr_id(100 + n))?;
            }
            let mut batch = link.qp.send_batch();
            for n in 0..GOOD {
                batch.push(&SendWr::write(there.at(0)).wr_id(n).sges(&[region.sge(..64)]).signaled())?;
            }
            let bad = Remote { rkey: 0, ..there.at(0) };
            batch.push(&SendWr::write(bad).wr_id(GOOD).sges(&[region.sge(..64)]))?;
            for n in 0..BEHIND {
                batch.push(&SendWr::write(there.at(0)).wr_id(GOOD + 1 + n).sges(&[region.sge(..64)]))?;
            }
            batch.ring()?;
            for n in 0..GOOD {
                check_eq!(link.sent_well()?.wr_id, n, "the good ones before");
            }
            failed(link.sent()?, GOOD, Status::REM_ACCESS_ERR)?;
            for n in 0..BEHIND {
                failed(link.sent()?, GOOD + 1 + n, Status::WR_FLUSH_ERR)?;
            }
            for n in 0..10 {
                failed(link.received()?, 100 + n, Status::WR_FLUSH_ERR)?;
            }
            quiet(&mut link.send_cq, "everything has been flushed")?;
        }
        Side::Right => {}
    }
    wire.barrier("done")?;
    PASS
}

fn use_again(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let spec = impatient();
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(4096, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    for round in 0..3u64 {
        if side == Side::Left {
            let bad = Remote {
                rkey: !there.at(0).rkey,
                ..there.at(0)
            };
            link.qp.post_send(&SendWr::write(bad).wr_id(round).inline(b"bad"))?;
            failed(link.sent()?, round, Status::REM_ACCESS_ERR)?;
        }
        wire.barrier("failed")?;
        let Link {
            qp, send_cq, recv_cq, ..
        } = &mut link;
        qp.reset(&mut [send_cq, recv_cq])?;
        wire.barrier("reset")?;
        link.connect_over(wire, &spec)?;
        if side == Side::Left {
            region.buffer().write_at(8, &round.to_le_bytes());
            link.qp
                .post_send(&SendWr::write(there.at(0)).sges(&[region.sge(8..16)]).signaled())?;
            link.sent_well()?;
        }
        wire.barrier("written")?;
        if side == Side::Right {
            check_eq!(region.buffer().load_u64(0), round, "what was written after the error");
        }
        wire.barrier("looked at")?;
    }
    PASS
}
