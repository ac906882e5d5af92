// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server of the Verbena HCA: the only part of the device that does I/O.
//!
//! It presents any number of HCAs, one vfio-user socket each, to VMMs or to programs that attach without a VM. All of
//! them live in one engine and are joined by its fabric.
//!
//! | module | what it does |
//! |---|---|
//! | [`server`] | the main loop: sockets, clients coming and going, the control socket |
//! | [`protocol`] | vfio-user: bytes, messages, replies; knows no device |
//! | [`device`] | one HCA behind `vfio_user::ServerBackend` |
//! | [`pci`] | configuration space and MSI-X |
//! | [`memory`] | guest memory: files, mappings, and what happens when they vanish |
//! | [`shared`] | what main loop and worker have in common: the engine, its lock, its clock |
//! | [`worker`] | the thread that polls, spins and sleeps |
//! | [`listen`] | sockets with a name |
//! | [`control`] | what an operator asks |
//! | [`top`] | what the HCAs are doing, second by second, seen from outside |
//! | [`cli`] | the command lines |
#![deny(unsafe_code)]

pub mod cli;
pub mod control;
pub mod device;
pub mod listen;
pub mod memory;
pub mod pci;
pub mod protocol;
pub mod server;
pub mod shared;
pub mod top;
pub mod worker;

pub use server::{Config, Server, ServerError, Stopper};
