// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state machine: which transition, with which attributes, and what each attribute may be.
//!
//! A request is checked completely before anything changes.

use crate::admin::{Failure, Reply};
use crate::env::Env;
use crate::hca::{Cx, Hca, MTU, PORT};
use crate::limits;
use crate::qp::pace::Pace;
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::ModifyQpReq;
use verbena_hw::id::{Psn, Qpn};
use verbena_hw::qp::{
    access, attr, transition, way, Path, QpAttrs, QpState, QpType, GSI_QKEY, RATE_LIMIT_MAX, RATE_LIMIT_MIN,
};

/// Offset of an attribute in the request.
macro_rules! at {
    ($field:ident) => {
        (offset_of!(ModifyQpReq, attrs) + offset_of!(QpAttrs, $field)) as u32
    };
    (path.$field:ident) => {
        at!(path) + offset_of!(Path, $field) as u32
    };
}

/// Executes MODIFY_QP.
pub(crate) fn modify<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &ModifyQpReq) -> Result<Reply, Failure> {
    let id = hca.id;
    let Some(qp) = hca.qps.get(req.qpn.get()) else {
        return Err(Failure::no_such_object(offset_of!(ModifyQpReq, qpn) as u32));
    };
    let (from, kind) = (qp.state, qp.kind);
    let to = if req.mask & attr::STATE != 0 {
        QpState(req.attrs.state)
    } else {
        from
    };
    let bad_transition = Failure {
        status: Status::BAD_TRANSITION,
        detail: u32::from(from.0) | u32::from(to.0) << 8,
    };
    let known = req.mask & attr::CUR_STATE != 0;
    let transition = if known { way } else { transition }(kind, from, to).ok_or(bad_transition)?;
    if req.mask & attr::CUR_STATE != 0 && QpState(req.attrs.cur_state) != from {
        return Err(bad_transition);
    }
    let missing = transition.required & !req.mask;
    if missing != 0 {
        return Err(Failure {
            status: Status::MISSING_ATTRIBUTE,
            detail: missing,
        });
    }
    let forbidden = req.mask & !(transition.required | transition.optional | attr::STATE | attr::CUR_STATE);
    if forbidden != 0 {
        return Err(Failure {
            status: Status::FORBIDDEN_ATTRIBUTE,
            detail: forbidden,
        });
    }
    check_values(hca, req)?;
    if kind == QpType::GSI && req.mask & attr::QKEY != 0 && req.attrs.qkey != GSI_QKEY {
        return Err(Failure::bad_field(at!(qkey)));
    }

    cx.fabric.rerouted();
    if to == QpState::ERR && from != QpState::ERR {
        hca.enter_error(cx, req.qpn);
        return Ok(Reply::empty());
    }
    let Some(qp) = hca.qps.get_mut(req.qpn.get()) else {
        return Err(bad_transition);
    };
    if to == QpState::RESET {
        cx.schedule.disarm(id, qp);
        cx.schedule.unpace(id, qp);
        qp.rewind();
        return Ok(Reply::empty());
    }
    store(&mut qp.attrs, req);
    if req.mask & attr::RATE_LIMIT != 0 {
        cx.schedule.unpace(id, qp);
        qp.pace = Pace::new(&qp.attrs, cx.now);
        // It may have waited for the old one.
        cx.schedule.activate(id, qp);
    }
    // The path may have changed: the fabric is asked again.
    qp.req.link = Default::default();
    let begins = matches!(from, QpState::RESET | QpState::INIT) && matches!(to, QpState::RTR | QpState::RTS);
    if begins && matches!(kind, QpType::RC | QpType::UC | QpType::XRC_INI | QpType::XRC_TGT) {
        let local = cx.fabric.owner(&qp.attrs.path.dgid).is_some();
        qp.wire = cx.outbox.leads_to(local).then(Default::default);
    }
    if req.mask & attr::SQ_PSN != 0 {
        qp.req.psn = req.attrs.sq_psn;
    }
    if req.mask & attr::RQ_PSN != 0 {
        qp.resp.psn = req.attrs.rq_psn;
    }
    if (from, to) == (QpState::RTS, QpState::SQD) {
        qp.req.notify_drained = qp.attrs.en_sqd_async_notify != 0;
    } else if to == QpState::RTS {
        qp.req.notify_drained = false;
    }
    qp.state = to;
    // A send queue that starts may have entries already, and one that drains may have nothing in flight.
    if matches!(to, QpState::RTS | QpState::SQD) {
        cx.schedule.activate(id, qp);
    }
    Ok(Reply::empty())
}

fn check_values(hca: &Hca, req: &ModifyQpReq) -> Result<(), Failure> {
    let a = &req.attrs;
    if a.reserved1 != 0 {
        return Err(Failure::reserved(at!(reserved1)));
    }
    if a.reserved != [0; 3] {
        return Err(Failure::reserved(at!(reserved)));
    }
    if a.reserved2 != 0 {
        return Err(Failure::reserved(at!(reserved2)));
    }
    let has = |bit: u32| req.mask & bit != 0;
    let check = |bit: u32, good: bool, offset: u32| {
        if has(bit) && !good {
            Err(Failure::bad_field(offset))
        } else {
            Ok(())
        }
    };
    check(attr::PKEY_INDEX, a.pkey_index == 0, at!(pkey_index))?;
    check(attr::PORT, a.path.port == PORT, at!(path.port))?;
    check(attr::ACCESS_FLAGS, a.access & !access::QP_ALL == 0, at!(access))?;
    check(attr::PATH_MTU, (1..=MTU.0).contains(&a.path_mtu), at!(path_mtu))?;
    check(attr::TIMEOUT, a.timeout < 32, at!(timeout))?;
    check(attr::RETRY_CNT, a.retry_cnt < 8, at!(retry_cnt))?;
    check(attr::RNR_RETRY, a.rnr_retry < 8, at!(rnr_retry))?;
    check(attr::MIN_RNR_TIMER, a.min_rnr_timer < 32, at!(min_rnr_timer))?;
    check(
        attr::MAX_QP_RD_ATOMIC,
        a.max_rd_atomic <= limits::RD_ATOMIC,
        at!(max_rd_atomic),
    )?;
    check(
        attr::MAX_DEST_RD_ATOMIC,
        a.max_dest_rd_atomic <= limits::RD_ATOMIC,
        at!(max_dest_rd_atomic),
    )?;
    check(
        attr::EN_SQD_ASYNC_NOTIFY,
        a.en_sqd_async_notify < 2,
        at!(en_sqd_async_notify),
    )?;
    let limits = RATE_LIMIT_MIN..=RATE_LIMIT_MAX;
    check(
        attr::RATE_LIMIT,
        a.rate_limit == 0 || limits.contains(&a.rate_limit),
        at!(rate_limit),
    )?;
    check(attr::DEST_QPN, a.dest_qpn.get() <= Qpn::MAX, at!(dest_qpn))?;
    check(attr::SQ_PSN, a.sq_psn.get() <= Psn::MASK, at!(sq_psn))?;
    check(attr::RQ_PSN, a.rq_psn.get() <= Psn::MASK, at!(rq_psn))?;
    if has(attr::AV) {
        check_path(hca, &a.path)?;
    }
    Ok(())
}

fn check_path(hca: &Hca, path: &Path) -> Result<(), Failure> {
    if path.reserved0 != 0 || path.reserved1 != 0 || path.reserved2 != 0 {
        return Err(Failure::reserved(at!(path.reserved0)));
    }
    // A connection has one other end.
    if path.dgid.is_zero() || path.dgid.is_multicast() {
        return Err(Failure::bad_field(at!(path.dgid)));
    }
    if path.flow_label >= 1 << 20 {
        return Err(Failure::bad_field(at!(path.flow_label)));
    }
    if path.sl > 15 {
        return Err(Failure::bad_field(at!(path.sl)));
    }
    if hca.source_gid(path.sgid_index).is_none() {
        return Err(Failure {
            status: Status::BAD_GID_INDEX,
            detail: path.sgid_index.into(),
        });
    }
    Ok(())
}

/// Takes over the attributes that the mask names.
fn store(attrs: &mut QpAttrs, req: &ModifyQpReq) {
    let new = &req.attrs;
    macro_rules! take {
        ($($bit:ident => $field:ident,)*) => {
            $(if req.mask & attr::$bit != 0 {
                attrs.$field = new.$field;
            })*
        };
    }
    let port = attrs.path.port;
    take! {
        EN_SQD_ASYNC_NOTIFY => en_sqd_async_notify,
        ACCESS_FLAGS => access,
        PKEY_INDEX => pkey_index,
        QKEY => qkey,
        AV => path,
        PATH_MTU => path_mtu,
        TIMEOUT => timeout,
        RETRY_CNT => retry_cnt,
        RNR_RETRY => rnr_retry,
        RQ_PSN => rq_psn,
        MAX_QP_RD_ATOMIC => max_rd_atomic,
        MIN_RNR_TIMER => min_rnr_timer,
        SQ_PSN => sq_psn,
        MAX_DEST_RD_ATOMIC => max_dest_rd_atomic,
        DEST_QPN => dest_qpn,
        RATE_LIMIT => rate_limit,
        RATE_LIMIT => max_burst,
        RATE_LIMIT => typical_packet,
    }
    // The port is an attribute of its own, though it stands in the path.
    attrs.path.port = if req.mask & attr::PORT != 0 {
        new.path.port
    } else {
        port
    };
}
