// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured on: queue pairs connected two and two, their completion queues, one buffer for each direction.

use crate::link::Region;
use anyhow::{bail, Context as _, Result};
use std::time::Instant;
use verbena::{
    Access, Batch, CompletionQueue, ConnectOptions, Context, OnFailure, ProtectionDomain, RcQp, Remote, Sge,
};

/// Queue pairs that one chain of commands makes or connects.
const CHAIN: usize = 256;

/// Polls before a look at the clock, and the time after which a message has got lost.
const SPINS: u32 = 1 << 24;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// See the module's text.
pub struct World {
    /// Number 2n is connected with number 2n + 1.
    pub qps: Vec<RcQp>,
    /// Those that send: the first so many.
    pub senders: usize,
    send_cq: CompletionQueue,
    recv_cq: CompletionQueue,
    /// Bytes of a message.
    pub size: usize,
    /// Messages outstanding on a queue pair.
    pub depth: u32,
    /// What every message comes from and what it goes to, alternately a side: a cache line apart at least.
    source: Region,
    sink: Region,
    _pd: ProtectionDomain,
}

impl World {
    /// `qps` queue pairs, and one more if it takes an even number, for messages of `size` bytes, `depth` of them at a time.
    pub fn new(ctx: &Context, qps: u32, depth: u32, size: usize) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        let count = qps.next_multiple_of(2) as usize;
        let send_cq = ctx.create_cq((depth.saturating_mul(count as u32)).clamp(256, 65_536))?;
        let recv_cq = ctx.create_cq(256)?;
        let mut made = Vec::with_capacity(count);
        while made.len() < count {
            let mut batch = Batch::new(ctx);
            let tickets: Vec<_> = (made.len()..count)
                .take(CHAIN)
                .map(|_| {
                    let builder = RcQp::builder(&pd, &send_cq, &recv_cq);
                    batch.create_qp(
                        builder
                            .send_depth(depth)
                            .recv_depth(depth.min(16))
                            .max_sge(1)
                            .max_inline(0),
                    )
                })
                .collect();
            let mut done = batch.run(OnFailure::Stop).context("creating queue pairs")?;
            for ticket in tickets {
                made.push(done.take(ticket).context("creating a queue pair")?);
            }
        }
        let gid = ctx.gid(1, 0)?;
        for chain in made.chunks_mut(CHAIN) {
            let mut batch = Batch::new(ctx);
            for pair in chain.chunks_exact_mut(2) {
                let (left, right) = pair.split_at_mut(1);
                let (to_left, to_right) = (left[0].endpoint_with(gid), right[0].endpoint_with(gid));
                batch.connect(&mut left[0], &to_right, &ConnectOptions::default())?;
                batch.connect(&mut right[0], &to_left, &ConnectOptions::default())?;
            }
            batch.run(OnFailure::Stop)?.all().context("connecting queue pairs")?;
        }
        // Alternating sides, and a large message in the middle of which small ones have a place of their own.
        let len = size.next_multiple_of(128) + 4 * 128;
        let source = Region::new(&pd, len, Access::LOCAL_WRITE)?;
        let sink = Region::new(&pd, len, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
        source.buffer().fill(0, len, 0x5a);
        made.truncate(count);
        Ok(Self {
            qps: made,
            senders: qps as usize,
            send_cq,
            recv_cq,
            size,
            depth,
            source,
            sink,
            _pd: pd,
        })
    }

    /// Queue pairs.
    pub fn len(&self) -> usize {
        self.qps.len()
    }

    /// Completions that have room.
    pub fn room(&self) -> u64 {
        self.send_cq.entries().into()
    }

    /// A message's worth of local memory, the `side`th.
    pub fn sge(&self, side: usize) -> Sge {
        self.sge_of(side, self.size)
    }

    /// `size` bytes of local memory, the `side`th.
    pub fn sge_of(&self, side: usize, size: usize) -> Sge {
        let from = side * 128;
        self.source.sge(from..from + size)
    }

    /// Where messages go, the `side`th place.
    pub fn remote(&self, side: usize) -> Remote {
        self.sink.remote(side * 128)
    }

    /// Waits for the completion of a send.
    #[inline]
    pub fn sent(&mut self) -> Result<()> {
        next(&mut self.send_cq).map(|_| ())
    }

    /// Waits for the completion of a send, and says which.
    #[inline]
    pub fn sent_which(&mut self) -> Result<u64> {
        next(&mut self.send_cq)
    }

    /// Waits for the completion of a receive.
    #[inline]
    pub fn received(&mut self) -> Result<()> {
        next(&mut self.recv_cq).map(|_| ())
    }
}

/// The next completion, which must be a success: its number.
#[inline]
fn next(cq: &mut CompletionQueue) -> Result<u64> {
    loop {
        for _ in 0..SPINS {
            if let Some(completion) = cq.poll() {
                completion.ok()?;
                return Ok(completion.wr_id());
            }
            std::hint::spin_loop();
        }
        lost(cq)?;
    }
}

/// Nothing has come for long: waits more patiently, and finds out whether the device is there at all.
#[cold]
fn lost(cq: &mut CompletionQueue) -> Result<()> {
    let begun = Instant::now();
    while !cq.is_ready() {
        cq.context().check()?;
        if begun.elapsed() > PATIENCE {
            bail!("no completion within {} s", PATIENCE.as_secs());
        }
    }
    Ok(())
}
