// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Verbena's driver, once: where the ioctl object model (`rdma-uapi`) meets the hardware (`verbena-hw`).
//!
//! Written against [`Platform`], compiled unchanged into the kernel module and, for the direct attachment and the
//! tests, natively. It owns the control path: it brings the device up ([`Hardware::start`]), sends it commands, turns
//! its event queues into events of objects, and implements the classes ([`Verbena`]). The data path goes past it:
//! [`mmap`] says what a process may map, and from then on rings and doorbells are between process and device.
//!
//! This room may know both formats. It does no I/O but through [`Platform`], allocates only through `rdma_uapi::sys`,
//! and has no `unsafe`.
//!
//! | module | idea |
//! |---|---|
//! | [`platform`] | what it needs from where it runs |
//! | [`schema`] | Verbena's own classes and attributes |
//! | `admin` | the admin queue's client |
//! | `hardware` | bring-up, event queues' memory, shutdown, death |
//! | `events` | event queue entries to objects; interrupts |
//! | `numbers` | from a device number to its object |
//! | `pages` | page lists of pinned memory |
//! | `ring` | memory shared with a process and where in the mapping space it is |
//! | `ring_memory` | pages that the rings of many queues share, and where a queue lies in them |
//! | [`layout`] | how much memory a queue takes |
//! | `gsi` | QP 1: management datagrams |
//! | `work` | what is done when they arrive, and at deadlines |
//! | `cm`, `cm_qp` | the communication manager on QP 1, and the queue pairs that it moves |
//! | `device`, `pd`, `ah`, `mcast`, `flow`, `counter_set`, `counter`, `mr`, `mw`, `cq`, `srq`, `qp`, `cm_id`, `mad`, `doorbell` | the classes |
//! | `driver` | the table of them all |
//! | [`node`] | the system-wide node: the list of devices |
//! | `node_cm`, [`foreign`] | its communication ids, on Verbena's devices and on others |

#![no_std]
#![forbid(unsafe_code)]

#[cfg(all(test, not(in_kernel)))]
extern crate std;

mod admin;
mod ah;
mod begun;
mod cm;
mod cm_id;
mod cm_qp;
mod counter;
mod counter_set;
mod cq;
mod device;
mod doorbell;
mod driver;
mod events;
mod flow;
pub mod foreign;
mod gsi;
mod hardware;
pub mod layout;
mod mad;
mod mcast;
mod mr;
mod mw;
pub mod node;
mod node_cm;
mod numbers;
mod pages;
mod pd;
pub mod platform;
mod qp;
mod qp_attrs;
mod ring;
mod ring_memory;
pub mod schema;
mod srq;
mod work;
mod xrc_target;
mod xrcd;

pub use admin::CommandError;
pub use driver::Verbena;
pub use events::{interrupt, remove};
pub use hardware::{Hardware, StartError};
pub use platform::Platform;
pub use ring::{mmap, MmapTarget, RegisterMapping};
pub use work::work;

/// An open file on a Verbena device.
pub type Context<P> = rdma_uapi::Context<Verbena<P>>;
/// A Verbena device.
pub type Device<P> = rdma_uapi::Device<Verbena<P>>;
