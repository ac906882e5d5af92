// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the main loop and the worker have in common: the engine, each HCA's memory and interrupts, the clock.
//!
//! The engine and the address spaces stand behind one lock. Whoever wants more than to look takes it whole for one bounded
//! [`Engine::poll`] at a time, so that the main loop waits a fraction of a millisecond for a register access; and since
//! an address space is only exchanged under the lock, no worker can still be using the one before when the exchange has
//! returned. That is what makes the answer to DMA_UNMAP true.
//!
//! While the engine is at rest, each worker executes the ordinary messages of the queues that it was lent
//! ([`verbena_engine::loan`]). A worker that is alone holds the lock meanwhile. Several share it: each takes it for reading, in a
//! shard of its own, and locks its own loan; neither is anything that another one writes.
//!
//! Sleep and waking up are under the same lock: a worker announces its sleep while it holds it, whoever makes work for
//! it afterwards sees the announcement.

use crate::memory::{fault, AddressSpace};
use crate::pci::msix::Vectors;
use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use crossbeam_utils::CachePadded;
use rustix::event::{eventfd, EventfdFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use verbena_engine::{AddHcaError, Budget, Engine, EngineConfig, Env, HcaConfig, HcaId, Loan, Progress, Time};

/// What belongs to one HCA beside its state in the engine.
#[derive(Debug)]
pub struct Port {
    /// Its number in the engine.
    pub id: HcaId,
    /// MAC address.
    pub mac: [u8; 6],
    /// Its MSI-X vectors.
    pub vectors: Vectors,
}

/// The part behind the lock.
struct Core {
    engine: Engine,
    /// By worker.
    loans: Vec<Lent>,
    /// By HCA: what it can reach now.
    ram: Vec<Arc<AddressSpace>>,
    /// By worker: it waits on [`Shared::wake`].
    asleep: Vec<bool>,
}

/// What one worker has been lent. Whoever has the whole lock needs no other.
#[derive(Default)]
struct Lent(CachePadded<Mutex<Loan>>);

const NO_PANIC: &str = "no thread panics inside the engine";

impl AsMut<Loan> for Lent {
    fn as_mut(&mut self) -> &mut Loan {
        self.0.get_mut().expect(NO_PANIC)
    }
}

/// See the module's text.
pub struct Shared {
    core: ShardedLock<Core>,
    /// Threads that want the lock whole. It is not fair: a worker that polls in a loop, or shares it without an end, would keep
    /// it for ever.
    waiting: AtomicU32,
    ports: Vec<Port>,
    started: Instant,
    /// By worker: wakes it.
    wake: Vec<OwnedFd>,
    stopping: AtomicBool,
}

/// The engine's view of the world, for one call.
pub struct View<'a> {
    ram: &'a [Arc<AddressSpace>],
    ports: &'a [Port],
}

impl Env for View<'_> {
    type Ram = AddressSpace;

    #[inline]
    fn ram(&self, hca: HcaId) -> &AddressSpace {
        &self.ram[hca.0 as usize]
    }

    fn interrupt(&self, hca: HcaId, vector: u16) {
        self.ports[hca.0 as usize].vectors.signal(vector);
    }
}

impl Shared {
    /// An engine with one HCA for each MAC address, in this order, for so many workers.
    ///
    /// # Errors
    ///
    /// Two equal MAC addresses, or no descriptors left.
    pub fn new(seed: u64, hcas: &[(String, [u8; 6])], workers: usize) -> Result<Self, NewError> {
        let mut engine = Engine::new(EngineConfig {
            seed,
            workers,
            ..EngineConfig::default()
        });
        let mut ports = Vec::new();
        for (index, (name, mac)) in hcas.iter().enumerate() {
            let id = engine
                .add_hca(HcaConfig::new(name.clone(), *mac))
                .map_err(|error| NewError::Hca(name.clone(), error))?;
            assert_eq!(id.0 as usize, index, "a new engine numbers its HCAs from zero");
            ports.push(Port {
                id,
                mac: *mac,
                vectors: Vectors::default(),
            });
        }
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from);
        Ok(Self {
            core: ShardedLock::new(Core {
                engine,
                loans: (0..workers).map(|_| Lent::default()).collect(),
                ram: vec![Arc::default(); ports.len()],
                asleep: vec![false; workers],
            }),
            waiting: AtomicU32::new(0),
            ports,
            started: Instant::now(),
            wake: (0..workers).map(|_| event()).collect::<Result<_, _>>()?,
            stopping: AtomicBool::new(false),
        })
    }

    /// The device's clock.
    pub fn now(&self) -> Time {
        Time::from_nanos(self.started.elapsed().as_nanos() as u64)
    }

    /// HCA number `index`.
    pub fn port(&self, index: usize) -> &Port {
        &self.ports[index]
    }

    /// Number of HCAs.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Takes the lock whole, before any worker does again, and what is on loan back: workers that execute messages of their
    /// loans without an end see that somebody waits.
    fn lock(&self) -> Whole<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let core = self.core.write().expect(NO_PANIC);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Whole::new(self, core)
    }

    /// The same after everybody else who wants it.
    fn lock_politely(&self) -> Whole<'_> {
        self.let_others_pass();
        self.lock()
    }

    fn let_others_pass(&self) {
        while self.waiting.load(Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
    }

    /// Changes the engine's state from outside. What work that makes for a worker that sleeps is begun at once, here: the
    /// first message after a pause does not wait for a second thread to wake up. The worker, woken, goes on with it.
    pub fn act<R>(&self, f: impl FnOnce(&mut Engine, Time, &View<'_>) -> R) -> R {
        let mut whole = self.lock();
        let now = self.now();
        let result = whole.with(|engine, view| f(engine, now, view));
        let worker = whole.with(|engine, _| engine.take_stirred()).unwrap_or(0);
        if std::mem::take(&mut whole.core.asleep[worker]) {
            whole.with(|engine, view| {
                engine.wake(worker, view);
                engine.poll(now, Budget::default(), view)
            });
            self.wake_worker(worker);
        }
        result
    }

    /// Something may have rung in HCA `index`'s doorbell pages while the worker slept whose they are. It is begun at once, here, as in
    /// [`Shared::act`].
    pub fn rung(&self, index: usize) {
        let id = self.ports[index].id;
        let mut whole = self.lock();
        let mut woken = None;
        for worker in 0..whole.core.asleep.len() {
            if !whole.core.asleep[worker] || !whole.with(|engine, view| engine.has_rung_in(id, worker, view)) {
                continue;
            }
            whole.core.asleep[worker] = false;
            whole.with(|engine, view| engine.wake(worker, view));
            if let Some(other) = woken.replace(worker) {
                self.wake_worker(other);
            }
        }
        if let Some(worker) = woken {
            let now = self.now();
            whole.with(|engine, view| engine.poll(now, Budget::default(), view));
            self.wake_worker(worker);
        }
        whole.with(|engine, _| engine.count_ring(id));
    }

    /// Looks at the engine's state, and at what the engine sees.
    pub fn inspect<R>(&self, f: impl FnOnce(&mut Engine, Time, &View<'_>) -> R) -> R {
        let now = self.now();
        self.lock().with(|engine, view| f(engine, now, view))
    }

    /// What HCA `index` can reach now.
    pub fn ram(&self, index: usize) -> Arc<AddressSpace> {
        self.lock().core.ram[index].clone()
    }

    /// Exchanges what HCA `index` can reach. When this returns, nobody uses what was there before.
    pub fn set_ram(&self, index: usize, space: AddressSpace) {
        let space = Arc::new(space);
        let mut whole = self.lock();
        let before = std::mem::replace(&mut whole.core.ram[index], space);
        whole.with(|engine, view| engine.ram_changed(self.ports[index].id, view));
        for (worker, asleep) in whole.core.asleep.iter_mut().enumerate() {
            if std::mem::take(asleep) {
                self.wake_worker(worker);
            }
        }
        drop(whole);
        // Not under the lock: unmapping a guest's memory takes time.
        drop(before);
    }

    /// A worker's turn, once there is something to do, or nothing has been for `looks` looks. Those cost a few nanoseconds
    /// each, the lock and the clock a hundred: what rings meanwhile would wait for them.
    pub(crate) fn poll(&self, worker: usize, looks: u32) -> Progress {
        let hits = fault::hits();
        let interrupted = || {
            self.waiting.load(Ordering::Relaxed) != 0 || fault::hits() != hits || self.stopping.load(Ordering::Relaxed)
        };
        if self.wake.len() > 1 {
            return self.poll_beside(worker, looks, interrupted);
        }
        let mut whole = self.lock_politely();
        let mut did_work = false;
        loop {
            did_work |= whole.with_loans(|engine, loans, view| {
                if engine.has_work(worker, view) {
                    return false;
                }
                engine.lend(loans, self.now(), view);
                let ran = loans[worker]
                    .as_mut()
                    .run((engine, worker), view, || self.now(), looks, interrupted);
                engine.recall(loans, self.now(), view);
                ran.worked
            });
            let progress = whole.with(|engine, view| engine.poll(self.now(), Budget::default(), view));
            did_work |= progress.did_work;
            if !progress.did_work || interrupted() {
                return Progress { did_work, ..progress };
            }
        }
    }

    /// The same for one of several: looks and ordinary messages beside the others, everything else alone.
    fn poll_beside(&self, worker: usize, looks: u32, interrupted: impl Fn() -> bool) -> Progress {
        self.let_others_pass();
        let (ran, next_deadline) = {
            let core: ShardedLockReadGuard<'_, Core> = self.core.read().expect(NO_PANIC);
            let mut loan = core.loans[worker].0.lock().expect(NO_PANIC);
            let view = self.view(&core.ram);
            let ran = loan.run((&core.engine, worker), &view, || self.now(), looks, interrupted);
            (ran, core.engine.next_deadline())
        };
        if ran.idle && next_deadline.is_none_or(|at| at > self.now()) {
            return Progress {
                did_work: ran.worked,
                next_deadline,
            };
        }
        let mut progress = self
            .lock()
            .with(|engine, view| engine.poll(self.now(), Budget::default(), view));
        progress.did_work |= ran.worked;
        progress
    }

    fn view<'a>(&'a self, ram: &'a [Arc<AddressSpace>]) -> View<'a> {
        View {
            ram,
            ports: &self.ports,
        }
    }

    /// Announces a worker's sleep. False: there is work.
    pub(crate) fn prepare_sleep(&self, worker: usize) -> bool {
        let mut whole = self.lock_politely();
        let asleep = whole.with(|engine, view| engine.prepare_sleep(worker, view));
        whole.core.asleep[worker] = asleep;
        asleep
    }

    /// Ends a worker's sleep.
    pub(crate) fn awake(&self, worker: usize) {
        let mut whole = self.lock_politely();
        whole.core.asleep[worker] = false;
        whole.with(|engine, view| engine.wake(worker, view));
    }

    /// The descriptor that wakes a worker.
    pub(crate) fn wake_event(&self, worker: usize) -> &OwnedFd {
        &self.wake[worker]
    }

    fn wake_worker(&self, worker: usize) {
        // Fails only when the counter is full: then the worker has been woken already.
        let _ = rustix::io::write(&self.wake[worker], &1u64.to_ne_bytes());
    }

    /// Tells the workers to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for worker in 0..self.wake.len() {
            self.wake_worker(worker);
        }
    }

    /// Whether the workers are to end.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// The lock, whole, with nothing on loan. When it goes, what several workers may do beside each other is lent to them.
struct Whole<'a> {
    shared: &'a Shared,
    core: ShardedLockWriteGuard<'a, Core>,
}

impl<'a> Whole<'a> {
    fn new(shared: &'a Shared, core: ShardedLockWriteGuard<'a, Core>) -> Self {
        let mut whole = Self { shared, core };
        whole.with_loans(|engine, loans, view| engine.recall(loans, shared.now(), view));
        whole
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Engine, &View<'_>) -> R) -> R {
        self.with_loans(|engine, _, view| f(engine, view))
    }

    fn with_loans<R>(&mut self, f: impl FnOnce(&mut Engine, &mut [Lent], &View<'_>) -> R) -> R {
        let Core { engine, loans, ram, .. } = &mut *self.core;
        f(engine, loans, &self.shared.view(ram))
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        let shared = self.shared;
        if shared.wake.len() > 1 && !std::thread::panicking() {
            self.with_loans(|engine, loans, view| engine.lend(loans, shared.now(), view));
        }
    }
}

/// Why the HCAs cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The engine refused one.
    #[error("{0}: {1}")]
    Hca(String, AddHcaError),
    /// No descriptors left.
    #[error("cannot make an eventfd: {0}")]
    EventFd(#[from] io::Error),
}
