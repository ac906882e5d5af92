// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Queue pairs for datagrams: what their class makes of the device.

use crate::bench::client::{App, CAPS};
use crate::bench::scripted::Scripted;
use crate::bench::Bench;
use rdma_uapi::class::{self, interface, qp};
use rdma_uapi::client::Builder;
use rdma_uapi::listing::{self, Record};
use rdma_uapi::wire::method;
use rdma_uapi::{Errno, Failure, Host, Reason};
use std::sync::atomic::Ordering;
use verbena_core::schema;
use verbena_hw::admin::{Command, Opcode};
use verbena_hw::cmd::{CreateQpReq, ModifyQpReq};
use verbena_hw::qp::{attr, QpState, QpType};
use zerocopy::FromBytes;

fn request<T: FromBytes>(command: &Command) -> T {
    T::read_from_prefix(&command.payload).unwrap().0
}

fn create(app: &App, more: impl FnOnce(&mut Builder<'_>)) -> Result<u32, Failure> {
    let parts = app.parts();
    app.bench.model::<Scripted>().seen();
    let answer = app.call(method::CREATE, class::QP_UD, 0, |m| {
        parts.put(m);
        m.put(qp::CAPS, &CAPS).ask(qp::QPN).ask(schema::QP_RINGS);
        more(m);
    })?;
    Ok(answer.object())
}

fn to_rts(m: &mut Builder<'_>) {
    m.put(qp::STATE, &qp::state::RTS).put(qp::PORT, &1);
    m.put(qp::PKEY_INDEX, &0).put(qp::SQ_PSN, &9);
}

#[test]
fn u15_one_create_leads_a_datagram_queue_pair_to_rts() {
    let app = App::start(Bench::new(Scripted::default()));
    create(&app, |m| {
        to_rts(m);
        m.put(qp::QKEY, &0x1234);
    })
    .unwrap();
    let commands = app.bench.model::<Scripted>().seen();
    let made: CreateQpReq = request(&commands[0]);
    assert_eq!(made.qp_type, QpType::UD);
    // 32 bytes of header, 64 of address, two elements or 32 bytes inline.
    assert_eq!(made.sq_log_stride, 7);
    assert_eq!(commands.len(), 2);
    let step: ModifyQpReq = request(&commands[1]);
    let (from, to) = (QpState(step.attrs.cur_state), QpState(step.attrs.state));
    assert_eq!((from, to), (QpState::RESET, QpState::RTS));
    let given = attr::PKEY_INDEX | attr::PORT | attr::QKEY | attr::SQ_PSN;
    assert_eq!(step.mask, attr::STATE | attr::CUR_STATE | given);
    assert_eq!(step.attrs.qkey, 0x1234);
}

#[test]
fn u15_a_datagram_queue_pair_without_a_q_key_is_not_made() {
    let app = App::start(Bench::new(Scripted::default()));
    let failure = create(&app, to_rts).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::MISSING));
    assert_eq!(failure.attr, qp::QKEY.id());
    assert!(
        app.bench.model::<Scripted>().seen().is_empty(),
        "the device was not asked"
    );
}

#[test]
fn u23_a_q_key_for_the_privileged_takes_a_privilege() {
    let app = App::start(Bench::new(Scripted::default()));
    let with = |qkey: u32| {
        create(&app, |m| {
            m.put(qp::STATE, &qp::state::INIT).put(qp::PORT, &1);
            m.put(qp::PKEY_INDEX, &0).put(qp::QKEY, &qkey);
        })
    };
    app.bench.0.privileged.store(false, Ordering::Relaxed);
    let failure = with(1 << 31).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EPERM, Reason::NOT_PERMITTED));
    assert_eq!(failure.attr, qp::QKEY.id());
    let object = with(0x7fff_ffff).unwrap();
    let failure = app
        .call(method::MODIFY, class::QP_UD, object, |m| {
            m.put(qp::QKEY, &u32::MAX);
        })
        .map(drop)
        .unwrap_err();
    assert_eq!(failure.errno, Errno::EPERM);
    app.bench.0.privileged.store(true, Ordering::Relaxed);
    with(1 << 31).unwrap();
}

#[test]
fn u23_what_an_attribute_takes_is_listed() {
    let app = App::start(Bench::new(Scripted::default()));
    let room = app.bench.user_buffer(32, false);
    let size = 32 * 4096;
    let answer = app.call(method::QUERY, class::INTERFACE, 0, |m| {
        m.by_pointer(interface::LISTING, room, size);
    });
    let answer = answer.unwrap();
    let written = answer.reply().answered(interface::LISTING.id()).unwrap();
    assert!(!written.truncated);
    let written = written.written;
    let mut bytes = vec![0; written as usize];
    app.bench.copy_in(&(), room, &mut bytes).unwrap();
    let records: Vec<_> = bytes
        .chunks_exact(size_of::<Record>())
        .map(|bytes| Record::read_from_bytes(bytes).unwrap())
        .collect();
    let rules: Vec<_> = records
        .iter()
        .filter(|record| record.kind == listing::kind::ATTR && record.access != listing::access::ANY)
        .map(|record| (record.name(), record.access, record.bit))
        .collect();
    let everybodys =
        [schema::DUMP.spec, schema::EVENT_RINGS.spec].map(|spec| (spec.name, listing::access::NET_ADMIN, 0));
    for attr in &everybodys {
        assert_eq!(rules.iter().filter(|&rule| rule == attr).count(), 1, "{attr:?}");
    }
    let qkey = (qp::QKEY.spec.name, listing::access::NET_RAW, 32);
    assert!(
        rules.contains(&qkey) && rules.iter().all(|rule| everybodys.contains(rule) || *rule == qkey),
        "{rules:?}"
    );
}

#[test]
fn u23_a_message_that_is_wrong_is_no_way_around_an_attributes_rule() {
    let app = App::start(Bench::new(Scripted::default()));
    app.bench.0.privileged.store(false, Ordering::Relaxed);
    let parts = app.parts();
    let refused = |more: &dyn Fn(&mut Builder<'_>)| {
        let failure = app.call(method::CREATE, class::QP_UD, 0, |m| {
            parts.put(m);
            more(m);
        });
        failure.map(drop).unwrap_err()
    };
    // Behind one that is harmless, the second of the two is found too.
    let failure = refused(&|m| {
        m.put(qp::QKEY, &1).put(qp::QKEY, &u32::MAX);
    });
    assert_eq!((failure.reason, failure.attr), (Reason::NOT_PERMITTED, qp::QKEY.id()));
    // Nobody is refused for what is not there.
    let failure = refused(&|m| {
        m.put(qp::QKEY, &1);
    });
    assert_eq!(failure.reason, Reason::MISSING);
}

#[test]
fn u08_a_datagram_queue_pair_knows_no_attribute_of_a_connection() {
    let app = App::start(Bench::new(Scripted::default()));
    for attr in [qp::TIMEOUT, qp::DEST_QPN, qp::ACCESS, qp::PATH_MTU] {
        let failure = create(&app, |m| {
            m.put(attr, &1);
        })
        .unwrap_err();
        assert_eq!(
            (failure.errno, failure.reason),
            (Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR)
        );
        assert_eq!(failure.attr & 0x3f, attr.id());
    }
    assert!(app.bench.model::<Scripted>().seen().is_empty());
    let opcode = Opcode::CREATE_QP;
    create(&app, |_| {}).unwrap();
    assert_eq!(app.bench.model::<Scripted>().seen()[0].opcode, opcode);
}
