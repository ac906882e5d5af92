// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The second driver (U12): an abacus. It has no queue pairs, no memory regions, no ports. It has one class of its own,
//! TALLY, a counter that can be added to and that reports when it passes a limit; and it overrides one common class,
//! PD, because an abacus has only four frames.

use super::Bench;
use core::convert::Infallible;
use rdma_uapi::class::{self, event_queue::kind, COOKIE, EVENT_QUEUE_OF};
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use rdma_uapi::table::{Additions, ClassOps, Extension, Removal};
use rdma_uapi::wire::{driver_attr, driver_class, method, DriverId, ObjectId};
use rdma_uapi::{payload, Call, Device, Driver, Ending, Errno, Failure, Reason};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;

pub const ID: DriverId = DriverId(2);
pub const TALLY: u16 = driver_class(ID, 0);

/// Frames that an abacus has.
pub const FRAMES: u32 = 4;

payload! {
    /// How a tally looks: beads on each of the four wires.
    pub struct Beads (16) {
        /// Wires.
        wires: [u8; 12],
        /// Sum modulo 2^32.
        sum: u32,
    }
}

pub const FRAME: Attr<ObjectId> = Attr::object(1, "frame", &[class::PD]);
pub const LIMIT: Attr<u64> = Attr::new(2, "limit");
pub const VALUE: Attr<u64> = Attr::new(3, "value");
pub const BEADS: Attr<Beads> = Attr::new(4, "beads");
pub const AMOUNTS: Attr<[u64]> = Attr::array(5, "amounts");

/// On PD CREATE: the wood. An attribute of this driver's on a common class.
pub const WOOD: Attr<u32> = Attr::new(driver_attr(ID, 0), "wood");
/// On PD CREATE: which frame it became.
pub const FRAME_NUMBER: Attr<u32> = Attr::new(driver_attr(ID, 1), "frame_number");

/// Adds to a tally: the fast path of this driver, if it had one.
pub const ADD: u8 = method::DRIVER;
/// Takes everything away; nobody promises that this stays.
pub const SHAKE: u8 = method::EXPERIMENTAL;
/// Sets a tally: for the administrator.
pub const FORGE: u8 = method::CLASS;

pub static TALLY_SCHEMA: ClassSchema = ClassSchema {
    id: TALLY,
    name: "tally",
    flags: class_flags::EVENTS,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[
                FRAME.required(),
                LIMIT.input(),
                BEADS.output().by_pointer(),
                EVENT_QUEUE_OF.input(),
                COOKIE.input(),
            ],
        },
        MethodSchema {
            number: method::QUERY,
            name: "query",
            target: Target::Object,
            access: Access::Any,
            attrs: &[VALUE.output(), LIMIT.output(), BEADS.output()],
        },
        MethodSchema {
            number: method::DESTROY,
            name: "destroy",
            target: Target::Object,
            access: Access::Any,
            attrs: &[],
        },
        MethodSchema {
            number: ADD,
            name: "add",
            target: Target::Object,
            access: Access::Any,
            attrs: &[AMOUNTS.input().must().by_pointer(), VALUE.output()],
        },
        MethodSchema {
            number: FORGE,
            name: "forge",
            target: Target::Object,
            access: Access::NetAdmin,
            attrs: &[VALUE.required()],
        },
        MethodSchema {
            number: SHAKE,
            name: "shake",
            target: Target::Object,
            access: Access::Any,
            attrs: &[],
        },
    ],
};

pub struct Tally {
    value: Mutex<u64>,
    limit: u64,
}

#[derive(Default)]
pub struct State {
    frames: AtomicU32,
}

pub struct Abacus;

impl Driver for Abacus {
    const ID: DriverId = ID;
    const NAME: &'static str = "abacus";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[
            ClassOps {
                schema: &TALLY_SCHEMA,
                methods: &[
                    (method::CREATE, create),
                    (method::QUERY, query),
                    (ADD, add),
                    (FORGE, forge),
                    (SHAKE, shake),
                ],
                release: Some(|_| Ok(())),
            },
            ClassOps {
                schema: &class::pd::SCHEMA,
                methods: &[(method::CREATE, frame_create)],
                release: Some(frame_release),
            },
        ],
        extensions: &[Extension {
            class: class::PD,
            method: method::CREATE,
            attrs: &[WOOD.input(), FRAME_NUMBER.output()],
        }],
        removals: &[Removal {
            class: class::PD,
            method: Some(method::QUERY),
        }],
    };
    const MAX_OBJECTS: u32 = 64;

    type Host = Bench;
    type Device = State;
    type Context = ();
    type Object = Tally;
    type Pending = Infallible;
    type Chain = ();

    fn ports(_: &State) -> u32 {
        0
    }

    fn open(_: &Device<Self>, _: &()) -> Outcome {
        Ok(())
    }

    fn close(_: &Device<Self>, _: &()) {}
}

/// Replaces the common PD CREATE: counts the frames, and lets the common one do the rest.
fn frame_create(call: &mut Call<'_, Abacus>) -> Outcome {
    if call.get(WOOD)?.is_some_and(|wood| wood > 2) {
        return Err(call.out_of_range(WOOD));
    }
    let taken = call
        .device()
        .frames
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < FRAMES).then_some(n + 1));
    let Ok(number) = taken else {
        return Err(Failure::new(Errno::ENOSPC, Reason::DEVICE).detail(FRAMES as u16));
    };
    if let Err(failure) = call.replaced() {
        call.device().frames.fetch_sub(1, Ordering::Relaxed);
        return Err(failure);
    }
    call.put(FRAME_NUMBER, &number)
}

fn frame_release(ending: &Ending<'_, Abacus>) -> Outcome {
    ending.device().frames.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

fn create(call: &mut Call<'_, Abacus>) -> Outcome {
    let frame = call.require_object(FRAME)?;
    let limit = call.get(LIMIT)?.unwrap_or(u64::MAX);
    let reservation = call.reserve()?;
    call.publish(
        reservation,
        Some(Tally {
            value: Mutex::new(0),
            limit,
        }),
        &[&frame],
    );
    call.put(BEADS, &Beads::default())
}

fn query(call: &mut Call<'_, Abacus>) -> Outcome {
    let (value, limit) = {
        let tally = call.payload();
        let value = *tally.value.lock().unwrap();
        (value, tally.limit)
    };
    call.put(VALUE, &value)?;
    call.put(LIMIT, &limit)?;
    let mut beads = Beads {
        sum: value as u32,
        ..Beads::default()
    };
    for (n, wire) in beads.wires.iter_mut().enumerate() {
        *wire = ((value / 10u64.pow(n as u32)) % 10) as u8;
    }
    call.put(BEADS, &beads)
}

fn add(call: &mut Call<'_, Abacus>) -> Outcome {
    let mut amount = 0u64;
    for n in 0..call.count(AMOUNTS)? {
        amount = amount
            .checked_add(call.element(AMOUNTS, n)?)
            .ok_or_else(|| call.out_of_range(AMOUNTS))?;
    }
    let value = {
        let tally = call.payload();
        let mut value = tally.value.lock().unwrap();
        let before = *value;
        *value = value.saturating_add(amount);
        if before < tally.limit && *value >= tally.limit {
            call.object().post(kind::ASYNC, *value);
        }
        *value
    };
    call.put(VALUE, &value)
}

fn forge(call: &mut Call<'_, Abacus>) -> Outcome {
    let value = call.require(VALUE)?;
    *call.payload().value.lock().unwrap() = value;
    Ok(())
}

fn shake(call: &mut Call<'_, Abacus>) -> Outcome {
    *call.payload().value.lock().unwrap() = 0;
    Ok(())
}
