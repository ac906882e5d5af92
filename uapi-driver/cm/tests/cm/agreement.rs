// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Whatever the link does, both sides end in states that go together, after a bounded time.

use crate::sim::{World, LATENCY, MS, RESPONSE, RETRIES};
use proptest::prelude::*;
use rdma_cm::{timeout, Event, Id, RejectReason, State};

/// What the applications do.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The passive side's answer, and after how many milliseconds.
    accepts: bool,
    thinks: u64,
    /// Which sides disconnect, and how many milliseconds after they are connected.
    leaves: [Option<u64>; 2],
    /// Which sides' owners go away in the middle, and when.
    dies: [Option<u64>; 2],
}

fn plans() -> impl Strategy<Value = Plan> {
    let time = || prop::option::weighted(0.3, 0u64..3000);
    (any::<bool>(), 0u64..2000, [time(), time()], [time(), time()]).prop_map(|(accepts, thinks, leaves, dies)| Plan {
        accepts,
        thinks,
        leaves,
        dies,
    })
}

/// A link that loses, repeats and delays at random, but never more than `in_a_row` of one direction in succession.
fn unkind(world: &mut World, seed: u64, loss: u64, in_a_row: u32) {
    let mut random = seed | 1;
    let mut lost = [0; 2];
    world.fate = Box::new(move |from, _| {
        let mut roll = |sides: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % sides
        };
        if roll(100) < loss && lost[from] < in_a_row {
            lost[from] += 1;
            return vec![];
        }
        lost[from] = 0;
        let mut copies = vec![LATENCY + roll(200) * MS];
        if roll(4) == 0 {
            copies.push(LATENCY + roll(2000) * MS);
        }
        copies
    });
}

struct Outcome {
    states: [Option<State>; 2],
    /// Whether each side was ever connected, and whether it heard of an end.
    connected: [bool; 2],
    ended: [bool; 2],
}

/// Lives the plan to its end.
fn live(world: &mut World, plan: &Plan) -> Outcome {
    let listener = world.listen(1, 4);
    let active = world.connect(0, 1);
    let mut ids: [Option<Id>; 2] = [Some(active), None];
    let mut connected_at = [None; 2];
    let mut ended = [false; 2];
    let mut gone = [false; 2];
    let mut decide_at = None;
    // All retries of REQ, MRA, REP, DREQ and the time-waits, one after the other.
    let bound = (u64::from(RETRIES) + 2) * timeout(RESPONSE) * 4 + 2 * timeout(18) + 20_000 * MS;
    loop {
        for side in 0..2 {
            while let Some(event) = world.event(side) {
                match event {
                    Event::Requested { id, .. } => {
                        // A REQ that was late by more than the whole story is a request like any other.
                        if let Some(old) = ids[1].replace(id) {
                            let state = world.state(1, old);
                            assert!(matches!(state, None | Some(State::Closed)), "two of one REQ: {state:?}");
                            world.release(1, old);
                        }
                        connected_at[1] = None;
                        ended[1] = gone[1];
                        if gone[1] {
                            world.release(1, id);
                        } else {
                            decide_at = Some(world.now + plan.thinks * MS);
                        }
                    }
                    Event::Replied { id } => {
                        assert_eq!(ids[0], Some(id));
                        if world.at(0, |manager, _, out| manager.ready(id, out)).is_ok() {
                            connected_at[0] = Some(world.now);
                        }
                    }
                    Event::Established { .. } => {
                        assert!(connected_at[1].is_none(), "an event comes once");
                        connected_at[1] = Some(world.now);
                    }
                    Event::Rejected { .. } | Event::Unreachable { .. } | Event::Disconnected { .. } => {
                        assert!(!ended[side], "side {side} has ended twice: {event:?}");
                        ended[side] = true;
                    }
                    Event::TimewaitExit { .. } => assert!(ended[side]),
                }
            }
        }
        let now = world.now;
        let mut wakeups: Vec<u64> = world.next().into_iter().collect();
        if let Some(at) = decide_at {
            if now >= at {
                decide_at = None;
                let id = ids[1].unwrap();
                if world.state(1, id) == Some(State::ReqRcvd) {
                    if plan.accepts {
                        world.accept(1, id);
                    } else {
                        let reason = RejectReason::CONSUMER;
                        world.at(1, |manager, _, out| manager.reject(id, reason, b"", out).unwrap());
                        ended[1] = true;
                    }
                }
                continue;
            }
            wakeups.push(at);
        }
        for side in 0..2 {
            if let (Some(since), Some(after), Some(id)) = (connected_at[side], plan.leaves[side], ids[side]) {
                let at = since + after * MS;
                if now >= at && world.state(side, id) == Some(State::Established) && !gone[side] {
                    world.disconnect(side, id);
                    continue;
                }
                if now < at {
                    wakeups.push(at);
                }
            }
            if let (Some(at), Some(id)) = (plan.dies[side].map(|at| at * MS), ids[side]) {
                if now >= at && !gone[side] {
                    world.release(side, id);
                    gone[side] = true;
                    ended[side] = true;
                    continue;
                }
                if now < at {
                    wakeups.push(at);
                }
            }
        }
        wakeups.extend(world.next());
        let Some(next) = wakeups.into_iter().min() else { break };
        assert!(next < bound, "still busy after {} ms", next / MS);
        world.run_until(next);
    }
    let states = [0, 1].map(|side| ids[side].and_then(|id| world.state(side, id)));
    for (side, id) in ids.into_iter().enumerate() {
        if let Some(id) = id {
            world.release(side, id);
        }
    }
    world.release(1, listener);
    world.run_for(bound);
    for side in &world.sides {
        assert!(side.manager.is_empty(), "an id was left behind");
        assert_eq!(side.manager.next_deadline(), None);
    }
    Outcome {
        states,
        connected: connected_at.map(|at| at.is_some()),
        ended,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// With a link that lets something through now and then, both sides are connected or neither is.
    #[test]
    fn u18_both_sides_agree_whatever_is_lost_repeated_or_reordered(seed: u64, loss in 0u64..70, plan in plans()) {
        let mut world = World::new();
        unkind(&mut world, seed, loss, 2);
        let outcome = live(&mut world, &plan);
        let up = outcome.states.map(|state| state == Some(State::Established));
        prop_assert_eq!(up[0], up[1], "{:?}", outcome.states);
        for (state, ended) in outcome.states.into_iter().zip(outcome.ended) {
            match state {
                None | Some(State::Established) => {}
                Some(State::Closed) => prop_assert!(ended, "a side was never told: {:?}", outcome.states),
                Some(_) => prop_assert!(false, "a side is stuck: {:?}", outcome.states),
            }
        }
        // Who thinks for longer than a REQ is repeated may find that the peer has given up.
        let undisturbed = plan.accepts && plan.thinks < 500 && plan.dies == [None; 2] && plan.leaves == [None; 2];
        if undisturbed {
            prop_assert_eq!(up, [true, true]);
            prop_assert_eq!(outcome.connected, [true, true]);
        }
    }

    /// A link that loses anything: nobody waits for ever, and nobody is connected to a peer that knows of nothing.
    #[test]
    fn u18_every_story_ends_even_if_all_is_lost(seed: u64, loss in 70u64..101, plan in plans()) {
        let mut world = World::new();
        unkind(&mut world, seed, loss, u32::MAX);
        let outcome = live(&mut world, &plan);
        for state in outcome.states {
            prop_assert!(matches!(state, None | Some(State::Established | State::Closed)));
        }
        if outcome.connected[1] {
            prop_assert!(outcome.connected[0], "an RTU is sent by who is connected");
        }
    }
}
