// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory that the device reaches, and the moment from which it reaches none.
//!
//! Rings, doorbell pages and the queues of the driver are pages of the kernel's, memory regions are pinned pages of a
//! process. Either may live longer than the device: until its owner closes the file, or unmaps it. What the device
//! reaches ends earlier, with [`Reach::cut`], when the driver is unbound from it. So each is memory first, and
//! mapped for the device second.

use crate::glue;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use kernel::device;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::list::{List, ListArc, ListLinks};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, Mutex};
use rdma_uapi::sys::{allocated, arc_bytes};
use rdma_uapi::Failure;
use verbena_core::platform::{self, PAGE};

/// Pages of the kernel's, or pinned ones of a process.
///
/// # Invariants
///
/// The pointer came from `verbena_memory_alloc` or `verbena_memory_pin` and is owned.
struct Memory(NonNull<glue::Memory>);

// SAFETY: The C structure is bound to no thread. What its functions change is changed under the lock of `Reach`, or by
// the only owner.
unsafe impl Send for Memory {}
// SAFETY: As above; the other functions only read what does not change while there is a reference.
unsafe impl Sync for Memory {}

impl Memory {
    fn alloc(pages: usize) -> Result<Self> {
        // SAFETY: There is nothing to be met.
        let memory = unsafe { glue::verbena_memory_alloc(pages) };
        // INVARIANT: Just allocated.
        NonNull::new(memory).map(Memory).ok_or(ENOMEM)
    }

    fn pin(addr: usize, pages: usize, writable: bool) -> Result<Self> {
        // SAFETY: The address need not be valid: then the function fails. The calling process's memory is meant.
        let memory = from_err_ptr(unsafe { glue::verbena_memory_pin(addr, pages, writable) })?;
        // INVARIANT: Just made.
        NonNull::new(memory).map(Memory).ok_or(ENOMEM)
    }

    /// # Safety
    ///
    /// `self` is not mapped for any device; `device` is bound, and stays so until `self` is unmapped.
    unsafe fn map(&self, device: &device::Device) -> Result {
        // SAFETY: The invariant, and the caller's word.
        to_result(unsafe { glue::verbena_memory_map(self.0.as_ptr(), glue::raw_device(device)) })
    }

    /// # Safety
    ///
    /// `self` is mapped, and nobody else unmaps it.
    unsafe fn unmap(&self) {
        // SAFETY: The invariant, and the caller's word.
        unsafe { glue::verbena_memory_unmap(self.0.as_ptr()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The invariant. It is not mapped: only `Reach` maps, and it unmaps before it lets go.
        unsafe { glue::verbena_memory_free(self.0.as_ptr()) }
    }
}

/// Memory in the list of a [`Reach`]. In the list is the same as mapped.
#[pin_data]
struct Mapping {
    #[pin]
    links: ListLinks,
    memory: Memory,
}

kernel::list::impl_list_arc_safe! {
    impl ListArcSafe<0> for Mapping { untracked; }
}
kernel::list::impl_list_item! {
    impl ListItem<0> for Mapping { using ListLinks { self.links }; }
}

struct Mapped {
    bound: bool,
    list: List<Mapping>,
}

/// Bytes that the books of one [`Dma`] take: handle, place in the list, and C's structure (asserted in `glue.c`).
pub(crate) const DMA_BOOKS: usize = arc_bytes::<Dma>() + arc_bytes::<Mapping>() + allocated(glue::MEMORY_BYTES);

/// All memory that one device reaches.
#[pin_data]
pub(crate) struct Reach {
    device: ARef<device::Device>,
    #[pin]
    mapped: Mutex<Mapped>,
}

impl Reach {
    /// The device has just been bound to its driver; [`Reach::cut`] must be called before it is unbound.
    pub(crate) fn new(device: &device::Device<device::Bound>) -> Result<Arc<Self>> {
        let device: &device::Device = device;
        let device = ARef::from(device);
        Arc::pin_init(
            pin_init!(Reach {
                device,
                mapped <- new_mutex!(Mapped { bound: true, list: List::new() }),
            }),
            GFP_KERNEL,
        )
    }

    /// The device reaches nothing any more. It must have stopped. The memory stays with its owners.
    pub(crate) fn cut(&self) {
        let mut mapped = self.mapped.lock();
        mapped.bound = false;
        while let Some(mapping) = mapped.list.pop_front() {
            // SAFETY: It was in the list, so it is mapped; and now it is not in the list.
            unsafe { mapping.memory.unmap() };
        }
    }

    fn add(self: &Arc<Self>, memory: Memory) -> Result<Reached> {
        let mapping = ListArc::pin_init(try_pin_init!(Mapping { links <- ListLinks::new(), memory }), GFP_KERNEL)?;
        let shared = mapping.clone_arc();
        // The device cannot be unbound while this is locked: cut() comes first and waits.
        let mut mapped = self.mapped.lock();
        if !mapped.bound {
            return Err(ENODEV);
        }
        // SAFETY: It is new, so not mapped. The device is bound until cut() has unmapped what is in the list.
        unsafe { shared.memory.map(&self.device) }?;
        mapped.list.push_back(mapping);
        drop(mapped);
        Ok(Reached {
            reach: self.clone(),
            mapping: shared,
        })
    }

    /// Zeroed memory of at least `len` bytes, in one stretch.
    pub(crate) fn alloc(self: &Arc<Self>, len: usize) -> Result<Dma> {
        let pages = len.div_ceil(PAGE as usize);
        let reached = self.add(Memory::alloc(pages)?)?;
        let mut addr = 0;
        reached.each(&mut |at, _| {
            addr = at;
            0
        });
        Ok(Dma {
            reached,
            addr,
            words: pages * (PAGE as usize / size_of::<AtomicU64>()),
        })
    }

    /// The pages of `len` bytes at `addr` in the calling process.
    pub(crate) fn pin(self: &Arc<Self>, addr: u64, len: u64, writable: bool) -> Result<Pinned> {
        let first = addr & !(PAGE - 1);
        let end = addr
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(PAGE))
            .ok_or(EFAULT)?;
        let memory = Memory::pin(first as usize, ((end - first) / PAGE) as usize, writable)?;
        Ok(Pinned {
            reached: self.add(memory)?,
            first_offset: addr - first,
        })
    }
}

/// Memory that the device reaches, until this is dropped or the device goes.
struct Reached {
    reach: Arc<Reach>,
    mapping: Arc<Mapping>,
}

impl Reached {
    /// Calls `each` with address and length of every stretch until it returns other than 0.
    fn each(&self, each: &mut dyn FnMut(u64, u64) -> c_int) {
        unsafe extern "C" fn call(context: *mut c_void, addr: u64, len: u64) -> c_int {
            // SAFETY: `context` is the one below, for the time of the call below.
            let each = unsafe { &mut *context.cast::<&mut dyn FnMut(u64, u64) -> c_int>() };
            each(addr, len)
        }
        let mut each = each;
        let context = (&raw mut each).cast();
        // SAFETY: The memory was mapped when this was made. Unmapping in between leaves the addresses where they are,
        // meaningless to a device that is gone. `call` takes this context.
        unsafe { glue::verbena_memory_each(self.mapping.memory.0.as_ptr(), call, context) };
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        let mut mapped = self.reach.mapped.lock();
        // SAFETY: It has never been in another list than this one.
        if let Some(mapping) = unsafe { mapped.list.remove(&self.mapping) } {
            // Under the lock: cut() must not return, and the device be unbound, before this is done.
            // SAFETY: It was in the list, so it is mapped; and now it is not in the list.
            unsafe { mapping.memory.unmap() };
        }
    }
}

/// Memory shared between driver, device and perhaps a process.
pub(crate) struct Dma {
    reached: Reached,
    addr: u64,
    words: usize,
}

impl Dma {
    /// The number of its first page.
    pub(crate) fn pfn(&self) -> c_ulong {
        // SAFETY: The memory was allocated.
        unsafe { glue::verbena_memory_pfn(self.reached.mapping.memory.0.as_ptr()) }
    }
}

impl platform::Dma for Dma {
    fn addr(&self) -> u64 {
        self.addr
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: The memory was allocated.
        let words = unsafe { glue::verbena_memory_kernel(self.reached.mapping.memory.0.as_ptr()) };
        // SAFETY: It is that long, page aligned, initialised with zeros, and lives as long as `self`. Whoever else
        // writes it does so from outside of this program: device, processes.
        unsafe { core::slice::from_raw_parts(words.cast(), self.words) }
    }
}

/// Pinned memory of a process.
pub(crate) struct Pinned {
    reached: Reached,
    first_offset: u64,
}

impl platform::Pinned for Pinned {
    fn first_offset(&self) -> u64 {
        self.first_offset
    }

    fn stretches(&self, each: &mut dyn FnMut(u64, u64) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut result = Ok(());
        self.reached.each(&mut |addr, len| {
            result = each(addr, len);
            c_int::from(result.is_err())
        });
        result
    }
}
