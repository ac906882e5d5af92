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
    /// What to measure [default: all but the part of a part]
    #[arg(value_enum)]
    what: Vec<What>,
    /// Write the figures to this file as JSON: id, case, value, unit, reference, ratio, target, met
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the native figures into this folder: latency, bandwidth, rate, as SVG
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Write the figures into the documents that carry some, too
    #[arg(long)]
    docs: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The fast path without a guest, beside what the machine can do at all: P1 to P6, P8, P9
    Native,
    /// The fast path in a guest, beside perftest over rdma_rxe in the same guest: P10 to P12
    Guest,
    /// The object model: instructions of a call, four ways to present completions, a thousand connections beside libibverbs
    /// over rdma_rxe in the same guest: P7, P13
    Uapi,
    /// Of that, the connections alone
    Connections,
}

impl From<What> for bench::Part {
    fn from(what: What) -> Self {
        match what {
            What::Native => Self::Native,
            What::Guest => Self::Guest,
            What::Uapi => Self::Uapi,
            What::Connections => Self::Connections,
        }
    }
}

/// Runs it.
///
/// # Errors
///
/// If something cannot be measured. A target that is missed is shown, and no error: machines are shared.
pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let mut parts: Vec<bench::Part> = arguments.what.iter().map(|&what| what.into()).collect();
    if parts.is_empty() {
        parts = bench::Part::ALL.to_vec();
    }
    let plot = arguments.plot.as_deref();
    let rows = bench::run(&context.options, &context.progress, &parts, arguments.docs, plot)?;
    match &arguments.json {
        Some(path) => bench::write_json(&rows, path),
        None => {
            print!("{}", bench::table(&rows));
            Ok(())
        }
    }
}
