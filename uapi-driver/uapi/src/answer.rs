// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! How an output is written: into the message, or where it points, and what the attribute's head says then.

use crate::context::Context;
use crate::driver::Driver;
use crate::failure::{Failure, Outcome, Reason};
use crate::host::Host;
use crate::parse::Found;
use crate::wire::{self, AttrHead, ByPointer, ATTR_HEAD};
use zerocopy::IntoBytes;

enum Room {
    Inline,
    Pointer { addr: u64, length: u64 },
}

/// An output being written piece by piece. What does not fit is counted and dropped.
pub struct Answer<'a, D: Driver> {
    context: &'a Context<D>,
    message: &'a mut [u8],
    id: u16,
    found: Found,
    room: Room,
    size: u64,
    written: u64,
}

impl<'a, D: Driver> Answer<'a, D> {
    /// Of the output `id`, which the message has at `found`; `given` is where, if that is by pointer.
    pub(crate) fn new(
        context: &'a Context<D>,
        message: &'a mut [u8],
        id: u16,
        found: Found,
        given: Option<ByPointer>,
    ) -> Self {
        let room = match given {
            Some(ByPointer { addr, length }) => Room::Pointer { addr, length },
            None => Room::Inline,
        };
        Answer {
            context,
            message,
            id,
            found,
            room,
            size: 0,
            written: 0,
        }
    }

    /// The room there is.
    pub fn room(&self) -> u64 {
        match self.room {
            Room::Inline => (self.found.end - self.found.start) as u64,
            Room::Pointer { length, .. } => length,
        }
    }

    /// Appends a piece.
    ///
    /// # Errors
    ///
    /// EFAULT.
    pub fn push(&mut self, bytes: &[u8]) -> Outcome {
        let fits = (self.room() - self.written).min(bytes.len() as u64) as usize;
        match self.room {
            Room::Inline => {
                let start = self.found.start + self.written as usize;
                self.message[start..start + fits].copy_from_slice(&bytes[..fits]);
            }
            Room::Pointer { addr, .. } if fits > 0 => {
                let at = addr.wrapping_add(self.written);
                let copied = self
                    .context
                    .device()
                    .host()
                    .copy_out(self.context.owner(), at, &bytes[..fits]);
                copied.map_err(|errno| Failure::new(errno, Reason::BAD_POINTER).at(self.id, self.found.offset))?;
            }
            Room::Pointer { .. } => {}
        }
        self.written += fits as u64;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// That was all: the attribute's head says how much was written.
    pub fn finish(self) {
        let truncated = if self.size > self.written {
            wire::RESULT_TRUNCATED
        } else {
            0
        };
        let written = self.written.min(u64::from(wire::RESULT_WRITTEN)) as u32;
        let result = wire::RESULT_ANSWERED | truncated | written;
        write_result(self.message, self.found.offset, result);
        if let Room::Pointer { .. } = self.room {
            let at = usize::from(self.found.offset) + ATTR_HEAD + core::mem::offset_of!(ByPointer, length);
            self.message[at..at + 8].copy_from_slice(self.size.as_bytes());
        }
    }
}

/// An attribute's head at `offset` says what came of it.
pub(crate) fn write_result(message: &mut [u8], offset: u16, result: u32) {
    let at = usize::from(offset) + core::mem::offset_of!(AttrHead, result);
    message[at..at + 4].copy_from_slice(result.as_bytes());
}
