// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! MW: memory window.
//!
//! A window of type 1 is bound by MODIFY; one of type 2 by a work request, which is the driver's own affair.

use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

/// [`TYPE`]; numbers as in libibverbs.
pub mod kind {
    /// Bound by MODIFY; open to all queue pairs of the protection domain.
    pub const TYPE_1: u32 = 1;
    /// Bound by a work request; open to the queue pair that bound it.
    pub const TYPE_2: u32 = 2;
}

/// The protection domain.
pub const PD: Attr<ObjectId> = Attr::object(1, "pd", &[super::PD]);
/// The type: [`kind`].
pub const TYPE: Attr<u32> = Attr::new(2, "type");
/// The remote key; each MODIFY changes it.
pub const RKEY: Attr<u32> = Attr::new(3, "rkey");
/// The region to bind to.
pub const MR: Attr<ObjectId> = Attr::object(4, "mr", &[super::MR]);
/// The first byte, as work requests name it in the region.
pub const ADDR: Attr<u64> = Attr::new(5, "addr");
/// Bytes; 0 unbinds.
pub const LENGTH: Attr<u64> = Attr::new(6, "length");
/// What a peer may do: remote rights of [`super::mr::access`].
pub const ACCESS: Attr<u32> = Attr::new(7, "access");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::MW,
    name: "mw",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[PD.required(), TYPE.required(), RKEY.output()],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                PD.output(),
                TYPE.output(),
                RKEY.output(),
                ADDR.output(),
                LENGTH.output(),
                ACCESS.output(),
            ],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                MR.input(),
                ADDR.input(),
                LENGTH.required(),
                ACCESS.input(),
                RKEY.output(),
            ],
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
