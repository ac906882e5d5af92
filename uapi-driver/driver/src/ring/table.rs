// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a completion finds its queue pair: by the cookie that the device returns in every entry.
//!
//! The table belongs to a context and is read by every poll, without a lock: its chunks are made once and never move.
//! A cookie is an index and a generation. Destroying a queue pair moves its slot's generation on, so completions that
//! still lie in a queue when their queue pair is gone are recognised, even if its number and slot serve another one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const LOG_CHUNK: u32 = 10;
const CHUNK: usize = 1 << LOG_CHUNK;
const CHUNKS: usize = 1 << 10;

/// What a poll leaves for the poster, on a cache line that no other queue pair shares.
#[derive(Default)]
#[repr(align(64))]
struct Slot {
    /// Odd while a queue pair has it.
    generation: AtomicU32,
    /// The device's consumer counters as the completions told them: entries before them are free.
    consumed: [AtomicU32; 2],
}

type Chunk = [Slot; CHUNK];

/// Which of a queue pair's two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Send = 0,
    Recv = 1,
}

/// The table of a context.
pub(crate) struct QpTable {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    returned: Vec<u32>,
    fresh: u32,
}

impl QpTable {
    pub(crate) fn new() -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            free: Mutex::default(),
        }
    }

    /// A slot for a new queue pair; `None` when there is none left (a million of them).
    pub(crate) fn claim(self: &Arc<Self>) -> Option<QpSlot> {
        let index = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            match free.returned.pop() {
                Some(index) => index,
                None if (free.fresh as usize) < CHUNKS * CHUNK => {
                    free.fresh += 1;
                    free.fresh - 1
                }
                None => return None,
            }
        };
        let chunk =
            self.chunks[index as usize >> LOG_CHUNK].get_or_init(|| Box::new(std::array::from_fn(|_| Slot::default())));
        let slot = &chunk[index as usize % CHUNK];
        slot.consumed[0].store(0, Ordering::Relaxed);
        slot.consumed[1].store(0, Ordering::Relaxed);
        // Release: whoever finds the new generation finds the counters of zero as well.
        let generation = slot.generation.fetch_add(1, Ordering::Release).wrapping_add(1);
        debug_assert_eq!(generation % 2, 1);
        Some(QpSlot {
            table: self.clone(),
            index,
            generation,
        })
    }

    /// Takes note that the queue pair of `cookie` has consumed its `side` up to `consumed`; false if there is no such
    /// queue pair any more: the completion is stale.
    #[inline(always)]
    pub(crate) fn consume(&self, cookie: u64, side: Side, consumed: u32) -> bool {
        let Some(slot) = self.find(cookie as u32) else {
            return false;
        };
        let generation = (cookie >> 32) as u32;
        if generation % 2 == 0 || slot.generation.load(Ordering::Acquire) != generation {
            return false;
        }
        // Release: the poster's acquire of the counter orders its new entries after the device's reading of the old
        // ones, which the completion reported.
        slot.consumed[side as usize].store(consumed, Ordering::Release);
        true
    }

    #[inline(always)]
    fn find(&self, index: u32) -> Option<&Slot> {
        let chunk = self.chunks.get((index >> LOG_CHUNK) as usize)?.get()?;
        Some(&chunk[index as usize % CHUNK])
    }
}

/// A queue pair's slot in the table, given back when dropped.
pub(crate) struct QpSlot {
    table: Arc<QpTable>,
    index: u32,
    generation: u32,
}

impl QpSlot {
    /// What the device returns in completions.
    pub(crate) fn cookie(&self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The device's consumer counter of `side`, as far as completions have been polled.
    #[inline]
    pub(crate) fn consumed(&self, side: Side) -> u32 {
        // Acquire: see `QpTable::consume`.
        self.slot().consumed[side as usize].load(Ordering::Acquire)
    }

    /// Both counters back to zero, as the device's are in RESET.
    pub(crate) fn reset(&self) {
        self.slot().consumed.iter().for_each(|c| c.store(0, Ordering::Release));
    }

    #[inline]
    fn slot(&self) -> &Slot {
        self.table.find(self.index).expect("the chunk of a claimed slot exists")
    }
}

impl Drop for QpSlot {
    fn drop(&mut self) {
        self.slot().generation.fetch_add(1, Ordering::Release);
        let mut free = self.table.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.returned.push(self.index);
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
