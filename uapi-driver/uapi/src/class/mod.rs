// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The common classes: ids, payloads, schemas. What any RDMA device has, none of it any one device's.
//!
//! A class whose schema stands here is listed and answered only where somebody implements it; the rest is
//! EOPNOTSUPP.

pub mod ah;
pub mod cm_id;
pub mod counter;
pub mod counter_set;
pub mod cq;
pub mod device;
pub mod device_list;
pub mod event_queue;
pub mod flow;
pub mod interface;
pub mod mad;
pub mod mcast;
pub mod mr;
pub mod mw;
pub mod pd;
pub mod port;
pub mod qp;
pub mod srq;
pub mod trace;
pub mod xrcd;

use crate::schema::{Attr, ClassSchema};
use crate::wire::ObjectId;

/// What the interface itself offers.
pub const INTERFACE: u16 = 1;
/// The device.
pub const DEVICE: u16 = 2;
/// A port of the device.
pub const PORT: u16 = 3;
/// Event queue: always a file descriptor.
pub const EVENT_QUEUE: u16 = 4;
/// Protection domain.
pub const PD: u16 = 5;
/// Memory region.
pub const MR: u16 = 6;
/// Memory window.
pub const MW: u16 = 7;
/// Completion queue.
pub const CQ: u16 = 8;
/// Completion counter.
pub const COUNTER: u16 = 9;
/// Shared receive queue.
pub const SRQ: u16 = 10;
/// Address handle.
pub const AH: u16 = 11;
/// XRC domain.
pub const XRCD: u16 = 12;
/// Flow steering rule.
pub const FLOW: u16 = 13;
/// Multicast membership.
pub const MCAST: u16 = 14;
/// Reliable connected queue pair.
pub const QP_RC: u16 = 16;
/// Unreliable connected queue pair.
pub const QP_UC: u16 = 17;
/// Unreliable datagram queue pair.
pub const QP_UD: u16 = 18;
/// XRC initiator.
pub const QP_XRC_INI: u16 = 19;
/// XRC target.
pub const QP_XRC_TGT: u16 = 20;
/// Raw Ethernet queue pair.
pub const QP_RAW: u16 = 21;
/// Communication identifier.
pub const CM_ID: u16 = 24;
/// Management datagrams.
pub const MAD: u16 = 25;
/// The devices of this host.
pub const DEVICE_LIST: u16 = 26;
/// Observer of the device's calls.
pub const TRACE: u16 = 28;

/// Counters of queue pairs.
pub const COUNTER_SET: u16 = 29;

/// Attribute numbers from here on mean the same in every class.
pub const COMMON_ATTRS: u16 = 48;

/// The event queue that the object reports to, by the queue's id in the context.
pub const EVENT_QUEUE_OF: Attr<ObjectId> = Attr::object(COMMON_ATTRS, "event_queue", &[EVENT_QUEUE]);
/// What the program wants to find in the object's events.
pub const COOKIE: Attr<u64> = Attr::new(COMMON_ATTRS + 1, "cookie");

/// DESTROY answers: completion events of the object that the program has been given. A library that hands events to other
/// threads waits until it has seen so many come back.
pub const COMPLETION_EVENTS: Attr<u32> = Attr::new(COMMON_ATTRS + 2, "completion_events");
/// DESTROY answers: the same of its asynchronous events.
pub const ASYNC_EVENTS: Attr<u32> = Attr::new(COMMON_ATTRS + 3, "async_events");

/// Every common class that has a schema.
pub static ALL: &[&ClassSchema] = &[
    &interface::SCHEMA,
    &device::SCHEMA,
    &port::SCHEMA,
    &event_queue::SCHEMA,
    &trace::SCHEMA,
    &pd::SCHEMA,
    &mr::SCHEMA,
    &mw::SCHEMA,
    &cq::SCHEMA,
    &counter::SCHEMA,
    &srq::SCHEMA,
    &xrcd::SCHEMA,
    &qp::RC,
    &qp::UC,
    &qp::UD,
    &qp::RAW,
    &qp::XRC_INI,
    &qp::XRC_TGT,
    &ah::SCHEMA,
    &mcast::SCHEMA,
    &flow::SCHEMA,
    &counter_set::SCHEMA,
    &device_list::SCHEMA,
    &cm_id::SCHEMA,
    &mad::SCHEMA,
];
