// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for an application's data.

use super::Mapping;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Page-aligned memory that can be registered with the device, made by [`crate::Context::alloc_buffer`].
///
/// A peer may change it at any moment, so it is never seen as a `&[u8]`: data is copied in and out, with accesses that
/// the compiler may neither invent nor leave out. What a concurrent copy sees of a transfer in progress is undefined in
/// value (some old bytes, some new ones) and nothing worse; a completion says when a transfer is over.
///
/// Clones name the same memory. It is freed when the last clone and the last [`crate::MemoryRegion`] on it are gone.
#[derive(Clone)]
pub struct Buffer {
    mapping: Arc<Mapping>,
    len: usize,
}

impl Buffer {
    /// The first `len` bytes of `mapping`.
    pub(crate) fn new(mapping: Arc<Mapping>, len: usize) -> Self {
        assert!(len <= mapping.len(), "a buffer lies in its mapping");
        Self { mapping, len }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, as work requests and peers name it.
    pub fn addr(&self) -> u64 {
        self.mapping.addr() as u64
    }

    /// Copies `data` to `offset`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn write_at(&self, offset: usize, data: &[u8]) {
        self.slice(offset, data.len()).copy_from(data);
    }

    /// Copies from `offset` into `data`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) {
        let copied = self.slice(offset, data.len()).copy_to(data);
        debug_assert_eq!(copied, data.len());
    }

    /// Copies `len` bytes from `offset` into a new vector.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn to_vec(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.read_at(offset, &mut data);
        data
    }

    /// Sets `len` bytes from `offset` to `value`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let chunk = [value; 4096];
        self.chunks(offset, len, |at, n| {
            self.write_at(at, &chunk[..n]);
            true
        });
    }

    /// Writes `len` bytes from `offset`; the byte at offset `i` of the buffer is `pattern(i)`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn fill_with(&self, offset: usize, len: usize, mut pattern: impl FnMut(usize) -> u8) {
        let mut chunk = [0; 4096];
        self.chunks(offset, len, |at, n| {
            for (i, byte) in chunk[..n].iter_mut().enumerate() {
                *byte = pattern(at + i);
            }
            self.write_at(at, &chunk[..n]);
            true
        });
    }

    /// The offset of the first of `len` bytes from `offset` that is not `pattern` of its offset in the buffer.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn find_mismatch(&self, offset: usize, len: usize, mut pattern: impl FnMut(usize) -> u8) -> Option<usize> {
        let mut chunk = [0; 4096];
        let mut found = None;
        self.chunks(offset, len, |at, n| {
            self.read_at(at, &mut chunk[..n]);
            found = (0..n).find(|&i| chunk[i] != pattern(at + i)).map(|i| at + i);
            found.is_none()
        });
        found
    }

    /// Eight aligned bytes at `offset` as an atomic: what a program spins on when a peer's WRITE is the signal.
    ///
    /// # Panics
    ///
    /// If the word is not inside the buffer or not aligned to 8.
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, 8);
        // SAFETY: any 8 bytes are an `AtomicU64`, and it is one.
        let word = unsafe { self.mapping.view::<AtomicU64>(offset) };
        word.expect("the word is aligned to 8 bytes")
    }

    /// The eight aligned bytes at `offset` as a little-endian number, loaded with *acquire*.
    ///
    /// # Panics
    ///
    /// As [`Buffer::atomic_u64`].
    pub fn load_u64(&self, offset: usize) -> u64 {
        u64::from_le(self.atomic_u64(offset).load(Ordering::Acquire))
    }

    /// Calls `each` with pieces of the range of at most 4096 bytes, until it returns false.
    fn chunks(&self, offset: usize, len: usize, mut each: impl FnMut(usize, usize) -> bool) {
        self.check(offset, len);
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let n = (end - at).min(4096);
            if !each(at, n) {
                return;
            }
            at += n;
        }
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "{len} bytes at {offset} are not inside a buffer of {} bytes",
            self.len
        );
    }

    fn slice(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        self.check(offset, len);
        let at = self.mapping.range(offset, len).expect("a buffer lies in its mapping");
        // SAFETY: the range is mapped as long as `self` lives, which the slice borrows, and nothing makes plain
        // references to it.
        unsafe { VolatileSlice::new(at.as_ptr(), len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:#x}, {} bytes)", self.addr(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(len: usize) -> Buffer {
        Buffer::new(Arc::new(Mapping::anonymous(len.next_multiple_of(4096)).unwrap()), len)
    }

    #[test]
    fn h06_a_buffer_gives_back_what_was_written() {
        let b = buffer(10_000);
        assert_eq!(b.addr() % 4096, 0);
        b.fill_with(0, 10_000, |i| (i * 7) as u8);
        assert_eq!(b.find_mismatch(0, 10_000, |i| (i * 7) as u8), None);
        b.write_at(5003, &[(5003 * 7 + 1) as u8]);
        assert_eq!(b.find_mismatch(0, 10_000, |i| (i * 7) as u8), Some(5003));
        b.fill(4090, 20, 0xaa);
        assert_eq!(b.to_vec(4089, 22)[1..21], [0xaa; 20]);
        assert_eq!(b.find_mismatch(4110, 890, |i| (i * 7) as u8), None);
        b.write_at(8, &7u64.to_le_bytes());
        assert_eq!(b.load_u64(8), 7);
    }

    #[test]
    fn h06_nothing_beyond_the_length_is_reachable() {
        let b = buffer(100);
        let beyond = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        assert_eq!(b.load_u64(88), 0);
        assert!(beyond(&|| b.write_at(100, &[1])));
        assert!(beyond(&|| b.read_at(93, &mut [0; 8])));
        assert!(beyond(&|| b.fill(usize::MAX, 2, 0)));
        assert!(beyond(&|| assert_eq!(b.load_u64(4), 0)));
        assert!(beyond(&|| assert_eq!(b.load_u64(100), 0)));
        b.write_at(100, &[]);
    }
}
