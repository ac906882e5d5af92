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
        Self::local_with_patience(PATIENCE)
    }

    fn local_with_patience(patience: Duration) -> Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self::unix(a, patience)?, Self::unix(b, patience)?))
    }

    fn unix(stream: UnixStream, patience: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        let write = stream.try_clone()?;
        Ok(Self {
            read: BufReader::new(Box::new(stream)),
            write: Box::new(write),
            ended: None,
        })
    }

    fn tcp(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let write = stream.try_clone()?;
        Ok(Self {
            read: BufReader::new(Box::new(stream)),
            write: Box::new(write),
            ended: None,
        })
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
        self.write
            .write_all(line.as_bytes())
            .context("the other side is gone")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn passed() -> Ended {
        Ended { skip: None, fail: None }
    }

    #[test]
    fn both_sides_hear_what_the_other_says() {
        let (mut a, mut b) = Wire::local().unwrap();
        a.send(&7u32).unwrap();
        a.send(&"two").unwrap();
        assert_eq!(b.recv::<u32>().unwrap(), 7);
        assert_eq!(b.recv::<String>().unwrap(), "two");
        b.send(&"here").unwrap();
        assert_eq!(a.exchange(&"there".to_owned()).unwrap(), "here");
    }

    #[test]
    fn a_word_of_another_kind_is_shown() {
        let (mut a, mut b) = Wire::local().unwrap();
        a.send(&"text").unwrap();
        let error = format!("{:#}", b.recv::<u32>().unwrap_err());
        assert!(error.contains("\"text\""), "{error}");
    }

    #[test]
    fn different_places_do_not_pass_for_the_same() {
        let (mut a, mut b) = Wire::local().unwrap();
        let there = std::thread::spawn(move || b.barrier("connected").is_err());
        assert!(a.barrier("sent").is_err());
        assert!(there.join().unwrap());
    }

    #[test]
    fn a_side_that_says_nothing_is_not_waited_for_forever() {
        let (mut a, _b) = Wire::local_with_patience(Duration::from_millis(20)).unwrap();
        assert!(a.recv::<u32>().is_err());
    }

    #[test]
    fn a_side_that_is_gone_is_noticed_at_once() {
        let (mut a, b) = Wire::local().unwrap();
        drop(b);
        assert!(a.recv::<u32>().is_err());
    }

    #[test]
    fn after_one_side_fails_both_begin_the_next_case_together() {
        let (mut a, mut b) = Wire::local().unwrap();
        // The left side has failed while the right one still talks to it.
        let there = std::thread::spawn(move || {
            b.send(&1u32).unwrap();
            b.send(&2u32).unwrap();
            let error = format!("{:#}", b.recv::<u32>().unwrap_err());
            assert!(error.contains("ended the case"), "{error}");
            assert!(b.recv::<u32>().is_err(), "it stays ended");
            let theirs = b.end(&passed()).unwrap();
            assert_eq!(theirs.fail.as_deref(), Some("lost"));
            b.barrier("next").unwrap();
            b.send(&3u32).unwrap();
        });
        let theirs = a
            .end(&Ended {
                skip: None,
                fail: Some("lost".to_owned()),
            })
            .unwrap();
        assert_eq!(theirs.fail, None);
        a.barrier("next").unwrap();
        assert_eq!(a.recv::<u32>().unwrap(), 3, "what was said in the case before is gone");
        there.join().unwrap();
    }

    #[test]
    fn two_sides_that_end_at_once_hear_each_other() {
        let (mut a, mut b) = Wire::local().unwrap();
        let there = std::thread::spawn(move || {
            b.end(&Ended {
                skip: Some("no".to_owned()),
                fail: None,
            })
            .unwrap()
        });
        assert_eq!(a.end(&passed()).unwrap().skip.as_deref(), Some("no"));
        assert!(there.join().unwrap().skip.is_none());
    }

    #[test]
    fn tcp_carries_a_conversation() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let there = {
            let address = address.clone();
            std::thread::spawn(move || Wire::listen(&address).unwrap().exchange(&1u32).unwrap())
        };
        assert_eq!(Wire::connect(&address).unwrap().exchange(&2u32).unwrap(), 1);
        assert_eq!(there.join().unwrap(), 2);
    }
}
