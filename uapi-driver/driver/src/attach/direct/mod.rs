// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directly to the device's vfio-user socket: no guest, no kernel module, the same `verbena-core` in this process.
//!
//! A device has one client, so everybody in this process who opens the same socket shares the attachment, each with a
//! context of the object model of its own, as several opens of a device node have. When the last one goes the device is
//! reset and the socket closed.

mod bell;
mod copy;
mod interrupts;
mod memory;
mod node;
mod platform;
mod socket;

use self::interrupts::Interrupts;
use self::memory::GuestMemory;
pub(super) use self::node::DirectNode;
use self::platform::{Descriptor, DirectPlatform, Owner};
use self::socket::Socket;
use super::{page_aligned, EventFd, Gone, Register, Transport};
use crate::error::{Error, Result};
use crate::memory::Mapping;
use rdma_uapi::class::event_queue::Event;
use rdma_uapi::{wire, Errno};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use verbena_core::{Hardware, MmapTarget, Platform, RegisterMapping};
use verbena_hw::doorbell::REG_RING;
use vmm_sys_util::eventfd::{EventFd as RawEventFd, EFD_CLOEXEC, EFD_NONBLOCK};
use zerocopy::FromBytes;

type Device = verbena_core::Device<DirectPlatform>;
type Context = verbena_core::Context<DirectPlatform>;

/// Vectors that are asked for: admin queue, asynchronous events, and as many for completions as `core` uses.
const MAX_VECTORS: u32 = 10;

/// A device that this process is attached to.
struct Attached {
    device: Arc<Device>,
    interrupts: Mutex<Option<Interrupts>>,
}

impl Attached {
    fn new(path: &Path, index: u32) -> Result<Self> {
        let start = |reason: String, errno| Error::Start {
            path: path.to_owned(),
            reason,
            errno,
        };
        let silent = || start("its vfio-user server does not answer".to_owned(), Errno::EIO);
        let memory = GuestMemory::new().map_err(Error::system("make the memory file"))?;
        let mut socket = Socket::connect(path)?;
        socket.find_bell().ok_or_else(silent)?;
        let (file, addr, len) = memory.region();
        socket.enable(file, addr, len).ok_or_else(silent)?;
        let vectors = socket.vectors().ok_or_else(silent)?.min(MAX_VECTORS);
        if vectors == 0 {
            return Err(start("it has no MSI-X vectors".to_owned(), Errno::EIO));
        }
        let event = || RawEventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        let system = |source| Error::System {
            doing: "make an eventfd",
            source,
        };
        let events = (0..vectors)
            .map(|_| event())
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(system)?;
        let died = event().map_err(system)?;
        let heard = died.try_clone().map_err(system)?;
        let changed = event().map_err(system)?;
        let due = changed.try_clone().map_err(system)?;
        socket.set_vectors(&events).ok_or_else(silent)?;

        let platform = DirectPlatform::new(index, path, socket, memory, vectors as u16, died, changed);
        let hardware = Hardware::start(platform.clone()).map_err(|error| start(error.to_string(), error.errno()))?;
        let device = Device::try_new(hardware, platform).map_err(|error| start(error.to_string(), Errno::EINVAL))?;
        let interrupts = Interrupts::start(device.clone(), events, heard, due)?;
        node::add(&device);
        Ok(Self {
            device,
            interrupts: Mutex::new(Some(interrupts)),
        })
    }

    fn is_gone(&self) -> bool {
        self.device.is_removed() || self.device.state().is_gone() || self.device.host().socket().is_dead()
    }

    /// The last context is closed: the device is stopped and let go.
    fn end(&self) {
        node::remove(&self.device);
        // When the thread has ended no interrupt is served any more.
        drop(self.interrupts.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.device.state().stop();
        self.device.host().socket().end();
    }
}

/// The devices that this process is attached to, with the number of contexts on each. Connecting and disconnecting
/// happen under the lock, so that nobody connects to a socket whose only connection is about to end.
static ATTACHED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

struct Entry {
    path: PathBuf,
    contexts: usize,
    attached: Arc<Attached>,
}

fn attached() -> MutexGuard<'static, Vec<Entry>> {
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A share in an attachment.
struct Share(Arc<Attached>);

impl Share {
    fn open(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut all = attached();
        if let Some(entry) = all
            .iter_mut()
            .find(|entry| entry.path == path && !entry.attached.is_gone())
        {
            entry.contexts += 1;
            return Ok(Self(entry.attached.clone()));
        }
        let used = |index| all.iter().any(|entry| entry.attached.device.host().index() == index);
        let index = (0..)
            .find(|&index| !used(index))
            .expect("not so many devices are attached");
        let attached = Arc::new(Attached::new(&path, index)?);
        all.push(Entry {
            path,
            contexts: 1,
            attached: attached.clone(),
        });
        Ok(Self(attached))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = attached();
        let n = all
            .iter()
            .position(|entry| Arc::ptr_eq(&entry.attached, &self.0))
            .expect("a share is in the list");
        all[n].contexts -= 1;
        if all[n].contexts == 0 {
            all.swap_remove(n);
            self.0.end();
        }
    }
}

/// The contexts that are open, by what stands for their descriptors: never the number of an earlier one.
static FILES: Mutex<BTreeMap<u32, Weak<Context>>> = Mutex::new(BTreeMap::new());
static NUMBERS: AtomicU32 = AtomicU32::new(1);

fn files() -> MutexGuard<'static, BTreeMap<u32, Weak<Context>>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The context that a number stands for.
fn opened(number: u32) -> Option<Arc<Context>> {
    files().get(&number)?.upgrade()
}

/// A context on a device behind a socket.
pub(super) struct Direct {
    context: Arc<Context>,
    /// What stands for its descriptor.
    number: u32,
    share: Share,
}

impl Direct {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let share = Share::open(path)?;
        let context = Device::open(&share.0.device, Owner::default());
        let context = context.map_err(|failure| Error::Start {
            path: path.to_owned(),
            reason: failure.to_string(),
            errno: failure.errno,
        })?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        files().insert(number, Arc::downgrade(&context));
        Ok(Self { context, number, share })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        files().remove(&self.number);
        Context::close(&self.context);
    }
}

impl Transport for Direct {
    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        copy::of_borrowed(|| self.raw_call(method, message))
    }

    fn raw_call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        Context::dispatch(&self.context, method.into(), message)
    }

    fn create_fd(&self, method: u8, message: &mut [u8]) -> Result<Box<dyn EventFd>, Errno> {
        self.call(method, message)?;
        let (header, _) = wire::Header::read_from_prefix(message).map_err(|_| Errno::EBADMSG)?;
        let descriptor = self.context.owner().fetch(header.object).ok_or(Errno::EBADF)?;
        Ok(Box::new(DirectEventFd(descriptor)))
    }

    fn map(&self, offset: u64, len: usize) -> Result<Arc<Mapping>> {
        match self.target("map a queue", offset, len as u64)? {
            MmapTarget::Memory { memory, offset } => {
                // The offset is below the memory's length, which is addressed here.
                let part = Mapping::part(memory, offset as usize, len);
                part.map(Arc::new).ok_or(Error::Answer {
                    doing: "map a queue",
                    what: "its memory is too short",
                })
            }
            MmapTarget::Register(_) => Err(Error::Argument("a doorbell register is no memory")),
        }
    }

    fn register(&self, offset: u64) -> Result<Box<dyn Register>> {
        const DOING: &str = "reach the doorbell register";
        match self.target(DOING, offset, verbena_hw::doorbell::PAGE_SIZE)? {
            MmapTarget::Register(mapping) => Ok(Box::new(DirectRegister {
                mapping,
                platform: self.context.device().host().clone(),
            })),
            MmapTarget::Memory { .. } => Err(Error::Answer {
                doing: DOING,
                what: "it is memory",
            }),
        }
    }

    fn alloc(&self, len: usize) -> Result<Arc<Mapping>> {
        let len = page_aligned(len)?;
        let part = self.context.device().host().memory().alloc(len).ok_or(Error::System {
            doing: "allocate a buffer",
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        Ok(Arc::new(
            Mapping::part(Arc::new(part), 0, len).expect("the part has the length asked for"),
        ))
    }

    fn descriptor(&self) -> Option<u32> {
        Some(self.number)
    }

    fn is_gone(&self) -> bool {
        self.share.0.is_gone()
    }
}

impl Direct {
    fn target(&self, doing: &'static str, offset: u64, len: u64) -> Result<MmapTarget<DirectPlatform>> {
        verbena_core::mmap(&self.context, offset, len).map_err(|failure| {
            Error::Call(crate::error::CallError {
                doing,
                failure,
                called: None,
            })
        })
    }
}

struct DirectEventFd(Box<dyn Descriptor>);

impl EventFd for DirectEventFd {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        copy::of_borrowed(|| self.0.ioctl(method, message))
    }

    fn read(&self, events: &mut [Event]) -> Result<usize, Errno> {
        self.0.read(events)
    }
}

/// A doorbell page of BAR 2: an eventfd that wakes the device, or written by message.
struct DirectRegister {
    mapping: RegisterMapping<DirectPlatform>,
    platform: DirectPlatform,
}

impl Register for DirectRegister {
    fn kick(&self, slot: u16) -> Result<(), Gone> {
        let (socket, register) = (self.platform.socket(), self.mapping.bar_offset() + REG_RING);
        socket.kick(register, slot).ok_or(Gone)
    }
}
