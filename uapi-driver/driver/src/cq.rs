// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.

use crate::context::{Answer, MESSAGE};
use crate::error::{Error, Result};
use crate::event::{EventQueue, EventQueueShared};
use crate::memory::Mapping;
use crate::object::Object;
use crate::ring::complete::{ArmKind, Completion, CqRing, WorkCompletion, LOG_STRIDE, WORDS};
use crate::ring::memory::Ring;
use crate::ring::place::{Place, RingMemory};
use crate::Context;
use rdma_uapi::class::{self, cq};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use verbena_core::layout;
use verbena_core::schema::{CqRing as CqRingPlace, CQ_RING, RING_MEMORY};

/// What queue pairs on a completion queue keep of it.
pub(crate) struct CqShared {
    // Field order: destroyed before the queue that it reports to can go.
    pub(crate) object: Object,
    _events: Option<Arc<EventQueueShared>>,
    _memory: Option<Arc<RingMemory>>,
}

impl CqShared {
    /// Of one with memory of its own.
    pub(crate) fn new(object: Object, events: Option<&EventQueue>) -> Self {
        Self {
            object,
            _events: events.map(|queue| queue.shared().clone()),
            _memory: None,
        }
    }
}

/// What is to be chosen of a new completion queue.
#[must_use = "a builder makes nothing until `build`"]
pub struct CqBuilder<'a> {
    context: &'a Context,
    entries: u32,
    vector: Option<u32>,
    events: Option<(&'a EventQueue, u64)>,
}

impl<'a> CqBuilder<'a> {
    /// At least this many entries. As many completions as this may wait in it: more, and it breaks.
    pub fn entries(mut self, entries: u32) -> Self {
        self.entries = entries;
        self
    }

    /// The completion vector, below the device's `comp_vectors`.
    pub fn vector(mut self, vector: u32) -> Self {
        self.vector = Some(vector);
        self
    }

    /// Reports to this queue; events carry `cookie`.
    pub fn events(mut self, queue: &'a EventQueue, cookie: u64) -> Self {
        self.events = Some((queue, cookie));
        self
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// The number of entries is 0 or more than the device allows, there is no such vector, the device has no more
    /// queues, or is gone.
    pub fn build(self) -> Result<CompletionQueue> {
        let mut words = [0; MESSAGE];
        let message = self.message(&mut words, None);
        let answer = self.context.call(Self::DOING, method::CREATE, message)?;
        self.made(&answer, None)
    }

    /// What CREATE is, in a sentence.
    pub(crate) const DOING: &'static str = "make a completion queue";

    /// Bytes of ring memory that it takes; `None`: there can be no such queue.
    pub(crate) fn ring_bytes(&self) -> Option<u64> {
        layout::cq_bytes(self.entries)
    }

    /// The message of CREATE, with its memory from `memory`.
    pub(crate) fn message<'m>(&self, words: &'m mut [u64], memory: Option<ObjectId>) -> Builder<'m> {
        let mut message = Builder::new(words, class::CQ, 0);
        message
            .put(cq::CQE, &self.entries)
            .put_some(cq::COMP_VECTOR, self.vector)
            .put_some(RING_MEMORY, memory);
        if let Some((queue, cookie)) = self.events {
            message
                .put(class::EVENT_QUEUE_OF, &queue.id())
                .put(class::COOKIE, &cookie);
        }
        message.ask(cq::CQN).ask(CQ_RING);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(self, answer: &Answer<'_>, memory: Option<Arc<RingMemory>>) -> Result<CompletionQueue> {
        let object = Object::new(self.context, class::CQ, answer.object(), "destroy a completion queue");
        let qps = self.context.qps().clone();
        Ok(CompletionQueue {
            ring: mapped(
                self.context,
                Self::DOING,
                answer,
                memory.as_ref(),
                |ring, mapping, record| CqRing::new(ring, mapping, record, qps),
            )?,
            cqn: answer.expect(Self::DOING, cq::CQN)?,
            shared: Arc::new(CqShared {
                object,
                _events: self.events.map(|(queue, _)| queue.shared().clone()),
                _memory: memory,
            }),
        })
    }
}

/// Maps the ring that an answer names, for `take` to make something of it, its memory, and where in that the record is.
fn mapped<T>(
    context: &Context,
    doing: &'static str,
    answer: &Answer<'_>,
    memory: Option<&Arc<RingMemory>>,
    take: impl FnOnce(Ring<WORDS>, Arc<Mapping>, usize) -> Option<T>,
) -> Result<T> {
    let said = answer.expect(doing, CQ_RING)?;
    let mapped = Mapped::of(context, doing, memory, &said)?;
    Ring::new(mapped.mapping.clone(), mapped.at, mapped.log_entries, LOG_STRIDE)
        .and_then(|ring| take(ring, mapped.mapping, mapped.record))
        .ok_or(Error::Answer {
            doing,
            what: "ring and record do not fit their memory",
        })
}

/// The memory of a completion queue or counter, in this process.
pub(crate) struct Mapped {
    pub(crate) mapping: Arc<Mapping>,
    /// Where in it the ring begins.
    pub(crate) at: usize,
    /// Where in it the record is.
    pub(crate) record: usize,
    pub(crate) log_entries: u8,
}

impl Mapped {
    pub(crate) fn of(
        context: &Context,
        doing: &'static str,
        memory: Option<&Arc<RingMemory>>,
        said: &CqRingPlace,
    ) -> Result<Self> {
        let place = Place::of(context, memory, said.mmap_offset, said.mmap_length)?;
        let log_entries = u8::try_from(said.log_entries).ok();
        match (log_entries, place.inside(said.record_offset)) {
            (Some(log_entries), Some(record)) => Ok(Self {
                at: place.at,
                mapping: place.mapping,
                record,
                log_entries,
            }),
            _ => Err(Error::Answer {
                doing,
                what: "ring and record do not fit their memory",
            }),
        }
    }
}

/// When an armed queue sends its event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// When so many completions have come since it was armed; 1: with the first, 0: their number does not matter.
    pub count: u32,
    /// So long after the first of them at the latest, in whole microseconds; zero: no matter when, or, if the number does
    /// not matter either, at once.
    pub period: Duration,
}

/// Where completions arrive.
///
/// One thread at a time polls it; queue pairs that complete here may be used by others meanwhile. Completions of queue
/// pairs that have been dropped or reset are not delivered.
pub struct CompletionQueue {
    pub(crate) ring: CqRing,
    cqn: u32,
    pub(crate) shared: Arc<CqShared>,
}

impl CompletionQueue {
    /// A new one on `context`; 256 entries unless told otherwise.
    pub fn builder(context: &Context) -> CqBuilder<'_> {
        CqBuilder {
            context,
            entries: 256,
            vector: None,
            events: None,
        }
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.shared.object.context()
    }

    /// The number that the device knows it by.
    pub fn cqn(&self) -> u32 {
        self.cqn
    }

    /// Completions that may wait in it.
    pub fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Takes the oldest completion. It stays where it is, in the queue's memory, and its place is given back to the
    /// device when the [`Completion`] is dropped.
    ///
    /// Makes no system call, takes no lock, allocates nothing.
    #[inline(always)]
    pub fn poll(&mut self) -> Option<Completion<'_>> {
        self.ring.poll()
    }

    /// Asks for one event on the queue's event queue. Poll once more after this: a completion that came before the
    /// device saw the request raises none.
    ///
    /// Makes no system call.
    pub fn arm(&mut self, kind: ArmKind) {
        self.ring.arm(kind);
    }

    /// Polls until there is a completion or `timeout` has passed: spinning for some tens of microseconds, then giving way to
    /// others between looks and asking ten times a second whether the device is still there. So a long wait makes
    /// system calls; [`CompletionQueue::poll`] never does.
    ///
    /// # Errors
    ///
    /// The device is gone and nothing waits in the queue.
    pub fn poll_timeout(&mut self, timeout: Duration) -> Result<Option<WorkCompletion>> {
        const SPINS: u32 = 1000;
        const CHECK: Duration = Duration::from_millis(100);
        for _ in 0..SPINS {
            if let Some(completion) = self.ring.poll() {
                return Ok(Some(completion.to_owned()));
            }
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        let mut checked = begun;
        loop {
            if let Some(completion) = self.ring.poll() {
                return Ok(Some(completion.to_owned()));
            }
            let now = Instant::now();
            let due = now - checked >= CHECK;
            if due {
                checked = now;
            }
            if self.context().is_gone() || (due && self.context().check().is_err()) {
                // What came before the end is delivered.
                return self
                    .ring
                    .poll()
                    .map(|completion| Some(completion.to_owned()))
                    .ok_or(Error::Gone);
            }
            if now - begun >= timeout {
                return Ok(None);
            }
            std::thread::yield_now();
        }
    }

    /// Waits for a completion without using a processor: arms the queue and sleeps on `events`, which it must report
    /// to. Other events that are on the queue are taken and dropped, so this is for queues of its own.
    ///
    /// # Errors
    ///
    /// The device is gone and nothing waits in the queue.
    pub fn wait(&mut self, events: &EventQueue, timeout: Option<Duration>) -> Result<Option<WorkCompletion>> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(completion) = self.ring.poll() {
                return Ok(Some(completion.to_owned()));
            }
            self.ring.arm(ArmKind::Any);
            if let Some(completion) = self.ring.poll() {
                return Ok(Some(completion.to_owned()));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let event = events.next_event(left);
            match event {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(self.ring.poll().map(|completion| completion.to_owned())),
                Err(error) => match self.ring.poll() {
                    Some(completion) => return Ok(Some(completion.to_owned())),
                    None => return Err(error),
                },
            }
        }
    }

    /// Lets events of the queue wait, so that many completions come with one. What waits already is sent. The device's
    /// limits are `max_moderation_count` and `max_moderation_period` of [`Context::device`].
    ///
    /// # Errors
    ///
    /// A limit is exceeded; the queue has failed; the device is gone.
    pub fn moderate(&self, moderation: Moderation) -> Result<()> {
        let period = u32::try_from(moderation.period.as_micros())
            .map_err(|_| Error::Argument("the period is longer than the device allows"))?;
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::CQ, self.shared.object.id().0);
        message
            .put(cq::MODERATION_COUNT, &moderation.count)
            .put(cq::MODERATION_PERIOD, &period);
        self.context()
            .call("moderate a completion queue", method::MODIFY, message)?;
        Ok(())
    }

    /// How its events are moderated.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn moderation(&self) -> Result<Moderation> {
        const DOING: &str = "query a completion queue";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::CQ, self.shared.object.id().0);
        message.ask(cq::MODERATION_COUNT).ask(cq::MODERATION_PERIOD);
        let answer = self.context().call(DOING, method::QUERY, message)?;
        Ok(Moderation {
            count: answer.expect(DOING, cq::MODERATION_COUNT)?,
            period: Duration::from_micros(answer.expect(DOING, cq::MODERATION_PERIOD)?.into()),
        })
    }

    /// Gives it at least `entries` entries. What waits in it stays, and so does its being armed; traffic goes on meanwhile.
    ///
    /// # Errors
    ///
    /// EBUSY: more completions wait. The number is 0 or more than the device allows; the queue has failed; the device is
    /// gone. It is what it was then.
    pub fn resize(&mut self, entries: u32) -> Result<()> {
        const DOING: &str = "resize a completion queue";
        let context = self.shared.object.context();
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::CQ, self.shared.object.id().0);
        message.put(cq::CQE, &entries).ask(CQ_RING);
        let answer = context.call(DOING, method::MODIFY, message)?;
        let ring = &mut self.ring;
        mapped(context, DOING, &answer, None, |fresh, mapping, record| {
            ring.move_to(fresh, mapping, record)
        })
    }

    /// Whether a completion waits.
    pub fn is_ready(&self) -> bool {
        self.ring.is_ready()
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

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionQueue({:#x}, {} entries)", self.cqn, self.entries())
    }
}
