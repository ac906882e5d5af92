// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rate limit of a send queue: a token bucket over the engine's clock.
//!
//! The bucket is a moment: until when what has been sent keeps the path busy at the queue's rate. A burst is how far that moment may
//! be ahead of now. What counts are bytes of packets behind their headers, of each at least [`SMALLEST`], whether they leave the port or
//! are copied; a READ is its request. What is sent again counts again.
//!
//! A queue pair with a limit is never lent and takes no short way, so those without one pay nothing.

use crate::engine::Hcas;
use crate::env::{Env, HcaId};
use crate::hca::{Cx, Hca};
use crate::limits::SLICE;
use crate::qp::Qp;
use crate::schedule::{QpRef, Schedule};
use crate::time::Time;
use core::time::Duration;
use verbena_hw::id::Qpn;
use verbena_hw::qp::{Mtu, QpAttrs};

/// What a packet counts at least: the shortest Ethernet frame.
const SMALLEST: u64 = 64;
/// Typical packets that a burst has, if the driver leaves it to the device.
const BURST: u64 = 16;
/// The typical packet, if the driver leaves it to the device: the port's MTU.
const TYPICAL: u64 = match crate::hca::MTU.bytes() {
    Some(mtu) => mtu as u64,
    None => panic!("the port's MTU has a meaning"),
};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Kilobits a second, not zero.
    rate: u64,
    /// How far `busy` may be ahead, and how much of that the next packet needs.
    burst: Duration,
    need: Duration,
    /// Until when what was sent takes.
    busy: Time,
    /// What the division left over at the last packet, in bits times 10^6, so that no rate is off in the long run.
    rest: u64,
    /// The schedule's timer.
    pub(crate) timer: Option<Time>,
}

impl Pace {
    /// `None`: there is no limit.
    pub(crate) fn new(attrs: &QpAttrs, now: Time) -> Option<Box<Self>> {
        let rate = u64::from(attrs.rate_limit);
        if rate == 0 {
            return None;
        }
        let given = |value: u64, default: u64| if value == 0 { default } else { value };
        let typical = given(attrs.typical_packet.into(), TYPICAL);
        let burst = given(attrs.max_burst.into(), BURST * typical);
        let time = |bytes: u64| Duration::from_nanos((bytes * BITS).div_ceil(rate));
        Some(Box::new(Self {
            rate,
            burst: time(burst),
            // Whoever asks for bursts shorter than a packet gets one packet at a time.
            need: time(typical.min(burst)),
            busy: now,
            rest: 0,
            timer: None,
        }))
    }

    /// When the next packet may be sent, if not now.
    fn wait(&self, now: Time) -> Option<Time> {
        let due = self.busy + self.need;
        (due > now + self.burst).then(|| Time(due.0 - self.burst.as_nanos() as u64))
    }

    /// Bytes of a message with this path MTU that may be sent at once: full packets, one at least.
    fn run(&self, now: Time, mtu: u64) -> u64 {
        let room = (now + self.burst) - self.busy.max(now);
        let bytes = (room.as_nanos() as u64).saturating_mul(self.rate) / BITS;
        (bytes / mtu * mtu).clamp(mtu, SLICE)
    }

    /// Packets have been sent: `len` bytes in so many.
    fn charge(&mut self, now: Time, len: u64, packets: u32, mtu: u64) {
        let full = u64::from(packets.saturating_sub(1)) * mtu;
        let bytes = full + len.saturating_sub(full).max(SMALLEST);
        let units = bytes * BITS + self.rest;
        self.rest = units % self.rate;
        self.busy = self.busy.max(now) + Duration::from_nanos(units / self.rate);
    }
}

/// Bits of a byte, times nanoseconds of a millisecond: a byte takes so many nanoseconds at one kilobit a second.
const BITS: u64 = 8_000_000;

impl Qp {
    /// Bytes of a message that one turn may send: a multiple of the path MTU.
    #[inline]
    pub(crate) fn slice(&self, now: Time) -> u64 {
        match &self.pace {
            None => SLICE,
            Some(pace) => pace.run(now, self.mtu_bytes()),
        }
    }

    fn mtu_bytes(&self) -> u64 {
        // Datagrams and frames are one packet each.
        Mtu(self.attrs.path_mtu).bytes().map_or(TYPICAL, u64::from)
    }
}

/// Whether the send queue has to wait; it gets a turn when it need not any more.
#[inline]
pub(crate) fn holds<E: Env>(cx: &mut Cx<'_, E>, hca: HcaId, qp: &mut Qp) -> bool {
    qp.pace.is_some() && holds_limited(cx, hca, qp)
}

#[cold]
#[inline(never)]
fn holds_limited<E: Env>(cx: &mut Cx<'_, E>, hca: HcaId, qp: &mut Qp) -> bool {
    let Some(pace) = &mut qp.pace else { return false };
    let Some(at) = pace.wait(cx.now) else { return false };
    cx.schedule.pace(QpRef { hca, qpn: qp.qpn }, &mut pace.timer, at);
    true
}

/// The timer of [`holds`] has expired.
#[cold]
#[inline(never)]
pub(crate) fn release(hcas: &mut Hcas, schedule: &mut Schedule, at: QpRef) {
    let Some(qp) = hcas.qp_mut(at) else { return };
    if let Some(pace) = &mut qp.pace {
        pace.timer = None;
    }
    schedule.activate(at.hca, qp);
}

/// Whether a send queue waits for a turn of [`holds`].
pub(crate) fn is_held(hca: &Hca, qpn: Qpn) -> bool {
    let qp = hca.qps.get(qpn.get());
    qp.and_then(|qp| qp.pace.as_ref())
        .is_some_and(|pace| pace.timer.is_some())
}

/// `len` bytes in so many packets have been sent.
#[inline]
pub(crate) fn sent(now: Time, qp: &mut Qp, len: u64, packets: u32) {
    if qp.pace.is_some() {
        charge(now, qp, len, packets);
    }
}

/// As [`sent`], of a queue pair that may be gone.
#[inline]
pub(crate) fn sent_by(hcas: &mut Hcas, now: Time, at: QpRef, len: u64, packets: u32) {
    if let Some(qp) = hcas.qp_mut(at) {
        sent(now, qp, len, packets);
    }
}

#[cold]
#[inline(never)]
fn charge(now: Time, qp: &mut Qp, len: u64, packets: u32) {
    let mtu = qp.mtu_bytes();
    if let Some(pace) = &mut qp.pace {
        pace.charge(now, len, packets, mtu);
    }
}
