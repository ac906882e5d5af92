// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! An application's side: messages out, replies in.

use super::Bench;
use rdma_uapi::class::{self, cq, event_queue, mr, pd, qp};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::event::FdObject;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Errno, Failure};
use std::sync::Arc;
use verbena_core::schema::{self, CqRing, DoorbellMaps, QpRings, RingMemoryMap};
use verbena_core::{Context, Device, Hardware, Verbena};

/// An attached device and one open file on it.
pub struct App {
    pub bench: Bench,
    pub device: Arc<Device<Bench>>,
    pub context: Arc<Context<Bench>>,
}

/// A reply that outlives its buffer.
pub struct Answer(Vec<u8>);

impl Answer {
    pub fn reply(&self) -> Reply<'_> {
        Reply::new(&self.0)
    }

    pub fn object(&self) -> u32 {
        self.reply().object()
    }
}

impl App {
    pub fn start(bench: Bench) -> Self {
        let hardware = Hardware::start(bench.clone()).unwrap_or_else(|error| panic!("{error}"));
        let device = Device::try_new(hardware, bench.clone()).unwrap_or_else(|error| panic!("{error}"));
        let context = Device::open(&device, ()).unwrap();
        App { bench, device, context }
    }

    /// Another open file on the same device.
    pub fn another(&self) -> App {
        let context = Device::open(&self.device, ()).unwrap();
        App {
            bench: self.bench.clone(),
            device: self.device.clone(),
            context,
        }
    }

    pub fn call(
        &self,
        method: u8,
        class: u16,
        object: u32,
        fill: impl FnOnce(&mut Builder<'_>),
    ) -> Result<Answer, Failure> {
        let mut buffer = vec![0u64; 8192];
        let mut builder = Builder::new(&mut buffer, class, object);
        fill(&mut builder);
        let message = builder.finish().unwrap();
        match Context::<Bench>::dispatch(&self.context, method.into(), message) {
            Ok(()) => Ok(Answer(message.to_vec())),
            Err(errno) => Err(Reply::new(message).failure(errno)),
        }
    }

    pub fn destroy(&self, class: u16, object: u32) -> Result<(), Failure> {
        self.call(method::DESTROY, class, object, |_| {}).map(drop)
    }

    pub fn pd(&self) -> u32 {
        self.call(method::CREATE, class::PD, 0, |m| {
            m.ask(pd::PDN);
        })
        .unwrap()
        .object()
    }

    pub fn mr(&self, pd: u32, addr: u64, length: u64, access: u32) -> Result<Answer, Failure> {
        self.call(method::CREATE, class::MR, 0, |m| {
            m.put(mr::PD, &ObjectId(pd))
                .put(mr::ADDR, &addr)
                .put(mr::LENGTH, &length)
                .put(mr::ACCESS, &access);
            m.ask(mr::LKEY).ask(mr::RKEY);
        })
    }

    pub fn doorbell(&self) -> (u32, DoorbellMaps) {
        let answer = self
            .call(method::CREATE, schema::DOORBELL_CLASS, 0, |m| {
                m.ask(schema::DOORBELL_MAPS);
            })
            .unwrap();
        (answer.object(), answer.reply().get(schema::DOORBELL_MAPS).unwrap())
    }

    pub fn cq(&self, entries: u32, more: impl FnOnce(&mut Builder<'_>)) -> Result<(u32, u32, CqRing), Failure> {
        let answer = self.call(method::CREATE, class::CQ, 0, |m| {
            m.put(cq::CQE, &entries).ask(cq::CQN).ask(schema::CQ_RING);
            more(m);
        })?;
        let reply = answer.reply();
        Ok((
            reply.object(),
            reply.get(cq::CQN).unwrap(),
            reply.get(schema::CQ_RING).unwrap(),
        ))
    }

    pub fn qp(&self, on: &Parts, more: impl FnOnce(&mut Builder<'_>)) -> Result<(u32, u32, QpRings), Failure> {
        let answer = self.call(method::CREATE, class::QP_RC, 0, |m| {
            on.put(m);
            m.put(qp::CAPS, &CAPS).ask(qp::QPN).ask(schema::QP_RINGS);
            more(m);
        })?;
        let reply = answer.reply();
        Ok((
            reply.object(),
            reply.get(qp::QPN).unwrap(),
            reply.get(schema::QP_RINGS).unwrap(),
        ))
    }

    /// A ring memory of so many bytes.
    pub fn ring_memory(&self, length: u64) -> Result<(u32, RingMemoryMap), Failure> {
        let answer = self.call(method::CREATE, schema::RING_MEMORY_CLASS, 0, |m| {
            m.put(schema::RING_MEMORY_LENGTH, &length).ask(schema::RING_MEMORY_MAP);
        })?;
        Ok((answer.object(), answer.reply().get(schema::RING_MEMORY_MAP).unwrap()))
    }

    /// What a queue pair is made from.
    pub fn parts(&self) -> Parts {
        let (cq, cqn, _) = self.cq(64, |_| {}).unwrap();
        let (doorbell, maps) = self.doorbell();
        Parts {
            pd: self.pd(),
            cq,
            cqn,
            doorbell,
            doorbell_index: maps.index,
        }
    }

    /// An event queue: its id and its descriptor.
    pub fn event_queue(&self) -> (u32, u32) {
        let answer = self
            .call(method::CREATE_FD, class::EVENT_QUEUE, 0, |m| {
                m.ask(event_queue::ID);
            })
            .unwrap();
        (answer.reply().get(event_queue::ID).unwrap().0, answer.object())
    }

    /// The next event of an event queue, by its descriptor.
    pub fn next_event(&self, fd: u32) -> Option<event_queue::Event> {
        let fds = self.bench.0.fds.lock().unwrap();
        let object = fds[fd as usize].downcast_ref::<FdObject<Verbena<Bench>>>().unwrap();
        let mut events = [event_queue::Event::default()];
        (object.queue().take(&mut events) == 1).then_some(events[0])
    }

    /// Associates the device or a port with an event queue.
    pub fn associate(&self, fd: u32, class: u16, object: u32, cookie: u64) -> Result<(), Errno> {
        let fds = self.bench.0.fds.lock().unwrap();
        let queue = fds[fd as usize].downcast_ref::<FdObject<Verbena<Bench>>>().unwrap();
        let mut buffer = [0u64; 64];
        let mut message = Builder::new(&mut buffer, class::EVENT_QUEUE, 0);
        let association = event_queue::Association {
            class,
            object: ObjectId(object),
            cookie,
            ..Default::default()
        };
        message.put_array(event_queue::ASSOCIATE, &[association]);
        queue.dispatch(method::MODIFY.into(), message.finish().unwrap())
    }
}

/// What a queue pair is made from.
pub struct Parts {
    pub pd: u32,
    pub cq: u32,
    pub cqn: u32,
    pub doorbell: u32,
    pub doorbell_index: u32,
}

pub const CAPS: qp::QpCaps = qp::QpCaps {
    max_send_wr: 16,
    max_recv_wr: 16,
    max_send_sge: 2,
    max_recv_sge: 1,
    max_inline: 32,
    reserved: 0,
};

impl Parts {
    pub fn put(&self, message: &mut Builder<'_>) {
        message
            .put(qp::PD, &ObjectId(self.pd))
            .put(qp::SEND_CQ, &ObjectId(self.cq))
            .put(qp::RECV_CQ, &ObjectId(self.cq))
            .put(schema::DOORBELL, &ObjectId(self.doorbell));
    }
}
