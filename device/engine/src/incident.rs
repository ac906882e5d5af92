// SPDX-License-Identifier: MIT OR Apache-2.0
//! What went wrong lately on one HCA: completions with an error and the events of failures, for people who look later.
//!
//! A completion is gone when its owner has polled it, and an application that failed has often gone too. The device
//! remembers the last [`KEPT`] of both, the oldest first to be forgotten, whichever object they were of; a reset
//! forgets all. Flushed work requests are not kept: they follow from an error, by the thousand.

use crate::hca::Side;
use crate::time::Time;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::eqe::Event;

/// Incidents that an HCA remembers: a few kilobytes, and more than somebody reads.
pub const KEPT: usize = 256;

/// Something that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incident {
    pub(crate) time: Time,
    pub(crate) what: What,
    /// The device's own reason, [`vendor`].
    pub(crate) reason: u32,
}

/// What it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A work request of a queue pair failed.
    Completion {
        qpn: u32,
        side: Side,
        wr_id: u64,
        status: Status,
    },
    /// An event of a failure, and the number of its object.
    Event { event: Event, number: u32 },
}

impl Incident {
    /// Whether it happened to this queue pair.
    pub(crate) fn is_of_qp(&self, number: u32) -> bool {
        match self.what {
            What::Completion { qpn, .. } => qpn == number,
            What::Event { event, number: of } => {
                matches!(event, Event::QP_FATAL | Event::QP_REQ_ERR | Event::QP_ACCESS_ERR) && of == number
            }
        }
    }
}

/// The last incidents of an HCA, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Incidents(VecDeque<Incident>);

impl Incidents {
    #[cold]
    pub(crate) fn completion(&mut self, time: Time, (qpn, side): (u32, Side), wr_id: u64, (status, reason): (u8, u32)) {
        let status = Status(status);
        let what = What::Completion {
            qpn,
            side,
            wr_id,
            status,
        };
        self.push(Incident { time, what, reason });
    }

    /// An event was raised. Those that tell no failure are not kept.
    pub(crate) fn event(&mut self, time: Time, event: Event, number: u32, data: u64) {
        let failure = matches!(
            event,
            Event::CQ_ERR
                | Event::QP_FATAL
                | Event::QP_REQ_ERR
                | Event::QP_ACCESS_ERR
                | Event::SRQ_ERR
                | Event::PORT_ERR
                | Event::DEVICE_FATAL
        );
        if failure {
            let what = What::Event { event, number };
            let reason = data as u32;
            self.push(Incident { time, what, reason });
        }
    }

    fn push(&mut self, incident: Incident) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(incident);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.0.iter()
    }
}

/// An incident in a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncidentDump {
    /// When, in nanoseconds of the device's clock.
    pub time_ns: u64,
    /// The status of a completion, or the event.
    pub what: String,
    /// `QP`, `CQ`, `SRQ`, `port` or `device`.
    pub object: &'static str,
    /// Its number.
    pub number: u32,
    /// Of a completion: `send` or `receive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<&'static str>,
    /// Of a completion: the id of the work request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wr_id: Option<u64>,
    /// The device's own reason, if there is a finer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&Incident> for IncidentDump {
    fn from(incident: &Incident) -> Self {
        let reason = (incident.reason != vendor::NONE).then(|| reason(incident.reason));
        let time_ns = incident.time.as_nanos();
        match incident.what {
            What::Completion {
                qpn,
                side,
                wr_id,
                status,
            } => Self {
                time_ns,
                what: status.to_string(),
                object: "QP",
                number: qpn,
                side: Some(side.name()),
                wr_id: Some(wr_id),
                reason,
            },
            What::Event { event, number } => Self {
                time_ns,
                what: event.to_string(),
                object: match event {
                    Event::CQ_ERR => "CQ",
                    Event::SRQ_ERR => "SRQ",
                    Event::PORT_ERR => "port",
                    Event::DEVICE_FATAL => "device",
                    _ => "QP",
                },
                number,
                side: None,
                wr_id: None,
                // What the device's event carries is its health, which the registers show.
                reason: reason.filter(|_| event != Event::DEVICE_FATAL),
            },
        }
    }
}

/// A vendor reason by name.
pub(crate) fn reason(value: u32) -> String {
    vendor::name(value).map_or_else(|| format!("{value:#x}"), str::to_owned)
}

impl Display for IncidentDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.object {
            "device" => f.write_str("device")?,
            "port" => write!(f, "port {}", self.number)?,
            object => write!(f, "{object} {:#x}", self.number)?,
        }
        if let Some(side) = self.side {
            write!(f, " {side}")?;
        }
        write!(f, " {}", self.what)?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        if let Some(wr_id) = self.wr_id {
            write!(f, " wr_id {wr_id:#x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h15_the_oldest_incident_is_forgotten_first() {
        let mut log = Incidents::default();
        for n in 0..KEPT as u64 + 3 {
            log.completion(Time(n), (1, Side::Send), n, (Status::LOC_PROT_ERR.0, vendor::KEY_PD));
        }
        log.event(Time(999), Event::COMM_EST, 1, 0);
        assert_eq!(log.iter().count(), KEPT);
        assert_eq!(log.iter().next().map(|first| first.time), Some(Time(3)));
        assert_eq!(
            log.iter().next_back().map(|last| last.time),
            Some(Time(KEPT as u64 + 2))
        );
    }

    #[test]
    fn h15_an_incident_reads_as_a_sentence() {
        let mut log = Incidents::default();
        log.completion(Time(1), (0x12, Side::Recv), 7, (Status::LOC_PROT_ERR.0, vendor::KEY_PD));
        log.completion(Time(2), (0x12, Side::Send), 8, (Status::RETRY_EXC_ERR.0, vendor::NONE));
        log.event(Time(3), Event::CQ_ERR, 5, vendor::RING_UNREACHABLE.into());
        log.event(Time(4), Event::PORT_ERR, 1, 0);
        let lines: Vec<_> = log.iter().map(|i| IncidentDump::from(i).to_string()).collect();
        assert_eq!(
            lines,
            [
                "QP 0x12 receive LOC_PROT_ERR (KEY_PD) wr_id 0x7",
                "QP 0x12 send RETRY_EXC_ERR wr_id 0x8",
                "CQ 0x5 CQ_ERR (RING_UNREACHABLE)",
                "port 1 PORT_ERR",
            ]
        );
        assert_eq!(log.iter().filter(|incident| incident.is_of_qp(0x12)).count(), 2);
    }
}
