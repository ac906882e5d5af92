// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting instructions: valgrind's callgrind, this machine's or one of our own in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::output;
use crate::progress::Progress;
use crate::tool;

/// Where the tools are, in any Debian tree. They are linked statically, so they run without the tree's libraries.
const TOOLS: &str = "usr/libexec/valgrind";

/// A callgrind that runs here.
#[derive(Debug, Clone)]
pub struct Callgrind {
    tools: PathBuf,
}

impl Callgrind {
    /// This machine's, if it has valgrind; else one that is fetched from the guest's release, once.
    ///
    /// # Errors
    ///
    /// If there is none and it cannot be fetched.
    pub fn find(progress: &Progress) -> Result<Callgrind> {
        if let Some(found) = Self::below(Path::new("/")) {
            return Ok(found);
        }
        let root = tool::tree("valgrind", "valgrind", false, progress)?;
        Self::below(&root).with_context(|| format!("there is no callgrind in {}", root.display()))
    }

    fn below(root: &Path) -> Option<Callgrind> {
        let tools = root.join(TOOLS);
        tools
            .join("callgrind-amd64-linux")
            .exists()
            .then_some(Callgrind { tools })
    }

    /// The instructions that a program executes, from its start to its end.
    ///
    /// # Errors
    ///
    /// If it fails, or callgrind does not understand it.
    pub fn instructions(&self, program: &Path, arguments: &[&str]) -> Result<u64> {
        self.count(&[], program, arguments)
    }

    /// The instructions of the functions that match `pattern` (`*` and `?` as in file names), with all that they call.
    ///
    /// # Errors
    ///
    /// As [`Callgrind::instructions`].
    pub fn instructions_in(&self, pattern: &str, program: &Path, arguments: &[&str]) -> Result<u64> {
        self.count(&[&format!("--toggle-collect={pattern}")], program, arguments)
    }

    fn count(&self, options: &[&str], program: &Path, arguments: &[&str]) -> Result<u64> {
        let mut command = Command::new(self.tools.join("callgrind-amd64-linux"));
        // What the launcher in /usr/bin would tell it; the launcher's own path is shown in messages only.
        command
            .env("VALGRIND_LIB", &self.tools)
            .env("VALGRIND_LAUNCHER", "valgrind");
        command
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"])
            .args(options)
            .arg(program)
            .args(arguments);
        let said = String::from_utf8_lossy(&output(command)?).into_owned();
        let count = said
            .lines()
            .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
        count.with_context(|| format!("callgrind does not say what it counted: {said}"))
    }
}
