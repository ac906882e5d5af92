// SPDX-License-Identifier: MIT OR Apache-2.0
//! UCX's benchmark, a peer to be measured beside: this machine's, or one of our own in the cache.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{self, OpenptFlags};

use crate::archive::{self, Archive, Wanted};
use crate::graph::{Step, Store, Work};
use crate::key::Key;
use crate::mirror;
use crate::process::find_program;
use crate::progress::Progress;
use crate::{setup, tree};

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
        let store = Store::open(&setup::cache_folder()?)?;
        let key = Key::of("ucx-1").text(archive::RELEASE).finish();
        let root = store.path("ucx", &key);
        let apt = store.root().join("apt");
        let step = Step {
            name: "ucx",
            key,
            after: Vec::new(),
            action: Box::new(move |work| fetch(&apt, work)),
        };
        store.make(vec![step], progress)?;
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

fn fetch(apt: &Path, work: &Work) -> Result<()> {
    // The caller's lock on the store keeps others from the archive too.
    let mirror = mirror::find(Path::new("/etc/apt"), &mirror::host_codename()?)?;
    let archive = Archive::open(apt, &mirror)?;
    work.task.message("asking what is current");
    archive.update().context("the mirror cannot be reached")?;
    let packages = archive.resolve(&Wanted {
        name: "ucx",
        packages: vec!["ucx-utils".to_owned()],
        dependencies: true,
        backports: false,
    })?;
    let debs = work.out.join(".debs");
    fs::create_dir(&debs)?;
    archive.download(&packages, &debs, work.task)?;
    tree::unpack(&debs, work.out, &[], work.task)?;
    fs::remove_dir_all(&debs).context("cannot remove the download")
}
