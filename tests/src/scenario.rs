// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that act on servers and guests from outside: a name, and what it does to a world that its part has set up.

use crate::suite::{Reporter, Selection};
use anyhow::Result;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_guest::harness::runner::catch;

/// A test on a world `W`.
pub struct Scenario<W> {
    /// Its name, which begins with the row that it proves.
    pub name: &'static str,
    /// What it does; an error or a panic is its failure.
    pub run: fn(&mut W) -> Result<()>,
}

/// Rows for a listing.
pub fn list<W>(scenarios: &[Scenario<W>], attachment: &str) -> Vec<Row> {
    scenarios
        .iter()
        .map(|s| row(s.name, attachment, Outcome::Skip, None))
        .collect()
}

/// Whether any of them is wanted.
pub fn any_wanted<W>(scenarios: &[Scenario<W>], selection: &Selection) -> bool {
    scenarios.iter().any(|s| selection.wants(s.name))
}

/// Runs those that are wanted, in order, on one world.
pub fn run<W>(scenarios: &[Scenario<W>], world: &mut W, attachment: &str, selection: &Selection, reporter: &Reporter) {
    for scenario in scenarios.iter().filter(|s| selection.wants(s.name)) {
        let (outcome, reason) = match reporter.step(scenario.name, || Ok(catch(|| (scenario.run)(world)))) {
            Ok(Ok(())) => (Outcome::Pass, None),
            Ok(Err(e)) | Err(e) => (Outcome::Fail, Some(format!("{e:#}"))),
        };
        reporter.report(row(scenario.name, attachment, outcome, reason));
    }
}

/// Reports every wanted one as failed for the same reason: the world could not be set up.
pub fn fail_all<W>(
    scenarios: &[Scenario<W>],
    why: &anyhow::Error,
    attachment: &str,
    selection: &Selection,
    reporter: &Reporter,
) {
    for scenario in scenarios.iter().filter(|s| selection.wants(s.name)) {
        reporter.report(row(scenario.name, attachment, Outcome::Fail, Some(format!("{why:#}"))));
    }
}

/// A row of the report.
pub(crate) fn row(name: &str, attachment: &str, result: Outcome, reason: Option<String>) -> Row {
    Row {
        name: name.to_owned(),
        suite: "scenario".to_owned(),
        attachment: attachment.to_owned(),
        result,
        reason,
    }
}
