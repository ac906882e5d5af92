// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory regions: user memory, pinned, named to the device page by page.

use crate::driver::{end, Handling, Payload, Reference};
use crate::pages::Pages;
use crate::platform::{Platform, PAGE};
use crate::Verbena;
use rdma_uapi::class::mr::{self, access};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::Mutex;
use rdma_uapi::{Cause, Dependence, Ending, Errno, Failure, Reason, Reservation};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{
    mr_modify as change, CreateMrReq, CreateMrRsp, HandleReq, ModifyMrReq, QueryDeviceRsp, QueryMrRsp, MR_FAST, MR_NULL,
};
use verbena_hw::id::{Key, Pdn};
use verbena_hw::ring::PageList;
use verbena_hw::wqe::SendOpcode;

/// A memory region.
pub struct Mr<P: Platform> {
    /// Held while the region is registered anew.
    state: Mutex<State<P>>,
    kind: Kind,
}

/// What a region has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Memory of its process.
    Memory,
    /// What work requests give it: so many elements at most. What it is at the moment only the device knows.
    Fast(u32),
    /// Nothing.
    Null,
}

/// What a region is at the moment.
struct State<P: Platform> {
    lkey: Key,
    rkey: Key,
    access: u32,
    place: Place,
    /// `None`: it has ended.
    pd: Option<Dependence<Verbena<P>>>,
    /// Dropped when the device has given the memory up; `None` if it has none of its own.
    memory: Option<Memory<P>>,
}

/// The memory, as the process names it.
#[derive(Clone, Copy, Default)]
struct Place {
    addr: u64,
    length: u64,
    iova: u64,
}

/// The memory, as the system has it.
struct Memory<P: Platform> {
    pinned: P::Pinned,
    _charge: P::Charge,
}

/// Rights that need the memory to be writable.
const WRITING: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_ATOMIC | access::MW_BIND;
/// Rights that say how, not what: a device that does not know them loses nothing but speed.
const HINTS: u32 = access::RELAXED_ORDERING | access::HUGE_TLB;

impl<P: Platform> Mr<P> {
    /// Whether it keeps memory of its own.
    pub(crate) fn is_pinned(&self) -> bool {
        self.kind == Kind::Memory
    }

    /// The key by which its owner's work requests name it now; its index never changes.
    pub(crate) fn lkey(&self) -> Key {
        self.state.lock().lkey
    }
}

fn pdn<P: Platform>(pd: &Reference<P>) -> Pdn {
    match pd.payload() {
        Some(Payload::Pd(domain)) => domain.pdn,
        _ => unreachable!("the attribute takes protection domains only"),
    }
}

/// What the message says of the memory, with these rights.
fn place<P: Platform>(call: &Handling<'_, P>, access: u32) -> Outcome<Place> {
    let (addr, length) = (call.require(mr::ADDR)?, call.require(mr::LENGTH)?);
    let zero_based = access & access::ZERO_BASED != 0;
    let iova = call.get(mr::IOVA)?.unwrap_or(if zero_based { 0 } else { addr });
    if zero_based && iova != 0 {
        return Err(call.fail(mr::IOVA, Errno::EINVAL, Reason::CONFLICT));
    }
    if length == 0 || length > call.device().limits.max_mr_size || last_page_end(addr, length).is_none() {
        return Err(call.out_of_range(mr::LENGTH));
    }
    if iova.checked_add(length - 1).is_none() {
        return Err(call.out_of_range(mr::IOVA));
    }
    Ok(Place { addr, length, iova })
}

/// The end of the last page, which must not wrap either.
fn last_page_end(addr: u64, length: u64) -> Option<u64> {
    addr.checked_add(length)?.checked_next_multiple_of(PAGE)
}

/// Charges and pins memory.
fn pin<P: Platform>(call: &Handling<'_, P>, place: &Place, access: u32) -> Outcome<Memory<P>> {
    let (owner, addr) = (call.context().owner(), place.addr);
    let Some(end) = last_page_end(addr, place.length) else {
        return Err(call.out_of_range(mr::LENGTH));
    };
    let charge = call.host().charge(owner, end - addr / PAGE * PAGE)?;
    let writable = access & WRITING != 0;
    let pinned = call.device().platform.pin(owner, addr, place.length, writable)?;
    Ok(Memory {
        pinned,
        _charge: charge,
    })
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let pd = call.require_object(mr::PD)?;
    if let Some(max_elements) = call.get(mr::MAX_ELEMENTS)? {
        return create_fast(call, &pd, max_elements);
    }
    if let Some(null) = call.get(mr::NULL)? {
        if null != 1 {
            return Err(call.out_of_range(mr::NULL));
        }
        return create_empty(call, &pd, Kind::Null);
    }
    let access = call.require(mr::ACCESS)?;
    check_access(call, access)?;
    let place = place(call, access)?;

    let reservation = call.reserve()?;
    let memory = pin(call, &place, access)?;
    let pages: Pages<P> = Pages::of(&hardware.platform, &memory.pinned, hardware.large_pages)?;
    let request = CreateMrReq {
        pages: pages.list,
        iova: place.iova,
        len: place.length,
        first_offset: pages.first_offset,
        pdn: pdn(&pd),
        access: access & !HINTS,
        flags: 0,
        reserved: 0,
    };
    let state = State {
        lkey: Key::default(),
        rkey: Key::default(),
        access,
        place,
        pd: Some(pd.depend()),
        memory: Some(memory),
    };
    let created = finish(call, reservation, state, &request, Kind::Memory);
    drop(pages);
    created
}

/// Makes the region in the device, and of it an object.
fn finish<'c, P: Platform>(
    call: &mut Handling<'c, P>,
    reservation: Reservation<'c, Verbena<P>>,
    state: State<P>,
    request: &CreateMrReq,
    kind: Kind,
) -> Outcome {
    let state = Mutex::try_new(state, c"verbena_mr")?;
    let response: CreateMrRsp = call.device().command(Opcode::CREATE_MR, request)?;
    let (lkey, rkey) = (response.lkey, response.rkey);
    {
        let mut state = state.lock();
        (state.lkey, state.rkey) = (lkey, rkey);
    }
    let region = Mr { state, kind };
    call.publish(reservation, Some(Payload::Mr(region)), &[]);
    call.put(mr::LKEY, &lkey.0)?;
    call.put(mr::RKEY, &rkey.0)
}

/// Elements of a region that work requests register: as many as the device reads from memory or, if it does not, as an entry has.
pub(crate) fn max_fast_elements(limits: &QueryDeviceRsp) -> u32 {
    let offers = |opcode: SendOpcode| limits.rc_opcodes & 1 << opcode.0 != 0;
    if offers(SendOpcode::FAST_REGISTER_LIST) {
        limits.max_fast_elements
    } else if offers(SendOpcode::FAST_REGISTER) {
        limits.max_sge
    } else {
        0
    }
}

/// A region that work requests give memory to.
fn create_fast<P: Platform>(call: &mut Handling<'_, P>, pd: &Reference<P>, max_elements: u32) -> Outcome {
    if call.has(mr::NULL) {
        return Err(call.fail(mr::NULL, Errno::EINVAL, Reason::CONFLICT));
    }
    if max_elements == 0 || max_elements > max_fast_elements(&call.device().limits) {
        return Err(call.out_of_range(mr::MAX_ELEMENTS));
    }
    create_empty(call, pd, Kind::Fast(max_elements))
}

/// A region without memory of its own.
fn create_empty<P: Platform>(call: &mut Handling<'_, P>, pd: &Reference<P>, kind: Kind) -> Outcome {
    let (len, flags) = match kind {
        Kind::Fast(max_elements) => (max_elements, MR_FAST),
        _ => (0, MR_NULL),
    };
    for attr in [mr::ADDR, mr::LENGTH, mr::IOVA] {
        if call.has(attr) {
            return Err(call.fail(attr, Errno::EINVAL, Reason::CONFLICT));
        }
    }
    if call.has(mr::ACCESS) {
        return Err(call.fail(mr::ACCESS, Errno::EINVAL, Reason::CONFLICT));
    }
    let reservation = call.reserve()?;
    let request = CreateMrReq {
        pages: PageList::default(),
        iova: 0,
        len: len.into(),
        first_offset: 0,
        pdn: pdn(pd),
        access: 0,
        flags,
        reserved: 0,
    };
    let state = State {
        lkey: Key::default(),
        rkey: Key::default(),
        access: 0,
        place: Place::default(),
        pd: Some(pd.depend()),
        memory: None,
    };
    finish(call, reservation, state, &request, kind)
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

/// Registers a region anew. The device changes it in one step, so whatever fails leaves it as it was.
pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let Payload::Mr(region) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    if !region.is_pinned() {
        return Err(Failure::new(Errno::EINVAL, Reason::NOT_ALLOWED));
    }
    let pd = call.object_at(mr::PD)?;
    let rights = call.get(mr::ACCESS)?;
    let moves = call.has(mr::ADDR) || call.has(mr::LENGTH) || call.has(mr::IOVA);
    if !moves && pd.is_none() && rights.is_none() {
        return Err(call.fail(mr::ACCESS, Errno::EINVAL, Reason::MISSING));
    }
    let mut state = region.state.lock();
    let access = rights.unwrap_or(state.access);
    check_access(call, access)?;
    let mut place = if moves { place(call, access)? } else { state.place };
    if !moves && (access ^ state.access) & access::ZERO_BASED != 0 {
        place.iova = if access & access::ZERO_BASED != 0 {
            0
        } else {
            place.addr
        };
    }
    // Pages that were pinned to be read cannot be written.
    let writes = access & WRITING != 0 && state.access & WRITING == 0;
    let memory = if moves || writes || place.iova != state.place.iova {
        Some(pin(call, &place, access)?)
    } else {
        None
    };
    let mut request = ModifyMrReq {
        pages: PageList::default(),
        iova: 0,
        len: 0,
        first_offset: 0,
        index: state.lkey.index(),
        mask: 0,
        pdn: Pdn::default(),
        access: 0,
        reserved: 0,
    };
    let pages = match &memory {
        Some(memory) => Some(Pages::<P>::of(
            &hardware.platform,
            &memory.pinned,
            hardware.large_pages,
        )?),
        None => None,
    };
    if let Some(pages) = &pages {
        request.mask |= change::TRANSLATION;
        (request.pages, request.first_offset) = (pages.list, pages.first_offset);
        (request.iova, request.len) = (place.iova, place.length);
    }
    if let Some(pd) = &pd {
        request.mask |= change::PD;
        request.pdn = pdn(pd);
    }
    if rights.is_some() {
        request.mask |= change::ACCESS;
        request.access = access & !HINTS;
    }
    let response: CreateMrRsp = hardware.command(Opcode::MODIFY_MR, &request)?;
    drop(pages);
    if let Some(pd) = &pd {
        state.pd = Some(pd.depend());
    }
    if let Some(memory) = memory {
        state.memory = Some(memory);
    }
    (state.access, state.place) = (access, place);
    let (lkey, rkey) = (response.lkey, response.rkey);
    (state.lkey, state.rkey) = (lkey, rkey);
    drop(state);
    call.put(mr::LKEY, &lkey.0)?;
    call.put(mr::RKEY, &rkey.0)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Mr(region) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let kind = region.kind;
    let state = region.state.lock();
    let (lkey, rkey, access, place) = (state.lkey, state.rkey, state.access, state.place);
    let pd = state.pd.as_ref().map(Dependence::id);
    drop(state);
    if let Some(pd) = pd {
        call.put(mr::PD, &pd)?;
    }
    if kind == Kind::Null {
        call.put(mr::NULL, &1)?;
        call.put(mr::LKEY, &lkey.0)?;
        return call.put(mr::RKEY, &rkey.0);
    }
    if let Kind::Fast(max_elements) = kind {
        let request = HandleReq {
            handle: lkey.index(),
            reserved: 0,
        };
        let now: QueryMrRsp = call.device().command(Opcode::QUERY_MR, &request)?;
        call.put(mr::MAX_ELEMENTS, &max_elements)?;
        call.put(mr::LENGTH, &now.len)?;
        call.put(mr::IOVA, &now.iova)?;
        call.put(mr::ACCESS, &now.access)?;
        call.put(mr::LKEY, &now.lkey.0)?;
        return call.put(mr::RKEY, &now.rkey.0);
    }
    call.put(mr::ADDR, &place.addr)?;
    call.put(mr::LENGTH, &place.length)?;
    call.put(mr::IOVA, &place.iova)?;
    call.put(mr::ACCESS, &access)?;
    call.put(mr::LKEY, &lkey.0)?;
    call.put(mr::RKEY, &rkey.0)
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
    end(ending, opcode, region.lkey().index())?;
    let pd = region.state.lock().pd.take();
    drop(pd);
    Ok(())
}
