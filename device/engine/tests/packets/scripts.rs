// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same scripts by a single copy and over packets on a link that loses, doubles, breaks and reorders: the same
//! completions, the same memory, the same states, the same events.
//!
//! What a script says is decided by its number, which a failure prints; `SCRIPT=n` runs that one alone, `SCRIPTS=n` more
//! of them.
//!
//! Scripts leave out what the specification leaves open: memory that a READ reads while a later request without a fence
//! writes it, the contents of a receive or of a WRITE's target that ends in an error. And where a request fails for good,
//! the responses of that step get through: a responder whose queue pair has failed is silent (IBA vol. 1, 10.3.1.8), so
//! what it said last cannot be had again.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use verbena_engine::testing::{attrs, Cq, Faults, Guest, Mr, Net, Qp, QpShape, RecvWr, SendWr, Srq, World};
use verbena_hw::cqe::{flags, Cqe, Status};
use verbena_hw::id::{Gid, Key, Qpn, Srqn};
use verbena_hw::qp::{access, Mtu, QpState, QpType};
use verbena_hw::wqe::{flush, send_flags, FlushArgs, Sge};

/// Scripts that every run of the tests runs.
const SCRIPTS: u64 = 10_000;

/// Numbers that a script is made of: xorshift64* (Vigna 2016).
struct Draw(u64);

impl Draw {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % u64::from(n)) as u32
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u32) as usize]
    }
}

/// Bytes of a slot: where one work request has its data.
const SLOT: u32 = 4096;
/// Slots of each kind that a connection has on each side.
const SLOTS: u32 = 8;

/// What a slot is for.
#[derive(Clone, Copy)]
enum Area {
    /// What a side's own requests send from and read into.
    Own,
    /// What its peer's requests write and read.
    Target,
    /// What it receives into.
    Receive,
}

/// Offset in a side's buffer.
fn slot(connection: usize, area: Area, n: u32) -> u64 {
    let area = match area {
        Area::Own => 0,
        Area::Target => 1,
        Area::Receive => 2,
    };
    u64::from(SLOT) * u64::from((connection as u32 * 3 + area) * SLOTS + n)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Send,
    Write,
    Read,
    CompareSwap,
    FetchAdd,
    AtomicWrite,
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// An R_Key that nobody has.
    RemoteKey,
    /// The region of an R_Key that grants nothing.
    RemoteRights,
    /// A range that begins before the region.
    RemoteRange,
    /// An L_Key that nobody has.
    LocalKey,
    /// An opcode that there is not.
    Opcode,
    /// An atomic that is not aligned.
    Alignment,
    /// A shared receive queue that there is not, of an XRC initiator.
    SharedQueue,
}

/// A send work request.
#[derive(Clone, Debug)]
struct Op {
    kind: Kind,
    len: u32,
    /// Where its data is cut into elements.
    cuts: Vec<u32>,
    imm: Option<u32>,
    inline: bool,
    flags: u8,
    own: u32,
    target: u32,
    mistake: Option<Mistake>,
}

/// What one connection does in a step: one side posts.
#[derive(Clone, Debug)]
struct Batch {
    connection: usize,
    side: usize,
    /// Lengths of the receives that the other side posts before.
    receives: Vec<u32>,
    ops: Vec<Op>,
    /// Something in it cannot succeed.
    fatal: bool,
    /// It has to wait for receives, which are posted after a while.
    late: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Script {
    mtu: Mtu,
    connections: usize,
    shared: bool,
    /// Connections are XRC's, one from each side to the other, and each has a shared receive queue on either.
    xrc: bool,
    depth: u8,
    /// RNR retries: for ever, or few, and then what comes too late does not come.
    patience: u8,
    faults: Faults,
    steps: Vec<Vec<Batch>>,
}

fn script(number: u64) -> Script {
    let mut draw = Draw::new(number + 1);
    let mtu = draw.of(&[Mtu::B256, Mtu::B512, Mtu::B1024]);
    let connections = 1 + draw.below(3) as usize;
    let rough = draw.below(4);
    let faults = Faults {
        lose: 40 * rough,
        duplicate: 20 * rough,
        corrupt: 15 * rough,
        overtake: 40 * rough,
        delay: Duration::from_micros(draw.of(&[0, 1, 20])),
        // Fewer than there are retries; and an attempt takes less than the pause.
        bound: 5,
        pause: Duration::from_millis(12),
        spare_responses: false,
    };
    let mut script = Script {
        mtu,
        connections,
        shared: connections == 1 && draw.one_in(3),
        // Drawn apart, so that the numbers of the other scripts stay what they were.
        xrc: Draw::new(!number).one_in(4),
        depth: draw.of(&[1, 2, 16]),
        patience: draw.of(&[7, 7, 7, 2]),
        faults,
        steps: Vec::new(),
    };
    script.shared &= !script.xrc;
    let mut alive = vec![true; connections];
    for _ in 0..1 + draw.below(3) {
        let mut step = Vec::new();
        for (connection, alive) in alive.iter_mut().enumerate() {
            // A connection that has failed is tried again now and then.
            if !*alive && !draw.one_in(4) {
                continue;
            }
            let batch = batch(&mut draw, &script, connection, *alive);
            *alive &= !batch.fatal;
            step.push(batch);
        }
        script.steps.push(step);
    }
    script
}

fn batch(draw: &mut Draw, script: &Script, connection: usize, alive: bool) -> Batch {
    let mtu = script.mtu.bytes().expect("a code with a meaning");
    let count = 1 + draw.below(SLOTS - 1);
    let failing = draw.one_in(3).then(|| draw.below(count));
    let mut batch = Batch {
        connection,
        side: draw.below(2) as usize,
        receives: Vec::new(),
        ops: Vec::new(),
        fatal: !alive,
        late: Vec::new(),
    };
    for n in 0..count {
        let kind = draw.of(&[
            Kind::Send,
            Kind::Send,
            Kind::Write,
            Kind::Write,
            Kind::Read,
            Kind::Read,
            Kind::CompareSwap,
            Kind::FetchAdd,
            Kind::AtomicWrite,
            Kind::Flush,
        ]);
        let around = mtu * (1 + draw.below(3));
        let len = match kind {
            Kind::Send | Kind::Write | Kind::Read => match draw.below(4) {
                0 => draw.below(9),
                1 => draw.below(3 * mtu),
                _ => around - 1 + draw.below(3),
            },
            Kind::Flush => 0,
            _ => 8,
        };
        let data = matches!(kind, Kind::Send | Kind::Write);
        let mut op = Op {
            kind,
            len,
            cuts: Vec::new(),
            imm: (data && draw.one_in(3)).then(|| draw.below(1 << 30)),
            inline: data && len <= 256 && draw.one_in(3),
            flags: draw.of(&[0, 0, send_flags::SOLICITED, send_flags::FENCE]),
            own: n,
            target: n,
            mistake: None,
        };
        if !op.inline && len > 1 && matches!(kind, Kind::Send | Kind::Write | Kind::Read) {
            op.cuts = (0..draw.below(3)).map(|_| draw.below(len)).collect();
            op.cuts.sort_unstable();
        }
        if let Some(before) = batch.ops.last() {
            let fenced = op.flags & send_flags::FENCE != 0;
            let touches = |op: &Op| !matches!(op.kind, Kind::Flush);
            // Data that comes from the one before, and a target that it has: with a fence, if that is not executed in
            // order anyway.
            if fenced && touches(before) && draw.one_in(2) {
                op.own = before.own;
            }
            let free = before.kind != Kind::Read || fenced;
            if free && draw.one_in(3) {
                op.target = before.target;
            }
        }
        if failing == Some(n) && alive {
            op.mistake = mistake(draw, &op, script.xrc);
            batch.fatal |= op.mistake.is_some();
        }
        let consumes = kind == Kind::Send || (kind == Kind::Write && op.imm.is_some());
        let room = match kind {
            Kind::Send => len,
            _ => 0,
        };
        if consumes && (op.mistake.is_none() || draw.one_in(2)) {
            // Now and then longer than need be, too short, or too late.
            match draw.below(24) {
                0 if kind == Kind::Send && len > 0 && batch.late.is_empty() => {
                    batch.receives.push(draw.below(len));
                    batch.fatal = true;
                }
                1..=3 if script.patience != 7 => batch.fatal = true,
                1..=3 => batch.late.push(room),
                _ if !batch.late.is_empty() => batch.late.push(room),
                4..=9 => batch.receives.push((room + draw.below(100)).min(SLOT)),
                _ => batch.receives.push(room),
            }
        }
        batch.ops.push(op);
    }
    if let Some(last) = batch.ops.last_mut() {
        last.flags |= send_flags::SIGNALED;
    }
    for op in &mut batch.ops {
        if !draw.one_in(4) {
            op.flags |= send_flags::SIGNALED;
        }
    }
    batch
}

fn mistake(draw: &mut Draw, op: &Op, xrc: bool) -> Option<Mistake> {
    if xrc && draw.one_in(3) {
        return Some(Mistake::SharedQueue);
    }
    let remote = [Mistake::RemoteKey, Mistake::RemoteRights, Mistake::RemoteRange];
    let own = op.len > 0 && !op.inline;
    match op.kind {
        Kind::Send if own => Some(draw.of(&[Mistake::LocalKey, Mistake::Opcode])),
        Kind::Send | Kind::Flush => Some(Mistake::Opcode),
        Kind::Write | Kind::Read if op.len == 0 => Some(Mistake::Opcode),
        Kind::Write if op.inline => Some(draw.of(&remote)),
        Kind::Write | Kind::Read => Some(draw.of(&[remote[0], remote[1], remote[2], Mistake::LocalKey])),
        _ => Some(draw.of(&[remote[0], remote[1], remote[2], Mistake::LocalKey, Mistake::Alignment])),
    }
}

/// One side: a guest with a queue pair for each connection.
struct Side {
    guest: Guest,
    cq: Cq,
    qps: Vec<Qp>,
    /// XRC's targets, whose initiators are the other side's `qps`.
    targets: Vec<Qp>,
    /// One for all, or with XRC one for each connection.
    srqs: Vec<Srq>,
    buffer: Mr,
    closed: Mr,
    /// What each queue of each queue pair has completed, receive queues apart: between the two there is no order.
    completed: BTreeMap<(usize, bool), Vec<Completed>>,
    events: Vec<(u64, u8, u64)>,
}

/// How its peer names a side's queue pairs.
struct Name {
    gid: Gid,
    qps: Vec<Qpn>,
    targets: Vec<Qpn>,
}

/// A completion, without what depends on time and on numbers that are drawn.
type Completed = (u64, Status, Option<u8>, u8, u32, u32, u32);

fn completed(cqe: &Cqe) -> Completed {
    let opcode = (cqe.status == 0).then_some(cqe.opcode);
    (
        cqe.wr_id,
        Status(cqe.status),
        opcode,
        cqe.flags,
        cqe.byte_len,
        cqe.imm,
        cqe.vendor_err,
    )
}

impl Side {
    fn new(w: &mut World, script: &Script) -> Self {
        let mut guest = Guest::start(w, 2 << 20);
        let cq = guest.cq(w, 7);
        let xrcdn = guest.xrcd(w);
        let shared = match script.xrc {
            true => script.connections,
            false => script.shared.into(),
        };
        let srqs: Vec<_> = (0..shared)
            .map(|_| {
                let req = match script.xrc {
                    true => guest.xrc_srq_request(w, 6, xrcdn, &cq),
                    false => guest.srq_request(w, 6),
                };
                guest.create_srq(w, &req).expect("a shared receive queue")
            })
            .collect();
        let shape = QpShape {
            sq_log: 5,
            rq_log: 5,
            sq_log_stride: 9,
            rq_log_stride: 6,
            max_sge: 3,
            max_inline: 256,
        };
        let qps = (0..script.connections)
            .map(|_| {
                if script.xrc {
                    let req = guest.initiator_request(w, &cq, shape);
                    return guest.create_qp(w, &req).expect("an initiator");
                }
                let mut req = guest.qp_request(w, &cq, &cq, shape);
                if let Some(srq) = srqs.first() {
                    req.srqn = srq.srqn;
                    (req.rq, req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = Default::default();
                }
                guest.create_qp(w, &req).expect("a queue pair")
            })
            .collect();
        let targets = (0..if script.xrc { script.connections } else { 0 })
            .map(|n| {
                let mut req = guest.target_request(xrcdn);
                req.cookie += n as u64;
                guest.create_qp(w, &req).expect("a target")
            })
            .collect();
        let len = slot(script.connections, Area::Own, 0);
        let at = w.ram_mut(guest.hca).alloc(len as usize);
        let pattern: Vec<u8> = (0..len).map(|i| (i * 7 + i / 253) as u8).collect();
        w.ram(guest.hca).write(at, &pattern);
        let all = access::MR_ALL & !(access::MW_BIND | access::ZERO_BASED);
        let buffer = guest.mr(w, at, len, all).expect("a region");
        let closed = guest
            .mr(w, at, len, access::LOCAL_WRITE | access::FLUSH_GLOBAL)
            .expect("a region");
        Self {
            guest,
            cq,
            qps,
            targets,
            srqs,
            buffer,
            closed,
            completed: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    fn name(&self) -> Name {
        let numbers = |qps: &[Qp]| qps.iter().map(|qp| qp.qpn).collect();
        Name {
            gid: self.guest.gid(),
            qps: numbers(&self.qps),
            targets: numbers(&self.targets),
        }
    }

    fn connect(&mut self, w: &mut World, script: &Script, peer: &Name) {
        const FIRST: (u32, u32) = (0xff_fff0, 0xff_fff0);
        let (own, to) = match script.xrc {
            true => (QpType::XRC_INI, &peer.targets),
            false => (QpType::RC, &peer.qps),
        };
        let senders = self.qps.iter().zip(to).map(|(qp, to)| (own, qp, *to));
        let targets = self.targets.iter().zip(&peer.qps);
        let targets = targets.map(|(qp, to)| (QpType::XRC_TGT, qp, *to));
        for (kind, qp, to) in senders.chain(targets) {
            for (mask, mut attrs) in attrs::connection(kind, peer.gid, to, FIRST) {
                if attrs.path_mtu != 0 {
                    attrs.path_mtu = script.mtu.0;
                }
                // About a millisecond, and as often as can be.
                (attrs.timeout, attrs.retry_cnt, attrs.rnr_retry) = (8, 7, script.patience);
                attrs.max_rd_atomic = script.depth;
                self.guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
            }
        }
    }

    fn receive(&mut self, w: &World, connection: usize, wr_id: u64, len: u32) {
        let n = (wr_id % u64::from(SLOTS)) as u32;
        let sge = Sge {
            addr: self.buffer.addr + slot(connection, Area::Receive, n),
            len,
            lkey: self.buffer.lkey,
        };
        let wr = RecvWr::new(wr_id, &[sge]);
        let shared = self.srqs.len();
        match shared {
            0 => self.qps[connection].post_recv(w, wr),
            _ => self.srqs[connection % shared].post(w, wr),
        }
    }

    /// Takes what has been completed. Answers the ids.
    fn drain(&mut self, w: &mut World) -> BTreeSet<(usize, u64)> {
        let mut seen = BTreeSet::new();
        for cqe in self.cq.drain(w) {
            let of = |qps: &[Qp]| qps.iter().position(|qp| qp.qpn == cqe.qpn);
            let connection = of(&self.qps).or(of(&self.targets)).expect("one of its queue pairs");
            seen.insert((connection, cqe.wr_id));
            self.completed
                .entry((connection, cqe.flags & flags::RECV != 0))
                .or_default()
                .push(completed(&cqe));
        }
        let events = self.guest.events(w);
        self.events
            .extend(events.iter().map(|eqe| (eqe.cookie, eqe.event, eqe.data)));
        seen
    }
}

/// Where a script is run.
enum Stage {
    Local(Box<World>),
    Packets(Box<Net>),
}

impl Stage {
    fn world(&mut self, side: usize) -> &mut World {
        match self {
            Stage::Local(world) => world,
            Stage::Packets(net) => [&mut net.a, &mut net.b].into_iter().nth(side).expect("two sides"),
        }
    }

    fn advance(&mut self, by: Duration) {
        match self {
            Stage::Local(world) => world.advance(by),
            Stage::Packets(net) => net.advance(by),
        }
    }
}

/// What has come of a script, as far as it is to be the same wherever it runs.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    completed: [BTreeMap<(usize, bool), Vec<Completed>>; 2],
    events: [BTreeMap<u64, Vec<(u8, u64)>>; 2],
    states: [Vec<QpState>; 2],
    memory: [Vec<u8>; 2],
}

fn work_request(op: &Op, wr_id: u64, connection: usize, own: &Side, peer: &Side) -> SendWr {
    let mut lkey = own.buffer.lkey;
    let at = slot(connection, Area::Own, op.own);
    let (mut addr, mut rkey) = (
        peer.buffer.addr + slot(connection, Area::Target, op.target),
        peer.buffer.rkey,
    );
    match op.mistake {
        Some(Mistake::RemoteKey) => rkey = Key(rkey.0 ^ 0x55),
        Some(Mistake::RemoteRights) => rkey = peer.closed.lkey,
        Some(Mistake::RemoteRange) => addr = peer.buffer.addr - 8,
        Some(Mistake::LocalKey) => lkey = Key(lkey.0 ^ 0x55),
        Some(Mistake::Alignment) => addr += 4,
        Some(Mistake::Opcode | Mistake::SharedQueue) | None => {}
    }
    let mut sges = Vec::new();
    let mut from = 0;
    for &to in op.cuts.iter().chain([&op.len]) {
        let addr = own.buffer.addr + at + u64::from(from);
        let len = to - from;
        sges.push(Sge { addr, len, lkey });
        from = to;
    }
    let eight = sges[0];
    let args = FlushArgs {
        len: 64,
        placement: flush::GLOBAL,
        level: flush::RANGE,
    };
    let mut wr = match op.kind {
        Kind::Send => SendWr::send(wr_id, &sges),
        Kind::Write => SendWr::write(wr_id, &sges, addr, rkey),
        Kind::Read => SendWr::read(wr_id, &sges, addr, rkey),
        Kind::CompareSwap => SendWr::compare_swap(wr_id, eight, addr, rkey, wr_id, !wr_id),
        Kind::FetchAdd => SendWr::fetch_add(wr_id, eight, addr, rkey, wr_id + 1),
        Kind::AtomicWrite => SendWr::atomic_write(wr_id, &[eight], addr, rkey),
        Kind::Flush => SendWr::flush(wr_id, addr, rkey, args),
    };
    if let Some(imm) = op.imm {
        wr = wr.imm(imm);
    }
    if op.inline {
        wr = wr.inline(&(0..op.len).map(|i| (u64::from(i) + wr_id) as u8).collect::<Vec<_>>());
    }
    wr.header.flags = op.flags | wr.header.flags & send_flags::INLINE;
    if op.mistake == Some(Mistake::Opcode) {
        wr.header.opcode = 99;
    }
    if !peer.targets.is_empty() {
        let srqn = peer.srqs[connection].srqn;
        wr = wr.srq(match op.mistake {
            Some(Mistake::SharedQueue) => Srqn::truncate(!srqn.get()),
            _ => srqn,
        });
    }
    wr
}

/// Runs a script, and answers what has come of it and how many packets were lost meanwhile.
fn run(script: &Script, mut stage: Stage) -> (Outcome, u64) {
    let mut sides = [0, 1].map(|side| Side::new(stage.world(side), script));
    let [to_a, to_b] = [0, 1].map(|side: usize| sides[side].name());
    sides[0].connect(stage.world(0), script, &to_b);
    sides[1].connect(stage.world(1), script, &to_a);
    // Slots whose contents nobody promises any more: side and offset.
    let mut open = BTreeSet::new();
    for (number, step) in script.steps.iter().enumerate() {
        if let Stage::Packets(net) = &mut stage {
            net.link.faults = Faults {
                spare_responses: step.iter().any(|batch| batch.fatal),
                ..script.faults
            };
        }
        let mut waits = BTreeSet::new();
        for batch in step {
            let (own, peer) = (batch.side, 1 - batch.side);
            let first = number as u64 * 100 * u64::from(SLOTS);
            for (n, len) in batch.receives.iter().enumerate() {
                sides[peer].receive(stage.world(peer), batch.connection, first + n as u64, *len);
            }
            for (n, op) in batch.ops.iter().enumerate() {
                let wr = work_request(op, first + n as u64, batch.connection, &sides[own], &sides[peer]);
                sides[own].qps[batch.connection].post_quietly(stage.world(own), wr);
            }
            sides[own].qps[batch.connection].ring(stage.world(own));
            waits.insert((own, batch.connection, first + batch.ops.len() as u64 - 1));
            if batch.fatal {
                for n in 0..SLOTS {
                    open.insert((peer, slot(batch.connection, Area::Receive, n)));
                    let cut = |op: &Op| op.imm.is_some() && op.target == n;
                    if batch.ops.iter().any(cut) {
                        open.insert((peer, slot(batch.connection, Area::Target, n)));
                    }
                }
            }
        }
        stage.advance(Duration::from_millis(2));
        for batch in step {
            let peer = 1 - batch.side;
            let first = number as u64 * 100 * u64::from(SLOTS) + batch.receives.len() as u64;
            for (n, len) in batch.late.iter().enumerate() {
                sides[peer].receive(stage.world(peer), batch.connection, first + n as u64, *len);
            }
        }
        for _ in 0..100 {
            for side in [0, 1] {
                for (connection, wr_id) in sides[side].drain(stage.world(side)) {
                    waits.remove(&(side, connection, wr_id));
                }
            }
            if waits.is_empty() {
                break;
            }
            stage.advance(Duration::from_millis(3));
        }
        assert!(waits.is_empty(), "step {number}: these never completed: {waits:?}");
        // What is still on the link, and what is flushed at the other end, comes to rest.
        stage.advance(Duration::from_millis(3));
    }
    // A second, for the receives that were posted into queue pairs in ERR.
    stage.advance(Duration::from_millis(1100));
    let memory = [0, 1].map(|side| {
        sides[side].drain(stage.world(side));
        let mr = sides[side].buffer;
        let mut bytes = stage
            .world(side)
            .ram(sides[side].guest.hca)
            .read(mr.addr, mr.len as usize);
        for (_, at) in open.iter().filter(|(of, _)| *of == side) {
            bytes[*at as usize..][..SLOT as usize].fill(0);
        }
        bytes
    });
    let states = [0, 1].map(|side: usize| {
        let Name { qps, targets, .. } = sides[side].name();
        qps.into_iter()
            .chain(targets)
            .map(|qpn| sides[side].guest.state(stage.world(side), qpn))
            .collect()
    });
    let events = [0, 1].map(|side: usize| {
        let mut of = BTreeMap::<_, Vec<_>>::new();
        for &(cookie, event, data) in &sides[side].events {
            of.entry(cookie).or_default().push((event, data));
        }
        of
    });
    let lost = match &stage {
        Stage::Local(_) => 0,
        Stage::Packets(net) => net.link.lost,
    };
    let outcome = Outcome {
        completed: sides.map(|side| side.completed),
        events,
        states,
        memory,
    };
    (outcome, lost)
}

/// What scripts have met: how work requests ended, and how many packets were lost.
#[derive(Default)]
struct Met {
    statuses: BTreeSet<Status>,
    lost: u64,
}

/// Runs a script both ways, and says how they differ.
fn compare(number: u64, met: &mut Met) -> Result<(), String> {
    let script = script(number);
    let mut net = Net::new(number);
    net.link.faults = Faults::default();
    let (by_copy, _) = run(&script, Stage::Local(Box::new(World::new(number))));
    let (by_packets, lost) = run(&script, Stage::Packets(Box::new(net)));
    met.lost += lost;
    let completed = by_copy.completed.iter().flat_map(BTreeMap::values).flatten();
    met.statuses.extend(completed.map(|completed| completed.1));
    if by_copy == by_packets {
        return Ok(());
    }
    let mut text = format!("script {number} (SCRIPT={number}): {script:#?}\n");
    for side in [0, 1] {
        let (copy, packets) = (&by_copy, &by_packets);
        for (what, same, left, right) in [
            (
                "completions",
                copy.completed[side] == packets.completed[side],
                format!("{:?}", copy.completed[side]),
                format!("{:?}", packets.completed[side]),
            ),
            (
                "events",
                copy.events[side] == packets.events[side],
                format!("{:?}", copy.events[side]),
                format!("{:?}", packets.events[side]),
            ),
            (
                "states",
                copy.states[side] == packets.states[side],
                format!("{:?}", copy.states[side]),
                format!("{:?}", packets.states[side]),
            ),
        ] {
            if !same {
                text += &format!("{what} of side {side}:\n by copy    {left}\n by packets {right}\n");
            }
        }
        let differs = copy.memory[side]
            .iter()
            .zip(&packets.memory[side])
            .position(|(a, b)| a != b);
        if let Some(at) = differs {
            text += &format!(
                "memory of side {side} from byte {at:#x} (slot {}) on\n",
                at / SLOT as usize
            );
        }
    }
    Err(text)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs every second script, from `from` on: two of these run beside each other.
fn half(from: u64) {
    let mut met = Met::default();
    let mut try_one = |number| compare(number, &mut met).unwrap_or_else(|text| panic!("{text}"));
    if let Some(number) = setting("SCRIPT") {
        if number % 2 == from {
            try_one(number);
        }
        return;
    }
    let scripts = setting("SCRIPTS").unwrap_or(SCRIPTS);
    for number in (from..scripts).step_by(2) {
        try_one(number);
    }
    let all = [
        Status::SUCCESS,
        Status::LOC_LEN_ERR,
        Status::LOC_QP_OP_ERR,
        Status::LOC_PROT_ERR,
        Status::WR_FLUSH_ERR,
        Status::REM_INV_REQ_ERR,
        Status::REM_ACCESS_ERR,
        Status::RETRY_EXC_ERR,
        Status::RNR_RETRY_EXC_ERR,
    ];
    if scripts >= SCRIPTS {
        assert_eq!(met.statuses, BTreeSet::from(all), "what scripts are to meet");
        assert!(met.lost > scripts / 2, "{} packets lost", met.lost);
    }
}

#[test]
fn h13_scripts_end_alike_by_copy_and_by_packets_even_ones() {
    half(0);
}

#[test]
fn h13_scripts_end_alike_by_copy_and_by_packets_odd_ones() {
    half(1);
}
