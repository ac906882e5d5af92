// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries of rings, decoded for people: everything that is there is shown, also what the device would refuse.

use super::{Place, Stage};
use crate::dump::rights;
use crate::incident::reason;
use crate::qp::message::has_operands;
use serde::Serialize;
use verbena_hw::cqe::{self, vendor, Cqe, Status};
use verbena_hw::id::Key;
use verbena_hw::qp::QpType;
use verbena_hw::wqe::{
    send_flags, AtomicArgs, BindArgs, FlushArgs, RecvHeader, SendHeader, SendOpcode, Sge, UdArgs, XrcArgs,
};
use zerocopy::FromBytes;

/// An entry of a send queue.
#[derive(Clone, Debug, Serialize)]
pub struct SendEntry {
    /// The counter that it stands at.
    pub counter: u32,
    /// Where it stands.
    pub stage: Stage,
    /// DMA address.
    pub addr: u64,
    /// The operation.
    pub opcode: String,
    /// Flags by name.
    pub flags: Vec<&'static str>,
    /// The work request's id.
    pub wr_id: u64,
    /// Bytes of the message.
    pub bytes: u64,
    /// The memory of the peer that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
    /// Where a datagram goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// XRC: the peer's shared receive queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srqn: Option<u32>,
    /// What else it says: operands, immediate data, a key to invalidate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operands: String,
    /// Its elements; none with inline data.
    pub elements: Vec<Element>,
}

/// An entry of a receive queue.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiveEntry {
    /// The counter that it stands at.
    pub counter: u32,
    /// Where it stands.
    pub stage: Stage,
    /// DMA address.
    pub addr: u64,
    /// The work request's id.
    pub wr_id: u64,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Its elements.
    pub elements: Vec<Element>,
}

/// An entry of a completion queue.
#[derive(Clone, Debug, Serialize)]
pub struct CompletionEntry {
    /// The counter that it stands at.
    pub counter: u32,
    /// The consumer is past it.
    pub polled: bool,
    /// `send` or `receive`.
    pub side: &'static str,
    /// How it ended.
    pub status: String,
    /// What it is of; empty with an error, where the entry does not say.
    pub opcode: String,
    /// The work request's id.
    pub wr_id: u64,
    /// Bytes received or read.
    pub bytes: u32,
    /// The device's own reason, if there is a finer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was written, in nanoseconds of the device's clock.
    pub time_ns: u64,
}

/// Memory of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Remote {
    /// First address.
    pub addr: u64,
    /// Index of its R_Key.
    pub key: u32,
}

/// Where a datagram goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The queue pair.
    pub qpn: u32,
    /// The GID.
    pub gid: String,
}

/// A scatter/gather element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Element {
    /// Address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Index of its L_Key.
    pub key: u32,
}

/// The elements at the beginning of `bytes`: `count`, or as many as there is room for.
fn elements(bytes: &[u8], count: u8) -> Vec<Element> {
    let whole = bytes.chunks_exact(size_of::<Sge>()).take(count.into());
    let known = whole.filter_map(|chunk| Sge::read_from_bytes(chunk).ok());
    known
        .map(|sge| Element {
            addr: sge.addr,
            len: sge.len,
            key: sge.lkey.index(),
        })
        .collect()
}

fn total(elements: &[Element]) -> u64 {
    elements.iter().map(|element| u64::from(element.len)).sum()
}

fn flags(bits: u8) -> Vec<&'static str> {
    [
        (send_flags::FENCE, "FENCE"),
        (send_flags::SIGNALED, "SIGNALED"),
        (send_flags::SOLICITED, "SOLICITED"),
        (send_flags::INLINE, "INLINE"),
        (!send_flags::ALL, "unknown"),
    ]
    .into_iter()
    .filter(|(mask, _)| bits & mask != 0)
    .map(|(_, name)| name)
    .collect()
}

fn reads<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_prefix(bytes)
        .expect("the smallest stride holds every header and every operand block")
        .0
}

impl SendEntry {
    /// Of an entry's bytes, of a queue pair of this type.
    pub(super) fn decode(bytes: &[u8], kind: QpType, at: Place) -> Self {
        let header: SendHeader = reads(bytes);
        let opcode = SendOpcode(header.opcode);
        let mut rest = &bytes[size_of::<SendHeader>()..];
        let datagrams = matches!(kind, QpType::UD | QpType::GSI);
        let srqn = (kind == QpType::XRC_INI).then(|| {
            let args: XrcArgs = reads(rest);
            rest = &rest[size_of::<XrcArgs>()..];
            args.srqn.get()
        });
        let destination = datagrams.then(|| {
            let to: UdArgs = reads(rest);
            rest = &rest[size_of::<UdArgs>()..];
            Destination {
                qpn: to.dest_qpn.get(),
                gid: to.path.dgid.to_string(),
            }
        });
        let operands = operands(opcode, &header, rest);
        if has_operands(opcode) {
            rest = &rest[size_of::<AtomicArgs>()..];
        }
        let elements = elements(rest, header.num_sge);
        let inline = header.flags & send_flags::INLINE != 0;
        let has_remote = matches!(
            opcode,
            SendOpcode::WRITE
                | SendOpcode::WRITE_WITH_IMM
                | SendOpcode::READ
                | SendOpcode::COMPARE_SWAP
                | SendOpcode::FETCH_ADD
                | SendOpcode::ATOMIC_WRITE
                | SendOpcode::FLUSH
        );
        Self {
            counter: at.counter,
            stage: at.stage,
            addr: at.addr,
            opcode: opcode.to_string(),
            flags: flags(header.flags),
            wr_id: header.wr_id,
            bytes: if inline {
                header.inline_len.into()
            } else {
                total(&elements)
            },
            remote: has_remote.then(|| Remote {
                addr: header.remote_addr,
                key: header.rkey.index(),
            }),
            destination,
            srqn,
            operands,
            elements,
        }
    }
}

/// What an entry says beyond its address, for people.
fn operands(opcode: SendOpcode, header: &SendHeader, rest: &[u8]) -> String {
    match opcode {
        SendOpcode::WRITE_WITH_IMM | SendOpcode::SEND_WITH_IMM => format!("imm {:#x}", u32::from_be(header.imm)),
        SendOpcode::SEND_WITH_INVALIDATE | SendOpcode::LOCAL_INVALIDATE => {
            format!("invalidates key {:#x}", Key(header.imm).index())
        }
        SendOpcode::COMPARE_SWAP => {
            let args: AtomicArgs = reads(rest);
            format!("{:#x} becomes {:#x}", args.compare_add, args.swap)
        }
        SendOpcode::FETCH_ADD => format!("adds {:#x}", reads::<AtomicArgs>(rest).compare_add),
        SendOpcode::BIND_MW => {
            let args: BindArgs = reads(rest);
            let (key, of) = (header.rkey.index(), args.lkey.index());
            format!(
                "window {key:#x} on {:#x}+{:#x} of {of:#x}",
                header.remote_addr, args.len
            )
        }
        SendOpcode::FAST_REGISTER | SendOpcode::FAST_REGISTER_LIST => {
            let (key, granted) = (header.rkey.index(), rights(header.imm).join("|"));
            format!("region {key:#x} at {:#x} {granted}", header.remote_addr)
        }
        SendOpcode::FLUSH => {
            let args: FlushArgs = reads(rest);
            format!("{} bytes, placement {}, level {}", args.len, args.placement, args.level)
        }
        _ => String::new(),
    }
}

impl ReceiveEntry {
    /// Of an entry's bytes.
    pub(super) fn decode(bytes: &[u8], at: Place) -> Self {
        let header: RecvHeader = reads(bytes);
        let elements = elements(&bytes[size_of::<RecvHeader>()..], header.num_sge);
        Self {
            counter: at.counter,
            stage: at.stage,
            addr: at.addr,
            wr_id: header.wr_id,
            bytes: total(&elements),
            elements,
        }
    }
}

impl CompletionEntry {
    pub(super) fn decode(cqe: &Cqe, counter: u32, polled: bool) -> Self {
        let status = Status(cqe.status);
        let receive = cqe.flags & cqe::flags::RECV != 0;
        Self {
            counter,
            polled,
            side: if receive { "receive" } else { "send" },
            status: status.to_string(),
            opcode: if status == Status::SUCCESS {
                cqe::Opcode(cqe.opcode).to_string()
            } else {
                String::new()
            },
            wr_id: cqe.wr_id,
            bytes: cqe.byte_len,
            reason: (cqe.vendor_err != vendor::NONE).then(|| reason(cqe.vendor_err)),
            time_ns: cqe.timestamp,
        }
    }
}
