// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Ring memory: pages that the rings of many queues share, so that a process maps them once. Verbena's own class.
//!
//! CREATE of a queue may name one. Where in it the queue lies is chosen here and answered, so there is nothing that a
//! program could state wrongly: a stretch lies inside, begins on a page, is one piece for the device, and is nobody else's.
//!
//! Where program and device both agree to it ([`RING_GRAIN`]), queue pairs share pages as well: most are small, and a page is
//! zeroed before a process may see it. All of a ring memory is one process's anyway.

use crate::driver::{Handling, Payload, Reference};
use crate::platform::{Dma, Platform, PAGE};
use crate::ring::{memory_offset, shared};
use crate::schema::{
    RingMemoryMap, RING_GRAIN, RING_GRAIN_LEAST, RING_MEMORY, RING_MEMORY_LENGTH, RING_MEMORY_MAP, RING_MEMORY_MAX,
};
use crate::{Hardware, Verbena};
use core::sync::atomic::Ordering;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{arc_bytes, Arc, ArcRoom, Mutex};
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Reason};

/// Grains of the largest, if they are the smallest.
const MAX_GRAINS: usize = (RING_MEMORY_MAX / RING_GRAIN_LEAST as u64) as usize;

/// Which grains are taken.
struct Pool {
    /// Bit `n % 64` of word `n / 64` set: grain `n` is taken.
    taken: [u64; MAX_GRAINS / 64],
    /// All grains before this one are taken, so that a memory that is filled from its beginning is not searched from there.
    full: usize,
}

impl Pool {
    const EMPTY: Self = Pool {
        taken: [0; MAX_GRAINS / 64],
        full: 0,
    };

    fn is_taken(&self, grain: usize) -> bool {
        self.taken[grain / 64] >> (grain % 64) & 1 != 0
    }
}

/// Pages for rings.
pub struct RingMemory<P: Platform> {
    pub(crate) memory: Arc<P::Dma>,
    /// Bytes: what queues begin on multiples of. A page, or less.
    grain: u64,
    pool: Mutex<Pool>,
}

impl<P: Platform> RingMemory<P> {
    /// What it takes beside the pages.
    pub(crate) const BYTES: usize = arc_bytes::<Self>() + Mutex::<Pool>::HEAP;

    /// Takes `count` grains that lie together, the first that there are on a multiple of `align`: the first one's number.
    fn take(&self, count: usize, align: usize) -> Option<usize> {
        let all = self.memory.len() / self.grain as usize;
        let mut pool = self.pool.lock();
        let begin = pool.full;
        let mut first = begin.next_multiple_of(align);
        while first + count <= all {
            match (first..first + count).rev().find(|&grain| pool.is_taken(grain)) {
                Some(taken) => first = (taken + 1).next_multiple_of(align),
                None => {
                    (first..first + count).for_each(|grain| pool.taken[grain / 64] |= 1 << (grain % 64));
                    if first == begin {
                        pool.full = first + count;
                    }
                    return Some(first);
                }
            }
        }
        None
    }

    fn give(&self, first: usize, count: usize) {
        let mut pool = self.pool.lock();
        (first..first + count).for_each(|grain| pool.taken[grain / 64] &= !(1 << (grain % 64)));
        pool.full = pool.full.min(first);
    }
}

/// The least grain that a ring memory can have.
pub(crate) fn least_grain<P: Platform>(hardware: &Hardware<P>) -> u32 {
    match hardware.packed_rings {
        true => RING_GRAIN_LEAST,
        false => PAGE as u32,
    }
}

fn of<P: Platform>(reference: &Reference<P>) -> &Arc<RingMemory<P>> {
    match reference.payload() {
        Some(Payload::RingMemory(memory)) => memory,
        _ => unreachable!("the attribute takes ring memories only"),
    }
}

/// Whether queue pairs in it share pages.
pub(crate) fn is_packed<P: Platform>(memory: Option<&Reference<P>>) -> bool {
    memory.is_some_and(|memory| of(memory).grain < PAGE)
}

/// Where a queue's ring, or rings, and record are: zeroed, in one piece, on whole pages or grains.
pub(crate) struct Stretch<P: Platform>(Home<P>);

enum Home<P: Platform> {
    /// Memory of the queue's own.
    Own(Arc<P::Dma>),
    /// Grains of a ring memory.
    Shared {
        memory: Arc<RingMemory<P>>,
        id: ObjectId,
        first: u16,
        count: u16,
    },
}

impl<P: Platform> Stretch<P> {
    /// A stretch for `bytes`: of `from`, aligned to `align` (a power of two, at most a page) and to its grain, or of its own.
    ///
    /// # Errors
    ///
    /// ENOSPC: so many bytes are not free together in `from`; ENOMEM.
    pub(crate) fn new(call: &Handling<'_, P>, from: Option<&Reference<P>>, bytes: u64, align: u64) -> Outcome<Self> {
        let Some(from) = from else {
            return Self::own(&call.device().platform, bytes);
        };
        let memory = of(from);
        let full = || call.fail(RING_MEMORY, Errno::ENOSPC, Reason::OUT_OF_RANGE);
        if bytes > RING_MEMORY_MAX {
            return Err(full());
        }
        // What is aligned to a page has whole pages: a process may map them.
        let unit = if align < PAGE { memory.grain } else { PAGE };
        let count = (bytes.next_multiple_of(unit) / memory.grain) as usize;
        let first = memory.take(count, (align.max(memory.grain) / memory.grain) as usize);
        let first = first.ok_or_else(full)?;
        Ok(Stretch(Home::Shared {
            memory: memory.clone(),
            id: from.id(),
            first: first as u16,
            count: count as u16,
        }))
    }

    /// A stretch of its own.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn own(platform: &P, bytes: u64) -> Outcome<Self> {
        Ok(Stretch(Home::Own(shared(platform, bytes as usize)?)))
    }

    /// The memory that it lies in.
    pub(crate) fn memory(&self) -> &Arc<P::Dma> {
        match &self.0 {
            Home::Own(memory) => memory,
            Home::Shared { memory, .. } => &memory.memory,
        }
    }

    /// Where in that it begins, and its bytes.
    fn place(&self) -> (u64, u64) {
        match &self.0 {
            Home::Own(memory) => (0, memory.len() as u64),
            Home::Shared {
                memory, first, count, ..
            } => (u64::from(*first) * memory.grain, u64::from(*count) * memory.grain),
        }
    }

    /// The DMA address of its first byte.
    pub(crate) fn addr(&self) -> u64 {
        self.memory().addr() + self.place().0
    }

    /// Bytes of it, whole pages or grains.
    pub(crate) fn len(&self) -> u64 {
        self.place().1
    }

    /// Where a process maps it; `queue` is what it belongs to.
    pub(crate) fn mmap_offset(&self, queue: ObjectId) -> u64 {
        match &self.0 {
            Home::Own(_) => memory_offset(queue),
            Home::Shared { id, .. } => memory_offset(*id) + self.place().0,
        }
    }

    /// Its memory, if it is of its own.
    pub(crate) fn if_own(&self) -> Option<&Arc<P::Dma>> {
        match &self.0 {
            Home::Own(memory) => Some(memory),
            Home::Shared { .. } => None,
        }
    }
}

impl<P: Platform> Drop for Stretch<P> {
    fn drop(&mut self) {
        if let Home::Shared {
            memory, first, count, ..
        } = &self.0
        {
            // The device has let go of them. The next queue begins on zeros (verbena_hw::ring).
            let (first, count) = (usize::from(*first), usize::from(*count));
            let words = memory.grain as usize / 8;
            let words = &memory.memory.words()[first * words..][..count * words];
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            memory.give(first, count);
        }
    }
}

fn map<P: Platform>(memory: &RingMemory<P>, id: ObjectId) -> RingMemoryMap {
    RingMemoryMap {
        mmap_offset: memory_offset(id),
        mmap_length: memory.memory.len() as u64,
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let length = call.require(RING_MEMORY_LENGTH)?;
    if length == 0 || length > RING_MEMORY_MAX {
        return Err(call.out_of_range(RING_MEMORY_LENGTH));
    }
    let grain = u64::from(call.get(RING_GRAIN)?.unwrap_or(PAGE as u32));
    if grain != PAGE && grain != u64::from(least_grain(call.device())) {
        return Err(call.out_of_range(RING_GRAIN));
    }
    let reservation = call.reserve()?;
    let memory = shared(&call.device().platform, length as usize)?;
    let pool = Mutex::try_new(Pool::EMPTY, c"verbena_ring_memory")?;
    let memory = ArcRoom::try_new()?.fill(RingMemory { memory, grain, pool });
    let map = map(&memory, reservation.id());
    call.publish(reservation, Some(Payload::RingMemory(memory)), &[]);
    call.put(RING_MEMORY_MAP, &map)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::RingMemory(memory) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let map = map(memory, call.object().id());
    call.put(RING_MEMORY_MAP, &map)
}

/// The device knows nothing of it, and what lies in it has ended.
pub(crate) fn release<P: Platform>(_ending: &Ending<'_, Verbena<P>>) -> Outcome {
    Ok(())
}
