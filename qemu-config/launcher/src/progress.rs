// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a person sees while something takes longer than a second: bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows any number of things that go on at once. Cheap to clone; all clones share the screen.
#[derive(Clone)]
pub struct Progress {
    bars: MultiProgress,
    plain: bool,
    verbose: bool,
}

impl Progress {
    /// For standard error, as it is: a terminal gets bars.
    pub fn new(verbose: bool) -> Progress {
        let plain = verbose || !std::io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Progress {
            bars: MultiProgress::with_draw_target(target),
            plain,
            verbose,
        }
    }

    /// Shows nothing, for tests.
    pub fn silent() -> Progress {
        Progress {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            plain: false,
            verbose: false,
        }
    }

    /// Whether the person asked to see everything.
    pub fn verbose(&self) -> bool {
        self.verbose
    }

    /// A line that stays, above the bars.
    pub fn line(&self, text: &str) {
        if self.plain {
            eprintln!("{text}");
        } else {
            // Fails only if the terminal is gone.
            let _ = self.bars.println(text);
        }
    }

    /// Something begins. `total` is its amount in bytes, if that is known.
    pub fn begin(&self, name: &str, total: Option<u64>) -> Task {
        let bar = self.bars.add(match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        });
        let template = match total {
            Some(_) => "{prefix:>14} [{bar:24}] {bytes}/{total_bytes} {wide_msg:.dim}",
            None => "{prefix:>14} {spinner} {elapsed} {wide_msg:.dim}",
        };
        bar.set_style(
            ProgressStyle::with_template(template)
                .expect("the templates are ours")
                .progress_chars("=> "),
        );
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        if self.plain {
            eprintln!("{name}: started");
        }
        Task {
            bar,
            name: name.to_owned(),
            start: Instant::now(),
            progress: self.clone(),
            done: false,
        }
    }
}

/// One thing that goes on. Dropped without [`Task::done`], it vanishes from the screen: whoever dropped it reports why.
pub struct Task {
    bar: ProgressBar,
    name: String,
    start: Instant,
    progress: Progress,
    done: bool,
}

impl Task {
    /// What it is at, right now. Seen on a terminal, or if everything is to be seen.
    pub fn message(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        if self.progress.verbose {
            eprintln!("{}: {text}", self.name);
        }
    }

    /// Changes what it waits for from an unknown to a known amount, in bytes.
    pub fn expect(&self, total: u64) {
        self.bar.set_length(total);
        let template = "{prefix:>14} [{bar:24}] {bytes}/{total_bytes} {wide_msg:.dim}";
        let style = ProgressStyle::with_template(template).expect("the template is ours");
        self.bar.set_style(style.progress_chars("=> "));
    }

    /// Back to an unknown amount.
    pub fn expect_nothing(&self) {
        let template = "{prefix:>14} {spinner} {elapsed} {wide_msg:.dim}";
        self.bar
            .set_style(ProgressStyle::with_template(template).expect("the template is ours"));
    }

    /// How far it is, in bytes.
    pub fn position(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// It is done. A line says so if it took long enough to wonder about.
    pub fn done(mut self) {
        self.done = true;
        let took = self.start.elapsed();
        self.bar.finish_and_clear();
        if self.progress.plain {
            eprintln!("{}: done in {:.1} s", self.name, took.as_secs_f64());
        } else if took > Duration::from_secs(1) {
            self.progress
                .line(&format!("{:>14} done in {}", self.name, HumanDuration(took)));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.done {
            self.bar.finish_and_clear();
        }
    }
}
