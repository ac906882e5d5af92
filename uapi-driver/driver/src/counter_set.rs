// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counter sets.

use crate::context::MESSAGE;
use crate::error::Result;
use crate::object::Object;
use crate::qp::{Qp, Transport};
use crate::Context;
use rdma_uapi::class::port::Counter;
use rdma_uapi::class::{self, counter_set};
use rdma_uapi::client::Builder;
use rdma_uapi::schema::Attr;
use rdma_uapi::wire::{method, ObjectId};
use std::fmt;

/// Counts what the queue pairs bound to it do, from then on: messages and bytes in both directions, work requests that ended in
/// an error, and those that were flushed.
///
/// A queue pair is bound to one set at most. Neither keeps the other.
pub struct CounterSet {
    object: Object,
}

impl CounterSet {
    pub(crate) fn new(context: &Context) -> Result<Self> {
        let mut words = [0; MESSAGE];
        let message = Builder::new(&mut words, class::COUNTER_SET, 0);
        let answer = context.call("make a counter set", method::CREATE, message)?;
        Ok(Self {
            object: Object::new(context, class::COUNTER_SET, answer.object(), "destroy a counter set"),
        })
    }

    fn modify(&self, attr: Attr<ObjectId>, qp: ObjectId) -> Result<()> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::COUNTER_SET, self.object.id().0);
        message.put(attr, &qp);
        let context = self.object.context();
        context.call("bind a queue pair to a counter set", method::MODIFY, message)?;
        Ok(())
    }

    /// Binds a queue pair, which leaves the set that it was bound to.
    ///
    /// # Errors
    ///
    /// It is of another context; the device is gone.
    pub fn bind<T: Transport>(&self, qp: &Qp<T>) -> Result<()> {
        self.modify(counter_set::BIND, qp.object().id())
    }

    /// Unbinds a queue pair.
    ///
    /// # Errors
    ///
    /// It is of another context; the device is gone.
    pub fn unbind<T: Transport>(&self, qp: &Qp<T>) -> Result<()> {
        self.modify(counter_set::UNBIND, qp.object().id())
    }

    /// What has been counted, by name.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn counters(&self) -> Result<Vec<(String, u64)>> {
        let context = self.object.context();
        let (class, id) = (class::COUNTER_SET, self.object.id().0);
        let counters: Vec<Counter> = context.array("query a counter set", class, id, counter_set::COUNTERS)?;
        let name = |counter: &Counter| {
            let end = counter.name.iter().position(|&b| b == 0).unwrap_or(counter.name.len());
            String::from_utf8_lossy(&counter.name[..end]).into_owned()
        };
        Ok(counters.iter().map(|counter| (name(counter), counter.value)).collect())
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

impl fmt::Debug for CounterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CounterSet({})", self.object.id().0)
    }
}
