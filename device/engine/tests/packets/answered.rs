// SPDX-License-Identifier: MIT OR Apache-2.0
//! H10 and H11: what only packets have: a response that is wrong, and how many there were.

use crate::way;
use verbena_engine::testing::{seal, NetPair, SendWr};
use verbena_hw::cqe::Status;
use verbena_hw::grh::{Grh, Route};
use verbena_hw::wire::{Aeth, Bth, PacketOpcode, Udp, UDP_PORT};
use zerocopy::IntoBytes;

/// a READs 64 bytes, and is answered with 32.
#[test]
fn h10_packet_a_response_of_a_wrong_length() {
    let mut pair = NetPair::connected();
    let (addr, rkey) = (pair.b.addr(0), pair.b.rkey());
    let wr = SendWr::read(1, &[pair.a.sge(0, 64)], addr, rkey);
    pair.a.post(&mut pair.net.a, wr);
    pair.net.a.run();
    while pair.net.a.engine.transmit().is_some() {}
    let psn = verbena_hw::id::Psn::truncate(0xff_fffe);
    let bth = Bth::new(PacketOpcode::RC_READ_RESPONSE_ONLY, pair.a.qp.qpn, psn);
    let aeth = Aeth::new(Aeth::ACK | Aeth::NO_CREDITS, 1);
    let route = Route {
        sgid: pair.b.guest.gid(),
        dgid: pair.a.guest.gid(),
        hop_limit: 64,
        ..Route::default()
    };
    let length = (8 + 12 + 4 + 32 + 4) as u16;
    let udp = Udp {
        source: 0xc000.into(),
        destination: UDP_PORT.into(),
        length: length.into(),
        checksum: 0.into(),
    };
    let ip = Grh::of(&route, length);
    let mut bytes = [
        ip.on_the_wire(),
        udp.as_bytes(),
        bth.as_bytes(),
        aeth.as_bytes(),
        &[7; 32],
        &[0; 4],
    ]
    .concat();
    seal(&mut bytes);
    let w = &mut pair.net.a;
    w.engine.receive(&bytes, w.now, &w.env);
    w.run();
    assert_eq!(Status(pair.a.completion(w).status), Status::BAD_RESP_ERR);
}

#[test]
fn h11_packets_and_refused_requests_are_counted() {
    let mut pair = way::connected();
    let before = ["sent_pkts", "rcvd_pkts"].map(|name| pair.a.guest.counter(&mut pair.world, name));
    // Three packets there, an acknowledgement back.
    let wr = SendWr::write(1, &[pair.a.sge(0, 2049)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(&mut pair.world, wr);
    pair.world.run();
    let w = &mut pair.world;
    let after = ["sent_pkts", "rcvd_pkts"].map(|name| pair.a.guest.counter(w, name));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [3, 1]);
    let refused = SendWr::fetch_add(2, pair.a.sge(0, 8), pair.b.addr(4), pair.b.rkey(), 1);
    pair.a.post(w, refused);
    w.run();
    assert_eq!(pair.b.guest.counter(w, "invalid_req_err"), 1);
    assert_eq!(pair.a.guest.counter(w, "invalid_req_err"), 0);
}
