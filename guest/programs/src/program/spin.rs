// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a completion: by polling alone, without a system call, not even for the time, as long as things move; or
//! asleep, for machines that have something else to do.

use anyhow::{bail, Context as _, Result};
use std::time::{Duration, Instant};
use verbena::{CompletionQueue, EventQueue, WorkCompletion};

/// Polls before the first look at the clock. Some tens of milliseconds natively, a second or two without hardware
/// virtualisation: far more than any message takes.
const SPINS: u32 = 1 << 23;

/// How long nothing may come before it is an error.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A completion queue that is waited on.
pub struct Waiting {
    cq: CompletionQueue,
    /// Where it reports, if it is waited for asleep.
    events: Option<EventQueue>,
}

impl Waiting {
    /// Waits on `cq`, asleep if so wanted.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn on(cq: CompletionQueue, asleep: bool) -> Result<Self> {
        let events = asleep.then(|| cq.context().create_event_queue()).transpose()?;
        if let Some(events) = &events {
            events.associate_cq(&cq, 0)?;
        }
        Ok(Self { cq, events })
    }

    /// The next completion, which must be a success.
    ///
    /// # Errors
    ///
    /// The completion's status; the device is gone (which a poller finds out by asking it once nothing has come for long);
    /// nothing comes for [`PATIENCE`].
    #[inline]
    pub fn good(&mut self) -> Result<WorkCompletion> {
        let completion = match &self.events {
            None => spin(&mut self.cq)?,
            Some(events) => {
                let completion = self.cq.wait(events, Some(PATIENCE))?;
                completion.with_context(|| format!("nothing has come for {} s", PATIENCE.as_secs()))?
            }
        };
        completion.ok()?;
        Ok(completion)
    }
}

#[inline]
fn spin(cq: &mut CompletionQueue) -> Result<WorkCompletion> {
    for _ in 0..SPINS {
        if let Some(completion) = cq.poll() {
            return Ok(completion.to_owned());
        }
        std::hint::spin_loop();
    }
    stalled(cq)
}

#[cold]
fn stalled(cq: &mut CompletionQueue) -> Result<WorkCompletion> {
    let ctx = cq.context().clone();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        // A device that died says nothing; one that is asked does, or its driver does.
        ctx.device()?;
        if let Some(completion) = cq.poll_timeout(Duration::from_millis(100))? {
            return Ok(completion);
        }
    }
    bail!("nothing has come for {} s", PATIENCE.as_secs());
}
