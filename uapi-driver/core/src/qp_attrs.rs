// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The attributes that CREATE, MODIFY and QUERY of a queue pair share: between the object model's, one by one, and the
//! device's, a structure and a mask.

use crate::driver::Handling;
use crate::platform::Platform;
use crate::CommandError;
use core::mem::offset_of;
use rdma_uapi::class::qp;
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::Attr;
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::admin::Status;
use verbena_hw::cmd::ModifyQpReq;
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::qp::{attr, way, Mtu, Path, QpAttrs, QpState, QpType, Transition};

/// Attributes that a message gives.
pub(crate) struct Given {
    /// Which ones ([`attr`]).
    pub(crate) mask: u32,
    /// Their values.
    pub(crate) attrs: QpAttrs,
}

/// An attribute: its bit in the device's mask, its field in the device's structure, its id in the object model.
struct Known {
    bit: u32,
    field: usize,
    id: u16,
}

const fn known<T>(bit: u32, field: usize, named: Attr<T>) -> Known {
    Known {
        bit,
        field,
        id: named.spec.id,
    }
}

static KNOWN: &[Known] = &[
    known(attr::STATE, offset_of!(QpAttrs, state), qp::STATE),
    known(attr::CUR_STATE, offset_of!(QpAttrs, cur_state), qp::CURRENT_STATE),
    known(
        attr::EN_SQD_ASYNC_NOTIFY,
        offset_of!(QpAttrs, en_sqd_async_notify),
        qp::SQD_NOTIFY,
    ),
    known(attr::ACCESS_FLAGS, offset_of!(QpAttrs, access), qp::ACCESS),
    known(attr::PKEY_INDEX, offset_of!(QpAttrs, pkey_index), qp::PKEY_INDEX),
    known(attr::PORT, offset_of!(QpAttrs, path) + offset_of!(Path, port), qp::PORT),
    known(attr::AV, offset_of!(QpAttrs, path), qp::PATH),
    known(attr::PATH_MTU, offset_of!(QpAttrs, path_mtu), qp::PATH_MTU),
    known(attr::TIMEOUT, offset_of!(QpAttrs, timeout), qp::TIMEOUT),
    known(attr::RETRY_CNT, offset_of!(QpAttrs, retry_cnt), qp::RETRY_CNT),
    known(attr::RNR_RETRY, offset_of!(QpAttrs, rnr_retry), qp::RNR_RETRY),
    known(attr::RQ_PSN, offset_of!(QpAttrs, rq_psn), qp::RQ_PSN),
    known(
        attr::MAX_QP_RD_ATOMIC,
        offset_of!(QpAttrs, max_rd_atomic),
        qp::MAX_RD_ATOMIC,
    ),
    known(
        attr::MIN_RNR_TIMER,
        offset_of!(QpAttrs, min_rnr_timer),
        qp::MIN_RNR_TIMER,
    ),
    known(attr::SQ_PSN, offset_of!(QpAttrs, sq_psn), qp::SQ_PSN),
    known(
        attr::MAX_DEST_RD_ATOMIC,
        offset_of!(QpAttrs, max_dest_rd_atomic),
        qp::MAX_DEST_RD_ATOMIC,
    ),
    known(attr::DEST_QPN, offset_of!(QpAttrs, dest_qpn), qp::DEST_QPN),
    known(attr::QKEY, offset_of!(QpAttrs, qkey), qp::QKEY),
    known(attr::RATE_LIMIT, offset_of!(QpAttrs, rate_limit), qp::RATE_LIMIT),
];

/// A failure that names an attribute by its id.
fn fail_at<P: Platform>(call: &Handling<'_, P>, id: u16, errno: Errno, reason: Reason) -> Failure {
    // Only the id of the handle counts where a failure is made.
    call.fail(Attr::<u32>::new(id, ""), errno, reason)
}

/// A failure that names the attribute of the lowest bit of `mask`.
fn fail_at_bit<P: Platform>(call: &Handling<'_, P>, mask: u32, errno: Errno, reason: Reason) -> Failure {
    match KNOWN.iter().find(|known| known.bit & mask != 0) {
        Some(known) => fail_at(call, known.id, errno, reason),
        None => Failure::new(errno, reason),
    }
}

impl Given {
    /// Reads and checks what the message gives; what a value means for the queue pair is the device's to judge.
    pub(crate) fn read<P: Platform>(call: &Handling<'_, P>) -> Outcome<Self> {
        for unsupported in [qp::ALT_PORT, qp::ALT_PKEY_INDEX, qp::ALT_TIMEOUT, qp::PATH_MIG_STATE] {
            if call.has(unsupported) {
                return Err(call.fail(unsupported, Errno::EOPNOTSUPP, Reason::UNSUPPORTED));
            }
        }
        if call.has(qp::ALT_PATH) {
            return Err(call.fail(qp::ALT_PATH, Errno::EOPNOTSUPP, Reason::UNSUPPORTED));
        }
        let mut given = Given {
            mask: 0,
            attrs: QpAttrs::default(),
        };
        let attrs = &mut given.attrs;
        let mut mask = 0;
        // A macro, so that nothing is asked for what the message does not have: that is most of it.
        macro_rules! number {
            ($from:expr, $bit:expr, $most:expr) => {
                match call.get($from)? {
                    Some(value) if value <= $most => {
                        mask |= $bit;
                        value
                    }
                    Some(_) => return Err(call.out_of_range($from)),
                    None => 0,
                }
            };
        }
        attrs.state = number!(qp::STATE, attr::STATE, qp::state::ERR) as u8;
        attrs.cur_state = number!(qp::CURRENT_STATE, attr::CUR_STATE, qp::state::ERR) as u8;
        attrs.path.port = number!(qp::PORT, attr::PORT, u32::from(u8::MAX)) as u8;
        attrs.pkey_index = number!(qp::PKEY_INDEX, attr::PKEY_INDEX, u32::from(u16::MAX)) as u16;
        attrs.access = number!(qp::ACCESS, attr::ACCESS_FLAGS, u32::MAX);
        attrs.qkey = number!(qp::QKEY, attr::QKEY, u32::MAX);
        attrs.dest_qpn = Qpn::truncate(number!(qp::DEST_QPN, attr::DEST_QPN, Qpn::MAX));
        attrs.sq_psn = Psn::truncate(number!(qp::SQ_PSN, attr::SQ_PSN, Psn::MASK));
        attrs.rq_psn = Psn::truncate(number!(qp::RQ_PSN, attr::RQ_PSN, Psn::MASK));
        attrs.timeout = number!(qp::TIMEOUT, attr::TIMEOUT, 31) as u8;
        attrs.retry_cnt = number!(qp::RETRY_CNT, attr::RETRY_CNT, 7) as u8;
        attrs.rnr_retry = number!(qp::RNR_RETRY, attr::RNR_RETRY, 7) as u8;
        attrs.min_rnr_timer = number!(qp::MIN_RNR_TIMER, attr::MIN_RNR_TIMER, 31) as u8;
        attrs.max_rd_atomic = number!(qp::MAX_RD_ATOMIC, attr::MAX_QP_RD_ATOMIC, u32::from(u8::MAX)) as u8;
        attrs.max_dest_rd_atomic = number!(qp::MAX_DEST_RD_ATOMIC, attr::MAX_DEST_RD_ATOMIC, u32::from(u8::MAX)) as u8;
        attrs.en_sqd_async_notify = number!(qp::SQD_NOTIFY, attr::EN_SQD_ASYNC_NOTIFY, 1) as u8;
        attrs.rate_limit = number!(qp::RATE_LIMIT, attr::RATE_LIMIT, u32::MAX);
        // Both say how the limit is kept, and are no attributes of a transition themselves.
        attrs.max_burst = number!(qp::MAX_BURST, 0, u32::MAX);
        attrs.typical_packet = number!(qp::TYPICAL_PACKET, 0, u32::from(u16::MAX)) as u16;
        if mask & attr::RATE_LIMIT == 0 && (call.has(qp::MAX_BURST) || call.has(qp::TYPICAL_PACKET)) {
            return Err(call.fail(qp::RATE_LIMIT, Errno::EINVAL, Reason::MISSING));
        }
        let mtu = number!(qp::PATH_MTU, attr::PATH_MTU, 4096);
        if mask & attr::PATH_MTU != 0 {
            attrs.path_mtu = mtu_code(mtu).ok_or_else(|| call.out_of_range(qp::PATH_MTU))?.0;
        }
        given.mask = mask;
        given.read_path(call)?;
        Ok(given)
    }

    fn read_path<P: Platform>(&mut self, call: &Handling<'_, P>) -> Outcome {
        let Some(path) = call.get(qp::PATH)? else { return Ok(()) };
        // A path without a port means the only one.
        let port = if self.mask & attr::PORT != 0 {
            self.attrs.path.port
        } else {
            1
        };
        self.mask |= attr::AV;
        self.attrs.path = checked_path(call, qp::PATH, &path, port)?;
        Ok(())
    }
}

/// A path as the device takes it, by what can be said of it without the device.
pub(crate) fn checked_path<P: Platform>(
    call: &Handling<'_, P>,
    attr: Attr<qp::Path>,
    path: &qp::Path,
    port: u8,
) -> Outcome<Path> {
    let Ok(sgid_index) = u8::try_from(path.sgid_index) else {
        return Err(call.out_of_range(attr));
    };
    if path.flow_label >= 1 << 20 {
        return Err(call.out_of_range(attr));
    }
    if path.reserved != [0; 7] {
        return Err(call.fail(attr, Errno::EINVAL, Reason::NOT_ZERO));
    }
    Ok(Path {
        dgid: Gid(path.dgid),
        flow_label: path.flow_label,
        sgid_index,
        hop_limit: path.hop_limit,
        traffic_class: path.traffic_class,
        sl: path.sl,
        // Zero: the device derives the MAC address from the GID.
        dmac: [0; 6],
        vlan: NO_VLAN,
        port,
        ..Path::default()
    })
}

/// [`Path::vlan`]: none.
const NO_VLAN: u16 = 0xffff;

fn mtu_code(bytes: u32) -> Option<Mtu> {
    (Mtu::B256.0..=Mtu::B4096.0)
        .map(Mtu)
        .find(|mtu| mtu.bytes() == Some(bytes))
}

/// Checks that the given attributes lead a new queue pair from RESET to the state that its CREATE names, or are none (U15).
///
/// # Errors
///
/// A state that a new queue pair cannot have; an attribute that no transition on the way takes; one that is missing.
pub(crate) fn check_way<P: Platform>(call: &Handling<'_, P>, kind: QpType, given: &Given) -> Outcome {
    let to = QpState(given.attrs.state);
    let left = given.mask & !attr::STATE;
    let takes = match to {
        QpState::RESET => Transition {
            required: 0,
            optional: 0,
        },
        QpState::INIT | QpState::RTR | QpState::RTS => match way(kind, QpState::RESET, to) {
            Some(takes) => takes,
            None => unreachable!("IBA's state machine has the way from RESET to RTS"),
        },
        _ => return Err(call.fail(qp::STATE, Errno::EINVAL, Reason::BAD_STATE)),
    };
    let missing = takes.required & !given.mask;
    if missing != 0 {
        return Err(fail_at_bit(call, missing, Errno::EINVAL, Reason::MISSING));
    }
    let surplus = left & !(takes.required | takes.optional);
    if surplus != 0 {
        return Err(fail_at_bit(call, surplus, Errno::EINVAL, Reason::NOT_ALLOWED));
    }
    Ok(())
}

/// What the device's refusal of a MODIFY_QP means, with the attribute's name.
pub(crate) fn failure<P: Platform>(call: &Handling<'_, P>, error: CommandError) -> Failure {
    failure_of(call, error, offset_of!(ModifyQpReq, attrs))
}

/// The same, of any command whose attributes stand at `attrs_at` in its request.
pub(crate) fn failure_of<P: Platform>(call: &Handling<'_, P>, error: CommandError, attrs_at: usize) -> Failure {
    let CommandError::Refused { status, detail, .. } = error else {
        return error.into();
    };
    match status {
        Status::BAD_TRANSITION => call
            .fail(qp::STATE, Errno::EINVAL, Reason::BAD_STATE)
            .detail(detail as u16),
        Status::MISSING_ATTRIBUTE => fail_at_bit(call, detail, Errno::EINVAL, Reason::MISSING),
        Status::FORBIDDEN_ATTRIBUTE => fail_at_bit(call, detail, Errno::EINVAL, Reason::NOT_ALLOWED),
        Status::BAD_GID_INDEX => call.out_of_range(qp::PATH).detail(detail as u16),
        Status::BAD_FIELD => {
            let field = (detail as usize).wrapping_sub(attrs_at);
            let path = offset_of!(QpAttrs, path);
            let of_path = (path..path + size_of::<Path>()).contains(&field);
            let exact = KNOWN.iter().find(|known| known.field == field);
            match exact {
                Some(known) => fail_at(call, known.id, Errno::EINVAL, Reason::OUT_OF_RANGE),
                None if of_path => call.out_of_range(qp::PATH),
                None => error.into(),
            }
        }
        _ => error.into(),
    }
}

/// Answers what the device says of the attributes.
pub(crate) fn answer<P: Platform>(call: &mut Handling<'_, P>, attrs: &QpAttrs) -> Outcome {
    let path = qp::Path {
        dgid: attrs.path.dgid.0,
        flow_label: attrs.path.flow_label,
        sgid_index: u16::from(attrs.path.sgid_index),
        hop_limit: attrs.path.hop_limit,
        traffic_class: attrs.path.traffic_class,
        sl: attrs.path.sl,
        reserved: [0; 7],
    };
    call.put(qp::PATH, &path)?;
    let numbers = [
        (qp::STATE, u32::from(attrs.state)),
        (qp::PORT, u32::from(attrs.path.port)),
        (qp::PKEY_INDEX, u32::from(attrs.pkey_index)),
        (qp::ACCESS, attrs.access),
        (qp::QKEY, attrs.qkey),
        (qp::DEST_QPN, attrs.dest_qpn.get()),
        (qp::SQ_PSN, attrs.sq_psn.get()),
        (qp::RQ_PSN, attrs.rq_psn.get()),
        (qp::PATH_MTU, Mtu(attrs.path_mtu).bytes().unwrap_or(0)),
        (qp::TIMEOUT, u32::from(attrs.timeout)),
        (qp::RETRY_CNT, u32::from(attrs.retry_cnt)),
        (qp::RNR_RETRY, u32::from(attrs.rnr_retry)),
        (qp::MIN_RNR_TIMER, u32::from(attrs.min_rnr_timer)),
        (qp::MAX_RD_ATOMIC, u32::from(attrs.max_rd_atomic)),
        (qp::MAX_DEST_RD_ATOMIC, u32::from(attrs.max_dest_rd_atomic)),
        (qp::RATE_LIMIT, attrs.rate_limit),
        (qp::MAX_BURST, attrs.max_burst),
        (qp::TYPICAL_PACKET, u32::from(attrs.typical_packet)),
    ];
    for (attr, value) in numbers {
        call.put(attr, &value)?;
    }
    Ok(())
}
