// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our side: the manager on the real clock.

use super::carrier::Carrier;
use rdma_cm::{Config, Error, Event, Id, Mad, Manager, Output, Reply, Request, Route};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A manager, its datagrams' carrier, and events that nobody has looked at.
pub struct Ours {
    /// See [`Carrier`].
    pub carrier: Carrier,
    manager: Manager,
    events: VecDeque<Event>,
    begun: Instant,
}

struct Out<'a>(&'a mut Carrier, &'a mut VecDeque<Event>);

impl Output for Out<'_> {
    fn send(&mut self, route: &Route, mad: &Mad) {
        self.0.send(route, mad);
    }

    fn event(&mut self, event: Event) {
        self.1.push_back(event);
    }
}

impl Ours {
    /// A manager without ids. Another run has other communication ids: a peer remembers those of before.
    pub fn new(carrier: Carrier, secret: u64) -> Self {
        let config = Config {
            ca_guid: *b"\x02verbena",
            secret,
            max_ids: 1000,
            service_timeout: 24,
            ack_delay: 15,
        };
        Self {
            carrier,
            manager: Manager::new(config),
            events: VecDeque::new(),
            begun: Instant::now(),
        }
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Manager, u64, &mut dyn Output) -> R) -> R {
        let now = self.begun.elapsed().as_nanos() as u64;
        act(&mut self.manager, now, &mut Out(&mut self.carrier, &mut self.events))
    }

    /// Takes what has arrived and does what is due; says how long nothing will be.
    pub fn work(&mut self) -> Option<Duration> {
        while let Some((route, mad)) = self.carrier.receive() {
            self.with(|manager, now, out| manager.receive(now, &route, &mad, out));
        }
        while self.with(|manager, now, out| manager.tick(now, out)) {}
        let deadline = self.manager.next_deadline()?;
        let now = self.begun.elapsed().as_nanos() as u64;
        Some(Duration::from_nanos(deadline.saturating_sub(now)))
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The manager, to ask it.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// A new id that listens.
    pub fn listen(&mut self, service: u64, backlog: u32) -> Result<Id, Error> {
        self.with(|manager, _, _| {
            let id = manager.create()?;
            manager.bind(id, service, None)?;
            manager.listen(id, backlog)?;
            Ok(id)
        })
    }

    /// A new id that connects.
    pub fn connect(&mut self, request: &Request<'_>) -> Result<Id, Error> {
        self.with(|manager, now, out| {
            let id = manager.create()?;
            manager.connect(now, id, request, out)?;
            Ok(id)
        })
    }

    /// See [`Manager::accept`].
    pub fn accept(&mut self, id: Id, reply: &Reply<'_>) -> Result<(), Error> {
        self.with(|manager, now, out| manager.accept(now, id, reply, out))
    }

    /// See [`Manager::reject`].
    pub fn reject(&mut self, id: Id, reason: rdma_cm::RejectReason, data: &[u8]) -> Result<(), Error> {
        self.with(|manager, _, out| manager.reject(id, reason, data, out))
    }

    /// See [`Manager::ready`].
    pub fn ready(&mut self, id: Id) -> Result<(), Error> {
        self.with(|manager, _, out| manager.ready(id, out))
    }

    /// See [`Manager::disconnect`].
    pub fn disconnect(&mut self, id: Id) -> Result<(), Error> {
        self.with(|manager, now, out| manager.disconnect(now, id, out))
    }

    /// See [`Manager::release`].
    pub fn release(&mut self, id: Id) {
        self.with(|manager, now, out| manager.release(now, id, out));
    }
}
