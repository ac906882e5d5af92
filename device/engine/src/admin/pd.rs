// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about protection domains.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::{created, HANDLE};
use crate::admin::{Failure, Reply};
use crate::hca::{Hca, InPd, Pd};
use verbena_hw::cmd::{HandleReq, QueryPdRsp};
use verbena_hw::id::Pdn;

/// CREATE_PD.
pub(crate) fn create(hca: &mut Hca) -> Result<Reply, Failure> {
    if !hca.pds.has_room() {
        return Err(Failure::limit(hca.pds.limit()));
    }
    Ok(created(hca.pds.insert_with(|_| Pd::default())))
}

/// DESTROY_PD.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let pd = hca.pds.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    if pd.users() > 0 {
        return Err(Failure::in_use(pd.users()));
    }
    hca.pds.remove(req.handle);
    Ok(Reply::empty())
}

/// QUERY_PD.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let pd = hca.pds.get(req.handle).ok_or(Failure::no_such_object(HANDLE))?;
    Ok(Reply::new(&QueryPdRsp {
        qps: pd.qps,
        srqs: pd.srqs,
        mrs: pd.mrs,
        mws: pd.mws,
        reserved: [0; 4],
    }))
}

/// An object is no longer in its protection domain.
pub(crate) fn release(hca: &mut Hca, pdn: Pdn, kind: InPd) {
    if let Some(pd) = hca.pds.get_mut(pdn.0) {
        pd.leave(kind);
    }
}
