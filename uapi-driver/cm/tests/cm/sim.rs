// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Managers, a link between them, a clock.

use rdma_cm::mad::{Attribute, Mad};
use rdma_cm::{Config, Event, Id, Manager, Output, Reply, Request, Route, State, Terms};
use std::collections::VecDeque;

pub const MS: u64 = 1_000_000;
/// How long a datagram takes.
pub const LATENCY: u64 = 10_000;
/// 4.096 us * 2^14: 67 ms.
pub const RESPONSE: u8 = 14;
pub const RETRIES: u8 = 15;
pub const SERVICE: u64 = rdma_cm::ip::SERVICE_TCP | 7471;

/// What the link does to a datagram: after how many nanoseconds each copy of it arrives.
pub type Fate = Box<dyn FnMut(usize, &Mad) -> Vec<u64>>;

pub struct Side {
    pub gid: [u8; 16],
    pub manager: Manager,
    pub events: VecDeque<Event>,
    next_qpn: u32,
}

pub struct World {
    pub now: u64,
    pub sides: Vec<Side>,
    wire: Vec<(u64, u64, usize, Route, Mad)>,
    sequence: u64,
    pub fate: Fate,
    /// Attribute of every datagram sent, with its sender.
    pub sent: Vec<(usize, u16)>,
}

pub fn gid(n: usize) -> [u8; 16] {
    let mut gid = [0; 16];
    gid[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, n as u8]);
    gid
}

struct Catch<'a> {
    events: &'a mut VecDeque<Event>,
    sends: Vec<(Route, Mad)>,
}

impl Output for Catch<'_> {
    fn send(&mut self, route: &Route, mad: &Mad) {
        self.sends.push((*route, *mad));
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }
}

impl World {
    /// Two HCAs on a perfect link.
    pub fn new() -> Self {
        Self::of(2)
    }

    pub fn of(sides: usize) -> Self {
        let side = |n: usize| Side {
            gid: gid(n + 1),
            manager: Manager::new(Config {
                ca_guid: [n as u8 + 1; 8],
                secret: 0x1234_5678_9abc_def0 ^ (n as u64) << 3,
                max_ids: 1000,
                service_timeout: 18,
                ack_delay: 10,
            }),
            events: VecDeque::new(),
            next_qpn: 16 + n as u32 * 1000,
        };
        World {
            now: 0,
            sides: (0..sides).map(side).collect(),
            wire: Vec::new(),
            sequence: 0,
            fate: Box::new(|_, _| vec![LATENCY]),
            sent: Vec::new(),
        }
    }

    /// Does something at a side.
    pub fn at<R>(&mut self, side: usize, act: impl FnOnce(&mut Manager, u64, &mut dyn Output) -> R) -> R {
        let Side { manager, events, .. } = &mut self.sides[side];
        let mut catch = Catch {
            events,
            sends: Vec::new(),
        };
        let result = act(manager, self.now, &mut catch);
        for (route, mad) in catch.sends {
            assert_eq!(route.local, self.sides[side].gid);
            self.put(side, route, mad);
        }
        result
    }

    /// Puts a datagram on the wire.
    pub fn put(&mut self, from: usize, route: Route, mad: Mad) {
        self.sent.push((from, mad.header.attribute.get()));
        let Some(to) = self.sides.iter().position(|side| side.gid == route.remote) else {
            return;
        };
        let back = Route {
            local: route.remote,
            remote: route.local,
        };
        for delay in (self.fate)(from, &mad) {
            self.sequence += 1;
            self.wire.push((self.now + delay, self.sequence, to, back, mad));
        }
    }

    /// The next moment at which anything happens by itself.
    pub fn next(&self) -> Option<u64> {
        let arrival = self.wire.iter().map(|&(at, ..)| at);
        let deadlines = self.sides.iter().filter_map(|side| side.manager.next_deadline());
        arrival.chain(deadlines).min()
    }

    /// Moves the clock to `until` and lets everything happen that is due by then.
    pub fn run_until(&mut self, until: u64) {
        while let Some(at) = self.next().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.wire
                .sort_by_key(|&(at, sequence, ..)| std::cmp::Reverse((at, sequence)));
            while self.wire.last().is_some_and(|&(at, ..)| at <= self.now) {
                let (_, _, to, route, mad) = self.wire.pop().unwrap();
                self.at(to, |manager, now, out| manager.receive(now, &route, &mad, out));
            }
            for side in 0..self.sides.len() {
                while self.at(side, |manager, now, out| manager.tick(now, out)) {}
            }
        }
        self.now = self.now.max(until);
    }

    pub fn run_for(&mut self, time: u64) {
        self.run_until(self.now + time);
    }

    pub fn event(&mut self, side: usize) -> Option<Event> {
        self.sides[side].events.pop_front()
    }

    pub fn state(&self, side: usize, id: Id) -> Option<State> {
        self.sides[side].manager.state(id)
    }

    pub fn count(&self, from: usize, attribute: Attribute) -> usize {
        self.sent.iter().filter(|&&sent| sent == (from, attribute.0)).count()
    }

    pub fn listen(&mut self, side: usize, backlog: u32) -> Id {
        self.at(side, |manager, _, _| {
            let id = manager.create().unwrap();
            manager.bind(id, SERVICE, None).unwrap();
            manager.listen(id, backlog).unwrap();
            id
        })
    }

    pub fn qpn(&mut self, side: usize) -> u32 {
        self.sides[side].next_qpn += 1;
        self.sides[side].next_qpn
    }

    pub fn terms(&mut self, side: usize) -> Terms {
        Terms {
            local_qpn: self.qpn(side),
            local_psn: 0x11_2233 + side as u32,
            responder_resources: 8,
            initiator_depth: 4,
            retry_count: 7,
            mtu: 5,
            ack_timeout: 14,
            pkey: 0xffff,
            hop_limit: 64,
            ..Terms::default()
        }
    }

    pub fn request_of(&self, from: usize, to: usize, terms: Terms) -> Request<'static> {
        Request {
            service: SERVICE,
            route: Route {
                local: self.sides[from].gid,
                remote: self.sides[to].gid,
            },
            terms,
            peer_retry_count: 6,
            peer_rnr_retry_count: 5,
            srq: false,
            response_timeout: RESPONSE,
            max_retries: RETRIES,
            private_data: b"ahoy",
        }
    }

    pub fn connect(&mut self, from: usize, to: usize) -> Id {
        let terms = self.terms(from);
        let request = self.request_of(from, to, terms);
        self.at(from, |manager, now, out| {
            let id = manager.create().unwrap();
            manager.connect(now, id, &request, out).unwrap();
            id
        })
    }

    pub fn accept(&mut self, side: usize, id: Id) {
        let reply = Reply {
            qpn: self.qpn(side),
            psn: 0x44_5566,
            responder_resources: 16,
            initiator_depth: 16,
            peer_rnr_retry_count: 3,
            srq: false,
            private_data: b"welcome",
        };
        self.at(side, |manager, now, out| manager.accept(now, id, &reply, out).unwrap());
    }

    /// Waits for a REQ at a side.
    pub fn requested(&mut self, side: usize) -> Id {
        self.run_for(MS);
        match self.event(side) {
            Some(Event::Requested { id, .. }) => id,
            other => panic!("no request, but {other:?}"),
        }
    }

    pub fn ready(&mut self, side: usize, id: Id) {
        self.run_for(MS);
        assert_eq!(self.event(side), Some(Event::Replied { id }));
        self.at(side, |manager, _, out| manager.ready(id, out).unwrap());
    }

    /// A connection between two sides, the second of which listens: both ids.
    pub fn connected(&mut self, from: usize, to: usize) -> (Id, Id) {
        let active = self.connect(from, to);
        let passive = self.requested(to);
        self.accept(to, passive);
        self.ready(from, active);
        self.run_for(MS);
        assert_eq!(self.event(to), Some(Event::Established { id: passive }));
        (active, passive)
    }

    pub fn disconnect(&mut self, side: usize, id: Id) {
        self.at(side, |manager, now, out| manager.disconnect(now, id, out).unwrap());
    }

    pub fn release(&mut self, side: usize, id: Id) {
        self.at(side, |manager, now, out| manager.release(now, id, out));
    }
}
