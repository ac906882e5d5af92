// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is closed is gone: with its context, whatever was under way (U13, H14, H15).

use super::kit::{check_eq, dump, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{Link, Region, Spec, Window};
use anyhow::{ensure, Context as _};
use rdma_uapi::class::{self, cq, mr};
use rdma_uapi::wire::{method, ObjectId};
use verbena::{Access, ConnectOptions, Context, Key, QpState, SendWr};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("u13_a_closed_context_leaves_nothing", closed_context),
    Case::single("u13_handles_are_destroyed_when_they_are_dropped", dropped_handles),
    Case::single("u13_the_order_of_dropping_does_not_matter", any_order),
    Case::single("u13_contexts_come_and_go", come_and_go),
    Case::pair("h10_a_peer_whose_context_closes_in_mid_traffic", closes_in_traffic),
    Case::single("h15_nothing_of_the_cases_is_left", nothing_left),
];

fn closed_context(fixture: &Fixture) -> Outcome {
    let observer = fixture.open()?;
    let ctx = fixture.open()?;
    let memory = ctx.alloc_buffer(8192)?;
    // Objects that nobody destroys, in an order in which they could not be destroyed from the first to the last.
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?.object();
    let mut keys = Vec::new();
    let mut queues = Vec::new();
    for _ in 0..5 {
        let region = Message::new(class::MR, 0, |m| {
            m.put(mr::PD, &ObjectId(pd))
                .put(mr::ADDR, &memory.addr())
                .put(mr::LENGTH, &8192)
                .put(mr::ACCESS, &1);
            m.ask(mr::LKEY);
        });
        keys.push(Key(region
            .call(&ctx, method::CREATE)?
            .reply()
            .get(mr::LKEY)
            .context("a region without a key")?));
        let queue = Message::new(class::CQ, 0, |m| {
            m.put(cq::CQE, &8).ask(cq::CQN);
        });
        queues.push(
            queue
                .call(&ctx, method::CREATE)?
                .reply()
                .get(cq::CQN)
                .context("a queue without a number")?,
        );
    }
    let there = dump(&observer)?;
    ensure!(
        keys.iter().all(|&key| there.has_mr(key)),
        "the regions are not in the dump"
    );
    ensure!(
        queues.iter().all(|&cqn| there.has_cq(cqn)),
        "the completion queues are not in the dump"
    );
    drop((ctx, memory));
    let gone = dump(&observer)?;
    ensure!(
        !keys.iter().any(|&key| gone.has_mr(key)),
        "regions of a closed context are in the dump"
    );
    ensure!(
        !queues.iter().any(|&cqn| gone.has_cq(cqn)),
        "completion queues of a closed context are in the dump"
    );
    PASS
}

fn dropped_handles(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let region = a.region(4096, Access::ALL_REMOTE)?;
    let (qpns, cqn, lkey) = ([a.qp.qpn(), b.qp.qpn()], a.send_cq.cqn(), region.lkey());
    drop((a, b));
    let after = dump(&ctx)?;
    ensure!(
        !qpns.iter().any(|&qpn| after.has_qp(qpn)),
        "a dropped queue pair is in the dump"
    );
    ensure!(!after.has_cq(cqn), "a dropped completion queue is in the dump");
    // The region keeps itself, and the domain under it.
    ensure!(after.has_mr(lkey), "the region is not in the dump any more");
    drop(region);
    ensure!(!dump(&ctx)?.has_mr(lkey), "a dropped region is in the dump");
    PASS
}

fn any_order(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for order in 0..4 {
        let link = Link::new(&ctx, &Spec::default())?;
        let region = link.region(4096, Access::LOCAL_WRITE)?;
        let Link {
            qp,
            send_cq,
            recv_cq,
            pd,
            ..
        } = link;
        let numbers = (qp.qpn(), send_cq.cqn(), region.lkey());
        match order {
            0 => drop((pd, send_cq, recv_cq, qp, region)),
            1 => drop((recv_cq, pd, region, qp, send_cq)),
            2 => drop((region, qp, pd, recv_cq, send_cq)),
            _ => drop((qp, recv_cq, send_cq, region, pd)),
        }
        let after = dump(&ctx)?;
        ensure!(!after.has_qp(numbers.0), "order {order}: the queue pair is left");
        ensure!(!after.has_cq(numbers.1), "order {order}: the completion queue is left");
        ensure!(!after.has_mr(numbers.2), "order {order}: the region is left");
    }
    PASS
}

fn come_and_go(fixture: &Fixture) -> Outcome {
    let observer = fixture.open()?;
    for round in 0..20 {
        let ctx = fixture.open()?;
        let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
        let region = b.region(4096, Access::ALL_REMOTE)?;
        a.qp.post_send(&SendWr::write(region.remote(0)).inline(b"hello").signaled())?;
        a.sent_well().with_context(|| format!("round {round}"))?;
        let qpn = a.qp.qpn();
        // The context's own handle goes first: it stays open as long as something is made on it.
        drop(ctx);
        drop((a, b, region));
        ensure!(!dump(&observer)?.has_qp(qpn), "round {round}: its queue pair is left");
    }
    PASS
}

fn closes_in_traffic(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let connect = ConnectOptions {
        timeout: 10,
        retry_cnt: 2,
        ..ConnectOptions::default()
    };
    let spec = Spec {
        connect,
        ..Spec::default()
    };
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(1 << 20, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    match side {
        Side::Left => {
            wire.send(&"going")?;
            let mut ended = None;
            // Until the peer is gone, and not for ever.
            for n in 0..200_000u64 {
                link.qp.post_send(
                    &SendWr::write(there.at(0))
                        .wr_id(n)
                        .sges(&[region.sge(..4096)])
                        .signaled(),
                )?;
                let done = link.sent()?;
                if !done.is_success() {
                    ended = Some(done.status);
                    break;
                }
                if n == 1000 {
                    wire.send(&"in full swing")?;
                }
            }
            // The memory goes before the queue pair or after it, so the key may be the first that is missed.
            let status = ended.context("the peer never went away")?;
            ensure!(
                matches!(status, Status::RETRY_EXC_ERR | Status::REM_ACCESS_ERR),
                "it ended with {status}"
            );
            check_eq!(link.qp.query()?.state, QpState::ERR, "the state");
        }
        Side::Right => {
            let _: String = wire.recv()?;
            let _: String = wire.recv()?;
            drop((region, link));
        }
    }
    wire.barrier("done")?;
    PASS
}

fn nothing_left(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let before = dump(&ctx)?.counts();
    for _ in 0..3 {
        let other = fixture.open()?;
        let (a, b) = Link::pair(&other, &other, &Spec::default())?;
        let regions = [
            Region::new(&a.pd, 4096, Access::empty())?,
            Region::new(&b.pd, 4096, Access::empty())?,
        ];
        let now = dump(&ctx)?.counts();
        ensure!(
            (0..3).all(|i| now[i] >= before[i] + 2),
            "{now:?} objects after {before:?} and two of each"
        );
        drop((a, b, regions));
    }
    check_eq!(dump(&ctx)?.counts(), before, "queue pairs, completion queues, regions");
    PASS
}
