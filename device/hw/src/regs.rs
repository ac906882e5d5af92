// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! The register file in BAR 0.
//!
//! [`ALL`] is the declaration; the constants beside it are its offsets. Registers are 4 or 8 bytes, little-endian.
//! An 8-byte register may be accessed as two 4-byte halves, low half first; it takes effect when its high half is
//! written. Any other access (other size, unaligned, unknown offset) reads as all ones and ignores writes, and counts
//! in [`ACCESS_ERRORS`].

/// What a driver may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only: a write is ignored and counted as an access error.
    Ro,
    /// Read and write: reads return what was written.
    Rw,
    /// Write only: reads as zero; the write is an action.
    Wo,
}

/// One register, or an array of equal ones.
#[derive(Clone, Copy, Debug)]
pub struct Reg {
    /// Its name in documents and dumps.
    pub name: &'static str,
    /// Offset in BAR 0 in bytes.
    pub offset: u32,
    /// Width in bytes: 4 or 8.
    pub width: u32,
    /// Number of registers in the array, `width` bytes apart (8 for 4-byte arrays that say so); 1 for a single one.
    pub count: u32,
    /// Distance of the array's elements in bytes.
    pub stride: u32,
    /// What a driver may do with it.
    pub access: Access,
    /// Value after reset. For identification registers that differ from device to device: 0, with the rule in `doc`.
    pub reset: u64,
    /// Meaning.
    pub doc: &'static str,
}

macro_rules! regs {
    ($($(#[doc = $doc:literal])* $name:ident @ $offset:literal: $width:literal $([$count:expr; $stride:expr])?, $access:ident, reset $reset:expr;)*) => {
        $($(#[doc = $doc])* pub const $name: u32 = $offset;)*
        /// Every register, in the order of offsets.
        pub const ALL: &[Reg] = &[$(Reg {
            name: stringify!($name),
            offset: $offset,
            width: $width,
            count: regs!(@count $($count)?),
            stride: regs!(@stride $width $($stride)?),
            access: Access::$access,
            reset: $reset,
            doc: concat!($($doc),*),
        },)*];
    };
    (@count) => { 1 };
    (@count $count:expr) => { $count };
    (@stride $width:literal) => { $width };
    (@stride $width:literal $stride:expr) => { $stride };
}

regs! {
    /// The four bytes `VRBN`: this is a Verbena HCA.
    MAGIC @ 0x000: 4, Ro, reset MAGIC_VALUE as u64;
    /// Version of the programming interface: major in the upper, minor in the lower 16 bits. A driver refuses another
    /// major; a higher minor only adds.
    VERSION @ 0x004: 4, Ro, reset VERSION_VALUE as u64;
    /// Capability bits, see `CAP_*`.
    CAPS @ 0x008: 8, Ro, reset 0;
    /// Node GUID of the HCA, as 8 bytes in network order read as a little-endian number.
    NODE_GUID @ 0x010: 8, Ro, reset 0;
    /// Status bits, see `STATUS_*`.
    STATUS @ 0x018: 4, Ro, reset STATUS_READY as u64;
    /// Control bits, see `CTRL_*`.
    CTRL @ 0x01c: 4, Rw, reset 0;
    /// Why STATUS has its FATAL bit: one of `HEALTH_*`.
    HEALTH @ 0x020: 4, Ro, reset 0;
    /// Register accesses since reset that had no other effect: of a wrong size, alignment, offset or direction; writes to a
    /// register while it is not writable, and of unknown bits to CTRL; writes to EQ_DB for an event queue that is not there,
    /// or with a counter that is ahead of the device's or behind the last one.
    ACCESS_ERRORS @ 0x024: 4, Ro, reset 0;
    /// Physical state of the port in bits 7:0 (`PORT_DOWN` or `PORT_ACTIVE`), its maximum MTU code in bits 15:8.
    PORT_STATE @ 0x028: 4, Ro, reset 0;
    /// Doorbell pages in bits 15:0, event queues in bits 31:16.
    RESOURCES @ 0x02c: 4, Ro, reset (crate::doorbell::PAGES | EVENT_QUEUES << 16) as u64;

    /// DMA address of the admin submission queue, 4 KiB aligned. Writable while CTRL.ENABLE is 0.
    ASQ_ADDR @ 0x040: 8, Rw, reset 0;
    /// DMA address of the admin completion queue, 4 KiB aligned. Writable while CTRL.ENABLE is 0.
    ACQ_ADDR @ 0x048: 8, Rw, reset 0;
    /// log2 of the number of entries of both admin queues, 1 to 10. Writable while CTRL.ENABLE is 0.
    AQ_LOG_SIZE @ 0x050: 4, Rw, reset 0;
    /// Doorbell of the admin submission queue: the free-running producer counter, modulo 2^32.
    ASQ_TAIL @ 0x054: 4, Rw, reset 0;
    /// The driver's consumer counter of the admin completion queue: the device never overwrites entries that have not
    /// been consumed.
    ACQ_HEAD @ 0x058: 4, Rw, reset 0;

    /// Memory probe: writing an 8-byte aligned DMA address makes the device read the 8 bytes there into PROBE_VALUE and
    /// write their complement to the following 8 bytes. A driver that does not find its nonce in PROBE_VALUE has guest
    /// memory that is not shared with the device process.
    PROBE_ADDR @ 0x060: 8, Rw, reset 0;
    /// What the last probe read.
    PROBE_VALUE @ 0x068: 8, Ro, reset 0;
    /// Result of the last probe: one of `PROBE_*`.
    PROBE_STATUS @ 0x070: 4, Ro, reset 0;

    /// DMA address of the admin record ([`crate::admin::AdminRecord`]), 128-byte aligned, or 0: none. With [`CAP_ADMIN_RECORD`].
    /// Writable while CTRL.ENABLE is 0.
    AQ_RECORD @ 0x080: 8, Rw, reset 0;

    /// Event queue doorbells, element `n` for event queue `n`: bit 31 arms the queue (one interrupt at the next event,
    /// or at once if unconsumed events are there), bits 30:0 are the consumer counter modulo 2^31.
    EQ_DB @ 0x400: 4 [EVENT_QUEUES; 8], Wo, reset 0;
}

/// Value of [`MAGIC`]: `VRBN` in ASCII, first letter in the lowest byte.
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"VRBN");
/// Major version of the programming interface, the upper half of [`VERSION`].
pub const VERSION_MAJOR: u16 = 1;
/// Minor version of the programming interface, the lower half of [`VERSION`].
pub const VERSION_MINOR: u16 = 5;
/// Value of [`VERSION`].
pub const VERSION_VALUE: u32 = (VERSION_MAJOR as u32) << 16 | VERSION_MINOR as u32;

/// CAPS: the bitmap in guest memory is polled ([`crate::doorbell`]).
pub const CAP_DOORBELL_BITMAP: u64 = 1 << 0;
/// CAPS: page lists may have 2 MiB and 1 GiB pages.
pub const CAP_LARGE_PAGES: u64 = 1 << 1;

/// CAPS: the admin queue may have a record ([`AQ_RECORD`]).
pub const CAP_ADMIN_RECORD: u64 = 1 << 2;

/// CAPS: commands may be linked ([`crate::admin::LINKS`]), and CREATE_QP takes attributes.
pub const CAP_ADMIN_LINK: u64 = 1 << 3;
/// CAPS: completion counters ([`crate::cmd::CQ_COUNTER`]).
pub const CAP_COMPLETION_COUNTER: u64 = 1 << 4;
/// CAPS: rings that are one stretch need not begin on a page ([`crate::ring::PageList::addr`]).
pub const CAP_PACKED_RINGS: u64 = 1 << 5;

/// STATUS: reset is complete and the registers may be programmed.
pub const STATUS_READY: u32 = 1 << 0;
/// STATUS: CTRL.ENABLE was accepted and the admin queue runs.
pub const STATUS_ENABLED: u32 = 1 << 1;
/// STATUS: the device stopped; [`HEALTH`] says why. Only a reset leaves this state. Vector 0 is signalled once.
pub const STATUS_FATAL: u32 = 1 << 2;

/// CTRL: starts the admin queue (0 to 1: both rings begin at counter 0, ASQ_TAIL and ACQ_HEAD become 0) or stops it (1
/// to 0: objects stay, commands in execution end without effect or completion).
pub const CTRL_ENABLE: u32 = 1 << 0;
/// CTRL: destroys every object and returns every register to its reset value. Reads as 0: when the write has
/// returned, the reset is complete.
pub const CTRL_RESET: u32 = 1 << 1;

/// HEALTH: nothing is wrong.
pub const HEALTH_OK: u32 = 0;
/// HEALTH: the admin submission queue could not be read.
pub const HEALTH_ASQ_UNREACHABLE: u32 = 1;
/// HEALTH: the admin completion queue could not be written.
pub const HEALTH_ACQ_UNREACHABLE: u32 = 2;
/// HEALTH: CTRL.ENABLE with a queue size or an address that is not allowed.
pub const HEALTH_AQ_CONFIG: u32 = 3;
/// HEALTH: ASQ_TAIL is further ahead than the queue has entries.
pub const HEALTH_ASQ_TAIL: u32 = 4;
/// HEALTH: an event queue's ring could not be written.
pub const HEALTH_EQ_UNREACHABLE: u32 = 5;

/// PROBE_STATUS: no probe since reset.
pub const PROBE_IDLE: u32 = 0;
/// PROBE_STATUS: read and written.
pub const PROBE_DONE: u32 = 1;
/// PROBE_STATUS: no DMA mapping covers the 16 bytes at the address, or it is unaligned.
pub const PROBE_UNREACHABLE: u32 = 2;

/// PORT_STATE: the port is down (IBA PortState 1).
pub const PORT_DOWN: u32 = 1;
/// PORT_STATE: the port is active (IBA PortState 4).
pub const PORT_ACTIVE: u32 = 4;

/// Number of event queues.
pub const EVENT_QUEUES: u32 = 64;

/// Largest log2 of the admin queues' size.
pub const AQ_MAX_LOG_SIZE: u32 = 10;

/// The offset of event queue `eqn`'s doorbell.
pub const fn eq_db(eqn: u32) -> u32 {
    EQ_DB + eqn * 8
}
/// EQ_DB: arm.
pub const EQ_DB_ARM: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h02_registers_are_aligned_ordered_and_inside_the_bar() {
        let mut end = 0;
        for reg in ALL {
            assert!(reg.width == 4 || reg.width == 8, "{}", reg.name);
            assert_eq!(reg.offset % reg.width, 0, "{} is unaligned", reg.name);
            assert!(reg.stride >= reg.width, "{} overlaps itself", reg.name);
            assert!(reg.offset >= end, "{} overlaps its predecessor", reg.name);
            assert!(!reg.doc.is_empty(), "{} has no meaning", reg.name);
            end = reg.offset + (reg.count - 1) * reg.stride + reg.width;
        }
        assert!(u64::from(end) <= crate::pci::BAR_REGS_SIZE);
    }
}
