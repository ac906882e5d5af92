// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzz targets of the crates, each for some seconds: coverage-guided, beginning with the checked-in corpus.
//!
//! They are built as `cargo fuzz` builds them, but for the sanitizer, which a stable compiler does not have.

use crate::scenario;
use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::{bail, ensure, Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_launcher::process::{describe, finish};

/// Where the targets run; scripts and macros are compiled for the same machine, but without what targets get.
const MACHINE: &str = "x86_64-unknown-linux-gnu";

/// Seconds that each is run.
const SECONDS: u32 = 5;

/// Inputs that a target gets through in that time on the slowest machine; a target that hangs or rejects does not.
const RUNS: u64 = 200;

/// Edges that are at least reached if the targets are instrumented and their corpora are there.
const EDGES: u64 = 100;

/// How code is compiled that tells which way it took.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg=fuzzing",
];

/// A target: the test's name, the folder of its fuzz crate from the checkout's root, and the program's name.
struct Target {
    test: &'static str,
    folder: &'static str,
    program: &'static str,
}

const TARGETS: &[Target] = &[
    Target {
        test: "u26_fuzz_the_parser_follows_its_rules",
        folder: "uapi-driver/uapi/fuzz",
        program: "parser",
    },
    Target {
        test: "u26_fuzz_what_is_built_comes_out_and_back",
        folder: "uapi-driver/uapi/fuzz",
        program: "builder",
    },
    Target {
        test: "u26_fuzz_any_calls_leave_nothing_behind",
        folder: "uapi-driver/uapi/fuzz",
        program: "dispatcher",
    },
    Target {
        test: "h14_fuzz_commands_of_a_hostile_guest_harm_nobody",
        folder: "device/engine/fuzz",
        program: "commands",
    },
    Target {
        test: "h14_fuzz_rings_of_a_hostile_guest_harm_nobody",
        folder: "device/engine/fuzz",
        program: "rings",
    },
    Target {
        test: "h14_fuzz_rules_and_counters_of_a_hostile_guest_harm_nobody",
        folder: "device/engine/fuzz",
        program: "steering",
    },
];

/// Every test of this kind.
pub fn list() -> Vec<Row> {
    TARGETS
        .iter()
        .map(|target| scenario::row(target.test, "native", Outcome::Skip, None))
        .collect()
}

/// Runs those that are wanted.
pub fn test(stage: &Stage, selection: &Selection, reporter: &Reporter) {
    for target in TARGETS.iter().filter(|target| selection.wants(target.test)) {
        let (outcome, reason) = match reporter.step(target.test, || Ok(run(stage, target))) {
            Ok(Ok(())) => (Outcome::Pass, None),
            Ok(Err(error)) | Err(error) => (Outcome::Fail, Some(format!("{error:#}"))),
        };
        reporter.report(scenario::row(target.test, "native", outcome, reason));
    }
}

/// Builds the target; where it is.
fn build(stage: &Stage, target: &Target) -> Result<PathBuf> {
    let checkout = stage.checkout();
    let manifest = checkout.root().join(target.folder).join("Cargo.toml");
    let folder = checkout.target().join("fuzz");
    let quoted: Vec<String> = FLAGS.iter().map(|flag| format!("{flag:?}")).collect();
    let flags = format!("target.{MACHINE}.rustflags=[{}]", quoted.join(","));
    let arguments = [
        "build",
        "--release",
        "--manifest-path",
        path(&manifest)?,
        "--bin",
        target.program,
        "--target",
        MACHINE,
        "--target-dir",
        path(&folder)?,
        "--config",
        &flags,
    ];
    let built = checkout
        .cargo(&arguments, stage.progress())
        .context("a fuzz target needs a C++ compiler beside cargo (Debian: g++)")?;
    let program = built.into_iter().find(|e| e.name == target.program);
    Ok(program.context("cargo built no target")?.path)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))
}

fn run(stage: &Stage, target: &Target) -> Result<()> {
    let program = build(stage, target)?;
    // What it finds on the way is not kept: each run begins with what is checked in.
    let scratch = stage.checkout().logs("fuzz")?.join(target.program);
    let found = scratch.join("corpus");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot empty {}", scratch.display()))?;
    }
    std::fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let mut command = Command::new(&program);
    command
        .arg(format!("-max_total_time={SECONDS}"))
        .args(["-len_control=0", "-max_len=512"])
        .args(["-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", scratch.display()))
        .arg(&found)
        .arg(
            stage
                .checkout()
                .root()
                .join(target.folder)
                .join("corpus")
                .join(target.program),
        );
    let output = finish(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let input = after(&said, "Test unit written to ").unwrap_or("nowhere");
        bail!(
            "{} ({}); the input is in {input}",
            complaint(&said).unwrap_or("it says nothing"),
            describe(output.status)
        );
    }
    let number = |text: &str| after(&said, text).and_then(|word| word.parse::<u64>().ok());
    let runs = number("stat::number_of_executed_units: ").unwrap_or(0);
    let edges = said
        .lines()
        .rev()
        .find_map(|line| after(line, "cov: ")?.parse().ok())
        .unwrap_or(0);
    ensure!(runs >= RUNS, "it ran {runs} inputs in {SECONDS} s");
    ensure!(
        edges >= EDGES,
        "it reached {edges} edges: is it instrumented, is its corpus there?"
    );
    Ok(())
}

/// The word that follows `text`.
fn after<'a>(said: &'a str, text: &str) -> Option<&'a str> {
    said.split_once(text)?.1.split_whitespace().next()
}

/// What went wrong: the panic's message, or the fuzzer's own line.
fn complaint(said: &str) -> Option<&str> {
    let mut lines = said.lines();
    lines
        .find(|line| line.contains(" panicked at "))
        .and_then(|_| lines.next())
        .or_else(|| said.lines().find(|line| line.contains("ERROR: libFuzzer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u26_a_fuzzers_words_are_understood() {
        let said = "#9\tDONE   cov: 228 ft: 4 exec/s: 5\nstat::number_of_executed_units: 674461\n";
        assert_eq!(after(said, "cov: "), Some("228"));
        assert_eq!(after(said, "stat::number_of_executed_units: "), Some("674461"));
        let said = "noise\nthread 'x' panicked at y:1:\nleft is not right\n== ERROR: libFuzzer: deadly signal\n";
        assert_eq!(complaint(said), Some("left is not right"));
        assert_eq!(
            complaint("== ERROR: libFuzzer: timeout"),
            Some("== ERROR: libFuzzer: timeout")
        );
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn u26_every_target_has_a_corpus() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for target in TARGETS {
            let folder = root.join(target.folder).join("corpus").join(target.program);
            assert!(
                folder.read_dir().is_ok_and(|mut files| files.next().is_some()),
                "{}",
                folder.display()
            );
        }
    }
}
