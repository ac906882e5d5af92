// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What a CREATE takes before it makes anything in hardware: an id, and the memory of the object.

use crate::context::Context;
use crate::driver::Driver;
use crate::event::Reporting;
use crate::object::Object;
use crate::sys::{ArcRoom, Mutex};
use crate::wire::ObjectId;

/// An id and the memory for an object that is being made. Dropping it gives both back.
pub struct Reservation<'c, D: Driver> {
    pub(crate) context: &'c Context<D>,
    pub(crate) id: ObjectId,
    pub(crate) room: Option<ArcRoom<Object<D>>>,
    pub(crate) reporting: Option<Mutex<Reporting<D::Host>>>,
}

/// What a [`Reservation`] is without its context, whose store keeps the id. It must become one again.
pub(crate) struct Rest<D: Driver> {
    id: ObjectId,
    room: Option<ArcRoom<Object<D>>>,
    reporting: Option<Mutex<Reporting<D::Host>>>,
}

impl<'c, D: Driver> Reservation<'c, D> {
    pub(crate) fn detach(mut self) -> Rest<D> {
        Rest {
            id: self.id,
            room: self.room.take(),
            reporting: self.reporting.take(),
        }
    }

    pub(crate) fn attach(context: &'c Context<D>, rest: Rest<D>) -> Self {
        let Rest { id, room, reporting } = rest;
        Reservation {
            context,
            id,
            room,
            reporting,
        }
    }
}

impl<D: Driver> Reservation<'_, D> {
    /// The id that the object will have.
    pub fn id(&self) -> ObjectId {
        self.id
    }
}

impl<D: Driver> Drop for Reservation<'_, D> {
    fn drop(&mut self) {
        if self.room.is_some() {
            self.context.store().free(self.id);
        }
    }
}
