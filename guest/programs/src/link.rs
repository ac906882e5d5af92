// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue pair with everything that it stands on, and how two of them meet.

use crate::harness::Wire;
use anyhow::{anyhow, bail, Context as _, Result};
use serde::{Deserialize, Serialize};
use std::ops::Deref;
use std::time::Duration;
use verbena::{
    Access, Buffer, CompletionQueue, ConnectOptions, Context, Endpoint, MemoryRegion, ProtectionDomain, RcQp, Remote,
    WorkCompletion,
};

/// Nothing that ends well takes longer, even in a guest without hardware virtualisation on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// What a [`Link`] is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Work requests on the send queue.
    pub send_depth: u32,
    /// Work requests on the receive queue.
    pub recv_depth: u32,
    /// Scatter/gather elements of a work request.
    pub max_sge: u32,
    /// Inline data of a send, bytes.
    pub max_inline: u32,
    /// Entries of each completion queue.
    pub entries: u32,
    /// Whether every send makes a completion.
    pub signal_all: bool,
    /// How it is connected.
    pub connect: ConnectOptions,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            send_depth: 64,
            recv_depth: 64,
            max_sge: 4,
            max_inline: 32,
            entries: 256,
            signal_all: false,
            connect: ConnectOptions::default(),
        }
    }
}

/// Memory with its registration.
pub struct Region {
    mr: MemoryRegion,
    buffer: Buffer,
}

impl Region {
    /// `len` bytes of new memory, registered.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn new(pd: &ProtectionDomain, len: usize, access: Access) -> Result<Self> {
        let buffer = pd.context().alloc_buffer(len)?;
        Ok(Self {
            mr: pd.register(&buffer, access)?,
            buffer,
        })
    }

    /// All of the memory.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The registration alone.
    pub fn into_registration(self) -> MemoryRegion {
        self.mr
    }
}

impl Deref for Region {
    type Target = MemoryRegion;

    fn deref(&self) -> &MemoryRegion {
        &self.mr
    }
}

/// A reliable connected queue pair with a completion queue for each direction.
pub struct Link {
    /// The queue pair.
    pub qp: RcQp,
    /// Where its sends complete.
    pub send_cq: CompletionQueue,
    /// Where its receives complete.
    pub recv_cq: CompletionQueue,
    /// What its memory is registered in.
    pub pd: ProtectionDomain,
    /// The device.
    pub ctx: Context,
}

/// What a peer must know of memory to reach it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Window {
    addr: u64,
    rkey: u32,
}

impl From<Remote> for Window {
    fn from(remote: Remote) -> Self {
        Self {
            addr: remote.addr,
            rkey: remote.rkey,
        }
    }
}

impl Window {
    /// From the byte at `offset` of `region` on.
    pub fn of(region: &MemoryRegion, offset: usize) -> Self {
        region.remote(offset).into()
    }

    /// As work requests want it, `bytes` further on.
    pub fn at(self, bytes: usize) -> Remote {
        Remote {
            addr: self.addr,
            rkey: self.rkey,
        }
        .offset(bytes as u64)
    }
}

impl Link {
    /// Not connected yet.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn new(ctx: &Context, spec: &Spec) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        Self::in_domain(ctx, pd, spec)
    }

    /// Not connected yet, in a protection domain that is there already.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn in_domain(ctx: &Context, pd: ProtectionDomain, spec: &Spec) -> Result<Self> {
        let send_cq = ctx.create_cq(spec.entries)?;
        let recv_cq = ctx.create_cq(spec.entries)?;
        let qp = RcQp::builder(&pd, &send_cq, &recv_cq)
            .send_depth(spec.send_depth)
            .recv_depth(spec.recv_depth)
            .max_sge(spec.max_sge)
            .max_inline(spec.max_inline)
            .signal_all(spec.signal_all)
            .build()?;
        Ok(Self {
            qp,
            send_cq,
            recv_cq,
            pd,
            ctx: ctx.clone(),
        })
    }

    /// Connected with the one that the other side of the wire makes in the same way.
    ///
    /// # Errors
    ///
    /// What the device refuses, or the other side's absence.
    pub fn meet(ctx: &Context, wire: &mut Wire, spec: &Spec) -> Result<Self> {
        let mut link = Self::new(ctx, spec)?;
        link.connect_over(wire, spec)?;
        Ok(link)
    }

    /// Tells the other side where this is, connects with what the other tells, and waits until it has done so too.
    ///
    /// # Errors
    ///
    /// What the device refuses, or the other side's absence.
    pub fn connect_over(&mut self, wire: &mut Wire, spec: &Spec) -> Result<()> {
        let there: String = wire.exchange(&self.qp.endpoint()?.to_string())?;
        self.qp.connect_with(&there.parse::<Endpoint>()?, &spec.connect)?;
        wire.barrier("connected")
    }

    /// Two of them, connected with each other.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn pair(left: &Context, right: &Context, spec: &Spec) -> Result<(Self, Self)> {
        let (mut a, mut b) = (Self::new(left, spec)?, Self::new(right, spec)?);
        Self::join(&mut a, &mut b, spec)?;
        Ok((a, b))
    }

    /// Connects two that are in this process.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn join(a: &mut Self, b: &mut Self, spec: &Spec) -> Result<()> {
        let (here, there) = (a.qp.endpoint()?, b.qp.endpoint()?);
        a.qp.connect_with(&there, &spec.connect)?;
        b.qp.connect_with(&here, &spec.connect)?;
        Ok(())
    }

    /// `len` bytes of new memory, registered.
    ///
    /// # Errors
    ///
    /// What the device refuses.
    pub fn region(&self, len: usize, access: Access) -> Result<Region> {
        Region::new(&self.pd, len, access)
    }

    /// The next completion of a send, whatever its status.
    ///
    /// # Errors
    ///
    /// If there is none [`SOON`].
    pub fn sent(&mut self) -> Result<WorkCompletion> {
        next(&mut self.send_cq).context("waiting for the completion of a send")
    }

    /// The next completion of a receive, whatever its status.
    ///
    /// # Errors
    ///
    /// If there is none [`SOON`].
    pub fn received(&mut self) -> Result<WorkCompletion> {
        next(&mut self.recv_cq).context("waiting for the completion of a receive")
    }

    /// The next completion of a send, which must have succeeded.
    ///
    /// # Errors
    ///
    /// If there is none [`SOON`], or it is an error.
    pub fn sent_well(&mut self) -> Result<WorkCompletion> {
        good(self.sent()?)
    }

    /// The next completion of a receive, which must have succeeded.
    ///
    /// # Errors
    ///
    /// If there is none [`SOON`], or it is an error.
    pub fn received_well(&mut self) -> Result<WorkCompletion> {
        good(self.received()?)
    }
}

/// The next completion of `cq`, whatever its status.
///
/// # Errors
///
/// If there is none [`SOON`].
pub fn next(cq: &mut CompletionQueue) -> Result<WorkCompletion> {
    cq.poll_timeout(SOON)?
        .ok_or_else(|| anyhow!("no completion within {} s", SOON.as_secs()))
}

/// `completion` if it is a success.
///
/// # Errors
///
/// Its status otherwise.
pub fn good(completion: WorkCompletion) -> Result<WorkCompletion> {
    if !completion.is_success() {
        bail!(
            "work request {:#x} of queue pair {:#x} ended with {} (reason {})",
            completion.wr_id,
            completion.qpn,
            completion.status,
            completion.vendor_err
        );
    }
    Ok(completion)
}
