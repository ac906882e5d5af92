// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What the targets share: an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which remembers the largest allocation and what is allocated now.
pub struct Counting {
    largest: AtomicUsize,
    live: AtomicUsize,
}

impl Counting {
    /// Nothing allocated yet.
    pub const fn new() -> Self {
        Self {
            largest: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        }
    }

    /// Bytes that are allocated.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// The largest allocation while `work` runs.
    pub fn largest_in<T>(&self, work: impl FnOnce() -> T) -> (usize, T) {
        self.largest.store(0, Ordering::Relaxed);
        let result = work();
        (self.largest.load(Ordering::Relaxed), result)
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.largest.fetch_max(layout.size(), Ordering::Relaxed);
        self.live.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}
