// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory registration. A list of millions of pages is read over several polls, while messages and other commands go on.

use crate::admin::objects::release_pd;
use crate::admin::{Failure, Reply};
use crate::env::{Dma, Env};
use crate::hca::{Cx, Hca};
use crate::limits;
use crate::mr::{Kind, Mr, LOCAL};
use crate::pages::{PageFault, Walk};
use crate::Budget;
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{CreateMrReq, CreateMrRsp, HandleReq, QueryMrRsp};
use verbena_hw::qp::access;

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

const PAGES: u32 = offset_of!(CreateMrReq, pages) as u32;

/// A CREATE_MR in execution.
pub(crate) struct Registration {
    req: CreateMrReq,
    walk: Walk,
}

/// Checks CREATE_MR and begins to read its pages.
pub(crate) fn create(hca: &mut Hca, req: &CreateMrReq) -> Result<Registration, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(CreateMrReq, $field) as u32
        };
    }
    const MODIFIES: u32 = access::REMOTE_WRITE | access::REMOTE_ATOMIC;
    if req.reserved != 0 {
        return Err(Failure::reserved(at!(reserved)));
    }
    if req.len == 0 || req.len > limits::MR_SIZE {
        return Err(Failure::bad_field(at!(len)));
    }
    let rights = req.access;
    // Who lets peers write must be able to write itself (IBA vol. 1, 10.6.3.1).
    if rights & !access::MR_ALL != 0 || (rights & MODIFIES != 0 && rights & access::LOCAL_WRITE == 0) {
        return Err(Failure::bad_field(at!(access)));
    }
    // The range may end exactly at the end of the address space.
    let overflows = req.iova.checked_add(req.len - 1).is_none();
    if overflows || (rights & access::ZERO_BASED != 0 && req.iova != 0) {
        return Err(Failure::bad_field(at!(iova)));
    }
    if req.first_offset >= 1 << (req.pages.page_shift & 63) {
        return Err(Failure::bad_field(at!(first_offset)));
    }
    let writes = rights & (MODIFIES | access::LOCAL_WRITE) != 0;
    let room = limits::EXTENTS.saturating_sub(hca.extents);
    let walk = Walk::new(
        req.pages,
        req.first_offset,
        req.len,
        if writes { Dma::Write } else { Dma::Read },
        room,
    )
    .map_err(|fault| page_failure(fault, PAGES))?;
    if !hca.mrs.has_room() {
        return Err(Failure::limit(hca.mrs.limit()));
    }
    let Some(pd) = hca.pds.get_mut(req.pdn.0) else {
        return Err(Failure::no_such_object(at!(pdn)));
    };
    // Held from now on: the domain cannot go while the region comes.
    pd.users += 1;
    Ok(Registration { req: *req, walk })
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
            Err(fault) => Err(page_failure(fault, PAGES)),
        };
        if result.is_err() {
            release_pd(hca, self.req.pdn);
        }
        Some(result)
    }

    /// Ends without effect.
    pub(crate) fn abandon(self, hca: &mut Hca) {
        release_pd(hca, self.req.pdn);
    }

    fn finish(&mut self, hca: &mut Hca) -> Result<Reply, Failure> {
        let extents = self.walk.take();
        // Others may have registered since this one began.
        if !hca.mrs.has_room() {
            return Err(Failure::limit(hca.mrs.limit()));
        }
        if hca.extents + extents.cost() > limits::EXTENTS {
            return Err(page_failure(PageFault::Limit, PAGES));
        }
        hca.extents += extents.cost();
        let req = &self.req;
        let mr = hca.mrs.insert_with(|key| Mr {
            key,
            pdn: req.pdn,
            access: req.access | LOCAL,
            iova: req.iova,
            len: req.len,
            page_shift: req.pages.page_shift,
            pages: req.pages.count,
            extents,
            users: 0,
            kind: Kind::Memory,
        });
        Ok(Reply::new(&CreateMrRsp {
            lkey: mr.key,
            rkey: mr.rkey(),
            reserved: 0,
        }))
    }
}

/// DESTROY_MR. Transfers look their keys up for every slice, so after this none touches the region.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let users = region(hca, req.handle)?.users;
    if users > 0 {
        return Err(Failure::in_use(users));
    }
    remove(hca, req.handle)
}

/// REVOKE_MR.
pub(crate) fn revoke(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    if region(hca, req.handle)?.users > 0 {
        hca.unbind_all_on(req.handle);
    }
    remove(hca, req.handle)
}

/// A window has a key in the same table, but is no region.
fn region(hca: &Hca, index: u32) -> Result<&Mr, Failure> {
    hca.mrs
        .get(index)
        .filter(|mr| matches!(mr.kind, Kind::Memory))
        .ok_or(Failure::no_such_object(0))
}

fn remove(hca: &mut Hca, index: u32) -> Result<Reply, Failure> {
    let mr = hca.mrs.remove(index).ok_or(Failure::no_such_object(0))?;
    hca.extents -= mr.extents.cost();
    release_pd(hca, mr.pdn);
    Ok(Reply::empty())
}

/// QUERY_MR.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let mr = region(hca, req.handle)?;
    Ok(Reply::new(&QueryMrRsp {
        iova: mr.iova,
        len: mr.len,
        lkey: mr.key,
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
