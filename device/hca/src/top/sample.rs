// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of a dump is looked at, and the rates between two of them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A dump, as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    /// The HCAs.
    pub hcas: Vec<HcaSample>,
}

/// An HCA in a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct HcaSample {
    /// Its number.
    pub hca: usize,
    /// Its vfio-user socket.
    pub socket: String,
    /// Whether a client is attached.
    pub attached: bool,
    /// The device.
    pub device: DeviceSample,
}

/// A device in a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct DeviceSample {
    /// When, in nanoseconds of the device's clock.
    pub time_ns: u64,
    /// Its port.
    pub port: Option<PortSample>,
    /// How many objects of each kind there are.
    #[serde(default)]
    pub objects: BTreeMap<String, u64>,
    /// Queue pairs.
    #[serde(default)]
    pub qps: Vec<QpSample>,
    /// Counters.
    #[serde(default)]
    pub counters: Vec<CounterSample>,
}

/// A port in a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct PortSample {
    /// `ACTIVE` or `DOWN`.
    pub state: String,
}

/// A counter in a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct CounterSample {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// A queue pair in a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct QpSample {
    /// Its number.
    pub qpn: u32,
    /// Type.
    #[serde(rename = "type")]
    pub qp_type: String,
    /// State.
    pub state: String,
    /// The peer's number.
    pub dest_qpn: u32,
    /// The peer's GID.
    pub dgid: String,
    /// Send queue.
    pub sq: Option<RingSample>,
    /// Receive queue.
    pub rq: Option<RingSample>,
    /// What the send queue waits for.
    pub waits: String,
    /// Transport retries that are left.
    pub retries_left: u8,
}

/// A ring in a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct RingSample {
    /// Consumer counter, modulo 2^32.
    pub consumer: u32,
}

/// What happened between two dumps.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// When it ended, in nanoseconds of the device's clock.
    pub time_ns: u64,
    /// Each HCA.
    pub hcas: Vec<HcaInterval>,
}

/// What happened to an HCA.
#[derive(Clone, Debug, Serialize)]
pub struct HcaInterval {
    /// Its number.
    pub hca: usize,
    /// Its vfio-user socket.
    pub socket: String,
    /// Whether a client is attached.
    pub attached: bool,
    /// `ACTIVE` or `DOWN`.
    pub port: String,
    /// How much happened each second; absent if the device was reset in between.
    pub rates: Option<Rates>,
    /// How many objects of each kind there are.
    pub objects: BTreeMap<String, u64>,
    /// How many queue pairs are in each state.
    pub qp_states: BTreeMap<String, u64>,
    /// The queue pairs, the busiest first.
    pub qps: Vec<QpInterval>,
}

/// What happened each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// How long the interval was, in seconds.
    pub seconds: f64,
    /// Messages sent, READs included.
    pub sent_msgs: f64,
    /// Messages received.
    pub rcvd_msgs: f64,
    /// Bytes sent.
    pub sent_bytes: f64,
    /// Bytes received.
    pub rcvd_bytes: f64,
    /// Doorbells that came as trapped register writes.
    pub doorbells_trapped: f64,
    /// Errors of every kind: the counters with `err`, `timeouts`, `overruns` or `dropped` in their names.
    pub errors: f64,
}

/// What happened to a queue pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QpInterval {
    /// Its number.
    pub qpn: u32,
    /// Type.
    #[serde(rename = "type")]
    pub qp_type: String,
    /// State.
    pub state: String,
    /// The peer: number and GID.
    pub peer: String,
    /// Send requests done each second.
    pub sends: f64,
    /// Receives consumed each second.
    pub receives: f64,
    /// What the send queue waits for.
    pub waits: String,
    /// Transport retries that are left.
    pub retries_left: u8,
}

impl Interval {
    /// What happened between `before` and `now`. An HCA that is new counts from zero.
    pub fn between(before: &Sample, now: &Sample) -> Self {
        let hcas = now.hcas.iter().map(|hca| {
            let before = before.hcas.iter().find(|other| other.hca == hca.hca);
            HcaInterval::between(before, hca)
        });
        Self {
            time_ns: now.hcas.first().map_or(0, |hca| hca.device.time_ns),
            hcas: hcas.collect(),
        }
    }
}

impl HcaInterval {
    fn between(before: Option<&HcaSample>, now: &HcaSample) -> Self {
        let rates = before.and_then(|before| Rates::between(&before.device, &now.device));
        let old: BTreeMap<u32, &QpSample> = before
            .iter()
            .flat_map(|before| &before.device.qps)
            .map(|qp| (qp.qpn, qp))
            .collect();
        let seconds = rates.map_or(0.0, |rates| rates.seconds);
        let mut qps: Vec<_> = now
            .device
            .qps
            .iter()
            .map(|qp| QpInterval::between(old.get(&qp.qpn).copied(), qp, seconds))
            .collect();
        qps.sort_by(|a, b| {
            let busy = |qp: &QpInterval| qp.sends + qp.receives;
            busy(b).total_cmp(&busy(a)).then(a.qpn.cmp(&b.qpn))
        });
        let mut qp_states = BTreeMap::new();
        for qp in &now.device.qps {
            *qp_states.entry(qp.state.clone()).or_insert(0) += 1;
        }
        Self {
            hca: now.hca,
            socket: now.socket.clone(),
            attached: now.attached,
            port: now
                .device
                .port
                .as_ref()
                .map_or_else(String::new, |port| port.state.clone()),
            rates,
            objects: now.device.objects.clone(),
            qp_states,
            qps,
        }
    }
}

impl Rates {
    /// `None` if no time has passed, or if a counter went back: then the device was reset.
    fn between(before: &DeviceSample, now: &DeviceSample) -> Option<Self> {
        let nanoseconds = now.time_ns.checked_sub(before.time_ns).filter(|&n| n > 0)?;
        let seconds = nanoseconds as f64 / 1e9;
        let old: BTreeMap<&str, u64> = before.counters.iter().map(|c| (c.name.as_str(), c.value)).collect();
        let mut rates = Self {
            seconds,
            ..Self::default()
        };
        for counter in &now.counters {
            let grown = counter
                .value
                .checked_sub(old.get(counter.name.as_str()).copied().unwrap_or(0))?;
            let rate = grown as f64 / seconds;
            match counter.name.as_str() {
                "sent_msgs" => rates.sent_msgs += rate,
                "rcvd_msgs" => rates.rcvd_msgs += rate,
                "sent_bytes" => rates.sent_bytes += rate,
                "rcvd_bytes" => rates.rcvd_bytes += rate,
                "doorbells_trapped" => rates.doorbells_trapped += rate,
                name if ["err", "timeouts", "overruns", "dropped"]
                    .iter()
                    .any(|word| name.contains(word)) =>
                {
                    rates.errors += rate;
                }
                _ => {}
            }
        }
        Some(rates)
    }
}

impl QpInterval {
    fn between(before: Option<&QpSample>, now: &QpSample, seconds: f64) -> Self {
        let rate = |old: Option<&RingSample>, new: Option<&RingSample>| match (old, new) {
            (Some(old), Some(new)) if seconds > 0.0 => f64::from(new.consumer.wrapping_sub(old.consumer)) / seconds,
            _ => 0.0,
        };
        Self {
            qpn: now.qpn,
            qp_type: now.qp_type.clone(),
            state: now.state.clone(),
            peer: match now.dest_qpn {
                0 => "-".into(),
                qpn => format!("{qpn:#x} at {}", now.dgid),
            },
            sends: rate(before.and_then(|qp| qp.sq.as_ref()), now.sq.as_ref()),
            receives: rate(before.and_then(|qp| qp.rq.as_ref()), now.rq.as_ref()),
            waits: now.waits.clone(),
            retries_left: now.retries_left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(time_ns: u64, sent: u64, errors: u64, consumer: u32) -> Sample {
        let qp = |qpn: u32, consumer: u32| {
            json!({"qpn": qpn, "type": "RC", "state": "RTS", "dest_qpn": 7, "dgid": "fe80::1", "waits": "nothing",
                "retries_left": 7, "sq": {"consumer": consumer}, "rq": null})
        };
        let counters = json!([{"name": "sent_msgs", "value": sent}, {"name": "access_err", "value": errors},
            {"name": "sent_bytes", "value": 8 * sent}]);
        let device = json!({"time_ns": time_ns, "port": {"state": "ACTIVE"}, "objects": {"qps": 2},
            "qps": [qp(2, 5), qp(3, consumer)], "counters": counters});
        let hca = json!({"hca": 0, "socket": "/tmp/hca0", "attached": true, "device": device});
        serde_json::from_value(json!({ "hcas": [hca] })).unwrap()
    }

    #[test]
    fn h15_rates_are_differences_over_the_devices_own_time() {
        let interval = Interval::between(&sample(1_000, 10, 0, u32::MAX), &sample(500_001_000, 110, 3, 49));
        let hca = &interval.hcas[0];
        let rates = hca.rates.unwrap();
        assert_eq!((rates.seconds, rates.sent_msgs, rates.sent_bytes), (0.5, 200.0, 1600.0));
        assert_eq!(rates.errors, 6.0);
        // The busiest first; its counter has wrapped.
        assert_eq!((hca.qps[0].qpn, hca.qps[0].sends), (3, 100.0));
        assert_eq!((hca.qps[1].qpn, hca.qps[1].sends), (2, 0.0));
        assert_eq!(hca.qp_states["RTS"], 2);
        assert_eq!(hca.qps[0].peer, "0x7 at fe80::1");
    }

    #[test]
    fn h15_a_reset_device_has_no_rates() {
        let interval = Interval::between(&sample(1_000, 10, 0, 4), &sample(500_001_000, 3, 0, 4));
        assert_eq!(interval.hcas[0].rates, None);
        let same = sample(1_000, 10, 0, 4);
        assert_eq!(Interval::between(&same, &same).hcas[0].rates, None);
    }
}
