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
use std::sync::{Arc, PoisonError};
use verbena_core::schema::{DOORBELL_CLASS, DOORBELL_MAPS};
use verbena_hw::doorbell::{DoorbellPage, PAGE_SIZE};

pub(crate) struct Doorbell {
    // Field order: the mappings go before the object, which cannot be destroyed while its register is mapped.
    page: View<DoorbellPage>,
    register: Box<dyn Register>,
    object: Object,
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
        Ok(Self { page, register, object })
    }

    /// The context's doorbell page that new queue pairs take their slots from.
    pub(crate) fn of(context: &Context) -> Result<Arc<Self>> {
        let mut current = context.doorbell().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(doorbell) = current.upgrade() {
            return Ok(doorbell);
        }
        let doorbell = Arc::new(Self::new(context)?);
        *current = Arc::downgrade(&doorbell);
        Ok(doorbell)
    }

    /// `full` has no slot left: a new one takes its place, unless one has already.
    pub(crate) fn after(context: &Context, full: &Arc<Self>) -> Result<Arc<Self>> {
        {
            let mut current = context.doorbell().lock().unwrap_or_else(PoisonError::into_inner);
            if current.as_ptr() == Arc::as_ptr(full) {
                *current = std::sync::Weak::new();
            }
        }
        Self::of(context)
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
        self.register.write(slot.into())
    }
}
