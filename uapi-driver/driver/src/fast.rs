// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions that work requests register.

use crate::context::MESSAGE;
use crate::error::Result;
use crate::object::Object;
use crate::ring::work::{Remote, SendWr};
use crate::{Access, Buffer, Context, MemoryRegion, ProtectionDomain};
use rdma_uapi::class::{self, mr};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::sync::Arc;
use verbena_hw::id::Key;
use verbena_hw::wqe::Sge;
use zerocopy::IntoBytes;

/// A region whose memory, rights and key a work request chooses, without a call, as often as one likes.
///
/// It consists of parts of [`crate::MemoryRegion`]s of its protection domain, which stay registered while it is: EBUSY. It is
/// free, or valid from [`FastRegion::register_wr`] until a work request of its owner or a peer invalidates its key, which fails
/// while windows are bound to it. Dropping it takes it away in either state.
pub struct FastRegion {
    // Field order: gone before its protection domain can go.
    object: Object,
    key: Key,
    max_elements: u32,
    _pd: Arc<Object>,
}

impl FastRegion {
    pub(crate) fn new(pd: &ProtectionDomain, max_elements: u32) -> Result<Self> {
        const DOING: &str = "make a region for work requests to register";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MR, 0);
        message
            .put(mr::PD, &pd.object.id())
            .put(mr::MAX_ELEMENTS, &max_elements)
            .ask(mr::LKEY);
        let answer = pd.context().call(DOING, method::CREATE, message)?;
        Ok(Self {
            object: Object::new(pd.context(), class::MR, answer.object(), "destroy a region"),
            key: Key(answer.expect(DOING, mr::LKEY)?),
            max_elements,
            _pd: pd.object.clone(),
        })
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// The key that [`FastRegion::register_wr`] gave it last, for its owner's elements and for peers.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The most elements that it may consist of.
    pub fn max_elements(&self) -> u32 {
        self.max_elements
    }

    /// A work request that makes it valid: the memory that the elements name, one after the other, under a new key, its first
    /// byte at `iova` (0 with [`Access::ZERO_BASED`]); and what a peer must know when it has completed. It must be free,
    /// an entry of the queue pair must hold the elements: [`FastRegion::register_list_wr`] takes more.
    pub fn register_wr<'a>(&mut self, memory: &'a [Sge], iova: u64, access: Access) -> (SendWr<'a>, Remote) {
        let remote = self.next(iova);
        (SendWr::fast_register(remote, access.bits()).sges(memory), remote)
    }

    /// As [`FastRegion::register_wr`], of the elements in memory that `list` names ([`ElementList::set`]). The device reads them when it executes
    /// the work request: until that has completed the list stays as it is.
    pub fn register_list_wr<'a>(&mut self, list: &'a [Sge], iova: u64, access: Access) -> (SendWr<'a>, Remote) {
        let remote = self.next(iova);
        (SendWr::fast_register_list(remote, access.bits()).sges(list), remote)
    }

    /// The region's next key, and its first byte.
    fn next(&mut self, iova: u64) -> Remote {
        self.key = Key::from_parts(self.key.index(), self.key.tag().wrapping_add(1));
        Remote {
            addr: iova,
            rkey: self.key.0,
        }
    }

    /// A work request that makes it free.
    pub fn invalidate_wr(&self) -> SendWr<'static> {
        SendWr::local_invalidate(self.key.0)
    }

    /// Bytes that it has; 0 while it is free.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn registered_len(&self) -> Result<u64> {
        const DOING: &str = "query a region";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MR, self.object.id().0);
        message.ask(mr::LENGTH);
        self.context()
            .call(DOING, method::QUERY, message)?
            .expect(DOING, mr::LENGTH)
    }

    /// Destroys it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

impl fmt::Debug for FastRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FastRegion({}, {} elements)", self.key, self.max_elements)
    }
}

/// Memory for the elements of [`FastRegion`]s of more elements than a work queue's entry holds, registered.
#[derive(Debug)]
pub struct ElementList {
    region: MemoryRegion,
    buffer: Buffer,
    capacity: usize,
}

impl ElementList {
    /// Room for `capacity` elements, which the device can read.
    ///
    /// # Errors
    ///
    /// As of [`ProtectionDomain::register`].
    pub fn new(pd: &ProtectionDomain, capacity: usize) -> Result<Self> {
        let len = capacity * size_of::<Sge>();
        let buffer = pd.context().alloc_buffer(len.max(1))?;
        let region = pd.register(&buffer, Access::empty())?;
        Ok(Self {
            region,
            buffer,
            capacity,
        })
    }

    /// Stores elements, and says where they are: the element of [`FastRegion::register_list_wr`].
    ///
    /// # Panics
    ///
    /// If there are more than it has room for.
    pub fn set(&self, elements: &[Sge]) -> Sge {
        assert!(
            elements.len() <= self.capacity,
            "{} elements in a list of {}",
            elements.len(),
            self.capacity
        );
        let bytes = elements.as_bytes();
        self.buffer.write_at(0, bytes);
        self.region.sge(..bytes.len())
    }
}
