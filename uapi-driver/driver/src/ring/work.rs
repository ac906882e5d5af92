// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work requests, as an application states them.

use std::fmt;
use verbena_hw::id::Key;
use verbena_hw::wqe::{flush, send_flags, SendOpcode, Sge};

/// Memory of a peer: where a WRITE goes, a READ or an atomic comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Address in the peer's region.
    pub addr: u64,
    /// The region's R_Key.
    pub rkey: u32,
}

impl Remote {
    /// The same region, `bytes` further on.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self {
            addr: self.addr.wrapping_add(bytes),
            rkey: self.rkey,
        }
    }
}

/// What a send carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    Sges(&'a [Sge]),
    Inline(&'a [u8]),
}

/// A request for the send queue. Made by one of its constructors, refined by its other methods.
///
/// ```
/// use verbena::{Remote, SendWr, Sge};
/// # let (sges, remote) = ([Sge::default()], Remote::default());
/// let wr = SendWr::write(remote).wr_id(7).sges(&sges).signaled();
/// # let _ = wr;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a work request does nothing until it is posted"]
pub struct SendWr<'a> {
    pub(crate) opcode: SendOpcode,
    pub(crate) flags: u8,
    pub(crate) imm: u32,
    pub(crate) wr_id: u64,
    pub(crate) remote: Remote,
    pub(crate) atomic: Option<(u64, u64)>,
    pub(crate) data: Data<'a>,
}

impl<'a> SendWr<'a> {
    #[inline(always)]
    const fn new(opcode: SendOpcode, remote: Remote) -> Self {
        Self {
            opcode,
            flags: 0,
            imm: 0,
            wr_id: 0,
            remote,
            atomic: None,
            data: Data::Sges(&[]),
        }
    }

    /// RDMA WRITE to `remote`.
    #[inline(always)]
    pub const fn write(remote: Remote) -> Self {
        Self::new(SendOpcode::WRITE, remote)
    }

    /// RDMA WRITE to `remote` that also consumes a receive of the peer and hands it `imm`.
    #[inline(always)]
    pub const fn write_imm(remote: Remote, imm: u32) -> Self {
        let mut wr = Self::new(SendOpcode::WRITE_WITH_IMM, remote);
        wr.imm = imm.to_be();
        wr
    }

    /// SEND.
    #[inline(always)]
    pub const fn send() -> Self {
        Self::new(SendOpcode::SEND, Remote { addr: 0, rkey: 0 })
    }

    /// SEND with `imm`.
    #[inline(always)]
    pub const fn send_imm(imm: u32) -> Self {
        let mut wr = Self::new(SendOpcode::SEND_WITH_IMM, Remote { addr: 0, rkey: 0 });
        wr.imm = imm.to_be();
        wr
    }

    /// SEND that invalidates the peer's key `rkey`.
    #[inline(always)]
    pub const fn send_invalidate(rkey: u32) -> Self {
        let mut wr = Self::new(SendOpcode::SEND_WITH_INVALIDATE, Remote { addr: 0, rkey: 0 });
        wr.imm = rkey;
        wr
    }

    /// RDMA READ from `remote` into the request's elements.
    #[inline(always)]
    pub const fn read(remote: Remote) -> Self {
        Self::new(SendOpcode::READ, remote)
    }

    /// Atomic compare and swap of the 8 bytes at `remote`; what was there comes into the request's one element.
    #[inline(always)]
    pub const fn compare_swap(remote: Remote, compare: u64, swap: u64) -> Self {
        let mut wr = Self::new(SendOpcode::COMPARE_SWAP, remote);
        wr.atomic = Some((compare, swap));
        wr
    }

    /// Atomic addition to the 8 bytes at `remote`; what was there comes into the request's one element.
    #[inline(always)]
    pub const fn fetch_add(remote: Remote, add: u64) -> Self {
        let mut wr = Self::new(SendOpcode::FETCH_ADD, remote);
        wr.atomic = Some((add, 0));
        wr
    }

    /// Atomic write of the 8 bytes that it carries to `remote`, which is aligned to 8: seen as a whole, and after everything
    /// that was written before.
    #[inline(always)]
    pub const fn atomic_write(remote: Remote) -> Self {
        Self::new(SendOpcode::ATOMIC_WRITE, remote)
    }

    /// Makes what earlier WRITEs of the queue pair stored in `len` bytes from `remote` on globally visible. Needs
    /// [`crate::Access::FLUSH_GLOBAL`] of the peer's region and queue pair.
    pub const fn flush(remote: Remote, len: u64) -> Self {
        Self::operands(SendOpcode::FLUSH, remote, len, flush::GLOBAL, flush::RANGE)
    }

    /// As [`SendWr::flush`], for the whole region that `rkey` names.
    pub const fn flush_region(rkey: u32) -> Self {
        Self::operands(
            SendOpcode::FLUSH,
            Remote { addr: 0, rkey },
            0,
            flush::GLOBAL,
            flush::REGION,
        )
    }

    /// Invalidates a key of this side: of a window that this queue pair has bound, or of a [`crate::FastRegion`].
    pub const fn local_invalidate(rkey: u32) -> Self {
        let mut wr = Self::new(SendOpcode::LOCAL_INVALIDATE, Remote { addr: 0, rkey: 0 });
        wr.imm = rkey;
        wr
    }

    pub(crate) const fn fast_register(place: Remote, access: u32) -> Self {
        let mut wr = Self::new(SendOpcode::FAST_REGISTER, place);
        wr.imm = access;
        wr
    }

    pub(crate) const fn fast_register_list(place: Remote, access: u32) -> Self {
        let mut wr = Self::new(SendOpcode::FAST_REGISTER_LIST, place);
        wr.imm = access;
        wr
    }

    pub(crate) const fn bind_window(place: Remote, len: u64, lkey: Key, access: u32) -> Self {
        Self::operands(SendOpcode::BIND_MW, place, len, lkey.0, access)
    }

    /// One with 16 bytes of operands behind the header: one word and two halves.
    const fn operands(opcode: SendOpcode, remote: Remote, word: u64, low: u32, high: u32) -> Self {
        let mut wr = Self::new(opcode, remote);
        wr.atomic = Some((word, low as u64 | (high as u64) << 32));
        wr
    }

    /// The number that its completion returns.
    #[inline(always)]
    pub const fn wr_id(mut self, wr_id: u64) -> Self {
        self.wr_id = wr_id;
        self
    }

    /// The memory that it sends, or that a READ or an atomic fills.
    #[inline(always)]
    pub const fn sges(mut self, sges: &'a [Sge]) -> Self {
        self.data = Data::Sges(sges);
        self.flags &= !send_flags::INLINE;
        self
    }

    /// Data that it sends, copied when posted: the slice is free again at once, and needs no registration.
    #[inline(always)]
    pub const fn inline(mut self, data: &'a [u8]) -> Self {
        self.data = Data::Inline(data);
        self.flags |= send_flags::INLINE;
        self
    }

    /// Asks for a completion when it succeeds. An error makes one anyhow.
    #[inline(always)]
    pub const fn signaled(mut self) -> Self {
        self.flags |= send_flags::SIGNALED;
        self
    }

    /// Waits for all earlier READs and atomics of the queue.
    #[inline(always)]
    pub const fn fence(mut self) -> Self {
        self.flags |= send_flags::FENCE;
        self
    }

    /// Its completion at the peer counts as solicited.
    #[inline(always)]
    pub const fn solicited(mut self) -> Self {
        self.flags |= send_flags::SOLICITED;
        self
    }

    pub(crate) const fn rkey(&self) -> Key {
        Key(self.remote.rkey)
    }
}

/// A request for the receive queue: where the next message goes.
#[derive(Clone, Copy, Debug)]
#[must_use = "a work request does nothing until it is posted"]
pub struct RecvWr<'a> {
    pub(crate) wr_id: u64,
    pub(crate) sges: &'a [Sge],
}

impl<'a> RecvWr<'a> {
    /// Into these elements, one after the other.
    #[inline(always)]
    pub const fn new(sges: &'a [Sge]) -> Self {
        Self { wr_id: 0, sges }
    }

    /// The number that its completion returns.
    #[inline(always)]
    pub const fn wr_id(mut self, wr_id: u64) -> Self {
        self.wr_id = wr_id;
        self
    }
}

/// Why a work request was not posted. Nothing of it has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The queue has no free entry: poll completions first. Entries of unsignaled sends become free with the next
    /// signaled one's completion.
    QueueFull,
    /// More elements than the queue pair was created for.
    TooManySges {
        /// What it was created for.
        max: u32,
    },
    /// More inline data than the queue pair was created for.
    InlineTooLong {
        /// What it was created for.
        max: u32,
    },
    /// The entry is longer than the queue's stride, or not a multiple of 8 bytes.
    BadEntry,
    /// The queue pair's state does not take it: receives need INIT or later, sends RTS, SQD or an error state.
    WrongState,
    /// The queue pair has no receive queue.
    NoQueue,
    /// The device is gone.
    DeviceGone,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull => {
                f.write_str("the queue is full: poll completions, and signal at least every so many sends")
            }
            Self::TooManySges { max } => write!(f, "more than the {max} elements that the queue pair was created for"),
            Self::InlineTooLong { max } => {
                write!(
                    f,
                    "more than the {max} bytes of inline data that the queue pair was created for"
                )
            }
            Self::BadEntry => f.write_str("the entry does not fit the queue's stride"),
            Self::WrongState => f.write_str("the queue pair's state does not take it: connect it first"),
            Self::NoQueue => f.write_str("the queue pair has no receive queue"),
            Self::DeviceGone => f.write_str("the device is gone"),
        }
    }
}

impl std::error::Error for PostError {}
