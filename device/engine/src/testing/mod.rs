// SPDX-License-Identifier: MIT OR Apache-2.0
//! A world for tests: guests with memory, a clock that the test advances, and a tiny driver.
//!
//! ```
//! use verbena_engine::testing::{Pair, SendWr};
//!
//! let mut pair = Pair::connected();
//! pair.a.fill(&mut pair.world, 0, b"hello");
//! let wr = SendWr::write(7, &[pair.a.sge(0, 5)], pair.b.addr(100), pair.b.rkey());
//! pair.a.post(&mut pair.world, wr);
//! pair.world.run();
//! assert_eq!(pair.a.completion(&pair.world).wr_id, 7);
//! assert_eq!(pair.b.bytes(&pair.world, 100, 5), b"hello");
//! ```

mod driver;
mod link;
mod net;
mod pair;
mod queues;

pub use driver::{attrs, Failed, Guest};
pub use link::{seal, Fate, Faults, Link, Seen};
pub use net::{Net, NetPair};
pub use pair::{End, Pair};
pub use queues::{Cq, Mr, Qp, QpShape, RecvWr, SendWr, Srq};

use crate::loan::{Loan, Ran};
use crate::{Budget, Dma, Engine, EngineConfig, Env, GuestRam, HcaConfig, HcaId, Progress, Time, Uplink};
use core::time::Duration;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread::ScopedJoinHandle;
use std::time::Instant;
use verbena_hw::pci::MSIX_VECTORS;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// One mapping.
struct Mapping {
    start: u64,
    memory: MmapRegion,
    writable: bool,
}

/// The DMA address space of a test's guest.
#[derive(Default)]
pub struct Ram {
    /// By address, as in the server, so that instructions counted here are those counted there.
    mappings: Vec<Mapping>,
    /// Where [`Ram::alloc`] goes on.
    next: u64,
    end: u64,
}

impl Ram {
    /// Maps `len` bytes of fresh, zeroed memory at `addr`.
    ///
    /// # Panics
    ///
    /// If the system gives no memory.
    pub fn map(&mut self, addr: u64, len: usize, writable: bool) {
        let memory = MmapRegion::new(len).expect("anonymous memory");
        let at = self.mappings.partition_point(|mapping| mapping.start < addr);
        let start = addr;
        self.mappings.insert(
            at,
            Mapping {
                start,
                memory,
                writable,
            },
        );
    }

    /// Takes the mapping that begins at `addr` away; its contents are gone.
    pub fn unmap(&mut self, addr: u64) {
        self.mappings.retain(|mapping| mapping.start != addr);
    }

    /// Gives out `len` zeroed bytes of the first mapping, at a page's beginning.
    ///
    /// # Panics
    ///
    /// If they are used up.
    pub fn alloc(&mut self, len: usize) -> u64 {
        let addr = self.next;
        self.next = (addr + len as u64).next_multiple_of(4096);
        assert!(self.next <= self.end, "the test's guest memory is used up");
        addr
    }

    /// Leaves out a page, so that the next allocation is not adjacent.
    pub fn skip_page(&mut self) {
        self.next += 4096;
    }

    fn find(&self, addr: u64) -> Option<(&Mapping, usize)> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= addr);
        let mapping = self.mappings.get(after.checked_sub(1)?)?;
        let offset = usize::try_from(addr - mapping.start).ok()?;
        (offset < mapping.memory.len()).then_some((mapping, offset))
    }

    /// Writes bytes, as the guest's processor would.
    ///
    /// # Panics
    ///
    /// If they are not mapped.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let slice = self.slice_any(addr + done as u64, bytes.len() - done).expect("mapped");
            slice.copy_from(&bytes[done..done + slice.len()]);
            done += slice.len();
        }
    }

    /// Reads bytes, as the guest's processor would.
    ///
    /// # Panics
    ///
    /// If they are not mapped.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let slice = self.slice_any(addr + done as u64, len - done).expect("mapped");
            done += slice.copy_to(&mut bytes[done..]);
        }
        bytes
    }

    /// A 4-byte word.
    pub fn read_u32(&self, addr: u64) -> u32 {
        u32::from_le_bytes(self.read(addr, 4).try_into().expect("4 bytes"))
    }

    /// An 8-byte word.
    pub fn read_u64(&self, addr: u64) -> u64 {
        u64::from_le_bytes(self.read(addr, 8).try_into().expect("8 bytes"))
    }

    fn slice_any(&self, addr: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let (mapping, offset) = self.find(addr)?;
        let n = len.min(mapping.memory.len() - offset);
        mapping.memory.get_slice(offset, n).ok()
    }
}

impl GuestRam for Ram {
    #[inline]
    fn slice(&self, addr: u64, len: usize, dma: Dma) -> Option<VolatileSlice<'_>> {
        let (mapping, offset) = self.find(addr)?;
        if dma == Dma::Write && !mapping.writable {
            return None;
        }
        let n = len.min(mapping.memory.len() - offset);
        mapping.memory.get_slice(offset, n).ok()
    }
}

/// The world around a test's engine.
#[derive(Default)]
pub struct TestEnv {
    rams: Vec<Ram>,
    interrupts: Mutex<Vec<[u32; MSIX_VECTORS as usize]>>,
    total: AtomicU64,
}

impl TestEnv {
    fn interrupts(&self) -> std::sync::MutexGuard<'_, Vec<[u32; MSIX_VECTORS as usize]>> {
        self.interrupts.lock().expect("no test panics here")
    }
}

impl Env for TestEnv {
    type Ram = Ram;

    fn ram(&self, hca: HcaId) -> &Ram {
        &self.rams[hca.0 as usize]
    }

    fn interrupt(&self, hca: HcaId, vector: u16) {
        assert!(
            vector < MSIX_VECTORS,
            "the engine signalled a vector that does not exist"
        );
        self.interrupts()[hca.0 as usize][usize::from(vector)] += 1;
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where a guest's first mapping begins.
pub const RAM_BASE: u64 = 0x10_0000;

/// An engine, the memory of its guests, and the time.
pub struct World {
    /// The engine.
    pub engine: Engine,
    /// What the engine sees.
    pub env: TestEnv,
    /// What time it is.
    pub now: Time,
    /// Budget of each poll.
    pub budget: Budget,
    /// What carries the HCAs' packets, if they come back to this engine.
    pub link: Option<Link>,
    /// What the engine lends in each poll.
    loans: Vec<Loan>,
    /// The last byte of the first HCA's MAC address.
    first_mac: u8,
}

impl World {
    /// A world without guests.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Uplink::None, 1)
    }

    /// A world without guests, whose engine has so many workers.
    pub fn for_workers(seed: u64, workers: usize) -> Self {
        let mut world = Self::new(seed);
        world.engine = Engine::new(EngineConfig {
            seed,
            workers,
            ..EngineConfig::default()
        });
        world.loans = (0..workers).map(|_| Loan::default()).collect();
        world
    }

    /// A world without guests, whose HCAs reach each other and themselves by packets over a link without faults.
    pub fn over_packets(seed: u64) -> Self {
        Self {
            link: Some(Link::new(seed)),
            ..Self::with(seed, Uplink::All, 1)
        }
    }

    /// A world without guests. The MAC address of its first HCA ends in `first_mac`.
    pub fn with(seed: u64, uplink: Uplink, first_mac: u8) -> Self {
        Self {
            engine: Engine::new(EngineConfig {
                seed,
                uplink,
                ..EngineConfig::default()
            }),
            env: TestEnv::default(),
            now: Time::from_nanos(1_000_000),
            budget: Budget::default(),
            link: None,
            loans: vec![Loan::default()],
            first_mac,
        }
    }

    /// The MAC address of an HCA.
    pub fn mac(&self, hca: HcaId) -> [u8; 6] {
        [0x02, 0x56, 0x42, 0, 0, self.first_mac + hca.0 as u8]
    }

    /// Adds an HCA whose guest has `memory` bytes, at [`RAM_BASE`].
    ///
    /// # Panics
    ///
    /// If the engine refuses it.
    pub fn add_hca(&mut self, memory: usize) -> HcaId {
        let n = self.env.rams.len() as u8;
        let mac = self.mac(HcaId(n.into()));
        let id = self
            .engine
            .add_hca(HcaConfig::new(format!("test{n}"), mac))
            .expect("a MAC address of its own");
        assert_eq!(id.0 as usize, self.env.rams.len());
        let mut ram = Ram {
            next: RAM_BASE,
            end: RAM_BASE + memory as u64,
            ..Ram::default()
        };
        ram.map(RAM_BASE, memory, true);
        self.env.rams.push(ram);
        self.env.interrupts().push([0; MSIX_VECTORS as usize]);
        id
    }

    /// The memory of an HCA's guest.
    pub fn ram(&self, hca: HcaId) -> &Ram {
        &self.env.rams[hca.0 as usize]
    }

    /// The memory of an HCA's guest, to change its mappings.
    pub fn ram_mut(&mut self, hca: HcaId) -> &mut Ram {
        &mut self.env.rams[hca.0 as usize]
    }

    /// How often a vector was signalled since this was asked last.
    pub fn take_interrupts(&self, hca: HcaId, vector: u16) -> u32 {
        core::mem::take(&mut self.env.interrupts()[hca.0 as usize][usize::from(vector)])
    }

    /// Has the engine lend its workers what it can.
    pub fn lend(&mut self) {
        self.engine.lend(&mut self.loans, self.now, &self.env);
    }

    /// A worker's turn at what it was lent: until a look has found nothing.
    pub fn run_loan(&mut self, worker: usize) -> Ran {
        let now = self.now;
        self.loans[worker].run((&self.engine, worker), &self.env, || now, 1, || false)
    }

    /// The same, but somebody wants the engine whole from the beginning.
    pub fn interrupt_loan(&mut self, worker: usize) -> Ran {
        let now = self.now;
        self.loans[worker].run((&self.engine, worker), &self.env, || now, u32::MAX, || true)
    }

    /// Every worker's turn at what it was lent, on a thread of its own, one after the other or all at once, and how long each
    /// took by the machine's clock.
    ///
    /// # Panics
    ///
    /// If one of them does.
    pub fn run_loans(&mut self, at_once: bool) -> Vec<(Ran, Duration)> {
        let Self {
            engine,
            env,
            now,
            loans,
            ..
        } = self;
        let (engine, env, now) = (&*engine, &*env, *now);
        let start = Barrier::new(if at_once { loans.len() } else { 1 });
        let turn = |worker: usize, loan: &mut Loan| {
            start.wait();
            let began = Instant::now();
            let ran = loan.run((engine, worker), env, || now, 1, || false);
            (ran, began.elapsed())
        };
        let turn = &turn;
        std::thread::scope(|scope| {
            let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("no worker panics");
            let threads = loans
                .iter_mut()
                .enumerate()
                .map(|(worker, loan)| scope.spawn(move || turn(worker, loan)));
            if at_once {
                let threads: Vec<_> = threads.collect();
                threads.into_iter().map(join).collect()
            } else {
                threads.map(join).collect()
            }
        })
    }

    /// Has the engine take back what it has lent.
    pub fn recall(&mut self) {
        self.engine.recall(&mut self.loans, self.now, &self.env);
    }

    /// Polls once, after a turn of every worker.
    pub fn poll(&mut self) -> Progress {
        self.lend();
        let worked = (0..self.loans.len()).fold(false, |any, worker| self.run_loan(worker).worked | any);
        self.recall();
        let mut progress = self.engine.poll(self.now, self.budget, &self.env);
        progress.did_work |= worked;
        if let Some(link) = &mut self.link {
            while let Some(packet) = self.engine.transmit() {
                progress.did_work = true;
                link.send(self.now, packet.bytes);
            }
            while let Some(bytes) = link.arrival(self.now) {
                progress.did_work = true;
                self.engine.receive(&bytes, self.now, &self.env);
            }
            progress.next_deadline = progress.next_deadline.into_iter().chain(link.next()).min();
        }
        progress
    }

    /// Polls until there is nothing to do at this time.
    ///
    /// # Panics
    ///
    /// If there is always something: a test's work is finite.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            if !self.poll().did_work {
                return;
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Lets time pass, stopping at every timer on the way.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            self.run();
            match self.poll().next_deadline {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = until;
        self.run();
    }

    /// Reads a register.
    pub fn read_reg(&mut self, hca: HcaId, offset: u32, size: usize) -> u64 {
        self.engine.read_reg(hca, offset.into(), size)
    }

    /// Writes a register.
    pub fn write_reg(&mut self, hca: HcaId, offset: u32, size: usize, value: u64) {
        self.engine
            .write_reg(hca, offset.into(), size, value, self.now, &self.env);
    }
}
