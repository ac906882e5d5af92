// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: one command for everything that is done with this checkout.
//!
//! Here is the command line and nothing else: guests and servers are the launcher's business, what is tested and shown
//! is `verbena-tests`'.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod setup;
mod shell;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use verbena_launcher::qemu::AccelChoice;
use verbena_launcher::{Checkout, Options, Progress, Session};

/// Build, boot, try and test the Verbena HCA.
///
/// The first command that needs a guest sets everything up: a private QEMU, a stock Debian kernel, a guest image and
/// what the kernel module is built with. That takes some minutes, once; it is kept in the user's cache folder.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone)]
struct Common {
    /// What guests run on. auto tries to boot one under KVM, once, and falls back to emulation (tcg)
    #[arg(long, global = true, value_name = "auto|kvm|tcg", default_value = "auto")]
    accel: AccelChoice,
    /// Show everything that goes on, and no progress bars
    #[arg(long, short, global = true)]
    verbose: bool,
    /// The guest's kernel, as `uname -r` says it [default: the newest 7.3.x of trixie-backports]
    #[arg(long, global = true, value_name = "RELEASE", env = "VERBENA_KERNEL")]
    kernel: Option<String>,
    /// The QEMU to use [default: this machine's, if it is 10.1 or newer and has vfio-user-pci; else a private one]
    #[arg(long, global = true, value_name = "PROGRAM", env = "VERBENA_QEMU")]
    qemu: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// The main job: RDMA in a guest, then between two guests, with every step told
    Demo(demo::Arguments),
    /// Everything: checks, unit tests, direct (no VM), one guest, two guests
    Test(test::Arguments),
    /// A guest to type in, with the device, the tools and the module in it
    Shell(shell::Arguments),
    /// Figures: how fast it is, beside what the machine can do, what a peer does, and what it should
    Bench(bench::Arguments),
    /// What CI and a person run before a commit: formatting, lints, documentation, unit tests
    Check(check::Arguments),
    /// Make everything that guests need, without booting one, and say where it is
    Setup(setup::Arguments),
}

/// What every command has to work with.
struct Context {
    options: Options,
    progress: Progress,
    checkout: Checkout,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread: see there.
    let _session = Session::begin();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let Common {
        accel,
        verbose,
        kernel,
        qemu,
    } = cli.common;
    let context = Context {
        options: Options {
            accel,
            kernel,
            qemu,
            refresh: false,
        },
        progress: Progress::new(verbose),
        checkout: Checkout::find()?,
    };
    match cli.command {
        Command::Demo(arguments) => demo::run(&context, &arguments),
        Command::Test(arguments) => test::run(&context, &arguments),
        Command::Shell(arguments) => shell::run(&context, &arguments),
        Command::Bench(arguments) => bench::run(&context, &arguments),
        Command::Check(arguments) => check::run(&context, &arguments),
        Command::Setup(arguments) => setup::run(context, &arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
