// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said of each case: one line for a person, one JSON object for a machine.

use serde::{Deserialize, Serialize};

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// It did not apply.
    Skip,
}

/// A row of the report of `cargo xtask test --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The case.
    pub name: String,
    /// The suite that it belongs to: `unit`, `conformance`, `scenario` ...
    pub suite: String,
    /// Over what it ran: `native`, `direct`, `guest` or `pair`.
    pub attachment: String,
    /// How it ended.
    pub result: Outcome,
    /// Why, when it did not pass.
    pub reason: Option<String>,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.result {
            Outcome::Pass => "ok  ",
            Outcome::Fail => "FAIL",
            Outcome::Skip => "skip",
        };
        write!(f, "{word} {:<11} {:<7} {}", self.suite, self.attachment, self.name)?;
        if let Some(reason) = &self.reason {
            write!(f, " -- {reason}")?;
        }
        Ok(())
    }
}
