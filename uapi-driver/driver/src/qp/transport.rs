// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types of queue pairs, as types.

use rdma_uapi::class::{self, qp};
use rdma_uapi::schema::Attr;

mod sealed {
    pub trait Sealed {}
}

/// A type of queue pair.
pub trait Transport: sealed::Sealed {
    /// Its class in the object model.
    const CLASS: u16;
    /// Its name.
    const NAME: &'static str;
    /// Whether a queue pair has one peer.
    const IS_CONNECTED: bool;
    /// The attributes that are numbers and that not every type has.
    const ATTRS: &'static [Attr<u32>];
}

/// A type whose queue pairs have one peer each.
pub trait Connected: Transport {}

macro_rules! transport {
    ($(#[$doc:meta])* $name:ident, $class:ident, $text:literal, $connected:literal, $attrs:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Transport for $name {
            const CLASS: u16 = class::$class;
            const NAME: &'static str = $text;
            const IS_CONNECTED: bool = $connected;
            const ATTRS: &'static [Attr<u32>] = $attrs;
        }
    };
}

transport! {
    /// Reliable connected.
    Rc, QP_RC, "RcQp", true, &[
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
    Uc, QP_UC, "UcQp", true, &[qp::PKEY_INDEX, qp::ACCESS, qp::DEST_QPN, qp::SQ_PSN, qp::RQ_PSN, qp::PATH_MTU]
}
transport! {
    /// Unreliable datagram.
    Ud, QP_UD, "UdQp", false, &[qp::PKEY_INDEX, qp::SQ_PSN, qp::QKEY]
}
transport! {
    /// Raw Ethernet.
    Raw, QP_RAW, "RawQp", false, &[]
}

impl Connected for Rc {}
impl Connected for Uc {}
