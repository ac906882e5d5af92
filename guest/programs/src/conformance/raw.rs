// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages as bytes: what the driver's own interface would never send.
#![expect(
    unsafe_code,
    reason = "a message may name memory by address, which only its author can vouch for"
)]

use anyhow::{bail, ensure, Result};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::{self, ATTR_HEAD};
use rdma_uapi::{Errno, Failure, Reason};
use verbena::Context;
use zerocopy::IntoBytes;

/// A message that can be spoiled.
#[derive(Clone)]
pub struct Message {
    /// Room for the longest message, so that a header that claims more than was built claims memory that is there.
    words: Vec<u64>,
    length: usize,
}

impl Message {
    /// To an object (0 where the method takes none) of a class, with the attributes that `build` adds.
    pub fn new(class: u16, object: u32, build: impl FnOnce(&mut Builder<'_>)) -> Self {
        let mut words = vec![0; (wire::MAX_MESSAGE + 8) / 8];
        let mut builder = Builder::new(&mut words, class, object);
        build(&mut builder);
        let length = builder.finish().expect("it fits the longest message").len();
        Self { words, length }
    }

    /// Bytes in it, as built.
    pub fn len(&self) -> usize {
        self.length
    }

    /// One of its header's 16-bit words, by offset in bytes.
    pub fn set16(&mut self, offset: usize, value: u16) -> &mut Self {
        let (word, shift) = (offset / 8, offset % 8 * 8);
        self.words[word] = self.words[word] & !(0xffff << shift) | u64::from(value) << shift;
        self
    }

    /// One of its 32-bit words, by offset in bytes.
    pub fn set32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.set16(offset, value as u16).set16(offset + 2, (value >> 16) as u16)
    }

    /// Appends an attribute with any head and payload, padded with `padding`; says at which offset.
    pub fn attr(&mut self, id: u16, length: u16, payload: &[u8], padding: u8) -> usize {
        let at = self.length;
        self.set16(at, length).set16(at + 2, id).set32(at + 4, 0);
        let mut bytes = payload.to_vec();
        bytes.resize(wire::align(payload.len()), padding);
        for (i, pair) in bytes.chunks_exact(2).enumerate() {
            self.set16(at + ATTR_HEAD + 2 * i, u16::from_le_bytes([pair[0], pair[1]]));
        }
        self.length = at + ATTR_HEAD + bytes.len();
        self.set16(0, self.length as u16);
        at
    }

    /// Appends a well-formed mandatory attribute; says at which offset.
    pub fn mandatory(&mut self, id: u16, payload: &[u8]) -> usize {
        self.attr(
            id | wire::ATTR_MANDATORY,
            (ATTR_HEAD + payload.len()) as u16,
            payload,
            0,
        )
    }

    /// Appends a well-formed attribute that the receiver may ignore; says at which offset.
    pub fn optional(&mut self, id: u16, payload: &[u8]) -> usize {
        self.attr(id, (ATTR_HEAD + payload.len()) as u16, payload, 0)
    }

    /// Sends it, and gives what came back.
    ///
    /// # Errors
    ///
    /// What was wrong with it.
    pub fn call(&self, ctx: &Context, method: u8) -> Result<Answer, Failure> {
        let mut words = self.words.clone();
        // As many bytes as were built, or as the header claims where that is more: both are there.
        let stated = usize::from(self.words[0] as u16);
        let length = stated.max(self.length).min(words.len() * 8);
        // SAFETY: the only addresses that this module's users put into messages are of memory that they own and keep
        // until the call has returned, or addresses that are nobody's.
        let result = unsafe { ctx.raw_call(method, &mut words.as_mut_bytes()[..length]) };
        match result {
            Ok(()) => Ok(Answer {
                words,
                length: self.length,
            }),
            Err(errno) => Err(Reply::new(&words.as_bytes()[..length]).failure(errno)),
        }
    }

    /// Sends it and fails unless it is refused in exactly this way, naming that attribute (or header field) at that
    /// offset.
    pub fn refused(&self, ctx: &Context, method: u8, how: (Errno, Reason), at: (u16, usize), what: &str) -> Result<()> {
        match self.call(ctx, method) {
            Ok(_) => bail!("{what}: accepted"),
            Err(failure) => {
                let got = (
                    failure.errno,
                    failure.reason,
                    failure.attr & wire::ATTR_ID,
                    usize::from(failure.offset),
                );
                let expected = (how.0, how.1, at.0 & wire::ATTR_ID, at.1);
                ensure!(
                    got == expected,
                    "{what}: errno, reason, attribute, offset are {got:?} instead of {expected:?}"
                );
                Ok(())
            }
        }
    }
}

/// What came back of a call that succeeded.
pub struct Answer {
    words: Vec<u64>,
    length: usize,
}

impl Answer {
    /// To be read.
    pub fn reply(&self) -> Reply<'_> {
        Reply::new(&self.words.as_bytes()[..self.length])
    }

    /// The object that was created.
    pub fn object(&self) -> u32 {
        self.reply().object()
    }
}
