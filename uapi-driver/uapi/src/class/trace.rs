// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! TRACE: an observer of the calls that others make on the device.
//!
//! Each call that is dispatched, a chain's commands included, becomes a record once it has been executed: who called, when,
//! for how long, with what result, and the message as the caller got it back, inputs and outputs in it. Records wait in a
//! ring of bounded size until READ takes them; one that finds no room is lost, and counted. With an event queue, a TRACE
//! event says that the ring is no longer empty. A context's own calls are not shown to its own observers.
//!
//! Messages hold addresses and keys of other processes, so making one takes CAP_SYS_ADMIN.

use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

payload! {
    /// What a record begins with; the message follows.
    pub struct RecordHead (48) {
        /// Bytes of the record, this head included: a multiple of 8.
        length: u32,
        /// Bytes of the message that was called with. What of it follows may be less: see [`SNAP`].
        message: u32,
        /// When the call began, in nanoseconds of the monotonic clock.
        start: u64,
        /// How long it took, in nanoseconds.
        duration: u64,
        /// The calling process.
        process: u32,
        /// The calling thread.
        thread: u32,
        /// Which of the device's contexts, counted from 1 as they were opened.
        context: u32,
        /// The method that was called: any 32 bits.
        method: u32,
        /// The result: 0 or an errno.
        errno: u16,
        /// [`flag`].
        flags: u16,
        /// Zero.
        reserved: u32,
    }
}

/// [`RecordHead::flags`].
pub mod flag {
    /// The call is a command of a chain; the chain's own record follows its commands'.
    pub const IN_CHAIN: u16 = 1;
    /// The call went to the object's own descriptor.
    pub const ON_FD: u16 = 2;
}

/// Only this process's calls; without it, or with 0, everybody's.
pub const PROCESS: Attr<u32> = Attr::new(1, "process");
/// Bytes of records that may wait; without it, [`DEFAULT_CAPACITY`].
pub const CAPACITY: Attr<u32> = Attr::new(2, "capacity");
/// Bytes of each message that are kept, a multiple of 8; without it, [`DEFAULT_SNAP`].
pub const SNAP: Attr<u32> = Attr::new(3, "snap");
/// Records, oldest first, each a [`RecordHead`] and its message: as many whole ones as there are and fit.
pub const RECORDS: Attr<[u8]> = Attr::array(4, "records");
/// Records that were lost since this was last asked for.
pub const LOST: Attr<u64> = Attr::new(5, "lost");
/// Records waiting.
pub const PENDING: Attr<u32> = Attr::new(6, "pending");
/// Not 0: also the calls of whatever process descends from [`PROCESS`] when it calls, through parents that live.
pub const CHILDREN: Attr<u32> = Attr::new(7, "children");

/// READ: takes records; never waits.
pub const READ: u8 = method::CLASS;

/// Bytes that wait unless asked otherwise.
pub const DEFAULT_CAPACITY: u32 = 1 << 18;
/// The least that may be asked for: room for the longest message.
pub const MIN_CAPACITY: u32 = 1 << 17;
/// The most that may be asked for.
pub const MAX_CAPACITY: u32 = 1 << 24;
/// Bytes of a message that are kept unless asked otherwise.
pub const DEFAULT_SNAP: u32 = 1024;

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::TRACE,
    name: "trace",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::SysAdmin,
            attrs: &[
                PROCESS.input(),
                CAPACITY.in_out(),
                SNAP.in_out(),
                CHILDREN.input(),
                super::EVENT_QUEUE_OF.input(),
                super::COOKIE.input(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[
                PROCESS.output(),
                CAPACITY.output(),
                SNAP.output(),
                PENDING.output(),
                CHILDREN.output(),
            ],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[],
        },
        MethodSchema {
            number: READ,
            name: "read",
            target: Target::Object,
            access: Access::Any,
            attrs: &[RECORDS.output().by_pointer(), LOST.output(), PENDING.output()],
        },
    ],
};
