// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a list of cases and reports each.

use super::report::{Outcome, Row};
use super::wire::Ended;
use super::{merge, run_pair_here, Body, Case, Fixture, Side, Verdict, Wire};
use anyhow::{anyhow, Result};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc;
use std::time::Duration;

/// A case that is not done after this long has hung.
pub const CASE_LIMIT: Duration = Duration::from_secs(180);

/// Runs `f`; a panic becomes an error with the panic's message.
pub fn catch<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(anyhow!("panicked: {text}"))
        }
    }
}

/// Which of the pair's sides run in this process.
pub enum Mode {
    /// Both; single cases as well.
    Here,
    /// This side only, the other one on the other end of the wire; pair cases only.
    Half(Side, Wire),
}

/// Runs `cases` in order and hands each row to `report` as soon as it is known.
///
/// A case that hangs ends the process: its threads cannot be taken back, and whatever they hold would spoil the cases
/// after it. The row that says so is reported first; the caller finds the cases after it missing and says so.
///
/// # Errors
///
/// If the two halves of a pair run lose each other.
pub fn run(
    cases: &[Case],
    fixture: &Fixture,
    attachment: &str,
    mut mode: Mode,
    report: &(dyn Fn(&Row) + Sync),
) -> Result<()> {
    for case in cases {
        let row = |result, reason| Row {
            name: case.name.to_owned(),
            suite: "conformance".to_owned(),
            attachment: attachment.to_owned(),
            result,
            reason,
        };
        let result = std::thread::scope(|scope| {
            let (done, watch) = mpsc::channel::<()>();
            let hung = row(Outcome::Fail, Some(format!("not done after {} s", CASE_LIMIT.as_secs())));
            scope.spawn(move || {
                if let Err(mpsc::RecvTimeoutError::Timeout) = watch.recv_timeout(CASE_LIMIT) {
                    report(&hung);
                    std::process::exit(3);
                }
            });
            let result = match (case.body, &mut mode) {
                (Body::Single(run), Mode::Here) => Some(catch(|| run(fixture))),
                (Body::Pair(run), Mode::Here) => Some(run_pair_here(fixture, run)),
                (Body::Pair(run), Mode::Half(side, wire)) => Some(run_half(case.name, fixture, *side, wire, run)?),
                (Body::Single(_), Mode::Half(..)) => None,
            };
            drop(done);
            anyhow::Ok(result)
        })?;
        match result {
            Some(Ok(Verdict::Pass)) => report(&row(Outcome::Pass, None)),
            Some(Ok(Verdict::Skip(why))) => report(&row(Outcome::Skip, Some(why))),
            Some(Err(e)) => report(&row(Outcome::Fail, Some(format!("{e:#}")))),
            None => {}
        }
    }
    Ok(())
}

/// Runs this side of a pair whose other side runs elsewhere, and learns the other side's verdict.
fn run_half(
    name: &str,
    fixture: &Fixture,
    side: Side,
    wire: &mut Wire,
    run: fn(Side, &verbena::Context, &mut Wire) -> Result<Verdict>,
) -> Result<Result<Verdict>> {
    wire.barrier(name)?;
    let mine = catch(|| {
        let ctx = fixture.open()?;
        run(side, &ctx, wire)
    });
    let ended = match &mine {
        Ok(Verdict::Pass) => Ended { skip: None, fail: None },
        Ok(Verdict::Skip(why)) => Ended { skip: Some(why.clone()), fail: None },
        Err(e) => Ended { skip: None, fail: Some(format!("{e:#}")) },
    };
    let theirs = match wire.end(&ended)? {
        Ended { fail: Some(why), .. } => Err(anyhow!(why)),
        Ended { skip: Some(why), .. } => Ok(Verdict::Skip(why)),
        Ended { .. } => Ok(Verdict::Pass),
    };
    Ok(match side {
        Side::Left => merge(mine, theirs),
        Side::Right => merge(theirs, mine),
    })
}
