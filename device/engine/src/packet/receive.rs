// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet that has come: whom it is for.

use super::codec::{self, Malformed, Packet};
use super::{answers, arrivals, unreliable};
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::schedule::QpRef;
use verbena_hw::grh::Route;
use verbena_hw::id::{Gid, Qpn};
use verbena_hw::qp::QpType;
use verbena_hw::wire::{PacketOpcode, PKEY_PARTITION};

/// Takes a packet, from its IP header on. What is for nobody here is ignored.
pub(crate) fn receive<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, bytes: &[u8]) {
    let packet = match codec::decode(bytes) {
        Ok(packet) => packet,
        Err(Malformed::Foreign) => return,
        Err(Malformed::Transport(route)) => {
            if let Some(hca) = port(hcas, cx, &route.dgid) {
                hca.counters.count(Counter::DroppedMalformed);
            }
            return;
        }
    };
    let dgid = packet.head.route.dgid;
    let service = packet.service();
    if dgid.is_multicast() {
        return group(hcas, cx, &packet);
    }
    let Some(hca) = port(hcas, cx, &dgid) else {
        return;
    };
    let id = hca.id;
    if admit(hca, &packet) {
        match service {
            PacketOpcode::RC => connected(hca, cx, QpType::RC, &packet),
            PacketOpcode::UC => connected(hca, cx, QpType::UC, &packet),
            PacketOpcode::XRC if codec::is_response(packet.opcode()) => connected(hca, cx, QpType::XRC_INI, &packet),
            PacketOpcode::XRC => connected(hca, cx, QpType::XRC_TGT, &packet),
            _ => unreliable::arrived(hcas, cx, Some(id), &packet),
        }
    }
    if let Some(hca) = hcas.get_mut(id) {
        hca.notify(cx);
    }
}

/// Takes a packet that was sent to a group. It counts at every HCA that has members.
fn group<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, packet: &Packet<'_>) {
    let bth = &packet.head.bth;
    if packet.service() != PacketOpcode::UD || bth.qpn() != Qpn::MULTICAST {
        return;
    }
    let members = cx.fabric.groups.members(&packet.head.route.dgid);
    let mut hcas_of: Vec<_> = members.iter().map(|member| member.hca).collect();
    hcas_of.dedup();
    let mut admitted = false;
    for id in &hcas_of {
        if let Some(hca) = hcas.get_mut(*id).filter(|hca| hca.port_is_active()) {
            admitted |= admit(hca, packet);
        }
    }
    if admitted {
        unreliable::arrived(hcas, cx, None, packet);
    }
    for hca in hcas.iter_mut() {
        hca.notify(cx);
    }
}

/// The HCA that has the GID, if its port takes packets.
fn port<'a, E: Env>(hcas: &'a mut Hcas, cx: &Cx<'_, E>, dgid: &Gid) -> Option<&'a mut Hca> {
    let id = cx.fabric.owner(dgid)?;
    hcas.get_mut(id).filter(|hca| hca.port_is_active())
}

/// Whether a packet is intact and of the port's partition.
fn admit(hca: &mut Hca, packet: &Packet<'_>) -> bool {
    hca.counters.count(Counter::RcvdPkts);
    if !packet.is_intact() {
        hca.counters.count(Counter::IcrcErrors);
        return false;
    }
    // The only partition there is, whose full members need not be asked who else is one (IBA vol. 1, 10.9.1.2, 10.9.3).
    if packet.head.bth.pkey.get() & PKEY_PARTITION != PKEY_PARTITION {
        hca.counters.count(Counter::PkeyViolations);
        return false;
    }
    true
}

/// A packet of a connection.
fn connected<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, kind: QpType, packet: &Packet<'_>) {
    let qpn = packet.head.bth.qpn();
    if !is_peer(hca, kind, packet) {
        hca.counters.count(Counter::DroppedNoQp);
        return;
    }
    match packet.opcode() {
        _ if kind == QpType::UC => unreliable::connected(hca, cx, qpn, packet),
        opcode if codec::is_response(opcode) => {
            let at = QpRef { hca: hca.id, qpn };
            arrivals::response(hca, cx, at, packet);
        }
        _ => answers::request(hca, cx, qpn, packet),
    }
}

/// Whether a packet is from the other end of the connection of the queue pair that it names. Nobody else's get through,
/// whatever PSN and keys they guess.
fn is_peer(hca: &Hca, kind: QpType, packet: &Packet<'_>) -> bool {
    let Route { sgid, dgid, .. } = packet.head.route;
    hca.qps.get(packet.head.bth.qpn().get()).is_some_and(|qp| {
        let path = &qp.attrs.path;
        qp.kind == kind && qp.wire.is_some() && path.dgid == sgid && hca.source_gid(path.sgid_index) == Some(dgid)
    })
}
