// SPDX-License-Identifier: MIT OR Apache-2.0
//! What many cases need: checks that say what they saw, messages laid out in memory, sizes worth trying.

use crate::harness::Verdict;
use crate::link::{Region, Spec};
use crate::pattern;
use anyhow::{bail, ensure, Result};
use rdma_uapi::Errno;
use std::ops::Range;
use std::time::Duration;
use verbena::{CompletionQueue, ConnectOptions, Context, Key, Sge};

/// What a case returns.
pub type Outcome = Result<Verdict>;

/// The case passed.
pub const PASS: Outcome = Ok(Verdict::Pass);

/// How long a case waits to see that nothing comes.
pub const QUIET: Duration = Duration::from_millis(150);

/// Message sizes around everything that could be a boundary: nothing, a byte, a cache line, a page, many pages.
pub const SIZES: [usize; 7] = [0, 1, 63, 64, 4095, 4096, 1 << 20];

/// The largest size that is tried.
pub const HUGE: usize = 64 << 20;

/// Fails with both values and what they are of, unless they are equal.
macro_rules! check_eq {
    ($got:expr, $expected:expr, $($what:tt)+) => {{
        let (got, expected) = (&$got, &$expected);
        if *got != *expected {
            anyhow::bail!("{}: {:?} instead of {:?}", format_args!($($what)+), got, expected);
        }
    }};
}
pub(super) use check_eq;

/// Fails unless `result` is a refusal with this errno.
pub fn refused<T>(result: verbena::Result<T>, errno: Errno, what: &str) -> Result<()> {
    match result {
        Ok(_) => bail!("{what} was accepted"),
        Err(e) if e.errno() == Some(errno) => Ok(()),
        Err(e) => bail!("{what}: {errno:?} expected, not: {e}"),
    }
}

/// A connection that gives up soon.
pub fn impatient() -> Spec {
    Spec {
        connect: ConnectOptions {
            timeout: 9,
            retry_cnt: 1,
            rnr_retry: 1,
            ..ConnectOptions::default()
        },
        ..Spec::default()
    }
}

/// Fails if anything completes within [`QUIET`].
pub fn quiet(cq: &mut CompletionQueue, what: &str) -> Result<()> {
    match cq.poll_timeout(QUIET)? {
        None => Ok(()),
        Some(completion) => bail!("{what}: nothing should complete, but {completion:?} did"),
    }
}

/// The device's dump, to be asked for objects.
pub struct Dump(serde_json::Value);

/// Takes a dump of the device.
pub fn dump(ctx: &Context) -> Result<Dump> {
    Ok(Dump(serde_json::from_str(&ctx.dump()?)?))
}

impl Dump {
    /// Whether it shows a queue pair of this number.
    pub fn has_qp(&self, qpn: u32) -> bool {
        self.has("qps", "qpn", qpn)
    }

    /// Whether it shows a completion queue of this number.
    pub fn has_cq(&self, cqn: u32) -> bool {
        self.has("cqs", "cqn", cqn)
    }

    /// Whether it shows the region with this local key. Dumps name regions by their keys' indices.
    pub fn has_mr(&self, lkey: Key) -> bool {
        self.has("mrs", "index", lkey.index())
    }

    /// What it shows of a queue pair.
    pub fn qp(&self, qpn: u32) -> Option<&serde_json::Value> {
        let mut all = self.list("qps").iter();
        all.find(|qp| qp["qpn"].as_u64() == Some(qpn.into()))
    }

    /// Queue pairs, completion queues and regions that it shows.
    pub fn counts(&self) -> [usize; 3] {
        ["qps", "cqs", "mrs"].map(|list| self.list(list).len())
    }

    fn has(&self, list: &str, member: &str, number: u32) -> bool {
        self.list(list)
            .iter()
            .any(|object| object[member].as_u64() == Some(number.into()))
    }

    /// A list of objects; one that is empty is left out of the dump.
    fn list(&self, name: &str) -> &[serde_json::Value] {
        self.0[name].as_array().map_or(&[], Vec::as_slice)
    }
}

/// The iteration of the pattern that lies where no message belongs.
const BACKGROUND: u64 = u64::MAX;

/// Where the bytes of one message lie in a region: pieces, in the message's order, that do not overlap.
#[derive(Clone, Debug)]
pub struct Layout(Vec<Range<usize>>);

impl Layout {
    /// In one piece.
    pub fn whole(at: usize, len: usize) -> Self {
        Self(std::iter::once(at..at + len).collect())
    }

    /// In pieces of these lengths, from `at` on, with `gap` bytes between them; every other piece lies in the second
    /// half, so that the message's order is not the memory's.
    pub fn pieces(at: usize, gap: usize, lengths: &[usize]) -> Self {
        let mut ranges = vec![0..0; lengths.len()];
        let mut place = at;
        for half in 0..2 {
            for (range, &len) in ranges.iter_mut().zip(lengths).skip(half).step_by(2) {
                *range = place..place + len;
                place += len + gap;
            }
        }
        Self(ranges)
    }

    /// The same places, each with only so many bytes.
    pub fn shortened(&self, lengths: &[usize]) -> Self {
        Self(
            self.0
                .iter()
                .zip(lengths)
                .map(|(range, &len)| range.start..range.start + len)
                .collect(),
        )
    }

    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// Where the last piece ends.
    pub fn end(&self) -> usize {
        self.0.iter().map(|r| r.end).max().unwrap_or(0)
    }

    /// Where the first piece begins, in the message's order.
    pub fn start(&self) -> usize {
        self.0.first().map_or(0, |r| r.start)
    }

    /// As scatter/gather elements.
    pub fn sges(&self, region: &Region) -> Vec<Sge> {
        self.0.iter().map(|r| region.sge(r.clone())).collect()
    }

    /// Fills the whole region with background.
    pub fn clear(&self, region: &Region) {
        let len = region.buffer().len();
        pattern::fill_buffer(region.buffer(), 0, len, 0, BACKGROUND);
    }

    /// Fills the whole region with background, and the pieces with the message of this iteration.
    pub fn put(&self, region: &Region, iteration: u64) {
        self.clear(region);
        let mut at = 0;
        for range in &self.0 {
            pattern::fill_buffer(region.buffer(), range.start, range.len(), at, iteration);
            at += range.len() as u64;
        }
    }

    /// Fails unless the region holds the first `len` bytes of the iteration's message in the pieces, and everywhere else
    /// background.
    pub fn verify(&self, region: &Region, len: usize, iteration: u64) -> Result<()> {
        let mut at = 0;
        let mut taken = Vec::new();
        for range in &self.0 {
            let here = range.len().min(len - at);
            let wrong = pattern::difference_in_buffer(region.buffer(), range.start, here, at as u64, iteration);
            if let Some(wrong) = wrong {
                bail!(
                    "byte {} of {len} of the message is wrong (byte {wrong} of the buffer)",
                    at + wrong - range.start
                );
            }
            at += here;
            taken.push(range.start..range.start + here);
        }
        ensure!(at == len, "the layout has {at} bytes, the message {len}");
        taken.sort_by_key(|r| r.start);
        let mut from = 0;
        let size = region.buffer().len();
        for range in taken.into_iter().chain(std::iter::once(size..size)) {
            let gap = range.start - from;
            if let Some(wrong) = pattern::difference_in_buffer(region.buffer(), from, gap, from as u64, BACKGROUND) {
                bail!("byte {wrong} of the buffer was written, which is outside the message of {len} bytes");
            }
            from = range.end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn pieces_do_not_overlap_and_keep_the_order_of_the_message() {
        let layout = Layout::pieces(100, 3, &[5, 0, 7, 9]);
        assert_eq!(layout.0, [100..105, 118..118, 108..115, 121..130]);
        assert_eq!((layout.len(), layout.start(), layout.end()), (21, 100, 130));
    }
}
