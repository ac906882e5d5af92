// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo xtask bench` does: figures, each beside what it is compared with and what it should be.
//!
//! A figure is an instruction count, which repeats, or a ratio to something measured in the same run, because machines are
//! shared and noisy. A time is the median of at least [`REPETITIONS`] runs.

pub mod completions;
pub mod connections;
pub mod dispatch;
pub mod document;
pub mod messages;
pub mod native;
pub mod performance;
pub mod picture;
pub mod rdma_rxe;
mod ucx;

use crate::scenario;
use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use verbena_guest::harness::report::{Outcome, Row as TestRow};
use verbena_launcher::{Options, Progress};

/// Runs of whatever is timed.
pub const REPETITIONS: usize = 5;

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The row of the requirements that it belongs to.
    pub id: &'static str,
    /// What was measured.
    pub case: String,
    /// The figure.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it is compared with, in the same unit and measured in the same run; none for a figure that stands alone.
    pub reference: Option<f64>,
    /// The figure divided by its reference.
    pub ratio: Option<f64>,
    /// What it should be, in words.
    pub target: Option<String>,
    /// Whether it is.
    pub met: Option<bool>,
}

impl Row {
    /// A figure that should be at most `limit`.
    pub fn at_most(id: &'static str, case: &str, value: f64, unit: &'static str, limit: f64) -> Self {
        Self {
            id,
            case: case.to_owned(),
            value,
            unit,
            reference: None,
            ratio: None,
            target: Some(format!("<= {limit}")),
            met: Some(value <= limit),
        }
    }

    /// A figure that should be at most `share` of what it is compared with.
    pub fn against(id: &'static str, case: &str, value: f64, unit: &'static str, reference: f64, share: f64) -> Self {
        let ratio = value / reference;
        Self {
            reference: Some(reference),
            ratio: Some(ratio),
            target: Some(format!("ratio <= {share}")),
            met: Some(ratio <= share),
            ..Self::plain(id, case, value, unit)
        }
    }

    /// A figure that should be at least `limit`.
    pub fn at_least(id: &'static str, case: &str, value: f64, unit: &'static str, limit: f64) -> Self {
        Self {
            target: Some(format!(">= {limit}")),
            met: Some(value >= limit),
            ..Self::plain(id, case, value, unit)
        }
    }

    /// The same beside `reference`, of which it should be at least `share`.
    pub fn against_at_least(
        id: &'static str,
        case: &str,
        value: f64,
        unit: &'static str,
        reference: f64,
        share: f64,
    ) -> Self {
        let row = Self::plain(id, case, value, unit).beside(reference);
        Self {
            target: Some(format!("ratio >= {share}")),
            met: row.ratio.map(|ratio| ratio >= share),
            ..row
        }
    }

    /// A figure for information.
    pub fn plain(id: &'static str, case: &str, value: f64, unit: &'static str) -> Self {
        Self {
            id,
            case: case.to_owned(),
            value,
            unit,
            reference: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// The same beside `reference`, of the same unit and measured in the same run.
    pub fn beside(self, reference: f64) -> Self {
        Self {
            reference: Some(reference),
            ratio: Some(self.value / reference),
            ..self
        }
    }
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The fast path without a guest, and what the machine can do at all.
    Native,
    /// The fast path in a guest, beside rdma_rxe there.
    Guest,
    /// The object model.
    Uapi,
    /// Of the object model, a thousand connections alone.
    Connections,
}

impl Part {
    /// Everything, each once.
    pub const ALL: [Self; 3] = [Self::Native, Self::Guest, Self::Uapi];
}

/// Measures. With `docs` the documents that carry figures get these; with `plot` that folder gets pictures.
///
/// # Errors
///
/// If something cannot be built or run, or a file not be written. A target that is missed is no error: the row says so.
pub fn run(
    options: &Options,
    progress: &Progress,
    parts: &[Part],
    docs: bool,
    plot: Option<&Path>,
) -> Result<Vec<Row>> {
    let stage = Stage::new(options.clone(), progress.clone())?;
    let (mut fast, mut uapi) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Native => {
                let (rows, figures) = native::rows(&stage)?;
                fast.extend(rows);
                fast.extend(messages::rows(&stage)?);
                if docs {
                    picture::draw(&stage.checkout().root().join(performance::PICTURES), &figures)?;
                }
                if let Some(folder) = plot {
                    picture::draw(folder, &figures)?;
                }
            }
            Part::Guest => fast.extend(rdma_rxe::rows(&stage)?),
            Part::Uapi => {
                uapi.extend(dispatch::rows(&stage)?);
                let completions = completions::measure(&stage)?;
                uapi.extend(completions::rows(&completions));
                if docs {
                    completions::write(&stage, &completions)?;
                }
                uapi.extend(connections::rows(&stage)?);
            }
            Part::Connections => uapi.extend(connections::rows(&stage)?),
        }
    }
    if docs && Part::ALL.iter().all(|part| parts.contains(part)) {
        performance::write(&stage, &[&fast[..], &uapi].concat())?;
    }
    fast.extend(uapi);
    Ok(fast)
}

/// A test of figures that repeat: instructions counted.
type Test = (&'static str, fn(&Stage) -> Result<()>);

const TESTS: [Test; 7] = [
    (dispatch::TEST, dispatch::test),
    (completions::TEST, completions::test),
    (messages::DEVICE_TEST, messages::device_test),
    (messages::RUNG_TEST, messages::rung_test),
    (messages::TURNS_TEST, messages::turns_test),
    (messages::BESIDE_TEST, messages::beside_test),
    (messages::DRIVER_TEST, messages::driver_test),
];

/// The tests of figures that repeat, for a listing.
pub fn list() -> Vec<TestRow> {
    TESTS
        .iter()
        .map(|(name, _)| scenario::row(name, "native", Outcome::Skip, None))
        .collect()
}

/// Runs those that are wanted.
pub fn test(stage: &Stage, selection: &Selection, reporter: &Reporter) {
    for (name, run) in TESTS.iter().filter(|(name, _)| selection.wants(name)) {
        let result = reporter.step(name, || Ok(run(stage)));
        let (outcome, why) = match result {
            Ok(Ok(())) => (Outcome::Pass, None),
            Ok(Err(error)) | Err(error) => (Outcome::Fail, Some(format!("{error:#}"))),
        };
        reporter.report(scenario::row(name, "native", outcome, why));
    }
}

/// The median, and the distance between the quartiles.
pub fn median(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    (at(2), at(3) - at(1))
}

/// A figure as people read it.
fn number(n: f64) -> String {
    match n {
        n if n == n.trunc() => format!("{n}"),
        n if n.abs() < 0.1 => format!("{n:.4}"),
        n => format!("{n:.2}"),
    }
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let maybe = |n: Option<f64>| n.map(number).unwrap_or_default();
    for row in rows {
        let met = match row.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:4} {:58} {:>10} {:13} {:>10} {:>8} {:>12} {met}",
            row.id,
            row.case,
            number(row.value),
            row.unit,
            maybe(row.reference),
            maybe(row.ratio),
            row.target.as_deref().unwrap_or(""),
        );
    }
    text
}

/// Writes the rows as JSON.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write_json(rows: &[Row], path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_target_is_met() {
        let rows = [
            Row::at_most("U11", "a call", 249.0, "instructions", 250.0),
            Row::at_most("U11", "a call", 251.0, "instructions", 250.0),
            Row::plain("U11", "another", 1.5, "us"),
        ];
        assert_eq!([rows[0].met, rows[1].met, rows[2].met], [Some(true), Some(false), None]);
        let [met, missed] = [20.0, 21.0].map(|value| Row::against("P13", "connections", value, "ms", 100.0, 0.2));
        assert_eq!((met.ratio, met.met, missed.met), (Some(0.2), Some(true), Some(false)));
        let table = table(&rows);
        assert_eq!(median(&mut [9.0, 1.0, 3.0, 2.0, 4.0]), (3.0, 2.0));
        assert!(table.contains("MISSED") && table.contains("1.50"), "{table}");
    }
}
