// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs that the engine lends to a worker.
//!
//! A watched queue (`watch`) sends ordinary messages most of the time (`qp::express`), and those need of the
//! whole engine no more than two queue pairs, two completion queues, and a look at the regions that their keys name. So when
//! the engine is at rest, it lends these objects to the worker that watches the queue, [`Engine::lend`]. The worker then
//! executes what is posted with nothing but a shared reference to the engine, [`Loan::run`]: nothing is looked up a second
//! time while it lasts, and several workers, each with a loan of its own, write nothing in common.
//!
//! Whatever else happens (a doorbell, a command, a timer, a message that is not ordinary, an event to raise) needs the
//! engine whole: [`Engine::recall`] puts everything back where it was and does what the runs have left to do. An object is
//! in one loan at most, and only by all of what a message needs being in one loan does a queue come into it.

use crate::cq::{self, Cq, Notify};
use crate::engine::{Engine, Hcas};
use crate::env::{Env, HcaId};
use crate::hca::Cx;
use crate::limits::TURN;
use crate::qp::express::{self, Completions, Done, End, Parts, Run};
use crate::qp::Qp;
use crate::ram::Unreachable;
use crate::schedule::QpRef;
use crate::time::Time;
use crate::watch::{Watch, SEATS};
use crate::Budget;
use verbena_hw::id::Cqn;

/// The objects that one worker has, and what it has done with them.
#[derive(Default)]
pub struct Loan {
    pairs: Vec<Pair>,
    objects: Objects,
    /// What the drivers are to be told about completion queues.
    news: Vec<(CqRef, Result<Notify, Unreachable>)>,
}

type CqRef = (HcaId, Cqn);

#[derive(Default)]
struct Objects {
    qps: Vec<(QpRef, Box<Qp>)>,
    cqs: Vec<(CqRef, Box<Cq>)>,
}

/// A watched queue and all that its messages need, by position in the loan.
struct Pair {
    at: QpRef,
    peer_at: QpRef,
    qp: usize,
    peer: usize,
    send_cq: usize,
    /// `None`: the same.
    recv_cq: Option<usize>,
    done: Done,
    /// The next entry is for the general path.
    other: bool,
}

/// Looks between two looks at the clock: a fraction of a microsecond.
const TICK: u32 = 8;

/// What [`Loan::run`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Messages were executed.
    pub worked: bool,
    /// It ended because its looks were used up, and for no other reason.
    pub idle: bool,
}

impl AsMut<Loan> for Loan {
    fn as_mut(&mut self) -> &mut Loan {
        self
    }
}

impl Loan {
    /// Executes the ordinary messages of the queues on loan as they are posted, until `looks` looks in a row have found
    /// nothing, or `worker`, whose loan it is, has something else to do, or `interrupted` says so.
    ///
    /// It asks `clock` after each run of messages and after every few looks, so as not to make a message wait for the
    /// answer: completions bear the time of the last look before their message was found.
    pub fn run<E: Env>(
        &mut self,
        (engine, worker): (&Engine, usize),
        env: &E,
        clock: impl Fn() -> Time,
        looks: u32,
        interrupted: impl Fn() -> bool,
    ) -> Ran {
        let mut ran = Ran::default();
        if looks == 0 || engine.has_work(worker, env) {
            return ran;
        }
        let Self { pairs, objects, news } = self;
        let mut runs: [Option<Run<'_, E::Ram>>; SEATS] = core::array::from_fn(|_| None);
        for (slot, pair) in runs.iter_mut().zip(&*pairs) {
            let [own, peer] = [pair.qp, pair.peer].map(|i| &*objects.qps[i].1);
            *slot = engine.run_between(env, (pair.at, own), (pair.peer_at, peer));
        }
        let bells = engine.bells(worker, env);
        let deadline = engine.next_deadline();
        let mut now = clock();
        let mut left = looks;
        loop {
            let mut found = false;
            for (slot, pair) in runs.iter_mut().zip(&mut *pairs) {
                let Some(run) = slot else { continue };
                if !run.is_posted(&objects.qps[pair.qp].1) {
                    continue;
                }
                found = true;
                let goes_on = pair.turn(run, env, objects, news, now);
                ran.worked |= pair.done.messages > 0;
                if !goes_on {
                    return ran;
                }
            }
            if found {
                left = looks;
                now = clock();
            } else {
                left -= 1;
                if left == 0 {
                    ran.idle = true;
                    return ran;
                }
                if left % TICK == 0 {
                    now = clock();
                }
                // Two virtual processors may well be one real one's threads: the other is the program that is waited for.
                core::hint::spin_loop();
            }
            if interrupted() || deadline.is_some_and(|at| at <= now) || engine.has_rung(&bells, worker, env) {
                return ran;
            }
        }
    }

    fn holds(&self, wanted: &Wanted) -> bool {
        let Objects { qps, cqs } = &self.objects;
        find(qps, &wanted.at).is_some()
            || find(qps, &wanted.peer).is_some()
            || wanted.cqs().iter().any(|cq| find(cqs, cq).is_some())
    }

    /// Moves a queue and what it needs into the loan, as far as it is not there.
    fn add(&mut self, hcas: &mut Hcas, wanted: &Wanted) {
        let Objects { qps, cqs } = &mut self.objects;
        let mut qp = |at: QpRef| {
            find(qps, &at).unwrap_or_else(|| {
                let hca = hcas.get_mut(at.hca);
                let qp = hca.and_then(|hca| hca.qps.lend(at.qpn.get()));
                qps.push((at, qp.expect("it is in no other loan")));
                qps.len() - 1
            })
        };
        let (own, peer) = (qp(wanted.at), qp(wanted.peer));
        let mut cq = |at: CqRef| {
            find(cqs, &at).unwrap_or_else(|| {
                let hca = hcas.get_mut(at.0);
                let cq = hca.and_then(|hca| hca.cqs.lend(at.1.get()));
                cqs.push((
                    at,
                    cq.expect("a queue pair holds its completion queues: DESTROY_CQ answers IN_USE"),
                ));
                cqs.len() - 1
            })
        };
        let [send, recv] = wanted.cqs().map(&mut cq);
        self.pairs.push(Pair {
            at: wanted.at,
            peer_at: wanted.peer,
            qp: own,
            peer,
            send_cq: send,
            recv_cq: (recv != send).then_some(recv),
            done: Done::default(),
            other: false,
        });
    }
}

/// The position of the object `key` on loan.
fn find<K: PartialEq, T>(list: &[(K, T)], key: &K) -> Option<usize> {
    list.iter().position(|(k, _)| k == key)
}

/// Two different objects of a list at once.
fn two<T>(list: &mut [T], a: usize, b: usize) -> Option<(&mut T, &mut T)> {
    let (low, high) = list.split_at_mut_checked(a.max(b))?;
    let (first, second) = (low.get_mut(a.min(b))?, high.first_mut()?);
    Some(if a < b { (first, second) } else { (second, first) })
}

impl Objects {
    #[inline]
    fn parts(&mut self, pair: &Pair) -> Option<Parts<'_>> {
        let ((_, qp), (_, peer)) = two(&mut self.qps, pair.qp, pair.peer)?;
        let (send_cq, recv_cq) = match pair.recv_cq {
            None => (&mut self.cqs.get_mut(pair.send_cq)?.1, None),
            Some(recv_cq) => {
                let ((_, send), (_, recv)) = two(&mut self.cqs, pair.send_cq, recv_cq)?;
                (send, Some(&mut **recv))
            }
        };
        Some(Parts {
            qp,
            peer,
            send_cq,
            recv_cq,
        })
    }
}

impl Pair {
    /// Executes what is posted, at most a turn of it. `false`: there is something that the engine has to do.
    #[inline]
    fn turn<E: Env>(
        &mut self,
        run: &mut Run<'_, E::Ram>,
        env: &E,
        objects: &mut Objects,
        news: &mut Vec<(CqRef, Result<Notify, Unreachable>)>,
        now: Time,
    ) -> bool {
        let Some(mut parts) = objects.parts(self) else {
            return false;
        };
        let (mut left, mut budget) = (TURN, Budget::default());
        let end = run.messages(&mut parts, now, &mut left, &mut budget);
        let done = core::mem::take(&mut run.done);
        self.done.messages += done.messages;
        self.done.bytes += done.bytes;
        self.done.receives += done.receives;
        self.other = end == End::Other;
        if done.sent.fault.is_some() || done.received.fault.is_some() {
            (self.done.sent, self.done.received) = (done.sent, done.received);
            return false;
        }
        if done.sent.dirty || done.received.dirty {
            cq::fence_before_arm();
            let received = done.received.dirty.then_some(self.recv_cq.unwrap_or(self.send_cq));
            for i in done.sent.dirty.then_some(self.send_cq).into_iter().chain(received) {
                let (at, cq) = &mut objects.cqs[i];
                match cq.wants_event(env.ram(at.0), now) {
                    // Also at the second look at a queue of both sides.
                    Ok(Notify::Nothing) => {}
                    told => news.push((*at, told)),
                }
            }
        }
        !self.other && news.is_empty()
    }
}

/// A watched queue that can be lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    at: QpRef,
    peer: QpRef,
    send_cqn: Cqn,
    recv_cqn: Cqn,
    /// Whose doorbell page it is in.
    worker: usize,
}

impl Wanted {
    fn cqs(&self) -> [CqRef; 2] {
        [(self.at.hca, self.send_cqn), (self.peer.hca, self.recv_cqn)]
    }
}

/// Fills the workers' loans, which are empty. `false`: they have stayed empty.
pub(crate) fn lend<E: Env, L: AsMut<Loan>>(
    hcas: &mut Hcas,
    watch: &mut Watch,
    cx: &mut Cx<'_, E>,
    loans: &mut [L],
) -> bool {
    if watch.is_empty() {
        return false;
    }
    // All are looked at before any is taken: what is on loan cannot be found in its table.
    let mut list = core::mem::take(&mut watch.scratch);
    for (at, worker) in watch.queues() {
        let Some(peer) = express::begins(hcas, cx, at) else {
            continue;
        };
        if let Some(Completions { send, recv, .. }) = express::in_step(hcas, cx.env, at, peer) {
            list.push(Wanted {
                at,
                peer,
                send_cqn: send,
                recv_cqn: recv,
                worker,
            });
        }
    }
    let mut any = false;
    for wanted in list.drain(..) {
        let (mut holder, mut other) = (None, None);
        for (i, loan) in loans.iter_mut().enumerate() {
            if loan.as_mut().holds(&wanted) {
                *if holder.is_none() { &mut holder } else { &mut other } = Some(i);
            }
        }
        let worker = holder.unwrap_or(wanted.worker);
        if worker != wanted.worker {
            watch.move_to(hcas, wanted.at, worker);
        }
        if let Some(other) = other {
            // It has objects of both. With all of the second at the first, the next loans will do.
            for pair in &loans[other].as_mut().pairs {
                watch.move_to(hcas, pair.at, worker);
            }
            continue;
        }
        let loan = loans[worker].as_mut();
        if loan.pairs.len() == SEATS {
            continue;
        }
        loan.add(hcas, &wanted);
        watch.set_lent(wanted.at, true);
        any = true;
    }
    watch.scratch = list;
    any
}

/// Puts everything back that is in a loan, and does what its runs have left to do.
pub(crate) fn recall<E: Env>(hcas: &mut Hcas, watch: &mut Watch, cx: &mut Cx<'_, E>, loan: &mut Loan) {
    let gone = "nothing that is on loan goes away";
    for (at, qp) in loan.objects.qps.drain(..) {
        hcas.get_mut(at.hca).expect(gone).qps.give_back(at.qpn.get(), qp);
    }
    for ((hca, cqn), cq) in loan.objects.cqs.drain(..) {
        hcas.get_mut(hca).expect(gone).cqs.give_back(cqn.get(), cq);
    }
    for pair in loan.pairs.drain(..) {
        watch.set_lent(pair.at, false);
        if pair.done.messages > 0 {
            watch.used(pair.at);
        }
        let Pair { at, peer_at, done, .. } = pair;
        done.account(hcas, at, peer_at);
        if let Some(cqn) = hcas.qp_mut(peer_at).map(|qp| qp.recv_cqn) {
            done.received.settle(hcas, cx, peer_at, cqn);
        }
        if let Some(cqn) = hcas.qp_mut(at).map(|qp| qp.send_cqn) {
            done.sent.settle(hcas, cx, at, cqn);
        }
        for id in [at.hca, peer_at.hca] {
            hcas.get_mut(id).expect(gone).notify(cx);
        }
        if pair.other {
            watch.refused(at);
            if let Some(qp) = hcas.qp_mut(at) {
                cx.schedule.activate(at.hca, qp);
            }
        }
    }
    for ((hca, cqn), told) in loan.news.drain(..) {
        hcas.get_mut(hca).expect(gone).tell(cx, cqn.get(), told);
    }
}
