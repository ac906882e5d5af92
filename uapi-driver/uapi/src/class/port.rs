// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! PORT: a port of the device. The object id is the port's number, from 1.

use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

payload! {
    /// What a port is and does now.
    pub struct PortAttrs (48) {
        /// [`state`].
        state: u32,
        /// Greatest path MTU, bytes.
        max_mtu: u32,
        /// Path MTU in use, bytes.
        active_mtu: u32,
        /// [`link_layer`].
        link_layer: u32,
        /// Entries of the GID table.
        gid_entries: u32,
        /// Entries of the P_Key table.
        pkey_entries: u32,
        /// Longest message, bytes.
        max_message: u32,
        /// Megabits a second.
        speed: u32,
        /// Capability mask, as in libibverbs.
        capabilities: u32,
        /// Bad P_Key packets.
        bad_pkeys: u32,
        /// Q_Key violations.
        qkey_violations: u32,
        /// Zero.
        reserved: u32,
    }

    /// An entry of the GID table.
    pub struct GidEntry (24) {
        /// The GID.
        gid: [u8; 16],
        /// Its place in the table.
        index: u16,
        /// [`gid_type`].
        gid_type: u16,
        /// Zero.
        reserved: u32,
    }

    /// A counter.
    pub struct Counter (40) {
        /// Its name, padded with zeros.
        name: [u8; 32],
        /// Its value.
        value: u64,
    }
}

/// [`PortAttrs::state`]; numbers as in libibverbs.
pub mod state {
    /// Down.
    pub const DOWN: u32 = 1;
    /// Initializing.
    pub const INIT: u32 = 2;
    /// Armed.
    pub const ARMED: u32 = 3;
    /// Active.
    pub const ACTIVE: u32 = 4;
}

/// [`PortAttrs::link_layer`]; numbers as in libibverbs.
pub mod link_layer {
    /// InfiniBand.
    pub const INFINIBAND: u32 = 1;
    /// Ethernet.
    pub const ETHERNET: u32 = 2;
}

/// [`GidEntry::gid_type`]; numbers as in libibverbs.
pub mod gid_type {
    /// InfiniBand.
    pub const IB: u16 = 0;
    /// RoCE version 1.
    pub const ROCE_V1: u16 = 1;
    /// RoCE version 2.
    pub const ROCE_V2: u16 = 2;
}

/// All about the port but its tables.
pub const ATTRS: Attr<PortAttrs> = Attr::new(1, "attrs");
/// The valid entries of the GID table.
pub const GIDS: Attr<[GidEntry]> = Attr::array(2, "gids");
/// The P_Key table.
pub const PKEYS: Attr<[u16]> = Attr::array(3, "pkeys");
/// The counters.
pub const COUNTERS: Attr<[Counter]> = Attr::array(4, "counters");
/// Switches the port: [`state::DOWN`] or [`state::ACTIVE`], for everybody who uses the device, until it is switched again or the
/// device is reset. A port that is switched on is active when its link is there too.
pub const STATE: Attr<u32> = Attr::new(5, "state");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::PORT,
    name: "port",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Numbered,
            access: Access::Any,
            attrs: &[
                ATTRS.output(),
                GIDS.output().by_pointer(),
                PKEYS.output().by_pointer(),
                COUNTERS.output().by_pointer(),
            ],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Numbered,
            access: Access::NetAdmin,
            attrs: &[STATE.required()],
        },
    ],
};
