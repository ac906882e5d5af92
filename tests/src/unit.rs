// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workspace's unit, integration and documentation tests, through cargo, one row for each test.

use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::{bail, Result};
use std::path::PathBuf;
use std::process::Command;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_launcher::process::finish;

/// A test binary that cargo built. Its name makes its tests' names unique.
struct Binary {
    name: String,
    path: PathBuf,
}

/// Builds every test binary of the workspace.
fn binaries(stage: &Stage) -> Result<Vec<Binary>> {
    let built = stage
        .checkout()
        .cargo(&["test", "--workspace", "--no-run"], stage.progress())?;
    let mut binaries = Vec::new();
    for executable in built {
        // Test binaries are those with a hash in their file's name; the others are programs that tests start.
        let file = executable
            .path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if file != executable.name {
            binaries.push(Binary {
                name: executable.name,
                path: executable.path,
            });
        }
    }
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

fn row(name: String, result: Outcome, reason: Option<String>) -> Row {
    Row {
        name,
        suite: "unit".to_owned(),
        attachment: "native".to_owned(),
        result,
        reason,
    }
}

/// The command that runs `binary` where cargo would.
fn command(stage: &Stage, binary: &Binary) -> Command {
    let mut command = Command::new(&binary.path);
    command.current_dir(stage.checkout().root());
    command
}

/// The names of the tests in `binary`.
fn tests_of(stage: &Stage, binary: &Binary) -> Result<Vec<String>> {
    let mut command = command(stage, binary);
    command.args(["--list", "--format", "terse"]);
    let output = finish(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    Ok(stdout
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Every unit test. Documentation's examples are not among them: rustdoc makes their names while it runs them.
///
/// # Errors
///
/// If they do not build.
pub fn list(stage: &Stage) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for binary in binaries(stage)? {
        for test in tests_of(stage, &binary)? {
            rows.push(row(format!("{}::{test}", binary.name), Outcome::Skip, None));
        }
    }
    Ok(rows)
}

/// Runs those that are wanted.
///
/// # Errors
///
/// If they do not build.
pub fn run(stage: &Stage, selection: &Selection, reporter: &Reporter) -> Result<()> {
    for binary in binaries(stage)? {
        let tests = tests_of(stage, &binary)?;
        let wanted: Vec<_> = tests
            .iter()
            .filter(|t| selection.wants(&format!("{}::{t}", binary.name)))
            .cloned()
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let mut command = command(stage, &binary);
        if wanted.len() < tests.len() {
            command.arg("--exact").args(&wanted);
        }
        let output = reporter.step(&binary.name, || finish(command))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let outcomes = parse(&stdout);
        for test in &wanted {
            let name = format!("{}::{test}", binary.name);
            reporter.report(match outcomes.iter().find(|(n, _)| n == test) {
                Some((_, outcome)) => row(name, *outcome, reason(*outcome, &stdout, test)),
                None => {
                    let why = format!("its binary ended before it ({})", output.status);
                    row(name, Outcome::Fail, Some(why))
                }
            });
        }
    }
    examples(stage, selection, reporter)
}

/// Runs the documentation's examples.
fn examples(stage: &Stage, selection: &Selection, reporter: &Reporter) -> Result<()> {
    let output = reporter.step("examples in the documentation", || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(stage.checkout().root()).args([
            "test",
            "--workspace",
            "--doc",
            "--no-fail-fast",
            "--quiet",
            "--",
            "--format",
            "pretty",
        ]);
        finish(command)
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let outcomes = parse(&stdout);
    let failed = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Fail);
    if !output.status.success() && !failed {
        bail!(
            "the documentation's examples do not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for (test, outcome) in outcomes {
        let name = format!("doc: {test}");
        if selection.wants(&name) {
            reporter.report(row(name, outcome, reason(outcome, &stdout, &test)));
        }
    }
    Ok(())
}

/// The outcomes in the output of the standard test harness: lines `test NAME ... ok`.
fn parse(stdout: &str) -> Vec<(String, Outcome)> {
    let mut outcomes = Vec::new();
    for line in stdout.lines() {
        let Some(rest) = line.strip_prefix("test ") else {
            continue;
        };
        let Some((name, word)) = rest.rsplit_once(" ... ") else {
            continue;
        };
        // `- should panic` and `- compile fail` are notes of the harness, not of the name.
        let name = name
            .split(" - should panic")
            .next()
            .unwrap_or(name)
            .split(" - compile")
            .next()
            .unwrap_or(name);
        let outcome = match word.split(',').next().unwrap_or(word).trim() {
            "ok" => Outcome::Pass,
            "ignored" => Outcome::Skip,
            _ => Outcome::Fail,
        };
        outcomes.push((name.to_owned(), outcome));
    }
    outcomes
}

fn reason(outcome: Outcome, stdout: &str, test: &str) -> Option<String> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Skip => Some("marked ignored".to_owned()),
        Outcome::Fail => Some(failure(stdout, test)),
    }
}

/// What the harness printed of a failed test, shortened.
fn failure(stdout: &str, test: &str) -> String {
    let head = format!("---- {test} stdout ----");
    let Some(start) = stdout.find(&head) else {
        return "failed without a message".to_owned();
    };
    let text = &stdout[start + head.len()..];
    let end = text
        .find("\n---- ")
        .or_else(|| text.find("\nfailures:"))
        .unwrap_or(text.len());
    let words: Vec<&str> = text[..end]
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .take(8)
        .collect();
    words.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a::b ... ok
test a::c - should panic ... ok
test a::d ... FAILED
test a::e ... ignored, no such device

failures:

---- a::d stdout ----
thread 'a::d' panicked at src/x.rs:1:
left is not right

failures:
    a::d
";

    #[test]
    fn outcomes_are_read_from_the_harness_output() {
        assert_eq!(
            parse(OUTPUT),
            [
                ("a::b".to_owned(), Outcome::Pass),
                ("a::c".to_owned(), Outcome::Pass),
                ("a::d".to_owned(), Outcome::Fail),
                ("a::e".to_owned(), Outcome::Skip),
            ]
        );
        assert_eq!(
            failure(OUTPUT, "a::d"),
            "thread 'a::d' panicked at src/x.rs:1: | left is not right"
        );
    }
}
