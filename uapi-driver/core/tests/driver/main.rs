// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The driver against a device in the same process: one that does what the test says, and the engine.

mod bench;

mod admin_queue;
mod bring_up;
mod chains;
mod changes;
mod classes;
mod datagrams;
mod engine;
mod ethernet;
mod events;
mod fidelity;
mod mapping;
mod node;
mod node_cm;
mod reference;
mod ring_memory;
mod xrc;
