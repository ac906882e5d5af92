// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scatter lists, and the one copy from guest memory to guest memory.

use crate::env::{Dma, GuestRam};
use crate::mr::{KeyFault, MrTable, Range, Stretch, LOCAL};
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
    fn next(&mut self, max: u64) -> Result<Option<Stretch>, KeyFault> {
        match self {
            Stretches::One { addr, left } => {
                let n = max.min(*left);
                let at = *addr;
                *addr += n;
                *left -= n;
                Ok((n > 0).then_some(Stretch { addr: Some(at), len: n }))
            }
            Stretches::Range(range) => Ok(range.next_stretch(max)),
            Stretches::List {
                mrs,
                pdn,
                list,
                rights,
                next,
                skip,
                range,
            } => loop {
                if let Some(stretch) = range.as_mut().and_then(|range| range.next_stretch(max)) {
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

/// Stores zeros, in the order of [`copy_whole`].
#[cold]
fn zero(to: &VolatileSlice<'_>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let (head, tail) = to
        .split_at(to.len().saturating_sub(TAIL))
        .expect("no slice ends before its length");
    let mut at = 0;
    while let Ok(rest) = head.offset(at) {
        let n = rest.len().min(ZEROS.len());
        if n == 0 {
            break;
        }
        rest.copy_from(&ZEROS[..n]);
        at += n;
    }
    // Release: the tail is visible only after the rest.
    fence(Ordering::Release);
    tail.copy_from(&ZEROS[..tail.len()]);
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
    let nothing = Stretch { addr: None, len: 0 };
    let (mut from, mut to) = (nothing, nothing);
    while left > 0 {
        if from.len == 0 {
            from = src
                .next(left)
                .map_err(CopyFault::Source)?
                .ok_or(CopyFault::Source(UNREACHABLE))?;
        }
        if to.len == 0 {
            to = dst
                .next(left)
                .map_err(CopyFault::Destination)?
                .ok_or(CopyFault::Destination(UNREACHABLE))?;
        }
        let max = from.len.min(to.len) as usize;
        let n = match (from.addr, to.addr) {
            (Some(from), Some(to)) => {
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
                n
            }
            _ => copy_null(src_ram, from, dst_ram, to)?,
        };
        from.pass(n as u64);
        to.pass(n as u64);
        left -= n as u64;
    }
    Ok(())
}

/// What [`copy`] does where one of the two is of a null region. Answers how many bytes that were.
#[cold]
fn copy_null<S: GuestRam, D: GuestRam>(
    src_ram: &S,
    from: Stretch,
    dst_ram: &D,
    to: Stretch,
) -> Result<usize, CopyFault> {
    let max = from.len.min(to.len) as usize;
    match (from.addr, to.addr) {
        (None, Some(to)) => {
            let d = dst_ram
                .slice(to, max, Dma::Write)
                .ok_or(CopyFault::Destination(UNREACHABLE))?;
            let n = d.len().min(max);
            zero(&d.subslice(0, n).expect("it has at least n bytes"));
            Ok(n)
        }
        // A source that is not there is an error wherever its bytes were to go.
        (Some(from), _) => {
            let s = src_ram
                .slice(from, max, Dma::Read)
                .ok_or(CopyFault::Source(UNREACHABLE))?;
            Ok(s.len().min(max))
        }
        (None, None) => Ok(max),
    }
}

/// Whether `len` bytes of the stretches are mapped, for a message that must not leave in part. Holds for the rest of a poll.
pub(crate) fn reachable<S: GuestRam>(ram: &S, mut stretches: Stretches<'_>, len: u64) -> Result<(), KeyFault> {
    let mut left = len;
    while left > 0 {
        let stretch = stretches.next(left)?.ok_or(UNREACHABLE)?;
        let mut here = stretch.len;
        left -= here;
        let Some(mut addr) = stretch.addr else { continue };
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
        let stretch = src.next(bytes.len() as u64)?.ok_or(UNREACHABLE)?;
        let mut from_len = stretch.len;
        let Some(mut from) = stretch.addr else {
            let (zeros, rest) = bytes.split_at_mut(from_len as usize);
            zeros.fill(0);
            bytes = rest;
            continue;
        };
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
        let stretch = dst.next(bytes.len() as u64)?.ok_or(UNREACHABLE)?;
        let mut to_len = stretch.len;
        let Some(mut to) = stretch.addr else {
            bytes = &bytes[to_len as usize..];
            continue;
        };
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
