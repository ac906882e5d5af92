// SPDX-License-Identifier: MIT OR Apache-2.0
//! UC and datagrams over packets: what leaves, and what arrives. Nothing comes back.

use super::answers::{data_request, plain_request, Write};
use super::codec::{self, Extended, Head, Packet};
use super::outbox::mtu;
use super::sender::{data_head, source};
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::{Env, HcaId};
use crate::hca::{Cx, Hca, MTU};
use crate::qp::datagram::{self, Data, Datagram};
use crate::qp::message::{Message, Operation};
use crate::qp::sg::{self, Stretches};
use crate::qp::transport::Request;
use crate::schedule::QpRef;
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::wire::{Bth, Deth, ImmDt, PacketOpcode};

/// Sends a run of packets of a UC message.
pub(crate) fn send<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, message: &Message, run: &Request) {
    let Some(hca) = hcas.get_mut(at.hca) else {
        return;
    };
    let first = run.psn.add(Psn::MASK + 1 - message.psn.get()).get();
    for index in first..first + run.packets {
        let Some(qp) = hca.qps.get(at.qpn.get()) else {
            return;
        };
        let (bth, ext, before, len) = data_head(qp, message, index);
        let fill = |to: &mut [u8]| source(hca, cx.env, qp, message, before, to);
        // The sender found all of the run mapped before.
        let bytes = hca.encode(qp, bth, &ext, len as usize, fill).ok().flatten();
        if bytes.is_none() && index == 0 {
            hca.counters.count(Counter::DroppedUnreachable);
        }
        hca.send(cx, bytes);
    }
}

/// Sends a datagram.
pub(crate) fn datagram<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, datagram: &Datagram<'_>) {
    let Some(hca) = hcas.get_mut(at.hca) else {
        return;
    };
    let opcode = if datagram.imm.is_some() {
        PacketOpcode::UD_SEND_ONLY_WITH_IMM
    } else {
        PacketOpcode::UD_SEND_ONLY
    };
    let psn = hca.qps.get(at.qpn.get()).map(|qp| qp.req.psn).unwrap_or_default();
    let mut bth = Bth::new(opcode, datagram.dest_qpn, psn);
    if datagram.solicited {
        bth.flags |= Bth::SOLICITED;
    }
    let (own, peer) = (datagram.src_qpn.get(), datagram.dest_qpn.get());
    let head = Head {
        route: datagram.route,
        port: codec::source_port(datagram.route.flow_label, own, peer),
        bth,
        ext: Extended {
            deth: Deth {
                qkey: datagram.qkey.into(),
                src_qpn: own.into(),
            },
            imm: ImmDt {
                data: datagram.imm.unwrap_or(0).to_le_bytes(),
            },
            ..Extended::default()
        },
    };
    let fill = |to: &mut [u8]| match datagram.data {
        Data::Packet(bytes) => {
            to.copy_from_slice(bytes);
            Ok(())
        }
        Data::Message { pdn, message, .. } => match message.inline() {
            Some(bytes) => {
                to.copy_from_slice(bytes);
                Ok(())
            }
            None => {
                let from = Stretches::list(&hca.mrs, pdn, message.elements(), 0, 0);
                sg::load(cx.env.ram(hca.id), from, to)
            }
        },
    };
    // The sender found all of it mapped before.
    let bytes = codec::encode(&head, datagram.len as usize, fill).ok();
    hca.send(cx, bytes);
}

/// A packet of an unreliable connection has come to its queue pair.
pub(super) fn connected<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, qpn: Qpn, packet: &Packet<'_>) {
    let Some(qp) = hca.qps.get_mut(qpn.get()) else {
        return;
    };
    let mtu = mtu(qp) as u32;
    let Some(request) = plain_request(packet, mtu) else {
        return;
    };
    // Something before it is missing: the rest of its message means nothing, and its lengths neither.
    if !request.first && qp.resp.psn != request.psn {
        qp.resp.abandon();
        return;
    }
    let write = qp.wire.as_ref().map_or(Write::default(), |wire| wire.answers.write);
    let Some((mut request, state)) = data_request(request, packet, mtu, write) else {
        qp.resp.abandon();
        hca.counters.count(Counter::DroppedLength);
        return;
    };
    let Some(target) = hca.accept_run(cx, qpn, &request) else {
        return;
    };
    let moved = hca.store(cx, qpn, target, &request, packet.data);
    if request.operation == Operation::Send {
        request.total += hca.arrived(qpn);
    }
    if let Some(wire) = hca.qps.get_mut(qpn.get()).and_then(|qp| qp.wire.as_mut()) {
        wire.answers.write = state;
    }
    hca.run_moved(cx, qpn, &request, moved);
}

/// A datagram has come to a port, or, without one, to a group.
pub(super) fn arrived<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, to: Option<HcaId>, packet: &Packet<'_>) {
    let (bth, ext) = (&packet.head.bth, &packet.head.ext);
    let with_imm = packet.opcode() == PacketOpcode::UD_SEND_ONLY_WITH_IMM;
    let datagram = Datagram {
        data: Data::Packet(packet.data),
        len: packet.data.len() as u64,
        src_qpn: Qpn::truncate(ext.deth.src_qpn.get()),
        qkey: ext.deth.qkey.get(),
        dest_qpn: bth.qpn(),
        imm: with_imm.then(|| u32::from_le_bytes(ext.imm.data)),
        solicited: bth.flags & Bth::SOLICITED != 0,
        route: packet.head.route,
        // Neither is in what is behind the Ethernet header, but the address may be in a GID that was made of it.
        sl: 0,
        smac: mac(&packet.head.route.sgid),
    };
    match to {
        Some(to) if datagram.len > u64::from(MTU.bytes().unwrap_or(0)) => {
            if let Some(hca) = hcas.get_mut(to) {
                hca.counters.count(Counter::DroppedLength);
            }
        }
        Some(to) => datagram::arrive(hcas, cx, &datagram, to),
        None => {
            datagram::replicate(hcas, cx, &datagram);
        }
    }
}

/// The MAC address that a link-local GID was made of, or zeros.
fn mac(gid: &Gid) -> [u8; 6] {
    let [.., a, b, c, _, _, d, e, f] = gid.0;
    let mac = [a ^ 2, b, c, d, e, f];
    if Gid::link_local(mac) == *gid {
        mac
    } else {
        [0; 6]
    }
}
