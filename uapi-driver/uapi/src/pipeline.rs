// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Commands of a chain under way together: what a driver may begin without waiting for its end.
//!
//! A driver says which methods it can begin ([`Driver::defers`]). A handler of such a method looks for an offer
//! ([`Call::offer`]); if there is one it sends what it has to say to the device, leaves what it will need when the answer is
//! there ([`Offer::take`]), and returns. The end of the call is then [`Driver::finish`], called for one command after
//! the other in the order of the chain.
//!
//! What the program sees is what the commands would have done one after the other. For that
//!
//! - only neighbours of one method are under way together, and nothing that needs the result of another;
//! - whatever does not begin smoothly is executed in its turn instead, with nothing under way;
//! - in a chain that stops at a failure, the driver tells the device to execute nothing behind a command that failed
//!   ([`Offer::stops`]), and what a CREATE has made all the same is ended before anybody can have heard of it.

use crate::call::Call;
use crate::context::{check_header, not_given, write_error, Context, GiveBack};
use crate::driver::Driver;
use crate::failure::{Failure, Outcome};
use crate::object::ObjectRef;
use crate::parse::{self, Index};
use crate::reservation::{Reservation, Rest};
use crate::sys::{Arc, Vec};
use crate::wire::{Header, ObjectId};
use core::cell::Cell;
use zerocopy::FromBytes;

/// Commands of one chain that are under way at a time, at most. A device answers in less time than it takes to begin so
/// many.
pub(crate) const WINDOW: usize = 32;

/// A chain, as one of its commands sees it.
pub(crate) struct InChain<'c, D: Driver> {
    /// What each command has created.
    pub(crate) created: &'c [ObjectId],
    /// The command may leave its end for later.
    pub(crate) offer: Option<Offer<'c, D>>,
}

impl<'c, D: Driver> InChain<'c, D> {
    /// For a command that is executed whole.
    pub(crate) fn whole(created: &'c [ObjectId]) -> Self {
        InChain { created, offer: None }
    }
}

/// A handler may begin its command and leave the end for later.
pub struct Offer<'c, D: Driver> {
    stops: bool,
    first: bool,
    chain: &'c D::Chain,
    left: &'c Cell<Option<Left<D>>>,
}

/// What a handler has left.
struct Left<D: Driver> {
    pending: D::Pending,
    reservation: Option<Rest<D>>,
}

impl<'c, D: Driver> Offer<'c, D> {
    /// Nothing may be executed behind a command that fails.
    pub fn stops(&self) -> bool {
        self.stops
    }

    /// No command of the chain is under way before this one.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// What the driver keeps for the chain.
    pub fn chain(&self) -> &'c D::Chain {
        self.chain
    }

    /// Takes the offer: the command is under way, and its end is left to [`Driver::finish`]. The handler's last act.
    pub fn take(&self, pending: D::Pending, reservation: Option<Reservation<'_, D>>) {
        let reservation = reservation.map(Reservation::detach);
        self.left.set(Some(Left { pending, reservation }));
    }
}

/// Which command of a chain.
#[derive(Clone, Copy)]
pub(crate) struct Which {
    /// Its number in the chain.
    pub(crate) number: usize,
    /// Where its message is in the process.
    pub(crate) address: u64,
    /// Its method.
    pub(crate) method: u16,
    /// Bytes of the message.
    pub(crate) length: usize,
}

/// A place for a command that is under way. What is long stays where it is: places are used again and again.
pub(crate) struct Place<D: Driver> {
    which: Which,
    /// The message, at the beginning; what is behind it is rubbish.
    message: Vec<u8>,
    index: Index,
    object: Option<ObjectRef<D>>,
    left: Cell<Option<Left<D>>>,
}

impl<D: Driver> Place<D> {
    const fn new() -> Self {
        Place {
            which: Which {
                number: 0,
                address: 0,
                method: 0,
                length: 0,
            },
            message: Vec::new(),
            index: Index::EMPTY,
            object: None,
            left: Cell::new(None),
        }
    }
}

/// The commands that are under way, the oldest first.
pub(crate) struct Pipeline<D: Driver> {
    /// A ring of [`WINDOW`] places, once it is needed.
    places: Vec<Place<D>>,
    oldest: usize,
    len: usize,
    /// All their messages are between these addresses.
    from: u64,
    to: u64,
    pub(crate) chain: D::Chain,
}

impl<D: Driver> Pipeline<D> {
    pub(crate) fn new() -> Self {
        Pipeline {
            places: Vec::new(),
            oldest: 0,
            len: 0,
            from: u64::MAX,
            to: 0,
            chain: D::Chain::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == WINDOW
    }

    /// The oldest command.
    pub(crate) fn oldest(&self) -> Option<Which> {
        self.places
            .get(self.oldest)
            .filter(|_| self.len > 0)
            .map(|place| place.which)
    }

    /// Whether a command can be under way together with those that are: of the same method, with a message of its own.
    pub(crate) fn suits(&self, method: u16, address: u64, length: usize) -> bool {
        let Some(oldest) = self.oldest() else { return true };
        let end = address.saturating_add(length as u64);
        oldest.method == method && (end <= self.from || self.to <= address)
    }

    /// Makes the places, if there are none yet. Whether there are.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.places.is_empty() && self.places.reserve(WINDOW).is_err() {
            return false;
        }
        while self.places.len() < WINDOW {
            if self.places.push(Place::new()).is_err() {
                return false;
            }
        }
        true
    }

    /// Begins the command whose message is at the beginning of `message`; there is room ([`Pipeline::make_room`],
    /// [`Pipeline::is_full`]). If it begins, `message` is other memory afterwards. If not, for whatever reason, nothing has
    /// happened, but the message may have changed.
    pub(crate) fn begin(
        &mut self,
        context: &Arc<Context<D>>,
        which: Which,
        message: &mut Vec<u8>,
        created: &[ObjectId],
        stops: bool,
    ) -> bool {
        let first = self.len == 0;
        let Place { index, left, .. } = &mut self.places[(self.oldest + self.len) % WINDOW];
        let in_chain = InChain {
            created,
            offer: Some(Offer {
                stops,
                first,
                chain: &self.chain,
                left,
            }),
        };
        *index = Index::EMPTY;
        let bytes = &mut message[..which.length];
        let Ok(object) = try_begin(context, u32::from(which.method), bytes, index, &in_chain) else {
            return false;
        };
        let place = &mut self.places[(self.oldest + self.len) % WINDOW];
        place.which = which;
        place.object = object;
        core::mem::swap(&mut place.message, message);
        if first {
            (self.from, self.to) = (u64::MAX, 0);
        }
        self.from = self.from.min(which.address);
        self.to = self.to.max(which.address.saturating_add(which.length as u64));
        self.len += 1;
        true
    }

    /// Ends the oldest command, and says what its CREATE made. With `keep`, its answer is given back with `give_back`; else
    /// what it made ends again, and nobody hears of it. Of one that was `canceled`, a failure is not told.
    ///
    /// # Panics
    ///
    /// If none is under way.
    pub(crate) fn finish(
        &mut self,
        context: &Arc<Context<D>>,
        (keep, canceled): (bool, bool),
        give_back: &mut GiveBack<'_>,
    ) -> Outcome<ObjectId> {
        assert!(self.len > 0, "whoever ends a command has begun it");
        let place = &mut self.places[self.oldest];
        self.oldest = (self.oldest + 1) % WINDOW;
        self.len -= 1;
        let message = &mut place.message[..place.which.length];
        let Some(left) = place.left.take() else {
            unreachable!("a handler that defers, and is offered to, takes the offer or fails")
        };
        let method = u32::from(place.which.method);
        let (index, object) = (&place.index, place.object.take());
        let given = keep.then_some(&mut *give_back);
        match try_finish(context, method, message, (index, object), left, given) {
            Ok(()) => {
                let header = Header::read_from_prefix(message);
                Ok(ObjectId(header.map_or(0, |(header, _)| header.object)))
            }
            Err((failure, given)) => {
                if canceled || given {
                    return Err(failure);
                }
                write_error(message, &failure);
                give_back(message).map_err(not_given)?;
                Err(failure)
            }
        }
    }
}

/// As `Context::execute`, up to the handler; the object that the call is about.
#[inline(never)]
fn try_begin<D: Driver>(
    context: &Arc<Context<D>>,
    method: u32,
    message: &mut [u8],
    index: &mut Index,
    in_chain: &InChain<'_, D>,
) -> Outcome<Option<ObjectRef<D>>> {
    let _pass = context.enter()?;
    let (header, words) = check_header(message)?;
    let method = context.method(header.class, method)?;
    if !method.open || context.must_ask() {
        context.may_call(method, message)?;
    }
    parse::attributes(words, &method.layout, index)?;
    let object = context.target(method.schema.target, None, &header, Some(in_chain))?;
    let mut call = Call::new(context, method, message, index, object, None, Some(in_chain));
    (method.handler)(&mut call)?;
    Ok(call.into_object())
}

/// A failure says whether the answer was given, or could not be.
#[inline(never)]
fn try_finish<D: Driver>(
    context: &Arc<Context<D>>,
    method: u32,
    message: &mut [u8],
    (index, object): (&Index, Option<ObjectRef<D>>),
    left: Left<D>,
    give_back: Option<&mut GiveBack<'_>>,
) -> Result<(), (Failure, bool)> {
    let class = Header::read_from_prefix(message).map_or(0, |(header, _)| header.class);
    let Ok(method) = context.method(class, method) else {
        unreachable!("it was begun by this method")
    };
    let mut call = Call::new(context, method, message, index, object, None, None);
    let reservation = left.reservation.map(|rest| Reservation::attach(context, rest));
    let result = match (D::finish(&mut call, left.pending, reservation), give_back) {
        (Ok(()), Some(give_back)) => give_back(call.finish()).map_err(|errno| (not_given(errno), true)),
        (Ok(()), None) => {
            call.undo();
            Ok(())
        }
        (Err(failure), _) => Err((failure, false)),
    };
    if result.is_err() {
        call.undo();
    }
    result
}
