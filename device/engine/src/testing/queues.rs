// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues as their owner sees them: work requests posted into rings, completions taken out, nothing checked.

use super::World;
use crate::HcaId;
use verbena_hw::cqe::{CqRecord, Cqe};
use verbena_hw::doorbell::{is_watched, BITMAP, SUMMARY, WATCHED};
use verbena_hw::id::{Cqn, Key, Qpn, Srqn};
use verbena_hw::ring::{phase, slot};
use verbena_hw::wqe::{
    send_flags, AtomicArgs, BindArgs, FlushArgs, RecvHeader, SendHeader, SendOpcode, Sge, UdArgs, XrcArgs,
};
use zerocopy::{FromBytes, IntoBytes};

/// The shape of a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct QpShape {
    /// log2 of send entries.
    pub sq_log: u8,
    /// log2 of receive entries.
    pub rq_log: u8,
    /// log2 of a send entry's bytes.
    pub sq_log_stride: u8,
    /// log2 of a receive entry's bytes.
    pub rq_log_stride: u8,
    /// Elements of an entry.
    pub max_sge: u8,
    /// Inline bytes of an entry.
    pub max_inline: u16,
}

impl Default for QpShape {
    fn default() -> Self {
        Self {
            sq_log: 6,
            rq_log: 6,
            sq_log_stride: 10,
            rq_log_stride: 10,
            max_sge: 32,
            max_inline: 512,
        }
    }
}

/// A registered region.
#[derive(Clone, Copy, Debug)]
pub struct Mr {
    /// L_Key.
    pub lkey: Key,
    /// R_Key.
    pub rkey: Key,
    /// First address.
    pub addr: u64,
    /// Length.
    pub len: u64,
}

/// A completion queue as its consumer sees it.
pub struct Cq {
    pub(super) hca: HcaId,
    /// Its number.
    pub cqn: Cqn,
    /// DMA address of the ring.
    pub ring: u64,
    /// DMA address of the record.
    pub record: u64,
    pub(super) log: u8,
    pub(super) consumer: u32,
    pub(super) arms: u32,
}

impl Cq {
    /// The next entry, if there is one; it stays unconsumed in the record.
    pub fn peek(&mut self, w: &World) -> Option<Cqe> {
        let at = self.ring + 64 * u64::from(slot(self.consumer, self.log));
        let cqe = Cqe::read_from_bytes(&w.ram(self.hca).read(at, 64)).expect("64 bytes");
        if cqe.owner & 1 != phase(self.consumer, self.log) {
            return None;
        }
        self.consumer = self.consumer.wrapping_add(1);
        Some(cqe)
    }

    /// Consumes the next entry, if there is one.
    pub fn poll(&mut self, w: &World) -> Option<Cqe> {
        let cqe = self.peek(w);
        let at = self.record + core::mem::offset_of!(CqRecord, consumer) as u64;
        w.ram(self.hca).write(at, &self.consumer.to_le_bytes());
        cqe
    }

    /// Consumes all entries that are there.
    pub fn drain(&mut self, w: &World) -> Vec<Cqe> {
        core::iter::from_fn(|| self.poll(w)).collect()
    }

    /// The queue is on another ring now, which begins with what was not consumed.
    pub fn moved(&mut self, ring: u64, record: u64, log: u8) {
        (self.ring, self.record, self.log, self.consumer) = (ring, record, log, 0);
    }

    /// Asks to be told: one of `CqRecord::ARM_*`.
    pub fn arm(&mut self, w: &World, kind: u32) {
        self.arms += 1;
        let at = self.record + core::mem::offset_of!(CqRecord, arm) as u64;
        w.ram(self.hca).write(at, &(self.arms << 2 | kind).to_le_bytes());
    }
}

/// A send work request.
#[derive(Clone, Debug)]
pub struct SendWr {
    /// The entry's header; `owner` is filled in when it is posted.
    pub header: SendHeader,
    /// Operands of an atomic.
    pub atomic: Option<AtomicArgs>,
    /// Destination of a datagram.
    pub to: Option<UdArgs>,
    /// What an XRC initiator's entries have.
    pub xrc: Option<XrcArgs>,
    /// Elements, or inline data.
    pub body: Vec<u8>,
}

impl SendWr {
    fn new(opcode: SendOpcode, wr_id: u64, sges: &[Sge]) -> Self {
        Self {
            header: SendHeader {
                opcode: opcode.0,
                flags: send_flags::SIGNALED,
                num_sge: sges.len() as u8,
                wr_id,
                ..SendHeader::default()
            },
            atomic: None,
            to: None,
            xrc: None,
            body: sges.as_bytes().to_vec(),
        }
    }

    fn at(mut self, addr: u64, rkey: Key) -> Self {
        self.header.remote_addr = addr;
        self.header.rkey = rkey;
        self
    }

    /// SEND.
    pub fn send(wr_id: u64, sges: &[Sge]) -> Self {
        Self::new(SendOpcode::SEND, wr_id, sges)
    }

    /// RDMA WRITE.
    pub fn write(wr_id: u64, sges: &[Sge], addr: u64, rkey: Key) -> Self {
        Self::new(SendOpcode::WRITE, wr_id, sges).at(addr, rkey)
    }

    /// RDMA READ.
    pub fn read(wr_id: u64, sges: &[Sge], addr: u64, rkey: Key) -> Self {
        Self::new(SendOpcode::READ, wr_id, sges).at(addr, rkey)
    }

    /// Compare and swap.
    pub fn compare_swap(wr_id: u64, sge: Sge, addr: u64, rkey: Key, compare: u64, swap: u64) -> Self {
        let mut wr = Self::new(SendOpcode::COMPARE_SWAP, wr_id, &[sge]).at(addr, rkey);
        wr.atomic = Some(AtomicArgs {
            compare_add: compare,
            swap,
        });
        wr
    }

    /// Fetch and add.
    pub fn fetch_add(wr_id: u64, sge: Sge, addr: u64, rkey: Key, add: u64) -> Self {
        let mut wr = Self::new(SendOpcode::FETCH_ADD, wr_id, &[sge]).at(addr, rkey);
        wr.atomic = Some(AtomicArgs {
            compare_add: add,
            swap: 0,
        });
        wr
    }

    /// As a datagram.
    #[must_use]
    pub fn to(mut self, args: UdArgs) -> Self {
        self.to = Some(args);
        self
    }

    /// To a shared receive queue, of an XRC initiator.
    #[must_use]
    pub fn srq(mut self, srqn: Srqn) -> Self {
        self.xrc = Some(XrcArgs {
            srqn,
            ..XrcArgs::default()
        });
        self
    }

    /// Atomic write of the 8 bytes of an element.
    pub fn atomic_write(wr_id: u64, sges: &[Sge], addr: u64, rkey: Key) -> Self {
        Self::new(SendOpcode::ATOMIC_WRITE, wr_id, sges).at(addr, rkey)
    }

    /// FLUSH.
    pub fn flush(wr_id: u64, addr: u64, rkey: Key, args: FlushArgs) -> Self {
        let mut wr = Self::new(SendOpcode::FLUSH, wr_id, &[]).at(addr, rkey);
        wr.atomic = Some(zerocopy::transmute!(args));
        wr
    }

    /// SEND that invalidates a key of the peer's.
    pub fn send_invalidate(wr_id: u64, sges: &[Sge], rkey: Key) -> Self {
        let mut wr = Self::new(SendOpcode::SEND_WITH_INVALIDATE, wr_id, sges);
        wr.header.imm = rkey.0;
        wr
    }

    /// Invalidates an own key.
    pub fn local_invalidate(wr_id: u64, key: Key) -> Self {
        let mut wr = Self::new(SendOpcode::LOCAL_INVALIDATE, wr_id, &[]);
        wr.header.imm = key.0;
        wr
    }

    /// Gives memory to a region, which gets this key and begins at `iova`.
    pub fn register(wr_id: u64, key: Key, iova: u64, rights: u32, memory: &[Sge]) -> Self {
        let mut wr = Self::new(SendOpcode::FAST_REGISTER, wr_id, memory).at(iova, key);
        wr.header.imm = rights;
        wr
    }

    /// As [`SendWr::register`], where the elements are in memory that these elements name.
    pub fn register_list(wr_id: u64, key: Key, iova: u64, rights: u32, list: &[Sge]) -> Self {
        let mut wr = Self::new(SendOpcode::FAST_REGISTER_LIST, wr_id, list).at(iova, key);
        wr.header.imm = rights;
        wr
    }

    /// Binds a window, which gets this key, to memory from `addr` on.
    pub fn bind(wr_id: u64, rkey: Key, addr: u64, args: BindArgs) -> Self {
        let mut wr = Self::new(SendOpcode::BIND_MW, wr_id, &[]).at(addr, rkey);
        wr.atomic = Some(zerocopy::transmute!(args));
        wr
    }

    /// With immediate data: a SEND or a WRITE becomes the one that has some.
    #[must_use]
    pub fn imm(mut self, imm: u32) -> Self {
        self.header.opcode = if self.header.opcode == SendOpcode::SEND.0 {
            SendOpcode::SEND_WITH_IMM.0
        } else {
            SendOpcode::WRITE_WITH_IMM.0
        };
        self.header.imm = imm;
        self
    }

    /// With inline data instead of elements.
    #[must_use]
    pub fn inline(mut self, data: &[u8]) -> Self {
        self.header.flags |= send_flags::INLINE;
        self.header.num_sge = 0;
        self.header.inline_len = data.len() as u32;
        self.body = data.to_vec();
        self
    }

    /// With further flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.header.flags |= flags;
        self
    }

    /// Without a completion when it succeeds.
    #[must_use]
    pub fn unsignaled(mut self) -> Self {
        self.header.flags &= !send_flags::SIGNALED;
        self
    }
}

/// A receive work request.
#[derive(Clone, Debug)]
pub struct RecvWr {
    /// The entry's header; `owner` is filled in when it is posted.
    pub header: RecvHeader,
    /// Elements.
    pub sges: Vec<Sge>,
}

impl RecvWr {
    /// A receive into the elements.
    pub fn new(wr_id: u64, sges: &[Sge]) -> Self {
        Self {
            header: RecvHeader {
                num_sge: sges.len() as u8,
                wr_id,
                ..RecvHeader::default()
            },
            sges: sges.to_vec(),
        }
    }
}

/// A queue pair as its owner sees it.
pub struct Qp {
    pub(super) hca: HcaId,
    /// Its number.
    pub qpn: Qpn,
    /// Its cookie.
    pub cookie: u64,
    pub(super) doorbell: u32,
    pub(super) doorbell_page: u64,
    /// Its doorbell slot.
    pub slot: u16,
    /// DMA address of the send ring.
    pub sq: u64,
    /// DMA address of the receive ring.
    pub rq: u64,
    pub(super) sq_log: u8,
    pub(super) sq_log_stride: u8,
    pub(super) rq_log: u8,
    pub(super) rq_log_stride: u8,
    /// Producer counter of sends.
    pub sq_producer: u32,
    /// Producer counter of receives.
    pub rq_producer: u32,
}

impl Qp {
    /// Posts without ringing.
    pub fn post_quietly(&mut self, w: &World, mut wr: SendWr) {
        let at = self.sq + (u64::from(slot(self.sq_producer, self.sq_log)) << self.sq_log_stride);
        wr.header.owner = phase(self.sq_producer, self.sq_log);
        let mut bytes = wr.header.as_bytes().to_vec();
        if let Some(args) = &wr.xrc {
            bytes.extend(args.as_bytes());
        }
        if let Some(args) = &wr.atomic {
            bytes.extend(args.as_bytes());
        }
        if let Some(args) = &wr.to {
            bytes.extend(args.as_bytes());
        }
        bytes.extend(&wr.body);
        bytes.truncate(1 << self.sq_log_stride);
        w.ram(self.hca).write(at, &bytes);
        self.sq_producer = self.sq_producer.wrapping_add(1);
    }

    /// Rings through the page in memory, unless the device watches the queue.
    pub fn ring(&self, w: &World) {
        if !self.is_watched(w) {
            self.ring_always(w);
        }
    }

    /// Whether its doorbell page says that it need not ring.
    pub fn is_watched(&self, w: &World) -> bool {
        is_watched(w.ram(self.hca).read_u64(self.doorbell_page + WATCHED as u64), self.slot)
    }

    /// Rings through the page in memory, watched or not.
    pub fn ring_always(&self, w: &World) {
        let ram = w.ram(self.hca);
        let word = self.doorbell_page + BITMAP as u64 + 8 * u64::from(self.slot / 64);
        let bits = ram.read_u64(word) | 1 << (self.slot % 64);
        ram.write(word, &bits.to_le_bytes());
        let summary = self.doorbell_page + SUMMARY as u64;
        let bits = ram.read_u64(summary) | 1 << (self.slot / 64);
        ram.write(summary, &bits.to_le_bytes());
    }

    /// Rings through the register.
    pub fn ring_register(&self, w: &mut World) {
        let at = u64::from(self.doorbell) * 4096;
        w.engine.write_doorbell(self.hca, at, 4, self.slot.into());
    }

    /// Posts and rings.
    pub fn post(&mut self, w: &World, wr: SendWr) {
        self.post_quietly(w, wr);
        self.ring(w);
    }

    /// Posts a receive. Nothing rings.
    pub fn post_recv(&mut self, w: &World, mut wr: RecvWr) {
        let at = self.rq + (u64::from(slot(self.rq_producer, self.rq_log)) << self.rq_log_stride);
        wr.header.owner = phase(self.rq_producer, self.rq_log);
        let mut bytes = wr.header.as_bytes().to_vec();
        bytes.extend(wr.sges.as_bytes());
        bytes.truncate(1 << self.rq_log_stride);
        w.ram(self.hca).write(at, &bytes);
        self.rq_producer = self.rq_producer.wrapping_add(1);
    }

    /// Starts the rings anew, as after RESET.
    pub fn rewind(&mut self, w: &World) {
        let ram = w.ram(self.hca);
        ram.write(self.sq, &vec![0; 1 << (self.sq_log + self.sq_log_stride)]);
        ram.write(self.rq, &vec![0; 1 << (self.rq_log + self.rq_log_stride)]);
        (self.sq_producer, self.rq_producer) = (0, 0);
    }
}

/// A shared receive queue as its owner sees it.
pub struct Srq {
    pub(super) hca: HcaId,
    /// Its number.
    pub srqn: Srqn,
    /// DMA address of the ring.
    pub ring: u64,
    /// DMA address of the record.
    pub record: u64,
    /// log2 of its entries.
    pub log: u8,
    pub(super) log_stride: u8,
    /// Producer counter.
    pub producer: u32,
}

impl Srq {
    /// Posts a receive. Nothing rings.
    pub fn post(&mut self, w: &World, mut wr: RecvWr) {
        let at = self.ring + (u64::from(slot(self.producer, self.log)) << self.log_stride);
        wr.header.owner = phase(self.producer, self.log);
        let mut bytes = wr.header.as_bytes().to_vec();
        bytes.extend(wr.sges.as_bytes());
        bytes.truncate(1 << self.log_stride);
        w.ram(self.hca).write(at, &bytes);
        self.producer = self.producer.wrapping_add(1);
    }

    /// The device's consumer counter, as it says in the record.
    pub fn consumer(&self, w: &World) -> u32 {
        w.ram(self.hca).read_u32(self.record)
    }
}
