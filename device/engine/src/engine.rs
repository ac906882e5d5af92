// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine: all HCAs of one server, and the loop that gives each its turn.

use crate::admin;
use crate::counters::Counter;
use crate::doorbell::{Bells, Doorbell, Rung};
use crate::dump::{Dump, HcaDump, Select};
use crate::env::{Env, HcaId};
use crate::fabric::Fabric;
use crate::hca::{Cx, Hca, Port};
use crate::inspect::{self, NoSuchQp, QpReport};
use crate::limits;
use crate::loan::{self, Loan, Wanted};
use crate::packet::outbox::{Outbox, Packet};
use crate::packet::{answers, receive, sender};
use crate::qp::express::{Known, Run};
use crate::qp::requester::{self, Turn};
use crate::qp::{datagram, pace, raw, unreliable, xrc, Pool, Qp};
use crate::ram;
use crate::regs::Effect;
use crate::regulars::Regulars;
use crate::rng::Rng;
use crate::schedule::{QpRef, Schedule, Timer};
use crate::time::Time;
use crate::watch::{self, Watch};
use crate::{AddHcaError, Budget, Dma, EngineConfig, HcaConfig, Progress};
use core::sync::atomic::{fence, Ordering};
use verbena_hw::doorbell::{RegisterAddress, REG_RING, RING_SCAN, RING_WAKE};
use verbena_hw::id::{Eqn, Gid};
use verbena_hw::qp::QpType;
use verbena_hw::regs;

/// The HCAs by id.
#[derive(Default)]
pub(crate) struct Hcas(Vec<Option<Box<Hca>>>);

impl Hcas {
    #[inline]
    pub(crate) fn get(&self, id: HcaId) -> Option<&Hca> {
        self.0.get(id.0 as usize)?.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: HcaId) -> Option<&mut Hca> {
        self.0.get_mut(id.0 as usize)?.as_deref_mut()
    }

    #[inline]
    pub(crate) fn qp_mut(&mut self, at: QpRef) -> Option<&mut Qp> {
        self.get_mut(at.hca)?.qps.get_mut(at.qpn.get()).map(|qp| &mut **qp)
    }

    fn iter(&self) -> impl Iterator<Item = &Hca> {
        self.0.iter().filter_map(Option::as_deref)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Hca> {
        self.0.iter_mut().filter_map(Option::as_deref_mut)
    }
}

/// All HCAs of one server, and the fabric that joins them.
///
/// What it has lent ([`Engine::lend`]) it must have back ([`Engine::recall`]) before anything but [`Engine::has_work`] and
/// [`Engine::next_deadline`] is asked of it: to forget that is a bug of the caller, and panics.
pub struct Engine {
    hcas: Hcas,
    schedule: Schedule,
    fabric: Fabric,
    pool: Pool,
    outbox: Outbox,
    watch: Watch,
    regulars: Regulars,
    /// Memory for the making of loans, used again.
    wanted: Vec<Wanted>,
    rng: Rng,
    /// Something is on loan.
    lent: bool,
    /// The worker whose doorbell page a trapped write named last.
    stirred: Option<usize>,
}

/// The parts of an engine as one action sees them.
macro_rules! cx {
    ($engine:ident, $now:expr, $env:expr) => {
        Cx {
            now: $now,
            env: $env,
            schedule: &mut $engine.schedule,
            fabric: &mut $engine.fabric,
            pool: &mut $engine.pool,
            outbox: &mut $engine.outbox,
            known: Known::default(),
        }
    };
}

impl Engine {
    /// An engine without HCAs.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            hcas: Hcas::default(),
            schedule: Schedule::default(),
            fabric: Fabric::new(),
            pool: Pool::default(),
            outbox: Outbox::new(config.uplink),
            watch: Watch::new(config.workers),
            regulars: Regulars::new(config.workers),
            wanted: Vec::new(),
            rng: Rng::new(config.seed),
            lent: false,
            stirred: None,
        }
    }

    /// Lends each worker what its queues need, as far as they can be served so; `loans` has one, empty, for each worker.
    pub fn lend<E: Env, L: AsMut<Loan>>(&mut self, loans: &mut [L], now: Time, env: &E) {
        self.assert_whole();
        let queues = (&mut self.watch, &mut self.regulars, &mut self.wanted);
        self.lent = loan::lend(&mut self.hcas, queues, &mut cx!(self, now, env), loans);
    }

    /// Takes back what was lent, and does what the workers have left to do.
    pub fn recall<E: Env, L: AsMut<Loan>>(&mut self, loans: &mut [L], now: Time, env: &E) {
        if core::mem::take(&mut self.lent) {
            for loan in &mut *loans {
                loan::give_back(&mut self.hcas, loan.as_mut());
            }
            for loan in loans {
                let queues = (&mut self.watch, &mut self.regulars);
                loan::settle(&mut self.hcas, queues, &mut cx!(self, now, env), loan.as_mut());
            }
        }
    }

    #[inline]
    fn assert_whole(&self) {
        assert!(!self.lent, "parts of the engine are on loan");
    }

    /// A run of messages between two queue pairs on loan.
    pub(crate) fn run_between<'a, E: Env>(
        &'a self,
        env: &'a E,
        (at, qp): (QpRef, &Qp),
        (peer_at, peer): (QpRef, &Qp),
    ) -> Option<Run<'a, 'a, E::Ram>> {
        Some(Run::new(
            env,
            self.hcas.get(at.hca)?,
            self.hcas.get(peer_at.hca)?,
            qp,
            peer,
        ))
    }

    /// What [`Engine::has_work`] looks at that others change while the engine is lent, looked up.
    pub(crate) fn bells<'a, E: Env>(&self, worker: usize, env: &'a E) -> Bells<'a> {
        let mut bells = Bells::default();
        for hca in self.hcas.iter().filter(|hca| !hca.regs.is_fatal()) {
            let ram = env.ram(hca.id);
            for (index, page) in hca.doorbells.iter() {
                if self.watch.worker_of(hca.id, index, page) == worker {
                    bells.add(page.bell(ram, Rung::Page(hca.id, index)));
                }
            }
            if worker == 0 {
                bells.add(admin::bell(hca, ram));
            }
        }
        bells
    }

    /// What has made [`Engine::has_work`] true since `bells` were looked up.
    #[inline]
    pub(crate) fn has_rung<E: Env>(&self, bells: &Bells<'_>, worker: usize, env: &E) -> Option<Rung> {
        if bells.incomplete {
            return self.has_rung_anywhere(worker, env);
        }
        match bells.iter().find(|bell| bell.has_rung()) {
            Some(bell) => Some(bell.says),
            None => self.watch.has_work(worker, &self.hcas, env).then_some(Rung::Other),
        }
    }

    #[cold]
    fn has_rung_anywhere<E: Env>(&self, worker: usize, env: &E) -> Option<Rung> {
        if self.needs_all(worker, env) {
            return Some(Rung::Other);
        }
        self.hcas.iter().find_map(|hca| {
            let page = self.rung_page(hca, worker, env)?;
            Some(Rung::Page(hca.id, page))
        })
    }

    /// A doorbell page of the worker's in which something has rung.
    #[inline]
    fn rung_page<E: Env>(&self, hca: &Hca, worker: usize, env: &E) -> Option<u32> {
        if hca.regs.is_fatal() {
            return None;
        }
        let ram = env.ram(hca.id);
        let mut pages = hca.doorbells.iter();
        pages
            .find(|&(index, page)| self.watch.worker_of(hca.id, index, page) == worker && page.has_rung(ram))
            .map(|(index, _)| index)
    }

    /// Whether something has rung in a doorbell page of this HCA that is `worker`'s.
    pub fn has_rung_in<E: Env>(&self, hca: HcaId, worker: usize, env: &E) -> bool {
        self.hcas
            .get(hca)
            .is_some_and(|hca| self.rung_page(hca, worker, env).is_some())
    }

    /// What the workers are to see to that have something on loan, by doorbell page of an HCA.
    pub(crate) fn page(&self, hca: HcaId, index: u32) -> Option<&Doorbell> {
        self.hcas.get(hca)?.doorbells.get(index)
    }

    /// Whether [`Engine::has_work`] is true for another reason than what has rung in doorbell pages.
    #[inline]
    pub(crate) fn needs_all<E: Env>(&self, worker: usize, env: &E) -> bool {
        let to_be_scanned = |hca: &Hca| hca.doorbells.iter().any(|(_, page)| page.is_to_be_scanned());
        let admin = |hca: &Hca| worker == 0 && hca.regs.enabled && (hca.admin.has_work() || admin::has_rung(hca, env));
        self.watch.has_work(worker, &self.hcas, env)
            || self.schedule.has_active()
            || self.outbox.has_dues()
            || self
                .hcas
                .iter()
                .any(|hca| !hca.regs.is_fatal() && (to_be_scanned(hca) || admin(hca)))
    }

    /// When a timer expires next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.schedule.next_deadline()
    }

    /// Adds an HCA, in its state after power-on, with its cable plugged in.
    ///
    /// # Errors
    ///
    /// [`AddHcaError::DuplicateMac`].
    pub fn add_hca(&mut self, config: HcaConfig) -> Result<HcaId, AddHcaError> {
        let index = match self.hcas.0.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.hcas.0.push(None);
                self.hcas.0.len() - 1
            }
        };
        let id = HcaId(index as u32);
        let gid = Gid::link_local(config.mac);
        if let Some(owner) = self.fabric.owner(&gid) {
            self.evict(owner, gid)?;
        }
        let claimed = self.fabric.claim(gid, id);
        assert!(claimed, "nobody has the GID any more");
        let rng = Rng::new(self.rng.next());
        self.hcas.0[index] = Some(Box::new(Hca::new(id, config, true, rng)));
        Ok(id)
    }

    /// Takes a GID that is derived from a MAC address away from a guest that has put it into its table: it could
    /// otherwise keep an HCA from being added.
    fn evict(&mut self, owner: HcaId, gid: Gid) -> Result<(), AddHcaError> {
        if let Some(squatter) = self.hcas.get_mut(owner) {
            match squatter.gids.iter().position(|entry| *entry == gid) {
                Some(0) => return Err(AddHcaError::DuplicateMac),
                Some(index) => squatter.gids[index] = Gid::default(),
                None => {}
            }
        }
        self.fabric.release(&gid);
        Ok(())
    }

    /// Removes an HCA. Its peers see silence. Unknown ids are ignored, here and in every other function.
    pub fn remove_hca(&mut self, hca: HcaId) {
        self.assert_whole();
        if let Some(slot) = self.hcas.0.get_mut(hca.0 as usize) {
            *slot = None;
            self.schedule.forget(hca);
            self.watch.forget(hca);
            self.regulars.forget(hca);
            self.fabric.release_all(hca);
        }
    }

    /// Returns an HCA to its state after power-on: PCI reset, function-level reset, its client went away. The cable
    /// stays as it is.
    pub fn reset_hca(&mut self, hca: HcaId) {
        let Some(old) = self.hcas.get(hca) else {
            return;
        };
        let (config, link) = (old.config.clone(), old.port.link);
        self.remove_hca(hca);
        let claimed = self.fabric.claim(Gid::link_local(config.mac), hca);
        assert!(claimed, "the HCA's own first GID cannot have been taken in between");
        let rng = Rng::new(self.rng.next());
        self.hcas.0[hca.0 as usize] = Some(Box::new(Hca::new(hca, config, link, rng)));
    }

    /// Plugs or unplugs the cable of the HCA's port.
    pub fn set_link<E: Env>(&mut self, hca: HcaId, up: bool, now: Time, env: &E) {
        self.assert_whole();
        let mut cx = cx!(self, now, env);
        if let Some(hca) = self.hcas.get_mut(hca) {
            let port = Port { link: up, ..hca.port };
            hca.set_port(&mut cx, port);
        }
    }

    /// A read of `size` bytes at `offset` in BAR 0. What the declaration does not allow reads as all ones.
    pub fn read_reg(&mut self, hca: HcaId, offset: u64, size: usize) -> u64 {
        match self.hcas.get_mut(hca) {
            Some(hca) => {
                let identity = hca.identity();
                hca.regs.read(offset, size, &identity)
            }
            None => u64::MAX,
        }
    }

    /// A write of `size` bytes at `offset` in BAR 0. What the declaration does not allow is ignored and counted.
    pub fn write_reg<E: Env>(&mut self, hca: HcaId, offset: u64, size: usize, value: u64, now: Time, env: &E) {
        self.assert_whole();
        let Some(device) = self.hcas.get_mut(hca) else {
            return;
        };
        let mut cx = cx!(self, now, env);
        match device.regs.write(offset, size, value) {
            Effect::None => {}
            Effect::Reset => self.reset_hca(hca),
            // Only a reset leaves the fatal state.
            Effect::Enable if device.regs.is_fatal() => device.regs.access_error(),
            Effect::Enable => admin::enable(device, &mut cx),
            Effect::Disable => admin::disable(device),
            Effect::Admin => device.admin.pending = true,
            Effect::Probe(addr) => probe(device, env, addr),
            Effect::EventQueue { eqn, value } => event_queue_doorbell(device, &mut cx, eqn, value),
        }
    }

    /// A write of `size` bytes at `offset` in BAR 2. (Reads of BAR 2 are zero.)
    pub fn write_doorbell(&mut self, hca: HcaId, offset: u64, size: usize, value: u64) {
        self.assert_whole();
        let Some(device) = self.hcas.get_mut(hca) else {
            return;
        };
        device.counters.count(Counter::DoorbellsTrapped);
        let at = RegisterAddress::from_bar_offset(offset).filter(|at| u64::from(at.offset) == REG_RING && size == 4);
        let Some((at, page)) = at.and_then(|at| Some((at, device.doorbells.get_mut(at.page)?))) else {
            device.regs.access_error();
            return;
        };
        self.stirred = Some(self.watch.worker_of(hca, at.page, page));
        match value as u32 {
            RING_SCAN => return page.request_scan(),
            // The next poll looks at the summaries of all pages.
            RING_WAKE => return,
            _ => {}
        }
        // A slot that rings nothing is a guest's harmless mistake.
        if let Some(qp) = page.queue(value as u32).and_then(|qpn| device.qps.get_mut(qpn.get())) {
            self.schedule.activate(hca, qp);
        }
    }

    /// Counts a write of [`RING_WAKE`] that came as an event, without a page.
    pub fn count_ring(&mut self, hca: HcaId) {
        if let Some(device) = self.hcas.get_mut(hca) {
            device.counters.count(Counter::DoorbellsTrapped);
        }
    }

    /// Takes a packet that has come to a port of one of the HCAs, from its IP header to its invariant CRC. What is not
    /// for any of them, or malformed, or not intact, is dropped and counted.
    ///
    /// What it makes necessary beside completions, acknowledgements for instance, is done by the next [`Engine::poll`].
    pub fn receive<E: Env>(&mut self, packet: &[u8], now: Time, env: &E) {
        self.assert_whole();
        let mut cx = cx!(self, now, env);
        receive::receive(&mut self.hcas, &mut cx, packet);
    }

    /// The next packet that one of the HCAs sends. To be asked after each [`Engine::poll`] until there is none: a queue
    /// that nobody drains loses packets.
    pub fn transmit(&mut self) -> Option<Packet> {
        self.outbox.pop()
    }

    /// Does what there is to do, as far as the budget goes.
    pub fn poll<E: Env>(&mut self, now: Time, mut budget: Budget, env: &E) -> Progress {
        self.assert_whole();
        let mut cx = cx!(self, now, env);
        let mut did_work = cx.outbox.has_dues();
        if did_work {
            answers::pay(&mut self.hcas, &mut cx);
        }
        while let Some((at, timer)) = cx.schedule.expired(now) {
            did_work = true;
            if timer == Timer::Pace {
                pace::release(&mut self.hcas, cx.schedule, at);
                continue;
            }
            if let Some(hca) = self.hcas.get_mut(at.hca) {
                requester::expired(hca, &mut cx, at);
                hca.notify(&mut cx);
            }
        }
        while let Some((id, cqn)) = cx.schedule.expired_cq(now) {
            did_work = true;
            if let Some(hca) = self.hcas.get_mut(id) {
                hca.release_event(&mut cx, cqn);
            }
        }
        let mut created = false;
        for hca in self.hcas.iter_mut() {
            // Of its own, so that a guest with many commands does not use up what messages may use.
            let mut commands = Budget {
                operations: limits::ADMIN_TURN,
                ..budget
            };
            let executed = admin::poll(hca, &mut cx, &mut commands);
            did_work |= executed | collect(hca, &mut cx);
            // There may be a doorbell page now whose worker sleeps.
            created |= executed;
        }
        if created {
            self.show_sleepers(env);
        }
        let mut cx = cx!(self, now, env);
        self.watch.look(&mut self.hcas, cx.schedule, env);
        // Those that are active now, once each: whoever wants another turn comes behind them.
        let (mut turns, mut told) = (0, budget.bytes);
        for _ in 0..cx.schedule.active_len() {
            let Some(at) = cx.schedule.pop() else {
                break;
            };
            did_work = true;
            let Some(qp) = self.hcas.qp_mut(at) else {
                continue;
            };
            qp.active = false;
            let before = qp.req.consumer;
            if qp.kind != QpType::RC || qp.wire.is_some() {
                cx.known.forget();
            }
            let turn = match qp.kind {
                QpType::UD | QpType::GSI => datagram::turn(&mut self.hcas, &mut cx, at, &mut budget),
                QpType::UC => unreliable::turn(&mut self.hcas, &mut cx, at, &mut budget),
                QpType::RAW => raw::turn(&mut self.hcas, &mut cx, at, &mut budget),
                QpType::XRC_TGT => match self.hcas.get_mut(at.hca) {
                    Some(hca) => xrc::target_turn(hca, &mut cx, at, &mut budget),
                    None => Turn::Idle,
                },
                _ if qp.wire.is_some() => match self.hcas.get_mut(at.hca) {
                    Some(hca) => sender::turn(hca, &mut cx, at, &mut budget),
                    None => Turn::Idle,
                },
                _ => requester::turn(&mut self.hcas, &mut cx, at, &mut budget),
            };
            if let Some(qp) = self.hcas.qp_mut(at) {
                let worked = qp.req.consumer != before;
                let emptied = turn == Turn::Idle && watch::is_ready(qp);
                if turn == Turn::More {
                    cx.schedule.activate(at.hca, qp);
                }
                let seat = (at, qp.seated);
                self.watch
                    .settle(&mut self.hcas, cx.schedule, env, seat, (emptied, worked));
                if !self.regulars.is_off() && emptied && worked && !self.watch.is_watched(at) {
                    self.regulars.note(&mut self.hcas, at);
                }
            }
            turns += 1;
            if turns == limits::NOTIFY_TURNS || told - budget.bytes >= limits::NOTIFY_BYTES {
                (turns, told) = (0, budget.bytes);
                self.hcas.iter_mut().for_each(|hca| hca.notify(&mut cx));
            }
            if budget.is_spent() {
                break;
            }
        }
        self.hcas.iter_mut().for_each(|hca| hca.notify(&mut cx));
        Progress {
            did_work,
            next_deadline: self.schedule.next_deadline(),
        }
    }

    /// The worker, beside worker 0, whom writes to doorbell registers since the last call concern.
    pub fn take_stirred(&mut self) -> Option<usize> {
        self.stirred.take()
    }

    /// Announces that `worker` will stop polling: from now on drivers write the doorbell register of its pages as well, and
    /// if it is worker 0, that of the admin queue. `false`: there is work, poll on; the announcement is withdrawn.
    pub fn prepare_sleep<E: Env>(&mut self, worker: usize, env: &E) -> bool {
        self.assert_whole();
        self.set_kicks(worker, env, true);
        self.watch.vacate_all(worker, &mut self.hcas, &mut self.schedule, env);
        // The announcement before the look. A driver sets its bits, fences, and looks at the announcement: if we miss
        // its bits, it sees our announcement.
        fence(Ordering::SeqCst);
        if self.has_work(worker, env) {
            self.set_kicks(worker, env, false);
            return false;
        }
        true
    }

    /// Whether the next [`Engine::poll`] finds something to do, timers apart, and it is for `worker` to see to it. Cheaper
    /// than a poll that does not, and needs no clock: for those who look all the time.
    #[inline]
    pub fn has_work<E: Env>(&self, worker: usize, env: &E) -> bool {
        self.needs_all(worker, env) || self.hcas.iter().any(|hca| self.rung_page(hca, worker, env).is_some())
    }

    /// Withdraws the announcement of [`Engine::prepare_sleep`].
    pub fn wake<E: Env>(&mut self, worker: usize, env: &E) {
        if self.watch.is_asleep(worker) {
            self.set_kicks(worker, env, false);
        }
    }

    fn set_kicks<E: Env>(&mut self, worker: usize, env: &E, asleep: bool) {
        self.watch.set_asleep(worker, asleep);
        for hca in self.hcas.iter() {
            self.show_sleep(hca, worker, env, asleep);
        }
    }

    fn show_sleep<E: Env>(&self, hca: &Hca, worker: usize, env: &E, asleep: bool) {
        if worker == 0 {
            admin::set_kick(hca, env, asleep);
        }
        for (index, page) in hca.doorbells.iter() {
            if self.watch.worker_of(hca.id, index, page) == worker {
                page.set_kick(env.ram(hca.id), asleep);
            }
        }
    }

    /// Shows the sleep of those who sleep on all doorbell pages.
    #[inline]
    fn show_sleepers<E: Env>(&self, env: &E) {
        for worker in self.watch.sleepers() {
            for hca in self.hcas.iter() {
                self.show_sleep(hca, worker, env, true);
            }
        }
    }

    /// The HCA's DMA mappings have changed; `env` shows the new ones.
    ///
    /// Addresses are resolved at each access, so nothing of the old mappings is remembered here; but if sleep has been
    /// announced, doorbell pages that appear now have to show it too.
    pub fn ram_changed<E: Env>(&mut self, hca: HcaId, env: &E) {
        let Some(hca) = self.hcas.get(hca) else { return };
        for worker in self.watch.sleepers() {
            self.show_sleep(hca, worker, env, true);
        }
    }

    /// The state of one HCA, or of all.
    pub fn dump<E: Env>(&self, hca: Option<HcaId>, now: Time, env: &E) -> Dump {
        self.assert_whole();
        Dump {
            time_ns: now.as_nanos(),
            hcas: self
                .hcas
                .iter()
                .filter(|candidate| hca.is_none_or(|id| id == candidate.id))
                .filter_map(|hca| HcaDump::new(hca, env.ram(hca.id), Select::All, now))
                .collect(),
        }
    }

    /// Queue pair `qpn` of an HCA looked at closely: at most `entries` entries of each ring on either side of its
    /// consumer, and at most [`inspect::MOST_ENTRIES`].
    ///
    /// # Errors
    ///
    /// [`NoSuchQp`].
    pub fn inspect_qp<E: Env>(
        &self,
        hca: HcaId,
        qpn: u32,
        entries: u32,
        now: Time,
        env: &E,
    ) -> Result<QpReport, NoSuchQp> {
        self.assert_whole();
        let Some(hca) = self.hcas.get(hca) else {
            return Err(NoSuchQp::default());
        };
        QpReport::new(hca, env.ram(hca.id), qpn, entries, now).ok_or_else(|| NoSuchQp {
            others: hca.qps.iter().map(|(qpn, _)| qpn).collect(),
            errors: inspect::errors(hca, qpn),
        })
    }
}

/// Takes what has rung out of the HCA's doorbell pages. Answers whether that was anything.
#[inline]
fn collect<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>) -> bool {
    if hca.regs.is_fatal() {
        return false;
    }
    let ram = cx.env.ram(hca.id);
    let mut any = false;
    let qps = &mut hca.qps;
    for page in hca.doorbells.iter_mut() {
        page.collect(ram, |qpn| {
            any = true;
            if let Some(qp) = qps.get_mut(qpn.get()) {
                cx.schedule.activate(hca.id, qp);
            }
        });
    }
    any
}

/// PROBE_ADDR was written.
fn probe<E: Env>(hca: &mut Hca, env: &E, addr: u64) {
    let ram = env.ram(hca.id);
    let mut nonce = [0; 8];
    let answered = addr % 8 == 0
        && ram::reachable(ram, addr, 16, Dma::Write)
        && ram::read(ram, addr, &mut nonce).is_ok()
        && ram::write(ram, addr + 8, &nonce.map(|byte| !byte)).is_ok();
    hca.regs.probe_value = u64::from_le_bytes(nonce);
    hca.regs.probe_status = if answered {
        regs::PROBE_DONE
    } else {
        regs::PROBE_UNREACHABLE
    };
}

fn event_queue_doorbell<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, eqn: u32, value: u32) {
    let ram = cx.env.ram(hca.id);
    let Some(eq) = hca.eq_mut(Eqn(eqn)) else {
        hca.regs.access_error();
        return;
    };
    match eq.doorbell(ram, value) {
        Ok(Ok(true)) => {
            let vector = eq.vector;
            cx.env.interrupt(hca.id, vector);
        }
        Ok(Ok(false)) => {}
        Ok(Err(_)) => hca.regs.access_error(),
        Err(_) => hca.fail(cx, regs::HEALTH_EQ_UNREACHABLE),
    }
}
