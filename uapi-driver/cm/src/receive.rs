// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What a datagram does.

use crate::connection::{Connection, PrivateData, Route, State, Terms};
use crate::mad::{
    answered, Attribute, Drep, Dreq, Mad, Mra, Rej, RejectReason, Rep, Req, Rtu, BASE_VERSION, CLASS, CLASS_VERSION,
    METHOD_SEND,
};
use crate::manager::{hash, Error, Event, Id, Manager, Output, ANY};
use crate::{timeout, MAX_SERVICE, MAX_WAIT};

/// The transport of a REQ: RC.
const RC: u8 = 0;

impl Manager {
    /// A datagram came in at QP1. The route is the HCA's word: its `local` is the GID it was sent to, its `remote` the
    /// one it came from.
    pub fn receive(&mut self, now: u64, route: &Route, mad: &Mad, out: &mut dyn Output) {
        let header = &mad.header;
        if header.base_version != BASE_VERSION
            || header.class != CLASS
            || header.class_version != CLASS_VERSION
            || header.method != METHOD_SEND
        {
            return;
        }
        match Attribute(header.attribute.get()) {
            Attribute::REQ => self.req(now, route, Req::of(mad), out),
            Attribute::MRA => self.mra(now, route, Mra::of(mad)),
            Attribute::REJ => self.rej(now, route, Rej::of(mad), out),
            Attribute::REP => self.rep(now, route, Rep::of(mad), out),
            Attribute::RTU => self.rtu(route, Rtu::of(mad), out),
            Attribute::DREQ => self.dreq(now, route, Dreq::of(mad), out),
            Attribute::DREP => self.drep(now, route, Drep::of(mad), out),
            // Path migration and datagram service resolution are not offered: their askers give up by themselves.
            _ => {}
        }
    }

    /// The connection with the peer's communication id.
    fn by_peer(&self, route: &Route, remote_comm_id: u32) -> Option<Id> {
        let is = |slot| self.at(slot).is_with(&route.remote, remote_comm_id);
        let slot = self.peers.find(hash(u64::from(remote_comm_id), &route.remote), is)?;
        Some(self.id_of(slot))
    }

    /// The connection with the peer's queue pair.
    fn by_queue_pair(&self, route: &Route, qpn: u32) -> Option<Id> {
        let is = |slot| {
            let connection: &Connection = self.at(slot);
            connection.route.remote == route.remote && connection.terms.remote_qpn == qpn
        };
        let slot = self.queue_pairs.find(hash(u64::from(qpn), &route.remote), is)?;
        Some(self.id_of(slot))
    }

    /// The connection that both sides' ids name, if the peer is who sent this.
    fn by_both(&self, route: &Route, remote_comm_id: u32, local_comm_id: u32) -> Option<Id> {
        let id = self.of_wire(local_comm_id)?;
        self.get(id)?.is_with(&route.remote, remote_comm_id).then_some(id)
    }

    /// Refuses a REQ that becomes no connection.
    fn refuse(&self, route: &Route, req: &Req, reason: RejectReason, out: &mut dyn Output) {
        let mut rej = Rej::new(req.header.transaction.get(), 0);
        rej.remote_comm_id = req.local_comm_id;
        rej.set_answered(answered::REQ);
        rej.reason = reason.0.into();
        out.send(route, &rej.mad());
    }

    fn req(&mut self, now: u64, route: &Route, req: &Req, out: &mut dyn Output) {
        if let Some(id) = self.by_peer(route, req.local_comm_id.get()) {
            return self.duplicate_req(id, route, req, out);
        }
        if let Some(stale) = self.by_queue_pair(route, req.qpn.get()) {
            // 12.9.8.3.1: a queue pair has one connection, so the peer has forgotten the earlier one.
            self.refuse(route, req, RejectReason::STALE_CONNECTION, out);
            return self.end_stale(now, stale, out);
        }
        let verdict = match self.taker(route, req) {
            Ok(listener) => self.admit(listener, route, req),
            Err(reason) => Err(reason),
        };
        match verdict {
            Ok((listener, id)) => self.tell(id, out, Event::Requested { listener, id }),
            Err(reason) => self.refuse(route, req, reason, out),
        }
    }

    fn duplicate_req(&mut self, id: Id, route: &Route, req: &Req, out: &mut dyn Output) {
        let connection = self.at(id.slot());
        match connection.state {
            State::ReqRcvd => {
                let mut mra = Mra::new(connection.transaction, self.wire(id));
                mra.remote_comm_id = connection.remote_comm_id.into();
                mra.set_answered(answered::REQ);
                mra.set_service_timeout(self.config.service_timeout);
                out.send(route, &mra.mad());
            }
            // The REP got lost, or crossed this.
            State::RepSent => out.send(&connection.route, &connection.last),
            State::Timewait => self.refuse(route, req, RejectReason::STALE_CONNECTION, out),
            _ => {}
        }
    }

    /// Who takes the request.
    fn taker(&self, route: &Route, req: &Req) -> Result<Id, RejectReason> {
        let service = req.service_id.get();
        let takes = |slot| {
            let connection: &Connection = self.at(slot);
            let bound = connection.binding.is_some_and(|b| b.takes(service, &route.local));
            bound && connection.state == State::Listening
        };
        let slot = self.services.find(hash(service, &ANY), takes);
        let slot = slot.ok_or(RejectReason::INVALID_SERVICE_ID)?;
        if req.transport() != RC {
            return Err(RejectReason::INVALID_TRANSPORT);
        }
        if !(1..=5).contains(&req.mtu()) {
            return Err(RejectReason::INVALID_MTU);
        }
        // The connection would lead to where the datagram did not come from.
        if req.primary.local_gid != route.remote || req.primary.remote_gid != route.local {
            return Err(RejectReason::INVALID_GID);
        }
        Ok(self.id_of(slot))
    }

    /// Makes the passive side's connection.
    fn admit(&mut self, listener: Id, route: &Route, req: &Req) -> Result<(Id, Id), RejectReason> {
        let queue = self.at(listener.slot());
        if queue.pending >= queue.backlog {
            return Err(RejectReason::NO_RESOURCES);
        }
        let id = match self.create() {
            Ok(id) => id,
            Err(Error::NoMemory | Error::TooMany) => return Err(RejectReason::NO_RESOURCES),
            Err(_) => unreachable!("making an id fails for want of room only"),
        };
        self.at_mut(listener.slot()).pending += 1;
        let connection = self.at_mut(id.slot());
        connection.state = State::ReqRcvd;
        connection.listener = Some(listener);
        connection.route = *route;
        connection.service = req.service_id.get();
        connection.remote_comm_id = req.local_comm_id.get();
        connection.transaction = req.header.transaction.get();
        connection.terms = Terms {
            remote_qpn: req.qpn.get(),
            remote_psn: req.psn.get(),
            // What the peer wants to have outstanding is what we shall execute, and the other way round.
            responder_resources: req.initiator_depth,
            initiator_depth: req.responder_resources,
            retry_count: req.retry_count(),
            rnr_retry_count: req.rnr_retry_count(),
            mtu: req.mtu(),
            ack_timeout: req.primary.ack_timeout(),
            pkey: req.pkey.get(),
            traffic_class: req.primary.traffic_class,
            hop_limit: req.primary.hop_limit,
            flow_label: req.primary.flow_label.get() >> 4,
            ..Terms::default()
        };
        connection.response_timeout = req.local_response_timeout().min(MAX_WAIT);
        connection.max_retries = req.max_cm_retries();
        connection.private_data = PrivateData::of(&req.private_data);
        self.enter_peer(id);
        Ok((listener, id))
    }

    /// From now on the peer's numbers lead to the connection.
    fn enter_peer(&mut self, id: Id) {
        let connection = self.at(id.slot());
        let remote = connection.route.remote;
        let (comm_id, qpn) = (connection.remote_comm_id, connection.terms.remote_qpn);
        self.peers.enter(id.slot(), hash(u64::from(comm_id), &remote));
        self.queue_pairs.enter(id.slot(), hash(u64::from(qpn), &remote));
    }

    /// The peer has shown that it knows nothing of this connection.
    fn end_stale(&mut self, now: u64, id: Id, out: &mut dyn Output) {
        match self.at(id.slot()).state {
            State::Established | State::RepSent => self.begin_disconnect(now, id, out),
            State::ReqRcvd | State::RepRcvd => {
                let reason = RejectReason::STALE_CONNECTION;
                self.close(id, out, Some(Event::Rejected { id, reason }));
            }
            _ => {}
        }
    }

    fn mra(&mut self, now: u64, route: &Route, mra: &Mra) {
        let Some(id) = self.of_wire(mra.remote_comm_id.get()) else {
            return;
        };
        let connection = self.at_mut(id.slot());
        let asked = match connection.state {
            State::ReqSent => answered::REQ,
            State::RepSent => answered::REP,
            _ => return,
        };
        // Once: a peer that could ask again and again could keep us waiting for ever.
        if connection.route.remote != route.remote || mra.answered() != asked || connection.patient {
            return;
        }
        connection.patient = true;
        let wait = timeout(mra.service_timeout().min(MAX_SERVICE)).saturating_add(timeout(connection.response_timeout));
        self.timers.set(id.slot(), Some(now.saturating_add(wait)));
    }

    fn rej(&mut self, now: u64, route: &Route, rej: &Rej, out: &mut dyn Output) {
        let theirs = rej.local_comm_id.get();
        // A peer that gave up before it learnt our id names its own only.
        let id = match self.of_wire(rej.remote_comm_id.get()) {
            Some(id) => Some(id),
            None => self.by_peer(route, theirs),
        };
        let Some(id) = id.filter(|id| self.at(id.slot()).route.remote == route.remote) else {
            return;
        };
        let connection = self.at_mut(id.slot());
        let reason = RejectReason(rej.reason.get());
        let concerns = match connection.state {
            // Whoever refuses a REQ need not have an id of its own.
            State::ReqSent => true,
            State::ReqRcvd | State::RepSent | State::RepRcvd => connection.remote_comm_id == theirs,
            State::DreqSent => connection.remote_comm_id == theirs,
            _ => false,
        };
        if !concerns {
            return;
        }
        if connection.state == State::DreqSent {
            // The peer has no such connection, which is what a DREP would have said.
            return self.enter_timewait(now, id, out);
        }
        connection.private_data = PrivateData::of(&rej.private_data);
        self.close(id, out, Some(Event::Rejected { id, reason }));
    }

    fn rep(&mut self, now: u64, route: &Route, rep: &Rep, out: &mut dyn Output) {
        let wire = rep.remote_comm_id.get();
        let reject = |reason: RejectReason, out: &mut dyn Output| {
            let mut rej = Rej::new(rep.header.transaction.get(), wire);
            rej.remote_comm_id = rep.local_comm_id;
            rej.set_answered(answered::REP);
            rej.reason = reason.0.into();
            out.send(route, &rej.mad());
        };
        let known = self
            .of_wire(wire)
            .filter(|id| self.at(id.slot()).route.remote == route.remote);
        let Some(id) = known else {
            // We gave up, and our REJ got lost: else the peer would go on asking.
            return reject(RejectReason::INVALID_COMM_ID, out);
        };
        let comm_id = rep.local_comm_id.get();
        let connection = self.at(id.slot());
        match connection.state {
            State::ReqSent => {}
            // The RTU got lost.
            State::Established if connection.remote_comm_id == comm_id => {
                return out.send(&connection.route, &connection.last);
            }
            State::Closed => return reject(RejectReason::INVALID_COMM_ID, out),
            // On its way to become ready, or over, which a DREQ is about to say.
            _ => return,
        }
        if let Some(stale) = self.by_queue_pair(route, rep.qpn.get()) {
            reject(RejectReason::STALE_CONNECTION, out);
            let reason = RejectReason::STALE_CONNECTION;
            self.close(id, out, Some(Event::Rejected { id, reason }));
            return self.end_stale(now, stale, out);
        }
        if self.by_peer(route, comm_id).is_some() {
            reject(RejectReason::DUPLICATE_COMM_ID, out);
            let reason = RejectReason::DUPLICATE_COMM_ID;
            return self.close(id, out, Some(Event::Rejected { id, reason }));
        }
        let connection = self.at_mut(id.slot());
        connection.state = State::RepRcvd;
        connection.remote_comm_id = comm_id;
        connection.private_data = PrivateData::of(&rep.private_data);
        let terms = &mut connection.terms;
        terms.remote_qpn = rep.qpn.get();
        terms.remote_psn = rep.psn.get();
        terms.rnr_retry_count = rep.rnr_retry_count();
        terms.responder_resources = terms.responder_resources.min(rep.initiator_depth);
        terms.initiator_depth = terms.initiator_depth.min(rep.responder_resources);
        self.timers.set(id.slot(), None);
        self.enter_peer(id);
        self.tell(id, out, Event::Replied { id });
    }

    fn rtu(&mut self, route: &Route, rtu: &Rtu, out: &mut dyn Output) {
        let id = self.by_both(route, rtu.local_comm_id.get(), rtu.remote_comm_id.get());
        if let Some(id) = id.filter(|id| self.at(id.slot()).state == State::RepSent) {
            self.establish(id, out);
        }
    }

    fn dreq(&mut self, now: u64, route: &Route, dreq: &Dreq, out: &mut dyn Output) {
        let (theirs, ours) = (dreq.local_comm_id.get(), dreq.remote_comm_id.get());
        let known = self
            .of_wire(ours)
            .filter(|id| self.at(id.slot()).route.remote == route.remote);
        let state = known.map(|id| self.at(id.slot()).state);
        if let (Some(id), Some(state)) = (known, state) {
            let connection = self.at(id.slot());
            let exact = connection.remote_comm_id == theirs && connection.terms.local_qpn == dreq.remote_qpn.get();
            match state {
                State::RepSent | State::RepRcvd | State::Established | State::DreqSent if !exact => return,
                State::RepSent | State::RepRcvd | State::Established | State::DreqSent => {
                    self.enter_timewait(now, id, out);
                }
                // Its REP and its REJ got lost: it is tired of waiting.
                State::ReqSent => {
                    let reason = RejectReason::TIMEOUT;
                    self.close(id, out, Some(Event::Rejected { id, reason }));
                }
                _ => {}
            }
        }
        // Also to a connection that nobody knows (any more): the peer waits for this word to be done with it.
        let mut drep = Drep::new(dreq.header.transaction.get(), ours);
        drep.remote_comm_id = dreq.local_comm_id;
        out.send(route, &drep.mad());
    }

    fn drep(&mut self, now: u64, route: &Route, drep: &Drep, out: &mut dyn Output) {
        let id = self.by_both(route, drep.local_comm_id.get(), drep.remote_comm_id.get());
        if let Some(id) = id.filter(|id| self.at(id.slot()).state == State::DreqSent) {
            self.enter_timewait(now, id, out);
        }
    }
}
