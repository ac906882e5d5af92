// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets from whoever can reach the port: any bytes, and headers that are nearly right. Nothing panics, and a connection
//! whose peer they are not from works on.

use crate::unreliable::RTR;
use core::time::Duration;
use proptest::prelude::*;
use verbena_engine::testing::{attrs, seal, Guest, NetPair, Qp, QpShape, SendWr};
use verbena_hw::cqe::Status;
use verbena_hw::grh::{Grh, Route};
use verbena_hw::id::{Gid, Psn, Qpn};
use verbena_hw::qp::{attr, QpType};
use verbena_hw::wire::{Bth, PacketOpcode, Udp, DEFAULT_PKEY, UDP_PORT};
use zerocopy::IntoBytes;

/// A packet that somebody made up.
#[derive(Clone, Debug)]
struct MadeUp {
    opcode: u8,
    flags: u8,
    /// Which of the queue pairs, or a number that is none's.
    qp: u8,
    /// From where its sequence is.
    ahead: i8,
    ack: bool,
    pkey: bool,
    /// From a stranger.
    stranger: bool,
    group: bool,
    /// Headers and data, in which some bytes are what b's region has.
    body: Vec<u8>,
    key_at: Option<u8>,
    /// The checksum is wrong.
    broken: bool,
    cut: Option<u8>,
}

fn made_up() -> impl Strategy<Value = MadeUp> {
    let opcode = prop_oneof![
        6 => (0..PacketOpcode::ALL.len()).prop_map(|i| PacketOpcode::ALL[i].0.0),
        1 => any::<u8>(),
    ];
    let body = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..64),
        1 => prop::collection::vec(Just(0u8), 0..4200),
        1 => Just(vec![1; 1024]),
        1 => Just(vec![1; 1024 + 16]),
    ];
    let rare = |n: u32| (0..n).prop_map(|n| n == 0);
    (
        (
            opcode,
            prop_oneof![Just(0x40u8), any::<u8>()],
            0u8..6,
            prop_oneof![5 => Just(0i8), 2 => any::<i8>()],
        ),
        (
            any::<bool>(),
            rare(20),
            rare(10),
            rare(10),
            body,
            prop::option::of(0u8..24),
            rare(20),
            prop::option::weighted(0.05, any::<u8>()),
        ),
    )
        .prop_map(
            |((opcode, flags, qp, ahead), (ack, pkey, stranger, group, body, key_at, broken, cut))| MadeUp {
                opcode,
                flags,
                qp,
                ahead,
                ack,
                pkey,
                stranger,
                group,
                body,
                key_at,
                broken,
                cut,
            },
        )
}

/// b has, beside its connection, a queue pair of each kind that a knows the numbers of.
struct Scene {
    pair: NetPair,
    victims: Vec<Qp>,
}

fn scene() -> Scene {
    let mut pair = NetPair::connected();
    let (to, gid) = (pair.a.qp.qpn, pair.a.guest.gid());
    let guest: &mut Guest = &mut pair.b.guest;
    let w = &mut pair.net.b;
    let kinds = [QpType::RC, QpType::UC, QpType::UD, QpType::GSI];
    let victims = kinds.map(|kind| {
        let mut req = guest.qp_request(w, &pair.b.cq, &pair.b.cq, QpShape::default());
        req.qp_type = kind;
        let qp = guest.create_qp(w, &req).expect("a queue pair");
        let steps = match kind {
            QpType::UD => attrs::datagram(kind, 0x1111).to_vec(),
            QpType::GSI => attrs::datagram(kind, verbena_hw::qp::GSI_QKEY).to_vec(),
            QpType::UC => vec![
                attrs::init(),
                (RTR, attrs::rtr(gid, to, 100).1),
                (attr::STATE | attr::SQ_PSN, attrs::rts(100).1),
            ],
            _ => vec![attrs::init(), attrs::rtr(gid, to, 100), attrs::rts(100)],
        };
        for (mask, attrs) in steps {
            guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
        }
        qp
    });
    let mut scene = Scene {
        pair,
        victims: victims.into_iter().collect(),
    };
    for n in 0..4 {
        for victim in &mut scene.victims {
            let sge = scene.pair.b.sge(0x1000 * n, 2048);
            let wr = verbena_engine::testing::RecvWr::new(n, &[sge]);
            victim.post_recv(&scene.pair.net.b, wr);
        }
    }
    // Something is in flight, so that responses have something to be about: nobody acknowledges it.
    let (there, rkey) = (scene.pair.a.addr(0), scene.pair.a.rkey());
    let victim = &mut scene.victims[0];
    let own = |len| scene.pair.b.sge(0, len);
    victim.post_quietly(&scene.pair.net.b, SendWr::send(1, &[own(3000)]));
    victim.post_quietly(&scene.pair.net.b, SendWr::read(2, &[own(3000)], there, rkey));
    victim.post(&scene.pair.net.b, SendWr::fetch_add(3, own(8), there, rkey, 1));
    scene.pair.net.b.run();
    while scene.pair.net.b.engine.transmit().is_some() {}
    scene
}

impl Scene {
    fn bytes(&self, made_up: &MadeUp) -> Vec<u8> {
        let b = &self.pair.b;
        let qpn = match made_up.qp {
            0..=3 => self.victims[usize::from(made_up.qp)].qpn,
            4 if made_up.group => Qpn::MULTICAST,
            4 => Qpn::GSI,
            _ => Qpn::truncate(0x77_7777),
        };
        let psn = Psn::truncate(100).add(made_up.ahead as u32);
        let mut bth = Bth::new(PacketOpcode(made_up.opcode), qpn, psn);
        bth.flags = made_up.flags & !Bth::PAD;
        bth.pkey = if made_up.pkey { 0x1234 } else { DEFAULT_PKEY }.into();
        if made_up.ack {
            bth.psn = (bth.psn.get() | Bth::ACK_REQUEST).into();
        }
        let mut body = made_up.body.clone();
        body.resize(body.len().next_multiple_of(4), 0);
        // Somewhere in the headers, what a RETH or an AtomicETH has: an address, a key, a length.
        if let Some(at) = made_up.key_at.map(usize::from) {
            let mut reth = b.addr(0).to_be_bytes().to_vec();
            reth.extend(b.rkey().0.to_be_bytes());
            reth.extend((body.len() as u32).saturating_sub(16).to_be_bytes());
            let at = at / 4 * 4 % 12;
            if body.len() >= at + reth.len() {
                body[at..at + reth.len()].copy_from_slice(&reth);
            }
        }
        let mut sgid = self.pair.a.guest.gid();
        if made_up.stranger {
            sgid = Gid::link_local([2, 9, 9, 9, 9, 9]);
        }
        let mut dgid = b.guest.gid();
        if made_up.group {
            dgid.0[0] = 0xff;
        }
        let route = Route {
            sgid,
            dgid,
            hop_limit: 64,
            ..Route::default()
        };
        let length = (8 + 12 + body.len() + 4) as u16;
        let udp = Udp {
            source: 0xc000.into(),
            destination: UDP_PORT.into(),
            length: length.into(),
            checksum: 0.into(),
        };
        let ip = Grh::of(&route, length);
        let mut bytes = [ip.on_the_wire(), udp.as_bytes(), bth.as_bytes(), &body, &[0; 4]].concat();
        seal(&mut bytes);
        if made_up.broken {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        if let Some(cut) = made_up.cut {
            bytes.truncate(usize::from(cut));
        }
        bytes
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn h14_packet_nobody_elses_packets_break_a_connection(packets in prop::collection::vec(made_up(), 1..200)) {
        let mut scene = scene();
        for (n, made_up) in packets.iter().enumerate() {
            let bytes = scene.bytes(made_up);
            let w = &mut scene.pair.net.b;
            w.engine.receive(&bytes, w.now, &w.env);
            if n % 3 == 0 {
                w.poll();
                while w.engine.transmit().is_some() {}
            }
            scene.pair.b.cq.drain(&scene.pair.net.b);
            scene.pair.b.guest.events(&mut scene.pair.net.b);
        }
        scene.pair.net.b.advance(Duration::from_secs(2));
        while scene.pair.net.b.engine.transmit().is_some() {}
        scene.pair.b.cq.drain(&scene.pair.net.b);
        // The connection that is a's and b's.
        let pair = &mut scene.pair;
        pair.net.a.now = pair.net.b.now;
        pair.a.fill(&mut pair.net.a, 0, b"still here");
        pair.b.post_recv(&mut pair.net.b, 77, 0x8000, 64);
        pair.a.post(&mut pair.net.a, SendWr::send(7, &[pair.a.sge(0, 10)]));
        pair.net.run();
        let sent = pair.a.completion(&pair.net.a);
        prop_assert_eq!((sent.wr_id, Status(sent.status)), (7, Status::SUCCESS));
        let received = pair.b.completion(&pair.net.b);
        prop_assert_eq!((received.wr_id, received.byte_len), (77, 10));
        prop_assert_eq!(pair.b.bytes(&pair.net.b, 0x8000, 10), b"still here");
    }

    #[test]
    fn h14_packet_any_bytes_are_no_harm(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..128), 0..100)) {
        let mut scene = scene();
        let w = &mut scene.pair.net.b;
        for bytes in &all {
            w.engine.receive(bytes, w.now, &w.env);
        }
        w.run();
        prop_assert_eq!(scene.pair.b.cq.drain(&scene.pair.net.b), vec![]);
    }
}
