// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Completion queues: a ring and a record in one piece of memory that the process maps.

use crate::driver::{end, Handling, Payload};
use crate::events::delist_and;
use crate::numbers::Kind;
use crate::platform::{Dma, Platform};
use crate::ring::{memory_offset, shared};
use crate::schema::{CqRing, CQ_RING};
use crate::Verbena;
use rdma_uapi::class::cq;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::Arc;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::Ending;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateCqReq, HandleRsp};
use verbena_hw::cqe::{CqRecord, Cqe, MAX_LOG_ENTRIES};
use verbena_hw::id::Cqn;
use verbena_hw::ring::PageList;

/// A completion queue.
pub struct Cq<P: Platform> {
    pub(crate) cqn: Cqn,
    vector: u16,
    log_entries: u8,
    pub(crate) memory: Arc<P::Dma>,
}

impl<P: Platform> Cq<P> {
    fn ring(&self, id: ObjectId) -> CqRing {
        CqRing {
            mmap_offset: memory_offset(id),
            mmap_length: self.memory.len() as u64,
            record_offset: ring_bytes(self.log_entries) as u64,
            log_entries: u32::from(self.log_entries),
            reserved: 0,
        }
    }
}

/// Bytes of the ring; the record follows.
fn ring_bytes(log_entries: u8) -> usize {
    size_of::<Cqe>() << log_entries
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let entries = call.require(cq::CQE)?;
    if entries == 0 || entries > hardware.limits.max_cqe.min(1 << MAX_LOG_ENTRIES) {
        return Err(call.out_of_range(cq::CQE));
    }
    let log_entries = entries.next_power_of_two().trailing_zeros() as u8;
    let vector = call.get(cq::COMP_VECTOR)?.unwrap_or(0);
    // Event queue 0 is not a completion vector.
    let Some(events) = usize::try_from(vector)
        .ok()
        .and_then(|n| hardware.events.get(n.checked_add(1)?))
    else {
        return Err(call.out_of_range(cq::COMP_VECTOR));
    };

    let reservation = call.reserve()?;
    let memory = shared(&hardware.platform, ring_bytes(log_entries) + size_of::<CqRecord>())?;
    let request = CreateCqReq {
        ring: PageList::direct(memory.addr(), ring_bytes(log_entries) as u64),
        record: memory.addr() + ring_bytes(log_entries) as u64,
        cookie: 0,
        eqn: events.eqn,
        log_entries,
        reserved: [0; 11],
    };
    let response: HandleRsp = hardware.command(Opcode::CREATE_CQ, &request)?;

    let queue = Cq {
        cqn: Cqn::truncate(response.handle),
        vector: vector as u16,
        log_entries,
        memory,
    };
    let ring = queue.ring(reservation.id());
    let object = call.publish(reservation, Some(Payload::Cq(queue)), &[]);
    hardware.enlist(Kind::Cq, response.handle, object)?;
    call.put(cq::CQE, &(1 << log_entries))?;
    call.put(cq::CQN, &response.handle)?;
    call.put(CQ_RING, &ring)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Cq(queue) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (entries, vector, cqn) = (1u32 << queue.log_entries, u32::from(queue.vector), queue.cqn.get());
    let ring = queue.ring(call.object().id());
    call.put(cq::CQE, &entries)?;
    call.put(cq::COMP_VECTOR, &vector)?;
    call.put(cq::CQN, &cqn)?;
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
