// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that gives its device commands of its own kind, and writes registers as it likes.

#![no_main]

use arbitrary::Arbitrary;
use core::time::Duration;
use libfuzzer_sys::fuzz_target;
use verbena_engine::testing::attrs;
use verbena_engine_fuzz::{Arena, SECOND, SECOND_LEN};
use verbena_hw::admin::{Command, Opcode, PAYLOAD};
use verbena_hw::cmd::{
    BindCounterReq, BindMwReq, CreateCqReq, CreateDoorbellReq, CreateEqReq, CreateFlowReq, CreateMrReq, CreateMwReq,
    HandleReq, ModifyQpReq,
};
use verbena_hw::flow::FlowType;
use verbena_hw::mw::MwType;
use verbena_hw::qp::QpType;
use verbena_hw::regs;
use verbena_hw::ring::PageList;
use zerocopy::{FromZeros, IntoBytes};

#[derive(Arbitrary, Debug)]
enum Act {
    /// A command that is nearly right.
    Nearly {
        opcode: u8,
        /// Which object, among those that were made.
        object: u8,
        /// Its pages are named by the array of page addresses.
        indirect: bool,
        spoils: Vec<(u8, u8)>,
    },
    /// A command that is not.
    Bytes { opcode: u8, payload: Vec<u8> },
    /// The array of page addresses.
    Pages(Vec<Page>),
    /// Writes a register.
    Register { offset: u16, size: u8, value: u64 },
    /// Reads one.
    Peek { offset: u16, size: u8 },
    /// Writes a doorbell register.
    Doorbell { offset: u32, size: u8, value: u32 },
    /// The second memory goes or comes.
    Remap(bool),
    /// Time passes.
    Wait(u16),
}

#[derive(Arbitrary, Debug)]
enum Page {
    /// One of the second memory's.
    Mapped(u8),
    /// Whatever.
    Address(u64),
}

/// Where the array of page addresses is: in memory that stays.
struct State {
    array: u64,
    pages: u32,
    /// Numbers that the device has answered.
    numbers: Vec<u32>,
    /// Registers of the command queue itself were written: its owner cannot use it any more.
    spoiled: bool,
}

const OPCODES: &[Opcode] = &[
    Opcode::NOP,
    Opcode::QUERY_DEVICE,
    Opcode::QUERY_PORT,
    Opcode::SET_GID,
    Opcode::QUERY_GID,
    Opcode::DUMP,
    Opcode::CREATE_PD,
    Opcode::DESTROY_PD,
    Opcode::CREATE_DOORBELL,
    Opcode::DESTROY_DOORBELL,
    Opcode::CREATE_EQ,
    Opcode::DESTROY_EQ,
    Opcode::CREATE_CQ,
    Opcode::DESTROY_CQ,
    Opcode::QUERY_CQ,
    Opcode::CREATE_MR,
    Opcode::DESTROY_MR,
    Opcode::QUERY_MR,
    Opcode::REVOKE_MR,
    Opcode::CREATE_SRQ,
    Opcode::DESTROY_SRQ,
    Opcode::MODIFY_SRQ,
    Opcode::QUERY_SRQ,
    Opcode::CREATE_MW,
    Opcode::DESTROY_MW,
    Opcode::BIND_MW,
    Opcode::QUERY_MW,
    Opcode::CREATE_QP,
    Opcode::DESTROY_QP,
    Opcode::MODIFY_QP,
    Opcode::QUERY_QP,
    Opcode::ATTACH_MCAST,
    Opcode::DETACH_MCAST,
    Opcode::CREATE_FLOW,
    Opcode::DESTROY_FLOW,
    Opcode::QUERY_FLOW,
    Opcode::QUERY_COUNTERS,
    Opcode::CREATE_COUNTER,
    Opcode::DESTROY_COUNTER,
    Opcode::QUERY_COUNTER,
    Opcode::BIND_COUNTER,
];

fuzz_target!(|input: (bool, Vec<Act>)| {
    let (victim, acts) = input;
    let mut arena = Arena::new(victim);
    let array = arena.world.ram_mut(arena.evil.guest.hca).alloc(4096);
    let mut state = State {
        array,
        pages: 0,
        numbers: vec![
            arena.evil.qp.qpn.get(),
            arena.evil.cq.cqn.get(),
            arena.evil.mr.lkey.index(),
        ],
        spoiled: false,
    };
    for act in acts.iter().take(40) {
        perform(&mut arena, &mut state, act);
        arena.honest();
    }
    arena.finish(!state.spoiled);
});

fn perform(arena: &mut Arena, state: &mut State, act: &Act) {
    let hca = arena.evil.guest.hca;
    match act {
        Act::Nearly {
            opcode,
            object,
            indirect,
            spoils,
        } => {
            let opcode = OPCODES[usize::from(*opcode) % OPCODES.len()];
            let number = state.numbers.get(usize::from(*object) % (state.numbers.len() + 1));
            let number = number.copied().unwrap_or((*object).into());
            let mut request = request(arena, state, opcode, number, *indirect);
            for (at, byte) in spoils.iter().take(4) {
                let at = usize::from(*at) % request.len().max(1);
                if let Some(place) = request.get_mut(at) {
                    *place = *byte;
                }
            }
            submit(arena, state, opcode, &request);
        }
        Act::Bytes { opcode, payload } => submit(arena, state, Opcode((*opcode).into()), payload),
        Act::Pages(pages) => {
            let pages = &pages[..pages.len().min(64)];
            let addresses: Vec<u64> = pages
                .iter()
                .map(|page| match page {
                    Page::Mapped(n) => SECOND + u64::from(n % 16) * 4096,
                    Page::Address(addr) => *addr,
                })
                .collect();
            arena.world.ram(hca).write(state.array, addresses.as_bytes());
            state.pages = pages.len() as u32;
        }
        Act::Register { offset, size, value } => {
            let queue = [
                regs::CTRL,
                regs::ASQ_ADDR,
                regs::ACQ_ADDR,
                regs::AQ_LOG_SIZE,
                regs::ASQ_TAIL,
                regs::ACQ_HEAD,
            ];
            state.spoiled |= queue.iter().any(|reg| reg.abs_diff((*offset).into()) < 8);
            arena.world.write_reg(hca, (*offset).into(), (*size).into(), *value);
        }
        Act::Peek { offset, size } => {
            arena.world.read_reg(hca, (*offset).into(), (*size).into());
        }
        Act::Doorbell { offset, size, value } => {
            arena
                .world
                .engine
                .write_doorbell(hca, (*offset).into(), (*size).into(), (*value).into());
        }
        Act::Remap(map) => {
            arena.world.ram_mut(hca).unmap(SECOND);
            if *map {
                arena.world.ram_mut(hca).map(SECOND, SECOND_LEN, true);
            }
            arena.world.engine.ram_changed(hca, &arena.world.env);
        }
        Act::Wait(micros) => arena.world.advance(Duration::from_micros((*micros).into())),
    }
}

/// A request that could be right.
fn request(arena: &mut Arena, state: &State, opcode: Opcode, number: u32, indirect: bool) -> Vec<u8> {
    let evil = &arena.evil;
    let pages = |bytes: u64| match indirect {
        true => PageList::indirect(state.array, state.pages),
        false => PageList::direct(SECOND, bytes),
    };
    match opcode {
        Opcode::CREATE_DOORBELL => CreateDoorbellReq { addr: SECOND + 0x8000 }.as_bytes().to_vec(),
        Opcode::CREATE_EQ => CreateEqReq {
            ring: pages(4096),
            log_entries: 7,
            async_default: 0,
            vector: 1,
            ..CreateEqReq::new_zeroed()
        }
        .as_bytes()
        .to_vec(),
        Opcode::CREATE_CQ => CreateCqReq {
            ring: pages(4096),
            record: SECOND + 0x9000,
            cookie: number.into(),
            eqn: evil.guest.eqn,
            log_entries: 6,
            ..CreateCqReq::new_zeroed()
        }
        .as_bytes()
        .to_vec(),
        Opcode::CREATE_MR => CreateMrReq {
            pages: pages(8192),
            iova: SECOND,
            len: 8192,
            first_offset: 0,
            pdn: evil.guest.pdn,
            access: 0xf,
            ..CreateMrReq::new_zeroed()
        }
        .as_bytes()
        .to_vec(),
        Opcode::CREATE_MW => CreateMwReq {
            pdn: evil.guest.pdn,
            mw_type: MwType((number % 4) as u8),
            ..CreateMwReq::new_zeroed()
        }
        .as_bytes()
        .to_vec(),
        Opcode::BIND_MW => BindMwReq {
            addr: evil.mr.addr,
            len: 100,
            index: number,
            lkey: evil.mr.lkey,
            access: 0xe,
            ..BindMwReq::new_zeroed()
        }
        .as_bytes()
        .to_vec(),
        // These take guest memory, of which there is only so much.
        Opcode::CREATE_QP if state.numbers.len() < 24 => {
            let Arena { world, evil, .. } = arena;
            let mut request = evil.guest.qp_request(world, &evil.cq, &evil.cq, Default::default());
            if number % 2 == 0 {
                request.qp_type = QpType::RAW;
            }
            if indirect {
                request.rq = PageList::indirect(state.array, state.pages);
            }
            request.as_bytes().to_vec()
        }
        Opcode::CREATE_SRQ if state.numbers.len() < 24 => {
            let Arena { world, evil, .. } = arena;
            let mut request = evil.guest.srq_request(world, 4);
            if indirect {
                request.ring = PageList::indirect(state.array, state.pages);
            }
            request.as_bytes().to_vec()
        }
        Opcode::CREATE_COUNTER => Vec::new(),
        Opcode::BIND_COUNTER => BindCounterReq {
            qpn: evil.qp.qpn,
            counter: number,
        }
        .as_bytes()
        .to_vec(),
        Opcode::CREATE_FLOW => {
            let mut request = CreateFlowReq {
                qpn: verbena_hw::id::Qpn::truncate(number),
                flow_type: FlowType(u8::from(indirect) * 3),
                port: 1,
                ..CreateFlowReq::new_zeroed()
            };
            if !indirect {
                request.priority = number as u16 % 4;
                (request.value.dmac, request.mask.dmac) = ([2, 0, 0, 0, 0, 1], [0xff; 6]);
            }
            request.as_bytes().to_vec()
        }
        Opcode::MODIFY_QP => {
            let mut request = ModifyQpReq::new_zeroed();
            request.qpn = verbena_hw::id::Qpn::truncate(number);
            let raw = attrs::raw();
            let ways = [attrs::init(), raw[0], raw[1]];
            (request.mask, request.attrs) = ways[usize::from(indirect) + number as usize % 2];
            request.as_bytes().to_vec()
        }
        _ => {
            let request = HandleReq {
                handle: number,
                ..HandleReq::new_zeroed()
            };
            let mut bytes = request.as_bytes().to_vec();
            bytes.resize(32, 0);
            bytes
        }
    }
}

fn submit(arena: &mut Arena, state: &mut State, opcode: Opcode, request: &[u8]) {
    if state.spoiled {
        return;
    }
    let mut command = Command::new_zeroed();
    command.opcode = opcode;
    command.id = 7;
    let length = request.len().min(PAYLOAD);
    command.payload[..length].copy_from_slice(&request[..length]);
    arena.evil.guest.submit_raw(&mut arena.world, &command);
    for _ in 0..1000 {
        arena.world.poll();
        let Some(answer) = arena.evil.guest.reap(&mut arena.world) else {
            if arena.is_fatal() {
                return;
            }
            continue;
        };
        assert_eq!(answer.id, 7);
        let number = u32::from_le_bytes(answer.payload[..4].try_into().expect("4 bytes"));
        if answer.status == verbena_hw::admin::Status::OK {
            state.numbers.push(number);
        }
        return;
    }
    panic!("{opcode:?} is never answered");
}
