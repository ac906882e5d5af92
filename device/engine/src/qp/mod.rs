// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs.
//!
//! | module | what it is |
//! |---|---|
//! | [`message`] | a work request as the device holds it: copied once, checked, executed |
//! | [`sg`] | scatter lists, and the one copy from memory to memory |
//! | [`transport`] | what a requester says to a responder, and what comes back |
//! | [`requester`] | the send queue: execution, retries, completions |
//! | [`responder`] | the other end: sequence numbers, access, receive queue |
//! | [`express`] | the ordinary message, whole |
//! | [`local`] | the short cut between two queue pairs of one server |
//! | [`datagram`] | UD and the general services interface: both ends of a message that nobody acknowledges |
//! | [`unreliable`] | UC: both ends of a connection without acknowledgements |
//! | [`raw`] | raw Ethernet: both ends of a frame |
//! | [`xrc`] | XRC: what a shared receive queue that a message names changes |
//! | [`flush`] | what happens to outstanding work in ERR |
//! | [`pace`] | the rate limit of a send queue |
//! | [`modify`] | the state machine |

pub(crate) mod datagram;
pub(crate) mod express;
pub(crate) mod flush;
pub(crate) mod local;
pub(crate) mod message;
pub(crate) mod modify;
pub(crate) mod pace;
pub(crate) mod raw;
pub(crate) mod requester;
pub(crate) mod responder;
pub(crate) mod sg;
pub(crate) mod transport;
pub(crate) mod unreliable;
pub(crate) mod xrc;

use crate::env::{Dma, GuestRam, HcaId};
use crate::hca::Side;
use crate::packet::Wire;
use crate::ram;
use crate::regulars::Standing;
use crate::ring::Ring;
use crate::time::Time;
use core::sync::atomic::Ordering;
use message::{Message, Receive};
use verbena_hw::cqe::{self, Cqe};
use verbena_hw::id::{Cqn, Eqn, Gid, Pdn, Psn, Qpn, Srqn};
use verbena_hw::qp::{QpAttrs, QpState, QpType};

/// What a queue pair waits for before its send queue goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing.
    #[default]
    Nothing,
    /// The time that the peer asked for because it had no receive.
    Rnr,
    /// A response, until the transport timeout.
    Response,
    /// Nothing: in ERR, to look once more for receives that were posted without a doorbell.
    Rescan,
}

/// A queue pair.
pub(crate) struct Qp {
    pub(crate) kind: QpType,
    pub(crate) qpn: Qpn,
    pub(crate) cookie: u64,
    /// An XRC target has that of the shared receive queue that was named last.
    pub(crate) pdn: Pdn,
    pub(crate) send_cqn: Cqn,
    pub(crate) recv_cqn: Cqn,
    /// Where its receives come from, if it has no receive queue; 0: nowhere.
    pub(crate) srqn: Srqn,
    pub(crate) eqn: Eqn,
    pub(crate) doorbell: u32,
    pub(crate) slot: u16,
    pub(crate) signal_all: bool,
    pub(crate) max_send_sge: u8,
    pub(crate) max_recv_sge: u8,
    pub(crate) max_inline: u16,

    pub(crate) state: QpState,
    /// What must be taken away before it can be: multicast groups that it is attached to, flow rules that lead to it.
    pub(crate) groups: u32,
    /// As MODIFY_QP set them; `state` and the PSNs in it are not kept up to date.
    pub(crate) attrs: QpAttrs,
    /// An XRC target has none, and never looks at it.
    pub(crate) sq: Ring,
    /// `None`: created without a receive queue.
    pub(crate) rq: Option<Ring>,
    pub(crate) req: Requester,
    pub(crate) resp: Responder,
    /// Its peer is reached by packets.
    pub(crate) wire: Option<Box<Wire>>,

    /// In the schedule's list of those that have a turn coming.
    pub(crate) active: bool,
    /// Has a seat: the device looks at its send queue without being rung ([`crate::watch`]).
    pub(crate) seated: bool,
    pub(crate) wait: Wait,
    /// The schedule's timer of this queue pair, if one runs.
    pub(crate) deadline: Option<Time>,
    /// How often [`Wait::Rescan`] has expired since the queue pair entered ERR.
    pub(crate) rescans: u8,
    /// LAST_WQE_REACHED has been raised since it entered ERR.
    pub(crate) last_wqe: bool,
    /// Memory windows that it has bound.
    pub(crate) windows: u32,
    pub(crate) regular: Standing,
    /// The counter set that it is bound to; 0: none.
    pub(crate) counter_set: u32,
    pub(crate) xrc: xrc::Domain,
    /// The rate limit of its send queue, if it has one.
    pub(crate) pace: Option<Box<pace::Pace>>,
}

/// The send queue's side of the transport.
#[derive(Debug, Default)]
pub(crate) struct Requester {
    /// Counter of the send entry that is executed, or comes next.
    pub(crate) consumer: u32,
    /// PSN of the next new message.
    pub(crate) psn: Psn,
    pub(crate) retries_left: u8,
    pub(crate) rnr_left: u8,
    /// SQ_DRAINED is to be raised when nothing is in flight any more.
    pub(crate) notify_drained: bool,
    /// The message in flight, when its turn ended before it did.
    pub(crate) current: Option<Box<Message>>,
    pub(crate) link: Link,
}

/// The peer that a path leads to, as the fabric said at `epoch`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) epoch: u64,
    /// [`crate::fabric::Fabric::ways`] when the queue pair there was last seen to name this one.
    pub(crate) mutual: u64,
    pub(crate) peer: Option<HcaId>,
    /// The source GID.
    pub(crate) sgid: Gid,
}

/// The receive queue's side of the transport.
#[derive(Debug, Default)]
pub(crate) struct Responder {
    /// Counter of the receive entry that comes next.
    pub(crate) consumer: u32,
    /// The PSN that comes next.
    pub(crate) psn: Psn,
    /// Message sequence number: messages completed, modulo 2^24 (IBA vol. 1, 9.7.5.1.2).
    pub(crate) msn: u32,
    /// The message whose first part has arrived and whose last has not.
    pub(crate) arriving: Arriving,
    /// UC, raw Ethernet: the receive of a message that was dropped on the way, for the next one.
    pub(crate) spare: Option<Box<Receive>>,
    /// COMM_EST has been raised.
    pub(crate) established: bool,
}

/// What a responder is in the middle of.
#[derive(Debug, Default)]
pub(crate) enum Arriving {
    /// Nothing.
    #[default]
    Nothing,
    /// A SEND into this receive.
    Send(Box<Receive>),
    /// A WRITE; with its last part, the id of the receive that its immediate data completes.
    Write(Option<u64>),
}

impl Qp {
    /// The number that the fabric knows it by.
    pub(crate) fn fabric_qpn(&self) -> Qpn {
        if self.kind == QpType::GSI {
            Qpn::GSI
        } else {
            self.qpn
        }
    }

    /// Word 0 of the send queue's next entry, whether it has been posted or not; `None`: it is not mapped. Says what to look at
    /// and orders nothing.
    #[inline]
    pub(crate) fn next_word<R: GuestRam>(&self, ram: &R) -> Option<u64> {
        let entry = ram::whole(ram, self.sq.addr(self.req.consumer), 8, Dma::Read).ok()?;
        Some(ram::word(&entry, 0).ok()?.load(Ordering::Relaxed))
    }

    /// Fills in what the queue pair knows of a completion, once its consumer counter is that after the work request; says
    /// which queue it goes to.
    #[inline]
    pub(crate) fn sign(&self, cqe: &mut Cqe, side: Side, now: Time) -> Cqn {
        cqe.qpn = self.qpn;
        cqe.cookie = self.cookie;
        cqe.timestamp = now.as_nanos();
        match side {
            Side::Send => {
                cqe.consumed = self.req.consumer;
                self.send_cqn
            }
            Side::Recv => {
                cqe.consumed = self.resp.consumer;
                cqe.flags |= cqe::flags::RECV;
                self.recv_cqn
            }
        }
    }

    /// Returns both sides to the beginning, as RESET requires.
    pub(crate) fn rewind(&mut self) {
        assert_eq!(self.wait, Wait::Nothing, "the schedule still waits for this queue pair");
        self.state = QpState::RESET;
        self.attrs = QpAttrs::default();
        self.req = Requester::default();
        self.resp = Responder::default();
        self.wire = None;
        self.pace = None;
        self.rescans = 0;
        self.last_wqe = false;
        self.xrc.srqn = Srqn::default();
    }
}

/// Memory for messages in execution, used again: no allocation a message.
#[derive(Default)]
#[expect(
    clippy::vec_box,
    reason = "a message moves between here and its queue pair, half a kilobyte each time but for the box"
)]
pub(crate) struct Pool {
    messages: Vec<Box<Message>>,
    receives: Vec<Box<Receive>>,
}

/// What a pool keeps at most: more messages than this are in flight only while slices or retries are.
const POOL: usize = 64;

impl Pool {
    #[inline]
    pub(crate) fn message(&mut self) -> Box<Message> {
        self.messages.pop().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn give_message(&mut self, message: Box<Message>) {
        if self.messages.len() < POOL {
            self.messages.push(message);
        }
    }

    #[inline]
    pub(crate) fn receive(&mut self) -> Box<Receive> {
        self.receives.pop().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn give_receive(&mut self, receive: Box<Receive>) {
        if self.receives.len() < POOL {
            self.receives.push(receive);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h04_an_idle_queue_pair_takes_less_than_a_kilobyte() {
        // Its box, its slot in the table, its slot in the doorbell page. Rings of one stretch, and everything that an
        // idle queue pair has not got (a message in flight, one arriving), allocate nothing.
        let bytes = size_of::<Qp>() + size_of::<(u8, Option<Box<Qp>>)>() + size_of::<Option<Qpn>>();
        assert!(bytes <= 1024, "{bytes} bytes");
        assert_eq!(size_of::<Option<Box<Message>>>(), size_of::<usize>());
    }
}
