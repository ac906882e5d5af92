// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short cut between two queue pairs of one server: a request goes to its responder in a call, its data in one copy.
//!
//! The results are those of packets: the same acknowledgements, NAKs and silences, decided by the same responder.

use crate::counters::Counter;
use crate::engine::Hcas;
use crate::env::{Dma, Env, GuestRam};
use crate::hca::{Cx, Hca};
use crate::mr::KeyFault;
use crate::qp::message::{BadRequest, Message, Operation};
use crate::qp::responder::{receive_protection, Fault, Target};
use crate::qp::sg::{self, CopyFault, Stretches};
use crate::qp::transport::{Outcome, Request};
use crate::qp::xrc::counterpart;
use crate::qp::{Link, Qp};
use crate::ram;
use crate::schedule::QpRef;
use core::sync::atomic::Ordering;
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::Pdn;
use verbena_hw::qp::access;
use verbena_hw::wqe::AtomicArgs;

/// How a fault of one's own memory ends a work request.
pub(crate) fn local_protection(fault: KeyFault) -> BadRequest {
    BadRequest {
        status: Status::LOC_PROT_ERR,
        reason: fault.0,
    }
}

/// Carries a request of `at`'s message to its peer, and the outcome back.
///
/// # Errors
///
/// What is wrong with the message on the requester's own side.
pub(crate) fn deliver<E: Env>(
    hcas: &mut Hcas,
    cx: &mut Cx<'_, E>,
    at: QpRef,
    pdn: Pdn,
    message: &Message,
    request: &Request,
) -> Result<Outcome, BadRequest> {
    let own = source(hcas, at, pdn, message, request)?;
    let Some(peer) = find_peer(hcas, cx, at) else {
        count_unsent(hcas, at);
        return Ok(Outcome::Silence);
    };
    let target = match hcas.get_mut(peer.hca) {
        Some(hca) => {
            let accepted = match message.srqn {
                Some(srqn) => hca.accept_named(cx, peer.qpn, request, srqn),
                None => hca.accept(cx, peer.qpn, request),
            };
            match accepted {
                Ok(target) => target,
                Err(outcome) => return Ok(outcome),
            }
        }
        None => return Ok(Outcome::Silence),
    };
    let moved = if request.operation.is_atomic() {
        atomic(hcas, cx, at, pdn, message, own, peer, target, request)
    } else if request.len == 0 {
        Ok(())
    } else {
        transfer(hcas, cx, at, pdn, message, own, peer, target, request)
    };
    let Some(hca) = hcas.get_mut(peer.hca) else {
        return Ok(Outcome::Silence);
    };
    match moved {
        Ok(()) => Ok(hca.executed(cx, peer.qpn, request)),
        Err(Side::Own(fault)) => Err(local_protection(fault)),
        Err(Side::Peer(fault)) if request.operation == Operation::Send => {
            Ok(hca.refuse(cx, peer.qpn, receive_protection(fault.0)))
        }
        Err(Side::Peer(fault)) => Ok(hca.refuse(cx, peer.qpn, Fault::Unreachable(fault.0))),
    }
}

/// On whose side a transfer failed.
enum Side {
    Own(KeyFault),
    Peer(KeyFault),
}

/// Checks the requester's own memory. As [`sg::check`], the DMA address if the run is in one stretch.
#[inline]
fn source(hcas: &Hcas, at: QpRef, pdn: Pdn, message: &Message, request: &Request) -> Result<Option<u64>, BadRequest> {
    let Some(hca) = hcas.get(at.hca) else {
        return Ok(None);
    };
    // The first run answers for the whole message, so that a bad one sends nothing.
    let len = if request.first { request.total } else { request.len };
    check_own(hca, pdn, message, len)
}

/// Checks the next `len` bytes of a message's own memory.
#[inline]
pub(crate) fn check_own(hca: &Hca, pdn: Pdn, message: &Message, len: u64) -> Result<Option<u64>, BadRequest> {
    if message.inline().is_some() {
        return Ok(None);
    }
    let rights = own_rights(message.operation);
    sg::check(&hca.mrs, pdn, message.elements(), message.offset, len, rights).map_err(local_protection)
}

/// The rights that an operation needs in its requester's own memory.
pub(crate) fn own_rights(operation: Operation) -> u32 {
    match operation {
        Operation::Read | Operation::CompareSwap | Operation::FetchAdd => access::LOCAL_WRITE,
        _ => 0,
    }
}

/// The queue pair that `qp` is connected to, if nothing has changed since it was found.
#[inline]
pub(crate) fn known_peer<E: Env>(cx: &Cx<'_, E>, qp: &Qp) -> Option<QpRef> {
    let link = &qp.req.link;
    let known = link.epoch == cx.fabric.epoch() && link.mutual == cx.fabric.ways();
    let qpn = qp.attrs.dest_qpn;
    link.peer.filter(|_| known).map(|hca| QpRef { hca, qpn })
}

/// The queue pair that is connected to `at`, if there is one and each of the two names the other.
#[inline(never)]
pub(crate) fn find_peer<E: Env>(hcas: &mut Hcas, cx: &mut Cx<'_, E>, at: QpRef) -> Option<QpRef> {
    let epoch = cx.fabric.epoch();
    let hca = hcas.get(at.hca)?;
    let qp = hca.qps.get(at.qpn.get())?;
    if let Some(peer) = known_peer(cx, qp) {
        return Some(peer);
    }
    let (kind, dgid, dest_qpn, mut link) = (qp.kind, qp.attrs.path.dgid, qp.attrs.dest_qpn, qp.req.link);
    if link.epoch != epoch {
        let sgid = hca.source_gid(qp.attrs.path.sgid_index);
        let reaches = |id| hcas.get(id).is_some_and(|peer| peer.port_is_active());
        link = Link {
            epoch,
            mutual: 0,
            peer: cx
                .fabric
                .owner(&dgid)
                .filter(|&id| sgid.is_some() && hca.port_is_active() && reaches(id)),
            sgid: sgid.unwrap_or_default(),
        };
        hcas.qp_mut(at)?.req.link = link;
    }
    let peer_hca = hcas.get(link.peer?)?;
    let peer = peer_hca.qps.get(dest_qpn.get())?;
    // A connection is two queue pairs that name each other: nobody else's requests get through, whatever PSN and
    // keys they guess.
    let mutual = peer.attrs.dest_qpn == at.qpn
        && peer.kind == counterpart(kind)
        && peer.wire.is_none()
        && peer.attrs.path.dgid == link.sgid
        && peer_hca.source_gid(peer.attrs.path.sgid_index) == Some(dgid);
    let peer = QpRef {
        hca: peer_hca.id,
        qpn: dest_qpn,
    };
    link.mutual = if mutual { cx.fabric.ways() } else { 0 };
    hcas.qp_mut(at)?.req.link = link;
    mutual.then_some(peer)
}

/// Nobody was reached: counts it as an error of sending, if it was the queue pair's own port that nothing leaves, or not with
/// this source.
#[cold]
pub(crate) fn count_unsent(hcas: &mut Hcas, at: QpRef) {
    let Some(hca) = hcas.get_mut(at.hca) else {
        return;
    };
    let index = hca.qps.get(at.qpn.get()).map(|qp| qp.attrs.path.sgid_index);
    let leaves = hca.port_is_active() && index.is_none_or(|index| hca.source_gid(index).is_some());
    if !leaves {
        hca.counters.count(Counter::SendErr);
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "both ends of a transfer, each with its key, place and memory"
)]
#[inline]
fn transfer<E: Env>(
    hcas: &Hcas,
    cx: &Cx<'_, E>,
    at: QpRef,
    pdn: Pdn,
    message: &Message,
    own: Option<u64>,
    peer: QpRef,
    target: Target,
    request: &Request,
) -> Result<(), Side> {
    let (Some(here), Some(there)) = (hcas.get(at.hca), hcas.get(peer.hca)) else {
        return Ok(());
    };
    let (own_ram, peer_ram) = (cx.env.ram(at.hca), cx.env.ram(peer.hca));
    let len = request.len;
    let remote = there.stretches(peer.qpn, target, request).map_err(Side::Peer)?;
    if let Some(bytes) = message.inline() {
        return sg::store(peer_ram, remote, bytes).map_err(Side::Peer);
    }
    let local = match own {
        Some(addr) => Stretches::One { addr, left: len },
        None => Stretches::list(
            &here.mrs,
            pdn,
            message.elements(),
            message.offset,
            own_rights(request.operation),
        ),
    };
    if request.operation == Operation::Read {
        sg::copy(peer_ram, remote, own_ram, local, len, request.last).map_err(|fault| match fault {
            CopyFault::Source(fault) => Side::Peer(fault),
            CopyFault::Destination(fault) => Side::Own(fault),
        })
    } else {
        sg::copy(own_ram, local, peer_ram, remote, len, request.last).map_err(|fault| match fault {
            CopyFault::Source(fault) => Side::Own(fault),
            CopyFault::Destination(fault) => Side::Peer(fault),
        })
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "both ends of an operation, each with its key, place and memory"
)]
fn atomic<E: Env>(
    hcas: &Hcas,
    cx: &Cx<'_, E>,
    at: QpRef,
    pdn: Pdn,
    message: &Message,
    own: Option<u64>,
    peer: QpRef,
    target: Target,
    request: &Request,
) -> Result<(), Side> {
    let (Some(here), Target::At(addr)) = (hcas.get(at.hca), target) else {
        return Err(Side::Peer(KeyFault(vendor::ATOMIC_OPERAND)));
    };
    let mut args = request.atomic;
    if request.operation == Operation::AtomicWrite {
        let mut value = [0; 8];
        match (message.inline(), own) {
            (Some(bytes), _) => value.copy_from_slice(bytes),
            (None, own) => {
                let from = match own {
                    Some(addr) => Stretches::One { addr, left: 8 },
                    None => Stretches::list(&here.mrs, pdn, message.elements(), 0, 0),
                };
                sg::load(cx.env.ram(at.hca), from, &mut value).map_err(Side::Own)?;
            }
        }
        args.swap = u64::from_le_bytes(value);
    }
    let before = perform(cx.env.ram(peer.hca), addr, request.operation, args).map_err(Side::Peer)?;
    if request.operation == Operation::AtomicWrite {
        return Ok(());
    }
    let result = match own {
        Some(addr) => Stretches::One { addr, left: 8 },
        None => Stretches::list(&here.mrs, pdn, message.elements(), 0, access::LOCAL_WRITE),
    };
    sg::store(cx.env.ram(at.hca), result, &before.to_le_bytes()).map_err(Side::Own)
}

/// Executes an atomic on the word at a DMA address, and answers what it held before. An atomic write stores `swap`.
pub(crate) fn perform<R: GuestRam>(
    ram: &R,
    addr: u64,
    operation: Operation,
    args: AtomicArgs,
) -> Result<u64, KeyFault> {
    let unreachable = |_| KeyFault(vendor::UNREACHABLE);
    let place = ram::whole(ram, addr, 8, Dma::Write).map_err(unreachable)?;
    let word = ram::word(&place, 0).map_err(unreachable)?;
    // A real atomic access: it is atomic against the guest's own processors too, and orders like a fence.
    Ok(match operation {
        // Release: what was written before is visible to whoever sees the value.
        Operation::AtomicWrite => {
            word.store(args.swap, Ordering::Release);
            0
        }
        Operation::CompareSwap => word
            .compare_exchange(args.compare_add, args.swap, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap_or_else(|found| found),
        _ => word.fetch_add(args.compare_add, Ordering::SeqCst),
    })
}
