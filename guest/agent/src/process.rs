// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program that the agent started: its output as it comes, and its end.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{Bytes, Exit, Spawn, State, OUTPUT_LIMIT};

/// How long after a program's end its output is still waited for. A grandchild that lives on keeps the pipes open.
const DRAIN: Duration = Duration::from_millis(500);

/// A program that was started.
pub(crate) struct Process {
    pid: u32,
    shared: Arc<Shared>,
}

struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    state: State,
    open_streams: u32,
    ended: Option<Instant>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no thread panics while it holds this")
    }
}

impl Process {
    /// Starts a program in a process group of its own.
    ///
    /// # Errors
    ///
    /// As a sentence, if there is no program or it cannot be started.
    pub(crate) fn spawn(what: &Spawn) -> Result<Process, String> {
        let (program, arguments) = what.argv.split_first().ok_or("no program was named")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(&what.env).process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = what.user {
            command.uid(user).gid(user);
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;

        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress::default()),
            changed: Condvar::new(),
        });
        shared.lock().open_streams = 2;
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        collect(stdout, &shared, |state| &mut state.stdout);
        collect(stderr, &shared, |state| &mut state.stderr);

        let mut stdin = child.stdin.take().expect("it was asked for");
        if !what.stdin.0.is_empty() {
            let input = what.stdin.0.clone();
            // A program need not read its input, so this may fail, and may block until the program ends.
            thread::spawn(move || stdin.write_all(&input));
        }

        let process = Process {
            pid: child.id(),
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            let exit = match child.wait() {
                Ok(status) => exit_of(status),
                Err(error) => unreachable!("waiting for a child of ours failed: {error}"),
            };
            let mut progress = shared.lock();
            progress.state.exit = Some(exit);
            progress.ended = Some(Instant::now());
            shared.changed.notify_all();
        });
        Ok(process)
    }

    /// The guest's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The state at the program's end, or after `timeout`, whichever is first.
    pub(crate) fn wait(&self, timeout: Duration) -> State {
        let deadline = Instant::now() + timeout;
        let mut progress = self.shared.lock();
        loop {
            let until = match progress.ended {
                Some(_) if progress.open_streams == 0 => return progress.state.clone(),
                Some(ended) => ended + DRAIN,
                None => deadline,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return progress.state.clone();
            }
            progress = self
                .shared
                .changed
                .wait_timeout(progress, left)
                .expect("see Shared::lock")
                .0;
        }
    }

    /// Sends a signal to the program, or to its process group.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended already, and what else kill(2) says.
    pub(crate) fn signal(&self, signal: i32, group: bool) -> io::Result<()> {
        // The state is held while the signal is sent: a process that was not yet waited for keeps its number, so the
        // signal cannot reach a stranger. A group may outlive its leader, so that one is always tried.
        let progress = self.shared.lock();
        if progress.state.exit.is_some() && !group {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let pid = i32::try_from(self.pid).expect("process ids are positive ints");
        // SAFETY: kill takes two integers and touches no memory of ours.
        let result = unsafe { libc::kill(if group { -pid } else { pid }, signal) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => unreachable!("wait reports stopped children only if asked to"),
    }
}

fn collect(mut stream: impl Read + Send + 'static, shared: &Arc<Shared>, part: fn(&mut State) -> &mut Bytes) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let mut progress = shared.lock();
            let kept = &mut part(&mut progress.state).0;
            let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(count);
            kept.extend_from_slice(&buffer[..room]);
            progress.state.dropped += (count - room) as u64;
        }
        shared.lock().open_streams -= 1;
        shared.changed.notify_all();
    });
}
