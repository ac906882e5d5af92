// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a completion finds its queue pair: by the cookie that the device returns in every entry.
//!
//! The table belongs to a context and is read by every poll, without a lock: its chunks are made once and never move.
//! A cookie is an index and a generation, which changes each time the index serves another queue pair. A slot holds
//! the cookie of the queue pair that has it, so completions that still lie in a queue when their queue pair is gone are
//! recognised, even if its number and slot serve another one.

use super::memory::Ring;
use crate::memory::Mapping;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const LOG_CHUNK: u32 = 10;
const CHUNK: usize = 1 << LOG_CHUNK;
const CHUNKS: usize = 1 << 10;

/// What a poll leaves for the poster, on a cache line that no other queue pair shares.
#[repr(align(64))]
struct Slot {
    /// The cookie of the queue pair that has it, or [`free`].
    cookie: AtomicU64,
    /// The device's consumer counters as the completions told them: entries before them are free.
    consumed: [AtomicU32; 2],
}

/// What slot `index` holds when nobody has it: a cookie that is looked for in another slot, and so is found nowhere.
const fn free(index: u32) -> u64 {
    !index as u64
}

type Chunk = [Slot; CHUNK];

/// An array of `N` elements, made where it stays: else it would be made on the stack and copied, 64 KiB of a chunk.
fn in_place<T, const N: usize>(elements: impl Iterator<Item = T>) -> Box<[T; N]> {
    let elements: Box<[T]> = elements.collect();
    elements
        .try_into()
        .ok()
        .expect("there are as many elements as the array has")
}

/// Chunk `n`, of slots that nobody has.
fn chunk(n: usize) -> Box<Chunk> {
    let first = (n << LOG_CHUNK) as u32;
    let slot = |n| Slot {
        cookie: AtomicU64::new(free(first + n)),
        consumed: Default::default(),
    };
    in_place((0..CHUNK as u32).map(slot))
}

/// Which of a queue pair's two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Send = 0,
    Recv = 1,
}

/// The table of a context.
pub(crate) struct QpTable {
    /// The first chunk, apart: most contexts have no other, and a poll is two loads shorter.
    first: Box<Chunk>,
    /// The others; element 0 is never used.
    chunks: Box<[OnceLock<Box<Chunk>>; CHUNKS]>,
    unused: Mutex<Unused>,
}

#[derive(Default)]
struct Unused {
    /// Index and last generation.
    returned: Vec<(u32, u32)>,
    fresh: u32,
}

impl QpTable {
    pub(crate) fn new() -> Self {
        Self {
            first: chunk(0),
            chunks: in_place((0..CHUNKS).map(|_| OnceLock::new())),
            unused: Mutex::default(),
        }
    }

    /// A slot for a new queue pair; `None` when there is none left (a million of them).
    pub(crate) fn claim(self: &Arc<Self>) -> Option<QpSlot> {
        let (index, last) = {
            let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
            match unused.returned.pop() {
                Some(returned) => returned,
                None if (unused.fresh as usize) < CHUNKS * CHUNK => {
                    unused.fresh += 1;
                    (unused.fresh - 1, 0)
                }
                None => return None,
            }
        };
        let generation = last.wrapping_add(1);
        let chunk = match index as usize >> LOG_CHUNK {
            0 => &self.first,
            n => self.chunks[n].get_or_init(|| chunk(n)),
        };
        let slot = &chunk[index as usize % CHUNK];
        slot.consumed[0].store(0, Ordering::Relaxed);
        slot.consumed[1].store(0, Ordering::Relaxed);
        let cookie = u64::from(generation) << 32 | u64::from(index);
        // Release: whoever finds the cookie finds the counters of zero as well.
        slot.cookie.store(cookie, Ordering::Release);
        Some(QpSlot {
            table: self.clone(),
            cookie,
            counted: [None, None],
        })
    }

    /// Takes note that the queue pair of `cookie` has consumed its `side` up to `consumed`; false if there is no such
    /// queue pair any more: the completion is stale.
    #[inline(always)]
    pub(crate) fn consume(&self, cookie: u64, side: Side, consumed: u32) -> bool {
        let Some(slot) = self.find(cookie) else { return false };
        if slot.cookie.load(Ordering::Acquire) != cookie {
            return false;
        }
        // Release: the poster's acquire of the counter orders its new entries after the device's reading of the old
        // ones, which the completion reported.
        slot.consumed[side as usize].store(consumed, Ordering::Release);
        true
    }

    /// The slot where `cookie` would be. An index beyond the table finds some slot, which has another cookie.
    #[inline(always)]
    fn find(&self, cookie: u64) -> Option<&Slot> {
        let index = cookie as u32 as usize;
        if let Some(slot) = self.first.get(index) {
            return Some(slot);
        }
        let chunk = self.chunks[(index >> LOG_CHUNK) % CHUNKS].get()?;
        Some(&chunk[index % CHUNK])
    }
}

/// A queue pair's slot in the table, given back when dropped.
pub(crate) struct QpSlot {
    table: Arc<QpTable>,
    cookie: u64,
    /// Sides whose completions are counted: nobody polls them, the device says itself how far it is.
    counted: [Option<Arc<Places>>; 2],
}

/// Where a completion counter's device says how far it has consumed queue pairs: a word for each, by the lower bits of its cookie.
pub(crate) struct Places(Ring<1>);

impl Places {
    /// `1 << log` of them, from `at` on; `None` if they do not fit their memory.
    pub(crate) fn new(mapping: Arc<Mapping>, at: usize, log: u8) -> Option<Self> {
        Ring::new(mapping, at, log, 3).map(Self)
    }

    fn word(&self, cookie: u64) -> &AtomicU64 {
        &self.0.entry(cookie as u32).0[0]
    }
}

impl QpSlot {
    /// What the device returns in completions.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// From now on completions of `side` are counted there. `false`: it has no place for this queue pair.
    pub(crate) fn count(&mut self, side: Side, places: &Arc<Places>) -> bool {
        if self.cookie as u32 >= places.0.entries() {
            return false;
        }
        // What an earlier queue pair has left.
        places.word(self.cookie).store(0, Ordering::Relaxed);
        self.counted[side as usize] = Some(places.clone());
        true
    }

    /// Whether completions of `side` are counted.
    pub(crate) fn is_counted(&self, side: Side) -> bool {
        self.counted[side as usize].is_some()
    }

    /// The device's consumer counter of `side`, as far as completions have been polled.
    #[inline]
    pub(crate) fn consumed(&self, side: Side) -> u32 {
        if let Some(places) = &self.counted[side as usize] {
            // Acquire: as below, of the device's own word.
            return (places.word(self.cookie).load(Ordering::Acquire) >> (32 * side as u32)) as u32;
        }
        // Acquire: see `QpTable::consume`.
        self.slot().consumed[side as usize].load(Ordering::Acquire)
    }

    /// Both counters back to zero, as the device's are in RESET.
    pub(crate) fn reset(&self) {
        self.slot().consumed.iter().for_each(|c| c.store(0, Ordering::Release));
        for places in self.counted.iter().flatten() {
            places.word(self.cookie).store(0, Ordering::Release);
        }
    }

    #[inline]
    fn slot(&self) -> &Slot {
        self.table
            .find(self.cookie)
            .expect("the chunk of a claimed slot exists")
    }
}

impl Drop for QpSlot {
    fn drop(&mut self) {
        let index = self.cookie as u32;
        self.slot().cookie.store(free(index), Ordering::Release);
        let mut unused = self.table.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.returned.push((index, (self.cookie >> 32) as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u19_completions_of_a_destroyed_queue_pair_are_stale_even_when_its_slot_is_reused() {
        let table = Arc::new(QpTable::new());
        let first = table.claim().unwrap();
        let cookie = first.cookie();
        assert!(table.consume(cookie, Side::Send, 7));
        assert_eq!((first.consumed(Side::Send), first.consumed(Side::Recv)), (7, 0));
        drop(first);
        assert!(!table.consume(cookie, Side::Send, 8));

        let second = table.claim().unwrap();
        assert_eq!(second.cookie() as u32, cookie as u32, "the slot serves again");
        assert_eq!(second.consumed(Side::Send), 0);
        assert!(!table.consume(cookie, Side::Send, 9));
        assert!(table.consume(second.cookie(), Side::Recv, 3));
        assert_eq!((second.consumed(Side::Send), second.consumed(Side::Recv)), (0, 3));
    }

    #[test]
    fn u19_any_cookie_is_harmless() {
        let table = Arc::new(QpTable::new());
        let qp = table.claim().unwrap();
        for cookie in [
            0,
            1,
            u64::MAX,
            u64::from(u32::MAX),
            !1,
            free(0),
            free(1),
            qp.cookie() ^ 1 << 32,
            qp.cookie() | 1 << 20,
        ] {
            assert!(!table.consume(cookie, Side::Send, 1), "{cookie:#x}");
        }
        assert_eq!(qp.consumed(Side::Send), 0);
    }

    #[test]
    fn u19_slots_are_distinct_across_chunks() {
        let table = Arc::new(QpTable::new());
        let all: Vec<_> = (0..3 * CHUNK as u32 / 2).map(|_| table.claim().unwrap()).collect();
        for (i, qp) in all.iter().enumerate() {
            assert!(table.consume(qp.cookie(), Side::Send, i as u32));
        }
        assert!(all
            .iter()
            .enumerate()
            .all(|(i, qp)| qp.consumed(Side::Send) == i as u32));
    }
}
