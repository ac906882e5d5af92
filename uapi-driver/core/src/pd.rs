// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Protection domains.

use crate::driver::{end, Handling, Payload};
use crate::platform::Platform;
use crate::Verbena;
use rdma_uapi::class::pd::{PdMembers, MEMBERS, PDN};
use rdma_uapi::failure::Outcome;
use rdma_uapi::Ending;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{HandleReq, HandleRsp, QueryPdRsp};
use verbena_hw::id::Pdn;

/// A protection domain.
pub struct Pd {
    pub(crate) pdn: Pdn,
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let reservation = call.reserve()?;
    let response: HandleRsp = call.device().command(Opcode::CREATE_PD, &())?;
    call.publish(
        reservation,
        Some(Payload::Pd(Pd {
            pdn: Pdn(response.handle),
        })),
        &[],
    );
    call.put(PDN, &response.handle)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Pd(pd) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let pdn = pd.pdn.0;
    if call.has(MEMBERS) {
        let request = HandleReq {
            handle: pdn,
            reserved: 0,
        };
        let state: QueryPdRsp = call.device().command(Opcode::QUERY_PD, &request)?;
        let members = PdMembers {
            queue_pairs: state.qps,
            srqs: state.srqs,
            regions: state.mrs,
            windows: state.mws,
        };
        call.put(MEMBERS, &members)?;
    }
    call.put(PDN, &pdn)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Pd(pd)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    Ok(end(ending, Opcode::DESTROY_PD, pd.pdn.0)?)
}
