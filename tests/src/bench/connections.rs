// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thousand reliable connections from nothing to RTS (P7, P13, U16), by `verbena-connections`: natively, and in a guest
//! beside libibverbs over rdma_rxe.
//!
//! System calls are counted in runs of their own, under strace, between the marks that the program writes.

use super::native::{device, PROGRAM_CPU};
use super::{median, Row, REPETITIONS};
use crate::guest::{count_between, wait_for_node};
use crate::stage::Stage;
use anyhow::{bail, ensure, Context, Result};
use std::process::{Command, Stdio};
use std::time::Duration;
use verbena_guest::connections::{BEGIN, END};
use verbena_launcher::guest::Program;
use verbena_launcher::Guest;

/// Queue pairs.
const QPS: usize = 1000;
/// Seconds a connection may take natively (P7).
const NATIVE: f64 = 20.0;
/// Of the peer's time (P13), and of its system calls.
const TIME: f64 = 0.2;
const CALLS: f64 = 0.1;
/// The peer's device, on a network interface of its own.
pub(super) const PEER: &str = "rxe0";
pub(super) const PEER_ADDRESS: &str = "192.168.99.1";
pub(super) const PEER_SETUP: &str = "modprobe dummy && modprobe rdma_rxe && ip link add bench0 type dummy \
    && ip address add 192.168.99.1/24 dev bench0 && ip link set bench0 up && rdma link add rxe0 type rxe netdev bench0";
/// A run in an emulated guest takes seconds, under strace some more.
const PATIENCE: Duration = Duration::from_secs(300);

/// The benchmark's rows.
pub(super) fn rows(stage: &Stage) -> Result<Vec<Row>> {
    let mut rows = native(stage)?;
    rows.extend(in_guest(stage)?);
    Ok(rows)
}

/// The seconds of a run, one a line.
fn seconds(text: &str) -> Result<Vec<f64>> {
    let seconds: Result<Vec<f64>, _> = text.lines().map(str::parse).collect();
    let seconds = seconds.with_context(|| format!("no seconds: {text:?}"))?;
    ensure!(seconds.len() == REPETITIONS, "{} runs: {text}", seconds.len());
    Ok(seconds)
}

fn native(stage: &Stage) -> Result<Vec<Row>> {
    let hca = device(stage)?;
    let task = stage.progress().begin("a thousand connections, natively", None);
    let mut command = Command::new(stage.program("verbena-connections")?);
    command
        .arg("--attach")
        .arg(format!("direct:{}", hca.socket(0).display()))
        .args(["--qps", &QPS.to_string(), "--repeat", &REPETITIONS.to_string()])
        .args(["--pin", PROGRAM_CPU])
        .stdin(Stdio::null());
    let output = command.output().context("cannot run verbena-connections")?;
    task.done();
    if !output.status.success() {
        bail!("verbena-connections: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut each: Vec<f64> = seconds(&String::from_utf8(output.stdout)?)?;
    each.iter_mut().for_each(|run| *run *= 1e6 / QPS as f64);
    let (middle, spread) = median(&mut each);
    Ok(vec![
        Row::at_most("P7", "1,000 RC connections, natively, each", middle, "us", NATIVE),
        Row::plain("P7", "between the quartiles of those runs", spread, "us"),
    ])
}

fn in_guest(stage: &Stage) -> Result<Vec<Row>> {
    let logs = stage.checkout().logs("bench")?;
    let hca = stage.hca(1, &logs)?;
    let guest = stage.boot("bench", &hca, 0, &logs)?;
    wait_for_node(&guest)?;
    guest.check(&Program::shell(PEER_SETUP)).context("set up rdma_rxe")?;
    let task = stage.progress().begin("a thousand connections, in a guest", None);
    // In turns, so that whatever else the machine does meets both.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        ours.push(run(&guest, &[])?);
        theirs.push(run(&guest, &["--libibverbs", PEER])?);
    }
    let (our_calls, their_calls) = (calls(&guest, "")?, calls(&guest, &format!("--libibverbs {PEER}"))?);
    task.done();
    let ((our_time, our_spread), (their_time, their_spread)) = (median(&mut ours), median(&mut theirs));
    Ok(vec![
        Row::against(
            "P13",
            "1,000 RC connections in a guest, to libibverbs over rxe",
            our_time,
            "ms",
            their_time,
            TIME,
        ),
        Row {
            reference: Some(their_spread),
            ..Row::plain("P13", "between the quartiles of those runs", our_spread, "ms")
        },
        Row::against(
            "U16",
            "their system calls, to libibverbs over rxe",
            our_calls as f64,
            "calls",
            their_calls as f64,
            CALLS,
        ),
    ])
}

/// Milliseconds of one run in a process of its own.
fn run(guest: &Guest, arguments: &[&str]) -> Result<f64> {
    let qps = QPS.to_string();
    let fixed = ["verbena-connections", "--qps", &qps, "--repeat", "1"];
    let program = Program::new(fixed.iter().chain(arguments).copied()).timeout(PATIENCE);
    let text = guest.check(&program)?;
    let took: f64 = text.trim().parse().with_context(|| format!("no seconds: {text:?}"))?;
    Ok(took * 1000.0)
}

/// System calls of one run.
fn calls(guest: &Guest, arguments: &str) -> Result<u64> {
    const TRACE: &str = "/tmp/connections.strace";
    let script = format!("strace -f -s 64 -o {TRACE} verbena-connections --marks --qps {QPS} --repeat 1 {arguments}");
    guest.check(&Program::shell(&script).timeout(PATIENCE))?;
    let trace = String::from_utf8_lossy(&guest.read_file(TRACE)?).into_owned();
    count_between(&trace, BEGIN, END)
}
