// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! XRC targets: queue pairs without queues, so without memory, doorbell and completion queues.
//!
//! A target belongs to its domain: any context that has the domain can have the target too, by its number, and it goes when nobody
//! has it any more.

use crate::admin::CommandError;
use crate::driver::{end, Handling, Payload, Reference};
use crate::events::drain;
use crate::hardware::Hardware;
use crate::numbers::Kind;
use crate::platform::Platform;
use crate::qp::transition;
use crate::qp_attrs::{self, Given};
use crate::Verbena;
use core::ptr::eq;
use rdma_uapi::class::qp;
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Arc, NoMemory, Vec};
use rdma_uapi::wire::ObjectId;
use rdma_uapi::{Ending, Errno, Object, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateQpReq, HandleReq, HandleRsp, ModifyQpReq, QueryQpRsp};
use verbena_hw::eqe::Eqe;
use verbena_hw::id::Qpn;
use verbena_hw::qp::{attr, QpState, QpType};
use zerocopy::FromZeros;

/// A target of the device, and who has it.
pub(crate) struct Held<P: Platform> {
    xrcdn: u32,
    /// Objects that are this target: those that events do not find yet count too.
    claims: u32,
    objects: Vec<Arc<Object<Verbena<P>>>>,
}

impl<P: Platform> Held<P> {
    fn first(xrcdn: u32) -> Self {
        Held {
            xrcdn,
            claims: 1,
            objects: Vec::new(),
        }
    }
}

/// A context's part in a target.
pub struct Target {
    qpn: Qpn,
    xrcd: ObjectId,
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let xrcd = call.require_object(qp::XRCD)?;
    let Some(Payload::Xrcd(domain)) = xrcd.payload() else {
        unreachable!("the attribute takes XRC domains only")
    };
    let given = Given::read(call)?;
    if let Some(number) = call.get(qp::OPEN)? {
        if given.mask != 0 {
            return Err(call.fail(qp::OPEN, Errno::EINVAL, Reason::CONFLICT));
        }
        return open(call, &xrcd, domain.xrcdn, number);
    }
    qp_attrs::check_way(call, QpType::XRC_TGT, &given)?;
    let reservation = call.reserve()?;
    let request = CreateQpReq {
        qp_type: QpType::XRC_TGT,
        eqn: hardware.events[0].eqn,
        xrcdn: domain.xrcdn,
        ..CreateQpReq::new_zeroed()
    };
    let response: HandleRsp = hardware.command(Opcode::CREATE_QP, &request)?;
    let qpn = Qpn::truncate(response.handle);
    let target = Target { qpn, xrcd: xrcd.id() };
    let object = call.publish(reservation, Some(Payload::Target(target)), &[&xrcd]);
    // From here on the dispatcher ends the target if anything fails.
    hardware
        .targets
        .lock()
        .insert(Kind::Qp, response.handle, Held::first(domain.xrcdn))?;
    hold(hardware, qpn, object)?;
    if given.attrs.state != QpState::RESET.0 {
        // All the way in one command.
        let mut attrs = given.attrs;
        attrs.cur_state = QpState::RESET.0;
        let mask = given.mask | attr::CUR_STATE;
        transition(call, &ModifyQpReq { qpn, mask, attrs })?;
    }
    call.put(qp::QPN, &qpn.get())
}

pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Target(target) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let given = Given::read(call)?;
    let request = ModifyQpReq {
        qpn: target.qpn,
        mask: given.mask,
        attrs: given.attrs,
    };
    transition(call, &request)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Target(target) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (qpn, xrcd) = (target.qpn, target.xrcd);
    let request = HandleReq {
        handle: qpn.get(),
        reserved: 0,
    };
    let state: QueryQpRsp = call.device().command(Opcode::QUERY_QP, &request)?;
    call.put(qp::XRCD, &xrcd)?;
    call.put(qp::QPN, &qpn.get())?;
    qp_attrs::answer(call, &state.attrs)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Target(target)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (hardware, qpn) = (ending.device(), target.qpn.get());
    let last = {
        let mut all = hardware.targets.lock();
        match all.get_mut(Kind::Qp, qpn) {
            Some(held) if held.claims > 1 => {
                held.claims -= 1;
                let at = held.objects.iter().position(|object| eq(&**object, ending.object));
                let left = at.map(|at| held.objects.swap_remove(at));
                drop(all);
                // Outside the lock.
                drop(left);
                return Ok(());
            }
            // From here on nobody opens it, and no event finds it.
            _ => all.remove(Kind::Qp, qpn),
        }
    };
    let ended = end(ending, Opcode::DESTROY_QP, qpn);
    match (&ended, last) {
        (Err(CommandError::Refused { .. }), Some(held)) => {
            if hardware.targets.lock().insert(Kind::Qp, qpn, held).is_err() {
                hardware
                    .platform
                    .log(format_args!("no memory: target {qpn:#x} lives on without events"));
            }
        }
        _ => drain(ending.context.device()),
    }
    Ok(ended?)
}

/// Makes an object of a target that is there.
fn open<P: Platform>(call: &mut Handling<'_, P>, xrcd: &Reference<P>, xrcdn: u32, number: u32) -> Outcome {
    let hardware = call.device();
    let missing = |call: &Handling<'_, P>| call.fail(qp::OPEN, Errno::ENOENT, Reason::NO_OBJECT);
    let Some(qpn) = Qpn::new(number) else {
        return Err(missing(call));
    };
    let reservation = call.reserve()?;
    // One of another domain is none.
    match hardware.targets.lock().get_mut(Kind::Qp, number) {
        Some(held) if held.xrcdn == xrcdn => held.claims += 1,
        _ => return Err(missing(call)),
    }
    let target = Target { qpn, xrcd: xrcd.id() };
    // From here on the dispatcher ends it if anything fails, and with it the claim.
    let object = call.publish(reservation, Some(Payload::Target(target)), &[xrcd]);
    hold(hardware, qpn, object)?;
    call.put(qp::QPN, &number)
}

/// Lets events of a target find one more of its objects.
fn hold<P: Platform>(hardware: &Hardware<P>, qpn: Qpn, object: Arc<Object<Verbena<P>>>) -> Result<(), NoMemory> {
    match hardware.targets.lock().get_mut(Kind::Qp, qpn.get()) {
        Some(held) => held.objects.push(object),
        None => Ok(()),
    }
}

/// Brings an event of a target to all its objects.
pub(crate) fn post<P: Platform>(hardware: &Hardware<P>, eqe: &Eqe, kind: u16) {
    // Posted outside the lock, as to other objects. Targets have no cookie: what has one is a former queue pair's.
    let mut objects = Vec::new();
    if let Some(held) = hardware.targets.lock().get(Kind::Qp, eqe.number) {
        if eqe.cookie != 0 || objects.reserve(held.objects.len()).is_err() {
            return;
        }
        for object in held.objects.iter() {
            let pushed = objects.push(object.clone());
            debug_assert!(pushed.is_ok(), "there was room for it");
        }
    }
    for object in objects.iter() {
        object.post(kind, eqe.data);
    }
}
