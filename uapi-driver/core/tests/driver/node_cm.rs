// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Communication ids of the system-wide node, while devices come and go (U17). What they do with queue pairs is in the
//! conformance suite.

use crate::bench::client::App;
use crate::bench::engine::Live;
use crate::node::Watcher;
use rdma_uapi::class::cm_id::{self, state, CmAddress};
use rdma_uapi::class::{self, event_queue::kind, port};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Errno, Failure, Reason};
use verbena_core::node;

impl Watcher {
    fn on_id<T>(
        &self,
        method: u8,
        id: u32,
        fill: impl FnOnce(&mut Builder<'_>),
        read: impl FnOnce(Reply<'_>) -> T,
    ) -> Result<T, Failure> {
        self.call_on(method, class::CM_ID, id, fill, read)
    }

    fn id(&self, events: Option<u32>) -> u32 {
        let fill = |m: &mut Builder<'_>| {
            m.put_some(class::EVENT_QUEUE_OF, events.map(ObjectId));
        };
        self.on_id(method::CREATE, 0, fill, |reply| reply.object()).unwrap()
    }

    fn bind(&self, id: u32, gid: [u8; 16], port: u16) -> Result<u16, Failure> {
        let wanted = address(gid, port);
        let fill = |m: &mut Builder<'_>| {
            m.put(cm_id::LOCAL, &wanted);
        };
        self.on_id(cm_id::BIND, id, fill, |reply| reply.get(cm_id::LOCAL).unwrap().port)
    }

    fn listen(&self, id: u32) -> Result<(), Failure> {
        let fill = |m: &mut Builder<'_>| {
            m.put(cm_id::BACKLOG, &4);
        };
        self.on_id(cm_id::LISTEN, id, fill, |_| ())
    }

    /// The state, and the device that it is on.
    fn standing(&self, id: u32) -> Result<(u32, Option<u64>), Failure> {
        let fill = |m: &mut Builder<'_>| {
            m.ask(cm_id::STATE).ask(cm_id::DEVICE);
        };
        self.on_id(method::QUERY, id, fill, |reply| {
            (reply.get(cm_id::STATE).unwrap(), reply.get(cm_id::DEVICE))
        })
    }

    fn destroy_id(&self, id: u32) {
        self.on_id(method::DESTROY, id, |_| {}, |_| ()).unwrap();
    }
}

fn address(gid: [u8; 16], port: u16) -> CmAddress {
    CmAddress {
        gid,
        port,
        ..Default::default()
    }
}

/// Whether a device's own file still has the port to give.
fn is_free(app: &App, port: u16) -> bool {
    let id = app.call(method::CREATE, class::CM_ID, 0, |_| {}).unwrap().object();
    let bound = app.call(cm_id::BIND, class::CM_ID, id, |m| {
        m.put(cm_id::LOCAL, &address([0; 16], port));
    });
    app.destroy(class::CM_ID, id).unwrap();
    match bound {
        Ok(_) => true,
        Err(failure) => {
            assert_eq!(failure.errno, Errno::EADDRINUSE);
            false
        }
    }
}

fn gid_of(app: &App) -> [u8; 16] {
    let ask = |m: &mut Builder<'_>| {
        m.ask_array(port::GIDS, 4);
    };
    let answer = app.call(method::QUERY, class::PORT, 1, ask).unwrap();
    let first = answer.reply().array(port::GIDS).next();
    first.unwrap().gid
}

#[test]
fn u17_an_id_for_all_devices_is_on_each_also_on_one_that_comes() {
    let watcher = Watcher::new();
    let first = Live::start();
    node::add(&watcher.node, &first.app.device).unwrap();

    let id = watcher.id(None);
    assert_eq!(watcher.standing(id).unwrap(), (state::IDLE, None));
    assert_eq!(watcher.listen(id).unwrap_err().reason, Reason::BAD_STATE);
    let port = watcher.bind(id, [0; 16], 0).unwrap();
    assert!(port >= 49152);
    assert_eq!(watcher.standing(id).unwrap(), (state::BOUND, None));
    watcher.listen(id).unwrap();
    assert_eq!(watcher.standing(id).unwrap(), (state::LISTENING, None));
    assert_eq!(watcher.bind(id, [0; 16], 0).unwrap_err().reason, Reason::BAD_STATE);

    let second = Live::start();
    assert!(is_free(&second.app, port));
    node::add(&watcher.node, &second.app.device).unwrap();
    for live in [&first, &second] {
        assert!(!is_free(&live.app, port));
    }
    let other = watcher.id(None);
    assert_eq!(watcher.bind(other, [0; 16], port).unwrap_err().errno, Errno::EADDRINUSE);

    node::remove(&watcher.node, &first.app.device);
    assert!(is_free(&first.app, port), "the node has nothing to do with it any more");
    assert_eq!(watcher.standing(id).unwrap(), (state::LISTENING, None));
    watcher.destroy_id(id);
    assert!(is_free(&second.app, port));
    watcher.bind(other, [0; 16], port).unwrap();
}

#[test]
fn u17_ports_of_all_devices_are_apart_where_there_is_no_device() {
    let watcher = Watcher::new();
    let ids = [watcher.id(None), watcher.id(None)];
    let port = watcher.bind(ids[0], [0; 16], 0).unwrap();
    assert_eq!(
        watcher.bind(ids[1], [0; 16], port).unwrap_err().errno,
        Errno::EADDRINUSE
    );
    assert_ne!(watcher.bind(ids[1], [0; 16], 0).unwrap(), port);
    let foreign = watcher.id(None);
    let nobody = watcher.bind(foreign, [1; 16], 0).unwrap_err();
    assert_eq!((nobody.errno, nobody.attr), (Errno::EADDRNOTAVAIL, cm_id::LOCAL.id()));
}

#[test]
fn u17_an_id_on_a_device_that_goes_hears_it_and_one_on_all_lives_on() {
    let watcher = Watcher::new();
    let live = Live::start();
    let stays = Live::start();
    for device in [&live.app.device, &stays.app.device] {
        node::add(&watcher.node, device).unwrap();
    }
    let (queue, fd) = watcher.event_queue();
    let on_one = watcher.id(Some(queue));
    let on_all = watcher.id(Some(queue));
    watcher.bind(on_one, gid_of(&live.app), 0).unwrap();
    let port = watcher.bind(on_all, [0; 16], 0).unwrap();
    for id in [on_one, on_all] {
        watcher.listen(id).unwrap();
    }
    // The devices have the same addresses, because each is the first of its own network: the first that came is asked first.
    assert_eq!(watcher.standing(on_one).unwrap(), (state::LISTENING, Some(1)));

    verbena_core::remove(&live.app.device);
    let expected = [(kind::CM_DEVICE_REMOVAL, class::CM_ID, 0, 0)];
    assert_eq!(watcher.events(fd), expected, "the id that is on one");
    assert_eq!(watcher.standing(on_one).unwrap_err().errno, Errno::ENODEV);
    assert_eq!(watcher.listen(on_one).unwrap_err().errno, Errno::ENODEV);
    watcher.listen(on_all).unwrap();
    node::remove(&watcher.node, &live.app.device);
    watcher.listen(on_all).unwrap();
    assert!(!is_free(&stays.app, port));
    watcher.destroy_id(on_one);
    assert_eq!(watcher.events(fd), []);
}

#[test]
fn u17_closing_the_node_gives_its_ports_back() {
    let live = Live::start();
    let watcher = Watcher::new();
    node::add(&watcher.node, &live.app.device).unwrap();
    let (one, all) = (watcher.id(None), watcher.id(None));
    let ports = [
        watcher.bind(one, gid_of(&live.app), 0).unwrap(),
        watcher.bind(all, [0; 16], 0).unwrap(),
    ];
    assert!(ports.iter().all(|&port| !is_free(&live.app, port)));
    watcher.close();
    assert!(ports.iter().all(|&port| is_free(&live.app, port)));
}
