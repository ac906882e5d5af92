// SPDX-License-Identifier: MIT OR Apache-2.0
//! With no VM: the conformance suite over a server's sockets, and what only the host's side can do to them.

use crate::conformance;
use crate::dump::{self, Objects};
use crate::scenario::{self, Scenario};
use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::{bail, ensure, Context, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use verbena_guest::harness::report::Row;
use verbena_launcher::process::{describe, Process};
use verbena_launcher::{Hca, HcaConfig};

const NAME: &str = "direct";

/// A server of four HCAs.
struct World {
    stage: Arc<Stage>,
    hca: Hca,
    logs: PathBuf,
}

const SCENARIOS: &[Scenario<World>] = &[
    Scenario {
        name: "u13_killed_application_leaves_nothing_and_disturbs_nobody",
        run: killed_application,
    },
    Scenario {
        name: "h15_dump_is_taken_under_traffic",
        run: dump_under_traffic,
    },
    Scenario {
        name: "h15_queue_pairs_are_shown_under_traffic",
        run: queue_pairs_under_traffic,
    },
    Scenario {
        name: "p09_conformance_passes_with_polling_off",
        run: |world| conformance_with(world, "polling-off", &["--poll-us", "0"]),
    },
    Scenario {
        name: "p03_conformance_passes_with_two_workers",
        run: |world| conformance_with(world, "two-workers", &["--workers", "2"]),
    },
    Scenario {
        name: "p09_conformance_passes_with_two_workers_and_polling_off",
        run: |world| conformance_with(world, "two-sleepers", &["--workers", "2", "--poll-us", "0"]),
    },
    Scenario {
        name: "p03_two_workers_carry_traffic_and_are_looked_at",
        run: two_workers,
    },
    Scenario {
        name: "h13_killed_server_is_an_error_not_a_hang",
        run: killed_server,
    },
];

/// Every test of this part.
pub fn list() -> Vec<Row> {
    let mut rows = conformance::list(NAME, false);
    rows.extend(scenario::list(SCENARIOS, NAME));
    rows
}

/// Runs those that are wanted.
///
/// # Errors
///
/// If the programs do not build or no server starts.
pub fn run(stage: &Arc<Stage>, selection: &Selection, reporter: &Reporter) -> Result<()> {
    let logs = stage.checkout().logs(NAME)?;
    if conformance::any_wanted(false, selection) {
        let hca = stage.hca(2, &logs)?;
        let attach = |n| format!("direct:{}", hca.socket(n).display());
        let mut command = Command::new(stage.program("verbena-conformance")?);
        command.args(["--attach", &attach(0), "--right", &attach(1), "--attachment-name", NAME]);
        command.args(conformance::arguments(selection)).stdin(Stdio::null());
        let output = reporter.step("conformance, direct", || {
            command.output().context("cannot run verbena-conformance")
        })?;
        let ending = format!(
            "the suite ended before it ({}): {}",
            output.status,
            conformance::last_words(&String::from_utf8_lossy(&output.stderr))
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        conformance::report(&stdout, &ending, NAME, false, selection, reporter);
    }
    if scenario::any_wanted(SCENARIOS, selection) {
        let hca = stage.hca(4, &logs)?;
        let mut world = World {
            stage: stage.clone(),
            hca,
            logs,
        };
        scenario::run(SCENARIOS, &mut world, NAME, selection, reporter);
    }
    Ok(())
}

/// The whole suite against a device of another shape. One that sleeps whenever it can is woken for everything: each command and
/// each doorbell is one more chance to lose a wake-up. One with several workers lends and takes back all the time.
fn conformance_with(world: &mut World, name: &str, arguments: &[&str]) -> Result<()> {
    let hca = Hca::start(&HcaConfig {
        program: world.stage.program("verbena-hca")?.to_owned(),
        count: 2,
        log: None,
        arguments: arguments.iter().map(|argument| (*argument).into()).collect(),
        log_file: world.logs.join(name).with_extension("log"),
    })?;
    let attach = |n| format!("direct:{}", hca.socket(n).display());
    let mut command = Command::new(world.stage.program("verbena-conformance")?);
    command.args(["--attach", &attach(0), "--right", &attach(1)]);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<_> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
    ensure!(
        output.status.success(),
        "the suite ended ({}): {} {}",
        output.status,
        failed.join("; "),
        conformance::last_words(&String::from_utf8_lossy(&output.stderr))
    );
    Ok(())
}

/// Endless traffic on an HCA; what it prints goes to a file.
struct Traffic {
    process: Process,
    output: PathBuf,
}

impl World {
    fn traffic(&self, name: &str, number: usize, more: &[&str]) -> Result<Traffic> {
        let output = self.logs.join(format!("{name}.out"));
        let file = std::fs::File::create(&output)?;
        let process = self.stage.start("verbena-traffic", |command| {
            command
                .arg("--attach")
                .arg(format!("direct:{}", self.hca.socket(number).display()))
                .args(more);
            command
                .stdin(Stdio::null())
                .stdout(file.try_clone().expect("a descriptor is free"))
                .stderr(file);
        })?;
        let traffic = Traffic { process, output };
        traffic.wait_until_it_flows()?;
        Ok(traffic)
    }
}

impl Traffic {
    fn said(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.output) {
            // What is not UTF-8 would be a torn write; the next look sees it whole.
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Waits for its end, which must be a success.
    fn ends_well(&mut self) -> Result<()> {
        let status = self.process.wait_for(Duration::from_secs(60))?;
        let status = status.context("the traffic does not end")?;
        ensure!(
            status.success(),
            "the traffic ends ({}): {}",
            describe(status),
            conformance::last_words(&self.said())
        );
        Ok(())
    }

    /// Waits for its first line of progress.
    fn wait_until_it_flows(&self) -> Result<()> {
        wait_until(Duration::from_secs(20), || Ok(self.said().contains("iterations")))
            .with_context(|| format!("traffic does not begin: {}", conformance::last_words(&self.said())))
    }
}

/// Polls `done` until it is true.
fn wait_until(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done()? {
        if Instant::now() > deadline {
            bail!("not so after {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn killed_application(world: &mut World) -> Result<()> {
    let mut bystander = world.traffic("bystander", 1, &["--seconds", "6"])?;
    let mut victim = world.traffic("victim", 0, &["--seconds", "600"])?;
    let before = dump::objects(&world.stage, &world.hca, 0)?;
    ensure!(before.qps > 0 && before.mrs > 0, "the victim has objects: {before:?}");
    victim.process.signal(9);
    victim.process.wait()?;
    dump::wait_for(&world.stage, &world.hca, 0, Objects::NONE, Duration::from_secs(10))?;
    bystander.ends_well().context("the bystander was disturbed")?;
    // And the HCA of the dead can be attached again.
    let mut heir = world.traffic("heir", 0, &["--seconds", "1"])?;
    heir.ends_well().context("attaching again fails")
}

fn dump_under_traffic(world: &mut World) -> Result<()> {
    let mut traffic = world.traffic("dumped", 2, &["--seconds", "4"])?;
    for _ in 0..20 {
        let objects = dump::objects(&world.stage, &world.hca, 2)?;
        ensure!(objects.qps > 0, "the dump misses the queue pairs in use: {objects:?}");
    }
    traffic.ends_well().context("the dumps disturbed it")
}

fn queue_pairs_under_traffic(world: &mut World) -> Result<()> {
    let mut traffic = world.traffic("inspected", 2, &["--seconds", "4"])?;
    let queue_pairs = dump::queue_pairs(&world.stage, &world.hca, 2)?;
    ensure!(!queue_pairs.is_empty(), "there is no queue pair to look at");
    for qpn in queue_pairs {
        let (json, text) = dump::queue_pair(&world.stage, &world.hca, 2, qpn)?;
        ensure!(json["qp"]["qpn"] == qpn, "another queue pair is shown: {json}");
        let shown = json["sends"].as_array().map_or(0, Vec::len) + json["receives"].as_array().map_or(0, Vec::len);
        ensure!(shown > 0, "its rings are empty under traffic: {json}");
        ensure!(json["errors"] == serde_json::json!([]), "it has errors: {json}");
        ensure!(
            text.contains("send queue") && text.ends_with("last errors: none\n"),
            "the text misses a part:\n{text}"
        );
    }
    traffic.ends_well().context("looking disturbed it")
}

/// Programs that talk at the same time through two workers, who have to give everything back again and again for somebody who
/// looks, and to sleep in between: their data arrives whole.
fn two_workers(world: &mut World) -> Result<()> {
    let hca = Hca::start(&HcaConfig {
        program: world.stage.program("verbena-hca")?.to_owned(),
        count: 6,
        log: None,
        arguments: ["--workers", "2", "--poll-us", "20"].map(Into::into).to_vec(),
        log_file: world.logs.join("two-workers-traffic.log"),
    })?;
    let world = World {
        hca,
        stage: world.stage.clone(),
        logs: world.logs.clone(),
    };
    // Both ends send: more queues than two workers watch.
    let mut flows = Vec::new();
    for flow in 0..6 {
        flows.push(world.traffic(&format!("of-two-workers-{flow}"), flow, &["--seconds", "4"])?);
    }
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for number in 0..6 {
            let objects = dump::objects(&world.stage, &world.hca, number)?;
            ensure!(objects.qps > 0, "the dump misses the queue pairs: {objects:?}");
        }
    }
    flows
        .iter_mut()
        .try_for_each(|flow| flow.ends_well().context("looking disturbed it"))
}

/// The last scenario: the server does not come back.
fn killed_server(world: &mut World) -> Result<()> {
    let mut traffic = world.traffic("bereft", 3, &["--seconds", "600", "--expect-loss"])?;
    let control = world.hca.control();
    world.hca.kill9()?;
    traffic.ends_well().context("the loss was not told")?;
    no_answer_is_one_line(&world.stage, &control)
}

fn no_answer_is_one_line(stage: &Stage, control: &Path) -> Result<()> {
    let output = Command::new(stage.program("verbena-ctl")?)
        .args(["dump", "--socket"])
        .arg(control)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "verbena-ctl succeeds without a server");
    ensure!(
        stderr.lines().count() == 1,
        "verbena-ctl says more than one line: {stderr}"
    );
    Ok(())
}
