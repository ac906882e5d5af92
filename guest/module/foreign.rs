// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Communication ids on devices that are not ours, as `verbena_rdma_cm.ko` serves them.

use crate::glue::{self, CmSide, CmTold};
use crate::linux::{errno, Linux};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;
use rdma_uapi::class::cm_id::CmAddress;
use rdma_uapi::Errno;
use verbena_core::foreign::{self, ForeignCm, ForeignId, Heard, Side};

type Hears = ForeignId<Linux>;

/// One id.
///
/// # Invariants
///
/// The pointer came from `verbena_cm_create` or was given to `verbena_rs_cm_requested`, and is owned.
pub(crate) struct Foreign(NonNull<glue::Cm>);

// SAFETY: The C structure is bound to no thread.
unsafe impl Send for Foreign {}
// SAFETY: It has a lock, which all calls take.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// A new one of the calling process.
    pub(crate) fn new(hears: &Arc<Hears>) -> Result<Self, Errno> {
        let owned = hears.clone().into_foreign();
        // SAFETY: The reference is given away, if that succeeds.
        let made = from_err_ptr(unsafe { glue::verbena_cm_create(owned) });
        match made.and_then(|made| NonNull::new(made).ok_or(ENOMEM)) {
            // INVARIANT: Just made.
            Ok(made) => Ok(Foreign(made)),
            Err(error) => {
                // SAFETY: It came from `into_foreign` above, and nobody has taken it.
                drop(unsafe { Arc::<Hears>::from_foreign(owned) });
                Err(errno(error))
            }
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: The invariant.
        let hears = unsafe { glue::verbena_cm_destroy(self.0.as_ptr()) };
        // SAFETY: It came from `into_foreign`: in `new`, or in verbena_rs_cm_requested.
        drop(unsafe { Arc::<Hears>::from_foreign(hears) });
    }
}

fn done(result: c_int) -> Result<(), Errno> {
    to_result(result).map_err(errno)
}

/// What C reads during a call.
fn side(side: &Side<'_>) -> CmSide {
    CmSide {
        fd: side.fd,
        qpn: side.qpn,
        params: side.params,
        data: side.data.as_ptr(),
        data_len: side.data.len() as u32,
    }
}

impl ForeignCm for Foreign {
    fn bind(&self, local: &CmAddress) -> Result<CmAddress, Errno> {
        let mut local = *local;
        // SAFETY: The invariant; the address is there to be written.
        done(unsafe { glue::verbena_cm_bind(self.0.as_ptr(), &mut local) })?;
        Ok(local)
    }

    fn listen(&self) -> Result<(), Errno> {
        // SAFETY: The invariant.
        done(unsafe { glue::verbena_cm_listen(self.0.as_ptr()) })
    }

    fn connect(&self, peer: &CmAddress, port: u16, own: &Side<'_>) -> Result<CmAddress, Errno> {
        let mut local = CmAddress {
            port,
            ..CmAddress::default()
        };
        // SAFETY: The invariant; what is pointed to lives during the call.
        done(unsafe { glue::verbena_cm_connect(self.0.as_ptr(), peer, &mut local, &side(own)) })?;
        Ok(local)
    }

    fn accept(&self, own: &Side<'_>) -> Result<(), Errno> {
        // SAFETY: The invariant; what is pointed to lives during the call.
        done(unsafe { glue::verbena_cm_accept(self.0.as_ptr(), &side(own)) })
    }

    fn reject(&self, reason: u8, data: &[u8]) -> Result<(), Errno> {
        // SAFETY: The invariant; the data, whose length the class limits to 148 bytes, lives during the call.
        done(unsafe { glue::verbena_cm_reject(self.0.as_ptr(), reason, data.as_ptr(), data.len() as u8) })
    }

    fn disconnect(&self) -> Result<(), Errno> {
        // SAFETY: The invariant.
        done(unsafe { glue::verbena_cm_disconnect(self.0.as_ptr()) })
    }
}

/// # Safety
///
/// What is pointed to is there, and stays until the result is not used any more.
unsafe fn heard<'a>(told: *const CmTold) -> Heard<'a> {
    // SAFETY: The caller's word.
    let told = unsafe { &*told };
    let data = if told.data.is_null() {
        None
    } else {
        // SAFETY: The caller's word.
        Some(unsafe { slice::from_raw_parts(told.data, told.data_len as usize) })
    };
    Heard {
        kind: told.kind,
        reason: told.reason,
        peer_qpn: told.peer_qpn,
        // SAFETY: The caller's word.
        params: unsafe { told.params.as_ref() }.copied(),
        data,
    }
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_cm_told(hears: *mut c_void, told: *const CmTold) {
    // SAFETY: It came from `into_foreign`, and its id is not destroyed before this returns.
    let hears = unsafe { Arc::<Hears>::borrow(hears) };
    // SAFETY: It is there during the call.
    foreign::happened(&hears, &unsafe { heard(told) });
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_cm_requested(
    listener: *mut c_void,
    new: *mut glue::Cm,
    local: *const CmAddress,
    peer: *const CmAddress,
    told: *const CmTold,
) -> *mut c_void {
    // SAFETY: It came from `into_foreign`, and its id is not destroyed before this returns.
    let listener: Arc<Hears> = unsafe { Arc::<Hears>::borrow(listener) }.into();
    let Some(new) = NonNull::new(new) else {
        return core::ptr::null_mut();
    };
    // INVARIANT: It is given to us.
    let new = Foreign(new);
    // SAFETY: They are there during the call.
    let (addresses, heard) = unsafe { ((*local, *peer), heard(told)) };
    match foreign::requested(&listener, new, addresses, &heard) {
        Ok(hears) => hears.into_foreign(),
        Err(new) => {
            // It is the caller's again.
            let _ = ManuallyDrop::new(new);
            core::ptr::null_mut()
        }
    }
}
