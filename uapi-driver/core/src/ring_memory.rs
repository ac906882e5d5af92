// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Ring memory: pages that the rings of many queues share, so that a process maps them once. Verbena's own class.
//!
//! CREATE of a queue may name one. Where in it the queue lies is chosen here and answered, so there is nothing that a
//! program could state wrongly: a stretch lies inside, begins on a page, is one piece for the device, and is nobody else's.

use crate::driver::{Handling, Payload, Reference};
use crate::platform::{Dma, Platform, PAGE};
use crate::ring::{memory_offset, shared};
use crate::schema::{RingMemoryMap, RING_MEMORY, RING_MEMORY_LENGTH, RING_MEMORY_MAP, RING_MEMORY_MAX};
use crate::Verbena;
use core::sync::atomic::Ordering;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{arc_bytes, Arc, ArcRoom, Mutex};
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Reason};

/// Pages of the largest.
const MAX_PAGES: usize = RING_MEMORY_MAX as usize / PAGE as usize;

/// Which pages are taken.
struct Pool {
    /// Bit `n % 64` of word `n / 64` set: page `n` is taken.
    taken: [u64; MAX_PAGES / 64],
    /// All pages before this one are taken, so that a memory that is filled from its beginning is not searched from there.
    full: usize,
}

impl Pool {
    const EMPTY: Self = Pool {
        taken: [0; MAX_PAGES / 64],
        full: 0,
    };

    fn is_taken(&self, page: usize) -> bool {
        self.taken[page / 64] >> (page % 64) & 1 != 0
    }
}

/// Pages for rings.
pub struct RingMemory<P: Platform> {
    pub(crate) memory: Arc<P::Dma>,
    pool: Mutex<Pool>,
}

impl<P: Platform> RingMemory<P> {
    /// What it takes beside the pages.
    pub(crate) const BYTES: usize = arc_bytes::<Self>() + Mutex::<Pool>::HEAP;

    /// Takes `pages` pages that lie together, the first that there are: the first one's number.
    fn take(&self, pages: usize) -> Option<usize> {
        let all = self.memory.len() / PAGE as usize;
        let mut pool = self.pool.lock();
        let mut run = 0;
        let begin = pool.full;
        for page in begin..all {
            if pool.is_taken(page) {
                run = 0;
                continue;
            }
            run += 1;
            if run == pages {
                let first = page + 1 - pages;
                (first..=page).for_each(|page| pool.taken[page / 64] |= 1 << (page % 64));
                if first == begin {
                    pool.full = page + 1;
                }
                return Some(first);
            }
        }
        None
    }

    fn give(&self, first: usize, pages: usize) {
        let mut pool = self.pool.lock();
        (first..first + pages).for_each(|page| pool.taken[page / 64] &= !(1 << (page % 64)));
        pool.full = pool.full.min(first);
    }
}

/// Where a queue's ring, or rings, and record are: zeroed, in one piece, on whole pages.
pub(crate) struct Stretch<P: Platform>(Home<P>);

enum Home<P: Platform> {
    /// Memory of the queue's own.
    Own(Arc<P::Dma>),
    /// Pages of a ring memory.
    Shared {
        memory: Arc<RingMemory<P>>,
        id: ObjectId,
        first: u16,
        pages: u16,
    },
}

impl<P: Platform> Stretch<P> {
    /// A stretch for `bytes`: of `from`, or of its own.
    ///
    /// # Errors
    ///
    /// ENOSPC: so many pages are not free together in `from`; ENOMEM.
    pub(crate) fn new(call: &Handling<'_, P>, from: Option<&Reference<P>>, bytes: u64) -> Outcome<Self> {
        let Some(from) = from else {
            return Self::own(&call.device().platform, bytes);
        };
        let Some(Payload::RingMemory(memory)) = from.payload() else {
            unreachable!("the attribute takes ring memories only")
        };
        let full = || call.fail(RING_MEMORY, Errno::ENOSPC, Reason::OUT_OF_RANGE);
        let pages = bytes.div_ceil(PAGE);
        if pages > MAX_PAGES as u64 {
            return Err(full());
        }
        let first = memory.take(pages as usize).ok_or_else(full)?;
        Ok(Stretch(Home::Shared {
            memory: memory.clone(),
            id: from.id(),
            first: first as u16,
            pages: pages as u16,
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
            Home::Shared { first, pages, .. } => (u64::from(*first) * PAGE, u64::from(*pages) * PAGE),
        }
    }

    /// The DMA address of its first byte.
    pub(crate) fn addr(&self) -> u64 {
        self.memory().addr() + self.place().0
    }

    /// Bytes of it, whole pages.
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
            memory, first, pages, ..
        } = &self.0
        {
            // The device has let go of them. The next queue begins on zeros (verbena_hw::ring).
            let (first, pages) = (usize::from(*first), usize::from(*pages));
            let words = PAGE as usize / 8;
            let words = &memory.memory.words()[first * words..][..pages * words];
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            memory.give(first, pages);
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
    let reservation = call.reserve()?;
    let memory = shared(&call.device().platform, length as usize)?;
    let pool = Mutex::try_new(Pool::EMPTY, c"verbena_ring_memory")?;
    let memory = ArcRoom::try_new()?.fill(RingMemory { memory, pool });
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
