// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A device: its dispatch table, the driver's state, and the contexts that are open on it.

use crate::class::{self, event_queue::kind};
use crate::common;
use crate::context::Context;
use crate::driver::{Cause, Driver};
use crate::errno::Errno;
use crate::failure::{Failure, Outcome, Reason};
use crate::gate::Gate;
use crate::host::Host;
use crate::sys::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sys::{try_arc, Arc, Mutex, Vec};
use crate::table::{Refusal, Table};
use crate::trace::Tracers;

/// A device.
pub struct Device<D: Driver> {
    table: Table<D>,
    state: D::Device,
    host: D::Host,
    removed: AtomicBool,
    /// Opens in progress, and calls that are on no context of the device.
    gate: Gate,
    contexts: Mutex<Vec<Arc<Context<D>>>>,
    /// Contexts opened so far.
    opened: AtomicU32,
    tracers: Tracers<D>,
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
            gate: Gate::new(),
            contexts: Mutex::try_new(Vec::new(), c"rdma_uapi_contexts")?,
            opened: AtomicU32::new(0),
            tracers: Tracers::try_new()?,
        })?)
    }

    /// Lets a caller in whose call is not one on a context of the device: until the result is dropped, [`Device::remove`] waits
    /// for it as for any call.
    ///
    /// # Errors
    ///
    /// ENODEV if the device is gone.
    pub fn enter(&self) -> Outcome<impl Sized + '_> {
        self.gate.enter()
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

    #[inline]
    pub(crate) fn tracers(&self) -> &Tracers<D> {
        &self.tracers
    }

    /// Whether the device is gone.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Somebody opens the device.
    ///
    /// # Errors
    ///
    /// ENODEV if it is gone, EMFILE at the user's limit of contexts, ENOMEM, or what the driver says.
    pub fn open(this: &Arc<Self>, owner: <D::Host as Host>::Owner) -> Outcome<Arc<Context<D>>> {
        let _pass = this.gate.enter()?;
        let user = this.host.user();
        let limit = this.host.max_contexts();
        this.count_user(user, limit)?;
        let state = D::open(this, &owner)?;
        let number = this.opened.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let context = match Context::try_new(this.clone(), number, owner, user, state) {
            Ok(context) => context,
            Err((failure, state)) => {
                D::close(this, &state);
                return Err(failure);
            }
        };
        // remove() waits at the gate for this, and finds the context in the list then.
        let listed = this.contexts.lock().push(context.clone());
        // Again, because others may have opened meanwhile; both may give up then, which is as well at a limit.
        let listed = listed
            .map_err(Failure::from)
            .and_then(|()| this.count_user(user, limit.saturating_add(1)));
        if let Err(failure) = listed {
            Context::close(&context);
            return Err(failure);
        }
        Ok(context)
    }

    /// Whether the user has fewer contexts than `limit`.
    fn count_user(&self, user: u32, limit: u32) -> Outcome {
        if limit == u32::MAX {
            return Ok(());
        }
        let contexts = self.contexts.lock();
        let open = contexts.iter().filter(|context| context.user() == user).count();
        if open >= limit as usize {
            return Err(Failure::new(Errno::EMFILE, Reason::TOO_MANY_OBJECTS));
        }
        Ok(())
    }

    /// The device is gone (hot removal, the driver is unbound). When this returns, nothing of the driver's runs for any
    /// context and nothing will, except, on DESTROY and when contexts close, release functions with [`Cause::Removed`], and
    /// [`Driver::close`]. Event queues have got their last event. Contexts stay open until their owners close them;
    /// every call on them but DESTROY is ENODEV.
    ///
    /// Calls that wait for the hardware must be made to give up first, by the driver.
    pub fn remove(&self) {
        self.gate.shut(&self.host);
        {
            // Under the lock: a context that begins to close either did so before, and is waited for below, or knows.
            let _contexts = self.contexts.lock();
            self.removed.store(true, Ordering::Release);
        }
        loop {
            let next = {
                let contexts = self.contexts.lock();
                contexts.iter().find(|context| context.holds_device()).cloned()
            };
            match next {
                Some(context) => context.device_gone(),
                None => return,
            }
        }
    }

    /// A context begins to close; `None` if it did already.
    pub(crate) fn begin_close(&self, context: &Context<D>) -> Option<Cause> {
        let _contexts = self.contexts.lock();
        let gone = self.is_removed();
        let cause = if gone { Cause::Removed } else { Cause::Close };
        context.begin_close(gone).then_some(cause)
    }

    /// Reports an event of the device (`class::DEVICE`, 0), a port (`class::PORT`, its number) or the device list
    /// (`class::DEVICE_LIST`, 0) to every context that asked for it.
    pub fn post(&self, class: u16, number: u32, kind: u16, data: u64) {
        debug_assert!(matches!(class, class::DEVICE | class::PORT | class::DEVICE_LIST));
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
