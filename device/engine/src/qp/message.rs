// SPDX-License-Identifier: MIT OR Apache-2.0
//! A work request as the device holds it.
//!
//! The entry in the ring is read once, into a [`Message`] or a [`Receive`]; everything later, retries included, works
//! on this copy, so it does not matter what the guest does to the ring meanwhile.

use crate::env::{Dma, GuestRam};
use crate::ram::{self, Unreachable};
use crate::ring::Ring;
use core::sync::atomic::Ordering;
use verbena_hw::cqe::{self, vendor, Status};
use verbena_hw::id::{Key, Pdn, Psn, Srqn};
use verbena_hw::qp::QpType;
use verbena_hw::ring::OWNER_PHASE;
use verbena_hw::wqe::{
    flush, send_flags, AtomicArgs, FlushArgs, RecvHeader, SendHeader, SendOpcode, Sge, UdArgs, XrcArgs, MAX_MESSAGE,
    MAX_SGE,
};
use vm_memory::VolatileMemory;
use zerocopy::{transmute, FromBytes, IntoBytes};

/// Scatter/gather elements, or inline data: 512 bytes in either case.
#[derive(Clone, Debug)]
pub(crate) struct Body([u64; 2 * MAX_SGE as usize]);

const _: () = assert!(size_of::<Body>() == verbena_hw::wqe::MAX_INLINE as usize);

impl Default for Body {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Body {
    #[inline]
    pub(crate) fn sge(&self, i: usize) -> Sge {
        let words = [self.0[2 * i], self.0[2 * i + 1]];
        transmute!(words)
    }

    fn bytes(&self, len: usize) -> &[u8] {
        &self.0.as_bytes()[..len]
    }

    /// Copies the first `len` bytes from `entry` at `offset`; both were checked against the stride.
    #[inline]
    fn load(&mut self, entry: &vm_memory::VolatileSlice<'_>, offset: usize, len: usize) -> Result<(), Unreachable> {
        if len == 16 {
            let words: [u64; 2] = entry.get_ref(offset).map_err(|_| Unreachable)?.load();
            (self.0[0], self.0[1]) = (words[0], words[1]);
        } else if len > 0 {
            let slice = entry.subslice(offset, len).map_err(|_| Unreachable)?;
            slice.copy_to(&mut self.0.as_mut_bytes()[..len]);
        }
        Ok(())
    }
}

/// The elements of a request.
#[derive(Clone, Copy)]
pub(crate) struct SgeList<'a> {
    pub(crate) body: &'a Body,
    pub(crate) len: usize,
}

impl<'a> SgeList<'a> {
    pub(crate) fn as_slice(self) -> &'a [Sge] {
        let bytes = self.body.bytes(self.len * size_of::<Sge>());
        FromBytes::ref_from_bytes(bytes).expect("whole elements, aligned as their words are")
    }
}

/// What a send entry does, once checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Operation {
    #[default]
    Send,
    Write,
    Read,
    CompareSwap,
    FetchAdd,
    AtomicWrite,
    Flush,
    LocalInvalidate,
    BindWindow,
    FastRegister,
}

impl Operation {
    /// The opcode of the completion.
    pub(crate) fn completion(self) -> cqe::Opcode {
        match self {
            Operation::Send => cqe::Opcode::SEND,
            Operation::Write => cqe::Opcode::RDMA_WRITE,
            Operation::Read => cqe::Opcode::RDMA_READ,
            Operation::CompareSwap => cqe::Opcode::COMP_SWAP,
            Operation::FetchAdd => cqe::Opcode::FETCH_ADD,
            Operation::AtomicWrite => cqe::Opcode::ATOMIC_WRITE,
            Operation::Flush => cqe::Opcode::FLUSH,
            Operation::LocalInvalidate => cqe::Opcode::LOCAL_INV,
            Operation::BindWindow => cqe::Opcode::BIND_MW,
            Operation::FastRegister => cqe::Opcode::REG_MR,
        }
    }

    pub(crate) fn is_atomic(self) -> bool {
        matches!(
            self,
            Operation::CompareSwap | Operation::FetchAdd | Operation::AtomicWrite
        )
    }
}

/// The send opcodes that RC queue pairs offer, as QUERY_DEVICE tells them.
pub(crate) const RC_OPCODES: u32 = 1 << SendOpcode::WRITE.0
    | 1 << SendOpcode::WRITE_WITH_IMM.0
    | 1 << SendOpcode::SEND.0
    | 1 << SendOpcode::SEND_WITH_IMM.0
    | 1 << SendOpcode::READ.0
    | 1 << SendOpcode::COMPARE_SWAP.0
    | 1 << SendOpcode::FETCH_ADD.0
    | 1 << SendOpcode::LOCAL_INVALIDATE.0
    | 1 << SendOpcode::BIND_MW.0
    | 1 << SendOpcode::SEND_WITH_INVALIDATE.0
    | 1 << SendOpcode::FAST_REGISTER.0
    | 1 << SendOpcode::FLUSH.0
    | 1 << SendOpcode::ATOMIC_WRITE.0
    | 1 << SendOpcode::FAST_REGISTER_LIST.0;

/// What the queue pair allows its send entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendLimits {
    pub(crate) max_sge: u8,
    pub(crate) max_inline: u16,
    /// READs and atomics that may be outstanding.
    pub(crate) rd_atomic: u8,
}

/// A work request that cannot be executed as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRequest {
    pub(crate) status: Status,
    /// [`vendor`].
    pub(crate) reason: u32,
}

impl BadRequest {
    pub(crate) fn operation(reason: u32) -> Self {
        Self {
            status: Status::LOC_QP_OP_ERR,
            reason,
        }
    }
}

/// Why a checked message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// It cannot be.
    Bad(BadRequest),
    /// The device itself executes it.
    Local,
}

impl Unsent {
    fn operation(reason: u32) -> Self {
        Unsent::Bad(BadRequest::operation(reason))
    }

    fn length(reason: u32) -> Self {
        Unsent::Bad(BadRequest {
            status: Status::LOC_LEN_ERR,
            reason,
        })
    }
}

/// What the last packet of a message carries beside data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tail {
    #[default]
    Nothing,
    /// ImmDt.
    Imm(u32),
    /// IETH: a key of the receiver's that the message ends.
    Invalidate(Key),
}

/// Whether the opcode has 16 bytes of operands behind the header.
#[inline]
pub(crate) fn has_operands(opcode: SendOpcode) -> bool {
    matches!(
        opcode,
        SendOpcode::COMPARE_SWAP | SendOpcode::FETCH_ADD | SendOpcode::BIND_MW | SendOpcode::FLUSH
    )
}

/// A send work request in execution.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) header: SendHeader,
    /// Operands, of whatever opcode has some.
    pub(crate) atomic: AtomicArgs,
    body: Body,
    pub(crate) operation: Operation,
    /// Bytes of the message.
    pub(crate) len: u64,
    /// Bytes that the peer has acknowledged.
    pub(crate) offset: u64,
    /// PSN of its first packet.
    pub(crate) psn: Psn,
    /// Packets it takes: for a READ those of the response.
    pub(crate) packets: u32,
    /// The shared receive queue that it names, if it is XRC's.
    pub(crate) srqn: Option<Srqn>,
}

impl Message {
    /// Copies the entry at `index` of the ring of a queue pair of this type. `false`: none has been posted there.
    #[inline]
    pub(crate) fn fetch<R: GuestRam>(
        &mut self,
        ram: &R,
        (sq, kind): (&Ring, QpType),
        index: u32,
    ) -> Result<bool, Unreachable> {
        const HEAD: usize = size_of::<SendHeader>();
        let entry = ram::whole(ram, sq.addr(index), sq.stride(), Dma::Read)?;
        // Acquire: the rest of the entry, and the data it names, were written before this word.
        let word0 = ram::word(&entry, 0)?.load(Ordering::Acquire);
        if word0 as u8 & OWNER_PHASE != sq.phase(index) {
            return Ok(false);
        }
        let rest: [u64; 3] = entry.get_ref(8).map_err(|_| Unreachable)?.load();
        self.header = transmute!([word0, rest[0], rest[1], rest[2]]);
        let h = &self.header;
        let mut at = HEAD;
        self.srqn = None;
        if kind == QpType::XRC_INI {
            let args: [u64; 2] = entry.get_ref(at).map_err(|_| Unreachable)?.load();
            let args: XrcArgs = transmute!(args);
            // What has more than 24 bits is no number, and 0 names nothing.
            self.srqn = Some(Srqn::new(args.srqn.get()).unwrap_or_default());
            at += size_of::<XrcArgs>();
        }
        // One comparison for those that are frequent.
        if h.opcode >= SendOpcode::COMPARE_SWAP.0 && has_operands(SendOpcode(h.opcode)) {
            let args: [u64; 2] = entry.get_ref(at).map_err(|_| Unreachable)?.load();
            self.atomic = transmute!(args);
            at += size_of::<AtomicArgs>();
        }
        let len = claimed(h).min(sq.stride() - at).min(size_of::<Body>());
        self.body.load(&entry, at, len)?;
        Ok(true)
    }

    /// Copies the entry at `index` of the ring of a queue pair that sends datagrams. `None`: none has been posted there.
    pub(crate) fn fetch_datagram<R: GuestRam>(
        &mut self,
        ram: &R,
        sq: &Ring,
        index: u32,
    ) -> Result<Option<UdArgs>, Unreachable> {
        const HEAD: usize = size_of::<SendHeader>();
        const AT: usize = HEAD + size_of::<UdArgs>();
        let entry = ram::whole(ram, sq.addr(index), sq.stride(), Dma::Read)?;
        // Acquire: as in `fetch`.
        let word0 = ram::word(&entry, 0)?.load(Ordering::Acquire);
        if word0 as u8 & OWNER_PHASE != sq.phase(index) {
            return Ok(None);
        }
        let rest: [u64; 11] = entry.get_ref(8).map_err(|_| Unreachable)?.load();
        let [head @ .., _, _, _, _, _, _, _, _] = rest;
        let [_, _, _, args @ ..] = rest;
        self.header = transmute!([word0, head[0], head[1], head[2]]);
        let len = claimed(&self.header).min(sq.stride() - AT).min(size_of::<Body>());
        self.body.load(&entry, AT, len)?;
        Ok(Some(transmute!(args)))
    }

    /// Checks the fetched entry and works out what it does and how long it is.
    #[inline]
    pub(crate) fn check(&mut self, limits: SendLimits) -> Result<(), Unsent> {
        let h = &self.header;
        self.operation = match SendOpcode(h.opcode) {
            SendOpcode::WRITE | SendOpcode::WRITE_WITH_IMM => Operation::Write,
            SendOpcode::SEND | SendOpcode::SEND_WITH_IMM | SendOpcode::SEND_WITH_INVALIDATE => Operation::Send,
            SendOpcode::READ => Operation::Read,
            SendOpcode::COMPARE_SWAP => Operation::CompareSwap,
            SendOpcode::FETCH_ADD => Operation::FetchAdd,
            _ => return self.check_rare(limits),
        };
        let sends_data = matches!(self.operation, Operation::Write | Operation::Send);
        let inline = h.flags & send_flags::INLINE != 0;
        if h.flags & !send_flags::ALL != 0 || (inline && !sends_data) {
            return Err(Unsent::operation(vendor::FLAGS));
        }
        if h.num_sge > limits.max_sge || (inline && h.num_sge != 0) {
            return Err(Unsent::operation(vendor::SGE_COUNT));
        }
        if h.inline_len > limits.max_inline.into() || (!inline && h.inline_len != 0) {
            return Err(Unsent::operation(vendor::INLINE_LEN));
        }
        self.len = if inline {
            h.inline_len.into()
        } else {
            total(self.elements())
        };
        if self.len > MAX_MESSAGE {
            return Err(Unsent::length(vendor::MESSAGE_LEN));
        }
        if self.operation.is_atomic() && (self.header.num_sge != 1 || self.len != 8) {
            return Err(Unsent::length(vendor::ATOMIC_OPERAND));
        }
        if !sends_data && limits.rd_atomic == 0 {
            return Err(Unsent::operation(vendor::RD_ATOMIC));
        }
        self.offset = 0;
        Ok(())
    }

    /// [`Message::check`] for the opcodes that are not worth a place there.
    #[cold]
    fn check_rare(&mut self, limits: SendLimits) -> Result<(), Unsent> {
        let h = &self.header;
        let (operation, data) = match SendOpcode(h.opcode) {
            SendOpcode::ATOMIC_WRITE => (Operation::AtomicWrite, true),
            SendOpcode::FLUSH => (Operation::Flush, false),
            SendOpcode::LOCAL_INVALIDATE => (Operation::LocalInvalidate, false),
            SendOpcode::BIND_MW => (Operation::BindWindow, false),
            SendOpcode::FAST_REGISTER | SendOpcode::FAST_REGISTER_LIST => (Operation::FastRegister, true),
            _ => return Err(Unsent::operation(vendor::OPCODE)),
        };
        let inline = h.flags & send_flags::INLINE != 0;
        if h.flags & !send_flags::ALL != 0 || (inline && !data) {
            return Err(Unsent::operation(vendor::FLAGS));
        }
        if h.num_sge > limits.max_sge || (h.num_sge != 0 && (inline || !data)) {
            return Err(Unsent::operation(vendor::SGE_COUNT));
        }
        if h.inline_len > limits.max_inline.into() || (!inline && h.inline_len != 0) {
            return Err(Unsent::operation(vendor::INLINE_LEN));
        }
        self.operation = operation;
        self.len = if inline {
            h.inline_len.into()
        } else {
            total(self.elements())
        };
        self.offset = 0;
        match operation {
            Operation::AtomicWrite if self.len != 8 => return Err(Unsent::length(vendor::ATOMIC_OPERAND)),
            Operation::Flush => {
                let args = self.flush();
                let placement = args.placement & !(flush::GLOBAL | flush::PERSISTENT) == 0 && args.placement != 0;
                if !placement || args.level > flush::REGION {
                    return Err(Unsent::operation(vendor::FLUSH_OPERAND));
                }
                // Its header has 32 bits for it, as every request's.
                if args.level == flush::RANGE && args.len > MAX_MESSAGE {
                    return Err(Unsent::length(vendor::MESSAGE_LEN));
                }
            }
            Operation::FastRegister if inline => return Err(Unsent::operation(vendor::FLAGS)),
            Operation::LocalInvalidate | Operation::BindWindow | Operation::FastRegister => return Err(Unsent::Local),
            _ => {}
        }
        // Both are answered like READs.
        if limits.rd_atomic == 0 {
            return Err(Unsent::operation(vendor::RD_ATOMIC));
        }
        Ok(())
    }

    /// The operands of a FLUSH.
    fn flush(&self) -> FlushArgs {
        transmute!(self.atomic)
    }

    /// What its last packet carries beside data.
    #[inline]
    pub(crate) fn tail(&self) -> Tail {
        match SendOpcode(self.header.opcode) {
            SendOpcode::WRITE_WITH_IMM | SendOpcode::SEND_WITH_IMM => Tail::Imm(self.header.imm),
            SendOpcode::SEND_WITH_INVALIDATE => Tail::Invalidate(Key(self.header.imm)),
            _ => Tail::Nothing,
        }
    }

    #[inline]
    pub(crate) fn elements(&self) -> SgeList<'_> {
        SgeList {
            body: &self.body,
            len: self.header.num_sge.into(),
        }
    }

    /// The inline data, if the message has its data in itself.
    #[inline]
    pub(crate) fn inline(&self) -> Option<&[u8]> {
        (self.header.flags & send_flags::INLINE != 0).then(|| self.body.bytes(self.len as usize))
    }

    /// The immediate data, if the opcode has some.
    #[inline]
    pub(crate) fn immediate(&self) -> Option<u32> {
        matches!(
            SendOpcode(self.header.opcode),
            SendOpcode::WRITE_WITH_IMM | SendOpcode::SEND_WITH_IMM
        )
        .then_some(self.header.imm)
    }

    #[inline]
    pub(crate) fn is_signaled(&self) -> bool {
        self.header.flags & send_flags::SIGNALED != 0
    }
}

/// Bytes behind an entry's headers, as it says itself. `check` refuses more than the entry can have.
#[inline]
fn claimed(h: &SendHeader) -> usize {
    if h.flags & send_flags::INLINE != 0 {
        h.inline_len as usize
    } else {
        usize::from(h.num_sge) * size_of::<Sge>()
    }
}

/// Bytes of a list. 32 lengths of 32 bits do not overflow.
#[inline]
fn total(list: SgeList<'_>) -> u64 {
    (0..list.len).map(|i| u64::from(list.body.sge(i).len)).sum()
}

/// A receive work request that a message is arriving in.
#[derive(Debug, Default)]
pub(crate) struct Receive {
    pub(crate) wr_id: u64,
    /// Whose memory its elements name; set by whoever fetches it.
    pub(crate) pdn: Pdn,
    num_sge: u8,
    body: Body,
    /// Bytes that its elements hold.
    pub(crate) room: u64,
    /// Bytes that have arrived.
    pub(crate) offset: u64,
}

impl Receive {
    /// Copies the entry at `index` of the ring. `Ok(false)`: none has been posted there.
    ///
    /// # Errors
    ///
    /// In the inner result: the entry is malformed; `wr_id` is valid all the same.
    #[inline]
    pub(crate) fn fetch<R: GuestRam>(
        &mut self,
        ram: &R,
        rq: &Ring,
        index: u32,
        max_sge: u8,
    ) -> Result<Result<bool, BadRequest>, Unreachable> {
        const HEAD: usize = size_of::<RecvHeader>();
        let entry = ram::whole(ram, rq.addr(index), rq.stride(), Dma::Read)?;
        // Acquire: as for send entries.
        let word0 = ram::word(&entry, 0)?.load(Ordering::Acquire);
        if word0 as u8 & OWNER_PHASE != rq.phase(index) {
            return Ok(Ok(false));
        }
        let word1: u64 = entry.get_ref(8).map_err(|_| Unreachable)?.load();
        let header: RecvHeader = transmute!([word0, word1]);
        self.wr_id = header.wr_id;
        self.offset = 0;
        self.num_sge = 0;
        if header.num_sge > max_sge {
            return Ok(Err(BadRequest::operation(vendor::SGE_COUNT)));
        }
        self.num_sge = header.num_sge;
        self.body
            .load(&entry, HEAD, usize::from(header.num_sge) * size_of::<Sge>())?;
        self.room = total(self.elements());
        Ok(Ok(true))
    }

    #[inline]
    pub(crate) fn elements(&self) -> SgeList<'_> {
        SgeList {
            body: &self.body,
            len: self.num_sge.into(),
        }
    }
}
