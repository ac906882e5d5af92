// SPDX-License-Identifier: MIT OR Apache-2.0
//! Management datagrams (U8): clients of a management class ask, serve, wait, and are in each other's way.

use super::kit::{check_eq, refused, Outcome, PASS, QUIET};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::SOON;
use anyhow::{anyhow, ensure, Context as _, Result};
use rdma_uapi::class::{self, mad};
use rdma_uapi::wire::method;
use rdma_uapi::{Errno, Reason};
use std::time::{Duration, Instant};
use verbena::{path_to, CheckedAddress, Context, EventKind, Gid, Mad, MadClient, MadOptions, MadStatus, MadTo};

pub const CASES: &[Case] = &[
    Case::single("u08_a_mad_finds_who_serves_it_and_its_answer_who_asked", conversation),
    Case::single("u08_a_mad_that_nobody_answers_is_repeated_and_comes_back", unanswered),
    Case::single("u08_a_method_has_one_mad_client", one_client),
    Case::single("u08_mads_that_find_no_room_are_counted_and_answers_find_some", no_room),
    Case::single("u08_a_mad_for_memory_that_is_not_there_stays", no_memory),
    Case::single("u08_a_wrong_mad_is_refused", wrong),
    Case::single("u09_mads_are_events_that_count", events),
    Case::single("u13_a_mad_client_ends_with_its_context", ends),
    Case::pair("u08_mads_between_two_devices", two_devices),
    Case::pair("u08_mads_beside_the_connection_manager", beside_cm),
];

/// A class of applications' (IBA vol. 1, 13.4.4: 0x10 to 0x2f) that nobody else here uses.
const CLASS: u8 = 0x1e;
const VENDOR: u8 = 0x32;
const GET: u8 = 1;
const SET: u8 = 2;
const RESPONSE: u8 = 0x80;

/// A datagram with a transaction id, whose upper half is nobody's business.
fn datagram(class: u8, method: u8, tid: u32, text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(&[1, class, 1, method]);
    bytes[8..12].copy_from_slice(&[0xee; 4]);
    bytes[12..16].copy_from_slice(&tid.to_be_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// The answer to a request, which it repeats.
fn answer(request: &Mad) -> Vec<u8> {
    let mut bytes = request.datagram.to_vec();
    bytes[3] |= RESPONSE;
    bytes
}

fn serving(methods: &[u8]) -> MadOptions {
    MadOptions {
        methods: methods.to_vec(),
        ..MadOptions::default()
    }
}

fn server(ctx: &Context, methods: &[u8]) -> Result<MadClient> {
    Ok(MadClient::new(ctx, CLASS, &serving(methods))?)
}

fn asker(ctx: &Context) -> Result<MadClient> {
    server(ctx, &[])
}

fn next(client: &mut MadClient, what: &str) -> Result<Mad> {
    client.next(SOON)?.with_context(|| format!("no datagram: {what}"))
}

fn nothing(client: &mut MadClient, what: &str) -> Result<()> {
    let got = client.next(QUIET)?;
    ensure!(got.is_none(), "{what}: {got:?}");
    Ok(())
}

fn conversation(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gid = ctx.gid(1, 0)?;
    let (mut server, mut other) = (server(&ctx, &[GET, 100])?, server(&ctx, &[SET])?);
    let mut asker = asker(&ctx)?;
    let number = u64::from(asker.number());
    ensure!(
        number != 0 && asker.number() != server.number(),
        "clients' numbers: {asker:?} {server:?}"
    );
    let pd = ctx.alloc_pd()?;
    let checked = CheckedAddress::new(&pd, &path_to(gid, 0), 1)?;
    for (i, to) in [MadTo::gid(gid), MadTo::handle(&checked)].into_iter().enumerate() {
        let tid = 0x1234_5600 + i as u32;
        let sent = asker.ask(to, &datagram(CLASS, GET, tid, b"who is there?"), SOON, 0)?;
        check_eq!(sent, number << 32 | u64::from(tid), "the transaction id");
        let request = next(&mut server, "the request")?;
        check_eq!(request.status, MadStatus::Request, "what it is");
        check_eq!(
            (request.gid(), request.local_gid, request.qpn),
            (gid, gid, 1),
            "from where"
        );
        check_eq!(request.tid(), sent, "the request's transaction id");
        check_eq!(request.datagram[64..77], *b"who is there?", "what is asked");
        ensure!(request.datagram[77..].iter().all(|&b| b == 0), "it is not filled up");
        server.send(request.reply_to(), &answer(&request))?;
        let response = next(&mut asker, "the answer")?;
        check_eq!(response.status, MadStatus::Response, "what it is");
        check_eq!((response.tid(), response.gid()), (sent, gid), "which answer");
        check_eq!(response.datagram[3], GET | RESPONSE, "its method");
    }
    // A method of the upper half; a method that nobody serves; an answer that nobody has asked for.
    asker.send(MadTo::gid(gid), &datagram(CLASS, 100, 1, b""))?;
    check_eq!(next(&mut server, "method 100")?.datagram[3], 100, "its method");
    asker.send(MadTo::gid(gid), &datagram(CLASS, 3, 2, b""))?;
    let mut unasked = datagram(CLASS, GET | RESPONSE, 3, b"");
    unasked[8..12].copy_from_slice(&asker.number().to_be_bytes());
    server.send(MadTo::gid(gid), &unasked)?;
    for client in [&mut server, &mut other, &mut asker] {
        nothing(client, "what is for nobody arrived")?;
    }
    PASS
}

fn unanswered(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gid = ctx.gid(1, 0)?;
    let (mut server, mut asker) = (server(&ctx, &[GET])?, asker(&ctx)?);
    let time = Duration::from_millis(40);
    let begun = Instant::now();
    let sent = asker.ask(MadTo::gid(gid), &datagram(CLASS, GET, 7, b"again"), time, 2)?;
    let back = next(&mut asker, "the request")?;
    let took = begun.elapsed();
    check_eq!(back.status, MadStatus::TimedOut, "what it is");
    check_eq!((back.tid(), back.gid(), back.qpn), (sent, gid, 1), "which request");
    check_eq!(back.datagram[64..69], *b"again", "what was asked");
    ensure!(took >= 3 * time, "it came back after {took:?}");
    let mut copies = Vec::new();
    while let Some(request) = server.next(Duration::ZERO)? {
        copies.push(request);
    }
    check_eq!(copies.len(), 3, "how often it was sent");
    // Too late.
    server.send(copies[0].reply_to(), &answer(&copies[0]))?;
    nothing(&mut asker, "an answer that nobody waits for any more")?;
    // A retry that is answered is an answer, and the only one.
    asker.ask(MadTo::gid(gid), &datagram(CLASS, GET, 8, b""), time, 50)?;
    next(&mut server, "the first")?;
    let second = next(&mut server, "the second")?;
    server.send(second.reply_to(), &answer(&second))?;
    check_eq!(
        next(&mut asker, "the answer")?.status,
        MadStatus::Response,
        "what it is"
    );
    nothing(&mut asker, "one answer too many")?;
    PASS
}

fn one_client(fixture: &Fixture) -> Outcome {
    let (ctx, other) = (fixture.open()?, fixture.open()?);
    let first = server(&ctx, &[GET, SET])?;
    for ctx in [&ctx, &other] {
        let taken = MadClient::new(ctx, CLASS, &serving(&[SET, 9]));
        refused(taken, Errno::EBUSY, "a method that is served")?;
    }
    // Another method, another version, another class, none at all.
    let _method = server(&other, &[9])?;
    let version = MadOptions {
        class_version: Some(2),
        ..serving(&[GET])
    };
    let mut version = MadClient::new(&other, CLASS, &version)?;
    let _class = MadClient::new(&other, CLASS + 1, &serving(&[GET]))?;
    let asker = asker(&other)?;
    first.destroy()?;
    let mut second = server(&other, &[GET, SET])?;
    let gid = ctx.gid(1, 0)?;
    asker.send(MadTo::gid(gid), &datagram(CLASS, GET, 1, b""))?;
    next(&mut second, "whose the method is now")?;
    nothing(&mut version, "a datagram of another version")?;

    // Vendors have their methods each for themselves.
    let vendor = |oui, methods: &[u8]| MadOptions {
        oui,
        ..serving(methods)
    };
    let mut acme = MadClient::new(&ctx, VENDOR, &vendor(Some(0x00_1122), &[GET]))?;
    let mut coyote = MadClient::new(&ctx, VENDOR, &vendor(Some(0x00_3344), &[GET]))?;
    let taken = MadClient::new(&ctx, VENDOR, &vendor(Some(0x00_1122), &[GET]));
    refused(taken, Errno::EBUSY, "a vendor's method that is served")?;
    let mut bytes = datagram(VENDOR, GET, 5, b"");
    bytes[37..40].copy_from_slice(&[0, 0x33, 0x44]);
    coyote.send(MadTo::gid(gid), &bytes)?;
    next(&mut coyote, "the vendor's")?;
    nothing(&mut acme, "another vendor's datagram")?;

    // Whose they are, or whose nobody's.
    for methods in [&[][..], &[3]] {
        let cm = MadClient::new(&ctx, 7, &serving(methods));
        refused(cm, Errno::EBUSY, "the connection manager's class")?;
    }
    for class in [0, 1, 0x81, 0xff] {
        let subnet = MadClient::new(&ctx, class, &serving(&[]));
        refused(subnet, Errno::EINVAL, "a class that is not QP 1's")?;
    }
    for oui in [None, Some(0), Some(1 << 24)] {
        let nobody = MadClient::new(&ctx, VENDOR, &vendor(oui, &[]));
        refused(nobody, Errno::EINVAL, "a vendor that there is not")?;
    }
    refused(
        MadClient::new(&ctx, CLASS, &vendor(Some(1), &[])),
        Errno::EINVAL,
        "a vendor of no vendor's class",
    )?;
    for capacity in [0, mad::MAX_CAPACITY + 1] {
        let options = MadOptions {
            capacity: Some(capacity),
            ..serving(&[])
        };
        refused(MadClient::new(&ctx, CLASS, &options), Errno::EINVAL, "a capacity")?;
    }
    PASS
}

fn no_room(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gid = ctx.gid(1, 0)?;
    let small = |methods: &[u8], capacity| MadOptions {
        capacity: Some(capacity),
        ..serving(methods)
    };
    let mut server = MadClient::new(&ctx, CLASS, &small(&[GET, SET], 2))?;
    let mut asker = MadClient::new(&ctx, CLASS, &small(&[9], 3))?;
    let sentinel = self::server(&ctx, &[10])?;
    for tid in 0..5 {
        asker.send(MadTo::gid(gid), &datagram(CLASS, GET, tid, b""))?;
    }
    // They arrive in order, so what was sent last is behind them.
    asker.send(MadTo::gid(gid), &datagram(CLASS, 10, 9, b""))?;
    let mut sentinel = sentinel;
    next(&mut sentinel, "the last")?;
    let mut tids = Vec::new();
    while let Some(request) = server.next(Duration::ZERO)? {
        tids.push(request.tid() as u32);
    }
    check_eq!(
        (tids, server.lost()),
        (vec![0, 1], 3),
        "what had room, and what had not"
    );

    // Three answers are awaited: there is no room for a request, nor for a fourth.
    for tid in 0..3 {
        asker.ask(MadTo::gid(gid), &datagram(CLASS, 10, tid, b""), SOON, 0)?;
    }
    let fourth = asker.ask(MadTo::gid(gid), &datagram(CLASS, 10, 3, b""), SOON, 0);
    refused(fourth, Errno::ENOSPC, "one too many")?;
    server.send(MadTo::gid(gid), &datagram(CLASS, 9, 77, b""))?;
    for _ in 0..3 {
        let request = next(&mut sentinel, "a request")?;
        sentinel.send(request.reply_to(), &answer(&request))?;
    }
    for tid in 0..3 {
        let got = next(&mut asker, "an answer")?;
        check_eq!(
            (got.status, got.tid() as u32),
            (MadStatus::Response, tid),
            "the answers"
        );
    }
    nothing(&mut asker, "a request without room")?;
    check_eq!(asker.lost(), 1, "requests without room");
    PASS
}

fn no_memory(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut server = server(&ctx, &[GET])?;
    let mut sentinel = self::server(&ctx, &[SET])?;
    let asker = asker(&ctx)?;
    let to = MadTo::gid(ctx.gid(1, 0)?);
    for tid in 0..2 {
        asker.send(to, &datagram(CLASS, GET, tid, b""))?;
    }
    // They arrive in order, so what was sent last is behind them.
    asker.send(to, &datagram(CLASS, SET, 2, b""))?;
    next(&mut sentinel, "the last")?;
    let took = Message::new(class::MAD, server.id().0, |m| {
        m.by_pointer(mad::RECEIVED, 8, 4096);
    })
    .call(&ctx, mad::RECEIVE)
    .err()
    .map(|failure| (failure.errno, failure.reason));
    check_eq!(
        took,
        Some((Errno::EFAULT, Reason::BAD_POINTER)),
        "datagrams to the first page, which is nobody's"
    );
    for tid in 0..2 {
        let request = next(&mut server, "what could not be given")?;
        check_eq!(request.tid() as u32, tid, "the order");
    }
    check_eq!(server.lost(), 0, "lost datagrams");
    PASS
}

fn wrong(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gid = ctx.gid(1, 0)?;
    let asker = asker(&ctx)?;
    let to = MadTo::gid(gid);
    let good = datagram(CLASS, GET, 1, b"");
    let spoiled = |at: usize, value| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    for (bytes, what) in [
        (good[..23].to_vec(), "half a header"),
        (vec![1; 257], "more than a datagram holds"),
        (spoiled(0, 2), "another base version"),
        (spoiled(1, CLASS + 1), "another class"),
        (spoiled(1, 7), "the connection manager's class"),
        (spoiled(2, 2), "another class version"),
    ] {
        refused(asker.send(to, &bytes), Errno::EINVAL, what)?;
    }
    let response = datagram(CLASS, GET | RESPONSE, 1, b"");
    refused(asker.ask(to, &response, SOON, 0), Errno::EINVAL, "an answer's answer")?;
    refused(asker.ask(to, &good, SOON, 256), Errno::EINVAL, "too many retries")?;
    let long = Duration::from_secs(601);
    refused(asker.ask(to, &good, long, 0), Errno::EINVAL, "too long a time")?;
    refused(asker.send(MadTo::gid(Gid::default()), &good), Errno::EINVAL, "nowhere")?;
    let no_gid = path_to(gid, 200);
    refused(asker.send(MadTo::path(no_gid), &good), Errno::EINVAL, "from no GID")?;
    refused(asker.send(to.qp(1 << 24, 0), &good), Errno::EINVAL, "no queue pair")?;
    asker.ask(to, &good, SOON, 0)?;
    refused(
        asker.ask(to, &good, SOON, 0),
        Errno::EBUSY,
        "the same transaction twice",
    )?;

    // To nowhere, and to two places.
    let send = |fill: &dyn Fn(&mut rdma_uapi::client::Builder<'_>)| {
        Message::new(class::MAD, asker.id().0, |m| {
            fill(m);
            m.put_array(mad::DATAGRAM, &good);
        })
        .call(&ctx, mad::SEND)
        .err()
        .map(|failure| (failure.errno, failure.reason))
    };
    check_eq!(send(&|_| {}), Some((Errno::EINVAL, Reason::MISSING)), "no address");
    let pd = ctx.alloc_pd()?;
    let checked = CheckedAddress::new(&pd, &path_to(gid, 0), 1)?;
    let both = send(&|m| {
        m.put(mad::PATH, &path_to(gid, 0)).put(mad::AH, &checked.id());
    });
    check_eq!(both, Some((Errno::EINVAL, Reason::CONFLICT)), "two addresses");
    // Methods that answer are nobody's to serve.
    let served = Message::new(class::MAD, 0, |m| {
        let methods = mad::MadMethods { low: 1 << 7, high: 0 };
        m.put(mad::MGMT_CLASS, &CLASS.into()).put(mad::METHODS, &methods);
    });
    let served = served.call(&ctx, method::CREATE).err().map(|failure| failure.errno);
    check_eq!(served, Some(Errno::EINVAL), "TrapRepress served");
    PASS
}

fn events(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gid = ctx.gid(1, 0)?;
    let (server, asker) = (server(&ctx, &[GET])?, asker(&ctx)?);
    let mut last = self::server(&ctx, &[SET])?;
    for tid in 0..4 {
        asker.send(MadTo::gid(gid), &datagram(CLASS, GET, tid, b""))?;
    }
    asker.send(MadTo::gid(gid), &datagram(CLASS, SET, 4, b""))?;
    next(&mut last, "the last")?;
    let event = server.events().try_next()?.context("no event")?;
    check_eq!(
        (event.kind, event.class, event.object, event.count),
        (EventKind::Datagrams, class::MAD, server.id().0, 4),
        "the event"
    );
    check_eq!(server.events().try_next()?, None, "another event");
    PASS
}

fn ends(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gid = ctx.gid(1, 0)?;
    {
        // Closed with a request under way, and without DESTROY.
        let gone = fixture.open()?;
        let failed = |failure: rdma_uapi::Failure| anyhow!("a client that is nobody's object: {failure}");
        let client = Message::new(class::MAD, 0, |m| {
            let methods = mad::MadMethods { low: 1 << GET, high: 0 };
            m.put(mad::MGMT_CLASS, &CLASS.into()).put(mad::METHODS, &methods);
        });
        let client = client.call(&gone, method::CREATE).map_err(failed)?.object();
        let request = Message::new(class::MAD, client, |m| {
            m.put(mad::PATH, &path_to(gid, 0)).put(mad::TIMEOUT, &20);
            m.put(mad::RETRIES, &200);
            m.put_array(mad::DATAGRAM, &datagram(CLASS, SET, 1, b""));
        });
        request.call(&gone, mad::SEND).map_err(failed)?;
    }
    let mut client = server(&ctx, &[GET, SET])?;
    // Its retries ended with it, but for one that may have been on its way.
    while client.next(QUIET)?.is_some() {}
    nothing(&mut client, "the retry of a client that is gone")?;
    let asker = asker(&ctx)?;
    asker.send(MadTo::gid(gid), &datagram(CLASS, GET, 1, b""))?;
    next(&mut client, "its own")?;
    PASS
}

fn two_devices(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const REQUESTS: u32 = 100;
    let mine = ctx.gid(1, 0)?;
    let theirs = Gid(wire.exchange(&mine.0)?);
    match side {
        Side::Left => {
            let mut server = server(ctx, &[GET])?;
            wire.barrier("serving")?;
            for _ in 0..REQUESTS {
                let request = next(&mut server, "a request")?;
                check_eq!((request.gid(), request.local_gid), (theirs, mine), "from whom");
                server.send(request.reply_to(), &answer(&request))?;
            }
            wire.barrier("answered")?;
        }
        Side::Right => {
            let mut asker = asker(ctx)?;
            wire.barrier("serving")?;
            for tid in 0..REQUESTS {
                let text = tid.to_string();
                asker.ask(MadTo::gid(theirs), &datagram(CLASS, GET, tid, text.as_bytes()), SOON, 0)?;
                let response = next(&mut asker, "an answer")?;
                check_eq!(
                    (response.status, response.tid() as u32, response.gid()),
                    (MadStatus::Response, tid, theirs),
                    "the answer"
                );
                check_eq!(response.datagram[64..64 + text.len()], *text.as_bytes(), "its text");
            }
            wire.barrier("answered")?;
            // Nobody serves it any more.
            let time = Duration::from_millis(20);
            wire.barrier("ended")?;
            asker.ask(MadTo::gid(theirs), &datagram(CLASS, GET, 0, b""), time, 1)?;
            check_eq!(next(&mut asker, "nobody's")?.status, MadStatus::TimedOut, "what it is");
            return PASS;
        }
    }
    wire.barrier("ended")?;
    PASS
}

/// Both wait for a time on the same QP 1.
fn beside_cm(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    use crate::link::{Link, Spec};
    use verbena::{CmAddr, CmOptions, Connection, Listener};
    let mine = ctx.gid(1, 0)?;
    let theirs = Gid(wire.exchange(&mine.0)?);
    let mut asker = asker(ctx)?;
    let long = Duration::from_millis(400);
    asker.ask(MadTo::gid(theirs), &datagram(CLASS, SET, 1, b""), long, 0)?;
    let mut link = Link::new(ctx, &Spec::default())?;
    let connection = match side {
        Side::Left => {
            let listener = Listener::bind(ctx, CmAddr::any(0), 1)?;
            wire.send(&listener.address().port)?;
            let incoming = listener.next(SOON)?.context("nobody asks for a connection")?;
            incoming.accept(&mut link.qp, &CmOptions::new(), SOON)?
        }
        Side::Right => {
            let port: u16 = wire.recv()?;
            Connection::connect(&mut link.qp, CmAddr::new(theirs, port), &CmOptions::new(), SOON)?
        }
    };
    check_eq!(
        next(&mut asker, "the request")?.status,
        MadStatus::TimedOut,
        "beside a connection"
    );
    wire.barrier("connected")?;
    if side == Side::Left {
        connection.disconnect()?;
    }
    // Its time wait is longer than this one's time, which is asked for later.
    asker.ask(MadTo::gid(theirs), &datagram(CLASS, SET, 2, b""), long / 8, 1)?;
    check_eq!(
        next(&mut asker, "the request")?.status,
        MadStatus::TimedOut,
        "beside a disconnect"
    );
    ensure!(connection.wait_disconnected(SOON)?, "no event of the end");
    wire.barrier("over")?;
    PASS
}
