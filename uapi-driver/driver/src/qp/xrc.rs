// SPDX-License-Identifier: MIT OR Apache-2.0
//! XRC: one connection to all shared receive queues of a domain.

use super::attrs::Known;
use super::{AnyQp, Batched, ConnectOptions, Qp, QpAttr, QpBuilder, QpInfo, SendBatch, Standing, XrcIni, MODIFYING};
use crate::batch::Part;
use crate::context::{Answer, MESSAGE};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::event::EventQueueShared;
use crate::object::Object;
use crate::ring::work::{PostError, SendWr};
use crate::{Access, CompletionQueue, Context, EventQueue, ProtectionDomain, XrcDomain};
use rdma_uapi::class::qp::{self, QpCaps};
use rdma_uapi::class::{self};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::any::Any;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use verbena_hw::id::{Psn, Qpn, Srqn};
use verbena_hw::qp::QpState;
use verbena_hw::wqe::XrcArgs;

/// An XRC initiator: it has a send queue, and each send names a shared receive queue at the other end, by
/// [`crate::SharedReceiveQueue::srqn`]. Keys of the peer's are those of that queue's protection domain.
pub type XrcInitiator = Qp<XrcIni>;

impl Qp<XrcIni> {
    /// A new one, whose sends complete to `send_cq`.
    pub fn initiator<'a>(pd: &'a ProtectionDomain, send_cq: &'a CompletionQueue) -> QpBuilder<'a, Standing, XrcIni> {
        QpBuilder::new(pd.into(), send_cq.into(), send_cq.into())
    }

    /// Connects it to a target, with [`ConnectOptions::default`].
    ///
    /// # Errors
    ///
    /// As [`XrcInitiator::connect_with`].
    pub fn connect(&mut self, target: &Endpoint) -> Result<()> {
        self.connect_with(target, &ConnectOptions::default())
    }

    /// Moves it from RESET or INIT to RTS, connected to a target, which must be connected to it.
    ///
    /// # Errors
    ///
    /// It is in another state; an option is out of the device's range; the device is gone.
    pub fn connect_with(&mut self, target: &Endpoint, options: &ConnectOptions) -> Result<()> {
        let connection = options.resolve(self.context(), &mut Known::default())?;
        self.modify(&connection.of_initiator(self.state(), target, self.first_psn()))
    }

    /// Posts a send to the shared receive queue `srqn` of the peer's.
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then, except with [`PostError::DeviceGone`].
    #[inline(always)]
    pub fn post_send(&mut self, wr: &SendWr<'_>, srqn: u32) -> Result<(), PostError> {
        self.check_send_state()?;
        self.send.push_to_srq(&self.slot, wr, &args(srqn))?;
        self.publish()
    }
}

impl SendBatch<'_, XrcIni> {
    /// Adds a send to the shared receive queue `srqn` of the peer's.
    ///
    /// # Errors
    ///
    /// [`PostError`]; the batch is what it was before.
    #[inline(always)]
    pub fn push(&mut self, wr: &SendWr<'_>, srqn: u32) -> Result<(), PostError> {
        self.qp.check_send_state()?;
        self.qp.send.push_to_srq(&self.qp.slot, wr, &args(srqn))
    }
}

/// What has more than 24 bits names no queue, as 0 does.
fn args(srqn: u32) -> XrcArgs {
    XrcArgs {
        srqn: Srqn::new(srqn).unwrap_or_default(),
        ..XrcArgs::default()
    }
}

/// What CREATE of a target is, in a sentence.
pub(crate) const MAKING: &str = "make an XRC target";

/// What is to be chosen of a new target. [`XrcTargetBuilder::build`] makes it at once, [`crate::Batch::create_xrc_target`] with
/// others.
#[must_use = "a builder makes nothing until `build`"]
pub struct XrcTargetBuilder<'a, When = Standing> {
    domain: Part<'a, XrcDomain>,
    attributes: Option<QpAttr>,
    events: Option<(&'a EventQueue, u64)>,
    when: PhantomData<When>,
}

impl<'a, When> XrcTargetBuilder<'a, When> {
    fn of(domain: Part<'a, XrcDomain>) -> Self {
        Self {
            domain,
            attributes: None,
            events: None,
            when: PhantomData,
        }
    }

    /// The same choices, for a batch.
    pub(crate) fn for_batch(self) -> XrcTargetBuilder<'a, Batched> {
        XrcTargetBuilder {
            domain: self.domain,
            attributes: self.attributes,
            events: self.events,
            when: PhantomData,
        }
    }

    /// Reports to this queue; events carry `cookie`.
    pub fn events(mut self, queue: &'a EventQueue, cookie: u64) -> Self {
        self.events = Some((queue, cookie));
        self
    }

    /// As [`QpBuilder::attributes`].
    pub fn attributes(mut self, attributes: QpAttr) -> Self {
        self.attributes = Some(attributes);
        self
    }

    /// What it belongs to.
    pub(crate) fn domain(&self) -> Part<'a, XrcDomain> {
        self.domain
    }

    /// The first PSN that it sends, if that is chosen.
    pub(crate) fn first_psn(&self) -> Option<Psn> {
        self.attributes.as_ref().and_then(QpAttr::first_psn)
    }

    /// The state that it will be in.
    pub(crate) fn state(&self) -> QpState {
        let given = self.attributes.as_ref().and_then(|given| given.state);
        given.unwrap_or(QpState::RESET)
    }

    /// The message of CREATE.
    pub(crate) fn message<'m>(&self, words: &'m mut [u64], domain: ObjectId, open: Option<u32>) -> Builder<'m> {
        let mut message = Builder::new(words, class::QP_XRC_TGT, 0);
        message.put(qp::XRCD, &domain).put_some(qp::OPEN, open);
        if let Some(attributes) = &self.attributes {
            attributes.write(&mut message);
        }
        if let Some((queue, cookie)) = self.events {
            message
                .put(class::EVENT_QUEUE_OF, &queue.id())
                .put(class::COOKIE, &cookie);
        }
        message.ask(qp::QPN);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(&self, doing: &'static str, domain: &XrcDomain, answer: &Answer<'_>) -> Result<XrcTarget> {
        let context = domain.context();
        let object = Object::new(context, class::QP_XRC_TGT, answer.object(), "destroy an XRC target");
        let qpn = Qpn::new(answer.expect(doing, qp::QPN)?).ok_or(Error::Answer {
            doing,
            what: "its number has more than 24 bits",
        })?;
        let psn = self.first_psn();
        Ok(XrcTarget {
            object,
            qpn,
            // As of a queue pair.
            psn: psn.unwrap_or_else(|| Psn::truncate(RandomState::new().hash_one(qpn.get()) as u32)),
            state: self.state(),
            _domain: domain.object.clone(),
            _events: self.events.map(|(queue, _)| queue.shared().clone()),
        })
    }
}

impl XrcTargetBuilder<'_> {
    /// Opens the target of the domain that has this number, whatever context or process has made it: all of them can modify it,
    /// each reports its events to a queue of its own, and it lives until the last has destroyed it.
    ///
    /// # Errors
    ///
    /// ENOENT: the domain has no such target. EINVAL: attributes were chosen, which it has already. The device is gone.
    pub fn open(self, qpn: u32) -> Result<XrcTarget> {
        let mut target = self.make("open an XRC target", Some(qpn))?;
        let there = target.query()?;
        (target.state, target.psn) = (there.state, Psn::truncate(there.sq_psn));
        Ok(target)
    }

    /// Makes it: in RESET, unless attributes name another state.
    ///
    /// # Errors
    ///
    /// An attribute is missing or out of range; the device has no more queue pairs, or is gone.
    pub fn build(self) -> Result<XrcTarget> {
        self.make(MAKING, None)
    }

    fn make(self, doing: &'static str, open: Option<u32>) -> Result<XrcTarget> {
        let Part::Made(domain) = self.domain else {
            unreachable!("only a batch's builder is made of tickets")
        };
        let mut words = [0; MESSAGE];
        let message = self.message(&mut words, domain.object.id(), open);
        let answer = domain.context().call(doing, method::CREATE, message)?;
        self.made(doing, domain, &answer)
    }
}

/// An XRC target: the other end of an [`XrcInitiator`]. It has no queue: what arrives goes to the shared receive queue that the
/// sender names, if that is of the target's domain, and completes where that queue says, in whatever process it is.
pub struct XrcTarget {
    // Field order: destroyed before what it stands on can go.
    object: Object,
    qpn: Qpn,
    psn: Psn,
    state: QpState,
    _domain: Arc<Object>,
    _events: Option<Arc<EventQueueShared>>,
}

impl XrcTarget {
    /// A new one in `domain`.
    pub fn builder(domain: &XrcDomain) -> XrcTargetBuilder<'_> {
        XrcTargetBuilder::of(domain.into())
    }

    /// A new one for a [`crate::Batch`], in a domain that is there or that the same batch makes.
    pub fn batched<'a>(domain: impl Into<Part<'a, XrcDomain>>) -> XrcTargetBuilder<'a, Batched> {
        XrcTargetBuilder::of(domain.into())
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// Its number.
    pub fn qpn(&self) -> u32 {
        self.qpn.get()
    }

    /// The state that it was last moved to. The device may have moved it to ERR since: [`XrcTarget::query`].
    pub fn state(&self) -> QpState {
        self.state
    }

    /// What an initiator must know to connect to it: with entry 0 of port 1's GID table.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint {
            gid: self.context().gid(1, 0)?,
            qpn: self.qpn,
            psn: self.psn,
        })
    }

    /// Connects it to an initiator, with [`ConnectOptions::default`].
    ///
    /// # Errors
    ///
    /// As [`XrcTarget::connect_with`].
    pub fn connect(&mut self, initiator: &Endpoint) -> Result<()> {
        self.connect_with(initiator, &ConnectOptions::default())
    }

    /// Moves it from RESET or INIT to RTS, connected to an initiator, which must be connected to it.
    ///
    /// # Errors
    ///
    /// It is in another state; an option is out of the device's range; the device is gone.
    pub fn connect_with(&mut self, initiator: &Endpoint, options: &ConnectOptions) -> Result<()> {
        let connection = options.resolve(self.context(), &mut Known::default())?;
        self.modify(&connection.of_target(self.state, initiator, self.psn))
    }

    /// Changes attributes, and moves it to another state if one is given.
    ///
    /// # Errors
    ///
    /// The transition does not exist, lacks an attribute or forbids one; a value is out of range; the device is gone.
    pub fn modify(&mut self, attributes: &QpAttr) -> Result<()> {
        let mut words = [0; MESSAGE];
        let message = attributes.message(&mut words, class::QP_XRC_TGT, self.object.id());
        self.context().call(MODIFYING, method::MODIFY, message)?;
        self.note_change(attributes);
        Ok(())
    }

    /// Its state and attributes, from the device.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn query(&self) -> Result<QpInfo> {
        const DOING: &str = "query an XRC target";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::QP_XRC_TGT, self.object.id().0);
        for attr in [
            qp::STATE,
            qp::QPN,
            qp::PORT,
            qp::PKEY_INDEX,
            qp::ACCESS,
            qp::DEST_QPN,
            qp::SQ_PSN,
            qp::RQ_PSN,
            qp::PATH_MTU,
            qp::TIMEOUT,
            qp::MIN_RNR_TIMER,
            qp::MAX_DEST_RD_ATOMIC,
        ] {
            message.ask(attr);
        }
        message.ask(qp::PATH);
        let answer = self.context().call(DOING, method::QUERY, message)?;
        let number = |attr| answer.expect(DOING, attr);
        Ok(QpInfo {
            state: QpState(u8::try_from(number(qp::STATE)?).unwrap_or(u8::MAX)),
            caps: QpCaps::default(),
            qpn: number(qp::QPN)?,
            port: number(qp::PORT)?,
            pkey_index: number(qp::PKEY_INDEX)?,
            qkey: 0,
            access: Access::from_bits_retain(number(qp::ACCESS)?),
            path: answer.expect(DOING, qp::PATH)?,
            dest_qpn: number(qp::DEST_QPN)?,
            sq_psn: number(qp::SQ_PSN)?,
            rq_psn: number(qp::RQ_PSN)?,
            path_mtu: number(qp::PATH_MTU)?,
            timeout: number(qp::TIMEOUT)?,
            retry_cnt: 0,
            rnr_retry: 0,
            min_rnr_timer: number(qp::MIN_RNR_TIMER)?,
            max_rd_atomic: 0,
            max_dest_rd_atomic: number(qp::MAX_DEST_RD_ATOMIC)?,
            rate_limit: 0,
            max_burst: 0,
            typical_packet: 0,
        })
    }

    /// Destroys it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

impl AnyQp for XrcTarget {
    fn object(&self) -> &Object {
        &self.object
    }

    fn state(&self) -> QpState {
        self.state
    }

    fn first_psn(&self) -> Psn {
        self.psn
    }

    fn note_change(&mut self, attributes: &QpAttr) {
        self.state = attributes.state.unwrap_or(self.state);
        self.psn = attributes.first_psn().unwrap_or(self.psn);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl fmt::Debug for XrcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XrcTarget({}, {})", self.qpn, self.state)
    }
}
