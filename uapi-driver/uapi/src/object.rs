// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! An object: what the core keeps for it, and references to it.
//!
//! # Life
//!
//! One word holds it all: calls in flight, objects that depend on it, and whether it is dying. A call that names an
//! object counts as in flight until its [`ObjectRef`] is dropped; an object made from others counts as a dependent of
//! each until it is destroyed. DESTROY succeeds only if its own call is the only one in flight and nothing depends on
//! the object; otherwise it answers EBUSY at once (reason BUSY or IN_USE). It never waits, so destroying can not
//! deadlock with a call that waits for something in turn; the program decides whether to try again.

use crate::class::interface::ObjectInfo;
use crate::driver::{Driver, Memory};
use crate::errno::Errno;
use crate::event::{EventQueue, Given, Reporting, Subscription};
use crate::failure::{Failure, Outcome, Reason};
use crate::store::Store;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::{self, Arc, Mutex};
use crate::trace::Tracer;
use crate::wire::ObjectId;
use core::ops::Deref;

/// Objects that an object can be made from.
pub const MAX_PARENTS: usize = 6;

const DYING: u64 = 1 << 63;
const DEPENDENT: u64 = 1 << 32;
const IN_FLIGHT: u64 = 1;

/// What an object is beside its identity.
pub enum Body<D: Driver> {
    /// Nothing: the core's bookkeeping is all there is.
    Plain,
    /// An event queue.
    Queue(Arc<EventQueue<D::Host>>),
    /// An observer.
    Tracer(Arc<Tracer>),
    /// The driver's.
    Driver(D::Object),
}

/// An object.
pub struct Object<D: Driver> {
    id: ObjectId,
    class: u16,
    life: AtomicU64,
    parents: [Option<Arc<Object<D>>>; MAX_PARENTS],
    pub(crate) reporting: Option<Mutex<Reporting<D::Host>>>,
    body: Body<D>,
}

impl<D: Driver> Object<D> {
    /// A new one, with one call in flight: its creation. Its parents have calls in flight too, so they live.
    pub(crate) fn new(
        id: ObjectId,
        class: u16,
        parents: &[&ObjectRef<D>],
        reporting: Option<Mutex<Reporting<D::Host>>>,
        body: Body<D>,
    ) -> Self {
        assert!(
            parents.len() <= MAX_PARENTS,
            "a class handler names more parents than an object can have"
        );
        let parents = core::array::from_fn(|i| {
            parents.get(i).map(|parent| {
                parent.life.fetch_add(DEPENDENT, Ordering::Relaxed);
                parent.0.clone()
            })
        });
        Object {
            id,
            class,
            life: AtomicU64::new(IN_FLIGHT),
            parents,
            reporting,
            body,
        }
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its class.
    pub fn class(&self) -> u16 {
        self.class
    }

    /// The driver's part of it; `None` if the object is the core's alone.
    pub fn payload(&self) -> Option<&D::Object> {
        match &self.body {
            Body::Driver(payload) => Some(payload),
            Body::Plain | Body::Queue(_) | Body::Tracer(_) => None,
        }
    }

    /// The event queue that it is.
    pub fn queue(&self) -> Option<&Arc<EventQueue<D::Host>>> {
        match &self.body {
            Body::Queue(queue) => Some(queue),
            Body::Plain | Body::Tracer(_) | Body::Driver(_) => None,
        }
    }

    /// The observer that it is.
    pub(crate) fn tracer(&self) -> Option<&Arc<Tracer>> {
        match &self.body {
            Body::Tracer(tracer) => Some(tracer),
            Body::Plain | Body::Queue(_) | Body::Driver(_) => None,
        }
    }

    /// What it takes, the object model's book-keeping included.
    pub fn memory(&self) -> Memory {
        let driver = self.payload().map_or(Memory::default(), D::memory);
        let reporting = match &self.reporting {
            Some(_) => Mutex::<Reporting<D::Host>>::HEAP,
            None => 0,
        };
        let queue = self.queue().map_or(0, |queue| queue.bytes());
        Memory {
            bytes: sys::arc_bytes::<Self>() + Store::<D>::PLACE + reporting + queue + driver.bytes,
            shared: driver.shared,
        }
    }

    /// What INTERFACE QUERY says of it.
    pub(crate) fn info(&self) -> ObjectInfo {
        let memory = self.memory();
        ObjectInfo {
            object: self.id,
            class: self.class,
            reserved: 0,
            dependents: self.dependents(),
            bytes: memory.bytes.try_into().unwrap_or(u32::MAX),
            shared: memory.shared,
        }
    }

    /// Objects that depend on it now.
    pub fn dependents(&self) -> u32 {
        ((self.life.load(Ordering::Relaxed) & !DYING) / DEPENDENT) as u32
    }

    /// Reports an event to the queue that the object is associated with, if any.
    pub fn post(&self, kind: u16, data: u64) {
        if let Some(reporting) = &self.reporting {
            if let Some(subscription) = &mut reporting.lock().to {
                subscription.post(self.class, self.id.0, kind, data);
            }
        }
    }

    /// From now on the object reports there, or nowhere; what it had reported and nobody read is gone. How many of its
    /// events the program has been given.
    pub(crate) fn subscribe(&self, to: Option<Subscription<D::Host>>) -> Given {
        match &self.reporting {
            Some(reporting) => reporting.lock().change(to),
            None => Given::default(),
        }
    }

    /// Whether it reports to that queue.
    pub(crate) fn reports_to(&self, queue: &Arc<EventQueue<D::Host>>) -> bool {
        match &self.reporting {
            Some(reporting) => {
                let reporting = reporting.lock();
                reporting.to.as_ref().is_some_and(|to| Arc::ptr_eq(to.queue(), queue))
            }
            None => false,
        }
    }

    /// Forbids new calls.
    ///
    /// # Errors
    ///
    /// EBUSY if any but the caller's is in flight, or if anything depends on the object.
    pub(crate) fn begin_end(&self) -> Outcome {
        // Acquire: what calls that have ended wrote to the object is seen by its release.
        match self
            .life
            .compare_exchange(IN_FLIGHT, IN_FLIGHT | DYING, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(life) if (life & !DYING) >= DEPENDENT => {
                let dependents = ((life & !DYING) / DEPENDENT).min(u64::from(u16::MAX));
                Err(Failure::new(Errno::EBUSY, Reason::IN_USE).detail(dependents as u16))
            }
            Err(_) => Err(Failure::new(Errno::EBUSY, Reason::BUSY)),
        }
    }

    /// It lives on after all.
    pub(crate) fn cancel_end(&self) {
        self.life.fetch_and(!DYING, Ordering::Relaxed);
    }

    /// It has ended: what it was made from has one dependent less.
    pub(crate) fn end(&self) {
        for parent in self.parents.iter().flatten() {
            parent.life.fetch_sub(DEPENDENT, Ordering::Release);
        }
    }
}

/// A reference that counts as a call in flight.
pub struct ObjectRef<D: Driver>(Arc<Object<D>>);

impl<D: Driver> ObjectRef<D> {
    /// Counts a call in flight.
    ///
    /// # Errors
    ///
    /// EBUSY if the object is being destroyed.
    pub(crate) fn acquire(object: &Arc<Object<D>>) -> Outcome<Self> {
        // Counted first and looked at afterwards: between looking and counting the object could begin to end.
        let life = object.life.fetch_add(IN_FLIGHT, Ordering::Acquire);
        let reference = ObjectRef(object.clone());
        if life & DYING != 0 {
            return Err(Failure::new(Errno::EBUSY, Reason::BUSY));
        }
        Ok(reference)
    }

    /// The reference that a new object begins with.
    pub(crate) fn of_new(object: Arc<Object<D>>) -> Self {
        ObjectRef(object)
    }

    /// Makes something else that the driver keeps count as a dependent of the object, until it is dropped: for objects that
    /// are not made from the same others all their lives. The release function drops it when the object has ended.
    pub fn depend(&self) -> Dependence<D> {
        self.0.life.fetch_add(DEPENDENT, Ordering::Relaxed);
        Dependence(self.0.clone())
    }

    /// The object, to be kept beyond the call: by a driver's table that interrupts look objects up in. That does not
    /// count as a call in flight; the release function must take it out of the table.
    pub fn share(&self) -> Arc<Object<D>> {
        self.0.clone()
    }
}

/// What counts as a dependent of an object: [`ObjectRef::depend`].
pub struct Dependence<D: Driver>(Arc<Object<D>>);

impl<D: Driver> Dependence<D> {
    /// The object that it depends on.
    pub fn id(&self) -> ObjectId {
        self.0.id
    }
}

impl<D: Driver> Drop for Dependence<D> {
    fn drop(&mut self) {
        // Release: as when an object ends.
        self.0.life.fetch_sub(DEPENDENT, Ordering::Release);
    }
}

impl<D: Driver> Deref for ObjectRef<D> {
    type Target = Object<D>;
    fn deref(&self) -> &Object<D> {
        &self.0
    }
}

impl<D: Driver> Drop for ObjectRef<D> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of whoever destroys the object.
        self.0.life.fetch_sub(IN_FLIGHT, Ordering::Release);
    }
}
