// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The system-wide node: a list of devices, and word of those that come and go (U17).

use crate::bench::engine::Live;
use crate::bench::scripted::Scripted;
use crate::bench::Bench;
use rdma_uapi::class::device_list::{self, state, DeviceEntry};
use rdma_uapi::class::event_queue::{self, kind, Event};
use rdma_uapi::class::{self, device};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::event::FdObject;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Errno, Failure, Reason};
use std::sync::Arc;
use verbena_core::node::{self, Node, NodeContext, System};

/// Somebody who has the node open.
pub(crate) struct Watcher {
    host: Bench,
    pub(crate) node: Arc<Node<Bench>>,
    context: Arc<NodeContext<Bench>>,
}

impl Watcher {
    pub(crate) fn new() -> Self {
        // Its memory is what counts; no device is behind it.
        let host = Bench::new(Scripted::default());
        let node = node::try_new(host.clone()).unwrap();
        let context = Node::open(&node, ()).unwrap();
        Watcher { host, node, context }
    }

    fn call<T>(
        &self,
        method: u8,
        class: u16,
        fill: impl FnOnce(&mut Builder<'_>),
        read: impl FnOnce(Reply<'_>) -> T,
    ) -> Result<T, Failure> {
        self.call_on(method, class, 0, fill, read)
    }

    pub(crate) fn close(&self) {
        NodeContext::close(&self.context);
    }

    /// An event queue: its id and its descriptor.
    pub(crate) fn event_queue(&self) -> (u32, u32) {
        let ask = |m: &mut Builder<'_>| {
            m.ask(event_queue::ID);
        };
        let read = |reply: Reply<'_>| (reply.get(event_queue::ID).unwrap().0, reply.object());
        self.call(method::CREATE_FD, class::EVENT_QUEUE, ask, read).unwrap()
    }

    pub(crate) fn call_on<T>(
        &self,
        method: u8,
        class: u16,
        object: u32,
        fill: impl FnOnce(&mut Builder<'_>),
        read: impl FnOnce(Reply<'_>) -> T,
    ) -> Result<T, Failure> {
        let mut buffer = vec![0u64; 2048];
        let mut message = Builder::new(&mut buffer, class, object);
        fill(&mut message);
        let message = message.finish().unwrap();
        match NodeContext::dispatch(&self.context, method.into(), message) {
            Ok(()) => Ok(read(Reply::new(message))),
            Err(errno) => Err(Reply::new(message).failure(errno)),
        }
    }

    fn list(&self) -> (u64, Vec<DeviceEntry>) {
        let fill = |m: &mut Builder<'_>| {
            m.ask(device_list::CHANGES).ask_array(device_list::DEVICES, 8);
        };
        self.call(method::QUERY, class::DEVICE_LIST, fill, |reply| {
            (
                reply.get(device_list::CHANGES).unwrap(),
                reply.array(device_list::DEVICES).collect(),
            )
        })
        .unwrap()
    }

    fn queue(&self) -> u32 {
        let fd = self
            .call(method::CREATE_FD, class::EVENT_QUEUE, |_| {}, |reply| reply.object())
            .unwrap();
        self.associate(fd, class::DEVICE_LIST, 0).unwrap();
        fd
    }

    fn on<T>(&self, fd: u32, f: impl FnOnce(&FdObject<System<Bench>>) -> T) -> T {
        let fds = self.host.0.fds.lock().unwrap();
        f(fds[fd as usize].downcast_ref().unwrap())
    }

    fn associate(&self, fd: u32, class: u16, object: u32) -> Result<(), Errno> {
        let mut buffer = [0u64; 64];
        let mut message = Builder::new(&mut buffer, class::EVENT_QUEUE, 0);
        let association = event_queue::Association {
            class,
            object: ObjectId(object),
            cookie: 5,
            ..Default::default()
        };
        message.put_array(event_queue::ASSOCIATE, &[association]);
        let message = message.finish().unwrap();
        self.on(fd, |queue| queue.dispatch(method::MODIFY.into(), message))
    }

    pub(crate) fn events(&self, fd: u32) -> Vec<(u16, u16, u64, u64)> {
        let mut events = [Event::default(); 16];
        let n = self.on(fd, |queue| queue.queue().take(&mut events));
        events[..n]
            .iter()
            .map(|e| (e.kind, e.class, e.cookie, e.data))
            .collect()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end_matches('\0')
}

#[test]
fn u17_the_node_lists_devices_as_they_come_go_and_die() {
    let watcher = Watcher::new();
    let fd = watcher.queue();
    assert_eq!(watcher.list(), (0, vec![]), "it exists without a device");

    let (first, second) = (Live::start(), Live::start());
    node::add(&watcher.node, &first.app.device).unwrap();
    node::add(&watcher.node, &second.app.device).unwrap();
    let of = class::DEVICE_LIST;
    assert_eq!(
        watcher.events(fd),
        [(kind::DEVICE_ADDED, of, 5, 1), (kind::DEVICE_ADDED, of, 5, 2)]
    );
    let (changes, devices) = watcher.list();
    assert_eq!((changes, devices.len()), (2, 2));
    let (name, driver, path) = (
        text(&devices[0].name),
        text(&devices[0].driver_name),
        text(&devices[0].path),
    );
    assert_eq!((name, driver, path), ("bench0", "verbena", "/bench/0"));
    assert_eq!((devices[0].arrival, devices[0].ports, devices[0].index), (1, 1, 3));
    assert_eq!((devices[0].state, devices[0].active_ports), (state::WORKS, 1));
    let ask = |m: &mut Builder<'_>| {
        m.ask(device::ATTRS);
    };
    let answer = first.app.call(method::QUERY, class::DEVICE, 0, ask).unwrap();
    assert_eq!(
        devices[0].node_guid,
        answer.reply().get(device::ATTRS).unwrap().node_guid,
        "the same that the device says of itself"
    );

    first.served().set_link(false);
    assert_eq!(watcher.list().1[0].active_ports, 0);

    verbena_core::remove(&first.app.device);
    node::changed(&watcher.node, &first.app.device);
    assert_eq!(watcher.events(fd), [(kind::DEVICE_CHANGED, of, 5, 1)]);
    let states: Vec<_> = watcher.list().1.iter().map(|d| d.state).collect();
    assert_eq!(states, [state::GONE, state::WORKS]);

    node::remove(&watcher.node, &first.app.device);
    node::remove(&watcher.node, &first.app.device);
    assert_eq!(watcher.events(fd), [(kind::DEVICE_REMOVED, of, 5, 1)]);
    let (changes, devices) = watcher.list();
    assert_eq!((changes, devices.len(), devices[0].arrival), (4, 1, 2));

    node::add(&watcher.node, &first.app.device).unwrap();
    let arrivals: Vec<_> = watcher.list().1.iter().map(|d| d.arrival).collect();
    assert_eq!(arrivals, [2, 3], "an arrival's number is never used again");
}

#[test]
fn u17_the_node_has_no_device_to_report_and_none_of_its_classes() {
    let watcher = Watcher::new();
    let fd = watcher.queue();
    for (class, object) in [
        (class::DEVICE, 0),
        (class::PORT, 0),
        (class::PORT, 1),
        (class::DEVICE_LIST, 1),
    ] {
        assert_eq!(watcher.associate(fd, class, object), Err(Errno::ENOENT), "{class:#x}");
    }
    for class in [class::DEVICE, class::PORT, class::PD, class::CQ, class::QP_RC] {
        let failure = watcher.call(method::QUERY, class, |_| {}, |_| ()).unwrap_err();
        assert_eq!((failure.errno, failure.reason), (Errno::EOPNOTSUPP, Reason::NO_CLASS));
    }
    let live = Live::start();
    let failure = live.app.call(method::QUERY, class::DEVICE_LIST, 0, |_| {}).map(|_| ());
    assert_eq!(
        failure.unwrap_err().reason,
        Reason::NO_CLASS,
        "a device has no list of devices"
    );
}

#[test]
fn u17_devices_come_and_go_while_they_are_listed() {
    let watcher = Watcher::new();
    let device = Live::start().app.device.clone();
    std::thread::scope(|threads| {
        let changing = threads.spawn(|| {
            for _ in 0..200 {
                node::add(&watcher.node, &device).unwrap();
                node::remove(&watcher.node, &device);
            }
        });
        while !changing.is_finished() {
            let (_, devices) = watcher.list();
            assert!(devices.len() <= 1);
        }
    });
    assert_eq!(watcher.list(), (400, vec![]));
}
