// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of this host, through the system-wide node.

use crate::attachment::DEFAULT_SYSTEM_NODE;
use crate::error::{Error, Result};
use crate::{Attachment, Context, EventQueue};
use rdma_uapi::class;
use rdma_uapi::class::device_list::{self, state, DeviceEntry};
use rdma_uapi::wire::ObjectId;

/// A device of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDevice {
    /// The number of its arrival, never used again: what events say, and the order of the list.
    pub arrival: u64,
    /// Its name on this host.
    pub name: String,
    /// How to open it.
    pub attachment: Attachment,
    /// The number in its name.
    pub index: u32,
    /// The node's GUID.
    pub node_guid: u64,
    /// The driver's name.
    pub driver: String,
    /// The driver's id.
    pub driver_id: u32,
    /// Ports.
    pub ports: u32,
    /// Ports that are active: bit n is port n + 1.
    pub active_ports: u64,
    /// Whether it works: it is listed for a while also when it does not answer any more.
    pub works: bool,
}

/// The system-wide node: it exists also while there is no device.
#[derive(Clone, Debug)]
pub struct DeviceList {
    context: Context,
}

impl DeviceList {
    /// Opens the kernel module's node.
    ///
    /// # Errors
    ///
    /// The module is not loaded, or the node may not be opened.
    pub fn open() -> Result<Self> {
        Self::beside(&Attachment::kernel())
    }

    /// Opens the node that lists what is attached in the same way: the kernel module's, or this process's own, which has
    /// the devices that the process is directly attached to.
    ///
    /// # Errors
    ///
    /// As [`DeviceList::open`].
    pub fn beside(attachment: &Attachment) -> Result<Self> {
        let node = match attachment {
            Attachment::Kernel(_) => Attachment::Kernel(DEFAULT_SYSTEM_NODE.into()),
            Attachment::Direct(path) => Attachment::Direct(path.clone()),
        };
        let context = Context::open_node(&node)?;
        Ok(Self { context })
    }

    /// The node as a context, for calls on its global classes; it has no objects of a device.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The devices, in the order of their arrival.
    ///
    /// # Errors
    ///
    /// The module answers nonsense: no error is expected.
    pub fn devices(&self) -> Result<Vec<ListedDevice>> {
        let entries = self
            .context
            .array("list the devices", class::DEVICE_LIST, 0, device_list::DEVICES)?;
        let direct = self.context.attachment().is_direct();
        Ok(entries.iter().map(|entry| listed(entry, direct)).collect())
    }

    /// A new event queue that is told when a device comes ([`crate::EventKind::DeviceAdded`]), goes, or stops answering;
    /// the event's data is [`ListedDevice::arrival`]. Who lists the devices afterwards misses none.
    ///
    /// # Errors
    ///
    /// The process has no more descriptors.
    pub fn watch(&self) -> Result<EventQueue> {
        let events = self.context.create_event_queue()?;
        events.associate(class::DEVICE_LIST, ObjectId::NONE, 0)?;
        Ok(events)
    }
}

fn listed(entry: &DeviceEntry, direct: bool) -> ListedDevice {
    let path = text(&entry.path);
    ListedDevice {
        arrival: entry.arrival,
        name: text(&entry.name),
        attachment: if direct {
            Attachment::Direct(path.into())
        } else {
            Attachment::Kernel(path.into())
        },
        index: entry.index,
        node_guid: entry.node_guid,
        driver: text(&entry.driver_name),
        driver_id: entry.driver_id,
        ports: entry.ports,
        active_ports: entry.active_ports,
        works: entry.state == state::WORKS,
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The devices of this host: the kernel module's, if it is loaded, then those that this process is directly attached to.
///
/// # Errors
///
/// The module's node may not be opened.
pub fn devices() -> Result<Vec<ListedDevice>> {
    let mut all = match DeviceList::open() {
        Ok(list) => list.devices()?,
        Err(Error::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    all.extend(DeviceList::beside(&Attachment::direct(""))?.devices()?);
    Ok(all)
}
