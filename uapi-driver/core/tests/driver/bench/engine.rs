// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The engine behind the registers, with a worker that also raises the interrupts.

use super::client::App;
use super::{Bench, Model, Ram};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use verbena_engine::{Budget, Dma, Engine, EngineConfig, Env, GuestRam, HcaConfig, HcaId, Time};
use verbena_hw::pci::{BAR_DOORBELL_SIZE, MSIX_VECTORS};
use vm_memory::VolatileSlice;

/// What the engine sees of the bench.
struct Surroundings {
    ram: Arc<Ram>,
    /// Bit `n`: vector `n` was raised and not yet served.
    raised: AtomicU64,
}

const _: () = assert!(MSIX_VECTORS <= 64, "vectors are the bits of one word");

impl GuestRam for Ram {
    fn slice(&self, addr: u64, len: usize, _: Dma) -> Option<VolatileSlice<'_>> {
        let start = addr / 8 * 8;
        let end = addr.checked_add(len as u64)?.checked_next_multiple_of(8)?;
        let words = self.at(start, end - start)?;
        // SAFETY: the range lies in `words`, which live as long as the result; atomics may be written through a shared
        // reference, and everybody accesses this memory as atomics or volatile.
        Some(unsafe { VolatileSlice::new(words.as_ptr().cast::<u8>().cast_mut().add((addr - start) as usize), len) })
    }
}

impl Env for Surroundings {
    type Ram = Ram;

    fn ram(&self, _: HcaId) -> &Ram {
        &self.ram
    }

    fn interrupt(&self, _: HcaId, vector: u16) {
        self.raised.fetch_or(1 << vector, Ordering::SeqCst);
    }
}

struct Shared {
    engine: Mutex<Engine>,
    env: Surroundings,
    start: Instant,
}

impl Shared {
    fn now(&self) -> Time {
        Time(self.start.elapsed().as_nanos() as u64)
    }
}

/// The engine with one HCA.
pub struct Served {
    shared: Arc<Shared>,
    hca: HcaId,
}

impl Model for Served {
    fn read(&self, offset: u32, size: u32) -> u64 {
        self.shared
            .engine
            .lock()
            .unwrap()
            .read_reg(self.hca, offset.into(), size as usize)
    }

    fn write(&self, _: &Ram, offset: u32, size: u32, value: u64) {
        let now = self.shared.now();
        let mut engine = self.shared.engine.lock().unwrap();
        engine.write_reg(self.hca, offset.into(), size as usize, value, now, &self.shared.env);
    }

    fn ring(&self, offset: u64, value: u32) {
        self.write_doorbell(offset, value);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Served {
    /// What a write to BAR 2 does.
    pub fn write_doorbell(&self, offset: u64, value: u32) {
        assert!(offset < BAR_DOORBELL_SIZE);
        self.shared
            .engine
            .lock()
            .unwrap()
            .write_doorbell(self.hca, offset, 4, value.into());
    }

    /// Plugs or unplugs the cable.
    pub fn set_link(&self, up: bool) {
        let now = self.shared.now();
        self.shared
            .engine
            .lock()
            .unwrap()
            .set_link(self.hca, up, now, &self.shared.env);
    }
}

/// An application on an engine that works.
pub struct Live {
    pub app: App,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Live {
    pub fn start() -> Self {
        let ram = Arc::new(Ram::new(4096));
        let mut engine = Engine::new(EngineConfig {
            seed: 7,
            ..EngineConfig::default()
        });
        let hca = engine
            .add_hca(HcaConfig::new("bench", [2, 0x56, 0x42, 0, 0, 1]))
            .unwrap();
        let env = Surroundings {
            ram: ram.clone(),
            raised: AtomicU64::new(0),
        };
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            env,
            start: Instant::now(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = vec![];
        {
            let (shared, stop) = (shared.clone(), stop.clone());
            workers.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let now = shared.now();
                    let progress = shared.engine.lock().unwrap().poll(now, Budget::default(), &shared.env);
                    if !progress.did_work {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                }
            }));
        }
        let bench = Bench::with_ram(
            Served {
                shared: shared.clone(),
                hca,
            },
            ram,
        );
        let app = App::start(bench);
        {
            let (device, stop) = (app.device.clone(), stop.clone());
            let bench = app.bench.clone();
            workers.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if bench.take_due() {
                        verbena_core::work(&device);
                    }
                    let raised = shared.env.raised.swap(0, Ordering::SeqCst);
                    for vector in (0..MSIX_VECTORS).filter(|vector| raised >> vector & 1 != 0) {
                        verbena_core::interrupt(&device, vector);
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
            }));
        }
        Live { app, stop, workers }
    }

    pub fn served(&self) -> &Served {
        self.app.bench.model()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() && !std::thread::panicking() {
                panic!("a worker panicked");
            }
        }
    }
}
