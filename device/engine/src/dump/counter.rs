// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counter sets in a dump.

use super::{CounterDump, Select};
use crate::hca::Hca;
use core::fmt::{self, Display, Formatter};
use serde::Serialize;
use verbena_hw::cmd::SET_COUNTERS;

/// A counter set.
#[derive(Clone, Debug, Serialize)]
pub struct CounterSetDump {
    /// Its number.
    pub number: u32,
    /// Queue pairs that are bound to it.
    pub members: u32,
    /// Its counters by name.
    pub counters: Vec<CounterDump>,
}

/// All of them, or none.
pub(super) fn counter_sets(hca: &Hca, select: Select) -> Vec<CounterSetDump> {
    if select != Select::All {
        return Vec::new();
    }
    let sets = hca.counter_sets.sets.iter();
    sets.map(|(number, set)| CounterSetDump {
        number,
        members: set.members,
        counters: SET_COUNTERS
            .into_iter()
            .zip(set.values)
            .map(|(name, value)| CounterDump { name, value })
            .collect(),
    })
    .collect()
}

impl Display for CounterSetDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "counter set {:#x}, {} queue pairs:", self.number, self.members)?;
        for counter in &self.counters {
            write!(f, " {} {}", counter.name, counter.value)?;
        }
        Ok(())
    }
}
