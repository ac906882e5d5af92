// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! INTERFACE: what this interface offers, and what the context wants of it.

use crate::listing::Record;
use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

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
            attrs: &[LISTING.output().by_pointer(), VERSION.output(), FEATURES.output()],
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
