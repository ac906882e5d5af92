// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reviewer should not have to look at: formatting, lints, and documentation that builds.

use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::Result;
use std::process::Command;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_launcher::process::{describe, finish};

/// Lines of what cargo says that a failure shows.
const SHOWN: usize = 60;

/// One of cargo's commands.
struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
    variable: Option<(&'static str, &'static str)>,
}

const CHECKS: [Check; 5] = [
    Check {
        name: "formatting",
        arguments: &["fmt", "--all", "--check"],
        variable: None,
    },
    // Workspaces of their own.
    Check {
        name: "formatting of uapi's fuzz targets",
        arguments: &["fmt", "--manifest-path", "uapi-driver/uapi/fuzz/Cargo.toml", "--check"],
        variable: None,
    },
    Check {
        name: "formatting of the engine's fuzz targets",
        arguments: &["fmt", "--manifest-path", "device/engine/fuzz/Cargo.toml", "--check"],
        variable: None,
    },
    Check {
        name: "lints",
        arguments: &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
        variable: None,
    },
    Check {
        name: "documentation",
        arguments: &["doc", "--quiet", "--workspace", "--no-deps"],
        variable: Some(("RUSTDOCFLAGS", "--deny warnings")),
    },
];

fn row(check: &Check, result: Outcome, reason: Option<String>) -> Row {
    Row {
        name: check.name.to_owned(),
        suite: "check".to_owned(),
        attachment: "native".to_owned(),
        result,
        reason,
    }
}

/// Every check.
pub fn list() -> Vec<Row> {
    CHECKS.iter().map(|check| row(check, Outcome::Skip, None)).collect()
}

/// Runs those that are wanted.
///
/// # Errors
///
/// If there is no cargo.
pub fn run(stage: &Stage, selection: &Selection, reporter: &Reporter) -> Result<()> {
    for check in CHECKS.iter().filter(|check| selection.wants(check.name)) {
        let output = reporter.step(check.name, || {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command
                .current_dir(stage.checkout().root())
                .args(check.arguments)
                .envs(check.variable);
            finish(command)
        })?;
        reporter.report(if output.status.success() {
            row(check, Outcome::Pass, None)
        } else {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let beginning: Vec<_> = said.lines().take(SHOWN).collect();
            let why = format!("{}\n{}", describe(output.status), beginning.join("\n"));
            row(check, Outcome::Fail, Some(why))
        });
    }
    Ok(())
}
