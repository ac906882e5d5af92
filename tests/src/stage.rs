// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests and the demo act on: built programs, the environment for guests, folders for logs. Each is made when it is
//! first needed, so that a run without guests sets up no guest.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use verbena_launcher::payload::Payload;
use verbena_launcher::process::{Group, Process};
use verbena_launcher::setup::Environment;
use verbena_launcher::{prepare, Checkout, Guest, GuestConfig, Hca, HcaConfig, Options, Progress};

/// The packages whose binaries run on the host or in guests.
const PACKAGES: [&str; 3] = ["verbena-hca", "verbena-guest", "verbena-agent"];

/// The programs that a guest gets.
const GUEST_PROGRAMS: [&str; 12] = [
    "verbena-agent",
    "verbena-conformance",
    "verbena-connections",
    "verbena-info",
    "verbena-kernel-cm",
    "verbena-mortal",
    "verbena-perf",
    "verbena-pingpong",
    "verbena-rdma-cm",
    "verbena-trace",
    "verbena-traffic",
    "verbena-write",
];

/// See the module's text.
pub struct Stage {
    checkout: Checkout,
    options: Options,
    progress: Progress,
    programs: OnceLock<Vec<(String, PathBuf)>>,
    environment: OnceLock<Environment>,
    payload: OnceLock<Payload>,
}

impl Stage {
    /// Finds the checkout; makes nothing yet.
    ///
    /// # Errors
    ///
    /// If the checkout is gone.
    pub fn new(options: Options, progress: Progress) -> Result<Self> {
        Ok(Self {
            checkout: Checkout::find()?,
            options,
            progress,
            programs: OnceLock::new(),
            environment: OnceLock::new(),
            payload: OnceLock::new(),
        })
    }

    /// The checkout.
    pub fn checkout(&self) -> &Checkout {
        &self.checkout
    }

    /// Where it is shown what goes on.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The built programs, by name.
    ///
    /// # Errors
    ///
    /// If they do not build.
    pub fn programs(&self) -> Result<&[(String, PathBuf)]> {
        once(&self.programs, || {
            let built = self.checkout.programs(&PACKAGES, &self.progress)?;
            Ok(built.into_iter().map(|e| (e.name, e.path)).collect())
        })
        .map(Vec::as_slice)
    }

    /// The path of one program.
    ///
    /// # Errors
    ///
    /// If the programs do not build, or none has this name.
    pub fn program(&self, name: &str) -> Result<&Path> {
        let found = self.programs()?.iter().find(|(n, _)| n == name);
        Ok(&found.with_context(|| format!("no package builds {name}"))?.1)
    }

    /// What guests need beside the payload.
    ///
    /// # Errors
    ///
    /// If it cannot be set up.
    pub fn environment(&self) -> Result<&Environment> {
        once(&self.environment, || prepare(&self.options, &self.progress))
    }

    /// What guests bring along: the module and the programs.
    ///
    /// Setting up downloads, unpacks and waits; the programs are built beside it, which hides the one in the other.
    ///
    /// # Errors
    ///
    /// If something does not build.
    pub fn payload(&self) -> Result<&Payload> {
        once(&self.payload, || {
            let (environment, programs) = thread::scope(|scope| {
                let programs = scope.spawn(|| self.programs().map(|_| ()));
                let environment = self.environment();
                (environment, programs.join().expect("building does not panic"))
            });
            let environment = environment?;
            programs?;
            let modules = self.checkout.module(environment, &self.progress)?;
            let mut programs = Vec::new();
            for name in GUEST_PROGRAMS {
                programs.push((name.to_owned(), self.program(name)?.to_owned()));
            }
            Ok(Payload { modules, programs })
        })
    }

    /// Starts a server of `count` HCAs; its words go to `logs`.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn hca(&self, count: usize, logs: &Path) -> Result<Hca> {
        Hca::start(&HcaConfig {
            program: self.program("verbena-hca")?.to_owned(),
            count,
            log: None,
            arguments: Vec::new(),
            log_file: logs.join("verbena-hca.log"),
        })
    }

    /// Boots a guest on HCA `number` of `hca`.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn boot(&self, name: &str, hca: &Hca, number: usize, logs: &Path) -> Result<Guest> {
        self.boot_with(name, hca, number, logs, |_| {})
    }

    /// Boots a guest on HCA `number` of `hca`, with `change` made to its configuration.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn boot_with(
        &self,
        name: &str,
        hca: &Hca,
        number: usize,
        logs: &Path,
        change: impl FnOnce(&mut GuestConfig),
    ) -> Result<Guest> {
        let (environment, payload) = (self.environment()?, self.payload()?);
        let mut config = GuestConfig::new(name, payload.clone(), logs);
        config.hca = Some(hca.socket(number));
        change(&mut config);
        let task = self.progress.begin(&format!("boot {name}"), None);
        let guest = Guest::boot(environment, &config)?;
        task.done();
        Ok(guest)
    }

    /// Starts one of the programs on the host. It dies with this process.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self, name: &str, change: impl FnOnce(&mut Command)) -> Result<Process> {
        let mut command = Command::new(self.program(name)?);
        change(&mut command);
        Process::start(command, Group::Own)
    }
}

/// The cell's value, made by `make` the first time. (`OnceLock::get_or_try_init` is not stable.)
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if cell.get().is_none() {
        let value = make()?;
        // Whoever filled it meanwhile made the same.
        let _ = cell.set(value);
    }
    Ok(cell.get().expect("it was filled just now"))
}
