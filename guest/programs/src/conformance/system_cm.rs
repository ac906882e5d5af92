// SPDX-License-Identifier: MIT OR Apache-2.0
//! Communication ids of the system-wide node (U17, U18): they belong to no device, and connect queue pairs of any.

use super::kit::{check_eq, refused, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side, Verdict, Wire};
use crate::link::{Link, Spec, SOON};
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::class::{self, cm_id};
use rdma_uapi::wire::{method, ObjectId, HEADER};
use rdma_uapi::{Errno, Reason};
use verbena::{
    cm_state, CmAddr, CmId, CmOptions, Connection, Context, DeviceList, Event, EventKind, EventQueue, Gid, Listener,
    QpState, RecvWr, SendWr,
};

pub const CASES: &[Case] = &[
    Case::single("u17_an_id_is_on_no_device_on_one_or_on_all", standing),
    Case::single("u17_ports_are_one_space_for_the_node_and_the_devices", ports),
    Case::single("u17_the_first_connect_puts_an_id_for_all_on_one_device", settles),
    Case::single("u18_a_queue_pair_of_another_device_is_refused", elsewhere),
    Case::single("u18_ids_of_the_node_connect_queue_pairs_of_a_device", connect_here),
    Case::single("u18_a_queue_pair_is_named_by_its_devices_file", names),
    Case::single("u18_whichever_file_closes_the_other_hears_the_end", closing),
    Case::pair("u18_ids_of_the_node_connect_both_sides", connect_both),
    Case::pair("u18_an_id_of_the_node_refuses_one_of_a_device", refuse),
];

fn node(fixture: &Fixture) -> Result<DeviceList> {
    Ok(DeviceList::beside(fixture.attachment(Side::Left))?)
}

fn event(events: &EventQueue, what: &str) -> Result<Event> {
    let event = events.next_event(Some(SOON))?;
    event.with_context(|| format!("no event: {what}"))
}

/// The device's number in the node's list.
fn arrival(list: &DeviceList, ctx: &Context) -> Result<u64> {
    let guid = ctx.device()?.node_guid;
    let devices = list.devices()?;
    let listed = devices.iter().find(|device| device.node_guid == guid);
    Ok(listed.context("the device is not listed")?.arrival)
}

fn standing(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let list = node(fixture)?;
    let events = list.context().create_event_queue()?;
    let id = CmId::new(list.context(), &events, 0)?;
    let info = id.query()?;
    check_eq!((info.state, info.device), (cm_state::IDLE, None), "a new one");
    for (what, result) in [
        ("listening without a port", id.listen(1)),
        ("refusing nobody", id.reject(b"")),
        ("disconnecting nobody", id.disconnect()),
    ] {
        refused(result, Errno::EINVAL, what)?;
    }
    let foreign = CmAddr::new(Gid::from_ipv4([192, 0, 2, 77]), 0);
    refused(id.bind(foreign), Errno::EADDRNOTAVAIL, "an address that no device has")?;
    let bound = id.bind(CmAddr::new(ctx.gid(1, 0)?, 0))?;
    ensure!(bound.port >= 49152, "the port is {}", bound.port);
    let info = id.query()?;
    check_eq!(
        (info.state, info.local, info.device),
        (cm_state::BOUND, bound, Some(arrival(&list, &ctx)?)),
        "one that is bound to the device's address"
    );
    refused(id.bind(CmAddr::any(0)), Errno::EINVAL, "binding twice")?;

    let all = CmId::new(list.context(), &events, 0)?;
    let bound = all.bind(CmAddr::any(0))?;
    all.listen(1)?;
    let info = all.query()?;
    check_eq!(
        (info.state, info.local, info.device),
        (cm_state::LISTENING, bound, None),
        "one that listens on all"
    );
    let mut link = Link::new(&ctx, &Spec::default())?;
    let connecting = all.connect(&mut link.qp, CmAddr::new(ctx.gid(1, 0)?, 1), &CmOptions::new());
    refused(connecting, Errno::EINVAL, "connecting a listener")?;
    PASS
}

fn ports(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let list = node(fixture)?;
    let of_node = Listener::bind(list.context(), CmAddr::any(0), 1)?;
    let port = of_node.address().port;
    for (what, context, address) in [
        ("on the device", &ctx, CmAddr::any(port)),
        ("at the device's address", &ctx, CmAddr::new(ctx.gid(1, 0)?, port)),
        ("on all devices", list.context(), CmAddr::any(port)),
        ("at one address", list.context(), CmAddr::new(ctx.gid(1, 0)?, port)),
    ] {
        refused(Listener::bind(context, address, 1), Errno::EADDRINUSE, what)?;
    }
    drop(of_node);
    let of_device = Listener::bind(&ctx, CmAddr::any(port), 1)?;
    let both = Listener::bind(list.context(), CmAddr::any(port), 1);
    refused(both, Errno::EADDRINUSE, "what a device's file has")?;
    drop(of_device);
    Listener::bind(list.context(), CmAddr::any(port), 1)?;
    PASS
}

fn settles(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let list = node(fixture)?;
    let events = list.context().create_event_queue()?;
    let id = CmId::new(list.context(), &events, 0)?;
    let port = id.bind(CmAddr::any(0))?.port;
    let mut link = Link::new(&ctx, &Spec::default())?;
    // Nobody listens at its own port.
    id.connect(&mut link.qp, CmAddr::new(ctx.gid(1, 0)?, port), &CmOptions::new())?;
    let info = id.query()?;
    check_eq!(
        (info.local.port, info.device),
        (port, Some(arrival(&list, &ctx)?)),
        "the port, and the device of the queue pair"
    );
    check_eq!(event(&events, "a refusal")?.kind, EventKind::CmRejected, "the event");
    // On the others the port is free again, on this one it is taken.
    let all = Listener::bind(list.context(), CmAddr::any(port), 1);
    refused(all, Errno::EADDRINUSE, "all devices, of which one has the port in use")?;
    drop(id);
    Listener::bind(list.context(), CmAddr::any(port), 1)?;
    PASS
}

fn elsewhere(fixture: &Fixture) -> Outcome {
    let (left, right) = (fixture.open()?, fixture.open_side(Side::Right)?);
    let list = node(fixture)?;
    if left.device()?.node_guid == right.device()?.node_guid {
        return Ok(Verdict::Skip("there is one device only".to_owned()));
    }
    let events = list.context().create_event_queue()?;
    let id = CmId::new(list.context(), &events, 0)?;
    id.bind(CmAddr::new(left.gid(1, 0)?, 0))?;
    let mut link = Link::new(&right, &Spec::default())?;
    let to = CmAddr::new(right.gid(1, 0)?, 1);
    let connecting = id.connect(&mut link.qp, to, &CmOptions::new());
    refused(connecting, Errno::EXDEV, "an id of one device, a queue pair of another")?;
    check_eq!(id.query()?.state, cm_state::BOUND, "the state of the id");
    check_eq!(link.qp.query()?.state, QpState::RESET, "the state of the queue pair");
    PASS
}

/// Two ids of the node and a link on each, connected, with the queue that they report to.
struct Connected {
    events: EventQueue,
    active: CmId,
    passive: CmId,
    links: [Link; 2],
}

fn connected(list: &DeviceList, contexts: [&Context; 2]) -> Result<Connected> {
    let events = list.context().create_event_queue()?;
    let listener = CmId::new(list.context(), &events, 1)?;
    let port = listener.bind(CmAddr::any(0))?.port;
    listener.listen(1)?;
    let [a, b] = contexts;
    let mut links = [Link::new(a, &Spec::default())?, Link::new(b, &Spec::default())?];
    let active = CmId::new(list.context(), &events, 2)?;
    let to = CmAddr::new(b.gid(1, 0)?, port);
    active.connect(&mut links[0].qp, to, &CmOptions::new().private_data(b"node"))?;
    let request = event(&events, "a request")?;
    let passive = CmId::requested(&listener, &request).context("it is no request")?;
    let info = passive.query()?;
    check_eq!(info.state, cm_state::REQUESTED, "the state of the request");
    check_eq!(info.private_data[..4], *b"node", "what the active side says");
    check_eq!(info.device, Some(arrival(list, b)?), "the device that was asked on");
    passive.accept(&mut links[1].qp, &CmOptions::new())?;
    for _ in 0..2 {
        let happened = event(&events, "a connection")?;
        check_eq!(happened.kind, EventKind::CmEstablished, "the event");
    }
    links[0].qp.update_state()?;
    check_eq!(active.query()?.device, Some(arrival(list, a)?), "the device that asks");
    Ok(Connected {
        events,
        active,
        passive,
        links,
    })
}

fn connect_here(fixture: &Fixture) -> Outcome {
    let (first, second) = (fixture.open()?, fixture.open()?);
    let list = node(fixture)?;
    let mut all = connected(&list, [&first, &second])?;
    let [a, b] = &mut all.links;
    b.qp.post_recv(&RecvWr::new(&[]).wr_id(5))?;
    a.qp.post_send(&SendWr::send().inline(b"").signaled())?;
    a.sent_well()?;
    check_eq!(b.received_well()?.wr_id, 5, "the receive");
    // The path is the id's, also for the files that the queue pairs are on.
    let elsewhere = b.qp.endpoint()?;
    refused(a.qp.connect(&elsewhere), Errno::EBUSY, "connecting it elsewhere")?;
    let other = CmId::new(list.context(), &all.events, 3)?;
    let to = CmAddr::new(Gid::from_ipv4([192, 0, 2, 99]), 7471);
    refused(
        other.connect(&mut a.qp, to, &CmOptions::new()),
        Errno::EBUSY,
        "another id",
    )?;
    check_eq!(other.query()?.device, None, "the device of the id that was refused");

    all.active.disconnect()?;
    for _ in 0..2 {
        let happened = event(&all.events, "the end")?;
        check_eq!(happened.kind, EventKind::CmDisconnected, "the event");
    }
    for link in &all.links {
        check_eq!(link.qp.query()?.state, QpState::ERR, "the queue pair's state");
    }
    for _ in 0..2 {
        let happened = event(&all.events, "the end of the time-wait")?;
        check_eq!(happened.kind, EventKind::CmTimewaitExit, "what follows");
    }
    check_eq!(all.passive.query()?.state, cm_state::CLOSED, "the state");
    PASS
}

fn names(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let list = node(fixture)?;
    let link = Link::new(&ctx, &Spec::default())?;
    let to = cm_id::CmAddress {
        gid: ctx.gid(1, 0)?.0,
        port: 1,
        ..Default::default()
    };
    let make = |ctx: &Context| -> Result<u32> {
        let made = Message::new(class::CM_ID, 0, |_| {}).call(ctx, method::CREATE);
        Ok(made.map_err(|failure| anyhow::anyhow!("{failure}"))?.object())
    };
    // Where the second and the third attribute stand, behind an address of 24 bytes.
    let second = HEADER + 32;
    let third = second + 16;
    let id = make(list.context())?;
    let connect = |fd: Option<u32>, qp: ObjectId| {
        Message::new(class::CM_ID, id, |m| {
            m.put(cm_id::PEER, &to)
                .put(cm_id::QP, &qp)
                .put_some(cm_id::DEVICE_FD, fd);
        })
    };
    let at = |attr: u16, offset| (attr, offset);
    let (fd_id, qp_id) = (cm_id::DEVICE_FD.id(), cm_id::QP.id());
    connect(None, link.qp.id()).refused(
        list.context(),
        cm_id::CONNECT,
        (Errno::EINVAL, Reason::MISSING),
        at(fd_id, 0),
        "no file",
    )?;
    connect(Some(1 << 20), link.qp.id()).refused(
        list.context(),
        cm_id::CONNECT,
        (Errno::EBADF, Reason::NO_OBJECT),
        at(fd_id, third),
        "a descriptor of nothing",
    )?;
    let own = ctx.descriptor().context("a device's file has a descriptor")?;
    connect(Some(own), ObjectId(0xf_ffff)).refused(
        list.context(),
        cm_id::CONNECT,
        (Errno::ENOENT, Reason::NO_OBJECT),
        at(qp_id, second),
        "a queue pair that does not exist",
    )?;
    let queue = ctx.create_event_queue()?;
    connect(Some(own), queue.id()).refused(
        list.context(),
        cm_id::CONNECT,
        (Errno::EINVAL, Reason::WRONG_CLASS),
        at(qp_id, second),
        "an event queue",
    )?;
    // On the device's own file there is no other to be named.
    let id = make(&ctx)?;
    let message = Message::new(class::CM_ID, id, |m| {
        m.put(cm_id::PEER, &to)
            .put(cm_id::QP, &link.qp.id())
            .put(cm_id::DEVICE_FD, &own);
    });
    let wrong = (Errno::EINVAL, Reason::WRONG_FD);
    message.refused(
        &ctx,
        cm_id::CONNECT,
        wrong,
        at(fd_id, third),
        "a file on a device's own",
    )?;
    PASS
}

fn closing(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let list = node(fixture)?;
    // A queue pair that is destroyed disconnects.
    let mut all = connected(&list, [&ctx, &ctx])?;
    let [a, b] = all.links;
    drop(a);
    for _ in 0..2 {
        let happened = event(&all.events, "the end")?;
        check_eq!(happened.kind, EventKind::CmDisconnected, "the event");
    }
    check_eq!(b.qp.query()?.state, QpState::ERR, "the peer's queue pair");
    drop((all.active, all.passive, b));

    // The file that it is on, likewise.
    let other = fixture.open()?;
    all = connected(&list, [&other, &ctx])?;
    let [a, b] = all.links;
    drop((a, other));
    for _ in 0..2 {
        let happened = event(&all.events, "the end")?;
        check_eq!(happened.kind, EventKind::CmDisconnected, "the event");
    }
    drop((all.active, all.passive, b, all.events));

    // The node's file: the queue pairs are in ERR, and their owner's again.
    let second = node(fixture)?;
    let Connected {
        events,
        active,
        passive,
        links: [mut a, b],
    } = connected(&second, [&ctx, &ctx])?;
    drop((active, passive, events, second));
    for link in [&a, &b] {
        check_eq!(link.qp.query()?.state, QpState::ERR, "the queue pair's state");
    }
    let Link {
        qp, send_cq, recv_cq, ..
    } = &mut a;
    qp.reset(&mut [send_cq, recv_cq])?;
    qp.init()?;
    PASS
}

fn connect_both(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let list = DeviceList::beside(ctx.attachment())?;
    let mut link = Link::new(ctx, &Spec::default())?;
    let connection = match side {
        Side::Left => {
            let listener = Listener::bind(list.context(), CmAddr::any(0), 1)?;
            wire.send(&(ctx.gid(1, 0)?.0, listener.address().port))?;
            let incoming = listener.next(SOON)?.context("nobody asks for a connection")?;
            check_eq!(incoming.info().device, Some(arrival(&list, ctx)?), "the device");
            let options = CmOptions::new().private_data(b"left");
            incoming.accept(&mut link.qp, &options, SOON)?
        }
        Side::Right => {
            let (gid, port): ([u8; 16], u16) = wire.recv()?;
            let to = CmAddr::new(Gid(gid), port);
            let connection = Connection::connect_on(list.context(), &mut link.qp, to, &CmOptions::new(), SOON)?;
            check_eq!(
                connection.id().query()?.private_data[..4],
                *b"left",
                "what the left says"
            );
            connection
        }
    };
    if side == Side::Left {
        link.qp.post_recv(&RecvWr::new(&[]))?;
        wire.barrier("posted")?;
        link.received_well()?;
    } else {
        wire.barrier("posted")?;
        link.qp.post_send(&SendWr::send().inline(b"").signaled())?;
        link.sent_well()?;
    }
    wire.barrier("sent")?;
    if side == Side::Left {
        connection.disconnect()?;
    }
    ensure!(connection.wait_disconnected(SOON)?, "no event of the end");
    check_eq!(link.qp.query()?.state, QpState::ERR, "the queue pair's state");
    wire.barrier("over")?;
    PASS
}

fn refuse(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    match side {
        Side::Left => {
            let list = DeviceList::beside(ctx.attachment())?;
            let listener = Listener::bind(list.context(), CmAddr::any(0), 1)?;
            wire.send(&(ctx.gid(1, 0)?.0, listener.address().port))?;
            let incoming = listener.next(SOON)?.context("nobody asks for a connection")?;
            incoming.reject(b"no")?;
            // A request that nobody has decided about ends with its listener.
            wire.barrier("refused")?;
            let waiting = listener.next(SOON)?.context("nobody asks again")?;
            drop(listener);
            drop(waiting);
        }
        Side::Right => {
            let (gid, port): ([u8; 16], u16) = wire.recv()?;
            let to = CmAddr::new(Gid(gid), port);
            let mut link = Link::new(ctx, &Spec::default())?;
            let first = Connection::connect(&mut link.qp, to, &CmOptions::new(), SOON).map(drop);
            refused(first, Errno::ECONNREFUSED, "what the left refuses")?;
            wire.barrier("refused")?;
            let mut link = Link::new(ctx, &Spec::default())?;
            let second = Connection::connect(&mut link.qp, to, &CmOptions::new(), SOON).map(drop);
            refused(second, Errno::ECONNREFUSED, "what ends with its listener")?;
        }
    }
    wire.barrier("over")?;
    PASS
}
