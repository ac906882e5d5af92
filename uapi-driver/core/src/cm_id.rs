// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! CM_ID: communication ids as objects.

use crate::cm::{port_of, Cm, HOP_LIMIT};
use crate::cm_qp::{self, Way};
use crate::driver::{Handling, Payload};
use crate::hardware::Hardware;
use crate::node::NodeContext;
use crate::numbers::Kind;
use crate::platform::Platform;
use crate::qp::Qp;
use crate::{Context, Device, Verbena};
use rdma_cm::{ip, Error, Id, RejectReason, Reply, Request, Route, State, Terms};
use rdma_uapi::class::cm_id::{self, state, CmAddress, CmParams};
use rdma_uapi::class::mr::access;
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::Attr;
use rdma_uapi::sys::{try_arc, Arc, Mutex};
use rdma_uapi::{Call, Cause, Driver, Ending, Errno, Failure, Object, ObjectRef, Reason};
use verbena_hw::id::Gid;
use verbena_hw::qp::Mtu;

/// Ports that BIND chooses from (RFC 6335, 6): the dynamic ones.
const DYNAMIC_PORTS: u16 = 49152;

/// A communication id.
pub struct CmId<P: Platform> {
    pub(crate) id: Id,
    pub(crate) home: Home<P>,
    pub(crate) inner: Mutex<Inner<P>>,
}

/// Whose it is, and where a listener's connections become objects.
pub(crate) enum Home<P: Platform> {
    /// An open file of the device.
    Device(Arc<Context<P>>),
    /// An open file of the system-wide node.
    Node {
        /// The file.
        context: Arc<NodeContext<P>>,
        /// The device's number in the list.
        arrival: u64,
        /// The device.
        device: Arc<Device<P>>,
    },
}

impl<P: Platform> Clone for Home<P> {
    fn clone(&self) -> Self {
        match self {
            Home::Device(context) => Home::Device(context.clone()),
            Home::Node {
                context,
                arrival,
                device,
            } => Home::Node {
                context: context.clone(),
                arrival: *arrival,
                device: device.clone(),
            },
        }
    }
}

/// What changes of it.
pub(crate) struct Inner<P: Platform> {
    qp: Option<Arc<Object<Verbena<P>>>>,
    params: CmParams,
    local: CmAddress,
    peer: CmAddress,
    pub(crate) reason: u32,
    data: [u8; cm_id::ACCEPT_PRIVATE_DATA],
    data_len: usize,
}

impl<P: Platform> Inner<P> {
    fn new() -> Self {
        Inner {
            qp: None,
            params: CmParams::default(),
            local: CmAddress::default(),
            peer: CmAddress::default(),
            reason: 0,
            data: [0; cm_id::ACCEPT_PRIVATE_DATA],
            data_len: 0,
        }
    }

    fn queue_pair(&self) -> Option<&Qp<P>> {
        match self.qp.as_ref()?.payload() {
            Some(Payload::Qp(queue_pair)) => Some(queue_pair),
            _ => unreachable!("the attribute takes queue pairs only"),
        }
    }

    /// Keeps what the peer said last.
    pub(crate) fn heard(&mut self, cm: &Cm<P>, hardware: &Hardware<P>, id: Id) {
        cm.ask(hardware, |manager, _, _| {
            if let Some(data) = manager.private_data(id) {
                self.keep(data);
            }
        });
    }

    fn keep(&mut self, data: &[u8]) {
        self.data[..data.len()].copy_from_slice(data);
        self.data_len = data.len();
    }

    /// Moves the queue pair from INIT to RTS, as both sides have agreed.
    pub(crate) fn make_ready(&mut self, hardware: &Hardware<P>, cm: &Cm<P>, id: Id) -> Result<(), RejectReason> {
        let queue_pair = self.queue_pair().ok_or(RejectReason::NO_QP)?;
        let (terms, route) = cm
            .ask(hardware, |manager, _, _| {
                Some((*manager.terms(id)?, *manager.route(id)?))
            })
            .ok_or(RejectReason::TIMEOUT)?;
        let sgid_index = cm.gsi.gid_index(hardware, &Gid(route.local));
        let way = Way {
            qpn: queue_pair.qpn,
            access: self.params.access,
            min_rnr_timer: self.params.min_rnr_timer,
            sgid_index: sgid_index.ok_or(RejectReason::INVALID_GID)?,
            dgid: Gid(route.remote),
        };
        cm_qp::make_ready(hardware, &way, &terms).map_err(|_| RejectReason::NO_RESOURCES)
    }

    /// The connection is over, or will never be: the queue pair goes to ERR, and is its owner's again.
    pub(crate) fn end(&mut self, hardware: &Hardware<P>) {
        if let Some(queue_pair) = self.queue_pair() {
            cm_qp::end(hardware, queue_pair.qpn);
        }
        self.forget_qp();
    }

    /// The queue pair is its owner's again.
    pub(crate) fn forget_qp(&mut self) {
        if let Some(queue_pair) = self.queue_pair() {
            queue_pair.owner.leave();
        }
        self.qp = None;
    }
}

impl<P: Platform> CmId<P> {
    fn new(id: Id, home: Home<P>, inner: Inner<P>) -> Outcome<Arc<Self>> {
        // On the heap by itself: an object is as large as the largest that there is.
        Ok(try_arc(CmId {
            id,
            home,
            inner: Mutex::try_new(inner, c"verbena_cm_id")?,
        })?)
    }

    /// A new one.
    ///
    /// # Errors
    ///
    /// No memory; the manager has no more ids.
    pub(crate) fn create(hardware: &Hardware<P>, cm: &Cm<P>, home: Home<P>) -> Outcome<Arc<Self>> {
        let id = cm.ask(hardware, |manager, _, _| manager.create());
        let id = id.map_err(|error| match error {
            Error::TooMany => Failure::new(Errno::ENOSPC, Reason::TOO_MANY_OBJECTS),
            _ => Failure::NO_MEMORY,
        })?;
        let new = CmId::new(id, home, Inner::new());
        if new.is_err() {
            cm.ask(hardware, |manager, now, out| manager.release(now, id, out));
        }
        new
    }

    /// A listener's new connection; `None` if the peer's request is not one of the RDMA IP CM service, or there is no
    /// memory.
    pub(crate) fn requested(hardware: &Hardware<P>, cm: &Cm<P>, listener: &CmId<P>, id: Id) -> Option<Arc<Self>> {
        let mut inner = Inner::new();
        let mut data = [0; rdma_cm::mad::Req::PRIVATE_DATA];
        let (route, service) = cm.ask(hardware, |manager, _, _| {
            let len = data.len();
            data.copy_from_slice(manager.private_data(id)?.get(..len)?);
            Some((*manager.route(id)?, manager.service(id)?))
        })?;
        let (header, rest) = ip::Header::split(&data)?;
        inner.keep(rest);
        inner.local = address(&route.local, port_of(service));
        inner.peer = address(&route.remote, header.port.get());
        CmId::new(id, listener.home.clone(), inner).ok()
    }
}

fn address(gid: &[u8; 16], port: u16) -> CmAddress {
    CmAddress {
        gid: *gid,
        port,
        ..CmAddress::default()
    }
}

/// What a program gets that does not say.
fn defaults(responder_resources: u32, initiator_depth: u32) -> CmParams {
    CmParams {
        access: access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC,
        responder_resources: responder_resources.min(16) as u8,
        initiator_depth: initiator_depth.min(16) as u8,
        retry_count: 7,
        rnr_retry_count: 7,
        // 67 ms.
        ack_timeout: 14,
        // 0.64 ms.
        min_rnr_timer: 12,
        // 1.07 s, and seventeen of them until nobody answers.
        response_timeout: 18,
        max_cm_retries: 15,
        hop_limit: HOP_LIMIT,
        ..CmParams::default()
    }
}

fn params<P: Platform, D: Driver>(call: &Call<'_, D>, hardware: &Hardware<P>) -> Outcome<CmParams> {
    params_within(
        call,
        hardware.limits.max_qp_rd_atom,
        hardware.limits.max_qp_init_rd_atom,
    )
}

/// How to connect, on a device that executes so many READs and atomics, and may have so many outstanding.
pub(crate) fn params_within<D: Driver>(
    call: &Call<'_, D>,
    max_responder_resources: u32,
    max_initiator_depth: u32,
) -> Outcome<CmParams> {
    let Some(params) = call.get(cm_id::PARAMS)? else {
        return Ok(defaults(max_responder_resources, max_initiator_depth));
    };
    if params.reserved != [0; 10] {
        return Err(call.fail(cm_id::PARAMS, Errno::EINVAL, Reason::NOT_ZERO));
    }
    let good = params.retry_count <= 7
        && params.rnr_retry_count <= 7
        && params.ack_timeout <= 31
        && params.min_rnr_timer <= 31
        && params.response_timeout <= rdma_cm::MAX_WAIT
        && params.max_cm_retries <= 15
        && params.flow_label < 1 << 20
        && u32::from(params.responder_resources) <= max_responder_resources
        && u32::from(params.initiator_depth) <= max_initiator_depth
        && params.access & !verbena_hw::qp::access::QP_ALL == 0;
    if good {
        Ok(params)
    } else {
        Err(call.out_of_range(cm_id::PARAMS))
    }
}

fn own<P: Platform>(call: &Handling<'_, P>) -> (Arc<CmId<P>>, Arc<Cm<P>>) {
    let Payload::CmId(mine) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let cm = call.device().cm.get();
    (mine.clone(), cm.expect("the object was made with it"))
}

/// What the manager's refusal means; `about` is the attribute that is wrong if the address or the data is.
pub(crate) fn failure<D: Driver, T: ?Sized>(call: &Call<'_, D>, error: Error, about: Attr<T>) -> Failure {
    match error {
        Error::NoMemory => Failure::NO_MEMORY,
        Error::TooMany => Failure::new(Errno::ENOSPC, Reason::TOO_MANY_OBJECTS),
        Error::AddressInUse => call.fail(about, Errno::EADDRINUSE, Reason::IN_USE),
        Error::TooLong => call.out_of_range(about),
        Error::State(_) | Error::NoSuchId => Failure::new(Errno::EINVAL, Reason::BAD_STATE),
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let cm = hardware.cm()?;
    let reservation = call.reserve()?;
    let made = CmId::create(hardware, &cm, Home::Device(call.context().clone()))?;
    let id = made.id;
    let object = call.publish(reservation, Some(Payload::CmId(made)), &[]);
    Ok(hardware.enlist(Kind::CmId, id.0, object)?)
}

/// Gives the id this port of all our GIDs.
pub(crate) fn take_port<P: Platform>(
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
    port: u16,
) -> Result<(), Error> {
    let mut inner = mine.inner.lock();
    claim_port(hardware, cm, mine.id, port, None)?;
    inner.local = address(&[0; 16], port);
    Ok(())
}

/// Has the manager give the id a port; the id's own record of it is the caller's to keep, under the id's lock.
fn claim_port<P: Platform>(
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    id: Id,
    port: u16,
    gid: Option<[u8; 16]>,
) -> Result<(), Error> {
    cm.ask(hardware, |manager, _, _| manager.bind(id, ip::service(port), gid))
}

/// The ports that BIND may choose, from one that `first` chooses.
pub(crate) fn dynamic_ports(first: u32) -> impl Iterator<Item = u16> {
    let ports = u32::from(u16::MAX - DYNAMIC_PORTS) + 1;
    (0..ports).map(move |n| DYNAMIC_PORTS + (first.wrapping_add(n) % ports) as u16)
}

/// BIND to the address that is asked for; which port it is.
pub(crate) fn bind_to<P: Platform, D: Driver>(
    call: &Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
    wanted: &CmAddress,
) -> Outcome<u16> {
    let mut inner = mine.inner.lock();
    let port = claim_wanted_port(call, hardware, cm, mine.id, wanted)?;
    inner.local = address(&wanted.gid, port);
    Ok(port)
}

/// [`claim_port`] of the port that is asked for, or, if that is 0, of one that is free.
fn claim_wanted_port<P: Platform, D: Driver>(
    call: &Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    id: Id,
    wanted: &CmAddress,
) -> Outcome<u16> {
    let gid = (wanted.gid != [0; 16]).then_some(wanted.gid);
    if wanted.port != 0 {
        claim_port(hardware, cm, id, wanted.port, gid).map_err(|error| failure(call, error, cm_id::LOCAL))?;
        return Ok(wanted.port);
    }
    for port in dynamic_ports(cm.random()) {
        match claim_port(hardware, cm, id, port, gid) {
            Ok(()) => return Ok(port),
            Err(Error::AddressInUse) => {}
            Err(error) => return Err(failure(call, error, cm_id::LOCAL)),
        }
    }
    Err(call.fail(cm_id::LOCAL, Errno::EADDRINUSE, Reason::IN_USE))
}

pub(crate) fn bind<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let (mine, cm) = own(call);
    let mut wanted = call.get(cm_id::LOCAL)?.unwrap_or_default();
    if wanted.reserved != [0; 6] {
        return Err(call.fail(cm_id::LOCAL, Errno::EINVAL, Reason::NOT_ZERO));
    }
    if wanted.gid != [0; 16] && cm.gsi.gid_index(hardware, &Gid(wanted.gid)).is_none() {
        return Err(call.fail(cm_id::LOCAL, Errno::EADDRNOTAVAIL, Reason::OUT_OF_RANGE));
    }
    wanted.port = bind_to(call, hardware, &cm, &mine, &wanted)?;
    call.put(cm_id::LOCAL, &wanted)
}

/// Lets the id take REQs.
pub(crate) fn listen_on<P: Platform>(
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
    backlog: u32,
) -> Result<(), Error> {
    cm.ask(hardware, |manager, _, _| manager.listen(mine.id, backlog))
}

pub(crate) fn listen<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let (mine, cm) = own(call);
    let backlog = call.require(cm_id::BACKLOG)?;
    listen_on(call.device(), &cm, &mine, backlog).map_err(|error| failure(call, error, cm_id::BACKLOG))
}

/// Our GID that a peer is best spoken to from: of its kind, the first there is.
fn source<P: Platform>(hardware: &Hardware<P>, cm: &Cm<P>, peer: &[u8; 16]) -> Outcome<[u8; 16]> {
    let kind = |gid: &[u8; 16]| (gid[..2] == [0xfe, 0x80], gid[..12] == Gid::from_ipv4([0; 4]).0[..12]);
    cm.gsi.with_gids(hardware, |gids| {
        let same = gids.iter().find(|gid| !gid.is_zero() && kind(&gid.0) == kind(peer));
        // Entry 0 is always there.
        same.or(gids.first()).map_or([0; 16], |gid| gid.0)
    })
}

/// The queue pair that a message on the device's own file names.
fn named_qp<P: Platform>(call: &Handling<'_, P>) -> Outcome<ObjectRef<Verbena<P>>> {
    if call.has(cm_id::DEVICE_FD) {
        // It would be this very file.
        return Err(call.fail(cm_id::DEVICE_FD, Errno::EINVAL, Reason::WRONG_FD));
    }
    call.require_object(cm_id::QP)
}

/// The queue pair, taken for the id and in INIT.
fn take_qp<P: Platform, D: Driver>(
    call: &Call<'_, D>,
    hardware: &Hardware<P>,
    object: &ObjectRef<Verbena<P>>,
    id: Id,
    access: u32,
) -> Outcome<Arc<Object<Verbena<P>>>> {
    let Some(Payload::Qp(queue_pair)) = object.payload() else {
        unreachable!("the attribute takes queue pairs only")
    };
    if !queue_pair.owner.take(id) {
        return Err(call.fail(cm_id::QP, Errno::EBUSY, Reason::IN_USE));
    }
    if let Err(failure) = cm_qp::initialise(hardware, queue_pair.qpn, access) {
        queue_pair.owner.leave();
        return Err(match failure.reason {
            Reason::BAD_STATE => call.fail(cm_id::QP, Errno::EINVAL, Reason::BAD_STATE),
            _ => failure,
        });
    }
    Ok(object.share())
}

pub(crate) fn private_data<'c, D: Driver>(call: &'c Call<'_, D>, most: usize) -> Outcome<&'c [u8]> {
    let data = call.bytes(cm_id::PRIVATE_DATA).unwrap_or(&[]);
    if data.len() > most {
        return Err(call.out_of_range(cm_id::PRIVATE_DATA));
    }
    Ok(data)
}

pub(crate) fn connect<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let (mine, cm) = own(call);
    let qp = named_qp(call)?;
    connect_with(call, hardware, &cm, &mine, &qp)
}

/// Whom CONNECT asks.
pub(crate) fn wanted_peer<D: Driver>(call: &Call<'_, D>) -> Outcome<CmAddress> {
    let peer = call.require(cm_id::PEER)?;
    if peer.reserved != [0; 6] {
        return Err(call.fail(cm_id::PEER, Errno::EINVAL, Reason::NOT_ZERO));
    }
    if peer.gid == [0; 16] || peer.port == 0 {
        return Err(call.out_of_range(cm_id::PEER));
    }
    Ok(peer)
}

/// CONNECT with this queue pair.
pub(crate) fn connect_with<P: Platform, D: Driver>(
    call: &mut Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
    qp: &ObjectRef<Verbena<P>>,
) -> Outcome {
    let peer = wanted_peer(call)?;
    let params = params(call, hardware)?;
    let mtu = mtu(call, &params)?;
    let data = private_data(call, cm_id::CONNECT_PRIVATE_DATA)?;

    let local = {
        let mut inner = mine.inner.lock();
        let id = mine.id;
        match cm.ask(hardware, |manager, _, _| manager.state(id)) {
            Some(State::Idle | State::Bound) => {}
            _ => return Err(Failure::new(Errno::EINVAL, Reason::BAD_STATE)),
        }
        let mut local = inner.local;
        if local.gid == [0; 16] {
            local.gid = source(hardware, cm, &peer.gid)?;
        }
        inner.qp = Some(take_qp(call, hardware, qp, id, params.access)?);
        if local.port == 0 {
            match claim_wanted_port(call, hardware, cm, id, &local) {
                Ok(port) => local.port = port,
                Err(failure) => {
                    inner.forget_qp();
                    return Err(failure);
                }
            }
        }
        inner.local = local;
        let header = ip::Header::new(&local.gid, local.port, &peer.gid);
        let Some(private_data) = header.with(data) else {
            unreachable!("its length has been checked")
        };
        inner.peer = peer;
        inner.params = params;
        let qpn = inner.queue_pair().map_or(0, |queue_pair| queue_pair.qpn.get());
        let request = Request {
            service: ip::service(peer.port),
            route: Route {
                local: local.gid,
                remote: peer.gid,
            },
            terms: Terms {
                local_qpn: qpn,
                local_psn: cm.random() & 0xff_ffff,
                mtu,
                ..terms(&params)
            },
            peer_retry_count: params.retry_count,
            peer_rnr_retry_count: params.rnr_retry_count,
            srq: false,
            response_timeout: params.response_timeout,
            max_retries: params.max_cm_retries,
            private_data: &private_data,
        };
        let asked = cm.ask(hardware, |manager, now, out| manager.connect(now, id, &request, out));
        if let Err(error) = asked {
            inner.forget_qp();
            return Err(failure(call, error, cm_id::PRIVATE_DATA));
        }
        local
    };
    call.put(cm_id::LOCAL, &local)
}

fn terms(params: &CmParams) -> Terms {
    Terms {
        responder_resources: params.responder_resources,
        initiator_depth: params.initiator_depth,
        retry_count: params.retry_count,
        rnr_retry_count: params.rnr_retry_count,
        ack_timeout: params.ack_timeout,
        // The default partition, of which every port is a full member.
        pkey: 0xffff,
        traffic_class: params.traffic_class,
        hop_limit: params.hop_limit,
        flow_label: params.flow_label,
        ..Terms::default()
    }
}

/// The code of the path MTU; the device's own, if the program does not say.
pub(crate) fn mtu<D: Driver>(call: &Call<'_, D>, params: &CmParams) -> Outcome<u8> {
    let mut codes = (Mtu::B256.0..=Mtu::B4096.0).map(Mtu);
    match params.path_mtu {
        0 => Ok(Mtu::B4096.0),
        bytes => codes
            .find(|mtu| mtu.bytes() == Some(bytes))
            .map(|mtu| mtu.0)
            .ok_or_else(|| call.out_of_range(cm_id::PARAMS)),
    }
}

pub(crate) fn accept<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let (mine, cm) = own(call);
    let qp = named_qp(call)?;
    accept_with(call, hardware, &cm, &mine, &qp)
}

/// ACCEPT with this queue pair.
pub(crate) fn accept_with<P: Platform, D: Driver>(
    call: &mut Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
    qp: &ObjectRef<Verbena<P>>,
) -> Outcome {
    let params = params(call, hardware)?;
    let data = private_data(call, cm_id::ACCEPT_PRIVATE_DATA)?;
    let id = mine.id;
    let mut inner = mine.inner.lock();
    let wanted = |manager: &mut rdma_cm::Manager| match manager.state(id) {
        Some(State::ReqRcvd) => manager.terms(id).copied(),
        _ => None,
    };
    let Some(theirs) = cm.ask(hardware, |manager, _, _| wanted(manager)) else {
        return Err(Failure::new(Errno::EINVAL, Reason::BAD_STATE));
    };
    inner.qp = Some(take_qp(call, hardware, qp, id, params.access)?);
    inner.params = params;
    let Some(queue_pair) = inner.queue_pair() else {
        unreachable!("it has just been taken")
    };
    let psn = cm.random() & 0xff_ffff;
    // As the manager will have it: no more than either side wants.
    let agreed = Terms {
        local_psn: psn,
        responder_resources: theirs.responder_resources.min(params.responder_resources),
        initiator_depth: theirs.initiator_depth.min(params.initiator_depth),
        ..theirs
    };
    let sgid_index = cm.gsi.gid_index(hardware, &Gid(inner.local.gid));
    let ready = match sgid_index {
        Some(sgid_index) => {
            let way = Way {
                qpn: queue_pair.qpn,
                access: params.access,
                min_rnr_timer: params.min_rnr_timer,
                sgid_index,
                dgid: Gid(inner.peer.gid),
            };
            cm_qp::make_ready(hardware, &way, &agreed).map_err(Failure::from)
        }
        None => Err(Failure::new(Errno::EADDRNOTAVAIL, Reason::OUT_OF_RANGE)),
    };
    let reply = Reply {
        qpn: queue_pair.qpn.get(),
        psn,
        responder_resources: params.responder_resources,
        initiator_depth: params.initiator_depth,
        peer_rnr_retry_count: params.rnr_retry_count,
        srq: false,
        private_data: data,
    };
    let accepted = ready.and_then(|()| {
        cm.ask(hardware, |manager, now, out| manager.accept(now, id, &reply, out))
            .map_err(|error| failure(call, error, cm_id::PRIVATE_DATA))
    });
    if accepted.is_err() {
        inner.end(hardware);
    }
    accepted
}

pub(crate) fn reject<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let (mine, cm) = own(call);
    reject_with(call, hardware, &cm, &mine)
}

/// REJECT.
pub(crate) fn reject_with<P: Platform, D: Driver>(
    call: &mut Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
) -> Outcome {
    let reason = call.get(cm_id::REASON)?.unwrap_or(RejectReason::CONSUMER.0.into());
    let Ok(reason) = u16::try_from(reason) else {
        return Err(call.out_of_range(cm_id::REASON));
    };
    let data = private_data(call, cm_id::REJECT_PRIVATE_DATA)?;
    cm.ask(hardware, |manager, _, out| match manager.state(mine.id) {
        Some(State::ReqRcvd) => manager.reject(mine.id, RejectReason(reason), data, out),
        state => Err(Error::State(state.unwrap_or(State::Closed))),
    })
    .map_err(|error| failure(call, error, cm_id::PRIVATE_DATA))
}

pub(crate) fn disconnect<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let (mine, cm) = own(call);
    disconnect_with(call, hardware, &cm, &mine)
}

/// DISCONNECT.
pub(crate) fn disconnect_with<P: Platform, D: Driver>(
    call: &mut Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
) -> Outcome {
    let mut inner = mine.inner.lock();
    cm.ask(hardware, |manager, now, out| manager.disconnect(now, mine.id, out))
        .map_err(|error| failure(call, error, cm_id::STATE))?;
    inner.end(hardware);
    Ok(())
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let (mine, cm) = own(call);
    query_with(call, hardware, &cm, &mine)
}

/// QUERY.
pub(crate) fn query_with<P: Platform, D: Driver>(
    call: &mut Call<'_, D>,
    hardware: &Hardware<P>,
    cm: &Cm<P>,
    mine: &CmId<P>,
) -> Outcome {
    let inner = mine.inner.lock();
    let (local, peer, reason) = (inner.local, inner.peer, inner.reason);
    let (data, len) = (inner.data, inner.data_len);
    let own = inner.params;
    drop(inner);
    let (now, terms) = cm.ask(hardware, |manager, _, _| {
        (
            manager.state(mine.id),
            manager.terms(mine.id).copied().unwrap_or_default(),
        )
    });
    let params = CmParams {
        path_mtu: Mtu(terms.mtu).bytes().unwrap_or(0),
        flow_label: terms.flow_label,
        responder_resources: terms.responder_resources,
        initiator_depth: terms.initiator_depth,
        retry_count: terms.retry_count,
        rnr_retry_count: terms.rnr_retry_count,
        ack_timeout: terms.ack_timeout,
        traffic_class: terms.traffic_class,
        hop_limit: terms.hop_limit,
        ..own
    };
    let number = match now {
        Some(State::Idle) => state::IDLE,
        Some(State::Bound) => state::BOUND,
        Some(State::Listening) => state::LISTENING,
        Some(State::ReqSent | State::RepRcvd) => state::CONNECTING,
        Some(State::ReqRcvd) => state::REQUESTED,
        Some(State::RepSent) => state::ACCEPTED,
        Some(State::Established) => state::ESTABLISHED,
        Some(State::DreqSent) => state::DISCONNECTING,
        Some(State::Timewait) => state::TIMEWAIT,
        Some(State::Closed) | None => state::CLOSED,
    };
    call.put(cm_id::LOCAL, &local)?;
    call.put(cm_id::PEER, &peer)?;
    call.put(cm_id::PARAMS, &params)?;
    call.put_array(cm_id::PRIVATE_DATA, &data[..len])?;
    call.put(cm_id::REASON, &reason)?;
    call.put(cm_id::STATE, &number)?;
    call.put(cm_id::PEER_QPN, &terms.remote_qpn)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let hardware = ending.device();
    let Some(Payload::CmId(mine)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let Some(cm) = hardware.cm.get() else { return Ok(()) };
    hardware.objects.lock().remove(Kind::CmId, mine.id.0);
    let listened = cm.ask(hardware, |manager, _, _| manager.state(mine.id)) == Some(State::Listening);
    retire(hardware, &cm, mine, ending.cause == Cause::Removed);
    if listened && ending.cause == Cause::Destroy {
        discard_waiting(ending, &cm, mine.id);
    }
    Ok(())
}

/// Its owner is gone: the queue pair's way ends, and the peer is told. `removed`: there is no hardware to tell.
pub(crate) fn retire<P: Platform>(hardware: &Hardware<P>, cm: &Cm<P>, mine: &CmId<P>, removed: bool) {
    {
        let mut inner = mine.inner.lock();
        if removed {
            inner.forget_qp();
        } else {
            inner.end(hardware);
        }
    }
    cm.ask(hardware, |manager, now, out| manager.release(now, mine.id, out));
}

/// What a listener was asked and nobody has decided about ends with it. Who has decided keeps what came of it.
fn discard_waiting<P: Platform>(ending: &Ending<'_, Verbena<P>>, cm: &Cm<P>, listener: Id) {
    let hardware = ending.device();
    ending.context.store().each(|object| {
        let Some(Payload::CmId(waiting)) = object.payload() else {
            return;
        };
        let of = cm.ask(hardware, |manager, _, _| manager.listener(waiting.id));
        if of != Some(listener) {
            return;
        }
        let object = hardware.objects.lock().get(Kind::CmId, waiting.id.0).cloned();
        if let Some(object) = object {
            // EBUSY: it is being decided about just now.
            let _ = ending.context.discard(&object);
        }
    });
}
