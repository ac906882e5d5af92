// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The classes: what each call makes of the device, and that nothing is left of a call that failed.

use crate::bench::client::{App, CAPS};
use crate::bench::scripted::Scripted;
use crate::bench::{Bench, BASE};
use rdma_uapi::class::mr::{self, access};
use rdma_uapi::class::{self, cq, device, port, qp};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Context, Errno, Failure, Reason};
use std::sync::atomic::Ordering;
use verbena_core::schema;
use verbena_hw::admin::{Command, Opcode, Status};
use verbena_hw::cmd::{CreateCqReq, CreateMrReq, CreateQpReq, HandleReq, ModifyQpReq};
use verbena_hw::qp::{attr, QpState};
use verbena_hw::ring::PageList;
use zerocopy::FromBytes;

const PAGE: u64 = 4096;

fn app() -> App {
    let app = App::start(Bench::new(Scripted::default()));
    app.bench.model::<Scripted>().seen();
    app
}

fn request<T: FromBytes>(command: &Command) -> T {
    T::read_from_prefix(&command.payload).unwrap().0
}

fn seen(app: &App) -> Vec<Command> {
    app.bench.model::<Scripted>().seen()
}

fn names(failure: Failure) -> (Errno, Reason, u16) {
    (failure.errno, failure.reason, failure.attr)
}

const RIGHTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE;

#[test]
fn h06_memory_in_one_stretch_is_named_directly() {
    let app = app();
    let buffer = app.bench.user_buffer(3, false);
    let pd = app.pd();
    let answer = app.mr(pd, buffer + 100, 2 * PAGE, RIGHTS).unwrap();
    let commands = seen(&app);
    let asked: CreateMrReq = request(commands.last().unwrap());
    assert_eq!((asked.pages.kind, asked.pages.count), (PageList::DIRECT, 3));
    assert_eq!(asked.pages.addr, app.bench.user_dma(buffer).unwrap());
    assert_eq!(
        (asked.first_offset, asked.len, asked.iova),
        (100, 2 * PAGE, buffer + 100)
    );
    assert_eq!(asked.access, RIGHTS);

    assert_eq!(app.bench.0.pinned.load(Ordering::Relaxed), 3);
    assert_eq!(app.bench.0.charged.load(Ordering::Relaxed), 3 * PAGE);
    let lkey = answer.reply().get(mr::LKEY).unwrap();
    app.destroy(class::MR, answer.object()).unwrap();
    let ended: HandleReq = request(&seen(&app)[0]);
    assert_eq!(
        ended.handle,
        lkey >> 8,
        "the device numbers regions by their key's index"
    );
    assert_eq!(app.bench.0.pinned.load(Ordering::Relaxed), 0);
    assert_eq!(app.bench.0.charged.load(Ordering::Relaxed), 0);
}

#[test]
fn h06_scattered_memory_is_named_page_by_page() {
    let app = app();
    let pages = 700;
    let buffer = app.bench.user_buffer(pages, true);
    let pd = app.pd();
    let used = app.bench.0.ram.used();
    let device = app.bench.model::<Scripted>();
    // While the command is held back, the array that it names can be read.
    device.hold();
    std::thread::scope(|scope| {
        let made = scope.spawn(|| app.mr(pd, buffer, pages as u64 * PAGE, RIGHTS).unwrap().object());
        while device.held() == 0 {
            std::thread::yield_now();
        }
        let asked: CreateMrReq = request(device.seen().last().unwrap());
        assert_eq!(
            (asked.pages.kind, asked.pages.count),
            (PageList::INDIRECT, pages as u32)
        );
        assert_eq!(asked.pages.page_shift, PageList::SHIFT_4K);
        let entries = app.bench.0.ram.at(asked.pages.addr, pages as u64 * 8).unwrap();
        for (n, entry) in entries.iter().enumerate() {
            let page = app.bench.user_dma(buffer + n as u64 * PAGE).unwrap();
            assert_eq!(entry.load(Ordering::Relaxed), page, "page {n}");
        }
        device.release(&app.bench.0.ram);
        made.join().unwrap();
    });
    assert_eq!(app.bench.0.ram.used(), used, "the array is gone with the command");
}

#[test]
fn h06_registration_rolls_back_whatever_fails() {
    let app = app();
    let buffer = app.bench.user_buffer(4, true);
    let pd = app.pd();
    let (used, objects) = (app.bench.0.ram.used(), app.context.store().len());
    let rolled_back = |what: &str| {
        assert_eq!(app.bench.0.pinned.load(Ordering::Relaxed), 0, "{what}");
        assert_eq!(app.bench.0.charged.load(Ordering::Relaxed), 0, "{what}");
        assert_eq!(app.bench.0.ram.used(), used, "{what}");
        assert_eq!(app.context.store().len(), objects, "{what}");
    };
    let fails = |addr, length, rights| app.mr(pd, addr, length, rights).map(drop).unwrap_err();

    app.bench
        .model::<Scripted>()
        .refuse(Opcode::CREATE_MR, Status::LIMIT, 100);
    let failure = fails(buffer, PAGE, RIGHTS);
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::ENOSPC, Reason::DEVICE, Status::LIMIT.0)
    );
    rolled_back("the device refuses");

    app.bench.0.charge_limit.store(2 * PAGE, Ordering::Relaxed);
    assert_eq!(fails(buffer, 3 * PAGE, RIGHTS).reason, Reason::MEMLOCK);
    app.bench.0.charge_limit.store(u64::MAX, Ordering::Relaxed);
    rolled_back("over the limit of pinned memory");

    assert_eq!(fails(buffer, 5 * PAGE, RIGHTS).errno, Errno::EFAULT);
    rolled_back("memory that is not there");

    app.bench.0.allocations_left.store(0, Ordering::Relaxed);
    assert_eq!(fails(buffer, 2 * PAGE, RIGHTS).errno, Errno::ENOMEM);
    app.bench.0.allocations_left.store(usize::MAX, Ordering::Relaxed);
    rolled_back("no memory for the page array");

    for (addr, length) in [
        (buffer, 0),
        (u64::MAX - 10, 8),
        (u64::MAX - PAGE, 2 * PAGE),
        (buffer, 1 << 41),
    ] {
        assert_eq!(
            names(fails(addr, length, RIGHTS)),
            (Errno::EINVAL, Reason::OUT_OF_RANGE, mr::LENGTH.id())
        );
        rolled_back("no such range");
    }
    let failure = fails(buffer, PAGE, access::REMOTE_WRITE);
    assert_eq!(names(failure), (Errno::EINVAL, Reason::CONFLICT, mr::ACCESS.id()));
    let failure = fails(buffer, PAGE, access::ON_DEMAND);
    assert_eq!(
        names(failure),
        (Errno::EOPNOTSUPP, Reason::UNSUPPORTED, mr::ACCESS.id())
    );
    let failure = fails(buffer, PAGE, 1 << 15);
    assert_eq!(names(failure), (Errno::EINVAL, Reason::UNKNOWN_FLAG, mr::ACCESS.id()));
    rolled_back("rights that cannot be");
    assert!(seen(&app)
        .iter()
        .all(|c| c.opcode == Opcode::CREATE_PD || c.opcode == Opcode::CREATE_MR));
}

#[test]
fn u08_a_region_answers_what_it_was_made_with() {
    let app = app();
    let buffer = app.bench.user_buffer(2, false);
    let pd = app.pd();
    let hints = access::LOCAL_WRITE | access::RELAXED_ORDERING;
    let region = app.mr(pd, buffer, 2 * PAGE, hints).unwrap();
    let asked: CreateMrReq = request(seen(&app).last().unwrap());
    assert_eq!(asked.access, access::LOCAL_WRITE, "a hint is not the device's");
    let answer = app
        .call(method::QUERY, class::MR, region.object(), |m| {
            m.ask(mr::PD)
                .ask(mr::ADDR)
                .ask(mr::LENGTH)
                .ask(mr::IOVA)
                .ask(mr::ACCESS)
                .ask(mr::LKEY);
        })
        .unwrap();
    let reply = answer.reply();
    assert_eq!(reply.get(mr::PD), Some(ObjectId(pd)));
    assert_eq!(
        (reply.get(mr::ADDR), reply.get(mr::LENGTH)),
        (Some(buffer), Some(2 * PAGE))
    );
    assert_eq!(
        (reply.get(mr::IOVA), reply.get(mr::ACCESS)),
        (Some(buffer), Some(hints))
    );
    assert_eq!(reply.get(mr::LKEY), region.reply().get(mr::LKEY));
}

#[test]
fn h07_a_completion_queue_is_rounded_up_and_lies_in_one_mapping() {
    let app = app();
    let (object, cqn, ring) = app.cq(65, |m| drop_ref(m.put(cq::COMP_VECTOR, &2))).unwrap();
    let asked: CreateCqReq = request(seen(&app).last().unwrap());
    assert_eq!(asked.log_entries, 7);
    assert_eq!(asked.eqn.0, 3, "completion vector 2 is event queue 3");
    assert_eq!(asked.ring.kind, PageList::DIRECT);
    assert_eq!(asked.record, asked.ring.addr + ring.record_offset);
    assert_eq!(
        (ring.log_entries, ring.record_offset, ring.mmap_length),
        (7, 128 * 64, 3 * PAGE)
    );
    assert_eq!(asked.record % 64, 0);
    let answer = app
        .call(method::QUERY, class::CQ, object, |m| {
            m.ask(cq::CQE).ask(cq::CQN).ask(cq::COMP_VECTOR).ask(schema::CQ_RING);
        })
        .unwrap();
    let reply = answer.reply();
    assert_eq!((reply.get(cq::CQE), reply.get(cq::CQN)), (Some(128), Some(cqn)));
    assert_eq!(
        (reply.get(cq::COMP_VECTOR), reply.get(schema::CQ_RING)),
        (Some(2), Some(ring))
    );

    for entries in [0, (1 << 16) + 1, u32::MAX] {
        let failure = app.cq(entries, |_| {}).unwrap_err();
        assert_eq!(names(failure), (Errno::EINVAL, Reason::OUT_OF_RANGE, cq::CQE.id()));
    }
    for vector in [4, u32::MAX] {
        let failure = app.cq(1, |m| drop_ref(m.put(cq::COMP_VECTOR, &vector))).unwrap_err();
        assert_eq!(
            names(failure),
            (Errno::EINVAL, Reason::OUT_OF_RANGE, cq::COMP_VECTOR.id())
        );
    }
}

fn drop_ref(_: &mut Builder<'_>) {}

#[test]
fn u10_a_queue_pair_tells_where_its_rings_are() {
    let app = app();
    let parts = app.parts();
    let (object, qpn, rings) = app
        .qp(&parts, |m| drop_ref(m.put(schema::CQE_COOKIE, &0xc00c1e)))
        .unwrap();
    let asked: CreateQpReq = request(seen(&app).last().unwrap());
    assert_eq!(asked.cookie, 0xc00c1e);
    assert_eq!((asked.send_cqn.get(), asked.recv_cqn.get()), (parts.cqn, parts.cqn));
    assert_eq!((asked.doorbell, asked.slot), (parts.doorbell_index, rings.slot));
    assert_eq!(rings.doorbell, parts.doorbell_index);
    assert_eq!((asked.sq_log_entries, asked.sq_log_stride), (4, 6));
    assert_eq!((rings.send_log_entries, rings.send_log_stride), (4, 6));
    assert_eq!((rings.recv_log_entries, rings.recv_log_stride), (4, 5));
    assert_eq!(asked.rq.addr, asked.sq.addr + rings.recv_offset);
    assert_eq!((rings.recv_offset, rings.mmap_length), (PAGE, 2 * PAGE));
    assert_eq!(asked.sq.addr % PAGE, 0);
    assert!(asked.sq.addr >= BASE);

    let answer = app
        .call(method::QUERY, class::QP_RC, object, |m| {
            m.ask(qp::PD).ask(qp::SEND_CQ).ask(qp::QPN).ask(schema::QP_RINGS);
        })
        .unwrap();
    let reply = answer.reply();
    assert_eq!(
        (reply.get(qp::PD), reply.get(qp::SEND_CQ)),
        (Some(ObjectId(parts.pd)), Some(ObjectId(parts.cq)))
    );
    assert_eq!(
        (reply.get(qp::QPN), reply.get(schema::QP_RINGS)),
        (Some(qpn), Some(rings))
    );
}

#[test]
fn u10_slots_of_a_doorbell_page_are_handed_out_once() {
    let app = app();
    let parts = app.parts();
    let slots: Vec<(u32, u16)> = (0..5)
        .map(|_| {
            let (object, _, rings) = app.qp(&parts, |_| {}).unwrap();
            (object, rings.slot)
        })
        .collect();
    let distinct: std::collections::HashSet<u16> = slots.iter().map(|&(_, slot)| slot).collect();
    assert_eq!(distinct.len(), 5);
    app.destroy(class::QP_RC, slots[2].0).unwrap();
    let (_, _, rings) = app.qp(&parts, |_| {}).unwrap();
    assert_eq!(
        rings.slot, slots[2].1,
        "a slot is free again when its queue pair is gone"
    );
}

#[test]
fn u13_what_is_in_use_cannot_be_destroyed() {
    let app = app();
    let parts = app.parts();
    let (queue_pair, ..) = app.qp(&parts, |_| {}).unwrap();
    for (class, object) in [
        (class::PD, parts.pd),
        (class::CQ, parts.cq),
        (schema::DOORBELL_CLASS, parts.doorbell),
    ] {
        let failure = app.destroy(class, object).unwrap_err();
        assert_eq!((failure.errno, failure.reason), (Errno::EBUSY, Reason::IN_USE));
    }
    app.destroy(class::QP_RC, queue_pair).unwrap();
    for (class, object) in [
        (class::PD, parts.pd),
        (class::CQ, parts.cq),
        (schema::DOORBELL_CLASS, parts.doorbell),
    ] {
        app.destroy(class, object).unwrap();
    }
}

#[test]
fn u13_a_queue_pair_that_could_not_be_made_leaves_nothing() {
    let app = app();
    let parts = app.parts();
    let (used, objects) = (app.bench.0.ram.used(), app.context.store().len());
    app.bench
        .model::<Scripted>()
        .refuse(Opcode::CREATE_QP, Status::LIMIT, 1000);
    assert_eq!(app.qp(&parts, |_| {}).unwrap_err().errno, Errno::ENOSPC);
    app.bench.0.allocations_left.store(0, Ordering::Relaxed);
    assert_eq!(app.qp(&parts, |_| {}).unwrap_err().errno, Errno::ENOMEM);
    app.bench.0.allocations_left.store(usize::MAX, Ordering::Relaxed);
    assert_eq!((app.bench.0.ram.used(), app.context.store().len()), (used, objects));
    let (_, _, rings) = app.qp(&parts, |_| {}).unwrap();
    assert_eq!(rings.slot, 0, "the slot of the one that failed is free");
}

#[test]
fn u13_the_device_may_refuse_a_destroy_and_the_object_lives_on() {
    let app = app();
    let parts = app.parts();
    let (object, ..) = app.qp(&parts, |_| {}).unwrap();
    let used = app.bench.0.ram.used();
    app.bench
        .model::<Scripted>()
        .refuse(Opcode::DESTROY_QP, Status::IN_USE, 3);
    let failure = app.destroy(class::QP_RC, object).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EBUSY, Reason::IN_USE, 3)
    );
    assert_eq!(app.bench.0.ram.used(), used);
    app.destroy(class::QP_RC, object).unwrap();
    assert_eq!(app.bench.0.ram.used(), used - 2);
}

#[test]
fn u13_closing_ends_everything_in_order_and_frees_it() {
    let app = app();
    let empty = app.bench.0.ram.used();
    let parts = app.parts();
    let buffer = app.bench.user_buffer(2, false);
    app.mr(parts.pd, buffer, PAGE, RIGHTS).unwrap();
    app.qp(&parts, |_| {}).unwrap();
    app.qp(&parts, |_| {}).unwrap();
    seen(&app);
    Context::close(&app.context);
    let order: Vec<Opcode> = app.bench.model::<Scripted>().seen_opcodes();
    assert_eq!(order.len(), 6);
    let at = |opcode| order.iter().position(|&o| o == opcode).unwrap();
    let last_qp = order.iter().rposition(|&o| o == Opcode::DESTROY_QP).unwrap();
    assert!(last_qp < at(Opcode::DESTROY_CQ) && last_qp < at(Opcode::DESTROY_DOORBELL));
    assert!(last_qp < at(Opcode::DESTROY_PD) && at(Opcode::REVOKE_MR) < at(Opcode::DESTROY_PD));
    assert_eq!(app.bench.0.ram.used(), empty + 2, "all but the process's own two pages");
    assert_eq!(app.bench.0.pinned.load(Ordering::Relaxed), 0);
}

#[test]
fn u13_a_device_that_keeps_what_nobody_owns_is_reset() {
    let app = app();
    let other = app.another();
    app.pd();
    app.bench
        .model::<Scripted>()
        .refuse(Opcode::DESTROY_PD, Status::IN_USE, 1);
    Context::close(&app.context);
    assert!(app.bench.logged("is reset"));
    assert!(app.device.state().is_gone());
    let failure = other.call(method::CREATE, class::PD, 0, |_| {}).map(drop).unwrap_err();
    assert_eq!(failure.errno, Errno::ENODEV);
}

/// Everything that leads a queue pair from RESET to RTS.
fn to_rts(m: &mut Builder<'_>) {
    m.put(qp::STATE, &qp::state::RTS)
        .put(qp::PORT, &1)
        .put(qp::PKEY_INDEX, &0)
        .put(qp::ACCESS, &RIGHTS);
    let path = qp::Path {
        dgid: [0xfe; 16],
        hop_limit: 64,
        ..Default::default()
    };
    m.put(qp::PATH, &path)
        .put(qp::PATH_MTU, &1024)
        .put(qp::DEST_QPN, &0x1234)
        .put(qp::RQ_PSN, &7);
    m.put(qp::MAX_DEST_RD_ATOMIC, &4)
        .put(qp::MIN_RNR_TIMER, &12)
        .put(qp::TIMEOUT, &14);
    m.put(qp::RETRY_CNT, &7)
        .put(qp::RNR_RETRY, &6)
        .put(qp::SQ_PSN, &9)
        .put(qp::MAX_RD_ATOMIC, &4);
}

#[test]
fn u15_one_create_leads_to_rts() {
    let app = app();
    let parts = app.parts();
    seen(&app);
    app.qp(&parts, to_rts).unwrap();
    let commands = seen(&app);
    let opcodes: Vec<_> = commands.iter().map(|c| c.opcode).collect();
    assert_eq!(opcodes, [Opcode::CREATE_QP, Opcode::MODIFY_QP]);
    let step: ModifyQpReq = request(&commands[1]);
    let (from, to) = (QpState(step.attrs.cur_state), QpState(step.attrs.state));
    assert_eq!((from, to), (QpState::RESET, QpState::RTS));
    let init = attr::PKEY_INDEX | attr::PORT | attr::ACCESS_FLAGS;
    let rtr =
        attr::AV | attr::PATH_MTU | attr::DEST_QPN | attr::RQ_PSN | attr::MAX_DEST_RD_ATOMIC | attr::MIN_RNR_TIMER;
    let rts = attr::TIMEOUT | attr::RETRY_CNT | attr::RNR_RETRY | attr::SQ_PSN | attr::MAX_QP_RD_ATOMIC;
    assert_eq!(step.mask, attr::STATE | attr::CUR_STATE | init | rtr | rts);
    let attrs = &step.attrs;
    assert_eq!(
        (attrs.path_mtu, attrs.timeout, attrs.retry_cnt, attrs.rnr_retry),
        (3, 14, 7, 6)
    );
    assert_eq!(
        (attrs.sq_psn.get(), attrs.rq_psn.get(), attrs.dest_qpn.get()),
        (9, 7, 0x1234)
    );
    assert_eq!(
        (attrs.path.port, attrs.path.hop_limit, attrs.path.vlan),
        (1, 64, 0xffff)
    );
}

#[test]
fn u15_a_create_that_cannot_reach_its_state_names_the_attribute_and_makes_nothing() {
    let app = app();
    let parts = app.parts();
    seen(&app);
    let failure = app
        .qp(&parts, |m| {
            drop_ref(m.put(qp::STATE, &qp::state::INIT).put(qp::PORT, &1))
        })
        .unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::MISSING));
    assert!([qp::ACCESS.id(), qp::PKEY_INDEX.id()].contains(&failure.attr));
    let failure = app.qp(&parts, |m| drop_ref(m.put(qp::TIMEOUT, &14))).unwrap_err();
    assert_eq!(names(failure), (Errno::EINVAL, Reason::NOT_ALLOWED, qp::TIMEOUT.id()));
    let failure = app
        .qp(&parts, |m| drop_ref(m.put(qp::STATE, &qp::state::ERR)))
        .unwrap_err();
    assert_eq!(names(failure), (Errno::EINVAL, Reason::BAD_STATE, qp::STATE.id()));
    assert!(seen(&app).is_empty(), "the device was not asked");

    // What only the device can know undoes the creation.
    let used = app.bench.0.ram.used();
    app.bench
        .model::<Scripted>()
        .refuse(Opcode::MODIFY_QP, Status::BAD_GID_INDEX, 3);
    let failure = app.qp(&parts, to_rts).unwrap_err();
    assert_eq!(names(failure), (Errno::EINVAL, Reason::OUT_OF_RANGE, qp::PATH.id()));
    let opcodes: Vec<_> = seen(&app).iter().map(|c| c.opcode).collect();
    assert_eq!(opcodes, [Opcode::CREATE_QP, Opcode::MODIFY_QP, Opcode::DESTROY_QP]);
    assert_eq!(app.bench.0.ram.used(), used);
}

#[test]
fn u06_the_devices_refusal_of_a_modify_names_the_attribute() {
    let app = app();
    let parts = app.parts();
    let (object, ..) = app.qp(&parts, |_| {}).unwrap();
    let modify = |m: &mut Builder<'_>| drop_ref(m.put(qp::STATE, &qp::state::RTS).put(qp::TIMEOUT, &14));
    let timeout_at = 8 + core::mem::offset_of!(verbena_hw::qp::QpAttrs, timeout) as u32;
    for (status, detail, reason, attr) in [
        (Status::BAD_TRANSITION, 0x300, Reason::BAD_STATE, qp::STATE.id()),
        (
            Status::MISSING_ATTRIBUTE,
            attr::SQ_PSN,
            Reason::MISSING,
            qp::SQ_PSN.id(),
        ),
        (
            Status::FORBIDDEN_ATTRIBUTE,
            attr::TIMEOUT,
            Reason::NOT_ALLOWED,
            qp::TIMEOUT.id(),
        ),
        (Status::BAD_FIELD, timeout_at, Reason::OUT_OF_RANGE, qp::TIMEOUT.id()),
        (Status::BAD_FIELD, 8 + 56 + 20, Reason::OUT_OF_RANGE, qp::PATH.id()),
    ] {
        app.bench.model::<Scripted>().refuse(Opcode::MODIFY_QP, status, detail);
        let failure = app
            .call(method::MODIFY, class::QP_RC, object, modify)
            .map(drop)
            .unwrap_err();
        assert_eq!(names(failure), (Errno::EINVAL, reason, attr), "{status}");
    }
    for (attr, value) in [
        (qp::TIMEOUT, 32),
        (qp::RETRY_CNT, 8),
        (qp::SQ_PSN, 1 << 24),
        (qp::PATH_MTU, 1000),
    ] {
        let failure = app
            .call(method::MODIFY, class::QP_RC, object, |m| drop_ref(m.put(attr, &value)))
            .map(drop)
            .unwrap_err();
        assert_eq!(names(failure), (Errno::EINVAL, Reason::OUT_OF_RANGE, attr.id()));
    }
    let failure = app
        .call(method::MODIFY, class::QP_RC, object, |m| {
            drop_ref(m.put(qp::PATH_MIG_STATE, &1))
        })
        .map(drop)
        .unwrap_err();
    assert_eq!(
        names(failure),
        (Errno::EOPNOTSUPP, Reason::UNSUPPORTED, qp::PATH_MIG_STATE.id())
    );
}

#[test]
fn u06_a_create_names_what_does_not_fit() {
    let app = app();
    let parts = app.parts();
    let create = |caps: qp::QpCaps, more: &dyn Fn(&mut Builder<'_>)| {
        app.call(method::CREATE, class::QP_RC, 0, |m| {
            parts.put(m);
            m.put(qp::CAPS, &caps);
            more(m);
        })
        .map(drop)
        .unwrap_err()
    };
    for caps in [
        qp::QpCaps {
            max_send_wr: 32769,
            ..CAPS
        },
        qp::QpCaps {
            max_recv_wr: u32::MAX,
            ..CAPS
        },
        qp::QpCaps {
            max_send_sge: 33,
            ..CAPS
        },
        qp::QpCaps {
            max_recv_sge: 300,
            ..CAPS
        },
        qp::QpCaps {
            max_inline: 513,
            ..CAPS
        },
    ] {
        assert_eq!(
            names(create(caps, &|_| {})),
            (Errno::EINVAL, Reason::OUT_OF_RANGE, qp::CAPS.id()),
            "{caps:?}"
        );
    }
    let flags = create(CAPS, &|m| drop_ref(m.put(qp::FLAGS, &2)));
    assert_eq!(names(flags), (Errno::EINVAL, Reason::UNKNOWN_FLAG, qp::FLAGS.id()));
    let doorbell = app
        .call(method::CREATE, class::QP_RC, 0, |m| {
            let pd = ObjectId(parts.pd);
            m.put(qp::PD, &pd)
                .put(qp::SEND_CQ, &ObjectId(parts.cq))
                .put(qp::RECV_CQ, &ObjectId(parts.cq));
            m.put(qp::CAPS, &CAPS).put(schema::DOORBELL, &pd);
        })
        .map(drop)
        .unwrap_err();
    assert_eq!(
        names(doorbell),
        (Errno::EINVAL, Reason::WRONG_CLASS, schema::DOORBELL.id())
    );
}

#[test]
fn u08_the_device_and_its_port_answer() {
    let app = app();
    let answer = app
        .call(method::QUERY, class::DEVICE, 0, |m| {
            m.ask(device::ATTRS)
                .ask(device::DRIVER_ID)
                .ask_text(device::NAME, 32)
                .ask_text(device::DRIVER_NAME, 32);
        })
        .unwrap();
    let reply = answer.reply();
    let attrs = reply.get(device::ATTRS).unwrap();
    assert_eq!(
        (attrs.max_qp, attrs.max_cqe, attrs.max_sge, attrs.comp_vectors),
        (1000, 1 << 16, 32, 4)
    );
    assert_eq!(attrs.fw_version, 1 << 32 | 2 << 16 | 3);
    assert_eq!(
        (reply.text(device::NAME), reply.text(device::DRIVER_NAME)),
        (Some("bench0"), Some("verbena"))
    );
    assert_eq!(reply.get(device::DRIVER_ID), Some(1));

    let answer = app
        .call(method::QUERY, class::PORT, 1, |m| {
            drop_ref(m.ask_array(port::COUNTERS, 16))
        })
        .unwrap();
    let counters: Vec<_> = answer.reply().array(port::COUNTERS).collect();
    assert_eq!(counters.len(), 16);
    assert!(counters[0].name.starts_with(b"sent_msgs\0"));
    for number in [0, 2] {
        let failure = app
            .call(method::QUERY, class::PORT, number, |m| drop_ref(m.ask(port::ATTRS)))
            .map(drop)
            .unwrap_err();
        assert_eq!(failure.errno, Errno::ENOENT);
    }
}

#[test]
fn u23_the_device_dump_takes_a_privilege() {
    let app = app();
    let room = app.bench.user_buffer(1, false);
    let ask = |m: &mut Builder<'_>| drop_ref(m.by_pointer(schema::DUMP, room, 100));
    app.bench.0.privileged.store(false, Ordering::Relaxed);
    let failure = app.call(method::QUERY, class::DEVICE, 0, ask).map(drop).unwrap_err();
    assert_eq!(names(failure), (Errno::EPERM, Reason::NOT_PERMITTED, schema::DUMP.id()));
    app.bench.0.privileged.store(true, Ordering::Relaxed);
    app.call(method::QUERY, class::DEVICE, 0, ask).unwrap();
}

#[test]
fn u10_another_drivers_class_and_attributes_are_told_apart() {
    let app = app();
    let other = rdma_uapi::wire::DriverId(2);
    let failure = app
        .call(method::CREATE, rdma_uapi::wire::driver_class(other, 1), 0, |_| {})
        .map(drop)
        .unwrap_err();
    assert_eq!(failure.reason, Reason::OTHER_DRIVER);
    let foreign = rdma_uapi::schema::Attr::<u64>::new(rdma_uapi::wire::driver_attr(other, 3), "foreign");
    let failure = app.cq(16, |m| drop_ref(m.put(foreign, &1))).unwrap_err();
    assert_eq!((failure.errno, failure.attr), (Errno::EOPNOTSUPP, foreign.id()));
}

#[test]
fn u14_a_queue_pair_is_light() {
    let object = size_of::<rdma_uapi::Object<verbena_core::Verbena<Bench>>>();
    // Beside it: the shared handle of its memory, its entry in the table of numbers, its slot in the store.
    let handle = size_of::<crate::bench::Memory>() + 16;
    let (number, store) = (32, 24);
    assert!(
        object + handle + number + store <= 512,
        "{object} + {handle} + {number} + {store}"
    );
    println!("an object {object}, its memory's handle {handle}, its number {number}, its place {store} bytes");
}

#[test]
fn u05_an_unknown_optional_attribute_is_ignored() {
    let app = app();
    let unknown = rdma_uapi::schema::Attr::<u64>::new(40, "unknown");
    let mut buffer = [0u64; 64];
    let mut message = Builder::new(&mut buffer, class::PD, 0);
    message.optional().put(unknown, &1);
    let message = message.finish().unwrap();
    Context::dispatch(&app.context, method::CREATE.into(), message).unwrap();
    assert_ne!(Reply::new(message).object(), 0);
}
