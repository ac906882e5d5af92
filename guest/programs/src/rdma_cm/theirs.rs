// SPDX-License-Identifier: MIT OR Apache-2.0
//! Their side: the kernel's rdma_cm through its device file, whose messages are those of `rdma/rdma_user_cm.h` (Linux), an
//! ABI that is fixed.
//!
//! What librdmacm does beside is queue pairs, which nothing here has, so no library stands between a case and the kernel.
#![expect(unsafe_code, reason = "a command names the memory for its answer by address")]

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes};

/// Events, `enum rdma_cm_event_type` (`rdma/rdma_cm.h`).
pub mod kind {
    pub const ADDR_RESOLVED: u32 = 0;
    pub const ROUTE_RESOLVED: u32 = 2;
    pub const CONNECT_REQUEST: u32 = 4;
    pub const CONNECT_RESPONSE: u32 = 5;
    pub const REJECTED: u32 = 8;
    pub const ESTABLISHED: u32 = 9;
    pub const DISCONNECTED: u32 = 10;
    pub const TIMEWAIT_EXIT: u32 = 15;
}

/// `RDMA_PS_TCP`.
const PORT_SPACE_TCP: u16 = 0x0106;
/// `IB_QPT_RC`.
const RC: u8 = 2;
/// How long the kernel may look for an address or a route.
const RESOLVE_MS: u32 = 10_000;

/// What an id's events carry. The kernel drops those of an id whose number is zero.
const UID: u64 = 1;

/// Private data of any message: `RDMA_MAX_PRIVATE_DATA`.
const DATA: usize = 256;

/// `enum`: the commands.
mod command {
    pub const CREATE_ID: u32 = 0;
    pub const DESTROY_ID: u32 = 1;
    pub const BIND_IP: u32 = 2;
    pub const RESOLVE_IP: u32 = 3;
    pub const RESOLVE_ROUTE: u32 = 4;
    pub const CONNECT: u32 = 6;
    pub const LISTEN: u32 = 7;
    pub const ACCEPT: u32 = 8;
    pub const REJECT: u32 = 9;
    pub const DISCONNECT: u32 = 10;
    pub const GET_EVENT: u32 = 12;
}

/// `struct sockaddr_in`, in the room of a `struct sockaddr_in6`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Address {
    family: u16,
    port: [u8; 2],
    ip: [u8; 4],
    rest: [u8; 20],
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Self {
        Self {
            family: libc::AF_INET as u16,
            port: address.port().to_be_bytes(),
            ip: address.ip().octets(),
            rest: [0; 20],
        }
    }
}

/// `struct rdma_ucm_create_id`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct CreateId {
    uid: u64,
    response: u64,
    port_space: u16,
    qp_type: u8,
    reserved: [u8; 5],
}

/// `struct rdma_ucm_destroy_id`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DestroyId {
    response: u64,
    id: u32,
    reserved: u32,
}

/// `struct rdma_ucm_bind_ip`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct BindIp {
    response: u64,
    address: Address,
    id: u32,
}

/// `struct rdma_ucm_resolve_ip`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ResolveIp {
    source: Address,
    destination: Address,
    id: u32,
    timeout_ms: u32,
}

/// `struct rdma_ucm_resolve_route`, `struct rdma_ucm_listen`: an id and a number.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IdAnd {
    id: u32,
    number: u32,
}

/// `struct rdma_ucm_conn_param`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ConnParam {
    qp_num: u32,
    qkey: u32,
    private_data: [u8; DATA],
    private_data_len: u8,
    srq: u8,
    responder_resources: u8,
    initiator_depth: u8,
    flow_control: u8,
    retry_count: u8,
    rnr_retry_count: u8,
    valid: u8,
}

/// `struct rdma_ucm_connect`, as far as the kernel wants it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Connect {
    param: ConnParam,
    id: u32,
    reserved: u32,
}

/// `struct rdma_ucm_accept`, likewise.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Accept {
    uid: u64,
    param: ConnParam,
    id: u32,
    reserved: u32,
}

/// `struct rdma_ucm_reject`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Reject {
    id: u32,
    private_data_len: u8,
    reason: u8,
    reserved: [u8; 2],
    private_data: [u8; DATA],
}

/// `struct rdma_ucm_event_resp`, as it is for connections and as far as older kernels have it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct EventResp {
    uid: u64,
    id: u32,
    event: u32,
    status: u32,
    param: ConnParam,
    /// The union that `param` is one part of has a larger one: `struct rdma_ucm_ud_param`.
    rest: [u8; UD_PARAM - size_of::<ConnParam>() + 4],
}

// What the C compiler makes of the header.
const _: () = assert!(size_of::<Connect>() == 280 && size_of::<Accept>() == 288 && size_of::<EventResp>() == 328);

/// `struct rdma_ucm_ud_param`: a queue pair's number and Q_Key, an address handle's attributes (32), private data, a length.
const UD_PARAM: usize = 8 + 32 + DATA + 8;

/// Numbers that a side brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Its queue pair.
    pub qpn: u32,
    /// READs and atomics that it executes at a time.
    pub responder_resources: u8,
    /// READs and atomics that it wants to have outstanding.
    pub initiator_depth: u8,
    /// RNR retries that the peer shall make.
    pub rnr_retry_count: u8,
    /// Private data.
    pub data: &'a [u8],
}

impl Offer<'_> {
    fn param(&self) -> ConnParam {
        let mut private_data = [0; DATA];
        private_data[..self.data.len()].copy_from_slice(self.data);
        ConnParam {
            qp_num: self.qpn,
            qkey: 0,
            private_data,
            private_data_len: self.data.len() as u8,
            srq: 0,
            responder_resources: self.responder_resources,
            initiator_depth: self.initiator_depth,
            flow_control: 0,
            retry_count: 5,
            rnr_retry_count: self.rnr_retry_count,
            valid: 1,
        }
    }
}

/// What the kernel reports.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Whose it is; of a request, the new one's.
    pub id: u32,
    /// One of [`kind`].
    pub kind: u32,
    /// Of a refusal, its reason; otherwise 0 or a negative error.
    pub status: i32,
    /// The peer's queue pair.
    pub qpn: u32,
    /// As the kernel hands it to a program: seen from here.
    pub responder_resources: u8,
    /// Likewise.
    pub initiator_depth: u8,
    /// RNR retries that the peer asks of us.
    pub rnr_retry_count: u8,
    /// The peer's private data.
    pub data: Vec<u8>,
}

/// An open rdma_cm device: its ids end with it.
pub struct Theirs(File);

impl AsFd for Theirs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Theirs {
    /// Opens it.
    pub fn open() -> Result<Self> {
        const PATH: &str = "/dev/infiniband/rdma_cm";
        let file = File::options().read(true).write(true).open(PATH);
        Ok(Self(file.with_context(|| format!("cannot open {PATH}"))?))
    }

    /// Gives a command; its answer, if it has one, is written where the command says.
    fn command(&self, number: u32, body: &[u8], answer: usize) -> io::Result<()> {
        let mut message = number.to_ne_bytes().to_vec();
        message.extend((body.len() as u16).to_ne_bytes());
        message.extend((answer as u16).to_ne_bytes());
        message.extend(body);
        // SAFETY: The message lives during the call. The memory for the answer that it names is `ask`'s, is as long as it says,
        // and lives until the call returns, too.
        let written = unsafe { libc::write(self.0.as_raw_fd(), message.as_ptr().cast(), message.len()) };
        match written {
            _ if written == message.len() as isize => Ok(()),
            ..0 => Err(io::Error::last_os_error()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn tell(&self, what: &str, number: u32, body: &(impl IntoBytes + Immutable)) -> Result<()> {
        self.command(number, body.as_bytes(), 0)
            .with_context(|| format!("rdma_cm does not {what}"))
    }

    /// A command with an answer. `body` makes it from the answer's address.
    fn ask<A: FromBytes + IntoBytes, B: IntoBytes + Immutable>(
        &self,
        what: &str,
        number: u32,
        body: impl FnOnce(u64) -> B,
    ) -> Result<A> {
        let mut answer = A::new_zeroed();
        // Exposed: the kernel writes there.
        let address = (&raw mut answer).expose_provenance() as u64;
        self.command(number, body(address).as_bytes(), size_of::<A>())
            .with_context(|| format!("rdma_cm does not {what}"))?;
        Ok(answer)
    }

    fn create(&self) -> Result<u32> {
        self.ask("make an id", command::CREATE_ID, |response| CreateId {
            uid: UID,
            response,
            port_space: PORT_SPACE_TCP,
            qp_type: RC,
            reserved: [0; 5],
        })
    }

    /// A new id that listens.
    pub fn listen(&self, at: SocketAddrV4, backlog: u32) -> Result<u32> {
        let id = self.create()?;
        let bind = BindIp {
            response: 0,
            address: at.into(),
            id,
        };
        self.tell("bind", command::BIND_IP, &bind)?;
        let listen = IdAnd { id, number: backlog };
        self.tell("listen", command::LISTEN, &listen)?;
        Ok(id)
    }

    /// A new id whose address is being looked for: ADDR_RESOLVED follows.
    pub fn resolve(&self, from: Ipv4Addr, to: SocketAddrV4) -> Result<u32> {
        let id = self.create()?;
        let resolve = ResolveIp {
            source: SocketAddrV4::new(from, 0).into(),
            destination: to.into(),
            id,
            timeout_ms: RESOLVE_MS,
        };
        self.tell("resolve an address", command::RESOLVE_IP, &resolve)?;
        Ok(id)
    }

    /// ROUTE_RESOLVED follows.
    pub fn resolve_route(&self, id: u32) -> Result<()> {
        let resolve = IdAnd { id, number: RESOLVE_MS };
        self.tell("resolve a route", command::RESOLVE_ROUTE, &resolve)
    }

    /// Sends a REQ.
    pub fn connect(&self, id: u32, offer: &Offer<'_>) -> Result<()> {
        let connect = Connect {
            param: offer.param(),
            id,
            reserved: 0,
        };
        self.tell("connect", command::CONNECT, &connect)
    }

    /// Answers a REQ.
    pub fn accept(&self, id: u32, offer: &Offer<'_>) -> Result<()> {
        let accept = Accept {
            uid: UID,
            param: offer.param(),
            id,
            reserved: 0,
        };
        self.tell("accept", command::ACCEPT, &accept)
    }

    /// After CONNECT_RESPONSE: sends the RTU.
    pub fn ready(&self, id: u32) -> Result<()> {
        let accept = Accept {
            uid: UID,
            param: ConnParam::new_zeroed(),
            id,
            reserved: 0,
        };
        self.tell("send an RTU", command::ACCEPT, &accept)
    }

    /// Refuses.
    pub fn reject(&self, id: u32, data: &[u8]) -> Result<()> {
        let mut private_data = [0; DATA];
        private_data[..data.len()].copy_from_slice(data);
        let reject = Reject {
            id,
            private_data_len: data.len() as u8,
            reason: 0,
            reserved: [0; 2],
            private_data,
        };
        self.tell("refuse", command::REJECT, &reject)
    }

    /// Sends a DREQ, or the DREP to one.
    pub fn disconnect(&self, id: u32) -> Result<()> {
        self.tell("disconnect", command::DISCONNECT, &id)
    }

    /// Destroys an id.
    pub fn destroy(&self, id: u32) -> Result<()> {
        let _reported: u32 = self.ask("destroy an id", command::DESTROY_ID, |response| DestroyId {
            response,
            id,
            reserved: 0,
        })?;
        Ok(())
    }

    /// The next event; waits for one, so it is to be called when there is one.
    pub fn event(&self) -> Result<Happened> {
        let event: EventResp = self.ask("report", command::GET_EVENT, |response| response)?;
        let param = &event.param;
        let data = param.private_data.get(..usize::from(param.private_data_len));
        Ok(Happened {
            id: event.id,
            kind: event.event,
            status: event.status as i32,
            qpn: param.qp_num,
            responder_resources: param.responder_resources,
            initiator_depth: param.initiator_depth,
            rnr_retry_count: param.rnr_retry_count,
            data: data.unwrap_or_default().to_vec(),
        })
    }
}
