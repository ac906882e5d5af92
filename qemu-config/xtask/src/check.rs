// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask check`.

use anyhow::{bail, Context as _, Result};
use verbena_tests::suite::Selection;
use verbena_tests::{Part, TestOptions};

use crate::Context;

#[derive(clap::Args)]
pub struct Arguments {
    /// Correct the formatting instead of complaining about it
    #[arg(long)]
    fix: bool,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    if arguments.fix {
        let status = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(context.checkout.root())
            .args(["fmt", "--all"])
            .status()
            .context("cannot run cargo")?;
        if !status.success() {
            bail!("cargo fmt --all failed");
        }
    }
    let options = TestOptions {
        parts: vec![Part::Check, Part::Unit],
        selection: Selection::default(),
        json: None,
        table: None,
        verbose: context.progress.verbose(),
        launch: context.options.clone(),
    };
    if !verbena_tests::test(&options)? {
        bail!("not everything is in order");
    }
    Ok(())
}
