// SPDX-License-Identifier: MIT OR Apache-2.0
//! An object of the object model, destroyed when its owner is dropped.

use crate::context::MESSAGE;
use crate::error::Result;
use crate::Context;
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Object {
    context: Context,
    class: u16,
    id: u32,
    /// What DESTROY is, in a sentence.
    destroying: &'static str,
    destroyed: AtomicBool,
}

impl Object {
    pub(crate) fn new(context: &Context, class: u16, id: u32, destroying: &'static str) -> Self {
        Self {
            context: context.clone(),
            class,
            id,
            destroying,
            destroyed: AtomicBool::new(false),
        }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn class(&self) -> u16 {
        self.class
    }

    pub(crate) fn id(&self) -> ObjectId {
        ObjectId(self.id)
    }

    /// What its DESTROY is, in a sentence.
    pub(crate) fn destroying(&self) -> &'static str {
        self.destroying
    }

    /// Somebody else has sent its DESTROY, and it succeeded.
    pub(crate) fn note_destroyed(&self) {
        self.destroyed.store(true, Ordering::Relaxed);
    }

    /// Destroys it now.
    pub(crate) fn destroy(&self) -> Result<()> {
        if self.destroyed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut words = [0; MESSAGE];
        let message = Builder::new(&mut words, self.class, self.id);
        let result = self.context.call(self.destroying, method::DESTROY, message).map(|_| ());
        if result.is_err() {
            self.destroyed.store(false, Ordering::Relaxed);
        }
        result
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        match self.destroy() {
            Ok(()) => {}
            // It went with its device.
            Err(error) if error.is_gone() => {}
            Err(error) => log::warn!("an object stays until its context is closed: {error}"),
        }
    }
}
