// SPDX-License-Identifier: MIT OR Apache-2.0
//! An open device: where everything begins.

use crate::attach::{self, EventFd, Register, Transport};
use crate::counter_set::CounterSet;
use crate::doorbell::Doorbell;
use crate::error::{CallError, Error, Result};
use crate::flow::{DropRule, Flow};
use crate::interface::Interface;
use crate::memory::{Buffer, Mapping};
use crate::ring::table::QpTable;
use crate::{Attachment, CompletionQueue, EventQueue, ProtectionDomain};
use rdma_uapi::class::port::{Counter, GidEntry, PortAttrs};
use rdma_uapi::class::{self, device, interface, port};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::schema::{Attr, Payload};
use rdma_uapi::wire::{self, method};
use rdma_uapi::Errno;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use verbena_core::platform::PAGE;
use verbena_core::schema::{DoorbellUse, EventRingState, DOORBELL_CLASS, DOORBELL_USE, DUMP, EVENT_RINGS, RING_GRAIN};
use verbena_hw::id::Gid;
use zerocopy::IntoBytes;

pub use rdma_uapi::class::device::DeviceAttrs;
pub use rdma_uapi::class::interface::ObjectInfo;

/// Words of a message that is built on the stack: more than any of this crate's calls needs.
pub(crate) const MESSAGE: usize = 128;

/// An open device. Clones are the same one; it is closed when the last clone and everything made on it are gone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    attachment: Attachment,
    transport: Box<dyn Transport>,
    qps: Arc<QpTable>,
    /// What queue pairs in a ring memory are packed by, once that was asked for.
    ring_grain: OnceLock<u32>,
    /// The doorbell page with free slots. It belongs to its queue pairs, and so is gone when they are.
    doorbell: Mutex<Weak<Doorbell>>,
}

impl Context {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// There is no device, it may not be opened, or it does not come up; the error says which, and what to do.
    pub fn open(attachment: &Attachment) -> Result<Self> {
        Ok(Self::over(attachment, attach::open(attachment)?))
    }

    /// Opens the system-wide node of the attachment's kind.
    pub(crate) fn open_node(attachment: &Attachment) -> Result<Self> {
        Ok(Self::over(attachment, attach::open_node(attachment)?))
    }

    fn over(attachment: &Attachment, transport: Box<dyn Transport>) -> Self {
        let qps = Arc::new(QpTable::new());
        let inner = Inner {
            attachment: attachment.clone(),
            transport,
            qps,
            ring_grain: OnceLock::new(),
            doorbell: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether it is the system-wide node, which belongs to no device.
    pub fn is_node(&self) -> bool {
        self.descriptor().is_none()
    }

    /// What a call on the system-wide node names it by: its descriptor, or, directly attached, a number that stands for it. The
    /// node has none.
    pub fn descriptor(&self) -> Option<u32> {
        self.inner.transport.descriptor()
    }

    /// How it was opened.
    pub fn attachment(&self) -> &Attachment {
        &self.inner.attachment
    }

    /// Whether the device is known to be gone: removed, or its process died. Through the kernel module that is known
    /// when a call has said so; [`Context::check`] is one.
    pub fn is_gone(&self) -> bool {
        self.inner.transport.is_gone()
    }

    /// Asks whether the device is there: one call that does not reach the hardware.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn check(&self) -> Result<()> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::INTERFACE, 0);
        message.ask(interface::VERSION);
        self.call("look whether the device is there", method::QUERY, message)?;
        match self.is_gone() {
            false => Ok(()),
            true => Err(Error::Gone),
        }
    }

    /// What the device is, and its limits.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn device(&self) -> Result<DeviceAttrs> {
        const DOING: &str = "query the device";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::DEVICE, 0);
        message.ask(device::ATTRS);
        self.call(DOING, method::QUERY, message)?.expect(DOING, device::ATTRS)
    }

    /// The clock of [`crate::Completion::timestamp`], now: ticks of `hca_core_clock` kHz of [`Context::device`].
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn clock(&self) -> Result<u64> {
        const DOING: &str = "read the device's clock";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::DEVICE, 0);
        message.ask(device::CLOCK);
        self.call(DOING, method::QUERY, message)?.expect(DOING, device::CLOCK)
    }

    /// The device's name on this host.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn name(&self) -> Result<String> {
        self.text(device::NAME)
    }

    /// The name of the driver behind the object model.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn driver_name(&self) -> Result<String> {
        self.text(device::DRIVER_NAME)
    }

    fn text(&self, attr: Attr<str>) -> Result<String> {
        const DOING: &str = "query the device";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::DEVICE, 0);
        message.ask_text(attr, 256);
        let reply = self.call(DOING, method::QUERY, message)?;
        let text = reply.text(attr).ok_or(Error::Answer {
            doing: DOING,
            what: "a name is missing",
        })?;
        Ok(text.to_owned())
    }

    /// What port `number` (from 1) is, and its tables.
    ///
    /// # Errors
    ///
    /// There is no such port; the device is gone.
    pub fn port(&self, number: u32) -> Result<PortInfo> {
        const DOING: &str = "query a port";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::PORT, number);
        message.ask(port::ATTRS);
        let attrs = self.call(DOING, method::QUERY, message)?.expect(DOING, port::ATTRS)?;
        let counters: Vec<Counter> = self.array(DOING, class::PORT, number, port::COUNTERS)?;
        let name = |counter: &Counter| {
            let end = counter.name.iter().position(|&b| b == 0).unwrap_or(counter.name.len());
            String::from_utf8_lossy(&counter.name[..end]).into_owned()
        };
        Ok(PortInfo {
            attrs,
            gids: self.array(DOING, class::PORT, number, port::GIDS)?,
            pkeys: self.array(DOING, class::PORT, number, port::PKEYS)?,
            counters: counters.iter().map(|counter| (name(counter), counter.value)).collect(),
        })
    }

    /// Switches port `number` on or off, for everybody who uses the device. It stays so until it is switched again, or the
    /// device is reset.
    ///
    /// # Errors
    ///
    /// There is no such port; the caller lacks CAP_NET_ADMIN; the device is gone.
    pub fn switch_port(&self, number: u32, on: bool) -> Result<()> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::PORT, number);
        message.put(port::STATE, &if on { port::state::ACTIVE } else { port::state::DOWN });
        self.call("switch a port", method::MODIFY, message)?;
        Ok(())
    }

    /// Entry `index` of the GID table of port `number`.
    ///
    /// # Errors
    ///
    /// There is no such port or entry; the device is gone.
    pub fn gid(&self, number: u32, index: u32) -> Result<Gid> {
        let gids: Vec<GidEntry> = self.array("query a port's GIDs", class::PORT, number, port::GIDS)?;
        let entry = gids.iter().find(|entry| u32::from(entry.index) == index);
        entry
            .map(|entry| Gid(entry.gid))
            .ok_or(Error::Argument("the port's GID table has no such entry"))
    }

    /// What the interface offers on this device: every class, method and attribute.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn interface(&self) -> Result<Interface> {
        const DOING: &str = "list the interface";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::INTERFACE, 0);
        message.ask(interface::VERSION).ask(interface::FEATURES);
        let reply = self.call(DOING, method::QUERY, message)?;
        Ok(Interface {
            version: reply.expect(DOING, interface::VERSION)?,
            features: reply.expect(DOING, interface::FEATURES)?,
            records: self.array(DOING, class::INTERFACE, 0, interface::LISTING)?,
        })
    }

    /// The context's objects, and what each of them takes of the kernel's memory and shares with this process.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn objects(&self) -> Result<Vec<ObjectInfo>> {
        self.array("list the context's objects", class::INTERFACE, 0, interface::OBJECTS)
    }

    /// Bytes of the kernel's memory that the context takes, its objects included, and objects that it may have.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn account(&self) -> Result<(u64, u32)> {
        const DOING: &str = "ask what the context takes";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::INTERFACE, 0);
        message.ask(interface::CONTEXT_BYTES).ask(interface::MAX_OBJECTS);
        let reply = self.call(DOING, method::QUERY, message)?;
        Ok((
            reply.expect(DOING, interface::CONTEXT_BYTES)?,
            reply.expect(DOING, interface::MAX_OBJECTS)?,
        ))
    }

    /// Asks for features of the interface ([`interface::feature`]). Only as the first call on the context.
    ///
    /// # Errors
    ///
    /// It was not the first call, or a feature is unknown.
    pub fn ask_features(&self, features: u64) -> Result<()> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::INTERFACE, 0);
        message.put(interface::FEATURES, &features);
        self.call("ask for features", method::MODIFY, message)?;
        Ok(())
    }

    /// The device's own view of its registers, queues and objects, as JSON.
    ///
    /// # Errors
    ///
    /// Not permitted: it takes CAP_NET_ADMIN, because it shows everybody's objects. The device is gone.
    pub fn dump(&self) -> Result<String> {
        const DOING: &str = "dump the device's state";
        let bytes = self.bytes(DOING, class::DEVICE, 0, DUMP, 256 << 10)?;
        String::from_utf8(bytes).map_err(|_| Error::Answer {
            doing: DOING,
            what: "it is not UTF-8",
        })
    }

    /// The device's event queues, in the order of their numbers: how full each is, what it is armed for, how many report to it.
    ///
    /// # Errors
    ///
    /// Not permitted: it takes CAP_NET_ADMIN, because everybody's events come there. The device is gone.
    pub fn event_rings(&self) -> Result<Vec<EventRingState>> {
        self.array("query the event queues", class::DEVICE, 0, EVENT_RINGS)
    }

    /// How the context's doorbell pages are used, one after the other.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn doorbell_use(&self) -> Result<Vec<DoorbellUse>> {
        const DOING: &str = "query a doorbell page";
        let objects = self.objects()?;
        let pages = objects.iter().filter(|object| object.class == DOORBELL_CLASS);
        let ask = |page: &ObjectInfo| {
            let mut words = [0; MESSAGE];
            let mut message = Builder::new(&mut words, DOORBELL_CLASS, page.object.0);
            message.ask(DOORBELL_USE);
            self.call(DOING, method::QUERY, message)?.expect(DOING, DOORBELL_USE)
        };
        pages.map(ask).collect()
    }

    /// Memory for data: `len` bytes that can be registered, zeroed.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn alloc_buffer(&self, len: usize) -> Result<Buffer> {
        Ok(Buffer::new(self.inner.transport.alloc(len)?, len))
    }

    /// The MAC address of a port: the one that entry 0 of its GID table is derived from.
    ///
    /// # Errors
    ///
    /// There is no such port, or its first GID comes from elsewhere; the device is gone.
    pub fn mac(&self, port: u32) -> Result<[u8; 6]> {
        let gid = self.gid(port, 0)?;
        gid.mac().ok_or(Error::Argument(
            "the port's first GID is not derived from a MAC address",
        ))
    }

    /// Drops frames that come to port 1 and that `flow` takes, as long as the rule is.
    ///
    /// # Errors
    ///
    /// There is such a rule already; `flow` compares what it cannot; the device has no room for more rules; the process has not
    /// CAP_NET_RAW; the device is gone.
    pub fn drop_frames(&self, flow: &Flow) -> Result<DropRule> {
        DropRule::new(self, flow)
    }

    /// A new counter set.
    ///
    /// # Errors
    ///
    /// The device has no more, or is gone.
    pub fn create_counter_set(&self) -> Result<CounterSet> {
        CounterSet::new(self)
    }

    /// A new protection domain.
    ///
    /// # Errors
    ///
    /// The device has no more, or is gone.
    pub fn alloc_pd(&self) -> Result<ProtectionDomain> {
        ProtectionDomain::new(self)
    }

    /// A new completion queue of at least `entries` entries. [`CompletionQueue::builder`] has more to choose.
    ///
    /// # Errors
    ///
    /// The number is 0 or more than the device allows; the device has no more queues, or is gone.
    pub fn create_cq(&self, entries: u32) -> Result<CompletionQueue> {
        CompletionQueue::builder(self).entries(entries).build()
    }

    /// A new event queue.
    ///
    /// # Errors
    ///
    /// The process has no more descriptors; the device is gone.
    pub fn create_event_queue(&self) -> Result<EventQueue> {
        EventQueue::new(self, None)
    }

    /// Sends any message whatsoever, byte for byte, and gives what came back in it. This is for tests of the interface
    /// itself; `method` is the low byte of the ioctl number.
    ///
    /// Both attachments treat the header's length alike: it says how much of the message is looked at. Where it says
    /// more than there is, zeros follow.
    ///
    /// # Errors
    ///
    /// What the call says; the message's header has the details.
    ///
    /// # Safety
    ///
    /// What attributes by pointer name is written to, or registered with the device to be written to. It must be memory
    /// of the caller that no reference covers, or no memory at all.
    pub unsafe fn raw_call(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        let stated = message
            .first_chunk::<2>()
            .map_or(0, |n| usize::from(u16::from_ne_bytes(*n)));
        let mut whole = vec![0u64; stated.max(wire::HEADER).div_ceil(8)];
        let copied = message.len().min(stated.max(wire::HEADER));
        whole.as_mut_bytes()[..copied].copy_from_slice(&message[..copied]);
        let result = self
            .inner
            .transport
            .raw_call(method, &mut whole.as_mut_bytes()[..stated.max(wire::HEADER)]);
        message[..copied].copy_from_slice(&whole.as_bytes()[..copied]);
        result
    }

    pub(crate) fn qps(&self) -> &Arc<QpTable> {
        &self.inner.qps
    }

    /// What queue pairs in a ring memory are packed by; a page where kernel module or device know nothing of that.
    pub(crate) fn ring_grain(&self) -> Result<u32> {
        if let Some(&grain) = self.inner.ring_grain.get() {
            return Ok(grain);
        }
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::DEVICE, 0);
        message.optional().ask(RING_GRAIN);
        let answer = self.call("ask how queue pairs are packed", method::QUERY, message)?;
        let grain = answer.reply.get(RING_GRAIN).unwrap_or(PAGE as u32);
        Ok(*self.inner.ring_grain.get_or_init(|| grain))
    }

    pub(crate) fn doorbell(&self) -> &Mutex<Weak<Doorbell>> {
        &self.inner.doorbell
    }

    pub(crate) fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>> {
        let len = usize::try_from(len).map_err(|_| Error::Answer {
            doing: "map a queue",
            what: "its length",
        })?;
        self.inner.transport.map(offset, len)
    }

    pub(crate) fn register(&self, offset: u64) -> Result<Box<dyn Register>> {
        self.inner.transport.register(offset)
    }

    /// Sends a message that is finished.
    pub(crate) fn send(&self, method: u8, message: &mut [u8]) -> Result<(), Errno> {
        self.inner.transport.call(method, message)
    }

    /// Sends a message.
    pub(crate) fn call<'m>(&self, doing: &'static str, method: u8, message: Builder<'m>) -> Result<Answer<'m>> {
        let send = |bytes: &mut [u8]| self.inner.transport.call(method, bytes);
        send_message(doing, method, message, send).map(|(answer, ())| answer)
    }

    /// Sends a message whose answer is a descriptor.
    pub(crate) fn call_for_fd<'m>(
        &self,
        doing: &'static str,
        method: u8,
        message: Builder<'m>,
    ) -> Result<(Answer<'m>, Box<dyn EventFd>)> {
        send_message(doing, method, message, |bytes| {
            self.inner.transport.create_fd(method, bytes)
        })
    }

    /// An array of unknown length, by QUERY.
    pub(crate) fn array<T: Payload>(
        &self,
        doing: &'static str,
        class: u16,
        object: u32,
        attr: Attr<[T]>,
    ) -> Result<Vec<T>> {
        let bytes = self.bytes(doing, class, object, attr, 64 * size_of::<T>())?;
        Ok(bytes
            .chunks_exact(size_of::<T>())
            .filter_map(|one| T::read_from_bytes(one).ok())
            .collect())
    }

    /// A value of unknown length, by QUERY. `guess` is how long it probably is; if it is longer, it is asked for again.
    fn bytes<T: ?Sized>(
        &self,
        doing: &'static str,
        class: u16,
        object: u32,
        attr: Attr<T>,
        guess: usize,
    ) -> Result<Vec<u8>> {
        let mut room = guess;
        // It may grow between two calls, but not for ever.
        for _ in 0..8 {
            let mut value = vec![0u8; room];
            let mut words = [0; MESSAGE];
            let mut message = Builder::new(&mut words, class, object);
            message.by_pointer(attr, value.as_mut_ptr().expose_provenance() as u64, value.len() as u64);
            let answer = self.call(doing, method::QUERY, message)?;
            let Some(answered) = answer.reply.answered(attr.id()) else {
                return Err(Error::Answer {
                    doing,
                    what: "it was asked for and not given",
                });
            };
            if !answered.truncated {
                value.truncate(answered.written as usize);
                return Ok(value);
            }
            let full = answered.full.and_then(|full| usize::try_from(full).ok());
            room = full.unwrap_or(0).max(room.saturating_mul(2)).min(1 << 30);
        }
        Err(Error::Answer {
            doing,
            what: "it grows faster than it can be read",
        })
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.inner.attachment)
    }
}

/// A message's way there and back.
pub(crate) fn send_message<'m, T>(
    doing: &'static str,
    method: u8,
    message: Builder<'m>,
    send: impl FnOnce(&mut [u8]) -> Result<T, Errno>,
) -> Result<(Answer<'m>, T)> {
    let message = message
        .finish()
        .map_err(|_| Error::Argument("the message is too long"))?;
    match send(message) {
        Ok(value) => Ok((Answer::of(message), value)),
        Err(errno) => Err(failed(doing, method, message, errno)),
    }
}

/// What a message says that came back from a call that failed.
pub(crate) fn failed(doing: &'static str, method: u8, message: &[u8], errno: Errno) -> Error {
    let reply = Reply::new(message);
    CallError {
        doing,
        failure: reply.failure(errno),
        called: Some((reply.header().class, method)),
    }
    .into()
}

/// A message that came back from a call that succeeded.
pub(crate) struct Answer<'m> {
    reply: Reply<'m>,
}

impl<'m> std::ops::Deref for Answer<'m> {
    type Target = Reply<'m>;

    fn deref(&self) -> &Reply<'m> {
        &self.reply
    }
}

impl<'m> Answer<'m> {
    /// Of a message whose call succeeded.
    pub(crate) fn of(message: &'m [u8]) -> Self {
        Self {
            reply: Reply::new(message),
        }
    }

    /// An output that must be there.
    pub(crate) fn expect<T: Payload>(&self, doing: &'static str, attr: Attr<T>) -> Result<T> {
        // No error is made for what is there: a program that makes a thousand objects asks for thousands of outputs.
        match self.reply.get(attr) {
            Some(value) => Ok(value),
            None => Err(Error::Answer {
                doing,
                what: "an output is missing",
            }),
        }
    }
}

/// What a port is.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// State, MTUs and the like.
    pub attrs: PortAttrs,
    /// The valid entries of the GID table.
    pub gids: Vec<GidEntry>,
    /// The P_Key table.
    pub pkeys: Vec<u16>,
    /// The counters, by name.
    pub counters: Vec<(String, u64)>,
}

impl PortInfo {
    /// Whether it is active.
    pub fn is_active(&self) -> bool {
        self.attrs.state == port::state::ACTIVE
    }

    /// A counter's value.
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }
}
