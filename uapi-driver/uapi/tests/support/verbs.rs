// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! A driver with the classes of a real HCA and no hardware: it writes down what it is told to do.

use super::{Bench, Pinned};
use core::convert::Infallible;
use rdma_uapi::class::{self, cq, device, mr, port, qp};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::Arc;
use rdma_uapi::table::{Additions, ClassOps};
use rdma_uapi::wire::{method, DriverId, ObjectId};
use rdma_uapi::{Call, Cause, Device, Driver, Ending, Errno, Failure, Host, Object, Reason};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Mutex;

pub const ID: DriverId = DriverId(3);

/// What the driver keeps for an object.
pub enum Thing {
    Pd,
    Mr {
        key: u32,
        addr: u64,
        length: u64,
        _pinned: Pinned,
    },
    Cq {
        cqe: u32,
    },
    Qp(Mutex<QpState>),
}

#[derive(Clone, Copy, Default)]
pub struct QpState {
    pub state: u32,
    pub dest: u32,
    pub path: Option<qp::Path>,
}

#[derive(Default)]
pub struct State {
    next: AtomicU32,
    /// Objects ended: class, id, cause.
    pub ended: Mutex<Vec<(u16, u32, Cause)>>,
    /// Contexts closed.
    pub closed: AtomicU32,
    /// The next release fails.
    pub refuse: AtomicBool,
    /// Queries wait until this is false.
    pub hold: AtomicBool,
    pub waiting: AtomicU32,
    /// What interrupts look CQs up in.
    pub cqs: Mutex<Vec<Arc<Object<Verbs>>>>,
}

pub struct Verbs;

impl Driver for Verbs {
    const ID: DriverId = ID;
    const NAME: &'static str = "verbs";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[
            ClassOps {
                schema: &class::device::SCHEMA,
                methods: &[(method::QUERY, device_query)],
                release: None,
            },
            ClassOps {
                schema: &class::port::SCHEMA,
                methods: &[(method::QUERY, port_query)],
                release: None,
            },
            ClassOps {
                schema: &class::pd::SCHEMA,
                methods: &[(method::CREATE, pd_create), (method::QUERY, pd_query)],
                release: Some(release),
            },
            ClassOps {
                schema: &class::mr::SCHEMA,
                methods: &[(method::CREATE, mr_create), (method::QUERY, mr_query)],
                release: Some(release),
            },
            ClassOps {
                schema: &class::cq::SCHEMA,
                methods: &[(method::CREATE, cq_create), (method::QUERY, cq_query)],
                release: Some(release),
            },
            ClassOps {
                schema: &class::qp::RC,
                methods: &[
                    (method::CREATE, qp_create),
                    (method::QUERY, qp_query),
                    (method::MODIFY, qp_modify),
                ],
                release: Some(release),
            },
        ],
        extensions: &[],
        removals: &[],
    };

    type Host = Bench;
    type Device = State;
    type Context = ();
    type Object = Thing;
    type Pending = Infallible;
    type Chain = ();

    fn ports(_: &State) -> u32 {
        2
    }

    fn open(_: &Device<Self>, _: &()) -> Outcome {
        Ok(())
    }

    fn close(device: &Device<Self>, _: &()) {
        device.state().closed.fetch_add(1, Ordering::Relaxed);
    }
}

fn release(ending: &Ending<'_, Verbs>) -> Outcome {
    let device = ending.device();
    if device.refuse.swap(false, Ordering::Relaxed) {
        return Err(Failure::device(Errno::EIO, 0x42));
    }
    let (class, id) = (ending.object.class(), ending.object.id());
    device.cqs.lock().unwrap().retain(|cq| cq.id() != id);
    device.ended.lock().unwrap().push((class, id.0, ending.cause));
    Ok(())
}

fn device_query(call: &mut Call<'_, Verbs>) -> Outcome {
    call.put(
        device::ATTRS,
        &device::DeviceAttrs {
            ports: 2,
            max_qp: 65536,
            ..Default::default()
        },
    )?;
    call.put_text(device::NAME, "verbs0")?;
    call.replaced()
}

fn port_query(call: &mut Call<'_, Verbs>) -> Outcome {
    if !(1..=2).contains(&call.number()) {
        return Err(Failure::new(Errno::ENOENT, Reason::NO_OBJECT).at(rdma_uapi::wire::FIELD_OBJECT, 4));
    }
    call.put(
        port::ATTRS,
        &port::PortAttrs {
            state: port::state::ACTIVE,
            gid_entries: 3,
            ..Default::default()
        },
    )?;
    let gid = |n: u8| port::GidEntry {
        gid: [n; 16],
        index: n.into(),
        ..Default::default()
    };
    call.put_array(port::GIDS, &[gid(0), gid(1), gid(2)])?;
    call.put_array(port::PKEYS, &[0xffff, 0x7fff])
}

fn pd_create(call: &mut Call<'_, Verbs>) -> Outcome {
    let reservation = call.reserve()?;
    let number = call.device().next.fetch_add(1, Ordering::Relaxed);
    call.publish(reservation, Some(Thing::Pd), &[]);
    call.put(class::pd::PDN, &number)
}

fn pd_query(call: &mut Call<'_, Verbs>) -> Outcome {
    call.device().waiting.fetch_add(1, Ordering::Relaxed);
    while call.device().hold.load(Ordering::Relaxed) {
        call.host().pause();
    }
    call.device().waiting.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

fn mr_create(call: &mut Call<'_, Verbs>) -> Outcome {
    let pd = call.require_object(mr::PD)?;
    let (addr, length) = (call.require(mr::ADDR)?, call.require(mr::LENGTH)?);
    if length == 0 {
        return Err(call.out_of_range(mr::LENGTH));
    }
    let pinned = call.host().charge(call.context().owner(), length)?;
    let key = call.device().next.fetch_add(1, Ordering::Relaxed) << 8;
    let reservation = call.reserve()?;
    call.publish(
        reservation,
        Some(Thing::Mr {
            key,
            addr,
            length,
            _pinned: pinned,
        }),
        &[&pd],
    );
    call.put(mr::LKEY, &key)?;
    call.put(mr::RKEY, &key)
}

fn mr_query(call: &mut Call<'_, Verbs>) -> Outcome {
    let Thing::Mr { key, addr, length, .. } = *call.payload() else {
        unreachable!()
    };
    call.put(mr::LKEY, &key)?;
    call.put(mr::ADDR, &addr)?;
    call.put(mr::LENGTH, &length)
}

fn cq_create(call: &mut Call<'_, Verbs>) -> Outcome {
    let cqe = call.require(cq::CQE)?.checked_next_power_of_two();
    let cqe = cqe.ok_or_else(|| call.out_of_range(cq::CQE))?;
    let reservation = call.reserve()?;
    let object = call.publish(reservation, Some(Thing::Cq { cqe }), &[]);
    call.device().cqs.lock().unwrap().push(object);
    call.put(cq::CQE, &cqe)
}

fn cq_query(call: &mut Call<'_, Verbs>) -> Outcome {
    let Thing::Cq { cqe } = *call.payload() else {
        unreachable!()
    };
    call.put(cq::CQE, &cqe)
}

fn modify(call: &Call<'_, Verbs>, qp: &mut QpState) -> Outcome {
    let state = call.get(qp::STATE)?.unwrap_or(qp.state);
    if state > qp::state::RTS {
        return Err(call.out_of_range(qp::STATE));
    }
    // Reaching RTR takes a path: only what the transition needs is asked for.
    if state >= qp::state::RTR && qp.state < qp::state::RTR {
        qp.dest = call.require(qp::DEST_QPN)?;
        qp.path = Some(call.require(qp::PATH)?);
    }
    qp.state = state;
    Ok(())
}

fn qp_create(call: &mut Call<'_, Verbs>) -> Outcome {
    let pd = call.require_object(qp::PD)?;
    let send = call.require_object(qp::SEND_CQ)?;
    let receive = call.require_object(qp::RECV_CQ)?;
    let mut state = QpState::default();
    modify(call, &mut state)?;
    let reservation = call.reserve()?;
    let number = call.device().next.fetch_add(1, Ordering::Relaxed);
    call.publish(reservation, Some(Thing::Qp(Mutex::new(state))), &[&pd, &send, &receive]);
    call.put(qp::QPN, &number)
}

fn with_qp<T>(call: &Call<'_, Verbs>, f: impl FnOnce(&mut QpState) -> T) -> T {
    let Thing::Qp(qp) = call.payload() else {
        unreachable!("the class was checked")
    };
    f(&mut qp.lock().unwrap())
}

fn qp_modify(call: &mut Call<'_, Verbs>) -> Outcome {
    with_qp(call, |qp| modify(call, qp))
}

fn qp_query(call: &mut Call<'_, Verbs>) -> Outcome {
    let qp = with_qp(call, |qp| *qp);
    call.put(qp::STATE, &qp.state)?;
    call.put(qp::DEST_QPN, &qp.dest)
}

pub type Process = super::Process<Verbs>;

impl Process {
    pub fn pd(&self) -> u32 {
        self.call(method::CREATE, class::PD, 0, |_| {}).expect("a PD").object()
    }

    pub fn cq(&self) -> u32 {
        self.call(method::CREATE, class::CQ, 0, |m| {
            m.put(cq::CQE, &100);
        })
        .expect("a CQ")
        .object()
    }

    pub fn mr(&self, pd: u32, length: u64) -> Result<u32, Failure> {
        let sent = self.call(method::CREATE, class::MR, 0, |m| {
            m.put(mr::PD, &ObjectId(pd))
                .put(mr::ADDR, &0x1000)
                .put(mr::LENGTH, &length)
                .put(mr::ACCESS, &1);
        })?;
        Ok(sent.object())
    }

    pub fn qp(&self, pd: u32, cq: u32) -> u32 {
        self.call(method::CREATE, class::QP_RC, 0, |m| {
            m.put(qp::PD, &ObjectId(pd))
                .put(qp::SEND_CQ, &ObjectId(cq))
                .put(qp::RECV_CQ, &ObjectId(cq));
        })
        .expect("a QP")
        .object()
    }

    pub fn destroy(&self, class: u16, object: u32) -> Result<(), Failure> {
        self.call(method::DESTROY, class, object, |_| {}).map(|_| ())
    }

    pub fn queue(&self) -> (u32, ObjectId) {
        use class::event_queue as eq;
        let sent = self.call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
            m.put(eq::CAPACITY, &16).ask(eq::ID);
        });
        let sent = sent.expect("a queue");
        (sent.object(), sent.reply().get(eq::ID).expect("it has an id"))
    }
}
