// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A device that does what a test tells it to: it answers every command with success and the next number, unless told
//! otherwise, and notes what it was asked.

use super::{Model, Ram};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use verbena_hw::admin::{Command, Completion, Opcode, Status, LINK_BEGIN};
use verbena_hw::cmd::{CreateMrRsp, QueryDeviceRsp};
use verbena_hw::eqe::Eqe;
use verbena_hw::id::Key;
use verbena_hw::{regs, ring};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How the device misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// All registers read as ones, no write has an effect: gone.
    Gone,
    /// Another device.
    Magic(u32),
    /// Another version.
    Version(u32),
    /// It sees a private copy of memory: zeros to read, and nobody sees what it writes.
    NotShared,
    /// No mapping covers the memory.
    Unreachable,
    /// It refuses to be enabled, for this reason.
    RefusesEnable(u32),
    /// It takes commands and never completes one.
    Mute,
    /// It stops at the next command.
    Fatal,
    /// It completes commands that nobody sent.
    Confused,
}

#[derive(Default)]
struct State {
    values: std::collections::BTreeMap<u32, u64>,
    status: u32,
    health: u32,
    fault: Option<Fault>,
    sq_head: u32,
    cq_tail: u32,
    next: u32,
    seen: Vec<Command>,
    told: usize,
    /// Writes of ACQ_HEAD.
    acknowledged: usize,
    refusals: VecDeque<(Opcode, Status, u32)>,
    hold: bool,
    caps: u64,
    failed_links: u64,
    held: Vec<Completion>,
    eq_tails: [u32; 16],
    eq_rings: [u64; 16],
}

/// The device.
#[derive(Default)]
pub struct Scripted(Mutex<State>);

const LIMITS: [u32; 10] = [100, 100, 1000, 32768, 100, 1 << 16, 64, 1024, 32, 512];

impl Scripted {
    pub fn faulty(fault: Fault) -> Self {
        let device = Scripted::default();
        device.set(fault);
        device
    }

    /// One that knows links.
    pub fn linking() -> Self {
        let device = Scripted::default();
        device.0.lock().unwrap().caps = regs::CAP_ADMIN_LINK;
        device
    }

    /// One that takes packed rings.
    pub fn packing() -> Self {
        let device = Scripted::default();
        device.0.lock().unwrap().caps = regs::CAP_PACKED_RINGS;
        device
    }

    pub fn set(&self, fault: Fault) {
        self.0.lock().unwrap().fault = Some(fault);
    }

    /// The next command of that kind ends like this.
    pub fn refuse(&self, opcode: Opcode, status: Status, detail: u32) {
        self.0.lock().unwrap().refusals.push_back((opcode, status, detail));
    }

    /// The same, after as many that it executes.
    pub fn refuse_nth(&self, opcode: Opcode, n: usize, status: Status, detail: u32) {
        let mut state = self.0.lock().unwrap();
        state.refusals.extend((0..n).map(|_| (opcode, Status::OK, 0)));
        state.refusals.push_back((opcode, status, detail));
    }

    /// From now on completions are kept back.
    pub fn hold(&self) {
        self.0.lock().unwrap().hold = true;
    }

    /// Commands that are kept back.
    pub fn held(&self) -> usize {
        self.0.lock().unwrap().held.len()
    }

    /// Completes what was kept back, the latest first.
    pub fn release(&self, ram: &Ram) {
        let mut state = self.0.lock().unwrap();
        state.hold = false;
        while let Some(completion) = state.held.pop() {
            state.complete(ram, completion);
        }
    }

    /// The commands since the last time this was asked.
    pub fn seen(&self) -> Vec<Command> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }

    /// How often the register has told of commands since the last time this was asked.
    pub fn told(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().told)
    }

    /// How often completions have been acknowledged since the last time this was asked.
    pub fn acknowledged(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().acknowledged)
    }

    /// Their opcodes.
    pub fn seen_opcodes(&self) -> Vec<Opcode> {
        self.seen().iter().map(|command| command.opcode).collect()
    }

    /// Writes an event queue entry; the test calls the interrupt.
    pub fn event(&self, ram: &Ram, eqn: u32, mut eqe: Eqe) {
        let mut state = self.0.lock().unwrap();
        let (tail, addr) = (state.eq_tails[eqn as usize], state.eq_rings[eqn as usize]);
        eqe.owner = ring::phase(tail, 8);
        ram.write(addr + u64::from(ring::slot(tail, 8)) * 32, eqe.as_bytes());
        state.eq_tails[eqn as usize] = tail.wrapping_add(1);
    }

    /// What a register was last written.
    pub fn written(&self, offset: u32) -> Option<u64> {
        self.0.lock().unwrap().values.get(&offset).copied()
    }
}

impl State {
    fn fault(&self) -> Fault {
        self.fault.unwrap_or(Fault::None)
    }

    fn number(&self) -> u32 {
        // Not the small numbers that a test might expect by accident.
        0x100 + self.next
    }

    fn run(&mut self, ram: &Ram) {
        let tail = self.values[&regs::ASQ_TAIL] as u32;
        let log = self.values[&regs::AQ_LOG_SIZE] as u8;
        while self.sq_head != tail {
            let at = self.values[&regs::ASQ_ADDR] + u64::from(ring::slot(self.sq_head, log)) * 256;
            let mut command = Command::new_zeroed();
            ram.read(at, command.as_mut_bytes());
            self.sq_head = self.sq_head.wrapping_add(1);
            self.seen.push(command);
            match self.fault() {
                Fault::Mute => continue,
                Fault::Fatal => {
                    self.status |= regs::STATUS_FATAL;
                    self.health = regs::HEALTH_ASQ_UNREACHABLE;
                    return;
                }
                _ => {}
            }
            let bit = 1u64 << command.link;
            if command.flags & LINK_BEGIN != 0 {
                self.failed_links &= !bit;
            }
            let mut completion = if command.link != 0 && self.failed_links & bit != 0 {
                Completion::new_zeroed()
            } else {
                self.answer(&command)
            };
            if command.link != 0 && self.failed_links & bit != 0 {
                (completion.id, completion.status) = (command.id, Status::CANCELED);
            }
            if command.link != 0 && completion.status != Status::OK {
                self.failed_links |= bit;
            }
            if self.hold {
                self.held.push(completion);
            } else {
                self.complete(ram, completion);
            }
        }
    }

    fn answer(&mut self, command: &Command) -> Completion {
        let mut completion = Completion::new_zeroed();
        completion.id = command.id;
        if self.fault() == Fault::Confused {
            completion.id ^= 0x3f;
        }
        if let Some(n) = self.refusals.iter().position(|(opcode, ..)| *opcode == command.opcode) {
            let (_, status, detail) = self.refusals.remove(n).unwrap();
            if status != Status::OK {
                (completion.status, completion.detail) = (status, detail);
                return completion;
            }
        }
        match command.opcode {
            Opcode::QUERY_DEVICE => {
                let mut rsp = QueryDeviceRsp::new_zeroed();
                let [pd, mr, qp, wr, cq, cqe, eq, doorbell, sge, inline] = LIMITS;
                (rsp.max_pd, rsp.max_mr, rsp.max_qp, rsp.max_qp_wr, rsp.max_cq) = (pd, mr, qp, wr, cq);
                (rsp.max_cqe, rsp.max_eq, rsp.max_doorbell) = (cqe, eq, doorbell);
                (rsp.max_sge, rsp.max_inline, rsp.max_mr_size) = (sge, inline, 1 << 40);
                (rsp.ports, rsp.gid_table_len, rsp.pkey_table_len) = (1, 4, 1);
                rsp.fw_version[..5].copy_from_slice(b"1.2.3");
                completion.payload[..size_of_val(&rsp)].copy_from_slice(rsp.as_bytes());
            }
            Opcode::CREATE_EQ => {
                let eqn = self.eq_rings.iter().position(|&addr| addr == 0).unwrap();
                self.eq_rings[eqn] = u64::read_from_bytes(&command.payload[..8]).unwrap();
                completion.payload[..4].copy_from_slice(&(eqn as u32).to_le_bytes());
            }
            Opcode::CREATE_MR => {
                self.next += 1;
                let key = Key::from_parts(self.number(), 0x5a);
                let rsp = CreateMrRsp {
                    lkey: key,
                    rkey: key,
                    reserved: 0,
                };
                completion.payload[..16].copy_from_slice(rsp.as_bytes());
            }
            Opcode::CREATE_PD
            | Opcode::CREATE_CQ
            | Opcode::CREATE_QP
            | Opcode::CREATE_DOORBELL
            | Opcode::CREATE_XRCD => {
                self.next += 1;
                completion.payload[..4].copy_from_slice(&self.number().to_le_bytes());
            }
            _ => {}
        }
        completion
    }

    fn complete(&mut self, ram: &Ram, mut completion: Completion) {
        let log = self.values[&regs::AQ_LOG_SIZE] as u8;
        let consumed = self.values.get(&regs::ACQ_HEAD).copied().unwrap_or(0) as u32;
        assert!(
            self.cq_tail.wrapping_sub(consumed) < 1 << log,
            "the driver lets the completion queue overflow"
        );
        completion.owner = ring::phase(self.cq_tail, log);
        let at = self.values[&regs::ACQ_ADDR] + u64::from(ring::slot(self.cq_tail, log)) * 256;
        ram.write(at, completion.as_bytes());
        self.cq_tail = self.cq_tail.wrapping_add(1);
    }

    fn reset(&mut self) {
        *self = State {
            status: regs::STATUS_READY,
            fault: self.fault,
            caps: self.caps,
            next: self.next,
            refusals: std::mem::take(&mut self.refusals),
            seen: std::mem::take(&mut self.seen),
            ..State::default()
        };
    }
}

impl Model for Scripted {
    fn read(&self, offset: u32, size: u32) -> u64 {
        let state = self.0.lock().unwrap();
        let all_ones = if size == 8 { u64::MAX } else { u64::from(u32::MAX) };
        match (offset, state.fault()) {
            (_, Fault::Gone) => all_ones,
            (regs::MAGIC, Fault::Magic(magic)) => magic.into(),
            (regs::MAGIC, _) => regs::MAGIC_VALUE.into(),
            (regs::VERSION, Fault::Version(version)) => version.into(),
            (regs::VERSION, _) => regs::VERSION_VALUE.into(),
            (regs::CAPS, _) => regs::CAP_DOORBELL_BITMAP | regs::CAP_LARGE_PAGES | state.caps,
            (regs::STATUS, _) => state.status.into(),
            (regs::HEALTH, _) => state.health.into(),
            _ => state.values.get(&offset).copied().unwrap_or(0),
        }
    }

    fn write(&self, ram: &Ram, offset: u32, _size: u32, value: u64) {
        let mut state = self.0.lock().unwrap();
        let fault = state.fault();
        if fault == Fault::Gone {
            return;
        }
        state.values.insert(offset, value);
        match offset {
            regs::CTRL if value as u32 & regs::CTRL_RESET != 0 => state.reset(),
            regs::CTRL => match fault {
                Fault::RefusesEnable(health) => {
                    state.status |= regs::STATUS_FATAL;
                    state.health = health;
                }
                _ => state.status |= regs::STATUS_ENABLED,
            },
            regs::ACQ_HEAD => state.acknowledged += 1,
            regs::ASQ_TAIL => {
                assert!(
                    state.status & regs::STATUS_ENABLED != 0,
                    "a command before the queue was enabled"
                );
                state.told += 1;
                state.run(ram);
            }
            regs::PROBE_ADDR => {
                let (status, read) = match fault {
                    Fault::Unreachable => (regs::PROBE_UNREACHABLE, 0),
                    Fault::NotShared => (regs::PROBE_DONE, 0),
                    _ => {
                        let words = ram.at(value, 16).expect("the driver gives memory that is mapped");
                        let nonce = words[0].load(Ordering::Acquire);
                        words[1].store(!nonce, Ordering::Release);
                        (regs::PROBE_DONE, nonce)
                    }
                };
                state.values.insert(regs::PROBE_STATUS, status.into());
                state.values.insert(regs::PROBE_VALUE, read);
            }
            _ => {}
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Scripted {
    /// What STATUS reads.
    pub fn read_status(&self) -> u32 {
        self.read(regs::STATUS, 4) as u32
    }
}
