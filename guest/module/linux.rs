// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Linux as the place where driver and object model run: [`Platform`] and [`Host`].

use crate::events::{self, Readers};
use crate::glue;
use crate::hca::Work;
use crate::memory::{self, Dma, Pinned, Reach};
use crate::system::Anywhere;
use core::fmt;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_ulong};
use kernel::io::Io;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::types::Opaque;
use kernel::uaccess::{UserPtr, UserSlice};
use kernel::{bindings, device, pci, time};
use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::Moment;
use rdma_uapi::schema::Access;
use rdma_uapi::{Driver, Errno, Failure, Host, Reason};
use verbena_core::platform::{PinError, Platform, PAGE};

/// BAR 0, for as long as the driver is bound to the device.
pub(crate) type Registers = pci::DevresBar<{ verbena_hw::pci::BAR_REGS_SIZE as usize }>;

/// BAR 2, likewise.
pub(crate) type Doorbells = pci::DevresBar<{ verbena_hw::pci::BAR_DOORBELL_SIZE as usize }>;

/// One device, as everybody who works with it sees it.
#[derive(Clone)]
pub(crate) struct Linux(Arc<Parts>);

struct Parts {
    device: ARef<device::Device>,
    number: Number,
    name: CString,
    path: CString,
    registers: Registers,
    rings: Doorbells,
    /// Physical address of BAR 2.
    doorbells: u64,
    vectors: u16,
    reach: Arc<Reach>,
    work: Arc<Work>,
}

impl Linux {
    pub(crate) fn new(
        device: &device::Device,
        registers: Registers,
        (rings, doorbells): (Doorbells, u64),
        vectors: u16,
        reach: Arc<Reach>,
        work: Arc<Work>,
    ) -> Result<Self> {
        let number = Number::take()?;
        let name = CString::try_from_fmt(fmt!("verbena{}", number.0))?;
        let path = CString::try_from_fmt(fmt!("/dev/verbena{}", number.0))?;
        let parts = Parts {
            device: device.into(),
            number,
            name,
            path,
            registers,
            rings,
            doorbells,
            vectors,
            reach,
            work,
        };
        Ok(Linux(Arc::new(parts, GFP_KERNEL)?))
    }

    /// Number and name of the node in /dev.
    pub(crate) fn node(&self) -> (c_int, &CStr) {
        (self.0.number.0, &self.0.name)
    }

    /// The number of a page of BAR 2.
    pub(crate) fn doorbell_pfn(&self, page: u32) -> c_ulong {
        ((self.0.doorbells / PAGE) + u64::from(page)) as c_ulong
    }
}

/// The error number of a kernel function as the object model has it.
pub(crate) fn errno(error: Error) -> Errno {
    // An Error is -4095..=-1.
    Errno(error.to_errno().unsigned_abs() as u16)
}

impl Platform for Linux {
    type Node = Anywhere;
    type Dma = Dma;
    const DMA_BOOKS: usize = memory::DMA_BOOKS;
    type Pinned = Pinned;
    type Signal = Signal;
    type File = Inode;

    fn name(&self) -> &str {
        // Ours, and ASCII.
        self.0.name.to_str().unwrap_or_default()
    }

    fn index(&self) -> u32 {
        // The invariant of Number: it is not negative.
        self.0.number.0 as u32
    }

    fn path(&self) -> &str {
        self.0.path.to_str().unwrap_or_default()
    }

    fn read32(&self, offset: u32) -> u32 {
        let registers = self.0.registers.try_access();
        registers
            .and_then(|registers| registers.try_read32(offset as usize).ok())
            .unwrap_or(u32::MAX)
    }

    fn read64(&self, offset: u32) -> u64 {
        let registers = self.0.registers.try_access();
        registers
            .and_then(|registers| registers.try_read64(offset as usize).ok())
            .unwrap_or(u64::MAX)
    }

    fn write32(&self, offset: u32, value: u32) {
        // The accessors order memory writes before the register's, as writel() does.
        if let Some(registers) = self.0.registers.try_access() {
            // An offset beyond the BAR is a write that is lost, as on PCI.
            let _ = registers.try_write32(value, offset as usize);
        }
    }

    fn write64(&self, offset: u32, value: u64) {
        if let Some(registers) = self.0.registers.try_access() {
            let _ = registers.try_write64(value, offset as usize);
        }
    }

    fn ring(&self, offset: u64, value: u32) {
        if let Some(rings) = self.0.rings.try_access() {
            let _ = rings.try_write32(value, offset as usize);
        }
    }

    fn schedule(&self, nanoseconds: u64) {
        self.0.work.schedule(nanoseconds);
    }

    fn vectors(&self) -> u16 {
        self.0.vectors
    }

    fn alloc_dma(&self, len: usize) -> Result<Dma, Errno> {
        self.0.reach.alloc(len).map_err(errno)
    }

    fn pin(&self, _owner: &(), addr: u64, len: u64, writable: bool) -> Result<Pinned, PinError> {
        self.0.reach.pin(addr, len, writable).map_err(|error| match error {
            ENOMEM => PinError::NoMemory,
            // Memory of a device, or mapped through a bounce buffer.
            ENODEV | EIO | EOPNOTSUPP => PinError::Unreachable,
            _ => PinError::Fault,
        })
    }

    fn file(&self, _owner: &(), fd: u32) -> Result<Inode, Errno> {
        Inode::of(fd).ok_or(Errno::EBADF)
    }

    fn signal(&self) -> Result<Signal, Errno> {
        Signal::new().map_err(errno)
    }

    fn now(&self) -> u64 {
        now()
    }
}

impl Host for Linux {
    // User memory is the calling process's, and accounted to it, whoever opened the file.
    type Owner = ();
    type Wait = Readers;
    type Charge = Charge;

    fn copy_in(&self, _owner: &(), addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        copy_in(addr, into)
    }

    fn copy_out(&self, _owner: &(), addr: u64, from: &[u8]) -> Result<(), Errno> {
        copy_out(addr, from)
    }

    fn may(&self, _owner: &(), access: Access) -> bool {
        may(access)
    }

    fn charge(&self, _owner: &(), bytes: u64) -> Outcome<Charge> {
        Charge::new(bytes)
    }

    fn install_fd<D: Driver<Host = Self>>(&self, _owner: &(), object: FdObject<D>) -> Result<u32, Errno> {
        events::install(object).map_err(errno)
    }

    fn moment(&self) -> Moment {
        moment()
    }

    fn descends_from(&self, process: u32) -> bool {
        // SAFETY: There is nothing to be met; this is the calling process's own call.
        unsafe { glue::verbena_descends(process) }
    }

    fn max_objects(&self) -> u32 {
        // SAFETY: There is nothing to be met.
        unsafe { glue::verbena_max_objects() }
    }

    fn user(&self) -> u32 {
        // SAFETY: There is nothing to be met; this is the calling process's own call.
        unsafe { glue::verbena_user() }
    }

    fn max_contexts(&self) -> u32 {
        // SAFETY: There is nothing to be met; this is the calling process's own call.
        unsafe { glue::verbena_max_contexts() }
    }

    fn pause(&self) {
        pause();
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        dev_warn!(self.0.device, "{}\n", line);
    }
}

/// Reads the calling process's memory.
pub(crate) fn copy_in(addr: u64, into: &mut [u8]) -> Result<(), Errno> {
    UserSlice::new(UserPtr::from_addr(addr as usize), into.len())
        .reader()
        .read_slice(into)
        .map_err(errno)
}

/// Writes the calling process's memory.
pub(crate) fn copy_out(addr: u64, from: &[u8]) -> Result<(), Errno> {
    UserSlice::new(UserPtr::from_addr(addr as usize), from.len())
        .writer()
        .write_slice(from)
        .map_err(errno)
}

/// Whether the calling process may.
pub(crate) fn may(access: Access) -> bool {
    let capability = match access {
        Access::Any => return true,
        Access::NetAdmin => bindings::CAP_NET_ADMIN,
        Access::NetRaw => bindings::CAP_NET_RAW,
        Access::SysAdmin => bindings::CAP_SYS_ADMIN,
    };
    // SAFETY: There is nothing to be met; this is the calling process's own call.
    unsafe { bindings::capable(capability as c_int) }
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    // SAFETY: There is nothing to be met. The clock is never negative.
    unsafe { bindings::ktime_get() as u64 }
}

/// When it is, and who calls.
pub(crate) fn moment() -> Moment {
    let task = kernel::current!();
    Moment {
        time: now(),
        // Numbers of the initial namespace, which an observer with CAP_SYS_ADMIN there sees them in.
        process: task.tgid() as u32,
        thread: task.pid() as u32,
    }
}

/// Waits a moment.
pub(crate) fn pause() {
    time::delay::fsleep(time::Delta::from_millis(1));
}

/// A number for a node.
///
/// # Invariants
///
/// It came from `verbena_number_take` and is owned.
struct Number(c_int);

impl Number {
    fn take() -> Result<Self> {
        // SAFETY: There is nothing to be met.
        let number = unsafe { glue::verbena_number_take() };
        to_result(number.min(0))?;
        // INVARIANT: It has just been taken.
        Ok(Number(number))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: The invariant.
        unsafe { glue::verbena_number_give(self.0) }
    }
}

/// Pinned pages counted against a process's limit.
///
/// # Invariants
///
/// `pages` are charged to `mm`, which a reference is held on.
pub(crate) struct Charge {
    pages: c_ulong,
    mm: NonNull<bindings::mm_struct>,
}

impl Charge {
    /// Accounts for pinned memory of the calling process.
    pub(crate) fn new(bytes: u64) -> Outcome<Self> {
        let pages = bytes.div_ceil(PAGE) as c_ulong;
        let mut mm = core::ptr::null_mut();
        // SAFETY: `mm` is there to be written.
        let result = to_result(unsafe { glue::verbena_charge(pages, &mut mm) });
        match (result, NonNull::new(mm)) {
            // INVARIANT: It has just been charged.
            (Ok(()), Some(mm)) => Ok(Charge { pages, mm }),
            _ => Err(Failure::new(Errno::ENOMEM, Reason::MEMLOCK)),
        }
    }
}

// SAFETY: The count is atomic, and the last reference may be dropped anywhere.
unsafe impl Send for Charge {}
// SAFETY: A shared reference gives nothing to do.
unsafe impl Sync for Charge {}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: The invariant.
        unsafe { glue::verbena_uncharge(self.pages, self.mm.as_ptr()) }
    }
}

/// A file, as long as this exists the same.
///
/// # Invariants
///
/// The pointer came from `verbena_inode_get` and is owned.
#[derive(PartialEq)]
pub(crate) struct Inode(NonNull<bindings::inode>);

impl Inode {
    /// The one that a descriptor of the calling process names.
    fn of(fd: u32) -> Option<Self> {
        // SAFETY: There is nothing to be met.
        let inode = unsafe { glue::verbena_inode_get(fd) };
        // INVARIANT: Just got.
        NonNull::new(inode).map(Inode)
    }
}

// SAFETY: An inode may be given back from any thread that may sleep, which is where objects end.
unsafe impl Send for Inode {}
// SAFETY: A shared reference gives nothing to do but to compare the pointer.
unsafe impl Sync for Inode {}

impl Drop for Inode {
    fn drop(&mut self) {
        // SAFETY: The invariant.
        unsafe { glue::verbena_inode_put(self.0.as_ptr()) }
    }
}

#[pin_data]
struct Completion {
    #[pin]
    inner: Opaque<bindings::completion>,
}

/// The kernel's `struct completion`, whose wait can end by time.
pub(crate) struct Signal(Pin<KBox<Completion>>);

// SAFETY: A completion may be used from any thread.
unsafe impl Send for Signal {}
// SAFETY: It is made to be used by several threads at once.
unsafe impl Sync for Signal {}

impl Signal {
    fn new() -> Result<Self> {
        let inner = Opaque::ffi_init(|slot: *mut bindings::completion| {
            // SAFETY: There is room for one, and it stays there.
            unsafe { bindings::init_completion(slot) }
        });
        Ok(Signal(KBox::pin_init(
            pin_init!(Completion { inner <- inner }),
            GFP_KERNEL,
        )?))
    }
}

impl verbena_core::platform::Signal for Signal {
    fn raise(&self) {
        // SAFETY: It is initialised.
        unsafe { bindings::complete(self.0.inner.get()) }
    }

    fn wait(&self, nanoseconds: u64) {
        // SAFETY: There is nothing to be met.
        let ticks = unsafe { bindings::nsecs_to_jiffies(nanoseconds) };
        // One more: the current tick has begun already. The result says whether it was raised; the caller looks itself.
        // SAFETY: It is initialised; this is process context.
        unsafe { bindings::wait_for_completion_timeout(self.0.inner.get(), ticks.saturating_add(1)) };
    }
}
