// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running a script, by one copy or over packets.

use super::script::{slot, Area, Kind, Mistake, Op, Script, SLOT, SLOTS};
use super::side::{Completed, Name, Shown, Side};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use verbena_engine::testing::{Faults, Net, SendWr, World};
use verbena_hw::id::{Key, Srqn};
use verbena_hw::qp::QpState;
use verbena_hw::wqe::{flush, send_flags, FlushArgs, Sge};

/// Numbers that the work requests of a step have: each connection's begin with the first. A receive's says its slot.
pub const STEP: u64 = 100 * SLOTS as u64;

/// Where a script is run.
pub enum Stage {
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
pub struct Outcome {
    pub completed: [BTreeMap<(usize, bool), Vec<Completed>>; 2],
    pub events: [BTreeMap<u64, Vec<(u8, u64)>>; 2],
    pub states: [Vec<QpState>; 2],
    pub keys: [Vec<Shown>; 2],
    pub memory: [Vec<u8>; 2],
}

fn work_request(op: &Op, wr_id: u64, connection: usize, own: &Side, peer: &Side) -> SendWr {
    let mut lkey = own.buffer.lkey;
    let at = slot(connection, Area::Own, op.own);
    let (mut addr, mut rkey) = (
        peer.buffer.addr + slot(connection, Area::Target, op.target),
        peer.buffer.rkey,
    );
    let mut begin = peer.buffer.addr;
    if let Some(via) = op.via {
        let targets = peer.targets(via.connection);
        addr = via.opening.address(op.target, targets);
        begin = via.opening.address(via.opening.first, targets);
        rkey = peer.key(via.connection, via.handle, via.tag);
    }
    match op.mistake {
        Some(Mistake::RemoteKey) => rkey = Key(rkey.0 ^ 0x55),
        Some(Mistake::RemoteRights) => rkey = peer.closed.lkey,
        Some(Mistake::RemoteRange) => addr = begin.wrapping_sub(8),
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
        Kind::Send => match op.ends {
            None => SendWr::send(wr_id, &sges),
            Some((handle, tag)) => SendWr::send_invalidate(wr_id, &sges, peer.key(connection, handle, tag)),
        },
        Kind::Change => match op.change {
            Some(change) => own.change(connection, wr_id, change),
            None => SendWr::send(wr_id, &[]),
        },
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
pub fn run(script: &Script, mut stage: Stage) -> (Outcome, u64) {
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
            let peer = 1 - batch.side;
            let first = number as u64 * STEP + STEP / 2;
            let side = &mut sides[peer];
            let last = side.prepare(stage.world(peer), batch.connection, first, &batch.prepared);
            waits.extend(last.map(|wr_id| (peer, batch.connection, wr_id)));
        }
        // Keys are there before anybody is told of them.
        stage.advance(Duration::ZERO);
        for batch in step {
            let (own, peer) = (batch.side, 1 - batch.side);
            let first = number as u64 * STEP;
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
            let first = number as u64 * STEP + batch.receives.len() as u64;
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
    let keys = [0, 1].map(|side: usize| sides[side].shown(stage.world(side)));
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
        keys,
        memory,
    };
    (outcome, lost)
}
