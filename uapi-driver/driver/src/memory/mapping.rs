// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapped memory, and what keeps it mapped.

use std::any::Any;
use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A stretch of mapped memory that others (the device, the kernel) may change at any time.
///
/// # Invariants
///
/// `len` bytes from `base` are mapped, readable and writable, as long as the value lives. No reference to plain data is
/// ever made to them: only atomics and volatile copies touch them.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    keep: Keep,
}

enum Keep {
    /// This value's own mapping: unmapped when it is dropped.
    Own,
    /// A part of a mapping that this keeps alive.
    Part(#[expect(dead_code, reason = "held for its drop")] Arc<dyn Any + Send + Sync>),
}

// SAFETY: a mapping belongs to the process, not to a thread, and is accessed as the type's invariants say.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed anonymous memory of its own.
    ///
    /// It is not inherited by a forked child: pinned pages that become copy-on-write would part from the device's.
    pub(crate) fn anonymous(len: usize) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mapping = Self::own(base, len);
        // SAFETY: the advice changes what a child sees after a fork, nothing in this process.
        unsafe { rustix::mm::madvise(base, len, Advice::LinuxDontFork)? };
        Ok(mapping)
    }

    /// A shared mapping of `len` bytes of `file` from `offset`.
    pub(crate) fn shared(file: impl AsFd, offset: u64, len: usize) -> rustix::io::Result<Self> {
        // SAFETY: as in `anonymous`.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                offset,
            )?
        };
        Ok(Self::own(base, len))
    }

    /// Asks for pages of 2 MiB behind it where the system has them for such memory (shmem_enabled is `advise` or more): a
    /// translation then covers as much. A system that has none changes nothing.
    pub(crate) fn prefer_huge_pages(&self) {
        // SAFETY: the advice changes the size of pages, not what is in them.
        let advised = unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxHugepage) };
        if let Err(error) = advised {
            log::debug!("no huge pages: {error}");
        }
    }

    fn own(base: *mut std::ffi::c_void, len: usize) -> Self {
        let base = NonNull::new(base.cast()).expect("mmap does not return the null page unless asked to");
        Self {
            base,
            len,
            keep: Keep::Own,
        }
    }

    /// `len` bytes from `offset` of `whole`, which `keep` keeps mapped; `None` beyond its end.
    pub(crate) fn part<K: AsRef<Mapping> + Send + Sync + 'static>(
        keep: Arc<K>,
        offset: usize,
        len: usize,
    ) -> Option<Self> {
        let base = (*keep).as_ref().range(offset, len)?;
        Some(Self {
            base,
            len,
            keep: Keep::Part(keep),
        })
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the first byte in this process.
    pub(crate) fn addr(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// The address of `len` bytes from `offset`; `None` beyond the end.
    pub(crate) fn range(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: the offset is at most the mapping's length.
        Some(unsafe { self.base.add(offset) })
    }

    /// A value of atomics and unused bytes that lies at `offset`; `None` if it does not fit or is not aligned.
    ///
    /// # Safety
    ///
    /// Every bit pattern is a `T`, and whatever in it changes while it is shared is atomic.
    pub(crate) unsafe fn view<T>(&self, offset: usize) -> Option<&T> {
        let at = self.range(offset, size_of::<T>())?.cast::<T>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: inside the mapping, aligned, and by the caller's promise valid and shared by atomics only; the
        // reference borrows the mapping.
        Some(unsafe { at.as_ref() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Keep::Own = self.keep {
            // SAFETY: the mapping is this value's own, and everything that points into it holds (an `Arc` of) the value.
            if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
                log::error!("a mapping of {} bytes cannot be removed: {error}", self.len);
            }
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({:#x}, {} bytes)", self.addr(), self.len)
    }
}

/// A structure of the hardware's in a mapping, looked up once: the fast path reaches it without a check.
///
/// # Invariants
///
/// `at` is what [`Mapping::view`] gave for the mapping that is held.
pub(crate) struct View<T> {
    at: NonNull<T>,
    _mapping: Arc<Mapping>,
}

// SAFETY: it is a shared reference to a `T` and what keeps that mapped.
unsafe impl<T: Sync> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<T> {}

impl<T> View<T> {
    /// The `T` that lies at `offset`; `None` if it does not fit or is not aligned.
    ///
    /// # Safety
    ///
    /// As [`Mapping::view`].
    pub(crate) unsafe fn new(mapping: Arc<Mapping>, offset: usize) -> Option<Self> {
        // SAFETY: the caller promises the same.
        let at = NonNull::from(unsafe { mapping.view::<T>(offset) }?);
        Some(Self { at, _mapping: mapping })
    }
}

impl<T> std::ops::Deref for View<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: by the type's invariants it was a valid reference into a mapping that is still held.
        unsafe { self.at.as_ref() }
    }
}

/// A file of memory without a name, `len` bytes long and empty: pages come when they are touched.
pub(crate) fn memory_file(name: &str, len: u64) -> rustix::io::Result<File> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, len)?;
    Ok(fd.into())
}
