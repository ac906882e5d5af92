// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HCA's behaviour: registers, admin queue, objects, queue pairs, transport, fabric.
//!
//! No I/O, no clock, no threads: guest memory, time and interrupts are arguments ([`Env`], [`Time`]).
#![forbid(unsafe_code)]

mod env;
mod time;

pub use env::{Dma, Env, GuestRam, HcaId};
pub use time::Time;

/// How an engine is made.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// Where memory keys and other numbers that guests must not guess come from.
    pub seed: u64,
}

/// How an HCA is made.
#[derive(Clone, Debug)]
pub struct HcaConfig {
    /// Its name in dumps.
    pub name: String,
    /// MAC address of its port, unique in the engine: entry 0 of its GID table is derived from it.
    pub mac: [u8; 6],
    /// Node GUID, in network order.
    pub node_guid: [u8; 8],
}

impl HcaConfig {
    /// An HCA whose node GUID is the EUI-64 of its MAC address.
    pub fn new(name: impl Into<String>, mac: [u8; 6]) -> Self {
        let gid = verbena_hw::id::Gid::link_local(mac).0;
        let mut node_guid = [0; 8];
        node_guid.copy_from_slice(&gid[8..]);
        Self {
            name: name.into(),
            mac,
            node_guid,
        }
    }
}

/// Why an HCA cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddHcaError {
    /// Another HCA of the fabric has this MAC address, or a GID derived from it.
    DuplicateMac,
}

/// How much one [`Engine::poll`] may do before it returns.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Messages and commands, roughly.
    pub operations: u32,
    /// Bytes copied, roughly.
    pub bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            operations: 256,
            bytes: 1 << 20,
        }
    }
}

/// What one [`Engine::poll`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether there was anything to do: if so, poll again before thinking of sleep.
    pub did_work: bool,
    /// When a timer expires next: the caller polls at this moment even if nothing else happens.
    pub next_deadline: Option<Time>,
}

/// All HCAs of one server, and the fabric that joins them.
pub struct Engine {}

/// The state of an engine: serialisable, and readable through `Display`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Dump {}

#[expect(unused_variables, reason = "the signatures come first")]
impl Engine {
    /// An engine without HCAs.
    pub fn new(config: EngineConfig) -> Self {
        Self {}
    }

    /// Adds an HCA, in its state after power-on, with its port up.
    pub fn add_hca(&mut self, config: HcaConfig) -> Result<HcaId, AddHcaError> {
        todo!()
    }

    /// Removes an HCA. Its peers see silence.
    pub fn remove_hca(&mut self, hca: HcaId) {
        todo!()
    }

    /// Resets an HCA to its state after power-on: PCI reset, function-level reset, its client went away.
    pub fn reset_hca(&mut self, hca: HcaId) {
        todo!()
    }

    /// Plugs or unplugs the cable of the HCA's port.
    pub fn set_link<E: Env>(&mut self, hca: HcaId, up: bool, now: Time, env: &E) {
        todo!()
    }

    /// A read of `size` bytes at `offset` in BAR 0.
    pub fn read_reg(&mut self, hca: HcaId, offset: u64, size: usize) -> u64 {
        todo!()
    }

    /// A write of `size` bytes at `offset` in BAR 0.
    pub fn write_reg<E: Env>(&mut self, hca: HcaId, offset: u64, size: usize, value: u64, now: Time, env: &E) {
        todo!()
    }

    /// A write of `size` bytes at `offset` in BAR 2. (Reads of BAR 2 are zero.)
    pub fn write_doorbell(&mut self, hca: HcaId, offset: u64, size: usize, value: u64) {
        todo!()
    }

    /// Does what there is to do.
    pub fn poll<E: Env>(&mut self, now: Time, budget: Budget, env: &E) -> Progress {
        todo!()
    }

    /// Announces that the caller will stop polling. `false`: there is work, poll on (the announcement is withdrawn).
    pub fn prepare_sleep<E: Env>(&mut self, env: &E) -> bool {
        todo!()
    }

    /// Withdraws the announcement of [`Engine::prepare_sleep`].
    pub fn wake<E: Env>(&mut self, env: &E) {
        todo!()
    }

    /// The HCA's DMA mappings have changed: `env` shows the new ones.
    pub fn ram_changed<E: Env>(&mut self, hca: HcaId, now: Time, env: &E) {
        todo!()
    }

    /// The state of one HCA, or of all.
    pub fn dump(&self, hca: Option<HcaId>, now: Time) -> Dump {
        todo!()
    }
}
