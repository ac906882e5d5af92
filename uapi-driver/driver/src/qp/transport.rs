// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types of queue pairs, as types.

use rdma_uapi::class::{self, qp};
use rdma_uapi::schema::Attr;

mod sealed {
    pub trait Sealed {}
}

/// A type of queue pair.
pub trait Transport: sealed::Sealed + Send + Sync + 'static {
    /// Its class in the object model.
    const CLASS: u16;
    /// Its name.
    const NAME: &'static str;
    /// Whether a queue pair has one peer.
    const IS_CONNECTED: bool;
    /// Whether it receives.
    const RECEIVES: bool;
    /// The attributes that are numbers and that not every type has.
    const ATTRS: &'static [Attr<u32>];
}

/// A type whose queue pairs have one peer each.
pub trait Connected: Transport {}

/// A type whose sends say nothing of where they go.
pub trait Plain: Connected {}

macro_rules! transport {
    ($(#[$doc:meta])* $name:ident, $class:ident, $text:literal, $connected:literal, $receives:literal, $attrs:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Transport for $name {
            const CLASS: u16 = class::$class;
            const NAME: &'static str = $text;
            const IS_CONNECTED: bool = $connected;
            const RECEIVES: bool = $receives;
            const ATTRS: &'static [Attr<u32>] = $attrs;
        }
    };
}

transport! {
    /// Reliable connected.
    Rc, QP_RC, "RcQp", true, true, &[
        qp::PKEY_INDEX,
        qp::ACCESS,
        qp::DEST_QPN,
        qp::SQ_PSN,
        qp::RQ_PSN,
        qp::PATH_MTU,
        qp::TIMEOUT,
        qp::RETRY_CNT,
        qp::RNR_RETRY,
        qp::MIN_RNR_TIMER,
        qp::MAX_RD_ATOMIC,
        qp::MAX_DEST_RD_ATOMIC,
    ]
}
transport! {
    /// Unreliable connected.
    Uc, QP_UC, "UcQp", true, true, &[
        qp::PKEY_INDEX,
        qp::ACCESS,
        qp::DEST_QPN,
        qp::SQ_PSN,
        qp::RQ_PSN,
        qp::PATH_MTU,
    ]
}
transport! {
    /// Unreliable datagram.
    Ud, QP_UD, "UdQp", false, true, &[qp::PKEY_INDEX, qp::SQ_PSN, qp::QKEY]
}
transport! {
    /// Raw Ethernet.
    Raw, QP_RAW, "RawQp", false, true, &[]
}
transport! {
    /// XRC initiator.
    XrcIni, QP_XRC_INI, "XrcInitiator", true, false, &[
        qp::PKEY_INDEX,
        qp::ACCESS,
        qp::DEST_QPN,
        qp::SQ_PSN,
        qp::RQ_PSN,
        qp::PATH_MTU,
        qp::TIMEOUT,
        qp::RETRY_CNT,
        qp::RNR_RETRY,
        qp::MAX_RD_ATOMIC,
    ]
}

impl Connected for Rc {}
impl Connected for Uc {}
impl Connected for XrcIni {}
impl Plain for Rc {}
impl Plain for Uc {}
