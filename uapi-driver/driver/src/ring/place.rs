// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the rings of a queue are mapped: memory that was mapped for many queues, or memory of its own.

use crate::context::Answer;
use crate::error::{Error, Result};
use crate::memory::Mapping;
use crate::object::Object;
use crate::Context;
use rdma_uapi::client::Builder;
use std::sync::Arc;
use verbena_core::schema::{RING_GRAIN, RING_GRAIN_LEAST, RING_MEMORY_CLASS, RING_MEMORY_LENGTH, RING_MEMORY_MAP};

/// What CREATE is, in a sentence.
pub(crate) const DOING: &str = "make memory for rings";

/// Pages that the rings of many queues share, mapped once.
pub(crate) struct RingMemory {
    mapping: Arc<Mapping>,
    /// Where the mapping is in the context's mapping space.
    offset: u64,
    /// Destroyed when the last queue in it has been.
    _object: Object,
}

impl RingMemory {
    /// The message of CREATE.
    pub(crate) fn message(words: &mut [u64], length: u64, packed: bool) -> Builder<'_> {
        let mut message = Builder::new(words, RING_MEMORY_CLASS, 0);
        message.put(RING_MEMORY_LENGTH, &length);
        message.put_some(RING_GRAIN, packed.then_some(RING_GRAIN_LEAST));
        message.ask(RING_MEMORY_MAP);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(context: &Context, answer: &Answer<'_>) -> Result<Arc<Self>> {
        let object = Object::new(
            context,
            RING_MEMORY_CLASS,
            answer.object(),
            "give back memory for rings",
        );
        let map = answer.expect(DOING, RING_MEMORY_MAP)?;
        Ok(Arc::new(Self {
            mapping: context.map(map.mmap_offset, map.mmap_length)?,
            offset: map.mmap_offset,
            _object: object,
        }))
    }
}

/// A queue's memory in this process.
pub(crate) struct Place {
    pub(crate) mapping: Arc<Mapping>,
    /// Where in the mapping the queue's memory begins.
    pub(crate) at: usize,
}

impl Place {
    /// The offset in the mapping of what begins `offset` bytes into the queue's memory.
    pub(crate) fn inside(&self, offset: u64) -> Option<usize> {
        self.at.checked_add(usize::try_from(offset).ok()?)
    }

    /// Where the `length` bytes at `offset` of the context's mapping space are: in `home`, where they have been mapped
    /// already, or else mapped now.
    pub(crate) fn of(context: &Context, home: Option<&Arc<RingMemory>>, offset: u64, length: u64) -> Result<Self> {
        let Some(home) = home else {
            return Ok(Self {
                mapping: context.map(offset, length)?,
                at: 0,
            });
        };
        let at = offset.checked_sub(home.offset).and_then(|at| usize::try_from(at).ok());
        let length = usize::try_from(length).ok();
        match (at, length) {
            (Some(at), Some(length)) if home.mapping.range(at, length).is_some() => Ok(Self {
                mapping: home.mapping.clone(),
                at,
            }),
            _ => Err(Error::Answer {
                doing: "find a queue's memory",
                what: "it is not in the memory that was made for it",
            }),
        }
    }
}
