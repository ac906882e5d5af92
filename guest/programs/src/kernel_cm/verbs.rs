// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device and queue pairs of libibverbs, as far as a connection needs them.
#![expect(unsafe_code, reason = "libibverbs is a library of C")]

use crate::connections::libibverbs::{done, made, mask, Cap, InitAttr, Library, Qp, QpAttr, ACCESS, RC};
use anyhow::{bail, ensure, Context as _, Result};
use std::ffi::{c_int, c_uint, c_void, CStr};
use std::os::fd::BorrowedFd;
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::time::{Duration, Instant};
use verbena::VerbsQp;

/// `enum ibv_qp_state`.
pub mod qp_state {
    /// `IBV_QPS_RESET`.
    pub const RESET: u32 = 0;
    /// `IBV_QPS_INIT`.
    pub const INIT: u32 = 1;
    /// `IBV_QPS_RTS`.
    pub const RTS: u32 = 3;
    /// `IBV_QPS_ERR`.
    pub const ERR: u32 = 6;
}

/// The beginning of `struct ibv_context`, with its `struct ibv_context_ops`, as far as its descriptor.
#[repr(C)]
struct Ctx {
    device: *mut c_void,
    before_poll_cq: [*const c_void; 11],
    poll_cq: unsafe extern "C" fn(*mut c_void, c_int, *mut Wc) -> c_int,
    before_post_send: [*const c_void; 13],
    post_send: unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int,
    post_recv: unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int,
    after_post_recv: [*const c_void; 5],
    cmd_fd: c_int,
}

/// The beginning of `struct ibv_mr`.
#[repr(C)]
struct Mr {
    context: *mut c_void,
    pd: *mut c_void,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    lkey: u32,
    rkey: u32,
}

/// `struct ibv_sge`.
#[repr(C)]
struct Sge {
    addr: u64,
    length: u32,
    lkey: u32,
}

/// `struct ibv_send_wr`, of whose unions only what RDMA takes is used.
#[repr(C)]
struct SendWr {
    wr_id: u64,
    next: *const SendWr,
    sg_list: *const Sge,
    num_sge: c_int,
    opcode: c_uint,
    send_flags: c_uint,
    imm_data: u32,
    remote_addr: u64,
    rkey: u32,
    rest: [u32; 19],
}

/// `struct ibv_recv_wr`.
#[repr(C)]
struct RecvWr {
    wr_id: u64,
    next: *const RecvWr,
    sg_list: *const Sge,
    num_sge: c_int,
}

/// `struct ibv_wc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Wc {
    /// Whose it is.
    pub wr_id: u64,
    /// 0: it succeeded.
    pub status: c_uint,
    /// What it was.
    pub opcode: c_uint,
    /// The device's own word.
    pub vendor_err: u32,
    /// Bytes received.
    pub byte_len: u32,
    imm_data: u32,
    /// The queue pair.
    pub qp_num: u32,
    src_qp: u32,
    wc_flags: c_uint,
    pkey_index: u16,
    slid: u16,
    sl: u8,
    dlid_path_bits: u8,
}

// What the C compiler makes of verbs.h on a 64-bit machine.
const _: () = assert!(size_of::<SendWr>() == 128 && size_of::<RecvWr>() == 32 && size_of::<Wc>() == 48);
const _: () = assert!(std::mem::offset_of!(Ctx, cmd_fd) == 264);

/// `IBV_WR_RDMA_WRITE`, `IBV_WR_SEND`.
const WRITE: c_uint = 0;
const SEND: c_uint = 2;
/// `IBV_SEND_SIGNALED`.
const SIGNALED: c_uint = 2;
/// `wr_id` of what is sent.
pub const SENT: u64 = 1;
/// `wr_id` of what is received.
pub const RECEIVED: u64 = 2;
/// Entries of a ring.
const DEPTH: u32 = 8;
/// How long a completion may take.
const SOON: Duration = Duration::from_secs(20);
/// Bytes of a link's memory.
const MEMORY: usize = 4096;

/// An open device.
pub struct Device {
    verbs: Library,
    ctx: *mut c_void,
}

impl Device {
    /// Opens the device called `name`.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn open(name: &str) -> Result<Rc<Self>> {
        let verbs = Library::load()?;
        // SAFETY: every call gets what the one before it returned, checked; the list is freed after its last use.
        let ctx = unsafe {
            let list = made((verbs.ibv_get_device_list)(null_mut()), "list devices")?;
            let mut devices = (0..).map(|n| *list.add(n)).take_while(|device| !device.is_null());
            let wanted = devices
                .find(|&device| CStr::from_ptr((verbs.ibv_get_device_name)(device)).to_bytes() == name.as_bytes());
            let Some(wanted) = wanted else {
                bail!("libibverbs knows no device {name}")
            };
            let ctx = made((verbs.ibv_open_device)(wanted), "open the device")?;
            (verbs.ibv_free_device_list)(list);
            ctx
        };
        Ok(Rc::new(Self { verbs, ctx }))
    }

    fn ctx(&self) -> &Ctx {
        // SAFETY: it is open, and begins like this.
        unsafe { &*self.ctx.cast::<Ctx>() }
    }

    /// The descriptor that the kernel knows it by.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is open as long as the device is.
        unsafe { BorrowedFd::borrow_raw(self.ctx().cmd_fd) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: links, which use it, hold it.
        unsafe { (self.verbs.ibv_close_device)(self.ctx) };
    }
}

/// A reliable queue pair with completions and memory of its own.
pub struct Link {
    device: Rc<Device>,
    pd: *mut c_void,
    cq: *mut c_void,
    mr: *mut Mr,
    qp: *mut Qp,
    // Where the device reads and writes: touched through the pointer only.
    memory: *mut [u8; MEMORY],
}

impl Link {
    /// A new one, in RESET.
    ///
    /// # Errors
    ///
    /// Whatever a call said.
    pub fn new(device: &Rc<Device>) -> Result<Self> {
        let verbs = &device.verbs;
        // SAFETY: every call gets what the one before it returned, checked; the memory lives until the link's end. What is not
        // destroyed because a call failed goes with the process.
        unsafe {
            let pd = made((verbs.ibv_alloc_pd)(device.ctx), "make a protection domain")?;
            let cq = (verbs.ibv_create_cq)(device.ctx, 2 * DEPTH as c_int, null_mut(), null_mut(), 0);
            let cq = made(cq, "make a completion queue")?;
            let memory = Box::into_raw(Box::new([0; MEMORY]));
            let mr = (verbs.ibv_reg_mr)(pd, memory.cast(), MEMORY, ACCESS as c_int);
            let mr = made(mr, "register memory")?.cast();
            let mut init = InitAttr {
                qp_context: null_mut(),
                send_cq: cq,
                recv_cq: cq,
                srq: null_mut(),
                cap: Cap {
                    max_send_wr: DEPTH,
                    max_recv_wr: DEPTH,
                    max_send_sge: 1,
                    max_recv_sge: 1,
                    max_inline_data: 0,
                },
                qp_type: RC,
                sq_sig_all: 0,
            };
            let qp = made((verbs.ibv_create_qp)(pd, &mut init), "make a queue pair")?;
            Ok(Self {
                device: device.clone(),
                pd,
                cq,
                mr,
                qp,
                memory,
            })
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        // SAFETY: it exists.
        unsafe { (*self.qp).qp_num }
    }

    /// What CM_ID knows it by.
    pub fn named(&self) -> VerbsQp<'_> {
        VerbsQp {
            device: self.device.fd(),
            number: self.number(),
        }
    }

    /// Its state now.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn attrs(&self) -> Result<(u32, QpAttrs)> {
        let mut attr = QpAttr::default();
        // SAFETY: all zeros is a value of it, and it is overwritten.
        let mut init: InitAttr = unsafe { std::mem::zeroed() };
        let all = mask::STATE | mask::PATH_MTU | mask::MAX_QP_RD_ATOMIC | mask::MAX_DEST_RD_ATOMIC | mask::DEST_QPN;
        // SAFETY: it exists, and there is room for the answers.
        let result = unsafe { (self.device.verbs.ibv_query_qp)(self.qp, &mut attr, all, &mut init) };
        done(result, "query a queue pair")?;
        let attrs = QpAttrs {
            // `enum ibv_mtu`: 1 is 256.
            path_mtu: 128 << attr.path_mtu,
            max_rd_atomic: attr.max_rd_atomic,
            max_dest_rd_atomic: attr.max_dest_rd_atomic,
            dest: attr.dest_qp_num,
        };
        Ok((attr.qp_state, attrs))
    }

    /// Its state now. This is also how libibverbs learns of it: what the kernel moved is in RESET for it until it asks, and nothing
    /// can be posted.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn state(&self) -> Result<u32> {
        Ok(self.attrs()?.0)
    }

    fn sge(&self, length: usize) -> Sge {
        Sge {
            addr: self.memory as u64,
            length: length as u32,
            // SAFETY: it exists.
            lkey: unsafe { (*self.mr).lkey },
        }
    }

    /// Its memory's address and key, for the peer.
    pub fn target(&self) -> (u64, u32) {
        // SAFETY: it exists.
        (self.memory as u64, unsafe { (*self.mr).rkey })
    }

    /// Copies from its memory.
    pub fn memory(&self, length: usize) -> Vec<u8> {
        // SAFETY: the memory is there; the caller has seen the completion of what wrote it.
        (0..length.min(MEMORY))
            .map(|n| unsafe { self.memory.cast::<u8>().add(n).read_volatile() })
            .collect()
    }

    /// Posts a receive.
    ///
    /// # Errors
    ///
    /// It cannot be posted now.
    pub fn post_recv(&self) -> Result<()> {
        self.state()?;
        let sge = self.sge(MEMORY);
        let mut wr = RecvWr {
            wr_id: RECEIVED,
            next: null(),
            sg_list: &sge,
            num_sge: 1,
        };
        let mut bad = null_mut();
        // SAFETY: it exists, and what is pointed to lives during the call.
        done(
            unsafe { (self.device.ctx().post_recv)(self.qp, &mut wr, &mut bad) },
            "post a receive",
        )
    }

    fn post(&self, opcode: c_uint, data: &[u8], (remote_addr, rkey): (u64, u32)) -> Result<()> {
        ensure!(data.len() <= MEMORY, "there is not so much memory");
        self.state()?;
        // SAFETY: it fits, and nothing is on its way.
        unsafe { self.memory.cast::<u8>().copy_from(data.as_ptr(), data.len()) };
        let sge = self.sge(data.len());
        let mut wr = SendWr {
            wr_id: SENT,
            next: null(),
            sg_list: &sge,
            num_sge: 1,
            opcode,
            send_flags: SIGNALED,
            imm_data: 0,
            remote_addr,
            rkey,
            rest: [0; 19],
        };
        let mut bad = null_mut();
        // SAFETY: it exists, and what is pointed to lives during the call.
        done(
            unsafe { (self.device.ctx().post_send)(self.qp, &mut wr, &mut bad) },
            "post a send",
        )
    }

    /// Sends.
    ///
    /// # Errors
    ///
    /// It cannot be posted now.
    pub fn send(&self, data: &[u8]) -> Result<()> {
        self.post(SEND, data, (0, 0))
    }

    /// Writes to the peer's memory.
    ///
    /// # Errors
    ///
    /// It cannot be posted now.
    pub fn write(&self, data: &[u8], target: (u64, u32)) -> Result<()> {
        self.post(WRITE, data, target)
    }

    /// Waits for the next completion.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn completion(&self) -> Result<Wc> {
        let end = Instant::now() + SOON;
        loop {
            let mut wc = Wc::default();
            // SAFETY: it exists, and there is room for one.
            match unsafe { (self.device.ctx().poll_cq)(self.cq, 1, &mut wc) } {
                0 if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                0 => bail!("no completion"),
                1 => return Ok(wc),
                n => bail!("polling says {n}"),
            }
        }
    }

    /// Waits for a completion that must be this one, and good.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn completes(&self, wr_id: u64) -> Result<Wc> {
        let wc = self.completion().with_context(|| format!("work request {wr_id}"))?;
        ensure!(wc.wr_id == wr_id && wc.status == 0, "the completion is {wc:?}");
        Ok(wc)
    }
}

/// What was agreed on for a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpAttrs {
    /// Bytes.
    pub path_mtu: u32,
    /// READs and atomics out.
    pub max_rd_atomic: u8,
    /// READs and atomics in.
    pub max_dest_rd_atomic: u8,
    /// The peer's queue pair.
    pub dest: u32,
}

impl Drop for Link {
    fn drop(&mut self) {
        let verbs = &self.device.verbs;
        // SAFETY: each is destroyed once, after what uses it. A device that is gone may say so: then all is gone.
        unsafe {
            (verbs.ibv_destroy_qp)(self.qp);
            (verbs.ibv_dereg_mr)(self.mr.cast());
            (verbs.ibv_destroy_cq)(self.cq);
            (verbs.ibv_dealloc_pd)(self.pd);
            drop(Box::from_raw(self.memory));
        }
    }
}
