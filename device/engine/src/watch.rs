// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send queues that the device looks at without being rung.
//!
//! A doorbell costs two cache lines that both sides write, and they travel before the work request's own line does. So a
//! queue that has just been emptied may get one of a few *seats*: each poll looks at its next entry, and its doorbell page
//! says so ([`verbena_hw::doorbell::WATCHED`]), so that its driver need not ring. A seat is given up with the same care as
//! sleep is begun: the page is changed, a full fence, and then the queue has one more turn.
//!
//! A seat's queue is one that is worth it: it keeps the seat while it is found with work, and loses it after
//! [`PATIENCE`] polls in which others had some.
//!
//! Each doorbell page is one worker's, who looks at the page and at the queues in it that have seats. At first the pages are
//! dealt out by number; pages whose queues turn out to have objects in common ([`crate::loan`]) come to one worker.

use crate::doorbell::Doorbell;
use crate::engine::Hcas;
use crate::env::{Env, HcaId};
use crate::qp::{Qp, Wait};
use crate::schedule::{QpRef, Schedule};
use core::sync::atomic::{fence, Ordering};
use verbena_hw::doorbell::WATCH_SEATS;
use verbena_hw::qp::QpState;
use verbena_hw::ring::OWNER_PHASE;

/// Polls with work, or turns of others, none of it the seat's queue's, after which the seat goes to another.
pub(crate) const PATIENCE: u32 = 256;

/// How many loans a queue is left out of once it had something in it that was not for one.
pub(crate) const PASSED_OVER: u32 = 32;

/// Most queues that one worker watches: each look costs it a cache line of each.
pub(crate) const SEATS: usize = WATCH_SEATS;

/// A queue that is being watched.
#[derive(Clone, Copy, Debug)]
struct Seat {
    at: QpRef,
    /// Its doorbell page, its slot in it, and the lane of the page's word that says so.
    page: u32,
    slot: u16,
    lane: usize,
    /// Who looks at it: the page's.
    worker: usize,
    /// Its queue pair is on loan to that worker, who has seen its last entry.
    lent: bool,
    /// Polls with work since it was last found with some.
    unused: u32,
    /// Loans that go by without it: what it sends is not for one.
    passed_over: u32,
}

/// The seats of all workers.
#[derive(Debug)]
pub(crate) struct Watch {
    seats: Vec<Seat>,
    /// By worker: its sleep has been announced.
    asleep: Vec<bool>,
}

/// Whether the next entry of the send queue has been posted. What is not mapped has not.
#[inline]
fn is_posted<E: Env>(env: &E, hca: HcaId, qp: &Qp) -> bool {
    let phase = qp.sq.phase(qp.req.consumer);
    qp.next_word(env.ram(hca))
        .is_some_and(|word| word as u8 & OWNER_PHASE == phase)
}

impl Watch {
    /// For so many workers, one at least.
    pub(crate) fn new(workers: usize) -> Self {
        assert!(workers > 0, "somebody has to do it");
        Self {
            seats: Vec::new(),
            asleep: vec![false; workers],
        }
    }

    /// Whether the sleep of this worker has been announced.
    pub(crate) fn is_asleep(&self, worker: usize) -> bool {
        self.asleep[worker]
    }

    /// Those whose sleep has been announced.
    pub(crate) fn sleepers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.asleep.len()).filter(|&worker| self.asleep[worker])
    }

    pub(crate) fn set_asleep(&mut self, worker: usize, asleep: bool) {
        self.asleep[worker] = asleep;
    }

    /// Whose doorbell page `index` of an HCA is.
    #[inline]
    pub(crate) fn worker_of(&self, hca: HcaId, index: u32, page: &Doorbell) -> usize {
        let workers = self.asleep.len();
        if workers == 1 {
            return 0;
        }
        page.worker.unwrap_or((hca.0 as usize + index as usize) % workers)
    }

    /// Watched queues.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// The queue of seat `i`, if it may be lent now.
    pub(crate) fn lendable(&mut self, i: usize) -> Option<QpRef> {
        let seat = self.seats.get_mut(i)?;
        let lendable = seat.passed_over == 0;
        seat.passed_over = seat.passed_over.saturating_sub(1);
        lendable.then_some(seat.at)
    }

    /// A watched queue had something that a loan is not for. It may well go on so.
    pub(crate) fn refused(&mut self, at: QpRef) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.at == at) {
            seat.passed_over = PASSED_OVER;
        }
    }

    /// A watched queue is on loan, or is not any more.
    pub(crate) fn set_lent(&mut self, at: QpRef, lent: bool) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.at == at) {
            seat.lent = lent;
        }
    }

    /// A watched queue had work, or was looked at in vain while others had so many turns.
    pub(crate) fn used(&mut self, at: QpRef, worked: bool, others: u32) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.at == at) {
            seat.unused = if worked { 0 } else { seat.unused.saturating_add(others) };
        }
    }

    /// Whether a queue is watched.
    #[inline]
    pub(crate) fn is_watched(&self, at: QpRef) -> bool {
        self.seats.iter().any(|seat| seat.at == at)
    }

    /// Gives a doorbell page to another worker, who is awake as its own is.
    pub(crate) fn move_to(&mut self, hcas: &mut Hcas, (hca, index): (HcaId, u32), worker: usize) {
        if let Some(page) = hcas.get_mut(hca).and_then(|hca| hca.doorbells.get_mut(index)) {
            page.worker = Some(worker);
        }
        for seat in &mut self.seats {
            if seat.at.hca == hca && seat.page == index {
                seat.worker = worker;
            }
        }
    }

    /// Whether a watched queue that is not on loan has work for `worker`, without taking it.
    #[inline]
    pub(crate) fn has_work<E: Env>(&self, worker: usize, hcas: &Hcas, env: &E) -> bool {
        self.seats.iter().any(|seat| {
            !seat.lent
                && seat.worker == worker
                && hcas
                    .get(seat.at.hca)
                    .and_then(|hca| hca.qps.get(seat.at.qpn.get()))
                    .is_none_or(|qp| is_posted(env, seat.at.hca, qp))
        })
    }

    /// Gives the watched queues that have work their turn, and takes the seats of those that are gone or unused.
    #[inline]
    pub(crate) fn look<E: Env>(&mut self, hcas: &mut Hcas, schedule: &mut Schedule, env: &E) {
        let mut i = 0;
        while let Some(seat) = self.seats.get_mut(i) {
            let at = seat.at;
            i += 1;
            match hcas.qp_mut(at) {
                Some(qp) if seat.unused < PATIENCE => {
                    if is_posted(env, at.hca, qp) {
                        seat.unused = 0;
                        schedule.activate(at.hca, qp);
                    } else if schedule.has_active() {
                        seat.unused += 1;
                    }
                }
                _ => {
                    i -= 1;
                    self.vacate(i, hcas, schedule, env);
                }
            }
        }
    }

    /// A queue pair's turn has ended. `seated`: it has a seat; `worked`: it took something out of its send queue; `emptied`: it
    /// goes on with whatever comes. One that did both may take a free seat or keep its own.
    #[inline]
    pub(crate) fn settle<E: Env>(
        &mut self,
        hcas: &mut Hcas,
        schedule: &mut Schedule,
        env: &E,
        (at, seated): (QpRef, bool),
        (emptied, worked): (bool, bool),
    ) {
        if emptied && worked {
            if !seated && self.seats.len() < SEATS * self.asleep.len() {
                self.seat(hcas, env, at);
            }
        } else if seated {
            // It has work and does nothing: it would be looked at for ever.
            if let Some(i) = self.seats.iter().position(|seat| seat.at == at) {
                self.vacate(i, hcas, schedule, env);
            }
        }
    }

    #[cold]
    fn seat<E: Env>(&mut self, hcas: &mut Hcas, env: &E, at: QpRef) {
        let Some((page, slot)) = hcas.qp_mut(at).map(|qp| (qp.doorbell, qp.slot)) else {
            return;
        };
        let Some(doorbell) = hcas.get(at.hca).and_then(|hca| hca.doorbells.get(page)) else {
            return;
        };
        let worker = self.worker_of(at.hca, page, doorbell);
        if self.asleep[worker] {
            return;
        }
        if self.seats.iter().filter(|seat| seat.worker == worker).count() >= SEATS {
            return;
        }
        let Some(lane) = doorbell.free_lane() else { return };
        publish(hcas, env, at.hca, page, lane, Some(slot));
        if let Some(qp) = hcas.qp_mut(at) {
            qp.seated = true;
        }
        self.seats.push(Seat {
            at,
            page,
            slot,
            lane,
            worker,
            lent: false,
            unused: 0,
            passed_over: 0,
        });
        // An entry that was posted meanwhile, by a driver that has seen the page or rung, is found by the next look.
    }

    /// Frees a seat. Whoever has its slot now may have posted something without ringing, and gets a turn then.
    #[cold]
    fn vacate<E: Env>(&mut self, i: usize, hcas: &mut Hcas, schedule: &mut Schedule, env: &E) {
        let seat = self.seats.remove(i);
        if let Some(qp) = hcas.qp_mut(seat.at) {
            qp.seated = false;
        }
        let hca = seat.at.hca;
        publish(hcas, env, hca, seat.page, seat.lane, None);
        // The page before the look. A driver publishes an entry, fences, and looks at the page: if we miss the entry, the
        // driver misses the seat, and rings.
        fence(Ordering::SeqCst);
        let Some(hca) = hcas.get_mut(hca) else {
            return;
        };
        let qpn = hca
            .doorbells
            .get(seat.page)
            .and_then(|page| page.queue(seat.slot.into()));
        if let Some(qp) = qpn.and_then(|qpn| hca.qps.get_mut(qpn.get())) {
            if is_posted(env, seat.at.hca, qp) {
                schedule.activate(seat.at.hca, qp);
            }
        }
    }

    /// Frees the seats of a worker: it is going to sleep, and looks at nothing then.
    pub(crate) fn vacate_all<E: Env>(&mut self, worker: usize, hcas: &mut Hcas, schedule: &mut Schedule, env: &E) {
        while let Some(i) = self.seats.iter().position(|seat| seat.worker == worker) {
            self.vacate(i, hcas, schedule, env);
        }
    }

    /// Forgets the queues of an HCA that is gone, and with it its doorbell pages.
    pub(crate) fn forget(&mut self, hca: HcaId) {
        self.seats.retain(|seat| seat.at.hca != hca);
    }
}

/// Tells a doorbell page which slot one of its lanes watches.
fn publish<E: Env>(hcas: &mut Hcas, env: &E, hca: HcaId, page: u32, lane: usize, slot: Option<u16>) {
    let page = hcas.get_mut(hca).and_then(|hca| hca.doorbells.get_mut(page));
    if let Some(page) = page {
        page.set_watched(env.ram(hca), lane, slot);
    }
}

/// Whether a queue pair's send queue can be watched: it takes whatever comes next, at once, and nothing before that is unfinished.
#[inline]
pub(crate) fn is_ready(qp: &Qp) -> bool {
    qp.state == QpState::RTS
        && qp.wait == Wait::Nothing
        && qp.req.current.is_none()
        && qp.wire.is_none()
        && qp.pace.is_none()
}
