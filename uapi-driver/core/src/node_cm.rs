// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! CM_ID on the system-wide node: a communication id that belongs to no device until it is bound, asks, or is asked.
//!
//! Behind it stand as many ids of devices' managers as there are devices that it is on: none while it is new, one when it
//! is bound to an address or connects, one a device when it is bound to all addresses. They are what the class does on a
//! device's own file ([`crate::cm_id`]); only who owns them differs. One that is not on a device of ours may be on one whose
//! communication manager is another's ([`crate::foreign`]); one for all is on all of both kinds.
//!
//! Locks, in this order: the roster's list of ids that are on all devices, an id's `standing`, then those of
//! [`crate::cm`]. Whatever touches a device is between its gate ([`rdma_uapi::Device::enter`]), so that a removal waits for it.

use crate::cm::{self, Cm};
use crate::cm_id::{self, CmId, Home};
use crate::foreign::Served;
use crate::node::{NodeContext, NodeHost as _, Roster, System};
use crate::numbers::Kind;
use crate::platform::Platform;
use crate::{Device, Verbena};
use rdma_cm::Error;
use rdma_uapi::class::cm_id::{self as class_cm_id, state, CmAddress};
use rdma_uapi::class::{self, event_queue::kind};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Arc, Mutex, Vec};
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Call, Cause, Ending, Errno, Failure, Host as _, Object, ObjectRef, Reason};
use verbena_hw::id::Gid;

type Handling<'c, P> = Call<'c, System<P>>;

/// An id on one device.
pub(crate) struct Part<P: Platform> {
    arrival: u64,
    device: Arc<Device<P>>,
    id: Arc<CmId<P>>,
}

/// A communication id of the node.
pub struct SystemId<P: Platform>(Mutex<Standing<P>>);

struct Standing<P: Platform> {
    parts: Vec<Part<P>>,
    /// It is on a device, or all, of another manager.
    foreign: Option<Served<P>>,
    /// It is on every device, also on those that come.
    everywhere: bool,
    local: CmAddress,
    backlog: Option<u32>,
}

impl<P: Platform> SystemId<P> {
    fn try_new() -> Outcome<Self> {
        let standing = Standing {
            parts: Vec::new(),
            foreign: None,
            everywhere: false,
            local: CmAddress::default(),
            backlog: None,
        };
        Ok(SystemId(Mutex::try_new(standing, c"verbena_system_id")?))
    }

    /// A listener's new connection, on the device that it was asked on.
    pub(crate) fn requested(arrival: u64, device: &Arc<Device<P>>, id: &Arc<CmId<P>>) -> Outcome<Self> {
        let new = Self::try_new()?;
        new.0.lock().parts.push(Part {
            arrival,
            device: device.clone(),
            id: id.clone(),
        })?;
        Ok(new)
    }

    /// The same, on another manager's device. Takes it if it succeeds.
    pub(crate) fn foreign_of(served: &mut Option<Served<P>>) -> Outcome<Self> {
        let new = Self::try_new()?;
        new.0.lock().foreign = served.take();
        Ok(new)
    }

    /// What `f` says of its id with another manager, if that is all it has.
    pub(crate) fn foreign<R>(&self, f: impl FnOnce(&Served<P>) -> R) -> Option<R> {
        let standing = self.0.lock();
        match &standing.foreign {
            Some(served) if !standing.everywhere => Some(f(served)),
            _ => None,
        }
    }
}

/// An id that is on every device.
pub(crate) struct Everywhere<P: Platform> {
    port: u16,
    object: Arc<Object<System<P>>>,
    context: Arc<NodeContext<P>>,
}

fn system_id<P: Platform>(object: &Object<System<P>>) -> &SystemId<P> {
    match object.payload() {
        Some(id) => id,
        None => unreachable!("the class is the only one with objects of the driver's"),
    }
}

fn bad_state() -> Failure {
    Failure::new(Errno::EINVAL, Reason::BAD_STATE)
}

fn manager<P: Platform>(device: &Device<P>) -> Arc<Cm<P>> {
    let cm = device.state().cm.get();
    cm.expect("the id was made with it")
}

/// An id of a device's manager for an object of the node. Inside the device's gate.
fn part<P: Platform>(
    object: &Arc<Object<System<P>>>,
    context: &Arc<NodeContext<P>>,
    arrival: u64,
    device: &Arc<Device<P>>,
) -> Outcome<Part<P>> {
    let hardware = device.state();
    let cm = hardware.cm()?;
    let home = Home::Node {
        context: context.clone(),
        arrival,
        device: device.clone(),
    };
    let id = CmId::create(hardware, &cm, home)?;
    let entry = cm::OfNode {
        object: object.clone(),
        id: id.clone(),
    };
    let listed = hardware.node_ids.lock().insert(Kind::CmId, id.id.0, entry);
    let part = Part {
        arrival,
        device: device.clone(),
        id,
    };
    match listed {
        Ok(()) => Ok(part),
        Err(no_memory) => {
            retire(&part);
            Err(no_memory.into())
        }
    }
}

/// Ends an id of a device; if the device is gone, there is nobody to tell.
fn retire<P: Platform>(part: &Part<P>) {
    let hardware = part.device.state();
    hardware.node_ids.lock().remove(Kind::CmId, part.id.id.0);
    match part.device.enter() {
        Ok(_pass) => cm_id::retire(hardware, &manager(&part.device), &part.id, false),
        Err(_) => part.id.inner.lock().forget_qp(),
    }
}

fn retire_all<P: Platform>(parts: &mut Vec<Part<P>>) {
    while let Some(part) = parts.pop() {
        retire(&part);
    }
}

/// The id on every device there is, bound to this port.
fn parts_everywhere<P: Platform>(
    roster: &Roster<P>,
    object: &Arc<Object<System<P>>>,
    context: &Arc<NodeContext<P>>,
    port: u16,
) -> Result<Vec<Part<P>>, Result<Error, Failure>> {
    let mut parts = Vec::new();
    let result = roster.each(|arrival, device| {
        // One that goes just now is not listed any more soon.
        let Ok(_pass) = device.enter() else { return Ok(()) };
        let new = part(object, context, arrival, device).map_err(Err)?;
        if let Err(error) = cm_id::take_port(device.state(), &manager(device), &new.id, port) {
            retire(&new);
            return Err(Ok(error));
        }
        let (id, listed) = (new.id.clone(), device.clone());
        parts.push(new).map_err(|no_memory| {
            retire(&Part {
                arrival,
                device: listed,
                id,
            });
            Err(no_memory.into())
        })
    });
    match result {
        Ok(()) => Ok(parts),
        Err(why) => {
            retire_all(&mut parts);
            Err(why)
        }
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let reservation = call.reserve()?;
    let new = SystemId::try_new()?;
    call.publish(reservation, Some(new), &[]);
    Ok(())
}

pub(crate) fn bind<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let mut wanted = call.get(class_cm_id::LOCAL)?.unwrap_or_default();
    if wanted.reserved != [0; 6] {
        return Err(call.fail(class_cm_id::LOCAL, Errno::EINVAL, Reason::NOT_ZERO));
    }
    let object = call.object().share();
    let roster = call.device();
    {
        let mut all = roster.everywhere.lock();
        let mut standing = system_id(&object).0.lock();
        if !standing.parts.is_empty() || standing.everywhere || standing.foreign.is_some() {
            return Err(bad_state());
        }
        if wanted.gid == [0; 16] {
            all.reserve(1)?;
            let (port, parts, foreign) = bind_everywhere(call, &all, &object, wanted.port)?;
            wanted.port = port;
            standing.parts = parts;
            standing.foreign = foreign;
            standing.everywhere = true;
            let pushed = all.push(Everywhere {
                port,
                object: object.clone(),
                context: call.context().clone(),
            });
            debug_assert!(pushed.is_ok(), "there was room for it");
        } else {
            standing.parts.reserve(1)?;
            match bind_to_address(call, &object, &wanted)? {
                Some((new, port)) => {
                    wanted.port = port;
                    let pushed = standing.parts.push(new);
                    debug_assert!(pushed.is_ok(), "there was room for it");
                }
                None => {
                    let served = bind_foreign(call, &object, &wanted)?;
                    let (served, local) = served.ok_or_else(|| address_failure(call, Errno::EADDRNOTAVAIL))?;
                    wanted = local;
                    standing.foreign = Some(served);
                }
            }
        }
        standing.local = wanted;
    }
    call.put(class_cm_id::LOCAL, &wanted)
}

fn in_use<P: Platform>(call: &Handling<'_, P>) -> Failure {
    call.fail(class_cm_id::LOCAL, Errno::EADDRINUSE, Reason::IN_USE)
}

/// Another manager does not take the address.
fn address_failure<P: Platform>(call: &Handling<'_, P>, errno: Errno) -> Failure {
    match errno {
        Errno::EADDRNOTAVAIL => call.fail(class_cm_id::LOCAL, errno, Reason::OUT_OF_RANGE),
        Errno::EADDRINUSE => in_use(call),
        Errno::ENOMEM => Failure::NO_MEMORY,
        _ => call.fail(class_cm_id::LOCAL, errno, Reason::NONE),
    }
}

/// An id of another manager with this address; `None` if there is no other manager.
fn bind_foreign<P: Platform>(
    call: &Handling<'_, P>,
    object: &Arc<Object<System<P>>>,
    wanted: &CmAddress,
) -> Outcome<Option<(Served<P>, CmAddress)>> {
    let Some(served) = Served::create(call, object)? else {
        return Ok(None);
    };
    let local = served.bind(wanted).map_err(|errno| address_failure(call, errno))?;
    Ok(Some((served, local)))
}

/// What an id for all is on.
type Everything<P> = (u16, Vec<Part<P>>, Option<Served<P>>);

fn bind_everywhere<P: Platform>(
    call: &Handling<'_, P>,
    all: &Vec<Everywhere<P>>,
    object: &Arc<Object<System<P>>>,
    wanted: u16,
) -> Outcome<Everything<P>> {
    let roster = call.device();
    let take = |port: u16| {
        // Where there is no device, nobody else knows of them.
        if all.iter().any(|other| other.port == port) {
            return Err(Ok(Error::AddressInUse));
        }
        let mut parts = parts_everywhere(roster, object, call.context(), port)?;
        let any = CmAddress {
            port,
            ..CmAddress::default()
        };
        match bind_foreign(call, object, &any) {
            Ok(foreign) => Ok((port, parts, foreign.map(|(served, _)| served))),
            Err(failure) => {
                retire_all(&mut parts);
                Err(match failure.errno {
                    Errno::EADDRINUSE => Ok(Error::AddressInUse),
                    _ => Err(failure),
                })
            }
        }
    };
    if wanted != 0 {
        return take(wanted).map_err(|why| match why {
            Ok(error) => cm_id::failure(call, error, class_cm_id::LOCAL),
            Err(failure) => failure,
        });
    }
    let first = call.host().moment().time as u32;
    for port in cm_id::dynamic_ports(first) {
        match take(port) {
            Ok(everything) => return Ok(everything),
            Err(Ok(Error::AddressInUse)) => {}
            Err(Ok(error)) => return Err(cm_id::failure(call, error, class_cm_id::LOCAL)),
            Err(Err(failure)) => return Err(failure),
        }
    }
    Err(in_use(call))
}

/// `None`: no device of ours has it.
fn bind_to_address<P: Platform>(
    call: &Handling<'_, P>,
    object: &Arc<Object<System<P>>>,
    wanted: &CmAddress,
) -> Outcome<Option<(Part<P>, u16)>> {
    let mut found = None;
    call.device().each(|arrival, device| -> Outcome {
        if found.is_some() {
            return Ok(());
        }
        let Ok(_pass) = device.enter() else { return Ok(()) };
        let hardware = device.state();
        let gsi = hardware.gsi()?;
        if gsi.gid_index(hardware, &Gid(wanted.gid)).is_none() {
            return Ok(());
        }
        let new = part(object, call.context(), arrival, device)?;
        match cm_id::bind_to(call, hardware, &manager(device), &new.id, wanted) {
            Ok(port) => found = Some((new, port)),
            Err(failure) => {
                retire(&new);
                return Err(failure);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

pub(crate) fn listen<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let backlog = call.require(class_cm_id::BACKLOG)?;
    let object = call.object().share();
    let mut standing = system_id(&object).0.lock();
    let everywhere = standing.everywhere;
    if standing.parts.is_empty() && !everywhere && standing.foreign.is_none() {
        return Err(bad_state());
    }
    // First: it may refuse, and says what the state is.
    if let Some(served) = &standing.foreign {
        served.listen(call, backlog)?;
    }
    for part in standing.parts.iter() {
        let pass = part.device.enter();
        match pass {
            Ok(_pass) => cm_id::listen_on(part.device.state(), &manager(&part.device), &part.id, backlog)
                .map_err(|error| cm_id::failure(call, error, class_cm_id::BACKLOG))?,
            Err(_) if everywhere => {}
            Err(gone) => return Err(gone),
        }
    }
    standing.backlog = Some(backlog);
    Ok(())
}

/// The queue pair of a message: an object of the context whose file `device_fd` names.
struct Named<P: Platform> {
    context: Arc<crate::Context<P>>,
    id: ObjectId,
}

impl<P: Platform> Named<P> {
    fn of(call: &Handling<'_, P>) -> Outcome<Self> {
        let fd = call.require(class_cm_id::DEVICE_FD)?;
        let id = call.require(class_cm_id::QP)?;
        let context = call.host().context(call.context().owner(), fd);
        let context = context.map_err(|errno| call.fail(class_cm_id::DEVICE_FD, errno, Reason::NO_OBJECT))?;
        Ok(Named { context, id })
    }

    /// Takes hold of it. Inside the context's gate.
    fn hold(&self, call: &Handling<'_, P>) -> Outcome<ObjectRef<Verbena<P>>> {
        let held = self.context.store().get_of(self.id, &[class::QP_RC]);
        held.map_err(|why| Failure {
            detail: why.detail,
            ..call.fail(class_cm_id::QP, why.errno, why.reason)
        })
    }
}

/// It has another device than the id.
fn elsewhere<P: Platform>(call: &Handling<'_, P>) -> Failure {
    call.fail(class_cm_id::DEVICE_FD, Errno::EXDEV, Reason::WRONG_FD)
}

pub(crate) fn connect<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let named = match Named::of(call) {
        Ok(named) => named,
        Err(not_ours) if not_ours.errno == Errno::EBADF => return connect_foreign(call, not_ours),
        Err(failure) => return Err(failure),
    };
    let _pass = named.context.enter()?;
    let qp = named.hold(call)?;
    let device = named.context.device();
    let object = call.object().share();
    let (roster, context) = (call.device(), call.context().clone());
    let mut all = roster.everywhere.lock();
    let mut standing = system_id(&object).0.lock();
    if standing.everywhere && standing.backlog.is_some() {
        return Err(bad_state());
    }
    let place = standing.parts.iter().position(|part| Arc::ptr_eq(&part.device, device));
    let (id, new) = match place {
        Some(place) => (standing.parts[place].id.clone(), false),
        None if !standing.parts.is_empty() || standing.foreign.is_some() || standing.everywhere => {
            return Err(elsewhere(call));
        }
        None => {
            let arrival = roster.arrival(device).ok_or_else(|| elsewhere(call))?;
            standing.parts.reserve(1)?;
            let new = part(&object, &context, arrival, device)?;
            let id = new.id.clone();
            let pushed = standing.parts.push(new);
            debug_assert!(pushed.is_ok(), "there was room for it");
            (id, true)
        }
    };
    let cm = manager(device);
    if let Err(failure) = cm_id::connect_with(call, device.state(), &cm, &id, &qp) {
        if new {
            retire_all(&mut standing.parts);
        }
        return Err(failure);
    }
    if standing.everywhere {
        // It is on one device from now on.
        while let Some(other) = standing.parts.iter().position(|part| !Arc::ptr_eq(&part.id, &id)) {
            retire(&standing.parts.swap_remove(other));
        }
        standing.foreign = None;
        standing.everywhere = false;
        leave(&mut all, &object);
    }
    Ok(())
}

/// CONNECT with a queue pair that is no object of a file of ours.
fn connect_foreign<P: Platform>(call: &mut Handling<'_, P>, not_ours: Failure) -> Outcome {
    let object = call.object().share();
    let roster = call.device();
    let mut all = roster.everywhere.lock();
    let mut standing = system_id(&object).0.lock();
    if !standing.everywhere {
        if let Some(served) = &standing.foreign {
            return served.connect(call);
        }
        if !standing.parts.is_empty() {
            return Err(not_ours);
        }
        let served = Served::create(call, &object)?.ok_or(not_ours)?;
        served.connect(call)?;
        standing.foreign = Some(served);
        return Ok(());
    }
    if standing.backlog.is_some() || standing.foreign.is_none() {
        return Err(if standing.backlog.is_some() {
            bad_state()
        } else {
            not_ours
        });
    }
    // It keeps its port, which two of them cannot have.
    let any = standing.local;
    standing.foreign = None;
    let served = Served::create(call, &object)?.ok_or(not_ours)?;
    match served.connect_from(call, any.port) {
        Ok(()) => {
            retire_all(&mut standing.parts);
            standing.foreign = Some(served);
            standing.everywhere = false;
            leave(&mut all, &object);
            Ok(())
        }
        Err(failure) => {
            drop(served);
            // Where somebody has taken the port meanwhile, it is not on those devices any more.
            standing.foreign = bind_foreign(call, &object, &any)?.map(|(served, _)| served);
            Err(failure)
        }
    }
}

/// The object is not on every device any more.
fn leave<P: Platform>(all: &mut Vec<Everywhere<P>>, object: &Object<System<P>>) {
    let place = all.iter().position(|other| core::ptr::eq(&*other.object, object));
    if let Some(place) = place {
        all.swap_remove(place);
    }
}

/// The one device that the object is on.
fn only<P: Platform>(standing: &Standing<P>) -> Outcome<&Part<P>> {
    match (&*standing.parts, standing.everywhere) {
        ([part], false) => Ok(part),
        _ => Err(bad_state()),
    }
}

pub(crate) fn accept<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let object = call.object().share();
    if let Some(accepted) = system_id(&object).foreign(|served| served.accept(call)) {
        return accepted;
    }
    let named = Named::of(call)?;
    let _pass = named.context.enter()?;
    let qp = named.hold(call)?;
    let standing = system_id(&object).0.lock();
    let Part { device, id, .. } = only(&standing)?;
    if !Arc::ptr_eq(device, named.context.device()) {
        return Err(elsewhere(call));
    }
    cm_id::accept_with(call, device.state(), &manager(device), id, &qp)
}

pub(crate) fn reject<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let object = call.object().share();
    if let Some(done) = system_id(&object).foreign(|served| served.reject(call)) {
        return done;
    }
    let standing = system_id(&object).0.lock();
    let Part { device, id, .. } = only(&standing)?;
    let _pass = device.enter()?;
    cm_id::reject_with(call, device.state(), &manager(device), id)
}

pub(crate) fn disconnect<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let object = call.object().share();
    if let Some(done) = system_id(&object).foreign(|served| served.disconnect(call)) {
        return done;
    }
    let standing = system_id(&object).0.lock();
    let Part { device, id, .. } = only(&standing)?;
    let _pass = device.enter()?;
    cm_id::disconnect_with(call, device.state(), &manager(device), id)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let object = call.object().share();
    if let Some(answered) = system_id(&object).foreign(|served| served.query(call)) {
        return answered;
    }
    let standing = system_id(&object).0.lock();
    if let Ok(Part { device, id, arrival }) = only(&standing) {
        let _pass = device.enter()?;
        call.put(class_cm_id::DEVICE, arrival)?;
        return cm_id::query_with(call, device.state(), &manager(device), id);
    }
    let number = match (standing.everywhere, standing.backlog) {
        (true, Some(_)) => state::LISTENING,
        (true, None) => state::BOUND,
        (false, _) => state::IDLE,
    };
    call.put(class_cm_id::LOCAL, &standing.local)?;
    call.put(class_cm_id::STATE, &number)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, System<P>>) -> Outcome {
    let (mut parts, foreign) = {
        let mut all = ending.device().everywhere.lock();
        leave(&mut all, ending.object);
        let mut standing = system_id(ending.object).0.lock();
        let mut parts = Vec::new();
        core::mem::swap(&mut parts, &mut standing.parts);
        (parts, standing.foreign.take())
    };
    if let Some(served) = foreign {
        served.end(ending.context, |waiting| {
            if ending.cause == Cause::Destroy {
                // EBUSY: it is being decided about just now.
                let _ = ending.context.discard(waiting);
            }
        });
    }
    while let Some(part) = parts.pop() {
        retire(&part);
        if ending.cause == Cause::Destroy {
            discard_waiting(ending, &part);
        }
    }
    Ok(())
}

/// What a listener was asked and nobody has decided about ends with it, as on a device's own file.
fn discard_waiting<P: Platform>(ending: &Ending<'_, System<P>>, listener: &Part<P>) {
    let hardware = listener.device.state();
    let Ok(_pass) = listener.device.enter() else { return };
    let cm = manager(&listener.device);
    ending.context.store().each(|object| {
        let waiting = match object.payload() {
            Some(waiting) => match only(&waiting.0.lock()) {
                Ok(Part { device, id, .. }) if Arc::ptr_eq(device, &listener.device) => id.id,
                _ => return,
            },
            None => return,
        };
        if cm.ask(hardware, |manager, _, _| manager.listener(waiting)) != Some(listener.id.id) {
            return;
        }
        let found = hardware.node_ids.lock().get(Kind::CmId, waiting.0).cloned();
        if let Some(found) = found {
            // EBUSY: it is being decided about just now.
            let _ = ending.context.discard(&found.object);
        }
    });
}

/// A device has come: ids that are on every device are on this one, too.
pub(crate) fn device_added<P: Platform>(roster: &Roster<P>, arrival: u64, device: &Arc<Device<P>>) {
    for everywhere in roster.everywhere.lock().iter() {
        let mut standing = system_id(&everywhere.object).0.lock();
        if let Err(failure) = extend(&mut standing, everywhere, arrival, device) {
            device.host().log(format_args!(
                "a communication id that is bound to port {} of all devices is not on this one: {failure}",
                everywhere.port
            ));
        }
    }
}

fn extend<P: Platform>(
    standing: &mut Standing<P>,
    everywhere: &Everywhere<P>,
    arrival: u64,
    device: &Arc<Device<P>>,
) -> Outcome {
    let _pass = device.enter()?;
    standing.parts.reserve(1)?;
    let new = part(&everywhere.object, &everywhere.context, arrival, device)?;
    let hardware = device.state();
    let cm = manager(device);
    let mut ready = cm_id::take_port(hardware, &cm, &new.id, everywhere.port);
    if let (Ok(()), Some(backlog)) = (ready, standing.backlog) {
        ready = cm_id::listen_on(hardware, &cm, &new.id, backlog);
    }
    if ready.is_err() {
        retire(&new);
        return Err(Failure::new(Errno::EADDRINUSE, Reason::IN_USE));
    }
    let pushed = standing.parts.push(new);
    debug_assert!(pushed.is_ok(), "there was room for it");
    Ok(())
}

/// A device is not listed any more: ids that are on every device are not on this one.
pub(crate) fn device_unlisted<P: Platform>(roster: &Roster<P>, device: &Arc<Device<P>>) {
    for everywhere in roster.everywhere.lock().iter() {
        let mut standing = system_id(&everywhere.object).0.lock();
        let place = standing.parts.iter().position(|part| Arc::ptr_eq(&part.device, device));
        if let Some(place) = place {
            retire(&standing.parts.swap_remove(place));
        }
    }
}

/// A device is gone, and nobody is inside its gate any more: what was connected is not, and ids that are on no other device
/// report it. They keep their place until they are destroyed; calls on them are ENODEV.
pub(crate) fn device_gone<P: Platform>(device: &Device<P>) {
    let mut table = crate::numbers::Numbers::new();
    core::mem::swap(&mut table, &mut *device.state().node_ids.lock());
    table.each(|entry: cm::OfNode<P>| {
        entry.id.inner.lock().forget_qp();
        if only(&system_id(&entry.object).0.lock()).is_ok() {
            entry.object.post(kind::CM_DEVICE_REMOVAL, 0);
        }
    });
}
