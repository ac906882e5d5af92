// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both sides, and what happens at them while a case waits.

use super::carrier::{Carrier, Way};
use super::ours::Ours;
use super::theirs::{kind, Happened, Offer, Theirs};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_cm::mad::Attribute;
use rdma_cm::{ip, Event, Id, Reply, Request, Route, Terms};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};
use verbena_hw::id::Gid;

/// How long a case waits for what must come: longer than the kernel waits for an answer (4.3 s), twice.
const SOON: Duration = Duration::from_secs(30);

/// Where both sides are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Our end of the veth pair.
    pub interface: String,
    /// Their end.
    pub peer_interface: String,
    /// Our address, which no interface has.
    pub address: Ipv4Addr,
    /// Their interface's.
    pub peer_address: Ipv4Addr,
    /// Their RDMA device on that interface.
    pub device: String,
}

/// Both sides.
pub struct World {
    /// Our manager.
    pub ours: Ours,
    /// The kernel's.
    pub theirs: Theirs,
    place: Place,
    heard: VecDeque<Event>,
    happened: VecDeque<Happened>,
    ports: u16,
    counted: BTreeMap<String, u64>,
}

/// The address as a GID.
pub fn gid(address: Ipv4Addr) -> [u8; 16] {
    Gid::from_ipv4(address.octets()).0
}

impl World {
    /// A world in which nothing has been said.
    pub fn new(place: &Place) -> Result<Self> {
        let carrier = Carrier::new(&place.interface, &place.peer_interface)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let mut world = Self {
            ours: Ours::new(carrier, now.as_nanos() as u64),
            theirs: Theirs::open()?,
            place: place.clone(),
            heard: VecDeque::new(),
            happened: VecDeque::new(),
            // Others use the well-known ones.
            ports: 20_000 + (now.as_secs() % 10_000) as u16,
            counted: BTreeMap::new(),
        };
        world.counted = world.counters()?;
        Ok(world)
    }

    /// A port that no case has used.
    pub fn port(&mut self) -> u16 {
        self.ports += 1;
        self.ports
    }

    /// Our address.
    pub fn our_gid(&self) -> [u8; 16] {
        gid(self.place.address)
    }

    /// Theirs.
    pub fn their_gid(&self) -> [u8; 16] {
        gid(self.place.peer_address)
    }

    /// Both sides do what they have to do, until one has something to tell or the time is over.
    fn work(&mut self, at_most: Duration) -> Result<()> {
        let due = self.ours.work();
        while let Some(event) = self.ours.event() {
            self.heard.push_back(event);
        }
        let wait = due.unwrap_or(at_most).min(at_most);
        let ready = {
            let mut fds = [
                PollFd::new(&self.ours.carrier, PollFlags::IN),
                PollFd::new(&self.theirs, PollFlags::IN),
            ];
            let wait = if self.heard.is_empty() { wait } else { Duration::ZERO };
            poll(&mut fds, Some(&Timespec::try_from(wait)?))?;
            fds[1].revents().contains(PollFlags::IN)
        };
        if ready {
            let event = self.theirs.event()?;
            // When it comes depends on the kernel's idea of the path, and says nothing of ours.
            if event.kind != kind::TIMEWAIT_EXIT {
                self.happened.push_back(event);
            }
        }
        Ok(())
    }

    /// Works until `done` has a result.
    fn until<R>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<R>) -> Result<R> {
        let end = Instant::now() + SOON;
        loop {
            if let Some(result) = done(self) {
                return Ok(result);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let log = &self.ours.carrier.log;
                bail!(
                    "{what}: it does not come. We heard {:?}, rdma_cm {:?}; said was {log:x?}",
                    self.heard,
                    self.happened
                );
            }
            self.work(left)?;
        }
    }

    /// Works for some time.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.work(left)?;
        }
        Ok(())
    }

    /// Works until something is the case.
    pub fn wait(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> Result<()> {
        self.until(what, |world| is(world).then_some(()))
    }

    /// Our manager's next event.
    pub fn event(&mut self, what: &str) -> Result<Event> {
        self.until(what, |world| world.heard.pop_front())
    }

    /// Our manager's next event is this one.
    pub fn expect(&mut self, event: Event) -> Result<()> {
        let heard = self.event(&format!("{event:?}"))?;
        ensure!(heard == event, "we hear {heard:?} instead of {event:?}");
        Ok(())
    }

    /// What rdma_cm reports next is of this kind.
    pub fn their(&mut self, kind: u32) -> Result<Happened> {
        let happened = self.until(&format!("rdma_cm's event {kind}"), |world| world.happened.pop_front())?;
        ensure!(happened.kind == kind, "rdma_cm reports {happened:?}, not event {kind}");
        Ok(happened)
    }

    /// Nobody has heard anything that no case has looked at.
    pub fn quiet(&mut self) -> Result<()> {
        self.pass(Duration::from_millis(100))?;
        ensure!(
            self.heard.is_empty() && self.happened.is_empty(),
            "nobody expected this: we heard {:?}, rdma_cm {:?}",
            self.heard,
            self.happened
        );
        Ok(())
    }

    /// rdma_cm listens at a port that nobody has.
    pub fn they_listen(&mut self) -> Result<(u32, u16)> {
        let port = self.port();
        let listener = self
            .theirs
            .listen(SocketAddrV4::new(self.place.peer_address, port), 8)?;
        Ok((listener, port))
    }

    /// We listen at a port that nobody has.
    pub fn we_listen(&mut self) -> Result<(Id, u16)> {
        let port = self.port();
        let listener = self.ours.listen(ip::service(port), 8);
        Ok((listener.map_err(said)?, port))
    }

    /// We ask rdma_cm's listener. `hasty`: 17 ms for an answer, twice; otherwise 134 ms, sixteen times.
    pub fn we_ask(&mut self, port: u16, data: &[u8], hasty: bool) -> Result<Id> {
        let own = self.port();
        let header = ip::Header::new(&self.our_gid(), own, &self.their_gid());
        let private_data = header.with(data).context("too much private data")?;
        let request = Request {
            service: ip::service(port),
            route: Route {
                local: self.our_gid(),
                remote: self.their_gid(),
            },
            terms: Terms {
                // No two connections have the same: a peer would take the older one for a stale one.
                local_qpn: 0x1000 + u32::from(own),
                local_psn: 0x12_3456,
                responder_resources: 3,
                initiator_depth: 5,
                retry_count: 6,
                rnr_retry_count: 7,
                mtu: 3,
                ack_timeout: 14,
                pkey: 0xffff,
                hop_limit: 64,
                ..Terms::default()
            },
            peer_retry_count: 6,
            peer_rnr_retry_count: 5,
            srq: false,
            response_timeout: if hasty { 12 } else { 15 },
            max_retries: if hasty { 1 } else { 15 },
            private_data: &private_data,
        };
        self.ours.connect(&request).map_err(said)
    }

    /// rdma_cm asks our listener: as far as the REQ.
    pub fn they_ask(&mut self, port: u16, offer: &Offer<'_>) -> Result<u32> {
        let to = SocketAddrV4::new(self.place.address, port);
        let id = self.theirs.resolve(self.place.peer_address, to)?;
        ensure!(
            self.their(kind::ADDR_RESOLVED)?.status == 0,
            "the address is not resolved"
        );
        self.theirs.resolve_route(id)?;
        ensure!(
            self.their(kind::ROUTE_RESOLVED)?.status == 0,
            "the route is not resolved"
        );
        self.theirs.connect(id, offer)?;
        Ok(id)
    }

    /// Our answer to a REQ: yes.
    pub fn we_accept(&mut self, id: Id, data: &[u8]) -> Result<()> {
        let qpn = 0x2000 + u32::from(self.port());
        let reply = Reply {
            qpn,
            psn: 0x65_4321,
            responder_resources: 16,
            initiator_depth: 16,
            peer_rnr_retry_count: 4,
            srq: false,
            private_data: data,
        };
        self.ours.accept(id, &reply).map_err(said)
    }

    /// A connection that we asked for. Ours and theirs.
    pub fn connected(&mut self) -> Result<(Id, u32)> {
        let (listener, port) = self.they_listen()?;
        let id = self.we_ask(port, b"", false)?;
        let request = self.their(kind::CONNECT_REQUEST)?;
        self.theirs.accept(request.id, &OFFER)?;
        self.expect(Event::Replied { id })?;
        self.ours.ready(id).map_err(said)?;
        self.their(kind::ESTABLISHED)?;
        self.theirs.destroy(listener)?;
        Ok((id, request.id))
    }

    /// What the kernel's CM has counted, by folder and kind of message.
    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut counters = BTreeMap::new();
        for folder in ["cm_rx_msgs", "cm_rx_duplicates", "cm_tx_msgs", "cm_tx_retries"] {
            let path = format!("/sys/class/infiniband/{}/ports/1/{folder}", self.place.device);
            for entry in fs::read_dir(&path).with_context(|| format!("there is no {path}"))? {
                let entry = entry?;
                let value = fs::read_to_string(entry.path())?;
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                counters.insert(name, value.trim().parse()?);
            }
        }
        Ok(counters)
    }

    /// How far a counter of the kernel's CM has come since this world began.
    pub fn counted(&self, name: &str) -> Result<u64> {
        let now = self.counters()?;
        let value = now.get(name).with_context(|| format!("no counter {name} in {now:?}"))?;
        Ok(value - self.counted.get(name).copied().unwrap_or(0))
    }

    /// The kernel has counted each datagram that we sent and did not lose on purpose.
    pub fn counts_agree(&mut self) -> Result<()> {
        for (attribute, name) in [
            (Attribute::REQ, "req"),
            (Attribute::MRA, "mra"),
            (Attribute::REJ, "rej"),
            (Attribute::REP, "rep"),
            (Attribute::RTU, "rtu"),
            (Attribute::DREQ, "dreq"),
            (Attribute::DREP, "drep"),
        ] {
            let carrier = &self.ours.carrier;
            let lost = carrier.lost.iter().filter(|&&lost| lost == attribute).count();
            let sent = carrier.count(Way::Out, attribute) - lost;
            let seen = self.counted(&format!("cm_rx_msgs/{name}"))?;
            ensure!(
                seen == sent as u64,
                "{name}: we sent {sent}, the kernel has seen {seen}"
            );
        }
        Ok(())
    }
}

/// What their side brings along.
pub const OFFER: Offer<'static> = Offer {
    qpn: 0x4321,
    responder_resources: 4,
    initiator_depth: 2,
    rnr_retry_count: 6,
    data: b"",
};

/// Our manager's refusal as an error.
pub fn said(error: rdma_cm::Error) -> anyhow::Error {
    anyhow::anyhow!("our manager refuses: {error:?}")
}
