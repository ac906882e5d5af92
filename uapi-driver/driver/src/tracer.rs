// SPDX-License-Identifier: MIT OR Apache-2.0
//! Observing the calls that others make on the device.

use crate::context::MESSAGE;
use crate::error::{Error, Result};
use crate::event::{EventKind, EventQueue};
use crate::object::Object;
use crate::Context;
use rdma_uapi::class::trace::{self, RecordHead};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::time::Duration;
use zerocopy::FromBytes;

/// What is to be observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceOptions {
    /// Only calls of this process; `None`: everybody's but those of the observer's own context.
    pub process: Option<u32>,
    /// With a process: also calls of whatever descends from it when it calls. A process whose parent has ended descends from
    /// whoever took it in.
    pub children: bool,
    /// Bytes of records that wait before some are lost; `None`: [`trace::DEFAULT_CAPACITY`].
    pub capacity: Option<u32>,
    /// Bytes of each message that are kept, a multiple of 8; `None`: [`trace::DEFAULT_SNAP`].
    pub snap: Option<u32>,
}

/// A call that was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Who, when, how long, with which result.
    pub head: RecordHead,
    /// The message as its caller got it back: all of it, or the first bytes.
    pub message: Vec<u8>,
}

/// An observer of a device's calls. Making one takes CAP_SYS_ADMIN: messages hold addresses and keys of other processes.
///
/// The direct attachment shows the calls of this process, because nobody else's reach that device.
pub struct Tracer {
    // Field order: destroyed before the queue that it reports to can go.
    object: Object,
    events: EventQueue,
    room: Vec<u8>,
}

impl Tracer {
    /// Begins to observe.
    ///
    /// # Errors
    ///
    /// Not permitted; an option is out of range; the device is gone.
    pub fn new(context: &Context, options: &TraceOptions) -> Result<Self> {
        const DOING: &str = "observe the device's calls";
        let events = context.create_event_queue()?;
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::TRACE, 0);
        message
            .put_some(trace::PROCESS, options.process)
            .put_some(trace::SNAP, options.snap)
            .put_some(trace::CHILDREN, options.children.then_some(1))
            .put(trace::CAPACITY, &options.capacity.unwrap_or(trace::DEFAULT_CAPACITY))
            .put(class::EVENT_QUEUE_OF, &events.id());
        let answer = context.call(DOING, method::CREATE, message)?;
        let object = Object::new(context, class::TRACE, answer.object(), "stop observing");
        let capacity = answer.expect(DOING, trace::CAPACITY)?;
        Ok(Self {
            object,
            events,
            // What waits is never more than that, so one call takes it all.
            room: vec![0; capacity as usize],
        })
    }

    /// Takes the records that wait, oldest first, and says how many were lost since the last time. Does not wait.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn read(&mut self) -> Result<(Vec<Traced>, u64)> {
        const DOING: &str = "read observed calls";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::TRACE, self.object.id().0);
        let addr = self.room.as_mut_ptr().expose_provenance() as u64;
        message.by_pointer(trace::RECORDS, addr, self.room.len() as u64);
        message.ask(trace::LOST);
        let answer = self.object.context().call(DOING, trace::READ, message)?;
        let written = answer
            .answered(trace::RECORDS.id())
            .map_or(0, |answered| answered.written);
        let records = parse(self.room.get(..written as usize).unwrap_or_default()).ok_or(Error::Answer {
            doing: DOING,
            what: "a record is not whole",
        })?;
        Ok((records, answer.expect(DOING, trace::LOST)?))
    }

    /// From now on it reports to this queue, which [`Tracer::wait`] waits on, with this cookie. Read what waits
    /// already: only the next record that finds none there is an event.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn report_to(&mut self, events: &EventQueue, cookie: u64) -> Result<()> {
        events.associate_object(&self.object, cookie)?;
        self.events = events.clone();
        Ok(())
    }

    /// Waits until there are records, at most for `timeout`.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        match self.events.next_event(Some(timeout))? {
            Some(event) if event.kind == EventKind::DeviceGone => Err(Error::Gone),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tracer({} bytes)", self.room.len())
    }
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Traced>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (head, _) = RecordHead::read_from_prefix(bytes).ok()?;
        let (record, rest) = bytes.split_at_checked(head.length as usize)?;
        let message = record.get(size_of::<RecordHead>()..)?.to_vec();
        records.push(Traced { head, message });
        bytes = rest;
    }
    Some(records)
}
