// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many messages, or bytes, a second.

use super::world::World;
use super::Sample;
use anyhow::Result;
use std::time::Instant;
use verbena::SendWr;

/// Messages of a batch: one doorbell, one completion.
const BATCH: u32 = 32;

/// What is outstanding, on each queue pair and together.
struct Window {
    each: Vec<u32>,
    limit: u32,
    all: u64,
    room: u64,
}

impl Window {
    /// `limit` on each sender of `world`, and `room` together.
    fn new(world: &World, limit: u32, room: u64) -> Self {
        Self {
            each: vec![0; world.senders],
            limit,
            all: 0,
            room: room.min(world.room()),
        }
    }

    /// Waits until the queue pair may send, and counts what it is about to.
    fn open(&mut self, world: &mut World, sender: usize) -> Result<()> {
        while self.each[sender] == self.limit || self.all == self.room {
            self.close(world)?;
        }
        self.each[sender] += 1;
        self.all += 1;
        Ok(())
    }

    /// Waits for a completion. Its number is the sender's.
    fn close(&mut self, world: &mut World) -> Result<()> {
        let sender = world.sent_which()?;
        self.each[sender as usize] -= 1;
        self.all -= 1;
        Ok(())
    }

    /// Waits for all completions.
    fn finish(mut self, world: &mut World) -> Result<()> {
        while self.all > 0 {
            self.close(world)?;
        }
        Ok(())
    }
}

/// WRITEs in batches, round robin over the queue pairs: millions a second.
pub fn batches(world: &mut World, iters: u64) -> Result<Sample> {
    let batch = BATCH.min(world.depth);
    let mut window = Window::new(world, world.depth / batch, u64::MAX);
    let (sges, remote) = ([world.sge(0)], world.remote(0));
    let wr = SendWr::write(remote).sges(&sges);
    let total = iters / u64::from(batch);
    let begun = Instant::now();
    for sender in (0..world.senders).cycle().take(total as usize) {
        window.open(world, sender)?;
        let mut posting = world.qps[sender].send_batch();
        for _ in 1..batch {
            posting.push(&wr)?;
        }
        posting.push(&wr.wr_id(sender as u64).signaled())?;
        posting.ring()?;
    }
    window.finish(world)?;
    let messages = (total * u64::from(batch)) as f64;
    Ok(Sample::of(messages * 1000.0 / begun.elapsed().as_nanos() as f64))
}

/// Outstanding messages of [`turns`], over all queue pairs.
const TURNS: u64 = 128;

/// WRITEs one by one, each on the next queue pair, each with its doorbell and its completion: millions a second.
pub fn turns(world: &mut World, iters: u64) -> Result<Sample> {
    let mut window = Window::new(world, world.depth, TURNS);
    let (sges, remote) = ([world.sge(0)], world.remote(0));
    let wr = SendWr::write(remote).sges(&sges).signaled();
    let begun = Instant::now();
    for sender in (0..world.senders).cycle().take(iters as usize) {
        window.open(world, sender)?;
        world.qps[sender].post_send(&wr.wr_id(sender as u64))?;
    }
    window.finish(world)?;
    Ok(Sample::of(iters as f64 * 1000.0 / begun.elapsed().as_nanos() as f64))
}

/// WRITEs outstanding of [`bandwidth`].
const STREAM: u64 = 8;

/// WRITEs of the whole buffer: GB/s.
pub fn bandwidth(world: &mut World, iters: u64) -> Result<Sample> {
    let (sges, remote) = ([world.sge(0)], world.remote(0));
    let wr = SendWr::write(remote).sges(&sges).signaled();
    // The first one finds memory that nobody has touched.
    world.qps[0].post_send(&wr)?;
    world.sent()?;
    let begun = Instant::now();
    for n in 0..iters {
        if n >= STREAM {
            world.sent()?;
        }
        world.qps[0].post_send(&wr)?;
    }
    for _ in 0..STREAM.min(iters) {
        world.sent()?;
    }
    let bytes = world.size as f64 * iters as f64;
    Ok(Sample::of(bytes / begun.elapsed().as_nanos() as f64))
}
