// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes that cannot outlive us.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::session::{forget_group, register_group, TempDir};

/// A running child, in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    ended: Option<ExitStatus>,
}

/// Which process group a child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Its own, so that it can be killed with all its children.
    Own,
    /// Ours: it talks to the terminal, which hands out input to one group only.
    Terminal,
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread that starts every child. `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the process,
/// so children must not be started by threads that come and go.
fn starter() -> &'static Mutex<Sender<Job>> {
    static STARTER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        thread::spawn(move || receiver.into_iter().for_each(|job| job()));
        Mutex::new(sender)
    })
}

fn start(mut command: Command, group: Group) -> io::Result<Child> {
    let parent = std::process::id();
    if group == Group::Own {
        command.process_group(0);
    }
    let prepare = move || {
        // SAFETY: all of these are async-signal-safe system calls on integers and on a set that lives on this stack
        // and that sigemptyset initialises; between fork and exec nothing else would be allowed.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() as u32 != parent {
                // We died between the fork and the call above.
                libc::_exit(127);
            }
            // Session blocks signals in all our threads; a child must not inherit that.
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: see inside: the closure makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let (sender, receiver) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        let child = if group == Group::Own {
            register_group(|| command.spawn().map(|child| (child.id() as i32, child)))
        } else {
            command.spawn()
        };
        let _ = sender.send(child);
    });
    starter()
        .lock()
        .expect("sending cannot panic")
        .send(job)
        .expect("the starter never ends");
    receiver.recv().expect("the starter answers every job")
}

impl Process {
    /// Starts `command`. What it says and hears is the caller's choice.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(command: Command, group: Group) -> Result<Process> {
        let program = command.get_program().to_owned();
        let name = Path::new(&program)
            .file_name()
            .unwrap_or(&program)
            .to_string_lossy()
            .into_owned();
        let child = start(command, group).with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
        Ok(Process {
            child,
            name,
            ended: None,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// What wait(2) says.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() && has_ended(self.child.id(), libc::WNOHANG) {
            self.reap()?;
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// What wait(2) says.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        has_ended(self.child.id(), 0);
        self.reap()
    }

    /// Collects a child that has ended, and ends what it left running in its group. While it is not collected, its
    /// number is nobody else's, and neither is its group's.
    fn reap(&mut self) -> Result<ExitStatus> {
        let id = self.child.id() as i32;
        // SAFETY: kill takes two integers. A child in our own group leads no group, and this finds nothing.
        unsafe { libc::kill(-id, libc::SIGKILL) };
        let status = self
            .child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))?;
        forget_group(id);
        self.ended = Some(status);
        Ok(status)
    }

    /// Waits for its end, but not longer than `timeout`; `None` if it still runs then.
    ///
    /// # Errors
    ///
    /// What wait(2) says.
    pub fn wait_for(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal. Nothing happens if it has ended.
    pub fn signal(&mut self, signal: i32) {
        if matches!(self.try_wait(), Ok(None)) {
            // SAFETY: kill takes two integers. The child was not waited for, so its id is not anybody else's.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }

    /// Takes its standard input, if that was a pipe.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Takes its standard output, if that was a pipe.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Takes its standard error, if that was a pipe.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let id = self.child.id() as i32;
            // SAFETY: kill takes integers. The child was not waited for, so neither id is anybody else's. A child in
            // our own group has no group of its own, and the first call finds nothing.
            unsafe {
                libc::kill(-id, libc::SIGKILL);
                libc::kill(id, libc::SIGKILL);
            }
            let _ = self.child.wait();
            forget_group(id);
        }
    }
}

/// Whether a child has ended; it is left to be collected. `options` is 0 to wait for it or `WNOHANG`.
fn has_ended(pid: u32, options: i32) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: the pointer is to a live value, for which all zeros is a valid content.
        let result = unsafe {
            libc::waitid(
                libc::P_PID,
                pid,
                info.as_mut_ptr(),
                libc::WEXITED | libc::WNOWAIT | options,
            )
        };
        let interrupted = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        match result {
            // SAFETY: initialised as above; si_pid is valid for what waitid fills in, and stays 0 if nothing ended.
            0 => return unsafe { info.assume_init().si_pid() } != 0,
            _ if interrupted() => continue,
            // It was collected by somebody else, which wait will report.
            _ => return true,
        }
    }
}

/// How a process ended, for a person.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Runs `command` to its end and returns how it ended and what it wrote.
///
/// # Errors
///
/// If it cannot be started.
pub fn finish(mut command: Command) -> Result<Output> {
    let folder = TempDir::new("output")?;
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    // Into files: a pipe that nobody empties would block a talkative child.
    command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?);
    let status = Process::start(command, Group::Own)?.wait()?;
    Ok(Output {
        status,
        stdout: fs::read(&out)?,
        stderr: fs::read(&err)?,
    })
}

/// Runs `command` to its end and returns what it wrote to its standard output.
///
/// # Errors
///
/// If it cannot be started or fails; the message ends in the last lines that it wrote.
pub fn output(command: Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } = finish(command)?;
    if !status.success() {
        let said = if stderr.trim_ascii().is_empty() { stdout } else { stderr };
        bail!(
            "{program} failed ({}): {}",
            describe(status),
            last_lines(&String::from_utf8_lossy(&said), 6)
        );
    }
    Ok(stdout)
}

/// Runs `command` to its end, with all it writes appended to `log`.
///
/// # Errors
///
/// If it cannot be started or fails; the message names the log and ends in its last lines.
pub fn logged(mut command: Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = Process::start(command, Group::Own)?.wait()?;
    if !status.success() {
        let said = fs::read(log).unwrap_or_default();
        let said = last_lines(&String::from_utf8_lossy(&said), 12);
        bail!(
            "{program} failed ({}), see {}:\n{said}",
            describe(status),
            log.display()
        );
    }
    Ok(())
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Finds a program in `PATH`, or where only root's `PATH` would look.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_returned_and_a_failure_says_why() {
        assert_eq!(output(shell("echo fine; echo noise >&2")).unwrap(), b"fine\n");
        let error = format!("{:#}", output(shell("echo reason >&2; exit 4")).unwrap_err());
        assert!(error.contains("exit status 4") && error.contains("reason"), "{error}");
        assert!(output(Command::new("/nonexistent/program")).is_err());
    }

    #[test]
    fn dropping_kills_the_child_and_its_children() {
        let mut command = shell("sleep 600 & echo $!; wait");
        command.stdout(Stdio::piped());
        let mut process = Process::start(command, Group::Own).unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(process.take_stdout().unwrap()), &mut line).unwrap();
        let grandchild = format!("/proc/{}/stat", line.trim());
        assert!(Path::new(&grandchild).exists());
        drop(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_to_string(&grandchild).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "{grandchild} lives");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut process = thread::spawn(|| Process::start(shell("sleep 0.3; exit 7"), Group::Own).unwrap())
            .join()
            .unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn what_an_ended_child_left_running_ends_with_it() {
        let mut command = shell("sleep 600 & echo $!");
        command.stdout(Stdio::piped());
        let mut process = Process::start(command, Group::Own).unwrap();
        let mut said = String::new();
        // Ends when the last holder of the pipe does: the grandchild is one.
        let mut stdout = process.take_stdout().unwrap();
        assert!(process.wait().unwrap().success());
        io::Read::read_to_string(&mut stdout, &mut said).unwrap();
        assert!(said.trim().parse::<u32>().is_ok(), "{said}");
    }

    #[test]
    fn waiting_is_bounded() {
        let mut process = Process::start(shell("sleep 600"), Group::Own).unwrap();
        assert!(process.wait_for(Duration::from_millis(50)).unwrap().is_none());
        process.signal(libc::SIGTERM);
        let status = process.wait_for(Duration::from_secs(10)).unwrap().expect("it ends");
        assert_eq!(describe(status), "signal 15");
    }

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines("a\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
