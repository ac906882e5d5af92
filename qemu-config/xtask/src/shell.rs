// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask shell`.

use anyhow::{Context as _, Result};
use verbena_launcher::build::Executable;
use verbena_launcher::{prepare, Guest, GuestConfig, Hca, HcaConfig, Payload, Scenario};

use crate::Context;

#[derive(clap::Args)]
pub struct Arguments {
    /// Boot without the device
    #[arg(long)]
    no_device: bool,
    /// Leave the module for you to load
    #[arg(long)]
    no_module: bool,
    /// What verbena-hca logs: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
    /// More options for QEMU
    #[arg(last = true)]
    qemu_options: Vec<String>,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let Context {
        options,
        progress,
        checkout,
    } = context;
    let environment = prepare(options, progress)?;
    let modules = if arguments.no_device {
        Vec::new()
    } else {
        checkout.module(&environment, progress)?
    };
    let programs = checkout.programs(&["verbena-hca", "verbena-agent", "verbena-guest"], progress)?;
    let logs = checkout.logs("shell")?;

    let hca = match arguments.no_device {
        true => None,
        false => Some(Hca::start(&HcaConfig {
            program: program(&programs, "verbena-hca")?,
            count: 1,
            log: Some(arguments.log.clone()),
            arguments: Vec::new(),
            log_file: logs.join("hca.log"),
        })?),
    };
    let payload = Payload {
        modules,
        programs: programs
            .iter()
            .map(|program| (program.name.clone(), program.path.clone()))
            .collect(),
    };
    let mut config = GuestConfig::new("shell", payload, &logs);
    config.scenario = Scenario::Shell;
    config.hca = hca.as_ref().map(|hca| hca.socket(0));
    config.load_module = !arguments.no_module;
    config.qemu_options.clone_from(&arguments.qemu_options);

    eprintln!("`exit` powers the guest off, Ctrl-a x pulls its plug.");
    if let Some(hca) = &hca {
        eprintln!(
            "The device's log is {}; look inside with, from another terminal:",
            logs.join("hca.log").display()
        );
        let ctl = program(&programs, "verbena-ctl")?;
        eprintln!("    {} dump --socket {}", ctl.display(), hca.control().display());
    }
    Guest::interact(&environment, &config)
}

fn program(programs: &[Executable], name: &str) -> Result<std::path::PathBuf> {
    let found = programs.iter().find(|program| program.name == name);
    Ok(found.with_context(|| format!("cargo built no {name}"))?.path.clone())
}
