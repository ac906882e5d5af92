// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! DEVICE_LIST: the devices of this host. Only the system-wide node has it.
//!
//! An event queue of the node can be associated with it (object 0) and is told when a device comes, goes, or stops
//! answering; the event's data is the device's [`DeviceEntry::arrival`]. Who associates first and lists afterwards
//! misses nothing.

use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

payload! {
    /// A device.
    pub struct DeviceEntry (200) {
        /// The number of its arrival, from 1; never used again while the node exists. Entries are in this order.
        arrival: u64,
        /// The node's GUID.
        node_guid: u64,
        /// The number in its name; a later device may have it again.
        index: u32,
        /// The driver's id: the tag of its classes and attributes.
        driver_id: u32,
        /// Ports.
        ports: u32,
        /// [`state`].
        state: u32,
        /// Ports that are active: bit n is port n + 1.
        active_ports: u64,
        /// The driver's name, padded with zeros.
        driver_name: [u8; 16],
        /// The device's name on this host, padded with zeros.
        name: [u8; 32],
        /// What to open to use it: the path of its node, padded with zeros.
        path: [u8; 112],
    }
}

/// [`DeviceEntry::state`].
pub mod state {
    /// It works.
    pub const WORKS: u32 = 1;
    /// It does not answer any more; it is listed until it is taken away.
    pub const GONE: u32 = 2;
}

/// The devices.
pub const DEVICES: Attr<[DeviceEntry]> = Attr::array(1, "devices");
/// How often the list has changed.
pub const CHANGES: Attr<u64> = Attr::new(2, "changes");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::DEVICE_LIST,
    name: "device_list",
    flags: class_flags::GLOBAL | class_flags::EVENTS,
    methods: &[MethodSchema {
        number: method::QUERY,
        name: "query",
        target: Target::Only,
        access: Access::Any,
        attrs: &[DEVICES.output().by_pointer(), CHANGES.output()],
    }],
};
