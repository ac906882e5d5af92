// SPDX-License-Identifier: MIT OR Apache-2.0
//! Management datagrams: clients of a management class on QP 1.

use crate::context::MESSAGE;
use crate::error::{Error, Result};
use crate::event::{EventKind, EventQueue};
use crate::object::Object;
use crate::qp::CheckedAddress;
use crate::{path_to, Context, Path};
use rdma_uapi::class::mad::{self, status, MadMethods, MadReceived};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};
use verbena_hw::id::Gid;
use verbena_hw::qp::GSI_QKEY;

/// Datagrams that one call takes.
const AT_ONCE: usize = 32;

/// What a client of a management class is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadOptions {
    /// The version of the class; `None`: 1.
    pub class_version: Option<u8>,
    /// The methods that it serves; none: it only asks.
    pub methods: Vec<u8>,
    /// Of a vendor's class: which vendor's.
    pub oui: Option<u32>,
    /// Datagrams that may wait; `None`: [`mad::DEFAULT_CAPACITY`].
    pub capacity: Option<u32>,
}

/// Where a management datagram goes.
#[derive(Clone, Copy, Debug)]
pub struct MadTo<'a> {
    address: Address<'a>,
    qp: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Address<'a> {
    Path(Path),
    Handle(&'a CheckedAddress),
}

impl MadTo<'static> {
    /// QP 1 at the end of a path.
    pub fn path(path: Path) -> Self {
        Self {
            address: Address::Path(path),
            qp: None,
        }
    }

    /// QP 1 at `gid`, by entry 0 of the port's GID table.
    pub fn gid(gid: Gid) -> Self {
        Self::path(path_to(gid, 0))
    }
}

impl<'a> MadTo<'a> {
    /// QP 1 at an address handle.
    pub fn handle(handle: &'a CheckedAddress) -> Self {
        Self {
            address: Address::Handle(handle),
            qp: None,
        }
    }

    /// Another queue pair there.
    #[must_use]
    pub fn qp(mut self, qpn: u32, qkey: u32) -> Self {
        self.qp = Some((qpn, qkey));
        self
    }
}

/// Why a datagram is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MadStatus {
    /// A request that the client serves.
    Request,
    /// The answer to a request of the client's.
    Response,
    /// A request of the client's that nobody has answered: it comes back.
    TimedOut,
    /// Something that this version has no name for: one of [`mad::status`].
    Other(u16),
}

/// A management datagram that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mad {
    /// Why it is there.
    pub status: MadStatus,
    /// The way to the other side.
    pub path: Path,
    /// The other side's queue pair.
    pub qpn: u32,
    /// Our GID.
    pub local_gid: Gid,
    /// All of it.
    pub datagram: Box<[u8; mad::DATAGRAM_BYTES]>,
}

impl Mad {
    /// The other side's GID.
    pub fn gid(&self) -> Gid {
        Gid(self.path.dgid)
    }

    /// Its transaction id.
    pub fn tid(&self) -> u64 {
        let mut tid = [0; 8];
        tid.copy_from_slice(&self.datagram[8..16]);
        u64::from_be_bytes(tid)
    }

    /// Where an answer goes.
    pub fn reply_to(&self) -> MadTo<'static> {
        MadTo::path(self.path).qp(self.qpn, GSI_QKEY)
    }
}

impl From<&MadReceived> for Mad {
    fn from(received: &MadReceived) -> Self {
        Self {
            status: match received.status {
                status::REQUEST => MadStatus::Request,
                status::RESPONSE => MadStatus::Response,
                status::TIMED_OUT => MadStatus::TimedOut,
                other => MadStatus::Other(other),
            },
            path: Path {
                flow_label: received.flow_label,
                traffic_class: received.traffic_class,
                ..path_to(Gid(received.gid), received.sgid_index)
            },
            qpn: received.qpn,
            local_gid: Gid(received.local_gid),
            datagram: Box::new(received.datagram),
        }
    }
}

/// A client of a management class: sends its datagrams, is given the answers, and the requests that it serves. Making one takes
/// CAP_NET_ADMIN.
///
/// The upper half of a request's transaction id is the client's own, whatever the program writes there; the lower half is the
/// program's.
pub struct MadClient {
    // Field order: destroyed before the queue that it reports to can go.
    object: Object,
    events: EventQueue,
    number: u32,
    taken: VecDeque<Mad>,
    lost: u64,
}

impl MadClient {
    /// A client of the management class `class`.
    ///
    /// # Errors
    ///
    /// Not permitted; EBUSY: somebody serves one of the methods already, or the class is the communication manager's; an option is
    /// out of range; the device has no QP 1, or is gone.
    pub fn new(context: &Context, class: u8, options: &MadOptions) -> Result<Self> {
        const DOING: &str = "become a client of a management class";
        let events = context.create_event_queue()?;
        let mut methods = MadMethods::default();
        for &method in &options.methods {
            match method {
                0..64 => methods.low |= 1 << method,
                64..128 => methods.high |= 1 << (method - 64),
                _ => return Err(Error::Argument("a method whose requests are served is below 128")),
            }
        }
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MAD, 0);
        message
            .put(mad::MGMT_CLASS, &class.into())
            .put_some(mad::CLASS_VERSION, options.class_version.map(u32::from))
            .put(mad::METHODS, &methods)
            .put_some(mad::OUI, options.oui)
            .put_some(mad::CAPACITY, options.capacity)
            .ask(mad::TID_HIGH)
            .put(class::EVENT_QUEUE_OF, &events.id());
        let answer = context.call(DOING, method::CREATE, message)?;
        let object = Object::new(
            context,
            class::MAD,
            answer.object(),
            "end a client of a management class",
        );
        let number = answer.expect(DOING, mad::TID_HIGH)?;
        Ok(Self {
            object,
            events,
            number,
            taken: VecDeque::new(),
            lost: 0,
        })
    }

    /// The upper half of its requests' transaction ids.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// Where it reports that datagrams have arrived; for poll and epoll. After that, [`MadClient::next`] until there is none.
    pub fn events(&self) -> &EventQueue {
        &self.events
    }

    /// From now on it reports to this queue, with this cookie. What it had reported and nobody read is gone, the datagrams are not.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn report_to(&mut self, events: &EventQueue, cookie: u64) -> Result<()> {
        events.associate_object(&self.object, cookie)?;
        self.events = events.clone();
        Ok(())
    }

    /// Requests that it serves and that were dropped because too many waited.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn post(&self, to: MadTo<'_>, datagram: &[u8], awaited: Option<(Duration, u32)>) -> Result<u64> {
        const DOING: &str = "send a management datagram";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MAD, self.object.id().0);
        match to.address {
            Address::Path(path) => message.put(mad::PATH, &path),
            Address::Handle(handle) => message.put(mad::AH, &handle.id()),
        };
        if let Some((qpn, qkey)) = to.qp {
            message.put(mad::QPN, &qpn).put(mad::QKEY, &qkey);
        }
        if let Some((timeout, retries)) = awaited {
            // At least one: zero would mean that no answer is awaited.
            let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
            message.put(mad::TIMEOUT, &timeout).put(mad::RETRIES, &retries);
        }
        message.put_array(mad::DATAGRAM, datagram).ask(mad::TID);
        let answer = self.object.context().call(DOING, mad::SEND, message)?;
        answer.expect(DOING, mad::TID)
    }

    /// Sends a datagram (24 to 256 bytes, from the header on) that no answer is awaited to. The transaction id that it has.
    ///
    /// # Errors
    ///
    /// It is not of the client's class and version; there is no such address; EAGAIN: QP 1 is busy; the device is gone.
    pub fn send(&self, to: MadTo<'_>, datagram: &[u8]) -> Result<u64> {
        self.post(to, datagram, None)
    }

    /// Sends a request and sends it again every `timeout`, `retries` times, until it is answered: then the answer arrives, or else
    /// the request comes back ([`MadStatus::TimedOut`]). The transaction id that it has.
    ///
    /// # Errors
    ///
    /// As [`MadClient::send`]; ENOSPC: too many are awaited or wait; EBUSY: one with this transaction id is.
    pub fn ask(&self, to: MadTo<'_>, datagram: &[u8], timeout: Duration, retries: u32) -> Result<u64> {
        self.post(to, datagram, Some((timeout, retries)))
    }

    fn take(&mut self) -> Result<()> {
        const DOING: &str = "receive management datagrams";
        let mut words = vec![0u64; 16 + AT_ONCE * size_of::<MadReceived>() / 8];
        let mut message = Builder::new(&mut words, class::MAD, self.object.id().0);
        message.ask_array(mad::RECEIVED, AT_ONCE);
        message.ask(mad::LOST);
        let answer = self.object.context().call(DOING, mad::RECEIVE, message)?;
        self.taken
            .extend(answer.array(mad::RECEIVED).map(|received| Mad::from(&received)));
        self.lost += answer.expect(DOING, mad::LOST)?;
        Ok(())
    }

    /// The next datagram; waits for it at most for `timeout`.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Mad>> {
        let end = Instant::now() + timeout;
        loop {
            if self.taken.is_empty() {
                self.take()?;
            }
            if let Some(mad) = self.taken.pop_front() {
                return Ok(Some(mad));
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.events.next_event(Some(left))? {
                Some(event) if event.kind == EventKind::DeviceGone => return Err(Error::Gone),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Ends it: what it awaits is not awaited any more. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

impl fmt::Debug for MadClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MadClient({:#x})", self.number)
    }
}
