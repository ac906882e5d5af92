// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Address handles: a checked path, kept. The device knows nothing of them: a datagram's address is in its work request.

use crate::driver::{Handling, Payload};
use crate::platform::Platform;
use crate::qp_attrs::checked_path;
use crate::Verbena;
use rdma_uapi::class::ah::{PATH, PD, PORT};
use rdma_uapi::class::qp;
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::ObjectId;
use rdma_uapi::Ending;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{QueryGidReq, QueryGidRsp};

/// An address handle.
pub struct Ah {
    path: qp::Path,
    port: u8,
    pd: ObjectId,
}

impl Ah {
    /// The path, which has been checked.
    pub(crate) fn path(&self) -> qp::Path {
        self.path
    }
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let pd = call.require_object(PD)?;
    let port = call.get(PORT)?.unwrap_or(1);
    if port == 0 || port > call.device().limits.ports {
        return Err(call.out_of_range(PORT));
    }
    let path = call.require(PATH)?;
    let checked = checked_path(call, PATH, &path, port as u8)?;
    if checked.dgid.is_zero() || checked.sl > 15 {
        return Err(call.out_of_range(PATH));
    }
    let index = u32::from(checked.sgid_index);
    if index >= call.device().limits.gid_table_len {
        return Err(call.out_of_range(PATH));
    }
    let own: QueryGidRsp = call
        .device()
        .command(Opcode::QUERY_GID, &QueryGidReq { index, reserved: 0 })?;
    if own.gid.is_zero() {
        return Err(call.out_of_range(PATH));
    }
    let reservation = call.reserve()?;
    let handle = Ah {
        path,
        port: port as u8,
        pd: pd.id(),
    };
    call.publish(reservation, Some(Payload::Ah(handle)), &[&pd]);
    Ok(())
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Ah(handle) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let (path, port, pd) = (handle.path, u32::from(handle.port), handle.pd);
    call.put(PD, &pd)?;
    call.put(PATH, &path)?;
    call.put(PORT, &port)
}

pub(crate) fn release<P: Platform>(_: &Ending<'_, Verbena<P>>) -> Outcome {
    Ok(())
}
