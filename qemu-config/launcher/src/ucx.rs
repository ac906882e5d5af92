// SPDX-License-Identifier: MIT OR Apache-2.0
//! UCX's benchmark, a peer to be measured beside: this machine's, or one of our own in the cache.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{self, OpenptFlags};

use crate::process::find_program;
use crate::progress::Progress;
use crate::{tool, tree};

const PROGRAM: &str = "ucx_perftest";

/// A `ucx_perftest` that runs here.
#[derive(Debug)]
pub struct UcxPerftest {
    place: Place,
    /// The terminal that it has for its input. One that was built with MPI takes anything else for a sign that it was started
    /// by that, and wants its partner from there.
    _terminal: OwnedFd,
    /// The terminal's other end.
    path: PathBuf,
}

#[derive(Debug, Clone)]
enum Place {
    /// Installed on this machine.
    Host(PathBuf),
    /// In a tree of the cache.
    Tree(PathBuf),
}

impl UcxPerftest {
    /// This machine's, if it has one; else one that is fetched from the guest's release, once, with its libraries.
    ///
    /// # Errors
    ///
    /// If there is none and it cannot be fetched.
    pub fn find(progress: &Progress) -> Result<UcxPerftest> {
        if let Some(path) = find_program(PROGRAM) {
            return Self::at(Place::Host(path));
        }
        let root = tool::tree("ucx", "ucx-utils", true, progress)?;
        Self::at(Place::Tree(root))
    }

    fn at(place: Place) -> Result<UcxPerftest> {
        let open = || -> rustix::io::Result<_> {
            let terminal = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            pty::grantpt(&terminal)?;
            pty::unlockpt(&terminal)?;
            let path = pty::ptsname(&terminal, Vec::new())?;
            Ok((terminal, PathBuf::from(OsStr::from_bytes(path.as_bytes()))))
        };
        let (terminal, path) = open().context("cannot open a terminal")?;
        Ok(UcxPerftest {
            place,
            _terminal: terminal,
            path,
        })
    }

    /// The start of a command line that runs it over shared memory and nothing else, with a terminal for its input.
    ///
    /// # Errors
    ///
    /// If the terminal cannot be opened.
    pub fn command(&self) -> Result<Command> {
        let mut command = match &self.place {
            Place::Host(path) => Command::new(path),
            Place::Tree(root) => {
                let mut command = tree::outside(root, "usr/bin/ucx_perftest");
                command.env("UCX_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/ucx"));
                command
            }
        };
        command
            .env("UCX_TLS", "posix,self")
            .env("UCX_WARN_UNUSED_ENV_VARS", "n");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let input = rustix::fs::open(&self.path, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", self.path.display()))?;
        command.stdin(input);
        Ok(command)
    }
}
