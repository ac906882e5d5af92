// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's disk and its initramfs, made from unpacked packages and the files in `guest/image`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::cpio::Cpio;
use crate::graph::Work;
use crate::kernel::kmod;
use crate::process::output;
use crate::tree;

/// The packages of the guest.
pub const PACKAGES: &str = include_str!("../../../guest/image/packages");
/// The kernel modules of the guest.
pub const MODULES: &str = include_str!("../../../guest/image/modules");
/// Its process 1.
pub const INIT: &str = include_str!("../../../guest/image/init");
/// Its initramfs's process 1.
pub const INITRAMFS_INIT: &str = include_str!("../../../guest/image/initramfs-init");

/// The names of the results.
pub mod result {
    /// The root disk, ext4, raw. Never written to: QEMU keeps what a guest writes in memory.
    pub const DISK: &str = "root.ext4";
    /// The initramfs.
    pub const INITRAMFS: &str = "initramfs.cpio";
    /// The kernel.
    pub const KERNEL: &str = "vmlinuz";
}

/// The words of a list, one entry a line, `#` begins a comment.
pub fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
}

/// Makes disk, initramfs and kernel image in the step's folder.
///
/// # Errors
///
/// If a tool fails or a module that is asked for does not exist.
pub fn make(release: &str, guest_root: &Path, kernel_root: &Path, work: &Work) -> Result<()> {
    let modules = Modules::resolve(release, guest_root, kernel_root)?;
    work.task.message("initramfs");
    let vmlinuz = kernel_root.join("usr/lib/modules").join(release).join("vmlinuz");
    fs::copy(&vmlinuz, work.out.join(result::KERNEL)).with_context(|| format!("cannot copy {}", vmlinuz.display()))?;
    make_initramfs(&modules, guest_root, &work.out.join(result::INITRAMFS))?;
    work.task.message("root disk");
    make_disk(release, &modules, guest_root, kernel_root, work.out)
}

/// Paths of module files, in the order in which they have to be loaded.
struct Modules {
    boot: Vec<PathBuf>,
    all: BTreeSet<PathBuf>,
}

impl Modules {
    fn resolve(release: &str, guest_root: &Path, kernel_root: &Path) -> Result<Modules> {
        let mut modules = Modules {
            boot: Vec::new(),
            all: BTreeSet::new(),
        };
        for entry in entries(MODULES) {
            let Some((place, name)) = entry.split_once(' ') else {
                bail!("guest/image/modules: {entry:?}")
            };
            let mut command = kmod(guest_root, "modprobe");
            command
                .arg("-d")
                .arg(kernel_root)
                .args(["-S", release, "--show-depends", name]);
            let text = output(command).with_context(|| format!("the kernel has no module {name}"))?;
            for line in String::from_utf8_lossy(&text).lines() {
                // "builtin NAME" is nothing to load.
                let Some(path) = line.strip_prefix("insmod ") else {
                    continue;
                };
                // What follows the path are options that a package sets for the module.
                let path = PathBuf::from(path.split(' ').next().unwrap_or_default());
                if place == "boot" && !modules.boot.contains(&path) {
                    modules.boot.push(path.clone());
                }
                modules.all.insert(path);
            }
        }
        Ok(modules)
    }
}

fn make_initramfs(modules: &Modules, guest_root: &Path, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    for folder in ["bin", "dev", "proc", "root", "modules"] {
        cpio.folder(folder)?;
    }
    let busybox = fs::read(guest_root.join("usr/bin/busybox")).context("cannot read busybox")?;
    cpio.file("bin/busybox", 0o755, &busybox)?;
    for name in [
        "sh",
        "cat",
        "mount",
        "umount",
        "insmod",
        "sleep",
        "poweroff",
        "switch_root",
    ] {
        cpio.link(&format!("bin/{name}"), "busybox")?;
    }
    cpio.file("init", 0o755, INITRAMFS_INIT.as_bytes())?;
    let mut order = String::new();
    for path in &modules.boot {
        // busybox's insmod takes no compressed modules.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.trim_end_matches(".xz");
        let mut command = Command::new("xz");
        command.args(["--decompress", "--stdout"]).arg(path);
        cpio.file(&format!("modules/{name}"), 0o644, &output(command)?)?;
        order += &format!("{name}\n");
    }
    cpio.file("modules/order", 0o644, order.as_bytes())?;
    cpio.finish()?.flush()?;
    Ok(())
}

fn make_disk(release: &str, modules: &Modules, guest_root: &Path, kernel_root: &Path, out: &Path) -> Result<()> {
    let root = out.join("root");
    // Links to the files of the cached tree; what is written below replaces links and changes no file.
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--link"]).arg(guest_root).arg(&root);
    output(copy)?;

    let lib = root.join("usr/lib/modules").join(release);
    let from = kernel_root.join("usr/lib/modules").join(release);
    for path in &modules.all {
        let Some(relative) = path.to_str().and_then(|path| path.split_once(&format!("/{release}/"))) else {
            bail!("modprobe named {}, which is no module of {release}", path.display());
        };
        let target = lib.join(relative.1);
        fs::create_dir_all(target.parent().unwrap_or(&lib))?;
        fs::copy(path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(name), lib.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    let mut depmod = kmod(guest_root, "depmod");
    depmod.arg("-b").arg(&root).arg(release);
    output(depmod)?;

    configure(&root)?;

    let disk = out.join(result::DISK);
    make_ext4(&disk, &root, 64 << 20)?;
    fs::remove_dir_all(&root).context("cannot remove the disk's tree")?;
    Ok(())
}

/// What the maintainer scripts of the packages would have done, as far as anybody here would notice.
fn configure(root: &Path) -> Result<()> {
    let write = |path: &str, text: &str, mode: u32| -> Result<()> {
        let path = root.join(path);
        // Not through a link into the cached tree.
        let _ = fs::remove_file(&path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&path, mode)?;
        Ok(())
    };
    for folder in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "mnt",
        "opt/verbena",
        "etc/modprobe.d",
        "var/tmp",
    ] {
        fs::create_dir_all(root.join(folder))?;
    }
    let master = |name: &str| {
        let path = root.join(format!("usr/share/base-passwd/{name}.master"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    // root without a password, on a machine that nobody can log in to from outside.
    write("etc/passwd", &master("passwd")?.replacen("root:*:", "root::", 1), 0o644)?;
    // Groups that udev's rules name.
    let groups = ["render", "sgx", "input", "kvm", "clock"].iter().zip(990..);
    let groups: String = groups.map(|(name, id)| format!("{name}:x:{id}:\n")).collect();
    write("etc/group", &(master("group")? + &groups), 0o644)?;
    write("etc/hostname", "verbena\n", 0o644)?;
    write(
        "etc/hosts",
        "127.0.0.1 localhost\n192.168.77.1 guest1\n192.168.77.2 guest2\n",
        0o644,
    )?;
    write(
        "etc/profile.d/verbena.sh",
        "PATH=/opt/verbena/bin:/usr/sbin:/usr/bin\n",
        0o644,
    )?;
    write("usr/sbin/verbena-init", INIT, 0o755)?;
    tree::link(root, "usr/bin/awk", "mawk")
}

/// Makes an ext4 disk from a folder, with everything in it owned by root and `room` bytes to spare.
///
/// # Errors
///
/// If mke2fs fails.
pub fn make_ext4(disk: &Path, folder: &Path, room: u64) -> Result<()> {
    // The file system's own needs grow with its size; an eighth is plenty. The file is sparse.
    let script = r#"
        size=$(du --summarize --block-size=1M "$2" | cut -f1)
        size=$((size + size / 8 + $3))
        PATH="$PATH:/usr/sbin:/sbin" mke2fs -q -F -t ext4 -m 0 -O ^has_journal -E root_owner=0:0 -d "$2" "$1" ${size}M
    "#;
    let room = (room >> 20).to_string();
    let command = tree::as_root(script, &[disk, folder, Path::new(&room)]);
    output(command)
        .with_context(|| format!("cannot make the disk {}", disk.display()))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_have_comments_and_blank_lines() {
        let list = "# head\n\na\nb c # tail\n";
        assert_eq!(entries(list).collect::<Vec<_>>(), ["a", "b c"]);
    }

    #[test]
    fn every_module_has_a_place() {
        for entry in entries(MODULES) {
            let (place, name) = entry.split_once(' ').expect(entry);
            assert!(["boot", "root"].contains(&place) && !name.contains(' '), "{entry}");
        }
    }

    #[test]
    fn a_disk_is_made_from_a_folder_and_belongs_to_root() {
        let folder = crate::session::TempDir::new("image-test").unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let disk = folder.path().join("disk");
        make_ext4(&disk, &tree, 1 << 20).unwrap();
        let mut command = Command::new("debugfs");
        command
            .args(["-R", "stat file"])
            .arg(&disk)
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        let said = String::from_utf8(output(command).unwrap()).unwrap();
        assert!(said.contains("User:     0") && said.contains("Size: 7"), "{said}");
    }
}
