// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two engines with a link between them, and one time.

use super::{End, Link, QpShape, World};
use crate::{Time, Uplink};
use core::time::Duration;
use verbena_hw::qp::QpAttrs;

/// See the module's text.
pub struct Net {
    /// One engine and its guests.
    pub a: World,
    /// The other.
    pub b: World,
    /// What is between them.
    pub link: Link,
}

impl Net {
    /// Two engines without HCAs, and a link without faults.
    pub fn new(seed: u64) -> Self {
        Self {
            a: World::with(seed, Uplink::Others, 1),
            b: World::with(seed + 1, Uplink::Others, 101),
            link: Link::new(seed),
        }
    }

    /// What time it is.
    pub fn now(&self) -> Time {
        self.a.now
    }

    fn poll(&mut self) -> (bool, Option<Time>) {
        let mut work = false;
        let mut next = None;
        for world in [&mut self.a, &mut self.b] {
            let progress = world.poll();
            work |= progress.did_work;
            next = next.into_iter().chain(progress.next_deadline).min();
            while let Some(packet) = world.engine.transmit() {
                work = true;
                self.link.send(world.now, packet.bytes);
            }
        }
        while let Some(bytes) = self.link.arrival(self.a.now) {
            work = true;
            for world in [&mut self.a, &mut self.b] {
                world.engine.receive(&bytes, world.now, &world.env);
            }
        }
        (work, next.into_iter().chain(self.link.next()).min())
    }

    /// Polls until there is nothing to do at this time.
    ///
    /// # Panics
    ///
    /// If there is always something: a test's work is finite.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.poll().0 {
                return;
            }
        }
        panic!("the engines do not come to rest");
    }

    /// Lets time pass, stopping at every timer and every arrival on the way.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now() + by;
        loop {
            self.run();
            match self.poll().1 {
                Some(at) if at <= until => self.set(self.now().max(at)),
                _ => break,
            }
        }
        self.set(until);
        self.run();
    }

    fn set(&mut self, now: Time) {
        (self.a.now, self.b.now) = (now, now);
    }
}

/// Two ends of a connection, each of an engine of its own.
pub struct NetPair {
    /// The engines, and what is between them.
    pub net: Net,
    /// The end in one.
    pub a: End,
    /// The end in the other.
    pub b: End,
}

impl NetPair {
    /// A connection with the usual attributes, over a link that keeps a record.
    pub fn connected() -> Self {
        Self::with(|_| {})
    }

    /// A connection whose attributes `tune` changes, on both sides.
    pub fn with(tune: impl Fn(&mut QpAttrs)) -> Self {
        let mut net = Net::new(1);
        let mut a = End::new(&mut net.a, QpShape::default(), 8);
        let mut b = End::new(&mut net.b, QpShape::default(), 8);
        let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
        // Near the end of the sequence, as in `Pair`.
        a.connect(&mut net.a, to_b, (0xff_fffe, 0x12), &tune);
        b.connect(&mut net.b, to_a, (0x12, 0xff_fffe), &tune);
        net.link.seen = Some(Vec::new());
        Self { net, a, b }
    }

    /// What the link has seen since this was asked last: opcodes and PSNs.
    pub fn seen(&mut self) -> Vec<(verbena_hw::wire::PacketOpcode, u32)> {
        let seen = self.net.link.seen.replace(Vec::new()).unwrap_or_default();
        seen.iter().map(|packet| (packet.opcode, packet.psn)).collect()
    }
}
