// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues: entries into the ring, and the decision whether somebody wants to be told. Completion counters are
//! completion queues that count ([`Counts`]).

use crate::env::{Dma, GuestRam};
use crate::ram::{self, Unreachable};
use crate::ring::Ring;
use crate::time::Time;
use core::sync::atomic::{fence, Ordering};
use core::time::Duration;
use verbena_hw::cqe::{flags, CounterRecord, CqRecord, Cqe, Status};
use verbena_hw::id::Eqn;
use verbena_hw::ring::OWNER_PHASE;
use vm_memory::{VolatileMemory, VolatileSlice};
use zerocopy::transmute;

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Cq {
    pub(crate) ring: Ring,
    /// DMA address of the [`CqRecord`].
    pub(crate) record: u64,
    pub(crate) cookie: u64,
    pub(crate) eqn: Eqn,
    pub(crate) producer: u32,
    /// The driver's consumer counter as last read: behind the true one, never ahead of it.
    pub(crate) consumer: u32,
    /// The arming that the device acted on last.
    arm_done: u32,
    /// Entries since [`Cq::wants_event`] looked last: any, and solicited ones or errors.
    any: bool,
    solicited: bool,
    pub(crate) failed: Option<CqFault>,
    /// Send and receive queues that complete here.
    pub(crate) users: u32,
    pub(crate) events: u32,
    pub(crate) moderation: Moderation,
    /// The event that moderation holds back.
    held: Option<Held>,
    /// The schedule's timer of the held event, if one runs.
    pub(crate) timer: Option<Time>,
    /// Producer counter when [`Cq::wants_event`] looked last.
    looked: u32,
    /// Of a completion counter. Its ring is always full, so that what writes entries need not ask whether it counts.
    pub(crate) counts: Option<Counts>,
}

/// What a completion counter has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

/// How long an event may be held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moderation {
    /// Until so many entries are there; 0: whatever their number.
    pub(crate) count: u32,
    /// At most so long; zero: for ever.
    pub(crate) period: Duration,
}

impl Moderation {
    /// Whether no event is held back. One entry is there when the question comes up.
    #[inline]
    fn is_off(&self) -> bool {
        self.count == 1 || (self.count == 0 && self.period.is_zero())
    }
}

/// An event that is held back.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// The arming that it answers.
    arm: u32,
    /// Producer counter before the first entry that it tells of.
    from: u32,
}

/// What is to be done after a batch of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    /// Nothing.
    Nothing,
    /// The event.
    Event,
    /// Perhaps the event, at this time.
    Later(Time),
}

/// Why a queue does not move to another ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveFault {
    /// More entries are unconsumed than the new ring has.
    TooSmall,
    /// One of the two rings, or records, is not mapped.
    Unreachable,
}

impl From<Unreachable> for MoveFault {
    fn from(_: Unreachable) -> Self {
        MoveFault::Unreachable
    }
}

/// Why a queue takes no more entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CqFault {
    /// The driver has not consumed as many entries as the ring has.
    Overrun,
    /// The ring or the record is not mapped any more.
    Unreachable,
}

impl From<Unreachable> for CqFault {
    fn from(_: Unreachable) -> Self {
        CqFault::Unreachable
    }
}

/// Offsets in the record. The struct's own fields are atomics and it is shared memory, so it is never copied whole.
const CONSUMER: usize = core::mem::offset_of!(CqRecord, consumer);
const ARM: usize = core::mem::offset_of!(CqRecord, arm);
const _: () = assert!(ARM == core::mem::offset_of!(CounterRecord, arm));
const THRESHOLD: usize = core::mem::offset_of!(CounterRecord, threshold);
const SEEN: usize = core::mem::offset_of!(CounterRecord, seen);
const SUCCEEDED: usize = core::mem::offset_of!(CounterRecord, succeeded);
const FAILED: usize = core::mem::offset_of!(CounterRecord, failed);

impl Cq {
    pub(crate) fn new(ring: Ring, record: u64, cookie: u64, eqn: Eqn) -> Self {
        Self {
            ring,
            record,
            cookie,
            eqn,
            producer: 0,
            consumer: 0,
            arm_done: 0,
            any: false,
            solicited: false,
            failed: None,
            users: 0,
            events: 0,
            moderation: Moderation::default(),
            held: None,
            timer: None,
            looked: 0,
            counts: None,
        }
    }

    /// A completion counter: entries of `ring` are where queue pairs are told how far they are consumed, `record` is a
    /// [`CounterRecord`].
    pub(crate) fn counter(ring: Ring, record: u64, cookie: u64, eqn: Eqn) -> Self {
        Self {
            producer: ring.entries(),
            counts: Some(Counts::default()),
            ..Self::new(ring, record, cookie, eqn)
        }
    }

    /// Whether entries were written since [`Cq::wants_event`] looked last.
    #[inline]
    pub(crate) fn is_dirty(&self) -> bool {
        self.any
    }

    /// Writes an entry. Its owner byte is filled in here.
    ///
    /// # Errors
    ///
    /// The queue has failed, now or earlier; `failed` says which. The entry is lost.
    #[inline]
    pub(crate) fn push<R: GuestRam>(&mut self, ram: &R, cqe: Cqe) -> Result<(), CqFault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        self.try_push(ram, cqe).inspect_err(|&fault| self.failed = Some(fault))
    }

    #[inline]
    fn try_push<R: GuestRam>(&mut self, ram: &R, mut cqe: Cqe) -> Result<(), CqFault> {
        if self.producer.wrapping_sub(self.consumer) >= self.ring.entries() {
            if self.counts.is_some() {
                return Ok(self.count(ram, &cqe)?);
            }
            self.read_consumer(ram)?;
            if self.producer.wrapping_sub(self.consumer) >= self.ring.entries() {
                return Err(CqFault::Overrun);
            }
        }
        let notify = cqe.status != Status::SUCCESS.0 || cqe.flags & flags::SOLICITED != 0;
        cqe.owner = self.ring.phase(self.producer);
        let entry = ram::whole(ram, self.ring.addr(self.producer), size_of::<Cqe>(), Dma::Write)?;
        let words: [u64; 8] = transmute!(cqe);
        let rest: [u64; 7] = [words[1], words[2], words[3], words[4], words[5], words[6], words[7]];
        entry.get_ref(8).map_err(|_| Unreachable)?.store(rest);
        // Release: whoever sees this word's phase sees the other words, the message's data, and everything else
        // that the device wrote before.
        ram::word(&entry, 0)?.store(words[0], Ordering::Release);
        self.producer = self.producer.wrapping_add(1);
        self.any = true;
        self.solicited |= notify;
        Ok(())
    }

    /// Counts a completion, after the queue pair has been told how far it is consumed.
    #[cold]
    #[inline(never)]
    fn count<R: GuestRam>(&mut self, ram: &R, cqe: &Cqe) -> Result<(), Unreachable> {
        let good = cqe.status == Status::SUCCESS.0;
        if cqe.flags & flags::XRC == 0 {
            let place = ram::whole(ram, self.ring.addr(cqe.cookie as u32), size_of::<u64>(), Dma::Write)?;
            let half = if cqe.flags & flags::RECV == 0 {
                0
            } else {
                size_of::<u32>()
            };
            // Release: our reading of the work requests comes before the driver's writing of new ones.
            ram::half(&place, half)?.store(cqe.consumed, Ordering::Release);
        }
        let record = ram::whole(ram, self.record, size_of::<CounterRecord>(), Dma::Write)?;
        if let Some(counts) = &mut self.counts {
            let (count, at) = match good {
                true => (&mut counts.succeeded, SUCCEEDED),
                false => (&mut counts.failed, FAILED),
            };
            *count = count.wrapping_add(1);
            // Release: whoever sees the count sees the message's data, and everything else that the device wrote before.
            ram::word(&record, at)?.store(*count, Ordering::Release);
        }
        self.any = true;
        self.solicited |= !good || cqe.flags & flags::SOLICITED != 0;
        Ok(())
    }

    /// Whether a counter has reached what the driver has armed it for. Others never have.
    #[cold]
    fn has_counted(&self, record: &VolatileSlice<'_>) -> Result<bool, Unreachable> {
        let Some(counts) = &self.counts else { return Ok(false) };
        let threshold = ram::word(record, THRESHOLD)?.load(Ordering::Relaxed);
        let seen = ram::word(record, SEEN)?.load(Ordering::Relaxed);
        Ok(counts.succeeded >= threshold || counts.failed != seen)
    }

    /// Reads how far the driver has consumed.
    fn read_consumer<R: GuestRam>(&mut self, ram: &R) -> Result<(), Unreachable> {
        let record = ram::whole(ram, self.record, size_of::<CqRecord>(), Dma::Read)?;
        // Acquire: the driver's reads of the entries that it gives back come before our next write of them.
        let consumer = ram::half(&record, CONSUMER)?.load(Ordering::Acquire);
        // A counter ahead of ours is the driver's nonsense: the queue is then simply full, and overruns.
        if self.producer.wrapping_sub(consumer) <= self.ring.entries() {
            self.consumer = consumer;
        }
        Ok(())
    }

    /// Whether the entries since the last call are what the driver has armed the queue for. To be called after each
    /// batch of entries; a full fence must lie between the batch and the call.
    pub(crate) fn wants_event<R: GuestRam>(&mut self, ram: &R, now: Time) -> Result<Notify, Unreachable> {
        let (any, solicited) = (self.any, self.solicited);
        (self.any, self.solicited) = (false, false);
        let from = core::mem::replace(&mut self.looked, self.producer);
        if !any || self.failed.is_some() {
            return Ok(Notify::Nothing);
        }
        let record = ram::whole(ram, self.record, size_of::<CqRecord>(), Dma::Read)?;
        // Acquire: a counter's threshold was stored before.
        let arm = ram::half(&record, ARM)?.load(Ordering::Acquire);
        if arm == self.arm_done {
            return Ok(Notify::Nothing);
        }
        let wanted = match arm & CqRecord::ARM_KIND {
            CqRecord::ARM_ANY => true,
            CqRecord::ARM_SOLICITED => solicited || self.held.is_some_and(|held| held.arm == arm),
            CounterRecord::ARM_COUNT => self.has_counted(&record)?,
            _ => false,
        };
        if !wanted {
            return Ok(Notify::Nothing);
        }
        if self.moderation.is_off() {
            self.tell(arm);
            return Ok(Notify::Event);
        }
        Ok(self.moderate(arm, from, now))
    }

    /// The event that answers this arming goes out.
    fn tell(&mut self, arm: u32) {
        self.arm_done = arm;
        self.held = None;
        self.events = self.events.wrapping_add(1);
    }

    #[cold]
    fn moderate(&mut self, arm: u32, from: u32, now: Time) -> Notify {
        let begins = Held { arm, from };
        let held = self.held.filter(|held| held.arm == arm).unwrap_or(begins);
        let Moderation { count, period } = self.moderation;
        if count > 0 && self.producer.wrapping_sub(held.from) >= count {
            self.tell(arm);
            return Notify::Event;
        }
        self.held = Some(held);
        if period.is_zero() || self.timer.is_some() {
            return Notify::Nothing;
        }
        Notify::Later(now + period)
    }

    /// The time of the held event has come. `true`: it goes out.
    pub(crate) fn release(&mut self) -> bool {
        match self.held.take() {
            Some(held) if held.arm != self.arm_done && self.failed.is_none() => {
                self.tell(held.arm);
                true
            }
            _ => false,
        }
    }

    /// Moves the entries that the driver has not consumed to the beginning of another ring and goes on there; answers how
    /// many they are. On failure the queue is what it was.
    pub(crate) fn move_to<R: GuestRam>(&mut self, ram: &R, ring: Ring, record: u64) -> Result<u32, MoveFault> {
        self.read_consumer(ram)?;
        let carried = self.producer.wrapping_sub(self.consumer);
        if carried > ring.entries() {
            return Err(MoveFault::TooSmall);
        }
        let mut entry = [0; size_of::<Cqe>()];
        for n in 0..carried {
            ram::read(ram, self.ring.addr(self.consumer.wrapping_add(n)), &mut entry)?;
            entry[0] = entry[0] & !OWNER_PHASE | ring.phase(n);
            ram::write(ram, ring.addr(n), &entry)?;
        }
        let old = ram::whole(ram, self.record, size_of::<CqRecord>(), Dma::Read)?;
        let arm = ram::half(&old, ARM)?.load(Ordering::Relaxed);
        let new = ram::whole(ram, record, size_of::<CqRecord>(), Dma::Write)?;
        ram::half(&new, CONSUMER)?.store(0, Ordering::Relaxed);
        ram::half(&new, ARM)?.store(arm, Ordering::Relaxed);
        if let Some(held) = &mut self.held {
            held.from = held.from.wrapping_sub(self.consumer);
        }
        self.looked = self.looked.wrapping_sub(self.consumer);
        (self.ring, self.record) = (ring, record);
        (self.producer, self.consumer) = (carried, 0);
        Ok(carried)
    }

    /// Reads the consumer counter for a query; an unreachable record leaves the last known one.
    pub(crate) fn refresh<R: GuestRam>(&mut self, ram: &R) {
        if self.counts.is_none() {
            let _ = self.read_consumer(ram);
        }
    }
}

/// The full fence between a batch of entries and the look at `arm`: the driver stores `arm`, fences, and polls; if its
/// poll missed our entry then our load sees its arming.
#[inline]
pub(crate) fn fence_before_arm() {
    fence(Ordering::SeqCst);
}
