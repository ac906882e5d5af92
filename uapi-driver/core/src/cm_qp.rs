// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A queue pair on its way through its states, as a connection's terms say.

use crate::admin::CommandError;
use crate::hardware::Hardware;
use crate::platform::Platform;
use rdma_cm::Terms;
use rdma_uapi::failure::Outcome;
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{HandleReq, ModifyQpReq, QueryQpRsp};
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::qp::{attr, Path, QpAttrs, QpState};

/// What a queue pair's way takes beside the terms.
pub(crate) struct Way {
    pub(crate) qpn: Qpn,
    pub(crate) access: u32,
    pub(crate) min_rnr_timer: u8,
    pub(crate) sgid_index: u8,
    pub(crate) dgid: Gid,
}

fn modify<P: Platform>(
    hardware: &Hardware<P>,
    qpn: Qpn,
    state: QpState,
    mask: u32,
    attrs: QpAttrs,
) -> Result<(), CommandError> {
    let request = ModifyQpReq {
        qpn,
        mask: mask | attr::STATE,
        attrs: QpAttrs {
            state: state.0,
            ..attrs
        },
    };
    hardware.command(Opcode::MODIFY_QP, &request)
}

/// Moves a queue pair from RESET to INIT; one that is in INIT stays there.
///
/// # Errors
///
/// It is in another state; the device is gone.
pub(crate) fn initialise<P: Platform>(hardware: &Hardware<P>, qpn: Qpn, access: u32) -> Outcome {
    let request = HandleReq {
        handle: qpn.get(),
        reserved: 0,
    };
    let now: QueryQpRsp = hardware.command(Opcode::QUERY_QP, &request)?;
    match QpState(now.attrs.state) {
        QpState::INIT => Ok(()),
        QpState::RESET => {
            let attrs = QpAttrs {
                access,
                path: Path {
                    port: 1,
                    ..Path::default()
                },
                ..QpAttrs::default()
            };
            let mask = attr::PKEY_INDEX | attr::PORT | attr::ACCESS_FLAGS;
            Ok(modify(hardware, qpn, QpState::INIT, mask, attrs)?)
        }
        _ => Err(Failure::new(Errno::EINVAL, Reason::BAD_STATE)),
    }
}

/// Moves a queue pair from INIT to RTS.
///
/// # Errors
///
/// The device does not accept the terms, or is gone. The queue pair is to be moved to ERR then.
pub(crate) fn make_ready<P: Platform>(hardware: &Hardware<P>, way: &Way, terms: &Terms) -> Result<(), CommandError> {
    let attrs = QpAttrs {
        path_mtu: terms.mtu,
        timeout: terms.ack_timeout & 31,
        retry_cnt: terms.retry_count,
        rnr_retry: terms.rnr_retry_count,
        min_rnr_timer: way.min_rnr_timer,
        max_rd_atomic: terms.initiator_depth,
        max_dest_rd_atomic: terms.responder_resources,
        access: way.access,
        cur_state: QpState::INIT.0,
        dest_qpn: Qpn::truncate(terms.remote_qpn),
        sq_psn: Psn::truncate(terms.local_psn),
        rq_psn: Psn::truncate(terms.remote_psn),
        path: Path {
            dgid: way.dgid,
            flow_label: terms.flow_label & 0xf_ffff,
            sgid_index: way.sgid_index,
            hop_limit: terms.hop_limit,
            traffic_class: terms.traffic_class,
            vlan: 0xffff,
            port: 1,
            ..Path::default()
        },
        ..QpAttrs::default()
    };
    let to_receive = attr::CUR_STATE
        | attr::AV
        | attr::PATH_MTU
        | attr::DEST_QPN
        | attr::RQ_PSN
        | attr::MAX_DEST_RD_ATOMIC
        | attr::MIN_RNR_TIMER
        | attr::ACCESS_FLAGS;
    // From the one to the other in one command: a queue pair that cannot get there stays in INIT.
    let to_send = attr::TIMEOUT | attr::RETRY_CNT | attr::RNR_RETRY | attr::SQ_PSN | attr::MAX_QP_RD_ATOMIC;
    modify(hardware, way.qpn, QpState::RTS, to_receive | to_send, attrs)
}

/// Moves a queue pair to ERR, from whatever state.
pub(crate) fn end<P: Platform>(hardware: &Hardware<P>, qpn: Qpn) {
    if let Err(error @ CommandError::Refused { .. }) = modify(hardware, qpn, QpState::ERR, 0, QpAttrs::default()) {
        hardware.platform.log(format_args!(
            "the end of a connection leaves its queue pair as it was: {error}"
        ));
    }
}
