// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's completion ring, compiled from the driver's own source: it is no part of its interface.

#[path = "../../src/ring/complete.rs"]
pub(crate) mod complete;
#[path = "../../src/ring/memory.rs"]
pub(crate) mod memory;
#[path = "../../src/ring/table.rs"]
pub(crate) mod table;
