// SPDX-License-Identifier: MIT OR Apache-2.0
//! Verified traffic between two ends: every byte of every iteration is compared with the pattern that belongs there and
//! then.
//!
//! An iteration is two steps. The first end sends (`End::ping`), the second one answers (`End::pong`), the first takes the
//! answer (`End::take_pong`): each side waits for the other, so one thread can be both. Nothing here makes a system
//! call or allocates once it is set up.

use super::spin::Waiting;
use super::Meeting;
use crate::harness::Wire;
use crate::link::{Link, Region, Window};
use crate::pattern;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use verbena::{Access, RcQp, RecvWr, SendWr};

/// How the data gets to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A SEND in either direction.
    PingPong,
    /// A WRITE and a short SEND that announces it, answered by a short SEND; then a READ of what was written.
    WriteRead,
}

/// What traffic there is to be.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// How the data gets to the other side.
    pub kind: Kind,
    /// Bytes of the longest message.
    pub size: usize,
    /// Whether completions are waited for asleep instead of by polling.
    pub asleep: bool,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Bytes that were compared and right.
    pub bytes: u64,
    /// Messages of which some byte was wrong.
    pub errors: u64,
}

/// One end, ready for messages of up to its size.
struct End {
    qp: RcQp,
    send: Waiting,
    recv: Waiting,
    kind: Kind,
    /// What is sent from here.
    out: Region,
    /// What comes here.
    back: Region,
    /// The other end's `back`, for WRITE and READ.
    there: Option<Window>,
    /// What was found here.
    tally: Tally,
    first_error: Option<FirstError>,
}

/// Where the first wrong byte was.
#[derive(Clone, Copy, Debug)]
struct FirstError {
    iteration: u64,
    size: usize,
    at: usize,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            errors: self.errors + other.errors,
        }
    }
}

/// The ends that are in this process.
pub struct Stream {
    first: Option<End>,
    second: Option<End>,
}

impl Stream {
    /// Prepares the ends of a meeting. Also gives the line to the other side, if there is
    /// one.
    ///
    /// # Errors
    ///
    /// What the device refuses; the other side's absence.
    pub fn begin(meeting: Meeting, traffic: &Traffic) -> Result<(Self, Option<Wire>)> {
        let alone = |link, mut wire: Wire| -> Result<(End, Wire)> {
            let mut end = End::new(link, traffic)?;
            end.there = Some(wire.exchange(&end.window())?);
            Ok((end, wire))
        };
        Ok(match meeting {
            Meeting::Both(a, b) => {
                let (mut a, mut b) = (End::new(a, traffic)?, End::new(*b, traffic)?);
                (a.there, b.there) = (Some(b.window()), Some(a.window()));
                (
                    Self {
                        first: Some(a),
                        second: Some(b),
                    },
                    None,
                )
            }
            Meeting::First(link, wire) => {
                let (end, wire) = alone(link, wire)?;
                (
                    Self {
                        first: Some(end),
                        second: None,
                    },
                    Some(wire),
                )
            }
            Meeting::Second(link, wire) => {
                let (end, wire) = alone(link, wire)?;
                (
                    Self {
                        first: None,
                        second: Some(end),
                    },
                    Some(wire),
                )
            }
        })
    }

    /// Does an iteration, or this side's part of it. Says when the answer came, in nanoseconds of the device's clock, if the
    /// first end is here.
    ///
    /// # Errors
    ///
    /// The device or the other end is gone.
    #[inline]
    pub fn step(&mut self, iteration: u64, size: usize) -> Result<Option<u64>> {
        if let Some(first) = &mut self.first {
            first.ping(iteration, size)?;
        }
        if let Some(second) = &mut self.second {
            second.pong(iteration, size)?;
        }
        self.first
            .as_mut()
            .map(|first| first.take_pong(iteration, size))
            .transpose()
    }

    /// What was found so far by the ends that are here.
    pub fn tally(&self) -> Tally {
        let of = |end: &Option<End>| end.as_ref().map_or(Tally::default(), |end| end.tally);
        of(&self.first) + of(&self.second)
    }

    /// A sentence about the first wrong byte, if there was one.
    pub fn complaint(&self) -> Option<String> {
        self.first.iter().chain(&self.second).find_map(End::complaint)
    }
}

/// Bytes of the announcement and of the answer of [`Kind::WriteRead`].
const WORD: usize = 8;

/// The pattern's iteration of the message to the second end, and of the one back.
fn there_and_back(iteration: u64) -> (u64, u64) {
    (2 * iteration, 2 * iteration + 1)
}

impl End {
    /// An end on `link`. Its first receive is posted.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    fn new(link: Link, &Traffic { kind, size, asleep }: &Traffic) -> Result<Self> {
        // Room for the words beside the data.
        let out = link.region(size + 2 * WORD, Access::LOCAL_WRITE)?;
        let back = link.region(size + 2 * WORD, Access::ALL_REMOTE)?;
        let Link {
            qp, send_cq, recv_cq, ..
        } = link;
        let (send, recv) = (Waiting::on(send_cq, asleep)?, Waiting::on(recv_cq, asleep)?);
        let (there, tally, first_error) = (None, Tally::default(), None);
        let mut end = Self {
            qp,
            send,
            recv,
            kind,
            out,
            back,
            there,
            tally,
            first_error,
        };
        end.post_receive(size)?;
        Ok(end)
    }

    /// What the other end must be given.
    fn window(&self) -> Window {
        Window::of(&self.back, 0)
    }

    /// A sentence about the first wrong byte, if there was one.
    fn complaint(&self) -> Option<String> {
        self.first_error.map(|FirstError { iteration, size, at }| {
            format!("the first wrong byte was byte {at} of {size} in iteration {iteration}")
        })
    }

    #[inline]
    fn word_place(&self) -> usize {
        self.back.len() - WORD
    }

    /// Posts the receive for the next message of at most `size` bytes.
    #[inline]
    fn post_receive(&mut self, size: usize) -> Result<()> {
        let sge = match self.kind {
            Kind::PingPong => self.back.sge(..size),
            Kind::WriteRead => self.back.sge(self.word_place()..),
        };
        Ok(self.qp.post_recv(&RecvWr::new(&[sge]))?)
    }

    /// Waits for the message, posts the next receive. Says when the device wrote its completion.
    #[inline]
    fn receive(&mut self) -> Result<(usize, u64)> {
        let done = self.recv.good()?;
        Ok((done.byte_len as usize, done.timestamp))
    }

    #[inline]
    fn sent(&mut self) -> Result<()> {
        self.send.good()?;
        Ok(())
    }

    /// Compares `size` bytes of `region` with the pattern.
    #[inline]
    fn verify(&mut self, which: Which, size: usize, pattern_of: u64, iteration: u64) -> bool {
        let region = match which {
            Which::Out => &self.out,
            Which::Back => &self.back,
        };
        match pattern::difference_in_buffer(region.buffer(), 0, size, 0, pattern_of) {
            None => {
                self.tally.bytes += size as u64;
                true
            }
            Some(at) => {
                self.tally.errors += 1;
                self.first_error.get_or_insert(FirstError { iteration, size, at });
                false
            }
        }
    }

    /// Begins an iteration.
    ///
    /// # Errors
    ///
    /// The device or the other end is gone.
    #[inline]
    fn ping(&mut self, iteration: u64, size: usize) -> Result<()> {
        let (there, _) = there_and_back(iteration);
        pattern::fill_buffer(self.out.buffer(), 0, size, 0, there);
        match (self.kind, self.there) {
            (Kind::WriteRead, Some(window)) => {
                let mut batch = self.qp.send_batch();
                batch.push(&SendWr::write(window.at(0)).sges(&[self.out.sge(..size)]))?;
                batch.push(&SendWr::send().inline(&iteration.to_le_bytes()).signaled())?;
                batch.ring()?;
            }
            _ => self
                .qp
                .post_send(&SendWr::send().sges(&[self.out.sge(..size)]).signaled())?,
        }
        self.sent()
    }

    /// Takes what [`End::ping`] sent, and answers.
    ///
    /// # Errors
    ///
    /// The device or the other end is gone.
    #[inline]
    fn pong(&mut self, iteration: u64, size: usize) -> Result<()> {
        let (there, back) = there_and_back(iteration);
        let (len, _) = self.receive()?;
        match self.kind {
            Kind::PingPong => {
                self.verify_message(len, size, there, iteration);
                self.post_receive(self.back.len() - 2 * WORD)?;
                pattern::fill_buffer(self.out.buffer(), 0, size, 0, back);
                self.qp
                    .post_send(&SendWr::send().sges(&[self.out.sge(..size)]).signaled())?;
            }
            Kind::WriteRead => {
                let mut word = [0; WORD];
                self.back.buffer().read_at(self.word_place(), &mut word);
                let announced = u64::from_le_bytes(word) == iteration && len == WORD;
                let right = self.verify(Which::Back, size, there, iteration);
                if right && !announced {
                    self.wrong_length(len, WORD, iteration);
                }
                self.post_receive(WORD)?;
                let answer = [u8::from(right && announced); WORD];
                self.qp.post_send(&SendWr::send().inline(&answer).signaled())?;
            }
        }
        self.sent()
    }

    /// Takes the answer. Says when it came, in nanoseconds of the device's clock.
    ///
    /// # Errors
    ///
    /// The device or the other end is gone.
    #[inline]
    fn take_pong(&mut self, iteration: u64, size: usize) -> Result<u64> {
        let (there, back) = there_and_back(iteration);
        let (len, when) = self.receive()?;
        match (self.kind, self.there) {
            (Kind::WriteRead, Some(window)) => {
                self.post_receive(WORD)?;
                // What was written comes back into the place it was written from, which is spoiled first.
                self.out.buffer().fill(0, size, 0);
                self.qp
                    .post_send(&SendWr::read(window.at(0)).sges(&[self.out.sge(..size)]).signaled())?;
                self.sent()?;
                self.verify(Which::Out, size, there, iteration);
            }
            _ => {
                self.verify_message(len, size, back, iteration);
                self.post_receive(self.back.len() - 2 * WORD)?;
            }
        }
        Ok(when)
    }

    /// Compares what came with what should have come, length first.
    #[inline]
    fn verify_message(&mut self, len: usize, size: usize, pattern_of: u64, iteration: u64) {
        if len == size {
            self.verify(Which::Back, size, pattern_of, iteration);
        } else {
            self.wrong_length(len, size, iteration);
        }
    }

    #[cold]
    fn wrong_length(&mut self, len: usize, size: usize, iteration: u64) {
        self.tally.errors += 1;
        self.first_error.get_or_insert(FirstError {
            iteration,
            size,
            at: len.min(size),
        });
    }
}

/// Which memory of an end.
#[derive(Clone, Copy)]
enum Which {
    Out,
    Back,
}
