// SPDX-License-Identifier: MIT OR Apache-2.0
//! `verbena-hca`: see `verbena-hca --help`.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use verbena_hca::cli::HcaArgs;
use verbena_hca::Server;

fn main() -> ExitCode {
    let args = HcaArgs::parse();
    env_logger::Builder::new()
        .filter_level(args.log.into())
        .format(|out, record| {
            let level = record.level().as_str().to_lowercase();
            writeln!(out, "verbena-hca: {level}: {}", record.args())
        })
        .init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verbena-hca: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &HcaArgs) -> Result<()> {
    raise_descriptor_limit();
    let mut seed = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut seed))
        .context("/dev/urandom")?;
    let config = args.config(u64::from_ne_bytes(seed)).map_err(anyhow::Error::msg)?;
    let server = Server::new(&config)?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let stop = server.stopper()?.stream().try_clone()?;
        signal_hook::low_level::pipe::register(signal, stop).context("cannot handle signals")?;
        // Whoever started the server may have blocked it, and a mask is inherited.
        vmm_sys_util::signal::unblock_signal(signal)
            .map_err(|error| anyhow::anyhow!("cannot unblock signal {signal}: {error:?}"))?;
    }
    // Said in any case, not logged: who started the server may wait for it.
    for (index, path) in config.sockets.iter().enumerate() {
        eprintln!("verbena-hca: hca {index}: listening on {}", path.display());
    }
    if let Some(path) = &config.control {
        eprintln!("verbena-hca: control: listening on {}", path.display());
    }
    Ok(server.run()?)
}

/// Every vector of every client is a descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}
