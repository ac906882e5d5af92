// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long it takes to make and connect many queue pairs, and, under strace, in how many system calls.

use anyhow::{ensure, Result};
use clap::Parser;
use std::process::ExitCode;
use verbena_guest::connections;
use verbena_guest::perf::pin;
use verbena_guest::program::{self, DeviceOptions};

/// Make reliable queue pairs and connect each to its neighbour, from opening the device until the last is in RTS; one line
/// of seconds a run.
#[derive(Parser)]
#[command(name = "verbena-connections", version)]
struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    /// Use this device of libibverbs instead, one call after the other.
    #[arg(long, value_name = "DEVICE")]
    libibverbs: Option<String>,
    /// Queue pairs: an even number.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    qps: usize,
    /// Runs, each from nothing.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Run on this processor and no other. The device should have another one.
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Write a line to stderr where what is timed begins and ends.
    #[arg(long)]
    marks: bool,
}

fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        options.qps > 0 && options.qps % 2 == 0,
        "the number of queue pairs must be even"
    );
    if let Some(cpu) = options.pin {
        pin(cpu)?;
    }
    let mark = |line: &str| {
        if options.marks {
            program::mark(line);
        }
    };
    for _ in 0..options.repeat {
        let took = match &options.libibverbs {
            Some(device) => connections::connect_with_libibverbs(device, options.qps, mark)?,
            None => connections::connect(&options.device.attach, options.qps, mark)?,
        };
        println!("{:.9}", took.as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-connections", || run(&options))
}
