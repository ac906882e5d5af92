// SPDX-License-Identifier: MIT OR Apache-2.0
//! A peer of the fast path: UCX over shared memory between two processes, on the same two processors. It has no device between
//! its sides, checks no key and copies nothing twice: what it takes is what two programs that trust each other can have.

use super::{median, Row};
use crate::stage::Stage;
use anyhow::{ensure, Context, Result};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};
use verbena_launcher::process::{last_lines, Group, Process};
use verbena_launcher::ucx::UcxPerftest;

/// Runs of each, as elsewhere.
const REPETITIONS: usize = 5;

/// How long the other side may take to listen, or to end after a run.
const SOON: Duration = Duration::from_secs(30);

/// What a run is asked for, and where its figure stands among those of the last line that it prints.
struct Measured {
    id: &'static str,
    case: &'static str,
    test: &'static str,
    size: u64,
    messages: u64,
    unit: &'static str,
    figure: Figure,
}

enum Figure {
    /// The median of the latencies.
    Median,
    /// Megabytes a second, as gigabytes.
    Bandwidth,
    /// Messages a second, as millions.
    Rate,
}

const ALL: [Measured; 4] = [
    Measured {
        id: "P1",
        case: "UCX, shared memory: put of 8 B, latency",
        test: "ucp_put_lat",
        size: 8,
        messages: 200_000,
        unit: "us",
        figure: Figure::Median,
    },
    Measured {
        id: "P2",
        case: "UCX, shared memory: tagged message of 8 B, latency",
        test: "tag_lat",
        size: 8,
        messages: 200_000,
        unit: "us",
        figure: Figure::Median,
    },
    Measured {
        id: "P3",
        case: "UCX, shared memory: tagged messages of 8 B",
        test: "tag_bw",
        size: 8,
        messages: 2_000_000,
        unit: "M/s",
        figure: Figure::Rate,
    },
    Measured {
        id: "P4",
        case: "UCX, shared memory: tagged messages of 1 MiB",
        test: "tag_bw",
        size: 1 << 20,
        messages: 4_000,
        unit: "GB/s",
        figure: Figure::Bandwidth,
    },
];

/// The benchmark's rows; none, and a line that says why, where UCX is not to be had.
pub(super) fn rows(stage: &Stage, cpus: [&str; 2]) -> Result<Vec<Row>> {
    let perftest = match UcxPerftest::find(stage.progress()) {
        Ok(perftest) => perftest,
        Err(error) => {
            stage.progress().line(&format!("UCX is not measured: {error:#}"));
            return Ok(Vec::new());
        }
    };
    let task = stage.progress().begin("UCX over shared memory", None);
    let mut rows = Vec::new();
    for measured in &ALL {
        let mut values = (0..REPETITIONS)
            .map(|_| one(&perftest, measured, cpus))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("ucx_perftest {}", measured.test))?;
        let (value, _) = median(&mut values);
        rows.push(Row::plain(measured.id, measured.case, value, measured.unit));
    }
    task.done();
    Ok(rows)
}

fn one(perftest: &UcxPerftest, measured: &Measured, [there, here]: [&str; 2]) -> Result<f64> {
    // Free a moment ago: it has no way to choose one and say so.
    let number = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let port = number.to_string();
    let mut server = perftest.command()?;
    server
        .args(["-p", &port, "-c", there])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut server = Process::start(server, Group::Own)?;
    let begun = Instant::now();
    while !listens(number) {
        ensure!(begun.elapsed() < SOON, "the other side does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut client = perftest.command()?;
    client
        .args(["127.0.0.1", "-p", &port, "-c", here, "-f", "-t", measured.test])
        .args(["-s", &measured.size.to_string(), "-n", &measured.messages.to_string()]);
    let output = client.output()?;
    // It ends with its client; one that does not is of no use to anybody.
    if server.wait_for(SOON)?.is_none() {
        server.signal(libc::SIGKILL);
        server.wait()?;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    figure(&said, &measured.figure).with_context(|| {
        // It writes its errors to either.
        let errors = said.clone() + String::from_utf8_lossy(&output.stderr);
        format!("it says no figures ({}): {}", output.status, last_lines(&errors, 3))
    })
}

/// Whether somebody on this machine listens on a TCP port. To connect would be to be its client.
fn listens(port: u16) -> bool {
    /// The kernel's number of the state.
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    tables.into_iter().flatten().any(|table| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _, state) = (words.next(), words.next(), words.next());
            state == Some(LISTEN) && local.is_some_and(|local| local.ends_with(&end))
        })
    })
}

/// The figure in what it prints: of a line of eight numbers messages, then latency as median, mean of the last second, mean,
/// then bandwidth and rate as mean of the last second and mean.
fn figure(said: &str, figure: &Figure) -> Option<f64> {
    let numbers = said.lines().rev().find_map(|line| {
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (numbers.len() == 8).then_some(numbers)
    })?;
    Some(match figure {
        Figure::Median => numbers[1],
        Figure::Bandwidth => numbers[5] * f64::from(1 << 20) / 1e9,
        Figure::Rate => numbers[7] / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_below_the_head_of_the_table() {
        let said = "|     Test     | # iterations | 50.0%ile | average | overall |\n+----+\n\
            [thread 0]              200000      0.241     5.546     3.978        1.38       1.92      180299      251363\n";
        let said = said.replace("[thread 0]", "          ");
        assert_eq!(figure(&said, &Figure::Median), Some(0.241));
        assert_eq!(figure(&said, &Figure::Rate), Some(0.251_363));
        assert!(figure(&said, &Figure::Bandwidth).is_some_and(|n| (n - 0.002_013).abs() < 1e-6));
        assert_eq!(figure("ucx_perftest: no route", &Figure::Rate), None);
    }
}
