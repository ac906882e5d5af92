// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that the device works in: mappings of it, buffers for applications, and how both are accessed soundly.

mod buffer;
mod mapping;

pub use buffer::Buffer;
pub(crate) use mapping::{memory_file, Mapping, View};
