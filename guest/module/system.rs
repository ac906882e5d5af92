// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The system-wide node, /dev/verbena: it belongs to no HCA, and is there from the module's loading to its unloading.

use crate::file;
use crate::foreign::Foreign;
use crate::glue;
use crate::linux::{self, Charge, Linux};
use crate::{events, events::Readers};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;
use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::Moment;
use rdma_uapi::schema::Access;
use rdma_uapi::{Driver, Errno, Host};
use verbena_core::foreign::ForeignId;
use verbena_core::node::{self, Node, NodeContext, NodeHost};
use verbena_core::Device;

/// The node as the object model has it.
pub(crate) type SystemNode = Node<Linux>;
type Context = NodeContext<Linux>;

/// The node, for whoever probes or removes a device. Set while a [`System`] lives.
static NODE: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

fn node() -> Option<Arc<SystemNode>> {
    let node = NODE.load(Ordering::Acquire);
    if node.is_null() {
        return None;
    }
    // SAFETY: It came from `into_foreign`, and `System`, which is dropped after the PCI driver is unregistered, gives it up
    // only then. All callers are calls of the PCI driver, or work that ends before it is unregistered.
    Some(unsafe { Arc::<SystemNode>::borrow(node) }.into())
}

/// The node in /dev, for the module's life.
///
/// # Invariants
///
/// The pointer came from `verbena_system_add` and is owned.
pub(crate) struct System(NonNull<glue::SystemNode>);

// SAFETY: The C structure is bound to no thread.
unsafe impl Send for System {}
// SAFETY: A shared reference gives nothing to do.
unsafe impl Sync for System {}

impl System {
    pub(crate) fn new() -> Result<Self> {
        let node: Arc<SystemNode> = node::try_new(Anywhere).map_err(|refusal| {
            pr_err!("the system-wide node's classes do not fit: {}\n", core::format_args!("{refusal}"));
            EINVAL
        })?;
        let listed = node.clone().into_foreign();
        // SAFETY: The reference is given away.
        let made = unsafe { glue::verbena_system_add(node.into_foreign()) };
        match from_err_ptr(made).and_then(|made| NonNull::new(made).ok_or(ENOMEM)) {
            Ok(made) => {
                NODE.store(listed, Ordering::Release);
                // INVARIANT: Just made.
                Ok(System(made))
            }
            Err(error) => {
                // SAFETY: It came from `into_foreign` above, and nobody else has it.
                drop(unsafe { Arc::<SystemNode>::from_foreign(listed) });
                Err(error)
            }
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let listed = NODE.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: The invariant.
        unsafe { glue::verbena_system_del(self.0.as_ptr()) };
        // SAFETY: It came from `into_foreign` in `new`; the PCI driver, whose calls borrow it, is unregistered.
        drop(unsafe { Arc::<SystemNode>::from_foreign(listed) });
    }
}

/// That a device is in the list.
pub(crate) struct Listed(Arc<Device<Linux>>);

impl Listed {
    pub(crate) fn new(device: Arc<Device<Linux>>) -> Result<Self> {
        if let Some(node) = node() {
            node::add(&node, &device).map_err(|_| ENOMEM)?;
        }
        Ok(Listed(device))
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(node) = node() {
            node::remove(&node, &self.0);
        }
    }
}

/// A device does not answer any more.
pub(crate) fn changed(device: &Arc<Device<Linux>>) {
    if let Some(node) = node() {
        node::changed(&node, device);
    }
}

/// Linux as the place where the node runs: no device belongs to it.
pub(crate) struct Anywhere;

impl Host for Anywhere {
    type Owner = ();
    type Wait = Readers;
    type Charge = Charge;

    fn copy_in(&self, _owner: &(), addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        linux::copy_in(addr, into)
    }

    fn copy_out(&self, _owner: &(), addr: u64, from: &[u8]) -> Result<(), Errno> {
        linux::copy_out(addr, from)
    }

    fn may(&self, _owner: &(), access: Access) -> bool {
        linux::may(access)
    }

    fn charge(&self, _owner: &(), bytes: u64) -> Outcome<Charge> {
        Charge::new(bytes)
    }

    fn install_fd<D: Driver<Host = Self>>(&self, _owner: &(), object: FdObject<D>) -> Result<u32, Errno> {
        events::install(object).map_err(linux::errno)
    }

    fn moment(&self) -> Moment {
        linux::moment()
    }

    fn pause(&self) {
        linux::pause();
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        pr_warn!("{}\n", line);
    }
}

impl NodeHost<Linux> for Anywhere {
    type Foreign = Foreign;

    fn foreign(&self, hears: &Arc<ForeignId<Linux>>) -> Result<Foreign, Errno> {
        Foreign::new(hears)
    }

    fn context(&self, _owner: &(), fd: u32) -> Result<Arc<verbena_core::Context<Linux>>, Errno> {
        let mut file = core::ptr::null_mut();
        // SAFETY: There is room for the file.
        let found = unsafe { glue::verbena_context_get(fd, &mut file) };
        if found.is_null() {
            return Err(Errno::EBADF);
        }
        // SAFETY: It came from verbena_rs_open; the file, which is held, is open meanwhile.
        let context = unsafe { Arc::<verbena_core::Context<Linux>>::borrow(found) }.into();
        // SAFETY: It was held just above, and is given back once.
        unsafe { glue::verbena_context_put(file) };
        Ok(context)
    }
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_system_open(system: *mut c_void, file: *mut *mut c_void) -> c_int {
    // SAFETY: The node owns a reference to what `verbena_system_add` was given, and lives during the call.
    let node: Arc<SystemNode> = unsafe { Arc::<SystemNode>::borrow(system) }.into();
    match Node::open(&node, ()) {
        Ok(context) => {
            // SAFETY: There is room for it.
            unsafe { *file = context.into_foreign() };
            0
        }
        Err(failure) => failure.errno.to_result(),
    }
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_system_release(file: *mut c_void) {
    // SAFETY: It came from verbena_rs_system_open, and the file gives it up now.
    let context = unsafe { Arc::<Context>::from_foreign(file) };
    Context::close(&context);
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_system_ioctl(file: *mut c_void, command: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: It came from verbena_rs_system_open; the file is open during the call.
    let context: Arc<Context> = unsafe { Arc::<Context>::borrow(file) }.into();
    file::ioctl(command, arg, |method, message, give_back| {
        Context::dispatch_and(&context, method, message, give_back)
    })
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_system_put(system: *mut c_void) {
    // SAFETY: It came from `System::new`, and the node gives it up now.
    drop(unsafe { Arc::<SystemNode>::from_foreign(system) });
}
