// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections by address and port (U18): one call a side, what both sides hear of it, and how it ends.

use super::kit::{check_eq, quiet, refused, Layout, Outcome, PASS, QUIET};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{Link, Spec, SOON};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::{self, cm_id};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use rdma_uapi::Errno;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::sync::Barrier;
use std::time::Duration;
use verbena::{
    cm_params, cm_state, Access, CmAddr, CmId, CmOptions, ConnectError, Connection, Context, Error, Event, EventKind,
    EventQueue, Gid, Listener, QpState, RecvWr, SendWr,
};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("u18_one_context_connects_to_itself", loopback),
    Case::single("u18_a_port_has_one_listener", ports),
    Case::single("u18_calls_in_the_wrong_state_are_refused", states),
    Case::single("u18_a_connected_queue_pair_is_moved_by_nobody_else", tampering),
    Case::single("u18_one_id_connects_one_of_two_queue_pairs_at_once", racing),
    Case::single(
        "u18_who_does_not_exist_is_unreachable_when_the_retries_are_over",
        unreachable,
    ),
    Case::single("u18_a_destroyed_id_reports_nothing", silence),
    Case::single("u18_destroying_an_id_says_how_many_events_were_given", given),
    Case::pair("u18_one_call_a_side_connects_and_data_flows", connect),
    Case::pair("u18_a_refusal_says_why", rejection),
    Case::pair("u18_many_connect_at_once_by_events", by_events),
    Case::pair("u18_the_backlog_is_a_limit", backlog),
    Case::pair("u18_both_may_disconnect_at_once", both_disconnect),
    Case::pair("u18_what_is_outstanding_is_flushed_on_both_sides", flushes),
    Case::pair("u18_a_queue_pair_connects_again", again),
];

/// Where a listener of `ctx` that has got this port is for others.
fn address(ctx: &Context, listener: &Listener) -> Result<CmAddr> {
    Ok(CmAddr::new(ctx.gid(1, 0)?, listener.address().port))
}

/// Tells the other side where this side listens.
fn announce(ctx: &Context, wire: &mut Wire, backlog: u32) -> Result<Listener> {
    let listener = Listener::bind(ctx, CmAddr::any(0), backlog)?;
    let address = address(ctx, &listener)?;
    wire.send(&(address.gid.0, address.port))?;
    Ok(listener)
}

/// Hears where the other side listens.
fn whereabouts(wire: &mut Wire) -> Result<CmAddr> {
    let (gid, port): ([u8; 16], u16) = wire.recv()?;
    Ok(CmAddr::new(Gid(gid), port))
}

/// This side's end of a connection that the right side asks for.
fn meet(side: Side, ctx: &Context, wire: &mut Wire, link: &mut Link) -> Result<Connection> {
    let connection = match side {
        Side::Left => {
            let listener = announce(ctx, wire, 1)?;
            let incoming = listener.next(SOON)?.context("nobody asks for a connection")?;
            incoming.accept(&mut link.qp, &CmOptions::new(), SOON)?
        }
        Side::Right => {
            let to = whereabouts(wire)?;
            Connection::connect(&mut link.qp, to, &CmOptions::new(), SOON)?
        }
    };
    wire.barrier("connected")?;
    Ok(connection)
}

fn event(events: &EventQueue, what: &str) -> Result<Event> {
    events
        .next_event(Some(SOON))?
        .with_context(|| format!("no event: {what}"))
}

fn connect(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::new(ctx, &Spec::default())?;
    let region = link.region(8192, Access::ALL_REMOTE)?;
    let mut wanted = cm_params();
    (wanted.responder_resources, wanted.initiator_depth, wanted.path_mtu) = (3, 8, 1024);
    let connection = match side {
        Side::Left => {
            let listener = announce(ctx, wire, 4)?;
            let incoming = listener.next(SOON)?.context("nobody asks for a connection")?;
            let info = incoming.info();
            check_eq!(info.state, cm_state::REQUESTED, "the state");
            check_eq!(info.private_data[..5], *b"right", "what the right side says");
            check_eq!(info.private_data.len(), 56, "its length, padded");
            let peer: ([u8; 16], u32) = wire.recv()?;
            check_eq!(info.peer.gid, Gid(peer.0), "who asks");
            check_eq!(info.peer_qpn, peer.1, "with which queue pair");
            let options = CmOptions::new().params(wanted).private_data(&[7; 196]);
            incoming.accept(&mut link.qp, &options, SOON)?
        }
        Side::Right => {
            let to = whereabouts(wire)?;
            wire.send(&(ctx.gid(1, 0)?.0, link.qp.qpn()))?;
            let options = CmOptions::new().params(wanted).private_data(b"right");
            let connection = Connection::connect(&mut link.qp, to, &options, SOON)?;
            let info = connection.id().query()?;
            check_eq!(info.private_data, vec![7; 196], "what the left side says");
            check_eq!(info.peer, to, "the peer");
            ensure!(info.local.port >= 49152, "our port is {}", info.local.port);
            connection
        }
    };
    let info = connection.id().query()?;
    check_eq!(info.state, cm_state::ESTABLISHED, "the state");
    let qp = link.qp.query()?;
    check_eq!(qp.state, QpState::RTS, "the queue pair's state");
    // Neither side gets more than the other gives.
    check_eq!((qp.max_rd_atomic, qp.max_dest_rd_atomic), (3, 3), "READs and atomics");
    check_eq!(qp.path_mtu, 1024, "the path MTU");
    check_eq!(qp.dest_qpn, info.peer_qpn, "the peer's queue pair");

    let layout = Layout::whole(13, 5000);
    for (round, sender) in [Side::Left, Side::Right, Side::Left].into_iter().enumerate() {
        let round = round as u64;
        if side == sender {
            layout.put(&region, round);
            wire.barrier("posted")?;
            link.qp
                .post_send(&SendWr::send().sges(&layout.sges(&region)).signaled())?;
            link.sent_well()?;
        } else {
            layout.clear(&region);
            link.qp.post_recv(&RecvWr::new(&layout.sges(&region)))?;
            wire.barrier("posted")?;
            link.received_well()?;
            layout.verify(&region, 5000, round)?;
        }
        wire.barrier("round")?;
    }
    if side == Side::Right {
        connection.disconnect()?;
        refused(connection.disconnect(), Errno::EINVAL, "a second disconnect")?;
    }
    ensure!(connection.wait_disconnected(SOON)?, "no event of the end");
    check_eq!(
        link.qp.query()?.state,
        QpState::ERR,
        "the queue pair's state at the end"
    );
    let last = event(connection.events(), "the end of the time-wait")?;
    check_eq!(last.kind, EventKind::CmTimewaitExit, "the last event");
    check_eq!(connection.id().query()?.state, cm_state::CLOSED, "the state at the end");
    PASS
}

fn rejection(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    match side {
        Side::Left => {
            let listener = announce(ctx, wire, 4)?;
            let incoming = listener.next(SOON)?.context("nobody asks for a connection")?;
            incoming.reject(&[9; 148])?;
            // Whoever drops a request refuses it.
            drop(listener.next(SOON)?.context("nobody asks again")?);
            wire.barrier("refused")?;
        }
        Side::Right => {
            let to = whereabouts(wire)?;
            for said in [&[9; 148][..], &[]] {
                let mut link = Link::new(ctx, &Spec::default())?;
                match Connection::connect(&mut link.qp, to, &CmOptions::new(), SOON).map(drop) {
                    Err(Error::Connect(ConnectError::Rejected { reason, private_data })) => {
                        check_eq!(reason, 28, "the reason: the consumer's");
                        check_eq!(private_data[..said.len()], *said, "what the left side says");
                    }
                    other => bail!("a refusal was expected, not {other:?}"),
                }
                check_eq!(link.qp.query()?.state, QpState::ERR, "the queue pair's state");
            }
            let mut link = Link::new(ctx, &Spec::default())?;
            let nobody = CmAddr::new(to.gid, to.port ^ 1);
            match Connection::connect(&mut link.qp, nobody, &CmOptions::new(), SOON).map(drop) {
                Err(Error::Connect(ConnectError::Rejected { reason: 8, .. })) => {}
                other => bail!("where nobody listens: {other:?}"),
            }
            wire.barrier("refused")?;
        }
    }
    PASS
}

fn by_events(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const COUNT: usize = 12;
    let events = ctx.create_event_queue()?;
    let mut links = (0..COUNT)
        .map(|_| Link::new(ctx, &Spec::default()))
        .collect::<Result<Vec<_>>>()?;
    let mut ids = Vec::new();
    match side {
        Side::Left => {
            let listener = CmId::new(ctx, &events, 77)?;
            let port = listener.bind(CmAddr::any(0))?.port;
            listener.listen(COUNT as u32)?;
            wire.send(&(ctx.gid(1, 0)?.0, port))?;
            let (mut asked, mut established) = (0, 0);
            while established < COUNT {
                let event = event(&events, "a request, or a confirmation")?;
                check_eq!(event.cookie, 77, "the cookie of the listener and its connections");
                match event.kind {
                    EventKind::CmConnectRequest => {
                        let id = CmId::requested(&listener, &event).context("the event names no id")?;
                        let link = links.get_mut(asked).context("more requests than were made")?;
                        id.accept(&mut link.qp, &CmOptions::new())?;
                        link.qp.post_recv(&RecvWr::new(&[]))?;
                        ids.push(id);
                        asked += 1;
                    }
                    EventKind::CmEstablished => {
                        ensure!(ids.iter().any(|id| id.id().0 == event.object), "an id nobody has");
                        established += 1;
                    }
                    other => bail!("an event of kind {other:?}"),
                }
            }
        }
        Side::Right => {
            let to = whereabouts(wire)?;
            for (n, link) in links.iter_mut().enumerate() {
                let id = CmId::new(ctx, &events, n as u64)?;
                id.connect(&mut link.qp, to, &CmOptions::new())?;
                ids.push(id);
            }
            let mut seen = [false; COUNT];
            for _ in 0..COUNT {
                let event = event(&events, "a connection")?;
                check_eq!(event.kind, EventKind::CmEstablished, "the event");
                ensure!(
                    !std::mem::replace(&mut seen[event.cookie as usize], true),
                    "it came twice"
                );
                check_eq!(
                    links[event.cookie as usize].qp.update_state()?,
                    QpState::RTS,
                    "the queue pair's state"
                );
            }
        }
    }
    wire.barrier("connected")?;
    for link in &mut links {
        match side {
            Side::Left => drop(link.received_well()?),
            Side::Right => {
                link.qp.post_send(&SendWr::send().inline(b"").signaled())?;
                link.sent_well()?;
            }
        }
    }
    wire.barrier("heard")?;
    // One side destroys all of its ids, the other hears it of each.
    match side {
        Side::Left => ids.clear(),
        Side::Right => {
            let mut ended = 0;
            while ended < COUNT {
                match event(&events, "the end of a connection")?.kind {
                    EventKind::CmDisconnected => ended += 1,
                    EventKind::CmTimewaitExit => {}
                    other => bail!("an event of kind {other:?}"),
                }
            }
        }
    }
    wire.barrier("over")?;
    PASS
}

fn backlog(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    match side {
        Side::Left => {
            let listener = announce(ctx, wire, 2)?;
            wire.barrier("asked")?;
            let first = listener.next(SOON)?.context("no first request")?;
            let _second = listener.next(SOON)?.context("no second request")?;
            ensure!(listener.next(QUIET)?.is_none(), "a third request came through");
            let mut link = Link::new(ctx, &Spec::default())?;
            let _connection = first.accept(&mut link.qp, &CmOptions::new(), SOON)?;
            wire.barrier("one is accepted")?;
            // Its place is free again.
            let _third = listener.next(SOON)?.context("no request in the place that is free")?;
            wire.barrier("over")?;
        }
        Side::Right => {
            let to = whereabouts(wire)?;
            let events = ctx.create_event_queue()?;
            let mut links = Vec::new();
            let mut ask = |cookie| -> Result<CmId> {
                let mut link = Link::new(ctx, &Spec::default())?;
                let id = CmId::new(ctx, &events, cookie)?;
                id.connect(&mut link.qp, to, &CmOptions::new())?;
                links.push(link);
                Ok(id)
            };
            let _ids = [ask(0)?, ask(1)?, ask(2)?];
            let refusal = event(&events, "a refusal")?;
            check_eq!(
                (refusal.kind, refusal.cookie, refusal.data),
                (EventKind::CmRejected, 2, 3),
                "the refusal: no resources"
            );
            wire.barrier("asked")?;
            let connected = event(&events, "a connection")?;
            check_eq!(
                (connected.kind, connected.cookie),
                (EventKind::CmEstablished, 0),
                "the first"
            );
            wire.barrier("one is accepted")?;
            let _fourth = ask(3)?;
            wire.barrier("over")?;
        }
    }
    PASS
}

fn both_disconnect(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    for _ in 0..5 {
        let mut link = Link::new(ctx, &Spec::default())?;
        let connection = meet(side, ctx, wire, &mut link)?;
        match connection.disconnect() {
            Ok(()) => {}
            // The other side was faster.
            Err(error) if error.errno() == Some(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(connection.wait_disconnected(SOON)?, "no event of the end");
        let next = event(connection.events(), "the end of the time-wait")?;
        check_eq!(next.kind, EventKind::CmTimewaitExit, "what follows: the end comes once");
        wire.barrier("over")?;
    }
    PASS
}

fn flushes(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const COUNT: u64 = 8;
    let mut link = Link::new(ctx, &Spec::default())?;
    let connection = meet(side, ctx, wire, &mut link)?;
    for n in 0..COUNT {
        link.qp.post_recv(&RecvWr::new(&[]).wr_id(n))?;
    }
    quiet(&mut link.recv_cq, "receives that nobody sends to")?;
    wire.barrier("posted")?;
    if side == Side::Left {
        connection.disconnect()?;
    }
    for n in 0..COUNT {
        let received = link.received()?;
        check_eq!(
            (received.wr_id, received.status),
            (n, Status::WR_FLUSH_ERR),
            "receive {n}"
        );
    }
    wire.barrier("over")?;
    PASS
}

fn again(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::new(ctx, &Spec::default())?;
    for round in 0..3 {
        let connection = meet(side, ctx, wire, &mut link).with_context(|| format!("round {round}"))?;
        if side == Side::Left {
            connection.disconnect()?;
        }
        ensure!(connection.wait_disconnected(SOON)?, "no event of the end");
        // A queue pair has one connection at a time, and until no packet of the last is on its way.
        let next = event(connection.events(), "the end of the time-wait")?;
        check_eq!(next.kind, EventKind::CmTimewaitExit, "what follows");
        let Link {
            qp, send_cq, recv_cq, ..
        } = &mut link;
        qp.reset(&mut [send_cq, recv_cq])?;
        wire.barrier("reset")?;
    }
    PASS
}

fn loopback(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let listener = CmId::new(&ctx, &events, 1)?;
    let port = listener.bind(CmAddr::any(0))?.port;
    listener.listen(1)?;
    let (mut a, mut b) = (Link::new(&ctx, &Spec::default())?, Link::new(&ctx, &Spec::default())?);
    let active = CmId::new(&ctx, &events, 2)?;
    active.connect(&mut a.qp, CmAddr::new(ctx.gid(1, 0)?, port), &CmOptions::new())?;
    let request = event(&events, "a request")?;
    let passive = CmId::requested(&listener, &request).context("it is no request")?;
    passive.accept(&mut b.qp, &CmOptions::new())?;
    for _ in 0..2 {
        check_eq!(
            event(&events, "a connection")?.kind,
            EventKind::CmEstablished,
            "the event"
        );
    }
    a.qp.update_state()?;
    b.qp.post_recv(&RecvWr::new(&[]).wr_id(5))?;
    a.qp.post_send(&SendWr::send().inline(b"").signaled())?;
    a.sent_well()?;
    check_eq!(b.received_well()?.wr_id, 5, "the receive");
    PASS
}

fn ports(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let listener = Listener::bind(&ctx, CmAddr::any(0), 1)?;
    let port = listener.address().port;
    let own = ctx.gid(1, 0)?;
    refused(
        Listener::bind(&ctx, CmAddr::any(port), 1),
        Errno::EADDRINUSE,
        "a second listener",
    )?;
    refused(
        Listener::bind(&ctx, CmAddr::new(own, port), 1),
        Errno::EADDRINUSE,
        "a listener at one address of all",
    )?;
    let other = fixture.open()?;
    refused(
        Listener::bind(&other, CmAddr::any(port), 1),
        Errno::EADDRINUSE,
        "another program's",
    )?;
    drop(listener);
    Listener::bind(&other, CmAddr::new(own, port), 1)?;
    let foreign = CmAddr::new(Gid::from_ipv4([192, 0, 2, 77]), 0);
    refused(
        Listener::bind(&ctx, foreign, 1),
        Errno::EADDRNOTAVAIL,
        "another's address",
    )?;
    PASS
}

fn states(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let mut link = Link::new(&ctx, &Spec::default())?;
    let id = CmId::new(&ctx, &events, 0)?;
    let nothing = CmOptions::new();
    check_eq!(id.query()?.state, cm_state::IDLE, "the state of a new one");
    refused(id.listen(1), Errno::EINVAL, "listening without a port")?;
    refused(id.accept(&mut link.qp, &nothing), Errno::EINVAL, "accepting nobody")?;
    refused(id.reject(b""), Errno::EINVAL, "refusing nobody")?;
    refused(id.disconnect(), Errno::EINVAL, "disconnecting nobody")?;
    let to = CmAddr::new(ctx.gid(1, 0)?, 1);
    for (wrong, what) in [
        (nothing.clone().private_data(&[0; 57]), "57 bytes of private data"),
        (nothing.clone().params(with(|p| p.retry_count = 8)), "8 retries"),
        (
            nothing.clone().params(with(|p| p.path_mtu = 1000)),
            "a path MTU of 1000",
        ),
        (
            nothing.clone().params(with(|p| p.response_timeout = 23)),
            "34 s for an answer",
        ),
        (nothing.clone().params(with(|p| p.access = 1 << 20)), "an unknown right"),
        (nothing.clone().params(with(|p| p.reserved[9] = 1)), "a reserved byte"),
    ] {
        refused(id.connect(&mut link.qp, to, &wrong), Errno::EINVAL, what)?;
    }
    refused(
        id.connect(&mut link.qp, CmAddr::any(1), &nothing),
        Errno::EINVAL,
        "connecting with no address",
    )?;
    let mut other = Link::new(&ctx, &Spec::default())?;
    Link::join(&mut link, &mut other, &Spec::default())?;
    refused(
        id.connect(&mut link.qp, to, &nothing),
        Errno::EINVAL,
        "connecting what is connected",
    )?;
    id.bind(CmAddr::any(0))?;
    refused(id.bind(CmAddr::any(0)), Errno::EINVAL, "binding twice")?;
    id.listen(1)?;
    let mut fresh = Link::new(&ctx, &Spec::default())?;
    refused(
        id.connect(&mut fresh.qp, to, &nothing),
        Errno::EINVAL,
        "connecting a listener",
    )?;
    check_eq!(id.query()?.state, cm_state::LISTENING, "the state");
    PASS
}

fn with(change: impl FnOnce(&mut verbena::CmParams)) -> verbena::CmParams {
    let mut params = cm_params();
    change(&mut params);
    params
}

/// A request that nobody answers for long: to an address that nobody has.
fn to_nobody() -> CmAddr {
    CmAddr::new(Gid::from_ipv4([192, 0, 2, 99]), 7471)
}

fn tampering(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let mut link = Link::new(&ctx, &Spec::default())?;
    let id = CmId::new(&ctx, &events, 0)?;
    id.connect(&mut link.qp, to_nobody(), &CmOptions::new())?;
    let elsewhere = link.qp.endpoint()?;
    refused(link.qp.connect(&elsewhere), Errno::EBUSY, "connecting it elsewhere")?;
    let Link {
        qp, send_cq, recv_cq, ..
    } = &mut link;
    refused(qp.reset(&mut [send_cq, recv_cq]), Errno::EBUSY, "resetting it")?;
    let second = CmId::new(&ctx, &events, 0)?;
    refused(
        second.connect(qp, to_nobody(), &CmOptions::new()),
        Errno::EBUSY,
        "connecting it by another id",
    )?;
    // To break it is always allowed.
    qp.set_error()?;
    drop(id);
    qp.reset(&mut [send_cq, recv_cq])?;
    qp.init()?;
    PASS
}

fn racing(fixture: &Fixture) -> Outcome {
    const ROUNDS: usize = 100;
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let spec = Spec::default();
    for _ in 0..ROUNDS {
        let id = CmId::new(&ctx, &events, 0)?;
        let mut links = [Link::new(&ctx, &spec)?, Link::new(&ctx, &spec)?];
        let start = Barrier::new(links.len());
        let connected = std::thread::scope(|scope| {
            let threads: Vec<_> = links
                .iter_mut()
                .map(|link| {
                    let (id, start) = (&id, &start);
                    scope.spawn(move || {
                        start.wait();
                        id.connect(&mut link.qp, to_nobody(), &CmOptions::new()).is_ok()
                    })
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .filter(|&ok| ok)
                .count()
        });
        check_eq!(connected, 1, "queue pairs that one id connects");
        // When it ends, neither is anybody's.
        drop(id);
        for link in &mut links {
            let Link {
                qp, send_cq, recv_cq, ..
            } = link;
            qp.reset(&mut [send_cq, recv_cq])?;
            qp.init()?;
        }
    }
    PASS
}

fn unreachable(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut link = Link::new(&ctx, &Spec::default())?;
    // 16.8 ms, three times.
    let params = with(|p| (p.response_timeout, p.max_cm_retries) = (12, 2));
    let begun = std::time::Instant::now();
    let options = CmOptions::new().params(params);
    match Connection::connect(&mut link.qp, to_nobody(), &options, SOON).map(drop) {
        Err(Error::Connect(ConnectError::Unreachable)) => {}
        other => bail!("it should be unreachable, and was {other:?}"),
    }
    let took = begun.elapsed();
    ensure!(took >= Duration::from_micros(3 * 16_777), "it gave up after {took:?}");
    check_eq!(link.qp.query()?.state, QpState::ERR, "the queue pair's state");
    PASS
}

/// A library that hands events to other threads waits until so many have come back: those that were given, and no others.
fn given(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (events, others) = (ctx.create_event_queue()?, ctx.create_event_queue()?);
    // Ids that are nobody's, so that their DESTROY can be looked at.
    let call = |class, object, method, build: &dyn Fn(&mut Builder<'_>)| {
        let answer = Message::new(class, object, |m| build(m)).call(&ctx, method);
        answer.map_err(|failure| anyhow::anyhow!("method {method}: {failure}"))
    };
    let create = |queue: &EventQueue| -> Result<u32> {
        let made = call(class::CM_ID, 0, method::CREATE, &|m| {
            m.put(class::EVENT_QUEUE_OF, &queue.id());
        })?;
        Ok(made.object())
    };
    let destroy = |id| -> Result<Option<u32>> {
        let answer = call(class::CM_ID, id, method::DESTROY, &|m| {
            m.ask(class::ASYNC_EVENTS);
        })?;
        Ok(answer.reply().get(class::ASYNC_EVENTS))
    };
    check_eq!(destroy(create(&events)?)?, Some(0), "events of an id that had none");

    let listener = CmId::new(&ctx, &events, 1)?;
    let port = listener.bind(CmAddr::any(0))?.port;
    listener.listen(4)?;
    let to = cm_id::CmAddress {
        gid: ctx.gid(1, 0)?.0,
        port,
        ..Default::default()
    };
    for read in [true, false] {
        let link = Link::new(&ctx, &Spec::default())?;
        let id = create(&others)?;
        call(class::CM_ID, id, cm_id::CONNECT, &|m| {
            m.put(cm_id::PEER, &to).put(cm_id::QP, &link.qp.id());
        })?;
        let request = event(&events, "a request")?;
        CmId::requested(&listener, &request)
            .context("it is no request")?
            .reject(b"")?;
        if read {
            check_eq!(event(&others, "a refusal")?.kind, EventKind::CmRejected, "the event");
        } else {
            // It is there, and nobody takes it.
            let mut waits = [PollFd::new(&others, PollFlags::IN)];
            let soon = Timespec::try_from(SOON)?;
            check_eq!(poll(&mut waits, Some(&soon))?, 1, "queues that have events");
        }
        let expected = u32::from(read);
        check_eq!(destroy(id)?, Some(expected), "events that were given of it");
        check_eq!(others.try_next()?, None, "an event of an id that is destroyed");
    }
    PASS
}

fn silence(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let events = ctx.create_event_queue()?;
    let mut link = Link::new(&ctx, &Spec::default())?;
    let params = with(|p| (p.response_timeout, p.max_cm_retries) = (10, 1));
    let id = CmId::new(&ctx, &events, 0)?;
    id.connect(&mut link.qp, to_nobody(), &CmOptions::new().params(params))?;
    id.destroy()?;
    if let Some(event) = events.next_event(Some(QUIET))? {
        bail!("an event after the end: {event:?}");
    }
    PASS
}
