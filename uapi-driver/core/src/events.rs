// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! From event queue entries to events of objects.
//!
//! The device writes entries, an interrupt says so, [`interrupt`] consumes them, finds each one's object by the
//! device's number and posts to it; `rdma-uapi` brings it to the event queue that the object reports to.
//!
//! No event of a destroyed object is delivered, nor to a later one of the same number: its number leaves the table
//! before the command that destroys it, and what the device wrote before the command ended is consumed before the
//! destroy returns ([`delist_and`]). Beside that, an entry counts only if it carries the cookie that the
//! object was made with.

use crate::admin::{AdminQueue, CommandError};
use crate::hardware::{Hardware, StartError};
use crate::numbers::Kind;
use crate::platform::{Dma, Platform};
use crate::{xrc_target, Device, Verbena};
use core::sync::atomic::Ordering;
use rdma_uapi::class::{self, event_queue::kind};
use rdma_uapi::sys::{Arc, Mutex, NoMemory};
use rdma_uapi::Object;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateEqReq, HandleRsp};
use verbena_hw::eqe::{Eqe, Event};
use verbena_hw::id::Eqn;
use verbena_hw::regs;
use verbena_hw::ring::{phase, slot, PageList, OWNER_PHASE};
use zerocopy::{FromZeros, IntoBytes};

/// log2 of the entries of an event queue. When it is full, events wait in the device.
const LOG_ENTRIES: u8 = 8;
const ENTRY: usize = size_of::<Eqe>();

/// An event queue of the device.
pub(crate) struct EventRing<P: Platform> {
    pub(crate) eqn: Eqn,
    vector: u16,
    ring: P::Dma,
    /// Free-running consumer counter.
    consumer: Mutex<u32>,
}

impl<P: Platform> EventRing<P> {
    pub(crate) fn create(
        platform: &P,
        admin: &AdminQueue<P>,
        vector: u16,
        async_default: bool,
    ) -> Result<Self, StartError> {
        let ring = platform.alloc_dma(ENTRY << LOG_ENTRIES)?;
        let consumer = Mutex::try_new(0, c"verbena_event_ring")?;
        let request = CreateEqReq {
            ring: PageList::direct(ring.addr(), ring.len() as u64),
            log_entries: LOG_ENTRIES,
            async_default: u8::from(async_default),
            vector,
            reserved: [0; 3],
        };
        let response: HandleRsp = admin.execute(Opcode::CREATE_EQ, &request)?;
        Ok(EventRing {
            eqn: Eqn(response.handle),
            vector,
            ring,
            consumer,
        })
    }

    /// Where its ring is for the device.
    pub(crate) fn ring_address(&self) -> u64 {
        self.ring.addr()
    }

    /// Asks for an interrupt at the next event.
    pub(crate) fn arm(&self, platform: &P) {
        self.tell(platform, *self.consumer.lock());
    }

    fn tell(&self, platform: &P, consumer: u32) {
        platform.write32(regs::eq_db(self.eqn.0), consumer & !regs::EQ_DB_ARM | regs::EQ_DB_ARM);
    }

    /// Calls `each` with every entry that is there and says how many they were.
    fn consume(&self, platform: &P, always_arm: bool, mut each: impl FnMut(&Eqe)) {
        let mut consumer = self.consumer.lock();
        let before = *consumer;
        // One pass over the ring at a time: the device fills what has been told to be free.
        while consumer.wrapping_sub(before) < 1 << LOG_ENTRIES {
            let offset = slot(*consumer, LOG_ENTRIES) as usize * ENTRY;
            // Acquire: the device writes this word last.
            let owner = self.ring.words()[offset / 8].load(Ordering::Acquire) as u8;
            if owner & OWNER_PHASE != phase(*consumer, LOG_ENTRIES) {
                break;
            }
            let mut eqe = Eqe::new_zeroed();
            self.ring.read(offset, eqe.as_mut_bytes());
            *consumer = consumer.wrapping_add(1);
            each(&eqe);
        }
        if always_arm || *consumer != before {
            self.tell(platform, *consumer);
        }
    }
}

/// MSI-X vector `vector` fired. Called in process context by a thread that is in no call of the object model.
///
/// Vector 0 without a reason makes the driver look whether the device is still there: a platform whose device can die
/// silently calls it now and then, and then looks at [`Hardware::is_gone`].
pub fn interrupt<P: Platform>(device: &Device<P>, vector: u16) {
    let hardware = device.state();
    if hardware.is_gone() {
        return;
    }
    if vector == 0 {
        hardware.admin.interrupt();
    }
    for ring in hardware.events.iter().filter(|ring| ring.vector == vector) {
        ring.consume(&hardware.platform, true, |eqe| deliver(device, hardware, eqe));
    }
}

/// The device is gone, or is about to be taken away: commands that wait end, calls on every context are ENODEV, event
/// queues get their last event. The contexts stay until their owners close them. Called by a thread that is in no
/// call of the object model.
pub fn remove<P: Platform>(device: &Device<P>) {
    device.state().gone();
    device.remove();
    crate::node_cm::device_gone(device);
}

fn deliver<P: Platform>(device: &Device<P>, hardware: &Hardware<P>, eqe: &Eqe) {
    let event = Event(eqe.event);
    match event {
        Event::COMPLETION if hardware.gsi.get().is_some_and(|gsi| gsi.cqn.get() == eqe.number) => hardware.want_work(),
        Event::COMPLETION => hardware.post(Kind::Cq, eqe, kind::COMPLETION),
        Event::CQ_ERR => hardware.post(Kind::Cq, eqe, kind::CQ_ERROR),
        Event::QP_FATAL => hardware.post(Kind::Qp, eqe, kind::QP_FATAL),
        Event::QP_REQ_ERR => hardware.post(Kind::Qp, eqe, kind::QP_REQUEST_ERROR),
        Event::QP_ACCESS_ERR => hardware.post(Kind::Qp, eqe, kind::QP_ACCESS_ERROR),
        Event::COMM_EST => hardware.post(Kind::Qp, eqe, kind::COMM_ESTABLISHED),
        Event::SQ_DRAINED => hardware.post(Kind::Qp, eqe, kind::SQ_DRAINED),
        Event::LAST_WQE_REACHED => hardware.post(Kind::Qp, eqe, kind::QP_LAST_WQE_REACHED),
        Event::SRQ_ERR => hardware.post(Kind::Srq, eqe, kind::SRQ_ERROR),
        Event::SRQ_LIMIT_REACHED => hardware.post(Kind::Srq, eqe, kind::SRQ_LIMIT_REACHED),
        Event::PORT_ACTIVE => device.post(class::PORT, eqe.number, kind::PORT_ACTIVE, eqe.data),
        Event::PORT_ERR => device.post(class::PORT, eqe.number, kind::PORT_ERROR, eqe.data),
        Event::GID_CHANGE => {
            if let Some(gsi) = hardware.gsi.get() {
                gsi.gids_changed();
            }
            device.post(class::PORT, eqe.number, kind::GID_CHANGE, eqe.data);
        }
        Event::DEVICE_FATAL => device.post(class::DEVICE, 0, kind::DEVICE_FATAL, eqe.data),
        // A device of a later minor version may have more to say than this driver knows.
        _ => {}
    }
}

impl<P: Platform> Hardware<P> {
    fn post(&self, of: Kind, eqe: &Eqe, kind: u16) {
        // Posted outside the lock: whoever destroys the object meanwhile takes its subscription, and nothing is posted.
        let object = self.objects.lock().get(of, eqe.number).cloned();
        if of == Kind::Qp && object.is_none() {
            return xrc_target::post(self, eqe, kind);
        }
        if let Some(object) = object {
            if object.payload().is_some_and(|payload| payload.cookie() == eqe.cookie) {
                object.post(kind, eqe.data);
            }
        }
    }

    /// From now on events find the object.
    pub(crate) fn enlist(&self, of: Kind, number: u32, object: Arc<Object<Verbena<P>>>) -> Result<(), NoMemory> {
        self.objects.lock().insert(of, number, object)
    }
}

/// Executes the command that ends an object whose number is in the table: the number leaves it first, and what the
/// device has said of the object by then is consumed afterwards. If the device refuses, the number returns.
pub(crate) fn delist_and<P: Platform>(
    device: &Device<P>,
    of: Kind,
    number: u32,
    command: impl FnOnce() -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let delisted = Delisted::of(device.state(), of, number);
    delisted.end(device, command())
}

/// An object that is being destroyed: no event finds it any more.
pub(crate) struct Delisted<P: Platform> {
    of: Kind,
    number: u32,
    object: Option<Arc<Object<Verbena<P>>>>,
}

impl<P: Platform> Delisted<P> {
    /// From now on nothing is found by this number.
    pub(crate) fn of(hardware: &Hardware<P>, of: Kind, number: u32) -> Self {
        let object = hardware.objects.lock().remove(of, number);
        Delisted { of, number, object }
    }

    /// The device was asked to destroy it. If it refused, the object lives on; else events that name the number are
    /// consumed before it can be another's.
    pub(crate) fn end(self, device: &Device<P>, ended: Result<(), CommandError>) -> Result<(), CommandError> {
        match ended {
            Err(CommandError::Refused { .. }) => self.back(device.state()),
            _ => drain(device),
        }
        ended
    }

    /// It lives on.
    pub(crate) fn back(self, hardware: &Hardware<P>) {
        let Delisted { of, number, object } = self;
        let Some(object) = object else { return };
        if hardware.objects.lock().insert(of, number, object).is_err() {
            hardware
                .platform
                .log(format_args!("no memory: object {number:#x} lives on without events"));
        }
    }
}

/// Consumes what is in the event rings now. An entry about a number that has left the table finds no object.
pub(crate) fn drain<P: Platform>(device: &Device<P>) {
    let hardware = device.state();
    for ring in hardware.events.iter() {
        ring.consume(&hardware.platform, false, |eqe| deliver(device, hardware, eqe));
    }
}
