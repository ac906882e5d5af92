// SPDX-License-Identifier: MIT OR Apache-2.0
//! XRC: one connection to many shared receive queues (IBA annex A14).
//!
//! An initiator is RC's requester whose messages name a shared receive queue at the other end. A target is RC's responder
//! without a queue of its own and without a protection domain: for each request it takes both from the shared receive queue
//! that the request names, if that is one of the target's XRC domain, and completes into that queue's completion queue.
//!
//! A target holds its domain and nothing else, so a shared receive queue can go while a message for it arrives. What is left of
//! the message is refused then, and its receive has nobody to be completed to.

use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::qp::flush;
use crate::qp::requester::{self, Turn};
use crate::qp::responder::{Fault, Target};
use crate::qp::transport::{Outcome, Request};
use crate::qp::Arriving;
use crate::schedule::QpRef;
use crate::Budget;
use verbena_hw::cqe::{flags, vendor, Cqe};
use verbena_hw::id::{Qpn, Srqn};
use verbena_hw::qp::{QpState, QpType};
use verbena_hw::wire::PacketOpcode;

/// An XRC domain: what is in it.
#[derive(Debug, Default)]
pub(crate) struct Xrcd {
    pub(crate) srqs: u32,
    pub(crate) targets: u32,
}

impl Xrcd {
    pub(crate) fn users(&self) -> u32 {
        self.srqs + self.targets
    }
}

/// What a target has, and nobody else.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Domain {
    /// Its XRC domain; 0: it is no target.
    pub(crate) xrcdn: u32,
    /// The shared receive queue that the request under way names, or the last one named; 0: none has.
    pub(crate) srqn: Srqn,
}

/// The type of queue pair that a queue pair of this type sends to.
pub(crate) fn counterpart(kind: QpType) -> QpType {
    match kind {
        QpType::XRC_INI => QpType::XRC_TGT,
        other => other,
    }
}

/// The transport service of a connected queue pair's packets.
pub(crate) fn service(kind: QpType) -> u8 {
    match kind {
        QpType::UC => PacketOpcode::UC,
        QpType::XRC_INI | QpType::XRC_TGT => PacketOpcode::XRC,
        _ => PacketOpcode::RC,
    }
}

/// Gives a target its turn: answers that take several packets, and its end.
#[inline(never)]
pub(crate) fn target_turn<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, budget: &mut Budget) -> Turn {
    if hca.regs.is_fatal() {
        return Turn::Idle;
    }
    let answers = hca.answer(cx, at.qpn, budget);
    match hca.qps.get(at.qpn.get()).map(|qp| qp.state) {
        Some(QpState::ERR) => return flush::turn(hca, cx, at.qpn, budget),
        // It has nothing to drain.
        Some(QpState::SQD) => requester::drained(hca, cx, at),
        _ => {}
    }
    answers
}

impl Hca {
    /// As [`Hca::accept`], of a request to a target.
    ///
    /// # Errors
    ///
    /// What goes back instead of an execution.
    #[inline(never)]
    pub(crate) fn accept_named<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        qpn: Qpn,
        request: &Request,
        srqn: Srqn,
    ) -> Result<Target, Outcome> {
        let qp = self.qps.get(qpn.get()).ok_or(Outcome::Silence)?;
        let receives = matches!(qp.state, QpState::RTR | QpState::RTS | QpState::SQD);
        // Out of sequence it is not executed, and what it names does not matter any more, or not yet.
        if receives && request.psn == qp.resp.psn && !self.name(qpn, srqn) {
            return Err(self.refuse(cx, qpn, Fault::Domain(vendor::XRC_SRQ)));
        }
        self.accept(cx, qpn, request)
    }

    /// Lets a target act for a shared receive queue. `false`: that is none of its domain, or not the one that the message under
    /// way is for.
    fn name(&mut self, qpn: Qpn, srqn: Srqn) -> bool {
        let (Some(qp), Some(srq)) = (self.qps.get_mut(qpn.get()), self.srqs.get(srqn.get())) else {
            return false;
        };
        let begins = matches!(qp.resp.arriving, Arriving::Nothing);
        if srq.xrcdn == 0 || srq.xrcdn != qp.xrc.xrcdn || !(begins || srqn == qp.xrc.srqn) {
            return false;
        }
        qp.xrc.srqn = srqn;
        qp.pdn = srq.pdn;
        true
    }

    /// Writes the completion of a receive that a target has taken from the shared receive queue named last.
    #[inline(never)]
    pub(crate) fn complete_named<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, cqe: Cqe) {
        let Some(qp) = self.qps.get(qpn.get()) else {
            return;
        };
        assert!(
            qp.kind == QpType::XRC_TGT,
            "a queue pair holds its completion queues: DESTROY_CQ answers IN_USE"
        );
        // The number may have passed to another queue meanwhile, but not the domain's.
        let srq = self.srqs.get(qp.xrc.srqn.get()).filter(|srq| srq.xrcdn == qp.xrc.xrcdn);
        if let Some(srq) = srq {
            let cqe = Cqe {
                flags: cqe.flags | flags::XRC,
                src_qpn: qp.attrs.dest_qpn,
                cookie: srq.cookie,
                ..cqe
            };
            let cqn = srq.cqn;
            self.write_completion(cx, cqn, qpn, cqe);
        }
    }
}
