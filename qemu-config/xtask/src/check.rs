// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask check`.

use std::process::Command;
use std::time::Instant;

use anyhow::{bail, Result};
use verbena_launcher::process::{describe, Group, Process};

use crate::Context;

#[derive(clap::Args)]
pub struct Arguments {
    /// Correct the formatting instead of complaining about it
    #[arg(long)]
    fix: bool,
}

/// One of cargo's commands: its name for a person, its arguments, what it has in its environment.
type Step<'a> = (&'a str, &'a [&'a str], Option<(&'a str, &'a str)>);

pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let format: &[&str] = if arguments.fix {
        &["fmt", "--all"]
    } else {
        &["fmt", "--all", "--check"]
    };
    let lints = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    let steps: [Step<'_>; 4] = [
        ("formatting", format, None),
        ("lints", &lints, None),
        (
            "documentation",
            &["doc", "--quiet", "--workspace", "--no-deps"],
            Some(("RUSTDOCFLAGS", "--deny warnings")),
        ),
        ("unit tests", &["test", "--quiet", "--workspace"], None),
    ];
    let mut failed = Vec::new();
    for (name, arguments, variable) in steps {
        let start = Instant::now();
        eprintln!("{name}: cargo {}", arguments.join(" "));
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(context.checkout.root())
            .args(arguments)
            .envs(variable);
        // What cargo says is for the person: it shows its own progress on this terminal.
        let status = Process::start(command, Group::Own)?.wait()?;
        if status.success() {
            eprintln!("{name}: fine, {:.1} s", start.elapsed().as_secs_f64());
        } else {
            eprintln!("{name}: {}", describe(status));
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not in order: {}", failed.join(", "));
    }
    Ok(())
}
