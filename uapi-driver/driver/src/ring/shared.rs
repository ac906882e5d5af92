// SPDX-License-Identifier: MIT OR Apache-2.0
//! A shared receive ring as the driver sees it. The device says in the queue's record how far it has consumed: completions
//! of several queue pairs, perhaps on several completion queues, could not tell.

use super::memory::Ring;
use super::recv::{write_entry, HEAD};
use super::work::{PostError, RecvWr};
use crate::memory::{Mapping, View};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use verbena_hw::srq::SrqRecord;

pub(crate) struct SharedRing {
    ring: Ring<HEAD>,
    record: View<SrqRecord>,
    producer: u32,
    /// The device's consumer counter, as last looked up.
    consumed: u32,
    max_sge: u32,
}

impl SharedRing {
    /// `record` is where in `mapping` the [`SrqRecord`] is, `posted` how many receives stand in the ring already; `None`
    /// if something does not fit.
    pub(crate) fn new(
        ring: Ring<HEAD>,
        mapping: Arc<Mapping>,
        record: usize,
        posted: u32,
        max_sge: u32,
    ) -> Option<Self> {
        // SAFETY: any bits are an `SrqRecord`; its field that anybody writes is an atomic.
        let record = unsafe { View::new(mapping, record) }?;
        (posted <= ring.entries()).then_some(Self {
            ring,
            record,
            producer: posted,
            consumed: 0,
            max_sge,
        })
    }

    /// Entries.
    pub(crate) fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Posted entries that no queue pair has consumed.
    pub(crate) fn posted(&self) -> u32 {
        self.producer.wrapping_sub(self.record.consumer.load(Ordering::Acquire))
    }

    /// Posts `wr`: visible to the device when this returns.
    #[inline(always)]
    pub(crate) fn push(&mut self, wr: &RecvWr<'_>) -> Result<(), PostError> {
        if self.producer.wrapping_sub(self.consumed) >= self.ring.entries() {
            // Acquire: the device has read the entry before it says so, and our stores come after.
            self.consumed = self.record.consumer.load(Ordering::Acquire);
            if self.producer.wrapping_sub(self.consumed) >= self.ring.entries() {
                return Err(PostError::QueueFull);
            }
        }
        write_entry(&self.ring, self.producer, self.max_sge, wr)?;
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }
}
