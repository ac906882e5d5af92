// SPDX-License-Identifier: MIT OR Apache-2.0
//! H14: what one guest knows of another gives it nothing.

use crate::way;
use core::time::Duration;
use verbena_engine::testing::{End, Pair, QpShape, SendWr};
use verbena_hw::admin::Opcode;
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::qp::QpState;

/// A third guest that knows everything about the connection between the other two.
fn intruder(pair: &mut Pair) -> End {
    End::new(&mut pair.world, QpShape::default(), 6)
}

#[test]
fn h14_a_third_party_that_names_a_connected_queue_pair_hears_nothing() {
    let mut pair = way::connected();
    let mut c = intruder(&mut pair);
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    // The very PSN that b expects, the very key and address.
    c.connect(&mut pair.world, to_b, (0xff_fffe, 0x12), |_| {});
    let w = &mut pair.world;
    pair.b.fill(w, 0, &[0x42; 64]);
    pair.b.post_recv(w, 5, 64, 64);
    c.post(w, SendWr::write(1, &[c.sge(0, 64)], pair.b.addr(0), pair.b.rkey()));
    w.advance(Duration::from_secs(1));
    let cqe = c.completion(w);
    assert_eq!(Status(cqe.status), Status::RETRY_EXC_ERR);
    assert_eq!(pair.b.bytes(w, 0, 64), [0x42; 64]);
    // The connection is as it was.
    pair.a.post(w, SendWr::send(9, &[pair.a.sge(0, 8)]));
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(pair.b.completion(w).wr_id, 5);
}

#[test]
fn h14_the_same_number_in_another_hca_is_not_the_peer() {
    // c's queue pair has the number of a's, and b expects that number, but from a.
    let mut pair = way::connected();
    let mut c = intruder(&mut pair);
    assert_eq!(c.qp.qpn, pair.a.qp.qpn, "numbers repeat from HCA to HCA");
    let to_b = (pair.b.guest.gid(), pair.b.qp.qpn);
    c.connect(&mut pair.world, to_b, (0xff_fffe, 0x12), |a| a.timeout = 1);
    let w = &mut pair.world;
    c.post(w, SendWr::write(1, &[c.sge(0, 8)], pair.b.addr(0), pair.b.rkey()));
    w.advance(Duration::from_millis(1));
    assert_eq!(Status(c.completion(w).status), Status::RETRY_EXC_ERR);
    assert_eq!(pair.b.guest.state(w, pair.b.qp.qpn), QpState::RTS);
}

#[test]
fn h14_keys_of_one_hca_mean_nothing_in_another() {
    let mut pair = way::connected();
    let c = intruder(&mut pair);
    let w = &mut pair.world;
    assert_ne!(c.mr.rkey, pair.b.mr.rkey);
    let wr = SendWr::write(1, &[pair.a.sge(0, 8)], c.mr.addr, c.mr.rkey);
    pair.a.post(w, wr);
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::REM_ACCESS_ERR);
    let events = pair.b.guest.events(w);
    assert_eq!(events[0].data, u64::from(vendor::KEY_UNKNOWN));
}

#[test]
fn h14_numbers_of_another_hca_name_nothing() {
    let mut pair = way::connected();
    // b makes things that a has not.
    let extra = pair.b.guest.cq(&mut pair.world, 4);
    let w = &mut pair.world;
    let handle = extra.cqn.get();
    assert!(pair.a.guest.destroy(w, Opcode::DESTROY_CQ, handle).is_err());
    let index = pair.b.mr.lkey.index();
    assert!(pair.a.guest.destroy(w, Opcode::DESTROY_MR, index).is_err());
    pair.b
        .guest
        .destroy(w, Opcode::DESTROY_CQ, handle)
        .expect("it is still there");
}

#[test]
fn h14_a_doorbell_page_rings_only_its_own_slots() {
    let mut pair = way::connected();
    let w = &mut pair.world;
    let addr = w.ram_mut(pair.a.guest.hca).alloc(4096);
    let req = verbena_hw::cmd::CreateDoorbellReq { addr };
    let other = pair.a.guest.create(w, Opcode::CREATE_DOORBELL, &req).expect("a page");
    pair.a
        .qp
        .post_quietly(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    // The same slot number on another page of the same HCA, in memory and by register.
    w.ram(pair.a.guest.hca).write(addr + 0x80, &u64::MAX.to_le_bytes());
    w.ram(pair.a.guest.hca).write(addr + 0x40, &u64::MAX.to_le_bytes());
    w.engine
        .write_doorbell(pair.a.guest.hca, u64::from(other) * 4096, 4, pair.a.qp.slot.into());
    w.run();
    pair.a.nothing(w);
    pair.a.qp.ring(w);
    w.run();
    assert_eq!(pair.a.completion(w).wr_id, 1);
}

#[test]
fn h14_a_dump_does_not_give_keys_away() {
    let pair = way::connected();
    let text = serde_json::to_string(&pair.world.engine.dump(None, pair.world.now, &pair.world.env)).expect("JSON");
    for key in [pair.a.mr.lkey, pair.b.mr.lkey] {
        assert!(!text.contains(&key.0.to_string()));
    }
}

#[test]
fn h14_another_seed_gives_other_keys() {
    let keys = |seed| {
        let mut w = way::world(seed);
        End::new(&mut w, QpShape::default(), 4).mr.lkey
    };
    assert_eq!(keys(3), keys(3));
    assert_ne!(keys(3), keys(4));
}

#[test]
fn h14_a_guest_cannot_keep_another_hca_out_by_taking_its_gid() {
    let mut w = way::world(1);
    let mut squatter = End::new(&mut w, QpShape::default(), 4);
    let gid = verbena_hw::id::Gid::link_local([0x02, 0x56, 0x42, 0, 0, 2]);
    let req = verbena_hw::cmd::SetGidReq {
        index: 3,
        reserved: 0,
        gid,
    };
    squatter
        .guest
        .command::<[u8; 0]>(&mut w, Opcode::SET_GID, &req)
        .expect("nobody has it yet");
    let owner = End::new(&mut w, QpShape::default(), 4);
    assert_eq!(owner.guest.gid(), gid);
    let req = verbena_hw::cmd::QueryGidReq { index: 3, reserved: 0 };
    let rsp: verbena_hw::cmd::QueryGidRsp = squatter
        .guest
        .command(&mut w, Opcode::QUERY_GID, &req)
        .expect("the entry");
    assert!(rsp.gid.is_zero());
}
