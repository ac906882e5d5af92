// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many queue pairs from nothing to RTS, timed: ours, and the same through libibverbs for whatever device it has.

pub(crate) mod libibverbs;

pub use libibverbs::connect as connect_with_libibverbs;

use anyhow::{ensure, Result};
use std::time::{Duration, Instant};
use verbena::{Attachment, Batch, CompletionQueue, ConnectOptions, Context, OnFailure, QpState, RcQp};

/// Entries of both rings of a queue pair, and of the one completion queue.
const DEPTH: u32 = 16;

/// The line on stderr before the device is opened.
pub const BEGIN: &str = "connecting begins";
/// The line on stderr when the last queue pair is in RTS.
pub const END: &str = "connecting ends";

/// Opens the device and makes `count` reliable queue pairs, each connected to its neighbour, all in RTS.
///
/// # Errors
///
/// Whatever a call said.
pub fn connect(attachment: &Attachment, count: usize, mark: impl Fn(&str)) -> Result<Duration> {
    mark(BEGIN);
    let begun = Instant::now();
    let ctx = Context::open(attachment)?;
    let mut batch = Batch::new(&ctx);
    let pd = batch.alloc_pd();
    let cq = batch.create_cq(CompletionQueue::builder(&ctx).entries(DEPTH));
    let tickets: Vec<_> = (0..count)
        .map(|_| {
            let qp = RcQp::batched(pd, cq, cq).send_depth(DEPTH).recv_depth(DEPTH);
            batch.create_qp(qp.max_sge(1).max_inline(0))
        })
        .collect();
    let mut done = batch.run(OnFailure::Undo)?;
    let qps = tickets.into_iter().map(|ticket| done.take(ticket));
    let mut qps = qps.collect::<Result<Vec<_>, _>>()?;
    let gid = ctx.gid(1, 0)?;
    let options = ConnectOptions::default();
    let mut batch = Batch::new(&ctx);
    for pair in qps.chunks_exact_mut(2) {
        let (left, right) = pair.split_at_mut(1);
        let (to_left, to_right) = (left[0].endpoint_with(gid), right[0].endpoint_with(gid));
        batch.connect(&mut left[0], &to_right, &options)?;
        batch.connect(&mut right[0], &to_left, &options)?;
    }
    batch.run(OnFailure::Stop)?.all()?;
    let took = begun.elapsed();
    mark(END);
    for qp in [qps.first(), qps.last()].into_iter().flatten() {
        ensure!(qp.query()?.state == QpState::RTS, "{qp:?} is not in RTS");
    }
    let mut batch = Batch::new(&ctx);
    for qp in qps {
        batch.destroy(qp);
    }
    batch.run(OnFailure::Stop)?.all()?;
    Ok(took)
}
