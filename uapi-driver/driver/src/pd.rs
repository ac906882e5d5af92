// SPDX-License-Identifier: MIT OR Apache-2.0
//! Protection domains and memory regions.

use crate::context::{Answer, MESSAGE};
use crate::error::Result;
use crate::memory::Buffer;
use crate::object::Object;
use crate::ring::work::Remote;
use crate::{Context, FastRegion, MemoryWindow, NullRegion, WindowType};
use bitflags::bitflags;
use rdma_uapi::class::pd::PdMembers;
use rdma_uapi::class::{self, mr, pd};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use verbena_hw::id::Key;
use verbena_hw::wqe::Sge;

bitflags! {
    /// What may be done with a memory region, or through a queue pair.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u32 {
        /// The device may write it on behalf of its owner: receives, READs, atomics.
        const LOCAL_WRITE = mr::access::LOCAL_WRITE;
        /// A peer may write it.
        const REMOTE_WRITE = mr::access::REMOTE_WRITE;
        /// A peer may read it.
        const REMOTE_READ = mr::access::REMOTE_READ;
        /// A peer may do atomic operations on it.
        const REMOTE_ATOMIC = mr::access::REMOTE_ATOMIC;
        /// Memory windows may be bound to it.
        const MW_BIND = mr::access::MW_BIND;
        /// Addresses in it count from zero.
        const ZERO_BASED = mr::access::ZERO_BASED;
        /// A peer may make what it wrote globally visible.
        const FLUSH_GLOBAL = mr::access::FLUSH_GLOBAL;
        /// What the owner and a peer can do with plain memory: everything but windows.
        const ALL_REMOTE =
            mr::access::LOCAL_WRITE | mr::access::REMOTE_WRITE | mr::access::REMOTE_READ | mr::access::REMOTE_ATOMIC;

        const _ = !0;
    }
}

/// A protection domain: queue pairs and memory regions work together only within one.
pub struct ProtectionDomain {
    pub(crate) object: Arc<Object>,
    pdn: u32,
}

impl ProtectionDomain {
    pub(crate) fn new(context: &Context) -> Result<Self> {
        let mut words = [0; MESSAGE];
        let message = Self::message(&mut words);
        Self::made(context, &context.call(Self::DOING, method::CREATE, message)?)
    }

    /// What CREATE is, in a sentence.
    pub(crate) const DOING: &'static str = "make a protection domain";

    /// The message of CREATE.
    pub(crate) fn message(words: &mut [u64]) -> Builder<'_> {
        let mut message = Builder::new(words, class::PD, 0);
        message.ask(pd::PDN);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(context: &Context, answer: &Answer<'_>) -> Result<Self> {
        let object = Object::new(context, class::PD, answer.object(), "destroy a protection domain");
        Ok(Self {
            pdn: answer.expect(Self::DOING, pd::PDN)?,
            object: Arc::new(object),
        })
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// The number that the device knows it by.
    pub fn pdn(&self) -> u32 {
        self.pdn
    }

    /// What is in it, as the device counts.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn members(&self) -> Result<PdMembers> {
        const DOING: &str = "query a protection domain";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::PD, self.object.id().0);
        message.ask(pd::MEMBERS);
        let answer = self.context().call(DOING, method::QUERY, message)?;
        answer.expect(DOING, pd::MEMBERS)
    }

    /// Registers all of `buffer`. The region's addresses are the buffer's, or begin at 0 with [`Access::ZERO_BASED`].
    ///
    /// # Errors
    ///
    /// The access rights contradict each other; over the limit of locked memory; the device has no more regions.
    pub fn register(&self, buffer: &Buffer, access: Access) -> Result<MemoryRegion> {
        self.register_part(buffer, .., access)
    }

    /// Registers a part of `buffer`.
    ///
    /// # Errors
    ///
    /// As [`ProtectionDomain::register`]; the part is empty.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn register_part(
        &self,
        buffer: &Buffer,
        range: impl RangeBounds<usize>,
        access: Access,
    ) -> Result<MemoryRegion> {
        let (start, len) = resolve(range, buffer.len());
        // SAFETY: the region keeps the buffer, whose contents nobody has plain references to.
        unsafe {
            self.register_memory(
                buffer.addr() + start as u64,
                len as u64,
                None,
                access,
                Some(buffer.clone()),
            )
        }
    }

    /// Registers all of `buffer`; work requests and peers name its first byte `iova`.
    ///
    /// # Errors
    ///
    /// As [`ProtectionDomain::register`]; the address space ends before the region does.
    pub fn register_at(&self, buffer: &Buffer, iova: u64, access: Access) -> Result<MemoryRegion> {
        // SAFETY: as in `register_part`.
        unsafe {
            self.register_memory(
                buffer.addr(),
                buffer.len() as u64,
                Some(iova),
                access,
                Some(buffer.clone()),
            )
        }
    }

    /// Registers `len` bytes at `addr` of this process, which did not come from [`Context::alloc_buffer`].
    ///
    /// The direct attachment shares only its own memory with the device, so there this fails with EFAULT.
    ///
    /// # Errors
    ///
    /// As [`ProtectionDomain::register`]; the memory is not there, or not writable where `access` needs it to be.
    ///
    /// # Safety
    ///
    /// Until the region is gone the device may read the memory and, if `access` has any right to write, write it at any
    /// moment. So it must stay allocated and mapped for that long; while the device may write it, no reference to it
    /// may exist that is not to atomics or `UnsafeCell`s, and it is accessed by volatile or atomic operations only. The
    /// process must not fork and go on writing it in both processes: the pages would part.
    pub unsafe fn register_raw(&self, addr: *mut u8, len: usize, access: Access) -> Result<MemoryRegion> {
        // SAFETY: the caller promises the same.
        unsafe { self.register_memory(addr.expose_provenance() as u64, len as u64, None, access, None) }
    }

    /// # Safety
    ///
    /// As [`ProtectionDomain::register_raw`], unless `buffer` is what holds the memory.
    unsafe fn register_memory(
        &self,
        addr: u64,
        len: u64,
        iova: Option<u64>,
        access: Access,
        buffer: Option<Buffer>,
    ) -> Result<MemoryRegion> {
        let memory = Registration {
            addr,
            len,
            iova,
            access,
            buffer,
        };
        let mut words = [0; MESSAGE];
        let message = memory.message(&mut words, self.object.id());
        let answer = self.context().call(Registration::DOING, method::CREATE, message)?;
        memory.made(self, &answer)
    }

    /// A memory window, not bound to anything yet.
    ///
    /// # Errors
    ///
    /// The device has no more, or is gone.
    pub fn alloc_window(&self, window_type: WindowType) -> Result<MemoryWindow> {
        MemoryWindow::new(self, window_type)
    }

    /// A region for work requests to register, of `max_elements` elements at most (`max_fast_reg_pages` of
    /// [`Context::device`]).
    ///
    /// # Errors
    ///
    /// It may not have so many elements, or none; the device has no more regions, or is gone.
    pub fn alloc_fast_region(&self, max_elements: u32) -> Result<FastRegion> {
        FastRegion::new(self, max_elements)
    }

    /// A region without memory, for elements that are not worth any.
    ///
    /// # Errors
    ///
    /// The device has no more regions, or is gone.
    pub fn alloc_null_region(&self) -> Result<NullRegion> {
        NullRegion::new(self)
    }

    /// Destroys it. Dropping it does the same, when everything made on it is gone.
    ///
    /// # Errors
    ///
    /// EBUSY while there are regions or queue pairs on it.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

/// What is to be registered.
pub(crate) struct Registration {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) iova: Option<u64>,
    pub(crate) access: Access,
    pub(crate) buffer: Option<Buffer>,
}

impl Registration {
    /// What CREATE is, in a sentence.
    pub(crate) const DOING: &'static str = "register memory";

    /// The message of CREATE.
    pub(crate) fn message<'m>(&self, words: &'m mut [u64], pd: ObjectId) -> Builder<'m> {
        let mut message = Builder::new(words, class::MR, 0);
        message
            .put(mr::PD, &pd)
            .put(mr::ADDR, &self.addr)
            .put(mr::LENGTH, &self.len);
        message
            .put_some(mr::IOVA, self.iova)
            .put(mr::ACCESS, &self.access.bits());
        message.ask(mr::LKEY).ask(mr::RKEY);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(self, pd: &ProtectionDomain, answer: &Answer<'_>) -> Result<MemoryRegion> {
        let object = Object::new(pd.context(), class::MR, answer.object(), "deregister memory");
        let zero_based = self.access.contains(Access::ZERO_BASED);
        Ok(MemoryRegion {
            lkey: Key(answer.expect(Self::DOING, mr::LKEY)?),
            rkey: Key(answer.expect(Self::DOING, mr::RKEY)?),
            iova: self.iova.unwrap_or(if zero_based { 0 } else { self.addr }),
            len: self.len,
            object,
            buffer: self.buffer,
            _pd: pd.object.clone(),
        })
    }
}

impl fmt::Debug for ProtectionDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProtectionDomain({})", self.pdn)
    }
}

/// Memory that the device may access. It keeps its buffer, and its protection domain.
///
/// Dropping it deregisters the memory; when that is done the device touches it no more. If a window is bound to it, which
/// keeps it registered, its buffer's memory is not given back while the process lives.
pub struct MemoryRegion {
    // Field order: deregistered before the memory and the protection domain can go.
    pub(crate) object: Object,
    lkey: Key,
    rkey: Key,
    iova: u64,
    len: u64,
    buffer: Option<Buffer>,
    _pd: Arc<Object>,
}

impl MemoryRegion {
    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    /// The key by which the owner's work requests name it.
    pub fn lkey(&self) -> Key {
        self.lkey
    }

    /// The key by which peers name it; 0 if it grants no remote access.
    pub fn rkey(&self) -> u32 {
        self.rkey.0
    }

    /// The address of its first byte, as work requests and peers name it.
    pub fn addr(&self) -> u64 {
        self.iova
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffer that it was made of, if it was.
    pub fn buffer(&self) -> Option<&Buffer> {
        self.buffer.as_ref()
    }

    /// A part of it, for a work request: offsets in the region.
    ///
    /// # Panics
    ///
    /// If the range is not inside the region, or longer than 4 GiB.
    #[inline]
    pub fn sge(&self, range: impl RangeBounds<usize>) -> Sge {
        let (start, len) = resolve(range, self.len());
        let len = u32::try_from(len).expect("an element is shorter than 4 GiB");
        Sge {
            addr: self.iova.wrapping_add(start as u64),
            len,
            lkey: self.lkey,
        }
    }

    /// A place in it, as a peer's work requests name it.
    ///
    /// # Panics
    ///
    /// If the offset is beyond its end.
    #[inline]
    pub fn remote(&self, offset: usize) -> Remote {
        assert!(
            offset <= self.len(),
            "offset {offset} is beyond a region of {} bytes",
            self.len
        );
        Remote {
            addr: self.iova.wrapping_add(offset as u64),
            rkey: self.rkey.0,
        }
    }

    /// Registers it anew: with other memory, in another domain, with other rights.
    pub fn reregister(&mut self) -> Reregistration<'_> {
        Reregistration {
            region: self,
            buffer: None,
            pd: None,
            access: None,
        }
    }

    /// Deregisters it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// Something is bound to it; the device is gone.
    pub fn deregister(self) -> Result<()> {
        self.object.destroy()
    }
}

/// What is to change of a region.
#[must_use = "nothing changes until `apply`"]
pub struct Reregistration<'a> {
    region: &'a mut MemoryRegion,
    buffer: Option<(Buffer, Option<u64>)>,
    pd: Option<&'a ProtectionDomain>,
    access: Option<Access>,
}

impl<'a> Reregistration<'a> {
    /// The region is all of `buffer`. Its addresses are the buffer's, or begin at 0 with [`Access::ZERO_BASED`].
    pub fn memory(mut self, buffer: &Buffer) -> Self {
        self.buffer = Some((buffer.clone(), None));
        self
    }

    /// The region is all of `buffer`; work requests and peers name its first byte `iova`.
    pub fn memory_at(mut self, buffer: &Buffer, iova: u64) -> Self {
        self.buffer = Some((buffer.clone(), Some(iova)));
        self
    }

    /// It is in this domain.
    pub fn pd(mut self, pd: &'a ProtectionDomain) -> Self {
        self.pd = Some(pd);
        self
    }

    /// It has these rights.
    pub fn access(mut self, access: Access) -> Self {
        self.access = Some(access);
        self
    }

    /// Does it. The region has other keys then, and the old ones are nothing any more.
    ///
    /// # Errors
    ///
    /// EBUSY: a window is bound to it. EINVAL: nothing is to change, or the rights contradict each other. Over the limit of
    /// locked memory; the device is gone. The region is what it was then, keys included.
    pub fn apply(self) -> Result<()> {
        const DOING: &str = "register memory anew";
        let region = self.region;
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MR, region.object.id().0);
        message
            .put_some(mr::PD, self.pd.map(|pd| pd.object.id()))
            .put_some(mr::ACCESS, self.access.map(|access| access.bits()));
        if let Some((buffer, iova)) = &self.buffer {
            message
                .put(mr::ADDR, &buffer.addr())
                .put(mr::LENGTH, &(buffer.len() as u64))
                .put_some(mr::IOVA, *iova);
        }
        message.ask(mr::LKEY).ask(mr::RKEY);
        let context = region.object.context();
        let answer = context.call(DOING, method::MODIFY, message)?;
        (region.lkey, region.rkey) = (
            Key(answer.expect(DOING, mr::LKEY)?),
            Key(answer.expect(DOING, mr::RKEY)?),
        );
        if let Some(pd) = self.pd {
            region._pd = pd.object.clone();
        }
        if let Some((buffer, _)) = self.buffer {
            region.len = buffer.len() as u64;
            region.buffer = Some(buffer);
        }
        let mut message = Builder::new(&mut words, class::MR, region.object.id().0);
        message.ask(mr::IOVA);
        let answer = region.object.context().call(DOING, method::QUERY, message)?;
        region.iova = answer.expect(DOING, mr::IOVA)?;
        Ok(())
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        if let Err(error) = self.object.destroy() {
            if !error.is_gone() {
                // The device still reaches the memory, so nobody else may get it.
                std::mem::forget(self.buffer.take());
            }
        }
    }
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MemoryRegion({:#x}, {} bytes, lkey {})",
            self.iova, self.len, self.lkey
        )
    }
}

/// Start and length of a range in something `len` long.
pub(crate) fn resolve(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&n) => n,
        Bound::Excluded(&n) => n + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&n) => n + 1,
        Bound::Excluded(&n) => n,
        Bound::Unbounded => len,
    };
    assert!(start <= end && end <= len, "{start}..{end} is not inside {len} bytes");
    (start, end - start)
}

impl From<Access> for u32 {
    fn from(access: Access) -> u32 {
        access.bits()
    }
}
