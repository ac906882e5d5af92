// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings in memory that the device works in at the same time: the only place that turns their addresses into references.
//!
//! Everything is seen as 64-bit atomics, because the other side reads and writes it at any moment; on the machines that
//! Verbena runs on, a relaxed atomic access of 8 aligned bytes is a plain load or store. Indices are reduced modulo the
//! ring, so no value from anywhere can reach outside of it.

use crate::memory::Mapping;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

/// A ring of `1 << log_entries` entries of `8 * HEAD` bytes or more.
///
/// # Invariants
///
/// `base` is aligned to 8 and points to `(1 << log_entries) * (1 << log_stride)` bytes of `mapping`, which stay mapped as
/// long as it lives; `1 << log_stride` is at least `8 * HEAD`.
pub(crate) struct Ring<const HEAD: usize> {
    base: NonNull<AtomicU64>,
    mask: u32,
    log_entries: u8,
    /// log2 of the stride in words.
    log_words: u8,
    _mapping: Arc<Mapping>,
}

// SAFETY: the memory is reached through atomics only, from whatever thread; the mapping is `Send` and `Sync`.
unsafe impl<const HEAD: usize> Send for Ring<HEAD> {}
// SAFETY: as above.
unsafe impl<const HEAD: usize> Sync for Ring<HEAD> {}

impl<const HEAD: usize> Ring<HEAD> {
    /// The ring that begins `offset` bytes into `mapping`; `None` if it does not fit there, is not aligned, or has a
    /// stride (log2 of bytes) that does not hold the head.
    pub(crate) fn new(mapping: Arc<Mapping>, offset: usize, log_entries: u8, log_stride: u8) -> Option<Self> {
        if log_entries >= 32 || !(3..=16).contains(&log_stride) || (1usize << log_stride) < 8 * HEAD {
            return None;
        }
        let len = 1usize.checked_shl(u32::from(log_entries) + u32::from(log_stride))?;
        let base = mapping.range(offset, len)?.cast::<AtomicU64>();
        if !base.is_aligned() {
            return None;
        }
        Some(Self {
            base,
            mask: (1u32 << log_entries) - 1,
            log_entries,
            log_words: log_stride - 3,
            _mapping: mapping,
        })
    }

    /// log2 of the number of entries.
    #[inline]
    pub(crate) fn log_entries(&self) -> u8 {
        self.log_entries
    }

    /// The number of entries.
    #[inline]
    pub(crate) fn entries(&self) -> u32 {
        self.mask + 1
    }

    /// The entry that counter `index` falls on: its first words, and the rest of it.
    #[inline(always)]
    pub(crate) fn entry(&self, index: u32) -> (&[AtomicU64; HEAD], &[AtomicU64]) {
        let first = ((index & self.mask) as usize) << self.log_words;
        // SAFETY: by the type's invariants the masked index is an entry inside the mapping, `HEAD` words are at most its
        // stride and the rest is exactly what remains of it. The memory is valid for any bits and shared by atomics only.
        unsafe {
            let entry = self.base.as_ptr().add(first);
            (
                &*entry.cast::<[AtomicU64; HEAD]>(),
                std::slice::from_raw_parts(entry.add(HEAD), (1 << self.log_words) - HEAD),
            )
        }
    }

    /// Zeroes every entry, as a ring that begins again must be.
    pub(crate) fn clear(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        for index in 0..self.entries() {
            let (head, rest) = self.entry(index);
            head.iter().chain(rest).for_each(|word| word.store(0, Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn ring(bytes: usize, log_entries: u8, log_stride: u8) -> Option<Ring<4>> {
        Ring::new(Arc::new(Mapping::anonymous(bytes).unwrap()), 0, log_entries, log_stride)
    }

    #[test]
    fn u19_a_ring_that_does_not_fit_its_mapping_is_refused() {
        assert!(ring(4096, 6, 6).is_some());
        assert!(ring(4096, 7, 6).is_none(), "twice the mapping");
        assert!(ring(4096, 31, 16).is_none(), "far beyond it");
        assert!(ring(4096, 2, 4).is_none(), "a stride below the head");
        let mapping = Arc::new(Mapping::anonymous(4096).unwrap());
        assert!(Ring::<4>::new(mapping.clone(), 4, 2, 6).is_none(), "unaligned");
        assert!(
            Ring::<4>::new(mapping.clone(), usize::MAX - 7, 2, 6).is_none(),
            "overflowing offset"
        );
        assert!(
            Ring::<4>::new(mapping, 4096 - 256, 2, 6).is_some(),
            "up to the last byte"
        );
    }

    #[test]
    fn u19_entries_are_stride_apart_and_wrap() {
        let ring = ring(4096, 2, 7).unwrap();
        for i in 0..4u32 {
            let (head, rest) = ring.entry(i);
            assert_eq!(rest.len(), 12);
            head[0].store(u64::from(i) + 1, Relaxed);
            rest[11].store(u64::from(i) + 100, Relaxed);
        }
        for i in [0u32, 4, u32::MAX - 3] {
            assert_eq!(ring.entry(i).0[0].load(Relaxed), u64::from(i % 4) + 1);
            assert_eq!(ring.entry(i).1[11].load(Relaxed), u64::from(i % 4) + 100);
        }
        let apart = ring.entry(1).0.as_ptr() as usize - ring.entry(0).0.as_ptr() as usize;
        assert_eq!(apart, 128);
        ring.clear();
        assert_eq!(ring.entry(3).1[11].load(Relaxed), 0);
    }
}
