// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands for a thing that does not exist yet, and what it is exchanged for.

use crate::error::{Error, Result};
use crate::object::Object;
use crate::qp::{AnyQp, Qp, Transport};
use crate::{CompletionCounter, CompletionQueue, MemoryRegion, ProtectionDomain, XrcDomain, XrcTarget};
use std::fmt;
use std::marker::PhantomData;

/// What a command of a batch will have made; `()` for one that makes nothing.
pub struct Ticket<T> {
    batch: u64,
    command: usize,
    /// Commands that it stands for, from that one on.
    count: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Ticket<T> {
    pub(super) fn new(batch: u64, command: usize, count: usize) -> Self {
        Self {
            batch,
            command,
            count,
            of: PhantomData,
        }
    }

    /// The first command that it stands for.
    ///
    /// # Panics
    ///
    /// If it is of another batch.
    pub(super) fn command_in(&self, batch: u64) -> usize {
        assert_eq!(self.batch, batch, "a ticket is good only for the batch that gave it");
        self.command
    }

    /// The batch that gave it.
    pub(super) fn batch(&self) -> u64 {
        self.batch
    }

    /// The command's number in its batch, from 0.
    pub fn command(&self) -> usize {
        self.command
    }
}

impl<T> Clone for Ticket<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ticket<T> {}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.command)
    }
}

/// What a command needs: something that is there, or the ticket of something that the same batch makes.
#[derive(Debug)]
pub enum Part<'a, T> {
    /// It is there.
    Made(&'a T),
    /// An earlier command makes it.
    New(Ticket<T>),
}

impl<T> Clone for Part<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<'_, T> {}

impl<'a, T> From<&'a T> for Part<'a, T> {
    fn from(made: &'a T) -> Self {
        Part::Made(made)
    }
}

impl<T> From<Ticket<T>> for Part<'_, T> {
    fn from(ticket: Ticket<T>) -> Self {
        Part::New(ticket)
    }
}

/// What a command made, or what one destroys.
pub(super) enum Made {
    Pd(ProtectionDomain),
    Mr(Box<MemoryRegion>),
    Cq(Box<CompletionQueue>),
    Counter(Box<CompletionCounter>),
    Xrcd(XrcDomain),
    /// Or an XRC target.
    Qp(Box<dyn AnyQp>),
    Nothing,
}

impl Made {
    pub(super) fn object(&self) -> Option<&Object> {
        match self {
            Made::Pd(pd) => Some(&pd.object),
            Made::Mr(mr) => Some(&mr.object),
            Made::Cq(cq) => Some(&cq.shared.object),
            Made::Counter(counter) => Some(&counter.shared.object),
            Made::Xrcd(domain) => Some(&domain.object),
            Made::Qp(qp) => Some(qp.object()),
            Made::Nothing => None,
        }
    }
}

/// What a ticket may stand for.
pub trait InBatch: Sized + sealed::Sealed {}

pub(super) mod sealed {
    use super::Made;

    pub trait Sealed: Sized {
        #[doc(hidden)]
        #[expect(private_interfaces, reason = "the trait is sealed: nobody outside calls it")]
        fn from_made(made: Made) -> Option<Self>;
    }
}

macro_rules! in_batch {
    ($($ty:ty: $pattern:pat => $value:expr;)*) => {
        $(
            impl InBatch for $ty {}
            impl sealed::Sealed for $ty {
                #[expect(private_interfaces, reason = "the trait is sealed: nobody outside calls it")]
                fn from_made(made: Made) -> Option<Self> {
                    match made {
                        $pattern => Some($value),
                        _ => None,
                    }
                }
            }
        )*
    };
}

in_batch! {
    ProtectionDomain: Made::Pd(pd) => pd;
    MemoryRegion: Made::Mr(mr) => *mr;
    CompletionQueue: Made::Cq(cq) => *cq;
    CompletionCounter: Made::Counter(counter) => *counter;
    XrcDomain: Made::Xrcd(domain) => domain;
    (): Made::Nothing => ();
}

impl<T: Transport> InBatch for Qp<T> {}
impl<T: Transport> sealed::Sealed for Qp<T> {
    #[expect(private_interfaces, reason = "the trait is sealed: nobody outside calls it")]
    fn from_made(made: Made) -> Option<Self> {
        match made {
            Made::Qp(qp) => qp.into_any().downcast().ok().map(|qp| *qp),
            _ => None,
        }
    }
}

impl InBatch for XrcTarget {}
impl sealed::Sealed for XrcTarget {
    #[expect(private_interfaces, reason = "the trait is sealed: nobody outside calls it")]
    fn from_made(made: Made) -> Option<Self> {
        match made {
            Made::Qp(target) => target.into_any().downcast().ok().map(|target| *target),
            _ => None,
        }
    }
}

/// A batch that was run. What is not taken out of it is destroyed with it.
pub struct Done {
    pub(super) batch: u64,
    pub(super) results: Vec<Option<Result<Made>>>,
    pub(super) executed: usize,
    pub(super) calls: usize,
}

impl Done {
    /// Commands that were executed, the failed ones included.
    pub fn executed(&self) -> usize {
        self.executed
    }

    /// Chains that the commands were sent in: system calls, through the kernel module.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Exchanges a ticket for what it stands for.
    ///
    /// # Errors
    ///
    /// The command failed, or was not executed (ECANCELED). For a ticket of several commands, the first that failed.
    ///
    /// # Panics
    ///
    /// If the ticket is of another batch, or has been exchanged already.
    pub fn take<T: InBatch>(&mut self, ticket: Ticket<T>) -> Result<T> {
        let first = ticket.command_in(self.batch);
        let mut last = None;
        for n in first..first + ticket.count {
            let result = self.results[n].take().expect("a ticket is exchanged once");
            last = Some(result?);
        }
        let made = last.expect("a ticket stands for a command at least");
        Ok(T::from_made(made).expect("a command makes what its ticket says"))
    }

    /// Whether the command succeeded; not for one whose ticket has been exchanged.
    pub fn succeeded<T>(&self, ticket: Ticket<T>) -> bool {
        let first = ticket.command_in(self.batch);
        let mut results = self.results[first..first + ticket.count].iter();
        results.all(|result| matches!(result, Some(Ok(_))))
    }

    /// The first failure of a command whose ticket has not been exchanged, if there is one. What the others made stays
    /// to be taken.
    ///
    /// # Errors
    ///
    /// That failure.
    pub fn all(&mut self) -> Result<()> {
        for result in &mut self.results {
            if let Some(Err(_)) = result {
                if let Some(Err(error)) = result.take() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = |result: &&Option<Result<Made>>| matches!(result, Some(Err(_)));
        let failed = self.results.iter().filter(failed).count();
        write!(
            f,
            "Done({} of {} executed, {failed} failed)",
            self.executed,
            self.results.len()
        )
    }
}

impl Drop for Done {
    /// The last made first: what stands on something goes before it.
    fn drop(&mut self) {
        while self.results.pop().is_some() {}
    }
}

/// A command that was not sent, because one before it failed.
pub(super) fn canceled(doing: &'static str) -> Error {
    Error::Canceled { doing }
}
