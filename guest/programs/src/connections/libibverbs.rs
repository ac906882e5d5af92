// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same through libibverbs, which is looked up when the program runs: nothing here needs it to be built.
//!
//! Layouts and values are those of `infiniband/verbs.h` (rdma-core), whose ABI is fixed.
#![expect(unsafe_code, reason = "libibverbs is a library of C")]

use super::{BEGIN, DEPTH, END};
use anyhow::{bail, ensure, Context as _, Result};
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::mem::size_of;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// `struct ibv_qp_cap`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Cap {
    pub(crate) max_send_wr: u32,
    pub(crate) max_recv_wr: u32,
    pub(crate) max_send_sge: u32,
    pub(crate) max_recv_sge: u32,
    pub(crate) max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`.
#[repr(C)]
pub(crate) struct InitAttr {
    pub(crate) qp_context: *mut c_void,
    pub(crate) send_cq: *mut c_void,
    pub(crate) recv_cq: *mut c_void,
    pub(crate) srq: *mut c_void,
    pub(crate) cap: Cap,
    pub(crate) qp_type: c_uint,
    pub(crate) sq_sig_all: c_int,
}

/// `union ibv_gid`, which is aligned as its 64-bit half is.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gid([u8; 16]);

/// `struct ibv_ah_attr`, with its `struct ibv_global_route`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct AhAttr {
    dgid: Gid,
    flow_label: u32,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
    dlid: u16,
    sl: u8,
    src_path_bits: u8,
    static_rate: u8,
    is_global: u8,
    port_num: u8,
}

/// `struct ibv_qp_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct QpAttr {
    pub(crate) qp_state: c_uint,
    pub(crate) cur_qp_state: c_uint,
    pub(crate) path_mtu: c_uint,
    pub(crate) path_mig_state: c_uint,
    pub(crate) qkey: u32,
    pub(crate) rq_psn: u32,
    pub(crate) sq_psn: u32,
    pub(crate) dest_qp_num: u32,
    pub(crate) qp_access_flags: c_uint,
    pub(crate) cap: Cap,
    pub(crate) ah_attr: AhAttr,
    pub(crate) alt_ah_attr: AhAttr,
    pub(crate) pkey_index: u16,
    pub(crate) alt_pkey_index: u16,
    pub(crate) en_sqd_async_notify: u8,
    pub(crate) sq_draining: u8,
    pub(crate) max_rd_atomic: u8,
    pub(crate) max_dest_rd_atomic: u8,
    pub(crate) min_rnr_timer: u8,
    pub(crate) port_num: u8,
    pub(crate) timeout: u8,
    pub(crate) retry_cnt: u8,
    pub(crate) rnr_retry: u8,
    pub(crate) alt_port_num: u8,
    pub(crate) alt_timeout: u8,
    pub(crate) rate_limit: u32,
}

/// The beginning of `struct ibv_qp`, as far as its number.
#[repr(C)]
pub(crate) struct Qp {
    pub(crate) context: *mut c_void,
    pub(crate) qp_context: *mut c_void,
    pub(crate) pd: *mut c_void,
    pub(crate) send_cq: *mut c_void,
    pub(crate) recv_cq: *mut c_void,
    pub(crate) srq: *mut c_void,
    pub(crate) handle: u32,
    pub(crate) qp_num: u32,
}

// What the C compiler makes of verbs.h on a 64-bit machine.
const _: () = assert!(size_of::<InitAttr>() == 64 && size_of::<AhAttr>() == 32 && size_of::<QpAttr>() == 144);

/// `IBV_QPT_RC`.
pub(crate) const RC: c_uint = 2;
/// `IBV_QPS_INIT`, `IBV_QPS_RTR`, `IBV_QPS_RTS`.
const STATES: [c_uint; 3] = [1, 2, 3];
/// `IBV_MTU_1024`.
const MTU_1024: c_uint = 3;
/// `IBV_ACCESS_LOCAL_WRITE` and the remote ones: write, read, atomic.
pub(crate) const ACCESS: c_uint = 0b1111;

/// `enum ibv_qp_attr_mask`.
pub(crate) mod mask {
    pub const STATE: i32 = 1 << 0;
    pub const ACCESS_FLAGS: i32 = 1 << 3;
    pub const PKEY_INDEX: i32 = 1 << 4;
    pub const PORT: i32 = 1 << 5;
    pub const AV: i32 = 1 << 7;
    pub const PATH_MTU: i32 = 1 << 8;
    pub const TIMEOUT: i32 = 1 << 9;
    pub const RETRY_CNT: i32 = 1 << 10;
    pub const RNR_RETRY: i32 = 1 << 11;
    pub const RQ_PSN: i32 = 1 << 12;
    pub const MAX_QP_RD_ATOMIC: i32 = 1 << 13;
    pub const MIN_RNR_TIMER: i32 = 1 << 15;
    pub const SQ_PSN: i32 = 1 << 16;
    pub const MAX_DEST_RD_ATOMIC: i32 = 1 << 17;
    pub const DEST_QPN: i32 = 1 << 20;

    pub const INIT: i32 = STATE | PKEY_INDEX | PORT | ACCESS_FLAGS;
    pub const RTR: i32 = STATE | AV | PATH_MTU | DEST_QPN | RQ_PSN | MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER;
    pub const RTS: i32 = STATE | TIMEOUT | RETRY_CNT | RNR_RETRY | SQ_PSN | MAX_QP_RD_ATOMIC;
}

/// Declares the functions that are used, and how they are found.
macro_rules! library {
    ($($name:ident($($ty:ty),*) -> $ret:ty;)*) => {
        /// The functions of libibverbs that are used.
        pub(crate) struct Library {
            $(pub(crate) $name: unsafe extern "C" fn($($ty),*) -> $ret,)*
        }

        impl Library {
            /// Finds it.
            pub(crate) fn load() -> Result<Self> {
                // SAFETY: libibverbs may be loaded into any program; the name ends in NUL.
                let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), libc::RTLD_NOW) };
                ensure!(!library.is_null(), "libibverbs.so.1 cannot be loaded: is the package libibverbs1 installed?");
                let find = |name: &CStr| {
                    // SAFETY: the library was loaded, and is never unloaded.
                    let function = unsafe { libc::dlsym(library, name.as_ptr()) };
                    ensure!(!function.is_null(), "libibverbs has no {name:?}");
                    Ok(function)
                };
                Ok(Self {
                    $($name: {
                        let name = CString::new(stringify!($name))?;
                        let function = find(&name)?;
                        // SAFETY: the function has this type in verbs.h.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) -> $ret>(function) }
                    },)*
                })
            }
        }
    };
}

library! {
    ibv_get_device_list(*mut c_int) -> *mut *mut c_void;
    ibv_free_device_list(*mut *mut c_void) -> ();
    ibv_get_device_name(*mut c_void) -> *const c_char;
    ibv_open_device(*mut c_void) -> *mut c_void;
    ibv_close_device(*mut c_void) -> c_int;
    ibv_query_gid(*mut c_void, u8, c_int, *mut Gid) -> c_int;
    ibv_alloc_pd(*mut c_void) -> *mut c_void;
    ibv_dealloc_pd(*mut c_void) -> c_int;
    ibv_create_cq(*mut c_void, c_int, *mut c_void, *mut c_void, c_int) -> *mut c_void;
    ibv_destroy_cq(*mut c_void) -> c_int;
    ibv_reg_mr(*mut c_void, *mut c_void, usize, c_int) -> *mut c_void;
    ibv_dereg_mr(*mut c_void) -> c_int;
    ibv_create_qp(*mut c_void, *mut InitAttr) -> *mut Qp;
    ibv_modify_qp(*mut Qp, *mut QpAttr, c_int) -> c_int;
    ibv_query_qp(*mut Qp, *mut QpAttr, c_int, *mut InitAttr) -> c_int;
    ibv_destroy_qp(*mut Qp) -> c_int;
}

/// What a function that returns an object returned.
pub(crate) fn made<T>(object: *mut T, what: &str) -> Result<*mut T> {
    if object.is_null() {
        return Err(std::io::Error::last_os_error()).with_context(|| what.to_owned());
    }
    Ok(object)
}

/// What a function that returns an error number returned.
pub(crate) fn done(result: c_int, what: &str) -> Result<()> {
    match result {
        0 => Ok(()),
        n => Err(std::io::Error::from_raw_os_error(n.abs())).with_context(|| what.to_owned()),
    }
}

/// As [`super::connect`], for the device called `name`: as a program does it that knows libibverbs, one call after the other.
/// Looking for the device is not part of it.
///
/// # Errors
///
/// There is no such library or device, or whatever a call said.
pub fn connect(name: &str, count: usize, mark: impl Fn(&str)) -> Result<Duration> {
    let verbs = Library::load()?;
    // SAFETY: every call gets what the one before it returned, checked, and pointers to values that outlive it; nothing
    // is used after it was destroyed. What is not destroyed because a call failed goes with the process.
    unsafe {
        let list = made((verbs.ibv_get_device_list)(null_mut()), "list devices")?;
        let mut devices = (0..).map(|n| *list.add(n)).take_while(|device| !device.is_null());
        let wanted =
            devices.find(|&device| CStr::from_ptr((verbs.ibv_get_device_name)(device)).to_bytes() == name.as_bytes());
        let Some(device) = wanted else {
            bail!("libibverbs knows no device {name}")
        };
        mark(BEGIN);
        let begun = Instant::now();
        let ctx = made((verbs.ibv_open_device)(device), "open the device")?;
        let pd = made((verbs.ibv_alloc_pd)(ctx), "make a protection domain")?;
        let cq = (verbs.ibv_create_cq)(ctx, DEPTH as c_int, null_mut(), null_mut(), 0);
        let cq = made(cq, "make a completion queue")?;
        let mut qps = Vec::with_capacity(count);
        for _ in 0..count {
            let cap = Cap {
                max_send_wr: DEPTH,
                max_recv_wr: DEPTH,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            };
            let mut init = InitAttr {
                qp_context: null_mut(),
                send_cq: cq,
                recv_cq: cq,
                srq: null_mut(),
                cap,
                qp_type: RC,
                sq_sig_all: 0,
            };
            qps.push(made((verbs.ibv_create_qp)(pd, &mut init), "make a queue pair")?);
        }
        let (sgid_index, dgid) = own_gid(&verbs, ctx)?;
        for (n, &qp) in qps.iter().enumerate() {
            let peer = *qps.get(n ^ 1).context("the number of queue pairs is odd")?;
            let mut attr = QpAttr {
                path_mtu: MTU_1024,
                dest_qp_num: (*peer).qp_num,
                qp_access_flags: ACCESS,
                ah_attr: AhAttr {
                    dgid,
                    sgid_index,
                    hop_limit: 64,
                    is_global: 1,
                    port_num: 1,
                    ..AhAttr::default()
                },
                max_rd_atomic: 1,
                max_dest_rd_atomic: 1,
                min_rnr_timer: 1,
                port_num: 1,
                timeout: 14,
                retry_cnt: 7,
                rnr_retry: 7,
                ..QpAttr::default()
            };
            for (state, mask) in STATES.into_iter().zip([mask::INIT, mask::RTR, mask::RTS]) {
                attr.qp_state = state;
                done((verbs.ibv_modify_qp)(qp, &mut attr, mask), "connect a queue pair")?;
            }
        }
        let took = begun.elapsed();
        mark(END);
        for qp in qps {
            done((verbs.ibv_destroy_qp)(qp), "destroy a queue pair")?;
        }
        done((verbs.ibv_destroy_cq)(cq), "destroy the completion queue")?;
        done((verbs.ibv_dealloc_pd)(pd), "destroy the protection domain")?;
        done((verbs.ibv_close_device)(ctx), "close the device")?;
        (verbs.ibv_free_device_list)(list);
        Ok(took)
    }
}

/// An entry of port 1's GID table that is an IPv4 address, and its place.
///
/// # Safety
///
/// `ctx` is an open device.
unsafe fn own_gid(verbs: &Library, ctx: *mut c_void) -> Result<(u8, Gid)> {
    const IPV4: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    for index in 0..16 {
        let mut gid = Gid::default();
        // SAFETY: the caller's word, and there is room for the answer.
        let result = unsafe { (verbs.ibv_query_gid)(ctx, 1, index.into(), &mut gid) };
        if result == 0 && gid.0.starts_with(&IPV4) {
            return Ok((index, gid));
        }
    }
    bail!("the port has no GID that is an IPv4 address")
}
