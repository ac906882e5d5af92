// SPDX-License-Identifier: MIT OR Apache-2.0
//! A running guest.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
pub use verbena_agent::protocol::Exit;
use verbena_agent::protocol::{Answer, Bytes, Op, Spawn, State};
use verbena_agent::{CallError, Client};

use crate::console;
use crate::image::result;
use crate::payload::Payload;
use crate::process::{describe, Group, Process};
use crate::profile::{hca_options, Scenario};
use crate::session::TempDir;
use crate::setup::Environment;

/// How long a guest may take from QEMU's start to the agent's first word. Seconds, usually; this is for a machine that
/// emulates two guests while it compiles something.
const BOOT: Duration = Duration::from_secs(240);

/// How long the agent may take for what it does at once.
const PROMPT: Duration = Duration::from_secs(60);

/// How long one round of waiting for a program is.
const ROUND: Duration = Duration::from_secs(5);

/// How to boot one.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Its name, for messages.
    pub name: String,
    /// What it is for.
    pub scenario: Scenario,
    /// The vfio-user socket of its HCA, if it has one.
    pub hca: Option<PathBuf>,
    /// What it brings along.
    pub payload: Payload,
    /// Whether udev loads the module when it finds the device. Otherwise it waits for a `modprobe verbena`.
    pub load_module: bool,
    /// The folder where the two guests of a pair find each other's end of the link.
    pub link: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub kernel_words: Vec<String>,
    /// More options for QEMU.
    pub qemu_options: Vec<String>,
    /// Where console and QEMU's own output go.
    pub logs: PathBuf,
}

impl GuestConfig {
    /// One guest with nothing special about it.
    pub fn new(name: &str, payload: Payload, logs: &Path) -> GuestConfig {
        GuestConfig {
            name: name.to_owned(),
            scenario: Scenario::Single,
            hca: None,
            payload,
            load_module: true,
            link: None,
            kernel_words: Vec::new(),
            qemu_options: Vec::new(),
            logs: logs.to_owned(),
        }
    }
}

/// A running guest. Dropping it kills it. All methods may be called from several threads at once.
pub struct Guest {
    name: String,
    process: Mutex<Process>,
    client: Client,
    console: PathBuf,
    errors: PathBuf,
    boot_time: Duration,
    kernel: String,
    /// Holds the disks and sockets; last, so that it goes after the process.
    _folder: TempDir,
}

/// A program for a guest to run.
#[derive(Debug, Clone)]
pub struct Program {
    what: Spawn,
    timeout: Duration,
}

impl Program {
    /// A program with its arguments. It may take two minutes unless told otherwise.
    pub fn new<S: AsRef<str>>(argv: impl IntoIterator<Item = S>) -> Program {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        Program {
            what: Spawn {
                argv,
                ..Spawn::default()
            },
            timeout: Duration::from_secs(120),
        }
    }

    /// A script for the guest's shell.
    pub fn shell(script: &str) -> Program {
        Program::new(["sh", "-c", script])
    }

    /// Adds a variable to its environment.
    pub fn env(mut self, name: &str, value: &str) -> Program {
        self.what.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs it as this user and group.
    pub fn user(mut self, id: u32) -> Program {
        self.what.user = Some(id);
        self
    }

    /// What it finds on its standard input.
    pub fn stdin(mut self, input: &[u8]) -> Program {
        self.what.stdin = input.into();
        self
    }

    /// How long it may take.
    pub fn timeout(mut self, timeout: Duration) -> Program {
        self.timeout = timeout;
        self
    }
}

/// A program that runs in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    id: u32,
    /// Its process id in the guest.
    pub pid: u32,
}

/// A program that ran.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took, seen from here.
    pub took: Duration,
}

impl Finished {
    /// Whether it ended with status 0.
    pub fn is_success(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

impl Guest {
    /// Boots a guest and waits until its agent answers.
    ///
    /// # Errors
    ///
    /// If it does not get there; the message ends in the console's last lines.
    pub fn boot(environment: &Environment, config: &GuestConfig) -> Result<Guest> {
        let folder = run_folder(environment, config)?;
        let console = config.logs.join(format!("{}.console", config.name));
        let errors = config.logs.join(format!("{}.qemu", config.name));
        File::create(&console).with_context(|| format!("cannot write {}", console.display()))?;
        symlink(&console, folder.path().join("console.log"))?;

        let start = Instant::now();
        let mut command = command(environment, config, &folder)?;
        let log = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process::start(command, Group::Own)?;
        let greeting = greet(&mut process, &folder.path().join("agent.sock"));
        let (client, kernel) = greeting.map_err(|error| {
            let name = &config.name;
            let error = error.context(format!("guest {name} does not come up ({})", environment.accel.name()));
            explain(error, &mut process, &console, &errors)
        })?;
        Ok(Guest {
            name: config.name.clone(),
            process: Mutex::new(process),
            client,
            console,
            errors,
            boot_time: start.elapsed(),
            kernel,
            _folder: folder,
        })
    }

    /// Runs a guest with its console on this terminal, until it powers off.
    ///
    /// # Errors
    ///
    /// If QEMU fails.
    pub fn interact(environment: &Environment, config: &GuestConfig) -> Result<()> {
        let folder = run_folder(environment, config)?;
        let mut process = Process::start(command(environment, config, &folder)?, Group::Terminal)?;
        let status = process.wait()?;
        if !status.success() {
            bail!("QEMU failed ({})", describe(status));
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From QEMU's start to the agent's first word.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// What `uname -r` says in it.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Starts a program, waits for its end and returns what came of it, whatever that is.
    ///
    /// # Errors
    ///
    /// If it cannot be started or does not end in time (it is then killed, with all its group), or the guest is gone.
    pub fn run(&self, program: &Program) -> Result<Finished> {
        let running = self.spawn(program)?;
        if let Some(finished) = self.wait(running, program.timeout)? {
            return Ok(finished);
        }
        let state = self.state(running).unwrap_or_default();
        let _ = self.signal_group(running, libc::SIGKILL);
        let said = console::last_lines_of(&state.stdout.text(), &state.stderr.text());
        let error = anyhow!(
            "{:?} did not end within {:?}; it said: {said}",
            program.what.argv,
            program.timeout
        );
        Err(self.explain(error))
    }

    /// Runs a program that has to succeed, and returns its standard output.
    ///
    /// # Errors
    ///
    /// As [`Guest::run`], and if it ends with anything but status 0.
    pub fn check(&self, program: &Program) -> Result<String> {
        let finished = self.run(program)?;
        if !finished.is_success() {
            let said = console::last_lines_of(&finished.stdout, &finished.stderr);
            let error = anyhow!("{:?} failed ({:?}): {said}", program.what.argv, finished.exit);
            return Err(self.explain(error));
        }
        Ok(finished.stdout)
    }

    /// Starts a program and lets it run.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or the guest is gone.
    pub fn spawn(&self, program: &Program) -> Result<Running> {
        match self.call(Op::Spawn(program.what.clone()), PROMPT)? {
            Answer::Started { process, pid } => Ok(Running { id: process, pid }),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Waits for the end of a program; `None` if it still runs after `timeout`.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn wait(&self, running: Running, timeout: Duration) -> Result<Option<Finished>> {
        let start = Instant::now();
        loop {
            // In rounds, so that a guest which hangs is noticed and not waited for to the end of a long timeout.
            let left = timeout.saturating_sub(start.elapsed());
            let state = self.state_after(running, left.min(ROUND))?;
            if let Some(exit) = state.exit {
                let (stdout, stderr) = (state.stdout.text(), state.stderr.text());
                return Ok(Some(Finished {
                    exit,
                    stdout,
                    stderr,
                    took: start.elapsed(),
                }));
            }
            if left <= ROUND {
                return Ok(None);
            }
        }
    }

    /// What a program has said so far, and whether it still runs.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn state(&self, running: Running) -> Result<State> {
        self.state_after(running, Duration::ZERO)
    }

    fn state_after(&self, running: Running, timeout: Duration) -> Result<State> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match self.call(
            Op::Wait {
                process: running.id,
                timeout_ms,
            },
            timeout + PROMPT,
        )? {
            Answer::State(state) => Ok(state),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Sends a program a signal.
    ///
    /// # Errors
    ///
    /// If it has ended already, or the guest is gone.
    pub fn signal(&self, running: Running, signal: i32) -> Result<()> {
        self.call(
            Op::Signal {
                process: running.id,
                signal,
                group: false,
            },
            PROMPT,
        )
        .map(drop)
    }

    /// Sends a signal to a program and all its children that did not leave its process group.
    ///
    /// # Errors
    ///
    /// If there is none left, or the guest is gone.
    pub fn signal_group(&self, running: Running, signal: i32) -> Result<()> {
        self.call(
            Op::Signal {
                process: running.id,
                signal,
                group: true,
            },
            PROMPT,
        )
        .map(drop)
    }

    /// Reads a file of the guest, of at most 16 MiB.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or the guest is gone.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        match self.call(
            Op::ReadFile {
                path: path.to_owned(),
                limit: 16 << 20,
            },
            PROMPT,
        )? {
            Answer::File { data } => Ok(data.0),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Writes a file in the guest.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or the guest is gone.
    pub fn write_file(&self, path: &str, data: &[u8], mode: u32) -> Result<()> {
        let data = Bytes::from(data);
        self.call(
            Op::WriteFile {
                path: path.to_owned(),
                data,
                mode,
            },
            PROMPT,
        )
        .map(drop)
    }

    /// The kernel's log, from its beginning (as far as its buffer goes back).
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn dmesg(&self) -> Result<String> {
        self.check(&Program::new(["dmesg"]))
    }

    /// The last lines of the console.
    pub fn console_tail(&self, lines: usize) -> String {
        console::tail(&self.console, lines)
    }

    /// The console's file.
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// What the kernel has complained about since it booted: warnings, oopses, stalls, each with its trace.
    pub fn complaints(&self) -> Vec<String> {
        console::complaints(&console::text(&self.console))
    }

    /// Whether QEMU still runs.
    pub fn is_running(&self) -> bool {
        matches!(self.lock().try_wait(), Ok(None))
    }

    /// Ends the guest as its own `poweroff` would, and waits for QEMU's end.
    ///
    /// # Errors
    ///
    /// If it does not end, or QEMU fails.
    pub fn poweroff(self) -> Result<()> {
        match self.client.call(Op::PowerOff, PROMPT) {
            // The line may go dead before the answer is out.
            Ok(_) | Err(CallError::Closed) => {}
            Err(error) => return Err(self.explain(error.into())),
        }
        let ended = self.lock().wait_for(PROMPT)?;
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.explain(anyhow!("QEMU failed ({})", describe(status)))),
            None => Err(self.explain(anyhow!("guest {} does not power off", self.name))),
        }
    }

    /// Pulls the plug.
    pub fn kill(self) {
        drop(self);
    }

    fn call(&self, op: Op, timeout: Duration) -> Result<Answer> {
        match self.client.call(op, timeout) {
            Ok(answer) => Ok(answer),
            // The guest is well and says no: its console has nothing to add.
            Err(CallError::Refused(reason)) => Err(anyhow!("guest {}: {reason}", self.name)),
            Err(error) => Err(self.explain(anyhow::Error::from(error).context(format!("guest {}", self.name)))),
        }
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        explain(error, &mut self.lock(), &self.console, &self.errors)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Adds to an error what QEMU and the console say.
fn explain(error: anyhow::Error, process: &mut Process, console: &Path, errors: &Path) -> anyhow::Error {
    let mut text = format!("{error:#}");
    if let Ok(Some(status)) = process.try_wait() {
        text += &format!("; QEMU ended ({})", describe(status));
    }
    let said = console::tail(errors, 4);
    if !said.is_empty() {
        text += &format!("; QEMU said: {said}");
    }
    let tail = console::tail(console, 15);
    if !tail.is_empty() {
        text += &format!("\nthe end of its console ({}):\n{tail}", console.display());
    }
    anyhow!(text)
}

/// The folder that QEMU runs in: what the profiles name is there under these names.
fn run_folder(environment: &Environment, config: &GuestConfig) -> Result<TempDir> {
    let folder = TempDir::new(&config.name)?;
    for name in [result::DISK, result::INITRAMFS, result::KERNEL] {
        symlink(environment.image.join(name), folder.path().join(name))?;
    }
    config.payload.make_disk(&folder.path().join("payload.ext4"))?;
    for profile in config.scenario.profiles() {
        fs::write(folder.path().join(profile.name), profile.text)?;
    }
    Ok(folder)
}

fn command(environment: &Environment, config: &GuestConfig, folder: &TempDir) -> Result<std::process::Command> {
    let mut command = environment.qemu.command();
    command.current_dir(folder.path());
    // What a machine has by default is not what a test wants to depend on. A panic ends QEMU instead of starting over.
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(environment.accel.options());
    if let Some(link) = &config.link {
        // Before the profiles: one of them has the device that this is the back end of.
        command.args(config.scenario.link_options(link));
    }
    for profile in config.scenario.profiles() {
        command.args(["-readconfig", profile.name]);
    }
    let mut words = vec![config.scenario.kernel_words()];
    if !config.load_module {
        words.push("verbena.module=manual");
    }
    words.extend(config.kernel_words.iter().map(String::as_str));
    if words.len() > 1 {
        command.args(["-append", &words.join(" ")]);
    }
    if let Some(socket) = &config.hca {
        if !socket.exists() {
            bail!("there is no HCA at {}", socket.display());
        }
        command.args(hca_options(socket));
    }
    command.args(&config.qemu_options);
    Ok(command)
}

/// Waits for QEMU to open the agent's socket and for the agent to answer on it.
fn greet(process: &mut Process, socket: &Path) -> Result<(Client, String)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) if process.try_wait()?.is_some() => bail!("QEMU does not start"),
            Err(error) if Instant::now() > deadline => return Err(error).context("QEMU opens no socket for the agent"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    let client = Client::new(stream.try_clone()?, stream);
    // The answer comes when the agent is there: until then the request lies in the socket.
    match client.call(Op::Hello, BOOT)? {
        Answer::Hello { kernel, .. } => Ok((client, kernel)),
        other => bail!("the agent answered {other:?}"),
    }
}
