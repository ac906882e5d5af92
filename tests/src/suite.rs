// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every part of the test run shares: which tests are wanted, and how they are reported.

use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use verbena_guest::harness::report::{Outcome, Row};
use verbena_launcher::Progress;

/// Which tests are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only those whose name contains this.
    pub filter: Option<String>,
}

impl Selection {
    /// Whether the test of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}

/// Collects rows, and shows them while they come.
pub struct Reporter {
    rows: Mutex<Vec<Row>>,
    progress: Progress,
}

impl Reporter {
    /// Shows failures as they come, and with a verbose `progress` every row.
    pub fn new(progress: &Progress) -> Self {
        Self {
            rows: Mutex::new(Vec::new()),
            progress: progress.clone(),
        }
    }

    /// Takes a row.
    pub fn report(&self, row: Row) {
        if self.progress.verbose() || row.result == Outcome::Fail {
            self.progress.line(&row.to_string());
        }
        self.rows.lock().expect("no reporter panics").push(row);
    }

    /// Shows that `work` runs, and how long it took.
    ///
    /// # Errors
    ///
    /// What `work` says.
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let task = self.progress.begin(what, None);
        let result = work()?;
        task.done();
        Ok(result)
    }

    /// The number of rows so far: a place to count from, for [`Self::since`].
    pub fn mark(&self) -> usize {
        self.rows.lock().expect("no reporter panics").len()
    }

    /// The rows from `mark` on.
    pub fn since(&self, mark: usize) -> Vec<Row> {
        self.rows.lock().expect("no reporter panics")[mark..].to_vec()
    }

    /// Writes every row as JSON.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.since(0))?;
        File::create(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Says what the rows from `mark` on come to, for a part of the run.
    pub fn summary(&self, part: &str, mark: usize) {
        let (passed, failed, skipped) = count(&self.since(mark));
        self.progress
            .line(&format!("{part}: {passed} passed, {failed} failed, {skipped} skipped"));
    }

    /// Prints every row that did not pass and what all come to; says whether nothing failed and something passed.
    pub fn finish(&self) -> bool {
        let rows = self.since(0);
        for row in rows.iter().filter(|r| r.result != Outcome::Pass) {
            println!("{row}");
        }
        let (passed, failed, skipped) = count(&rows);
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0 && passed > 0
    }
}

fn count(rows: &[Row]) -> (usize, usize, usize) {
    let of = |outcome| rows.iter().filter(|r| r.result == outcome).count();
    (of(Outcome::Pass), of(Outcome::Fail), of(Outcome::Skip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, result: Outcome) -> Row {
        Row {
            name: name.into(),
            suite: "unit".into(),
            attachment: "native".into(),
            result,
            reason: None,
        }
    }

    #[test]
    fn a_run_passes_only_if_something_passed_and_nothing_failed() {
        let reporter = Reporter::new(&Progress::silent());
        assert!(!reporter.finish(), "no test ran");
        reporter.report(row("a", Outcome::Skip));
        assert!(!reporter.finish(), "only skips");
        reporter.report(row("b", Outcome::Pass));
        assert!(reporter.finish());
        reporter.report(row("c", Outcome::Fail));
        assert!(!reporter.finish());
        assert_eq!(reporter.since(2).len(), 1);
    }
}
