// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send ring as the driver sees it: entries are written at the producer counter and become visible together.
//!
//! A batch is written with everything in place but the first entry's word 0, which keeps the phase of the last pass: the
//! device stops there, however far behind it the others stand complete. Publishing is that one word, with *release*
//! ordering: whoever reads it with acquire reads every store of the batch. Aborting takes the phases of the others back
//! before anything could have seen them.

use super::memory::Ring;
use super::table::{QpSlot, Side};
use super::work::{Data, PostError, SendWr};
use std::sync::atomic::{AtomicU64, Ordering};
use verbena_hw::ring::{phase, OWNER_PHASE};
use verbena_hw::wqe::{SendHeader, Sge};

/// Words of a [`SendHeader`].
pub(crate) const HEAD: usize = size_of::<SendHeader>() / 8;

pub(crate) struct SendRing {
    ring: Ring<HEAD>,
    /// Counter of the next entry.
    producer: u32,
    /// Counter of the first entry that is not published.
    published: u32,
    /// Word 0 of the first unpublished entry, as it will be.
    first: u64,
    /// The device's consumer counter, as last looked up.
    consumed: u32,
    max_sge: u32,
    max_inline: u32,
}

impl SendRing {
    pub(crate) fn new(ring: Ring<HEAD>, max_sge: u32, max_inline: u32) -> Self {
        Self {
            ring,
            producer: 0,
            published: 0,
            first: 0,
            consumed: 0,
            max_sge,
            max_inline,
        }
    }

    /// Entries.
    pub(crate) fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Posted entries whose completion, or that of a later one, has not been polled.
    pub(crate) fn outstanding(&self, slot: &QpSlot) -> u32 {
        self.producer.wrapping_sub(slot.consumed(Side::Send))
    }

    /// Begins again at counter zero with an empty ring, as the device does in RESET.
    pub(crate) fn reset(&mut self) {
        self.ring.clear();
        (self.producer, self.published, self.first, self.consumed) = (0, 0, 0, 0);
    }

    /// Writes `wr` into the next entry. It belongs to the batch until [`SendRing::publish`] or [`SendRing::abort`].
    #[inline(always)]
    pub(crate) fn push(&mut self, slot: &QpSlot, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.reserve(slot)?;
        let (head, body) = self.ring.entry(self.producer);
        let (num_sge, inline_len) = match wr.data {
            Data::Sges(sges) => {
                if sges.len() > self.max_sge as usize {
                    return Err(PostError::TooManySges { max: self.max_sge });
                }
                let body = match wr.atomic {
                    None => body,
                    Some((compare_add, swap)) => {
                        let [a, b, rest @ ..] = body else {
                            return Err(PostError::BadEntry);
                        };
                        a.store(compare_add, Ordering::Relaxed);
                        b.store(swap, Ordering::Relaxed);
                        rest
                    }
                };
                store_sges(body, sges)?;
                (sges.len() as u8, 0)
            }
            Data::Inline(data) => {
                if data.len() > self.max_inline as usize {
                    return Err(PostError::InlineTooLong { max: self.max_inline });
                }
                store_bytes(body, data)?;
                (0, data.len() as u32)
            }
        };
        let words: [u64; HEAD] = zerocopy::transmute!(SendHeader {
            owner: phase(self.producer, self.ring.log_entries()),
            opcode: wr.opcode.0,
            flags: wr.flags,
            num_sge,
            imm: wr.imm,
            wr_id: wr.wr_id,
            remote_addr: wr.remote.addr,
            rkey: wr.rkey(),
            inline_len,
        });
        for (word, value) in head.iter().zip(words).skip(1) {
            word.store(value, Ordering::Relaxed);
        }
        self.finish(words[0]);
        Ok(())
    }

    /// Writes an entry as it is given, whatever it says, with only the phase set right.
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
        self.finish(first & !u64::from(OWNER_PHASE) | owner);
        Ok(())
    }

    /// Makes the batch visible to the device; false if there is none.
    #[inline(always)]
    pub(crate) fn publish(&mut self) -> bool {
        if !self.has_unpublished() {
            return false;
        }
        // Release: every other store of the batch (bodies, and word 0 of the later entries) before this one.
        self.ring.entry(self.published).0[0].store(self.first, Ordering::Release);
        self.published = self.producer;
        true
    }

    /// Whether there is a batch that is neither published nor aborted.
    #[inline(always)]
    pub(crate) fn has_unpublished(&self) -> bool {
        self.published != self.producer
    }

    /// Forgets the batch.
    #[cold]
    pub(crate) fn abort(&mut self) {
        let log = self.ring.log_entries();
        if !self.has_unpublished() {
            return;
        }
        let mut index = self.published.wrapping_add(1);
        while index != self.producer {
            // The device cannot have looked at it: it stops at the batch's first entry. The next batch's release orders
            // this store before whatever makes it look.
            let unwritten = u64::from(phase(index, log) ^ OWNER_PHASE);
            self.ring.entry(index).0[0].store(unwritten, Ordering::Relaxed);
            index = index.wrapping_add(1);
        }
        self.producer = self.published;
    }

    #[inline(always)]
    fn reserve(&mut self, slot: &QpSlot) -> Result<(), PostError> {
        if self.producer.wrapping_sub(self.consumed) >= self.ring.entries() {
            self.consumed = slot.consumed(Side::Send);
            if self.producer.wrapping_sub(self.consumed) >= self.ring.entries() {
                return Err(PostError::QueueFull);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn finish(&mut self, word0: u64) {
        if self.producer == self.published {
            self.first = word0;
        } else {
            self.ring.entry(self.producer).0[0].store(word0, Ordering::Relaxed);
        }
        self.producer = self.producer.wrapping_add(1);
    }
}

/// Writes scatter/gather elements, two words each.
#[inline(always)]
pub(crate) fn store_sges(body: &[AtomicU64], sges: &[Sge]) -> Result<(), PostError> {
    if 2 * sges.len() > body.len() {
        return Err(PostError::BadEntry);
    }
    for (words, sge) in body.chunks_exact(2).zip(sges) {
        let value: [u64; 2] = zerocopy::transmute!(*sge);
        words[0].store(value[0], Ordering::Relaxed);
        words[1].store(value[1], Ordering::Relaxed);
    }
    Ok(())
}

/// Writes bytes, zero-padded to whole words.
#[inline(always)]
fn store_bytes(body: &[AtomicU64], data: &[u8]) -> Result<(), PostError> {
    if data.len() > 8 * body.len() {
        return Err(PostError::BadEntry);
    }
    let whole = data.chunks_exact(8);
    let rest = whole.remainder();
    let mut words = body.iter();
    for (chunk, word) in whole.zip(&mut words) {
        word.store(
            u64::from_le_bytes(chunk.try_into().expect("chunks of 8")),
            Ordering::Relaxed,
        );
    }
    if let (false, Some(word)) = (rest.is_empty(), body.get(data.len() / 8)) {
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(tail), Ordering::Relaxed);
    }
    Ok(())
}
