// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues: entries into the ring, and the decision whether somebody wants to be told.

use crate::env::{Dma, GuestRam};
use crate::ram::{self, Unreachable};
use crate::ring::Ring;
use core::sync::atomic::{fence, Ordering};
use verbena_hw::cqe::{flags, CqRecord, Cqe, Status};
use verbena_hw::id::Eqn;
use vm_memory::VolatileMemory;
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
    pub(crate) fn wants_event<R: GuestRam>(&mut self, ram: &R) -> Result<bool, Unreachable> {
        let (any, solicited) = (self.any, self.solicited);
        (self.any, self.solicited) = (false, false);
        if !any || self.failed.is_some() {
            return Ok(false);
        }
        let record = ram::whole(ram, self.record, size_of::<CqRecord>(), Dma::Read)?;
        let arm = ram::half(&record, ARM)?.load(Ordering::Relaxed);
        if arm == self.arm_done {
            return Ok(false);
        }
        let wanted = match arm & CqRecord::ARM_KIND {
            CqRecord::ARM_ANY => true,
            CqRecord::ARM_SOLICITED => solicited,
            _ => false,
        };
        if wanted {
            self.arm_done = arm;
            self.events = self.events.wrapping_add(1);
        }
        Ok(wanted)
    }

    /// Reads the consumer counter for a query; an unreachable record leaves the last known one.
    pub(crate) fn refresh<R: GuestRam>(&mut self, ram: &R) {
        let _ = self.read_consumer(ram);
    }
}

/// The full fence between a batch of entries and the look at `arm`: the driver stores `arm`, fences, and polls; if its
/// poll missed our entry then our load sees its arming.
#[inline]
pub(crate) fn fence_before_arm() {
    fence(Ordering::SeqCst);
}
