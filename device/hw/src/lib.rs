// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Every format that crosses the boundary between the Verbena HCA and its drivers, declared once.
//!
//! The device (`verbena-engine`, `verbena-hca`), the kernel module and the userspace driver all compile this source;
//! there is no other definition of a register, a command, a queue entry or a status code anywhere in the project.
//! The crate is `no_std`, allocates nothing, and contains no behaviour beyond what a format implies (which phase a
//! ring index has, which entry of a page list holds an offset).
//!
//! Byte order is little-endian, as on every guest that QEMU's `vfio-user-pci` serves here; the only exceptions are
//! GIDs, MAC addresses and immediate data, which are bytes in network order exactly as the verbs API shows them, and
//! packets.
//!
//! | module | what it declares |
//! |---|---|
//! | [`pci`] | identity, BARs, MSI-X |
//! | [`regs`] | the register file in BAR 0 |
//! | [`doorbell`] | the doorbell BAR, and the doorbell page in guest memory |
//! | [`admin`] | the admin queue's entries, opcodes and statuses |
//! | [`cmd`] | one request and one response type for each admin command |
//! | [`qp`] | queue pair types, states, attributes, paths |
//! | [`wqe`] | work queue entries |
//! | [`cqe`] | completion queue entries, and the record by which a CQ is armed |
//! | [`srq`] | shared receive queues |
//! | [`mw`] | memory windows |
//! | [`flow`] | raw Ethernet frames, and the rules that steer them |
//! | [`eqe`] | event queue entries |
//! | [`grh`] | what stands before a received datagram |
//! | [`ring`] | ring indices, phases, and how rings and memory regions name their pages |
//! | [`wire`] | packets: the transport's headers |
//! | [`id`] | numbers as types: [`id::Qpn`], [`id::Psn`], [`id::Key`] |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!(
    "Verbena's formats are little-endian and are used in place: a big-endian host needs explicit conversions"
);

pub mod admin;
pub mod cmd;
pub mod cqe;
pub mod doorbell;
pub mod eqe;
pub mod flow;
pub mod grh;
pub mod id;
mod layout;
pub mod mw;
pub mod pci;
pub mod qp;
pub mod regs;
pub mod ring;
pub mod srq;
pub mod wire;
pub mod wqe;
