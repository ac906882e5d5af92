// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Datagrams from somebody who means no good: no panic, no id beyond the limit, and time goes on.

use crate::sim::{gid, World, MS};
use proptest::prelude::*;
use rdma_cm::mad::{Attribute, Header, BASE_VERSION, CLASS, CLASS_VERSION, METHOD_SEND};
use rdma_cm::{Event, Id, Mad, Output, Route, State};
use zerocopy::{FromBytes, IntoBytes};

struct Record(Vec<Mad>, Vec<Id>);

impl Output for Record {
    fn send(&mut self, _: &Route, mad: &Mad) {
        self.0.push(*mad);
    }

    fn event(&mut self, event: Event) {
        if let Event::Requested { id, .. } = event {
            self.1.push(id);
        }
    }
}

/// Bytes that are at least addressed to the CM.
fn datagrams() -> impl Strategy<Value = Mad> {
    (prop::collection::vec(any::<u8>(), 256), 0x0fu16..0x1c, any::<bool>()).prop_map(|(bytes, attribute, whole)| {
        let mut mad = Mad::read_from_bytes(&bytes).unwrap();
        if whole {
            mad.header = Header {
                base_version: BASE_VERSION,
                class: CLASS,
                class_version: CLASS_VERSION,
                method: METHOD_SEND,
                attribute: attribute.into(),
                ..mad.header
            };
        }
        mad
    })
}

/// A change to one byte of an honest datagram, and what the second byte of the change becomes.
type Flip = (usize, usize, u8);

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn u18_any_bytes_are_taken_without_a_panic(mads in prop::collection::vec(datagrams(), 1..40), steps in 0u64..500) {
        let mut world = World::new();
        world.listen(1, 4);
        let (_, passive) = world.connected(0, 1);
        for mad in &mads {
            for from in [1, 2, 9] {
                let route = Route { local: gid(2), remote: gid(from) };
                world.at(1, |manager, now, out| manager.receive(now, &route, mad, out));
            }
            world.run_for(steps * MS);
        }
        prop_assert!(world.sides[1].manager.len() <= 1000);
        // Random numbers name no connection, so the honest one is untouched.
        prop_assert_eq!(world.state(1, passive), Some(State::Established));
    }

    /// The peer itself sends its own datagrams, changed in a few places, in any order and as often as it likes.
    #[test]
    fn u18_a_peer_that_twists_its_own_words_harms_only_itself(
        flips in prop::collection::vec((any::<usize>(), 24usize..256, any::<u8>()), 1..60),
        decide in any::<u8>(),
    ) {
        let mut world = World::of(3);
        world.listen(1, 4);
        let mut said: Vec<Mad> = Vec::new();
        let seen = Route { local: gid(2), remote: gid(1) };
        // What an honest peer says, as the material.
        let terms = world.terms(0);
        let request = world.request_of(0, 1, terms);
        let mut record = Record(Vec::new(), Vec::new());
        let id = world.sides[0].manager.create().unwrap();
        world.sides[0].manager.connect(0, id, &request, &mut record).unwrap();
        said.append(&mut record.0);
        for attribute in [Attribute::MRA, Attribute::REJ, Attribute::REP, Attribute::RTU, Attribute::DREQ, Attribute::DREP] {
            let mut mad = said[0];
            mad.header.attribute = attribute.0.into();
            said.push(mad);
        }
        let mut waiting = Vec::new();
        for &(which, place, byte) in &flips as &[Flip] {
            let mut mad = said[which % said.len()];
            mad.as_mut_bytes()[place] = byte;
            // What our side answered names the ids that a next attempt can use.
            let mut record = Record(Vec::new(), Vec::new());
            let now = world.now;
            world.sides[1].manager.receive(now, &seen, &mad, &mut record);
            for answer in record.0 {
                let mut twisted = mad;
                let ours = answer.as_bytes()[24..28].to_owned();
                twisted.as_mut_bytes()[28..32].copy_from_slice(&ours);
                said.push(twisted);
            }
            waiting.append(&mut record.1);
            if let (Some(&id), true) = (waiting.last(), byte & 1 == decide & 1) {
                if world.state(1, id) == Some(State::ReqRcvd) {
                    world.accept(1, id);
                }
            }
            world.run_for(u64::from(byte) * MS);
        }
        // Somebody else is served all the same, unless the twister holds the whole backlog.
        for id in waiting {
            world.release(1, id);
        }
        // All retries of a DREQ, and the time-wait, at their longest.
        world.run_for(18 * rdma_cm::timeout(rdma_cm::MAX_WAIT));
        world.sides[0].events.clear();
        world.sides[1].events.clear();
        world.connect(2, 1);
        world.requested(1);
    }
}
