// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use verbena_tests::bench;

use crate::Context;

/// The command's own arguments.
#[derive(Args)]
pub struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Write the figures to this file as JSON: id, case, value, unit, reference, ratio, target, met
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures into the documents that carry some, too
    #[arg(long)]
    docs: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The object model: instructions of a call, four ways to present completions, a thousand connections beside libibverbs
    /// over rdma_rxe in the same guest
    Uapi,
    /// Of that, the connections alone
    Connections,
}

/// Runs it.
///
/// # Errors
///
/// If something cannot be measured. A target that is missed is shown, and no error: machines are shared.
pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let rows = match arguments.what {
        What::Uapi => bench::uapi(&context.options, &context.progress, arguments.docs)?,
        What::Connections => bench::connecting(&context.options, &context.progress)?,
    };
    match &arguments.json {
        Some(path) => bench::write_json(&rows, path),
        None => {
            print!("{}", bench::table(&rows));
            Ok(())
        }
    }
}
