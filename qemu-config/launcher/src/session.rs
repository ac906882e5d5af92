// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must not outlive the launcher: processes and temporary folders.
//!
//! Three nets under each other. Values clean up when they are dropped. On SIGINT, SIGTERM and SIGHUP a thread of
//! [`Session`] kills every process group that is still registered and removes every registered folder. If the launcher
//! is killed outright, the kernel kills its children (`PR_SET_PDEATHSIG`, see [`crate::process`]) and the next
//! session removes the folders that name a process which no longer exists.

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};

/// Process groups to be killed, by the id of their leader.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// Folders to be removed.
static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

const PREFIX: &str = "verbena-run";

/// Signals are handled from [`Session::begin`] on, until the process ends.
pub struct Session(());

impl Session {
    /// Takes over SIGINT, SIGTERM and SIGHUP. Has to be called before any thread is started: a thread inherits the
    /// signal mask of the one that starts it.
    pub fn begin() -> Session {
        let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set before anything reads it; the other calls get valid pointers to it,
        // and a null pointer where the old mask is not wanted.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in signals {
                libc::sigaddset(&mut set, signal);
            }
            let result = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            assert_eq!(result, 0, "the mask and the operation are valid");
            set
        };
        thread::spawn(move || {
            let mut signal = 0;
            // SAFETY: both pointers are to live values.
            let result = unsafe { libc::sigwait(&set, &mut signal) };
            assert_eq!(result, 0, "the set is valid");
            clean_up();
            eprintln!("\nverbena: ended by signal {signal}; nothing is left running");
            // Not std's exit: other threads are at work and must not see statics being torn down.
            // SAFETY: _exit takes an integer and does not return.
            unsafe { libc::_exit(128 + signal) }
        });
        remove_stale_folders();
        Session(())
    }
}

fn clean_up() {
    // The locks stay taken: nobody may start anything new between this and the end of the process.
    let groups = GROUPS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for &group in groups.iter() {
        // SAFETY: kill takes two integers.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    let folders = FOLDERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for folder in folders.iter() {
        let _ = fs::remove_dir_all(folder);
    }
    std::mem::forget((groups, folders));
}

/// Runs `start` and registers the group that it returns; in one go, so that a signal finds either no process or a
/// registered one.
pub(crate) fn register_group<E, T>(start: impl FnOnce() -> Result<(i32, T), E>) -> Result<T, E> {
    let mut groups = GROUPS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (group, value) = start()?;
    groups.insert(group);
    Ok(value)
}

pub(crate) fn forget_group(group: i32) {
    GROUPS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .remove(&group);
}

/// A folder that only we can read, gone when this is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one. Its path is short, because it will hold Unix sockets, whose paths may have 107 bytes.
    ///
    /// # Errors
    ///
    /// If the temporary folder of the system cannot be written to.
    pub fn new(name: &str) -> Result<TempDir> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{PREFIX}-{}-{number}-{name}", std::process::id()));
        let mut folders = FOLDERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create the folder {}", path.display()))?;
        folders.insert(path.clone());
        Ok(TempDir(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        FOLDERS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&self.0);
    }
}

/// Removes what sessions left behind that were killed outright.
fn remove_stale_folders() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().strip_prefix(PREFIX).and_then(|rest| {
            let pid = rest.strip_prefix('-')?.split('-').next()?;
            pid.parse::<u32>().ok()
        });
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new("session-test").unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_sessions_folder_is_removed_and_a_living_ones_is_not() {
        // Process ids end at 2^22.
        let dead = std::env::temp_dir().join(format!("{PREFIX}-4194305-0-test"));
        fs::create_dir_all(&dead).unwrap();
        let living = TempDir::new("session-test").unwrap();
        remove_stale_folders();
        assert!(!dead.exists());
        assert!(living.path().exists());
    }
}
