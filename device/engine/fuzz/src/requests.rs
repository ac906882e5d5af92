// SPDX-License-Identifier: MIT OR Apache-2.0

//! Requests that could be right.

use crate::{Arena, SECOND};
use verbena_engine::testing::{attrs, QpShape, SendWr};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{
    BindCounterReq, BindMwReq, CreateCqReq, CreateDoorbellReq, CreateEqReq, CreateFlowReq, CreateMrReq, CreateMwReq,
    HandleReq, McastReq, ModifyCqReq, ModifyMrReq, ModifyPortReq, ModifyQpReq, ModifySrqReq, SetGidReq, CQ_COUNTER,
    MR_FAST, MR_NULL,
};
use verbena_hw::flow::FlowType;
use verbena_hw::id::{Cqn, Gid, Key, Qpn, Srqn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::{access, QpType};
use verbena_hw::ring::PageList;
use verbena_hw::srq::SrqType;
use verbena_hw::wqe::{BindArgs, Sge};
use zerocopy::{FromZeros, IntoBytes};

/// One of all opcodes.
pub fn opcode(n: u8) -> Opcode {
    Opcode::ALL[usize::from(n) % Opcode::ALL.len()].0
}

/// What a request is made of beside its opcode.
#[derive(Clone, Copy)]
pub struct Ask {
    /// A number that the device has answered, or any other.
    pub number: u32,
    /// One that could go with it.
    pub other: u32,
    /// Which of the kinds that the opcode has.
    pub kind: u8,
    /// An array of page addresses, and how many there are; `None`: pages are in one stretch.
    pub array: Option<(u64, u32)>,
    /// Objects that take memory of the guest, of which there is only so much, may still be made.
    pub room: bool,
}

impl Ask {
    fn pages(&self, bytes: u64) -> PageList {
        match self.array {
            Some((array, pages)) => PageList::indirect(array, pages),
            None => PageList::direct(SECOND, bytes),
        }
    }
}

fn bytes(request: impl IntoBytes + zerocopy::Immutable) -> Vec<u8> {
    request.as_bytes().to_vec()
}

/// Any opcode's.
pub fn request(arena: &mut Arena, opcode: Opcode, ask: Ask) -> Vec<u8> {
    let evil = &arena.evil;
    let Ask {
        number, other, kind, ..
    } = ask;
    match opcode {
        Opcode::CREATE_DOORBELL => bytes(CreateDoorbellReq { addr: SECOND + 0x8000 }),
        Opcode::CREATE_EQ => bytes(CreateEqReq {
            ring: ask.pages(4096),
            log_entries: 7,
            async_default: 0,
            vector: 1,
            ..CreateEqReq::new_zeroed()
        }),
        Opcode::CREATE_CQ => bytes(CreateCqReq {
            ring: ask.pages(4096),
            record: SECOND + 0x9000,
            cookie: number.into(),
            eqn: evil.guest.eqn,
            log_entries: 6,
            flags: if kind & 8 == 0 { 0 } else { CQ_COUNTER },
            ..CreateCqReq::new_zeroed()
        }),
        Opcode::MODIFY_CQ => bytes(ModifyCqReq {
            cqn: if kind & 4 == 0 {
                evil.cq.cqn
            } else {
                Cqn::truncate(number)
            },
            mask: (kind % 4).into(),
            count: other % 9,
            period_us: number % 100,
            ring: ask.pages(8192),
            record: SECOND + 0x9100,
            log_entries: 4 + kind / 8 % 4,
            ..ModifyCqReq::new_zeroed()
        }),
        Opcode::CREATE_MR | Opcode::MODIFY_MR => memory(arena, opcode, ask),
        Opcode::CREATE_MW => bytes(CreateMwReq {
            pdn: evil.guest.pdn,
            mw_type: MwType(kind % 4),
            ..CreateMwReq::new_zeroed()
        }),
        Opcode::BIND_MW => bytes(BindMwReq {
            addr: evil.mr.addr,
            len: 100,
            index: number,
            lkey: evil.mr.lkey,
            access: 0xe,
            ..BindMwReq::new_zeroed()
        }),
        Opcode::CREATE_QP if ask.room => queue_pair(arena, ask),
        Opcode::CREATE_SRQ if ask.room => {
            let Arena { world, evil, .. } = arena;
            let mut request = evil.guest.srq_request(world, 4);
            if kind % 2 == 1 {
                request.srq_type = SrqType::XRC;
                (request.xrcdn, request.cqn) = (number, evil.cq.cqn);
            }
            if ask.array.is_some() {
                request.ring = ask.pages(0);
            }
            bytes(request)
        }
        Opcode::MODIFY_SRQ => bytes(ModifySrqReq {
            srqn: Srqn::truncate(number),
            mask: (kind % 4).into(),
            limit: other % 20,
            log_entries: 3 + kind / 4 % 4,
            ring: ask.pages(4096),
            record: SECOND + 0x9200,
            ..ModifySrqReq::new_zeroed()
        }),
        Opcode::CREATE_COUNTER | Opcode::CREATE_PD | Opcode::CREATE_XRCD => Vec::new(),
        Opcode::BIND_COUNTER => bytes(BindCounterReq {
            qpn: if kind % 2 == 0 {
                evil.qp.qpn
            } else {
                Qpn::truncate(other)
            },
            counter: number,
        }),
        Opcode::CREATE_FLOW => {
            let mut request = CreateFlowReq {
                qpn: Qpn::truncate(number),
                flow_type: FlowType(kind % 4),
                port: 1,
                ..CreateFlowReq::new_zeroed()
            };
            if kind & 4 == 0 {
                request.priority = other as u16 % 4;
                (request.value.dmac, request.mask.dmac) = ([2, 0, 0, 0, 0, 1], [0xff; 6]);
            }
            bytes(request)
        }
        Opcode::MODIFY_QP => {
            let types = [QpType::RC, QpType::XRC_INI, QpType::XRC_TGT, QpType::UC];
            let to = evil.guest.gid();
            let connection = attrs::connection(types[usize::from(kind) % 4], to, evil.qp.qpn, (0, 0));
            let raw = attrs::raw();
            let datagram = attrs::datagram(QpType::UD, 7);
            let ways = [connection, raw, datagram][usize::from(kind) / 4 % 3];
            let (mask, attrs) = ways[other as usize % 3];
            bytes(ModifyQpReq {
                qpn: Qpn::truncate(number),
                mask,
                attrs,
            })
        }
        Opcode::ATTACH_MCAST | Opcode::DETACH_MCAST | Opcode::QUERY_MCAST => bytes(McastReq {
            qpn: Qpn::truncate(number),
            reserved: 0,
            gid: group(kind),
        }),
        Opcode::SET_GID => bytes(SetGidReq {
            index: (kind % 4).into(),
            reserved: 0,
            gid: Gid::from_ipv4([10, 0, 0, kind]),
        }),
        Opcode::MODIFY_PORT => bytes(ModifyPortReq {
            state: 1 + u32::from(kind % 2),
            reserved: 0,
        }),
        _ => {
            let mut bytes = bytes(HandleReq {
                handle: number,
                ..HandleReq::new_zeroed()
            });
            bytes.resize(32, 0);
            bytes
        }
    }
}

/// One of a few multicast groups.
fn group(n: u8) -> Gid {
    Gid::from_ipv4([239, 0, 0, n % 4])
}

/// A region of any kind, made or changed.
fn memory(arena: &Arena, opcode: Opcode, ask: Ask) -> Vec<u8> {
    let evil = &arena.evil;
    if opcode == Opcode::MODIFY_MR {
        return bytes(ModifyMrReq {
            pages: ask.pages(8192),
            iova: SECOND,
            len: 8192,
            index: ask.number,
            mask: u32::from(ask.kind) % 8,
            pdn: evil.guest.pdn,
            access: 0xf | access::MW_BIND,
            ..ModifyMrReq::new_zeroed()
        });
    }
    if ask.kind % 8 == 4 {
        return bytes(CreateMrReq {
            pdn: evil.guest.pdn,
            flags: MR_NULL,
            ..CreateMrReq::new_zeroed()
        });
    }
    if ask.kind % 2 == 1 {
        return bytes(CreateMrReq {
            len: (ask.other % 600).into(),
            pdn: evil.guest.pdn,
            flags: MR_FAST,
            ..CreateMrReq::new_zeroed()
        });
    }
    bytes(CreateMrReq {
        pages: ask.pages(8192),
        iova: SECOND,
        len: 8192,
        first_offset: 0,
        pdn: evil.guest.pdn,
        access: 0xf | access::MW_BIND,
        ..CreateMrReq::new_zeroed()
    })
}

/// A queue pair of any type.
fn queue_pair(arena: &mut Arena, ask: Ask) -> Vec<u8> {
    let Arena { world, evil, .. } = arena;
    let shape = QpShape {
        sq_log: 3,
        rq_log: 3,
        ..QpShape::default()
    };
    let mut request = match ask.kind % 6 {
        0 => evil.guest.target_request(ask.number),
        1 => evil.guest.initiator_request(world, &evil.cq, shape),
        _ => evil.guest.qp_request(world, &evil.cq, &evil.cq, shape),
    };
    match ask.kind % 6 {
        2 => request.qp_type = QpType::RAW,
        3 => request.qp_type = QpType::UD,
        4 => {
            request.srqn = Srqn::truncate(ask.number);
            (request.rq, request.rq_log_entries, request.rq_log_stride) = Default::default();
            request.max_recv_sge = 0;
        }
        _ => {}
    }
    if ask.array.is_some() {
        request.sq = ask.pages(0);
    }
    // On its way at once.
    if ask.kind & 0x40 != 0 {
        let to = evil.guest.gid();
        let [init, ..] = attrs::connection(request.qp_type, to, evil.qp.qpn, (0, 0));
        (request.mask, request.attrs) = init;
    }
    bytes(request)
}

/// A key with this index, as far as that is one.
fn key(index: u32, tag: u8) -> Key {
    Key::from_parts(index & 0x00ff_ffff, tag)
}

/// A work request about keys: what commands have made, a queue pair's owner gives memory, and takes it away.
pub fn work(arena: &Arena, ask: Ask) -> SendWr {
    let evil = &arena.evil;
    let own = key(ask.number, ask.kind);
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | u32::from(ask.kind) & access::MR_ALL;
    let part = |n: u64| Sge {
        addr: SECOND + n * 64,
        len: 64,
        lkey: key(ask.other, ask.kind),
    };
    match ask.kind % 6 {
        0 => SendWr::register(1, own, 0x1000, rights, &[evil.sge(0, 64), evil.sge(4096, 100)]),
        1 => SendWr::register(1, own, 0x1000, rights, &[part(0), part(1)]),
        2 => {
            let list: Vec<Sge> = (0..u64::from(ask.other % 600)).map(|n| evil.sge(n * 32, 16)).collect();
            let at = 1 << 20;
            arena.world.ram(evil.guest.hca).write(evil.addr(at), list.as_bytes());
            SendWr::register_list(1, own, 0x1000, rights, &[evil.sge(at, size_of_val(&list[..]) as u32)])
        }
        3 => {
            let args = BindArgs {
                len: 64,
                lkey: key(ask.other, ask.kind),
                access: u32::from(ask.kind),
            };
            SendWr::bind(1, own, 0x1000, args)
        }
        4 => SendWr::send_invalidate(1, &[], own),
        _ => SendWr::local_invalidate(1, own),
    }
}
