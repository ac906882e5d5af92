// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run brings into the guest: `/opt/verbena`, a read-only disk that is made for each guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::make_ext4;
use crate::process::{find_program, output};
use crate::session::TempDir;

/// Files for the guest.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    /// Kernel modules, for `/opt/verbena/module`. udev in the guest loads those whose device is there.
    pub modules: Vec<PathBuf>,
    /// Programs, for `/opt/verbena/bin`, which is in the guest's `PATH`, with their names there. `verbena-agent` has to
    /// be among them.
    pub programs: Vec<(String, PathBuf)>,
}

impl Payload {
    /// Makes the disk.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or the disk not be made.
    pub fn make_disk(&self, disk: &Path) -> Result<()> {
        let staging = TempDir::new("payload")?;
        for folder in ["bin", "module"] {
            fs::create_dir(staging.path().join(folder))?;
        }
        for (name, path) in &self.programs {
            stage(path, &staging.path().join("bin").join(name), 0o755)?;
        }
        for path in &self.modules {
            let name = path.file_name().unwrap_or_default();
            stage(path, &staging.path().join("module").join(name), 0o644)?;
        }
        make_ext4(disk, staging.path(), 16 << 20)
    }
}

/// Copies a file without its debugging information: that is most of it, and reading it under emulation takes seconds.
fn stage(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let stripped = find_program("strip").is_some_and(|strip| {
        let mut command = Command::new(strip);
        command.arg("--strip-debug").arg("-o").arg(to).arg(from);
        output(command).is_ok()
    });
    if !stripped {
        // Not an object file, or no strip here: as it is, then.
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_modules_have_their_places_on_the_disk() {
        let folder = TempDir::new("payload-test").unwrap();
        let file = folder.path().join("x.ko");
        fs::write(&file, "no object file").unwrap();
        let programs = vec![("renamed".to_owned(), file.clone())];
        let disk = folder.path().join("disk");
        Payload {
            modules: vec![file],
            programs,
        }
        .make_disk(&disk)
        .unwrap();
        let mut command = Command::new("debugfs");
        command
            .args(["-R", "ls -p bin"])
            .arg(&disk)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        let said = String::from_utf8(output(command).unwrap()).unwrap();
        assert!(said.contains("/100755/0/0/renamed/"), "{said}");
        let mut command = Command::new("debugfs");
        command
            .args(["-R", "cat module/x.ko"])
            .arg(&disk)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        assert_eq!(output(command).unwrap(), b"no object file");
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = TempDir::new("payload-test").unwrap();
        let programs = vec![("a".to_owned(), PathBuf::from("/nonexistent/a"))];
        let payload = Payload {
            modules: Vec::new(),
            programs,
        };
        let error = format!("{:#}", payload.make_disk(&folder.path().join("disk")).unwrap_err());
        assert!(error.contains("/nonexistent/a"), "{error}");
    }
}
