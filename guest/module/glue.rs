// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! `glue.h`, and what it uses of `foreign_cm.h`, in Rust: the functions that C implements. It is the reference for what they do.

use core::marker::{PhantomData, PhantomPinned};
use kernel::bindings;
use kernel::device;
use kernel::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use rdma_uapi::class::cm_id::{CmAddress, CmParams};

/// Declares a type that C keeps to itself.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub(crate) struct $name {
            _bytes: [u8; 0],
            // Neither Send, nor Sync, nor Unpin: who wraps it says what is true.
            _c: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*};
}

opaque! {
    /// `struct verbena_node`.
    Node
    /// `struct verbena_system`.
    SystemNode
    /// `struct verbena_work`.
    Work
    /// `struct verbena_memory`.
    Memory
    /// `struct verbena_cm`.
    Cm
}

/// `struct verbena_cm_side`.
#[repr(C)]
pub(crate) struct CmSide {
    /// A descriptor of the calling process.
    pub(crate) fd: u32,
    /// The queue pair's number.
    pub(crate) qpn: u32,
    /// How to connect it.
    pub(crate) params: *const CmParams,
    /// Private data.
    pub(crate) data: *const u8,
    /// Bytes of it.
    pub(crate) data_len: u32,
}

/// `struct verbena_cm_told`.
#[repr(C)]
pub(crate) struct CmTold {
    /// The event.
    pub(crate) kind: u16,
    /// Of a REJ.
    pub(crate) reason: u32,
    /// 0: not told.
    pub(crate) peer_qpn: u32,
    /// NULL: not told.
    pub(crate) params: *const CmParams,
    /// NULL: not told.
    pub(crate) data: *const u8,
    /// Bytes of it.
    pub(crate) data_len: u32,
}

/// Bytes of `struct verbena_memory`, at most.
pub(crate) const MEMORY_BYTES: usize = 96;

/// `struct verbena_target`.
#[repr(C)]
pub(crate) struct Target {
    /// The first page.
    pub(crate) pfn: c_ulong,
    /// Device registers.
    pub(crate) registers: bool,
    /// Comes back in `verbena_rs_unmapped`.
    pub(crate) keep: *mut c_void,
}

#[expect(
    improper_ctypes,
    reason = "the kernel's types for lock debugging are empty in this configuration, also in C"
)]
extern "C" {
    pub(crate) fn verbena_glue_init() -> c_int;
    pub(crate) fn verbena_glue_exit();

    pub(crate) fn verbena_number_take() -> c_int;
    pub(crate) fn verbena_number_give(number: c_int);

    pub(crate) fn verbena_node_add(
        parent: *mut bindings::device,
        number: c_int,
        name: *const c_char,
        hca: *mut c_void,
    ) -> *mut Node;
    pub(crate) fn verbena_node_del(node: *mut Node);

    pub(crate) fn verbena_system_add(system: *mut c_void) -> *mut SystemNode;
    pub(crate) fn verbena_system_del(node: *mut SystemNode);

    pub(crate) fn verbena_work_new(hca: *mut c_void) -> *mut Work;
    pub(crate) fn verbena_work_schedule(work: *mut Work, nanoseconds: u64);
    pub(crate) fn verbena_work_stop(work: *mut Work);
    pub(crate) fn verbena_work_free(work: *mut Work);

    pub(crate) fn verbena_events_fd(events: *mut c_void) -> c_int;

    pub(crate) fn verbena_memory_alloc(pages: c_ulong) -> *mut Memory;
    pub(crate) fn verbena_memory_pin(addr: c_ulong, pages: c_ulong, writable: bool) -> *mut Memory;
    pub(crate) fn verbena_memory_map(memory: *mut Memory, dev: *mut bindings::device) -> c_int;
    pub(crate) fn verbena_memory_unmap(memory: *mut Memory);
    pub(crate) fn verbena_memory_free(memory: *mut Memory);
    pub(crate) fn verbena_memory_kernel(memory: *const Memory) -> *mut c_void;
    pub(crate) fn verbena_memory_pfn(memory: *const Memory) -> c_ulong;
    pub(crate) fn verbena_memory_each(
        memory: *const Memory,
        each: unsafe extern "C" fn(context: *mut c_void, addr: u64, len: u64) -> c_int,
        context: *mut c_void,
    ) -> c_int;

    pub(crate) fn verbena_max_objects() -> c_uint;
    pub(crate) fn verbena_max_contexts() -> c_uint;
    pub(crate) fn verbena_user() -> c_uint;
    pub(crate) fn verbena_descends(process: c_uint) -> bool;

    pub(crate) fn verbena_context_get(fd: c_uint, held: *mut *mut bindings::file) -> *mut c_void;
    pub(crate) fn verbena_context_put(held: *mut bindings::file);

    pub(crate) fn verbena_inode_get(fd: c_uint) -> *mut bindings::inode;
    pub(crate) fn verbena_inode_put(inode: *mut bindings::inode);

    pub(crate) fn verbena_cm_create(hears: *mut c_void) -> *mut Cm;
    pub(crate) fn verbena_cm_destroy(cm: *mut Cm) -> *mut c_void;
    pub(crate) fn verbena_cm_bind(cm: *mut Cm, local: *mut CmAddress) -> c_int;
    pub(crate) fn verbena_cm_listen(cm: *mut Cm) -> c_int;
    pub(crate) fn verbena_cm_connect(
        cm: *mut Cm,
        peer: *const CmAddress,
        local: *mut CmAddress,
        side: *const CmSide,
    ) -> c_int;
    pub(crate) fn verbena_cm_accept(cm: *mut Cm, side: *const CmSide) -> c_int;
    pub(crate) fn verbena_cm_reject(cm: *mut Cm, reason: u8, data: *const u8, data_len: u8) -> c_int;
    pub(crate) fn verbena_cm_disconnect(cm: *mut Cm) -> c_int;

    pub(crate) fn verbena_charge(pages: c_ulong, mm: *mut *mut bindings::mm_struct) -> c_int;
    pub(crate) fn verbena_uncharge(pages: c_ulong, mm: *mut bindings::mm_struct);
}

/// The C structure that the reference is to.
pub(crate) fn raw_device(device: &device::Device) -> *mut bindings::device {
    // The type is transparent over it.
    core::ptr::from_ref(device).cast_mut().cast()
}
