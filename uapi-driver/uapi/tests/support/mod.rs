// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What the tests share: a host whose "user memory" is a map, two drivers, and the
//! parser's rules written a second time.
#![expect(dead_code, reason = "each test binary uses a part")]

pub mod abacus;
pub mod rules;
pub mod verbs;

use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::{Moment, Wait};
use rdma_uapi::schema::Access;
use rdma_uapi::sys::NoMemory;
use rdma_uapi::{Context, Device, Driver, Errno, Failure, Host, Reason};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A place to run in: memory is a map of buffers, descriptors are a table, permissions a set.
#[derive(Clone, Default)]
pub struct Bench(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: Mutex<BTreeMap<u64, Vec<u8>>>,
    fds: Mutex<Vec<Option<Arc<dyn Any + Send + Sync>>>>,
    fds_full: Mutex<bool>,
    allowed: Mutex<Vec<Access>>,
    log: Mutex<Vec<String>>,
    pinned: Arc<AtomicU64>,
    looks: AtomicU64,
    process: AtomicU64,
    parents: Mutex<BTreeMap<u32, u32>>,
}

/// Pinned bytes that a context may have.
pub const MEMLOCK: u64 = 1 << 20;

pub struct Pinned(Arc<AtomicU64>, u64);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Bench {
    /// Puts a buffer into the "user memory"; its address.
    pub fn map(&self, bytes: &[u8]) -> u64 {
        let mut memory = self.0.memory.lock().unwrap();
        let end = memory
            .last_key_value()
            .map_or(0x10_0000, |(base, buffer)| base + buffer.len() as u64);
        // A hole between any two: reading past a buffer is noticed.
        let base = (end + 0x1fff) & !0xfff;
        memory.insert(base, bytes.to_vec());
        base
    }

    /// Forgets every buffer.
    pub fn clear(&self) {
        self.0.memory.lock().unwrap().clear();
    }

    /// What a buffer holds now.
    pub fn read(&self, base: u64) -> Vec<u8> {
        self.0.memory.lock().unwrap()[&base].clone()
    }

    pub fn write(&self, base: u64, at: usize, bytes: &[u8]) {
        self.0.memory.lock().unwrap().get_mut(&base).unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn allow(&self, access: Access) {
        self.0.allowed.lock().unwrap().push(access);
    }

    pub fn log_lines(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }

    pub fn pinned(&self) -> u64 {
        self.0.pinned.load(Ordering::Relaxed)
    }

    /// From now on this process calls.
    pub fn become_process(&self, process: u32) {
        self.0.process.store(process.into(), Ordering::Relaxed);
    }

    /// From now on `child` is a child of `parent`.
    pub fn adopt(&self, child: u32, parent: u32) {
        self.0.parents.lock().unwrap().insert(child, parent);
    }

    /// The memory mapped last grows so long: what was not there is.
    pub fn grow(&self, addr: u64, length: usize) {
        let mut memory = self.0.memory.lock().unwrap();
        memory.get_mut(&addr).expect("it is mapped").resize(length, 0);
    }

    pub fn no_more_fds(&self) {
        *self.0.fds_full.lock().unwrap() = true;
    }

    pub fn fd<D: Driver<Host = Bench>>(&self, fd: u32) -> Arc<FdObject<D>> {
        let fds = self.0.fds.lock().unwrap();
        fds[fd as usize - 100]
            .clone()
            .expect("the descriptor is open")
            .downcast()
            .expect("it is this driver's")
    }

    pub fn is_open(&self, fd: u32) -> bool {
        let fds = self.0.fds.lock().unwrap();
        (fd as usize)
            .checked_sub(100)
            .and_then(|n| fds.get(n))
            .is_some_and(Option::is_some)
    }

    pub fn close_fd(&self, fd: u32) {
        let object = self.0.fds.lock().unwrap()[fd as usize - 100].take();
        drop(object.expect("the descriptor was open"));
    }

    fn with<T>(&self, addr: u64, length: usize, f: impl FnOnce(&mut [u8]) -> T) -> Result<T, Errno> {
        let mut memory = self.0.memory.lock().unwrap();
        let (base, buffer) = memory.range_mut(..=addr).next_back().ok_or(Errno::EFAULT)?;
        let at = (addr - base) as usize;
        let end = at.checked_add(length).ok_or(Errno::EFAULT)?;
        buffer.get_mut(at..end).map(f).ok_or(Errno::EFAULT)
    }
}

impl Host for Bench {
    type Owner = ();
    type Wait = Bell;
    type Charge = Pinned;

    fn copy_in(&self, _: &(), addr: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.with(addr, into.len(), |buffer| into.copy_from_slice(buffer))
    }

    fn copy_out(&self, _: &(), addr: u64, from: &[u8]) -> Result<(), Errno> {
        self.with(addr, from.len(), |buffer| buffer.copy_from_slice(from))
    }

    fn may(&self, _: &(), access: Access) -> bool {
        self.0.allowed.lock().unwrap().contains(&access)
    }

    fn charge(&self, _: &(), bytes: u64) -> Outcome<Pinned> {
        let pinned = &self.0.pinned;
        if pinned.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MEMLOCK {
            pinned.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Failure::new(Errno::ENOMEM, Reason::MEMLOCK));
        }
        Ok(Pinned(pinned.clone(), bytes))
    }

    fn install_fd<D: Driver<Host = Self>>(&self, _: &(), object: FdObject<D>) -> Result<u32, Errno> {
        if *self.0.fds_full.lock().unwrap() {
            return Err(Errno::EMFILE);
        }
        let mut fds = self.0.fds.lock().unwrap();
        fds.push(Some(Arc::new(object)));
        Ok(fds.len() as u32 + 99)
    }

    fn moment(&self) -> Moment {
        // A nanosecond a look.
        Moment {
            time: self.0.looks.fetch_add(1, Ordering::Relaxed),
            process: self.0.process.load(Ordering::Relaxed) as u32,
            thread: 1,
        }
    }

    fn descends_from(&self, process: u32) -> bool {
        let parents = self.0.parents.lock().unwrap();
        let mut each = Some(self.moment().process);
        while each.is_some_and(|each| each != process) {
            each = each.and_then(|each| parents.get(&each).copied());
        }
        each.is_some()
    }

    fn pause(&self) {
        std::thread::sleep(Duration::from_micros(50));
    }

    fn log(&self, line: std::fmt::Arguments<'_>) {
        self.0.log.lock().unwrap().push(line.to_string());
    }
}

/// What readers of a queue wait on.
pub struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    /// Times it rang.
    pub fn rung(&self) -> u64 {
        *self.rung.lock().unwrap()
    }
}

impl Wait for Bell {
    fn try_new() -> Result<Self, NoMemory> {
        Ok(Bell {
            rung: Mutex::new(0),
            changed: Condvar::new(),
        })
    }

    fn wake(&self) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

/// A device and one process that has it open.
pub struct Process<D: Driver<Host = Bench>> {
    pub bench: Bench,
    pub device: Arc<Device<D>>,
    pub context: Arc<Context<D>>,
}

impl<D: Driver<Host = Bench>> Process<D> {
    pub fn new(state: D::Device) -> Self {
        let bench = Bench::default();
        let device = Device::<D>::try_new(state, bench.clone()).expect("the driver's table is sound");
        let context = Device::open(&device, ()).expect("the device opens");
        Process { bench, device, context }
    }

    /// Another process on the same device.
    pub fn other(&self) -> Self {
        let context = Device::open(&self.device, ()).expect("the device opens");
        Process {
            bench: self.bench.clone(),
            device: self.device.clone(),
            context,
        }
    }

    /// Builds a message, sends it, gives the message back or what was wrong.
    pub fn call(
        &self,
        method: u8,
        class: u16,
        object: u32,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Result<Sent, Failure> {
        send(method, class, object, fill, |method, message| {
            Context::dispatch(&self.context, method, message)
        })
    }

    /// The same, on a queue's own descriptor.
    pub fn call_fd(
        &self,
        fd: u32,
        method: u8,
        class: u16,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Result<Sent, Failure> {
        let fd = self.bench.fd::<D>(fd);
        send(method, class, 0, fill, |method, message| fd.dispatch(method, message))
    }

    /// Sends bytes as they are.
    pub fn raw(&self, method: u32, message: &mut [u8]) -> Result<(), Failure> {
        Context::dispatch(&self.context, method, message).map_err(|errno| Reply::new(message).failure(errno))
    }

    pub fn close(&self) {
        Context::close(&self.context);
    }
}

fn send(
    method: u8,
    class: u16,
    object: u32,
    fill: impl FnOnce(&mut Builder<'_>),
    dispatch: impl FnOnce(u32, &mut [u8]) -> Result<(), Errno>,
) -> Result<Sent, Failure> {
    let mut buffer = vec![0u64; 8192];
    let mut builder = Builder::new(&mut buffer, class, object);
    fill(&mut builder);
    let message = builder.finish().expect("the message fits");
    let result = dispatch(method.into(), message);
    let sent = Sent(message.to_vec());
    match result {
        Ok(()) => {
            assert_eq!(
                sent.reply().header().error,
                Default::default(),
                "a successful call has no error"
            );
            Ok(sent)
        }
        Err(errno) => {
            let failure = sent.reply().failure(errno);
            assert_ne!(errno, Errno(0));
            Err(failure)
        }
    }
}

/// A message that came back.
#[derive(Debug)]
pub struct Sent(pub Vec<u8>);

impl Sent {
    pub fn reply(&self) -> Reply<'_> {
        Reply::new(&self.0)
    }

    pub fn object(&self) -> u32 {
        self.reply().object()
    }
}
