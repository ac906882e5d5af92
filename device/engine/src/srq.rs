// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues: receives that many queue pairs consume, each entry once, in the order of the ring.

use crate::env::{Dma, Env, GuestRam};
use crate::hca::{Cx, Hca};
use crate::qp::message::{BadRequest, Receive};
use crate::ram::{self, Unreachable};
use crate::ring::Ring;
use core::sync::atomic::Ordering;
use verbena_hw::cqe::vendor;
use verbena_hw::eqe::Event;
use verbena_hw::id::{Cqn, Eqn, Pdn, Srqn};
use verbena_hw::ring::OWNER_PHASE;
use verbena_hw::srq::SrqRecord;

/// A shared receive queue.
#[derive(Debug)]
pub(crate) struct Srq {
    pub(crate) ring: Ring,
    /// DMA address of the [`SrqRecord`].
    pub(crate) record: u64,
    pub(crate) cookie: u64,
    /// Whose memory its entries name, whatever queue pair consumes them (IBA vol. 1, 10.2.9.1).
    pub(crate) pdn: Pdn,
    pub(crate) eqn: Eqn,
    /// XRC: where its receives complete; otherwise 0, and they do where their queue pairs say.
    pub(crate) cqn: Cqn,
    /// XRC: its domain; otherwise 0.
    pub(crate) xrcdn: u32,
    pub(crate) max_sge: u8,
    /// The limit that is armed; 0: none.
    pub(crate) limit: u32,
    /// Counter of the entry that comes next.
    pub(crate) consumer: u32,
    /// Its ring or record is not mapped any more: nothing is consumed from it again.
    pub(crate) failed: bool,
    /// Queue pairs on it.
    pub(crate) users: u32,
}

/// What consuming from a shared receive queue gave.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A receive.
    Receive,
    /// Nothing is posted.
    Empty,
    /// An entry that makes no sense; it is consumed all the same.
    Bad(BadRequest),
    /// The queue has failed.
    Failed,
}

/// Why a queue does not move to another ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveFault {
    /// More entries are posted than the new ring has.
    TooSmall,
    /// One of the two rings is not mapped.
    Unreachable,
}

impl From<Unreachable> for MoveFault {
    fn from(_: Unreachable) -> Self {
        MoveFault::Unreachable
    }
}

/// Offset in the record. It is shared memory, so it is never copied whole.
const CONSUMER: usize = core::mem::offset_of!(SrqRecord, consumer);

impl Srq {
    /// Consumes the next entry.
    fn take<R: GuestRam>(&mut self, ram: &R, receive: &mut Receive) -> Result<Taken, Unreachable> {
        let taken = match receive.fetch(ram, &self.ring, self.consumer, self.max_sge)? {
            Ok(false) => return Ok(Taken::Empty),
            Ok(true) => Taken::Receive,
            Err(bad) => Taken::Bad(bad),
        };
        receive.pdn = self.pdn;
        self.consumer = self.consumer.wrapping_add(1);
        let record = ram::whole(ram, self.record, size_of::<SrqRecord>(), Dma::Write)?;
        // Release: the entry has been copied before its place is free.
        ram::half(&record, CONSUMER)?.store(self.consumer, Ordering::Release);
        Ok(taken)
    }

    /// Whether the entry at `index` has been posted.
    fn is_posted<R: GuestRam>(&self, ram: &R, index: u32) -> Result<bool, Unreachable> {
        let entry = ram::whole(ram, self.ring.addr(index), 8, Dma::Read)?;
        let word0 = ram::word(&entry, 0)?.load(Ordering::Acquire);
        Ok(word0 as u8 & OWNER_PHASE == self.ring.phase(index))
    }

    /// Disarms the limit if fewer entries are posted. Entries are posted in order, so the last of the first `limit` ones
    /// tells whether all of them are.
    fn limit_reached<R: GuestRam>(&mut self, ram: &R) -> Result<bool, Unreachable> {
        if self.limit == 0 || self.is_posted(ram, self.consumer.wrapping_add(self.limit - 1))? {
            return Ok(false);
        }
        self.limit = 0;
        Ok(true)
    }

    /// Moves what is posted to the beginning of another ring and goes on there; answers how many entries that are. On
    /// failure the queue is what it was.
    pub(crate) fn move_to<R: GuestRam>(&mut self, ram: &R, ring: Ring, record: u64) -> Result<u32, MoveFault> {
        assert_eq!(ring.log_stride, self.ring.log_stride);
        let mut entry = vec![0; ring.stride()];
        let mut posted = 0;
        while posted < self.ring.entries() && self.is_posted(ram, self.consumer.wrapping_add(posted))? {
            if posted == ring.entries() {
                return Err(MoveFault::TooSmall);
            }
            ram::read(ram, self.ring.addr(self.consumer.wrapping_add(posted)), &mut entry)?;
            entry[0] = entry[0] & !OWNER_PHASE | ring.phase(posted);
            ram::write(ram, ring.addr(posted), &entry)?;
            posted += 1;
        }
        (self.ring, self.record, self.consumer) = (ring, record, 0);
        Ok(posted)
    }
}

impl Hca {
    /// Consumes the next receive of a shared receive queue.
    pub(crate) fn take_shared<E: Env>(&mut self, cx: &mut Cx<'_, E>, srqn: Srqn, receive: &mut Receive) -> Taken {
        let ram = cx.env.ram(self.id);
        let srq = self
            .srqs
            .get_mut(srqn.get())
            .expect("a queue pair holds its shared receive queue, or a request has named it just now");
        if srq.failed {
            return Taken::Failed;
        }
        match srq.take(ram, receive) {
            Ok(Taken::Empty) => Taken::Empty,
            Ok(taken) => {
                self.check_limit(cx, srqn);
                taken
            }
            Err(Unreachable) => {
                self.srq_failed(cx, srqn);
                Taken::Failed
            }
        }
    }

    /// Raises the limit event if it is due.
    pub(crate) fn check_limit<E: Env>(&mut self, cx: &mut Cx<'_, E>, srqn: Srqn) {
        let ram = cx.env.ram(self.id);
        let Some(srq) = self.srqs.get_mut(srqn.get()) else {
            return;
        };
        match srq.limit_reached(ram) {
            Ok(false) => {}
            Ok(true) => self.raise_srq(cx, srqn, Event::SRQ_LIMIT_REACHED, vendor::NONE),
            Err(Unreachable) => self.srq_failed(cx, srqn),
        }
    }

    fn srq_failed<E: Env>(&mut self, cx: &mut Cx<'_, E>, srqn: Srqn) {
        if let Some(srq) = self.srqs.get_mut(srqn.get()) {
            srq.failed = true;
        }
        self.raise_srq(cx, srqn, Event::SRQ_ERR, vendor::RING_UNREACHABLE);
    }

    fn raise_srq<E: Env>(&mut self, cx: &mut Cx<'_, E>, srqn: Srqn, event: Event, reason: u32) {
        if let Some(srq) = self.srqs.get(srqn.get()) {
            let (eqn, cookie) = (srq.eqn, srq.cookie);
            self.raise(cx, eqn, event, srqn.get(), cookie, reason.into());
        }
    }
}
