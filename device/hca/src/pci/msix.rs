// SPDX-License-Identifier: MIT OR Apache-2.0
//! MSI-X: the vectors as the client binds them, and the table in BAR 4.
//!
//! Which interrupts are delivered, and where, a vfio-user client says with DEVICE_SET_IRQS. QEMU keeps the table and
//! the pending bits for the guest itself, so that the table here stays as it was after reset; masks in it must
//! therefore not hold interrupts back. A client without QEMU may use it as memory.
//!
//! A vector that is signalled while it has no descriptor, or while it is masked, is latched, and delivered when that
//! changes: QEMU takes the descriptor away and gives another when a guest masks a vector, and an event in between must
//! not be lost.

use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use verbena_hw::pci::{BAR_MSIX_SIZE, MSIX_PBA_OFFSET, MSIX_TABLE_OFFSET, MSIX_VECTORS};

/// State of one vector, for dumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VectorState {
    /// Its number.
    pub vector: u16,
    /// The client has bound a descriptor.
    pub bound: bool,
    /// The client has masked it.
    pub masked: bool,
    /// It was signalled and not delivered yet.
    pub pending: bool,
    /// How often it was signalled.
    pub signalled: u64,
}

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<File>,
    masked: bool,
    pending: bool,
    signalled: u64,
}

impl Vector {
    fn deliver(&mut self) {
        if let (true, false, Some(eventfd)) = (self.pending, self.masked, &self.eventfd) {
            // A counter that is full means that the client has not looked since: it will. Any other failure is its
            // own doing.
            let mut eventfd: &File = eventfd;
            let _ = eventfd.write(&1u64.to_ne_bytes());
            self.pending = false;
        }
    }
}

/// The vectors of one HCA. Workers signal them, the protocol binds them.
#[derive(Debug)]
pub struct Vectors {
    vectors: Mutex<Vec<Vector>>,
}

impl Default for Vectors {
    fn default() -> Self {
        Self {
            vectors: Mutex::new((0..MSIX_VECTORS).map(|_| Vector::default()).collect()),
        }
    }
}

impl Vectors {
    fn lock(&self) -> MutexGuard<'_, Vec<Vector>> {
        // Every state of a vector is a valid one.
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals `vector`. One that does not exist is ignored: the engine has checked what the guest wrote.
    pub fn signal(&self, vector: u16) {
        let mut vectors = self.lock();
        let Some(vector) = vectors.get_mut(usize::from(vector)) else {
            debug_assert!(false, "the engine lets no vector out of range through");
            return;
        };
        vector.signalled += 1;
        vector.pending = true;
        vector.deliver();
    }

    /// Binds descriptors to the vectors from `start`, or takes them away.
    ///
    /// # Errors
    ///
    /// A descriptor is not an eventfd: writing to it might wait. Nothing has changed then.
    pub fn bind(&self, start: u16, eventfds: Vec<Option<File>>) -> io::Result<()> {
        for eventfd in eventfds.iter().flatten() {
            check_eventfd(eventfd)?;
        }
        let mut vectors = self.lock();
        for (vector, eventfd) in vectors.iter_mut().skip(usize::from(start)).zip(eventfds) {
            vector.eventfd = eventfd;
            vector.deliver();
        }
        Ok(())
    }

    /// Masks or unmasks `count` vectors from `start`.
    pub fn mask(&self, start: u16, count: u16, masked: bool) {
        for vector in self.lock().iter_mut().skip(start.into()).take(count.into()) {
            vector.masked = masked;
            vector.deliver();
        }
    }

    /// Forgets what is pending and every mask; descriptors stay: they belong to the client, not to the device.
    pub fn reset(&self) {
        for vector in self.lock().iter_mut() {
            vector.pending = false;
            vector.masked = false;
        }
    }

    /// Forgets everything: the client is gone.
    pub fn clear(&self) {
        for vector in self.lock().iter_mut() {
            *vector = Vector::default();
        }
    }

    /// The vectors that anybody has ever touched.
    pub fn states(&self) -> Vec<VectorState> {
        let vectors = self.lock();
        let states = vectors.iter().zip(0..).map(|(vector, number)| VectorState {
            vector: number,
            bound: vector.eventfd.is_some(),
            masked: vector.masked,
            pending: vector.pending,
            signalled: vector.signalled,
        });
        states
            .filter(|state| state.bound || state.masked || state.pending || state.signalled > 0)
            .collect()
    }
}

/// Refuses what is no eventfd, and makes one non-blocking. A client that makes it blocking again and then fills its
/// counter stops the device for everybody: it runs with the server's own rights, and could stop the process as well.
fn check_eventfd(file: &File) -> io::Result<()> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// BAR 4 as memory: the table, and pending bits that are never set.
#[derive(Clone, Debug)]
pub struct MsixBar {
    table: [u8; TABLE_SIZE],
}

const ENTRY: usize = 16;
const TABLE_SIZE: usize = MSIX_VECTORS as usize * ENTRY;
const _: () = assert!(MSIX_TABLE_OFFSET == 0 && TABLE_SIZE as u32 <= MSIX_PBA_OFFSET);
const _: () = assert!(BAR_MSIX_SIZE >= MSIX_PBA_OFFSET as u64 + MSIX_VECTORS as u64 / 8);

impl Default for MsixBar {
    fn default() -> Self {
        let mut table = [0; TABLE_SIZE];
        for entry in table.chunks_exact_mut(ENTRY) {
            // Vector control: masked after reset (PCI Express Base Specification 5.0, 7.7.2.9).
            entry[12] = 1;
        }
        Self { table }
    }
}

impl MsixBar {
    /// Reads. What is neither table nor pending bits reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            *byte = self.table.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes. Only the table changes.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (byte, at) in data.iter().zip(offset..) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if let Some(place) = self.table.get_mut(at) {
                *place = *byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{eventfd, EventfdFlags};
    use std::io::Read;

    /// An eventfd: the client's end and the one that it gives away.
    fn pair(flags: EventfdFlags) -> (File, File) {
        let ours = File::from(eventfd(0, flags).unwrap());
        let theirs = ours.try_clone().unwrap();
        (ours, theirs)
    }

    fn nonblocking() -> (File, File) {
        pair(EventfdFlags::NONBLOCK)
    }

    /// How often it was signalled since the last look.
    fn count(mut eventfd: &File) -> u64 {
        let mut bytes = [0; 8];
        match eventfd.read_exact(&mut bytes) {
            Ok(()) => u64::from_ne_bytes(bytes),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                0
            }
        }
    }

    #[test]
    fn h12_a_signal_reaches_its_descriptor() {
        let vectors = Vectors::default();
        let (ours, theirs) = nonblocking();
        vectors.bind(3, vec![Some(theirs)]).unwrap();
        vectors.signal(3);
        vectors.signal(3);
        assert_eq!(count(&ours), 2);
        vectors.signal(4);
        assert_eq!(count(&ours), 0, "another vector's signal");
    }

    #[test]
    fn h12_a_signal_without_a_descriptor_is_latched() {
        let vectors = Vectors::default();
        vectors.signal(0);
        vectors.signal(0);
        let (ours, theirs) = nonblocking();
        vectors.bind(0, vec![Some(theirs)]).unwrap();
        assert_eq!(count(&ours), 1, "one interrupt for what was missed");
        vectors.bind(0, vec![None]).unwrap();
        vectors.signal(0);
        assert_eq!(count(&ours), 0);
        assert!(vectors.states()[0].pending);
    }

    #[test]
    fn h12_a_masked_vector_waits() {
        let vectors = Vectors::default();
        let (ours, theirs) = nonblocking();
        vectors.bind(1, vec![Some(theirs)]).unwrap();
        vectors.mask(0, 2, true);
        vectors.signal(1);
        assert_eq!(count(&ours), 0);
        vectors.mask(1, 1, false);
        assert_eq!(count(&ours), 1);
    }

    #[test]
    fn h12_reset_forgets_events_but_keeps_descriptors() {
        let vectors = Vectors::default();
        let (ours, theirs) = nonblocking();
        vectors.bind(0, vec![Some(theirs)]).unwrap();
        vectors.mask(0, 1, true);
        vectors.signal(0);
        vectors.reset();
        assert_eq!(count(&ours), 0);
        vectors.signal(0);
        assert_eq!(count(&ours), 1);
        vectors.clear();
        assert_eq!(vectors.states(), []);
    }

    #[test]
    fn h14_a_descriptor_that_could_block_is_refused() {
        let vectors = Vectors::default();
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = File::from(std::os::fd::OwnedFd::from(writer));
        let (_, good) = nonblocking();
        assert!(vectors.bind(0, vec![Some(good), Some(socket)]).is_err());
        assert_eq!(vectors.states(), [], "nothing was bound");
        drop(reader);
    }

    #[test]
    fn h12_a_full_counter_does_not_stop_the_device() {
        let vectors = Vectors::default();
        let (mut ours, theirs) = pair(EventfdFlags::empty());
        ours.write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        vectors.bind(0, vec![Some(theirs)]).unwrap();
        vectors.signal(0);
    }

    #[test]
    fn h01_the_table_is_memory_and_the_pending_bits_are_not() {
        let mut bar = MsixBar::default();
        let mut entry = [0; 16];
        bar.read(63 * 16, &mut entry);
        assert_eq!(entry[12], 1, "masked after reset");
        bar.write(63 * 16 + 8, &[1, 2, 3, 4, 0, 0, 0, 0, 9, 9]);
        bar.read(63 * 16, &mut entry);
        assert_eq!(entry[8..], [1, 2, 3, 4, 0, 0, 0, 0]);
        bar.write(MSIX_PBA_OFFSET.into(), &[0xff; 8]);
        let mut bits = [0xff; 8];
        bar.read(MSIX_PBA_OFFSET.into(), &mut bits);
        assert_eq!(bits, [0; 8]);
    }
}
