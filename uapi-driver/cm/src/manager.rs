// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! All communication ids of an HCA, and what the local side does with them.

use crate::connection::{Binding, Connection, Route, State, Terms};
use crate::index::Index;
use crate::mad::{answered, Dreq, Mad, PathInfo, Rej, RejectReason, Rep, Req, Rtu, PERMISSIVE_LID, U24};
use crate::timers::Timers;
use crate::{timeout, MAX_WAIT};
use rdma_uapi::sys::{try_box, Box, NoMemory, Vec};

/// A communication id of the local side: a slot in the low 20 bits, how often it has been used above. On the wire it is
/// scrambled, so that a peer cannot guess its neighbour's, nor take one from before a reboot for one from after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u32);

const SLOT_BITS: u32 = 20;
/// Ids that there can be at once.
pub const MAX_IDS: u32 = 1 << SLOT_BITS;

impl Id {
    pub(crate) fn slot(self) -> usize {
        (self.0 & (MAX_IDS - 1)) as usize
    }

    fn new(slot: usize, generation: u32) -> Self {
        Id(generation << SLOT_BITS | slot as u32)
    }
}

/// How a manager is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// GUID of the HCA.
    pub ca_guid: [u8; 8],
    /// A number that peers do not know.
    pub secret: u64,
    /// Ids at most; no more than [`MAX_IDS`].
    pub max_ids: u32,
    /// What an MRA asks for: how long an application may think, coded ([`timeout`]).
    pub service_timeout: u8,
    /// The HCA's delay of acknowledgments, coded.
    pub ack_delay: u8,
}

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No memory.
    NoMemory,
    /// [`Config::max_ids`] exist.
    TooMany,
    /// There is no such id.
    NoSuchId,
    /// Not in this state.
    State(State),
    /// Another id has this service id and GID.
    AddressInUse,
    /// More private data than the message holds.
    TooLong,
}

impl From<NoMemory> for Error {
    fn from(_: NoMemory) -> Self {
        Error::NoMemory
    }
}

/// What the local side gets to know. Never about an id that was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A REQ for a listener. The new id waits for [`Manager::accept`] or [`Manager::reject`]; it counts against the
    /// backlog until then.
    Requested {
        /// Who listens.
        listener: Id,
        /// The new id.
        id: Id,
    },
    /// A REP. The queue pair is to be made ready to send, then [`Manager::ready`].
    Replied {
        /// Whose.
        id: Id,
    },
    /// An RTU.
    Established {
        /// Whose.
        id: Id,
    },
    /// The peer refused.
    Rejected {
        /// Whom.
        id: Id,
        /// Why.
        reason: RejectReason,
    },
    /// The peer did not answer, however often it was asked.
    Unreachable {
        /// Whom.
        id: Id,
    },
    /// The connection is over, whichever side began.
    Disconnected {
        /// Whose.
        id: Id,
    },
    /// No packet of the connection is on its way any more.
    TimewaitExit {
        /// Whose.
        id: Id,
    },
}

/// Where datagrams and events go. Called in the middle of the manager's work: takes note and returns.
pub trait Output {
    /// Sends a datagram from QP1 of the route's local GID to QP1 of its remote one. May fail silently, as the wire does.
    fn send(&mut self, route: &Route, mad: &Mad);

    /// Something happened.
    fn event(&mut self, event: Event);
}

/// What [`Manager::connect`] asks of the peer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whom it is for.
    pub service: u64,
    /// The way.
    pub route: Route,
    /// `remote_qpn` and `remote_psn` do not count.
    pub terms: Terms,
    /// Transport retries and RNR retries that the peer's queue pair shall make.
    pub peer_retry_count: u8,
    /// Likewise.
    pub peer_rnr_retry_count: u8,
    /// Whether our queue pair has a shared receive queue.
    pub srq: bool,
    /// How long either CM may take to answer, coded ([`timeout`]).
    pub response_timeout: u8,
    /// How often a message is repeated, 0 to 15.
    pub max_retries: u8,
    /// The consumer's, at most [`Req::PRIVATE_DATA`] bytes.
    pub private_data: &'a [u8],
}

/// What [`Manager::accept`] answers.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Our queue pair.
    pub qpn: u32,
    /// First PSN that we send.
    pub psn: u32,
    /// READs and atomics that our queue pair executes at a time: no more than what the peer asked for counts.
    pub responder_resources: u8,
    /// READs and atomics that we want to have outstanding: no more than the peer has responder resources counts.
    pub initiator_depth: u8,
    /// RNR retries that the peer's queue pair shall make.
    pub peer_rnr_retry_count: u8,
    /// Whether our queue pair has a shared receive queue.
    pub srq: bool,
    /// The consumer's, at most [`Rep::PRIVATE_DATA`] bytes.
    pub private_data: &'a [u8],
}

struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// All communication ids of an HCA.
pub struct Manager {
    pub(crate) config: Config,
    slots: Vec<Slot>,
    /// Slots without a connection, as a stack with room for all.
    free: Vec<u32>,
    pub(crate) timers: Timers,
    /// By service id.
    pub(crate) services: Index,
    /// By the peer's GID and communication id.
    pub(crate) peers: Index,
    /// By the peer's GID and queue pair.
    pub(crate) queue_pairs: Index,
}

/// A hash of a number and a GID.
pub(crate) fn hash(number: u64, gid: &[u8; 16]) -> u32 {
    let (upper, lower) = gid.split_at(8);
    let word = |half: &[u8]| half.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    // Multiplication by an odd constant spreads each over the upper bits (Fibonacci hashing).
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (number ^ word(upper).wrapping_mul(SPREAD)).wrapping_mul(SPREAD) ^ word(lower);
    (mixed.wrapping_mul(SPREAD) >> 32) as u32
}

pub(crate) const ANY: [u8; 16] = [0; 16];

fn put(to: &mut [u8], from: &[u8]) -> Result<(), Error> {
    to.get_mut(..from.len()).ok_or(Error::TooLong)?.copy_from_slice(from);
    Ok(())
}

impl Manager {
    /// One without ids.
    pub const fn new(config: Config) -> Self {
        Manager {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            timers: Timers::new(),
            services: Index::new(),
            peers: Index::new(),
            queue_pairs: Index::new(),
        }
    }

    /// Ids that exist, released ones whose story has not ended included.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An id's number in datagrams.
    pub(crate) fn wire(&self, id: Id) -> u32 {
        id.0 ^ self.config.secret as u32
    }

    /// The id with that number in datagrams, if it exists.
    pub(crate) fn of_wire(&self, wire: u32) -> Option<Id> {
        let id = Id(wire ^ self.config.secret as u32);
        self.get(id).is_some().then_some(id)
    }

    pub(crate) fn get(&self, id: Id) -> Option<&Connection> {
        let slot = self.slots.get(id.slot())?;
        if Id::new(id.slot(), slot.generation) != id {
            return None;
        }
        slot.connection.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot())?;
        if Id::new(id.slot(), slot.generation) != id {
            return None;
        }
        slot.connection.as_deref_mut()
    }

    /// The connection in a slot that an index or a timer names.
    pub(crate) fn at(&self, slot: usize) -> &Connection {
        let connection = self.slots[slot].connection.as_deref();
        connection.expect("indexes and timers hold slots in use only")
    }

    pub(crate) fn at_mut(&mut self, slot: usize) -> &mut Connection {
        let connection = self.slots[slot].connection.as_deref_mut();
        connection.expect("indexes and timers hold slots in use only")
    }

    pub(crate) fn id_of(&self, slot: usize) -> Id {
        Id::new(slot, self.slots[slot].generation)
    }

    /// The owner's view of an id: one that was released does not exist.
    fn owned(&mut self, id: Id, states: &[State]) -> Result<&mut Connection, Error> {
        match self.get_mut(id) {
            Some(connection) if connection.released => Err(Error::NoSuchId),
            Some(connection) if !states.contains(&connection.state) => Err(Error::State(connection.state)),
            Some(connection) => Ok(connection),
            None => Err(Error::NoSuchId),
        }
    }

    /// A new id.
    ///
    /// # Errors
    ///
    /// No memory; too many.
    pub fn create(&mut self) -> Result<Id, Error> {
        let connection = try_box(Connection::new())?;
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].connection = Some(connection);
            return Ok(self.id_of(slot as usize));
        }
        let slot = self.slots.len();
        if slot >= self.config.max_ids.min(MAX_IDS) as usize {
            return Err(Error::TooMany);
        }
        // What has grown when another cannot stays a slot longer than the slots are, which does no harm.
        self.free.reserve(slot + 1)?;
        self.slots.reserve(1)?;
        self.timers.grow()?;
        self.services.grow()?;
        self.peers.grow()?;
        self.queue_pairs.grow()?;
        self.slots.push(Slot {
            generation: 0,
            connection: Some(connection),
        })?;
        Ok(self.id_of(slot))
    }

    /// The id does not exist any more.
    pub(crate) fn free(&mut self, id: Id) {
        let slot = id.slot();
        self.timers.set(slot, None);
        self.services.leave(slot);
        self.forget_peer(slot);
        self.leave_backlog(slot);
        let entry = &mut self.slots[slot];
        entry.connection = None;
        entry.generation = (entry.generation + 1) % (1 << (u32::BITS - SLOT_BITS));
        let Ok(()) = self.free.push(slot as u32) else {
            unreachable!("room was made with the slot")
        };
    }

    /// The peer's numbers do not lead to the slot any more.
    pub(crate) fn forget_peer(&mut self, slot: usize) {
        self.peers.leave(slot);
        self.queue_pairs.leave(slot);
    }

    /// The application has decided about the REQ, or need not any more.
    pub(crate) fn leave_backlog(&mut self, slot: usize) {
        let listener = self.slots[slot].connection.as_mut().and_then(|c| c.listener.take());
        if let Some(listener) = listener.and_then(|listener| self.get_mut(listener)) {
            listener.pending -= 1;
        }
    }

    /// Gives an id its service id, with every GID of ours or with one.
    ///
    /// # Errors
    ///
    /// The address is in use; state.
    pub fn bind(&mut self, id: Id, service: u64, gid: Option<[u8; 16]>) -> Result<(), Error> {
        self.owned(id, &[State::Idle])?;
        let binding = Binding { service, gid };
        let taken = |slot| self.at(slot).binding.is_some_and(|other| other.overlaps(&binding));
        if self.services.find(hash(service, &ANY), taken).is_some() {
            return Err(Error::AddressInUse);
        }
        self.services.enter(id.slot(), hash(service, &ANY));
        let connection = self.owned(id, &[State::Idle])?;
        connection.binding = Some(binding);
        connection.state = State::Bound;
        Ok(())
    }

    /// Takes REQs from now on; at most `backlog` of them (at least one) may wait for the application.
    ///
    /// # Errors
    ///
    /// State.
    pub fn listen(&mut self, id: Id, backlog: u32) -> Result<(), Error> {
        let connection = self.owned(id, &[State::Bound, State::Listening])?;
        connection.state = State::Listening;
        connection.backlog = backlog.max(1);
        Ok(())
    }

    /// Sends a REQ.
    ///
    /// # Errors
    ///
    /// State; too much private data.
    pub fn connect(&mut self, now: u64, id: Id, request: &Request<'_>, out: &mut dyn Output) -> Result<(), Error> {
        let (wire, config) = (self.wire(id), self.config);
        let connection = self.owned(id, &[State::Idle, State::Bound])?;
        let transaction = config.secret & !u64::from(u32::MAX) | u64::from(id.0);
        let mut req = Req::new(transaction, wire);
        put(&mut req.private_data, request.private_data)?;
        let terms = &request.terms;
        req.service_id = request.service.into();
        req.ca_guid = config.ca_guid;
        req.qpn = U24::new(terms.local_qpn);
        req.responder_resources = terms.responder_resources;
        req.initiator_depth = terms.initiator_depth;
        req.set_remote_response_timeout(request.response_timeout);
        req.psn = U24::new(terms.local_psn);
        req.set_local_response_timeout(request.response_timeout);
        req.set_retry_count(request.peer_retry_count);
        req.pkey = terms.pkey.into();
        req.set_mtu(terms.mtu);
        req.set_rnr_retry_count(request.peer_rnr_retry_count);
        req.set_max_cm_retries(request.max_retries);
        req.set_srq(u8::from(request.srq));
        req.primary = PathInfo {
            local_lid: PERMISSIVE_LID.into(),
            remote_lid: PERMISSIVE_LID.into(),
            local_gid: request.route.local,
            remote_gid: request.route.remote,
            flow_label: U24::new(terms.flow_label << 4),
            traffic_class: terms.traffic_class,
            hop_limit: terms.hop_limit,
            ..PathInfo::default()
        };
        req.primary.set_ack_timeout(terms.ack_timeout);
        connection.state = State::ReqSent;
        connection.route = request.route;
        connection.service = request.service;
        connection.transaction = transaction;
        connection.terms = request.terms;
        connection.response_timeout = request.response_timeout.min(MAX_WAIT);
        connection.max_retries = request.max_retries & 15;
        self.begin(now, id, req.mad(), out);
        Ok(())
    }

    /// Answers a REQ: yes.
    ///
    /// # Errors
    ///
    /// State; too much private data.
    pub fn accept(&mut self, now: u64, id: Id, reply: &Reply<'_>, out: &mut dyn Output) -> Result<(), Error> {
        let (wire, config) = (self.wire(id), self.config);
        let connection = self.owned(id, &[State::ReqRcvd])?;
        let mut rep = Rep::new(connection.transaction, wire);
        put(&mut rep.private_data, reply.private_data)?;
        let terms = &mut connection.terms;
        terms.local_qpn = reply.qpn;
        terms.local_psn = reply.psn;
        // What the REQ said stands in the terms already, seen from here.
        terms.responder_resources = terms.responder_resources.min(reply.responder_resources);
        terms.initiator_depth = terms.initiator_depth.min(reply.initiator_depth);
        rep.remote_comm_id = connection.remote_comm_id.into();
        rep.qpn = U24::new(reply.qpn);
        rep.psn = U24::new(reply.psn);
        rep.responder_resources = connection.terms.responder_resources;
        rep.initiator_depth = connection.terms.initiator_depth;
        rep.set_target_ack_delay(config.ack_delay);
        rep.set_failover(1);
        rep.set_rnr_retry_count(reply.peer_rnr_retry_count);
        rep.set_srq(u8::from(reply.srq));
        rep.ca_guid = config.ca_guid;
        connection.state = State::RepSent;
        self.leave_backlog(id.slot());
        self.begin(now, id, rep.mad(), out);
        Ok(())
    }

    /// Answers a REQ, or a REP: no.
    ///
    /// # Errors
    ///
    /// State; too much private data.
    pub fn reject(
        &mut self,
        id: Id,
        reason: RejectReason,
        private_data: &[u8],
        out: &mut dyn Output,
    ) -> Result<(), Error> {
        let wire = self.wire(id);
        let connection = self.owned(id, &[State::ReqRcvd, State::RepRcvd])?;
        let mut rej = Rej::new(connection.transaction, wire);
        put(&mut rej.private_data, private_data)?;
        rej.remote_comm_id = connection.remote_comm_id.into();
        rej.reason = reason.0.into();
        rej.set_answered(match connection.state {
            State::ReqRcvd => answered::REQ,
            _ => answered::REP,
        });
        out.send(&connection.route, &rej.mad());
        self.close(id, out, None);
        Ok(())
    }

    /// After [`Event::Replied`]: our queue pair is ready, the RTU may go.
    ///
    /// # Errors
    ///
    /// State.
    pub fn ready(&mut self, id: Id, out: &mut dyn Output) -> Result<(), Error> {
        let wire = self.wire(id);
        let connection = self.owned(id, &[State::RepRcvd])?;
        connection.state = State::Established;
        let mut rtu = Rtu::new(connection.transaction, wire);
        rtu.remote_comm_id = connection.remote_comm_id.into();
        connection.last = rtu.mad();
        out.send(&connection.route, &connection.last);
        Ok(())
    }

    /// A packet has arrived at a queue pair whose RTU has not: it is as good as one.
    pub fn communication_established(&mut self, id: Id, out: &mut dyn Output) {
        if self
            .get(id)
            .is_some_and(|connection| connection.state == State::RepSent)
        {
            self.establish(id, out);
        }
    }

    /// Sends a DREQ. The queue pair takes no more work.
    ///
    /// # Errors
    ///
    /// State.
    pub fn disconnect(&mut self, now: u64, id: Id, out: &mut dyn Output) -> Result<(), Error> {
        self.owned(id, &[State::Established])?;
        self.begin_disconnect(now, id, out);
        Ok(())
    }

    /// The owner is gone. What the peer must be told, it is told; the id ceases to exist when its story has ended.
    pub fn release(&mut self, now: u64, id: Id, out: &mut dyn Output) {
        let Ok(connection) = self.owned(id, ALL_STATES) else {
            return;
        };
        connection.released = true;
        match connection.state {
            State::Idle | State::Bound | State::Listening | State::Closed => self.free(id),
            State::ReqSent => {
                self.give_up(id, answered::REQ, RejectReason::TIMEOUT, out);
                self.free(id);
            }
            State::ReqRcvd => {
                self.give_up(id, answered::REQ, RejectReason::CONSUMER, out);
                self.free(id);
            }
            State::RepRcvd => {
                self.give_up(id, answered::REP, RejectReason::CONSUMER, out);
                self.free(id);
            }
            State::RepSent => {
                // The peer may be connected already: then only a DREQ tells it, and that is repeated.
                self.give_up(id, answered::NONE, RejectReason::CONSUMER, out);
                self.begin_disconnect(now, id, out);
            }
            State::Established => self.begin_disconnect(now, id, out),
            State::DreqSent | State::Timewait => {}
        }
    }

    /// Where an id is in its life; `None` if it does not exist.
    pub fn state(&self, id: Id) -> Option<State> {
        self.get(id).map(|connection| connection.state)
    }

    /// What both sides have said.
    pub fn terms(&self, id: Id) -> Option<&Terms> {
        self.get(id).map(|connection| &connection.terms)
    }

    /// How datagrams reach the peer.
    pub fn route(&self, id: Id) -> Option<&Route> {
        self.get(id).map(|connection| &connection.route)
    }

    /// The service id that it is bound to, was made for, or asked for.
    pub fn service(&self, id: Id) -> Option<u64> {
        let connection = self.get(id)?;
        Some(connection.binding.map_or(connection.service, |binding| binding.service))
    }

    /// Who listened, as long as the application has not decided about the REQ.
    pub fn listener(&self, id: Id) -> Option<Id> {
        self.get(id)?.listener
    }

    /// The private data of the REQ, REP or REJ that came last.
    pub fn private_data(&self, id: Id) -> Option<&[u8]> {
        self.get(id).map(|connection| connection.private_data.get())
    }

    /// When [`Manager::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|(deadline, _)| deadline)
    }

    /// Does what one deadline that has passed asks for; says whether there was one, so that the caller calls again.
    pub fn tick(&mut self, now: u64, out: &mut dyn Output) -> bool {
        let Some((_, slot)) = self.timers.first().filter(|(deadline, _)| *deadline <= now) else {
            return false;
        };
        let id = self.id_of(slot);
        let connection = self.at_mut(slot);
        if connection.state == State::Timewait {
            self.close(id, out, Some(Event::TimewaitExit { id }));
            return true;
        }
        if connection.retries_left > 0 {
            connection.retries_left -= 1;
            let wait = timeout(connection.response_timeout);
            out.send(&connection.route, &connection.last);
            self.timers.set(slot, Some(now.saturating_add(wait)));
            return true;
        }
        match connection.state {
            State::ReqSent => {
                self.give_up(id, answered::REQ, RejectReason::TIMEOUT, out);
                self.close(id, out, Some(Event::Unreachable { id }));
            }
            State::RepSent => {
                // The peer may have answered, and every answer got lost: it must hear that this is over.
                self.give_up(id, answered::REP, RejectReason::TIMEOUT, out);
                self.tell(id, out, Event::Unreachable { id });
                self.at_mut(slot).quiet = true;
                self.begin_disconnect(now, id, out);
            }
            State::DreqSent => self.enter_timewait(now, id, out),
            state => unreachable!("{state:?} has no deadline"),
        }
        true
    }

    /// Sends a message that is repeated until something answers it.
    fn begin(&mut self, now: u64, id: Id, mad: Mad, out: &mut dyn Output) {
        let connection = self.at_mut(id.slot());
        connection.last = mad;
        connection.retries_left = connection.max_retries;
        let wait = timeout(connection.response_timeout);
        out.send(&connection.route, &connection.last);
        self.timers.set(id.slot(), Some(now.saturating_add(wait)));
    }

    pub(crate) fn begin_disconnect(&mut self, now: u64, id: Id, out: &mut dyn Output) {
        let wire = self.wire(id);
        let connection = self.at_mut(id.slot());
        connection.state = State::DreqSent;
        let mut dreq = Dreq::new(connection.transaction, wire);
        dreq.remote_comm_id = connection.remote_comm_id.into();
        dreq.remote_qpn = U24::new(connection.terms.remote_qpn);
        self.begin(now, id, dreq.mad(), out);
    }

    /// Sends a REJ for a connection that will not be.
    pub(crate) fn give_up(&mut self, id: Id, answers: u8, reason: RejectReason, out: &mut dyn Output) {
        let mut rej = Rej::new(self.at(id.slot()).transaction, self.wire(id));
        let connection = self.at(id.slot());
        rej.remote_comm_id = connection.remote_comm_id.into();
        rej.set_answered(answers);
        rej.reason = reason.0.into();
        if reason == RejectReason::TIMEOUT {
            // 12.6.7.2: so that a peer whose id we never learnt finds it.
            rej.set_ari_length(8);
            rej.ari[..8].copy_from_slice(&self.config.ca_guid);
        }
        out.send(&connection.route, &rej.mad());
    }

    pub(crate) fn establish(&mut self, id: Id, out: &mut dyn Output) {
        self.at_mut(id.slot()).state = State::Established;
        self.timers.set(id.slot(), None);
        self.tell(id, out, Event::Established { id });
    }

    /// The connection is over; its queue pair's packets may not be.
    pub(crate) fn enter_timewait(&mut self, now: u64, id: Id, out: &mut dyn Output) {
        let connection = self.at_mut(id.slot());
        connection.state = State::Timewait;
        let wait = timeout(connection.terms.ack_timeout.min(MAX_WAIT));
        if !connection.quiet {
            self.tell(id, out, Event::Disconnected { id });
        }
        self.timers.set(id.slot(), Some(now.saturating_add(wait)));
    }

    /// The end of the story. The id stays until it is released.
    pub(crate) fn close(&mut self, id: Id, out: &mut dyn Output, event: Option<Event>) {
        let slot = id.slot();
        self.timers.set(slot, None);
        self.forget_peer(slot);
        self.leave_backlog(slot);
        self.at_mut(slot).state = State::Closed;
        if let Some(event) = event {
            self.tell(id, out, event);
        }
        if self.at(slot).released {
            self.free(id);
        }
    }

    pub(crate) fn tell(&mut self, id: Id, out: &mut dyn Output, event: Event) {
        if !self.at(id.slot()).released {
            out.event(event);
        }
    }
}

const ALL_STATES: &[State] = &[
    State::Idle,
    State::Bound,
    State::Listening,
    State::ReqSent,
    State::ReqRcvd,
    State::RepSent,
    State::RepRcvd,
    State::Established,
    State::DreqSent,
    State::Timewait,
    State::Closed,
];
