// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system-wide node of this process: what `/dev/verbena` is through the kernel module. It lists the devices that this
//! process is attached to.

use super::platform::{self, DirectPlatform, Owner, Waiters};
use super::{copy, Device, DirectEventFd};
use crate::attach::{EventFd, Register, Transport};
use crate::error::{Error, Result};
use crate::memory::Mapping;
use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::Moment;
use rdma_uapi::schema::Access;
use rdma_uapi::{wire, Driver, Errno, Host};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use verbena_core::foreign::{ForeignId, NoForeignCm};
use verbena_core::node::{self, Node, NodeContext, NodeHost};
use zerocopy::FromBytes;

type SystemNode = Node<DirectPlatform>;

/// The node. It stays: it costs a table, and who has it open may outlive every device.
static NODE: OnceLock<Arc<SystemNode>> = OnceLock::new();

fn system() -> &'static Arc<SystemNode> {
    NODE.get_or_init(|| node::try_new(Process).expect("its table is sound, and there is memory for it"))
}

/// A device is attached.
pub(super) fn add(device: &Arc<Device>) {
    node::add(system(), device).expect("natively, memory is found or the process ends");
}

/// A device is about to be let go.
pub(super) fn remove(device: &Arc<Device>) {
    node::remove(system(), device);
}

/// A device does not answer any more.
pub(super) fn changed(device: &Arc<Device>) {
    node::changed(system(), device);
}

/// This process as the place that the node runs in: no device is needed for that.
pub(super) struct Process;

impl Host for Process {
    type Owner = Owner;
    type Wait = Waiters;
    type Charge = ();
    const READS_AHEAD: bool = copy::READS_AHEAD;

    fn copy_in(&self, _owner: &Owner, addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        copy::copy_in(addr, into)
    }

    fn copy_out(&self, _owner: &Owner, addr: u64, from: &[u8]) -> Result<(), Errno> {
        copy::copy_out(addr, from)
    }

    fn may(&self, _owner: &Owner, _access: Access) -> bool {
        // It shows this process what it has itself.
        true
    }

    fn charge(&self, _owner: &Owner, _bytes: u64) -> Outcome<()> {
        Ok(())
    }

    fn install_fd<D: Driver<Host = Self>>(&self, owner: &Owner, object: FdObject<D>) -> Result<u32, Errno> {
        owner.install(object)
    }

    fn moment(&self) -> Moment {
        platform::moment()
    }

    fn pause(&self) {
        platform::pause();
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        platform::log(line);
    }
}

impl NodeHost<DirectPlatform> for Process {
    type Foreign = NoForeignCm;

    fn foreign(&self, _: &Arc<ForeignId<DirectPlatform>>) -> Result<NoForeignCm, Errno> {
        // A process has no ib_device of its own.
        Err(Errno::ENODEV)
    }

    fn context(&self, _owner: &Owner, fd: u32) -> Result<Arc<super::Context>, Errno> {
        super::opened(fd).ok_or(Errno::EBADF)
    }
}

/// A context on the node.
pub(in crate::attach) struct DirectNode(Arc<NodeContext<DirectPlatform>>);

impl DirectNode {
    pub(in crate::attach) fn open() -> Result<Self> {
        let context = Node::open(system(), Owner::default());
        context.map(Self).map_err(|failure| Error::Start {
            path: Path::new("the node of this process").to_owned(),
            reason: failure.to_string(),
            errno: failure.errno,
        })
    }
}

impl Drop for DirectNode {
    fn drop(&mut self) {
        NodeContext::close(&self.0);
    }
}

/// What belongs to a device, asked of the node.
const NO_DEVICE: Error = Error::Argument("the system-wide node is no device: it has no memory and no registers");

impl Transport for DirectNode {
    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        copy::of_borrowed(|| self.raw_call(method, message))
    }

    fn raw_call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        NodeContext::dispatch(&self.0, method.into(), message)
    }

    fn create_fd(&self, method: u8, message: &mut [u8]) -> Result<Box<dyn EventFd>, Errno> {
        self.call(method, message)?;
        let (header, _) = wire::Header::read_from_prefix(message).map_err(|_| Errno::EBADMSG)?;
        let descriptor = self.0.owner().fetch(header.object).ok_or(Errno::EBADF)?;
        Ok(Box::new(DirectEventFd(descriptor)))
    }

    fn map(&self, _offset: u64, _len: usize) -> Result<Arc<Mapping>> {
        Err(NO_DEVICE)
    }

    fn register(&self, _offset: u64) -> Result<Box<dyn Register>> {
        Err(NO_DEVICE)
    }

    fn alloc(&self, _len: usize) -> Result<Arc<Mapping>> {
        Err(NO_DEVICE)
    }

    fn descriptor(&self) -> Option<u32> {
        None
    }

    fn is_gone(&self) -> bool {
        false
    }
}
