// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The communication manager at work: datagrams between it and QP 1, time, and its events to objects and queue pairs.
//!
//! [`arrived`] and [`tick`] are where everything happens that no call of a process asked for: datagrams come in, deadlines
//! pass, queue pairs of peers that answered are made ready ([`crate::work`]).
//!
//! Locks, in this order: an id's (`CmId::inner`), the manager's, QP 1's. Commands that move a queue pair are executed
//! under the id's lock, so a queue pair that is being destroyed is not moved any more.

use crate::cm_id::{CmId, Home, Inner};
use crate::driver::Payload;
use crate::gsi::{Gsi, Received, To, MAD};
use crate::hardware::Hardware;
use crate::node::{NodeContext, System};
use crate::node_cm::SystemId;
use crate::numbers::Kind;
use crate::platform::Platform;
use crate::qp::Qp;
use crate::work::Who;
use crate::{Context, Device, Verbena};
use core::sync::atomic::{AtomicU64, Ordering};
use rdma_cm::{ip, Config, Event, Id, Mad, Manager, Output, RejectReason, Route};
use rdma_uapi::class::event_queue::kind;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Arc, Mutex};
use rdma_uapi::Object;
use verbena_hw::id::Gid;
use zerocopy::{FromBytes, IntoBytes};

/// Ids of one HCA. A [`rdma_cm::connection::State`] and what hangs on it take less than a kilobyte each.
const MAX_IDS: u32 = 1 << 17;
/// What an MRA asks for, coded: 69 s, as Linux's rdma_cm.
const SERVICE_TIMEOUT: u8 = 24;
/// Hop limit of datagrams, and of paths unless a program says otherwise: as Linux's.
pub(crate) const HOP_LIMIT: u8 = 64;

/// The communication id that a queue pair is connected by.
#[derive(Default)]
pub(crate) struct Owner(AtomicU64);

impl Owner {
    /// Who it is.
    pub(crate) fn get(&self) -> Option<Id> {
        self.0.load(Ordering::Acquire).checked_sub(1).map(|id| Id(id as u32))
    }

    /// Takes the queue pair; `false` if somebody has.
    pub(crate) fn take(&self, id: Id) -> bool {
        let new = u64::from(id.0) + 1;
        self.0
            .compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives it back.
    pub(crate) fn leave(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// The communication manager of an HCA.
pub(crate) struct Cm<P: Platform> {
    pub(crate) gsi: Arc<Gsi<P>>,
    state: Mutex<Managing>,
}

struct Managing {
    manager: Manager,
    /// The deadline that work is due for.
    due: Option<u64>,
    random: u64,
}

/// Events of one step of the manager: a datagram ends at most two stories.
#[derive(Default)]
pub(crate) struct Events([Option<Event>; 2]);

struct Carrier<'a, P: Platform> {
    hardware: &'a Hardware<P>,
    gsi: &'a Gsi<P>,
    events: Events,
}

impl<P: Platform> Output for Carrier<'_, P> {
    fn send(&mut self, route: &Route, mad: &Mad) {
        let route = verbena_hw::grh::Route {
            sgid: Gid(route.local),
            dgid: Gid(route.remote),
            hop_limit: HOP_LIMIT,
            ..Default::default()
        };
        let mut bytes = [0; MAD];
        bytes.copy_from_slice(mad.as_bytes());
        // One that cannot be sent is one that was lost: it is repeated.
        self.gsi.send(self.hardware, &route, &To::default(), &bytes);
    }

    fn event(&mut self, event: Event) {
        let free = self.events.0.iter_mut().find(|place| place.is_none());
        *free.expect("a step of the manager has at most two events") = Some(event);
    }
}

impl<P: Platform> Cm<P> {
    fn start(hardware: &Hardware<P>) -> Outcome<Self> {
        let gsi = hardware.gsi()?;
        // Peers can only guess at it; what protects a connection is that its datagrams come from its peer's GID.
        let seed = hardware.platform.now() ^ hardware.events[0].ring_address().rotate_left(32);
        let config = Config {
            ca_guid: hardware.limits.node_guid,
            secret: mix(seed),
            max_ids: MAX_IDS,
            service_timeout: SERVICE_TIMEOUT,
            ack_delay: hardware.limits.local_ack_delay as u8,
        };
        let managing = Managing {
            manager: Manager::new(config),
            due: None,
            random: seed,
        };
        Ok(Cm {
            gsi,
            state: Mutex::try_new(managing, c"verbena_cm")?,
        })
    }

    /// Lets the manager do something; what happened is the caller's to handle, without its locks.
    pub(crate) fn with<R>(
        &self,
        hardware: &Hardware<P>,
        act: impl FnOnce(&mut Manager, u64, &mut dyn Output) -> R,
    ) -> (R, Events) {
        let mut carrier = Carrier {
            hardware,
            gsi: &self.gsi,
            events: Events::default(),
        };
        let mut state = self.state.lock();
        let now = hardware.platform.now();
        let result = act(&mut state.manager, now, &mut carrier);
        let next = state.manager.next_deadline();
        if next != state.due {
            state.due = next;
            // Under the lock, so that the last word is that of the last deadline.
            hardware.due(Who::Cm, next);
        }
        (result, carrier.events)
    }

    /// The same, for what has no events.
    pub(crate) fn ask<R>(
        &self,
        hardware: &Hardware<P>,
        act: impl FnOnce(&mut Manager, u64, &mut dyn Output) -> R,
    ) -> R {
        let (result, events) = self.with(hardware, act);
        debug_assert!(
            events.0.iter().all(Option::is_none),
            "a call of the owner makes no events"
        );
        result
    }

    /// Any number.
    pub(crate) fn random(&self) -> u32 {
        let mut state = self.state.lock();
        state.random = mix(state.random);
        (state.random >> 32) as u32
    }
}

/// The next number of a sequence in which each depends on all bits of the one before (the finaliser of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl<P: Platform> Hardware<P> {
    /// The communication manager; made, if it is not there.
    ///
    /// # Errors
    ///
    /// The device has no QP 1; no memory.
    pub(crate) fn cm(&self) -> Outcome<Arc<Cm<P>>> {
        self.cm.get_or(|| Cm::start(self))
    }
}

/// A datagram of the manager's class has arrived.
pub(crate) fn arrived<P: Platform>(device: &Device<P>, cm: &Cm<P>, received: &Received) {
    let Ok(mad) = Mad::ref_from_bytes(&received.mad) else {
        return;
    };
    let route = Route {
        local: received.route.dgid.0,
        remote: received.route.sgid.0,
    };
    let hardware = device.state();
    let ((), events) = cm.with(hardware, |manager, now, out| manager.receive(now, &route, mad, out));
    handle(device, cm, events);
}

/// Deadlines of the manager have passed, perhaps.
pub(crate) fn tick<P: Platform>(device: &Device<P>, cm: &Cm<P>) {
    loop {
        let hardware = device.state();
        let (more, events) = cm.with(hardware, |manager, now, out| manager.tick(now, out));
        handle(device, cm, events);
        if !more {
            break;
        }
    }
}

fn handle<P: Platform>(device: &Device<P>, cm: &Cm<P>, events: Events) {
    for event in events.0.into_iter().flatten() {
        happened(device, cm, event);
    }
}

/// An object of the system-wide node, and its id on one device.
pub(crate) struct OfNode<P: Platform> {
    pub(crate) object: Arc<Object<System<P>>>,
    pub(crate) id: Arc<CmId<P>>,
}

impl<P: Platform> Clone for OfNode<P> {
    fn clone(&self) -> Self {
        OfNode {
            object: self.object.clone(),
            id: self.id.clone(),
        }
    }
}

/// Who hears of an id.
enum Holder<P: Platform> {
    Device(Arc<Object<Verbena<P>>>),
    Node(OfNode<P>),
}

impl<P: Platform> Holder<P> {
    fn id(&self) -> &CmId<P> {
        match self {
            Holder::Device(object) => match object.payload() {
                Some(Payload::CmId(id)) => id,
                _ => unreachable!("communication ids' numbers lead to communication ids"),
            },
            Holder::Node(entry) => &entry.id,
        }
    }

    fn post(&self, kind: u16, data: u64) {
        match self {
            Holder::Device(object) => object.post(kind, data),
            Holder::Node(entry) => entry.object.post(kind, data),
        }
    }
}

/// Who hears of an id; `None` if it is being destroyed.
fn holder_of<P: Platform>(hardware: &Hardware<P>, id: Id) -> Option<Holder<P>> {
    if let Some(object) = hardware.objects.lock().get(Kind::CmId, id.0) {
        return Some(Holder::Device(object.clone()));
    }
    let entry = hardware.node_ids.lock().get(Kind::CmId, id.0).cloned();
    entry.map(Holder::Node)
}

fn happened<P: Platform>(device: &Device<P>, cm: &Cm<P>, event: Event) {
    let hardware = device.state();
    match event {
        Event::Requested { listener, id } => {
            if let Err(reason) = requested(hardware, cm, listener, id) {
                cm.ask(hardware, |manager, now, out| {
                    // The peer may have taken its request back meanwhile.
                    let _ = manager.reject(id, reason, &[], out);
                    manager.release(now, id, out);
                });
            }
        }
        Event::Replied { id } => {
            if let Some(holder) = holder_of(hardware, id) {
                replied(hardware, cm, &holder);
            }
        }
        Event::Established { id } => tell(hardware, id, kind::CM_ESTABLISHED, 0, |_, _| {}),
        Event::Rejected { id, reason } => tell(hardware, id, kind::CM_REJECTED, reason.0.into(), |mine, inner| {
            inner.reason = reason.0.into();
            inner.heard(cm, hardware, mine.id);
            inner.end(hardware);
        }),
        Event::Unreachable { id } => tell(hardware, id, kind::CM_UNREACHABLE, 0, |_, inner| inner.end(hardware)),
        Event::Disconnected { id } => tell(hardware, id, kind::CM_DISCONNECTED, 0, |_, inner| inner.end(hardware)),
        Event::TimewaitExit { id } => tell(hardware, id, kind::CM_TIMEWAIT_EXIT, 0, |_, _| {}),
    }
}

fn tell<P: Platform>(hardware: &Hardware<P>, id: Id, kind: u16, data: u64, act: impl FnOnce(&CmId<P>, &mut Inner<P>)) {
    if let Some(holder) = holder_of(hardware, id) {
        let mine = holder.id();
        act(mine, &mut mine.inner.lock());
        holder.post(kind, data);
    }
}

/// A peer asks for a connection: it becomes an object of the listener's context.
fn requested<P: Platform>(hardware: &Hardware<P>, cm: &Cm<P>, listener: Id, id: Id) -> Result<(), RejectReason> {
    let listening = holder_of(hardware, listener).ok_or(RejectReason::INVALID_SERVICE_ID)?;
    let child = CmId::requested(hardware, cm, listening.id(), id).ok_or(RejectReason::UNSUPPORTED)?;
    let new = match (&listening, &listening.id().home) {
        (Holder::Device(listening), Home::Device(context)) => {
            let object = Context::<P>::spawn(context, listening, |_| Ok(Payload::CmId(child)));
            let object = object.map_err(|_| RejectReason::NO_RESOURCES)?;
            if hardware.enlist(Kind::CmId, id.0, object.clone()).is_err() {
                // Nobody knows its id, so nobody uses it. Its release tells the peer.
                let _ = context.discard(&object);
                return Err(RejectReason::NO_RESOURCES);
            }
            object.id()
        }
        (
            Holder::Node(listening),
            Home::Node {
                context,
                arrival,
                device,
            },
        ) => {
            let make = |_| SystemId::requested(*arrival, device, &child);
            let object = NodeContext::<P>::spawn(context, &listening.object, make);
            let object = object.map_err(|_| RejectReason::NO_RESOURCES)?;
            let entry = OfNode {
                object: object.clone(),
                id: child.clone(),
            };
            if hardware.node_ids.lock().insert(Kind::CmId, id.0, entry).is_err() {
                let _ = context.discard(&object);
                return Err(RejectReason::NO_RESOURCES);
            }
            object.id()
        }
        _ => unreachable!("an id's home is where its object is"),
    };
    listening.post(kind::CM_CONNECT_REQUEST, new.0.into());
    Ok(())
}

/// The peer agreed: the queue pair is made ready, then the peer is told.
fn replied<P: Platform>(hardware: &Hardware<P>, cm: &Cm<P>, holder: &Holder<P>) {
    let mine = holder.id();
    let mut inner = mine.inner.lock();
    inner.heard(cm, hardware, mine.id);
    let connected = inner.make_ready(hardware, cm, mine.id).and_then(|()| {
        cm.ask(hardware, |manager, _, out| manager.ready(mine.id, out))
            .map_err(|_| RejectReason::TIMEOUT)
    });
    match connected {
        Ok(()) => holder.post(kind::CM_ESTABLISHED, 0),
        Err(reason) => {
            inner.end(hardware);
            // In another state the peer has ended it meanwhile, and that is told by an event of its own.
            let ended = cm.ask(hardware, |manager, _, out| manager.reject(mine.id, reason, &[], out));
            if ended.is_ok() {
                holder.post(kind::CM_CONNECT_ERROR, 0);
            }
        }
    }
}

/// A queue pair is about to be destroyed: its connection, if it has one, ends.
pub(crate) fn queue_pair_goes<P: Platform>(hardware: &Hardware<P>, queue_pair: &Qp<P>) {
    let Some(id) = queue_pair.owner.get() else { return };
    let (Some(cm), Some(holder)) = (hardware.cm.get(), holder_of(hardware, id)) else {
        return;
    };
    let mut inner = holder.id().inner.lock();
    inner.forget_qp();
    cm.ask(hardware, |manager, now, out| {
        // If it is not connected, it never will be: there is no queue pair to make ready.
        let _ = manager.disconnect(now, id, out);
    });
}

/// The port that a service id means.
pub(crate) fn port_of(service: u64) -> u16 {
    ip::port(service).unwrap_or(0)
}
