// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the device is.

use clap::Parser;
use std::process::ExitCode;
use verbena_guest::{perf, program};

/// Measure latency, rate and bandwidth of the device, in the manner of perftest, and the limits of the machine beside them.
///
/// Both ends are in this process; the device is the only other party. On a machine with two processors and more the device
/// and this process should have one each: start the server with `taskset -c 0` and this with --pin 1.
///
/// A figure is the median of the repetitions; what the smallest and the largest were is shown beside it.
#[derive(Parser)]
#[command(name = "verbena-perf", version)]
struct Options {
    #[command(flatten)]
    perf: perf::Options,
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-perf", || {
        perf::run(&options.perf)?;
        Ok(ExitCode::SUCCESS)
    })
}
