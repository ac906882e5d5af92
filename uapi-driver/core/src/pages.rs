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
