// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A gate that calls pass through: it can be shut for good, and shutting waits for those inside.

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::sys::atomic::{AtomicU32, Ordering};

const SHUT: u32 = 1 << 31;

/// Calls inside, and whether no more may come.
pub(crate) struct Gate(AtomicU32);

/// A call inside; dropping it leaves.
pub(crate) struct Pass<'a>(&'a AtomicU32);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of whoever waits for the gate to be empty.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Gate {
    pub(crate) const fn new() -> Self {
        Gate(AtomicU32::new(0))
    }

    /// Enters.
    ///
    /// # Errors
    ///
    /// ENODEV if the gate is shut.
    #[inline]
    pub(crate) fn enter(&self) -> Outcome<Pass<'_>> {
        // Counted first and looked at afterwards: whoever shuts the gate sees this call, or this call sees it shut.
        let before = self.0.fetch_add(1, Ordering::Acquire);
        let pass = Pass(&self.0);
        if before & SHUT != 0 {
            return Err(Failure::GONE);
        }
        Ok(pass)
    }

    /// Lets nobody in any more and waits until all have left. Not from inside.
    pub(crate) fn shut<H: Host>(&self, host: &H) {
        self.0.fetch_or(SHUT, Ordering::Relaxed);
        while !self.is_shut() {
            host.pause();
        }
    }

    /// Whether it is shut and everybody has left.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire) == SHUT
    }
}
