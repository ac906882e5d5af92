// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects by number.
//!
//! A number is 24 bits: a slot in the lower 17, the slot's generation in the upper 7. A slot's next object has another
//! number, so that a number which outlived its object names nothing rather than somebody else.

use core::num::NonZeroU32;
use std::collections::VecDeque;

const SLOT_BITS: u32 = 17;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const GENERATIONS: u8 = 128;

/// The most slots that a number can name.
pub(crate) const MAX_SLOTS: u32 = 1 << SLOT_BITS;

struct Slot<T> {
    /// 1 to 127: number 0 is never given out, nor are IBA's management QPNs 0 and 1.
    generation: u8,
    /// Where the object is, if it is on loan to a worker.
    place: Option<Place>,
    value: Option<T>,
}

/// An object's place among the loans: whose, and the position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(NonZeroU32);

impl Place {
    const POSITION_BITS: u32 = 16;

    /// # Panics
    ///
    /// If a loan is larger than any is.
    pub(crate) fn new(worker: usize, position: usize) -> Self {
        assert!(worker < 1 << (31 - Self::POSITION_BITS) && position < 1 << Self::POSITION_BITS);
        let place = (worker as u32 + 1) << Self::POSITION_BITS | position as u32;
        Self(NonZeroU32::new(place).expect("a worker's number plus one is not zero"))
    }

    pub(crate) fn worker(self) -> usize {
        (self.0.get() >> Self::POSITION_BITS) as usize - 1
    }

    pub(crate) fn position(self) -> usize {
        (self.0.get() & ((1 << Self::POSITION_BITS) - 1)) as usize
    }
}

/// The objects of one kind of one HCA.
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: VecDeque<u32>,
    limit: u32,
}

impl<T> Table<T> {
    pub(crate) fn new(limit: u32) -> Self {
        assert!(limit <= MAX_SLOTS);
        Self {
            slots: Vec::new(),
            free: VecDeque::new(),
            limit,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether another object fits.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < self.limit as usize
    }

    /// Stores what `make` makes of its future number.
    ///
    /// # Panics
    ///
    /// If there is no room: the caller has asked.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> u32 {
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None => {
                assert!(self.slots.len() < self.limit as usize);
                self.slots.push(Slot {
                    generation: 1,
                    place: None,
                    value: None,
                });
                (self.slots.len() - 1) as u32
            }
        };
        let entry = &mut self.slots[slot as usize];
        let number = u32::from(entry.generation) << SLOT_BITS | slot;
        entry.value = Some(make(number));
        number
    }

    #[inline]
    fn slot(&self, number: u32) -> Option<&Slot<T>> {
        let slot = self.slots.get((number & SLOT_MASK) as usize)?;
        (u32::from(slot.generation) == number >> SLOT_BITS).then_some(slot)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.slot(number)?.value.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut((number & SLOT_MASK) as usize)?;
        if u32::from(slot.generation) != number >> SLOT_BITS {
            return None;
        }
        slot.value.as_mut()
    }

    /// Takes an object out for a short time; its number stays its own, and names nothing until [`Table::give_back`].
    #[inline]
    pub(crate) fn lend(&mut self, number: u32) -> Option<T> {
        let slot = self.slots.get_mut((number & SLOT_MASK) as usize)?;
        if u32::from(slot.generation) != number >> SLOT_BITS {
            return None;
        }
        slot.value.take()
    }

    /// Takes an object out to a place where [`Table::place`] finds it.
    pub(crate) fn lend_to(&mut self, number: u32, place: Place) -> Option<T> {
        let value = self.lend(number)?;
        self.slots[(number & SLOT_MASK) as usize].place = Some(place);
        Some(value)
    }

    /// Where an object is that was lent to a place.
    pub(crate) fn place(&self, number: u32) -> Option<Place> {
        self.slot(number)?.place
    }

    /// Puts a lent object back.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    #[inline]
    pub(crate) fn give_back(&mut self, number: u32, value: T) {
        let slot = &mut self.slots[(number & SLOT_MASK) as usize];
        debug_assert!(u32::from(slot.generation) == number >> SLOT_BITS && slot.value.is_none());
        slot.value = Some(value);
        slot.place = None;
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let index = number & SLOT_MASK;
        let slot = self.slots.get_mut(index as usize)?;
        if u32::from(slot.generation) != number >> SLOT_BITS {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = if slot.generation + 1 == GENERATIONS {
            1
        } else {
            slot.generation + 1
        };
        self.free.push_back(index);
        Some(value)
    }

    /// Every object, with its number, in the order of slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| {
            let number = u32::from(slot.generation) << SLOT_BITS | i as u32;
            slot.value.as_ref().map(|value| (number, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h14_a_number_does_not_outlive_its_object() {
        let mut table = Table::new(4);
        let a = table.insert_with(|_| 'a');
        assert_eq!(table.remove(a), Some('a'));
        let b = table.insert_with(|_| 'b');
        assert_ne!(a, b);
        assert_eq!(table.get(a), None);
        assert_eq!(table.get(b), Some(&'b'));
        assert_eq!(table.remove(a), None);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn p03_what_is_on_loan_is_found_in_its_place_only() {
        let mut table = Table::new(4);
        let a = table.insert_with(|_| 'a');
        let place = Place::new(15, 200);
        assert_eq!((place.worker(), place.position()), (15, 200));
        assert_eq!(table.lend_to(a, place), Some('a'));
        assert_eq!((table.get(a), table.place(a)), (None, Some(place)));
        assert_eq!(table.lend_to(a, Place::new(0, 0)), None);
        assert_eq!(table.place(a), Some(place), "it is where it was");
        table.give_back(a, 'a');
        assert_eq!((table.get(a), table.place(a)), (Some(&'a'), None));
    }

    #[test]
    fn generations_never_reach_zero() {
        let mut table = Table::new(1);
        for _ in 0..1000 {
            assert!(table.has_room());
            let n = table.insert_with(|n| n);
            assert!(n > 1 && n < 1 << 24);
            assert!(!table.has_room());
            table.remove(n);
        }
    }
}
