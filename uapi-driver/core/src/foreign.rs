// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! CM_ID on devices that are not Verbena's, where somebody else's communication manager owns QP 1: a kernel's `rdma_cm` over
//! its `ib_device`s.
//!
//! That manager has the protocol, the devices and the queue pairs; [`ForeignCm`] is what it is asked for. Here is what makes
//! its ids objects of the system-wide node: which call is allowed when, what QUERY answers, which event is posted, which
//! request becomes an object. `node_cm` decides whether an id is on such a device.
//!
//! Locks: an object's standing, then whatever the manager has, then `Told`, in which nothing is called but the object
//! model. So the manager may hold its own locks while it tells what happened, and wait for that when an id is dropped.

use crate::cm_id;
use crate::node::{NodeContext, NodeHost, System};
use crate::node_cm::SystemId;
use crate::platform::Platform;
use rdma_cm::RejectReason;
use rdma_uapi::class::cm_id::{self as class_cm_id, state, CmAddress, CmParams};
use rdma_uapi::class::event_queue::kind;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{try_arc, Arc, Mutex};
use rdma_uapi::{Call, Errno, Failure, Object, Reason};

type Handling<'c, P> = Call<'c, System<P>>;
type Manager<P> = <<P as Platform>::Node as NodeHost<P>>::Foreign;

/// One id of a communication manager that is not ours. Dropping it ends it: when that returns, nothing is told any more.
///
/// No call waits for the peer, and none is made while another one on the same id runs. The queue pair is moved through its
/// states by the manager, as class CM_ID says.
pub trait ForeignCm: Sized + Send + Sync + 'static {
    /// Takes an address of one of its devices, or, if the GID is zero, of all; a port of 0 is one that is free.
    ///
    /// # Errors
    ///
    /// EADDRNOTAVAIL: no device has it; EADDRINUSE; EACCES: the port is not for everybody.
    fn bind(&self, local: &CmAddress) -> Result<CmAddress, Errno>;

    /// Takes requests from now on. How many may wait is decided by who is told of them ([`requested`]).
    ///
    /// # Errors
    ///
    /// What the manager says.
    fn listen(&self) -> Result<(), Errno>;

    /// Asks the peer; an id that has no address takes one of the queue pair's device, and `port` (0: a free one). Answers the
    /// address.
    ///
    /// # Errors
    ///
    /// EBADF, ENOENT: the queue pair; EXDEV: it is on another device; EBUSY: it has a connection; EINVAL: it is no RC one in
    /// RESET or INIT; EADDRNOTAVAIL: no address to speak to such a peer from.
    fn connect(&self, peer: &CmAddress, port: u16, side: &Side<'_>) -> Result<CmAddress, Errno>;

    /// Answers the peer.
    ///
    /// # Errors
    ///
    /// As [`ForeignCm::connect`]. The peer still waits then.
    fn accept(&self, side: &Side<'_>) -> Result<(), Errno>;

    /// Refuses the peer.
    ///
    /// # Errors
    ///
    /// What the manager says.
    fn reject(&self, reason: u8, data: &[u8]) -> Result<(), Errno>;

    /// Ends the connection.
    ///
    /// # Errors
    ///
    /// What the manager says.
    fn disconnect(&self) -> Result<(), Errno>;
}

/// What a side of a connection brings along.
pub struct Side<'a> {
    /// A descriptor, in the calling process, of the open file of the device that the queue pair belongs to.
    pub fd: u32,
    /// The queue pair's number.
    pub qpn: u32,
    /// How to connect it. READs and atomics are at most the device's.
    pub params: &'a CmParams,
    /// For the peer's application.
    pub data: &'a [u8],
}

/// Where there is no other manager.
pub enum NoForeignCm {}

impl ForeignCm for NoForeignCm {
    fn bind(&self, _: &CmAddress) -> Result<CmAddress, Errno> {
        match *self {}
    }

    fn listen(&self) -> Result<(), Errno> {
        match *self {}
    }

    fn connect(&self, _: &CmAddress, _: u16, _: &Side<'_>) -> Result<CmAddress, Errno> {
        match *self {}
    }

    fn accept(&self, _: &Side<'_>) -> Result<(), Errno> {
        match *self {}
    }

    fn reject(&self, _: u8, _: &[u8]) -> Result<(), Errno> {
        match *self {}
    }

    fn disconnect(&self) -> Result<(), Errno> {
        match *self {}
    }
}

/// What the manager tells of an id.
#[derive(Clone, Copy)]
pub struct Heard<'a> {
    /// The event: a `CM_` one of [`kind`].
    pub kind: u16,
    /// Of a refusal, its reason.
    pub reason: u32,
    /// The peer's queue pair; 0 if it is not told with this event.
    pub peer_qpn: u32,
    /// How they are connected, or would be, if it is told.
    pub params: Option<CmParams>,
    /// What the peer's application said, if it is told.
    pub data: Option<&'a [u8]>,
}

/// Who hears of an id: what the class knows of it.
pub struct ForeignId<P: Platform> {
    context: Arc<NodeContext<P>>,
    told: Mutex<Told<P>>,
}

struct Told<P: Platform> {
    /// Set before anything is told.
    object: Option<Arc<Object<System<P>>>>,
    /// Whose request it is, while it waits for a decision.
    listener: Option<Arc<ForeignId<P>>>,
    state: u32,
    removed: bool,
    local: CmAddress,
    peer: CmAddress,
    params: CmParams,
    reason: u32,
    peer_qpn: u32,
    backlog: u32,
    waiting: u32,
    data: [u8; class_cm_id::ACCEPT_PRIVATE_DATA],
    data_len: usize,
}

impl<P: Platform> Told<P> {
    fn hear(&mut self, heard: &Heard<'_>) {
        if heard.peer_qpn != 0 {
            self.peer_qpn = heard.peer_qpn;
        }
        if let Some(params) = heard.params {
            self.params = CmParams {
                // What only the owner says.
                access: self.params.access,
                response_timeout: self.params.response_timeout,
                max_cm_retries: self.params.max_cm_retries,
                ..params
            };
        }
        if let Some(data) = heard.data {
            let len = data.len().min(self.data.len());
            self.data[..len].copy_from_slice(&data[..len]);
            self.data_len = len;
        }
    }

    /// What is asked for is allowed in one of these states only.
    fn must_be(&self, states: &[u32]) -> Outcome {
        if self.removed {
            return Err(Failure::GONE);
        }
        if states.contains(&self.state) {
            Ok(())
        } else {
            Err(Failure::new(Errno::EINVAL, Reason::BAD_STATE))
        }
    }
}

impl<P: Platform> ForeignId<P> {
    fn try_new(context: &Arc<NodeContext<P>>, object: Option<Arc<Object<System<P>>>>) -> Outcome<Arc<Self>> {
        let told = Told {
            object,
            listener: None,
            state: state::IDLE,
            removed: false,
            local: CmAddress::default(),
            peer: CmAddress::default(),
            params: CmParams::default(),
            reason: 0,
            peer_qpn: 0,
            backlog: 0,
            waiting: 0,
            data: [0; class_cm_id::ACCEPT_PRIVATE_DATA],
            data_len: 0,
        };
        Ok(try_arc(ForeignId {
            context: context.clone(),
            told: Mutex::try_new(told, c"verbena_foreign_id")?,
        })?)
    }

    /// It does not wait for a decision any more; the listener may hear of another.
    fn decided(&self) {
        let listener = self.told.lock().listener.take();
        if let Some(listener) = listener {
            listener.told.lock().waiting -= 1;
        }
    }
}

/// An id of the manager, and who hears of it.
pub(crate) struct Served<P: Platform> {
    // Dropped first: then nothing is told any more.
    manager: Manager<P>,
    hears: Arc<ForeignId<P>>,
}

impl<P: Platform> Served<P> {
    /// A new one; `None` if there is no such manager here.
    pub(crate) fn create(call: &Handling<'_, P>, object: &Arc<Object<System<P>>>) -> Outcome<Option<Self>> {
        let hears = ForeignId::try_new(call.context(), Some(object.clone()))?;
        match call.host().foreign(&hears) {
            Ok(manager) => Ok(Some(Served { manager, hears })),
            Err(Errno::ENODEV) => Ok(None),
            Err(errno) => Err(Failure::new(errno, Reason::NONE)),
        }
    }

    /// BIND. What is wrong is the address.
    pub(crate) fn bind(&self, wanted: &CmAddress) -> Result<CmAddress, Errno> {
        let local = self.manager.bind(wanted)?;
        let mut told = self.hears.told.lock();
        told.local = local;
        told.state = state::BOUND;
        Ok(local)
    }

    /// LISTEN.
    pub(crate) fn listen(&self, call: &Handling<'_, P>, backlog: u32) -> Outcome {
        {
            let mut told = self.hears.told.lock();
            told.must_be(&[state::BOUND])?;
            // Requests may come before the call below returns.
            told.backlog = backlog.max(1);
            told.state = state::LISTENING;
        }
        self.manager.listen().map_err(|errno| {
            self.hears.told.lock().state = state::BOUND;
            failure(call, errno)
        })
    }

    /// CONNECT of an id that had this port of all addresses.
    pub(crate) fn connect_from(&self, call: &mut Handling<'_, P>, port: u16) -> Outcome {
        self.hears.told.lock().local.port = port;
        self.connect(call)
    }

    /// CONNECT.
    pub(crate) fn connect(&self, call: &mut Handling<'_, P>) -> Outcome {
        let peer = cm_id::wanted_peer(call)?;
        let params = cm_id::params_within(call, u8::MAX.into(), u8::MAX.into())?;
        cm_id::mtu(call, &params)?;
        let data = cm_id::private_data(call, class_cm_id::CONNECT_PRIVATE_DATA)?;
        let side = side(call, &params, data)?;
        let (before, port) = {
            let mut told = self.hears.told.lock();
            told.must_be(&[state::IDLE, state::BOUND])?;
            let before = told.state;
            // The answer may come before the call below returns.
            told.state = state::CONNECTING;
            told.peer = peer;
            told.params = params;
            (before, told.local.port)
        };
        match self.manager.connect(&peer, port, &side) {
            Ok(local) => {
                self.hears.told.lock().local = local;
                call.put(class_cm_id::LOCAL, &local)
            }
            Err(errno) => {
                self.hears.told.lock().state = before;
                Err(failure(call, errno))
            }
        }
    }

    /// ACCEPT.
    pub(crate) fn accept(&self, call: &Handling<'_, P>) -> Outcome {
        let params = cm_id::params_within(call, u8::MAX.into(), u8::MAX.into())?;
        let data = cm_id::private_data(call, class_cm_id::ACCEPT_PRIVATE_DATA)?;
        let side = side(call, &params, data)?;
        if call.host().context(call.context().owner(), side.fd).is_ok() {
            return Err(call.fail(class_cm_id::DEVICE_FD, Errno::EXDEV, Reason::WRONG_FD));
        }
        {
            let mut told = self.hears.told.lock();
            told.must_be(&[state::REQUESTED])?;
            told.state = state::ACCEPTED;
            told.params.access = params.access;
        }
        match self.manager.accept(&side) {
            Ok(()) => {
                self.hears.decided();
                Ok(())
            }
            Err(errno) => {
                let mut told = self.hears.told.lock();
                // Unless the peer has lost its patience meanwhile.
                if told.state == state::ACCEPTED {
                    told.state = state::REQUESTED;
                }
                Err(failure(call, errno))
            }
        }
    }

    /// REJECT.
    pub(crate) fn reject(&self, call: &Handling<'_, P>) -> Outcome {
        let reason = call.get(class_cm_id::REASON)?;
        let reason = reason.unwrap_or(RejectReason::CONSUMER.0.into());
        // A REJ has 16 bits for it, rdma_reject() takes eight; none above is assigned.
        let reason = u8::try_from(reason).map_err(|_| call.out_of_range(class_cm_id::REASON))?;
        let data = cm_id::private_data(call, class_cm_id::REJECT_PRIVATE_DATA)?;
        self.hears.told.lock().must_be(&[state::REQUESTED])?;
        self.manager
            .reject(reason, data)
            .map_err(|errno| failure(call, errno))?;
        self.hears.told.lock().state = state::CLOSED;
        self.hears.decided();
        Ok(())
    }

    /// DISCONNECT.
    pub(crate) fn disconnect(&self, call: &Handling<'_, P>) -> Outcome {
        {
            let mut told = self.hears.told.lock();
            told.must_be(&[state::ESTABLISHED])?;
            told.state = state::DISCONNECTING;
        }
        self.manager.disconnect().map_err(|errno| failure(call, errno))
    }

    /// QUERY.
    pub(crate) fn query(&self, call: &mut Handling<'_, P>) -> Outcome {
        let told = self.hears.told.lock();
        if told.removed {
            return Err(Failure::GONE);
        }
        call.put(class_cm_id::LOCAL, &told.local)?;
        call.put(class_cm_id::PEER, &told.peer)?;
        call.put(class_cm_id::PARAMS, &told.params)?;
        call.put_array(class_cm_id::PRIVATE_DATA, &told.data[..told.data_len])?;
        call.put(class_cm_id::REASON, &told.reason)?;
        call.put(class_cm_id::STATE, &told.state)?;
        call.put(class_cm_id::PEER_QPN, &told.peer_qpn)
    }

    /// Its object is gone. What it was asked and nobody has decided about: `discard` is called with each.
    pub(crate) fn end(self, context: &NodeContext<P>, mut discard: impl FnMut(&Arc<Object<System<P>>>)) {
        let Served { manager, hears } = self;
        hears.decided();
        // Waits for what is being told.
        drop(manager);
        if hears.told.lock().waiting == 0 {
            return;
        }
        context.store().each(|object| {
            let Some(id) = object.payload() else { return };
            let waiting = id.foreign(|served| {
                let told = served.hears.told.lock();
                let ours = told.listener.as_ref().is_some_and(|of| Arc::ptr_eq(of, &hears));
                if ours {
                    told.object.clone()
                } else {
                    None
                }
            });
            if let Some(waiting) = waiting.flatten() {
                discard(&waiting);
            }
        });
    }
}

fn side<'a, P: Platform>(call: &Handling<'_, P>, params: &'a CmParams, data: &'a [u8]) -> Outcome<Side<'a>> {
    Ok(Side {
        fd: call.require(class_cm_id::DEVICE_FD)?,
        qpn: call.require(class_cm_id::QP)?.0,
        params,
        data,
    })
}

/// What the manager's refusal means.
fn failure<P: Platform>(call: &Handling<'_, P>, errno: Errno) -> Failure {
    match errno {
        Errno::EBADF => call.fail(class_cm_id::DEVICE_FD, errno, Reason::NO_OBJECT),
        Errno::EXDEV => call.fail(class_cm_id::DEVICE_FD, errno, Reason::WRONG_FD),
        Errno::ENOENT => call.fail(class_cm_id::QP, errno, Reason::NO_OBJECT),
        Errno::EBUSY => call.fail(class_cm_id::QP, errno, Reason::IN_USE),
        Errno::EINVAL => call.fail(class_cm_id::QP, errno, Reason::BAD_STATE),
        Errno::EADDRNOTAVAIL => call.fail(class_cm_id::PEER, errno, Reason::OUT_OF_RANGE),
        Errno::ENODEV => Failure::GONE,
        Errno::ENOMEM => Failure::NO_MEMORY,
        _ => Failure::new(errno, Reason::NONE),
    }
}

/// Something happened to an id.
pub fn happened<P: Platform>(hears: &ForeignId<P>, heard: &Heard<'_>) {
    let object = {
        let mut told = hears.told.lock();
        told.hear(heard);
        match heard.kind {
            kind::CM_ESTABLISHED => told.state = state::ESTABLISHED,
            kind::CM_DISCONNECTED => told.state = state::TIMEWAIT,
            kind::CM_REJECTED => {
                told.reason = heard.reason;
                told.state = state::CLOSED;
            }
            kind::CM_UNREACHABLE | kind::CM_CONNECT_ERROR | kind::CM_TIMEWAIT_EXIT => told.state = state::CLOSED,
            kind::CM_DEVICE_REMOVAL => told.removed = true,
            _ => return,
        }
        told.object.clone()
    };
    hears.decided();
    if let Some(object) = object {
        object.post(heard.kind, heard.reason.into());
    }
}

/// A peer asks for a connection: it becomes an object of the listener's context. Its id is `manager`; who hears of it is the
/// answer.
///
/// # Errors
///
/// The peer is to be refused, for want of resources, and `manager` is not to be used any more.
pub fn requested<P: Platform>(
    listener: &Arc<ForeignId<P>>,
    manager: Manager<P>,
    (local, peer): (CmAddress, CmAddress),
    heard: &Heard<'_>,
) -> Result<Arc<ForeignId<P>>, Manager<P>> {
    let Ok(hears) = ForeignId::try_new(&listener.context, None) else {
        return Err(manager);
    };
    let listening = {
        let mut told = listener.told.lock();
        match &told.object {
            Some(object) if told.state == state::LISTENING && told.waiting < told.backlog => {
                let object = object.clone();
                told.waiting += 1;
                object
            }
            _ => return Err(manager),
        }
    };
    {
        let mut told = hears.told.lock();
        told.state = state::REQUESTED;
        told.listener = Some(listener.clone());
        told.local = local;
        told.peer = peer;
        told.hear(heard);
    }
    let mut served = Some(Served {
        manager,
        hears: hears.clone(),
    });
    // Whatever fails leaves it here: it is not to be ended while its manager tells of it.
    let new = NodeContext::<P>::spawn(&listener.context, &listening, |_| SystemId::foreign_of(&mut served));
    match (new, served) {
        (Ok(object), _) => {
            let id = object.id();
            hears.told.lock().object = Some(object);
            listening.post(kind::CM_CONNECT_REQUEST, id.0.into());
            Ok(hears)
        }
        (Err(_), Some(served)) => {
            hears.decided();
            Err(served.manager)
        }
        (Err(_), None) => unreachable!("what takes it makes an object, and after that nothing fails"),
    }
}
