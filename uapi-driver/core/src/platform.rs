// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The seam to where this driver runs: PCI, DMA memory, pinned user memory, sleeping, the clock.
//!
//! The kernel module implements it over Linux, the direct attachment over a vfio-user socket and a memfd, the tests
//! over whatever they want to see. Everything is called in process context and may sleep. What concerns the object
//! model alone (the caller's memory, descriptors, permissions, limits, the log) is [`Host`]'s, which the same type
//! implements.

use crate::node::NodeHost;
use core::sync::atomic::{AtomicU64, Ordering};
use rdma_uapi::{Errno, Failure, Host, Reason};

/// Bytes of a page: the unit in which memory is pinned, mapped and named to the device.
pub const PAGE: u64 = 4096;

/// Where the driver runs: a handle on one device, as cheap to clone as an `Arc`; clones are the same device.
pub trait Platform: Host + Clone {
    /// Memory that the device can reach.
    type Dma: Dma;
    /// User memory that the device can reach.
    type Pinned: Pinned;
    /// What a thread sleeps on.
    type Signal: Signal;
    /// Where the system-wide node runs that lists such devices.
    type Node: NodeHost<Self>;
    /// [`Platform::file`]. Two are equal if they are of one file.
    type File: PartialEq + Send + Sync + 'static;

    /// Bytes of book-keeping that one [`Platform::Dma`] takes, for the account that programs are given.
    const DMA_BOOKS: usize = rdma_uapi::sys::arc_bytes::<Self::Dma>();

    /// The device's name on this host.
    fn name(&self) -> &str;

    /// The number in the device's name, for the list of devices.
    fn index(&self) -> u32 {
        0
    }

    /// What a program opens to use the device (its node, its socket), for the list of devices; empty if there is nothing
    /// to open.
    fn path(&self) -> &str {
        ""
    }

    /// Reads the 32-bit register at `offset` of BAR 0. A device that is gone reads as all ones, as on PCI.
    fn read32(&self, offset: u32) -> u32;

    /// Reads the 64-bit register at `offset` of BAR 0, in one access or as two halves, low one first.
    fn read64(&self, offset: u32) -> u64;

    /// Writes the 32-bit register at `offset` of BAR 0. Everything stored in DMA memory before is visible to the
    /// device when it sees this write. A write to a device that is gone is lost.
    fn write32(&self, offset: u32, value: u32);

    /// Writes the 64-bit register at `offset` of BAR 0, in one access or as two halves, low one first. Ordered as
    /// [`Platform::write32`].
    fn write64(&self, offset: u32, value: u64);

    /// Writes the 32-bit register at `offset` of BAR 2 ([`verbena_hw::doorbell`]). Ordered as [`Platform::write32`].
    fn ring(&self, offset: u64, value: u32);

    /// Calls [`crate::work`] once, when so many nanoseconds have passed, in process context, by a thread that is in no call
    /// of the object model. One such call is due at a time: a later request replaces an earlier one that has not begun.
    /// While it runs, a request makes it run once more. Before there is a device to give, none is made.
    fn schedule(&self, nanoseconds: u64);

    /// How many MSI-X vectors there are, at least 1. For each, from 0, the platform calls [`crate::interrupt`] in process
    /// context (a threaded handler) when it fires. A spurious call does no harm; before there is a device to give, it
    /// ignores what fires.
    fn vectors(&self) -> u16;

    /// Zeroed memory of `len` bytes (more than 0, rounded up to whole pages) that is contiguous for the device and
    /// can be mapped into a process.
    ///
    /// # Errors
    ///
    /// There is not so much in one stretch.
    fn alloc_dma(&self, len: usize) -> Result<Self::Dma, Errno>;

    /// Pins `len` bytes (more than 0, not wrapping) at `addr` in the calling process, which is the context's owner,
    /// and maps them for the device, to write if `writable`. RLIMIT_MEMLOCK has been asked already
    /// ([`Host::charge`]).
    ///
    /// # Errors
    ///
    /// [`PinError`].
    fn pin(&self, owner: &Self::Owner, addr: u64, len: u64, writable: bool) -> Result<Self::Pinned, PinError>;

    /// The file that a descriptor of the calling process names, which is the context's owner. It stays the file that it is as
    /// long as this lives: no other one can be taken for it.
    ///
    /// # Errors
    ///
    /// EBADF: it names none.
    fn file(&self, owner: &Self::Owner, fd: u32) -> Result<Self::File, Errno>;

    /// A new signal, not raised.
    ///
    /// # Errors
    ///
    /// No memory.
    fn signal(&self) -> Result<Self::Signal, Errno>;

    /// Nanoseconds of a clock that never goes back.
    fn now(&self) -> u64;

    /// Nanoseconds after which a command that has not completed means that the device is dead.
    fn command_timeout(&self) -> u64 {
        10_000_000_000
    }

    /// Nanoseconds for which who waits for a command looks before it sleeps: no less than a round trip to a device on another
    /// processor takes, a few microseconds; up to what sleeping and waking take, where nobody else needs the processor.
    fn spin(&self) -> u64 {
        20_000
    }

    /// The driver found the device dead, in the middle of a call: a platform that can arranges for
    /// [`crate::remove`] to be called soon, by a thread that is in no call. Must not wait for that.
    fn died(&self) {}
}

/// Memory shared with the device, and perhaps with a process that has it mapped: both may change it at any time.
///
/// Dropping it frees it, which the owner does only when the device touches it no more.
pub trait Dma: Send + Sync + 'static {
    /// The DMA address of the first byte: a multiple of [`PAGE`].
    fn addr(&self) -> u64;

    /// All of it, as words. The length is a multiple of [`PAGE`]. The base is aligned to [`PAGE`], so the words are
    /// the ones that the device sees.
    fn words(&self) -> &[AtomicU64];

    /// Bytes of it.
    fn len(&self) -> usize {
        size_of_val(self.words())
    }

    /// Whether there is none of it: never.
    fn is_empty(&self) -> bool {
        self.words().is_empty()
    }

    /// Copies `to.len()` bytes (a multiple of 8) from `offset` (a multiple of 8). Not atomic as a whole: order it by
    /// an acquire of the word that says the rest is there.
    ///
    /// # Panics
    ///
    /// If the range is not inside the memory or not of whole words: our bug, nobody else chooses it.
    fn read(&self, offset: usize, to: &mut [u8]) {
        let words = word_range(self.words(), offset, to.len());
        for (chunk, word) in to.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    /// Copies `from` (a multiple of 8 bytes) to `offset` (a multiple of 8). Not atomic as a whole: order it by a
    /// release of the word that says the rest is there, or by [`Platform::write32`].
    ///
    /// # Panics
    ///
    /// As [`Dma::read`].
    fn write(&self, offset: usize, from: &[u8]) {
        let words = word_range(self.words(), offset, from.len());
        for (chunk, word) in from.chunks_exact(8).zip(words) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// Writes `len` bytes of zeros (a multiple of 8) to `offset` (a multiple of 8), as [`Dma::write`] does.
    ///
    /// # Panics
    ///
    /// As [`Dma::read`].
    fn zero(&self, offset: usize, len: usize) {
        let words = word_range(self.words(), offset, len);
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[inline]
fn word_range(words: &[AtomicU64], offset: usize, len: usize) -> &[AtomicU64] {
    assert!(
        offset % 8 == 0 && len % 8 == 0,
        "DMA memory is read and written in whole words"
    );
    &words[offset / 8..][..len / 8]
}

/// Pinned user memory. Dropping it unmaps and unpins, which the owner does only when the device touches it no more.
pub trait Pinned: Send + Sync + 'static {
    /// Where in its page the first byte is: below [`PAGE`].
    fn first_offset(&self) -> u64;

    /// Calls `each` with DMA address and length of every contiguous stretch, in the order of the memory, until it
    /// fails. Stretches consist of whole pages: addresses and lengths are multiples of [`PAGE`], together they are
    /// all the pages that the memory touches. Neighbours need not have been merged.
    ///
    /// # Errors
    ///
    /// What `each` returned.
    fn stretches(&self, each: &mut dyn FnMut(u64, u64) -> Result<(), Failure>) -> Result<(), Failure>;
}

/// Why memory could not be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinError {
    /// Some of it is not there, or may not be written.
    Fault,
    /// No memory for the book-keeping, or none in reach of the device.
    NoMemory,
    /// The device is gone, or the attachment cannot reach this memory.
    Unreachable,
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Fault => Failure::new(Errno::EFAULT, Reason::BAD_POINTER),
            PinError::NoMemory => Failure::NO_MEMORY,
            PinError::Unreachable => Failure::GONE,
        }
    }
}

/// What one thread sleeps on until another raises it: a counting semaphore that starts at zero (the kernel's
/// `struct completion`), or a binary one.
pub trait Signal: Send + Sync + 'static {
    /// Lets one wait return: one that sleeps, or else the next.
    fn raise(&self);

    /// Sleeps until raised, or until `nanoseconds` have passed. May return early. Not interruptible: what is waited
    /// for has a deadline of its own.
    fn wait(&self, nanoseconds: u64);
}
