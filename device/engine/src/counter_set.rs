// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counter sets: objects that count what the queue pairs bound to them do.
//!
//! A queue pair is bound to one set at most. What is counted is counted where the port's own counters are, behind a look at
//! whether any queue pair of the HCA is bound; runs of ordinary messages are counted as one ([`crate::qp::express`]).

use crate::hca::Hca;
use crate::table::Table;
use verbena_hw::cmd::SET_COUNTERS;
use verbena_hw::id::Qpn;

/// Which counter of a set. The discriminant is its position in [`SET_COUNTERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Tally {
    SentMsgs,
    RcvdMsgs,
    SentBytes,
    RcvdBytes,
    CompletionErr,
    FlushedWrs,
}

const _: () = assert!(Tally::FlushedWrs as usize + 1 == SET_COUNTERS.len());

/// A set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CounterSet {
    pub(crate) values: [u64; SET_COUNTERS.len()],
    /// Queue pairs that are bound to it.
    pub(crate) members: u32,
}

/// The sets of an HCA.
pub(crate) struct CounterSets {
    pub(crate) sets: Table<CounterSet>,
    /// Queue pairs that are bound to any.
    members: u32,
}

impl CounterSets {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            sets: Table::new(limit),
            members: 0,
        }
    }

    /// A queue pair joins the set `to` and leaves the set `from`; 0 is none.
    pub(crate) fn moved(&mut self, from: u32, to: u32) {
        if let Some(set) = self.sets.get_mut(from) {
            set.members -= 1;
            self.members -= 1;
        }
        if let Some(set) = self.sets.get_mut(to) {
            set.members += 1;
            self.members += 1;
        }
    }

    #[cold]
    fn add(&mut self, set: u32, what: Tally, n: u64) {
        if let Some(set) = self.sets.get_mut(set) {
            set.values[what as usize] = set.values[what as usize].wrapping_add(n);
        }
    }
}

impl Hca {
    /// Counts for the set of the queue pair, if it is bound to one.
    #[inline]
    pub(crate) fn tally(&mut self, qpn: Qpn, what: Tally, n: u64) {
        if self.counter_sets.members != 0 {
            let set = self.qps.get(qpn.get()).map_or(0, |qp| qp.counter_set);
            self.counter_sets.add(set, what, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h11_a_sets_counters_stand_where_the_format_says() {
        let at = |tally: Tally| SET_COUNTERS[tally as usize];
        assert_eq!(at(Tally::SentMsgs), "sent_msgs");
        assert_eq!(at(Tally::RcvdBytes), "rcvd_bytes");
        assert_eq!(at(Tally::CompletionErr), "completion_err");
        assert_eq!(at(Tally::FlushedWrs), "flushed_wrs");
    }
}
