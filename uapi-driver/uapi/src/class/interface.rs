// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! INTERFACE: what this interface offers, and what the context wants of it.

use crate::listing::Record;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

/// Every class, method, attribute and structure, as [`Record`]s.
pub const LISTING: Attr<[Record]> = Attr::array(1, "listing");
/// The interface's version: it changes only when a program written before would break.
pub const VERSION: Attr<u32> = Attr::new(2, "version");
/// [`feature`]s that the context asks for; only as the first call on the file descriptor.
pub const FEATURES: Attr<u64> = Attr::new(3, "features");

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
    ],
};
