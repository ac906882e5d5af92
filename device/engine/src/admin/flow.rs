// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about flow rules.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::{created, HANDLE};
use crate::admin::{Failure, Reply};
use crate::flow::{check_match, Rule, RuleFault};
use crate::hca::{Hca, PORT};
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{CreateFlowReq, HandleReq, QueryFlowRsp};
use verbena_hw::flow::{flags, FlowFields, FlowType, MAX_TAG};
use verbena_hw::id::Qpn;
use verbena_hw::qp::QpType;

macro_rules! at {
    ($field:ident) => {
        offset_of!(CreateFlowReq, $field) as u32
    };
}

/// CREATE_FLOW.
pub(crate) fn create(hca: &mut Hca, req: &CreateFlowReq) -> Result<Reply, Failure> {
    if req.reserved != [0; 4] {
        return Err(Failure::reserved(at!(reserved)));
    }
    let field = |good: bool, offset: u32| {
        if good {
            Ok(())
        } else {
            Err(Failure::bad_field(offset))
        }
    };
    field(req.flow_type.name().is_some(), at!(flow_type))?;
    field(req.flags & !flags::ALL == 0, at!(flags))?;
    field(
        req.tag <= MAX_TAG && (req.tag == 0 || req.flags & flags::TAG != 0),
        at!(tag),
    )?;
    field(req.port == u32::from(PORT), at!(port))?;
    let bad_match = |detail| Failure {
        status: Status::BAD_MATCH,
        detail,
    };
    if req.flow_type == FlowType::NORMAL {
        check_match(&req.value, &req.mask).map_err(|offset| bad_match(at!(mask) + offset))?;
    } else {
        field(req.priority == 0, at!(priority))?;
        // A sniffer keeps nothing from anybody, and behind the defaults there is nobody.
        field(req.flags & flags::DONT_TRAP == 0, at!(flags))?;
        if req.value != FlowFields::default() {
            return Err(bad_match(at!(value)));
        }
        if req.mask != FlowFields::default() {
            return Err(bad_match(at!(mask)));
        }
    }
    let qpn = if req.flags & flags::DROP != 0 {
        field(req.qpn == Qpn::default(), at!(qpn))?;
        None
    } else {
        let qp = hca.qps.get(req.qpn.get()).ok_or(Failure::no_such_object(at!(qpn)))?;
        field(qp.kind == QpType::RAW, at!(qpn))?;
        Some(req.qpn)
    };
    let rule = Rule {
        flow_type: req.flow_type,
        priority: req.priority,
        flags: req.flags,
        tag: req.tag,
        qpn,
        value: req.value,
        mask: req.mask,
        frames: 0,
        bytes: 0,
    };
    let number = hca.flows.insert(rule).map_err(|fault| match fault {
        RuleFault::Duplicate(number) => Failure {
            status: Status::DUPLICATE_FLOW,
            detail: number,
        },
        RuleFault::Limit(limit) => Failure::limit(limit),
    })?;
    if let Some(qp) = qpn.and_then(|qpn| hca.qps.get_mut(qpn.get())) {
        qp.groups += 1;
    }
    Ok(created(number))
}

/// DESTROY_FLOW.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let rule = hca.flows.remove(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    if let Some(qp) = rule.qpn.and_then(|qpn| hca.qps.get_mut(qpn.get())) {
        qp.groups -= 1;
    }
    Ok(Reply::empty())
}

/// QUERY_FLOW.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let rule = hca.flows.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryFlowRsp {
        qpn: rule.qpn.unwrap_or_default(),
        priority: rule.priority,
        flow_type: rule.flow_type,
        flags: rule.flags,
        tag: rule.tag,
        reserved: 0,
        value: rule.value,
        mask: rule.mask,
        frames: rule.frames,
        bytes: rule.bytes,
    }))
}
