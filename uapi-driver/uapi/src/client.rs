// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The other side: building messages and reading what came back.
//!
//! A [`Builder`] writes into a buffer of the caller's; nothing is allocated. A message that does not fit is noticed once, at
//! [`Builder::finish`].
//!
//! ```
//! use rdma_uapi::{class::{self, mr}, client::{Builder, Reply}, wire::{method, ObjectId}};
//! let mut buffer = [0u64; 32];
//! let mut message = Builder::new(&mut buffer, class::MR, 0);
//! message.put(mr::PD, &ObjectId(1)).put(mr::ADDR, &0x1000).put(mr::LENGTH, &4096).put(mr::ACCESS, &1).ask(mr::LKEY);
//! let message = message.finish().unwrap();
//! // ioctl(fd, wire::ioctl(method::CREATE), message.as_mut_ptr())
//! let reply = Reply::new(message);
//! assert_eq!(reply.get(mr::LKEY), None); // nobody has answered yet
//! ```

use crate::errno::Errno;
use crate::failure::{Failure, Reason};
use crate::schema::{Attr, Payload};
use crate::wire::{self, AttrHead, ByPointer, Header, ATTR_HEAD, HEADER};
use zerocopy::{FromBytes, IntoBytes};

/// The message did not fit its buffer, or the 64 KiB that a message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the message does not fit")
    }
}

impl core::error::Error for TooLong {}

/// Builds a message.
///
/// Attributes are mandatory: the receiver fails the call if it does not know one. [`Builder::optional`] before an
/// attribute lets the receiver ignore it.
pub struct Builder<'b> {
    buffer: &'b mut [u8],
    length: usize,
    too_long: bool,
    optional: bool,
}

impl<'b> Builder<'b> {
    /// Begins a message to an object (0 where the method takes none) of a class. The buffer is of 64-bit words, because
    /// that is how a message is aligned.
    pub fn new(buffer: &'b mut [u64], class: u16, object: u32) -> Self {
        Builder::in_bytes(buffer.as_mut_bytes(), class, object)
    }

    /// The same, in a buffer of bytes.
    pub fn in_bytes(buffer: &'b mut [u8], class: u16, object: u32) -> Self {
        let header = Header {
            class,
            object,
            ..Header::default()
        };
        let too_long = buffer.len() < HEADER;
        if !too_long {
            buffer[..HEADER].copy_from_slice(header.as_bytes());
        }
        Builder {
            buffer,
            length: HEADER,
            too_long,
            optional: false,
        }
    }

    /// The next attribute may be ignored by a receiver that does not know it.
    pub fn optional(&mut self) -> &mut Self {
        self.optional = true;
        self
    }

    /// Room for an attribute with a payload of that many bytes; what follows it up to the next attribute is zero.
    // Inlined where the payload's size is known: a program that makes a thousand objects puts ten thousand attributes.
    #[inline]
    fn room(&mut self, id: u16, payload: usize) -> Option<&mut [u8]> {
        let mandatory = if core::mem::take(&mut self.optional) {
            0
        } else {
            wire::ATTR_MANDATORY
        };
        let (start, length) = (self.length, ATTR_HEAD + payload.min(wire::MAX_MESSAGE));
        let next = start + wire::align(length);
        let fits = !self.too_long && next <= wire::MAX_MESSAGE;
        let Some(place) = self.buffer.get_mut(start..next).filter(|_| fits) else {
            self.too_long = true;
            return None;
        };
        self.length = next;
        let head = AttrHead {
            length: length as u16,
            id: id | mandatory,
            result: 0,
        };
        let (head_place, place) = place.split_at_mut(ATTR_HEAD);
        head_place.copy_from_slice(head.as_bytes());
        let (place, padding) = place.split_at_mut(payload);
        padding.fill(0);
        Some(place)
    }

    #[inline]
    fn bytes(&mut self, id: u16, bytes: &[u8]) -> &mut Self {
        if let Some(place) = self.room(id, bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self
    }

    #[inline]
    fn zeros(&mut self, id: u16, length: usize) -> &mut Self {
        if let Some(place) = self.room(id, length) {
            place.fill(0);
        }
        self
    }

    /// An input.
    #[inline]
    pub fn put<T: Payload>(&mut self, attr: Attr<T>, value: &T) -> &mut Self {
        self.bytes(attr.id(), value.as_bytes())
    }

    /// An input, if there is a value.
    #[inline]
    pub fn put_some<T: Payload>(&mut self, attr: Attr<T>, value: Option<T>) -> &mut Self {
        match value {
            Some(value) => self.put(attr, &value),
            None => self,
        }
    }

    /// An array input.
    pub fn put_array<T: Payload>(&mut self, attr: Attr<[T]>, values: &[T]) -> &mut Self {
        self.bytes(attr.id(), values.as_bytes())
    }

    /// A text input.
    pub fn put_text(&mut self, attr: Attr<str>, text: &str) -> &mut Self {
        self.bytes(attr.id(), text.as_bytes())
    }

    /// Asks for an output.
    #[inline]
    pub fn ask<T: Payload>(&mut self, attr: Attr<T>) -> &mut Self {
        self.zeros(attr.id(), size_of::<T>())
    }

    /// Asks for an array, with room for that many elements.
    pub fn ask_array<T: Payload>(&mut self, attr: Attr<[T]>, count: usize) -> &mut Self {
        match count.checked_mul(size_of::<T>()) {
            Some(bytes) if bytes <= wire::MAX_MESSAGE => {
                self.zeros(attr.id(), bytes);
            }
            _ => self.too_long = true,
        }
        self
    }

    /// Asks for a text, with room for that many bytes.
    pub fn ask_text(&mut self, attr: Attr<str>, bytes: usize) -> &mut Self {
        self.zeros(attr.id(), bytes)
    }

    /// An input or output by pointer: `length` bytes at `addr` in the calling process.
    pub fn by_pointer<T: ?Sized>(&mut self, attr: Attr<T>, addr: u64, length: u64) -> &mut Self {
        self.bytes(attr.id() | wire::ATTR_BY_POINTER, ByPointer { addr, length }.as_bytes())
    }

    /// The message.
    ///
    /// # Errors
    ///
    /// It did not fit.
    pub fn finish(self) -> Result<&'b mut [u8], TooLong> {
        if self.too_long {
            return Err(TooLong);
        }
        let message = &mut self.buffer[..self.length];
        message[..2].copy_from_slice((self.length as u16).as_bytes());
        Ok(message)
    }
}

/// Reads a message that came back.
#[derive(Clone, Copy)]
pub struct Reply<'m> {
    message: &'m [u8],
}

/// An answered output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered<'m> {
    /// What was written, for one that is inline.
    pub bytes: &'m [u8],
    /// Bytes written, inline or by pointer.
    pub written: u32,
    /// The value was longer than the room for it.
    pub truncated: bool,
    /// For one by pointer, the full size of the value.
    pub full: Option<u64>,
}

impl<'m> Reply<'m> {
    /// Of a message that was sent.
    pub fn new(message: &'m [u8]) -> Self {
        Reply { message }
    }

    /// The header.
    pub fn header(&self) -> Header {
        Header::read_from_prefix(self.message).map_or_else(|_| Header::default(), |(header, _)| header)
    }

    /// The object id that CREATE answered, or the descriptor that CREATE_FD did.
    pub fn object(&self) -> u32 {
        self.header().object
    }

    /// What was wrong, for a call that failed with this errno.
    pub fn failure(&self, errno: Errno) -> Failure {
        let error = self.header().error;
        let failure = Failure::new(errno, Reason(error.reason));
        failure.at(error.attr, error.offset).detail(error.detail)
    }

    /// An output, if it was asked for and answered.
    pub fn answered(&self, id: u16) -> Option<Answered<'m>> {
        let mut at = HEADER;
        loop {
            let head: AttrHead = zerocopy::transmute!(*self.message.get(at..)?.first_chunk::<ATTR_HEAD>()?);
            if head.id & wire::ATTR_ID == id {
                let payload = self.message.get(at + ATTR_HEAD..at + usize::from(head.length))?;
                if head.result & wire::RESULT_ANSWERED == 0 {
                    return None;
                }
                let written = head.result & wire::RESULT_WRITTEN;
                let truncated = head.result & wire::RESULT_TRUNCATED != 0;
                let (bytes, full) = if head.id & wire::ATTR_BY_POINTER != 0 {
                    (&payload[..0], Some(ByPointer::read_from_bytes(payload).ok()?.length))
                } else {
                    (payload.get(..written as usize)?, None)
                };
                return Some(Answered {
                    bytes,
                    written,
                    truncated,
                    full,
                });
            }
            // An attribute is no shorter than its head; a message that is not made so has no other.
            at += wire::align(usize::from(head.length).max(ATTR_HEAD));
        }
    }

    /// An output's value. What an older kernel does not write is zero.
    pub fn get<T: Payload>(&self, attr: Attr<T>) -> Option<T> {
        let bytes = self.answered(attr.id())?.bytes;
        let mut value = T::new_zeroed();
        let length = bytes.len().min(size_of::<T>());
        value.as_mut_bytes()[..length].copy_from_slice(&bytes[..length]);
        Some(value)
    }

    /// An array output's elements.
    pub fn array<T: Payload>(&self, attr: Attr<[T]>) -> impl Iterator<Item = T> + 'm {
        let bytes = self.answered(attr.id()).map_or(&[][..], |answered| answered.bytes);
        bytes
            .chunks_exact(size_of::<T>())
            .filter_map(|element| T::read_from_bytes(element).ok())
    }

    /// A text output.
    pub fn text(&self, attr: Attr<str>) -> Option<&'m str> {
        core::str::from_utf8(self.answered(attr.id())?.bytes).ok()
    }
}
