// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! What PCI sees: identity, BARs, MSI-X.

/// Vendor id. Not assigned by the PCI-SIG: the value that QEMU's own example devices (`edu`, `VGA`) use, because
/// Verbena exists only in virtual machines.
pub const VENDOR_ID: u16 = 0x1234;
/// Device id.
pub const DEVICE_ID: u16 = 0x5eb0;
/// Revision of the programming interface: changes when a driver of an earlier revision would misbehave.
pub const REVISION: u8 = 1;
/// Base class, subclass and programming interface: network controller, InfiniBand (PCI Code and ID Assignment 1.14,
/// section 1.3: 02h, 07h).
pub const CLASS: [u8; 3] = [0x02, 0x07, 0x00];

/// The BAR with the register file, see [`crate::regs`]. Always trapped.
pub const BAR_REGS: usize = 0;
/// Size of [`BAR_REGS`] in bytes.
pub const BAR_REGS_SIZE: u64 = 16 << 10;
/// The BAR with the doorbell registers, one 4 KiB page for each doorbell page, see [`crate::doorbell`].
pub const BAR_DOORBELL: usize = 2;
/// Size of [`BAR_DOORBELL`] in bytes.
pub const BAR_DOORBELL_SIZE: u64 = crate::doorbell::PAGES as u64 * crate::doorbell::PAGE_SIZE;
/// The BAR with the MSI-X table and pending bits.
pub const BAR_MSIX: usize = 4;
/// Size of [`BAR_MSIX`] in bytes.
pub const BAR_MSIX_SIZE: u64 = 16 << 10;
/// Offset of the MSI-X table in [`BAR_MSIX`].
pub const MSIX_TABLE_OFFSET: u32 = 0;
/// Offset of the MSI-X pending bit array in [`BAR_MSIX`]. On a page of its own, apart from the table.
pub const MSIX_PBA_OFFSET: u32 = 0x2000;
/// MSI-X vectors. Vector 0 belongs to the admin queue; event queues choose theirs.
pub const MSIX_VECTORS: u16 = 64;

// A table of 16-byte entries must end before the pending bits begin.
const _: () = assert!(MSIX_VECTORS as u32 * 16 <= MSIX_PBA_OFFSET);
