// SPDX-License-Identifier: MIT OR Apache-2.0
//! Class CM_ID on a device whose QP 1 is the kernel's, served by its rdma_cm (U18).

use anyhow::{bail, Context as _, Result};
use clap::Parser;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use verbena_guest::kernel_cm::{hold, Place, World, CASES};
use verbena_guest::program;

/// Connect queue pairs of libibverbs through communication ids of Verbena's system-wide node. Needs the module
/// verbena_rdma_cm and a Verbena HCA beside the other device.
#[derive(Parser)]
#[command(name = "verbena-kernel-cm", version)]
struct Options {
    /// The RDMA device, which is not Verbena's.
    #[arg(long, value_name = "NAME", default_value = "rxe0")]
    device: String,
    /// The address of its interface.
    #[arg(long, value_name = "IP")]
    address: Ipv4Addr,
    /// An address on the same link that has a permanent neighbour and does not answer.
    #[arg(long, value_name = "IP")]
    silent: Ipv4Addr,
    /// One that has no neighbour.
    #[arg(long, value_name = "IP")]
    nowhere: Ipv4Addr,
    /// Connect to this port and stay.
    #[arg(long, hide = true, value_name = "PORT")]
    hold: Option<u16>,
    /// The story; without it, all.
    case: Option<String>,
}

fn run(options: &Options) -> Result<ExitCode> {
    let world = World::open(&Place {
        device: options.device.clone(),
        address: options.address,
        silent: options.silent,
        nowhere: options.nowhere,
    })?;
    if let Some(port) = options.hold {
        hold(&world, port)?;
    }
    let wanted = |name: &str| options.case.as_deref().is_none_or(|case| case == name);
    let mut cases = CASES.iter().filter(|case| wanted(case.name)).peekable();
    if cases.peek().is_none() {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        bail!("there is no such story; there are {}", names.join(", "));
    }
    for case in cases {
        (case.run)(&world).context(case.name)?;
        println!("{}", case.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-kernel-cm", || run(&options))
}
