// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The device from reset to working and back.

use crate::admin::{AdminQueue, CommandError};
use crate::cm::Cm;
use crate::events::EventRing;
use crate::gsi::Gsi;
use crate::mad::Clients;
use crate::numbers::Numbers;
use crate::platform::{Dma, Platform, PAGE};
use crate::work::Due;
use crate::xrc_target::Held;
use crate::xrcd::Shared;
use crate::Verbena;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{try_arc, Arc, Mutex, NoMemory, Vec};
use rdma_uapi::{Errno, Object};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{QueryDeviceRsp, QueryGidReq, QueryGidRsp};
use verbena_hw::id::Gid;
use verbena_hw::regs;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Completion vectors at most: more than a guest of the size that this is for has processors to serve.
const MAX_COMPLETION_VECTORS: u16 = 8;

/// Why the device could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The registers are not a Verbena HCA's; what MAGIC reads.
    NotVerbena(u32),
    /// The programming interface has another major version; what VERSION reads.
    Version(u32),
    /// The registers read all ones, or the reset did not end.
    Gone,
    /// No memory, or no resource of the kind that this errno says.
    NoMemory(Errno),
    /// No mapping covers guest memory at this address.
    MemoryUnreachable(u64),
    /// The device read or wrote other memory than ours.
    MemoryNotShared,
    /// CTRL.ENABLE was refused; what HEALTH reads.
    NotEnabled(u32),
    /// A command failed.
    Command(CommandError),
}

impl StartError {
    /// The errno that says it best.
    pub fn errno(&self) -> Errno {
        match self {
            StartError::NotVerbena(_) | StartError::Version(_) | StartError::Gone => Errno::ENODEV,
            StartError::NoMemory(errno) => *errno,
            StartError::MemoryUnreachable(_) | StartError::MemoryNotShared => Errno::EFAULT,
            StartError::NotEnabled(_) => Errno::EIO,
            StartError::Command(error) => error.errno(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NotVerbena(magic) => {
                write!(f, "this is not a Verbena HCA: its first register reads {magic:#010x}")
            }
            StartError::Version(version) => write!(
                f,
                "the device's programming interface is version {}.{}, this driver needs {}.x",
                version >> 16,
                version & 0xffff,
                regs::VERSION_MAJOR
            ),
            StartError::Gone => f.write_str("the device does not answer: its registers read all ones"),
            StartError::NoMemory(errno) => write!(f, "no memory for the device's queues ({errno})"),
            StartError::MemoryUnreachable(addr) => {
                write!(
                    f,
                    "the device cannot reach guest memory at {addr:#x}: no DMA mapping covers it"
                )
            }
            StartError::MemoryNotShared => f.write_str(
                "the device does not see guest memory, only a private copy: the VMM must share it \
                 (QEMU: -object memory-backend-memfd,share=on)",
            ),
            StartError::NotEnabled(health) => write!(f, "the device refused its admin queue: health {health}"),
            StartError::Command(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

impl From<CommandError> for StartError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Gone => StartError::Gone,
            refused => StartError::Command(refused),
        }
    }
}

impl From<Errno> for StartError {
    fn from(errno: Errno) -> Self {
        StartError::NoMemory(errno)
    }
}

impl From<NoMemory> for StartError {
    fn from(_: NoMemory) -> Self {
        StartError::NoMemory(Errno::ENOMEM)
    }
}

/// A device that works: what [`Verbena`] keeps for it.
pub struct Hardware<P: Platform> {
    pub(crate) platform: P,
    pub(crate) admin: AdminQueue<P>,
    /// What the device said of itself.
    pub(crate) limits: QueryDeviceRsp,
    /// Page lists may have large pages.
    pub(crate) large_pages: bool,
    /// Commands can be linked, and a queue pair can be made on its way ([`regs::CAP_ADMIN_LINK`]).
    pub(crate) links: bool,
    /// Completions can be counted ([`regs::CAP_COMPLETION_COUNTER`]).
    pub(crate) counters: bool,
    /// Rings need not begin on a page ([`regs::CAP_PACKED_RINGS`]).
    pub(crate) packed_rings: bool,
    /// Event queue 0 takes what belongs to no completion vector; completion vector `n` is event queue `n + 1`.
    pub(crate) events: Vec<EventRing<P>>,
    /// QP 1, once somebody needs it.
    pub(crate) gsi: Late<Gsi<P>>,
    /// The communication manager, once somebody needs it.
    pub(crate) cm: Late<Cm<P>>,
    /// Clients of management classes.
    pub(crate) mads: Clients<P>,
    /// The next one's number.
    pub(crate) mad_numbers: AtomicU32,
    /// There is more to do than what is due at a deadline ([`crate::work`]).
    pub(crate) work: AtomicBool,
    /// Deadlines.
    pub(crate) due: Due,
    /// The objects that events are about. Taken after an event ring's lock, before nothing.
    pub(crate) objects: Mutex<Numbers<Arc<Object<Verbena<P>>>>>,
    /// Communication ids of the system-wide node. Taken before nothing.
    pub(crate) node_ids: Mutex<Numbers<crate::cm::OfNode<P>>>,
    /// XRC targets, which several objects can be. Taken after an event ring's lock, before nothing.
    pub(crate) targets: Mutex<Numbers<Held<P>>>,
    /// The XRC domains that files stand for. Held over commands; taken before nothing.
    pub(crate) xrcds: Mutex<Vec<Shared<P>>>,
}

/// What is made when somebody first needs it, and then stays.
pub(crate) struct Late<T>(Mutex<Option<Arc<T>>>);

impl<T> Late<T> {
    fn try_new() -> Result<Self, NoMemory> {
        Mutex::try_new(None, c"verbena_late").map(Late)
    }

    /// It, if it is there.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.0.lock().clone()
    }

    /// It, made if need be. Two that need it at once make one.
    pub(crate) fn get_or(&self, make: impl FnOnce() -> Outcome<T>) -> Outcome<Arc<T>> {
        let mut place = self.0.lock();
        if let Some(it) = &*place {
            return Ok(it.clone());
        }
        let it = try_arc(make()?)?;
        *place = Some(it.clone());
        Ok(it)
    }
}

impl<P: Platform> Hardware<P> {
    /// Brings the device up.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the device has been reset then, if it was one.
    pub fn start(platform: P) -> Result<Self, StartError> {
        identify(&platform)?;
        reset(&platform)?;
        let started = Self::start_after_reset(&platform);
        if started.is_err() {
            // Nothing may be left that touches memory which is free by now.
            platform.write32(regs::CTRL, regs::CTRL_RESET);
        }
        started
    }

    fn start_after_reset(platform: &P) -> Result<Self, StartError> {
        probe_memory(platform)?;
        let admin = AdminQueue::try_new(platform.clone())?;
        admin.program();
        platform.write32(regs::CTRL, regs::CTRL_ENABLE);
        let status = platform.read32(regs::STATUS);
        if status == u32::MAX {
            return Err(StartError::Gone);
        }
        if status & regs::STATUS_FATAL != 0 || status & regs::STATUS_ENABLED == 0 {
            return Err(StartError::NotEnabled(platform.read32(regs::HEALTH)));
        }
        let started = Self::start_with(platform, admin);
        if started.is_err() {
            // The queue's memory is freed on return.
            platform.write32(regs::CTRL, regs::CTRL_RESET);
        }
        started
    }

    fn start_with(platform: &P, admin: AdminQueue<P>) -> Result<Self, StartError> {
        let limits: QueryDeviceRsp = admin.execute(Opcode::QUERY_DEVICE, &())?;
        let vectors = platform.vectors().max(1);
        // Vector 0 is the admin queue's, 1 the asynchronous events'; what is left serves completions. With fewer, they
        // share: every vector's interrupt looks at every event queue that has it.
        let completion = vectors.saturating_sub(2).clamp(1, MAX_COMPLETION_VECTORS);
        let completion = completion
            .min(limits.max_eq.saturating_sub(1).min(u32::from(u16::MAX)) as u16)
            .max(1);
        let mut events = Vec::new();
        events.push(EventRing::create(platform, &admin, 1.min(vectors - 1), true)?)?;
        for n in 0..completion {
            events.push(EventRing::create(platform, &admin, (2 + n).min(vectors - 1), false)?)?;
        }
        let caps = platform.read64(regs::CAPS);
        let large_pages = caps & regs::CAP_LARGE_PAGES != 0;
        let links = caps & regs::CAP_ADMIN_LINK != 0;
        let objects = Mutex::try_new(Numbers::new(), c"verbena_objects")?;
        let hardware = Hardware {
            platform: platform.clone(),
            admin,
            limits,
            large_pages,
            links,
            counters: caps & regs::CAP_COMPLETION_COUNTER != 0,
            packed_rings: caps & regs::CAP_PACKED_RINGS != 0,
            events,
            gsi: Late::try_new()?,
            cm: Late::try_new()?,
            mads: Mutex::try_new(Vec::new(), c"verbena_mads")?,
            mad_numbers: AtomicU32::new(1),
            work: AtomicBool::new(false),
            due: Due::try_new()?,
            objects,
            node_ids: Mutex::try_new(Numbers::new(), c"verbena_node_ids")?,
            targets: Mutex::try_new(Numbers::new(), c"verbena_targets")?,
            xrcds: Mutex::try_new(Vec::new(), c"verbena_xrcds")?,
        };
        for ring in hardware.events.iter() {
            ring.arm(platform);
        }
        Ok(hardware)
    }

    /// Executes a command.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub(crate) fn command<Req, Rsp>(&self, opcode: Opcode, request: &Req) -> Result<Rsp, CommandError>
    where
        Req: IntoBytes + Immutable,
        Rsp: FromBytes + IntoBytes,
    {
        self.admin.execute(opcode, request)
    }

    /// Calls `each` with the first `count` entries of the port's GID table, which has so many.
    ///
    /// # Errors
    ///
    /// [`CommandError`], or what `each` says.
    pub(crate) fn gids(&self, count: u32, mut each: impl FnMut(u32, &Gid) -> Outcome) -> Outcome {
        let request = |index| QueryGidReq { index, reserved: 0 };
        let each = |index, entry: &QueryGidRsp| each(index, &entry.gid);
        self.admin.execute_all(Opcode::QUERY_GID, count, request, each)
    }

    /// Where it runs.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Completion vectors.
    pub fn completion_vectors(&self) -> u32 {
        self.events.len() as u32 - 1
    }

    /// Whether the device is gone or counts as dead: nothing but closing is left to do.
    pub fn is_gone(&self) -> bool {
        self.admin.is_dead()
    }

    /// The device is gone (hot removal, its process died): every command that waits ends, every later one fails at
    /// once. What must happen before [`crate::remove`].
    pub fn gone(&self) {
        self.admin.die();
    }

    /// The orderly end, when all contexts are closed and before interrupts, registers and DMA are taken away: the
    /// device is reset and touches memory no more.
    pub fn stop(&self) {
        self.admin.die();
    }
}

fn identify<P: Platform>(platform: &P) -> Result<(), StartError> {
    let magic = platform.read32(regs::MAGIC);
    if magic == u32::MAX {
        return Err(StartError::Gone);
    }
    if magic != regs::MAGIC_VALUE {
        return Err(StartError::NotVerbena(magic));
    }
    let version = platform.read32(regs::VERSION);
    if version >> 16 != u32::from(regs::VERSION_MAJOR) {
        return Err(StartError::Version(version));
    }
    Ok(())
}

fn reset<P: Platform>(platform: &P) -> Result<(), StartError> {
    platform.write32(regs::CTRL, regs::CTRL_RESET);
    let status = platform.read32(regs::STATUS);
    if status == u32::MAX || status & regs::STATUS_READY == 0 || status & regs::STATUS_FATAL != 0 {
        return Err(StartError::Gone);
    }
    Ok(())
}

/// Lets the device read a number that it cannot know, and write its complement: a VMM that does not share guest memory
/// hands the device a private copy, in which it would read zeros and whose changes nobody would ever see.
fn probe_memory<P: Platform>(platform: &P) -> Result<(), StartError> {
    let page = platform.alloc_dma(PAGE as usize)?;
    // Any odd constant scatters clock and address over all bits; zero and all ones, which memory that is not there
    // reads as, are excluded.
    let nonce = (platform.now() ^ page.addr()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let nonce = if nonce == u64::MAX { 1 } else { nonce };
    page.words()[0].store(nonce, Ordering::Relaxed);
    page.words()[1].store(nonce, Ordering::Relaxed);
    // The register write orders the stores before it.
    platform.write64(regs::PROBE_ADDR, page.addr());
    match platform.read32(regs::PROBE_STATUS) {
        regs::PROBE_DONE => {}
        u32::MAX => return Err(StartError::Gone),
        _ => return Err(StartError::MemoryUnreachable(page.addr())),
    }
    // Acquire is for the compiler: the register read before has waited for the device's write.
    let written = page.words()[1].load(Ordering::Acquire);
    if platform.read64(regs::PROBE_VALUE) != nonce || written != !nonce {
        return Err(StartError::MemoryNotShared);
    }
    Ok(())
}
