// SPDX-License-Identifier: MIT OR Apache-2.0
//! Set-up as a graph of steps: each makes one folder of the cache, named after what it is made from.
//!
//! A step works in a temporary folder that is renamed when it is complete, so whatever has its name is whole, after
//! an interruption too. A lock on the cache makes a second run wait for the first and then find its work done.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::thread;

use anyhow::{anyhow, bail, Context, Result};

use crate::key::Key;
use crate::progress::{Progress, Task};

/// Where finished steps are kept.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What a step has to work with.
pub struct Work<'a> {
    /// Empty, the step's own, and the result once the step is done.
    pub out: &'a Path,
    /// What a person sees of it.
    pub task: &'a Task,
}

/// What a step does.
pub type Action<'a> = Box<dyn FnOnce(&Work) -> Result<()> + Send + 'a>;

/// One step.
pub struct Step<'a> {
    /// Its name; the result is the folder `name-key`.
    pub name: &'static str,
    /// What the result is made from, the results of other steps included.
    pub key: Key,
    /// The steps whose results this one reads.
    pub after: Vec<&'static str>,
    /// Does it.
    pub action: Action<'a>,
}

impl Store {
    /// A store below `root`, which is created if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn open(root: &Path) -> Result<Store> {
        fs::create_dir_all(root).with_context(|| format!("cannot create the cache folder {}", root.display()))?;
        Ok(Store { root: root.to_owned() })
    }

    /// The folder that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the result of a step is or will be.
    pub fn path(&self, name: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{name}-{key}"))
    }

    /// Waits until nobody else changes the store, and keeps others from it until the result is dropped.
    ///
    /// # Errors
    ///
    /// If the lock file cannot be opened.
    pub fn lock(&self, progress: &Progress) -> Result<Lock> {
        let path = self.root.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: flock takes a descriptor, which `file` keeps open, and an integer.
        let flock = |operation| unsafe { libc::flock(file.as_raw_fd(), operation) };
        if flock(libc::LOCK_EX | libc::LOCK_NB) != 0 {
            progress.line("verbena: another set-up is at work; waiting for it");
            while flock(libc::LOCK_EX) != 0 {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        Ok(Lock(file))
    }

    /// Makes what is not there yet. Steps that do not depend on each other run at the same time.
    ///
    /// # Errors
    ///
    /// That of the first step that fails. Those that run at that time are finished first, and kept; no other is begun.
    pub fn make(&self, steps: Vec<Step>, progress: &Progress) -> Result<()> {
        if steps.iter().all(|step| self.path(step.name, &step.key).exists()) {
            return Ok(());
        }
        let _lock = self.lock(progress)?;
        // With the lock held, whatever lies here was left by a run that was interrupted.
        let temp = self.root.join("tmp");
        if temp.exists() {
            remove(&temp)?;
        }
        fs::create_dir(&temp).with_context(|| format!("cannot create {}", temp.display()))?;

        let states: HashMap<&str, State> = steps.iter().map(|step| (step.name, State::Waiting)).collect();
        let board = Board {
            states: Mutex::new(states),
            changed: Condvar::new(),
        };
        let first_error = Mutex::new(None);
        thread::scope(|scope| {
            for step in steps {
                let (board, first_error, temp) = (&board, &first_error, &temp);
                scope.spawn(move || {
                    let name = step.name;
                    let result = match board.wait_for(&step.after) {
                        true => self.perform(step, &temp.join(name), progress),
                        false => Err(anyhow!("not tried")),
                    };
                    let failed = result.is_err();
                    if let Err(error) = result {
                        let mut first = first_error.lock().expect("nobody panics holding it");
                        first.get_or_insert(error.context(format!("setting up {name}")));
                    }
                    board.set(name, if failed { State::Failed } else { State::Done });
                });
            }
        });
        let _ = fs::remove_dir(&temp);
        match first_error.into_inner().expect("nobody panics holding it") {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn perform(&self, step: Step, temp: &Path, progress: &Progress) -> Result<()> {
        let path = self.path(step.name, &step.key);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir(temp).with_context(|| format!("cannot create {}", temp.display()))?;
        let task = progress.begin(step.name, None);
        (step.action)(&Work { out: temp, task: &task })?;
        fs::rename(temp, &path).with_context(|| format!("cannot rename {} to {}", temp.display(), path.display()))?;
        task.done();
        Ok(())
    }

    /// Removes every result that is not among `keep`, and returns how many there were.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub fn prune(&self, keep: &[PathBuf], progress: &Progress) -> Result<usize> {
        let _lock = self.lock(progress)?;
        let mut count = 0;
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_dir() && !keep.contains(&path) {
                remove(&path)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Keeps others from changing the store.
pub struct Lock(#[expect(dead_code, reason = "it is the open file that holds the lock")] File);

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Done,
    Failed,
}

struct Board {
    states: Mutex<HashMap<&'static str, State>>,
    changed: Condvar,
}

impl Board {
    /// Whether all of `names` came to a good end, and nothing else to a bad one.
    fn wait_for(&self, names: &[&'static str]) -> bool {
        let mut states = self.states.lock().expect("nobody panics holding it");
        loop {
            if states.values().any(|&state| state == State::Failed) {
                return false;
            }
            if names
                .iter()
                .all(|name| states.get(name).copied().unwrap_or(State::Done) == State::Done)
            {
                return true;
            }
            states = self.changed.wait(states).expect("nobody panics holding it");
        }
    }

    fn set(&self, name: &'static str, state: State) {
        self.states
            .lock()
            .expect("nobody panics holding it")
            .insert(name, state);
        self.changed.notify_all();
    }
}

/// Checks that `after` names only steps that are there, and that there is no circle; for the tests of the real graph.
///
/// # Errors
///
/// Names the step.
pub fn check(steps: &[Step]) -> Result<()> {
    let mut known: Vec<&str> = Vec::new();
    for step in steps {
        if let Some(name) = step.after.iter().find(|name| !known.contains(name)) {
            bail!(
                "step {} comes after {name}, which is not before it in the list",
                step.name
            );
        }
        known.push(step.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::session::TempDir;

    fn key(text: &str) -> Key {
        Key::of(text).finish()
    }

    fn step<'a>(
        name: &'static str,
        after: &[&'static str],
        action: impl FnOnce(&Work) -> Result<()> + Send + 'a,
    ) -> Step<'a> {
        Step {
            name,
            key: key(name),
            after: after.to_vec(),
            action: Box::new(action),
        }
    }

    #[test]
    fn a_step_sees_what_it_comes_after_and_is_not_repeated() {
        let folder = TempDir::new("graph-test").unwrap();
        let store = Store::open(folder.path()).unwrap();
        let runs = AtomicU32::new(0);
        for _ in 0..2 {
            let first = store.path("first", &key("first"));
            let steps = vec![
                step("first", &[], |work| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    fs::write(work.out.join("file"), "content").map_err(Into::into)
                }),
                step("second", &["first"], move |work| {
                    fs::copy(first.join("file"), work.out.join("copy"))
                        .map(drop)
                        .map_err(Into::into)
                }),
            ];
            check(&steps).unwrap();
            store.make(steps, &Progress::silent()).unwrap();
        }
        assert_eq!(runs.into_inner(), 1);
        assert_eq!(
            fs::read_to_string(store.path("second", &key("second")).join("copy")).unwrap(),
            "content"
        );
        assert!(!folder.path().join("tmp").exists());
    }

    #[test]
    fn a_failure_leaves_nothing_half_done_and_stops_what_follows() {
        let folder = TempDir::new("graph-test").unwrap();
        let store = Store::open(folder.path()).unwrap();
        let steps = vec![
            step("bad", &[], |work| {
                fs::write(work.out.join("half"), "")?;
                bail!("no luck")
            }),
            step("next", &["bad"], |_| panic!("it must not run")),
        ];
        let error = format!("{:#}", store.make(steps, &Progress::silent()).unwrap_err());
        assert_eq!(error, "setting up bad: no luck");
        assert!(!store.path("bad", &key("bad")).exists());
        let steps = vec![step("bad", &[], |work| {
            assert!(fs::read_dir(work.out)?.next().is_none(), "the half is gone");
            Ok(())
        })];
        store.make(steps, &Progress::silent()).unwrap();
    }

    #[test]
    fn two_runs_at_once_do_the_work_once() {
        let folder = TempDir::new("graph-test").unwrap();
        let runs = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let store = Store::open(folder.path()).unwrap();
                    let only = step("only", &[], |_| {
                        thread::sleep(std::time::Duration::from_millis(50));
                        runs.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    });
                    store.make(vec![only], &Progress::silent()).unwrap();
                });
            }
        });
        assert_eq!(runs.into_inner(), 1);
    }

    #[test]
    fn pruning_keeps_what_is_named() {
        let folder = TempDir::new("graph-test").unwrap();
        let store = Store::open(folder.path()).unwrap();
        let steps = vec![step("old", &[], |_| Ok(())), step("new", &[], |_| Ok(()))];
        store.make(steps, &Progress::silent()).unwrap();
        let keep = store.path("new", &key("new"));
        assert_eq!(
            store.prune(std::slice::from_ref(&keep), &Progress::silent()).unwrap(),
            1
        );
        assert!(keep.exists() && !store.path("old", &key("old")).exists());
    }
}
