// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Event queues as file descriptors.

use crate::file;
use crate::glue;
use kernel::bindings;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use kernel::fs::File;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::poll::{PollCondVarBox, PollTable};
use kernel::sync::Mutex;
use kernel::types::ForeignOwnable;
use kernel::uaccess::{UserPtr, UserSlice};
use rdma_uapi::class::event_queue::Event;
use rdma_uapi::context::GiveBack;
use rdma_uapi::event::FdObject;
use rdma_uapi::host::Wait;
use rdma_uapi::sys::NoMemory;
use rdma_uapi::{Driver, Errno, Host};

/// Whoever waits for an event queue: in read(2), poll(2), epoll(7).
pub(crate) struct Readers {
    /// A reader looks at the queue and begins to sleep under it, so that a wake-up cannot fall between the two.
    looking: Pin<KBox<Mutex<()>>>,
    sleeping: PollCondVarBox,
}

impl Wait for Readers {
    fn try_new() -> Result<Self, NoMemory> {
        let looking = KBox::pin_init(new_mutex!((), "verbena_readers"), GFP_KERNEL).map_err(|_| NoMemory)?;
        let sleeping = PollCondVarBox::new(c"verbena_readers", kernel::static_lock_class!())?;
        Ok(Readers { looking, sleeping })
    }

    fn wake(&self) {
        drop(self.looking.lock());
        self.sleeping.notify_all();
    }
}

impl Readers {
    /// Sleeps until `ready`; an error if a signal came first.
    fn wait_until(&self, mut ready: impl FnMut() -> bool) -> Result {
        let mut looking = self.looking.lock();
        while !ready() {
            if self.sleeping.wait_interruptible(&mut looking) {
                return Err(ERESTARTSYS);
            }
        }
        Ok(())
    }
}

/// An event queue's descriptor, of whichever driver.
trait Descriptor: Send + Sync {
    fn dispatch(&self, method: u32, message: &mut [u8], give_back: &mut GiveBack<'_>) -> Result<(), Errno>;
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
    fn readable(&self) -> bool;
    fn ended(&self) -> bool;
    fn readers(&self) -> &Readers;
}

impl<H: Host<Wait = Readers>, D: Driver<Host = H>> Descriptor for FdObject<D> {
    fn dispatch(&self, method: u32, message: &mut [u8], give_back: &mut GiveBack<'_>) -> Result<(), Errno> {
        self.dispatch_and(method, message, give_back)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.queue().read(buffer)
    }

    fn readable(&self) -> bool {
        self.queue().pending() > 0
    }

    fn ended(&self) -> bool {
        self.queue().ended()
    }

    fn readers(&self) -> &Readers {
        self.queue().wait()
    }
}

/// What the file has as private data.
struct Private(KBox<dyn Descriptor>);

/// A new descriptor in the calling process. If it fails, the object has been dropped.
pub(crate) fn install<H: Host<Wait = Readers>, D: Driver<Host = H>>(object: FdObject<D>) -> Result<u32> {
    let object: KBox<dyn Descriptor> = KBox::new(object, GFP_KERNEL)?;
    let private = KBox::new(Private(object), GFP_KERNEL)?.into_foreign();
    // SAFETY: `private` is what the functions below expect. The file owns it from now on, if there is one.
    let fd = unsafe { glue::verbena_events_fd(private) };
    match u32::try_from(fd) {
        Ok(fd) => Ok(fd),
        Err(_) => {
            // SAFETY: There is no file, so it is still ours.
            drop(unsafe { KBox::<Private>::from_foreign(private) });
            Err(Error::from_errno(fd))
        }
    }
}

/// Events that one turn of read(2) copies, on the stack.
const BATCH: usize = 16;

fn read(descriptor: &dyn Descriptor, buffer: UserSlice, len: usize, nonblocking: bool) -> Result<usize> {
    let mut user = buffer.writer();
    let mut done = 0;
    loop {
        let mut batch = [0; BATCH * size_of::<Event>()];
        let room = batch.len().min(len - done);
        match descriptor.read(&mut batch[..room]) {
            Ok(n) => {
                user.write_slice(&batch[..n])?;
                done += n;
                if n < room || len - done < size_of::<Event>() {
                    return Ok(done);
                }
            }
            // What was copied already is not lost by what came after it.
            Err(_) if done > 0 => return Ok(done),
            Err(Errno::EAGAIN) if !nonblocking => {
                descriptor
                    .readers()
                    .wait_until(|| descriptor.readable() || descriptor.ended())?;
            }
            Err(errno) => return Err(Error::from_errno(errno.to_result())),
        }
    }
}

/// # Safety
///
/// `events` came from [`install`], and its file has not been released.
unsafe fn borrow<'a>(events: *mut c_void) -> &'a dyn Descriptor {
    // SAFETY: The caller's word; the file owns it.
    unsafe { &*KBox::<Private>::borrow(events).0 }
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_events_release(events: *mut c_void) {
    // SAFETY: It came from `install`, and the file gives it up now.
    drop(unsafe { KBox::<Private>::from_foreign(events) });
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_events_ioctl(events: *mut c_void, command: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: It came from `install`; the file is open during the call.
    let descriptor = unsafe { borrow(events) };
    file::ioctl(command, arg, |method, message, give_back| {
        descriptor.dispatch(method, message, give_back)
    })
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_events_read(
    events: *mut c_void,
    buffer: c_ulong,
    len: usize,
    nonblocking: bool,
) -> isize {
    // SAFETY: It came from `install`; the file is open during the call.
    let descriptor = unsafe { borrow(events) };
    match read(
        descriptor,
        UserSlice::new(UserPtr::from_addr(buffer), len),
        len,
        nonblocking,
    ) {
        Ok(n) => n as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// See `glue.h`.
#[no_mangle]
unsafe extern "C" fn verbena_rs_events_poll(
    events: *mut c_void,
    file: *mut bindings::file,
    table: *mut bindings::poll_table,
) -> bindings::__poll_t {
    // SAFETY: It came from `install`; the file is open during the call.
    let descriptor = unsafe { borrow(events) };
    // SAFETY: Both are valid during the call. This is no call through an fdget_pos() of this thread.
    let (file, table) = unsafe { (File::from_raw_file(file), PollTable::from_raw(table)) };
    // Registered first, looked at afterwards: what comes in between wakes.
    table.register_wait(file, &descriptor.readers().sleeping);
    let mut mask = 0;
    if descriptor.readable() {
        mask |= bindings::POLLIN | bindings::POLLRDNORM;
    }
    if descriptor.ended() {
        mask |= bindings::POLLHUP;
    }
    mask
}

// A descriptor is an int, and never negative.
const _: () = assert!(size_of::<c_int>() == size_of::<u32>());
