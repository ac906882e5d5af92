// SPDX-License-Identifier: MIT OR Apache-2.0
//! One HCA: its objects, and what several of them do together: completing, raising events, failing.

use crate::admin::AdminQueue;
use crate::counter_set::{CounterSets, Tally};
use crate::counters::{Counter, Counters};
use crate::cq::{self, Cq, CqFault, Notify};
use crate::doorbell::DoorbellTable;
use crate::env::{Env, HcaId};
use crate::eq::Eq;
use crate::fabric::Fabric;
use crate::flow::FlowTable;
use crate::incident::Incidents;
use crate::limits;
use crate::mr::MrTable;
use crate::packet::outbox::Outbox;
use crate::qp::express::Known;
use crate::qp::xrc::Xrcd;
use crate::qp::{Pool, Qp, Wait};
use crate::ram::Unreachable;
use crate::regs::{Identity, RegisterFile};
use crate::rng::Rng;
use crate::schedule::Schedule;
use crate::srq::Srq;
use crate::table::Table;
use crate::time::Time;
use crate::HcaConfig;
use verbena_hw::cqe::{self, vendor, Cqe};
use verbena_hw::eqe::{Eqe, Event};
use verbena_hw::id::{Cqn, Eqn, Gid, Qpn};
use verbena_hw::qp::{Mtu, QpState};
use verbena_hw::regs;

/// What every action may use beside the HCA that it happens in.
pub(crate) struct Cx<'a, E: Env> {
    pub(crate) now: Time,
    pub(crate) env: &'a E,
    pub(crate) schedule: &'a mut Schedule,
    pub(crate) fabric: &'a mut Fabric,
    pub(crate) pool: &'a mut Pool,
    pub(crate) outbox: &'a mut Outbox,
    /// What is known of memory between two runs of ordinary messages.
    pub(crate) known: Known<'a>,
}

/// The MSI-X vector of the admin queue.
pub(crate) const ADMIN_VECTOR: u16 = 0;
/// The only port's number.
pub(crate) const PORT: u8 = 1;
/// The largest MTU, and the active one.
pub(crate) const MTU: Mtu = Mtu::B4096;

/// A protection domain: how many objects are in it, by kind.
#[derive(Debug, Default)]
pub(crate) struct Pd {
    pub(crate) qps: u32,
    pub(crate) srqs: u32,
    /// And registrations under way.
    pub(crate) mrs: u32,
    pub(crate) mws: u32,
}

/// What can be in a protection domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InPd {
    Qp,
    Srq,
    Mr,
    Mw,
}

impl Pd {
    pub(crate) fn users(&self) -> u32 {
        self.qps + self.srqs + self.mrs + self.mws
    }

    fn count(&mut self, kind: InPd) -> &mut u32 {
        match kind {
            InPd::Qp => &mut self.qps,
            InPd::Srq => &mut self.srqs,
            InPd::Mr => &mut self.mrs,
            InPd::Mw => &mut self.mws,
        }
    }

    /// An object is in it from now on.
    pub(crate) fn enter(&mut self, kind: InPd) {
        *self.count(kind) += 1;
    }

    /// An object is in it no longer.
    pub(crate) fn leave(&mut self, kind: InPd) {
        *self.count(kind) -= 1;
    }
}

/// The two switches of the port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    /// MODIFY_PORT's.
    pub(crate) admin: bool,
    /// The cable.
    pub(crate) link: bool,
}

/// Which of a queue pair's two queues a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Send,
    Recv,
}

impl Side {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Send => "send",
            Side::Recv => "receive",
        }
    }
}

/// One HCA.
pub(crate) struct Hca {
    pub(crate) id: HcaId,
    pub(crate) config: HcaConfig,
    pub(crate) regs: RegisterFile,
    pub(crate) admin: AdminQueue,
    pub(crate) port: Port,
    /// Entry 0 is the link-local GID of the MAC address; zero: empty.
    pub(crate) gids: Vec<Gid>,
    pub(crate) pds: Table<Pd>,
    pub(crate) doorbells: DoorbellTable,
    pub(crate) eqs: Vec<Option<Box<Eq>>>,
    pub(crate) cqs: Table<Box<Cq>>,
    pub(crate) mrs: MrTable,
    pub(crate) srqs: Table<Box<Srq>>,
    pub(crate) xrcds: Table<Xrcd>,
    pub(crate) qps: Table<Box<Qp>>,
    /// The queue pair that stands for QP 1.
    pub(crate) gsi: Option<Qpn>,
    /// Memberships of its queue pairs in multicast groups.
    pub(crate) memberships: u32,
    pub(crate) flows: FlowTable,
    pub(crate) counter_sets: CounterSets,
    pub(crate) counters: Counters,
    pub(crate) incidents: Incidents,
    /// Extents of all rings and regions, limited by [`limits::EXTENTS`].
    pub(crate) extents: usize,
    /// Completion queues with entries that nobody has been told of.
    dirty: Vec<u32>,
}

impl Hca {
    pub(crate) fn new(id: HcaId, config: HcaConfig, link: bool, rng: Rng) -> Self {
        let mut gids = vec![Gid::default(); limits::GIDS];
        gids[0] = Gid::link_local(config.mac);
        Self {
            id,
            config,
            regs: RegisterFile::new(),
            admin: AdminQueue::default(),
            port: Port { admin: true, link },
            gids,
            pds: Table::new(limits::PDS),
            doorbells: DoorbellTable::default(),
            eqs: (0..regs::EVENT_QUEUES).map(|_| None).collect(),
            cqs: Table::new(limits::CQS),
            mrs: MrTable::new(limits::MRS, rng),
            srqs: Table::new(limits::SRQS),
            xrcds: Table::new(limits::XRCDS),
            qps: Table::new(limits::QPS),
            gsi: None,
            memberships: 0,
            flows: FlowTable::new(),
            counter_sets: CounterSets::new(limits::COUNTER_SETS),
            counters: Counters::default(),
            incidents: Incidents::default(),
            extents: 0,
            dirty: Vec::new(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        let state = if self.port_is_active() {
            regs::PORT_ACTIVE
        } else {
            regs::PORT_DOWN
        };
        Identity {
            node_guid: self.config.node_guid,
            port_state: state | u32::from(MTU.0) << 8,
        }
    }

    pub(crate) fn port_is_active(&self) -> bool {
        self.port.admin && self.port.link && !self.regs.is_fatal()
    }

    pub(crate) fn eq(&self, eqn: Eqn) -> Option<&Eq> {
        self.eqs.get(eqn.0 as usize)?.as_deref()
    }

    pub(crate) fn eq_mut(&mut self, eqn: Eqn) -> Option<&mut Eq> {
        self.eqs.get_mut(eqn.0 as usize)?.as_deref_mut()
    }

    /// The source GID of a path, if its table entry is not empty.
    #[inline]
    pub(crate) fn source_gid(&self, index: u8) -> Option<Gid> {
        self.gids.get(usize::from(index)).copied().filter(|gid| !gid.is_zero())
    }

    /// Stops the device: nothing but a reset helps. Its peers see silence.
    pub(crate) fn fail<E: Env>(&mut self, cx: &mut Cx<'_, E>, health: u32) {
        if self.regs.is_fatal() {
            return;
        }
        self.regs.health = health;
        cx.fabric.changed();
        cx.env.interrupt(self.id, ADMIN_VECTOR);
        if health != regs::HEALTH_EQ_UNREACHABLE {
            self.raise_default(cx, Event::DEVICE_FATAL, 0, health.into());
        }
    }

    /// Raises an event that belongs to no queue: it goes to the queue that was created for such, if there is one.
    pub(crate) fn raise_default<E: Env>(&mut self, cx: &mut Cx<'_, E>, event: Event, number: u32, data: u64) {
        let queue = self
            .eqs
            .iter()
            .position(|eq| eq.as_ref().is_some_and(|eq| eq.async_default));
        match queue {
            Some(eqn) => self.raise(cx, Eqn(eqn as u32), event, number, 0, data),
            None => self.incidents.event(cx.now, event, number, data),
        }
    }

    /// Raises an event in the event queue `eqn`.
    pub(crate) fn raise<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        eqn: Eqn,
        event: Event,
        number: u32,
        cookie: u64,
        data: u64,
    ) {
        self.incidents.event(cx.now, event, number, data);
        let eqe = Eqe {
            event: event.0,
            number,
            cookie,
            timestamp: cx.now.as_nanos(),
            data,
            ..Eqe::default()
        };
        let ram = cx.env.ram(self.id);
        let Some(eq) = self.eq_mut(eqn) else {
            // An object holds its event queue: DESTROY_EQ answers IN_USE.
            debug_assert!(false, "an object's event queue is gone");
            return;
        };
        match eq.raise(ram, eqe) {
            Ok(true) => {
                let vector = eq.vector;
                cx.env.interrupt(self.id, vector);
            }
            Ok(false) => {}
            Err(_) => self.fail(cx, regs::HEALTH_EQ_UNREACHABLE),
        }
    }

    /// Raises an event of a queue pair.
    pub(crate) fn raise_qp<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, event: Event, reason: u32) {
        if let Some(qp) = self.qps.get(qpn.get()) {
            let (eqn, cookie) = (qp.eqn, qp.cookie);
            self.raise(cx, eqn, event, qpn.get(), cookie, reason.into());
        }
    }

    /// Writes a completion of one of the queue pair's queues. The entry comes without what the queue pair knows: QPN,
    /// cookie, the RECV flag, the consumer counter, and the time.
    ///
    /// A completion queue that cannot take it fails, with an event; the queue pair goes to ERR, with an event. So
    /// nothing is lost silently.
    pub(crate) fn complete<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, side: Side, mut cqe: Cqe) {
        let Some(qp) = self.qps.get(qpn.get()) else {
            return;
        };
        let cqn = qp.sign(&mut cqe, side, cx.now);
        if cqe.status == cqe::Status::WR_FLUSH_ERR.0 {
            self.counters.count(Counter::FlushedWrs);
            self.tally(qpn, Tally::FlushedWrs, 1);
        } else if cqe.status != cqe::Status::SUCCESS.0 {
            self.counters.count(Counter::CompletionErr);
            self.tally(qpn, Tally::CompletionErr, 1);
            let failed = (cqe.status, cqe.vendor_err);
            self.incidents.completion(cx.now, (qpn.get(), side), cqe.wr_id, failed);
        } else if side == Side::Recv {
            self.counters.count(Counter::RdmaRecvs);
        }
        self.write_completion(cx, cqn, qpn, cqe);
    }

    /// Writes an entry that is complete but for the number of its completion queue.
    #[inline(always)]
    pub(crate) fn write_completion<E: Env>(&mut self, cx: &mut Cx<'_, E>, cqn: Cqn, qpn: Qpn, cqe: Cqe) {
        let Some(cq) = self.cqs.get_mut(cqn.get()) else {
            // An XRC target has none.
            return self.complete_named(cx, qpn, cqe);
        };
        let (was_dirty, had_failed) = (cq.is_dirty(), cq.failed.is_some());
        match cq.push(cx.env.ram(self.id), cqe) {
            Ok(()) => {
                if !was_dirty {
                    self.mark_dirty(cqn);
                }
            }
            Err(fault) => self.completion_lost(cx, qpn, cqn, fault, !had_failed),
        }
    }

    /// A completion of the queue pair did not go into its queue. `new`: the queue has failed with this one.
    #[cold]
    pub(crate) fn completion_lost<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        qpn: Qpn,
        cqn: Cqn,
        fault: CqFault,
        new: bool,
    ) {
        if let Some((eqn, cookie)) = self.cqs.get(cqn.get()).map(|cq| (cq.eqn, cq.cookie)).filter(|_| new) {
            self.cq_failed(cx, eqn, cqn.get(), cookie, fault);
        }
        if self.qps.get(qpn.get()).is_some_and(|qp| qp.state != QpState::ERR) {
            self.enter_error(cx, qpn);
            self.raise_qp(cx, qpn, Event::QP_FATAL, vendor::RING_UNREACHABLE);
        }
    }

    /// The completion queue has entries that nobody has been told of, and had none before.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, cqn: Cqn) {
        self.dirty.push(cqn.get());
    }

    fn cq_failed<E: Env>(&mut self, cx: &mut Cx<'_, E>, eqn: Eqn, cqn: u32, cookie: u64, fault: CqFault) {
        let reason = match fault {
            CqFault::Overrun => {
                self.counters.count(Counter::CqOverruns);
                vendor::NONE
            }
            CqFault::Unreachable => vendor::RING_UNREACHABLE,
        };
        self.raise(cx, eqn, Event::CQ_ERR, cqn, cookie, reason.into());
    }

    /// Tells whoever has armed a completion queue that got entries. After each batch.
    #[inline]
    pub(crate) fn notify<E: Env>(&mut self, cx: &mut Cx<'_, E>) {
        if !self.dirty.is_empty() {
            self.notify_dirty(cx);
        }
    }

    fn notify_dirty<E: Env>(&mut self, cx: &mut Cx<'_, E>) {
        cq::fence_before_arm();
        let mut dirty = core::mem::take(&mut self.dirty);
        for cqn in dirty.drain(..) {
            if let Some(cq) = self.cqs.get_mut(cqn) {
                let told = cq.wants_event(cx.env.ram(self.id), cx.now);
                self.tell(cx, cqn, told);
            }
        }
        // The list's memory is used again.
        self.dirty = dirty;
    }

    /// Does what [`Cq::wants_event`] has answered.
    pub(crate) fn tell<E: Env>(&mut self, cx: &mut Cx<'_, E>, cqn: u32, told: Result<Notify, Unreachable>) {
        let Some(cq) = self.cqs.get_mut(cqn) else {
            return;
        };
        let (eqn, cookie) = (cq.eqn, cq.cookie);
        match told {
            Ok(Notify::Event) => {
                cx.schedule.disarm_cq(self.id, cqn, &mut cq.timer);
                self.raise(cx, eqn, Event::COMPLETION, cqn, cookie, 0);
            }
            Ok(Notify::Later(at)) => cx.schedule.wait_cq(self.id, cqn, &mut cq.timer, at),
            Ok(Notify::Nothing) => {}
            Err(Unreachable) => {
                cq.failed = Some(CqFault::Unreachable);
                self.cq_failed(cx, eqn, cqn, cookie, CqFault::Unreachable);
            }
        }
    }

    /// The time of a completion queue's held event has come.
    pub(crate) fn release_event<E: Env>(&mut self, cx: &mut Cx<'_, E>, cqn: u32) {
        let Some(cq) = self.cqs.get_mut(cqn) else {
            return;
        };
        cx.schedule.disarm_cq(self.id, cqn, &mut cq.timer);
        let (eqn, cookie) = (cq.eqn, cq.cookie);
        if cq.release() {
            self.raise(cx, eqn, Event::COMPLETION, cqn, cookie, 0);
        }
    }

    /// Moves a queue pair to ERR. What is outstanding is flushed in its next turn.
    pub(crate) fn enter_error<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) {
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return;
        };
        qp.state = QpState::ERR;
        qp.rescans = 0;
        cx.schedule.disarm(self.id, qp);
        debug_assert_eq!(qp.wait, Wait::Nothing);
        cx.schedule.activate(self.id, qp);
    }

    /// Moves a queue pair to SQE: a send failed on this side, and what is behind it in the send queue is flushed.
    pub(crate) fn enter_send_error<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) {
        if let Some(qp) = self.qps.get_mut(qpn.get()) {
            qp.state = QpState::SQE;
            cx.schedule.activate(self.id, qp);
        }
    }

    /// Sets the port's switches and says what changed.
    pub(crate) fn set_port<E: Env>(&mut self, cx: &mut Cx<'_, E>, port: Port) {
        let before = self.port_is_active();
        self.port = port;
        let after = self.port_is_active();
        if before != after {
            cx.fabric.changed();
            let event = if after {
                Event::PORT_ACTIVE
            } else {
                self.counters.count(Counter::LinkDowned);
                Event::PORT_ERR
            };
            self.raise_default(cx, event, PORT.into(), 0);
        }
    }
}
