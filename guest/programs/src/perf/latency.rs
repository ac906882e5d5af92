// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long one message takes.

use super::world::World;
use super::Sample;
use anyhow::Result;
use std::time::{Duration, Instant};
use verbena::{RecvWr, SendWr};

/// Messages before those that are measured.
const WARM_UP: u64 = 256;

/// The size of the messages that others pass by.
pub const LARGE: usize = 64 << 20;

/// A pause that is long enough for the device to sleep, whatever it was told to poll.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// WRITE: from posting to the polled completion. The clock is read once a message.
pub fn write(world: &mut World, iters: u64) -> Result<Sample> {
    let mut nanos = Vec::with_capacity(iters as usize);
    let (sges, remote) = ([world.sge(0)], world.remote(0));
    let wr = SendWr::write(remote).sges(&sges).signaled();
    let mut before = Instant::now();
    for n in 0..WARM_UP + iters {
        world.qps[0].post_send(&wr)?;
        world.sent()?;
        let after = Instant::now();
        if n >= WARM_UP {
            nanos.push((after - before).as_nanos() as u64);
        }
        before = after;
    }
    Ok(Sample::median_of(nanos))
}

/// SEND from one end to the other and back; half of the time.
pub fn send(world: &mut World, iters: u64) -> Result<Sample> {
    let mut nanos = Vec::with_capacity(iters as usize);
    let (there, back) = ([world.sge(0)], [world.sge(1)]);
    let mut before = Instant::now();
    for n in 0..WARM_UP + iters {
        world.qps[1].post_recv(&RecvWr::new(&back))?;
        world.qps[0].post_recv(&RecvWr::new(&there))?;
        // As perftest does, completions only now and then, lest the send queues fill.
        let signaled = n % 8 == 7;
        let (mut call, mut answer) = (SendWr::send().sges(&there), SendWr::send().sges(&back));
        if signaled {
            (call, answer) = (call.signaled(), answer.signaled());
        }
        world.qps[0].post_send(&call)?;
        world.received()?;
        world.qps[1].post_send(&answer)?;
        world.received()?;
        let after = Instant::now();
        if n >= WARM_UP {
            nanos.push((after - before).as_nanos() as u64 / 2);
        }
        before = after;
        if signaled {
            world.sent()?;
            world.sent()?;
            before = Instant::now();
        }
    }
    Ok(Sample::median_of(nanos))
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
