// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs for measuring, of the guest's release, for a machine that does not have them: each is fetched into the cache once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive::{self, Archive, Wanted};
use crate::graph::{Step, Store, Work};
use crate::key::Key;
use crate::mirror;
use crate::progress::Progress;
use crate::{setup, tree};

/// The tree of `package`, with everything that it depends on or alone.
///
/// # Errors
///
/// If it is not in the cache and cannot be fetched.
pub(crate) fn tree(
    name: &'static str,
    package: &'static str,
    dependencies: bool,
    progress: &Progress,
) -> Result<PathBuf> {
    let store = Store::open(&setup::cache_folder()?)?;
    // Any version will do.
    let key = Key::of(&format!("{name}-1")).text(archive::RELEASE).finish();
    let root = store.path(name, &key);
    let apt = store.root().join("apt");
    let wanted = Wanted {
        name,
        packages: vec![package.to_owned()],
        dependencies,
        backports: false,
    };
    let step = Step {
        name,
        key,
        after: Vec::new(),
        action: Box::new(move |work| fetch(&apt, &wanted, work)),
    };
    store.make(vec![step], progress)?;
    Ok(root)
}

fn fetch(apt: &Path, wanted: &Wanted, work: &Work) -> Result<()> {
    // The caller's lock on the store keeps others from the archive too.
    let mirror = mirror::find(Path::new("/etc/apt"), &mirror::host_codename()?)?;
    let archive = Archive::open(apt, &mirror)?;
    work.task.message("asking what is current");
    archive.update().context("the mirror cannot be reached")?;
    let packages = archive.resolve(wanted)?;
    let debs = work.out.join(".debs");
    fs::create_dir(&debs)?;
    archive.download(&packages, &debs, work.task)?;
    tree::unpack(&debs, work.out, &[], work.task)?;
    fs::remove_dir_all(&debs).context("cannot remove the download")
}
