// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The bytes of a message: header, attribute head, by-pointer descriptor; the id spaces; the ioctl number.
//!
//! A message is a [`Header`], then attributes, each an [`AttrHead`] and a payload, each starting on a multiple of
//! 8 bytes. Bytes between an attribute's end and the next multiple of 8 are zero. All integers have the machine's
//! byte order, as everything else between a program and its kernel.

use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Every attribute, and so every message, is a multiple of this long.
pub const ALIGN: usize = 8;

/// The longest message. Larger payloads go by pointer.
pub const MAX_MESSAGE: usize = 65528;

/// The header every message begins with.
///
/// The ioctl number and the first 32-bit word are enough to decode the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Bytes in the message, this header included; a multiple of 8.
    pub length: u16,
    /// The class of the object.
    pub class: u16,
    /// The object's id; CREATE answers here, CREATE_FD answers the file descriptor.
    pub object: u32,
    /// None are defined yet: zero.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Output only: what was wrong. Zero on input.
    pub error: ExtendedError,
}

/// What was wrong with a failed call, beside the errno. All zero when nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtendedError {
    /// A [`crate::failure::Reason`].
    pub reason: u16,
    /// The attribute's id as in the schema, or one of the `FIELD_*` pseudo ids for a header field.
    pub attr: u16,
    /// Where in the message, in bytes from its start. A message is at most 64 KiB, so 16 bits do.
    pub offset: u16,
    /// A number that goes with the reason: the class the object really has, the size expected, the device's status.
    pub detail: u16,
}

/// What every attribute begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttrHead {
    /// Bytes in the attribute, this head included, the padding that follows it not.
    pub length: u16,
    /// The attribute's id, with [`ATTR_MANDATORY`] and [`ATTR_BY_POINTER`].
    pub id: u16,
    /// Zero on input. On output, for an output attribute: `RESULT_*` and in the low 30 bits the bytes written.
    pub result: u32,
}

/// The payload of an attribute with [`ATTR_BY_POINTER`]: where the real payload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ByPointer {
    /// Address in the calling process.
    pub addr: u64,
    /// Bytes at that address. For an output attribute the answer is the full size of the value, so that a caller
    /// whose room was too small knows how much to bring.
    pub length: u64,
}

/// Bytes of a [`Header`].
pub const HEADER: usize = size_of::<Header>();
/// Bytes of an [`AttrHead`].
pub const ATTR_HEAD: usize = size_of::<AttrHead>();

const _: () = {
    use core::mem::offset_of;
    assert!(HEADER == 24 && ATTR_HEAD == 8 && size_of::<ByPointer>() == 16);
    assert!(offset_of!(Header, class) == 2 && offset_of!(Header, object) == 4);
    assert!(offset_of!(Header, flags) == 8 && offset_of!(Header, reserved) == 12);
    assert!(offset_of!(Header, error) == 16 && size_of::<ExtendedError>() == 8);
    assert!(offset_of!(AttrHead, id) == 2 && offset_of!(AttrHead, result) == 4);
    assert!(MAX_MESSAGE % ALIGN == 0 && MAX_MESSAGE <= u16::MAX as usize);
};

/// In an attribute's id: fail if the receiver does not know it. Without, an unknown attribute is ignored.
pub const ATTR_MANDATORY: u16 = 1 << 15;
/// In an attribute's id: the payload is a [`ByPointer`].
pub const ATTR_BY_POINTER: u16 = 1 << 14;
/// In an attribute's id: the driver's own; then 7 bits of driver id and 6 of number.
pub const ATTR_DRIVER: u16 = 1 << 13;
/// The bits of an attribute's id that are the id.
pub const ATTR_ID: u16 = 0x3fff;
/// Attributes of a class, and attributes a driver may add to one, are numbered below this.
pub const ATTR_NUMBERS: u16 = 64;

/// The id of a driver-specific attribute.
pub const fn driver_attr(driver: DriverId, number: u16) -> u16 {
    assert!(number < ATTR_NUMBERS);
    ATTR_DRIVER | ((driver.0 as u16) << 6) | number
}

/// In [`AttrHead::result`]: this output attribute was answered.
pub const RESULT_ANSWERED: u32 = 1 << 31;
/// In [`AttrHead::result`]: the value was longer than the room for it.
pub const RESULT_TRUNCATED: u32 = 1 << 30;
/// In [`AttrHead::result`]: the bytes written.
pub const RESULT_WRITTEN: u32 = RESULT_TRUNCATED - 1;

/// Pseudo attribute: the header's length.
pub const FIELD_LENGTH: u16 = 0xffff;
/// Pseudo attribute: the header's class.
pub const FIELD_CLASS: u16 = 0xfffe;
/// Pseudo attribute: the header's object id.
pub const FIELD_OBJECT: u16 = 0xfffd;
/// Pseudo attribute: the header's flags.
pub const FIELD_FLAGS: u16 = 0xfffc;
/// Pseudo attribute: a reserved field of the header.
pub const FIELD_RESERVED: u16 = 0xfffb;
/// Pseudo attribute: the method, which is the ioctl number.
pub const FIELD_METHOD: u16 = 0xfffa;
/// Pseudo attribute: none in particular.
pub const FIELD_NONE: u16 = 0;

/// A driver's id, 1 to 127. It tags the classes and attributes that are the driver's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverId(pub u8);

/// A class id with this bit is a driver's own; 7 bits of driver id and 8 of class follow.
pub const CLASS_DRIVER: u16 = 1 << 15;

/// The id of a driver's own class.
pub const fn driver_class(driver: DriverId, number: u8) -> u16 {
    assert!(driver.0 >= 1 && driver.0 < 128);
    CLASS_DRIVER | ((driver.0 as u16) << 8) | number as u16
}

/// The driver that a class id belongs to; `None` for a common class.
pub const fn class_driver(class: u16) -> Option<DriverId> {
    if class & CLASS_DRIVER == 0 {
        None
    } else {
        Some(DriverId(((class >> 8) & 0x7f) as u8))
    }
}

/// Methods, by number. 0..32 mean the same for every class, 32..64 are the class's, 64..96 the driver's,
/// 96..128 experimental.
pub mod method {
    /// Make an object; its id comes back in the header.
    pub const CREATE: u8 = 0;
    /// Read an object's attributes.
    pub const QUERY: u8 = 1;
    /// Change an object.
    pub const MODIFY: u8 = 2;
    /// End an object.
    pub const DESTROY: u8 = 3;
    /// Make an object whose handle is a file descriptor; the descriptor comes back in the header.
    pub const CREATE_FD: u8 = 4;
    /// Execute a list of commands.
    pub const EXECUTE: u8 = 5;

    /// First method of a class's own.
    pub const CLASS: u8 = 32;
    /// First method of a driver's own.
    pub const DRIVER: u8 = 64;
    /// First experimental method.
    pub const EXPERIMENTAL: u8 = 96;
    /// One past the last method.
    pub const END: u8 = 128;
}

/// The ioctl type byte. 0xD2 has no entry in the kernel's ioctl-number list (uverbs has 0x1b).
pub const IOCTL_TYPE: u8 = 0xd2;

/// The ioctl number of a method: `_IOWR(0xd2, method, struct header)`.
pub const fn ioctl(method: u8) -> u32 {
    (3 << 30) | ((HEADER as u32) << 16) | ((IOCTL_TYPE as u32) << 8) | method as u32
}

/// The method of an ioctl number, or `None` (ENOTTY) if it is none of ours.
pub const fn ioctl_method(number: u32) -> Option<u8> {
    if number & 0xffff_ff00 == ioctl(0) && (number & 0xff) < method::END as u32 {
        Some((number & 0xff) as u8)
    } else {
        None
    }
}

/// An object's id in its context. Zero is none.
///
/// Inside a chain, `CHAIN | n` stands for the object that the chain's command `n` created.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct ObjectId(pub u32);

impl ObjectId {
    /// No object.
    pub const NONE: ObjectId = ObjectId(0);
    /// No real id has this bit.
    pub const CHAIN: u32 = 1 << 31;
}

/// `n` rounded up to a multiple of 8.
pub const fn align(n: usize) -> usize {
    (n + ALIGN - 1) & !(ALIGN - 1)
}
