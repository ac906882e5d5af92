// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a requester says to a responder, and what comes back.
//!
//! The unit is a [`Request`]: a run of packets of one message with consecutive PSNs. Locally a run is as long as a slice
//! of the copy; on a wire it is one packet. Nothing else passes between the two sides, so that what is under them can be
//! a single copy or RoCEv2.

use crate::qp::message::{Operation, Tail};
use core::time::Duration;
use verbena_hw::cqe::Status;
use verbena_hw::id::{Key, Psn};
use verbena_hw::qp::RNR_TIMER_10US;
use verbena_hw::wqe::AtomicArgs;

/// A run of request packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// PSN of its first packet.
    pub(crate) psn: Psn,
    /// Its packets: for a READ those of the response.
    pub(crate) packets: u32,
    /// The requester's path MTU in bytes.
    pub(crate) mtu: u32,
    /// The message begins here.
    pub(crate) first: bool,
    /// The message ends here.
    pub(crate) last: bool,
    /// RETH or AtomicETH: the target of the run's first byte.
    pub(crate) addr: u64,
    pub(crate) rkey: Key,
    /// Bytes of the run.
    pub(crate) len: u64,
    /// Bytes of the message.
    pub(crate) total: u64,
    /// ImmDt or IETH; counts with `last`.
    pub(crate) tail: Tail,
    /// SE bit of the BTH; counts with `last`.
    pub(crate) solicited: bool,
    /// AtomicETH, or FETH with the range's length.
    pub(crate) atomic: AtomicArgs,
}

/// NAK codes (IBA vol. 1, table 48: the syndrome's value field).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nak {
    /// PSN sequence error.
    Sequence,
    /// Invalid request.
    InvalidRequest,
    /// Remote access error.
    RemoteAccess,
    /// Remote operational error.
    RemoteOperation,
}

impl Nak {
    /// How the requester's work request ends; `None`: it is sent again.
    pub(crate) fn status(self) -> Option<Status> {
        match self {
            Nak::Sequence => None,
            Nak::InvalidRequest => Some(Status::REM_INV_REQ_ERR),
            Nak::RemoteAccess => Some(Status::REM_ACCESS_ERR),
            Nak::RemoteOperation => Some(Status::REM_OP_ERR),
        }
    }
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything up to and including this PSN was executed.
    Ack(Psn),
    /// No receive is there: try again after the time that this code stands for.
    Rnr(u8),
    /// It was not executed.
    Nak(Nak),
    /// Nothing comes back.
    Silence,
}

/// Packets that `len` bytes take; none take one as well.
#[inline]
pub(crate) fn packets(len: u64, mtu: u32) -> u32 {
    // MTUs are powers of two and messages at most 2^31 bytes.
    ((len + u64::from(mtu) - 1) >> mtu.trailing_zeros()).max(1) as u32
}

/// The time that an RNR timer code stands for (IBA vol. 1, table 45).
pub(crate) fn rnr_time(code: u8) -> Duration {
    Duration::from_micros(10 * u64::from(RNR_TIMER_10US[usize::from(code & 31)]))
}

/// The transport timeout of a code, 4.096 us * 2^code; `None`: none, which is code 0 (IBA vol. 1, 9.7.6.1.3).
pub(crate) fn response_timeout(code: u8) -> Option<Duration> {
    (code & 31 != 0).then(|| Duration::from_nanos(4096 << (code & 31)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h13_packets_of_a_message() {
        assert_eq!(packets(0, 1024), 1);
        assert_eq!(packets(1, 1024), 1);
        assert_eq!(packets(1024, 1024), 1);
        assert_eq!(packets(1025, 1024), 2);
        assert_eq!(packets(1 << 31, 256), 1 << 23);
    }

    #[test]
    fn h10_timers_are_those_of_the_specification() {
        assert_eq!(rnr_time(1), Duration::from_micros(10));
        assert_eq!(rnr_time(12), Duration::from_micros(640));
        assert_eq!(rnr_time(0), Duration::from_micros(655_360));
        assert_eq!(rnr_time(31), Duration::from_micros(491_520));
        assert_eq!(response_timeout(0), None);
        assert_eq!(response_timeout(1), Some(Duration::from_nanos(8192)));
        assert_eq!(response_timeout(14), Some(Duration::from_nanos(4096 << 14)));
    }
}
