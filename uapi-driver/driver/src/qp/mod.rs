// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs: what all types have, and those that are connected.

mod attrs;
mod builder;
mod datagram;
mod raw;
mod transport;
mod unreliable;
mod xrc;

pub(crate) use attrs::Known;
pub use attrs::{path_to, ConnectOptions, QpAttr, QpInfo};
pub(crate) use builder::{AnyNewQp, Completes, Ground, Names, Slots, DOING as CREATING};
pub use builder::{Batched, QpBuilder, Standing};
pub use datagram::{AddressError, AddressHandle, CheckedAddress, Destination, UdQp, GRH_LEN};
pub use raw::{RawQp, RuleId};
pub use transport::{Connected, Plain, Raw, Rc, Transport, Uc, Ud, XrcIni};
pub use unreliable::UcQp;
pub(crate) use xrc::MAKING as MAKING_TARGET;
pub use xrc::{XrcInitiator, XrcTarget, XrcTargetBuilder};

use crate::batch::Part;
use crate::context::MESSAGE;
use crate::cq::CqShared;
use crate::doorbell::DoorbellSlot;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::event::EventQueueShared;
use crate::object::Object;
use crate::ring::place::RingMemory;
use crate::ring::recv::RecvRing;
use crate::ring::send::SendRing;
use crate::ring::table::{QpSlot, Side};
use crate::ring::work::{PostError, RecvWr, SendWr};
use crate::srq::SrqShared;
use crate::{Access, CompletionCounter, CompletionQueue, Context, ProtectionDomain};
use rdma_uapi::class::qp::{self, Path, QpCaps};
use rdma_uapi::client::Builder;
use rdma_uapi::schema::Attr;
use rdma_uapi::wire::{method, ObjectId};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::qp::QpState;

/// What MODIFY is, in a sentence.
pub(crate) const MODIFYING: &str = "modify a queue pair";

/// A queue pair of type `T`: [`RcQp`], [`UcQp`], [`UdQp`], [`RawQp`], [`XrcInitiator`].
///
/// Posting makes no system call (but to wake a device that sleeps, on the direct attachment), takes no lock and
/// allocates nothing. One thread at a time uses it; its completions may be polled by another.
///
/// When it is dropped, work that is outstanding ends without completions, and completions that were not polled are
/// not delivered any more.
pub struct Qp<T: Transport> {
    // Field order: the object is destroyed before what it stands on can go, and before its slot serves another queue
    // pair. The rings' memory stays mapped until nothing can post.
    /// Memberships in multicast groups; of datagram queue pairs alone.
    groups: Vec<(Gid, Object)>,
    /// Flow rules that lead to it; of raw queue pairs alone.
    rules: Vec<Object>,
    object: Object,
    send: SendRing,
    /// `None`: receives are shared, or there are none.
    recv: Option<RecvRing>,
    slot: QpSlot,
    /// As far as is known here: the device may have moved it to an error state.
    state: QpState,
    doorbell_slot: u16,
    doorbell: DoorbellSlot,
    qpn: Qpn,
    psn: Psn,
    caps: QpCaps,
    send_cq: Arc<CqShared>,
    recv_cq: Arc<CqShared>,
    _srq: Option<Arc<SrqShared>>,
    _pd: Arc<Object>,
    _events: Option<Arc<EventQueueShared>>,
    _memory: Option<Arc<RingMemory>>,
    transport: PhantomData<T>,
}

/// A reliable connected queue pair.
pub type RcQp = Qp<Rc>;

/// A queue pair of whatever type, as a batch has it.
pub(crate) trait AnyQp: Send {
    fn object(&self) -> &Object;
    fn state(&self) -> QpState;
    fn first_psn(&self) -> Psn;
    /// MODIFY has taken these.
    fn note_change(&mut self, attributes: &QpAttr);
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Transport> AnyQp for Qp<T> {
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
        self.note_change(attributes);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl<T: Transport> Qp<T> {
    /// A new one: its sends complete to `send_cq`, its receives to `recv_cq`, which may be the same.
    pub fn builder<'a>(
        pd: &'a ProtectionDomain,
        send_cq: &'a CompletionQueue,
        recv_cq: &'a CompletionQueue,
    ) -> QpBuilder<'a, Standing, T> {
        QpBuilder::new(pd.into(), send_cq.into(), recv_cq.into())
    }

    /// A new one for a [`crate::Batch`]: what it stands on may be made by the same batch, and is then named by its
    /// [`crate::Ticket`].
    pub fn batched<'a>(
        pd: impl Into<Part<'a, ProtectionDomain>>,
        send_cq: impl Into<Part<'a, CompletionQueue>>,
        recv_cq: impl Into<Part<'a, CompletionQueue>>,
    ) -> QpBuilder<'a, Batched, T> {
        QpBuilder::new(pd.into(), send_cq.into(), recv_cq.into())
    }

    /// A new one whose completions are counted: its sends' by `sends`, its receives' by `receives`, which may be the same.
    pub fn counted<'a>(
        pd: &'a ProtectionDomain,
        sends: &'a CompletionCounter,
        receives: &'a CompletionCounter,
    ) -> QpBuilder<'a, Standing, T> {
        QpBuilder::over(
            pd.into(),
            Completes::Counter(sends.into()),
            Completes::Counter(receives.into()),
        )
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn first_psn(&self) -> Psn {
        self.psn
    }

    /// Its number.
    pub fn qpn(&self) -> u32 {
        self.qpn.get()
    }

    /// The first packet sequence number that it sends once connected.
    pub fn psn(&self) -> u32 {
        self.psn.get()
    }

    /// Its sizes.
    pub fn caps(&self) -> &QpCaps {
        &self.caps
    }

    /// Entries of its send queue.
    pub fn send_depth(&self) -> u32 {
        self.send.entries()
    }

    /// Entries of its receive queue; 0 if it has none.
    pub fn recv_depth(&self) -> u32 {
        self.recv.as_ref().map_or(0, RecvRing::entries)
    }

    /// The state that it was last moved to. The device may have moved it to an error state since: [`Qp::query`].
    pub fn state(&self) -> QpState {
        self.state
    }

    /// Changes attributes, and moves it to another state if one is given.
    ///
    /// RESET is not for this: see [`Qp::reset`].
    ///
    /// # Errors
    ///
    /// The transition does not exist, lacks an attribute or forbids one; a value is out of range; the device is gone.
    pub fn modify(&mut self, attributes: &QpAttr) -> Result<()> {
        if attributes.state == Some(QpState::RESET) {
            return Err(Error::Argument(
                "a queue pair goes to RESET by `reset`, which takes its completion queues along",
            ));
        }
        self.send_modify(attributes)
    }

    /// MODIFY has taken these.
    pub(crate) fn note_change(&mut self, attributes: &QpAttr) {
        self.state = attributes.state.unwrap_or(self.state);
        self.psn = attributes.first_psn().unwrap_or(self.psn);
    }

    fn send_modify(&mut self, attributes: &QpAttr) -> Result<()> {
        let mut words = [0; MESSAGE];
        let message = attributes.message(&mut words, T::CLASS, self.object.id());
        self.context().call(MODIFYING, method::MODIFY, message)?;
        self.note_change(attributes);
        Ok(())
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// Moves it to the error state: what is outstanding completes with a flush error.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn set_error(&mut self) -> Result<()> {
        self.modify(&QpAttr::to(QpState::ERR))
    }

    /// Moves it to RESET. Outstanding work is forgotten, and so are its completions that have not been polled: both of
    /// its completion queues must be given for that. What was counted stays counted.
    ///
    /// # Errors
    ///
    /// A completion queue of it is missing; the device is gone.
    pub fn reset(&mut self, completion_queues: &mut [&mut CompletionQueue]) -> Result<()> {
        let given = |shared: &Arc<CqShared>| completion_queues.iter().any(|cq| Arc::ptr_eq(&cq.shared, shared));
        let missing = |side, shared| !self.slot.is_counted(side) && !given(shared);
        if missing(Side::Send, &self.send_cq) || missing(Side::Recv, &self.recv_cq) {
            return Err(Error::Argument(
                "`reset` takes both completion queues of the queue pair",
            ));
        }
        self.send_modify(&QpAttr::to(QpState::RESET))?;
        // The device touches rings and completion queues for it no more.
        for cq in completion_queues {
            cq.ring.forget(self.slot.cookie());
        }
        self.slot.reset();
        self.send.reset();
        if let Some(recv) = &mut self.recv {
            recv.reset();
        }
        Ok(())
    }

    /// Somebody else has moved it.
    pub(crate) fn moved(&mut self, state: QpState) {
        self.state = state;
    }

    /// Asks the device for its state, which others may have changed: the communication manager that connects it, an error.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn update_state(&mut self) -> Result<QpState> {
        self.state = self.query()?.state;
        Ok(self.state)
    }

    /// Its state and attributes, from the device.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn query(&self) -> Result<QpInfo> {
        const DOING: &str = "query a queue pair";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, T::CLASS, self.object.id().0);
        message.ask(qp::STATE).ask(qp::CAPS).ask(qp::QPN).ask(qp::PORT);
        let known: &[Attr<u32>] = T::ATTRS;
        for &attr in known {
            message.ask(attr);
        }
        message.ask(qp::RATE_LIMIT).ask(qp::MAX_BURST).ask(qp::TYPICAL_PACKET);
        if T::IS_CONNECTED {
            message.ask(qp::PATH);
        }
        let answer = self.context().call(DOING, method::QUERY, message)?;
        let state = answer.expect(DOING, qp::STATE)?;
        let number = |attr: Attr<u32>| {
            if known.iter().any(|known| known.id() == attr.id()) {
                answer.expect(DOING, attr)
            } else {
                Ok(0)
            }
        };
        Ok(QpInfo {
            state: QpState(u8::try_from(state).unwrap_or(u8::MAX)),
            caps: answer.expect(DOING, qp::CAPS)?,
            qpn: answer.expect(DOING, qp::QPN)?,
            port: answer.expect(DOING, qp::PORT)?,
            pkey_index: number(qp::PKEY_INDEX)?,
            qkey: number(qp::QKEY)?,
            access: Access::from_bits_retain(number(qp::ACCESS)?),
            path: if T::IS_CONNECTED {
                answer.expect(DOING, qp::PATH)?
            } else {
                Path::default()
            },
            dest_qpn: number(qp::DEST_QPN)?,
            sq_psn: number(qp::SQ_PSN)?,
            rq_psn: number(qp::RQ_PSN)?,
            path_mtu: number(qp::PATH_MTU)?,
            timeout: number(qp::TIMEOUT)?,
            retry_cnt: number(qp::RETRY_CNT)?,
            rnr_retry: number(qp::RNR_RETRY)?,
            min_rnr_timer: number(qp::MIN_RNR_TIMER)?,
            max_rd_atomic: number(qp::MAX_RD_ATOMIC)?,
            max_dest_rd_atomic: number(qp::MAX_DEST_RD_ATOMIC)?,
            rate_limit: answer.expect(DOING, qp::RATE_LIMIT)?,
            max_burst: answer.expect(DOING, qp::MAX_BURST)?,
            typical_packet: answer.expect(DOING, qp::TYPICAL_PACKET)?,
        })
    }

    /// Begins a batch: sends that become visible to the device together, with one doorbell.
    #[inline(always)]
    pub fn send_batch(&mut self) -> SendBatch<'_, T> {
        SendBatch { qp: self }
    }

    /// Posts a receive.
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then. [`PostError::NoQueue`] if its receives are shared.
    #[inline(always)]
    pub fn post_recv(&mut self, wr: &RecvWr<'_>) -> Result<(), PostError> {
        if self.state == QpState::RESET {
            return Err(PostError::WrongState);
        }
        let recv = self.recv.as_mut().ok_or(PostError::NoQueue)?;
        recv.push(&self.slot, wr)
    }

    /// Posts an entry for the send queue as it is given (its first word begins a [`verbena_hw::wqe::SendHeader`]), with
    /// only the phase bit set right. What the device makes of it is its business: this is for tests of just that.
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then.
    pub fn post_raw_send(&mut self, entry: &[u64]) -> Result<(), PostError> {
        self.check_send_state()?;
        self.send.push_raw(&self.slot, entry)?;
        self.publish()
    }

    /// As [`Qp::post_raw_send`], for the receive queue.
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then.
    pub fn post_raw_recv(&mut self, entry: &[u64]) -> Result<(), PostError> {
        if self.state == QpState::RESET {
            return Err(PostError::WrongState);
        }
        let recv = self.recv.as_mut().ok_or(PostError::NoQueue)?;
        recv.push_raw(&self.slot, entry)
    }

    /// Sends that were posted and whose entries are not known to be free again.
    pub fn send_outstanding(&self) -> u32 {
        self.send.outstanding(&self.slot)
    }

    /// Receives that were posted and whose completions have not been polled.
    pub fn recv_outstanding(&self) -> u32 {
        self.recv.as_ref().map_or(0, |recv| recv.outstanding(&self.slot))
    }

    /// Destroys it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(mut self) -> Result<()> {
        for (_, membership) in self.groups.drain(..) {
            membership.destroy()?;
        }
        for rule in self.rules.drain(..) {
            rule.destroy()?;
        }
        self.object.destroy()
    }

    #[inline(always)]
    fn check_send_state(&self) -> Result<(), PostError> {
        // RTS, SQD and the error states come after the others. In SQD sends wait, in error states they are flushed.
        if self.state < QpState::RTS {
            return Err(PostError::WrongState);
        }
        Ok(())
    }

    #[inline(always)]
    fn publish(&mut self) -> Result<(), PostError> {
        if self.send.publish() {
            // The doorbell's read-modify-writes order the entries before it.
            self.doorbell
                .ring(self.doorbell_slot)
                .map_err(|_| PostError::DeviceGone)?;
        }
        Ok(())
    }
}

impl Qp<Rc> {
    /// Connects it to `peer`, with [`ConnectOptions::default`].
    ///
    /// # Errors
    ///
    /// As [`RcQp::connect_with`].
    pub fn connect(&mut self, peer: &Endpoint) -> Result<()> {
        self.connect_with(peer, &ConnectOptions::default())
    }

    /// Moves it from RESET or INIT to RTS, connected to `peer`. The peer must do the same.
    ///
    /// # Errors
    ///
    /// It is in another state; an option is out of the device's range; the device is gone.
    pub fn connect_with(&mut self, peer: &Endpoint, options: &ConnectOptions) -> Result<()> {
        let connection = options.resolve(self.context(), &mut Known::default())?;
        self.modify(&connection.from(self.state, peer, self.psn))
    }

    /// Moves it from RESET to INIT, with [`ConnectOptions::default`]: receives may be posted before it is connected.
    ///
    /// # Errors
    ///
    /// It is in another state; the device is gone.
    pub fn init(&mut self) -> Result<()> {
        self.init_with(&ConnectOptions::default())
    }

    /// Moves it from RESET to INIT.
    ///
    /// # Errors
    ///
    /// It is in another state; there is no such port; the device is gone.
    pub fn init_with(&mut self, options: &ConnectOptions) -> Result<()> {
        self.modify(&options.init())
    }
}

impl<T: Connected> Qp<T> {
    /// What a peer must know to connect to it: with entry 0 of port 1's GID table.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn endpoint(&self) -> Result<Endpoint> {
        self.endpoint_at(1, 0)
    }

    /// What a peer must know to connect to it through entry `sgid_index` of the GID table of `port`.
    ///
    /// # Errors
    ///
    /// There is no such port or entry; the device is gone.
    pub fn endpoint_at(&self, port: u32, sgid_index: u16) -> Result<Endpoint> {
        Ok(self.endpoint_with(self.context().gid(port, sgid_index.into())?))
    }

    /// The same with a GID that is known already: makes no call, where [`RcQp::endpoint`] makes one.
    pub fn endpoint_with(&self, gid: Gid) -> Endpoint {
        Endpoint {
            gid,
            qpn: self.qpn,
            psn: self.psn,
        }
    }
}

impl<T: Plain> Qp<T> {
    /// Posts a send.
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then, except with [`PostError::DeviceGone`].
    #[inline(always)]
    pub fn post_send(&mut self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.check_send_state()?;
        self.send.push(&self.slot, wr)?;
        self.publish()
    }
}

impl<T: Transport> fmt::Debug for Qp<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}, {})", T::NAME, self.qpn, self.state)
    }
}

/// Sends that become visible to the device together. Dropped without [`SendBatch::ring`] they are forgotten.
#[must_use = "a batch that is not rung is forgotten"]
pub struct SendBatch<'a, T: Transport> {
    qp: &'a mut Qp<T>,
}

impl<T: Plain> SendBatch<'_, T> {
    /// Adds a send.
    ///
    /// # Errors
    ///
    /// [`PostError`]; the batch is what it was before.
    #[inline(always)]
    pub fn push(&mut self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.qp.check_send_state()?;
        self.qp.send.push(&self.qp.slot, wr)
    }
}

impl<T: Transport> SendBatch<'_, T> {
    /// Hands the batch to the device.
    ///
    /// # Errors
    ///
    /// The device is gone.
    #[inline(always)]
    pub fn ring(self) -> Result<(), PostError> {
        self.qp.publish()
    }
}

impl<T: Transport> Drop for SendBatch<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.qp.send.has_unpublished() {
            self.qp.send.abort();
        }
    }
}
