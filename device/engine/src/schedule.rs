// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which queue pairs have something to do now, and which at a later time.
//!
//! The cost of both is in what happens, not in how many queue pairs exist.

use crate::env::HcaId;
use crate::qp::{Qp, Wait};
use crate::time::Time;
use std::collections::{BTreeSet, VecDeque};
use verbena_hw::id::Qpn;

/// A queue pair of the engine. The number has its generation in it, so a reference to a destroyed one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QpRef {
    pub(crate) hca: HcaId,
    pub(crate) qpn: Qpn,
}

/// What a queue pair waits for a time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// [`Wait`].
    Wait,
    /// Its rate limit, beside whatever else.
    Pace,
}

/// The queue pairs that wait for a turn, and those that wait for a time.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    active: VecDeque<QpRef>,
    timers: BTreeSet<(Time, QpRef, Timer)>,
    /// Completion queues, by number, that hold an event back.
    cq_timers: BTreeSet<(Time, HcaId, u32)>,
}

impl Schedule {
    /// Gives the queue pair a turn, unless it already has one coming.
    #[inline]
    pub(crate) fn activate(&mut self, hca: HcaId, qp: &mut Qp) {
        if !core::mem::replace(&mut qp.active, true) {
            self.active.push_back(QpRef { hca, qpn: qp.qpn });
        }
    }

    /// Takes the next one off; its `active` flag is the caller's to clear.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<QpRef> {
        self.active.pop_front()
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    pub(crate) fn active_len(&self) -> usize {
        self.active.len()
    }

    /// Makes the queue pair wait until `at`. A queue pair waits for one thing at a time.
    pub(crate) fn wait(&mut self, hca: HcaId, qp: &mut Qp, why: Wait, at: Option<Time>) {
        self.disarm(hca, qp);
        qp.wait = why;
        qp.deadline = at;
        if let Some(at) = at {
            self.timers.insert((at, QpRef { hca, qpn: qp.qpn }, Timer::Wait));
        }
    }

    /// Ends the wait, if there is one.
    pub(crate) fn disarm(&mut self, hca: HcaId, qp: &mut Qp) {
        qp.wait = Wait::Nothing;
        if let Some(at) = qp.deadline.take() {
            self.timers.remove(&(at, QpRef { hca, qpn: qp.qpn }, Timer::Wait));
        }
    }

    /// A queue pair whose time has come.
    pub(crate) fn expired(&mut self, now: Time) -> Option<(QpRef, Timer)> {
        let &(at, ..) = self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first().map(|(_, qp, timer)| (qp, timer))
    }

    /// Gives the queue pair a turn at `at`, for its rate limit's sake; `timer` is its own.
    pub(crate) fn pace(&mut self, qp: QpRef, timer: &mut Option<Time>, at: Time) {
        if let Some(before) = timer.replace(at) {
            self.timers.remove(&(before, qp, Timer::Pace));
        }
        self.timers.insert((at, qp, Timer::Pace));
    }

    /// Ends that, if there is one.
    pub(crate) fn unpace(&mut self, hca: HcaId, qp: &mut Qp) {
        if let Some(at) = qp.pace.as_mut().and_then(|pace| pace.timer.take()) {
            self.timers.remove(&(at, QpRef { hca, qpn: qp.qpn }, Timer::Pace));
        }
    }

    /// Makes a completion queue's event wait until `at`.
    pub(crate) fn wait_cq(&mut self, hca: HcaId, cqn: u32, timer: &mut Option<Time>, at: Time) {
        self.disarm_cq(hca, cqn, timer);
        *timer = Some(at);
        self.cq_timers.insert((at, hca, cqn));
    }

    /// Ends the wait of a completion queue's event, if there is one.
    pub(crate) fn disarm_cq(&mut self, hca: HcaId, cqn: u32, timer: &mut Option<Time>) {
        if let Some(at) = timer.take() {
            self.cq_timers.remove(&(at, hca, cqn));
        }
    }

    /// A completion queue whose event's time has come.
    pub(crate) fn expired_cq(&mut self, now: Time) -> Option<(HcaId, u32)> {
        let &(at, hca, cqn) = self.cq_timers.first()?;
        if at > now {
            return None;
        }
        self.cq_timers.pop_first();
        Some((hca, cqn))
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let queue_pairs = self.timers.first().map(|&(at, ..)| at);
        let events = self.cq_timers.first().map(|&(at, _, _)| at);
        match (queue_pairs, events) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Forgets every queue pair of an HCA.
    pub(crate) fn forget(&mut self, hca: HcaId) {
        self.active.retain(|qp| qp.hca != hca);
        self.timers.retain(|(_, qp, _)| qp.hca != hca);
        self.cq_timers.retain(|(_, id, _)| *id != hca);
    }
}
