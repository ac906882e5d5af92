// SPDX-License-Identifier: MIT OR Apache-2.0
//! The vfio-user socket: register accesses as messages, with the manners of a PCI device.
//!
//! `vfio_user::Client` waits for replies for ever and, where an error is answered, for more bytes than come. So the
//! handshake has a thread of its own and a time limit, the socket gets time limits, and after the first failure the
//! device counts as gone: reads are all ones, writes are lost, nobody waits again.

use super::bell::Bell;
use crate::error::{errno_of, Error, Result};
use rdma_uapi::Errno;
use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Mutex, PoisonError};
use std::time::Duration;
use verbena_hw::pci;
use vfio_user::Client;
use vmm_sys_util::eventfd::EventFd;

/// Longer than any server that lives needs for an answer.
const ANSWER: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 10_000 });
/// A server that is busy with another client does not shake hands at all.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How a connection looks that the server has ended.
const ENDED: [ErrorKind; 3] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
];
/// What is most likely the matter with a server that does not shake hands.
const BUSY: &str = "is another process, or a QEMU, attached to it? A device has one client at a time";

/// The index of PCI configuration space among vfio's regions.
const REGION_CONFIG: u32 = 7;
/// The index of MSI-X among vfio's interrupts.
const IRQ_MSIX: u32 = 2;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const IRQ_EVENTFD: u32 = 1 << 2 | 1 << 5;
/// The command register of configuration space, and its bits for memory accesses and bus mastership.
const PCI_COMMAND: u64 = 4;
const PCI_COMMAND_ON: u16 = 1 << 1 | 1 << 2;

/// A connection to a vfio-user server.
pub(super) struct Socket {
    client: Mutex<Client>,
    /// Another descriptor of the client's socket, to set its time limits, see its end and end it.
    stream: Option<UnixStream>,
    /// The eventfd by which a device that sleeps is woken without a message, if the server has one.
    bell: Option<Bell>,
    dead: AtomicBool,
}

impl Socket {
    /// Connects to the server at `path`.
    ///
    /// Descriptors are compared before and after, so callers take turns.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |source: io::Error, advice| Error::Open {
            path: path.to_owned(),
            source,
            advice,
        };
        let before = sockets();
        let (answer, answered) = mpsc::channel();
        let to = path.to_owned();
        let shake = move || {
            // Nobody listens any more: then the client is dropped here, which ends the connection.
            let _ = answer.send(Client::new(&to));
        };
        let thread = std::thread::Builder::new()
            .name("vfio-user handshake".into())
            .spawn(shake);
        thread.map_err(|source| Error::System {
            doing: "start a thread",
            source,
        })?;
        let client = match answered.recv_timeout(HANDSHAKE) {
            Ok(Ok(client)) => client,
            Ok(Err(vfio_user::Error::Connect(source))) => {
                let advice = match source.kind() {
                    ErrorKind::NotFound => "is `verbena-hca --socket` running with this path?",
                    ErrorKind::ConnectionRefused => "nobody listens on it any more: start `verbena-hca` again",
                    ErrorKind::PermissionDenied => "the socket's mode and owner do not let you",
                    _ => "",
                };
                return Err(open(source, advice));
            }
            // Turned away before the handshake was done.
            Ok(Err(vfio_user::Error::StreamRead(source) | vfio_user::Error::StreamWrite(source)))
                if ENDED.contains(&source.kind()) =>
            {
                return Err(open(source, BUSY));
            }
            Ok(Err(error)) => {
                return Err(Error::Start {
                    path: path.to_owned(),
                    reason: error.to_string(),
                    errno: Errno::EIO,
                })
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(open(ErrorKind::TimedOut.into(), BUSY));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let reason = "the server's answers are malformed".to_owned();
                return Err(Error::Start {
                    path: path.to_owned(),
                    reason,
                    errno: Errno::EIO,
                });
            }
        };
        let stream = find_stream(&before, path);
        match &stream {
            Some(stream) => {
                let limit = |result: io::Result<()>| result.map_err(|e| open(e, ""));
                limit(stream.set_read_timeout(Some(ANSWER)))?;
                limit(stream.set_write_timeout(Some(ANSWER)))?;
            }
            None => log::warn!(
                "the descriptor of {} is not to be found: a server that hangs will not be noticed",
                path.display()
            ),
        }
        Ok(Self {
            client: Mutex::new(client),
            stream,
            bell: None,
            dead: AtomicBool::new(false),
        })
    }

    /// The socket itself, to be told of its end.
    pub(super) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// Whether it is of no use any more.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// From now on it is of no use. Whoever waits for an answer stops waiting.
    pub(super) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        if let Some(stream) = &self.stream {
            // It may have ended by itself already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Calls `f` with the client; `None` if the socket is dead or `f` finds it so.
    fn with<T>(&self, f: impl FnOnce(&mut Client) -> Result<T, vfio_user::Error>) -> Option<T> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_dead() {
            return None;
        }
        match f(&mut client) {
            Ok(value) => Some(value),
            Err(error) => {
                log::warn!("the vfio-user server does not answer: {error}");
                self.end();
                None
            }
        }
    }

    /// Asks the server for an eventfd. A server that has none is no failure.
    pub(super) fn find_bell(&mut self) -> Option<()> {
        let bell = self.with(|_| match &self.stream {
            // The client is ours meanwhile: what comes is the answer to this.
            Some(stream) => Bell::ask(stream).map_err(vfio_user::Error::StreamRead),
            None => Ok(None),
        });
        self.bell = bell?;
        Some(())
    }

    /// Makes the device the bus master that DMA needs, and gives it the memory of `file`.
    pub(super) fn enable(&self, file: &fs::File, addr: u64, len: u64) -> Option<()> {
        self.with(|client| {
            client.region_write(REGION_CONFIG, PCI_COMMAND, &PCI_COMMAND_ON.to_le_bytes())?;
            client.dma_map(0, addr, len, file.as_raw_fd())
        })
    }

    /// Interrupt vectors that the device has.
    pub(super) fn vectors(&self) -> Option<u32> {
        self.with(|client| client.get_irq_info(IRQ_MSIX)).map(|info| info.count)
    }

    /// Lets vector `n` signal the `n`th of `events`.
    pub(super) fn set_vectors(&self, events: &[EventFd]) -> Option<()> {
        self.with(|client| {
            // One descriptor a message: more is the server's to allow.
            for (vector, event) in (0..).zip(events) {
                client.set_irqs(IRQ_MSIX, IRQ_EVENTFD, vector, 1, &[event.as_raw_fd()])?;
            }
            Ok(())
        })
    }

    /// Reads `N` bytes at `offset` of BAR 0; all ones if the device is gone.
    pub(super) fn read<const N: usize>(&self, offset: u32) -> [u8; N] {
        let mut data = [0; N];
        let region = pci::BAR_REGS as u32;
        match self.with(|client| client.region_read(region, offset.into(), &mut data)) {
            Some(()) => data,
            None => [0xff; N],
        }
    }

    /// Writes to BAR 0.
    pub(super) fn write(&self, offset: u32, data: &[u8]) {
        let _lost_if_gone = self.store(pci::BAR_REGS as u32, offset.into(), data);
    }

    /// Writes a doorbell register: `offset` in BAR 2.
    pub(super) fn ring(&self, offset: u64, value: u32) -> Option<()> {
        self.store(pci::BAR_DOORBELL as u32, offset, &value.to_le_bytes())
    }

    /// Wakes the device, in whose doorbell page `slot`'s bit is set: by the eventfd, or by its slot in the register, which is at
    /// `offset` in BAR 2. Who has rung a device that turns out to be gone hears of it as he would have if it had gone a moment
    /// later.
    pub(super) fn kick(&self, offset: u64, slot: u16) -> Option<()> {
        match &self.bell {
            Some(bell) if bell.rings(offset) => (!self.is_dead()).then(|| bell.ring()),
            _ => self.ring(offset, slot.into()),
        }
    }

    /// Writes to a region. As on a bus, the write is posted: whoever writes goes on at once, and who reads afterwards reads what
    /// the writes before it have made.
    fn store(&self, region: u32, offset: u64, data: &[u8]) -> Option<()> {
        self.with(|client| match &self.stream {
            // The client is ours meanwhile: nobody else's message is half written.
            Some(stream) => post(stream, region, offset, data).map_err(vfio_user::Error::StreamWrite),
            None => client.region_write(region, offset, data),
        })
    }
}

/// The message REGION_WRITE, and the flag that says that no reply is wanted (vfio-user, "Header").
const REGION_WRITE: u16 = 10;
const NO_REPLY: u32 = 1 << 4;
/// Bytes of it before the data.
const POST: usize = 32;
/// The widest register's.
const WIDEST: usize = 8;

/// Writes to a register without waiting for the answer, which `vfio_user::Client` cannot.
fn post(mut stream: &UnixStream, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
    let mut message = [0; POST + WIDEST];
    let message = &mut message[..POST + data.len()];
    // Message id 0: without a reply, nobody asks for it. The protocol is in the machine's byte order, the data in the
    // device's.
    message[2..4].copy_from_slice(&REGION_WRITE.to_ne_bytes());
    message[4..8].copy_from_slice(&((POST + data.len()) as u32).to_ne_bytes());
    message[8..12].copy_from_slice(&NO_REPLY.to_ne_bytes());
    message[16..24].copy_from_slice(&offset.to_ne_bytes());
    message[24..28].copy_from_slice(&region.to_ne_bytes());
    message[28..32].copy_from_slice(&(data.len() as u32).to_ne_bytes());
    message[POST..].copy_from_slice(data);
    stream.write_all(message)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.end();
    }
}

/// The descriptors of this process that are sockets, each with what it is a descriptor of.
fn sockets() -> HashSet<(RawFd, String)> {
    let Ok(dir) = fs::read_dir("/proc/self/fd") else {
        return HashSet::new();
    };
    let entries = dir.filter_map(|entry| {
        let entry = entry.ok()?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let what = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        what.starts_with("socket:").then_some((fd, what))
    });
    entries.collect()
}

/// A second descriptor of the socket that was not there before and is connected to `path`.
fn find_stream(before: &HashSet<(RawFd, String)>, path: &Path) -> Option<UnixStream> {
    let candidates = sockets().into_iter().filter(|socket| !before.contains(socket));
    let streams = candidates.filter_map(|(fd, _)| {
        // SAFETY: makes a new descriptor of whatever the number names now, or fails; touches no other. Another thread
        // may have closed it meanwhile, so what it is is looked at below, on the new descriptor, which is ours.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
        if own < 0 {
            return None;
        }
        // SAFETY: `fcntl` has just made it for us.
        Some(UnixStream::from(unsafe { OwnedFd::from_raw_fd(own) }))
    });
    let connected = streams.filter_map(|stream| {
        let peer = stream.peer_addr().ok()?;
        // The server may have bound it under another name of the same directory.
        (peer.as_pathname()?.file_name() == path.file_name()).then_some(stream)
    });
    let mut connected: Vec<_> = connected.collect();
    let stream = connected.pop();
    // Two of them: another thread connects to a socket of the same name, and which is whose cannot be told.
    stream.filter(|_| connected.is_empty())
}

/// The errno of an error that has one.
pub(super) fn errno(error: &io::Error) -> Errno {
    errno_of(error).unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Instant;
    use vfio_bindings::bindings::vfio::vfio_region_info;
    use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion};

    /// A device that answers reads of register 0, fails those of register 8 and never answers those of register 16.
    struct Faulty;

    impl ServerBackend for Faulty {
        fn region_read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> Result<(), io::Error> {
            match offset {
                0 => data.fill(0x42),
                8 => return Err(ErrorKind::Other.into()),
                _ => std::thread::sleep(10 * ANSWER),
            }
            Ok(())
        }

        fn region_write(&mut self, _region: u32, _offset: u64, _data: &[u8]) -> Result<(), io::Error> {
            Ok(())
        }

        fn dma_map(
            &mut self,
            _flags: DmaMapFlags,
            _offset: u64,
            _address: u64,
            _size: u64,
            _fd: Option<fs::File>,
        ) -> Result<(), io::Error> {
            Ok(())
        }

        fn dma_unmap(&mut self, _flags: DmaUnmapFlags, _address: u64, _size: u64) -> Result<(), io::Error> {
            Ok(())
        }

        fn reset(&mut self) -> Result<(), io::Error> {
            Ok(())
        }

        fn set_irqs(
            &mut self,
            _index: u32,
            _flags: u32,
            _start: u32,
            _count: u32,
            _fds: Vec<fs::File>,
        ) -> Result<(), io::Error> {
            Ok(())
        }
    }

    #[test]
    fn h02_a_write_does_not_wait_for_an_answer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let written = || {
            let mut message = [0; POST + WIDEST + 1];
            let n = io::Read::read(&mut &theirs, &mut message).unwrap();
            let words = message[..n].chunks(4);
            let words = words.map(|word| u32::from_le_bytes(word.try_into().unwrap()));
            words.collect::<Vec<_>>()
        };
        post(&ours, 2, 0x1_2000, &7u32.to_le_bytes()).unwrap();
        assert_eq!(written(), [10 << 16, 36, 0x10, 0, 0x1_2000, 0, 2, 4, 7]);
        post(&ours, 0, 0x40, &(9u64 << 32 | 8).to_le_bytes()).unwrap();
        assert_eq!(written(), [10 << 16, 40, 0x10, 0, 0x40, 0, 0, 8, 8, 9]);
        drop(theirs);
        assert!(post(&ours, 2, 0, &[0; 4]).is_err(), "nobody is there");
    }

    fn faulty() -> (tempfile::TempDir, Socket) {
        let dir = tempfile::TempDir::new().unwrap();
        // Tests run beside each other, and a descriptor is found by this name.
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let path = dir.path().join(format!("faulty-{number}.sock"));
        let region = |index| ServerRegion {
            region_info: vfio_region_info {
                argsz: 32,
                index,
                size: 4096,
                ..Default::default()
            },
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        let irqs = (0..5)
            .map(|index| IrqInfo {
                index,
                flags: 0,
                count: 3,
            })
            .collect();
        let server = vfio_user::Server::new(&path, true, irqs, (0..9).map(region).collect()).unwrap();
        std::thread::spawn(move || server.run(&mut Faulty));
        let socket = Socket::connect(&path).unwrap();
        (dir, socket)
    }

    #[test]
    fn h01_registers_of_a_server_that_answers_are_read() {
        let (_dir, socket) = faulty();
        assert!(socket.stream().is_some(), "its descriptor is found");
        assert_eq!(socket.vectors(), Some(3));
        assert_eq!(socket.read::<4>(0), [0x42; 4]);
        socket.write(0, &[1; 4]);
        assert_eq!(socket.ring(0, 7), Some(()));
        assert!(!socket.is_dead());
    }

    #[test]
    fn h01_after_a_failure_or_silence_the_device_reads_all_ones_and_nobody_waits_again() {
        for register in [8, 16] {
            let (_dir, socket) = faulty();
            let begin = Instant::now();
            assert_eq!(socket.read::<4>(register), [0xff; 4]);
            assert!(begin.elapsed() < 8 * ANSWER, "it gave up in time");
            let begin = Instant::now();
            assert_eq!(socket.read::<8>(0), [0xff; 8]);
            socket.write(0, &[1; 4]);
            assert_eq!(socket.ring(0, 7), None);
            assert!(begin.elapsed() < ANSWER, "the second time it did not wait");
            assert!(socket.is_dead());
        }
    }
}
