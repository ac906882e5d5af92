// SPDX-License-Identifier: MIT OR Apache-2.0
//! The register dump as the tests read it: from the host, through `verbena-ctl`, as a person would get it.

use crate::stage::Stage;
use anyhow::{anyhow, bail, Context, Result};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use verbena_launcher::Hca;

/// How many objects of each kind the applications on an HCA have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objects {
    /// Protection domains.
    pub pds: u64,
    /// Doorbell pages.
    pub doorbells: u64,
    /// Completion queues.
    pub cqs: u64,
    /// Memory regions.
    pub mrs: u64,
    /// Queue pairs.
    pub qps: u64,
}

impl Objects {
    /// None of any kind. Event queues are not counted: the driver itself has those as long as it is loaded.
    pub const NONE: Objects = Objects {
        pds: 0,
        doorbells: 0,
        cqs: 0,
        mrs: 0,
        qps: 0,
    };
}

/// The whole dump as JSON text.
///
/// # Errors
///
/// If the server does not answer.
pub fn text(stage: &Stage, hca: &Hca) -> Result<String> {
    ctl(stage, hca, &["dump", "--json"])
}

/// What `verbena-ctl` says, with these arguments and the server's control socket.
fn ctl(stage: &Stage, hca: &Hca, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(stage.program("verbena-ctl")?);
    command.args(arguments).arg("--socket").arg(hca.control());
    let output = command.output().context("cannot run verbena-ctl")?;
    if !output.status.success() {
        bail!(
            "verbena-ctl {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Numbers of the queue pairs on HCA `number`.
///
/// # Errors
///
/// If the server does not answer.
pub fn queue_pairs(stage: &Stage, hca: &Hca, number: usize) -> Result<Vec<u64>> {
    let dump: Value = serde_json::from_str(&text(stage, hca)?)?;
    let queue_pairs = dump.pointer(&format!("/hcas/{number}/device/qps"));
    let queue_pairs = queue_pairs.and_then(Value::as_array).into_iter().flatten();
    Ok(queue_pairs.filter_map(|qp| qp["qpn"].as_u64()).collect())
}

/// One queue pair of HCA `number` looked at closely: as JSON, and as the text that people get.
///
/// # Errors
///
/// If the server does not answer, or there is no such queue pair.
pub fn queue_pair(stage: &Stage, hca: &Hca, number: usize, qpn: u64) -> Result<(Value, String)> {
    let (number, qpn) = (number.to_string(), format!("{qpn:#x}"));
    let arguments = ["qp", &qpn, "--hca", &number];
    let json = ctl(stage, hca, &[&arguments[..], &["--json"]].concat())?;
    Ok((serde_json::from_str(&json)?, ctl(stage, hca, &arguments)?))
}

/// The objects that applications have on HCA `number`.
///
/// # Errors
///
/// If the server does not answer, or its dump is not what it was.
pub fn objects(stage: &Stage, hca: &Hca, number: usize) -> Result<Objects> {
    let dump: Value = serde_json::from_str(&text(stage, hca)?)?;
    let objects = dump
        .pointer(&format!("/hcas/{number}/device/objects"))
        .ok_or_else(|| anyhow!("the dump has no objects"))?;
    let count = |name: &str| {
        objects
            .get(name)
            .and_then(Value::as_u64)
            .with_context(|| format!("the dump does not count {name}"))
    };
    // The driver's own QP 1, with one object of each kind under it, is there from the first connection on, whoever asked
    // for it.
    let queue_pairs = dump.pointer(&format!("/hcas/{number}/device/qps"));
    let queue_pairs = queue_pairs.and_then(Value::as_array).into_iter().flatten();
    let own = queue_pairs.filter(|qp| qp["type"] == "GSI").count() as u64;
    let users = |name: &str| Ok::<_, anyhow::Error>(count(name)?.saturating_sub(own));
    Ok(Objects {
        pds: users("pds")?,
        doorbells: users("doorbells")?,
        cqs: users("cqs")?,
        mrs: users("mrs")?,
        qps: users("qps")?,
    })
}

/// Waits until HCA `number` has exactly `expected`.
///
/// # Errors
///
/// If it has something else for all of `patience`.
pub fn wait_for(stage: &Stage, hca: &Hca, number: usize, expected: Objects, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let present = objects(stage, hca, number)?;
        if present == expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("after {patience:?} HCA {number} has {present:?}, not {expected:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
