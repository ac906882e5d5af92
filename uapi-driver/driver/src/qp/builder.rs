// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a queue pair.

use super::RcQp;
use crate::context::MESSAGE;
use crate::doorbell::Doorbell;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::ring::memory::Ring;
use crate::ring::recv::RecvRing;
use crate::ring::send::SendRing;
use crate::{CompletionQueue, EventQueue, ProtectionDomain};
use rdma_uapi::class::qp::{self, QpCaps};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use rdma_uapi::{Errno, Reason};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use verbena_core::schema::{QpRings, CQE_COOKIE, DOORBELL, QP_RINGS};
use verbena_hw::id::{Psn, Qpn};
use verbena_hw::qp::QpState;

const DOING: &str = "make a queue pair";

/// What is to be chosen of a new queue pair.
#[must_use = "a builder makes nothing until `build`"]
pub struct QpBuilder<'a> {
    pd: &'a ProtectionDomain,
    send_cq: &'a CompletionQueue,
    recv_cq: &'a CompletionQueue,
    caps: QpCaps,
    signal_all: bool,
    events: Option<(&'a EventQueue, u64)>,
}

impl<'a> QpBuilder<'a> {
    pub(super) fn new(pd: &'a ProtectionDomain, send_cq: &'a CompletionQueue, recv_cq: &'a CompletionQueue) -> Self {
        let caps = QpCaps {
            max_send_wr: 128,
            max_recv_wr: 128,
            max_send_sge: 2,
            max_recv_sge: 2,
            max_inline: 32,
            ..QpCaps::default()
        };
        Self {
            pd,
            send_cq,
            recv_cq,
            caps,
            signal_all: false,
            events: None,
        }
    }

    /// At least this many entries of the send queue.
    pub fn send_depth(mut self, entries: u32) -> Self {
        self.caps.max_send_wr = entries;
        self
    }

    /// At least this many entries of the receive queue.
    pub fn recv_depth(mut self, entries: u32) -> Self {
        self.caps.max_recv_wr = entries;
        self
    }

    /// The most elements of a request, send or receive.
    pub fn max_sge(self, elements: u32) -> Self {
        self.max_send_sge(elements).max_recv_sge(elements)
    }

    /// The most elements of a send.
    pub fn max_send_sge(mut self, elements: u32) -> Self {
        self.caps.max_send_sge = elements;
        self
    }

    /// The most elements of a receive.
    pub fn max_recv_sge(mut self, elements: u32) -> Self {
        self.caps.max_recv_sge = elements;
        self
    }

    /// The most bytes of inline data.
    pub fn max_inline(mut self, bytes: u32) -> Self {
        self.caps.max_inline = bytes;
        self
    }

    /// Whether every send makes a completion, not only those that ask for one.
    pub fn signal_all(mut self, yes: bool) -> Self {
        self.signal_all = yes;
        self
    }

    /// Reports to this queue; events carry `cookie`.
    pub fn events(mut self, queue: &'a EventQueue, cookie: u64) -> Self {
        self.events = Some((queue, cookie));
        self
    }

    /// Makes it, in RESET.
    ///
    /// # Errors
    ///
    /// A size is more than the device allows; the device has no more queue pairs, or is gone.
    pub fn build(self) -> Result<RcQp> {
        let context = self.pd.context();
        let doorbell = Doorbell::of(context)?;
        match self.build_on(&doorbell) {
            // No slot is left on the page.
            Err(Error::Call(call)) if call.failure.errno == Errno::ENOSPC && call.failure.reason != Reason::DEVICE => {
                self.build_on(&Doorbell::after(context, &doorbell)?)
            }
            result => result,
        }
    }

    fn build_on(&self, doorbell: &Arc<Doorbell>) -> Result<RcQp> {
        let context = self.pd.context();
        let slot = context
            .qps()
            .claim()
            .ok_or(Error::Argument("the context has a million queue pairs already"))?;
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::QP_RC, 0);
        message.put(qp::PD, &self.pd.object.id());
        message.put(qp::SEND_CQ, &self.send_cq.shared.object.id());
        message.put(qp::RECV_CQ, &self.recv_cq.shared.object.id());
        message.put(qp::CAPS, &self.caps);
        message.put(qp::FLAGS, &if self.signal_all { qp::flag::SIGNAL_ALL } else { 0 });
        message.put(DOORBELL, &doorbell.id()).put(CQE_COOKIE, &slot.cookie());
        if let Some((queue, cookie)) = self.events {
            message
                .put(class::EVENT_QUEUE_OF, &queue.id())
                .put(class::COOKIE, &cookie);
        }
        message.ask(qp::QPN).ask(QP_RINGS);
        let answer = context.call(DOING, method::CREATE, message)?;
        let object = Object::new(context, class::QP_RC, answer.object(), "destroy a queue pair");
        let caps = answer.expect(DOING, qp::CAPS)?;
        let qpn = Qpn::new(answer.expect(DOING, qp::QPN)?);
        let qpn = qpn.ok_or(Error::Answer {
            doing: DOING,
            what: "its number has more than 24 bits",
        })?;
        let rings = answer.expect(DOING, QP_RINGS)?;
        let mapping = context.map(rings.mmap_offset, rings.mmap_length)?;
        let (send, recv) = queues(mapping, &rings, &caps).ok_or(Error::Answer {
            doing: DOING,
            what: "its rings do not fit their memory",
        })?;
        Ok(RcQp {
            send,
            recv,
            state: QpState::RESET,
            doorbell_slot: rings.slot,
            doorbell: doorbell.clone(),
            object,
            slot,
            qpn,
            // Anything that peers do not guess will do; the hasher's keys are random.
            psn: Psn::truncate(RandomState::new().hash_one(qpn.get()) as u32),
            caps,
            send_cq: self.send_cq.shared.clone(),
            recv_cq: self.recv_cq.shared.clone(),
            _pd: self.pd.object.clone(),
            _events: self.events.map(|(queue, _)| queue.shared().clone()),
        })
    }
}

fn queues(mapping: Arc<crate::memory::Mapping>, rings: &QpRings, caps: &QpCaps) -> Option<(SendRing, RecvRing)> {
    if rings.slot >= verbena_hw::doorbell::SLOTS as u16 {
        return None;
    }
    let send = Ring::new(mapping.clone(), 0, rings.send_log_entries, rings.send_log_stride)?;
    let offset = usize::try_from(rings.recv_offset).ok()?;
    let recv = Ring::new(mapping, offset, rings.recv_log_entries, rings.recv_log_stride)?;
    Some((
        SendRing::new(send, caps.max_send_sge, caps.max_inline),
        RecvRing::new(recv, caps.max_recv_sge),
    ))
}
