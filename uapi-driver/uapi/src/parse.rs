// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A message's attributes, checked once into a small index: parse, then act.
//!
//! The rules (U5): unknown and mandatory fails naming it; unknown and optional is ignored; longer than known with a
//! zero tail is accepted; a non-zero tail is E2BIG; shorter than the first version is EINVAL; twice is EINVAL. After
//! [`attributes`] a handler can ask for an attribute by its schema and cannot meet a malformed one.
//!
//! Nothing is allocated: the index is one word of presence bits and one 16-bit offset for each slot that a method
//! can have.

use crate::errno::Errno;
use crate::failure::{Failure, Outcome, Reason};
use crate::schema::{attr_flags, AttrSchema, UNBOUNDED};
use crate::wire::{self, AttrHead, ByPointer, DriverId, ATTR_HEAD, HEADER};
use zerocopy::FromBytes;

/// Attributes that one method can have, the driver's included.
pub const MAX_SLOTS: usize = 64;

const NUMBERS: usize = wire::ATTR_NUMBERS as usize;

/// What the parser must know of an attribute.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    min: u16,
    size: u16,
    flags: u16,
}

/// A method's attributes as the parser wants them: a slot for each, found by one indexed load.
#[derive(Debug)]
pub struct Layout {
    /// Slot + 1 by attribute number: common ones, then the driver's; 0 is unknown.
    by_number: [u8; 2 * NUMBERS],
    slots: [Slot; MAX_SLOTS],
    count: u8,
    driver: u8,
    required: u64,
}

impl Layout {
    /// Of a method without attributes.
    pub const fn new(driver: DriverId) -> Self {
        Layout {
            by_number: [0; 2 * NUMBERS],
            slots: [Slot {
                min: 0,
                size: 0,
                flags: 0,
            }; MAX_SLOTS],
            count: 0,
            driver: driver.0,
            required: 0,
        }
    }

    /// Adds an attribute; `false` if its id is taken, another driver's, or there are too many.
    #[must_use]
    pub fn add(&mut self, attr: &AttrSchema) -> bool {
        let Some(number) = self.number(attr.spec.id) else {
            return false;
        };
        if self.by_number[number] != 0 || usize::from(self.count) == MAX_SLOTS {
            return false;
        }
        self.slots[usize::from(self.count)] = Slot {
            min: attr.min,
            size: attr.size,
            flags: attr.flags,
        };
        if attr.flags & attr_flags::REQUIRED != 0 {
            self.required |= 1 << self.count;
        }
        self.count += 1;
        self.by_number[number] = self.count;
        true
    }

    fn number(&self, id: u16) -> Option<usize> {
        let number = id & (wire::ATTR_NUMBERS - 1);
        match id >> 6 {
            0 => Some(usize::from(number)),
            tag if tag == (wire::ATTR_DRIVER >> 6) | u16::from(self.driver) => Some(NUMBERS + usize::from(number)),
            _ => None,
        }
    }

    /// The slot of an attribute, by its id without flags.
    #[inline]
    pub fn slot(&self, id: u16) -> Option<usize> {
        let number = self.number(id)?;
        usize::from(self.by_number[number]).checked_sub(1)
    }

    /// The id of the attribute in a slot.
    fn id(&self, slot: usize) -> u16 {
        let number = self
            .by_number
            .iter()
            .position(|&s| usize::from(s) == slot + 1)
            .unwrap_or(0);
        if number < NUMBERS {
            number as u16
        } else {
            wire::driver_attr(DriverId(self.driver), (number - NUMBERS) as u16)
        }
    }

    /// `attr_flags` of the attribute in a slot.
    pub fn flags(&self, slot: usize) -> u16 {
        self.slots[slot].flags
    }
}

/// Which attributes a message has, and where.
#[derive(Debug)]
pub struct Index {
    present: u64,
    at: [u16; MAX_SLOTS],
}

/// An attribute found in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where its head is.
    pub offset: u16,
    /// Where its payload is.
    pub start: usize,
    /// Where its payload ends.
    pub end: usize,
    /// The payload is a [`ByPointer`].
    pub by_pointer: bool,
}

impl Index {
    /// Of a message without attributes.
    pub const EMPTY: Index = Index {
        present: 0,
        at: [0; MAX_SLOTS],
    };

    /// Whether the slot's attribute is there.
    #[inline]
    pub fn has(&self, slot: usize) -> bool {
        self.present >> slot & 1 != 0
    }

    /// The slot's attribute in `message`, which must be the one that was parsed.
    #[inline]
    pub fn find(&self, message: &[u8], slot: usize) -> Option<Found> {
        if !self.has(slot) {
            return None;
        }
        let offset = usize::from(self.at[slot]);
        let (head, _) = AttrHead::read_from_prefix(message.get(offset..)?).ok()?;
        Some(Found {
            offset: offset as u16,
            start: offset + ATTR_HEAD,
            end: offset + usize::from(head.length),
            by_pointer: head.id & wire::ATTR_BY_POINTER != 0,
        })
    }
}

/// Checks every attribute of `message` (whose header has been checked) against `layout`.
///
/// # Errors
///
/// The first attribute that breaks a rule, by id and offset; then a required one that is missing.
pub fn attributes(message: &[u8], layout: &Layout) -> Outcome<Index> {
    let mut index = Index::EMPTY;
    let mut at = HEADER;
    while at < message.len() {
        at = attribute(message, at, layout, &mut index)?;
    }
    let missing = layout.required & !index.present;
    if missing != 0 {
        let id = layout.id(missing.trailing_zeros() as usize);
        return Err(Failure::new(Errno::EINVAL, Reason::MISSING).at(id, 0));
    }
    Ok(index)
}

/// Checks the attribute at `at`, notes it, and says where the next one is.
#[inline]
fn attribute(message: &[u8], at: usize, layout: &Layout, index: &mut Index) -> Outcome<usize> {
    let Ok((head, _)) = AttrHead::read_from_prefix(&message[at..]) else {
        return Err(invalid(Reason::ATTR_PAST_END, 0, at));
    };
    let id = head.id & wire::ATTR_ID;
    let length = usize::from(head.length);
    if length < ATTR_HEAD {
        return Err(invalid(Reason::SHORT_ATTR, id, at));
    }
    let (start, end) = (at + ATTR_HEAD, at + length);
    let next = at + wire::align(length);
    if next > message.len() {
        return Err(invalid(Reason::ATTR_PAST_END, id, at));
    }
    if head.result != 0 || (end != next && message[end..next].iter().any(|&b| b != 0)) {
        return Err(invalid(Reason::NOT_ZERO, id, at));
    }
    let Some(slot) = layout.slot(id) else {
        if head.id & wire::ATTR_MANDATORY == 0 {
            return Ok(next);
        }
        return Err(Failure::new(Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR).at(id, at as u16));
    };
    if index.has(slot) {
        return Err(invalid(Reason::DUPLICATE, id, at));
    }
    let known = layout.slots[slot];
    if head.id & wire::ATTR_BY_POINTER != 0 {
        if known.flags & attr_flags::BY_POINTER == 0 {
            return Err(invalid(Reason::NOT_BY_POINTER, id, at));
        }
        if end - start != size_of::<ByPointer>() {
            return Err(invalid(Reason::SHORT_PAYLOAD, id, at).detail(size_of::<ByPointer>() as u16));
        }
    } else if known.flags & attr_flags::IN != 0 {
        let payload = end - start;
        if payload < usize::from(known.min) {
            return Err(invalid(Reason::SHORT_PAYLOAD, id, at).detail(known.min));
        }
        if known.size != UNBOUNDED && payload > usize::from(known.size) {
            let tail = &message[start + usize::from(known.size)..end];
            if tail.iter().any(|&b| b != 0) {
                let failure = Failure::new(Errno::E2BIG, Reason::TAIL_NOT_ZERO);
                return Err(failure.at(id, at as u16).detail(known.size));
            }
        }
    }
    index.present |= 1 << slot;
    index.at[slot] = at as u16;
    Ok(next)
}

#[cold]
fn invalid(reason: Reason, attr: u16, at: usize) -> Failure {
    Failure::new(Errno::EINVAL, reason).at(attr, at as u16)
}
