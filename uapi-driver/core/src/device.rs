// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! DEVICE and PORT: what the device is, its limits, its tables, its own account of its state.

use crate::driver::Handling;
use crate::hardware::Hardware;
use crate::mr;
use crate::platform::{Dma, Platform};
use crate::ring_memory;
use crate::schema::{EventRingState, DUMP, EVENT_RINGS, RING_GRAIN};
use rdma_uapi::class::device::{DeviceAttrs, ATTRS, CLOCK, NAME};
use rdma_uapi::class::port::{self, gid_type, link_layer, Counter, GidEntry, PortAttrs};
use rdma_uapi::failure::Outcome;
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{
    DumpReq, DumpRsp, HandleReq, ModifyPortReq, QueryClockRsp, QueryCountersReq, QueryCountersRsp, QueryEqRsp,
    QueryPortRsp, COUNTERS, COUNTERS_AT_ONCE, DUMP_ALL,
};
use verbena_hw::qp::{Mtu, QpType};
use verbena_hw::ring::PageList;
use verbena_hw::wqe::SendOpcode;
use verbena_hw::{cqe, pci, wqe};
use zerocopy::IntoBytes;

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    if call.has(ATTRS) {
        call.put(ATTRS, &attributes(hardware))?;
    }
    call.put_text(NAME, hardware.platform.name())?;
    if call.has(CLOCK) {
        let now: QueryClockRsp = hardware.command(Opcode::QUERY_CLOCK, &())?;
        call.put(CLOCK, &now.clock)?;
    }
    if call.has(DUMP) {
        dump(call)?;
    }
    if call.has(EVENT_RINGS) {
        event_rings(call)?;
    }
    call.put(RING_GRAIN, &ring_memory::least_grain(hardware))?;
    call.replaced()
}

fn attributes<P: Platform>(hardware: &Hardware<P>) -> DeviceAttrs {
    let limits = &hardware.limits;
    let atomics = 1 << SendOpcode::COMPARE_SWAP.0 | 1 << SendOpcode::FETCH_ADD.0;
    DeviceAttrs {
        fw_version: version_number(&limits.fw_version),
        node_guid: u64::from_be_bytes(limits.node_guid),
        sys_image_guid: u64::from_be_bytes(limits.node_guid),
        max_mr_size: limits.max_mr_size,
        page_size_cap: limits.page_size_cap,
        hca_core_clock: u64::from(limits.timestamp_khz),
        vendor_id: u32::from(pci::VENDOR_ID),
        vendor_part_id: u32::from(pci::DEVICE_ID),
        hw_version: u32::from(pci::REVISION),
        ports: limits.ports,
        max_qp: limits.max_qp,
        max_qp_wr: limits.max_qp_wr.min(1 << wqe::MAX_LOG_ENTRIES),
        max_sge: limits.max_sge,
        max_sge_rd: limits.max_sge,
        max_inline: limits.max_inline,
        max_cq: limits.max_cq,
        max_cqe: limits.max_cqe.min(1 << cqe::MAX_LOG_ENTRIES),
        max_mr: limits.max_mr,
        max_pd: limits.max_pd,
        max_qp_rd_atom: limits.max_qp_rd_atom,
        max_res_rd_atom: limits.max_qp_rd_atom.saturating_mul(limits.max_qp),
        max_qp_init_rd_atom: limits.max_qp_init_rd_atom,
        // 1: atomic among the HCA's own operations (enum ibv_atomic_cap).
        atomic_cap: u32::from(limits.rc_opcodes & atomics == atomics),
        max_raw_ethy_qp: if limits.qp_types & 1 << QpType::RAW.0 != 0 {
            limits.max_qp
        } else {
            0
        },
        // Their keys stand in one table with the regions'.
        max_mw: limits.max_mr,
        max_srq: limits.max_srq,
        max_xrcd: limits.max_xrcd,
        max_srq_wr: limits.max_qp_wr.min(1 << wqe::MAX_LOG_ENTRIES),
        max_srq_sge: limits.max_sge,
        max_pkeys: limits.pkey_table_len,
        local_ca_ack_delay: limits.local_ack_delay,
        comp_vectors: hardware.completion_vectors(),
        max_fast_reg_pages: mr::max_fast_elements(limits),
        max_moderation_count: cqe::MAX_MODERATION,
        max_moderation_period: cqe::MAX_MODERATION,
        qp_rate_limit_min: limits.rate_limit_min,
        qp_rate_limit_max: limits.rate_limit_max,
        ..DeviceAttrs::default()
    }
}

/// "1.2.3" as a number: major in the upper 32 bits, minor and sub-minor in 16 each.
fn version_number(text: &[u8]) -> u64 {
    let mut parts = text.split(|&byte| byte == b'.' || byte == 0).map(|part| {
        let digits = part.iter().take_while(|byte| byte.is_ascii_digit()).take(4);
        digits.fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'))
    });
    let mut next = || parts.next().unwrap_or(0);
    next() << 32 | next() << 16 | next()
}

/// The first try's room for the text.
const DUMP_ROOM: u64 = 256 << 10;
/// The most that is tried: what a kernel finds in one stretch.
const DUMP_MOST: u64 = 4 << 20;

fn dump<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let mut room = DUMP_ROOM;
    let (buffer, written) = loop {
        let buffer = hardware
            .platform
            .alloc_dma(room as usize)
            .map_err(|errno| Failure::new(errno, Reason::NO_MEMORY))?;
        let len = buffer.len() as u64;
        let request = DumpReq {
            pages: PageList::direct(buffer.addr(), len),
            len,
            select: DUMP_ALL,
            number: 0,
        };
        match hardware.command::<_, DumpRsp>(Opcode::DUMP, &request) {
            Ok(response) => break (buffer, response.len),
            // The state may have grown since; it does not grow by as much again between two commands.
            Err(error) if error.is(Status::BUFFER_TOO_SMALL) && room < DUMP_MOST => room = (room * 4).min(DUMP_MOST),
            Err(error) => return Err(error.into()),
        }
    };
    let written = usize::try_from(written).unwrap_or(usize::MAX).min(buffer.len());
    if let Some(mut answer) = call.stream(DUMP) {
        let mut piece = [0; 512];
        for at in (0..written).step_by(piece.len()) {
            buffer.read(at, &mut piece);
            answer.push(&piece[..piece.len().min(written - at)])?;
        }
        answer.finish();
    }
    Ok(())
}

/// What each event queue is like, from one command each.
fn event_rings<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    if let Some(mut answer) = call.stream(EVENT_RINGS) {
        for ring in hardware.events.iter() {
            let request = HandleReq {
                handle: ring.eqn.0,
                reserved: 0,
            };
            let state: QueryEqRsp = hardware.command(Opcode::QUERY_EQ, &request)?;
            let ring = EventRingState {
                raised: state.raised,
                eqn: ring.eqn.0,
                vector: state.vector.into(),
                entries: state.entries,
                producer: state.producer,
                consumer: state.consumer,
                waiting: state.waiting,
                users: state.users,
                armed: u32::from(state.armed != 0),
                reserved: 0,
            };
            answer.push(ring.as_bytes())?;
        }
        answer.finish();
    }
    Ok(())
}

/// There is such a port.
fn check_port<P: Platform>(call: &Handling<'_, P>) -> Outcome {
    if call.number() == 0 || call.number() > call.device().limits.ports {
        return Err(Failure::new(Errno::ENOENT, Reason::NO_OBJECT).at(rdma_uapi::wire::FIELD_OBJECT, 4));
    }
    Ok(())
}

pub(crate) fn modify_port<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    check_port(call)?;
    // The numbers of IBA's PortState, on both sides.
    let state = call.require(port::STATE)?;
    if !matches!(state, port::state::DOWN | port::state::ACTIVE) {
        return Err(call.out_of_range(port::STATE));
    }
    let request = ModifyPortReq { state, reserved: 0 };
    call.device().command::<_, ()>(Opcode::MODIFY_PORT, &request)?;
    Ok(())
}

pub(crate) fn query_port<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    check_port(call)?;
    let hardware = call.device();
    if call.has(port::ATTRS) || call.has(port::PKEYS) {
        let state: QueryPortRsp = hardware.command(Opcode::QUERY_PORT, &())?;
        call.put(port::ATTRS, &port_attributes(hardware, &state))?;
        call.put_array(port::PKEYS, &[state.pkey])?;
    }
    if let Some(mut answer) = call.stream(port::GIDS) {
        let count = hardware.limits.gid_table_len.min(u32::from(u16::MAX));
        hardware.gids(count, |index, gid| {
            if gid.is_zero() {
                return Ok(());
            }
            let gid_type = gid_type::ROCE_V2;
            let entry = GidEntry {
                gid: gid.0,
                index: index as u16,
                gid_type,
                reserved: 0,
            };
            answer.push(entry.as_bytes())
        })?;
        answer.finish();
    }
    if let Some(mut answer) = call.stream(port::COUNTERS) {
        for (round, names) in COUNTERS.chunks(COUNTERS_AT_ONCE).enumerate() {
            let request = QueryCountersReq {
                first: (round * COUNTERS_AT_ONCE) as u32,
                reserved: 0,
            };
            let response: QueryCountersRsp = hardware.command(Opcode::QUERY_COUNTERS, &request)?;
            for (text, value) in names.iter().zip(response.values) {
                let mut counter = Counter {
                    value,
                    ..Counter::default()
                };
                counter.name[..text.len()].copy_from_slice(text.as_bytes());
                answer.push(counter.as_bytes())?;
            }
        }
        answer.finish();
    }
    Ok(())
}

fn port_attributes<P: Platform>(hardware: &Hardware<P>, state: &QueryPortRsp) -> PortAttrs {
    let mtu = |code| Mtu(code).bytes().unwrap_or(0);
    PortAttrs {
        // The numbers of IBA's PortState, on both sides.
        state: state.state,
        max_mtu: mtu(state.max_mtu),
        active_mtu: mtu(state.active_mtu),
        link_layer: link_layer::ETHERNET,
        gid_entries: hardware.limits.gid_table_len,
        pkey_entries: hardware.limits.pkey_table_len,
        max_message: hardware.limits.max_msg,
        speed: state.speed_mbps,
        bad_pkeys: state.pkey_violations,
        qkey_violations: state.qkey_violations,
        ..PortAttrs::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u08_a_version_text_becomes_a_number() {
        assert_eq!(version_number(b"1.2.3\0\0"), 1 << 32 | 2 << 16 | 3);
        assert_eq!(version_number(b"10.20\0"), 10 << 32 | 20 << 16);
        assert_eq!(version_number(b"0.1.0-dev\0"), 1 << 16);
        assert_eq!(version_number(&[0; 32]), 0);
    }
}
