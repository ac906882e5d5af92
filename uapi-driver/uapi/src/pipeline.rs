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

use crate::call::{Call, Reservation, Rest};
use crate::context::{check_header, not_given, write_error, Context, GiveBack};
use crate::driver::Driver;
use crate::failure::{Failure, Outcome};
use crate::object::ObjectRef;
use crate::parse::{self, Index};
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
    left: Cell<Option<Left<D>>>,
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

/// A command that is under way.
pub(crate) struct Underway<D: Driver> {
    /// Its number in the chain.
    pub(crate) number: usize,
    /// Where its message is in the process.
    pub(crate) address: u64,
    /// Its method.
    pub(crate) method: u16,
    /// Bytes of the message.
    pub(crate) length: usize,
    /// The message, at the beginning.
    pub(crate) message: Vec<u8>,
    index: Index,
    object: Option<ObjectRef<D>>,
    left: Left<D>,
}

/// The commands that are under way, the oldest first; and memory for their messages.
pub(crate) struct Pipeline<D: Driver> {
    /// A ring of [`WINDOW`] places, once it is needed.
    places: Vec<Option<Underway<D>>>,
    oldest: usize,
    len: usize,
    spare: Vec<Vec<u8>>,
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
            spare: Vec::new(),
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

    /// Whether a command can be under way together with those that are: of the same method, with a message of its own.
    pub(crate) fn suits(&self, method: u16, address: u64, length: usize) -> bool {
        let Some(Some(oldest)) = self.places.get(self.oldest).filter(|_| self.len > 0) else {
            return true;
        };
        let end = address.saturating_add(length as u64);
        oldest.method == method && (end <= self.from || self.to <= address)
    }

    /// Adds a command; there is room ([`Pipeline::make_room`], [`Pipeline::is_full`]).
    pub(crate) fn push(&mut self, command: Underway<D>) {
        if self.len == 0 {
            (self.from, self.to) = (u64::MAX, 0);
        }
        self.from = self.from.min(command.address);
        self.to = self.to.max(command.address.saturating_add(command.length as u64));
        let place = (self.oldest + self.len) % WINDOW;
        self.places[place] = Some(command);
        self.len += 1;
    }

    /// Makes the places, if there are none yet. Whether there are.
    pub(crate) fn make_room(&mut self) -> bool {
        while self.places.len() < WINDOW {
            if self.places.push(None).is_err() {
                return false;
            }
        }
        true
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Underway<D>> {
        if self.len == 0 {
            return None;
        }
        let command = self.places[self.oldest].take();
        self.oldest = (self.oldest + 1) % WINDOW;
        self.len -= 1;
        command
    }

    /// Memory for a message.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives it back.
    pub(crate) fn done_with(&mut self, buffer: Vec<u8>) {
        // Without memory for the note that there is memory, there is none.
        let _ = self.spare.push(buffer);
    }
}

/// Begins a command whose message is the first `length` bytes of `message`. If it does not begin, for whatever reason, nothing
/// has happened, but the message may have changed; it comes back.
pub(crate) fn begin<D: Driver>(
    context: &Arc<Context<D>>,
    (number, address, method, length): (usize, u64, u16, usize),
    mut message: Vec<u8>,
    created: &[ObjectId],
    (stops, first): (bool, bool),
    chain: &D::Chain,
) -> Result<Underway<D>, Vec<u8>> {
    let in_chain = InChain {
        created,
        offer: Some(Offer {
            stops,
            first,
            chain,
            left: Cell::new(None),
        }),
    };
    match try_begin(context, u32::from(method), &mut message[..length], &in_chain) {
        Ok((index, object)) => match in_chain.offer.and_then(|offer| offer.left.take()) {
            Some(left) => Ok(Underway {
                number,
                address,
                method,
                length,
                message,
                index,
                object,
                left,
            }),
            None => unreachable!("a handler that defers, and is offered to, takes the offer or fails"),
        },
        Err(_) => Err(message),
    }
}

/// As `Context::execute`, up to the handler.
#[inline(never)]
fn try_begin<D: Driver>(
    context: &Arc<Context<D>>,
    method: u32,
    message: &mut [u8],
    in_chain: &InChain<'_, D>,
) -> Outcome<(Index, Option<ObjectRef<D>>)> {
    let _pass = context.enter()?;
    let (header, words) = check_header(message)?;
    let method = context.method(header.class, method)?;
    if !method.open || context.must_ask() {
        context.may_call(method, message)?;
    }
    let mut index = Index::EMPTY;
    parse::attributes(words, &method.layout, &mut index)?;
    let object = context.target(method.schema.target, None, &header, Some(in_chain))?;
    let mut call = Call::new(context, method, message, &index, object, None, Some(in_chain));
    (method.handler)(&mut call)?;
    let object = call.into_object();
    Ok((index, object))
}

/// Ends a command that was begun, and says what its CREATE made. With `keep`, its answer is given back with `give_back`; else
/// what it made ends again, and nobody hears of it. Of one that was `canceled`, a failure is not told.
pub(crate) fn finish<D: Driver>(
    context: &Arc<Context<D>>,
    command: Underway<D>,
    (keep, canceled): (bool, bool),
    give_back: &mut GiveBack<'_>,
) -> (Outcome<ObjectId>, Vec<u8>) {
    let Underway {
        method,
        length,
        mut message,
        index,
        object,
        left,
        ..
    } = command;
    let outcome = try_finish(
        context,
        u32::from(method),
        &mut message[..length],
        (&index, object),
        left,
        keep.then_some(&mut *give_back),
    );
    let outcome = match outcome {
        Ok(()) => {
            let header = Header::read_from_prefix(&message);
            Ok(ObjectId(header.map_or(0, |(header, _)| header.object)))
        }
        Err((failure, given)) => {
            if !canceled && !given {
                write_error(&mut message[..length], &failure);
                match give_back(&message[..length]) {
                    Ok(()) => Err(failure),
                    Err(errno) => Err(not_given(errno)),
                }
            } else {
                Err(failure)
            }
        }
    };
    (outcome, message)
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
