// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Chains (U16): one call executes a list of self-contained commands.
//!
//! INTERFACE EXECUTE takes an array of [`Command`]s, each the address of an ordinary message and the method to call with
//! it. They are executed in order, each exactly as if it had been an ioctl of its own: its message comes back with its
//! own outputs, object id and extended error. An object id in a later message may be `ObjectId::CHAIN | n`, which is the
//! object that command `n` created.
//!
//! What happens after a failure is the caller's choice ([`mode`]). All-or-nothing can promise to undo only what can be
//! undone: such a chain may create objects, query, and do anything to what it created itself; any other command fails
//! with NOT_ALLOWED and the chain is undone.
//!
//! Neighbours that the driver can begin without waiting for their ends are under way together ([`crate::pipeline`]).

use crate::call::Call;
use crate::class::interface::{self, mode, Command};
use crate::context::{check_length, write_error, Context};
use crate::driver::{Cause, Driver};
use crate::errno::Errno;
use crate::failure::{Failure, Outcome, Reason};
use crate::host::Host;
use crate::pipeline::{InChain, Pipeline, Which};
use crate::sys::{Arc, Vec};
use crate::wire::{self, method, Header, ObjectId, HEADER};
use zerocopy::FromBytes;

/// Times that undoing waits for another thread's call to leave an object.
const PATIENCE: u32 = 2000;

/// Why a message could not be fetched.
#[derive(Clone, Copy)]
enum Unfetched {
    /// The command is wrong, or its message is not there: there is nobody to tell but the chain's results.
    Command(Failure),
    /// No message can have that length; the header is in the buffer.
    Length(Failure),
}

/// Whether a command has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// It is under way.
    Yes,
    /// No, and its message is in the buffer as it was.
    Not,
    /// No, and its message is not in the buffer any more.
    Spoilt,
}

/// Executes a chain.
pub(crate) fn execute<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    if call.in_chain() {
        return Err(Failure::new(Errno::EINVAL, Reason::NOT_ALLOWED).at(wire::FIELD_METHOD, 0));
    }
    let mode = call.get(interface::MODE)?.unwrap_or(mode::STOP);
    if mode > mode::ALL_OR_NOTHING {
        return Err(call.out_of_range(interface::MODE));
    }
    let count = call.count(interface::COMMANDS)?;
    if count > interface::MAX_COMMANDS {
        return Err(call.out_of_range(interface::COMMANDS));
    }
    let mut chain = Chain {
        context: call.context(),
        mode,
        created: Vec::new(),
        results: Vec::new(),
        buffer: Vec::new(),
        pipeline: Pipeline::new(),
        executed: 0,
        failed: None,
        writable: None,
    };
    chain.results.resize(count, u32::from(Errno::ECANCELED.0))?;
    chain.created.resize(count, ObjectId::NONE)?;

    let listed = chain.run_list(call, count);
    // Whatever happened: nothing stays under way.
    chain.drain();
    D::chain_over(call.core_device(), core::mem::take(&mut chain.pipeline.chain));
    listed?;
    let (executed, failed) = (chain.executed, chain.failed);
    let undone = if mode == mode::ALL_OR_NOTHING { failed } else { None };
    if undone.is_some() {
        chain.undo();
    }
    call.put_array(interface::RESULTS, &chain.results)?;
    call.put(interface::EXECUTED, &(executed as u32))?;
    match undone {
        Some((n, failure)) => {
            let named = call.fail(interface::COMMANDS, failure.errno, failure.reason);
            Err(named.detail(n as u16))
        }
        None => Ok(()),
    }
}

/// Commands that are read from the list at once.
const AHEAD: usize = 16;
/// Bytes of a message that are read before it is known how long it is: most are shorter.
const GUESS: usize = 320;
/// What a page of the process's memory is at least.
const PAGE: u64 = 4096;

struct Chain<'c, D: Driver> {
    context: &'c Arc<Context<D>>,
    mode: u32,
    /// What each command created.
    created: Vec<ObjectId>,
    /// Each command's errno.
    results: Vec<u32>,
    /// The message being executed, at the beginning; what is behind it is rubbish.
    buffer: Vec<u8>,
    /// Commands that have begun and not ended.
    pipeline: Pipeline<D>,
    /// Commands executed.
    executed: usize,
    /// The first that failed.
    failed: Option<(usize, Failure)>,
    /// The last page that was found writable for the process.
    writable: Option<u64>,
}

impl<D: Driver> Chain<'_, D> {
    /// Executes the commands of the list.
    ///
    /// # Errors
    ///
    /// EFAULT: the list cannot be read; what stands before has been executed, or is under way.
    fn run_list(&mut self, call: &Call<'_, D>, count: usize) -> Outcome {
        let mut ahead = [Command::default(); AHEAD];
        let mut read = 0..0;
        for number in 0..count {
            if !read.contains(&number) {
                let end = count.min(number + AHEAD);
                read = match call.elements(interface::COMMANDS, number, &mut ahead[..end - number]) {
                    Ok(()) => number..end,
                    // Not all of them: this one, perhaps.
                    Err(_) => {
                        ahead[0] = call.element(interface::COMMANDS, number)?;
                        number..number + 1
                    }
                };
            }
            self.next(number, &ahead[number - read.start]);
            if self.stopped() {
                break;
            }
        }
        Ok(())
    }

    /// Whether no command may be executed any more.
    fn stopped(&self) -> bool {
        self.failed.is_some() && self.mode != mode::CONTINUE
    }

    /// Executes a command, or begins it.
    fn next(&mut self, number: usize, command: &Command) {
        let fetched = self.fetch(command);
        let begun = match fetched {
            Ok(length) => self.begin(number, command, length),
            Err(_) => Begun::Not,
        };
        if begun == Begun::Yes || self.stopped() {
            return;
        }
        // In its turn: what stands before it comes first, and may have changed its message.
        let fetched = if self.pipeline.is_empty() && begun == Begun::Not {
            fetched
        } else {
            self.drain();
            if self.stopped() {
                return;
            }
            self.fetch(command)
        };
        let outcome = self.command(number, command, fetched);
        self.ended(number, outcome);
    }

    /// Notes how a command ended.
    fn ended(&mut self, number: usize, outcome: Outcome) {
        self.executed = self.executed.max(number + 1);
        match outcome {
            Ok(()) => self.results[number] = 0,
            Err(failure) => {
                self.results[number] = u32::from(failure.errno.0);
                self.failed = self.failed.or(Some((number, failure)));
            }
        }
    }

    /// Fetches a command's message into the buffer; its length.
    fn fetch(&mut self, command: &Command) -> Result<usize, Unfetched> {
        if command.reserved != 0 || command.reserved2 != 0 {
            return Err(Unfetched::Command(Failure::new(Errno::EINVAL, Reason::NOT_ZERO)));
        }
        let (host, owner) = (self.context.device().host(), self.context.owner());
        let bad = |errno| Unfetched::Command(Failure::new(errno, Reason::BAD_POINTER));
        let no_memory = |_| Unfetched::Command(Failure::NO_MEMORY);
        // To the end of the page: if there is a header, then that is there.
        let guess = match D::Host::READS_AHEAD {
            true => GUESS.min((PAGE - command.message % PAGE) as usize),
            false => HEADER,
        };
        self.buffer.at_least(GUESS).map_err(no_memory)?;
        let mut here = guess;
        if guess < HEADER || host.copy_in(owner, command.message, &mut self.buffer[..guess]).is_err() {
            here = HEADER;
            host.copy_in(owner, command.message, &mut self.buffer[..HEADER])
                .map_err(bad)?;
        }
        let length = usize::from(u16::from_ne_bytes([self.buffer[0], self.buffer[1]]));
        if let Err(failure) = check_length(length) {
            return Err(Unfetched::Length(failure));
        }
        if length > here {
            self.buffer.at_least(length).map_err(no_memory)?;
            let rest = command.message.wrapping_add(here as u64);
            host.copy_in(owner, rest, &mut self.buffer[here..length]).map_err(bad)?;
        }
        Ok(length)
    }

    /// Executes a command and gives the message back.
    fn command(&mut self, number: usize, command: &Command, fetched: Result<usize, Unfetched>) -> Outcome {
        let (host, owner) = (self.context.device().host(), self.context.owner());
        let bad = |errno| Failure::new(errno, Reason::BAD_POINTER);
        let mut give_back = |message: &[u8]| host.copy_out(owner, command.message, message);
        let length = match fetched {
            Ok(length) => length,
            Err(Unfetched::Command(failure)) => return Err(failure),
            Err(Unfetched::Length(failure)) => {
                write_error(&mut self.buffer[..HEADER], &failure);
                give_back(&self.buffer[..HEADER]).map_err(bad)?;
                return Err(failure);
            }
        };
        if let Err(failure) = self.allowed(command) {
            write_error(&mut self.buffer[..length], &failure);
            give_back(&self.buffer[..length]).map_err(bad)?;
            return Err(failure);
        }
        let method = u32::from(command.method);
        let in_chain = InChain::whole(&self.created);
        let message = &mut self.buffer[..length];
        Context::run::<true>(self.context, None, method, message, Some(&in_chain), &mut give_back)?;
        if command.method == u16::from(method::CREATE) {
            let made = Header::read_from_prefix(&self.buffer).map_or(0, |(header, _)| header.object);
            self.created[number] = ObjectId(made);
        }
        Ok(())
    }

    /// Begins the command whose message is in the buffer, if it can be under way together with those that are. It may turn
    /// out meanwhile that no more may be executed.
    fn begin(&mut self, number: usize, command: &Command, length: usize) -> Begun {
        let class = Header::read_from_prefix(&self.buffer).map_or(0, |(header, _)| header.class);
        let device = self.context.device();
        let suits = u8::try_from(command.method).is_ok_and(|method| D::defers(class, method))
            // An observer sees each from its beginning to its end.
            && !device.tracers().any()
            && self.allowed(command).is_ok()
            && self.pipeline.suits(command.method, command.message, length)
            && self.results.len() > 1;
        if !suits || !self.pipeline.make_room() {
            return Begun::Not;
        }
        if self.pipeline.is_full() {
            self.end_oldest();
            if self.stopped() {
                return Begun::Not;
            }
        }
        let stops = self.mode != mode::CONTINUE;
        let is_create = command.method == u16::from(method::CREATE);
        if stops && !is_create && !self.is_writable(command.message, length) {
            return Begun::Not;
        }
        let which = Which {
            number,
            address: command.message,
            method: command.method,
            length,
        };
        let (context, created) = (self.context, &self.created);
        match self.pipeline.begin(context, which, &mut self.buffer, created, stops) {
            true => Begun::Yes,
            false => Begun::Spoilt,
        }
    }

    /// Whether the answer can be given back: found out by writing what is there. What a CREATE has made can be ended when
    /// its answer cannot be given; what other commands did cannot be undone, nor what those behind them did meanwhile.
    fn is_writable(&mut self, message: u64, length: usize) -> bool {
        let (host, owner) = (self.context.device().host(), self.context.owner());
        let last = message.saturating_add(length as u64 - 1);
        for page in message / PAGE..=last / PAGE {
            if self.writable != Some(page) {
                let at = message.max(page * PAGE);
                let byte = (at - message) as usize;
                if host.copy_out(owner, at, &self.buffer[byte..byte + 1]).is_err() {
                    return false;
                }
                self.writable = Some(page);
            }
        }
        true
    }

    /// Waits for the end of all that is under way.
    fn drain(&mut self) {
        while !self.pipeline.is_empty() {
            self.end_oldest();
        }
    }

    /// Waits for the end of the oldest command that is under way.
    fn end_oldest(&mut self) {
        let Some(Which {
            number,
            address,
            method,
            ..
        }) = self.pipeline.oldest()
        else {
            return;
        };
        let (host, owner) = (self.context.device().host(), self.context.owner());
        let is_create = method == u16::from(method::CREATE);
        // Behind a failure nothing was executed, or it is as if it had not been. What is neither (the memory of the failed
        // command's message was taken away while it was under way) is told as it is.
        let keep = !self.stopped() || !is_create;
        let canceled = self.stopped();
        let mut give_back = |message: &[u8]| host.copy_out(owner, address, message);
        let outcome = self.pipeline.finish(self.context, (keep, canceled), &mut give_back);
        if canceled && (is_create || outcome.is_err()) {
            return;
        }
        if let (Ok(made), true) = (&outcome, is_create) {
            self.created[number] = *made;
        }
        self.ended(number, outcome.map(|_| ()));
    }

    /// Whether a chain that may have to be undone may contain this command.
    fn allowed(&self, command: &Command) -> Outcome {
        let object = Header::read_from_prefix(&self.buffer).map_or(0, |(header, _)| header.object);
        let undoable =
            [method::CREATE, method::QUERY].map(u16::from).contains(&command.method) || object & ObjectId::CHAIN != 0;
        if self.mode != mode::ALL_OR_NOTHING || undoable {
            return Ok(());
        }
        Err(Failure::new(Errno::EINVAL, Reason::NOT_ALLOWED).at(wire::FIELD_METHOD, 0))
    }

    /// Ends what the chain created, the last first.
    fn undo(&self) {
        for &id in self.created.iter().rev().filter(|&&id| id != ObjectId::NONE) {
            let mut patience = PATIENCE;
            loop {
                // Not there any more: the chain or another thread has destroyed it.
                let Ok(object) = self.context.store().get(id) else {
                    break;
                };
                match self.context.destroy(&object, Cause::Close) {
                    Err(failure) if failure.reason == Reason::BUSY && patience > 0 => {
                        drop(object);
                        patience -= 1;
                        self.context.device().host().pause();
                    }
                    Err(failure) => {
                        // Another thread has guessed the id and made something from the object: it is theirs now.
                        let host = self.context.device().host();
                        host.log(format_args!("a chain cannot undo object {:#x}: {failure}", id.0));
                        break;
                    }
                    Ok(_) => break,
                }
            }
        }
    }
}
