// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about doorbell pages.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::{created, HANDLE};
use crate::admin::{Failure, Reply};
use crate::env::{Dma, Env};
use crate::hca::{Cx, Hca};
use crate::ram;
use core::mem::offset_of;
use verbena_hw::cmd::{CreateDoorbellReq, HandleReq, QueryDoorbellRsp};
use verbena_hw::doorbell::{PAGES, PAGE_SIZE};

/// CREATE_DOORBELL.
pub(crate) fn create<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &CreateDoorbellReq) -> Result<Reply, Failure> {
    let mapped = ram::whole(cx.env.ram(hca.id), req.addr, PAGE_SIZE as usize, Dma::Write).is_ok();
    if req.addr % PAGE_SIZE != 0 || !mapped {
        return Err(Failure::bad_address(offset_of!(CreateDoorbellReq, addr) as u32));
    }
    let index = hca.doorbells.insert(req.addr).ok_or(Failure::limit(PAGES))?;
    if let Some(page) = hca.doorbells.get_mut(index) {
        // Whatever the memory held: nothing is watched.
        page.set_watched(cx.env.ram(hca.id), 0, None);
    }
    Ok(created(index))
}

/// DESTROY_DOORBELL.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let page = hca.doorbells.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    if page.users > 0 {
        return Err(Failure::in_use(page.users));
    }
    hca.doorbells.remove(req.handle);
    Ok(Reply::empty())
}

/// QUERY_DOORBELL.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let page = hca.doorbells.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryDoorbellRsp {
        addr: page.addr,
        users: page.users,
        watched: page.watched(),
        reserved: [0; 4],
    }))
}
