// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the interface offers, as the device tells it.

use rdma_uapi::class::interface::feature;
use rdma_uapi::listing::{self, Record};
use rdma_uapi::schema::attr_flags;
use std::fmt;

/// The listing of a device's interface: every class, method and attribute.
#[derive(Clone, Debug)]
pub struct Interface {
    /// The interface's version.
    pub version: u32,
    /// The features that the context has asked for ([`feature`]).
    pub features: u64,
    /// The listing, depth first.
    pub records: Vec<Record>,
}

/// A class of the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassListing {
    /// Its id.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its methods.
    pub methods: Vec<MethodListing>,
}

/// A method of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodListing {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub attrs: Vec<AttrListing>,
}

/// An attribute of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttrListing {
    /// Its id.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// [`attr_flags`].
    pub flags: u16,
    /// Its type, for people.
    pub ty: String,
    /// What giving it or asking for it takes, for people; empty: nothing.
    pub takes: String,
}

impl Interface {
    /// The listing as a tree.
    pub fn classes(&self) -> Vec<ClassListing> {
        let mut classes: Vec<ClassListing> = Vec::new();
        for (n, record) in self.records.iter().enumerate() {
            let name = record.name().to_owned();
            match record.kind {
                listing::kind::CLASS => classes.push(ClassListing {
                    id: record.id,
                    name,
                    methods: Vec::new(),
                }),
                listing::kind::METHOD => {
                    if let Some(class) = classes.last_mut() {
                        class.methods.push(MethodListing {
                            number: record.id,
                            name,
                            attrs: Vec::new(),
                        });
                    }
                }
                listing::kind::ATTR => {
                    if let Some(method) = classes.last_mut().and_then(|class| class.methods.last_mut()) {
                        let structure = self.records[n + 1..]
                            .first()
                            .filter(|r| r.kind == listing::kind::STRUCT);
                        let ty = type_name(record, structure);
                        method.attrs.push(AttrListing {
                            id: record.id,
                            name,
                            flags: record.flags,
                            ty,
                            takes: takes(record),
                        });
                    }
                }
                // Parts of the attribute before; kinds of later versions.
                _ => {}
            }
        }
        classes
    }
}

fn type_name(attr: &Record, structure: Option<&Record>) -> String {
    let one = match attr.ty {
        listing::ty::U8 => "u8".to_owned(),
        listing::ty::U16 => "u16".to_owned(),
        listing::ty::U32 => "u32".to_owned(),
        listing::ty::U64 => "u64".to_owned(),
        listing::ty::BYTES => format!("[u8; {}]", attr.unit),
        listing::ty::TEXT => "text".to_owned(),
        listing::ty::STRUCT => structure.map_or("struct", Record::name).to_owned(),
        other => format!("type {other}"),
    };
    match attr.shape {
        listing::shape::MANY => format!("[{one}]"),
        listing::shape::OBJECT => "object".to_owned(),
        _ => one,
    }
}

/// What an attribute takes.
fn takes(attr: &Record) -> String {
    let capability = match attr.access {
        listing::access::ANY => return String::new(),
        listing::access::NET_ADMIN => "CAP_NET_ADMIN".to_owned(),
        listing::access::NET_RAW => "CAP_NET_RAW".to_owned(),
        listing::access::SYS_ADMIN => "CAP_SYS_ADMIN".to_owned(),
        other => format!("access {other}"),
    };
    match attr.bit {
        0 => capability,
        bit => format!("{capability} if bit {} is set", bit - 1),
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let experimental = if self.features & feature::EXPERIMENTAL != 0 {
            ", experimental methods"
        } else {
            ""
        };
        writeln!(f, "interface version {}{experimental}", self.version)?;
        for class in self.classes() {
            writeln!(f, "{:#06x} {}", class.id, class.name)?;
            for method in &class.methods {
                writeln!(f, "  {:3} {}", method.number, method.name)?;
                for attr in &method.attrs {
                    let direction = match (attr.flags & attr_flags::IN != 0, attr.flags & attr_flags::OUT != 0) {
                        (true, true) => "in out",
                        (true, false) => "in",
                        (false, true) => "out",
                        (false, false) => "",
                    };
                    let required = if attr.flags & attr_flags::REQUIRED != 0 {
                        ", required"
                    } else {
                        ""
                    };
                    let takes = match attr.takes.as_str() {
                        "" => String::new(),
                        takes => format!(", takes {takes}"),
                    };
                    writeln!(
                        f,
                        "      {:#06x} {}: {} ({direction}{required}{takes})",
                        attr.id, attr.name, attr.ty
                    )?;
                }
            }
        }
        Ok(())
    }
}
