// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two sides, each with its function, registers and commands: alike in kind, apart in everything else (H1, H2, H3).
//!
//! Where both sides are on one device, which they are to find out, they share what is the device's.

use super::kit::{check_eq, Outcome, PASS};
use crate::harness::{Case, Side, Wire};
use crate::link::good;
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;
use verbena::{
    ArmKind, CompletionQueue, Context, DeviceAttrs, Endpoint, EventQueue, Gid, PdMembers, RcQp, RecvWr, SendWr, UdQp,
    WindowType,
};

pub const CASES: &[Case] = &[
    Case::pair("h01_each_vector_interrupts_for_what_the_other_side_does", vectors),
    Case::pair("h02_each_side_has_an_identity_of_its_own_and_the_same_limits", identity),
    Case::pair("h03_commands_of_one_side_leave_the_other_sides_objects_alone", commands),
];

/// How long an interrupt may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether both sides are on one device.
fn together(ctx: &Context, wire: &mut Wire) -> Result<bool> {
    let own = ctx.device()?.node_guid;
    Ok(wire.exchange(&own)? == own)
}

/// A queue pair that is connected with the other side's, and whose completions come by this vector.
fn on_vector(ctx: &Context, wire: &mut Wire, vector: u32, events: &EventQueue) -> Result<(RcQp, CompletionQueue)> {
    let pd = ctx.alloc_pd()?;
    let cq = CompletionQueue::builder(ctx)
        .entries(16)
        .vector(vector)
        .events(events, vector.into())
        .build()?;
    let mut qp = RcQp::builder(&pd, &cq, &cq).build()?;
    let there: String = wire.exchange(&qp.endpoint()?.to_string())?;
    qp.connect(&there.parse::<Endpoint>()?)?;
    wire.barrier("connected")?;
    Ok((qp, cq))
}

fn vectors(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let own = ctx.device()?.comp_vectors;
    let both = own.min(wire.exchange(&own)?);
    ensure!(both > 0, "no completion vectors");
    let events = ctx.create_event_queue()?;
    for vector in 0..both {
        let (mut qp, mut cq) = on_vector(ctx, wire, vector, &events)?;
        for sender in [Side::Left, Side::Right] {
            if side == sender {
                wire.barrier("the other side waits")?;
                qp.post_send(&SendWr::send().signaled())?;
                let sent = cq.poll_timeout(PATIENCE)?.context("the send does not complete")?;
                good(sent)?;
            } else {
                qp.post_recv(&RecvWr::new(&[]).wr_id(vector.into()))?;
                cq.arm(ArmKind::Any);
                wire.barrier("the other side waits")?;
                // Nobody polls before the interrupt has come.
                let event = events.next_event(Some(PATIENCE))?;
                let event = event.with_context(|| format!("vector {vector} does not interrupt"))?;
                check_eq!(event.cookie, u64::from(vector), "the queue of the event");
                let got = cq.poll_timeout(PATIENCE)?.context("an event without a completion")?;
                check_eq!(good(got)?.wr_id, u64::from(vector), "the receive");
            }
            wire.barrier("told")?;
        }
    }
    PASS
}

fn identity(_: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let own = ctx.device()?;
    let kind = |device: &DeviceAttrs| {
        [
            u64::from(device.vendor_id),
            u64::from(device.vendor_part_id),
            u64::from(device.hw_version),
            device.fw_version,
            device.hca_core_clock,
            device.page_size_cap,
            u64::from(device.max_qp),
            u64::from(device.max_cq),
            u64::from(device.max_mr),
            u64::from(device.max_pd),
            u64::from(device.max_sge),
            u64::from(device.max_inline),
        ]
        .to_vec()
    };
    check_eq!(
        wire.exchange(&kind(&own))?,
        kind(&own),
        "what the other side's device is, and its limits"
    );
    let same = together(ctx, wire)?;
    let there = wire.exchange(&ctx.mac(1)?)?;
    check_eq!(
        there == ctx.mac(1)?,
        same,
        "whether both ports have one MAC address, {there:x?}"
    );
    let gid = ctx.gid(1, 0)?;
    let there = wire.exchange(&gid.0)?;
    check_eq!(there == gid.0, same, "whether both ports have one GID");
    wire.barrier("compared")?;
    PASS
}

fn commands(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const ROUNDS: u32 = 20;
    let same = together(ctx, wire)?;
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let mut group = Gid::default();
    (group.0[0], group.0[1], group.0[15]) = (0xff, 0x0e, 0x03);
    let mut member = UdQp::builder(&pd, &cq, &cq).build()?;
    member.attach(group)?;
    wire.barrier("made")?;
    let own = PdMembers {
        queue_pairs: 1,
        ..PdMembers::default()
    };
    for round in 0..ROUNDS {
        // One makes and destroys while the other asks, by turns, and now and then both.
        if (round % 2 == 0) == (side == Side::Left) || round % 5 == 0 {
            let windows = (0..4)
                .map(|_| pd.alloc_window(WindowType::Type1))
                .collect::<verbena::Result<Vec<_>>>()?;
            check_eq!(pd.members()?.windows, 4, "windows, round {round}");
            drop(windows);
        }
        check_eq!(pd.members()?, own, "what is in the domain, round {round}");
        let members = if same { 2 } else { 1 };
        check_eq!(
            member.members(group)?,
            members,
            "this device's members of the group, round {round}"
        );
        if round % 4 == 0 {
            wire.barrier("asked")?;
        }
    }
    wire.barrier("done")?;
    member.detach(group)?;
    member.destroy()?;
    check_eq!(pd.members()?, PdMembers::default(), "what is left in the domain");
    PASS
}
