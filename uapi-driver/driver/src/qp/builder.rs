// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a queue pair.

use super::{AnyQp, Qp, QpAttr, Rc, Transport};
use crate::batch::Part;
use crate::context::{Answer, MESSAGE};
use crate::cq::CqShared;
use crate::doorbell::{Doorbell, DoorbellSlot};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::ring::memory::Ring;
use crate::ring::place::{Place, RingMemory};
use crate::ring::recv::RecvRing;
use crate::ring::send::SendRing;
use crate::ring::table::{Places, QpSlot, Side};
use crate::{CompletionCounter, CompletionQueue, Context, EventQueue, ProtectionDomain, SharedReceiveQueue};
use rdma_uapi::class::qp::{self, QpCaps};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use verbena_core::layout;
use verbena_core::platform::PAGE;
use verbena_core::schema::{QpRings, CQE_COOKIE, DOORBELL, QP_RINGS, RING_MEMORY};
use verbena_hw::id::{Psn, Qpn};
use verbena_hw::qp::QpState;

/// What CREATE is, in a sentence.
pub(crate) const DOING: &str = "make a queue pair";

/// Of a [`QpBuilder`]: what the queue pair stands on exists.
#[derive(Debug)]
pub struct Standing(());

/// Of a [`QpBuilder`]: what the queue pair stands on may be made by the same [`crate::Batch`].
#[derive(Debug)]
pub struct Batched(());

/// What is to be chosen of a new queue pair. [`QpBuilder::build`] makes it at once, [`crate::Batch::create_qp`] with others.
#[must_use = "a builder makes nothing until `build`"]
pub struct QpBuilder<'a, When = Standing, T: Transport = Rc> {
    pub(crate) pd: Part<'a, ProtectionDomain>,
    pub(crate) send_cq: Completes<'a>,
    pub(crate) recv_cq: Completes<'a>,
    srq: Option<&'a SharedReceiveQueue>,
    caps: QpCaps,
    signal_all: bool,
    attributes: Option<QpAttr>,
    events: Option<(&'a EventQueue, u64)>,
    when: PhantomData<(When, T)>,
}

/// Where a queue completes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Completes<'a> {
    Queue(Part<'a, CompletionQueue>),
    Counter(Part<'a, CompletionCounter>),
}

impl Completes<'_> {
    /// What is there already.
    fn shared(&self) -> &Arc<CqShared> {
        match self {
            Completes::Queue(Part::Made(cq)) => &cq.shared,
            Completes::Counter(Part::Made(counter)) => &counter.shared,
            Completes::Queue(Part::New(_)) | Completes::Counter(Part::New(_)) => {
                unreachable!("only a batch's builder is made of tickets")
            }
        }
    }
}

/// The ids of what a queue pair stands on.
pub(crate) struct Names {
    pub(crate) pd: ObjectId,
    pub(crate) send_cq: ObjectId,
    pub(crate) recv_cq: ObjectId,
    /// What its rings are to be part of.
    pub(crate) memory: Option<ObjectId>,
}

/// What a queue pair stands on.
pub(crate) struct Ground {
    pub(crate) pd: Arc<Object>,
    pub(crate) send_cq: Arc<CqShared>,
    pub(crate) recv_cq: Arc<CqShared>,
    pub(crate) memory: Option<Arc<RingMemory>>,
    /// Counters that were not there yet when its slots were taken, for its sends and for its receives.
    pub(crate) places: [Option<Arc<Places>>; 2],
}

/// What a queue pair needs before it is made: a slot of a doorbell page and one in the table of cookies.
pub(crate) struct Slots {
    doorbell: DoorbellSlot,
    table: QpSlot,
}

impl Slots {
    fn take(context: &Context) -> Result<Self> {
        let table = context.qps().claim();
        Ok(Self {
            table: table.ok_or(Error::Argument("the context has a million queue pairs already"))?,
            doorbell: Doorbell::take(context)?,
        })
    }

    /// Completions of `side` are counted there.
    fn count(&mut self, side: Side, places: &Arc<Places>) -> Result<()> {
        if self.table.count(side, places) {
            return Ok(());
        }
        Err(Error::Argument(
            "the counter has no room for so many queue pairs of the context",
        ))
    }
}

impl<'a, When, T: Transport> QpBuilder<'a, When, T> {
    pub(super) fn new(
        pd: Part<'a, ProtectionDomain>,
        send_cq: Part<'a, CompletionQueue>,
        recv_cq: Part<'a, CompletionQueue>,
    ) -> Self {
        Self::over(pd, Completes::Queue(send_cq), Completes::Queue(recv_cq))
    }

    pub(super) fn over(pd: Part<'a, ProtectionDomain>, send_cq: Completes<'a>, recv_cq: Completes<'a>) -> Self {
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
            srq: None,
            caps,
            signal_all: false,
            attributes: None,
            events: None,
            when: PhantomData,
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

    /// It takes its receives from `srq`: it has no receive queue of its own.
    pub fn shared_receives(mut self, srq: &'a SharedReceiveQueue) -> Self {
        self.srq = Some(srq);
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

    /// Makes it with these attributes, in the state that they name: all that MODIFY would take on the way there, in the
    /// one call that makes it. RESET without any.
    pub fn attributes(mut self, attributes: QpAttr) -> Self {
        self.attributes = Some(attributes);
        self
    }

    /// The same choices, for a batch.
    pub(crate) fn for_batch(self) -> QpBuilder<'a, Batched, T> {
        QpBuilder {
            pd: self.pd,
            send_cq: self.send_cq,
            recv_cq: self.recv_cq,
            srq: self.srq,
            caps: self.caps,
            signal_all: self.signal_all,
            attributes: self.attributes,
            events: self.events,
            when: PhantomData,
        }
    }

    /// The first PSN that it sends, if that is chosen.
    pub(crate) fn first_psn(&self) -> Option<Psn> {
        self.attributes.as_ref().and_then(QpAttr::first_psn)
    }

    /// The state that it will be in.
    pub(crate) fn state(&self) -> QpState {
        let given = self.attributes.as_ref().and_then(|attributes| attributes.state);
        given.unwrap_or(QpState::RESET)
    }

    /// What it needs before it is made.
    pub(crate) fn slots(&self, context: &Context) -> Result<Slots> {
        let mut slots = Slots::take(context)?;
        for (side, to) in [(Side::Send, &self.send_cq), (Side::Recv, &self.recv_cq)] {
            match to {
                Completes::Counter(Part::Made(counter)) => slots.count(side, &counter.places)?,
                // Those of one that the batch makes are there when it is made.
                Completes::Counter(Part::New(_)) | Completes::Queue(_) => {}
            }
        }
        Ok(slots)
    }

    /// Whether it has a receive queue of its own.
    fn has_recv_ring(&self) -> bool {
        T::RECEIVES && self.srq.is_none()
    }

    /// What it is aligned to in a ring memory, packed or not, and the bytes that it takes; `None`: there can be no such queue
    /// pair.
    pub(crate) fn room(&self, packed: bool) -> Option<(u64, u64)> {
        let shared = !self.has_recv_ring();
        match packed {
            true => layout::packed_qp(T::CLASS, &self.caps, shared),
            false => Some((PAGE, layout::qp_bytes(T::CLASS, &self.caps, shared)?)),
        }
    }

    /// The message of CREATE.
    pub(crate) fn message<'m>(&self, words: &'m mut [u64], on: &Names, slots: &Slots) -> Builder<'m> {
        let mut message = Builder::new(words, T::CLASS, 0);
        message.put(qp::PD, &on.pd);
        message.put(qp::SEND_CQ, &on.send_cq);
        if T::RECEIVES {
            message.put(qp::RECV_CQ, &on.recv_cq);
        }
        message.put_some(qp::SRQ, self.srq.map(|srq| srq.shared.object.id()));
        message.put(qp::CAPS, &self.caps);
        message.put(qp::FLAGS, &if self.signal_all { qp::flag::SIGNAL_ALL } else { 0 });
        message
            .put(DOORBELL, &slots.doorbell.id())
            .put(CQE_COOKIE, &slots.table.cookie())
            .put_some(RING_MEMORY, on.memory);
        if let Some(attributes) = &self.attributes {
            attributes.write(&mut message);
        }
        if let Some((queue, cookie)) = self.events {
            message
                .put(class::EVENT_QUEUE_OF, &queue.id())
                .put(class::COOKIE, &cookie);
        }
        message.ask(qp::QPN).ask(QP_RINGS);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(self, context: &Context, answer: &Answer<'_>, on: Ground, mut slots: Slots) -> Result<Qp<T>> {
        let object = Object::new(context, T::CLASS, answer.object(), "destroy a queue pair");
        for (side, places) in [Side::Send, Side::Recv].into_iter().zip(&on.places) {
            if let Some(places) = places {
                slots.count(side, places)?;
            }
        }
        let caps = answer.expect(DOING, qp::CAPS)?;
        let qpn = Qpn::new(answer.expect(DOING, qp::QPN)?);
        let qpn = qpn.ok_or(Error::Answer {
            doing: DOING,
            what: "its number has more than 24 bits",
        })?;
        let rings = answer.expect(DOING, QP_RINGS)?;
        let place = Place::of(context, on.memory.as_ref(), rings.mmap_offset, rings.mmap_length)?;
        let (send, recv) = queues(&place, &rings, &caps, !self.has_recv_ring()).ok_or(Error::Answer {
            doing: DOING,
            what: "its rings do not fit their memory",
        })?;
        let psn = self.first_psn();
        Ok(Qp {
            transport: PhantomData,
            groups: Vec::new(),
            rules: Vec::new(),
            send,
            recv,
            state: self.state(),
            doorbell_slot: rings.slot,
            doorbell: slots.doorbell,
            object,
            slot: slots.table,
            qpn,
            // Anything that peers do not guess will do; the hasher's keys are random.
            psn: psn.unwrap_or_else(|| Psn::truncate(RandomState::new().hash_one(qpn.get()) as u32)),
            caps,
            send_cq: on.send_cq,
            recv_cq: on.recv_cq,
            _srq: self.srq.map(|srq| srq.shared.clone()),
            _pd: on.pd,
            _memory: on.memory,
            _events: self.events.map(|(queue, _)| queue.shared().clone()),
        })
    }
}

/// A queue pair of whatever type that a batch makes.
pub(crate) trait AnyNewQp<'a> {
    fn state(&self) -> QpState;
    fn first_psn(&self) -> Option<Psn>;
    fn room(&self, packed: bool) -> Option<(u64, u64)>;
    /// What it needs before it is made.
    fn slots(&self, context: &Context) -> Result<Slots>;
    /// What it stands on: protection domain, and where sends and receives complete.
    fn parts(&self) -> (Part<'a, ProtectionDomain>, [Completes<'a>; 2]);
    fn message<'m>(&self, words: &'m mut [u64], on: &Names, slots: &Slots) -> Builder<'m>;
    fn made(
        self: Box<Self>,
        context: &Context,
        answer: &Answer<'_>,
        on: Ground,
        slots: Slots,
    ) -> Result<Box<dyn AnyQp>>;
}

impl<'a, T: Transport> AnyNewQp<'a> for QpBuilder<'a, Batched, T> {
    fn state(&self) -> QpState {
        self.state()
    }

    fn first_psn(&self) -> Option<Psn> {
        self.first_psn()
    }

    fn room(&self, packed: bool) -> Option<(u64, u64)> {
        self.room(packed)
    }

    fn slots(&self, context: &Context) -> Result<Slots> {
        self.slots(context)
    }

    fn parts(&self) -> (Part<'a, ProtectionDomain>, [Completes<'a>; 2]) {
        (self.pd, [self.send_cq, self.recv_cq])
    }

    fn message<'m>(&self, words: &'m mut [u64], on: &Names, slots: &Slots) -> Builder<'m> {
        self.message(words, on, slots)
    }

    fn made(
        self: Box<Self>,
        context: &Context,
        answer: &Answer<'_>,
        on: Ground,
        slots: Slots,
    ) -> Result<Box<dyn AnyQp>> {
        Ok(Box::new((*self).made(context, answer, on, slots)?))
    }
}

impl<'a, T: Transport> QpBuilder<'a, Batched, T> {
    /// Its sends are counted, and complete to no queue. The counter is there, or the same batch makes it.
    pub fn count_sends(mut self, counter: impl Into<Part<'a, CompletionCounter>>) -> Self {
        self.send_cq = Completes::Counter(counter.into());
        self
    }

    /// Its receives are counted, and complete to no queue. The counter is there, or the same batch makes it.
    pub fn count_receives(mut self, counter: impl Into<Part<'a, CompletionCounter>>) -> Self {
        self.recv_cq = Completes::Counter(counter.into());
        self
    }
}

impl<'a, T: Transport> QpBuilder<'a, Standing, T> {
    /// Its sends are counted, and complete to no queue.
    pub fn count_sends(mut self, counter: &'a CompletionCounter) -> Self {
        self.send_cq = Completes::Counter(counter.into());
        self
    }

    /// Its receives are counted, and complete to no queue.
    pub fn count_receives(mut self, counter: &'a CompletionCounter) -> Self {
        self.recv_cq = Completes::Counter(counter.into());
        self
    }

    /// Makes it: in RESET, unless [`QpBuilder::attributes`] name another state.
    ///
    /// # Errors
    ///
    /// A size is more than the device allows; an attribute is missing or out of range; the device has no more queue pairs,
    /// or is gone.
    pub fn build(self) -> Result<Qp<T>> {
        let Part::Made(pd) = self.pd else {
            unreachable!("only a batch's builder is made of tickets")
        };
        let (send_cq, recv_cq) = (self.send_cq.shared(), self.recv_cq.shared());
        let context = pd.context();
        let names = Names {
            pd: pd.object.id(),
            send_cq: send_cq.object.id(),
            recv_cq: recv_cq.object.id(),
            memory: None,
        };
        let ground = Ground {
            pd: pd.object.clone(),
            send_cq: send_cq.clone(),
            recv_cq: recv_cq.clone(),
            memory: None,
            places: [None, None],
        };
        let slots = self.slots(context)?;
        let mut words = [0; MESSAGE];
        let message = self.message(&mut words, &names, &slots);
        let answer = context.call(DOING, method::CREATE, message)?;
        self.made(context, &answer, ground, slots)
    }
}

fn queues(place: &Place, rings: &QpRings, caps: &QpCaps, shared: bool) -> Option<(SendRing, Option<RecvRing>)> {
    if rings.slot >= verbena_hw::doorbell::SLOTS as u16 {
        return None;
    }
    let mapping = || place.mapping.clone();
    let send = Ring::new(mapping(), place.at, rings.send_log_entries, rings.send_log_stride)?;
    let send = SendRing::new(send, caps.max_send_sge, caps.max_inline);
    if shared {
        return Some((send, None));
    }
    let at = place.inside(rings.recv_offset)?;
    let recv = Ring::new(mapping(), at, rings.recv_log_entries, rings.recv_log_stride)?;
    Some((send, Some(RecvRing::new(recv, caps.max_recv_sge))))
}
