// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of a batch: what each sends, and what each makes of the answer.

use super::ticket::{Made, Part, Ticket};
use super::Owned;
use crate::context::Answer;
use crate::counter::CounterChoice;
use crate::cq::{CqBuilder, CqShared};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::pd::Registration;
use crate::qp::{self, AnyNewQp, AnyQp, Batched, Completes, Ground, Names, QpAttr, Slots};
use crate::ring::place::RingMemory;
use crate::ring::table::Places;
use crate::{CompletionCounter, CompletionQueue, Context, ProtectionDomain, XrcDomain, XrcTargetBuilder};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use std::sync::Arc;
use verbena_core::platform::PAGE;

/// A queue pair that a command changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// One that is there: its place in the batch's list.
    Made(usize),
    /// The one that this command makes.
    New(usize),
}

pub(super) enum Command<'a> {
    Pd,
    Mr(Part<'a, ProtectionDomain>, Registration),
    Cq(CqBuilder<'a>),
    Counter(CounterChoice<'a>),
    Xrcd,
    Target(XrcTargetBuilder<'a, Batched>),
    /// And what it needs of the context, once that has been taken.
    Qp(Box<dyn AnyNewQp<'a> + 'a>, Option<Slots>),
    /// Of a queue pair of this class.
    Modify(Target, u16, QpAttr),
    Destroy(Owned),
}

/// What the ids are that commands name, before and after they are sent.
pub(super) struct Ids<'i, 'a> {
    pub(super) batch: u64,
    /// The first command of the chain at hand; those before it have been executed.
    pub(super) begin: usize,
    /// Commands that the chain has before that one: they make memory for its rings.
    pub(super) before: usize,
    /// What the executed commands made.
    pub(super) results: &'i [Option<Result<Made>>],
    pub(super) targets: &'i [&'a mut dyn AnyQp],
}

impl Ids<'_, '_> {
    /// The id of what command `n` makes: in this chain a reference to it, else its own; none if it failed.
    fn of_command(&self, n: usize) -> ObjectId {
        if n >= self.begin {
            return ObjectId(ObjectId::CHAIN | (n - self.begin + self.before) as u32);
        }
        made(self.results, n)
            .and_then(Made::object)
            .map_or(ObjectId::NONE, Object::id)
    }

    fn of<T>(&self, part: &Part<'_, T>, made: impl FnOnce(&T) -> ObjectId) -> ObjectId {
        match part {
            Part::Made(object) => made(object),
            Part::New(ticket) => self.of_command(ticket.command_in(self.batch)),
        }
    }

    fn of_target(&self, target: Target) -> ObjectId {
        match target {
            Target::Made(n) => self.targets[n].object().id(),
            Target::New(n) => self.of_command(n),
        }
    }
}

fn made(results: &[Option<Result<Made>>], n: usize) -> Option<&Made> {
    results.get(n)?.as_ref()?.as_ref().ok()
}

/// What has been made so far, by this batch or before it.
pub(super) struct Finished<'i> {
    pub(super) batch: u64,
    pub(super) results: &'i [Option<Result<Made>>],
}

impl Finished<'_> {
    /// What a ticket stands for. It is there: a command that names it has just succeeded, unless its memory could not
    /// be mapped here.
    fn ticket<T>(&self, ticket: Ticket<T>) -> Result<&Made> {
        match made(self.results, ticket.command_in(self.batch)) {
            Some(made) => Ok(made),
            None => Err(Error::Argument("what it stands on could not be mapped")),
        }
    }

    fn pd<'p>(&'p self, part: &Part<'p, ProtectionDomain>) -> Result<&'p ProtectionDomain> {
        match part {
            Part::Made(pd) => Ok(pd),
            Part::New(ticket) => match self.ticket(*ticket)? {
                Made::Pd(pd) => Ok(pd),
                _ => unreachable!("the ticket is a protection domain's"),
            },
        }
    }

    fn cq<'p>(&'p self, to: &Completes<'p>) -> Result<&'p Arc<CqShared>> {
        match to {
            Completes::Counter(Part::Made(counter)) => Ok(&counter.shared),
            Completes::Counter(Part::New(ticket)) => Ok(&self.counter(*ticket)?.shared),
            Completes::Queue(Part::Made(cq)) => Ok(&cq.shared),
            Completes::Queue(Part::New(ticket)) => match self.ticket(*ticket)? {
                Made::Cq(cq) => Ok(&cq.shared),
                _ => unreachable!("the ticket is a completion queue's"),
            },
        }
    }

    fn counter(&self, ticket: Ticket<CompletionCounter>) -> Result<&CompletionCounter> {
        match self.ticket(ticket)? {
            Made::Counter(counter) => Ok(counter),
            _ => unreachable!("the ticket is a completion counter's"),
        }
    }

    /// Where a counter that the batch has made has its places.
    fn places(&self, to: &Completes<'_>) -> Result<Option<Arc<Places>>> {
        match to {
            Completes::Counter(Part::New(ticket)) => Ok(Some(self.counter(*ticket)?.places.clone())),
            Completes::Counter(Part::Made(_)) | Completes::Queue(_) => Ok(None),
        }
    }

    fn domain<'p>(&'p self, part: &Part<'p, XrcDomain>) -> Result<&'p XrcDomain> {
        match part {
            Part::Made(domain) => Ok(domain),
            Part::New(ticket) => match self.ticket(*ticket)? {
                Made::Xrcd(domain) => Ok(domain),
                _ => unreachable!("the ticket is an XRC domain's"),
            },
        }
    }
}

impl Command<'_> {
    /// What it does, in a sentence.
    pub(super) fn doing(&self) -> &'static str {
        match self {
            Command::Pd => ProtectionDomain::DOING,
            Command::Mr(..) => Registration::DOING,
            Command::Cq(_) => CqBuilder::DOING,
            Command::Counter(_) => CounterChoice::DOING,
            Command::Xrcd => XrcDomain::DOING,
            Command::Target(_) => qp::MAKING_TARGET,
            Command::Qp(..) => qp::CREATING,
            Command::Modify(..) => qp::MODIFYING,
            Command::Destroy(owned) => owned.0.object().map_or("destroy it", Object::destroying),
        }
    }

    pub(super) fn method(&self) -> u8 {
        match self {
            Command::Modify(..) => method::MODIFY,
            Command::Destroy(_) => method::DESTROY,
            _ => method::CREATE,
        }
    }

    /// Takes what it needs of the context before it can be sent.
    pub(super) fn prepare(&mut self, context: &Context) -> Result<()> {
        if let Command::Qp(builder, slots) = self {
            *slots = Some(builder.slots(context)?);
        }
        Ok(())
    }

    /// What its queue is aligned to in a ring memory, packed or not, and the bytes that it takes; `None`: it makes no queue, or
    /// one that there cannot be.
    pub(super) fn room(&self, packed: bool) -> Option<(u64, u64)> {
        match self {
            Command::Cq(builder) => Some((PAGE, builder.ring_bytes()?)),
            Command::Qp(builder, _) => builder.room(packed),
            _ => None,
        }
    }

    /// The message; `memory` is the number of the chain's command that makes memory for its rings.
    pub(super) fn message<'m>(&self, words: &'m mut [u64], ids: &Ids<'_, '_>, memory: Option<u32>) -> Builder<'m> {
        let memory = memory.map(|n| ObjectId(ObjectId::CHAIN | n));
        let pd_id = |pd: &ProtectionDomain| pd.object.id();
        let cq_id = |cq: &CompletionQueue| cq.shared.object.id();
        let completes = |to: &Completes<'_>| match to {
            Completes::Queue(part) => ids.of(part, cq_id),
            Completes::Counter(part) => ids.of(part, |counter: &CompletionCounter| counter.shared.object.id()),
        };
        match self {
            Command::Pd => ProtectionDomain::message(words),
            Command::Mr(pd, memory) => memory.message(words, ids.of(pd, pd_id)),
            Command::Cq(builder) => builder.message(words, memory),
            Command::Counter(choice) => choice.message(words),
            Command::Xrcd => XrcDomain::message(words),
            Command::Target(builder) => {
                let domain = ids.of(&builder.domain(), |domain: &XrcDomain| domain.object.id());
                builder.message(words, domain, None)
            }
            Command::Qp(builder, slots) => {
                let (pd, [send_cq, recv_cq]) = builder.parts();
                let names = Names {
                    pd: ids.of(&pd, pd_id),
                    send_cq: completes(&send_cq),
                    recv_cq: completes(&recv_cq),
                    memory,
                };
                let slots = slots.as_ref().expect("a queue pair's slots were taken");
                builder.message(words, &names, slots)
            }
            Command::Modify(target, class, attributes) => attributes.message(words, *class, ids.of_target(*target)),
            Command::Destroy(owned) => {
                let object = owned.0.object().expect("what is destroyed is an object");
                Builder::new(words, object.class(), object.id().0)
            }
        }
    }

    /// It succeeded: what it made.
    pub(super) fn made(
        self,
        context: &Context,
        answer: &Answer<'_>,
        finished: &Finished<'_>,
        memory: Option<Arc<RingMemory>>,
    ) -> Result<Made> {
        match self {
            Command::Pd => ProtectionDomain::made(context, answer).map(Made::Pd),
            Command::Mr(pd, memory) => {
                let mr = memory.made(finished.pd(&pd)?, answer)?;
                Ok(Made::Mr(Box::new(mr)))
            }
            Command::Cq(builder) => Ok(Made::Cq(Box::new(builder.made(answer, memory)?))),
            Command::Counter(choice) => {
                let counter = CompletionCounter::made(context, answer, &choice)?;
                Ok(Made::Counter(Box::new(counter)))
            }
            Command::Xrcd => XrcDomain::made(context, answer).map(Made::Xrcd),
            Command::Target(builder) => {
                let target = builder.made(qp::MAKING_TARGET, finished.domain(&builder.domain())?, answer)?;
                Ok(Made::Qp(Box::new(target)))
            }
            Command::Qp(builder, slots) => {
                let (pd, [send_cq, recv_cq]) = builder.parts();
                let ground = Ground {
                    pd: finished.pd(&pd)?.object.clone(),
                    send_cq: finished.cq(&send_cq)?.clone(),
                    recv_cq: finished.cq(&recv_cq)?.clone(),
                    memory,
                    places: [finished.places(&send_cq)?, finished.places(&recv_cq)?],
                };
                let slots = slots.expect("a queue pair's slots were taken");
                Ok(Made::Qp(builder.made(context, answer, ground, slots)?))
            }
            Command::Modify(..) => Ok(Made::Nothing),
            Command::Destroy(owned) => {
                if let Some(object) = owned.0.object() {
                    object.note_destroyed();
                }
                Ok(Made::Nothing)
            }
        }
    }
}
