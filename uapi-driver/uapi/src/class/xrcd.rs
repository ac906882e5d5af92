// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! XRCD: XRC domain. The shared receive queues and the XRC targets that are to meet are of one domain.
//!
//! A domain can be shared by processes that can open the same file: each makes an object of its own for it, in its own context,
//! and the domain lives until the last of them is destroyed. The file stands for the right to share, so its permissions are
//! the domain's; what is in it does not matter.

use crate::payload;
use crate::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

/// [`FLAGS`]; they mean what O_CREAT and O_EXCL do in open(2).
pub mod flag {
    /// Make a domain if the file has none yet.
    pub const CREATE: u32 = 1;
    /// With [`CREATE`]: fail if it has one.
    pub const EXCLUSIVE: u32 = 2;
    /// All that are known.
    pub const ALL: u32 = CREATE | EXCLUSIVE;
}

/// A descriptor of the file that the domain is shared by; without one it is nobody else's. The descriptor may be closed
/// afterwards.
pub const FILE: Attr<u32> = Attr::new(1, "file");
/// [`flag`]s. Without a file a new domain is made, whatever they say.
pub const FLAGS: Attr<u32> = Attr::new(2, "flags");
/// The number that the device knows it by.
pub const XRCDN: Attr<u32> = Attr::new(3, "xrcdn");
/// What is in it, as the device counts: of all contexts that share it.
pub const MEMBERS: Attr<XrcdMembers> = Attr::new(4, "members");

payload! {
    /// Objects in an XRC domain, by kind.
    pub struct XrcdMembers (8) {
        /// Shared receive queues.
        srqs: u32,
        /// XRC targets, each counted once, however many objects stand for it.
        targets: u32,
    }
}

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::XRCD,
    name: "xrcd",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[FILE.input(), FLAGS.input(), XRCDN.output()],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[XRCDN.output(), MEMBERS.output()],
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
