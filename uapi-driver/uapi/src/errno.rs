// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Linux error numbers, as the positive values of `errno.h`.

use core::fmt;

/// A Linux error number, positive. An ioctl returns its negative.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u16);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno($value);)*

            /// The symbolic name, where it is one of those this interface uses.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Errno::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1;
    /// No such object.
    ENOENT = 2;
    /// Interrupted.
    EINTR = 4;
    /// Input/output error: the device failed the operation.
    EIO = 5;
    /// Bad file descriptor.
    EBADF = 9;
    /// Nothing there now, try again.
    EAGAIN = 11;
    /// Out of memory, or over the pinned-memory limit.
    ENOMEM = 12;
    /// Permission denied.
    EACCES = 13;
    /// Bad user address.
    EFAULT = 14;
    /// In use.
    EBUSY = 16;
    /// Exists already.
    EEXIST = 17;
    /// Of another device.
    EXDEV = 18;
    /// The device is gone.
    ENODEV = 19;
    /// Invalid argument.
    EINVAL = 22;
    /// Too many open files.
    EMFILE = 24;
    /// Not a method number of this interface.
    ENOTTY = 25;
    /// No space left.
    ENOSPC = 28;
    /// Out of range.
    ERANGE = 34;
    /// A bigger structure than this side knows, with something in the unknown part.
    E2BIG = 7;
    /// Bad message.
    EBADMSG = 74;
    /// Value too large.
    EOVERFLOW = 75;
    /// Message too long.
    EMSGSIZE = 90;
    /// Not supported by this device.
    EOPNOTSUPP = 95;
    /// The address is in use.
    EADDRINUSE = 98;
    /// The address is not ours.
    EADDRNOTAVAIL = 99;
    /// Timed out.
    ETIMEDOUT = 110;
    /// Connection refused.
    ECONNREFUSED = 111;
    /// No route.
    EHOSTUNREACH = 113;
    /// Cancelled.
    ECANCELED = 125;
}

impl Errno {
    /// What a system call returns for it: the negative number.
    pub fn to_result(self) -> i32 {
        -i32::from(self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
