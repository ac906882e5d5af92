// SPDX-License-Identifier: MIT OR Apache-2.0
//! End to end: what `cargo xtask test` and `cargo xtask demo` do, over the launcher's servers and guests.
//!
//! This room starts things, looks at them from outside, and reports. It opens no device itself: what touches a device
//! is a program of `guest/programs`, here or in a guest.
#![forbid(unsafe_code)]

pub mod bench;
pub mod check;
pub mod conformance;
pub mod demo;
pub mod direct;
pub mod dump;
pub mod fuzz;
pub mod guest;
pub mod pair;
pub mod rows;
pub mod scenario;
pub mod stage;
pub mod suite;
pub mod unit;

use anyhow::Result;
use std::path::PathBuf;
use std::sync::Arc;
use suite::{Reporter, Selection};
use verbena_guest::harness::report::{Outcome, Row};
use verbena_launcher::{Options, Progress};

/// A part of the test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Formatting, lints, documentation.
    Check,
    /// Every crate's own tests.
    Unit,
    /// With no VM.
    Direct,
    /// In one guest.
    Guest,
    /// Between two guests.
    Pair,
}

impl Part {
    /// All of them, the quick ones first.
    pub const ALL: [Part; 5] = [Part::Check, Part::Unit, Part::Direct, Part::Guest, Part::Pair];

    fn name(self) -> &'static str {
        match self {
            Part::Check => "check",
            Part::Unit => "unit",
            Part::Direct => "direct",
            Part::Guest => "guest",
            Part::Pair => "pair",
        }
    }
}

/// What to test, and how to tell.
#[derive(Clone, Debug)]
pub struct TestOptions {
    /// The parts to run.
    pub parts: Vec<Part>,
    /// Which tests of them.
    pub selection: Selection,
    /// Where every row goes as JSON.
    pub json: Option<PathBuf>,
    /// Where the table of requirements against attachments goes; only without a filter.
    pub table: Option<PathBuf>,
    /// Every row on standard output, and every program's words.
    pub verbose: bool,
    /// How guests are booted.
    pub launch: Options,
}

impl TestOptions {
    /// Whether they leave nothing out.
    fn is_whole(&self) -> bool {
        self.selection.filter.is_none() && Part::ALL.iter().all(|part| self.parts.contains(part))
    }
}

/// Runs the tests; says whether all passed.
///
/// # Errors
///
/// If something that is no test goes wrong: a build, the set-up, a report that cannot be written. What has been
/// reported until then is still written.
pub fn test(options: &TestOptions) -> Result<bool> {
    let progress = Progress::new(options.verbose);
    let reporter = Reporter::new(&progress);
    let result = run_parts(options, &reporter, &progress);
    if let Some(path) = &options.json {
        reporter.write_json(path)?;
    }
    result?;
    let passed = reporter.finish();
    match &options.table {
        Some(path) if passed => rows::write(path, &reporter.since(0), &options.parts)?,
        Some(path) => eprintln!(
            "{} is left as it was: it tells of runs in which every test passed",
            path.display()
        ),
        None => {}
    }
    Ok(passed)
}

fn run_parts(options: &TestOptions, reporter: &Reporter, progress: &Progress) -> Result<()> {
    let stage = Arc::new(stage::Stage::new(options.launch.clone(), progress.clone())?);
    for &part in &options.parts {
        let mark = reporter.mark();
        match part {
            Part::Check => check::run(&stage, &options.selection, reporter)?,
            Part::Unit => {
                unit::run(&stage, &options.selection, reporter)?;
                bench::test(&stage, &options.selection, reporter);
                fuzz::test(&stage, &options.selection, reporter);
            }
            Part::Direct => direct::run(&stage, &options.selection, reporter)?,
            Part::Guest => guest::run(&stage, &options.selection, reporter)?,
            Part::Pair => pair::run(&stage, &options.selection, reporter)?,
        }
        reporter.summary(part.name(), mark);
    }
    if options.is_whole() {
        reporter.report(whole(&reporter.since(0)));
    }
    Ok(())
}

/// What a run of everything says of the requirements as a whole.
fn whole(tests: &[Row]) -> Row {
    let (outcome, reason) = match rows::unproved(tests) {
        unproved if unproved.is_empty() => (Outcome::Pass, None),
        unproved => (
            Outcome::Fail,
            Some(format!("no test of {} passed", unproved.join(", "))),
        ),
    };
    scenario::row(rows::TEST, "native", outcome, reason)
}

/// Every test of the parts, without running any.
///
/// # Errors
///
/// If the unit tests, whose names only their binaries know, do not build.
pub fn list(options: &TestOptions) -> Result<Vec<Row>> {
    let progress = Progress::new(options.verbose);
    let stage = stage::Stage::new(options.launch.clone(), progress)?;
    let mut rows = Vec::new();
    for &part in &options.parts {
        rows.extend(match part {
            Part::Check => check::list(),
            Part::Unit => {
                let mut rows = unit::list(&stage)?;
                rows.extend(bench::list());
                rows.extend(fuzz::list());
                rows
            }
            Part::Direct => direct::list(),
            Part::Guest => guest::list(),
            Part::Pair => pair::list(),
        });
    }
    rows.retain(|row| options.selection.wants(&row.name));
    if options.is_whole() {
        rows.push(scenario::row(rows::TEST, "native", Outcome::Skip, None));
    }
    Ok(rows)
}
