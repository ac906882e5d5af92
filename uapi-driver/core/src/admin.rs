// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The admin queue's client: commands from many threads, in flight together, completed in any order.
//!
//! A command takes one of [`SLOTS`] slots; its id is the slot and the slot's generation. Whoever finds completions,
//! the interrupt or a thread that waits, files all of them and raises the signals of those who wait. Nobody depends
//! on the interrupt: a waiter looks for itself, at first without sleeping (a device on another core answers sooner
//! than a sleep takes), then whenever a nap has passed.
//!
//! Where the device offers it, the queue has a record in memory ([`AdminRecord`]): a device that is awake finds commands
//! by it, and signals completions only while somebody sleeps. A command then takes no register access and no interrupt.
//!
//! Whoever has more to send need not wait in between ([`AdminQueue::begin`], [`AdminQueue::finish`]). The device is not woken for
//! each of such commands, and so many of them take half of the slots at most: a thread may have several and wait for one
//! more, which must not be able to depend on itself or on another that does the same.
//!
//! A command has a deadline. The device that misses it, that reads all ones, stops by itself (STATUS.FATAL) or writes
//! a completion nobody waits for counts as dead: every waiter and every later call gets [`CommandError::Gone`].
//! After that it may not touch memory any more, which is the platform's to see to (bus mastering, the mapping).
//!
//! Locks: `submit` and `complete` are never held together.

use crate::platform::{Dma, Platform, Signal, PAGE};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Mutex, NoMemory, Vec};
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::admin::{AdminRecord, Command, Completion, Opcode, Status, LINK_BEGIN, PAYLOAD};
use verbena_hw::regs;
use verbena_hw::ring::{phase, slot, OWNER_PHASE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// log2 of the entries of both rings: four times as many as there are commands in flight, so that the consumer counter needs
/// to be told to the device only now and then. Each time is a trapped access in a guest, a system call and another thread's
/// turn natively; a thousand connections are two thousand completions.
const LOG_SIZE: u8 = 8;
/// Bytes of an entry of either ring.
const ENTRY: usize = 256;
/// Commands in flight.
pub(crate) const SLOTS: usize = 64;
/// Completions after which the device is told the consumer counter: what is left of the ring holds those of all that are
/// in flight.
const UNTOLD_COMPLETIONS: u32 = (1 << LOG_SIZE) - SLOTS as u32;
/// How long a waiter sleeps before it looks for itself, in nanoseconds.
const NAP: u64 = 10_000_000;

/// Commands in flight that nobody waits for yet.
const BEGUN: u32 = SLOTS as u32 / 2;
/// Of those, how many may stand before a device that sleeps before it is woken.
const UNTOLD: u32 = 16;

/// Words of the record.
const KICK: usize = offset_of!(AdminRecord, kick) / 8;
const TAIL: usize = offset_of!(AdminRecord, tail) / 8;
const SLEEPING: usize = offset_of!(AdminRecord, sleeping) / 8;

const _: () = assert!(size_of::<Command>() == ENTRY && size_of::<Completion>() == ENTRY);
const _: () = assert!(SLOTS <= 64, "free slots are the bits of one word");
/// Bits of a command's id that are its slot; the rest is the slot's generation.
const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// Why a command gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The device refused.
    Refused {
        /// What was asked for.
        opcode: Opcode,
        /// How it ended.
        status: Status,
        /// What was wrong, as the status says.
        detail: u32,
    },
    /// The device is gone, or does not answer any more.
    Gone,
}

impl CommandError {
    /// Whether the device refused with this status.
    pub fn is(&self, wanted: Status) -> bool {
        matches!(self, CommandError::Refused { status, .. } if *status == wanted)
    }

    /// Whether the device refused the value of the field at this offset of the request.
    pub fn is_field(&self, offset: usize) -> bool {
        matches!(self, CommandError::Refused { status: Status::BAD_FIELD, detail, .. } if *detail as usize == offset)
    }

    /// The errno that says it best.
    pub fn errno(&self) -> Errno {
        let CommandError::Refused { status, .. } = self else {
            return Errno::ENODEV;
        };
        match *status {
            Status::BAD_OPCODE => Errno::EOPNOTSUPP,
            Status::BAD_FIELD
            | Status::RESERVED_FIELD
            | Status::BAD_TRANSITION
            | Status::MISSING_ATTRIBUTE
            | Status::FORBIDDEN_ATTRIBUTE
            | Status::BAD_GID_INDEX
            | Status::BAD_MATCH => Errno::EINVAL,
            Status::NO_SUCH_OBJECT => Errno::ENOENT,
            Status::IN_USE | Status::SLOT_TAKEN => Errno::EBUSY,
            Status::LIMIT => Errno::ENOSPC,
            Status::BAD_ADDRESS | Status::BAD_PAGE_LIST => Errno::EFAULT,
            Status::BUFFER_TOO_SMALL => Errno::EOVERFLOW,
            Status::DUPLICATE_GID | Status::DUPLICATE_FLOW => Errno::EEXIST,
            Status::CANCELED => Errno::ECANCELED,
            _ => Errno::EIO,
        }
    }
}

impl core::fmt::Display for CommandError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            CommandError::Refused { opcode, status, detail } => {
                write!(f, "the device refused {opcode}: {status}, detail {detail:#x}")
            }
            CommandError::Gone => f.write_str("the device is gone or does not answer"),
        }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Gone => Failure::GONE,
            CommandError::Refused {
                status: Status::IN_USE,
                detail,
                ..
            } => Failure::new(Errno::EBUSY, Reason::IN_USE).detail(detail.min(u32::from(u16::MAX)) as u16),
            CommandError::Refused { status, .. } => Failure::device(error.errno(), status.0),
        }
    }
}

/// Bytes of a [`Command`] before its payload.
const HEAD: usize = offset_of!(Command, payload);
/// Bytes of a [`Completion`] before its payload.
const COMPLETION_HEAD: usize = offset_of!(Completion, payload);

/// What stands before a command's payload.
fn head(opcode: Opcode, id: u16, linked: Linked) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[offset_of!(Command, opcode)..][..2].copy_from_slice(opcode.as_bytes());
    head[offset_of!(Command, id)..][..2].copy_from_slice(id.as_bytes());
    head[offset_of!(Command, link)] = linked.link;
    head[offset_of!(Command, flags)] = if linked.begins { LINK_BEGIN } else { 0 };
    head
}

/// The `N` bytes of a completion's head at `offset`.
fn field<const N: usize>(head: &[u8; COMPLETION_HEAD], offset: usize) -> [u8; N] {
    *head[offset..]
        .first_chunk()
        .expect("the offset is a field's before the payload")
}

/// The submitting side.
struct Submit {
    /// Free-running producer counter.
    tail: u32,
    /// Bit `n` set: slot `n` is free.
    free: u64,
    /// Who wait for a free slot.
    waiting: u32,
    /// Commands since the device, which slept, was told last.
    untold: u32,
}

/// The completing side.
struct Complete {
    /// Free-running consumer counter.
    head: u32,
    /// What of it the device has been told.
    told: u32,
    /// Completions that waiters found for themselves and whose interrupt is still to come.
    unannounced: u32,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy)]
struct Slot {
    generation: u16,
    state: State,
    /// Somebody sleeps until it is done.
    awaited: bool,
    /// How it ended.
    status: Status,
    detail: u32,
    /// The beginning of its completion's payload, as long as the response is.
    response: Response,
    len: u16,
}

/// Room for a response, in words: [`Dma`]'s unit.
type Response = [u64; PAYLOAD / 8];

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    InFlight,
    Done,
}

/// A command in flight: [`AdminQueue::finish`] takes it.
#[must_use = "its slot is taken until it is finished"]
pub(crate) struct Begun {
    slot: usize,
    opcode: Opcode,
}

/// Which link a command belongs to ([`verbena_hw::admin::LINKS`]); the default is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Linked {
    pub(crate) link: u8,
    pub(crate) begins: bool,
}

/// The admin queue.
pub(crate) struct AdminQueue<P: Platform> {
    platform: P,
    submission: P::Dma,
    completion: P::Dma,
    /// An [`AdminRecord`], if the device looks at one.
    record: Option<P::Dma>,
    submit: Mutex<Submit>,
    complete: Mutex<Complete>,
    /// Raised when the slot's command is done, or the device is dead.
    done: Vec<P::Signal>,
    /// Raised when a slot is free, or the device is dead.
    room: P::Signal,
    /// Commands that have begun, or will, and that nobody waits for yet.
    begun: AtomicU32,
    /// Bit `n` set: link `n` is somebody's.
    links: AtomicU64,
    /// Somebody is about to declare it dead.
    dying: AtomicBool,
    dead: AtomicBool,
}

impl<P: Platform> AdminQueue<P> {
    /// The queue's memory and books; the device does not know of it yet.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(crate) fn try_new(platform: P) -> Result<Self, Errno> {
        let no_memory = |NoMemory| Errno::ENOMEM;
        let mut slots = Vec::new();
        let idle = Slot {
            generation: 0,
            state: State::Idle,
            awaited: false,
            status: Status::OK,
            detail: 0,
            response: [0; PAYLOAD / 8],
            len: 0,
        };
        slots.resize(SLOTS, idle).map_err(no_memory)?;
        let mut done = Vec::new();
        for _ in 0..SLOTS {
            done.push(platform.signal()?).map_err(no_memory)?;
        }
        let submit = Submit {
            tail: 0,
            free: u64::MAX >> (64 - SLOTS),
            waiting: 0,
            untold: 0,
        };
        let complete = Complete {
            head: 0,
            told: 0,
            unannounced: 0,
            slots,
        };
        let has_record = platform.read64(regs::CAPS) & regs::CAP_ADMIN_RECORD != 0;
        Ok(AdminQueue {
            record: has_record.then(|| platform.alloc_dma(PAGE as usize)).transpose()?,
            submission: platform.alloc_dma(ENTRY << LOG_SIZE)?,
            completion: platform.alloc_dma(ENTRY << LOG_SIZE)?,
            submit: Mutex::try_new(submit, c"verbena_admin_submit").map_err(no_memory)?,
            complete: Mutex::try_new(complete, c"verbena_admin_complete").map_err(no_memory)?,
            done,
            room: platform.signal()?,
            begun: AtomicU32::new(0),
            // There is no link 0.
            links: AtomicU64::new(1),
            dying: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            platform,
        })
    }

    /// Tells the device where the rings are; CTRL.ENABLE is 0.
    pub(crate) fn program(&self) {
        self.platform.write64(regs::ASQ_ADDR, self.submission.addr());
        self.platform.write64(regs::ACQ_ADDR, self.completion.addr());
        self.platform.write32(regs::AQ_LOG_SIZE, u32::from(LOG_SIZE));
        if let Some(record) = &self.record {
            self.platform.write64(regs::AQ_RECORD, record.addr());
        }
    }

    /// Whether the device counts as dead and touches no memory any more.
    pub(crate) fn is_dead(&self) -> bool {
        // Acquire: who sees it frees memory, after the reset that made that safe.
        self.dead.load(Ordering::Acquire)
    }

    /// From now on the device counts as dead; everybody who waits is woken. Says whether it did not before.
    ///
    /// Should it be alive after all, it is reset first: what a waiter that has given up frees, the device must not
    /// touch any more.
    pub(crate) fn die(&self) -> bool {
        let first = !self.dying.swap(true, Ordering::Relaxed);
        if first {
            self.platform.write32(regs::CTRL, regs::CTRL_RESET);
            // The read returns when the write has arrived, and with it the reset is complete (regs::CTRL_RESET).
            self.platform.read32(regs::STATUS);
            // Release: pairs with `is_dead`.
            self.dead.store(true, Ordering::Release);
        } else {
            // Somebody else is at it: who comes back from here relies on the reset.
            while !self.is_dead() {
                self.platform.pause();
            }
        }
        for signal in self.done.iter() {
            signal.raise();
        }
        // Whoever this wakes raises it again for the next one.
        self.room.raise();
        first
    }

    /// The device was found dead: as [`AdminQueue::die`], and people and the platform get to know, once.
    fn found_dead(&self, why: core::fmt::Arguments<'_>) {
        if self.die() {
            self.platform.log(format_args!("{why}: the device is dead"));
            self.platform.died();
        }
    }

    /// Executes a command and waits for its end.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub(crate) fn execute<Req, Rsp>(&self, opcode: Opcode, request: &Req) -> Result<Rsp, CommandError>
    where
        Req: IntoBytes + Immutable,
        Rsp: FromBytes + IntoBytes,
    {
        let slot = self.put((opcode, Linked::default()), request, size_of::<Rsp>(), true)?;
        self.answer(slot, opcode)
    }

    /// The right to have one more command in flight without waiting for it, if there is one left. [`AdminQueue::begin`]
    /// takes it, or else [`AdminQueue::forgo`].
    pub(crate) fn may_begin(&self) -> bool {
        let more = |begun| (begun < BEGUN).then_some(begun + 1);
        self.begun
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Gives up what [`AdminQueue::may_begin`] gave.
    pub(crate) fn forgo(&self) {
        self.begun.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a command that [`AdminQueue::may_begin`] allowed, and does not wait for its end; its response will be an `Rsp`.
    ///
    /// # Errors
    ///
    /// [`CommandError::Gone`].
    pub(crate) fn begin<Req, Rsp>(&self, opcode: Opcode, request: &Req, linked: Linked) -> Result<Begun, CommandError>
    where
        Req: IntoBytes + Immutable,
        Rsp: FromBytes + IntoBytes,
    {
        match self.put((opcode, linked), request, size_of::<Rsp>(), false) {
            Ok(slot) => Ok(Begun { slot, opcode }),
            Err(error) => {
                self.forgo();
                Err(error)
            }
        }
    }

    /// Waits for the end of a command that has begun.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub(crate) fn finish<Rsp>(&self, begun: Begun) -> Result<Rsp, CommandError>
    where
        Rsp: FromBytes + IntoBytes,
    {
        let answer = self.answer(begun.slot, begun.opcode);
        self.forgo();
        answer
    }

    /// Executes command `opcode` with each of `count` requests, several of them under way together, and gives the responses to
    /// `each`, in order.
    ///
    /// # Errors
    ///
    /// The first [`CommandError`], or what `each` says first; those behind it have been executed, or have not.
    pub(crate) fn execute_all<Req, Rsp>(
        &self,
        opcode: Opcode,
        count: u32,
        request: impl Fn(u32) -> Req,
        mut each: impl FnMut(u32, &Rsp) -> Outcome,
    ) -> Outcome
    where
        Req: IntoBytes + Immutable,
        Rsp: FromBytes + IntoBytes,
    {
        const TOGETHER: u32 = 16;
        let mut begun = [const { None }; TOGETHER as usize];
        let place = |n: u32| (n % TOGETHER) as usize;
        let (mut next, mut outcome) = (0, Ok(()));
        for oldest in 0..count {
            while outcome.is_ok() && next < count && next - oldest < TOGETHER && self.may_begin() {
                match self.begin::<Req, Rsp>(opcode, &request(next), Linked::default()) {
                    Ok(command) => begun[place(next)] = Some(command),
                    Err(error) => outcome = Err(error.into()),
                }
                next += 1;
            }
            let response = match begun[place(oldest)].take() {
                Some(command) => self.finish(command),
                None if outcome.is_err() => continue,
                // Others have all that may be under way.
                None => {
                    next += 1;
                    self.execute(opcode, &request(oldest))
                }
            };
            let given = response.map_err(Failure::from).and_then(|response| match outcome {
                Ok(()) => each(oldest, &response),
                Err(_) => Ok(()),
            });
            outcome = outcome.and(given);
        }
        outcome
    }

    /// A link that is nobody's, if there is one; [`AdminQueue::give_link`] gives it back.
    pub(crate) fn take_link(&self) -> Option<u8> {
        let first = |links: u64| links.trailing_ones();
        let taken = self.links.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |links| {
            (links != u64::MAX).then(|| links | 1 << first(links))
        });
        taken.ok().map(|links| first(links) as u8)
    }

    /// Gives a link back, of which no command is in flight.
    pub(crate) fn give_link(&self, link: u8) {
        self.links.fetch_and(!(1 << link), Ordering::Relaxed);
    }

    /// Takes a slot and sends a command, whose id this chooses and whose response has `response` bytes. `now`: somebody waits
    /// for it.
    fn put<Req>(
        &self,
        (opcode, linked): (Opcode, Linked),
        request: &Req,
        response: usize,
        now: bool,
    ) -> Result<usize, CommandError>
    where
        Req: IntoBytes + Immutable,
    {
        const { assert!(size_of::<Req>() <= PAYLOAD && size_of::<Req>() % 8 == 0) };
        let slot = self.acquire()?;
        let id = {
            let mut complete = self.complete.lock();
            let entry = &mut complete.slots[slot];
            entry.state = State::InFlight;
            entry.generation = (entry.generation + 1) % (1 << (u16::BITS - SLOT_BITS));
            entry.len = response as u16;
            entry.generation << SLOT_BITS | slot as u16
        };
        self.send(&head(opcode, id, linked), request.as_bytes(), now);
        Ok(slot)
    }

    /// Waits for the end of what is in a slot, which is free then.
    fn answer<Rsp: FromBytes + IntoBytes>(&self, slot: usize, opcode: Opcode) -> Result<Rsp, CommandError> {
        const { assert!(size_of::<Rsp>() <= PAYLOAD) };
        let mut response = Rsp::new_zeroed();
        let ended = self.wait(slot, response.as_mut_bytes());
        self.release(slot);
        match ended? {
            (Status::OK, _) => Ok(response),
            (status, detail) => Err(CommandError::Refused { opcode, status, detail }),
        }
    }

    /// Takes a free slot, waiting for one.
    fn acquire(&self) -> Result<usize, CommandError> {
        let mut waited = false;
        loop {
            if self.is_dead() {
                self.room.raise();
                return Err(CommandError::Gone);
            }
            {
                let mut submit = self.submit.lock();
                submit.waiting -= u32::from(core::mem::take(&mut waited));
                if submit.free != 0 {
                    let slot = submit.free.trailing_zeros() as usize;
                    submit.free &= submit.free - 1;
                    // A binary signal keeps one raise only: what is left is passed on.
                    if submit.free != 0 && submit.waiting > 0 {
                        self.room.raise();
                    }
                    return Ok(slot);
                }
                submit.waiting += 1;
                waited = true;
            }
            self.tell();
            self.room.wait(NAP);
        }
    }

    fn release(&self, slot: usize) {
        let mut submit = self.submit.lock();
        submit.free |= 1 << slot;
        if submit.waiting > 0 {
            self.room.raise();
        }
    }

    /// Puts a command into the ring. A device that sleeps is woken, unless nobody waits `now` and there are few such.
    fn send(&self, head: &[u8; HEAD], request: &[u8], now: bool) {
        let mut submit = self.submit.lock();
        // There is room: at most SLOTS commands are in flight, a quarter of what the ring holds.
        let offset = slot(submit.tail, LOG_SIZE) as usize * ENTRY;
        // In place, word by word: a command is long, and most of it is the zeros behind the request.
        self.submission.write(offset, head);
        let payload = offset + HEAD;
        self.submission.write(payload, request);
        self.submission.zero(payload + request.len(), PAYLOAD - request.len());
        submit.tail = submit.tail.wrapping_add(1);
        submit.untold += 1;
        // Under the lock: two threads that told their counters in the wrong order would move the tail back.
        if let Some(record) = &self.record {
            // Release for the entry; a full fence between this store and the look at whether the device sleeps, because it
            // has one between its announcement and its last look at the counter.
            record.words()[TAIL].swap(submit.tail.into(), Ordering::SeqCst);
            if record.words()[KICK].load(Ordering::SeqCst) == 0 {
                submit.untold = 0;
                return;
            }
        }
        if now || submit.untold >= UNTOLD {
            self.wake(&mut submit);
        }
    }

    /// Wakes the device if it sleeps and has not been told of all commands.
    fn tell(&self) {
        let mut submit = self.submit.lock();
        if submit.untold == 0 {
            return;
        }
        // One that is awake has seen the counter, or will: it looks once more before it sleeps.
        match &self.record {
            Some(record) if record.words()[KICK].load(Ordering::SeqCst) == 0 => submit.untold = 0,
            _ => self.wake(&mut submit),
        }
    }

    fn wake(&self, submit: &mut Submit) {
        submit.untold = 0;
        // The register write orders the entries before it (Platform::write32).
        self.platform.write32(regs::ASQ_TAIL, submit.tail);
    }

    /// Waits for the slot's completion: its status, its detail, and the beginning of its payload.
    fn wait(&self, slot: usize, response: &mut [u8]) -> Result<(Status, u32), CommandError> {
        let mut start = None;
        loop {
            {
                let mut complete = self.complete.lock();
                if complete.slots[slot].state != State::Done {
                    let found = self.collect(&mut complete);
                    complete.unannounced = complete.unannounced.saturating_add(found);
                }
                let entry = &mut complete.slots[slot];
                entry.awaited = false;
                if entry.state == State::Done {
                    entry.state = State::Idle;
                    let given = entry.response.as_bytes();
                    response.copy_from_slice(&given[..response.len()]);
                    return Ok((entry.status, entry.detail));
                }
            }
            if self.is_dead() {
                return Err(CommandError::Gone);
            }
            let now = self.platform.now();
            if start.is_none() {
                // Only now: whoever finds its completion there need not wake the device for those behind it.
                self.tell();
            }
            let waited = now.saturating_sub(*start.get_or_insert(now));
            if waited < self.platform.spin() {
                core::hint::spin_loop();
                continue;
            }
            if waited > NAP && !self.check_alive() {
                continue;
            }
            if waited > self.platform.command_timeout() {
                let milliseconds = waited / 1_000_000;
                self.found_dead(format_args!("a command was not completed in {milliseconds} ms"));
                continue;
            }
            self.sleep(slot);
        }
    }

    /// Sleeps until the slot's signal is raised, or a nap has passed; not at all if the completion is there.
    fn sleep(&self, slot: usize) {
        let sleeping = self.record.as_ref().map(|record| &record.words()[SLEEPING]);
        if let Some(sleeping) = sleeping {
            // A full fence between this and the last look: the device has one between a completion and its look at this.
            sleeping.fetch_add(1, Ordering::SeqCst);
        }
        let found = {
            let mut complete = self.complete.lock();
            let found = self.collect(&mut complete);
            complete.unannounced = complete.unannounced.saturating_add(found);
            let entry = &mut complete.slots[slot];
            entry.awaited = true;
            entry.state == State::Done
        };
        if !found {
            self.done[slot].wait(NAP);
        }
        if let Some(sleeping) = sleeping {
            sleeping.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What vector 0 means.
    pub(crate) fn interrupt(&self) {
        let explained = {
            let mut complete = self.complete.lock();
            let found = self.collect(&mut complete);
            found + core::mem::take(&mut complete.unannounced)
        };
        if explained == 0 {
            // Vector 0 also says that the device stopped.
            self.check_alive();
        }
    }

    /// Files the completions that are there and says how many.
    fn collect(&self, complete: &mut Complete) -> u32 {
        let mut found = 0;
        loop {
            let offset = slot(complete.head, LOG_SIZE) as usize * ENTRY;
            // Acquire: the device writes this word last.
            let owner = self.completion.words()[offset / 8].load(Ordering::Acquire) as u8;
            if owner & OWNER_PHASE != phase(complete.head, LOG_SIZE) {
                break;
            }
            complete.head = complete.head.wrapping_add(1);
            found += 1;
            self.file(complete, offset);
        }
        if complete.head.wrapping_sub(complete.told) >= UNTOLD_COMPLETIONS {
            complete.told = complete.head;
            self.platform.write32(regs::ACQ_HEAD, complete.head);
        }
        found
    }

    /// Files the completion at `offset` of its ring: as much of it as somebody waits for.
    fn file(&self, complete: &mut Complete, offset: usize) {
        let mut head = [0; COMPLETION_HEAD];
        self.completion.read(offset, &mut head);
        let id = u16::from_le_bytes(field(&head, offset_of!(Completion, id)));
        let number = usize::from(id) % SLOTS;
        match complete.slots.get_mut(number) {
            Some(slot) if slot.state == State::InFlight && slot.generation == id >> SLOT_BITS => {
                slot.status = Status(u16::from_le_bytes(field(&head, offset_of!(Completion, status))));
                slot.detail = u32::from_le_bytes(field(&head, offset_of!(Completion, detail)));
                let words = usize::from(slot.len).div_ceil(8);
                let response = &mut slot.response[..words];
                self.completion.read(offset + COMPLETION_HEAD, response.as_mut_bytes());
                slot.state = State::Done;
                if slot.awaited {
                    self.done[number].raise();
                }
            }
            _ => {
                self.found_dead(format_args!("it completed command {id:#x}, which nobody sent"));
            }
        }
    }

    /// Looks at STATUS and says whether the device works.
    pub(crate) fn check_alive(&self) -> bool {
        if self.is_dead() {
            return false;
        }
        let status = self.platform.read32(regs::STATUS);
        if status != u32::MAX && status & regs::STATUS_FATAL == 0 {
            return true;
        }
        if status == u32::MAX {
            self.found_dead(format_args!("its registers read all ones"));
        } else {
            // Read before the reset makes it forget.
            let health = self.platform.read32(regs::HEALTH);
            self.found_dead(format_args!("it stopped, health {health}"));
        }
        false
    }
}
