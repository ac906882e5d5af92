// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a case takes place, and what all of them do.

use super::verbs::{qp_state, Device, Link, RECEIVED, SENT};
use anyhow::{ensure, Context as _, Result};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use verbena::{cm_params, cm_state, CmAddr, CmId, CmOptions, Context, DeviceList, Event, EventKind, EventQueue, Gid};

/// How long what must come may take, in an emulated guest.
pub const SOON: Duration = Duration::from_secs(30);

/// Where both sides are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The RDMA device.
    pub device: String,
    /// The address of its interface.
    pub address: Ipv4Addr,
    /// An address that has a neighbour, and nobody to answer.
    pub silent: Ipv4Addr,
    /// An address that has none.
    pub nowhere: Ipv4Addr,
}

/// The system-wide node and the device.
pub struct World {
    /// Where.
    pub place: Place,
    /// The node.
    pub list: DeviceList,
    /// The device.
    pub device: Rc<Device>,
}

/// Two ids of the node with a queue pair each, connected.
pub struct Connected {
    /// Took the request.
    pub listener: CmId,
    /// Asked.
    pub active: CmId,
    /// Was asked.
    pub passive: CmId,
    /// Their queue pairs, in this order.
    pub links: [Link; 2],
    /// Their events, in this order; the listener's are with the passive side's.
    pub events: [EventQueue; 2],
}

pub fn gid(address: Ipv4Addr) -> Gid {
    Gid::from_ipv4(address.octets())
}

/// The next event, which must be this one.
pub fn expect(events: &EventQueue, kind: EventKind) -> Result<Event> {
    let event = events.next_event(Some(SOON))?;
    let event = event.with_context(|| format!("no event: {kind:?}"))?;
    ensure!(event.kind == kind, "{:?} instead of {kind:?}", event.kind);
    Ok(event)
}

impl World {
    /// Opens the node and the device.
    ///
    /// # Errors
    ///
    /// One of them is not there.
    pub fn open(place: &Place) -> Result<Self> {
        Ok(Self {
            place: place.clone(),
            list: DeviceList::open()?,
            device: Device::open(&place.device)?,
        })
    }

    /// The node's context.
    pub fn node(&self) -> &Context {
        self.list.context()
    }

    /// A new event queue.
    pub fn events(&self) -> Result<EventQueue> {
        Ok(self.node().create_event_queue()?)
    }

    /// The device's address.
    pub fn at(&self, port: u16) -> CmAddr {
        CmAddr::new(gid(self.place.address), port)
    }

    /// A listener at the device's address, and where it is.
    pub fn listen(&self, events: &EventQueue, backlog: u32) -> Result<(CmId, CmAddr)> {
        let listener = CmId::new(self.node(), events, 1)?;
        let at = listener.bind(self.at(0))?;
        ensure!(at.gid == self.at(0).gid && at.port != 0, "bound to {at}");
        listener.listen(backlog)?;
        Ok((listener, at))
    }

    /// The next request.
    pub fn request(&self, listener: &CmId, events: &EventQueue) -> Result<CmId> {
        let event = expect(events, EventKind::CmConnectRequest)?;
        CmId::requested(listener, &event).context("it is no request")
    }

    /// Two sides, connected.
    pub fn connected(&self) -> Result<Connected> {
        let events = [self.events()?, self.events()?];
        let (listener, at) = self.listen(&events[1], 1)?;
        let links = [Link::new(&self.device)?, Link::new(&self.device)?];
        let active = CmId::new(self.node(), &events[0], 2)?;
        active.connect_verbs(links[0].named(), at, &CmOptions::new().params(cm_params()))?;
        let passive = self.request(&listener, &events[1])?;
        passive.accept_verbs(links[1].named(), &CmOptions::new().params(cm_params()))?;
        links[1].post_recv()?;
        let connected = Connected {
            listener,
            active,
            passive,
            links,
            events,
        };
        for events in &connected.events {
            expect(events, EventKind::CmEstablished)?;
        }
        Ok(connected)
    }
}

/// A message from the one to the other, and memory written.
pub fn traffic(from: &Link, to: &Link) -> Result<()> {
    from.send(b"over a connection of rdma_cm")?;
    from.completes(SENT)?;
    let wc = to.completes(RECEIVED)?;
    ensure!(wc.byte_len == 28, "{} bytes came", wc.byte_len);
    ensure!(to.memory(28) == b"over a connection of rdma_cm", "other bytes came");
    from.write(b"written", to.target())?;
    from.completes(SENT)?;
    ensure!(to.memory(7) == b"written", "other bytes were written");
    Ok(())
}

/// The queue pairs of a connection that is over.
pub fn in_error(links: &[Link]) -> Result<()> {
    for link in links {
        let state = link.state()?;
        ensure!(state == qp_state::ERR, "the queue pair is in state {state}");
    }
    Ok(())
}

impl Connected {
    /// The active side ends it; both hear, to the end.
    pub fn part(&self) -> Result<()> {
        self.active.disconnect()?;
        for kind in [EventKind::CmDisconnected, EventKind::CmTimewaitExit] {
            for events in &self.events {
                expect(events, kind)?;
            }
        }
        in_error(&self.links)?;
        for id in [&self.active, &self.passive] {
            let state = id.query()?.state;
            ensure!(state == cm_state::CLOSED, "the state is {state}");
        }
        Ok(())
    }
}
