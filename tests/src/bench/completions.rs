// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs to present completions in four ways (`uapi-driver/driver/examples/completions`), and the document that
//! carries the table.

use super::{document, Row, REPETITIONS};
use crate::stage::Stage;
use anyhow::{ensure, Context, Result};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use verbena_launcher::process::output;
use verbena_launcher::valgrind::Callgrind;

/// The name of the test of it.
pub(super) const TEST: &str = "u24_the_documents_table_of_completion_layouts_is_what_is_counted";

/// The document, from the checkout's root.
const DOCUMENT: &str = "uapi-driver/docs/completions.md";

/// The ways: the program's words for them, and ours. The first is what the others are compared with.
const WAYS: [(&str, &str); 5] = [
    ("accessors", "2. accessor functions, inlined: Verbena"),
    ("table", "2. accessor functions, through a table"),
    ("grown", "1. one struct that grows"),
    ("rewritten", "3. rewritten for each completion"),
    ("grouped", "4. base struct and optional groups"),
];

/// Consumers: the program's words.
const CONSUMERS: [&str; 2] = ["few", "many"];

/// How far a counted number may be from the document's: another compiler arranges the same code a little differently.
const TOLERANCE: f64 = 0.1;

/// Instructions and nanoseconds of one completion, for each of [`CONSUMERS`].
type Costs = [(f64, f64); CONSUMERS.len()];

/// Everything that was measured, in the order of [`WAYS`].
pub(super) struct Figures {
    ways: [Costs; WAYS.len()],
    /// Instructions of taking a completion without reading any of it.
    taking: f64,
}

struct Program {
    path: PathBuf,
    callgrind: Callgrind,
}

impl Program {
    fn build(stage: &Stage) -> Result<Self> {
        let callgrind = Callgrind::find(stage.progress())?;
        // As applications are compiled.
        let arguments = ["build", "--release", "-p", "verbena", "--example", "completions"];
        let built = stage.checkout().cargo(&arguments, stage.progress())?;
        let program = built.into_iter().find(|e| e.name == "completions");
        let path = program.context("cargo built no example")?.path;
        let program = Self { path, callgrind };
        program.run(&["check"]).context("the ways do not present the same")?;
        Ok(program)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.path);
        command.args(arguments);
        Ok(String::from_utf8_lossy(&output(command)?).into_owned())
    }

    /// Instructions of one completion, the device's part included.
    fn count(&self, way: &str, consumer: &str) -> Result<f64> {
        let run = |rounds| self.callgrind.instructions(&self.path, &[rounds, way, consumer]);
        // The difference, so that start and set-up cancel out. A ring has 256 entries.
        Ok((run("50")? - run("10")?) as f64 / (40.0 * 256.0))
    }

    /// Nanoseconds of one completion.
    fn time(&self, way: &str, consumer: &str) -> Result<f64> {
        let said = self.run(&["2000", way, consumer])?;
        let mut words = said.split_whitespace().map(str::parse::<f64>);
        match (words.next(), words.next()) {
            (Some(Ok(completions)), Some(Ok(nanoseconds))) => Ok(nanoseconds / completions),
            _ => anyhow::bail!("the example says {said:?}"),
        }
    }
}

/// Measures; the times only if they are wanted.
fn figures(stage: &Stage, timed: bool) -> Result<Figures> {
    let program = Program::build(stage)?;
    let device = program.count("device", "few")?;
    let mut ways = [Costs::default(); WAYS.len()];
    for (costs, (way, _)) in ways.iter_mut().zip(WAYS) {
        for (cost, consumer) in costs.iter_mut().zip(CONSUMERS) {
            cost.0 = (program.count(way, consumer)? - device).round();
        }
    }
    if timed {
        let mut runs = vec![[[0.0; CONSUMERS.len()]; WAYS.len()]; REPETITIONS];
        // All of them in turn, so that whatever else the machine does meets all alike.
        for run in &mut runs {
            for (times, (way, _)) in run.iter_mut().zip(WAYS) {
                for (time, consumer) in times.iter_mut().zip(CONSUMERS) {
                    *time = program.time(way, consumer)?;
                }
            }
        }
        for (w, costs) in ways.iter_mut().enumerate() {
            for (c, cost) in costs.iter_mut().enumerate() {
                cost.1 = median(runs.iter().map(|run| run[w][c]).collect());
            }
        }
    }
    Ok(Figures {
        ways,
        taking: (program.count("nothing", "few")? - device).round(),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures everything.
///
/// # Errors
///
/// If the program does not build or run, or there is no callgrind.
pub(super) fn measure(stage: &Stage) -> Result<Figures> {
    figures(stage, true)
}

/// The benchmark's rows: counts, and times, each beside those of Verbena's way.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let taking = Row::plain("U24", "a completion taken and not read", figures.taking, "instructions");
    let mut rows = vec![taking];
    let first = figures.ways[0];
    for (c, consumer) in CONSUMERS.into_iter().enumerate() {
        for (costs, (_, name)) in figures.ways.iter().zip(WAYS) {
            let case = format!("{name}, {consumer} fields");
            let (count, time) = costs[c];
            rows.push(Row::plain("U24", &case, count, "instructions").beside(first[c].0));
            rows.push(Row::plain("U24", &case, time, "ns").beside(first[c].1));
        }
    }
    rows
}

/// The document's table.
fn markdown(figures: &Figures) -> String {
    let mut text = String::from(
        "| way | few fields: instructions | time | many fields: instructions | time |\n|---|---|---|---|---|\n",
    );
    let first = figures.ways[0];
    for (costs, (_, name)) in figures.ways.iter().zip(WAYS) {
        let [few, many] = *costs;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {:.1} | {} | {:.1} |",
            few.0,
            few.1 / first[0].1,
            many.0,
            many.1 / first[1].1
        );
    }
    let _ = writeln!(text, "| (taken and not read) | {} | | | |", figures.taking);
    text
}

/// The rows of a table: the first column, and the columns of instructions.
fn parse(table: &str) -> Vec<(String, Vec<f64>)> {
    let rows = table.lines().skip(2).filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next()?.to_owned();
        let counts = cells.step_by(2).filter_map(|cell| cell.parse().ok()).collect();
        Some((name, counts))
    });
    rows.collect()
}

/// Whether the table `written` is what `counted` says, but for the times.
fn agree(written: &str, counted: &str) -> Result<()> {
    let heads = |table: &str| table.lines().take(2).map(str::to_owned).collect::<Vec<_>>();
    ensure!(heads(written) == heads(counted), "its columns are others");
    let (written, counted) = (parse(written), parse(counted));
    ensure!(written.len() == counted.len(), "it has {} rows", written.len());
    for ((name, written), (wanted, counted)) in written.iter().zip(&counted) {
        ensure!(name == wanted, "it has the row {name:?} where {wanted:?} should be");
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= (b * TOLERANCE).max(2.0);
        ensure!(
            written.len() == counted.len() && written.iter().zip(counted).all(near),
            "{name}: {written:?} is written and {counted:?} is counted"
        );
    }
    Ok(())
}

/// Writes the table into the document.
///
/// # Errors
///
/// If the document is not there, or has no place for it.
pub(super) fn write(stage: &Stage, figures: &Figures) -> Result<()> {
    document::write(stage, DOCUMENT, &markdown(figures))
}

/// The test: the document says what is counted now.
pub(super) fn test(stage: &Stage) -> Result<()> {
    agree(&document::read(stage, DOCUMENT)?, &markdown(&figures(stage, false)?))
        .with_context(|| format!("{DOCUMENT} is stale: `cargo xtask bench uapi --docs` makes its table anew"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(first: f64) -> Figures {
        let mut ways = [[(100.0, 4.0), (200.0, 8.0)]; WAYS.len()];
        ways[0][0].0 = first;
        Figures { ways, taking: 30.0 }
    }

    #[test]
    fn u24_a_table_agrees_with_itself_and_with_its_neighbours_only() {
        let table = markdown(&sample(50.0));
        assert_eq!(parse(&table).len(), WAYS.len() + 1);
        agree(&table, &table).unwrap();
        agree(&table, &markdown(&sample(53.0))).unwrap();
        let error = agree(&table, &markdown(&sample(60.0))).unwrap_err().to_string();
        assert!(error.contains("inlined"), "{error}");
        let shorter = table.lines().take(5).collect::<Vec<_>>().join("\n");
        assert!(agree(&shorter, &table).is_err());
        assert!(agree(&table.replace("few fields", "fields"), &table).is_err());
        assert!(agree(&table.replace("| 200 |", "| |"), &table).is_err());
    }

    #[test]
    fn u24_each_figure_stands_beside_verbenas() {
        let rows = rows(&sample(50.0));
        assert_eq!(rows.len(), 1 + WAYS.len() * 4);
        assert_eq!(
            (rows[3].value, rows[3].reference, rows[3].ratio),
            (100.0, Some(50.0), Some(2.0))
        );
    }
}
