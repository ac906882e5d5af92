// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls of the object model as text: what `verbena-trace` shows.
//!
//! Everything that is decoded is decoded with the listing that the device itself gives (INTERFACE QUERY), so a driver's
//! own classes and attributes have their names too.

mod decode;
mod names;
mod summary;

pub use decode::{Call, Value};
pub use names::Names;
pub use summary::Summary;
