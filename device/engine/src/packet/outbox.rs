// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets on their way out: the queue that the engine's owner drains, and acknowledgements that wait to be put into it.

use super::codec::{self, Extended, Head};
use crate::counters::Counter;
use crate::env::{Env, HcaId};
use crate::hca::{Cx, Hca};
use crate::qp::xrc::service;
use crate::qp::Qp;
use crate::schedule::QpRef;
use crate::Uplink;
use std::collections::VecDeque;
use verbena_hw::grh::Route;
use verbena_hw::id::{Gid, Qpn};
use verbena_hw::qp::{Mtu, Path};
use verbena_hw::wire::Bth;

/// A packet that an HCA sends: from its IP header to its invariant CRC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Whose port it leaves by.
    pub hca: HcaId,
    /// What is behind the Ethernet header.
    pub bytes: Vec<u8>,
}

/// Packets that wait for the engine's owner at most. Whoever does not fetch them loses those that come after, and
/// the transport sends them again.
const LIMIT: usize = 1 << 14;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) uplink: Uplink,
    packets: VecDeque<Packet>,
    /// Queue pairs that owe an acknowledgement. They are not acknowledged one by one: what arrives between two polls is
    /// acknowledged once.
    due: Vec<QpRef>,
}

impl Outbox {
    pub(crate) fn new(uplink: Uplink) -> Self {
        Self {
            uplink,
            packets: VecDeque::new(),
            due: Vec::new(),
        }
    }

    /// Whether a path to `dgid` leads to packets; `local`: one of the engine's own HCAs has that GID.
    pub(crate) fn leads_to(&self, local: bool) -> bool {
        match self.uplink {
            Uplink::None => false,
            Uplink::Others => !local,
            Uplink::All => true,
        }
    }

    pub(crate) fn push(&mut self, hca: HcaId, bytes: Vec<u8>) {
        if self.packets.len() < LIMIT {
            self.packets.push_back(Packet { hca, bytes });
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    pub(crate) fn owes(&mut self, qp: QpRef) {
        self.due.push(qp);
    }

    pub(crate) fn has_dues(&self) -> bool {
        !self.due.is_empty()
    }

    pub(crate) fn take_dues(&mut self) -> Vec<QpRef> {
        core::mem::take(&mut self.due)
    }
}

/// The path MTU of a connected queue pair.
pub(super) fn mtu(qp: &Qp) -> usize {
    // RTR took only codes with a meaning, and nothing moves before.
    Mtu(qp.attrs.path_mtu).bytes().unwrap_or(256) as usize
}

impl Hca {
    /// The route of a path; `None`: nothing leaves the port, or not with this source.
    pub(super) fn route(&self, path: &Path) -> Option<Route> {
        let sgid: Gid = self.source_gid(path.sgid_index).filter(|_| self.port_is_active())?;
        Some(Route {
            sgid,
            dgid: path.dgid,
            flow_label: path.flow_label,
            traffic_class: path.traffic_class,
            hop_limit: path.hop_limit,
        })
    }

    /// A packet of a connected queue pair, to its peer; the transport service in its opcode is the queue pair's. `None`: it cannot leave, which is as if it were lost.
    ///
    /// # Errors
    ///
    /// Those of `fill`.
    pub(super) fn encode<E>(
        &self,
        qp: &Qp,
        bth: Bth,
        ext: &Extended,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let bth = Bth {
            opcode: bth.opcode().of_service(service(qp.kind)).0,
            ..bth
        };
        let path = &qp.attrs.path;
        let Some(route) = self.route(path) else {
            // What `fill` finds out does not depend on the port.
            fill(&mut vec![0; len])?;
            return Ok(None);
        };
        let head = Head {
            route,
            port: codec::source_port(path.flow_label, qp.qpn.get(), qp.attrs.dest_qpn.get()),
            bth,
            ext: *ext,
        };
        codec::encode(&head, len, fill).map(Some)
    }

    /// Puts a packet into the outbox.
    pub(super) fn send<E: Env>(&mut self, cx: &mut Cx<'_, E>, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => {
                self.counters.count(Counter::SentPkts);
                cx.outbox.push(self.id, bytes);
            }
            None => self.counters.count(Counter::SendErr),
        }
    }

    /// Sends a packet without data to the queue pair's peer.
    pub(super) fn send_head<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, bth: Bth, ext: &Extended) {
        let Some(qp) = self.qps.get(qpn.get()) else {
            return;
        };
        let nothing = |_: &mut [u8]| Ok::<_, core::convert::Infallible>(());
        let Ok(bytes) = self.encode(qp, bth, ext, 0, nothing);
        self.send(cx, bytes);
    }
}
