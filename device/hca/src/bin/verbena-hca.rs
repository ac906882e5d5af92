// SPDX-License-Identifier: MIT OR Apache-2.0
//! (being written)
fn main() {}
