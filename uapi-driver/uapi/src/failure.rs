// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Why a call failed: an errno for the program, and which field or attribute, where, and for what reason.

use crate::errno::Errno;
use crate::wire::{self, ExtendedError};
use core::fmt;

/// A failed call: the errno and what exactly was wrong. It becomes the message's extended error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the ioctl returns.
    pub errno: Errno,
    /// Why.
    pub reason: Reason,
    /// Which attribute, or a `wire::FIELD_*`.
    pub attr: u16,
    /// Where in the message.
    pub offset: u16,
    /// A number that goes with the reason.
    pub detail: u16,
}

/// The result of anything that can fail a call.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure that is no attribute's in particular.
    pub const fn new(errno: Errno, reason: Reason) -> Self {
        Failure {
            errno,
            reason,
            attr: wire::FIELD_NONE,
            offset: 0,
            detail: 0,
        }
    }

    /// The same, naming an attribute (or header field) and where it is.
    #[must_use]
    pub const fn at(mut self, attr: u16, offset: u16) -> Self {
        self.attr = attr;
        self.offset = offset;
        self
    }

    /// The same, with a number that goes with the reason.
    #[must_use]
    pub const fn detail(mut self, detail: u16) -> Self {
        self.detail = detail;
        self
    }

    /// The device failed a command with this status.
    pub const fn device(errno: Errno, status: u16) -> Self {
        Failure::new(errno, Reason::DEVICE).detail(status)
    }

    /// No memory for the kernel's side of it.
    pub const NO_MEMORY: Failure = Failure::new(Errno::ENOMEM, Reason::NO_MEMORY);
    /// The device is gone.
    pub const GONE: Failure = Failure::new(Errno::ENODEV, Reason::DEVICE_GONE);

    /// As it stands in the header.
    pub const fn extended(&self) -> ExtendedError {
        ExtendedError {
            reason: self.reason.0,
            attr: self.attr,
            offset: self.offset,
            detail: self.detail,
        }
    }
}

impl From<crate::sys::NoMemory> for Failure {
    fn from(_: crate::sys::NoMemory) -> Self {
        Failure::NO_MEMORY
    }
}

/// Why a call failed, as a number: open, because the other side may know more reasons than this one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u16);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $says:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Reason = Reason($value);)*

            /// Every reason this side knows: number, name, sentence.
            pub const ALL: &'static [(Reason, &'static str, &'static str)] =
                &[$((Reason($value), stringify!($name), $says),)*];
        }
    };
}

reasons! {
    /// No reason given.
    NONE = 0, "no reason given";
    /// The message is shorter than a header.
    SHORT_MESSAGE = 1, "the message is shorter than a header";
    /// The header's length is not the message's, not a multiple of 8, or too long.
    BAD_LENGTH = 2, "the message's length is wrong (expected a multiple of 8 that covers header and attributes)";
    /// A reserved or output-only field is not zero.
    NOT_ZERO = 3, "a reserved or output-only field is not zero";
    /// A flag nobody knows.
    UNKNOWN_FLAG = 4, "an unknown flag is set";
    /// The device has no such class.
    NO_CLASS = 5, "this device has no such class";
    /// The class or attribute belongs to another driver.
    OTHER_DRIVER = 6, "this belongs to another driver";
    /// The class has no such method.
    NO_METHOD = 7, "the class has no such method";
    /// An experimental method, and the context did not ask for them.
    EXPERIMENTAL = 8, "experimental methods were not asked for when the context was opened";
    /// The caller may not.
    NOT_PERMITTED = 9, "the caller lacks the permission that the method needs";
    /// No object has that id.
    NO_OBJECT = 10, "no object has that id";
    /// The object is of another class.
    WRONG_CLASS = 11, "the object is of another class";
    /// The header names an object where the method takes none.
    OBJECT_NOT_ZERO = 12, "the method takes no object id";
    /// An attribute is shorter than its own head.
    SHORT_ATTR = 13, "an attribute is shorter than its own head";
    /// An attribute reaches past the message's end.
    ATTR_PAST_END = 14, "an attribute reaches past the end of the message";
    /// A mandatory attribute that nobody knows here.
    UNKNOWN_ATTR = 15, "a mandatory attribute is unknown to this method";
    /// The same attribute twice.
    DUPLICATE = 16, "the attribute is there twice";
    /// A payload shorter than the first version of it.
    SHORT_PAYLOAD = 17, "the attribute's payload is too short";
    /// A payload longer than known, with something in the unknown part.
    TAIL_NOT_ZERO = 18, "the attribute's payload is longer than known and what is unknown is not zero";
    /// A required attribute is not there.
    MISSING = 19, "a required attribute is missing";
    /// By pointer, and the attribute must be inline.
    NOT_BY_POINTER = 20, "the attribute may not be given by pointer";
    /// The user's memory could not be read or written.
    BAD_POINTER = 21, "the memory that the attribute points to is not accessible";
    /// The value is out of range.
    OUT_OF_RANGE = 22, "the value is out of range";
    /// Other objects depend on it.
    IN_USE = 23, "other objects depend on the object";
    /// Another call is using it now.
    BUSY = 24, "another call is using the object now";
    /// The context's limit of objects.
    TOO_MANY_OBJECTS = 25, "the context has as many objects as it may have";
    /// No memory.
    NO_MEMORY = 26, "out of memory";
    /// The device is gone.
    DEVICE_GONE = 27, "the device is gone";
    /// The device refused; the detail is its status.
    DEVICE = 28, "the device refused the command";
    /// Right object, wrong file descriptor.
    WRONG_FD = 29, "the call must go to the object's own file descriptor";
    /// The object's state does not allow it.
    BAD_STATE = 30, "the object's state does not allow it";
    /// The device cannot do it.
    UNSUPPORTED = 31, "the device does not support it";
    /// Over the limit of pinned memory.
    MEMLOCK = 32, "over the limit of pinned memory";
    /// The attribute is not allowed in this combination or transition.
    NOT_ALLOWED = 33, "the attribute is not allowed here";
    /// It must be the first call on the file descriptor.
    NOT_FIRST = 34, "this must be the first call on the file descriptor";
    /// The payload is no whole number of elements.
    NOT_WHOLE = 35, "the payload is not a whole number of elements";
    /// A chain's command refers to a command that created nothing.
    BAD_REFERENCE = 36, "the reference is to a command that created no object";
    /// An earlier command of the chain failed.
    CANCELLED = 37, "an earlier command of the chain failed";
    /// Two attributes contradict each other.
    CONFLICT = 38, "the attribute contradicts another one";
    /// There can be one alone, and somebody has it.
    TAKEN = 39, "somebody has it already";
}

impl Reason {
    /// A driver's own reasons start here.
    pub const DRIVER: u16 = 0x8000;

    fn known(self) -> Option<&'static (Reason, &'static str, &'static str)> {
        Reason::ALL.iter().find(|known| known.0 == self)
    }

    /// The symbolic name, if known.
    pub fn name(self) -> Option<&'static str> {
        self.known().map(|known| known.1)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "reason {}", self.0),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(known) => f.write_str(known.2),
            None => write!(f, "reason {}", self.0),
        }
    }
}

impl core::error::Error for Failure {}

/// Without names: who knows the class renders it with [`crate::describe::explain`].
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            errno,
            reason,
            attr,
            offset,
            detail,
        } = *self;
        write!(f, "{errno}: {reason}")?;
        if attr != wire::FIELD_NONE {
            write!(f, " (field {attr:#x} at offset {offset})")?;
        }
        if detail != 0 {
            write!(f, ", detail {detail:#x}")?;
        }
        Ok(())
    }
}
