// SPDX-License-Identifier: MIT OR Apache-2.0
//! A report as text: what the device knows, then a table for each ring.

use super::{CompletionEntry, CqReport, Element, QpReport, ReceiveEntry, SendEntry, Stage};
use crate::dump::{Ago, RingDump};
use core::fmt::{self, Display, Formatter};

/// Elements of an entry that a line has room for.
const ELEMENTS: usize = 2;

impl Display for QpReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let qp = &self.qp;
        writeln!(
            f,
            "QP {:#x} of HCA {}: {} {}, pd {:#x}, cookie {:#x}, event queue {}, doorbell page {} slot {}",
            qp.qpn, self.hca, qp.qp_type, qp.state, qp.pdn, qp.cookie, qp.eqn, qp.doorbell.0, qp.doorbell.1
        )?;
        if qp.dest_qpn != 0 {
            writeln!(f, "  peer {:#x} at {}, mtu {}", qp.dest_qpn, qp.dgid, qp.path_mtu)?;
            writeln!(
                f,
                "  next PSN {:#x}, expects {:#x}, messages received {}; retries left: {} transport, {} RNR",
                qp.sq_psn, qp.rq_psn, qp.msn, qp.retries_left, qp.rnr_left
            )?;
        }
        if !qp.access.is_empty() {
            writeln!(f, "  grants its peer {}", qp.access.join(", "))?;
        }
        if let Some((done, all)) = qp.in_flight {
            writeln!(f, "  in flight: {done} of {all} bytes acknowledged")?;
        }
        if qp.waits != "nothing" {
            write!(f, "  waits for {}", qp.waits)?;
            match qp.deadline_ns {
                Some(at) => writeln!(f, ", {} us more", at.saturating_sub(self.time_ns) / 1_000)?,
                None => writeln!(f)?,
            }
        }
        if let Some((rate, until)) = qp.rate_limit {
            write!(f, "  rate limit {rate} kbit/s")?;
            match until {
                Some(at) => writeln!(f, ", sends again in {} us", at.saturating_sub(self.time_ns) / 1_000)?,
                None => writeln!(f)?,
            }
        }
        if qp.arriving {
            writeln!(f, "  a message has arrived in part")?;
        }

        for flow in &self.flows {
            writeln!(f, "  {flow}")?;
        }
        if let Some(xrcdn) = qp.xrcdn {
            writeln!(f, "  target of XRC domain {xrcdn:#x}")?;
        }

        heading(f, "send queue", qp.sq.as_ref(), self.sends.is_empty())?;
        for entry in &self.sends {
            writeln!(f, "  {entry}")?;
        }
        beyond(f, self.more.0)?;
        let name = if qp.srqn == 0 {
            "receive queue".to_owned()
        } else {
            format!("shared receive queue {:#x}", qp.srqn)
        };
        heading(f, &name, qp.rq.as_ref(), self.receives.is_empty())?;
        for entry in &self.receives {
            writeln!(f, "  {entry}")?;
        }
        beyond(f, self.more.1)?;
        if let Some(send) = &self.send_cq {
            let of = if self.recv_cq.is_some() { " of sends" } else { "" };
            completions(f, &format!("completions{of}"), send, self.time_ns)?;
        }
        if let Some(recv) = &self.recv_cq {
            completions(f, "completions of receives", recv, self.time_ns)?;
        }

        writeln!(f, "\nlast errors{}", if self.errors.is_empty() { ": none" } else { "" })?;
        for error in &self.errors {
            writeln!(f, "  {:>12}  {error}", Ago(error.time_ns, self.time_ns))?;
        }
        Ok(())
    }
}

fn heading(f: &mut Formatter<'_>, name: &str, ring: Option<&RingDump>, empty: bool) -> fmt::Result {
    write!(f, "\n{name}")?;
    if let Some(ring) = ring {
        write!(
            f,
            ", {} of {} bytes, consumer {}",
            ring.entries, ring.stride, ring.consumer
        )?;
    }
    writeln!(f, "{}", if empty { ": nothing posted" } else { "" })
}

fn beyond(f: &mut Formatter<'_>, more: u32) -> fmt::Result {
    if more != 0 {
        writeln!(f, "  {:>10}  and {more} more", "")?;
    }
    Ok(())
}

fn completions(f: &mut Formatter<'_>, name: &str, report: &CqReport, now: u64) -> fmt::Result {
    let cq = &report.cq;
    write!(
        f,
        "\n{name}: CQ {:#x}, {} entries, producer {}, consumer {}",
        cq.cqn, cq.entries, cq.producer, cq.consumer
    )?;
    if let Some(fault) = &cq.failed {
        write!(f, ", failed: {fault}")?;
    }
    writeln!(f)?;
    for entry in &report.entries {
        writeln!(f, "  {entry}  {}", Ago(entry.time_ns, now))?;
    }
    Ok(())
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Done => "done",
            Stage::InFlight => "in flight",
            Stage::Posted => "posted",
        })
    }
}

impl Display for SendEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10}  {:<9}  {:<20} wr_id {:#x}, {} bytes",
            self.counter, self.stage, self.opcode, self.wr_id, self.bytes
        )?;
        if let Some(to) = &self.destination {
            write!(f, " to {:#x} at {}", to.qpn, to.gid)?;
        }
        if let Some(srqn) = self.srqn {
            write!(f, " to SRQ {srqn:#x}")?;
        }
        if let Some(remote) = self.remote {
            write!(f, ", remote {:#x} key {:#x}", remote.addr, remote.key)?;
        }
        if !self.operands.is_empty() {
            write!(f, ", {}", self.operands)?;
        }
        list(f, &self.elements)?;
        if !self.flags.is_empty() {
            write!(f, ", {}", self.flags.join("|"))?;
        }
        Ok(())
    }
}

impl Display for ReceiveEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10}  {:<9}  wr_id {:#x}, {} bytes",
            self.counter, self.stage, self.wr_id, self.bytes
        )?;
        list(f, &self.elements)
    }
}

impl Display for CompletionEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10}  {:<9}  {:<7}  {} wr_id {:#x}",
            self.counter,
            if self.polled { "polled" } else { "waiting" },
            self.side,
            if self.opcode.is_empty() {
                &self.status
            } else {
                &self.opcode
            },
            self.wr_id
        )?;
        if self.bytes != 0 {
            write!(f, ", {} bytes", self.bytes)?;
        }
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        Ok(())
    }
}

fn list(f: &mut Formatter<'_>, elements: &[Element]) -> fmt::Result {
    for (i, element) in elements.iter().take(ELEMENTS).enumerate() {
        let comma = if i == 0 { ", local" } else { " +" };
        write!(
            f,
            "{comma} {:#x}+{:#x} key {:#x}",
            element.addr, element.len, element.key
        )?;
    }
    if elements.len() > ELEMENTS {
        write!(f, " + {} more", elements.len() - ELEMENTS)?;
    }
    Ok(())
}
