// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration space: a type 0 header and the capabilities power management, PCI Express and MSI-X.
//!
//! Offsets and fields are those of the PCI Express Base Specification 5.0, chapter 7; each block below names its
//! section. Every byte has a mask of the bits that software may write, so that a write of any size at any offset is
//! the same operation. The extended configuration space (from 0x100) is there and empty: its first capability header
//! is zero.

use verbena_hw::pci;

/// Size of the configuration space of a PCI Express function.
pub const SIZE: usize = 4096;

/// Command register (7.5.1.1.3).
pub const COMMAND: usize = 0x04;
/// First BAR (7.5.1.2.1).
pub const BAR0: usize = 0x10;
/// Pointer to the first capability.
const CAPABILITIES: usize = 0x34;
/// Power management capability (7.5.2).
pub const CAP_PM: usize = 0x40;
/// PCI Express capability (7.5.3).
pub const CAP_EXPRESS: usize = 0x50;
/// MSI-X capability (7.7.2).
pub const CAP_MSIX: usize = 0x90;

/// Device control register in the PCI Express capability (7.5.3.4).
const DEVICE_CONTROL: usize = CAP_EXPRESS + 0x08;
/// Its bit that starts a function-level reset; reads as zero.
const INITIATE_FLR: u16 = 1 << 15;

/// What a write to the configuration space asks for beyond a change of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A function-level reset. The configuration space has been reset already.
    FunctionLevelReset,
}

/// The configuration space of one HCA.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    /// Bits that software may change.
    writable: Box<[u8; SIZE]>,
}

impl Default for ConfigSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigSpace {
    /// The space as it is after power-on.
    pub fn new() -> Self {
        let mut space = Self {
            bytes: Box::new([0; SIZE]),
            writable: Box::new([0; SIZE]),
        };
        space.header();
        space.power_management();
        space.express();
        space.msix();
        space
    }

    /// Returns everything to its state after power-on.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Reads the bytes at `offset`. What lies beyond the end reads as ones, as an absent register does.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = offset
                .checked_add(i)
                .and_then(|at| self.bytes.get(at))
                .copied()
                .unwrap_or(0xff);
        }
    }

    /// Writes `data` at `offset`: the bits that may be written change, the others stay.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Effect {
        for (i, byte) in data.iter().enumerate() {
            let Some(at) = offset.checked_add(i).filter(|at| *at < SIZE) else {
                break;
            };
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask) | (byte & mask);
        }
        if self.u16_at(DEVICE_CONTROL) & INITIATE_FLR != 0 {
            self.reset();
            return Effect::FunctionLevelReset;
        }
        Effect::None
    }

    /// All of it, for dumps.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    /// The 16 bits at `offset`.
    pub fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    fn u8(&mut self, offset: usize, value: u8, writable: u8) {
        self.bytes[offset] = value;
        self.writable[offset] = writable;
    }

    fn u16(&mut self, offset: usize, value: u16, writable: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        self.writable[offset..offset + 2].copy_from_slice(&writable.to_le_bytes());
    }

    fn u32(&mut self, offset: usize, value: u32, writable: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[offset..offset + 4].copy_from_slice(&writable.to_le_bytes());
    }

    /// 7.5.1: the header of an endpoint.
    fn header(&mut self) {
        /// Memory space, bus master, parity error response, SERR, INTx disable. No I/O space: there is no I/O BAR.
        const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
        const STATUS_CAPABILITIES: u16 = 1 << 4;
        self.u16(0x00, pci::VENDOR_ID, 0);
        self.u16(0x02, pci::DEVICE_ID, 0);
        self.u16(COMMAND, 0, COMMAND_WRITABLE);
        self.u16(0x06, STATUS_CAPABILITIES, 0);
        self.u8(0x08, pci::REVISION, 0);
        let [base, sub, interface] = pci::CLASS;
        self.u8(0x09, interface, 0);
        self.u8(0x0a, sub, 0);
        self.u8(0x0b, base, 0);
        // Cache line size: kept for software's sake, without effect on PCI Express (7.5.1.1.7).
        self.u8(0x0c, 0, 0xff);
        self.bar(pci::BAR_REGS, pci::BAR_REGS_SIZE);
        self.bar(pci::BAR_DOORBELL, pci::BAR_DOORBELL_SIZE);
        self.bar(pci::BAR_MSIX, pci::BAR_MSIX_SIZE);
        // Subsystem: the board is the device.
        self.u16(0x2c, pci::VENDOR_ID, 0);
        self.u16(0x2e, pci::DEVICE_ID, 0);
        self.u8(CAPABILITIES, CAP_PM as u8, 0);
        // Interrupt line: software's scratch. Interrupt pin 0: no INTx.
        self.u8(0x3c, 0, 0xff);
        self.u8(0x3d, 0, 0);
    }

    /// A 64-bit prefetchable memory BAR (7.5.1.2.1). The bits below the size are fixed at zero: that is how software
    /// finds the size.
    fn bar(&mut self, index: usize, size: u64) {
        const TYPE_64: u32 = 2 << 1;
        const PREFETCHABLE: u32 = 1 << 3;
        assert!(size.is_power_of_two() && size >= 16, "a BAR's size is a power of two");
        let mask = !(size - 1);
        let offset = BAR0 + index * 4;
        self.u32(offset, TYPE_64 | PREFETCHABLE, mask as u32);
        self.u32(offset + 4, 0, (mask >> 32) as u32);
    }

    fn capability(&mut self, offset: usize, id: u8, next: usize) {
        self.u8(offset, id, 0);
        self.u8(offset + 1, next as u8, 0);
    }

    /// 7.5.2: D0 and D3hot, no PME; the function keeps its state in D3hot.
    fn power_management(&mut self) {
        const VERSION_3: u16 = 3;
        const NO_SOFT_RESET: u16 = 1 << 3;
        const POWER_STATE: u16 = 3;
        self.capability(CAP_PM, 0x01, CAP_EXPRESS);
        self.u16(CAP_PM + 2, VERSION_3, 0);
        self.u16(CAP_PM + 4, NO_SOFT_RESET, POWER_STATE);
    }

    /// 7.5.3: an endpoint with function-level reset on a link of 16 lanes at 16 GT/s, which nothing limits.
    fn express(&mut self) {
        const ROLE_BASED_ERRORS: u32 = 1 << 15;
        const EXTENDED_TAG: u32 = 1 << 5;
        const FLR_CAPABLE: u32 = 1 << 28;
        const VERSION_2_ENDPOINT: u16 = 2;
        // Relaxed ordering, no snoop, read requests up to 512 bytes: the values of 7.5.3.4.
        const CONTROL_RESET: u16 = 1 << 4 | 1 << 11 | 2 << 12;
        // Error reporting enables, relaxed ordering, payload size, extended tag, no snoop, read request size.
        const CONTROL_WRITABLE: u16 = 0xf | 1 << 4 | 7 << 5 | 1 << 8 | 1 << 11 | 7 << 12;
        const SPEED_16GT: u32 = 4;
        const WIDTH_16: u32 = 16 << 4;
        // No ASPM, and the bit that says that this is on purpose.
        const ASPM_OPTIONALITY: u32 = 1 << 22;
        // Read completion boundary, common clock, extended synch.
        const LINK_CONTROL_WRITABLE: u16 = 1 << 3 | 1 << 6 | 1 << 7;
        const TIMEOUT_DISABLE: u32 = 1 << 4;
        const SPEEDS_UP_TO_16GT: u32 = 0xf << 1;

        self.capability(CAP_EXPRESS, 0x10, CAP_MSIX);
        self.u16(CAP_EXPRESS + 0x02, VERSION_2_ENDPOINT, 0);
        self.u32(CAP_EXPRESS + 0x04, ROLE_BASED_ERRORS | EXTENDED_TAG | FLR_CAPABLE, 0);
        self.u16(DEVICE_CONTROL, CONTROL_RESET, CONTROL_WRITABLE | INITIATE_FLR);
        self.u16(CAP_EXPRESS + 0x0a, 0, 0);
        self.u32(CAP_EXPRESS + 0x0c, SPEED_16GT | WIDTH_16 | ASPM_OPTIONALITY, 0);
        self.u16(CAP_EXPRESS + 0x10, 0, LINK_CONTROL_WRITABLE);
        self.u16(CAP_EXPRESS + 0x12, (SPEED_16GT | WIDTH_16) as u16, 0);
        self.u32(CAP_EXPRESS + 0x24, TIMEOUT_DISABLE, 0);
        // Device control 2: completion timeout value and its disable bit.
        self.u16(CAP_EXPRESS + 0x28, 0, 0x1f);
        self.u32(CAP_EXPRESS + 0x2c, SPEEDS_UP_TO_16GT, 0);
        // Link control 2: the target speed.
        self.u16(CAP_EXPRESS + 0x30, SPEED_16GT as u16, 0xf);
    }

    /// 7.7.2.
    fn msix(&mut self) {
        const ENABLE: u16 = 1 << 15;
        const FUNCTION_MASK: u16 = 1 << 14;
        self.capability(CAP_MSIX, 0x11, 0);
        self.u16(CAP_MSIX + 2, pci::MSIX_VECTORS - 1, ENABLE | FUNCTION_MASK);
        self.u32(CAP_MSIX + 4, pci::MSIX_TABLE_OFFSET | pci::BAR_MSIX as u32, 0);
        self.u32(CAP_MSIX + 8, pci::MSIX_PBA_OFFSET | pci::BAR_MSIX as u32, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(space: &ConfigSpace, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        space.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn h01_identity_is_the_declared_one() {
        let space = ConfigSpace::new();
        assert_eq!(space.u16_at(0), pci::VENDOR_ID);
        assert_eq!(space.u16_at(2), pci::DEVICE_ID);
        assert_eq!(u32_at(&space, 8) >> 8, 0x02_0700);
        assert_eq!(space.bytes()[0x0e], 0, "a type 0 header, one function");
        assert_eq!(space.bytes()[0x3d], 0, "no INTx");
    }

    #[test]
    fn h01_the_capability_list_is_sound() {
        let space = ConfigSpace::new();
        let mut at = space.bytes()[CAPABILITIES] as usize;
        let mut ids = Vec::new();
        while at != 0 {
            assert!((0x40..0x100).contains(&at) && at % 4 == 0, "capability at {at:#x}");
            ids.push(space.bytes()[at]);
            assert!(ids.len() < 16, "the list does not end");
            at = space.bytes()[at + 1] as usize;
        }
        assert_eq!(ids, [0x01, 0x10, 0x11]);
        assert_eq!(u32_at(&space, 0x100), 0, "the extended list is empty");
    }

    #[test]
    fn h01_bars_are_sized_by_writing_ones() {
        let mut space = ConfigSpace::new();
        for (bar, size) in [
            (pci::BAR_REGS, pci::BAR_REGS_SIZE),
            (pci::BAR_DOORBELL, pci::BAR_DOORBELL_SIZE),
            (pci::BAR_MSIX, pci::BAR_MSIX_SIZE),
        ] {
            let offset = BAR0 + bar * 4;
            assert_eq!(u32_at(&space, offset) & 0xf, 0xc, "64 bits wide and prefetchable");
            space.write(offset, &[0xff; 8]);
            let low = u64::from(u32_at(&space, offset) & !0xf);
            let high = u64::from(u32_at(&space, offset + 4));
            assert_eq!(!(high << 32 | low) + 1, size);
        }
    }

    #[test]
    fn h01_what_is_read_only_stays() {
        let mut space = ConfigSpace::new();
        let before = space.clone();
        for offset in 0..SIZE {
            // Everything but the bit that resets.
            let data = if offset == DEVICE_CONTROL + 1 { 0x7f } else { 0xff };
            assert_eq!(space.write(offset, &[data]), Effect::None, "at {offset:#x}");
        }
        assert_eq!(u32_at(&space, 0), u32_at(&before, 0));
        assert_eq!(u32_at(&space, 8), u32_at(&before, 8));
        assert_eq!(u32_at(&space, 0x2c), u32_at(&before, 0x2c));
        assert_eq!(space.u16_at(COMMAND), 0x546);
        assert_eq!(space.bytes()[0x100..], before.bytes()[0x100..]);
    }

    #[test]
    fn h01_function_level_reset_is_an_effect_and_not_a_bit() {
        let mut space = ConfigSpace::new();
        space.write(COMMAND, &6u16.to_le_bytes());
        let control = space.u16_at(DEVICE_CONTROL);
        let effect = space.write(DEVICE_CONTROL, &(control | INITIATE_FLR).to_le_bytes());
        assert_eq!(effect, Effect::FunctionLevelReset);
        assert_eq!(space.u16_at(DEVICE_CONTROL), control);
        assert_eq!(space.u16_at(COMMAND), 0);
    }

    #[test]
    fn h01_accesses_beyond_the_end_do_no_harm() {
        let mut space = ConfigSpace::new();
        let mut bytes = [0; 8];
        space.read(SIZE - 4, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(space.write(SIZE - 4, &[0xff; 8]), Effect::None);
        space.read(usize::MAX, &mut bytes);
        assert_eq!(bytes, [0xff; 8]);
        assert_eq!(space.write(usize::MAX, &[1, 2]), Effect::None);
    }
}
