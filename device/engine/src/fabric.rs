// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fabric that joins the HCAs of one server: who has a GID.

use crate::env::HcaId;
use crate::multicast::Groups;
use std::collections::HashMap;
use verbena_hw::id::Gid;

/// The GIDs of all ports that are plugged in, and a number that changes whenever an answer may.
#[derive(Debug)]
pub(crate) struct Fabric {
    ports: HashMap<Gid, HcaId>,
    /// Every change of a GID table, a port's state or an HCA's presence. Queue pairs remember their peer with it.
    epoch: u64,
    /// Every change of what a queue pair is connected to, or end of one. Queue pairs remember with it that their peer names them.
    ways: u64,
    pub(crate) groups: Groups,
}

impl Fabric {
    pub(crate) fn new() -> Self {
        Self {
            ports: HashMap::new(),
            // 0 is what a queue pair has that never asked.
            epoch: 1,
            ways: 1,
            groups: Groups::default(),
        }
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn changed(&mut self) {
        self.epoch += 1;
    }

    #[inline]
    pub(crate) fn ways(&self) -> u64 {
        self.ways
    }

    /// A queue pair leads elsewhere from now on, or is gone.
    pub(crate) fn rerouted(&mut self) {
        self.ways += 1;
    }

    pub(crate) fn owner(&self, gid: &Gid) -> Option<HcaId> {
        self.ports.get(gid).copied()
    }

    /// Gives `gid` to `hca`. `false`: another HCA, or the same one, has it.
    pub(crate) fn claim(&mut self, gid: Gid, hca: HcaId) -> bool {
        assert!(!gid.is_zero());
        if self.ports.contains_key(&gid) {
            return false;
        }
        self.ports.insert(gid, hca);
        self.changed();
        true
    }

    pub(crate) fn release(&mut self, gid: &Gid) {
        self.ports.remove(gid);
        self.changed();
    }

    /// Releases every GID of `hca`, and every membership.
    pub(crate) fn release_all(&mut self, hca: HcaId) {
        self.groups.retain(|member| member.hca != hca);
        self.ports.retain(|_, owner| *owner != hca);
        self.changed();
    }
}
