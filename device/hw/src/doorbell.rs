// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Doorbells: how a driver tells the device that a send queue has work.
//!
//! A **doorbell page** belongs to one context and has [`SLOTS`] slots; CREATE_QP binds a send queue to one slot. Each
//! doorbell page has two faces:
//!
//! * the **register**: page `i` of BAR 2, where the driver writes a slot number ([`REG_RING`]). A trapped store: plain
//!   hardware behaviour, always works, costs a VM exit and a message;
//! * the **doorbell page in guest memory** ([`PAGE_SIZE`] bytes, one for each page, its address given in
//!   CREATE_DOORBELL): a bitmap of slots under a one-word summary, which the device's workers poll. Ringing costs at
//!   most two atomic ORs and is idempotent, so nothing overflows and the device has no index to validate. Finding
//!   work costs time proportional to the slots that rang, not to those that exist.
//!
//! While the device sleeps it does not see the bitmap. Before it sleeps it sets [`KICK`] in the page, then looks once
//! more; a driver that has set its bits and then reads [`KICK`] as non-zero also writes the register: its slot, or
//! [`RING_WAKE`], since the bits say which. Both sides put a
//! full fence between their store and their load (store buffering is exactly what would lose the wake-up).
//!
//! A queue that the device has just emptied, and that is busy, it may **watch** instead: it looks at the queue's next entry
//! of itself. [`WATCHED`] names the slots of such queues, and for them a driver need not ring at all. (It may; and one that
//! always rings need not know of this.) Before the device stops watching a queue it takes its slot out of the word, and then
//! looks once more; a driver publishes its entries, puts a full fence behind them, and then reads the word.
//!
//! Neither face serves receive queues: the device reads a receive queue when a message arrives. The exception is a queue
//! pair in ERR, whose receives are to be flushed though no message will arrive: a driver that knows of the error rings
//! after posting a receive, and once when it learns of the error. (Without it they are flushed too, within a second.)

use crate::layout::assert_layout;
use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Doorbell pages of one HCA.
pub const PAGES: u32 = 1024;
/// Size of either face of a doorbell page in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Slots of a doorbell page: at most as many send queues ring it.
pub const SLOTS: u32 = 4096;
/// Offset of the register in its page of BAR 2: a 32-bit write of a slot number, of [`RING_SCAN`], or of [`RING_WAKE`].
pub const REG_RING: u64 = 0;
/// Written to [`REG_RING`]: look at the bitmap instead of at one slot.
pub const RING_SCAN: u32 = u32::MAX;
/// Written to [`REG_RING`]: wake, what has rung is in the page in guest memory. It is the same on every page, so an event
/// without a value can stand for it where the register is reached through an eventfd.
pub const RING_WAKE: u32 = u32::MAX - 1;
const _: () = assert!(RING_WAKE > SLOTS);

/// Offset in the page in guest memory of the 32-bit word that the device sets before it sleeps: 0, or 1 for "also
/// write the register". On a cache line of its own: the device writes it, the driver only reads it.
pub const KICK: usize = 0x000;
/// Offset of the 64-bit word that says which send queues the device looks at without being rung: [`WATCH_SEATS`] lanes of
/// 16 bits, each a slot number plus one, or 0. Beside [`KICK`]: the device seldom writes it.
pub const WATCHED: usize = 0x008;
/// Lanes of [`WATCHED`].
pub const WATCH_SEATS: usize = 4;
/// Offset of the 64-bit summary: bit `i` set means that word `i` of the bitmap may be non-zero.
pub const SUMMARY: usize = 0x040;
/// Offset of the bitmap: [`SLOTS`] bits in 64-bit words, slot `s` is bit `s % 64` of word `s / 64`.
pub const BITMAP: usize = 0x080;

/// The doorbell page in guest memory, as both sides see it in place.
#[derive(FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct DoorbellPage {
    /// See [`KICK`].
    pub kick: AtomicU32,
    /// Zero.
    pub reserved0: [u8; 4],
    /// See [`WATCHED`].
    pub watched: AtomicU64,
    /// Zero.
    pub reserved3: [u8; 48],
    /// See [`SUMMARY`].
    pub summary: AtomicU64,
    /// Zero.
    pub reserved1: [u8; 56],
    /// See [`BITMAP`].
    pub bitmap: [AtomicU64; 64],
    /// Zero.
    pub reserved2: [u8; 4096 - 128 - 512],
}
assert_layout!(DoorbellPage, 4096, kick @ KICK, watched @ WATCHED, summary @ SUMMARY, bitmap @ BITMAP);
const _: () = assert!(SLOTS == 64 * 64);

impl DoorbellPage {
    /// The driver's side: rings for `slot` (below [`SLOTS`]), whose entries have been published, unless the device watches
    /// its queue. Says whether the register must be written as well.
    #[inline]
    #[must_use = "a sleeping device wakes only by the register"]
    pub fn ring(&self, slot: u16) -> bool {
        // The entries before the look (see the module's text).
        fence(Ordering::SeqCst);
        !is_watched(self.watched.load(Ordering::Relaxed), slot) && self.mark(slot)
    }

    /// Marks `slot` and says whether the register must be written as well.
    ///
    /// *Release* on the bit orders the WQEs before it. The read-modify-writes are sequentially consistent, so the load
    /// of `kick` cannot be satisfied before the bits are visible (see the module's text).
    #[inline]
    fn mark(&self, slot: u16) -> bool {
        let word = (slot as usize / 64) % 64;
        self.bitmap[word].fetch_or(1 << (slot % 64), Ordering::SeqCst);
        self.summary.fetch_or(1 << word, Ordering::SeqCst);
        self.kick.load(Ordering::SeqCst) != 0
    }
}

/// The word at [`WATCHED`] with lane `seat` (below [`WATCH_SEATS`]) saying that the device watches `slot`, or none.
pub const fn with_watched(word: u64, seat: usize, slot: Option<u16>) -> u64 {
    let lane = match slot {
        Some(slot) => slot as u64 + 1,
        None => 0,
    };
    word & !(0xffff << (16 * seat)) | lane << (16 * seat)
}

/// Whether one of the lanes of the word at [`WATCHED`] names `slot` (below [`SLOTS`]).
#[inline]
pub const fn is_watched(word: u64, slot: u16) -> bool {
    const ONES: u64 = 0x0001_0001_0001_0001;
    // A lane is zero where it names the slot; the subtraction then borrows through its top bit. A lane above a zero lane
    // may borrow as well, which changes nothing.
    let lanes = word ^ (ONES * (slot as u64 + 1));
    lanes.wrapping_sub(ONES) & !lanes & (ONES << 15) != 0
}

/// What an address in BAR 2 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct RegisterAddress {
    /// The doorbell page.
    pub page: u32,
    /// The offset in it.
    pub offset: u32,
}

impl RegisterAddress {
    /// Splits an offset in BAR 2; `None` beyond its end.
    pub const fn from_bar_offset(offset: u64) -> Option<Self> {
        if offset >= PAGES as u64 * PAGE_SIZE {
            return None;
        }
        Some(Self {
            page: (offset / PAGE_SIZE) as u32,
            offset: (offset % PAGE_SIZE) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn ring_sets_bit_and_summary_and_reports_kick() {
        let page = DoorbellPage::new_zeroed();
        assert!(!page.ring(4095));
        assert_eq!(page.bitmap[63].load(Ordering::Relaxed), 1 << 63);
        assert_eq!(page.summary.load(Ordering::Relaxed), 1 << 63);
        page.kick.store(1, Ordering::Relaxed);
        assert!(page.ring(0));
    }
}
