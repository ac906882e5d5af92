// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scatter lists, and the one copy from guest memory to guest memory.

use crate::env::{Dma, GuestRam};
use crate::mr::{KeyFault, MrTable, Range, LOCAL};
use crate::qp::message::SgeList;
use core::sync::atomic::{fence, Ordering};
use verbena_hw::cqe::vendor;
use verbena_hw::id::Pdn;
use vm_memory::VolatileSlice;

/// Checks the elements that hold the bytes from `offset` to `offset + len` of a list: keys, rights, ranges.
///
/// Answers the DMA address of byte `offset` if all `len` bytes follow it in one stretch of one element, so that the
/// common small message needs no second look-up.
#[inline]
pub(crate) fn check(
    mrs: &MrTable,
    pdn: Pdn,
    list: SgeList<'_>,
    offset: u64,
    len: u64,
    rights: u32,
) -> Result<Option<u64>, KeyFault> {
    let mut skip = offset;
    let mut left = len;
    for i in 0..list.len {
        if left == 0 {
            break;
        }
        let sge = list.body.sge(i);
        let sge_len = u64::from(sge.len);
        if skip >= sge_len {
            skip -= sge_len;
            continue;
        }
        // The whole element, as it was posted: whether it is in its region does not depend on the message's length.
        let mut range = mrs.check(sge.lkey, pdn, sge.addr, sge_len, rights | LOCAL)?;
        let here = (sge_len - skip).min(left);
        if here == len && skip == 0 {
            if let Some((addr, n)) = range.next(len) {
                if n == len {
                    return Ok(Some(addr));
                }
            }
        }
        left -= here;
        skip = 0;
    }
    Ok(None)
}

/// The stretches of guest memory that a piece of a message comes from or goes to, in order.
pub(crate) enum Stretches<'a> {
    /// One stretch, already checked.
    One {
        /// Its DMA address.
        addr: u64,
        /// Its bytes that are left.
        left: u64,
    },
    /// A checked range of a region.
    Range(Range<'a>),
    /// The elements of a list; each is checked when it is reached.
    List {
        mrs: &'a MrTable,
        pdn: Pdn,
        list: SgeList<'a>,
        rights: u32,
        next: usize,
        /// Bytes to pass over before the first.
        skip: u64,
        range: Option<Range<'a>>,
    },
}

impl<'a> Stretches<'a> {
    /// The bytes of `list` from `offset` on.
    pub(crate) fn list(mrs: &'a MrTable, pdn: Pdn, list: SgeList<'a>, offset: u64, rights: u32) -> Self {
        Stretches::List {
            mrs,
            pdn,
            list,
            rights,
            next: 0,
            skip: offset,
            range: None,
        }
    }

    /// The next stretch, at most `max` bytes; `None` at the end.
    #[inline]
    fn next(&mut self, max: u64) -> Result<Option<(u64, u64)>, KeyFault> {
        match self {
            Stretches::One { addr, left } => {
                let n = max.min(*left);
                let at = *addr;
                *addr += n;
                *left -= n;
                Ok((n > 0).then_some((at, n)))
            }
            Stretches::Range(range) => Ok(range.next(max)),
            Stretches::List {
                mrs,
                pdn,
                list,
                rights,
                next,
                skip,
                range,
            } => loop {
                if let Some(stretch) = range.as_mut().and_then(|range| range.next(max)) {
                    return Ok(Some(stretch));
                }
                if *next == list.len {
                    return Ok(None);
                }
                let sge = list.body.sge(*next);
                *next += 1;
                let len = u64::from(sge.len);
                if *skip >= len {
                    *skip -= len;
                    continue;
                }
                *range = Some(mrs.check(
                    sge.lkey,
                    *pdn,
                    sge.addr.wrapping_add(*skip),
                    len - *skip,
                    *rights | LOCAL,
                )?);
                *skip = 0;
            },
        }
    }
}

/// Why a copy stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyFault {
    /// Where the data comes from.
    Source(KeyFault),
    /// Where the data goes to.
    Destination(KeyFault),
}

const UNREACHABLE: KeyFault = KeyFault(vendor::UNREACHABLE);

/// The bytes at the end of a message that are stored after all others, so that a peer who watches the end of its
/// buffer sees the whole message when it sees the end.
const TAIL: usize = 8;

/// Copies the end of a message, or all of it: as many bytes as both slices have.
#[inline]
pub(crate) fn copy_whole(from: &VolatileSlice<'_>, to: &VolatileSlice<'_>) {
    let n = from.len().min(to.len());
    if n <= TAIL {
        from.copy_to_volatile_slice(*to);
        return;
    }
    let head = n - TAIL;
    let split = "both slices have at least n bytes";
    from.subslice(0, head)
        .expect(split)
        .copy_to_volatile_slice(to.subslice(0, head).expect(split));
    // Release: the tail is visible only after the rest.
    fence(Ordering::Release);
    from.subslice(head, TAIL)
        .expect(split)
        .copy_to_volatile_slice(to.subslice(head, TAIL).expect(split));
}

/// Copies `len` bytes, once, from stretches of one guest's memory to stretches of another's. `last`: these are the
/// message's last bytes.
#[inline]
pub(crate) fn copy<S: GuestRam, D: GuestRam>(
    src_ram: &S,
    mut src: Stretches<'_>,
    dst_ram: &D,
    mut dst: Stretches<'_>,
    len: u64,
    last: bool,
) -> Result<(), CopyFault> {
    let mut left = len;
    let (mut from, mut from_len) = (0, 0);
    let (mut to, mut to_len) = (0, 0);
    while left > 0 {
        if from_len == 0 {
            (from, from_len) = src
                .next(left)
                .map_err(CopyFault::Source)?
                .ok_or(CopyFault::Source(UNREACHABLE))?;
        }
        if to_len == 0 {
            (to, to_len) = dst
                .next(left)
                .map_err(CopyFault::Destination)?
                .ok_or(CopyFault::Destination(UNREACHABLE))?;
        }
        let max = from_len.min(to_len) as usize;
        let s = src_ram
            .slice(from, max, Dma::Read)
            .ok_or(CopyFault::Source(UNREACHABLE))?;
        let d = dst_ram
            .slice(to, max.min(s.len()), Dma::Write)
            .ok_or(CopyFault::Destination(UNREACHABLE))?;
        let n = d.len().min(s.len()).min(max);
        if last && n as u64 == left {
            copy_whole(&s, &d);
        } else {
            // The shorter of the two decides: `d` was asked for no more than `s` has.
            s.copy_to_volatile_slice(d);
        }
        let n = n as u64;
        from += n;
        from_len -= n;
        to += n;
        to_len -= n;
        left -= n;
    }
    Ok(())
}

/// Whether `len` bytes of the stretches are mapped, for a message that must not leave in part. Holds for the rest of a poll.
pub(crate) fn reachable<S: GuestRam>(ram: &S, mut stretches: Stretches<'_>, len: u64) -> Result<(), KeyFault> {
    let mut left = len;
    while left > 0 {
        let (mut addr, mut here) = stretches.next(left)?.ok_or(UNREACHABLE)?;
        left -= here;
        while here > 0 {
            let slice = ram.slice(addr, here as usize, Dma::Read).ok_or(UNREACHABLE)?;
            let n = here.min(slice.len() as u64);
            here -= n;
            addr = addr.wrapping_add(n);
        }
    }
    Ok(())
}

/// Reads bytes of guest memory for the device itself: the operand of an atomic write.
pub(crate) fn load<S: GuestRam>(src_ram: &S, mut src: Stretches<'_>, mut bytes: &mut [u8]) -> Result<(), KeyFault> {
    while !bytes.is_empty() {
        let (mut from, mut from_len) = src.next(bytes.len() as u64)?.ok_or(UNREACHABLE)?;
        while from_len > 0 {
            let s = src_ram.slice(from, from_len as usize, Dma::Read).ok_or(UNREACHABLE)?;
            let n = s.copy_to(&mut bytes[..s.len().min(from_len as usize)]);
            bytes = &mut bytes[n..];
            from += n as u64;
            from_len -= n as u64;
        }
    }
    Ok(())
}

/// Copies bytes of the device's own, inline data or an atomic's result, to stretches of guest memory.
#[inline]
pub(crate) fn store<D: GuestRam>(dst_ram: &D, mut dst: Stretches<'_>, mut bytes: &[u8]) -> Result<(), KeyFault> {
    while !bytes.is_empty() {
        let (mut to, mut to_len) = dst.next(bytes.len() as u64)?.ok_or(UNREACHABLE)?;
        while to_len > 0 {
            let d = dst_ram.slice(to, to_len as usize, Dma::Write).ok_or(UNREACHABLE)?;
            let n = d.len().min(to_len as usize);
            d.copy_from(&bytes[..n]);
            bytes = &bytes[n..];
            to += n as u64;
            to_len -= n as u64;
        }
    }
    Ok(())
}
