// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Commands about the device, its port, and its own account of its state.

use crate::admin::PAYLOAD;
use crate::id::Gid;
use crate::layout::assert_layout;
use crate::ring::PageList;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

payload! {
    /// Response of QUERY_DEVICE: limits, each the most that a driver can have.
    pub struct QueryDeviceRsp: 176 {
        /// Node GUID, 8 bytes in network order.
        pub node_guid: [u8; 8],
        /// Version of the device's implementation, zero-terminated ASCII.
        pub fw_version: [u8; 32],
        /// Protection domains.
        pub max_pd: u32,
        /// Memory regions.
        pub max_mr: u32,
        /// Largest memory region in bytes.
        pub max_mr_size: u64,
        /// Supported page sizes: bit `n` for `1 << n` bytes.
        pub page_size_cap: u64,
        /// Queue pairs.
        pub max_qp: u32,
        /// Entries of a send or receive queue.
        pub max_qp_wr: u32,
        /// Completion queues.
        pub max_cq: u32,
        /// Entries of a completion queue.
        pub max_cqe: u32,
        /// Event queues.
        pub max_eq: u32,
        /// Doorbell pages.
        pub max_doorbell: u32,
        /// Scatter/gather elements of an entry.
        pub max_sge: u32,
        /// Inline bytes of an entry.
        pub max_inline: u32,
        /// Outstanding READs and atomics of a queue pair, as target.
        pub max_qp_rd_atom: u32,
        /// Outstanding READs and atomics of a queue pair, as initiator.
        pub max_qp_init_rd_atom: u32,
        /// Bit `n`: queue pair type `n` (`QpType`) is offered.
        pub qp_types: u32,
        /// Entries of the GID table.
        pub gid_table_len: u32,
        /// Entries of the P_Key table.
        pub pkey_table_len: u32,
        /// Ports.
        pub ports: u32,
        /// MSI-X vectors.
        pub vectors: u32,
        /// Local acknowledge delay, coded as 4.096 us * 2^n.
        pub local_ack_delay: u32,
        /// Bit `n`: send opcode `n` ([`crate::wqe::SendOpcode`]) is offered on RC queue pairs and XRC initiators.
        pub rc_opcodes: u32,
        /// Longest message in bytes, low 32 bits.
        pub max_msg: u32,
        /// Frequency of completion timestamps in kHz.
        pub timestamp_khz: u32,
        /// Shared receive queues.
        pub max_srq: u32,
        /// XRC domains.
        pub max_xrcd: u32,
        /// Counter sets.
        pub max_counter_sets: u32,
        /// Flow rules.
        pub max_flow: u32,
        /// Different pairs of priority and masks among the flow rules.
        pub max_flow_groups: u32,
        /// Elements of a region that work requests register (`MR_FAST`).
        pub max_fast_elements: u32,
        /// Least rate limit of a send queue in kbit/s ([`crate::qp::QpAttrs::rate_limit`]); 0: there are no limits.
        pub rate_limit_min: u32,
        /// Greatest rate limit of a send queue in kbit/s.
        pub rate_limit_max: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_PORT.
    pub struct QueryPortRsp: 32 {
        /// [`crate::regs::PORT_DOWN`] or [`crate::regs::PORT_ACTIVE`].
        pub state: u32,
        /// Largest MTU code.
        pub max_mtu: u8,
        /// Active MTU code.
        pub active_mtu: u8,
        /// Zero.
        pub reserved0: u16,
        /// MAC address.
        pub mac: [u8; 6],
        /// The P_Key of index 0.
        pub pkey: u16,
        /// Speed in units of Mbit/s as the port reports it; 0: unlimited by anything but memory.
        pub speed_mbps: u32,
        /// Packets of another partition that came: counter `pkey_violations`, modulo 2^32.
        pub pkey_violations: u32,
        /// Datagrams with another Q_Key that came: counter `qkey_violations`, modulo 2^32.
        pub qkey_violations: u32,
        /// Zero.
        pub reserved1: u32,
    }
}

payload! {
    /// Request of MODIFY_PORT.
    pub struct ModifyPortReq: 8 {
        /// [`crate::regs::PORT_DOWN`] or [`crate::regs::PORT_ACTIVE`].
        pub state: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Request of SET_GID. A zero GID empties the entry. Entry 0 always holds the link-local GID of the port's MAC
    /// address and cannot be written.
    pub struct SetGidReq: 24 {
        /// Index in the table.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
        /// The GID.
        pub gid: Gid,
    }
}

payload! {
    /// Request of QUERY_GID.
    pub struct QueryGidReq: 8 {
        /// Index in the table.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_GID.
    pub struct QueryGidRsp: 16 {
        /// The GID; zero if the entry is empty.
        pub gid: Gid,
    }
}

payload! {
    /// Response of QUERY_CLOCK.
    pub struct QueryClockRsp: 8 {
        /// The clock of [`crate::cqe::Cqe::timestamp`] and [`crate::eqe::Eqe::timestamp`], as the command is executed.
        pub clock: u64,
    }
}

/// Names of the port's counters, by number.
pub const COUNTERS: [&str; 41] = [
    "sent_msgs",
    "rcvd_msgs",
    "sent_bytes",
    "rcvd_bytes",
    "sent_reads",
    "rcvd_rnr_err",
    "send_rnr_err",
    "ack_timeouts",
    "retry_exceeded_err",
    "retry_rnr_exceeded_err",
    "completion_err",
    "access_err",
    "invalid_req_err",
    "flushed_wrs",
    "doorbells_trapped",
    "cq_overruns",
    "dropped_unreachable",
    "dropped_no_qp",
    "dropped_no_receive",
    "dropped_length",
    "qkey_violations",
    "sent_too_long",
    "sent_pkts",
    "rcvd_pkts",
    "retransmitted_pkts",
    "duplicate_request",
    "out_of_seq_request",
    "rcvd_seq_err",
    "icrc_errors",
    "dropped_malformed",
    "sent_frames",
    "rcvd_frames",
    "dropped_no_rule",
    "dropped_by_rule",
    "ack_deferred",
    "completer_retry_err",
    "send_err",
    "link_downed",
    "rdma_sends",
    "rdma_recvs",
    "pkey_violations",
];

/// Counters in one response.
pub const COUNTERS_AT_ONCE: usize = 30;

payload! {
    /// Request of QUERY_COUNTERS.
    pub struct QueryCountersReq: 8 {
        /// The number of the first.
        pub first: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of QUERY_COUNTERS.
    pub struct QueryCountersRsp: 240 {
        /// Values since the device started, in the order of [`COUNTERS`] from the first that was asked for on; zeros behind the
        /// last that there is.
        pub values: [u64; COUNTERS_AT_ONCE],
    }
}

payload! {
    /// Request of DUMP.
    pub struct DumpReq: 32 {
        /// The buffer for the text: a page list of `len` bytes.
        pub pages: PageList,
        /// Length of the buffer in bytes.
        pub len: u64,
        /// Which objects: 0 all; otherwise one of the object groups, `DUMP_*`.
        pub select: u32,
        /// The object's number when `select` is not 0; `u32::MAX`: all of that group.
        pub number: u32,
    }
}
/// [`DumpReq::select`]: everything.
pub const DUMP_ALL: u32 = 0;
/// [`DumpReq::select`]: queue pairs.
pub const DUMP_QP: u32 = 1;
/// [`DumpReq::select`]: completion queues.
pub const DUMP_CQ: u32 = 2;
/// [`DumpReq::select`]: memory regions.
pub const DUMP_MR: u32 = 3;
/// [`DumpReq::select`]: shared receive queues.
pub const DUMP_SRQ: u32 = 4;

payload! {
    /// Response of DUMP.
    pub struct DumpRsp: 8 {
        /// Bytes written: UTF-8 JSON text, no terminator.
        pub len: u64,
    }
}
