// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! EVENT_QUEUE: where objects report to. Always a file descriptor.
//!
//! CREATE_FD on the device's file gives the descriptor, and an id that other objects' messages can refer to the
//! queue by. Everything else goes to the queue's own descriptor: MODIFY associates an object with it, READ_EVENTS
//! takes many events at once, read(2) takes them as an array of [`Event`]s, poll says whether there are any.

use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

payload! {
    /// An event, as read(2) and READ_EVENTS give it.
    pub struct Event (32) {
        /// [`kind`].
        kind: u16,
        /// The class of the object that it is about.
        class: u16,
        /// Its id (the port's number for a port, zero for the device and the device list).
        object: u32,
        /// The cookie given when it was associated.
        cookie: u64,
        /// More, by kind.
        data: u64,
        /// How many events this one stands for: an unread completion or asynchronous event of the same object and kind is
        /// counted into the next. The data is the latest's.
        count: u32,
        /// Zero.
        reserved: u32,
    }

    /// What [`ASSOCIATE`] takes.
    pub struct Association (24) {
        /// The object's class: any that has events.
        class: u16,
        /// Zero.
        reserved: u16,
        /// The object's id (the port's number for a port, zero for the device and the device list).
        object: ObjectId,
        /// Comes back in every event of the object.
        cookie: u64,
        /// Zero.
        reserved2: u64,
    }
}

/// [`Event::kind`].
pub mod kind {
    /// A completion queue has completions.
    pub const COMPLETION: u16 = 1;
    /// Events were lost because nobody read the queue; the data says how many. Never completions or asynchronous events.
    pub const LOST: u16 = 2;
    /// The device is gone. The last event of any queue.
    pub const DEVICE_GONE: u16 = 3;
    /// A device came. This and the next two are the device list's; the data is the device's arrival number.
    pub const DEVICE_ADDED: u16 = 4;
    /// A device went.
    pub const DEVICE_REMOVED: u16 = 5;
    /// A device's state in the list is another: it does not answer any more.
    pub const DEVICE_CHANGED: u16 = 6;
    /// An observer has records.
    pub const TRACE: u16 = 8;
    /// A client of a management class has datagrams.
    pub const MAD: u16 = 9;

    /// Asynchronous events from here on, to [`LAST_ASYNC`]: this plus libibverbs' number.
    pub const ASYNC: u16 = 32;
    /// The last number of asynchronous events.
    pub const LAST_ASYNC: u16 = 63;
    /// A completion queue overflowed or broke.
    pub const CQ_ERROR: u16 = ASYNC;
    /// A queue pair broke.
    pub const QP_FATAL: u16 = ASYNC + 1;
    /// Invalid request at a queue pair.
    pub const QP_REQUEST_ERROR: u16 = ASYNC + 2;
    /// Access violation at a queue pair.
    pub const QP_ACCESS_ERROR: u16 = ASYNC + 3;
    /// Communication established.
    pub const COMM_ESTABLISHED: u16 = ASYNC + 4;
    /// Send queue drained.
    pub const SQ_DRAINED: u16 = ASYNC + 5;
    /// Path migrated.
    pub const PATH_MIGRATED: u16 = ASYNC + 6;
    /// Path migration failed.
    pub const PATH_MIGRATION_ERROR: u16 = ASYNC + 7;
    /// The device broke.
    pub const DEVICE_FATAL: u16 = ASYNC + 8;
    /// The port became active.
    pub const PORT_ACTIVE: u16 = ASYNC + 9;
    /// The port went down.
    pub const PORT_ERROR: u16 = ASYNC + 10;
    /// The LID changed.
    pub const LID_CHANGE: u16 = ASYNC + 11;
    /// The P_Key table changed.
    pub const PKEY_CHANGE: u16 = ASYNC + 12;
    /// The subnet manager changed.
    pub const SM_CHANGE: u16 = ASYNC + 13;
    /// A shared receive queue broke.
    pub const SRQ_ERROR: u16 = ASYNC + 14;
    /// A shared receive queue reached its limit.
    pub const SRQ_LIMIT_REACHED: u16 = ASYNC + 15;
    /// The last receive of a queue pair on a shared receive queue was taken.
    pub const QP_LAST_WQE_REACHED: u16 = ASYNC + 16;
    /// The subnet manager asks for reregistration.
    pub const CLIENT_REREGISTER: u16 = ASYNC + 17;
    /// The GID table changed.
    pub const GID_CHANGE: u16 = ASYNC + 18;

    /// Events of connections from here on: this plus librdmacm's number.
    pub const CM: u16 = 64;
    /// At a listener: a peer asks; the data is the new CM id's object id.
    pub const CM_CONNECT_REQUEST: u16 = CM + 4;
    /// The peer agreed, but the queue pair cannot be made ready.
    pub const CM_CONNECT_ERROR: u16 = CM + 6;
    /// The peer did not answer.
    pub const CM_UNREACHABLE: u16 = CM + 7;
    /// The peer refused; the data is the reason ([`crate::class::cm_id::REASON`]).
    pub const CM_REJECTED: u16 = CM + 8;
    /// Connected.
    pub const CM_ESTABLISHED: u16 = CM + 9;
    /// The connection is over, whichever side began. The queue pair is in ERR.
    pub const CM_DISCONNECTED: u16 = CM + 10;
    /// On the system-wide node: the device that the id is on is gone.
    pub const CM_DEVICE_REMOVAL: u16 = CM + 11;
    /// No packet of the connection is on its way any more.
    pub const CM_TIMEWAIT_EXIT: u16 = CM + 15;
}

/// Kinds of events that an object of this class has: the unread events of it that a queue keeps room for.
pub(crate) const fn kinds_of(class: u16) -> u32 {
    match class {
        super::DEVICE | super::MAD => 1,
        // Completion or limit, and error.
        super::CQ | super::COUNTER | super::SRQ => 2,
        // The eight asynchronous events of a queue pair, the seven of a port; enough for a driver's own.
        _ => 8,
    }
}

/// Events that the queue holds, beside those that it keeps room for, before it loses some; without it, [`DEFAULT_CAPACITY`]. Answered with the real number.
pub const CAPACITY: Attr<u32> = Attr::new(1, "capacity");
/// The id that other objects' messages refer to the queue by.
pub const ID: Attr<ObjectId> = Attr::object(2, "id", &[super::EVENT_QUEUE]);
/// From now on these objects report to this queue.
pub const ASSOCIATE: Attr<[Association]> = Attr::array(3, "associate");
/// From now on these objects, if they report to this queue, report to none.
pub const DISSOCIATE: Attr<[Association]> = Attr::array(4, "dissociate");
/// Events, oldest first, as many as there are and fit.
pub const EVENTS: Attr<[Event]> = Attr::array(5, "events");
/// Events waiting.
pub const PENDING: Attr<u32> = Attr::new(6, "pending");

/// READ_EVENTS: takes events off the queue; never waits.
pub const READ_EVENTS: u8 = method::CLASS;

/// Capacity of a queue that did not ask for one.
pub const DEFAULT_CAPACITY: u32 = 256;
/// Capacity that a queue may ask for.
pub const MAX_CAPACITY: u32 = 65536;

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::EVENT_QUEUE,
    name: "event_queue",
    flags: class_flags::FD | class_flags::GLOBAL,
    methods: &[
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Fd,
            access: Access::Any,
            attrs: &[CAPACITY.output(), ID.output(), PENDING.output()],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Fd,
            access: Access::Any,
            attrs: &[ASSOCIATE.input().by_pointer(), DISSOCIATE.input().by_pointer()],
        },
        MethodSchema {
            number: method::CREATE_FD,
            name: "create_fd",
            target: Target::New,
            access: Access::Any,
            attrs: &[CAPACITY.in_out(), ID.output()],
        },
        MethodSchema {
            number: READ_EVENTS,
            name: "read_events",
            target: Target::Fd,
            access: Access::Any,
            attrs: &[EVENTS.output().by_pointer(), PENDING.output()],
        },
    ],
};
