// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a script says.

use super::draw::Draw;
use super::keys::{Change, Keys, Via};
use core::time::Duration;
use verbena_engine::testing::Faults;
use verbena_hw::qp::Mtu;
use verbena_hw::wqe::send_flags;

/// Bytes of a slot: where one work request has its data.
pub const SLOT: u32 = 4096;
/// Slots of each kind that a connection has on each side.
pub const SLOTS: u32 = 8;

/// What a slot is for.
#[derive(Clone, Copy)]
pub enum Area {
    /// What a side's own requests send from and read into.
    Own,
    /// What its peer's requests write and read.
    Target,
    /// What it receives into.
    Receive,
}

/// Offset in a side's buffer.
pub fn slot(connection: usize, area: Area, n: u32) -> u64 {
    let area = match area {
        Area::Own => 0,
        Area::Target => 1,
        Area::Receive => 2,
    };
    u64::from(SLOT) * u64::from((connection as u32 * 3 + area) * SLOTS + n)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Send,
    Write,
    Read,
    CompareSwap,
    FetchAdd,
    AtomicWrite,
    Flush,
    /// Of a key of its poster's own.
    Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
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
pub struct Op {
    pub kind: Kind,
    pub len: u32,
    /// Where its data is cut into elements.
    pub cuts: Vec<u32>,
    pub imm: Option<u32>,
    pub inline: bool,
    pub flags: u8,
    pub own: u32,
    pub target: u32,
    pub mistake: Option<Mistake>,
    /// The key that it names, if that is not the buffer's.
    pub via: Option<Via>,
    /// SEND: the handle, and which of its keys, that it invalidates.
    pub ends: Option<(usize, u32)>,
    pub change: Option<Change>,
}

/// What one connection does in a step: one side posts.
#[derive(Clone, Debug)]
pub struct Batch {
    pub connection: usize,
    pub side: usize,
    /// What the other side does with its keys before.
    pub prepared: Vec<Change>,
    /// Lengths of the receives that the other side posts before.
    pub receives: Vec<u32>,
    pub ops: Vec<Op>,
    /// Something in it cannot succeed.
    pub fatal: bool,
    /// It has to wait for receives, which are posted after a while.
    pub late: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub mtu: Mtu,
    pub connections: usize,
    pub shared: bool,
    /// Connections are XRC's, one from each side to the other, and each has a shared receive queue on either.
    pub xrc: bool,
    /// Each side has windows and more for each connection ([`super::keys`]).
    pub keys: bool,
    pub depth: u8,
    /// RNR retries: for ever, or few, and then what comes too late does not come.
    pub patience: u8,
    pub faults: Faults,
    pub steps: Vec<Vec<Batch>>,
}

pub fn script(number: u64) -> Script {
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
        keys: Draw::new(!number << 1).one_in(2),
        depth: draw.of(&[1, 2, 16]),
        patience: draw.of(&[7, 7, 7, 2]),
        faults,
        steps: Vec::new(),
    };
    script.shared &= !script.xrc;
    let mut keys = script
        .keys
        .then(|| Keys::new(Draw::new(!number << 2), script.xrc, connections));
    let mut alive = vec![true; connections];
    for _ in 0..1 + draw.below(3) {
        let mut step = Vec::new();
        if let Some(keys) = &mut keys {
            keys.begin();
        }
        for (connection, alive) in alive.iter_mut().enumerate() {
            // A connection that has failed is tried again now and then.
            if !*alive && !draw.one_in(4) {
                continue;
            }
            let batch = batch(&mut draw, &script, connection, *alive, keys.as_mut());
            *alive &= !batch.fatal;
            step.push(batch);
        }
        script.steps.push(step);
    }
    script
}

fn batch(draw: &mut Draw, script: &Script, connection: usize, alive: bool, keys: Option<&mut Keys>) -> Batch {
    let mtu = script.mtu.bytes().expect("a code with a meaning");
    let count = 1 + draw.below(SLOTS - 1);
    let failing = draw.one_in(3).then(|| draw.below(count));
    let mut batch = Batch {
        connection,
        side: draw.below(2) as usize,
        prepared: Vec::new(),
        receives: Vec::new(),
        ops: Vec::new(),
        fatal: !alive,
        late: Vec::new(),
    };
    let mut keys = keys.filter(|_| alive);
    if let Some(keys) = &mut keys {
        batch.prepared = keys.prepare(1 - batch.side, connection);
    }
    for n in 0..count {
        // What comes behind a failure is not executed.
        let sound = !batch.fatal;
        let mut kind = draw.of(&[
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
        if sound && keys.as_mut().is_some_and(|keys| keys.wants_change()) {
            kind = Kind::Change;
        }
        let around = mtu * (1 + draw.below(3));
        let len = match kind {
            Kind::Send | Kind::Write | Kind::Read => match draw.below(4) {
                0 => draw.below(9),
                1 => draw.below(3 * mtu),
                _ => around - 1 + draw.below(3),
            },
            Kind::Flush | Kind::Change => 0,
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
            via: None,
            ends: None,
            change: None,
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
        if let Some(keys) = keys.as_mut().filter(|_| sound) {
            if kind == Kind::Change && op.mistake.is_none() {
                let (change, works) = keys.change(batch.side, connection);
                op.change = Some(change);
                batch.fatal |= !works;
            }
            batch.fatal |= !keys.name(&mut op, &batch);
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
    if let (true, Some(keys)) = (batch.fatal, keys) {
        keys.forget(connection);
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
        Kind::Send | Kind::Flush | Kind::Change => Some(Mistake::Opcode),
        Kind::Write | Kind::Read if op.len == 0 => Some(Mistake::Opcode),
        Kind::Write if op.inline => Some(draw.of(&remote)),
        Kind::Write | Kind::Read => Some(draw.of(&[remote[0], remote[1], remote[2], Mistake::LocalKey])),
        _ => Some(draw.of(&[remote[0], remote[1], remote[2], Mistake::LocalKey, Mistake::Alignment])),
    }
}
