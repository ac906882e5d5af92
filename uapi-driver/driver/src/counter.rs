// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion counters.

use crate::context::{Answer, MESSAGE};
use crate::cq::{CqShared, Mapped};
use crate::error::{Error, Result};
use crate::event::EventQueue;
use crate::memory::View;
use crate::object::Object;
use crate::ring::table::Places;
use crate::Context;
use rdma_uapi::class::{self, counter};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::sync::atomic::{fence, AtomicU32, Ordering};
use std::sync::Arc;
use verbena_core::schema::CQ_RING;
use verbena_hw::cqe::CounterRecord;

/// What is chosen of a new counter.
pub(crate) struct CounterChoice<'a> {
    pub(crate) queue_pairs: u32,
    pub(crate) events: Option<(&'a EventQueue, u64)>,
}

impl CounterChoice<'_> {
    /// What CREATE is, in a sentence.
    pub(crate) const DOING: &'static str = "make a completion counter";

    /// The message of CREATE.
    pub(crate) fn message<'m>(&self, words: &'m mut [u64]) -> Builder<'m> {
        let mut message = Builder::new(words, class::COUNTER, 0);
        message.put(counter::QUEUE_PAIRS, &self.queue_pairs);
        if let Some((queue, cookie)) = self.events {
            message
                .put(class::EVENT_QUEUE_OF, &queue.id())
                .put(class::COOKIE, &cookie);
        }
        message.ask(counter::CQN).ask(CQ_RING);
        message
    }
}

/// What stands where a completion queue can, and counts completions instead of keeping them: those that succeeded and those that
/// failed, flushed ones included. A send that asks for no completion is not counted.
///
/// Reading makes no system call, and any thread may. A counter never overflows.
pub struct CompletionCounter {
    record: View<CounterRecord>,
    arms: AtomicU32,
    queue_pairs: u32,
    cqn: u32,
    pub(crate) places: Arc<Places>,
    pub(crate) shared: Arc<CqShared>,
}

impl CompletionCounter {
    /// A new one, for a context with at most `queue_pairs` queue pairs, whether it counts for them or not. It reports to
    /// `events`, with this cookie.
    ///
    /// # Errors
    ///
    /// The number is 0 or above 65,536; the device has no more completion queues, no counters, or is gone.
    pub fn new(context: &Context, queue_pairs: u32, events: Option<(&EventQueue, u64)>) -> Result<Self> {
        let choice = CounterChoice { queue_pairs, events };
        let mut words = [0; MESSAGE];
        let answer = context.call(CounterChoice::DOING, method::CREATE, choice.message(&mut words))?;
        Self::made(context, &answer, &choice)
    }

    /// From what CREATE answered.
    pub(crate) fn made(context: &Context, answer: &Answer<'_>, choice: &CounterChoice<'_>) -> Result<Self> {
        const DOING: &str = CounterChoice::DOING;
        let object = Object::new(context, class::COUNTER, answer.object(), "destroy a completion counter");
        let said = answer.expect(DOING, CQ_RING)?;
        let mapped = Mapped::of(context, DOING, None, &said)?;
        // SAFETY: any bits are a `CounterRecord`; its fields that anybody writes are atomics.
        let record = unsafe { View::new(mapped.mapping.clone(), mapped.record) };
        let misfit = || Error::Answer {
            doing: DOING,
            what: "places and record do not fit their memory",
        };
        Ok(Self {
            record: record.ok_or_else(misfit)?,
            arms: AtomicU32::new(0),
            queue_pairs: answer.expect(DOING, counter::QUEUE_PAIRS)?,
            cqn: answer.expect(DOING, counter::CQN)?,
            places: Arc::new(Places::new(mapped.mapping, mapped.at, mapped.log_entries).ok_or_else(misfit)?),
            shared: Arc::new(CqShared::new(object, choice.events.map(|(queue, _)| queue))),
        })
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.shared.object.context()
    }

    /// Queue pairs of the context for which there is room.
    pub fn queue_pairs(&self) -> u32 {
        self.queue_pairs
    }

    /// The number that the device knows it by.
    pub fn cqn(&self) -> u32 {
        self.cqn
    }

    /// Completions that succeeded. Whoever sees one counted sees its message's data.
    #[inline]
    pub fn succeeded(&self) -> u64 {
        self.record.succeeded.load(Ordering::Acquire)
    }

    /// Completions that failed.
    #[inline]
    pub fn failed(&self) -> u64 {
        self.record.failed.load(Ordering::Acquire)
    }

    /// Asks for one event (of kind [`crate::EventKind::Completion`]) when at least `threshold` completions have succeeded, or when
    /// more than `seen` have failed. `false`: that is so already, and perhaps there will be no event.
    pub fn arm(&self, threshold: u64, seen: u64) -> bool {
        self.record.threshold.store(threshold, Ordering::Relaxed);
        self.record.seen.store(seen, Ordering::Relaxed);
        // Modulo 2^30, and never 0 as a whole: the kind is not.
        let sequence = self.arms.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // Release: the device sees the threshold that this is about.
        self.record
            .arm
            .store(sequence << 2 | CounterRecord::ARM_COUNT, Ordering::Release);
        // Store buffering: the counters must not have been read before the device can see the request.
        fence(Ordering::SeqCst);
        self.succeeded() < threshold && self.failed() == seen
    }

    /// Destroys it. Dropping it does the same, when the last queue pair that it counts for has been dropped.
    ///
    /// # Errors
    ///
    /// It counts for a queue pair; the device is gone.
    pub fn destroy(self) -> Result<()> {
        self.shared.object.destroy()
    }
}

impl fmt::Debug for CompletionCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionCounter({:#x})", self.cqn)
    }
}
