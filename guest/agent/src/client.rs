// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's end: any number of threads ask, one reads the replies.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::protocol::{Answer, Op, Reply, Request};

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent did not answer in time. It may still do what it was asked to do.
    #[error("the guest's agent did not answer within {0:?}")]
    TimedOut(Duration),
    /// The line is dead: the guest was powered off, or crashed, or the agent ended.
    #[error("the line to the guest's agent is closed")]
    Closed,
    /// The agent answered that it cannot.
    #[error("{0}")]
    Refused(String),
}

/// The host's end of the line.
pub struct Client {
    writer: Mutex<Box<dyn Write + Send>>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    closed: bool,
    by_id: HashMap<u64, SyncSender<Result<Answer, String>>>,
}

impl Client {
    /// Starts to talk. A thread reads `reader` until it ends.
    pub fn new(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Client {
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let shared = Arc::clone(&waiting);
        thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                let Ok(line) = line else { break };
                // What is no reply is noise on the line (the guest's firmware, say), and a reply that nobody waits
                // for any more came too late.
                let Ok(reply) = serde_json::from_str::<Reply>(&line) else {
                    continue;
                };
                let sender = shared.lock().expect("nobody panics holding it").by_id.remove(&reply.id);
                if let Some(sender) = sender {
                    let _ = sender.send(reply.result);
                }
            }
            let mut waiting = shared.lock().expect("nobody panics holding it");
            waiting.closed = true;
            waiting.by_id.clear();
        });
        Client {
            writer: Mutex::new(Box::new(writer)),
            waiting,
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call(&self, op: Op, timeout: Duration) -> Result<Answer, CallError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let id = {
            let mut waiting = self.waiting.lock().expect("nobody panics holding it");
            if waiting.closed {
                return Err(CallError::Closed);
            }
            waiting.last += 1;
            let id = waiting.last;
            waiting.by_id.insert(id, sender);
            id
        };
        let mut line = serde_json::to_vec(&Request { id, op }).expect("requests are plain data");
        line.push(b'\n');
        {
            let mut writer = self.writer.lock().expect("nobody panics holding it");
            writer
                .write_all(&line)
                .and_then(|()| writer.flush())
                .map_err(|_| CallError::Closed)?;
        }
        match receiver.recv_timeout(timeout) {
            Ok(result) => result.map_err(CallError::Refused),
            Err(RecvTimeoutError::Disconnected) => Err(CallError::Closed),
            Err(RecvTimeoutError::Timeout) => {
                self.waiting.lock().expect("nobody panics holding it").by_id.remove(&id);
                Err(CallError::TimedOut(timeout))
            }
        }
    }
}
