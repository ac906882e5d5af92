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
        write_entry(&self.ring, self.producer, self.max_sge, wr)?;
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

/// Writes `wr` into the entry at `producer`, whose place is free: visible to the device when this returns.
#[inline(always)]
pub(crate) fn write_entry(ring: &Ring<HEAD>, producer: u32, max_sge: u32, wr: &RecvWr<'_>) -> Result<(), PostError> {
    if wr.sges.len() > max_sge as usize {
        return Err(PostError::TooManySges { max: max_sge });
    }
    let ([word0, word1], body) = ring.entry(producer);
    store_sges(body, wr.sges)?;
    let words: [u64; HEAD] = zerocopy::transmute!(RecvHeader {
        owner: phase(producer, ring.log_entries()),
        reserved0: [0; 2],
        num_sge: wr.sges.len() as u8,
        reserved1: 0,
        wr_id: wr.wr_id,
    });
    word1.store(words[1], Ordering::Relaxed);
    // Release: the entry's other words before the owner bit.
    word0.store(words[0], Ordering::Release);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Mapping;
    use crate::ring::table::QpTable;
    use std::sync::atomic::AtomicU64;
    use std::sync::Arc;
    use verbena_hw::id::Key;
    use verbena_hw::wqe::{recv_log_stride, Sge};
    use zerocopy::{FromBytes, IntoBytes};

    #[test]
    fn u19_receives_are_encoded_as_the_hardware_declares_them_and_fill_the_ring() {
        let log_stride = recv_log_stride(3).unwrap();
        let mapping = Arc::new(Mapping::anonymous(4096).unwrap());
        let table = Arc::new(QpTable::new());
        let slot = table.claim().unwrap();
        let mut ring = RecvRing::new(Ring::new(mapping.clone(), 0, 2, log_stride).unwrap(), 3);
        let sges = [1u64, 2, 3].map(|i| Sge {
            addr: i << 33,
            len: i as u32,
            lkey: Key(7),
        });
        for counter in 0..12u32 {
            ring.push(&slot, &RecvWr::new(&sges).wr_id(counter.into())).unwrap();
            let at = (counter as usize % 4) << log_stride;
            let bytes: Vec<u8> = (0..8)
                .flat_map(|i| {
                    // SAFETY: any 8 bytes are an atomic.
                    let word = unsafe { mapping.view::<AtomicU64>(at + 8 * i) };
                    word.unwrap().load(Ordering::Acquire).to_le_bytes()
                })
                .collect();
            let expected = RecvHeader {
                owner: phase(counter, 2),
                num_sge: 3,
                wr_id: counter.into(),
                ..RecvHeader::default()
            };
            assert_eq!(RecvHeader::read_from_prefix(&bytes).unwrap().0, expected);
            assert_eq!(bytes[16..64], *sges.as_bytes());
            if counter % 4 == 3 {
                assert_eq!(ring.push(&slot, &RecvWr::new(&[])), Err(PostError::QueueFull));
                assert_eq!(ring.outstanding(&slot), 4);
                assert!(table.consume(slot.cookie(), Side::Recv, counter + 1));
            }
        }
        assert_eq!(
            ring.push(&slot, &RecvWr::new(&[sges[0]; 4])),
            Err(PostError::TooManySges { max: 3 })
        );
    }
}
