// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fast path without a guest (P1 to P6, P9): `verbena-perf` on one processor, the device's worker on another, and the
//! limits of the machine measured by the same program in the same run.

use super::{ucx, Row};
use crate::stage::Stage;
use anyhow::{bail, ensure, Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use verbena_guest::perf::Figure;
use verbena_launcher::process::{Group, Process};
use verbena_launcher::{Hca, HcaConfig};

/// Where the device's worker runs, and where the program does.
const DEVICE_CPU: &str = "0";
pub(super) const PROGRAM_CPU: &str = "1";

/// Queue pairs of a full house, of a busy one, and of an idle one.
const ALL: u32 = 65_536;
const MANY: u32 = 64;
const IDLE: u32 = 1000;

/// How long an idle device is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// How long a device may take to end.
const SOON: Duration = Duration::from_secs(20);

/// The figures of one program's run.
struct Figures(Vec<Figure>);

impl Figures {
    fn of(stage: &Stage, hca: &Hca, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(stage.program("verbena-perf")?);
        let attach = format!("direct:{}", hca.socket(0).display());
        command.args(["--attach", &attach, "--pin", PROGRAM_CPU, "--json"]);
        let output = command.args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "verbena-perf {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(Self(serde_json::from_slice(&output.stdout)?))
    }

    fn find(&self, test: &str, size: usize, qps: u32) -> Result<&Figure> {
        let found = self.0.iter().find(|f| f.test == test && f.size == size && f.qps == qps);
        found.with_context(|| format!("verbena-perf did not measure {test} of {size} bytes on {qps} queue pairs"))
    }

    fn value(&self, test: &str, size: usize, qps: u32) -> Result<f64> {
        Ok(self.find(test, size, qps)?.value)
    }
}

/// Runs of what is compared with a limit of the machine, each with a run of that just before.
const RUNS: usize = 9;

/// WRITE's and SEND's latency, each with the cache line's round trip, in microseconds, of the run whose ratio is in the middle. One
/// right after the other and often, because a host moves the processors, and one measured before such a move has nothing to say
/// about the other after it.
fn beside_the_line(stage: &Stage, hca: &Hca) -> Result<[(f64, f64); 2]> {
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let tests = ["write-lat", "send-lat"];
        let arguments = ["limits", tests[0], tests[1], "--sizes", "8", "--repetitions", "1"];
        let figures = Figures::of(stage, hca, &arguments)?;
        for (run, test) in runs.iter_mut().zip(tests) {
            run.push((figures.value(test, 8, 1)?, figures.value("limits", 0, 0)?));
        }
    }
    Ok(runs.map(middle))
}

/// Sizes whose bandwidth is a row.
const STREAMED: [usize; 3] = [64 << 10, 1 << 20, 16 << 20];

/// WRITE's bandwidth, each with memcpy's just before, in GB/s, of the run whose ratio is in the middle. Each run is a process, and
/// gets pages of its own: which ones share the sets of a cache decides about some percent.
fn beside_the_copy(stage: &Stage, hca: &Hca, size: usize) -> Result<(f64, f64)> {
    let text = size.to_string();
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let arguments = ["memcpy", "write-bw", "--sizes", &text, "--repetitions", "1"];
        let figures = Figures::of(stage, hca, &arguments)?;
        runs.push((figures.value("write-bw", size, 1)?, figures.value("memcpy", size, 0)?));
    }
    Ok(middle(runs))
}

/// The figure and its reference whose ratio is in the middle.
fn middle(mut runs: Vec<(f64, f64)>) -> (f64, f64) {
    runs.sort_by(|(a, of_a), (b, of_b)| (a / of_a).total_cmp(&(b / of_b)));
    runs[runs.len() / 2]
}

/// The benchmark's rows, and the figures behind them for pictures.
pub(super) fn rows(stage: &Stage) -> Result<(Vec<Row>, Vec<Figure>)> {
    let mut hca = device(stage)?;
    let task = stage.progress().begin("latency, rate and bandwidth, natively", None);
    let many = format!("1,{MANY}");
    let [(write, line), (send, line_of_send)] = beside_the_line(stage, &hca)?;
    let latency = Figures::of(stage, &hca, &["limits", "write-lat", "send-lat", "wake", "mixed"])?;
    let rate = Figures::of(stage, &hca, &["write-rate", "--qps", &many])?;
    let sizes = [
        8,
        64,
        512,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        1 << 20,
        4 << 20,
        16 << 20,
    ];
    let text = sizes.map(|size: usize| size.to_string()).join(",");
    let bandwidth = Figures::of(
        stage,
        &hca,
        &["limits", "write-bw", "--sizes", &text, "--repetitions", "5"],
    )?;
    let streamed = STREAMED
        .iter()
        .map(|&size| beside_the_copy(stage, &hca, size))
        .collect::<Result<Vec<_>>>()?;
    let house = format!("1,{ALL}");
    let turns = Figures::of(stage, &hca, &["turn-rate", "--qps", &house])?;
    task.done();

    let mut rows = vec![
        Row::plain("P1", "round trip of a cache line between two processors", line, "us"),
        Row::plain("P1", "a look at the clock", latency.value("limits", 0, 3)?, "us"),
        Row::against("P1", "WRITE 8 B, posted to polled", write, "us", line, 3.0),
        Row::against("P2", "SEND 8 B there and back, half", send, "us", line_of_send, 4.0),
    ];
    rows.push(Row::plain(
        "P3",
        "a raw ring in shared memory, 64 B a message",
        latency.value("limits", 0, 1)?,
        "M/s",
    ));
    for qps in [1, MANY] {
        let case = format!("WRITEs of 8 B in batches of 32, {qps} queue pairs");
        rows.push(Row::at_least(
            "P3",
            &case,
            rate.value("write-rate", 8, qps)?,
            "M/s",
            12.0,
        ));
    }
    for (size, (ours, limit)) in STREAMED.into_iter().zip(streamed) {
        let case = format!("WRITE {} KiB, to memcpy", size >> 10);
        rows.push(Row::against_at_least("P4", &case, ours, "GB/s", limit, 0.9));
    }
    let (one, all) = (turns.value("turn-rate", 8, 1)?, turns.value("turn-rate", 8, ALL)?);
    rows.push(Row::against_at_least(
        "P5",
        "rate on 65,536 queue pairs in turn, to one",
        all,
        "M/s",
        one,
        0.5,
    ));
    // A process that has had no queue pair keeps no memory of any.
    hca.terminate(SOON)?;
    let hca = device(stage)?;
    rows.extend(idle(stage, &hca)?);
    rows.push(Row::at_most(
        "P9",
        "first WRITE after the device slept",
        latency.value("wake", 8, 1)?,
        "us",
        100.0,
    ));
    rows.push(Row::plain(
        "P9",
        "a thread on the other processor is woken and answers",
        latency.value("limits", 0, 2)?,
        "us",
    ));
    let mixed = latency.find("mixed", 8, 2)?;
    rows.push(Row::plain(
        "-",
        "WRITE 8 B beside a stream of 64 MiB ones, median",
        mixed.value,
        "us",
    ));
    rows.push(Row::plain(
        "-",
        "the same, 99 of 100 are faster",
        mixed.p99.unwrap_or(f64::NAN),
        "us",
    ));
    rows.extend(ucx::rows(stage, [DEVICE_CPU, PROGRAM_CPU])?);
    let figures = [latency.0, rate.0, bandwidth.0, turns.0].concat();
    Ok((rows, figures))
}

/// A device whose worker has its own processor.
pub(super) fn device(stage: &Stage) -> Result<Hca> {
    Hca::start(&HcaConfig {
        program: stage.program("verbena-hca")?.to_owned(),
        count: 1,
        log: None,
        arguments: vec!["--worker-cpu".into(), DEVICE_CPU.into()],
        log_file: stage.checkout().logs("bench")?.join("verbena-hca.log"),
    })
}

/// What idle queue pairs cost: memory and processor time.
fn idle(stage: &Stage, hca: &Hca) -> Result<Vec<Row>> {
    let task = stage.progress().begin("an idle device", None);
    let before = anonymous(hca.id())?;
    let full = Held::start(stage, hca, ALL)?;
    let after = anonymous(hca.id())?;
    full.end()?;
    let held = Held::start(stage, hca, IDLE)?;
    let used = processor_time(hca.id())?;
    std::thread::sleep(WATCHED);
    let used = processor_time(hca.id())? - used;
    held.end()?;
    task.done();
    Ok(vec![
        Row::at_most(
            "P6",
            "device memory, an idle RC queue pair of 65,536",
            (after.saturating_sub(before) as f64 / f64::from(ALL)).round(),
            "bytes",
            1024.0,
        ),
        Row::at_most(
            "P9",
            "an idle device with 1,000 queue pairs",
            100.0 * used.as_secs_f64() / WATCHED.as_secs_f64(),
            "% of a core",
            1.0,
        ),
    ])
}

/// A program that has queue pairs connected, and does nothing.
struct Held(Process);

impl Held {
    fn start(stage: &Stage, hca: &Hca, qps: u32) -> Result<Self> {
        use std::io::{BufRead, BufReader};
        let mut command = Command::new(stage.program("verbena-perf")?);
        let attach = format!("direct:{}", hca.socket(0).display());
        command.args(["--attach", &attach, "--qps", &qps.to_string(), "--hold", "600"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start(command, Group::Own)?;
        let said = process.take_stdout().context("its output is not ours")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(
            line.contains("connected"),
            "verbena-perf does not connect {qps} queue pairs"
        );
        Ok(Self(process))
    }

    fn end(mut self) -> Result<()> {
        self.0.signal(libc::SIGKILL);
        self.0.wait()?;
        Ok(())
    }
}

/// Bytes of memory that a process has for itself: not what it maps of others.
fn anonymous(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .context("the kernel does not say how much memory a process has")?;
    Ok(kib << 10)
}

/// Processor time that a process has used, of all its threads.
fn processor_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        // Nanoseconds on a processor, waiting for one, and how often.
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        nanos += first.context("the kernel does not say how long a thread ran")?;
    }
    Ok(Duration::from_nanos(nanos))
}
