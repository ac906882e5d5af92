// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doorbell pages: which queue pair a slot rings, and what has rung.

use crate::env::{Dma, GuestRam, HcaId};
use crate::ram;
use core::sync::atomic::Ordering;
use verbena_hw::doorbell::{with_watched, BITMAP, KICK, PAGES, PAGE_SIZE, SLOTS, SUMMARY, WATCHED, WATCH_SEATS};
use verbena_hw::id::Qpn;
use vm_memory::VolatileSlice;

/// What has rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Doorbell page `.1` of an HCA.
    Page(HcaId, u32),
    /// Something else.
    Other,
}

/// A word in guest memory that has a known value as long as nothing has rung there.
pub(crate) struct Bell<'a> {
    word: VolatileSlice<'a>,
    /// The bits that count, and their value.
    mask: u64,
    silent: u64,
    /// What it says when they have another one.
    pub(crate) says: Rung,
}

impl<'a> Bell<'a> {
    /// The word at `addr`. `None`: it is not mapped.
    pub(crate) fn new<R: GuestRam>(ram: &'a R, addr: u64, (mask, silent): (u64, u64), says: Rung) -> Option<Self> {
        let word = ram::whole(ram, addr, 8, Dma::Read).ok()?;
        Some(Self {
            word,
            mask,
            silent,
            says,
        })
    }

    #[inline]
    pub(crate) fn has_rung(&self) -> bool {
        ram::word(&self.word, 0).is_ok_and(|word| word.load(Ordering::Relaxed) & self.mask != self.silent)
    }
}

/// Some of them.
#[derive(Default)]
pub(crate) struct Bells<'a> {
    list: [Option<Bell<'a>>; 8],
    len: usize,
    /// There are more.
    pub(crate) incomplete: bool,
}

impl<'a> Bells<'a> {
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bell<'a>> {
        self.list[..self.len].iter().flatten()
    }

    /// Adds one, if there is one.
    pub(crate) fn add(&mut self, bell: Option<Bell<'a>>) {
        let Some(bell) = bell else { return };
        match self.list.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(bell);
                self.len += 1;
            }
            None => self.incomplete = true,
        }
    }
}

/// What is in a doorbell page's memory, for people.
pub(crate) struct Contents {
    pub(crate) kick: bool,
    pub(crate) summary: u64,
    /// Slots that have rung.
    pub(crate) rung: Vec<u32>,
    /// Slots whose queues drivers need not ring for.
    pub(crate) watched: Vec<u32>,
}

/// A doorbell page of one HCA.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// DMA address of the page in guest memory.
    pub(crate) addr: u64,
    /// The queue pair of each slot; shorter than [`SLOTS`] while the upper slots have never been used.
    slots: Vec<Option<Qpn>>,
    /// Slots in use.
    pub(crate) users: u32,
    /// RING_SCAN was written: look at every word once, whatever the summary says.
    scan: bool,
    /// The word that says which slots are watched, and a bit for each of its lanes that does.
    watched: u64,
    lanes: u8,
    /// Whose it is; `None`: by its number.
    pub(crate) worker: Option<usize>,
}

const _: () = assert!(WATCH_SEATS <= 8);

impl Doorbell {
    pub(crate) fn queue(&self, slot: u32) -> Option<Qpn> {
        *self.slots.get(slot as usize)?
    }

    /// Binds a slot below [`SLOTS`]. `false`: it is taken.
    pub(crate) fn bind(&mut self, slot: u16, qpn: Qpn) -> bool {
        let slot = usize::from(slot);
        assert!(slot < SLOTS as usize);
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        if self.slots[slot].is_some() {
            return false;
        }
        self.slots[slot] = Some(qpn);
        self.users += 1;
        true
    }

    pub(crate) fn is_bound(&self, slot: u16) -> bool {
        self.queue(slot.into()).is_some()
    }

    pub(crate) fn unbind(&mut self, slot: u16) {
        let bound = self.slots[usize::from(slot)].take();
        assert!(bound.is_some());
        self.users -= 1;
    }

    pub(crate) fn request_scan(&mut self) {
        self.scan = true;
    }

    /// Takes everything that has rung out of the page and tells `rang` the queue pairs. A page that is not mapped has
    /// not rung.
    #[inline]
    pub(crate) fn collect<R: GuestRam>(&mut self, ram: &R, mut rang: impl FnMut(Qpn)) {
        let scan = core::mem::take(&mut self.scan);
        self.take(ram, scan, |slot| {
            if let Some(qpn) = self.queue(slot) {
                rang(qpn);
            }
        });
    }

    /// The same, and tells `rang` the slots. `all`: whatever the summary says.
    #[inline]
    pub(crate) fn take<R: GuestRam>(&self, ram: &R, all: bool, mut rang: impl FnMut(u32)) {
        let Ok(page) = ram::whole(ram, self.addr, PAGE_SIZE as usize, Dma::Write) else {
            return;
        };
        let Ok(summary) = ram::word(&page, SUMMARY) else {
            return;
        };
        if summary.load(Ordering::Relaxed) == 0 && !all {
            return;
        }
        // Acquire on both takes: the WQEs that were written before the bit are visible to us after it. The summary
        // is taken first: a driver that sets a bit after our look at its word sets the summary again after it.
        let mut words = summary.swap(0, Ordering::SeqCst);
        if all {
            words = u64::MAX;
        }
        while words != 0 {
            let i = words.trailing_zeros();
            words &= words - 1;
            let Ok(word) = ram::word(&page, BITMAP + 8 * i as usize) else {
                return;
            };
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let slot = i * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                rang(slot);
            }
        }
    }

    /// RING_SCAN was written, and it has not been done yet.
    pub(crate) fn is_to_be_scanned(&self) -> bool {
        self.scan
    }

    /// Whether something has rung, without taking it.
    pub(crate) fn has_rung<R: GuestRam>(&self, ram: &R) -> bool {
        let Ok(page) = ram::whole(ram, self.addr, PAGE_SIZE as usize, Dma::Write) else {
            return false;
        };
        ram::word(&page, SUMMARY).is_ok_and(|summary| summary.load(Ordering::SeqCst) != 0)
    }

    /// What is in the page, without taking it. `None`: the page is not mapped.
    pub(crate) fn contents<R: GuestRam>(&self, ram: &R) -> Option<Contents> {
        let page = ram::whole(ram, self.addr, PAGE_SIZE as usize, Dma::Read).ok()?;
        let word = |offset| Some(ram::word(&page, offset).ok()?.load(Ordering::Relaxed));
        let mut rung = Vec::new();
        for i in 0..SLOTS / 64 {
            let mut bits = word(BITMAP + 8 * i as usize)?;
            while bits != 0 {
                rung.push(i * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        let lanes = word(WATCHED)?;
        let lane = |n| (lanes >> (16 * n)) as u32 & 0xffff;
        Some(Contents {
            kick: ram::half(&page, KICK).ok()?.load(Ordering::Relaxed) != 0,
            summary: word(SUMMARY)?,
            rung,
            watched: (0..WATCH_SEATS).filter_map(|n| lane(n).checked_sub(1)).collect(),
        })
    }

    /// How many slots are watched.
    pub(crate) fn watched(&self) -> u32 {
        self.lanes.count_ones()
    }

    /// A lane of the word that says which slots are watched, and says none.
    pub(crate) fn free_lane(&self) -> Option<usize> {
        (0..WATCH_SEATS).find(|lane| self.lanes & 1 << lane == 0)
    }

    /// The word that a driver changes when it rings. `None`: the page is not mapped.
    pub(crate) fn bell<'a, R: GuestRam>(&self, ram: &'a R, says: Rung) -> Option<Bell<'a>> {
        Bell::new(ram, self.addr + SUMMARY as u64, (u64::MAX, 0), says)
    }

    /// Says in the page that `slot` is watched, or nothing more, in one lane of its word. A page that is not mapped is told
    /// nothing.
    pub(crate) fn set_watched<R: GuestRam>(&mut self, ram: &R, lane: usize, slot: Option<u16>) {
        self.watched = with_watched(self.watched, lane, slot);
        self.lanes = self.lanes & !(1 << lane) | u8::from(slot.is_some()) << lane;
        let Ok(page) = ram::whole(ram, self.addr, PAGE_SIZE as usize, Dma::Write) else {
            return;
        };
        if let Ok(word) = ram::word(&page, WATCHED) {
            word.store(self.watched, Ordering::SeqCst);
        }
    }

    /// Sets or clears the word that tells the driver to write the register as well.
    pub(crate) fn set_kick<R: GuestRam>(&self, ram: &R, asleep: bool) {
        let Ok(page) = ram::whole(ram, self.addr, PAGE_SIZE as usize, Dma::Write) else {
            return;
        };
        if let Ok(kick) = ram::half(&page, KICK) {
            kick.store(u32::from(asleep), Ordering::SeqCst);
        }
    }
}

/// The doorbell pages of one HCA, by index in BAR 2.
#[derive(Debug, Default)]
pub(crate) struct DoorbellTable {
    pages: Vec<Option<Doorbell>>,
}

impl DoorbellTable {
    /// The lowest free index.
    pub(crate) fn insert(&mut self, addr: u64) -> Option<u32> {
        let index = match self.pages.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.pages.len() < PAGES as usize => {
                self.pages.push(None);
                self.pages.len() - 1
            }
            None => return None,
        };
        self.pages[index] = Some(Doorbell {
            addr,
            slots: Vec::new(),
            users: 0,
            scan: false,
            watched: 0,
            lanes: 0,
            worker: None,
        });
        Some(index as u32)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Doorbell> {
        self.pages.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Doorbell> {
        self.pages.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(page) = self.pages.get_mut(index as usize) {
            *page = None;
        }
        while self.pages.last().is_some_and(Option::is_none) {
            self.pages.pop();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Doorbell)> {
        self.pages
            .iter()
            .enumerate()
            .filter_map(|(i, page)| page.as_ref().map(|page| (i as u32, page)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Doorbell> {
        self.pages.iter_mut().filter_map(Option::as_mut)
    }
}
