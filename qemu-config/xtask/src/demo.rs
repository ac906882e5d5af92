// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`.

use anyhow::{bail, Context as _, Result};
use clap::Args;
use std::path::PathBuf;

use crate::Context;

/// The command's own arguments.
#[derive(Args)]
pub struct Arguments {
    /// Write what the demo found to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
///
/// If any of it goes wrong, data that is not what was sent included.
pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let report = verbena_tests::demo::run(context.options.clone(), &context.progress)?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let errors = report.single.errors + report.pair.errors;
    if errors > 0 {
        bail!("{errors} errors in the data");
    }
    if report.fast_path_syscalls > 0 {
        bail!("the fast path made {} system calls", report.fast_path_syscalls);
    }
    Ok(())
}
