// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between two guests, each with an HCA of the same server: the conformance cases of two sides, one side in each guest,
//! and what happens to one when the other goes.

use crate::conformance;
use crate::guest::wait_for_node;
use crate::scenario::{self, Scenario};
use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::{ensure, Context, Result};
use std::thread;
use std::time::Duration;
use verbena_guest::harness::report::Row;
use verbena_launcher::guest::Program;
use verbena_launcher::profile::Scenario as Profile;
use verbena_launcher::session::TempDir;
use verbena_launcher::{Guest, Hca};

const NAME: &str = "pair";

/// Where the left side listens, and the right side connects to: the first guest's address on the link between the two.
pub const MEETING: &str = "192.168.77.1:7471";

const SUITE: Duration = Duration::from_secs(1200);

/// Two guests on one server.
pub struct Pair {
    /// The guest that listens.
    pub left: Guest,
    /// The guest that connects. `None` when a scenario has ended it.
    pub right: Option<Guest>,
    // After the guests: QEMU does not take the end of a device's process well.
    _hca: Hca,
    _link: TempDir,
}

const SCENARIOS: &[Scenario<Pair>] = &[Scenario {
    name: "h13_peer_guest_that_dies_is_an_error_not_a_hang",
    run: peer_dies,
}];

/// Every test of this part.
pub fn list() -> Vec<Row> {
    let mut rows = conformance::list(NAME, true);
    rows.extend(scenario::list(SCENARIOS, NAME));
    rows
}

impl Pair {
    /// Starts the server and both guests, side by side.
    ///
    /// # Errors
    ///
    /// If one does not come up.
    pub fn boot(stage: &Stage, logs: &std::path::Path) -> Result<Pair> {
        let hca = stage.hca(2, logs)?;
        let link = TempDir::new("link")?;
        let folder = link.path().to_owned();
        let boot = |name, number, profile| {
            let guest = stage.boot_with(name, &hca, number, logs, |config| {
                config.scenario = profile;
                config.link = Some(folder.clone());
            })?;
            wait_for_node(&guest)?;
            anyhow::Ok(guest)
        };
        // What both need is made before two threads would make it twice.
        stage.payload()?;
        let (left, right) = thread::scope(|scope| {
            let right = scope.spawn(|| boot("right", 1, Profile::PairSecond));
            let left = boot("left", 0, Profile::PairFirst);
            (left, right.join().expect("booting a guest does not panic"))
        });
        let (left, right) = (left?, right?);
        Ok(Pair {
            left,
            right: Some(right),
            _hca: hca,
            _link: link,
        })
    }

    /// Runs one program in each guest at the same time, and returns what they said.
    ///
    /// # Errors
    ///
    /// If one cannot be run.
    pub fn run(
        &self,
        left: &Program,
        right: &Program,
    ) -> Result<(verbena_launcher::guest::Finished, verbena_launcher::guest::Finished)> {
        let other = self.right.as_ref().context("the right guest has ended")?;
        thread::scope(|scope| {
            let there = scope.spawn(|| other.run(right));
            let here = self.left.run(left);
            let there = there.join().expect("running a program does not panic");
            Ok((here?, there?))
        })
    }
}

/// Runs those that are wanted.
///
/// # Errors
///
/// If something does not build or cannot be set up.
pub fn run(stage: &Stage, selection: &Selection, reporter: &Reporter) -> Result<()> {
    let suite = conformance::any_wanted(true, selection);
    if !suite && !scenario::any_wanted(SCENARIOS, selection) {
        return Ok(());
    }
    let logs = stage.checkout().logs(NAME)?;
    let mut pair = match Pair::boot(stage, &logs) {
        Ok(pair) => pair,
        Err(why) => {
            conformance::report("", &format!("{why:#}"), NAME, true, selection, reporter);
            scenario::fail_all(SCENARIOS, &why, NAME, selection, reporter);
            return Ok(());
        }
    };
    if suite {
        let side = |how: &str| {
            let mut argv = vec![
                "verbena-conformance",
                "--attach",
                "kernel",
                "--attachment-name",
                NAME,
                how,
                MEETING,
            ];
            let arguments = conformance::arguments(selection);
            argv.extend(arguments.iter().map(String::as_str));
            Program::new(argv).timeout(SUITE)
        };
        let result = reporter.step("conformance, between two guests", || {
            Ok(pair.run(&side("--listen"), &side("--connect")))
        })?;
        match result {
            Ok((left, right)) => {
                let words = [
                    conformance::last_words(&left.stderr),
                    conformance::last_words(&right.stderr),
                ];
                let ending = format!(
                    "left {:?}: {}; right {:?}: {}",
                    left.exit, words[0], right.exit, words[1]
                );
                conformance::report(&left.stdout, &ending, NAME, true, selection, reporter);
            }
            Err(why) => conformance::report("", &format!("{why:#}"), NAME, true, selection, reporter),
        }
    }
    scenario::run(SCENARIOS, &mut pair, NAME, selection, reporter);
    Ok(())
}

/// The last scenario: the right guest does not come back.
fn peer_dies(pair: &mut Pair) -> Result<()> {
    let left = pair.left.spawn(&Program::new([
        "verbena-pingpong",
        "--attach",
        "kernel",
        "--listen",
        MEETING,
        "--iters",
        "100000000",
    ]))?;
    let right = pair.right.take().context("the right guest is there")?;
    let peer = right.spawn(&Program::new([
        "verbena-pingpong",
        "--attach",
        "kernel",
        "--connect",
        MEETING,
        "--iters",
        "100000000",
    ]))?;
    thread::sleep(Duration::from_secs(5));
    for (guest, running) in [(&pair.left, left), (&right, peer)] {
        let state = guest.state(running)?;
        let text = format!("{}{}", state.stdout.text(), state.stderr.text());
        ensure!(state.exit.is_none(), "the ping-pong ended early: {text}");
    }
    right.kill();
    let done = pair
        .left
        .wait(left, Duration::from_secs(90))?
        .context("the survivor hangs on its dead peer")?;
    ensure!(!done.is_success(), "the survivor noticed nothing");
    ensure!(
        done.stderr.trim().lines().count() == 1,
        "not one clear line: {}",
        done.stderr
    );
    // The survivor's device is as good as before.
    pair.left.check(&Program::new([
        "verbena-pingpong",
        "--attach",
        "kernel",
        "--iters",
        "50",
    ]))?;
    let complaints = pair.left.complaints();
    ensure!(
        complaints.is_empty(),
        "the survivor's kernel complains: {}",
        complaints[0]
    );
    Ok(())
}
