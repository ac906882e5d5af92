// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams: queue pairs without a peer, and where their messages go.

use super::{path_to, Qp, QpAttr, SendBatch, Ud};
use crate::context::MESSAGE;
use crate::error::{Error, Result};
use crate::object::Object;
use crate::ring::work::{PostError, SendWr};
use crate::ProtectionDomain;
use rdma_uapi::class::qp::Path;
use rdma_uapi::class::{self, ah, mcast};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::fmt;
use std::sync::Arc;
use verbena_hw::grh::Grh;
use verbena_hw::id::{Gid, Qpn};
use verbena_hw::qp::{Path as HwPath, QpState};
use verbena_hw::wqe::UdArgs;

/// Bytes at the beginning of every receive of a datagram, before its data: where it came from ([`Grh`]).
pub const GRH_LEN: usize = verbena_hw::grh::LEN;

/// An unreliable datagram queue pair.
///
/// A receive needs [`GRH_LEN`] bytes more than the longest message, which is no longer than the port's MTU.
pub type UdQp = Qp<Ud>;

/// Where datagrams go: a path, in the form that work requests carry. A plain value: making one, or copying it, asks
/// neither the kernel nor the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressHandle {
    path: HwPath,
}

/// Why there is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The destination GID is zero.
    NoGid,
    /// The GID table has no such index.
    SgidIndex,
    /// The flow label has more than 20 bits.
    FlowLabel,
    /// The service level is above 15.
    ServiceLevel,
    /// What stands in the place of a received datagram's header is none.
    NoHeader,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoGid => "the destination GID is zero",
            Self::SgidIndex => "a GID table has at most 256 entries",
            Self::FlowLabel => "a flow label has 20 bits",
            Self::ServiceLevel => "service levels are 0 to 15",
            Self::NoHeader => "the receive does not begin with a datagram's header",
        })
    }
}

impl std::error::Error for AddressError {}

impl AddressHandle {
    /// The address at the end of `path`, which leaves by `port`. Whether the GID table's entry is in use, the device looks
    /// when something is sent.
    ///
    /// # Errors
    ///
    /// A field of the path is out of range.
    pub fn new(path: &Path, port: u8) -> Result<Self, AddressError> {
        let path = HwPath {
            dgid: Gid(path.dgid),
            flow_label: path.flow_label,
            sgid_index: u8::try_from(path.sgid_index).map_err(|_| AddressError::SgidIndex)?,
            hop_limit: path.hop_limit,
            traffic_class: path.traffic_class,
            sl: path.sl,
            // Zero: the device derives the MAC address from the GID.
            dmac: [0; 6],
            vlan: 0xffff,
            port,
            ..HwPath::default()
        };
        if path.dgid.is_zero() {
            return Err(AddressError::NoGid);
        }
        if path.flow_label >= 1 << 20 {
            return Err(AddressError::FlowLabel);
        }
        if path.sl > 15 {
            return Err(AddressError::ServiceLevel);
        }
        Ok(Self { path })
    }

    /// `gid`, by port 1 and entry 0 of its GID table.
    ///
    /// # Errors
    ///
    /// The GID is zero.
    pub fn to(gid: Gid) -> Result<Self, AddressError> {
        Self::new(&path_to(gid, 0), 1)
    }

    /// The sender of a datagram, by the first [`GRH_LEN`] bytes of its receive. `sgid_index` is the entry of our GID table
    /// that it was sent to.
    ///
    /// # Errors
    ///
    /// The bytes are no header.
    pub fn of_sender(header: &[u8; GRH_LEN], sgid_index: u16) -> Result<Self, AddressError> {
        let route = Grh(*header).route().ok_or(AddressError::NoHeader)?;
        let mut path = path_to(route.sgid, sgid_index);
        path.flow_label = route.flow_label;
        path.traffic_class = route.traffic_class;
        Self::new(&path, 1)
    }

    /// Where it leads.
    pub fn gid(&self) -> Gid {
        self.path.dgid
    }

    /// Every queue pair that is attached to it, if it is a multicast group.
    pub fn members(&self, qkey: u32) -> Destination {
        self.qp(Qpn::MULTICAST.get(), qkey)
    }

    /// A queue pair there. With bit 31 of `qkey` the sending queue pair's own Q_Key is sent instead.
    pub fn qp(&self, qpn: u32, qkey: u32) -> Destination {
        Destination(UdArgs {
            path: self.path,
            dest_qpn: Qpn::truncate(qpn),
            qkey,
            reserved: 0,
        })
    }
}

/// An address that the kernel has checked, its GID table entry included, and that keeps its protection domain. Beside that
/// it is no more than its [`AddressHandle`].
pub struct CheckedAddress {
    // Field order: the object is destroyed before what it stands on can go.
    object: Object,
    handle: AddressHandle,
    _pd: Arc<Object>,
}

impl fmt::Debug for CheckedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedAddress({})", self.handle.gid())
    }
}

impl CheckedAddress {
    /// The address at the end of `path`, which leaves by `port`.
    ///
    /// # Errors
    ///
    /// A field of the path is out of range; the GID table has no such entry; the device is gone.
    pub fn new(pd: &ProtectionDomain, path: &Path, port: u8) -> Result<Self> {
        const DOING: &str = "make an address handle";
        let context = pd.context();
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::AH, 0);
        message.put(ah::PD, &pd.object.id()).put(ah::PATH, path);
        message.put(ah::PORT, &u32::from(port));
        let answer = context.call(DOING, method::CREATE, message)?;
        Ok(Self {
            object: Object::new(context, class::AH, answer.object(), "destroy an address handle"),
            handle: AddressHandle::new(path, port).map_err(|_| Error::Answer {
                doing: DOING,
                what: "a path was taken that no datagram can have",
            })?,
            _pd: pd.object.clone(),
        })
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// It as work requests want it.
    pub fn handle(&self) -> AddressHandle {
        self.handle
    }

    /// Destroys it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

/// A queue pair at an address, and the Q_Key to reach it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(UdArgs);

const NOT_ATTACHED: Error = Error::Argument("the queue pair is not attached to the group");

impl Qp<Ud> {
    /// Attaches it to a multicast group: it receives what any queue pair of the fabric sends there with its Q_Key, itself
    /// included. Ends with [`UdQp::detach`], or with the queue pair.
    ///
    /// # Errors
    ///
    /// `gid` is no group's; it is attached already; the group is full; the device is gone.
    pub fn attach(&mut self, gid: Gid) -> Result<()> {
        let context = self.object().context();
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MCAST, 0);
        message.put(mcast::QP, &self.object().id()).put(mcast::GID, &gid.0);
        let answer = context.call("attach a queue pair to a group", method::CREATE, message)?;
        let membership = Object::new(
            context,
            class::MCAST,
            answer.object(),
            "detach a queue pair from a group",
        );
        self.groups.push((gid, membership));
        Ok(())
    }

    /// Queue pairs of the device that are attached to a group which this one is attached to.
    ///
    /// # Errors
    ///
    /// It is not attached; the device is gone.
    pub fn members(&self, gid: Gid) -> Result<u32> {
        const DOING: &str = "query a multicast group";
        let mut attached = self.groups.iter();
        let (_, membership) = attached.find(|(group, _)| *group == gid).ok_or(NOT_ATTACHED)?;
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MCAST, membership.id().0);
        message.ask(mcast::MEMBERS);
        let answer = membership.context().call(DOING, method::QUERY, message)?;
        answer.expect(DOING, mcast::MEMBERS)
    }

    /// Detaches it from a multicast group.
    ///
    /// # Errors
    ///
    /// It is not attached; the device is gone.
    pub fn detach(&mut self, gid: Gid) -> Result<()> {
        let at = self.groups.iter().position(|(group, _)| *group == gid);
        let at = at.ok_or(NOT_ATTACHED)?;
        self.groups.swap_remove(at).1.destroy()
    }

    /// Moves it from RESET to RTS: it takes datagrams that come with `qkey`.
    ///
    /// # Errors
    ///
    /// It is in another state; `qkey` has bit 31, and the process has not CAP_NET_RAW; the device is gone.
    pub fn make_ready(&mut self, qkey: u32) -> Result<()> {
        self.modify(&QpAttr::to(QpState::INIT).port(1).pkey_index(0).qkey(qkey))?;
        self.modify(&QpAttr::to(QpState::RTR))?;
        self.modify(&QpAttr::to(QpState::RTS).sq_psn(self.psn()))
    }

    /// Posts a datagram: [`SendWr::send`] or [`SendWr::send_imm`].
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then, except with [`PostError::DeviceGone`].
    #[inline(always)]
    pub fn post_send(&mut self, wr: &SendWr<'_>, to: &Destination) -> Result<(), PostError> {
        self.check_send_state()?;
        self.send.push_to(&self.slot, wr, &to.0)?;
        self.publish()
    }
}

impl SendBatch<'_, Ud> {
    /// Adds a datagram.
    ///
    /// # Errors
    ///
    /// [`PostError`]; the batch is what it was before.
    #[inline(always)]
    pub fn push(&mut self, wr: &SendWr<'_>, to: &Destination) -> Result<(), PostError> {
        self.qp.check_send_state()?;
        self.qp.send.push_to(&self.qp.slot, wr, &to.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbena_hw::grh::Route;

    #[test]
    fn u19_an_address_is_checked_without_asking_anybody() {
        let gid = Gid::link_local([2, 0, 0, 0, 0, 1]);
        assert_eq!(AddressHandle::to(Gid::default()), Err(AddressError::NoGid));
        let mut path = path_to(gid, 0);
        assert_eq!(AddressHandle::new(&path, 1).map(|ah| ah.gid()), Ok(gid));
        path.sl = 16;
        assert_eq!(AddressHandle::new(&path, 1), Err(AddressError::ServiceLevel));
        path.flow_label = 1 << 20;
        assert_eq!(AddressHandle::new(&path, 1), Err(AddressError::FlowLabel));
        path.sgid_index = 256;
        assert_eq!(AddressHandle::new(&path, 1), Err(AddressError::SgidIndex));
    }

    #[test]
    fn u19_the_sender_of_a_datagram_is_an_address() {
        let route = Route {
            sgid: Gid::from_ipv4([10, 0, 0, 1]),
            dgid: Gid::from_ipv4([10, 0, 0, 2]),
            traffic_class: 7,
            hop_limit: 64,
            flow_label: 0,
        };
        let header = Grh::new(&route, 8, false).0;
        let ah = AddressHandle::of_sender(&header, 3).unwrap();
        assert_eq!(ah.gid(), route.sgid);
        assert_eq!((ah.path.sgid_index, ah.path.traffic_class), (3, 7));
        assert_eq!(AddressHandle::of_sender(&[0; GRH_LEN], 3), Err(AddressError::NoHeader));
    }
}
