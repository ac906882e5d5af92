// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Raw Ethernet queue pairs and flow rules: what their classes make of the device.

use crate::bench::client::{App, CAPS};
use crate::bench::scripted::Scripted;
use crate::bench::Bench;
use rdma_uapi::class::flow::{self, flag, kind, FlowFields};
use rdma_uapi::class::{self, qp};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Errno, Failure, Reason};
use std::sync::atomic::Ordering;
use verbena_core::schema;
use verbena_hw::admin::Command;
use verbena_hw::cmd::{CreateFlowReq, CreateQpReq, ModifyQpReq};
use verbena_hw::flow::{flags, FlowType};
use verbena_hw::qp::{attr, QpState, QpType};
use zerocopy::FromBytes;

fn request<T: FromBytes>(command: &Command) -> T {
    T::read_from_prefix(&command.payload).unwrap().0
}

fn create(app: &App, more: impl FnOnce(&mut Builder<'_>)) -> Result<u32, Failure> {
    let parts = app.parts();
    app.bench.model::<Scripted>().seen();
    let answer = app.call(method::CREATE, class::QP_RAW, 0, |m| {
        parts.put(m);
        m.put(qp::CAPS, &CAPS).ask(qp::QPN).ask(schema::QP_RINGS);
        more(m);
    })?;
    Ok(answer.object())
}

fn rule(app: &App, more: impl FnOnce(&mut Builder<'_>)) -> Result<u32, Failure> {
    app.bench.model::<Scripted>().seen();
    let answer = app.call(method::CREATE, class::FLOW, 0, |m| {
        m.put(flow::PORT, &1);
        more(m);
    })?;
    Ok(answer.object())
}

#[test]
fn u15_one_create_leads_a_raw_queue_pair_to_rts() {
    let app = App::start(Bench::new(Scripted::default()));
    create(&app, |m| {
        m.put(qp::STATE, &qp::state::RTS).put(qp::PORT, &1);
    })
    .unwrap();
    let commands = app.bench.model::<Scripted>().seen();
    let made: CreateQpReq = request(&commands[0]);
    assert_eq!(made.qp_type, QpType::RAW);
    // 32 bytes of header, two elements or 32 bytes inline.
    assert_eq!(made.sq_log_stride, 6);
    let step: ModifyQpReq = request(&commands[1]);
    assert_eq!(QpState(step.attrs.state), QpState::RTS);
    assert_eq!(step.mask, attr::STATE | attr::CUR_STATE | attr::PORT);
}

#[test]
fn u23_raw_queue_pairs_and_flow_rules_take_a_privilege() {
    let app = App::start(Bench::new(Scripted::default()));
    let raw = create(&app, |_| {}).unwrap();
    let to_raw = |m: &mut Builder<'_>| {
        m.put(flow::QP, &ObjectId(raw));
    };
    app.bench.0.privileged.store(false, Ordering::Relaxed);
    for failure in [create(&app, |_| {}).unwrap_err(), rule(&app, to_raw).unwrap_err()] {
        assert_eq!((failure.errno, failure.reason), (Errno::EPERM, Reason::NOT_PERMITTED));
    }
    assert!(
        app.bench.model::<Scripted>().seen().is_empty(),
        "the device was not asked"
    );
    // What somebody else has made and given away may be used.
    app.call(method::QUERY, class::QP_RAW, raw, |m| drop_ref(m.ask(qp::QPN)))
        .map(drop)
        .unwrap();
    app.bench.0.privileged.store(true, Ordering::Relaxed);
    rule(&app, to_raw).unwrap();
}

fn drop_ref<T>(_: &mut T) {}

#[test]
fn u08_flow_attributes_are_the_devices_fields() {
    let app = App::start(Bench::new(Scripted::default()));
    let raw = create(&app, |_| {}).unwrap();
    let mut value = FlowFields {
        dmac: [1, 2, 3, 4, 5, 6],
        ip_version: 4,
        protocol: 17,
        dst_port: [0x12, 0x34],
        ..FlowFields::default()
    };
    value.src_ip[..4].copy_from_slice(&[10, 0, 0, 1]);
    let mask = FlowFields {
        dmac: [0xff; 6],
        ip_version: 0xff,
        protocol: 0xff,
        dst_port: [0xff; 2],
        src_ip: [0xff; 16],
        ..FlowFields::default()
    };
    rule(&app, |m| {
        m.put(flow::QP, &ObjectId(raw)).put(flow::PRIORITY, &9);
        m.put(flow::FLAGS, &(flag::DONT_TRAP | flag::ALLOW_LOOP_BACK));
        m.put(flow::TAG, &0).put(flow::MATCH, &value).put(flow::MASK, &mask);
    })
    .unwrap();
    let made: CreateFlowReq = request(&app.bench.model::<Scripted>().seen()[0]);
    assert_eq!((made.flow_type, made.priority, made.port), (FlowType::NORMAL, 9, 1));
    assert_eq!(
        made.flags,
        flags::DONT_TRAP | flags::LOOPBACK | flags::TAG,
        "a tag of zero is one"
    );
    assert_eq!((made.value.dmac, made.value.dst_port), (value.dmac, value.dst_port));
    assert_eq!((made.value.src_ip, made.mask.src_ip), (value.src_ip, mask.src_ip));
    assert_eq!((made.value.ip_version, made.mask.protocol), (4, 0xff));
    assert_eq!(made.reserved, [0; 4]);
}

#[test]
fn u08_flow_a_rule_leads_somewhere_or_drops() {
    let app = App::start(Bench::new(Scripted::default()));
    let raw = create(&app, |_| {}).unwrap();
    let (rc, ..) = app.qp(&app.parts(), |_| {}).unwrap();
    let failure = |result: Result<u32, Failure>| {
        let failure = result.unwrap_err();
        assert!(
            app.bench.model::<Scripted>().seen().is_empty(),
            "the device was not asked"
        );
        (failure.errno, failure.reason, failure.attr & 0x3f)
    };
    let made = rule(&app, |_| {});
    assert_eq!(failure(made), (Errno::EINVAL, Reason::MISSING, flow::QP.id()));
    let made = rule(&app, |m| {
        m.put(flow::QP, &ObjectId(raw)).put(flow::FLAGS, &flag::DROP);
    });
    assert_eq!(failure(made), (Errno::EINVAL, Reason::CONFLICT, flow::QP.id()));
    let made = rule(&app, |m| drop_ref(m.put(flow::QP, &ObjectId(rc))));
    assert_eq!(failure(made), (Errno::EINVAL, Reason::WRONG_CLASS, flow::QP.id()));
    // The numbers of libibverbs that mean what the device cannot do.
    let made = rule(&app, |m| drop_ref(m.put(flow::FLAGS, &(1 << 2))));
    assert_eq!(failure(made), (Errno::EINVAL, Reason::UNKNOWN_FLAG, flow::FLAGS.id()));
    for (attr, value) in [
        (flow::TYPE, kind::SNIFFER + 1),
        (flow::PRIORITY, 1 << 16),
        (flow::TAG, 1 << 24),
    ] {
        let made = rule(&app, |m| {
            m.put(flow::QP, &ObjectId(raw)).put(attr, &value);
        });
        assert_eq!(failure(made), (Errno::EINVAL, Reason::OUT_OF_RANGE, attr.id()));
    }
    rule(&app, |m| drop_ref(m.put(flow::FLAGS, &flag::DROP))).unwrap();
    let made: CreateFlowReq = request(&app.bench.model::<Scripted>().seen()[0]);
    assert_eq!((made.flags, made.qpn.get()), (flags::DROP, 0));
}
