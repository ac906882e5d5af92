// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run of verified iterations at some sizes, and what is reported of it.

use super::ends::EndsOptions;
use super::stream::{Kind, Stream, Tally, Traffic};
use super::{bytes_text, exit_code, mark, parse_size};
use crate::link::Spec;
use anyhow::{ensure, Result};
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

/// What is run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    #[command(flatten)]
    ends: EndsOptions,
    /// Message sizes, separated by commas: 64,4K,1M.
    #[arg(long, value_name = "SIZES", default_value = "64,4096,65536", value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<usize>,
    /// Iterations at each size.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000)]
    iters: u64,
    /// Iterations at each size before those that are reported.
    #[arg(long, value_name = "N", default_value_t = 16)]
    warmup: u64,
    /// Write a line to stderr immediately before and after the iterations that are reported, so that a tracer can count the
    /// system calls between the two.
    #[arg(long)]
    marks: bool,
    /// Report as one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// The line that `RunOptions::marks` writes before.
pub const MARK_BEGIN: &str = "verbena-mark: steady state begins";
/// The line that `RunOptions::marks` writes after.
pub const MARK_END: &str = "verbena-mark: steady state ends";

/// What is reported.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The program.
    pub program: String,
    /// Where the two ends were.
    pub ends: String,
    /// Iterations, of all sizes.
    pub iterations: u64,
    /// Bytes that were compared with what they should be, and were right, on both sides.
    pub bytes: u64,
    /// Messages that were wrong, on both sides.
    pub errors: u64,
    /// How long the iterations took.
    pub seconds: f64,
    /// What was found at each size.
    pub sizes: Vec<SizeReport>,
    /// The first thing that was wrong on this side.
    pub complaint: Option<String>,
}

/// What was found at one size.
#[derive(Clone, Debug, Serialize)]
pub struct SizeReport {
    /// Bytes of a message.
    pub size: usize,
    /// Iterations.
    pub iterations: u64,
    /// From answer to answer, in microseconds, by the completions' timestamps: writing and comparing the pattern on both
    /// sides is in it. Absent on the side that answers.
    pub iteration_us: Option<Times>,
}

/// A distribution.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// The shortest.
    pub min: f64,
    /// Half are shorter.
    pub median: f64,
    /// One of a hundred is longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Times {
    /// Of the distances between these moments, in nanoseconds.
    fn between(moments: &[u64]) -> Option<Self> {
        let mut distances: Vec<u64> = moments.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        distances.sort_unstable();
        let last = distances.len().checked_sub(1)?;
        let at = |part: f64| distances[(last as f64 * part).round() as usize] as f64 / 1000.0;
        Some(Self {
            min: at(0.0),
            median: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        })
    }
}

/// Runs it and prints the report.
///
/// # Errors
///
/// What kept it from running to its end.
pub fn run(program: &str, kind: Kind, options: &RunOptions) -> Result<ExitCode> {
    ensure!(
        !options.sizes.is_empty() && options.iters > 0,
        "there is nothing to do: give sizes and iterations"
    );
    let report = measure(program, kind, options)?;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(exit_code(report.errors))
}

fn measure(program: &str, kind: Kind, options: &RunOptions) -> Result<Report> {
    let spec = Spec {
        send_depth: 16,
        recv_depth: 16,
        entries: 64,
        ..Spec::default()
    };
    let RunOptions {
        ends,
        sizes,
        iters,
        warmup,
        ..
    } = options;
    let task = format!("{program} sizes={sizes:?} iters={iters} warmup={warmup}");
    let traffic = Traffic {
        kind,
        size: sizes.iter().copied().max().unwrap_or(0),
        asleep: ends.sleep,
    };
    let (mut stream, wire) = Stream::begin(ends.meet(&spec, &task)?, &traffic)?;
    // Everything that needs memory is there before the first iteration.
    let mut moments: Vec<Vec<u64>> = sizes.iter().map(|_| Vec::with_capacity(*iters as usize)).collect();
    // No two iterations have the same pattern.
    let mut number = 0..;
    let mut step = |stream: &mut Stream, size: usize| stream.step(number.next().unwrap_or(0), size);
    for &size in sizes {
        for _ in 0..*warmup {
            step(&mut stream, size)?;
        }
    }
    let before = stream.tally();
    let begun = Instant::now();
    if options.marks {
        mark(MARK_BEGIN);
    }
    for (&size, moments) in sizes.iter().zip(&mut moments) {
        for _ in 0..*iters {
            moments.extend(step(&mut stream, size)?);
        }
    }
    if options.marks {
        mark(MARK_END);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let found = stream.tally();
    let mut found = Tally {
        bytes: found.bytes - before.bytes,
        errors: found.errors,
    };
    if let Some(mut wire) = wire {
        found = found + wire.exchange(&found)?;
    }
    let sizes = sizes.iter().zip(&moments).map(|(&size, moments)| SizeReport {
        size,
        iterations: *iters,
        iteration_us: Times::between(moments),
    });
    Ok(Report {
        program: program.to_owned(),
        ends: ends.describe(),
        iterations: iters * options.sizes.len() as u64,
        bytes: found.bytes,
        errors: found.errors,
        seconds,
        sizes: sizes.collect(),
        complaint: stream.complaint(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.program, self.ends)?;
        writeln!(
            f,
            "{:>12} {:>12} {:>12} {:>12} {:>12} {:>12}",
            "size", "iterations", "min us", "median us", "p99 us", "max us"
        )?;
        for size in &self.sizes {
            write!(f, "{:>12} {:>12}", size.size, size.iterations)?;
            match size.iteration_us {
                Some(t) => writeln!(f, " {:>12.2} {:>12.2} {:>12.2} {:>12.2}", t.min, t.median, t.p99, t.max)?,
                None => writeln!(f, " {:>12} {:>12} {:>12} {:>12}", "-", "-", "-", "-")?,
            }
        }
        let bytes = bytes_text(self.bytes);
        write!(
            f,
            "{} iterations in {:.3} s, {bytes} compared byte for byte, {} errors",
            self.iterations, self.seconds, self.errors
        )?;
        match &self.complaint {
            Some(complaint) => write!(f, "; {complaint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn times_are_distances_in_microseconds() {
        let times = Times::between(&[1_000, 3_000, 4_000, 14_000]).unwrap();
        assert_eq!((times.min, times.median, times.p99, times.max), (1.0, 2.0, 10.0, 10.0));
        assert!(Times::between(&[5]).is_none() && Times::between(&[]).is_none());
    }
}
