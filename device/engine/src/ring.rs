// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings in guest memory: which address an entry has.

use crate::env::{Dma, GuestRam};
use crate::pages::{self, Extents, PageFault};
use verbena_hw::ring::{phase, slot, PageList};

/// A ring: `1 << log_entries` entries of `1 << log_stride` bytes.
///
/// Entries do not cross pages, because both sizes are powers of two, a stride is at most a page, and a ring that begins inside
/// of one is aligned to the stride.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    extents: Extents,
    pub(crate) log_entries: u8,
    pub(crate) log_stride: u8,
}

impl Ring {
    /// A ring on the pages of `list`.
    pub(crate) fn new<R: GuestRam>(
        ram: &R,
        list: PageList,
        log_entries: u8,
        log_stride: u8,
        dma: Dma,
        limit: usize,
    ) -> Result<Self, PageFault> {
        assert!(log_stride <= 12);
        let len = 1u64 << (log_entries + log_stride);
        let extents = match pages::packed(ram, &list, len, 1 << log_stride, dma)? {
            Some(addr) => Extents::One(addr),
            None => pages::read_at_once(ram, list, len, dma, limit)?,
        };
        Ok(Self {
            extents,
            log_entries,
            log_stride,
        })
    }

    /// Where a ring would be.
    pub(crate) const fn none() -> Self {
        Self {
            extents: Extents::One(0),
            log_entries: 0,
            log_stride: 0,
        }
    }

    /// DMA address of the entry that counter `index` falls on.
    #[inline]
    pub(crate) fn addr(&self, index: u32) -> u64 {
        let offset = u64::from(slot(index, self.log_entries)) << self.log_stride;
        match &self.extents {
            Extents::One(addr) => addr + offset,
            many => many.locate(offset, 1 << (self.log_entries + self.log_stride)).0,
        }
    }

    /// DMA address of the entry that counter `index` falls on, and how many entries are there in one stretch, it included.
    #[inline]
    pub(crate) fn run(&self, index: u32) -> (u64, u32) {
        let offset = u64::from(slot(index, self.log_entries)) << self.log_stride;
        let (addr, bytes) = self.extents.locate(offset, 1 << (self.log_entries + self.log_stride));
        (addr, (bytes >> self.log_stride) as u32)
    }

    /// The phase bit of counter `index`.
    #[inline]
    pub(crate) fn phase(&self, index: u32) -> u8 {
        phase(index, self.log_entries)
    }

    pub(crate) fn entries(&self) -> u32 {
        1 << self.log_entries
    }

    /// Bytes of an entry.
    pub(crate) fn stride(&self) -> usize {
        1 << self.log_stride
    }

    /// Entries of device memory that the ring's addresses take.
    pub(crate) fn cost(&self) -> usize {
        self.extents.cost()
    }
}
