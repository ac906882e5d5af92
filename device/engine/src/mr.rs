// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions and their keys.
//!
//! A key is 32 bits that say nothing of its neighbours: its index runs through the 24-bit numbers in an order that the
//! seed decides and comes round again only after 2^24 registrations, its tag is drawn each time.

use crate::fast::Fast;
use crate::mw::Window;
use crate::pages::{Extent, Extents};
use crate::rng::Rng;
use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;
use verbena_hw::cqe::vendor;
use verbena_hw::id::{Key, Pdn, Qpn};
use verbena_hw::qp::access;

/// A registered region, or a window.
#[derive(Debug)]
pub(crate) struct Mr {
    /// The key that opens it now, or [`NO_KEY`].
    pub(crate) key: Key,
    pub(crate) pdn: Pdn,
    /// [`verbena_hw::qp::access`], and [`LOCAL`].
    pub(crate) access: u32,
    /// Address of the first byte in the region's own address space.
    pub(crate) iova: u64,
    pub(crate) len: u64,
    pub(crate) page_shift: u8,
    pub(crate) pages: u32,
    pub(crate) extents: Extents,
    /// Windows that are bound to it.
    pub(crate) users: u32,
    pub(crate) kind: Kind,
}

/// What an entry of the table of keys is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Memory that a command has registered.
    Memory,
    /// None: what is read from it is zero, what is written to it is gone. It has a key, but extents that mean nothing.
    Null,
    /// Memory that a work request registers.
    Fast(Fast),
    /// A memory window.
    Window(Window),
}

/// Beside the access rights of the format: the key may name the memory in its owner's own elements. A window's may not.
pub(crate) const LOCAL: u32 = 1 << 31;
/// A key that opens nothing: index 0 is never given out.
pub(crate) const NO_KEY: Key = Key(0);
/// A protection domain that nobody has: their numbers are shorter.
pub(crate) const NOBODY: Pdn = Pdn(u32::MAX);

const REMOTE: u32 = access::REMOTE_READ | access::REMOTE_WRITE | access::REMOTE_ATOMIC | access::FLUSH_GLOBAL;

impl Mr {
    /// Whether it is a region: a window has a key in the same table, but is none.
    pub(crate) fn is_region(&self) -> bool {
        !matches!(self.kind, Kind::Window(_))
    }

    /// Whether it has no memory, and never will.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// Its index and the tag that it has, or had last.
    pub(crate) fn name(&self) -> Key {
        match &self.kind {
            Kind::Memory | Kind::Null => self.key,
            Kind::Fast(fast) => fast.key,
            Kind::Window(window) => window.key,
        }
    }

    /// The R_Key, or 0 if the region grants nothing to peers.
    pub(crate) fn rkey(&self) -> Key {
        if self.access & REMOTE != 0 {
            self.key
        } else {
            Key(0)
        }
    }
}

/// Why a key does not give access: one of [`verbena_hw::cqe::vendor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyFault(pub(crate) u32);

/// The next bytes of a range.
#[derive(Clone, Copy)]
pub(crate) struct Stretch {
    /// The DMA address of the first; `None`: they are of a null region.
    pub(crate) addr: Option<u64>,
    /// How many.
    pub(crate) len: u64,
}

impl Stretch {
    /// Goes on behind its first `n` bytes.
    #[inline]
    pub(crate) fn pass(&mut self, n: u64) {
        self.addr = self.addr.map(|addr| addr + n);
        self.len -= n;
    }
}

/// A checked range of a region.
#[derive(Clone, Copy)]
pub(crate) struct Range<'a> {
    mr: &'a Mr,
    offset: u64,
    left: u64,
}

impl Range<'_> {
    /// Where it is.
    pub(crate) fn region(&self) -> &Mr {
        self.mr
    }

    /// The whole stretch of the region in which the range begins: the address of its first byte in the region's own address
    /// space, its DMA address, its length. A null region has none.
    pub(crate) fn stretch(&self) -> Option<(u64, u64, u64)> {
        if self.offset >= self.mr.len || self.mr.is_null() {
            return None;
        }
        let (start, addr, len) = self.mr.extents.stretch(self.offset, self.mr.len);
        Some((self.mr.iova.wrapping_add(start), addr, len))
    }

    /// Its stretches, as those of a region of their own.
    pub(crate) fn extents(mut self) -> Extents {
        let (mut list, mut start) = (Vec::new(), 0);
        while let Some((addr, n)) = self.next(u64::MAX) {
            list.push(Extent { start, addr });
            start += n;
        }
        Extents::from_list(list)
    }

    /// The next stretch of the range, at most `max` bytes; `None` at the end.
    #[inline]
    pub(crate) fn next_stretch(&mut self, max: u64) -> Option<Stretch> {
        if let Some((addr, len)) = self.next(max) {
            return Some(Stretch { addr: Some(addr), len });
        }
        // Of a null region nothing has been taken yet.
        let len = self.left.min(max);
        self.offset += len;
        self.left -= len;
        (len > 0).then_some(Stretch { addr: None, len })
    }

    /// The next stretch of memory of the range, at most `max` bytes, as DMA address and length; `None` at the end. A null
    /// region has none.
    #[inline]
    pub(crate) fn next(&mut self, max: u64) -> Option<(u64, u64)> {
        if self.left == 0 || self.mr.is_null() {
            return None;
        }
        let (addr, run) = self.mr.extents.locate(self.offset, self.mr.len);
        let n = run.min(self.left).min(max);
        self.offset += n;
        self.left -= n;
        Some((addr, n))
    }
}

/// Keys are looked up for every element of every message, and their indices are already scattered.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte) ^ self.0 as u32);
        }
    }

    fn write_u32(&mut self, index: u32) {
        // The table takes its buckets from the low bits and its tags from the top ones.
        self.0 = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
    }
}

/// The regions of one HCA.
pub(crate) struct MrTable {
    by_index: HashMap<u32, Mr, BuildHasherDefault<IndexHasher>>,
    /// Registrations so far: what [`shuffle`] is applied to.
    counter: u32,
    round_keys: [u32; 4],
    rng: Rng,
    limit: u32,
}

/// A permutation of the 24-bit numbers: four Feistel rounds on halves of 12 bits.
fn shuffle(counter: u32, keys: &[u32; 4]) -> u32 {
    let (mut l, mut r) = (counter >> 12 & 0xfff, counter & 0xfff);
    for key in keys {
        let f = (r ^ key).wrapping_mul(0x9e37_79b1) >> 15 & 0xfff;
        (l, r) = (r, l ^ f);
    }
    l << 12 | r
}

impl MrTable {
    pub(crate) fn new(limit: u32, mut rng: Rng) -> Self {
        Self {
            by_index: HashMap::default(),
            counter: 0,
            round_keys: core::array::from_fn(|_| rng.next() as u32),
            rng,
            limit,
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn has_room(&self) -> bool {
        self.by_index.len() < self.limit as usize
    }

    /// Stores what `make` makes of its future key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> Mr) -> &Mr {
        // Fewer regions than indices (the limit), so an unused one comes up.
        let index = loop {
            let index = shuffle(self.counter, &self.round_keys);
            self.counter = (self.counter + 1) & 0x00ff_ffff;
            // Key 0 is what a driver writes that has none; index 0 stays empty.
            if index != 0 && !self.by_index.contains_key(&index) {
                break index;
            }
        };
        let key = Key::from_parts(index, self.rng.next() as u8);
        let mr = make(key);
        self.by_index.entry(index).or_insert(mr)
    }

    /// Stores an entry again that was taken out, under its index, with another key than it had.
    pub(crate) fn put_back(&mut self, index: u32, mut mr: Mr) -> &Mr {
        // One to 255 on: never the same tag.
        let tag = mr.key.tag().wrapping_add((self.rng.next() as u8).max(1));
        mr.key = Key::from_parts(index, tag);
        self.by_index.entry(index).or_insert(mr)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Mr> {
        self.by_index.get(&index)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Mr> {
        self.by_index.get_mut(&index)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Mr> {
        self.by_index.remove(&index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mr> {
        self.by_index.values()
    }

    /// Every entry with its index.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, &Mr)> {
        self.by_index.iter().map(|(&index, mr)| (index, mr))
    }

    /// As [`MrTable::check`], for a request that has come to the queue pair `qpn`: it may also use the windows that are
    /// bound to that queue pair.
    #[inline]
    pub(crate) fn check_remote(
        &self,
        key: Key,
        (qpn, pdn): (Qpn, Pdn),
        addr: u64,
        len: u64,
        rights: u32,
    ) -> Result<Range<'_>, KeyFault> {
        match self.check(key, pdn, addr, len, rights) {
            Err(KeyFault(vendor::KEY_PD)) => self.check_window(key, (qpn, pdn), addr, len, rights),
            result => result,
        }
    }

    #[cold]
    fn check_window(
        &self,
        key: Key,
        (qpn, pdn): (Qpn, Pdn),
        addr: u64,
        len: u64,
        rights: u32,
    ) -> Result<Range<'_>, KeyFault> {
        match self.by_index.get(&key.index()).map(|mr| &mr.kind) {
            Some(Kind::Window(window)) if window.pdn != pdn => Err(KeyFault(vendor::KEY_PD)),
            Some(Kind::Window(window)) if window.qpn == Some(qpn) => self.check(key, NOBODY, addr, len, rights),
            Some(Kind::Window(_)) => Err(KeyFault(vendor::KEY_QP)),
            _ => Err(KeyFault(vendor::KEY_PD)),
        }
    }

    /// Whether a request to the queue pair may access the region with this key as a whole.
    pub(crate) fn check_whole(&self, key: Key, by: (Qpn, Pdn), rights: u32) -> Result<(), KeyFault> {
        let iova = self.by_index.get(&key.index()).map_or(0, |mr| mr.iova);
        self.check_remote(key, by, iova, 0, rights).map(|_| ())
    }

    /// The `len` bytes at `addr` of the region with this key, if `pdn` may access them with all of `rights`.
    #[inline]
    pub(crate) fn check(&self, key: Key, pdn: Pdn, addr: u64, len: u64, rights: u32) -> Result<Range<'_>, KeyFault> {
        let mr = match self.by_index.get(&key.index()) {
            Some(mr) if mr.key == key => mr,
            _ => return Err(KeyFault(vendor::KEY_UNKNOWN)),
        };
        if mr.pdn != pdn {
            return Err(KeyFault(vendor::KEY_PD));
        }
        if rights & !mr.access != 0 {
            return Err(KeyFault(vendor::KEY_ACCESS));
        }
        // Below the region the subtraction wraps to something beyond any length.
        let offset = addr.wrapping_sub(mr.iova);
        if offset > mr.len || len > mr.len - offset {
            return Err(KeyFault(vendor::KEY_RANGE));
        }
        Ok(Range { mr, offset, left: len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> MrTable {
        MrTable::new(1000, Rng::new(1))
    }

    fn region(key: Key) -> Mr {
        Mr {
            key,
            pdn: Pdn(3),
            access: access::REMOTE_READ,
            iova: 0x1000,
            len: 0x100,
            page_shift: 12,
            pages: 1,
            extents: Extents::One(0x8000),
            users: 0,
            kind: Kind::Memory,
        }
    }

    #[test]
    fn h06_key_indices_are_a_permutation() {
        let keys = [1, 2, 3, 4];
        let mut seen = vec![false; 1 << 24];
        for counter in 0..1 << 24 {
            let index = shuffle(counter, &keys) as usize;
            assert!(!seen[index]);
            seen[index] = true;
        }
    }

    #[test]
    fn h06_a_key_gives_what_it_was_registered_for() {
        let mut table = table();
        let key = table.insert_with(region).key;
        let check = |key, pd, addr, len, rights| {
            table
                .check(key, Pdn(pd), addr, len, rights)
                .map(|mut r| r.next(u64::MAX))
                .map_err(|f| f.0)
        };
        assert_eq!(check(key, 3, 0x1010, 0x10, 0), Ok(Some((0x8010, 0x10))));
        assert_eq!(check(key, 3, 0x1100, 0, 0), Ok(None));
        assert_eq!(check(key, 3, 0x1100, 1, 0), Err(vendor::KEY_RANGE));
        assert_eq!(check(key, 3, 0xfff, 1, 0), Err(vendor::KEY_RANGE));
        assert_eq!(check(key, 3, 0x1001, u64::MAX, 0), Err(vendor::KEY_RANGE));
        assert_eq!(check(key, 4, 0x1000, 1, 0), Err(vendor::KEY_PD));
        assert_eq!(check(key, 3, 0x1000, 1, access::REMOTE_WRITE), Err(vendor::KEY_ACCESS));
        assert_eq!(check(Key(key.0 ^ 1), 3, 0x1000, 1, 0), Err(vendor::KEY_UNKNOWN));
    }

    #[test]
    fn h14_neighbouring_registrations_do_not_have_neighbouring_keys() {
        let mut table = table();
        let keys: Vec<_> = (0..64).map(|_| table.insert_with(region).key).collect();
        let near = keys
            .windows(2)
            .filter(|pair| pair[0].index().abs_diff(pair[1].index()) < 16)
            .count();
        assert!(near <= 1, "{near} of 63 neighbours are near");
    }
}
