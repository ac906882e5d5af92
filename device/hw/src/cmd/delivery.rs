// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Commands about what queue pairs are part of: multicast groups, flow rules, counter sets.

use crate::admin::PAYLOAD;
use crate::flow::{FlowFields, FlowType};
use crate::id::{Gid, Qpn};
use crate::layout::assert_layout;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

payload! {
    /// Request of ATTACH_MCAST, DETACH_MCAST and QUERY_MCAST.
    pub struct McastReq: 24 {
        /// The queue pair, of type UD.
        pub qpn: Qpn,
        /// Zero.
        pub reserved: u32,
        /// The group ([`Gid::is_multicast`]).
        pub gid: Gid,
    }
}

payload! {
    /// Response of QUERY_MCAST.
    pub struct QueryMcastRsp: 8 {
        /// Queue pairs of this HCA in the group, the one that was asked about included.
        pub members: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Request of CREATE_FLOW.
    pub struct CreateFlowReq: 160 {
        /// The queue pair, of type RAW; 0 with [`crate::flow::flags::DROP`].
        pub qpn: Qpn,
        /// Type NORMAL: lower numbers first. Otherwise zero.
        pub priority: u16,
        /// Type.
        pub flow_type: FlowType,
        /// [`crate::flow::flags`].
        pub flags: u8,
        /// With [`crate::flow::flags::TAG`]: what receives by this rule carry, at most [`crate::flow::MAX_TAG`].
        pub tag: u32,
        /// Port, from 1.
        pub port: u32,
        /// Type NORMAL: what the fields must be. Otherwise zero.
        pub value: FlowFields,
        /// Which of their bits count.
        pub mask: FlowFields,
        /// Zero.
        pub reserved: [u32; 4],
    }
}

payload! {
    /// Response of QUERY_FLOW.
    pub struct QueryFlowRsp: 160 {
        /// As in [`CreateFlowReq`].
        pub qpn: Qpn,
        /// As in [`CreateFlowReq`].
        pub priority: u16,
        /// As in [`CreateFlowReq`].
        pub flow_type: FlowType,
        /// As in [`CreateFlowReq`].
        pub flags: u8,
        /// As in [`CreateFlowReq`].
        pub tag: u32,
        /// Zero.
        pub reserved: u32,
        /// As in [`CreateFlowReq`].
        pub value: FlowFields,
        /// As in [`CreateFlowReq`].
        pub mask: FlowFields,
        /// Frames that it has matched.
        pub frames: u64,
        /// Bytes of these.
        pub bytes: u64,
    }
}

/// Names of a counter set's counters, by position: messages and bytes of the queue pairs bound to it, work requests that ended in
/// an error of their own, and those that were flushed.
pub const SET_COUNTERS: [&str; 6] = [
    "sent_msgs",
    "rcvd_msgs",
    "sent_bytes",
    "rcvd_bytes",
    "completion_err",
    "flushed_wrs",
];

payload! {
    /// Response of QUERY_COUNTER.
    pub struct QueryCounterRsp: 64 {
        /// Values, in the order of [`SET_COUNTERS`].
        pub values: [u64; 6],
        /// Queue pairs that are bound to it.
        pub members: u32,
        /// Zero.
        pub reserved: [u32; 3],
    }
}

payload! {
    /// Request of BIND_COUNTER.
    pub struct BindCounterReq: 8 {
        /// The queue pair.
        pub qpn: Qpn,
        /// The counter set; 0 for none.
        pub counter: u32,
    }
}
