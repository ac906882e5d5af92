// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: what an operator asks a running server, one JSON object a line, one answer a line.
//!
//! The main loop serves it between two messages of the clients, and holds the engine's lock only while it copies the
//! state; making text of it happens outside. Requests, the number of connections and the answers waiting in one of them
//! are bounded.

pub mod client;
pub mod connection;
pub mod report;

use serde::{Deserialize, Serialize};

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// Longest request.
pub const MAX_REQUEST: usize = 4096;
/// Most connections at one time.
pub const MAX_CONNECTIONS: usize = 16;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Is anybody there, and who?
    Ping,
    /// The state of the device.
    Dump {
        /// Of one HCA, by its number; of all if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hca: Option<usize>,
        /// Shape of the answer.
        #[serde(default)]
        format: Format,
    },
    /// One queue pair, with its rings decoded and its last errors.
    Qp {
        /// The HCA's number.
        hca: usize,
        /// The queue pair's.
        qpn: u32,
        /// Entries to show of each ring, on either side of its consumer; at most [`verbena_engine::inspect::MOST_ENTRIES`].
        entries: u32,
        /// Shape of the answer.
        #[serde(default)]
        format: Format,
    },
    /// Plugs or unplugs a port's cable.
    Port {
        /// The HCA's number.
        hca: usize,
        /// Plugged in?
        up: bool,
    },
}

/// Shape of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// An object.
    #[default]
    Json,
    /// One string, for people.
    Text,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Ping`].
    Pong {
        /// [`VERSION`].
        protocol: u32,
        /// Version of the server.
        version: String,
        /// Number of HCAs.
        hcas: usize,
    },
    /// To [`Request::Dump`] and [`Request::Qp`].
    Dump(serde_json::Value),
    /// To [`Request::Port`].
    Done,
    /// To anything that cannot be done: a sentence.
    Error(String),
}
