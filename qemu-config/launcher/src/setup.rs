// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that has to exist before a guest can boot, made once and cached.
//!
//! | step | made from | what for |
//! |---|---|---|
//! | `qemu` | QEMU of the backports | if this machine has none that will do |
//! | `tools` | compilers of the guest's release, kernel headers | building the module |
//! | `guest` | the packages of `guest/image` | the guest's files |
//! | `kernel` | the stock kernel's packages | image and modules |
//! | `source` | the kernel's source package | making Rust metadata |
//! | `headers` | `tools`, `source` | what the module is built against |
//! | `image` | `guest`, `kernel`, `guest/image` | disk, initramfs |
//! | `accel` | QEMU, `image`, this machine | whether KVM works |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::archive::{self, Archive, Packages, Plan, Wanted};
use crate::graph::{Step, Store, Work};
use crate::key::Key;
use crate::mirror;
use crate::process::{find_program, output};
use crate::progress::Progress;
use crate::qemu::{self, Accel, AccelChoice, Qemu, Verdict};
use crate::{image, kernel, tree};

/// What the module is built with, and what the kernel's own build needs to make the metadata. Nothing here comes by
/// dependency alone: nothing is "essential" in a tree that is only unpacked.
const TOOLS: [&str; 27] = [
    "base-files",
    "bash",
    "bc",
    "bindgen",
    "bison",
    "clang",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "flex",
    "gcc",
    "grep",
    "gzip",
    "kmod",
    "libc-bin",
    "libelf-dev",
    "libssl-dev",
    "make",
    "mawk",
    "perl",
    "python3",
    "rust-src",
    "rustc",
    "sed",
    "tar",
    "xz-utils",
];

/// What is unpacked of these is gigabytes that no compiler reads.
const TOOLS_LEFT_OUT: [&str; 5] = [
    "./usr/src/rustc-*/src/*",
    "./usr/src/rustc-*/compiler/*",
    "./usr/src/rustc-*/tests/*",
    "./usr/lib/llvm-*/build/*",
    "./usr/lib/x86_64-linux-gnu/libasan*",
];

/// A plan that is older is made anew when something has to be downloaded: archives forget versions.
const PLAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// What a person may choose.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What guests run on.
    pub accel: AccelChoice,
    /// The guest's kernel, if not the newest that will do.
    pub kernel: Option<String>,
    /// The QEMU to use, if not one that is found.
    pub qemu: Option<PathBuf>,
    /// Ask the archive again what is current.
    pub refresh: bool,
}

/// Everything that has to exist before a guest can boot.
#[derive(Debug, Clone)]
pub struct Environment {
    /// QEMU.
    pub qemu: Qemu,
    /// What guests run on.
    pub accel: Accel,
    /// Why that.
    pub accel_reason: String,
    /// The guest's kernel, as `uname -r` says it there.
    pub kernel: String,
    /// The folder with [`image::result`].
    pub image: PathBuf,
    /// The tree with the compilers.
    pub tools: PathBuf,
    /// The headers that the module is built against.
    pub headers: PathBuf,
    /// Changes when anything that a built module depends on does, the module's own source aside.
    pub toolchain: Key,
    /// How long it took to set up or to find.
    pub took: Duration,
}

/// Where the cache is.
///
/// # Errors
///
/// If neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_folder() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place for a cache")?
        .join("verbena"))
}

/// Sets everything up, or finds it set up.
///
/// # Errors
///
/// As one line that says what is missing or wrong.
pub fn prepare(options: &Options, progress: &Progress) -> Result<Environment> {
    let start = Instant::now();
    require_host_programs(progress)?;
    let store = Store::open(&cache_folder()?)?;
    let host_qemu = Qemu::on_host(options.qemu.as_deref())?;
    let mut setup = Setup {
        store,
        host_qemu,
        plan: Plan {
            kernel: String::new(),
            sets: Default::default(),
        },
    };

    setup.plan = setup.find_plan(options, options.refresh, progress)?;
    if !setup.complete() && setup.plan_is_old(options) {
        setup.plan = setup.find_plan(options, true, progress)?;
    }
    setup.store.make(setup.steps(), progress)?;

    let qemu = setup.qemu()?;
    let verdict = setup.accel(options.accel, &qemu, progress)?;
    Ok(Environment {
        qemu,
        accel: verdict.accel,
        accel_reason: verdict.reason,
        kernel: setup.plan.kernel.clone(),
        image: setup.path("image"),
        tools: setup.path("tools"),
        headers: setup.path("headers").join("tree"),
        toolchain: setup.key("headers"),
        took: start.elapsed(),
    })
}

/// Removes from the cache what the current plan does not use, and returns how many things that were.
///
/// # Errors
///
/// If nothing was ever set up.
pub fn prune(options: &Options, progress: &Progress) -> Result<usize> {
    let store = Store::open(&cache_folder()?)?;
    let host_qemu = Qemu::on_host(options.qemu.as_deref())?;
    let mut setup = Setup {
        store,
        host_qemu,
        plan: Plan {
            kernel: String::new(),
            sets: Default::default(),
        },
    };
    setup.plan = Plan::read(&setup.plan_path(options)?)?.context("nothing was set up")?;
    let mut keep: Vec<_> = setup
        .steps()
        .iter()
        .map(|step| setup.store.path(step.name, &step.key))
        .collect();
    keep.push(setup.store.root().join("apt"));
    setup.store.prune(&keep, progress)
}

/// The programs of this machine that set-up uses, and the packages that have them.
const HOST_PROGRAMS: [(&str, &str); 9] = [
    ("apt-get", "apt"),
    ("bash", "bash"),
    ("cp", "coreutils"),
    ("dpkg-deb", "dpkg"),
    ("make", "make"),
    ("mke2fs", "e2fsprogs"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
];

fn require_host_programs(progress: &Progress) -> Result<()> {
    let missing: Vec<_> = HOST_PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    // SAFETY: geteuid has no arguments and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root || find_program("apt-get").is_none() {
        bail!(
            "this machine lacks some programs; run: apt-get install {}",
            packages.join(" ")
        );
    }
    let task = progress.begin("host packages", None);
    task.message(&packages.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        output(command)
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"][..], &packages].concat())?;
    task.done();
    Ok(())
}

struct Setup {
    store: Store,
    host_qemu: Option<Qemu>,
    plan: Plan,
}

impl Setup {
    fn plan_path(&self, options: &Options) -> Result<PathBuf> {
        let key = Key::of("plan-1")
            .text(archive::RELEASE)
            .text(options.kernel.as_deref().unwrap_or_default());
        let key = key.text(&TOOLS.join(" ")).text(image::PACKAGES);
        Ok(self.store.root().join(format!("plan-{}.json", key.finish())))
    }

    fn archive_root(&self) -> PathBuf {
        self.store.root().join("apt")
    }

    fn plan_is_old(&self, options: &Options) -> bool {
        if Archive::existing(&self.archive_root()).is_none() {
            return true;
        }
        let modified = self
            .plan_path(options)
            .ok()
            .and_then(|path| fs::metadata(path).ok()?.modified().ok());
        modified.is_none_or(|modified| modified.elapsed().is_ok_and(|age| age > PLAN_AGE))
    }

    fn complete(&self) -> bool {
        self.steps()
            .iter()
            .all(|step| self.store.path(step.name, &step.key).exists())
    }

    fn find_plan(&self, options: &Options, anew: bool, progress: &Progress) -> Result<Plan> {
        let path = self.plan_path(options)?;
        if !anew {
            if let Some(plan) = Plan::read(&path)? {
                return Ok(plan);
            }
        }
        if let Some(asked) = &options.kernel {
            // Before the network is asked: this one can never be had.
            if !asked.starts_with(kernel::SUPPORTED) {
                kernel::choose(&[], Some(asked))?;
            }
        }
        let _lock = self.store.lock(progress)?;
        let task = progress.begin("plan", None);
        let mirror = mirror::find(Path::new("/etc/apt"), &mirror::host_codename()?)?;
        let archive = Archive::open(&self.archive_root(), &mirror)?;
        task.message(&format!("asking {} what is current", mirror.uri));
        archive.update().with_context(|| {
            format!(
                "nothing is cached and the mirror {} cannot be reached (is there a network?)",
                mirror.uri
            )
        })?;
        let plan = make_plan(&archive, options.kernel.as_deref())?;
        plan.write(&path)?;
        task.done();
        Ok(plan)
    }

    fn key(&self, step: &str) -> Key {
        match step {
            "qemu" => self.plan.key("qemu-1", "qemu"),
            "tools" => self.plan.key("tools-2", "tools"),
            "guest" => self.plan.key("guest-1", "guest"),
            "kernel" => self.plan.key("kernel-1", "kernel"),
            "source" => self.plan.key("source-2", "source"),
            "headers" => Key::of("headers-2")
                .key(&self.key("tools"))
                .key(&self.key("source"))
                .finish(),
            "image" => {
                let key = Key::of("image-1").key(&self.key("guest")).key(&self.key("kernel"));
                key.text(image::MODULES)
                    .text(image::INIT)
                    .text(image::INITRAMFS_INIT)
                    .finish()
            }
            _ => unreachable!("there is no step {step}"),
        }
    }

    fn path(&self, step: &str) -> PathBuf {
        self.store.path(step, &self.key(step))
    }

    /// Downloads a set of packages and unpacks it as a step's result.
    fn fetch(&self, set: &str, left_out: &[&str], work: &Work) -> Result<()> {
        let debs = self.download(set, work)?;
        tree::unpack(&debs, work.out, left_out, work.task)?;
        fs::remove_dir_all(&debs).context("cannot remove the downloads")
    }

    fn download(&self, set: &str, work: &Work) -> Result<PathBuf> {
        let archive = Archive::existing(&self.archive_root()).context("the archive's index is gone from the cache")?;
        let debs = work.out.join(".debs");
        fs::create_dir(&debs)?;
        archive.download(self.plan.set(set), &debs, work.task)?;
        Ok(debs)
    }

    fn step<'a>(
        &'a self,
        name: &'static str,
        after: &[&'static str],
        action: impl FnOnce(&Work) -> Result<()> + Send + 'a,
    ) -> Step<'a> {
        Step {
            name,
            key: self.key(name),
            after: after.to_vec(),
            action: Box::new(action),
        }
    }

    fn steps(&self) -> Vec<Step<'_>> {
        // The longest way first: tools and source lead to the headers.
        let mut steps = vec![
            self.step("tools", &[], |work| {
                self.fetch("tools", &TOOLS_LEFT_OUT, work)?;
                tree::link(work.out, "usr/bin/awk", "mawk")?;
                tree::link(work.out, "usr/bin/cc", "gcc")
            }),
            self.step("source", &[], |work| {
                let debs = self.download("source", work)?;
                work.task.message("unpacking");
                for entry in fs::read_dir(&debs)? {
                    kernel::unpack_source(&entry?.path(), work.out)?;
                }
                fs::remove_dir_all(&debs).context("cannot remove the download")
            }),
            self.step("guest", &[], |work| self.fetch("guest", &[], work)),
            self.step("kernel", &["guest"], |work| {
                self.fetch("kernel", &[], work)?;
                work.task.message("indexing modules");
                kernel::index_modules(work.out, &self.plan.kernel, &self.path("guest"))
            }),
            self.step("image", &["guest", "kernel"], |work| {
                image::make(&self.plan.kernel, &self.path("guest"), &self.path("kernel"), work)
            }),
            self.step("headers", &["tools", "source"], |work| {
                let log = self.store.root().join("headers.log");
                kernel::make_headers(&self.plan.kernel, &self.path("tools"), &self.path("source"), &log, work)
            }),
        ];
        if self.host_qemu.is_none() {
            steps.push(self.step("qemu", &[], |work| self.fetch("qemu", &[], work)));
        }
        steps
    }

    fn qemu(&self) -> Result<Qemu> {
        match &self.host_qemu {
            Some(qemu) => Ok(qemu.clone()),
            None => Qemu::in_tree(&self.path("qemu")),
        }
    }

    fn accel(&self, choice: AccelChoice, qemu: &Qemu, progress: &Progress) -> Result<Verdict> {
        let asked = |accel| {
            Ok(Verdict {
                accel,
                reason: "it was asked for".into(),
            })
        };
        match (choice, qemu::kvm_obstacle()) {
            (AccelChoice::Tcg, _) => return asked(Accel::Tcg),
            (AccelChoice::Kvm, None) => return asked(Accel::Kvm),
            (AccelChoice::Kvm, Some(obstacle)) => bail!("KVM cannot be used: {obstacle}"),
            (AccelChoice::Auto, Some(reason)) => {
                return Ok(Verdict {
                    accel: Accel::Tcg,
                    reason,
                })
            }
            (AccelChoice::Auto, None) => {}
        }
        let key = qemu::machine_key(qemu, &self.key("image"));
        let verdict = self.store.path("accel", &key).join("verdict.json");
        let step = Step {
            name: "accel",
            key,
            after: Vec::new(),
            action: Box::new(|work| {
                work.task.message("does a guest boot under KVM here?");
                let image = self.path("image");
                let (kernel, initramfs) = (image.join(image::result::KERNEL), image.join(image::result::INITRAMFS));
                let verdict = qemu::try_kvm(qemu, &kernel, &initramfs)?;
                fs::write(work.out.join("verdict.json"), serde_json::to_vec(&verdict)?)?;
                Ok(())
            }),
        };
        self.store.make(vec![step], progress)?;
        let bytes = fs::read(&verdict).with_context(|| format!("cannot read {}", verdict.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged; remove its folder", verdict.display()))
    }
}

fn make_plan(archive: &Archive, asked: Option<&str>) -> Result<Plan> {
    let release = kernel::choose(&archive.names("linux-binary-")?, asked)?;
    let mut sets = std::collections::BTreeMap::new();
    let mut resolve = |wanted: Wanted| -> Result<Packages> {
        let packages = archive.resolve(&wanted)?;
        sets.insert(wanted.name.to_owned(), packages.clone());
        Ok(packages)
    };
    let kernel = Wanted {
        name: "kernel",
        packages: kernel::packages(&release),
        dependencies: false,
        backports: true,
    };
    let kernel = resolve(kernel)?;
    let version = kernel
        .first()
        .map(|package| package.version.clone())
        .context("apt named no kernel package")?;
    // The source of another version would give metadata of another kernel.
    let source = vec![format!("{}={version}", kernel::source_package(&release))];
    resolve(Wanted {
        name: "source",
        packages: source,
        dependencies: false,
        backports: true,
    })?;
    let tools = TOOLS
        .map(str::to_owned)
        .into_iter()
        .chain([format!("linux-headers-{release}")])
        .collect();
    resolve(Wanted {
        name: "tools",
        packages: tools,
        dependencies: true,
        backports: false,
    })?;
    let guest = image::entries(image::PACKAGES).map(str::to_owned).collect();
    resolve(Wanted {
        name: "guest",
        packages: guest,
        dependencies: true,
        backports: false,
    })?;
    let qemu = vec!["base-files".to_owned(), "qemu-system-x86".to_owned()];
    resolve(Wanted {
        name: "qemu",
        packages: qemu,
        dependencies: true,
        backports: true,
    })?;
    Ok(Plan { kernel: release, sets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Package;
    use crate::graph;
    use crate::session::TempDir;

    fn setup(folder: &TempDir) -> Setup {
        let names = ["kernel", "source", "tools", "guest", "qemu"];
        let package = |name: &str| {
            vec![Package {
                name: name.into(),
                version: "1".into(),
                size: 1,
            }]
        };
        let sets = names.iter().map(|name| ((*name).to_owned(), package(name))).collect();
        let store = Store::open(folder.path()).unwrap();
        Setup {
            store,
            host_qemu: None,
            plan: Plan {
                kernel: "7.3.4".into(),
                sets,
            },
        }
    }

    fn changed(before: &Setup, after: &Setup) -> Vec<&'static str> {
        let steps = before.steps();
        steps
            .iter()
            .filter(|step| after.key(step.name) != step.key)
            .map(|step| step.name)
            .collect()
    }

    #[test]
    fn the_graph_is_in_order() {
        let folder = TempDir::new("setup-test").unwrap();
        graph::check(&setup(&folder).steps()).unwrap();
    }

    #[test]
    fn a_new_version_changes_what_is_made_from_it_and_nothing_else() {
        let folder = TempDir::new("setup-test").unwrap();
        let before = setup(&folder);
        let bump = |set: &str| {
            let mut after = setup(&folder);
            after.plan.sets.get_mut(set).unwrap()[0].version = "2".into();
            changed(&before, &after)
        };
        assert_eq!(bump("qemu"), ["qemu"]);
        assert_eq!(bump("tools"), ["tools", "headers"]);
        assert_eq!(bump("guest"), ["guest", "image"]);
        assert_eq!(bump("kernel"), ["kernel", "image"]);
        assert_eq!(bump("source"), ["source", "headers"]);
    }

    #[test]
    fn a_kernel_that_can_never_be_had_is_refused_without_a_network() {
        let folder = TempDir::new("setup-test").unwrap();
        let options = Options {
            kernel: Some("6.12.1".into()),
            ..Options::default()
        };
        let error = setup(&folder)
            .find_plan(&options, false, &Progress::silent())
            .unwrap_err();
        assert!(error.to_string().contains("6.12.1 is not supported"), "{error}");
    }
}
