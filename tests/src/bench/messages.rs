// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a small message costs, in instructions (P8): the device's by `device/engine/examples/messages.rs`, the driver's by
//! `uapi-driver/driver/examples/messages.rs`.

use super::Row;
use crate::stage::Stage;
use anyhow::{ensure, Context, Result};
use std::path::PathBuf;
use verbena_launcher::valgrind::Callgrind;
use verbena_launcher::{Hca, HcaConfig};

/// What they should be at most.
const DEVICE_TARGET: f64 = 300.0;
const DRIVER_TARGET: f64 = 100.0;

/// What they must not be more than: the last figure and a little for another compiler. Whoever makes the path cheaper
/// lowers them.
const DEVICE_CEILING: f64 = 300.0;
const DRIVER_CEILING: f64 = 100.0;

/// The tests of it.
pub(super) const DEVICE_TEST: &str = "p08_a_small_write_takes_no_more_of_the_devices_instructions";
pub(super) const DRIVER_TEST: &str = "p08_a_small_write_takes_no_more_of_the_drivers_instructions";

/// Messages of a batch, in both programs.
const BATCH: f64 = 32.0;

/// Batches of the two runs of which the difference counts, so that set-up cancels out.
const FEW: u32 = 20;
const MANY: u32 = 220;

fn example(stage: &Stage, package: &str) -> Result<PathBuf> {
    let built = stage.checkout().cargo(
        &["build", "--release", "-p", package, "--example", "messages"],
        stage.progress(),
    )?;
    let program = built.into_iter().find(|e| e.name == "messages");
    Ok(program.context("cargo built no example")?.path)
}

/// Instructions of a message, of what `function` calls.
fn a_message(run: impl Fn(u32) -> Result<u64>) -> Result<f64> {
    let (few, many) = (run(FEW)?, run(MANY)?);
    ensure!(many > few, "callgrind counts {few} instructions, then {many}");
    Ok(((many - few) as f64 / (f64::from(MANY - FEW) * BATCH)).round())
}

fn device(stage: &Stage) -> Result<f64> {
    let callgrind = Callgrind::find(stage.progress())?;
    let program = example(stage, "verbena-engine")?;
    a_message(|batches| callgrind.instructions_in("messages::device", &program, &[&batches.to_string()]))
}

fn driver(stage: &Stage) -> Result<f64> {
    let callgrind = Callgrind::find(stage.progress())?;
    let program = example(stage, "verbena")?;
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
    let (device, driver) = (device(stage)?, driver(stage)?);
    Ok(vec![
        Row::at_most(
            "P8",
            "WRITE 8 B in batches of 32, device",
            device,
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

/// The test of the device's.
pub(super) fn device_test(stage: &Stage) -> Result<()> {
    within(device(stage)?, DEVICE_CEILING)
}

/// The test of the driver's.
pub(super) fn driver_test(stage: &Stage) -> Result<()> {
    within(driver(stage)?, DRIVER_CEILING)
}
