// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Shared receive queues: a ring and a record in one piece of memory that the process maps.
//!
//! Resizing gives a queue new memory. The process goes on in it when the call has returned; the old memory is its own
//! as long as it has it mapped, and nobody looks at it any more.

use crate::driver::{end, Handling, Payload, Reference};
use crate::events::delist_and;
use crate::numbers::Kind;
use crate::platform::{Platform, PAGE};
use crate::ring_memory::Stretch;
use crate::schema::{SrqRing, CQE_COOKIE, RING_MEMORY, SRQ_RING};
use crate::Verbena;
use rdma_uapi::class::srq;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::Mutex;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateSrqReq, HandleReq, HandleRsp, ModifySrqReq, ModifySrqRsp, QuerySrqRsp};
use verbena_hw::id::{Cqn, Srqn};
use verbena_hw::ring::PageList;
use verbena_hw::srq::{modify as change, SrqRecord, SrqType};
use verbena_hw::wqe::{recv_log_stride, MAX_LOG_ENTRIES};

/// A shared receive queue.
pub struct Srq<P: Platform> {
    pub(crate) srqn: Srqn,
    pd: ObjectId,
    /// What its events carry and, if it has an XRC domain, its completions.
    pub(crate) cookie: u64,
    /// Its XRC domain, and where its receives complete.
    xrc: Option<(ObjectId, ObjectId)>,
    max_sge: u8,
    log_stride: u8,
    /// Held while the queue moves.
    place: Mutex<Place<P>>,
}

/// Where a queue is.
struct Place<P: Platform> {
    log_entries: u8,
    memory: Stretch<P>,
}

impl<P: Platform> Place<P> {
    fn new(call: &Handling<'_, P>, home: Option<&Reference<P>>, log_entries: u8, log_stride: u8) -> Outcome<Self> {
        let bytes = ring_bytes(log_entries, log_stride) + size_of::<SrqRecord>() as u64;
        Ok(Place {
            log_entries,
            memory: Stretch::new(call, home, bytes, PAGE)?,
        })
    }

    fn list(&self, log_stride: u8) -> PageList {
        PageList::direct(self.memory.addr(), ring_bytes(self.log_entries, log_stride))
    }

    fn record(&self, log_stride: u8) -> u64 {
        self.memory.addr() + ring_bytes(self.log_entries, log_stride)
    }

    fn ring(&self, id: ObjectId, log_stride: u8, posted: u32) -> SrqRing {
        SrqRing {
            mmap_offset: self.memory.mmap_offset(id),
            mmap_length: self.memory.len(),
            record_offset: ring_bytes(self.log_entries, log_stride),
            posted,
            log_entries: self.log_entries,
            log_stride,
            reserved: [0; 2],
        }
    }
}

impl<P: Platform> Srq<P> {
    /// Whether XRC's requests name it.
    pub(crate) fn is_xrc(&self) -> bool {
        self.xrc.is_some()
    }

    /// Looks at the memory that it is in now.
    pub(crate) fn with_memory<T>(&self, look: impl FnOnce(&Stretch<P>) -> T) -> T {
        look(&self.place.lock().memory)
    }
}

/// Bytes of the ring; the record follows. Entries are 32 bytes or more, so two of them keep the record aligned.
fn ring_bytes(log_entries: u8, log_stride: u8) -> u64 {
    (1u64 << (log_entries + log_stride)).next_multiple_of(size_of::<SrqRecord>() as u64)
}

/// log2 of the entries that hold `max_wr` receives.
fn log_entries<P: Platform>(call: &Handling<'_, P>, max_wr: u32) -> Outcome<u8> {
    let most = call.device().limits.max_qp_wr.min(1 << MAX_LOG_ENTRIES);
    if max_wr == 0 || max_wr > most {
        return Err(call.out_of_range(srq::MAX_WR));
    }
    Ok(max_wr.next_power_of_two().trailing_zeros() as u8)
}

/// What makes a queue XRC's: its domain, and where its receives complete.
struct Xrc<P: Platform> {
    domain: Reference<P>,
    cq: Reference<P>,
}

impl<P: Platform> Xrc<P> {
    /// Both or neither.
    fn of(call: &Handling<'_, P>) -> Outcome<Option<Self>> {
        match (call.object_at(srq::XRCD)?, call.object_at(srq::CQ)?) {
            (Some(domain), Some(cq)) => Ok(Some(Xrc { domain, cq })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(call.fail(srq::CQ, Errno::EINVAL, Reason::MISSING)),
            (None, Some(_)) => Err(call.fail(srq::XRCD, Errno::EINVAL, Reason::MISSING)),
        }
    }

    fn numbers(&self) -> (u32, Cqn) {
        match (self.domain.payload(), self.cq.payload()) {
            (Some(Payload::Xrcd(domain)), Some(Payload::Cq(queue))) => (domain.xrcdn, queue.cqn),
            _ => unreachable!("the attributes take XRC domains, completion queues and counters only"),
        }
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let pd = call.require_object(srq::PD)?;
    let Some(Payload::Pd(domain)) = pd.payload() else {
        unreachable!("the attribute takes protection domains only")
    };
    let entries = call.require(srq::MAX_WR)?;
    let log_entries = log_entries(call, entries)?;
    let max_sge = call.get(srq::MAX_SGE)?.unwrap_or(1);
    let stride = u8::try_from(max_sge)
        .ok()
        .filter(|_| max_sge <= hardware.limits.max_sge)
        .and_then(recv_log_stride);
    let Some(log_stride) = stride else {
        return Err(call.out_of_range(srq::MAX_SGE));
    };
    let limit = call.get(srq::LIMIT)?.unwrap_or(0);
    if limit > 1 << log_entries {
        return Err(call.out_of_range(srq::LIMIT));
    }

    let xrc = Xrc::of(call)?;
    let (xrcdn, cqn) = xrc.as_ref().map(Xrc::numbers).unwrap_or_default();
    let cookie = call.get(CQE_COOKIE)?.unwrap_or(0);
    let home = call.object_at(RING_MEMORY)?;
    let reservation = call.reserve()?;
    let place = Place::new(call, home.as_ref(), log_entries, log_stride)?;
    let request = CreateSrqReq {
        ring: place.list(log_stride),
        record: place.record(log_stride),
        cookie,
        pdn: domain.pdn,
        eqn: hardware.events[0].eqn,
        cqn,
        xrcdn,
        // Armed below: an event now would find no object.
        limit: 0,
        srq_type: if xrc.is_some() { SrqType::XRC } else { SrqType::BASIC },
        log_entries,
        log_stride,
        max_sge: max_sge as u8,
        reserved: 0,
    };
    let ring = place.ring(reservation.id(), log_stride, 0);
    let place = Mutex::try_new(place, c"verbena_srq")?;
    let response: HandleRsp = hardware.command(Opcode::CREATE_SRQ, &request)?;
    let queue = Srq {
        srqn: Srqn::truncate(response.handle),
        pd: pd.id(),
        cookie,
        xrc: xrc.as_ref().map(|xrc| (xrc.domain.id(), xrc.cq.id())),
        max_sge: max_sge as u8,
        log_stride,
        place,
    };
    let srqn = queue.srqn;
    let payload = Some(Payload::Srq(queue));
    let mut parents = [&pd; 4];
    let others = xrc.iter().flat_map(|xrc| [&xrc.domain, &xrc.cq]).chain(&home);
    // The protection domain is the first.
    let mut count = 1;
    for (place, parent) in parents[1..].iter_mut().zip(others) {
        *place = parent;
        count += 1;
    }
    let object = call.publish(reservation, payload, &parents[..count]);
    hardware.enlist(Kind::Srq, response.handle, object)?;
    if limit > 0 {
        let _: ModifySrqRsp = hardware.command(Opcode::MODIFY_SRQ, &arming(srqn, limit))?;
    }
    call.put(srq::MAX_WR, &(1 << log_entries))?;
    call.put(srq::MAX_SGE, &max_sge)?;
    call.put(srq::SRQN, &response.handle)?;
    call.put(SRQ_RING, &ring)
}

fn arming(srqn: Srqn, limit: u32) -> ModifySrqReq {
    ModifySrqReq {
        srqn,
        mask: change::LIMIT,
        limit,
        log_entries: 0,
        reserved0: [0; 3],
        ring: PageList::default(),
        record: 0,
        reserved1: 0,
    }
}

/// Resizes, or arms the limit, or both: the size comes first, and if either is refused nothing has changed.
pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let Payload::Srq(queue) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (srqn, log_stride) = (queue.srqn, queue.log_stride);
    let limit = call.get(srq::LIMIT)?;
    let entries = call.get(srq::MAX_WR)?;
    let fresh = match entries {
        // Without memory to move to there is nowhere to say where it is.
        Some(_) if !call.has(SRQ_RING) => {
            return Err(call.fail(SRQ_RING, Errno::EINVAL, Reason::MISSING));
        }
        Some(entries) => Some(Place::new(call, None, log_entries(call, entries)?, log_stride)?),
        None => None,
    };
    let mut request = arming(srqn, limit.unwrap_or(0));
    if limit.is_none() {
        request.mask = 0;
    }
    if let Some(place) = &fresh {
        request.mask |= change::RING;
        request.log_entries = place.log_entries;
        request.ring = place.list(log_stride);
        request.record = place.record(log_stride);
    }
    let id = call.object().id();
    let mut place = queue.place.lock();
    let response: ModifySrqRsp = match hardware.command(Opcode::MODIFY_SRQ, &request) {
        Ok(response) => response,
        Err(error) if error.is_field(core::mem::offset_of!(ModifySrqReq, limit)) => {
            return Err(call.out_of_range(srq::LIMIT));
        }
        // Fewer than are posted.
        Err(error) if error.is_field(core::mem::offset_of!(ModifySrqReq, log_entries)) => {
            return Err(call.fail(srq::MAX_WR, Errno::EBUSY, Reason::BUSY));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(fresh) = fresh else { return Ok(()) };
    let ring = fresh.ring(id, log_stride, response.posted);
    let entries = 1 << fresh.log_entries;
    *place = fresh;
    drop(place);
    call.put(srq::MAX_WR, &entries)?;
    call.put(SRQ_RING, &ring)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Srq(queue) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (srqn, pd, max_sge, log_stride) = (queue.srqn, queue.pd, queue.max_sge, queue.log_stride);
    let xrc = queue.xrc;
    let id = call.object().id();
    let ring = queue.place.lock().ring(id, log_stride, 0);
    let request = HandleReq {
        handle: srqn.get(),
        reserved: 0,
    };
    let state: QuerySrqRsp = call.device().command(Opcode::QUERY_SRQ, &request)?;
    call.put(srq::PD, &pd)?;
    if let Some((domain, cq)) = xrc {
        call.put(srq::XRCD, &domain)?;
        call.put(srq::CQ, &cq)?;
    }
    call.put(srq::MAX_WR, &state.entries)?;
    call.put(srq::MAX_SGE, &u32::from(max_sge))?;
    call.put(srq::LIMIT, &state.limit)?;
    call.put(srq::SRQN, &srqn.get())?;
    call.put(SRQ_RING, &ring)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Srq(queue)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let srqn = queue.srqn.get();
    Ok(delist_and(ending.context.device(), Kind::Srq, srqn, || {
        end(ending, Opcode::DESTROY_SRQ, srqn)
    })?)
}
