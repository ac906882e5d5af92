// SPDX-License-Identifier: MIT OR Apache-2.0
//! The responder: whether a request is in sequence, allowed, and has somewhere to go.
//!
//! A request passes through [`Hca::accept`], then its data is moved, then [`Hca::executed`]. What is wrong with it
//! becomes a [`Fault`], and each fault has, in one place, its NAK, its completion, its event and the end of the queue
//! pair (IBA vol. 1, 9.9.3: responder error behaviour).

use crate::counter_set::Tally;
use crate::counters::Counter;
use crate::env::Env;
use crate::hca::{Cx, Hca, Side};
use crate::mr::KeyFault;
use crate::qp::message::{Operation, Receive, Tail};
use crate::qp::sg::{self, Stretches};
use crate::qp::transport::{Nak, Outcome, Request};
use crate::qp::{Arriving, Qp};
use crate::srq::Taken;
use core::sync::atomic::{fence, Ordering};
use verbena_hw::cqe::{self, vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::{Qpn, Srqn};
use verbena_hw::qp::{access, QpState};
use verbena_hw::wqe::{flush, FlushArgs};

/// Where the data of an accepted request is or goes on the responder's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// All of it at this DMA address.
    At(u64),
    /// In the region of the request's R_Key, in several stretches (or none, if the request has no data).
    Region,
    /// In the elements of the receive that is arriving.
    Receive,
}

/// What is wrong with a request. The number is the [`vendor`] reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not what the transport allows here.
    InvalidRequest(u32),
    /// The R_Key does not give what the request wants.
    Access(u32),
    /// The receive cannot take it: how its work request ends, and what the peer hears.
    Receive { status: Status, reason: u32, nak: Nak },
    /// It names a shared receive queue that is none of the XRC domain's.
    Domain(u32),
    /// Memory that the guest has unmapped under a region or a ring.
    Unreachable(u32),
}

impl Hca {
    /// Decides about a request that has come to the queue pair `qpn` of this HCA from its peer.
    ///
    /// # Errors
    ///
    /// What goes back instead of an execution.
    pub(crate) fn accept<E: Env>(
        &mut self,
        cx: &mut Cx<'_, E>,
        qpn: Qpn,
        request: &Request,
    ) -> Result<Target, Outcome> {
        let qp = self.qps.get(qpn.get()).ok_or(Outcome::Silence)?;
        if !matches!(qp.state, QpState::RTR | QpState::RTS | QpState::SQD) {
            return Err(Outcome::Silence);
        }
        let ahead = request.psn.distance(qp.resp.psn);
        if ahead != 0 {
            return Err(out_of_sequence(qp, request, ahead));
        }
        if qp.state == QpState::RTR && !qp.resp.established {
            self.established(cx, qpn);
        }
        let qp = self.qps.get(qpn.get()).ok_or(Outcome::Silence)?;
        if let Err(fault) = allowed(qp, request) {
            return Err(self.refuse(cx, qpn, fault));
        }
        let target = match request.operation {
            Operation::Send => self.accept_send(cx, qpn, request),
            Operation::Write => self.accept_write(cx, qpn, request),
            Operation::Read => self.region(qpn, request, access::REMOTE_READ),
            Operation::CompareSwap | Operation::FetchAdd => self.accept_atomic(qpn, request, access::REMOTE_ATOMIC),
            Operation::AtomicWrite => self.accept_atomic(qpn, request, access::REMOTE_WRITE),
            Operation::Flush => self.accept_flush(qpn, request),
            // They are their requester's own.
            Operation::LocalInvalidate | Operation::BindWindow | Operation::FastRegister => {
                Err(Refusal::Fault(Fault::InvalidRequest(vendor::OPCODE)))
            }
        };
        target.map_err(|refusal| match refusal {
            Refusal::NotReady => {
                self.counters.count(Counter::SendRnrErr);
                let code = self.qps.get(qpn.get()).map_or(0, |qp| qp.attrs.min_rnr_timer);
                Outcome::Rnr(code)
            }
            Refusal::Fault(fault) => self.refuse(cx, qpn, fault),
        })
    }

    fn accept_send<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, request: &Request) -> Result<Target, Refusal> {
        if request.first {
            let receive = self.take_receive(cx, qpn)?;
            if let Some(qp) = self.qps.get_mut(qpn.get()) {
                qp.resp.arriving = Arriving::Send(receive);
            }
        }
        let Some(Qp { resp, .. }) = self.qps.get(qpn.get()).map(|qp| &**qp) else {
            return Err(Refusal::Fault(Fault::InvalidRequest(vendor::NONE)));
        };
        let Arriving::Send(receive) = &resp.arriving else {
            return Err(Refusal::Fault(Fault::InvalidRequest(vendor::NONE)));
        };
        // The first run answers for the whole message, so that one which does not fit moves nothing.
        let len = if request.first { request.total } else { request.len };
        if len > receive.room - receive.offset {
            return Err(Refusal::Fault(Fault::Receive {
                status: Status::LOC_LEN_ERR,
                reason: vendor::RECV_TOO_SHORT,
                nak: Nak::InvalidRequest,
            }));
        }
        let at = sg::check(
            &self.mrs,
            receive.pdn,
            receive.elements(),
            receive.offset,
            len,
            access::LOCAL_WRITE,
        );
        match at {
            Ok(at) => Ok(at.map_or(Target::Receive, Target::At)),
            Err(fault) => Err(Refusal::Fault(receive_protection(fault.0))),
        }
    }

    fn accept_write<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, request: &Request) -> Result<Target, Refusal> {
        let target = self.region(qpn, request, access::REMOTE_WRITE)?;
        let consumes = request.last && request.tail != Tail::Nothing;
        let mut wr_id = None;
        if consumes {
            let receive = self.take_receive(cx, qpn)?;
            wr_id = Some(receive.wr_id);
            cx.pool.give_receive(receive);
        }
        if consumes || !(request.first && request.last) {
            if let Some(qp) = self.qps.get_mut(qpn.get()) {
                qp.resp.arriving = Arriving::Write(wr_id);
            }
        }
        Ok(target)
    }

    fn accept_atomic(&self, qpn: Qpn, request: &Request, rights: u32) -> Result<Target, Refusal> {
        if request.addr % 8 != 0 {
            return Err(Refusal::Fault(Fault::InvalidRequest(vendor::ATOMIC_OPERAND)));
        }
        match self.region(qpn, request, rights)? {
            Target::At(addr) if addr % 8 == 0 => Ok(Target::At(addr)),
            // Aligned in the region's addresses, but its bytes are not where one atomic access reaches.
            _ => Err(Refusal::Fault(Fault::InvalidRequest(vendor::ATOMIC_OPERAND))),
        }
    }

    /// A FLUSH: everything that was written before it is in memory already, because requests are executed one by one, and
    /// is made visible by a fence when this one is.
    #[cold]
    fn accept_flush(&self, qpn: Qpn, request: &Request) -> Result<Target, Refusal> {
        let args: FlushArgs = zerocopy::transmute!(request.atomic);
        let pdn = self.qps.get(qpn.get()).map(|qp| qp.pdn).unwrap_or_default();
        let checked = if args.level == flush::REGION {
            self.mrs.check_whole(request.rkey, (qpn, pdn), flush_rights(&args))
        } else if args.len == 0 {
            // As with READ and WRITE: without bytes no memory is named.
            Ok(())
        } else {
            self.mrs
                .check_remote(request.rkey, (qpn, pdn), request.addr, args.len, flush_rights(&args))
                .map(|_| ())
        };
        checked.map_err(|fault| Refusal::Fault(Fault::Access(fault.0)))?;
        fence(Ordering::SeqCst);
        Ok(Target::Region)
    }

    /// The memory of an accepted request's data on this side.
    ///
    /// # Errors
    ///
    /// What has become of the key since it was accepted.
    #[inline]
    pub(crate) fn stretches(&self, qpn: Qpn, target: Target, request: &Request) -> Result<Stretches<'_>, KeyFault> {
        let gone = KeyFault(vendor::NONE);
        let Some(qp) = self.qps.get(qpn.get()) else {
            return Err(gone);
        };
        match target {
            Target::At(addr) => Ok(Stretches::One {
                addr,
                left: request.len,
            }),
            Target::Region => {
                let rights = match request.operation {
                    Operation::Read => access::REMOTE_READ,
                    _ => access::REMOTE_WRITE,
                };
                let by = (qpn, qp.pdn);
                self.mrs
                    .check_remote(request.rkey, by, request.addr, request.len, rights)
                    .map(Stretches::Range)
            }
            Target::Receive => match &qp.resp.arriving {
                Arriving::Send(receive) => Ok(Stretches::list(
                    &self.mrs,
                    receive.pdn,
                    receive.elements(),
                    receive.offset,
                    access::LOCAL_WRITE,
                )),
                _ => Err(gone),
            },
        }
    }

    /// The request's range of the region that its R_Key names.
    #[inline]
    fn region(&self, qpn: Qpn, request: &Request, rights: u32) -> Result<Target, Refusal> {
        // A request without data names no memory, and its R_Key is not looked at (IBA vol. 1, 9.7.4.1.5).
        if request.total == 0 {
            return Ok(Target::Region);
        }
        let pdn = self.qps.get(qpn.get()).map(|qp| qp.pdn).unwrap_or_default();
        let len = if request.first { request.total } else { request.len };
        let mut range = self
            .mrs
            .check_remote(request.rkey, (qpn, pdn), request.addr, len, rights)
            .map_err(|fault| Refusal::Fault(Fault::Access(fault.0)))?;
        match range.next(request.len) {
            Some((addr, n)) if n == request.len => Ok(Target::At(addr)),
            _ => Ok(Target::Region),
        }
    }

    /// Consumes the next receive of the queue pair.
    #[inline]
    pub(crate) fn take_receive<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) -> Result<Box<Receive>, Refusal> {
        let ram = cx.env.ram(self.id);
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return Err(Refusal::NotReady);
        };
        let Some(rq) = &qp.rq else {
            return self.take_shared_receive(cx, qpn);
        };
        let mut receive = cx.pool.receive();
        match receive.fetch(ram, rq, qp.resp.consumer, qp.max_recv_sge) {
            Ok(Ok(true)) => {
                receive.pdn = qp.pdn;
                qp.resp.consumer = qp.resp.consumer.wrapping_add(1);
                Ok(receive)
            }
            Ok(Ok(false)) => {
                cx.pool.give_receive(receive);
                Err(Refusal::NotReady)
            }
            Ok(Err(bad)) => {
                qp.resp.consumer = qp.resp.consumer.wrapping_add(1);
                qp.resp.arriving = Arriving::Send(receive);
                Err(Refusal::Fault(Fault::Receive {
                    status: bad.status,
                    reason: bad.reason,
                    nak: Nak::RemoteOperation,
                }))
            }
            Err(_) => {
                cx.pool.give_receive(receive);
                Err(Refusal::Fault(Fault::Unreachable(vendor::RING_UNREACHABLE)))
            }
        }
    }

    /// Consumes the next receive of the queue pair's shared receive queue, if it has one.
    #[inline(never)]
    fn take_shared_receive<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) -> Result<Box<Receive>, Refusal> {
        let srqn = match self.qps.get(qpn.get()) {
            Some(qp) if qp.srqn != Srqn::default() => qp.srqn,
            // Of an XRC target, the one that the request names.
            Some(qp) if qp.xrc.srqn != Srqn::default() => qp.xrc.srqn,
            _ => return Err(Refusal::NotReady),
        };
        let mut receive = cx.pool.receive();
        match self.take_shared(cx, srqn, &mut receive) {
            Taken::Receive => Ok(receive),
            Taken::Empty => {
                cx.pool.give_receive(receive);
                Err(Refusal::NotReady)
            }
            Taken::Bad(bad) => {
                if let Some(qp) = self.qps.get_mut(qpn.get()) {
                    qp.resp.arriving = Arriving::Send(receive);
                }
                Err(Refusal::Fault(Fault::Receive {
                    status: bad.status,
                    reason: bad.reason,
                    nak: Nak::RemoteOperation,
                }))
            }
            Taken::Failed => {
                cx.pool.give_receive(receive);
                Err(Refusal::Fault(Fault::Unreachable(vendor::RING_UNREACHABLE)))
            }
        }
    }

    /// The data of an accepted request has been moved.
    #[inline]
    pub(crate) fn executed<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, request: &Request) -> Outcome {
        self.tally_received(qpn, request);
        let Some(qp) = self.qps.get_mut(qpn.get()) else {
            return Outcome::Silence;
        };
        qp.resp.psn = qp.resp.psn.add(request.packets);
        let ack = Outcome::Ack(qp.resp.psn.add(u32::MAX));
        if matches!(request.operation, Operation::Send | Operation::Write) {
            self.counters.add(Counter::RcvdBytes, request.len);
        }
        if !request.last {
            if let Arriving::Send(receive) = &mut qp.resp.arriving {
                receive.offset += request.len;
            }
            return ack;
        }
        qp.resp.msn = (qp.resp.msn + 1) & 0x00ff_ffff;
        self.counters.count(Counter::RcvdMsgs);
        let (wr_id, opcode) = match core::mem::take(&mut qp.resp.arriving) {
            Arriving::Send(receive) => {
                let wr_id = receive.wr_id;
                cx.pool.give_receive(receive);
                (wr_id, cqe::Opcode::RECV)
            }
            Arriving::Write(Some(wr_id)) => (wr_id, cqe::Opcode::RECV_RDMA_WITH_IMM),
            Arriving::Write(None) | Arriving::Nothing => return ack,
        };
        let (mut flags, imm) = match request.tail {
            Tail::Nothing => (0, 0),
            Tail::Imm(imm) => (cqe::flags::IMM, imm),
            Tail::Invalidate(key) => {
                if let Err(fault) = self.invalidate(qpn, key) {
                    return self.refuse_invalidation(cx, qpn, wr_id, fault.0);
                }
                (cqe::flags::INVALIDATED, key.0)
            }
        };
        if request.solicited {
            flags |= cqe::flags::SOLICITED;
        }
        let cqe = Cqe {
            opcode: opcode.0,
            flags,
            wr_id,
            byte_len: request.total as u32,
            imm,
            ..Cqe::default()
        };
        self.complete(cx, qpn, Side::Recv, cqe);
        ack
    }

    /// Counts a run of a message for the receiver's set.
    #[inline]
    pub(crate) fn tally_received(&mut self, qpn: Qpn, request: &Request) {
        if matches!(request.operation, Operation::Send | Operation::Write) {
            self.tally(qpn, Tally::RcvdBytes, request.len);
        }
        if request.last {
            self.tally(qpn, Tally::RcvdMsgs, 1);
        }
    }

    /// The message is here, but the key that it was to invalidate cannot be: its receive ends in an error, and with it
    /// the queue pair.
    #[cold]
    fn refuse_invalidation<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, wr_id: u64, reason: u32) -> Outcome {
        let cqe = Cqe {
            status: Status::REM_INV_REQ_ERR.0,
            wr_id,
            vendor_err: reason,
            ..Cqe::default()
        };
        self.complete(cx, qpn, Side::Recv, cqe);
        self.counters.count(Counter::InvalidReqErr);
        self.enter_error(cx, qpn);
        Outcome::Nak(Nak::InvalidRequest)
    }

    pub(crate) fn established<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn) {
        if let Some(qp) = self.qps.get_mut(qpn.get()) {
            qp.resp.established = true;
        }
        self.raise_qp(cx, qpn, Event::COMM_EST, vendor::NONE);
    }

    /// Ends the queue pair over a fault of a request, on this side; answers what the other side hears.
    pub(crate) fn refuse<E: Env>(&mut self, cx: &mut Cx<'_, E>, qpn: Qpn, fault: Fault) -> Outcome {
        let (event, reason, nak) = match fault {
            Fault::InvalidRequest(reason) => {
                self.counters.count(Counter::InvalidReqErr);
                (Some(Event::QP_REQ_ERR), reason, Nak::InvalidRequest)
            }
            Fault::Access(reason) => {
                self.counters.count(Counter::AccessErr);
                (Some(Event::QP_ACCESS_ERR), reason, Nak::RemoteAccess)
            }
            Fault::Domain(reason) => {
                self.counters.count(Counter::InvalidReqErr);
                (Some(Event::QP_ACCESS_ERR), reason, Nak::InvalidRequest)
            }
            Fault::Unreachable(reason) => (Some(Event::QP_FATAL), reason, Nak::RemoteOperation),
            // The receive's own completion tells; no event beside it.
            Fault::Receive { status, reason, nak } => {
                let arriving = self
                    .qps
                    .get_mut(qpn.get())
                    .map(|qp| core::mem::take(&mut qp.resp.arriving));
                if let Some(Arriving::Send(receive)) = arriving {
                    let cqe = Cqe {
                        status: status.0,
                        wr_id: receive.wr_id,
                        vendor_err: reason,
                        ..Cqe::default()
                    };
                    cx.pool.give_receive(receive);
                    self.complete(cx, qpn, Side::Recv, cqe);
                }
                (None, reason, nak)
            }
        };
        self.enter_error(cx, qpn);
        if let Some(event) = event {
            self.raise_qp(cx, qpn, event, reason);
        }
        Outcome::Nak(nak)
    }
}

/// A receive whose memory cannot be written.
pub(crate) fn receive_protection(reason: u32) -> Fault {
    Fault::Receive {
        status: Status::LOC_PROT_ERR,
        reason,
        nak: Nak::RemoteOperation,
    }
}

/// Why [`Hca::accept`] does not go on.
pub(crate) enum Refusal {
    /// No receive has been posted.
    NotReady,
    Fault(Fault),
}

/// The rights that a FLUSH needs.
fn flush_rights(args: &FlushArgs) -> u32 {
    let mut rights = 0;
    if args.placement & flush::GLOBAL != 0 {
        rights |= access::FLUSH_GLOBAL;
    }
    if args.placement & flush::PERSISTENT != 0 {
        rights |= access::FLUSH_PERSISTENT;
    }
    rights
}

/// A request whose PSN is not the expected one (IBA vol. 1, 9.7.5.1.3 and 9.7.5.1.4).
fn out_of_sequence(qp: &Qp, request: &Request, ahead: i32) -> Outcome {
    if ahead > 0 {
        return Outcome::Nak(Nak::Sequence);
    }
    match request.operation {
        // Seen before: acknowledged again, up to where the responder is.
        Operation::Send | Operation::Write => Outcome::Ack(qp.resp.psn.add(u32::MAX)),
        // Its response was delivered together with its execution, so a requester that asks for it again has never
        // sent it here: nothing is remembered to answer it from.
        _ => Outcome::Silence,
    }
}

/// Whether the queue pair may be asked this at all, and at this point of a message.
#[inline]
fn allowed(qp: &Qp, request: &Request) -> Result<(), Fault> {
    let in_order = match (&qp.resp.arriving, request.first) {
        (Arriving::Nothing, first) => first,
        (Arriving::Send(_), first) => !first && request.operation == Operation::Send,
        (Arriving::Write(_), first) => !first && request.operation == Operation::Write,
    };
    if !in_order {
        return Err(Fault::InvalidRequest(vendor::NONE));
    }
    let right = match request.operation {
        Operation::Send => 0,
        Operation::Write => access::REMOTE_WRITE,
        Operation::Read => access::REMOTE_READ,
        Operation::CompareSwap | Operation::FetchAdd => access::REMOTE_ATOMIC,
        Operation::AtomicWrite => access::REMOTE_WRITE,
        Operation::Flush => flush_rights(&zerocopy::transmute!(request.atomic)),
        Operation::LocalInvalidate | Operation::BindWindow | Operation::FastRegister => 0,
    };
    if right & !qp.attrs.access != 0 {
        return Err(Fault::InvalidRequest(vendor::QP_ACCESS));
    }
    match request.operation {
        Operation::Send | Operation::Write => {
            // Packets of a length that this side's MTU does not allow (IBA vol. 1, 9.7.4.1.6).
            let mtu = verbena_hw::qp::Mtu(qp.attrs.path_mtu).bytes().unwrap_or(0);
            let whole = request.first && request.last;
            if request.mtu != mtu && (request.packets > 1 || request.len > u64::from(mtu) || !whole) {
                return Err(Fault::InvalidRequest(vendor::MESSAGE_LEN));
            }
        }
        _ => {
            if qp.attrs.max_dest_rd_atomic == 0 {
                return Err(Fault::InvalidRequest(vendor::RD_ATOMIC));
            }
        }
    }
    Ok(())
}
