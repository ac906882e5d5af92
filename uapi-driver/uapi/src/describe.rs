// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The tables as text: a failure as a sentence, and every id, size and offset for the golden file.

use crate::class;
use crate::failure::{Failure, Reason};
use crate::schema::{Access, AttrSchema, ClassSchema, Shape, StructSchema, Target, Type};
use crate::wire;
use core::fmt::{self, Write};

/// A failure as a sentence that names class, method and attribute.
pub struct Explained<'a> {
    failure: &'a Failure,
    class: u16,
    method: u8,
    schema: Option<&'static ClassSchema>,
    known: &'a [&'static ClassSchema],
}

/// A failure of a call as a sentence, with the names of the common classes.
pub fn explain(failure: &Failure, class: u16, method: u8) -> Explained<'_> {
    explain_with(failure, class, method, class::ALL)
}

/// The same, with the names of the classes given (the common ones, a driver's).
pub fn explain_with<'a>(
    failure: &'a Failure,
    class: u16,
    method: u8,
    known: &'a [&'static ClassSchema],
) -> Explained<'a> {
    let schema = known.iter().find(|schema| schema.id == class).copied();
    Explained {
        failure,
        class,
        method,
        schema,
        known,
    }
}

impl Explained<'_> {
    fn attr_name(&self, id: u16) -> Option<&'static str> {
        let schema = self.schema?;
        let in_method = schema.method(self.method).into_iter();
        let anywhere = schema.methods.iter();
        in_method
            .chain(anywhere)
            .flat_map(|method| method.attrs)
            .find(|attr| attr.spec.id == id)
            .map(|attr| attr.spec.name)
    }
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schema {
            Some(schema) => f.write_str(schema.name)?,
            None => write!(f, "class {:#x}", self.class)?,
        }
        match self.schema.and_then(|schema| schema.method(self.method)) {
            Some(method) => write!(f, " {}: ", method.name)?,
            None => write!(f, " method {}: ", self.method)?,
        }
        let Failure {
            errno,
            reason,
            attr,
            offset,
            detail,
        } = *self.failure;
        match attr {
            wire::FIELD_NONE | wire::FIELD_METHOD => {}
            wire::FIELD_LENGTH => f.write_str("the header's length: ")?,
            wire::FIELD_CLASS => f.write_str("the header's class: ")?,
            wire::FIELD_OBJECT => f.write_str("the header's object id: ")?,
            wire::FIELD_FLAGS => f.write_str("the header's flags: ")?,
            wire::FIELD_RESERVED => f.write_str("the header's reserved fields: ")?,
            id => {
                match self.attr_name(id) {
                    Some(name) => write!(f, "attribute {name}")?,
                    None => write!(f, "attribute {id:#x}")?,
                }
                if offset != 0 {
                    write!(f, " at offset {offset}")?;
                }
                f.write_str(": ")?;
            }
        }
        write!(f, "{reason}")?;
        match (reason, detail) {
            (_, 0) => {}
            (Reason::WRONG_CLASS, id) => match self.known.iter().find(|schema| schema.id == id) {
                Some(schema) => write!(f, ", it is a {}", schema.name)?,
                None => write!(f, ", it is of class {id:#x}")?,
            },
            (Reason::DEVICE, status) => write!(f, ", status {status:#x}")?,
            (Reason::SHORT_PAYLOAD, size) => write!(f, ", at least {size} bytes are needed")?,
            (Reason::TAIL_NOT_ZERO, size) => write!(f, ", {size} bytes are known")?,
            (Reason::IN_USE, count) => write!(f, ", {count} of them")?,
            (_, detail) => write!(f, ", {detail}")?,
        }
        write!(f, " ({errno})")
    }
}

fn type_name(ty: &Type, out: &mut impl Write) -> fmt::Result {
    match ty {
        Type::U8 => out.write_str("u8"),
        Type::U16 => out.write_str("u16"),
        Type::U32 => out.write_str("u32"),
        Type::U64 => out.write_str("u64"),
        Type::Bytes(n) => write!(out, "[u8; {n}]"),
        Type::Text(n) => write!(out, "text[{n}]"),
        Type::Struct(s) => out.write_str(s.name),
    }
}

fn structure(s: &StructSchema, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "        struct {} size {}", s.name, s.size)?;
    for field in s.fields {
        write!(out, "          {:3} ", field.offset)?;
        type_name(&field.ty, out)?;
        writeln!(out, " {}", field.name)?;
    }
    Ok(())
}

/// An attribute, one line, then its structure.
fn attr(attr: &AttrSchema, out: &mut impl Write) -> fmt::Result {
    use crate::schema::attr_flags::{BY_POINTER, IN, OUT, REQUIRED};
    write!(out, "      attr {:#x} {}: ", attr.spec.id, attr.spec.name)?;
    let ty = match &attr.spec.shape {
        Shape::One(ty) => {
            type_name(ty, out)?;
            Some(ty)
        }
        Shape::Many(ty) => {
            out.write_str("[")?;
            type_name(ty, out)?;
            out.write_str("]")?;
            Some(ty)
        }
        Shape::Object(classes) => {
            write!(out, "object of {classes:?}")?;
            None
        }
        Shape::Text => {
            out.write_str("text")?;
            None
        }
    };
    for (flag, name) in [
        (IN, "in"),
        (OUT, "out"),
        (REQUIRED, "required"),
        (BY_POINTER, "by-pointer"),
    ] {
        if attr.flags & flag != 0 {
            write!(out, " {name}")?;
        }
    }
    writeln!(out, " min {} size {}", attr.min, attr.size)?;
    match ty {
        Some(Type::Struct(s)) => structure(s, out),
        _ => Ok(()),
    }
}

/// Classes with every id, size and offset: what a golden file pins down.
///
/// # Errors
///
/// What `out` says.
pub fn classes<'a>(classes: impl IntoIterator<Item = &'a ClassSchema>, out: &mut impl Write) -> fmt::Result {
    for class in classes {
        writeln!(out, "class {:#x} {} flags {}", class.id, class.name, class.flags)?;
        for method in class.methods {
            let target = match method.target {
                Target::New => "new",
                Target::Only => "only",
                Target::Object => "object",
                Target::Numbered => "numbered",
                Target::Fd => "fd",
            };
            let access = match method.access {
                Access::Any => "any",
                Access::NetAdmin => "net-admin",
                Access::NetRaw => "net-raw",
                Access::SysAdmin => "sys-admin",
            };
            writeln!(
                out,
                "    method {} {} on {target} access {access}",
                method.number, method.name
            )?;
            for of in method.attrs {
                attr(of, out)?;
            }
        }
    }
    Ok(())
}
