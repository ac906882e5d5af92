// SPDX-License-Identifier: MIT OR Apache-2.0
//! The doorbell's two faces, and sleep without lost wake-ups.

use verbena_engine::testing::{Guest, Pair, SendWr, World};
use verbena_hw::admin::Opcode;
use verbena_hw::doorbell::{RING_SCAN, RING_WAKE};
use verbena_hw::regs;

#[test]
fn h02_sleep_is_announced_and_withdrawn() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    w.run();
    assert!(w.engine.prepare_sleep(0, &w.env));
    assert_eq!((pair.a.guest.kick(w), pair.b.guest.kick(w)), (1, 1));
    w.engine.wake(0, &w.env);
    assert_eq!((pair.a.guest.kick(w), pair.b.guest.kick(w)), (0, 0));
}

#[test]
fn h02_no_sleep_while_there_is_work() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    w.run();
    // A doorbell in memory.
    pair.a.post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    assert!(!w.engine.prepare_sleep(0, &w.env));
    assert_eq!(pair.a.guest.kick(w), 0);
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 1);
    // A doorbell by register.
    pair.a
        .qp
        .post_quietly(w, SendWr::write(2, &[], pair.b.addr(0), pair.b.rkey()));
    pair.a.qp.ring_register(w);
    assert!(!w.engine.prepare_sleep(0, &w.env));
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 2);
    // A command.
    pair.a.guest.submit(w, verbena_hw::admin::Opcode::NOP, &[0u8; 0], 7);
    assert!(!w.engine.prepare_sleep(0, &w.env));
    w.run();
    assert!(w.engine.prepare_sleep(0, &w.env));
}

#[test]
fn h02_the_register_wakes_and_scans() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    w.run();
    assert!(w.engine.prepare_sleep(0, &w.env));
    // The driver sets its bits, sees the announcement, and asks for a scan.
    pair.a.post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    assert_eq!(pair.a.guest.kick(w), 1);
    pair.a.guest.ring_register(w, RING_SCAN);
    w.engine.wake(0, &w.env);
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 1);
}

#[test]
fn h02_the_register_wakes_and_says_nothing_more() {
    let mut pair = Pair::within(World::for_workers(1, 2), Default::default(), 8, |_| {});
    let w = &mut pair.world;
    w.run();
    assert!(w.engine.prepare_sleep(0, &w.env) && w.engine.prepare_sleep(1, &w.env));
    let hca = pair.b.guest.hca;
    let rung = |w: &World| [0, 1].map(|worker| w.engine.has_rung_in(hca, worker, &w.env));
    assert_eq!(rung(w), [false, false]);
    let (errors, kick) = (
        w.read_reg(pair.a.guest.hca, regs::ACCESS_ERRORS, 4),
        pair.b.guest.kick(w),
    );
    pair.b.post(w, SendWr::write(1, &[], pair.a.addr(0), pair.a.rkey()));
    assert_eq!(kick, 1);
    assert_eq!(rung(w), [false, true], "its page is the second worker's");
    pair.b.guest.ring_register(w, RING_WAKE);
    assert_eq!(w.engine.take_stirred(), Some(1));
    w.engine.wake(1, &w.env);
    w.run();
    assert_eq!(pair.b.completion(w).wr_id, 1);
    assert_eq!(rung(w), [false, false]);
    // By itself it makes no work.
    pair.a.guest.ring_register(w, RING_WAKE);
    assert_eq!(w.engine.take_stirred(), Some(0));
    assert!(w.engine.prepare_sleep(0, &w.env));
    assert_eq!(w.read_reg(pair.a.guest.hca, regs::ACCESS_ERRORS, 4), errors);
}

#[test]
fn h02_a_scan_finds_bits_without_a_summary() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    pair.a
        .qp
        .post_quietly(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    let bit = 1u64 << pair.a.qp.slot;
    w.ram(pair.a.guest.hca)
        .write(pair.a.guest.doorbell_page + 0x80, &bit.to_le_bytes());
    w.run();
    pair.a.nothing(w);
    pair.a.guest.ring_register(w, RING_SCAN);
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 1);
}

#[test]
fn h02_doorbell_pages_that_are_mapped_anew_show_the_announcement() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    w.run();
    assert!(w.engine.prepare_sleep(0, &w.env));
    let (hca, page) = (pair.a.guest.hca, pair.a.guest.doorbell_page);
    w.ram(hca).write(page, &0u32.to_le_bytes());
    w.engine.ram_changed(hca, &w.env);
    assert_eq!(pair.a.guest.kick(w), 1);
    w.engine.wake(0, &w.env);
    assert_eq!(pair.a.guest.kick(w), 0);
}

#[test]
fn h02_idle_polls_do_nothing_and_deadlines_are_told() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    w.run();
    assert_eq!(w.poll().next_deadline, None);
    pair.a.post(w, SendWr::send(1, &[]));
    w.run();
    let at = w.poll().next_deadline.expect("an RNR timer");
    assert_eq!(at.as_nanos() - w.now.as_nanos(), 640_000);
    assert!(w.engine.prepare_sleep(0, &w.env), "a timer is no reason to stay awake");
}

#[test]
fn h03_a_device_that_is_awake_finds_commands_in_the_record() {
    let mut w = World::new(1);
    let mut g = Guest::start_with_record(&mut w, 4 << 20);
    w.run();
    let errors = w.read_reg(g.hca, regs::ACCESS_ERRORS, 4);
    let before = w.read_reg(g.hca, regs::ASQ_TAIL, 4);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 7);
    let now = w.read_reg(g.hca, regs::ASQ_TAIL, 4);
    assert_eq!(now, before, "no register was written");
    assert!(!w.engine.prepare_sleep(0, &w.env), "the last look finds it");
    assert_eq!(g.admin_kick(&w), 0, "the announcement is withdrawn");
    w.run();
    assert_eq!(g.reap(&mut w).expect("a completion").id, 7);

    // Asleep it says so, and is told by the register.
    w.run();
    assert!(w.engine.prepare_sleep(0, &w.env));
    assert_eq!(g.admin_kick(&w), 1);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 8);
    w.engine.wake(0, &w.env);
    assert_eq!(g.admin_kick(&w), 0);
    w.run();
    assert_eq!(g.reap(&mut w).expect("a completion").id, 8);
    assert_eq!(w.read_reg(g.hca, regs::ACCESS_ERRORS, 4), errors);
}

#[test]
fn h03_a_late_register_write_does_not_take_a_command_back() {
    let mut w = World::new(1);
    let mut g = Guest::start_with_record(&mut w, 4 << 20);
    w.run();
    let before = w.read_reg(g.hca, regs::ASQ_TAIL, 4);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 1);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 2);
    w.run();
    // As of the first of the two: registers are written in order among themselves, and late.
    w.write_reg(g.hca, regs::ASQ_TAIL, 4, before + 1);
    w.run();
    assert_eq!(w.read_reg(g.hca, regs::HEALTH, 4), 0);
    assert_eq!(g.reap(&mut w).map(|c| c.id), Some(1));
    assert_eq!(g.reap(&mut w).map(|c| c.id), Some(2));
}

#[test]
fn h03_completions_signal_only_those_who_sleep() {
    let mut w = World::new(1);
    let mut g = Guest::start_with_record(&mut w, 4 << 20);
    w.run();
    w.take_interrupts(g.hca, 0);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 1);
    w.run();
    assert_eq!(w.take_interrupts(g.hca, 0), 0, "nobody sleeps");
    g.set_sleeping(&w, 1);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 2);
    w.run();
    assert_eq!(w.take_interrupts(g.hca, 0), 1);
    // That the device stops is said whoever sleeps.
    g.set_sleeping(&w, 0);
    w.write_reg(g.hca, regs::ACQ_HEAD, 4, 0);
    w.ram_mut(g.hca).unmap(verbena_engine::testing::RAM_BASE);
    w.write_reg(g.hca, regs::ASQ_TAIL, 4, 99);
    w.run();
    assert_ne!(w.read_reg(g.hca, regs::HEALTH, 4), 0);
    assert_eq!(w.take_interrupts(g.hca, 0), 1);
}
