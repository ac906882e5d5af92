// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PCI function around the engine: its configuration space ([`config`]) and its interrupts ([`msix`]).

pub mod config;
pub mod msix;
