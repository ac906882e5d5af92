// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many short lives, each ended by SIGKILL at a random moment: what a kernel has to clean up behind.

use anyhow::{ensure, Context as _, Result};
use clap::Parser;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use verbena::{Access, ArmKind, Context, EventQueue, RecvWr, SendWr};
use verbena_guest::conformance;
use verbena_guest::harness::Fixture;
use verbena_guest::link::{Link, Spec};
use verbena_guest::program::{self, DeviceOptions};

/// Start processes that use the device in every way, and kill each at a random moment of its life.
#[derive(Parser)]
#[command(name = "verbena-mortal", version)]
struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    /// End after so many kills,
    #[arg(long, value_name = "N", default_value_t = 1000)]
    kills: u32,
    /// or after this long.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Processes that live at the same time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    together: usize,
    /// The longest life, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    longest: u64,
    /// Where the random numbers begin; without it, the time.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Be one that is killed, of this many.
    #[arg(long, hide = true)]
    mortal: Option<u64>,
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides.max(1)
    }
}

/// Cases in a row that may come to a bad end: one may meet others of its kind, all do only where nothing works.
const BAD_ENDS: u32 = 20;

/// Opens, creates, connects, sends, waits, destroys, closes, and again, for ever; every other process in the ways of cases of
/// the conformance suite, chosen at random.
fn live(options: &Options, number: u64) -> Result<()> {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let fixture = Fixture::new(options.device.attach.clone(), options.device.attach.clone());
    let mut bad_ends = 0;
    loop {
        if number % 2 == 1 {
            match conformance::begin_mortal(dice.throw(conformance::mortals() as u64) as usize, &fixture) {
                Some(true) => bad_ends = 0,
                Some(false) => bad_ends += 1,
                None => {}
            }
            ensure!(bad_ends < BAD_ENDS, "{bad_ends} cases in a row came to a bad end");
            continue;
        }
        let ctx = Context::open(&options.device.attach)?;
        for round in 0..3 {
            let events = EventQueue::with_capacity(&ctx, 16)?;
            events.associate_device(0)?;
            let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
            let region = b.region(256 << 10, Access::ALL_REMOTE)?;
            events.associate_cq(&b.recv_cq, round)?;
            events.associate_qp(&b.qp, 1)?;
            for _ in 0..8 {
                b.recv_cq.arm(ArmKind::Any);
                b.qp.post_recv(&RecvWr::new(&[region.sge(..4096)]))?;
                a.qp.post_send(&SendWr::send().inline(b"mortal").signaled())?;
                a.sent_well()?;
                b.received_well()?;
            }
            while events.try_next()?.is_some() {}
        }
    }
}

/// Kills processes until there were enough, or the time is over; how many.
fn reap(options: &Options) -> Result<u32> {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = options.seed.unwrap_or(since_epoch.as_nanos() as u64) | 1;
    println!("verbena-mortal: seed {seed}");
    let mut dice = Dice(seed);
    let program = std::env::current_exe().context("where this program is")?;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut living: Vec<(Child, Instant)> = Vec::new();
    let (mut killed, mut born) = (0, seed);
    while killed < options.kills && Instant::now() < end {
        while living.len() < options.together.max(1) {
            let mut command = Command::new(&program);
            born = born.wrapping_add(1);
            command
                .arg("--mortal")
                .arg(born.to_string())
                .arg("--attach")
                .arg(options.device.attach.to_string());
            let child = command.stdin(Stdio::null()).spawn().context("start a process")?;
            let life = Duration::from_micros(dice.throw(options.longest * 1000));
            living.push((child, Instant::now() + life));
        }
        living.sort_by_key(|(_, death)| *death);
        let (mut child, death) = living.remove(0);
        std::thread::sleep(death.saturating_duration_since(Instant::now()));
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("a process ended by itself: {status}");
        }
        child.kill()?;
        child.wait()?;
        killed += 1;
    }
    for (mut child, _) in living {
        child.kill()?;
        child.wait()?;
    }
    Ok(killed)
}

fn run(options: &Options) -> Result<ExitCode> {
    if let Some(number) = options.mortal {
        live(options, number)?;
    }
    let begun = Instant::now();
    let killed = reap(options)?;
    ensure!(killed > 0, "there was no time to kill anybody");
    println!(
        "verbena-mortal: {killed} kills in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-mortal", || run(&options))
}
