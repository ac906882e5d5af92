// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folders that packages are unpacked into, and running programs in them.
//!
//! Nothing is configured: what maintainer scripts would do and we need (alternatives, mostly) is done by the steps
//! that need it. That makes a tree in seconds, as any user.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};

use crate::process::output;
use crate::progress::Task;

/// What nobody needs in a tree that is used by programs.
const LEFT_OUT: [&str; 7] = [
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/lintian/*",
    "./usr/share/bug/*",
    "./usr/share/bash-completion/*",
];

/// Unpacks every `.deb` in `archives` into `root`, leaving out documentation and what matches `also_left_out`.
///
/// # Errors
///
/// Names the package that cannot be unpacked.
pub fn unpack(archives: &Path, root: &Path, also_left_out: &[&str], task: &Task) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(archives).with_context(|| format!("cannot read {}", archives.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push((fs::metadata(&path)?.len(), path));
        }
    }
    // The one that brings the links /bin -> usr/bin comes first, then the biggest, so that none comes late.
    files.sort_by_key(|(size, path)| (name_of(path).starts_with("base-files_"), *size));
    if files
        .last()
        .is_some_and(|(_, path)| name_of(path).starts_with("base-files_"))
    {
        let (_, path) = files.pop().expect("there is a last one");
        unpack_one(&path, root, also_left_out)?;
    }
    let workers = thread::available_parallelism().map_or(1, |count| count.get());
    let files = Mutex::new(files);
    thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some((_, path)) = files.lock().expect("nobody panics holding it").pop() else {
                    return Ok(());
                };
                task.message(&name_of(&path));
                unpack_one(&path, root, also_left_out)?;
            }
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .try_for_each(|handle| handle.join().expect("the workers do not panic"))
    })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn unpack_one(package: &Path, root: &Path, also_left_out: &[&str]) -> Result<()> {
    let exclude = LEFT_OUT
        .iter()
        .chain(also_left_out)
        .map(|pattern| format!(" --exclude='{pattern}'"));
    let script = format!(
        "set -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | \
         tar --extract --directory=\"$2\" --keep-directory-symlink --no-same-owner --no-wildcards-match-slash{}",
        exclude.collect::<String>()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]).arg(package).arg(root);
    output(command).with_context(|| format!("cannot unpack {}", name_of(package)))?;
    Ok(())
}

/// Makes a link in a tree, as update-alternatives would.
///
/// # Errors
///
/// If it cannot be made.
pub fn link(root: &Path, path: &str, target: &str) -> Result<()> {
    let path = root.join(path);
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    symlink(target, &path).with_context(|| format!("cannot link {}", path.display()))
}

/// A command line that runs a program of the tree `root` with the tree's own libraries, but in the world outside: it
/// sees this machine's files.
pub fn outside(root: &Path, program: &str) -> Command {
    outside_as(root, program, program.rsplit('/').next().unwrap_or(program))
}

/// The same, under another name, for programs that do different things under different names.
pub fn outside_as(root: &Path, program: &str, name: &str) -> Command {
    let mut command = Command::new(root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command
        .args(["--argv0", name, "--library-path"])
        .arg(root.join("usr/lib/x86_64-linux-gnu"));
    command.arg(root.join(program));
    command
}

/// A command line that runs `script` with bash and root's rights in a mount namespace, and, as an ordinary user, in a
/// user namespace: to this machine, its files are then the user's, and to the script they are root's. All its processes
/// end with it.
pub fn as_root(script: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=SIGKILL"]);
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        command.arg("--map-root-user");
    }
    command.args(["--", "bash", "-euc", script, "bash"]).args(arguments);
    command
}

/// A folder of this machine that a tree's programs see.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where it is.
    pub from: PathBuf,
    /// Where they see it.
    pub to: PathBuf,
}

impl Bind {
    /// At its own path.
    pub fn same(path: &Path) -> Bind {
        Bind {
            from: path.to_owned(),
            to: path.to_owned(),
        }
    }
}

/// A command line that runs `script` in the tree `root`, which sees `binds` besides itself.
pub fn inside(root: &Path, binds: &[Bind], script: &str) -> Command {
    // Recursive binds, because a user namespace may not uncover what a mount hides. A container may forbid a new /proc.
    let outer = r#"
        root="$1" script="$2"; shift 2
        mkdir -p "$root/dev" "$root/proc" "$root/tmp"
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc" 2> /dev/null || mount --rbind /proc "$root/proc"
        mount -t tmpfs tmp "$root/tmp"
        while [ $# -gt 0 ]; do mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; shift 2; done
        exec env -i PATH=/usr/sbin:/usr/bin LC_ALL=C HOME=/tmp chroot "$root" bash -euc "$script"
    "#;
    let mut arguments = vec![root, Path::new(script)];
    arguments.extend(binds.iter().flat_map(|bind| [bind.from.as_path(), bind.to.as_path()]));
    as_root(outer, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_exists_is_left_alone() {
        let folder = crate::session::TempDir::new("tree-test").unwrap();
        link(folder.path(), "awk", "mawk").unwrap();
        link(folder.path(), "awk", "gawk").unwrap();
        assert_eq!(fs::read_link(folder.path().join("awk")).unwrap(), Path::new("mawk"));
    }

    #[test]
    fn scripts_run_with_roots_rights() {
        let folder = crate::session::TempDir::new("tree-test").unwrap();
        let said = output(as_root("id -u; echo \"$1\"", &[folder.path()])).unwrap();
        assert_eq!(
            String::from_utf8(said).unwrap(),
            format!("0\n{}\n", folder.path().display())
        );
        let error = format!("{:#}", output(as_root("false; echo no", &[])).unwrap_err());
        assert!(error.contains("exit status 1"), "{error}");
    }
}
