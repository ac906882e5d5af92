// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands for guest memory when there is no guest: a memory file that the device maps, and who has which part of it.

use crate::memory::{memory_file, Mapping};
use offset_allocator::Allocator;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use verbena_core::platform::{Dma, PAGE};

/// Address space for buffers and rings. Pages exist only once they are touched.
const SIZE: u64 = 8 << 30;
/// Where the device sees the first byte: not at zero, so that a forgotten address is a fault and not the first page.
const BASE: u64 = 4 << 30;
/// Parts that there can be at a time.
const MAX_PARTS: u32 = 1 << 18;
/// Parts up to this size are zeroed by writing; of longer ones the pages are given back.
const ZERO_BY_WRITING: usize = 64 << 10;

/// The memory file and its parts.
pub(super) struct GuestMemory {
    file: File,
    mapping: Mapping,
    free: Mutex<Allocator>,
}

impl AsRef<Mapping> for GuestMemory {
    fn as_ref(&self) -> &Mapping {
        &self.mapping
    }
}

impl GuestMemory {
    pub(super) fn new() -> rustix::io::Result<Arc<Self>> {
        let file = memory_file("verbena-guest-memory", SIZE)?;
        let mapping = Mapping::shared(&file, 0, SIZE as usize)?;
        // As a VMM does for a guest's memory.
        mapping.prefer_huge_pages();
        let pages = u32::try_from(SIZE / PAGE).expect("the file has fewer than 2^32 pages");
        Ok(Arc::new(Self {
            file,
            mapping,
            free: Mutex::new(Allocator::with_max_allocs(pages, MAX_PARTS)),
        }))
    }

    /// The file, and where the device shall see how much of it.
    pub(super) fn region(&self) -> (&File, u64, u64) {
        (&self.file, BASE, SIZE)
    }

    /// A zeroed part of whole pages that holds `len` bytes; `None` if there is not so much in one stretch.
    pub(super) fn alloc(self: &Arc<Self>, len: usize) -> Option<Part> {
        let len = len.max(1).checked_next_multiple_of(PAGE as usize)?;
        let pages = u32::try_from(len as u64 / PAGE).ok()?;
        let allocation = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allocate(pages)?;
        let offset = u64::from(allocation.offset) * PAGE;
        let mapping = Mapping::part(self.clone(), offset as usize, len).expect("the allocator stays inside the file");
        let part = Part {
            mapping,
            offset,
            allocation,
            memory: self.clone(),
        };
        if !part.zero() {
            return None;
        }
        Some(part)
    }

    /// Where the device sees `len` bytes (more than 0) at `addr` of this process; `None` if they are not all in the file.
    pub(super) fn device_addr(&self, addr: u64, len: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.mapping.addr() as u64)?;
        (offset.checked_add(len)? <= SIZE).then_some(BASE + offset)
    }
}

/// A part of the memory, given back when dropped.
pub(super) struct Part {
    mapping: Mapping,
    offset: u64,
    allocation: offset_allocator::Allocation,
    memory: Arc<GuestMemory>,
}

impl AsRef<Mapping> for Part {
    fn as_ref(&self) -> &Mapping {
        &self.mapping
    }
}

impl Part {
    /// Makes it zero. A long part loses its pages for that, which costs nothing where there are none.
    fn zero(&self) -> bool {
        if self.mapping.len() > ZERO_BY_WRITING {
            return self.punch();
        }
        self.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        true
    }

    fn punch(&self) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.memory.file, flags, self.offset, self.mapping.len() as u64) {
            Ok(()) => true,
            Err(error) => {
                log::error!(
                    "{} bytes of guest memory cannot be given back: {error}",
                    self.mapping.len()
                );
                false
            }
        }
    }
}

impl Dma for Part {
    fn addr(&self) -> u64 {
        BASE + self.offset
    }

    fn words(&self) -> &[AtomicU64] {
        let base = self
            .mapping
            .range(0, self.mapping.len())
            .expect("all of it is inside itself");
        // SAFETY: the part is mapped as long as `self` lives, page-aligned, a whole number of words long, and nothing
        // but atomics and volatile copies touches it; any bits are an `AtomicU64`.
        unsafe { std::slice::from_raw_parts(base.cast().as_ptr(), self.mapping.len() / 8) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.mapping.len() > ZERO_BY_WRITING {
            self.punch();
        }
        self.memory
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free(self.allocation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h06_parts_are_apart_zeroed_and_reused() {
        let memory = GuestMemory::new().unwrap();
        let small = memory.alloc(1).unwrap();
        let large = memory.alloc(ZERO_BY_WRITING + 1).unwrap();
        assert_eq!((small.len(), large.len()), (4096, ZERO_BY_WRITING + 4096));
        let ends = |part: &Part| part.addr()..part.addr() + part.len() as u64;
        assert!(ends(&small).end <= ends(&large).start || ends(&large).end <= ends(&small).start);
        for part in [&small, &large] {
            assert_eq!(part.addr() % PAGE, 0);
            part.words()
                .iter()
                .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        }
        let (small_at, large_at) = (small.addr(), large.addr());
        drop((small, large));
        let again = [memory.alloc(1).unwrap(), memory.alloc(ZERO_BY_WRITING + 1).unwrap()];
        assert_eq!(
            [again[0].addr(), again[1].addr()],
            [small_at, large_at],
            "the same parts serve again"
        );
        for part in &again {
            assert!(part.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }
    }

    #[test]
    fn h06_what_is_not_in_the_file_has_no_device_address() {
        let memory = GuestMemory::new().unwrap();
        let part = memory.alloc(8192).unwrap();
        let addr = part.mapping.addr() as u64;
        assert_eq!(memory.device_addr(addr + 5, 100), Some(part.addr() + 5));
        let on_stack = 0u64;
        assert_eq!(memory.device_addr(std::ptr::from_ref(&on_stack).addr() as u64, 8), None);
        let end = memory.mapping.addr() as u64 + SIZE;
        assert_eq!(memory.device_addr(end - 1, 1), Some(BASE + SIZE - 1));
        assert_eq!(memory.device_addr(end - 1, 2), None);
        assert_eq!(memory.device_addr(addr, u64::MAX), None);
    }

    #[test]
    fn h06_memory_ends() {
        let memory = GuestMemory::new().unwrap();
        assert!(memory.alloc(SIZE as usize + 1).is_none());
        assert!(memory.alloc(usize::MAX).is_none());
        let most = memory.alloc(7 << 30).unwrap();
        assert!(memory.alloc(2 << 30).is_none());
        drop(most);
        assert!(memory.alloc(2 << 30).is_some());
    }
}
