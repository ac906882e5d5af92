// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fast path in a guest beside rdma_rxe's in the same guest, as perftest measures it (P10 to P12).
//!
//! Latency of a WRITE is not the same thing on both sides: perftest's is half of a ping-pong in which each end watches its
//! memory, `verbena-perf`'s is from posting to the polled completion.

use super::connections::{PEER, PEER_ADDRESS, PEER_SETUP};
use super::Row;
use crate::guest::wait_for_node;
use crate::stage::Stage;
use anyhow::{bail, Context, Result};
use std::time::Duration;
use verbena_guest::perf::Figure;
use verbena_launcher::guest::Program;
use verbena_launcher::Guest;

/// Of the peer's latency (P10), bandwidth (P11) and rate (P12).
const LATENCY: f64 = 0.2;
const BANDWIDTH: f64 = 20.0;
const RATE: f64 = 10.0;

const LARGE: usize = 64 << 10;

/// A run in an emulated guest takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

/// The benchmark's rows.
pub(super) fn rows(stage: &Stage) -> Result<Vec<Row>> {
    let logs = stage.checkout().logs("bench")?;
    let hca = stage.hca(1, &logs)?;
    let guest = stage.boot("bench-perf", &hca, 0, &logs)?;
    wait_for_node(&guest)?;
    guest.check(&Program::shell(PEER_SETUP)).context("set up rdma_rxe")?;
    let task = stage.progress().begin("latency, rate and bandwidth, in a guest", None);
    let ours = |arguments: &[&str]| ours(&guest, arguments);
    let theirs = |program: &str, size: usize, iters: u32, column: usize| theirs(&guest, program, size, iters, column);
    let rows = vec![
        Row::against(
            "P10",
            "WRITE 8 B in a guest, to rxe",
            ours(&["write-lat", "-n", "5000"])?,
            "us",
            theirs("ib_write_lat", 8, 1000, LATENCY_TYPICAL)?,
            LATENCY,
        ),
        Row::against(
            "P10",
            "SEND 8 B in a guest, to rxe",
            ours(&["send-lat", "-n", "5000"])?,
            "us",
            theirs("ib_send_lat", 8, 1000, LATENCY_TYPICAL)?,
            LATENCY,
        ),
        Row::against_at_least(
            "P11",
            "WRITE 64 KiB in a guest, to rxe",
            ours(&["write-bw", "--sizes", "64K", "-n", "2000"])?,
            "GB/s",
            // 2^20 bytes a second.
            theirs("ib_write_bw", LARGE, 200, BANDWIDTH_AVERAGE)? * f64::from(1 << 20) / 1e9,
            BANDWIDTH,
        ),
        Row::against_at_least(
            "P12",
            "WRITEs of 8 B in a guest, to rxe",
            ours(&["write-rate", "-n", "100000"])?,
            "M/s",
            theirs("ib_write_bw", 8, 5000, MESSAGE_RATE)?,
            RATE,
        ),
    ];
    task.done();
    Ok(rows)
}

/// Our figure, of a test that has one.
fn ours(guest: &Guest, arguments: &[&str]) -> Result<f64> {
    let argv = ["verbena-perf", "--json"].iter().chain(arguments).copied();
    let text = guest.check(&Program::new(argv).timeout(PATIENCE))?;
    let figures: Vec<Figure> = serde_json::from_str(&text).with_context(|| format!("no figures: {text:?}"))?;
    Ok(figures.first().context("verbena-perf measured nothing")?.value)
}

/// Columns of perftest's tables, counted from 0: size, iterations, then
/// minimum, maximum, typical, ... of a latency;
const LATENCY_TYPICAL: usize = 4;
/// peak and average bandwidth and the rate.
const BANDWIDTH_AVERAGE: usize = 3;
const MESSAGE_RATE: usize = 4;

/// Attempts at one of perftest's figures.
const ATTEMPTS: usize = 3;

/// The peer's figure: both ends in the guest, as ours are. The GID at index 1 is the one of the address. perftest measures what
/// a tick of the clock is each time it starts; where an emulated processor was not run meanwhile, it takes it for nothing, and
/// prints `inf`.
fn theirs(guest: &Guest, program: &str, size: usize, iters: u32, column: usize) -> Result<f64> {
    let common = format!("{program} -d {PEER} -x 1 -F -s {size} -n {iters}");
    let script = format!("{common} >/dev/null & sleep 2; {common} {PEER_ADDRESS}; wait");
    let mut text = String::new();
    for _ in 0..ATTEMPTS {
        text = guest.check(&Program::shell(&script).timeout(PATIENCE))?;
        if let Some(figure) = figure(&text, size, column) {
            return Ok(figure);
        }
    }
    bail!("{program} says no figure, {ATTEMPTS} times:\n{text}")
}

/// A column of the line that begins with the message size.
fn figure(text: &str, size: usize, column: usize) -> Option<f64> {
    let size = size.to_string();
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.first() == Some(&size.as_str()) && words.len() > column)?;
    line[column]
        .parse()
        .ok()
        .filter(|&value: &f64| value.is_finite() && value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perftests_tables_are_read() {
        let latency = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]\n \
            8       1000          50.11          812.30       65.43                68.01\n";
        assert_eq!(figure(latency, 8, LATENCY_TYPICAL), Some(65.43));
        let bandwidth = " #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]\n \
            65536      200             33.15              32.11             0.000514\n";
        assert_eq!(figure(bandwidth, 65536, BANDWIDTH_AVERAGE), Some(32.11));
        assert_eq!(figure(bandwidth, 65536, MESSAGE_RATE), Some(0.000514));
        assert_eq!(figure(bandwidth, 8, 2), None);
        for nothing in ["inf", "0.00", "-nan"] {
            assert_eq!(figure(&latency.replace("65.43", nothing), 8, LATENCY_TYPICAL), None);
        }
    }
}
