// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long one message takes.

use super::world::World;
use super::{percentile, Sample};
use anyhow::Result;
use std::time::{Duration, Instant};
use verbena::{RecvWr, SendWr};

/// Messages before those that are measured.
const WARM_UP: u64 = 256;

/// The size of the messages that others pass by.
pub const LARGE: usize = 64 << 20;

/// A pause that is long enough for the device to sleep, whatever it was told to poll.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Messages between two looks at the clock. One takes a tenth of a message's time in a virtual machine, and the round trip of a
/// cache line that a message is compared with is timed over many.
const RUN: u64 = 32;

/// Send queue entries that [`send`] needs: its completions are taken once a run.
pub const DEPTH: u32 = 2 * RUN as u32;

/// Times `message`, of which `parts` are the figure's unit: in runs, whose median is the figure, and one by one in between, which is
/// the distribution. `message` is told whether it is a run's last; `settle` is called after that, outside of all times.
fn measure(
    world: &mut World,
    (iters, parts): (u64, u64),
    message: impl Fn(&mut World, bool) -> Result<()>,
    settle: impl Fn(&mut World) -> Result<()>,
) -> Result<Sample> {
    let (warm_up, runs) = (WARM_UP / RUN, (iters / RUN).max(1));
    let mut together = Vec::with_capacity(runs as usize);
    let mut single = Vec::with_capacity((runs * RUN) as usize);
    for run in 0..warm_up + runs {
        let begun = Instant::now();
        for left in (0..RUN).rev() {
            message(world, left == 0)?;
        }
        let took = begun.elapsed();
        settle(world)?;
        if run >= warm_up {
            together.push(took.as_nanos() as f64 / (RUN * parts) as f64 / 1000.0);
        }
        let mut before = Instant::now();
        for left in (0..RUN).rev() {
            message(world, left == 0)?;
            let after = Instant::now();
            if run >= warm_up {
                single.push((after - before).as_nanos() as u64 / parts);
            }
            before = after;
        }
        settle(world)?;
    }
    together.sort_by(f64::total_cmp);
    Ok(Sample {
        value: percentile(&together, 0.5),
        ..Sample::median_of(single)
    })
}

/// WRITE: from posting to the polled completion.
pub fn write(world: &mut World, iters: u64) -> Result<Sample> {
    let (sges, remote) = ([world.sge(0)], world.remote(0));
    let wr = SendWr::write(remote).sges(&sges).signaled();
    let message = |world: &mut World, _| {
        world.qps[0].post_send(&wr)?;
        world.sent()
    };
    measure(world, (iters, 1), message, |_| Ok(()))
}

/// SEND from one end to the other and back; half of the time.
pub fn send(world: &mut World, iters: u64) -> Result<Sample> {
    let (there, back) = ([world.sge(0)], [world.sge(1)]);
    let message = |world: &mut World, last: bool| {
        world.qps[1].post_recv(&RecvWr::new(&back))?;
        world.qps[0].post_recv(&RecvWr::new(&there))?;
        // As perftest does, completions only now and then, lest the send queues fill.
        let (mut call, mut answer) = (SendWr::send().sges(&there), SendWr::send().sges(&back));
        if last {
            (call, answer) = (call.signaled(), answer.signaled());
        }
        world.qps[0].post_send(&call)?;
        world.received()?;
        world.qps[1].post_send(&answer)?;
        world.received()
    };
    let settle = |world: &mut World| {
        world.sent()?;
        world.sent()
    };
    measure(world, (iters, 2), message, settle)
}

/// The first WRITE after a pause.
pub fn wake(world: &mut World, iters: u64) -> Result<Sample> {
    let mut nanos = Vec::with_capacity(iters as usize);
    let (sges, remote) = ([world.sge(0)], world.remote(0));
    let wr = SendWr::write(remote).sges(&sges).signaled();
    for _ in 0..iters {
        std::thread::sleep(PAUSE);
        let before = Instant::now();
        world.qps[0].post_send(&wr)?;
        world.sent()?;
        nanos.push(before.elapsed().as_nanos() as u64);
    }
    Ok(Sample::median_of(nanos))
}

/// WRITEs of `size` bytes on one queue pair while another one always has two of [`LARGE`] outstanding.
pub fn mixed(world: &mut World, size: usize, iters: u64) -> Result<Sample> {
    const LARGE_ID: u64 = 1;
    let mut nanos = Vec::with_capacity(iters as usize);
    let (large, small, remote) = ([world.sge(0)], [world.sge_of(2, size)], world.remote(0));
    let stream = SendWr::write(remote).sges(&large).signaled().wr_id(LARGE_ID);
    let wr = SendWr::write(world.remote(2)).sges(&small).signaled();
    world.qps[0].post_send(&stream)?;
    world.qps[0].post_send(&stream)?;
    for _ in 0..iters {
        let before = Instant::now();
        world.qps[2].post_send(&wr)?;
        while world.sent_which()? == LARGE_ID {
            world.qps[0].post_send(&stream)?;
        }
        nanos.push(before.elapsed().as_nanos() as u64);
    }
    for _ in 0..2 {
        world.sent()?;
    }
    Ok(Sample::median_of(nanos))
}
