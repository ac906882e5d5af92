// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the main loop and the worker have in common: the engine, each HCA's memory and interrupts, the clock.
//!
//! The engine and the address spaces stand behind one lock. A worker holds it for one bounded
//! [`Engine::poll`] at a time, so that the main loop waits a fraction of a millisecond for a register access; and since
//! an address space is only exchanged under the lock, no worker can still be using the one before when the exchange has
//! returned. That is what makes the answer to DMA_UNMAP true.
//!
//! Sleep and waking up are under the same lock: a worker announces its sleep while it holds it, whoever makes work for
//! it afterwards sees the announcement.

use crate::memory::AddressSpace;
use crate::pci::msix::Vectors;
use rustix::event::{eventfd, EventfdFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use verbena_engine::{AddHcaError, Budget, Engine, EngineConfig, Env, HcaConfig, HcaId, Progress, Time};

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
    /// By HCA: what it can reach now.
    ram: Vec<Arc<AddressSpace>>,
    /// The worker waits on [`Shared::wake`].
    asleep: bool,
}

/// See the module's text.
pub struct Shared {
    core: Mutex<Core>,
    /// Threads other than workers that want the lock. A mutex is not fair: a worker that polls in a loop would keep it
    /// for ever.
    waiting: AtomicU32,
    ports: Vec<Port>,
    started: Instant,
    /// Wakes the worker.
    wake: OwnedFd,
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
    /// An engine with one HCA for each MAC address, in this order.
    ///
    /// # Errors
    ///
    /// Two equal MAC addresses, or no descriptors left.
    pub fn new(seed: u64, hcas: &[(String, [u8; 6])]) -> Result<Self, NewError> {
        let mut engine = Engine::new(EngineConfig {
            seed,
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
        Ok(Self {
            core: Mutex::new(Core {
                engine,
                ram: vec![Arc::default(); ports.len()],
                asleep: false,
            }),
            waiting: AtomicU32::new(0),
            ports,
            started: Instant::now(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from)?,
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

    /// Takes the lock before any worker does again.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let core = self.core.lock().expect("no thread panics inside the engine");
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        core
    }

    /// Takes the lock after everybody else who wants it.
    fn lock_politely(&self) -> MutexGuard<'_, Core> {
        while self.waiting.load(Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
        self.core.lock().expect("no thread panics inside the engine")
    }

    /// Changes the engine's state from outside. What work that makes while the worker sleeps is begun at once, here: the
    /// first message after a pause does not wait for a second thread to wake up. The worker, woken, goes on with it.
    pub fn act<R>(&self, f: impl FnOnce(&mut Engine, Time, &View<'_>) -> R) -> R {
        let mut core = self.lock();
        let Core { engine, ram, asleep } = &mut *core;
        let ports = &self.ports;
        let view = View { ram, ports };
        let now = self.now();
        let result = f(engine, now, &view);
        if std::mem::take(asleep) {
            engine.wake(&view);
            engine.poll(now, Budget::default(), &view);
            self.wake_worker();
        }
        result
    }

    /// Looks at the engine's state, and at what the engine sees.
    pub fn inspect<R>(&self, f: impl FnOnce(&mut Engine, Time, &View<'_>) -> R) -> R {
        let mut core = self.lock();
        let Core { engine, ram, .. } = &mut *core;
        let ports = &self.ports;
        f(engine, self.now(), &View { ram, ports })
    }

    /// What HCA `index` can reach now.
    pub fn ram(&self, index: usize) -> Arc<AddressSpace> {
        self.lock().ram[index].clone()
    }

    /// Exchanges what HCA `index` can reach. When this returns, nobody uses what was there before.
    pub fn set_ram(&self, index: usize, space: AddressSpace) {
        let space = Arc::new(space);
        let mut core = self.lock();
        let Core { engine, ram, asleep } = &mut *core;
        let before = std::mem::replace(&mut ram[index], space);
        engine.ram_changed(
            self.ports[index].id,
            &View {
                ram,
                ports: &self.ports,
            },
        );
        if std::mem::take(asleep) {
            self.wake_worker();
        }
        drop(core);
        // Not under the lock: unmapping a guest's memory takes time.
        drop(before);
    }

    /// A worker's turn, once there is something to do, or nothing has been for `looks` looks. Those cost a few nanoseconds
    /// each, the lock and the clock a hundred: what rings meanwhile would wait for them.
    pub(crate) fn poll(&self, looks: u32) -> Progress {
        let mut core = self.lock_politely();
        let Core { engine, ram, .. } = &mut *core;
        let ports = &self.ports;
        let view = View { ram, ports };
        for _ in 0..looks {
            if engine.has_work(&view) || self.waiting.load(Ordering::Relaxed) != 0 {
                break;
            }
            // Two virtual processors may well be one real one's threads: the other is the program that is waited for.
            std::hint::spin_loop();
        }
        engine.poll(self.now(), Budget::default(), &view)
    }

    /// Announces a worker's sleep. False: there is work.
    pub(crate) fn prepare_sleep(&self) -> bool {
        let mut core = self.lock_politely();
        let Core { engine, ram, asleep } = &mut *core;
        *asleep = engine.prepare_sleep(&View {
            ram,
            ports: &self.ports,
        });
        *asleep
    }

    /// Ends a worker's sleep.
    pub(crate) fn awake(&self) {
        let mut core = self.lock_politely();
        let Core { engine, ram, asleep } = &mut *core;
        *asleep = false;
        engine.wake(&View {
            ram,
            ports: &self.ports,
        });
    }

    /// The descriptor that wakes the worker.
    pub(crate) fn wake_event(&self) -> &OwnedFd {
        &self.wake
    }

    fn wake_worker(&self) {
        // Fails only when the counter is full: then the worker has been woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Tells the worker to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake_worker();
    }

    /// Whether the worker is to end.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
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
