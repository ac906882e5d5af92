// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Event queues: where objects report to; always a file descriptor.
//!
//! An object reports to at most one queue, through its [`Subscription`]. Locks are taken in one order: the
//! subscription's, then the queue's ring. Destroying or re-associating an object takes its subscription first and then
//! removes from the ring what was not read, both before the call returns: no event of a destroyed object is delivered
//! afterwards.
//!
//! No event is lost. An unread completion event counts the next of its object into itself, and so does an unread
//! asynchronous event (or one of datagrams) of the same object and kind, which then takes the newer one's place at the end: the last word is
//! the last. So an object has at most one unread event of each of its kinds, and association makes the room for them
//! (`kinds_of`): it is association that can fail, not the event. What is not coalesced (devices that come and go,
//! connection requests: each is news of its own) has the same room, and the capacity that the program asked for, which
//! all share; when that is full, events are lost and a LOST event says how many.

use crate::class::event_queue::{kind, kinds_of, Event};
use crate::context::{Context, GiveBack};
use crate::driver::Driver;
use crate::errno::Errno;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, Wait};
use crate::sys::{self, Arc, Mutex, NoMemory, Vec};
use crate::wire::ObjectId;
use zerocopy::IntoBytes;

/// How many events the program has been given of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Completion events.
    pub completions: u32,
    /// All others.
    pub others: u32,
}

/// An object that reports to the queue, as the queue knows it.
enum Member {
    /// The next free place.
    Free(u32),
    Taken(Given),
}

/// No member: an event of the queue itself, or the end of the list of free places.
const NOBODY: u32 = u32::MAX;

/// In the ring, an event's `reserved` is the member that it is of; the program sees zero.
struct Ring {
    /// A ring that grows.
    events: Vec<Event>,
    /// The oldest event.
    first: usize,
    /// Events in it.
    count: usize,
    /// Number of the oldest event since the queue was made.
    sequence: u64,
    /// Events that it holds beside those that its members have room for.
    capacity: usize,
    /// Room of the members.
    reserved: usize,
    members: Vec<Member>,
    free: u32,
    /// Events lost since the last LOST event.
    lost: u64,
    ended: bool,
}

impl Ring {
    fn place(&self, n: usize) -> usize {
        let place = self.first + n;
        // Not %, which would have to think of an empty ring.
        if place < self.events.len() {
            place
        } else {
            place - self.events.len()
        }
    }

    /// Events that it holds. One more is the last word's.
    fn room(&self) -> usize {
        self.capacity + self.reserved
    }

    /// Makes it at least so long.
    fn grow(&mut self, length: usize) -> Result<(), NoMemory> {
        let now = self.events.len();
        if length <= now {
            return Ok(());
        }
        if self.first + self.count > now {
            // It goes around the end, which is about to move.
            self.events.rotate_left(self.first);
            self.first = 0;
        }
        // By half at least, so that moving stays cheap however often it grows.
        self.events.resize(length.max(now + now / 2), Event::default())
    }

    /// A new member, with room for so many events.
    fn join(&mut self, kinds: usize) -> Result<u32, NoMemory> {
        self.grow(self.room() + kinds + 1)?;
        let member = Member::Taken(Given::default());
        let number = if self.free == NOBODY {
            self.members.push(member)?;
            self.members.len() as u32 - 1
        } else {
            let number = self.free;
            let Member::Free(next) = core::mem::replace(&mut self.members[number as usize], member) else {
                unreachable!("the list of free places has free places only")
            };
            self.free = next;
            number
        };
        self.reserved += kinds;
        Ok(number)
    }

    /// The member leaves, and its unread events are gone.
    fn leave(&mut self, number: u32, kinds: usize) -> Given {
        let mut kept = 0;
        for n in 0..self.count {
            let event = self.events[self.place(n)];
            if event.reserved != number {
                let place = self.place(kept);
                self.events[place] = event;
                kept += 1;
            }
        }
        self.count = kept;
        self.reserved -= kinds;
        let free = Member::Free(core::mem::replace(&mut self.free, number));
        match core::mem::replace(&mut self.members[number as usize], free) {
            Member::Taken(given) => given,
            Member::Free(_) => unreachable!("it leaves once"),
        }
    }

    fn push(&mut self, event: Event) -> Option<u64> {
        if self.count >= self.room() {
            self.lost += 1;
            return None;
        }
        Some(self.put(event))
    }

    /// Puts an event where there is room; its number.
    fn put(&mut self, event: Event) -> u64 {
        let place = self.place(self.count);
        self.events[place] = event;
        self.count += 1;
        self.sequence + self.count as u64 - 1
    }

    fn pop(&mut self) -> Option<Event> {
        // What was lost would have come here, or at least before the last word.
        let last_word = self.count == 1 && self.events[self.first].reserved == NOBODY;
        if self.lost > 0 && (self.count == 0 || last_word) {
            let lost = core::mem::take(&mut self.lost);
            return Some(Event {
                kind: kind::LOST,
                data: lost,
                count: 1,
                ..Event::default()
            });
        }
        if self.count > 0 {
            let mut event = self.events[self.first];
            self.first = self.place(1);
            self.count -= 1;
            self.sequence += 1;
            let member = core::mem::take(&mut event.reserved);
            if let Some(Member::Taken(given)) = self.members.get_mut(member as usize) {
                match event.kind {
                    kind::COMPLETION => given.completions = given.completions.wrapping_add(1),
                    _ => given.others = given.others.wrapping_add(1),
                }
            }
            return Some(event);
        }
        None
    }

    /// Where the member's unread event of that kind is, if `newest` is the number that its newest event of this kind or
    /// others had when it was put there.
    fn unread(&self, newest: Option<u64>, member: u32, kind: u16) -> Option<usize> {
        // Events are read in order: if the newest was, all were. Those that left before it have only brought it nearer.
        let n = newest?.checked_sub(self.sequence)?;
        (0..self.count.min(n as usize + 1)).rev().find(|&n| {
            let event = &self.events[self.place(n)];
            event.reserved == member && event.kind == kind
        })
    }

    /// Takes an event out of the middle.
    fn take_out(&mut self, n: usize) -> Event {
        let event = self.events[self.place(n)];
        for n in n + 1..self.count {
            let (from, to) = (self.place(n), self.place(n - 1));
            self.events[to] = self.events[from];
        }
        self.count -= 1;
        event
    }

    fn pending(&self) -> usize {
        self.count + usize::from(self.lost > 0)
    }
}

/// A queue of events.
pub struct EventQueue<H: Host> {
    ring: Mutex<Ring>,
    wait: H::Wait,
}

impl<H: Host> EventQueue<H> {
    pub(crate) fn try_new(capacity: u32) -> Outcome<Self> {
        let mut ring = Ring {
            events: Vec::new(),
            first: 0,
            count: 0,
            sequence: 0,
            capacity: capacity as usize,
            reserved: 0,
            members: Vec::new(),
            free: NOBODY,
            lost: 0,
            ended: false,
        };
        ring.grow(ring.room() + 1)?;
        Ok(EventQueue {
            ring: Mutex::try_new(ring, c"rdma_uapi_events")?,
            wait: H::Wait::try_new()?,
        })
    }

    /// What readers wait on.
    pub fn wait(&self) -> &H::Wait {
        &self.wait
    }

    /// Events that it can hold beside those that it keeps room for.
    pub fn capacity(&self) -> u32 {
        self.ring.lock().capacity as u32
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let ring = self.ring.lock();
        let lists = size_of_val(&*ring.events) + size_of_val(&*ring.members);
        sys::arc_bytes::<Self>() + Mutex::<Ring>::HEAP + sys::allocated(lists)
    }

    /// Events to be read.
    pub fn pending(&self) -> u32 {
        self.ring.lock().pending() as u32
    }

    /// Whether it will never get another event: its context or its device is gone. What is in it can still be read.
    pub fn ended(&self) -> bool {
        self.ring.lock().ended
    }

    /// Takes up to as many events as fit; says how many.
    pub fn take(&self, into: &mut [Event]) -> usize {
        let mut ring = self.ring.lock();
        let mut taken = 0;
        for place in into {
            match ring.pop() {
                Some(event) => *place = event,
                None => break,
            }
            taken += 1;
        }
        taken
    }

    /// read(2): whole events into `buffer`; the bytes written. Never waits.
    ///
    /// # Errors
    ///
    /// EINVAL if not even one event fits; EAGAIN if there is none now (the caller waits, or not, and tries again);
    /// ENODEV if there never will be one.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if buffer.len() < size_of::<Event>() {
            return Err(Errno::EINVAL);
        }
        let mut ring = self.ring.lock();
        let mut written = 0;
        for place in buffer.chunks_exact_mut(size_of::<Event>()) {
            let Some(event) = ring.pop() else { break };
            place.copy_from_slice(event.as_bytes());
            written += size_of::<Event>();
        }
        match written {
            0 if ring.ended => Err(Errno::ENODEV),
            0 => Err(Errno::EAGAIN),
            _ => Ok(written),
        }
    }

    /// Puts a member's event in; the number of the newest of its kind that is unread now. `newest` is what that was
    /// before.
    fn post(&self, mut event: Event, newest: Option<u64>) -> Option<u64> {
        let number = {
            let mut ring = self.ring.lock();
            if ring.ended {
                return None;
            }
            let unread = match event.kind {
                kind::COMPLETION | kind::MAD | kind::ASYNC..=kind::LAST_ASYNC => {
                    ring.unread(newest, event.reserved, event.kind)
                }
                _ => None,
            };
            match unread {
                // In place: nothing is waiting for a completion queue's place among the others.
                Some(n) if event.kind == kind::COMPLETION => {
                    let place = ring.place(n);
                    let unread = &mut ring.events[place];
                    unread.count = unread.count.saturating_add(1);
                    return newest;
                }
                Some(n) => {
                    event.count = event.count.saturating_add(ring.take_out(n).count);
                    return Some(ring.put(event));
                }
                None => ring.push(event),
            }
        };
        self.wait.wake();
        number
    }

    /// No more events, after this last one if there is one.
    pub(crate) fn end(&self, last: Option<Event>) {
        {
            let mut ring = self.ring.lock();
            if ring.ended {
                return;
            }
            if let Some(last) = last {
                // There is room for the last word, whatever else is there.
                ring.put(Event {
                    reserved: NOBODY,
                    ..last
                });
            }
            ring.ended = true;
        }
        self.wait.wake();
    }
}

/// That an object reports to a queue. When it is dropped, what the object reported and nobody read is gone.
pub struct Subscription<H: Host> {
    queue: Arc<EventQueue<H>>,
    cookie: u64,
    member: u32,
    kinds: u32,
    /// Number of the newest completion event, which may be unread still.
    completion: Option<u64>,
    /// The same of all other events.
    other: Option<u64>,
}

impl<H: Host> Subscription<H> {
    /// An object of that class reports to `queue` from now on.
    ///
    /// # Errors
    ///
    /// No memory for the events that it may have unread.
    pub(crate) fn try_new(queue: Arc<EventQueue<H>>, class: u16, cookie: u64) -> Result<Self, NoMemory> {
        let kinds = kinds_of(class);
        let member = queue.ring.lock().join(kinds as usize)?;
        Ok(Subscription {
            queue,
            cookie,
            member,
            kinds,
            completion: None,
            other: None,
        })
    }

    /// Another object's, to the same queue with the same cookie.
    ///
    /// # Errors
    ///
    /// No memory for the events that it may have unread.
    pub(crate) fn again(&self, class: u16) -> Result<Self, NoMemory> {
        Self::try_new(self.queue.clone(), class, self.cookie)
    }

    pub(crate) fn queue(&self) -> &Arc<EventQueue<H>> {
        &self.queue
    }

    pub(crate) fn post(&mut self, class: u16, object: u32, event: u16, data: u64) {
        let newest = match event {
            kind::COMPLETION => &mut self.completion,
            _ => &mut self.other,
        };
        let event = Event {
            kind: event,
            class,
            object,
            cookie: self.cookie,
            data,
            count: 1,
            reserved: self.member,
        };
        // An event that was lost is not the newest; the one before still is.
        *newest = self.queue.post(event, *newest).or(*newest);
    }

    /// Ends it, and says how many of its events the program was given. None is given afterwards.
    fn end(&mut self) -> Given {
        match core::mem::replace(&mut self.member, NOBODY) {
            NOBODY => Given::default(),
            member => self.queue.ring.lock().leave(member, self.kinds as usize),
        }
    }
}

impl<H: Host> Drop for Subscription<H> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where an object reports to, now and before.
pub(crate) struct Reporting<H: Host> {
    pub(crate) to: Option<Subscription<H>>,
    /// What the program was given through earlier subscriptions.
    given: Given,
}

impl<H: Host> Reporting<H> {
    pub(crate) fn new(to: Option<Subscription<H>>) -> Self {
        Reporting {
            to,
            given: Given::default(),
        }
    }

    /// From now on it reports there, or nowhere. How many of its events the program was given in all.
    pub(crate) fn change(&mut self, to: Option<Subscription<H>>) -> Given {
        if let Some(mut old) = core::mem::replace(&mut self.to, to) {
            let more = old.end();
            self.given.completions = self.given.completions.wrapping_add(more.completions);
            self.given.others = self.given.others.wrapping_add(more.others);
        }
        self.given
    }
}

/// An object behind a file descriptor of its own: the host keeps it for as long as the descriptor is open. Dropping it
/// is closing it.
pub struct FdObject<D: Driver> {
    pub(crate) context: Arc<Context<D>>,
    pub(crate) queue: Arc<EventQueue<D::Host>>,
    pub(crate) id: ObjectId,
}

impl<D: Driver> FdObject<D> {
    /// An ioctl on the descriptor.
    ///
    /// # Errors
    ///
    /// As [`Context::dispatch`].
    pub fn dispatch(&self, method: u32, message: &mut [u8]) -> Result<(), Errno> {
        Context::dispatch_on(&self.context, Some(self), method, message, &mut |_| Ok(()))
    }

    /// The same, and gives the message back: as [`Context::dispatch_and`].
    ///
    /// # Errors
    ///
    /// As [`Context::dispatch_and`].
    pub fn dispatch_and(&self, method: u32, message: &mut [u8], give_back: &mut GiveBack<'_>) -> Result<(), Errno> {
        Context::dispatch_on(&self.context, Some(self), method, message, give_back)
    }

    /// The queue: to read, to poll, to wait.
    pub fn queue(&self) -> &Arc<EventQueue<D::Host>> {
        &self.queue
    }

    /// The context that it was made in.
    pub fn context(&self) -> &Arc<Context<D>> {
        &self.context
    }
}

impl<D: Driver> Drop for FdObject<D> {
    fn drop(&mut self) {
        self.queue.end(None);
        self.context.forget_fd(self.id);
    }
}

impl From<Failure> for Errno {
    fn from(failure: Failure) -> Errno {
        failure.errno
    }
}
