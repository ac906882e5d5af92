// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads that turn the engine's crank: poll while there is work, spin for a short time when there is none, then
//! sleep until a trapped access, a timer or the main loop wakes it.
//!
//! Spinning keeps doorbells in guest memory free of VM exits while traffic flows; sleeping keeps an idle device from
//! costing anything. On a machine whose cores the guests' virtual CPUs need, a long spin steals from them.

use crate::memory::fault;
use crate::shared::Shared;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use verbena_engine::Time;
use vmm_sys_util::eventfd::EventFd;

/// A worker thread. Ends when it is dropped, and with it all others of the same engine.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread of worker `number`, on processor `cpu` if one is given. It spins for `spin` before it sleeps, and signals `attention`
    /// when the main loop should look after a client's memory or after the worker itself.
    ///
    /// # Errors
    ///
    /// If the system gives no thread, or it may not run on that processor.
    pub fn start(
        shared: Arc<Shared>,
        number: usize,
        spin: Duration,
        cpu: Option<usize>,
        attention: EventFd,
    ) -> std::io::Result<Self> {
        let of_thread = shared.clone();
        // A thread begins with the processors of the one that starts it. So what is refused is known here.
        let before = cpu.map(pin).transpose()?;
        let name = format!("hca-worker-{number}");
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // Also when it panics: the main loop must not go on without it.
            let _guard = Attention(&attention);
            run(&of_thread, number, spin, &attention);
        });
        if let Some(before) = before {
            sched_setaffinity(None, &before)?;
        }
        let thread = thread?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Whether it has ended, which it does on its own only when it panics.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

/// Keeps this thread on a processor; says where it could run before.
fn pin(cpu: usize) -> std::io::Result<CpuSet> {
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)?;
    Ok(before)
}

struct Attention<'a>(&'a EventFd);

impl Drop for Attention<'_> {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

/// Looks for work between two looks at the clock, if there is none: about a microsecond.
const LOOKS: u32 = 64;

fn run(shared: &Shared, number: usize, spin: Duration, attention: &EventFd) {
    let mut idle_since = None;
    let mut seen = fault::hits();
    let looks = if spin.is_zero() { 0 } else { LOOKS };
    while !shared.stopping() {
        let progress = shared.poll(number, looks);
        let hits = fault::hits();
        if hits != seen {
            seen = hits;
            let _ = attention.write(1);
        }
        if progress.did_work {
            idle_since = None;
            continue;
        }
        let now = Instant::now();
        if now.duration_since(*idle_since.get_or_insert(now)) < spin {
            continue;
        }
        if shared.prepare_sleep(number) {
            sleep(shared, number, progress.next_deadline);
            shared.awake(number);
        }
        idle_since = None;
    }
}

/// Waits for the wake-up event or the deadline.
fn sleep(shared: &Shared, number: usize, deadline: Option<Time>) {
    let timeout = deadline.map(|deadline| {
        let left = shared.now().until(deadline);
        Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        }
    });
    let event = shared.wake_event(number);
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    // A signal that interrupts it is a wake-up like any other: the caller polls and comes back.
    let _ = poll(&mut fds, timeout.as_ref());
    let _ = rustix::io::read(event, &mut [0; 8]);
}
