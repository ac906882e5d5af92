// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Commands about protection domains, memory regions and memory windows.

use crate::admin::PAYLOAD;
use crate::id::{Key, Pdn, Qpn};
use crate::layout::assert_layout;
use crate::mw::MwType;
use crate::ring::PageList;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

payload! {
    /// Response of QUERY_PD: the objects in it, by kind. It can be destroyed when there is none.
    pub struct QueryPdRsp: 32 {
        /// Queue pairs; no XRC target is in a domain.
        pub qps: u32,
        /// Shared receive queues.
        pub srqs: u32,
        /// Memory regions, and registrations under way.
        pub mrs: u32,
        /// Memory windows.
        pub mws: u32,
        /// Zero.
        pub reserved: [u32; 4],
    }
}

payload! {
    /// Request of CREATE_MR.
    pub struct CreateMrReq: 56 {
        /// The pages.
        pub pages: PageList,
        /// Address of the region's first byte in its own address space (0 with ZERO_BASED).
        pub iova: u64,
        /// Length in bytes.
        pub len: u64,
        /// Offset of the first byte in the first page.
        pub first_offset: u64,
        /// The protection domain.
        pub pdn: Pdn,
        /// Access rights ([`crate::qp::access`]).
        pub access: u32,
        /// [`MR_DMA`], [`MR_FAST`], [`MR_NULL`] or 0.
        pub flags: u32,
        /// Zero.
        pub reserved: u32,
    }
}
/// [`CreateMrReq::flags`]: all DMA addresses, each under itself. `pages`, `iova`, `len` and `first_offset` are zero, and
/// `access` is local. Whoever has its L_Key has everything, so it belongs in a protection domain that no process can use.
pub const MR_DMA: u32 = 1 << 0;
/// [`CreateMrReq::flags`]: none yet, the send opcode FAST_REGISTER gives it some. `len` is the number of elements that it may
/// consist of; `pages`, `iova`, `first_offset` and `access` are zero. The response's keys have the region's index, and are
/// valid when a FAST_REGISTER has said so.
pub const MR_FAST: u32 = 1 << 1;
/// [`CreateMrReq::flags`]: no memory: what its L_Key reads is zero, what its L_Key writes is gone. Every address but the last is in
/// it. `pages`, `iova`, `len`, `first_offset` and `access` are zero; it has no R_Key, no window is bound to it, no work request makes
/// a part of it a part of another, and MODIFY_MR does not move it.
pub const MR_NULL: u32 = 1 << 2;

payload! {
    /// Request of MODIFY_MR: what `mask` names is as in [`CreateMrReq`], the rest stays.
    pub struct ModifyMrReq: 64 {
        /// With [`mr_modify::TRANSLATION`]: the pages.
        pub pages: PageList,
        /// With [`mr_modify::TRANSLATION`]: address of the first byte.
        pub iova: u64,
        /// With [`mr_modify::TRANSLATION`]: length in bytes.
        pub len: u64,
        /// With [`mr_modify::TRANSLATION`]: offset of the first byte in the first page.
        pub first_offset: u64,
        /// The region: its key's index.
        pub index: u32,
        /// [`mr_modify`].
        pub mask: u32,
        /// With [`mr_modify::PD`]: the protection domain.
        pub pdn: Pdn,
        /// With [`mr_modify::ACCESS`]: access rights.
        pub access: u32,
        /// Zero.
        pub reserved: u64,
    }
}

/// Bits of [`ModifyMrReq::mask`], with the values of `enum ibv_rereg_mr_flags`.
pub mod mr_modify {
    /// The memory.
    pub const TRANSLATION: u32 = 1 << 0;
    /// The protection domain.
    pub const PD: u32 = 1 << 1;
    /// The access rights.
    pub const ACCESS: u32 = 1 << 2;
    /// All bits.
    pub const ALL: u32 = TRANSLATION | PD | ACCESS;
}

payload! {
    /// Response of CREATE_MR and of MODIFY_MR.
    pub struct CreateMrRsp: 16 {
        /// L_Key. Its index ([`Key::index`]) is the region's number.
        pub lkey: Key,
        /// R_Key; 0 if the region grants no remote access.
        pub rkey: Key,
        /// Zero.
        pub reserved: u64,
    }
}

payload! {
    /// Response of QUERY_MR.
    pub struct QueryMrRsp: 40 {
        /// Address of the first byte.
        pub iova: u64,
        /// Length in bytes.
        pub len: u64,
        /// L_Key.
        pub lkey: Key,
        /// R_Key; 0 if none.
        pub rkey: Key,
        /// The protection domain.
        pub pdn: Pdn,
        /// Access rights.
        pub access: u32,
        /// Page size: log2.
        pub page_shift: u32,
        /// Number of pages.
        pub pages: u32,
    }
}

payload! {
    /// Request of CREATE_MW.
    pub struct CreateMwReq: 8 {
        /// The protection domain.
        pub pdn: Pdn,
        /// Type.
        pub mw_type: MwType,
        /// Zero.
        pub reserved: [u8; 3],
    }
}

payload! {
    /// Response of CREATE_MW and of BIND_MW.
    pub struct CreateMwRsp: 8 {
        /// The R_Key. Its index ([`Key::index`]) is the window's number and stays; its tag changes with each bind.
        pub rkey: Key,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Request of BIND_MW: a window of type 1 and the part of a region that it is bound to from now on.
    pub struct BindMwReq: 40 {
        /// Address of the part in the region's own address space.
        pub addr: u64,
        /// Length in bytes; 0 unbinds.
        pub len: u64,
        /// The window: its key's index.
        pub index: u32,
        /// L_Key of the region.
        pub lkey: Key,
        /// Remote rights that the window grants ([`crate::qp::access`]).
        pub access: u32,
        /// Zero.
        pub reserved: [u32; 2],
        /// Zero.
        pub reserved1: u32,
    }
}

payload! {
    /// Response of QUERY_MW.
    pub struct QueryMwRsp: 48 {
        /// Bound: address of its first byte, as peers name it.
        pub iova: u64,
        /// Bound: length in bytes.
        pub len: u64,
        /// The R_Key that it has, or had last.
        pub rkey: Key,
        /// Bound: rights.
        pub access: u32,
        /// The protection domain.
        pub pdn: Pdn,
        /// Type 2, bound: the queue pair.
        pub qpn: Qpn,
        /// Type.
        pub mw_type: MwType,
        /// Non-zero: bound.
        pub bound: u8,
        /// Zero.
        pub reserved: [u8; 6],
        /// Zero.
        pub reserved1: u64,
    }
}
