// SPDX-License-Identifier: MIT OR Apache-2.0
//! Observing calls, and showing them (U25).

use super::kit::{check_eq, refused, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::trace::{Call, Names, Summary, Value};
use anyhow::{Context as _, Result};
use rdma_uapi::class;
use rdma_uapi::client::Reply;
use rdma_uapi::wire::method;
use rdma_uapi::Errno;
use std::time::{Duration, Instant};
use verbena::{Access, Batch, CompletionQueue, Context, OnFailure, QpAttr, QpState, RcQp, TraceOptions, Tracer};

pub const CASES: &[Case] = &[
    Case::single("u25_calls_are_decoded_with_names_results_and_times", decoded),
    Case::single("u25_a_chain_is_shown_with_its_commands", chain),
    Case::single("u25_of_one_process_or_with_its_children", family),
    Case::single("u25_lost_calls_are_counted", lost),
    Case::single("u25_a_removed_or_closed_observer_costs_nobody_anything", ended),
];

/// Observes this process, whose calls come from another context than the observer's.
fn observe(fixture: &Fixture) -> Result<(Context, Tracer, Names)> {
    let ctx = fixture.open()?;
    let names = Names::new(&ctx.interface()?.records);
    let options = TraceOptions {
        process: Some(std::process::id()),
        snap: Some(4096),
        ..TraceOptions::default()
    };
    let tracer = Tracer::new(&ctx, &options)?;
    Ok((ctx, tracer, names))
}

fn calls(tracer: &mut Tracer, names: &Names) -> Result<Vec<Call>> {
    let (records, lost) = tracer.read()?;
    check_eq!(lost, 0, "calls lost");
    Ok(records.iter().map(|record| Call::decode(names, record)).collect())
}

fn decoded(fixture: &Fixture) -> Outcome {
    let (_observer, mut tracer, names) = observe(fixture)?;
    let ctx = fixture.open()?;
    let begun = Instant::now();
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    let mut qp = RcQp::builder(&pd, &cq, &cq).build()?;
    refused(qp.modify(&QpAttr::to(QpState::RTS)), Errno::EINVAL, "RESET to RTS")?;
    let took = begun.elapsed();
    tracer.wait(Duration::from_secs(10))?;
    let calls = calls(&mut tracer, &names)?;
    let find = |class: &str, method: &str| {
        let found = calls.iter().find(|call| call.class == class && call.method == method);
        found.with_context(|| format!("no {class} {method} among {calls:?}"))
    };
    let made = find("qp_rc", "create")?;
    check_eq!(made.process, std::process::id(), "the process");
    check_eq!(made.errno, 0, "the result");
    let value = |call: &Call, name: &str| {
        let given = call.attributes.iter().find(|given| given.name == name);
        given.map(|given| given.value.clone())
    };
    check_eq!(
        value(made, "qpn"),
        Some(Value::Number(qp.qpn().into())),
        "the number that was answered"
    );
    let Some(Value::Structure(rings)) = value(made, "verbena_qp_rings") else {
        anyhow::bail!("the driver's own attribute is not decoded: {made}");
    };
    check_eq!(rings[0].0, "mmap_offset", "the first field of its structure");
    find("verbena_doorbell", "create")?;
    let refused = find("qp_rc", "modify")?;
    check_eq!(refused.errno, Errno::EINVAL.0, "the errno of what failed");
    let shown = refused.to_string();
    anyhow::ensure!(shown.contains("state=3") && shown.contains("(EINVAL)"), "{shown}");
    let all: u64 = calls.iter().map(|call| call.duration_ns).sum();
    anyhow::ensure!(
        all > 0 && u128::from(all) <= took.as_nanos(),
        "calls of {all} ns in {took:?}"
    );
    let mut summary = Summary::default();
    calls.iter().for_each(|call| summary.add(call));
    let lines = summary.lines();
    let line = lines
        .iter()
        .find(|line| line.name == "qp_rc modify")
        .context("no line for it")?;
    check_eq!((line.calls, line.errors), (1, 1), "calls and errors in the table");
    PASS
}

fn chain(fixture: &Fixture) -> Outcome {
    let (_observer, mut tracer, names) = observe(fixture)?;
    let ctx = fixture.open()?;
    let mut batch = Batch::new(&ctx);
    let pd = batch.alloc_pd();
    let buffer = ctx.alloc_buffer(4096)?;
    batch.register(pd, &buffer, Access::LOCAL_WRITE);
    batch.create_cq(CompletionQueue::builder(&ctx).entries(16));
    let done = batch.run(OnFailure::Stop)?;
    let calls = calls(&mut tracer, &names)?;
    let seen: Vec<_> = calls
        .iter()
        .map(|call| (call.in_chain, call.class.as_str(), call.method.as_str()))
        .collect();
    let expected = [
        (true, "pd", "create"),
        (true, "mr", "create"),
        (true, "cq", "create"),
        (false, "interface", "execute"),
    ];
    check_eq!(seen, expected, "the calls seen");
    anyhow::ensure!(calls[1].to_string().contains("pd=#command 0"), "{}", calls[1]);
    drop(done);
    PASS
}

/// Calls of this process, seen and not seen by observers of it, of its parent, and of somebody else's.
fn family(fixture: &Fixture) -> Outcome {
    let observer = fixture.open()?;
    let observe = |process, children| {
        let options = TraceOptions {
            process: Some(process),
            children,
            ..TraceOptions::default()
        };
        Tracer::new(&observer, &options)
    };
    let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
    // A child of this process: it descends from it, not the other way round.
    let mut child = std::process::Command::new("sleep").arg("1000").spawn()?;
    let expected = [
        ("this process", own, false, 1),
        ("this process and its children", own, true, 1),
        ("its parent", parent, false, 0),
        ("its parent and that one's children", parent, true, 1),
        ("its child", child.id(), false, 0),
        ("its child and that one's children", child.id(), true, 0),
    ];
    let seen = (|| {
        let mut tracers = Vec::new();
        for (_, process, children, _) in expected {
            tracers.push(observe(process, children)?);
        }
        let ctx = fixture.open()?;
        Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?;
        let made = |record: &verbena::Traced| {
            Reply::new(&record.message).header().class == class::PD && record.head.method == u32::from(method::CREATE)
        };
        let mut seen = Vec::new();
        for mut tracer in tracers {
            let (records, _) = tracer.read()?;
            seen.push(records.iter().filter(|record| made(record)).count());
        }
        anyhow::Ok(seen)
    })();
    child.kill()?;
    child.wait()?;
    for ((whose, _, _, expected), seen) in expected.iter().zip(seen?) {
        check_eq!(seen, *expected, "calls seen by an observer of {whose}");
    }
    PASS
}

fn lost(fixture: &Fixture) -> Outcome {
    const CALLS: u64 = 4000;
    let (_observer, mut tracer, _) = observe(fixture)?;
    let ctx = fixture.open()?;
    for _ in 0..CALLS {
        ctx.check()?;
    }
    let (records, lost) = tracer.read()?;
    check_eq!(records.len() as u64 + lost, CALLS, "calls seen, and calls lost");
    anyhow::ensure!(lost > 0, "{CALLS} calls fit: the ring is larger than it was asked for");
    PASS
}

fn ended(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for _ in 0..3 {
        let (observer, tracer, _) = observe(fixture)?;
        ctx.check()?;
        drop(tracer);
        drop(observer);
        Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?;
    }
    PASS
}
