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
            let hung = row(
                Outcome::Fail,
                Some(format!("not done after {} s", CASE_LIMIT.as_secs())),
            );
            scope.spawn(move || {
                if let Err(mpsc::RecvTimeoutError::Timeout) = watch.recv_timeout(CASE_LIMIT) {
                    report(&hung);
                    std::process::exit(3);
                }
            });
            let result = match (case.body, &mut mode) {
                (Body::Single(run), Mode::Here) => Some(catch(|| run(fixture))),
                (Body::Pair(run), Mode::Here) => Some(run_pair_here(fixture, run)),
                (Body::Pair(run), Mode::Half(side, wire)) => Some(run_half(case.name, *side, wire, |wire| {
                    let ctx = fixture.open()?;
                    run(*side, &ctx, wire)
                })?),
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
///
/// # Errors
///
/// If the other side is gone, or is at another case.
fn run_half(
    name: &str,
    side: Side,
    wire: &mut Wire,
    run: impl FnOnce(&mut Wire) -> Result<Verdict>,
) -> Result<Result<Verdict>> {
    wire.barrier(name)?;
    let mine = catch(|| run(wire));
    let ended = match &mine {
        Ok(Verdict::Pass) => Ended { skip: None, fail: None },
        Ok(Verdict::Skip(why)) => Ended {
            skip: Some(why.clone()),
            fail: None,
        },
        Err(e) => Ended {
            skip: None,
            fail: Some(format!("{e:#}")),
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use verbena::Attachment;

    fn no_device() -> Fixture {
        let nowhere = Attachment::direct("/nonexistent/verbena.sock");
        Fixture::new(nowhere.clone(), nowhere)
    }

    fn rows_of(cases: &[Case], mode: Mode) -> Vec<Row> {
        let rows = Mutex::new(Vec::new());
        run(cases, &no_device(), "native", mode, &|row| {
            rows.lock().unwrap().push(row.clone())
        })
        .unwrap();
        rows.into_inner().unwrap()
    }

    #[test]
    fn a_panic_is_a_failure_with_its_message() {
        let error = catch::<()>(|| panic!("the {}th byte", 7)).unwrap_err();
        assert_eq!(error.to_string(), "panicked: the 7th byte");
        let error = catch::<()>(|| panic!("plain")).unwrap_err();
        assert_eq!(error.to_string(), "panicked: plain");
        let error = catch::<()>(|| std::panic::panic_any(5u8)).unwrap_err();
        assert_eq!(error.to_string(), "panicked: no message");
    }

    #[test]
    fn every_verdict_becomes_its_row_and_the_next_case_runs() {
        let cases = [
            Case::single("passes", |_| Ok(Verdict::Pass)),
            Case::single("panics", |_| panic!("oh")),
            Case::single("fails", |_| Err(anyhow!("inner").context("outer"))),
            Case::single("skips", |_| Ok(Verdict::Skip("no such thing".to_owned()))),
            Case::single("needs a device", |fixture| fixture.open().map(|_| Verdict::Pass)),
        ];
        let rows = rows_of(&cases, Mode::Here);
        let results: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.result)).collect();
        assert_eq!(
            results,
            [
                ("passes", Outcome::Pass),
                ("panics", Outcome::Fail),
                ("fails", Outcome::Fail),
                ("skips", Outcome::Skip),
                ("needs a device", Outcome::Fail),
            ]
        );
        assert_eq!(rows[0].reason, None);
        assert_eq!(rows[1].reason.as_deref(), Some("panicked: oh"));
        assert_eq!(rows[2].reason.as_deref(), Some("outer: inner"));
        assert_eq!(rows[3].reason.as_deref(), Some("no such thing"));
        assert!(rows
            .iter()
            .all(|r| r.suite == "conformance" && r.attachment == "native"));
    }

    #[test]
    fn single_cases_are_not_run_by_halves() {
        let (left, _right) = Wire::local().unwrap();
        assert!(rows_of(
            &[Case::single("alone", |_| Ok(Verdict::Pass))],
            Mode::Half(Side::Left, left)
        )
        .is_empty());
    }

    /// Runs the same case in two halves, and says what each reports.
    fn halves(
        name: (&str, &str),
        left: impl FnOnce(&mut Wire) -> Result<Verdict> + Send,
        right: impl FnOnce(&mut Wire) -> Result<Verdict> + Send,
    ) -> [Result<Result<Verdict>>; 2] {
        let (mut l, mut r) = Wire::local().unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || run_half(name.1, Side::Right, &mut r, right));
            let here = run_half(name.0, Side::Left, &mut l, left);
            drop(l);
            [here, there.join().unwrap()]
        })
    }

    #[test]
    fn one_half_that_fails_fails_the_case_on_both_sides() {
        let results = halves(
            ("case", "case"),
            |wire| {
                wire.recv::<u32>()?;
                Ok(Verdict::Pass)
            },
            |_| panic!("it broke"),
        );
        for result in results {
            let text = format!("{:#}", result.unwrap().unwrap_err());
            assert!(text.contains("right side") && text.contains("it broke"), "{text}");
        }
    }

    #[test]
    fn one_half_that_skips_skips_the_case_on_both_sides() {
        let skip = |_: &mut Wire| Ok(Verdict::Skip("not here".to_owned()));
        for result in halves(("case", "case"), |_| Ok(Verdict::Pass), skip) {
            assert!(matches!(result.unwrap().unwrap(), Verdict::Skip(why) if why == "not here"));
        }
    }

    #[test]
    fn halves_at_different_cases_do_not_run() {
        for result in halves(("one", "other"), |_| Ok(Verdict::Pass), |_| Ok(Verdict::Pass)) {
            assert!(result.is_err());
        }
    }
}
