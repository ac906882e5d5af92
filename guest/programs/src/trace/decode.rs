// SPDX-License-Identifier: MIT OR Apache-2.0
//! A record of an observer, decoded.

use super::names::{Attribute, Names};
use rdma_uapi::class::trace::{flag, RecordHead};
use rdma_uapi::listing::{shape, ty, Record};
use rdma_uapi::schema::attr_flags;
use rdma_uapi::wire::{self, AttrHead, ByPointer, Header, ObjectId, ATTR_HEAD, HEADER};
use rdma_uapi::{Errno, Reason};
use serde::Serialize;
use std::fmt::{self, Write};
use verbena::Traced;
use zerocopy::FromBytes;

/// A decoded call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    /// The calling process.
    pub process: u32,
    /// The calling thread.
    pub thread: u32,
    /// Which open of the device.
    pub context: u32,
    /// When it began, nanoseconds of the monotonic clock.
    pub start_ns: u64,
    /// How long it took, nanoseconds.
    pub duration_ns: u64,
    /// A command of a chain.
    pub in_chain: bool,
    /// To an event queue's own descriptor.
    pub on_fd: bool,
    /// The class's name.
    pub class: String,
    /// The method's name.
    pub method: String,
    /// The object's id as the caller got it back: for CREATE, the new one's.
    pub object: u32,
    /// The attributes, in the message's order.
    pub attributes: Vec<Given>,
    /// More of the message than was kept.
    pub cut: bool,
    /// 0, or the errno.
    pub errno: u16,
    /// Why it failed, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An attribute of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Given {
    /// Its name.
    pub name: String,
    /// It was asked for, not given.
    pub output: bool,
    /// The receiver may ignore it.
    pub optional: bool,
    /// What it holds: the input, or what was answered.
    pub value: Value,
}

/// What an attribute holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A number.
    Number(u64),
    /// An object's id.
    Object(u32),
    /// Bytes whose meaning the listing does not tell.
    Bytes(String),
    /// Text.
    Text(String),
    /// Fields of a structure.
    Structure(Vec<(String, Value)>),
    /// Elements.
    Array(Vec<Value>),
    /// By pointer: where, and how many bytes.
    Pointer(u64, u64),
    /// Asked for and not answered.
    Unanswered,
}

/// Elements of an array that are shown.
const SHOWN: usize = 16;

impl Call {
    /// Decodes a record.
    pub fn decode(names: &Names, traced: &Traced) -> Self {
        let RecordHead {
            process,
            thread,
            context,
            start,
            duration,
            flags,
            method,
            errno,
            message,
            ..
        } = traced.head;
        let bytes = &traced.message[..];
        let header = Header::read_from_prefix(bytes).map_or_else(|_| Header::default(), |(header, _)| header);
        let mut call = Call {
            process,
            thread,
            context,
            start_ns: start,
            duration_ns: duration,
            in_chain: flags & flag::IN_CHAIN != 0,
            on_fd: flags & flag::ON_FD != 0,
            class: names.class(header.class),
            method: names.method(header.class, method),
            object: header.object,
            attributes: Vec::new(),
            cut: bytes.len() < message as usize,
            errno,
            error: None,
        };
        let mut at = HEADER;
        while let Some((given, next)) = attribute(names, &header, method, bytes, at) {
            call.attributes.push(given);
            at = next;
        }
        if errno != 0 {
            call.error = Some(sentence(names, &header, method, Errno(errno)));
        }
        call
    }
}

/// The attribute at `at`, and where the next one is.
fn attribute(names: &Names, header: &Header, method: u32, message: &[u8], at: usize) -> Option<(Given, usize)> {
    let (head, _) = AttrHead::read_from_prefix(message.get(at..)?).ok()?;
    let length = usize::from(head.length);
    // Whatever the caller wrote: a length that no attribute has ends the decoding.
    let payload = message.get(at + ATTR_HEAD..at.checked_add(length)?)?;
    let id = head.id & wire::ATTR_ID;
    let known = names.attribute(header.class, method, id);
    let output = known.is_some_and(|a| a.record.flags & (attr_flags::IN | attr_flags::OUT) == attr_flags::OUT);
    let answered = head.result & wire::RESULT_ANSWERED != 0;
    let value = if head.id & wire::ATTR_BY_POINTER != 0 {
        match ByPointer::read_from_bytes(payload) {
            Ok(pointer) => Value::Pointer(pointer.addr, pointer.length),
            Err(_) => bytes(payload),
        }
    } else if output && !answered {
        Value::Unanswered
    } else {
        let written = (head.result & wire::RESULT_WRITTEN) as usize;
        let payload = if answered { payload.get(..written)? } else { payload };
        known.map_or_else(|| bytes(payload), |known| whole(known, payload))
    };
    let given = Given {
        name: known.map_or_else(|| format!("attribute {id:#x}"), |known| known.record.name().to_owned()),
        output,
        optional: head.id & wire::ATTR_MANDATORY == 0,
        value,
    };
    Some((given, at + wire::align(length)))
}

fn whole(known: &Attribute, payload: &[u8]) -> Value {
    match known.record.shape {
        shape::OBJECT => match u32::read_from_prefix(payload) {
            Ok((id, _)) => Value::Object(id),
            Err(_) => bytes(payload),
        },
        shape::TEXT => text(payload),
        shape::MANY if known.record.unit > 0 => {
            let elements = payload.chunks_exact(usize::from(known.record.unit));
            Value::Array(
                elements
                    .map(|element| one(&known.record, &known.fields, element))
                    .collect(),
            )
        }
        _ => one(&known.record, &known.fields, payload),
    }
}

fn one(record: &Record, fields: &[Record], payload: &[u8]) -> Value {
    let number = |bytes: &[u8], size: usize| {
        let mut whole = [0; 8];
        // The machine's byte order: the number's bytes stand where a wider one has its low ones.
        let start = if cfg!(target_endian = "big") { 8 - size } else { 0 };
        match bytes.get(..size) {
            Some(bytes) => {
                whole[start..start + size].copy_from_slice(bytes);
                Value::Number(u64::from_ne_bytes(whole))
            }
            None => self::bytes(bytes),
        }
    };
    match record.ty {
        ty::U8 => number(payload, 1),
        ty::U16 => number(payload, 2),
        ty::U32 => number(payload, 4),
        ty::U64 => number(payload, 8),
        ty::TEXT => text(payload),
        ty::STRUCT => {
            let field = |field: &Record| {
                let start = usize::from(field.offset);
                let part = payload.get(start..start + usize::from(field.size))?;
                Some((field.name().to_owned(), one(field, &[], part)))
            };
            Value::Structure(fields.iter().filter_map(field).collect())
        }
        _ => bytes(payload),
    }
}

fn text(payload: &[u8]) -> Value {
    let end = payload.iter().position(|&b| b == 0).unwrap_or(payload.len());
    Value::Text(String::from_utf8_lossy(&payload[..end]).into_owned())
}

fn bytes(payload: &[u8]) -> Value {
    let mut hex = String::new();
    for byte in payload.iter().take(64) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    if payload.len() > 64 {
        let _ = write!(hex, "... {} bytes", payload.len());
    }
    Value::Bytes(hex)
}

/// What was wrong, in words.
fn sentence(names: &Names, header: &Header, method: u32, errno: Errno) -> String {
    let error = header.error;
    let reason = Reason(error.reason);
    let place = match error.attr {
        wire::FIELD_NONE | wire::FIELD_METHOD => String::new(),
        wire::FIELD_LENGTH => "the header's length: ".to_owned(),
        wire::FIELD_CLASS => "the header's class: ".to_owned(),
        wire::FIELD_OBJECT => "the header's object id: ".to_owned(),
        wire::FIELD_FLAGS => "the header's flags: ".to_owned(),
        wire::FIELD_RESERVED => "the header's reserved fields: ".to_owned(),
        id => {
            let known = names.attribute(header.class, method, id);
            let name = known.map_or_else(|| format!("{id:#x}"), |known| known.record.name().to_owned());
            match error.offset {
                0 => format!("attribute {name}: "),
                offset => format!("attribute {name} at offset {offset}: "),
            }
        }
    };
    let detail = match (reason, error.detail) {
        (_, 0) => String::new(),
        (Reason::WRONG_CLASS, class) => format!(", it is a {}", names.class(class)),
        (Reason::DEVICE, status) => match verbena_hw::admin::Status(status).name() {
            Some(name) => format!(", status {name}"),
            None => format!(", status {status:#x}"),
        },
        (_, detail) => format!(", {detail}"),
    };
    format!("{place}{reason}{detail} ({errno})")
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) if *n < 65536 => write!(f, "{n}"),
            Value::Number(n) => write!(f, "{n:#x}"),
            Value::Object(id) if id & ObjectId::CHAIN != 0 => write!(f, "#command {}", id & !ObjectId::CHAIN),
            Value::Object(id) => write!(f, "#{id:x}"),
            Value::Bytes(hex) => f.write_str(hex),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Structure(fields) => {
                f.write_str("{")?;
                for (n, (name, value)) in fields.iter().enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("}")
            }
            Value::Array(elements) => {
                f.write_str("[")?;
                for (n, element) in elements.iter().take(SHOWN).enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    write!(f, "{comma}{element}")?;
                }
                if elements.len() > SHOWN {
                    write!(f, ", ... {} in all", elements.len())?;
                }
                f.write_str("]")
            }
            Value::Pointer(addr, length) => write!(f, "{addr:#x}[{length}]"),
            Value::Unanswered => f.write_str("?"),
        }
    }
}

impl fmt::Display for Call {
    /// As strace would: `pd create(pdn?) = #1 pdn=3 <12 us>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = if self.in_chain { "  | " } else { "" };
        write!(f, "{indent}{} {}(", self.class, self.method)?;
        let mut comma = "";
        let creates = self.method.starts_with("create");
        if self.object != 0 && !(creates && self.errno == 0) {
            write!(f, "#{:x}", self.object)?;
            comma = ", ";
        }
        for given in &self.attributes {
            if given.output {
                write!(f, "{comma}{}?", given.name)?;
            } else {
                let optional = if given.optional { "~" } else { "" };
                write!(f, "{comma}{optional}{}={}", given.name, given.value)?;
            }
            comma = ", ";
        }
        if self.cut {
            write!(f, "{comma}...")?;
        }
        f.write_str(") = ")?;
        match &self.error {
            Some(error) => write!(f, "-1 {error}")?,
            None if creates => write!(f, "#{:x}", self.object)?,
            None => f.write_str("0")?,
        }
        if self.errno == 0 {
            for given in self.attributes.iter().filter(|given| given.output) {
                write!(f, " {}={}", given.name, given.value)?;
            }
        }
        write!(f, " <{:.1} us>", self.duration_ns as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_uapi::class::{self, mr, pd};
    use rdma_uapi::client::Builder;
    use rdma_uapi::wire::method;

    fn traced(method: u8, errno: u16, message: &[u8]) -> Traced {
        Traced {
            head: RecordHead {
                method: method.into(),
                errno,
                duration: 12_500,
                message: message.len() as u32,
                ..RecordHead::default()
            },
            message: message.to_vec(),
        }
    }

    fn record(kind: u16, id: u16, name: &str) -> Record {
        let mut record = Record {
            kind,
            id,
            ..Record::default()
        };
        record.name[..name.len()].copy_from_slice(name.as_bytes());
        record
    }

    /// PD CREATE with its output, and MR CREATE with two inputs.
    fn names() -> Names {
        use rdma_uapi::listing::kind::{ATTR, CLASS, METHOD};
        let attr = |id, name, flags, shape, ty| Record {
            flags,
            shape,
            ty,
            ..record(ATTR, id, name)
        };
        Names::new(&[
            record(CLASS, class::PD, "pd"),
            record(METHOD, 0, "create"),
            attr(pd::PDN.id(), "pdn", attr_flags::OUT, shape::ONE, ty::U32),
            record(CLASS, class::MR, "mr"),
            record(METHOD, 0, "create"),
            attr(mr::PD.id(), "pd", attr_flags::IN, shape::OBJECT, ty::U32),
            attr(mr::ADDR.id(), "addr", attr_flags::IN, shape::ONE, ty::U64),
        ])
    }

    #[test]
    fn u25_a_call_that_succeeded_shows_inputs_results_and_time() {
        let mut words = [0; 16];
        let mut message = Builder::new(&mut words, class::PD, 5);
        message.ask(pd::PDN);
        let message = message.finish().unwrap();
        message[28..32].copy_from_slice(&(wire::RESULT_ANSWERED | 4).to_ne_bytes());
        message[32..36].copy_from_slice(&3u32.to_ne_bytes());
        let call = Call::decode(&names(), &traced(method::CREATE, 0, message));
        assert_eq!(call.to_string(), "pd create(pdn?) = #5 pdn=3 <12.5 us>");
    }

    #[test]
    fn u25_a_call_that_failed_says_why() {
        let mut words = [0; 16];
        let mut message = Builder::new(&mut words, class::MR, 0);
        message
            .put(mr::PD, &ObjectId(0x8000_0002))
            .put(mr::ADDR, &0x7f00_0000_0000);
        let message = message.finish().unwrap();
        message[16..18].copy_from_slice(&Reason::WRONG_CLASS.0.to_ne_bytes());
        message[18..20].copy_from_slice(&mr::PD.id().to_ne_bytes());
        message[20..22].copy_from_slice(&24u16.to_ne_bytes());
        message[22..24].copy_from_slice(&class::PD.to_ne_bytes());
        let call = Call::decode(&names(), &traced(method::CREATE, Errno::EINVAL.0, message));
        assert_eq!(
            call.to_string(),
            "mr create(pd=#command 2, addr=0x7f0000000000) = -1 attribute pd at offset 24: \
             the object is of another class, it is a pd (EINVAL) <12.5 us>"
        );
    }

    #[test]
    fn u25_what_is_unknown_or_nonsense_is_shown_as_it_is() {
        let call = Call::decode(&names(), &traced(99, Errno::EOPNOTSUPP.0, &[0xff; 40]));
        assert!(
            call.to_string().starts_with("class 0xffff method 99(#ffffffff"),
            "{call}"
        );
        let call = Call::decode(&names(), &traced(0, Errno::EINVAL.0, &[]));
        assert!(call.to_string().contains("EINVAL"), "{call}");
    }
}
