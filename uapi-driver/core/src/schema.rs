// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What Verbena adds to the common classes.
//!
//! Queue pairs and completion queues are of the common classes, so that everything that knows those (a tracer, the
//! event queues, a program that sets up connections for another) works with Verbena's; that their rings are mapped
//! into the process is told in driver-specific attributes that accompany CREATE and QUERY. A program that asks another
//! driver for them is told so: the attributes carry the driver's id. What no other device has, the doorbell page and the
//! memory that the rings of many queues share, are classes of Verbena's own.
//!
//! Offsets for mmap(2) are answered, never computed by a program: the object's id in the upper 32 bits, which of its
//! areas below.

use rdma_uapi::payload;
use rdma_uapi::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use rdma_uapi::wire::{driver_attr, driver_class, method, DriverId, ObjectId};

/// Verbena's driver id.
pub const ID: DriverId = DriverId(1);

/// The class of ring memories.
pub const RING_MEMORY_CLASS: u16 = driver_class(ID, 2);

/// The class of doorbell pages.
pub const DOORBELL_CLASS: u16 = driver_class(ID, 1);

payload! {
    /// Where a doorbell page's two faces are, for mmap(2): both one page long, shared, to read and write.
    pub struct DoorbellMaps (24) {
        /// The page in memory ([`verbena_hw::doorbell::DoorbellPage`]).
        page_offset: u64,
        /// The page of BAR 2 with the register ([`verbena_hw::doorbell::REG_RING`]).
        register_offset: u64,
        /// Its number: the page of BAR 2.
        index: u32,
        /// Zero.
        reserved: u32,
    }

    /// Where a completion queue's memory is.
    pub struct CqRing (32) {
        /// For mmap(2): the ring, at its beginning, and the record.
        mmap_offset: u64,
        /// Bytes to map.
        mmap_length: u64,
        /// Where in the mapping the record is ([`verbena_hw::cqe::CqRecord`]).
        record_offset: u64,
        /// log2 of the ring's entries.
        log_entries: u32,
        /// Zero.
        reserved: u32,
    }

    /// Where a shared receive queue's memory is.
    pub struct SrqRing (32) {
        /// For mmap(2): the ring, at its beginning, and the record.
        mmap_offset: u64,
        /// Bytes to map.
        mmap_length: u64,
        /// Where in the mapping the record is ([`verbena_hw::srq::SrqRecord`]).
        record_offset: u64,
        /// After a MODIFY: receives that were posted and have moved to the ring's beginning; posting goes on behind them.
        posted: u32,
        /// log2 of the ring's entries.
        log_entries: u8,
        /// log2 of the bytes of one.
        log_stride: u8,
        /// Zero.
        reserved: [u8; 2],
    }

    /// Where a queue pair's memory is.
    pub struct QpRings (40) {
        /// For mmap(2): the send ring, at its beginning, and the receive ring. In a ring memory with a [`RING_GRAIN`] it need not be on
        /// a page: then the memory is what is mapped.
        mmap_offset: u64,
        /// Bytes to map.
        mmap_length: u64,
        /// Where in the mapping the receive ring is.
        recv_offset: u64,
        /// The doorbell page.
        doorbell: u32,
        /// The slot of the doorbell page that rings the send queue.
        slot: u16,
        /// log2 of the send ring's entries.
        send_log_entries: u8,
        /// log2 of the bytes of one.
        send_log_stride: u8,
        /// log2 of the receive ring's entries.
        recv_log_entries: u8,
        /// log2 of the bytes of one.
        recv_log_stride: u8,
        /// Zero.
        reserved: [u8; 6],
    }
}

payload! {
    /// Where a ring memory is, for mmap(2).
    pub struct RingMemoryMap (16) {
        /// All of it. What a queue in it answers as its own offset is this and the place in it, so that either can be mapped.
        mmap_offset: u64,
        /// Bytes.
        mmap_length: u64,
    }
}

payload! {
    /// How a doorbell page is used, as the device counts.
    pub struct DoorbellUse (8) {
        /// Slots that queue pairs have.
        slots: u32,
        /// Of these, slots whose queues the device looks at without being rung for.
        watched: u32,
    }

    /// An event queue of the device: a ring in the driver's memory, and the interrupt that tells of it.
    pub struct EventRingState (48) {
        /// Events that the device has raised, also those that wait.
        raised: u64,
        /// Its number: 0 takes what belongs to no completion queue, `n + 1` the events of completion vector `n`.
        eqn: u32,
        /// Its MSI-X vector.
        vector: u32,
        /// Entries.
        entries: u32,
        /// Entries that the device has written.
        producer: u32,
        /// Entries that the driver has said it has consumed, modulo 2^31.
        consumer: u32,
        /// Events that wait until the ring has room.
        waiting: u32,
        /// Queue pairs, completion queues and shared receive queues of all contexts that report here.
        users: u32,
        /// 1: the next event interrupts.
        armed: u32,
        /// Zero.
        reserved: u64,
    }
}

/// A doorbell page's two faces.
pub const DOORBELL_MAPS: Attr<DoorbellMaps> = Attr::new(driver_attr(ID, 1), "verbena_doorbell_maps");
/// The doorbell page that a queue pair rings.
pub const DOORBELL: Attr<ObjectId> = Attr::object(driver_attr(ID, 2), "verbena_doorbell", &[DOORBELL_CLASS]);
/// A completion queue's memory. A MODIFY that resizes must ask for it: the queue is in new memory then, and what was not
/// consumed stands at the ring's beginning.
pub const CQ_RING: Attr<CqRing> = Attr::new(driver_attr(ID, 3), "verbena_cq_ring");
/// A queue pair's memory.
pub const QP_RINGS: Attr<QpRings> = Attr::new(driver_attr(ID, 4), "verbena_qp_rings");
/// Comes back in every completion of the queue pair, or of the shared receive queue with an XRC domain
/// ([`verbena_hw::cqe::Cqe::cookie`]).
pub const CQE_COOKIE: Attr<u64> = Attr::new(driver_attr(ID, 5), "verbena_cqe_cookie");
/// The device's own state, as JSON: registers, queues, objects. Of all contexts.
pub const DUMP: Attr<str> = Attr::text(driver_attr(ID, 6), "verbena_dump");
/// A shared receive queue's memory. A MODIFY that resizes must ask for it: the queue is in new memory then.
pub const SRQ_RING: Attr<SrqRing> = Attr::new(driver_attr(ID, 7), "verbena_srq_ring");
/// The ring memory that a queue takes its memory from, as much as it needs together; without one it gets memory of its own.
/// Not for what MODIFY makes anew.
pub const RING_MEMORY: Attr<ObjectId> = Attr::object(driver_attr(ID, 8), "verbena_ring_memory", &[RING_MEMORY_CLASS]);
/// Bytes of a ring memory, rounded up to whole pages: 1 to [`RING_MEMORY_MAX`].
pub const RING_MEMORY_LENGTH: Attr<u64> = Attr::new(driver_attr(ID, 9), "verbena_ring_memory_length");
/// Where a ring memory is.
pub const RING_MEMORY_MAP: Attr<RingMemoryMap> = Attr::new(driver_attr(ID, 10), "verbena_ring_memory_map");
/// How a doorbell page is used.
pub const DOORBELL_USE: Attr<DoorbellUse> = Attr::new(driver_attr(ID, 11), "verbena_doorbell_use");
/// The device's event queues, as the device answers. Of all contexts.
pub const EVENT_RINGS: Attr<[EventRingState]> = Attr::array(driver_attr(ID, 12), "verbena_event_rings");
/// What the queue pairs of a ring memory are packed by. DEVICE QUERY answers the least that CREATE takes: [`RING_GRAIN_LEAST`], or a
/// page from a device that wants every ring on a page of its own. A ring memory without it has pages. With less than a page, its
/// queue pairs share pages: each begins on a multiple of this, its receive ring behind the send ring; other queues have whole pages.
pub const RING_GRAIN: Attr<u32> = Attr::new(driver_attr(ID, 13), "verbena_ring_grain");

/// The least [`RING_GRAIN`]. A queue pair of 16 entries a ring takes three.
pub const RING_GRAIN_LEAST: u32 = 512;

/// Bytes of a ring memory at most: what the kernel has in one stretch (x86: 2^10 pages).
pub const RING_MEMORY_MAX: u64 = 4 << 20;

/// Doorbell pages.
pub static DOORBELL_SCHEMA: ClassSchema = ClassSchema {
    id: DOORBELL_CLASS,
    name: "verbena_doorbell",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[DOORBELL_MAPS.output()],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[DOORBELL_MAPS.output(), DOORBELL_USE.output()],
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

/// Ring memories.
pub static RING_MEMORY_SCHEMA: ClassSchema = ClassSchema {
    id: RING_MEMORY_CLASS,
    name: "verbena_ring_memory",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[
                RING_MEMORY_LENGTH.required(),
                RING_GRAIN.input(),
                RING_MEMORY_MAP.output(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[RING_MEMORY_MAP.output()],
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
