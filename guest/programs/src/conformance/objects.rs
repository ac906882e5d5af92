// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects: from CREATE to DESTROY, ids, what depends on what, many at once (U2, U3, U10, U13, U15).

use super::interface::Listing;
use super::kit::{check_eq, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class::{self, cq, event_queue, mr, pd, qp};
use rdma_uapi::listing::kind;
use rdma_uapi::wire::{self, method, ObjectId};
use rdma_uapi::{Errno, Reason};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use verbena::Context;

pub const CASES: &[Case] = &[
    Case::single("u02_an_object_from_create_to_destroy", lifecycle),
    Case::single("u03_an_event_queue_is_a_descriptor", create_fd),
    Case::single("u03_calls_for_a_descriptor_go_to_it", wrong_fd),
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
