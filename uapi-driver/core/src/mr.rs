// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory regions: user memory, pinned, named to the device page by page.

use crate::driver::{end, Handling, Payload};
use crate::pages::Pages;
use crate::platform::{Platform, PAGE};
use crate::Verbena;
use rdma_uapi::class::mr::{self, access};
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Cause, Ending, Errno, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateMrReq, CreateMrRsp};

/// A memory region.
pub struct Mr<P: Platform> {
    pub(crate) lkey: u32,
    rkey: u32,
    access: u32,
    pd: ObjectId,
    addr: u64,
    length: u64,
    iova: u64,
    /// Dropped with the object: after the device has given the region up.
    _pinned: P::Pinned,
    _charge: P::Charge,
}

/// Rights that need the memory to be writable.
const WRITING: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_ATOMIC | access::MW_BIND;
/// Rights that say how, not what: a device that does not know them loses nothing but speed.
const HINTS: u32 = access::RELAXED_ORDERING | access::HUGE_TLB;

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let pd = call.require_object(mr::PD)?;
    let Some(Payload::Pd(domain)) = pd.payload() else {
        unreachable!("the attribute takes protection domains only")
    };
    let (addr, length) = (call.require(mr::ADDR)?, call.require(mr::LENGTH)?);
    let access = call.require(mr::ACCESS)?;
    check_access(call, access)?;
    let zero_based = access & access::ZERO_BASED != 0;
    let iova = call.get(mr::IOVA)?.unwrap_or(if zero_based { 0 } else { addr });
    if zero_based && iova != 0 {
        return Err(call.fail(mr::IOVA, Errno::EINVAL, Reason::CONFLICT));
    }
    if length == 0 || length > hardware.limits.max_mr_size {
        return Err(call.out_of_range(mr::LENGTH));
    }
    // The last page's end must not wrap either.
    let Some(end) = addr
        .checked_add(length)
        .and_then(|end| end.checked_next_multiple_of(PAGE))
    else {
        return Err(call.out_of_range(mr::LENGTH));
    };
    if iova.checked_add(length - 1).is_none() {
        return Err(call.out_of_range(mr::IOVA));
    }

    let reservation = call.reserve()?;
    let owner = call.context().owner();
    let charge = call.host().charge(owner, end - addr / PAGE * PAGE)?;
    let writable = access & WRITING != 0;
    let pinned = hardware.platform.pin(owner, addr, length, writable)?;
    let pages: Pages<P> = Pages::of(&hardware.platform, &pinned, hardware.large_pages)?;
    let request = CreateMrReq {
        pages: pages.list,
        iova,
        len: length,
        first_offset: pages.first_offset,
        pdn: domain.pdn,
        access: access & !HINTS,
        reserved: 0,
    };
    let response: CreateMrRsp = hardware.command(Opcode::CREATE_MR, &request)?;
    drop(pages);

    let (lkey, rkey) = (response.lkey.0, response.rkey.0);
    let region = Mr {
        lkey,
        rkey,
        access,
        pd: pd.id(),
        addr,
        length,
        iova,
        _pinned: pinned,
        _charge: charge,
    };
    call.publish(reservation, Some(Payload::Mr(region)), &[&pd]);
    call.put(mr::LKEY, &lkey)?;
    call.put(mr::RKEY, &rkey)
}

fn check_access<P: Platform>(call: &Handling<'_, P>, access: u32) -> Outcome {
    if access & !access::ALL != 0 {
        return Err(call.fail(mr::ACCESS, Errno::EINVAL, Reason::UNKNOWN_FLAG));
    }
    if access & !HINTS & !verbena_hw::qp::access::MR_ALL != 0 {
        return Err(call.fail(mr::ACCESS, Errno::EOPNOTSUPP, Reason::UNSUPPORTED));
    }
    // IBA vol. 1, 10.6.3.1: a region that peers may write is one that its owner may write.
    let remote = access::REMOTE_WRITE | access::REMOTE_ATOMIC;
    if access & remote != 0 && access & access::LOCAL_WRITE == 0 {
        return Err(call.fail(mr::ACCESS, Errno::EINVAL, Reason::CONFLICT));
    }
    Ok(())
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Mr(region) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let &Mr {
        lkey,
        rkey,
        access,
        pd,
        addr,
        length,
        iova,
        ..
    } = region;
    call.put(mr::PD, &pd)?;
    call.put(mr::ADDR, &addr)?;
    call.put(mr::LENGTH, &length)?;
    call.put(mr::IOVA, &iova)?;
    call.put(mr::ACCESS, &access)?;
    call.put(mr::LKEY, &lkey)?;
    call.put(mr::RKEY, &rkey)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Mr(region)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    // Windows that its owner has bound keep a region. When the owner is gone they are nobody's.
    let opcode = match ending.cause {
        Cause::Close => Opcode::REVOKE_MR,
        _ => Opcode::DESTROY_MR,
    };
    Ok(end(ending, opcode, verbena_hw::id::Key(region.lkey).index())?)
}
