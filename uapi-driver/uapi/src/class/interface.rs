// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! INTERFACE: what this interface offers, and what the context wants of it.

use crate::listing::Record;
use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::{method, ObjectId};

payload! {
    /// A command of a chain.
    pub struct Command (16) {
        /// Where its message is in the calling process.
        message: u64,
        /// The method to call with it.
        method: u16,
        /// Zero.
        reserved: u16,
        /// Zero.
        reserved2: u32,
    }

    /// An object of the context.
    pub struct ObjectInfo (24) {
        /// Its id.
        object: ObjectId,
        /// Its class.
        class: u16,
        /// Zero.
        reserved: u16,
        /// Objects that depend on it.
        dependents: u32,
        /// Bytes of the kernel's memory that it takes, the book-keeping of object model and driver included, but not
        /// `shared`.
        bytes: u32,
        /// Bytes of the memory that it shares with the process (rings, doorbell pages), that memory's book-keeping included.
        shared: u64,
    }
}

/// Every class, method, attribute and structure, as [`Record`]s.
pub const LISTING: Attr<[Record]> = Attr::array(1, "listing");
/// The interface's version: it changes only when a program written before would break.
pub const VERSION: Attr<u32> = Attr::new(2, "version");
/// [`feature`]s that the context asks for; only as the first call on the file descriptor.
pub const FEATURES: Attr<u64> = Attr::new(3, "features");

/// The commands of a chain.
pub const COMMANDS: Attr<[Command]> = Attr::array(4, "commands");
/// What each command returned: 0 or an errno; ECANCELED for one that was not executed.
pub const RESULTS: Attr<[u32]> = Attr::array(5, "results");
/// What happens after a command has failed: [`mode`].
pub const MODE: Attr<u32> = Attr::new(6, "mode");
/// Commands executed, the failed ones included.
pub const EXECUTED: Attr<u32> = Attr::new(7, "executed");

/// The context's objects.
pub const OBJECTS: Attr<[ObjectInfo]> = Attr::array(8, "objects");
/// Bytes of the kernel's memory that the context takes, its objects included, but not what they share with the process.
pub const CONTEXT_BYTES: Attr<u64> = Attr::new(9, "context_bytes");
/// Objects that the context may have.
pub const MAX_OBJECTS: Attr<u32> = Attr::new(10, "max_objects");

/// Commands that a chain may have.
pub const MAX_COMMANDS: usize = 4096;

/// [`MODE`].
pub mod mode {
    /// The rest is not executed.
    pub const STOP: u32 = 0;
    /// The rest is executed.
    pub const CONTINUE: u32 = 1;
    /// The rest is not executed, and what was executed is undone; the call fails.
    pub const ALL_OR_NOTHING: u32 = 2;
}

/// The version of the interface.
pub const CURRENT_VERSION: u32 = 1;

/// [`FEATURES`].
pub mod feature {
    /// Experimental methods may be called.
    pub const EXPERIMENTAL: u64 = 1;
    /// All that are known.
    pub const ALL: u64 = EXPERIMENTAL;
}

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::INTERFACE,
    name: "interface",
    flags: class_flags::GLOBAL,
    methods: &[
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Only,
            access: Access::Any,
            attrs: &[
                LISTING.output().by_pointer(),
                VERSION.output(),
                FEATURES.output(),
                OBJECTS.output().by_pointer(),
                CONTEXT_BYTES.output(),
                MAX_OBJECTS.output(),
            ],
        },
        MethodSchema {
            number: method::MODIFY,
            name: "modify",
            target: Target::Only,
            access: Access::Any,
            attrs: &[FEATURES.required()],
        },
        MethodSchema {
            number: method::EXECUTE,
            name: "execute",
            target: Target::Only,
            access: Access::Any,
            attrs: &[
                COMMANDS.required().by_pointer(),
                RESULTS.output().by_pointer(),
                MODE.input(),
                EXECUTED.output(),
            ],
        },
    ],
};
