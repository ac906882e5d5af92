// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The system-wide node (U17): what belongs to no HCA, over the same dispatcher. It lists the devices of this host and
//! reports their coming and going; it exists also while there is none.
//!
//! The host makes one [`Node`], tells it of every device between [`add`] and [`remove`], and lets programs open it. Its
//! contexts have nothing to do with those of the devices.

use crate::platform::Platform;
use crate::{schema, Device, Verbena};
use core::convert::Infallible;
use core::marker::PhantomData;
use rdma_uapi::class::device_list::{self, state, DeviceEntry};
use rdma_uapi::class::{self, event_queue::kind, port};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Arc, Mutex, NoMemory, Vec};
use rdma_uapi::table::{Additions, ClassOps, Refusal};
use rdma_uapi::wire::{method, DriverId};
use rdma_uapi::{Call, Driver, Failure, Host};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::QueryPortRsp;
use zerocopy::IntoBytes;

/// The node's driver: devices run on `P`, the node itself on `H`, which need not know any device.
pub struct System<P: Platform, H: Host>(PhantomData<fn() -> (P, H)>);

/// The system-wide node.
pub type Node<P, H> = rdma_uapi::Device<System<P, H>>;
/// An open file on the system-wide node.
pub type NodeContext<P, H> = rdma_uapi::Context<System<P, H>>;

/// The devices of this host.
pub struct Roster<P: Platform>(Mutex<Listed<P>>);

struct Listed<P: Platform> {
    /// In the order of their arrival.
    devices: Vec<(u64, Arc<Device<P>>)>,
    arrivals: u64,
    changes: u64,
}

impl<P: Platform> Listed<P> {
    fn place(&self, device: &Arc<Device<P>>) -> Option<usize> {
        self.devices.iter().position(|(_, listed)| Arc::ptr_eq(listed, device))
    }
}

impl<P: Platform, H: Host> Driver for System<P, H> {
    const ID: DriverId = schema::ID;
    const NAME: &'static str = "verbena";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[ClassOps {
            schema: &device_list::SCHEMA,
            methods: &[(method::QUERY, list::<P, H>)],
            release: None,
        }],
        extensions: &[],
        removals: &[],
    };
    const SYSTEM_WIDE: bool = true;

    type Host = H;
    type Device = Roster<P>;
    type Context = ();
    type Object = ();
    type Pending = Infallible;
    type Chain = ();

    fn ports(_: &Roster<P>) -> u32 {
        0
    }

    fn open(_: &Node<P, H>, _: &H::Owner) -> Outcome {
        Ok(())
    }

    fn close(_: &Node<P, H>, (): &()) {}
}

/// A node without devices.
///
/// # Errors
///
/// No memory.
pub fn try_new<P: Platform, H: Host>(host: H) -> Result<Arc<Node<P, H>>, Refusal> {
    let listed = Listed {
        devices: Vec::new(),
        arrivals: 0,
        changes: 0,
    };
    Node::try_new(Roster(Mutex::try_new(listed, c"verbena_devices")?), host)
}

/// A device works and can be opened from now on.
///
/// # Errors
///
/// No memory.
pub fn add<P: Platform, H: Host>(node: &Node<P, H>, device: &Arc<Device<P>>) -> Result<(), NoMemory> {
    let arrival = {
        let mut listed = node.state().0.lock();
        let arrival = listed.arrivals + 1;
        listed.devices.push((arrival, device.clone()))?;
        listed.arrivals = arrival;
        listed.changes += 1;
        arrival
    };
    node.post(class::DEVICE_LIST, 0, kind::DEVICE_ADDED, arrival);
    Ok(())
}

/// A device is taken away; nothing happens if it is not listed.
pub fn remove<P: Platform, H: Host>(node: &Node<P, H>, device: &Arc<Device<P>>) {
    let arrival = {
        let mut listed = node.state().0.lock();
        let Some(place) = listed.place(device) else { return };
        let arrival = listed.devices[place].0;
        listed.devices[place..].rotate_left(1);
        let _ = listed.devices.pop();
        listed.changes += 1;
        arrival
    };
    node.post(class::DEVICE_LIST, 0, kind::DEVICE_REMOVED, arrival);
}

/// A listed device does not answer any more.
pub fn changed<P: Platform, H: Host>(node: &Node<P, H>, device: &Arc<Device<P>>) {
    let arrival = {
        let mut listed = node.state().0.lock();
        let Some(place) = listed.place(device) else { return };
        listed.changes += 1;
        listed.devices[place].0
    };
    node.post(class::DEVICE_LIST, 0, kind::DEVICE_CHANGED, arrival);
}

fn list<P: Platform, H: Host>(call: &mut Call<'_, System<P, H>>) -> Outcome {
    let roster = call.device();
    let changes = roster.0.lock().changes;
    call.put(device_list::CHANGES, &changes)?;
    let Some(mut answer) = call.stream(device_list::DEVICES) else {
        return Ok(());
    };
    let mut last = 0;
    loop {
        // One at a time and outside the lock: a device may take its time to answer, and may go meanwhile.
        let next = roster
            .0
            .lock()
            .devices
            .iter()
            .find(|(arrival, _)| *arrival > last)
            .cloned();
        let Some((arrival, device)) = next else { break };
        answer.push(entry(arrival, &device).as_bytes())?;
        last = arrival;
    }
    answer.finish();
    Ok(())
}

fn entry<P: Platform>(arrival: u64, device: &Device<P>) -> DeviceEntry {
    let hardware = device.state();
    let platform = hardware.platform();
    // The one port's state is asked for; a device that does not say it is gone.
    let port: Result<QueryPortRsp, Failure> = hardware.command(Opcode::QUERY_PORT, &()).map_err(Failure::from);
    let active = matches!(&port, Ok(port) if port.state == port::state::ACTIVE);
    let gone = port.is_err() || device.is_removed() || hardware.is_gone();
    DeviceEntry {
        arrival,
        node_guid: u64::from_be_bytes(hardware.limits.node_guid),
        index: platform.index(),
        driver_id: u32::from(Verbena::<P>::ID.0),
        ports: hardware.limits.ports,
        state: if gone { state::GONE } else { state::WORKS },
        active_ports: u64::from(active),
        driver_name: text(Verbena::<P>::NAME),
        name: text(platform.name()),
        path: text(platform.path()),
    }
}

/// A text padded with zeros; what does not fit is cut off.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}
