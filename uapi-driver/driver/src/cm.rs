// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections by address and port: the driver exchanges what the peer must know and moves the queue pair.
//!
//! [`CmId`] is the object as it is: every step a call, every answer an event on an [`EventQueue`], for programs that wait for
//! many things at once. [`Listener`] and [`Connection`] are for those that wait for one.

use crate::context::{Answer, MESSAGE};
use crate::error::Result;
use crate::event::EventQueueShared;
use crate::object::Object;
use crate::{Context, Event, EventKind, EventQueue, RcQp};
use rdma_uapi::class::cm_id::{self, CmAddress, CmParams};
use rdma_uapi::class::{self, mr::access};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::Errno;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use verbena_hw::id::Gid;
use verbena_hw::qp::QpState;

/// A GID and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CmAddr {
    /// The GID; zero stands for any of ours.
    pub gid: Gid,
    /// The port; zero stands for any that is free.
    pub port: u16,
}

impl CmAddr {
    /// Any of our GIDs, this port.
    pub fn any(port: u16) -> Self {
        Self {
            gid: Gid::default(),
            port,
        }
    }

    /// A GID and a port.
    pub fn new(gid: Gid, port: u16) -> Self {
        Self { gid, port }
    }

    fn wire(self) -> CmAddress {
        CmAddress {
            gid: self.gid.0,
            port: self.port,
            ..CmAddress::default()
        }
    }
}

impl From<CmAddress> for CmAddr {
    fn from(address: CmAddress) -> Self {
        Self {
            gid: Gid(address.gid),
            port: address.port,
        }
    }
}

impl From<SocketAddr> for CmAddr {
    /// The GID of an IP address is the address itself, an IPv4 one mapped into IPv6 (RoCEv2).
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv6Addr::UNSPECIFIED,
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self {
            gid: Gid(ip.octets()),
            port: address.port(),
        }
    }
}

impl fmt::Display for CmAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]:{}", self.gid, self.port)
    }
}

/// How a connection is to be made.
#[derive(Clone, Debug)]
pub struct CmOptions {
    /// The path, the retries, the times: see the fields. `None`: as the driver thinks best.
    pub params: Option<CmParams>,
    /// For the peer's application: at most [`cm_id::CONNECT_PRIVATE_DATA`] bytes with a request,
    /// [`cm_id::ACCEPT_PRIVATE_DATA`] with its acceptance.
    pub private_data: Vec<u8>,
}

impl Default for CmOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl CmOptions {
    /// As the driver thinks best, without private data.
    pub const fn new() -> Self {
        Self {
            params: None,
            private_data: Vec::new(),
        }
    }

    /// With private data.
    pub fn private_data(mut self, data: &[u8]) -> Self {
        self.private_data = data.to_vec();
        self
    }

    /// With these parameters.
    pub fn params(mut self, params: CmParams) -> Self {
        self.params = Some(params);
        self
    }
}

/// Parameters to begin with: what the driver chooses for whom does not say, but for the READs and atomics (4 of each).
pub fn cm_params() -> CmParams {
    CmParams {
        access: access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC,
        responder_resources: 4,
        initiator_depth: 4,
        retry_count: 7,
        rnr_retry_count: 7,
        ack_timeout: 14,
        min_rnr_timer: 12,
        response_timeout: 18,
        max_cm_retries: 15,
        hop_limit: 64,
        ..CmParams::default()
    }
}

/// A queue pair of libibverbs, on a device that is not Verbena's: on ids of the system-wide node, where the kernel's `rdma_cm`
/// serves them.
#[derive(Clone, Copy, Debug)]
pub struct VerbsQp<'a> {
    /// The open device: `ibv_context.cmd_fd`.
    pub device: BorrowedFd<'a>,
    /// `ibv_qp.qp_num`.
    pub number: u32,
}

/// What is known of a communication id.
#[derive(Clone, Debug)]
pub struct CmInfo {
    /// One of [`cm_id::state`].
    pub state: u32,
    /// Ours.
    pub local: CmAddr,
    /// The peer's.
    pub peer: CmAddr,
    /// What both sides have agreed on.
    pub params: CmParams,
    /// What the peer's application sent last.
    pub private_data: Vec<u8>,
    /// Why the peer refused; 0 if it did not.
    pub reason: u32,
    /// The peer's queue pair.
    pub peer_qpn: u32,
    /// Of an id of the system-wide node that is on one device: [`crate::ListedDevice::arrival`].
    pub device: Option<u64>,
}

/// A communication id: one end of a connection, or a listener, as an object that reports to an event queue.
///
/// When it is dropped, the peer is told what it must know, and the queue pair, if it is connected, goes to ERR.
pub struct CmId {
    // Field order: destroyed before the queue that it reports to can go.
    object: Object,
    /// What it reports to; changed by [`CmId::report_to`].
    events: Mutex<Option<Arc<EventQueueShared>>>,
}

impl CmId {
    /// A new one that reports to `events`, with `cookie`. `context` may be the system-wide node's
    /// ([`crate::DeviceList::context`]): then it is on no device until it is bound to an address or connects, and on every
    /// device when it is bound to any; queue pairs of any context of the device that it is on serve it.
    ///
    /// # Errors
    ///
    /// The device has no QP 1, or no more ids; the device is gone.
    pub fn new(context: &Context, events: &EventQueue, cookie: u64) -> Result<Self> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::CM_ID, 0);
        message
            .put(class::EVENT_QUEUE_OF, &events.id())
            .put(class::COOKIE, &cookie);
        let answer = context.call("make a communication id", method::CREATE, message)?;
        Ok(Self::of(context, answer.object(), Some(events)))
    }

    fn of(context: &Context, id: u32, events: Option<&EventQueue>) -> Self {
        Self {
            object: Object::new(context, class::CM_ID, id, "destroy a communication id"),
            events: Mutex::new(events.map(|queue| queue.shared().clone())),
        }
    }

    /// The new connection that a listener's event is about: it reports where the listener does, until
    /// [`CmId::report_to`]. `None` if the event is none of a request. Each request is to be taken once: whoever drops the
    /// result refuses the peer.
    pub fn requested(listener: &CmId, event: &Event) -> Option<Self> {
        let wanted = event.kind == EventKind::CmConnectRequest && event.object == listener.id().0;
        let id = u32::try_from(event.data).ok().filter(|_| wanted)?;
        let events = listener.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let new = Self::of(listener.context(), id, None);
        *new.events.lock().unwrap_or_else(PoisonError::into_inner) = events;
        Some(new)
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// Its id, which its events carry.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// From now on it reports to this queue, with this cookie. What it had reported and nobody read is gone.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn report_to(&self, events: &EventQueue, cookie: u64) -> Result<()> {
        events.associate_object(&self.object, cookie)?;
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = Some(events.shared().clone());
        Ok(())
    }

    fn call<'m>(
        &self,
        doing: &'static str,
        method: u8,
        words: &'m mut [u64; MESSAGE],
        fill: impl FnOnce(&mut Builder<'m>),
    ) -> Result<Answer<'m>> {
        let mut message = Builder::new(words, class::CM_ID, self.object.id().0);
        fill(&mut message);
        self.context().call(doing, method, message)
    }

    /// Takes a port. The one that it has got.
    ///
    /// # Errors
    ///
    /// EADDRINUSE: another id has it. EADDRNOTAVAIL: the GID is none of ours. It has one already. The device is gone.
    pub fn bind(&self, address: CmAddr) -> Result<CmAddr> {
        const DOING: &str = "bind a communication id";
        let mut words = [0; MESSAGE];
        let answer = self.call(DOING, cm_id::BIND, &mut words, |m| {
            m.put(cm_id::LOCAL, &address.wire());
        })?;
        Ok(answer.expect(DOING, cm_id::LOCAL)?.into())
    }

    /// Takes connections from now on: each is an event of kind [`EventKind::CmConnectRequest`]. At most `backlog` may wait for
    /// [`CmId::accept`] or [`CmId::reject`]; more are refused.
    ///
    /// # Errors
    ///
    /// It is not bound; the device is gone.
    pub fn listen(&self, backlog: u32) -> Result<()> {
        self.call("listen", cm_id::LISTEN, &mut [0; MESSAGE], |m| {
            m.put(cm_id::BACKLOG, &backlog);
        })
        .map(|_| ())
    }

    /// Asks whoever listens at `peer` for a connection with `qp`, which is in RESET or INIT, and from then on in INIT: receives
    /// may be posted. An event tells what came of it; after [`EventKind::CmEstablished`], [`RcQp::update_state`] lets it
    /// send. Until the connection ends nobody else may move the queue pair, but to ERR.
    ///
    /// # Errors
    ///
    /// The id is in use already, or the queue pair; a parameter is out of range; too much private data; the device is gone.
    pub fn connect(&self, qp: &mut RcQp, peer: CmAddr, options: &CmOptions) -> Result<()> {
        self.call("connect", cm_id::CONNECT, &mut [0; MESSAGE], |m| {
            m.put(cm_id::PEER, &peer.wire());
            put_options(m, self.context(), qp, options);
        })?;
        qp.moved(QpState::INIT);
        Ok(())
    }

    /// Agrees to a peer's request, with `qp`, which is in RESET or INIT, and from then on in RTS: it may send, although the peer
    /// is known to be connected only when [`EventKind::CmEstablished`] comes.
    ///
    /// # Errors
    ///
    /// Nobody asked, or has given up; the queue pair is in use; a parameter is out of range; too much private data; the device is
    /// gone.
    pub fn accept(&self, qp: &mut RcQp, options: &CmOptions) -> Result<()> {
        self.call("accept a connection", cm_id::ACCEPT, &mut [0; MESSAGE], |m| {
            put_options(m, self.context(), qp, options);
        })?;
        qp.moved(QpState::RTS);
        Ok(())
    }

    /// As [`CmId::connect`], with a queue pair of libibverbs, which learns of its state by `ibv_query_qp`.
    ///
    /// # Errors
    ///
    /// As there; the descriptor or the number names no such queue pair; the kernel does not serve its device.
    pub fn connect_verbs(&self, qp: VerbsQp<'_>, peer: CmAddr, options: &CmOptions) -> Result<()> {
        self.call("connect", cm_id::CONNECT, &mut [0; MESSAGE], |m| {
            m.put(cm_id::PEER, &peer.wire());
            put_verbs_qp(m, qp, options);
        })
        .map(|_| ())
    }

    /// As [`CmId::accept`], with a queue pair of libibverbs.
    ///
    /// # Errors
    ///
    /// As there; the descriptor or the number names no such queue pair; it is on another device than the request came to.
    pub fn accept_verbs(&self, qp: VerbsQp<'_>, options: &CmOptions) -> Result<()> {
        self.call("accept a connection", cm_id::ACCEPT, &mut [0; MESSAGE], |m| {
            put_verbs_qp(m, qp, options);
        })
        .map(|_| ())
    }

    /// Refuses a peer's request; at most [`cm_id::REJECT_PRIVATE_DATA`] bytes say why.
    ///
    /// # Errors
    ///
    /// Nobody asked, or has given up; too much private data; the device is gone.
    pub fn reject(&self, private_data: &[u8]) -> Result<()> {
        self.call("refuse a connection", cm_id::REJECT, &mut [0; MESSAGE], |m| {
            m.put_array(cm_id::PRIVATE_DATA, private_data);
        })
        .map(|_| ())
    }

    /// Ends the connection: the queue pair is in ERR when this returns, the peer is told, and [`EventKind::CmDisconnected`]
    /// comes on both sides.
    ///
    /// # Errors
    ///
    /// It is not connected; the device is gone.
    pub fn disconnect(&self) -> Result<()> {
        self.call("disconnect", cm_id::DISCONNECT, &mut [0; MESSAGE], |_| {})
            .map(|_| ())
    }

    /// What is known of it.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn query(&self) -> Result<CmInfo> {
        const DOING: &str = "query a communication id";
        let mut words = [0; MESSAGE];
        let answer = self.call(DOING, method::QUERY, &mut words, |m| {
            m.ask(cm_id::STATE)
                .ask(cm_id::LOCAL)
                .ask(cm_id::PEER)
                .ask(cm_id::PARAMS);
            m.ask_array(cm_id::PRIVATE_DATA, cm_id::ACCEPT_PRIVATE_DATA);
            m.ask(cm_id::REASON).ask(cm_id::PEER_QPN).ask(cm_id::DEVICE);
        })?;
        Ok(CmInfo {
            state: answer.expect(DOING, cm_id::STATE)?,
            local: answer.expect(DOING, cm_id::LOCAL)?.into(),
            // One that is on no device, or on all, has none of these.
            peer: answer.get(cm_id::PEER).unwrap_or_default().into(),
            params: answer.get(cm_id::PARAMS).unwrap_or_default(),
            private_data: answer.array(cm_id::PRIVATE_DATA).collect(),
            reason: answer.get(cm_id::REASON).unwrap_or_default(),
            peer_qpn: answer.get(cm_id::PEER_QPN).unwrap_or_default(),
            device: answer.get(cm_id::DEVICE),
        })
    }

    /// Destroys it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// Another thread uses it just now; the device is gone.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

fn put_options(message: &mut Builder<'_>, context: &Context, qp: &RcQp, options: &CmOptions) {
    if context.is_node() {
        message.put_some(cm_id::DEVICE_FD, qp.context().descriptor());
    }
    message
        .put(cm_id::QP, &qp.object().id())
        .put_some(cm_id::PARAMS, options.params);
    if !options.private_data.is_empty() {
        message.put_array(cm_id::PRIVATE_DATA, &options.private_data);
    }
}

fn put_verbs_qp(message: &mut Builder<'_>, qp: VerbsQp<'_>, options: &CmOptions) {
    message
        .put(cm_id::DEVICE_FD, &(qp.device.as_raw_fd() as u32))
        .put(cm_id::QP, &ObjectId(qp.number))
        .put_some(cm_id::PARAMS, options.params);
    if !options.private_data.is_empty() {
        message.put_array(cm_id::PRIVATE_DATA, &options.private_data);
    }
}

impl fmt::Debug for CmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CmId({:#x})", self.id().0)
    }
}

/// Why a connection did not come about, or is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer refused.
    #[error("the peer refused: reason {reason}")]
    Rejected {
        /// Why (IBA vol. 1, table 109); 28 is the application's own, 8 that nobody listens there.
        reason: u32,
        /// What its application says to it.
        private_data: Vec<u8>,
    },
    /// The peer did not answer.
    #[error("the peer does not answer")]
    Unreachable,
    /// The peer agreed, and the queue pair cannot be made ready for what it agreed to.
    #[error("the queue pair cannot be made ready as the peer has agreed")]
    NotReady,
    /// The connection ended before it was whole.
    #[error("the peer ended the connection")]
    Disconnected,
    /// The caller's own time is over.
    #[error("the time for connecting is over")]
    TimedOut,
}

/// A connection that is waited for: [`CmId`] with an event queue of its own.
pub struct Connection {
    id: CmId,
    events: EventQueue,
}

impl Connection {
    /// Connects `qp`, which is in RESET or INIT, with whoever listens at `peer`, in one call; then it is in RTS.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Connect`]: what became of it; a parameter is out of range; too much private data; the device is gone.
    pub fn connect(qp: &mut RcQp, peer: CmAddr, options: &CmOptions, timeout: Duration) -> Result<Self> {
        let context = qp.context().clone();
        Self::connect_on(&context, qp, peer, options, timeout)
    }

    /// The same, with an id of this context, which may be the system-wide node's.
    ///
    /// # Errors
    ///
    /// As [`Connection::connect`].
    pub fn connect_on(
        context: &Context,
        qp: &mut RcQp,
        peer: CmAddr,
        options: &CmOptions,
        timeout: Duration,
    ) -> Result<Self> {
        let events = context.create_event_queue()?;
        let id = CmId::new(context, &events, 0)?;
        id.connect(qp, peer, options)?;
        let connection = Self { id, events };
        connection.wait_established(qp, timeout)?;
        Ok(connection)
    }

    fn wait_established(&self, qp: &mut RcQp, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        let error = loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(event) = self.events.next_event(Some(left))? else {
                break ConnectError::TimedOut;
            };
            break match event.kind {
                EventKind::CmEstablished => {
                    qp.moved(QpState::RTS);
                    return Ok(());
                }
                EventKind::CmRejected => ConnectError::Rejected {
                    reason: event.data as u32,
                    private_data: self.id.query()?.private_data,
                },
                EventKind::CmUnreachable => ConnectError::Unreachable,
                EventKind::CmConnectError => ConnectError::NotReady,
                EventKind::CmDisconnected | EventKind::CmDeviceRemoval => ConnectError::Disconnected,
                _ => continue,
            };
        };
        Err(error.into())
    }

    /// Waits for the end of the connection; `false` if it has not come in time.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn wait_disconnected(&self, timeout: Duration) -> Result<bool> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.next_event(Some(left))? {
                None => return Ok(false),
                Some(event) if event.kind == EventKind::CmDisconnected => return Ok(true),
                Some(event) if event.kind == EventKind::CmDeviceRemoval => return Ok(true),
                // It came earlier, and was read.
                Some(event) if event.kind == EventKind::CmTimewaitExit => return Ok(true),
                Some(_) => {}
            }
        }
    }

    /// Ends the connection; the queue pair is in ERR when this returns.
    ///
    /// # Errors
    ///
    /// It has ended already; the device is gone.
    pub fn disconnect(&self) -> Result<()> {
        self.id.disconnect()
    }

    /// The id behind it.
    pub fn id(&self) -> &CmId {
        &self.id
    }

    /// Where its events come.
    pub fn events(&self) -> &EventQueue {
        &self.events
    }
}

/// Somebody who waits for connections at a port.
pub struct Listener {
    id: CmId,
    events: EventQueue,
    address: CmAddr,
}

impl Listener {
    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// EADDRINUSE: somebody does already. EADDRNOTAVAIL: the GID is none of ours. The device is gone.
    pub fn bind(context: &Context, address: CmAddr, backlog: u32) -> Result<Self> {
        let events = context.create_event_queue()?;
        let id = CmId::new(context, &events, 0)?;
        let address = id.bind(address)?;
        id.listen(backlog)?;
        Ok(Self { id, events, address })
    }

    /// Where it listens.
    pub fn address(&self) -> CmAddr {
        self.address
    }

    /// The id behind it.
    pub fn id(&self) -> &CmId {
        &self.id
    }

    /// Waits for somebody who asks for a connection; `None` if nobody has in time.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn next(&self, timeout: Duration) -> Result<Option<Incoming>> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(event) = self.events.next_event(Some(left))? else {
                return Ok(None);
            };
            // Events of connections that nobody took: their peers gave up.
            let Some(id) = CmId::requested(&self.id, &event) else {
                continue;
            };
            let info = id.query()?;
            return Ok(Some(Incoming { id, info }));
        }
    }
}

/// Somebody who asks for a connection. Dropping it refuses.
pub struct Incoming {
    id: CmId,
    info: CmInfo,
}

impl Incoming {
    /// Who it is and what it wants.
    pub fn info(&self) -> &CmInfo {
        &self.info
    }

    /// Agrees, with `qp`, which is in RESET or INIT, and waits until the peer has confirmed; then it is in RTS.
    ///
    /// # Errors
    ///
    /// As [`Connection::connect`].
    pub fn accept(self, qp: &mut RcQp, options: &CmOptions, timeout: Duration) -> Result<Connection> {
        let events = self.id.context().create_event_queue()?;
        self.id.report_to(&events, 0)?;
        self.id.accept(qp, options)?;
        let connection = Connection { id: self.id, events };
        connection.wait_established(qp, timeout)?;
        Ok(connection)
    }

    /// Refuses; at most [`cm_id::REJECT_PRIVATE_DATA`] bytes say why.
    ///
    /// # Errors
    ///
    /// The peer has given up; too much private data; the device is gone.
    pub fn reject(self, private_data: &[u8]) -> Result<()> {
        self.id.reject(private_data)
    }
}

impl ConnectError {
    /// The error number that says it best.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Rejected { .. } | Self::Disconnected => Errno::ECONNREFUSED,
            Self::Unreachable => Errno::EHOSTUNREACH,
            Self::NotReady => Errno::EIO,
            Self::TimedOut => Errno::ETIMEDOUT,
        }
    }
}
