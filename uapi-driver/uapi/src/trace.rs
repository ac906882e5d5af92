// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Observers of a device's calls (U25): what the dispatcher tells them, and the ring that it waits in.
//!
//! With no observer a call pays one load and one branch that is always predicted. With some, the dispatcher takes the
//! time before and after the call and gives each observer a record; that is done after the call, so that what is
//! recorded is what the caller gets. Nothing of an observer's is touched while its reader's memory is written, so a
//! reader cannot hold up those whom it watches.

use crate::call::Call;
use crate::class::event_queue::kind;
use crate::class::trace::{self, flag, RecordHead};
use crate::context::Context;
use crate::driver::{Driver, Ending};
use crate::errno::Errno;
use crate::failure::{Outcome, Reason};
use crate::host::{Host, Moment};
use crate::object::{Body, Object};
use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::{try_arc, Arc, Mutex, Vec};
use crate::wire;
use zerocopy::IntoBytes;

const WORD: usize = size_of::<u64>();
const HEAD: usize = size_of::<RecordHead>() / WORD;

/// Words that READ moves at a time: any record fits.
const STRETCH: usize = HEAD + wire::MAX_MESSAGE / WORD;

const _: () = assert!(STRETCH * WORD <= trace::MIN_CAPACITY as usize);

/// An observer.
pub struct Tracer {
    /// The context that made it, whose calls it is not told of.
    owner: u32,
    process: u32,
    /// Also of the process's descendants.
    children: bool,
    snap: u32,
    ring: Mutex<Ring>,
}

impl Tracer {
    /// Whether it is to be told of a call that the calling process has made.
    fn wants<H: Host>(&self, host: &H, head: &RecordHead) -> bool {
        self.owner != head.context
            && ([0, head.process].contains(&self.process) || self.children && host.descends_from(self.process))
    }
}

struct Ring {
    /// Fixed length; a ring of records, each whole.
    words: Vec<u64>,
    first: usize,
    used: usize,
    records: u32,
    lost: u64,
}

impl Ring {
    fn place(&self, n: usize) -> usize {
        let place = self.first + n;
        if place < self.words.len() {
            place
        } else {
            place - self.words.len()
        }
    }

    fn put(&mut self, word: [u8; WORD]) {
        let place = self.place(self.used);
        self.words[place] = u64::from_ne_bytes(word);
        self.used += 1;
    }

    /// Adds a record; whether it is the only one now.
    fn push(&mut self, head: &RecordHead, message: &[u8]) -> bool {
        if self.words.len() - self.used < head.length as usize / WORD {
            self.lost += 1;
            return false;
        }
        for part in [head.as_bytes(), message] {
            for word in part.chunks_exact(WORD) {
                let mut bytes = [0; WORD];
                bytes.copy_from_slice(word);
                self.put(bytes);
            }
        }
        self.records += 1;
        self.records == 1
    }

    /// Words of the oldest record.
    fn next(&self) -> Option<usize> {
        if self.records == 0 {
            return None;
        }
        // The first field of the head is its first half, whatever the byte order.
        let head = self.words[self.first].to_ne_bytes();
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        Some(length as usize / WORD)
    }

    /// Moves whole records to `into`, which must have room reserved, until `room` words are full. How many.
    fn take(&mut self, into: &mut Vec<u64>, room: usize) -> Result<u32, crate::sys::NoMemory> {
        let before = self.records;
        while let Some(length) = self.next() {
            if into.len() + length > room {
                break;
            }
            for n in 0..length {
                let word = self.words[self.place(n)];
                into.push(word)?;
            }
            self.first = self.place(length);
            self.used -= length;
            self.records -= 1;
        }
        Ok(before - self.records)
    }

    /// The oldest again: so many `records` that were taken and could not be given. They are lost if what came since has their
    /// room.
    fn put_back(&mut self, words: &[u64], records: u32) {
        if self.words.len() - self.used < words.len() {
            self.lost += u64::from(records);
            return;
        }
        self.first = match self.first.checked_sub(words.len()) {
            Some(first) => first,
            None => self.first + self.words.len() - words.len(),
        };
        for (n, word) in words.iter().enumerate() {
            let place = self.place(n);
            self.words[place] = *word;
        }
        self.used += words.len();
        self.records += records;
    }
}

/// A device's observers.
pub(crate) struct Tracers<D: Driver> {
    count: AtomicU32,
    list: Mutex<Vec<Arc<Object<D>>>>,
}

impl<D: Driver> Tracers<D> {
    pub(crate) fn try_new() -> Result<Self, crate::sys::NoMemory> {
        Ok(Tracers {
            count: AtomicU32::new(0),
            list: Mutex::try_new(Vec::new(), c"rdma_uapi_tracers")?,
        })
    }

    /// Whether anybody observes.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    fn add(&self, tracer: Arc<Object<D>>) -> Outcome {
        let mut list = self.list.lock();
        list.push(tracer)?;
        self.count.store(list.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, tracer: &Object<D>) {
        let mut list = self.list.lock();
        if let Some(n) = list.iter().position(|listed| core::ptr::eq(&**listed, tracer)) {
            list.swap_remove(n);
        }
        self.count.store(list.len() as u32, Ordering::Relaxed);
    }

    /// Tells those that want to know. The calling process is the one that made the call.
    pub(crate) fn tell(&self, host: &D::Host, head: &RecordHead, message: &[u8]) {
        for object in self.list.lock().iter() {
            let Some(tracer) = object.tracer() else { continue };
            if !tracer.wants(host, head) {
                continue;
            }
            // Any message whose header was right is a multiple of 8 long; of others the rest of a word is not shown.
            let kept = message.len().min(tracer.snap as usize) & !(WORD - 1);
            let head = RecordHead {
                length: (size_of::<RecordHead>() + kept) as u32,
                message: message.len() as u32,
                ..*head
            };
            if tracer.ring.lock().push(&head, &message[..kept]) {
                object.post(kind::TRACE, 0);
            }
        }
    }
}

/// A call that observers will be told of.
pub(crate) struct Watched {
    begun: Moment,
    flags: u16,
}

impl Watched {
    #[cold]
    pub(crate) fn begin<D: Driver>(context: &Context<D>, in_chain: bool, on_fd: bool) -> Self {
        let chain = if in_chain { flag::IN_CHAIN } else { 0 };
        let fd = if on_fd { flag::ON_FD } else { 0 };
        Watched {
            begun: context.device().host().moment(),
            flags: chain | fd,
        }
    }

    #[cold]
    pub(crate) fn end<D: Driver>(self, context: &Context<D>, method: u32, message: &[u8], result: &Outcome) {
        let device = context.device();
        let ended = device.host().moment();
        let head = RecordHead {
            start: self.begun.time,
            duration: ended.time.saturating_sub(self.begun.time),
            process: self.begun.process,
            thread: self.begun.thread,
            context: context.number(),
            method,
            errno: result.map_or_else(|failure| failure.errno.0, |()| 0),
            flags: self.flags,
            ..RecordHead::default()
        };
        device.tracers().tell(device.host(), &head, message);
    }
}

pub(crate) fn create<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let process = call.get(trace::PROCESS)?.unwrap_or(0);
    let children = call.get(trace::CHILDREN)?.unwrap_or(0) != 0;
    if children && process == 0 {
        return Err(call.fail(trace::PROCESS, Errno::EINVAL, Reason::MISSING));
    }
    let capacity = call.get(trace::CAPACITY)?.unwrap_or(trace::DEFAULT_CAPACITY);
    if !(trace::MIN_CAPACITY..=trace::MAX_CAPACITY).contains(&capacity) || capacity % WORD as u32 != 0 {
        return Err(call.out_of_range(trace::CAPACITY));
    }
    let snap = call.get(trace::SNAP)?.unwrap_or(trace::DEFAULT_SNAP);
    if snap < wire::HEADER as u32 || snap > wire::MAX_MESSAGE as u32 || snap % WORD as u32 != 0 {
        return Err(call.out_of_range(trace::SNAP));
    }
    let mut words = Vec::new();
    words.resize(capacity as usize / WORD, 0)?;
    let ring = Ring {
        words,
        first: 0,
        used: 0,
        records: 0,
        lost: 0,
    };
    let tracer = try_arc(Tracer {
        owner: call.context().number(),
        process,
        children,
        snap,
        ring: Mutex::try_new(ring, c"rdma_uapi_trace")?,
    })?;
    let reservation = call.reserve()?;
    let object = call.publish_body(reservation, Body::Tracer(tracer), &[]);
    call.answer_object(object.id().0);
    // From here on the dispatcher ends it if anything fails, which takes it off the list.
    call.core_device().tracers().add(object)?;
    call.put(trace::CAPACITY, &capacity)?;
    call.put(trace::SNAP, &snap)
}

pub(crate) fn release<D: Driver>(ending: &Ending<'_, D>) -> Outcome {
    ending.context.device().tracers().remove(ending.object);
    Ok(())
}

fn tracer<'c, D: Driver>(call: &'c Call<'_, D>) -> &'c Arc<Tracer> {
    call.object().tracer().expect("the dispatcher checked the class")
}

pub(crate) fn query<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let (process, children, snap, capacity, pending) = {
        let tracer = tracer(call);
        let ring = tracer.ring.lock();
        (
            tracer.process,
            u32::from(tracer.children),
            tracer.snap,
            (ring.words.len() * WORD) as u32,
            ring.records,
        )
    };
    call.put(trace::PROCESS, &process)?;
    call.put(trace::CAPACITY, &capacity)?;
    call.put(trace::SNAP, &snap)?;
    call.put(trace::PENDING, &pending)?;
    call.put(trace::CHILDREN, &children)
}

pub(crate) fn read<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let tracer = tracer(call).clone();
    let mut stretch = Vec::new();
    if let Some(mut answer) = call.stream(trace::RECORDS) {
        let mut room = (answer.room() / WORD as u64) as usize;
        stretch.reserve(STRETCH.min(room))?;
        let mut given = 0;
        loop {
            stretch.truncate(0);
            let records = tracer.ring.lock().take(&mut stretch, STRETCH.min(room))?;
            if records == 0 {
                break;
            }
            // Outside of the ring's lock: this may wait for the reader's memory.
            if let Err(failure) = answer.push(stretch.as_bytes()) {
                // What could not be given is there for the next call.
                tracer.ring.lock().put_back(&stretch, records);
                if given == 0 {
                    return Err(failure);
                }
                break;
            }
            room -= stretch.len();
            given += records;
        }
        answer.finish();
    }
    let (lost, pending) = {
        let mut ring = tracer.ring.lock();
        let lost = if call.has(trace::LOST) {
            core::mem::take(&mut ring.lost)
        } else {
            0
        };
        (lost, ring.records)
    };
    call.put(trace::LOST, &lost)?;
    call.put(trace::PENDING, &pending)
}
