// SPDX-License-Identifier: MIT OR Apache-2.0
//! UD and the general services interface: both ends of a message that nobody acknowledges.
//!
//! A send is complete when it has left, whatever becomes of it (IBA vol. 1, 9.8.3): what cannot be delivered is dropped
//! and counted, at the HCA that drops it. What is wrong on the sender's own side fails the work request and puts the send
//! queue into SQE; receives go on.
//!
//! The general services interface is a queue pair like any other here, but for three things: on the fabric it is QP 1,
//! the only one of its HCA; its Q_Key is [`verbena_hw::qp::GSI_QKEY`]; and it takes management datagrams alone,
//! messages of exactly 256 bytes, so that nobody who knows the well-known key can break it with a longer one. Its number in
//! commands, completions and events is one of the device's choosing.

use crate::counter_set::Tally;
use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::{Env, HcaId};
use crate::hca::{Cx, Hca, Side, MTU, PORT};
use crate::limits::TURN;
use crate::mr::KeyFault;
use crate::packet;
use crate::qp::message::{BadRequest, Message, Receive, SendLimits, Unsent};
use crate::qp::requester::{self, Turn};
use crate::qp::responder::{receive_protection, Fault, Refusal};
use crate::qp::sg::{self, CopyFault, Stretches};
use crate::qp::transport::Nak;
use crate::qp::{flush, pace, Arriving, Qp, Wait};
use crate::schedule::QpRef;
use crate::Budget;
use verbena_hw::cqe::{self, vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::grh::{self, Grh, Route};
use verbena_hw::id::{Gid, Pdn, Qpn};
use verbena_hw::qp::{access, Path, QpState, QpType, QKEY_CONTROLLED};
use verbena_hw::wqe::{send_flags, SendOpcode, UdArgs};
use zerocopy::IntoBytes;

/// Length of a management datagram (IBA vol. 1, 13.4.2).
const MAD: u64 = 256;

/// A datagram on its way: its headers, and where its data is.
pub(crate) struct Datagram<'a> {
    pub(crate) data: Data<'a>,
    /// Bytes of it.
    pub(crate) len: u64,
    /// DETH.
    pub(crate) src_qpn: Qpn,
    pub(crate) qkey: u32,
    /// BTH.
    pub(crate) dest_qpn: Qpn,
    pub(crate) imm: Option<u32>,
    pub(crate) solicited: bool,
    /// IP and Ethernet.
    pub(crate) route: Route,
    pub(crate) sl: u8,
    pub(crate) smac: [u8; 6],
}

/// Where a datagram's data is.
#[derive(Clone, Copy)]
pub(crate) enum Data<'a> {
    /// In its sender's memory, or in the work request itself; all of it was found mapped.
    Message {
        from: HcaId,
        pdn: Pdn,
        message: &'a Message,
    },
    /// In the packet that it came in.
    Packet(&'a [u8]),
}

/// Gives the queue pair its turn.
#[inline(never)]
pub(crate) fn turn<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    let turn = sends(hcas, cx, at, budget);
    // Any of them may have received.
    for hca in hcas.iter_mut() {
        hca.notify(cx);
    }
    turn
}

fn sends<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    for _ in 0..TURN {
        let Some(hca) = hcas.get_mut(at.hca) else {
            return Turn::Idle;
        };
        if hca.regs.is_fatal() {
            return Turn::Idle;
        }
        let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
            return Turn::Idle;
        };
        match qp.state {
            QpState::RTS => {}
            QpState::SQD => {
                requester::drained(hca, cx, at);
                return Turn::Idle;
            }
            QpState::SQE => return flush::sends(hca, cx, at.qpn, budget),
            QpState::ERR => return flush::turn(hca, cx, at.qpn, budget),
            _ => return Turn::Idle,
        }
        debug_assert_eq!(qp.wait, Wait::Nothing, "a datagram waits for nothing");
        if pace::holds(cx, at.hca, qp) {
            return Turn::Idle;
        }
        let mut message = cx.pool.message();
        let fetched = message.fetch_datagram(cx.env.ram(at.hca), &qp.sq, qp.req.consumer);
        let mut copies = 0;
        let more = match fetched {
            Ok(Some(args)) => {
                qp.req.consumer = qp.req.consumer.wrapping_add(1);
                copies = send(hcas, cx, at, &mut message, &args);
                true
            }
            Ok(None) => false,
            Err(_) => {
                // There is no work request to complete: an event tells.
                hca.enter_error(cx, at.qpn);
                hca.raise_qp(cx, at.qpn, Event::QP_FATAL, vendor::RING_UNREACHABLE);
                false
            }
        };
        budget.operations = budget.operations.saturating_sub(copies.max(1));
        budget.bytes = budget.bytes.saturating_sub(message.len * u64::from(copies));
        cx.pool.give_message(message);
        if !more {
            return Turn::Idle;
        }
        if budget.is_spent() {
            break;
        }
    }
    Turn::More
}

/// Sends one message and completes it. Answers how often it was copied.
fn send<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, message: &mut Message, args: &UdArgs) -> u32 {
    let mut copies = 0;
    let sent = match check(hcas, cx, at, message, args) {
        Ok(Some(datagram)) => {
            copies = deliver(hcas, cx, at, &datagram);
            pace::sent_by(hcas, cx.now, at, datagram.len, 1);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(bad) => Err(bad),
    };
    let Some(hca) = hcas.get_mut(at.hca) else {
        return copies;
    };
    let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
        return copies;
    };
    qp.req.psn = qp.req.psn.add(1);
    if complete(hca, cx, at, message, sent) {
        hca.counters.count(Counter::SentMsgs);
        hca.counters.count(Counter::RdmaSends);
    }
    copies
}

/// Completes a work request that nobody acknowledges; whether it was sent.
pub(crate) fn complete<E: Env>(
    hca: &mut Hca,
    cx: &mut Cx<'_, E>,
    at: QpRef,
    message: &Message,
    sent: Result<(), BadRequest>,
) -> bool {
    let Some(qp) = hca.qps.get(at.qpn.get()) else {
        return false;
    };
    let signaled = qp.signal_all || message.is_signaled();
    let alive = qp.state != QpState::ERR;
    let mut cqe = Cqe {
        opcode: cqe::Opcode::SEND.0,
        wr_id: message.header.wr_id,
        ..Cqe::default()
    };
    match sent {
        Ok(()) => {
            hca.counters.add(Counter::SentBytes, message.len);
            hca.tally(at.qpn, Tally::SentMsgs, 1);
            hca.tally(at.qpn, Tally::SentBytes, message.len);
            if signaled {
                hca.complete(cx, at.qpn, Side::Send, cqe);
            }
            true
        }
        Err(bad) => {
            (cqe.status, cqe.vendor_err) = (bad.status.0, bad.reason);
            hca.complete(cx, at.qpn, Side::Send, cqe);
            // A message to itself may have ended it as a receiver, and a full completion queue ends it too.
            if alive && hca.qps.get(at.qpn.get()).is_some_and(|qp| qp.state != QpState::ERR) {
                hca.enter_send_error(cx, at.qpn);
            }
            false
        }
    }
}

/// Checks a work request and puts its headers together. `None`: it is right, and never leaves.
fn check<'a, E: Env>(
    hcas: &mut Hcas,
    cx: &Cx<'_, E>,
    at: QpRef,
    message: &'a mut Message,
    args: &UdArgs,
) -> Result<Option<Datagram<'a>>, BadRequest> {
    let Some(hca) = hcas.get_mut(at.hca) else {
        return Ok(None);
    };
    let Some(qp) = hca.qps.get(at.qpn.get()) else {
        return Ok(None);
    };
    message.len = 0;
    if !matches!(
        SendOpcode(message.header.opcode),
        SendOpcode::SEND | SendOpcode::SEND_WITH_IMM
    ) {
        return Err(BadRequest::operation(vendor::OPCODE));
    }
    let limits = SendLimits {
        max_sge: qp.max_send_sge,
        max_inline: qp.max_inline,
        rd_atomic: 0,
    };
    match message.check(limits) {
        Ok(()) if message.len <= u64::from(MTU.bytes().unwrap_or(0)) => {}
        // Nothing is sent, and nobody is told (IBA vol. 1, 9.8.3.1, C9-222 and 11.4.1.1).
        Ok(())
        | Err(Unsent::Bad(BadRequest {
            reason: vendor::MESSAGE_LEN,
            ..
        })) => {
            message.len = 0;
            hca.counters.count(Counter::SentTooLong);
            return Ok(None);
        }
        Err(Unsent::Bad(bad)) => return Err(bad),
        Err(Unsent::Local) => return Err(BadRequest::operation(vendor::OPCODE)),
    }
    let sgid = address(hca, args).ok_or(BadRequest::operation(vendor::ADDRESS))?;
    if message.inline().is_none() {
        // All of it, before anybody's receive is touched: the receiver is not to suffer from the sender's faults.
        let source = Stretches::list(&hca.mrs, qp.pdn, message.elements(), 0, 0);
        sg::check(&hca.mrs, qp.pdn, message.elements(), 0, message.len, 0)
            .and_then(|_| sg::reachable(cx.env.ram(at.hca), source, message.len))
            .map_err(|fault| BadRequest {
                status: Status::LOC_PROT_ERR,
                reason: fault.0,
            })?;
    }
    let path = &args.path;
    Ok(Some(Datagram {
        src_qpn: qp.fabric_qpn(),
        qkey: if args.qkey & QKEY_CONTROLLED != 0 {
            qp.attrs.qkey
        } else {
            args.qkey
        },
        dest_qpn: args.dest_qpn,
        imm: message.immediate(),
        solicited: message.header.flags & send_flags::SOLICITED != 0,
        route: Route {
            sgid,
            dgid: path.dgid,
            flow_label: path.flow_label,
            traffic_class: path.traffic_class,
            hop_limit: path.hop_limit,
        },
        sl: path.sl,
        smac: hca.config.mac,
        len: message.len,
        data: Data::Message {
            from: at.hca,
            pdn: qp.pdn,
            message,
        },
    }))
}

/// The source GID of a datagram, if its destination is in order.
fn address(hca: &Hca, args: &UdArgs) -> Option<Gid> {
    let path: &Path = &args.path;
    let good = args.reserved == 0
        && (path.reserved0, path.reserved1, path.reserved2) == (0, 0, 0)
        && args.dest_qpn.get() <= Qpn::MAX
        && path.port == PORT
        && path.flow_label < 1 << 20
        && path.sl < 16
        && !path.dgid.is_zero();
    hca.source_gid(path.sgid_index).filter(|_| good)
}

/// Whether packets go through an HCA's port.
fn reaches(hcas: &Hcas, id: HcaId) -> bool {
    hcas.get(id).is_some_and(Hca::port_is_active)
}

/// Carries a datagram to whom it is for, and answers how many that were: one, or the members of a group.
fn deliver<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef, datagram: &Datagram<'_>) -> u32 {
    let dgid = &datagram.route.dgid;
    let leaves = reaches(hcas, at.hca);
    if !leaves {
        unsent(hcas, at);
    }
    let group = dgid.is_multicast();
    let to = if group { None } else { cx.fabric.owner(dgid) };
    if leaves && cx.outbox.leads_to(to.is_some()) {
        packet::unreliable::datagram(hcas, cx, at, datagram);
        // Members of a group that are reached by a copy are so beside.
        if !group || cx.outbox.leads_to(true) {
            return 1;
        }
    }
    if group {
        let copies = if leaves && datagram.dest_qpn == Qpn::MULTICAST {
            replicate(hcas, cx, datagram)
        } else {
            0
        };
        if copies == 0 && !cx.outbox.leads_to(false) {
            unreachable(hcas, at);
        }
        return copies.max(1);
    }
    match to.filter(|&id| leaves && reaches(hcas, id)) {
        Some(to) => arrive(hcas, cx, datagram, to),
        None => unreachable(hcas, at),
    }
    1
}

/// A datagram has come to an HCA's port.
pub(crate) fn arrive<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, datagram: &Datagram<'_>, to: HcaId) {
    let Some(hca) = hcas.get_mut(to) else {
        return;
    };
    let qpn = if datagram.dest_qpn == Qpn::GSI {
        hca.gsi
    } else {
        // A number in commands is not one on the fabric.
        Some(datagram.dest_qpn).filter(|&qpn| Some(qpn) != hca.gsi)
    };
    match qpn.filter(|qpn| hca.qps.get(qpn.get()).is_some_and(|qp| receives(qp))) {
        Some(qpn) => receive(hcas, cx, datagram, QpRef { hca: to, qpn }),
        None => hca.counters.count(Counter::DroppedNoQp),
    }
}

/// Carries a datagram to every member of its group, and answers how many these are: the sender too, if it is one (IBA
/// vol. 1, 10.5.2). Each copy has its own Q_Key check, its own receive, and its own fate.
pub(crate) fn replicate<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, datagram: &Datagram<'_>) -> u32 {
    let members = cx.fabric.groups.members(&datagram.route.dgid).to_vec();
    for &to in &members {
        let Some(hca) = hcas.get(to.hca) else {
            continue;
        };
        // Who does not receive yet, or any more, is no loss.
        if hca.port_is_active() && hca.qps.get(to.qpn.get()).is_some_and(|qp| receives(qp)) {
            receive(hcas, cx, datagram, to);
        }
    }
    members.len() as u32
}

/// Counts a datagram that does not leave its own port.
#[cold]
fn unsent(hcas: &mut Hcas, at: QpRef) {
    if let Some(hca) = hcas.get_mut(at.hca) {
        hca.counters.count(Counter::SendErr);
    }
}

/// Counts a datagram that leads nowhere.
fn unreachable(hcas: &mut Hcas, at: QpRef) {
    if let Some(hca) = hcas.get_mut(at.hca) {
        hca.counters.count(Counter::DroppedUnreachable);
    }
}

/// Whether a queue pair takes datagrams.
fn receives(qp: &Qp) -> bool {
    let kind = matches!(qp.kind, QpType::UD | QpType::GSI);
    let ready = matches!(qp.state, QpState::RTR | QpState::RTS | QpState::SQD | QpState::SQE);
    kind && ready
}

/// Receives a datagram at a queue pair that takes datagrams.
fn receive<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, datagram: &Datagram<'_>, to: QpRef) {
    let Some(hca) = hcas.get_mut(to.hca) else {
        return;
    };
    let Some(qp) = hca.qps.get(to.qpn.get()) else {
        return;
    };
    if qp.attrs.qkey != datagram.qkey {
        hca.counters.count(Counter::QkeyViolations);
        return;
    }
    if qp.kind == QpType::GSI && datagram.len != MAD {
        hca.counters.count(Counter::DroppedLength);
        return;
    }
    let receive = match hca.take_receive(cx, to.qpn) {
        Ok(receive) => receive,
        Err(Refusal::NotReady) => {
            hca.counters.count(Counter::DroppedNoReceive);
            return;
        }
        Err(Refusal::Fault(fault)) => {
            // The sender hears nothing of it.
            let _ = hca.refuse(cx, to.qpn, fault);
            return;
        }
    };
    if let Err(fault) = copy(hcas, cx, datagram, to.hca, &receive) {
        fail_receive(hcas, cx, to, receive, fault);
        return;
    }
    if let Some(hca) = hcas.get_mut(to.hca) {
        hca.received(cx, to.qpn, datagram, &receive);
    }
    cx.pool.give_receive(receive);
}

/// Ends a receive, and its queue pair, in an error (IBA vol. 1, 10.10.3.2).
fn fail_receive<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, to: QpRef, receive: Box<Receive>, fault: Fault) {
    if let Some(hca) = hcas.get_mut(to.hca) {
        if let Some(qp) = hca.qps.get_mut(to.qpn.get()) {
            qp.resp.arriving = Arriving::Send(receive);
        }
        // The sender hears nothing of it.
        let _ = hca.refuse(cx, to.qpn, fault);
    }
}

/// Writes the GRH and the data into the receive.
fn copy<E: Env>(
    hcas: &Hcas,
    cx: &Cx<'_, E>,
    datagram: &Datagram<'_>,
    to: HcaId,
    receive: &Receive,
) -> Result<(), Fault> {
    let Some(there) = hcas.get(to) else {
        return Ok(());
    };
    let len = datagram.len;
    let all = len + grh::LEN as u64;
    if all > receive.room {
        return Err(Fault::Receive {
            status: Status::LOC_LEN_ERR,
            reason: vendor::RECV_TOO_SHORT,
            nak: Nak::InvalidRequest,
        });
    }
    let theirs = |fault: KeyFault| receive_protection(fault.0);
    let rights = access::LOCAL_WRITE;
    sg::check(&there.mrs, receive.pdn, receive.elements(), 0, all, rights).map_err(theirs)?;
    let peer_ram = cx.env.ram(to);
    let at = |offset| Stretches::list(&there.mrs, receive.pdn, receive.elements(), offset, rights);
    let grh = Grh::new(&datagram.route, len as u16, datagram.imm.is_some());
    sg::store(peer_ram, at(0), grh.as_bytes()).map_err(theirs)?;
    let data = at(grh::LEN as u64);
    let (from, pdn, message) = match datagram.data {
        Data::Message { from, pdn, message } => (from, pdn, message),
        Data::Packet(bytes) => return sg::store(peer_ram, data, bytes).map_err(theirs),
    };
    if let Some(bytes) = message.inline() {
        return sg::store(peer_ram, data, bytes).map_err(theirs);
    }
    let Some(here) = hcas.get(from) else {
        return Ok(());
    };
    let source = Stretches::list(&here.mrs, pdn, message.elements(), 0, 0);
    match sg::copy(cx.env.ram(from), source, peer_ram, data, len, true) {
        Ok(()) => Ok(()),
        Err(CopyFault::Destination(fault)) => Err(theirs(fault)),
        Err(CopyFault::Source(fault)) => core::unreachable!("`check` found all of it mapped: {fault:?}"),
    }
}

impl Hca {
    /// Completes the receive of a datagram.
    fn received<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, datagram: &Datagram<'_>, receive: &Receive) {
        self.counters.count(Counter::RcvdMsgs);
        self.counters.add(Counter::RcvdBytes, datagram.len);
        self.tally(qpn, Tally::RcvdMsgs, 1);
        self.tally(qpn, Tally::RcvdBytes, datagram.len);
        let mut flags = cqe::flags::GRH;
        if datagram.imm.is_some() {
            flags |= cqe::flags::IMM;
        }
        if datagram.solicited {
            flags |= cqe::flags::SOLICITED;
        }
        let cqe = Cqe {
            opcode: cqe::Opcode::RECV.0,
            flags,
            wr_id: receive.wr_id,
            byte_len: datagram.len as u32 + grh::LEN as u32,
            imm: datagram.imm.unwrap_or(0),
            src_qpn: datagram.src_qpn,
            // The only one.
            pkey_index: 0,
            sl: datagram.sl,
            smac: datagram.smac,
            vlan: 0xffff,
            ..Cqe::default()
        };
        self.complete(cx, qpn, Side::Recv, cqe);
    }
}
