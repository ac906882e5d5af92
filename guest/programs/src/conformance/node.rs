// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system-wide node: what belongs to no HCA (U17).

use super::interface::Listing;
use super::kit::{check_eq, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side};
use anyhow::{ensure, Context as _};
use rdma_uapi::class;
use rdma_uapi::schema::class_flags;
use rdma_uapi::wire::{self, method};
use rdma_uapi::{Errno, Reason};
use std::time::Duration;
use verbena::{DeviceList, Gid};

pub const CASES: &[Case] = &[
    Case::single("u17_the_node_lists_the_device", lists_the_device),
    Case::single("u17_the_node_has_the_global_classes_only", global_classes_only),
    Case::single("u17_the_node_has_event_queues", has_event_queues),
    Case::single("u17_the_node_outlives_the_contexts_of_devices", outlives_contexts),
];

fn lists_the_device(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (attrs, name) = (ctx.device()?, ctx.name()?);
    let list = DeviceList::beside(fixture.attachment(Side::Left))?;
    let devices = list.devices()?;
    let listed = devices.iter().find(|device| device.node_guid == attrs.node_guid);
    let listed = listed.with_context(|| format!("{:016x} is not in {devices:?}", attrs.node_guid))?;
    check_eq!(listed.name, name, "its name");
    check_eq!(listed.driver, ctx.driver_name()?, "its driver");
    check_eq!(
        (listed.ports, listed.works),
        (attrs.ports, true),
        "its ports, and whether it works"
    );
    check_eq!(
        listed.active_ports & 1 != 0,
        ctx.port(1)?.is_active(),
        "whether its port is active"
    );
    // What the list says is what one opens.
    let opened = verbena::Context::open(&listed.attachment)?;
    check_eq!(
        opened.device()?.node_guid,
        attrs.node_guid,
        "the GUID of what was opened"
    );
    let gid: Gid = opened.gid(1, 0)?;
    check_eq!(gid, ctx.gid(1, 0)?, "its first GID");
    PASS
}

fn global_classes_only(fixture: &Fixture) -> Outcome {
    let list = DeviceList::beside(fixture.attachment(Side::Left))?;
    let node = list.context();
    let listing = Listing::of(node)?;
    for class in [class::INTERFACE, class::EVENT_QUEUE, class::DEVICE_LIST, class::CM_ID] {
        ensure!(listing.classes.contains_key(&class), "class {class:#x} is not listed");
    }
    for record in listing
        .records
        .iter()
        .filter(|record| record.kind == rdma_uapi::listing::kind::CLASS)
    {
        let global = record.flags & class_flags::GLOBAL != 0;
        ensure!(global, "class {} is not flagged global", record.name());
    }
    for class in (0..64).filter(|class| !listing.classes.contains_key(class)) {
        let message = Message::new(class, 0, |_| {});
        let how = (Errno::EOPNOTSUPP, Reason::NO_CLASS);
        message.refused(
            node,
            method::QUERY,
            how,
            (wire::FIELD_CLASS, 2),
            &format!("class {class:#x}"),
        )?;
    }
    let device = Listing::of(&fixture.open()?)?;
    ensure!(
        !device.classes.contains_key(&class::DEVICE_LIST),
        "the device has a list of devices"
    );
    PASS
}

fn has_event_queues(fixture: &Fixture) -> Outcome {
    let list = DeviceList::beside(fixture.attachment(Side::Left))?;
    let events = list.watch()?;
    check_eq!(
        events.next_event(Some(Duration::ZERO))?,
        None,
        "an event where nothing happened"
    );
    // It has no device and no ports.
    for (what, result) in [
        ("the device", events.associate_device(0)),
        ("a port", events.associate_port(1, 0)),
    ] {
        super::kit::refused(result, Errno::ENOENT, what)?;
    }
    PASS
}

fn outlives_contexts(fixture: &Fixture) -> Outcome {
    let list = DeviceList::beside(fixture.attachment(Side::Left))?;
    for _ in 0..3 {
        let ctx = fixture.open()?;
        let guid = ctx.device()?.node_guid;
        ensure!(
            list.devices()?
                .iter()
                .any(|device| device.node_guid == guid && device.works),
            "an open device is not listed"
        );
        drop(ctx);
        list.context().check()?;
    }
    PASS
}
