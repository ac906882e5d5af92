// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens when shared memory vanishes under an access.
//!
//! A memory file belongs to the client; nothing but its own good will (or a seal that not every kind of file has) keeps
//! it from truncating the file after the device has mapped it. The next access then raises SIGBUS, which would end the
//! process and with it every other guest's device. So the handler replaces the whole mapping by private zeros, notes
//! that it did, and lets the access go on; the server then closes the connection of the client whose memory it was.
//!
//! The handler may only do what is safe at any point of any thread: it walks a table of atomics and calls `mmap`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use vmm_sys_util::signal::register_signal_handler;

/// Memory files mapped at one time in this process.
const SLOTS: usize = 4096;

#[derive(Debug)]
struct Slot {
    /// Address of the mapping's first byte; 0: the slot is free.
    base: AtomicUsize,
    len: AtomicUsize,
    hit: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; SLOTS];

/// Slots ever used: the handler looks no further.
static USED: AtomicUsize = AtomicUsize::new(0);
/// See [`hits`].
static HITS: AtomicUsize = AtomicUsize::new(0);
/// Taking and freeing slots, never held by the handler.
static ALLOCATION: Mutex<()> = Mutex::new(());

/// Guards one mapping for as long as it lives.
#[derive(Debug)]
pub struct Watch {
    slot: &'static Slot,
}

impl Watch {
    /// Guards the `len` bytes at `base`, which must be a mapping of whole pages; `None` when the table is full. To be
    /// dropped before the memory is unmapped.
    pub fn new(base: usize, len: usize) -> Option<Self> {
        install();
        let _allocation = ALLOCATION.lock().unwrap_or_else(PoisonError::into_inner);
        let index = TABLE.iter().position(|slot| slot.base.load(Ordering::Relaxed) == 0)?;
        let slot = &TABLE[index];
        slot.hit.store(false, Ordering::Relaxed);
        slot.len.store(len, Ordering::Relaxed);
        // Publishes the length: the handler reads the base first.
        slot.base.store(base, Ordering::Release);
        USED.fetch_max(index + 1, Ordering::Release);
        Some(Self { slot })
    }

    /// Whether an access found memory missing.
    pub fn hit(&self) -> bool {
        self.slot.hit.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _allocation = ALLOCATION.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.base.store(0, Ordering::Release);
    }
}

/// How many mappings were hit since the process began. Cheap enough to ask all the time: who remembers the last answer
/// knows whether to look for mappings of its own.
#[inline]
pub fn hits() -> usize {
    HITS.load(Ordering::Relaxed)
}

fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        if let Err(error) = register_signal_handler(libc::SIGBUS, on_sigbus) {
            log::warn!("no SIGBUS handler, a client can end this process: {error}");
        }
    });
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // The interrupted code may be about to look at errno.
    // SAFETY: the location is this thread's own and always valid.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and for SIGBUS its address field is set.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE[..USED.load(Ordering::Acquire)] {
        let base = slot.base.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if base != 0 && address.wrapping_sub(base) < len {
            // SAFETY: the range is a mapping of this process that was entered in the table by its owner and is taken
            // out before it is unmapped; the thread that faulted is using it, so it is still there. Only Rust code
            // that treats it as volatile memory refers to it, so that a change of its content breaks no assumption.
            let replaced = unsafe {
                libc::mmap(
                    base as *mut libc::c_void,
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if replaced != libc::MAP_FAILED {
                slot.hit.store(true, Ordering::Release);
                HITS.fetch_add(1, Ordering::Release);
                // SAFETY: as above.
                unsafe { *libc::__errno_location() = errno };
                return;
            }
        }
    }
    // Not ours, or not to be helped: the default action, when the access is tried again.
    // SAFETY: `signal` is async-signal-safe, and SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
