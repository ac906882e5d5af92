// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys beside those of a side's regions: windows, regions that work requests register, and what ends either.
//!
//! What a key opens at each point is known when the script is written, so a request through one fails only on purpose.

use super::draw::Draw;
use super::script::{Batch, Kind, Op, SLOT, SLOTS};
use verbena_hw::qp::access;
use verbena_hw::wqe::send_flags;

/// What has such a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A window of type 1, which commands bind.
    Command,
    /// A window of type 2.
    Window,
    /// A region that work requests register.
    Region,
}

/// What each side has of each connection.
pub const HANDLES: [Class; 4] = [Class::Command, Class::Window, Class::Window, Class::Region];

/// Where such a region begins in its own addresses.
const AT: u64 = 0x5000_0000_0128;

const EVERYTHING: u32 =
    access::REMOTE_READ | access::REMOTE_WRITE | access::REMOTE_ATOMIC | access::FLUSH_GLOBAL | access::LOCAL_WRITE;

/// What a key opens: target slots of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    pub class: Class,
    /// A window: its first slot. A region: the one that it begins with; it has all, those before come last.
    pub first: u32,
    pub slots: u32,
    pub rights: u32,
}

impl Opening {
    fn covers(&self, slot: u32) -> bool {
        self.class == Class::Region || (self.first..self.first + self.slots).contains(&slot)
    }

    /// The address of a slot by this key. The first target slot is at `targets` of the buffer.
    pub fn address(&self, slot: u32, targets: u64) -> u64 {
        let zero_based = self.rights & access::ZERO_BASED != 0;
        let place = u64::from(SLOT) * u64::from((slot + SLOTS - self.first) % SLOTS);
        match self.class {
            Class::Region if !zero_based => AT + place,
            Class::Command | Class::Window if !zero_based => targets + u64::from(slot * SLOT),
            _ => place,
        }
    }
}

/// What is wrong with a request to open.
#[derive(Clone, Copy, Debug)]
pub enum Flaw {
    /// An L_Key that nobody has.
    Key,
    /// More memory than there is.
    Range,
    /// Rights, or a region, that do not go with it.
    Rights,
    /// No memory.
    Nothing,
}

/// What becomes of a key of one's own.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Open {
        handle: usize,
        tag: u32,
        opening: Opening,
        flaw: Option<Flaw>,
    },
    Close {
        handle: usize,
        tag: u32,
    },
}

/// A key of the other side's that a request names.
#[derive(Clone, Copy, Debug)]
pub struct Via {
    /// Whose: not always the request's own connection.
    pub connection: usize,
    pub handle: usize,
    pub tag: u32,
    pub opening: Opening,
}

/// A handle at one point of a script.
#[derive(Clone, Copy, Default)]
struct Handle {
    /// Keys that it has had.
    tag: u32,
    open: Option<Opening>,
    /// A READ through it may be under way.
    read: bool,
    /// This step changes it while there are requests under way.
    moving: bool,
}

/// All keys while a script is written.
pub struct Keys {
    draw: Draw,
    xrc: bool,
    /// Of each side, for each connection.
    handles: [Vec<[Handle; HANDLES.len()]>; 2],
}

impl Keys {
    pub fn new(draw: Draw, xrc: bool, connections: usize) -> Self {
        Self {
            draw,
            xrc,
            handles: [0, 1].map(|_| vec![Default::default(); connections]),
        }
    }

    /// A step begins: everything is complete.
    pub fn begin(&mut self) {
        for handle in self.handles.iter_mut().flatten().flatten() {
            (handle.read, handle.moving) = (false, false);
        }
    }

    /// Nothing of the connection is used again.
    pub fn forget(&mut self, connection: usize) {
        for side in &mut self.handles {
            side[connection] = Default::default();
        }
    }

    /// Whether a peer's request can do anything with it. An XRC target has bound no window of its own.
    fn is_usable(&self, handle: usize) -> bool {
        !(self.xrc && HANDLES[handle] == Class::Window)
    }

    fn opening(&mut self, class: Class) -> Opening {
        let first = self.draw.below(SLOTS / 2);
        let mut rights = EVERYTHING;
        if self.draw.one_in(3) {
            rights &= !self.draw.of(&[
                access::REMOTE_READ,
                access::REMOTE_ATOMIC,
                access::FLUSH_GLOBAL,
                access::REMOTE_WRITE,
            ]);
        }
        if class != Class::Region {
            rights &= !access::LOCAL_WRITE;
        }
        // o10-36.2.2: no zero-based windows of type 1.
        if class != Class::Command && self.draw.one_in(3) {
            rights |= access::ZERO_BASED;
        }
        let slots = match class {
            Class::Region => SLOTS,
            _ => SLOTS / 2 + self.draw.below(SLOTS / 2 - first + 1),
        };
        Opening {
            class,
            first,
            slots,
            rights,
        }
    }

    fn open(&mut self, side: usize, connection: usize, handle: usize, flaw: Option<Flaw>) -> Change {
        let opening = self.opening(HANDLES[handle]);
        let state = &mut self.handles[side][connection][handle];
        state.tag += 1;
        state.open = Some(opening);
        Change::Open {
            handle,
            tag: state.tag,
            opening,
            flaw,
        }
    }

    fn close(&mut self, side: usize, connection: usize, handle: usize) -> Change {
        let state = &mut self.handles[side][connection][handle];
        state.open = None;
        Change::Close { handle, tag: state.tag }
    }

    /// What a side does with its keys before the other one posts.
    pub fn prepare(&mut self, side: usize, connection: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for (handle, class) in HANDLES.into_iter().enumerate() {
            let is_open = self.handles[side][connection][handle].open.is_some();
            if is_open && class != Class::Command && self.draw.one_in(4) {
                changes.push(self.close(side, connection, handle));
            } else if (!is_open || class == Class::Command) && !self.draw.one_in(4) {
                changes.push(self.open(side, connection, handle, None));
            }
        }
        changes
    }

    /// Whether the next request is to change a key of the side that posts.
    pub fn wants_change(&mut self) -> bool {
        self.draw.one_in(8)
    }

    /// Such a request, and whether it succeeds.
    pub fn change(&mut self, side: usize, connection: usize) -> (Change, bool) {
        let handle = self.draw.below(HANDLES.len() as u32) as usize;
        let Handle { open, .. } = self.handles[side][connection][handle];
        self.handles[side][connection][handle].moving = true;
        let wrong = self.draw.one_in(8);
        let flaws = [Flaw::Key, Flaw::Range, Flaw::Rights, Flaw::Nothing];
        match (HANDLES[handle], open) {
            (Class::Command, _) => (self.close(side, connection, handle), false),
            (_, Some(_)) if wrong => (self.open(side, connection, handle, None), false),
            (_, Some(_)) => (self.close(side, connection, handle), true),
            (_, None) if wrong && self.draw.one_in(3) => (self.close(side, connection, handle), false),
            (_, None) => {
                let flaw = wrong.then(|| self.draw.of(&flaws));
                (self.open(side, connection, handle, flaw), flaw.is_none())
            }
        }
    }

    /// Lets a request name a key of the other side's. Answers whether that succeeds.
    pub fn name(&mut self, op: &mut Op, batch: &Batch) -> bool {
        let (connection, peer) = (batch.connection, 1 - batch.side);
        if op.flags & send_flags::FENCE != 0 {
            for handle in &mut self.handles[peer][connection] {
                handle.read = false;
            }
        }
        match op.kind {
            Kind::Send if op.imm.is_none() && op.mistake.is_none() && self.draw.one_in(3) => {
                self.end(op, peer, connection)
            }
            Kind::Send | Kind::Change => true,
            _ if self.draw.one_in(2) => self.through(op, peer, connection),
            _ => true,
        }
    }

    fn end(&mut self, op: &mut Op, peer: usize, connection: usize) -> bool {
        let can_end = |keys: &Self, handle: usize| {
            let open = keys.handles[peer][connection][handle].open.is_some();
            open && HANDLES[handle] != Class::Command && keys.is_usable(handle)
        };
        let mut handle = self.draw.below(HANDLES.len() as u32) as usize;
        if !can_end(self, handle) && !self.draw.one_in(12) {
            let Some(other) = (0..HANDLES.len()).find(|&handle| can_end(self, handle)) else {
                return true;
            };
            handle = other;
        }
        let works = can_end(self, handle);
        let state = &mut self.handles[peer][connection][handle];
        op.ends = Some((handle, state.tag));
        state.moving = true;
        if works {
            // An answer that is lost cannot be given again when the key is gone.
            if core::mem::take(&mut state.read) {
                op.flags |= send_flags::FENCE;
            }
            state.open = None;
        }
        works
    }

    fn through(&mut self, op: &mut Op, peer: usize, connection: usize) -> bool {
        let fails = op.len > 0 || op.kind == Kind::Flush;
        if self.draw.one_in(16) && fails && !self.xrc && op.mistake.is_none() {
            // A window that another queue pair has bound, and that stays as it is meanwhile.
            let others = &self.handles[peer][..connection];
            let found = others.iter().enumerate().find_map(|(connection, handles)| {
                let handle = 1;
                let Handle { open, tag, moving, .. } = handles[handle];
                (!moving).then_some(Via {
                    connection,
                    handle,
                    tag,
                    opening: open?,
                })
            });
            if found.is_some() {
                op.via = found;
                return false;
            }
        }
        let handle = self.draw.below(HANDLES.len() as u32) as usize;
        let usable = self.is_usable(handle);
        let state = &mut self.handles[peer][connection][handle];
        let Some(opening) = state.open else {
            return true;
        };
        let needed = match op.kind {
            Kind::Read => access::REMOTE_READ,
            Kind::CompareSwap | Kind::FetchAdd => access::REMOTE_ATOMIC,
            Kind::Flush => access::FLUSH_GLOBAL,
            _ => access::REMOTE_WRITE,
        };
        // What was bound is not always what is wanted now, and keys are kept too long now and then.
        let stale = self.draw.one_in(16);
        let good = usable && opening.covers(op.target) && opening.rights & needed != 0 && !stale;
        if !good && fails && !self.draw.one_in(6) {
            return true;
        }
        op.via = Some(Via {
            connection,
            handle,
            tag: state.tag - u32::from(stale),
            opening,
        });
        if op.kind == Kind::Read && good {
            state.read = true;
        }
        good || !fails
    }
}
