// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! How classes, methods, attributes and structures are described.
//!
//! Each is described once, in static tables. The dispatcher validates with them, INTERFACE QUERY lists them, the
//! tracer decodes with them, the reference and the golden file are generated from them.

use crate::wire::ObjectId;
use core::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A type that can stand in a payload.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// That many bytes.
    Bytes(u16),
    /// That many bytes of UTF-8, padded with zeros.
    Text(u16),
    /// A structure.
    Struct(&'static StructSchema),
}

impl Type {
    /// Bytes of it.
    pub const fn size(&self) -> usize {
        match self {
            Type::U8 => 1,
            Type::U16 => 2,
            Type::U32 => 4,
            Type::U64 => 8,
            Type::Bytes(n) | Type::Text(n) => *n as usize,
            Type::Struct(s) => s.size as usize,
        }
    }
}

/// A structure: its fields, in order, without holes.
#[derive(Debug)]
pub struct StructSchema {
    /// Its name.
    pub name: &'static str,
    /// Bytes of it.
    pub size: u16,
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it starts.
    pub offset: u16,
    /// What it is.
    pub ty: Type,
}

/// A Rust type that can be a payload, or an element of one.
pub trait Payload: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Its description.
    const TYPE: Type;
}

impl Payload for u8 {
    const TYPE: Type = Type::U8;
}
impl Payload for u16 {
    const TYPE: Type = Type::U16;
}
impl Payload for u32 {
    const TYPE: Type = Type::U32;
}
impl Payload for u64 {
    const TYPE: Type = Type::U64;
}
impl Payload for ObjectId {
    const TYPE: Type = Type::U32;
}
impl<const N: usize> Payload for [u8; N] {
    const TYPE: Type = Type::Bytes(N as u16);
}

/// Declares payload structures: each becomes a `repr(C)` zerocopy type with a [`StructSchema`] of the same fields.
/// The size is asserted; a hole does not compile (`IntoBytes`).
#[macro_export]
macro_rules! payload {
    ($($(#[$doc:meta])* $vis:vis struct $name:ident ($size:literal) {
        $($(#[$fdoc:meta])* $field:ident: $ty:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes,
            zerocopy_derive::Immutable, zerocopy_derive::KnownLayout,
        )]
        #[repr(C)]
        $vis struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $crate::schema::Payload for $name {
            const TYPE: $crate::schema::Type = $crate::schema::Type::Struct(&$crate::schema::StructSchema {
                name: stringify!($name),
                size: $size,
                fields: &[$($crate::schema::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field) as u16,
                    ty: <$ty as $crate::schema::Payload>::TYPE,
                },)*],
            });
        }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    )*};
}

/// What shape an attribute's payload has.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// One value.
    One(Type),
    /// Any number of values, one after the other.
    Many(Type),
    /// The id of an object of one of these classes.
    Object(&'static [u16]),
    /// UTF-8, as long as the payload.
    Text,
}

/// An attribute's name for people, its id, its shape: what is the same in every method that has it.
#[derive(Clone, Copy, Debug)]
pub struct AttrSpec {
    /// The id, without the mandatory and by-pointer bits.
    pub id: u16,
    /// The name.
    pub name: &'static str,
    /// The shape.
    pub shape: Shape,
}

/// An attribute, typed: `Attr<u64>` is one number, `Attr<[Gid]>` an array, `Attr<str>` a text.
pub struct Attr<T: ?Sized> {
    /// Its description.
    pub spec: AttrSpec,
    ty: PhantomData<fn(&T)>,
}

impl<T: ?Sized> Clone for Attr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: ?Sized> Copy for Attr<T> {}

impl<T: Payload> Attr<T> {
    /// One value.
    pub const fn new(id: u16, name: &'static str) -> Self {
        Attr {
            spec: AttrSpec {
                id,
                name,
                shape: Shape::One(T::TYPE),
            },
            ty: PhantomData,
        }
    }
}

impl<T: Payload> Attr<[T]> {
    /// An array.
    pub const fn array(id: u16, name: &'static str) -> Self {
        Attr {
            spec: AttrSpec {
                id,
                name,
                shape: Shape::Many(T::TYPE),
            },
            ty: PhantomData,
        }
    }
}

impl Attr<str> {
    /// A text.
    pub const fn text(id: u16, name: &'static str) -> Self {
        Attr {
            spec: AttrSpec {
                id,
                name,
                shape: Shape::Text,
            },
            ty: PhantomData,
        }
    }
}

impl Attr<ObjectId> {
    /// The id of an object of one of `classes`.
    pub const fn object(id: u16, name: &'static str, classes: &'static [u16]) -> Self {
        Attr {
            spec: AttrSpec {
                id,
                name,
                shape: Shape::Object(classes),
            },
            ty: PhantomData,
        }
    }
}

impl<T: ?Sized> Attr<T> {
    /// Its id.
    pub const fn id(&self) -> u16 {
        self.spec.id
    }

    /// As an input of a method.
    pub const fn input(self) -> AttrSchema {
        AttrSchema::of(self.spec, attr_flags::IN)
    }

    /// As an input that must be there.
    pub const fn required(self) -> AttrSchema {
        AttrSchema::of(self.spec, attr_flags::IN | attr_flags::REQUIRED)
    }

    /// As an output: answered if the message has it.
    pub const fn output(self) -> AttrSchema {
        AttrSchema::of(self.spec, attr_flags::OUT)
    }

    /// As an input that is answered in place.
    pub const fn in_out(self) -> AttrSchema {
        AttrSchema::of(self.spec, attr_flags::IN | attr_flags::OUT)
    }
}

/// What [`AttrSchema::flags`] says.
pub mod attr_flags {
    /// The program gives it.
    pub const IN: u16 = 1;
    /// The method answers it.
    pub const OUT: u16 = 2;
    /// The message must have it.
    pub const REQUIRED: u16 = 4;
    /// It may be given by pointer.
    pub const BY_POINTER: u16 = 8;
}

/// An attribute of a method.
#[derive(Clone, Copy, Debug)]
pub struct AttrSchema {
    /// What it is.
    pub spec: AttrSpec,
    /// `attr_flags`.
    pub flags: u16,
    /// The shortest payload accepted on input: the size of the structure's first version.
    pub min: u16,
    /// The size known now; [`UNBOUNDED`] for arrays and texts.
    pub size: u16,
    /// What the caller needs to give it, or to ask for it.
    pub access: Access,
    /// That counts only for values with this bit, counted from 1; 0: for every value. Of a number of 32 bits.
    pub bit: u16,
}

/// [`AttrSchema::size`] of what has no fixed size.
pub const UNBOUNDED: u16 = u16::MAX;

impl AttrSchema {
    const fn of(spec: AttrSpec, flags: u16) -> Self {
        let (min, size) = match spec.shape {
            Shape::One(ty) => (ty.size() as u16, ty.size() as u16),
            Shape::Object(_) => (4, 4),
            Shape::Many(_) | Shape::Text => (0, UNBOUNDED),
        };
        AttrSchema {
            spec,
            flags,
            min,
            size,
            access: Access::Any,
            bit: 0,
        }
    }

    /// The same, for callers with `access` only.
    pub const fn needs(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The same, for callers with `access` only if the value has `bit`, counted from 1. It is a number of 32 bits.
    pub const fn needs_if(mut self, access: Access, bit: u16) -> Self {
        assert!(matches!(self.spec.shape, Shape::One(Type::U32)) && bit >= 1 && bit <= 32);
        self.access = access;
        self.bit = bit;
        self
    }

    /// The same, and it may be given by pointer.
    pub const fn by_pointer(mut self) -> Self {
        self.flags |= attr_flags::BY_POINTER;
        self
    }

    /// The same, and the message must have it.
    pub const fn must(mut self) -> Self {
        self.flags |= attr_flags::REQUIRED;
        self
    }

    /// The same, accepting payloads from `min` bytes on: the structure has grown since.
    pub const fn since(mut self, min: u16) -> Self {
        self.min = min;
        self
    }
}

/// Which object a method is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// None yet: the header's object id must be zero, and comes back set.
    New,
    /// None: the class has one object, and its id is zero.
    Only,
    /// The object that the header names, which must be of the message's class.
    Object,
    /// One of a numbered few that always exist (ports): the handler checks the number.
    Numbered,
    /// The object behind the file descriptor; the header's object id is zero.
    Fd,
}

/// What a caller needs for a method, or for an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever could open the device.
    Any,
    /// CAP_NET_ADMIN.
    NetAdmin,
    /// CAP_NET_RAW.
    NetRaw,
    /// CAP_SYS_ADMIN.
    SysAdmin,
}

/// A method of a class.
#[derive(Debug)]
pub struct MethodSchema {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub name: &'static str,
    /// Which object it is about.
    pub target: Target,
    /// What the caller needs.
    pub access: Access,
    /// Its attributes.
    pub attrs: &'static [AttrSchema],
}

/// What [`ClassSchema::flags`] says.
pub mod class_flags {
    /// The class is served by the system-wide node too.
    pub const GLOBAL: u16 = 1;
    /// Its objects are file descriptors.
    pub const FD: u16 = 2;
    /// Its objects can be associated with an event queue.
    pub const EVENTS: u16 = 4;
}

/// A class.
#[derive(Debug)]
pub struct ClassSchema {
    /// Its id.
    pub id: u16,
    /// Its name.
    pub name: &'static str,
    /// `class_flags`.
    pub flags: u16,
    /// Its methods, by number.
    pub methods: &'static [MethodSchema],
}

impl ClassSchema {
    /// The method with that number.
    pub fn method(&self, number: u8) -> Option<&'static MethodSchema> {
        self.methods.iter().find(|method| method.number == number)
    }
}
