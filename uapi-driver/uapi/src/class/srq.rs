// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! SRQ: shared receive queue.

use super::{ASYNC_EVENTS, COOKIE, EVENT_QUEUE_OF};
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

/// The protection domain that the elements of its receives belong to.
pub const PD: Attr<ObjectId> = Attr::object(1, "pd", &[super::PD]);
/// Receives: at least so many asked for, the real number answered. MODIFY resizes.
pub const MAX_WR: Attr<u32> = Attr::new(2, "max_wr");
/// Scatter/gather entries of a receive; without it, 1.
pub const MAX_SGE: Attr<u32> = Attr::new(3, "max_sge");
/// Fewer posted receives than this are an event, once; 0 disarms.
pub const LIMIT: Attr<u32> = Attr::new(4, "limit");
/// The number that the device knows it by.
pub const SRQN: Attr<u32> = Attr::new(5, "srqn");

/// The XRC domain, of a queue that XRC's requests name: any target of the domain takes receives from it for them, and no queue
/// pair stands on it. Goes with [`CQ`].
pub const XRCD: Attr<ObjectId> = Attr::object(6, "xrcd", &[super::XRCD]);
/// Where the receives of a queue with an XRC domain complete.
pub const CQ: Attr<ObjectId> = Attr::object(7, "cq", &[super::CQ, super::COUNTER]);

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::SRQ,
    name: "srq",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[
                PD.required(),
                MAX_WR.in_out().must(),
                MAX_SGE.in_out(),
                LIMIT.input(),
                SRQN.output(),
                XRCD.input(),
                CQ.input(),
                EVENT_QUEUE_OF.input(),
                COOKIE.input(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                PD.output(),
                MAX_WR.output(),
                MAX_SGE.output(),
                LIMIT.output(),
                SRQN.output(),
                XRCD.output(),
                CQ.output(),
            ],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Object,
            access: Access::Any,
            attrs: &[MAX_WR.in_out(), LIMIT.input()],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[ASYNC_EVENTS.output()],
        },
    ],
};
