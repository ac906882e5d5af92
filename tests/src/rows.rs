// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of requirements against attachments: how many tests of a row passed natively, directly, in a guest, and
//! between two. Made from a test run; a part that was not run keeps the column that the file had.

use crate::Part;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use verbena_guest::harness::report::{Outcome, Row};

/// The rows that there are: what a test's name begins with, and what it is about in a few words. U are the object
/// model's, H the HCA's.
pub const ROWS: [(&str, &str); 41] = [
    ("U1", "one call shape"),
    ("U2", "generic methods"),
    ("U3", "objects that are descriptors"),
    ("U4", "method space, experimental methods"),
    ("U5", "attributes"),
    ("U6", "extended errors"),
    ("U7", "discoverable"),
    ("U8", "classes"),
    ("U9", "event queues"),
    ("U10", "driver-specific classes and attributes"),
    ("U11", "override and compile"),
    ("U12", "a second driver"),
    ("U13", "services for every object"),
    ("U14", "light objects"),
    ("U15", "create with everything"),
    ("U16", "chains"),
    ("U17", "system-wide node"),
    ("U18", "connection manager"),
    ("U19", "fast path without system calls"),
    ("U20", "no generic post and poll"),
    ("U21", "fidelity to libibverbs"),
    ("U22", "stable ABI"),
    ("U23", "access rules"),
    ("U24", "completions"),
    ("U25", "traceable"),
    ("U26", "parser and builder fuzzed"),
    ("H1", "PCIe"),
    ("H2", "registers"),
    ("H3", "commands"),
    ("H4", "queue pairs"),
    ("H5", "operations"),
    ("H6", "memory"),
    ("H7", "completion queues"),
    ("H8", "shared receive queues"),
    ("H9", "datagrams"),
    ("H10", "errors"),
    ("H11", "port"),
    ("H12", "events"),
    ("H13", "fabric"),
    ("H14", "isolation"),
    ("H15", "debugging"),
];

/// The columns: what they are called, and what tests of theirs say that they were attached by.
const COLUMNS: [(&str, &str, Part); 4] = [
    ("unit", "native", Part::Unit),
    ("direct", "direct", Part::Direct),
    ("guest", "guest", Part::Guest),
    ("pair", "pair", Part::Pair),
];

const HEAD: &str = "\
# What the tests have shown

Rows of the requirements against the ways to attach: unit tests of the crates, direct to a server's socket with no VM, in one
guest, between two guests. A number is of tests that passed. A test's name begins with its row (`h08_...` is H8's), and
`cargo xtask test --list` has all of them. Made by

    cargo xtask test --table tests/rows.md

";

/// The row that a test's name proves, as [`ROWS`] has it: `uapi::h08_some_words` is of H8. `None` if it names none.
fn row_of(name: &str) -> Option<String> {
    let own = name.rsplit("::").next()?;
    let (row, _) = own.split_once('_')?;
    let (letter, number) = row.split_at_checked(1)?;
    let digits = number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit());
    let number: u32 = digits.then(|| number.parse().ok())??;
    matches!(letter, "u" | "h").then(|| format!("{}{number}", letter.to_uppercase()))
}

/// A column: a cell for each row that has one.
type Column = BTreeMap<String, String>;

/// What a run says about one column.
fn column(tests: &[Row], attachment: &str) -> Column {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let passed = |test: &&Row| test.attachment == attachment && test.result == Outcome::Pass;
    for row in tests.iter().filter(passed).filter_map(|test| row_of(&test.name)) {
        *counts.entry(row).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(row, passed)| (row, passed.to_string()))
        .collect()
}

/// The columns of a table that was written before.
fn columns_of(text: &str) -> Vec<Column> {
    let mut columns = vec![Column::new(); COLUMNS.len()];
    for line in text
        .lines()
        .filter(|line| line.starts_with("| U") || line.starts_with("| H"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some((row, cells)) = cells.split_first() else {
            continue;
        };
        for (column, cell) in columns.iter_mut().zip(cells.iter().skip(1)) {
            if !cell.is_empty() {
                column.insert((*row).to_owned(), (*cell).to_owned());
            }
        }
    }
    columns
}

fn table(columns: &[Column]) -> String {
    let mut text = String::from(HEAD);
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "| row | about | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(names.len()));
    for (row, about) in ROWS {
        let cells = columns.iter().map(|column| column.get(row).map_or("", String::as_str));
        let _ = writeln!(text, "| {row} | {about} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

/// The name of the test that a whole run ends with.
pub const TEST: &str = "every_row_has_a_test_that_passed";

/// The rows that no test of a run has shown.
pub fn unproved(tests: &[Row]) -> Vec<&'static str> {
    let passed = |row: &str| {
        let mut passed = tests.iter().filter(|test| test.result == Outcome::Pass);
        passed.any(|test| row_of(&test.name).as_deref() == Some(row))
    };
    ROWS.iter().map(|(row, _)| *row).filter(|row| !passed(row)).collect()
}

/// Writes the table of what has run, and nothing of it failed: `parts`, each of them whole.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(path: &Path, tests: &[Row], parts: &[Part]) -> Result<()> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut columns = columns_of(&before);
    for (n, (_, attachment, part)) in COLUMNS.iter().enumerate() {
        if parts.contains(part) {
            columns[n] = column(tests, attachment);
        }
    }
    std::fs::write(path, table(&columns)).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbena_guest::conformance::CASES;

    fn test(name: &str, attachment: &str, result: Outcome) -> Row {
        Row {
            name: name.into(),
            suite: "unit".into(),
            attachment: attachment.into(),
            result,
            reason: None,
        }
    }

    #[test]
    fn names_tell_their_rows() {
        assert_eq!(row_of("uapi::messages::u04_four_blocks").as_deref(), Some("U4"));
        assert_eq!(row_of("h15_dump").as_deref(), Some("H15"));
        for none in [
            "u4_x",
            "u044_x",
            "p08_x",
            "names_tell",
            "formatting",
            "doc: src/lib.rs - u04_x (line 3)",
            "é_",
        ] {
            assert_eq!(row_of(none), None, "{none}");
        }
    }

    #[test]
    fn a_part_that_was_not_run_keeps_its_column() {
        let folder = std::env::temp_dir().join(format!("verbena-rows-{}", std::process::id()));
        let tests = [
            test("a::u01_x", "native", Outcome::Pass),
            test("b::u01_y", "native", Outcome::Pass),
            test("b::h15_y", "native", Outcome::Skip),
            test("u01_x", "direct", Outcome::Pass),
        ];
        write(&folder, &tests, &[Part::Unit, Part::Direct]).unwrap();
        let first = std::fs::read_to_string(&folder).unwrap();
        assert!(first.contains("| U1 | one call shape | 2 | 1 |  |  |"), "{first}");
        assert!(first.contains("| H15 | debugging |  |  |  |  |"), "{first}");
        let again = [
            test("u01_x", "direct", Outcome::Pass),
            test("u01_y", "direct", Outcome::Pass),
        ];
        write(&folder, &again, &[Part::Direct]).unwrap();
        let second = std::fs::read_to_string(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(second, first.replace("| 2 | 1 |", "| 2 | 2 |"));
    }

    #[test]
    fn the_checked_in_table_is_one_of_these_rows() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("rows.md");
        let text = std::fs::read_to_string(path).unwrap();
        let columns = columns_of(&text);
        assert_eq!(table(&columns), text, "written by hand?");
    }

    #[test]
    fn a_row_is_proved_by_a_test_that_passed() {
        let mut tests: Vec<Row> = ROWS
            .iter()
            .map(|(row, _)| {
                let number: u32 = row[1..].parse().unwrap();
                let name = format!("a::{}{number:02}_x", row[..1].to_lowercase());
                test(&name, "guest", Outcome::Pass)
            })
            .collect();
        assert!(unproved(&tests).is_empty());
        tests[0].result = Outcome::Fail;
        tests.pop();
        assert_eq!(unproved(&tests), ["U1", "H15"]);
    }

    #[test]
    fn every_conformance_case_proves_a_known_row() {
        for case in CASES {
            let row = row_of(case.name);
            assert!(
                row.as_ref()
                    .is_some_and(|row| ROWS.iter().any(|(known, _)| known == row)),
                "{}",
                case.name
            );
        }
    }
}
