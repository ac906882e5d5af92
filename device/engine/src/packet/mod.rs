// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transport over packets: what is under requester and responder when the peer is not reached by a single copy.
//!
//! Fetching and checking work requests, completing them, the responder's checks and its receives are those of
//! [`crate::qp`]. Here is what only packets have: a sequence that can have gaps, answers that can be lost, and the memory
//! of what has been answered.
//!
//! | module | what it is |
//! |---|---|
//! | [`codec`] | packets as bytes |
//! | [`outbox`] | packets on their way out |
//! | [`sender`] | RC requester: what is in flight, what is sent next, retries and timers |
//! | [`arrivals`] | RC requester: acknowledgements and answers |
//! | [`answers`] | RC responder: the sequence, duplicates, answers that take several packets |
//! | [`unreliable`] | UC and datagrams, both ends |
//! | [`receive`] | whom a packet is for |

pub(crate) mod answers;
mod arrivals;
pub(crate) mod codec;
pub(crate) mod outbox;
pub(crate) mod receive;
pub(crate) mod sender;
pub(crate) mod unreliable;

use answers::Answers;
use sender::Sender;

/// What a queue pair has only when its peer is reached by packets.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) sender: Sender,
    pub(crate) answers: Answers,
}
