// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue pair's attributes: what MODIFY takes, what QUERY gives, and the choices that connecting makes.

use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::{Access, Context};
use rdma_uapi::class::qp::{self, Path, QpCaps};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::ObjectId;
use verbena_hw::id::{Gid, Psn};
use verbena_hw::qp::QpState;

macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident: $ty:ty => $attr:ident, $convert:expr;)*) => {
        /// Attributes for [`crate::RcQp::modify`]. Only what is set is sent, so that which attributes a transition takes
        /// stays the device's to say.
        #[derive(Clone, Debug, Default, PartialEq)]
        #[must_use = "attributes do nothing until they are given to `modify`"]
        pub struct QpAttr {
            pub(crate) state: Option<QpState>,
            $($name: Option<$ty>,)*
        }

        impl QpAttr {
            $($(#[$doc])*
            pub fn $name(mut self, $name: $ty) -> Self {
                self.$name = Some($name);
                self
            })*

            pub(crate) fn write(&self, message: &mut Builder<'_>) {
                message.put_some(qp::STATE, self.state.map(|state| u32::from(state.0)));
                $(message.put_some(qp::$attr, self.$name.map($convert));)*
            }
        }
    };
}

attributes! {
    /// The state that it is in: from RESET or INIT it then goes to any later one up to RTS, all the way or not at all, with
    /// the attributes of all transitions between.
    current_state: QpState => CURRENT_STATE, |state| u32::from(state.0);
    /// The port, from 1.
    port: u32 => PORT, |port| port;
    /// Entry in the port's P_Key table.
    pkey_index: u32 => PKEY_INDEX, |index| index;
    /// The Q_Key. Setting one with bit 31 takes CAP_NET_RAW.
    qkey: u32 => QKEY, |qkey| qkey;
    /// What the peer may do through it.
    access: Access => ACCESS, |access| access.bits();
    /// The path to the peer.
    path: Path => PATH, |path| path;
    /// The peer's queue pair number.
    dest_qpn: u32 => DEST_QPN, |qpn| qpn;
    /// First packet sequence number to send.
    sq_psn: u32 => SQ_PSN, |psn| psn;
    /// First packet sequence number to expect.
    rq_psn: u32 => RQ_PSN, |psn| psn;
    /// Path MTU in bytes.
    path_mtu: u32 => PATH_MTU, |mtu| mtu;
    /// Local ACK timeout: 4.096 us * 2^n, 0 is for ever.
    timeout: u32 => TIMEOUT, |code| code;
    /// Retries after a timeout, 0 to 7.
    retry_cnt: u32 => RETRY_CNT, |n| n;
    /// Retries after receiver not ready, 0 to 6; 7 is for ever.
    rnr_retry: u32 => RNR_RETRY, |n| n;
    /// How long a peer waits after receiver not ready, as a code.
    min_rnr_timer: u32 => MIN_RNR_TIMER, |code| code;
    /// READs and atomics outstanding as initiator.
    max_rd_atomic: u32 => MAX_RD_ATOMIC, |n| n;
    /// READs and atomics outstanding as target.
    max_dest_rd_atomic: u32 => MAX_DEST_RD_ATOMIC, |n| n;
    /// Ask for an event when the send queue has drained.
    sqd_notify: bool => SQD_NOTIFY, u32::from;
    /// The most that the send queue sends, kbit/s, between `qp_rate_limit_min` and `qp_rate_limit_max` of
    /// [`Context::device`]; 0: no limit.
    rate_limit: u32 => RATE_LIMIT, |kbps| kbps;
    /// With a rate limit: bytes that may be sent at once after a rest; 0: the device's choice.
    max_burst: u32 => MAX_BURST, |bytes| bytes;
    /// With a rate limit: bytes of data that packets have as a rule; 0: the port's MTU.
    typical_packet: u16 => TYPICAL_PACKET, u32::from;
}

impl QpAttr {
    /// To move to `state`.
    pub fn to(state: QpState) -> Self {
        Self {
            state: Some(state),
            ..Self::default()
        }
    }

    /// The message of MODIFY.
    pub(crate) fn message<'m>(&self, words: &'m mut [u64], class: u16, qp: ObjectId) -> Builder<'m> {
        let mut message = Builder::new(words, class, qp.0);
        self.write(&mut message);
        message
    }

    /// The first packet sequence number to send, if it is among them.
    pub(crate) fn first_psn(&self) -> Option<Psn> {
        self.sq_psn.map(Psn::truncate)
    }

    /// To change attributes without naming a state.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The path to `dgid` from entry `sgid_index` of the port's GID table.
pub fn path_to(dgid: Gid, sgid_index: u16) -> Path {
    Path {
        dgid: dgid.0,
        sgid_index,
        hop_limit: 64,
        ..Path::default()
    }
}

/// The choices of [`crate::RcQp::connect_with`]. Both sides make their own, but the MTU must be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The port, from 1.
    pub port: u32,
    /// Our entry in its GID table.
    pub sgid_index: u16,
    /// Path MTU in bytes; `None`: the port's active one.
    pub mtu: Option<u32>,
    /// What the peer may do through the queue pair.
    pub access: Access,
    /// READs and atomics outstanding in either direction; `None`: as many as the device can, at most 16.
    pub max_rd_atomic: Option<u32>,
    /// As [`QpAttr::timeout`].
    pub timeout: u32,
    /// As [`QpAttr::retry_cnt`].
    pub retry_cnt: u32,
    /// As [`QpAttr::rnr_retry`].
    pub rnr_retry: u32,
    /// As [`QpAttr::min_rnr_timer`].
    pub min_rnr_timer: u32,
}

impl Default for ConnectOptions {
    /// Everything that a peer can ask for is allowed; a lost peer is noticed after about half a second (timeout code 14,
    /// 67 ms, 7 retries); a receiver that is not ready is waited for without end.
    fn default() -> Self {
        Self {
            port: 1,
            sgid_index: 0,
            mtu: None,
            access: Access::ALL_REMOTE,
            max_rd_atomic: None,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 7,
            min_rnr_timer: 1,
        }
    }
}

impl ConnectOptions {
    /// The attributes of the step to INIT.
    pub(crate) fn init(&self) -> QpAttr {
        QpAttr::to(QpState::INIT)
            .port(self.port)
            .pkey_index(0)
            .access(self.access)
    }

    /// Asks the device for what is left to it, and is not `known` yet.
    pub(crate) fn resolve(&self, context: &Context, known: &mut Known) -> Result<Connection<'_>> {
        let mtu = match self.mtu {
            Some(mtu) => mtu,
            None => known.mtu(context, self.port)?,
        };
        let (initiator, target) = match self.max_rd_atomic {
            Some(n) => (n, n),
            None => known.rd_atomic(context)?,
        };
        Ok(Connection {
            options: self,
            mtu,
            initiator,
            target,
        })
    }
}

/// What connecting has asked the device, to be asked once for many queue pairs.
#[derive(Default)]
pub(crate) struct Known {
    /// Port and active MTU.
    mtus: Vec<(u32, u32)>,
    /// READs and atomics outstanding: as initiator, as target.
    rd_atomic: Option<(u32, u32)>,
}

impl Known {
    fn mtu(&mut self, context: &Context, port: u32) -> Result<u32> {
        if let Some(&(_, mtu)) = self.mtus.iter().find(|(n, _)| *n == port) {
            return Ok(mtu);
        }
        let mtu = context.port(port)?.attrs.active_mtu;
        self.mtus.push((port, mtu));
        Ok(mtu)
    }

    fn rd_atomic(&mut self, context: &Context) -> Result<(u32, u32)> {
        if let Some(known) = self.rd_atomic {
            return Ok(known);
        }
        let device = context.device()?;
        let known = (device.max_qp_init_rd_atom.min(16), device.max_qp_rd_atom.min(16));
        self.rd_atomic = Some(known);
        Ok(known)
    }
}

/// Options of which nothing is open any more, and the attributes that they make.
pub(crate) struct Connection<'o> {
    options: &'o ConnectOptions,
    mtu: u32,
    initiator: u32,
    target: u32,
}

impl Connection<'_> {
    /// All the way to RTS from `state`, which is RESET or INIT.
    pub(crate) fn from(&self, state: QpState, peer: &Endpoint, psn: Psn) -> QpAttr {
        let begun = match state {
            QpState::RESET => self.options.init(),
            _ => QpAttr::new(),
        };
        let attributes = QpAttr {
            state: Some(QpState::RTS),
            ..begun
        };
        attributes
            .current_state(state)
            .path(path_to(peer.gid, self.options.sgid_index))
            .path_mtu(self.mtu)
            .dest_qpn(peer.qpn.get())
            .rq_psn(peer.psn.get())
            .max_dest_rd_atomic(self.target)
            .min_rnr_timer(self.options.min_rnr_timer)
            .timeout(self.options.timeout)
            .retry_cnt(self.options.retry_cnt)
            .rnr_retry(self.options.rnr_retry)
            .sq_psn(psn.get())
            .max_rd_atomic(self.initiator)
    }

    /// The same of a queue pair of this class; `None`: such have no peer.
    pub(crate) fn of_class(&self, class: u16, state: QpState, peer: &Endpoint, psn: Psn) -> Option<QpAttr> {
        match class {
            class::QP_RC => Some(self.from(state, peer, psn)),
            class::QP_UC => Some(self.of_unreliable(state, peer, psn)),
            class::QP_XRC_INI => Some(self.of_initiator(state, peer, psn)),
            class::QP_XRC_TGT => Some(self.of_target(state, peer, psn)),
            _ => None,
        }
    }

    /// The same without acknowledgements, and without READs.
    fn of_unreliable(&self, state: QpState, peer: &Endpoint, psn: Psn) -> QpAttr {
        QpAttr {
            timeout: None,
            retry_cnt: None,
            rnr_retry: None,
            min_rnr_timer: None,
            max_rd_atomic: None,
            max_dest_rd_atomic: None,
            ..self.from(state, peer, psn)
        }
    }

    /// The same of an XRC initiator, which answers nothing.
    pub(crate) fn of_initiator(&self, state: QpState, peer: &Endpoint, psn: Psn) -> QpAttr {
        QpAttr {
            max_dest_rd_atomic: None,
            min_rnr_timer: None,
            ..self.from(state, peer, psn)
        }
    }

    /// The same of an XRC target, which asks nothing.
    pub(crate) fn of_target(&self, state: QpState, peer: &Endpoint, psn: Psn) -> QpAttr {
        QpAttr {
            retry_cnt: None,
            rnr_retry: None,
            max_rd_atomic: None,
            ..self.from(state, peer, psn)
        }
    }
}

/// What QUERY says of a queue pair. What its type does not have is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpInfo {
    /// Its state.
    pub state: QpState,
    /// Its sizes.
    pub caps: QpCaps,
    /// Its number.
    pub qpn: u32,
    /// The port.
    pub port: u32,
    /// Entry in the port's P_Key table.
    pub pkey_index: u32,
    /// The Q_Key.
    pub qkey: u32,
    /// What the peer may do.
    pub access: Access,
    /// The path to the peer.
    pub path: Path,
    /// The peer's number.
    pub dest_qpn: u32,
    /// The next PSN to send.
    pub sq_psn: u32,
    /// The next PSN expected.
    pub rq_psn: u32,
    /// Path MTU in bytes.
    pub path_mtu: u32,
    /// As [`QpAttr::timeout`].
    pub timeout: u32,
    /// As [`QpAttr::retry_cnt`].
    pub retry_cnt: u32,
    /// As [`QpAttr::rnr_retry`].
    pub rnr_retry: u32,
    /// As [`QpAttr::min_rnr_timer`].
    pub min_rnr_timer: u32,
    /// READs and atomics outstanding as initiator.
    pub max_rd_atomic: u32,
    /// READs and atomics outstanding as target.
    pub max_dest_rd_atomic: u32,
    /// As [`QpAttr::rate_limit`].
    pub rate_limit: u32,
    /// As [`QpAttr::max_burst`].
    pub max_burst: u32,
    /// As [`QpAttr::typical_packet`].
    pub typical_packet: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_uapi::class;
    use rdma_uapi::wire::{AttrHead, ATTR_HEAD, ATTR_ID, HEADER};
    use zerocopy::FromBytes;

    #[test]
    fn u15_a_modify_carries_only_what_was_set() {
        let mut words = [0; 128];
        let mut message = Builder::new(&mut words, class::QP_RC, 7);
        QpAttr::to(QpState::RTS).sq_psn(5).timeout(14).write(&mut message);
        let message = message.finish().unwrap();
        let mut ids = Vec::new();
        let mut at = HEADER;
        while at < message.len() {
            let (head, _) = AttrHead::read_from_prefix(&message[at..]).unwrap();
            let value = u32::read_from_prefix(&message[at + ATTR_HEAD..]).unwrap().0;
            ids.push((head.id & ATTR_ID, value));
            at += usize::from(head.length).next_multiple_of(8);
        }
        assert_eq!(ids, [(qp::STATE.id(), 3), (qp::SQ_PSN.id(), 5), (qp::TIMEOUT.id(), 14)]);
    }
}
