// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the two sides of a case talk beside RDMA: JSON lines over a stream, with a time limit on every receive.

use anyhow::{bail, Context as _, Result};
use serde::{de::DeserializeOwned, Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a side waits for the other's next word. Guests under TCG are slow; a hang should still end the case.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What goes over a wire: what the case says, or how the case ended on one side.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Say(serde_json::Value),
    Ended(Ended),
}

/// How a case ended on one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    /// It does not apply there, and why.
    pub skip: Option<String>,
    /// It failed there, and why.
    pub fail: Option<String>,
}

/// One end of the conversation.
pub struct Wire {
    read: BufReader<Box<dyn std::io::Read + Send>>,
    write: Box<dyn Write + Send>,
    /// The other side has ended the case that this side is still in.
    ended: Option<Ended>,
}

impl Wire {
    /// Two ends in this process.
    ///
    /// # Errors
    ///
    /// If the system has no descriptors left.
    pub fn local() -> Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self::unix(a)?, Self::unix(b)?))
    }

    fn unix(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let write = stream.try_clone()?;
        Ok(Self { read: BufReader::new(Box::new(stream)), write: Box::new(write), ended: None })
    }

    fn tcp(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let write = stream.try_clone()?;
        Ok(Self { read: BufReader::new(Box::new(stream)), write: Box::new(write), ended: None })
    }

    /// Waits for the other side at `address` (`host:port`).
    ///
    /// # Errors
    ///
    /// If the address cannot be bound, or nobody comes within [`PATIENCE`].
    pub fn listen(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Self::tcp(stream);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(e).with_context(|| format!("nobody connected to {address}")),
            }
        }
    }

    /// Connects to the other side, which may still be starting.
    ///
    /// # Errors
    ///
    /// If nobody listens within [`PATIENCE`].
    pub fn connect(address: &str) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Self::tcp(stream),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                Err(e) => return Err(e).with_context(|| format!("cannot connect to {address}")),
            }
        }
    }

    /// Tells the other side something.
    ///
    /// # Errors
    ///
    /// If the other side is gone.
    pub fn send<T: Serialize>(&mut self, value: &T) -> Result<()> {
        self.put(&Word::Say(serde_json::to_value(value)?))
    }

    /// Hears what the other side tells.
    ///
    /// # Errors
    ///
    /// If the other side is gone, has ended the case, says something else, or says nothing within [`PATIENCE`].
    pub fn recv<T: DeserializeOwned>(&mut self) -> Result<T> {
        if self.ended.is_none() {
            match self.get()? {
                Word::Say(value) => {
                    let text = value.to_string();
                    return serde_json::from_value(value)
                        .with_context(|| format!("unexpected word from the other side: {text}"));
                }
                Word::Ended(ended) => self.ended = Some(ended),
            }
        }
        bail!("the other side has ended the case")
    }

    /// Tells the other side how the case ended here, and learns how it ended there. Whatever the other side still said
    /// is passed over, so that both begin the next case at the same place.
    ///
    /// # Errors
    ///
    /// If the other side is gone.
    pub(super) fn end(&mut self, mine: &Ended) -> Result<Ended> {
        self.put(&Word::Ended(mine.clone()))?;
        loop {
            if let Some(ended) = self.ended.take() {
                return Ok(ended);
            }
            if let Word::Ended(ended) = self.get()? {
                self.ended = Some(ended);
            }
        }
    }

    fn put(&mut self, word: &Word) -> Result<()> {
        let mut line = serde_json::to_string(word)?;
        line.push('\n');
        self.write.write_all(line.as_bytes()).context("the other side is gone")?;
        Ok(self.write.flush()?)
    }

    fn get(&mut self) -> Result<Word> {
        let mut line = String::new();
        let n = self.read.read_line(&mut line).context("no word from the other side")?;
        if n == 0 {
            bail!("the other side ended the conversation");
        }
        serde_json::from_str(&line).with_context(|| format!("not a word of this conversation: {}", line.trim()))
    }

    /// Tells and hears: both sides call this with their own value.
    ///
    /// # Errors
    ///
    /// As [`Self::send`] and [`Self::recv`].
    pub fn exchange<T: Serialize + DeserializeOwned>(&mut self, value: &T) -> Result<T> {
        self.send(value)?;
        self.recv()
    }

    /// Both sides are here, by the name of the place.
    ///
    /// # Errors
    ///
    /// As [`Self::exchange`], and if the other side is at another place.
    pub fn barrier(&mut self, place: &str) -> Result<()> {
        let there: String = self.exchange(&place.to_owned())?;
        if there != place {
            bail!("this side is at '{place}', the other at '{there}'");
        }
        Ok(())
    }
}
