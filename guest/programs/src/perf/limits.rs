// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine itself takes: nothing that uses it is faster.

use super::Sample;
use anyhow::{ensure, Context as _, Result};
use rustix::event::{eventfd, EventfdFlags};
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

/// Runs `there` on another of the processors and `here` on this one; `there` is given no chance to lag behind: `here` begins
/// when it runs. `here` is told how to see that there is nobody to wait for any more.
fn on_two<T>(processors: &CpuSet, there: impl FnOnce() + Send, here: impl FnOnce(&dyn Fn() -> bool) -> T) -> Result<T> {
    let this = rustix::thread::sched_getcpu();
    let other = (0..CpuSet::MAX_CPU).find(|&cpu| cpu != this && processors.is_set(cpu));
    let other = other.context("there is one processor only: nothing goes back and forth")?;
    let ready = Line::default();
    thread::scope(|scope| {
        let partner = scope.spawn(|| {
            let pinned = pin(other);
            ready.0.store(1, Ordering::Release);
            pinned?;
            there();
            Ok(())
        });
        wait(&ready.0, 1);
        let result = here(&|| partner.is_finished());
        let partner: Result<()> = partner.join().expect("the partner does not panic");
        partner.map(|()| result)
    })
}

/// Round trip of one cache line between this thread and one on another of the processors, in microseconds.
///
/// # Errors
///
/// There is no other one.
pub fn cache_line(processors: &CpuSet) -> Result<Sample> {
    let ball = Line::default();
    let there = || {
        for trip in 0..TRIPS {
            wait(&ball.0, 2 * trip + 1);
            ball.0.store(2 * trip + 2, Ordering::Release);
        }
    };
    let here = |alone: &dyn Fn() -> bool| {
        let begun = Instant::now();
        for trip in 0..TRIPS {
            ball.0.store(2 * trip + 1, Ordering::Release);
            while ball.0.load(Ordering::Acquire) != 2 * trip + 2 {
                // A partner that could not be pinned has ended.
                if alone() {
                    break;
                }
                spin_loop();
            }
        }
        begun.elapsed().as_nanos() as f64 / TRIPS as f64
    };
    Ok(Sample::of(on_two(processors, there, here)? / 1000.0))
}

/// Wake-ups of a repetition.
const WAKES: u64 = 25;

/// Time from telling a thread that sleeps on another of the processors to its answer in memory, in microseconds: the least that
/// waking a device can take.
///
/// # Errors
///
/// There is no other one, or no descriptor.
pub fn wake(processors: &CpuSet) -> Result<Sample> {
    let bell = eventfd(0, EventfdFlags::CLOEXEC).context("cannot make an eventfd")?;
    let answer = Line::default();
    let there = || {
        for wake in 1..=WAKES {
            // Interrupted or not: the next read would find what this one has left.
            while rustix::io::read(&bell, &mut [0; 8]).is_err() {}
            answer.0.store(wake, Ordering::Release);
        }
    };
    let here = |alone: &dyn Fn() -> bool| -> Result<Vec<u64>> {
        let mut nanos = Vec::with_capacity(WAKES as usize);
        for wake in 1..=WAKES {
            thread::sleep(super::latency::PAUSE);
            let begun = Instant::now();
            rustix::io::write(&bell, &1u64.to_ne_bytes()).context("cannot write to an eventfd")?;
            while answer.0.load(Ordering::Acquire) != wake && !alone() {
                spin_loop();
            }
            nanos.push(begun.elapsed().as_nanos() as u64);
        }
        Ok(nanos)
    };
    Ok(Sample::median_of(on_two(processors, there, here)??))
}

/// Entries of the raw ring: what fits the first cache next to the rest.
const RING: u64 = 256;

/// Messages of a repetition.
const RING_MESSAGES: u64 = 4_000_000;

/// Messages a second, in millions, over the least that a queue in shared memory can be: one producer, one consumer, entries of
/// one cache line that say themselves when they are valid, a counter the other way that is read when the ring looks full.
///
/// # Errors
///
/// There is no second processor.
pub fn ring(processors: &CpuSet) -> Result<Sample> {
    /// A sequence number and a word of data.
    #[repr(align(64))]
    #[derive(Default)]
    struct Entry([AtomicU64; 2]);
    let ring: Vec<Entry> = (0..RING).map(|_| Entry::default()).collect();
    let consumed = Line::default();
    let there = || {
        let mut sum = 0u64;
        for n in 0..RING_MESSAGES {
            let [sequence, data] = &ring[(n % RING) as usize].0;
            wait(sequence, n + 1);
            sum = sum.wrapping_add(data.load(Ordering::Relaxed));
            if n % (RING / 8) == RING / 8 - 1 {
                consumed.0.store(n + 1, Ordering::Release);
            }
        }
        consumed.0.store(RING_MESSAGES, Ordering::Release);
        std::hint::black_box(sum);
    };
    let here = |alone: &dyn Fn() -> bool| {
        let begun = Instant::now();
        let mut free = RING;
        for n in 0..RING_MESSAGES {
            while n == free && !alone() {
                free = consumed.0.load(Ordering::Acquire) + RING;
            }
            let [sequence, data] = &ring[(n % RING) as usize].0;
            data.store(n, Ordering::Relaxed);
            sequence.store(n + 1, Ordering::Release);
        }
        while consumed.0.load(Ordering::Acquire) != RING_MESSAGES && !alone() {
            spin_loop();
        }
        RING_MESSAGES as f64 / begun.elapsed().as_nanos() as f64 * 1000.0
    };
    Ok(Sample::of(on_two(processors, there, here)?))
}

fn wait(word: &AtomicU64, value: u64) {
    while word.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// Where both sides of a copy begin in a page: at the same place as a device's buffers do, because processors differ by several
/// times between one alignment and another.
const PAGE: usize = 4096;

/// Copies `size` bytes from one place to another, again and again, on another of the processors, as a device does while this thread
/// polls: GB/s.
///
/// # Errors
///
/// There is no other one.
pub fn copy(processors: &CpuSet, size: usize, iters: u64) -> Result<Sample> {
    let nanos = AtomicU64::new(0);
    let there = || nanos.store(copies(size, iters), Ordering::Release);
    let here = |alone: &dyn Fn() -> bool| {
        while nanos.load(Ordering::Acquire) == 0 && !alone() {
            spin_loop();
        }
    };
    on_two(processors, there, here)?;
    Ok(Sample::of(size as f64 * iters as f64 / nanos.into_inner() as f64))
}

/// How long copying so often takes, in nanoseconds.
fn copies(size: usize, iters: u64) -> u64 {
    let (mut from, mut to) = (vec![1u8; size + PAGE], vec![0u8; size + PAGE]);
    let (from_at, to_at) = (from.as_ptr().align_offset(PAGE), to.as_ptr().align_offset(PAGE));
    let (from, to) = (&mut from[from_at..][..size], &mut to[to_at..][..size]);
    to.copy_from_slice(from);
    let begun = Instant::now();
    for _ in 0..iters {
        std::hint::black_box(&mut *to).copy_from_slice(std::hint::black_box(&*from));
    }
    (begun.elapsed().as_nanos() as u64).max(1)
}

/// Looks at the clock of a repetition.
const LOOKS: u32 = 100_000;

/// What a look at the clock takes, in microseconds.
pub fn clock() -> Sample {
    let begun = Instant::now();
    for _ in 0..LOOKS {
        std::hint::black_box(Instant::now());
    }
    Sample::of(begun.elapsed().as_nanos() as f64 / f64::from(LOOKS) / 1000.0)
}
