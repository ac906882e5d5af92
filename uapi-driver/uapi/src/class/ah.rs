// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! AH: address handle. Where datagrams go.
//!
//! A data path that writes addresses into its work requests needs no object for them. This is for those who want the
//! address checked once, by the kernel, and kept.

use super::qp::Path;
use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

/// The protection domain, which stays as long as the handle does.
pub const PD: Attr<ObjectId> = Attr::object(1, "pd", &[super::PD]);
/// The path to a port or to a multicast group.
pub const PATH: Attr<Path> = Attr::new(2, "path");
/// The port that it leaves by, from 1; if not given, 1.
pub const PORT: Attr<u32> = Attr::new(3, "port");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::AH,
    name: "ah",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[PD.required(), PATH.required(), PORT.input()],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[PD.output(), PATH.output(), PORT.output()],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[],
        },
    ],
};
