// SPDX-License-Identifier: MIT OR Apache-2.0
//! SENDs back and forth over a reliable connection, every byte of every message compared.

use clap::Parser;
use std::process::ExitCode;
use verbena_guest::program::{self, measure, stream::Kind};

/// Send messages back and forth over an RC connection and compare every byte.
///
/// Without --listen and --connect both ends are in this process, on two contexts. Between two machines (or guests) start it
/// with the same options on both, with --listen on the one and --connect on the other; they tell each other their
/// addresses over TCP and everything else goes by RDMA.
///
/// Exit code 0 if every byte was right.
#[derive(Parser)]
#[command(name = "verbena-pingpong", version)]
struct Options {
    #[command(flatten)]
    run: measure::RunOptions,
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-pingpong", || {
        measure::run("verbena-pingpong", Kind::PingPong, &options.run)
    })
}
