// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls of the object model as they happen, in the manner of strace.

use anyhow::{bail, Context as _, Result};
use clap::Parser;
use rustix::io::Errno;
use rustix::process::{getpid, set_child_subreaper, wait, WaitOptions};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use verbena::{Context, TraceOptions, Tracer};
use verbena_guest::program::{self, DeviceOptions};
use verbena_guest::trace::{Call, Names, Summary};

const EXAMPLES: &str = "\
Examples:
  verbena-trace -- verbena-pingpong --iters 10    a program's calls, from its first on
  verbena-trace -f -- sh -c 'a & b'               those of whatever it starts as well
  verbena-trace -p 1234                           those of a process that runs
  verbena-trace                                   everybody's on the device, until ^C
  verbena-trace -c -- verbena-pingpong            a table instead: calls, errors, time
  verbena-trace --json --seconds 5 > calls.jsonl  for machines, one JSON object a line

A line reads: class method(inputs, outputs asked for?) = result outputs <time>. `#` begins an object's id, `~` an
attribute that the receiver may ignore, `|` a command of a chain, whose own line follows its commands'. Posting and
polling are not calls, so they are not seen. It takes CAP_SYS_ADMIN.

With -f and a program, everything that it leaves behind is waited for. With -f and -p, a child is followed as long as its
parents live: what has been taken in by init descends from the process no more.";

/// Show the calls that programs make on the device.
#[derive(Parser)]
#[command(name = "verbena-trace", version, after_help = EXAMPLES)]
struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    /// Only the calls of this process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program")]
    process: Option<u32>,
    /// Also the calls of its children, and of theirs.
    #[arg(short, long)]
    follow: bool,
    /// Count calls, errors and time instead, and print a table at the end.
    #[arg(short = 'c', long)]
    summary: bool,
    /// Print JSON: an object a line for calls, an array for the table.
    #[arg(long)]
    json: bool,
    /// Stop after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Bytes of each message that are kept.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    snap: u32,
    /// Write to this file instead of standard error (standard output with --json).
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// A program to run and trace, with its arguments.
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// Asks this program to wait for a line and then to become another: so that the tracer knows the process before it has
/// made its first call.
const BECOME: &str = "VERBENA_TRACE_BECOME";

fn main() -> ExitCode {
    if std::env::var_os(BECOME).is_some() {
        return become_program();
    }
    program::main("verbena-trace", || run(&Options::parse()))
}

/// The other half of [`start`]: a line in the pipe that it is told of is the sign to go on.
fn become_program() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().unwrap_or_default();
    let path = std::env::var_os(BECOME).unwrap_or_default();
    let mut line = String::new();
    // The pipe's other end is the tracer's: if that is gone, so is the reason to go on.
    let gate = std::fs::File::open(&path);
    let go = gate.and_then(|file| std::io::BufReader::new(file).read_line(&mut line));
    if !matches!(go, Ok(n) if n > 0) {
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program).args(arguments).env_remove(BECOME).exec();
    eprintln!("verbena-trace: cannot run {}: {error}", program.to_string_lossy());
    ExitCode::from(127)
}

/// A program that waits to be let go.
struct Held {
    child: Child,
    gate: std::fs::File,
    /// What it ended with. From then on its number may be another's.
    ended: Option<u8>,
}

impl Held {
    /// Whether everything has ended that this process is the parent of.
    fn is_over(&mut self) -> Result<bool> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((process, status))) => {
                    if process.as_raw_pid() as u32 == self.child.id() {
                        let signal = || 128 + status.terminating_signal().unwrap_or(0);
                        self.ended = Some(status.exit_status().unwrap_or_else(signal) as u8);
                    }
                }
                Ok(None) => return Ok(false),
                Err(Errno::CHILD) => return Ok(true),
                Err(error) => return Err(error).context("cannot wait for the program"),
            }
        }
    }

    /// Ends the program, if it has not ended.
    fn end(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn start(program: &[String], follow: bool) -> Result<Held> {
    use std::os::fd::AsRawFd;
    if follow {
        // What loses its parent becomes this process's child and not init's.
        set_child_subreaper(Some(getpid())).context("cannot take in what loses its parent")?;
    }
    let (reader, gate) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    // The child opens the pipe through this process's table, so the descriptor need not be inherited.
    let path = format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd());
    command.args(program).env(BECOME, path).stdin(Stdio::inherit());
    let child = command.spawn().context("cannot start the program")?;
    // Kept open until the child has opened it: it is leaked, a descriptor for the life of this process.
    std::mem::forget(reader);
    let gate = gate.into();
    Ok(Held {
        child,
        gate,
        ended: None,
    })
}

fn run(options: &Options) -> Result<ExitCode> {
    let ctx = Context::open(&options.device.attach)?;
    let names = Names::new(&ctx.interface()?.records);
    let mut held = match options.program.is_empty() {
        true => None,
        false => Some(start(&options.program, options.follow)?),
    };
    if options.follow && held.is_none() && options.process.is_none() {
        bail!("-f follows the children of a process: say which with -p, or what to run");
    }
    let process = match &held {
        // What descends from this process is what it has started: its own calls are not shown to it.
        Some(_) if options.follow => Some(std::process::id()),
        Some(held) => Some(held.child.id()),
        None => options.process,
    };
    let wanted = TraceOptions {
        process,
        children: options.follow,
        snap: Some(options.snap.next_multiple_of(8)),
        capacity: Some(4 << 20),
    };
    let mut tracer = match Tracer::new(&ctx, &wanted) {
        Ok(tracer) => tracer,
        Err(error) => {
            if let Some(held) = &mut held {
                held.end();
            }
            return Err(error.into());
        }
    };
    if let Some(held) = &mut held {
        held.gate.write_all(b"go\n").context("the program ended early")?;
    }
    let mut out: Box<dyn Write> = match &options.output {
        Some(path) => {
            Box::new(std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None if options.json => Box::new(std::io::stdout()),
        None => Box::new(std::io::stderr()),
    };
    let end = options
        .seconds
        .map(|s| Instant::now() + Duration::from_secs_f64(s.clamp(0.0, 1e9)));
    let mut shown = Shown {
        names,
        options,
        first: None,
        summary: Summary::default(),
        lost: 0,
    };
    loop {
        // Looked at before reading: what the program did until its end is read after it.
        let over = match &mut held {
            Some(held) => held.is_over()?,
            None => options
                .process
                .is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()),
        };
        let late = end.is_some_and(|end| Instant::now() >= end);
        let (records, lost) = tracer.read()?;
        shown.lost += lost;
        if lost > 0 && !options.json {
            writeln!(out, "... {lost} calls lost: they came faster than they were read")?;
        }
        for record in &records {
            shown.show(&Call::decode(&shown.names, record), &mut out)?;
        }
        if over || late {
            break;
        }
        if records.is_empty() {
            tracer.wait(Duration::from_millis(50))?;
        }
    }
    shown.finish(&mut out)?;
    if let Some(held) = &mut held {
        if held.ended.is_none() {
            held.end();
            bail!("the program was ended after its time");
        }
    }
    let code = held.and_then(|held| held.ended);
    Ok(code.map_or(ExitCode::SUCCESS, ExitCode::from))
}

struct Shown<'o> {
    names: Names,
    options: &'o Options,
    /// When the first call began.
    first: Option<u64>,
    summary: Summary,
    lost: u64,
}

impl Shown<'_> {
    fn show(&mut self, call: &Call, out: &mut dyn Write) -> Result<()> {
        if self.options.summary {
            self.summary.add(call);
        } else if self.options.json {
            writeln!(out, "{}", serde_json::to_string(call)?)?;
        } else {
            let first = *self.first.get_or_insert(call.start_ns);
            // A command of a chain began before the chain's own record comes.
            let since = call.start_ns.saturating_sub(first) as f64 / 1e9;
            writeln!(out, "{:7} {since:11.6} {call}", call.process)?;
        }
        Ok(())
    }

    fn finish(&self, out: &mut dyn Write) -> Result<()> {
        if self.options.summary && self.options.json {
            let table = serde_json::json!({"calls": self.summary.lines(), "lost": self.lost});
            writeln!(out, "{table}")?;
        } else if self.options.summary {
            write!(out, "{}", self.summary)?;
            if self.lost > 0 {
                writeln!(out, "{} calls lost", self.lost)?;
            }
        }
        out.flush()?;
        Ok(())
    }
}
