// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Where the tests run the driver: memory that knows what is still allocated or pinned, a clock, signals, a log, and a
//! device behind the registers, scripted or the engine.

pub mod client;
pub mod engine;
pub mod scripted;

use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::{Moment, Wait};
use rdma_uapi::schema::Access;
use rdma_uapi::sys::NoMemory;
use rdma_uapi::{Driver, Errno, Failure, Host, Reason};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};
use verbena_core::foreign::{ForeignId, NoForeignCm};
use verbena_core::node::NodeHost;
use verbena_core::platform::{Dma, PinError, Pinned, Platform, Signal, PAGE};
use verbena_core::Context;

const WORDS: usize = PAGE as usize / 8;
/// DMA address of the memory's first byte: not 0, so that a forgotten address is seen.
pub const BASE: u64 = 0x4000_0000;
/// Address of the first user buffer.
const USER: u64 = 0x7f00_0000_0000;

/// Memory that driver and device share.
pub struct Ram {
    pages: Vec<[AtomicU64; WORDS]>,
    taken: Mutex<Vec<bool>>,
}

impl Ram {
    fn new(pages: usize) -> Self {
        let page = || std::array::from_fn(|_| AtomicU64::new(0));
        Ram {
            pages: (0..pages).map(|_| page()).collect(),
            taken: Mutex::new(vec![false; pages]),
        }
    }

    /// `len` bytes (whole words) at a DMA address; `None` where there is no memory.
    pub fn at(&self, addr: u64, len: u64) -> Option<&[AtomicU64]> {
        let first = usize::try_from(addr.checked_sub(BASE)? / 8).ok()?;
        let words = usize::try_from(len / 8).ok()?;
        self.pages.as_flattened().get(first..first.checked_add(words)?)
    }

    pub fn read(&self, addr: u64, to: &mut [u8]) {
        let words = self.at(addr, to.len() as u64).expect("mapped");
        for (chunk, word) in to.chunks_mut(8).zip(words) {
            chunk.copy_from_slice(&word.load(Ordering::Acquire).to_le_bytes()[..chunk.len()]);
        }
    }

    /// Writes whole words, the first one last.
    pub fn write(&self, addr: u64, from: &[u8]) {
        let words = self.at(addr, from.len() as u64).expect("mapped");
        for (chunk, word) in from.chunks_exact(8).zip(words).rev() {
            word.store(u64::from_le_bytes(chunk.try_into().unwrap()), Ordering::Release);
        }
    }

    fn take(&self, count: usize) -> Option<usize> {
        let mut taken = self.taken.lock().unwrap();
        let first = (0..taken.len().checked_sub(count)?).find(|&n| taken[n..n + count].iter().all(|t| !t))?;
        taken[first..first + count].fill(true);
        Some(first)
    }

    fn give_back(&self, first: usize, count: usize) {
        self.taken.lock().unwrap()[first..first + count].fill(false);
    }

    /// Pages in use.
    pub fn used(&self) -> usize {
        self.taken.lock().unwrap().iter().filter(|&&taken| taken).count()
    }
}

/// What is behind the registers. Sizes are 4 and 8.
pub trait Model: Any + Send + Sync {
    fn read(&self, offset: u32, size: u32) -> u64;
    fn write(&self, ram: &Ram, offset: u32, size: u32, value: u64);
    /// A write to BAR 2.
    fn ring(&self, _offset: u64, _value: u32) {}
    fn as_any(&self) -> &dyn Any;
}

pub struct Inner {
    pub ram: Arc<Ram>,
    pub model: Box<dyn Model>,
    /// User pages: address in the process, page of the memory.
    user: Mutex<BTreeMap<u64, usize>>,
    /// Those that the process may not write.
    read_only: Mutex<BTreeSet<u64>>,
    pub charged: AtomicU64,
    pub charge_limit: AtomicU64,
    pub pinned: AtomicUsize,
    pub privileged: AtomicBool,
    pub died: AtomicUsize,
    pub command_timeout: AtomicU64,
    /// Allocations of DMA memory that succeed before they fail.
    pub allocations_left: AtomicUsize,
    pub log: Mutex<Vec<String>>,
    pub fds: Mutex<Vec<Box<dyn Any + Send>>>,
    /// Open files of devices, by descriptor, for the system-wide node.
    pub files: Mutex<Vec<Weak<Context<Bench>>>>,
    /// When the driver's work is due.
    work: Mutex<Option<Instant>>,
    start: Instant,
}

/// The platform of the tests.
#[derive(Clone)]
pub struct Bench(pub Arc<Inner>);

impl Bench {
    pub fn new(model: impl Model) -> Self {
        Bench::with_ram(model, Arc::new(Ram::new(2048)))
    }

    pub fn with_ram(model: impl Model, ram: Arc<Ram>) -> Self {
        Bench(Arc::new(Inner {
            ram,
            model: Box::new(model),
            user: Mutex::default(),
            read_only: Mutex::default(),
            charged: AtomicU64::new(0),
            charge_limit: AtomicU64::new(u64::MAX),
            pinned: AtomicUsize::new(0),
            privileged: AtomicBool::new(true),
            died: AtomicUsize::new(0),
            command_timeout: AtomicU64::new(10_000_000_000),
            allocations_left: AtomicUsize::new(usize::MAX),
            log: Mutex::default(),
            fds: Mutex::default(),
            files: Mutex::default(),
            work: Mutex::default(),
            start: Instant::now(),
        }))
    }

    /// The same, which gives the device up when a command takes as long as this.
    pub fn patience(self, timeout: Duration) -> Self {
        let nanoseconds = timeout.as_nanos() as u64;
        self.0.command_timeout.store(nanoseconds, Ordering::Relaxed);
        self
    }

    pub fn model<M: Model>(&self) -> &M {
        self.0.model.as_any().downcast_ref().expect("the test made this model")
    }

    /// Memory of the process, `pages` pages long; `apart`: no two of them neighbours for the device.
    pub fn user_buffer(&self, pages: usize, apart: bool) -> u64 {
        let mut user = self.0.user.lock().unwrap();
        // A hole between buffers, so that running over the end is seen.
        let addr = user.last_key_value().map_or(USER, |(last, _)| last + 2 * PAGE);
        let step = if apart { 2 } else { 1 };
        let first = self
            .0
            .ram
            .take(pages * step)
            .expect("the test's memory is large enough");
        for n in 0..pages {
            user.insert(addr + n as u64 * PAGE, first + n * step);
        }
        addr
    }

    /// From now on the process may not write this page of its memory.
    pub fn protect(&self, addr: u64) {
        self.0.read_only.lock().unwrap().insert(addr / PAGE);
    }

    /// The DMA address of a byte of the process's memory.
    pub fn user_dma(&self, addr: u64) -> Option<u64> {
        let page = *self.0.user.lock().unwrap().get(&(addr / PAGE * PAGE))?;
        Some(BASE + page as u64 * PAGE + addr % PAGE)
    }

    /// Whether the driver's work is due, after which it is not.
    pub fn take_due(&self) -> bool {
        let mut work = self.0.work.lock().unwrap();
        let due = work.is_some_and(|at| at <= Instant::now());
        if due {
            *work = None;
        }
        due
    }

    pub fn logged(&self, text: &str) -> bool {
        self.0.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    fn each_byte(&self, addr: u64, len: usize, mut each: impl FnMut(usize, &AtomicU64, u32)) -> Result<(), Errno> {
        for n in 0..len {
            let at = self.user_dma(addr.wrapping_add(n as u64)).ok_or(Errno::EFAULT)?;
            let word = &self.0.ram.at(at / 8 * 8, 8).ok_or(Errno::EFAULT)?[0];
            each(n, word, (at % 8) as u32 * 8);
        }
        Ok(())
    }
}

pub struct Signalled(Mutex<u32>, Condvar);

impl Signal for Signalled {
    fn raise(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_one();
    }

    fn wait(&self, nanoseconds: u64) {
        let raised = self.0.lock().unwrap();
        let (mut raised, _) = self
            .1
            .wait_timeout_while(raised, Duration::from_nanos(nanoseconds), |raised| *raised == 0)
            .unwrap();
        *raised = raised.saturating_sub(1);
    }
}

pub struct Woken(pub AtomicUsize);

impl Wait for Woken {
    fn try_new() -> Result<Self, NoMemory> {
        Ok(Woken(AtomicUsize::new(0)))
    }

    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub struct Charge(Bench, u64);

impl Drop for Charge {
    fn drop(&mut self) {
        self.0 .0.charged.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Host for Bench {
    type Owner = ();
    type Wait = Woken;
    type Charge = Charge;

    fn copy_in(&self, _: &(), addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.each_byte(addr, into.len(), |n, word, shift| {
            into[n] = (word.load(Ordering::Relaxed) >> shift) as u8
        })
    }

    fn copy_out(&self, _: &(), addr: u64, from: &[u8]) -> Result<(), Errno> {
        let pages = addr / PAGE..=(addr + from.len() as u64).saturating_sub(1) / PAGE;
        if self.0.read_only.lock().unwrap().range(pages).next().is_some() {
            return Err(Errno::EFAULT);
        }
        self.each_byte(addr, from.len(), |n, word, shift| {
            let old = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(old | u64::from(from[n]) << shift, Ordering::Relaxed);
        })
    }

    fn may(&self, _: &(), _: Access) -> bool {
        self.0.privileged.load(Ordering::Relaxed)
    }

    fn charge(&self, _: &(), bytes: u64) -> Outcome<Charge> {
        let before = self.0.charged.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge(self.clone(), bytes);
        if before + bytes > self.0.charge_limit.load(Ordering::Relaxed) {
            return Err(Failure::new(Errno::ENOMEM, Reason::MEMLOCK));
        }
        Ok(charge)
    }

    fn install_fd<D: Driver<Host = Self>>(&self, _: &(), object: FdObject<D>) -> Result<u32, Errno> {
        let mut fds = self.0.fds.lock().unwrap();
        fds.push(Box::new(object));
        Ok(fds.len() as u32 - 1)
    }

    fn moment(&self) -> Moment {
        Moment::default()
    }

    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(1));
    }

    fn log(&self, line: fmt::Arguments<'_>) {
        self.0.log.lock().unwrap().push(line.to_string());
    }
}

impl NodeHost<Bench> for Bench {
    type Foreign = NoForeignCm;

    fn foreign(&self, _: &Arc<ForeignId<Bench>>) -> Result<NoForeignCm, Errno> {
        Err(Errno::ENODEV)
    }

    /// A descriptor is an index of [`Inner::files`].
    fn context(&self, _: &(), fd: u32) -> Result<Arc<Context<Bench>>, Errno> {
        let files = self.0.files.lock().unwrap();
        files.get(fd as usize).and_then(Weak::upgrade).ok_or(Errno::EBADF)
    }
}

pub struct Memory {
    ram: Arc<Ram>,
    first: usize,
    count: usize,
}

impl Dma for Memory {
    fn addr(&self) -> u64 {
        BASE + self.first as u64 * PAGE
    }

    fn words(&self) -> &[AtomicU64] {
        self.ram.pages[self.first..][..self.count].as_flattened()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ram.give_back(self.first, self.count);
    }
}

pub struct Pages {
    bench: Bench,
    first_offset: u64,
    pages: Vec<usize>,
}

impl Pinned for Pages {
    fn first_offset(&self) -> u64 {
        self.first_offset
    }

    fn stretches(&self, each: &mut dyn FnMut(u64, u64) -> Result<(), Failure>) -> Result<(), Failure> {
        // Page by page: merging is the driver's.
        self.pages
            .iter()
            .try_for_each(|&page| each(BASE + page as u64 * PAGE, PAGE))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.bench.0.pinned.fetch_sub(self.pages.len(), Ordering::Relaxed);
    }
}

impl Platform for Bench {
    type Node = Self;
    type Dma = Memory;
    type Pinned = Pages;
    type Signal = Signalled;
    /// The descriptor's last digit: files of ten names each.
    type File = u32;

    fn file(&self, _owner: &Self::Owner, fd: u32) -> Result<u32, Errno> {
        (fd < 100).then_some(fd % 10).ok_or(Errno::EBADF)
    }

    fn command_timeout(&self) -> u64 {
        self.0.command_timeout.load(Ordering::Relaxed)
    }

    fn name(&self) -> &str {
        "bench0"
    }

    fn index(&self) -> u32 {
        3
    }

    fn path(&self) -> &str {
        "/bench/0"
    }

    fn read32(&self, offset: u32) -> u32 {
        self.0.model.read(offset, 4) as u32
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.model.read(offset, 8)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.model.write(&self.0.ram, offset, 4, value.into());
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.model.write(&self.0.ram, offset, 8, value);
    }

    fn ring(&self, offset: u64, value: u32) {
        self.0.model.ring(offset, value);
    }

    fn schedule(&self, nanoseconds: u64) {
        *self.0.work.lock().unwrap() = Instant::now().checked_add(Duration::from_nanos(nanoseconds));
    }

    fn vectors(&self) -> u16 {
        6
    }

    fn alloc_dma(&self, len: usize) -> Result<Memory, Errno> {
        let left = &self.0.allocations_left;
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_err()
        {
            return Err(Errno::ENOMEM);
        }
        let count = len.div_ceil(PAGE as usize);
        let first = self.0.ram.take(count).ok_or(Errno::ENOMEM)?;
        let memory = Memory {
            ram: self.0.ram.clone(),
            first,
            count,
        };
        memory.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(memory)
    }

    fn pin(&self, _: &(), addr: u64, len: u64, _writable: bool) -> Result<Pages, PinError> {
        let user = self.0.user.lock().unwrap();
        let first = addr / PAGE;
        let last = (addr + len - 1) / PAGE;
        let pages: Option<Vec<usize>> = (first..=last).map(|page| user.get(&(page * PAGE)).copied()).collect();
        let pages = pages.ok_or(PinError::Fault)?;
        self.0.pinned.fetch_add(pages.len(), Ordering::Relaxed);
        Ok(Pages {
            bench: self.clone(),
            first_offset: addr % PAGE,
            pages,
        })
    }

    fn signal(&self) -> Result<Signalled, Errno> {
        Ok(Signalled(Mutex::new(0), Condvar::new()))
    }

    fn now(&self) -> u64 {
        self.0.start.elapsed().as_nanos() as u64
    }

    fn died(&self) {
        self.0.died.fetch_add(1, Ordering::Relaxed);
    }
}
