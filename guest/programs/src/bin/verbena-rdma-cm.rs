// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our connection manager and the kernel's rdma_cm over rdma_rxe, talking through a veth pair (U18).

use anyhow::{bail, Context as _, Result};
use clap::Parser;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use verbena_guest::program;
use verbena_guest::rdma_cm::{Place, World, CASES};

/// Let Verbena's connection manager talk to the kernel's rdma_cm on an RDMA device at the other end of a veth pair. Needs
/// CAP_NET_RAW and /dev/infiniband/rdma_cm.
#[derive(Parser)]
#[command(name = "verbena-rdma-cm", version)]
struct Options {
    /// Our end of the pair, which has no address of its own.
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Their end.
    #[arg(long, value_name = "NAME")]
    peer_interface: String,
    /// Our address, for which their end has a permanent neighbour.
    #[arg(long, value_name = "IP")]
    address: Ipv4Addr,
    /// Their address.
    #[arg(long, value_name = "IP")]
    peer_address: Ipv4Addr,
    /// Their RDMA device.
    #[arg(long, value_name = "NAME", default_value = "rxe0")]
    device: String,
    /// The conversation; without it, all.
    case: Option<String>,
}

fn run(options: &Options) -> Result<ExitCode> {
    let place = Place {
        interface: options.interface.clone(),
        peer_interface: options.peer_interface.clone(),
        address: options.address,
        peer_address: options.peer_address,
        device: options.device.clone(),
    };
    let wanted = |name: &str| options.case.as_deref().is_none_or(|case| case == name);
    let mut cases = CASES.iter().filter(|case| wanted(case.name)).peekable();
    if cases.peek().is_none() {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        bail!("there is no such conversation; there are {}", names.join(", "));
    }
    for case in cases {
        let mut world = World::new(&place)?;
        (case.run)(&mut world).context(case.name)?;
        println!("{}", case.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-rdma-cm", || run(&options))
}
