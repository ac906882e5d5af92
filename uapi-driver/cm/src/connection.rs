// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What is known of one communication id.

use crate::mad::{Mad, Rep, Req};
use crate::manager::Id;

/// How datagrams reach the peer: by GIDs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Our GID.
    pub local: [u8; 16],
    /// The peer's.
    pub remote: [u8; 16],
}

/// Where a communication id is in its life (IBA vol. 1, figures 142 and 143; the states of MRA are these with longer
/// deadlines).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// New.
    Idle,
    /// It has a service id.
    Bound,
    /// It takes REQs.
    Listening,
    /// REQ sent.
    ReqSent,
    /// REQ received; the application decides.
    ReqRcvd,
    /// REP sent.
    RepSent,
    /// REP received; the queue pair is being made ready.
    RepRcvd,
    /// Connected.
    Established,
    /// DREQ sent.
    DreqSent,
    /// Over; packets may still be on their way.
    Timewait,
    /// Over.
    Closed,
}

/// What both sides have said of a connection, as the local side sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The local queue pair.
    pub local_qpn: u32,
    /// The peer's queue pair.
    pub remote_qpn: u32,
    /// First PSN that we send.
    pub local_psn: u32,
    /// First PSN that the peer sends.
    pub remote_psn: u32,
    /// READs and atomics that our queue pair executes for the peer at a time.
    pub responder_resources: u8,
    /// READs and atomics that our queue pair may have outstanding.
    pub initiator_depth: u8,
    /// Transport retries of our queue pair.
    pub retry_count: u8,
    /// RNR retries of our queue pair.
    pub rnr_retry_count: u8,
    /// The path MTU: 1 to 5 for 256 to 4096 bytes.
    pub mtu: u8,
    /// Local ACK timeout of our queue pair, coded ([`crate::timeout`]).
    pub ack_timeout: u8,
    /// The partition.
    pub pkey: u16,
    /// The traffic class of the path.
    pub traffic_class: u8,
    /// The hop limit of the path.
    pub hop_limit: u8,
    /// The flow label of the path.
    pub flow_label: u32,
}

/// Private data that a peer sent.
#[derive(Clone, Copy)]
pub(crate) struct PrivateData {
    len: u8,
    bytes: [u8; Rep::PRIVATE_DATA],
}

impl PrivateData {
    pub(crate) const EMPTY: Self = PrivateData {
        len: 0,
        bytes: [0; Rep::PRIVATE_DATA],
    };

    /// A message's; the longest that is kept is a REP's.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut data = Self::EMPTY;
        data.bytes[..bytes.len()].copy_from_slice(bytes);
        data.len = bytes.len() as u8;
        data
    }

    pub(crate) fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Whom a listener or a bound id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) service: u64,
    /// This GID of ours only, or any.
    pub(crate) gid: Option<[u8; 16]>,
}

impl Binding {
    pub(crate) fn overlaps(&self, other: &Binding) -> bool {
        self.service == other.service && (self.gid.is_none() || other.gid.is_none() || self.gid == other.gid)
    }

    pub(crate) fn takes(&self, service: u64, gid: &[u8; 16]) -> bool {
        self.service == service && self.gid.is_none_or(|own| own == *gid)
    }
}

/// A communication id.
pub(crate) struct Connection {
    pub(crate) state: State,
    /// Its owner is gone: no events, and it goes when its story has ended.
    pub(crate) released: bool,
    /// Its owner has been told of the end already.
    pub(crate) quiet: bool,
    /// A REQ waited longer once; a peer's MRA counts once.
    pub(crate) patient: bool,
    pub(crate) binding: Option<Binding>,
    /// Listening: REQs that wait for the application, and how many may.
    pub(crate) pending: u32,
    pub(crate) backlog: u32,
    /// In ReqRcvd: who listens.
    pub(crate) listener: Option<Id>,
    pub(crate) route: Route,
    pub(crate) service: u64,
    pub(crate) remote_comm_id: u32,
    pub(crate) transaction: u64,
    pub(crate) terms: Terms,
    /// How long to wait before a message is repeated, coded.
    pub(crate) response_timeout: u8,
    pub(crate) max_retries: u8,
    pub(crate) retries_left: u8,
    /// What the peer said last.
    pub(crate) private_data: PrivateData,
    /// What is repeated when no answer comes.
    pub(crate) last: Mad,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Connection {
            state: State::Idle,
            released: false,
            quiet: false,
            patient: false,
            binding: None,
            pending: 0,
            backlog: 0,
            listener: None,
            route: Route::default(),
            service: 0,
            remote_comm_id: 0,
            transaction: 0,
            terms: Terms::default(),
            response_timeout: 0,
            max_retries: 0,
            retries_left: 0,
            private_data: PrivateData::EMPTY,
            last: Req::new(0, 0).mad(),
        }
    }

    /// Whether a message from there that names these ids is about this connection.
    pub(crate) fn is_with(&self, remote: &[u8; 16], remote_comm_id: u32) -> bool {
        self.route.remote == *remote && self.remote_comm_id == remote_comm_id
    }
}
