// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! XRC: what its classes make of the device, and whose a domain is.

use crate::bench::client::{App, Parts, CAPS};
use crate::bench::scripted::Scripted;
use crate::bench::Bench;
use rdma_uapi::class::{self, qp, srq, xrcd};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Context, Errno, Failure, Reason};
use verbena_core::schema;
use verbena_hw::admin::{Command, Opcode, Status};
use verbena_hw::cmd::{CreateQpReq, CreateSrqReq, HandleReq};
use verbena_hw::id::{Cqn, Srqn};
use verbena_hw::qp::QpType;
use verbena_hw::ring::PageList;
use verbena_hw::srq::SrqType;
use zerocopy::FromBytes;

fn app() -> App {
    let app = App::start(Bench::new(Scripted::default()));
    seen(&app);
    app
}

fn seen(app: &App) -> Vec<Command> {
    app.bench.model::<Scripted>().seen()
}

fn opcodes(app: &App) -> Vec<Opcode> {
    seen(app).iter().map(|command| command.opcode).collect()
}

fn request<T: FromBytes>(command: &Command) -> T {
    T::read_from_prefix(&command.payload).unwrap().0
}

/// A domain of a file, or of none: its object and its number.
fn domain(app: &App, file: Option<u32>, flags: u32) -> Result<(u32, u32), Failure> {
    let answer = app.call(method::CREATE, class::XRCD, 0, |m| {
        m.put_some(xrcd::FILE, file).put(xrcd::FLAGS, &flags).ask(xrcd::XRCDN);
    })?;
    Ok((answer.object(), answer.reply().get(xrcd::XRCDN).unwrap()))
}

fn fails<T: core::fmt::Debug>(result: Result<T, Failure>, errno: Errno, reason: Reason, attr: u16) {
    let failure = result.expect_err("it cannot succeed");
    assert_eq!((failure.errno, failure.reason, failure.attr), (errno, reason, attr));
}

fn target(app: &App, domain: u32) -> u32 {
    let answer = app.call(method::CREATE, class::QP_XRC_TGT, 0, |m| {
        m.put(qp::XRCD, &ObjectId(domain)).ask(qp::QPN);
    });
    answer.unwrap().object()
}

const CREATE: u32 = xrcd::flag::CREATE;
const ALONE: u32 = xrcd::flag::CREATE | xrcd::flag::EXCLUSIVE;

#[test]
fn u08_xrc_domain_of_a_file_is_one_for_all_contexts() {
    let (one, two) = {
        let one = app();
        let two = one.another();
        (one, two)
    };
    // The bench's descriptors 7 and 17 are of one file, 8 is of another.
    fails(
        domain(&one, Some(7), 0),
        Errno::ENOENT,
        Reason::NO_OBJECT,
        xrcd::FILE.id(),
    );
    fails(
        domain(&one, Some(1000), CREATE),
        Errno::EBADF,
        Reason::NO_OBJECT,
        xrcd::FILE.id(),
    );
    fails(
        domain(&one, Some(7), 4),
        Errno::EINVAL,
        Reason::UNKNOWN_FLAG,
        xrcd::FLAGS.id(),
    );
    assert_eq!(opcodes(&one), []);
    let (first, number) = domain(&one, Some(7), ALONE).unwrap();
    assert_eq!(opcodes(&one), [Opcode::CREATE_XRCD]);
    fails(
        domain(&two, Some(17), ALONE),
        Errno::EEXIST,
        Reason::IN_USE,
        xrcd::FILE.id(),
    );
    let (second, same) = domain(&two, Some(17), 0).unwrap();
    assert_eq!(same, number);
    let (_, other) = domain(&two, Some(8), CREATE).unwrap();
    let (_, own) = domain(&two, None, 0).unwrap();
    assert!(other != number && own != number && own != other);
    assert_eq!(opcodes(&one), [Opcode::CREATE_XRCD; 2]);
    // The device's goes with the last.
    one.destroy(class::XRCD, first).unwrap();
    assert_eq!(opcodes(&one), []);
    two.destroy(class::XRCD, second).unwrap();
    let commands = seen(&two);
    assert_eq!(commands.len(), 1);
    assert_eq!(commands[0].opcode, Opcode::DESTROY_XRCD);
    assert_eq!(request::<HandleReq>(&commands[0]).handle, number);
    fails(
        domain(&two, Some(7), 0),
        Errno::ENOENT,
        Reason::NO_OBJECT,
        xrcd::FILE.id(),
    );
    let (_, fresh) = domain(&two, Some(7), ALONE).unwrap();
    assert_ne!(fresh, number);
}

#[test]
fn u13_xrc_domain_goes_with_the_last_context_that_has_it() {
    let one = app();
    let two = one.another();
    let (mine, number) = domain(&one, Some(3), CREATE).unwrap();
    domain(&two, Some(3), CREATE).unwrap();
    target(&two, domain(&two, Some(3), 0).unwrap().0);
    seen(&one);
    Context::close(&two.context);
    // What was in it went before, but not the domain, which is here too.
    assert_eq!(opcodes(&one), [Opcode::DESTROY_QP]);
    one.destroy(class::XRCD, mine).unwrap();
    let commands = seen(&one);
    assert_eq!(request::<HandleReq>(&commands[0]).handle, number);
}

#[test]
fn u13_xrc_domain_that_could_not_be_made_is_of_no_file() {
    let app = app();
    let model = app.bench.model::<Scripted>();
    model.refuse(Opcode::CREATE_XRCD, Status::LIMIT, 9);
    let failure = domain(&app, Some(7), CREATE).expect_err("there are no more");
    assert_eq!(failure.reason, Reason::DEVICE);
    fails(
        domain(&app, Some(7), 0),
        Errno::ENOENT,
        Reason::NO_OBJECT,
        xrcd::FILE.id(),
    );
    // And one that the device does not let go is still there.
    let (object, number) = domain(&app, Some(7), CREATE).unwrap();
    model.refuse(Opcode::DESTROY_XRCD, Status::IN_USE, 1);
    assert!(app.destroy(class::XRCD, object).is_err());
    assert_eq!(domain(&app, Some(7), 0).unwrap().1, number);
}

#[test]
fn u08_xrc_classes_make_what_they_say() {
    let app = app();
    let Parts { pd, cq, cqn, .. } = app.parts();
    let (xrcd, xrcdn) = domain(&app, None, 0).unwrap();
    let parts = app.parts();
    seen(&app);
    let made = app.call(method::CREATE, class::SRQ, 0, |m| {
        m.put(srq::PD, &ObjectId(pd)).put(srq::MAX_WR, &16);
        m.put(srq::XRCD, &ObjectId(xrcd)).put(srq::CQ, &ObjectId(cq));
        m.put(schema::CQE_COOKIE, &0x77).ask(schema::SRQ_RING);
    });
    let queue = made.unwrap().object();
    let req: CreateSrqReq = request(&seen(&app)[0]);
    assert_eq!((req.srq_type, req.xrcdn, req.cookie), (SrqType::XRC, xrcdn, 0x77));
    assert_eq!(req.cqn, Cqn::truncate(cqn));
    let reply = app.call(method::QUERY, class::SRQ, queue, |m| {
        m.ask(srq::XRCD).ask(srq::CQ);
    });
    let reply = reply.unwrap();
    assert_eq!(reply.reply().get(srq::XRCD), Some(ObjectId(xrcd)));
    assert_eq!(reply.reply().get(srq::CQ), Some(ObjectId(cq)));
    for (only, missing) in [(srq::XRCD, srq::CQ), (srq::CQ, srq::XRCD)] {
        let object = if only.id() == srq::CQ.id() { cq } else { xrcd };
        let made = app.call(method::CREATE, class::SRQ, 0, |m| {
            m.put(srq::PD, &ObjectId(pd))
                .put(srq::MAX_WR, &16)
                .put(only, &ObjectId(object));
        });
        fails(made.map(drop), Errno::EINVAL, Reason::MISSING, missing.id());
    }
    seen(&app);

    let made = app.call(method::CREATE, class::QP_XRC_INI, 0, |m| {
        m.put(qp::PD, &ObjectId(parts.pd)).put(qp::SEND_CQ, &ObjectId(parts.cq));
        m.put(schema::DOORBELL, &ObjectId(parts.doorbell));
        m.put(qp::CAPS, &CAPS).ask(qp::QPN).ask(schema::QP_RINGS);
    });
    let rings = made.unwrap().reply().get(schema::QP_RINGS).unwrap();
    let req: CreateQpReq = request(&seen(&app)[0]);
    assert_eq!(
        (req.qp_type, req.xrcdn, req.srqn),
        (QpType::XRC_INI, 0, Srqn::default())
    );
    assert_eq!((req.rq, req.recv_cqn), (PageList::default(), Cqn::default()));
    // A header of 32 bytes, the name of a queue, then the operands and the element of an atomic.
    assert_eq!((req.sq_log_stride, rings.recv_log_entries), (7, 0));

    let object = target(&app, xrcd);
    let req: CreateQpReq = request(&seen(&app)[0]);
    assert_eq!(
        (req.qp_type, req.xrcdn, req.sq),
        (QpType::XRC_TGT, xrcdn, PageList::default())
    );
    let failure = app.destroy(class::XRCD, xrcd).expect_err("things are in it");
    assert_eq!((failure.errno, failure.reason), (Errno::EBUSY, Reason::IN_USE));
    app.destroy(class::QP_XRC_TGT, object).unwrap();
    app.destroy(class::SRQ, queue).unwrap();
    app.destroy(class::XRCD, xrcd).unwrap();
    let named = app.qp(&app.parts(), |m| {
        m.put(qp::SRQ, &ObjectId(queue));
    });
    assert_eq!(named.expect_err("it is gone").errno, Errno::ENOENT);
}

/// A target's number.
fn number(app: &App, target: u32) -> u32 {
    let answer = app.call(method::QUERY, class::QP_XRC_TGT, target, |m| {
        m.ask(qp::QPN);
    });
    answer.unwrap().reply().get(qp::QPN).unwrap()
}

/// Opens a target by its number, and says a state beside, if there is one.
fn open(app: &App, domain: u32, qpn: u32, state: Option<u32>) -> Result<u32, Failure> {
    let answer = app.call(method::CREATE, class::QP_XRC_TGT, 0, |m| {
        m.put(qp::XRCD, &ObjectId(domain))
            .put(qp::OPEN, &qpn)
            .put_some(qp::STATE, state);
    })?;
    Ok(answer.object())
}

#[test]
fn u08_xrc_target_is_all_contexts_that_open_it() {
    let one = app();
    let two = one.another();
    let (first, _) = domain(&one, Some(7), CREATE).unwrap();
    let (second, _) = domain(&two, Some(17), 0).unwrap();
    let (apart, _) = domain(&two, None, 0).unwrap();
    let made = target(&one, first);
    let qpn = number(&one, made);
    seen(&one);
    // Of another domain there is no such target, and a target has its attributes already.
    for (domain, qpn, state, errno, reason) in [
        (apart, qpn, None, Errno::ENOENT, Reason::NO_OBJECT),
        (second, qpn + 1, None, Errno::ENOENT, Reason::NO_OBJECT),
        (second, u32::MAX, None, Errno::ENOENT, Reason::NO_OBJECT),
        (second, qpn, Some(qp::state::INIT), Errno::EINVAL, Reason::CONFLICT),
    ] {
        fails(open(&two, domain, qpn, state), errno, reason, qp::OPEN.id());
    }
    let opened = open(&two, second, qpn, None).unwrap();
    let again = open(&two, second, qpn, None).unwrap();
    assert_eq!(opcodes(&one), [], "the device has nothing to do");
    assert_eq!(number(&two, opened), qpn);
    assert_eq!(opcodes(&one), [Opcode::QUERY_QP]);
    // The device's goes with the last, in whatever order.
    let busy = two.destroy(class::XRCD, second).expect_err("a target is open");
    assert_eq!(busy.errno, Errno::EBUSY);
    one.destroy(class::QP_XRC_TGT, made).unwrap();
    one.destroy(class::XRCD, first).unwrap();
    two.destroy(class::QP_XRC_TGT, opened).unwrap();
    assert_eq!(opcodes(&one), []);
    two.destroy(class::QP_XRC_TGT, again).unwrap();
    let commands = seen(&two);
    assert_eq!(commands.len(), 1);
    assert_eq!(commands[0].opcode, Opcode::DESTROY_QP);
    assert_eq!(request::<HandleReq>(&commands[0]).handle, qpn);
    fails(
        open(&two, second, qpn, None),
        Errno::ENOENT,
        Reason::NO_OBJECT,
        qp::OPEN.id(),
    );
}
