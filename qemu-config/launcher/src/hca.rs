// SPDX-License-Identifier: MIT OR Apache-2.0
//! A running `verbena-hca`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::console::tail;
use crate::process::{describe, Group, Process};
use crate::session::TempDir;

/// How to run it.
#[derive(Debug, Clone)]
pub struct HcaConfig {
    /// The program.
    pub program: PathBuf,
    /// How many HCAs it serves.
    pub count: usize,
    /// What is given to `--log`, if anything.
    pub log: Option<String>,
    /// What is added to its command line.
    pub arguments: Vec<String>,
    /// Where its standard error goes.
    pub log_file: PathBuf,
}

/// A running `verbena-hca`. Dropping it kills it.
#[derive(Debug)]
pub struct Hca {
    process: Process,
    folder: TempDir,
    count: usize,
    log_file: PathBuf,
}

/// How long its sockets may take to appear.
const READY: Duration = Duration::from_secs(20);

impl Hca {
    /// Starts it, and waits until all its sockets are there.
    ///
    /// # Errors
    ///
    /// If it cannot be started or ends at once, with what it said.
    pub fn start(config: &HcaConfig) -> Result<Hca> {
        let folder = TempDir::new("hca")?;
        let log = File::create(&config.log_file);
        let log = log.with_context(|| format!("cannot write {}", config.log_file.display()))?;
        let mut command = Command::new(&config.program);
        for number in 0..config.count {
            command.arg("--socket").arg(socket(folder.path(), number));
        }
        command.arg("--control").arg(folder.path().join("control"));
        if let Some(log) = &config.log {
            command.args(["--log", log]);
        }
        command.args(&config.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = Process::start(command, Group::Own)?;
        let mut hca = Hca {
            process,
            folder,
            count: config.count,
            log_file: config.log_file.clone(),
        };
        hca.wait_until_ready()?;
        Ok(hca)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut sockets: Vec<_> = (0..self.count).map(|number| self.socket(number)).collect();
        sockets.push(self.control());
        let deadline = Instant::now() + READY;
        while !sockets.iter().all(|socket| socket.exists()) {
            if let Some(status) = self.process.try_wait()? {
                bail!(
                    "verbena-hca ended at once ({}): {}",
                    describe(status),
                    tail(&self.log_file, 5)
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "verbena-hca made no sockets within {READY:?}: {}",
                    tail(&self.log_file, 5)
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The vfio-user socket of one HCA, counted from 0.
    pub fn socket(&self, number: usize) -> PathBuf {
        assert!(number < self.count, "it serves {} HCAs", self.count);
        socket(self.folder.path(), number)
    }

    /// The control socket, for `verbena-ctl`.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// What wait(2) says.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Everything that it has said so far.
    pub fn log(&self) -> String {
        crate::console::text(&self.log_file)
    }

    /// Kills it with SIGKILL, as if it had crashed.
    ///
    /// # Errors
    ///
    /// What wait(2) says.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.signal(libc::SIGKILL);
        self.process.wait().map(drop)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    ///
    /// If it does not end within `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.process.signal(libc::SIGTERM);
        match self.process.wait_for(timeout)? {
            Some(status) => Ok(status),
            None => bail!(
                "verbena-hca did not end within {timeout:?} of SIGTERM: {}",
                tail(&self.log_file, 5)
            ),
        }
    }
}

fn socket(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("hca{number}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(folder: &TempDir, script: &str) -> HcaConfig {
        let program = folder.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        HcaConfig {
            program,
            count: 2,
            log: None,
            arguments: Vec::new(),
            log_file: folder.path().join("log"),
        }
    }

    #[test]
    fn it_is_ready_when_its_sockets_are_there_and_ends_when_asked() {
        let folder = TempDir::new("hca-test").unwrap();
        let script = "trap 'exit 3' TERM; echo \"$@\" >&2; touch \"$2\" \"$4\" \"$6\"; while :; do sleep 0.02; done";
        let mut hca = Hca::start(&config(&folder, script)).unwrap();
        assert!(hca.socket(1).exists() && hca.control().exists());
        assert!(hca.log().starts_with("--socket /"), "{}", hca.log());
        assert_eq!(hca.terminate(Duration::from_secs(10)).unwrap().code(), Some(3));
        assert!(hca.ended().unwrap().is_some());
    }

    #[test]
    fn what_it_says_when_it_fails_is_passed_on() {
        let folder = TempDir::new("hca-test").unwrap();
        let error = Hca::start(&config(&folder, "echo the path is taken >&2; exit 2")).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("the path is taken") && error.contains("exit status 2"),
            "{error}"
        );
    }
}
