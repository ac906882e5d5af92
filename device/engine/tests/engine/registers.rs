// SPDX-License-Identifier: MIT OR Apache-2.0
//! H2: bring-up, the memory probe, reset, and the fatal state.

use verbena_engine::testing::{Guest, Pair, SendWr, World, RAM_BASE};
use verbena_hw::admin::Opcode;
use verbena_hw::qp::QpState;
use verbena_hw::regs;

const MEMORY: usize = 1 << 20;

#[test]
fn h02_the_probe_reads_a_nonce_and_writes_its_complement() {
    let mut w = World::new(1);
    let hca = w.add_hca(MEMORY);
    w.ram(hca).write(RAM_BASE, &0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(w.read_reg(hca, regs::PROBE_STATUS, 4), u64::from(regs::PROBE_IDLE));
    w.write_reg(hca, regs::PROBE_ADDR, 8, RAM_BASE);
    assert_eq!(w.read_reg(hca, regs::PROBE_STATUS, 4), u64::from(regs::PROBE_DONE));
    assert_eq!(w.read_reg(hca, regs::PROBE_VALUE, 8), 0x1122_3344_5566_7788);
    assert_eq!(w.ram(hca).read_u64(RAM_BASE + 8), !0x1122_3344_5566_7788);
}

#[test]
fn h02_the_probe_says_when_it_cannot_reach() {
    let mut w = World::new(1);
    let hca = w.add_hca(MEMORY);
    for addr in [0, RAM_BASE + 4, RAM_BASE + MEMORY as u64 - 8, u64::MAX, u64::MAX - 7] {
        w.write_reg(hca, regs::PROBE_ADDR, 8, addr);
        let status = w.read_reg(hca, regs::PROBE_STATUS, 4);
        assert_eq!(status, u64::from(regs::PROBE_UNREACHABLE), "{addr:#x}");
    }
}

#[test]
fn h02_identity() {
    let mut w = World::new(1);
    let hca = w.add_hca(MEMORY);
    assert_eq!(w.read_reg(hca, regs::MAGIC, 4), u64::from(u32::from_le_bytes(*b"VRBN")));
    let guid = w.read_reg(hca, regs::NODE_GUID, 8).to_le_bytes();
    assert_eq!(guid, [0x00, 0x56, 0x42, 0xff, 0xfe, 0, 0, 1]);
    let port = w.read_reg(hca, regs::PORT_STATE, 4);
    assert_eq!(port, u64::from(regs::PORT_ACTIVE) | 5 << 8);
}

#[test]
fn h02_a_reset_destroys_everything() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    w.write_reg(hca, regs::CTRL, 4, regs::CTRL_RESET.into());
    assert_eq!(w.read_reg(hca, regs::STATUS, 4), u64::from(regs::STATUS_READY));
    assert_eq!(w.read_reg(hca, regs::ASQ_ADDR, 8), 0);
    let dump = w.engine.dump(Some(hca), w.now, &w.env);
    let n = &dump.hcas[0].objects;
    assert_eq!((n.pds, n.doorbells, n.eqs, n.cqs, n.mrs, n.qps), (0, 0, 0, 0, 0, 0));
    // And it comes up again.
    let mut guest = Guest::attach(w, hca);
    guest.create(w, Opcode::CREATE_PD, &[0u8; 0]).expect("a domain");
}

#[test]
fn h02_a_bad_admin_record_is_fatal_too() {
    for record in [RAM_BASE + 0x2040, 0x1000, u64::MAX - 127] {
        let mut w = World::new(1);
        let hca = w.add_hca(MEMORY);
        w.write_reg(hca, regs::ASQ_ADDR, 8, RAM_BASE);
        w.write_reg(hca, regs::ACQ_ADDR, 8, RAM_BASE + 4096);
        w.write_reg(hca, regs::AQ_LOG_SIZE, 4, 4);
        w.write_reg(hca, regs::AQ_RECORD, 8, record);
        w.write_reg(hca, regs::CTRL, 4, regs::CTRL_ENABLE.into());
        let health = w.read_reg(hca, regs::HEALTH, 4) as u32;
        assert_eq!(health, regs::HEALTH_AQ_CONFIG, "{record:#x}");
    }
}

#[test]
fn h02_a_bad_admin_queue_is_fatal_until_reset() {
    let cases = [
        (RAM_BASE + 8, RAM_BASE + 4096, 4, "unaligned"),
        (RAM_BASE, 0x1000, 4, "unmapped"),
        (RAM_BASE, RAM_BASE + MEMORY as u64 - 4096, 5, "beyond the mapping"),
        (RAM_BASE, RAM_BASE + 4096, 0, "too small"),
        (RAM_BASE, RAM_BASE + 4096, 11, "too large"),
        (RAM_BASE, RAM_BASE + 4096, 200, "absurd"),
        (u64::MAX - 4095, RAM_BASE + 4096, 4, "at the end of all addresses"),
    ];
    for (asq, acq, log, case) in cases {
        let mut w = World::new(1);
        let hca = w.add_hca(MEMORY);
        w.write_reg(hca, regs::ASQ_ADDR, 8, asq);
        w.write_reg(hca, regs::ACQ_ADDR, 8, acq);
        w.write_reg(hca, regs::AQ_LOG_SIZE, 4, log);
        w.write_reg(hca, regs::CTRL, 4, regs::CTRL_ENABLE.into());
        let status = w.read_reg(hca, regs::STATUS, 4) as u32;
        assert_eq!(status, regs::STATUS_READY | regs::STATUS_FATAL, "{case}");
        assert_eq!(
            w.read_reg(hca, regs::HEALTH, 4),
            u64::from(regs::HEALTH_AQ_CONFIG),
            "{case}"
        );
        assert_eq!(w.take_interrupts(hca, 0), 1, "{case}");
        // Enabling again does not help, resetting does.
        w.write_reg(hca, regs::CTRL, 4, regs::CTRL_ENABLE.into());
        assert_eq!(w.take_interrupts(hca, 0), 0, "{case}");
        w.write_reg(hca, regs::CTRL, 4, regs::CTRL_RESET.into());
        Guest::attach(&mut w, hca);
    }
}

#[test]
fn h02_a_tail_that_runs_ahead_of_the_queue_is_fatal() {
    let mut w = World::new(1);
    let guest = Guest::start(&mut w, MEMORY);
    w.write_reg(guest.hca, regs::ASQ_TAIL, 4, 1000);
    w.run();
    assert_eq!(w.read_reg(guest.hca, regs::HEALTH, 4), u64::from(regs::HEALTH_ASQ_TAIL));
}

#[test]
fn h02_admin_memory_that_vanishes_is_fatal_and_the_peer_sees_silence() {
    let mut pair = Pair::with(Default::default(), 8, |a| {
        a.timeout = 1;
        a.retry_cnt = 0;
    });
    let w = &mut pair.world;
    let hca = pair.b.guest.hca;
    w.ram_mut(hca).unmap(RAM_BASE);
    let tail = w.read_reg(hca, regs::ASQ_TAIL, 4);
    w.write_reg(hca, regs::ASQ_TAIL, 4, tail + 1);
    w.run();
    assert_eq!(
        w.read_reg(hca, regs::HEALTH, 4),
        u64::from(regs::HEALTH_ASQ_UNREACHABLE)
    );
    pair.a.post(w, SendWr::send(1, &[]));
    w.advance(core::time::Duration::from_millis(1));
    assert_eq!(pair.a.completion(w).status, verbena_hw::cqe::Status::RETRY_EXC_ERR.0);
    assert_eq!(pair.a.guest.state(w, pair.a.qp.qpn), QpState::ERR);
}

#[test]
fn h02_disabling_stops_the_queue_and_leaves_the_objects() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    w.write_reg(hca, regs::CTRL, 4, 0);
    assert_eq!(w.read_reg(hca, regs::STATUS, 4), u64::from(regs::STATUS_READY));
    pair.b.post_recv(w, 5, 0, 64);
    pair.a.post(w, SendWr::send(1, &[pair.a.sge(0, 64)]));
    w.run();
    assert_eq!(pair.b.completion(w).wr_id, 5);
}

#[test]
fn h02_doorbell_register_writes_that_name_nothing_are_counted_and_harmless() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    for (offset, size, value) in [
        (0, 4, 4095),
        (0, 4, 4096),
        (0, 4, 0xffff_fffe),
        (0, 2, 0),
        (8, 4, 0),
        (4096, 4, 0),
        (1023 * 4096, 4, 0),
        (1024 * 4096, 4, 0),
        (u64::MAX - 3, 4, 0),
    ] {
        w.engine.write_doorbell(hca, offset, size, value);
        w.run();
    }
    assert_eq!(pair.a.guest.counter(w, "doorbells_trapped"), 9);
    assert_eq!(w.read_reg(hca, regs::ACCESS_ERRORS, 4), 6);
}
