// SPDX-License-Identifier: MIT OR Apache-2.0

//! What it costs to present completions in four ways (U24): the same entries of a completion ring, taken by the driver's own
//! code, presented to a consumer of few fields (`wr_id`, status, length) or of many (everything).
//!
//! `cargo xtask bench uapi` runs it, under callgrind and on its own; `../../docs/completions.md` has the table.
//!
//! ```sh
//! cargo run --release -p verbena --example completions -- 1000 accessors few
//! ```
//!
//! The first argument is how often a ring of entries is filled and drained. It prints the entries of the ring, the
//! nanoseconds that draining them took (the median), and a sum of everything that was read. `check` instead of a number
//! compares what the ways present, field by field.

mod accessors;
mod device;
mod grouped;
mod grown;
#[expect(dead_code, reason = "the driver's source, of which this uses a part")]
mod memory;
mod rewritten;
#[expect(dead_code, reason = "the driver's source, of which this uses a part")]
mod ring;
mod seen;

use device::ENTRIES;
use ring::complete::CqRing;
use seen::{Few, Many, Seen};
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

/// Completions that a consumer asks for at once, where it gets them in an array.
const BATCH: usize = 32;

/// What drains a queue.
struct Ways {
    table: &'static accessors::Table,
    grown: (grown::Poll, [grown::Wc; BATCH]),
    rewritten: (rewritten::Poll, [rewritten::Wc; BATCH]),
    grouped: (grouped::Poll, [grouped::Wc; BATCH]),
}

impl Ways {
    /// Behind a [`black_box`] what a library's user does not know when it is compiled.
    fn new() -> Self {
        Self {
            table: black_box(&accessors::TABLE),
            grown: (black_box(grown::poll), [Default::default(); BATCH]),
            rewritten: (black_box(rewritten::poll), [Default::default(); BATCH]),
            grouped: (black_box(grouped::poll), [Default::default(); BATCH]),
        }
    }

    #[inline(never)]
    fn few(&mut self, way: &str, cq: &mut CqRing, see: impl FnMut(Few)) -> Result<(), Box<dyn Error>> {
        match way {
            "accessors" => accessors::few(cq, see),
            "table" => accessors::few_by_table(cq, self.table, see),
            "grown" => grown::few(cq, self.grown.0, &mut self.grown.1, see),
            "rewritten" => rewritten::few(cq, self.rewritten.0, &mut self.rewritten.1, see),
            "grouped" => grouped::few(cq, self.grouped.0, &mut self.grouped.1, see),
            _ => return Err(format!("there is no way {way}").into()),
        }
        Ok(())
    }

    #[inline(never)]
    fn many(&mut self, way: &str, cq: &mut CqRing, see: impl FnMut(Many)) -> Result<(), Box<dyn Error>> {
        match way {
            "accessors" => accessors::many(cq, see),
            "table" => accessors::many_by_table(cq, self.table, see),
            "grown" => grown::many(cq, self.grown.0, &mut self.grown.1, see),
            "rewritten" => rewritten::many(cq, self.rewritten.0, &mut self.rewritten.1, see),
            "grouped" => grouped::many(cq, self.grouped.0, &mut self.grouped.1, see),
            _ => return Err(format!("there is no way {way}").into()),
        }
        Ok(())
    }
}

/// Takes every completion and reads none: what taking alone costs.
fn nothing(cq: &mut CqRing) {
    while cq.poll().is_some() {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["check"] => check(),
        [rounds, way, fields] => measure(rounds.parse()?, way, fields),
        _ => Err("arguments: ROUNDS accessors|table|grown|rewritten|grouped|nothing|device few|many, or: check".into()),
    }
}

fn measure(rounds: u32, way: &str, fields: &str) -> Result<(), Box<dyn Error>> {
    let (device, mut cq) = device::ring()?;
    let mut ways = Ways::new();
    let mut sum = 0u64;
    let mut times = Vec::with_capacity(rounds.try_into()?);
    for _ in 0..rounds {
        device.produce();
        let begin = Instant::now();
        match (way, fields) {
            // The device's part alone, to be taken off.
            ("device", _) => {}
            ("nothing", _) => nothing(&mut cq),
            (_, "few") => ways.few(way, &mut cq, |few| sum = sum.wrapping_add(few.sum()))?,
            (_, "many") => ways.many(way, &mut cq, |many| sum = sum.wrapping_add(many.sum()))?,
            _ => return Err("few or many?".into()),
        }
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).ok_or("no rounds")?;
    println!("{ENTRIES} {} {sum}", median.as_nanos());
    Ok(())
}

/// All ways present the same.
fn check() -> Result<(), Box<dyn Error>> {
    let (device, mut cq) = device::ring()?;
    let mut ways = Ways::new();
    let mut first = None;
    for way in ["accessors", "table", "grown", "rewritten", "grouped"] {
        let (mut few, mut many) = (Vec::new(), Vec::new());
        device.produce();
        ways.few(way, &mut cq, |seen| few.push(seen))?;
        device.produce();
        ways.many(way, &mut cq, |seen| many.push(seen))?;
        if few.len() != ENTRIES as usize || many.len() != ENTRIES as usize {
            return Err(format!("{way}: {} and {} of {ENTRIES} completions", few.len(), many.len()).into());
        }
        let (few_first, many_first) = first.get_or_insert_with(|| (few.clone(), many.clone()));
        if let Some((a, b)) = few.iter().zip(few_first).find(|(a, b)| a != b) {
            return Err(format!("{way} presents {a:?}, accessors {b:?}").into());
        }
        if let Some((a, b)) = many.iter().zip(many_first).find(|(a, b)| a != b) {
            return Err(format!("{way} presents {a:?}, accessors {b:?}").into());
        }
    }
    Ok(())
}
