// SPDX-License-Identifier: MIT OR Apache-2.0
//! What carries our datagrams: RoCEv2 packets in Ethernet frames through a packet socket. It can lose what it is told to.
#![expect(unsafe_code, reason = "binding a packet socket is what no safe interface offers")]

use anyhow::{Context as _, Result};
use rdma_cm::mad::Attribute;
use rdma_cm::{Mad, Route};
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use verbena_hw::grh::{self, Grh};
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::qp::GSI_QKEY;
use verbena_hw::wire::{Bth, Deth, Invariant, PacketOpcode, Udp, ICRC, UDP_PORT};
use zerocopy::{FromBytes, IntoBytes};

type Mac = [u8; 6];

/// EtherType of IPv4.
const ETHERTYPE_IPV4: u16 = 0x0800;
/// Destination, source, type.
const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
/// QP 1.
const GSI: Qpn = Qpn::truncate(1);

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From us.
    Out,
    /// To us.
    In,
}

/// A packet socket on one interface, and what has gone through it.
pub struct Carrier {
    socket: OwnedFd,
    own: Mac,
    peer: Mac,
    psn: u32,
    losses: Vec<(Way, Attribute, usize)>,
    /// Every datagram, those that were lost included.
    pub log: Vec<(Way, Attribute)>,
    /// Those that were lost on the way to the peer.
    pub lost: Vec<Attribute>,
}

fn mac(interface: &str) -> Result<Mac> {
    let path = format!("/sys/class/net/{interface}/address");
    let text = fs::read_to_string(&path).with_context(|| format!("there is no interface {interface}"))?;
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{path} says '{}'", text.trim()))?;
    bytes
        .try_into()
        .ok()
        .with_context(|| format!("{path} says '{}'", text.trim()))
}

impl Carrier {
    /// On `interface`, to the interface at the other end of the pair.
    pub fn new(interface: &str, peer: &str) -> Result<Self> {
        let index = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
        Ok(Self {
            socket: packet_socket(index.trim().parse()?).context("cannot open a packet socket")?,
            own: mac(interface)?,
            peer: mac(peer)?,
            psn: 0,
            losses: Vec::new(),
            log: Vec::new(),
            lost: Vec::new(),
        })
    }

    /// Loses the next `count` datagrams of a kind.
    pub fn lose(&mut self, way: Way, attribute: Attribute, count: usize) {
        self.losses.push((way, attribute, count));
    }

    /// Loses nothing any more.
    pub fn lose_nothing(&mut self) {
        self.losses.clear();
    }

    /// How many datagrams of a kind there were, lost or not.
    pub fn count(&self, way: Way, attribute: Attribute) -> usize {
        self.log.iter().filter(|&&entry| entry == (way, attribute)).count()
    }

    fn is_lost(&mut self, way: Way, attribute: Attribute) -> bool {
        self.log.push((way, attribute));
        let hit = |loss: &&mut (Way, Attribute, usize)| (loss.0, loss.1) == (way, attribute) && loss.2 > 0;
        match self.losses.iter_mut().find(hit) {
            Some(loss) => {
                loss.2 -= 1;
                true
            }
            None => false,
        }
    }

    /// Sends a datagram. What the socket does not take is lost, as on a wire.
    pub fn send(&mut self, route: &Route, mad: &Mad) {
        let attribute = Attribute(mad.header.attribute.get());
        if self.is_lost(Way::Out, attribute) {
            self.lost.push(attribute);
            return;
        }
        let frame = self.frame(route, mad);
        let sent = rustix::net::send(&self.socket, &frame, rustix::net::SendFlags::empty());
        if sent.is_err() {
            self.lost.push(attribute);
        }
    }

    fn frame(&mut self, route: &Route, mad: &Mad) -> Vec<u8> {
        let route = grh::Route {
            sgid: Gid(route.local),
            dgid: Gid(route.remote),
            hop_limit: 64,
            ..Default::default()
        };
        let behind_ip = size_of::<Udp>() + size_of::<Bth>() + size_of::<Deth>() + size_of::<Mad>() + ICRC;
        let grh = Grh::of(&route, behind_ip as u16);
        let udp = Udp {
            source: 0xc001.into(),
            destination: UDP_PORT.into(),
            length: (behind_ip as u16).into(),
            checksum: 0.into(),
        };
        let bth = Bth::new(PacketOpcode::UD_SEND_ONLY, GSI, Psn::truncate(self.psn));
        self.psn = self.psn.wrapping_add(1);
        let deth = Deth {
            qkey: GSI_QKEY.into(),
            src_qpn: GSI.get().into(),
        };
        let ip = grh.on_the_wire();
        let mut packet = [ip, udp.as_bytes(), bth.as_bytes(), deth.as_bytes(), mad.as_bytes()].concat();
        let crc = icrc(ip.len(), &packet);
        packet.extend(crc.to_le_bytes());
        [&self.peer[..], &self.own, &ETHERTYPE_IPV4.to_be_bytes(), &packet].concat()
    }

    /// The next datagram that has arrived at QP 1, with the route as the receiving side sees it.
    pub fn receive(&mut self) -> Option<(Route, Mad)> {
        let mut frame = [0; 2048];
        loop {
            let (len, _) = rustix::net::recv(&self.socket, &mut frame[..], rustix::net::RecvFlags::empty()).ok()?;
            let Some((route, mad)) = self.datagram(&frame[..len]) else {
                continue;
            };
            if !self.is_lost(Way::In, Attribute(mad.header.attribute.get())) {
                return Some((route, mad));
            }
        }
    }

    fn datagram(&self, frame: &[u8]) -> Option<(Route, Mad)> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
        if ethernet[..6] != self.own || ethernet[12..] != ETHERTYPE_IPV4.to_be_bytes() {
            return None;
        }
        let ip = packet.first_chunk::<IPV4>()?;
        let length = u16::from_be_bytes([ip[2], ip[3]]);
        let packet = packet.get(..usize::from(length))?;
        let mut grh = Grh([0; grh::LEN]);
        grh.0[grh::LEN - IPV4..].copy_from_slice(ip);
        let route = grh.route()?;
        let (udp, rest) = Udp::read_from_prefix(&packet[IPV4..]).ok()?;
        let (bth, rest) = Bth::read_from_prefix(rest).ok()?;
        let (deth, rest) = Deth::read_from_prefix(rest).ok()?;
        let (mad, rest) = Mad::read_from_prefix(rest).ok()?;
        let covered = packet.len().checked_sub(ICRC)?;
        let for_us = udp.destination.get() == UDP_PORT
            && bth.opcode() == PacketOpcode::UD_SEND_ONLY
            && bth.qpn() == GSI
            && deth.qkey.get() == GSI_QKEY
            && rest == icrc(IPV4, &packet[..covered]).to_le_bytes();
        for_us.then_some((
            Route {
                local: route.dgid.0,
                remote: route.sgid.0,
            },
            mad,
        ))
    }
}

impl AsFd for Carrier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The invariant CRC of a packet whose IP header has `ip` bytes.
fn icrc(ip: usize, packet: &[u8]) -> u32 {
    let covered = Invariant::of(ip, packet);
    let mut crc = crc32fast::Hasher::new();
    crc.update(covered.as_bytes());
    crc.update(&packet[covered.headers()..]);
    crc.finalize()
}

/// A packet socket for frames that carry IPv4 on one interface; its calls do not wait.
fn packet_socket(interface: i32) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let protocol = ETHERTYPE_IPV4.to_be();
    // SAFETY: No memory is involved.
    let socket = unsafe { libc::socket(libc::AF_PACKET, flags, protocol.into()) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: It was made just now and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: Zeros are an address of no kind, and every field is an integer.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = interface;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: The address lives during the call and has that length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
