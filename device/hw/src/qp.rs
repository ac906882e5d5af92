// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Queue pairs: types, states, attributes, paths, and which attributes each transition takes.

use crate::id::{Gid, Psn, Qpn};
use crate::layout::{assert_layout, open_enum};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// A queue pair's type.
    pub struct QpType(u8) {
        /// Reliable connection.
        RC = 2,
        /// Unreliable connection.
        UC = 3,
        /// Unreliable datagram.
        UD = 4,
        /// General services interface: QP 1.
        GSI = 1,
        /// Raw Ethernet.
        RAW = 8,
        /// XRC initiator.
        XRC_INI = 9,
        /// XRC target.
        XRC_TGT = 10,
    }
}

open_enum! {
    /// A queue pair's state (IBA vol. 1, 10.3.1), with the numbers of `enum ibv_qp_state`.
    pub struct QpState(u8) {
        /// Just created, or returned to the beginning.
        RESET = 0,
        /// Receives may be posted.
        INIT = 1,
        /// Ready to receive.
        RTR = 2,
        /// Ready to send.
        RTS = 3,
        /// Send queue drain.
        SQD = 4,
        /// Send queue error.
        SQE = 5,
        /// Everything outstanding is flushed.
        ERR = 6,
    }
}

open_enum! {
    /// A path MTU, coded as in IBA (256 << (code - 1) bytes).
    pub struct Mtu(u8) {
        /// 256 bytes.
        B256 = 1,
        /// 512 bytes.
        B512 = 2,
        /// 1024 bytes.
        B1024 = 3,
        /// 2048 bytes.
        B2048 = 4,
        /// 4096 bytes.
        B4096 = 5,
    }
}

impl Mtu {
    /// The MTU in bytes, or `None` for a code that has no meaning.
    pub const fn bytes(self) -> Option<u32> {
        match self.0 {
            1..=5 => Some(128 << self.0),
            _ => None,
        }
    }
}

/// Bit of a Q_Key that only privileged software may set in a queue pair. In a work request it means: send with the
/// queue pair's own Q_Key instead (IBA vol. 1, 10.2.5).
pub const QKEY_CONTROLLED: u32 = 1 << 31;
/// The Q_Key of the general services interface (IBA vol. 1, 3.5.3).
pub const GSI_QKEY: u32 = 0x8001_0000;

/// Access rights of a queue pair or a memory region, with the bits of `enum ibv_access_flags`.
pub mod access {
    /// The device may write the region on behalf of the local side.
    pub const LOCAL_WRITE: u32 = 1 << 0;
    /// Peers may write.
    pub const REMOTE_WRITE: u32 = 1 << 1;
    /// Peers may read.
    pub const REMOTE_READ: u32 = 1 << 2;
    /// Peers may do atomic operations.
    pub const REMOTE_ATOMIC: u32 = 1 << 3;
    /// Memory windows may be bound to the region.
    pub const MW_BIND: u32 = 1 << 4;
    /// Addresses in the region begin at zero.
    pub const ZERO_BASED: u32 = 1 << 5;
    /// Peers may make their WRITEs globally visible (FLUSH).
    pub const FLUSH_GLOBAL: u32 = 1 << 8;
    /// Peers may make their WRITEs persistent (FLUSH). No memory of a guest is, so nothing can have this right.
    pub const FLUSH_PERSISTENT: u32 = 1 << 9;
    /// All bits that a memory region may have.
    pub const MR_ALL: u32 =
        LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC | MW_BIND | ZERO_BASED | FLUSH_GLOBAL;
    /// All bits that a queue pair may have.
    pub const QP_ALL: u32 = LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC | FLUSH_GLOBAL;
}

/// Bits of an attribute mask, with the values of `enum ibv_qp_attr_mask`.
pub mod attr {
    /// `state`.
    pub const STATE: u32 = 1 << 0;
    /// `cur_state`.
    pub const CUR_STATE: u32 = 1 << 1;
    /// `en_sqd_async_notify`.
    pub const EN_SQD_ASYNC_NOTIFY: u32 = 1 << 2;
    /// `access`.
    pub const ACCESS_FLAGS: u32 = 1 << 3;
    /// `pkey_index`.
    pub const PKEY_INDEX: u32 = 1 << 4;
    /// `path.port`.
    pub const PORT: u32 = 1 << 5;
    /// `qkey`.
    pub const QKEY: u32 = 1 << 6;
    /// `path`.
    pub const AV: u32 = 1 << 7;
    /// `path_mtu`.
    pub const PATH_MTU: u32 = 1 << 8;
    /// `timeout`.
    pub const TIMEOUT: u32 = 1 << 9;
    /// `retry_cnt`.
    pub const RETRY_CNT: u32 = 1 << 10;
    /// `rnr_retry`.
    pub const RNR_RETRY: u32 = 1 << 11;
    /// `rq_psn`.
    pub const RQ_PSN: u32 = 1 << 12;
    /// `max_rd_atomic`.
    pub const MAX_QP_RD_ATOMIC: u32 = 1 << 13;
    /// Alternate path (not offered).
    pub const ALT_PATH: u32 = 1 << 14;
    /// `min_rnr_timer`.
    pub const MIN_RNR_TIMER: u32 = 1 << 15;
    /// `sq_psn`.
    pub const SQ_PSN: u32 = 1 << 16;
    /// `max_dest_rd_atomic`.
    pub const MAX_DEST_RD_ATOMIC: u32 = 1 << 17;
    /// Path migration (not offered).
    pub const PATH_MIG_STATE: u32 = 1 << 18;
    /// Queue capacities (not offered).
    pub const CAP: u32 = 1 << 19;
    /// `dest_qpn`.
    pub const DEST_QPN: u32 = 1 << 20;
    /// `rate_limit`, and with it `max_burst` and `typical_packet`.
    pub const RATE_LIMIT: u32 = 1 << 25;
}

/// An address vector: the path to a destination. 48 bytes. The same in QP attributes and in UD work requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Path {
    /// Destination GID.
    pub dgid: Gid,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Index of the source GID in the port's table.
    pub sgid_index: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Service level.
    pub sl: u8,
    /// Destination MAC address; all zero: the device derives it from the GID.
    pub dmac: [u8; 6],
    /// VLAN id, or 0xffff for none.
    pub vlan: u16,
    /// Port, from 1.
    pub port: u8,
    /// Static rate, as in `enum ibv_rate`; 0: the port's.
    pub static_rate: u8,
    /// Zero.
    pub reserved0: u16,
    /// Zero.
    pub reserved1: u32,
    /// Zero.
    pub reserved2: u64,
}
assert_layout!(Path, 48, dgid @ 0, flow_label @ 16, sgid_index @ 20, dmac @ 24, vlan @ 30, port @ 32);

/// The attributes of a queue pair that MODIFY_QP sets and QUERY_QP returns. 112 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QpAttrs {
    /// Target state, or the present one in a query.
    pub state: u8,
    /// State that the caller assumes.
    pub cur_state: u8,
    /// Path MTU code, see [`Mtu`].
    pub path_mtu: u8,
    /// Local ACK timeout: 4.096 us * 2^timeout; 0 is infinite (IBA vol. 1, 9.7.6.1.3). 5 bits.
    pub timeout: u8,
    /// Transport retries, 0 to 7.
    pub retry_cnt: u8,
    /// RNR retries, 0 to 7; 7 is infinite.
    pub rnr_retry: u8,
    /// Minimum RNR NAK timer, coded (IBA vol. 1, table 45); 5 bits.
    pub min_rnr_timer: u8,
    /// READs and atomics that this side may have outstanding.
    pub max_rd_atomic: u8,
    /// READs and atomics that the peer may have outstanding here.
    pub max_dest_rd_atomic: u8,
    /// Non-zero: an event when the send queue has drained.
    pub en_sqd_async_notify: u8,
    /// Index in the P_Key table.
    pub pkey_index: u16,
    /// Access rights, see [`access`].
    pub access: u32,
    /// Q_Key.
    pub qkey: u32,
    /// Number of the peer's QP.
    pub dest_qpn: Qpn,
    /// First PSN that this side sends.
    pub sq_psn: Psn,
    /// First PSN that this side expects.
    pub rq_psn: Psn,
    /// The send queue's rate limit in kbit/s, between [`RATE_LIMIT_MIN`] and [`RATE_LIMIT_MAX`]; 0: none.
    pub rate_limit: u32,
    /// Bytes that a limited send queue may send at once after a rest; 0: sixteen typical packets.
    pub max_burst: u32,
    /// Bytes of data of a limited send queue's packets, as a rule: it waits until a burst has so much room. 0: the port's MTU.
    pub typical_packet: u16,
    /// Zero.
    pub reserved1: u16,
    /// Zero.
    pub reserved: [u32; 3],
    /// The path.
    pub path: Path,
    /// Zero.
    pub reserved2: u64,
}
assert_layout!(QpAttrs, 112, state @ 0, pkey_index @ 10, access @ 12, dest_qpn @ 20, sq_psn @ 24, rq_psn @ 28, rate_limit @ 32, path @ 56);

/// Least [`QpAttrs::rate_limit`]: as the least that real HCAs have.
pub const RATE_LIMIT_MIN: u32 = 1;
/// Greatest [`QpAttrs::rate_limit`], 100 Gbit/s: a packet without data takes a few nanoseconds then, which is the clock's grain.
pub const RATE_LIMIT_MAX: u32 = 100_000_000;

/// The attributes of one transition: those it must be given and those it may be given, beside [`attr::STATE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Must be in the mask.
    pub required: u32,
    /// May be in the mask.
    pub optional: u32,
}

/// The attributes of the transition `from` -> `to` of a queue pair of type `kind`, or `None` if there is no such
/// transition or no such type.
///
/// IBA vol. 1, table 91 (QP state transition properties), restricted to what the device offers: no alternate path.
/// Any state may go to RESET or ERR; SQE is entered by the device alone, and only by types that can lose a message
/// without losing a connection.
pub fn transition(kind: QpType, from: QpState, to: QpState) -> Option<Transition> {
    if matches!(to, QpState::RESET | QpState::ERR) {
        return Some(Transition {
            required: 0,
            optional: 0,
        });
    }
    match kind {
        QpType::RC | QpType::UC | QpType::XRC_INI | QpType::XRC_TGT => connected(kind, from, to),
        QpType::UD | QpType::GSI => datagram(kind, from, to),
        QpType::RAW => raw(from, to),
        _ => None,
    }
}

/// As [`transition`]; and along RESET, INIT, RTR and RTS all of the transitions between two of them as one, with the
/// attributes of all. The device takes that way for who says where it begins ([`attr::CUR_STATE`]).
pub fn way(kind: QpType, from: QpState, to: QpState) -> Option<Transition> {
    const ALONG: [QpState; 4] = [QpState::RESET, QpState::INIT, QpState::RTR, QpState::RTS];
    if let Some(one) = transition(kind, from, to) {
        return Some(one);
    }
    let place = |state| ALONG.iter().position(|&along| along == state);
    let (first, last) = (place(from)?, place(to)?);
    if first >= last {
        return None;
    }
    let mut all = Transition {
        required: 0,
        optional: 0,
    };
    for step in ALONG.get(first..=last)?.windows(2) {
        let step = transition(kind, step[0], step[1])?;
        all.required |= step.required;
        all.optional |= step.optional;
    }
    all.optional &= !all.required;
    Some(all)
}

fn connected(kind: QpType, from: QpState, to: QpState) -> Option<Transition> {
    use attr::*;
    let requester = match kind {
        QpType::RC | QpType::XRC_INI => TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC,
        QpType::XRC_TGT => TIMEOUT,
        _ => 0,
    };
    let responder = match kind {
        QpType::RC | QpType::XRC_TGT => MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER,
        _ => 0,
    };
    // A target sends nothing of its own.
    let pace = if kind == QpType::XRC_TGT { 0 } else { RATE_LIMIT };
    let always = CUR_STATE | ACCESS_FLAGS | pace;
    let (required, optional) = match (from, to) {
        (QpState::RESET, QpState::INIT) => (PKEY_INDEX | PORT | ACCESS_FLAGS, 0),
        (QpState::INIT, QpState::INIT) => (0, PKEY_INDEX | PORT | ACCESS_FLAGS),
        (QpState::INIT, QpState::RTR) => (AV | PATH_MTU | DEST_QPN | RQ_PSN | responder, ACCESS_FLAGS | PKEY_INDEX),
        (QpState::RTR, QpState::RTS) => (SQ_PSN | requester, always | responder & MIN_RNR_TIMER),
        (QpState::RTS, QpState::RTS) | (QpState::SQD, QpState::RTS) => (0, always | responder & MIN_RNR_TIMER),
        (QpState::RTS, QpState::SQD) => (0, EN_SQD_ASYNC_NOTIFY),
        (QpState::SQD, QpState::SQD) => {
            let port = if kind == QpType::UC { 0 } else { PORT };
            (0, PKEY_INDEX | ACCESS_FLAGS | AV | port | requester | responder)
        }
        (QpState::SQE, QpState::RTS) if kind == QpType::UC => (0, always),
        _ => return None,
    };
    Some(Transition { required, optional })
}

fn datagram(kind: QpType, from: QpState, to: QpState) -> Option<Transition> {
    use attr::*;
    // The GSI's port is the only one, and was never a choice.
    let port = if kind == QpType::UD { PORT } else { 0 };
    let pace = if kind == QpType::UD { RATE_LIMIT } else { 0 };
    let (required, optional) = match (from, to) {
        (QpState::RESET, QpState::INIT) => (PKEY_INDEX | port | QKEY, 0),
        (QpState::INIT, QpState::INIT) => (0, PKEY_INDEX | port | QKEY),
        (QpState::INIT, QpState::RTR) | (QpState::SQD, QpState::SQD) => (0, PKEY_INDEX | QKEY),
        (QpState::RTR, QpState::RTS) => (SQ_PSN, CUR_STATE | QKEY | pace),
        (QpState::RTS | QpState::SQD | QpState::SQE, QpState::RTS) => (0, CUR_STATE | QKEY | pace),
        (QpState::RTS, QpState::SQD) => (0, EN_SQD_ASYNC_NOTIFY),
        _ => return None,
    };
    Some(Transition { required, optional })
}

fn raw(from: QpState, to: QpState) -> Option<Transition> {
    use attr::*;
    let (required, optional) = match (from, to) {
        (QpState::RESET, QpState::INIT) => (PORT, 0),
        (QpState::INIT, QpState::INIT | QpState::RTR) | (QpState::SQD, QpState::SQD) => (0, 0),
        (QpState::RTR | QpState::RTS | QpState::SQD | QpState::SQE, QpState::RTS) => (0, CUR_STATE | RATE_LIMIT),
        (QpState::RTS, QpState::SQD) => (0, EN_SQD_ASYNC_NOTIFY),
        _ => return None,
    };
    Some(Transition { required, optional })
}

/// Minimum RNR NAK timers in units of 10 us, by code (IBA vol. 1, table 45). Code 0 is the longest.
pub const RNR_TIMER_10US: [u32; 32] = [
    65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
    6144, 8192, 12288, 16384, 24576, 32768, 49152,
];

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [QpType; 7] = [
        QpType::RC,
        QpType::UC,
        QpType::UD,
        QpType::GSI,
        QpType::RAW,
        QpType::XRC_INI,
        QpType::XRC_TGT,
    ];

    #[test]
    fn h04_every_state_machine_has_the_paths_of_the_specification() {
        let path = [
            QpState::RESET,
            QpState::INIT,
            QpState::RTR,
            QpState::RTS,
            QpState::SQD,
            QpState::RTS,
        ];
        for kind in TYPES {
            for pair in path.windows(2) {
                assert!(
                    transition(kind, pair[0], pair[1]).is_some(),
                    "{kind}: {} -> {}",
                    pair[0],
                    pair[1]
                );
            }
            assert_eq!(transition(kind, QpState::RESET, QpState::RTS), None);
            assert_eq!(transition(kind, QpState::ERR, QpState::RTS), None);
            assert_eq!(transition(kind, QpState::INIT, QpState::RTS), None);
            assert_eq!(transition(kind, QpState::RTS, QpState::SQE), None);
            // Reliable types break their connection instead.
            let recovers = transition(kind, QpState::SQE, QpState::RTS).is_some();
            let reliable = matches!(kind, QpType::RC | QpType::XRC_INI | QpType::XRC_TGT);
            assert_eq!(recovers, !reliable, "{kind}");
        }
        assert_eq!(transition(QpType(0), QpState::RESET, QpState::INIT), None);
    }

    #[test]
    fn h04_a_way_has_the_attributes_of_all_its_transitions() {
        use attr::*;
        let (reset, init, rtr, rts) = (QpState::RESET, QpState::INIT, QpState::RTR, QpState::RTS);
        for kind in TYPES {
            let steps = [(reset, init), (init, rtr), (rtr, rts)].map(|(from, to)| transition(kind, from, to).unwrap());
            let all = way(kind, reset, rts).unwrap();
            assert_eq!(all.required, steps.iter().fold(0, |mask, step| mask | step.required));
            assert_eq!(all.required & all.optional, 0, "{kind}");
            assert_eq!(way(kind, reset, init), Some(steps[0]), "one step is itself");
            assert!(way(kind, init, rts).is_some() && way(kind, reset, rtr).is_some());
            for (from, to) in [
                (rts, init),
                (rtr, init),
                (QpState::ERR, rts),
                (reset, QpState::SQD),
                (rtr, rtr),
            ] {
                assert_eq!(
                    way(kind, from, to),
                    transition(kind, from, to),
                    "{kind}: {from} -> {to}"
                );
            }
        }
        let ud = way(QpType::UD, reset, rts).unwrap();
        assert_eq!(ud.required, PKEY_INDEX | PORT | QKEY | SQ_PSN);
    }

    #[test]
    fn h04_the_types_differ_in_what_their_transitions_take() {
        use attr::*;
        let required = |kind, from, to| transition(kind, from, to).map(|t| t.required);
        let (reset, init, rtr, rts) = (QpState::RESET, QpState::INIT, QpState::RTR, QpState::RTS);
        assert_eq!(required(QpType::UD, reset, init), Some(PKEY_INDEX | PORT | QKEY));
        assert_eq!(required(QpType::GSI, reset, init), Some(PKEY_INDEX | QKEY));
        assert_eq!(required(QpType::RAW, reset, init), Some(PORT));
        assert_eq!(required(QpType::UC, init, rtr), Some(AV | PATH_MTU | DEST_QPN | RQ_PSN));
        assert_eq!(required(QpType::UD, init, rtr), Some(0));
        assert_eq!(required(QpType::UC, rtr, rts), Some(SQ_PSN));
        assert_eq!(required(QpType::XRC_TGT, rtr, rts), Some(SQ_PSN | TIMEOUT));
        assert_eq!(
            required(QpType::XRC_INI, init, rtr),
            Some(AV | PATH_MTU | DEST_QPN | RQ_PSN)
        );
    }

    #[test]
    fn mtu_codes() {
        assert_eq!(Mtu::B256.bytes(), Some(256));
        assert_eq!(Mtu::B4096.bytes(), Some(4096));
        assert_eq!(Mtu(0).bytes(), None);
        assert_eq!(Mtu(6).bytes(), None);
    }
}
