// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client can ask about the device: its regions and its interrupt types.

use verbena_hw::{doorbell, pci};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
pub const REGIONS: usize = 9;
/// Interrupt types of a PCI device: INTx, MSI, MSI-X, error, request.
pub const IRQ_TYPES: usize = 5;
/// The region that is the configuration space.
pub const REGION_CONFIG: u32 = VFIO_PCI_CONFIG_REGION_INDEX;
/// The interrupt type MSI-X.
pub const IRQ_MSIX: u32 = VFIO_PCI_MSIX_IRQ_INDEX;
/// The interrupt type by which a device reports an unrecoverable bus error.
pub const IRQ_ERROR: u32 = VFIO_PCI_ERR_IRQ_INDEX;
/// Size of the configuration space of a PCI Express function.
pub const CONFIG_SIZE: u64 = 4096;

/// One region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// Length in bytes; 0: not there.
    pub size: u64,
}

/// One interrupt type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Irq {
    /// `VFIO_IRQ_INFO_*`.
    pub flags: u32,
    /// Number of vectors; 0: not there.
    pub count: u32,
}

/// Registers writes of one value to which may come as events of one eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRegisters {
    /// The region that they are in.
    pub region: u32,
    /// Where the first one is.
    pub offset: u64,
    /// How far they are apart.
    pub stride: u64,
    /// How many there are.
    pub count: u32,
    /// The width of a write, and its value.
    pub size: u64,
    /// See there.
    pub value: u64,
}

/// The device as clients see it before they touch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// By region index.
    pub regions: [Region; REGIONS],
    /// By interrupt type.
    pub irqs: [Irq; IRQ_TYPES],
    /// What needs no message.
    pub events: EventRegisters,
}

impl Shape {
    /// The Verbena HCA: BARs 0, 2 and 4 (64 bits wide each, so that 1, 3 and 5 are their upper halves), the
    /// configuration space, no ROM. MSI-X lacks `VFIO_IRQ_INFO_NORESIZE`, so that QEMU sends an update for the one
    /// vector that changes. The error interrupt exists because QEMU warns of a device that has none; there is no bus
    /// whose errors it could report.
    pub const fn hca() -> Self {
        let mut regions = [Region { flags: 0, size: 0 }; REGIONS];
        let rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        regions[pci::BAR_REGS] = Region {
            flags: rw,
            size: pci::BAR_REGS_SIZE,
        };
        regions[pci::BAR_DOORBELL] = Region {
            flags: rw,
            size: pci::BAR_DOORBELL_SIZE,
        };
        regions[pci::BAR_MSIX] = Region {
            flags: rw,
            size: pci::BAR_MSIX_SIZE,
        };
        regions[REGION_CONFIG as usize] = Region {
            flags: rw,
            size: CONFIG_SIZE,
        };
        let mut irqs = [Irq { flags: 0, count: 0 }; IRQ_TYPES];
        irqs[IRQ_MSIX as usize] = Irq {
            flags: VFIO_IRQ_INFO_EVENTFD,
            count: pci::MSIX_VECTORS as u32,
        };
        irqs[IRQ_ERROR as usize] = Irq {
            flags: VFIO_IRQ_INFO_EVENTFD,
            count: 1,
        };
        // Of all values, the one that needs no page: the bits in guest memory say what has rung.
        let events = EventRegisters {
            region: pci::BAR_DOORBELL as u32,
            offset: doorbell::REG_RING,
            stride: doorbell::PAGE_SIZE,
            count: doorbell::PAGES,
            size: 4,
            value: doorbell::RING_WAKE as u64,
        };
        Self { regions, irqs, events }
    }
}
