// SPDX-License-Identifier: MIT OR Apache-2.0
//! What depends on the checkout: its programs, built by cargo, and the kernel module, built by the kernel's own build.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{bail, Context, Result};
use serde::Deserialize;

use crate::key::Key;
use crate::process::{logged, output, Group, Process};
use crate::progress::Progress;
use crate::setup::Environment;
use crate::tree::{self, Bind};

/// The folders whose code is compiled into the kernel module.
const MODULE_SOURCES: [&str; 5] = [
    "guest/module",
    "device/hw/src",
    "uapi-driver/uapi/src",
    "uapi-driver/cm/src",
    "uapi-driver/core/src",
];

/// This checkout and where its products go.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
    target: PathBuf,
}

/// A program that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// The name of the binary or test target.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Checkout {
    /// The one that this was compiled from.
    ///
    /// # Errors
    ///
    /// If it is gone, or cargo cannot read it.
    pub fn find() -> Result<Checkout> {
        #[derive(Deserialize)]
        struct Metadata {
            target_directory: PathBuf,
            workspace_root: PathBuf,
        }
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let mut command = cargo();
        command
            .args([
                "metadata",
                "--format-version=1",
                "--no-deps",
                "--offline",
                "--manifest-path",
            ])
            .arg(&manifest);
        let metadata = output(command).context("cannot find the checkout")?;
        let metadata: Metadata = serde_json::from_slice(&metadata).context("cargo metadata is not what it was")?;
        let target = metadata.target_directory.join("verbena");
        fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
        Ok(Checkout {
            root: metadata.workspace_root,
            target,
        })
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where products go that cargo does not make: `target/verbena`.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A folder for the logs of something, emptied.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn logs(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join("log").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// Runs cargo with `arguments` (`build --release ...`, `test --no-run ...`) and returns the programs that it
    /// built, or had built before.
    ///
    /// # Errors
    ///
    /// If that fails, with all that cargo said.
    pub fn cargo(&self, arguments: &[&str], progress: &Progress) -> Result<Vec<Executable>> {
        let task = progress.begin("cargo", None);
        let mut command = cargo();
        command
            .current_dir(&self.root)
            .args(arguments)
            .arg("--message-format=json-render-diagnostics");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::start(command, Group::Own)?;
        let stdout = process.take_stdout().expect("it is a pipe");
        let stderr = process.take_stderr().expect("it is a pipe");
        let (executables, said) = thread::scope(|scope| {
            let said = scope.spawn(|| {
                let mut said = String::new();
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    task.message(line.trim());
                    said += &line;
                    said.push('\n');
                }
                said
            });
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let executables: Vec<_> = lines.filter_map(|line| executable(&line)).collect();
            (executables, said.join().expect("reading lines does not panic"))
        });
        if !process.wait()?.success() {
            bail!("cargo {} failed:\n{}", arguments.join(" "), said.trim_end());
        }
        task.done();
        Ok(executables)
    }

    /// Builds the binaries of `packages`, optimised.
    ///
    /// # Errors
    ///
    /// As [`Checkout::cargo`].
    pub fn programs(&self, packages: &[&str], progress: &Progress) -> Result<Vec<Executable>> {
        let mut arguments = vec!["build", "--release", "--bins"];
        arguments.extend(packages.iter().flat_map(|package| ["--package", *package]));
        self.cargo(&arguments, progress)
    }

    /// Builds the kernel module for the guest's kernel, if it is not built already, and returns the `.ko` files.
    ///
    /// # Errors
    ///
    /// If the build fails, with the end of what it said and where the rest is.
    pub fn module(&self, environment: &Environment, progress: &Progress) -> Result<Vec<PathBuf>> {
        let mut key = Key::of("module-1").key(&environment.toolchain);
        for folder in MODULE_SOURCES {
            key = key.text(folder).folder(&self.root.join(folder))?;
        }
        self.external_module(&self.root.join("guest/module"), &key.finish(), environment, progress)
    }

    /// Builds any external module. `key` is everything that it is made from.
    ///
    /// # Errors
    ///
    /// As [`Checkout::module`].
    pub fn external_module(
        &self,
        source: &Path,
        key: &Key,
        environment: &Environment,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>> {
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = self.target.join(format!("{name}-{}", environment.kernel));
        let stamp = out.join("verbena.key");
        if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == key.as_str()) {
            return modules_in(&out);
        }
        let task = progress.begin(&name, None);
        fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        let _lock = lock(&out.join("verbena.lock"))?;
        let _ = fs::remove_file(&stamp);
        for old in modules_in(&out).unwrap_or_default() {
            // What is no longer built must not stay.
            fs::remove_file(old)?;
        }
        let log = self.target.join(format!("{name}.log"));
        let _ = fs::remove_file(&log);
        let headers = format!("/usr/src/linux-headers-{}", environment.kernel);
        let script = format!(
            "make -C {headers} M='{}' MO='{}' -j$(nproc) modules",
            source.display(),
            out.display()
        );
        let binds = [
            Bind::same(&self.root),
            Bind::same(source),
            Bind::same(&out),
            Bind {
                from: environment.headers.clone(),
                to: headers.into(),
            },
        ];
        logged(tree::inside(&environment.tools, &binds, &script), &log).context("the kernel module does not build")?;
        let modules = modules_in(&out)?;
        fs::write(&stamp, key.as_str())?;
        task.done();
        Ok(modules)
    }
}

fn modules_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "ko"));
    modules.sort();
    if modules.is_empty() {
        bail!("{} has no kernel module in it", folder.display());
    }
    Ok(modules)
}

/// Waits until nobody else holds this lock; holds it until the result is dropped.
fn lock(path: &Path) -> Result<File> {
    use std::os::fd::AsRawFd;
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    // SAFETY: flock takes a descriptor, which `file` keeps open, and an integer.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot lock {}", path.display()));
    }
    Ok(file)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The program in one line of cargo's JSON, if there is one.
fn executable(line: &str) -> Option<Executable> {
    #[derive(Deserialize)]
    struct Message {
        target: Target,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let message: Message = serde_json::from_str(line).ok()?;
    Some(Executable {
        name: message.target.name,
        path: message.executable?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_the_one_that_this_was_compiled_from() {
        let checkout = Checkout::find().unwrap();
        assert!(checkout.root().join("qemu-config/launcher/src/build.rs").exists());
        assert!(checkout.target().ends_with("verbena"));
    }

    #[test]
    fn programs_are_found_in_cargos_json() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"verbena-hca","kind":["bin"]},"executable":"/t/hca"}"#;
        let expected = Executable {
            name: "verbena-hca".into(),
            path: "/t/hca".into(),
        };
        assert_eq!(executable(line), Some(expected));
        assert_eq!(
            executable(r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}"#),
            None
        );
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn a_folder_without_modules_is_an_error_that_names_it() {
        let folder = crate::session::TempDir::new("build-test").unwrap();
        let error = modules_in(folder.path()).unwrap_err().to_string();
        assert!(error.contains("build-test"), "{error}");
    }
}
