// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages: one JSON object a line, requests one way, replies the other, matched by id.
//!
//! Replies come in the order in which things happen, not in which they were asked for: a `wait` for a program that
//! runs for minutes holds up nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of the virtio-serial port, as QEMU is told and as udev links it below `/dev/virtio-ports`.
pub const PORT: &str = "org.verbena.agent";

/// The most of one output stream of a program that the agent keeps, in bytes. What comes later is counted only.
pub const OUTPUT_LIMIT: usize = 4 << 20;

/// A request, host to guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the reply. Chosen by the host, unique among those that are outstanding.
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// What the agent can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Are you there? Answered by [`Answer::Hello`].
    Hello,
    /// Start a program. Answered by [`Answer::Started`].
    Spawn(Spawn),
    /// Wait until a program has ended, or the time is over. Answered by [`Answer::State`] in both cases.
    Wait {
        /// Which one: the id out of [`Answer::Started`].
        process: u32,
        /// How long, in milliseconds. 0 asks for the state as it is.
        timeout_ms: u64,
    },
    /// Send a signal. Answered by [`Answer::Done`].
    Signal {
        /// Which one: the id out of [`Answer::Started`].
        process: u32,
        /// The signal's number.
        signal: i32,
        /// To the program's whole process group, not to the program alone.
        group: bool,
    },
    /// Read a file. Answered by [`Answer::File`].
    ReadFile {
        /// Its path.
        path: String,
        /// More than this many bytes are an error.
        limit: u64,
    },
    /// Create or replace a file. Answered by [`Answer::Done`].
    WriteFile {
        /// Its path.
        path: String,
        /// Its content.
        data: Bytes,
        /// Its permission bits, if it is to be created.
        mode: u32,
    },
    /// Write everything back and power the guest off. Answered by [`Answer::Done`], after which the line goes dead.
    PowerOff,
}

/// A program to start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spawn {
    /// The program (looked up in `PATH` if it has no slash) and its arguments.
    pub argv: Vec<String>,
    /// What is added to the agent's own environment.
    pub env: BTreeMap<String, String>,
    /// The user and group id to run as, if not root.
    pub user: Option<u32>,
    /// What the program finds on its standard input.
    pub stdin: Bytes,
}

/// A reply, guest to host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// What came of it; the error is a sentence for a person.
    pub result: Result<Answer, String>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done, and there is nothing more to say.
    Done,
    /// The agent is there.
    Hello {
        /// `uname -r`.
        kernel: String,
        /// Seconds since the guest's kernel started.
        uptime_s: f64,
    },
    /// A program runs.
    Started {
        /// The agent's id for it.
        process: u32,
        /// The guest's.
        pid: u32,
    },
    /// How a program is doing.
    State(State),
    /// A file's content.
    File {
        /// The bytes.
        data: Bytes,
    },
}

/// How a program is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// How it ended; `None` while it runs.
    pub exit: Option<Exit>,
    /// Its standard output so far.
    pub stdout: Bytes,
    /// Its standard error so far.
    pub stderr: Bytes,
    /// How many bytes of both were dropped because they were beyond [`OUTPUT_LIMIT`].
    pub dropped: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Bytes in a JSON string: each byte is the character with its number.
///
/// Exact for any content, and readable in a log for what programs print most of the time.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// As text, with what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Bytes(bytes.to_vec())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|&byte| char::from(byte)).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
        bytes
            .map(Bytes)
            .map_err(|_| serde::de::Error::custom("a character above U+00FF stands for no byte"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_json() {
        let all = Bytes((0..=255).collect());
        let line = serde_json::to_string(&all).unwrap();
        assert!(!line.contains('\n'), "a line feed must not end the line");
        assert_eq!(serde_json::from_str::<Bytes>(&line).unwrap(), all);
    }

    #[test]
    fn a_character_that_is_no_byte_is_refused() {
        assert!(serde_json::from_str::<Bytes>("\"\u{20ac}\"").is_err());
    }

    #[test]
    fn the_messages_look_as_documented() {
        let request = Request {
            id: 7,
            op: Op::Wait {
                process: 3,
                timeout_ms: 50,
            },
        };
        let line = r#"{"id":7,"op":{"wait":{"process":3,"timeout_ms":50}}}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);

        let reply = Reply {
            id: 7,
            result: Ok(Answer::State(State {
                exit: Some(Exit::Code(0)),
                ..State::default()
            })),
        };
        let line = r#"{"id":7,"result":{"Ok":{"state":{"exit":{"code":0},"stdout":"","stderr":"","dropped":0}}}}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), line);
        assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), reply);
    }
}
