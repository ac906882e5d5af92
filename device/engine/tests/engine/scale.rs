// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many queue pairs: 65,536 of them, each working, none costing anything while idle.

use std::time::Instant;
use verbena_engine::testing::{attrs, Guest, QpShape, SendWr, World};
use verbena_engine::Budget;
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{CreateDoorbellReq, CreateQpReq};
use verbena_hw::cqe::Cqe;

#[test]
fn h04_65536_queue_pairs_are_created_connected_used_and_destroyed() {
    const N: u32 = 65_536;
    let mut w = World::new(1);
    w.budget = Budget {
        operations: 1 << 20,
        bytes: 1 << 30,
    };
    let mut g = Guest::start(&mut w, 1 << 20);
    let mut cq = g.cq(&mut w, 10);
    let shape = QpShape {
        sq_log: 0,
        rq_log: 0,
        sq_log_stride: 6,
        rq_log_stride: 5,
        max_sge: 1,
        max_inline: 32,
    };
    // 16 doorbell pages of 4096 slots.
    let mut pages = vec![(g.doorbell, g.doorbell_page)];
    for _ in 1..16 {
        let addr = w.ram_mut(g.hca).alloc(4096);
        let req = CreateDoorbellReq { addr };
        pages.push((g.create(&mut w, Opcode::CREATE_DOORBELL, &req).expect("a page"), addr));
    }
    // All have the same rings: one entry posted there is posted to each.
    let template = g.qp_request(&mut w, &cq, &cq, shape);
    let mut qps = Vec::new();
    for i in 0..N {
        let req = CreateQpReq {
            doorbell: pages[i as usize / 4096].0,
            slot: (i % 4096) as u16,
            ..template
        };
        qps.push(g.create_qp(&mut w, &req).expect("a queue pair"));
    }
    // Connected in pairs.
    for i in 0..N as usize {
        let (own, peer) = (qps[i].qpn, qps[i ^ 1].qpn);
        for (mask, a) in [attrs::init(), attrs::rtr(g.gid(), peer, 1), attrs::rts(1)] {
            g.modify(&mut w, own, mask, a).expect("a transition");
        }
    }
    w.run();
    qps[0].post_quietly(&w, SendWr::write(77, &[], 0, Default::default()));
    // All of them once, 64 slots at a time.
    let mut seen = std::collections::HashSet::new();
    for (_, page) in &pages {
        for word in 0..64u64 {
            let ram = w.ram(g.hca);
            ram.write(page + 0x80 + 8 * word, &u64::MAX.to_le_bytes());
            ram.write(page + 0x40, &(1u64 << word).to_le_bytes());
            w.run();
            for cqe in cq.drain(&w) {
                assert_eq!((cqe.status, cqe.wr_id), (0, 77));
                assert!(seen.insert(cqe.qpn));
            }
        }
    }
    assert_eq!(seen.len(), N as usize);
    for qp in &qps {
        g.destroy(&mut w, Opcode::DESTROY_QP, qp.qpn.get()).expect("gone");
    }
    assert_eq!(w.engine.dump(Some(g.hca), w.now, &w.env).hcas[0].objects.qps, 0);
}

/// Prints what a message costs in this process. Not a timed test: it fails only if the messages do not arrive.
#[test]
fn h05_figure_of_8_byte_writes() {
    let mut pair = verbena_engine::testing::Pair::connected();
    let w = &mut pair.world;
    let rounds = 2000;
    let mut spent = std::time::Duration::ZERO;
    for _ in 0..rounds {
        for i in 0..32 {
            let wr = SendWr::write(i, &[pair.a.sge(0, 8)], pair.b.addr(64), pair.b.rkey());
            pair.a.qp.post_quietly(w, wr);
        }
        pair.a.qp.ring(w);
        let start = Instant::now();
        w.poll();
        spent += start.elapsed();
        let all: Vec<Cqe> = pair.a.cq.drain(w);
        assert_eq!(all.len(), 32);
    }
    println!("8 B WRITE: {} ns each", spent.as_nanos() / (rounds * 32));
}
