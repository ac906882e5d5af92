// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Event queue entries.
//!
//! An event queue is a ring in guest memory bound to an MSI-X vector. Its consumer counter and its arming go through
//! its register ([`crate::regs::EQ_DB`]). Events that find the ring full wait in the device and are written when the
//! counter moves; none is lost.

use crate::layout::{assert_layout, open_enum};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest number of entries of an event queue: log2.
pub const MAX_LOG_ENTRIES: u8 = 17;

open_enum! {
    /// What happened. Values from 0x10 are the asynchronous events of IBA vol. 1, 11.6.3.
    pub struct Event(u8) {
        /// An armed completion queue got an entry. `number`: its CQN.
        COMPLETION = 0x01,
        /// A completion queue overflowed or its ring is unreachable. `number`: its CQN.
        CQ_ERR = 0x10,
        /// A work request failed where no completion can tell. `number`: the QPN.
        QP_FATAL = 0x11,
        /// The peer's request violated the transport. `number`: the QPN.
        QP_REQ_ERR = 0x12,
        /// The peer's request violated access rights. `number`: the QPN.
        QP_ACCESS_ERR = 0x13,
        /// A message arrived in RTR. `number`: the QPN.
        COMM_EST = 0x14,
        /// The send queue has drained. `number`: the QPN.
        SQ_DRAINED = 0x15,
        /// The last WQE of a queue on a shared receive queue has been consumed. `number`: the QPN.
        LAST_WQE_REACHED = 0x16,
        /// A shared receive queue failed. `number`: the SRQN.
        SRQ_ERR = 0x17,
        /// A shared receive queue went below its limit. `number`: the SRQN.
        SRQ_LIMIT_REACHED = 0x18,
        /// The port became active. `number`: the port.
        PORT_ACTIVE = 0x20,
        /// The port went down. `number`: the port.
        PORT_ERR = 0x21,
        /// The GID table changed. `number`: the port.
        GID_CHANGE = 0x22,
        /// The device failed; STATUS and HEALTH say how.
        DEVICE_FATAL = 0x2f,
    }
}

/// An event queue entry. Word 0 is written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Eqe {
    /// Phase bit.
    pub owner: u8,
    /// An [`Event`].
    pub event: u8,
    /// Zero.
    pub reserved0: u16,
    /// The number of the object concerned.
    pub number: u32,
    /// The cookie that the object was created with; zero for the port and the device.
    pub cookie: u64,
    /// When the event was raised, in nanoseconds of the device's clock.
    pub timestamp: u64,
    /// More about it: with errors the [`crate::cqe::vendor`] reason.
    pub data: u64,
}
assert_layout!(Eqe, 32, owner @ 0, event @ 1, number @ 4, cookie @ 8, timestamp @ 16, data @ 24);
