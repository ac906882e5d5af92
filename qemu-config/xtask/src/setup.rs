// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use verbena_launcher::{prepare, setup};

use crate::Context;

#[derive(clap::Args)]
pub struct Arguments {
    /// Ask the archive what is current, instead of keeping to what was planned before
    #[arg(long)]
    refresh: bool,
    /// Remove from the cache what is not in use any more
    #[arg(long)]
    prune: bool,
}

pub fn run(mut context: Context, arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    context.options.refresh = arguments.refresh;
    let environment = prepare(&context.options, &context.progress)?;
    if arguments.prune {
        let count = setup::prune(&context.options, &context.progress)?;
        println!("removed    {count} folders of {}", setup::cache_folder()?.display());
    }
    let modules = context.checkout.module(&environment, &context.progress)?;
    let programs = context
        .checkout
        .programs(&["verbena-hca", "verbena-guest"], &context.progress)?;
    let qemu = &environment.qemu;
    println!("QEMU       {} ({})", qemu.version(), qemu.program().display());
    println!("kernel     {}", environment.kernel);
    println!("runs on    {} ({})", environment.accel.name(), environment.accel_reason);
    println!("image      {}", environment.image.display());
    println!("headers    {}", environment.headers.display());
    for module in &modules {
        println!("module     {}", module.display());
    }
    for program in &programs {
        println!("program    {}", program.path.display());
    }
    println!("took       {:.1} s", start.elapsed().as_secs_f64());
    println!("\nTo run that QEMU yourself:\n{}", shell_line(&qemu.command()));
    Ok(())
}

/// The command as a person may type it. What std prints of a command is that: environment, program, arguments, quoted.
fn shell_line(command: &Command) -> String {
    format!("{command:?}")
}
