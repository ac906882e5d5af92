// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other side of the control socket, for `verbena-ctl` and for tests.

use super::{Answer, Request};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than any server that is alive takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("{0}: no server is listening there (is verbena-hca running, and was this its --control?)")]
    NoServer(String),
    /// The file system says no.
    #[error("{0}: permission denied")]
    Permission(String),
    /// The socket failed.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// The server, or whatever it is, answered with something else.
    #[error("{0}: the answer is not one of a verbena-hca: {1}")]
    NotOurs(String, String),
    /// The server says no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the server at `path`.
///
/// # Errors
///
/// See [`AskError`]. [`Answer::Error`] is one of them.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let name = path.display().to_string();
    let fail = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::NoServer(name.clone()),
        ErrorKind::PermissionDenied => AskError::Permission(name.clone()),
        _ => AskError::Io(name.clone(), error),
    };
    let mut stream = UnixStream::connect(path).map_err(fail)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(fail)?;
    let mut line = serde_json::to_vec(request).expect("a request serializes");
    line.push(b'\n');
    stream.write_all(&line).map_err(fail)?;
    let mut answer = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut answer).map_err(fail)?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Error(why)) => Err(AskError::Refused(why)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(AskError::NotOurs(name, error.to_string())),
    }
}
