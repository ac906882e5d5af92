// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that gives its device commands of its own kind, and writes registers as it likes.

#![no_main]

use arbitrary::Arbitrary;
use core::time::Duration;
use libfuzzer_sys::fuzz_target;
use verbena_engine_fuzz::requests::{opcode, request, work, Ask};
use verbena_engine_fuzz::{Arena, SECOND, SECOND_LEN};
use verbena_hw::admin::{Command, Opcode, Status, LINK_BEGIN, PAYLOAD};
use verbena_hw::regs;
use zerocopy::{FromZeros, IntoBytes};

#[derive(Arbitrary, Debug)]
enum Act {
    /// A command that is nearly right.
    Nearly {
        opcode: u8,
        /// Which object, among those that were made.
        object: u8,
        /// One more.
        other: u8,
        /// Which of the kinds that the opcode has.
        kind: u8,
        /// Its pages are named by the array of page addresses.
        indirect: bool,
        spoils: Vec<(u8, u8)>,
    },
    /// Commands of one link that are nearly right, and are sent together.
    Linked {
        link: u8,
        begins: u8,
        commands: Vec<(u8, u8, u8)>,
    },
    /// A work request about keys that is nearly right.
    Work { object: u8, other: u8, kind: u8 },
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
            opcode: code,
            object,
            other,
            kind,
            indirect,
            spoils,
        } => {
            let opcode = opcode(*code);
            let ask = state.ask(*object, *other, *kind, *indirect);
            let mut request = request(arena, opcode, ask);
            for (at, byte) in spoils.iter().take(4) {
                let at = usize::from(*at) % request.len().max(1);
                if let Some(place) = request.get_mut(at) {
                    *place = *byte;
                }
            }
            submit(arena, state, &[command(opcode, &request)]);
        }
        Act::Linked { link, begins, commands } => {
            let commands: Vec<_> = commands
                .iter()
                .take(8)
                .enumerate()
                .map(|(n, (code, object, kind))| {
                    let opcode = opcode(*code);
                    let ask = state.ask(*object, *object ^ 1, *kind, false);
                    let mut command = command(opcode, &request(arena, opcode, ask));
                    command.link = *link;
                    command.flags = if begins >> n & 1 != 0 { LINK_BEGIN } else { 0 };
                    command
                })
                .collect();
            submit(arena, state, &commands);
        }
        Act::Work { object, other, kind } => {
            let wr = work(arena, state.ask(*object, *other, *kind, false));
            arena.evil.qp.post(&arena.world, wr);
        }
        Act::Bytes { opcode, payload } => submit(arena, state, &[command(Opcode((*opcode).into()), payload)]),
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

impl State {
    /// What a request is made of.
    fn ask(&self, object: u8, other: u8, kind: u8, indirect: bool) -> Ask {
        let number = |n: u8| {
            let number = self.numbers.get(usize::from(n) % (self.numbers.len() + 1));
            number.copied().unwrap_or(n.into())
        };
        Ask {
            number: number(object),
            other: number(other),
            kind,
            array: indirect.then_some((self.array, self.pages)),
            room: self.numbers.len() < 24,
        }
    }
}

fn command(opcode: Opcode, request: &[u8]) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode;
    let length = request.len().min(PAYLOAD);
    command.payload[..length].copy_from_slice(&request[..length]);
    command
}

/// Sends commands and waits for their answers, which come for each, once, and of a link in its order: behind a failure nothing
/// succeeds until the link begins again.
fn submit(arena: &mut Arena, state: &mut State, commands: &[Command]) {
    if state.spoiled {
        return;
    }
    for (n, command) in commands.iter().enumerate() {
        let mut command = *command;
        command.id = 7 + n as u16;
        arena.evil.guest.submit_raw(&mut arena.world, &command);
    }
    let mut failed = false;
    let mut answered = vec![false; commands.len()];
    for _ in 0..1000 {
        if answered.iter().all(|&answered| answered) {
            return;
        }
        arena.world.poll();
        let Some(answer) = arena.evil.guest.reap(&mut arena.world) else {
            if arena.is_fatal() {
                return;
            }
            continue;
        };
        let n = usize::from(answer.id - 7);
        assert!(
            !core::mem::replace(&mut answered[n], true),
            "command {n} is answered twice"
        );
        let (linked, begins) = (commands[n].link != 0, commands[n].flags == LINK_BEGIN);
        if linked {
            assert!(answered[..n].iter().all(|&answered| answered), "command {n} overtakes");
            failed &= !begins;
            assert!(
                !failed || answer.status != Status::OK,
                "command {n} succeeds behind a failure"
            );
            failed |= answer.status != Status::OK;
        }
        let number = u32::from_le_bytes(answer.payload[..4].try_into().expect("4 bytes"));
        if answer.status == Status::OK {
            state.numbers.push(number);
        }
    }
    let opcodes: Vec<_> = commands.iter().map(|command| command.opcode).collect();
    panic!("{opcodes:?} are not all answered");
}
