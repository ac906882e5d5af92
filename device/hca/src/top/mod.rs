// SPDX-License-Identifier: MIT OR Apache-2.0
//! `verbena-ctl top`: what the HCAs of a server are doing, second by second.
//!
//! It asks the control socket for a dump at each interval and shows the difference to the one before. The server does
//! nothing for it between two questions.
//!
//! | module | what it is |
//! |---|---|
//! | [`sample`] | what of a dump is looked at, and the rates between two of them |
//! | [`text`] | a line or a JSON object for each interval |
//! | [`screen`] | the terminal |
//! | [`plot`] | rates over time as a picture |

pub mod plot;
pub mod sample;
pub mod screen;
pub mod text;

use crate::control::client::{ask, AskError};
use crate::control::{Answer, Format, Request};
use sample::{Interval, Sample};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to show, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's control socket.
    pub socket: PathBuf,
    /// Only this HCA.
    pub hca: Option<usize>,
    /// Between two looks.
    pub interval: Duration,
    /// Intervals to show; for ever if absent.
    pub count: Option<u64>,
    /// JSON, an object a line.
    pub json: bool,
    /// Lines even if this is a terminal.
    pub batch: bool,
    /// Where to draw the rates over time when it ends.
    pub plot: Option<PathBuf>,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The server does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer has not what a dump has.
    #[error("the server's dump is not one that this verbena-ctl understands: {0}")]
    Dump(String),
    /// The terminal, or where the output goes.
    #[error("cannot show it: {0}")]
    Output(#[from] io::Error),
    /// The picture.
    #[error("cannot draw {path}: {why}")]
    Plot {
        /// The file.
        path: String,
        /// A sentence.
        why: String,
    },
}

/// One look at the server.
///
/// # Errors
///
/// [`TopError::Ask`], [`TopError::Dump`].
pub fn look(socket: &Path, hca: Option<usize>) -> Result<Sample, TopError> {
    let request = Request::Dump {
        hca,
        format: Format::Json,
    };
    match ask(socket, &request)? {
        Answer::Dump(value) => serde_json::from_value(value).map_err(|error| TopError::Dump(error.to_string())),
        other => Err(TopError::Dump(format!("{other:?}"))),
    }
}

/// Shows it until the count is reached, the person has seen enough, or the reader has left.
///
/// # Errors
///
/// See [`TopError`].
pub fn run(options: &Options) -> Result<(), TopError> {
    let mut history = Vec::new();
    let shown = if !options.json && !options.batch && io::stdout().is_terminal() {
        screen::run(options, &mut history)
    } else {
        lines(options, &mut history)
    };
    let shown = match shown {
        Err(TopError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    };
    if let Some(path) = &options.plot {
        plot::draw(path, &history).map_err(|why| TopError::Plot {
            path: path.display().to_string(),
            why,
        })?;
    }
    shown
}

fn lines(options: &Options, history: &mut Vec<Interval>) -> Result<(), TopError> {
    let mut out = io::stdout().lock();
    let mut before = look(&options.socket, options.hca)?;
    for n in 0.. {
        if options.count.is_some_and(|count| n >= count) {
            return Ok(());
        }
        std::thread::sleep(options.interval);
        let now = look(&options.socket, options.hca)?;
        let interval = Interval::between(&before, &now);
        if options.json {
            serde_json::to_writer(&mut out, &interval).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            if n % text::LINES_A_HEADING == 0 {
                text::heading(&mut out)?;
            }
            text::lines(&mut out, &interval)?;
        }
        out.flush()?;
        keep(options, history, interval);
        before = now;
    }
    Ok(())
}

/// Remembers an interval, if somebody will want it.
pub(crate) fn keep(options: &Options, history: &mut Vec<Interval>, mut interval: Interval) {
    if options.plot.is_some() {
        // A picture has no room for queue pairs, and a long run would have no memory for them.
        interval.hcas.iter_mut().for_each(|hca| hca.qps.clear());
        history.push(interval);
    }
}
