// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens. Each case leaves the device as it found it, but the last.

use super::verbs::{qp_state, Device, Link};
use super::world::{expect, gid, in_error, traffic, World, SOON};
use super::Case;
use crate::rdma_cm::theirs::{kind, Offer, Theirs};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::cm_id::CmParams;
use rdma_uapi::{Errno, Reason};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddrV4;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Instant;
use verbena::{cm_params, cm_state, Attachment, CmAddr, CmId, CmOptions, EventKind, VerbsQp};

/// All of them.
pub const CASES: &[Case] = &[
    Case {
        name: "connects",
        run: connects,
    },
    Case {
        name: "refuses",
        run: refuses,
    },
    Case {
        name: "names",
        run: names,
    },
    Case {
        name: "backlog",
        run: backlog,
    },
    Case {
        name: "silence",
        run: silence,
    },
    Case {
        name: "rdma-cm-asks",
        run: rdma_cm_asks,
    },
    Case {
        name: "rdma-cm-is-asked",
        run: rdma_cm_is_asked,
    },
    Case {
        name: "both-kinds",
        run: both_kinds,
    },
    Case {
        name: "killed",
        run: killed,
    },
    Case {
        name: "destroyed-queue-pair",
        run: destroyed_queue_pair,
    },
    Case {
        name: "removed",
        run: removed,
    },
];

macro_rules! check_eq {
    ($got:expr, $expected:expr, $($what:tt)+) => {{
        let (got, expected) = (&$got, &$expected);
        ensure!(*got == *expected, "{}: {:?} instead of {:?}", format_args!($($what)+), got, expected);
    }};
}

fn refused<T: Debug>(result: verbena::Result<T>, errno: Errno, what: &str) -> Result<()> {
    match result {
        Ok(value) => bail!("{what}: not refused, but {value:?}"),
        Err(error) => check_eq!(error.errno(), Some(errno), "{what} ({error})"),
    }
    Ok(())
}

fn options(data: &[u8], responder_resources: u8, initiator_depth: u8) -> CmOptions {
    let params = CmParams {
        path_mtu: 512,
        responder_resources,
        initiator_depth,
        ..cm_params()
    };
    CmOptions::new().private_data(data).params(params)
}

/// One call a side; what either says arrives; what they agree on is what the queue pairs have.
fn connects(world: &World) -> Result<()> {
    let events = [world.events()?, world.events()?];
    let (listener, at) = world.listen(&events[1], 1)?;
    check_eq!(listener.query()?.state, cm_state::LISTENING, "the listener's state");
    let links = [Link::new(&world.device)?, Link::new(&world.device)?];
    let active = CmId::new(world.node(), &events[0], 2)?;
    let question = [0x51; 56];
    active.connect_verbs(links[0].named(), at, &options(&question, 2, 3))?;
    let info = active.query()?;
    check_eq!(info.local.gid, at.gid, "where it asks from");
    ensure!(
        info.local.port != 0 && info.local.port != at.port,
        "its port is {}",
        info.local.port
    );
    let from = info.local;

    let passive = world.request(&listener, &events[1])?;
    let info = passive.query()?;
    check_eq!(info.state, cm_state::REQUESTED, "the state of the request");
    check_eq!((info.local, info.peer), (at, from), "the addresses");
    check_eq!(info.private_data, question, "what the active side says");
    check_eq!(info.peer_qpn, links[0].number(), "its queue pair");
    // Seen from here.
    let seen = (
        info.params.path_mtu,
        info.params.responder_resources,
        info.params.initiator_depth,
    );
    check_eq!(seen, (512, 3, 2), "what it asks for");

    let answer = [0x41; 196];
    passive.accept_verbs(links[1].named(), &options(&answer, 1, 4))?;
    links[1].post_recv()?;
    check_eq!(links[1].state()?, qp_state::RTS, "the queue pair of who has accepted");
    for events in &events {
        expect(events, EventKind::CmEstablished)?;
    }
    let info = active.query()?;
    check_eq!(info.state, cm_state::ESTABLISHED, "the active side's state");
    check_eq!(info.private_data, answer, "what the passive side says");
    check_eq!(info.peer_qpn, links[1].number(), "its queue pair");
    let agreed = (
        info.params.path_mtu,
        info.params.responder_resources,
        info.params.initiator_depth,
    );
    check_eq!(agreed, (512, 2, 1), "what they have agreed on, at the active side");
    let info = passive.query()?;
    let agreed = (
        info.params.path_mtu,
        info.params.responder_resources,
        info.params.initiator_depth,
    );
    check_eq!(
        (info.state, agreed),
        (cm_state::ESTABLISHED, (512, 1, 2)),
        "and at the passive side"
    );
    for (link, other, depths) in [(&links[0], &links[1], (1, 2)), (&links[1], &links[0], (2, 1))] {
        let (state, attrs) = link.attrs()?;
        check_eq!(state, qp_state::RTS, "the queue pair's state");
        let of_qp = (
            attrs.path_mtu,
            attrs.dest,
            (attrs.max_rd_atomic, attrs.max_dest_rd_atomic),
        );
        check_eq!(of_qp, (512, other.number(), depths), "what the queue pair has");
    }
    traffic(&links[0], &links[1])?;

    let other = CmId::new(world.node(), &events[0], 3)?;
    let again = other.connect_verbs(links[0].named(), at, &CmOptions::new());
    refused(again, Errno::EBUSY, "the queue pair with another id")?;
    check_eq!(links[0].state()?, qp_state::RTS, "its state after that");
    check_eq!(other.query()?.state, cm_state::IDLE, "the other id's state");
    refused(
        active.connect_verbs(links[0].named(), at, &CmOptions::new()),
        Errno::EINVAL,
        "connecting twice",
    )?;

    // The passive side ends it, for once.
    passive.disconnect()?;
    check_eq!(
        links[1].state()?,
        qp_state::ERR,
        "the queue pair of who has disconnected"
    );
    for kind in [EventKind::CmDisconnected, EventKind::CmTimewaitExit] {
        for events in &events {
            expect(events, kind)?;
        }
    }
    in_error(&links)?;
    refused(passive.disconnect(), Errno::EINVAL, "disconnecting twice")?;
    world.connected()?.part()
}

/// The reason and what is said with it arrive, and the queue pair is in ERR; so does that nobody listens.
fn refuses(world: &World) -> Result<()> {
    let events = [world.events()?, world.events()?];
    let (listener, at) = world.listen(&events[1], 1)?;
    let link = Link::new(&world.device)?;
    let active = CmId::new(world.node(), &events[0], 2)?;
    active.connect_verbs(link.named(), at, &CmOptions::new())?;
    let passive = world.request(&listener, &events[1])?;
    let why = [0x4e; 148];
    passive.reject(&why)?;
    check_eq!(
        passive.query()?.state,
        cm_state::CLOSED,
        "the state of what was refused"
    );
    refused(passive.reject(&why), Errno::EINVAL, "refusing twice")?;
    check_eq!(
        expect(&events[0], EventKind::CmRejected)?.data,
        28,
        "the event's reason"
    );
    let info = active.query()?;
    check_eq!((info.state, info.reason), (cm_state::CLOSED, 28), "what became of it");
    check_eq!(info.private_data, why, "what the other side says to it");
    in_error(std::slice::from_ref(&link))?;
    drop(listener);

    let (asks, link) = (CmId::new(world.node(), &events[0], 3)?, Link::new(&world.device)?);
    asks.connect_verbs(link.named(), at, &CmOptions::new())?;
    check_eq!(
        expect(&events[0], EventKind::CmRejected)?.data,
        8,
        "where nobody listens"
    );
    in_error(&[link])
}

/// A queue pair is named by the open file that it belongs to, and by nothing else.
fn names(world: &World) -> Result<()> {
    let events = world.events()?;
    let (_listener, at) = world.listen(&events, 1)?;
    let link = Link::new(&world.device)?;
    let id = CmId::new(world.node(), &events, 2)?;
    let named = |device, number| VerbsQp { device, number };
    let null = File::open("/dev/null")?;
    let other = Device::open(&world.place.device)?;
    let number = link.number();
    for (what, qp, errno) in [
        ("a file that is no device's", named(null.as_fd(), number), Errno::EBADF),
        (
            "the device opened by somebody else",
            named(other.fd(), number),
            Errno::ENOENT,
        ),
        ("no queue pair", named(world.device.fd(), 0xff_fff0), Errno::ENOENT),
        ("QP 1", named(world.device.fd(), 1), Errno::ENOENT),
    ] {
        refused(id.connect_verbs(qp, at, &CmOptions::new()), errno, what)?;
        check_eq!(id.query()?.state, cm_state::IDLE, "the id's state after {what}");
    }
    check_eq!(link.state()?, qp_state::RESET, "the queue pair");
    let verbena = verbena::Context::open(&Attachment::kernel())?;
    id.bind(CmAddr::new(verbena.gid(1, 0)?, 0))?;
    refused(
        id.connect_verbs(link.named(), at, &CmOptions::new()),
        Errno::EBADF,
        "an id of a Verbena HCA",
    )?;
    let id = CmId::new(world.node(), &events, 3)?;
    refused(
        id.bind(CmAddr::new(gid(world.place.silent), 0)),
        Errno::EADDRNOTAVAIL,
        "no address of ours",
    )?;
    id.bind(world.at(0))?;
    refused(id.bind(world.at(0)), Errno::EINVAL, "binding twice")?;
    let mut qp = crate::link::Link::new(&verbena, &crate::link::Spec::default())?;
    refused(
        id.connect(&mut qp.qp, at, &CmOptions::new()),
        Errno::EXDEV,
        "a queue pair of a Verbena HCA",
    )?;
    let bound = id.query()?.local;
    let second = CmId::new(world.node(), &events, 4)?;
    let error = second.bind(bound).err().context("a port is bound twice")?;
    check_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EADDRINUSE), Some(Reason::IN_USE)),
        "a port that is taken"
    );
    Ok(())
}

/// Who waits beyond the backlog is refused; who waits when the listener goes, too.
fn backlog(world: &World) -> Result<()> {
    let events = [world.events()?, world.events()?];
    let (listener, at) = world.listen(&events[1], 1)?;
    let ask = |cookie| -> Result<(CmId, Link)> {
        let (id, link) = (CmId::new(world.node(), &events[0], cookie)?, Link::new(&world.device)?);
        id.connect_verbs(link.named(), at, &CmOptions::new())?;
        Ok((id, link))
    };
    let _first = ask(2)?;
    let waits = world.request(&listener, &events[1])?;
    let _second = ask(3)?;
    let event = expect(&events[0], EventKind::CmRejected)?;
    check_eq!((event.cookie, event.data), (3, 3), "who is refused, and why");
    waits.reject(b"")?;
    check_eq!(
        expect(&events[0], EventKind::CmRejected)?.cookie,
        2,
        "who is refused then"
    );
    let _third = ask(4)?;
    let waits = world.request(&listener, &events[1])?;
    listener.destroy()?;
    let event = expect(&events[0], EventKind::CmRejected)?;
    check_eq!(
        (event.cookie, event.data),
        (4, 28),
        "who waited at a listener that is gone"
    );
    ensure!(waits.query().is_err(), "the request outlives its listener");
    Ok(())
}

/// As many repetitions as the program wants, and then it is over; also where no way leads.
fn silence(world: &World) -> Result<()> {
    let events = world.events()?;
    let params = CmParams {
        // 0.27 s, four times.
        response_timeout: 16,
        max_cm_retries: 3,
        ..cm_params()
    };
    for address in [world.place.silent, world.place.nowhere] {
        let (id, link) = (CmId::new(world.node(), &events, 2)?, Link::new(&world.device)?);
        let begun = Instant::now();
        id.connect_verbs(
            link.named(),
            CmAddr::new(gid(address), 7471),
            &CmOptions::new().params(params),
        )?;
        check_eq!(id.query()?.state, cm_state::CONNECTING, "the state meanwhile");
        expect(&events, EventKind::CmUnreachable)?;
        let took = begun.elapsed();
        ensure!(took.as_secs() < 15, "{address} is unreachable after {took:?}");
        check_eq!(id.query()?.state, cm_state::CLOSED, "the state after that");
        in_error(&[link])?;
    }
    // And one that is destroyed while it asks.
    let (id, link) = (CmId::new(world.node(), &events, 3)?, Link::new(&world.device)?);
    let silent = CmAddr::new(gid(world.place.silent), 7471);
    id.connect_verbs(link.named(), silent, &CmOptions::new())?;
    id.destroy()?;
    in_error(&[link])
}

/// What the kernel's rdma_cm device reports next, which must be this.
fn theirs(theirs: &Theirs, wanted: u32) -> Result<crate::rdma_cm::theirs::Happened> {
    loop {
        let mut fds = [PollFd::new(theirs, PollFlags::IN)];
        ensure!(
            poll(&mut fds, Some(&Timespec::try_from(SOON)?))? > 0,
            "rdma_cm does not report {wanted}"
        );
        let event = theirs.event()?;
        if event.kind == wanted {
            return Ok(event);
        }
        ensure!(
            event.kind == kind::TIMEWAIT_EXIT,
            "rdma_cm reports {event:?} instead of {wanted}"
        );
    }
}

fn offer(data: &[u8], qpn: u32) -> Offer<'_> {
    Offer {
        qpn,
        responder_resources: 2,
        initiator_depth: 2,
        rnr_retry_count: 7,
        data,
    }
}

/// A program of librdmacm's kind asks an id of ours.
fn rdma_cm_asks(world: &World) -> Result<()> {
    let events = world.events()?;
    let (listener, at) = world.listen(&events, 1)?;
    let (their, ours) = (Theirs::open()?, Link::new(&world.device)?);
    let peer = SocketAddrV4::new(world.place.address, at.port);
    let id = their.resolve(world.place.address, peer)?;
    theirs(&their, kind::ADDR_RESOLVED)?;
    their.resolve_route(id)?;
    theirs(&their, kind::ROUTE_RESOLVED)?;
    their.connect(id, &offer(b"librdmacm asks", 77))?;
    let passive = world.request(&listener, &events)?;
    let info = passive.query()?;
    check_eq!(
        (&info.private_data[..14], info.peer_qpn),
        (&b"librdmacm asks"[..], 77),
        "the request"
    );
    passive.accept_verbs(ours.named(), &CmOptions::new().private_data(b"and is answered"))?;
    let response = theirs(&their, kind::CONNECT_RESPONSE)?;
    check_eq!(response.qpn, ours.number(), "the queue pair in the response");
    check_eq!(response.data[..15], b"and is answered"[..], "what is said in it");
    their.ready(id)?;
    expect(&events, EventKind::CmEstablished)?;
    check_eq!(
        (ours.state()?, ours.attrs()?.1.dest),
        (qp_state::RTS, 77),
        "our queue pair"
    );
    their.disconnect(id)?;
    expect(&events, EventKind::CmDisconnected)?;
    theirs(&their, kind::DISCONNECTED)?;
    in_error(&[ours])
}

/// An id of ours asks a program of librdmacm's kind.
fn rdma_cm_is_asked(world: &World) -> Result<()> {
    let events = world.events()?;
    let (their, ours) = (Theirs::open()?, Link::new(&world.device)?);
    let port = 20_000 + (std::process::id() % 10_000) as u16;
    let listener = their.listen(SocketAddrV4::new(world.place.address, port), 1)?;
    let active = CmId::new(world.node(), &events, 2)?;
    active.connect_verbs(ours.named(), world.at(port), &CmOptions::new().private_data(b"we ask"))?;
    let request = theirs(&their, kind::CONNECT_REQUEST)?;
    check_eq!(
        (request.qpn, &request.data[..6]),
        (ours.number(), &b"we ask"[..]),
        "the request"
    );
    their.accept(request.id, &offer(b"yes", 78))?;
    expect(&events, EventKind::CmEstablished)?;
    theirs(&their, kind::ESTABLISHED)?;
    let info = active.query()?;
    check_eq!(
        (info.peer_qpn, &info.private_data[..3]),
        (78, &b"yes"[..]),
        "the answer"
    );
    check_eq!(
        (ours.state()?, ours.attrs()?.1.dest),
        (qp_state::RTS, 78),
        "our queue pair"
    );
    active.disconnect()?;
    theirs(&their, kind::DISCONNECTED)?;
    their.disconnect(request.id)?;
    expect(&events, EventKind::CmDisconnected)?;
    in_error(std::slice::from_ref(&ours))?;

    let (again, ours) = (CmId::new(world.node(), &events, 3)?, Link::new(&world.device)?);
    again.connect_verbs(ours.named(), world.at(port), &CmOptions::new())?;
    let request = theirs(&their, kind::CONNECT_REQUEST)?;
    their.reject(request.id, b"no")?;
    check_eq!(expect(&events, EventKind::CmRejected)?.data, 28, "the reason");
    check_eq!(again.query()?.private_data[..2], b"no"[..], "what is said to it");
    their.destroy(request.id)?;
    their.destroy(listener)
}

/// A listener for all hears of Verbena's devices and of the kernel's, and ids of both are connected at the same time.
fn both_kinds(world: &World) -> Result<()> {
    let verbena = verbena::Context::open(&Attachment::kernel())?;
    let spec = crate::link::Spec::default();
    let events = [world.events()?, world.events()?];
    let listener = CmId::new(world.node(), &events[1], 1)?;
    let port = listener.bind(CmAddr::any(0))?.port;
    listener.listen(2)?;
    for (what, address) in [
        ("the kernel's", world.at(port)),
        ("Verbena's", CmAddr::new(verbena.gid(1, 0)?, port)),
    ] {
        let other = CmId::new(world.node(), &events[0], 9)?;
        refused(other.bind(address), Errno::EADDRINUSE, what)?;
    }
    let links = [Link::new(&world.device)?, Link::new(&world.device)?];
    // Bound to all as well: it keeps its port on the device that it connects on.
    let active = CmId::new(world.node(), &events[0], 2)?;
    let own = active.bind(CmAddr::any(0))?.port;
    active.connect_verbs(links[0].named(), world.at(port), &CmOptions::new())?;
    check_eq!(active.query()?.local, world.at(own), "where it asks from");
    let passive = world.request(&listener, &events[1])?;
    check_eq!(
        (passive.query()?.local, passive.query()?.device),
        (world.at(port), None),
        "where it was asked"
    );
    passive.accept_verbs(links[1].named(), &CmOptions::new())?;
    links[1].post_recv()?;
    for events in &events {
        expect(events, EventKind::CmEstablished)?;
    }

    let mut ours = [
        crate::link::Link::new(&verbena, &spec)?,
        crate::link::Link::new(&verbena, &spec)?,
    ];
    let asks = CmId::new(world.node(), &events[0], 3)?;
    let to = CmAddr::new(verbena.gid(1, 0)?, port);
    asks.connect(&mut ours[0].qp, to, &CmOptions::new())?;
    let asked = world.request(&listener, &events[1])?;
    ensure!(asked.query()?.device.is_some(), "it was asked on no device of ours");
    refused(
        asked.accept_verbs(Link::new(&world.device)?.named(), &CmOptions::new()),
        Errno::EBADF,
        "a queue pair of the kernel's device",
    )?;
    asked.accept(&mut ours[1].qp, &CmOptions::new())?;
    for events in &events {
        expect(events, EventKind::CmEstablished)?;
    }
    traffic(&links[0], &links[1])?;
    asks.disconnect()?;
    for events in &events {
        expect(events, EventKind::CmDisconnected)?;
    }
    check_eq!(
        links[0].state()?,
        qp_state::RTS,
        "the queue pair of the other connection"
    );
    active.disconnect()?;
    for events in &events {
        loop {
            let event = events.next_event(Some(SOON))?.context("no end")?;
            match event.kind {
                EventKind::CmDisconnected => break,
                // Of the connection before.
                EventKind::CmTimewaitExit => {}
                kind => bail!("{kind:?} instead of the end"),
            }
        }
    }
    in_error(&links)
}

/// The other process of `killed`: connects and stays.
///
/// # Errors
///
/// It is not connected.
pub fn hold(world: &World, port: u16) -> Result<()> {
    let events = world.events()?;
    let (id, link) = (CmId::new(world.node(), &events, 1)?, Link::new(&world.device)?);
    id.connect_verbs(link.named(), world.at(port), &CmOptions::new())?;
    expect(&events, EventKind::CmEstablished)?;
    println!("connected");
    std::io::stdout().flush()?;
    // To its violent end.
    loop {
        std::thread::park();
    }
}

/// A process that is killed ends its connections.
fn killed(world: &World) -> Result<()> {
    let events = world.events()?;
    let (listener, at) = world.listen(&events, 1)?;
    let link = Link::new(&world.device)?;
    let place = &world.place;
    let mut other = Command::new(std::env::current_exe()?)
        .args(["--device", &place.device, "--address", &place.address.to_string()])
        .args([
            "--silent",
            &place.silent.to_string(),
            "--nowhere",
            &place.nowhere.to_string(),
        ])
        .args(["--hold", &at.port.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let connected = (|| {
        let passive = world.request(&listener, &events)?;
        passive.accept_verbs(link.named(), &CmOptions::new())?;
        expect(&events, EventKind::CmEstablished)?;
        let mut line = String::new();
        BufReader::new(other.stdout.take().context("it has no output")?).read_line(&mut line)?;
        check_eq!(line, "connected\n", "what it says");
        Ok(passive)
    })();
    other.kill()?;
    other.wait()?;
    let passive = connected?;
    expect(&events, EventKind::CmDisconnected)?;
    in_error(&[link])?;
    expect(&events, EventKind::CmTimewaitExit)?;
    check_eq!(passive.query()?.state, cm_state::CLOSED, "the state");
    Ok(())
}

/// Nothing holds a queue pair: it can be destroyed while it is connected, and the id lives on.
fn destroyed_queue_pair(world: &World) -> Result<()> {
    let mut all = world.connected()?;
    let [active, passive] = all.links;
    drop(active);
    all.active.disconnect()?;
    for events in &all.events {
        expect(events, EventKind::CmDisconnected)?;
    }
    check_eq!(passive.state()?, qp_state::ERR, "the other queue pair");
    // And before the peer has answered.
    let events = [world.events()?, world.events()?];
    let (listener, at) = world.listen(&events[1], 1)?;
    let link = Link::new(&world.device)?;
    all.active = CmId::new(world.node(), &events[0], 2)?;
    all.active.connect_verbs(link.named(), at, &CmOptions::new())?;
    let passive = world.request(&listener, &events[1])?;
    drop(link);
    let link = Link::new(&world.device)?;
    passive.accept_verbs(link.named(), &CmOptions::new())?;
    expect(&events[0], EventKind::CmConnectError)?;
    check_eq!(
        expect(&events[1], EventKind::CmRejected)?.data,
        1,
        "the reason: no queue pair"
    );
    in_error(&[link])
}

/// The device goes under a connection: everything on it ends, and can only be destroyed.
fn removed(world: &World) -> Result<()> {
    let all = world.connected()?;
    traffic(&all.links[0], &all.links[1])?;
    let events = world.events()?;
    let bound = CmId::new(world.node(), &events, 7)?;
    bound.bind(world.at(0))?;
    let asking = CmId::new(world.node(), &events, 8)?;
    let link = Link::new(&world.device)?;
    asking.connect_verbs(
        link.named(),
        CmAddr::new(gid(world.place.silent), 7471),
        &CmOptions::new(),
    )?;
    // It returns when nobody uses the device any more.
    let mut remove = Command::new("rdma")
        .args(["link", "delete", &world.place.device])
        .spawn()?;
    // The listener's, and the passive side's.
    for events in [&all.events[0], &all.events[1], &all.events[1], &events, &events] {
        expect(events, EventKind::CmDeviceRemoval)?;
    }
    for (what, id) in [
        ("connected", &all.active),
        ("accepted", &all.passive),
        ("bound", &bound),
        ("asking", &asking),
    ] {
        refused(id.query(), Errno::ENODEV, what)?;
        refused(id.disconnect(), Errno::ENODEV, what)?;
    }
    refused(all.listener.listen(1), Errno::ENODEV, "listening")?;
    bound.destroy()?;
    drop((all, asking, link));
    let end = Instant::now() + SOON;
    while remove.try_wait()?.is_none() {
        ensure!(Instant::now() < end, "the device does not go");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ensure!(remove.wait()?.success(), "the device cannot be removed");
    Ok(())
}
