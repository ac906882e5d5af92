// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's Debian release, as apt sees it: a private apt state that knows nothing of what this machine has
//! installed, the plan made from it, and downloads.
//!
//! Nothing is installed with it and no maintainer script runs: packages are downloaded (and checked against the
//! archive's signature) by apt, and unpacked by [`crate::tree`]. That needs neither root nor a chroot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::key::{Ingredients, Key};
use crate::mirror::Mirror;
use crate::process::output;
use crate::progress::Task;

/// The release that guest and tools are taken from; its backports have the kernel and QEMU.
pub const RELEASE: &str = "trixie";

/// One package in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The size of the download, in bytes.
    pub size: u64,
}

/// Packages that are unpacked together.
pub type Packages = Vec<Package>;

/// A set of packages to resolve.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the set is called.
    pub name: &'static str,
    /// The packages.
    pub packages: Vec<String>,
    /// With all they depend on, or just these.
    pub dependencies: bool,
    /// From the backports, where these have it.
    pub backports: bool,
}

/// A private apt state.
pub struct Archive {
    root: PathBuf,
}

impl Archive {
    /// The one that was prepared below `root` before, if it was.
    pub fn existing(root: &Path) -> Option<Archive> {
        root.join("apt.conf")
            .exists()
            .then(|| Archive { root: root.to_owned() })
    }

    /// Prepares one below `root`. Nobody else may use it at that time.
    ///
    /// # Errors
    ///
    /// If files cannot be written.
    pub fn open(root: &Path, mirror: &Mirror) -> Result<Archive> {
        let write = || -> Result<()> {
            for folder in ["etc/preferences.d", "lists/partial", "archives/partial"] {
                fs::create_dir_all(root.join(folder))?;
            }
            let Mirror { uri, keyring } = mirror;
            let source = |suite: &str| format!("deb [signed-by={keyring}] {uri} {suite} main\n");
            let sources = source(RELEASE) + &source(&format!("{RELEASE}-updates")) + &source(&backports());
            fs::write(root.join("etc/sources.list"), sources)?;
            fs::write(root.join("etc/status"), "")?;
            fs::write(root.join("apt.conf"), configuration(root, &inherited()?))?;
            Ok(())
        };
        write().with_context(|| format!("cannot prepare {}", root.display()))?;
        Ok(Archive { root: root.to_owned() })
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// Fetches the archive's index.
    ///
    /// # Errors
    ///
    /// If the mirror cannot be reached or its signature does not check out.
    pub fn update(&self) -> Result<()> {
        let mut command = self.apt("apt-get");
        command.args(["update", "-qq", "--error-on=any"]);
        output(command).map(drop)
    }

    /// The names of all packages that begin so.
    ///
    /// # Errors
    ///
    /// If apt fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let mut command = self.apt("apt-cache");
        command.args(["pkgnames", prefix]);
        let text = String::from_utf8(output(command)?).context("package names are ASCII")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Finds out what a set consists of today.
    ///
    /// # Errors
    ///
    /// If a package does not exist or its dependencies cannot be met.
    pub fn resolve(&self, wanted: &Wanted) -> Result<Packages> {
        let mut command = self.apt("apt-get");
        if wanted.backports {
            command.args(["-t", &backports()]);
        }
        command.args(if wanted.dependencies {
            &["install", "-y"][..]
        } else {
            &["download"]
        });
        command.args(["-qq", "--print-uris"]).args(&wanted.packages);
        let text = output(command).with_context(|| format!("cannot resolve the packages of {}", wanted.name))?;
        let text = String::from_utf8(text).context("apt speaks ASCII")?;
        text.lines()
            .map(|line| parse_uri_line(line).with_context(|| format!("apt said {line:?}")))
            .collect()
    }

    /// Downloads packages into `folder`, each under a name that ends in `.deb`, showing how far it is.
    ///
    /// # Errors
    ///
    /// If the mirror cannot be reached, or no longer has one of them.
    pub fn download(&self, packages: &[Package], folder: &Path, task: &Task) -> Result<()> {
        let total = packages.iter().map(|package| package.size).sum();
        task.expect(total);
        task.message(&format!("{} packages", packages.len()));
        let mut command = self.apt("apt-get");
        // apt refuses to write to a folder that its own lock does not cover unless it is the working directory.
        command.current_dir(folder).args(["download", "-qq"]);
        command.args(
            packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version)),
        );
        let finished = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                while !finished.load(Ordering::Relaxed) {
                    task.position(size_of(folder));
                    thread::sleep(Duration::from_millis(150));
                }
            });
            let result = output(command);
            finished.store(true, Ordering::Relaxed);
            result
        });
        task.expect_nothing();
        result.context(
            "cannot download packages (without a network, only what is cached can be used; if the mirror no longer \
             has one of them, `cargo xtask setup --refresh` plans anew)",
        )?;
        Ok(())
    }
}

fn backports() -> String {
    format!("{RELEASE}-backports")
}

/// What this machine's apt knows about reaching the network: proxies, address family, certificates.
fn inherited() -> Result<String> {
    let mut command = Command::new("apt-config");
    command.arg("dump").env("LC_ALL", "C");
    let text = output(command).context("this needs apt, on a Debian machine or one like it")?;
    let text = String::from_utf8_lossy(&text);
    let wanted = [
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::ForceIPv",
        "Acquire::Retries",
        "Acquire::socks::",
    ];
    let lines = text
        .lines()
        .filter(|line| wanted.iter().any(|prefix| line.starts_with(prefix)));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

fn configuration(root: &Path, inherited: &str) -> String {
    let root = root.display();
    format!(
        r#"Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/etc/status";
Dir::State::extended_states "{root}/etc/extended_states";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
Dir::Etc "{root}/etc";
Dir::Etc::main "none";
Dir::Etc::parts "none";
Dir::Etc::sourcelist "{root}/etc/sources.list";
Dir::Etc::sourceparts "none";
Dir::Etc::preferences "none";
Dir::Etc::preferencesparts "{root}/etc/preferences.d";
Dir::Etc::trustedparts "none";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
{inherited}"#
    )
}

/// `'URI' NAME_VERSION_ARCH.deb SIZE HASH`, colons in the version as `%3a`.
fn parse_uri_line(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace();
    let (_, file, size) = (words.next()?, words.next()?, words.next()?);
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?.to_owned(), parts.next()?.replace("%3a", ":"));
    Some(Package {
        name,
        version,
        size: size.parse().ok()?,
    })
}

fn size_of(folder: &Path) -> u64 {
    let sizes = |folder: &Path| -> u64 {
        let Ok(entries) = fs::read_dir(folder) else { return 0 };
        entries
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .filter(fs::Metadata::is_file)
            .map(|it| it.len())
            .sum()
    };
    sizes(folder) + sizes(&folder.join("partial"))
}

/// Adds packages to a key.
pub fn ingredients(key: Ingredients, packages: &[Package]) -> Ingredients {
    packages
        .iter()
        .fold(key, |key, package| key.text(&package.name).text(&package.version))
}

/// What was resolved, once, so that later runs need no network and get the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The guest's kernel, as `uname -r` will say it.
    pub kernel: String,
    /// Every set of packages by its name.
    pub sets: BTreeMap<String, Packages>,
}

impl Plan {
    /// A set of it.
    pub fn set(&self, name: &str) -> &[Package] {
        self.sets.get(name).map_or(&[], |packages| packages)
    }

    /// The key of a set.
    pub fn key(&self, recipe: &str, name: &str) -> Key {
        ingredients(Key::of(recipe), self.set(name)).finish()
    }

    /// The version of a package, wherever it stands.
    pub fn version(&self, name: &str) -> Option<&str> {
        let mut all = self.sets.values().flatten();
        all.find(|package| package.name == name)
            .map(|package| package.version.as_str())
    }

    /// Reads a plan that was written before.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read. What another version of this program wrote counts as not there.
    pub fn read(path: &Path) -> Result<Option<Plan>> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let Some(folder) = path.parent() else {
            bail!("{} is no file's path", path.display())
        };
        let temp = folder.join(format!("plan-{}.tmp", std::process::id()));
        let bytes = serde_json::to_vec_pretty(self).expect("a plan is plain data");
        let result = fs::write(&temp, bytes).and_then(|()| fs::rename(&temp, path));
        result.with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_lines_are_understood() {
        let line =
            "'http://m/pool/q/qemu/qemu_11.1.3%2bds-1_amd64.deb' qemu_1%3a11.1.3+ds-1_amd64.deb 10377056 SHA256:ab";
        let expected = Package {
            name: "qemu".into(),
            version: "1:11.1.3+ds-1".into(),
            size: 10_377_056,
        };
        assert_eq!(parse_uri_line(line), Some(expected));
        assert_eq!(parse_uri_line("Reading package lists..."), None);
    }

    #[test]
    fn a_plan_is_read_as_it_was_written_and_a_strange_one_is_made_anew() {
        let folder = crate::session::TempDir::new("plan-test").unwrap();
        let path = folder.path().join("plan.json");
        assert_eq!(Plan::read(&path).unwrap(), None);
        let package = Package {
            name: "a".into(),
            version: "1".into(),
            size: 2,
        };
        let plan = Plan {
            kernel: "7.3.4".into(),
            sets: [("guest".to_owned(), vec![package])].into(),
        };
        plan.write(&path).unwrap();
        assert_eq!(Plan::read(&path).unwrap().as_ref(), Some(&plan));
        assert_eq!(plan.version("a"), Some("1"));
        assert_ne!(plan.key("r", "guest"), plan.key("r", "none"));
        fs::write(&path, "{}").unwrap();
        assert_eq!(Plan::read(&path).unwrap(), None);
    }

    #[test]
    fn the_private_state_stays_below_its_root() {
        let text = configuration(Path::new("/cache/apt"), "Acquire::http::Proxy \"http://p\";\n");
        let dirs: Vec<_> = text.lines().filter(|line| line.starts_with("Dir")).collect();
        assert!(
            dirs.iter()
                .all(|line| line.contains("\"/cache/apt") || line.contains("\"none\"")),
            "{dirs:?}"
        );
        assert!(text.ends_with("Acquire::http::Proxy \"http://p\";\n"));
    }
}
