// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects: methods and classes, ids, what depends on what, what is listed (U2, U3, U7, U10, U13).

use super::kit::{check_eq, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::{self, cq, event_queue, mr, pd, qp};
use rdma_uapi::listing::{kind, shape, target, ty, Record};
use rdma_uapi::schema::attr_flags;
use rdma_uapi::wire::{self, method, DriverId, ObjectId};
use rdma_uapi::{Errno, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use verbena::Context;

pub const CASES: &[Case] = &[
    Case::single("u02_an_object_from_create_to_destroy", lifecycle),
    Case::single("u02_unlisted_methods_are_eopnotsupp", unlisted_methods),
    Case::single("u02_unlisted_classes_are_eopnotsupp", unlisted_classes),
    Case::single("u02_generic_methods_have_the_same_numbers_everywhere", generic_numbers),
    Case::single("u03_an_event_queue_is_a_descriptor", create_fd),
    Case::single("u03_calls_for_a_descriptor_go_to_it", wrong_fd),
    Case::single(
        "u07_the_listing_has_every_class_of_the_first_light",
        listing_is_complete,
    ),
    Case::single("u07_every_listed_method_works", listed_methods_work),
    Case::single("u07_the_listing_is_enough_to_generate_a_client", listing_is_consistent),
    Case::single("u10_another_drivers_classes_and_attributes_are_refused", other_driver),
    Case::single("u10_driver_classes_get_the_core_services", doorbell_class),
    Case::single("u13_ids_that_are_nobodys", no_such_object),
    Case::single("u13_handles_are_typed", wrong_class),
    Case::single("u13_destroying_what_is_in_use_is_ebusy", in_use),
    Case::single("u13_completion_queues_of_a_queue_pair_are_in_use", cq_in_use),
    Case::single("u13_many_objects_in_one_context", many),
    Case::single("u13_calls_of_many_threads_at_once", threads),
    Case::single("u13_destroy_against_use", destroy_against_use),
    Case::single("u15_create_takes_the_queue_pair_to_a_state", create_with_state),
];

fn create(ctx: &Context, class: u16) -> Result<u32> {
    let message = match class {
        class::CQ => Message::new(class, 0, |m| {
            m.put(cq::CQE, &8);
        }),
        _ => Message::new(class, 0, |_| {}),
    };
    Ok(message
        .call(ctx, method::CREATE)
        .with_context(|| format!("CREATE of class {class:#x}"))?
        .object())
}

fn destroy(ctx: &Context, class: u16, id: u32) -> Result<()> {
    Message::new(class, id, |_| {})
        .call(ctx, method::DESTROY)
        .with_context(|| format!("DESTROY of {id:#x}"))?;
    Ok(())
}

fn lifecycle(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let id = create(&ctx, class::CQ)?;
    ensure!(id != 0 && id & ObjectId::CHAIN == 0, "{id:#x} is no id");
    let query = Message::new(class::CQ, id, |m| {
        m.ask(cq::CQE).ask(cq::CQN).ask(cq::COMP_VECTOR);
    });
    let answer = query.call(&ctx, method::QUERY)?;
    check_eq!(answer.reply().get(cq::CQE), Some(8), "entries");
    check_eq!(answer.reply().get(cq::COMP_VECTOR), Some(0), "the completion vector");
    ensure!(answer.reply().get(cq::CQN).is_some(), "QUERY answers no number");
    destroy(&ctx, class::CQ, id)?;
    let how = (Errno::ENOENT, Reason::NO_OBJECT);
    query.refused(&ctx, method::QUERY, how, (wire::FIELD_OBJECT, 4), "QUERY after DESTROY")?;
    let again = Message::new(class::CQ, id, |_| {});
    again.refused(
        &ctx,
        method::DESTROY,
        how,
        (wire::FIELD_OBJECT, 4),
        "DESTROY after DESTROY",
    )?;
    PASS
}

/// What the listing says, in a form that can be asked.
struct Listing {
    /// Methods by class.
    classes: BTreeMap<u16, BTreeMap<u16, Record>>,
    records: Vec<Record>,
}

impl Listing {
    fn of(ctx: &Context) -> Result<Self> {
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

fn create_fd(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let queue = ctx.create_event_queue()?;
    check_eq!(queue.read_events(4)?.len(), 0, "events of a new queue");
    // What the queue is for works through its descriptor alone.
    let cq = ctx.create_cq(4)?;
    queue.associate_cq(&cq, 5)?;
    queue.dissociate_cq(&cq)?;
    let other = ctx.create_event_queue()?;
    drop(queue);
    other.associate_cq(&cq, 6)?;
    PASS
}

fn wrong_fd(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let _queue = ctx.create_event_queue()?;
    let how = (Errno::EINVAL, Reason::WRONG_FD);
    for number in [method::QUERY, method::MODIFY, event_queue::READ_EVENTS] {
        let message = Message::new(class::EVENT_QUEUE, 0, |_| {});
        message.refused(
            &ctx,
            number,
            how,
            (wire::FIELD_CLASS, 2),
            &format!("method {number} on the device's file"),
        )?;
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
        (
            class::QP_RC,
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
        destroy(&ctx, class::PD, message.call(&ctx, method::CREATE)?.object())?;
    }
    PASS
}

/// The class of doorbell pages, by its name: its number is the driver's business.
fn doorbell(listing: &Listing) -> Result<u16> {
    let records = listing.records.iter();
    let own = records
        .filter(|r| r.kind == kind::CLASS && r.name().contains("doorbell"))
        .map(|r| r.id)
        .next();
    own.context("no class of doorbell pages is listed")
}

fn doorbell_class(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let class = doorbell(&Listing::of(&ctx)?)?;
    let id = create(&ctx, class)?;
    let how = (Errno::EINVAL, Reason::WRONG_CLASS);
    let message = Message::new(class::PD, id, |_| {});
    message.refused(
        &ctx,
        method::DESTROY,
        how,
        (wire::FIELD_OBJECT, 4),
        "a doorbell page as a protection domain",
    )?;
    destroy(&ctx, class, id)?;
    let how = (Errno::ENOENT, Reason::NO_OBJECT);
    Message::new(class, id, |_| {}).refused(&ctx, method::DESTROY, how, (wire::FIELD_OBJECT, 4), "DESTROY twice")?;
    PASS
}

fn no_such_object(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let used = create(&ctx, class::PD)?;
    for id in [
        0,
        used + 1,
        used + 0x100,
        0x1234_5678,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ] {
        for (class, number) in [
            (class::PD, method::QUERY),
            (class::MR, method::DESTROY),
            (class::QP_RC, method::MODIFY),
        ] {
            let message = Message::new(class, id, |_| {});
            let how = (Errno::ENOENT, Reason::NO_OBJECT);
            message.refused(&ctx, number, how, (wire::FIELD_OBJECT, 4), &format!("object {id:#x}"))?;
        }
        let mut message = Message::new(class::MR, 0, |m| {
            m.put(mr::ADDR, &0x1000).put(mr::LENGTH, &4096).put(mr::ACCESS, &1);
        });
        let at = message.mandatory(mr::PD.id(), &id.to_le_bytes());
        let how = (Errno::ENOENT, Reason::NO_OBJECT);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (mr::PD.id(), at),
            &format!("memory in domain {id:#x}"),
        )?;
    }
    destroy(&ctx, class::PD, used)?;
    PASS
}

fn wrong_class(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (pd, cq) = (create(&ctx, class::PD)?, create(&ctx, class::CQ)?);
    let how = (Errno::EINVAL, Reason::WRONG_CLASS);
    for (class, id) in [(class::CQ, pd), (class::MR, pd), (class::PD, cq), (class::QP_RC, cq)] {
        for number in [method::QUERY, method::DESTROY] {
            let message = Message::new(class, id, |_| {});
            message.refused(
                &ctx,
                number,
                how,
                (wire::FIELD_OBJECT, 4),
                &format!("{id:#x} as class {class:#x}"),
            )?;
        }
    }
    let mut message = Message::new(class::MR, 0, |m| {
        m.put(mr::ADDR, &0x1000).put(mr::LENGTH, &4096).put(mr::ACCESS, &1);
    });
    let at = message.mandatory(mr::PD.id(), &cq.to_le_bytes());
    message.refused(
        &ctx,
        method::CREATE,
        how,
        (mr::PD.id(), at),
        "a completion queue as protection domain",
    )?;
    match message.call(&ctx, method::CREATE) {
        Err(failure) => check_eq!(failure.detail, class::CQ, "the class that it really has"),
        Ok(_) => bail!("the second time it was accepted"),
    }
    destroy(&ctx, class::PD, pd)?;
    destroy(&ctx, class::CQ, cq)?;
    PASS
}

fn in_use(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let memory = ctx.alloc_buffer(8192)?;
    let pd = create(&ctx, class::PD)?;
    let message = Message::new(class::MR, 0, |m| {
        m.put(mr::PD, &ObjectId(pd))
            .put(mr::ADDR, &memory.addr())
            .put(mr::LENGTH, &8192)
            .put(mr::ACCESS, &1);
    });
    let regions = [
        message.call(&ctx, method::CREATE)?.object(),
        message.call(&ctx, method::CREATE)?.object(),
    ];
    let busy = Message::new(class::PD, pd, |_| {});
    let how = (Errno::EBUSY, Reason::IN_USE);
    for region in regions {
        busy.refused(
            &ctx,
            method::DESTROY,
            how,
            (wire::FIELD_OBJECT, 4),
            "destroying a domain with memory in it",
        )?;
        // It is as it was.
        let answer = Message::new(class::PD, pd, |m| {
            m.ask(pd::PDN);
        });
        ensure!(
            answer.call(&ctx, method::QUERY)?.reply().get(pd::PDN).is_some(),
            "the domain answers no number"
        );
        destroy(&ctx, class::MR, region)?;
    }
    destroy(&ctx, class::PD, pd)?;
    PASS
}

fn cq_in_use(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let (send, recv) = (ctx.create_cq(4)?, ctx.create_cq(4)?);
    let qp = verbena::RcQp::builder(&pd, &send, &recv).build()?;
    for queue in [send, recv] {
        let Err(error) = queue.destroy() else {
            bail!("a completion queue was destroyed under a queue pair")
        };
        check_eq!(
            (error.errno(), error.reason()),
            (Some(Errno::EBUSY), Some(Reason::IN_USE)),
            "errno and reason"
        );
    }
    let Err(error) = pd.destroy() else {
        bail!("a protection domain was destroyed under a queue pair")
    };
    check_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EBUSY), Some(Reason::IN_USE)),
        "errno and reason"
    );
    // It was refused, so the queue pair is as it was.
    check_eq!(qp.query()?.state, verbena::QpState::RESET, "the queue pair's state");
    PASS
}

fn many(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ids = BTreeSet::new();
    for n in 0..300 {
        let id = create(&ctx, if n % 3 == 0 { class::CQ } else { class::PD })?;
        ensure!(ids.insert(id), "id {id:#x} was given twice");
    }
    // Every second one ends; the others are still what they were.
    for (n, &id) in ids.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        let class = if Message::new(class::PD, id, |_| {}).call(&ctx, method::QUERY).is_ok() {
            class::PD
        } else {
            class::CQ
        };
        destroy(&ctx, class, id).with_context(|| format!("object {n}"))?;
    }
    for &id in ids.iter().skip(1).step_by(2) {
        let is = |class| Message::new(class, id, |_| {}).call(&ctx, method::QUERY).is_ok();
        ensure!(is(class::PD) || is(class::CQ), "object {id:#x} is gone");
    }
    PASS
}

fn threads(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|n| {
                let ctx = &ctx;
                scope.spawn(move || -> Result<()> {
                    for _ in 0..40 {
                        let class = if n % 2 == 0 { class::PD } else { class::CQ };
                        let id = create(ctx, class)?;
                        Message::new(class, id, |_| {}).call(ctx, method::QUERY)?;
                        destroy(ctx, class, id)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    PASS
}

fn destroy_against_use(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for _ in 0..30 {
        let id = create(&ctx, class::CQ)?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let user = scope.spawn(|| -> Result<()> {
                while !over.load(Ordering::Relaxed) {
                    let query = Message::new(class::CQ, id, |m| {
                        m.ask(cq::CQE);
                    });
                    match query.call(&ctx, method::QUERY) {
                        Ok(answer) => check_eq!(answer.reply().get(cq::CQE), Some(8), "entries"),
                        Err(failure) if matches!(failure.errno, Errno::ENOENT | Errno::EBUSY) => {}
                        Err(failure) => bail!("QUERY beside DESTROY: {failure}"),
                    }
                }
                Ok(())
            });
            // It is refused as long as it meets a call; then it is over.
            let destroyed = loop {
                match Message::new(class::CQ, id, |_| {}).call(&ctx, method::DESTROY) {
                    Ok(_) => break Ok(()),
                    Err(failure) if failure.errno == Errno::EBUSY => std::thread::yield_now(),
                    Err(failure) => break Err(failure),
                }
            };
            over.store(true, Ordering::Relaxed);
            user.join().expect("it does not panic")?;
            Ok(destroyed?)
        })?;
    }
    PASS
}

fn create_with_state(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let listing = Listing::of(&ctx)?;
    let doorbell_class = doorbell(&listing)?;
    // The attribute that takes a doorbell page, found as a generator of clients would find it.
    let taken = |n: &usize| {
        let record = &listing.records[*n];
        record.kind == kind::TAKES && record.id == doorbell_class
    };
    let position = (0..listing.records.len())
        .find(taken)
        .context("nothing takes a doorbell page")?;
    let doorbell_attr = listing.records[position - 1].id;
    let (page, pd, cq) = (
        create(&ctx, doorbell_class)?,
        create(&ctx, class::PD)?,
        create(&ctx, class::CQ)?,
    );
    let with = |build: &dyn Fn(&mut rdma_uapi::client::Builder<'_>)| {
        let mut message = Message::new(class::QP_RC, 0, |m| {
            m.put(qp::PD, &ObjectId(pd))
                .put(qp::SEND_CQ, &ObjectId(cq))
                .put(qp::RECV_CQ, &ObjectId(cq));
            m.put(
                qp::CAPS,
                &qp::QpCaps {
                    max_send_wr: 4,
                    max_recv_wr: 4,
                    max_send_sge: 1,
                    max_recv_sge: 1,
                    ..Default::default()
                },
            );
            build(m);
        });
        message.mandatory(doorbell_attr, &page.to_le_bytes());
        message.call(&ctx, method::CREATE)
    };
    let id = with(&|m| {
        m.put(qp::STATE, &qp::state::INIT)
            .put(qp::PORT, &1)
            .put(qp::PKEY_INDEX, &0)
            .put(qp::ACCESS, &0)
            .ask(qp::QPN);
    })?
    .object();
    let query = Message::new(class::QP_RC, id, |m| {
        m.ask(qp::STATE).ask(qp::PORT);
    });
    let answer = query.call(&ctx, method::QUERY)?;
    check_eq!(answer.reply().get(qp::STATE), Some(qp::state::INIT), "the state");
    check_eq!(answer.reply().get(qp::PORT), Some(1), "the port");
    // A way that lacks something is not gone at all.
    match with(&|m| {
        m.put(qp::STATE, &qp::state::INIT).put(qp::PORT, &1).put(qp::ACCESS, &0);
    }) {
        Ok(_) => bail!("INIT without a P_Key index was accepted"),
        Err(failure) => {
            check_eq!(
                (failure.errno, failure.attr),
                (Errno::EINVAL, qp::PKEY_INDEX.id()),
                "errno and attribute"
            )
        }
    }
    for (class, id) in [
        (class::QP_RC, id),
        (class::CQ, cq),
        (class::PD, pd),
        (doorbell_class, page),
    ] {
        destroy(&ctx, class, id)?;
    }
    PASS
}
