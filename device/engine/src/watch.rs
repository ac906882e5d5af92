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

use crate::engine::Hcas;
use crate::env::{Env, HcaId};
use crate::qp::{Qp, Wait};
use crate::schedule::{QpRef, Schedule};
use core::sync::atomic::{fence, Ordering};
use verbena_hw::doorbell::WATCH_SEATS;
use verbena_hw::qp::QpState;
use verbena_hw::ring::OWNER_PHASE;

/// Polls with work, none of it the seat's queue's, after which the seat goes to another.
const PATIENCE: u32 = 256;

/// A queue that is being watched.
#[derive(Clone, Copy, Debug)]
struct Seat {
    at: QpRef,
    /// Its doorbell page, and its slot in it.
    page: u32,
    slot: u16,
    /// Polls with work since it was last found with some.
    unused: u32,
}

/// The seats. One is also a lane of each page's word, so that two queues never want the same.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seats: [Option<Seat>; WATCH_SEATS],
    /// How many are taken: most often all of the looking there is to do is none.
    taken: usize,
}

/// Whether the next entry of the send queue has been posted. What is not mapped has not.
#[inline]
fn is_posted<E: Env>(env: &E, hca: HcaId, qp: &Qp) -> bool {
    let phase = qp.sq.phase(qp.req.consumer);
    qp.next_word(env.ram(hca))
        .is_some_and(|word| word as u8 & OWNER_PHASE == phase)
}

impl Watch {
    /// Whether a watched queue has work, without taking it.
    #[inline]
    pub(crate) fn has_work<E: Env>(&self, hcas: &Hcas, env: &E) -> bool {
        self.taken > 0
            && self.seats.iter().flatten().any(|seat| {
                hcas.get(seat.at.hca)
                    .and_then(|hca| hca.qps.get(seat.at.qpn.get()))
                    .is_none_or(|qp| is_posted(env, seat.at.hca, qp))
            })
    }

    /// Gives the watched queues that have work their turn, and takes the seats of those that are gone or unused.
    #[inline]
    pub(crate) fn look<E: Env>(&mut self, hcas: &mut Hcas, schedule: &mut Schedule, env: &E) {
        if self.taken == 0 {
            return;
        }
        for i in 0..WATCH_SEATS {
            let Some(seat) = &mut self.seats[i] else {
                continue;
            };
            let at = seat.at;
            match hcas.qp_mut(at) {
                Some(qp) if seat.unused < PATIENCE => {
                    if is_posted(env, at.hca, qp) {
                        seat.unused = 0;
                        schedule.activate(at.hca, qp);
                    } else if schedule.has_active() {
                        seat.unused += 1;
                    }
                }
                _ => self.vacate(i, hcas, schedule, env),
            }
        }
    }

    /// A queue pair's turn has ended. `worked`: it took something out of its send queue; `emptied`: it goes on with whatever
    /// comes. One that did both may take a free seat or keep its own.
    #[inline]
    pub(crate) fn settle<E: Env>(
        &mut self,
        hcas: &mut Hcas,
        schedule: &mut Schedule,
        env: &E,
        (at, emptied, worked): (QpRef, bool, bool),
    ) {
        if self.taken == 0 && !(emptied && worked) {
            return;
        }
        let seat = self
            .seats
            .iter()
            .position(|seat| seat.is_some_and(|seat| seat.at == at));
        match seat {
            // It has work and does nothing: it would be looked at for ever.
            Some(i) if !(emptied && worked) => self.vacate(i, hcas, schedule, env),
            None if emptied && worked => self.seat(hcas, env, at),
            _ => {}
        }
    }

    #[cold]
    fn seat<E: Env>(&mut self, hcas: &mut Hcas, env: &E, at: QpRef) {
        let Some(i) = self.seats.iter().position(Option::is_none) else {
            return;
        };
        let Some((page, slot)) = hcas.qp_mut(at).map(|qp| (qp.doorbell, qp.slot)) else {
            return;
        };
        publish(hcas, env, at.hca, page, i, Some(slot));
        self.seats[i] = Some(Seat {
            at,
            page,
            slot,
            unused: 0,
        });
        self.taken += 1;
        // An entry that was posted meanwhile, by a driver that has seen the page or rung, is found by the next look.
    }

    /// Frees a seat. Whoever has its slot now may have posted something without ringing, and gets a turn then.
    #[cold]
    fn vacate<E: Env>(&mut self, i: usize, hcas: &mut Hcas, schedule: &mut Schedule, env: &E) {
        let Some(seat) = self.seats[i].take() else {
            return;
        };
        self.taken -= 1;
        let hca = seat.at.hca;
        publish(hcas, env, hca, seat.page, i, None);
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

    /// Frees all seats: the device is going to sleep, and looks at nothing then.
    pub(crate) fn vacate_all<E: Env>(&mut self, hcas: &mut Hcas, schedule: &mut Schedule, env: &E) {
        for i in 0..WATCH_SEATS {
            if self.seats[i].is_some() {
                self.vacate(i, hcas, schedule, env);
            }
        }
    }

    /// Forgets the queues of an HCA that is gone, and with it its doorbell pages.
    pub(crate) fn forget(&mut self, hca: HcaId) {
        for seat in &mut self.seats {
            if seat.is_some_and(|seat| seat.at.hca == hca) {
                *seat = None;
                self.taken -= 1;
            }
        }
    }
}

/// Tells a doorbell page which slot seat `i` watches.
fn publish<E: Env>(hcas: &mut Hcas, env: &E, hca: HcaId, page: u32, i: usize, slot: Option<u16>) {
    let page = hcas.get_mut(hca).and_then(|hca| hca.doorbells.get_mut(page));
    if let Some(page) = page {
        page.set_watched(env.ram(hca), i, slot);
    }
}

/// Whether a queue pair's send queue can be watched: it takes whatever comes next, and nothing before that is unfinished.
#[inline]
pub(crate) fn is_ready(qp: &Qp) -> bool {
    qp.state == QpState::RTS && qp.wait == Wait::Nothing && qp.req.current.is_none() && qp.wire.is_none()
}
