// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! MR: memory region.
//!
//! MODIFY registers a region anew: other memory (`addr` and `length` together, and `iova`), another domain, other rights, or
//! several of them. It has other keys then; if it fails, it is what it was. Nothing may stand on it.
//!
//! CREATE names memory (`addr`, `length` and `access` are required then), or `max_elements`, or `null`.

use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

/// The protection domain.
pub const PD: Attr<ObjectId> = Attr::object(1, "pd", &[super::PD]);
/// Where the region starts in the calling process.
pub const ADDR: Attr<u64> = Attr::new(2, "addr");
/// Bytes in the region.
pub const LENGTH: Attr<u64> = Attr::new(3, "length");
/// The address that work requests use for the region's first byte; without it, `addr`.
pub const IOVA: Attr<u64> = Attr::new(4, "iova");
/// [`access`] rights.
pub const ACCESS: Attr<u32> = Attr::new(5, "access");
/// The local key.
pub const LKEY: Attr<u32> = Attr::new(6, "lkey");
/// The remote key.
pub const RKEY: Attr<u32> = Attr::new(7, "rkey");
/// The region has no memory: work requests give it some, from so many elements at most, and say what `addr`, `length`, `iova`
/// and `access` say otherwise. Its keys tell the numbers that those of work requests begin with.
pub const MAX_ELEMENTS: Attr<u32> = Attr::new(8, "max_elements");
/// 1: the region has no memory, and never will. What its local key reads is zero, what its local key writes is gone, at any
/// address and any length. It has no remote key, and is no part of anything else.
pub const NULL: Attr<u32> = Attr::new(9, "null");

/// Access rights, of memory regions and of queue pairs; numbers as in libibverbs.
pub mod access {
    /// The HCA may write it on behalf of its owner.
    pub const LOCAL_WRITE: u32 = 1;
    /// A peer may write it.
    pub const REMOTE_WRITE: u32 = 1 << 1;
    /// A peer may read it.
    pub const REMOTE_READ: u32 = 1 << 2;
    /// A peer may do atomics on it.
    pub const REMOTE_ATOMIC: u32 = 1 << 3;
    /// Memory windows may be bound to it.
    pub const MW_BIND: u32 = 1 << 4;
    /// Addresses in it count from zero.
    pub const ZERO_BASED: u32 = 1 << 5;
    /// Pages are found when used.
    pub const ON_DEMAND: u32 = 1 << 6;
    /// Huge pages are expected.
    pub const HUGE_TLB: u32 = 1 << 7;
    /// A peer may flush it to global visibility.
    pub const FLUSH_GLOBAL: u32 = 1 << 8;
    /// A peer may flush it to persistence.
    pub const FLUSH_PERSISTENT: u32 = 1 << 9;
    /// Writes may be reordered.
    pub const RELAXED_ORDERING: u32 = 1 << 20;
    /// All of them.
    pub const ALL: u32 = 0x3ff | RELAXED_ORDERING;
}

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::MR,
    name: "mr",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[
                PD.required(),
                ADDR.input(),
                LENGTH.input(),
                IOVA.input(),
                ACCESS.input(),
                LKEY.output(),
                RKEY.output(),
                MAX_ELEMENTS.input(),
                NULL.input(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                PD.output(),
                ADDR.output(),
                LENGTH.output(),
                IOVA.output(),
                ACCESS.output(),
                LKEY.output(),
                RKEY.output(),
                MAX_ELEMENTS.output(),
                NULL.output(),
            ],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                PD.input(),
                ADDR.input(),
                LENGTH.input(),
                IOVA.input(),
                ACCESS.input(),
                LKEY.output(),
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
