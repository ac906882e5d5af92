// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The ioctl object model: one call shape, classes of objects, methods on them, attributes.
//!
//! `ioctl(fd, METHOD, &msg)`: the ioctl number is the method, the message names class and object and carries
//! attributes. A driver brings a table of what it implements; this crate merges it with the common table, checks
//! every message against the schema, finds the object, calls the handler, and keeps everything an object needs
//! that has nothing to do with hardware: ids, references, locking against destroy, teardown in dependency order,
//! hot removal, event queues, discovery.
//!
//! This room knows no hardware and no particular driver. It is compiled twice from the same source: natively, and
//! (`--cfg in_kernel`) into a Linux kernel module, where there is neither `std` nor `alloc`; [`sys`] is the seam
//! for memory and locks, [`host::Host`] the one for everything else.
//!
//! | module | idea |
//! |---|---|
//! | [`wire`] | the bytes: header, attribute head, method blocks, class ids, the ioctl number |
//! | [`schema`] | how a class, method, attribute, structure is described, once |
//! | [`class`] | the common classes: ids, payloads, schemas |
//! | [`parse`] | a message's attributes checked once into a small index |
//! | [`failure`] | errno plus what exactly was wrong |
//! | [`table`] | common and driver tables merged into one dense dispatch table |
//! | [`call`], [`answer`], [`reservation`] | what a handler is given, how it answers, what it takes for a new object |
//! | [`object`], [`store`] | objects, their states and references; the per-context store |
//! | [`device`], [`context`] | a device, an open file on it; the entry points |
//! | [`event`] | event queues |
//! | [`trace`] | observers of calls |
//! | [`driver`], [`host`] | the two traits: who implements classes, and where it all runs |
//! | [`client`] | the other side: build messages, read replies |
//! | [`describe`] | the tables as text: failures as sentences, the golden file |
//! | [`listing`] | what INTERFACE QUERY answers, and how to read it |

#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(in_kernel))]
extern crate std;

pub mod answer;
pub mod call;
mod chain;
pub mod class;
pub mod client;
pub mod common;
pub mod context;
pub mod describe;
pub mod device;
pub mod driver;
pub mod errno;
pub mod event;
pub mod failure;
mod gate;
pub mod host;
pub mod listing;
pub mod object;
pub mod parse;
pub mod pipeline;
pub mod reservation;
pub mod schema;
pub mod store;
pub mod sys;
pub mod table;
pub mod trace;
pub mod wire;

pub use call::Call;
pub use context::Context;
pub use device::Device;
pub use driver::{Cause, Driver, Ending, Memory};
pub use errno::Errno;
pub use failure::{Failure, Reason};
pub use host::Host;
pub use object::{Dependence, Object, ObjectRef};
pub use pipeline::Offer;
pub use reservation::Reservation;
