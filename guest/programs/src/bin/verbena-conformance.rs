// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the conformance suite.

use anyhow::{bail, ensure, Result};
use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use verbena::Attachment;
use verbena_guest::conformance::CASES;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_guest::harness::runner::{self, Mode};
use verbena_guest::harness::{Body, Case, Fixture, Side, Wire};
use verbena_guest::program::{self, DeviceOptions};

/// Check that a device does what it promises.
///
/// Without --listen and --connect every case runs here; those of two sides run both sides, as two threads. With them, each
/// of two programs (in two guests, say) runs one side of the cases that have two; the side that listens reports.
///
/// Exit code 0 if no case failed.
#[derive(Parser)]
#[command(name = "verbena-conformance", version)]
struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    /// The device of the other side, when both sides run here.
    #[arg(long, value_name = "ATTACH", conflicts_with_all = ["listen", "connect"])]
    right: Option<Attachment>,
    /// What to call the attachment in reports; without it `direct`, `guest` or `pair`, as it is.
    #[arg(long, value_name = "NAME")]
    attachment_name: Option<String>,
    /// Only the cases whose name contains this.
    #[arg(long, value_name = "PART")]
    filter: Option<String>,
    /// Print the cases' names and do nothing.
    #[arg(long)]
    list: bool,
    /// Print each result as one JSON object a line.
    #[arg(long)]
    jsonl: bool,
    /// Run the left side of the cases that have two, and wait for the right one at HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "connect")]
    listen: Option<String>,
    /// Run the right side of the cases that have two; the left one listens at HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
}

/// How many there were of each result.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn run(options: &Options) -> Result<ExitCode> {
    let half = options.listen.is_some() || options.connect.is_some();
    let wanted = |case: &&Case| {
        let named = options
            .filter
            .as_ref()
            .is_none_or(|part| case.name.contains(part.as_str()));
        named && (!half || matches!(case.body, Body::Pair(_)))
    };
    let cases: Vec<Case> = CASES.iter().filter(wanted).copied().collect();
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!cases.is_empty(), "no case has such a name; --list shows all");
    let attach = &options.device.attach;
    let right = options.right.as_ref().unwrap_or(attach);
    let fixture = Fixture::new(attach.clone(), right.clone());
    let mode = match (&options.listen, &options.connect) {
        (Some(address), _) => Mode::Half(Side::Left, Wire::listen(address)?),
        (None, Some(address)) => Mode::Half(Side::Right, Wire::connect(address)?),
        (None, None) => Mode::Here,
    };
    let name = options.attachment_name.clone().unwrap_or_else(|| {
        let name = if half {
            "pair"
        } else if attach.is_direct() {
            "direct"
        } else {
            "guest"
        };
        name.to_owned()
    });
    let count = Mutex::new(Count::default());
    let quiet = options.connect.is_some();
    let report = |row: &Row| {
        let mut count = count.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match row.result {
            Outcome::Pass => count.passed += 1,
            Outcome::Fail => count.failed += 1,
            Outcome::Skip => count.skipped += 1,
        }
        if quiet {
            return;
        }
        let line = if options.jsonl {
            serde_json::to_string(row).expect("a row has nothing that JSON lacks")
        } else {
            row.to_string()
        };
        // A closed stdout is noticed by whoever reads it; the cases go on.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    };
    runner::run(&cases, &fixture, &name, mode, &report)?;
    let count = count.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let total = count.passed + count.failed + count.skipped;
    if total != cases.len() {
        bail!("{total} results of {} cases", cases.len());
    }
    if !options.jsonl {
        println!(
            "{} passed, {} failed, {} skipped",
            count.passed, count.failed, count.skipped
        );
    }
    Ok(program::exit_code(count.failed as u64))
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-conformance", || run(&options))
}
