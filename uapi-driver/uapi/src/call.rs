// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What a handler is given: the checked message, the object, and ways to answer.
//!
//! A CREATE handler goes: find what the object is made from ([`Call::object_at`]), [`Call::reserve`] (id, memory,
//! the limit: all that can fail on this side), make the thing in hardware, [`Call::publish`], answer outputs. If it
//! fails after publishing, the dispatcher ends the object again.

use crate::answer::{write_result, Answer};
use crate::class;
use crate::context::{resolve, Context};
use crate::device::Device;
use crate::driver::{Cause, Driver};
use crate::errno::Errno;
use crate::event::{EventQueue, FdObject, Given, Reporting, Subscription};
use crate::failure::{Failure, Outcome, Reason};
use crate::host::Host;
use crate::object::{Body, Object, ObjectRef};
use crate::parse::{Found, Index};
use crate::pipeline::{InChain, Offer};
use crate::reservation::Reservation;
use crate::schema::{class_flags, Attr, Payload, Shape};
use crate::sys::{Arc, ArcRoom, Mutex};
use crate::table::Method;
use crate::wire::{self, ByPointer, Header, ObjectId};
use zerocopy::{FromBytes, IntoBytes};

/// A call being handled.
pub struct Call<'c, D: Driver> {
    context: &'c Arc<Context<D>>,
    method: &'c Method<D>,
    message: &'c mut [u8],
    index: &'c Index,
    object: Option<ObjectRef<D>>,
    fd: Option<&'c FdObject<D>>,
    chain: Option<&'c InChain<'c, D>>,
    answer: Option<u32>,
    created: Option<ObjectRef<D>>,
}

impl<'c, D: Driver> Call<'c, D> {
    pub(crate) fn new(
        context: &'c Arc<Context<D>>,
        method: &'c Method<D>,
        message: &'c mut [u8],
        index: &'c Index,
        object: Option<ObjectRef<D>>,
        fd: Option<&'c FdObject<D>>,
        chain: Option<&'c InChain<'c, D>>,
    ) -> Self {
        Call {
            context,
            method,
            message,
            index,
            object,
            fd,
            chain,
            answer: None,
            created: None,
        }
    }

    /// The context.
    pub fn context(&self) -> &'c Arc<Context<D>> {
        self.context
    }

    /// The driver's state of the context.
    pub fn state(&self) -> &'c D::Context {
        self.context.state()
    }

    /// The driver's state of the device.
    pub fn device(&self) -> &'c D::Device {
        self.context.device().state()
    }

    /// The device as the core knows it.
    pub fn core_device(&self) -> &'c Arc<Device<D>> {
        self.context.device()
    }

    /// Where it runs.
    pub fn host(&self) -> &'c D::Host {
        self.context.device().host()
    }

    /// The class's id.
    pub fn class(&self) -> u16 {
        self.method.class.id
    }

    /// The object that the call is about, for methods on an existing object.
    ///
    /// # Panics
    ///
    /// In a method whose target is another.
    pub fn object(&self) -> &ObjectRef<D> {
        self.object.as_ref().expect("the method's target is an object")
    }

    /// The driver's part of the object that the call is about.
    ///
    /// # Panics
    ///
    /// In a method whose target is another, or on an object that is not the driver's.
    pub fn payload(&self) -> &D::Object {
        self.object().payload().expect("the class's objects have a payload")
    }

    /// The header's object id, where it is a number (a port's).
    pub fn number(&self) -> u32 {
        Header::read_from_prefix(self.message).map_or(0, |(header, _)| header.object)
    }

    /// The event queue that the call is about.
    ///
    /// # Panics
    ///
    /// In a method whose target is not a file descriptor.
    pub fn queue(&self) -> &'c Arc<EventQueue<D::Host>> {
        &self.fd.expect("the method's target is a file descriptor").queue
    }

    /// The id of the event queue that the call is about.
    ///
    /// # Panics
    ///
    /// In a method whose target is not a file descriptor.
    pub(crate) fn queue_id(&self) -> ObjectId {
        self.fd.expect("the method's target is a file descriptor").id
    }

    /// Calls the handler that this one replaced.
    ///
    /// # Errors
    ///
    /// What that one says; EOPNOTSUPP if there was none.
    pub fn replaced(&mut self) -> Outcome {
        match self.method.replaced {
            Some(handler) => handler(self),
            None => Err(Failure::new(Errno::EOPNOTSUPP, Reason::NO_METHOD).at(wire::FIELD_METHOD, 0)),
        }
    }

    // What takes an `Attr` is inlined as far as its id: which slot that is, is then known when the handler is compiled, and a
    // schema's description is not copied for each question.
    #[inline(always)]
    fn find(&self, id: u16) -> Option<Found> {
        self.index.find(self.message, self.method.layout.slot(id))
    }

    /// A failure that names an attribute, at its place if the message has it.
    #[inline]
    pub fn fail<T: ?Sized>(&self, attr: Attr<T>, errno: Errno, reason: Reason) -> Failure {
        self.fail_at(attr.id(), errno, reason)
    }

    #[cold]
    #[inline(never)]
    fn fail_at(&self, id: u16, errno: Errno, reason: Reason) -> Failure {
        let offset = self.find(id).map_or(0, |found| found.offset);
        Failure::new(errno, reason).at(id, offset)
    }

    /// EINVAL: the attribute's value is out of range.
    #[inline]
    pub fn out_of_range<T: ?Sized>(&self, attr: Attr<T>) -> Failure {
        self.fail(attr, Errno::EINVAL, Reason::OUT_OF_RANGE)
    }

    /// Whether the message has the attribute: an input is given, an output is asked for.
    #[inline]
    pub fn has<T: ?Sized>(&self, attr: Attr<T>) -> bool {
        self.index.has(self.method.layout.slot(attr.id()))
    }

    /// An input's value, if given; what a shorter version of a structure lacks is zero.
    ///
    /// # Errors
    ///
    /// EFAULT, for one by pointer.
    #[inline(always)]
    pub fn get<T: Payload>(&self, attr: Attr<T>) -> Outcome<Option<T>> {
        let Some(found) = self.find(attr.id()) else {
            return Ok(None);
        };
        if !found.by_pointer {
            if let Some(Ok((value, _))) = self.message.get(found.start..found.end).map(T::read_from_prefix) {
                return Ok(Some(value));
            }
        }
        self.get_odd(attr.id(), &found).map(Some)
    }

    /// The value of an attribute that is by pointer, or shorter than it is known.
    #[inline(never)]
    fn get_odd<T: Payload>(&self, id: u16, found: &Found) -> Outcome<T> {
        let mut value = T::new_zeroed();
        if found.by_pointer {
            let given = self.pointer(found);
            let length = size_of::<T>().min(given.length.try_into().unwrap_or(usize::MAX));
            self.copy_in(id, given.addr, &mut value.as_mut_bytes()[..length])?;
        } else {
            let payload = &self.message[found.start..found.end];
            let length = payload.len().min(size_of::<T>());
            value.as_mut_bytes()[..length].copy_from_slice(&payload[..length]);
        }
        Ok(value)
    }

    /// An input's value that must be there.
    ///
    /// # Errors
    ///
    /// EINVAL, naming it, if it is not; EFAULT.
    #[inline]
    pub fn require<T: Payload>(&self, attr: Attr<T>) -> Outcome<T> {
        self.get(attr)?
            .ok_or_else(|| self.fail(attr, Errno::EINVAL, Reason::MISSING))
    }

    /// An inline input's bytes, if given.
    pub fn bytes<T: ?Sized>(&self, attr: Attr<T>) -> Option<&[u8]> {
        let found = self.find(attr.id())?;
        if found.by_pointer {
            return None;
        }
        Some(&self.message[found.start..found.end])
    }

    /// Elements in an array input; zero if it is not there.
    ///
    /// # Errors
    ///
    /// EINVAL if it is no whole number.
    pub fn count<T: Payload>(&self, attr: Attr<[T]>) -> Outcome<usize> {
        let Some(found) = self.find(attr.id()) else {
            return Ok(0);
        };
        let bytes = if found.by_pointer {
            self.pointer(&found).length
        } else {
            (found.end - found.start) as u64
        };
        match usize::try_from(bytes) {
            Ok(bytes) if bytes % size_of::<T>() == 0 => Ok(bytes / size_of::<T>()),
            _ => Err(self.fail(attr, Errno::EINVAL, Reason::NOT_WHOLE)),
        }
    }

    /// Element `n` of an array input, which must have that many.
    ///
    /// # Errors
    ///
    /// EFAULT, for one by pointer.
    ///
    /// # Panics
    ///
    /// If it has not that many.
    pub fn element<T: Payload>(&self, attr: Attr<[T]>, n: usize) -> Outcome<T> {
        let found = self.find(attr.id()).expect("the caller has counted the elements");
        let mut value = T::new_zeroed();
        let at = n * size_of::<T>();
        if found.by_pointer {
            let given = self.pointer(&found);
            assert!(
                at as u64 + size_of::<T>() as u64 <= given.length,
                "the caller has counted the elements"
            );
            self.copy_in(attr.id(), given.addr.wrapping_add(at as u64), value.as_mut_bytes())?;
        } else {
            let payload = &self.message[found.start..found.end];
            value.as_mut_bytes().copy_from_slice(&payload[at..at + size_of::<T>()]);
        }
        Ok(value)
    }

    /// As many elements of an array input as there is room for, from element `n`; it must have so many.
    ///
    /// # Errors
    ///
    /// EFAULT, for one by pointer.
    ///
    /// # Panics
    ///
    /// If it has not that many.
    pub fn elements<T: Payload>(&self, attr: Attr<[T]>, n: usize, into: &mut [T]) -> Outcome {
        let found = self.find(attr.id()).expect("the caller has counted the elements");
        let (at, length) = (n * size_of::<T>(), size_of_val(into));
        if found.by_pointer {
            let given = self.pointer(&found);
            assert!(
                (at + length) as u64 <= given.length,
                "the caller has counted the elements"
            );
            return self.copy_in(attr.id(), given.addr.wrapping_add(at as u64), into.as_mut_bytes());
        }
        let payload = &self.message[found.start..found.end];
        into.as_mut_bytes().copy_from_slice(&payload[at..at + length]);
        Ok(())
    }

    /// The object that an input names, in use by this call until dropped.
    ///
    /// # Errors
    ///
    /// ENOENT, EBUSY, or EINVAL if it is of a class that the attribute does not take.
    #[inline]
    pub fn object_at(&self, attr: Attr<ObjectId>) -> Outcome<Option<ObjectRef<D>>> {
        let Shape::Object(classes) = attr.spec.shape else {
            unreachable!("an attribute of type ObjectId names the classes it takes")
        };
        self.object_of(attr, classes)
    }

    /// The same, of one of `classes` instead of those that the attribute's schema names: a driver's own class may stand
    /// where a common one can.
    ///
    /// # Errors
    ///
    /// As [`Call::object_at`].
    #[inline(always)]
    pub fn object_of(&self, attr: Attr<ObjectId>, classes: &[u16]) -> Outcome<Option<ObjectRef<D>>> {
        match self.get(attr)? {
            Some(id) => self.object_named(attr.id(), id, classes).map(Some),
            None => Ok(None),
        }
    }

    /// The object `named` by the attribute `id`.
    #[inline(never)]
    fn object_named(&self, id: u16, named: ObjectId, classes: &[u16]) -> Outcome<ObjectRef<D>> {
        resolve(named, self.chain)
            .and_then(|object| self.context.store().get_of(object, classes))
            .map_err(|failure| failure.at(id, self.find(id).map_or(0, |found| found.offset)))
    }

    /// The same, and it must be there.
    ///
    /// # Errors
    ///
    /// Also EINVAL if it is not.
    #[inline]
    pub fn require_object(&self, attr: Attr<ObjectId>) -> Outcome<ObjectRef<D>> {
        self.object_at(attr)?
            .ok_or_else(|| self.fail(attr, Errno::EINVAL, Reason::MISSING))
    }

    /// An object by the id it has in an element of an array.
    ///
    /// # Errors
    ///
    /// ENOENT, EBUSY.
    pub fn object_by_id(&self, id: ObjectId) -> Outcome<ObjectRef<D>> {
        self.context.store().get(resolve(id, self.chain)?)
    }

    /// Answers an output; nothing happens if it is not asked for.
    ///
    /// # Errors
    ///
    /// EFAULT, for one by pointer.
    #[inline]
    pub fn put<T: Payload>(&mut self, attr: Attr<T>, value: &T) -> Outcome {
        self.put_bytes(attr.id(), value.as_bytes())
    }

    /// Answers an array.
    ///
    /// # Errors
    ///
    /// EFAULT, for one by pointer.
    #[inline]
    pub fn put_array<T: Payload>(&mut self, attr: Attr<[T]>, values: &[T]) -> Outcome {
        self.put_bytes(attr.id(), values.as_bytes())
    }

    /// Answers a text.
    ///
    /// # Errors
    ///
    /// EFAULT, for one by pointer.
    #[inline]
    pub fn put_text(&mut self, attr: Attr<str>, text: &str) -> Outcome {
        self.put_bytes(attr.id(), text.as_bytes())
    }

    fn put_bytes(&mut self, id: u16, bytes: &[u8]) -> Outcome {
        let Some(found) = self.find(id) else { return Ok(()) };
        let fits = match self.message.get_mut(found.start..found.end) {
            Some(room) if !found.by_pointer => room.get_mut(..bytes.len()),
            _ => None,
        };
        if let Some(room) = fits {
            room.copy_from_slice(bytes);
            write_result(self.message, found.offset, wire::RESULT_ANSWERED | bytes.len() as u32);
            return Ok(());
        }
        let mut answer = self.answer_at(id, found);
        answer.push(bytes)?;
        answer.finish();
        Ok(())
    }

    /// Answers an output piece by piece; `None` if it is not asked for.
    pub fn stream<T: ?Sized>(&mut self, attr: Attr<T>) -> Option<Answer<'_, D>> {
        self.answer(attr.id())
    }

    fn answer(&mut self, id: u16) -> Option<Answer<'_, D>> {
        let found = self.find(id)?;
        Some(self.answer_at(id, found))
    }

    fn answer_at(&mut self, id: u16, found: Found) -> Answer<'_, D> {
        let given = found.by_pointer.then(|| self.pointer(&found));
        Answer::new(self.context, self.message, id, found, given)
    }

    fn pointer(&self, found: &Found) -> ByPointer {
        ByPointer::read_from_bytes(&self.message[found.start..found.end]).expect("the parser checked its size")
    }

    fn copy_in(&self, id: u16, addr: u64, into: &mut [u8]) -> Outcome {
        self.host()
            .copy_in(self.context.owner(), addr, into)
            .map_err(|errno| self.fail_at(id, errno, Reason::BAD_POINTER))
    }

    /// What the header's object field answers: for CREATE_FD the descriptor. CREATE need not: see [`Call::publish`].
    pub fn answer_object(&mut self, value: u32) {
        self.answer = Some(value);
    }

    /// Takes an id and the memory for a new object of the message's class.
    ///
    /// # Errors
    ///
    /// ENOSPC at the context's limit, ENOMEM, or what is wrong with the event queue that the message names.
    pub fn reserve(&self) -> Outcome<Reservation<'c, D>> {
        let reporting = if self.method.class.flags & class_flags::EVENTS == 0 {
            None
        } else {
            let to = match self.object_at(class::EVENT_QUEUE_OF)? {
                Some(object) => {
                    let queue = object.queue().expect("the class was checked");
                    let cookie = self.get(class::COOKIE)?.unwrap_or(0);
                    Some(Subscription::try_new(queue.clone(), self.class(), cookie)?)
                }
                None => None,
            };
            Some(Mutex::try_new(Reporting::new(to), c"rdma_uapi_reporting")?)
        };
        let room = ArcRoom::try_new()?;
        let id = self.context.store().reserve()?;
        Ok(Reservation {
            context: self.context,
            id,
            room: Some(room),
            reporting,
        })
    }

    /// The object exists: it gets its id, and depends on its parents from now on. Cannot fail. The header answers the
    /// id.
    pub fn publish(
        &mut self,
        reservation: Reservation<'c, D>,
        payload: Option<D::Object>,
        parents: &[&ObjectRef<D>],
    ) -> Arc<Object<D>> {
        let body = match payload {
            Some(payload) => Body::Driver(payload),
            None => Body::Plain,
        };
        let object = self.publish_body(reservation, body, parents);
        self.answer = Some(object.id().0);
        object
    }

    pub(crate) fn publish_body(
        &mut self,
        mut reservation: Reservation<'c, D>,
        body: Body<D>,
        parents: &[&ObjectRef<D>],
    ) -> Arc<Object<D>> {
        let room = reservation.room.take().expect("a reservation is used once");
        let reporting = reservation.reporting.take();
        let object = room.fill(Object::new(reservation.id, self.class(), parents, reporting, body));
        self.created = Some(ObjectRef::of_new(object.clone()));
        self.context.store().publish(&object);
        object
    }

    /// What was created stays even if the call fails from here on: somebody else ends it.
    pub(crate) fn keep(&mut self) {
        self.created = None;
    }

    /// Ends the object that the call is about: DESTROY.
    ///
    /// # Errors
    ///
    /// EBUSY if something depends on it or another call uses it; what the class's release function says. The object
    /// lives on then.
    pub fn destroy(&mut self) -> Outcome {
        self.destroy_for(Cause::Destroy)
    }

    pub(crate) fn destroy_for(&mut self, cause: Cause) -> Outcome {
        let given = self.context.destroy(self.object(), cause)?;
        self.answer_given(given)
    }

    fn answer_given(&mut self, given: Given) -> Outcome {
        self.put(class::COMPLETION_EVENTS, &given.completions)?;
        self.put(class::ASYNC_EVENTS, &given.others)
    }

    /// Begins to end the object that the call is about, and leaves the end for later.
    pub(crate) fn begin_destroy(&mut self, offer: &Offer<'_, D>) -> Outcome {
        let object = self.object();
        object.begin_end()?;
        match D::begin_release(self, offer) {
            Ok(pending) => {
                offer.take(pending, None);
                Ok(())
            }
            Err(failure) => {
                object.cancel_end();
                Err(failure)
            }
        }
    }

    /// The end of a DESTROY that was begun: the driver has `released` what it had, or could not, and the object lives on.
    ///
    /// # Errors
    ///
    /// That it could not.
    pub fn destroyed(&mut self, released: Outcome) -> Outcome {
        match released {
            Ok(()) => {
                let given = self.context.ended(self.object());
                self.answer_given(given)
            }
            Err(failure) => {
                self.object().cancel_end();
                Err(failure)
            }
        }
    }

    /// Whether the call is a command of a chain.
    pub(crate) fn in_chain(&self) -> bool {
        self.chain.is_some()
    }

    /// The offer to begin the command now and to leave its end for later, if there is one: see [`crate::pipeline`].
    pub fn offer(&self) -> Option<&'c Offer<'c, D>> {
        self.chain?.offer.as_ref()
    }

    /// The object that the call is about, which the call does not hold any more.
    pub(crate) fn into_object(self) -> Option<ObjectRef<D>> {
        self.object
    }

    /// The call succeeded: the header says so. The message.
    #[inline]
    pub(crate) fn finish(&mut self) -> &[u8] {
        if let Some(answer) = self.answer {
            self.message[4..8].copy_from_slice(answer.as_bytes());
        }
        self.message
    }

    /// The call failed: what it created ends again.
    #[cold]
    pub(crate) fn undo(&mut self) {
        let Some(object) = self.created.take() else { return };
        if let Err(failure) = self.context.destroy(&object, Cause::Close) {
            // Somebody guessed the id and uses the object already: it is theirs now.
            self.host().log(format_args!("a creation cannot be undone: {failure}"));
        }
    }
}
