// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job, told while it happens: a guest with the device, RDMA in it, then RDMA between two guests.

use crate::guest::{system_calls_in_steady_state, wait_for_node};
use crate::pair::Pair;
use crate::stage::Stage;
use crate::{dump, guest};
use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use verbena_launcher::guest::Program;
use verbena_launcher::{Options, Progress};

/// What the demo found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// QEMU's version.
    pub qemu: String,
    /// The guest's kernel.
    pub kernel: String,
    /// What guests ran on: `kvm` or `tcg`.
    pub accel: String,
    /// Seconds that the set-up took, builds included.
    pub setup_s: f64,
    /// Seconds from QEMU's start to the first program in the guest.
    pub boot_s: f64,
    /// Inside one guest.
    pub single: Traffic,
    /// Between two guests.
    pub pair: Traffic,
    /// System calls that strace counted in the steady state of the fast path.
    pub fast_path_syscalls: u64,
    /// The classes that the device lists of itself.
    pub classes: Vec<String>,
    /// Where the register dump is.
    pub dump: PathBuf,
}

/// What was sent and verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Messages.
    pub iterations: u64,
    /// Bytes that were compared one by one and found right.
    pub bytes: u64,
    /// Whatever was not right.
    pub errors: u64,
}

impl std::ops::Add for Traffic {
    type Output = Traffic;

    fn add(self, other: Traffic) -> Traffic {
        Traffic {
            iterations: self.iterations + other.iterations,
            bytes: self.bytes + other.bytes,
            errors: self.errors + other.errors,
        }
    }
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} messages, {} bytes verified, {} errors",
            self.iterations, self.bytes, self.errors
        )
    }
}

/// What a program's JSON says of its traffic.
fn traffic(stdout: &str) -> Result<Traffic> {
    let line = stdout
        .lines()
        .rev()
        .find(|line| line.starts_with('{'))
        .context("the program reported nothing")?;
    serde_json::from_str(line).with_context(|| format!("the program reported {line}"))
}

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the demo and says what happens.
///
/// # Errors
///
/// If any of it goes wrong.
pub fn run(options: Options, progress: &Progress) -> Result<Report> {
    let say = |text: &str| progress.line(text);
    let stage = Stage::new(options, progress.clone())?;
    let start = std::time::Instant::now();
    stage.payload()?;
    let environment = stage.environment()?;
    let (qemu, accel) = (
        environment.qemu.version().to_owned(),
        environment.accel.name().to_owned(),
    );
    let setup_s = start.elapsed().as_secs_f64();
    let logs = stage.checkout().logs("demo")?;
    say(&format!(
        "QEMU {qemu}, accelerator {accel} ({})",
        environment.accel_reason
    ));

    let hca = stage.hca(1, &logs)?;
    let guest = stage.boot("guest", &hca, 0, &logs)?;
    let (kernel, boot_s) = (guest.kernel().to_owned(), guest.boot_time().as_secs_f64());
    wait_for_node(&guest)?;
    say(&format!(
        "guest up in {boot_s:.1} s with Linux {kernel}; its HCA is /dev/verbena0"
    ));
    let lspci = guest.check(&Program::shell("lspci -d 1234:"))?;
    say(&format!("  {}", lspci.trim()));

    let info = guest.check(&Program::new([
        "verbena-info",
        "--attach",
        "kernel",
        "--classes",
        "--json",
    ]))?;
    let classes = classes(&info)?;
    say(&format!("  classes: {}", classes.join(" ")));

    let pingpong = Program::new(["verbena-pingpong", "--attach", "kernel", "--json"]).timeout(PATIENCE);
    let write = Program::new(["verbena-write", "--attach", "kernel", "--json"]).timeout(PATIENCE);
    let single_ping = traffic(&guest.check(&pingpong)?)?;
    say(&format!("ping-pong in one guest: {single_ping}"));
    let single_write = traffic(&guest.check(&write)?)?;
    say(&format!("RDMA WRITE in one guest: {single_write}"));

    let calls = system_calls_in_steady_state(&guest)?;
    say(&format!(
        "system calls in the steady state of the fast path, counted by strace: {calls}"
    ));

    let dump = stage.checkout().target().join("demo-dump.json");
    let user = guest::traffic(&guest, &["--seconds", "60"])?;
    fs::write(&dump, dump::text(&stage, &hca)?).with_context(|| format!("cannot write {}", dump.display()))?;
    guest.signal(user, 15)?;
    say(&format!("register dump of the live device: {}", dump.display()));
    guest.poweroff()?;
    drop(hca);

    let pair = Pair::boot(&stage, &logs)?;
    say("two guests up, their HCAs on one fabric");
    let between = |program: &str| -> Result<Traffic> {
        let side = |how: &str| {
            let meeting = crate::pair::MEETING;
            Program::new([program, "--attach", "kernel", "--json", how, meeting]).timeout(PATIENCE)
        };
        let (left, right) = pair.run(&side("--listen"), &side("--connect"))?;
        for (name, done) in [("left", &left), ("right", &right)] {
            ensure!(
                done.is_success(),
                "{program} on the {name} failed: {}{}",
                done.stdout,
                done.stderr
            );
        }
        // Each side reports for both.
        traffic(&left.stdout)
    };
    let pair_ping = between("verbena-pingpong")?;
    say(&format!("ping-pong between two guests: {pair_ping}"));
    let pair_write = between("verbena-write")?;
    say(&format!("RDMA WRITE between two guests: {pair_write}"));
    let Pair { left, right, .. } = pair;
    left.poweroff()?;
    right.context("no scenario has ended the right guest")?.poweroff()?;
    say("both guests powered off");

    Ok(Report {
        qemu,
        kernel,
        accel,
        setup_s,
        boot_s,
        single: single_ping + single_write,
        pair: pair_ping + pair_write,
        fast_path_syscalls: calls,
        classes,
        dump,
    })
}

/// The classes in what `verbena-info --json` says.
fn classes(info: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Info {
        classes: Vec<Class>,
    }
    #[derive(Deserialize)]
    struct Class {
        name: String,
    }
    let info: Info = serde_json::from_str(info).context("verbena-info --json lists no classes")?;
    Ok(info.classes.into_iter().map(|class| class.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_report_is_its_last_line_of_json() {
        let said = "connecting\n{\"iterations\":3,\"bytes\":192,\"errors\":0,\"latency_us\":{\"p50\":7}}\n";
        assert_eq!(
            traffic(said).unwrap(),
            Traffic {
                iterations: 3,
                bytes: 192,
                errors: 0
            }
        );
        assert!(traffic("no report").is_err());
    }
}
