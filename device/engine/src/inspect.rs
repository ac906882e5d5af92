// SPDX-License-Identifier: MIT OR Apache-2.0
//! One queue pair, looked at closely: its rings decoded from the guest's memory as it is at this moment, the entries of
//! its completion queues, and what went wrong with it lately.
//!
//! A ring belongs to the guest, which may write any of it meanwhile: each entry is copied once, and what it says is
//! shown, not believed. Keys appear as their index only, as everywhere in a dump.

mod entry;
mod text;

pub use entry::{CompletionEntry, Destination, Element, ReceiveEntry, Remote, SendEntry};

use crate::dump::{flows_to, CqDump, FlowDump, QpDump};
use crate::env::{Dma, GuestRam};
use crate::hca::Hca;
use crate::incident::IncidentDump;
use crate::ram;
use crate::ring::Ring;
use crate::time::Time;
use core::sync::atomic::Ordering;
use serde::Serialize;
use verbena_hw::cqe::{CqRecord, Cqe};
use verbena_hw::id::Cqn;
use verbena_hw::qp::QpType;
use verbena_hw::ring::OWNER_PHASE;
use verbena_hw::wqe::MAX_LOG_STRIDE;
use zerocopy::FromBytes;

/// Entries of a ring that a report shows at most, on either side of the consumer.
pub const MOST_ENTRIES: u32 = 1024;

/// A queue pair, its rings, its completions and its errors.
#[derive(Clone, Debug, Serialize)]
pub struct QpReport {
    /// Number of the HCA.
    pub hca: u32,
    /// When, in nanoseconds of the device's clock.
    pub time_ns: u64,
    /// What the device knows.
    pub qp: QpDump,
    /// The send ring: entries done and not yet overwritten, then those posted, in order.
    pub sends: Vec<SendEntry>,
    /// The receive ring, likewise; that of the shared receive queue, if it has one or a request to it named one last.
    pub receives: Vec<ReceiveEntry>,
    /// Entries that are posted beyond those shown: send queue and receive queue.
    pub more: (u32, u32),
    /// The completion queue of sends; an XRC target has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_cq: Option<CqReport>,
    /// The completion queue of receives, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recv_cq: Option<CqReport>,
    /// Flow rules that lead to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowDump>,
    /// What went wrong with it, oldest first, of what the HCA remembers ([`crate::incident::KEPT`]).
    pub errors: Vec<IncidentDump>,
}

/// There is no queue pair of that number.
#[derive(Clone, Debug, Default)]
pub struct NoSuchQp {
    /// Those that there are.
    pub others: Vec<u32>,
    /// What went wrong with one that had the number, oldest first.
    pub errors: Vec<IncidentDump>,
}

/// A completion queue, as far as it concerns one queue pair.
#[derive(Clone, Debug, Serialize)]
pub struct CqReport {
    /// What the device knows, with the consumer counter as it is in memory now.
    pub cq: CqDump,
    /// The queue pair's entries among the latest, oldest first.
    pub entries: Vec<CompletionEntry>,
}

/// Where an entry of a work queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The device is through with it.
    Done,
    /// The device executes it, or waits before it tries again.
    InFlight,
    /// The device has not come to it.
    Posted,
}

impl QpReport {
    /// Of queue pair `qpn`, if there is one, with at most `entries` entries of each ring on either side of the consumer.
    pub(crate) fn new<R: GuestRam>(hca: &Hca, ram: &R, qpn: u32, entries: u32, now: Time) -> Option<Self> {
        let qp = hca.qps.get(qpn)?;
        let entries = entries.min(MOST_ENTRIES);
        // One at most by a single copy; over packets, those that have been taken and are not acknowledged.
        let busy = match &qp.wire {
            Some(wire) => wire.sender.queue.len() as u32,
            None => u32::from(qp.req.current.is_some()),
        };
        let (sends, more_sends) = match qp.kind {
            QpType::XRC_TGT => (Vec::new(), 0),
            kind => walk(ram, &qp.sq, qp.req.consumer, (entries, busy), |bytes, at| {
                SendEntry::decode(bytes, kind, at)
            }),
        };
        let shared = hca.srqs.get(qp.srqn.max(qp.xrc.srqn).get());
        let shared_ring = shared.map(|srq| (&srq.ring, srq.consumer));
        let ring = qp.rq.as_ref().map(|rq| (rq, qp.resp.consumer)).or(shared_ring);
        // An XRC shared receive queue's own, if it is one.
        let recv_cqn = shared.map_or(qp.recv_cqn, |srq| srq.cqn.max(qp.recv_cqn));
        let (receives, more_receives) = ring.map_or_else(Default::default, |(ring, consumer)| {
            // A receive leaves its ring when a message arrives: what the message is still filling is done here.
            walk(ram, ring, consumer, (entries, 0), ReceiveEntry::decode)
        });
        let report = |cqn: Cqn| (cqn != Cqn::default()).then(|| CqReport::new(hca, ram, cqn, qpn, entries));
        Some(Self {
            hca: hca.id.0,
            time_ns: now.as_nanos(),
            qp: QpDump::new(qp),
            sends,
            receives,
            more: (more_sends, more_receives),
            send_cq: report(qp.send_cqn),
            recv_cq: report(recv_cqn).filter(|_| recv_cqn != qp.send_cqn),
            flows: flows_to(hca, qpn),
            errors: errors(hca, qpn),
        })
    }
}

/// What an HCA remembers of a queue pair's errors, oldest first, also when the queue pair is gone.
pub(crate) fn errors(hca: &Hca, qpn: u32) -> Vec<IncidentDump> {
    hca.incidents
        .iter()
        .filter(|i| i.is_of_qp(qpn))
        .map(IncidentDump::from)
        .collect()
}

impl CqReport {
    fn new<R: GuestRam>(hca: &Hca, ram: &R, cqn: Cqn, qpn: u32, entries: u32) -> Self {
        let cq = hca
            .cqs
            .get(cqn.get())
            .expect("a queue pair holds its completion queues: DESTROY_CQ answers IN_USE");
        let mut dump = CqDump::new(cqn.get(), cq);
        if let Some(consumer) = consumer(ram, cq.record) {
            // What is no counter of this ring is the guest's nonsense.
            if cq.producer.wrapping_sub(consumer) <= cq.ring.entries() {
                dump.consumer = consumer;
            }
        }
        let waiting = cq.producer.wrapping_sub(dump.consumer);
        let written = cq.producer.min(cq.ring.entries()).min(entries);
        let entries = (0..written).rev().filter_map(|back| {
            let counter = cq.producer.wrapping_sub(back + 1);
            let mut bytes = [0; size_of::<Cqe>()];
            copy(ram, &cq.ring, counter, &mut bytes)?;
            let cqe = Cqe::read_from_bytes(&bytes).ok()?;
            (cqe.qpn.get() == qpn).then(|| CompletionEntry::decode(&cqe, counter, back >= waiting))
        });
        let entries = entries.collect();
        Self { cq: dump, entries }
    }
}

/// The consumer counter in a completion queue's record.
fn consumer<R: GuestRam>(ram: &R, record: u64) -> Option<u32> {
    let record = ram::whole(ram, record, size_of::<CqRecord>(), Dma::Read).ok()?;
    let at = core::mem::offset_of!(CqRecord, consumer);
    Some(ram::half(&record, at).ok()?.load(Ordering::Relaxed))
}

/// An entry's place: its counter, its DMA address, where it stands.
#[derive(Clone, Copy)]
struct Place {
    counter: u32,
    addr: u64,
    stage: Stage,
}

/// Decodes a work queue's entries around its consumer, at most `limit` on either side, and counts those that are posted
/// beyond. `busy`: so many from the consumer on are being executed.
fn walk<R: GuestRam, T>(
    ram: &R,
    ring: &Ring,
    consumer: u32,
    (limit, busy): (u32, u32),
    decode: impl Fn(&[u8], Place) -> T,
) -> (Vec<T>, u32) {
    let mut buffer = [0; 1 << MAX_LOG_STRIDE];
    let bytes = &mut buffer[..ring.stride()];
    let mut shown = Vec::new();
    let mut show = |counter: u32, stage: Stage, bytes: &mut [u8]| {
        let there = copy(ram, ring, counter, bytes).is_some();
        if there {
            let addr = ring.addr(counter);
            shown.push(decode(bytes, Place { counter, addr, stage }));
        }
        there
    };
    // A slot that was overwritten has the other phase, and is among the posted ones.
    for back in (1..=limit.min(ring.entries()).min(consumer)).rev() {
        show(consumer.wrapping_sub(back), Stage::Done, bytes);
    }
    let mut ahead = 0;
    while ahead < limit.min(ring.entries()) {
        let stage = if ahead < busy { Stage::InFlight } else { Stage::Posted };
        if !show(consumer.wrapping_add(ahead), stage, bytes) {
            return (shown, 0);
        }
        ahead += 1;
    }
    let beyond = (ahead..ring.entries()).take_while(|&i| copy(ram, ring, consumer.wrapping_add(i), bytes).is_some());
    let more = beyond.count() as u32;
    (shown, more)
}

/// Copies the entry that `counter` falls on, if it is the one of that counter and its memory is there.
fn copy<R: GuestRam>(ram: &R, ring: &Ring, counter: u32, bytes: &mut [u8]) -> Option<()> {
    let entry = ram::whole(ram, ring.addr(counter), bytes.len(), Dma::Read).ok()?;
    // Acquire: the rest of the entry was written before this word.
    let word0 = ram::word(&entry, 0).ok()?.load(Ordering::Acquire);
    if word0 as u8 & OWNER_PHASE != ring.phase(counter) {
        return None;
    }
    entry.copy_to(bytes);
    bytes[..8].copy_from_slice(&word0.to_ne_bytes());
    Some(())
}
