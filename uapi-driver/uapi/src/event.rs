// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Event queues: where objects report to; always a file descriptor.
//!
//! An object reports to at most one queue, through its [`Subscription`]. Locks are taken in one order: the
//! subscription's, then the queue's ring. Destroying or re-associating an object takes its subscription first and then
//! removes from the ring what was not read, both before the call returns: no event of a destroyed object is delivered
//! afterwards.
//!
//! A queue holds a fixed number of events. A completion event that finds an unread one of the same object is counted
//! into it, so completion events never need more room than there are objects; when a queue is full anyway, events are
//! lost and a LOST event says how many.

use crate::class::event_queue::{kind, Event};
use crate::context::{Context, GiveBack};
use crate::driver::Driver;
use crate::errno::Errno;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, Wait};
use crate::sys::{Arc, Mutex, Vec};
use crate::wire::ObjectId;
use zerocopy::IntoBytes;

struct Ring {
    /// Fixed length; a ring.
    events: Vec<Event>,
    /// The oldest event.
    first: usize,
    /// Events in it.
    count: usize,
    /// Number of the oldest event since the queue was made.
    sequence: u64,
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

    fn push(&mut self, event: Event) -> Option<u64> {
        if self.count == self.events.len() {
            self.lost += 1;
            return None;
        }
        let place = self.place(self.count);
        self.events[place] = event;
        self.count += 1;
        Some(self.sequence + self.count as u64 - 1)
    }

    fn pop(&mut self) -> Option<Event> {
        if self.count > 0 {
            let event = self.events[self.first];
            self.first = self.place(1);
            self.count -= 1;
            self.sequence += 1;
            return Some(event);
        }
        if self.lost > 0 {
            let lost = core::mem::take(&mut self.lost);
            return Some(Event {
                kind: kind::LOST,
                data: lost,
                count: 1,
                ..Event::default()
            });
        }
        None
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
        let mut events = Vec::new();
        events.resize(capacity as usize, Event::default())?;
        let ring = Ring {
            events,
            first: 0,
            count: 0,
            sequence: 0,
            lost: 0,
            ended: false,
        };
        Ok(EventQueue {
            ring: Mutex::try_new(ring, c"rdma_uapi_events")?,
            wait: H::Wait::try_new()?,
        })
    }

    /// What readers wait on.
    pub fn wait(&self) -> &H::Wait {
        &self.wait
    }

    /// Events that it can hold.
    pub fn capacity(&self) -> u32 {
        self.ring.lock().events.len() as u32
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

    fn post(&self, event: Event) -> Option<u64> {
        let sequence = {
            let mut ring = self.ring.lock();
            if ring.ended {
                return None;
            }
            ring.push(event)
        };
        self.wait.wake();
        sequence
    }

    /// Counts another event into the object's unread one, which had that number; `false` if it has been read.
    fn absorb(&self, sequence: u64, class: u16, object: u32) -> bool {
        let mut ring = self.ring.lock();
        let Some(n) = sequence.checked_sub(ring.sequence) else {
            return false;
        };
        // A purge moves events towards the front, so it is where it was, or before.
        for n in (0..ring.count.min(n as usize + 1)).rev() {
            let place = ring.place(n);
            let event = &mut ring.events[place];
            if event.kind == kind::COMPLETION && event.class == class && event.object == object {
                event.count = event.count.saturating_add(1);
                return true;
            }
        }
        false
    }

    /// Removes what an object reported and nobody read.
    pub(crate) fn purge(&self, class: u16, object: u32) {
        let mut ring = self.ring.lock();
        let mut kept = 0;
        for n in 0..ring.count {
            let event = ring.events[ring.place(n)];
            if event.class != class || event.object != object {
                let place = ring.place(kept);
                ring.events[place] = event;
                kept += 1;
            }
        }
        ring.count = kept;
    }

    /// No more events, after this last one if there is one.
    pub(crate) fn end(&self, last: Option<Event>) {
        {
            let mut ring = self.ring.lock();
            if ring.ended {
                return;
            }
            if let Some(last) = last {
                if ring.push(last).is_none() {
                    // The last word must be heard: it takes the place of the newest event, which counts as lost.
                    let place = ring.place(ring.count - 1);
                    ring.events[place] = last;
                }
            }
            ring.ended = true;
        }
        self.wait.wake();
    }
}

/// That an object reports to a queue.
pub struct Subscription<H: Host> {
    queue: Arc<EventQueue<H>>,
    cookie: u64,
    /// Number of the last completion event, which may be unread still.
    completion: Option<u64>,
}

impl<H: Host> Subscription<H> {
    pub(crate) fn new(queue: Arc<EventQueue<H>>, cookie: u64) -> Self {
        Subscription {
            queue,
            cookie,
            completion: None,
        }
    }

    pub(crate) fn queue(&self) -> &Arc<EventQueue<H>> {
        &self.queue
    }

    pub(crate) fn post(&mut self, class: u16, object: u32, event: u16, data: u64) {
        let is_completion = event == kind::COMPLETION;
        if is_completion
            && self
                .completion
                .is_some_and(|sequence| self.queue.absorb(sequence, class, object))
        {
            return;
        }
        let cookie = self.cookie;
        let sequence = self.queue.post(Event {
            kind: event,
            class,
            object,
            cookie,
            data,
            count: 1,
            reserved: 0,
        });
        if is_completion {
            self.completion = sequence;
        }
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
