// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device's state for people and tools: one set of structures, as JSON and as text.

mod counter;
mod doorbell;
mod flow;
mod mw;
mod srq;
mod xrcd;

pub use counter::CounterSetDump;
pub use doorbell::{DoorbellDump, DoorbellPageDump, SlotDump};
pub(crate) use flow::flows_to;
pub use flow::FlowDump;
pub use mw::MwDump;
pub use srq::SrqDump;
pub use xrcd::XrcdDump;

use crate::cq::Cq;
use crate::env::GuestRam;
use crate::hca::Hca;
use crate::incident::IncidentDump;
use crate::mr::Kind;
use crate::qp::{Arriving, Qp, Wait};
use crate::time::Time;
use core::fmt::{self, Display, Formatter};
use serde::Serialize;
use verbena_hw::cmd::COUNTERS;
use verbena_hw::id::Gid;
use verbena_hw::qp::{access, Mtu, QpState, QpType};
use verbena_hw::regs;

/// Which objects a dump shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Select {
    /// Everything.
    All,
    /// This queue pair; `u32::MAX` for all.
    Qp(u32),
    /// This completion queue; `u32::MAX` for all.
    Cq(u32),
    /// The region with this key index; `u32::MAX` for all.
    Mr(u32),
    /// This shared receive queue; `u32::MAX` for all.
    Srq(u32),
}

/// The state of an engine.
#[derive(Clone, Debug, Serialize)]
pub struct Dump {
    /// When, in nanoseconds of the device's clock.
    pub time_ns: u64,
    /// The HCAs.
    pub hcas: Vec<HcaDump>,
}

/// The state of one HCA. What was not asked for is missing from the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct HcaDump {
    /// Its number in the engine.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// When, in nanoseconds of the device's clock.
    pub time_ns: u64,
    /// The register file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registers: Vec<RegisterDump>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortDump>,
    /// The admin queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminDump>,
    /// How many objects of each kind there are.
    pub objects: ObjectsDump,
    /// Doorbell pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doorbells: Vec<DoorbellDump>,
    /// Event queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eqs: Vec<EqDump>,
    /// Completion queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cqs: Vec<CqDump>,
    /// Memory regions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mrs: Vec<MrDump>,
    /// Memory windows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mws: Vec<MwDump>,
    /// Shared receive queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub srqs: Vec<SrqDump>,
    /// XRC domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xrcds: Vec<XrcdDump>,
    /// Queue pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub qps: Vec<QpDump>,
    /// Counter sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counter_sets: Vec<CounterSetDump>,
    /// Flow rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowDump>,
    /// Counters by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<CounterDump>,
    /// What went wrong lately, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<IncidentDump>,
}

/// Errors in a dump: enough for a first look. [`crate::inspect`] shows all that are remembered of a queue pair.
const ERRORS: usize = 16;

/// One register.
#[derive(Clone, Debug, Serialize)]
pub struct RegisterDump {
    /// Its name.
    pub name: &'static str,
    /// Offset in BAR 0.
    pub offset: u32,
    /// Its value.
    pub value: u64,
}

/// The port.
#[derive(Clone, Debug, Serialize)]
pub struct PortDump {
    /// `ACTIVE` or `DOWN`.
    pub state: &'static str,
    /// Switched on by MODIFY_PORT.
    pub admin: bool,
    /// The cable is plugged in.
    pub link: bool,
    /// Entries of the GID table that are not empty: index and GID.
    pub gids: Vec<(usize, String)>,
}

/// The admin queue.
#[derive(Clone, Debug, Serialize)]
pub struct AdminDump {
    /// Consumer counter of the submission queue.
    pub sq_consumer: u32,
    /// Producer counter of the completion queue.
    pub cq_producer: u32,
    /// Commands in execution or waiting for room in the completion queue.
    pub in_flight: usize,
}

/// How many objects there are.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectsDump {
    /// Protection domains.
    pub pds: usize,
    /// Doorbell pages.
    pub doorbells: usize,
    /// Event queues.
    pub eqs: usize,
    /// Completion queues.
    pub cqs: usize,
    /// Memory regions.
    pub mrs: usize,
    /// Memory windows.
    pub mws: usize,
    /// Shared receive queues.
    pub srqs: usize,
    /// XRC domains.
    pub xrcds: usize,
    /// Queue pairs.
    pub qps: usize,
    /// Flow rules.
    pub flows: usize,
    /// Counter sets.
    pub counter_sets: usize,
}

/// An event queue.
#[derive(Clone, Debug, Serialize)]
pub struct EqDump {
    /// Its number.
    pub eqn: u32,
    /// MSI-X vector.
    pub vector: u16,
    /// Entries.
    pub entries: u32,
    /// Producer counter.
    pub producer: u32,
    /// Consumer counter, 31 bits.
    pub consumer: u32,
    /// The next event signals the vector.
    pub armed: bool,
    /// Events that wait for room.
    pub backlog: usize,
    /// Events raised.
    pub raised: u64,
    /// Queue pairs and completion queues that report here.
    pub users: u32,
}

/// A completion queue.
#[derive(Clone, Debug, Serialize)]
pub struct CqDump {
    /// Its number.
    pub cqn: u32,
    /// The driver's cookie.
    pub cookie: u64,
    /// Its event queue.
    pub eqn: u32,
    /// Entries.
    pub entries: u32,
    /// Producer counter.
    pub producer: u32,
    /// Consumer counter as last read.
    pub consumer: u32,
    /// Of a completion counter: completions that succeeded, and that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<[u64; 2]>,
    /// Why it failed, if it has.
    pub failed: Option<String>,
    /// Send and receive queues that complete here.
    pub users: u32,
    /// Events sent.
    pub events: u32,
    /// Entries that an event waits for; 0: for none.
    pub moderation_count: u32,
    /// Microseconds that an event waits at most.
    pub moderation_us: u64,
}

/// A memory region. The tag of its key is left out: a dump must not give access.
#[derive(Clone, Debug, Serialize)]
pub struct MrDump {
    /// Index of its key.
    pub index: u32,
    /// Protection domain.
    pub pdn: u32,
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// Access rights by name.
    pub access: Vec<&'static str>,
    /// Page size in bytes.
    pub page: u64,
    /// Stretches of memory; none of a null region.
    pub stretches: usize,
}

/// A ring of a queue pair.
#[derive(Clone, Debug, Serialize)]
pub struct RingDump {
    /// Entries.
    pub entries: u32,
    /// Bytes of an entry.
    pub stride: usize,
    /// Consumer counter.
    pub consumer: u32,
    /// DMA address of the entry that comes next.
    pub next_entry: u64,
}

/// A queue pair.
#[derive(Clone, Debug, Serialize)]
pub struct QpDump {
    /// Its number.
    pub qpn: u32,
    /// The driver's cookie.
    pub cookie: u64,
    /// Type.
    #[serde(rename = "type")]
    pub qp_type: &'static str,
    /// State.
    pub state: String,
    /// Protection domain; of an XRC target, that of the shared receive queue that a request named last.
    pub pdn: u32,
    /// Completion queue of sends.
    pub send_cqn: u32,
    /// Completion queue of receives.
    pub recv_cqn: u32,
    /// Shared receive queue, of an XRC target the one that a request named last; 0 for none.
    pub srqn: u32,
    /// XRC target: its domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xrcdn: Option<u32>,
    /// Event queue.
    pub eqn: u32,
    /// Doorbell page and slot.
    pub doorbell: (u32, u16),
    /// Number of the peer.
    pub dest_qpn: u32,
    /// GID of the peer.
    pub dgid: String,
    /// Path MTU in bytes.
    pub path_mtu: u32,
    /// Access rights by name.
    pub access: Vec<&'static str>,
    /// Next PSN to send.
    pub sq_psn: u32,
    /// Next PSN expected.
    pub rq_psn: u32,
    /// Messages received, modulo 2^24.
    pub msn: u32,
    /// Send queue.
    pub sq: Option<RingDump>,
    /// Receive queue.
    pub rq: Option<RingDump>,
    /// What the send queue waits for.
    pub waits: &'static str,
    /// Until when, in nanoseconds of the device's clock.
    pub deadline_ns: Option<u64>,
    /// Rate limit of the send queue in kbit/s, and until when that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<(u32, Option<u64>)>,
    /// Transport retries that are left for the message in flight.
    pub retries_left: u8,
    /// RNR retries that are left for the message in flight.
    pub rnr_left: u8,
    /// Bytes acknowledged and bytes altogether of the message in flight.
    pub in_flight: Option<(u64, u64)>,
    /// What is under way, if the peer is reached by packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketsDump>,
    /// A message has arrived in part.
    pub arriving: bool,
}

/// A counter.
#[derive(Clone, Debug, Serialize)]
pub struct CounterDump {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}

/// How long before the second of two moments the first one was, as people say it.
pub(crate) struct Ago(pub(crate) u64, pub(crate) u64);

impl Display for Ago {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let nanos = self.1.saturating_sub(self.0);
        let text = match nanos {
            n if n < 10_000 => format!("{n} ns ago"),
            n if n < 10_000_000 => format!("{} us ago", n / 1_000),
            n if n < 10_000_000_000 => format!("{} ms ago", n / 1_000_000),
            n => format!("{} s ago", n / 1_000_000_000),
        };
        f.pad(&text)
    }
}

/// How far a ring's consumer is, for a line of text.
fn place(ring: &Option<RingDump>) -> String {
    ring.as_ref()
        .map_or("none".into(), |ring| format!("{}/{}", ring.consumer, ring.entries))
}

fn gid(gid: Gid) -> String {
    gid.to_string()
}

pub(crate) fn rights(bits: u32) -> Vec<&'static str> {
    [
        (access::LOCAL_WRITE, "LOCAL_WRITE"),
        (access::REMOTE_WRITE, "REMOTE_WRITE"),
        (access::REMOTE_READ, "REMOTE_READ"),
        (access::REMOTE_ATOMIC, "REMOTE_ATOMIC"),
        (access::MW_BIND, "MW_BIND"),
        (access::ZERO_BASED, "ZERO_BASED"),
        (access::FLUSH_GLOBAL, "FLUSH_GLOBAL"),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, name)| name)
    .collect()
}

impl CqDump {
    pub(crate) fn new(cqn: u32, cq: &Cq) -> Self {
        Self {
            cqn,
            cookie: cq.cookie,
            eqn: cq.eqn.0,
            entries: cq.ring.entries(),
            producer: cq.producer,
            consumer: cq.consumer,
            counted: cq.counts.map(|counts| [counts.succeeded, counts.failed]),
            failed: cq.failed.map(|fault| format!("{fault:?}")),
            users: cq.users,
            events: cq.events,
            moderation_count: cq.moderation.count,
            moderation_us: cq.moderation.period.as_micros() as u64,
        }
    }
}

/// A connection over packets.
#[derive(Clone, Debug, Serialize)]
pub struct PacketsDump {
    /// Messages that were taken out of the send queue and are not complete.
    pub messages: usize,
    /// The oldest PSN that is not acknowledged.
    pub oldest_psn: u32,
    /// PSNs from there on that were sent since the last retry.
    pub sent: u32,
    /// PSNs from there on that were ever sent.
    pub ever_sent: u32,
    /// Answers that are remembered for requests that come again.
    pub answers: usize,
}

impl QpDump {
    pub(crate) fn new(qp: &Qp) -> Self {
        Self {
            qpn: qp.qpn.get(),
            cookie: qp.cookie,
            qp_type: qp.kind.name().unwrap_or("unknown"),
            state: QpState::to_string(&qp.state),
            pdn: qp.pdn.0,
            send_cqn: qp.send_cqn.get(),
            recv_cqn: qp.recv_cqn.get(),
            srqn: qp.srqn.max(qp.xrc.srqn).get(),
            xrcdn: (qp.kind == QpType::XRC_TGT).then_some(qp.xrc.xrcdn),
            eqn: qp.eqn.0,
            doorbell: (qp.doorbell, qp.slot),
            dest_qpn: qp.attrs.dest_qpn.get(),
            dgid: gid(qp.attrs.path.dgid),
            path_mtu: Mtu(qp.attrs.path_mtu).bytes().unwrap_or(0),
            access: rights(qp.attrs.access),
            sq_psn: qp.req.psn.get(),
            rq_psn: qp.resp.psn.get(),
            msn: qp.resp.msn,
            sq: (qp.kind != QpType::XRC_TGT).then(|| RingDump {
                entries: qp.sq.entries(),
                stride: qp.sq.stride(),
                consumer: qp.req.consumer,
                next_entry: qp.sq.addr(qp.req.consumer),
            }),
            rq: qp.rq.as_ref().map(|rq| RingDump {
                entries: rq.entries(),
                stride: rq.stride(),
                consumer: qp.resp.consumer,
                next_entry: rq.addr(qp.resp.consumer),
            }),
            waits: match qp.wait {
                Wait::Nothing => "nothing",
                Wait::Rnr => "RNR timer",
                Wait::Response => "response",
                Wait::Rescan => "late receives",
            },
            deadline_ns: qp.deadline.map(Time::as_nanos),
            rate_limit: qp
                .pace
                .as_ref()
                .map(|pace| (qp.attrs.rate_limit, pace.timer.map(Time::as_nanos))),
            retries_left: qp.req.retries_left,
            rnr_left: qp.req.rnr_left,
            in_flight: qp.req.current.as_ref().map(|m| (m.offset, m.len)),
            packets: qp.wire.as_ref().map(|wire| PacketsDump {
                messages: wire.sender.queue.len(),
                oldest_psn: wire.sender.oldest.get(),
                sent: wire.sender.sent,
                ever_sent: wire.sender.high,
                answers: wire.answers.remembered(),
            }),
            arriving: !matches!(qp.resp.arriving, Arriving::Nothing),
        }
    }
}

impl HcaDump {
    /// The selected part of an HCA's state; `None` if a single object was asked for that is not there.
    pub(crate) fn new<R: GuestRam>(hca: &Hca, ram: &R, select: Select, now: Time) -> Option<Self> {
        let all = select == Select::All;
        let mut dump = Self {
            id: hca.id.0,
            name: hca.config.name.clone(),
            mac: hca.config.mac.map(|byte| format!("{byte:02x}")).join(":"),
            time_ns: now.as_nanos(),
            registers: Vec::new(),
            port: None,
            admin: None,
            objects: ObjectsDump {
                pds: hca.pds.len(),
                doorbells: hca.doorbells.iter().count(),
                eqs: hca.eqs.iter().flatten().count(),
                cqs: hca.cqs.len(),
                mrs: hca.mrs.iter().filter(|mr| mr.is_region()).count(),
                mws: hca.mrs.iter().filter(|mr| matches!(mr.kind, Kind::Window(_))).count(),
                srqs: hca.srqs.len(),
                xrcds: hca.xrcds.len(),
                qps: hca.qps.len(),
                flows: hca.flows.len(),
                counter_sets: hca.counter_sets.sets.len(),
            },
            doorbells: Vec::new(),
            eqs: Vec::new(),
            cqs: cqs(hca, select),
            mrs: mrs(hca, select),
            mws: mw::mws(hca, select),
            srqs: srq::srqs(hca, select),
            xrcds: xrcd::xrcds(hca, select),
            qps: qps(hca, select),
            flows: flow::flows(hca, select),
            counter_sets: counter::counter_sets(hca, select),
            counters: Vec::new(),
            errors: Vec::new(),
        };
        if all {
            dump.add_device(hca, ram);
            return Some(dump);
        }
        let one = matches!(select, Select::Qp(n) | Select::Cq(n) | Select::Mr(n) | Select::Srq(n) if n != u32::MAX);
        let found = dump.qps.len() + dump.cqs.len() + dump.mrs.len() + dump.srqs.len();
        (!one || found == 1).then_some(dump)
    }

    fn add_device<R: GuestRam>(&mut self, hca: &Hca, ram: &R) {
        let identity = hca.identity();
        self.registers = regs::ALL
            .iter()
            .filter(|reg| reg.access != regs::Access::Wo)
            .map(|reg| RegisterDump {
                name: reg.name,
                offset: reg.offset,
                value: hca.regs.value(reg.offset, &identity),
            })
            .collect();
        self.port = Some(PortDump {
            state: if hca.port_is_active() { "ACTIVE" } else { "DOWN" },
            admin: hca.port.admin,
            link: hca.port.link,
            gids: hca
                .gids
                .iter()
                .enumerate()
                .filter(|(_, gid)| !gid.is_zero())
                .map(|(i, g)| (i, gid(*g)))
                .collect(),
        });
        self.admin = Some(AdminDump {
            sq_consumer: hca.admin.sq_consumer,
            cq_producer: hca.admin.cq_producer,
            in_flight: hca.admin.in_flight(),
        });
        self.doorbells = doorbell::doorbells(hca, ram);
        self.eqs = hca
            .eqs
            .iter()
            .enumerate()
            .filter_map(|(eqn, eq)| {
                eq.as_ref().map(|eq| EqDump {
                    eqn: eqn as u32,
                    vector: eq.vector,
                    entries: eq.ring.entries(),
                    producer: eq.producer,
                    consumer: eq.consumer,
                    armed: eq.armed,
                    backlog: eq.backlog_len(),
                    raised: eq.raised,
                    users: eq.users,
                })
            })
            .collect();
        self.counters = COUNTERS
            .into_iter()
            .zip(hca.counters.values())
            .map(|(name, value)| CounterDump { name, value })
            .collect();
        self.errors = hca
            .incidents
            .iter()
            .rev()
            .take(ERRORS)
            .map(IncidentDump::from)
            .collect();
        self.errors.reverse();
    }
}

fn qps(hca: &Hca, select: Select) -> Vec<QpDump> {
    match select {
        Select::All | Select::Qp(u32::MAX) => hca.qps.iter().map(|(_, qp)| QpDump::new(qp)).collect(),
        Select::Qp(qpn) => hca.qps.get(qpn).map(|qp| QpDump::new(qp)).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn cqs(hca: &Hca, select: Select) -> Vec<CqDump> {
    match select {
        Select::All | Select::Cq(u32::MAX) => hca.cqs.iter().map(|(cqn, cq)| CqDump::new(cqn, cq)).collect(),
        Select::Cq(cqn) => hca.cqs.get(cqn).map(|cq| CqDump::new(cqn, cq)).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn mrs(hca: &Hca, select: Select) -> Vec<MrDump> {
    let is_region = |mr: &crate::mr::Mr| mr.is_region();
    let show = |mr: &crate::mr::Mr| MrDump {
        index: mr.name().index(),
        pdn: mr.pdn.0,
        iova: mr.iova,
        len: mr.len,
        access: rights(mr.access),
        page: 1 << mr.page_shift,
        stretches: if mr.is_null() { 0 } else { mr.extents.cost().max(1) },
    };
    match select {
        Select::All | Select::Mr(u32::MAX) => {
            let mut mrs: Vec<_> = hca.mrs.iter().filter(|mr| is_region(mr)).map(show).collect();
            mrs.sort_by_key(|mr| mr.index);
            mrs
        }
        Select::Mr(index) => hca
            .mrs
            .get(index)
            .filter(|mr| is_region(mr))
            .map(show)
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for hca in &self.hcas {
            write!(f, "{hca}")?;
        }
        Ok(())
    }
}

impl Display for HcaDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "HCA {} \"{}\" mac {}", self.id, self.name, self.mac)?;
        for reg in &self.registers {
            writeln!(f, "  {:#05x} {:<14} {:#x}", reg.offset, reg.name, reg.value)?;
        }
        if let Some(port) = &self.port {
            writeln!(f, "  port {} admin={} link={}", port.state, port.admin, port.link)?;
            for (i, gid) in &port.gids {
                writeln!(f, "    gid[{i}] {gid}")?;
            }
        }
        if let Some(admin) = &self.admin {
            writeln!(
                f,
                "  admin queue: {} taken, {} completed, {} in flight",
                admin.sq_consumer, admin.cq_producer, admin.in_flight
            )?;
        }
        let n = &self.objects;
        writeln!(
            f,
            "  objects: {} PD, {} doorbell pages, {} EQ, {} CQ, {} MR, {} MW, {} SRQ, {} XRCD, {} QP, {} flow rules, {} counter sets",
            n.pds, n.doorbells, n.eqs, n.cqs, n.mrs, n.mws, n.srqs, n.xrcds, n.qps, n.flows, n.counter_sets
        )?;
        for d in &self.doorbells {
            writeln!(f, "  {d}")?;
        }
        for eq in &self.eqs {
            writeln!(
                f,
                "  EQ {} vector {} [{}] producer {} consumer {} {}, {} waiting, {} raised",
                eq.eqn,
                eq.vector,
                eq.entries,
                eq.producer,
                eq.consumer,
                if eq.armed { "armed" } else { "not armed" },
                eq.backlog,
                eq.raised
            )?;
        }
        for cq in &self.cqs {
            writeln!(
                f,
                "  CQ {:#x} [{}] producer {} consumer {} eq {} events {} {}",
                cq.cqn,
                cq.entries,
                cq.producer,
                cq.consumer,
                cq.eqn,
                cq.events,
                cq.failed.as_deref().unwrap_or("ok")
            )?;
        }
        for mr in &self.mrs {
            writeln!(
                f,
                "  MR {:#x} pd {:#x} {:#x}+{:#x} in {} stretches {}",
                mr.index,
                mr.pdn,
                mr.iova,
                mr.len,
                mr.stretches,
                mr.access.join("|")
            )?;
        }
        for mw in &self.mws {
            writeln!(f, "  {mw}")?;
        }
        for xrcd in &self.xrcds {
            writeln!(f, "  {xrcd}")?;
        }
        for srq in &self.srqs {
            writeln!(f, "  {srq}")?;
        }
        for qp in &self.qps {
            writeln!(
                f,
                "  QP {:#x} {} {} -> {:#x} at {} mtu {} psn {:#x}/{:#x} sq {} rq {} waits for {}",
                qp.qpn,
                qp.qp_type,
                qp.state,
                qp.dest_qpn,
                qp.dgid,
                qp.path_mtu,
                qp.sq_psn,
                qp.rq_psn,
                place(&qp.sq),
                place(&qp.rq),
                qp.waits
            )?;
        }
        for set in &self.counter_sets {
            writeln!(f, "  {set}")?;
        }
        for flow in &self.flows {
            writeln!(f, "  {flow}")?;
        }
        for counter in &self.counters {
            if counter.value != 0 {
                writeln!(f, "  {:<22} {}", counter.name, counter.value)?;
            }
        }
        for error in &self.errors {
            let ago = Ago(error.time_ns, self.time_ns);
            writeln!(f, "  {ago:>12}  {error}")?;
        }
        Ok(())
    }
}
