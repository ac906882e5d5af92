// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small accesses to guest memory: words with an ordering, and short byte ranges.
//!
//! Nothing here keeps a reference to guest memory longer than one call into the engine, so a mapping that goes away is
//! noticed at the next access and is never touched again.

use crate::env::{Dma, GuestRam};
use core::sync::atomic::{AtomicU32, AtomicU64};
use vm_memory::{VolatileMemory, VolatileSlice};

/// Guest memory that is not mapped for the access. Whoever owns the address decides what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// The whole of `len` bytes at `addr`, if one mapping holds them.
///
/// For what cannot lie across two mappings: entries of rings and records are aligned to their power-of-two size,
/// and mappings to pages.
#[inline]
pub(crate) fn whole<R: GuestRam>(ram: &R, addr: u64, len: usize, dma: Dma) -> Result<VolatileSlice<'_>, Unreachable> {
    match ram.slice(addr, len, dma) {
        Some(slice) if slice.len() >= len => Ok(slice),
        _ => Err(Unreachable),
    }
}

/// The aligned 8 bytes at `offset` of `slice` as an atomic.
#[inline]
pub(crate) fn word<'a>(slice: &'a VolatileSlice<'_>, offset: usize) -> Result<&'a AtomicU64, Unreachable> {
    slice.get_atomic_ref(offset).map_err(|_| Unreachable)
}

/// The aligned 4 bytes at `offset` of `slice` as an atomic.
#[inline]
pub(crate) fn half<'a>(slice: &'a VolatileSlice<'_>, offset: usize) -> Result<&'a AtomicU32, Unreachable> {
    slice.get_atomic_ref(offset).map_err(|_| Unreachable)
}

/// Copies guest memory out, across mappings.
pub(crate) fn read<R: GuestRam>(ram: &R, addr: u64, buf: &mut [u8]) -> Result<(), Unreachable> {
    let mut done = 0;
    while done < buf.len() {
        let at = addr.checked_add(done as u64).ok_or(Unreachable)?;
        let slice = ram.slice(at, buf.len() - done, Dma::Read).ok_or(Unreachable)?;
        done += slice.copy_to(&mut buf[done..]);
    }
    Ok(())
}

/// Copies into guest memory, across mappings.
pub(crate) fn write<R: GuestRam>(ram: &R, addr: u64, buf: &[u8]) -> Result<(), Unreachable> {
    let mut done = 0;
    while done < buf.len() {
        let at = addr.checked_add(done as u64).ok_or(Unreachable)?;
        let slice = ram.slice(at, buf.len() - done, Dma::Write).ok_or(Unreachable)?;
        let n = slice.len().min(buf.len() - done);
        slice.copy_from(&buf[done..done + n]);
        done += n;
    }
    Ok(())
}

/// Whether every byte of a range is mapped for the access.
pub(crate) fn reachable<R: GuestRam>(ram: &R, addr: u64, len: u64, dma: Dma) -> bool {
    let mut done = 0;
    while done < len {
        let Some(at) = addr.checked_add(done) else {
            return false;
        };
        let ask = usize::try_from(len - done).unwrap_or(usize::MAX);
        match ram.slice(at, ask, dma) {
            Some(slice) => done += slice.len() as u64,
            None => return false,
        }
    }
    true
}
