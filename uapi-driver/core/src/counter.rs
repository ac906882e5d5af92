// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! COUNTER: completion counters, which are completion queues of the device that count.

use crate::cq::{self, Cq, Shape};
use crate::driver::{Handling, Payload};
use crate::platform::{Dma, Platform};
use crate::schema::CQ_RING;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use rdma_uapi::class::counter;
use rdma_uapi::failure::Outcome;
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::cqe::CounterRecord;

/// The most queue pairs: half a megabyte in one piece.
const MAX_QUEUE_PAIRS: u32 = 1 << 16;
/// The fewest: the record's alignment.
const MIN_QUEUE_PAIRS: u32 = 16;

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    if !call.device().counters {
        return Err(Failure::new(Errno::EOPNOTSUPP, Reason::UNSUPPORTED));
    }
    let wanted = call.require(counter::QUEUE_PAIRS)?;
    if wanted == 0 || wanted > MAX_QUEUE_PAIRS {
        return Err(call.out_of_range(counter::QUEUE_PAIRS));
    }
    let log = wanted.max(MIN_QUEUE_PAIRS).next_power_of_two().trailing_zeros() as u8;
    let (number, ring) = cq::make(call, Shape::Counter, log, counter::COMP_VECTOR)?;
    call.put(counter::QUEUE_PAIRS, &(1 << log))?;
    call.put(counter::CQN, &number)?;
    call.put(CQ_RING, &ring)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Cq(counter) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (vector, number) = (u32::from(counter.vector), counter.cqn.get());
    let ring = counter.ring(call.object().id());
    let (succeeded, failed) = counts(counter);
    call.put(counter::QUEUE_PAIRS, &(1u32 << ring.log_entries))?;
    call.put(counter::COMP_VECTOR, &vector)?;
    call.put(counter::CQN, &number)?;
    call.put(counter::SUCCEEDED, &succeeded)?;
    call.put(counter::FAILED, &failed)?;
    call.put(CQ_RING, &ring)
}

/// What stands in the memory that the program has mapped, too: its own business if it writes there.
fn counts<P: Platform>(counter: &Cq<P>) -> (u64, u64) {
    counter.with_record(|memory, at| {
        let word = |offset: usize| memory.words()[(at + offset) / 8].load(Ordering::Acquire);
        (
            word(offset_of!(CounterRecord, succeeded)),
            word(offset_of!(CounterRecord, failed)),
        )
    })
}
