// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ordinary message, whole: WRITEs and SENDs of one stretch of memory to one stretch of memory, between two queue
//! pairs of one server that have nothing else in progress.
//!
//! The general path ([`super::requester`], [`super::local`], [`super::responder`]) takes a message through its steps by
//! number, because anything may happen between two of them. Here nothing can: everything that a turn needs is looked up
//! once, and a message either passes all checks of the general path and is executed, or is left in its ring as it was
//! found, for the general path to say what is wrong with it or to do what is seldom. So there is nothing here about
//! errors, and none is possible but one: a completion queue that fails.
//!
//! The queue pairs may be the engine's, lent for one turn ([`run`]), or be lent to a worker for longer ([`crate::loan`]).

use crate::counter_set::Tally;
use crate::counters::Counter;
use crate::cq::{Cq, CqFault};
use crate::engine::Hcas;
use crate::env::{Dma, Env, GuestRam, HcaId};
use crate::hca::{Cx, Hca, Side};
use crate::limits::SLICE;
use crate::mr::{MrTable, LOCAL, NO_KEY};
use crate::qp::local;
use crate::qp::sg;
use crate::qp::transport::packets;
use crate::qp::{Arriving, Qp, Wait};
use crate::ram;
use crate::ring::Ring;
use crate::schedule::QpRef;
use crate::time::Time;
use crate::Budget;
use core::sync::atomic::Ordering;
use verbena_hw::cqe::{self, Cqe};
use verbena_hw::id::{Cqn, Key, Pdn};
use verbena_hw::qp::{access, Mtu, QpState, QpType};
use verbena_hw::ring::OWNER_PHASE;
use verbena_hw::wqe::{send_flags, RecvHeader, SendHeader, SendOpcode, Sge};
use vm_memory::{VolatileMemory, VolatileSlice};
use zerocopy::transmute;

/// What a run of ordinary messages ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The send queue is empty.
    Empty,
    /// The next entry is for the general path, or something else is: it was not looked at closely.
    Other,
    /// The turn or its budget is used up.
    Spent,
}

/// Executes the ordinary messages at the head of the queue pair's send queue, at most `left` of them.
#[inline]
pub(crate) fn run<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, left: &mut u32, budget: &mut Budget) -> End {
    let end = try_run(hcas, cx, at, left, budget).unwrap_or(End::Other);
    if end == End::Other {
        // Something else has its turn now.
        cx.known.forget();
    }
    end
}

/// `None`: none of its messages can be ordinary now.
#[inline(always)]
fn try_run<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, left: &mut u32, budget: &mut Budget) -> Option<End> {
    let peer = begins(hcas, cx, at)?;
    let mut lent = Lent::take(hcas, cx.env, at, peer)?;
    let (here, there) = (hcas.get(at.hca)?, hcas.get(peer.hca)?);
    let mut run = Run::new(cx.env, here, there, &lent.qp, &lent.peer);
    run.source.begin_with(at.hca, cx.known.source);
    run.remote.begin_with(peer.hca, cx.known.remote);
    let end = run.messages(&mut lent.parts(), cx.now, left, budget);
    // Most name what the one before them has named.
    if run.source.looked_up {
        cx.known.source = run.source.seen(at.hca);
    }
    if run.remote.looked_up {
        cx.known.remote = run.remote.seen(peer.hca);
    }
    let done = run.done;
    lent.give_back(hcas, cx, at, peer, &done);
    Some(end)
}

/// The peer, if the queue pair can begin an ordinary message at all.
#[inline]
pub(crate) fn begins<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef) -> Option<QpRef> {
    let hca = hcas.get(at.hca)?;
    let qp = hca.qps.get(at.qpn.get())?;
    let ready = qp.state == QpState::RTS && qp.wait == Wait::Nothing && qp.req.current.is_none() && qp.max_send_sge > 0;
    // XRC's entries are others, and its receives come from elsewhere.
    // What has a rate limit may have to wait between two messages.
    if !ready || qp.kind != QpType::RC || qp.pace.is_some() || hca.regs.is_fatal() {
        return None;
    }
    match local::known_peer(cx, qp) {
        Some(peer) => Some(peer),
        None => local::find_peer(hcas, cx, at),
    }
}

/// The numbers of the completion queues of an ordinary message from `at` to `peer`.
pub(crate) struct Completions {
    pub(crate) send: Cqn,
    pub(crate) recv: Cqn,
    /// They are one queue.
    pub(crate) same: bool,
}

/// `None`: the two, of these HCAs, are not in step, or what comes goes into a shared receive queue.
#[inline]
pub(crate) fn in_step<E: Env>(env: &E, (at, qp): (HcaId, &Qp), (peer_at, peer): (HcaId, &Qp)) -> Option<Completions> {
    let listens = match peer.state {
        QpState::RTS | QpState::SQD => true,
        // The first request there raises an event.
        QpState::RTR => peer.resp.established,
        _ => false,
    };
    if !listens || !matches!(peer.resp.arriving, Arriving::Nothing) {
        return None;
    }
    if qp.req.psn != peer.resp.psn || qp.attrs.path_mtu != peer.attrs.path_mtu {
        return None;
    }
    if peer.rq.is_none() && !is_write_next(env.ram(at), qp) {
        return None;
    }
    let (send, recv) = (qp.send_cqn, peer.recv_cqn);
    let same = at == peer_at && send == recv;
    Some(Completions { send, recv, same })
}

/// What a run works on.
pub(crate) struct Parts<'p> {
    pub(crate) qp: &'p mut Qp,
    pub(crate) peer: &'p mut Qp,
    /// The peer's may be the same as the sender's: then it is only here once, as the sender's.
    pub(crate) send_cq: &'p mut Cq,
    pub(crate) recv_cq: Option<&'p mut Cq>,
}

/// The same, taken out of its tables for so long.
struct Lent {
    qp: Box<Qp>,
    peer: Box<Qp>,
    send_cq: Box<Cq>,
    recv_cq: Option<Box<Cq>>,
}

impl Lent {
    /// `None`: nothing has been taken.
    #[inline]
    fn take<E: Env>(hcas: &mut Hcas, env: &E, at: QpRef, peer: QpRef) -> Option<Self> {
        let qp = hcas.get_mut(at.hca)?.qps.lend(at.qpn.get())?;
        // One that is its own peer is not there any more.
        let taken = hcas.get_mut(peer.hca).and_then(|hca| hca.qps.lend(peer.qpn.get()));
        let Some(peer_qp) = taken else {
            table(hcas, at.hca).qps.give_back(at.qpn.get(), qp);
            return None;
        };
        let Some(cqs) = in_step(env, (at.hca, &qp), (peer.hca, &peer_qp)) else {
            table(hcas, at.hca).qps.give_back(at.qpn.get(), qp);
            table(hcas, peer.hca).qps.give_back(peer.qpn.get(), peer_qp);
            return None;
        };
        let held = "a queue pair holds its completion queues: DESTROY_CQ answers IN_USE";
        let mut lend = |id, cqn: Cqn| table(hcas, id).cqs.lend(cqn.get()).expect(held);
        let send_cq = lend(at.hca, cqs.send);
        let recv_cq = (!cqs.same).then(|| lend(peer.hca, cqs.recv));
        Some(Self {
            qp,
            peer: peer_qp,
            send_cq,
            recv_cq,
        })
    }

    #[inline]
    fn parts(&mut self) -> Parts<'_> {
        Parts {
            qp: &mut self.qp,
            peer: &mut self.peer,
            send_cq: &mut self.send_cq,
            recv_cq: self.recv_cq.as_deref_mut(),
        }
    }

    /// Puts everything back.
    #[inline]
    fn give_back<E: Env>(self, hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, peer_at: QpRef, done: &Done) {
        let (mut qp, peer) = (self.qp, self.peer);
        let (send_cqn, recv_cqn) = (qp.send_cqn, peer.recv_cqn);
        done.renew(&mut qp);
        let hca = table(hcas, peer_at.hca);
        hca.qps.give_back(peer_at.qpn.get(), peer);
        if let Some(cq) = self.recv_cq {
            hca.cqs.give_back(recv_cqn.get(), cq);
        }
        let hca = table(hcas, at.hca);
        hca.qps.give_back(at.qpn.get(), qp);
        hca.cqs.give_back(send_cqn.get(), self.send_cq);
        done.account(hcas, at, peer_at);
        done.received.settle(hcas, cx, peer_at, recv_cqn);
        done.sent.settle(hcas, cx, at, send_cqn);
    }
}

/// An HCA of a queue pair whose turn it is, or of its peer.
#[inline]
fn table(hcas: &mut Hcas, id: HcaId) -> &mut Hca {
    hcas.get_mut(id).expect("HCAs do not go within a turn")
}

/// Whether the next entry of the send queue, if there is one, is a WRITE.
#[cold]
fn is_write_next<R: GuestRam>(ram: &R, qp: &Qp) -> bool {
    qp.next_word(ram)
        .is_some_and(|word| (word >> 8) as u8 == SendOpcode::WRITE.0)
}

/// What a run has done that is not in the queue pairs themselves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Receives that have completed: as many SENDs.
    pub(crate) receives: u64,
    pub(crate) sent: Completed,
    pub(crate) received: Completed,
}

impl Done {
    /// Each message that succeeds gives the sender its retries back.
    #[inline]
    pub(crate) fn renew(&self, qp: &mut Qp) {
        if self.messages != 0 {
            (qp.req.retries_left, qp.req.rnr_left) = (qp.attrs.retry_cnt, qp.attrs.rnr_retry);
        }
    }

    /// Counts all messages at once, as the general path does each.
    #[inline]
    pub(crate) fn account(&self, hcas: &mut Hcas, at: QpRef, peer: QpRef) {
        if self.messages == 0 {
            return;
        }
        let sides = [
            (
                at,
                [Counter::SentMsgs, Counter::SentBytes, Counter::RdmaSends],
                [Tally::SentMsgs, Tally::SentBytes],
            ),
            (
                peer,
                [Counter::RcvdMsgs, Counter::RcvdBytes, Counter::RdmaRecvs],
                [Tally::RcvdMsgs, Tally::RcvdBytes],
            ),
        ];
        for (side, counters, tallies) in sides {
            let Some(hca) = hcas.get_mut(side.hca) else { continue };
            for (counter, n) in counters.into_iter().zip([self.messages, self.bytes, self.receives]) {
                hca.counters.add(counter, n);
            }
            for (tally, n) in tallies.into_iter().zip([self.messages, self.bytes]) {
                hca.tally(side.qpn, tally, n);
            }
        }
    }
}

/// A completion could not be written.
struct Lost;

/// What has become of a completion queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct Completed {
    /// It has entries that nobody has been told of, and had none before.
    pub(crate) dirty: bool,
    /// It has failed, and whether for the first time.
    pub(crate) fault: Option<(CqFault, bool)>,
}

impl Completed {
    /// Writes an entry.
    #[inline]
    fn push<R: GuestRam>(&mut self, ram: &R, cq: &mut Cq, cqe: Cqe) -> Result<(), Lost> {
        let (was_dirty, had_failed) = (cq.is_dirty(), cq.failed.is_some());
        match cq.push(ram, cqe) {
            Ok(()) => self.dirty |= !was_dirty,
            Err(fault) => {
                self.fault = Some((fault, !had_failed));
                return Err(Lost);
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn settle<E: Env>(self, hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, cqn: Cqn) {
        if let (false, None) = (self.dirty, self.fault) {
            return;
        }
        let hca = table(hcas, at.hca);
        if self.dirty {
            hca.mark_dirty(cqn);
        }
        if let Some((fault, new)) = self.fault {
            hca.completion_lost(cx, at.qpn, cqn, fault, new);
        }
    }
}

/// A stretch of a region, and where in this process it is.
#[derive(Clone, Copy)]
struct Found<'a> {
    key: Key,
    /// The address, in the region's own address space, of the first byte of `memory`.
    start: u64,
    memory: VolatileSlice<'a>,
}

impl Found<'_> {
    fn nothing() -> Self {
        Self {
            key: NO_KEY,
            start: 0,
            memory: nothing(),
        }
    }
}

/// What the keys of one protection domain of an HCA showed last, for one set of rights.
#[derive(Clone, Copy)]
struct Seen<'a> {
    of: (HcaId, Pdn),
    found: Found<'a>,
}

/// The memory that the last run's keys led to, for the next one: many queue pairs with a message each, one after the other, may
/// well name the same. It is as good as the regions and the mappings are unchanged, so that it is forgotten whenever anything
/// but a run gets its turn.
#[derive(Default)]
pub(crate) struct Known<'a> {
    source: Option<Seen<'a>>,
    remote: Option<Seen<'a>>,
}

impl Known<'_> {
    /// Regions may be others from here on.
    #[inline]
    pub(crate) fn forget(&mut self) {
        (self.source, self.remote) = (None, None);
    }
}

/// One side's memory as its keys show it: the last region that a key named, and where in this process that is.
struct View<'m, 'a, R> {
    mrs: &'m MrTable,
    ram: &'a R,
    pdn: Pdn,
    rights: u32,
    dma: Dma,
    found: Found<'a>,
    /// What was found is not what it began with.
    looked_up: bool,
}

impl<'m, 'a, R: GuestRam> View<'m, 'a, R> {
    #[inline]
    fn new(mrs: &'m MrTable, ram: &'a R, pdn: Pdn, rights: u32, dma: Dma) -> Self {
        Self {
            mrs,
            ram,
            pdn,
            rights,
            dma,
            found: Found::nothing(),
            looked_up: false,
        }
    }

    /// Begins with what a view of the same rights has seen, if it was of the same domain.
    #[inline]
    fn begin_with(&mut self, hca: HcaId, seen: Option<Seen<'a>>) {
        if let Some(seen) = seen.filter(|seen| seen.of == (hca, self.pdn)) {
            self.found = seen.found;
        }
    }

    #[inline]
    fn seen(&self, hca: HcaId) -> Option<Seen<'a>> {
        let of = (hca, self.pdn);
        (self.found.key != NO_KEY).then_some(Seen { of, found: self.found })
    }

    /// Where in what was [`View::found`] the `len` bytes at `addr` of the region with this key are, checked, if they are in one piece.
    #[inline(always)]
    fn find(&mut self, key: Key, addr: u64, len: usize) -> Option<usize> {
        // Below the first byte the subtraction wraps to something beyond any length.
        let at = addr.wrapping_sub(self.found.start) as usize;
        if key == self.found.key && at.checked_add(len).is_some_and(|end| end <= self.found.memory.len()) {
            return Some(at);
        }
        self.look_up(key, addr, len)
    }

    #[inline(never)]
    fn look_up(&mut self, key: Key, addr: u64, len: usize) -> Option<usize> {
        let range = self.mrs.check(key, self.pdn, addr, len as u64, self.rights).ok()?;
        let (start, dma, run) = range.stretch()?;
        self.looked_up = true;
        self.found.memory = self.ram.slice(dma, usize::try_from(run).ok()?, self.dma)?;
        (self.found.key, self.found.start) = (key, start);
        let at = addr.wrapping_sub(start) as usize;
        at.checked_add(len)
            .is_some_and(|end| end <= self.found.memory.len())
            .then_some(at)
    }
}

/// Memory that a view or a ring has before anything was looked up.
fn nothing<'a>() -> VolatileSlice<'a> {
    VolatileSlice::from(&mut [][..])
}

/// The entries of a ring from one on, as far as they are in one piece.
struct Entries<'a> {
    first: u32,
    count: u32,
    memory: VolatileSlice<'a>,
}

impl<'a> Entries<'a> {
    fn none() -> Self {
        Self {
            first: 0,
            count: 0,
            memory: nothing(),
        }
    }

    /// Where in [`Entries::memory`] the entry is that counter `index` falls on; all of its stride is there.
    #[inline(always)]
    fn find<R: GuestRam>(&mut self, ram: &'a R, ring: &Ring, index: u32) -> Option<usize> {
        let n = index.wrapping_sub(self.first);
        if n < self.count {
            return Some((n as usize) << ring.log_stride);
        }
        self.look_up(ram, ring, index)
    }

    #[inline(never)]
    fn look_up<R: GuestRam>(&mut self, ram: &'a R, ring: &Ring, index: u32) -> Option<usize> {
        let (addr, entries) = ring.run(index);
        self.memory = ram.slice(addr, (entries as usize) << ring.log_stride, Dma::Read)?;
        (self.first, self.count) = (index, (self.memory.len() >> ring.log_stride) as u32);
        (self.count > 0).then_some(0)
    }
}

/// An ordinary send entry.
struct Send {
    header: SendHeader,
    len: usize,
    /// Where in the ring its data is, if the entry has it in itself.
    inline: Option<usize>,
    sge: Sge,
}

/// Whether an entry is one, and for whom.
enum Posted {
    Nothing,
    Ordinary(Send),
    Other,
}

/// A run of messages from one queue pair to its peer. What it looks up it knows until it ends; the memory that `env` shows and
/// the regions stay what they are for so long.
pub(crate) struct Run<'m, 'a, R> {
    now: Time,
    own_ram: &'a R,
    peer_ram: &'a R,
    source: View<'m, 'a, R>,
    /// What the peer's receives name.
    receive: View<'m, 'a, R>,
    /// What the peer lends by R_Keys.
    remote: View<'m, 'a, R>,
    sends: Entries<'a>,
    receives: Entries<'a>,
    mtu: u32,
    pub(crate) done: Done,
}

impl<'m, 'a, R: GuestRam> Run<'m, 'a, R> {
    #[inline]
    pub(crate) fn new<E: Env<Ram = R>>(env: &'a E, here: &'m Hca, there: &'m Hca, qp: &Qp, peer: &Qp) -> Self {
        let (own_ram, peer_ram) = (env.ram(here.id), env.ram(there.id));
        let pdn = peer.pdn;
        Self {
            now: Time::default(),
            own_ram,
            peer_ram,
            source: View::new(&here.mrs, own_ram, qp.pdn, LOCAL, Dma::Read),
            receive: View::new(&there.mrs, peer_ram, pdn, access::LOCAL_WRITE | LOCAL, Dma::Write),
            remote: View::new(&there.mrs, peer_ram, pdn, access::REMOTE_WRITE, Dma::Write),
            sends: Entries::none(),
            receives: Entries::none(),
            // RTR took only codes with a meaning, and a send queue runs only after RTR.
            mtu: Mtu(qp.attrs.path_mtu).bytes().unwrap_or(256),
            done: Done::default(),
        }
    }

    /// Whether the next entry of the send queue has been posted. What is not mapped has not.
    #[inline]
    pub(crate) fn is_posted(&mut self, qp: &Qp) -> bool {
        matches!(self.posted(qp), Some((_, Some(_))))
    }

    /// Executes the messages at the head of the send queue, at most `left` of them.
    #[inline]
    pub(crate) fn messages(&mut self, lent: &mut Parts<'_>, now: Time, left: &mut u32, budget: &mut Budget) -> End {
        self.now = now;
        // In registers as long as the run lasts.
        let (most, most_bytes) = (budget.operations.min(*left), budget.bytes);
        let (mut messages, mut bytes) = (0, 0);
        let end = loop {
            if messages == most || bytes >= most_bytes {
                // A turn that ends with the queue saves the next one.
                break match self.posted(lent.qp) {
                    Some((_, None)) => End::Empty,
                    _ => End::Spent,
                };
            }
            let send = match self.fetch(lent.qp) {
                Posted::Ordinary(send) => send,
                Posted::Nothing => break End::Empty,
                Posted::Other => break End::Other,
            };
            let executed = if send.header.opcode == SendOpcode::WRITE.0 {
                self.write(lent, &send)
            } else {
                self.send(lent, &send)
            };
            let Some(received) = executed else {
                break End::Other;
            };
            messages += 1;
            bytes += send.len as u64;
            let sent = self.succeed(lent, &send);
            if received.is_err() || sent.is_err() {
                break End::Other;
            }
        };
        *left -= messages;
        budget.operations -= messages;
        budget.bytes = budget.bytes.saturating_sub(bytes);
        self.done.messages += u64::from(messages);
        self.done.bytes += bytes;
        end
    }

    /// Where the next entry of the send queue is, and its first word if it has been posted. `None`: its memory is gone.
    #[inline(always)]
    fn posted(&mut self, qp: &Qp) -> Option<(usize, Option<u64>)> {
        let index = qp.req.consumer;
        let at = self.sends.find(self.own_ram, &qp.sq, index)?;
        // Acquire: the rest of the entry, and the data it names, were written before this word.
        let word0 = ram::word(&self.sends.memory, at).ok()?.load(Ordering::Acquire);
        Some((at, (word0 as u8 & OWNER_PHASE == qp.sq.phase(index)).then_some(word0)))
    }

    /// Reads the next entry of the send queue, once.
    #[inline]
    fn fetch(&mut self, qp: &Qp) -> Posted {
        const HEAD: usize = size_of::<SendHeader>();
        let (at, word0) = match self.posted(qp) {
            Some((at, Some(word0))) => (at, word0),
            Some((_, None)) => return Posted::Nothing,
            None => return Posted::Other,
        };
        let ring = &self.sends.memory;
        // The smallest stride has the header and one element.
        let Ok(rest) = ring.get_ref::<[u64; 5]>(at + 8) else {
            return Posted::Other;
        };
        let rest = rest.load();
        let header: SendHeader = transmute!([word0, rest[0], rest[1], rest[2]]);
        let sge: Sge = transmute!([rest[3], rest[4]]);
        let opcode = SendOpcode(header.opcode);
        let ordinary = matches!(opcode, SendOpcode::WRITE | SendOpcode::SEND | SendOpcode::SEND_WITH_IMM);
        if !ordinary || header.flags & !send_flags::ALL != 0 {
            return Posted::Other;
        }
        let (len, inline) = if header.flags & send_flags::INLINE == 0 {
            if header.num_sge != 1 || header.inline_len != 0 {
                return Posted::Other;
            }
            (sge.len as usize, None)
        } else {
            let len = header.inline_len;
            if header.num_sge != 0 || len > qp.max_inline.into() || HEAD + len as usize > qp.sq.stride() {
                return Posted::Other;
            }
            (len as usize, Some(at + HEAD))
        };
        if len == 0 || len as u64 > SLICE {
            return Posted::Other;
        }
        Posted::Ordinary(Send {
            header,
            len,
            inline,
            sge,
        })
    }

    /// The message's data.
    #[inline]
    fn data(&mut self, send: &Send) -> Option<VolatileSlice<'a>> {
        let (memory, at) = match send.inline {
            Some(at) => (&self.sends.memory, at),
            None => {
                let at = self.source.find(send.sge.lkey, send.sge.addr, send.len)?;
                (&self.source.found.memory, at)
            }
        };
        memory.subslice(at, send.len).ok()
    }

    #[inline]
    fn write(&mut self, lent: &mut Parts<'_>, send: &Send) -> Option<Result<(), Lost>> {
        if lent.peer.attrs.access & access::REMOTE_WRITE == 0 {
            return None;
        }
        let from = self.data(send)?;
        let at = self.remote.find(send.header.rkey, send.header.remote_addr, send.len)?;
        let to = self.remote.found.memory.subslice(at, send.len).ok()?;
        sg::copy_whole(&from, &to);
        Some(Ok(()))
    }

    #[inline]
    fn send(&mut self, lent: &mut Parts<'_>, send: &Send) -> Option<Result<(), Lost>> {
        let Parts {
            peer, send_cq, recv_cq, ..
        } = lent;
        let from = self.data(send)?;
        let (wr_id, sge) = self.next_receive(peer)?;
        if send.len > sge.len as usize {
            return None;
        }
        // The whole element, as it was posted, as in `sg::check`.
        let at = self.receive.find(sge.lkey, sge.addr, sge.len as usize)?;
        let to = self.receive.found.memory.subslice(at, send.len).ok()?;
        sg::copy_whole(&from, &to);
        peer.resp.consumer = peer.resp.consumer.wrapping_add(1);
        let (mut flags, imm) = match SendOpcode(send.header.opcode) {
            SendOpcode::SEND_WITH_IMM => (cqe::flags::IMM, send.header.imm),
            _ => (0, 0),
        };
        if send.header.flags & send_flags::SOLICITED != 0 {
            flags |= cqe::flags::SOLICITED;
        }
        let mut cqe = Cqe {
            opcode: cqe::Opcode::RECV.0,
            flags,
            wr_id,
            byte_len: send.len as u32,
            imm,
            ..Cqe::default()
        };
        peer.sign(&mut cqe, Side::Recv, self.now);
        let cq = recv_cq.as_deref_mut().unwrap_or(send_cq);
        let completed = self.done.received.push(self.peer_ram, cq, cqe);
        self.done.receives += u64::from(completed.is_ok());
        Some(completed)
    }

    /// The next receive, without taking it: its id, and its only element.
    #[inline]
    fn next_receive(&mut self, peer: &Qp) -> Option<(u64, Sge)> {
        let (rq, index) = (peer.rq.as_ref()?, peer.resp.consumer);
        let at = self.receives.find(self.peer_ram, rq, index)?;
        let ring = &self.receives.memory;
        // Acquire: as for send entries.
        let word0 = ram::word(ring, at).ok()?.load(Ordering::Acquire);
        if word0 as u8 & OWNER_PHASE != rq.phase(index) {
            return None;
        }
        let rest = ring.get_ref::<[u64; 3]>(at + 8).ok()?.load();
        let header: RecvHeader = transmute!([word0, rest[0]]);
        let sge: Sge = transmute!([rest[1], rest[2]]);
        (header.num_sge == 1 && peer.max_recv_sge > 0).then_some((header.wr_id, sge))
    }

    /// The message is at its destination: both sides go on.
    #[inline]
    fn succeed(&mut self, lent: &mut Parts<'_>, send: &Send) -> Result<(), Lost> {
        let Parts { qp, peer, send_cq, .. } = lent;
        let after = qp.req.psn.add(packets(send.len as u64, self.mtu));
        (qp.req.psn, peer.resp.psn) = (after, after);
        peer.resp.msn = (peer.resp.msn + 1) & 0x00ff_ffff;
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        if qp.signal_all || send.header.flags & send_flags::SIGNALED != 0 {
            let opcode = if send.header.opcode == SendOpcode::WRITE.0 {
                cqe::Opcode::RDMA_WRITE
            } else {
                cqe::Opcode::SEND
            };
            let mut cqe = Cqe {
                opcode: opcode.0,
                wr_id: send.header.wr_id,
                ..Cqe::default()
            };
            qp.sign(&mut cqe, Side::Send, self.now);
            self.done.sent.push(self.own_ram, send_cq, cqe)?;
        }
        Ok(())
    }
}
