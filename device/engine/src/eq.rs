// SPDX-License-Identifier: MIT OR Apache-2.0
//! Event queues: a ring bound to an MSI-X vector, and what waits while the ring is full.

use crate::env::{Dma, GuestRam};
use crate::ram::{self, Unreachable};
use crate::ring::Ring;
use core::sync::atomic::Ordering;
use std::collections::{HashSet, VecDeque};
use verbena_hw::eqe::Eqe;
use verbena_hw::regs;
use vm_memory::VolatileMemory;
use zerocopy::transmute;

/// Consumer counters have 31 bits.
const COUNTER: u32 = !regs::EQ_DB_ARM;

/// An event queue.
#[derive(Debug)]
pub(crate) struct Eq {
    pub(crate) ring: Ring,
    pub(crate) vector: u16,
    pub(crate) async_default: bool,
    pub(crate) producer: u32,
    /// The driver's counter, modulo 2^31.
    pub(crate) consumer: u32,
    pub(crate) armed: bool,
    /// Events that found the ring full.
    backlog: VecDeque<Eqe>,
    /// Kind and number of each event in the backlog. An event that already waits is not queued again: it says
    /// nothing new, and a driver that never consumes could otherwise fill the server's memory.
    waiting: HashSet<(u8, u32)>,
    /// Queue pairs and completion queues that report here.
    pub(crate) users: u32,
    pub(crate) raised: u64,
}

/// A consumer counter that is ahead of the device's producer counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadCounter;

impl Eq {
    pub(crate) fn new(ring: Ring, vector: u16, async_default: bool) -> Self {
        Self {
            ring,
            vector,
            async_default,
            producer: 0,
            consumer: 0,
            armed: false,
            backlog: VecDeque::new(),
            waiting: HashSet::new(),
            users: 0,
            raised: 0,
        }
    }

    fn unconsumed(&self) -> u32 {
        self.producer.wrapping_sub(self.consumer) & COUNTER
    }

    pub(crate) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Puts an event into the queue. `true`: signal the vector.
    pub(crate) fn raise<R: GuestRam>(&mut self, ram: &R, eqe: Eqe) -> Result<bool, Unreachable> {
        self.raised += 1;
        if !self.backlog.is_empty() || self.unconsumed() >= self.ring.entries() {
            if self.waiting.insert((eqe.event, eqe.number)) {
                self.backlog.push_back(eqe);
            }
            return Ok(false);
        }
        self.write(ram, eqe)?;
        Ok(core::mem::take(&mut self.armed))
    }

    fn write<R: GuestRam>(&mut self, ram: &R, mut eqe: Eqe) -> Result<(), Unreachable> {
        eqe.owner = self.ring.phase(self.producer);
        let entry = ram::whole(ram, self.ring.addr(self.producer), size_of::<Eqe>(), Dma::Write)?;
        let words: [u64; 4] = transmute!(eqe);
        entry
            .get_ref(8)
            .map_err(|_| Unreachable)?
            .store([words[1], words[2], words[3]]);
        // Release: the phase is visible only after the entry's other words.
        ram::word(&entry, 0)?.store(words[0], Ordering::Release);
        self.producer = self.producer.wrapping_add(1);
        Ok(())
    }

    /// The driver wrote the queue's doorbell register. `Ok(true)`: signal the vector.
    ///
    /// # Errors
    ///
    /// [`BadCounter`] in the inner result: the register write is ignored.
    pub(crate) fn doorbell<R: GuestRam>(
        &mut self,
        ram: &R,
        value: u32,
    ) -> Result<Result<bool, BadCounter>, Unreachable> {
        let consumer = value & COUNTER;
        if self.producer.wrapping_sub(consumer) & COUNTER > self.unconsumed() {
            return Ok(Err(BadCounter));
        }
        self.consumer = consumer;
        while self.unconsumed() < self.ring.entries() {
            let Some(eqe) = self.backlog.pop_front() else {
                break;
            };
            self.waiting.remove(&(eqe.event, eqe.number));
            self.write(ram, eqe)?;
        }
        self.armed |= value & regs::EQ_DB_ARM != 0;
        if self.armed && self.unconsumed() > 0 {
            self.armed = false;
            return Ok(Ok(true));
        }
        Ok(Ok(false))
    }

    /// Forgets waiting events of an object that is being destroyed: its number may come to name another.
    pub(crate) fn forget(&mut self, concerns: impl Fn(&Eqe) -> bool) {
        if self.backlog.is_empty() {
            return;
        }
        let waiting = &mut self.waiting;
        self.backlog.retain(|eqe| {
            let gone = concerns(eqe);
            if gone {
                waiting.remove(&(eqe.event, eqe.number));
            }
            !gone
        });
    }
}
