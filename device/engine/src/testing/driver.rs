// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tiny driver: enough to talk to the device as a driver does, with nothing checked on the driver's side, so that a
//! test can also say what no driver would.

use super::{World, RAM_BASE};
use crate::HcaId;
use verbena_hw::admin::{Command, Completion, Opcode, Status};
use verbena_hw::cmd::{
    CreateCqReq, CreateDoorbellReq, CreateEqReq, CreateMrReq, CreateMrRsp, CreateQpReq, HandleReq, HandleRsp,
    ModifyQpReq, QueryCountersRsp, QueryQpRsp, COUNTERS,
};
use verbena_hw::cqe::{CqRecord, Cqe};
use verbena_hw::doorbell::{BITMAP, KICK, SUMMARY};
use verbena_hw::eqe::Eqe;
use verbena_hw::id::{Cqn, Eqn, Gid, Key, Pdn, Psn, Qpn};
use verbena_hw::qp::{access, attr, Mtu, Path, QpAttrs, QpState, QpType};
use verbena_hw::regs;
use verbena_hw::ring::{phase, slot, PageList};
use verbena_hw::wqe::{send_flags, AtomicArgs, RecvHeader, SendHeader, SendOpcode, Sge};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The status.
    pub status: Status,
    /// Its detail.
    pub detail: u32,
}

const AQ_LOG: u8 = 4;
const EQ_LOG: u8 = 6;

/// A guest's driver of one HCA.
pub struct Guest {
    /// The HCA.
    pub hca: HcaId,
    asq: u64,
    acq: u64,
    tail: u32,
    head: u32,
    /// Protection domain of the calls that do not say another.
    pub pdn: Pdn,
    /// Event queue 0: asynchronous events and completion events, on vector 1.
    pub eqn: Eqn,
    eq_ring: u64,
    eq_consumer: u32,
    /// The doorbell page's index.
    pub doorbell: u32,
    /// DMA address of the doorbell page in memory.
    pub doorbell_page: u64,
    next_slot: u16,
}

impl Guest {
    /// Adds an HCA to the world and brings it up.
    ///
    /// # Panics
    ///
    /// If the device does not come up.
    pub fn start(w: &mut World, memory: usize) -> Self {
        let hca = w.add_hca(memory);
        Self::attach(w, hca)
    }

    /// Brings an HCA up that is in its state after reset.
    ///
    /// # Panics
    ///
    /// If the device does not come up.
    pub fn attach(w: &mut World, hca: HcaId) -> Self {
        let bytes = 256 << AQ_LOG;
        let asq = w.ram_mut(hca).alloc(bytes);
        let acq = w.ram_mut(hca).alloc(bytes);
        w.ram(hca).write(acq, &vec![0; bytes]);
        w.write_reg(hca, regs::ASQ_ADDR, 8, asq);
        w.write_reg(hca, regs::ACQ_ADDR, 8, acq);
        w.write_reg(hca, regs::AQ_LOG_SIZE, 4, AQ_LOG.into());
        w.write_reg(hca, regs::CTRL, 4, regs::CTRL_ENABLE.into());
        let status = w.read_reg(hca, regs::STATUS, 4) as u32;
        assert_eq!(status, regs::STATUS_READY | regs::STATUS_ENABLED);
        let eq_ring = w.ram_mut(hca).alloc(32 << EQ_LOG);
        let doorbell_page = w.ram_mut(hca).alloc(4096);
        let mut guest = Self {
            hca,
            asq,
            acq,
            tail: 0,
            head: 0,
            pdn: Pdn(0),
            eqn: Eqn(0),
            eq_ring,
            eq_consumer: 0,
            doorbell: 0,
            doorbell_page,
            next_slot: 0,
        };
        let req = CreateEqReq {
            ring: PageList::direct(eq_ring, 32 << EQ_LOG),
            log_entries: EQ_LOG,
            async_default: 1,
            vector: 1,
            reserved: [0; 3],
        };
        guest.eqn = Eqn(guest.create(w, Opcode::CREATE_EQ, &req).expect("event queue"));
        guest.pdn = Pdn(guest.create(w, Opcode::CREATE_PD, &[0u8; 0]).expect("domain"));
        let req = CreateDoorbellReq { addr: doorbell_page };
        guest.doorbell = guest.create(w, Opcode::CREATE_DOORBELL, &req).expect("doorbell");
        guest
    }

    /// Submits a command and rings; the answer is [`Guest::reap`]'s.
    pub fn submit(&mut self, w: &mut World, opcode: Opcode, req: &(impl IntoBytes + Immutable), id: u16) {
        let mut command = Command::new_zeroed();
        command.opcode = opcode;
        command.id = id;
        let bytes = req.as_bytes();
        command.payload[..bytes.len()].copy_from_slice(bytes);
        self.submit_raw(w, &command);
    }

    /// Submits a command as it is.
    pub fn submit_raw(&mut self, w: &mut World, command: &Command) {
        let at = self.asq + 256 * u64::from(slot(self.tail, AQ_LOG));
        w.ram(self.hca).write(at, command.as_bytes());
        self.tail = self.tail.wrapping_add(1);
        w.write_reg(self.hca, regs::ASQ_TAIL, 4, self.tail.into());
    }

    /// The next completion of the admin queue, if there is one.
    pub fn reap(&mut self, w: &mut World) -> Option<Completion> {
        let at = self.acq + 256 * u64::from(slot(self.head, AQ_LOG));
        let completion = Completion::read_from_bytes(&w.ram(self.hca).read(at, 256)).expect("256 bytes");
        if completion.owner & 1 != phase(self.head, AQ_LOG) {
            return None;
        }
        self.head = self.head.wrapping_add(1);
        w.write_reg(self.hca, regs::ACQ_HEAD, 4, self.head.into());
        Some(completion)
    }

    /// Executes a command.
    ///
    /// # Errors
    ///
    /// What the device answers.
    ///
    /// # Panics
    ///
    /// If the device does not answer.
    pub fn command<R: FromBytes>(
        &mut self,
        w: &mut World,
        opcode: Opcode,
        req: &(impl IntoBytes + Immutable),
    ) -> Result<R, Failed> {
        let id = self.tail as u16 ^ 0x5a5a;
        self.submit(w, opcode, req, id);
        let mut answer = None;
        for _ in 0..1_000_000 {
            w.poll();
            answer = self.reap(w);
            if answer.is_some() {
                break;
            }
        }
        let completion = answer.expect("the device answers every command");
        assert_eq!(completion.id, id);
        if completion.status != Status::OK {
            assert_eq!(completion.payload, [0; 240], "a failure has no response");
            return Err(Failed {
                status: completion.status,
                detail: completion.detail,
            });
        }
        let (response, _) = R::read_from_prefix(&completion.payload[..]).expect("the response fits");
        Ok(response)
    }

    /// A command whose response is a number.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn create(&mut self, w: &mut World, opcode: Opcode, req: &(impl IntoBytes + Immutable)) -> Result<u32, Failed> {
        self.command::<HandleRsp>(w, opcode, req).map(|rsp| rsp.handle)
    }

    /// A command about one object.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn about<R: FromBytes>(&mut self, w: &mut World, opcode: Opcode, handle: u32) -> Result<R, Failed> {
        self.command(w, opcode, &HandleReq { handle, reserved: 0 })
    }

    /// A DESTROY.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn destroy(&mut self, w: &mut World, opcode: Opcode, handle: u32) -> Result<(), Failed> {
        self.about::<[u8; 0]>(w, opcode, handle).map(|_| ())
    }

    /// A counter by name.
    ///
    /// # Panics
    ///
    /// If there is no such counter.
    pub fn counter(&mut self, w: &mut World, name: &str) -> u64 {
        let at = COUNTERS.iter().position(|&n| n == name).expect("a counter's name");
        let rsp: QueryCountersRsp = self.command(w, Opcode::QUERY_COUNTERS, &[0u8; 0]).expect("counters");
        rsp.values[at]
    }

    /// Consumes the events of event queue 0, as far as they are there.
    pub fn events(&mut self, w: &mut World) -> Vec<Eqe> {
        let mut events = Vec::new();
        loop {
            let at = self.eq_ring + 32 * u64::from(slot(self.eq_consumer, EQ_LOG));
            let eqe = Eqe::read_from_bytes(&w.ram(self.hca).read(at, 32)).expect("32 bytes");
            if eqe.owner & 1 != phase(self.eq_consumer, EQ_LOG) {
                return events;
            }
            self.eq_consumer = self.eq_consumer.wrapping_add(1);
            events.push(eqe);
            let value = self.eq_consumer & !regs::EQ_DB_ARM;
            w.write_reg(self.hca, regs::eq_db(self.eqn.0), 4, value.into());
        }
    }

    /// Arms event queue 0.
    pub fn arm_events(&mut self, w: &mut World) {
        let value = self.eq_consumer & !regs::EQ_DB_ARM | regs::EQ_DB_ARM;
        w.write_reg(self.hca, regs::eq_db(self.eqn.0), 4, value.into());
    }

    /// Creates a completion queue of `1 << log` entries.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn cq(&mut self, w: &mut World, log: u8) -> Cq {
        let ring = w.ram_mut(self.hca).alloc(64 << log);
        let record = w.ram_mut(self.hca).alloc(64);
        let req = CreateCqReq {
            ring: PageList::direct(ring, 64 << log),
            record,
            cookie: 0xc0,
            eqn: self.eqn,
            log_entries: log,
            reserved: [0; 11],
        };
        let cqn = self.create(w, Opcode::CREATE_CQ, &req).expect("completion queue");
        Cq {
            hca: self.hca,
            cqn: Cqn::truncate(cqn),
            ring,
            record,
            log,
            consumer: 0,
            arms: 0,
        }
    }

    /// Registers `len` bytes at `addr`, whose own addresses are their DMA addresses.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn mr(&mut self, w: &mut World, addr: u64, len: u64, rights: u32) -> Result<Mr, Failed> {
        let first_offset = addr % 4096;
        let req = CreateMrReq {
            pages: PageList::direct(addr - first_offset, first_offset + len),
            iova: addr,
            len,
            first_offset,
            pdn: self.pdn,
            access: rights,
            reserved: 0,
        };
        self.register(w, &req)
    }

    /// Registers memory as a request says.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn register(&mut self, w: &mut World, req: &CreateMrReq) -> Result<Mr, Failed> {
        let rsp: CreateMrRsp = self.command(w, Opcode::CREATE_MR, req)?;
        Ok(Mr {
            lkey: rsp.lkey,
            rkey: rsp.rkey,
            addr: req.iova,
            len: req.len,
        })
    }

    /// A CREATE_QP request for the shape, with rings and a doorbell slot of its own.
    pub fn qp_request(&mut self, w: &mut World, send: &Cq, recv: &Cq, shape: QpShape) -> CreateQpReq {
        let sq_bytes = 1usize << (shape.sq_log + shape.sq_log_stride);
        let rq_bytes = 1usize << (shape.rq_log + shape.rq_log_stride);
        let sq = w.ram_mut(self.hca).alloc(sq_bytes);
        let rq = w.ram_mut(self.hca).alloc(rq_bytes);
        let slot = self.next_slot;
        self.next_slot += 1;
        CreateQpReq {
            sq: PageList::direct(sq, sq_bytes as u64),
            rq: PageList::direct(rq, rq_bytes as u64),
            cookie: 0x9_0000 + u64::from(slot),
            pdn: self.pdn,
            send_cqn: send.cqn,
            recv_cqn: recv.cqn,
            srqn: Default::default(),
            doorbell: self.doorbell,
            slot,
            qp_type: QpType::RC,
            flags: 0,
            sq_log_entries: shape.sq_log,
            sq_log_stride: shape.sq_log_stride,
            rq_log_entries: shape.rq_log,
            rq_log_stride: shape.rq_log_stride,
            max_send_sge: shape.max_sge,
            max_recv_sge: shape.max_sge,
            max_inline: shape.max_inline,
            eqn: self.eqn,
            reserved: [0; 5],
        }
    }

    /// Creates a queue pair.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn create_qp(&mut self, w: &mut World, req: &CreateQpReq) -> Result<Qp, Failed> {
        let qpn = self.create(w, Opcode::CREATE_QP, req)?;
        Ok(Qp {
            hca: self.hca,
            qpn: Qpn::truncate(qpn),
            cookie: req.cookie,
            doorbell: req.doorbell,
            doorbell_page: self.doorbell_page,
            slot: req.slot,
            sq: req.sq.addr,
            rq: req.rq.addr,
            sq_log: req.sq_log_entries,
            sq_log_stride: req.sq_log_stride,
            rq_log: req.rq_log_entries,
            rq_log_stride: req.rq_log_stride,
            sq_producer: 0,
            rq_producer: 0,
        })
    }

    /// MODIFY_QP.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn modify(&mut self, w: &mut World, qpn: Qpn, mask: u32, attrs: QpAttrs) -> Result<(), Failed> {
        let req = ModifyQpReq { qpn, mask, attrs };
        self.command::<[u8; 0]>(w, Opcode::MODIFY_QP, &req).map(|_| ())
    }

    /// Moves a queue pair to a state without further attributes.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn modify_state(&mut self, w: &mut World, qpn: Qpn, state: QpState) -> Result<(), Failed> {
        let attrs = QpAttrs {
            state: state.0,
            ..QpAttrs::default()
        };
        self.modify(w, qpn, attr::STATE, attrs)
    }

    /// QUERY_QP.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn query_qp(&mut self, w: &mut World, qpn: Qpn) -> QueryQpRsp {
        self.about(w, Opcode::QUERY_QP, qpn.get()).expect("a queue pair")
    }

    /// The state of a queue pair.
    pub fn state(&mut self, w: &mut World, qpn: Qpn) -> QpState {
        QpState(self.query_qp(w, qpn).attrs.state)
    }

    /// Writes the doorbell register with a slot.
    pub fn ring_register(&self, w: &mut World, slot: u32) {
        let at = u64::from(self.doorbell) * 4096;
        w.engine.write_doorbell(self.hca, at, 4, slot.into());
    }

    /// What the device has written into the doorbell page for drivers to see.
    pub fn kick(&self, w: &World) -> u32 {
        w.ram(self.hca).read_u32(self.doorbell_page + KICK as u64)
    }

    /// The port's first GID.
    pub fn gid(&self) -> Gid {
        Gid::link_local([0x02, 0x56, 0x42, 0, 0, self.hca.0 as u8 + 1])
    }

    /// Some address that the guest has memory at.
    pub fn base(&self) -> u64 {
        RAM_BASE
    }
}

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
    hca: HcaId,
    /// Its number.
    pub cqn: Cqn,
    /// DMA address of the ring.
    pub ring: u64,
    /// DMA address of the record.
    pub record: u64,
    log: u8,
    consumer: u32,
    arms: u32,
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
    hca: HcaId,
    /// Its number.
    pub qpn: Qpn,
    /// Its cookie.
    pub cookie: u64,
    doorbell: u32,
    doorbell_page: u64,
    /// Its doorbell slot.
    pub slot: u16,
    /// DMA address of the send ring.
    pub sq: u64,
    /// DMA address of the receive ring.
    pub rq: u64,
    sq_log: u8,
    sq_log_stride: u8,
    rq_log: u8,
    rq_log_stride: u8,
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
        if let Some(args) = &wr.atomic {
            bytes.extend(args.as_bytes());
        }
        bytes.extend(&wr.body);
        bytes.truncate(1 << self.sq_log_stride);
        w.ram(self.hca).write(at, &bytes);
        self.sq_producer = self.sq_producer.wrapping_add(1);
    }

    /// Rings through the page in memory.
    pub fn ring(&self, w: &World) {
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

/// Attributes of the transitions of a connection, as most tests want them.
pub mod attrs {
    use super::*;

    /// Mask and attributes of RESET to INIT.
    pub fn init() -> (u32, QpAttrs) {
        let mask = attr::STATE | attr::PKEY_INDEX | attr::PORT | attr::ACCESS_FLAGS;
        let mut attrs = QpAttrs {
            state: QpState::INIT.0,
            access: access::QP_ALL,
            ..QpAttrs::default()
        };
        attrs.path.port = 1;
        (mask, attrs)
    }

    /// Mask and attributes of INIT to RTR, for a peer.
    pub fn rtr(dgid: Gid, dest_qpn: Qpn, rq_psn: u32) -> (u32, QpAttrs) {
        let mask = attr::STATE
            | attr::AV
            | attr::PATH_MTU
            | attr::DEST_QPN
            | attr::RQ_PSN
            | attr::MAX_DEST_RD_ATOMIC
            | attr::MIN_RNR_TIMER;
        let attrs = QpAttrs {
            state: QpState::RTR.0,
            path_mtu: Mtu::B1024.0,
            dest_qpn,
            rq_psn: Psn::truncate(rq_psn),
            max_dest_rd_atomic: 16,
            min_rnr_timer: 12,
            path: Path {
                dgid,
                hop_limit: 64,
                port: 1,
                vlan: 0xffff,
                ..Path::default()
            },
            ..QpAttrs::default()
        };
        (mask, attrs)
    }

    /// Mask and attributes of RTR to RTS.
    pub fn rts(sq_psn: u32) -> (u32, QpAttrs) {
        let mask =
            attr::STATE | attr::TIMEOUT | attr::RETRY_CNT | attr::RNR_RETRY | attr::SQ_PSN | attr::MAX_QP_RD_ATOMIC;
        let attrs = QpAttrs {
            state: QpState::RTS.0,
            timeout: 14,
            retry_cnt: 3,
            rnr_retry: 3,
            sq_psn: Psn::truncate(sq_psn),
            max_rd_atomic: 16,
            ..QpAttrs::default()
        };
        (mask, attrs)
    }
}
