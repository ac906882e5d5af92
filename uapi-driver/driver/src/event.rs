// SPDX-License-Identifier: MIT OR Apache-2.0
//! Event queues: descriptors that become readable when something happened.

use crate::attach::EventFd;
use crate::context::{send_message, Answer, MESSAGE};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::qp::{Qp, Transport, XrcTarget};
use crate::{CompletionCounter, CompletionQueue, Context, SharedReceiveQueue};
use rdma_uapi::class;
use rdma_uapi::class::event_queue::{self as eq, kind, Association};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A client of a management class has datagrams.
    Datagrams,
    /// A device came; this and the next two are the device list's ([`crate::DeviceList::watch`]).
    DeviceAdded,
    /// A device went.
    DeviceRemoved,
    /// A device does not answer any more.
    DeviceChanged,
    /// An armed completion queue has completions.
    Completion,
    /// Events were lost because nobody read the queue; the data says how many.
    Lost,
    /// The device is gone: the last event of any queue.
    DeviceGone,
    /// A completion queue overflowed or broke.
    CqError,
    /// A queue pair broke.
    QpFatal,
    /// A peer's request violated the transport.
    QpRequestError,
    /// A peer's request violated access rights.
    QpAccessError,
    /// A message arrived before the queue pair was ready to send.
    CommEstablished,
    /// The send queue has drained.
    SqDrained,
    /// A queue pair on a shared receive queue broke, and the last receive that it had taken has completed.
    LastWqeReached,
    /// A shared receive queue broke.
    SrqError,
    /// A shared receive queue has fewer receives than the limit that was armed.
    SrqLimitReached,
    /// The device broke.
    DeviceFatal,
    /// The port became active.
    PortActive,
    /// The port went down.
    PortError,
    /// The GID table changed.
    GidChange,
    /// At a listener: a peer asks for a connection. [`crate::CmId::requested`] takes it.
    CmConnectRequest,
    /// The peer agreed, but the queue pair cannot be made ready.
    CmConnectError,
    /// The peer does not answer.
    CmUnreachable,
    /// The peer refused; the data is the reason.
    CmRejected,
    /// Connected.
    CmEstablished,
    /// The connection is over; its queue pair is in ERR.
    CmDisconnected,
    /// The device that the id is on is gone: an id of the system-wide node hears it.
    CmDeviceRemoval,
    /// No packet of the connection is on its way any more.
    CmTimewaitExit,
    /// Something that this version has no name for: one of [`rdma_uapi::class::event_queue::kind`].
    Other(u16),
}

impl From<u16> for EventKind {
    fn from(number: u16) -> Self {
        match number {
            kind::COMPLETION => Self::Completion,
            kind::LOST => Self::Lost,
            kind::DEVICE_GONE => Self::DeviceGone,
            kind::MAD => Self::Datagrams,
            kind::DEVICE_ADDED => Self::DeviceAdded,
            kind::DEVICE_REMOVED => Self::DeviceRemoved,
            kind::DEVICE_CHANGED => Self::DeviceChanged,
            kind::CQ_ERROR => Self::CqError,
            kind::QP_FATAL => Self::QpFatal,
            kind::QP_REQUEST_ERROR => Self::QpRequestError,
            kind::QP_ACCESS_ERROR => Self::QpAccessError,
            kind::COMM_ESTABLISHED => Self::CommEstablished,
            kind::SQ_DRAINED => Self::SqDrained,
            kind::QP_LAST_WQE_REACHED => Self::LastWqeReached,
            kind::SRQ_ERROR => Self::SrqError,
            kind::SRQ_LIMIT_REACHED => Self::SrqLimitReached,
            kind::DEVICE_FATAL => Self::DeviceFatal,
            kind::PORT_ACTIVE => Self::PortActive,
            kind::PORT_ERROR => Self::PortError,
            kind::GID_CHANGE => Self::GidChange,
            kind::CM_CONNECT_REQUEST => Self::CmConnectRequest,
            kind::CM_CONNECT_ERROR => Self::CmConnectError,
            kind::CM_UNREACHABLE => Self::CmUnreachable,
            kind::CM_REJECTED => Self::CmRejected,
            kind::CM_ESTABLISHED => Self::CmEstablished,
            kind::CM_DISCONNECTED => Self::CmDisconnected,
            kind::CM_DEVICE_REMOVAL => Self::CmDeviceRemoval,
            kind::CM_TIMEWAIT_EXIT => Self::CmTimewaitExit,
            other => Self::Other(other),
        }
    }
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The class of the object that it happened to ([`rdma_uapi::class`]).
    pub class: u16,
    /// The object's id; the port's number for a port, 0 for the device.
    pub object: u32,
    /// What the object was associated with.
    pub cookie: u64,
    /// More, by kind.
    pub data: u64,
    /// How many equal events this one stands for.
    pub count: u32,
}

impl From<&eq::Event> for Event {
    fn from(event: &eq::Event) -> Self {
        Self {
            kind: event.kind.into(),
            class: event.class,
            object: event.object,
            cookie: event.cookie,
            data: event.data,
            count: event.count,
        }
    }
}

/// What objects that report to an event queue keep of it.
pub(crate) struct EventQueueShared {
    // Field order: the descriptor is closed before its context.
    fd: Box<dyn EventFd>,
    id: ObjectId,
    capacity: u32,
    context: Context,
}

/// Where objects report what happened to them.
///
/// As a descriptor ([`AsFd`]) it is readable when there are events: for poll, epoll and whatever is built on them. After
/// an object has been destroyed no event of it is delivered. Clones are the same queue; closed when the last is gone, and
/// everything that reports to it.
#[derive(Clone)]
pub struct EventQueue {
    shared: Arc<EventQueueShared>,
}

impl EventQueue {
    pub(crate) fn new(context: &Context, capacity: Option<u32>) -> Result<Self> {
        const DOING: &str = "make an event queue";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::EVENT_QUEUE, 0);
        message
            .put(eq::CAPACITY, &capacity.unwrap_or(eq::DEFAULT_CAPACITY))
            .ask(eq::ID);
        let (answer, fd) = context.call_for_fd(DOING, method::CREATE_FD, message)?;
        let (id, capacity) = (answer.expect(DOING, eq::ID)?, answer.expect(DOING, eq::CAPACITY)?);
        Ok(Self {
            shared: Arc::new(EventQueueShared {
                fd,
                id,
                capacity,
                context: context.clone(),
            }),
        })
    }

    /// A new one on `context` that holds at least `capacity` unread events before it loses some.
    ///
    /// # Errors
    ///
    /// More than [`eq::MAX_CAPACITY`]; the process has no more descriptors; the device is gone.
    pub fn with_capacity(context: &Context, capacity: u32) -> Result<Self> {
        Self::new(context, Some(capacity))
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// Events that it holds.
    pub fn capacity(&self) -> u32 {
        self.shared.capacity
    }

    /// The id that other objects' messages name it by.
    pub fn id(&self) -> ObjectId {
        self.shared.id
    }

    pub(crate) fn shared(&self) -> &Arc<EventQueueShared> {
        &self.shared
    }

    /// The next event; waits for it at most for `timeout`, without end if there is none. `Some(Duration::ZERO)` does
    /// not wait. `Ok(None)`: the time is over.
    ///
    /// # Errors
    ///
    /// The device is gone, and its last event has been read.
    pub fn next_event(&self, timeout: Option<Duration>) -> Result<Option<Event>> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let mut events = [eq::Event::default()];
            match self.shared.fd.read(&mut events) {
                Ok(0) | Err(Errno::EAGAIN) => {}
                Ok(_) => return Ok(Some((&events[0]).into())),
                Err(Errno::ENODEV) => return Err(Error::Gone),
                Err(errno) => {
                    let source = std::io::Error::from_raw_os_error(errno.0.into());
                    return Err(Error::System {
                        doing: "read an event queue",
                        source,
                    });
                }
            }
            let left = match (timeout, end) {
                (None, _) => None,
                (Some(timeout), None) => Some(timeout),
                (Some(_), Some(end)) => Some(end.saturating_duration_since(Instant::now())),
            };
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.sleep(left)?;
        }
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    ///
    /// As [`EventQueue::next_event`].
    pub fn try_next(&self) -> Result<Option<Event>> {
        self.next_event(Some(Duration::ZERO))
    }

    fn sleep(&self, timeout: Option<Duration>) -> Result<()> {
        // A duration beyond what the system can tell is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let fd = self.shared.fd.fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::system("wait for events")(errno)),
        }
    }

    /// Takes up to `max` events (at most 1000) in one call, without waiting.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn read_events(&self, max: usize) -> Result<Vec<Event>> {
        const DOING: &str = "read events";
        let max = max.min(1000);
        let mut words = vec![0u64; 16 + max * size_of::<eq::Event>() / 8];
        let mut message = Builder::new(&mut words, class::EVENT_QUEUE, 0);
        message.ask_array(eq::EVENTS, max);
        let answer = self.call(DOING, eq::READ_EVENTS, message)?;
        Ok(answer.array(eq::EVENTS).map(|event| (&event).into()).collect())
    }

    /// From now on the device itself reports to this queue.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn associate_device(&self, cookie: u64) -> Result<()> {
        self.associate(class::DEVICE, ObjectId::NONE, cookie)
    }

    /// From now on port `number` reports to this queue.
    ///
    /// # Errors
    ///
    /// There is no such port; the device is gone.
    pub fn associate_port(&self, number: u32, cookie: u64) -> Result<()> {
        self.associate(class::PORT, ObjectId(number), cookie)
    }

    /// From now on `cq` reports to this queue. The queue may be closed before `cq` is destroyed: its events are then
    /// reported to nobody.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn associate_cq(&self, cq: &CompletionQueue, cookie: u64) -> Result<()> {
        self.associate_object(&cq.shared.object, cookie)
    }

    /// From now on `qp` reports to this queue; closing as with [`EventQueue::associate_cq`].
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn associate_qp<T: Transport>(&self, qp: &Qp<T>, cookie: u64) -> Result<()> {
        self.associate_object(qp.object(), cookie)
    }

    /// From now on `srq` reports to this queue; closing as with [`EventQueue::associate_cq`].
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn associate_srq(&self, srq: &SharedReceiveQueue, cookie: u64) -> Result<()> {
        self.associate_object(&srq.shared.object, cookie)
    }

    /// From now on `counter` reports to this queue; closing as with [`EventQueue::associate_cq`].
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn associate_counter(&self, counter: &CompletionCounter, cookie: u64) -> Result<()> {
        self.associate_object(&counter.shared.object, cookie)
    }

    /// From now on `target` reports to this queue; closing as with [`EventQueue::associate_cq`].
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn associate_target(&self, target: &XrcTarget, cookie: u64) -> Result<()> {
        self.associate(class::QP_XRC_TGT, target.id(), cookie)
    }

    /// From now on `cq`, if it reports to this queue, reports to none.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn dissociate_cq(&self, cq: &CompletionQueue) -> Result<()> {
        self.dissociate(cq.shared.object.class(), cq.shared.object.id())
    }

    /// From now on `qp`, if it reports to this queue, reports to none.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn dissociate_qp<T: Transport>(&self, qp: &Qp<T>) -> Result<()> {
        self.dissociate(qp.object().class(), qp.object().id())
    }

    /// From now on `srq`, if it reports to this queue, reports to none.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn dissociate_srq(&self, srq: &SharedReceiveQueue) -> Result<()> {
        self.dissociate(srq.shared.object.class(), srq.shared.object.id())
    }

    /// From now on `counter`, if it reports to this queue, reports to none.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn dissociate_counter(&self, counter: &CompletionCounter) -> Result<()> {
        self.dissociate(class::COUNTER, counter.shared.object.id())
    }

    /// From now on `target`, if it reports to this queue, reports to none.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn dissociate_target(&self, target: &XrcTarget) -> Result<()> {
        self.dissociate(class::QP_XRC_TGT, target.id())
    }

    pub(crate) fn associate_object(&self, object: &Object, cookie: u64) -> Result<()> {
        self.associate(object.class(), object.id(), cookie)
    }

    pub(crate) fn associate(&self, class: u16, object: ObjectId, cookie: u64) -> Result<()> {
        let association = Association {
            class,
            object,
            cookie,
            ..Association::default()
        };
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::EVENT_QUEUE, 0);
        message.put_array(eq::ASSOCIATE, &[association]);
        self.call("associate an object with an event queue", method::MODIFY, message)
            .map(|_| ())
    }

    fn dissociate(&self, class: u16, object: ObjectId) -> Result<()> {
        let association = Association {
            class,
            object,
            ..Association::default()
        };
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::EVENT_QUEUE, 0);
        message.put_array(eq::DISSOCIATE, &[association]);
        self.call("dissociate an object from an event queue", method::MODIFY, message)
            .map(|_| ())
    }

    fn call<'m>(&self, doing: &'static str, method: u8, message: Builder<'m>) -> Result<Answer<'m>> {
        send_message(doing, method, message, |bytes| self.shared.fd.call(method, bytes)).map(|(answer, ())| answer)
    }
}

impl AsFd for EventQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.fd()
    }
}

impl fmt::Debug for EventQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventQueue({:#x})", self.shared.id.0)
    }
}
