// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What is said, one story a test.

use crate::sim::{gid, World, LATENCY, MS, RESPONSE, RETRIES, SERVICE};
use rdma_cm::mad::{Attribute, Dreq, Rej, Rtu};
use rdma_cm::{timeout, Error, Event, RejectReason, Route, State};

/// Loses the first `n` datagrams of a kind.
fn lose(world: &mut World, attribute: Attribute, mut n: usize) {
    world.fate = Box::new(move |_, mad| {
        if mad.header.attribute.get() == attribute.0 && n > 0 {
            n -= 1;
            return vec![];
        }
        vec![LATENCY]
    });
}

#[test]
fn u18_a_connection_is_three_datagrams_and_its_end_two() {
    let mut world = World::new();
    let listener = world.listen(1, 4);
    let (active, passive) = world.connected(0, 1);
    assert_eq!(world.state(0, active), Some(State::Established));
    assert_eq!(world.state(1, passive), Some(State::Established));
    assert_eq!(world.sides[1].manager.private_data(passive).unwrap()[..4], *b"ahoy");
    assert_eq!(world.sides[0].manager.private_data(active).unwrap()[..7], *b"welcome");

    world.disconnect(0, active);
    world.run_for(MS);
    assert_eq!(world.event(0), Some(Event::Disconnected { id: active }));
    assert_eq!(world.event(1), Some(Event::Disconnected { id: passive }));
    assert_eq!(world.state(1, passive), Some(State::Timewait));
    world.run_for(timeout(14));
    assert_eq!(world.event(0), Some(Event::TimewaitExit { id: active }));
    assert_eq!(world.event(1), Some(Event::TimewaitExit { id: passive }));
    let kinds = [Attribute::REQ, Attribute::RTU, Attribute::DREQ];
    assert_eq!(kinds.map(|kind| world.count(0, kind)), [1, 1, 1]);
    assert_eq!(world.sent.len(), 5);
    assert_eq!(world.next(), None, "nothing is left to be done");

    for (side, id) in [(0, active), (1, passive), (1, listener)] {
        world.release(side, id);
        assert_eq!(world.state(side, id), None);
    }
    assert!(world.sides.iter().all(|side| side.manager.is_empty()));
}

#[test]
fn u18_each_side_sees_the_terms_from_its_own_end() {
    let mut world = World::new();
    world.listen(1, 4);
    let (active, passive) = world.connected(0, 1);
    let a = *world.sides[0].manager.terms(active).unwrap();
    let p = *world.sides[1].manager.terms(passive).unwrap();
    assert_eq!((a.local_qpn, a.remote_qpn), (p.remote_qpn, p.local_qpn));
    assert_eq!((a.local_psn, a.remote_psn), (p.remote_psn, p.local_psn));
    // The active side executes 8 and wants 4; the passive one would do 16 of either.
    assert_eq!((a.responder_resources, a.initiator_depth), (8, 4));
    assert_eq!((p.responder_resources, p.initiator_depth), (4, 8));
    assert_eq!((a.mtu, a.pkey, a.ack_timeout), (p.mtu, p.pkey, p.ack_timeout));
    assert_eq!((a.retry_count, p.retry_count), (7, 6));
    assert_eq!((a.rnr_retry_count, p.rnr_retry_count), (3, 5));
    assert_eq!(world.sides[1].manager.service(passive), Some(SERVICE));
    assert_eq!(world.sides[1].manager.route(passive).unwrap().remote, gid(1));
}

#[test]
fn u18_an_hca_connects_to_itself() {
    let mut world = World::of(1);
    world.listen(0, 4);
    let active = world.connect(0, 0);
    let passive = world.requested(0);
    world.accept(0, passive);
    world.ready(0, active);
    world.run_for(MS);
    assert_eq!(world.event(0), Some(Event::Established { id: passive }));
    world.disconnect(0, passive);
    world.run_for(MS);
    assert_eq!(world.event(0), Some(Event::Disconnected { id: active }));
    assert_eq!(world.event(0), Some(Event::Disconnected { id: passive }));
}

#[test]
fn u18_lost_datagrams_are_repeated_until_they_are_answered() {
    for lost in [Attribute::REQ, Attribute::REP, Attribute::RTU] {
        let mut world = World::new();
        world.listen(1, 4);
        lose(&mut world, lost, 3);
        let active = world.connect(0, 1);
        world.run_for(4 * timeout(RESPONSE));
        let Some(Event::Requested { id: passive, .. }) = world.event(1) else {
            panic!("no request after three lost {lost:?}")
        };
        world.accept(1, passive);
        world.run_for(4 * timeout(RESPONSE));
        assert_eq!(world.event(0), Some(Event::Replied { id: active }), "{lost:?}");
        world.at(0, |manager, _, out| manager.ready(active, out).unwrap());
        world.run_for(4 * timeout(RESPONSE));
        assert_eq!(world.event(1), Some(Event::Established { id: passive }), "{lost:?}");
        assert_eq!((world.event(0), world.event(1)), (None, None), "each event comes once");
        assert_eq!(world.next(), None);
    }
}

#[test]
fn u18_a_lost_rep_is_repeated_as_soon_as_the_req_comes_again() {
    let mut world = World::new();
    world.listen(1, 4);
    let active = world.connect(0, 1);
    let passive = world.requested(1);
    // Decided just before the REQ comes again; the REP's own repetition would be a whole timeout later.
    world.run_until(timeout(RESPONSE) - MS);
    lose(&mut world, Attribute::REP, 1);
    world.accept(1, passive);
    world.run_for(2 * MS);
    assert_eq!(world.event(0), Some(Event::Replied { id: active }));
}

#[test]
fn u18_nobody_answers_and_the_request_ends_when_its_retries_have() {
    let mut world = World::new();
    world.fate = Box::new(|_, _| vec![]);
    let active = world.connect(0, 1);
    let end = (u64::from(RETRIES) + 1) * timeout(RESPONSE);
    world.run_until(end - 1);
    assert_eq!(world.event(0), None);
    world.run_until(end);
    assert_eq!(world.event(0), Some(Event::Unreachable { id: active }));
    assert_eq!(world.count(0, Attribute::REQ), usize::from(RETRIES) + 1);
    assert_eq!(world.state(0, active), Some(State::Closed));
}

#[test]
fn u18_a_request_that_was_given_up_is_taken_back_from_who_thinks_about_it() {
    let mut world = World::new();
    let listener = world.listen(1, 1);
    let active = world.connect(0, 1);
    let passive = world.requested(1);
    world.release(0, active);
    world.run_for(MS);
    let reason = RejectReason::TIMEOUT;
    assert_eq!(world.event(1), Some(Event::Rejected { id: passive, reason }));
    // Its place in the backlog is free again.
    world.connect(0, 1);
    world.requested(1);
    assert_eq!(world.state(1, listener), Some(State::Listening));
}

#[test]
fn u18_an_application_that_thinks_gets_time_once() {
    let mut world = World::new();
    world.listen(1, 4);
    let active = world.connect(0, 1);
    let passive = world.requested(1);
    let first = timeout(RESPONSE);
    world.run_until(first + MS);
    assert_eq!(
        world.count(1, Attribute::MRA),
        1,
        "the second REQ is answered by an MRA"
    );
    // service_timeout is 18: 1.07 s without a further REQ.
    world.run_until(first + timeout(18));
    assert_eq!(world.count(0, Attribute::REQ), 2);
    world.run_until(first + timeout(18) + 3 * first);
    assert_eq!(world.count(0, Attribute::REQ), 4, "later MRAs extend nothing");
    world.accept(1, passive);
    world.ready(0, active);
    world.run_for(MS);
    assert_eq!(world.event(1), Some(Event::Established { id: passive }));
}

#[test]
fn u18_a_refusal_brings_its_reason_and_its_private_data() {
    let mut world = World::new();
    world.listen(1, 4);
    let active = world.connect(0, 1);
    let passive = world.requested(1);
    let reason = RejectReason::CONSUMER;
    world.at(1, |manager, _, out| {
        manager.reject(passive, reason, b"not today", out).unwrap()
    });
    world.run_for(MS);
    assert_eq!(world.event(0), Some(Event::Rejected { id: active, reason }));
    assert_eq!(world.sides[0].manager.private_data(active).unwrap()[..9], *b"not today");
    assert_eq!(world.state(1, passive), Some(State::Closed));
    assert_eq!(world.next(), None);
}

#[test]
fn u18_a_request_that_fits_no_listener_is_told_why() {
    let mut world = World::new();
    let refused = |world: &mut World| {
        let active = world.connect(0, 1);
        world.run_for(MS);
        match world.event(0) {
            Some(Event::Rejected { id, reason }) if id == active => reason,
            other => panic!("not refused, but {other:?}"),
        }
    };
    assert_eq!(refused(&mut world), RejectReason::INVALID_SERVICE_ID);

    let bound = world.at(1, |manager, _, _| {
        let id = manager.create().unwrap();
        manager.bind(id, SERVICE, Some(gid(9))).unwrap();
        id
    });
    assert_eq!(
        refused(&mut world),
        RejectReason::INVALID_SERVICE_ID,
        "it does not listen"
    );
    world.at(1, |manager, _, _| manager.listen(bound, 1).unwrap());
    assert_eq!(
        refused(&mut world),
        RejectReason::INVALID_SERVICE_ID,
        "at another address"
    );

    world.release(1, bound);
    world.listen(1, 1);
    let mut terms = world.terms(0);
    terms.mtu = 6;
    let request = world.request_of(0, 1, terms);
    world.at(0, |manager, now, out| {
        let id = manager.create().unwrap();
        manager.connect(now, id, &request, out).unwrap();
    });
    world.run_for(MS);
    let reason = RejectReason::INVALID_MTU;
    assert!(matches!(world.event(0), Some(Event::Rejected { reason: r, .. }) if r == reason));
}

#[test]
fn u18_the_backlog_bounds_the_requests_that_wait() {
    let mut world = World::new();
    world.listen(1, 2);
    let first = world.connect(0, 1);
    let waiting = world.requested(1);
    world.connect(0, 1);
    world.requested(1);
    let third = world.connect(0, 1);
    world.run_for(MS);
    let reason = RejectReason::NO_RESOURCES;
    assert_eq!(world.event(0), Some(Event::Rejected { id: third, reason }));
    world.accept(1, waiting);
    world.ready(0, first);
    world.run_for(MS);
    assert_eq!(world.event(1), Some(Event::Established { id: waiting }));
    world.connect(0, 1);
    world.requested(1);
}

#[test]
fn u18_a_service_id_belongs_to_one_unless_their_addresses_differ() {
    let mut world = World::new();
    world.at(0, |manager, _, _| {
        let mut bind = |gid| {
            let id = manager.create().unwrap();
            (id, manager.bind(id, SERVICE, gid))
        };
        let (one, result) = bind(Some(gid(1)));
        assert_eq!(result, Ok(()));
        assert_eq!(bind(Some(gid(2))).1, Ok(()));
        assert_eq!(bind(Some(gid(1))).1, Err(Error::AddressInUse));
        let (any, result) = bind(None);
        assert_eq!(result, Err(Error::AddressInUse));
        assert_eq!(manager.listen(any, 1), Err(Error::State(State::Idle)));
        assert_eq!(manager.bind(one, SERVICE + 1, None), Err(Error::State(State::Bound)));
    });
}

#[test]
fn u18_both_disconnect_at_once_and_each_hears_it_once() {
    let mut world = World::new();
    world.listen(1, 4);
    let (active, passive) = world.connected(0, 1);
    world.disconnect(0, active);
    world.disconnect(1, passive);
    world.run_for(MS);
    assert_eq!(world.event(0), Some(Event::Disconnected { id: active }));
    assert_eq!(world.event(1), Some(Event::Disconnected { id: passive }));
    world.run_for(timeout(14));
    assert_eq!(world.event(0), Some(Event::TimewaitExit { id: active }));
    assert_eq!(world.event(1), Some(Event::TimewaitExit { id: passive }));
    assert_eq!((world.event(0), world.event(1)), (None, None));
}

#[test]
fn u18_a_lost_drep_is_said_again_and_a_dead_peer_ends_the_connection_all_the_same() {
    let mut world = World::new();
    world.listen(1, 4);
    let (active, passive) = world.connected(0, 1);
    lose(&mut world, Attribute::DREP, 1);
    world.disconnect(0, active);
    world.run_for(timeout(RESPONSE) + MS);
    assert_eq!(world.count(0, Attribute::DREQ), 2);
    assert_eq!(world.event(0), Some(Event::Disconnected { id: active }));
    assert_eq!(world.event(1), Some(Event::Disconnected { id: passive }));

    world.run_for(timeout(14));
    let (active, _) = {
        world.sides[0].events.clear();
        world.sides[1].events.clear();
        world.connected(0, 1)
    };
    world.fate = Box::new(|_, _| vec![]);
    world.disconnect(0, active);
    world.run_for((u64::from(RETRIES) + 1) * timeout(RESPONSE));
    assert_eq!(world.event(0), Some(Event::Disconnected { id: active }));
}

#[test]
fn u18_a_reply_that_is_never_confirmed_ends_on_both_sides() {
    let mut world = World::new();
    world.listen(1, 4);
    lose(&mut world, Attribute::RTU, usize::MAX);
    let active = world.connect(0, 1);
    let passive = world.requested(1);
    world.accept(1, passive);
    world.ready(0, active);
    world.run_for((u64::from(RETRIES) + 2) * timeout(RESPONSE));
    assert_eq!(world.event(1), Some(Event::Unreachable { id: passive }));
    assert_eq!(world.event(0), Some(Event::Disconnected { id: active }));
    world.run_for(timeout(14));
    assert_eq!(world.event(1), Some(Event::TimewaitExit { id: passive }));
    assert_eq!(world.event(1), None);
}

#[test]
fn u18_data_that_overtakes_the_rtu_is_as_good_as_one() {
    let mut world = World::new();
    world.listen(1, 4);
    lose(&mut world, Attribute::RTU, usize::MAX);
    let active = world.connect(0, 1);
    let passive = world.requested(1);
    world.accept(1, passive);
    world.ready(0, active);
    world.at(1, |manager, _, out| manager.communication_established(passive, out));
    assert_eq!(world.event(1), Some(Event::Established { id: passive }));
    assert_eq!(world.next().map(|at| at > world.now + MS), None, "no REP is repeated");
}

#[test]
fn u18_a_peer_that_was_restarted_ends_the_connection_it_has_forgotten() {
    let mut world = World::new();
    world.listen(1, 4);
    let terms = world.terms(0);
    let request = world.request_of(0, 1, terms);
    let (_, passive) = world.connected(0, 1);
    let old = *world.sides[1].manager.terms(passive).unwrap();
    // The HCA of side 0 starts anew, with the same GID, and hands out the same queue pair number.
    world.sides[0].manager = World::of(1).sides.remove(0).manager;
    let again = |world: &mut World| {
        let mut request = request;
        request.terms.local_qpn = old.remote_qpn;
        world.at(0, |manager, now, out| {
            // Not the id that the old connection had.
            let skip = manager.create().unwrap();
            let id = manager.create().unwrap();
            manager.release(now, skip, out);
            manager.connect(now, id, &request, out).unwrap();
            id
        })
    };
    let id = again(&mut world);
    world.run_for(MS);
    let reason = RejectReason::STALE_CONNECTION;
    assert_eq!(world.event(0), Some(Event::Rejected { id, reason }));
    assert_eq!(world.event(1), Some(Event::Disconnected { id: passive }));
    world.run_for(timeout(14));
    assert_eq!(world.event(1), Some(Event::TimewaitExit { id: passive }));
    again(&mut world);
    world.requested(1);
}

#[test]
fn u18_an_owner_that_goes_tells_the_peer_whatever_the_state() {
    for state in [State::ReqSent, State::ReqRcvd, State::RepSent, State::Established] {
        let mut world = World::new();
        let listener = world.listen(1, 4);
        let active = world.connect(0, 1);
        let passive = world.requested(1);
        let (left, expected) = match state {
            State::ReqSent => {
                world.release(0, active);
                ((1, passive), true)
            }
            State::ReqRcvd => {
                world.release(1, passive);
                ((0, active), true)
            }
            State::RepSent => {
                world.accept(1, passive);
                world.release(1, passive);
                ((0, active), true)
            }
            _ => {
                world.accept(1, passive);
                world.ready(0, active);
                world.run_for(MS);
                world.event(1);
                world.release(0, active);
                ((1, passive), false)
            }
        };
        world.run_for(MS);
        let (side, id) = left;
        let mut heard = world.event(side);
        if heard == Some(Event::Replied { id }) {
            // The REP came before the news of the end.
            heard = world.event(side);
        }
        match heard {
            Some(Event::Rejected { id: who, .. }) if expected => assert_eq!(who, id, "{state:?}"),
            Some(Event::Disconnected { id: who }) => assert_eq!(who, id, "{state:?}"),
            other => panic!("{state:?}: {other:?}"),
        }
        world.run_for(2 * timeout(14));
        world.release(side, id);
        world.release(1, listener);
        assert!(world.sides.iter().all(|side| side.manager.is_empty()), "{state:?}");
    }
}

#[test]
fn u18_an_id_of_the_past_means_nothing() {
    let mut world = World::new();
    let id = world.at(0, |manager, now, out| {
        let id = manager.create().unwrap();
        manager.release(now, id, out);
        id
    });
    let next = world.at(0, |manager, _, _| manager.create().unwrap());
    assert_ne!(id, next);
    assert_eq!(world.state(0, id), None);
    world.at(0, |manager, now, out| {
        assert_eq!(manager.bind(id, SERVICE, None), Err(Error::NoSuchId));
        assert_eq!(manager.disconnect(now, id, out), Err(Error::NoSuchId));
        assert_eq!(manager.disconnect(now, next, out), Err(Error::State(State::Idle)));
    });
}

#[test]
fn u18_ids_are_bounded() {
    let mut world = World::new();
    let listener = world.listen(1, u32::MAX);
    for _ in 0..999 {
        world.at(1, |manager, _, _| manager.create().unwrap());
    }
    assert_eq!(world.at(1, |manager, _, _| manager.create()), Err(Error::TooMany));
    let active = world.connect(0, 1);
    world.run_for(MS);
    let reason = RejectReason::NO_RESOURCES;
    assert_eq!(world.event(0), Some(Event::Rejected { id: active, reason }));
    assert_eq!(world.state(1, listener), Some(State::Listening));
}

#[test]
fn u18_nobody_but_the_peer_ends_a_connection() {
    let mut world = World::of(3);
    world.listen(1, 4);
    let (active, passive) = world.connected(0, 1);
    let seen = world.sides[1].manager.terms(passive).unwrap().local_qpn;
    let route = *world.sides[0].manager.route(active).unwrap();
    // The secrets are the simulation's, so side 2 can name every id there may be.
    let wire = |side: u32, id: u32| id ^ 0x9abc_def0 ^ side << 3;
    for b in 0..64u32 {
        let (a, b) = (wire(0, active.0), wire(1, b));
        let forged = Route {
            local: gid(3),
            remote: route.remote,
        };
        let mut dreq = Dreq::new(1, a);
        dreq.remote_comm_id = b.into();
        dreq.remote_qpn = rdma_cm::mad::U24::new(seen);
        let mut rej = Rej::new(1, a);
        rej.remote_comm_id = b.into();
        rej.reason = RejectReason::TIMEOUT.0.into();
        let mut rtu = Rtu::new(1, a);
        rtu.remote_comm_id = b.into();
        for mad in [dreq.mad(), rej.mad(), rtu.mad()] {
            world.put(2, forged, mad);
        }
    }
    world.run_for(MS);
    assert_eq!(world.event(1), None);
    assert_eq!(world.state(1, passive), Some(State::Established));
    // The same from the peer itself does end it.
    world.disconnect(0, active);
    world.run_for(MS);
    assert_eq!(world.event(1), Some(Event::Disconnected { id: passive }));
}

#[test]
fn u18_a_request_for_another_address_than_the_senders_is_refused() {
    let mut world = World::new();
    world.listen(1, 4);
    let terms = world.terms(0);
    let request = world.request_of(0, 1, terms);
    let id = world.at(0, |manager, now, out| {
        let id = manager.create().unwrap();
        struct Lie<'a>(&'a mut dyn rdma_cm::Output);
        impl rdma_cm::Output for Lie<'_> {
            fn send(&mut self, route: &Route, mad: &rdma_cm::Mad) {
                let mut req = *rdma_cm::mad::Req::of(mad);
                req.primary.local_gid = gid(77);
                self.0.send(route, &req.mad());
            }
            fn event(&mut self, event: Event) {
                self.0.event(event);
            }
        }
        manager.connect(now, id, &request, &mut Lie(out)).unwrap();
        id
    });
    world.run_for(MS);
    let reason = RejectReason::INVALID_GID;
    assert_eq!(world.event(0), Some(Event::Rejected { id, reason }));
    assert_eq!(world.event(1), None);
}
