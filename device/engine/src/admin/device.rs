// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the device and its port.

use crate::admin::memory::page_failure;
use crate::admin::{Failure, Reply};
use crate::counters::Counter;
use crate::dump::{HcaDump, Select};
use crate::env::{Dma, Env};
use crate::hca::{Cx, Hca, Port, MTU, PORT};
use crate::limits;
use crate::pages;
use crate::qp::message::RC_OPCODES;
use crate::ram;
use core::mem::offset_of;
use verbena_hw::admin::Status;
use verbena_hw::cmd::{
    self, DumpReq, DumpRsp, ModifyPortReq, QueryClockRsp, QueryCountersReq, QueryCountersRsp, QueryDeviceRsp,
    QueryGidReq, QueryGidRsp, QueryPortRsp, SetGidReq,
};
use verbena_hw::eqe::Event;
use verbena_hw::ring::PageList;
use verbena_hw::{cqe, doorbell, pci, regs, wqe};

/// The only P_Key: the default one, full member (IBA vol. 1, 10.9.2).
const PKEY: u16 = 0xffff;

/// QUERY_CLOCK.
pub(crate) fn query_clock<E: Env>(cx: &Cx<'_, E>) -> Reply {
    Reply::new(&QueryClockRsp {
        clock: cx.now.as_nanos(),
    })
}

/// QUERY_DEVICE.
pub(crate) fn query_device(hca: &Hca) -> Reply {
    let mut fw_version = [0; 32];
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    fw_version[..version.len()].copy_from_slice(version);
    Reply::new(&QueryDeviceRsp {
        node_guid: hca.config.node_guid,
        fw_version,
        max_pd: limits::PDS,
        max_mr: limits::MRS,
        max_mr_size: limits::MR_SIZE,
        page_size_cap: 1 << PageList::SHIFT_4K | 1 << PageList::SHIFT_2M | 1 << PageList::SHIFT_1G,
        max_qp: limits::QPS,
        max_qp_wr: limits::QP_ENTRIES,
        max_cq: limits::CQS,
        max_cqe: 1 << cqe::MAX_LOG_ENTRIES,
        max_eq: regs::EVENT_QUEUES,
        max_doorbell: doorbell::PAGES,
        max_sge: wqe::MAX_SGE.into(),
        max_inline: wqe::MAX_INLINE.into(),
        max_qp_rd_atom: limits::RD_ATOMIC.into(),
        max_qp_init_rd_atom: limits::RD_ATOMIC.into(),
        qp_types: limits::QP_TYPES,
        gid_table_len: limits::GIDS as u32,
        pkey_table_len: 1,
        ports: PORT.into(),
        vectors: pci::MSIX_VECTORS.into(),
        // Nothing between two ends of a local connection delays an acknowledgement.
        local_ack_delay: 0,
        rc_opcodes: RC_OPCODES,
        max_msg: wqe::MAX_MESSAGE as u32,
        // The device's clock counts nanoseconds.
        timestamp_khz: 1_000_000,
        max_srq: limits::SRQS,
        max_xrcd: limits::XRCDS,
        max_counter_sets: limits::COUNTER_SETS,
        max_flow: limits::FLOWS,
        max_flow_groups: limits::FLOW_GROUPS as u32,
        max_fast_elements: wqe::MAX_FAST_ELEMENTS,
        rate_limit_min: verbena_hw::qp::RATE_LIMIT_MIN,
        rate_limit_max: verbena_hw::qp::RATE_LIMIT_MAX,
        reserved: 0,
    })
}

/// QUERY_PORT.
pub(crate) fn query_port(hca: &Hca) -> Reply {
    Reply::new(&QueryPortRsp {
        state: if hca.port_is_active() {
            regs::PORT_ACTIVE
        } else {
            regs::PORT_DOWN
        },
        max_mtu: MTU.0,
        active_mtu: MTU.0,
        reserved0: 0,
        mac: hca.config.mac,
        pkey: PKEY,
        speed_mbps: 0,
        pkey_violations: hca.counters.of(Counter::PkeyViolations) as u32,
        qkey_violations: hca.counters.of(Counter::QkeyViolations) as u32,
        reserved1: 0,
    })
}

/// MODIFY_PORT.
pub(crate) fn modify_port<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &ModifyPortReq) -> Result<Reply, Failure> {
    if req.reserved != 0 {
        return Err(Failure::reserved(offset_of!(ModifyPortReq, reserved) as u32));
    }
    let admin = match req.state {
        regs::PORT_ACTIVE => true,
        regs::PORT_DOWN => false,
        _ => return Err(Failure::bad_field(offset_of!(ModifyPortReq, state) as u32)),
    };
    hca.set_port(cx, Port { admin, ..hca.port });
    Ok(Reply::empty())
}

/// SET_GID.
pub(crate) fn set_gid<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &SetGidReq) -> Result<Reply, Failure> {
    if req.reserved != 0 {
        return Err(Failure::reserved(offset_of!(SetGidReq, reserved) as u32));
    }
    let index = req.index as usize;
    if index == 0 || index >= hca.gids.len() {
        return Err(Failure::bad_field(offset_of!(SetGidReq, index) as u32));
    }
    let old = hca.gids[index];
    if old == req.gid {
        return Ok(Reply::empty());
    }
    if !req.gid.is_zero() && !cx.fabric.claim(req.gid, hca.id) {
        let own = hca.gids.iter().position(|gid| *gid == req.gid);
        return Err(Failure {
            status: Status::DUPLICATE_GID,
            // Whose it is, if not its own, is nobody's business here.
            detail: own.map_or(u32::MAX, |index| index as u32),
        });
    }
    if !old.is_zero() {
        cx.fabric.release(&old);
    }
    hca.gids[index] = req.gid;
    hca.raise_default(cx, Event::GID_CHANGE, PORT.into(), 0);
    Ok(Reply::empty())
}

/// QUERY_GID.
pub(crate) fn query_gid(hca: &Hca, req: &QueryGidReq) -> Result<Reply, Failure> {
    if req.reserved != 0 {
        return Err(Failure::reserved(offset_of!(QueryGidReq, reserved) as u32));
    }
    let gid = *hca
        .gids
        .get(req.index as usize)
        .ok_or(Failure::bad_field(offset_of!(QueryGidReq, index) as u32))?;
    Ok(Reply::new(&QueryGidRsp { gid }))
}

/// QUERY_COUNTERS.
pub(crate) fn query_counters(hca: &Hca, req: &QueryCountersReq) -> Result<Reply, Failure> {
    if req.reserved != 0 {
        return Err(Failure::reserved(offset_of!(QueryCountersReq, reserved) as u32));
    }
    let all = hca.counters.values();
    let asked = usize::try_from(req.first).ok().and_then(|first| all.get(first..));
    let asked = asked.ok_or(Failure::bad_field(offset_of!(QueryCountersReq, first) as u32))?;
    let mut values = [0; cmd::COUNTERS_AT_ONCE];
    for (value, counter) in values.iter_mut().zip(asked) {
        *value = *counter;
    }
    Ok(Reply::new(&QueryCountersRsp { values }))
}

/// DUMP.
pub(crate) fn dump<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, req: &DumpReq) -> Result<Reply, Failure> {
    let select = match (req.select, req.number) {
        (cmd::DUMP_ALL, 0) => Select::All,
        (cmd::DUMP_ALL, _) => return Err(Failure::bad_field(offset_of!(DumpReq, number) as u32)),
        (cmd::DUMP_QP, number) => Select::Qp(number),
        (cmd::DUMP_CQ, number) => Select::Cq(number),
        (cmd::DUMP_MR, number) => Select::Mr(number),
        (cmd::DUMP_SRQ, number) => Select::Srq(number),
        _ => return Err(Failure::bad_field(offset_of!(DumpReq, select) as u32)),
    };
    if req.len == 0 || req.len > limits::DUMP_SIZE {
        return Err(Failure::bad_field(offset_of!(DumpReq, len) as u32));
    }
    const PAGES: u32 = offset_of!(DumpReq, pages) as u32;
    let at = pages::read_at_once(cx.env.ram(hca.id), req.pages, req.len, Dma::Write, limits::EXTENTS)
        .map_err(|fault| page_failure(fault, PAGES))?;
    let dump = HcaDump::new(hca, cx.env.ram(hca.id), select, cx.now)
        .ok_or(Failure::no_such_object(offset_of!(DumpReq, number) as u32))?;
    let text = serde_json::to_vec(&dump).expect("a dump has only string keys and no failing serialiser");
    if text.len() as u64 > req.len {
        return Err(Failure {
            status: Status::BUFFER_TOO_SMALL,
            detail: u32::try_from(text.len()).unwrap_or(u32::MAX),
        });
    }
    let mut done = 0;
    while done < text.len() {
        let (addr, run) = at.locate(done as u64, req.len);
        let n = (text.len() - done).min(usize::try_from(run).unwrap_or(usize::MAX));
        ram::write(cx.env.ram(hca.id), addr, &text[done..done + n]).map_err(|_| Failure::bad_address(PAGES))?;
        done += n;
    }
    Ok(Reply::new(&DumpRsp { len: text.len() as u64 }))
}
