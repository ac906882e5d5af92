// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calling process's memory, which here is this process's own: what a kernel does by `copy_from_user`.
//!
//! An address that anybody may have made up is the kernel's to check, by a system call for each copy. What the crate's own
//! messages name is borrowed for the call, so that it is a plain copy: a thousand connections in two chains made 6,479 of those
//! system calls.

use super::socket::errno;
use rdma_uapi::Errno;
use std::cell::Cell;
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// What stands behind borrowed memory is somebody else's.
pub(super) const READS_AHEAD: bool = false;

thread_local! {
    /// The call that this thread is in names borrowed memory alone.
    static BORROWED: Cell<bool> = const { Cell::new(false) };
}

/// Carries out a call of which all addresses are of memory that is borrowed for it, provenance exposed: what
/// [`Transport::call`](crate::attach::Transport::call) demands.
pub(super) fn of_borrowed<R>(call: impl FnOnce() -> R) -> R {
    struct Over(bool);
    impl Drop for Over {
        fn drop(&mut self) {
            BORROWED.set(self.0);
        }
    }
    let _over = Over(BORROWED.replace(true));
    call()
}

/// Reads this process's memory at an address that a message names.
pub(super) fn copy_in(addr: u64, into: &mut [u8]) -> Result<(), Errno> {
    if BORROWED.get() {
        // SAFETY: `of_borrowed`: `into.len()` bytes there are lent to the call, and nothing else is asked for, because
        // READS_AHEAD is false. They are not `into`, which is the callee's own.
        unsafe { with_exposed_provenance::<u8>(addr as usize).copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: addr as *mut _,
        iov_len: into.len(),
    };
    // SAFETY: the kernel copies into `into`, which is ours, from an address that it checks as it does for any system
    // call: what is not mapped is EFAULT.
    let copied = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    check(copied, into.len())
}

/// Writes this process's memory at an address that a message names.
pub(super) fn copy_out(addr: u64, from: &[u8]) -> Result<(), Errno> {
    if BORROWED.get() {
        // SAFETY: `of_borrowed`: as many bytes there are lent to the call to be written. They are not `from`, which is the
        // callee's own.
        unsafe { with_exposed_provenance_mut::<u8>(addr as usize).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    let remote = libc::iovec {
        iov_base: addr as *mut _,
        iov_len: from.len(),
    };
    // SAFETY: the kernel reads `from` and writes to an address that it checks. That it is nobody else's memory is the
    // promise of `raw_call`, which is unsafe for this reason.
    let copied = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    check(copied, from.len())
}

fn check(copied: isize, wanted: usize) -> Result<(), Errno> {
    match usize::try_from(copied) {
        Ok(copied) if copied == wanted => Ok(()),
        // Short: the rest is not mapped.
        Ok(_) => Err(Errno::EFAULT),
        Err(_) => Err(errno(&std::io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u05_an_address_that_nobody_has_borrowed_is_checked() {
        let mut word = [7u8; 8];
        let at = word.as_mut_ptr().expose_provenance() as u64;
        let mut read = [0; 8];
        assert_eq!(copy_in(at, &mut read), Ok(()));
        assert_eq!(read, [7; 8]);
        assert_eq!(copy_in(8, &mut read), Err(Errno::EFAULT));
        assert_eq!(copy_out(8, &read), Err(Errno::EFAULT));
        of_borrowed(|| {
            assert_eq!(copy_out(at, &[9; 8]), Ok(()));
            of_borrowed(|| assert_eq!(copy_in(at, &mut read), Ok(())));
            assert!(BORROWED.get(), "a call inside another one");
        });
        assert_eq!(read, [9; 8]);
        // The call is over.
        assert_eq!(copy_in(8, &mut read), Err(Errno::EFAULT));
    }
}
