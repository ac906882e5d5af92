// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the device is, in the manner of perftest: latency, rate, bandwidth, and the limits of the machine beside them.
//!
//! Both ends are queue pairs of this process, so that one thread measures and the device is the only other party. A figure
//! is the median of some repetitions, with the best and the worst of them as the noise.

mod latency;
mod limits;
mod rate;
mod world;

pub use limits::pin;

use crate::program::DeviceOptions;
use anyhow::{ensure, Context as _, Result};
use clap::ValueEnum;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};
use std::fmt;
use verbena::Context;
use world::World;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// The machine: round trip of a cache line between two cores, a ring in memory that both share, a look at the clock, copying
    /// memory.
    Limits,
    /// Of these, copying memory alone: to be asked for right before what is compared with it.
    Memcpy,
    /// RDMA WRITE: from posting to the polled completion.
    WriteLat,
    /// SEND there and back: half of it.
    SendLat,
    /// RDMA WRITEs a second, posted in batches of 32.
    WriteRate,
    /// RDMA WRITEs a second, posted one by one, on every queue pair in turn.
    TurnRate,
    /// RDMA WRITE: bytes a second.
    WriteBw,
    /// An 8-byte RDMA WRITE beside a stream of 64 MiB ones on another queue pair.
    Mixed,
    /// The first RDMA WRITE after a pause in which the device went to sleep.
    Wake,
}

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    /// What to measure, in this order; without, everything but turn-rate.
    #[arg(value_enum)]
    tests: Vec<Test>,
    /// Message sizes, separated by commas: 8,4K,1M. Without, what suits each test.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = crate::program::parse_size)]
    sizes: Vec<usize>,
    /// Queue pairs that send, of rates: 1,64. They are connected in pairs.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    qps: Vec<u32>,
    /// Messages outstanding on a queue pair, of rates.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=16384))]
    depth: u32,
    /// Messages of a repetition; without, what takes a fraction of a second natively.
    #[arg(long, short = 'n', value_name = "N")]
    iters: Option<u64>,
    /// Repetitions.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Run on this processor and no other. The device should have another one.
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Then hold the queue pairs (the largest --qps) connected and idle for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    hold: Option<u64>,
    /// An array of JSON objects instead of a table.
    #[arg(long)]
    json: bool,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The test's name, as it is given on the command line.
    pub test: String,
    /// Bytes of a message.
    pub size: usize,
    /// Queue pairs that sent; of `limits` 0, and, where there is no size, which of them it is: the cache line 0, the raw ring 1, the
    /// thread that is woken 2, the clock 3.
    pub qps: u32,
    /// The median of the repetitions. Of `write-lat` and `send-lat`: of messages in runs, without a look at the clock for each.
    pub value: f64,
    /// Of what: `us`, `M/s` or `GB/s`.
    pub unit: String,
    /// Of a latency: one of a hundred is longer; the median of the repetitions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99: Option<f64>,
    /// The smallest repetition.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Of a latency: all times of one repetition, sorted and thinned to a hundred, for a picture.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub distribution: Vec<f64>,
}

/// What one repetition found: a figure, and times if it was about times.
struct Sample {
    value: f64,
    /// Sorted, in microseconds.
    times: Vec<f64>,
}

impl Sample {
    fn of(value: f64) -> Self {
        Self {
            value,
            times: Vec::new(),
        }
    }

    /// The median of these times, in nanoseconds, and the times.
    fn median_of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let times: Vec<f64> = nanos.into_iter().map(|n| n as f64 / 1000.0).collect();
        Self {
            value: percentile(&times, 0.5),
            times,
        }
    }
}

/// The value that a part of the sorted ones is below.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    match sorted.len().checked_sub(1) {
        Some(last) => sorted[(last as f64 * part).round() as usize],
        None => f64::NAN,
    }
}

/// Points of a distribution that are reported.
const POINTS: usize = 100;

impl Figure {
    fn new(test: Test, size: usize, qps: u32, unit: &str, mut samples: Vec<Sample>) -> Self {
        samples.sort_by(|a, b| a.value.total_cmp(&b.value));
        let middle = samples.len() / 2;
        let mut tails: Vec<f64> = samples
            .iter()
            .filter(|sample| !sample.times.is_empty())
            .map(|sample| percentile(&sample.times, 0.99))
            .collect();
        tails.sort_by(f64::total_cmp);
        let times = &samples[middle].times;
        let points = if times.is_empty() { 0 } else { POINTS + 1 };
        Self {
            test: test.name(),
            size,
            qps,
            value: samples[middle].value,
            unit: unit.to_owned(),
            p99: (!tails.is_empty()).then(|| percentile(&tails, 0.5)),
            min: samples[0].value,
            max: samples[samples.len() - 1].value,
            distribution: (0..points)
                .map(|i| percentile(times, i as f64 / POINTS as f64))
                .collect(),
        }
    }
}

impl Test {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no test is hidden");
        value.get_name().to_owned()
    }

    fn sizes(self, given: &[usize]) -> Vec<usize> {
        let usual: &[usize] = match self {
            Test::Limits | Test::Memcpy | Test::WriteBw => &[64 << 10, 1 << 20, 16 << 20],
            Test::WriteLat | Test::SendLat | Test::WriteRate | Test::TurnRate | Test::Mixed | Test::Wake => &[8],
        };
        if given.is_empty() { usual } else { given }.to_vec()
    }

    /// Messages of a repetition.
    fn iters(self, size: usize, given: Option<u64>) -> u64 {
        given.unwrap_or(match self {
            Test::WriteLat | Test::SendLat => 20_000,
            Test::WriteRate | Test::TurnRate => 1_000_000,
            Test::Mixed => 2_000,
            Test::Wake => 20,
            // A gigabyte.
            Test::Limits | Test::Memcpy | Test::WriteBw => ((1 << 30) / size.max(1) as u64).clamp(16, 65_536),
        })
    }
}

/// Measures, and prints.
///
/// # Errors
///
/// What the device refuses, or a message that fails.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        options.qps.iter().all(|&qps| qps > 0),
        "--qps: at least one queue pair must send"
    );
    let processors = limits::processors()?;
    if let Some(cpu) = options.pin {
        limits::pin(cpu)?;
    }
    let ctx = Context::open(&options.device.attach)?;
    let all = [
        Test::Limits,
        Test::WriteLat,
        Test::SendLat,
        Test::WriteRate,
        Test::WriteBw,
        Test::Mixed,
        Test::Wake,
    ];
    let tests = if options.tests.is_empty() && options.hold.is_none() {
        &all[..]
    } else {
        &options.tests
    };
    let mut figures = Vec::new();
    for &test in tests {
        figures.extend(one(&ctx, test, options, &processors).with_context(|| test.name())?);
    }
    if options.json {
        println!("{}", serde_json::to_string(&figures)?);
    } else if !figures.is_empty() {
        print!("{}", Table(&figures));
    }
    if let Some(seconds) = options.hold {
        let qps = options.qps.iter().copied().max().unwrap_or(1);
        let world = World::new(&ctx, qps, options.depth.min(16), 8)?;
        println!("verbena-perf: {} queue pairs connected", world.len());
        std::thread::sleep(std::time::Duration::from_secs(seconds));
    }
    Ok(())
}

fn one(ctx: &Context, test: Test, options: &Options, processors: &CpuSet) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let repeat = |mut sample: Box<dyn FnMut() -> Result<Sample> + '_>| -> Result<Vec<Sample>> {
        (0..options.repetitions).map(|_| sample()).collect()
    };
    for size in test.sizes(&options.sizes) {
        let iters = test.iters(size, options.iters);
        let mut add = |qps: u32, unit: &str, samples: Vec<Sample>| {
            figures.push(Figure::new(test, size, qps, unit, samples));
        };
        match test {
            Test::Limits => {
                if figures.is_empty() {
                    let samples = repeat(Box::new(|| limits::cache_line(processors)))?;
                    figures.push(Figure::new(test, 0, 0, "us", samples));
                    let samples = repeat(Box::new(|| limits::ring(processors)))?;
                    figures.push(Figure::new(test, 0, 1, "M/s", samples));
                    let samples = repeat(Box::new(|| limits::wake(processors)))?;
                    figures.push(Figure::new(test, 0, 2, "us", samples));
                    let samples = repeat(Box::new(|| Ok(limits::clock())))?;
                    figures.push(Figure::new(test, 0, 3, "us", samples));
                }
                let samples = repeat(Box::new(|| limits::copy(processors, size, iters)))?;
                figures.push(Figure::new(test, size, 0, "GB/s", samples));
            }
            Test::Memcpy => add(0, "GB/s", repeat(Box::new(|| limits::copy(processors, size, iters)))?),
            Test::WriteLat => {
                let mut world = World::new(ctx, 1, 16, size)?;
                add(1, "us", repeat(Box::new(|| latency::write(&mut world, iters)))?);
            }
            Test::SendLat => {
                let mut world = World::new(ctx, 2, latency::DEPTH, size)?;
                add(1, "us", repeat(Box::new(|| latency::send(&mut world, iters)))?);
            }
            Test::Wake => {
                let mut world = World::new(ctx, 1, 16, size)?;
                add(1, "us", repeat(Box::new(|| latency::wake(&mut world, iters)))?);
            }
            Test::Mixed => {
                let mut world = World::new(ctx, 4, 16, latency::LARGE)?;
                add(2, "us", repeat(Box::new(|| latency::mixed(&mut world, size, iters)))?);
            }
            Test::WriteRate => {
                for &qps in &options.qps {
                    let mut world = World::new(ctx, qps, options.depth, size)?;
                    add(qps, "M/s", repeat(Box::new(|| rate::batches(&mut world, iters)))?);
                }
            }
            Test::TurnRate => {
                for &qps in &options.qps {
                    let depth = if qps > 1 { 2 } else { options.depth };
                    let mut world = World::new(ctx, qps, depth, size)?;
                    add(qps, "M/s", repeat(Box::new(|| rate::turns(&mut world, iters)))?);
                }
            }
            Test::WriteBw => {
                let mut world = World::new(ctx, 1, 16, size)?;
                add(1, "GB/s", repeat(Box::new(|| rate::bandwidth(&mut world, iters)))?);
            }
        }
    }
    Ok(figures)
}

/// Figures for people.
struct Table<'a>(&'a [Figure]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>10} {:>7} {:>10} {:<5} {:>10} {:>22}",
            "test", "size", "QPs", "median", "", "p99", "repetitions from to"
        )?;
        for figure in self.0 {
            let p99 = figure.p99.map(|p99| format!("{p99:.3}")).unwrap_or_default();
            let name = match (figure.test.as_str(), figure.size, figure.qps) {
                ("limits", 0, 0) => "cache line",
                ("limits", 0, 1) => "raw ring",
                ("limits", 0, 2) => "wake a thread",
                ("limits", 0, _) => "clock",
                ("limits", ..) => "memcpy",
                (name, ..) => name,
            };
            writeln!(
                f,
                "{name:<12} {:>10} {:>7} {:>10.3} {:<5} {p99:>10} {:>11.3} {:>10.3}",
                figure.size, figure.qps, figure.value, figure.unit, figure.min, figure.max
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_repetitions() {
        let samples = [3.0, 1.0, 2.0].map(Sample::of).into();
        let figure = Figure::new(Test::WriteRate, 8, 1, "M/s", samples);
        assert_eq!((figure.value, figure.min, figure.max), (2.0, 1.0, 3.0));
        assert_eq!(figure.p99, None);
        assert!(figure.distribution.is_empty());
        assert_eq!(figure.test, "write-rate");
    }

    #[test]
    fn times_have_percentiles() {
        let sample = Sample::median_of((0..=1000).rev().collect());
        assert_eq!(sample.value, 0.5);
        let figure = Figure::new(Test::WriteLat, 8, 1, "us", vec![sample]);
        assert_eq!(figure.p99, Some(0.99));
        assert_eq!(figure.distribution.len(), POINTS + 1);
        assert_eq!(figure.distribution[10], 0.1);
    }
}
