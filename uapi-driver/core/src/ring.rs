// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory shared with a process, and where in a context's mapping space it is.
//!
//! An offset names an object of the context, by id, and one of its areas. Nothing but the context's own objects can be
//! reached. Ids are not reused soon, so an offset of a destroyed object finds nothing.

use crate::doorbell::Doorbell;
use crate::driver::Payload;
use crate::platform::{Dma, Platform, PAGE};
use crate::ring_memory::Stretch;
use crate::schema::{DOORBELL_CLASS, RING_MEMORY_CLASS};
use crate::Context;
use core::sync::atomic::Ordering;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{try_arc, Arc};
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{class, Errno, Failure, Reason};

/// In an offset: the object's register, not its memory.
const REGISTER: u64 = 1 << 31;

/// The offset of the object's memory.
pub(crate) fn memory_offset(id: ObjectId) -> u64 {
    u64::from(id.0) << 32
}

/// The offset of the object's register.
pub(crate) fn register_offset(id: ObjectId) -> u64 {
    memory_offset(id) | REGISTER
}

/// Memory that the device and a process share.
pub(crate) fn shared<P: Platform>(platform: &P, len: usize) -> Outcome<Arc<P::Dma>> {
    let memory = platform
        .alloc_dma(len)
        .map_err(|errno| Failure::new(errno, Reason::NO_MEMORY))?;
    Ok(try_arc(memory)?)
}

/// What a process maps. The platform keeps it for as long as the mapping exists, copies of the mapping included.
pub enum MmapTarget<P: Platform> {
    /// Memory from `offset` on, as long as was asked for, shared, to read and write, cached as the platform caches DMA
    /// memory. It outlives its object: DESTROY of a mapped queue succeeds, and the process still sees the memory, which
    /// nobody else writes any more; or another queue of the same context, if it is of a ring memory.
    Memory {
        /// What it is part of.
        memory: Arc<P::Dma>,
        /// Where in that it begins: whole pages.
        offset: u64,
    },
    /// One page of BAR 2, uncached, to write.
    Register(RegisterMapping<P>),
}

impl<P: Platform> Clone for MmapTarget<P> {
    fn clone(&self) -> Self {
        match self {
            MmapTarget::Memory { memory, offset } => MmapTarget::Memory {
                memory: memory.clone(),
                offset: *offset,
            },
            MmapTarget::Register(register) => MmapTarget::Register(register.clone()),
        }
    }
}

/// A mapped doorbell register. While it exists, DESTROY of the doorbell page is EBUSY: the device would give the page
/// of BAR 2 to somebody else, whom this process could ring.
pub struct RegisterMapping<P: Platform>(Arc<Doorbell<P>>);

impl<P: Platform> RegisterMapping<P> {
    fn of(doorbell: &Arc<Doorbell<P>>) -> Self {
        doorbell.mappings.fetch_add(1, Ordering::Relaxed);
        RegisterMapping(doorbell.clone())
    }

    /// The page of BAR 2.
    pub fn page(&self) -> u32 {
        self.0.index
    }

    /// Its offset in BAR 2.
    pub fn bar_offset(&self) -> u64 {
        u64::from(self.0.index) * verbena_hw::doorbell::PAGE_SIZE
    }
}

impl<P: Platform> Clone for RegisterMapping<P> {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl<P: Platform> Drop for RegisterMapping<P> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of the doorbell's end.
        self.0.mappings.fetch_sub(1, Ordering::Release);
    }
}

/// What `len` bytes at `offset` of a context's mapping space are.
///
/// # Errors
///
/// EINVAL if no area of the context's objects begins there, or if it is not `len` bytes long (of a ring memory any whole
/// pages are an area); ENODEV if the device is
/// gone; EBUSY if the object is being destroyed.
pub fn mmap<P: Platform>(context: &Context<P>, offset: u64, len: u64) -> Outcome<MmapTarget<P>> {
    const NOTHING: Failure = Failure::new(Errno::EINVAL, Reason::NO_OBJECT);
    if context.device().is_removed() || context.device().state().is_gone() {
        return Err(Failure::GONE);
    }
    let id = u32::try_from(offset >> 32).map_err(|_| NOTHING)?;
    let object = match context.store().get_of(
        ObjectId(id),
        &[
            class::CQ,
            class::COUNTER,
            class::SRQ,
            class::QP_RC,
            class::QP_UC,
            class::QP_UD,
            class::QP_RAW,
            class::QP_XRC_INI,
            DOORBELL_CLASS,
            RING_MEMORY_CLASS,
        ],
    ) {
        Ok(object) => object,
        Err(failure) if failure.errno == Errno::EBUSY => return Err(failure),
        Err(_) => return Err(NOTHING),
    };
    let memory = |memory: &Arc<P::Dma>| {
        let size = memory.len() as u64;
        let memory = memory.clone();
        (MmapTarget::Memory { memory, offset: 0 }, size)
    };
    // What lies in a ring memory is mapped as a part of that.
    let own = |stretch: &Stretch<P>| stretch.if_own().map(memory).ok_or(NOTHING);
    let (target, size) = match (object.payload(), offset & u64::from(u32::MAX)) {
        (Some(Payload::Cq(cq)), 0) => cq.with_memory(own)?,
        (Some(Payload::Srq(srq)), 0) => srq.with_memory(own)?,
        (Some(Payload::Qp(qp)), 0) => own(&qp.memory)?,
        (Some(Payload::RingMemory(ring)), offset) if offset % PAGE == 0 => {
            let memory = ring.memory.clone();
            let end = offset
                .checked_add(len)
                .filter(|&end| len > 0 && len % PAGE == 0 && end <= memory.len() as u64);
            end.ok_or(Failure::new(Errno::EINVAL, Reason::OUT_OF_RANGE))?;
            (MmapTarget::Memory { memory, offset }, len)
        }
        (Some(Payload::Doorbell(doorbell)), 0) => memory(&doorbell.page),
        (Some(Payload::Doorbell(doorbell)), REGISTER) => (
            MmapTarget::Register(RegisterMapping::of(doorbell)),
            verbena_hw::doorbell::PAGE_SIZE,
        ),
        _ => return Err(NOTHING),
    };
    if len != size {
        return Err(Failure::new(Errno::EINVAL, Reason::OUT_OF_RANGE));
    }
    Ok(target)
}
