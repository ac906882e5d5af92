// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Doorbell pages: Verbena's own class. A context makes one or more, its queue pairs share their slots.

use crate::driver::{end, Handling, Payload};
use crate::platform::{Dma, Platform, PAGE};
use crate::ring::{memory_offset, register_offset, shared};
use crate::schema::{DoorbellMaps, DoorbellUse, DOORBELL_MAPS, DOORBELL_USE};
use crate::Verbena;
use core::sync::atomic::{AtomicU32, Ordering};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{arc_bytes, Arc, ArcRoom, Mutex};
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Cause, Ending, Errno, Failure, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateDoorbellReq, HandleReq, HandleRsp, QueryDoorbellRsp};
use verbena_hw::doorbell::SLOTS;

/// A doorbell page.
pub struct Doorbell<P: Platform> {
    pub(crate) index: u32,
    pub(crate) page: Arc<P::Dma>,
    /// How often its register is mapped.
    pub(crate) mappings: AtomicU32,
    /// Bit `n` of word `w` set: slot `64 w + n` is taken.
    slots: Mutex<[u64; SLOTS as usize / 64]>,
}

/// A slot of a doorbell page, free again when dropped.
pub(crate) struct Slot<P: Platform> {
    doorbell: Arc<Doorbell<P>>,
    number: u16,
}

impl<P: Platform> Doorbell<P> {
    /// What it takes beside the page.
    pub(crate) const BYTES: usize = arc_bytes::<Self>() + Mutex::<[u64; SLOTS as usize / 64]>::HEAP;

    /// Takes a slot.
    ///
    /// # Errors
    ///
    /// ENOSPC: none is free.
    pub(crate) fn take_slot(this: &Arc<Self>) -> Outcome<Slot<P>> {
        let mut slots = this.slots.lock();
        let Some(word) = slots.iter().position(|&word| word != u64::MAX) else {
            return Err(Failure::new(Errno::ENOSPC, Reason::OUT_OF_RANGE));
        };
        let bit = slots[word].trailing_ones();
        slots[word] |= 1 << bit;
        Ok(Slot {
            doorbell: this.clone(),
            number: (word * 64) as u16 + bit as u16,
        })
    }
}

impl<P: Platform> Slot<P> {
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn page_index(&self) -> u32 {
        self.doorbell.index
    }
}

impl<P: Platform> Drop for Slot<P> {
    fn drop(&mut self) {
        let number = usize::from(self.number);
        self.doorbell.slots.lock()[number / 64] &= !(1 << (number % 64));
    }
}

fn maps<P: Platform>(doorbell: &Doorbell<P>, id: ObjectId) -> DoorbellMaps {
    DoorbellMaps {
        page_offset: memory_offset(id),
        register_offset: register_offset(id),
        index: doorbell.index,
        reserved: 0,
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let reservation = call.reserve()?;
    let page = shared(&hardware.platform, PAGE as usize)?;
    let slots = Mutex::try_new([0; SLOTS as usize / 64], c"verbena_doorbell_slots")?;
    let room = ArcRoom::try_new()?;
    let response: HandleRsp = hardware.command(Opcode::CREATE_DOORBELL, &CreateDoorbellReq { addr: page.addr() })?;
    let doorbell = room.fill(Doorbell {
        index: response.handle,
        page,
        mappings: AtomicU32::new(0),
        slots,
    });
    let maps = maps(&doorbell, reservation.id());
    call.publish(reservation, Some(Payload::Doorbell(doorbell)), &[]);
    call.put(DOORBELL_MAPS, &maps)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Doorbell(doorbell) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let maps = maps(doorbell, call.object().id());
    if call.has(DOORBELL_USE) {
        let request = HandleReq {
            handle: maps.index,
            reserved: 0,
        };
        let state: QueryDoorbellRsp = call.device().command(Opcode::QUERY_DOORBELL, &request)?;
        let taken = DoorbellUse {
            slots: state.users,
            watched: state.watched,
        };
        call.put(DOORBELL_USE, &taken)?;
    }
    call.put(DOORBELL_MAPS, &maps)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Doorbell(doorbell)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    // Acquire: pairs with the end of the mapping.
    if ending.cause == Cause::Destroy && doorbell.mappings.load(Ordering::Acquire) != 0 {
        return Err(Failure::new(Errno::EBUSY, Reason::IN_USE));
    }
    Ok(end(ending, Opcode::DESTROY_DOORBELL, doorbell.index)?)
}
