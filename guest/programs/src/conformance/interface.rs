// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the interface offers, and says that it offers: classes and methods, listed and not, and other drivers' (U2, U7,
//! U10).

use super::kit::{check_eq, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::{self, event_queue};
use rdma_uapi::listing::{kind, shape, target, ty, Record};
use rdma_uapi::schema::attr_flags;
use rdma_uapi::wire::{self, method, DriverId};
use rdma_uapi::{Errno, Reason};
use std::collections::{BTreeMap, BTreeSet};
use verbena::Context;

pub const CASES: &[Case] = &[
    Case::single("u02_unlisted_methods_are_eopnotsupp", unlisted_methods),
    Case::single("u02_unlisted_classes_are_eopnotsupp", unlisted_classes),
    Case::single("u02_generic_methods_have_the_same_numbers_everywhere", generic_numbers),
    Case::single(
        "u07_the_listing_has_every_class_of_the_first_light",
        listing_is_complete,
    ),
    Case::single("u07_every_listed_method_works", listed_methods_work),
    Case::single("u07_the_listing_is_enough_to_generate_a_client", listing_is_consistent),
    Case::single("u10_another_drivers_classes_and_attributes_are_refused", other_driver),
];

/// What the listing says, in a form that can be asked.
pub(super) struct Listing {
    /// Methods by class.
    pub(super) classes: BTreeMap<u16, BTreeMap<u16, Record>>,
    pub(super) records: Vec<Record>,
}

impl Listing {
    pub(super) fn of(ctx: &Context) -> Result<Self> {
        let records = ctx.interface()?.records;
        let mut classes: BTreeMap<u16, BTreeMap<u16, Record>> = BTreeMap::new();
        let mut last = None;
        for record in &records {
            match record.kind {
                kind::CLASS => {
                    ensure!(
                        !classes.contains_key(&record.id),
                        "class {:#x} is listed twice",
                        record.id
                    );
                    classes.insert(record.id, BTreeMap::new());
                    last = Some(record.id);
                }
                kind::METHOD => {
                    let class = last.context("a method before any class")?;
                    let methods = classes.get_mut(&class).expect("it was just inserted");
                    let twice = methods.insert(record.id, *record);
                    ensure!(
                        twice.is_none(),
                        "method {} of class {class:#x} is listed twice",
                        record.id
                    );
                }
                _ => {}
            }
        }
        Ok(Self { classes, records })
    }
}

fn unlisted_methods(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let listing = Listing::of(&ctx)?;
    for (&class, methods) in &listing.classes {
        for number in 0..method::END {
            if methods.contains_key(&u16::from(number)) {
                continue;
            }
            let message = Message::new(class, 0, |_| {});
            let what = format!("method {number} of class {class:#x}");
            let how = (Errno::EOPNOTSUPP, Reason::NO_METHOD);
            message.refused(&ctx, number, how, (wire::FIELD_METHOD, 0), &what)?;
        }
    }
    PASS
}

fn unlisted_classes(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let listing = Listing::of(&ctx)?;
    let some = [
        0x7fff,
        wire::driver_class(DriverId(1), 0),
        wire::driver_class(DriverId(1), 255),
    ];
    for class in (0..128)
        .chain(some)
        .filter(|class| !listing.classes.contains_key(class))
    {
        for number in [method::CREATE, method::QUERY, method::EXPERIMENTAL] {
            let message = Message::new(class, 0, |_| {});
            let how = (Errno::EOPNOTSUPP, Reason::NO_CLASS);
            message.refused(&ctx, number, how, (wire::FIELD_CLASS, 2), &format!("class {class:#x}"))?;
        }
    }
    PASS
}

fn generic_numbers(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let generic = [
        (method::CREATE, "create"),
        (method::QUERY, "query"),
        (method::MODIFY, "modify"),
        (method::DESTROY, "destroy"),
        (method::CREATE_FD, "create_fd"),
        (method::EXECUTE, "execute"),
    ];
    for (class, methods) in Listing::of(&ctx)?.classes {
        for (number, record) in methods {
            let name = generic
                .iter()
                .find(|(n, _)| u16::from(*n) == number)
                .map(|(_, name)| *name);
            match name {
                Some(name) => check_eq!(record.name(), name, "method {number} of class {class:#x}"),
                None => ensure!(
                    number >= u16::from(method::CLASS),
                    "method {number} of class {class:#x} is not generic"
                ),
            }
        }
    }
    PASS
}

fn listing_is_complete(fixture: &Fixture) -> Outcome {
    let listing = Listing::of(&fixture.open()?)?;
    let expected = [
        (class::INTERFACE, &[method::QUERY, method::MODIFY][..]),
        (class::DEVICE, &[method::QUERY]),
        (class::PORT, &[method::QUERY]),
        (
            class::EVENT_QUEUE,
            &[
                method::QUERY,
                method::MODIFY,
                method::CREATE_FD,
                event_queue::READ_EVENTS,
            ],
        ),
        (class::PD, &[method::CREATE, method::QUERY, method::DESTROY]),
        (class::MR, &[method::CREATE, method::QUERY, method::DESTROY]),
        (class::CQ, &[method::CREATE, method::QUERY, method::DESTROY]),
        (class::AH, &[method::CREATE, method::QUERY, method::DESTROY]),
        (class::MCAST, &[method::CREATE, method::QUERY, method::DESTROY]),
        (class::FLOW, &[method::CREATE, method::QUERY, method::DESTROY]),
        (
            class::COUNTER_SET,
            &[method::CREATE, method::QUERY, method::MODIFY, method::DESTROY],
        ),
        (
            class::QP_RC,
            &[method::CREATE, method::QUERY, method::MODIFY, method::DESTROY],
        ),
        (
            class::QP_UC,
            &[method::CREATE, method::QUERY, method::MODIFY, method::DESTROY],
        ),
        (
            class::QP_UD,
            &[method::CREATE, method::QUERY, method::MODIFY, method::DESTROY],
        ),
        (
            class::QP_RAW,
            &[method::CREATE, method::QUERY, method::MODIFY, method::DESTROY],
        ),
    ];
    for (class, methods) in expected {
        let listed = listing
            .classes
            .get(&class)
            .with_context(|| format!("class {class:#x} is not listed"))?;
        for &number in methods {
            ensure!(
                listed.contains_key(&u16::from(number)),
                "method {number} of class {class:#x} is not listed"
            );
        }
    }
    let own = listing
        .classes
        .keys()
        .filter(|class| wire::class_driver(**class) == Some(DriverId(1)))
        .count();
    ensure!(own > 0, "no class of the driver's own is listed");
    PASS
}

fn listed_methods_work(fixture: &Fixture) -> Outcome {
    let listing = Listing::of(&fixture.open()?)?;
    for (&class, methods) in &listing.classes {
        for (&number, record) in methods {
            if u16::from(method::CREATE_FD) == number {
                continue; // It would make a descriptor that nobody closes; `u03_` cases call it.
            }
            // Each in a context of its own: some methods want to be the first call.
            let ctx = fixture.open()?;
            let object = u32::from(record.target == target::NUMBERED);
            match Message::new(class, object, |_| {}).call(&ctx, number as u8) {
                Ok(_) => ensure!(
                    record.target != target::FD,
                    "{} worked on the wrong descriptor",
                    record.name()
                ),
                Err(failure) => ensure!(
                    failure.errno != Errno::EOPNOTSUPP,
                    "method {} of class {class:#x} is listed, but: {failure}",
                    record.name()
                ),
            }
        }
    }
    PASS
}

/// Every record stands where it belongs and says what a generator would need.
fn listing_is_consistent(fixture: &Fixture) -> Outcome {
    let listing = Listing::of(&fixture.open()?)?;
    let mut seen = BTreeSet::new();
    let mut structure: Option<(u16, u16)> = None; // Its size, and where the next field begins.
    let mut before = 0;
    for (n, record) in listing.records.iter().enumerate() {
        let name = record.name();
        let what = format!("record {n} '{name}'");
        if record.kind != kind::FIELD {
            if let Some((size, next)) = structure.take() {
                check_eq!(next, size, "the end of the fields before {what}");
            }
        }
        match record.kind {
            kind::CLASS => ensure!(!name.is_empty(), "{what} has no name"),
            kind::METHOD => {
                seen.clear();
                ensure!(
                    record.target >= target::NEW && record.target <= target::FD,
                    "{what}: target {}",
                    record.target
                );
            }
            kind::ATTR => {
                ensure!(seen.insert(record.id), "{what}: the attribute is listed twice");
                ensure!(
                    record.flags & (attr_flags::IN | attr_flags::OUT) != 0,
                    "{what} is neither input nor output"
                );
                ensure!(
                    record.shape >= shape::ONE && record.shape <= shape::TEXT,
                    "{what}: shape {}",
                    record.shape
                );
                ensure!(
                    record.ty >= ty::U8 && record.ty <= ty::STRUCT,
                    "{what}: type {}",
                    record.ty
                );
                if record.shape == shape::ONE {
                    check_eq!(record.unit, record.size, "{what}: unit and size");
                    ensure!(
                        record.min <= record.size,
                        "{what}: at least {} of {} bytes",
                        record.min,
                        record.size
                    );
                }
                let next = listing.records.get(n + 1).map_or(0, |r| r.kind);
                check_eq!(
                    record.ty == ty::STRUCT,
                    next == kind::STRUCT,
                    "{what}: whether a structure follows"
                );
                check_eq!(
                    record.shape == shape::OBJECT,
                    next == kind::TAKES,
                    "{what}: whether the classes follow"
                );
            }
            // A class that is taken need not be there yet, but must be one that is numbered.
            kind::TAKES => ensure!(
                matches!(before, kind::ATTR | kind::TAKES) && record.id != 0,
                "{what} is misplaced"
            ),
            kind::STRUCT => {
                check_eq!(before, kind::ATTR, "what stands before {what}");
                structure = Some((record.size, 0));
            }
            kind::FIELD => {
                let (size, next) = structure.with_context(|| format!("{what} is in no structure"))?;
                check_eq!(record.offset, next, "{what}: offset");
                structure = Some((size, next + record.size));
            }
            other => bail!("{what} is of kind {other}"),
        }
        before = record.kind;
    }
    PASS
}

fn other_driver(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for driver in [2, 3, 127] {
        let class = wire::driver_class(DriverId(driver), 1);
        for number in [method::CREATE, method::QUERY, method::DESTROY] {
            let message = Message::new(class, 0, |_| {});
            let how = (Errno::EOPNOTSUPP, Reason::OTHER_DRIVER);
            message.refused(
                &ctx,
                number,
                how,
                (wire::FIELD_CLASS, 2),
                &format!("a class of driver {driver}"),
            )?;
        }
        let attr = wire::driver_attr(DriverId(driver), 1);
        let mut message = Message::new(class::PD, 0, |_| {});
        let at = message.mandatory(attr, &[0; 8]);
        let how = (Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (attr, at),
            &format!("an attribute of driver {driver}"),
        )?;
        let mut message = Message::new(class::PD, 0, |_| {});
        message.optional(attr, &[0; 8]);
        message
            .call(&ctx, method::CREATE)
            .context("an attribute of another driver that may be ignored")?;
    }
    PASS
}
