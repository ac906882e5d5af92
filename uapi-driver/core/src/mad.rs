// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! MAD: clients of management classes on QP 1.
//!
//! What arrives is an answer, which finds its request by the transaction id, or a request, which finds the client that serves it
//! (IBA vol. 1, 13.4.2: the header; 13.4.5: methods). What finds nobody is dropped.
//!
//! Locks, in this order: the list of clients, a client's, QP 1's. [`tick`] holds the list while it sends again what nobody has
//! answered; everything else lets go of it first.

use crate::driver::{Handling, Payload};
use crate::gsi::{Gsi, Received, To, MAD};
use crate::hardware::Hardware;
use crate::platform::Platform;
use crate::qp_attrs::checked_path;
use crate::work::Who;
use crate::Verbena;
use core::sync::atomic::Ordering;
use rdma_uapi::class::event_queue::kind;
use rdma_uapi::class::mad::{self, status, MadMethods, MadReceived};
use rdma_uapi::class::qp;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{allocated, try_arc, try_box, Arc, Box, Mutex, NoMemory, Vec};
use rdma_uapi::{Ending, Errno, Failure, Object, Reason};
use verbena_hw::grh::Route;
use verbena_hw::id::{Gid, Qpn};
use verbena_hw::qp::GSI_QKEY;
use zerocopy::IntoBytes;

/// Clients of one HCA: each datagram looks through them.
const MAX_CLIENTS: usize = 1024;
/// Vendors' classes whose datagrams name the vendor (IBA vol. 1, 16.5.1).
const VENDOR_CLASSES: core::ops::RangeInclusive<u8> = 0x30..=0x4f;
/// Where the vendor stands in them.
const OUI_AT: usize = 37;
/// The base version (IBA vol. 1, 13.4.2).
const BASE_VERSION: u8 = 1;
/// Baseboard management, whose answers are marked in the attribute modifier (IBA vol. 1, 16.2).
const BASEBOARD: u8 = 5;
/// Subnet management, by LID and directed route: QP 0's, which no Ethernet port has.
const SUBNET: [u8; 2] = [0x01, 0x81];
/// The method's bit that says that it is an answer.
const RESPONSE: u8 = 0x80;
/// TrapRepress: answers a trap, without the bit.
const TRAP_REPRESS: u8 = 7;

/// A datagram's header, by offset.
struct Header<'a>(&'a [u8; MAD]);

impl Header<'_> {
    fn base_version(&self) -> u8 {
        self.0[0]
    }

    fn class(&self) -> u8 {
        self.0[1]
    }

    fn version(&self) -> u8 {
        self.0[2]
    }

    fn method(&self) -> u8 {
        self.0[3]
    }

    fn tid(&self) -> u64 {
        let mut tid = [0; 8];
        tid.copy_from_slice(&self.0[8..16]);
        u64::from_be_bytes(tid)
    }

    fn is_response(&self) -> bool {
        self.method() & RESPONSE != 0
            || self.method() == TRAP_REPRESS
            || self.class() == BASEBOARD && self.0[23] & 1 != 0
    }

    fn oui(&self) -> u32 {
        u32::from_be_bytes([0, self.0[OUI_AT], self.0[OUI_AT + 1], self.0[OUI_AT + 2]])
    }
}

/// What a client serves.
struct Registration {
    class: u8,
    version: u8,
    methods: u128,
    oui: u32,
}

impl Registration {
    fn serves(&self, header: &Header<'_>) -> bool {
        self.class == header.class()
            && self.version == header.version()
            && self.methods >> header.method() & 1 != 0
            && (!VENDOR_CLASSES.contains(&self.class) || self.oui == header.oui())
    }

    fn conflicts(&self, other: &Registration) -> bool {
        (self.class, self.version, self.oui) == (other.class, other.version, other.oui)
            && self.methods & other.methods != 0
    }
}

/// A datagram that waits to be taken, or a request whose answer is awaited.
struct Entry {
    record: MadReceived,
    to: To,
    /// When its time is over.
    due: u64,
    /// Nanoseconds that it has each time.
    time: u64,
    retries: u32,
}

impl Entry {
    fn tid(&self) -> u64 {
        Header(&self.record.datagram).tid()
    }

    fn route(&self) -> Route {
        Route {
            sgid: Gid(self.record.local_gid),
            dgid: Gid(self.record.gid),
            flow_label: self.record.flow_label,
            traffic_class: self.record.traffic_class,
            hop_limit: self.record.hop_limit,
        }
    }
}

/// What changes of a client. Waiting and awaited are never more than the ring has places.
struct Inner {
    /// A ring: what waits, oldest first.
    ring: Vec<Option<Box<Entry>>>,
    first: usize,
    waiting: usize,
    awaited: Vec<Box<Entry>>,
    lost: u64,
}

impl Inner {
    fn is_full(&self) -> bool {
        self.waiting + self.awaited.len() >= self.ring.len()
    }

    fn push(&mut self, entry: Box<Entry>) {
        let place = (self.first + self.waiting) % self.ring.len();
        self.ring[place] = Some(entry);
        self.waiting += 1;
    }

    /// Puts back what [`Inner::pop`] has just given. `false`: something else has its place by now.
    fn unpop(&mut self, entry: Box<Entry>) -> bool {
        if self.is_full() {
            return false;
        }
        self.first = (self.first + self.ring.len() - 1) % self.ring.len();
        self.ring[self.first] = Some(entry);
        self.waiting += 1;
        true
    }

    fn pop(&mut self) -> Option<Box<Entry>> {
        let entry = self.ring[self.first].take()?;
        self.first = (self.first + 1) % self.ring.len();
        self.waiting -= 1;
        Some(entry)
    }
}

/// A client of a management class.
pub struct Client {
    registration: Registration,
    /// The upper half of its transaction ids.
    number: u32,
    inner: Mutex<Inner>,
}

impl Client {
    /// Bytes of kernel memory that it takes now.
    pub(crate) fn bytes(&self) -> usize {
        let inner = self.inner.lock();
        let entries = inner.waiting + inner.awaited.len();
        rdma_uapi::sys::arc_bytes::<Self>()
            + allocated(inner.ring.len() * size_of::<Option<Box<Entry>>>()) * 2
            + entries * allocated(size_of::<Entry>())
    }
}

/// The clients of an HCA.
pub(crate) type Clients<P> = Mutex<Vec<Arc<Object<Verbena<P>>>>>;

fn client_of<P: Platform>(object: &Object<Verbena<P>>) -> &Arc<Client> {
    match object.payload() {
        Some(Payload::Mad(client)) => client,
        _ => unreachable!("the list has clients only"),
    }
}

fn own<P: Platform>(call: &Handling<'_, P>) -> Arc<Client> {
    match call.payload() {
        Payload::Mad(client) => client.clone(),
        _ => unreachable!("the dispatcher checked the class"),
    }
}

fn registration<P: Platform>(call: &Handling<'_, P>) -> Outcome<Registration> {
    let class = u8::try_from(call.require(mad::MGMT_CLASS)?)
        .ok()
        .filter(|class| (3..=0x80).contains(class) && !SUBNET.contains(class))
        .ok_or_else(|| call.out_of_range(mad::MGMT_CLASS))?;
    if class == rdma_cm::mad::CLASS {
        return Err(call.fail(mad::MGMT_CLASS, Errno::EBUSY, Reason::TAKEN));
    }
    let version = call.get(mad::CLASS_VERSION)?.unwrap_or(1);
    let version = u8::try_from(version).map_err(|_| call.out_of_range(mad::CLASS_VERSION))?;
    let methods = call.get(mad::METHODS)?.unwrap_or_default();
    let methods = u128::from(methods.high) << 64 | u128::from(methods.low);
    // What answers finds its request; nobody serves it.
    if methods >> TRAP_REPRESS & 1 != 0 {
        return Err(call.out_of_range(mad::METHODS));
    }
    let oui = match (VENDOR_CLASSES.contains(&class), call.get(mad::OUI)?) {
        (true, Some(oui)) if (1..1 << 24).contains(&oui) => oui,
        (true, None) => return Err(call.fail(mad::OUI, Errno::EINVAL, Reason::MISSING)),
        (true, Some(_)) => return Err(call.out_of_range(mad::OUI)),
        (false, None) => 0,
        (false, Some(_)) => return Err(call.fail(mad::OUI, Errno::EINVAL, Reason::NOT_ALLOWED)),
    };
    Ok(Registration {
        class,
        version,
        methods,
        oui,
    })
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let registration = registration(call)?;
    let capacity = call.get(mad::CAPACITY)?.unwrap_or(mad::DEFAULT_CAPACITY);
    if !(1..=mad::MAX_CAPACITY).contains(&capacity) {
        return Err(call.out_of_range(mad::CAPACITY));
    }
    hardware.gsi()?;
    let mut ring = Vec::new();
    ring.reserve(capacity as usize)?;
    for _ in 0..capacity {
        ring.push(None)?;
    }
    let mut awaited = Vec::new();
    awaited.reserve(capacity as usize)?;
    let inner = Inner {
        ring,
        first: 0,
        waiting: 0,
        awaited,
        lost: 0,
    };
    // Zero is nobody's. Four thousand million clients later a number is used again.
    let number = loop {
        match hardware.mad_numbers.fetch_add(1, Ordering::Relaxed) {
            0 => {}
            number => break number,
        }
    };
    let client = try_arc(Client {
        registration,
        number,
        inner: Mutex::try_new(inner, c"verbena_mad")?,
    })?;
    let reservation = call.reserve()?;
    let object = call.publish(reservation, Some(Payload::Mad(client.clone())), &[]);
    // From here on the dispatcher ends it if anything fails, which takes it off the list.
    {
        let mut clients = hardware.mads.lock();
        if clients.len() >= MAX_CLIENTS {
            return Err(Failure::new(Errno::ENOSPC, Reason::TOO_MANY_OBJECTS));
        }
        let mine = &client.registration;
        if clients
            .iter()
            .any(|other| client_of(other).registration.conflicts(mine))
        {
            return Err(call.fail(mad::METHODS, Errno::EBUSY, Reason::TAKEN));
        }
        clients.push(object)?;
    }
    call.put(mad::CAPACITY, &capacity)?;
    call.put(mad::TID_HIGH, &number)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let client = own(call);
    let Registration {
        class,
        version,
        methods,
        oui,
    } = client.registration;
    let (capacity, waiting, awaited) = {
        let inner = client.inner.lock();
        (
            inner.ring.len() as u32,
            inner.waiting as u32,
            inner.awaited.len() as u32,
        )
    };
    let methods = MadMethods {
        low: methods as u64,
        high: (methods >> 64) as u64,
    };
    call.put(mad::MGMT_CLASS, &class.into())?;
    call.put(mad::CLASS_VERSION, &version.into())?;
    call.put(mad::METHODS, &methods)?;
    call.put(mad::OUI, &oui)?;
    call.put(mad::CAPACITY, &capacity)?;
    call.put(mad::TID_HIGH, &client.number)?;
    call.put(mad::PENDING, &waiting)?;
    call.put(mad::AWAITED, &awaited)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let mut clients = ending.device().mads.lock();
    if let Some(n) = clients
        .iter()
        .position(|listed| core::ptr::eq(&**listed, ending.object))
    {
        clients.swap_remove(n);
    }
    Ok(())
}

/// The path that the message names, as it stands in an address handle or in the message.
fn path<P: Platform>(call: &Handling<'_, P>) -> Outcome<qp::Path> {
    let handle = call.object_at(mad::AH)?;
    let given = call.get(mad::PATH)?;
    match (handle, given) {
        (Some(_), Some(_)) => Err(call.fail(mad::PATH, Errno::EINVAL, Reason::CONFLICT)),
        (None, None) => Err(call.fail(mad::PATH, Errno::EINVAL, Reason::MISSING)),
        (None, Some(path)) => Ok(path),
        (Some(object), None) => match object.payload() {
            Some(Payload::Ah(handle)) => Ok(handle.path()),
            _ => unreachable!("the attribute takes address handles only"),
        },
    }
}

/// The datagram that the message holds, filled up, with the client's half of the transaction id in it.
fn datagram<P: Platform>(call: &Handling<'_, P>, client: &Client) -> Outcome<[u8; MAD]> {
    let given = call.bytes(mad::DATAGRAM).unwrap_or_default();
    if given.len() < mad::HEADER_BYTES || given.len() > MAD {
        return Err(call.out_of_range(mad::DATAGRAM));
    }
    let mut datagram = [0; MAD];
    datagram[..given.len()].copy_from_slice(given);
    let header = Header(&datagram);
    let Registration { class, version, .. } = client.registration;
    if (header.base_version(), header.class(), header.version()) != (BASE_VERSION, class, version) {
        return Err(call.out_of_range(mad::DATAGRAM));
    }
    if !header.is_response() {
        datagram[8..12].copy_from_slice(&client.number.to_be_bytes());
    }
    Ok(datagram)
}

pub(crate) fn send<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let client = own(call);
    let gsi = hardware.gsi()?;
    let path = checked_path(call, mad::PATH, &path(call)?, 1)?;
    let own_gid = gsi.with_gids(hardware, |gids| gids.get(usize::from(path.sgid_index)).copied())?;
    let sgid = own_gid
        .filter(|gid| !gid.is_zero() && !path.dgid.is_zero())
        .ok_or_else(|| call.out_of_range(mad::PATH))?;
    let to = To {
        qpn: match call.get(mad::QPN)? {
            None => Qpn::GSI,
            Some(number) if number < 1 << 24 => Qpn::truncate(number),
            Some(_) => return Err(call.out_of_range(mad::QPN)),
        },
        qkey: call.get(mad::QKEY)?.unwrap_or(GSI_QKEY),
    };
    let datagram = datagram(call, &client)?;
    let header = Header(&datagram);
    let timeout = call.get(mad::TIMEOUT)?.unwrap_or(0);
    // Nobody answers an answer.
    if timeout > mad::MAX_TIMEOUT || timeout != 0 && header.is_response() {
        return Err(call.out_of_range(mad::TIMEOUT));
    }
    let retries = call.get(mad::RETRIES)?.unwrap_or(0);
    if retries > mad::MAX_RETRIES {
        return Err(call.out_of_range(mad::RETRIES));
    }
    let tid = header.tid();
    let time = u64::from(timeout) * 1_000_000;
    let entry = Entry {
        record: MadReceived {
            gid: path.dgid.0,
            local_gid: sgid.0,
            qpn: to.qpn.get(),
            flow_label: path.flow_label,
            sgid_index: path.sgid_index.into(),
            status: status::TIMED_OUT,
            hop_limit: path.hop_limit,
            traffic_class: path.traffic_class,
            reserved: [0; 2],
            datagram,
        },
        to,
        due: hardware.platform.now().saturating_add(time),
        time,
        retries,
    };
    let busy = Failure::new(Errno::EAGAIN, Reason::BUSY);
    if timeout == 0 {
        if !gsi.send(hardware, &entry.route(), &entry.to, &datagram) {
            return Err(busy);
        }
    } else {
        let entry = try_box(entry)?;
        let (route, to, due) = (entry.route(), entry.to, entry.due);
        let mut inner = client.inner.lock();
        if inner.is_full() {
            return Err(call.fail(mad::TIMEOUT, Errno::ENOSPC, Reason::OUT_OF_RANGE));
        }
        if inner.awaited.iter().any(|other| other.tid() == tid) {
            return Err(call.fail(mad::DATAGRAM, Errno::EBUSY, Reason::TAKEN));
        }
        inner.awaited.push(entry)?;
        if !gsi.send(hardware, &route, &to, &datagram) {
            inner.awaited.pop();
            return Err(busy);
        }
        drop(inner);
        hardware.due_by(Who::Mad, due);
    }
    call.put(mad::TID, &tid)
}

pub(crate) fn receive<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let client = own(call);
    if let Some(mut answer) = call.stream(mad::RECEIVED) {
        let room = answer.room() / size_of::<MadReceived>() as u64;
        for n in 0..room {
            // Not under the client's lock: the program's memory may be waited for.
            let Some(entry) = client.inner.lock().pop() else { break };
            if let Err(failure) = answer.push(entry.record.as_bytes()) {
                // What could not be given is there for the next call.
                let mut inner = client.inner.lock();
                if !inner.unpop(entry) {
                    inner.lost += 1;
                }
                drop(inner);
                if n == 0 {
                    return Err(failure);
                }
                break;
            }
        }
        answer.finish();
    }
    let (lost, waiting) = {
        let mut inner = client.inner.lock();
        let lost = if call.has(mad::LOST) {
            core::mem::take(&mut inner.lost)
        } else {
            0
        };
        (lost, inner.waiting as u32)
    };
    call.put(mad::LOST, &lost)?;
    call.put(mad::PENDING, &waiting)
}

/// A datagram of a class that is not the communication manager's has arrived.
pub(crate) fn arrived<P: Platform>(hardware: &Hardware<P>, gsi: &Gsi<P>, received: &Received) {
    let header = Header(&received.mad);
    if header.base_version() != BASE_VERSION {
        return;
    }
    let answers = header.is_response();
    let wanted = |object: &&Arc<Object<Verbena<P>>>| {
        let client = client_of(object);
        if answers {
            client.number == (header.tid() >> 32) as u32 && client.registration.class == header.class()
        } else {
            client.registration.serves(&header)
        }
    };
    let Some(object) = hardware.mads.lock().iter().find(wanted).cloned() else {
        return;
    };
    let route = &received.route;
    let record = MadReceived {
        gid: route.sgid.0,
        local_gid: route.dgid.0,
        qpn: received.qpn.get(),
        flow_label: route.flow_label,
        sgid_index: gsi.gid_index(hardware, &route.dgid).map_or(u16::MAX, u16::from),
        status: if answers { status::RESPONSE } else { status::REQUEST },
        hop_limit: route.hop_limit,
        traffic_class: route.traffic_class,
        reserved: [0; 2],
        datagram: received.mad,
    };
    let client = client_of(&object);
    let taken = if answers {
        answered(&mut client.inner.lock(), &record)
    } else {
        let to = To {
            qpn: received.qpn,
            qkey: GSI_QKEY,
        };
        requested(&mut client.inner.lock(), record, to)
    };
    if taken {
        object.post(kind::MAD, 0);
    }
}

/// Whether somebody waits for this answer: the same transaction, from whom it was sent to.
fn answered(inner: &mut Inner, record: &MadReceived) -> bool {
    let tid = Header(&record.datagram).tid();
    let of = |entry: &Entry| {
        let to = &entry.record.gid;
        // What was sent to a group is answered by a member.
        entry.tid() == tid && (*to == record.gid || to[0] == 0xff)
    };
    let Some(n) = inner.awaited.iter().position(|entry| of(entry)) else {
        return false;
    };
    let mut entry = inner.awaited.swap_remove(n);
    entry.record = *record;
    inner.push(entry);
    true
}

fn requested(inner: &mut Inner, record: MadReceived, to: To) -> bool {
    let entry = Entry {
        record,
        to,
        due: 0,
        time: 0,
        retries: 0,
    };
    let boxed: Result<_, NoMemory> = if inner.is_full() { Err(NoMemory) } else { try_box(entry) };
    match boxed {
        Ok(entry) => {
            inner.push(entry);
            true
        }
        Err(NoMemory) => {
            inner.lost += 1;
            false
        }
    }
}

/// Sends again whatever has not been answered in its time, and gives back what has been sent often enough.
pub(crate) fn tick<P: Platform>(hardware: &Hardware<P>, gsi: &Gsi<P>) {
    // Whoever asks from here on says so himself.
    hardware.not_due(Who::Mad);
    let now = hardware.platform.now();
    let mut next = None;
    let clients = hardware.mads.lock();
    for object in clients.iter() {
        let mut inner = client_of(object).inner.lock();
        let mut n = 0;
        while let Some(entry) = inner.awaited.get_mut(n) {
            if entry.due <= now && entry.retries == 0 {
                let entry = inner.awaited.swap_remove(n);
                inner.push(entry);
                object.post(kind::MAD, 0);
                continue;
            }
            if entry.due <= now {
                entry.retries -= 1;
                entry.due = now.saturating_add(entry.time);
                // One that cannot be sent is one that was lost.
                gsi.send(hardware, &entry.route(), &entry.to, &entry.record.datagram);
            }
            next = Some(next.map_or(entry.due, |next: u64| next.min(entry.due)));
            n += 1;
        }
    }
    drop(clients);
    if let Some(next) = next {
        hardware.due_by(Who::Mad, next);
    }
}
