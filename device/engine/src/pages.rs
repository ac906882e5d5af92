// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page lists as the driver states them, turned into the stretches of DMA addresses that the device keeps.
//!
//! Reading a list of millions of pages takes long, so a [`Walk`] goes a step at a time and everybody else's messages
//! go in between.

use crate::env::{Dma, GuestRam};
use crate::ram;
use verbena_hw::ring::PageList;

/// One stretch of a region: from byte `start` of the region on, its bytes are at `addr` and following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) addr: u64,
}

/// Where the bytes of a region are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extents {
    /// All in one stretch.
    One(u64),
    /// At least two, in the order of `start`, the first from 0.
    Many(Box<[Extent]>),
}

impl Extents {
    /// The DMA address of byte `offset` of a region of `len` bytes, and how many bytes follow it in one stretch.
    #[inline]
    pub(crate) fn locate(&self, offset: u64, len: u64) -> (u64, u64) {
        let (start, addr, bytes) = self.stretch(offset, len);
        (addr + (offset - start), bytes - (offset - start))
    }

    /// The stretch that byte `offset` of a region of `len` bytes is in: its first byte's place in the region, its DMA
    /// address, its length.
    #[inline]
    pub(crate) fn stretch(&self, offset: u64, len: u64) -> (u64, u64, u64) {
        debug_assert!(offset < len);
        match self {
            Extents::One(addr) => (0, *addr, len),
            Extents::Many(list) => {
                let i = list.partition_point(|e| e.start <= offset) - 1;
                let end = list.get(i + 1).map_or(len, |next| next.start);
                (list[i].start, list[i].addr, end - list[i].start)
            }
        }
    }

    /// Stretches in order, the first from 0; none are a region without bytes.
    pub(crate) fn from_list(list: Vec<Extent>) -> Self {
        match list[..] {
            [] => Extents::One(0),
            [only] => Extents::One(only.addr),
            _ => Extents::Many(list.into_boxed_slice()),
        }
    }

    /// Entries of device memory that the list takes.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Extents::One(_) => 0,
            Extents::Many(list) => list.len(),
        }
    }
}

/// What is wrong with a page list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    /// Its form, or it is too short.
    Malformed,
    /// The list, or a page in it, is not mapped, or the list is not aligned.
    Unreachable,
    /// The device has no memory for so many stretches.
    Limit,
}

/// A page list being read.
#[derive(Debug)]
pub(crate) struct Walk {
    list: PageList,
    first_offset: u64,
    dma: Dma,
    /// The next page.
    next: u32,
    /// Pages that hold the region; the list may have more.
    needed: u32,
    extents: Vec<Extent>,
    /// The address just behind the last extent.
    end: u64,
    limit: usize,
}

impl Walk {
    /// Begins to read `list` as a region of `len` bytes (not zero) whose first byte is `first_offset` into the first
    /// page, to be accessed as `dma`, and which may take `limit` stretches.
    pub(crate) fn new(list: PageList, first_offset: u64, len: u64, dma: Dma, limit: usize) -> Result<Self, PageFault> {
        let shift = u32::from(list.page_shift);
        if !matches!(
            list.page_shift,
            PageList::SHIFT_4K | PageList::SHIFT_2M | PageList::SHIFT_1G
        ) || list.reserved != 0
            || list.count == 0
            || list.count > PageList::MAX_PAGES
        {
            return Err(PageFault::Malformed);
        }
        let page = 1u64 << shift;
        let bytes = first_offset.checked_add(len).ok_or(PageFault::Malformed)?;
        let needed = bytes.div_ceil(page);
        if first_offset >= page || len == 0 || needed > u64::from(list.count) {
            return Err(PageFault::Malformed);
        }
        let span = match list.kind {
            PageList::DIRECT if list.addr % page != 0 => return Err(PageFault::Unreachable),
            PageList::DIRECT => needed << shift,
            PageList::INDIRECT if list.addr % 8 != 0 => return Err(PageFault::Unreachable),
            PageList::INDIRECT => needed * 8,
            _ => return Err(PageFault::Malformed),
        };
        list.addr.checked_add(span).ok_or(PageFault::Unreachable)?;
        Ok(Self {
            list,
            first_offset,
            dma,
            next: 0,
            needed: needed as u32,
            extents: Vec::new(),
            end: 0,
            limit,
        })
    }

    /// Reads up to `pages` further pages. `true`: that was all.
    pub(crate) fn step<R: GuestRam>(&mut self, ram: &R, pages: u32) -> Result<bool, PageFault> {
        let page = 1u64 << self.list.page_shift;
        if self.list.kind == PageList::DIRECT {
            if !ram::reachable(ram, self.list.addr, u64::from(self.needed) * page, self.dma) {
                return Err(PageFault::Unreachable);
            }
            self.extents.push(Extent {
                start: 0,
                addr: self.list.addr + self.first_offset,
            });
            self.next = self.needed;
            return Ok(true);
        }
        const AT_ONCE: usize = 64;
        let stop = self.next.saturating_add(pages).min(self.needed);
        while self.next < stop {
            let n = (stop - self.next).min(AT_ONCE as u32) as usize;
            let mut bytes = [0u8; AT_ONCE * 8];
            let bytes = &mut bytes[..n * 8];
            ram::read(ram, self.list.addr + u64::from(self.next) * 8, bytes).map_err(|_| PageFault::Unreachable)?;
            for entry in bytes.chunks_exact(8) {
                let addr = u64::from_le_bytes(entry.try_into().expect("chunks of 8"));
                self.push(ram, addr, page)?;
            }
        }
        Ok(self.next == self.needed)
    }

    fn push<R: GuestRam>(&mut self, ram: &R, addr: u64, page: u64) -> Result<(), PageFault> {
        if addr % page != 0 {
            return Err(PageFault::Malformed);
        }
        let end = addr.checked_add(page).ok_or(PageFault::Unreachable)?;
        if !ram::reachable(ram, addr, page, self.dma) {
            return Err(PageFault::Unreachable);
        }
        if self.next == 0 {
            self.extents.push(Extent {
                start: 0,
                addr: addr + self.first_offset,
            });
        } else if addr != self.end {
            if self.extents.len() >= self.limit {
                return Err(PageFault::Limit);
            }
            self.extents.push(Extent {
                start: u64::from(self.next) * page - self.first_offset,
                addr,
            });
        }
        self.end = end;
        self.next += 1;
        Ok(())
    }

    /// The finished list; the walk is empty afterwards.
    ///
    /// # Panics
    ///
    /// If the walk is not complete.
    pub(crate) fn take(&mut self) -> Extents {
        assert_eq!(self.next, self.needed);
        match self.extents[..] {
            [only] => Extents::One(only.addr),
            _ => Extents::Many(core::mem::take(&mut self.extents).into_boxed_slice()),
        }
    }
}

/// Where a ring of `len` bytes is that begins inside of a page; `None`: it begins on one, or is in several stretches.
pub(crate) fn packed<R: GuestRam>(
    ram: &R,
    list: &PageList,
    len: u64,
    entry: u64,
    dma: Dma,
) -> Result<Option<u64>, PageFault> {
    const PAGE: u64 = 1 << PageList::SHIFT_4K;
    if list.kind != PageList::DIRECT || list.addr % PAGE == 0 {
        return Ok(None);
    }
    if list.page_shift != PageList::SHIFT_4K || list.reserved != 0 || u64::from(list.count) < len.div_ceil(PAGE) {
        return Err(PageFault::Malformed);
    }
    // A cache line, whatever the entries are: nobody else's words are on a ring's.
    if list.addr % entry.max(64) != 0 || !ram::reachable(ram, list.addr, len, dma) {
        return Err(PageFault::Unreachable);
    }
    Ok(Some(list.addr))
}

/// Reads a list that is short enough to be read at once.
pub(crate) fn read_at_once<R: GuestRam>(
    ram: &R,
    list: PageList,
    len: u64,
    dma: Dma,
    limit: usize,
) -> Result<Extents, PageFault> {
    let mut walk = Walk::new(list, 0, len, dma, limit)?;
    while !walk.step(ram, u32::MAX)? {}
    Ok(walk.take())
}
