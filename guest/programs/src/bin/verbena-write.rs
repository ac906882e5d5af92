// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMA WRITEs into the other end's memory, compared there, read back by RDMA READ and compared again.

use clap::Parser;
use std::process::ExitCode;
use verbena_guest::program::{self, measure, stream::Kind};

/// Write into the other end's memory by RDMA WRITE, compare there, READ it back and compare again.
///
/// Each iteration is a WRITE, a short SEND that announces it, a comparison of every byte at the other end, a short SEND that
/// answers, a READ of what was written, and a comparison of every byte here.
///
/// Without --listen and --connect both ends are in this process, on two contexts. Between two machines (or guests) start it
/// with the same options on both, with --listen on the one and --connect on the other.
///
/// Exit code 0 if every byte was right.
#[derive(Parser)]
#[command(name = "verbena-write", version)]
struct Options {
    #[command(flatten)]
    run: measure::RunOptions,
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-write", || {
        measure::run("verbena-write", Kind::WriteRead, &options.run)
    })
}
