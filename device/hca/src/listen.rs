// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listening sockets with a name in the file system: taken over when stale, refused when alive, removed at the end.

use rustix::fs::{lstat, FileType, Stat};
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why a socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{0}: another server is listening on this socket")]
    Taken(PathBuf),
    /// Something else has the name.
    #[error("{0}: exists and is not a socket; it was left alone")]
    NotASocket(PathBuf),
    /// The file system says no.
    #[error("{0}: permission denied")]
    Permission(PathBuf),
    /// The directory does not exist.
    #[error("{0}: its directory does not exist")]
    NoDirectory(PathBuf),
    /// Anything else.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

impl ListenError {
    fn new(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Permission(path),
            ErrorKind::NotFound => Self::NoDirectory(path),
            ErrorKind::AddrInUse => Self::Taken(path),
            _ => Self::Io(path, error),
        }
    }
}

/// A listening socket. Its name disappears with it.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the name: another server may have put its own socket there since.
    name: (u64, u64),
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Listening {
    /// Listens at `path`, non-blocking. A socket there on which nobody listens any more is replaced.
    ///
    /// # Errors
    ///
    /// See [`ListenError`]; each names the path.
    pub fn new(path: &Path) -> Result<Self, ListenError> {
        let fail = |error: io::Error| ListenError::new(path, error);
        match lstat(path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(ListenError::Taken(path.to_owned())),
                // Nobody listens: what is left of a server that was killed.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(fail)?;
                    log::info!("{}: replaced the socket of a server that is gone", path.display());
                }
                // Its queue is full, which takes a listener.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(ListenError::Taken(path.to_owned()));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
            },
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(fail(error.into())),
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let name = identity(&lstat(path).map_err(|error| fail(error.into()))?);
        Ok(Self {
            listener,
            path: path.to_owned(),
            name,
        })
    }

    /// The socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client that waits, if any.
    pub fn accept(&self) -> Option<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return None,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        log::error!("{}: cannot accept a client: {error}", self.path.display());
                        // No descriptors left, most likely. The client stays in the queue and the event would come
                        // back at once.
                        std::thread::sleep(std::time::Duration::from_millis(10));
                        return None;
                    }
                },
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if lstat(&self.path).is_ok_and(|stat| identity(&stat) == self.name) {
            if let Err(error) = std::fs::remove_file(&self.path) {
                log::warn!("{}: cannot remove the socket: {error}", self.path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h13_a_live_socket_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hca");
        let first = Listening::new(&path).unwrap();
        let error = Listening::new(&path).unwrap_err();
        assert!(matches!(error, ListenError::Taken(_)));
        assert!(
            error.to_string().contains("hca: another server is listening"),
            "{error}"
        );
        drop(first);
        assert!(!path.exists(), "removed at the end");

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a killed server leaves it");
        let second = Listening::new(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(second.accept().is_some());
    }

    #[test]
    fn h13_what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hca");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listening::new(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn h13_errors_name_the_path() {
        let error = Listening::new(Path::new("/nonexistent/hca")).unwrap_err().to_string();
        assert_eq!(error, "/nonexistent/hca: its directory does not exist");
        // Root, as whom tests may run, is denied nothing.
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let error = ListenError::new(Path::new("/root/hca"), denied).to_string();
        assert_eq!(error, "/root/hca: permission denied");
        let long = format!("/tmp/{}", "x".repeat(200));
        assert!(Listening::new(Path::new(&long))
            .unwrap_err()
            .to_string()
            .contains(&long));
    }

    #[test]
    fn h13_anothers_socket_of_the_same_name_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hca");
        let first = Listening::new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }
}
