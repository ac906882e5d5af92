// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`.

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
    context.options.refresh = arguments.refresh;
    let environment = prepare(&context.options, &context.progress)?;
    if arguments.prune {
        let count = setup::prune(&context.options, &context.progress)?;
        println!("removed    {count} folders of {}", setup::cache_folder()?.display());
    }
    let qemu = &environment.qemu;
    println!("QEMU       {} ({})", qemu.version(), qemu.program().display());
    println!("kernel     {}", environment.kernel);
    println!("runs on    {} ({})", environment.accel.name(), environment.accel_reason);
    println!("image      {}", environment.image.display());
    println!("headers    {}", environment.headers.display());
    println!("took       {:.1} s", environment.took.as_secs_f64());
    Ok(())
}
