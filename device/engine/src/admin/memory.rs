// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory registration, and registering anew. A list of millions of pages is read over several polls, while messages and other commands go on.

use crate::admin::execute::Executed;
use crate::admin::{pd, Failure, Reply};
use crate::env::{Dma, Env};
use crate::fast::Fast;
use crate::hca::{Cx, Hca, InPd};
use crate::limits;
use crate::mr::{Kind, Mr, LOCAL};
use crate::pages::{Extents, PageFault, Walk};
use crate::Budget;
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{
    mr_modify as change, CreateMrReq, CreateMrRsp, HandleReq, ModifyMrReq, QueryMrRsp, MR_DMA, MR_FAST, MR_NULL,
};
use verbena_hw::id::Pdn;
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::MAX_FAST_ELEMENTS;

/// Pages that one step reads.
const STEP: u32 = 4096;

/// What a fault of the page list at `offset` of a request means to the driver.
pub(crate) fn page_failure(fault: PageFault, offset: u32) -> Failure {
    match fault {
        PageFault::Malformed => Failure {
            status: Status::BAD_PAGE_LIST,
            detail: offset,
        },
        PageFault::Unreachable => Failure::bad_address(offset),
        PageFault::Limit => Failure::limit(limits::EXTENTS as u32),
    }
}

/// Rights that let peers change memory.
const MODIFIES: u32 = access::REMOTE_WRITE | access::REMOTE_ATOMIC;

/// What a region's memory is to be.
#[derive(Clone, Copy)]
struct Shape {
    pages: PageList,
    iova: u64,
    len: u64,
    first_offset: u64,
}

/// Where a request has the fields of a [`Shape`], and the rights.
struct Offsets {
    pages: u32,
    iova: u32,
    len: u32,
    first_offset: u32,
    access: u32,
}

macro_rules! offsets {
    ($req:ident) => {
        Offsets {
            pages: offset_of!($req, pages) as u32,
            iova: offset_of!($req, iova) as u32,
            len: offset_of!($req, len) as u32,
            first_offset: offset_of!($req, first_offset) as u32,
            access: offset_of!($req, access) as u32,
        }
    };
}

/// A CREATE_MR or MODIFY_MR in execution.
pub(crate) struct Registration {
    shape: Shape,
    walk: Walk,
    /// Where the request has its pages.
    at: u32,
    then: Then,
}

/// What becomes of the memory when its pages have been read.
enum Then {
    /// A new region, in this domain, with these rights.
    Create(Pdn, u32),
    /// The memory of one that is there.
    Modify(ModifyMrReq),
}

fn check_access(rights: u32, at: u32) -> Result<(), Failure> {
    // Who lets peers write must be able to write itself (IBA vol. 1, 10.6.3.1).
    if rights & !access::MR_ALL != 0 || (rights & MODIFIES != 0 && rights & access::LOCAL_WRITE == 0) {
        return Err(Failure::bad_field(at));
    }
    Ok(())
}

/// Checks a shape and begins to read its pages.
fn walk(hca: &Hca, shape: &Shape, rights: u32, at: &Offsets) -> Result<Walk, Failure> {
    if shape.len == 0 || shape.len > limits::MR_SIZE {
        return Err(Failure::bad_field(at.len));
    }
    check_access(rights, at.access)?;
    // The range may end exactly at the end of the address space.
    let overflows = shape.iova.checked_add(shape.len - 1).is_none();
    if overflows || (rights & access::ZERO_BASED != 0 && shape.iova != 0) {
        return Err(Failure::bad_field(at.iova));
    }
    if shape.first_offset >= 1 << (shape.pages.page_shift & 63) {
        return Err(Failure::bad_field(at.first_offset));
    }
    let writes = rights & (MODIFIES | access::LOCAL_WRITE) != 0;
    let room = limits::EXTENTS.saturating_sub(hca.extents);
    let dma = if writes { Dma::Write } else { Dma::Read };
    Walk::new(shape.pages, shape.first_offset, shape.len, dma, room).map_err(|fault| page_failure(fault, at.pages))
}

/// Holds a protection domain from now on: it cannot go while the region comes.
fn hold_pd(hca: &mut Hca, pdn: Pdn, at: u32) -> Result<(), Failure> {
    let pd = hca.pds.get_mut(pdn.0).ok_or(Failure::no_such_object(at))?;
    pd.enter(InPd::Mr);
    Ok(())
}

/// Checks CREATE_MR and begins to read its pages.
pub(crate) fn create(hca: &mut Hca, req: &CreateMrReq) -> Result<Executed, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateMrReq, $field) as u32
        };
    }
    if req.reserved != 0 {
        return Err(Failure::reserved(at!(reserved)));
    }
    match req.flags {
        0 => {}
        MR_DMA | MR_NULL => return create_everywhere(hca, req).map(|reply| Executed::Now(Ok(reply))),
        MR_FAST => return create_fast(hca, req).map(|reply| Executed::Now(Ok(reply))),
        _ => return Err(Failure::bad_field(at!(flags))),
    }
    let shape = Shape {
        pages: req.pages,
        iova: req.iova,
        len: req.len,
        first_offset: req.first_offset,
    };
    let walk = walk(hca, &shape, req.access, &offsets!(CreateMrReq))?;
    if !hca.mrs.has_room() {
        return Err(Failure::limit(hca.mrs.limit()));
    }
    hold_pd(hca, req.pdn, at!(pdn))?;
    Ok(Executed::Started(Registration {
        shape,
        walk,
        at: at!(pages),
        then: Then::Create(req.pdn, req.access),
    }))
}

/// A region that a work request is to register.
fn create_fast(hca: &mut Hca, req: &CreateMrReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateMrReq, $field) as u32
        };
    }
    for (good, offset) in [
        (req.pages == PageList::default(), at!(pages)),
        (req.iova == 0, at!(iova)),
        ((1..=u64::from(MAX_FAST_ELEMENTS)).contains(&req.len), at!(len)),
        (req.first_offset == 0, at!(first_offset)),
        (req.access == 0, at!(access)),
    ] {
        if !good {
            return Err(Failure::bad_field(offset));
        }
    }
    if !hca.mrs.has_room() {
        return Err(Failure::limit(hca.mrs.limit()));
    }
    hold_pd(hca, req.pdn, at!(pdn))?;
    let mr = hca.mrs.insert_with(|key| Fast::free(req.pdn, key, req.len as u32));
    Ok(Reply::new(&CreateMrRsp {
        lkey: mr.name(),
        rkey: mr.name(),
        reserved: 0,
    }))
}

/// A region of all addresses: the DMA ones, or such as nothing is at.
fn create_everywhere(hca: &mut Hca, req: &CreateMrReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateMrReq, $field) as u32
        };
    }
    // A null region may be written, whoever asks for it: nothing comes of it.
    let (kind, allowed, rights) = match req.flags {
        MR_NULL => (Kind::Null, 0, access::LOCAL_WRITE),
        _ => (Kind::Memory, access::LOCAL_WRITE, req.access),
    };
    for (zero, offset) in [
        (req.pages == PageList::default(), at!(pages)),
        (req.iova == 0, at!(iova)),
        (req.len == 0, at!(len)),
        (req.first_offset == 0, at!(first_offset)),
        (req.access & !allowed == 0, at!(access)),
    ] {
        if !zero {
            return Err(Failure::bad_field(offset));
        }
    }
    if !hca.mrs.has_room() {
        return Err(Failure::limit(hca.mrs.limit()));
    }
    hold_pd(hca, req.pdn, at!(pdn))?;
    let mr = hca.mrs.insert_with(|key| Mr {
        key,
        pdn: req.pdn,
        access: rights | LOCAL,
        iova: 0,
        // Every address but the last, which nothing ends at.
        len: u64::MAX,
        page_shift: PageList::SHIFT_4K,
        pages: 0,
        extents: Extents::One(0),
        users: 0,
        kind,
    });
    Ok(keys(mr))
}

fn keys(mr: &Mr) -> Reply {
    Reply::new(&CreateMrRsp {
        lkey: mr.key,
        rkey: mr.rkey(),
        reserved: 0,
    })
}

/// Checks MODIFY_MR, and does it or begins to read the pages.
pub(crate) fn modify(hca: &mut Hca, req: &ModifyMrReq) -> Result<Executed, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(ModifyMrReq, $field) as u32
        };
    }
    if req.reserved != 0 {
        return Err(Failure::reserved(at!(reserved)));
    }
    if req.mask == 0 || req.mask & !change::ALL != 0 {
        return Err(Failure::bad_field(at!(mask)));
    }
    let mr = idle(hca, req.index)
        .and_then(|mr| match mr.kind {
            Kind::Memory => Ok(mr),
            // A work request does that, or there is nothing to be done.
            _ => Err(Failure::bad_field(at!(index))),
        })
        .map_err(|failure| match failure.status {
            Status::NO_SUCH_OBJECT => Failure::no_such_object(at!(index)),
            _ => failure,
        })?;
    let rights = if req.mask & change::ACCESS != 0 {
        req.access
    } else {
        mr.access & !LOCAL
    };
    if req.mask & change::TRANSLATION == 0 {
        check_access(rights, at!(access))?;
        if rights & access::ZERO_BASED != 0 && mr.iova != 0 {
            return Err(Failure::bad_field(at!(access)));
        }
        if req.mask & change::PD != 0 {
            hold_pd(hca, req.pdn, at!(pdn))?;
        }
        return Ok(Executed::Now(Ok(exchange(hca, req, None))));
    }
    let shape = Shape {
        pages: req.pages,
        iova: req.iova,
        len: req.len,
        first_offset: req.first_offset,
    };
    let walk = walk(hca, &shape, rights, &offsets!(ModifyMrReq))?;
    if req.mask & change::PD != 0 {
        hold_pd(hca, req.pdn, at!(pdn))?;
    }
    Ok(Executed::Started(Registration {
        shape,
        walk,
        at: at!(pages),
        then: Then::Modify(*req),
    }))
}

/// A region that nothing stands on.
fn idle(hca: &Hca, index: u32) -> Result<&Mr, Failure> {
    let mr = region(hca, index)?;
    if mr.users > 0 {
        return Err(Failure::in_use(mr.users));
    }
    Ok(mr)
}

/// Changes a region that is there, which has a new key then. The new domain is held already.
fn exchange(hca: &mut Hca, req: &ModifyMrReq, memory: Option<(Shape, Extents)>) -> Reply {
    let mut mr = hca
        .mrs
        .remove(req.index)
        .expect("whoever exchanges a region has looked it up");
    if req.mask & change::PD != 0 {
        pd::release(hca, mr.pdn, InPd::Mr);
        mr.pdn = req.pdn;
    }
    if req.mask & change::ACCESS != 0 {
        mr.access = req.access | LOCAL;
    }
    if let Some((shape, extents)) = memory {
        hca.extents = hca.extents - mr.extents.cost() + extents.cost();
        (mr.iova, mr.len, mr.extents) = (shape.iova, shape.len, extents);
        (mr.page_shift, mr.pages) = (shape.pages.page_shift, shape.pages.count);
    }
    keys(hca.mrs.put_back(req.index, mr))
}

impl Registration {
    /// Goes on. `None`: there is more to do.
    pub(crate) fn step<E: Env>(
        &mut self,
        hca: &mut Hca,
        cx: &mut Cx<'_, E>,
        budget: &mut Budget,
    ) -> Option<Result<Reply, Failure>> {
        budget.operations = budget.operations.saturating_sub(limits::REGISTRATION_STEP);
        let result = match self.walk.step(cx.env.ram(hca.id), STEP) {
            Ok(false) => return None,
            Ok(true) => self.finish(hca),
            Err(fault) => Err(page_failure(fault, self.at)),
        };
        if result.is_err() {
            self.let_go(hca);
        }
        Some(result)
    }

    /// Ends without effect.
    pub(crate) fn abandon(self, hca: &mut Hca) {
        self.let_go(hca);
    }

    /// Gives the domain back that it holds.
    fn let_go(&self, hca: &mut Hca) {
        match &self.then {
            Then::Create(pdn, _) => pd::release(hca, *pdn, InPd::Mr),
            Then::Modify(req) if req.mask & change::PD != 0 => pd::release(hca, req.pdn, InPd::Mr),
            Then::Modify(_) => {}
        }
    }

    fn finish(&mut self, hca: &mut Hca) -> Result<Reply, Failure> {
        let extents = self.walk.take();
        // Others may have registered since this one began.
        match &self.then {
            Then::Create(..) if !hca.mrs.has_room() => return Err(Failure::limit(hca.mrs.limit())),
            Then::Create(..) => {}
            Then::Modify(req) => {
                idle(hca, req.index)?;
            }
        }
        if hca.extents + extents.cost() > limits::EXTENTS {
            return Err(page_failure(PageFault::Limit, self.at));
        }
        let (pdn, rights) = match &self.then {
            Then::Modify(req) => return Ok(exchange(hca, req, Some((self.shape, extents)))),
            Then::Create(pdn, rights) => (*pdn, *rights),
        };
        hca.extents += extents.cost();
        let shape = &self.shape;
        let mr = hca.mrs.insert_with(|key| Mr {
            key,
            pdn,
            access: rights | LOCAL,
            iova: shape.iova,
            len: shape.len,
            page_shift: shape.pages.page_shift,
            pages: shape.pages.count,
            extents,
            users: 0,
            kind: Kind::Memory,
        });
        Ok(keys(mr))
    }
}

/// DESTROY_MR. Transfers look their keys up for every slice, so after this none touches the region.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    idle(hca, req.handle)?;
    remove(hca, req.handle)
}

/// REVOKE_MR.
pub(crate) fn revoke(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    if region(hca, req.handle)?.users > 0 {
        hca.unbind_all_on(req.handle);
        hca.fast_free_all_on(req.handle);
    }
    remove(hca, req.handle)
}

fn region(hca: &Hca, index: u32) -> Result<&Mr, Failure> {
    hca.mrs
        .get(index)
        .filter(|mr| mr.is_region())
        .ok_or(Failure::no_such_object(0))
}

fn remove(hca: &mut Hca, index: u32) -> Result<Reply, Failure> {
    hca.fast_free(index);
    let mr = hca.mrs.remove(index).ok_or(Failure::no_such_object(0))?;
    hca.extents -= mr.extents.cost();
    pd::release(hca, mr.pdn, InPd::Mr);
    Ok(Reply::empty())
}

/// QUERY_MR.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let mr = region(hca, req.handle)?;
    Ok(Reply::new(&QueryMrRsp {
        iova: mr.iova,
        len: mr.len,
        lkey: mr.name(),
        rkey: mr.rkey(),
        pdn: mr.pdn,
        access: mr.access & !LOCAL,
        page_shift: mr.page_shift.into(),
        pages: mr.pages,
    }))
}

/// The reserved half of a [`HandleReq`].
pub(crate) fn handle_reserved(req: &HandleReq) -> Result<(), Failure> {
    if req.reserved != 0 {
        return Err(Failure::reserved(offset_of!(HandleReq, reserved) as u32));
    }
    Ok(())
}
