// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sending a batch: commands to messages, messages to a chain, answers to results.

use super::command::{Command, Finished, Ids, Target};
use super::memory::Plan;
use super::ticket::{canceled, Done, Made};
use super::{Batch, OnFailure};
use crate::context::{failed, Answer, MESSAGE};
use crate::error::{Error, Result};
use crate::qp::AnyQp;
use crate::ring::place::{self, RingMemory};
use rdma_uapi::class::interface::{self, mode, Command as Entry, MAX_COMMANDS};
use rdma_uapi::class::{self};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::method;
use rdma_uapi::Errno;
use std::sync::Arc;
use verbena_core::schema::RING_GRAIN_LEAST;
use zerocopy::IntoBytes;

/// What the call as a whole is, in a sentence.
const DOING: &str = "run a batch";
/// Commands of a batch in one chain, if it needs several: beside them there is room for the memory of their rings.
const SEVERAL: usize = MAX_COMMANDS - MAX_COMMANDS / 16;

/// Words of a message, as a rule.
const TYPICAL: usize = 32;

pub(super) fn run(batch: Batch<'_>, on_failure: OnFailure) -> Result<Done> {
    if on_failure == OnFailure::Undo && batch.commands.len() > MAX_COMMANDS {
        return Err(Error::Argument("a batch that can be undone has at most 4096 commands"));
    }
    let Batch {
        context,
        serial,
        commands,
        mut targets,
        ..
    } = batch;
    let mut done = Done {
        batch: serial,
        results: Vec::with_capacity(commands.len()),
        executed: 0,
        calls: 0,
    };
    let total = commands.len();
    let most = if total > MAX_COMMANDS { SEVERAL } else { MAX_COMMANDS };
    let mut commands = commands.into_iter();
    let mut stopped = false;
    while done.results.len() < total {
        let chunk: Vec<_> = commands.by_ref().take(most).collect();
        if stopped {
            let unsent = chunk.iter().map(|command| Some(Err(canceled(command.doing()))));
            done.results.extend(unsent);
            continue;
        }
        let chain = Chain::build(&context, chunk, &done, &targets)?;
        stopped = chain.send(&mut done, &mut targets, on_failure, total)? && on_failure == OnFailure::Stop;
    }
    Ok(done)
}

/// Commands that go in one call.
struct Chain<'a, 'c> {
    context: &'c crate::Context,
    /// Ring memories that are made before them: the chain's first commands.
    memories: usize,
    commands: Vec<Command<'a>>,
    /// By command: which ring memory it takes from.
    memory_of: Vec<Option<u32>>,
    /// The messages, one after the other, and where each begins and ends: the memories' and then the commands'.
    words: Vec<u64>,
    /// Where each is made.
    scratch: [u64; MESSAGE],
    places: Vec<(usize, usize)>,
}

impl<'a, 'c> Chain<'a, 'c> {
    fn build(
        context: &'c crate::Context,
        mut commands: Vec<Command<'a>>,
        done: &Done,
        targets: &[&'a mut dyn AnyQp],
    ) -> Result<Self> {
        let packed = Plan::asks(&commands) && context.ring_grain()? == RING_GRAIN_LEAST;
        let plan = Plan::new(&commands, MAX_COMMANDS - commands.len(), packed);
        let ids = Ids {
            batch: done.batch,
            begin: done.results.len(),
            before: plan.memories.len(),
            results: &done.results,
            targets,
        };
        let mut chain = Self {
            context,
            memories: plan.memories.len(),
            commands: Vec::new(),
            memory_of: plan.of,
            words: Vec::with_capacity(TYPICAL * (plan.memories.len() + commands.len())),
            scratch: [0; MESSAGE],
            places: Vec::with_capacity(plan.memories.len() + commands.len()),
        };
        for &bytes in &plan.memories {
            chain.add(|words| RingMemory::message(words, bytes, packed))?;
        }
        for (n, command) in commands.iter_mut().enumerate() {
            command.prepare(context)?;
            let memory = chain.memory_of[n];
            chain.add(|words| command.message(words, &ids, memory))?;
        }
        // They stay where they are: a thousand are a quarter of a megabyte.
        chain.commands = commands;
        Ok(chain)
    }

    /// Adds a message.
    fn add(&mut self, message: impl FnOnce(&mut [u64]) -> Builder<'_>) -> Result<()> {
        let message = message(&mut self.scratch).finish();
        let length = message.map_err(|_| Error::Argument("the message is too long"))?.len();
        let begin = self.words.len();
        self.words.extend_from_slice(&self.scratch[..length / size_of::<u64>()]);
        self.places.push((begin, self.words.len()));
        Ok(())
    }

    /// Sends it, and adds the results to `done`. Whether a command failed.
    fn send(
        mut self,
        done: &mut Done,
        targets: &mut [&'a mut dyn AnyQp],
        on_failure: OnFailure,
        total: usize,
    ) -> Result<bool> {
        let count = self.places.len();
        // The kernel reads and writes the messages through this pointer, and nobody else touches them meanwhile.
        let base = self.words.as_mut_ptr().expose_provenance() as u64;
        let methods = std::iter::repeat_n(method::CREATE, self.memories);
        let methods = methods.chain(self.commands.iter().map(Command::method));
        let entry = |(place, method): (&(usize, usize), u8)| Entry {
            message: base + (place.0 * size_of::<u64>()) as u64,
            method: method.into(),
            reserved: 0,
            reserved2: 0,
        };
        let entries: Vec<_> = self.places.iter().zip(methods).map(entry).collect();
        let mut results = vec![u32::from(Errno::ECANCELED.0); count];

        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::INTERFACE, 0);
        let at = |bytes: &[u8]| bytes.as_ptr().expose_provenance() as u64;
        message.by_pointer(
            interface::COMMANDS,
            at(entries.as_bytes()),
            entries.as_bytes().len() as u64,
        );
        let room = results.as_mut_bytes();
        message.by_pointer(
            interface::RESULTS,
            room.as_mut_ptr().expose_provenance() as u64,
            room.len() as u64,
        );
        let mode = match on_failure {
            OnFailure::Stop => mode::STOP,
            OnFailure::Continue => mode::CONTINUE,
            OnFailure::Undo => mode::ALL_OR_NOTHING,
        };
        message.put(interface::MODE, &mode).ask(interface::EXECUTED);
        let message = message
            .finish()
            .map_err(|_| Error::Argument("the message is too long"))?;

        done.calls += 1;
        let outcome = self.context.send(method::EXECUTE, message);
        let reply = Reply::new(message);
        let executed = reply.get(interface::EXECUTED).map_or(0, |n| n as usize).min(count);
        if let Err(errno) = outcome {
            let culprit = executed.checked_sub(1).filter(|&n| results[n] != 0);
            return Err(match culprit {
                Some(n) if on_failure == OnFailure::Undo && n >= self.memories => Error::Undone {
                    command: done.results.len() + n - self.memories,
                    of: total,
                    source: Box::new(self.failure(n, results[n])),
                },
                Some(n) => self.failure(n, results[n]),
                None => failed(DOING, method::EXECUTE, message, errno),
            });
        }
        let memories = self.memories(&results);
        if on_failure == OnFailure::Stop {
            // Nothing else was executed, and nobody would be told why.
            if let Some(n) = (0..self.memories).find(|&n| results[n] != 0) {
                return Err(self.failure(n, results[n]));
            }
        }
        done.executed += executed.saturating_sub(self.memories);
        Ok(self.finish(done, targets, &results, executed, &memories))
    }

    /// The memories that the chain has made.
    fn memories(&self, results: &[u32]) -> Vec<Result<Arc<RingMemory>>> {
        let made = |n: usize| match results[n] {
            0 => RingMemory::made(self.context, &Answer::of(self.message(n))),
            errno => Err(self.failure(n, errno)),
        };
        (0..self.memories).map(made).collect()
    }

    fn message(&self, n: usize) -> &[u8] {
        let (begin, end) = self.places[n];
        self.words[begin..end].as_bytes()
    }

    fn failure(&self, n: usize, errno: u32) -> Error {
        let errno = Errno(u16::try_from(errno).unwrap_or(Errno::EIO.0));
        let (doing, method) = match n.checked_sub(self.memories) {
            None => (place::DOING, method::CREATE),
            Some(n) => (self.commands[n].doing(), self.commands[n].method()),
        };
        failed(doing, method, self.message(n), errno)
    }

    /// Turns answers into results. Whether a command failed.
    fn finish(
        mut self,
        done: &mut Done,
        targets: &mut [&'a mut dyn AnyQp],
        results: &[u32],
        executed: usize,
        memories: &[Result<Arc<RingMemory>>],
    ) -> bool {
        let mut any_failed = false;
        let commands = std::mem::take(&mut self.commands);
        let memory_of = std::mem::take(&mut self.memory_of);
        for (n, (command, memory)) in (self.memories..).zip(commands.into_iter().zip(memory_of)) {
            let result = if n >= executed {
                Err(canceled(command.doing()))
            } else if results[n] != 0 {
                let errno = Errno(u16::try_from(results[n]).unwrap_or(Errno::EIO.0));
                Err(failed(command.doing(), command.method(), self.message(n), errno))
            } else {
                note_change(&command, done, targets);
                let finished = Finished {
                    batch: done.batch,
                    results: &done.results,
                };
                // One that could not be mapped here has nothing to give: the queue maps its part of it.
                let memory = memory
                    .and_then(|memory| memories[memory as usize].as_ref().ok())
                    .cloned();
                command.made(self.context, &Answer::of(self.message(n)), &finished, memory)
            };
            any_failed |= result.is_err();
            done.results.push(Some(result));
        }
        any_failed
    }
}

/// A queue pair's own idea of what it is.
fn note_change(command: &Command<'_>, done: &mut Done, targets: &mut [&mut dyn AnyQp]) {
    let Command::Modify(target, _, attributes) = command else {
        return;
    };
    match *target {
        Target::Made(n) => targets[n].note_change(attributes),
        Target::New(n) => {
            if let Some(Some(Ok(Made::Qp(qp)))) = done.results.get_mut(n) {
                qp.note_change(attributes);
            }
        }
    }
}
