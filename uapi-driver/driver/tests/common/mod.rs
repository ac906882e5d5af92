// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device to test against: the server itself, on a thread of this process.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use verbena::{Attachment, Buffer, CompletionQueue, Context, ProtectionDomain, RcQp, WorkCompletion};
use verbena_hca::{Config, Server, Stopper};

/// Longer than anything takes that works.
pub const LONG: Duration = Duration::from_secs(30);

/// A server with some HCAs, stopped when dropped.
pub struct Device {
    dir: TempDir,
    hcas: usize,
    workers: usize,
    spin: Duration,
    stopper: Option<Stopper>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    pub fn new(hcas: usize) -> Self {
        Self::with_workers(hcas, 1, Duration::from_micros(20))
    }

    /// The same with so many workers, which spin for so long before they sleep.
    pub fn with_workers(hcas: usize, workers: usize, spin: Duration) -> Self {
        let dir = TempDir::new().unwrap();
        let mut device = Self {
            dir,
            hcas,
            workers,
            spin,
            stopper: None,
            thread: None,
        };
        device.start();
        device
    }

    pub fn start(&mut self) {
        let config = Config {
            sockets: (0..self.hcas).map(|n| self.socket(n)).collect(),
            workers: self.workers,
            spin: self.spin,
            seed: 1,
            ..Config::default()
        };
        let server = Server::new(&config).unwrap();
        self.stopper = Some(server.stopper().unwrap());
        self.thread = Some(std::thread::spawn(move || server.run().unwrap()));
    }

    pub fn stop(&mut self) {
        if let (Some(stopper), Some(thread)) = (self.stopper.take(), self.thread.take()) {
            stopper.stop();
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("hca{n}.sock"))
    }

    pub fn open(&self, n: usize) -> Context {
        Context::open(&Attachment::direct(self.socket(n))).unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One end of a connection, with everything that it needs.
pub struct Side {
    pub qp: RcQp,
    pub cq: CompletionQueue,
    pub pd: ProtectionDomain,
    pub context: Context,
}

impl Side {
    pub fn new(context: &Context, depth: u32) -> Self {
        let context = context.clone();
        let pd = context.alloc_pd().unwrap();
        let cq = context.create_cq(2 * depth).unwrap();
        let qp = RcQp::builder(&pd, &cq, &cq)
            .send_depth(depth)
            .recv_depth(depth)
            .max_sge(8)
            .max_inline(64);
        Self {
            qp: qp.build().unwrap(),
            cq,
            pd,
            context,
        }
    }

    pub fn pair(left: &Context, right: &Context, depth: u32) -> (Self, Self) {
        let (mut left, mut right) = (Self::new(left, depth), Self::new(right, depth));
        left.qp.connect(&right.qp.endpoint().unwrap()).unwrap();
        right.qp.connect(&left.qp.endpoint().unwrap()).unwrap();
        (left, right)
    }

    /// The next completion, which comes.
    pub fn complete(&mut self) -> WorkCompletion {
        self.cq
            .poll_timeout(LONG)
            .unwrap()
            .expect("a completion arrives in time")
    }

    /// A buffer with a pattern.
    pub fn buffer(&self, len: usize, seed: usize) -> Buffer {
        let buffer = self.context.alloc_buffer(len).unwrap();
        buffer.fill_with(0, len, |i| pattern(i, seed));
        buffer
    }
}

/// A byte that depends on where it is and on which transfer it is of.
pub fn pattern(offset: usize, seed: usize) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8) ^ seed.wrapping_mul(97)) as u8
}
