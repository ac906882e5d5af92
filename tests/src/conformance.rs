// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conformance suite's side of the report: what was to run, and what its output says of it.

use crate::suite::{Reporter, Selection};
use verbena_guest::conformance::CASES;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_guest::harness::Body;

fn row(name: &str, attachment: &str, result: Outcome, reason: Option<String>) -> Row {
    Row {
        name: name.to_owned(),
        suite: "conformance".to_owned(),
        attachment: attachment.to_owned(),
        result,
        reason,
    }
}

/// The cases of an attachment: all, or with `pairs_only` those of two sides.
pub fn list(attachment: &str, pairs_only: bool) -> Vec<Row> {
    CASES
        .iter()
        .filter(|case| !pairs_only || matches!(case.body, Body::Pair(_)))
        .map(|case| row(case.name, attachment, Outcome::Skip, None))
        .collect()
}

/// Reports each wanted case from the suite's output, and as failed each that the output does not have: the program ended
/// before it, as `ending` tells.
pub fn report(
    stdout: &str,
    ending: &str,
    attachment: &str,
    pairs_only: bool,
    selection: &Selection,
    reporter: &Reporter,
) {
    let rows: Vec<Row> = stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for wanted in list(attachment, pairs_only).iter().filter(|r| selection.wants(&r.name)) {
        match rows.iter().find(|r| r.name == wanted.name) {
            Some(found) => reporter.report(Row {
                attachment: attachment.to_owned(),
                ..found.clone()
            }),
            None => {
                let reason = format!("not run: {ending}");
                reporter.report(row(&wanted.name, attachment, Outcome::Fail, Some(reason)));
            }
        }
    }
}

/// The arguments that make the suite run the wanted cases and tell a machine.
pub fn arguments(selection: &Selection) -> Vec<String> {
    let mut arguments = vec!["--jsonl".to_owned()];
    if let Some(filter) = &selection.filter {
        arguments.extend(["--filter".to_owned(), filter.clone()]);
    }
    arguments
}

/// Whether any case of the attachment is wanted.
pub fn any_wanted(pairs_only: bool, selection: &Selection) -> bool {
    list("", pairs_only).iter().any(|r| selection.wants(&r.name))
}

/// The last lines of what a program said, for a reason.
pub fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}
