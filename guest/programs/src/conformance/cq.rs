// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completions: which there are, in which order, and what happens when there are too many (H7, U19).

use super::kit::{check_eq, quiet, Outcome, PASS};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, next, Link, Spec, SOON};
use anyhow::{bail, ensure, Context as _};
use rdma_uapi::Errno;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use verbena::{Access, CompletionQueue, ConnectOptions, Context, EventKind, PostError, RcQp, RecvWr, SendWr};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("h07_entries_are_at_least_what_was_asked_for", entries),
    Case::single("h07_unsignalled_sends_complete_silently", unsignalled),
    Case::single("h07_unsignalled_sends_complete_when_they_fail", unsignalled_failure),
    Case::single("h07_every_send_completes_where_all_are_signalled", signal_all),
    Case::pair("h07_rings_wrap_many_times", wrap),
    Case::single("h07_a_full_send_queue_says_so", full_send_queue),
    Case::single("h07_a_full_receive_queue_says_so", full_recv_queue),
    Case::single("h07_one_queue_for_sends_and_receives_of_many_queue_pairs", shared),
    Case::pair("h07_receives_complete_in_order", receive_order),
    Case::single("h07_an_overflow_is_an_event_and_an_error", overflow),
    Case::single("h07_a_queue_may_be_exactly_full", exactly_full),
    Case::single("h07_timestamps_do_not_go_backwards", timestamps),
    Case::single("h07_completions_of_a_destroyed_queue_pair_are_not_delivered", destroyed),
    Case::single("u19_batches_are_seen_together_and_can_be_dropped", batches),
];

fn entries(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for asked in [1, 2, 3, 100, 256, 4097] {
        let cq = ctx.create_cq(asked)?;
        ensure!(cq.entries() >= asked, "{} entries instead of {asked}", cq.entries());
    }
    let mut cq = ctx.create_cq(1)?;
    check_eq!(cq.poll().is_none(), true, "whether a new queue is empty");
    PASS
}

fn unsignalled(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    for n in 0..40 {
        b.qp.post_recv(&RecvWr::new(&[]))?;
        let wr = SendWr::send().wr_id(n);
        a.qp.post_send(&if n % 10 == 9 { wr.signaled() } else { wr })?;
    }
    for n in [9, 19, 29, 39] {
        check_eq!(a.sent_well()?.wr_id, n, "the next completion");
    }
    quiet(&mut a.send_cq, "the other sends")?;
    check_eq!(
        a.qp.send_outstanding(),
        0,
        "outstanding sends after the last completion"
    );
    for _ in 0..40 {
        b.received_well()?;
    }
    PASS
}

fn unsignalled_failure(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let region = b.region(64, Access::LOCAL_WRITE)?;
    a.qp.post_send(&SendWr::write(region.remote(0)).wr_id(3).inline(b"no"))?;
    let done = a.sent()?;
    check_eq!((done.wr_id, done.status), (3, Status::REM_ACCESS_ERR), "the completion");
    PASS
}

fn signal_all(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(
        &ctx,
        &ctx,
        &Spec {
            signal_all: true,
            ..Spec::default()
        },
    )?;
    for n in 0..5 {
        b.qp.post_recv(&RecvWr::new(&[]))?;
        a.qp.post_send(&SendWr::send().wr_id(n))?;
        check_eq!(
            a.sent_well()?.wr_id,
            n,
            "the completion of a send that did not ask for one"
        );
        b.received_well()?;
    }
    PASS
}

fn wrap(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    // Rings of 8 and 16 entries, gone round many times, always with some entries outstanding.
    const COUNT: u64 = 1000;
    let spec = Spec {
        send_depth: 8,
        recv_depth: 16,
        entries: 16,
        ..Spec::default()
    };
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(16 * 8, Access::LOCAL_WRITE)?;
    match side {
        Side::Left => {
            wire.barrier("prepared")?;
            let (mut posted, mut done) = (0, 0);
            while done < COUNT {
                while posted < COUNT && posted < done + 7 {
                    link.qp
                        .post_send(&SendWr::send().wr_id(posted).inline(&posted.to_le_bytes()).signaled())?;
                    posted += 1;
                }
                check_eq!(link.sent_well()?.wr_id, done, "the next completion");
                done += 1;
            }
        }
        Side::Right => {
            let slot = |n: u64| (n % 16) as usize * 8;
            let mut posted = 0;
            let mut post = |link: &mut Link| -> anyhow::Result<()> {
                let place = [region.sge(slot(posted)..slot(posted) + 8)];
                link.qp.post_recv(&RecvWr::new(&place).wr_id(posted))?;
                posted += 1;
                Ok(())
            };
            for _ in 0..15 {
                post(&mut link)?;
            }
            wire.barrier("prepared")?;
            for n in 0..COUNT {
                check_eq!(link.received_well()?.wr_id, n, "the next receive");
                check_eq!(region.buffer().load_u64(slot(n)), n, "what it brought");
                post(&mut link)?;
            }
        }
    }
    wire.barrier("done")?;
    PASS
}

fn full_send_queue(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(
        &ctx,
        &ctx,
        &Spec {
            send_depth: 4,
            ..Spec::default()
        },
    )?;
    let depth = u64::from(a.qp.send_depth());
    // Nobody receives yet, so they stay.
    for n in 0..depth {
        a.qp.post_send(&SendWr::send().wr_id(n).signaled())?;
    }
    check_eq!(a.qp.post_send(&SendWr::send()), Err(PostError::QueueFull), "one more");
    check_eq!(u64::from(a.qp.send_outstanding()), depth, "outstanding sends");
    for _ in 0..=depth {
        b.qp.post_recv(&RecvWr::new(&[]))?;
    }
    check_eq!(a.sent_well()?.wr_id, 0, "the first completion");
    a.qp.post_send(&SendWr::send().wr_id(depth).signaled())
        .context("after a place has become free")?;
    for n in 1..=depth {
        check_eq!(a.sent_well()?.wr_id, n, "the next completion");
    }
    PASS
}

fn full_recv_queue(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(
        &ctx,
        &ctx,
        &Spec {
            recv_depth: 4,
            ..Spec::default()
        },
    )?;
    for n in 0..u64::from(b.qp.recv_depth()) {
        b.qp.post_recv(&RecvWr::new(&[]).wr_id(n))?;
    }
    check_eq!(b.qp.post_recv(&RecvWr::new(&[])), Err(PostError::QueueFull), "one more");
    a.qp.post_send(&SendWr::send().signaled())?;
    a.sent_well()?;
    check_eq!(b.received_well()?.wr_id, 0, "the first completion");
    b.qp.post_recv(&RecvWr::new(&[]))
        .context("after a place has become free")?;
    PASS
}

fn shared(fixture: &Fixture) -> Outcome {
    const PAIRS: usize = 4;
    const EACH: u64 = 10;
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let mut cq = ctx.create_cq(256)?;
    let mut qps = Vec::new();
    for _ in 0..2 * PAIRS {
        qps.push(RcQp::builder(&pd, &cq, &cq).build()?);
    }
    for pair in qps.chunks_exact_mut(2) {
        let (here, there) = (pair[0].endpoint()?, pair[1].endpoint()?);
        pair[0].connect(&there)?;
        pair[1].connect(&here)?;
    }
    for n in 0..EACH {
        for pair in qps.chunks_exact_mut(2) {
            pair[1].post_recv(&RecvWr::new(&[]).wr_id(n))?;
            pair[0].post_send(&SendWr::send().wr_id(n).signaled())?;
        }
    }
    let mut seen: BTreeMap<(u32, bool), u64> = BTreeMap::new();
    for _ in 0..2 * EACH * PAIRS as u64 {
        let done = good(next(&mut cq)?)?;
        let expected = seen.entry((done.qpn, done.recv)).or_default();
        check_eq!(
            done.wr_id,
            *expected,
            "the next completion of queue pair {:#x}",
            done.qpn
        );
        *expected += 1;
    }
    for pair in qps.chunks_exact(2) {
        check_eq!(
            seen.get(&(pair[0].qpn(), false)),
            Some(&EACH),
            "completions of a sender"
        );
        check_eq!(
            seen.get(&(pair[1].qpn(), true)),
            Some(&EACH),
            "completions of a receiver"
        );
    }
    check_eq!(seen.len(), 2 * PAIRS, "queue pairs that completed something");
    PASS
}

fn receive_order(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const COUNT: u32 = 60;
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let region = link.region(4096, Access::ALL_REMOTE)?;
    let there: crate::link::Window = wire.exchange(&crate::link::Window::of(&region, 0))?;
    match side {
        Side::Left => {
            wire.barrier("prepared")?;
            for n in 0..COUNT {
                // SENDs and WRITEs with immediate data consume receives in one order.
                let wr = if n % 3 == 0 {
                    SendWr::write_imm(there.at(0), n)
                } else {
                    SendWr::send_imm(n)
                };
                link.qp.post_send(&wr.signaled())?;
            }
            for _ in 0..COUNT {
                link.sent_well()?;
            }
        }
        Side::Right => {
            for n in 0..COUNT {
                link.qp.post_recv(&RecvWr::new(&[]).wr_id(u64::from(n)))?;
            }
            wire.barrier("prepared")?;
            for n in 0..COUNT {
                let done = link.received_well()?;
                check_eq!((done.wr_id, done.imm), (u64::from(n), Some(n)), "receive {n}");
            }
        }
    }
    wire.barrier("done")?;
    PASS
}

/// A queue pair that is connected with itself and completes its sends to `cq`.
fn onto(ctx: &Context, cq: &CompletionQueue, recv_cq: &CompletionQueue) -> verbena::Result<RcQp> {
    let pd = ctx.alloc_pd()?;
    let mut qp = RcQp::builder(&pd, cq, recv_cq).build()?;
    let here = qp.endpoint()?;
    // Impatient, so that whatever the overflow does to it is seen soon.
    let options = ConnectOptions {
        timeout: 10,
        retry_cnt: 1,
        rnr_retry: 0,
        ..ConnectOptions::default()
    };
    qp.connect_with(&here, &options)?;
    Ok(qp)
}

fn overflow(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let mut small = CompletionQueue::builder(&ctx)
        .entries(4)
        .events(&events, 0xc0)
        .build()?;
    let recv_cq = ctx.create_cq(16)?;
    let mut qp = onto(&ctx, &small, &recv_cq)?;
    let room = small.entries();
    for n in 0..=room {
        qp.post_send(&SendWr::write(Default::default()).wr_id(n.into()).signaled())?;
    }
    let event = events.next_event(Some(SOON))?.context("no event of the overflow")?;
    check_eq!(
        (event.kind, event.cookie),
        (EventKind::CqError, 0xc0),
        "the event and its cookie"
    );
    // What was written before is not lost.
    for n in 0..room {
        check_eq!(good(next(&mut small)?)?.wr_id, u64::from(n), "the next completion");
    }
    // The queue pair whose completion was lost is broken, and says so.
    let begun = Instant::now();
    while qp.query()?.state != verbena::QpState::ERR {
        ensure!(
            begun.elapsed() < SOON,
            "the queue pair lives on after a lost completion"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    // Others are unharmed.
    let mut cq = ctx.create_cq(16)?;
    let mut other = onto(&ctx, &cq, &recv_cq)?;
    other.post_send(&SendWr::write(Default::default()).signaled())?;
    good(next(&mut cq)?)?;
    PASS
}

fn exactly_full(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let mut small = CompletionQueue::builder(&ctx).entries(4).events(&events, 1).build()?;
    let recv_cq = ctx.create_cq(16)?;
    let mut qp = onto(&ctx, &small, &recv_cq)?;
    let room = u64::from(small.entries());
    for round in 0..3 {
        for n in 0..room {
            qp.post_send(&SendWr::write(Default::default()).wr_id(round * room + n).signaled())?;
        }
        // All of them arrive before the first is taken.
        std::thread::sleep(Duration::from_millis(50));
        for n in 0..room {
            check_eq!(good(next(&mut small)?)?.wr_id, round * room + n, "the next completion");
        }
    }
    check_eq!(events.try_next()?, None, "an event of a queue that was only full");
    PASS
}

fn timestamps(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    ensure!(
        ctx.device()?.hca_core_clock > 0,
        "the clock of timestamps has no frequency"
    );
    let mut last = 0;
    for _ in 0..20 {
        b.qp.post_recv(&RecvWr::new(&[]))?;
        a.qp.post_send(&SendWr::send().signaled())?;
        let (sent, received) = (a.sent_well()?.timestamp, b.received_well()?.timestamp);
        ensure!(
            received <= sent,
            "the send completed at {sent}, the receive after it at {received}"
        );
        ensure!(
            received >= last && received > 0,
            "a completion at {received} after one at {last}"
        );
        last = sent;
    }
    PASS
}

fn destroyed(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut cq = ctx.create_cq(64)?;
    let recv_cq = ctx.create_cq(64)?;
    let mut first = onto(&ctx, &cq, &recv_cq)?;
    let mut second = onto(&ctx, &cq, &recv_cq)?;
    for n in 0..5 {
        first.post_send(&SendWr::write(Default::default()).wr_id(n).signaled())?;
        second.post_send(&SendWr::write(Default::default()).wr_id(100 + n).signaled())?;
    }
    std::thread::sleep(Duration::from_millis(50));
    first.destroy()?;
    for n in 0..5 {
        check_eq!(good(next(&mut cq)?)?.wr_id, 100 + n, "the next completion");
    }
    quiet(&mut cq, "completions of a queue pair that is gone")?;
    PASS
}

fn batches(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(
        &ctx,
        &ctx,
        &Spec {
            send_depth: 8,
            ..Spec::default()
        },
    )?;
    for _ in 0..32 {
        b.qp.post_recv(&RecvWr::new(&[]))?;
    }
    for round in 0..4 {
        let mut batch = a.qp.send_batch();
        for n in 0..5 {
            batch.push(&SendWr::send_imm(1000 + n).signaled())?;
        }
        if round % 2 == 0 {
            drop(batch);
            quiet(&mut a.send_cq, "a batch that was dropped")?;
        } else {
            batch.ring()?;
            for n in 0..5 {
                a.sent_well()?;
                check_eq!(b.received_well()?.imm, Some(1000 + n), "the next message");
            }
        }
    }
    let mut batch = a.qp.send_batch();
    for _ in 0..8 {
        batch.push(&SendWr::send().signaled())?;
    }
    check_eq!(
        batch.push(&SendWr::send()),
        Err(PostError::QueueFull),
        "one more than the queue holds"
    );
    batch.ring()?;
    for _ in 0..8 {
        a.sent_well()?;
    }
    let error = verbena::Error::from(PostError::QueueFull);
    if error.errno() != Some(Errno::ENOMEM) {
        bail!("a full queue is {:?}", error.errno());
    }
    PASS
}
