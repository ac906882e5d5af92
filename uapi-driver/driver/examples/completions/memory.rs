// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's mappings, compiled from the driver's own source: they are no part of its interface.

#[path = "../../src/memory/mapping.rs"]
mod mapping;

pub(crate) use mapping::{Mapping, View};
