// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send queues that are rung for and send ordinary messages: they go on loan as the watched ones do ([`crate::loan`]), so that
//! workers serve them beside each other.
//!
//! For one worker alone there is nothing to gain: it has the engine to itself, and what rings is looked up once a turn anyhow.

use crate::engine::Hcas;
use crate::env::HcaId;
use crate::schedule::QpRef;
use crate::watch::PASSED_OVER;

/// Most of them in one loan.
pub(crate) const MEMBERS: usize = 64;

/// Most loans that go by without them, once they have not been worth it.
const LEFT_OUT: u32 = 256;

/// The queues that last had a turn of ordinary messages, of all workers.
#[derive(Debug, Default)]
pub(crate) struct Regulars {
    queues: Vec<QpRef>,
    most: usize,
    /// Whose place goes to the next one when there is no other.
    oldest: usize,
    /// Loans to be made without them, and how many it will be the next time.
    left_out: u32,
    penalty: u32,
}

impl Regulars {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            most: if workers > 1 { workers * MEMBERS } else { 0 },
            penalty: 1,
            ..Self::default()
        }
    }

    /// Nobody would have them.
    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        self.most == 0
    }

    /// A queue that is not watched had a turn, and emptied it.
    pub(crate) fn note(&mut self, hcas: &mut Hcas, at: QpRef) {
        let Some(qp) = hcas.qp_mut(at) else { return };
        if qp.regular || qp.passed_over > 0 {
            qp.passed_over = qp.passed_over.saturating_sub(1);
            return;
        }
        qp.regular = true;
        if self.queues.len() < self.most {
            self.queues.push(at);
            return;
        }
        let before = core::mem::replace(&mut self.queues[self.oldest], at);
        self.oldest = (self.oldest + 1) % self.most;
        if let Some(qp) = hcas.qp_mut(before) {
            qp.regular = false;
        }
    }

    /// A queue had something that a loan is not for. It may well go on so.
    pub(crate) fn refused(&mut self, hcas: &mut Hcas, at: QpRef) {
        self.queues.retain(|&queue| queue != at);
        self.oldest = 0;
        if let Some(qp) = hcas.qp_mut(at) {
            (qp.regular, qp.passed_over) = (false, PASSED_OVER);
        }
    }

    /// Forgets the queues of an HCA that is gone.
    pub(crate) fn forget(&mut self, hca: HcaId) {
        self.queues.retain(|at| at.hca != hca);
        self.oldest = 0;
    }

    /// Those for the next loans. One that `serves` is false of comes back when it has had another turn.
    pub(crate) fn queues(&mut self, hcas: &mut Hcas, mut serves: impl FnMut(&mut Hcas, QpRef) -> bool) {
        if self.left_out > 0 {
            self.left_out -= 1;
            return;
        }
        self.queues.retain(|&at| {
            let stays = serves(hcas, at);
            if let (false, Some(qp)) = (stays, hcas.qp_mut(at)) {
                qp.regular = false;
            }
            stays
        });
        self.oldest = 0;
    }

    /// Loans of so many of them have executed so many messages. Taking one out and putting it back costs about a message, so
    /// where the engine is wanted whole more often than that they stay at home for a while.
    pub(crate) fn came_back(&mut self, lent: usize, messages: u64) {
        if lent == 0 {
            return;
        }
        if messages >= lent as u64 {
            self.penalty = 1;
        } else {
            self.left_out = self.penalty;
            self.penalty = (2 * self.penalty).min(LEFT_OUT);
        }
    }
}
