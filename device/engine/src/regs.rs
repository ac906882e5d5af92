// SPDX-License-Identifier: MIT OR Apache-2.0
//! The register file in BAR 0: which register an access means, what it reads, and what a write asks the engine to do.
//!
//! [`verbena_hw::regs::ALL`] decides which accesses are allowed; nothing here repeats offsets or widths.

use verbena_hw::regs::{self, Access, Reg};

/// Which part of a register an access touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// The lower half of an 8-byte register.
    Low,
    /// The upper half of an 8-byte register.
    High,
}

/// A register access that the declaration allows.
#[derive(Clone, Copy, Debug)]
struct Decoded {
    reg: &'static Reg,
    element: u32,
    part: Part,
}

fn decode(offset: u64, size: usize) -> Option<Decoded> {
    let offset = u32::try_from(offset).ok()?;
    let i = regs::ALL.partition_point(|reg| reg.offset <= offset);
    let reg = &regs::ALL[i.checked_sub(1)?];
    let element = (offset - reg.offset) / reg.stride;
    let within = (offset - reg.offset) % reg.stride;
    if element >= reg.count {
        return None;
    }
    let part = match (reg.width, size, within) {
        (4, 4, 0) | (8, 8, 0) => Part::Whole,
        (8, 4, 0) => Part::Low,
        (8, 4, 4) => Part::High,
        _ => return None,
    };
    Some(Decoded { reg, element, part })
}

/// What a write to a register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing more.
    None,
    /// CTRL.RESET.
    Reset,
    /// CTRL.ENABLE went from 0 to 1.
    Enable,
    /// CTRL.ENABLE went from 1 to 0.
    Disable,
    /// ASQ_TAIL or ACQ_HEAD moved.
    Admin,
    /// PROBE_ADDR was written.
    Probe(u64),
    /// An event queue's doorbell.
    EventQueue { eqn: u32, value: u32 },
}

/// What the identification registers say of this HCA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) node_guid: [u8; 8],
    /// [`regs::PORT_STATE`].
    pub(crate) port_state: u32,
}

/// The registers that hold something.
#[derive(Clone, Debug)]
pub(crate) struct RegisterFile {
    pub(crate) enabled: bool,
    pub(crate) health: u32,
    pub(crate) access_errors: u32,
    pub(crate) asq_addr: u64,
    pub(crate) acq_addr: u64,
    pub(crate) aq_log_size: u32,
    pub(crate) asq_tail: u32,
    pub(crate) acq_head: u32,
    /// 0: none.
    pub(crate) aq_record: u64,
    pub(crate) probe_addr: u64,
    pub(crate) probe_value: u64,
    pub(crate) probe_status: u32,
    /// Lower halves that wait for their upper halves, by register offset.
    halves: [Option<(u32, u32)>; 4],
}

impl RegisterFile {
    pub(crate) fn new() -> Self {
        Self {
            enabled: false,
            health: regs::HEALTH_OK,
            access_errors: 0,
            asq_addr: 0,
            acq_addr: 0,
            aq_log_size: 0,
            asq_tail: 0,
            acq_head: 0,
            aq_record: 0,
            probe_addr: 0,
            probe_value: 0,
            probe_status: regs::PROBE_IDLE,
            halves: [None; 4],
        }
    }

    pub(crate) fn is_fatal(&self) -> bool {
        self.health != regs::HEALTH_OK
    }

    pub(crate) fn access_error(&mut self) {
        self.access_errors = self.access_errors.saturating_add(1);
    }

    fn status(&self) -> u32 {
        let mut status = regs::STATUS_READY;
        if self.enabled {
            status |= regs::STATUS_ENABLED;
        }
        if self.is_fatal() {
            status |= regs::STATUS_FATAL;
        }
        status
    }

    /// The value of a register, as the dump shows it and a read returns it.
    pub(crate) fn value(&self, offset: u32, identity: &Identity) -> u64 {
        match offset {
            regs::MAGIC => regs::MAGIC_VALUE.into(),
            regs::VERSION => regs::VERSION_VALUE.into(),
            regs::CAPS => {
                regs::CAP_DOORBELL_BITMAP
                    | regs::CAP_LARGE_PAGES
                    | regs::CAP_ADMIN_RECORD
                    | regs::CAP_ADMIN_LINK
                    | regs::CAP_COMPLETION_COUNTER
                    | regs::CAP_PACKED_RINGS
            }
            regs::NODE_GUID => u64::from_le_bytes(identity.node_guid),
            regs::STATUS => self.status().into(),
            regs::CTRL => u64::from(self.enabled) * u64::from(regs::CTRL_ENABLE),
            regs::HEALTH => self.health.into(),
            regs::ACCESS_ERRORS => self.access_errors.into(),
            regs::PORT_STATE => identity.port_state.into(),
            regs::RESOURCES => verbena_hw::doorbell::PAGES as u64 | u64::from(regs::EVENT_QUEUES) << 16,
            regs::ASQ_ADDR => self.asq_addr,
            regs::ACQ_ADDR => self.acq_addr,
            regs::AQ_LOG_SIZE => self.aq_log_size.into(),
            regs::ASQ_TAIL => self.asq_tail.into(),
            regs::ACQ_HEAD => self.acq_head.into(),
            regs::AQ_RECORD => self.aq_record,
            regs::PROBE_ADDR => self.probe_addr,
            regs::PROBE_VALUE => self.probe_value,
            regs::PROBE_STATUS => self.probe_status.into(),
            // Write-only registers read as zero.
            _ => 0,
        }
    }

    pub(crate) fn read(&mut self, offset: u64, size: usize, identity: &Identity) -> u64 {
        let Some(at) = decode(offset, size) else {
            self.access_error();
            return all_ones(size);
        };
        let value = self.value(at.reg.offset, identity);
        match at.part {
            Part::Whole => value,
            Part::Low => value & u64::from(u32::MAX),
            Part::High => value >> 32,
        }
    }

    pub(crate) fn write(&mut self, offset: u64, size: usize, value: u64) -> Effect {
        let Some(at) = decode(offset, size) else {
            self.access_error();
            return Effect::None;
        };
        if at.reg.access == Access::Ro || !self.writable(at.reg.offset) {
            self.access_error();
            return Effect::None;
        }
        match at.part {
            Part::Whole => self.store(at.reg.offset, at.element, value),
            Part::Low => {
                self.hold_half(at.reg.offset, value as u32);
                Effect::None
            }
            Part::High => {
                let low = self.take_half(at.reg.offset);
                self.store(at.reg.offset, at.element, value << 32 | u64::from(low))
            }
        }
    }

    /// The admin queues' place may not change under them.
    fn writable(&self, offset: u32) -> bool {
        let fixed_while_enabled = matches!(
            offset,
            regs::ASQ_ADDR | regs::ACQ_ADDR | regs::AQ_LOG_SIZE | regs::AQ_RECORD
        );
        !(self.enabled && fixed_while_enabled)
    }

    fn hold_half(&mut self, offset: u32, low: u32) {
        // As many places as there are writable 8-byte registers, so one is free or already this register's.
        let place = self
            .halves
            .iter()
            .position(|half| half.is_some_and(|(at, _)| at == offset))
            .or_else(|| self.halves.iter().position(Option::is_none))
            .expect("one place for each 8-byte register that can be written");
        self.halves[place] = Some((offset, low));
    }

    /// The lower half that was written before, or the present one.
    fn take_half(&mut self, offset: u32) -> u32 {
        for half in &mut self.halves {
            if let Some((at, low)) = *half {
                if at == offset {
                    *half = None;
                    return low;
                }
            }
        }
        match offset {
            regs::ASQ_ADDR => self.asq_addr as u32,
            regs::ACQ_ADDR => self.acq_addr as u32,
            regs::AQ_RECORD => self.aq_record as u32,
            _ => self.probe_addr as u32,
        }
    }

    fn store(&mut self, offset: u32, element: u32, value: u64) -> Effect {
        let low = value as u32;
        match offset {
            regs::CTRL if low & !(regs::CTRL_ENABLE | regs::CTRL_RESET) != 0 => {
                self.access_error();
                Effect::None
            }
            regs::CTRL if low & regs::CTRL_RESET != 0 => Effect::Reset,
            regs::CTRL => match (self.enabled, low & regs::CTRL_ENABLE != 0) {
                (false, true) => Effect::Enable,
                (true, false) => Effect::Disable,
                _ => Effect::None,
            },
            regs::ASQ_ADDR => {
                self.asq_addr = value;
                Effect::None
            }
            regs::ACQ_ADDR => {
                self.acq_addr = value;
                Effect::None
            }
            regs::AQ_RECORD => {
                self.aq_record = value;
                Effect::None
            }
            regs::AQ_LOG_SIZE => {
                self.aq_log_size = low;
                Effect::None
            }
            regs::ASQ_TAIL => {
                self.asq_tail = low;
                Effect::Admin
            }
            regs::ACQ_HEAD => {
                self.acq_head = low;
                Effect::Admin
            }
            regs::PROBE_ADDR => {
                self.probe_addr = value;
                Effect::Probe(value)
            }
            regs::EQ_DB => Effect::EventQueue {
                eqn: element,
                value: low,
            },
            _ => unreachable!("every register that can be written has its arm"),
        }
    }
}

fn all_ones(size: usize) -> u64 {
    match size {
        0 => 0,
        1..8 => (1 << (8 * size)) - 1,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        node_guid: [1, 2, 3, 4, 5, 6, 7, 8],
        port_state: 0x504,
    };

    #[test]
    fn h02_reset_values_are_the_declared_ones() {
        let mut file = RegisterFile::new();
        for reg in regs::ALL {
            // 0 stands for "differs from device to device" where the register identifies.
            if reg.access != Access::Wo && !matches!(reg.name, "CAPS" | "NODE_GUID" | "PORT_STATE") {
                let value = file.read(reg.offset.into(), reg.width as usize, &IDENTITY);
                assert_eq!(value, reg.reset, "{}", reg.name);
            }
        }
        assert_eq!(file.access_errors, 0);
    }

    #[test]
    fn h02_every_register_answers_its_declared_accesses_and_no_other() {
        for offset in 0..0x700u64 {
            for size in [1, 2, 4, 8] {
                let mut file = RegisterFile::new();
                let allowed = regs::ALL.iter().any(|reg| {
                    (0..reg.count).any(|i| {
                        let at = u64::from(reg.offset + i * reg.stride);
                        let whole = offset == at && size == reg.width as usize;
                        let half = reg.width == 8 && size == 4 && (offset == at || offset == at + 4);
                        whole || half
                    })
                });
                let value = file.read(offset, size, &IDENTITY);
                assert_eq!(file.access_errors, u32::from(!allowed), "{offset:#x}+{size}");
                if !allowed {
                    assert_eq!(value, all_ones(size));
                }
            }
        }
    }

    #[test]
    fn h02_an_8_byte_register_takes_effect_with_its_high_half() {
        let mut file = RegisterFile::new();
        let at = u64::from(regs::PROBE_ADDR);
        assert_eq!(file.write(at, 4, 0x1111_2222), Effect::None);
        assert_eq!(file.write(u64::from(regs::ASQ_ADDR), 4, 0x5000), Effect::None);
        assert_eq!(file.probe_addr, 0);
        assert_eq!(file.write(at + 4, 4, 0x3333), Effect::Probe(0x3333_1111_2222));
        assert_eq!(file.write(u64::from(regs::ASQ_ADDR) + 4, 4, 1), Effect::None);
        assert_eq!(file.asq_addr, 0x1_0000_5000);
        assert_eq!(file.read(u64::from(regs::ASQ_ADDR) + 4, 4, &IDENTITY), 1);
    }

    #[test]
    fn h02_writes_that_are_not_allowed_are_ignored_and_counted() {
        let mut file = RegisterFile::new();
        assert_eq!(file.write(u64::from(regs::MAGIC), 4, 0), Effect::None);
        assert_eq!(file.write(0x3fff, 4, 0), Effect::None);
        assert_eq!(file.write(u64::from(regs::CTRL), 2, 2), Effect::None);
        assert_eq!(file.write(u64::from(regs::CTRL), 4, 4), Effect::None);
        file.enabled = true;
        assert_eq!(file.write(u64::from(regs::ASQ_ADDR), 8, 0x1000), Effect::None);
        assert_eq!(file.asq_addr, 0);
        assert_eq!(file.access_errors, 5);
    }
}
