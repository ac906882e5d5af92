// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Ring indices, phases, and how rings and memory regions name their pages.
//!
//! Every ring has a power-of-two number of entries. Its indices are free-running 32-bit counters; the entry is the
//! counter modulo the size. Each entry carries a **phase bit** in its *owner* byte. On the first pass over the ring
//! the producer writes 1, on the next 0, and so on, so that on zeroed memory the consumer sees an entry exactly when
//! it has been written: no producer index is shared and no cache line but the entry's own moves.
//!
//! The producer writes the entry's other words first and then, with *release* ordering, the 8-byte word that holds
//! the owner byte (always the entry's word 0); the consumer reads that word with *acquire* ordering before the rest.

use crate::layout::assert_layout;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Mask of the phase bit in an owner byte.
pub const OWNER_PHASE: u8 = 1;

/// The position of the slot in a ring of `1 << log_size` entries that counter `index` falls on.
#[inline]
pub const fn slot(index: u32, log_size: u8) -> u32 {
    index & ((1u32 << log_size) - 1)
}

/// The phase bit (0 or 1) that the producer writes at counter `index` of a ring of `1 << log_size` entries.
///
/// `log_size` is below 32.
#[inline]
pub const fn phase(index: u32, log_size: u8) -> u8 {
    ((index >> log_size) & 1) as u8 ^ 1
}

/// How a ring or a memory region names the pages it consists of. 16 bytes.
///
/// The region's byte `i` is byte `(first_offset + i) % page` of page `(first_offset + i) / page`, where `first_offset`
/// is stated beside the list (zero for rings) and `page` is `1 << page_shift`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PageList {
    /// [`PageList::DIRECT`]: DMA address of the first byte of one contiguous stretch, aligned to the page size. With
    /// [`crate::regs::CAP_PACKED_RINGS`] a ring may begin anywhere that is aligned to its entries, and to 64 bytes; it takes no
    /// more than its own bytes then, and `count` says how many pages those would be from a page's beginning on.
    /// [`PageList::INDIRECT`]: DMA address, 8-byte aligned, of an array of `count` page addresses of 8 bytes, each
    /// aligned to the page size. The device reads the array while it executes the command and never again.
    pub addr: u64,
    /// Number of pages.
    pub count: u32,
    /// log2 of the page size in bytes: [`PageList::SHIFT_4K`], [`PageList::SHIFT_2M`] or [`PageList::SHIFT_1G`].
    pub page_shift: u8,
    /// [`PageList::DIRECT`] or [`PageList::INDIRECT`].
    pub kind: u8,
    /// Zero.
    pub reserved: u16,
}
assert_layout!(PageList, 16, addr @ 0, count @ 8, page_shift @ 12, kind @ 13);

impl PageList {
    /// `addr` is the memory itself.
    pub const DIRECT: u8 = 0;
    /// `addr` is an array of page addresses.
    pub const INDIRECT: u8 = 1;
    /// Pages of 4 KiB.
    pub const SHIFT_4K: u8 = 12;
    /// Pages of 2 MiB.
    pub const SHIFT_2M: u8 = 21;
    /// Pages of 1 GiB.
    pub const SHIFT_1G: u8 = 30;
    /// The largest `count`: with 4 KiB pages, a region of 64 GiB.
    pub const MAX_PAGES: u32 = 1 << 24;

    /// A list of one contiguous stretch of `len` bytes at `addr`, in 4 KiB pages.
    pub const fn direct(addr: u64, len: u64) -> Self {
        Self {
            addr,
            count: len.div_ceil(1 << Self::SHIFT_4K) as u32,
            page_shift: Self::SHIFT_4K,
            kind: Self::DIRECT,
            reserved: 0,
        }
    }

    /// A list of `count` 4 KiB pages whose addresses stand in an array at `addr`.
    pub const fn indirect(addr: u64, count: u32) -> Self {
        Self {
            addr,
            count,
            page_shift: Self::SHIFT_4K,
            kind: Self::INDIRECT,
            reserved: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_is_one_on_the_first_pass_and_flips_on_each() {
        for log in [0u8, 1, 6, 16] {
            let n = 1u32 << log;
            assert_eq!(phase(0, log), 1);
            assert_eq!(phase(n - 1, log), 1);
            assert_eq!(phase(n, log), 0);
            assert_eq!(phase(2 * n, log), 1);
        }
    }

    #[test]
    fn phase_is_continuous_where_the_counter_wraps() {
        // 2^32 is an even number of passes for every size below 2^32: the pass before the wrap has phase 0.
        assert_eq!(phase(u32::MAX, 6), 0);
        assert_eq!(phase(u32::MAX.wrapping_add(1), 6), 1);
        assert_eq!(slot(u32::MAX, 6), 63);
    }
}
