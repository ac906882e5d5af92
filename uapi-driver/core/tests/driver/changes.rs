// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! MODIFY of regions and completion queues, over the real device: what each leaves behind in memory, pages and domains.

use crate::bench::engine::Live;
use rdma_uapi::class::mr::{self, access};
use rdma_uapi::class::{self, cq};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Context, Errno, Failure, Reason};
use std::sync::atomic::Ordering;
use verbena_core::mmap;
use verbena_core::schema::CQ_RING;
use verbena_hw::id::Key;

const RIGHTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE;

fn modify(live: &Live, class: u16, object: u32, fill: impl FnOnce(&mut Builder<'_>)) -> Result<(), Failure> {
    live.app.call(method::MODIFY, class, object, fill).map(drop)
}

fn pinned(live: &Live) -> u64 {
    live.app.bench.0.pinned.load(Ordering::Relaxed) as u64
}

#[test]
fn u13_a_regions_domain_is_in_use_as_long_as_the_region_is_in_it() {
    let live = Live::start();
    let app = &live.app;
    let (first, second) = (app.pd(), app.pd());
    let buffer = app.bench.user_buffer(1, false);
    let region = app.mr(first, buffer, 4096, RIGHTS).unwrap();
    let busy = |pd| {
        let failure = app.destroy(class::PD, pd).unwrap_err();
        (failure.errno, failure.reason)
    };
    assert_eq!(busy(first), (Errno::EBUSY, Reason::IN_USE));
    modify(&live, class::MR, region.object(), |m| {
        m.put(mr::PD, &ObjectId(second));
    })
    .unwrap();
    app.destroy(class::PD, first).unwrap();
    assert_eq!(busy(second), (Errno::EBUSY, Reason::IN_USE));
    let answer = app
        .call(method::QUERY, class::MR, region.object(), |m| {
            m.ask(mr::PD);
        })
        .unwrap();
    assert_eq!(answer.reply().get(mr::PD), Some(ObjectId(second)));
    // A context that closes with it in this state leaves nothing.
    Context::close(&app.context);
    assert_eq!(pinned(&live), 0);
    assert!(app.bench.0.log.lock().unwrap().is_empty());
}

#[test]
fn u13_memory_is_unpinned_when_the_device_has_other() {
    let live = Live::start();
    let app = &live.app;
    let pd = app.pd();
    let (small, large) = (app.bench.user_buffer(1, false), app.bench.user_buffer(3, true));
    let region = app.mr(pd, small, 4096, RIGHTS).unwrap();
    let keys = |answer: &crate::bench::client::Answer| {
        let reply = answer.reply();
        (reply.get(mr::LKEY).unwrap(), reply.get(mr::RKEY).unwrap())
    };
    let before = keys(&region);
    let one = pinned(&live);
    modify(&live, class::MR, region.object(), |m| {
        m.put(mr::ADDR, &large).put(mr::LENGTH, &(3 * 4096));
    })
    .unwrap();
    let three = pinned(&live);
    assert!(three > one, "{three} after {one}");
    // What is refused pins nothing, and changes neither keys nor memory.
    let now = |what: &str| {
        let answer = app
            .call(method::QUERY, class::MR, region.object(), |m| {
                m.ask(mr::LKEY).ask(mr::RKEY).ask(mr::ADDR);
            })
            .unwrap();
        assert_eq!(answer.reply().get(mr::ADDR), Some(large), "{what}");
        keys(&answer)
    };
    let after = now("moved");
    assert_eq!(Key(after.0).index(), Key(before.0).index());
    assert_ne!(after, before);
    let refused = |fill: &dyn Fn(&mut Builder<'_>)| {
        let failure = modify(&live, class::MR, region.object(), |m| fill(m)).unwrap_err();
        (failure.errno, failure.reason, failure.attr)
    };
    let wrong = refused(&|m| {
        m.put(mr::ADDR, &small);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::MISSING, mr::LENGTH.id()));
    let wrong = refused(&|m| {
        m.put(mr::IOVA, &0x1000);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::MISSING, mr::ADDR.id()));
    let wrong = refused(&|_| {});
    assert_eq!(wrong, (Errno::EINVAL, Reason::MISSING, mr::ACCESS.id()));
    let wrong = refused(&|m| {
        m.put(mr::ACCESS, &access::REMOTE_WRITE);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::CONFLICT, mr::ACCESS.id()));
    assert_eq!(pinned(&live), three);
    assert_eq!(now("refused"), after);
    app.destroy(class::MR, region.object()).unwrap();
    assert_eq!(pinned(&live), 0);
}

#[test]
fn h06_a_region_for_work_requests_has_no_memory_of_its_own() {
    let live = Live::start();
    let app = &live.app;
    let pd = app.pd();
    let create = |fill: &dyn Fn(&mut Builder<'_>)| {
        app.call(method::CREATE, class::MR, 0, |m| {
            m.put(mr::PD, &ObjectId(pd)).put(mr::MAX_ELEMENTS, &4);
            fill(m);
        })
    };
    let region = create(&|_| {}).unwrap();
    assert_eq!(pinned(&live), 0);
    let failure = app.destroy(class::PD, pd).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EBUSY, Reason::IN_USE));
    let failure = create(&|m| {
        m.put(mr::ACCESS, &RIGHTS);
    })
    .map(drop)
    .unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.attr),
        (Errno::EINVAL, Reason::CONFLICT, mr::ACCESS.id())
    );
    let failure = modify(&live, class::MR, region.object(), |m| {
        m.put(mr::ACCESS, &RIGHTS);
    })
    .unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::NOT_ALLOWED));
    app.destroy(class::MR, region.object()).unwrap();
    app.destroy(class::PD, pd).unwrap();
}

#[test]
fn h07_a_queue_that_is_resized_is_in_other_memory() {
    let live = Live::start();
    let app = &live.app;
    let (object, _, before) = app.cq(16, |_| {}).unwrap();
    let used = app.bench.0.ram.used();
    let failure = modify(&live, class::CQ, object, |m| {
        m.put(cq::CQE, &1000);
    })
    .unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::EINVAL, Reason::MISSING),
        "nowhere to say where"
    );
    let answer = app
        .call(method::MODIFY, class::CQ, object, |m| {
            m.put(cq::CQE, &1000).ask(CQ_RING);
        })
        .unwrap();
    let after = answer.reply().get(CQ_RING).unwrap();
    assert_eq!((answer.reply().get(cq::CQE), after.log_entries), (Some(1024), 10));
    assert!(mmap(&app.context, after.mmap_offset, after.mmap_length).is_ok());
    assert!(mmap(&app.context, before.mmap_offset, before.mmap_length).is_err());
    // And back: the larger memory is given back.
    app.call(method::MODIFY, class::CQ, object, |m| {
        m.put(cq::CQE, &16).ask(CQ_RING);
    })
    .unwrap();
    assert_eq!(app.bench.0.ram.used(), used);
    let failure = modify(&live, class::CQ, object, |m| {
        m.put(cq::MODERATION_COUNT, &0x1_0000);
    })
    .unwrap_err();
    assert_eq!(
        (failure.reason, failure.attr),
        (Reason::OUT_OF_RANGE, cq::MODERATION_COUNT.id())
    );
    // What is not given stays.
    for (count, period) in [(Some(7), None), (None, Some(90))] {
        modify(&live, class::CQ, object, |m| {
            m.put_some(cq::MODERATION_COUNT, count)
                .put_some(cq::MODERATION_PERIOD, period);
        })
        .unwrap();
    }
    let answer = app
        .call(method::QUERY, class::CQ, object, |m| {
            m.ask(cq::MODERATION_COUNT).ask(cq::MODERATION_PERIOD);
        })
        .unwrap();
    let reply = answer.reply();
    assert_eq!(
        (reply.get(cq::MODERATION_COUNT), reply.get(cq::MODERATION_PERIOD)),
        (Some(7), Some(90))
    );
}
