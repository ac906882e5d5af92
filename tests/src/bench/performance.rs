// SPDX-License-Identifier: MIT OR Apache-2.0
//! The document that carries the last full run.

use super::{document, number, Row};
use crate::stage::Stage;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::process::Command;
use verbena_launcher::process::output;

/// The document, from the checkout's root.
const DOCUMENT: &str = "device/docs/performance.md";
/// Its pictures.
pub const PICTURES: &str = "device/docs/performance";

/// Writes the rows into the document, with the date and the machine.
///
/// # Errors
///
/// If the document has no place for them, or the machine says nothing of itself.
pub(super) fn write(stage: &Stage, rows: &[Row]) -> Result<()> {
    let mut date = Command::new("date");
    date.args(["-u", "+%Y-%m-%d"]);
    let date = String::from_utf8(output(date)?)?;
    let text = format!("{}, {}.\n\n{}", date.trim(), machine()?, markdown(rows));
    document::write(stage, DOCUMENT, &text)
}

/// Processors and kernel.
fn machine() -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("cannot ask which processor this is")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, name)| name);
    let count = std::thread::available_parallelism()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{count} processors ({model}), Linux {}", kernel.trim()))
}

/// The rows as a table.
fn markdown(rows: &[Row]) -> String {
    let mut text =
        String::from("| row | case | figure | reference | ratio | target | met |\n|---|---|---|---|---|---|---|\n");
    let maybe = |n: Option<f64>| n.map(number).unwrap_or_default();
    // The layouts of completions have a document of their own.
    for row in rows.iter().filter(|row| row.id != "U24") {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let target = row.target.as_deref().unwrap_or("");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} {} | {} | {} | {target} | {met} |",
            row.id,
            row.case,
            number(row.value),
            row.unit,
            maybe(row.reference),
            maybe(row.ratio),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let rows = [
            Row::against("P1", "a message", 0.9, "us", 0.3, 2.0),
            Row::plain("-", "another", 7.0, "us"),
            Row::plain("U24", "a third", 1.0, "us"),
        ];
        let table = markdown(&rows);
        assert_eq!(table.lines().count(), 2 + 2);
        assert!(
            table.contains("| P1 | a message | 0.90 us | 0.30 | 3 | ratio <= 2 | **no** |"),
            "{table}"
        );
        assert!(!machine().unwrap().contains('\n'));
    }
}
