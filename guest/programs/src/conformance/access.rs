// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access rules (U23): what each of them guards, tried by whoever runs this. An ordinary user is refused everything that has a
//! rule, with the attribute's name where the rule is an attribute's, and nothing that has none.

use super::kit::{check_eq, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture, Verdict};
use anyhow::{ensure, Result};
use rdma_uapi::class::{self, mad, qp};
use rdma_uapi::wire::{self, method};
use rdma_uapi::{Errno, Failure, Reason};
use verbena::{Context, Error, Flow, MadClient, MadOptions, QpAttr, QpState, RawQp, TraceOptions, Tracer, UdQp};

pub const CASES: &[Case] = &[
    Case::single("u23_every_rule_is_asked_and_nothing_else", rules),
    Case::single("u23_a_rule_is_asked_before_the_message_is_looked_at", order),
];

/// What has a rule: the attribute that the refusal names (0: none, it is the method's; [`DRIVERS`]: one of the driver's own), and an
/// attempt at it.
type Guarded = (&'static str, u16, fn(&Context) -> verbena::Result<()>);

const DRIVERS: u16 = wire::ATTR_DRIVER;

const GUARDED: &[Guarded] = &[
    ("a client of a management class", 0, |ctx| {
        MadClient::new(ctx, 0x1e, &MadOptions::default()).map(drop)
    }),
    ("an observer of calls", 0, |ctx| {
        Tracer::new(ctx, &TraceOptions::default()).map(drop)
    }),
    ("a raw Ethernet queue pair", 0, |ctx| {
        let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
        RawQp::builder(&pd, &cq, &cq).build().map(drop)
    }),
    ("a flow rule", 0, |ctx| ctx.drop_frames(&Flow::new()).map(drop)),
    ("switching a port", 0, |ctx| ctx.switch_port(1, true)),
    ("the device's dump", DRIVERS, |ctx| ctx.dump().map(drop)),
    ("the device's event queues", DRIVERS, |ctx| ctx.event_rings().map(drop)),
    ("a privileged Q_Key", qp::QKEY.id(), |ctx| {
        let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
        let ready = QpAttr::to(QpState::INIT).port(1).pkey_index(0).qkey(0x8000_0001);
        UdQp::builder(&pd, &cq, &cq).attributes(ready).build().map(drop)
    }),
];

/// How a rule refuses; `None`: it does not.
fn refusal(tried: verbena::Result<()>) -> Result<Option<Failure>> {
    match tried {
        Ok(()) => Ok(None),
        Err(Error::Call(call)) => Ok(Some(call.failure)),
        Err(other) => Err(other.into()),
    }
}

fn rules(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut refused = Vec::new();
    for &(what, attr, attempt) in GUARDED {
        let Some(failure) = refusal(attempt(&ctx))? else {
            continue;
        };
        check_eq!(
            (failure.errno, failure.reason),
            (Errno::EPERM, Reason::NOT_PERMITTED),
            "{what}"
        );
        let names = match attr {
            0 => failure.attr == wire::FIELD_METHOD,
            DRIVERS => failure.attr & wire::ATTR_DRIVER != 0,
            attr => failure.attr == attr,
        };
        ensure!(names, "{what}: the refusal names {:#x}", failure.attr);
        refused.push(what);
    }
    // The same without what the rules are about is everybody's.
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let ready = QpAttr::to(QpState::INIT).port(1).pkey_index(0).qkey(0x7fff_ffff);
    UdQp::builder(&pd, &cq, &cq).attributes(ready).build()?;
    ctx.device()?;
    match refused.len() {
        0 => PASS,
        all if all == GUARDED.len() => Ok(Verdict::Skip(format!("an ordinary user: {} refusals", refused.len()))),
        _ => anyhow::bail!("only some rules hold: {}", refused.join(", ")),
    }
}

fn order(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    // Its class is out of range: who may not is not told.
    let wrong = Message::new(class::MAD, 0, |m| {
        m.put(mad::MGMT_CLASS, &0x1_0000);
    });
    let failure = wrong.call(&ctx, method::CREATE).err();
    let how = failure.map(|failure| (failure.errno, failure.reason));
    ensure!(
        [
            Some((Errno::EPERM, Reason::NOT_PERMITTED)),
            Some((Errno::EINVAL, Reason::OUT_OF_RANGE))
        ]
        .contains(&how),
        "a management class that there is not: {how:?}"
    );
    let privileged = refusal(MadClient::new(&ctx, 0x1e, &MadOptions::default()).map(drop))?.is_none();
    check_eq!(
        how.map(|(errno, _)| errno),
        Some(if privileged { Errno::EINVAL } else { Errno::EPERM }),
        "what is told of a wrong message"
    );
    PASS
}
