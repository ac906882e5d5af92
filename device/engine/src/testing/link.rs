// SPDX-License-Identifier: MIT OR Apache-2.0
//! A link between ports: what it does to packets is decided by a seed.

use crate::rng::Rng;
use crate::Time;
use core::time::Duration;
use std::collections::BTreeMap;
use verbena_hw::wire::{Bth, PacketOpcode, Udp};
use zerocopy::FromBytes;

/// What a link does to packets. All of it nothing: a link without faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of a thousand packets so many are lost.
    pub lose: u32,
    /// So many arrive twice.
    pub duplicate: u32,
    /// So many have a bit turned.
    pub corrupt: u32,
    /// So many are held back, so that later ones overtake them.
    pub overtake: u32,
    /// Every packet takes up to this long; those that are held back, up to ten times as long.
    pub delay: Duration,
    /// After so many faults, there is none for [`Faults::pause`]: whoever tries once more than this gets through. 0: faults
    /// know no bounds.
    pub bound: u32,
    /// See [`Faults::bound`].
    pub pause: Duration,
    /// Responses of the transport are neither lost nor do they overtake one another: a responder whose queue pair has
    /// failed says nothing twice.
    pub spare_responses: bool,
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It is lost.
    Lost,
    /// It arrives, and once more after this long.
    Twice(Duration),
    /// It arrives this much later.
    Late(Duration),
    /// The bit arrives turned.
    Turned(usize),
}

/// A packet as the link has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was sent.
    pub at: Time,
    /// Its opcode.
    pub opcode: PacketOpcode,
    /// Its sequence number.
    pub psn: u32,
    /// Bytes from the IP header on.
    pub len: usize,
}

/// Packets on their way.
#[derive(Debug)]
pub struct Link {
    /// What it does to them.
    pub faults: Faults,
    /// What becomes of the next packet with an opcode, whatever the faults: the first entry for it, which is used up.
    pub fates: Vec<(PacketOpcode, Fate)>,
    /// Every packet that was sent, if this is to be kept.
    pub seen: Option<Vec<Seen>>,
    rng: Rng,
    in_flight: BTreeMap<(Time, u64), Vec<u8>>,
    count: u64,
    /// Faults since the last pause, and when the pause ends.
    done: u32,
    paused: Time,
    /// Packets that the link has carried, and those that it has lost.
    pub carried: u64,
    /// See [`Link::carried`].
    pub lost: u64,
}

impl Link {
    /// A link without faults.
    pub fn new(seed: u64) -> Self {
        Self {
            faults: Faults::default(),
            fates: Vec::new(),
            seen: None,
            rng: Rng::new(seed),
            in_flight: BTreeMap::new(),
            count: 0,
            done: 0,
            paused: Time::ZERO,
            carried: 0,
            lost: 0,
        }
    }

    /// Whether a thing happens that happens `per_mille` times in a thousand.
    fn draw(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.next() % 1000 < u64::from(per_mille)
    }

    /// As [`Link::draw`], of faults: they are counted, and pause.
    fn fault(&mut self, now: Time, per_mille: u32) -> bool {
        if now < self.paused || !self.draw(per_mille) {
            return false;
        }
        self.done += 1;
        if self.done == self.faults.bound {
            self.done = 0;
            self.paused = now + self.faults.pause;
        }
        true
    }

    fn after(&mut self, now: Time, most: Duration) -> Time {
        let nanos = most.as_nanos() as u64;
        now + Duration::from_nanos(if nanos == 0 { 0 } else { self.rng.next() % nanos })
    }

    /// Takes a packet.
    pub fn send(&mut self, now: Time, mut bytes: Vec<u8>) {
        let faults = self.faults;
        self.carried += 1;
        let bth = bth(&bytes);
        if let Some(seen) = &mut self.seen {
            seen.push(Seen {
                at: now,
                opcode: bth.opcode(),
                psn: bth.psn().get(),
                len: bytes.len(),
            });
        }
        if let Some(found) = self.fates.iter().position(|(opcode, _)| *opcode == bth.opcode()) {
            match self.fates.remove(found).1 {
                Fate::Lost => self.lost += 1,
                Fate::Twice(after) => {
                    self.queue(now, bytes.clone());
                    self.queue(now + after, bytes);
                }
                Fate::Late(after) => self.queue(now + after, bytes),
                Fate::Turned(bit) => {
                    self.lost += 1;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    self.queue(now, bytes);
                }
            }
            return;
        }
        if faults.spare_responses && is_response(&bytes) {
            self.queue(now + faults.delay, bytes);
            return;
        }
        if self.fault(now, faults.lose) {
            self.lost += 1;
            return;
        }
        if self.fault(now, faults.corrupt) {
            self.lost += 1;
            let bit = self.rng.next() as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if self.fault(now, faults.duplicate) {
            let at = self.after(now, faults.delay * 10);
            self.queue(at, bytes.clone());
        }
        let most = if self.fault(now, faults.overtake) { 10 } else { 1 };
        let at = self.after(now, faults.delay * most);
        self.queue(at, bytes);
    }

    fn queue(&mut self, at: Time, bytes: Vec<u8>) {
        self.count += 1;
        self.in_flight.insert((at, self.count), bytes);
    }

    /// A packet that has arrived.
    pub fn arrival(&mut self, now: Time) -> Option<Vec<u8>> {
        let first = self.in_flight.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the next packet arrives.
    pub fn next(&self) -> Option<Time> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }
}

/// The base transport header of a packet.
fn bth(packet: &[u8]) -> Bth {
    let ip = if packet[0] >> 4 == 6 { 40 } else { 20 };
    let bytes = &packet[ip + size_of::<Udp>()..];
    Bth::read_from_prefix(bytes).expect("a packet of the device's").0
}

fn is_response(packet: &[u8]) -> bool {
    let opcode = bth(packet).opcode();
    let reliable = matches!(opcode.service(), PacketOpcode::RC | PacketOpcode::XRC);
    let of_rc = opcode.of_service(PacketOpcode::RC);
    reliable && (PacketOpcode::RC_READ_RESPONSE_FIRST..=PacketOpcode::RC_ATOMIC_ACKNOWLEDGE).contains(&of_rc)
}

/// Puts the right invariant CRC at the end of a packet that somebody made up.
///
/// # Panics
///
/// If it is too short for one.
pub fn seal(packet: &mut [u8]) {
    let ip = if packet[0] >> 4 == 6 { 40 } else { 20 };
    let end = packet.len() - verbena_hw::wire::ICRC;
    let crc = crate::packet::codec::icrc(ip, &packet[..end]);
    packet[end..].copy_from_slice(&crc.to_le_bytes());
}
