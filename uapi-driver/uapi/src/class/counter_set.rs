// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! COUNTER_SET: counts what the queue pairs bound to it do. What `rdma statistic qp` calls a counter.
//!
//! A queue pair is bound to one set at most, a set has any number of queue pairs. Neither keeps the other: the end of either is
//! the end of the binding.

use super::port::Counter;
use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

/// Classes of queue pairs.
const QPS: &[u16] = &[
    super::QP_RC,
    super::QP_UC,
    super::QP_UD,
    super::QP_XRC_INI,
    super::QP_XRC_TGT,
    super::QP_RAW,
];

/// A queue pair that is bound from now on; to the set that it was bound to before, it is no more.
pub const BIND: Attr<ObjectId> = Attr::object(1, "bind", QPS);
/// A queue pair that is bound to no set from now on.
pub const UNBIND: Attr<ObjectId> = Attr::object(2, "unbind", QPS);
/// What has been counted, by name.
pub const COUNTERS: Attr<[Counter]> = Attr::array(3, "counters");
/// Queue pairs that are bound.
pub const MEMBERS: Attr<u32> = Attr::new(4, "members");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::COUNTER_SET,
    name: "counter_set",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[COUNTERS.output().by_pointer(), MEMBERS.output()],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Object,
            access: Access::Any,
            attrs: &[BIND.input(), UNBIND.input()],
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
