// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! From the device's number to what it stands for: how an event finds its object.
//!
//! Open addressing with linear probing in a power-of-two table that is never more than three quarters full; removal
//! moves followers up, so there are no tombstones. The device chooses the numbers, one process can make it hand out
//! any pattern of them, so they are mixed before use.

use rdma_uapi::sys::{NoMemory, Vec};

/// A table from `(kind, number)` to `T`.
pub(crate) struct Numbers<T> {
    entries: Vec<Option<(u64, T)>>,
    used: usize,
}

/// What is numbered: numbers of different kinds are different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cq = 1,
    Qp = 2,
    Srq = 3,
    /// Communication ids, by their number in the communication manager.
    CmId = 64,
}

fn key(kind: Kind, number: u32) -> u64 {
    (kind as u64) << 32 | u64::from(number)
}

impl<T> Numbers<T> {
    /// Bytes of an entry, its share of the free ones included: after growing, not half of them are used.
    pub(crate) const ENTRY: usize = 2 * size_of::<Option<(u64, T)>>();

    /// An empty one; takes no memory.
    pub(crate) const fn new() -> Self {
        Numbers {
            entries: Vec::new(),
            used: 0,
        }
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    fn home(&self, key: u64) -> usize {
        // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & self.mask()
    }

    fn find(&self, key: u64) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        let mut place = self.home(key);
        while let Some((there, _)) = &self.entries[place] {
            if *there == key {
                return Some(place);
            }
            place = (place + 1) & self.mask();
        }
        None
    }

    /// What the number stands for.
    pub(crate) fn get(&self, kind: Kind, number: u32) -> Option<&T> {
        let place = self.find(key(kind, number))?;
        self.entries[place].as_ref().map(|(_, value)| value)
    }

    /// As [`Numbers::get`], to change it.
    pub(crate) fn get_mut(&mut self, kind: Kind, number: u32) -> Option<&mut T> {
        let place = self.find(key(kind, number))?;
        self.entries[place].as_mut().map(|(_, value)| value)
    }

    /// Makes room for one more, so that the next [`Numbers::insert`] cannot fail.
    ///
    /// # Errors
    ///
    /// No memory.
    fn make_room(&mut self) -> Result<(), NoMemory> {
        if (self.used + 1) * 4 <= self.entries.len() * 3 {
            return Ok(());
        }
        let size = (self.entries.len() * 2).max(16);
        let mut entries = Vec::new();
        entries.reserve(size)?;
        for _ in 0..size {
            entries.push(None)?;
        }
        let mut old = core::mem::replace(&mut self.entries, entries);
        while let Some(entry) = old.pop() {
            if let Some((key, value)) = entry {
                self.place(key, value);
            }
        }
        Ok(())
    }

    fn place(&mut self, key: u64, value: T) {
        let mut place = self.home(key);
        while self.entries[place].is_some() {
            place = (place + 1) & self.mask();
        }
        self.entries[place] = Some((key, value));
    }

    /// Notes what the number stands for. The number is not in the table: the device gives each out once.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(crate) fn insert(&mut self, kind: Kind, number: u32, value: T) -> Result<(), NoMemory> {
        self.make_room()?;
        self.place(key(kind, number), value);
        self.used += 1;
        Ok(())
    }

    /// Gives everything away.
    pub(crate) fn each(mut self, mut f: impl FnMut(T)) {
        while let Some(entry) = self.entries.pop() {
            if let Some((_, value)) = entry {
                f(value);
            }
        }
    }

    /// Forgets a number and returns what it stood for.
    pub(crate) fn remove(&mut self, kind: Kind, number: u32) -> Option<T> {
        let mut hole = self.find(key(kind, number))?;
        let (_, value) = self.entries[hole].take()?;
        self.used -= 1;
        let mut next = (hole + 1) & self.mask();
        while let Some((key, _)) = &self.entries[next] {
            // An entry may move up to the hole unless its home lies after the hole on the way to where it is.
            let distance = next.wrapping_sub(self.home(*key)) & self.mask();
            if distance >= (next.wrapping_sub(hole) & self.mask()) {
                self.entries.swap(hole, next);
                hole = next;
            }
            next = (next + 1) & self.mask();
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn h12_a_number_finds_what_it_stands_for_through_growth_and_removal() {
        let mut table = Numbers::new();
        let mut model = HashMap::new();
        let mut random = 12345u64;
        for step in 0..20_000u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (random >> 40) as u32 % 600;
            let kind = if random >> 63 == 0 { Kind::Cq } else { Kind::Qp };
            if let Some(expected) = model.remove(&(kind as u32, number)) {
                assert_eq!(table.remove(kind, number), Some(expected));
            } else {
                assert_eq!(table.remove(kind, number), None);
                table.insert(kind, number, step).unwrap();
                model.insert((kind as u32, number), step);
            }
            let probe = (random >> 20) as u32 % 600;
            assert_eq!(table.get(Kind::Qp, probe), model.get(&(Kind::Qp as u32, probe)));
        }
        assert_eq!(table.used, model.len());
    }
}
