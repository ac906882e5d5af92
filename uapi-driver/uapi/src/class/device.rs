// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! DEVICE: the device.

use crate::payload;
use crate::schema::{class_flags, Access, Attr, ClassSchema, MethodSchema, Target};
use crate::wire::method;

payload! {
    /// What the device is, and its limits. Names as in `ibv_device_attr`.
    pub struct DeviceAttrs (216) {
        /// Version of the firmware: major in the upper 32 bits, minor, sub-minor in 16 each.
        fw_version: u64,
        /// The node's GUID.
        node_guid: u64,
        /// The system image's GUID.
        sys_image_guid: u64,
        /// Largest memory region, bytes.
        max_mr_size: u64,
        /// Page sizes that the device knows: bit n is 2^n bytes.
        page_size_cap: u64,
        /// Capabilities, as in libibverbs.
        device_cap_flags: u64,
        /// Frequency of completion timestamps, kHz.
        hca_core_clock: u64,
        /// Vendor.
        vendor_id: u32,
        /// Part.
        vendor_part_id: u32,
        /// Hardware version.
        hw_version: u32,
        /// Ports.
        ports: u32,
        /// Queue pairs.
        max_qp: u32,
        /// Work requests on a queue.
        max_qp_wr: u32,
        /// Scatter/gather entries of a work request.
        max_sge: u32,
        /// Scatter/gather entries of an RDMA READ.
        max_sge_rd: u32,
        /// Inline data, bytes.
        max_inline: u32,
        /// Completion queues.
        max_cq: u32,
        /// Entries of a completion queue.
        max_cqe: u32,
        /// Memory regions.
        max_mr: u32,
        /// Protection domains.
        max_pd: u32,
        /// RDMA READs and atomics outstanding at a queue pair as target.
        max_qp_rd_atom: u32,
        /// RDMA READs and atomics outstanding at the device as target.
        max_res_rd_atom: u32,
        /// RDMA READs and atomics outstanding at a queue pair as initiator.
        max_qp_init_rd_atom: u32,
        /// Atomics: 0 none, 1 among its own queue pairs, 2 with the CPU.
        atomic_cap: u32,
        /// Memory windows.
        max_mw: u32,
        /// Raw Ethernet queue pairs.
        max_raw_ethy_qp: u32,
        /// Multicast groups.
        max_mcast_grp: u32,
        /// Queue pairs in a multicast group.
        max_mcast_qp_attach: u32,
        /// Multicast attachments in all.
        max_total_mcast_qp_attach: u32,
        /// Address handles.
        max_ah: u32,
        /// Shared receive queues.
        max_srq: u32,
        /// Work requests on a shared receive queue.
        max_srq_wr: u32,
        /// Scatter/gather entries of a shared receive queue's work request.
        max_srq_sge: u32,
        /// P_Keys of a port.
        max_pkeys: u32,
        /// Local ACK delay, as an exponent.
        local_ca_ack_delay: u32,
        /// XRC domains.
        max_xrcd: u32,
        /// Completion vectors.
        comp_vectors: u32,
        /// Pages of a fast-register memory region.
        max_fast_reg_pages: u32,
        /// Moderation of a completion queue: largest count.
        max_moderation_count: u32,
        /// Moderation of a completion queue: longest period, microseconds.
        max_moderation_period: u32,
        /// Rate limit of a send queue: least, kbit/s; 0: there are no limits.
        qp_rate_limit_min: u32,
        /// Rate limit of a send queue: greatest, kbit/s.
        qp_rate_limit_max: u32,
        /// Zero.
        reserved: [u8; 20],
    }
}

/// The limits and identity.
pub const ATTRS: Attr<DeviceAttrs> = Attr::new(1, "attrs");
/// The driver's id: the tag of its classes and attributes.
pub const DRIVER_ID: Attr<u32> = Attr::new(2, "driver_id");
/// The driver's name.
pub const DRIVER_NAME: Attr<str> = Attr::text(3, "driver_name");
/// The device's name on this host.
pub const NAME: Attr<str> = Attr::text(4, "name");
/// The clock of completion timestamps, as the call reads it: ticks of `hca_core_clock`.
pub const CLOCK: Attr<u64> = Attr::new(5, "clock");

/// The class.
pub static SCHEMA: ClassSchema = ClassSchema {
    id: super::DEVICE,
    name: "device",
    flags: class_flags::EVENTS,
    methods: &[MethodSchema {
        number: method::QUERY,
        name: "query",
        target: Target::Only,
        access: Access::Any,
        attrs: &[
            ATTRS.output(),
            DRIVER_ID.output(),
            DRIVER_NAME.output(),
            NAME.output(),
            CLOCK.output(),
        ],
    }],
};
