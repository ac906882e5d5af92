// SPDX-License-Identifier: MIT OR Apache-2.0
//! Through the kernel module: ioctl and mmap on its character device, read on its event queues.

use super::{page_aligned, EventFd, Gone, Register, Transport};
use crate::error::{Error, Result};
use crate::memory::Mapping;
use rdma_uapi::class::event_queue::Event;
use rdma_uapi::{wire, Errno};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// An open device node.
pub(super) struct Kernel {
    file: File,
    /// It is the system-wide node: what is gone is a device, never the node.
    node: bool,
    gone: Arc<AtomicBool>,
}

impl Kernel {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::Open {
                path: path.to_owned(),
                advice: match source.kind() {
                    ErrorKind::NotFound => {
                        "is the module loaded (`modprobe verbena`), and does `lspci -d 1234:5eb0` show the device?"
                    }
                    ErrorKind::PermissionDenied => {
                        "the node's mode and group do not let you: see `ls -l` of it, and the udev rule that sets them"
                    }
                    _ if source.raw_os_error() == Some(libc::ENODEV) => {
                        "the device was removed, or did not come up: see `dmesg`"
                    }
                    _ => "",
                },
                source,
            })?;
        Ok(Self {
            file,
            node: false,
            gone: Arc::default(),
        })
    }

    pub(super) fn open_node(path: &Path) -> Result<Self> {
        let file = Self::open(path)?;
        Ok(Self { node: true, ..file })
    }
}

/// Sends a message to a descriptor of the module.
fn ioctl(fd: BorrowedFd<'_>, gone: &AtomicBool, method: u8, message: &mut [u8]) -> Result<(), Errno> {
    // The kernel reads and writes as many bytes as the header says, so the header must not say more than there is.
    // A message that lies about its length, or has none, is the kernel's to refuse, without reading beyond it.
    let stated = message
        .first_chunk::<2>()
        .map_or(0, |length| usize::from(u16::from_ne_bytes(*length)));
    if message.len() < wire::HEADER || stated > message.len() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the descriptor is open; the kernel accesses `message` as far as its header says, which is inside it. What
    // attributes by pointer point to is the caller's promise (`Builder` users own the memory; `raw_call` is unsafe).
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), wire::ioctl(method).into(), message.as_mut_ptr()) };
    match result {
        0.. => Ok(()),
        _ => {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            let errno = Errno(u16::try_from(errno).unwrap_or(Errno::EIO.0));
            if errno == Errno::ENODEV {
                gone.store(true, Ordering::Relaxed);
            }
            Err(errno)
        }
    }
}

impl Transport for Kernel {
    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        ioctl(self.file.as_fd(), &self.gone, method, message)
    }

    fn raw_call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        // The kernel believes no address.
        self.call(method, message)
    }

    fn create_fd(&self, method: u8, message: &mut [u8]) -> Result<Box<dyn EventFd>, Errno> {
        self.call(method, message)?;
        let (header, _) = wire::Header::read_from_prefix(message).map_err(|_| Errno::EBADMSG)?;
        let fd = i32::try_from(header.object).map_err(|_| Errno::EBADF)?;
        // SAFETY: the call succeeded, so the kernel has just put a new descriptor there, which is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Reads never block: whoever wants to wait polls.
        rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::NONBLOCK).map_err(|e| Errno(e.raw_os_error() as u16))?;
        Ok(Box::new(KernelEventFd {
            fd,
            gone: self.gone.clone(),
        }))
    }

    fn map(&self, offset: u64, len: usize) -> Result<Arc<Mapping>> {
        Mapping::shared(&self.file, offset, len)
            .map(Arc::new)
            .map_err(Error::system("map a queue"))
    }

    fn register(&self, offset: u64) -> Result<Box<dyn Register>> {
        let page = Mapping::shared(&self.file, offset, 4096).map_err(Error::system("map the doorbell register"))?;
        Ok(Box::new(MappedRegister(page)))
    }

    fn alloc(&self, len: usize) -> Result<Arc<Mapping>> {
        Mapping::anonymous(page_aligned(len)?)
            .map(Arc::new)
            .map_err(Error::system("allocate a buffer"))
    }

    fn descriptor(&self) -> Option<u32> {
        match self.node {
            true => None,
            // A descriptor is not negative.
            false => u32::try_from(self.file.as_raw_fd()).ok(),
        }
    }

    fn is_gone(&self) -> bool {
        !self.node && self.gone.load(Ordering::Relaxed)
    }
}

struct KernelEventFd {
    fd: OwnedFd,
    gone: Arc<AtomicBool>,
}

impl EventFd for KernelEventFd {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        ioctl(self.fd.as_fd(), &self.gone, method, message)
    }

    fn read(&self, events: &mut [Event]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, events.as_mut_bytes())) {
            Ok(bytes) => Ok(bytes / size_of::<Event>()),
            Err(errno) => Err(Errno(errno.raw_os_error() as u16)),
        }
    }
}

/// A doorbell page of BAR 2, mapped.
struct MappedRegister(Mapping);

impl Register for MappedRegister {
    fn kick(&self, slot: u16) -> Result<(), Gone> {
        // SAFETY: any bits are an atomic, and it is one. The page is device memory: a plain 32-bit store is what it wants.
        let register = unsafe { self.0.view::<AtomicU32>(verbena_hw::doorbell::REG_RING as usize) };
        let register = register.expect("the register is in its page");
        // Release: what the doorbell is about is in memory before it rings.
        register.store(slot.into(), Ordering::Release);
        Ok(())
    }
}
