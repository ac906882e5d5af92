// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client: bytes into messages, replies into bytes.
//!
//! Reads take the header, then exactly the rest of the message, and never a byte of the next one: descriptors arrive
//! with the bytes they were sent with, so those received while a message is being read are that message's. Memory is
//! bounded by one message in and the replies to it out: while a client does not take its replies, nothing more is read
//! from it.

use super::dispatch::{self, Agreement, Answer, Fault, Request};
use super::shape::Shape;
use super::wire::{Command, Header, MAX_MESSAGE, SCM_MAX_FDS};
use super::Backend;
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use zerocopy::{FromBytes, IntoBytes};

/// Messages carried out before another socket gets its turn.
const BURST: usize = 64;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The client closed it, between two messages.
    #[error("the client closed the connection")]
    Eof,
    /// The client closed it, or died, inside a message.
    #[error("the client closed the connection inside a message")]
    Truncated,
    /// The client broke the protocol.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, String),
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Messages from the client.
    Readable,
    /// Room for replies.
    Writable,
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// The message being read: its header, then the rest.
    inbox: Vec<u8>,
    /// Descriptors that came with it.
    fds: Vec<OwnedFd>,
    /// Bytes of replies that the client has not taken yet.
    outbox: Vec<u8>,
    /// The descriptor that goes with the first of them: the reply to one message is out before the next one is read.
    outgoing: Option<OwnedFd>,
    /// Set by VERSION.
    agreement: Option<Agreement>,
    /// Messages carried out.
    messages: u64,
}

enum Read {
    Message(Header),
    WouldBlock,
}

impl Connection {
    /// Takes over `stream`.
    ///
    /// # Errors
    ///
    /// If it cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            inbox: Vec::with_capacity(256),
            fds: Vec::new(),
            outbox: Vec::new(),
            outgoing: None,
            agreement: None,
            messages: 0,
        })
    }

    /// The socket, to be waited for.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Messages carried out so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Sends and carries out what can be without waiting, and says what to wait for.
    ///
    /// # Errors
    ///
    /// The connection is over: drop it.
    pub fn serve(&mut self, shape: &Shape, backend: &mut dyn Backend) -> Result<Interest, Closed> {
        for _ in 0..BURST {
            if !self.flush()? {
                return Ok(Interest::Writable);
            }
            let Read::Message(header) = self.read()? else {
                return Ok(Interest::Readable);
            };
            self.messages += 1;
            let result = self.message(&header, shape, backend);
            self.inbox.clear();
            self.fds.clear();
            if let Err(closed) = result {
                // So that the client can tell why; if it does not take it, it will see the end.
                let _ = self.flush();
                return Err(closed);
            }
        }
        Ok(if self.flush()? {
            Interest::Readable
        } else {
            Interest::Writable
        })
    }

    fn message(&mut self, header: &Header, shape: &Shape, backend: &mut dyn Backend) -> Result<(), Closed> {
        let command = Command(header.command);
        let fds = std::mem::take(&mut self.fds);
        let body = &self.inbox[Header::SIZE..];
        let result = match &self.agreement {
            Some(agreement) => {
                let request = Request {
                    command,
                    body,
                    fds,
                    agreement,
                };
                dispatch::carry_out(request, shape, backend)
            }
            None if command == Command::VERSION => dispatch::negotiate(body).map(|(agreement, reply)| {
                self.agreement = Some(agreement);
                Answer::from(reply)
            }),
            None => Err(Fault::Malformed("VERSION must come first".into())),
        };
        let wants_reply = header.flags & Header::NO_REPLY == 0;
        let (reply, answer, outcome) = match result {
            Ok(answer) => (dispatch::reply_header(header, answer.body.len()), answer, Ok(())),
            Err(Fault::Errno(errno)) => {
                log::debug!("{} refused: {}", command.name(), io::Error::from_raw_os_error(errno));
                (dispatch::error_header(header, errno), Answer::default(), Ok(()))
            }
            Err(Fault::Malformed(why)) => (
                dispatch::error_header(header, libc::EINVAL),
                Answer::default(),
                Err(Closed::Malformed(command.name(), why)),
            ),
        };
        if wants_reply {
            self.outbox.extend_from_slice(reply.as_bytes());
            self.outbox.extend_from_slice(&answer.body);
            self.outgoing = answer.fd;
        }
        outcome
    }

    /// Reads until a message is complete or the socket is empty.
    fn read(&mut self) -> Result<Read, Closed> {
        if self.inbox.len() < Header::SIZE && !self.fill(Header::SIZE)? {
            return Ok(Read::WouldBlock);
        }
        let (header, _) = Header::read_from_prefix(&self.inbox).expect("the header has been read in full");
        let command = Command(header.command).name();
        if header.flags & Header::TYPE != Header::COMMAND {
            let why = format!("flags {:#x} are not a command's", header.flags);
            return Err(Closed::Malformed(command, why));
        }
        let size = header.message_size;
        if (size as usize) < Header::SIZE || size > MAX_MESSAGE {
            let why = format!("length {size} is not between {} and {MAX_MESSAGE}", Header::SIZE);
            return Err(Closed::Malformed(command, why));
        }
        if !self.fill(size as usize)? {
            return Ok(Read::WouldBlock);
        }
        Ok(Read::Message(header))
    }

    /// Reads until the inbox holds `target` bytes. False: the socket is empty before that.
    fn fill(&mut self, target: usize) -> Result<bool, Closed> {
        while self.inbox.len() < target {
            let have = self.inbox.len();
            self.inbox.resize(target, 0);
            let received = receive(&self.stream, &mut self.inbox[have..], &mut self.fds);
            let taken = *received.as_ref().unwrap_or(&0);
            self.inbox.truncate(have + taken);
            match received {
                Ok(0) if have == 0 => return Err(Closed::Eof),
                Ok(0) => return Err(Closed::Truncated),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(Closed::Truncated),
                Err(error) => return Err(error.into()),
            }
            if self.fds.len() > SCM_MAX_FDS {
                let why = "more descriptors than a message can carry".into();
                return Err(Closed::Malformed("message", why));
            }
        }
        Ok(true)
    }

    /// Sends what is in the outbox. False: the client does not take all of it now.
    fn flush(&mut self) -> Result<bool, Closed> {
        let mut sent = 0;
        while sent < self.outbox.len() {
            match send(&self.stream, &self.outbox[sent..], self.outgoing.as_ref()) {
                Ok(0) => return Err(Closed::Truncated),
                Ok(n) => {
                    sent += n;
                    self.outgoing = None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Err(Closed::Eof)
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.outbox.drain(..sent);
        Ok(self.outbox.is_empty())
    }
}

/// Sends bytes, and with the first of them a descriptor.
fn send(stream: &UnixStream, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "the space is for one");
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

/// Receives bytes, and the descriptors that came with them.
fn receive(stream: &UnixStream, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut vec = [IoSliceMut::new(into)];
        match recvmsg(stream, &mut vec, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    // Taken before the check: what is in the list is closed with it.
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        // The buffer holds all that one message can carry: this process has no descriptors left.
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(message.bytes)
}
