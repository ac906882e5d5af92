// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same scripts by a single copy and over packets on a link that loses, doubles, breaks and reorders: the same
//! completions, the same memory, the same states, the same events.
//!
//! What a script says is decided by its number, which a failure prints; `SCRIPT=n` runs that one alone, `SCRIPTS=n` more
//! of them.
//!
//! Scripts leave out what the specification leaves open: memory that a READ reads while a later request without a fence
//! writes it or ends its key, the contents of a receive or of a WRITE's target that ends in an error. And where a request fails for good,
//! the responses of that step get through: a responder whose queue pair has failed is silent (IBA vol. 1, 10.3.1.8), so
//! what it said last cannot be had again.

mod draw;
mod keys;
mod run;
mod script;
mod side;

use run::{run, Outcome, Stage, STEP};
use script::{script, Script, SLOT};
use std::collections::{BTreeMap, BTreeSet};
use verbena_engine::testing::{Faults, Net, World};
use verbena_hw::cqe::{flags, vendor, Opcode, Status};

/// Scripts that every run of the tests runs.
const SCRIPTS: u64 = 10_000;

/// What scripts have met: how work requests ended and why, what succeeded, and how many packets were lost.
#[derive(Default)]
struct Met {
    statuses: BTreeSet<Status>,
    reasons: BTreeSet<u32>,
    succeeded: BTreeMap<Opcode, u64>,
    /// Receives that tell of a key that is gone.
    invalidated: u64,
    /// Batches that go through with a request that names another key than the buffer's.
    through: u64,
    lost: u64,
}

impl Met {
    fn add(&mut self, script: &Script, outcome: &Outcome) {
        for completed in outcome.completed.iter().flat_map(BTreeMap::values).flatten() {
            self.statuses.insert(completed.1);
            self.reasons.insert(completed.6);
            if let Some(opcode) = completed.2 {
                *self.succeeded.entry(Opcode(opcode)).or_default() += 1;
            }
            self.invalidated += u64::from(completed.3 & flags::INVALIDATED != 0);
        }
        let events = outcome.events.iter().flat_map(BTreeMap::values).flatten();
        self.reasons.extend(events.map(|event| event.1 as u32));
        let sound = script.steps.iter().flatten().filter(|batch| !batch.fatal);
        self.through += sound
            .filter(|batch| batch.ops.iter().any(|op| op.via.is_some()))
            .count() as u64;
    }
}

/// What ended otherwise than its script says: of a batch without a failure nothing fails, of another something does. What is
/// tried after a connection has failed is not looked at: with some failures one direction goes on.
fn unexpected(script: &Script, outcome: &Outcome) -> Option<String> {
    let mut failed = BTreeSet::new();
    for (number, step) in script.steps.iter().enumerate() {
        let first = number as u64 * STEP;
        for batch in step.iter().filter(|batch| !failed.contains(&batch.connection)) {
            let numbers = first..first + batch.ops.len() as u64;
            let completed = outcome.completed[batch.side].get(&(batch.connection, false));
            let failure = completed
                .into_iter()
                .flatten()
                .find(|completed| numbers.contains(&completed.0) && completed.1 != Status::SUCCESS);
            if failure.is_some() != batch.fatal {
                return Some(format!("step {number}, connection {}: {failure:?}", batch.connection));
            }
        }
        let ends = step.iter().filter(|batch| batch.fatal);
        failed.extend(ends.map(|batch| batch.connection));
    }
    None
}

/// Runs a script both ways, and says how they differ.
fn compare(number: u64, met: &mut Met) -> Result<(), String> {
    let script = script(number);
    let mut net = Net::new(number);
    net.link.faults = Faults::default();
    let (by_copy, _) = run(
        &script,
        Stage::Local(Box::new(World::for_workers(number, 1 + number as usize % 2))),
    );
    let (by_packets, lost) = run(&script, Stage::Packets(Box::new(net)));
    met.lost += lost;
    met.add(&script, &by_copy);
    if let Some(text) = unexpected(&script, &by_copy) {
        return Err(format!(
            "script {number} (SCRIPT={number}): {script:#?}\nby copy, {text}"
        ));
    }
    if by_copy == by_packets {
        return Ok(());
    }
    let mut text = format!("script {number} (SCRIPT={number}): {script:#?}\n");
    for side in [0, 1] {
        let (copy, packets) = (&by_copy, &by_packets);
        for (what, same, left, right) in [
            (
                "completions",
                copy.completed[side] == packets.completed[side],
                format!("{:?}", copy.completed[side]),
                format!("{:?}", packets.completed[side]),
            ),
            (
                "events",
                copy.events[side] == packets.events[side],
                format!("{:?}", copy.events[side]),
                format!("{:?}", packets.events[side]),
            ),
            (
                "states",
                copy.states[side] == packets.states[side],
                format!("{:?}", copy.states[side]),
                format!("{:?}", packets.states[side]),
            ),
            (
                "keys",
                copy.keys[side] == packets.keys[side],
                format!("{:?}", copy.keys[side]),
                format!("{:?}", packets.keys[side]),
            ),
        ] {
            if !same {
                text += &format!("{what} of side {side}:\n by copy    {left}\n by packets {right}\n");
            }
        }
        let differs = copy.memory[side]
            .iter()
            .zip(&packets.memory[side])
            .position(|(a, b)| a != b);
        if let Some(at) = differs {
            text += &format!(
                "memory of side {side} from byte {at:#x} (slot {}) on\n",
                at / SLOT as usize
            );
        }
    }
    Err(text)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs every second script, from `from` on: two of these run beside each other.
fn half(from: u64) {
    let mut met = Met::default();
    let mut try_one = |number| compare(number, &mut met).unwrap_or_else(|text| panic!("{text}"));
    if let Some(number) = setting("SCRIPT") {
        if number % 2 == from {
            try_one(number);
        }
        return;
    }
    let scripts = setting("SCRIPTS").unwrap_or(SCRIPTS);
    for number in (from..scripts).step_by(2) {
        try_one(number);
    }
    let all = [
        Status::SUCCESS,
        Status::LOC_LEN_ERR,
        Status::LOC_QP_OP_ERR,
        Status::LOC_PROT_ERR,
        Status::MW_BIND_ERR,
        Status::WR_FLUSH_ERR,
        Status::REM_INV_REQ_ERR,
        Status::REM_ACCESS_ERR,
        Status::RETRY_EXC_ERR,
        Status::RNR_RETRY_EXC_ERR,
    ];
    if scripts >= SCRIPTS {
        assert_eq!(met.statuses, BTreeSet::from(all), "what scripts are to meet");
        assert!(met.lost > scripts / 2, "{} packets lost", met.lost);
        let reasons = [
            vendor::KEY_UNKNOWN,
            vendor::KEY_RANGE,
            vendor::KEY_ACCESS,
            vendor::WINDOW_STATE,
            vendor::KEY_QP,
            vendor::NOT_INVALIDATABLE,
            vendor::REGION_STATE,
        ];
        for reason in reasons {
            assert!(met.reasons.contains(&reason), "no script meets reason {reason}");
        }
        for opcode in [Opcode::BIND_MW, Opcode::REG_MR, Opcode::LOCAL_INV] {
            let n = met.succeeded.get(&opcode).copied().unwrap_or(0);
            assert!(n > scripts / 50, "{n} times {opcode:?}");
        }
        assert!(met.invalidated > scripts / 50, "{} keys invalidated", met.invalidated);
        assert!(met.through > scripts / 20, "{} batches through such keys", met.through);
    }
}

#[test]
fn h13_scripts_end_alike_by_copy_and_by_packets_even_ones() {
    half(0);
}

#[test]
fn h13_scripts_end_alike_by_copy_and_by_packets_odd_ones() {
    half(1);
}
