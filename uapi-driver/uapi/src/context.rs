// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A context: an open file on a device, and the way a message takes through it.
//!
//! Header checked, class and method looked up, permission asked, attributes parsed, object found, handler called,
//! result written into the header.

use crate::call::Call;
use crate::class::{self, event_queue::Event, interface::feature};
use crate::device::Device;
use crate::driver::{Cause, Driver, Ending};
use crate::errno::Errno;
use crate::event::{EventQueue, FdObject, Given, Reporting, Subscription};
use crate::failure::{Failure, Outcome, Reason};
use crate::gate::Gate;
use crate::host::Host;
use crate::object::{Body, Object, ObjectRef};
use crate::parse::{self, Index, Words};
use crate::pipeline::InChain;
use crate::schema::{Access, AttrSchema, Target};
use crate::store::Store;
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{self, Arc, ArcRoom, Mutex, Vec};
use crate::table::Method;
use crate::trace::Watched;
use crate::wire::{self, AttrHead, Header, ObjectId, ATTR_HEAD, HEADER};
use zerocopy::{FromBytes, IntoBytes};

/// [`Context::features`] before the first call.
const FRESH: u64 = 1 << 63;

/// [`Context::closing`]: not closing.
const OPEN: u32 = 0;
/// Closing, and the release functions talk to the hardware.
const CLOSING: u32 = 1;
/// Closing, and there is no hardware any more.
const CLOSING_GONE: u32 = 2;

/// The device or one of its ports, as a source of events in a context.
struct Source<H: Host> {
    class: u16,
    number: u32,
    subscription: Subscription<H>,
}

/// An open file on a device.
pub struct Context<D: Driver> {
    device: Arc<Device<D>>,
    number: u32,
    owner: <D::Host as Host>::Owner,
    user: u32,
    state: D::Context,
    store: Store<D>,
    sources: Mutex<Vec<Source<D::Host>>>,
    features: AtomicU64,
    gate: Gate,
    /// What a DESTROY passes through when the device is gone.
    aftermath: Gate,
    /// One of `OPEN`, `CLOSING`, `CLOSING_GONE`; changes once, under the lock of the device's list.
    closing: AtomicU32,
}

impl<D: Driver> Context<D> {
    pub(crate) fn try_new(
        device: Arc<Device<D>>,
        number: u32,
        owner: <D::Host as Host>::Owner,
        user: u32,
        state: D::Context,
    ) -> Result<Arc<Self>, (Failure, D::Context)> {
        let store = match Store::try_new(D::MAX_OBJECTS.min(device.host().max_objects())) {
            Ok(store) => store,
            Err(_) => return Err((Failure::NO_MEMORY, state)),
        };
        let sources = match Mutex::try_new(Vec::new(), c"rdma_uapi_sources") {
            Ok(sources) => sources,
            Err(_) => return Err((Failure::NO_MEMORY, state)),
        };
        let room = match ArcRoom::try_new() {
            Ok(room) => room,
            Err(_) => return Err((Failure::NO_MEMORY, state)),
        };
        Ok(room.fill(Context {
            device,
            number,
            owner,
            user,
            state,
            store,
            sources,
            features: AtomicU64::new(FRESH),
            gate: Gate::new(),
            aftermath: Gate::new(),
            closing: AtomicU32::new(OPEN),
        }))
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device<D>> {
        &self.device
    }

    /// Which of the device's contexts it is, from 1, as they were opened.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Who opened it.
    pub fn owner(&self) -> &<D::Host as Host>::Owner {
        &self.owner
    }

    /// The driver's state.
    pub fn state(&self) -> &D::Context {
        &self.state
    }

    /// The objects.
    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// The user who opened it.
    pub(crate) fn user(&self) -> u32 {
        self.user
    }

    /// Bytes that it takes, its objects included, but not what they share with the process.
    pub fn bytes(&self) -> usize {
        let mut bytes = sys::arc_bytes::<Self>() + self.store.bytes() + size_of_val(&**self.sources.lock());
        self.store.each(|object| bytes += object.memory().bytes);
        bytes
    }

    /// [`feature`]s that it asked for.
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed) & feature::ALL
    }

    /// An ioctl on the device's file: `method` is the method's number, `message` the whole message, as long as its
    /// header says. On return the message holds the answer; all of it is to be copied back, also when the call failed.
    ///
    /// # Errors
    ///
    /// The errno; what exactly was wrong stands in the header then.
    pub fn dispatch(this: &Arc<Self>, method: u32, message: &mut [u8]) -> Result<(), Errno> {
        Self::dispatch_on(this, None, method, message, &mut |_| Ok(()))
    }

    /// The same, and gives the message back to the caller with `give_back`, once, whether the call failed or not. What a
    /// CREATE made and could not tell the caller of is destroyed again; any other call has been executed even if its
    /// answer cannot be given.
    ///
    /// # Errors
    ///
    /// As [`Context::dispatch`], or what `give_back` says.
    pub fn dispatch_and(
        this: &Arc<Self>,
        method: u32,
        message: &mut [u8],
        give_back: &mut GiveBack<'_>,
    ) -> Result<(), Errno> {
        Self::dispatch_on(this, None, method, message, give_back)
    }

    pub(crate) fn dispatch_on(
        this: &Arc<Self>,
        fd: Option<&FdObject<D>>,
        method: u32,
        message: &mut [u8],
        give_back: &mut GiveBack<'_>,
    ) -> Result<(), Errno> {
        Self::run::<false>(this, fd, method, message, None, give_back).map_err(Errno::from)
    }

    /// One command, and its answer given back; in a chain, with the objects that the commands before it created. `CHAINED`:
    /// it is in one; so that what is in none carries nothing of chains along.
    pub(crate) fn run<const CHAINED: bool>(
        this: &Arc<Self>,
        fd: Option<&FdObject<D>>,
        method: u32,
        message: &mut [u8],
        chain: Option<&InChain<'_, D>>,
        give_back: &mut GiveBack<'_>,
    ) -> Outcome {
        if this.device.tracers().any() {
            return Self::run_watched::<CHAINED>(this, fd, method, message, chain, give_back);
        }
        Self::run_unwatched::<CHAINED>(this, fd, method, message, chain, give_back)
    }

    /// The same, and tells those who observe the device.
    #[cold]
    #[inline(never)]
    fn run_watched<const CHAINED: bool>(
        this: &Arc<Self>,
        fd: Option<&FdObject<D>>,
        method: u32,
        message: &mut [u8],
        chain: Option<&InChain<'_, D>>,
        give_back: &mut GiveBack<'_>,
    ) -> Outcome {
        let watched = Watched::begin(this, chain.is_some(), fd.is_some());
        let outcome = Self::run_unwatched::<CHAINED>(this, fd, method, message, chain, give_back);
        watched.end(this, method, message, &outcome);
        outcome
    }

    #[inline]
    fn run_unwatched<const CHAINED: bool>(
        this: &Arc<Self>,
        fd: Option<&FdObject<D>>,
        method: u32,
        message: &mut [u8],
        chain: Option<&InChain<'_, D>>,
        give_back: &mut GiveBack<'_>,
    ) -> Outcome {
        match Self::execute::<CHAINED>(this, fd, method, message, chain, give_back) {
            Ok(()) => Ok(()),
            // The answer was given, or could not be.
            Err(Failed::Giving(failure)) => Err(failure),
            Err(Failed::Call(failure)) => {
                write_error(message, &failure);
                give_back(message).map_err(not_given)?;
                Err(failure)
            }
        }
    }

    fn execute<const CHAINED: bool>(
        this: &Arc<Self>,
        fd: Option<&FdObject<D>>,
        method: u32,
        message: &mut [u8],
        chain: Option<&InChain<'_, D>>,
        give_back: &mut GiveBack<'_>,
    ) -> Result<(), Failed> {
        let chain = if CHAINED { chain } else { None };
        let _pass = match this.gate.enter() {
            Ok(pass) => pass,
            Err(_) => return this.destroy_removed(method, message, chain, give_back),
        };
        let (header, words) = check_header(message)?;
        let class = this
            .device
            .table()
            .class(header.class)
            .ok_or_else(|| no_class::<D>(header.class))?;
        let method = class.called(method).ok_or_else(no_method)?;
        if !method.open || this.features.load(Ordering::Relaxed) != 0 {
            this.may_call(method, message)?;
        }
        let mut index = Index::EMPTY;
        parse::attributes(words, &method.layout, &mut index)?;
        let object = if method.lone && fd.is_none() && header.object == 0 {
            None
        } else {
            this.target(method.schema.target, fd, &header, chain)?
        };
        let mut call = Call::new(this, method, message, &index, object, fd, chain);
        let result = match (method.handler)(&mut call) {
            // Within the call: until the caller can know the new object's id, the call holds the object.
            Ok(()) => give_back(call.finish()).map_err(|errno| Failed::Giving(not_given(errno))),
            Err(failure) => Err(Failed::Call(failure)),
        };
        if result.is_err() {
            call.undo();
        }
        result
    }

    /// A call on a device that is gone. DESTROY alone still works, so that a program takes down what it has as it always
    /// does; there is nothing to tell the hardware.
    #[cold]
    #[inline(never)]
    fn destroy_removed(
        self: &Arc<Self>,
        method: u32,
        message: &mut [u8],
        chain: Option<&InChain<'_, D>>,
        give_back: &mut GiveBack<'_>,
    ) -> Result<(), Failed> {
        // A command of a chain is inside the gate that is waited for below.
        if method != u32::from(wire::method::DESTROY) || chain.is_some() || !self.device.is_removed() {
            return Err(Failure::GONE.into());
        }
        let _pass = self.aftermath.enter()?;
        while !self.gate.is_shut() {
            self.device.host().pause();
        }
        let (header, words) = check_header(message)?;
        let class = self.device.table().class(header.class);
        let class = class.ok_or_else(|| no_class::<D>(header.class))?;
        let destroy = class.method(wire::method::DESTROY).ok_or_else(no_method)?;
        let mut index = Index::EMPTY;
        parse::attributes(words, &destroy.layout, &mut index)?;
        let object = self.target(destroy.schema.target, None, &header, None)?;
        let mut call = Call::new(self, destroy, message, &index, object, None, None);
        call.destroy_for(Cause::Removed)?;
        give_back(call.finish()).map_err(|errno| Failed::Giving(not_given(errno)))
    }

    /// Passes the gate of the calls: until the result is dropped, what removes the device or closes the context waits for it.
    ///
    /// # Errors
    ///
    /// ENODEV if the device is gone, or the context closes.
    pub fn enter(&self) -> Outcome<impl Sized + '_> {
        self.gate.enter()
    }

    /// A method, by class and number.
    pub(crate) fn method(&self, class: u16, method: u32) -> Outcome<&Method<D>> {
        let class = self.device.table().class(class).ok_or_else(|| no_class::<D>(class))?;
        class.called(method).ok_or_else(no_method)
    }

    /// Whether anything has to be asked before an open method is called ([`Context::may_call`]).
    pub(crate) fn must_ask(&self) -> bool {
        self.features.load(Ordering::Relaxed) != 0
    }

    /// Whether this caller may call this method now.
    #[inline(never)]
    pub(crate) fn may_call(&self, method: &Method<D>, message: &[u8]) -> Outcome {
        let schema = method.schema;
        let asks = method.class.id == class::INTERFACE && schema.number == wire::method::MODIFY;
        if !asks && self.features.load(Ordering::Relaxed) == FRESH {
            self.features.fetch_and(!FRESH, Ordering::Relaxed);
        }
        if schema.number >= wire::method::EXPERIMENTAL && self.features() & feature::EXPERIMENTAL == 0 {
            return Err(Failure::new(Errno::EOPNOTSUPP, Reason::EXPERIMENTAL).at(wire::FIELD_METHOD, 0));
        }
        if schema.access != Access::Any && !self.device.host().may(&self.owner, schema.access) {
            return Err(Failure::new(Errno::EPERM, Reason::NOT_PERMITTED).at(wire::FIELD_METHOD, 0));
        }
        if method.guarded.is_empty() {
            return Ok(());
        }
        match Words::ref_from_bytes(message) {
            Ok(words) => self.may_give(&method.guarded, words),
            // The header has been checked: a message is of whole words.
            Err(_) => Ok(()),
        }
    }

    /// Whether this caller may give the attributes that a message has. It has not been parsed: what is wrong with it, the
    /// parser will say.
    fn may_give(&self, guarded: &[&AttrSchema], message: &Words) -> Outcome {
        let mut at = HEADER / wire::ALIGN;
        while let Some(&word) = message.get(at) {
            let head: AttrHead = zerocopy::transmute!(word);
            let length = usize::from(head.length);
            if length < ATTR_HEAD {
                break;
            }
            let id = head.id & wire::ATTR_ID;
            if let Some(attr) = guarded.iter().find(|attr| attr.spec.id == id) {
                // A value that is shorter is refused by the parser; so is one by pointer.
                let [value, _]: [u32; 2] = message.get(at + 1).map_or([0; 2], |&word| zerocopy::transmute!(word));
                let counts = attr.bit == 0 || value >> (attr.bit - 1) & 1 != 0;
                if counts && !self.device.host().may(&self.owner, attr.access) {
                    let failure = Failure::new(Errno::EPERM, Reason::NOT_PERMITTED);
                    return Err(failure.at(id, (at * wire::ALIGN) as u16));
                }
            }
            at += wire::align(length) / wire::ALIGN;
        }
        Ok(())
    }

    /// Asks for features; only as the first call.
    pub(crate) fn ask_features(&self, features: u64) -> Outcome {
        match self
            .features
            .compare_exchange(FRESH, features, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new(Errno::EBUSY, Reason::NOT_FIRST).at(wire::FIELD_METHOD, 0)),
        }
    }

    pub(crate) fn target(
        &self,
        target: Target,
        fd: Option<&FdObject<D>>,
        header: &Header,
        chain: Option<&InChain<'_, D>>,
    ) -> Outcome<Option<ObjectRef<D>>> {
        let wrong_fd = || Err(Failure::new(Errno::EINVAL, Reason::WRONG_FD).at(wire::FIELD_CLASS, 2));
        if fd.is_some() != (target == Target::Fd) {
            return wrong_fd();
        }
        let named = header.object != 0;
        match target {
            Target::Object => {
                let id = resolve(ObjectId(header.object), chain)
                    .map_err(|failure| failure.at(wire::FIELD_OBJECT, FIELD_OBJECT_OFFSET))?;
                match self.store.get_of(id, &[header.class]) {
                    Ok(object) => Ok(Some(object)),
                    Err(failure) => Err(failure.at(wire::FIELD_OBJECT, FIELD_OBJECT_OFFSET)),
                }
            }
            Target::Numbered => Ok(None),
            Target::New | Target::Only | Target::Fd if named => {
                Err(Failure::new(Errno::EINVAL, Reason::OBJECT_NOT_ZERO).at(wire::FIELD_OBJECT, FIELD_OBJECT_OFFSET))
            }
            Target::Fd if fd.is_some() && header.class != class::EVENT_QUEUE => wrong_fd(),
            Target::New | Target::Only | Target::Fd => Ok(None),
        }
    }

    /// The owner is gone, or closes: every object ends, in dependency order, then the driver's state. Must be called
    /// once for every context that was opened; when it returns, nothing of the driver's runs for it any more.
    pub fn close(this: &Arc<Self>) {
        let Some(cause) = this.device.begin_close(this) else {
            return;
        };
        this.gate.shut(this.device.host());
        this.aftermath.shut(this.device.host());
        this.store.drain(|object| {
            this.end_object(object, cause);
        });
        this.sources.lock().truncate(0);
        D::close(&this.device, &this.state);
        this.device.unlist(this);
    }

    /// Notes that it closes, with or without hardware; `false` if that is noted already. Under the lock of the device's
    /// list.
    pub(crate) fn begin_close(&self, gone: bool) -> bool {
        let state = if gone { CLOSING_GONE } else { CLOSING };
        self.closing
            .compare_exchange(OPEN, state, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether a removal of the device still has to wait for something here.
    pub(crate) fn holds_device(&self) -> bool {
        !self.gate.is_shut() || self.closing.load(Ordering::Relaxed) == CLOSING
    }

    /// Makes an object that no CREATE asked for, because a peer or the device did: of the class of `like`, reporting where
    /// that one reports. `make` gives its payload, with its id. Not from inside a call.
    ///
    /// # Errors
    ///
    /// The context closes; its limit; no memory; `like` reports nowhere, so nobody would hear of it.
    pub fn spawn(
        this: &Arc<Self>,
        like: &Object<D>,
        make: impl FnOnce(ObjectId) -> Outcome<D::Object>,
    ) -> Outcome<Arc<Object<D>>> {
        let _pass = this.gate.enter()?;
        let room = ArcRoom::try_new()?;
        // A queue that is closed meanwhile may miss the new object; what that reports goes nowhere then.
        let subscription = match &like.reporting {
            Some(reporting) => match &reporting.lock().to {
                Some(subscription) => Some(subscription.again(like.class())?),
                None => None,
            },
            None => None,
        };
        if subscription.is_none() {
            return Err(Failure::new(Errno::EINVAL, Reason::MISSING));
        }
        let reporting = Mutex::try_new(Reporting::new(subscription), c"rdma_uapi_reporting")?;
        let id = this.store.reserve()?;
        let payload = match make(id) {
            Ok(payload) => payload,
            Err(failure) => {
                this.store.free(id);
                return Err(failure);
            }
        };
        let object = Object::new(id, like.class(), &[], Some(reporting), Body::Driver(payload));
        let object = room.fill(object);
        this.store.publish(&object);
        // It was made in use by its creation, which is over.
        drop(ObjectRef::of_new(object.clone()));
        Ok(object)
    }

    /// Ends an object that its context was to hear of and did not. From inside a call, or of [`Context::spawn`].
    ///
    /// # Errors
    ///
    /// EBUSY: it did hear, and uses it. The object lives on.
    pub fn discard(&self, object: &Arc<Object<D>>) -> Outcome {
        let object = ObjectRef::acquire(object)?;
        self.destroy(&object, Cause::Destroy).map(|_| ())
    }

    fn end_object(&self, object: &ObjectRef<D>, cause: Cause) -> Given {
        if let Some(queue) = object.queue() {
            queue.end(None);
        }
        if let Err(failure) = self.release(object, cause) {
            let (class, id) = (object.class(), object.id().0);
            self.device.host().log(format_args!(
                "object {id:#x} of class {class:#x} did not end well: {failure}"
            ));
        }
        let given = object.subscribe(None);
        object.end();
        given
    }

    /// Ends an object that the caller has a reference to; says how many of its events the program has been given.
    ///
    /// # Errors
    ///
    /// EBUSY if something depends on it or another call uses it; for [`Cause::Destroy`] also what the class's release
    /// function says. The object lives on then.
    pub(crate) fn destroy(&self, object: &ObjectRef<D>, cause: Cause) -> Outcome<Given> {
        object
            .begin_end()
            .map_err(|failure| failure.at(wire::FIELD_OBJECT, FIELD_OBJECT_OFFSET))?;
        if cause == Cause::Destroy {
            if let Err(failure) = self.release(object, cause) {
                object.cancel_end();
                return Err(failure);
            }
            return Ok(self.ended(object));
        }
        let given = self.end_object(object, cause);
        self.store.free(object.id());
        Ok(given)
    }

    /// The driver has released an object that takes no calls any more: it is gone.
    pub(crate) fn ended(&self, object: &ObjectRef<D>) -> Given {
        let given = object.subscribe(None);
        object.end();
        self.store.free(object.id());
        given
    }

    /// Calls the class's release function.
    fn release(&self, object: &Object<D>, cause: Cause) -> Outcome {
        match self
            .device
            .table()
            .class(object.class())
            .and_then(|class| class.release)
        {
            Some(release) => release(&Ending {
                context: self,
                object,
                cause,
            }),
            None => Ok(()),
        }
    }

    /// The device is gone.
    pub(crate) fn device_gone(&self) {
        if self.closing.load(Ordering::Relaxed) == CLOSING {
            self.device.host().pause();
            return;
        }
        self.gate.shut(self.device.host());
        let last = Event {
            kind: Device::<D>::LAST_EVENT,
            class: class::DEVICE,
            count: 1,
            ..Event::default()
        };
        self.store.each(|object| {
            if let Some(queue) = object.queue() {
                queue.end(Some(last));
            }
        });
    }

    /// A queue's file descriptor was closed.
    pub(crate) fn forget_fd(&self, id: ObjectId) {
        // Not a call: also when the device is gone. Closing waits for the gate only, so the store is asked first.
        let Ok(object) = self.store.get(id) else { return };
        if let Some(queue) = object.queue() {
            self.store.each(|other| {
                if other.reports_to(queue) {
                    other.subscribe(None);
                }
            });
            let mut sources = self.sources.lock();
            while let Some(n) = sources
                .iter()
                .position(|source| Arc::ptr_eq(source.subscription.queue(), queue))
            {
                sources.swap_remove(n);
            }
        }
        // A call that names the queue as the place to report to may be using it just now; it is over soon.
        loop {
            match object.begin_end() {
                Ok(()) => break self.store.free(id),
                Err(failure) if failure.reason == Reason::BUSY => self.device.host().pause(),
                Err(_) => break,
            }
        }
    }

    /// From now on the device or a port reports there, or nowhere.
    pub(crate) fn subscribe_source(&self, class: u16, number: u32, to: Option<Subscription<D::Host>>) -> Outcome {
        let mut sources = self.sources.lock();
        if let Some(n) = sources
            .iter()
            .position(|source| source.class == class && source.number == number)
        {
            drop(sources.swap_remove(n));
        }
        if let Some(subscription) = to {
            sources.push(Source {
                class,
                number,
                subscription,
            })?;
        }
        Ok(())
    }

    /// Whether the device or a port reports to that queue.
    pub(crate) fn source_reports_to(&self, class: u16, number: u32, queue: &Arc<EventQueue<D::Host>>) -> bool {
        let sources = self.sources.lock();
        sources.iter().any(|source| {
            source.class == class && source.number == number && Arc::ptr_eq(source.subscription.queue(), queue)
        })
    }

    pub(crate) fn post_source(&self, class: u16, number: u32, kind: u16, data: u64) {
        for source in self.sources.lock().iter_mut() {
            if source.class == class && source.number == number {
                source.subscription.post(class, number, kind, data);
            }
        }
    }
}

/// Copies a message to where the caller had it.
pub type GiveBack<'g> = dyn FnMut(&[u8]) -> Result<(), Errno> + 'g;

/// Why a call failed.
enum Failed {
    /// In itself.
    Call(Failure),
    /// It succeeded, and the caller could not be given the answer.
    Giving(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Failed::Call(failure)
    }
}

#[cold]
pub(crate) fn not_given(errno: Errno) -> Failure {
    Failure::new(errno, Reason::BAD_POINTER)
}

const FIELD_OBJECT_OFFSET: u16 = 4;

/// The object that an id in a message means: in a chain it may be the one that an earlier command created.
pub(crate) fn resolve<D: Driver>(id: ObjectId, chain: Option<&InChain<'_, D>>) -> Outcome<ObjectId> {
    match chain {
        Some(InChain { created, .. }) if id.0 & ObjectId::CHAIN != 0 => {
            let command = (id.0 & !ObjectId::CHAIN) as usize;
            match created.get(command) {
                Some(&id) if id != ObjectId::NONE => Ok(id),
                _ => Err(Failure::new(Errno::EINVAL, Reason::BAD_REFERENCE).detail(command.min(0xffff) as u16)),
            }
        }
        _ => Ok(id),
    }
}

/// What a message's header says its length is, before the rest of it is there. Whoever copies messages in asks first, and
/// gives the header back if the answer is an error: the failure stands in it then, as in any message.
///
/// # Errors
///
/// EINVAL, BAD_LENGTH: not a multiple of 8, shorter than a header, or longer than [`wire::MAX_MESSAGE`].
pub fn message_length(header: &mut [u8; HEADER]) -> Result<usize, Errno> {
    let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
    check_length(length).map_err(|failure| {
        write_error(header, &failure);
        failure.errno
    })?;
    Ok(length)
}

/// Whether a message can have that length.
pub(crate) fn check_length(length: usize) -> Outcome {
    if (HEADER..=wire::MAX_MESSAGE).contains(&length) && length % wire::ALIGN == 0 {
        return Ok(());
    }
    Err(Failure::new(Errno::EINVAL, Reason::BAD_LENGTH).at(wire::FIELD_LENGTH, 0))
}

/// The length, class and object id of a message whose header is right, and the message in words.
#[inline]
pub(crate) fn check_header(message: &[u8]) -> Outcome<(Header, &Words)> {
    let (Ok((header, _)), Ok(words)) = (Header::read_from_prefix(message), Words::ref_from_bytes(message)) else {
        return Err(wrong_header(message));
    };
    // Flags and reserved, and the output-only part: nothing in there is known, so all of it is zero.
    let [flags, error]: [u64; 2] = [zerocopy::transmute!(words[1]), zerocopy::transmute!(words[2])];
    if flags | error | (u64::from(header.length) ^ message.len() as u64) != 0 {
        return Err(wrong_header(message));
    }
    Ok((header, words))
}

/// What is wrong with a header.
#[cold]
fn wrong_header(message: &[u8]) -> Failure {
    let (reason, field, offset) = match Header::read_from_prefix(message) {
        Err(_) => (Reason::SHORT_MESSAGE, wire::FIELD_LENGTH, 0),
        Ok((header, _)) if usize::from(header.length) != message.len() => (Reason::BAD_LENGTH, wire::FIELD_LENGTH, 0),
        Ok(_) if check_length(message.len()).is_err() => (Reason::BAD_LENGTH, wire::FIELD_LENGTH, 0),
        Ok((header, _)) if header.flags != 0 => (Reason::UNKNOWN_FLAG, wire::FIELD_FLAGS, 8),
        Ok((header, _)) if header.reserved != 0 => (Reason::NOT_ZERO, wire::FIELD_RESERVED, 12),
        Ok(_) => (Reason::NOT_ZERO, wire::FIELD_RESERVED, 16),
    };
    Failure::new(Errno::EINVAL, reason).at(field, offset)
}

pub(crate) fn write_error(message: &mut [u8], failure: &Failure) {
    if let Some(place) = message.get_mut(16..HEADER) {
        place.copy_from_slice(failure.extended().as_bytes());
    }
}

#[cold]
fn no_class<D: Driver>(class: u16) -> Failure {
    let reason = match wire::class_driver(class) {
        Some(driver) if driver != D::ID => Reason::OTHER_DRIVER,
        _ => Reason::NO_CLASS,
    };
    Failure::new(Errno::EOPNOTSUPP, reason).at(wire::FIELD_CLASS, 2)
}

#[cold]
fn no_method() -> Failure {
    Failure::new(Errno::EOPNOTSUPP, Reason::NO_METHOD).at(wire::FIELD_METHOD, 0)
}
