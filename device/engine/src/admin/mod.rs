// SPDX-License-Identifier: MIT OR Apache-2.0
//! The admin queue: commands in, completions out, several in execution at once.
//!
//! | module | what it does |
//! |---|---|
//! | this one | the two rings |
//! | [`execute`] | which opcode is which function |
//! | [`device`] | commands about the device and its port |
//! | [`pd`] | commands about protection domains |
//! | [`doorbell`] | commands about doorbell pages |
//! | [`eq`] | commands about event queues |
//! | [`objects`] | commands about completion queues and queue pairs |
//! | [`cq`] | changing completion queues |
//! | [`srq`] | commands about shared receive queues |
//! | [`xrcd`] | commands about XRC domains, and about the targets in them |
//! | [`mw`] | commands about memory windows |
//! | [`multicast`] | commands about multicast groups |
//! | [`flow`] | commands about flow rules |
//! | [`counter`] | commands about counter sets |
//! | [`memory`] | memory registration, which goes on over several polls |

pub(crate) mod counter;
pub(crate) mod cq;
pub(crate) mod device;
pub(crate) mod doorbell;
pub(crate) mod eq;
pub(crate) mod execute;
pub(crate) mod flow;
pub(crate) mod memory;
pub(crate) mod multicast;
pub(crate) mod mw;
pub(crate) mod objects;
pub(crate) mod pd;
pub(crate) mod srq;
pub(crate) mod xrcd;

use crate::doorbell::{Bell, Rung};
use crate::env::{Dma, Env, GuestRam};
use crate::hca::{Cx, Hca, ADMIN_VECTOR};
use crate::ram;
use crate::Budget;
use core::mem::offset_of;
use core::sync::atomic::{fence, Ordering};
use execute::Executed;
use memory::Registration;
use std::collections::VecDeque;
use verbena_hw::admin::{AdminRecord, Command, Completion, Status, LINKS, LINK_BEGIN, PAYLOAD};
use verbena_hw::regs;
use verbena_hw::ring::{phase, slot};
use vm_memory::VolatileSlice;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) detail: u32,
}

impl Failure {
    pub(crate) fn bad_field(offset: u32) -> Self {
        Self {
            status: Status::BAD_FIELD,
            detail: offset,
        }
    }

    pub(crate) fn reserved(offset: u32) -> Self {
        Self {
            status: Status::RESERVED_FIELD,
            detail: offset,
        }
    }

    pub(crate) fn no_such_object(offset: u32) -> Self {
        Self {
            status: Status::NO_SUCH_OBJECT,
            detail: offset,
        }
    }

    pub(crate) fn in_use(users: u32) -> Self {
        Self {
            status: Status::IN_USE,
            detail: users,
        }
    }

    pub(crate) fn limit(limit: u32) -> Self {
        Self {
            status: Status::LIMIT,
            detail: limit,
        }
    }

    pub(crate) fn bad_address(offset: u32) -> Self {
        Self {
            status: Status::BAD_ADDRESS,
            detail: offset,
        }
    }
}

/// The response of a command that succeeded.
#[derive(Clone)]
pub(crate) struct Reply(pub(crate) [u8; PAYLOAD]);

impl Reply {
    pub(crate) fn empty() -> Self {
        Self([0; PAYLOAD])
    }

    pub(crate) fn new(response: &(impl IntoBytes + Immutable)) -> Self {
        let mut reply = Self::empty();
        let bytes = response.as_bytes();
        reply.0[..bytes.len()].copy_from_slice(bytes);
        reply
    }
}

/// The device's side of the admin queue.
#[derive(Default)]
pub(crate) struct AdminQueue {
    pub(crate) sq_consumer: u32,
    pub(crate) cq_producer: u32,
    /// Commands that need more than one poll.
    running: Vec<(u16, Registration)>,
    /// Completions for which the completion ring has no room yet.
    done: VecDeque<Completion>,
    /// A register write, or the record, may have made work.
    pub(crate) pending: bool,
    /// Bit `n` set: a command of link `n` has failed since the link was begun.
    failed_links: u64,
}

/// Offsets in the record. The struct's own fields are atomics in shared memory, so it is never copied whole.
const KICK: usize = offset_of!(AdminRecord, kick);
const TAIL: usize = offset_of!(AdminRecord, tail);
const SLEEPING: usize = offset_of!(AdminRecord, sleeping);

/// The queue's record, if it has one that is mapped. One that is not mapped any more is like none: the registers work.
#[inline]
fn record<E: Env>(hca: &Hca, env: &E, act: impl FnOnce(&VolatileSlice<'_>)) {
    let at = hca.regs.aq_record;
    if at != 0 {
        if let Ok(slice) = ram::whole(env.ram(hca.id), at, size_of::<AdminRecord>(), Dma::Write) {
            act(&slice);
        }
    }
}

/// Looks at the record for commands that no register write has told of.
#[inline]
fn look<E: Env>(hca: &mut Hca, env: &E) {
    let mut tail = None;
    record(hca, env, |record| {
        // Acquire: the commands were written before the counter.
        tail = ram::word(record, TAIL)
            .ok()
            .map(|tail| tail.load(Ordering::Acquire) as u32);
    });
    if let Some(tail) = tail.filter(|&tail| tail != hca.regs.asq_tail) {
        hca.regs.asq_tail = tail;
        hca.admin.pending = true;
    }
}

/// Whether there are commands, without taking them: the last look before sleep.
pub(crate) fn has_rung<E: Env>(hca: &Hca, env: &E) -> bool {
    let mut rung = false;
    record(hca, env, |record| {
        rung = ram::word(record, TAIL).is_ok_and(|tail| tail.load(Ordering::SeqCst) as u32 != hca.regs.asq_tail);
    });
    rung
}

/// The word of the record that a driver changes when there are commands. `None`: the queue is off, or has no record.
pub(crate) fn bell<'a, R: GuestRam>(hca: &Hca, ram: &'a R) -> Option<Bell<'a>> {
    let at = hca.regs.aq_record;
    if !hca.regs.enabled || at == 0 {
        return None;
    }
    Bell::new(
        ram,
        at + TAIL as u64,
        (u32::MAX.into(), hca.regs.asq_tail.into()),
        Rung::Other,
    )
}

/// Sets or clears the word that tells the driver to write the register as well.
pub(crate) fn set_kick<E: Env>(hca: &Hca, env: &E, asleep: bool) {
    if hca.regs.enabled {
        record(hca, env, |record| {
            if let Ok(kick) = ram::word(record, KICK) {
                kick.store(u64::from(asleep), Ordering::SeqCst);
            }
        });
    }
}

/// Signals the vector, unless the driver looks for itself. Called after completions have been written.
fn announce<E: Env>(hca: &Hca, cx: &Cx<'_, E>) {
    let mut wanted = true;
    record(hca, cx.env, |record| {
        // The completions before the look: a driver that has announced its sleep looks once more.
        fence(Ordering::SeqCst);
        wanted = ram::word(record, SLEEPING).map_or(true, |sleeping| sleeping.load(Ordering::Relaxed) != 0);
    });
    if wanted {
        cx.env.interrupt(hca.id, ADMIN_VECTOR);
    }
}

impl AdminQueue {
    pub(crate) fn in_flight(&self) -> usize {
        self.running.len() + self.done.len()
    }

    pub(crate) fn has_work(&self) -> bool {
        self.pending || !self.running.is_empty()
    }
}

/// CTRL.ENABLE.
pub(crate) fn enable<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>) {
    let file = &hca.regs;
    let log = file.aq_log_size;
    let bytes = (size_of::<Command>() as u64) << log.min(31);
    let reachable = |addr: u64, dma| addr % 4096 == 0 && ram::reachable(cx.env.ram(hca.id), addr, bytes, dma);
    let has_record = file.aq_record == 0
        || (file.aq_record % size_of::<AdminRecord>() as u64 == 0
            && ram::whole(cx.env.ram(hca.id), file.aq_record, size_of::<AdminRecord>(), Dma::Write).is_ok());
    if !has_record
        || !(1..=regs::AQ_MAX_LOG_SIZE).contains(&log)
        || !reachable(file.asq_addr, Dma::Read)
        || !reachable(file.acq_addr, Dma::Write)
    {
        hca.fail(cx, regs::HEALTH_AQ_CONFIG);
        return;
    }
    hca.regs.enabled = true;
    hca.regs.asq_tail = 0;
    hca.regs.acq_head = 0;
    hca.admin = AdminQueue::default();
}

/// CTRL.ENABLE taken away: commands in execution end without effect.
pub(crate) fn disable(hca: &mut Hca) {
    hca.regs.enabled = false;
    for (_, registration) in core::mem::take(&mut hca.admin.running) {
        registration.abandon(hca);
    }
    hca.admin = AdminQueue::default();
}

/// Does what there is to do. Answers whether that was anything.
pub(crate) fn poll<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, budget: &mut Budget) -> bool {
    if !hca.regs.enabled || hca.regs.is_fatal() {
        return false;
    }
    look(hca, cx.env);
    if !hca.admin.has_work() {
        return false;
    }
    hca.admin.pending = false;
    let before = hca.admin.cq_producer;
    advance(hca, cx, budget);
    fetch(hca, cx, budget);
    flush_done(hca, cx);
    if hca.admin.cq_producer != before {
        announce(hca, cx);
    }
    true
}

/// Advances the commands that are in execution.
fn advance<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, budget: &mut Budget) {
    let running = core::mem::take(&mut hca.admin.running);
    let mut stepped = Vec::new();
    for (id, mut registration) in running {
        if budget.is_spent() {
            hca.admin.running.push((id, registration));
            continue;
        }
        match registration.step(hca, cx, budget) {
            None => stepped.push((id, registration)),
            Some(result) => finish(hca, id, result),
        }
    }
    // Behind those that have waited.
    hca.admin.running.append(&mut stepped);
}

/// Takes commands from the submission ring.
fn fetch<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, budget: &mut Budget) {
    let log = hca.regs.aq_log_size as u8;
    let entries = 1usize << log;
    loop {
        let ahead = hca.regs.asq_tail.wrapping_sub(hca.admin.sq_consumer);
        if ahead == 0 {
            return;
        }
        if ahead as usize > entries {
            hca.fail(cx, regs::HEALTH_ASQ_TAIL);
            return;
        }
        if hca.admin.in_flight() >= entries {
            // Goes on when ACQ_HEAD moves or a running command ends.
            return;
        }
        if budget.is_spent() {
            hca.admin.pending = true;
            return;
        }
        budget.operations -= 1;
        let addr = hca.regs.asq_addr + u64::from(slot(hca.admin.sq_consumer, log)) * size_of::<Command>() as u64;
        let mut command = Command::new_zeroed();
        // The tail arrived through a register write, or was acquired: the entry was written before it.
        if ram::read(cx.env.ram(hca.id), addr, command.as_mut_bytes()).is_err() {
            hca.fail(cx, regs::HEALTH_ASQ_UNREACHABLE);
            return;
        }
        hca.admin.sq_consumer = hca.admin.sq_consumer.wrapping_add(1);
        let executed = match command.link {
            0 => execute::execute(hca, cx, &command),
            _ => linked(hca, cx, &command),
        };
        match executed {
            Executed::Now(result) => finish(hca, command.id, result),
            Executed::Started(registration) => {
                hca.admin.running.push((command.id, registration));
            }
        }
    }
}

/// Executes a command of a link, unless one before it has failed.
fn linked<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, command: &Command) -> Executed {
    if command.link > LINKS {
        return Executed::Now(Err(Failure::bad_field(execute::IN_HEADER)));
    }
    let bit = 1u64 << command.link;
    if command.flags & LINK_BEGIN != 0 {
        hca.admin.failed_links &= !bit;
    }
    let executed = if hca.admin.failed_links & bit != 0 {
        Executed::Now(Err(Failure {
            status: Status::CANCELED,
            detail: 0,
        }))
    } else if execute::takes_time(command.opcode) {
        Executed::Now(Err(Failure::bad_field(execute::IN_HEADER)))
    } else {
        execute::execute(hca, cx, command)
    };
    if let Executed::Now(Err(_)) = executed {
        hca.admin.failed_links |= bit;
    }
    executed
}

fn finish(hca: &mut Hca, id: u16, result: Result<Reply, Failure>) {
    let mut completion = Completion::new_zeroed();
    completion.id = id;
    match result {
        Ok(reply) => {
            completion.status = Status::OK;
            completion.payload = reply.0;
        }
        Err(failure) => {
            completion.status = failure.status;
            completion.detail = failure.detail;
        }
    }
    hca.admin.done.push_back(completion);
}

/// Writes completions as far as the ring has room.
fn flush_done<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>) {
    let log = hca.regs.aq_log_size as u8;
    loop {
        let unconsumed = hca.admin.cq_producer.wrapping_sub(hca.regs.acq_head);
        // A head that is ahead of the producer is nonsense and makes the ring look full.
        if unconsumed >= 1 << log {
            return;
        }
        let Some(mut completion) = hca.admin.done.pop_front() else {
            return;
        };
        completion.owner = phase(hca.admin.cq_producer, log);
        completion.sq_head = hca.admin.sq_consumer as u16;
        let addr = hca.regs.acq_addr + u64::from(slot(hca.admin.cq_producer, log)) * size_of::<Completion>() as u64;
        let bytes = completion.as_bytes();
        let written = ram::write(cx.env.ram(hca.id), addr + 8, &bytes[8..]).and_then(|()| {
            let entry = ram::whole(cx.env.ram(hca.id), addr, 8, Dma::Write)?;
            let mut word0 = [0; 8];
            word0.copy_from_slice(&bytes[..8]);
            // Release: the phase is visible only after the entry's other words.
            ram::word(&entry, 0)?.store(u64::from_le_bytes(word0), Ordering::Release);
            Ok(())
        });
        if written.is_err() {
            hca.fail(cx, regs::HEALTH_ACQ_UNREACHABLE);
            return;
        }
        hca.admin.cq_producer = hca.admin.cq_producer.wrapping_add(1);
        // Room in the ring, and so perhaps for another command.
        if hca.regs.asq_tail != hca.admin.sq_consumer {
            hca.admin.pending = true;
        }
    }
}
