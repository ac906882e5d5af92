// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Page lists: how pinned memory is named to the device.
//!
//! Memory that is one stretch for the device is named directly. Anything else becomes an array of page addresses in
//! DMA memory, of the largest pages that every stretch is made of. The device reads the array while it executes the
//! command, so the array lives as long as the command and no longer.

use crate::platform::{Dma, Pinned, Platform, PAGE};
use core::sync::atomic::Ordering;
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::ring::PageList;

/// A page list, with the array that it refers to, if any. The array must outlive the command.
pub(crate) struct Pages<P: Platform> {
    /// What goes into the command.
    pub(crate) list: PageList,
    /// Offset of the memory's first byte in the first page.
    pub(crate) first_offset: u64,
    _array: Option<P::Dma>,
}

/// What the stretches have in common.
#[derive(Default)]
struct Summary {
    /// DMA address of the first byte of the first page.
    start: u64,
    /// Bytes in all.
    len: u64,
    /// Every address and every offset at which a stretch begins or ends, ORed: its lowest set bit is the alignment
    /// that all of them have.
    bounds: u64,
    /// Contiguous stretches.
    stretches: u64,
}

/// Calls `each` with every stretch of `pinned`, neighbours merged.
fn merged<T: Pinned>(pinned: &T, mut each: impl FnMut(u64, u64)) -> Result<(), Failure> {
    let mut open: Option<(u64, u64)> = None;
    pinned.stretches(&mut |addr, len| {
        // The platform's promise, on which the device's protection of everything else rests.
        assert!(
            addr % PAGE == 0 && len % PAGE == 0 && len > 0,
            "pinned memory consists of whole pages"
        );
        open = match open {
            Some((start, have)) if start.checked_add(have) == Some(addr) => Some((start, have + len)),
            before => {
                if let Some((start, have)) = before {
                    each(start, have);
                }
                Some((addr, len))
            }
        };
        Ok(())
    })?;
    if let Some((start, have)) = open {
        each(start, have);
    }
    Ok(())
}

impl Summary {
    fn of<T: Pinned>(pinned: &T) -> Result<Self, Failure> {
        let mut summary = Summary::default();
        merged(pinned, |addr, len| {
            if summary.stretches == 0 {
                summary.start = addr;
            }
            summary.bounds |= addr | summary.len | len;
            summary.len += len;
            summary.stretches += 1;
        })?;
        Ok(summary)
    }

    /// log2 of the largest page size that fits.
    fn shift(&self, large: bool) -> u8 {
        let alignment = self.bounds.trailing_zeros();
        [PageList::SHIFT_1G, PageList::SHIFT_2M]
            .into_iter()
            .find(|&shift| large && alignment >= u32::from(shift))
            .unwrap_or(PageList::SHIFT_4K)
    }
}

impl<P: Platform> Pages<P> {
    /// Names pinned memory; `large`: the device takes pages of more than 4 KiB.
    ///
    /// # Errors
    ///
    /// More pages than a list can have; no memory for the array.
    pub(crate) fn of(platform: &P, pinned: &P::Pinned, large: bool) -> Result<Self, Failure> {
        let summary = Summary::of(pinned)?;
        let shift = if summary.stretches == 1 {
            PageList::SHIFT_4K
        } else {
            summary.shift(large)
        };
        let count = summary.len >> shift;
        if count == 0 || count > u64::from(PageList::MAX_PAGES) {
            return Err(Failure::new(Errno::EINVAL, Reason::OUT_OF_RANGE));
        }
        let first_offset = pinned.first_offset();
        if summary.stretches == 1 {
            let list = PageList::direct(summary.start, summary.len);
            return Ok(Pages {
                list,
                first_offset,
                _array: None,
            });
        }
        let array = platform
            .alloc_dma(count as usize * 8)
            .map_err(|e| Failure::new(e, Reason::NO_MEMORY))?;
        let mut entries = array.words().iter();
        merged(pinned, |addr, len| {
            for (page, entry) in (0..len >> shift).zip(&mut entries) {
                entry.store(addr + (page << shift), Ordering::Relaxed);
            }
        })?;
        let list = PageList {
            page_shift: shift,
            ..PageList::indirect(array.addr(), count as u32)
        };
        Ok(Pages {
            list,
            first_offset,
            _array: Some(array),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Fake(&'static [(u64, u64)]);

    impl Pinned for Fake {
        fn first_offset(&self) -> u64 {
            0
        }

        fn stretches(&self, each: &mut dyn FnMut(u64, u64) -> Result<(), Failure>) -> Result<(), Failure> {
            self.0.iter().try_for_each(|&(addr, len)| each(addr, len))
        }
    }

    const M2: u64 = 2 << 20;
    const G1: u64 = 1 << 30;

    fn summary(stretches: &'static [(u64, u64)]) -> Summary {
        Summary::of(&Fake(stretches)).unwrap()
    }

    #[test]
    fn h06_neighbours_are_merged() {
        let mut seen = Vec::new();
        let fake = Fake(&[
            (0x1000, 0x1000),
            (0x2000, 0x3000),
            (0x8000, 0x1000),
            (0x7000, 0x1000),
            (0x8000, 0x1000),
        ]);
        merged(&fake, |addr, len| seen.push((addr, len))).unwrap();
        assert_eq!(seen, [(0x1000, 0x4000), (0x8000, 0x1000), (0x7000, 0x2000)]);
    }

    #[test]
    fn h06_pages_are_as_large_as_every_stretch_allows() {
        assert_eq!(summary(&[(4 * M2, M2), (M2, 2 * M2)]).shift(true), PageList::SHIFT_2M);
        assert_eq!(summary(&[(4 * M2, M2), (M2, 2 * M2)]).shift(false), PageList::SHIFT_4K);
        assert_eq!(summary(&[(4 * G1, G1), (2 * G1, G1)]).shift(true), PageList::SHIFT_1G);
        assert_eq!(summary(&[(4 * G1, G1), (M2, G1)]).shift(true), PageList::SHIFT_2M);
        // The beginning, the end, the place of a boundary in the memory, and its address: each spoils it.
        assert_eq!(
            summary(&[(4 * M2 + 0x1000, M2 - 0x1000), (M2, M2)]).shift(true),
            PageList::SHIFT_4K
        );
        assert_eq!(summary(&[(4 * M2, M2), (M2, 0x1000)]).shift(true), PageList::SHIFT_4K);
        assert_eq!(summary(&[(4 * M2, 0x1000), (M2, M2)]).shift(true), PageList::SHIFT_4K);
        assert_eq!(
            summary(&[(4 * M2, M2), (M2 + 0x1000, M2)]).shift(true),
            PageList::SHIFT_4K
        );
    }
}
