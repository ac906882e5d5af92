// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send queues that are rung for and send ordinary messages: they go on loan as the watched ones do ([`crate::loan`]), so that
//! workers serve them beside each other.
//!
//! For one worker alone there is nothing to gain: it has the engine to itself, and what rings is looked up once a turn anyhow.
//!
//! A queue becomes one when a turn has emptied it, and is none any more when [`UNUSED`] loans in a row have brought it back without
//! a message: those that have fallen silent make room for those that have not.

use crate::engine::Hcas;
use crate::env::HcaId;
use crate::schedule::QpRef;
use crate::watch::PASSED_OVER;

/// Most of them in one loan.
pub(crate) const MEMBERS: usize = 64;

/// Loans without a message after which a queue is none of them any more.
const UNUSED: u32 = 8;

/// How a queue stands to them.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// It is one.
    is_one: bool,
    /// Turns before it may be one again.
    passed_over: u32,
    /// Loans in a row that had no message of it.
    unused: u32,
}

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
        if qp.regular.is_one || qp.regular.passed_over > 0 {
            qp.regular.passed_over = qp.regular.passed_over.saturating_sub(1);
            return;
        }
        qp.regular = Standing {
            is_one: true,
            ..Standing::default()
        };
        if self.queues.len() < self.most {
            self.queues.push(at);
            return;
        }
        let before = core::mem::replace(&mut self.queues[self.oldest], at);
        self.oldest = (self.oldest + 1) % self.most;
        end(hcas, before, 0);
    }

    /// One had something that a loan is not for. It may well go on so.
    pub(crate) fn refused(&mut self, hcas: &mut Hcas, at: QpRef) {
        self.remove(hcas, at, PASSED_OVER);
    }

    /// One has come back from a loan, in which it had messages or none.
    pub(crate) fn used(&mut self, hcas: &mut Hcas, at: QpRef, worked: bool) {
        let Some(qp) = hcas.qp_mut(at) else { return };
        qp.regular.unused = if worked { 0 } else { qp.regular.unused + 1 };
        if qp.regular.unused == UNUSED {
            self.remove(hcas, at, 0);
        }
    }

    fn remove(&mut self, hcas: &mut Hcas, at: QpRef, passed_over: u32) {
        self.queues.retain(|&queue| queue != at);
        self.oldest = 0;
        end(hcas, at, passed_over);
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
        let before = self.queues.len();
        self.queues.retain(|&at| {
            let stays = serves(hcas, at);
            if !stays {
                end(hcas, at, 0);
            }
            stays
        });
        // Where there is room again, the next ones go behind the others.
        if self.queues.len() < before {
            self.oldest = 0;
        }
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

/// The queue is none of them any more, nor for so many turns.
fn end(hcas: &mut Hcas, at: QpRef, passed_over: u32) {
    if let Some(qp) = hcas.qp_mut(at) {
        qp.regular = Standing {
            passed_over,
            ..Standing::default()
        };
    }
}
