// SPDX-License-Identifier: MIT OR Apache-2.0
//! vfio-user 0.1, the server's side, on top of the `vfio_user` crate's [`ServerBackend`].
//!
//! The crate's own `Server` reads a message while it interprets it, so a malformed one makes it panic or lose its place
//! in the stream; here a message is first read in full, within bounds ([`connection`]), then parsed and carried out
//! ([`dispatch`]). Neither knows what device is behind the backend: that is in [`shape`], as data.
//!
//! What closes a connection: bytes that cannot be framed (a length below the header's or above the bound, a message
//! that is no command, a first message other than VERSION), and a message shorter than its command's fixed part.
//! Everything else that is wrong is answered with an errno.

use std::io;
use std::os::fd::OwnedFd;
use vfio_user::ServerBackend;

pub mod connection;
pub mod dispatch;
pub mod shape;
pub mod wire;

/// A device that has what [`ServerBackend`] has no call for.
pub trait Backend: ServerBackend {
    /// A descriptor of the eventfd that stands for writes to [`Shape::events`](shape::Shape::events), for the client.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    fn event_fd(&mut self) -> io::Result<OwnedFd>;
}
