// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server in this process on sockets of its own, and a client that can break every rule.

use crate::patience::PATIENCE;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use verbena_hca::protocol::wire::Header;
use verbena_hca::{Config, Server, ServerError, Stopper};
use vfio_user::Client;
use zerocopy::{FromBytes, IntoBytes};

/// A running server.
pub struct Running {
    dir: tempfile::TempDir,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
    hcas: usize,
}

impl Running {
    /// A server with `hcas` HCAs and a control socket.
    pub fn new(hcas: usize) -> Self {
        Self::spinning(hcas, Duration::from_micros(20))
    }

    /// The same, with a worker that spins for `spin` before it sleeps.
    pub fn spinning(hcas: usize, spin: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            sockets: (0..hcas).map(|index| dir.path().join(format!("hca{index}"))).collect(),
            control: Some(dir.path().join("control")),
            spin,
            seed: 1,
            ..Config::default()
        };
        let server = Server::new(&config).unwrap();
        let stopper = server.stopper().unwrap();
        let thread = std::thread::spawn(move || server.run());
        Self {
            dir,
            stopper,
            thread: Some(thread),
            hcas,
        }
    }

    pub fn socket(&self, index: usize) -> PathBuf {
        assert!(index < self.hcas);
        self.dir.path().join(format!("hca{index}"))
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The `vfio_user` crate's client, attached to HCA `index`. One that has just left may still be being shown out.
    pub fn client(&self, index: usize) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Client::new(&self.socket(index)) {
                Ok(client) => return client,
                Err(error) if Instant::now() > deadline => panic!("cannot attach: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// A client without manners, attached to HCA `index`, VERSION done.
    pub fn raw(&self, index: usize) -> Raw {
        let mut raw = Raw::connect(&self.socket(index));
        raw.version();
        raw
    }

    /// Ends the server; it must end well.
    pub fn stop(mut self) {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!self.socket(0).exists(), "the socket is removed");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result
                    .expect("the server does not panic")
                    .expect("the server ends well");
            }
        }
    }
}

/// A client that sends what it is told.
pub struct Raw {
    pub stream: UnixStream,
    next: u16,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn errno(&self) -> Option<i32> {
        (self.header.flags & Header::ERROR != 0).then_some(self.header.error as i32)
    }
}

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, next: 0x1000 }
    }

    pub fn version(&mut self) -> Reply {
        let mut body = vec![0, 0, 0, 0];
        body.extend_from_slice(b"{\"capabilities\":{\"max_msg_fds\":8}}\0");
        let reply = self.call(1, &body);
        assert_eq!(reply.errno(), None);
        reply
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends `bytes` with descriptors.
    pub fn send_fds(&mut self, bytes: &[u8], fds: &[&File]) {
        use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|file| file.as_fd()).collect();
        let mut space = vec![std::mem::MaybeUninit::uninit(); 4096];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let iov = [io::IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &iov, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }

    pub fn message(&mut self, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
        self.next += 1;
        let header = Header {
            message_id: self.next,
            command,
            message_size: (Header::SIZE + body.len()) as u32,
            flags,
            error: 0,
        };
        [header.as_bytes(), body].concat()
    }

    pub fn receive(&mut self) -> io::Result<Reply> {
        let mut header = [0; Header::SIZE];
        self.stream.read_exact(&mut header)?;
        let header = Header::read_from_bytes(&header).unwrap();
        let mut body = vec![0; header.message_size as usize - Header::SIZE];
        self.stream.read_exact(&mut body)?;
        Ok(Reply { header, body })
    }

    /// One command and its reply, which must be a reply to it.
    pub fn call(&mut self, command: u16, body: &[u8]) -> Reply {
        self.call_fds(command, body, &[])
    }

    pub fn call_fds(&mut self, command: u16, body: &[u8], fds: &[&File]) -> Reply {
        let message = self.message(command, 0, body);
        self.send_fds(&message, fds);
        let reply = self.receive().unwrap();
        assert_eq!(reply.header.message_id, self.next);
        assert_eq!(reply.header.command, command);
        assert_eq!(reply.header.flags & Header::TYPE, Header::REPLY);
        reply
    }

    /// One command, and its reply with the descriptors that came with it.
    pub fn call_for_fds(&mut self, command: u16, body: &[u8]) -> (Reply, Vec<OwnedFd>) {
        use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
        let message = self.message(command, 0, body);
        self.send(&message).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut header = [0; Header::SIZE];
        let iov = &mut [io::IoSliceMut::new(&mut header)];
        let received = recvmsg(&self.stream, iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(received.bytes, Header::SIZE, "small enough to come at once");
        let rights = control.drain().filter_map(|ancillary| match ancillary {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let fds = rights.flatten().collect();
        let header = Header::read_from_bytes(&header).unwrap();
        assert_eq!((header.message_id, header.command), (self.next, command));
        let mut body = vec![0; header.message_size as usize - Header::SIZE];
        self.stream.read_exact(&mut body).unwrap();
        (Reply { header, body }, fds)
    }

    /// The server closes the connection, after at most one reply with an error.
    pub fn expect_closed(&mut self) {
        loop {
            match self.receive() {
                Ok(reply) => assert_eq!(reply.errno(), Some(libc::EINVAL), "{reply:?}"),
                Err(error) => {
                    assert!(
                        matches!(
                            error.kind(),
                            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                        ),
                        "{error}"
                    );
                    return;
                }
            }
        }
    }
}

/// A memory file of `size` bytes.
pub fn memfd(size: u64) -> File {
    named_memfd("guest", size)
}

/// The same, with a name that `/proc` shows.
pub fn named_memfd(name: &str, size: u64) -> File {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(size).unwrap();
    file
}
