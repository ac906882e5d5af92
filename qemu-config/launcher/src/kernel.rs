// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's kernel: which ones will do, its modules, and what it takes to build ours for it.
//!
//! The distribution's headers package has everything for modules in C and lacks the metadata of the kernel's Rust
//! crates. That is made here, from the distribution's source with the distribution's configuration and compiler, and
//! added to a copy of the headers. The kernel itself stays the stock one.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::graph::Work;
use crate::process::{logged, output};
use crate::tree::{self, Bind};

/// The versions of Linux whose Rust interfaces our module is written for, as a prefix of `uname -r`.
pub const SUPPORTED: &str = "7.3.";

/// The supported range, for a person.
pub const SUPPORTED_RANGE: &str = "Linux 7.3.x for amd64, as in trixie-backports";

/// Chooses among the kernels of the archive (names of image packages): the newest that will do, or `asked` if given.
///
/// # Errors
///
/// If there is none, with what there is.
pub fn choose(packages: &[String], asked: Option<&str>) -> Result<String> {
    let releases = packages.iter().filter_map(|name| name.strip_prefix("linux-binary-"));
    // The plain flavour: no real-time, no cloud kernel (that one lacks RDMA), no unsigned twin.
    let plain = |release: &&str| {
        let base = release.strip_suffix("-amd64").unwrap_or_default();
        base.starts_with(|first: char| first.is_ascii_digit()) && !base.ends_with("-rt") && !base.ends_with("-cloud")
    };
    let mut releases: Vec<&str> = releases.filter(plain).collect();
    releases.sort_by_key(|release| numbers(release));
    let found = match asked {
        Some(asked) if !asked.starts_with(SUPPORTED) => {
            bail!("guest kernel {asked} is not supported; supported: {SUPPORTED_RANGE}")
        }
        Some(asked) => releases.iter().find(|release| **release == asked),
        None => releases.iter().rfind(|release| release.starts_with(SUPPORTED)),
    };
    match found {
        Some(release) => Ok((*release).to_owned()),
        None => bail!(
            "the archive has no guest kernel {}; supported: {SUPPORTED_RANGE}; it has: {}",
            asked.unwrap_or("that will do"),
            if releases.is_empty() {
                "none".to_owned()
            } else {
                releases.join(", ")
            }
        ),
    }
}

/// The numbers in a version, so that 7.3.10 comes after 7.3.9.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The packages that hold the kernel `release` and its modules.
pub fn packages(release: &str) -> Vec<String> {
    ["binary", "modules", "base"]
        .map(|part| format!("linux-{part}-{release}"))
        .to_vec()
}

/// The package with the source of `release`.
pub fn source_package(release: &str) -> String {
    let mut parts = release.split('.');
    format!(
        "linux-source-{}.{}",
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default()
    )
}

/// Finishes a tree of kernel packages: makes the lists that modprobe reads, with the kmod of `guest_root`.
///
/// # Errors
///
/// If depmod fails.
pub fn index_modules(tree_root: &Path, release: &str, guest_root: &Path) -> Result<()> {
    // kmod looks in /lib; packages ship /usr/lib.
    tree::link(tree_root, "lib", "usr/lib")?;
    let mut depmod = kmod(guest_root, "depmod");
    depmod.arg("-b").arg(tree_root).arg(release);
    output(depmod).map(drop)
}

/// kmod under one of its names.
pub fn kmod(guest_root: &Path, name: &str) -> Command {
    tree::outside_as(guest_root, "usr/bin/kmod", name)
}

/// Unpacks the part of the kernel's source that the Rust crates are made from, out of the source package's tar file.
///
/// # Errors
///
/// If tar fails.
pub fn unpack_source(package: &Path, out: &Path) -> Result<()> {
    // The tar file's one folder. Not a wildcard, which would also match what lies deeper: rust/helpers/net is needed.
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    let top = name.split('_').next().unwrap_or_default();
    // What the compiler never gets to see. Headers stay: the bindings include some of drivers'.
    let left_out = [
        "drivers/*.c",
        "sound/*.c",
        "net/*.c",
        "fs/*.c",
        "*.dts",
        "*.dtsi",
        "Documentation/*/*",
        "tools/testing",
    ];
    let exclude: String = left_out
        .iter()
        .map(|pattern| format!(" --exclude='{top}/{pattern}'"))
        .collect();
    let script = format!(
        "set -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | tar --extract --to-stdout --wildcards './usr/src/*.tar.xz' | \
         xz --decompress --threads=0 | tar --extract --directory=\"$2\" --strip-components=1 --no-same-owner{exclude}"
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]).arg(package).arg(out);
    output(command).context("cannot unpack the kernel's source")?;
    Ok(())
}

/// Makes the headers tree for `release`: the distribution's, and the Rust metadata. `tools` is the tree with compilers
/// and headers, `source` the kernel's source.
///
/// # Errors
///
/// If the compiler is not the kernel's own, or the build fails; the build's output is then in `log`.
pub fn make_headers(release: &str, tools: &Path, source: &Path, log: &Path, work: &Work) -> Result<()> {
    check_compiler(release, tools)?;
    let build = work.out.join("build");
    let headers = work.out.join("headers");
    fs::create_dir(&build)?;
    fs::create_dir(&headers)?;
    let original = format!("/usr/src/linux-headers-{release}");
    let _ = fs::remove_file(log);
    work.task
        .message("compiling the kernel's Rust crates for their metadata");
    let script = format!(
        r#"
        cp /usr/lib/modules/{release}/config /build/.config
        export RUST_LIB_SRC=$(echo /usr/src/rustc-*/library)
        arguments="-C /source O=/build CC=x86_64-linux-gnu-gcc-14 KERNELRELEASE={release}"
        make $arguments olddefconfig
        # It goes missing silently if anything that Rust needs is; this one says what.
        grep -q CONFIG_RUST=y /build/.config || make $arguments rustavailable
        # For make, not for the compilers: the objects are thrown away, so what would check and amend them need not be
        # built. The configuration that code sees stays as it is.
        make $arguments CONFIG_OBJTOOL= CONFIG_DEBUG_INFO_BTF= -j$(nproc) prepare
        cp --archive {original}/. /headers
        mkdir -p /headers/rust
        cp /build/rust/*.rmeta /build/rust/*.so /headers/rust/
        cp /build/scripts/target.json /headers/scripts/
        mkdir -p /headers/rust/bindings
        cp /build/rust/bindings/bindings_generated.rs /headers/rust/bindings/
        "#
    );
    let at = |from: &Path, to: &str| Bind {
        from: from.to_owned(),
        to: to.into(),
    };
    let binds = [at(source, "/source"), at(&build, "/build"), at(&headers, "/headers")];
    logged(tree::inside(tools, &binds, &script), log)?;
    fs::remove_dir_all(&build).context("cannot remove the build folder")?;
    fs::rename(&headers, work.out.join("tree")).context("cannot rename the headers")?;
    Ok(())
}

/// Metadata of Rust crates is read only by the very compiler that wrote it, and a module must be built with the one
/// that built the kernel.
fn check_compiler(release: &str, tools: &Path) -> Result<()> {
    let config = tools.join("usr/lib/modules").join(release).join("config");
    let config = fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let value = |name: &str| {
        let line = config
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    if value("CONFIG_RUST").as_deref() != Some("y") {
        bail!("guest kernel {release} was built without Rust; supported: {SUPPORTED_RANGE}");
    }
    let wanted = value("CONFIG_RUSTC_VERSION_TEXT").context("the kernel's configuration names no Rust compiler")?;
    let mut rustc = tree::outside(tools, "usr/bin/rustc");
    rustc.arg("--version");
    let ours = String::from_utf8_lossy(&output(rustc)?).trim().to_owned();
    if wanted != ours {
        bail!("guest kernel {release} was built with {wanted:?}, but the archive has {ours:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(releases: &[&str]) -> Vec<String> {
        releases
            .iter()
            .map(|release| format!("linux-binary-{release}"))
            .collect()
    }

    #[test]
    fn the_newest_supported_plain_kernel_is_chosen() {
        let packages = archive(&[
            "7.3.9+deb13-amd64",
            "7.3.10+deb13-amd64",
            "7.3.11+deb13-rt-amd64",
            "7.3.12+deb13-cloud-amd64",
            "unsigned-7.3.13+deb13-amd64",
            "7.4.1+deb13-amd64",
            "6.12.1+deb13-amd64",
        ]);
        assert_eq!(choose(&packages, None).unwrap(), "7.3.10+deb13-amd64");
        assert_eq!(
            choose(&packages, Some("7.3.9+deb13-amd64")).unwrap(),
            "7.3.9+deb13-amd64"
        );
    }

    #[test]
    fn a_kernel_that_will_not_do_is_refused_with_the_supported_range() {
        let packages = archive(&["6.12.1+deb13-amd64"]);
        for asked in [None, Some("6.12.1+deb13-amd64"), Some("7.3.1+deb13-amd64")] {
            let error = choose(&packages, asked).unwrap_err().to_string();
            assert!(error.contains("7.3.x"), "{error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn the_source_package_is_the_series_own() {
        assert_eq!(source_package("7.3.4+deb13-amd64"), "linux-source-7.3");
    }
}
