// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The InfiniBand communication manager: how two queue pairs find each other, agree, and part (IBA vol. 1, chapter 12;
//! the RDMA IP CM service, annex A11).
//!
//! A connection is made by three datagrams between the GSIs (QP1) of two ports, REQ, REP, RTU, and ended by two, DREQ
//! and DREP; REJ refuses, MRA asks for patience. Datagrams get lost, come twice and overtake each other; the
//! [`Manager`] is what makes one story of them.
//!
//! It has no clock, no I/O and no locks: [`Manager::receive`] takes a datagram and the time, [`Manager::tick`] the time;
//! both hand datagrams to be sent and [`Event`]s to an [`Output`], and [`Manager::next_deadline`] says when to call again.
//! It knows neither hardware nor ioctl: queue pairs are numbers here, and moving them through their states is done by
//! whoever hears the events.
//!
//! Everything that a peer sends is hostile. A datagram is one fixed format that any bytes are a value of; what it
//! claims counts only if it comes from the GID that the connection was made with, which the receiving HCA vouches for
//! (the GRH), never the datagram itself. So a peer can end its own connections, and nobody else's.
//!
//! # Memory
//!
//! Natively and in the kernel alike: the containers are `rdma_uapi::sys`'s, the workspace's one seam for memory that can
//! fail. Storage given by the caller would do without, but then the caller had to bring what the protocol needs (lookup
//! by the peer's numbers, a heap of deadlines), and the protocol's invariants would be its burden. All memory of a
//! connection is found when its id is made ([`Manager::create`], or when a REQ arrives): nothing later can fail for want
//! of it.
//!
//! | module | idea |
//! |---|---|
//! | [`mad`] | the datagrams, field by field |
//! | [`ip`] | addresses and ports in a REQ: service ids and the private data's header |
//! | [`connection`] | what is known of one connection |
//! | `index`, `timers` | lookup by the peer's numbers; deadlines |
//! | [`manager`], `receive` | what the local side does; what a datagram does |

#![no_std]
#![forbid(unsafe_code)]

#[cfg(all(test, not(in_kernel)))]
extern crate std;

pub mod connection;
mod index;
pub mod ip;
pub mod mad;
pub mod manager;
mod receive;
mod timers;

pub use connection::{Route, State, Terms};
pub use mad::{Mad, RejectReason};
pub use manager::{Config, Error, Event, Id, Manager, Output, Reply, Request};

/// The longest that a peer makes us wait for one answer, or for the end of a time-wait: 17 s. The codes go up to 2.4 hours,
/// and sixteen times that would keep an id that nobody owns any more for a day and a half.
pub const MAX_WAIT: u8 = 22;
/// The longest that a peer's MRA makes us wait: 69 s, which is what Linux's `rdma_cm` asks for.
pub const MAX_SERVICE: u8 = 24;

/// Nanoseconds that the 5-bit code of a timeout means: 4.096 us * 2^code (IBA vol. 1, 12.7.23 and others).
pub const fn timeout(code: u8) -> u64 {
    4096 << (code & 31)
}
