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
use crate::sys::{try_box, Box};
use crate::wire::{self, AttrHead, ByPointer, DriverId, ATTR_HEAD, HEADER};
use zerocopy::{FromBytes, IntoBytes};

/// Attributes that one method can have, the driver's included: bits of a word, of which the first means "unknown".
pub const MAX_SLOTS: usize = 63;

/// Places in an index: one a slot, and one that is never used.
const PLACES: usize = MAX_SLOTS + 1;

/// A message in words, which is how it is aligned.
pub type Words = [[u8; wire::ALIGN]];

const NUMBERS: usize = wire::ATTR_NUMBERS as usize;

/// What the parser must know of an attribute: as little as it takes, because this is read for every attribute of every
/// message.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The head of the attribute as it almost always comes: inline, as long as is known. What has no length of its own
    /// (arrays, texts), and what is unknown, has a head that never comes.
    plain: u64,
    /// The shortest length, head included, that needs no further thought; for an output, whose payload is only room, the
    /// head's.
    least: u16,
    /// How much longer it may be without further thought.
    span: u16,
    /// Words that it takes when it comes with its plain head.
    words: u16,
    /// Bits of the attribute's schema.
    flags: u8,
    /// Its bit in the index; 0 is unknown.
    slot: u8,
}

/// What is not there: no length is right for it.
const UNKNOWN: Entry = Entry {
    plain: u64::MAX,
    least: u16::MAX,
    span: 0,
    words: 0,
    flags: 0,
    slot: 0,
};

/// A method's attributes as the parser wants them: what there is to know of each, found by one indexed load.
#[derive(Debug)]
pub struct Layout {
    common: [Entry; NUMBERS],
    own: Option<Box<[Entry; NUMBERS]>>,
    count: u16,
    driver: u8,
    required: u64,
}

impl Layout {
    /// Of a method without attributes.
    pub const fn new(driver: DriverId) -> Self {
        Layout {
            common: [UNKNOWN; NUMBERS],
            own: None,
            count: 0,
            driver: driver.0,
            required: 0,
        }
    }

    /// Adds an attribute.
    ///
    /// # Errors
    ///
    /// Its id is taken, another driver's, or there are too many; no memory.
    pub fn add(&mut self, attr: &AttrSchema) -> Result<(), NotAdded> {
        let id = attr.spec.id;
        let tag = id & !(wire::ATTR_NUMBERS - 1);
        if tag != 0 && tag != self.own_tag() || usize::from(self.count) == MAX_SLOTS {
            return Err(NotAdded::BadId);
        }
        let entries = match &mut self.own {
            _ if tag == 0 => &mut self.common,
            Some(own) => &mut **own,
            own => &mut **own.insert(try_box([UNKNOWN; NUMBERS]).map_err(|_| NotAdded::NoMemory)?),
        };
        let entry = &mut entries[usize::from(id) % NUMBERS];
        if entry.slot != 0 {
            return Err(NotAdded::BadId);
        }
        let input = attr.flags & attr_flags::IN != 0;
        let (min, size) = if input { (attr.min, attr.size) } else { (0, UNBOUNDED) };
        let size = size.saturating_add(ATTR_HEAD as u16);
        self.count += 1;
        if attr.flags & attr_flags::REQUIRED != 0 {
            self.required |= 1 << self.count;
        }
        let least = ATTR_HEAD as u16 + min;
        *entry = Entry {
            plain: match attr.size {
                UNBOUNDED => u64::MAX,
                known => plain(ATTR_HEAD as u16 + known, id),
            },
            least,
            span: size.saturating_sub(least),
            // What has no length of its own has no plain head either.
            words: (wire::align(ATTR_HEAD + usize::from(attr.size)) / wire::ALIGN) as u16,
            // The flags that there are fit, and so do the slots.
            flags: attr.flags as u8,
            slot: self.count as u8,
        };
        Ok(())
    }

    /// What the ids of the driver's own attributes begin with.
    fn own_tag(&self) -> u16 {
        wire::driver_attr(DriverId(self.driver), 0)
    }

    /// What there is to know of an attribute, by its id without flags.
    #[inline]
    fn entry(&self, id: u16) -> Entry {
        match self.common.get(usize::from(id)) {
            Some(entry) => *entry,
            None => self.own_entry(id),
        }
    }

    #[inline(never)]
    fn own_entry(&self, id: u16) -> Entry {
        match &self.own {
            Some(own) if id & !(wire::ATTR_NUMBERS - 1) == self.own_tag() => own[usize::from(id) % NUMBERS],
            _ => UNKNOWN,
        }
    }

    /// The slot of an attribute, by its id without flags; 0 if there is no such attribute.
    #[inline]
    pub fn slot(&self, id: u16) -> usize {
        usize::from(self.entry(id).slot)
    }

    /// The id of the attribute in a slot.
    fn id(&self, slot: usize) -> u16 {
        let find = |entries: &[Entry; NUMBERS]| entries.iter().position(|entry| usize::from(entry.slot) == slot);
        match (find(&self.common), self.own.as_ref().and_then(|own| find(own))) {
            (Some(number), _) => number as u16,
            (None, Some(number)) => self.own_tag() | number as u16,
            (None, None) => wire::FIELD_NONE,
        }
    }
}

/// Why an attribute cannot be added to a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// Its id is taken, out of range, or another driver's; or there are too many.
    BadId,
    /// No memory.
    NoMemory,
}

/// Which attributes a message has, and at which word each begins.
#[derive(Debug)]
pub struct Index {
    present: u64,
    at: [u16; PLACES],
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
        at: [0; PLACES],
    };

    /// Whether the slot's attribute is there.
    #[inline]
    pub fn has(&self, slot: usize) -> bool {
        slot != 0 && slot < PLACES && self.present >> slot & 1 != 0
    }

    /// The slot's attribute in `message`, which must be the one that was parsed.
    #[inline]
    pub fn find(&self, message: &[u8], slot: usize) -> Option<Found> {
        if !self.has(slot) {
            return None;
        }
        let offset = usize::from(self.at[slot]) * wire::ALIGN;
        let (head, _) = AttrHead::read_from_prefix(message.get(offset..)?).ok()?;
        Some(Found {
            offset: offset as u16,
            start: offset + ATTR_HEAD,
            end: offset + usize::from(head.length),
            by_pointer: head.id & wire::ATTR_BY_POINTER != 0,
        })
    }
}

/// Checks every attribute of a message (whose header has been checked) against `layout`, and notes in `index`, which
/// must be empty, where each is.
///
/// Most messages are plainly right: common attributes, inline, just as long as is known, each once. That is found out with as
/// few instructions as it takes and without naming what is wrong; any other message is gone through again, carefully.
///
/// # Errors
///
/// The first attribute that breaks a rule, by id and offset; then a required one that is missing.
#[inline]
pub fn attributes(words: &Words, layout: &Layout, index: &mut Index) -> Outcome {
    if plainly::<false>(words, layout, index) {
        return Ok(());
    }
    otherwise(words, layout, index)
}

/// A message that is not of common attributes alone, or not plainly right.
#[inline(never)]
fn otherwise(words: &Words, layout: &Layout, index: &mut Index) -> Outcome {
    if layout.own.is_some() && plainly::<true>(words, layout, index) {
        return Ok(());
    }
    carefully(words, layout, index)
}

/// An attribute's head without the mandatory bit, which the parser does not ask for in what it knows.
const fn plain(length: u16, id: u16) -> u64 {
    zerocopy::transmute!(AttrHead { length, id, result: 0 })
}

/// The bits of an id that only a driver's own attributes have.
const OWN_TAG: u16 = wire::ATTR_ID & !(wire::ATTR_NUMBERS - 1);

/// All bits of an attribute's head but the mandatory one.
const PLAIN: u64 = !plain(0, wire::ATTR_MANDATORY);

/// Whether the message is plainly right; if so, `index` is complete. With `OWN`, the driver's own attributes may be in it.
#[inline]
fn plainly<const OWN: bool>(words: &Words, layout: &Layout, index: &mut Index) -> bool {
    // "Unknown" has the first bit, which is there from the start.
    let mut present = 1u64;
    let mut at = HEADER / wire::ALIGN;
    while let Some(&word) = words.get(at) {
        let head: AttrHead = zerocopy::transmute!(word);
        let bits: u64 = zerocopy::transmute!(word);
        let mut entry = &layout.common[usize::from(head.id) % NUMBERS];
        if OWN && head.id & OWN_TAG != 0 {
            match &layout.own {
                // What its plain head is says whose it is.
                Some(own) => entry = &own[usize::from(head.id) % NUMBERS],
                None => return false,
            }
        }
        let slot = usize::from(entry.slot) % PLACES;
        // The first time through, the index is empty, and says itself what was there already: an instruction less.
        if bits & PLAIN != entry.plain || (!OWN && index.at[slot] != 0) || (OWN && present >> slot & 1 != 0) {
            return false;
        }
        present |= 1 << slot;
        index.at[slot] = at as u16;
        at += usize::from(entry.words);
        let length = usize::from(head.length);
        if length % wire::ALIGN != 0 && padding(words, at, length) != 0 {
            return false;
        }
    }
    index.present = present;
    layout.required & !present == 0 && at == words.len()
}

/// Goes through the message by all the rules.
#[inline(never)]
fn carefully(words: &Words, layout: &Layout, index: &mut Index) -> Outcome {
    index.present = 1;
    let mut at = HEADER / wire::ALIGN;
    while at < words.len() {
        at = attribute(words, at, layout, index)?;
    }
    let missing = layout.required & !index.present;
    if missing != 0 {
        let id = layout.id(missing.trailing_zeros() as usize);
        return Err(Failure::new(Errno::EINVAL, Reason::MISSING).at(id, 0));
    }
    Ok(())
}

/// The bytes between an attribute's end and the next word.
#[inline]
fn padding(words: &Words, next: usize, length: usize) -> u64 {
    match length % wire::ALIGN {
        0 => 0,
        // Little endian whatever the machine: the padding is the word's last bytes.
        used => words
            .get(next - 1)
            .map_or(0, |&word| u64::from_le_bytes(word) >> (8 * used)),
    }
}

/// Checks one attribute, notes it, and says where the next one is.
fn attribute(words: &Words, at: usize, layout: &Layout, index: &mut Index) -> Outcome<usize> {
    let head: AttrHead = zerocopy::transmute!(words[at]);
    let (id, offset) = (head.id & wire::ATTR_ID, at * wire::ALIGN);
    let length = usize::from(head.length);
    let next = at + wire::align(length) / wire::ALIGN;
    if length < ATTR_HEAD {
        return Err(invalid(Reason::SHORT_ATTR, id, offset));
    }
    if next > words.len() {
        return Err(invalid(Reason::ATTR_PAST_END, id, offset));
    }
    if head.result != 0 || padding(words, next, length) != 0 {
        return Err(invalid(Reason::NOT_ZERO, id, offset));
    }
    let known = layout.entry(id);
    if known.slot == 0 {
        if head.id & wire::ATTR_MANDATORY == 0 {
            return Ok(next);
        }
        return Err(Failure::new(Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR).at(id, offset as u16));
    }
    if index.present & 1 << known.slot != 0 {
        return Err(invalid(Reason::DUPLICATE, id, offset));
    }
    if head.id & wire::ATTR_BY_POINTER != 0 {
        if u16::from(known.flags) & attr_flags::BY_POINTER == 0 {
            return Err(invalid(Reason::NOT_BY_POINTER, id, offset));
        }
        if length != ATTR_HEAD + size_of::<ByPointer>() {
            return Err(invalid(Reason::SHORT_PAYLOAD, id, offset).detail(size_of::<ByPointer>() as u16));
        }
    } else {
        let head = ATTR_HEAD as u16;
        if length < usize::from(known.least) {
            return Err(invalid(Reason::SHORT_PAYLOAD, id, offset).detail(known.least - head));
        }
        let size = known.least + known.span;
        let tail = words
            .as_bytes()
            .get(offset + usize::from(size)..offset + length)
            .unwrap_or(&[]);
        if tail.iter().any(|&b| b != 0) {
            let failure = Failure::new(Errno::E2BIG, Reason::TAIL_NOT_ZERO);
            return Err(failure.at(id, offset as u16).detail(size - head));
        }
    }
    index.present |= 1 << known.slot;
    index.at[usize::from(known.slot)] = at as u16;
    Ok(next)
}

#[cold]
fn invalid(reason: Reason, attr: u16, at: usize) -> Failure {
    Failure::new(Errno::EINVAL, reason).at(attr, at as u16)
}
