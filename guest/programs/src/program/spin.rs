// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a completion by polling alone: no system call, not even for the time, as long as things move.

use anyhow::{bail, Result};
use std::time::{Duration, Instant};
use verbena::{CompletionQueue, Context, WorkCompletion};

/// Polls before the first look at the clock. Some tens of milliseconds natively, a second or two without hardware
/// virtualisation: far more than any message takes.
const SPINS: u32 = 1 << 23;

/// How long nothing may come before it is an error.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The next completion, whatever its status.
///
/// # Errors
///
/// The device is gone (which is found out by asking it once nothing has come for long), or nothing comes for
/// [`PATIENCE`].
#[inline]
pub fn next(ctx: &Context, cq: &mut CompletionQueue) -> Result<WorkCompletion> {
    for _ in 0..SPINS {
        if let Some(completion) = cq.poll() {
            return Ok(completion.to_owned());
        }
        std::hint::spin_loop();
    }
    stalled(ctx, cq)
}

/// The next completion, which must be a success.
///
/// # Errors
///
/// As [`next`], and the completion's status.
#[inline]
pub fn good(ctx: &Context, cq: &mut CompletionQueue) -> Result<WorkCompletion> {
    let completion = next(ctx, cq)?;
    completion.ok()?;
    Ok(completion)
}

#[cold]
fn stalled(ctx: &Context, cq: &mut CompletionQueue) -> Result<WorkCompletion> {
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
