// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PCI function and its register file, as whoever writes a driver meets them (H1, H2).

use super::kit::{check_eq, Outcome, PASS};
use crate::function::{self, Function, Reset};
use crate::harness::{Case, Fixture, Side, Verdict};
use crate::link::{Link, Spec};
use anyhow::{ensure, Context as _, Result};
use verbena::{Access, SendWr};
use verbena_hw::regs::{self, Access as Rule};
use verbena_hw::{doorbell, pci};

pub const CASES: &[Case] = &[
    Case::single("h01_ids_class_and_no_interrupt_pin", identity),
    Case::single("h01_bars_are_64_bit_prefetchable_and_of_the_declared_size", bars),
    Case::single("h01_capabilities_are_a_list_with_an_end", capabilities),
    Case::single("h01_every_event_has_a_vector", vectors),
    Case::single("h01_a_function_level_reset_begins_anew", |f| {
        reset_begins_anew(f, Reset::FunctionLevel)
    }),
    Case::single("h01_a_device_reset_begins_anew", |f| {
        reset_begins_anew(f, Reset::Device)
    }),
    Case::single("h02_every_register_has_its_declared_value_after_a_reset", values),
    Case::single("h02_what_may_be_written_reads_back_and_what_may_not_stays", accesses),
    Case::single("h02_halves_of_a_register_take_effect_together", halves),
    Case::single("h02_a_queue_that_cannot_be_is_fatal_until_a_reset", fatal),
];

/// The function of the device, alone.
fn alone<T>(fixture: &Fixture, f: impl FnOnce(&mut Function) -> Result<T>) -> Result<T> {
    function::with(fixture.attachment(Side::Left), f)
}

/// The device still does what it should, for whoever opens it now.
fn works(fixture: &Fixture) -> Result<()> {
    let ctx = fixture.open().context("opening the device afterwards")?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let sink = b.region(64, Access::ALL_REMOTE)?;
    a.qp.post_send(&SendWr::write(sink.remote(0)).inline(b"as new").signaled())?;
    a.sent_well()?;
    check_eq!(sink.buffer().to_vec(0, 6), b"as new", "what a WRITE wrote");
    Ok(())
}

/// Where the capability with this id is.
fn capability(function: &mut Function, id: u8, what: &str) -> Result<u64> {
    let list = function.capabilities()?;
    let found = list.iter().find(|one| one.0 == id);
    Ok(found
        .with_context(|| format!("no {what} capability among {list:x?}"))?
        .1)
}

fn identity(fixture: &Fixture) -> Outcome {
    alone(fixture, |function| {
        let id = u32::from(pci::DEVICE_ID) << 16 | u32::from(pci::VENDOR_ID);
        check_eq!(function.config32(0)?, id, "device and vendor");
        let [base, sub, interface] = pci::CLASS;
        check_eq!([base, sub], [0x02, 0x07], "the class: a network controller, InfiniBand");
        check_eq!(
            function.config::<4>(0x08)?,
            [pci::REVISION, interface, sub, base],
            "revision and class"
        );
        let [header] = function.config::<1>(0x0e)?;
        check_eq!(header & 0x7f, 0, "the header's type");
        check_eq!(function.config32(0x2c)?, id, "the subsystem");
        let [_line, pin] = function.config::<2>(0x3c)?;
        check_eq!(pin, 0, "the interrupt pin");
        Ok(())
    })?;
    PASS
}

fn bars(fixture: &Fixture) -> Outcome {
    alone(fixture, |function| {
        for (index, size) in [
            (pci::BAR_REGS, pci::BAR_REGS_SIZE),
            (pci::BAR_DOORBELL, pci::BAR_DOORBELL_SIZE),
            (pci::BAR_MSIX, pci::BAR_MSIX_SIZE),
        ] {
            check_eq!(function.bar_size(index)?, size, "bytes of BAR {index}");
            let low = function.config32(0x10 + 4 * index as u64)?;
            // Memory, 64 bits wide, prefetchable (PCI Express Base 5.0, 7.5.1.2.1).
            check_eq!(low & 0xf, 0xc, "what BAR {index} says of itself");
            check_eq!(function.bar_size(index + 1)?, 0, "bytes of BAR {}", index + 1);
        }
        Ok(())
    })?;
    PASS
}

fn capabilities(fixture: &Fixture) -> Outcome {
    alone(fixture, |function| {
        let status = function.config16(0x06)?;
        check_eq!(status & 1 << 4, 1 << 4, "whether there is a list of capabilities");
        let power = capability(function, 0x01, "power management")?;
        check_eq!(function.config16(power + 2)? & 7, 3, "the version of power management");
        check_eq!(function.config16(power + 4)? & 3, 0, "the power state");
        let express = capability(function, 0x10, "PCI Express")?;
        let kind = function.config16(express + 2)? >> 4 & 0xf;
        // Which of the two is for whoever places it to say: below a port, or at the root complex.
        ensure!(kind == 0 || kind == 9, "type {kind} is no endpoint");
        let device = function.config32(express + 4)?;
        check_eq!(device & 1 << 28, 1 << 28, "whether function-level reset is offered");
        // One list each: the extended one is empty, or ends.
        let mut at = 0x100;
        for n in 0.. {
            let header = function.config32(at)?;
            if header == 0 || header >> 20 == 0 {
                break;
            }
            ensure!(n < 64, "the extended capability list does not end");
            at = u64::from(header >> 20);
            ensure!(
                (0x100..0x1000).contains(&at) && at % 4 == 0,
                "an extended capability at {at:#x}"
            );
        }
        Ok(())
    })?;
    PASS
}

fn vectors(fixture: &Fixture) -> Outcome {
    let needed = fixture.open()?.device()?.comp_vectors + 2;
    alone(fixture, |function| {
        let msix = capability(function, 0x11, "MSI-X")?;
        let vectors = u32::from(function.config16(msix + 2)? & 0x7ff) + 1;
        check_eq!(vectors, u32::from(pci::MSIX_VECTORS), "vectors");
        ensure!(needed <= vectors, "{needed} vectors are in use, of {vectors}");
        let bar = pci::BAR_MSIX as u32;
        for (offset, expected, what) in [
            (4, pci::MSIX_TABLE_OFFSET, "the table"),
            (8, pci::MSIX_PBA_OFFSET, "the pending bits"),
        ] {
            check_eq!(function.config32(msix + offset)?, expected | bar, "where {what} is");
        }
        Ok(())
    })?;
    PASS
}

/// What a register says after a reset, where that is the same for every device.
fn declared(reg: &regs::Reg) -> Option<u64> {
    let differs = matches!(reg.offset, regs::CAPS | regs::NODE_GUID | regs::PORT_STATE);
    (!differs && reg.access != Rule::Wo).then_some(reg.reset)
}

/// Every register that has one has its value after reset.
fn as_new(function: &mut Function) -> Result<()> {
    for reg in regs::ALL {
        let value = function.read(reg.offset, reg.width)?;
        if let Some(expected) = declared(reg) {
            check_eq!(value, expected, "{} after a reset", reg.name);
        }
    }
    Ok(())
}

/// Resets the device by its own register, whatever its state was.
fn reset_by_register(function: &mut Function) -> Result<()> {
    function.write(regs::CTRL, 4, regs::CTRL_RESET.into())?;
    as_new(function)
}

fn reset_begins_anew(fixture: &Fixture, reset: Reset) -> Outcome {
    let there = alone(fixture, |function| {
        reset_by_register(function)?;
        function.write(regs::ASQ_ADDR, 8, 0x1234_5000)?;
        function.write(regs::AQ_LOG_SIZE, 4, 5)?;
        // An address that nobody has mapped.
        function.write(regs::PROBE_ADDR, 8, 0xffff_ffff_ffff_f000)?;
        check_eq!(
            function.read(regs::PROBE_STATUS, 4)?,
            u64::from(regs::PROBE_UNREACHABLE),
            "a probe of nothing"
        );
        if !function.reset(reset)? {
            return Ok(false);
        }
        as_new(function)?;
        Ok(true)
    })?;
    works(fixture)?;
    if there {
        PASS
    } else {
        Ok(Verdict::Skip(
            "the function has no bus of its own to be reset with".to_owned(),
        ))
    }
}

fn values(fixture: &Fixture) -> Outcome {
    let guid = fixture.open()?.device()?.node_guid;
    alone(fixture, |function| {
        reset_by_register(function)?;
        let raw = function.read(regs::NODE_GUID, 8)?;
        check_eq!(u64::from_be_bytes(raw.to_le_bytes()), guid, "the node GUID");
        let caps = function.read(regs::CAPS, 8)?;
        ensure!(caps & regs::CAP_LARGE_PAGES != 0, "capabilities {caps:#x}");
        check_eq!(
            function.read(regs::PORT_STATE, 4)? & 0xff,
            u64::from(regs::PORT_ACTIVE),
            "the port's state"
        );
        check_eq!(
            function.read(regs::RESOURCES, 4)?,
            u64::from(doorbell::PAGES | regs::EVENT_QUEUES << 16),
            "doorbell pages and event queues"
        );
        check_eq!(
            function.read(regs::ACCESS_ERRORS, 4)?,
            0,
            "accesses that were not allowed"
        );
        Ok(())
    })?;
    works(fixture)?;
    PASS
}

fn accesses(fixture: &Fixture) -> Outcome {
    alone(fixture, |function| {
        reset_by_register(function)?;
        let mut errors = 0;
        for reg in regs::ALL {
            let before = function.read(reg.offset, reg.width)?;
            match (reg.access, reg.offset) {
                (Rule::Ro, regs::ACCESS_ERRORS) => {}
                (Rule::Ro, _) => {
                    function.write(reg.offset, reg.width, !before)?;
                    errors += 1;
                    check_eq!(function.read(reg.offset, reg.width)?, before, "{}, written", reg.name);
                }
                (Rule::Rw, regs::ASQ_ADDR | regs::ACQ_ADDR | regs::AQ_RECORD) => {
                    function.write(reg.offset, reg.width, 0x1234_5678_9000)?;
                    check_eq!(
                        function.read(reg.offset, reg.width)?,
                        0x1234_5678_9000,
                        "{}, written",
                        reg.name
                    );
                }
                // What the others are written with is an action.
                (Rule::Rw, _) => {}
                (Rule::Wo, _) => {
                    check_eq!(before, 0, "{}, which can only be written", reg.name);
                    // The doorbell of a queue that is not there.
                    function.write(reg.offset, reg.width, 0)?;
                    errors += 1;
                }
            }
        }
        // Sizes that no register has, and places where there is none.
        for (offset, width) in [
            (regs::MAGIC, 1),
            (regs::MAGIC, 2),
            (regs::MAGIC, 8),
            (0x7f0, 4),
            (0x3000, 8),
        ] {
            let ones = u64::MAX >> (64 - 8 * width);
            check_eq!(function.read(offset, width)?, ones, "{width} bytes at {offset:#x}");
            errors += 1;
        }
        check_eq!(
            function.read(regs::ACCESS_ERRORS, 4)?,
            errors,
            "accesses that were not allowed"
        );
        reset_by_register(function)
    })?;
    works(fixture)?;
    PASS
}

fn halves(fixture: &Fixture) -> Outcome {
    alone(fixture, |function| {
        reset_by_register(function)?;
        function.write(regs::ASQ_ADDR, 4, 0x9abc_d000)?;
        check_eq!(
            function.read(regs::ASQ_ADDR, 8)?,
            0,
            "the register, with its low half written"
        );
        function.write(regs::ASQ_ADDR + 4, 4, 0x12)?;
        check_eq!(
            function.read(regs::ASQ_ADDR, 8)?,
            0x12_9abc_d000,
            "the register, with both halves written"
        );
        check_eq!(function.read(regs::ASQ_ADDR + 4, 4)?, 0x12, "its high half");
        check_eq!(
            function.read(regs::ACCESS_ERRORS, 4)?,
            0,
            "accesses that were not allowed"
        );
        reset_by_register(function)
    })?;
    PASS
}

fn fatal(fixture: &Fixture) -> Outcome {
    alone(fixture, |function| {
        for (address, log_size) in [(0x800, 4), (0x1000, 0), (0x1000, u64::from(regs::AQ_MAX_LOG_SIZE) + 1)] {
            reset_by_register(function)?;
            function.write(regs::ASQ_ADDR, 8, address)?;
            function.write(regs::ACQ_ADDR, 8, 0x2000)?;
            function.write(regs::AQ_LOG_SIZE, 4, log_size)?;
            function.write(regs::CTRL, 4, regs::CTRL_ENABLE.into())?;
            let status = function.read(regs::STATUS, 4)? as u32;
            let both = regs::STATUS_FATAL | regs::STATUS_ENABLED;
            check_eq!(
                status & both,
                regs::STATUS_FATAL,
                "the status of a queue at {address:#x}"
            );
            check_eq!(
                function.read(regs::HEALTH, 4)?,
                u64::from(regs::HEALTH_AQ_CONFIG),
                "why it failed"
            );
            // Nothing but a reset leaves this state.
            function.write(regs::CTRL, 4, 0)?;
            function.write(regs::ASQ_ADDR, 8, 0x1000)?;
            function.write(regs::AQ_LOG_SIZE, 4, 4)?;
            function.write(regs::CTRL, 4, regs::CTRL_ENABLE.into())?;
            let status = function.read(regs::STATUS, 4)? as u32;
            check_eq!(
                status & both,
                regs::STATUS_FATAL,
                "the status of a device that has failed"
            );
        }
        reset_by_register(function)
    })?;
    works(fixture)?;
    PASS
}
