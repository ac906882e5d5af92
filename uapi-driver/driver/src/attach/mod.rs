// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two ways to a device. Everything above this module is the same for both.

mod direct;
mod kernel;

use crate::error::{Error, Result};
use crate::memory::Mapping;
use crate::Attachment;
use rdma_uapi::class::event_queue::Event;
use rdma_uapi::Errno;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// An open device.
pub(crate) trait Transport: Send + Sync {
    /// Sends a message to the device's own descriptor; what the object model answers is in it afterwards. What it names by
    /// address is memory that the caller has borrowed for the call, its provenance exposed.
    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno>;

    /// Sends a message that may name any address.
    fn raw_call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno>;

    /// The same as `call` for CREATE_FD.
    fn create_fd(&self, method: u8, message: &mut [u8]) -> Result<Box<dyn EventFd>, Errno>;

    /// The memory behind an offset that a CREATE answered.
    fn map(&self, offset: u64, len: usize) -> Result<Arc<Mapping>>;

    /// The doorbell register behind an offset that a CREATE answered.
    fn register(&self, offset: u64) -> Result<Box<dyn Register>>;

    /// Zeroed memory that can be registered.
    fn alloc(&self, len: usize) -> Result<Arc<Mapping>>;

    /// The number that another file's call names this one by: its descriptor. The system-wide node has none to give.
    fn descriptor(&self) -> Option<u32>;

    /// Whether the device is known to be gone.
    fn is_gone(&self) -> bool;
}

/// An event queue's descriptor.
pub(crate) trait EventFd: Send + Sync {
    /// What poll and epoll watch: readable when there are events.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Sends a message to it, as [`Transport::call`] does.
    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno>;

    /// Takes events, as many as there are and fit, without waiting. EAGAIN if there is none, ENODEV if there never will
    /// be.
    fn read(&self, events: &mut [Event]) -> Result<usize, Errno>;
}

/// A page of doorbell registers.
pub(crate) trait Register: Send + Sync {
    /// Writes the doorbell register: the device sleeps, and the bit of `slot` is in the page in memory.
    fn kick(&self, slot: u16) -> Result<(), Gone>;
}

/// The device is gone.
#[derive(Debug)]
pub(crate) struct Gone;

pub(crate) fn open(attachment: &Attachment) -> Result<Box<dyn Transport>> {
    match attachment {
        Attachment::Kernel(path) => Ok(Box::new(kernel::Kernel::open(path)?)),
        Attachment::Direct(path) => Ok(Box::new(direct::Direct::open(path)?)),
    }
}

/// The system-wide node of the same kind: the kernel module's, or this process's own.
pub(crate) fn open_node(attachment: &Attachment) -> Result<Box<dyn Transport>> {
    match attachment {
        Attachment::Kernel(path) => Ok(Box::new(kernel::Kernel::open_node(path)?)),
        Attachment::Direct(_) => Ok(Box::new(direct::DirectNode::open()?)),
    }
}

fn page_aligned(len: usize) -> Result<usize> {
    len.max(1)
        .checked_next_multiple_of(4096)
        .ok_or(Error::Argument("a buffer cannot be that long"))
}
