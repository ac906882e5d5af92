// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doorbell pages: shared by the queue pairs of a context, as many as need one.

use crate::attach::{Gone, Register};
use crate::context::MESSAGE;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::object::Object;
use crate::Context;
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use verbena_core::schema::{DOORBELL_CLASS, DOORBELL_MAPS};
use verbena_hw::doorbell::{DoorbellPage, PAGE_SIZE, SLOTS};

pub(crate) struct Doorbell {
    // Field order: the mappings go before the object, which cannot be destroyed while its register is mapped.
    page: View<DoorbellPage>,
    register: Box<dyn Register>,
    object: Object,
    /// Slots that queue pairs of this context have, or are about to ask for.
    taken: AtomicU32,
}

/// The right to ask for one slot of a doorbell page.
pub(crate) struct DoorbellSlot(Arc<Doorbell>);

impl std::ops::Deref for DoorbellSlot {
    type Target = Doorbell;

    #[inline(always)]
    fn deref(&self) -> &Doorbell {
        &self.0
    }
}

impl Drop for DoorbellSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Doorbell {
    fn new(context: &Context) -> Result<Self> {
        const DOING: &str = "make a doorbell page";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, DOORBELL_CLASS, 0);
        message.ask(DOORBELL_MAPS);
        let answer = context.call(DOING, method::CREATE, message)?;
        let object = Object::new(context, DOORBELL_CLASS, answer.object(), "destroy a doorbell page");
        let maps = answer.expect(DOING, DOORBELL_MAPS)?;
        let page = context.map(maps.page_offset, PAGE_SIZE)?;
        // SAFETY: any bits are a `DoorbellPage`; what anybody writes in it is atomic.
        let page = unsafe { View::new(page, 0) }.ok_or(Error::Answer {
            doing: DOING,
            what: "the page is too short",
        })?;
        let register = context.register(maps.register_offset)?;
        Ok(Self {
            page,
            register,
            object,
            taken: AtomicU32::new(0),
        })
    }

    /// A slot of the page that the context's new queue pairs share; of a new one if that is full or there is none.
    pub(crate) fn take(context: &Context) -> Result<DoorbellSlot> {
        let mut current = context.doorbell().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(doorbell) = current.upgrade() {
            if doorbell.taken.load(Ordering::Relaxed) < SLOTS {
                // Under the lock: nobody else takes the last one.
                doorbell.taken.fetch_add(1, Ordering::Relaxed);
                return Ok(DoorbellSlot(doorbell));
            }
        }
        let doorbell = Arc::new(Self::new(context)?);
        *current = Arc::downgrade(&doorbell);
        doorbell.taken.fetch_add(1, Ordering::Relaxed);
        Ok(DoorbellSlot(doorbell))
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// Rings `slot`: after this the device looks at its queue.
    #[inline(always)]
    pub(crate) fn ring(&self, slot: u16) -> Result<(), Gone> {
        if self.page.ring(slot) {
            self.kick(slot)
        } else {
            Ok(())
        }
    }

    /// The device sleeps: only the register wakes it.
    #[cold]
    fn kick(&self, slot: u16) -> Result<(), Gone> {
        self.register.kick(slot)
    }
}
