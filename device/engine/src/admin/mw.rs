// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about memory windows.

use crate::admin::memory::handle_reserved;
use crate::admin::objects::HANDLE;
use crate::admin::{pd, Failure, Reply};
use crate::hca::{Hca, InPd};
use crate::mr::{KeyFault, Kind};
use crate::mw::{Binding, Window};
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{BindMwReq, CreateMwReq, CreateMwRsp, HandleReq, QueryMwRsp};
use verbena_hw::id::Key;
use verbena_hw::mw::MwType;

/// CREATE_MW.
pub(crate) fn create(hca: &mut Hca, req: &CreateMwReq) -> Result<Reply, Failure> {
    if req.reserved != [0; 3] {
        return Err(Failure::reserved(offset_of!(CreateMwReq, reserved) as u32));
    }
    if !matches!(req.mw_type, MwType::TYPE_1 | MwType::TYPE_2) {
        return Err(Failure::bad_field(offset_of!(CreateMwReq, mw_type) as u32));
    }
    if !hca.mrs.has_room() {
        return Err(Failure::limit(hca.mrs.limit()));
    }
    let Some(pd) = hca.pds.get_mut(req.pdn.0) else {
        return Err(Failure::no_such_object(offset_of!(CreateMwReq, pdn) as u32));
    };
    pd.enter(InPd::Mw);
    let mut rkey = Key(0);
    hca.mrs.insert_with(|key| {
        rkey = key;
        Window::unbound(req.mw_type, req.pdn, key)
    });
    Ok(Reply::new(&CreateMwRsp { rkey, reserved: 0 }))
}

fn window(hca: &Hca, index: u32) -> Result<Window, Failure> {
    match hca.mrs.get(index).map(|mr| &mr.kind) {
        Some(Kind::Window(window)) => Ok(*window),
        _ => Err(Failure::no_such_object(HANDLE)),
    }
}

/// BIND_MW. The key's tag changes with each bind, so that a peer's old key is nothing.
pub(crate) fn bind(hca: &mut Hca, req: &BindMwReq) -> Result<Reply, Failure> {
    macro_rules! at {
        ($field:ident) => {
            offset_of!(BindMwReq, $field) as u32
        };
    }
    if req.reserved != [0; 2] || req.reserved1 != 0 {
        return Err(Failure::reserved(at!(reserved)));
    }
    let window = window(hca, req.index)?;
    let key = Key::from_parts(req.index, window.key.tag().wrapping_add(1));
    let binding = Binding {
        key,
        lkey: req.lkey,
        addr: req.addr,
        len: req.len,
        access: req.access,
    };
    hca.bind(None, binding).map_err(|KeyFault(reason)| Failure {
        status: Status::BIND_REFUSED,
        detail: reason,
    })?;
    Ok(Reply::new(&CreateMwRsp { rkey: key, reserved: 0 }))
}

/// DESTROY_MW.
pub(crate) fn destroy(hca: &mut Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let window = window(hca, req.handle)?;
    hca.unbind(req.handle);
    hca.mrs.remove(req.handle);
    pd::release(hca, window.pdn, InPd::Mw);
    Ok(Reply::empty())
}

/// QUERY_MW.
pub(crate) fn query(hca: &Hca, req: &HandleReq) -> Result<Reply, Failure> {
    handle_reserved(req)?;
    let window = window(hca, req.handle)?;
    let bound = hca.mrs.get(req.handle).filter(|_| window.on.is_some());
    Ok(Reply::new(&QueryMwRsp {
        iova: bound.map_or(0, |mr| mr.iova),
        len: bound.map_or(0, |mr| mr.len),
        rkey: window.key,
        access: bound.map_or(0, |mr| mr.access),
        pdn: window.pdn,
        qpn: window.qpn.unwrap_or_default(),
        mw_type: window.mw_type,
        bound: bound.is_some().into(),
        reserved: [0; 6],
        reserved1: 0,
    }))
}
