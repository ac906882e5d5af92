// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A device: its dispatch table, the driver's state, and the contexts that are open on it.

use crate::class::{self, event_queue::kind};
use crate::common;
use crate::context::Context;
use crate::driver::Driver;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::sys::atomic::{AtomicBool, Ordering};
use crate::sys::{try_arc, Arc, Mutex, Vec};
use crate::table::{Refusal, Table};

/// A device.
pub struct Device<D: Driver> {
    table: Table<D>,
    state: D::Device,
    host: D::Host,
    removed: AtomicBool,
    contexts: Mutex<Vec<Arc<Context<D>>>>,
}

impl<D: Driver> Device<D> {
    /// A device is there.
    ///
    /// # Errors
    ///
    /// The driver's table contradicts itself or the common one; no memory.
    pub fn try_new(state: D::Device, host: D::Host) -> Result<Arc<Self>, Refusal> {
        let table = Table::compile(common::Table::<D>::CLASSES, &D::ADDITIONS)?;
        Ok(try_arc(Device {
            table,
            state,
            host,
            removed: AtomicBool::new(false),
            contexts: Mutex::try_new(Vec::new(), c"rdma_uapi_contexts")?,
        })?)
    }

    /// The driver's state.
    pub fn state(&self) -> &D::Device {
        &self.state
    }

    /// Where it runs.
    pub fn host(&self) -> &D::Host {
        &self.host
    }

    /// The dispatch table.
    pub fn table(&self) -> &Table<D> {
        &self.table
    }

    /// Whether the device is gone.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Somebody opens the device.
    ///
    /// # Errors
    ///
    /// ENODEV if it is gone, ENOMEM, or what the driver says.
    pub fn open(this: &Arc<Self>, owner: <D::Host as Host>::Owner) -> Outcome<Arc<Context<D>>> {
        if this.is_removed() {
            return Err(Failure::GONE);
        }
        let state = D::open(this, &owner)?;
        let context = match Context::try_new(this.clone(), owner, state) {
            Ok(context) => context,
            Err((failure, state)) => {
                D::close(this, &state);
                return Err(failure);
            }
        };
        let listed = {
            let mut contexts = this.contexts.lock();
            // Under the lock, so that remove() either finds this context in the list or is seen here.
            if this.is_removed() {
                Err(Failure::GONE)
            } else {
                contexts.push(context.clone()).map_err(Failure::from)
            }
        };
        if let Err(failure) = listed {
            Context::close(&context);
            return Err(failure);
        }
        Ok(context)
    }

    /// The device is gone (hot removal, the driver is unbound). When this returns, no handler runs any more and none
    /// will, except the release functions when contexts close; event queues have got their last event. Contexts stay
    /// open until their owners close them; every call on them is ENODEV.
    ///
    /// Calls that wait for the hardware must be made to give up first, by the driver.
    pub fn remove(&self) {
        let mut n = 0;
        self.removed.store(true, Ordering::Release);
        loop {
            let context = match self.contexts.lock().get(n) {
                Some(context) => context.clone(),
                None => return,
            };
            context.device_gone();
            n += 1;
        }
    }

    /// Reports an event of the device (`class::DEVICE`, 0) or a port (`class::PORT`, its number) to every context
    /// that asked for it.
    pub fn post(&self, class: u16, number: u32, kind: u16, data: u64) {
        debug_assert!(class == class::DEVICE || class == class::PORT);
        for context in self.contexts.lock().iter() {
            context.post_source(class, number, kind, data);
        }
    }

    /// Open contexts.
    pub fn contexts(&self) -> usize {
        self.contexts.lock().len()
    }

    /// Calls `f` with every open context.
    pub fn each_context(&self, mut f: impl FnMut(&Context<D>)) {
        for context in self.contexts.lock().iter() {
            f(context);
        }
    }

    pub(crate) fn unlist(&self, context: &Arc<Context<D>>) {
        let mut contexts = self.contexts.lock();
        if let Some(n) = contexts.iter().position(|listed| Arc::ptr_eq(listed, context)) {
            contexts.swap_remove(n);
        }
    }

    /// What a queue is told last when the device is gone.
    pub(crate) const LAST_EVENT: u16 = kind::DEVICE_GONE;
}
