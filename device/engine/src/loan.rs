// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs that the engine lends to a worker.
//!
//! A queue sends ordinary messages most of the time (`qp::express`), and those need of the
//! whole engine no more than two queue pairs, two completion queues, and a look at the regions that their keys name. So when
//! the engine is at rest, it lends these objects to the worker whose doorbell page the queue is in, [`Engine::lend`]. The worker
//! then executes what is posted with nothing but a shared reference to the engine, [`Loan::run`], and several workers, each
//! with a loan of its own, write nothing in common.
//!
//! Watched queues (`watch`) come first: the worker looks at them, and what their messages need stays looked up while the loan
//! lasts. If there are several workers, the queues that are rung for (`regulars`) follow as *members*: the worker takes their
//! bits out of the doorbell page, and gives each its turn.
//!
//! Whatever else happens (a doorbell of another queue, a command, a timer, a message that is not ordinary, an event to raise)
//! needs the engine whole: [`Engine::recall`] puts everything back where it was and does what the runs have left to do. An
//! object is in one loan at most, and only by all of what a message needs being in one loan does a queue come into it.

use crate::cq::{self, Cq, Notify};
use crate::doorbell::Rung;
use crate::engine::{Engine, Hcas};
use crate::env::{Env, HcaId};
use crate::hca::Cx;
use crate::limits::TURN;
use crate::qp::express::{self, Completions, Done, End, Parts, Run};
use crate::qp::Qp;
use crate::ram::Unreachable;
use crate::regulars::{Regulars, MEMBERS};
use crate::schedule::QpRef;
use crate::table::{Place, Table};
use crate::time::Time;
use crate::watch::{self, Watch, PATIENCE, SEATS};
use crate::Budget;
use std::collections::VecDeque;
use verbena_hw::id::Cqn;

/// The objects that one worker has, and what it has done with them.
#[derive(Default)]
pub struct Loan {
    /// Watched queues, and behind them members.
    pairs: Vec<Pair>,
    watched: usize,
    rings: Rings,
    /// Turns that members had.
    turns: u32,
    objects: Objects,
    /// What the drivers are to be told about completion queues.
    news: Vec<(CqRef, Result<Notify, Unreachable>)>,
}

/// An HCA, a doorbell page of it, and a slot in that.
type Slot = (HcaId, u32, u32);

type CqRef = (HcaId, Cqn);

#[derive(Default)]
struct Objects {
    qps: Vec<(QpRef, Box<Qp>)>,
    cqs: Vec<(CqRef, Box<Cq>)>,
}

/// A queue and all that its messages need, by position in the loan.
struct Pair {
    at: QpRef,
    peer_at: QpRef,
    /// Its doorbell page.
    page: u32,
    qp: usize,
    peer: usize,
    send_cq: usize,
    /// `None`: the same.
    recv_cq: Option<usize>,
    done: Done,
    /// The next entry is for the general path.
    other: bool,
    /// A member that has a turn coming.
    active: bool,
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
        let busy = if self.pairs.len() > self.watched {
            Engine::needs_all
        } else {
            Engine::has_work
        };
        if looks == 0 || busy(engine, worker, env) {
            return ran;
        }
        let Self {
            pairs, objects, news, ..
        } = self;
        let (pairs, members) = pairs.split_at_mut(self.watched);
        let mut runs: [Option<Run<'_, '_, E::Ram>>; SEATS] = core::array::from_fn(|_| None);
        for (slot, pair) in runs.iter_mut().zip(&*pairs) {
            let [own, peer] = [pair.qp, pair.peer].map(|i| &*objects.qps[i].1);
            *slot = engine.run_between(env, (pair.at, own), (pair.peer_at, peer));
        }
        let bells = engine.bells(worker, env);
        // Without members, that has been looked at.
        let rung = if members.is_empty() {
            None
        } else {
            engine.has_rung(&bells, worker, env)
        };
        if rung.is_some_and(|rung| !self.rings.take(engine, env, rung, members)) {
            return ran;
        }
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
            // Those that are active now, once each; no more of them than would let the engine wait.
            for _ in 0..self.rings.active.len().min(SEATS) {
                let Some(i) = self.rings.active.pop_front() else { break };
                let Some(pair) = members.get_mut(i) else { continue };
                found = true;
                self.turns += 1;
                let [own, peer] = [pair.qp, pair.peer].map(|i| &*objects.qps[i].1);
                let run = engine.run_between(env, (pair.at, own), (pair.peer_at, peer));
                let Some(mut run) = run else { return ran };
                let goes_on = pair.member_turn(&mut run, env, objects, news, now);
                ran.worked |= pair.done.messages > 0;
                pair.active = !goes_on || run.is_posted(&objects.qps[pair.qp].1);
                if pair.active {
                    self.rings.active.push_back(i);
                }
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
            if interrupted() || deadline.is_some_and(|at| at <= now) {
                return ran;
            }
            let rung = engine.has_rung(&bells, worker, env);
            if rung.is_some_and(|rung| !self.rings.take(engine, env, rung, members)) {
                return ran;
            }
            // Whoever serves others so often, and not all that it looks at, should look at those.
            if self.turns >= PATIENCE && (pairs.len() < SEATS || pairs.iter().any(|pair| pair.done.messages == 0)) {
                return ran;
            }
        }
    }

    /// Moves a queue and what it needs into the loan of `worker`, as far as it is not there.
    fn add(&mut self, hcas: &mut Hcas, worker: usize, wanted: &Wanted) {
        let Objects { qps, cqs } = &mut self.objects;
        let mut qp = |at: QpRef| {
            let hca = hcas.get_mut(at.hca).expect(GONE);
            position(&mut hca.qps, at.qpn.get(), (at, qps), worker)
        };
        let (own, peer) = (qp(wanted.at), qp(wanted.peer));
        let mut cq = |at: CqRef| {
            let hca = hcas.get_mut(at.0).expect(GONE);
            position(&mut hca.cqs, at.1.get(), (at, cqs), worker)
        };
        let [send, recv] = wanted.cqs().map(&mut cq);
        self.pairs.push(Pair {
            at: wanted.at,
            peer_at: wanted.peer,
            page: wanted.page,
            qp: own,
            peer,
            send_cq: send,
            recv_cq: (recv != send).then_some(recv),
            done: Done::default(),
            other: false,
            active: false,
        });
    }
}

const GONE: &str = "nothing that is on loan, or will be, goes away";

/// The position among `list` of the object `number`, which goes there if it is not on loan yet.
fn position<T, K>(table: &mut Table<T>, number: u32, (key, list): (K, &mut Vec<(K, T)>), worker: usize) -> usize {
    match table.place(number) {
        Some(place) => place.position(),
        None => {
            let position = list.len();
            let object = table.lend_to(number, Place::new(worker, position));
            // A queue pair holds its completion queues: DESTROY_CQ answers IN_USE.
            list.push((key, object.expect(GONE)));
            position
        }
    }
}

/// What the bits of doorbell pages lead to.
#[derive(Default)]
struct Rings {
    /// The members' positions among themselves, in the order of their slots.
    slots: Vec<(Slot, usize)>,
    /// Members with a turn coming.
    active: VecDeque<usize>,
    /// What has rung and is not on loan.
    strangers: Vec<QpRef>,
}

impl Rings {
    /// Takes what has rung out of its page. `false`: not all of it is `members`'.
    fn take<E: Env>(&mut self, engine: &Engine, env: &E, rung: Rung, members: &mut [Pair]) -> bool {
        let Rung::Page(hca, index) = rung else { return false };
        if members.is_empty() {
            return false;
        }
        let Some(page) = engine.page(hca, index) else {
            return false;
        };
        page.take(env.ram(hca), false, |slot| {
            match self.slots.binary_search_by_key(&(hca, index, slot), |(slot, _)| *slot) {
                Ok(found) => {
                    let member = self.slots[found].1;
                    if !core::mem::replace(&mut members[member].active, true) {
                        self.active.push_back(member);
                    }
                }
                Err(_) => self.strangers.extend(page.queue(slot).map(|qpn| QpRef { hca, qpn })),
            }
        });
        self.strangers.is_empty()
    }
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
    /// [`Pair::turn`], apart from the loop over watched queues.
    #[inline(never)]
    fn member_turn<E: Env>(
        &mut self,
        run: &mut Run<'_, '_, E::Ram>,
        env: &E,
        objects: &mut Objects,
        news: &mut Vec<(CqRef, Result<Notify, Unreachable>)>,
        now: Time,
    ) -> bool {
        self.turn(run, env, objects, news, now)
    }

    /// Executes what is posted, at most a turn of it. `false`: there is something that the engine has to do.
    #[inline(always)]
    fn turn<E: Env>(
        &mut self,
        run: &mut Run<'_, '_, E::Ram>,
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

/// A queue that can be lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    at: QpRef,
    peer: QpRef,
    send_cqn: Cqn,
    recv_cqn: Cqn,
    /// The doorbell page that it is in, the slot, and whose it is.
    page: u32,
    slot: u16,
    worker: usize,
}

impl Wanted {
    /// `None`: its next message cannot be an ordinary one.
    fn new<E: Env>(hcas: &mut Hcas, watch: &Watch, cx: &mut Cx<'_, E>, at: QpRef) -> Option<Self> {
        let peer = express::begins(hcas, cx, at)?;
        let (hca, peer_hca) = (hcas.get(at.hca)?, hcas.get(peer.hca)?);
        let (qp, peer_qp) = (hca.qps.get(at.qpn.get())?, peer_hca.qps.get(peer.qpn.get())?);
        let in_step = express::in_step(cx.env, (at.hca, qp), (peer.hca, peer_qp));
        let Completions { send, recv, .. } = in_step.filter(|_| at != peer)?;
        let worker = watch.worker_of(at.hca, qp.doorbell, hca.doorbells.get(qp.doorbell)?);
        Some(Self {
            at,
            peer,
            send_cqn: send,
            recv_cqn: recv,
            page: qp.doorbell,
            slot: qp.slot,
            worker,
        })
    }

    /// Who has some of it already.
    fn holders(&self, hcas: &Hcas) -> impl Iterator<Item = usize> {
        let qps = [self.at, self.peer].map(|at| hcas.get(at.hca).and_then(|hca| hca.qps.place(at.qpn.get())));
        let cqs = self
            .cqs()
            .map(|at| hcas.get(at.0).and_then(|hca| hca.cqs.place(at.1.get())));
        qps.into_iter().chain(cqs).flatten().map(Place::worker)
    }

    fn cqs(&self) -> [CqRef; 2] {
        [(self.at.hca, self.send_cqn), (self.peer.hca, self.recv_cqn)]
    }
}

/// Fills the workers' loans, which are empty. `false`: they have stayed empty. `list` is memory to work in.
pub(crate) fn lend<E: Env, L: AsMut<Loan>>(
    hcas: &mut Hcas,
    (watch, regulars, list): (&mut Watch, &mut Regulars, &mut Vec<Wanted>),
    cx: &mut Cx<'_, E>,
    loans: &mut [L],
) -> bool {
    // All are looked at before any is taken: what is on loan cannot be found in its table.
    for seat in 0..watch.len() {
        if let Some(at) = watch.lendable(seat) {
            list.extend(Wanted::new(hcas, watch, cx, at));
        }
    }
    let watched = list.len();
    regulars.queues(hcas, |hcas, at| {
        let wanted = match watch.is_watched(at) {
            true => None,
            false => Wanted::new(hcas, watch, cx, at),
        };
        let stays = wanted.is_some();
        list.extend(wanted.filter(|wanted| !watch.is_asleep(wanted.worker)));
        stays
    });
    let members = list.len() > watched;
    let mut any = false;
    for (i, wanted) in list.drain(..).enumerate() {
        let (mut holder, mut other) = (None, None);
        for worker in wanted.holders(hcas) {
            match holder {
                None => holder = Some(worker),
                Some(first) if first != worker => other = Some(worker),
                Some(_) => {}
            }
        }
        let worker = holder.unwrap_or(wanted.worker);
        if worker != wanted.worker {
            watch.move_to(hcas, (wanted.at.hca, wanted.page), worker);
        }
        if let Some(other) = other {
            // It has objects of both. With all of the second at the first, the next loans will do.
            for pair in &loans[other].as_mut().pairs {
                watch.move_to(hcas, (pair.at.hca, pair.page), worker);
            }
            continue;
        }
        let loan = loans[worker].as_mut();
        if i < watched {
            if loan.watched == SEATS {
                continue;
            }
            loan.watched += 1;
            watch.set_lent(wanted.at, true);
        } else {
            if loan.rings.slots.len() == MEMBERS {
                continue;
            }
            let slot = (wanted.at.hca, wanted.page, wanted.slot.into());
            loan.rings.slots.push((slot, loan.pairs.len() - loan.watched));
        }
        loan.add(hcas, worker, &wanted);
        any = true;
    }
    if members {
        for loan in loans {
            loan.as_mut().rings.slots.sort_unstable();
        }
    }
    any
}

/// Puts everything back that is in a loan.
pub(crate) fn give_back(hcas: &mut Hcas, loan: &mut Loan) {
    for (at, qp) in loan.objects.qps.drain(..) {
        hcas.get_mut(at.hca).expect(GONE).qps.give_back(at.qpn.get(), qp);
    }
    for ((hca, cqn), cq) in loan.objects.cqs.drain(..) {
        hcas.get_mut(hca).expect(GONE).cqs.give_back(cqn.get(), cq);
    }
}

/// Does what the runs of a loan have left to do. All loans have been given back: what rang for one worker can have been on loan
/// to another one, for its peer's sake.
pub(crate) fn settle<E: Env>(
    hcas: &mut Hcas,
    (watch, regulars): (&mut Watch, &mut Regulars),
    cx: &mut Cx<'_, E>,
    loan: &mut Loan,
) {
    let (watched, turns) = (core::mem::take(&mut loan.watched), core::mem::take(&mut loan.turns));
    let mut messages = 0;
    for (i, pair) in loan.pairs.drain(..).enumerate() {
        let Pair { at, peer_at, done, .. } = pair;
        let worked = done.messages > 0;
        if worked {
            if let Some(qp) = hcas.qp_mut(at) {
                done.renew(qp);
            }
            done.account(hcas, at, peer_at);
            if let Some(cqn) = hcas.qp_mut(peer_at).map(|qp| qp.recv_cqn) {
                done.received.settle(hcas, cx, peer_at, cqn);
            }
            if let Some(cqn) = hcas.qp_mut(at).map(|qp| qp.send_cqn) {
                done.sent.settle(hcas, cx, at, cqn);
            }
            for id in [at.hca, peer_at.hca] {
                hcas.get_mut(id).expect(GONE).notify(cx);
            }
        }
        if i < watched {
            watch.set_lent(at, false);
            watch.used(at, worked, turns);
            if pair.other {
                watch.refused(at);
            }
        } else {
            messages += done.messages;
            if pair.other {
                regulars.refused(hcas, at);
            } else {
                regulars.used(hcas, at, worked);
            }
        }
        let Some(qp) = hcas.qp_mut(at) else { continue };
        if pair.other || pair.active {
            cx.schedule.activate(at.hca, qp);
        } else if i >= watched && worked && watch::is_ready(qp) {
            let seat = (at, qp.seated);
            watch.settle(hcas, cx.schedule, cx.env, seat, (true, true));
        }
    }
    regulars.came_back(loan.rings.slots.len(), messages);
    loan.rings.slots.clear();
    loan.rings.active.clear();
    for at in loan.rings.strangers.drain(..) {
        if let Some(qp) = hcas.qp_mut(at) {
            cx.schedule.activate(at.hca, qp);
        }
    }
    for ((hca, cqn), told) in loan.news.drain(..) {
        hcas.get_mut(hca).expect(GONE).tell(cx, cqn.get(), told);
    }
}
