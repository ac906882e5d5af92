// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What the object model needs from the place it runs in: a kernel module, or a process of its own.

use crate::driver::Driver;
use crate::errno::Errno;
use crate::event::FdObject;
use crate::failure::Outcome;
use crate::schema::Access;
use crate::sys::NoMemory;
use core::fmt;

/// The place that the object model runs in.
///
/// Everything is called in process context and may sleep. Calls that touch user memory or ask for permissions happen
/// only while the owner's own call is being dispatched.
pub trait Host: Sized + Send + Sync + 'static {
    /// Who opened a context: whatever the host needs to reach its memory and to account for it.
    type Owner: Send + Sync;

    /// What readers of an event queue wait on.
    type Wait: Wait;

    /// Pinned memory accounted for; dropping it gives it back.
    type Charge: Send + Sync;

    /// Whether [`copy_in`](Self::copy_in) may be asked for what stands behind a message on its page, which saves a call for
    /// its length. Where a copy is one call into a kernel, and what is there is nobody's business, it may.
    const READS_AHEAD: bool = true;

    /// Reads the calling process's memory.
    ///
    /// # Errors
    ///
    /// EFAULT.
    fn copy_in(&self, owner: &Self::Owner, addr: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Writes the calling process's memory.
    ///
    /// # Errors
    ///
    /// EFAULT.
    fn copy_out(&self, owner: &Self::Owner, addr: u64, from: &[u8]) -> Result<(), Errno>;

    /// Whether the caller has what a method needs. Never asked for [`Access::Any`].
    fn may(&self, owner: &Self::Owner, access: Access) -> bool;

    /// Accounts for pinned memory.
    ///
    /// # Errors
    ///
    /// ENOMEM with reason MEMLOCK when that would be over the owner's limit.
    fn charge(&self, owner: &Self::Owner, bytes: u64) -> Outcome<Self::Charge>;

    /// Gives the calling process a file descriptor for an object. Dropping the object is what closing it means.
    ///
    /// # Errors
    ///
    /// EMFILE, ENOMEM; the object has been dropped then.
    fn install_fd<D: Driver<Host = Self>>(&self, owner: &Self::Owner, object: FdObject<D>) -> Result<u32, Errno>;

    /// When it is, and who is calling.
    fn moment(&self) -> Moment;

    /// Whether the calling process is `process` or descends from it now, through parents that live. Told by the numbers of
    /// [`Host::moment`].
    fn descends_from(&self, process: u32) -> bool {
        self.moment().process == process
    }

    /// Objects that a context opened now may have, at most: the administrator's limit.
    fn max_objects(&self) -> u32 {
        u32::MAX
    }

    /// The user on whose behalf the calling thread runs.
    fn user(&self) -> u32 {
        0
    }

    /// Contexts that the calling thread's user may have open on one device: the administrator's limit.
    fn max_contexts(&self) -> u32 {
        u32::MAX
    }

    /// Waits a moment (about a millisecond): somebody else has to finish something first.
    fn pause(&self);

    /// Writes a line to the log.
    fn log(&self, line: fmt::Arguments<'_>);
}

/// What [`Host::moment`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds of a clock that never goes back.
    pub time: u64,
    /// The calling process.
    pub process: u32,
    /// The calling thread.
    pub thread: u32,
}

/// What readers of an event queue wait on: a wait queue, an eventfd, a condition variable.
pub trait Wait: Sized + Send + Sync + 'static {
    /// A new one.
    ///
    /// # Errors
    ///
    /// No memory.
    fn try_new() -> Result<Self, NoMemory>;

    /// The queue became readable or ended: whoever waits shall look again.
    fn wake(&self);
}
