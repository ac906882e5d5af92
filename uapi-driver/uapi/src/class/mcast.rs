// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! MCAST: a queue pair's membership in a multicast group. It begins with CREATE and ends with DESTROY.

use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

/// The datagram queue pair that is attached; it stays as long as it is.
pub const QP: Attr<ObjectId> = Attr::object(1, "qp", &[super::QP_UD]);
/// The group's GID: an IPv6 multicast address, or an IPv4-mapped one.
pub const GID: Attr<[u8; 16]> = Attr::new(2, "gid");
/// Queue pairs of this device in the group, this one included, as the device counts: of all contexts.
pub const MEMBERS: Attr<u32> = Attr::new(3, "members");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::MCAST,
    name: "mcast",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[QP.required(), GID.required()],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[QP.output(), GID.output(), MEMBERS.output()],
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
