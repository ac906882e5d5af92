// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue pair does in each of its states, and when it begins again (H4).

use super::kit::{check_eq, quiet, Layout, Outcome, PASS};
use super::qp_state::{go, to_rtr, to_rts};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{Link, Spec};
use anyhow::{ensure, Context as _};
use std::time::Instant;
use verbena::{Access, ConnectOptions, Context, EventKind, PostError, QpAttr, QpState, RecvWr, SendWr};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("h04_posting_needs_the_right_state", posting),
    Case::single("h04_receives_posted_before_rts_are_used", early_receives),
    Case::single("h04_sqd_holds_sends_back_and_tells_when_drained", sqd),
    Case::single("h04_error_flushes_in_order", error_flushes),
    Case::single("h04_reset_forgets_and_the_queue_pair_serves_again", reset_and_again),
    Case::pair("h04_both_sides_reset_and_connect_again", reconnect),
    Case::single("h04_mtus_on_both_sides", mtus),
];

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
