// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`.

use anyhow::{bail, Result};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use verbena_tests::suite::Selection;
use verbena_tests::{Part, TestOptions};

use crate::Context;

/// The command's own arguments.
#[derive(Args)]
pub struct Arguments {
    /// Only these parts [default: all]
    #[arg(value_enum)]
    parts: Vec<Word>,
    /// Print every test, one a line with its name last, and run none
    #[arg(long)]
    list: bool,
    /// Only tests whose name contains this: a row ("h10_") or a word ("flush")
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write a row for each test to this file: name, suite, attachment, result, reason
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table of requirements against attachments to this file; parts that are not run keep their columns
    #[arg(long, value_name = "FILE", conflicts_with = "filter")]
    table: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Word {
    /// Formatting, lints, documentation that builds
    Check,
    /// Every crate's own tests
    Unit,
    /// The conformance suite with no VM, and what only the host sees
    Direct,
    /// The conformance suite in one guest, and what a kernel must survive
    Guest,
    /// The conformance suite between two guests
    Pair,
}

/// Runs it.
///
/// # Errors
///
/// If a test fails, or something that is no test goes wrong.
pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let mut parts: Vec<Part> = Vec::new();
    for word in &arguments.parts {
        parts.push(match word {
            Word::Check => Part::Check,
            Word::Unit => Part::Unit,
            Word::Direct => Part::Direct,
            Word::Guest => Part::Guest,
            Word::Pair => Part::Pair,
        });
    }
    if parts.is_empty() {
        parts = Part::ALL.to_vec();
    }
    let options = TestOptions {
        parts,
        selection: Selection {
            filter: arguments.filter.clone(),
        },
        json: arguments.json.clone(),
        table: arguments.table.clone(),
        verbose: context.progress.verbose(),
        launch: context.options.clone(),
    };
    if arguments.list {
        for row in verbena_tests::list(&options)? {
            println!("{} {} {}", row.suite, row.attachment, row.name);
        }
        return Ok(());
    }
    if !verbena_tests::test(&options)? {
        bail!("not every test passed");
    }
    Ok(())
}
