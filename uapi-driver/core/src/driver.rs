// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Verbena as a driver of the object model: the table of its classes, and what it keeps for an object.

use crate::ah::Ah;
use crate::begun::{self, Chain, Pending};
use crate::cm_id::CmId;
use crate::counter_set::CounterSet;
use crate::cq::Cq;
use crate::doorbell::Doorbell;
use crate::flow::Flow;
use crate::hardware::Hardware;
use crate::mad::{self, Client};
use crate::mcast::Membership;
use crate::mr::Mr;
use crate::mw::Mw;
use crate::numbers::Numbers;
use crate::pd::Pd;
use crate::platform::{Dma, Platform};
use crate::qp::Qp;
use crate::ring_memory::{self, RingMemory, Stretch};
use crate::srq::Srq;
use crate::xrc_target::{self, Target};
use crate::xrcd::{self, Xrcd};
use crate::{
    ah, cm_id, counter, counter_set, cq, device, doorbell, flow, mcast, mr, mw, pd, qp, schema, srq, CommandError,
    Device,
};
use core::marker::PhantomData;
use rdma_uapi::class;
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::{Access, AttrSchema};
use rdma_uapi::sys::Arc;
use rdma_uapi::table::{Additions, ClassOps, Extension};
use rdma_uapi::wire::{method, DriverId};
use rdma_uapi::{Call, Cause, Driver, Ending, Failure, Memory, Object, ObjectRef, Reservation};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::HandleReq;
use zerocopy::{Immutable, IntoBytes};

/// The driver.
pub struct Verbena<P: Platform>(PhantomData<fn() -> P>);

/// What accompanies CREATE of a class of queue pairs.
const NEW_QP: &[AttrSchema] = &[
    schema::DOORBELL.required(),
    schema::CQE_COOKIE.input(),
    schema::QP_RINGS.output(),
    schema::RING_MEMORY.input(),
];
/// What accompanies its QUERY.
const QP: &[AttrSchema] = &[schema::QP_RINGS.output()];

/// What accompanies CREATE of a completion queue or counter.
const NEW_CQ: &[AttrSchema] = &[schema::CQ_RING.output(), schema::RING_MEMORY.input()];
/// What accompanies its other methods that have a ring to tell of.
const CQ: &[AttrSchema] = &[schema::CQ_RING.output()];

/// What accompanies CREATE of a shared receive queue.
const NEW_SRQ: &[AttrSchema] = &[
    schema::SRQ_RING.output(),
    schema::RING_MEMORY.input(),
    schema::CQE_COOKIE.input(),
];
/// What accompanies its other methods that have a ring to tell of.
const SRQ: &[AttrSchema] = &[schema::SRQ_RING.output()];

const fn extension(class: u16, method: u8, attrs: &'static [AttrSchema]) -> Extension {
    Extension { class, method, attrs }
}

/// What Verbena keeps for an object.
pub enum Payload<P: Platform> {
    /// A protection domain.
    Pd(Pd),
    /// A memory region.
    Mr(Mr<P>),
    /// A memory window.
    Mw(Mw),
    /// A completion queue, or a completion counter.
    Cq(Cq<P>),
    /// A shared receive queue.
    Srq(Srq<P>),
    /// A queue pair.
    Qp(Qp<P>),
    /// An XRC target.
    Target(Target),
    /// A part in an XRC domain.
    Xrcd(Xrcd),
    /// An address handle.
    Ah(Ah),
    /// A membership in a multicast group.
    Mcast(Membership),
    /// A flow rule.
    Flow(Flow),
    /// A counter set.
    CounterSet(CounterSet),
    /// A client of a management class.
    Mad(Arc<Client>),
    /// A communication id.
    CmId(Arc<CmId<P>>),
    /// A doorbell page.
    Doorbell(Arc<Doorbell<P>>),
    /// Pages for rings.
    RingMemory(Arc<RingMemory<P>>),
}

impl<P: Platform> Payload<P> {
    /// What the device returns in the object's events.
    pub(crate) fn cookie(&self) -> u64 {
        match self {
            Payload::Qp(qp) => qp.cookie,
            Payload::Srq(srq) => srq.cookie,
            _ => 0,
        }
    }
}

impl<P: Platform> Driver for Verbena<P> {
    const ID: DriverId = schema::ID;
    const NAME: &'static str = "verbena";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[
            ClassOps {
                schema: &class::device::SCHEMA,
                methods: &[(method::QUERY, device::query::<P>)],
                release: None,
            },
            ClassOps {
                schema: &class::port::SCHEMA,
                methods: &[
                    (method::QUERY, device::query_port::<P>),
                    (method::MODIFY, device::modify_port::<P>),
                ],
                release: None,
            },
            ClassOps {
                schema: &class::pd::SCHEMA,
                methods: &[(method::CREATE, pd::create::<P>), (method::QUERY, pd::query::<P>)],
                release: Some(pd::release::<P>),
            },
            ClassOps {
                schema: &class::mr::SCHEMA,
                methods: &[
                    (method::CREATE, mr::create::<P>),
                    (method::QUERY, mr::query::<P>),
                    (method::MODIFY, mr::modify::<P>),
                ],
                release: Some(mr::release::<P>),
            },
            ClassOps {
                schema: &class::mw::SCHEMA,
                methods: &[
                    (method::CREATE, mw::create::<P>),
                    (method::QUERY, mw::query::<P>),
                    (method::MODIFY, mw::modify::<P>),
                ],
                release: Some(mw::release::<P>),
            },
            ClassOps {
                schema: &class::cq::SCHEMA,
                methods: &[
                    (method::CREATE, cq::create::<P>),
                    (method::QUERY, cq::query::<P>),
                    (method::MODIFY, cq::modify::<P>),
                ],
                release: Some(cq::release::<P>),
            },
            ClassOps {
                schema: &class::counter::SCHEMA,
                methods: &[
                    (method::CREATE, counter::create::<P>),
                    (method::QUERY, counter::query::<P>),
                ],
                release: Some(cq::release::<P>),
            },
            ClassOps {
                schema: &class::srq::SCHEMA,
                methods: &[
                    (method::CREATE, srq::create::<P>),
                    (method::QUERY, srq::query::<P>),
                    (method::MODIFY, srq::modify::<P>),
                ],
                release: Some(srq::release::<P>),
            },
            ClassOps {
                schema: &class::qp::RC,
                methods: &[
                    (method::CREATE, qp::create::<P>),
                    (method::QUERY, qp::query::<P>),
                    (method::MODIFY, qp::modify::<P>),
                ],
                release: Some(qp::release::<P>),
            },
            ClassOps {
                schema: &class::qp::UC,
                methods: &[
                    (method::CREATE, qp::create::<P>),
                    (method::QUERY, qp::query::<P>),
                    (method::MODIFY, qp::modify::<P>),
                ],
                release: Some(qp::release::<P>),
            },
            ClassOps {
                schema: &class::qp::UD,
                methods: &[
                    (method::CREATE, qp::create::<P>),
                    (method::QUERY, qp::query::<P>),
                    (method::MODIFY, qp::modify::<P>),
                ],
                release: Some(qp::release::<P>),
            },
            ClassOps {
                schema: &class::qp::RAW,
                methods: &[
                    (method::CREATE, qp::create::<P>),
                    (method::QUERY, qp::query::<P>),
                    (method::MODIFY, qp::modify::<P>),
                ],
                release: Some(qp::release::<P>),
            },
            ClassOps {
                schema: &class::qp::XRC_INI,
                methods: &[
                    (method::CREATE, qp::create::<P>),
                    (method::QUERY, qp::query::<P>),
                    (method::MODIFY, qp::modify::<P>),
                ],
                release: Some(qp::release::<P>),
            },
            ClassOps {
                schema: &class::qp::XRC_TGT,
                methods: &[
                    (method::CREATE, xrc_target::create::<P>),
                    (method::QUERY, xrc_target::query::<P>),
                    (method::MODIFY, xrc_target::modify::<P>),
                ],
                release: Some(xrc_target::release::<P>),
            },
            ClassOps {
                schema: &class::xrcd::SCHEMA,
                methods: &[(method::CREATE, xrcd::create::<P>), (method::QUERY, xrcd::query::<P>)],
                release: Some(xrcd::release::<P>),
            },
            ClassOps {
                schema: &class::ah::SCHEMA,
                methods: &[(method::CREATE, ah::create::<P>), (method::QUERY, ah::query::<P>)],
                release: Some(ah::release::<P>),
            },
            ClassOps {
                schema: &class::mcast::SCHEMA,
                methods: &[(method::CREATE, mcast::create::<P>), (method::QUERY, mcast::query::<P>)],
                release: Some(mcast::release::<P>),
            },
            ClassOps {
                schema: &class::flow::SCHEMA,
                methods: &[(method::CREATE, flow::create::<P>), (method::QUERY, flow::query::<P>)],
                release: Some(flow::release::<P>),
            },
            ClassOps {
                schema: &class::counter_set::SCHEMA,
                methods: &[
                    (method::CREATE, counter_set::create::<P>),
                    (method::QUERY, counter_set::query::<P>),
                    (method::MODIFY, counter_set::modify::<P>),
                ],
                release: Some(counter_set::release::<P>),
            },
            ClassOps {
                schema: &class::cm_id::SCHEMA,
                methods: &[
                    (method::CREATE, cm_id::create::<P>),
                    (method::QUERY, cm_id::query::<P>),
                    (class::cm_id::BIND, cm_id::bind::<P>),
                    (class::cm_id::LISTEN, cm_id::listen::<P>),
                    (class::cm_id::CONNECT, cm_id::connect::<P>),
                    (class::cm_id::ACCEPT, cm_id::accept::<P>),
                    (class::cm_id::REJECT, cm_id::reject::<P>),
                    (class::cm_id::DISCONNECT, cm_id::disconnect::<P>),
                ],
                release: Some(cm_id::release::<P>),
            },
            ClassOps {
                schema: &class::mad::SCHEMA,
                methods: &[
                    (method::CREATE, mad::create::<P>),
                    (method::QUERY, mad::query::<P>),
                    (class::mad::SEND, mad::send::<P>),
                    (class::mad::RECEIVE, mad::receive::<P>),
                ],
                release: Some(mad::release::<P>),
            },
            ClassOps {
                schema: &schema::DOORBELL_SCHEMA,
                methods: &[
                    (method::CREATE, doorbell::create::<P>),
                    (method::QUERY, doorbell::query::<P>),
                ],
                release: Some(doorbell::release::<P>),
            },
            ClassOps {
                schema: &schema::RING_MEMORY_SCHEMA,
                methods: &[
                    (method::CREATE, ring_memory::create::<P>),
                    (method::QUERY, ring_memory::query::<P>),
                ],
                release: Some(ring_memory::release::<P>),
            },
        ],
        extensions: &[
            Extension {
                class: class::DEVICE,
                method: method::QUERY,
                attrs: &[
                    schema::DUMP.output().by_pointer().needs(Access::NetAdmin),
                    schema::EVENT_RINGS.output().by_pointer().needs(Access::NetAdmin),
                    schema::RING_GRAIN.output(),
                ],
            },
            extension(class::CQ, method::CREATE, NEW_CQ),
            extension(class::CQ, method::QUERY, CQ),
            extension(class::CQ, method::MODIFY, CQ),
            extension(class::COUNTER, method::CREATE, NEW_CQ),
            extension(class::COUNTER, method::QUERY, CQ),
            extension(class::SRQ, method::CREATE, NEW_SRQ),
            extension(class::SRQ, method::QUERY, SRQ),
            extension(class::SRQ, method::MODIFY, SRQ),
            extension(class::QP_RC, method::CREATE, NEW_QP),
            extension(class::QP_RC, method::QUERY, QP),
            extension(class::QP_UC, method::CREATE, NEW_QP),
            extension(class::QP_UC, method::QUERY, QP),
            extension(class::QP_UD, method::CREATE, NEW_QP),
            extension(class::QP_UD, method::QUERY, QP),
            extension(class::QP_RAW, method::CREATE, NEW_QP),
            extension(class::QP_RAW, method::QUERY, QP),
            extension(class::QP_XRC_INI, method::CREATE, NEW_QP),
            extension(class::QP_XRC_INI, method::QUERY, QP),
        ],
        removals: &[],
    };

    type Host = P;
    type Device = Hardware<P>;
    type Context = ();
    type Object = Payload<P>;
    type Pending = Pending<P>;
    type Chain = Chain;

    fn ports(device: &Hardware<P>) -> u32 {
        device.limits.ports
    }

    fn memory(object: &Payload<P>) -> Memory {
        let entry = Numbers::<Arc<Object<Self>>>::ENTRY;
        let shared = |bytes, memory: &P::Dma| Memory {
            bytes,
            shared: (memory.len() + P::DMA_BOOKS) as u64,
        };
        // A ring memory counts what is in it.
        let queue = |stretch: &Stretch<P>| match stretch.if_own() {
            Some(memory) => shared(entry, memory),
            None => Memory {
                bytes: entry,
                shared: 0,
            },
        };
        match object {
            // The list of its pages beside: the kernel's affair.
            Payload::Mr(region) if region.is_pinned() => Memory {
                bytes: P::DMA_BOOKS,
                shared: 0,
            },
            Payload::Cq(cq) => cq.with_memory(queue),
            Payload::Srq(srq) => srq.with_memory(queue),
            Payload::Qp(qp) => queue(&qp.memory),
            Payload::RingMemory(ring) => shared(RingMemory::<P>::BYTES, &ring.memory),
            Payload::Doorbell(doorbell) => shared(Doorbell::<P>::BYTES, &doorbell.page),
            Payload::Mad(client) => Memory {
                bytes: client.bytes(),
                shared: 0,
            },
            // The others are nothing but what the object holds.
            _ => Memory::default(),
        }
    }

    fn open(device: &Device<P>, _owner: &P::Owner) -> Outcome {
        if device.state().is_gone() {
            return Err(Failure::GONE);
        }
        Ok(())
    }

    fn defers(class: u16, method: u8) -> bool {
        begun::defers(class, method)
    }

    fn begin_release(call: &Handling<'_, P>, offer: &rdma_uapi::Offer<'_, Self>) -> Outcome<Pending<P>> {
        begun::release(call, offer)
    }

    fn finish<'c>(
        call: &mut Handling<'c, P>,
        pending: Pending<P>,
        reservation: Option<Reservation<'c, Self>>,
    ) -> Outcome {
        begun::finish(call, pending, reservation)
    }

    fn chain_over(device: &Device<P>, chain: Chain) {
        begun::chain_over(device, chain);
    }

    fn close(_device: &Device<P>, _context: &()) {}
}

/// Ends what an object is in the device.
///
/// When it fails on DESTROY, the object lives on, unless the device is gone. When the context closes, there is no later: a device that refuses to
/// let go of memory that is about to be freed is reset, which takes it from everybody.
pub(crate) fn end<P: Platform>(
    ending: &Ending<'_, Verbena<P>>,
    opcode: Opcode,
    handle: u32,
) -> Result<(), CommandError> {
    end_with(ending, opcode, &HandleReq { handle, reserved: 0 })
}

/// [`end`], with a request that says more than a number.
pub(crate) fn end_with<P: Platform>(
    ending: &Ending<'_, Verbena<P>>,
    opcode: Opcode,
    request: &(impl IntoBytes + Immutable),
) -> Result<(), CommandError> {
    let hardware = ending.device();
    if ending.cause == Cause::Removed {
        return Ok(());
    }
    let ended = hardware.command(opcode, request);
    match ended {
        Err(error) if ending.cause == Cause::Close => {
            if error != CommandError::Gone {
                hardware
                    .platform
                    .log(format_args!("{error}: the device keeps what nobody owns and is reset"));
                hardware.gone();
            }
            Ok(())
        }
        // Without a device there is nothing to end, and the program's teardown goes on.
        Err(CommandError::Gone) => Ok(()),
        ended => ended,
    }
}

/// The context of a call, with its type spelled out.
pub(crate) type Handling<'c, P> = Call<'c, Verbena<P>>;
/// A reference to an object of Verbena's.
pub(crate) type Reference<P> = ObjectRef<Verbena<P>>;
