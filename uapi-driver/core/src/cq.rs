// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Completion queues, and what completion counters (`counter.rs`) have of them: a ring and a record in one piece of memory that
//! the process maps.
//!
//! Resizing gives a queue new memory, as with shared receive queues (`srq.rs`).

use crate::driver::{end, Handling, Payload, Reference};
use crate::events::delist_and;
use crate::numbers::Kind;
use crate::platform::{Dma, Platform, PAGE};
use crate::ring_memory::Stretch;
use crate::schema::{CqRing, CQ_RING, RING_MEMORY};
use crate::Verbena;
use rdma_uapi::class::cq;
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::Attr;
use rdma_uapi::sys::Mutex;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateCqReq, HandleReq, HandleRsp, ModifyCqReq, ModifyCqRsp, QueryCqRsp, CQ_COUNTER};
use verbena_hw::cqe::{modify as change, CounterRecord, CqRecord, Cqe, MAX_LOG_ENTRIES, MAX_MODERATION};
use verbena_hw::id::Cqn;
use verbena_hw::ring::PageList;

/// A completion queue.
pub struct Cq<P: Platform> {
    pub(crate) cqn: Cqn,
    pub(crate) vector: u16,
    /// Held while the queue changes.
    place: Mutex<Place<P>>,
}

/// What the device makes of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An entry in the ring.
    Queue,
    /// A count in the record; the ring has a word for each queue pair.
    Counter,
}

impl Shape {
    /// Bytes of the ring; the record follows.
    fn ring_bytes(self, log_entries: u8) -> u64 {
        match self {
            Shape::Queue => ring_bytes(log_entries),
            Shape::Counter => (size_of::<u64>() as u64) << log_entries,
        }
    }

    fn record_bytes(self) -> u64 {
        match self {
            Shape::Queue => size_of::<CqRecord>() as u64,
            Shape::Counter => size_of::<CounterRecord>() as u64,
        }
    }
}

/// Where a queue is.
struct Place<P: Platform> {
    shape: Shape,
    log_entries: u8,
    memory: Stretch<P>,
}

impl<P: Platform> Place<P> {
    fn new(call: &Handling<'_, P>, home: Option<&Reference<P>>, shape: Shape, log_entries: u8) -> Outcome<Self> {
        let bytes = shape.ring_bytes(log_entries) + shape.record_bytes();
        Ok(Place {
            shape,
            log_entries,
            memory: Stretch::new(call, home, bytes, PAGE)?,
        })
    }

    fn list(&self) -> PageList {
        PageList::direct(self.memory.addr(), self.shape.ring_bytes(self.log_entries))
    }

    fn record(&self) -> u64 {
        self.memory.addr() + self.shape.ring_bytes(self.log_entries)
    }

    fn ring(&self, id: ObjectId) -> CqRing {
        CqRing {
            mmap_offset: self.memory.mmap_offset(id),
            mmap_length: self.memory.len(),
            record_offset: self.shape.ring_bytes(self.log_entries),
            log_entries: u32::from(self.log_entries),
            reserved: 0,
        }
    }
}

impl<P: Platform> Cq<P> {
    /// Looks at the memory that it is in now.
    pub(crate) fn with_memory<T>(&self, look: impl FnOnce(&Stretch<P>) -> T) -> T {
        look(&self.place.lock().memory)
    }

    /// Looks at its record: the memory, and where in it.
    pub(crate) fn with_record<T>(&self, look: impl FnOnce(&P::Dma, usize) -> T) -> T {
        let place = self.place.lock();
        let memory = place.memory.memory();
        look(memory, (place.record() - memory.addr()) as usize)
    }

    /// Where its memory is now, for the process.
    pub(crate) fn ring(&self, id: ObjectId) -> CqRing {
        self.place.lock().ring(id)
    }
}

/// Bytes of the ring; the record follows.
fn ring_bytes(log_entries: u8) -> u64 {
    (size_of::<Cqe>() as u64) << log_entries
}

/// Bytes of memory that a queue of at least `entries` entries takes.
pub(crate) fn bytes(entries: u32) -> Option<u64> {
    let log_entries = entries.checked_next_power_of_two()?.trailing_zeros() as u8;
    Some(ring_bytes(log_entries) + size_of::<CqRecord>() as u64)
}

/// log2 of a ring's entries that holds `entries`.
fn log_entries<P: Platform>(call: &Handling<'_, P>, entries: u32) -> Outcome<u8> {
    if entries == 0 || entries > call.device().limits.max_cqe.min(1 << MAX_LOG_ENTRIES) {
        return Err(call.out_of_range(cq::CQE));
    }
    Ok(entries.next_power_of_two().trailing_zeros() as u8)
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let log_entries = log_entries(call, call.require(cq::CQE)?)?;
    let (number, ring) = make(call, Shape::Queue, log_entries, cq::COMP_VECTOR)?;
    call.put(cq::CQE, &(1 << log_entries))?;
    call.put(cq::CQN, &number)?;
    call.put(CQ_RING, &ring)
}

/// Makes one of this shape; its number, and where it is.
pub(crate) fn make<P: Platform>(
    call: &mut Handling<'_, P>,
    shape: Shape,
    log_entries: u8,
    comp_vector: Attr<u32>,
) -> Outcome<(u32, CqRing)> {
    let hardware = call.device();
    let vector = call.get(comp_vector)?.unwrap_or(0);
    // Event queue 0 is not a completion vector.
    let Some(events) = usize::try_from(vector)
        .ok()
        .and_then(|n| hardware.events.get(n.checked_add(1)?))
    else {
        return Err(call.out_of_range(comp_vector));
    };

    let home = call.object_at(RING_MEMORY)?;
    let reservation = call.reserve()?;
    let place = Place::new(call, home.as_ref(), shape, log_entries)?;
    let request = CreateCqReq {
        ring: place.list(),
        record: place.record(),
        cookie: 0,
        eqn: events.eqn,
        log_entries,
        flags: match shape {
            Shape::Queue => 0,
            Shape::Counter => CQ_COUNTER,
        },
        reserved: [0; 10],
    };
    let ring = place.ring(reservation.id());
    let place = Mutex::try_new(place, c"verbena_cq")?;
    let response: HandleRsp = hardware.command(Opcode::CREATE_CQ, &request)?;

    let queue = Cq {
        cqn: Cqn::truncate(response.handle),
        vector: vector as u16,
        place,
    };
    let payload = Some(Payload::Cq(queue));
    let object = match &home {
        Some(home) => call.publish(reservation, payload, &[home]),
        None => call.publish(reservation, payload, &[]),
    };
    hardware.enlist(Kind::Cq, response.handle, object)?;
    Ok((response.handle, ring))
}

/// The queue's state, as the device knows it.
fn state<P: Platform>(call: &Handling<'_, P>, cqn: Cqn) -> Outcome<QueryCqRsp> {
    let request = HandleReq {
        handle: cqn.get(),
        reserved: 0,
    };
    Ok(call.device().command(Opcode::QUERY_CQ, &request)?)
}

/// Moderates, or resizes, or both: the size comes first, and if either is refused nothing has changed.
pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let Payload::Cq(queue) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let cqn = queue.cqn;
    let (count, period) = (call.get(cq::MODERATION_COUNT)?, call.get(cq::MODERATION_PERIOD)?);
    for (value, attr) in [(count, cq::MODERATION_COUNT), (period, cq::MODERATION_PERIOD)] {
        if value.is_some_and(|value| value > MAX_MODERATION) {
            return Err(call.out_of_range(attr));
        }
    }
    let fresh = match call.get(cq::CQE)? {
        // Without memory to move to there is nowhere to say where it is.
        Some(_) if !call.has(CQ_RING) => return Err(call.fail(CQ_RING, Errno::EINVAL, Reason::MISSING)),
        Some(entries) => Some(Place::new(call, None, Shape::Queue, log_entries(call, entries)?)?),
        None => None,
    };
    let mut place = queue.place.lock();
    let mut request = ModifyCqReq {
        cqn,
        mask: 0,
        count: 0,
        period_us: 0,
        ring: PageList::default(),
        record: 0,
        log_entries: 0,
        reserved: [0; 15],
    };
    if count.is_some() || period.is_some() {
        // What is not given stays.
        let now = state(call, cqn)?;
        request.mask |= change::MODERATION;
        request.count = count.unwrap_or(now.moderation_count);
        request.period_us = period.unwrap_or(now.moderation_us);
    }
    if let Some(fresh) = &fresh {
        request.mask |= change::RING;
        request.log_entries = fresh.log_entries;
        request.ring = fresh.list();
        request.record = fresh.record();
    }
    match hardware.command::<_, ModifyCqRsp>(Opcode::MODIFY_CQ, &request) {
        Ok(_) => {}
        // Fewer than are not consumed.
        Err(error) if error.is_field(core::mem::offset_of!(ModifyCqReq, log_entries)) => {
            return Err(call.fail(cq::CQE, Errno::EBUSY, Reason::BUSY));
        }
        Err(error) => return Err(error.into()),
    }
    let Some(fresh) = fresh else { return Ok(()) };
    let (ring, entries) = (fresh.ring(call.object().id()), 1 << fresh.log_entries);
    *place = fresh;
    drop(place);
    call.put(cq::CQE, &entries)?;
    call.put(CQ_RING, &ring)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Cq(queue) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (vector, cqn) = (u32::from(queue.vector), queue.cqn);
    let id = call.object().id();
    let ring = queue.ring(id);
    if call.has(cq::MODERATION_COUNT) || call.has(cq::MODERATION_PERIOD) {
        let now = state(call, cqn)?;
        call.put(cq::MODERATION_COUNT, &now.moderation_count)?;
        call.put(cq::MODERATION_PERIOD, &now.moderation_us)?;
    }
    call.put(cq::CQE, &(1u32 << ring.log_entries))?;
    call.put(cq::COMP_VECTOR, &vector)?;
    call.put(cq::CQN, &cqn.get())?;
    call.put(CQ_RING, &ring)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Cq(queue)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let cqn = queue.cqn.get();
    Ok(delist_and(ending.context.device(), Kind::Cq, cqn, || {
        end(ending, Opcode::DESTROY_CQ, cqn)
    })?)
}
