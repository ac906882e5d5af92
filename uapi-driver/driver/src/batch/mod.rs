// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many calls in one: a batch builder over the object model's chains (INTERFACE EXECUTE).
//!
//! Commands are added and get a [`Ticket`] each; a later command may name by its ticket what an earlier one will have
//! made. [`Batch::run`] sends them, as many as fit in one system call, and [`Done`] exchanges tickets for what they stand
//! for, or for what went wrong.
//!
//! ```no_run
//! use verbena::{Batch, CompletionQueue, ConnectOptions, Context, OnFailure, RcQp};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let context = Context::open(&"kernel".parse()?)?;
//! // A protection domain, a completion queue, a thousand queue pairs: one call, all of it or nothing.
//! let mut batch = Batch::new(&context);
//! let pd = batch.alloc_pd();
//! let cq = batch.create_cq(CompletionQueue::builder(&context).entries(4096));
//! let tickets: Vec<_> = (0..1000)
//!     .map(|_| batch.create_qp(RcQp::batched(pd, cq, cq).send_depth(16).recv_depth(16)))
//!     .collect();
//! let mut done = batch.run(OnFailure::Undo)?;
//! let mut qps = tickets.into_iter().map(|ticket| done.take(ticket)).collect::<Result<Vec<_>, _>>()?;
//!
//! // Connected to each other in pairs, again in one call.
//! let gid = context.gid(1, 0)?;
//! let options = ConnectOptions::default();
//! let mut batch = Batch::new(&context);
//! for pair in qps.chunks_exact_mut(2) {
//!     let (left, right) = pair.split_at_mut(1);
//!     let (to_left, to_right) = (left[0].endpoint_with(gid), right[0].endpoint_with(gid));
//!     batch.connect(&mut left[0], &to_right, &options)?;
//!     batch.connect(&mut right[0], &to_left, &options)?;
//! }
//! batch.run(OnFailure::Stop)?.all()?;
//! # Ok(())
//! # }
//! ```

mod command;
mod memory;
mod send;
mod ticket;

use self::command::{Command, Target};
pub use self::ticket::{Done, InBatch, Part, Ticket};
use crate::counter::CounterChoice;
use crate::cq::CqBuilder;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::pd::Registration;
use crate::qp::{AnyQp, Known, Qp, QpAttr, QpBuilder, Transport};
use crate::{
    Access, Buffer, CompletionCounter, CompletionQueue, ConnectOptions, Context, EventQueue, MemoryRegion,
    ProtectionDomain, XrcDomain, XrcTarget, XrcTargetBuilder,
};
use rdma_uapi::class;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use verbena_hw::id::Psn;
use verbena_hw::qp::QpState;

/// What happens to the rest of a batch when a command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The rest is not executed (ECANCELED); what was executed stays.
    Stop,
    /// The rest is executed; what names something that is not there fails in its turn.
    Continue,
    /// The rest is not executed, what was executed is undone, and [`Batch::run`] fails. Only for batches that could be
    /// undone: they make things and change only what they make; and of at most
    /// [`MAX_COMMANDS`](rdma_uapi::class::interface::MAX_COMMANDS) commands.
    Undo,
}

/// Commands to be sent together.
///
/// Nothing reaches the device before [`Batch::run`]; a batch that is dropped does nothing.
#[must_use = "a batch does nothing until it is run"]
pub struct Batch<'a> {
    context: Context,
    serial: u64,
    commands: Vec<Command<'a>>,
    /// Queue pairs that are there already and that commands change, each once.
    targets: Vec<&'a mut dyn AnyQp>,
    /// The state that the last command which moves a queue pair moves it to, for those that the batch makes. (Any other is
    /// a target once, so a command that changes it is the first.)
    moved: HashMap<usize, QpState>,
    known: Known,
}

impl<'a> Batch<'a> {
    /// An empty one.
    pub fn new(context: &Context) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            context: context.clone(),
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            commands: Vec::new(),
            targets: Vec::new(),
            moved: HashMap::new(),
            known: Known::default(),
        }
    }

    /// Commands in it.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    fn add<T>(&mut self, command: Command<'a>) -> Ticket<T> {
        self.commands.push(command);
        Ticket::new(self.serial, self.commands.len() - 1, 1)
    }

    /// Makes a protection domain.
    pub fn alloc_pd(&mut self) -> Ticket<ProtectionDomain> {
        self.add(Command::Pd)
    }

    /// Makes a completion queue.
    pub fn create_cq(&mut self, builder: CqBuilder<'a>) -> Ticket<CompletionQueue> {
        self.add(Command::Cq(builder))
    }

    /// Makes a queue pair of any type. [`Qp::batched`] begins one that stands on what this batch makes.
    pub fn create_qp<When, T: Transport>(&mut self, builder: QpBuilder<'a, When, T>) -> Ticket<Qp<T>> {
        self.add(Command::Qp(Box::new(builder.for_batch()), None))
    }

    /// Makes a completion counter, as [`CompletionCounter::new`] does.
    pub fn create_counter(
        &mut self,
        queue_pairs: u32,
        events: Option<(&'a EventQueue, u64)>,
    ) -> Ticket<CompletionCounter> {
        self.add(Command::Counter(CounterChoice { queue_pairs, events }))
    }

    /// Makes an XRC domain that nobody else can have.
    pub fn create_xrcd(&mut self) -> Ticket<XrcDomain> {
        self.add(Command::Xrcd)
    }

    /// Makes an XRC target. [`XrcTarget::batched`] begins one of a domain that this batch makes.
    pub fn create_xrc_target<When>(&mut self, builder: XrcTargetBuilder<'a, When>) -> Ticket<XrcTarget> {
        self.add(Command::Target(builder.for_batch()))
    }

    /// Registers all of `buffer`, as [`ProtectionDomain::register`] does.
    pub fn register(
        &mut self,
        pd: impl Into<Part<'a, ProtectionDomain>>,
        buffer: &Buffer,
        access: Access,
    ) -> Ticket<MemoryRegion> {
        let memory = Registration {
            addr: buffer.addr(),
            len: buffer.len() as u64,
            iova: None,
            access,
            buffer: Some(buffer.clone()),
        };
        self.add(Command::Mr(pd.into(), memory))
    }

    /// Changes a queue pair's attributes, and moves it to another state if one is given. The queue pair is one that is
    /// there, or one that this batch makes.
    ///
    /// # Errors
    ///
    /// RESET is asked for: see [`Qp::reset`].
    pub fn modify(&mut self, qp: impl Into<QpPart<'a>>, attributes: QpAttr) -> Result<Ticket<()>> {
        if attributes.state == Some(QpState::RESET) {
            return Err(Error::Argument(
                "a queue pair goes to RESET by `reset`, which takes its completion queues along",
            ));
        }
        let qp = qp.into();
        let class = qp.class;
        let target = self.target(qp);
        Ok(self.add_modify(target, class, attributes))
    }

    /// Connects a queue pair to `peer`: from RESET or INIT to RTS. What `options` leave to the device it is asked once
    /// for the whole batch, not once a queue pair. One that the batch makes sends its first packet with PSN 0, unless
    /// [`QpBuilder::attributes`] have another.
    ///
    /// # Errors
    ///
    /// There is no such port; the device is gone; the queue pair's type is not connected (datagrams, raw Ethernet).
    pub fn connect(
        &mut self,
        qp: impl Into<QpPart<'a>>,
        peer: &Endpoint,
        options: &ConnectOptions,
    ) -> Result<Ticket<()>> {
        let connection = options.resolve(&self.context, &mut self.known)?;
        let qp = qp.into();
        let class = qp.class;
        let target = self.target(qp);
        let (state, psn) = self.expected(target);
        let attributes = connection.of_class(class, state, peer, psn);
        let attributes = attributes.ok_or(Error::Argument("a queue pair of this type has no peer"))?;
        Ok(self.add_modify(target, class, attributes))
    }

    fn add_modify(&mut self, target: Target, class: u16, attributes: QpAttr) -> Ticket<()> {
        if let (Target::New(n), Some(state)) = (target, attributes.state) {
            self.moved.insert(n, state);
        }
        self.add(Command::Modify(target, class, attributes))
    }

    /// Destroys a queue pair, completion queue or counter, protection domain, memory region or XRC domain. If that fails it is dropped after the batch,
    /// which tries again on its own.
    pub fn destroy(&mut self, object: impl Into<Owned>) -> Ticket<()> {
        self.add(Command::Destroy(object.into()))
    }

    fn target(&mut self, qp: QpPart<'a>) -> Target {
        match qp.part {
            QpParts::New { batch, command } => {
                assert_eq!(batch, self.serial, "a ticket is good only for the batch that gave it");
                Target::New(command)
            }
            QpParts::Made(qp) => {
                self.targets.push(qp);
                Target::Made(self.targets.len() - 1)
            }
        }
    }

    /// State and first PSN of a queue pair when the commands so far have been executed.
    fn expected(&self, target: Target) -> (QpState, Psn) {
        match target {
            Target::Made(n) => (self.targets[n].state(), self.targets[n].first_psn()),
            Target::New(n) => match &self.commands[n] {
                Command::Qp(builder, _) => {
                    let moved = self.moved.get(&n).copied();
                    let psn = builder.first_psn().unwrap_or(Psn::truncate(0));
                    (moved.unwrap_or_else(|| builder.state()), psn)
                }
                Command::Target(builder) => {
                    let moved = self.moved.get(&n).copied();
                    let psn = builder.first_psn().unwrap_or(Psn::truncate(0));
                    (moved.unwrap_or_else(|| builder.state()), psn)
                }
                _ => unreachable!("the ticket is a queue pair's"),
            },
        }
    }

    /// Sends the commands: as many as a chain holds in one system call, so almost always one. Beside it a batch that
    /// makes queues maps their memory, half a megabyte of rings a call (a queue of more than 128 KiB, or a single one, by
    /// itself), and a context's first queue pair maps a doorbell page.
    ///
    /// # Errors
    ///
    /// The call itself failed: the device is gone, there is no memory. With [`OnFailure::Undo`] also what the command
    /// said that failed ([`Error::Undone`]).
    pub fn run(self, on_failure: OnFailure) -> Result<Done> {
        send::run(self, on_failure)
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} commands)", self.len())
    }
}

/// A queue pair for [`Batch::modify`] and [`Batch::connect`]: `&mut` one that is there, or the ticket of one that the batch makes.
pub struct QpPart<'a> {
    part: QpParts<'a>,
    class: u16,
}

enum QpParts<'a> {
    Made(&'a mut dyn AnyQp),
    New { batch: u64, command: usize },
}

impl<'a, T: Transport> From<&'a mut Qp<T>> for QpPart<'a> {
    fn from(qp: &'a mut Qp<T>) -> Self {
        QpPart {
            part: QpParts::Made(qp),
            class: T::CLASS,
        }
    }
}

impl<T: Transport> From<Ticket<Qp<T>>> for QpPart<'_> {
    fn from(ticket: Ticket<Qp<T>>) -> Self {
        QpPart {
            part: QpParts::New {
                batch: ticket.batch(),
                command: ticket.command(),
            },
            class: T::CLASS,
        }
    }
}

impl<'a> From<&'a mut XrcTarget> for QpPart<'a> {
    fn from(target: &'a mut XrcTarget) -> Self {
        QpPart {
            part: QpParts::Made(target),
            class: class::QP_XRC_TGT,
        }
    }
}

impl From<Ticket<XrcTarget>> for QpPart<'_> {
    fn from(ticket: Ticket<XrcTarget>) -> Self {
        QpPart {
            part: QpParts::New {
                batch: ticket.batch(),
                command: ticket.command(),
            },
            class: class::QP_XRC_TGT,
        }
    }
}

/// Something that can be destroyed.
pub struct Owned(pub(self) ticket::Made);

impl<T: Transport> From<Qp<T>> for Owned {
    fn from(qp: Qp<T>) -> Self {
        Owned(ticket::Made::Qp(Box::new(qp)))
    }
}

impl From<XrcTarget> for Owned {
    fn from(target: XrcTarget) -> Self {
        Owned(ticket::Made::Qp(Box::new(target)))
    }
}

impl From<XrcDomain> for Owned {
    fn from(domain: XrcDomain) -> Self {
        Owned(ticket::Made::Xrcd(domain))
    }
}

impl From<CompletionCounter> for Owned {
    fn from(counter: CompletionCounter) -> Self {
        Owned(ticket::Made::Counter(Box::new(counter)))
    }
}

impl From<CompletionQueue> for Owned {
    fn from(cq: CompletionQueue) -> Self {
        Owned(ticket::Made::Cq(Box::new(cq)))
    }
}

impl From<ProtectionDomain> for Owned {
    fn from(pd: ProtectionDomain) -> Self {
        Owned(ticket::Made::Pd(pd))
    }
}

impl From<MemoryRegion> for Owned {
    fn from(mr: MemoryRegion) -> Self {
        Owned(ticket::Made::Mr(Box::new(mr)))
    }
}
