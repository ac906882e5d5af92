// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest memory: which files a client has given, where they are mapped in this process, and which DMA address leads
//! where.
//!
//! A memory file is mapped once, in full, however many DMA mappings name parts of it ([`mod@file`]): QEMU sends one message
//! a mapping, and under a vIOMMU one for each 4 KiB. An [`AddressSpace`] is an immutable table of mappings; a change
//! makes a new one, which the server puts in the place of the old one while no worker is inside the engine. So a
//! lookup takes no lock, and a mapping that has been removed is in use by nobody when the client gets its answer.
//!
//! Memory that is shared with another process can vanish: its owner truncates the file, and the next access raises
//! SIGBUS. [`fault`] turns that into zeros and the end of that client's connection.

#[expect(unsafe_code, reason = "madvise takes an address")]
mod advice;
#[expect(unsafe_code, reason = "a signal handler, and the mmap in it")]
pub mod fault;
pub mod file;
mod space;

pub use space::{AddressSpace, Backing, MapError, Mapping};
