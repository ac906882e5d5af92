// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! CQ: completion queue.

use super::{ASYNC_EVENTS, COMPLETION_EVENTS, COOKIE, EVENT_QUEUE_OF};
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

/// Entries: at least so many asked for, the real number answered.
pub const CQE: Attr<u32> = Attr::new(1, "cqe");
/// The completion vector.
pub const COMP_VECTOR: Attr<u32> = Attr::new(2, "comp_vector");
/// The number that the device knows it by.
pub const CQN: Attr<u32> = Attr::new(3, "cqn");
/// Moderation: an armed queue's event waits for so many completions. 1: it does not wait; 0: their number does not matter.
pub const MODERATION_COUNT: Attr<u32> = Attr::new(4, "moderation_count");
/// Moderation: an armed queue's event waits so many microseconds at most, from its first completion on. 0: for ever, or, if it
/// does not wait for a count either, not at all.
pub const MODERATION_PERIOD: Attr<u32> = Attr::new(5, "moderation_period");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::CQ,
    name: "cq",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[
                CQE.in_out().must(),
                COMP_VECTOR.input(),
                CQN.output(),
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
                CQE.output(),
                COMP_VECTOR.output(),
                CQN.output(),
                MODERATION_COUNT.output(),
                MODERATION_PERIOD.output(),
            ],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Object,
            access: Access::Any,
            attrs: &[CQE.in_out(), MODERATION_COUNT.input(), MODERATION_PERIOD.input()],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[COMPLETION_EVENTS.output(), ASYNC_EVENTS.output()],
        },
    ],
};
