// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! The payloads of admin commands: one request type and one response type for each opcode that has them.
//!
//! Numbers of objects (`pdn`, `cqn`, ...) are the device's; the driver passes `cookie`s, which come back in events and
//! completions and which the device never interprets.
//!
//! Which command makes, shows, changes and ends what:
//!
//! | object | make | show | change | end |
//! |---|---|---|---|---|
//! | device | | QUERY_DEVICE, QUERY_CLOCK, DUMP | nothing: registers ([`crate::regs`]) start, stop and reset it | |
//! | port | | QUERY_PORT, QUERY_COUNTERS | MODIFY_PORT | |
//! | entry of the GID table | SET_GID | QUERY_GID | SET_GID | SET_GID |
//! | protection domain | CREATE_PD | QUERY_PD | nothing: it has no attributes | DESTROY_PD |
//! | XRC domain | CREATE_XRCD | QUERY_XRCD | nothing: it has no attributes | DESTROY_XRCD |
//! | doorbell page | CREATE_DOORBELL | QUERY_DOORBELL | nothing: its slots are bound where it is | DESTROY_DOORBELL |
//! | event queue | CREATE_EQ | QUERY_EQ | nothing: one that is full loses nothing, so it need not grow, and completion queues moderate what comes here | DESTROY_EQ |
//! | completion queue or counter | CREATE_CQ | QUERY_CQ | MODIFY_CQ | DESTROY_CQ |
//! | memory region | CREATE_MR | QUERY_MR | MODIFY_MR | DESTROY_MR, REVOKE_MR |
//! | memory window | CREATE_MW | QUERY_MW | BIND_MW | DESTROY_MW |
//! | shared receive queue | CREATE_SRQ | QUERY_SRQ | MODIFY_SRQ | DESTROY_SRQ |
//! | queue pair | CREATE_QP | QUERY_QP | MODIFY_QP, BIND_COUNTER | DESTROY_QP |
//! | attachment to a multicast group | ATTACH_MCAST | QUERY_MCAST | nothing: it is there or it is not | DETACH_MCAST |
//! | flow rule | CREATE_FLOW | QUERY_FLOW | nothing: another rule takes its place without a gap when that one is made first | DESTROY_FLOW |
//! | counter set | CREATE_COUNTER | QUERY_COUNTER | nothing: it counts on for whatever is bound to it | DESTROY_COUNTER |
//!
//! An address handle is no object of the device: it stands in each send ([`crate::wqe::UdArgs`]).

use crate::admin::PAYLOAD;
use crate::layout::assert_layout;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! payload {
    ($(#[$m:meta])* pub struct $name:ident: $size:literal { $($(#[$fm:meta])* pub $field:ident: $t:ty,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fm])* pub $field: $t,)* }
        assert_layout!($name, $size);
        const _: () = assert!($size <= PAYLOAD);
    };
}

mod delivery;
mod device;
mod memory;
mod queues;

pub use delivery::*;
pub use device::*;
pub use memory::*;
pub use queues::*;

payload! {
    /// Request of every DESTROY and QUERY: the object's number.
    pub struct HandleReq: 8 {
        /// The number: PDN, doorbell page index, EQN, CQN, QPN; for memory regions the index of the key.
        pub handle: u32,
        /// Zero.
        pub reserved: u32,
    }
}

payload! {
    /// Response of every CREATE: the new object's number.
    pub struct HandleRsp: 8 {
        /// The number.
        pub handle: u32,
        /// Zero.
        pub reserved: u32,
    }
}
