// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Memory windows: keys of their own for parts of memory regions.

use crate::layout::open_enum;

open_enum! {
    /// A memory window's type, with the numbers of `enum ibv_mw_type`.
    pub struct MwType(u8) {
        /// Bound by the command BIND_MW; open to every queue pair of its protection domain.
        TYPE_1 = 1,
        /// Bound by the send opcode BIND_MW, which chooses the tag of its key; open to the queue pair that bound it,
        /// until a work request of that queue pair, or of its peer, invalidates the key. Types 2A and 2B of IBA.
        TYPE_2 = 2,
    }
}
