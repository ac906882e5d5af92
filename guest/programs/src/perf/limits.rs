// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine itself takes: nothing that uses it is faster.

use super::Sample;
use anyhow::{ensure, Context as _, Result};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Where this process may run.
///
/// # Errors
///
/// Nobody knows.
pub fn processors() -> Result<CpuSet> {
    sched_getaffinity(None).context("cannot ask which processors there are")
}

/// Keeps this thread on one processor.
///
/// # Errors
///
/// There is no such processor, or it is not allowed.
pub fn pin(cpu: usize) -> Result<()> {
    ensure!(cpu < CpuSet::MAX_CPU, "there is no processor {cpu}");
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {cpu}"))
}

/// A word with a cache line of its own, and the line that is fetched with it.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// Round trips of a repetition.
const TRIPS: u64 = 200_000;

/// Round trip of one cache line between this thread and one on another of the processors, in microseconds.
///
/// # Errors
///
/// There is no other one.
pub fn cache_line(processors: &CpuSet) -> Result<Sample> {
    let here = rustix::thread::sched_getcpu();
    let other = (0..CpuSet::MAX_CPU).find(|&cpu| cpu != here && processors.is_set(cpu));
    let other = other.context("there is one processor only: nothing goes back and forth")?;
    let (ball, ready) = (Line::default(), Line::default());
    thread::scope(|scope| {
        let partner = scope.spawn(|| {
            let pinned = pin(other);
            ready.0.store(1, Ordering::Release);
            pinned?;
            for trip in 0..TRIPS {
                wait(&ball.0, 2 * trip + 1);
                ball.0.store(2 * trip + 2, Ordering::Release);
            }
            Ok(())
        });
        wait(&ready.0, 1);
        let begun = Instant::now();
        for trip in 0..TRIPS {
            ball.0.store(2 * trip + 1, Ordering::Release);
            while ball.0.load(Ordering::Acquire) != 2 * trip + 2 {
                // A partner that could not be pinned has ended.
                if partner.is_finished() {
                    break;
                }
                spin_loop();
            }
        }
        let nanos = begun.elapsed().as_nanos() as f64 / TRIPS as f64;
        let partner: Result<()> = partner.join().expect("the partner does not panic");
        partner.map(|()| Sample::of(nanos / 1000.0))
    })
}

fn wait(word: &AtomicU64, value: u64) {
    while word.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// Where both sides of a copy begin in a page: at the same place as a device's buffers do, because processors differ by several
/// times between one alignment and another.
const PAGE: usize = 4096;

/// Copies `size` bytes from one place to another, again and again: GB/s.
pub fn copy(size: usize, iters: u64) -> Sample {
    let (mut from, mut to) = (vec![1u8; size + PAGE], vec![0u8; size + PAGE]);
    let (from_at, to_at) = (from.as_ptr().align_offset(PAGE), to.as_ptr().align_offset(PAGE));
    let (from, to) = (&mut from[from_at..][..size], &mut to[to_at..][..size]);
    to.copy_from_slice(from);
    let begun = Instant::now();
    for _ in 0..iters {
        std::hint::black_box(&mut *to).copy_from_slice(std::hint::black_box(&*from));
    }
    Sample::of(size as f64 * iters as f64 / begun.elapsed().as_nanos() as f64)
}
