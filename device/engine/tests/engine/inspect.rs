// SPDX-License-Identifier: MIT OR Apache-2.0
//! H15: one queue pair looked at closely.

use core::time::Duration;
use verbena_engine::inspect::{Element, Remote, Stage};
use verbena_engine::testing::{Pair, SendWr};
use verbena_engine::QpReport;
use verbena_hw::cqe::Status;
use verbena_hw::id::Key;
use verbena_hw::qp::access;
use verbena_hw::wqe::SendOpcode;

/// The first end's queue pair, with at most `entries` of each ring on either side.
fn inspect(pair: &Pair, entries: u32) -> QpReport {
    let w = &pair.world;
    let qpn = pair.a.qp.qpn.get();
    let report = w.engine.inspect_qp(pair.a.guest.hca, qpn, entries, w.now, &w.env);
    report.expect("the queue pair is there")
}

#[test]
fn h15_a_queue_pair_shows_its_rings_decoded() {
    let mut pair = Pair::connected();
    let (remote, rkey) = (pair.b.addr(0x40), pair.b.rkey());
    let (sge, second) = (pair.a.sge(0, 5), pair.a.sge(0x100, 6));
    for wr_id in 1..=3 {
        pair.a
            .post(&mut pair.world, SendWr::write(wr_id, &[sge, second], remote, rkey));
    }
    pair.world.run();
    pair.a.completion(&pair.world);
    // Posted, and nobody has told the device.
    let swap = SendWr::compare_swap(4, pair.a.sge(8, 8), remote, rkey, 1, 2);
    pair.a.qp.post_quietly(&pair.world, swap);
    pair.a
        .qp
        .post_quietly(&pair.world, SendWr::send(5, &[]).inline(b"abc").imm(7));
    let granted = access::LOCAL_WRITE | access::REMOTE_READ;
    let region = SendWr::register(6, Key::from_parts(0x77, 1), 0x4000, granted, &[sge]);
    pair.a.qp.post_quietly(&pair.world, region);
    pair.a.post_recv(&mut pair.world, 9, 0x200, 64);

    let report = inspect(&pair, 16);
    let what: Vec<_> = report.sends.iter().map(|e| (e.wr_id, e.stage, e.counter)).collect();
    assert_eq!(
        what,
        [
            (1, Stage::Done, 0),
            (2, Stage::Done, 1),
            (3, Stage::Done, 2),
            (4, Stage::Posted, 3),
            (5, Stage::Posted, 4),
            (6, Stage::Posted, 5)
        ]
    );
    let write = &report.sends[0];
    assert_eq!((write.opcode.as_str(), write.bytes), ("WRITE", 11));
    let key = rkey.index();
    assert_eq!(write.remote, Some(Remote { addr: remote, key }));
    let element = Element {
        addr: second.addr,
        len: 6,
        key: second.lkey.index(),
    };
    assert_eq!(write.elements[1], element);
    assert_eq!(report.sends[3].operands, "0x1 becomes 0x2");
    let send = &report.sends[4];
    assert_eq!((send.opcode.as_str(), send.bytes), ("SEND_WITH_IMM", 3));
    assert!(send.flags.contains(&"INLINE") && send.elements.is_empty());
    let registration = &report.sends[5];
    assert_eq!(registration.operands, "region 0x77 at 0x4000 LOCAL_WRITE|REMOTE_READ");
    assert_eq!((registration.bytes, registration.remote), (5, None));
    assert_eq!(report.receives.len(), 1);
    assert_eq!((report.receives[0].wr_id, report.receives[0].bytes), (9, 64));

    let completions = &report.send_cq.as_ref().expect("it sends").entries;
    assert!(report.recv_cq.is_none(), "it is the same queue");
    let polled: Vec<_> = completions.iter().map(|e| (e.wr_id, e.polled)).collect();
    assert_eq!(polled, [(1, true), (2, false), (3, false)]);
    assert_eq!(report.more, (0, 0));

    let text = report.to_string();
    for part in [
        "RTS",
        "COMPARE_SWAP",
        "0x1 becomes 0x2",
        "in flight",
        "waiting",
        "last errors: none",
    ] {
        assert_eq!(text.contains(part), part != "in flight", "{part} in\n{text}");
    }
    let tag = format!("{:#x}", rkey.0);
    assert!(!text.contains(&tag), "a report gives no access");
}

#[test]
fn h15_what_is_beyond_the_window_is_counted() {
    let mut pair = Pair::connected();
    for wr_id in 0..10 {
        pair.a.post(
            &mut pair.world,
            SendWr::write(wr_id, &[], pair.b.addr(0), pair.b.rkey()),
        );
    }
    pair.world.run();
    for wr_id in 10..15 {
        pair.a
            .qp
            .post_quietly(&pair.world, SendWr::write(wr_id, &[], pair.b.addr(0), pair.b.rkey()));
    }
    let report = inspect(&pair, 2);
    let ids: Vec<_> = report.sends.iter().map(|e| e.wr_id).collect();
    assert_eq!(ids, [8, 9, 10, 11]);
    assert_eq!(report.more, (3, 0));
    assert_eq!(report.send_cq.as_ref().expect("it sends").entries.len(), 2);
    assert!(inspect(&pair, 0).sends.is_empty());
    assert_eq!(inspect(&pair, u32::MAX).more, (0, 0));
}

#[test]
fn h15_a_ring_that_went_round_shows_each_entry_once() {
    let mut pair = Pair::connected();
    let size = inspect(&pair, 0).qp.sq.expect("it sends").entries;
    for wr_id in 0..u64::from(size) + 3 {
        pair.a.post(
            &mut pair.world,
            SendWr::write(wr_id, &[], pair.b.addr(0), pair.b.rkey()),
        );
        pair.world.run();
        pair.a.completion(&pair.world);
    }
    // They take the slots of the oldest ones.
    for wr_id in 1000..1002 {
        pair.a
            .qp
            .post_quietly(&pair.world, SendWr::write(wr_id, &[], pair.b.addr(0), pair.b.rkey()));
    }
    let report = inspect(&pair, u32::MAX);
    let ids: Vec<_> = report.sends.iter().map(|e| e.wr_id).collect();
    let expected: Vec<_> = (5..u64::from(size) + 3).chain(1000..1002).collect();
    assert_eq!(ids, expected);
}

#[test]
fn h15_a_queue_pair_tells_what_it_waits_for_and_what_went_wrong() {
    let mut pair = Pair::with(Default::default(), 8, |attrs| attrs.rnr_retry = 1);
    let sge = pair.a.sge(0, 16);
    pair.a.post(&mut pair.world, SendWr::send(0x77, &[sge]));
    pair.world.run();
    let report = inspect(&pair, 16);
    assert_eq!(report.sends[0].stage, Stage::InFlight);
    assert_eq!(report.qp.waits, "RNR timer");
    assert!(report.to_string().contains("waits for RNR timer"));
    assert!(report.errors.is_empty());

    pair.world.advance(Duration::from_secs(2));
    let report = inspect(&pair, 16);
    assert_eq!(report.qp.state, "ERR");
    assert_eq!(
        report.errors.len(),
        1,
        "no line for what was flushed: {:?}",
        report.errors
    );
    let error = &report.errors[0];
    assert_eq!(error.what, Status::RNR_RETRY_EXC_ERR.to_string());
    assert_eq!((error.side, error.wr_id), (Some("send"), Some(0x77)));
    let dump = pair.world.engine.dump(None, pair.world.now, &pair.world.env);
    assert_eq!(dump.hcas[0].errors, report.errors);
}

#[test]
fn h15_a_queue_pair_that_is_gone_leaves_its_errors() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let mut wr = SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey());
    wr.header.opcode = 0xee;
    pair.a.post(w, wr);
    w.run();
    let (hca, qpn) = (pair.a.guest.hca, pair.a.qp.qpn.get());
    pair.a
        .guest
        .destroy(w, verbena_hw::admin::Opcode::DESTROY_QP, qpn)
        .expect("destroyed");
    let gone = w.engine.inspect_qp(hca, qpn, 1, w.now, &w.env).expect_err("it is gone");
    assert!(gone.others.is_empty());
    assert_eq!(gone.errors[0].reason.as_deref(), Some("OPCODE"));
    w.engine.reset_hca(hca);
    let gone = w.engine.inspect_qp(hca, qpn, 1, w.now, &w.env).expect_err("it is gone");
    assert!(gone.errors.is_empty(), "a reset forgets");
}

#[test]
fn h15_a_ring_full_of_nonsense_is_shown_as_it_is() {
    let mut pair = Pair::connected();
    let report = inspect(&pair, 0);
    let (hca, ring) = (pair.a.guest.hca, report.qp.sq.as_ref().expect("it sends"));
    let len = ring.entries as usize * ring.stride;
    pair.world.ram(hca).write(ring.next_entry, &vec![0xff; len]);
    let report = inspect(&pair, u32::MAX);
    assert_eq!(report.sends.len(), ring.entries as usize);
    assert!(SendOpcode(0xff).name().is_none());
    assert!(report.to_string().contains("SendOpcode(0xff)"));
    // Nor is a ring a fault that is not there any more.
    pair.world.ram_mut(hca).unmap(verbena_engine::testing::RAM_BASE);
    assert!(inspect(&pair, 16).sends.is_empty());
}
