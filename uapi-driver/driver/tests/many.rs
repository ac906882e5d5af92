// SPDX-License-Identifier: MIT OR Apache-2.0
//! As many queue pairs as a device has, of one process that attaches directly.
//!
//! A program of its own, because it measures what the process's memory grows by.

#[expect(dead_code, reason = "shared with tests that use the rest")]
mod common;

use common::{Device, LONG};
use std::time::Instant;
use verbena::{Access, Batch, ConnectOptions, Endpoint, OnFailure, RcQp, SendWr};

/// Queue pairs that a test makes.
const QPS: usize = 65_536;
/// Made, connected or destroyed by one call.
const AT_ONCE: usize = 1024;
/// Entries of the completion queue: as many may be on the way.
const IN_FLIGHT: usize = 1024;

/// What this process has of its own in memory, rings in shared memory not counted.
fn own_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn h04_65536_queue_pairs_are_created_connected_used_and_destroyed_directly() {
    let device = Device::new(1);
    let context = device.open(0);
    assert!(context.device().unwrap().max_qp as usize >= QPS);
    let pd = context.alloc_pd().unwrap();
    let mut cq = context.create_cq(IN_FLIGHT as u32).unwrap();
    let buffer = context.alloc_buffer(QPS * 16).unwrap();
    // The first half is what is written, the second where it goes.
    let (from, to) = (0, QPS * 8);
    for i in 0..QPS {
        buffer.write_at(from + 8 * i, &(i as u64 ^ 0x5555_0000).to_le_bytes());
    }
    let mr = pd
        .register(&buffer, Access::LOCAL_WRITE | Access::REMOTE_WRITE)
        .unwrap();
    let others = context.objects().unwrap().len();
    let (before, begin) = (own_bytes(), Instant::now());

    let mut qps: Vec<RcQp> = Vec::with_capacity(QPS);
    while qps.len() < QPS {
        let mut batch = Batch::new(&context);
        let builder = || {
            RcQp::builder(&pd, &cq, &cq)
                .send_depth(1)
                .recv_depth(1)
                .max_sge(1)
                .max_inline(0)
        };
        let tickets: Vec<_> = (0..AT_ONCE).map(|_| batch.create_qp(builder())).collect();
        let mut done = batch.run(OnFailure::Stop).unwrap();
        qps.extend(tickets.into_iter().map(|ticket| done.take(ticket).unwrap()));
    }
    let created = begin.elapsed();
    // All exist, and no more than there are.
    let one_more = RcQp::builder(&pd, &cq, &cq).build();
    let limit = context.device().unwrap().max_qp as usize;
    assert_eq!(one_more.is_err(), QPS >= limit);
    drop(one_more);
    let taken = own_bytes() - before;

    // In pairs.
    let endpoints: Vec<Endpoint> = {
        let gid = context.gid(1, 0).unwrap();
        qps.iter().map(|qp| qp.endpoint_with(gid)).collect()
    };
    let options = ConnectOptions::default();
    for (n, some) in qps.chunks_mut(AT_ONCE).enumerate() {
        let mut batch = Batch::new(&context);
        for (i, qp) in some.iter_mut().enumerate() {
            batch.connect(qp, &endpoints[(n * AT_ONCE + i) ^ 1], &options).unwrap();
        }
        batch.run(OnFailure::Stop).unwrap().all().unwrap();
    }
    let connected = begin.elapsed();

    // Each writes a word of its own to its peer, all of them in turn.
    for (n, some) in qps.chunks_mut(IN_FLIGHT).enumerate() {
        for (i, qp) in some.iter_mut().enumerate() {
            let i = n * IN_FLIGHT + i;
            let word = [mr.sge(from + 8 * i..from + 8 * i + 8)];
            qp.post_send(
                &SendWr::write(mr.remote(to + 8 * i))
                    .wr_id(i as u64)
                    .sges(&word)
                    .signaled(),
            )
            .unwrap();
        }
        let mut seen = vec![false; IN_FLIGHT];
        for _ in 0..IN_FLIGHT {
            let completion = cq.poll_timeout(LONG).unwrap().expect("a completion arrives in time");
            completion.ok().unwrap();
            let i = completion.wr_id as usize;
            assert_eq!(completion.qpn, qps_number(&endpoints, i));
            assert!(!std::mem::replace(&mut seen[i - n * IN_FLIGHT], true), "once each");
        }
    }
    for i in 0..QPS {
        let mut word = [0; 8];
        buffer.read_at(to + 8 * i, &mut word);
        assert_eq!(u64::from_le_bytes(word), i as u64 ^ 0x5555_0000, "queue pair {i}");
    }
    let used = begin.elapsed();

    while !qps.is_empty() {
        let mut batch = Batch::new(&context);
        for qp in qps.drain(qps.len() - AT_ONCE..) {
            batch.destroy(qp);
        }
        batch.run(OnFailure::Stop).unwrap().all().unwrap();
    }
    assert_eq!(context.objects().unwrap().len(), others, "nothing else is left");
    println!(
        "{QPS} queue pairs: created after {created:?}, connected {connected:?}, used {used:?}, gone {:?}; \
         {} bytes each in device, object model and driver together",
        begin.elapsed(),
        taken / QPS
    );
}

fn qps_number(endpoints: &[Endpoint], i: usize) -> u32 {
    endpoints[i].qpn.get()
}
