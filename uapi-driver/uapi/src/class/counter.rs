// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! COUNTER: completion counter. It can stand wherever a CQ can, and counts what would be a completion there: those that succeeded, and
//! those that failed, work requests that were flushed included. A send that asks for no completion is not counted.
//!
//! The counters are in memory that the program maps; how is the driver's affair. An event, on the queue that the object reports
//! to, comes when a counter that is armed has reached its threshold, or when something failed.

use super::{ASYNC_EVENTS, COMPLETION_EVENTS, COOKIE, EVENT_QUEUE_OF};
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

/// Queue pairs that it counts for: at least so many asked for, the real number answered.
pub const QUEUE_PAIRS: Attr<u32> = Attr::new(1, "queue_pairs");
/// The completion vector.
pub const COMP_VECTOR: Attr<u32> = Attr::new(2, "comp_vector");
/// The number that the device knows it by.
pub const CQN: Attr<u32> = Attr::new(3, "cqn");
/// Completions that succeeded.
pub const SUCCEEDED: Attr<u64> = Attr::new(4, "succeeded");
/// Completions that failed.
pub const FAILED: Attr<u64> = Attr::new(5, "failed");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::COUNTER,
    name: "counter",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[
                QUEUE_PAIRS.in_out().must(),
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
                QUEUE_PAIRS.output(),
                COMP_VECTOR.output(),
                CQN.output(),
                SUCCEEDED.output(),
                FAILED.output(),
            ],
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
