// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listing of an interface, to look things up in.

use rdma_uapi::listing::{self, Record};
use std::collections::HashMap;

/// An attribute as the listing describes it.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Name, flags, shape and type.
    pub record: Record,
    /// The fields of its structure, if it has one.
    pub fields: Vec<Record>,
}

/// A method of a class.
#[derive(Clone, Debug, Default)]
struct Method {
    name: String,
    attributes: HashMap<u16, Attribute>,
}

#[derive(Clone, Debug, Default)]
struct Class {
    name: String,
    methods: HashMap<u32, Method>,
}

/// Names of classes, methods and attributes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    classes: HashMap<u16, Class>,
}

impl Names {
    /// From the records of a listing, which are in depth-first order. Records of kinds that this version does not know
    /// are passed over.
    pub fn new(records: &[Record]) -> Self {
        let mut names = Self::default();
        let (mut class, mut method, mut attribute) = (0, 0, 0);
        for record in records {
            let name = record.name().to_owned();
            match record.kind {
                listing::kind::CLASS => {
                    class = record.id;
                    names.classes.entry(class).or_default().name = name;
                }
                listing::kind::METHOD => {
                    method = u32::from(record.id);
                    names.method_mut(class, method).name = name;
                }
                listing::kind::ATTR => {
                    attribute = record.id;
                    let described = Attribute {
                        record: *record,
                        fields: Vec::new(),
                    };
                    names.method_mut(class, method).attributes.insert(attribute, described);
                }
                listing::kind::FIELD => {
                    if let Some(attribute) = names.method_mut(class, method).attributes.get_mut(&attribute) {
                        attribute.fields.push(*record);
                    }
                }
                _ => {}
            }
        }
        names
    }

    fn method_mut(&mut self, class: u16, method: u32) -> &mut Method {
        self.classes
            .entry(class)
            .or_default()
            .methods
            .entry(method)
            .or_default()
    }

    /// A class's name, or its number.
    pub fn class(&self, id: u16) -> String {
        match self.classes.get(&id) {
            Some(class) => class.name.clone(),
            None => format!("class {id:#x}"),
        }
    }

    /// A method's name, or its number.
    pub fn method(&self, class: u16, method: u32) -> String {
        let found = self.classes.get(&class).and_then(|class| class.methods.get(&method));
        match found {
            Some(method) => method.name.clone(),
            None => format!("method {method}"),
        }
    }

    /// What an attribute of a method is, by its id without flags.
    pub fn attribute(&self, class: u16, method: u32, id: u16) -> Option<&Attribute> {
        self.classes.get(&class)?.methods.get(&method)?.attributes.get(&id)
    }
}
