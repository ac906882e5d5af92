// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! One HCA: what its interrupts, its node and its PCI device share.

use crate::glue;
use crate::linux::Linux;
use crate::system;
use core::ptr::NonNull;
use kernel::device;
use kernel::error::from_err_ptr;
use kernel::irq::{IrqReturn, ThreadedHandler};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use kernel::types::ForeignOwnable;
use rdma_uapi::failure::Outcome;
use rdma_uapi::Failure;
use verbena_core::{Context, Device};

/// One HCA.
pub(crate) struct Hca {
    /// Set when the device works.
    device: SetOnce<Arc<Device<Linux>>>,
}

impl Hca {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Hca { device: SetOnce::new() }, GFP_KERNEL)?)
    }

    /// Somebody opens the device's file.
    pub(crate) fn open(&self) -> Outcome<Arc<Context<Linux>>> {
        match self.device.as_ref() {
            Some(device) => Device::open(device, ()),
            None => Err(Failure::GONE),
        }
    }

    /// The driver's work is due.
    pub(crate) fn work(&self) {
        if let Some(device) = self.device.as_ref() {
            verbena_core::work(device);
        }
    }

    /// Asks whether the device is still there, and says whether to ask again. The end of its process makes no interrupt,
    /// and who sleeps until an event comes would sleep for ever.
    pub(crate) fn watch(&self) -> bool {
        let Some(device) = self.device.as_ref() else {
            return false;
        };
        // An interrupt without a reason is what makes the driver look.
        verbena_core::interrupt(device, 0);
        let gone = device.state().is_gone();
        if gone {
            verbena_core::remove(device);
            system::changed(device);
        }
        !gone
    }
}

/// What calls the driver's work when it is due.
///
/// # Invariants
///
/// The pointer came from `verbena_work_new` and is owned.
pub(crate) struct Work(NonNull<glue::Work>);

// SAFETY: The C structure is bound to no thread.
unsafe impl Send for Work {}
// SAFETY: To schedule is all that a shared reference can do, which any number of threads may at once.
unsafe impl Sync for Work {}

impl Work {
    pub(crate) fn new(hca: Arc<Hca>) -> Result<Arc<Self>> {
        // SAFETY: The reference to the HCA is given away.
        let work = unsafe { glue::verbena_work_new(hca.into_foreign()) };
        // INVARIANT: Just made.
        let work = NonNull::new(work).map(Work).ok_or(ENOMEM)?;
        match Arc::new(work, GFP_KERNEL) {
            Ok(work) => Ok(work),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a call in so many nanoseconds.
    pub(crate) fn schedule(&self, nanoseconds: u64) {
        // SAFETY: The invariant.
        unsafe { glue::verbena_work_schedule(self.0.as_ptr(), nanoseconds) }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: The invariant; whoever made it has stopped it.
        unsafe { glue::verbena_work_free(self.0.as_ptr()) }
    }
}

/// When this is dropped there are no more calls of the work.
pub(crate) struct StopWork(pub(crate) Arc<Work>);

impl Drop for StopWork {
    fn drop(&mut self) {
        // SAFETY: The invariant of `Work`; it is stopped once, here.
        unsafe { glue::verbena_work_stop(self.0 .0.as_ptr()) }
    }
}

/// A handler of one interrupt vector.
pub(crate) struct Vector {
    pub(crate) hca: Arc<Hca>,
    pub(crate) index: u16,
}

impl ThreadedHandler for Vector {
    fn handle_threaded(&self) -> IrqReturn {
        // While it is being brought up, the driver asks the device itself.
        if let Some(device) = self.hca.device.as_ref() {
            verbena_core::interrupt(device, self.index);
        }
        IrqReturn::Handled
    }
}

/// An HCA that works, from the end of its bring-up to the moment the driver is unbound from it.
pub(crate) struct Running(Arc<Device<Linux>>);

impl Running {
    /// The device works from now on.
    pub(crate) fn new(hca: &Hca, device: Arc<Device<Linux>>, vectors: u16) -> Self {
        hca.device.populate(device.clone());
        // What the device signalled before is not lost: a vector too many does no harm.
        for vector in 0..vectors {
            verbena_core::interrupt(&device, vector);
        }
        Running(device)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Calls that wait for the device give up, the device is reset, no call is in any handler.
        verbena_core::remove(&self.0);
    }
}

/// The HCA's node in /dev.
///
/// # Invariants
///
/// The pointer came from `verbena_node_add` and is owned.
pub(crate) struct Node(NonNull<glue::Node>);

// SAFETY: The C structure is bound to no thread.
unsafe impl Send for Node {}

impl Node {
    /// From now on the HCA can be opened.
    pub(crate) fn publish(parent: &device::Device, linux: &Linux, hca: Arc<Hca>) -> Result<Self> {
        let (number, name) = linux.node();
        // SAFETY: The parent is registered. The reference to the HCA is given away; while it exists, so does `linux`,
        // to which the number belongs. The name is copied.
        let node =
            unsafe { glue::verbena_node_add(glue::raw_device(parent), number, name.as_char_ptr(), hca.into_foreign()) };
        // INVARIANT: Just made.
        NonNull::new(from_err_ptr(node)?).map(Node).ok_or(ENOMEM)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // SAFETY: The invariant.
        unsafe { glue::verbena_node_del(self.0.as_ptr()) }
    }
}
