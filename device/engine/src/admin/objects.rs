// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about completion queues and queue pairs.
//!
//! Each checks its whole request before it changes anything, and counts itself among the users of what it refers to.

use crate::admin::memory::{handle_reserved, page_failure};
use crate::admin::{eq, pd, xrcd, Failure, Reply};
use crate::cq::Cq;
use crate::env::{Dma, Env};
use crate::hca::{Cx, Hca, InPd};
use crate::limits;
use crate::qp::xrc::Domain;
use crate::qp::{modify, Qp, Requester, Responder, Wait};
use crate::ram;
use crate::regulars::Standing;
use crate::ring::Ring;
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{
    CreateCqReq, CreateQpReq, HandleReq, HandleRsp, ModifyQpReq, QueryCqRsp, QueryQpRsp, CQ_COUNTER, QP_SIGNAL_ALL,
};
use verbena_hw::cqe::{self, CounterRecord, CqRecord, Cqe};
use verbena_hw::doorbell::SLOTS;
use verbena_hw::eqe::{self, Eqe};
use verbena_hw::id::{Cqn, Qpn, Srqn};
use verbena_hw::qp::{attr, QpAttrs, QpState, QpType};
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{
    send_head, RecvHeader, Sge, MAX_INLINE, MAX_LOG_ENTRIES, MAX_LOG_STRIDE, MAX_SGE, RECV_MIN_LOG_STRIDE,
    SEND_MIN_LOG_STRIDE,
};

pub(crate) const HANDLE: u32 = offset_of!(HandleReq, handle) as u32;

pub(crate) fn created(handle: u32) -> Reply {
    Reply::new(&HandleRsp { handle, reserved: 0 })
}

/// Makes a ring from a request's page list.
#[expect(clippy::too_many_arguments, reason = "a ring's shape, and where the request says it")]
pub(crate) fn ring<E: Env>(
    hca: &Hca,
    cx: &Cx<'_, E>,
    list: PageList,
    log_entries: u8,
    entry: usize,
    dma: Dma,
    held: usize,
    offset: u32,
) -> Result<Ring, Failure> {
    let room = limits::EXTENTS.saturating_sub(hca.extents + held);
    let log_stride = entry.trailing_zeros() as u8;
    Ring::new(cx.env.ram(hca.id), list, log_entries, log_stride, dma, room).map_err(|fault| page_failure(fault, offset))
}

/// CREATE_CQ.
pub(crate) fn create_cq<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateCqReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateCqReq, $field) as u32
        };
    }
    if req.reserved != [0; 10] {
        return Err(Failure::reserved(at!(reserved)));
    }
    let counts = match req.flags {
        0 => false,
        CQ_COUNTER => true,
        _ => return Err(Failure::bad_field(at!(flags))),
    };
    if req.log_entries > cqe::MAX_LOG_ENTRIES {
        return Err(Failure::bad_field(at!(log_entries)));
    }
    if hca.eq(req.eqn).is_none() {
        return Err(Failure::no_such_object(at!(eqn)));
    }
    let (record, entry, dma) = match counts {
        true => (size_of::<CounterRecord>(), size_of::<u64>(), Dma::Write),
        false => (size_of::<CqRecord>(), size_of::<Cqe>(), Dma::Read),
    };
    let mapped = ram::whole(cx.env.ram(hca.id), req.record, record, dma).is_ok();
    if req.record % record as u64 != 0 || !mapped {
        return Err(Failure::bad_address(at!(record)));
    }
    if !hca.cqs.has_room() {
        return Err(Failure::limit(hca.cqs.limit()));
    }
    let ring = ring(hca, cx, req.ring, req.log_entries, entry, Dma::Write, 0, at!(ring))?;
    hca.extents += ring.cost();
    if let Some(eq) = hca.eq_mut(req.eqn) {
        eq.users += 1;
    }
    let make = if counts { Cq::counter } else { Cq::new };
    let cq = make(ring, req.record, req.cookie, req.eqn);
    Ok(created(hca.cqs.insert_with(|_| Box::new(cq))))
}

/// DESTROY_CQ.
pub(crate) fn destroy_cq<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let cq = hca.cqs.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    if cq.users > 0 {
        return Err(Failure::in_use(cq.users));
    }
    let (eqn, cost) = (cq.eqn, cq.ring.cost());
    if let Some(mut cq) = hca.cqs.remove(req.handle) {
        cx.schedule.disarm_cq(hca.id, req.handle, &mut cq.timer);
    }
    hca.extents -= cost;
    eq::release(hca, eqn, |eqe| is_of_cq(eqe, req.handle));
    Ok(Reply::empty())
}

fn is_of_cq(eqe: &Eqe, cqn: u32) -> bool {
    matches!(eqe::Event(eqe.event), eqe::Event::COMPLETION | eqe::Event::CQ_ERR) && eqe.number == cqn
}

pub(crate) fn is_of_qp(eqe: &Eqe, qpn: u32) -> bool {
    (eqe::Event::QP_FATAL.0..=eqe::Event::LAST_WQE_REACHED.0).contains(&eqe.event) && eqe.number == qpn
}

/// QUERY_CQ.
pub(crate) fn query_cq<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let ram = cx.env.ram(hca.id);
    let cq = hca.cqs.get_mut(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    cq.refresh(ram);
    Ok(Reply::new(&QueryCqRsp {
        entries: cq.ring.entries(),
        producer: cq.producer,
        consumer: cq.consumer,
        overrun: u32::from(cq.failed.is_some()),
        users: cq.users,
        events: cq.events,
        moderation_count: cq.moderation.count,
        // What a command has set fits.
        moderation_us: cq.moderation.period.as_micros() as u32,
    }))
}

macro_rules! at_qp {
    ($field:ident) => {
        offset_of!(CreateQpReq, $field) as u32
    };
}

/// CREATE_QP.
pub(crate) fn create_qp<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateQpReq) -> Result<Reply, Failure> {
    if req.reserved2 != 0 {
        return Err(Failure::reserved(at_qp!(reserved2)));
    }
    if req.mask == 0 && req.attrs != QpAttrs::default() {
        return Err(Failure::reserved(at_qp!(attrs)));
    }
    let number = match req.qp_type {
        QpType::XRC_TGT => xrcd::create_target(hca, req)?,
        _ => create_with_queues(hca, cx, req)?,
    };
    if req.mask != 0 {
        if let Err(failure) = on_its_way(hca, cx, req, number) {
            let request = HandleReq {
                handle: number,
                reserved: 0,
            };
            let ended = destroy_qp(hca, cx, &request);
            assert!(ended.is_ok(), "nothing stands on a queue pair that nobody knows");
            return Err(failure);
        }
    }
    Ok(created(number))
}

/// A queue pair of any other type than an XRC target, in RESET: its number.
fn create_with_queues<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateQpReq) -> Result<u32, Failure> {
    check_qp_shape(req)?;
    if hca.pds.get(req.pdn.0).is_none() {
        return Err(Failure::no_such_object(at_qp!(pdn)));
    }
    for (cqn, offset) in [(req.send_cqn, at_qp!(send_cqn)), (req.recv_cqn, at_qp!(recv_cqn))] {
        let none = req.qp_type == QpType::XRC_INI && offset == at_qp!(recv_cqn);
        if !none && hca.cqs.get(cqn.get()).is_none() {
            return Err(Failure::no_such_object(offset));
        }
    }
    if req.srqn != Srqn::default() {
        let srq = hca
            .srqs
            .get(req.srqn.get())
            .ok_or(Failure::no_such_object(at_qp!(srqn)))?;
        // An XRC queue is named by requests, not by queue pairs.
        if srq.xrcdn != 0 {
            return Err(Failure::bad_field(at_qp!(srqn)));
        }
    }
    if hca.eq(req.eqn).is_none() {
        return Err(Failure::no_such_object(at_qp!(eqn)));
    }
    let Some(page) = hca.doorbells.get(req.doorbell) else {
        return Err(Failure::no_such_object(at_qp!(doorbell)));
    };
    if page.is_bound(req.slot) {
        return Err(Failure {
            status: Status::SLOT_TAKEN,
            detail: req.slot.into(),
        });
    }
    if !hca.qps.has_room() {
        return Err(Failure::limit(hca.qps.limit()));
    }
    if req.qp_type == QpType::GSI && hca.gsi.is_some() {
        return Err(Failure::limit(1));
    }
    let sq_stride = 1 << req.sq_log_stride;
    let sq = ring(hca, cx, req.sq, req.sq_log_entries, sq_stride, Dma::Read, 0, at_qp!(sq))?;
    let rq = if has_receive_queue(req) {
        let stride = 1 << req.rq_log_stride;
        let held = sq.cost();
        Some(ring(
            hca,
            cx,
            req.rq,
            req.rq_log_entries,
            stride,
            Dma::Read,
            held,
            at_qp!(rq),
        )?)
    } else {
        None
    };

    hca.extents += sq.cost() + rq.as_ref().map_or(0, Ring::cost);
    if let Some(pd) = hca.pds.get_mut(req.pdn.0) {
        pd.enter(InPd::Qp);
    }
    count_cq(hca, req.send_cqn, 1);
    count_cq(hca, req.recv_cqn, 1);
    if let Some(srq) = hca.srqs.get_mut(req.srqn.get()) {
        srq.users += 1;
    }
    if let Some(eq) = hca.eq_mut(req.eqn) {
        eq.users += 1;
    }
    let number = hca.qps.insert_with(|number| new_qp(req, number, sq, rq));
    if req.qp_type == QpType::GSI {
        hca.gsi = Some(Qpn::truncate(number));
    }
    if let Some(page) = hca.doorbells.get_mut(req.doorbell) {
        let bound = page.bind(req.slot, Qpn::truncate(number));
        assert!(bound, "the slot was free a moment ago");
    }
    Ok(number)
}

/// A queue pair in RESET.
pub(crate) fn new_qp(req: &CreateQpReq, number: u32, sq: Ring, rq: Option<Ring>) -> Box<Qp> {
    Box::new(Qp {
        kind: req.qp_type,
        qpn: Qpn::truncate(number),
        cookie: req.cookie,
        pdn: req.pdn,
        send_cqn: req.send_cqn,
        recv_cqn: req.recv_cqn,
        srqn: req.srqn,
        eqn: req.eqn,
        doorbell: req.doorbell,
        slot: req.slot,
        signal_all: req.flags & QP_SIGNAL_ALL != 0,
        max_send_sge: req.max_send_sge,
        max_recv_sge: req.max_recv_sge,
        max_inline: req.max_inline,
        state: QpState::RESET,
        groups: 0,
        attrs: QpAttrs::default(),
        sq,
        rq,
        req: Requester::default(),
        resp: Responder::default(),
        wire: None,
        active: false,
        seated: false,
        wait: Wait::Nothing,
        deadline: None,
        rescans: 0,
        last_wqe: false,
        windows: 0,
        regular: Standing::default(),
        counter_set: 0,
        xrc: Domain {
            xrcdn: req.xrcdn,
            ..Domain::default()
        },
        pace: None,
    })
}

/// Moves a new queue pair from RESET to where its CREATE says.
fn on_its_way<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateQpReq, number: u32) -> Result<(), Failure> {
    let request = ModifyQpReq {
        qpn: Qpn::truncate(number),
        mask: req.mask | attr::CUR_STATE,
        attrs: QpAttrs {
            cur_state: QpState::RESET.0,
            ..req.attrs
        },
    };
    // The attributes' offsets are those in the request that they came in.
    let moved = (offset_of!(CreateQpReq, attrs) - offset_of!(ModifyQpReq, attrs)) as u32;
    match modify::modify(hca, cx, &request) {
        Ok(_) => Ok(()),
        Err(failure) if matches!(failure.status, Status::BAD_FIELD | Status::RESERVED_FIELD) => Err(Failure {
            detail: failure.detail + moved,
            ..failure
        }),
        Err(failure) => Err(failure),
    }
}

fn has_receive_queue(req: &CreateQpReq) -> bool {
    req.rq != PageList::default()
}

/// Checks what a queue pair's request says by itself.
fn check_qp_shape(req: &CreateQpReq) -> Result<(), Failure> {
    if req.reserved != [0; 4] {
        return Err(Failure::reserved(at_qp!(reserved)));
    }
    let field = |good: bool, offset: u32| {
        if good {
            Ok(())
        } else {
            Err(Failure::bad_field(offset))
        }
    };
    let offered = u32::from(req.qp_type.0) < u32::BITS && limits::QP_TYPES & 1 << req.qp_type.0 != 0;
    field(offered, at_qp!(qp_type))?;
    field(req.flags & !QP_SIGNAL_ALL == 0, at_qp!(flags))?;
    field(req.xrcdn == 0, at_qp!(xrcdn))?;
    if req.qp_type == QpType::XRC_INI {
        field(!has_receive_queue(req), at_qp!(rq))?;
        field(req.srqn == Srqn::default(), at_qp!(srqn))?;
        field(req.recv_cqn == Cqn::default(), at_qp!(recv_cqn))?;
    }
    // Receives come from one queue or the other.
    field(req.srqn == Srqn::default() || !has_receive_queue(req), at_qp!(srqn))?;
    field(u32::from(req.slot) < SLOTS, at_qp!(slot))?;
    field(req.sq_log_entries <= MAX_LOG_ENTRIES, at_qp!(sq_log_entries))?;
    field(
        (SEND_MIN_LOG_STRIDE..=MAX_LOG_STRIDE).contains(&req.sq_log_stride),
        at_qp!(sq_log_stride),
    )?;
    let fits = |head: usize, sges: u8, log_stride: u8| {
        sges <= MAX_SGE && head + usize::from(sges) * size_of::<Sge>() <= 1 << log_stride
    };
    let send = send_head(req.qp_type);
    field(1 << req.sq_log_stride >= send, at_qp!(sq_log_stride))?;
    field(fits(send, req.max_send_sge, req.sq_log_stride), at_qp!(max_send_sge))?;
    field(
        req.max_inline <= MAX_INLINE && send + usize::from(req.max_inline) <= 1 << req.sq_log_stride,
        at_qp!(max_inline),
    )?;
    if has_receive_queue(req) {
        field(req.rq_log_entries <= MAX_LOG_ENTRIES, at_qp!(rq_log_entries))?;
        field(
            (RECV_MIN_LOG_STRIDE..=MAX_LOG_STRIDE).contains(&req.rq_log_stride),
            at_qp!(rq_log_stride),
        )?;
        const RECV: usize = size_of::<RecvHeader>();
        field(fits(RECV, req.max_recv_sge, req.rq_log_stride), at_qp!(max_recv_sge))
    } else {
        field(req.rq_log_entries == 0, at_qp!(rq_log_entries))?;
        field(req.rq_log_stride == 0, at_qp!(rq_log_stride))?;
        field(req.max_recv_sge == 0, at_qp!(max_recv_sge))
    }
}

/// Counts a queue that completes there; 0 is none.
pub(crate) fn count_cq(hca: &mut Hca, cqn: Cqn, by: i32) {
    if let Some(cq) = hca.cqs.get_mut(cqn.get()) {
        cq.users = cq.users.wrapping_add_signed(by);
    }
}

/// DESTROY_QP. What is outstanding is forgotten: no completion comes after this one.
pub(crate) fn destroy_qp<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let groups = hca.qps.get(req.handle).map_or(0, |qp| qp.groups);
    if groups > 0 {
        return Err(Failure::in_use(groups));
    }
    if hca.qps.get(req.handle).is_some_and(|qp| qp.windows > 0) {
        hca.unbind_all_of(Qpn::truncate(req.handle));
    }
    let mut qp = hca.qps.remove(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    cx.fabric.rerouted();
    // Its place in the list of active ones finds nothing when its turn comes.
    cx.schedule.disarm(hca.id, &mut qp);
    cx.schedule.unpace(hca.id, &mut qp);
    hca.counter_sets.moved(qp.counter_set, 0);
    if qp.kind == QpType::XRC_TGT {
        xrcd::release_target(hca, &qp);
        return Ok(Reply::empty());
    }
    if let Some(page) = hca.doorbells.get_mut(qp.doorbell) {
        page.unbind(qp.slot);
    }
    if qp.kind == QpType::GSI {
        hca.gsi = None;
    }
    hca.extents -= qp.sq.cost() + qp.rq.as_ref().map_or(0, Ring::cost);
    pd::release(hca, qp.pdn, InPd::Qp);
    if let Some(srq) = hca.srqs.get_mut(qp.srqn.get()) {
        srq.users -= 1;
    }
    count_cq(hca, qp.send_cqn, -1);
    count_cq(hca, qp.recv_cqn, -1);
    eq::release(hca, qp.eqn, |eqe| is_of_qp(eqe, req.handle));
    Ok(Reply::empty())
}

/// QUERY_QP.
pub(crate) fn query_qp(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let qp = hca.qps.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryQpRsp {
        attrs: QpAttrs {
            state: qp.state.0,
            cur_state: qp.state.0,
            sq_psn: qp.req.psn,
            rq_psn: qp.resp.psn,
            ..qp.attrs
        },
        pdn: qp.pdn,
        send_cqn: qp.send_cqn,
        recv_cqn: qp.recv_cqn,
        qp_type: qp.kind,
        flags: u8::from(qp.signal_all) * QP_SIGNAL_ALL,
        max_inline: qp.max_inline,
        sq_consumer: qp.req.consumer,
        rq_consumer: qp.resp.consumer,
        sq_log_entries: qp.sq.log_entries,
        rq_log_entries: qp.rq.as_ref().map_or(0, |rq| rq.log_entries),
        max_send_sge: qp.max_send_sge,
        max_recv_sge: qp.max_recv_sge,
        srqn: qp.srqn,
        xrcdn: qp.xrc.xrcdn,
        reserved: [0; 3],
    }))
}
