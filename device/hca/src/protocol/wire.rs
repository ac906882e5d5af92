// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages of vfio-user 0.1 as they stand on the socket.
//!
//! Field names and numbers are those of the vfio-user protocol specification; flags that it shares with the kernel's
//! VFIO (`VFIO_IRQ_SET_*`, `VFIO_DMA_UNMAP_*`, ...) come from `vfio-bindings`. Integers are in host byte order: client
//! and server are on one machine.

use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Major version of the protocol.
pub const VERSION_MAJOR: u16 = 0;
/// Highest minor version that the server speaks. A client that proposes less gets what it proposed: QEMU proposes 0
/// and refuses anything above.
pub const VERSION_MINOR: u16 = 1;

/// Most data bytes of one message, announced as `max_data_xfer_size`. Registers are at most 8 bytes wide and the
/// largest thing read at once is the configuration space, so this bounds memory and nothing else.
pub const MAX_DATA: u32 = 64 << 10;
/// Most descriptors of one message, announced as `max_msg_fds`. QEMU refuses a server that announces more than 16.
pub const MAX_FDS: u32 = 16;
/// Descriptors that a single message can carry at all (the kernel's `SCM_MAX_FD`): a buffer for this many is never
/// truncated, so that none can leak.
pub const SCM_MAX_FDS: usize = 253;
/// Largest message accepted: the longest fixed part and the data.
pub const MAX_MESSAGE: u32 = 64 + MAX_DATA;
/// Most DMA mappings of one device, announced as `max_dma_maps` (the kernel's own default for VFIO).
pub const MAX_DMA_MAPS: usize = 65535;

/// The header of every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of a command, returned in the reply.
    pub message_id: u16,
    /// A [`Command`].
    pub command: u16,
    /// Length of the message with this header.
    pub message_size: u32,
    /// `flags` bits of [`Header`].
    pub flags: u32,
    /// An errno, if [`Header::ERROR`] is set.
    pub error: u32,
}

impl Header {
    /// Its length.
    pub const SIZE: usize = 16;
    /// Mask of the message type.
    pub const TYPE: u32 = 0xf;
    /// Type: a command.
    pub const COMMAND: u32 = 0;
    /// Type: a reply.
    pub const REPLY: u32 = 1;
    /// The sender wants no reply.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The command failed.
    pub const ERROR: u32 = 1 << 5;
}

/// A command number. Open: the client writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub u16);

impl Command {
    /// Negotiates version and capabilities.
    pub const VERSION: Self = Self(1);
    /// Maps memory for the device.
    pub const DMA_MAP: Self = Self(2);
    /// Unmaps it.
    pub const DMA_UNMAP: Self = Self(3);
    /// Numbers of regions and interrupt types.
    pub const DEVICE_GET_INFO: Self = Self(4);
    /// One region.
    pub const DEVICE_GET_REGION_INFO: Self = Self(5);
    /// Descriptors for ioeventfds.
    pub const DEVICE_GET_REGION_IO_FDS: Self = Self(6);
    /// One interrupt type.
    pub const DEVICE_GET_IRQ_INFO: Self = Self(7);
    /// Binds, masks, triggers interrupts.
    pub const DEVICE_SET_IRQS: Self = Self(8);
    /// Reads from a region.
    pub const REGION_READ: Self = Self(9);
    /// Writes to a region.
    pub const REGION_WRITE: Self = Self(10);
    /// Resets the device.
    pub const DEVICE_RESET: Self = Self(13);

    /// Its name in log lines.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "VERSION",
            2 => "DMA_MAP",
            3 => "DMA_UNMAP",
            4 => "DEVICE_GET_INFO",
            5 => "DEVICE_GET_REGION_INFO",
            6 => "DEVICE_GET_REGION_IO_FDS",
            7 => "DEVICE_GET_IRQ_INFO",
            8 => "DEVICE_SET_IRQS",
            9 => "REGION_READ",
            10 => "REGION_WRITE",
            11 => "DMA_READ",
            12 => "DMA_WRITE",
            13 => "DEVICE_RESET",
            14 => "DIRTY_PAGES",
            _ => "unknown command",
        }
    }
}

macro_rules! body {
    ($(#[$m:meta])* pub struct $name:ident: $size:literal { $($(#[$fm:meta])* pub $field:ident: $t:ty,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fm])* pub $field: $t,)* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
    };
}

body! {
    /// VERSION, both ways; followed by zero-terminated JSON.
    pub struct Version: 4 {
        /// Major version.
        pub major: u16,
        /// Minor version.
        pub minor: u16,
    }
}

body! {
    /// DMA_MAP.
    pub struct DmaMap: 32 {
        /// Size of this structure as the client knows it.
        pub argsz: u32,
        /// `VFIO_DMA_MAP_FLAG_*`.
        pub flags: u32,
        /// Offset in the file that came with the message.
        pub offset: u64,
        /// DMA address.
        pub address: u64,
        /// Length in bytes.
        pub size: u64,
    }
}

body! {
    /// DMA_UNMAP, and its reply.
    pub struct DmaUnmap: 24 {
        /// Size of this structure as the client knows it.
        pub argsz: u32,
        /// `VFIO_DMA_UNMAP_FLAG_*`.
        pub flags: u32,
        /// DMA address.
        pub address: u64,
        /// Length in bytes.
        pub size: u64,
    }
}

body! {
    /// DEVICE_GET_INFO, and its reply.
    pub struct DeviceInfo: 16 {
        /// Size of this structure.
        pub argsz: u32,
        /// `VFIO_DEVICE_FLAGS_*`.
        pub flags: u32,
        /// Number of regions.
        pub num_regions: u32,
        /// Number of interrupt types.
        pub num_irqs: u32,
    }
}

body! {
    /// DEVICE_GET_REGION_INFO, and its reply.
    pub struct RegionInfo: 32 {
        /// Size of this structure with its capabilities. Never below its own size: QEMU checks.
        pub argsz: u32,
        /// `VFIO_REGION_INFO_FLAG_*`.
        pub flags: u32,
        /// The region.
        pub index: u32,
        /// Offset of the first capability, or 0.
        pub cap_offset: u32,
        /// Length in bytes; 0: the region does not exist.
        pub size: u64,
        /// Offset in the file that comes with the message.
        pub offset: u64,
    }
}

body! {
    /// DEVICE_GET_IRQ_INFO, and its reply.
    pub struct IrqInfo: 16 {
        /// Size of this structure.
        pub argsz: u32,
        /// `VFIO_IRQ_INFO_*`.
        pub flags: u32,
        /// The interrupt type.
        pub index: u32,
        /// Number of its vectors.
        pub count: u32,
    }
}

body! {
    /// DEVICE_SET_IRQS; followed by one byte a vector if the flags say `VFIO_IRQ_SET_DATA_BOOL`.
    pub struct SetIrqs: 20 {
        /// Size of this structure with its data.
        pub argsz: u32,
        /// `VFIO_IRQ_SET_*`.
        pub flags: u32,
        /// The interrupt type.
        pub index: u32,
        /// First vector.
        pub start: u32,
        /// Number of vectors.
        pub count: u32,
    }
}

body! {
    /// REGION_READ and REGION_WRITE, and their replies; data follows the write and the reply to the read.
    pub struct RegionAccess: 16 {
        /// Offset in the region.
        pub offset: u64,
        /// The region.
        pub region: u32,
        /// Number of bytes.
        pub count: u32,
    }
}

/// The type of a [`SubRegion`] that says that its descriptor is an ioeventfd (`VFIO_USER_IO_FD_TYPE_IOEVENTFD`).
pub const IO_EVENT_FD: u32 = 0;
/// The flag of a [`SubRegion`] that says that its value counts (`KVM_IOEVENTFD_FLAG_DATAMATCH`).
pub const IO_DATA_MATCH: u32 = 1 << 0;

body! {
    /// DEVICE_GET_REGION_IO_FDS, and its reply; a [`SubRegion`] each follows the latter.
    pub struct RegionIoFds: 16 {
        /// Size of the reply: what the client takes, and what there is.
        pub argsz: u32,
        /// Zero.
        pub flags: u32,
        /// The region.
        pub index: u32,
        /// Number of sub-regions.
        pub count: u32,
    }
}

body! {
    /// A place in a region, writes to which may signal an eventfd instead of being sent.
    pub struct SubRegion: 40 {
        /// Offset in the region.
        pub offset: u64,
        /// Width of the writes.
        pub size: u64,
        /// The descriptor, by its number among those of the message.
        pub fd_index: u32,
        /// [`IO_EVENT_FD`].
        pub kind: u32,
        /// [`IO_DATA_MATCH`].
        pub flags: u32,
        /// Zero.
        pub padding: u32,
        /// The value that is written.
        pub datamatch: u64,
    }
}
