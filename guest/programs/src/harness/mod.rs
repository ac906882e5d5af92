// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs conformance cases: the same cases, over any attachment, alone or as one side of a pair.
//!
//! A case is one of two shapes. A [`Body::Single`] case opens what it needs on the [`Fixture`]. A [`Body::Pair`] case is
//! written once for both of its sides, as a conversation: each side has a context and a [`Wire`] to the other. On one
//! machine the two sides are two threads (on two HCAs where the attachment names two); between two guests each
//! guest runs one side. The case cannot tell the difference, and must not.

pub mod report;
pub mod runner;
pub mod wire;

use anyhow::Result;
use verbena::{Attachment, Context};
pub use wire::Wire;

/// Which side of a pair this is. Neither is special; a case gives the names their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that, between guests, listens for the other.
    Left,
    /// The side that, between guests, connects to the other.
    Right,
}

/// How a case that did not fail ended.
#[derive(Debug)]
pub enum Verdict {
    /// Everything that it checks was so.
    Pass,
    /// It does not apply here; the reason says what is missing.
    Skip(String),
}

/// What a case does. An `Err` or a panic is its failure.
#[derive(Clone, Copy)]
pub enum Body {
    /// Needs only a device.
    Single(fn(&Fixture) -> Result<Verdict>),
    /// One side of a conversation.
    Pair(fn(Side, &Context, &mut Wire) -> Result<Verdict>),
}

/// A conformance case.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, which begins with the row that it proves: `h10_rnr_retry_exceeded`.
    pub name: &'static str,
    /// What it does.
    pub body: Body,
}

impl Case {
    /// A case that needs only a device.
    pub const fn single(name: &'static str, run: fn(&Fixture) -> Result<Verdict>) -> Self {
        Self {
            name,
            body: Body::Single(run),
        }
    }

    /// A case of two sides.
    pub const fn pair(name: &'static str, run: fn(Side, &Context, &mut Wire) -> Result<Verdict>) -> Self {
        Self {
            name,
            body: Body::Pair(run),
        }
    }
}

/// Where cases find their device.
#[derive(Clone, Debug)]
pub struct Fixture {
    left: Attachment,
    right: Attachment,
}

impl Fixture {
    /// `right` is the device of the right side of pairs; the same as `left` where there is only one.
    pub fn new(left: Attachment, right: Attachment) -> Self {
        Self { left, right }
    }

    /// A new context on the (left) device.
    ///
    /// # Errors
    ///
    /// What opening the attachment says.
    pub fn open(&self) -> Result<Context> {
        self.open_side(Side::Left)
    }

    /// A new context on the device of `side`.
    ///
    /// # Errors
    ///
    /// What opening the attachment says.
    pub fn open_side(&self, side: Side) -> Result<Context> {
        Ok(Context::open(self.attachment(side))?)
    }

    /// The attachment of `side`.
    pub fn attachment(&self, side: Side) -> &Attachment {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }
}

/// Runs both sides of a pair in this process, each on its own thread and context.
///
/// # Errors
///
/// The first side's failure, with the other's beside it if that failed as well: often only one is the cause.
pub fn run_pair_here(fixture: &Fixture, run: fn(Side, &Context, &mut Wire) -> Result<Verdict>) -> Result<Verdict> {
    let (left_ctx, right_ctx) = (fixture.open_side(Side::Left)?, fixture.open_side(Side::Right)?);
    let (mut left_wire, mut right_wire) = Wire::local()?;
    std::thread::scope(|scope| {
        let right = scope.spawn(move || {
            let verdict = runner::catch(|| run(Side::Right, &right_ctx, &mut right_wire));
            // A failed side closes its wire, so that the other's next exchange fails instead of waiting.
            drop(right_wire);
            verdict
        });
        let left = runner::catch(|| run(Side::Left, &left_ctx, &mut left_wire));
        drop(left_wire);
        let right = right.join().expect("panics of a side are caught inside it");
        merge(left, right)
    })
}

/// The verdict of a pair from its sides'.
pub(crate) fn merge(left: Result<Verdict>, right: Result<Verdict>) -> Result<Verdict> {
    match (left, right) {
        (Ok(Verdict::Pass), Ok(Verdict::Pass)) => Ok(Verdict::Pass),
        (Ok(Verdict::Skip(why)), Ok(_)) | (Ok(_), Ok(Verdict::Skip(why))) => Ok(Verdict::Skip(why)),
        (Err(e), Ok(_)) => Err(e.context("left side")),
        (Ok(_), Err(e)) => Err(e.context("right side")),
        (Err(l), Err(r)) => Err(anyhow::anyhow!("left side: {l:#}; right side: {r:#}")),
    }
}
