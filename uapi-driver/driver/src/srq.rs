// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues.

use crate::context::{Answer, MESSAGE};
use crate::cq::CqShared;
use crate::error::{Error, Result};
use crate::event::EventQueueShared;
use crate::object::Object;
use crate::ring::memory::Ring;
use crate::ring::shared::SharedRing;
use crate::ring::table::QpSlot;
use crate::ring::work::{PostError, RecvWr};
use crate::{CompletionCounter, CompletionQueue, Context, EventQueue, ProtectionDomain, XrcDomain};
use rdma_uapi::class::{self, srq};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::sync::Arc;
use verbena_core::schema::{CQE_COOKIE, SRQ_RING};

/// What queue pairs on a shared receive queue keep of it.
pub(crate) struct SrqShared {
    // Field order: destroyed before what it stands on can go.
    pub(crate) object: Object,
    _pd: Arc<Object>,
    _events: Option<Arc<EventQueueShared>>,
    /// Of one that XRC's requests name: by which its completions are known, where they come, and its domain.
    _xrc: Option<(QpSlot, Arc<CqShared>, Arc<Object>)>,
}

/// What is to be chosen of a new shared receive queue.
#[must_use = "a builder makes nothing until `build`"]
pub struct SrqBuilder<'a> {
    pd: &'a ProtectionDomain,
    depth: u32,
    max_sge: u32,
    limit: u32,
    events: Option<(&'a EventQueue, u64)>,
    xrc: Option<(&'a XrcDomain, &'a Arc<CqShared>)>,
}

impl<'a> SrqBuilder<'a> {
    /// At least this many entries.
    pub fn depth(mut self, entries: u32) -> Self {
        self.depth = entries;
        self
    }

    /// The most elements of a receive.
    pub fn max_sge(mut self, elements: u32) -> Self {
        self.max_sge = elements;
        self
    }

    /// As [`SharedReceiveQueue::arm_limit`]. Nothing is posted yet, so the event comes at once.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Reports to this queue; events carry `cookie`.
    pub fn events(mut self, queue: &'a EventQueue, cookie: u64) -> Self {
        self.events = Some((queue, cookie));
        self
    }

    /// XRC's requests name it, by [`SharedReceiveQueue::srqn`]: those that come to any target of `domain`. Its receives complete
    /// to `cq`, and no queue pair can stand on it.
    pub fn xrc(mut self, domain: &'a XrcDomain, cq: &'a CompletionQueue) -> Self {
        self.xrc = Some((domain, &cq.shared));
        self
    }

    /// The same, with its receives counted.
    pub fn xrc_counted(mut self, domain: &'a XrcDomain, counter: &'a CompletionCounter) -> Self {
        self.xrc = Some((domain, &counter.shared));
        self
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// A size is 0 or more than the device allows; the device has no more such queues, or is gone.
    pub fn build(self) -> Result<SharedReceiveQueue> {
        const DOING: &str = "make a shared receive queue";
        let context = self.pd.context();
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::SRQ, 0);
        message
            .put(srq::PD, &self.pd.object.id())
            .put(srq::MAX_WR, &self.depth)
            .put(srq::MAX_SGE, &self.max_sge)
            .put(srq::LIMIT, &self.limit);
        if let Some((queue, cookie)) = self.events {
            message
                .put(class::EVENT_QUEUE_OF, &queue.id())
                .put(class::COOKIE, &cookie);
        }
        let mut xrc = None;
        if let Some((domain, cq)) = self.xrc {
            let slot = context.qps().claim();
            let slot = slot.ok_or(Error::Argument("the context has a million queue pairs already"))?;
            message
                .put(srq::XRCD, &domain.object.id())
                .put(srq::CQ, &cq.object.id())
                .put(CQE_COOKIE, &slot.cookie());
            xrc = Some((slot, cq.clone(), domain.object.clone()));
        }
        message.ask(srq::SRQN).ask(SRQ_RING);
        let answer = context.call(DOING, method::CREATE, message)?;
        let object = Object::new(context, class::SRQ, answer.object(), "destroy a shared receive queue");
        let max_sge = answer.expect(DOING, srq::MAX_SGE)?;
        Ok(SharedReceiveQueue {
            ring: ring(context, DOING, &answer, max_sge)?,
            srqn: answer.expect(DOING, srq::SRQN)?,
            max_sge,
            shared: Arc::new(SrqShared {
                object,
                _pd: self.pd.object.clone(),
                _events: self.events.map(|(queue, _)| queue.shared().clone()),
                _xrc: xrc,
            }),
        })
    }
}

/// Maps the ring that an answer names.
fn ring(context: &Context, doing: &'static str, answer: &Answer<'_>, max_sge: u32) -> Result<SharedRing> {
    let place = answer.expect(doing, SRQ_RING)?;
    let mapping = context.map(place.mmap_offset, place.mmap_length)?;
    Ring::new(mapping.clone(), 0, place.log_entries, place.log_stride)
        .and_then(|ring| {
            let record = usize::try_from(place.record_offset).ok()?;
            SharedRing::new(ring, mapping, record, place.posted, max_sge)
        })
        .ok_or(Error::Answer {
            doing,
            what: "ring and record do not fit their memory",
        })
}

/// Receives that any of several queue pairs takes when it needs one, in the order in which they were posted.
///
/// Posting makes no system call, takes no lock and allocates nothing. One thread at a time posts; the queue pairs on it
/// may be used by others meanwhile. A receive completes to the completion queue of the queue pair that took it.
pub struct SharedReceiveQueue {
    ring: SharedRing,
    srqn: u32,
    max_sge: u32,
    pub(crate) shared: Arc<SrqShared>,
}

impl SharedReceiveQueue {
    /// A new one, for memory of `pd`; 256 entries with 2 elements each unless told otherwise.
    pub fn builder(pd: &ProtectionDomain) -> SrqBuilder<'_> {
        SrqBuilder {
            pd,
            depth: 256,
            max_sge: 2,
            limit: 0,
            events: None,
            xrc: None,
        }
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.shared.object.context()
    }

    /// The number that the device knows it by.
    pub fn srqn(&self) -> u32 {
        self.srqn
    }

    /// Entries.
    pub fn depth(&self) -> u32 {
        self.ring.entries()
    }

    /// The most elements of a receive.
    pub fn max_sge(&self) -> u32 {
        self.max_sge
    }

    /// Receives that are posted and that no queue pair has taken.
    pub fn posted(&self) -> u32 {
        self.ring.posted()
    }

    /// Posts a receive.
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then. [`PostError::QueueFull`] ends when a queue pair takes a receive.
    #[inline(always)]
    pub fn post(&mut self, wr: &RecvWr<'_>) -> Result<(), PostError> {
        self.ring.push(wr)
    }

    /// Asks for one [`crate::EventKind::SrqLimitReached`] when fewer than `limit` receives are posted, which may be now;
    /// 0 asks for none.
    ///
    /// # Errors
    ///
    /// The limit is more than the queue's entries; the queue has failed; the device is gone.
    pub fn arm_limit(&self, limit: u32) -> Result<()> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::SRQ, self.shared.object.id().0);
        message.put(srq::LIMIT, &limit);
        self.context()
            .call("arm the limit of a shared receive queue", method::MODIFY, message)?;
        Ok(())
    }

    /// The limit that is armed; 0 if none is, or it was reached.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn limit(&self) -> Result<u32> {
        const DOING: &str = "query a shared receive queue";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::SRQ, self.shared.object.id().0);
        message.ask(srq::LIMIT);
        self.context()
            .call(DOING, method::QUERY, message)?
            .expect(DOING, srq::LIMIT)
    }

    /// Gives it at least `entries` entries. Receives that are posted stay posted; traffic goes on meanwhile.
    ///
    /// # Errors
    ///
    /// EBUSY: more are posted. The number is less than the limit, 0, or more than the device allows; the queue has
    /// failed; the device is gone. It is what it was then.
    pub fn resize(&mut self, entries: u32) -> Result<()> {
        const DOING: &str = "resize a shared receive queue";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::SRQ, self.shared.object.id().0);
        message.put(srq::MAX_WR, &entries).ask(SRQ_RING);
        let answer = self.context().call(DOING, method::MODIFY, message)?;
        self.ring = ring(self.context(), DOING, &answer, self.max_sge)?;
        Ok(())
    }

    /// Destroys it. Dropping it does the same, when the last queue pair on it is gone.
    ///
    /// # Errors
    ///
    /// EBUSY while there are queue pairs on it.
    pub fn destroy(self) -> Result<()> {
        self.shared.object.destroy()
    }
}

impl fmt::Debug for SharedReceiveQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedReceiveQueue({:#x}, {} entries)", self.srqn, self.depth())
    }
}
