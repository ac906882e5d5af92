// SPDX-License-Identifier: MIT OR Apache-2.0
//! H5 and H13: every operation, at every awkward size, through scatter lists that cross pages.

use crate::way;
use verbena_engine::testing::{QpShape, RecvWr, SendWr};
use verbena_hw::cqe::{flags, Opcode, Status};
use verbena_hw::wqe::{send_flags, Sge};

const SIZES: [u32; 9] = [0, 1, 63, 64, 65, 4095, 4096, 4097, 1 << 20];

/// Bytes that say where they belong.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 13) as u8)
        .collect()
}

/// The same bytes as `len` bytes at `offset`, in up to 32 elements of odd lengths.
fn scattered(end: &verbena_engine::testing::End, offset: u64, len: u32) -> Vec<Sge> {
    let mut sges = Vec::new();
    let mut at = 0;
    let step = (len / 31).max(1) | 1;
    while at < len {
        let n = if sges.len() == 31 { len - at } else { step.min(len - at) };
        sges.push(end.sge(offset + u64::from(at), n));
        at += n;
    }
    sges
}

#[test]
fn h05_write_moves_bytes_of_every_size() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for (i, len) in SIZES.into_iter().enumerate() {
        let data = pattern(len as usize, i as u32);
        // Odd offsets on both sides: every page boundary is crossed at another place.
        pair.a.fill(w, 13, &data);
        pair.b.fill(w, 0, &vec![0xee; len as usize + 64]);
        let wr = SendWr::write(len.into(), &[pair.a.sge(13, len)], pair.b.addr(29), pair.b.rkey());
        pair.a.post(w, wr);
        w.run();
        let cqe = pair.a.completion(w);
        assert_eq!((cqe.status, cqe.wr_id), (0, len.into()));
        assert_eq!(cqe.opcode, Opcode::RDMA_WRITE.0);
        assert_eq!(pair.b.bytes(w, 29, len as usize), data, "{len}");
        assert_eq!(pair.b.bytes(w, 0, 29), [0xee; 29], "{len}: nothing before");
        assert_eq!(
            pair.b.bytes(w, 29 + u64::from(len), 8),
            [0xee; 8],
            "{len}: nothing behind"
        );
        pair.b.nothing(w);
    }
}

#[test]
fn h05_read_moves_bytes_of_every_size() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for (i, len) in SIZES.into_iter().enumerate() {
        let data = pattern(len as usize, i as u32);
        pair.b.fill(w, 4093, &data);
        let wr = SendWr::read(len.into(), &[pair.a.sge(7, len)], pair.b.addr(4093), pair.b.rkey());
        pair.a.post(w, wr);
        w.run();
        let cqe = pair.a.completion(w);
        assert_eq!((cqe.status, cqe.wr_id, cqe.byte_len), (0, len.into(), len));
        assert_eq!(cqe.opcode, Opcode::RDMA_READ.0);
        assert_eq!(pair.a.bytes(w, 7, len as usize), data, "{len}");
    }
    let reads = pair.a.guest.counter(w, "sent_reads");
    assert!(reads >= SIZES.len() as u64);
}

#[test]
fn h05_send_moves_bytes_of_every_size() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for (i, len) in SIZES.into_iter().enumerate() {
        let data = pattern(len as usize, i as u32);
        pair.a.fill(w, 1, &data);
        pair.b.post_recv(w, 1000 + u64::from(len), 3, len + 5);
        let wr = SendWr::send(len.into(), &[pair.a.sge(1, len)]);
        pair.a.post(w, wr);
        w.run();
        let sent = pair.a.completion(w);
        assert_eq!((sent.status, sent.wr_id, sent.opcode), (0, len.into(), Opcode::SEND.0));
        let got = pair.b.completion(w);
        assert_eq!((got.status, got.wr_id), (0, 1000 + u64::from(len)));
        assert_eq!((got.opcode, got.flags), (Opcode::RECV.0, flags::RECV));
        assert_eq!((got.byte_len, got.imm), (len, 0));
        assert_eq!(pair.b.bytes(w, 3, len as usize), data, "{len}");
    }
}

#[test]
fn h05_scatter_lists_on_both_sides() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for len in [31u32, 64, 4095, 10_000, 300_001, 1 << 20] {
        let data = pattern(len as usize, len);
        pair.a.fill(w, 4090, &data);
        // SEND: list to list, of different pieces.
        let mut into = scattered(&pair.b, 4000, len - 1);
        into.push(pair.b.sge(4000 + u64::from(len) - 1, 100));
        let into = if into.len() > 32 {
            vec![pair.b.sge(4000, len)]
        } else {
            into
        };
        pair.b.qp.post_recv(w, RecvWr::new(1, &into));
        let wr = SendWr::send(2, &scattered(&pair.a, 4090, len));
        pair.a.post(w, wr);
        w.run();
        assert_eq!(pair.a.completion(w).status, 0);
        assert_eq!(pair.b.completion(w).byte_len, len);
        assert_eq!(pair.b.bytes(w, 4000, len as usize), data, "send {len}");
        // WRITE: list to range. READ: range to list.
        let wr = SendWr::write(3, &scattered(&pair.a, 4090, len), pair.b.addr(77), pair.b.rkey());
        pair.a.post(w, wr);
        w.run();
        assert_eq!(pair.b.bytes(w, 77, len as usize), data, "write {len}");
        pair.a.fill(w, 4090, &vec![0; len as usize]);
        let wr = SendWr::read(4, &scattered(&pair.a, 4090, len), pair.b.addr(77), pair.b.rkey());
        pair.a.post(w, wr);
        w.run();
        assert_eq!(pair.a.bytes(w, 4090, len as usize), data, "read {len}");
        assert_eq!(pair.a.cq.drain(w).len(), 2);
    }
}

#[test]
fn h05_elements_without_bytes_are_passed_over_whatever_their_key() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.fill(w, 0, b"abcdef");
    let nothing = Sge::default();
    let sges = [nothing, pair.a.sge(0, 3), nothing, pair.a.sge(3, 3), nothing];
    let wr = SendWr::write(1, &sges, pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(pair.b.bytes(w, 0, 6), b"abcdef");
}

#[test]
fn h05_inline_data_is_taken_from_the_entry() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for len in [0usize, 1, 15, 16, 17, 32, 511, 512] {
        let data = pattern(len, 9);
        let wr = SendWr::write(1, &[], pair.b.addr(5), pair.b.rkey()).inline(&data);
        pair.a.post(w, wr);
        pair.b.post_recv(w, 2, 2000, 512);
        pair.a.post(w, SendWr::send(3, &[]).inline(&data));
        w.run();
        assert_eq!(pair.b.bytes(w, 5, len), data, "write {len}");
        assert_eq!(pair.b.bytes(w, 2000, len), data, "send {len}");
        assert_eq!(pair.b.completion(w).byte_len as usize, len);
        assert_eq!(pair.a.cq.drain(w).len(), 2);
    }
}

#[test]
fn h05_inline_data_scatters_into_several_elements() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let into = scattered(&pair.b, 100, 300);
    pair.b.qp.post_recv(w, RecvWr::new(2, &into));
    let data = pattern(300, 1);
    pair.a.post(w, SendWr::send(3, &[]).inline(&data));
    w.run();
    assert_eq!(pair.b.bytes(w, 100, 300), data);
}

#[test]
fn h05_immediate_data_arrives_as_it_was_given() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let imm = u32::from_ne_bytes([1, 2, 3, 4]);
    pair.b.post_recv(w, 1, 0, 64);
    pair.b.post_recv(w, 2, 64, 64);
    pair.a.fill(w, 0, b"payload!");
    let wr = SendWr::send(10, &[pair.a.sge(0, 8)]).imm(imm);
    pair.a.post(w, wr);
    let wr = SendWr::write(11, &[pair.a.sge(0, 8)], pair.b.addr(500), pair.b.rkey()).imm(!imm);
    pair.a.post(w, wr);
    w.run();
    let by_send = pair.b.completion(w);
    assert_eq!((by_send.wr_id, by_send.opcode, by_send.imm), (1, Opcode::RECV.0, imm));
    assert_eq!(by_send.flags, flags::RECV | flags::IMM);
    let by_write = pair.b.completion(w);
    assert_eq!((by_write.wr_id, by_write.imm, by_write.byte_len), (2, !imm, 8));
    assert_eq!(by_write.opcode, Opcode::RECV_RDMA_WITH_IMM.0);
    assert_eq!(pair.b.bytes(w, 64, 8), [0; 8], "a WRITE does not go into the receive");
    assert_eq!(pair.b.bytes(w, 500, 8), b"payload!");
}

#[test]
fn h05_a_long_write_with_immediate_data_completes_one_receive_at_its_end() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.b.post_recv(w, 1, 0, 0);
    let wr = SendWr::write(2, &[pair.a.sge(0, 1 << 20)], pair.b.addr(0), pair.b.rkey()).imm(5);
    pair.a.post(w, wr);
    w.poll();
    pair.b.nothing(w);
    w.run();
    let cqe = pair.b.completion(w);
    assert_eq!((cqe.wr_id, cqe.byte_len, cqe.imm), (1, 1 << 20, 5));
    pair.b.nothing(w);
}

#[test]
fn h05_compare_and_swap_and_fetch_and_add() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.b.fill(w, 8, &100u64.to_le_bytes());
    let (sge, addr, rkey) = (pair.a.sge(64, 8), pair.b.addr(8), pair.b.rkey());
    let mut step = |wr: SendWr, before: u64, after: u64| {
        pair.a.post(w, wr);
        w.run();
        let cqe = pair.a.completion(w);
        assert_eq!((cqe.status, cqe.byte_len), (0, 8));
        assert_eq!(pair.a.bytes(w, 64, 8), before.to_le_bytes());
        assert_eq!(pair.b.bytes(w, 8, 8), after.to_le_bytes());
        cqe.opcode
    };
    assert_eq!(
        step(SendWr::fetch_add(1, sge, addr, rkey, 5), 100, 105),
        Opcode::FETCH_ADD.0
    );
    assert_eq!(
        step(SendWr::compare_swap(2, sge, addr, rkey, 105, 7), 105, 7),
        Opcode::COMP_SWAP.0
    );
    step(SendWr::compare_swap(3, sge, addr, rkey, 105, 9), 7, 7);
    step(SendWr::fetch_add(4, sge, addr, rkey, u64::MAX), 7, 6);
    assert_eq!(pair.b.bytes(w, 0, 8), [0; 8]);
    assert_eq!(pair.b.bytes(w, 16, 8), [0; 8]);
}

#[test]
fn h05_unsignaled_work_completes_silently_and_the_next_completion_counts_it() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for i in 0..10 {
        let wr = SendWr::write(i, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey()).unsignaled();
        pair.a.post(w, wr);
    }
    w.run();
    pair.a.nothing(w);
    let wr = SendWr::write(10, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.run();
    let cqe = pair.a.completion(w);
    assert_eq!((cqe.wr_id, cqe.consumed), (10, 11));
}

#[test]
fn h05_a_queue_that_signals_everything() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let g = &mut pair.a.guest;
    let mut req = g.qp_request(w, &pair.a.cq, &pair.a.cq, QpShape::default());
    req.flags = verbena_hw::cmd::QP_SIGNAL_ALL;
    let (to_self, mut qp) = {
        let qp = g.create_qp(w, &req).expect("a queue pair");
        ((g.gid(), qp.qpn), qp)
    };
    // Connected to itself: both halves are one queue pair's.
    core::mem::swap(&mut pair.a.qp, &mut qp);
    pair.a.connect(w, to_self, (5, 5), |_| {});
    pair.a.post_recv(w, 1, 0, 16);
    pair.a.post(w, SendWr::send(2, &[]).inline(b"to myself").unsignaled());
    w.run();
    let mut ids: Vec<_> = pair.a.cq.drain(w).iter().map(|c| (c.status, c.wr_id)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [(0, 1), (0, 2)]);
    assert_eq!(pair.a.bytes(w, 0, 9), b"to myself");
}

#[test]
fn h05_completions_come_in_the_order_of_posting() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for i in 0..40u64 {
        let (sge, addr, rkey) = (pair.a.sge(0, 1000), pair.b.addr(0), pair.b.rkey());
        let wr = match i % 4 {
            0 => SendWr::write(i, &[sge], addr, rkey),
            1 => SendWr::read(i, &[sge], addr, rkey).flags(send_flags::FENCE),
            2 => SendWr::fetch_add(i, pair.a.sge(0, 8), addr, rkey, 1),
            _ => {
                pair.b.post_recv(w, 100 + i, 0, 1000);
                SendWr::send(i, &[sge]).flags(send_flags::FENCE)
            }
        };
        pair.a.post(w, wr);
    }
    w.run();
    let ids: Vec<_> = pair.a.cq.drain(w).iter().map(|c| c.wr_id).collect();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    let ids: Vec<_> = pair.b.cq.drain(w).iter().map(|c| c.wr_id).collect();
    assert_eq!(ids, (0..10).map(|i| 103 + 4 * i).collect::<Vec<_>>());
}

#[test]
fn h05_many_times_around_the_rings() {
    let shape = QpShape {
        sq_log: 2,
        rq_log: 3,
        ..QpShape::default()
    };
    let mut pair = way::pair(shape, 4, |_| {});
    let w = &mut pair.world;
    for i in 0..1000u32 {
        let n = i % 4 + 1;
        for j in 0..n {
            pair.b.post_recv(w, (i * 10 + j).into(), 0, 64);
            let wr = SendWr::send((i * 10 + j).into(), &[]).inline(&(i * 10 + j).to_le_bytes());
            pair.a.qp.post_quietly(w, wr);
        }
        pair.a.qp.ring(w);
        w.run();
        for j in 0..n {
            assert_eq!(pair.a.completion(w).wr_id, u64::from(i * 10 + j));
            let got = pair.b.completion(w);
            assert_eq!((got.wr_id, got.status), ((i * 10 + j).into(), 0));
        }
        assert_eq!(pair.b.bytes(w, 0, 4), (i * 10 + n - 1).to_le_bytes());
    }
}

#[test]
fn h05_a_queue_pair_without_a_receive_queue_sends() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let g = &mut pair.a.guest;
    let mut req = g.qp_request(w, &pair.a.cq, &pair.a.cq, QpShape::default());
    req.rq = Default::default();
    req.rq_log_entries = 0;
    req.rq_log_stride = 0;
    req.max_recv_sge = 0;
    let qp = g.create_qp(w, &req).expect("a queue pair");
    assert_eq!(g.query_qp(w, qp.qpn).max_recv_sge, 0);
}

#[test]
fn h13_long_messages_give_way_to_others() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    // Another connection between the same guests.
    let mut small = second_connection(&mut pair.a, &mut pair.b, w);
    let wr = SendWr::write(1, &[pair.a.sge(0, 1 << 20)], pair.b.addr(0), pair.b.rkey());
    pair.a.qp.post(w, wr);
    w.poll();
    pair.a.nothing(w);
    small.post(w, SendWr::write(2, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey()));
    w.poll();
    w.poll();
    assert_eq!(pair.a.completion(w).wr_id, 2, "the short message overtakes");
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 1);
}

fn second_connection(
    a: &mut verbena_engine::testing::End,
    b: &mut verbena_engine::testing::End,
    w: &mut verbena_engine::testing::World,
) -> verbena_engine::testing::Qp {
    let req = a.guest.qp_request(w, &a.cq, &a.cq, QpShape::default());
    let qp_a = a.guest.create_qp(w, &req).expect("a queue pair");
    let req = b.guest.qp_request(w, &b.cq, &b.cq, QpShape::default());
    let qp_b = b.guest.create_qp(w, &req).expect("a queue pair");
    let mut old_a = core::mem::replace(&mut a.qp, qp_a);
    let mut old_b = core::mem::replace(&mut b.qp, qp_b);
    let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
    a.connect(w, to_b, (1, 2), |_| {});
    b.connect(w, to_a, (2, 1), |_| {});
    core::mem::swap(&mut a.qp, &mut old_a);
    core::mem::swap(&mut b.qp, &mut old_b);
    old_a
}

#[test]
fn h13_two_queue_pairs_of_one_hca() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let g = &mut pair.a.guest;
    let mut qps = Vec::new();
    for _ in 0..2 {
        let req = g.qp_request(w, &pair.a.cq, &pair.a.cq, QpShape::default());
        qps.push(g.create_qp(w, &req).expect("a queue pair"));
    }
    let numbers = [qps[0].qpn, qps[1].qpn];
    let gid = g.gid();
    for i in 0..2 {
        core::mem::swap(&mut pair.a.qp, &mut qps[i]);
        pair.a.connect(w, (gid, numbers[1 - i]), (7, 7), |_| {});
        core::mem::swap(&mut pair.a.qp, &mut qps[i]);
    }
    pair.a.fill(w, 0, b"loopback");
    let wr = SendWr::write(1, &[pair.a.sge(0, 8)], pair.a.addr(4096), pair.a.rkey());
    qps[0].post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, Status::SUCCESS.0);
    assert_eq!(pair.a.bytes(w, 4096, 8), b"loopback");
}

#[test]
fn h13_the_sequence_advances_by_packets() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let before = pair.a.guest.query_qp(w, pair.a.qp.qpn).attrs.sq_psn;
    // MTU 1024: 1, 1, 2, 1024 packets.
    for len in [0, 1024, 1025, 1 << 20] {
        let wr = SendWr::write(1, &[pair.a.sge(0, len)], pair.b.addr(0), pair.b.rkey());
        pair.a.post(w, wr);
    }
    w.run();
    let after = pair.a.guest.query_qp(w, pair.a.qp.qpn).attrs.sq_psn;
    let expected = pair.b.guest.query_qp(w, pair.b.qp.qpn).attrs.rq_psn;
    assert_eq!(after.distance(before), 1 + 1 + 2 + 1024);
    assert_eq!(after, expected);
}
