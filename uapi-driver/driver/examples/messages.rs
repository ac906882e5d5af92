// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one message costs the application's side, for a counter of instructions: batches of 32 RDMA WRITEs of 8 bytes, each
//! with its completion. Everything that the driver does is in `driver_posts` and `driver_polls`; while the device works, this
//! program sleeps.
//!
//!     valgrind --tool=callgrind --toggle-collect='messages::driver_*' target/release/examples/messages direct:/tmp/hca0 1000

use std::time::Duration;
use verbena::{Access, Attachment, CompletionQueue, Context, RcQp, SendWr};

/// Messages of a batch.
const BATCH: u64 = 32;

#[inline(never)]
fn driver_posts(qp: &mut RcQp, wr: &SendWr<'_>) {
    let mut batch = qp.send_batch();
    for n in 0..BATCH {
        batch.push(&wr.wr_id(n)).expect("the queue has room");
    }
    batch.ring().expect("the device is there");
}

/// Takes what is there; answers how many.
#[inline(never)]
fn driver_polls(cq: &mut CompletionQueue) -> u64 {
    let mut polled = 0;
    while let Some(completion) = cq.poll() {
        assert!(completion.is_success() && completion.wr_id() < BATCH);
        polled += 1;
    }
    polled
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let attachment: Attachment = arguments.next().ok_or("how to attach")?.parse()?;
    let batches: u64 = arguments.next().ok_or("the number of batches")?.parse()?;
    let context = Context::open(&attachment)?;
    let pd = context.alloc_pd()?;
    let mut cq = context.create_cq(256)?;
    let mut left = RcQp::builder(&pd, &cq, &cq).send_depth(64).build()?;
    let mut right = RcQp::builder(&pd, &cq, &cq).build()?;
    left.connect(&right.endpoint()?)?;
    right.connect(&left.endpoint()?)?;
    let buffer = context.alloc_buffer(4096)?;
    let region = pd.register(&buffer, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
    let sges = [region.sge(..8)];
    let wr = SendWr::write(region.remote(64)).sges(&sges).signaled();
    for _ in 0..batches {
        driver_posts(&mut left, &wr);
        let mut missing = BATCH;
        while missing > 0 {
            // The device has a thousand times the time that it needs, and no poll is in vain but the last of a run.
            std::thread::sleep(Duration::from_millis(2));
            if cq.is_ready() {
                missing -= driver_polls(&mut cq);
            }
        }
    }
    Ok(())
}
