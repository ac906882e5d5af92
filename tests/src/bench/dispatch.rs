// SPDX-License-Identifier: MIT OR Apache-2.0
//! What dispatching a call costs, in instructions (`uapi-driver/uapi/examples/dispatch.rs`).

use super::Row;
use crate::stage::Stage;
use anyhow::{ensure, Context, Result};
use std::path::PathBuf;
use verbena_launcher::valgrind::Callgrind;

/// Instructions that a message of four attributes may take to an empty handler and back.
pub const LIMIT: f64 = 250.0;

/// The name of the test of it.
pub(super) const TEST: &str = "u11_dispatch_of_four_attributes_takes_at_most_250_instructions";

/// Calls that are counted: the difference between a run with these and one without, so that start and set-up cancel out.
const CALLS: u64 = 10_000;

struct Dispatch {
    callgrind: Callgrind,
    program: PathBuf,
}

impl Dispatch {
    fn build(stage: &Stage) -> Result<Self> {
        let callgrind = Callgrind::find(stage.progress())?;
        // As the kernel compiles what the module shares with it: one unit, so that everything can be inlined.
        let built = stage.checkout().cargo(
            &[
                "build",
                "--profile",
                "kernel",
                "-p",
                "rdma-uapi",
                "--example",
                "dispatch",
            ],
            stage.progress(),
        )?;
        let program = built.into_iter().find(|e| e.name == "dispatch");
        let program = program.context("cargo built no example")?.path;
        Ok(Self { callgrind, program })
    }

    /// Instructions of one call, without the loop around it.
    fn a_call(&self, kind: &str) -> Result<f64> {
        let calls = |kind: &str| -> Result<f64> {
            let few = self.callgrind.instructions(&self.program, &["1000", kind])?;
            let many = (1000 + CALLS).to_string();
            let many = self.callgrind.instructions(&self.program, &[&many, kind])?;
            Ok((many - few) as f64 / CALLS as f64)
        };
        Ok((calls(kind)? - calls("nothing")?).round())
    }
}

/// The benchmark's rows.
pub(super) fn rows(stage: &Stage) -> Result<Vec<Row>> {
    let dispatch = Dispatch::build(stage)?;
    let only = dispatch.a_call("only")?;
    let object = dispatch.a_call("object")?;
    Ok(vec![
        Row::at_most(
            "U11",
            "dispatch, 4 attributes, empty handler",
            only,
            "instructions",
            LIMIT,
        ),
        Row::plain("U11", "the same, on an object", object, "instructions"),
    ])
}

/// The test of it: nobody makes a call slower unnoticed.
pub(super) fn test(stage: &Stage) -> Result<()> {
    let count = Dispatch::build(stage)?.a_call("only")?;
    // A count far below is a benchmark that measures something else.
    ensure!((50.0..=LIMIT).contains(&count), "it takes {count} instructions");
    Ok(())
}
