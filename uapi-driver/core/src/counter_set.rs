// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Counter sets. Who is bound to which is the device's knowledge alone.

use crate::driver::{end, Handling, Payload};
use crate::platform::Platform;
use crate::Verbena;
use rdma_uapi::class::counter_set::{BIND, COUNTERS, MEMBERS, UNBIND};
use rdma_uapi::class::port::Counter;
use rdma_uapi::failure::Outcome;
use rdma_uapi::Ending;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{BindCounterReq, HandleReq, HandleRsp, QueryCounterRsp, SET_COUNTERS};
use zerocopy::IntoBytes;

/// A counter set.
pub struct CounterSet {
    number: u32,
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let reservation = call.reserve()?;
    let response: HandleRsp = call.device().command(Opcode::CREATE_COUNTER, &())?;
    let set = CounterSet {
        number: response.handle,
    };
    call.publish(reservation, Some(Payload::CounterSet(set)), &[]);
    Ok(())
}

fn number<P: Platform>(call: &Handling<'_, P>) -> u32 {
    match call.payload() {
        Payload::CounterSet(set) => set.number,
        _ => unreachable!("the dispatcher checked the class"),
    }
}

pub(crate) fn modify<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let number = number(call);
    for (attr, counter) in [(BIND, number), (UNBIND, 0)] {
        // Held until the device has done it.
        let Some(queue_pair) = call.object_at(attr)? else {
            continue;
        };
        let Some(Payload::Qp(qp)) = queue_pair.payload() else {
            unreachable!("the attribute takes queue pairs only")
        };
        let request = BindCounterReq { qpn: qp.qpn, counter };
        call.device().command::<_, ()>(Opcode::BIND_COUNTER, &request)?;
    }
    Ok(())
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let request = HandleReq {
        handle: number(call),
        reserved: 0,
    };
    let state: QueryCounterRsp = call.device().command(Opcode::QUERY_COUNTER, &request)?;
    call.put(MEMBERS, &state.members)?;
    if let Some(mut answer) = call.stream(COUNTERS) {
        for (text, value) in SET_COUNTERS.iter().zip(state.values) {
            let mut counter = Counter {
                value,
                ..Counter::default()
            };
            counter.name[..text.len()].copy_from_slice(text.as_bytes());
            answer.push(counter.as_bytes())?;
        }
        answer.finish();
    }
    Ok(())
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::CounterSet(set)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    Ok(end(ending, Opcode::DESTROY_COUNTER, set.number)?)
}
