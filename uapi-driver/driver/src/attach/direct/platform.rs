// SPDX-License-Identifier: MIT OR Apache-2.0
//! `verbena-core`'s platform, and the object model's host, in this very process.

use super::copy;
use super::memory::{GuestMemory, Part};
use super::socket::{errno, Socket};
use rdma_uapi::class::event_queue::Event;
use rdma_uapi::driver::Driver;
use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::{Host, Moment, Wait};
use rdma_uapi::schema::Access;
use rdma_uapi::sys::NoMemory;
use rdma_uapi::{Errno, Failure};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use verbena_core::platform::{PinError, Pinned, Platform, Signal, PAGE};
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};
use zerocopy::IntoBytes;

/// One device: a socket and the memory shared over it.
#[derive(Clone)]
pub(super) struct DirectPlatform(Arc<Shared>);

struct Shared {
    index: u32,
    name: String,
    path: String,
    socket: Socket,
    memory: Arc<GuestMemory>,
    vectors: u16,
    /// Raised when the driver finds the device dead.
    died: EventFd,
    /// When `verbena_core::work` is due.
    work: Mutex<Option<Instant>>,
    /// Raised when that has changed.
    changed: EventFd,
    started: Instant,
}

impl DirectPlatform {
    /// `died` is raised when the driver finds the device dead, `changed` when [`DirectPlatform::due`] says something else.
    pub(super) fn new(
        index: u32,
        path: &Path,
        socket: Socket,
        memory: Arc<GuestMemory>,
        vectors: u16,
        died: EventFd,
        changed: EventFd,
    ) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        Self(Arc::new(Shared {
            index,
            name: name.to_string_lossy().into_owned(),
            path: path.to_string_lossy().into_owned(),
            socket,
            memory,
            vectors,
            died,
            work: Mutex::new(None),
            changed,
            started: Instant::now(),
        }))
    }

    /// How long it is until `verbena_core::work` is due.
    pub(super) fn due(&self) -> Option<Duration> {
        let work = self.0.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether `verbena_core::work` is due, after which it is not.
    pub(super) fn take_due(&self) -> bool {
        let mut work = self.0.work.lock().unwrap_or_else(PoisonError::into_inner);
        let due = work.is_some_and(|at| at <= Instant::now());
        if due {
            *work = None;
        }
        due
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.0.socket
    }

    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.0.memory
    }
}

impl Platform for DirectPlatform {
    type Node = super::node::Process;
    type Dma = Part;
    type Pinned = PinnedRange;
    type Signal = Semaphore;
    type File = SharedFile;

    fn name(&self) -> &str {
        &self.0.name
    }

    fn index(&self) -> u32 {
        self.0.index
    }

    fn path(&self) -> &str {
        &self.0.path
    }

    fn read32(&self, offset: u32) -> u32 {
        u32::from_le_bytes(self.0.socket.read(offset))
    }

    fn read64(&self, offset: u32) -> u64 {
        u64::from_le_bytes(self.0.socket.read(offset))
    }

    // The socket is the barrier: the server reads the message after the system call that sent it, and so after every
    // store before that call.

    fn write32(&self, offset: u32, value: u32) {
        self.0.socket.write(offset, &value.to_le_bytes());
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.socket.write(offset, &value.to_le_bytes());
    }

    fn ring(&self, offset: u64, value: u32) {
        // A device that is gone loses it.
        let _ = self.0.socket.ring(offset, value);
    }

    fn schedule(&self, nanoseconds: u64) {
        let at = Instant::now().checked_add(Duration::from_nanos(nanoseconds));
        *self.0.work.lock().unwrap_or_else(PoisonError::into_inner) = at;
        // The counter cannot be full: whoever waits takes it.
        let _ = self.0.changed.write(1);
    }

    fn vectors(&self) -> u16 {
        self.0.vectors
    }

    fn alloc_dma(&self, len: usize) -> Result<Part, Errno> {
        self.0.memory.alloc(len).ok_or(Errno::ENOMEM)
    }

    fn pin(&self, _owner: &Owner, addr: u64, len: u64, _writable: bool) -> Result<PinnedRange, PinError> {
        let device = self.0.memory.device_addr(addr, len).ok_or(PinError::Fault)?;
        let first_offset = device % PAGE;
        let start = device - first_offset;
        let len = (first_offset + len).next_multiple_of(PAGE);
        Ok(PinnedRange {
            start,
            len,
            first_offset,
        })
    }

    fn file(&self, _owner: &Owner, fd: u32) -> Result<SharedFile, Errno> {
        SharedFile::new(fd).map_err(|error| errno(&error))
    }

    fn signal(&self) -> Result<Semaphore, Errno> {
        Ok(Semaphore::default())
    }

    fn now(&self) -> u64 {
        // 584 years of nanoseconds fit.
        self.0.started.elapsed().as_nanos() as u64
    }

    /// Two threads wake up one after the other for a waiter that sleeps: the one that hears interrupts, and itself.
    fn spin(&self) -> u64 {
        200_000
    }

    fn died(&self) {
        // The counter cannot be full: it is raised a few times in a life.
        let _ = self.0.died.write(1);
    }
}

/// A part of guest memory, as whole pages. It is always there, so there is nothing to unpin.
pub(super) struct PinnedRange {
    start: u64,
    len: u64,
    first_offset: u64,
}

impl Pinned for PinnedRange {
    fn first_offset(&self) -> u64 {
        self.first_offset
    }

    fn stretches(&self, each: &mut dyn FnMut(u64, u64) -> Result<(), Failure>) -> Result<(), Failure> {
        each(self.start, self.len)
    }
}

/// A file by its numbers, which another one cannot have while this one is open.
pub(super) struct SharedFile {
    dev: u64,
    ino: u64,
    _open: File,
}

impl SharedFile {
    fn new(fd: u32) -> io::Result<Self> {
        let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        // SAFETY: it is not -1, and is borrowed for the call alone, which fails if it is not open.
        let open: File = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?.into();
        let meta = open.metadata()?;
        Ok(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            _open: open,
        })
    }
}

impl PartialEq for SharedFile {
    fn eq(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// A counting semaphore.
#[derive(Default)]
pub(super) struct Semaphore {
    raised: Mutex<u64>,
    changed: Condvar,
}

impl Signal for Semaphore {
    fn raise(&self) {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_one();
    }

    fn wait(&self, nanoseconds: u64) {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = Duration::from_nanos(nanoseconds);
        let (mut raised, _) = self
            .changed
            .wait_timeout_while(raised, limit, |raised| *raised == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *raised = raised.saturating_sub(1);
    }
}

/// Whoever opened a context: this process. Keeps new descriptors until their maker fetches them.
#[derive(Default)]
pub(super) struct Owner {
    descriptors: Mutex<HashMap<u32, Box<dyn Descriptor>>>,
}

impl Owner {
    /// The descriptor that a call has just answered.
    pub(super) fn fetch(&self, fd: u32) -> Option<Box<dyn Descriptor>> {
        self.descriptors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&fd)
    }

    /// A descriptor for an object, to be fetched.
    pub(super) fn install<H: Host<Wait = Waiters>, D: Driver<Host = H>>(
        &self,
        object: FdObject<D>,
    ) -> Result<u32, Errno> {
        let fd = u32::try_from(object.queue().wait().0.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        let mut descriptors = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
        descriptors.insert(fd, Box::new(object));
        Ok(fd)
    }
}

/// An object that stands for a descriptor: what the kernel's file operations would be.
pub(super) trait Descriptor: Send + Sync {
    fn fd(&self) -> BorrowedFd<'_>;
    fn ioctl(&self, method: u8, message: &mut [u8]) -> Result<(), Errno>;
    fn read(&self, events: &mut [Event]) -> Result<usize, Errno>;
}

impl<H: Host<Wait = Waiters>, D: Driver<Host = H>> Descriptor for FdObject<D> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.queue().wait().fd()
    }

    fn ioctl(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        let result = self.dispatch(method.into(), message);
        // READ_EVENTS takes events too.
        self.settle();
        result
    }

    fn read(&self, events: &mut [Event]) -> Result<usize, Errno> {
        let result = self.queue().read(events.as_mut_bytes());
        self.settle();
        result.map(|bytes| bytes / size_of::<Event>())
    }
}

/// Keeps a queue's eventfd telling the truth.
trait Settle {
    fn settle(&self);
}

impl<H: Host<Wait = Waiters>, D: Driver<Host = H>> Settle for FdObject<D> {
    /// Readable if and only if there is something to be read, or the queue has ended. Cleared first and raised again
    /// where needed: whatever comes in between raises it by itself, and a reader at the wrong moment sees it readable
    /// once too often, never once too rarely.
    fn settle(&self) {
        self.queue().wait().clear();
        if self.queue().pending() > 0 || self.queue().ended() {
            self.queue().wait().wake();
        }
    }
}

/// What readers of an event queue wait on: an eventfd, which poll and epoll know.
pub(super) struct Waiters(EventFd);

impl Waiters {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the eventfd lives, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }

    fn clear(&self) {
        // EAGAIN: it was clear.
        let _ = self.0.read();
    }
}

impl Wait for Waiters {
    fn try_new() -> Result<Self, NoMemory> {
        EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map(Self).map_err(|_| NoMemory)
    }

    fn wake(&self) {
        // EAGAIN: the counter is full, so it is readable.
        let _ = self.0.write(1);
    }
}

impl Host for DirectPlatform {
    type Owner = Owner;
    type Wait = Waiters;
    type Charge = ();
    const READS_AHEAD: bool = copy::READS_AHEAD;

    fn copy_in(&self, _owner: &Owner, addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        copy::copy_in(addr, into)
    }

    fn copy_out(&self, _owner: &Owner, addr: u64, from: &[u8]) -> Result<(), Errno> {
        copy::copy_out(addr, from)
    }

    fn may(&self, _owner: &Owner, _access: Access) -> bool {
        // Whoever has the socket has the device.
        true
    }

    fn charge(&self, _owner: &Owner, _bytes: u64) -> Outcome<()> {
        // Guest memory is a file; none of it is pinned.
        Ok(())
    }

    fn install_fd<D: Driver<Host = Self>>(&self, owner: &Owner, object: FdObject<D>) -> Result<u32, Errno> {
        owner.install(object)
    }

    fn moment(&self) -> Moment {
        moment()
    }

    fn descends_from(&self, process: u32) -> bool {
        descends_from(process)
    }

    fn pause(&self) {
        pause();
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        log(line);
    }
}

/// When it is, from the first time that this is asked, and who calls.
pub(super) fn moment() -> Moment {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    Moment {
        time: FIRST.get_or_init(Instant::now).elapsed().as_nanos() as u64,
        process: std::process::id(),
        thread: rustix::thread::gettid().as_raw_pid() as u32,
    }
}

/// Whether this process is `process` or descends from it.
fn descends_from(process: u32) -> bool {
    let mut each = std::process::id();
    // 0 is nobody's number and init's parent, as is a parent's outside of this process's namespace.
    while each != 0 && each != process {
        each = parent_of(each).unwrap_or(0);
    }
    each != 0
}

/// The parent of a process that lives: the second field behind its name, which alone may hold spaces and parentheses.
fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

pub(super) fn log(line: fmt::Arguments<'_>) {
    log::info!(target: "verbena", "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h12_a_signal_raised_before_the_wait_is_not_lost_and_counts() {
        let signal = Semaphore::default();
        signal.raise();
        signal.raise();
        let begin = Instant::now();
        signal.wait(10_000_000_000);
        signal.wait(10_000_000_000);
        assert!(begin.elapsed() < Duration::from_secs(5));
        let begin = Instant::now();
        signal.wait(20_000_000);
        assert!(
            begin.elapsed() >= Duration::from_millis(20),
            "the third wait had nothing to take"
        );
    }

    #[test]
    fn h12_a_sleeping_wait_is_woken() {
        let signal = Arc::new(Semaphore::default());
        let raiser = signal.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            raiser.raise();
        });
        let begin = Instant::now();
        signal.wait(10_000_000_000);
        assert!(begin.elapsed() < Duration::from_secs(5));
        thread.join().unwrap();
    }
}
