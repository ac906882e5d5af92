// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Chains whose commands are under way together (U16): what a program sees is what they do one after the other.

use crate::bench::client::{App, Parts, CAPS};
use crate::bench::engine::Live;
use crate::bench::scripted::{Fault, Scripted};
use crate::bench::Bench;
use rdma_uapi::class::interface::{self, mode};
use rdma_uapi::class::{self, qp};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::{method, ObjectId, HEADER};
use rdma_uapi::{Errno, Host, Reason};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use verbena_core::platform::PAGE;
use verbena_core::Context;
use verbena_hw::admin::{Opcode, Status, LINK_BEGIN};
use zerocopy::IntoBytes;

const ECANCELED: u32 = Errno::ECANCELED.0 as u32;
const ENODEV: u32 = Errno::ENODEV.0 as u32;
const EFAULT: u32 = Errno::EFAULT.0 as u32;

/// A chain being put together in the process's memory.
struct Chain<'a> {
    app: &'a App,
    commands: Vec<interface::Command>,
    pages: Vec<u64>,
    room: u64,
}

/// What came of one.
#[derive(Debug, PartialEq)]
struct Outcome {
    errno: u32,
    results: Vec<u32>,
    executed: u32,
}

impl<'a> Chain<'a> {
    fn new(app: &'a App) -> Self {
        Chain {
            app,
            commands: Vec::new(),
            pages: Vec::new(),
            room: 0,
        }
    }

    /// Room for a message, in a page that others are in too.
    fn place(&mut self, length: u64) -> u64 {
        if self.room < length {
            self.pages.push(self.app.bench.user_buffer(1, false));
            self.room = PAGE;
        }
        let at = self.pages.last().unwrap() + PAGE - self.room;
        self.room -= length;
        at
    }

    fn message(&self, class: u16, object: u32, fill: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
        let mut buffer = [0u64; 128];
        let mut builder = Builder::new(&mut buffer, class, object);
        fill(&mut builder);
        builder.finish().unwrap().to_vec()
    }

    /// Adds a command whose message is somewhere; the reference to what it will make.
    fn add_at(&mut self, method: u8, at: u64) -> u32 {
        self.commands.push(interface::Command {
            message: at,
            method: method.into(),
            ..Default::default()
        });
        ObjectId::CHAIN | (self.commands.len() as u32 - 1)
    }

    fn add(&mut self, method: u8, class: u16, object: u32, fill: impl FnOnce(&mut Builder<'_>)) -> u32 {
        let message = self.message(class, object, fill);
        let at = self.place(message.len() as u64);
        self.app.bench.copy_out(&(), at, &message).unwrap();
        self.add_at(method, at)
    }

    fn qp(&mut self, on: &Parts, more: impl FnOnce(&mut Builder<'_>)) -> u32 {
        self.add(method::CREATE, class::QP_RC, 0, |m| {
            on.put(m);
            m.put(qp::CAPS, &CAPS).ask(qp::QPN);
            more(m);
        })
    }

    fn run(&mut self, mode: u32) -> Outcome {
        let bytes = self.commands.as_bytes().to_vec();
        let pages = bytes.len().div_ceil(PAGE as usize).max(1);
        let list = self.app.bench.user_buffer(pages, false);
        self.app.bench.copy_out(&(), list, &bytes).unwrap();
        let room = self.commands.len() as u64 * 4;
        let results = self.app.bench.user_buffer(pages, false);
        let mut buffer = [0u64; 64];
        let mut builder = Builder::new(&mut buffer, class::INTERFACE, 0);
        builder.by_pointer(interface::COMMANDS, list, bytes.len() as u64);
        builder.by_pointer(interface::RESULTS, results, room);
        builder.put(interface::MODE, &mode).ask(interface::EXECUTED);
        let message = builder.finish().unwrap();
        let outcome = Context::dispatch(&self.app.context, method::EXECUTE.into(), message);
        let mut answer = vec![0; room as usize];
        self.app.bench.copy_in(&(), results, &mut answer).unwrap();
        let number = |b: &[u8]| u32::from_ne_bytes(b.try_into().unwrap());
        Outcome {
            errno: outcome.map_or_else(|errno| errno.0.into(), |()| 0),
            results: answer.chunks_exact(4).map(number).collect(),
            executed: Reply::new(message).get(interface::EXECUTED).unwrap(),
        }
    }

    /// A command's message as it is now.
    fn answer(&self, n: usize) -> Vec<u8> {
        let at = self.commands[n].message;
        let mut message = vec![0; HEADER];
        self.app.bench.copy_in(&(), at, &mut message).unwrap();
        message.resize(usize::from(u16::from_ne_bytes([message[0], message[1]])), 0);
        self.app.bench.copy_in(&(), at, &mut message).unwrap();
        message
    }
}

/// The way from RESET to RTS.
fn to_rts(m: &mut Builder<'_>, peer: u32) {
    to_rts_by(m, peer, 0);
}

/// The same, from an entry of the GID table.
fn to_rts_by(m: &mut Builder<'_>, peer: u32, sgid_index: u16) {
    m.put(qp::STATE, &qp::state::RTS)
        .put(qp::PORT, &1)
        .put(qp::PKEY_INDEX, &0);
    m.put(qp::ACCESS, &0).put(qp::DEST_QPN, &peer).put(qp::PATH_MTU, &1024);
    let path = qp::Path {
        dgid: [0xfe; 16],
        hop_limit: 1,
        sgid_index,
        ..Default::default()
    };
    m.put(qp::PATH, &path)
        .put(qp::RQ_PSN, &1)
        .put(qp::MAX_DEST_RD_ATOMIC, &1);
    m.put(qp::MIN_RNR_TIMER, &1)
        .put(qp::TIMEOUT, &14)
        .put(qp::RETRY_CNT, &7);
    m.put(qp::RNR_RETRY, &7).put(qp::SQ_PSN, &1).put(qp::MAX_RD_ATOMIC, &1);
}

fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not come to pass");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn u16_commands_of_a_chain_are_under_way_together() {
    let app = App::start(Bench::new(Scripted::linking()));
    let device = app.bench.model::<Scripted>();
    let parts = app.parts();
    let mut chain = Chain::new(&app);
    for _ in 0..40 {
        chain.qp(&parts, |_| {});
    }
    device.seen();
    device.hold();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until(|| device.held() == 32);
            // Not more than half of what the queue holds: other threads get on.
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(device.held(), 32);
            device.release(&app.bench.0.ram);
        });
        let outcome = chain.run(mode::STOP);
        assert_eq!((outcome.errno, outcome.executed), (0, 40));
        assert_eq!(outcome.results, [0; 40]);
    });
    // They were completed in the opposite order, and each has its own answer nevertheless.
    let numbers = (0..40).map(|n| Reply::new(&chain.answer(n)).get(qp::QPN).unwrap());
    assert!(numbers.collect::<Vec<_>>().is_sorted());
    let seen = device.seen();
    assert_eq!(seen.len(), 40);
    assert_ne!(seen[0].link, 0);
    assert_eq!(seen[0].flags, LINK_BEGIN);
    assert!(seen.iter().all(|command| command.link == seen[0].link));
    // A chain that goes on after failures says nothing to the device of what stands before.
    let mut chain = Chain::new(&app);
    chain.qp(&parts, |_| {});
    chain.qp(&parts, |_| {});
    chain.run(mode::CONTINUE);
    assert!(device.seen().iter().all(|command| command.link == 0));
}

#[test]
fn u16_a_failure_behind_which_commands_are_under_way() {
    for (mode, executed, errno) in [
        (mode::STOP, 4, 0),
        (mode::CONTINUE, 10, 0),
        (mode::ALL_OR_NOTHING, 4, u32::from(Errno::ENOSPC.0)),
    ] {
        let app = App::start(Bench::new(Scripted::linking()));
        let device = app.bench.model::<Scripted>();
        let parts = app.parts();
        let before = app.context.store().len();
        let used = app.bench.0.ram.used();
        let mut chain = Chain::new(&app);
        for _ in 0..3 {
            chain.qp(&parts, |_| {});
        }
        // The fourth is the only one that asks for another protocol: the device refuses the first it is asked for.
        for _ in 3..10 {
            chain.add(method::CREATE, class::QP_UC, 0, |m| {
                parts.put(m);
                m.put(qp::CAPS, &CAPS).ask(qp::QPN);
            });
        }
        device.refuse_nth(Opcode::CREATE_QP, 3, Status::LIMIT, 100);
        let outcome = chain.run(mode);
        assert_eq!((outcome.errno, outcome.executed), (errno, executed), "mode {mode}");
        let failed = u32::from(Errno::ENOSPC.0);
        let rest = if mode == mode::CONTINUE { 0 } else { ECANCELED };
        let expected = [0, 0, 0, failed, rest, rest, rest, rest, rest, rest];
        assert_eq!(outcome.results, expected, "mode {mode}");
        let (left, sent) = match mode {
            mode::STOP => (3, true),
            mode::CONTINUE => (9, true),
            _ => (0, true),
        };
        assert_eq!(app.context.store().len() - before, left, "mode {mode}");
        if mode == mode::ALL_OR_NOTHING {
            // User buffers of the test itself aside, nothing is left.
            let buffers = chain.pages.len() + 2;
            assert_eq!(app.bench.0.ram.used() - used, buffers);
        }
        let seen = device.seen_opcodes();
        let created = seen.iter().filter(|&&opcode| opcode == Opcode::CREATE_QP).count();
        assert_eq!(created == 10, sent, "those behind had been sent already");
        // The failed one says why, those behind are as they were.
        assert_eq!(
            Reply::new(&chain.answer(3)).failure(Errno::ENOSPC).reason,
            Reason::DEVICE
        );
        if mode != mode::CONTINUE {
            let untouched = chain.answer(4);
            assert_eq!(Reply::new(&untouched).get(qp::QPN), None);
            assert_eq!(untouched[16..HEADER], [0; 8]);
        }
    }
}

#[test]
fn u16_the_device_goes_while_commands_of_a_chain_are_under_way() {
    for mode in [mode::STOP, mode::CONTINUE, mode::ALL_OR_NOTHING] {
        let app = App::start(Bench::new(Scripted::linking()));
        let device = app.bench.model::<Scripted>();
        let parts = app.parts();
        let before = app.context.store().len();
        let mut chain = Chain::new(&app);
        for _ in 0..60 {
            chain.qp(&parts, |_| {});
        }
        device.hold();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until(|| device.held() == 32);
                device.set(Fault::Gone);
            });
            let outcome = chain.run(mode);
            if mode == mode::CONTINUE {
                assert_eq!((outcome.errno, outcome.executed), (0, 60));
                assert_eq!(outcome.results, [ENODEV; 60]);
            } else {
                let errno = if mode == mode::STOP { 0 } else { ENODEV };
                assert_eq!((outcome.errno, outcome.executed), (errno, 1));
                assert_eq!(outcome.results[0], ENODEV);
                assert_eq!(outcome.results[1..], [ECANCELED; 59]);
            }
        });
        assert_eq!(app.context.store().len(), before);
        let bench = app.bench.clone();
        verbena_core::remove(&app.device);
        Context::close(&app.context);
        drop(chain);
        drop(app);
        let log = bench.0.log.lock().unwrap();
        assert!(log.iter().all(|line| line.contains("dead")), "{log:?}");
    }
}

#[test]
fn u16_a_sleeping_device_is_woken_for_sixteen_commands_of_a_chain() {
    let app = App::start(Bench::new(Scripted::linking()));
    let device = app.bench.model::<Scripted>();
    let parts = app.parts();
    let mut chain = Chain::new(&app);
    for _ in 0..40 {
        chain.qp(&parts, |_| {});
    }
    device.told();
    assert_eq!(chain.run(mode::STOP).results, [0; 40]);
    // Twice for sixteen, and for the last eight when somebody waits for the first of them.
    assert_eq!(device.told(), 3);
    let (_, mut chain) = destroying(&app, &parts, 40);
    device.told();
    assert_eq!(chain.run(mode::STOP).results, [0; 40]);
    assert_eq!(device.told(), 3);
}

/// Queue pairs, and a chain that destroys them.
fn destroying<'a>(app: &'a App, parts: &Parts, count: usize) -> (Vec<u32>, Chain<'a>) {
    let qps: Vec<_> = (0..count).map(|_| app.qp(parts, |_| {}).unwrap().0).collect();
    let mut chain = Chain::new(app);
    for &object in &qps {
        chain.add(method::DESTROY, class::QP_RC, object, |_| {});
    }
    (qps, chain)
}

#[test]
fn u16_destroys_of_a_chain_are_under_way_together() {
    let app = App::start(Bench::new(Scripted::linking()));
    let device = app.bench.model::<Scripted>();
    let parts = app.parts();
    let (objects, used) = (app.context.store().len(), app.bench.0.ram.used());
    let (qps, mut chain) = destroying(&app, &parts, 40);
    device.seen();
    device.hold();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until(|| device.held() == 32);
            // Their memory is the device's until it says otherwise, and nobody else finds them.
            assert_eq!(app.context.store().len() - objects, 40);
            let busy = app.call(method::QUERY, class::QP_RC, qps[0], |_| {}).err().unwrap();
            assert_eq!((busy.errno, busy.reason), (Errno::EBUSY, Reason::BUSY));
            device.release(&app.bench.0.ram);
        });
        let outcome = chain.run(mode::STOP);
        assert_eq!((outcome.errno, outcome.executed), (0, 40));
        assert_eq!(outcome.results, [0; 40]);
    });
    let seen = device.seen();
    let destroys = seen.iter().filter(|command| command.opcode == Opcode::DESTROY_QP);
    assert_eq!(destroys.count(), 40);
    assert_eq!(app.context.store().len(), objects);
    // User buffers of the test itself aside, nothing is left.
    assert_eq!(app.bench.0.ram.used() - used, chain.pages.len() + 2);
}

#[test]
fn u16_a_destroy_that_the_device_refuses_and_those_behind_it() {
    const EBUSY: u32 = Errno::EBUSY.0 as u32;
    for (mode, results, left) in [
        (mode::STOP, [0, 0, EBUSY, ECANCELED, ECANCELED], 3),
        (mode::CONTINUE, [0, 0, EBUSY, 0, 0], 1),
    ] {
        let app = App::start(Bench::new(Scripted::linking()));
        let device = app.bench.model::<Scripted>();
        let parts = app.parts();
        let before = app.context.store().len();
        let (qps, mut chain) = destroying(&app, &parts, 5);
        device.refuse_nth(Opcode::DESTROY_QP, 2, Status::IN_USE, 3);
        let outcome = chain.run(mode);
        assert_eq!(outcome.results, results);
        assert_eq!(app.context.store().len() - before, left);
        let failure = Reply::new(&chain.answer(2)).failure(Errno::EBUSY);
        assert_eq!((failure.reason, failure.detail), (Reason::IN_USE, 3));
        // Those that live are whole: they can be used, and destroyed.
        for (n, &object) in qps.iter().enumerate().filter(|(n, _)| results[*n] != 0) {
            app.call(method::QUERY, class::QP_RC, object, |_| {}).unwrap();
            let destroyed = app.call(method::DESTROY, class::QP_RC, object, |_| {});
            assert!(destroyed.is_ok(), "{n}");
        }
    }
    // All or nothing: of what the chain made nothing is left, whether it had destroyed it already or not.
    let app = App::start(Bench::new(Scripted::linking()));
    let parts = app.parts();
    let before = app.context.store().len();
    let mut chain = Chain::new(&app);
    let made: Vec<_> = (0..6).map(|_| chain.qp(&parts, |_| {})).collect();
    for &object in &made[..5] {
        chain.add(method::DESTROY, class::QP_RC, object, |_| {});
    }
    app.bench
        .model::<Scripted>()
        .refuse_nth(Opcode::DESTROY_QP, 2, Status::IN_USE, 3);
    let outcome = chain.run(mode::ALL_OR_NOTHING);
    assert_eq!((outcome.errno, outcome.executed), (EBUSY, 9));
    assert_eq!(outcome.results[6..], [0, 0, EBUSY, ECANCELED, ECANCELED]);
    assert_eq!(app.context.store().len(), before);
}

#[test]
fn u16_a_destroy_in_a_chain_of_what_is_in_use() {
    const EBUSY: u32 = Errno::EBUSY.0 as u32;
    const ENOENT: u32 = Errno::ENOENT.0 as u32;
    for (mode, results) in [
        (mode::STOP, [0, EBUSY, ECANCELED, ECANCELED, ECANCELED]),
        (mode::CONTINUE, [0, EBUSY, 0, ENOENT, 0]),
    ] {
        let live = Live::start();
        let app = &live.app;
        let parts = app.parts();
        let qps: Vec<_> = (0..4).map(|_| app.qp(&parts, |_| {}).unwrap().0).collect();
        let mut chain = Chain::new(app);
        // The third one twice.
        for n in [0, 1, 2, 2, 3] {
            chain.add(method::DESTROY, class::QP_RC, qps[n], |_| {});
        }
        let used = app.context.store().get(ObjectId(qps[1])).unwrap();
        assert_eq!(chain.run(mode).results, results);
        drop(used);
        assert_eq!(state_of(app, qps[1])[0], qp::state::RESET);
        app.call(method::DESTROY, class::QP_RC, qps[1], |_| {}).unwrap();
    }
}

#[test]
fn u16_the_device_goes_while_destroys_of_a_chain_are_under_way() {
    for mode in [mode::STOP, mode::CONTINUE] {
        let app = App::start(Bench::new(Scripted::linking()));
        let device = app.bench.model::<Scripted>();
        let parts = app.parts();
        let before = app.context.store().len();
        let (_, mut chain) = destroying(&app, &parts, 60);
        device.hold();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until(|| device.held() == 32);
                device.set(Fault::Gone);
            });
            // The program's teardown goes on: there is nothing left to end.
            let outcome = chain.run(mode);
            assert_eq!((outcome.errno, outcome.executed), (0, 60));
            assert_eq!(outcome.results, [0; 60]);
        });
        assert_eq!(app.context.store().len(), before);
    }
}

#[test]
fn u16_a_thousand_connections_in_two_chains_of_the_engine() {
    let live = Live::start();
    let parts = live.app.parts();
    let mut chain = Chain::new(&live.app);
    for _ in 0..1024 {
        chain.qp(&parts, |_| {});
    }
    let outcome = chain.run(mode::ALL_OR_NOTHING);
    assert_eq!((outcome.errno, outcome.executed), (0, 1024));
    let qps: Vec<_> = (0..1024).map(|n| chain.answer(n)).collect();
    let mut connect = Chain::new(&live.app);
    for n in 0..1024 {
        let peer = Reply::new(&qps[n ^ 1]).get(qp::QPN).unwrap();
        connect.add(method::MODIFY, class::QP_RC, Reply::new(&qps[n]).object(), |m| {
            to_rts(m, peer);
            m.put(qp::CURRENT_STATE, &qp::state::RESET);
        });
    }
    let outcome = connect.run(mode::STOP);
    assert_eq!((outcome.errno, outcome.executed), (0, 1024));
    assert!(outcome.results.iter().all(|&errno| errno == 0));
    for n in [0, 511, 1023] {
        let state = state_of(&live.app, Reply::new(&qps[n]).object());
        let peer = Reply::new(&qps[n ^ 1]).get(qp::QPN).unwrap();
        assert_eq!((state[0], state[1]), (qp::state::RTS, peer));
    }
    let mut destroy = Chain::new(&live.app);
    for qp in &qps {
        destroy.add(method::DESTROY, class::QP_RC, Reply::new(qp).object(), |_| {});
    }
    let before = live.app.context.store().len();
    let outcome = destroy.run(mode::STOP);
    assert_eq!((outcome.errno, outcome.executed), (0, 1024));
    assert_eq!(before - live.app.context.store().len(), 1024);
}

#[test]
fn u16_an_answer_that_cannot_be_given_ends_a_chain_before_the_next_command() {
    let live = Live::start();
    let app = &live.app;
    let parts = app.parts();
    let qps: Vec<_> = (0..3).map(|_| app.qp(&parts, |_| {}).unwrap().0).collect();
    for create in [false, true] {
        let mut chain = Chain::new(app);
        for (n, &object) in qps.iter().enumerate() {
            // Each on a page of its own.
            chain.room = 0;
            if create {
                chain.qp(&parts, |m| to_rts(m, 7));
            } else {
                chain.add(method::MODIFY, class::QP_RC, object, |m| {
                    to_rts(m, 7);
                    m.put(qp::CURRENT_STATE, &qp::state::RESET);
                });
            }
            if n == 1 {
                app.bench.protect(chain.pages[1]);
            }
        }
        let before = app.context.store().len();
        let outcome = chain.run(mode::STOP);
        assert_eq!(outcome.results, [0, EFAULT, ECANCELED]);
        assert_eq!(outcome.executed, 2);
        if create {
            assert_eq!(app.context.store().len() - before, 1);
        } else {
            let states: Vec<_> = qps.iter().map(|&object| state_of(app, object)[0]).collect();
            // The second was moved, only nobody could be told.
            assert_eq!(states, [qp::state::RTS, qp::state::RTS, qp::state::RESET]);
        }
    }
}

/// State, peer, PSNs of a queue pair.
fn state_of(app: &App, object: u32) -> [u32; 4] {
    let wanted = [qp::STATE, qp::DEST_QPN, qp::SQ_PSN, qp::RQ_PSN];
    let ask = |m: &mut Builder<'_>| {
        for attr in wanted {
            m.ask(attr);
        }
    };
    let answer = app.call(method::QUERY, class::QP_RC, object, ask).unwrap();
    wanted.map(|attr| answer.reply().get(attr).unwrap_or(u32::MAX))
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) % u64::from(n)) as u32
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

/// A chain as `random` makes it, on three queue pairs that are there. The same numbers make the same chain.
fn random_chain<'a>(app: &'a App, parts: &Parts, there: &[u32], random: &mut Random) -> (Chain<'a>, u32) {
    let mode = random.one_of(&[mode::STOP, mode::CONTINUE, mode::ALL_OR_NOTHING]);
    let mut chain = Chain::new(app);
    let mut made = Vec::new();
    let length = 2 + random.below(50);
    // Long stretches of one kind, as in programs, and some that alternate.
    let mut kind = 0;
    for n in 0..length {
        if random.below(4) == 0 {
            kind = random.below(9);
        }
        let object = match random.below(3) {
            // All-or-nothing is refused what it could not undo: seldom, or nothing else would be seen.
            0 if mode != mode::ALL_OR_NOTHING || random.below(20) == 0 => random.one_of(there),
            _ if made.is_empty() => random.one_of(there),
            _ => random.one_of(&made),
        };
        let bad = random.below(12) == 0;
        match kind {
            0..=2 => made.push(chain.qp(parts, |m| {
                if random.below(2) == 0 {
                    // The device looks at the entry: there is none of that number.
                    to_rts_by(m, n, if bad { 200 } else { 0 });
                } else if bad {
                    m.put(qp::STATE, &qp::state::SQD);
                }
            })),
            3..=5 => {
                let current = if bad { qp::state::INIT } else { qp::state::RESET };
                let psn = random.below(1 << 20);
                let to = random.below(6);
                chain.add(method::MODIFY, class::QP_RC, object, |m| match to {
                    0 => {
                        m.put(qp::STATE, &qp::state::ERR);
                    }
                    1 => {
                        m.put(qp::STATE, &qp::state::RESET);
                    }
                    2 => {
                        m.put(qp::STATE, &qp::state::INIT)
                            .put(qp::PORT, &1)
                            .put(qp::PKEY_INDEX, &0);
                        m.put(qp::ACCESS, &(u32::from(bad) << 31));
                    }
                    _ => {
                        to_rts(m, psn);
                        m.put(qp::CURRENT_STATE, &current);
                    }
                });
            }
            6 => {
                chain.add(method::QUERY, class::QP_RC, object, |m| {
                    m.ask(qp::STATE).ask(qp::DEST_QPN);
                });
            }
            7 => {
                chain.add(method::DESTROY, class::QP_RC, object, |_| {});
            }
            // The same message again, or one that is not there.
            _ if n > 0 && !bad => {
                let again = chain.commands[random.below(n) as usize];
                chain.add_at(again.method as u8, again.message);
            }
            _ => {
                chain.add_at(method::CREATE, 0x10);
            }
        }
    }
    (chain, mode)
}

/// What a program can tell of what a chain did, but for the numbers that driver and device choose.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: Outcome,
    /// The extended error of each message.
    errors: Vec<Vec<u8>>,
    /// By the message that made it, or that it was there before: the state of each queue pair.
    states: BTreeMap<usize, [u32; 4]>,
    objects: u32,
}

fn observe(app: &App, seed: u64) -> Seen {
    let parts = app.parts();
    let there: Vec<_> = (0..3).map(|_| app.qp(&parts, |_| {}).unwrap().0).collect();
    let before = app.context.store().len();
    let (mut chain, mode) = random_chain(app, &parts, &there, &mut Random(seed));
    let outcome = chain.run(mode);
    let mut states = BTreeMap::new();
    let mut objects: Vec<_> = there
        .iter()
        .enumerate()
        .map(|(n, &object)| (1000 + n, object))
        .collect();
    let mut errors = Vec::new();
    for (n, command) in chain.commands.iter().enumerate() {
        if command.message == 0x10 {
            continue;
        }
        let answer = chain.answer(n);
        errors.push(answer[16..HEADER].to_vec());
        if command.method == u16::from(method::CREATE) && outcome.results[n] == 0 && outcome.errno == 0 {
            objects.push((n, Reply::new(&answer).object()));
        }
    }
    for (n, object) in objects {
        if app.context.store().get(ObjectId(object)).is_ok() {
            states.insert(n, state_of(app, object));
        }
    }
    let objects = app.context.store().len() + 1000 - before;
    Seen {
        outcome,
        errors,
        states,
        objects,
    }
}

#[test]
fn u16_random_chains_do_what_their_commands_do_one_after_the_other() {
    let live = Live::start();
    let mut stopped = 0;
    for seed in 0..250 {
        let together = {
            let app = live.app.another();
            let seen = observe(&app, seed);
            Context::close(&app.context);
            seen
        };
        let one_by_one = {
            // Somebody who observes the device sees every command from its beginning to its end.
            let observer = live.app.another();
            let trace = observer.call(method::CREATE, class::TRACE, 0, |_| {}).unwrap();
            assert_ne!(trace.object(), 0);
            let app = live.app.another();
            let seen = observe(&app, seed);
            Context::close(&app.context);
            Context::close(&observer.context);
            seen
        };
        stopped += u32::from(together.outcome.results.contains(&ECANCELED));
        assert_eq!(together, one_by_one, "seed {seed}");
        assert!(!together.outcome.results.contains(&ENODEV), "seed {seed}");
    }
    assert!(
        (50..200).contains(&stopped),
        "{stopped} of 250 chains were not executed to the end"
    );
    assert!(live.app.bench.0.log.lock().unwrap().is_empty());
}
