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

use crate::call::Call;
use crate::class::interface::{self, mode, Command};
use crate::context::{check_length, write_error, Context};
use crate::driver::{Cause, Driver};
use crate::errno::Errno;
use crate::failure::{Failure, Outcome, Reason};
use crate::host::Host;
use crate::sys::{Arc, Vec};
use crate::wire::{self, method, Header, ObjectId, HEADER};
use zerocopy::{FromBytes, IntoBytes};

/// Times that undoing waits for another thread's call to leave an object.
const PATIENCE: u32 = 2000;

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
    };
    chain.results.resize(count, u32::from(Errno::ECANCELED.0))?;
    chain.created.resize(count, ObjectId::NONE)?;

    let mut executed = 0;
    let mut failed = None;
    while executed < count {
        let command = call.element(interface::COMMANDS, executed)?;
        let result = chain.command(executed, &command);
        chain.results[executed] = result.map_or_else(|failure| u32::from(failure.errno.0), |()| 0);
        executed += 1;
        if let Err(failure) = result {
            failed = failed.or(Some((executed - 1, failure)));
            if mode != mode::CONTINUE {
                break;
            }
        }
    }
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

struct Chain<'c, D: Driver> {
    context: &'c Arc<Context<D>>,
    mode: u32,
    /// What each command created.
    created: Vec<ObjectId>,
    /// Each command's errno.
    results: Vec<u32>,
    /// The message being executed.
    buffer: Vec<u8>,
}

impl<D: Driver> Chain<'_, D> {
    /// Fetches a command's message, executes it, and gives the message back.
    fn command(&mut self, n: usize, command: &Command) -> Outcome {
        if command.reserved != 0 || command.reserved2 != 0 {
            return Err(Failure::new(Errno::EINVAL, Reason::NOT_ZERO));
        }
        let (host, owner) = (self.context.device().host(), self.context.owner());
        let bad = |errno| Failure::new(errno, Reason::BAD_POINTER);
        let mut head = [0; HEADER];
        host.copy_in(owner, command.message, &mut head).map_err(bad)?;
        let header: Header = zerocopy::transmute!(head);
        let length = usize::from(header.length);
        if let Err(failure) = check_length(length) {
            write_error(&mut head, &failure);
            host.copy_out(owner, command.message, &head).map_err(bad)?;
            return Err(failure);
        }
        self.buffer.resize(length, 0)?;
        host.copy_in(owner, command.message, &mut self.buffer).map_err(bad)?;
        // Another thread may have changed it in between; the message is as long as what was fetched.
        self.buffer[..2].copy_from_slice(header.length.as_bytes());
        let mut give_back = |message: &[u8]| host.copy_out(owner, command.message, message);
        if let Err(failure) = self.allowed(command) {
            write_error(&mut self.buffer, &failure);
            give_back(&self.buffer).map_err(bad)?;
            return Err(failure);
        }
        let method = u32::from(command.method);
        let created = Some(&self.created[..]);
        Context::run(self.context, None, method, &mut self.buffer, created, &mut give_back)?;
        if command.method == u16::from(method::CREATE) {
            let made = Header::read_from_prefix(&self.buffer).map_or(0, |(header, _)| header.object);
            self.created[n] = ObjectId(made);
        }
        Ok(())
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
