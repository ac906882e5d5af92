// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a small message costs, in instructions (P8; P5 where each is on another queue pair): the device's by `device/engine/examples/messages.rs`, the driver's by
//! `uapi-driver/driver/examples/messages.rs`; and what a second worker of the device changes in that (P3), by the same count and,
//! in time, by `device/engine/examples/workers.rs`.

use super::Row;
use crate::stage::Stage;
use anyhow::{ensure, Context, Result};
use std::path::PathBuf;
use std::process::Command;
use verbena_launcher::valgrind::Callgrind;
use verbena_launcher::{Hca, HcaConfig};

/// What they should be at most.
const DEVICE_TARGET: f64 = 300.0;
const DRIVER_TARGET: f64 = 100.0;

/// What they must not be more than: the last figure and a little for another compiler. Whoever makes the path cheaper
/// lowers them.
const DEVICE_CEILING: f64 = 255.0;
const RUNG_CEILING: f64 = 280.0;
const DRIVER_CEILING: f64 = 100.0;
const TURNS_CEILING: f64 = 1260.0;

/// How much more a message may cost a worker for there being another one: the noise of the count.
const BESIDE: f64 = 1.02;

/// The tests of it.
pub(super) const RUNG_TEST: &str = "p08_a_small_write_that_is_rung_for_takes_no_more_of_the_devices_instructions";
pub(super) const TURNS_TEST: &str = "p05_a_small_write_on_each_queue_pair_in_turn_takes_no_more_instructions";
pub(super) const BESIDE_TEST: &str = "p03_a_second_worker_costs_a_message_no_instruction";
pub(super) const DEVICE_TEST: &str = "p08_a_small_write_takes_no_more_of_the_devices_instructions";
pub(super) const DRIVER_TEST: &str = "p08_a_small_write_takes_no_more_of_the_drivers_instructions";

/// Messages of a batch, in both programs.
const BATCH: f64 = 32.0;

/// Runs of the two workers.
const REPETITIONS: u32 = 200;

/// Batches of the two runs of which the difference counts, so that set-up cancels out.
const FEW: u32 = 20;
const MANY: u32 = 220;

fn example(stage: &Stage, package: &str, name: &str) -> Result<PathBuf> {
    let built = stage.checkout().cargo(
        &["build", "--release", "-p", package, "--example", name],
        stage.progress(),
    )?;
    let program = built.into_iter().find(|e| e.name == name);
    Ok(program.context("cargo built no example")?.path)
}

/// Instructions of a message, of what `function` calls.
fn a_message(run: impl Fn(u32) -> Result<u64>) -> Result<f64> {
    let (few, many) = (run(FEW)?, run(MANY)?);
    ensure!(many > few, "callgrind counts {few} instructions, then {many}");
    Ok(((many - few) as f64 / (f64::from(MANY - FEW) * BATCH)).round())
}

/// What the device executes for a message. `how` is the example's last argument.
fn device(stage: &Stage, how: &str) -> Result<f64> {
    let callgrind = Callgrind::find(stage.progress())?;
    let program = example(stage, "verbena-engine", "messages")?;
    let batch = BATCH.to_string();
    a_message(|batches| {
        let arguments = [&batches.to_string(), &batch, how];
        callgrind.instructions_in("messages::device", &program, &arguments)
    })
}

/// The same for one of two workers, while the other has nothing to do and while it does as much: of queues that are watched, and
/// of such as are rung for.
fn beside(stage: &Stage) -> Result<[(f64, f64); 2]> {
    let both = |alone, beside| Ok((device(stage, alone)?, device(stage, beside)? / 2.0));
    let watched: Result<_> = both("alone", "beside");
    Ok([watched?, both("rung-alone", "rung-beside")?])
}

/// Nanoseconds of a worker's run of messages: alone, and while another worker does the same for queues of its own. Medians.
fn contention(stage: &Stage) -> Result<(f64, f64)> {
    let program = example(stage, "verbena-engine", "workers")?;
    let output = Command::new(program).arg(REPETITIONS.to_string()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // The first finds cold caches.
    for line in text.lines().skip(1) {
        let (a, b) = line.split_once(' ').context("two numbers a line")?;
        alone.push(a.parse()?);
        beside.push(b.parse()?);
    }
    ensure!(
        output.status.success() && alone.len() == REPETITIONS as usize,
        "the example ended ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((super::median(&mut alone).0, super::median(&mut beside).0))
}

fn driver(stage: &Stage) -> Result<f64> {
    let callgrind = Callgrind::find(stage.progress())?;
    let program = example(stage, "verbena", "messages")?;
    // One that does not sleep: how a sleeping device is woken is not what is counted.
    let hca = Hca::start(&HcaConfig {
        program: stage.program("verbena-hca")?.to_owned(),
        count: 1,
        log: None,
        arguments: vec!["--poll-us".into(), "1000000".into()],
        log_file: stage.checkout().logs("bench")?.join("verbena-hca.log"),
    })?;
    let attach = format!("direct:{}", hca.socket(0).display());
    a_message(|batches| callgrind.instructions_in("messages::driver_*", &program, &[&attach, &batches.to_string()]))
}

/// The benchmark's rows.
pub(super) fn rows(stage: &Stage) -> Result<Vec<Row>> {
    let (watched, rung, turns) = (device(stage, "loan")?, device(stage, "poll")?, device(stage, "turns")?);
    let [(idle, busy), (rung_idle, rung_busy)] = beside(stage)?;
    let driver = driver(stage)?;
    let (alone, at_once) = contention(stage)?;
    Ok(vec![
        Row::against(
            "P3",
            "a message of one of two workers while both are busy, against the other one idle",
            busy,
            "instructions",
            idle,
            BESIDE,
        ),
        Row::against(
            "P3",
            "the same, queues rung for",
            rung_busy,
            "instructions",
            rung_idle,
            BESIDE,
        ),
        Row::plain(
            "P3",
            "4,096 messages of a worker while another one does as much, against alone",
            at_once / 1e3,
            "us",
        )
        .beside(alone / 1e3),
        Row::plain(
            "P5",
            "WRITE 8 B on each queue pair in turn, device",
            turns,
            "instructions",
        ),
        Row::at_most(
            "P8",
            "WRITE 8 B in batches of 32, device, queue watched",
            watched,
            "instructions",
            DEVICE_TARGET,
        ),
        Row::at_most(
            "P8",
            "the same, device, queue rung for",
            rung,
            "instructions",
            DEVICE_TARGET,
        ),
        Row::at_most(
            "P8",
            "the same, driver, posted and polled",
            driver,
            "instructions",
            DRIVER_TARGET,
        ),
    ])
}

fn within(count: f64, ceiling: f64) -> Result<()> {
    // A count far below is a benchmark that measures something else.
    ensure!(
        (ceiling / 3.0..=ceiling).contains(&count),
        "it takes {count} instructions"
    );
    Ok(())
}

/// The test of the device's, when it watches the queue.
pub(super) fn device_test(stage: &Stage) -> Result<()> {
    within(device(stage, "loan")?, DEVICE_CEILING)
}

/// The test of the device's, when it is rung for.
pub(super) fn rung_test(stage: &Stage) -> Result<()> {
    within(device(stage, "poll")?, RUNG_CEILING)
}

/// The test of the device's, when each message is on another queue pair than the one before.
pub(super) fn turns_test(stage: &Stage) -> Result<()> {
    within(device(stage, "turns")?, TURNS_CEILING)
}

/// The test that a worker does for a message what it does without another one, and so writes nothing for its sake.
pub(super) fn beside_test(stage: &Stage) -> Result<()> {
    for (alone, beside) in beside(stage)? {
        ensure!(
            beside <= alone * BESIDE,
            "{beside} instructions beside a busy worker, {alone} beside an idle one"
        );
    }
    Ok(())
}

/// The test of the driver's.
pub(super) fn driver_test(stage: &Stage) -> Result<()> {
    within(driver(stage)?, DRIVER_CEILING)
}
