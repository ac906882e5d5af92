// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The system-wide node (U17): what belongs to no HCA, over the same dispatcher. It lists the devices of this host and
//! reports their coming and going; it exists also while there is none.
//!
//! The host makes one [`Node`], tells it of every device between [`add`] and [`remove`], and lets programs open it. Its
//! contexts have nothing to do with those of the devices.

use crate::foreign::{ForeignCm, ForeignId};
use crate::node_cm::{self, Everywhere, SystemId};
use crate::platform::Platform;
use crate::{schema, Context, Device, Verbena};
use core::convert::Infallible;
use core::marker::PhantomData;
use rdma_uapi::class::device_list::{self, state, DeviceEntry};
use rdma_uapi::class::{self, cm_id, event_queue::kind, port};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Arc, Mutex, NoMemory, Vec};
use rdma_uapi::table::{Additions, ClassOps, Refusal};
use rdma_uapi::wire::{method, DriverId};
use rdma_uapi::{Call, Driver, Errno, Failure, Host};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::QueryPortRsp;
use zerocopy::IntoBytes;

/// The node's driver: devices run on `P`, the node itself on [`Platform::Node`], which need not know any device.
pub struct System<P: Platform>(PhantomData<fn() -> P>);

/// The system-wide node.
pub type Node<P> = rdma_uapi::Device<System<P>>;
/// An open file on the system-wide node.
pub type NodeContext<P> = rdma_uapi::Context<System<P>>;

/// What the node needs from the place that it runs in, beside what every device does.
pub trait NodeHost<P: Platform>: Host {
    /// An id of the communication manager of devices that are not Verbena's; [`NoForeignCm`](crate::foreign::NoForeignCm) if there can
    /// be none.
    type Foreign: ForeignCm;

    /// A new id of that manager, for the calling process. What happens to it is told by [`happened`](crate::foreign::happened) and
    /// [`requested`](crate::foreign::requested) until it is dropped.
    ///
    /// # Errors
    ///
    /// ENODEV: there is no such manager, now. ENOMEM.
    fn foreign(&self, hears: &Arc<ForeignId<P>>) -> Result<Self::Foreign, Errno>;

    /// The open file of a device that a descriptor of the calling process names, which is the context's owner.
    ///
    /// # Errors
    ///
    /// EBADF: it names none.
    fn context(&self, owner: &Self::Owner, fd: u32) -> Result<Arc<Context<P>>, Errno>;
}

/// The devices of this host.
pub struct Roster<P: Platform> {
    listed: Mutex<Listed<P>>,
    /// Communication ids that are on every device.
    pub(crate) everywhere: Mutex<Vec<Everywhere<P>>>,
}

impl<P: Platform> Roster<P> {
    /// Calls `f` with every device, in the order of their arrival. Outside the lock: a device may take its time, and may go
    /// meanwhile.
    pub(crate) fn each<E>(&self, mut f: impl FnMut(u64, &Arc<Device<P>>) -> Result<(), E>) -> Result<(), E> {
        let mut last = 0;
        loop {
            let after = |&&(arrival, _): &&(u64, _)| arrival > last;
            let next = self.listed.lock().devices.iter().find(after).cloned();
            let Some((arrival, device)) = next else { return Ok(()) };
            f(arrival, &device)?;
            last = arrival;
        }
    }

    /// A device's number in the list.
    pub(crate) fn arrival(&self, device: &Arc<Device<P>>) -> Option<u64> {
        let listed = self.listed.lock();
        listed.place(device).map(|place| listed.devices[place].0)
    }
}

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

impl<P: Platform> Driver for System<P> {
    const ID: DriverId = schema::ID;
    const NAME: &'static str = "verbena";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[
            ClassOps {
                schema: &device_list::SCHEMA,
                methods: &[(method::QUERY, list::<P>)],
                release: None,
            },
            ClassOps {
                schema: &cm_id::SCHEMA,
                methods: &[
                    (method::CREATE, node_cm::create::<P>),
                    (method::QUERY, node_cm::query::<P>),
                    (cm_id::BIND, node_cm::bind::<P>),
                    (cm_id::LISTEN, node_cm::listen::<P>),
                    (cm_id::CONNECT, node_cm::connect::<P>),
                    (cm_id::ACCEPT, node_cm::accept::<P>),
                    (cm_id::REJECT, node_cm::reject::<P>),
                    (cm_id::DISCONNECT, node_cm::disconnect::<P>),
                ],
                release: Some(node_cm::release::<P>),
            },
        ],
        extensions: &[],
        removals: &[],
    };
    const SYSTEM_WIDE: bool = true;

    type Host = P::Node;
    type Device = Roster<P>;
    type Context = ();
    type Object = SystemId<P>;
    type Pending = Infallible;
    type Chain = ();

    fn ports(_: &Roster<P>) -> u32 {
        0
    }

    fn open(_: &Node<P>, _: &<P::Node as Host>::Owner) -> Outcome {
        Ok(())
    }

    fn close(_: &Node<P>, (): &()) {}
}

/// A node without devices.
///
/// # Errors
///
/// No memory.
pub fn try_new<P: Platform>(host: P::Node) -> Result<Arc<Node<P>>, Refusal> {
    let listed = Listed {
        devices: Vec::new(),
        arrivals: 0,
        changes: 0,
    };
    let roster = Roster {
        listed: Mutex::try_new(listed, c"verbena_devices")?,
        everywhere: Mutex::try_new(Vec::new(), c"verbena_everywhere")?,
    };
    Node::try_new(roster, host)
}

/// A device works and can be opened from now on.
///
/// # Errors
///
/// No memory.
pub fn add<P: Platform>(node: &Node<P>, device: &Arc<Device<P>>) -> Result<(), NoMemory> {
    let arrival = {
        let mut listed = node.state().listed.lock();
        let arrival = listed.arrivals + 1;
        listed.devices.push((arrival, device.clone()))?;
        listed.arrivals = arrival;
        listed.changes += 1;
        arrival
    };
    node_cm::device_added(node.state(), arrival, device);
    node.post(class::DEVICE_LIST, 0, kind::DEVICE_ADDED, arrival);
    Ok(())
}

/// A device is taken away; nothing happens if it is not listed.
pub fn remove<P: Platform>(node: &Node<P>, device: &Arc<Device<P>>) {
    let arrival = {
        let mut listed = node.state().listed.lock();
        let Some(place) = listed.place(device) else { return };
        let arrival = listed.devices[place].0;
        listed.devices[place..].rotate_left(1);
        let _ = listed.devices.pop();
        listed.changes += 1;
        arrival
    };
    node_cm::device_unlisted(node.state(), device);
    node.post(class::DEVICE_LIST, 0, kind::DEVICE_REMOVED, arrival);
}

/// A listed device does not answer any more.
pub fn changed<P: Platform>(node: &Node<P>, device: &Arc<Device<P>>) {
    let arrival = {
        let mut listed = node.state().listed.lock();
        let Some(place) = listed.place(device) else { return };
        listed.changes += 1;
        listed.devices[place].0
    };
    node.post(class::DEVICE_LIST, 0, kind::DEVICE_CHANGED, arrival);
}

fn list<P: Platform>(call: &mut Call<'_, System<P>>) -> Outcome {
    let roster = call.device();
    let changes = roster.listed.lock().changes;
    call.put(device_list::CHANGES, &changes)?;
    let Some(mut answer) = call.stream(device_list::DEVICES) else {
        return Ok(());
    };
    roster.each(|arrival, device| answer.push(entry(arrival, device).as_bytes()))?;
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
