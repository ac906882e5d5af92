// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMA verbs on a Verbena HCA, for applications.
//!
//! A [`Context`] is an open device, reached through the kernel module in a guest or directly through the device's
//! vfio-user socket without one ([`Attachment`]): the same objects, the same messages, the same `verbena-core` behind
//! them. On it are made [`ProtectionDomain`]s with [`MemoryRegion`]s, [`CompletionQueue`]s, queue pairs ([`RcQp`],
//! [`UcQp`], [`UdQp`], [`RawQp`]), [`SharedReceiveQueue`]s and [`EventQueue`]s.
//!
//! The control path is the ioctl object model (`rdma-uapi`). The data path is memory that the application and the device
//! share: posting writes an entry into a ring and sets a bit, polling reads an entry where the device wrote it. Neither
//! makes a system call, takes a lock or allocates.
//!
//! ```no_run
//! use std::time::Duration;
//! use verbena::{Access, Attachment, Context, RcQp, RecvWr, SendWr};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = Context::open(&"kernel".parse::<Attachment>()?)?;
//! let pd = context.alloc_pd()?;
//! let buffer = context.alloc_buffer(4096)?;
//! let region = pd.register(&buffer, Access::LOCAL_WRITE)?;
//! let mut cq = context.create_cq(64)?;
//! let mut left = RcQp::builder(&pd, &cq, &cq).build()?;
//! let mut right = RcQp::builder(&pd, &cq, &cq).build()?;
//! left.connect(&right.endpoint()?)?;
//! right.connect(&left.endpoint()?)?;
//!
//! buffer.write_at(0, b"hello");
//! right.post_recv(&RecvWr::new(&[region.sge(2048..)]).wr_id(1))?;
//! left.post_send(&SendWr::send().sges(&[region.sge(..5)]).wr_id(2).signaled())?;
//! for _ in 0..2 {
//!     let completion = cq.poll_timeout(Duration::from_secs(1))?.ok_or("nothing arrived")?;
//!     completion.ok()?;
//! }
//! assert_eq!(buffer.to_vec(2048, 5), b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! This room may know the object model, the hardware's formats and how to reach a device. `unsafe` is in `memory`
//! (mappings), `ring::memory` (entries of rings), `attach` (ioctl, copies between address spaces), where a mapping is
//! seen as one of the hardware's shared structures, and in the two calls whose contract is the caller's to keep.

#![warn(missing_docs)]

mod attach;
mod attachment;
mod batch;
mod cm;
mod context;
mod counter;
mod counter_set;
mod cq;
mod device_list;
mod doorbell;
mod endpoint;
mod error;
mod event;
mod fast;
mod flow;
mod interface;
mod mad;
mod memory;
mod mw;
mod null;
mod object;
mod pd;
mod qp;
mod ring;
mod srq;
mod tracer;
mod xrcd;

pub use attachment::{Attachment, AttachmentError, DEFAULT_NODE, DEFAULT_SYSTEM_NODE};
pub use batch::{Batch, Done, InBatch, OnFailure, Owned, Part, QpPart, Ticket};
pub use cm::{cm_params, CmAddr, CmId, CmInfo, CmOptions, ConnectError, Connection, Incoming, Listener, VerbsQp};
pub use context::{Context, DeviceAttrs, ObjectInfo, PortInfo};
pub use counter::CompletionCounter;
pub use counter_set::CounterSet;
pub use cq::{CompletionQueue, CqBuilder, Moderation};
pub use device_list::{devices, DeviceList, ListedDevice};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{CallError, Error, Result};
pub use event::{Event, EventKind, EventQueue};
pub use fast::{ElementList, FastRegion};
pub use flow::{DropRule, Flow, FlowCounts};
pub use interface::{AttrListing, ClassListing, Interface, MethodListing};
pub use mad::{Mad, MadClient, MadOptions, MadStatus, MadTo};
pub use memory::Buffer;
pub use mw::{MemoryWindow, WindowType};
pub use null::NullRegion;
pub use pd::{Access, MemoryRegion, ProtectionDomain, Reregistration};
pub use qp::{
    path_to, AddressError, AddressHandle, Batched, CheckedAddress, ConnectOptions, Connected, Destination, Plain, Qp,
    QpAttr, QpBuilder, QpInfo, Raw, RawQp, Rc, RcQp, RuleId, SendBatch, Standing, Transport, Uc, UcQp, Ud, UdQp,
    XrcIni, XrcInitiator, XrcTarget, XrcTargetBuilder, GRH_LEN,
};
pub use ring::complete::{ArmKind, Completion, WorkCompletion, WorkError};
pub use ring::work::{PostError, RecvWr, Remote, SendWr};
pub use srq::{SharedReceiveQueue, SrqBuilder};
pub use tracer::{TraceOptions, Traced, Tracer};
pub use xrcd::{OpenXrc, XrcDomain};

pub use rdma_uapi::class::cm_id::{state as cm_state, CmParams};
pub use rdma_uapi::class::flow::FlowFields;
pub use rdma_uapi::class::pd::PdMembers;
pub use rdma_uapi::class::qp::{Path, QpCaps};
pub use rdma_uapi::class::xrcd::XrcdMembers;
pub use rdma_uapi::{Errno, Failure, Reason};
pub use verbena_core::schema::{DoorbellUse, EventRingState};
pub use verbena_hw::cqe::{Opcode as WcOpcode, Status as WcStatus};
pub use verbena_hw::id::{Gid, Key, Psn, Qpn};
pub use verbena_hw::qp::QpState;
pub use verbena_hw::wqe::Sge;
