// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory windows.
//!
//! What a window is bound to is the device's knowledge alone: work requests, which nobody sees here, change it. So a region
//! in use is refused by the device, and one whose owner is gone is taken away with its windows (`mr::release`).

use crate::driver::{end, Handling, Payload};
use crate::platform::Platform;
use crate::{CommandError, Verbena};
use rdma_uapi::class::mw::{self, kind};
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Failure, Reason};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{BindMwReq, CreateMwReq, CreateMwRsp, HandleReq, QueryMwRsp};
use verbena_hw::cqe::vendor;
use verbena_hw::id::Key;
use verbena_hw::mw::MwType;

/// A memory window.
pub struct Mw {
    /// Its key's index: what the device knows it by.
    index: u32,
    mw_type: MwType,
    pd: ObjectId,
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let pd = call.require_object(mw::PD)?;
    let Some(Payload::Pd(domain)) = pd.payload() else {
        unreachable!("the attribute takes protection domains only")
    };
    let mw_type = match call.require(mw::TYPE)? {
        kind::TYPE_1 => MwType::TYPE_1,
        kind::TYPE_2 => MwType::TYPE_2,
        _ => return Err(call.out_of_range(mw::TYPE)),
    };
    let reservation = call.reserve()?;
    let request = CreateMwReq {
        pdn: domain.pdn,
        mw_type,
        reserved: [0; 3],
    };
    let response: CreateMwRsp = call.device().command(Opcode::CREATE_MW, &request)?;
    let window = Mw {
        index: response.rkey.index(),
        mw_type,
        pd: pd.id(),
    };
    call.publish(reservation, Some(Payload::Mw(window)), &[&pd]);
    call.put(mw::RKEY, &response.rkey.0)
}

/// Binds a window of type 1.
pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Mw(window) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let index = window.index;
    if window.mw_type != MwType::TYPE_1 {
        return Err(call.fail(mw::LENGTH, Errno::EINVAL, Reason::BAD_STATE));
    }
    let length = call.require(mw::LENGTH)?;
    // Held while the device looks it up, so that it cannot go meanwhile.
    let region = if length > 0 {
        Some(call.require_object(mw::MR)?)
    } else {
        None
    };
    let lkey = match region.as_ref().and_then(|region| region.payload()) {
        Some(Payload::Mr(region)) => region.lkey(),
        Some(_) => unreachable!("the attribute takes memory regions only"),
        None => Key(0),
    };
    let request = BindMwReq {
        addr: if length > 0 { call.require(mw::ADDR)? } else { 0 },
        len: length,
        index,
        lkey,
        access: call.get(mw::ACCESS)?.unwrap_or(0),
        reserved: [0; 2],
        reserved1: 0,
    };
    let response: CreateMwRsp = call
        .device()
        .command(Opcode::BIND_MW, &request)
        .map_err(|error| failure(call, error))?;
    call.put(mw::RKEY, &response.rkey.0)
}

/// What the device's refusal to bind means, with the attribute's name.
fn failure<P: Platform>(call: &Handling<'_, P>, error: CommandError) -> Failure {
    let CommandError::Refused {
        status: Status::BIND_REFUSED,
        detail,
        ..
    } = error
    else {
        return error.into();
    };
    match detail {
        vendor::KEY_RANGE => call.out_of_range(mw::LENGTH),
        vendor::KEY_PD => call.fail(mw::MR, Errno::EINVAL, Reason::CONFLICT),
        _ => call.fail(mw::ACCESS, Errno::EINVAL, Reason::NOT_ALLOWED),
    }
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Mw(window) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (pd, mw_type) = (window.pd, window.mw_type);
    let request = HandleReq {
        handle: window.index,
        reserved: 0,
    };
    let state: QueryMwRsp = call.device().command(Opcode::QUERY_MW, &request)?;
    call.put(mw::PD, &pd)?;
    call.put(mw::TYPE, &u32::from(mw_type.0))?;
    call.put(mw::RKEY, &state.rkey.0)?;
    call.put(mw::ADDR, &state.iova)?;
    call.put(mw::LENGTH, &state.len)?;
    call.put(mw::ACCESS, &state.access)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Mw(window)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    Ok(end(ending, Opcode::DESTROY_MW, window.index)?)
}
