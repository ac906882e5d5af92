// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doorbell pages in a dump: whose they are, and what is in them now. A queue that has work, is in no page's `rung` and not
//! `watched` waits for a doorbell that has got lost.

use crate::doorbell::{Contents, Doorbell};
use crate::env::GuestRam;
use crate::hca::Hca;
use core::fmt::{self, Display, Formatter};
use serde::Serialize;
use verbena_hw::id::Qpn;

/// A doorbell page.
#[derive(Clone, Debug, Serialize)]
pub struct DoorbellDump {
    /// Index in BAR 2.
    pub index: u32,
    /// DMA address of the page in guest memory.
    pub addr: u64,
    /// Slots in use.
    pub users: u32,
    /// RING_SCAN was written, and the device has not looked yet.
    pub scan: bool,
    /// What is in guest memory; missing: the page is not mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<DoorbellPageDump>,
}

/// What driver and device have written into a doorbell page.
#[derive(Clone, Debug, Serialize)]
pub struct DoorbellPageDump {
    /// The device sleeps: a driver that rings has to write the register as well.
    pub asleep: bool,
    /// The summary: a bit for each word of the bitmap that the device will look at.
    pub summary: u64,
    /// What has rung and was not taken yet.
    pub rung: Vec<SlotDump>,
    /// What the device looks at without being rung.
    pub watched: Vec<SlotDump>,
}

/// A slot of a doorbell page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotDump {
    /// Its number.
    pub slot: u32,
    /// The queue pair that it rings; missing: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qpn: Option<u32>,
}

impl SlotDump {
    fn new(page: &Doorbell, slot: u32) -> Self {
        let qpn = page.queue(slot).map(Qpn::get);
        Self { slot, qpn }
    }
}

impl DoorbellPageDump {
    fn new(page: &Doorbell, contents: &Contents) -> Self {
        let show = |slots: &[u32]| slots.iter().map(|&slot| SlotDump::new(page, slot)).collect();
        Self {
            asleep: contents.kick,
            summary: contents.summary,
            rung: show(&contents.rung),
            watched: show(&contents.watched),
        }
    }
}

/// All pages of an HCA.
pub(super) fn doorbells<R: GuestRam>(hca: &Hca, ram: &R) -> Vec<DoorbellDump> {
    let show = |(index, page): (u32, &Doorbell)| DoorbellDump {
        index,
        addr: page.addr,
        users: page.users,
        scan: page.is_to_be_scanned(),
        page: page
            .contents(ram)
            .map(|contents| DoorbellPageDump::new(page, &contents)),
    };
    hca.doorbells.iter().map(show).collect()
}

/// Slots in a line of text; the JSON has all of them.
const SHOWN: usize = 8;

fn list(f: &mut Formatter<'_>, what: &str, slots: &[SlotDump]) -> fmt::Result {
    if slots.is_empty() {
        return Ok(());
    }
    write!(f, ", {what}")?;
    for SlotDump { slot, qpn } in slots.iter().take(SHOWN) {
        match qpn {
            Some(qpn) => write!(f, " {qpn:#x}")?,
            None => write!(f, " slot {slot} (nobody's)")?,
        }
    }
    match slots.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl Display for DoorbellDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "doorbell page {} at {:#x}, {} slots",
            self.index, self.addr, self.users
        )?;
        if self.scan {
            write!(f, ", to be scanned")?;
        }
        let Some(page) = &self.page else {
            return write!(f, ", not mapped");
        };
        if page.asleep {
            write!(f, ", the device sleeps")?;
        }
        list(f, "rung", &page.rung)?;
        list(f, "watched", &page.watched)
    }
}
