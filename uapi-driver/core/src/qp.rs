// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Queue pairs: two rings in one piece of memory that the process maps, and a slot of a doorbell page.

use crate::begun;
use crate::cm::{self, Owner};
use crate::doorbell::{Doorbell, Slot};
use crate::driver::{end, Handling, Payload, Reference};
use crate::events::delist_and;
use crate::hardware::Hardware;
use crate::numbers::Kind;
use crate::platform::{Platform, PAGE};
use crate::qp_attrs::{self, Given};
use crate::ring_memory::{self, Stretch};
use crate::schema::{QpRings, CQE_COOKIE, DOORBELL, QP_RINGS, RING_MEMORY};
use crate::{CommandError, Verbena};
use core::mem::offset_of;
use rdma_uapi::class::qp::{self, flag, QpCaps};
use rdma_uapi::class::{self};
use rdma_uapi::failure::Outcome;
use rdma_uapi::object::MAX_PARENTS;
use rdma_uapi::sys::Arc;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Failure, Reason, Reservation};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateQpReq, HandleReq, HandleRsp, ModifyQpReq, QueryQpRsp, QP_SIGNAL_ALL};
use verbena_hw::id::{Cqn, Pdn, Qpn, Srqn};
use verbena_hw::qp::{QpAttrs, QpState, QpType};
use verbena_hw::ring::PageList;
use verbena_hw::wqe;

/// A queue pair.
pub struct Qp<P: Platform> {
    pub(crate) qpn: Qpn,
    sizes: Sizes,
    /// What its completions and events carry.
    pub(crate) cookie: u64,
    pub(crate) memory: Stretch<P>,
    slot: Slot<P>,
    pd: ObjectId,
    send_cq: ObjectId,
    recv_cq: Option<ObjectId>,
    srq: Option<ObjectId>,
    /// The communication id that it is connected by: only that may say where it leads.
    pub(crate) owner: Owner,
}

/// log2 of entries and of bytes an entry of both rings.
#[derive(Clone, Copy)]
struct Sizes {
    send_entries: u8,
    send_stride: u8,
    recv_entries: u8,
    recv_stride: u8,
    /// There is no receive ring: receives come from a shared receive queue, or there are none.
    shared: bool,
    /// The rings need not begin on pages.
    packed: bool,
}

impl Sizes {
    /// What holds `caps`, with a receive ring unless receives are `shared`; `None` if nothing does.
    fn of(caps: &QpCaps, kind: QpType, shared: bool) -> Option<Self> {
        let sges = |n: u32| u8::try_from(n).ok().filter(|&n| n <= wqe::MAX_SGE);
        let inline = u16::try_from(caps.max_inline).ok().filter(|&n| n <= wqe::MAX_INLINE)?;
        let entries = |n: u32| {
            let log = n.max(1).checked_next_power_of_two()?.trailing_zeros() as u8;
            (log <= wqe::MAX_LOG_ENTRIES).then_some(log)
        };
        Some(Sizes {
            send_entries: entries(caps.max_send_wr)?,
            send_stride: wqe::send_log_stride(kind, sges(caps.max_send_sge)?, inline)?,
            recv_entries: if shared { 0 } else { entries(caps.max_recv_wr)? },
            recv_stride: if shared {
                0
            } else {
                wqe::recv_log_stride(sges(caps.max_recv_sge)?)?
            },
            shared,
            packed: false,
        })
    }

    /// The same, packed.
    fn packed(self) -> Self {
        Sizes { packed: true, ..self }
    }

    /// What their memory must be aligned to: a page each, or each to its entries and to a cache line.
    fn align(&self) -> u64 {
        match self.packed {
            true => 1 << self.send_stride.max(self.recv_stride).max(6),
            false => PAGE,
        }
    }

    /// Bytes of the send ring.
    fn send_bytes(&self) -> u64 {
        1 << (self.send_entries + self.send_stride)
    }

    /// Bytes of the receive ring.
    fn recv_bytes(&self) -> u64 {
        if self.shared {
            return 0;
        }
        1 << (self.recv_entries + self.recv_stride)
    }

    /// Entries of the receive ring.
    fn recv_count(&self) -> u32 {
        if self.shared {
            return 0;
        }
        1 << self.recv_entries
    }

    /// Where the receive ring begins.
    fn recv_offset(&self) -> u64 {
        self.send_bytes().next_multiple_of(self.align())
    }

    /// Bytes of memory that both take.
    fn bytes(&self) -> u64 {
        self.recv_offset() + self.recv_bytes()
    }
}

/// Bytes of memory that the rings of a queue pair of `class` with these sizes take; `None` if there is no such queue pair.
pub(crate) fn bytes(class: u16, caps: &QpCaps, shared: bool) -> Option<u64> {
    Sizes::of(caps, kind(class)?, shared).map(|sizes| sizes.bytes())
}

/// The same with packed rings, and what that must be aligned to.
pub(crate) fn packed(class: u16, caps: &QpCaps, shared: bool) -> Option<(u64, u64)> {
    let sizes = Sizes::of(caps, kind(class)?, shared)?.packed();
    Some((sizes.bytes(), sizes.align()))
}

impl<P: Platform> Qp<P> {
    fn rings(&self, id: ObjectId) -> QpRings {
        QpRings {
            mmap_offset: self.memory.mmap_offset(id),
            mmap_length: self.memory.len(),
            recv_offset: self.sizes.recv_offset(),
            doorbell: self.slot.page_index(),
            slot: self.slot.number(),
            send_log_entries: self.sizes.send_entries,
            send_log_stride: self.sizes.send_stride,
            recv_log_entries: self.sizes.recv_entries,
            recv_log_stride: self.sizes.recv_stride,
            reserved: [0; 6],
        }
    }
}

/// What a CREATE names.
struct Parts<P: Platform> {
    pd: Reference<P>,
    send_cq: Reference<P>,
    /// An XRC initiator receives nothing.
    recv_cq: Option<Reference<P>>,
    srq: Option<Reference<P>>,
    doorbell: Reference<P>,
    memory: Option<Reference<P>>,
}

impl<P: Platform> Parts<P> {
    fn of(call: &Handling<'_, P>, receives: bool) -> Outcome<Self> {
        Ok(Parts {
            pd: call.require_object(qp::PD)?,
            send_cq: call.require_object(qp::SEND_CQ)?,
            recv_cq: match receives {
                true => Some(call.require_object(qp::RECV_CQ)?),
                false => None,
            },
            srq: call.object_at(qp::SRQ)?,
            doorbell: call.require_object(DOORBELL)?,
            memory: call.object_at(RING_MEMORY)?,
        })
    }

    fn pdn(&self) -> Pdn {
        match self.pd.payload() {
            Some(Payload::Pd(pd)) => pd.pdn,
            _ => unreachable!("the attribute takes protection domains only"),
        }
    }

    fn srqn(&self) -> Srqn {
        match self.srq.as_ref().and_then(|srq| srq.payload()) {
            Some(Payload::Srq(srq)) => srq.srqn,
            Some(_) => unreachable!("the attribute takes shared receive queues only"),
            None => Srqn::default(),
        }
    }

    fn page(&self) -> &Arc<Doorbell<P>> {
        match self.doorbell.payload() {
            Some(Payload::Doorbell(doorbell)) => doorbell,
            _ => unreachable!("the attribute takes doorbell pages only"),
        }
    }
}

fn is_xrc<P: Platform>(srq: &Reference<P>) -> bool {
    matches!(srq.payload(), Some(Payload::Srq(srq)) if srq.is_xrc())
}

fn cqn<P: Platform>(object: &Reference<P>) -> Cqn {
    match object.payload() {
        Some(Payload::Cq(queue)) => queue.cqn,
        _ => unreachable!("the attributes take completion queues and counters only"),
    }
}

/// The sizes asked for, within the device's limits.
fn sizes<P: Platform>(
    call: &Handling<'_, P>,
    hardware: &Hardware<P>,
    caps: &QpCaps,
    kind: QpType,
    shared: bool,
) -> Outcome<Sizes> {
    let limits = &hardware.limits;
    let over = caps.max_send_wr.max(caps.max_recv_wr) > limits.max_qp_wr
        || caps.max_send_sge.max(caps.max_recv_sge) > limits.max_sge
        || caps.max_inline > limits.max_inline;
    if caps.reserved != 0 {
        return Err(call.fail(qp::CAPS, Errno::EINVAL, Reason::NOT_ZERO));
    }
    match Sizes::of(caps, kind, shared) {
        Some(sizes) if !over => Ok(sizes),
        _ => Err(call.out_of_range(qp::CAPS)),
    }
}

/// The device's type of a class's queue pairs; `None`: it is no such class.
fn kind(class: u16) -> Option<QpType> {
    match class {
        class::QP_RC => Some(QpType::RC),
        class::QP_UC => Some(QpType::UC),
        class::QP_UD => Some(QpType::UD),
        class::QP_RAW => Some(QpType::RAW),
        class::QP_XRC_INI => Some(QpType::XRC_INI),
        _ => None,
    }
}

/// A queue pair that is being made: all that there is before the device has been asked.
pub(crate) struct NewQp<P: Platform> {
    /// What the device is asked for.
    pub(crate) request: CreateQpReq,
    pub(crate) making: Making<P>,
    /// Where it is to go, if not in the same command.
    later: Option<Given>,
}

/// What of it waits for the device's answer: no more than that takes, because it is handed on until then.
pub(crate) struct Making<P: Platform> {
    parts: Parts<P>,
    caps: QpCaps,
    sizes: Sizes,
    cookie: u64,
    memory: Stretch<P>,
    slot: Slot<P>,
}

impl<P: Platform> NewQp<P> {
    /// Checks what the call gives, and takes an id, memory and a slot.
    fn prepare<'c>(call: &Handling<'c, P>) -> Outcome<(Self, Reservation<'c, Verbena<P>>)> {
        let hardware = call.device();
        let Some(kind) = kind(call.class()) else {
            unreachable!("the handler is in the table for classes of queue pairs only")
        };
        let receives = kind != QpType::XRC_INI;
        let parts = Parts::of(call, receives)?;
        let send_cqn = cqn(&parts.send_cq);
        let recv_cqn = match &parts.recv_cq {
            Some(queue) => cqn(queue),
            None => Cqn::default(),
        };
        let mut caps = call.require(qp::CAPS)?;
        let shared = parts.srq.is_some() || !receives;
        if shared {
            // As with libibverbs: what it says of receives does not count.
            (caps.max_recv_wr, caps.max_recv_sge) = (0, 0);
        }
        if let Some(srq) = parts.srq.as_ref().filter(|srq| is_xrc(srq)) {
            // Requests name it, queue pairs do not.
            let failure = call.fail(qp::SRQ, Errno::EINVAL, Reason::NOT_ALLOWED);
            return Err(failure.detail(srq.class()));
        }
        let mut sizes = sizes(call, hardware, &caps, kind, shared)?;
        if ring_memory::is_packed(parts.memory.as_ref()) {
            sizes = sizes.packed();
        }
        let flags = call.get(qp::FLAGS)?.unwrap_or(0);
        if flags & !flag::ALL != 0 {
            return Err(call.fail(qp::FLAGS, Errno::EINVAL, Reason::UNKNOWN_FLAG));
        }
        let cookie = call.get(CQE_COOKIE)?.unwrap_or(0);
        let given = Given::read(call)?;
        qp_attrs::check_way(call, kind, &given)?;

        let reservation = call.reserve()?;
        let memory = Stretch::new(call, parts.memory.as_ref(), sizes.bytes(), sizes.align())?;
        let slot = Doorbell::take_slot(parts.page())?;
        // All the way in one command, if the device can.
        let moves = given.attrs.state != QpState::RESET.0;
        let goes = hardware.links && moves;
        let request = CreateQpReq {
            sq: PageList::direct(memory.addr(), sizes.send_bytes()),
            rq: if sizes.shared {
                PageList::default()
            } else {
                PageList::direct(memory.addr() + sizes.recv_offset(), sizes.recv_bytes())
            },
            cookie,
            pdn: parts.pdn(),
            send_cqn,
            recv_cqn,
            srqn: parts.srqn(),
            doorbell: slot.page_index(),
            slot: slot.number(),
            qp_type: kind,
            flags: if flags & flag::SIGNAL_ALL != 0 {
                QP_SIGNAL_ALL
            } else {
                0
            },
            sq_log_entries: sizes.send_entries,
            sq_log_stride: sizes.send_stride,
            rq_log_entries: sizes.recv_entries,
            rq_log_stride: sizes.recv_stride,
            // `sizes` has checked that all three fit.
            max_send_sge: caps.max_send_sge as u8,
            max_recv_sge: caps.max_recv_sge as u8,
            max_inline: caps.max_inline as u16,
            eqn: hardware.events[0].eqn,
            xrcdn: 0,
            reserved: [0; 4],
            mask: if goes { given.mask } else { 0 },
            reserved2: 0,
            attrs: if goes { given.attrs } else { QpAttrs::default() },
        };
        let making = Making {
            parts,
            caps,
            sizes,
            cookie,
            memory,
            slot,
        };
        let later = if moves && !goes { Some(given) } else { None };
        let new = NewQp { request, making, later };
        Ok((new, reservation))
    }
}

impl<P: Platform> Making<P> {
    /// The device has answered: the queue pair exists. If it is to go somewhere `later`, that is now.
    pub(crate) fn finish<'c>(
        self,
        call: &mut Handling<'c, P>,
        reservation: Reservation<'c, Verbena<P>>,
        answer: Result<HandleRsp, CommandError>,
        later: Option<&Given>,
    ) -> Outcome {
        let hardware = call.device();
        let Making {
            parts,
            mut caps,
            sizes,
            cookie,
            memory,
            slot,
        } = self;
        let response = answer.map_err(|error| qp_attrs::failure_of(call, error, offset_of!(CreateQpReq, attrs)))?;
        let queue_pair = Qp {
            qpn: Qpn::truncate(response.handle),
            sizes,
            cookie,
            memory,
            slot,
            pd: parts.pd.id(),
            send_cq: parts.send_cq.id(),
            recv_cq: parts.recv_cq.as_ref().map(|queue| queue.id()),
            srq: parts.srq.as_ref().map(|srq| srq.id()),
            owner: Owner::default(),
        };
        let (qpn, rings) = (queue_pair.qpn, queue_pair.rings(reservation.id()));
        let mut parents = [&parts.pd; MAX_PARENTS];
        let all = [&parts.send_cq, &parts.doorbell].into_iter().chain(&parts.recv_cq);
        let all = all.chain(&parts.srq).chain(&parts.memory);
        // The protection domain is the first.
        let mut count = 1;
        for (place, parent) in parents[1..].iter_mut().zip(all) {
            *place = parent;
            count += 1;
        }
        let object = call.publish(reservation, Some(Payload::Qp(queue_pair)), &parents[..count]);
        // From here on the dispatcher ends the queue pair if anything fails.
        hardware.enlist(Kind::Qp, response.handle, object)?;
        if let Some(given) = later {
            let mut attrs = given.attrs;
            attrs.cur_state = QpState::RESET.0;
            let mask = given.mask | verbena_hw::qp::attr::CUR_STATE;
            let request = ModifyQpReq { qpn, mask, attrs };
            transition(call, &request)?;
        }

        caps.max_send_wr = 1 << sizes.send_entries;
        caps.max_recv_wr = sizes.recv_count();
        call.put(qp::CAPS, &caps)?;
        call.put(qp::QPN, &qpn.get())?;
        call.put(QP_RINGS, &rings)
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let offer = begun::offer(call)?;
    let (new, reservation) = NewQp::prepare(call)?;
    if let Some(offer) = offer {
        return offer.create(new, reservation);
    }
    let answer = call.device().command(Opcode::CREATE_QP, &new.request);
    new.making.finish(call, reservation, answer, new.later.as_ref())
}

/// One MODIFY_QP.
pub(crate) fn transition<P: Platform>(call: &Handling<'_, P>, request: &ModifyQpReq) -> Outcome {
    let moved = call.device().command(Opcode::MODIFY_QP, request);
    moved.map_err(|error| qp_attrs::failure(call, error))
}

pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let offer = begun::offer(call)?;
    let Payload::Qp(queue_pair) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let given = Given::read(call)?;
    let ends = given.mask == verbena_hw::qp::attr::STATE && given.attrs.state == QpState::ERR.0;
    if queue_pair.owner.get().is_some() && !ends {
        return Err(Failure::new(Errno::EBUSY, Reason::IN_USE));
    }
    let request = ModifyQpReq {
        qpn: queue_pair.qpn,
        mask: given.mask,
        attrs: given.attrs,
    };
    match offer {
        Some(offer) => offer.modify(&request),
        None => transition(call, &request),
    }
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Qp(queue_pair) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (qpn, pd, sizes) = (queue_pair.qpn, queue_pair.pd, queue_pair.sizes);
    let (send_cq, recv_cq, srq) = (queue_pair.send_cq, queue_pair.recv_cq, queue_pair.srq);
    let rings = queue_pair.rings(call.object().id());
    let request = HandleReq {
        handle: qpn.get(),
        reserved: 0,
    };
    let state: QueryQpRsp = call.device().command(Opcode::QUERY_QP, &request)?;
    call.put(qp::PD, &pd)?;
    call.put(qp::SEND_CQ, &send_cq)?;
    if let Some(recv_cq) = recv_cq {
        call.put(qp::RECV_CQ, &recv_cq)?;
    }
    if let Some(srq) = srq {
        call.put(qp::SRQ, &srq)?;
    }
    call.put(qp::QPN, &qpn.get())?;
    call.put(QP_RINGS, &rings)?;
    let caps = QpCaps {
        max_send_wr: 1 << sizes.send_entries,
        max_recv_wr: sizes.recv_count(),
        max_send_sge: u32::from(state.max_send_sge),
        max_recv_sge: u32::from(state.max_recv_sge),
        max_inline: u32::from(state.max_inline),
        reserved: 0,
    };
    call.put(qp::CAPS, &caps)?;
    let flags = if state.flags & QP_SIGNAL_ALL != 0 {
        flag::SIGNAL_ALL
    } else {
        0
    };
    call.put(qp::FLAGS, &flags)?;
    qp_attrs::answer(call, &state.attrs)
}

/// What the device is asked to begin with the end of the queue pair that a DESTROY is about.
///
/// # Errors
///
/// Others are to hear of it first.
pub(crate) fn to_destroy<P: Platform>(call: &Handling<'_, P>) -> Outcome<HandleReq> {
    let Payload::Qp(queue_pair) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    if queue_pair.owner.get().is_some() {
        return Err(Failure::new(Errno::EBUSY, Reason::BUSY));
    }
    Ok(HandleReq {
        handle: queue_pair.qpn.get(),
        reserved: 0,
    })
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Qp(queue_pair)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let qpn = queue_pair.qpn.get();
    cm::queue_pair_goes(ending.device(), queue_pair);
    Ok(delist_and(ending.context.device(), Kind::Qp, qpn, || {
        end(ending, Opcode::DESTROY_QP, qpn)
    })?)
}
