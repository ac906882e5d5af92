// SPDX-License-Identifier: MIT OR Apache-2.0
//! H10: every way in which a message can fail, with what each side sees of it.

use crate::way;
use core::time::Duration;
use verbena_engine::testing::{attrs, Guest, Mr, Pair, RecvWr, SendWr, World};
use verbena_hw::admin::Opcode as Admin;
use verbena_hw::cqe::{flags, vendor, Cqe, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::Key;
use verbena_hw::qp::{access, attr, QpAttrs, QpState};
use verbena_hw::wqe::{send_flags, Sge};

/// What both sides say after a's message has failed: a's completion, b's completion, b's events.
struct Aftermath {
    own: Cqe,
    peer: Option<Cqe>,
    events: Vec<(Event, u64)>,
}

/// Posts a's message, lets it fail, and checks what holds for every failure: a flushed message follows, and a's queue
/// pair is in ERR.
fn failing(pair: &mut Pair, wr: SendWr) -> Aftermath {
    let w = &mut pair.world;
    let wr_id = wr.header.wr_id;
    pair.b.guest.events(w);
    pair.a.qp.post_quietly(w, wr);
    pair.a.post(w, SendWr::send(wr_id + 1, &[]).unsignaled());
    w.run();
    let own = pair.a.completion(w);
    assert_eq!(own.wr_id, wr_id);
    assert_eq!((own.qpn, own.cookie), (pair.a.qp.qpn, pair.a.qp.cookie));
    let flushed = pair.a.completion(w);
    assert_eq!((flushed.wr_id, flushed.status), (wr_id + 1, Status::WR_FLUSH_ERR.0));
    assert_eq!(pair.a.guest.state(w, pair.a.qp.qpn), QpState::ERR);
    let peer = pair.b.cq.poll(w);
    let events = pair
        .b
        .guest
        .events(w)
        .iter()
        .map(|e| (Event(e.event), e.data))
        .collect();
    Aftermath { own, peer, events }
}

/// An error of a's own: b does not notice.
fn local_error(status: Status, reason: u32, make: impl Fn(&mut Pair) -> SendWr) {
    let mut pair = way::connected();
    let wr = make(&mut pair);
    let after = failing(&mut pair, wr);
    assert_eq!(Status(after.own.status), status);
    assert_eq!(after.own.vendor_err, reason);
    assert_eq!(after.peer, None);
    assert_eq!(after.events, []);
    let state = pair.b.guest.state(&mut pair.world, pair.b.qp.qpn);
    assert_eq!(state, QpState::RTS);
}

/// An error that b finds: both end in ERR, b with an event.
fn remote_error(status: Status, event: Event, reason: u32, make: impl Fn(&mut Pair) -> SendWr) {
    let mut pair = way::connected();
    let wr = make(&mut pair);
    let after = failing(&mut pair, wr);
    assert_eq!(Status(after.own.status), status);
    assert_eq!(after.events, [(event, reason.into())]);
    let state = pair.b.guest.state(&mut pair.world, pair.b.qp.qpn);
    assert_eq!(state, QpState::ERR);
}

fn write(pair: &Pair) -> SendWr {
    SendWr::write(1, &[pair.a.sge(0, 64)], pair.b.addr(0), pair.b.rkey())
}

#[test]
fn h10_loc_qp_op_err_for_entries_that_make_no_sense() {
    let status = Status::LOC_QP_OP_ERR;
    for opcode in [14u8, 15, 99, 255] {
        local_error(status, vendor::OPCODE, |pair| {
            let mut wr = write(pair);
            wr.header.opcode = opcode;
            wr
        });
    }
    local_error(status, vendor::FLAGS, |pair| write(pair).flags(1 << 4));
    local_error(status, vendor::FLAGS, |pair| {
        SendWr::read(1, &[], pair.b.addr(0), pair.b.rkey()).inline(&[0; 8])
    });
    for num_sge in [33, 64, 255] {
        local_error(status, vendor::SGE_COUNT, |pair| {
            let mut wr = write(pair);
            wr.header.num_sge = num_sge;
            wr
        });
    }
    local_error(status, vendor::SGE_COUNT, |pair| {
        let mut wr = write(pair).inline(&[0; 16]);
        wr.header.num_sge = 1;
        wr
    });
    for inline_len in [513, 4096, u32::MAX] {
        local_error(status, vendor::INLINE_LEN, |pair| {
            let mut wr = write(pair).inline(&[0; 16]);
            wr.header.inline_len = inline_len;
            wr
        });
    }
    local_error(status, vendor::INLINE_LEN, |pair| {
        let mut wr = write(pair);
        wr.header.inline_len = 1;
        wr
    });
}

#[test]
fn h10_loc_qp_op_err_for_reads_on_a_queue_without_read_depth() {
    let mut pair = way::pair(Default::default(), 8, |a| a.max_rd_atomic = 0);
    let wr = SendWr::read(1, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
    let after = failing(&mut pair, wr);
    assert_eq!(Status(after.own.status), Status::LOC_QP_OP_ERR);
    assert_eq!(after.own.vendor_err, vendor::RD_ATOMIC);
}

#[test]
fn h10_loc_len_err_for_messages_and_operands_of_a_wrong_length() {
    local_error(Status::LOC_LEN_ERR, vendor::MESSAGE_LEN, |pair| {
        let huge = Sge {
            len: 0x4000_0001,
            ..pair.a.sge(0, 0)
        };
        SendWr::write(1, &[huge, huge], pair.b.addr(0), pair.b.rkey())
    });
    local_error(Status::LOC_LEN_ERR, vendor::ATOMIC_OPERAND, |pair| {
        SendWr::fetch_add(1, pair.a.sge(0, 4), pair.b.addr(0), pair.b.rkey(), 1)
    });
    local_error(Status::LOC_LEN_ERR, vendor::ATOMIC_OPERAND, |pair| {
        let mut wr = SendWr::fetch_add(1, pair.a.sge(0, 8), pair.b.addr(0), pair.b.rkey(), 1);
        wr.header.num_sge = 0;
        wr
    });
}

#[test]
fn h10_loc_prot_err_for_bad_keys_and_ranges_of_ones_own() {
    let status = Status::LOC_PROT_ERR;
    let element = |reason, spoil: fn(&mut Sge, &Pair)| {
        // Alone, and behind a good element; in a SEND, a WRITE and a READ.
        for kind in 0..3 {
            for second in [false, true] {
                local_error(status, reason, |pair| {
                    pair.b.post_recv(&mut pair.world, 50, 0, 4096);
                    let mut bad = pair.a.sge(0, 64);
                    spoil(&mut bad, pair);
                    let sges = if second {
                        vec![pair.a.sge(64, 10), bad]
                    } else {
                        vec![bad]
                    };
                    match kind {
                        0 => SendWr::send(1, &sges),
                        1 => SendWr::write(1, &sges, pair.b.addr(0), pair.b.rkey()),
                        _ => SendWr::read(1, &sges, pair.b.addr(0), pair.b.rkey()),
                    }
                });
            }
        }
    };
    element(vendor::KEY_UNKNOWN, |sge, _| sge.lkey = Key(sge.lkey.0 ^ 1));
    element(vendor::KEY_UNKNOWN, |sge, _| sge.lkey = Key(0));
    element(vendor::KEY_UNKNOWN, |sge, pair| sge.lkey = pair.b.mr.lkey);
    element(vendor::KEY_RANGE, |sge, _| sge.addr -= 1);
    element(vendor::KEY_RANGE, |sge, pair| {
        sge.addr = pair.a.addr(pair.a.mr.len) - 63
    });
    element(vendor::KEY_RANGE, |sge, _| sge.addr = u64::MAX - 10);
}

#[test]
fn h10_loc_prot_err_for_reading_into_memory_without_local_write() {
    for kind in 0..2 {
        local_error(Status::LOC_PROT_ERR, vendor::KEY_ACCESS, |pair| {
            let w = &mut pair.world;
            let at = w.ram_mut(pair.a.guest.hca).alloc(4096);
            let mr = pair.a.guest.mr(w, at, 4096, access::REMOTE_READ).expect("a region");
            let sge = Sge {
                addr: at,
                len: 8,
                lkey: mr.lkey,
            };
            match kind {
                0 => SendWr::read(1, &[sge], pair.b.addr(0), pair.b.rkey()),
                _ => SendWr::fetch_add(1, sge, pair.b.addr(0), pair.b.rkey(), 1),
            }
        });
    }
}

#[test]
fn h10_loc_prot_err_for_a_region_of_another_domain() {
    local_error(Status::LOC_PROT_ERR, vendor::KEY_PD, |pair| {
        let mr = foreign_region(&mut pair.world, &mut pair.a.guest);
        let sge = Sge {
            addr: mr.addr,
            len: 8,
            lkey: mr.lkey,
        };
        SendWr::write(1, &[sge], pair.b.addr(0), pair.b.rkey())
    });
}

/// A region of the guest in a protection domain that its queue pair does not have.
fn foreign_region(w: &mut World, guest: &mut Guest) -> Mr {
    let own = guest.pdn;
    guest.pdn = verbena_hw::id::Pdn(guest.create(w, Admin::CREATE_PD, &[0u8; 0]).expect("a domain"));
    let at = w.ram_mut(guest.hca).alloc(4096);
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;
    let mr = guest.mr(w, at, 4096, rights).expect("a region");
    guest.pdn = own;
    mr
}

#[test]
fn h10_rem_access_err_for_bad_rkeys_and_ranges() {
    let case = |reason, spoil: fn(&mut SendWr, &mut Pair)| {
        for read in [false, true] {
            remote_error(Status::REM_ACCESS_ERR, Event::QP_ACCESS_ERR, reason, |pair| {
                let mut wr = if read {
                    SendWr::read(1, &[pair.a.sge(0, 64)], pair.b.addr(0), pair.b.rkey())
                } else {
                    write(pair)
                };
                spoil(&mut wr, pair);
                wr
            });
        }
    };
    case(vendor::KEY_UNKNOWN, |wr, _| {
        wr.header.rkey = Key(wr.header.rkey.0 ^ 0x80)
    });
    case(vendor::KEY_UNKNOWN, |wr, _| wr.header.rkey = Key(0));
    case(vendor::KEY_RANGE, |wr, _| wr.header.remote_addr -= 1);
    case(vendor::KEY_RANGE, |wr, pair| {
        wr.header.remote_addr = pair.b.addr(pair.b.mr.len) - 63;
    });
    case(vendor::KEY_RANGE, |wr, _| wr.header.remote_addr = u64::MAX);
    case(vendor::KEY_PD, |wr, pair| {
        let mr = foreign_region(&mut pair.world, &mut pair.b.guest);
        wr.header.rkey = mr.rkey;
        wr.header.remote_addr = mr.addr;
    });
    case(vendor::KEY_ACCESS, |wr, pair| {
        let w = &mut pair.world;
        let at = w.ram_mut(pair.b.guest.hca).alloc(4096);
        let mr = pair
            .b
            .guest
            .mr(w, at, 4096, access::LOCAL_WRITE | access::REMOTE_ATOMIC)
            .expect("a region");
        wr.header.rkey = mr.rkey;
        wr.header.remote_addr = at;
    });
}

#[test]
fn h10_a_zero_length_write_does_not_look_at_the_rkey() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.post(w, SendWr::write(1, &[], 12345, Key(0xdead_beef)));
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
}

#[test]
fn h10_rem_inv_req_err_when_the_queue_pair_does_not_allow_the_operation() {
    for (rights, kind) in [
        (access::QP_ALL & !access::REMOTE_WRITE, 0),
        (access::QP_ALL & !access::REMOTE_READ, 1),
        (access::QP_ALL & !access::REMOTE_ATOMIC, 2),
    ] {
        let mut pair = way::pair(Default::default(), 8, |a| a.access = rights);
        let (sge, addr, rkey) = (pair.a.sge(0, 8), pair.b.addr(0), pair.b.rkey());
        let wr = match kind {
            0 => SendWr::write(1, &[sge], addr, rkey),
            1 => SendWr::read(1, &[sge], addr, rkey),
            _ => SendWr::fetch_add(1, sge, addr, rkey, 1),
        };
        let after = failing(&mut pair, wr);
        assert_eq!(Status(after.own.status), Status::REM_INV_REQ_ERR, "{kind}");
        assert_eq!(after.events, [(Event::QP_REQ_ERR, vendor::QP_ACCESS.into())]);
    }
}

#[test]
fn h10_rem_inv_req_err_for_reads_that_the_peer_has_no_depth_for() {
    let mut pair = way::pair(Default::default(), 8, |a| a.max_dest_rd_atomic = 0);
    let wr = SendWr::read(1, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
    let after = failing(&mut pair, wr);
    assert_eq!(Status(after.own.status), Status::REM_INV_REQ_ERR);
    assert_eq!(after.events, [(Event::QP_REQ_ERR, vendor::RD_ATOMIC.into())]);
}

#[test]
fn h10_rem_inv_req_err_for_an_unaligned_atomic() {
    for offset in [1, 4, 7] {
        remote_error(
            Status::REM_INV_REQ_ERR,
            Event::QP_REQ_ERR,
            vendor::ATOMIC_OPERAND,
            |pair| SendWr::fetch_add(1, pair.a.sge(0, 8), pair.b.addr(offset), pair.b.rkey(), 1),
        );
    }
}

#[test]
fn h10_a_message_longer_than_the_receive_ends_both_sides() {
    for (len, room) in [(64, 63), (1, 0), (1 << 20, (1 << 20) - 1)] {
        let mut pair = way::connected();
        pair.b.post_recv(&mut pair.world, 50, 0, room);
        pair.b.post_recv(&mut pair.world, 51, 0, 64);
        pair.b.fill(&mut pair.world, 0, &[0x77; 64]);
        let wr = SendWr::send(1, &[pair.a.sge(0, len)]);
        let after = failing(&mut pair, wr);
        assert_eq!(Status(after.own.status), Status::REM_INV_REQ_ERR);
        let recv = after.peer.expect("the receive completes");
        assert_eq!((recv.wr_id, Status(recv.status)), (50, Status::LOC_LEN_ERR));
        assert_eq!((recv.flags, recv.vendor_err), (flags::RECV, vendor::RECV_TOO_SHORT));
        assert_eq!(after.events, [], "the completion tells, no event beside it");
        let w = &mut pair.world;
        // What is in the buffers of a receive that fails is undefined: packets that fit are there by
        // then, if the message has several.
        if len <= 1024 {
            assert_eq!(pair.b.bytes(w, 0, 64), [0x77; 64]);
        }
        let next = pair.b.completion(w);
        assert_eq!((next.wr_id, next.status), (51, Status::WR_FLUSH_ERR.0));
        assert_eq!(pair.b.guest.state(w, pair.b.qp.qpn), QpState::ERR);
    }
}

#[test]
fn h10_a_receive_with_a_bad_key_ends_both_sides() {
    for (reason, spoil) in [
        (
            vendor::KEY_UNKNOWN,
            (|sge, _| sge.lkey = Key(7)) as fn(&mut Sge, &mut Pair),
        ),
        (vendor::KEY_RANGE, |sge, _| sge.addr -= 1),
        (vendor::KEY_ACCESS, |sge, pair| {
            let w = &mut pair.world;
            let at = w.ram_mut(pair.b.guest.hca).alloc(4096);
            let mr = pair.b.guest.mr(w, at, 4096, 0).expect("a region");
            (sge.addr, sge.lkey) = (at, mr.lkey);
        }),
    ] {
        let mut pair = way::connected();
        let mut sge = pair.b.sge(0, 64);
        spoil(&mut sge, &mut pair);
        pair.b.qp.post_recv(&pair.world, RecvWr::new(50, &[sge]));
        let wr = SendWr::send(1, &[pair.a.sge(0, 64)]);
        let after = failing(&mut pair, wr);
        assert_eq!(Status(after.own.status), Status::REM_OP_ERR);
        let recv = after.peer.expect("the receive completes");
        assert_eq!((recv.wr_id, Status(recv.status)), (50, Status::LOC_PROT_ERR));
        assert_eq!(recv.vendor_err, reason);
    }
}

#[test]
fn h10_only_the_elements_that_a_message_reaches_are_looked_at() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let bad = Sge {
        lkey: Key(7),
        ..pair.b.sge(0, 64)
    };
    let wr = RecvWr::new(50, &[pair.b.sge(0, 64), bad]);
    pair.b.qp.post_recv(w, wr);
    pair.a.post(w, SendWr::send(1, &[pair.a.sge(0, 64)]));
    w.run();
    assert_eq!(pair.b.completion(w).status, 0);
}

#[test]
fn h10_a_malformed_receive_ends_both_sides() {
    for num_sge in [33, 255] {
        let mut pair = way::connected();
        let mut wr = RecvWr::new(50, &[pair.b.sge(0, 64)]);
        wr.header.num_sge = num_sge;
        pair.b.qp.post_recv(&pair.world, wr);
        let wr = SendWr::send(1, &[pair.a.sge(0, 64)]);
        let after = failing(&mut pair, wr);
        assert_eq!(Status(after.own.status), Status::REM_OP_ERR);
        let recv = after.peer.expect("the receive completes");
        assert_eq!((recv.wr_id, Status(recv.status)), (50, Status::LOC_QP_OP_ERR));
        assert_eq!(recv.vendor_err, vendor::SGE_COUNT);
    }
}

#[test]
fn h10_rnr_waits_as_long_as_the_peer_asks_and_goes_on() {
    // Code 12: 640 us.
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.post(w, SendWr::send(1, &[pair.a.sge(0, 8)]));
    pair.a.post(w, SendWr::send(2, &[pair.a.sge(0, 8)]));
    w.run();
    pair.a.nothing(w);
    w.advance(Duration::from_micros(639));
    pair.b.post_recv(w, 50, 0, 8);
    pair.b.post_recv(w, 51, 0, 8);
    w.run();
    pair.a.nothing(w);
    pair.b.nothing(w);
    w.advance(Duration::from_micros(1));
    assert_eq!(pair.a.completion(w).wr_id, 1);
    assert_eq!(pair.a.completion(w).wr_id, 2);
    assert_eq!(pair.b.completion(w).wr_id, 50);
    assert_eq!(pair.b.completion(w).wr_id, 51);
    assert_eq!(pair.a.guest.counter(w, "rcvd_rnr_err"), 1);
    assert_eq!(pair.b.guest.counter(w, "send_rnr_err"), 1);
}

#[test]
fn h10_rnr_retry_exceeded() {
    // Three retries of 640 us after the first attempt.
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.post(w, SendWr::send(1, &[pair.a.sge(0, 8)]));
    w.advance(Duration::from_micros(3 * 640 - 1));
    pair.a.nothing(w);
    w.advance(Duration::from_micros(1));
    let cqe = pair.a.completion(w);
    assert_eq!((cqe.wr_id, Status(cqe.status)), (1, Status::RNR_RETRY_EXC_ERR));
    assert_eq!(pair.a.guest.state(w, pair.a.qp.qpn), QpState::ERR);
    assert_eq!(pair.b.guest.state(w, pair.b.qp.qpn), QpState::RTS);
    assert_eq!(pair.a.guest.counter(w, "rcvd_rnr_err"), 4);
    assert_eq!(pair.a.guest.counter(w, "retry_rnr_exceeded_err"), 1);
}

#[test]
fn h10_rnr_retries_of_seven_never_end() {
    let mut pair = way::pair(Default::default(), 8, |a| {
        a.rnr_retry = 7;
        a.min_rnr_timer = 1;
    });
    let w = &mut pair.world;
    pair.a
        .post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()).imm(9));
    w.advance(Duration::from_millis(20));
    pair.a.nothing(w);
    assert!(pair.a.guest.counter(w, "rcvd_rnr_err") > 1000);
    pair.b.post_recv(w, 50, 0, 0);
    w.advance(Duration::from_micros(10));
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(pair.b.completion(w).imm, 9);
}

#[test]
fn h10_the_rnr_counter_begins_anew_with_each_message() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for i in 0..5 {
        pair.a.post(w, SendWr::send(i, &[pair.a.sge(0, 8)]));
        // Two of three retries are used up each time.
        w.advance(Duration::from_micros(2 * 640 - 1));
        pair.b.post_recv(w, i, 0, 8);
        w.advance(Duration::from_micros(640));
        assert_eq!(pair.a.completion(w).status, 0, "message {i}");
        pair.b.completion(w);
    }
}

/// One try and its retries, with a timeout of 4.096 us * 2^14 each.
const TIMEOUT: Duration = Duration::from_nanos(4096 << 14);

fn silent_peer(silence: impl Fn(&mut Pair)) {
    let mut pair = way::connected();
    silence(&mut pair);
    let w = &mut pair.world;
    pair.a.post(w, write_to(&pair.a, &pair.b));
    w.advance(4 * TIMEOUT - Duration::from_nanos(1));
    pair.a.nothing(w);
    w.advance(Duration::from_nanos(1));
    let cqe = pair.a.completion(w);
    assert_eq!((cqe.wr_id, Status(cqe.status)), (1, Status::RETRY_EXC_ERR));
    assert_eq!(pair.a.guest.counter(w, "ack_timeouts"), 4);
    assert_eq!(pair.a.guest.counter(w, "retry_exceeded_err"), 1);
}

fn write_to(a: &verbena_engine::testing::End, b: &verbena_engine::testing::End) -> SendWr {
    SendWr::write(1, &[a.sge(0, 64)], b.addr(0), b.rkey())
}

#[test]
fn h10_retry_exceeded_when_the_peer_is_gone() {
    silent_peer(|pair| {
        let qpn = pair.b.qp.qpn.get();
        pair.b
            .guest
            .destroy(&mut pair.world, Admin::DESTROY_QP, qpn)
            .expect("gone");
    });
    silent_peer(|pair| pair.world.engine.reset_hca(pair.b.guest.hca));
    silent_peer(|pair| pair.world.engine.remove_hca(pair.b.guest.hca));
}

#[test]
fn h10_retry_exceeded_when_the_peer_is_in_the_wrong_state() {
    for state in [QpState::RESET, QpState::ERR] {
        silent_peer(|pair| {
            let qpn = pair.b.qp.qpn;
            pair.b
                .guest
                .modify_state(&mut pair.world, qpn, state)
                .expect("a transition");
        });
    }
}

#[test]
fn h10_retry_exceeded_when_a_port_is_down() {
    silent_peer(|pair| {
        let w = &mut pair.world;
        w.engine.set_link(pair.b.guest.hca, false, w.now, &w.env);
    });
    silent_peer(|pair| {
        let w = &mut pair.world;
        w.engine.set_link(pair.a.guest.hca, false, w.now, &w.env);
    });
}

#[test]
fn h10_retry_exceeded_when_the_sequences_disagree() {
    for (sq_psn, status) in [(0x100, "ahead"), (0xff_ff00, "behind")] {
        let mut pair = way::connected();
        let w = &mut pair.world;
        let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
        let qpn = pair.a.qp.qpn;
        pair.a.guest.modify_state(w, qpn, QpState::RESET).expect("reset");
        pair.a.qp.rewind(w);
        pair.a.connect(w, to_b, (sq_psn, 0x12), |_| {});
        pair.b.fill(w, 0, &[0x55; 64]);
        pair.a.post(w, write_to(&pair.a, &pair.b));
        w.advance(5 * TIMEOUT);
        assert_eq!(Status(pair.a.completion(w).status), Status::RETRY_EXC_ERR, "{status}");
        assert_eq!(pair.b.bytes(w, 0, 64), [0x55; 64], "{status}: not executed");
    }
}

/// One that has been written to, so that its peer knows it.
fn written_to() -> Pair {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for _ in 0..2 {
        pair.a.post(w, write_to(&pair.a, &pair.b));
        w.run();
        assert_eq!(Status(pair.a.completion(w).status), Status::SUCCESS);
    }
    pair.b.fill(w, 0, &[0x55; 64]);
    pair
}

#[test]
fn h10_retry_exceeded_when_the_peer_names_another_by_now() {
    let mut pair = written_to();
    let w = &mut pair.world;
    // On its own HCA: a packet says which GID it is from, but not which queue pair.
    let req = pair.b.guest.qp_request(w, &pair.b.cq, &pair.b.cq, Default::default());
    let other = pair.b.guest.create_qp(w, &req).expect("a queue pair").qpn;
    let (gid, qpn) = (pair.b.guest.gid(), pair.b.qp.qpn);
    pair.b.guest.modify_state(w, qpn, QpState::RESET).expect("reset");
    pair.b.qp.rewind(w);
    // It expects the very PSN that comes next.
    pair.b.connect(w, (gid, other), (0x12, 0), |_| {});
    pair.a.post(w, write_to(&pair.a, &pair.b));
    w.advance(5 * TIMEOUT);
    assert_eq!(Status(pair.a.completion(w).status), Status::RETRY_EXC_ERR);
    assert_eq!(pair.b.bytes(w, 0, 64), [0x55; 64], "not executed");
}

#[test]
fn h10_retry_exceeded_when_the_peer_is_another_one_in_its_place() {
    let mut pair = written_to();
    let w = &mut pair.world;
    pair.b
        .guest
        .destroy(w, Admin::DESTROY_QP, pair.b.qp.qpn.get())
        .expect("destroyed");
    let req = pair.b.guest.qp_request(w, &pair.b.cq, &pair.b.cq, Default::default());
    pair.b.qp = pair.b.guest.create_qp(w, &req).expect("a queue pair");
    let to_a = (pair.a.guest.gid(), pair.a.qp.qpn);
    pair.b.connect(w, to_a, (0x12, 0), |_| {});
    pair.a.post(w, write_to(&pair.a, &pair.b));
    w.advance(5 * TIMEOUT);
    assert_eq!(Status(pair.a.completion(w).status), Status::RETRY_EXC_ERR);
    assert_eq!(pair.b.bytes(w, 0, 64), [0x55; 64], "not executed");
}

#[test]
fn h10_a_timeout_of_zero_never_ends() {
    let mut pair = way::pair(Default::default(), 8, |a| a.timeout = 0);
    let w = &mut pair.world;
    w.engine.set_link(pair.b.guest.hca, false, w.now, &w.env);
    pair.a.post(w, write_to(&pair.a, &pair.b));
    w.advance(Duration::from_secs(3600));
    pair.a.nothing(w);
    // Only the consumer ends it.
    let qpn = pair.a.qp.qpn;
    pair.a.guest.modify_state(w, qpn, QpState::ERR).expect("a transition");
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::WR_FLUSH_ERR);
}

#[test]
fn h10_a_link_that_comes_back_in_time_loses_nothing() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.fill(w, 0, &[0x3c; 64]);
    w.engine.set_link(pair.b.guest.hca, false, w.now, &w.env);
    pair.a.post(w, write_to(&pair.a, &pair.b));
    w.advance(2 * TIMEOUT + TIMEOUT / 2);
    w.engine.set_link(pair.b.guest.hca, true, w.now, &w.env);
    w.advance(TIMEOUT);
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(pair.b.bytes(w, 0, 64), [0x3c; 64]);
}

#[test]
fn h10_a_long_message_goes_on_where_the_link_was_cut() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i >> 3) as u8).collect();
    pair.a.fill(w, 0, &data);
    pair.b.post_recv(w, 50, 0, 1 << 20);
    pair.a.post(w, SendWr::send(1, &[pair.a.sge(0, 1 << 20)]));
    w.poll();
    w.poll();
    w.engine.set_link(pair.b.guest.hca, false, w.now, &w.env);
    w.advance(TIMEOUT / 2);
    w.engine.set_link(pair.b.guest.hca, true, w.now, &w.env);
    w.advance(TIMEOUT);
    assert_eq!(pair.a.completion(w).status, 0);
    let cqe = pair.b.completion(w);
    assert_eq!((cqe.wr_id, cqe.byte_len), (50, 1 << 20));
    assert_eq!(pair.b.bytes(w, 0, 1 << 20), data);
    assert_eq!(pair.b.guest.counter(w, "rcvd_bytes"), 1 << 20);
}

#[test]
fn h10_err_flushes_everything_in_order_on_both_queues() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    for i in 0..20 {
        pair.a.post_recv(w, 100 + i, 0, 8);
        pair.a
            .qp
            .post_quietly(w, SendWr::send(i, &[pair.a.sge(0, 8)]).unsignaled());
    }
    // The first send waits for a receive when the queue pair is taken to ERR.
    pair.a.qp.ring(w);
    w.run();
    let qpn = pair.a.qp.qpn;
    pair.a.guest.modify_state(w, qpn, QpState::ERR).expect("a transition");
    w.run();
    let all = pair.a.cq.drain(w);
    assert!(all.iter().all(|c| c.status == Status::WR_FLUSH_ERR.0));
    let of = |recv| -> Vec<_> {
        all.iter()
            .filter(|c| (c.flags & flags::RECV != 0) == recv)
            .map(|c| c.wr_id)
            .collect()
    };
    assert_eq!(of(false), (0..20).collect::<Vec<_>>());
    assert_eq!(of(true), (100..120).collect::<Vec<_>>());
    assert_eq!(pair.a.guest.counter(w, "flushed_wrs"), 40);
}

#[test]
fn h10_work_posted_in_err_is_flushed_too() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let qpn = pair.a.qp.qpn;
    pair.a.guest.modify_state(w, qpn, QpState::ERR).expect("a transition");
    w.run();
    // A send rings.
    pair.a.post(w, SendWr::send(1, &[]));
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 1);
    // A receive that its driver rings for is flushed at once.
    pair.a.post_recv(w, 2, 0, 8);
    pair.a.qp.ring(w);
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 2);
    // One that rings nothing is found by and by.
    pair.a.post_recv(w, 3, 0, 8);
    w.run();
    pair.a.nothing(w);
    w.advance(Duration::from_secs(2));
    let cqe = pair.a.completion(w);
    assert_eq!((cqe.wr_id, Status(cqe.status)), (3, Status::WR_FLUSH_ERR));
}

#[test]
fn h10_a_flush_longer_than_a_budget_goes_on() {
    let shape = verbena_engine::testing::QpShape {
        sq_log: 10,
        rq_log: 10,
        sq_log_stride: 6,
        rq_log_stride: 5,
        max_sge: 1,
        max_inline: 0,
    };
    let mut pair = way::pair(shape, 12, |_| {});
    let w = &mut pair.world;
    for i in 0..1024 {
        pair.a.qp.post_quietly(w, SendWr::send(i, &[]));
        pair.a.qp.post_recv(w, RecvWr::new(i, &[]));
    }
    let qpn = pair.a.qp.qpn;
    pair.a.guest.modify_state(w, qpn, QpState::ERR).expect("a transition");
    w.run();
    assert_eq!(pair.a.cq.drain(w).len(), 2048);
}

#[test]
fn h10_reset_forgets_what_is_outstanding() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.post(w, SendWr::send(1, &[pair.a.sge(0, 8)]));
    w.run();
    let qpn = pair.a.qp.qpn;
    pair.a.guest.modify_state(w, qpn, QpState::RESET).expect("reset");
    w.advance(Duration::from_secs(10));
    pair.a.nothing(w);
    // And it connects again, in step with the peer that has stayed.
    pair.a.qp.rewind(w);
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    pair.a.connect(w, to_b, (0xff_fffe, 0x12), |_| {});
    pair.a.post(w, write_to(&pair.a, &pair.b));
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
}

#[test]
fn h10_comm_est_is_raised_once_when_a_message_arrives_in_rtr() {
    let mut w = way::world(1);
    let mut a = verbena_engine::testing::End::new(&mut w, Default::default(), 6);
    let mut b = verbena_engine::testing::End::new(&mut w, Default::default(), 6);
    let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
    a.connect(&mut w, to_b, (1, 2), |_| {});
    for (mask, attrs) in [attrs::init(), attrs::rtr(to_a.0, to_a.1, 1)] {
        b.guest.modify(&mut w, b.qp.qpn, mask, attrs).expect("a transition");
    }
    for i in 0..3 {
        b.post_recv(&mut w, i, 0, 8);
        a.post(&mut w, SendWr::send(i, &[]));
    }
    w.run();
    let events: Vec<_> = b.guest.events(&mut w).iter().map(|e| (e.event, e.number)).collect();
    assert_eq!(events, [(Event::COMM_EST.0, b.qp.qpn.get())]);
    assert_eq!(b.cq.drain(&w).len(), 3);
}

#[test]
fn h10_different_mtus_are_an_invalid_request_once_a_packet_is_too_long() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    let qpn = pair.a.qp.qpn;
    pair.a.guest.modify_state(w, qpn, QpState::RESET).expect("reset");
    pair.a.connect(w, to_b, (0xff_fffe, 0x12), |a| a.path_mtu = 5);
    let short = SendWr::write(1, &[pair.a.sge(0, 1024)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, short);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    let long = SendWr::write(2, &[pair.a.sge(0, 1025)], pair.b.addr(0), pair.b.rkey());
    let after = failing(&mut pair, long);
    assert_eq!(Status(after.own.status), Status::REM_INV_REQ_ERR);
}

#[test]
fn h10_memory_unmapped_under_traffic() {
    // A guest takes the memory of a region away, without telling the device.
    let region = |pair: &mut Pair, of_b: bool| {
        let end = if of_b { &mut pair.b } else { &mut pair.a };
        let hca = end.guest.hca;
        pair.world.ram_mut(hca).map(0x8000_0000, 1 << 20, true);
        let mr = end
            .guest
            .mr(
                &mut pair.world,
                0x8000_0000,
                1 << 20,
                access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ,
            )
            .expect("a region");
        pair.world.ram_mut(hca).unmap(0x8000_0000);
        mr
    };
    // The target of a WRITE and the source of a READ.
    for read in [false, true] {
        let mut pair = way::connected();
        let mr = region(&mut pair, true);
        let sge = pair.a.sge(0, 64);
        let wr = if read {
            SendWr::read(1, &[sge], mr.addr, mr.rkey)
        } else {
            SendWr::write(1, &[sge], mr.addr, mr.rkey)
        };
        let after = failing(&mut pair, wr);
        assert_eq!(Status(after.own.status), Status::REM_OP_ERR);
        assert_eq!(after.events, [(Event::QP_FATAL, vendor::UNREACHABLE.into())]);
    }
    // The source of a SEND.
    let mut pair = way::connected();
    pair.b.post_recv(&mut pair.world, 50, 0, 64);
    let mr = region(&mut pair, false);
    let sge = Sge {
        addr: mr.addr,
        len: 64,
        lkey: mr.lkey,
    };
    let after = failing(&mut pair, SendWr::send(1, &[sge]));
    assert_eq!(Status(after.own.status), Status::LOC_PROT_ERR);
    assert_eq!(after.own.vendor_err, vendor::UNREACHABLE);
    // The target of a receive.
    let mut pair = way::connected();
    let mr = region(&mut pair, true);
    let sge = Sge {
        addr: mr.addr,
        len: 64,
        lkey: mr.lkey,
    };
    pair.b.qp.post_recv(&pair.world, RecvWr::new(50, &[sge]));
    let wr = SendWr::send(1, &[pair.a.sge(0, 64)]);
    let after = failing(&mut pair, wr);
    assert_eq!(Status(after.own.status), Status::REM_OP_ERR);
    assert_eq!(Status(after.peer.expect("a completion").status), Status::LOC_PROT_ERR);
}

#[test]
fn h10_a_sender_whose_memory_goes_in_mid_message_leaves_the_receive_to_its_owner() {
    let mut pair = way::connected();
    let (here, there) = (pair.a.guest.hca, pair.b.guest.hca);
    // A megabyte, of which the second half goes away.
    let half = 1 << 19;
    for at in [0x8000_0000, 0x8000_0000 + half as u64] {
        pair.world.ram_mut(here).map(at, half, true);
    }
    let rights = access::LOCAL_WRITE;
    let mr = pair.a.guest.mr(&mut pair.world, 0x8000_0000, 1 << 20, rights);
    let mr = mr.expect("a region");
    pair.world.ram(here).write(mr.addr, &[5; 64]);
    pair.world.ram_mut(here).unmap(0x8000_0000 + half as u64);
    pair.b.post_recv(&mut pair.world, 50, 0, 1 << 20);
    let sge = Sge {
        addr: mr.addr,
        len: 1 << 20,
        lkey: mr.lkey,
    };
    let after = failing(&mut pair, SendWr::send(1, &[sge]));
    assert_eq!(Status(after.own.status), Status::LOC_PROT_ERR);
    assert_eq!(after.own.vendor_err, vendor::UNREACHABLE);
    // Nobody tells b: its receive has a beginning, and
    // waits for the rest until b gives up.
    assert_eq!((after.peer, after.events), (None, vec![]));
    assert_eq!(pair.world.ram(there).read(pair.b.addr(0), 64), [5; 64]);
    let w = &mut pair.world;
    assert_eq!(pair.b.guest.state(w, pair.b.qp.qpn), QpState::RTS);
    pair.b
        .guest
        .modify_state(w, pair.b.qp.qpn, QpState::ERR)
        .expect("a transition");
    w.run();
    let flushed = pair.b.completion(w);
    assert_eq!((flushed.wr_id, Status(flushed.status)), (50, Status::WR_FLUSH_ERR));
}

#[test]
fn h10_a_region_deregistered_in_mid_message_is_touched_no_more() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.a.fill(w, 0, &vec![0x11; 1 << 20]);
    let wr = SendWr::write(1, &[pair.a.sge(0, 1 << 20)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.poll();
    let index = pair.b.mr.lkey.index();
    pair.b.guest.destroy(w, Admin::DESTROY_MR, index).expect("gone");
    pair.b.fill(w, 0, &vec![0; 1 << 20]);
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::REM_ACCESS_ERR);
    assert_eq!(pair.b.bytes(w, 0, 1 << 20), vec![0; 1 << 20]);
}

#[test]
fn h10_a_send_ring_that_vanishes_is_an_event_and_an_error() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    w.ram_mut(hca).map(0x9000_0000, 1 << 16, true);
    let g = &mut pair.a.guest;
    let mut req = g.qp_request(w, &pair.a.cq, &pair.a.cq, Default::default());
    req.sq.addr = 0x9000_0000;
    pair.a.qp = g.create_qp(w, &req).expect("a queue pair");
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    pair.a.connect(w, to_b, (1, 1), |_| {});
    w.ram_mut(hca).unmap(0x9000_0000);
    pair.a.qp.ring(w);
    w.run();
    let events = pair.a.guest.events(w);
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].event, events[0].number, events[0].data),
        (Event::QP_FATAL.0, pair.a.qp.qpn.get(), vendor::RING_UNREACHABLE.into())
    );
    assert_eq!(pair.a.guest.state(w, pair.a.qp.qpn), QpState::ERR);
}

#[test]
fn h10_solicited_is_carried_to_the_peer() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    pair.b.post_recv(w, 1, 0, 8);
    pair.b.post_recv(w, 2, 0, 8);
    pair.a.post(w, SendWr::send(1, &[]).flags(send_flags::SOLICITED));
    pair.a.post(w, SendWr::send(2, &[]));
    w.run();
    assert_ne!(pair.b.completion(w).flags & flags::SOLICITED, 0);
    assert_eq!(pair.b.completion(w).flags & flags::SOLICITED, 0);
}

#[test]
fn h10_attributes_changed_in_rts_take_effect() {
    // A longer RNR timer on the responder's side.
    let mut pair = way::connected();
    let w = &mut pair.world;
    let longer = QpAttrs {
        min_rnr_timer: 20,
        ..QpAttrs::default()
    };
    let qpn = pair.b.qp.qpn;
    pair.b
        .guest
        .modify(w, qpn, attr::MIN_RNR_TIMER, longer)
        .expect("a change");
    pair.a.post(w, SendWr::send(1, &[]));
    w.run();
    pair.b.post_recv(w, 1, 0, 8);
    // Code 20: 10.24 ms.
    w.advance(Duration::from_micros(10_239));
    pair.a.nothing(w);
    w.advance(Duration::from_micros(1));
    assert_eq!(pair.a.completion(w).status, 0);
}
