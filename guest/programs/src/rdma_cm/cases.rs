// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said. Each case leaves both sides as it found them.

use super::carrier::Way;
use super::theirs::{kind, Offer};
use super::world::{said, World, OFFER};
use super::Case;
use anyhow::{bail, ensure, Result};
use rdma_cm::mad::Attribute;
use rdma_cm::{ip, Event, Id, RejectReason, State};
use std::time::Duration;

/// All of them.
pub const CASES: &[Case] = &[
    Case {
        name: "accepts-our-request",
        run: accepts_our_request,
    },
    Case {
        name: "asks-our-listener",
        run: asks_our_listener,
    },
    Case {
        name: "either-disconnects",
        run: either_disconnects,
    },
    Case {
        name: "either-refuses",
        run: either_refuses,
    },
    Case {
        name: "nobody-listens",
        run: nobody_listens,
    },
    Case {
        name: "what-is-lost-is-repeated",
        run: what_is_lost_is_repeated,
    },
    Case {
        name: "who-takes-time-asks-for-patience",
        run: who_takes_time_asks_for_patience,
    },
    Case {
        name: "silence-is-unreachable",
        run: silence_is_unreachable,
    },
    Case {
        name: "a-process-that-ends-disconnects",
        run: a_process_that_ends_disconnects,
    },
];

macro_rules! check_eq {
    ($got:expr, $expected:expr, $($what:tt)+) => {{
        let (got, expected) = (&$got, &$expected);
        ensure!(*got == *expected, "{}: {:?} instead of {:?}", format_args!($($what)+), got, expected);
    }};
}

/// Ends a connection from our side, to the end of its story.
fn part(world: &mut World, ours: Id, theirs: u32) -> Result<()> {
    world.ours.disconnect(ours).map_err(said)?;
    world.their(kind::DISCONNECTED)?;
    // The DREP is the application's to send.
    world.theirs.disconnect(theirs)?;
    world.expect(Event::Disconnected { id: ours })?;
    over(world, ours, theirs)
}

/// What follows the end of a connection.
fn over(world: &mut World, ours: Id, theirs: u32) -> Result<()> {
    world.expect(Event::TimewaitExit { id: ours })?;
    world.ours.release(ours);
    world.theirs.destroy(theirs)?;
    check_eq!(world.ours.manager().state(ours), None, "the id that was released");
    world.quiet()
}

fn accepts_our_request(world: &mut World) -> Result<()> {
    let (listener, port) = world.they_listen()?;
    let said_by_us: Vec<u8> = (1..=56).collect();
    let id = world.we_ask(port, &said_by_us, false)?;
    let request = world.their(kind::CONNECT_REQUEST)?;
    check_eq!(
        request.data,
        said_by_us,
        "our private data, without the header of addresses"
    );
    let own = world.ours.manager().terms(id).map_or(0, |terms| terms.local_qpn);
    check_eq!(request.qpn, own, "our queue pair");
    // Seen from there: what we want outstanding they execute, and the other way round.
    check_eq!(
        (request.responder_resources, request.initiator_depth),
        (5, 3),
        "READs and atomics"
    );
    check_eq!(request.rnr_retry_count, 5, "RNR retries that we ask for");

    let said_by_them: Vec<u8> = (1..=196).rev().collect();
    let offer = Offer {
        data: &said_by_them,
        ..OFFER
    };
    world.theirs.accept(request.id, &offer)?;
    world.expect(Event::Replied { id })?;
    let manager = world.ours.manager();
    check_eq!(manager.private_data(id), Some(&said_by_them[..]), "their private data");
    let Some(terms) = manager.terms(id) else {
        bail!("the id is gone");
    };
    check_eq!(terms.remote_qpn, OFFER.qpn, "their queue pair");
    check_eq!(
        terms.rnr_retry_count,
        OFFER.rnr_retry_count,
        "RNR retries that they ask for"
    );
    check_eq!(
        (terms.responder_resources, terms.initiator_depth),
        (2, 4),
        "READs and atomics: the least of both"
    );
    world.ours.ready(id).map_err(said)?;
    check_eq!(
        world.their(kind::ESTABLISHED)?.id,
        request.id,
        "whom it is established for"
    );
    check_eq!(world.ours.manager().state(id), Some(State::Established), "our state");
    world.quiet()?;
    part(world, id, request.id)?;
    world.theirs.destroy(listener)?;
    world.counts_agree()
}

fn asks_our_listener(world: &mut World) -> Result<()> {
    let (listener, port) = world.we_listen()?;
    let said_by_them: Vec<u8> = (1..=56).rev().collect();
    let offer = Offer {
        data: &said_by_them,
        ..OFFER
    };
    let asking = world.they_ask(port, &offer)?;
    let Event::Requested { listener: at, id } = world.event("a request")? else {
        bail!("something else than a request");
    };
    check_eq!(at, listener, "who was asked");
    let manager = world.ours.manager();
    let Some((header, data)) = manager.private_data(id).and_then(ip::Header::split) else {
        bail!("the REQ has no header of the RDMA IP CM service");
    };
    check_eq!(data, &said_by_them[..], "their private data");
    check_eq!(
        (header.source(), header.destination()),
        (world.their_gid(), world.our_gid()),
        "the addresses in the header"
    );
    ensure!(header.port.get() != 0, "the header has no port");
    check_eq!(manager.service(id), Some(ip::service(port)), "the service id");
    let Some(&terms) = manager.terms(id) else {
        bail!("the id is gone");
    };
    check_eq!(terms.remote_qpn, OFFER.qpn, "their queue pair");
    check_eq!(
        (terms.responder_resources, terms.initiator_depth),
        (2, 4),
        "READs and atomics"
    );
    check_eq!((terms.retry_count, terms.rnr_retry_count), (5, 6), "retries");
    ensure!((1..=5).contains(&terms.mtu), "the path MTU's code is {}", terms.mtu);
    check_eq!(terms.pkey & 0x7fff, 0x7fff, "the partition");

    let said_by_us: Vec<u8> = (1..=196).collect();
    world.we_accept(id, &said_by_us)?;
    let response = world.their(kind::CONNECT_RESPONSE)?;
    check_eq!(response.data, said_by_us, "our private data");
    let own = world.ours.manager().terms(id).map_or(0, |terms| terms.local_qpn);
    check_eq!(response.qpn, own, "our queue pair");
    check_eq!(response.rnr_retry_count, 4, "RNR retries that we ask for");
    world.theirs.ready(asking)?;
    world.expect(Event::Established { id })?;
    world.quiet()?;
    part(world, id, asking)?;
    world.ours.release(listener);
    world.counts_agree()
}

fn either_disconnects(world: &mut World) -> Result<()> {
    let (id, theirs) = world.connected()?;
    world.theirs.disconnect(theirs)?;
    world.expect(Event::Disconnected { id })?;
    world.their(kind::DISCONNECTED)?;
    over(world, id, theirs)?;

    // Both at once: the DREQs cross.
    let (id, theirs) = world.connected()?;
    world.theirs.disconnect(theirs)?;
    world.ours.disconnect(id).map_err(said)?;
    world.expect(Event::Disconnected { id })?;
    world.their(kind::DISCONNECTED)?;
    over(world, id, theirs)?;

    // Whoever destroys its id disconnects.
    let (id, theirs) = world.connected()?;
    world.theirs.destroy(theirs)?;
    world.expect(Event::Disconnected { id })?;
    world.expect(Event::TimewaitExit { id })?;
    world.ours.release(id);
    let (id, theirs) = world.connected()?;
    world.ours.release(id);
    world.their(kind::DISCONNECTED)?;
    world.theirs.disconnect(theirs)?;
    world.wait("the end of an id that nobody has", |world| {
        world.ours.manager().state(id).is_none()
    })?;
    world.theirs.destroy(theirs)?;
    world.quiet()?;
    world.counts_agree()
}

fn either_refuses(world: &mut World) -> Result<()> {
    let why: Vec<u8> = (1..=148).collect();
    let (listener, port) = world.they_listen()?;
    let id = world.we_ask(port, b"please", false)?;
    let request = world.their(kind::CONNECT_REQUEST)?;
    world.theirs.reject(request.id, &why)?;
    world.expect(Event::Rejected {
        id,
        reason: RejectReason::CONSUMER,
    })?;
    check_eq!(world.ours.manager().private_data(id), Some(&why[..]), "why they refuse");
    world.theirs.destroy(request.id)?;
    world.theirs.destroy(listener)?;
    world.ours.release(id);

    let (listener, port) = world.we_listen()?;
    for reason in [RejectReason::CONSUMER, RejectReason::NO_RESOURCES] {
        let asking = world.they_ask(port, &OFFER)?;
        let Event::Requested { id, .. } = world.event("a request")? else {
            bail!("something else than a request");
        };
        world.ours.reject(id, reason, &why).map_err(said)?;
        let rejected = world.their(kind::REJECTED)?;
        check_eq!(rejected.status, i32::from(reason.0), "the reason");
        check_eq!(rejected.data, why, "why we refuse");
        world.ours.release(id);
        world.theirs.destroy(asking)?;
    }

    // Who has agreed is refused by the other, which cannot use the queue pair it was told of.
    let asking = world.they_ask(port, &OFFER)?;
    let Event::Requested { id, .. } = world.event("a request")? else {
        bail!("something else than a request");
    };
    world.we_accept(id, b"")?;
    world.their(kind::CONNECT_RESPONSE)?;
    world.theirs.reject(asking, &why)?;
    world.expect(Event::Rejected {
        id,
        reason: RejectReason::CONSUMER,
    })?;
    check_eq!(world.ours.manager().private_data(id), Some(&why[..]), "why they refuse");
    world.ours.release(id);
    world.theirs.destroy(asking)?;
    world.ours.release(listener);
    world.quiet()?;
    world.counts_agree()
}

fn nobody_listens(world: &mut World) -> Result<()> {
    let port = world.port();
    let id = world.we_ask(port, b"", false)?;
    world.expect(Event::Rejected {
        id,
        reason: RejectReason::INVALID_SERVICE_ID,
    })?;
    world.ours.release(id);
    let port = world.port();
    let asking = world.they_ask(port, &OFFER)?;
    let rejected = world.their(kind::REJECTED)?;
    check_eq!(
        rejected.status,
        i32::from(RejectReason::INVALID_SERVICE_ID.0),
        "the reason"
    );
    world.theirs.destroy(asking)?;
    world.quiet()?;
    world.counts_agree()
}

/// One datagram of every kind is lost, in either direction, and a connection comes about and ends all the same.
fn what_is_lost_is_repeated(world: &mut World) -> Result<()> {
    let lose = |world: &mut World, way, attribute| world.ours.carrier.lose(way, attribute, 1);
    for (way, attribute) in [
        (Way::Out, Attribute::REQ),
        (Way::In, Attribute::REP),
        (Way::Out, Attribute::RTU),
        (Way::Out, Attribute::DREQ),
        (Way::In, Attribute::DREP),
    ] {
        lose(world, way, attribute);
        let (id, theirs) = world.connected()?;
        part(world, id, theirs)?;
        ensure!(
            world.ours.carrier.count(way, attribute) > 1,
            "the kind {:#x} was not repeated",
            attribute.0
        );
    }
    // It repeats after 4.3 s, so not one after the other.
    let (listener, port) = world.we_listen()?;
    for attribute in [Attribute::REQ, Attribute::RTU] {
        lose(world, Way::In, attribute);
    }
    for attribute in [Attribute::REP, Attribute::DREP] {
        lose(world, Way::Out, attribute);
    }
    let asking = world.they_ask(port, &OFFER)?;
    let Event::Requested { id, .. } = world.event("a request")? else {
        bail!("something else than a request");
    };
    world.we_accept(id, b"")?;
    world.their(kind::CONNECT_RESPONSE)?;
    world.theirs.ready(asking)?;
    world.expect(Event::Established { id })?;
    world.theirs.disconnect(asking)?;
    world.expect(Event::Disconnected { id })?;
    world.their(kind::DISCONNECTED)?;
    over(world, id, asking)?;
    world.ours.release(listener);
    world.counts_agree()
}

fn who_takes_time_asks_for_patience(world: &mut World) -> Result<()> {
    // Theirs, until our REQs would have been all; then its listener goes.
    let (listener, port) = world.they_listen()?;
    let id = world.we_ask(port, b"", true)?;
    let request = world.their(kind::CONNECT_REQUEST)?;
    world.pass(Duration::from_millis(500))?;
    ensure!(
        world.ours.carrier.count(Way::In, Attribute::MRA) > 0,
        "rdma_cm asks for no patience"
    );
    check_eq!(world.ours.manager().state(id), Some(State::ReqSent), "we are patient");
    world.theirs.destroy(listener)?;
    world.theirs.destroy(request.id)?;
    let Event::Rejected { id: of, .. } = world.event("a refusal")? else {
        bail!("something else than a refusal");
    };
    check_eq!(of, id, "who was refused");
    world.ours.release(id);

    // Ours, beyond the repetition after 4.3 s.
    let (listener, port) = world.we_listen()?;
    let asking = world.they_ask(port, &OFFER)?;
    let Event::Requested { id, .. } = world.event("a request")? else {
        bail!("something else than a request");
    };
    world.wait("a second REQ", |world| {
        world.ours.carrier.count(Way::Out, Attribute::MRA) > 0
    })?;
    world.pass(Duration::from_secs(5))?;
    check_eq!(
        world.ours.carrier.count(Way::Out, Attribute::MRA),
        1,
        "our MRAs: once asked, they are patient"
    );
    world.we_accept(id, b"at last")?;
    let response = world.their(kind::CONNECT_RESPONSE)?;
    check_eq!(response.data[..7], *b"at last", "our private data");
    world.theirs.ready(asking)?;
    world.expect(Event::Established { id })?;
    part(world, id, asking)?;
    world.ours.release(listener);
    world.counts_agree()
}

fn silence_is_unreachable(world: &mut World) -> Result<()> {
    const ALWAYS: usize = usize::MAX;
    // Nothing arrives.
    let (listener, port) = world.they_listen()?;
    world.ours.carrier.lose(Way::Out, Attribute::REQ, ALWAYS);
    let id = world.we_ask(port, b"", true)?;
    world.expect(Event::Unreachable { id })?;
    check_eq!(world.ours.carrier.count(Way::Out, Attribute::REQ), 2, "REQs");
    world.ours.release(id);
    world.ours.carrier.lose_nothing();

    // Nothing comes back, and we give up; they hear it. Our REJ cannot name their id, which we never learnt: they find it by
    // our HCA's GUID (IBA vol. 1, 12.6.7.2).
    for attribute in [Attribute::REP, Attribute::MRA] {
        world.ours.carrier.lose(Way::In, attribute, ALWAYS);
    }
    let id = world.we_ask(port, b"", false)?;
    let request = world.their(kind::CONNECT_REQUEST)?;
    world.theirs.accept(request.id, &OFFER)?;
    world.wait("a REP that is lost", |world| {
        world.ours.carrier.count(Way::In, Attribute::REP) > 0
    })?;
    world.ours.release(id);
    let rejected = world.their(kind::REJECTED)?;
    check_eq!(
        (rejected.id, rejected.status),
        (request.id, i32::from(RejectReason::TIMEOUT.0)),
        "what they hear: our time is up"
    );
    world.theirs.destroy(request.id)?;
    world.theirs.destroy(listener)?;
    world.ours.carrier.lose_nothing();
    world.quiet()?;
    world.counts_agree()
}

/// What a process leaves behind when it is killed is ended by its kernel.
fn a_process_that_ends_disconnects(world: &mut World) -> Result<()> {
    let (id, _) = world.connected()?;
    let (listener, port) = world.they_listen()?;
    let waits = world.we_ask(port, b"", false)?;
    let request = world.their(kind::CONNECT_REQUEST)?;
    ensure!(request.id != listener, "the new id is the listener's");
    world.theirs = super::theirs::Theirs::open()?;
    let mut heard = [world.event("the end of one")?, world.event("the end of the other")?];
    heard.sort_by_key(|event| matches!(event, Event::Disconnected { .. }));
    let Event::Rejected { id: refused, .. } = heard[0] else {
        bail!("we hear {heard:?}");
    };
    check_eq!(refused, waits, "who was refused");
    check_eq!(heard[1], Event::Disconnected { id }, "the end of the connection");
    world.expect(Event::TimewaitExit { id })?;
    world.ours.release(id);
    world.ours.release(waits);
    world.quiet()?;
    world.counts_agree()
}
