// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client of the control socket: bytes into lines, answers into bytes.

use super::{Answer, Request, MAX_REQUEST};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

pub use crate::protocol::connection::Interest;

/// One client.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    /// The client has said all that it will say.
    ended: bool,
}

/// The connection is over.
#[derive(Debug)]
pub struct Gone;

impl Control {
    /// Takes over `stream`.
    ///
    /// # Errors
    ///
    /// If it cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            ended: false,
        })
    }

    /// The socket, to be waited for.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Answers at most one request with `answer`, and says what to wait for. While the client does not take an answer,
    /// it gets no other.
    ///
    /// # Errors
    ///
    /// The connection is over: drop it.
    pub fn serve(&mut self, answer: impl FnOnce(Request) -> Answer) -> Result<Interest, Gone> {
        if !self.flush()? {
            return Ok(Interest::Writable);
        }
        self.fill()?;
        if let Some(line) = self.line()? {
            let answer = match serde_json::from_slice(&line) {
                Ok(request) => answer(request),
                Err(error) => Answer::Error(format!("not a request: {error}")),
            };
            if serde_json::to_writer(&mut self.outbox, &answer).is_err() {
                return Err(Gone);
            }
            self.outbox.push(b'\n');
        } else if self.ended {
            return Err(Gone);
        }
        // Another line may be here already: wait for room, which there is.
        let more = self.inbox.contains(&b'\n') || self.ended;
        Ok(if self.flush()? && !more {
            Interest::Readable
        } else {
            Interest::Writable
        })
    }

    fn fill(&mut self) -> Result<(), Gone> {
        let mut buffer = [0; MAX_REQUEST];
        let room = (MAX_REQUEST + 1).saturating_sub(self.inbox.len()).min(buffer.len());
        if self.ended || room == 0 {
            return Ok(());
        }
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => self.ended = true,
            Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(Gone),
        }
        Ok(())
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, Gone> {
        match self.inbox.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let rest = self.inbox.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.inbox, rest);
                line.pop();
                Ok(Some(line))
            }
            None if self.inbox.len() > MAX_REQUEST => {
                log::warn!("control: a request is longer than {MAX_REQUEST} bytes");
                Err(Gone)
            }
            None => Ok(None),
        }
    }

    fn flush(&mut self) -> Result<bool, Gone> {
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(0) => return Err(Gone),
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        // Not kept: a dump can be long.
        self.outbox = Vec::new();
        self.sent = 0;
        Ok(true)
    }
}
