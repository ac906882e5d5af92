// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which opcode is which function.

use crate::admin::memory::{self, Registration};
use crate::admin::{counter, cq, device, doorbell, eq, flow, multicast, mw, objects, pd, srq, xrcd, Failure, Reply};
use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::qp::modify;
use verbena_hw::admin::{Command, Opcode, Status, LINK_BEGIN};
use zerocopy::FromBytes;

/// What became of a command.
pub(crate) enum Executed {
    /// It is complete.
    Now(Result<Reply, Failure>),
    /// It goes on.
    Started(Registration),
}

/// [`Failure::detail`] for the reserved fields of the command itself, which stand before any request.
pub(crate) const IN_HEADER: u32 = u32::MAX;

/// The request of a command: its type's bytes, and zeros to the payload's end.
fn request<T: FromBytes>(command: &Command) -> Result<T, Failure> {
    let unlinked = command.link == 0 && command.flags != 0;
    if command.reserved0 != 0 || command.reserved1 != 0 || command.flags & !LINK_BEGIN != 0 || unlinked {
        return Err(Failure::reserved(IN_HEADER));
    }
    let (request, rest) =
        T::read_from_prefix(&command.payload[..]).expect("every request fits the payload: asserted by verbena-hw");
    match rest.iter().position(|&byte| byte != 0) {
        Some(at) => Err(Failure::reserved((size_of::<T>() + at) as u32)),
        None => Ok(request),
    }
}

/// Whether the command may go on over several polls.
pub(crate) fn takes_time(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::CREATE_MR | Opcode::MODIFY_MR)
}

/// Executes a command, or begins to.
pub(crate) fn execute<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, command: &Command) -> Executed {
    let begun = match command.opcode {
        Opcode::CREATE_MR => request(command).and_then(|req| memory::create(hca, &req)),
        Opcode::MODIFY_MR => request(command).and_then(|req| memory::modify(hca, &req)),
        _ => return Executed::Now(at_once(hca, cx, command)),
    };
    begun.unwrap_or_else(|failure| Executed::Now(Err(failure)))
}

fn at_once<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, command: &Command) -> Result<Reply, Failure> {
    match command.opcode {
        Opcode::NOP => request::<[u8; 0]>(command).map(|_| Reply::empty()),
        Opcode::QUERY_DEVICE => request::<[u8; 0]>(command).map(|_| device::query_device(hca)),
        Opcode::QUERY_PORT => request::<[u8; 0]>(command).map(|_| device::query_port(hca)),
        Opcode::MODIFY_PORT => device::modify_port(hca, cx, &request(command)?),
        Opcode::SET_GID => device::set_gid(hca, cx, &request(command)?),
        Opcode::QUERY_GID => device::query_gid(hca, &request(command)?),
        Opcode::QUERY_COUNTERS => device::query_counters(hca, &request(command)?),
        Opcode::QUERY_CLOCK => request::<[u8; 0]>(command).map(|_| device::query_clock(cx)),
        Opcode::DUMP => device::dump(hca, cx, &request(command)?),

        Opcode::CREATE_PD => request::<[u8; 0]>(command).and_then(|_| pd::create(hca)),
        Opcode::DESTROY_PD => pd::destroy(hca, &request(command)?),
        Opcode::QUERY_PD => pd::query(hca, &request(command)?),
        Opcode::CREATE_XRCD => request::<[u8; 0]>(command).and_then(|_| xrcd::create(hca)),
        Opcode::DESTROY_XRCD => xrcd::destroy(hca, &request(command)?),
        Opcode::QUERY_XRCD => xrcd::query(hca, &request(command)?),
        Opcode::CREATE_DOORBELL => doorbell::create(hca, cx, &request(command)?),
        Opcode::DESTROY_DOORBELL => doorbell::destroy(hca, &request(command)?),
        Opcode::QUERY_DOORBELL => doorbell::query(hca, &request(command)?),
        Opcode::CREATE_EQ => eq::create(hca, cx, &request(command)?),
        Opcode::DESTROY_EQ => eq::destroy(hca, &request(command)?),
        Opcode::QUERY_EQ => eq::query(hca, &request(command)?),
        Opcode::CREATE_CQ => objects::create_cq(hca, cx, &request(command)?),
        Opcode::DESTROY_CQ => objects::destroy_cq(hca, cx, &request(command)?),
        Opcode::MODIFY_CQ => cq::modify(hca, cx, &request(command)?),
        Opcode::QUERY_CQ => objects::query_cq(hca, cx, &request(command)?),

        Opcode::DESTROY_MR => memory::destroy(hca, &request(command)?),
        Opcode::QUERY_MR => memory::query(hca, &request(command)?),

        Opcode::REVOKE_MR => memory::revoke(hca, &request(command)?),

        Opcode::CREATE_MW => mw::create(hca, &request(command)?),
        Opcode::DESTROY_MW => mw::destroy(hca, &request(command)?),
        Opcode::BIND_MW => mw::bind(hca, &request(command)?),
        Opcode::QUERY_MW => mw::query(hca, &request(command)?),

        Opcode::CREATE_SRQ => srq::create(hca, cx, &request(command)?),
        Opcode::DESTROY_SRQ => srq::destroy(hca, &request(command)?),
        Opcode::MODIFY_SRQ => srq::modify(hca, cx, &request(command)?),
        Opcode::QUERY_SRQ => srq::query(hca, &request(command)?),

        Opcode::CREATE_QP => objects::create_qp(hca, cx, &request(command)?),
        Opcode::DESTROY_QP => objects::destroy_qp(hca, cx, &request(command)?),
        Opcode::MODIFY_QP => modify::modify(hca, cx, &request(command)?),
        Opcode::QUERY_QP => objects::query_qp(hca, &request(command)?),
        Opcode::ATTACH_MCAST => multicast::attach(hca, cx, &request(command)?),
        Opcode::DETACH_MCAST => multicast::detach(hca, cx, &request(command)?),
        Opcode::QUERY_MCAST => multicast::query(hca, cx, &request(command)?),

        Opcode::CREATE_FLOW => flow::create(hca, &request(command)?),
        Opcode::DESTROY_FLOW => flow::destroy(hca, &request(command)?),
        Opcode::QUERY_FLOW => flow::query(hca, &request(command)?),

        Opcode::CREATE_COUNTER => request::<[u8; 0]>(command).and_then(|_| counter::create(hca)),
        Opcode::DESTROY_COUNTER => counter::destroy(hca, &request(command)?),
        Opcode::QUERY_COUNTER => counter::query(hca, &request(command)?),
        Opcode::BIND_COUNTER => counter::bind(hca, &request(command)?),
        Opcode(unknown) => Err(Failure {
            status: Status::BAD_OPCODE,
            detail: unknown.into(),
        }),
    }
}
