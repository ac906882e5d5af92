// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What INTERFACE QUERY answers (U7): the dispatch table as records, complete enough to generate a client from.
//!
//! A flat array of [`Record`]s in depth-first order: a class, its methods, each method's attributes; after an attribute
//! the classes whose objects it takes, or the structure of its payload and that structure's fields. Records are made
//! from the very tables that the dispatcher uses.

use crate::driver::Driver;
use crate::payload;
use crate::schema::{Access, AttrSchema, Shape, Target, Type};
use crate::table::Table;

payload! {
    /// One line of the listing. What the fields mean depends on the kind; what has no meaning is zero.
    pub struct Record (64) {
        /// [`kind`].
        kind: u16,
        /// Class id, method number, or attribute id.
        id: u16,
        /// `class_flags` or `attr_flags`.
        flags: u16,
        /// Attribute: [`shape`].
        shape: u16,
        /// Attribute, field: [`ty`].
        ty: u16,
        /// Attribute: shortest payload accepted.
        min: u16,
        /// Attribute, field, structure: bytes; `u16::MAX` is any number. Of an array or text by element: see `unit`.
        size: u16,
        /// Field: where in the structure.
        offset: u16,
        /// Attribute: bytes of one element.
        unit: u16,
        /// Method: [`target`].
        target: u16,
        /// Method, attribute: [`access`].
        access: u16,
        /// Attribute: `access` is needed only for values with this bit, counted from 1; 0: for every value.
        bit: u16,
        /// The name, padded with zeros.
        name: [u8; 40],
    }
}

/// [`Record::kind`].
pub mod kind {
    /// A class.
    pub const CLASS: u16 = 1;
    /// A method of the last class.
    pub const METHOD: u16 = 2;
    /// An attribute of the last method.
    pub const ATTR: u16 = 3;
    /// A class whose objects the last attribute takes.
    pub const TAKES: u16 = 4;
    /// The structure of the last attribute's payload.
    pub const STRUCT: u16 = 5;
    /// A field of the last structure.
    pub const FIELD: u16 = 6;
}

/// [`Record::shape`].
pub mod shape {
    /// One value.
    pub const ONE: u16 = 1;
    /// Any number of values.
    pub const MANY: u16 = 2;
    /// An object's id.
    pub const OBJECT: u16 = 3;
    /// UTF-8.
    pub const TEXT: u16 = 4;
}

/// [`Record::ty`].
pub mod ty {
    /// Unsigned, 8 bits.
    pub const U8: u16 = 1;
    /// Unsigned, 16 bits.
    pub const U16: u16 = 2;
    /// Unsigned, 32 bits.
    pub const U32: u16 = 3;
    /// Unsigned, 64 bits.
    pub const U64: u16 = 4;
    /// Bytes.
    pub const BYTES: u16 = 5;
    /// UTF-8, padded.
    pub const TEXT: u16 = 6;
    /// A structure.
    pub const STRUCT: u16 = 7;
}

/// [`Record::target`].
pub mod target {
    /// Makes an object.
    pub const NEW: u16 = 1;
    /// The class's only object.
    pub const ONLY: u16 = 2;
    /// An object.
    pub const OBJECT: u16 = 3;
    /// A numbered one.
    pub const NUMBERED: u16 = 4;
    /// The file descriptor's own.
    pub const FD: u16 = 5;
}

/// [`Record::access`].
pub mod access {
    /// Anybody.
    pub const ANY: u16 = 0;
    /// CAP_NET_ADMIN.
    pub const NET_ADMIN: u16 = 1;
    /// CAP_NET_RAW.
    pub const NET_RAW: u16 = 2;
    /// CAP_SYS_ADMIN.
    pub const SYS_ADMIN: u16 = 3;
}

impl Record {
    fn new(kind: u16, id: u16, name: &str) -> Self {
        let mut record = Record {
            kind,
            id,
            ..Record::default()
        };
        let length = name.len().min(record.name.len());
        record.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        record
    }

    /// The name.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|&b| b == 0).unwrap_or(self.name.len());
        core::str::from_utf8(&self.name[..end]).unwrap_or("?")
    }

    fn with_type(mut self, of: &Type) -> Self {
        self.ty = match of {
            Type::U8 => ty::U8,
            Type::U16 => ty::U16,
            Type::U32 => ty::U32,
            Type::U64 => ty::U64,
            Type::Bytes(_) => ty::BYTES,
            Type::Text(_) => ty::TEXT,
            Type::Struct(_) => ty::STRUCT,
        };
        self.unit = of.size() as u16;
        self
    }
}

fn access_number(access: Access) -> u16 {
    match access {
        Access::Any => access::ANY,
        Access::NetAdmin => access::NET_ADMIN,
        Access::NetRaw => access::NET_RAW,
        Access::SysAdmin => access::SYS_ADMIN,
    }
}

fn attr<E>(of: &AttrSchema, give: &mut impl FnMut(&Record) -> Result<(), E>) -> Result<(), E> {
    let mut record = Record::new(kind::ATTR, of.spec.id, of.spec.name);
    record.flags = of.flags;
    record.min = of.min;
    record.size = of.size;
    record.access = access_number(of.access);
    record.bit = of.bit;
    let mut structure = None;
    let mut takes: &[u16] = &[];
    match &of.spec.shape {
        Shape::One(one) => {
            record.shape = shape::ONE;
            record = record.with_type(one);
            structure = Some(one);
        }
        Shape::Many(many) => {
            record.shape = shape::MANY;
            record = record.with_type(many);
            structure = Some(many);
        }
        Shape::Object(classes) => {
            record.shape = shape::OBJECT;
            record = record.with_type(&Type::U32);
            takes = classes;
        }
        Shape::Text => {
            record.shape = shape::TEXT;
            record.ty = ty::TEXT;
            record.unit = 1;
        }
    }
    give(&record)?;
    for &class in takes {
        give(&Record::new(kind::TAKES, class, ""))?;
    }
    if let Some(Type::Struct(structure)) = structure {
        let mut record = Record::new(kind::STRUCT, 0, structure.name);
        record.size = structure.size;
        give(&record)?;
        for field in structure.fields {
            let mut record = Record::new(kind::FIELD, 0, field.name).with_type(&field.ty);
            record.offset = field.offset;
            record.size = field.ty.size() as u16;
            give(&record)?;
        }
    }
    Ok(())
}

/// Gives the records of a table, one after the other.
///
/// # Errors
///
/// What `give` says.
pub fn records<D: Driver, E>(table: &Table<D>, mut give: impl FnMut(&Record) -> Result<(), E>) -> Result<(), E> {
    for class in table.classes() {
        let schema = class.schema();
        let mut record = Record::new(kind::CLASS, schema.id, schema.name);
        record.flags = schema.flags;
        give(&record)?;
        for method in class.methods() {
            let schema = method.schema();
            let mut record = Record::new(kind::METHOD, u16::from(schema.number), schema.name);
            record.target = match schema.target {
                Target::New => target::NEW,
                Target::Only => target::ONLY,
                Target::Object => target::OBJECT,
                Target::Numbered => target::NUMBERED,
                Target::Fd => target::FD,
            };
            record.access = access_number(schema.access);
            give(&record)?;
            for of in method.attrs() {
                attr(of, &mut give)?;
            }
        }
    }
    Ok(())
}
