// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! From a hash to the slots that may be meant: a chained hash table over slot numbers, whose chains run through an array
//! beside the slots, so that entering and leaving take no memory.

use rdma_uapi::sys::{NoMemory, Vec};

/// Ends a chain.
const END: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    hash: u32,
    next: u32,
    member: bool,
}

/// The table.
pub(crate) struct Index {
    /// A power of two of them, at least as many as half the slots.
    heads: Vec<u32>,
    links: Vec<Link>,
}

impl Index {
    pub(crate) const fn new() -> Self {
        Index {
            heads: Vec::new(),
            links: Vec::new(),
        }
    }

    /// Makes room for one more slot.
    pub(crate) fn grow(&mut self) -> Result<(), NoMemory> {
        self.links.reserve(1)?;
        if self.heads.len() * 2 < self.links.len() + 1 {
            let mut heads = Vec::new();
            heads.resize((self.heads.len() * 4).max(16), END)?;
            self.heads = heads;
            for slot in 0..self.links.len() {
                if self.links[slot].member {
                    self.chain(slot);
                }
            }
        }
        self.links.push(Link {
            hash: 0,
            next: END,
            member: false,
        })
    }

    fn head(&self, hash: u32) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    fn chain(&mut self, slot: usize) {
        let head = self.head(self.links[slot].hash);
        self.links[slot].next = self.heads[head];
        self.heads[head] = slot as u32;
    }

    /// The slot is found by `hash` from now on.
    pub(crate) fn enter(&mut self, slot: usize, hash: u32) {
        debug_assert!(!self.links[slot].member);
        self.links[slot].hash = hash;
        self.links[slot].member = true;
        self.chain(slot);
    }

    /// The slot is not found any more; nothing happens if it was not.
    pub(crate) fn leave(&mut self, slot: usize) {
        let Link { hash, next, member } = self.links[slot];
        if !member {
            return;
        }
        self.links[slot].member = false;
        let head = self.head(hash);
        if self.heads[head] == slot as u32 {
            self.heads[head] = next;
            return;
        }
        let mut at = self.heads[head] as usize;
        while self.links[at].next != slot as u32 {
            at = self.links[at].next as usize;
        }
        self.links[at].next = next;
    }

    /// The first slot under `hash` that `is` the one.
    pub(crate) fn find(&self, hash: u32, is: impl Fn(usize) -> bool) -> Option<usize> {
        if self.heads.is_empty() {
            return None;
        }
        let mut at = self.heads[self.head(hash)];
        while at != END {
            let link = &self.links[at as usize];
            if link.hash == hash && is(at as usize) {
                return Some(at as usize);
            }
            at = link.next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn u18_slots_are_found_through_growth_and_leaving() {
        let mut index = Index::new();
        let mut model = BTreeMap::new();
        let mut random = 99u64;
        let mut slots = 0;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if slots < 300 && random >> 61 == 0 {
                index.grow().unwrap();
                slots += 1;
            }
            if slots == 0 {
                continue;
            }
            let slot = (random >> 20) as usize % slots;
            // Few hashes, so that chains are long.
            let hash = (random >> 50) as u32 % 40;
            if model.remove(&slot).is_some() {
                index.leave(slot);
            } else {
                index.enter(slot, hash);
                model.insert(slot, hash);
            }
            let probe = (random >> 35) as usize % slots;
            for hash in 0..40 {
                let found = index.find(hash, |slot| slot == probe).is_some();
                assert_eq!(found, model.get(&probe) == Some(&hash));
            }
        }
    }
}
