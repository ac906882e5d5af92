// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls counted instead of shown.

use super::Call;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Calls by class and method.
#[derive(Clone, Debug, Default)]
pub struct Summary(BTreeMap<(String, String), Line>);

/// What the calls of one method come to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// Class and method.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Time in all, nanoseconds. Of a chain, with its commands.
    pub total_ns: u64,
    /// The longest, nanoseconds.
    pub longest_ns: u64,
}

impl Summary {
    /// Counts a call.
    pub fn add(&mut self, call: &Call) {
        let line = self.0.entry((call.class.clone(), call.method.clone())).or_default();
        line.name = format!("{} {}", call.class, call.method);
        line.calls += 1;
        line.errors += u64::from(call.errno != 0);
        line.total_ns += call.duration_ns;
        line.longest_ns = line.longest_ns.max(call.duration_ns);
    }

    /// The lines, what took longest first.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<_> = self.0.values().cloned().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.total_ns));
        lines
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "% time    total ms     us/call  longest us     calls    errors  call"
        )?;
        let lines = self.lines();
        let all: u64 = lines.iter().map(|line| line.total_ns).sum();
        for line in lines {
            writeln!(
                f,
                "{:6.2} {:11.3} {:11.1} {:11.1} {:9} {:9}  {}",
                100.0 * line.total_ns as f64 / all.max(1) as f64,
                line.total_ns as f64 / 1e6,
                line.total_ns as f64 / 1e3 / line.calls.max(1) as f64,
                line.longest_ns as f64 / 1e3,
                line.calls,
                line.errors,
                line.name
            )?;
        }
        Ok(())
    }
}
