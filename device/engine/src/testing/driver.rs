// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tiny driver: enough to talk to the device as a driver does, with nothing checked on the driver's side, so that a
//! test can also say what no driver would.

use super::{Cq, Mr, Qp, QpShape, Srq, World, RAM_BASE};
use crate::HcaId;
use core::mem::offset_of;
use verbena_hw::admin::{AdminRecord, Command, Completion, Opcode, Status};
use verbena_hw::cmd::{
    CreateCqReq, CreateDoorbellReq, CreateEqReq, CreateMrReq, CreateMrRsp, CreateQpReq, CreateSrqReq, HandleReq,
    HandleRsp, ModifyQpReq, QueryCountersReq, QueryCountersRsp, QueryQpRsp, COUNTERS,
};
use verbena_hw::doorbell::KICK;
use verbena_hw::eqe::Eqe;
use verbena_hw::id::{Cqn, Eqn, Gid, Pdn, Psn, Qpn, Srqn};
use verbena_hw::qp::{access, attr, transition, Mtu, Path, QpAttrs, QpState, QpType};
use verbena_hw::regs;
use verbena_hw::ring::{phase, slot, PageList};
use verbena_hw::srq::SrqType;
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
    gid: Gid,
    asq: u64,
    acq: u64,
    tail: u32,
    head: u32,
    /// DMA address of the admin queue's record; 0: none.
    record: u64,
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
        Self::attach_by(w, hca, 0)
    }

    /// As [`Guest::start`], with a record for the admin queue.
    ///
    /// # Panics
    ///
    /// If the device does not come up.
    pub fn start_with_record(w: &mut World, memory: usize) -> Self {
        let hca = w.add_hca(memory);
        let record = w.ram_mut(hca).alloc(size_of::<AdminRecord>());
        Self::attach_by(w, hca, record)
    }

    fn attach_by(w: &mut World, hca: HcaId, record: u64) -> Self {
        let bytes = 256 << AQ_LOG;
        let asq = w.ram_mut(hca).alloc(bytes);
        let acq = w.ram_mut(hca).alloc(bytes);
        w.ram(hca).write(acq, &vec![0; bytes]);
        w.write_reg(hca, regs::ASQ_ADDR, 8, asq);
        w.write_reg(hca, regs::ACQ_ADDR, 8, acq);
        w.write_reg(hca, regs::AQ_LOG_SIZE, 4, AQ_LOG.into());
        w.write_reg(hca, regs::AQ_RECORD, 8, record);
        w.write_reg(hca, regs::CTRL, 4, regs::CTRL_ENABLE.into());
        let status = w.read_reg(hca, regs::STATUS, 4) as u32;
        assert_eq!(status, regs::STATUS_READY | regs::STATUS_ENABLED);
        let eq_ring = w.ram_mut(hca).alloc(32 << EQ_LOG);
        let doorbell_page = w.ram_mut(hca).alloc(4096);
        let mut guest = Self {
            hca,
            gid: Gid::link_local(w.mac(hca)),
            asq,
            acq,
            tail: 0,
            head: 0,
            record,
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
        if self.record != 0 {
            let tail = self.record + offset_of!(AdminRecord, tail) as u64;
            w.ram(self.hca).write(tail, &u64::from(self.tail).to_le_bytes());
            if w.ram(self.hca).read_u64(self.record) == 0 {
                return;
            }
        }
        w.write_reg(self.hca, regs::ASQ_TAIL, 4, self.tail.into());
    }

    /// What the device says in the admin queue's record: 1, it sleeps.
    pub fn admin_kick(&self, w: &World) -> u64 {
        w.ram(self.hca).read_u64(self.record)
    }

    /// Says in the record how many wait for the admin queue's vector.
    pub fn set_sleeping(&self, w: &World, sleeping: u64) {
        let at = self.record + offset_of!(AdminRecord, sleeping) as u64;
        w.ram(self.hca).write(at, &sleeping.to_le_bytes());
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
        let req = QueryCountersReq {
            first: at as u32,
            reserved: 0,
        };
        let rsp: QueryCountersRsp = self.command(w, Opcode::QUERY_COUNTERS, &req).expect("counters");
        rsp.values[0]
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
            flags: 0,
            reserved: [0; 10],
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

    /// A CREATE_SRQ request for `1 << log` entries of up to 3 elements, with a ring and a record of its own.
    pub fn srq_request(&mut self, w: &mut World, log: u8) -> CreateSrqReq {
        const LOG_STRIDE: u8 = 6;
        let ring = w.ram_mut(self.hca).alloc(1 << (log + LOG_STRIDE));
        let record = w.ram_mut(self.hca).alloc(64);
        CreateSrqReq {
            ring: PageList::direct(ring, 1 << (log + LOG_STRIDE)),
            record,
            cookie: 0x5_0000,
            pdn: self.pdn,
            eqn: self.eqn,
            cqn: Default::default(),
            xrcdn: 0,
            limit: 0,
            srq_type: SrqType::BASIC,
            log_entries: log,
            log_stride: LOG_STRIDE,
            max_sge: 3,
            reserved: 0,
        }
    }

    /// Creates a shared receive queue.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub fn create_srq(&mut self, w: &mut World, req: &CreateSrqReq) -> Result<Srq, Failed> {
        let srqn = self.create(w, Opcode::CREATE_SRQ, req)?;
        Ok(Srq {
            hca: self.hca,
            srqn: Srqn::truncate(srqn),
            ring: req.ring.addr,
            record: req.record,
            log: req.log_entries,
            log_stride: req.log_stride,
            producer: 0,
        })
    }

    /// Allocates an XRC domain.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn xrcd(&mut self, w: &mut World) -> u32 {
        self.create(w, Opcode::CREATE_XRCD, &[0u8; 0]).expect("a domain")
    }

    /// As [`Guest::srq_request`], for an XRC queue whose receives complete in `cq`.
    pub fn xrc_srq_request(&mut self, w: &mut World, log: u8, xrcdn: u32, cq: &Cq) -> CreateSrqReq {
        CreateSrqReq {
            srq_type: SrqType::XRC,
            cqn: cq.cqn,
            xrcdn,
            ..self.srq_request(w, log)
        }
    }

    /// A CREATE_QP request for an XRC initiator.
    pub fn initiator_request(&mut self, w: &mut World, send: &Cq, shape: QpShape) -> CreateQpReq {
        CreateQpReq {
            qp_type: QpType::XRC_INI,
            rq: PageList::default(),
            recv_cqn: Cqn::default(),
            rq_log_entries: 0,
            rq_log_stride: 0,
            max_recv_sge: 0,
            ..self.qp_request(w, send, send, shape)
        }
    }

    /// A CREATE_QP request for an XRC target.
    pub fn target_request(&self, xrcdn: u32) -> CreateQpReq {
        CreateQpReq {
            cookie: 0x9_f000,
            qp_type: QpType::XRC_TGT,
            eqn: self.eqn,
            xrcdn,
            ..CreateQpReq::new_zeroed()
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
            flags: 0,
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
            xrcdn: 0,
            reserved: [0; 4],
            mask: 0,
            reserved2: 0,
            attrs: QpAttrs::default(),
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
        self.gid
    }

    /// Some address that the guest has memory at.
    pub fn base(&self) -> u64 {
        RAM_BASE
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

    /// Masks and attributes of a datagram queue pair's way from RESET to RTS.
    pub fn datagram(kind: QpType, qkey: u32) -> [(u32, QpAttrs); 3] {
        let port = if kind == QpType::UD { attr::PORT } else { 0 };
        let mut init = QpAttrs {
            state: QpState::INIT.0,
            qkey,
            ..QpAttrs::default()
        };
        init.path.port = 1;
        let to = |state: QpState| QpAttrs {
            state: state.0,
            ..QpAttrs::default()
        };
        [
            (attr::STATE | attr::PKEY_INDEX | attr::QKEY | port, init),
            (attr::STATE, to(QpState::RTR)),
            (attr::STATE | attr::SQ_PSN, to(QpState::RTS)),
        ]
    }

    /// Masks and attributes of a raw queue pair's way from RESET to RTS.
    pub fn raw() -> [(u32, QpAttrs); 3] {
        let mut init = QpAttrs {
            state: QpState::INIT.0,
            ..QpAttrs::default()
        };
        init.path.port = 1;
        let to = |state: QpState| QpAttrs {
            state: state.0,
            ..QpAttrs::default()
        };
        [
            (attr::STATE | attr::PORT, init),
            (attr::STATE, to(QpState::RTR)),
            (attr::STATE, to(QpState::RTS)),
        ]
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

    /// Masks and attributes of the way of a connected queue pair of any type from RESET to RTS: of those above, what its
    /// transitions require.
    pub fn connection(kind: QpType, dgid: Gid, dest_qpn: Qpn, (sq_psn, rq_psn): (u32, u32)) -> [(u32, QpAttrs); 3] {
        let states = [QpState::RESET, QpState::INIT, QpState::RTR, QpState::RTS];
        let mut steps = [init(), rtr(dgid, dest_qpn, rq_psn), rts(sq_psn)];
        for (step, states) in steps.iter_mut().zip(states.windows(2)) {
            let required = transition(kind, states[0], states[1]).map_or(0, |taken| taken.required);
            step.0 = required | attr::STATE;
        }
        steps
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
