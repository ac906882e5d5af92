// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main loop: vfio-user sockets, the control socket, signals, and the worker's calls for attention.
//!
//! One HCA serves one client at a time. When a client leaves, in whatever way, its HCA is reset and its memory let go
//! before the next one is let in; other HCAs notice nothing but a silent peer.

use crate::control::connection::Control;
use crate::control::report::{mac_text, HcaReport, MappingReport, PciReport};
use crate::control::{self, Answer, Format, Request};
use crate::device::Device;
use crate::listen::{ListenError, Listening};
use crate::memory::fault;
use crate::memory::file::FileMaps;
use crate::protocol::connection::{Closed, Connection, Interest};
use crate::protocol::shape::Shape;
use crate::shared::{NewError, Shared};
use crate::worker::Worker;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use verbena_engine::inspect::NoSuchQp;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

/// Turns that a client gets before another one that has connected is turned away for its sake.
const CATCH_UP: usize = 64;

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// One HCA for each of these vfio-user sockets.
    pub sockets: Vec<PathBuf>,
    /// MAC addresses of the first HCAs; the others get [`default_mac`].
    pub macs: Vec<[u8; 6]>,
    /// The control socket.
    pub control: Option<PathBuf>,
    /// Worker threads, one at least.
    pub workers: usize,
    /// How long a worker spins before it sleeps.
    pub spin: Duration,
    /// The processors that the workers run on, in their order; any, for those that none is given for.
    pub worker_cpus: Vec<usize>,
    /// Where the engine's unguessable numbers come from.
    pub seed: u64,
}

impl Default for Config {
    /// No HCAs, and one worker that does not spin.
    fn default() -> Self {
        Self {
            sockets: Vec::new(),
            macs: Vec::new(),
            control: None,
            workers: 1,
            spin: Duration::ZERO,
            worker_cpus: Vec::new(),
            seed: 0,
        }
    }
}

/// The MAC address of HCA number `index`, unless it was given one: locally administered, the letters VB, the number.
pub fn default_mac(index: usize) -> [u8; 6] {
    let [.., a, b, c] = (index as u32 + 1).to_be_bytes();
    [0x02, b'V', b'B', a, b, c]
}

/// Why a server cannot start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An HCA cannot be made.
    #[error(transparent)]
    Hca(#[from] NewError),
    /// The system does not give what the loop needs.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A worker may not run where it should.
    #[error("cannot run a worker on processor {0}: {1}")]
    Worker(usize, io::Error),
    /// The loop failed.
    #[error("the event loop failed: {0}")]
    Loop(#[from] event_manager::Error),
    /// A worker panicked.
    #[error("a worker thread ended: this is a bug in verbena-hca")]
    WorkerEnded,
}

/// A server that listens.
pub struct Server {
    manager: EventManager<Loop>,
    id: event_manager::SubscriberId,
    stopper: Stopper,
}

/// Ends a server from another thread or from a signal handler.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Tells the server to end.
    pub fn stop(&self) {
        // Fails only when the socket is full of earlier requests to stop, or the server is gone.
        let _ = (&self.0).write(&[0]);
    }

    /// The socket: a byte written to it stops the server.
    pub fn stream(&self) -> &UnixStream {
        &self.0
    }
}

impl Server {
    /// Makes the HCAs and listens: when this returns, clients may connect.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub fn new(config: &Config) -> Result<Self, ServerError> {
        let mut hcas = Vec::new();
        let mut names = Vec::new();
        for (index, path) in config.sockets.iter().enumerate() {
            let mac = config.macs.get(index).copied().unwrap_or_else(|| default_mac(index));
            names.push((path.display().to_string(), mac));
            hcas.push(Listening::new(path)?);
        }
        let control = config.control.as_deref().map(Listening::new).transpose()?;
        let shared = Arc::new(Shared::new(config.seed, &names, config.workers)?);
        let files = Arc::new(FileMaps::default());
        let hcas = hcas
            .into_iter()
            .enumerate()
            .map(|(index, listening)| Hca {
                listening,
                device: Device::new(shared.clone(), files.clone(), index),
                client: None,
            })
            .collect();
        let attention = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let start = |number| {
            let cpu = config.worker_cpus.get(number).copied();
            let worker = Worker::start(shared.clone(), number, config.spin, cpu, attention.try_clone()?);
            worker.map_err(|error| match cpu {
                Some(cpu) => ServerError::Worker(cpu, error),
                None => ServerError::Io(error),
            })
        };
        let workers = (0..config.workers).map(start).collect::<Result<_, _>>()?;
        let (stop, stopper) = UnixStream::pair()?;
        stop.set_nonblocking(true)?;
        stopper.set_nonblocking(true)?;
        let mut manager = EventManager::new()?;
        let id = manager.add_subscriber(Loop {
            shape: Shape::hca(),
            hcas,
            control,
            controls: BTreeMap::new(),
            next_control: 0,
            attention,
            stop,
            end: None,
            workers,
            shared,
            hits: fault::hits(),
        });
        Ok(Self {
            manager,
            id,
            stopper: Stopper(stopper),
        })
    }

    /// Something that ends it.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(self.stopper.0.try_clone()?))
    }

    /// Serves until it is told to stop; then the sockets are removed.
    ///
    /// # Errors
    ///
    /// Something that no client can cause. The sockets are removed then, too.
    pub fn run(mut self) -> Result<(), ServerError> {
        loop {
            match self.manager.run() {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(error.into()),
            }
            let state = self.manager.subscriber_mut(self.id)?;
            if let Some(end) = state.end.take() {
                return end;
            }
        }
    }
}

/// One HCA of the server.
struct Hca {
    listening: Listening,
    device: Device,
    client: Option<Client>,
}

struct Client {
    connection: Connection,
    interest: Interest,
    /// Its eventfd is waited for.
    rings: bool,
}

/// What an event is about. The kind is in the upper half of the event's data, the number in the lower.
#[derive(Clone, Copy)]
enum Token {
    Stop,
    Attention,
    Listener(usize),
    Client(usize),
    Bell(usize),
    ControlListener,
    Control(u16),
}

impl Token {
    fn encode(self) -> u32 {
        let (kind, number) = match self {
            Self::Stop => (0, 0),
            Self::Attention => (1, 0),
            Self::Listener(hca) => (2, hca as u32),
            Self::Client(hca) => (3, hca as u32),
            Self::ControlListener => (4, 0),
            Self::Control(number) => (5, number.into()),
            Self::Bell(hca) => (6, hca as u32),
        };
        kind << 16 | number
    }

    fn decode(data: u32) -> Option<Self> {
        let number = data & 0xffff;
        Some(match data >> 16 {
            0 => Self::Stop,
            1 => Self::Attention,
            2 => Self::Listener(number as usize),
            3 => Self::Client(number as usize),
            4 => Self::ControlListener,
            5 => Self::Control(number as u16),
            6 => Self::Bell(number as usize),
            _ => return None,
        })
    }
}

struct Loop {
    // Dropped in this order: sockets first, so that nobody connects to a server that is ending.
    hcas: Vec<Hca>,
    control: Option<Listening>,
    controls: BTreeMap<u16, Control>,
    next_control: u16,
    attention: EventFd,
    stop: UnixStream,
    end: Option<Result<(), ServerError>>,
    workers: Vec<Worker>,
    shared: Arc<Shared>,
    shape: Shape,
    /// Lost mappings seen to so far.
    hits: usize,
}

fn events(stream: &UnixStream, token: Token, interest: Interest) -> Events {
    let set = match interest {
        Interest::Readable => EventSet::IN,
        Interest::Writable => EventSet::OUT,
    };
    Events::with_data(stream, token.encode(), set)
}

/// A client's eventfd. Each write of it is an event of its own, so its counter is never read: that would be a system call
/// before what has rung is begun, or, after it, would take a later write for this one.
fn bell_events(bell: &OwnedFd, index: usize) -> Events {
    Events::with_data(
        bell,
        Token::Bell(index).encode(),
        EventSet::IN | EventSet::EDGE_TRIGGERED,
    )
}

impl MutEventSubscriber for Loop {
    fn init(&mut self, ops: &mut EventOps) {
        let add = |ops: &mut EventOps, events| {
            ops.add(events).expect("a new event loop takes new descriptors");
        };
        add(ops, Events::with_data(&self.stop, Token::Stop.encode(), EventSet::IN));
        add(
            ops,
            Events::with_data(&self.attention, Token::Attention.encode(), EventSet::IN),
        );
        for (index, hca) in self.hcas.iter().enumerate() {
            let token = Token::Listener(index).encode();
            add(ops, Events::with_data(hca.listening.listener(), token, EventSet::IN));
        }
        if let Some(control) = &self.control {
            let token = Token::ControlListener.encode();
            add(ops, Events::with_data(control.listener(), token, EventSet::IN));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match Token::decode(events.data()) {
            Some(Token::Stop) => self.end = Some(Ok(())),
            Some(Token::Attention) => self.attend(ops),
            Some(Token::Listener(index)) => self.accept(index, ops),
            Some(Token::Client(index)) => self.serve(index, ops),
            Some(Token::Bell(index)) => self.rung(index, ops),
            Some(Token::ControlListener) => self.accept_control(ops),
            Some(Token::Control(number)) => self.serve_control(number, ops),
            None => unreachable!("only tokens are given to the event loop"),
        }
    }
}

impl Loop {
    /// Serves HCA `index`'s client, if there is one, to the end of what it has sent: one that left a moment ago is gone
    /// then, though its event may not have come yet.
    fn catch_up(&mut self, index: usize, ops: &mut EventOps) {
        for _ in 0..CATCH_UP {
            let Some(client) = &self.hcas[index].client else { return };
            let messages = client.connection.messages();
            self.serve(index, ops);
            let now = self.hcas[index]
                .client
                .as_ref()
                .map(|client| client.connection.messages());
            if now == Some(messages) {
                return;
            }
        }
    }

    /// Clients connect to HCA `index`.
    fn accept(&mut self, index: usize, ops: &mut EventOps) {
        while let Some(stream) = self.hcas[index].listening.accept() {
            // Each time: one that was let in a moment ago may have left before the next one connected.
            self.catch_up(index, ops);
            let hca = &mut self.hcas[index];
            let path = hca.listening.path().display();
            if hca.client.is_some() {
                log::warn!("hca {index} ({path}): a second client was turned away");
                continue;
            }
            let interest = Interest::Readable;
            let connection = match Connection::new(stream) {
                Ok(connection) => connection,
                Err(error) => {
                    log::error!("hca {index} ({path}): cannot serve a client: {error}");
                    continue;
                }
            };
            let token = Token::Client(index);
            if let Err(error) = ops.add(events(connection.stream(), token, interest)) {
                log::error!("hca {index} ({path}): cannot wait for a client: {error}");
                continue;
            }
            hca.client = Some(Client {
                connection,
                interest,
                rings: false,
            });
        }
    }

    /// The client of HCA `index` has sent something, takes replies again, or is gone.
    fn serve(&mut self, index: usize, ops: &mut EventOps) {
        let hca = &mut self.hcas[index];
        let Some(client) = &mut hca.client else { return };
        let fresh = client.connection.messages() == 0;
        match client.connection.serve(&self.shape, &mut hca.device) {
            Ok(interest) => {
                if fresh && client.connection.messages() > 0 {
                    log::info!("hca {index} ({}): attached", hca.listening.path().display());
                }
                if interest != client.interest {
                    client.interest = interest;
                    let token = Token::Client(index);
                    let modified = ops.modify(events(client.connection.stream(), token, interest));
                    modified.expect("the client's socket is in the event loop");
                }
                if let (false, Some(bell)) = (client.rings, hca.device.bell()) {
                    match ops.add(bell_events(bell, index)) {
                        Ok(()) => client.rings = true,
                        Err(error) => {
                            let why = format!("its eventfd cannot be waited for: {error}");
                            self.detach(index, &Closed::Socket(io::Error::other(why)), ops);
                        }
                    }
                }
            }
            Err(closed) => self.detach(index, &closed, ops),
        }
        self.look_for_losses(ops);
    }

    /// The client of HCA `index` has rung.
    fn rung(&mut self, index: usize, ops: &mut EventOps) {
        self.hcas[index].device.rung();
        self.look_for_losses(ops);
    }

    /// Something that we have done ourselves may have been what found a client's memory missing.
    fn look_for_losses(&mut self, ops: &mut EventOps) {
        if fault::hits() != self.hits {
            self.attend(ops);
        }
    }

    /// The client of HCA `index` is gone, or is sent away.
    fn detach(&mut self, index: usize, why: &Closed, ops: &mut EventOps) {
        let hca = &mut self.hcas[index];
        let Some(client) = hca.client.take() else { return };
        let path = hca.listening.path().display();
        match why {
            // Somebody who only looked whether a server is there.
            Closed::Eof if client.connection.messages() == 0 => {}
            Closed::Eof => log::info!("hca {index} ({path}): detached"),
            why => log::warn!("hca {index} ({path}): detached: {why}"),
        }
        let socket = events(client.connection.stream(), Token::Client(index), client.interest);
        ops.remove(socket).expect("the client's socket is in the event loop");
        if let (true, Some(bell)) = (client.rings, hca.device.bell()) {
            let removed = ops.remove(bell_events(bell, index));
            removed.expect("the client's eventfd is in the event loop");
        }
        hca.device.detach();
    }

    /// A worker calls: a client's memory has vanished, or the worker itself has ended.
    fn attend(&mut self, ops: &mut EventOps) {
        let _ = self.attention.read();
        if self.workers.iter().any(Worker::ended) {
            self.end = Some(Err(ServerError::WorkerEnded));
            return;
        }
        let hits = fault::hits();
        if std::mem::replace(&mut self.hits, hits) == hits {
            return;
        }
        for index in 0..self.hcas.len() {
            if self.hcas[index].device.lost_memory() {
                let why = "the client truncated memory that it had mapped".to_owned();
                self.detach(index, &Closed::Malformed("memory", why), ops);
            }
        }
    }

    fn accept_control(&mut self, ops: &mut EventOps) {
        while let Some(stream) = self.control.as_ref().and_then(Listening::accept) {
            if self.controls.len() >= control::MAX_CONNECTIONS {
                log::warn!("control: too many connections, one was turned away");
                continue;
            }
            let Ok(client) = Control::new(stream) else { continue };
            while self.controls.contains_key(&self.next_control) {
                self.next_control = self.next_control.wrapping_add(1);
            }
            let number = self.next_control;
            let socket = events(client.stream(), Token::Control(number), Interest::Readable);
            if ops.add(socket).is_ok() {
                self.controls.insert(number, client);
            }
        }
    }

    fn serve_control(&mut self, number: u16, ops: &mut EventOps) {
        let Some(mut client) = self.controls.remove(&number) else {
            return;
        };
        let token = Token::Control(number);
        match client.serve(|request| self.answer(&request)) {
            Ok(interest) => {
                let modified = ops.modify(events(client.stream(), token, interest));
                modified.expect("the control socket is in the event loop");
                self.controls.insert(number, client);
            }
            Err(_gone) => {
                let socket = events(client.stream(), token, Interest::Readable);
                ops.remove(socket).expect("the control socket is in the event loop");
            }
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let unknown = |hca: usize| Answer::Error(format!("there is no HCA {hca}: this server has {}", self.hcas.len()));
        match *request {
            Request::Ping => Answer::Pong {
                protocol: control::VERSION,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                hcas: self.hcas.len(),
            },
            Request::Dump { hca: Some(hca), .. } if hca >= self.hcas.len() => unknown(hca),
            Request::Dump { hca, format } => {
                let chosen = hca.map_or(0..self.hcas.len(), |hca| hca..hca + 1);
                let reports: Vec<HcaReport> = chosen.map(|index| self.report(index)).collect();
                match format {
                    Format::Json => serde_json::to_value(&reports).map_or_else(
                        |error| Answer::Error(format!("the dump is no JSON: {error}")),
                        |hcas| Answer::Dump(serde_json::json!({ "hcas": hcas })),
                    ),
                    Format::Text => {
                        let text: Vec<String> = reports.iter().map(HcaReport::to_string).collect();
                        Answer::Dump(text.join("\n").into())
                    }
                }
            }
            Request::Qp { hca, .. } if hca >= self.hcas.len() => unknown(hca),
            Request::Qp {
                hca,
                qpn,
                entries,
                format,
            } => {
                let id = self.shared.port(hca).id;
                let report = self
                    .shared
                    .inspect(|engine, now, env| engine.inspect_qp(id, qpn, entries, now, env));
                match (report, format) {
                    (Ok(report), Format::Json) => serde_json::to_value(&report).map_or_else(
                        |error| Answer::Error(format!("the report is no JSON: {error}")),
                        Answer::Dump,
                    ),
                    (Ok(report), Format::Text) => Answer::Dump(report.to_string().into()),
                    (Err(missing), _) => Answer::Error(no_such_qp(hca, qpn, &missing)),
                }
            }
            Request::Port { hca, .. } if hca >= self.hcas.len() => unknown(hca),
            Request::Port { hca, up } => {
                let id = self.shared.port(hca).id;
                self.shared.act(|engine, now, env| engine.set_link(id, up, now, env));
                log::info!("hca {hca}: port {}", if up { "up" } else { "down" });
                Answer::Done
            }
        }
    }

    fn report(&self, index: usize) -> HcaReport {
        let hca = &self.hcas[index];
        let port = self.shared.port(index);
        HcaReport {
            hca: index,
            socket: hca.listening.path().display().to_string(),
            mac: mac_text(port.mac),
            attached: hca.client.is_some(),
            messages: hca.client.as_ref().map_or(0, |client| client.connection.messages()),
            pci: PciReport::new(hca.device.config()),
            msix: port.vectors.states(),
            memory: MappingReport::all(&self.shared.ram(index)),
            device: self
                .shared
                .inspect(|engine, now, view| engine.dump(Some(port.id), now, view)),
        }
    }
}

/// Queue pairs that a sentence lists.
const LISTED: usize = 8;

/// What to say to somebody who asked for a queue pair that is not there.
fn no_such_qp(hca: usize, qpn: u32, missing: &NoSuchQp) -> String {
    let listed: Vec<_> = missing
        .others
        .iter()
        .take(LISTED)
        .map(|qpn| format!("{qpn:#x}"))
        .collect();
    let mut text = match missing.others.len() {
        0 => format!("HCA {hca} has no QP {qpn:#x}, and no other"),
        all if all > LISTED => {
            format!(
                "HCA {hca} has no QP {qpn:#x}; it has {all}, among them {}",
                listed.join(", ")
            )
        }
        _ => format!("HCA {hca} has no QP {qpn:#x}; it has {}", listed.join(", ")),
    };
    if let Some(error) = missing.errors.last() {
        text += &format!("; the last error of one that had this number: {error}");
    }
    text
}
