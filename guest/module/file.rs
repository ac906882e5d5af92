// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The device's file: open, ioctl, mmap, release.

use crate::glue::Target;
use crate::hca::Hca;
use crate::linux::{errno, Linux};
use core::ffi::c_void;
use kernel::alloc::KVVec;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;
use kernel::uaccess::{UserPtr, UserSlice};
use rdma_uapi::context::{self, GiveBack};
use rdma_uapi::wire::{self, HEADER};
use rdma_uapi::Errno;
use verbena_core::platform::PAGE;
use verbena_core::{Context, MmapTarget};

/// Messages up to this long are handled on the stack.
const ON_STACK: usize = 512;

/// An ioctl: copies the message in, has it dispatched, copies it back. `dispatch` gives the answer back while it still can
/// undo what the caller will not hear of.
pub(crate) fn ioctl(
    command: c_uint,
    arg: c_ulong,
    dispatch: impl FnOnce(u32, &mut [u8], &mut GiveBack<'_>) -> Result<(), Errno>,
) -> c_long {
    match try_ioctl(command, arg, dispatch) {
        Ok(()) => 0,
        Err(errno) => c_long::from(errno.to_result() as isize as c_long),
    }
}

fn try_ioctl(
    command: c_uint,
    arg: c_ulong,
    dispatch: impl FnOnce(u32, &mut [u8], &mut GiveBack<'_>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let method = wire::ioctl_method(command).ok_or(Errno::ENOTTY)?;
    let user = UserPtr::from_addr(arg);
    let mut give_back = |message: &[u8]| {
        let mut writer = UserSlice::new(user, message.len()).writer();
        writer.write_slice(message).map_err(errno)
    };
    let mut header = [0; HEADER];
    UserSlice::new(user, HEADER)
        .reader()
        .read_slice(&mut header)
        .map_err(errno)?;
    let length = match context::message_length(&mut header) {
        Ok(length) => length,
        Err(errno) => {
            give_back(&header)?;
            return Err(errno);
        }
    };
    let mut stack = [0; ON_STACK];
    let mut heap;
    let message = match stack.get_mut(..length) {
        Some(message) => message,
        None => {
            heap = KVVec::<u8>::zeroed(length, GFP_KERNEL_ACCOUNT).map_err(|_| Errno::ENOMEM)?;
            heap.as_mut_slice()
        }
    };
    // The header is not read again: what was checked is what is dispatched.
    message[..HEADER].copy_from_slice(&header);
    let rest = UserSlice::new(user.wrapping_byte_add(HEADER), length - HEADER);
    rest.reader().read_slice(&mut message[HEADER..]).map_err(errno)?;
    dispatch(u32::from(method), message, &mut give_back)
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_work(hca: *mut c_void) {
    // SAFETY: The work owns a reference to what `Work::new` gave it, and is not stopped during the call.
    unsafe { Arc::<Hca>::borrow(hca) }.work();
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_watch(hca: *mut c_void) -> bool {
    // SAFETY: The node owns a reference to what `Node::publish` gave it, and lives during the call.
    unsafe { Arc::<Hca>::borrow(hca) }.watch()
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_open(hca: *mut c_void, file: *mut *mut c_void) -> c_int {
    // SAFETY: The node owns a reference to what `Node::publish` gave it, and lives during the call.
    let hca = unsafe { Arc::<Hca>::borrow(hca) };
    match hca.open() {
        Ok(context) => {
            // SAFETY: There is room for it.
            unsafe { *file = context.into_foreign() };
            0
        }
        Err(failure) => failure.errno.to_result(),
    }
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_release(file: *mut c_void) {
    // SAFETY: It came from verbena_rs_open, and the file gives it up now.
    let context = unsafe { Arc::<Context<Linux>>::from_foreign(file) };
    Context::close(&context);
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_ioctl(file: *mut c_void, command: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: It came from verbena_rs_open; the file is open during the call.
    let context: Arc<Context<Linux>> = unsafe { Arc::<Context<Linux>>::borrow(file) }.into();
    ioctl(command, arg, |method, message, give_back| {
        Context::dispatch_and(&context, method, message, give_back)
    })
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_mmap(file: *mut c_void, offset: u64, len: u64, target: *mut Target) -> c_int {
    // SAFETY: It came from verbena_rs_open; the file is open during the call.
    let context: Arc<Context<Linux>> = unsafe { Arc::<Context<Linux>>::borrow(file) }.into();
    let mapped = match verbena_core::mmap(&context, offset, len) {
        Ok(mapped) => mapped,
        Err(failure) => return failure.errno.to_result(),
    };
    let (pfn, registers) = match &mapped {
        MmapTarget::Memory { memory, offset } => (memory.pfn() + (*offset / PAGE) as c_ulong, false),
        MmapTarget::Register(register) => (context.device().host().doorbell_pfn(register.page()), true),
    };
    let Ok(keep) = KBox::new(mapped, GFP_KERNEL_ACCOUNT) else {
        return ENOMEM.to_errno();
    };
    // SAFETY: There is room for it.
    unsafe {
        *target = Target {
            pfn,
            registers,
            keep: keep.into_foreign(),
        }
    };
    0
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_unmapped(keep: *mut c_void) {
    // SAFETY: It came from verbena_rs_mmap, and the mapping gives it up now.
    drop(unsafe { KBox::<MmapTarget<Linux>>::from_foreign(keep) });
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_hca_put(hca: *mut c_void) {
    // SAFETY: It came from `Node::publish`, and the node gives it up now.
    drop(unsafe { Arc::<Hca>::from_foreign(hca) });
}
