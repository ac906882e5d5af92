// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The system-wide node: the same dispatcher, and only what is about no device: U17.

mod support;

use core::convert::Infallible;
use rdma_uapi::class::{self, interface};
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use rdma_uapi::table::{Additions, ClassOps};
use rdma_uapi::wire::{driver_class, method, DriverId};
use rdma_uapi::{Call, Device, Driver, Errno, Reason};
use support::{Bench, Process};

const ID: DriverId = DriverId(127);
const ROSTER: u16 = driver_class(ID, 0);
const COUNT: Attr<u32> = Attr::new(1, "count");

static ROSTER_SCHEMA: ClassSchema = ClassSchema {
    id: ROSTER,
    name: "roster",
    flags: class_flags::GLOBAL,
    methods: &[MethodSchema {
        number: method::QUERY,
        name: "query",
        target: Target::Only,
        access: Access::Any,
        attrs: &[COUNT.output()],
    }],
};

struct Node;

impl Driver for Node {
    const ID: DriverId = ID;
    const NAME: &'static str = "node";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[ClassOps {
            schema: &ROSTER_SCHEMA,
            methods: &[(method::QUERY, count)],
            release: None,
        }],
        extensions: &[],
        removals: &[],
    };
    const SYSTEM_WIDE: bool = true;

    type Host = Bench;
    type Device = u32;
    type Context = ();
    type Object = ();
    type Pending = Infallible;
    type Chain = ();

    fn ports(_: &u32) -> u32 {
        0
    }
    fn open(_: &Device<Self>, _: &()) -> Outcome {
        Ok(())
    }
    fn close(_: &Device<Self>, _: &()) {}
}

fn count(call: &mut Call<'_, Node>) -> Outcome {
    let count = *call.device();
    call.put(COUNT, &count)
}

#[test]
fn u17_the_system_wide_node_has_the_global_classes_only() {
    let p = Process::<Node>::new(3);
    let sent = p.call(method::QUERY, ROSTER, 0, |m| {
        m.ask(COUNT);
    });
    assert_eq!(sent.unwrap().reply().get(COUNT), Some(3));
    let sent = p.call(method::QUERY, class::INTERFACE, 0, |m| {
        m.ask(interface::VERSION);
    });
    assert_eq!(
        sent.unwrap().reply().get(interface::VERSION),
        Some(interface::CURRENT_VERSION)
    );
    assert!(p.call(method::CREATE_FD, class::EVENT_QUEUE, 0, |_| {}).is_ok());
    let mine = |schema: &&&ClassSchema| schema.flags & class_flags::GLOBAL == 0 || schema.id == class::DEVICE_LIST;
    // This node does not list devices.
    for schema in class::ALL.iter().filter(mine) {
        let failure = p.call(method::QUERY, schema.id, 0, |_| {}).unwrap_err();
        assert_eq!(
            (failure.errno, failure.reason),
            (Errno::EOPNOTSUPP, Reason::NO_CLASS),
            "{}",
            schema.name
        );
    }
}
