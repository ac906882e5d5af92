// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! At most one deadline a slot, in a binary heap that knows where each slot's is: setting, moving and clearing take
//! logarithmic time and no memory.

use rdma_uapi::sys::{NoMemory, Vec};

/// No deadline.
const NOWHERE: u32 = u32::MAX;

/// The heap.
pub(crate) struct Timers {
    heap: Vec<(u64, u32)>,
    /// Where in the heap each slot's deadline is.
    places: Vec<u32>,
}

impl Timers {
    pub(crate) const fn new() -> Self {
        Timers {
            heap: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Makes room for one more slot.
    pub(crate) fn grow(&mut self) -> Result<(), NoMemory> {
        let more = self.places.len() + 1 - self.heap.len();
        self.heap.reserve(more)?;
        self.places.push(NOWHERE)
    }

    /// The earliest deadline and its slot.
    pub(crate) fn first(&self) -> Option<(u64, usize)> {
        self.heap.first().map(|&(deadline, slot)| (deadline, slot as usize))
    }

    /// Gives the slot this deadline, or none.
    pub(crate) fn set(&mut self, slot: usize, deadline: Option<u64>) {
        let place = self.places[slot];
        match (place, deadline) {
            (NOWHERE, None) => {}
            (NOWHERE, Some(deadline)) => {
                let place = self.heap.len();
                let Ok(()) = self.heap.push((deadline, slot as u32)) else {
                    unreachable!("room was made with the slot")
                };
                self.places[slot] = place as u32;
                self.settle(place);
            }
            (place, Some(deadline)) => {
                self.heap[place as usize].0 = deadline;
                self.settle(place as usize);
            }
            (place, None) => {
                self.places[slot] = NOWHERE;
                self.heap.swap_remove(place as usize);
                if (place as usize) < self.heap.len() {
                    self.places[self.heap[place as usize].1 as usize] = place;
                    self.settle(place as usize);
                }
            }
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32;
        self.places[self.heap[b].1 as usize] = b as u32;
    }

    /// Moves what is at `place` to where it belongs.
    fn settle(&mut self, mut place: usize) {
        while place > 0 && self.heap[place].0 < self.heap[(place - 1) / 2].0 {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        loop {
            let children = [2 * place + 1, 2 * place + 2].into_iter();
            let least = children
                .filter(|&child| child < self.heap.len())
                .min_by_key(|&child| self.heap[child].0);
            match least {
                Some(child) if self.heap[child].0 < self.heap[place].0 => {
                    self.swap(place, child);
                    place = child;
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn u18_the_earliest_deadline_is_the_first_whatever_was_set_moved_and_cleared() {
        let mut timers = Timers::new();
        let mut model = BTreeMap::new();
        for _ in 0..200 {
            timers.grow().unwrap();
        }
        let mut random = 7u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = (random >> 20) as usize % 200;
            let deadline = (random >> 63 == 0).then_some(random >> 40);
            timers.set(slot, deadline);
            match deadline {
                Some(deadline) => model.insert(slot, deadline),
                None => model.remove(&slot),
            };
            let first = model.values().min().copied();
            assert_eq!(timers.first().map(|(deadline, _)| deadline), first);
            if let Some((deadline, slot)) = timers.first() {
                assert_eq!(model[&slot], deadline);
            }
        }
    }
}
