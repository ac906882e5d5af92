// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU: which one, and which accelerator.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::process::{find_program, last_lines, output, Group, Process};
use crate::session::TempDir;
use crate::tree;

/// The first QEMU with a usable vfio-user-pci device.
pub const OLDEST: (u32, u32) = (10, 1);

const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU that will do.
#[derive(Debug, Clone)]
pub struct Qemu {
    place: Place,
    version: String,
}

#[derive(Debug, Clone)]
enum Place {
    /// Installed on this machine.
    Host(PathBuf),
    /// In a tree of the cache.
    Tree(PathBuf),
}

impl Qemu {
    /// One that is installed here: `asked`, or else what `PATH` has.
    ///
    /// # Errors
    ///
    /// If `asked` is there and will not do. That `PATH` has none that will do is no error: `None`.
    pub fn on_host(asked: Option<&Path>) -> Result<Option<Qemu>> {
        let found = match asked {
            Some(path) => Some(path.to_owned()),
            None => find_program(PROGRAM),
        };
        let Some(path) = found else { return Ok(None) };
        match Qemu::examine(Place::Host(path)) {
            Ok(qemu) => Ok(Some(qemu)),
            Err(error) if asked.is_some() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The one in a tree of the cache.
    ///
    /// # Errors
    ///
    /// If it is not there or will not do.
    pub fn in_tree(root: &Path) -> Result<Qemu> {
        Qemu::examine(Place::Tree(root.to_owned()))
    }

    fn examine(place: Place) -> Result<Qemu> {
        let mut qemu = Qemu {
            place,
            version: String::new(),
        };
        let mut command = qemu.command();
        command.arg("--version");
        let text = String::from_utf8_lossy(&output(command)?).into_owned();
        let name = qemu.program().display().to_string();
        let (version, number) = parse_version(&text).with_context(|| format!("{name} is no QEMU: {text:?}"))?;
        if number < OLDEST {
            bail!(
                "{name} is QEMU {version}, too old: vfio-user-pci needs {}.{} or newer",
                OLDEST.0,
                OLDEST.1
            );
        }
        let mut command = qemu.command();
        command.args(["-M", "none", "-device", "help"]);
        if !String::from_utf8_lossy(&output(command)?).contains("\"vfio-user-pci\"") {
            bail!("{name} (QEMU {version}) was built without the vfio-user-pci device");
        }
        qemu.version = version;
        Ok(qemu)
    }

    /// Its version, as it says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The program, for a person.
    pub fn program(&self) -> PathBuf {
        match &self.place {
            Place::Host(path) => path.clone(),
            Place::Tree(root) => root.join("usr/bin").join(PROGRAM),
        }
    }

    /// The start of a command line that runs it.
    pub fn command(&self) -> Command {
        match &self.place {
            Place::Host(path) => Command::new(path),
            Place::Tree(root) => {
                let mut command = tree::outside(root, "usr/bin/qemu-system-x86_64");
                command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
                for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                    command.arg("-L").arg(root.join(folder));
                }
                command
            }
        }
    }
}

/// "QEMU emulator version 11.1.3 (Debian ...)" -> ("11.1.3", (11, 1)).
fn parse_version(text: &str) -> Option<(String, (u32, u32))> {
    let version = text.split("version ").nth(1)?.split_whitespace().next()?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((version.to_owned(), (numbers.next()??, numbers.next()??)))
}

/// What a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    /// KVM if a guest boots with it, else emulation.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
}

impl std::str::FromStr for AccelChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(AccelChoice::Auto),
            "kvm" => Ok(AccelChoice::Kvm),
            "tcg" => Ok(AccelChoice::Tcg),
            _ => Err(format!("{text:?} is none of auto, kvm, tcg")),
        }
    }
}

/// What a guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// QEMU's options for it.
    pub fn options(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "max"],
            Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// How long a trial boot may take. With hardware behind it, it takes one second.
const TRIAL: Duration = Duration::from_secs(25);

/// Why KVM cannot even be tried, if it cannot.
pub fn kvm_obstacle() -> Option<String> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm: {error}")),
    }
}

/// Boots the guest's kernel with KVM as far as userspace. That /dev/kvm exists says little: nested and emulated ones
/// let a stock kernel die or hang early.
///
/// # Errors
///
/// If QEMU cannot be started at all. That the guest does not get there is an answer, not an error.
pub fn try_kvm(qemu: &Qemu, kernel: &Path, initramfs: &Path) -> Result<Verdict> {
    let folder = TempDir::new("trial")?;
    let (console, errors) = (folder.path().join("console"), folder.path().join("errors"));
    let mut command = qemu.command();
    command
        .args(Accel::Kvm.options())
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command
        .args(["-M", "q35", "-m", "512", "-smp", "2"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    command.args(["-append", "console=ttyS0 panic=-1 verbena.probe", "-serial"]);
    command.arg(format!("file:{}", console.display()));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?);
    let ended = Process::start(command, Group::Own)?.wait_for(TRIAL)?;
    let said = fs::read(&console).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    if said.contains("verbena-initramfs: userspace reached") {
        return Ok(Verdict {
            accel: Accel::Kvm,
            reason: "a trial boot succeeded".into(),
        });
    }
    let errors = fs::read_to_string(&errors).unwrap_or_default();
    let reason = match ended {
        None => format!("a trial boot did not reach userspace within {} s", TRIAL.as_secs()),
        Some(_) if errors.trim().is_empty() => "the guest died in a trial boot".to_owned(),
        Some(_) => format!("a trial boot failed: {}", last_lines(&errors, 1)),
    };
    Ok(Verdict {
        accel: Accel::Tcg,
        reason,
    })
}

/// What came of trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What to use.
    pub accel: Accel,
    /// Why.
    pub reason: String,
}

/// Names this machine, as far as a verdict on KVM depends on it.
pub fn machine_key(qemu: &Qemu, image: &Key) -> Key {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    Key::of("kvm-1")
        .text(qemu.version())
        .key(image)
        .text(model)
        .text(&kernel)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(parse_version(text), Some(("11.1.3".into(), (11, 1))));
        assert_eq!(parse_version("hello"), None);
    }

    fn pretender(folder: &TempDir, version: &str, devices: &str) -> PathBuf {
        let path = folder.path().join("qemu");
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in --version) echo QEMU emulator version {version};; *) echo '{devices}';; esac\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_qemu_that_was_asked_for_and_is_too_old_is_refused_in_one_line() {
        let folder = TempDir::new("qemu-test").unwrap();
        let path = pretender(&folder, "7.2.19", "name \"vfio-user-pci\"");
        let error = format!("{:#}", Qemu::on_host(Some(&path)).unwrap_err());
        assert!(error.contains("7.2.19") && error.contains("10.1"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_qemu_without_the_device_is_refused() {
        let folder = TempDir::new("qemu-test").unwrap();
        let path = pretender(&folder, "11.0.0", "name \"e1000\"");
        let error = format!("{:#}", Qemu::on_host(Some(&path)).unwrap_err());
        assert!(error.contains("vfio-user-pci"), "{error}");
        let path = pretender(&folder, "10.1.0", "name \"vfio-user-pci\"");
        assert_eq!(Qemu::on_host(Some(&path)).unwrap().unwrap().version(), "10.1.0");
    }
}
