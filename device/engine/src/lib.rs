// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HCA's behaviour: registers, admin queue, objects, queue pairs, transport, fabric.
//!
//! No I/O, no clock, no threads: guest memory, time and interrupts are arguments ([`Env`], [`Time`]). Whoever owns an
//! [`Engine`] passes register accesses in and calls [`Engine::poll`]; everything else follows from these.
//!
//! # Who trusts whom
//!
//! Everything in guest memory is hostile: entries and commands are copied once, then checked, then used. Addresses are
//! resolved at every access, or once a turn ([`GuestRam`]), so memory that a guest unmaps is simply not there any more. A
//! guest's fault is a status, an event or an error state; an `assert` or `expect` in this crate is about the engine's own bugs.
//!
//! # Rooms
//!
//! | module | what it is |
//! |---|---|
//! | `engine`, `schedule`, `watch` | turns, timers, sleep, queues that need no doorbell |
//! | `hca` | one HCA, and what its objects do together |
//! | `regs`, `doorbell` | the two BARs |
//! | `admin` | commands |
//! | `mr`, `pages` | memory regions and keys |
//! | `mw` | memory windows |
//! | `cq`, `eq` | completions and events |
//! | `srq` | receives that queue pairs share |
//! | `counter_set` | objects that count what queue pairs do |
//! | `flow`, `frame` | rules that steer raw frames, and the headers that they compare |
//! | `qp` | queue pairs and the transport |
//! | `packet` | the transport over packets |
//! | `fabric`, `multicast` | who has which GID, and who is in which group |
//! | `dump`, `inspect`, `incident` | the state, one queue pair with its rings, and what went wrong lately: for people |
#![forbid(unsafe_code)]

mod admin;
mod counter_set;
mod counters;
mod cq;
mod doorbell;
pub mod dump;
mod engine;
mod env;
mod eq;
mod fabric;
mod fast;
mod flow;
mod frame;
mod hca;
pub mod incident;
pub mod inspect;
mod limits;
pub mod loan;
mod mr;
mod multicast;
mod mw;
mod packet;
mod pages;
mod qp;
mod ram;
mod regs;
mod regulars;
mod ring;
mod rng;
mod schedule;
mod srq;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod watch;

pub use dump::Dump;
pub use engine::Engine;
pub use env::{Dma, Env, GuestRam, HcaId};
pub use inspect::QpReport;
pub use loan::Loan;
pub use packet::outbox::Packet;
pub use time::Time;

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where memory keys and other numbers that guests must not guess come from.
    pub seed: u64,
    /// Whom packets lead to.
    pub uplink: Uplink,
    /// Threads that poll it, one at least. Worker 0 sees to the admin queues.
    pub workers: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            uplink: Uplink::None,
            workers: 1,
        }
    }
}

/// Which destinations are reached by packets, which the engine's owner carries: out of [`Engine::transmit`], into
/// [`Engine::receive`]. All others are reached by a single copy; what both do is the same.
///
/// A connection is of one kind or the other from the transition to RTR on, as the fabric is then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// None: there is nothing beyond this engine's HCAs.
    #[default]
    None,
    /// Those that are not this engine's.
    Others,
    /// All, this engine's own HCAs among them.
    All,
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

impl core::fmt::Display for AddHcaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("another HCA has this MAC address")
    }
}

impl std::error::Error for AddHcaError {}

/// How much one [`Engine::poll`] may do before it returns.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Messages and commands, roughly.
    pub operations: u32,
    /// Bytes copied, roughly.
    pub bytes: u64,
}

impl Budget {
    #[inline]
    fn is_spent(&self) -> bool {
        self.operations == 0 || self.bytes == 0
    }
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
