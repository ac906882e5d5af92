// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The objects of one context: ids, lookup, and their end in dependency order.
//!
//! An id is a slot's number plus one in the low 20 bits and the slot's generation in the 11 above, so that a stale id
//! finds nothing for the next two thousand uses of the slot, and no id has the top bit (see `ObjectId::CHAIN`).
//!
//! One lock guards the slots, held for a few instructions; no handler runs under it.

use crate::driver::Driver;
use crate::errno::Errno;
use crate::failure::{Failure, Outcome, Reason};
use crate::object::{Object, ObjectRef};
use crate::sys::{Arc, Mutex, NoMemory, Vec};
use crate::wire::ObjectId;

const SLOT_BITS: u32 = 20;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
const GENERATIONS: u32 = 1 << (31 - SLOT_BITS);
/// Objects that a store can hold at all: slot numbers plus one must fit.
pub const MAX_OBJECTS: u32 = SLOT_MASK;

/// No further free slot.
const NONE: u32 = u32::MAX;

enum Content<D: Driver> {
    /// Free; the next free slot.
    Free(u32),
    /// Taken by a creation that is not finished.
    Reserved,
    /// An object.
    Live(Arc<Object<D>>),
}

struct Slot<D: Driver> {
    generation: u32,
    content: Content<D>,
}

struct Slots<D: Driver> {
    slots: Vec<Slot<D>>,
    free: u32,
    used: u32,
}

/// The objects of one context.
pub struct Store<D: Driver> {
    slots: Mutex<Slots<D>>,
    limit: u32,
}

fn id_of(slot: usize, generation: u32) -> ObjectId {
    ObjectId(generation << SLOT_BITS | (slot as u32 + 1))
}

impl<D: Driver> Store<D> {
    /// An empty one for at most `limit` objects.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn try_new(limit: u32) -> Result<Self, NoMemory> {
        let slots = Slots {
            slots: Vec::new(),
            free: NONE,
            used: 0,
        };
        Ok(Store {
            slots: Mutex::try_new(slots, c"rdma_uapi_store")?,
            limit: limit.min(MAX_OBJECTS),
        })
    }

    /// Objects that it may have.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Bytes that it takes beside the objects and their places.
    pub(crate) fn bytes(&self) -> usize {
        let slots = self.slots.lock();
        Mutex::<Slots<D>>::HEAP + size_of::<Slot<D>>() * (slots.slots.len() - slots.used as usize)
    }

    /// Bytes of an object's place.
    pub(crate) const PLACE: usize = size_of::<Slot<D>>();

    /// Objects in it, those being created included.
    pub fn len(&self) -> u32 {
        self.slots.lock().used
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an id.
    pub(crate) fn reserve(&self) -> Outcome<ObjectId> {
        let mut slots = self.slots.lock();
        if slots.used >= self.limit {
            return Err(Failure::new(Errno::ENOSPC, Reason::TOO_MANY_OBJECTS));
        }
        let number = if slots.free == NONE {
            slots.slots.push(Slot {
                generation: 0,
                content: Content::Reserved,
            })?;
            slots.slots.len() - 1
        } else {
            let number = slots.free as usize;
            let Content::Free(next) = slots.slots[number].content else {
                unreachable!("the free list holds free slots only")
            };
            slots.slots[number].content = Content::Reserved;
            slots.free = next;
            number
        };
        slots.used += 1;
        Ok(id_of(number, slots.slots[number].generation))
    }

    /// Puts the object under its reserved id.
    pub(crate) fn publish(&self, object: &Arc<Object<D>>) {
        let mut slots = self.slots.lock();
        let slot = slots.slot(object.id()).expect("the id was reserved");
        debug_assert!(matches!(slot.content, Content::Reserved));
        slot.content = Content::Live(object.clone());
    }

    /// Frees an id, reserved or live. One that is free already stays so: a descriptor and its context may be closed at the
    /// same time, and both end the queue.
    pub(crate) fn free(&self, id: ObjectId) {
        let mut slots = self.slots.lock();
        let next = slots.free;
        let Some(slot) = slots.slot(id) else { return };
        slot.generation = (slot.generation + 1) % GENERATIONS;
        // Dropping the store's reference under the lock is harmless: the last one runs no handler.
        slot.content = Content::Free(next);
        slots.free = (id.0 & SLOT_MASK) - 1;
        slots.used -= 1;
    }

    /// The object with that id, counted as in use by a call.
    ///
    /// # Errors
    ///
    /// ENOENT if there is none, EBUSY if it is being destroyed.
    pub fn get(&self, id: ObjectId) -> Outcome<ObjectRef<D>> {
        let mut slots = self.slots.lock();
        match slots.slot(id).map(|slot| &slot.content) {
            Some(Content::Live(object)) => ObjectRef::acquire(object),
            _ => Err(Failure::new(Errno::ENOENT, Reason::NO_OBJECT)),
        }
    }

    /// The same, and it must be of one of `classes`.
    ///
    /// # Errors
    ///
    /// Also EINVAL, with the class that the object really has.
    pub fn get_of(&self, id: ObjectId, classes: &[u16]) -> Outcome<ObjectRef<D>> {
        let object = self.get(id)?;
        if classes.iter().any(|&class| class == object.class()) {
            Ok(object)
        } else {
            Err(Failure::new(Errno::EINVAL, Reason::WRONG_CLASS).detail(object.class()))
        }
    }

    /// Takes objects out that nothing depends on, giving each to `end`, until none is left. No call is in flight any
    /// more. An object depends only on objects made before it, so this comes to an end after as many rounds as the
    /// longest chain of dependencies, which is short.
    pub(crate) fn drain(&self, mut end: impl FnMut(&ObjectRef<D>)) {
        loop {
            let count = self.slots.lock().slots.len();
            let mut left = false;
            for number in (0..count).rev() {
                let object = match &self.slots.lock().slots[number].content {
                    Content::Live(object) if object.dependents() == 0 => ObjectRef::acquire(object),
                    Content::Live(_) => {
                        left = true;
                        continue;
                    }
                    _ => continue,
                };
                let Ok(object) = object else { continue };
                end(&object);
                self.free(object.id());
            }
            if !left {
                return;
            }
        }
    }

    /// Calls `f` with every live object.
    pub fn each(&self, mut f: impl FnMut(&Object<D>)) {
        for number in 0.. {
            let object = {
                let slots = self.slots.lock();
                match slots.slots.get(number) {
                    None => return,
                    Some(Slot {
                        content: Content::Live(object),
                        ..
                    }) => object.clone(),
                    Some(_) => continue,
                }
            };
            f(&object);
        }
    }
}

impl<D: Driver> Slots<D> {
    fn slot(&mut self, id: ObjectId) -> Option<&mut Slot<D>> {
        let number = (id.0 & SLOT_MASK).checked_sub(1)?;
        let slot = self.slots.get_mut(number as usize)?;
        (slot.generation == id.0 >> SLOT_BITS).then_some(slot)
    }
}
