// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! PD: protection domain.

use crate::payload;
use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

/// The number that the device knows it by.
pub const PDN: Attr<u32> = Attr::new(1, "pdn");
/// What is in it, as the device counts.
pub const MEMBERS: Attr<PdMembers> = Attr::new(2, "members");

payload! {
    /// Objects in a protection domain, by kind.
    pub struct PdMembers (16) {
        /// Queue pairs.
        queue_pairs: u32,
        /// Shared receive queues.
        srqs: u32,
        /// Memory regions, and registrations under way.
        regions: u32,
        /// Memory windows.
        windows: u32,
    }
}

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::PD,
    name: "pd",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[PDN.output()],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[PDN.output(), MEMBERS.output()],
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
