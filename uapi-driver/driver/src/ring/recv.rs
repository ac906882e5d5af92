// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receive ring as the driver sees it. There is no doorbell: the device reads it when a message arrives.

use super::memory::Ring;
use super::send::store_sges;
use super::table::{QpSlot, Side};
use super::work::{PostError, RecvWr};
use std::sync::atomic::Ordering;
use verbena_hw::ring::{phase, OWNER_PHASE};
use verbena_hw::wqe::RecvHeader;

/// Words of a [`RecvHeader`].
pub(crate) const HEAD: usize = size_of::<RecvHeader>() / 8;

pub(crate) struct RecvRing {
    ring: Ring<HEAD>,
    producer: u32,
    consumed: u32,
    max_sge: u32,
}

impl RecvRing {
    pub(crate) fn new(ring: Ring<HEAD>, max_sge: u32) -> Self {
        Self {
            ring,
            producer: 0,
            consumed: 0,
            max_sge,
        }
    }

    /// Entries.
    pub(crate) fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Posted entries whose completion has not been polled.
    pub(crate) fn outstanding(&self, slot: &QpSlot) -> u32 {
        self.producer.wrapping_sub(slot.consumed(Side::Recv))
    }

    /// Begins again at counter zero with an empty ring, as the device does in RESET.
    pub(crate) fn reset(&mut self) {
        self.ring.clear();
        (self.producer, self.consumed) = (0, 0);
    }

    /// Posts `wr`: visible to the device when this returns.
    #[inline(always)]
    pub(crate) fn push(&mut self, slot: &QpSlot, wr: &RecvWr<'_>) -> Result<(), PostError> {
        self.reserve(slot)?;
        if wr.sges.len() > self.max_sge as usize {
            return Err(PostError::TooManySges { max: self.max_sge });
        }
        let ([word0, word1], body) = self.ring.entry(self.producer);
        store_sges(body, wr.sges)?;
        let words: [u64; HEAD] = zerocopy::transmute!(RecvHeader {
            owner: phase(self.producer, self.ring.log_entries()),
            reserved0: [0; 2],
            num_sge: wr.sges.len() as u8,
            reserved1: 0,
            wr_id: wr.wr_id,
        });
        word1.store(words[1], Ordering::Relaxed);
        // Release: the entry's other words before the owner bit.
        word0.store(words[0], Ordering::Release);
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }

    /// Posts an entry as it is given, whatever it says, with only the phase set right.
    pub(crate) fn push_raw(&mut self, slot: &QpSlot, entry: &[u64]) -> Result<(), PostError> {
        self.reserve(slot)?;
        let (head, body) = self.ring.entry(self.producer);
        let ([first, ..], true) = (entry, entry.len() <= HEAD + body.len()) else {
            return Err(PostError::BadEntry);
        };
        for (word, value) in head.iter().chain(body).zip(entry).skip(1) {
            word.store(*value, Ordering::Relaxed);
        }
        let owner = u64::from(phase(self.producer, self.ring.log_entries()));
        head[0].store(first & !u64::from(OWNER_PHASE) | owner, Ordering::Release);
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }

    #[inline(always)]
    fn reserve(&mut self, slot: &QpSlot) -> Result<(), PostError> {
        if self.producer.wrapping_sub(self.consumed) >= self.ring.entries() {
            self.consumed = slot.consumed(Side::Recv);
            if self.producer.wrapping_sub(self.consumed) >= self.ring.entries() {
                return Err(PostError::QueueFull);
            }
        }
        Ok(())
    }
}
