// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues in a dump.

use super::Select;
use crate::hca::Hca;
use crate::srq::Srq;
use core::fmt::{self, Display, Formatter};
use serde::Serialize;

/// A shared receive queue.
#[derive(Clone, Debug, Serialize)]
pub struct SrqDump {
    /// Its number.
    pub srqn: u32,
    /// The driver's cookie.
    pub cookie: u64,
    /// Protection domain.
    pub pdn: u32,
    /// Event queue.
    pub eqn: u32,
    /// Entries.
    pub entries: u32,
    /// Bytes of an entry.
    pub stride: usize,
    /// Consumer counter.
    pub consumer: u32,
    /// DMA address of the entry that comes next.
    pub next_entry: u64,
    /// The limit that is armed; 0 for none.
    pub limit: u32,
    /// It takes nothing any more.
    pub failed: bool,
    /// Queue pairs on it.
    pub users: u32,
    /// XRC: its domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xrcdn: Option<u32>,
    /// XRC: completion queue of its receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cqn: Option<u32>,
}

/// The selected ones.
pub(super) fn srqs(hca: &Hca, select: Select) -> Vec<SrqDump> {
    let show = |srqn: u32, srq: &Srq| SrqDump {
        srqn,
        cookie: srq.cookie,
        pdn: srq.pdn.0,
        eqn: srq.eqn.0,
        entries: srq.ring.entries(),
        stride: srq.ring.stride(),
        consumer: srq.consumer,
        next_entry: srq.ring.addr(srq.consumer),
        limit: srq.limit,
        failed: srq.failed,
        users: srq.users,
        xrcdn: (srq.xrcdn != 0).then_some(srq.xrcdn),
        cqn: (srq.xrcdn != 0).then_some(srq.cqn.get()),
    };
    match select {
        Select::All | Select::Srq(u32::MAX) => hca.srqs.iter().map(|(srqn, srq)| show(srqn, srq)).collect(),
        Select::Srq(srqn) => hca.srqs.get(srqn).map(|srq| show(srqn, srq)).into_iter().collect(),
        _ => Vec::new(),
    }
}

impl Display for SrqDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SRQ {:#x} [{}] pd {:#x} consumer {} limit {}, ",
            self.srqn, self.entries, self.pdn, self.consumer, self.limit
        )?;
        match (self.xrcdn, self.cqn) {
            (Some(xrcdn), Some(cqn)) => write!(f, "XRC domain {xrcdn:#x}, completes in CQ {cqn:#x}")?,
            _ => write!(f, "{} queue pairs", self.users)?,
        }
        f.write_str(if self.failed { ", failed" } else { "" })
    }
}
